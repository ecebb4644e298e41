//! The transports over real loopback sockets: few, short, without waiting for the clock.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use vesperd::node::clock;
use vesperd::sip::Limits;
use vesperd::sip::hop::{ConnectionId, Hop, ListenerId, Outbox, Transport};
use vesperd::transport::tcp::{self, CloseReason, Incoming, Refused, Table};
use vesperd::transport::udp::{self, BATCH, Batch, Socket};

const LOCAL: ListenerId = ListenerId(3);
const LOOPBACK: &str = "127.0.0.1:0";

fn hop(transport: Transport, remote: SocketAddr) -> Hop {
    Hop { transport, local: LOCAL, remote, connection: None, peer: None }
}

fn udp_socket(address: &str, config: &udp::Config) -> (Socket, SocketAddr) {
    let socket = udp::bind(address.parse().unwrap(), config).unwrap();
    let address = socket.local_addr().unwrap();
    (Socket::new(socket, LOCAL, config).unwrap(), address)
}

/// Polls until `count` datagrams have come.
async fn receive(socket: &mut Socket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let (mut batch, mut failed, mut all) = (Batch::new(), Vec::new(), Vec::new());
    while all.len() < count {
        let received = poll_fn(|cx| socket.poll(cx, &mut batch, &mut failed)).await.unwrap();
        assert_eq!(batch.iter().count(), received);
        all.extend(batch.iter().map(|(from, bytes)| (from, bytes.to_vec())));
    }
    all
}

#[tokio::test]
async fn t6_datagrams_of_all_sizes_travel_in_batches_with_their_source() {
    for address in [LOOPBACK, "[::1]:0"] {
        let config = udp::Config::default();
        let (mut from, source) = udp_socket(address, &config);
        let (mut to, destination) = udp_socket(address, &config);
        let mut outbox = Outbox::new();
        let sizes: Vec<usize> = (0..BATCH + 9).map(|i| if i == 7 { 65_507 } else { i * 13 }).collect();
        for (i, &size) in sizes.iter().enumerate() {
            outbox.push(hop(Transport::Udp, destination), 0, &vec![i as u8; size]);
        }
        let items: Vec<usize> = (0..sizes.len()).collect();
        let mut failed = Vec::new();
        from.send(&outbox, &items, &mut failed);
        let received = receive(&mut to, sizes.len()).await;
        for (i, (remote, bytes)) in received.iter().enumerate() {
            assert_eq!(*remote, source);
            assert_eq!(*bytes, vec![i as u8; sizes[i]], "order and content of datagram {i}");
        }
        assert!(failed.is_empty());
        assert_eq!((from.stats().sent, to.stats().received), (sizes.len() as u64, sizes.len() as u64));
    }
}

#[tokio::test]
async fn a_datagram_the_kernel_refuses_fails_alone() {
    let config = udp::Config::default();
    let (mut from, _) = udp_socket(LOOPBACK, &config);
    let (mut to, destination) = udp_socket(LOOPBACK, &config);
    let mut outbox = Outbox::new();
    for (tag, size) in [(1, 10), (2, 65_508), (0, 65_508), (4, 20)] {
        outbox.push(hop(Transport::Udp, destination), tag, &vec![b'x'; size]);
    }
    let mut failed = Vec::new();
    from.send(&outbox, &[0, 1, 2, 3], &mut failed);
    let sizes: Vec<usize> = receive(&mut to, 2).await.iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(sizes, [10, 20]);
    assert_eq!(failed, [2], "tag 0: nobody cares");
    assert_eq!(from.stats().refused, 2);
}

#[tokio::test]
async fn sockets_of_one_address_share_the_flows_and_nobody_else_gets_it() {
    let config = udp::Config::default();
    let first = udp::bind(LOOPBACK.parse().unwrap(), &config).unwrap();
    let second = udp::share(&first, &config).unwrap();
    let address = first.local_addr().unwrap();
    assert_eq!(second.local_addr().unwrap(), address);
    assert!(udp::bind(address, &config).is_err(), "another edge must not take half of the traffic");
    let peers: Vec<_> = (0..64).map(|_| std::net::UdpSocket::bind(LOOPBACK).unwrap()).collect();
    for peer in &peers {
        peer.send_to(b"x", address).unwrap();
    }
    let mut counts = [0; 2];
    for (socket, count) in [first, second].iter().zip(&mut counts) {
        while socket.recv(&mut [0; 8]).is_ok() {
            *count += 1;
        }
    }
    assert!(counts[0] > 0 && counts[1] > 0 && counts[0] + counts[1] == 64, "{counts:?}");

    let first = tcp::bind(LOOPBACK.parse().unwrap()).unwrap();
    let second = tcp::share(&first).unwrap();
    let address = first.local_addr().unwrap();
    assert!(tcp::bind(address).is_err());
    let peers: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let counts = [first, second].map(|listener| std::iter::from_fn(|| listener.accept().ok()).count());
    assert!(counts[0] > 0 && counts[1] > 0 && counts[0] + counts[1] == peers.len(), "{counts:?}");
}

/// A table and what its driver holds.
fn tcp_hop(local: ListenerId, remote: SocketAddr) -> Hop {
    Hop { transport: Transport::Tcp, local, remote, connection: None, peer: None }
}

struct Rig {
    table: Table,
    scratch: Vec<u8>,
    failed: Vec<u64>,
    now: Instant,
}

impl Rig {
    fn new(config: tcp::Config) -> Self {
        let table = Table::new(config, Limits::default(), 5, 0);
        Self { table, scratch: vec![0; 4096], failed: Vec::new(), now: clock::instant() }
    }

    /// A pair of connected sockets, one of them in the table.
    async fn accept(&mut self) -> (TcpStream, Result<ConnectionId, Refused>) {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, remote) = listener.accept().await.unwrap();
        (peer, self.table.accept(stream, LOCAL, remote, None, self.now))
    }

    /// The next thing the connection holds, reading as needed.
    async fn next(&mut self, id: ConnectionId) -> Incoming {
        loop {
            match self.table.next(id, &mut self.failed) {
                Incoming::Nothing => {}
                other => return other,
            }
            let Self { table, scratch, failed, now } = self;
            if !poll_fn(|cx| table.poll_read(cx, id, scratch, *now, failed)).await {
                return Incoming::Closed;
            }
        }
    }

    async fn next_message(&mut self, id: ConnectionId) -> Vec<u8> {
        match self.next(id).await {
            Incoming::Message(range) => self.table.bytes(id, range).to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, id: ConnectionId, tag: u64, bytes: &[u8]) {
        self.table.send(id, tag, bytes, &mut self.failed);
    }

    fn flush(&mut self) {
        self.table.flush_all(self.now, &mut self.failed);
    }

    fn closed(&self, reason: CloseReason) -> u64 {
        self.table.stats().closed[reason as usize]
    }
}

fn options(call: &str) -> Vec<u8> {
    format!(
        "OPTIONS sip:a@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.2;branch=z9hG4bK{call}\r\nCall-ID: {call}\r\n\
         Content-Length: 4\r\n\r\nbody"
    )
    .into_bytes()
}

async fn read_to_end(mut peer: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    peer.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn messages_are_framed_across_reads_and_pings_are_answered() {
    let mut rig = Rig::new(tcp::Config::default());
    let (mut peer, id) = rig.accept().await;
    let id = id.unwrap();
    assert_eq!(Table::worker_of(id), 5);
    let hop = rig.table.hop(id).unwrap();
    assert_eq!((hop.transport, hop.local, hop.remote), (Transport::Tcp, LOCAL, peer.local_addr().unwrap()));
    assert_eq!(hop.connection, Some(id));

    let (one, two) = (options("one"), options("two"));
    let stream = [&b"\r\n\r\n"[..], &one, &two].concat();
    let (head, tail) = stream.split_at(one.len() + 30);
    peer.write_all(head).await.unwrap();
    assert_eq!(rig.next_message(id).await, one);
    peer.write_all(tail).await.unwrap();
    assert_eq!(rig.next_message(id).await, two);
    rig.flush();
    let mut pong = [0; 2];
    peer.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"\r\n", "KA-1");

    drop(peer);
    assert_eq!(rig.next(id).await, Incoming::Closed);
    assert_eq!((rig.closed(CloseReason::Peer), rig.table.len()), (1, 0));
    assert_eq!(rig.table.stats().received, 2);
}

#[tokio::test]
async fn a_message_that_is_held_comes_again_before_the_next() {
    let mut rig = Rig::new(tcp::Config::default());
    let (mut peer, id) = rig.accept().await;
    let id = id.unwrap();
    peer.write_all(&[options("one"), options("two")].concat()).await.unwrap();
    let Incoming::Message(range) = rig.next(id).await else { panic!("no message") };
    rig.table.hold(id, range);
    // However long its owner has no room: the peer was not slow.
    rig.table.sweep(rig.now + Duration::from_secs(60), &mut rig.failed);
    assert_eq!(rig.next_message(id).await, options("one"));
    assert_eq!(rig.next_message(id).await, options("two"));
}

#[tokio::test]
async fn messages_wait_for_a_connection_to_open_and_leave_in_order() {
    let mut rig = Rig::new(tcp::Config::default());
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let remote = listener.local_addr().unwrap();
    let id = rig.table.open(tcp_hop(LOCAL, remote), rig.now).unwrap();
    assert_eq!(rig.table.find(tcp_hop(LOCAL, remote)), Some(id), "CN-1: used again while it opens");
    assert_eq!(rig.table.find(tcp_hop(ListenerId(0), remote)), None, "T-11: another listener, another connection");
    rig.send(id, 1, b"one ");
    rig.flush();
    rig.send(id, 2, b"two");
    let opened = tcp::connect("127.0.0.1:9".parse().unwrap(), remote, Duration::from_secs(5)).await;
    rig.table.connected(id, opened, rig.now, &mut rig.failed);
    let (mut peer, _) = listener.accept().await.unwrap();
    let mut got = [0; 7];
    peer.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"one two");
    assert!(rig.failed.is_empty());
}

#[tokio::test]
async fn k9_a_connection_that_can_not_be_opened_fails_its_messages() {
    let mut rig = Rig::new(tcp::Config::default());
    // Bound, so that nobody else gets the port, but not listening.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&LOOPBACK.parse::<SocketAddr>().unwrap().into()).unwrap();
    let closed = socket.local_addr().unwrap().as_socket().unwrap();
    let id = rig.table.open(tcp_hop(LOCAL, closed), rig.now).unwrap();
    for tag in [7, 0, 9] {
        rig.send(id, tag, b"x");
    }
    let refused = tcp::connect(LOOPBACK.parse().unwrap(), closed, Duration::from_secs(5)).await;
    rig.table.connected(id, refused, rig.now, &mut rig.failed);
    assert_eq!(rig.failed, [7, 9]);
    assert_eq!(rig.closed(CloseReason::ConnectFailed), 1);
    assert_eq!(rig.table.find(tcp_hop(LOCAL, closed)), None);
    rig.send(id, 11, b"x");
    assert_eq!((rig.failed.last(), rig.table.stats().gone), (Some(&11), 1));
}

#[tokio::test]
async fn t4_what_another_worker_sent_fails_at_that_worker() {
    let mut rig = Rig::new(tcp::Config::default());
    let id = rig.table.open(tcp_hop(LOCAL, "192.0.2.1:5060".parse().unwrap()), rig.now).unwrap();
    let theirs = |tag| tcp::Tag { worker: 3, tag };
    rig.send(id, 7, b"x");
    for tag in [8, 0, 9] {
        rig.table.send_for(id, theirs(tag), b"x", &mut rig.failed);
    }
    rig.table.close(id, CloseReason::Error, &mut rig.failed);
    rig.table.send_for(id, theirs(10), b"x", &mut rig.failed);
    assert_eq!(rig.failed, [7]);
    assert_eq!(rig.table.take_failed_of_others(), [theirs(8), theirs(9), theirs(10)]);
    assert!(rig.table.take_failed_of_others().is_empty(), "once");
}

#[tokio::test]
async fn ids_are_not_used_twice() {
    let mut rig = Rig::new(tcp::Config::default());
    let remote = "192.0.2.1:5060".parse().unwrap();
    let first = rig.table.open(tcp_hop(LOCAL, remote), rig.now).unwrap();
    rig.table.close(first, CloseReason::Error, &mut rig.failed);
    let second = rig.table.open(tcp_hop(LOCAL, remote), rig.now).unwrap();
    assert_ne!(first, second);
    rig.table.close(first, CloseReason::Error, &mut rig.failed);
    assert_eq!(rig.table.find(tcp_hop(LOCAL, remote)), Some(second), "the old id does not close the new connection");
}

#[tokio::test]
async fn cn6_a_peer_that_does_not_read_fills_its_own_queue_only() {
    let config = tcp::Config { write_queue_bytes: 100_000, write_queue_messages: 10, ..tcp::Config::default() };
    let mut rig = Rig::new(config);
    let (peer, id) = rig.accept().await;
    let id = id.unwrap();
    let message = vec![b'x'; 60_000];
    let mut sent = 0;
    // The kernel's buffers take some megabytes, then the queue takes its share, then it is full.
    while rig.failed.is_empty() {
        rig.send(id, sent + 1, &message);
        rig.flush();
        sent += 1;
    }
    assert_eq!(rig.failed, [sent]);
    assert_eq!(rig.table.stats().queue_full, 1);
    rig.table.close_when_written(id, CloseReason::Broken, rig.now);
    rig.flush();
    let reader = tokio::spawn(read_to_end(peer));
    assert_eq!(rig.next(id).await, Incoming::Closed, "driven to its end by the peer, which reads and closes");
    assert_eq!(reader.await.unwrap().len() as u64, (sent - 1) * 60_000, "nothing that was taken is lost");
}

#[tokio::test]
async fn output_that_is_blocked_again_is_written_again() {
    const OUTPUT: usize = 24 << 20; // more than the kernel takes for a peer that does not read
    let mut rig = Rig::new(tcp::Config { write_queue_bytes: OUTPUT, ..tcp::Config::default() });
    let (mut peer, id) = rig.accept().await;
    let (id, rig) = (id.unwrap(), std::rc::Rc::new(std::cell::RefCell::new(rig)));
    let local = LocalSet::new();
    // The task of the connection waits for input, which never comes; what is to be sent comes from another one.
    let served = std::rc::Rc::clone(&rig);
    local.spawn_local(poll_fn(move |cx| {
        let Rig { table, scratch, failed, now } = &mut *served.borrow_mut();
        table.poll_read(cx, id, scratch, *now, failed)
    }));
    let run = async {
        let mut received = vec![0; OUTPUT];
        for _ in 0..2 {
            tokio::task::yield_now().await;
            rig.borrow_mut().send(id, 0, &vec![b'x'; OUTPUT]);
            rig.borrow_mut().flush();
            let read = tokio::time::timeout(Duration::from_secs(20), peer.read_exact(&mut received)).await;
            read.expect("nothing is left waiting").unwrap();
        }
    };
    local.run_until(run).await;
}

#[tokio::test]
async fn the_number_of_messages_that_wait_is_bounded_too() {
    let mut rig = Rig::new(tcp::Config { write_queue_messages: 2, ..tcp::Config::default() });
    let id = rig.table.open(tcp_hop(LOCAL, "192.0.2.1:5060".parse().unwrap()), rig.now).unwrap();
    for tag in [1, 2, 3] {
        rig.send(id, tag, b"x");
    }
    assert_eq!(rig.failed, [3]);
}

#[tokio::test]
async fn connections_are_limited_in_all_and_per_source() {
    let mut rig = Rig::new(tcp::Config { max_connections: 3, max_per_prefix: 2, ..tcp::Config::default() });
    let (first, id) = rig.accept().await;
    let (_second, _) = rig.accept().await;
    assert_eq!(rig.accept().await.1, Err(Refused::Prefix));
    let remote = "192.0.2.1:5060".parse().unwrap();
    rig.table.open(tcp_hop(LOCAL, remote), rig.now).unwrap();
    assert_eq!(rig.table.open(tcp_hop(ListenerId(0), remote), rig.now), Err(Refused::Full));
    drop(first);
    assert_eq!(rig.next(id.unwrap()).await, Incoming::Closed);
    assert!(rig.accept().await.1.is_ok(), "room again");
    let stats = rig.table.stats();
    assert_eq!((stats.accepted, stats.opened, stats.refused_prefix, stats.refused_full), (3, 1, 1, 1));
}

#[tokio::test]
async fn what_is_under_handshake_counts_for_its_prefix_once() {
    let mut rig = Rig::new(tcp::Config { max_per_prefix: 2, ..tcp::Config::default() });
    let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
    for remote in ["192.0.2.1:1", "192.0.2.77:2"].map(at) {
        assert_eq!(rig.table.count(remote), Ok(()));
    }
    assert_eq!(rig.table.count(at("192.0.2.3:3")), Err(Refused::Prefix));
    assert_eq!(rig.table.count(at("192.0.3.1:3")), Ok(()), "another prefix");
    rig.table.discount(at("192.0.2.1:1"));
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let id = rig.table.accept_counted(stream, LOCAL, at("192.0.2.77:2"), None, rig.now).unwrap();
    assert_eq!(rig.table.count(at("192.0.2.4:4")), Ok(()), "one is taken in, one is free");
    assert_eq!(rig.table.count(at("192.0.2.5:5")), Err(Refused::Prefix));
    rig.table.close(id, CloseReason::Idle, &mut rig.failed);
    assert_eq!(rig.table.count(at("192.0.2.5:5")), Ok(()));
}

#[tokio::test]
async fn f7_slow_and_idle_connections_are_closed() {
    let mut rig = Rig::new(tcp::Config { idle_timeout: Duration::from_secs(100), ..tcp::Config::default() });
    let (mut slow, slow_id) = rig.accept().await;
    let (idle, _) = rig.accept().await;
    slow.write_all(b"OPTIONS sip:a@192.0.2.1 SIP/2.0\r\nVia").await.unwrap();
    let Rig { table, scratch, failed, now } = &mut rig;
    let slow_id = slow_id.unwrap();
    assert!(poll_fn(|cx| table.poll_read(cx, slow_id, scratch, *now, failed)).await);
    assert_eq!(table.next(slow_id, failed), Incoming::Nothing);
    let later = |seconds| *now + Duration::from_secs(seconds);
    table.sweep(later(9), failed);
    assert_eq!(table.len(), 2);
    table.sweep(later(10), failed);
    assert_eq!(table.len(), 1);
    table.sweep(later(99), failed);
    assert_eq!(table.len(), 1);
    table.sweep(later(100), failed);
    assert!(table.is_empty());
    assert_eq!((rig.closed(CloseReason::TooSlow), rig.closed(CloseReason::Idle)), (1, 1));
    assert!(read_to_end(slow).await.is_empty() && read_to_end(idle).await.is_empty());
}

#[tokio::test]
async fn ka1_a_kept_connection_is_pinged_dies_without_a_pong_and_is_due_again() {
    let mut rig = Rig::new(tcp::Config { idle_timeout: Duration::from_secs(110), ..Default::default() });
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let way = hop(Transport::Tcp, listener.local_addr().unwrap());
    let id = rig.table.open(way, rig.now).unwrap();
    rig.table.keep(id, None, rig.now);
    let stream = TcpStream::connect(way.remote).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    rig.table.connected(id, Ok::<_, std::io::Error>(stream), rig.now, &mut rig.failed);
    let start = rig.now;
    let sweep = |rig: &mut Rig, seconds| {
        rig.now = start + Duration::from_secs(seconds);
        rig.table.sweep(rig.now, &mut rig.failed);
        rig.flush();
        rig.table.stats().pings
    };
    // Without a seed the interval is the shortest there is.
    assert_eq!((sweep(&mut rig, 94), sweep(&mut rig, 95)), (0, 1));
    let mut ping = [0; 4];
    peer.read_exact(&mut ping).await.unwrap();
    assert_eq!(&ping, b"\r\n\r\n");
    peer.write_all(b"\r\n").await.unwrap();
    let Rig { table, scratch, failed, now } = &mut rig;
    assert!(poll_fn(|cx| table.poll_read(cx, id, scratch, *now, failed)).await);
    assert_eq!(table.next(id, failed), Incoming::Nothing);
    assert_eq!(sweep(&mut rig, 120), 1, "the pong was heard");
    assert_eq!(sweep(&mut rig, 190), 2, "and kept the connection from being idle");
    peer.read_exact(&mut ping).await.unwrap();
    rig.send(id, 7, b"OPTIONS sip:a@b SIP/2.0\r\n\r\n");
    assert_eq!((sweep(&mut rig, 199), rig.table.len()), (2, 1));
    sweep(&mut rig, 200);
    assert_eq!((rig.closed(CloseReason::NoPong), rig.table.len(), rig.failed.as_slice()), (1, 0, &[7][..]));
    // KA-4: half of 60 s at least.
    assert!(rig.table.needs_sweep());
    let due = |rig: &mut Rig, seconds| rig.table.to_reopen(start + Duration::from_secs(seconds));
    assert!(due(&mut rig, 200).is_empty() && due(&mut rig, 229).is_empty());
    assert_eq!(due(&mut rig, 230), [way]);
    let id = rig.table.open(way, rig.now).unwrap();
    rig.table.keep(id, None, rig.now);
    assert!(due(&mut rig, 300).is_empty());
    rig.table.close(id, CloseReason::ConnectFailed, &mut rig.failed);
    assert!(due(&mut rig, 300).is_empty() && due(&mut rig, 359).is_empty());
    assert_eq!(due(&mut rig, 360), [way], "longer the second time");
    rig.table.forget(way);
    assert!(!rig.table.needs_sweep());
}

#[tokio::test]
async fn f5_what_is_not_sip_closes_the_connection() {
    for junk in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut rig = Rig::new(tcp::Config::default());
        let (mut peer, id) = rig.accept().await;
        peer.write_all(junk).await.unwrap();
        assert_eq!(rig.next(id.unwrap()).await, Incoming::Closed);
        assert_eq!(rig.closed(CloseReason::NotSip), 1);
    }
}

#[tokio::test]
async fn f2_a_message_without_end_is_answered_before_the_connection_ends() {
    let mut rig = Rig::new(tcp::Config::default());
    let (mut peer, id) = rig.accept().await;
    let id = id.unwrap();
    peer.write_all(b"OPTIONS sip:a@192.0.2.1 SIP/2.0\r\nContent-Length: -1\r\n\r\nand more that nobody reads")
        .await
        .unwrap();
    let Incoming::Broken(range) = rig.next(id).await else { panic!("not noticed") };
    assert!(rig.table.bytes(id, range).ends_with(b"-1\r\n\r\n"));
    // The answer may come after the decision to close: it is still written.
    rig.table.close_when_written(id, CloseReason::Broken, rig.now);
    rig.send(id, 0, b"SIP/2.0 400 Bad Content-Length\r\n\r\n");
    rig.flush();
    rig.send(id, 5, b"nothing follows");
    rig.flush();
    assert_eq!(rig.failed, [5]);
    peer.write_all(b"still talking").await.unwrap();
    assert_eq!(read_to_end(peer).await, b"SIP/2.0 400 Bad Content-Length\r\n\r\n");
    assert_eq!(rig.next(id).await, Incoming::Closed);
}
