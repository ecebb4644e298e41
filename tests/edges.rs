//! What the edge learns from sockets besides messages: datagrams that come back by ICMP, connections that break.

mod support_edge;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use support_edge::start;
use vesperd::node::{Edge, clock};
use vesperd::proxy::dispatcher::MemberState;

/// Less than half of Timer B or F: whoever waits for them fails here.
const QUICKLY: Duration = Duration::from_secs(10);

fn edge(workers: usize, ip: &str, next_hops: &[SocketAddr]) -> Edge {
    let hops: Vec<String> = next_hops.iter().map(|hop| format!("udp:{hop}")).collect();
    edge_to(workers, ip, &hops)
}

fn edge_to(workers: usize, ip: &str, next_hops: &[String]) -> Edge {
    let hops: Vec<String> = next_hops.iter().map(|hop| format!("\"{hop}\"")).collect();
    let text = format!(
        r#"
[node]
workers = {workers}
[[listener]]
name = "udp"
transport = "udp"
bind = "{ip}:0"
[[listener]]
name = "tcp"
transport = "tcp"
bind = "{ip}:0"
[[trunk]]
name = "caller"
peers = ["127.0.0.0/8", "::1/128"]
[[trunk]]
name = "callee"
next_hop = [{}]
[[route]]
from = "caller"
to = "callee"
"#,
        hops.join(", ")
    );
    start(&text)
}

fn socket(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind(format!("{ip}:0")).unwrap();
    socket.set_read_timeout(Some(QUICKLY)).unwrap();
    socket
}

/// A port of loopback that is closed to the edge, and stays so: a socket connected to somebody else holds it.
fn closed(ip: &str) -> SocketAddr {
    let socket = UdpSocket::bind(format!("{ip}:0")).unwrap();
    socket.connect(format!("{ip}:9")).unwrap();
    let local = socket.local_addr().unwrap();
    std::mem::forget(socket);
    local
}

/// Answers every request; ends with the process of the test.
fn callee(ip: &str) -> SocketAddr {
    let socket = UdpSocket::bind(format!("{ip}:0")).unwrap();
    let local = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65_535];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let request = std::str::from_utf8(&buffer[..count]).unwrap();
            let copied = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
            let lines: Vec<&str> =
                request.split("\r\n").filter(|line| copied.iter().any(|name| line.starts_with(name))).collect();
            let lines = lines.join("\r\n");
            if !request.starts_with("ACK") {
                let answer = format!("SIP/2.0 200 OK\r\n{lines}\r\nContent-Length: 0\r\n\r\n");
                socket.send_to(answer.as_bytes(), from).unwrap();
            }
        }
    });
    local
}

fn request(method: &str, call: usize, via: SocketAddr) -> Vec<u8> {
    format!(
        "{method} sip:12155550113@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK-{call}\r\n\
         From: <sip:12155550112@192.0.2.8>;tag=a\r\nTo: <sip:12155550113@192.0.2.9>\r\nCall-ID: call-{call}@test\r\n\
         CSeq: 1 {method}\r\nContact: <sip:a@{via}>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// Sends so many requests, waits for the final responses of all; their status codes and how long it took.
fn statuses(edge: &Edge, ip: &str, method: &str, calls: usize) -> (Vec<String>, Duration) {
    let caller = socket(ip);
    let to = edge.addresses()[0].2;
    let begin = vesperd::node::clock::instant();
    for call in 0..calls {
        caller.send_to(&request(method, call, caller.local_addr().unwrap()), to).unwrap();
    }
    let (mut buffer, mut finals) = ([0; 65_535], vec![String::new(); calls]);
    while finals.iter().any(String::is_empty) {
        let count = caller.recv(&mut buffer).expect("a final response, quickly");
        let text = std::str::from_utf8(&buffer[..count]).unwrap();
        let status = text.split(' ').nth(1).unwrap().to_owned();
        let call: usize = text.split("call-").nth(1).unwrap().split('@').next().unwrap().parse().unwrap();
        if !status.starts_with('1') {
            finals[call] = status;
        }
    }
    (finals, begin.elapsed())
}

#[test]
fn t8_k9_a_closed_port_hands_the_call_to_the_next_address_at_once() {
    for (workers, ip) in [(1, "127.0.0.1"), (3, "127.0.0.1"), (1, "[::1]"), (3, "[::1]")] {
        for method in ["INVITE", "OPTIONS"] {
            let edge = edge(workers, ip, &[closed(ip), closed(ip), callee(ip)]);
            let (finals, took) = statuses(&edge, ip, method, 20);
            assert!(finals.iter().all(|status| status == "200"), "{workers} {ip} {method}: {finals:?}");
            assert!(took < QUICKLY);
            let summary = edge.stop();
            assert!(summary.udp.returned >= 1, "{summary:?}");
            assert_eq!(summary.udp.refused, 0, "T-9: no datagram pays for another's error");
        }
    }
}

#[test]
fn c30_all_down_is_an_error_quickly() {
    for (workers, ip) in [(1, "127.0.0.1"), (3, "[::1]")] {
        for method in ["INVITE", "OPTIONS"] {
            let edge = edge(workers, ip, &[closed(ip), closed(ip)]);
            let (finals, took) = statuses(&edge, ip, method, 10);
            assert!(finals.iter().all(|status| status.starts_with('5')), "{workers} {ip} {method}: {finals:?}");
            assert!(took < QUICKLY);
            let summary = edge.stop();
            assert_eq!(summary.proxy.failed_attempts, 20, "{summary:?}");
        }
    }
}

/// Takes one message from each connection, then closes it.
fn rude_callee() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 65_535]);
        }
    });
    local
}

#[test]
fn k9_a_connection_that_breaks_fails_the_requests_that_await_an_answer() {
    for method in ["INVITE", "OPTIONS"] {
        let hops = [format!("tcp:{}", rude_callee()), format!("udp:{}", callee("127.0.0.1"))];
        let edge = edge_to(1, "127.0.0.1", &hops);
        let (finals, took) = statuses(&edge, "127.0.0.1", method, 1);
        assert_eq!(finals, ["200"], "{method}: the next address is tried");
        assert!(took < QUICKLY);
        let summary = edge.stop();
        assert_eq!((summary.proxy.failed_attempts, summary.tcp.sent), (1, 1), "it was sent: {summary:?}");
    }
}

#[test]
fn ka2_a_nat_on_the_way_to_a_trunk_is_kept_open_and_stun_is_answered_where_it_is_wanted() {
    for answers in [true, false] {
        let gateway = UdpSocket::bind("127.0.0.2:0").unwrap();
        gateway.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let text = format!(
            r#"
[node]
workers = 2
stun = "{}"
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[trunk]]
name = "gateway"
next_hop = "udp:{}"
keepalive = true
"#,
            if answers { "answer" } else { "drop" },
            gateway.local_addr().unwrap()
        );
        let edge = start(&text);
        let mut buffer = [0; 100];
        let (count, from) = gateway.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..count], from), (&b"\r\n\r\n"[..], edge.addresses()[0].2));
        let request = b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl";
        gateway.send_to(request, from).unwrap();
        if answers {
            let (count, _) = gateway.recv_from(&mut buffer).unwrap();
            assert!(
                buffer[..count].starts_with(b"\x01\x01\x00\x0c\x21\x12\xa4\x42abcdefghijkl"),
                "{:?}",
                &buffer[..count]
            );
        }
        // Whatever comes behind it is handled behind it.
        let options = format!(
            "OPTIONS sip:{from} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.2;branch=z9hG4bK1;rport\r\nMax-Forwards: 70\r\n\
             From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: stun\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        );
        gateway.send_to(options.as_bytes(), from).unwrap();
        let (count, _) = gateway.recv_from(&mut buffer).unwrap();
        assert!(buffer[..count].starts_with(b"SIP/2.0 200"), "{}", String::from_utf8_lossy(&buffer[..count]));
        assert_eq!(edge.stop().worker.stun, 1);
    }
}

/// Several workers, one of which pings: the answer finds it (KR-7), what the operator sets counts for all (KR-4).
#[test]
fn kr7_an_edge_knows_how_its_gateway_stands() {
    let gateway = socket("127.0.0.1");
    let text = format!(
        r#"
[node]
workers = 4
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[trunk]]
name = "gateways"
down_after = 1
[trunk.probe]
interval_ms = 100
timeout_ms = 90
[[trunk.member]]
id = "gw"
next_hop = "udp:{}"
"#,
        gateway.local_addr().unwrap()
    );
    let edge = start(&text);
    let published = edge.published();
    let state = || published.members()[0].state;
    let next = || {
        let mut buffer = [0; 65_535];
        let (count, from) = gateway.recv_from(&mut buffer).expect("a ping comes");
        let ping = String::from_utf8(buffer[..count].to_vec()).unwrap();
        assert!(ping.starts_with("OPTIONS "), "{ping}");
        (ping, from)
    };
    let answer = |(ping, from): (String, SocketAddr)| {
        let answer = ping.replacen(ping.lines().next().unwrap(), "SIP/2.0 200 OK", 1);
        gateway.send_to(answer.as_bytes(), from).unwrap();
    };
    // Each wait is for a ping, so this ends when they do.
    while state() != MemberState::Inactive {
        next();
    }
    assert!(published.prometheus().contains("vesperd_target_up{trunk=\"gateways\",member=\"gw\"} 0\n"));
    while state() != MemberState::Active {
        answer(next());
    }
    assert!(published.members()[0].latency.is_some());
    let page = published.prometheus();
    assert!(page.contains("vesperd_target_up{trunk=\"gateways\",member=\"gw\"} 1\n"), "{page}");
    assert!(page.contains("vesperd_target_latency_seconds{trunk=\"gateways\",member=\"gw\"} 0."), "{page}");
    published.set_member_state("gateways", "gw", MemberState::Draining).unwrap();
    assert_eq!(state(), MemberState::Draining);
    edge.stop();
}

/// Pings over TCP: one connection for all of them, opened anew when it breaks; a connection that breaks, and one that nobody takes, is a
/// failure at once (KR-7).
#[test]
fn kr7_pings_over_tcp_share_a_connection_and_fail_with_it() {
    let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&gateway).set_read_timeout(Some(QUICKLY)).unwrap(); // for accept
    // A port that is closed and stays so: the near end of a connection to somebody else holds it.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    let unused = held.local_addr().unwrap();
    let text = format!(
        r#"
[node]
workers = 4
[[listener]]
name = "tcp"
transport = "tcp"
bind = "127.0.0.1:0"
[[trunk]]
name = "gateways"
down_after = 1
[trunk.probe]
interval_ms = 100
timeout_ms = 30000
up_after = 2
[[trunk.member]]
id = "gw"
next_hop = "tcp:{}"
[[trunk.member]]
id = "closed"
next_hop = "tcp:{unused}"
"#,
        gateway.local_addr().unwrap()
    );
    let edge = start(&text);
    let begin = clock::instant();
    let published = edge.published();
    let state = |place: usize| published.members()[place].state;
    let accept = || {
        let (stream, _) = gateway.accept().expect("a connection comes");
        stream.set_read_timeout(Some(QUICKLY)).unwrap();
        stream
    };
    // Each wait is for a ping, so this ends when they do.
    while state(0) != MemberState::Inactive || state(1) != MemberState::Inactive {
        assert!(read_ping(&mut accept()).starts_with("OPTIONS "));
    }
    assert!(begin.elapsed() < QUICKLY, "no timeout was waited for");
    let mut stream = accept();
    let mut answered = 0;
    while state(0) != MemberState::Active || answered < 10 {
        let ping = read_ping(&mut stream);
        assert!(ping.contains("\r\nVia: SIP/2.0/TCP "), "{ping}");
        let answer = ping.replacen(ping.lines().next().unwrap(), "SIP/2.0 200 OK", 1);
        stream.write_all(answer.as_bytes()).unwrap();
        answered += 1;
    }
    assert!(published.members()[0].latency.is_some());
    assert_eq!(state(1), MemberState::Inactive);
    drop(stream);
    while state(0) != MemberState::Inactive {
        read_ping(&mut accept());
    }
    edge.stop();
}

/// A message without a body.
fn read_ping(stream: &mut TcpStream) -> String {
    let (mut octet, mut message) = ([0], Vec::new());
    while !message.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet).expect("a ping comes");
        message.push(octet[0]);
    }
    String::from_utf8(message).unwrap()
}
