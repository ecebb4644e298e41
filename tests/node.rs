//! A whole edge between real sockets: calls cross workers and transports, stop reports what was seen.

mod support_edge;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use support_edge::{PATIENCE, address, parse, udp};
use vesperd::node::{Edge, Observer, Summary, clock};
use vesperd::proxy::Event;
use vesperd::sip::Limits;
use vesperd::sip::stream::{Frame, StreamFramer};

const CALLS: usize = 60;

/// An edge with UDP and TCP listeners on loopback. Whoever comes from loopback is the caller; `next_hop` is the callee.
fn edge(workers: usize, next_hop: &str, observer: &Observer) -> Edge {
    let text = format!(
        r#"
[node]
workers = {workers}
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[listener]]
name = "tcp"
transport = "tcp"
bind = "127.0.0.1:0"
[[trunk]]
name = "caller"
peers = "127.0.0.0/8"
[[trunk]]
name = "callee"
next_hop = "{next_hop}"
[[route]]
from = "caller"
to = "callee"
"#
    );
    Edge::start(parse(&text), observer).unwrap()
}

fn options(call: usize, transport: &str, via: SocketAddr) -> Vec<u8> {
    format!(
        "OPTIONS sip:12155550113@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/{transport} {via};branch=z9hG4bK-{call}\r\n\
         From: <sip:12155550112@192.0.2.8>;tag=a\r\nTo: <sip:12155550113@192.0.2.9>\r\nCall-ID: call-{call}@test\r\n\
         CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// A 200 to a request.
fn answer(request: &[u8]) -> Vec<u8> {
    let request = std::str::from_utf8(request).unwrap();
    let copied = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let lines: Vec<&str> =
        request.split("\r\n").filter(|line| copied.iter().any(|name| line.starts_with(name))).collect();
    let lines = lines.join("\r\n").replace("To: <sip:12155550113@192.0.2.9>", "To: <sip:12155550113@192.0.2.9>;tag=b");
    format!("SIP/2.0 200 OK\r\n{lines}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

fn call_of(message: &[u8]) -> usize {
    let text = std::str::from_utf8(message).unwrap();
    let after = text.split("Call-ID: call-").nth(1).unwrap();
    after.split('@').next().unwrap().parse().unwrap()
}

/// Hands every message of a stream to `take` until it says enough or the stream ends.
fn messages(mut stream: TcpStream, mut take: impl FnMut(&mut TcpStream, &[u8]) -> bool) {
    let (mut framer, limits, mut buffer) = (StreamFramer::new(), Limits::default(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return;
        }
        framer.push(&buffer[..count], clock::instant());
        while let Some(Frame::Message(range)) = framer.next(&limits).unwrap() {
            let message = framer.bytes()[range].to_vec();
            if !take(&mut stream, &message) {
                return;
            }
        }
    }
}

/// Answers every request that comes; ends with the process of the test.
fn udp_callee() -> SocketAddr {
    let socket = udp();
    let local = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65_535];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&answer(&buffer[..count]), from).unwrap();
        }
    });
    local
}

fn tcp_callee() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || messages(stream, |stream, request| stream.write_all(&answer(request)).is_ok()));
        }
    });
    local
}

fn call_over_udp(edge: &Edge) -> BTreeSet<usize> {
    let caller = udp();
    let to = address(edge, "udp");
    for call in 0..CALLS {
        caller.send_to(&options(call, "UDP", caller.local_addr().unwrap()), to).unwrap();
    }
    let mut buffer = [0; 65_535];
    let mut answered = BTreeSet::new();
    while answered.len() < CALLS {
        let (count, from) = caller.recv_from(&mut buffer).expect("every call is answered");
        assert_eq!(from, to, "T-4: from the socket the request came in on");
        assert!(buffer.starts_with(b"SIP/2.0 200 "));
        answered.insert(call_of(&buffer[..count]));
    }
    answered
}

fn call_over_tcp(edge: &Edge) -> BTreeSet<usize> {
    let mut caller = TcpStream::connect(address(edge, "tcp")).unwrap();
    caller.set_read_timeout(PATIENCE).unwrap();
    let via = caller.local_addr().unwrap();
    let all: Vec<u8> = (0..CALLS).flat_map(|call| options(call, "TCP", via)).collect();
    caller.write_all(&all).unwrap();
    let mut answered = BTreeSet::new();
    messages(caller, |_, response| {
        assert!(response.starts_with(b"SIP/2.0 200 "), "{}", response.escape_ascii());
        answered.insert(call_of(response));
        answered.len() < CALLS
    });
    answered
}

fn assert_good(answered: &BTreeSet<usize>, summary: &Summary, workers: usize) {
    assert_eq!(answered.len(), CALLS);
    assert_eq!((summary.proxy.requests, summary.proxy.responses), (CALLS as u64, CALLS as u64), "{summary:?}");
    assert_eq!(summary.restarts, 0);
    // One flow ends at one worker, so most calls cross; which ones is secret.
    assert_eq!(summary.worker.handed_over > 0, workers > 1, "{summary:?}");
    assert_eq!((summary.worker.lane_full, summary.worker.no_way, summary.worker.unusable), (0, 0, 0));
}

#[test]
fn calls_over_udp_find_their_worker() {
    for workers in [1, 3] {
        let edge = edge(workers, &format!("udp:{}", udp_callee()), &Observer::default());
        let answered = call_over_udp(&edge);
        assert_good(&answered, &edge.stop(), workers);
    }
}

#[test]
fn answers_over_tcp_leave_by_the_connection_of_the_request() {
    for workers in [1, 3] {
        let edge = edge(workers, &format!("udp:{}", udp_callee()), &Observer::default());
        let answered = call_over_tcp(&edge);
        let summary = edge.stop();
        assert_good(&answered, &summary, workers);
        assert_eq!((summary.tcp.accepted, summary.tcp.gone), (1, 0));
    }
}

#[test]
fn each_worker_opens_one_connection_to_a_next_hop() {
    for workers in [1, 3] {
        let edge = edge(workers, &format!("tcp:{}", tcp_callee()), &Observer::default());
        let answered = call_over_udp(&edge);
        let summary = edge.stop();
        assert_good(&answered, &summary, workers);
        assert_eq!(summary.tcp.opened, workers as u64, "CN-1: {summary:?}");
    }
}

#[test]
fn a_next_hop_that_is_not_there_is_answered_503_at_once() {
    // Bound, so that nobody else gets the port, but not listening.
    let closed = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    closed.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let closed_address = closed.local_addr().unwrap().as_socket().unwrap();
    let edge = edge(1, &format!("tcp:{closed_address}"), &Observer::default());
    let caller = udp();
    caller.send_to(&options(1, "UDP", caller.local_addr().unwrap()), address(&edge, "udp")).unwrap();
    let mut buffer = [0; 4096];
    let count = caller.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..count]);
    assert!(text.starts_with("SIP/2.0 50"), "K-9: {text}");
    assert_eq!(edge.stop().proxy.failed_attempts, 1);
}

#[test]
fn junk_and_keepalives_are_swallowed_and_events_are_told() {
    let (to, mut events) = tokio::sync::mpsc::channel(16);
    let edge = edge(1, "udp:192.0.2.1:5060", &Observer::new(to));
    let caller = udp();
    for junk in
        [&b"\r\n\r\n"[..], b"\0\0\0\0", b"\0\x01\0\0\x21\x12\xa4\x42aaaaaaaaaaaa", b"GET / HTTP/1.1\r\n\r\n", b"hello"]
    {
        caller.send_to(junk, address(&edge, "udp")).unwrap();
    }
    let bad = String::from_utf8(options(1, "UDP", caller.local_addr().unwrap()))
        .unwrap()
        .replace("Max-Forwards: 70", "Max-Forwards: 0");
    caller.send_to(bad.as_bytes(), address(&edge, "udp")).unwrap();
    let mut buffer = [0; 4096];
    let count = caller.recv(&mut buffer).unwrap();
    assert!(buffer[..count].starts_with(b"SIP/2.0 483 "), "the only answer");
    let event = events.blocking_recv().unwrap();
    assert!(
        matches!(&event, Event::Refused { call_id, status: Some(483), .. } if **call_id == *b"call-1@test"),
        "{event:?}"
    );
    let summary = edge.stop();
    assert_eq!((summary.worker.keepalives, summary.worker.stun, summary.worker.unusable), (2, 1, 2), "KA-2");
}

#[test]
fn an_address_in_use_is_named_even_if_it_is_by_an_edge() {
    let first = edge(2, "udp:192.0.2.1:5060", &Observer::default());
    for (name, _, address) in first.addresses() {
        let text = format!("[[listener]]\nname = \"taken\"\ntransport = \"{name}\"\nbind = \"{address}\"\n");
        let error = Edge::start(parse(&text), &Observer::default()).err().unwrap().to_string();
        assert!(error.starts_with(&format!("listener \"taken\": bind {address}: ")), "{error}");
    }
}

/// T-4 row 2: the caller closes its connection before the answer is there; it gets the answer at the port its Via names.
#[test]
fn t4_a_response_whose_connection_is_gone_goes_to_the_sent_by_port() {
    for workers in [1, 3] {
        let callee = udp();
        let edge = edge(workers, &format!("udp:{}", callee.local_addr().unwrap()), &Observer::default());
        let home = TcpListener::bind("127.0.0.1:0").unwrap();
        let via = home.local_addr().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for stream in home.incoming().flatten() {
                let tell = tell.clone();
                thread::spawn(move || messages(stream, |_, response| tell.send(call_of(response)).is_ok()));
            }
        });
        for call in 0..6 {
            let mut caller = TcpStream::connect(address(&edge, "tcp")).unwrap();
            caller.write_all(&options(call, "TCP", via)).unwrap();
            let mut buffer = [0; 65_535];
            let (count, from) = callee.recv_from(&mut buffer).expect("forwarded");
            caller.shutdown(std::net::Shutdown::Write).unwrap();
            // The edge has seen the end once it has closed its side too.
            caller.set_read_timeout(PATIENCE).unwrap();
            assert_eq!(caller.read(&mut [0; 16]).unwrap_or(0), 0);
            callee.send_to(&answer(&buffer[..count]), from).unwrap();
        }
        let answered: BTreeSet<usize> =
            (0..6).map(|_| told.recv_timeout(PATIENCE.unwrap()).expect("every answer finds its way")).collect();
        assert_eq!(answered.len(), 6);
        edge.stop();
    }
}

/// What the configuration says of connections and of STUN is in force after a reload, without a restart.
#[test]
fn limits_of_connections_and_stun_follow_a_reload() {
    let text = |node: &str, limits: &str| {
        let text = format!(
            "[node]\nworkers = 1\n{node}\n[limits]\n{limits}\n[[listener]]\nname = \"udp\"\ntransport = \"udp\"\n\
             bind = \"127.0.0.1:0\"\n[[listener]]\nname = \"tcp\"\ntransport = \"tcp\"\nbind = \"127.0.0.1:0\"\n\
             [[trunk]]\nname = \"all\"\npeers = \"127.0.0.0/8\"\n"
        );
        parse(&text)
    };
    let edge = Edge::start(text("", ""), &Observer::default()).unwrap();
    let asks = udp();
    let answered = |to: SocketAddr| {
        // Behind the binding request a request that is always answered: by whichever worker, in this order.
        asks.send_to(b"\0\x01\0\0\x21\x12\xa4\x42aaaaaaaaaaaa", to).unwrap();
        let request = String::from_utf8(options(1, "UDP", asks.local_addr().unwrap())).unwrap();
        asks.send_to(request.replace("sip:12155550113@192.0.2.9 SIP", &format!("sip:{to} SIP")).as_bytes(), to)
            .unwrap();
        let mut buffer = [0; 4096];
        let count = asks.recv(&mut buffer).unwrap();
        let is_stun = buffer[..count].starts_with(b"\x01\x01");
        if is_stun {
            asks.recv(&mut buffer).unwrap();
        }
        is_stun
    };
    assert!(!answered(address(&edge, "udp")));
    let is_taken = |mut stream: &TcpStream| {
        stream.set_read_timeout(PATIENCE).unwrap();
        let _ = stream.write_all(b"\r\n\r\n"); // a ping
        matches!(stream.read(&mut [0; 4]), Ok(2))
    };
    let held: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(address(&edge, "tcp")).unwrap()).collect();
    assert!(held.iter().all(is_taken));
    assert_eq!(edge.reload(text("stun = \"answer\"", "max_connections_per_prefix = 1")), Ok(vec![]));
    let deadline = clock::instant() + PATIENCE.unwrap();
    while !answered(address(&edge, "udp")) {
        assert!(clock::instant() < deadline);
    }
    assert!(!is_taken(&TcpStream::connect(address(&edge, "tcp")).unwrap()));
    assert!(held.iter().all(is_taken), "those that stand stay");
    assert_eq!(edge.reload(text("lane_capacity = 7", "")), Ok(vec!["node.lane_capacity"]));
    edge.stop();
}
