//! Whole proxies in a bad world, thousands of seeds: loss, duplication, reordering, gateways that die, refuse, come back, answer 503 or
//! hang in the middle of a call, connections that break, callers that cancel at any time, re-INVITEs and BYEs from both sides, forking in
//! series and in parallel. After each run nothing may be left and no rule of RFC 3261 16 may have been broken on the wire.
//!
//! A failure prints its seed; `VESPERD_SEED=n` runs that one alone.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use support::edge::{EdgeNode, listener};
use support::message::message;
use support::network::{Fate, Link, Network, Shared, shared};
use support::rng::Rng;
use support::ua::{Answer, CallPlan, Ending, TakenState, Uac, Uas};
use vesperd::proxy::admission::{Guard, TrunkLimits};
use vesperd::proxy::dispatcher::{Algorithm, Dispatcher};
use vesperd::proxy::{Config, Forking, NextHop, Residue, Route, Target, TargetHost, Trunk, TrunkId, UdpOversize};
use vesperd::sip::{Method, Transport};

const UAC: SocketAddr = address(1, 5060);
const RELAY: SocketAddr = address(2, 5060);
const EDGE: SocketAddr = address(3, 5060);

/// A call whose BYE gets lost is forgotten then.
const LONGEST_CALL: Duration = Duration::from_secs(1_000);

const fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, host)), port)
}

/// What a world is like; drawn from its seed.
#[derive(Debug, Clone, Copy)]
struct Weather {
    transport: Transport,
    link: Link,
    gateways: usize,
    /// A proxy that only relays stands before the one that forks.
    relayed: bool,
    parallel: bool,
    fr: Option<Duration>,
    fr_inv: Option<Duration>,
    algorithm: Algorithm,
    /// Connections break.
    breaks: bool,
    /// Gateways die and come back.
    deaths: bool,
    calls: usize,
}

impl Weather {
    fn of(rng: &mut Rng) -> Self {
        let is_udp = rng.chance(700);
        let loss = [0, 0, 50, 100][rng.below(4) as usize];
        let bad = Link { jitter: Duration::from_millis(20), loss, duplication: 50, reordering: 50, ..Link::default() };
        let mut sometimes = |per_mille, seconds| rng.chance(per_mille).then(|| Duration::from_secs(seconds));
        let (fr, fr_inv) = (sometimes(400, 3), sometimes(200, 20));
        let algorithms = [Algorithm::Serial, Algorithm::RoundRobin, Algorithm::Random, Algorithm::CallIdHash];
        Self {
            transport: if is_udp { Transport::Udp } else { Transport::Tcp },
            link: if is_udp { bad } else { Link::default() },
            gateways: 1 + rng.below(3) as usize,
            relayed: rng.chance(250),
            parallel: rng.chance(400),
            fr,
            fr_inv,
            algorithm: algorithms[rng.below(4) as usize],
            breaks: !is_udp && rng.chance(500),
            deaths: rng.chance(600),
            calls: 2 + rng.below(3) as usize,
        }
    }

    /// Whether a 2xx may legally stay without its ACK: somebody lost the transaction it belongs to, or all copies were lost.
    fn may_lose_answers(&self) -> bool {
        self.breaks || self.deaths || self.fr.is_some() || self.link.loss > 0
    }
}

fn trunk(name: &str, transport: Transport, remotes: &[SocketAddr]) -> Trunk {
    Trunk {
        name: name.into(),
        next_hops: remotes.iter().map(|remote| NextHop { transport, remote: *remote }.into()).collect(),
        udp_oversize: UdpOversize::Udp,
        dispatcher: Dispatcher::new(Algorithm::default(), Vec::new(), remotes.len()),
        ..Trunk::default()
    }
}

fn config(transport: Transport, own: SocketAddr, before: SocketAddr, behind: &[SocketAddr]) -> Config {
    let mut guard = Guard::default();
    guard.longest_call = LONGEST_CALL;
    Config {
        guard,
        listeners: vec![listener(transport, own)],
        trunks: vec![trunk("before", transport, &[before]), trunk("behind", transport, behind)],
        routes: vec![Route::between(TrunkId(0), TrunkId(1))],
        ..Config::default()
    }
}

struct World {
    weather: Weather,
    network: Network,
    uac: Shared<Uac>,
    /// In the order of the way of a call.
    proxies: Vec<(SocketAddr, Shared<EdgeNode>)>,
    gateways: Vec<(SocketAddr, Shared<Uas>)>,
    limits: TrunkLimits,
}

impl World {
    fn new(seed: u64, weather: Weather) -> Self {
        let Weather { transport, link, .. } = weather;
        let mut network = Network::new(seed, link);
        let epoch = network.now();
        let addresses: Vec<_> = (0..weather.gateways).map(|n| address(11 + n as u8, 5080)).collect();
        let before = if weather.relayed { RELAY } else { UAC };
        let mut edge = config(transport, EDGE, before, &addresses);
        edge.trunks[1].forking =
            Forking { parallel: weather.parallel, fr: weather.fr, fr_inv: weather.fr_inv, ..Forking::default() };
        edge.trunks[1].dispatcher = Dispatcher::new(weather.algorithm, Vec::new(), addresses.len());
        let limits = TrunkLimits::new(None, Some(1_000), 503);
        edge.guard.limits = vec![None, Some(limits.clone())];
        let mut proxies = vec![(EDGE, shared(EdgeNode::new(edge, 3, epoch)))];
        if weather.relayed {
            proxies.insert(0, (RELAY, shared(EdgeNode::new(config(transport, RELAY, UAC, &[EDGE]), 2, epoch))));
        }
        let uac = shared(Uac::new(UAC, proxies[0].0, transport, epoch));
        network.add(&[UAC], &uac);
        for (at, proxy) in &proxies {
            network.add(&[*at], proxy);
        }
        let gateways = addresses.into_iter().map(|at| {
            let gateway = shared(Uas::new(at, Answer::default(), epoch));
            network.add(&[at], &gateway);
            (at, gateway)
        });
        let gateways = gateways.collect();
        Self { weather, network, uac, proxies, gateways, limits }
    }

    /// Lets everything happen, then waits until nothing more does.
    fn run(&mut self, rng: &mut Rng) {
        let mut alive = vec![true; self.gateways.len()];
        for _ in 0..self.weather.calls {
            for (_, gateway) in &self.gateways {
                gateway.borrow_mut().usual = answer(rng);
            }
            let plan = CallPlan {
                cancel_after: rng.chance(300).then(|| Duration::from_millis(rng.below(8_000))),
                reinvite_after: rng.chance(300).then(|| Duration::from_millis(rng.below(5_000))),
                talk: Duration::from_millis(500 + rng.below(12_000)),
                patience: Duration::from_secs(60),
                ..CallPlan::default()
            };
            let uac = self.uac.clone();
            self.network.act(UAC, |now, out| uac.borrow_mut().call(now, plan, out));
            for _ in 0..rng.below(4) {
                self.network.run_for(Duration::from_millis(rng.below(4_000)));
                self.change(rng, &mut alive);
            }
        }
        self.network.run_for(Duration::from_secs(20));
        for gateway in 0..alive.len() {
            self.set_link(gateway, self.weather.link);
        }
        assert!(self.network.run_until_idle(2 * LONGEST_CALL), "something runs for ever");
    }

    /// Something befalls a gateway.
    fn change(&mut self, rng: &mut Rng, alive: &mut [bool]) {
        let gateway = rng.below(alive.len() as u64) as usize;
        if self.weather.breaks && rng.chance(500) {
            self.network.break_connections(EDGE, self.gateways[gateway].0);
        } else if self.weather.deaths {
            alive[gateway] = !alive[gateway];
            let dead = Link { loss: 1000, refused: rng.chance(500), ..self.weather.link };
            self.set_link(gateway, if alive[gateway] { self.weather.link } else { dead });
        }
    }

    /// How packets reach a gateway; back they come alike, but it is never refused.
    fn set_link(&mut self, gateway: usize, link: Link) {
        let at = self.gateways[gateway].0;
        self.network.link(EDGE, at, link);
        self.network.link(at, EDGE, Link { refused: false, ..link });
    }

    fn check(&self) {
        self.check_nothing_is_left();
        let wire = Wire::read(&self.network);
        for (at, _) in &self.proxies {
            wire.check_finals_of(*at);
            wire.check_no_408(*at);
            wire.check_cancels_of(*at);
        }
        wire.check_no_branch_after_the_end(EDGE);
        self.check_callees();
        for call in self.uac.borrow().calls() {
            assert!(call.ending.is_some(), "{} does not end", call.call_id());
        }
    }

    fn check_nothing_is_left(&self) {
        for (at, proxy) in &self.proxies {
            assert_eq!(proxy.borrow().proxy.residue(), Residue::default(), "left behind at {at}");
        }
        assert_eq!(self.limits.calls(), 0, "calls that are over count against the limit of a trunk");
        assert_eq!((self.uac.borrow().layer().live(), self.uac.borrow().layer().timers()), ((0, 0), 0), "caller");
        for (at, gateway) in &self.gateways {
            assert_eq!((gateway.borrow().layer().live(), gateway.borrow().layer().timers()), ((0, 0), 0), "{at}");
        }
    }

    fn check_callees(&self) {
        let lossy = self.weather.may_lose_answers();
        for (at, gateway) in &self.gateways {
            let gateway = gateway.borrow();
            let seen: BTreeSet<_> = gateway.taken().iter().map(|taken| taken.call_id()).collect();
            assert_eq!(seen.len(), gateway.taken().len(), "{at} got a call twice");
            for taken in gateway.taken() {
                let is_open = matches!(taken.state, TakenState::Answered | TakenState::Unacknowledged);
                assert!(!is_open || lossy, "{} was never acknowledged at {at}", taken.call_id());
            }
            assert!(gateway.unacknowledged() == 0 || lossy, "a re-INVITE was never acknowledged at {at}");
        }
        assert!(self.uac.borrow().unacknowledged() == 0 || lossy, "a re-INVITE was never acknowledged at the caller");
    }
}

/// How a gateway takes its next calls.
fn answer(rng: &mut Rng) -> Answer {
    let status = [200, 200, 200, 200, 486, 603, 503, 404, 0][rng.below(9) as usize];
    let after = Duration::from_millis(rng.below(6_000));
    Answer {
        provisional: if rng.chance(800) { vec![(after / 3, 180)] } else { Vec::new() },
        after,
        status,
        reinvite_after: rng.chance(200).then(|| Duration::from_millis(rng.below(4_000))),
        bye_after: rng.chance(300).then(|| Duration::from_millis(rng.below(10_000))),
        ..Answer::default()
    }
}

/// One message as it was sent.
struct Line {
    at: Duration,
    from: SocketAddr,
    to: SocketAddr,
    fate: Fate,
    call: Vec<u8>,
    method: String,
    cseq: u32,
    branch: Vec<u8>,
    in_dialog: bool,
    /// 0 for a request.
    status: u16,
}

/// What was on the wire.
struct Wire(Vec<Line>);

impl Wire {
    fn read(network: &Network) -> Self {
        let lines = network.packets().iter().map(|packet| {
            let owned = message(&packet.bytes);
            let received = owned.message();
            let cseq = received.cseq().expect("all have a CSeq");
            Line {
                at: packet.at,
                from: packet.from,
                to: packet.to,
                fate: packet.fate,
                call: received.call_id().unwrap_or_default().to_vec(),
                method: String::from_utf8_lossy(cseq.method.as_bytes()).into_owned(),
                cseq: cseq.number,
                branch: received.top_via().ok().and_then(|via| via.branch()).unwrap_or_default().to_vec(),
                in_dialog: received.to_tag().is_some(),
                status: received.status().unwrap_or(0),
            }
        });
        Self(lines.collect())
    }

    /// Whoever sent an INVITE that arrived got one final response, the same in every copy, or nothing but 2xx.
    fn check_finals_of(&self, proxy: SocketAddr) {
        let mut asked = BTreeSet::new();
        let mut finals: BTreeMap<_, BTreeSet<u16>> = BTreeMap::new();
        for line in self.0.iter().filter(|line| line.method == "INVITE") {
            let key = (&line.call, line.cseq);
            if line.status == 0 && line.to == proxy && line.fate != Fate::Lost && line.fate != Fate::Refused {
                asked.insert((key, line.from));
            }
            if line.status >= 200 && line.from == proxy {
                finals.entry((key, line.to)).or_default().insert(line.status.min(if line.status < 300 {
                    200
                } else {
                    999
                }));
            }
        }
        for (key, from) in asked {
            let statuses = finals.get(&(key, from)).cloned().unwrap_or_default();
            assert_eq!(
                statuses.len(),
                1,
                "{proxy} answered {} {} by {statuses:?}",
                String::from_utf8_lossy(key.0),
                key.1
            );
        }
    }

    /// RFC 4320 4.2.
    fn check_no_408(&self, proxy: SocketAddr) {
        let bad = self.0.iter().find(|line| line.from == proxy && line.status == 408 && line.method != "INVITE");
        assert!(bad.is_none(), "{proxy} answered a {} by 408", bad.map_or("", |line| line.method.as_str()));
    }

    /// RFC 3261 9.1: a CANCEL follows a provisional response to its INVITE, on the same branch.
    fn check_cancels_of(&self, proxy: SocketAddr) {
        let mut answered = BTreeSet::new();
        for line in &self.0 {
            if line.to == proxy && (100..200).contains(&line.status) && line.method == "INVITE" {
                answered.insert(line.branch.clone());
            }
            if line.from == proxy && line.status == 0 && line.method == "CANCEL" {
                assert!(answered.contains(&line.branch), "{proxy} sent a CANCEL before any response, {:?}", line.at);
            }
        }
    }

    /// R-6, K-5, R-12: once the caller has cancelled, a callee has said 6xx, or somebody has answered, no new branch begins.
    fn check_no_branch_after_the_end(&self, proxy: SocketAddr) {
        let mut begun: BTreeSet<&[u8]> = BTreeSet::new();
        let mut over: BTreeMap<&[u8], (Duration, &str)> = BTreeMap::new();
        for line in self.0.iter().filter(|line| line.cseq == 1) {
            let ends = match line.method.as_str() {
                // Its own answer tells when the proxy knew.
                "CANCEL" if line.from == proxy && line.status == 200 => "CANCEL",
                "INVITE" if line.from == proxy && line.status >= 200 => "a final response",
                _ => "",
            };
            if !ends.is_empty() {
                over.entry(&line.call).or_insert((line.at, ends));
            }
            if line.from == proxy
                && line.status == 0
                && line.method == "INVITE"
                && !line.in_dialog
                && begun.insert(&line.branch)
            {
                let end = over.get(line.call.as_slice());
                assert!(end.is_none(), "a branch began at {:?}, after {end:?}", line.at);
            }
        }
        self.check_no_branch_after_6xx(proxy);
    }

    fn check_no_branch_after_6xx(&self, proxy: SocketAddr) {
        let refusals =
            self.0.iter().filter(|line| line.to == proxy && line.status >= 600 && line.fate == Fate::Delivered);
        for refusal in refusals {
            let of_call = |line: &&Line| line.call == refusal.call && line.cseq == refusal.cseq && line.from == proxy;
            let mut begun = BTreeSet::new();
            for line in self.0.iter().filter(of_call).filter(|line| line.status == 0 && line.method == "INVITE") {
                // The ACK tells when the proxy had the 6xx.
                let known =
                    self.0.iter().filter(of_call).find(|line| line.method == "ACK" && line.branch == refusal.branch);
                let is_new = begun.insert(&line.branch);
                assert!(!is_new || known.is_none_or(|ack| line.at <= ack.at), "a branch began after a 6xx");
            }
        }
    }
}

fn storm(seed: u64) -> Vec<Ending> {
    let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5702);
    let weather = Weather::of(&mut rng);
    let mut world = World::new(seed, weather);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.run(&mut rng);
        world.check();
    }));
    if let Err(why) = result {
        eprintln!("seed {seed}: {weather:?}");
        for packet in world.network.packets().iter().filter(|_| std::env::var_os("VESPERD_SEED").is_some()) {
            let line = support::message::start_line(&packet.bytes);
            eprintln!("{:>9.3} {} -> {} {:?} {line}", packet.at.as_secs_f64(), packet.from, packet.to, packet.fate);
        }
        std::panic::resume_unwind(why);
    }
    let uac = world.uac.borrow();
    uac.calls().iter().filter_map(|call| call.ending).collect()
}

/// The seeds of one part of the run, so that parts can run side by side.
fn storms(part: u64) {
    let one = std::env::var("VESPERD_SEED").ok().and_then(|seed| seed.parse().ok());
    let count = if std::env::var_os("VESPERD_LONG").is_some() { 50_000 } else { 2_000 };
    let seeds: Vec<u64> = one.map_or_else(|| (0..count).map(|n| n * 4 + part).collect(), |seed| vec![seed]);
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    for seed in &seeds {
        for ending in storm(*seed) {
            *endings.entry(format!("{ending:?}")).or_default() += 1;
        }
    }
    println!("{} seeds: {endings:?}", seeds.len());
    // A world in which hardly a call succeeds would prove little.
    let total: usize = endings.values().sum();
    let good = endings.iter().filter(|(ending, _)| ending.starts_with("HungUp")).map(|(_, count)| count).sum::<usize>();
    assert!(one.is_some() || good * 100 > total * 35, "{good} of {total}");
}

#[test]
fn storm_part_1_breaks_no_invariant() {
    storms(0);
}

#[test]
fn storm_part_2_breaks_no_invariant() {
    storms(1);
}

#[test]
fn storm_part_3_breaks_no_invariant() {
    storms(2);
}

#[test]
fn storm_part_4_breaks_no_invariant() {
    storms(3);
}

/// When the first INVITE went from the edge to each of these, in virtual milliseconds.
fn first_invites(network: &Network, to: &[SocketAddr]) -> Vec<Option<u128>> {
    let first = |to: &SocketAddr| {
        let mut packets = network.packets().iter().filter(|packet| (packet.from, packet.to) == (EDGE, *to));
        packets.find(|packet| packet.bytes.starts_with(Method::Invite.as_bytes())).map(|packet| packet.at.as_millis())
    };
    to.iter().map(first).collect()
}

/// An edge whose trunk is a name with these addresses.
fn named(addresses: &[SocketAddr], fr: Option<Duration>, transport: Transport) -> (Network, Shared<Uac>) {
    let mut network = Network::new(1, Link::default());
    let epoch = network.now();
    let mut config = config(transport, EDGE, UAC, &[]);
    let target = Target {
        host: TargetHost::Name("gw.example".into()),
        port: Some(5080),
        transport: Some(transport),
        secure: false,
    };
    config.trunks[1].next_hops = vec![vesperd::proxy::Place::Locate(target)];
    config.trunks[1].forking.fr = fr;
    config.locate = true;
    let mut edge = EdgeNode::new(config, 3, epoch);
    edge.names
        .insert("gw.example".into(), addresses.iter().map(|remote| NextHop { transport, remote: *remote }).collect());
    let (uac, edge) = (shared(Uac::new(UAC, EDGE, transport, epoch)), shared(edge));
    network.add(&[UAC], &uac);
    network.add(&[EDGE], &edge);
    for at in addresses {
        network.add(&[*at], &shared(Uas::new(*at, Answer::default(), epoch)));
    }
    (network, uac)
}

#[test]
fn c31_dns_failover_takes_as_long_as_its_timers_say() {
    let addresses = [address(21, 5080), address(22, 5080), address(23, 5080)];
    let call = |network: &mut Network, uac: &Shared<Uac>| {
        let caller = uac.clone();
        network.act(UAC, |now, out| caller.borrow_mut().call(now, CallPlan::default(), out));
        assert!(network.run_until_idle(Duration::from_secs(600)));
        uac.borrow().calls().last().and_then(|call| call.ending)
    };
    // 10 ms to the edge, 50 ms for the name, 10 ms until a refusal is known.
    let refused = Link { refused: true, ..Link::default() };
    let silent = Link { loss: 1000, ..Link::default() };
    let (mut network, uac) = named(&addresses, None, Transport::Udp);
    network.link(EDGE, addresses[0], refused);
    assert_eq!(call(&mut network, &uac), Some(Ending::HungUp(200)));
    assert_eq!(first_invites(&network, &addresses), [Some(60), Some(70), None]);

    // Silence lasts 64*T1 per address (RFC 3263 4.3) ...
    let (mut network, uac) = named(&addresses, None, Transport::Udp);
    network.link(EDGE, addresses[0], silent);
    network.link(EDGE, addresses[1], refused);
    assert_eq!(call(&mut network, &uac), Some(Ending::HungUp(200)));
    assert_eq!(first_invites(&network, &addresses), [Some(60), Some(32_060), Some(32_070)]);

    // ... or as long as the trunk is patient.
    let (mut network, uac) = named(&addresses, Some(Duration::from_secs(3)), Transport::Udp);
    network.link(EDGE, addresses[0], silent);
    network.link(EDGE, addresses[1], silent);
    assert_eq!(call(&mut network, &uac), Some(Ending::HungUp(200)));
    assert_eq!(first_invites(&network, &addresses), [Some(60), Some(3_060), Some(6_060)]);

    // A connection that breaks while the call waits is as good as a refusal.
    let (mut network, uac) = named(&addresses, None, Transport::Tcp);
    network.link(addresses[0], EDGE, Link { delay: Duration::from_secs(5), ..Link::default() });
    let caller = uac.clone();
    network.act(UAC, |now, out| caller.borrow_mut().call(now, CallPlan::default(), out));
    network.run_for(Duration::from_secs(2));
    assert!(network.break_connections(EDGE, addresses[0]));
    assert!(network.run_until_idle(Duration::from_secs(600)));
    assert_eq!(uac.borrow().calls()[0].ending, Some(Ending::HungUp(200)));
    assert_eq!(first_invites(&network, &addresses), [Some(60), Some(2_000), None]);

    // A name that nobody knows is refused at once.
    let (mut network, uac) = named(&[], None, Transport::Udp);
    assert!(matches!(call(&mut network, &uac), Some(Ending::Rejected(500))));
}
