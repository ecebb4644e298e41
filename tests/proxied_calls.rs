//! Whole calls through two proxies in a row over the simulated network, with loss, duplication and reordering: every call ends,
//! nothing leaks in any of the four elements, and no retransmission becomes a second call (C-39).

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::network::{Link, Network, Shared, SimNode, shared};
use support::ua::{Answer, CallPlan, Ending, Uac, Uas};
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
    fn new(own: SocketAddr, transport: Transport, before: SocketAddr, behind: SocketAddr, epoch: Instant) -> Self {
        let trunk = |name: &str, remote| Trunk {
            name: name.into(),
            peers: Vec::new(),
            next_hops: vec![NextHop { transport, remote }],
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
            }],
            trunks: vec![trunk("before", before), trunk("behind", behind)],
            routes: vec![Route { from: Some(TrunkId(0)), prefix: None, to: TrunkId(1) }],
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
        let first = shared(ProxyNode::new(FIRST, transport, UAC, SECOND, epoch));
        let second = shared(ProxyNode::new(SECOND, transport, FIRST, UAS, epoch));
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

#[test]
fn c39_calls_over_a_bad_network_all_end() {
    let seeds = if std::env::var_os("VESPERD_LONG").is_some() { 1_000 } else { 40 };
    for loss in [0, 50, 200] {
        let (mut calls, mut abnormal) = (0, 0);
        for seed in 0..seeds {
            let link =
                Link { jitter: Duration::from_millis(20), loss, duplication: 50, reordering: 50, ..Link::default() };
            let mut chain = Chain::new(seed, Transport::Udp, link);
            for n in 0..12u64 {
                let status = [200, 200, 200, 486][(n % 4) as usize];
                chain.uas.borrow_mut().answers.push_back(Answer::with(status));
                let cancel_after = (n % 3 == 2).then(|| Duration::from_millis(500 * n));
                chain.call(CallPlan { cancel_after, ..CallPlan::default() });
                chain.network.run_for(Duration::from_millis(137));
            }
            let endings = chain.run();
            calls += endings.len();
            let is_normal = |e: &&Ending| matches!(e, Ending::HungUp(200) | Ending::Rejected(486 | 487));
            abnormal += endings.iter().filter(|e| !is_normal(e)).count();
        }
        // At 20 % loss on three hops a transaction may legally time out; without loss none does.
        let allowed = if loss == 200 { calls / 50 } else { 0 };
        assert!(abnormal <= allowed, "{abnormal} of {calls} calls ended badly at {loss} per mille");
    }
}
