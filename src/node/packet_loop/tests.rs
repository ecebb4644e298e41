//! What a packet loop does by itself, on a clock of its own.

use std::io;

use super::*;
use crate::cert::TrustStore;
use crate::node::Observer;
use crate::node::fetch::{self, FetchThread};
use crate::node::names::TrunkNames;
use crate::node::trust::Desk;
use crate::proxy::{Config, Listener, Place, Route, Target, Trunk, TrunkId};
use crate::sip::Uri;
use crate::stir::replay::ReplayTable;

const GATEWAY: ([u8; 4], u16) = ([192, 0, 2, 1], 5060);

/// A loop of a single worker over TCP, without sockets; trunk 1 is kept open and its next hop is a name.
fn packets(max_connections: usize) -> PacketLoop {
    let named = Trunk { keepalive: true, next_hops: vec![name("gw.example")], ..Trunk::default() };
    let config = Config { trunks: vec![Trunk::default(), named], ..Config::default() };
    packets_of(config, max_connections, 7)
}

fn name(host: &str) -> Place {
    Place::Locate(Target::of_uri(&Uri::parse(format!("sip:{host};transport=tcp").as_bytes()).unwrap()).unwrap())
}

/// The same with another configuration; each life of a worker has another seed.
fn packets_of(config: Config, max_connections: usize, seed: u8) -> PacketLoop {
    let listener = Listener {
        name: "tcp".into(),
        transport: Transport::Tcp,
        bind: ([192, 0, 2, 9], 5060).into(),
        advertise_host: "192.0.2.9".into(),
        advertise_port: 5060,
        names: Vec::new(),
    };
    let config = Config { listeners: vec![listener], ..config };
    let snapshot = Arc::new(Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() });
    let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
    let parts = Parts {
        worker: 0,
        restarts: 0,
        owners: Owners { key: [0; 16], workers: 1 },
        seed: [seed; 32],
        snapshot,
        tcp: tcp::Config { max_connections, ..tcp::Config::default() },
        answers_stun: false,
        messages: Outs::default(),
        transmits: Outs::default(),
        fetcher: fetch.fetcher(),
        answers: mpsc::channel(1).0,
        locator: None,
        located: mpsc::channel(1).0,
        signer: signer::Asker::default(),
        signatures: mpsc::channel(1).0,
        cdr: None,
        events: Events::new(Observer::default(), TrunkNames::default()),
    };
    PacketLoop::new(parts, Vec::new())
}

fn hop(port: u16, peer: u16) -> Hop {
    let remote = (GATEWAY.0, port).into();
    Hop { transport: Transport::Tcp, local: ListenerId(0), remote, connection: None, peer: Some(PeerId(peer)) }
}

fn later(now: Now, seconds: u64) -> Now {
    Now { instant: now.instant + Duration::from_secs(seconds), ..now }
}

/// The connection that is being opened can not be.
fn refuse(packets: &mut PacketLoop, now: Now) {
    let [opening] = &packets.take_opening()[..] else { panic!("one connection is being opened") };
    let refused = Err::<Stream, _>(io::ErrorKind::ConnectionRefused.into());
    packets.tcp.connected(opening.id, refused, now.instant, &mut packets.failed);
}

#[test]
fn ka4_a_kept_connection_to_a_next_hop_that_is_a_name_is_opened_again() {
    let (mut packets, now) = (packets(10), now());
    packets.open(now, hop(GATEWAY.1, 1)).unwrap();
    for failures in 1..4 {
        refuse(&mut packets, now);
        let lost = later(now, 10_000 * failures);
        packets.reopen(lost);
        assert!(packets.take_opening().is_empty(), "not at once");
        packets.reopen(later(lost, 1_801));
        assert_eq!(packets.opening.len(), 1, "no address leads from it to its trunk");
        assert_eq!(packets.opening[0].remote, GATEWAY.into());
        assert_eq!(packets.tcp.find(hop(GATEWAY.1, 1)), Some(packets.opening[0].id));
    }
}

#[test]
fn ka4_what_finds_no_room_is_opened_when_there_is_some() {
    let (mut packets, now) = (packets(1), now());
    packets.open(now, hop(GATEWAY.1, 1)).unwrap();
    refuse(&mut packets, now);
    packets.reopen(now);
    let other = packets.open(now, hop(5070, 0)).unwrap();
    packets.take_opening();
    packets.reopen(later(now, 1_801));
    assert!(packets.take_opening().is_empty(), "the table is full");
    packets.tcp.close(other, CloseReason::Idle, &mut packets.failed);
    packets.reopen(later(now, 1_802));
    assert_eq!(packets.opening.len(), 1);
}

#[test]
fn what_is_not_to_be_kept_is_not_opened_again() {
    let (mut packets, now) = (packets(10), now());
    packets.open(now, hop(GATEWAY.1, 0)).unwrap();
    refuse(&mut packets, now);
    packets.reopen(now);
    packets.reopen(later(now, 1_801));
    assert!(packets.take_opening().is_empty());
}

/// A call to a trunk of two gateways with names; it has been received and waits for the address of the first.
fn call_to_names(seed: u8, now: Now) -> PacketLoop {
    let peers = Trunk { peers: vec!["198.51.100.0/24".parse().unwrap()], ..Trunk::default() };
    let gateways = Trunk { next_hops: vec![name("one.example"), name("two.example")], ..Trunk::default() };
    let (trunks, routes) = (vec![peers, gateways], vec![Route::between(TrunkId(0), TrunkId(1))]);
    let mut packets = packets_of(Config { trunks, routes, locate: true, ..Config::default() }, 10, seed);
    let source = Hop { remote: "198.51.100.9:5060".parse().unwrap(), peer: None, ..hop(0, 0) };
    let invite = "INVITE sip:a@b.example SIP/2.0\r\nVia: SIP/2.0/TCP 198.51.100.9;branch=z9hG4bK1\r\n\
                  From: <sip:a@b>;tag=1\r\nTo: <sip:b@c>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n\
                  Contact: <sip:198.51.100.9>\r\nContent-Length: 0\r\n\r\n";
    packets.machine.receive(now, source, invite.as_bytes(), Framing::Stream, true);
    assert_eq!(packets.machine.output.needs.len(), 1);
    packets
}

#[test]
fn what_is_answered_at_once_and_asks_for_the_next_thing_is_asked_at_once() {
    let now = now();
    let mut packets = call_to_names(7, now);
    // Without name servers there is an answer before this returns, and then the second gateway is asked for.
    packets.settle(now);
    assert!(packets.machine.output.needs.is_empty());
    assert_eq!(packets.report().summary.unanswered, 0);
}

/// After a panic the mailboxes are the same, and lanes of other workers still tell of what could not be sent.
#[test]
fn late_answers_to_an_earlier_life_of_a_worker_meet_nothing_of_this_one() {
    let now = now();
    let ids = [1, 2].map(|seed| {
        let output = call_to_names(seed, now).machine.output;
        let tag = output.outbox.items().first().map(|trying| trying.tag);
        (output.needs.first().map(|need| need.id), tag)
    });
    assert!(ids.iter().all(|(need, tag)| need.is_some() && tag.is_some_and(|tag| tag != 0)), "{ids:?}");
    assert!(ids[0].0 != ids[1].0 && ids[0].1 != ids[1].1, "{ids:?}");
}
