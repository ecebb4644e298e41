//! Who is answered from memory, what is fetched, who waits, who is turned away. Touches nothing: the present time comes in, jobs and answers
//! go out, so that whole storms run in virtual time.
//!
//! What is in the cache is answered at once, whatever else goes on. What is not waits for one fetch per URL (single flight); fetches are
//! limited in all and per host, hosts take turns, and a host that fails is left alone for a while (`breaker`). Hosts that have not answered yet
//! get fewer fetches each, and never all of them. So slow and dead hosts keep their own callers waiting, and nobody else's.

use std::cmp::Reverse;
use std::collections::hash_map::Entry as Place;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::breaker::{Breaker, Standing};
use super::cache::{Cache, Entry, Found, Source};
use super::counts::Counts;
use super::guard::{self, Target};
use super::{Chain, Config, FetchError};

/// The time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub instant: Instant,
    /// Unix seconds.
    pub unix: i64,
}

/// One who asks: `W` is how the answer finds him.
struct Waiter<W> {
    to: W,
    /// He waits no longer than this.
    deadline: Instant,
}

/// A fetch that is under way or waits for its turn.
struct Flight<W> {
    target: Arc<Target>,
    waiters: Vec<Waiter<W>>,
    /// It counts among those of hosts that have not answered yet.
    is_to_stranger: bool,
    /// Nobody asked: the cached answer is renewed.
    is_refresh: bool,
}

struct Host {
    breaker: Breaker,
    in_flight: usize,
    /// It has answered since it failed last.
    is_known: bool,
    /// URLs that wait for their turn.
    waiting: VecDeque<Arc<str>>,
    /// It stands in [`Door::ready`].
    is_ready: bool,
}

/// Fetches at a time to a host that has not answered yet.
const TO_STRANGER: usize = 2;

impl Host {
    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.waiting.is_empty() && !self.is_ready
    }
}

/// What is to be fetched now.
pub(super) struct Job {
    pub url: Arc<str>,
    pub target: Arc<Target>,
}

/// What a fetch brought, looked at.
pub(super) struct Brought {
    pub certificates: Arc<[Vec<u8>]>,
    /// How long the server says it stays fresh.
    pub fresh: Option<Duration>,
    /// End of the leaf's validity, Unix seconds.
    pub not_after: i64,
    /// It leads to a trust anchor.
    pub is_trusted: bool,
}

/// Answers to give: to whom, and what.
pub(super) type Answers<W> = Vec<(W, Result<Chain, FetchError>)>;

pub(super) struct Door<W> {
    config: Config,
    pub cache: Cache,
    counts: Arc<Counts>,
    flights: HashMap<Arc<str>, Flight<W>>,
    hosts: HashMap<Arc<str>, Host>,
    /// Hosts that may begin a fetch, each once.
    ready: Ready,
    in_flight: usize,
    /// Of these, to hosts that have not answered yet.
    to_strangers: usize,
    waiters: usize,
    /// When entries are to be renewed if they are used; some are out of date.
    renewals: BinaryHeap<Reverse<(i64, Arc<str>)>>,
}

impl<W> Door<W> {
    pub fn new(config: Config, counts: Arc<Counts>) -> Self {
        Self {
            cache: Cache::new(&config),
            config,
            counts,
            flights: HashMap::new(),
            hosts: HashMap::new(),
            ready: Ready::default(),
            in_flight: 0,
            to_strangers: 0,
            waiters: 0,
            renewals: BinaryHeap::new(),
        }
    }

    /// A question. Whoever can be answered at once is given back with the answer; others wait, at most until `deadline`.
    pub fn ask(&mut self, now: Moment, url: &str, to: W, deadline: Instant) -> Option<(W, Result<Chain, FetchError>)> {
        let counts = Arc::clone(&self.counts);
        match self.cache.get(url, now.unix) {
            Some(Found::Fresh(entry)) => {
                entry.hits.fetch_add(1, Ordering::Relaxed);
                if entry.answer.is_ok() { &counts.hits } else { &counts.negative_hits }.add();
                return Some((to, entry.answer(now.unix, &self.config)));
            }
            Some(Found::Stale(entry)) => {
                entry.hits.fetch_add(1, Ordering::Relaxed);
                counts.stale_served.add();
                self.renew(now, url, &entry);
                return Some((to, entry.answer(now.unix, &self.config)));
            }
            None => {}
        }
        counts.misses.add();
        if self.waiters >= self.config.queue {
            counts.failed(&FetchError::Busy);
            return Some((to, Err(FetchError::Busy)));
        }
        if let Some(flight) = self.flights.get_mut(url) {
            flight.waiters.push(Waiter { to, deadline });
            self.waiters += 1;
            return None;
        }
        match self.begin(now, url, false) {
            Ok(url) => {
                if let Some(flight) = self.flights.get_mut(&url) {
                    flight.waiters.push(Waiter { to, deadline });
                    self.waiters += 1;
                }
                None
            }
            Err(error) => {
                counts.failed(&error);
                Some((to, Err(error)))
            }
        }
    }

    /// Renews a cached answer in the background, unless that is under way or failed just now.
    fn renew(&mut self, now: Moment, url: &str, entry: &Entry) {
        let retry_at = i64::try_from(entry.retry_at.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        if now.unix >= retry_at && !self.flights.contains_key(url) && self.begin(now, url, true).is_err() {
            self.put_off(now, entry);
        }
    }

    fn put_off(&self, now: Moment, entry: &Entry) {
        let retry_at = now.unix.saturating_add_unsigned(self.config.negative_ttl.as_secs());
        entry.retry_at.store(u64::try_from(retry_at).unwrap_or(0), Ordering::Relaxed);
    }

    /// Makes a flight that waits for its host's turn.
    fn begin(&mut self, now: Moment, url: &str, is_refresh: bool) -> Result<Arc<str>, FetchError> {
        let target = Arc::new(guard::target(url, self.config.allow_any_port)?);
        let name: Arc<str> = target.place().into();
        if !self.hosts.contains_key(&name) && self.hosts.len() >= self.config.max_hosts {
            self.forget_hosts(now);
            if self.hosts.len() >= self.config.max_hosts {
                return Err(FetchError::Busy);
            }
        }
        let host = self.hosts.entry(Arc::clone(&name)).or_insert_with(|| Host {
            breaker: Breaker::new(),
            in_flight: 0,
            is_known: false,
            waiting: VecDeque::new(),
            is_ready: false,
        });
        if !host.breaker.lets(now.instant) {
            return Err(FetchError::HostDown);
        }
        if host.waiting.len() >= self.config.max_waiting_per_host || self.flights.len() >= self.config.queue {
            return Err(FetchError::Busy);
        }
        let url: Arc<str> = url.into();
        host.waiting.push_back(Arc::clone(&url));
        self.ready.add(host, &name, self.config.max_in_flight_per_host);
        self.flights
            .insert(Arc::clone(&url), Flight { target, waiters: Vec::new(), is_to_stranger: false, is_refresh });
        Ok(url)
    }

    /// Forgets hosts with nothing under way of which nothing is known that matters.
    fn forget_hosts(&mut self, now: Moment) {
        self.hosts.retain(|_, host| !(host.is_idle() && (host.breaker.is_clean() || host.breaker.lets(now.instant))));
    }

    /// The next fetch that may begin now. Waiters that gave up before their turn are answered; a fetch nobody waits for any more is not begun.
    pub fn next_job(&mut self, now: Moment, answers: &mut Answers<W>) -> Option<Job> {
        while self.in_flight < self.config.max_in_flight {
            // A quarter is left to hosts that are known to answer.
            let room = self.to_strangers < (self.config.max_in_flight - self.config.max_in_flight / 4).max(1);
            let known = self.ready.known.pop_front();
            let name = known.or_else(|| if room { self.ready.strangers.pop_front() } else { None })?;
            let Some(host) = self.hosts.get_mut(&name) else { continue };
            host.is_ready = false;
            let Some(url) = host.waiting.pop_front() else { continue };
            let lets = host.breaker.lets(now.instant);
            let Place::Occupied(mut flight) = self.flights.entry(Arc::clone(&url)) else { continue };
            let late = |waiter: &mut Waiter<W>| waiter.deadline <= now.instant;
            let before = flight.get().waiters.len();
            let gone: Vec<_> = flight.get_mut().waiters.extract_if(.., late).collect();
            answers.extend(gone.into_iter().map(|waiter| (waiter.to, Err(FetchError::Timeout))));
            let is_wanted = flight.get().is_refresh || !flight.get().waiters.is_empty();
            self.waiters -= before - flight.get().waiters.len();
            if !(lets && is_wanted) {
                let flight = flight.remove();
                self.waiters -= flight.waiters.len();
                let error = if lets { FetchError::Timeout } else { FetchError::HostDown };
                flight.waiters.iter().for_each(|_| self.counts.failed(&error));
                answers.extend(flight.waiters.into_iter().map(|waiter| (waiter.to, Err(error.clone()))));
                self.ready.add(host, &name, self.config.max_in_flight_per_host);
                continue;
            }
            host.breaker.begin();
            host.in_flight += 1;
            self.in_flight += 1;
            flight.get_mut().is_to_stranger = !host.is_known;
            self.to_strangers += usize::from(!host.is_known);
            let target = Arc::clone(&flight.get().target);
            self.ready.add(host, &name, self.config.max_in_flight_per_host);
            return Some(Job { url, target });
        }
        None
    }

    /// What came of a job.
    pub fn finish(&mut self, now: Moment, url: &Arc<str>, result: Result<Brought, FetchError>) -> Answers<W> {
        let Some(flight) = self.flights.remove(url) else { return Vec::new() };
        self.in_flight -= 1;
        self.to_strangers -= usize::from(flight.is_to_stranger);
        self.waiters -= flight.waiters.len();
        let name = flight.target.place();
        if let Some((name, _)) = self.hosts.get_key_value(name) {
            let name = Arc::clone(name);
            if let Some(host) = self.hosts.get_mut(&name) {
                host.in_flight -= 1;
                let is_alive = result.as_ref().err().is_none_or(FetchError::shows_life);
                host.is_known = is_alive;
                host.breaker.heard(is_alive, now.instant, &self.config.breaker);
                self.ready.add(host, &name, self.config.max_in_flight_per_host);
            }
        }
        let answer = self.keep(now, url, &flight, result);
        flight.waiters.into_iter().map(|waiter| (waiter.to, answer.clone())).collect()
    }

    /// Keeps an answer, unless it is worse than what is there.
    fn keep(
        &mut self,
        now: Moment,
        url: &Arc<str>,
        flight: &Flight<W>,
        result: Result<Brought, FetchError>,
    ) -> Result<Chain, FetchError> {
        let known = match self.cache.get(url, now.unix) {
            Some(Found::Fresh(entry) | Found::Stale(entry)) if entry.answer.is_ok() => Some(entry),
            _ => None,
        };
        if let Some(entry) = known.as_ref().filter(|entry| entry.source == Source::Imported) {
            return entry.answer(now.unix, &self.config); // it came in while this was fetched
        }
        let brought = match result {
            Ok(brought) => brought,
            Err(error) => {
                self.counts.failed(&error);
                if known.is_some() {
                    self.counts.refreshes_failed.add();
                }
                match known {
                    // A server that is ill says nothing about the certificate; one that says it is gone does.
                    Some(entry) if !matches!(error, FetchError::Status(404 | 410)) => {
                        self.put_off(now, &entry);
                        self.schedule(now.unix.saturating_add_unsigned(self.config.negative_ttl.as_secs()), url);
                        return entry.answer(now.unix, &self.config);
                    }
                    _ => {
                        self.cache.put(Arc::clone(url), Entry::failure(error.clone(), now.unix, &self.config));
                        return Err(error);
                    }
                }
            }
        };
        if known.is_some() { &self.counts.refreshes } else { &self.counts.fetches }.add();
        let entry =
            Entry { is_trusted: brought.is_trusted, ..Entry::chain(brought.certificates, Source::Fetched, now.unix) };
        let entry = entry.limited(brought.fresh, brought.not_after, &self.config);
        entry.hits.store(flight.waiters.len() as u64, Ordering::Relaxed);
        let answer = entry.answer(now.unix, &self.config);
        self.insert(url, entry);
        answer
    }

    /// Puts an entry in, whatever was there. What an operator has given is not fetched anew.
    pub fn insert(&mut self, url: &Arc<str>, entry: Entry) {
        if entry.is_renewed() {
            self.schedule(entry.refresh_at(&self.config), url);
        }
        self.cache.put(Arc::clone(url), entry);
    }

    fn schedule(&mut self, at: i64, url: &Arc<str>) {
        self.renewals.push(Reverse((at, Arc::clone(url))));
        let [entries, _] = self.cache.size();
        if self.renewals.len() as u64 > 1024 + 2 * entries {
            let mut anew: HashMap<Arc<str>, i64> = HashMap::new();
            for Reverse((at, url)) in self.renewals.drain() {
                anew.entry(url).and_modify(|first| *first = at.min(*first)).or_insert(at);
            }
            let cache = &self.cache;
            let known: std::collections::HashSet<Arc<str>> = cache.all().map(|(url, _)| url).collect();
            self.renewals
                .extend(anew.into_iter().filter(|(url, _)| known.contains(url)).map(|(url, at)| Reverse((at, url))));
        }
    }

    /// Renews what is used and will soon be stale, and turns away who waited long enough.
    pub fn tick(&mut self, now: Moment, answers: &mut Answers<W>) {
        while let Some(Reverse((at, _))) = self.renewals.peek()
            && *at <= now.unix
        {
            let Some(Reverse((_, url))) = self.renewals.pop() else { break };
            let (Some(Found::Fresh(entry)) | Some(Found::Stale(entry))) = self.cache.get(&url, now.unix) else {
                continue;
            };
            if entry.is_used() && entry.is_renewed() && now.unix >= entry.refresh_at(&self.config) {
                self.renew(now, &url, &entry);
            }
        }
        let late = |waiter: &mut Waiter<W>| waiter.deadline <= now.instant;
        for flight in self.flights.values_mut() {
            for waiter in flight.waiters.extract_if(.., late) {
                self.waiters -= 1;
                answers.push((waiter.to, Err(FetchError::Timeout)));
            }
        }
        self.publish(now);
    }

    /// Writes the gauges down.
    pub fn publish(&self, now: Moment) {
        let [entries, octets] = self.cache.size();
        let open = self.hosts.values().filter(|host| !host.breaker.lets(now.instant)).count();
        let gauges = [
            (&self.counts.entries, entries),
            (&self.counts.octets, octets),
            (&self.counts.in_flight, self.in_flight as u64),
            (&self.counts.waiting, self.waiters as u64),
            (&self.counts.hosts_down, open as u64),
        ];
        gauges.into_iter().for_each(|(gauge, value)| gauge.set(value));
    }

    /// How the breakers of hosts stand, for people.
    pub fn standings(&self, now: Moment) -> Standings {
        let not_up = self.hosts.iter().filter_map(|(name, host)| match host.breaker.standing() {
            Standing::Open { until } if now.instant < until => Some((Arc::clone(name), "down")),
            Standing::Open { .. } | Standing::HalfOpen => Some((Arc::clone(name), "probed")),
            _ => None,
        });
        Standings { not_up: not_up.collect(), allow_any_port: self.config.allow_any_port }
    }

    #[cfg(test)]
    pub fn load(&self) -> [usize; 4] {
        [self.in_flight, self.waiters, self.flights.len(), self.hosts.len()]
    }
}

/// How hosts stand.
pub(super) struct Standings {
    not_up: HashMap<Arc<str>, &'static str>,
    allow_any_port: bool,
}

impl Standings {
    /// The host of a URL.
    pub fn of(&self, url: &str) -> &'static str {
        let target = guard::target(url, self.allow_any_port).ok();
        target.and_then(|target| self.not_up.get(target.place()).copied()).unwrap_or("up")
    }
}

/// Hosts with something to fetch and room for it.
#[derive(Default)]
struct Ready {
    known: VecDeque<Arc<str>>,
    strangers: VecDeque<Arc<str>>,
}

impl Ready {
    fn add(&mut self, host: &mut Host, name: &Arc<str>, limit: usize) {
        let limit = if host.is_known { limit } else { limit.min(TO_STRANGER) };
        if !host.is_ready && !host.waiting.is_empty() && host.in_flight < limit {
            host.is_ready = true;
            if host.is_known { &mut self.known } else { &mut self.strangers }.push_back(Arc::clone(name));
        }
    }
}
