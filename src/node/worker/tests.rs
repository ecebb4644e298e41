use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connections::drive;
use super::*;
use crate::cert::TrustStore;
use crate::node::fetch::{self, FetchThread};
use crate::node::handshake::{self, HandshakeThread};
use crate::node::packet_loop::Opening;
use crate::node::trust::Desk;
use crate::proxy;
use crate::stir::replay::ReplayTable;
use crate::transport::tls;

fn worker(fetch: &FetchThread, handshakes: &HandshakeThread, stop: CancellationToken) -> Worker {
    let config = proxy::Config::default();
    let snapshot = Arc::new(Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() });
    Worker {
        number: 0,
        owners: Owners { key: [0; 16], workers: 1 },
        orders: watch::channel(Orders::new(snapshot)).1,
        published: Arc::default(),
        udp: udp::Config::default(),
        bound: Bound { udp: Vec::new(), tcp: Vec::new() },
        message_outs: Outs::default(),
        message_ins: Ins::default(),
        transmit_outs: Outs::default(),
        transmit_ins: Ins::default(),
        fetcher: fetch.fetcher(),
        handshaker: handshakes.handshaker(),
        answers: mpsc::channel(1),
        locator: None,
        located: mpsc::channel(1),
        signer: signer::Asker::default(),
        signatures: mpsc::channel(1),
        questions: mpsc::channel(1),
        asked: mpsc::channel(1),
        cdr: None,
        observer: Observer::default(),
        names: TrunkNames::default(),
        stop,
    }
}

#[tokio::test]
async fn a_panic_ends_this_life_and_nothing_works_on_what_it_left() {
    let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
    let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
    let stop = CancellationToken::new();
    let mut worker = worker(&fetch, &handshakes, stop.clone());
    let first = worker.shared(Vec::new(), &Rc::default());
    assert!(first.with(|_| panic!("on purpose")).is_none());
    assert!(first.with(|_| ()).is_none());
    assert!(matches!(worker.serve(&first).await, End::Panicked(_)));

    let next = worker.shared(Vec::new(), &Rc::default());
    assert!(next.with(|_| ()).is_some());
    stop.cancel();
    assert!(matches!(worker.serve(&next).await, End::Stopped(_)));
}

#[tokio::test]
async fn no_counter_falls_when_a_worker_begins_anew_and_the_restart_is_counted() {
    let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
    let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
    let stop = CancellationToken::new();
    let mut worker = worker(&fetch, &handshakes, stop.clone());
    worker.published = Arc::new(Published::new(1, TrunkNames::default()));
    let mut earlier = Rc::new(Report::default());
    for life in 1..=3 {
        let shared = worker.shared(Vec::new(), &earlier);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, remote) = listener.accept().await.unwrap();
        shared.enter(|packets| {
            packets.machine.counters.keepalives += 10;
            packets.on_accepted(stream, remote, ListenerId(0), None).unwrap();
        });
        shared.publish(&worker.published, 0);
        let seen = worker.published.summary();
        assert_eq!((seen.worker.keepalives, seen.tcp.accepted, seen.restarts), (10 * life, life, life as u32 - 1));
        assert_eq!(seen.tcp.closed.iter().sum::<u64>(), life - 1, "those of earlier lives are gone");
        shared.with(|_| panic!("on purpose"));
        let End::Panicked(report) = worker.serve(&shared).await else { panic!("it has panicked") };
        earlier = Rc::new(report.buried());
    }
    stop.cancel();
    let End::Stopped(report) = worker.serve(&worker.shared(Vec::new(), &earlier)).await else { panic!("told to") };
    assert_eq!((report.summary.worker.keepalives, report.summary.restarts), (30, 3));
}

/// RFC 9060 section 6: a list that came with a chain counts for the call that waited for the chain.
#[tokio::test]
async fn what_was_learned_with_an_answer_is_in_force_when_the_answer_is_heard() {
    let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
    let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
    let mut worker = worker(&fetch, &handshakes, CancellationToken::new());
    let snapshot = |epoch| {
        let trust = TrustStore { epoch, ..TrustStore::default() };
        Arc::new(Snapshot { config: proxy::Config::default(), trust, replay: ReplayTable::default() })
    };
    let (orders, receiver) = watch::channel(Orders::new(snapshot(0)));
    worker.orders = receiver;
    let shared = worker.shared(Vec::new(), &Rc::default());
    orders.send_modify(|orders| orders.snapshot = snapshot(1));
    worker.hear(Answered { id: 0, result: Err(fetch::FetchError::Busy) }, &shared);
    assert_eq!(shared.with(|packets| packets.machine.proxy.snapshot().trust.epoch), Some(1));
}

/// Lets other tasks run until this holds.
async fn until(shared: &Shared, holds: impl Fn(&PacketLoop) -> bool) {
    let reached = async {
        while !shared.with(|packets| holds(packets)).unwrap() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("it comes about");
}

/// The rate itself is tested where it is made, in virtual time; here, that a listener asks it and waits.
#[tokio::test]
async fn a_listener_that_has_accepted_its_share_lets_others_wait() {
    let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
    let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
    let worker = worker(&fetch, &handshakes, CancellationToken::new());
    let shared = worker.shared(Vec::new(), &Rc::default());
    let local = LocalSet::new();
    let mut peers = Vec::new();
    let run = async {
        // The share of the first listener is used up for an hour.
        for bucket in [3_600_000_000_000, 0] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let pace = Pace { began: clock::instant(), bucket };
            spawn_local(accept(shared.clone(), listener, (ListenerId(0), Transport::Tcp), pace));
            peers.push(TcpStream::connect(address).await.unwrap());
        }
        // When the one that came last is served, the first one is still not accepted.
        let last = peers.last_mut().unwrap();
        last.write_all(b"\r\n\r\n").await.unwrap();
        last.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(shared.with(|packets| packets.tcp.stats().accepted), Some(1));
    };
    local.run_until(run).await;
}

#[tokio::test]
async fn a_connection_that_waits_for_a_lane_goes_on_writing() {
    const OUTPUT: usize = 24 << 20; // more than the kernel takes for a peer that does not read
    let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
    let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
    let mut worker = worker(&fetch, &handshakes, CancellationToken::new());
    let owners = Owners { key: [0; 16], workers: 2 };
    // The other worker never takes anything out of its lane.
    let mut lanes = super::super::lane::between(2, 1);
    (worker.owners, worker.message_outs) = (owners, std::mem::take(&mut lanes[0].0));
    let mut orders = worker.orders.borrow().clone();
    orders.tcp.write_queue_bytes = OUTPUT;
    worker.orders = watch::channel(orders).1;
    let shared = worker.shared(Vec::new(), &Rc::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, remote) = listener.accept().await.unwrap();
    let id = shared.with(|packets| packets.on_accepted(stream, remote, ListenerId(0), None)).unwrap().unwrap();
    let local = LocalSet::new();
    local.spawn_local(drive(shared.clone(), id));
    let call = (0..).map(|n| format!("call-{n}")).find(|call| owners.of(call.as_bytes()) == 1).unwrap();
    let request = format!(
        "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@c>\r\n\
         Call-ID: {call}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    let run = async {
        peer.write_all(request.as_bytes()).await.unwrap();
        until(&shared, |packets| packets.machine.counters.handed_over == 1).await;
        peer.write_all(request.as_bytes()).await.unwrap();
        until(&shared, |packets| packets.machine.counters.lane_waits == 1).await;
        shared.enter(|packets| {
            packets.tcp.send(id, 0, &vec![b'x'; OUTPUT], &mut Vec::new());
            packets.tcp.flush_all(clock::instant(), &mut Vec::new());
        });
        let mut received = vec![0; OUTPUT];
        let read = tokio::time::timeout(Duration::from_secs(20), peer.read_exact(&mut received)).await;
        assert!(read.is_ok(), "all of it arrives while the lane is full");
        shared.with(|packets| assert_eq!(packets.machine.counters.lane_waits, 1)).unwrap();
    };
    local.run_until(run).await;
}

#[tokio::test]
async fn ka1_a_reload_gives_and_takes_the_pings_of_connections_that_stand() {
    let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
    let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
    let worker = worker(&fetch, &handshakes, CancellationToken::new());
    let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let remote = peer.local_addr().unwrap();
    // The next hop is a name: whose connection it is stands in no address.
    let snapshot = |keepalive| {
        let listener = proxy::Listener {
            name: "tcp".into(),
            transport: Transport::Tcp,
            bind: "127.0.0.1:0".parse().unwrap(),
            advertise_host: "edge.example".into(),
            advertise_port: 5060,
            names: Vec::new(),
        };
        let trunks = vec![proxy::Trunk { keepalive, ..proxy::Trunk::default() }];
        let config = proxy::Config { listeners: vec![listener], trunks, ..proxy::Config::default() };
        Arc::new(Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() })
    };
    let mut packets = PacketLoop::new(Parts { snapshot: snapshot(false), ..worker.parts(0) }, Vec::new());
    let peer_id = Some(crate::sip::hop::PeerId(0));
    let hop = crate::sip::hop::Hop {
        transport: Transport::Tcp,
        local: ListenerId(0),
        remote,
        connection: None,
        peer: peer_id,
    };
    packets.machine.output.outbox.push(hop, 0, b"\r\n\r\n");
    packets.settle(super::super::machine::now());
    let opening = packets.take_opening();
    let [Opening { id, .. }] = opening[..] else { panic!("one connection is opened") };
    packets.on_connected(id, Ok(TcpStream::connect(remote).await.unwrap().into()));
    let (start, mut failed) = (clock::instant(), Vec::new());
    let mut pings_until = |packets: &mut PacketLoop, seconds| {
        packets.tcp.sweep(start + Duration::from_secs(seconds), &mut failed);
        packets.tcp.stats().pings
    };
    assert_eq!(pings_until(&mut packets, 200), 0);
    packets.set_snapshot(snapshot(true));
    assert_eq!(pings_until(&mut packets, 200), 1);
    packets.set_snapshot(snapshot(true));
    assert_eq!(pings_until(&mut packets, 205), 1, "it goes on in its rhythm");
    packets.set_snapshot(snapshot(false));
    assert_eq!(pings_until(&mut packets, 600), 1, "nor does anybody wait for the answer any more");
    assert_eq!(packets.tcp.len(), 1);
    assert!(packets.tcp.to_reopen(start + Duration::from_secs(9999)).is_empty());
}
