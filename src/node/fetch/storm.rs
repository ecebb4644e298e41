//! The door in virtual time: hosts that answer, hang or are dead, questions by the thousand, and a clock that only this file moves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::cache::{Entry, Source};
use super::door::{Answers, Brought, Door, Moment};
use super::*;
use crate::node::clock;

const UNIX: i64 = 1_795_219_200;
const MS: Duration = Duration::from_millis(1);

/// What a host does with a question.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Behaviour {
    Answers(Duration),
    /// Holds the socket until the fetch gives up.
    Hangs,
    /// Refuses connections.
    Dead,
}

/// An answer as it came: to whom, after how long, and what.
#[derive(Debug)]
struct Heard {
    after: Duration,
    result: Result<Chain, FetchError>,
}

/// A simulated network around a door.
struct World {
    config: Config,
    door: Door<u32>,
    counts: Arc<Counts>,
    start: Instant,
    now: Duration,
    hosts: Vec<Behaviour>,
    /// Fetches under way, by when they end.
    ends: BinaryHeap<Reverse<(Duration, u64)>>,
    results: BTreeMap<u64, (Arc<str>, Result<Brought, FetchError>)>,
    begun: u64,
    /// Fetches begun, by host.
    fetches: BTreeMap<usize, u32>,
    asked: BTreeMap<u32, Duration>,
    heard: BTreeMap<u32, Heard>,
    next_id: u32,
    not_after: i64,
    fresh: Option<Duration>,
}

impl World {
    fn new(config: Config, hosts: Vec<Behaviour>) -> Self {
        let counts = Arc::new(Counts::default());
        Self {
            door: Door::new(config.clone(), Arc::clone(&counts)),
            config,
            counts,
            start: clock::instant(),
            now: Duration::ZERO,
            hosts,
            ends: BinaryHeap::new(),
            results: BTreeMap::new(),
            begun: 0,
            fetches: BTreeMap::new(),
            asked: BTreeMap::new(),
            heard: BTreeMap::new(),
            next_id: 0,
            not_after: UNIX + 30 * 86_400,
            fresh: Some(Duration::from_secs(3600)),
        }
    }

    fn moment(&self) -> Moment {
        Moment { instant: self.start + self.now, unix: UNIX + self.now.as_secs() as i64 }
    }

    fn url(host: usize, path: &str) -> String {
        format!("https://h{host}.example/{path}")
    }

    fn hear(&mut self, answers: Answers<u32>) {
        for (id, result) in answers {
            let after = self.now - self.asked[&id];
            assert!(self.heard.insert(id, Heard { after, result }).is_none(), "{id} is answered twice");
        }
    }

    fn ask(&mut self, url: &str) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.asked.insert(id, self.now);
        let deadline = self.start + self.now + 500 * MS;
        let answer = self.door.ask(self.moment(), url, id, deadline);
        self.hear(answer.into_iter().collect());
        self.begin();
        id
    }

    fn begin(&mut self) {
        let mut answers = Vec::new();
        while let Some(job) = self.door.next_job(self.moment(), &mut answers) {
            let host: usize = job.target.host[1..].split('.').next().unwrap().parse().unwrap();
            *self.fetches.entry(host).or_default() += 1;
            let (takes, result) = match self.hosts[host] {
                Behaviour::Answers(takes) => (takes, Ok(self.chain())),
                Behaviour::Hangs => (self.config.total_timeout, Err(FetchError::Timeout)),
                Behaviour::Dead => (MS, Err(FetchError::Connect(io::ErrorKind::ConnectionRefused))),
            };
            self.ends.push(Reverse((self.now + takes, self.begun)));
            self.results.insert(self.begun, (job.url, result));
            self.begun += 1;
        }
        self.hear(answers);
    }

    fn chain(&self) -> Brought {
        let certificates = Arc::new([vec![0x30; 700], vec![0x30; 700]]);
        Brought { certificates, fresh: self.fresh, not_after: self.not_after, is_trusted: true }
    }

    /// Lets time pass; fetches end, and the door looks at the time every 250 ms.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let tick = Duration::from_millis((self.now.as_millis() as u64 / 250 + 1) * 250);
            let fetched = self.ends.peek().map_or(end, |Reverse((at, _))| *at);
            let next = fetched.min(tick).min(end);
            self.now = next;
            while self.ends.peek().is_some_and(|Reverse((at, _))| *at <= next) {
                let Reverse((_, number)) = self.ends.pop().unwrap();
                let (url, result) = self.results.remove(&number).unwrap();
                let answers = self.door.finish(self.moment(), &url, result);
                self.hear(answers);
                self.begin();
            }
            if next == tick {
                let mut answers = Vec::new();
                self.door.tick(self.moment(), &mut answers);
                self.hear(answers);
                self.begin();
            }
            if next == end {
                return;
            }
        }
    }

    fn result(&self, id: u32) -> &Result<Chain, FetchError> {
        &self.heard.get(&id).unwrap_or_else(|| panic!("{id} is not answered")).result
    }

    fn fetched(&self, host: usize) -> u32 {
        self.fetches.get(&host).copied().unwrap_or(0)
    }
}

#[test]
fn many_who_ask_at_once_cost_one_fetch() {
    let mut world = World::new(Config::default(), vec![Behaviour::Answers(100 * MS)]);
    let url = World::url(0, "a");
    let ids: Vec<u32> = (0..50).map(|_| world.ask(&url)).collect();
    world.pass(100 * MS);
    assert!(ids.iter().all(|id| world.result(*id).is_ok()));
    assert_eq!((world.fetched(0), world.counts.misses.get(), world.counts.fetches.get()), (1, 50, 1));
    let warm = world.ask(&url);
    assert_eq!(world.heard[&warm].after, Duration::ZERO, "it is in the cache");
    assert_eq!(world.counts.hits.get(), 1);
}

#[test]
fn a_stale_chain_serves_while_it_is_fetched_anew() {
    let config = Config { prefetch_percent: 99, ..Config::default() };
    let mut world = World::new(config, vec![Behaviour::Answers(100 * MS)]);
    world.fresh = Some(Duration::from_secs(100));
    let url = World::url(0, "a");
    world.door.insert(&url.as_str().into(), {
        let entry = Entry::chain(Arc::new([vec![0x30; 100]]), Source::Fetched, UNIX);
        entry.limited(world.fresh, world.not_after, &world.config)
    });
    world.pass(Duration::from_secs(101));
    assert_eq!(world.fetched(0), 0, "nobody used it, so nobody renewed it");
    let stale = world.ask(&url);
    assert_eq!(world.heard[&stale].after, Duration::ZERO);
    let soon = world.result(stale).as_ref().unwrap().fresh_until;
    assert_eq!(soon, world.moment().unix + 30, "the worker is to ask again soon");
    assert_eq!((world.fetched(0), world.counts.stale_served.get()), (1, 1));
    world.pass(200 * MS);
    let fresh = world.ask(&url);
    assert!(world.result(fresh).as_ref().unwrap().fresh_until > soon);
    assert_eq!((world.fetched(0), world.counts.refreshes.get()), (1, 1));
}

#[test]
fn a_server_that_is_ill_does_not_take_the_chain_away_and_one_that_has_it_no_more_does() {
    let mut world = World::new(Config::default(), vec![Behaviour::Answers(MS)]);
    world.fresh = Some(Duration::from_secs(100));
    let url = World::url(0, "a");
    world.ask(&url);
    world.pass(Duration::from_secs(1));
    world.hosts[0] = Behaviour::Dead;
    world.pass(Duration::from_secs(600));
    let stale = world.ask(&url);
    assert!(world.result(stale).is_ok() && world.counts.refreshes_failed.get() > 0);
    world.pass(Duration::from_secs(3200));
    let over = world.ask(&url);
    world.pass(Duration::from_secs(1));
    assert!(world.result(over).is_err(), "stale_seconds are over");
    // Another world: the server says 404.
    let mut door: Door<u32> = Door::new(Config::default(), Arc::default());
    let now = world.moment();
    let entry = Entry::chain(Arc::new([vec![0x30; 100]]), Source::Fetched, now.unix - 100);
    door.insert(&url.as_str().into(), entry.limited(Some(60 * 1000 * MS), now.unix + 86_400, &Config::default()));
    assert!(door.ask(now, &url, 1, now.instant).unwrap().1.is_ok());
    let job = door.next_job(now, &mut Vec::new()).expect("a refresh");
    door.finish(now, &job.url, Err(FetchError::Status(404)));
    assert_eq!(door.ask(now, &url, 2, now.instant).unwrap().1, Err(FetchError::Status(404)));
}

#[test]
fn what_is_used_is_fetched_before_it_is_stale_and_what_is_not_lapses() {
    let mut world = World::new(Config::default(), vec![Behaviour::Answers(MS), Behaviour::Answers(MS)]);
    world.fresh = Some(Duration::from_secs(1000));
    let (used, idle) = (World::url(0, "used"), World::url(1, "idle"));
    for url in [&used, &idle] {
        world.ask(url);
    }
    for _ in 0..50 {
        world.pass(Duration::from_secs(200));
        world.ask(&used);
    }
    assert_eq!(world.counts.stale_served.get(), 0, "renewed in time, each time");
    assert!((10..=14).contains(&world.fetched(0)), "{} in 10000 s at 800 s", world.fetched(0));
    assert_eq!(world.fetched(1), 2, "the one who asked counts as use once, and then nobody");
}

#[test]
fn what_was_imported_serves_to_the_end_of_its_validity_and_is_not_fetched() {
    let mut world = World::new(Config::default(), vec![Behaviour::Answers(MS), Behaviour::Answers(100 * MS)]);
    world.fresh = Some(Duration::from_secs(100));
    let given: Arc<[Vec<u8>]> = Arc::new([vec![0x31; 100]]);
    let imported = |since| Entry::chain(Arc::clone(&given), Source::Imported, since).imported(UNIX + 10_000);
    // One was fetched before, and was to be fetched anew; the other is being fetched.
    let (fetched, under_way) = (World::url(0, "a"), World::url(1, "b"));
    world.ask(&fetched);
    world.pass(Duration::from_secs(1));
    world.ask(&under_way);
    for url in [&fetched, &under_way] {
        world.door.insert(&url.as_str().into(), imported(world.moment().unix));
    }
    for _ in 0..99 {
        world.pass(Duration::from_secs(100));
        for url in [&fetched, &under_way] {
            let id = world.ask(url);
            assert_eq!(world.result(id).as_ref().unwrap().certificates, given);
        }
    }
    assert_eq!((world.fetched(0), world.fetched(1)), (1, 1), "before it was imported, and no more");
    world.pass(Duration::from_secs(100));
    world.ask(&fetched);
    assert_eq!(world.fetched(0), 2, "it has ended");
}

#[test]
fn a_failure_is_kept_shortly() {
    let mut world = World::new(Config::default(), vec![Behaviour::Dead]);
    let url = World::url(0, "a");
    let failed = FetchError::Connect(io::ErrorKind::ConnectionRefused);
    for seconds in [0, 10, 10, 15] {
        world.pass(Duration::from_secs(seconds));
        let id = world.ask(&url);
        world.pass(10 * MS);
        assert_eq!(world.result(id), &Err(failed.clone()));
    }
    assert_eq!((world.fetched(0), world.counts.negative_hits.get()), (2, 2));
}

#[test]
fn a_host_that_fails_is_left_alone_and_probed_once() {
    let mut world = World::new(Config::default(), vec![Behaviour::Dead]);
    for n in 0..3 {
        world.ask(&World::url(0, &n.to_string()));
        world.pass(10 * MS);
    }
    assert_eq!(world.fetched(0), 3);
    for n in 3..100 {
        let id = world.ask(&World::url(0, &n.to_string()));
        assert_eq!(world.result(id), &Err(FetchError::HostDown), "at once, and nobody is asked");
    }
    assert_eq!(world.fetched(0), 3);
    assert_eq!(world.door.standings(world.moment()).of(&World::url(0, "")), "down");
    world.pass(Duration::from_secs(31));
    assert_eq!(world.counts.hosts_down.get(), 0);
    world.hosts[0] = Behaviour::Answers(100 * MS);
    let probe = world.ask(&World::url(0, "probe"));
    let beside = world.ask(&World::url(0, "beside"));
    assert_eq!(world.result(beside), &Err(FetchError::HostDown), "one probe at a time");
    world.pass(100 * MS);
    assert!(world.result(probe).is_ok());
    let after = world.ask(&World::url(0, "after"));
    world.pass(100 * MS);
    assert!(world.result(after).is_ok());
}

#[test]
fn one_slow_host_takes_no_more_than_its_share() {
    let config = Config { max_in_flight: 8, max_in_flight_per_host: 2, max_waiting_per_host: 10, ..Config::default() };
    let mut world = World::new(config, vec![Behaviour::Hangs, Behaviour::Answers(50 * MS)]);
    let slow: Vec<u32> = (0..20).map(|n| world.ask(&World::url(0, &n.to_string()))).collect();
    assert_eq!(world.fetched(0), 2);
    let busy = slow.iter().filter(|id| world.heard.get(id).is_some_and(|heard| heard.result == Err(FetchError::Busy)));
    assert_eq!(busy.count(), 8, "2 under way, 10 wait, the others are told at once");
    let good = world.ask(&World::url(1, "a"));
    world.pass(50 * MS);
    assert!(world.result(good).is_ok());
    world.pass(Duration::from_secs(1));
    assert!(slow.iter().all(|id| world.heard[id].after <= 750 * MS), "nobody waits long past his deadline");
    world.pass(Duration::from_secs(10));
    assert_eq!(world.fetched(0), 2, "what nobody waits for any more is not begun");
    assert_eq!(world.door.load()[..3], [0, 0, 0]);
}

/// Hosts that never answered may not take all fetches: some are left for those that do.
#[test]
fn strangers_leave_room_for_hosts_that_are_known_to_work() {
    let mut hosts = vec![Behaviour::Hangs; 100];
    hosts.push(Behaviour::Answers(50 * MS));
    let config = Config { max_in_flight: 8, ..Config::default() };
    let mut world = World::new(config, hosts);
    let first = world.ask(&World::url(100, "first"));
    world.pass(50 * MS);
    assert!(world.result(first).is_ok());
    for host in 0..100 {
        world.ask(&World::url(host, "a"));
    }
    assert_eq!(world.door.load()[0], 6);
    let known = world.ask(&World::url(100, "second"));
    world.pass(50 * MS);
    assert!(world.result(known).is_ok());
}

#[test]
fn urls_that_may_not_be_asked_are_refused_at_once() {
    let mut world = World::new(Config::default(), vec![]);
    for url in
        ["http://h0.example/", "https://h0.example:444/", "https://u@h0.example/", "https://h0.example/?q", "junk"]
    {
        let id = world.ask(url);
        assert!(world.result(id).is_err(), "{url}");
    }
    assert_eq!(world.door.load(), [0; 4]);
}

#[test]
fn memory_for_hosts_and_questions_is_bounded() {
    let config = Config { max_hosts: 100, queue: 200, ..Config::default() };
    let mut world = World::new(config, vec![Behaviour::Hangs; 2000]);
    for host in 0..2000 {
        world.ask(&World::url(host, "a"));
        let [in_flight, waiters, flights, hosts] = world.door.load();
        assert!(in_flight <= 256 && waiters <= 200 && flights <= 200 && hosts <= 100, "{:?}", world.door.load());
        if host % 100 == 0 {
            world.pass(Duration::from_secs(3));
        }
    }
    world.pass(Duration::from_secs(60));
    assert_eq!(world.heard.len(), 2000, "everybody is answered");
}

/// 200 hosts, a third of them slow or dead, cold questions for all of them in an open loop, and 20,000 warm questions meanwhile.
#[test]
fn a_cold_storm_does_not_touch_the_warm() {
    let behaviour = |host: usize| match host % 6 {
        0 => Behaviour::Hangs,
        1 => Behaviour::Dead,
        n => Behaviour::Answers(20 * n as u32 * MS),
    };
    let mut world = World::new(Config::default(), (0..200).map(behaviour).collect());
    let warm: Vec<String> = (0..500).map(|n| World::url(2 + 6 * (n % 30), &format!("warm{n}"))).collect();
    for url in &warm {
        let entry = Entry::chain(Arc::new([vec![0x30; 1500]]), Source::Fetched, UNIX);
        let entry = entry.limited(world.fresh, world.not_after, &world.config);
        world.door.insert(&url.as_str().into(), entry);
    }
    // 10 s: 2,000 warm and 500 cold questions a second, in an even mix.
    let (mut warm_ids, mut cold_ids) = (Vec::new(), Vec::new());
    for n in 0..20_000usize {
        warm_ids.push(world.ask(&warm[n * 7 % warm.len()]));
        if n % 4 == 0 {
            let host = n / 4 * 13 % 200;
            cold_ids.push((host, world.ask(&World::url(host, &format!("cold{}", n / 400)))));
        }
        world.pass(MS / 2);
        let [in_flight, waiters, flights, hosts] = world.door.load();
        assert!(in_flight <= 256 && waiters <= 1024 && flights <= 1024 && hosts <= 200);
    }
    world.pass(Duration::from_secs(1));
    assert!(warm_ids.iter().all(|id| world.heard[id].after == Duration::ZERO && world.result(*id).is_ok()));
    assert_eq!(cold_ids.len(), 5_000);
    let late = cold_ids.iter().map(|(_, id)| world.heard[id].after).max().unwrap();
    assert!(late <= 750 * MS, "every call is answered by its budget and one look at the clock: {late:?}");
    let good: Vec<_> = cold_ids.iter().filter(|(host, _)| host % 6 > 1).collect();
    let served = good.iter().filter(|(_, id)| world.result(*id).is_ok()).count();
    assert!(served * 100 >= good.len() * 95, "{served} of {} from hosts that work", good.len());
    // Of a dead host nobody was asked more than its breaker allows: 3 at first, then none within 30 s.
    let worst = (0..200).filter(|host| host % 6 == 1).map(|host| world.fetched(host)).max().unwrap();
    assert!(worst <= 3 + world.config.max_in_flight_per_host as u32, "{worst}");
    assert!(world.door.cache.size()[1] <= world.config.cache_bytes);
}
