//! Whole calls through two proxies in a row over the simulated network, with loss, duplication and reordering: every call ends,
//! nothing leaks in any of the four elements, and no retransmission becomes a second call (C-39).

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::network::{Link, Network, Shared, SimNode, shared};
use support::rng::Rng;
use support::ua::{Answer, CallPlan, Ending, TakenState, Uac, Uas};
use vesperd::proxy::{Config, Listener, NextHop, Now, Output, Proxy, Route, Snapshot, Trunk, TrunkId, UdpOversize};
use vesperd::sip::hop::{Hop, ListenerId, Outbox};
use vesperd::sip::{self, Framing, Index, Limits, Transport};
use vesperd::stir::TrustStore;
use vesperd::stir::replay::ReplayTable;

const UAC: SocketAddr = address(1, 5060);
const FIRST: SocketAddr = address(2, 5060);
const SECOND: SocketAddr = address(3, 5060);
const UAS: SocketAddr = address(4, 5080);

const fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, host)), port)
}

/// A proxy as a node of the simulated network.
struct ProxyNode {
    proxy: Proxy,
    index: Index,
    epoch: Instant,
    output: Output,
}

impl ProxyNode {
    fn new(own: SocketAddr, transport: Transport, before: SocketAddr, behind: &[SocketAddr], epoch: Instant) -> Self {
        let trunk = |name: &str, remotes: &[SocketAddr]| Trunk {
            name: name.into(),
            peers: Vec::new(),
            dispatcher: vesperd::proxy::dispatcher::Dispatcher::new(Default::default(), Vec::new(), remotes.len()),
            next_hops: remotes.iter().map(|remote| NextHop { transport, remote: *remote }.into()).collect(),
            listener: ListenerId(0),
            trusted: false,
            sign: None,
            verify: None,
            udp_oversize: UdpOversize::Udp,
            ..Trunk::default()
        };
        let config = Config {
            listeners: vec![Listener {
                name: "only".into(),
                transport,
                bind: own,
                advertise_host: own.ip().to_string(),
                advertise_port: own.port(),
                names: Vec::new(),
            }],
            trunks: vec![trunk("before", &[before]), trunk("behind", behind)],
            routes: vec![Route::between(TrunkId(0), TrunkId(1))],
            ..Config::default()
        };
        let snapshot = Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() };
        let now = Now { instant: epoch, unix: 1_795_219_200 };
        let seed = [own.port() as u8 ^ 0x5a; 32];
        Self { proxy: Proxy::new(Arc::new(snapshot), seed, now), index: Index::new(), epoch, output: Output::default() }
    }

    fn now(&self, instant: Instant) -> Now {
        Now { instant, unix: 1_795_219_200 + instant.duration_since(self.epoch).as_secs() as i64 }
    }

    fn give(&mut self, out: &mut Outbox) {
        for item in self.output.outbox.items() {
            out.push(item.hop, item.tag, self.output.outbox.bytes_of(item));
        }
        self.output.outbox.clear();
    }
}

impl SimNode for ProxyNode {
    fn receive(&mut self, now: Instant, source: Hop, bytes: &[u8], out: &mut Outbox) {
        let now = self.now(now);
        let Ok(message) = sip::parse(bytes, &mut self.index, Framing::Datagram, &Limits::default()) else { return };
        self.proxy.handle_message(now, source, message, &mut self.output);
        self.give(out);
    }

    fn transport_failed(&mut self, now: Instant, tag: u64, out: &mut Outbox) {
        self.proxy.handle_transport_failure(self.now(now), tag, &mut self.output);
        self.give(out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.proxy.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.proxy.handle_timeout(self.now(now), &mut self.output);
        self.give(out);
    }
}

struct Chain {
    network: Network,
    uac: Shared<Uac>,
    proxies: [Shared<ProxyNode>; 2],
    uas: Shared<Uas>,
}

impl Chain {
    fn new(seed: u64, transport: Transport, link: Link) -> Self {
        let mut network = Network::new(seed, link);
        let epoch = network.now();
        let uac = shared(Uac::new(UAC, FIRST, transport, epoch));
        let first = shared(ProxyNode::new(FIRST, transport, UAC, &[SECOND], epoch));
        let second = shared(ProxyNode::new(SECOND, transport, FIRST, &[UAS], epoch));
        let uas = shared(Uas::new(UAS, Answer::default(), epoch));
        network.add(&[UAC], &uac);
        network.add(&[FIRST], &first);
        network.add(&[SECOND], &second);
        network.add(&[UAS], &uas);
        Self { network, uac, proxies: [first, second], uas }
    }

    fn call(&mut self, plan: CallPlan) {
        let uac = self.uac.clone();
        self.network.act(UAC, |now, out| uac.borrow_mut().call(now, plan, out));
    }

    fn run(&mut self) -> Vec<Ending> {
        assert!(self.network.run_until_idle(Duration::from_secs(900)), "something runs for ever");
        for proxy in &self.proxies {
            assert_eq!(proxy.borrow().proxy.live(), 0, "a context leaked");
        }
        assert_eq!((self.uac.borrow().layer().live(), self.uas.borrow().layer().live()), ((0, 0), (0, 0)));
        let uas = self.uas.borrow();
        let calls: BTreeSet<_> = uas.taken().iter().map(|taken| taken.call_id()).collect();
        assert_eq!(calls.len(), uas.taken().len(), "a retransmitted INVITE became a second call");
        self.uac.borrow().calls().iter().map(|call| call.ending.expect("every call ends")).collect()
    }
}

#[test]
fn a_call_through_two_proxies_takes_exactly_its_messages() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut chain = Chain::new(1, transport, Link::default());
        chain.call(CallPlan::default());
        assert_eq!(chain.run(), [Ending::HungUp(200)], "{transport:?}");
        let passed: Vec<_> = chain.network.sent(SECOND, UAS).iter().map(|line| line[..3].to_owned()).collect();
        assert_eq!(passed, ["INV", "ACK", "BYE"], "{transport:?}");
        let uas = chain.uas.borrow();
        let invite = uas.taken()[0].invite.message();
        assert_eq!(invite.values(sip::Name::Via).count(), 3);
        assert_eq!(invite.values(sip::Name::RecordRoute).count(), 2);
        assert_eq!(invite.max_forwards(), Ok(Some(68)));
    }
}

#[test]
fn rejected_and_cancelled_calls_end_as_they_should() {
    let mut chain = Chain::new(2, Transport::Udp, Link::default());
    chain.uas.borrow_mut().answers.extend([Answer::with(603), Answer::with(486)]);
    chain.call(CallPlan::default());
    chain.call(CallPlan::default());
    chain.call(CallPlan { cancel_after: Some(Duration::from_millis(500)), ..CallPlan::default() });
    assert_eq!(chain.run(), [Ending::Rejected(603), Ending::Rejected(486), Ending::Rejected(487)]);
}

#[test]
fn nobody_behind_the_second_proxy() {
    let mut chain = Chain::new(3, Transport::Udp, Link::default());
    chain.network.link(SECOND, UAS, Link { loss: 1000, ..Link::default() });
    chain.call(CallPlan::default());
    assert_eq!(chain.run(), [Ending::Rejected(408)]);

    let mut chain = Chain::new(4, Transport::Tcp, Link::default());
    chain.network.link(SECOND, UAS, Link { refused: true, ..Link::default() });
    chain.call(CallPlan::default());
    assert_eq!(chain.run(), [Ending::Rejected(500)]);
}

fn bad_network(loss: u32) -> Link {
    Link { jitter: Duration::from_millis(20), loss, duplication: 50, reordering: 50, ..Link::default() }
}

/// `usual` seeds in an ordinary run, `long` ones with `VESPERD_LONG`.
fn seeds(usual: u64, long: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("VESPERD_LONG").is_some() { long } else { usual }
}

/// What the callers were told of each INVITE, as the wire shows it: a call gets either one final response other than 2xx, the same in
/// every copy, or nothing but 2xx.
fn check_finals(network: &Network, proxy: SocketAddr, caller: SocketAddr) {
    let mut finals: BTreeMap<Vec<u8>, BTreeSet<u16>> = BTreeMap::new();
    for packet in network.packets().iter().filter(|p| (p.from, p.to) == (proxy, caller)) {
        let received = support::message::message(&packet.bytes);
        let response = received.message();
        let of_invite = response.cseq().is_ok_and(|cseq| cseq.method == sip::Method::Invite);
        if let Some(status) = response.status().filter(|status| *status >= 200 && of_invite) {
            let class = if status < 300 { 200 } else { status };
            finals.entry(response.call_id().unwrap_or_default().to_vec()).or_default().insert(class);
        }
    }
    for (call, statuses) in finals {
        assert_eq!(statuses.len(), 1, "{}: {statuses:?}", String::from_utf8_lossy(&call));
    }
}

#[test]
fn c39_calls_over_a_bad_network_all_end() {
    for loss in [0, 50, 200] {
        let (mut calls, mut abnormal) = (0, 0);
        for seed in seeds(40, 1_000) {
            let mut chain = Chain::new(seed, Transport::Udp, bad_network(loss));
            for n in 0..12u64 {
                let status = [200, 200, 200, 486][(n % 4) as usize];
                chain.uas.borrow_mut().answers.push_back(Answer::with(status));
                let cancel_after = (n % 3 == 2).then(|| Duration::from_millis(500 * n));
                chain.call(CallPlan { cancel_after, ..CallPlan::default() });
                chain.network.run_for(Duration::from_millis(137));
            }
            let endings = chain.run();
            check_finals(&chain.network, FIRST, UAC);
            calls += endings.len();
            let is_normal = |e: &&Ending| matches!(e, Ending::HungUp(200) | Ending::Rejected(486 | 487));
            abnormal += endings.iter().filter(|e| !is_normal(e)).count();
        }
        // At 20 % loss on three hops a transaction may legally time out; without loss none does.
        let allowed = if loss == 200 { calls / 50 } else { 0 };
        assert!(abnormal <= allowed, "{abnormal} of {calls} calls ended badly at {loss} per mille");
    }
}

/// Share of calls that must be answered at this loss, by the timers alone (T1 = 500 ms). An INVITE gets over a hop unless seven copies
/// fail to bring a provisional back; its 2xx is repeated by the callee alone, eleven times over three hops.
fn model_of_answered(loss: f64) -> f64 {
    let kept = 1.0 - loss;
    let hop = 1.0 - (1.0 - kept * kept).powi(7);
    let success = 1.0 - (1.0 - kept.powi(3)).powi(11);
    hop.powi(3) * success
}

#[test]
fn ten_thousand_calls_at_20_percent_loss_are_answered_as_often_as_the_timers_allow() {
    let (mut calls, mut answered) = (0_usize, 0_usize);
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    for seed in seeds(100, 1_000) {
        let mut chain = Chain::new(seed ^ 0xca11, Transport::Udp, bad_network(200));
        for _ in 0..100 {
            chain.call(CallPlan::default());
            chain.network.run_for(Duration::from_millis(53));
        }
        let endings = chain.run();
        check_finals(&chain.network, FIRST, UAC);
        calls += endings.len();
        for (call, ending) in chain.uac.borrow().calls().iter().zip(&endings) {
            let is_answered = call.responses.iter().any(|status| (200..300).contains(status));
            answered += usize::from(is_answered);
            // What is not answered ended by a timer: here, at one of the proxies, or after the caller had waited long enough.
            let by_timer =
                matches!(ending, Ending::TimedOut | Ending::Rejected(408 | 487 | 500 | 503) | Ending::CancelTimedOut);
            assert!(is_answered || by_timer, "seed {seed}: {ending:?}, responses {:?}", call.responses);
            if !is_answered {
                *others.entry(format!("{ending:?}")).or_default() += 1;
            }
        }
        let unacknowledged = |taken: &&support::ua::Taken| taken.state == TakenState::Unacknowledged;
        assert!(chain.uas.borrow().taken().iter().filter(unacknowledged).count() <= 15, "seed {seed}: ACKs are lost");
    }
    let (share, model) = (answered as f64 / calls as f64, model_of_answered(0.2));
    println!(
        "{calls} calls, {:.2} % answered; the timers alone allow {:.2} %; the others: {others:?}",
        share * 100.0,
        model * 100.0
    );
    assert!((share - model).abs() < 0.01, "{share} is not near {model}");
}

/// One edge in front of three gateways that die and come back; each gateway a host of its own.
struct Fan {
    network: Network,
    uac: Shared<Uac>,
    edge: Shared<ProxyNode>,
    gateways: Vec<(SocketAddr, Shared<Uas>)>,
}

impl Fan {
    fn new(seed: u64, transport: Transport, link: Link) -> Self {
        let mut network = Network::new(seed, link);
        let epoch = network.now();
        let addresses = [address(11, 5080), address(12, 5081), address(13, 5082)];
        let uac = shared(Uac::new(UAC, FIRST, transport, epoch));
        let edge = shared(ProxyNode::new(FIRST, transport, UAC, &addresses, epoch));
        network.add(&[UAC], &uac);
        network.add(&[FIRST], &edge);
        let gateways = addresses.map(|at| {
            let gateway = shared(Uas::new(at, Answer::default(), epoch));
            network.add(&[at], &gateway);
            (at, gateway)
        });
        Self { network, uac, edge, gateways: gateways.to_vec() }
    }

    /// Cuts a gateway off, silently or with an error to whoever sends there; or brings it back.
    fn set_alive(&mut self, gateway: usize, alive: bool, refused: bool, link: Link) {
        let at = self.gateways[gateway].0;
        let dead = Link { loss: 1000, refused, ..link };
        self.network.link(FIRST, at, if alive { link } else { dead });
        self.network.link(at, FIRST, if alive { link } else { Link { loss: 1000, ..link } });
    }

    fn call(&mut self) {
        let uac = self.uac.clone();
        self.network.act(UAC, |now, out| uac.borrow_mut().call(now, CallPlan::default(), out));
    }
}

#[test]
fn gateways_die_and_come_back_and_no_invariant_breaks() {
    let (mut calls, mut answered) = (0_usize, 0_usize);
    for seed in seeds(2_000, 50_000) {
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ 0xdead);
        let link = bad_network(if seed % 3 == 0 { 100 } else { 0 });
        let mut fan = Fan::new(seed, Transport::Udp, link);
        let mut alive = [true; 3];
        for _ in 0..12 {
            let gateway = rng.below(3) as usize;
            // The last gateway stays, so that calls can be answered.
            if gateway < 2 {
                alive[gateway] = !alive[gateway];
                fan.set_alive(gateway, alive[gateway], rng.chance(500), link);
            }
            fan.call();
            fan.network.run_for(Duration::from_millis(rng.below(15_000)));
        }
        for (gateway, _) in alive.iter().enumerate().filter(|(_, alive)| !**alive) {
            fan.network.run_for(Duration::from_secs(5));
            fan.set_alive(gateway, true, false, link);
        }
        assert!(fan.network.run_until_idle(Duration::from_secs(1_200)), "seed {seed}: something runs for ever");
        assert_eq!(fan.edge.borrow().proxy.live(), 0, "seed {seed}: a context leaked");
        check_finals(&fan.network, FIRST, UAC);
        for (at, gateway) in &fan.gateways {
            let gateway = gateway.borrow();
            let seen: BTreeSet<_> = gateway.taken().iter().map(|taken| taken.call_id()).collect();
            assert_eq!(seen.len(), gateway.taken().len(), "seed {seed}: {at} got a call twice");
            assert_eq!(gateway.layer().live(), (0, 0), "seed {seed}: {at} keeps a transaction");
        }
        for call in fan.uac.borrow().calls() {
            assert!(call.ending.is_some(), "seed {seed}: {} does not end", call.call_id());
            calls += 1;
            answered += usize::from(call.responses.iter().any(|status| (200..300).contains(status)));
        }
    }
    println!(
        "{calls} calls over gateways that die and come back, {:.2} % answered",
        answered as f64 * 100.0 / calls as f64
    );
    assert!(answered * 100 > calls * 90, "{answered} of {calls}");
}

#[test]
fn kr3_a_gateway_that_is_dead_costs_three_calls_their_patience_and_then_none() {
    let mut fan = Fan::new(6, Transport::Udp, Link::default());
    fan.set_alive(0, false, false, Link::default());
    for _ in 0..5 {
        fan.call();
        fan.network.run_for(Duration::from_secs(60));
    }
    let tried = |network: &Network, to| {
        let invites =
            network.packets().iter().filter(|p| (p.from, p.to) == (FIRST, to) && p.bytes.starts_with(b"INVITE"));
        invites
            .map(|p| support::message::message(&p.bytes).message().call_id().unwrap_or_default().to_vec())
            .collect::<BTreeSet<_>>()
    };
    let dead = fan.gateways[0].0;
    assert_eq!(tried(&fan.network, dead).len(), 3 + 1, "three in a row, and one more when its half minute is over");
    assert_eq!(tried(&fan.network, fan.gateways[1].0).len(), 5);
    fan.set_alive(0, true, false, Link::default());
    fan.network.run_for(Duration::from_secs(60));
    let before = tried(&fan.network, dead).len();
    fan.call();
    fan.network.run_for(Duration::from_secs(60));
    fan.call();
    fan.network.run_until_idle(Duration::from_secs(600));
    assert_eq!(tried(&fan.network, dead).len(), before + 2, "it answers again and has its place");
    assert!(fan.uac.borrow().calls().iter().all(|call| call.ending == Some(Ending::HungUp(200))));
}

#[test]
fn c27_failover_takes_as_long_as_its_timers_say() {
    let mut fan = Fan::new(5, Transport::Udp, Link::default());
    // Nobody answers at the first (64*T1), the second is refused at once, the third rings.
    fan.set_alive(0, false, false, Link::default());
    fan.set_alive(1, false, true, Link::default());
    fan.call();
    fan.network.run_until_idle(Duration::from_secs(600));
    let first_at = |to| {
        let mut packets = fan.network.packets().iter().filter(|p| (p.from, p.to) == (FIRST, to));
        packets.next().map(|p| p.at.as_millis())
    };
    let at: Vec<_> = fan.gateways.iter().map(|(at, _)| first_at(*at)).collect();
    println!("first INVITE to each gateway, virtual milliseconds: {at:?}");
    assert_eq!(at, [Some(10), Some(32_010), Some(32_020)]);
    assert_eq!(fan.uac.borrow().calls()[0].ending, Some(Ending::HungUp(200)));
}

/// The operator of the second proxy ends two calls: one that rings, one that stands. All four elements end them in order.
#[test]
fn calls_that_the_operator_ends_end_everywhere() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut chain = Chain::new(7, transport, Link::default());
        let slow = Answer { after: Duration::from_secs(100), ..Answer::default() };
        chain.uas.borrow_mut().answers.extend([slow, Answer::default()]);
        for _ in 0..2 {
            chain.call(CallPlan { talk: Duration::from_secs(500), ..CallPlan::default() });
            chain.network.run_for(Duration::from_secs(1));
        }
        chain.network.run_for(Duration::from_secs(20));
        let ids: Vec<String> = chain.uac.borrow().calls().iter().map(|call| call.call_id().to_owned()).collect();
        for id in ids {
            let second = chain.proxies[1].clone();
            chain.network.act(SECOND, |now, out| {
                let mut node = second.borrow_mut();
                let now = node.now(now);
                let ProxyNode { proxy, output, .. } = &mut *node;
                let ended = proxy.end_calls(now, id.as_bytes(), output);
                assert_eq!(ended.cancelled + ended.hung_up, 1, "{id}");
                node.give(out);
            });
        }
        assert_eq!(chain.run(), [Ending::Rejected(487), Ending::HungUpByPeer], "{transport:?}");
        let states: Vec<_> = chain.uas.borrow().taken().iter().map(|taken| taken.state).collect();
        assert_eq!(states, [TakenState::Cancelled, TakenState::HungUp], "{transport:?}");
        assert!(chain.proxies.iter().all(|proxy| proxy.borrow().proxy.calls().is_empty()), "{transport:?}");
    }
}
