//! A peer that sends without a pause keeps neither the timers of its worker nor its other messages waiting, over WebSocket and TLS; and what a
//! reload allows reaches the connections that stand.

mod support_edge;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use support_edge::{PATIENCE, SelfSigned, address, parse, tcp, tls, udp};
use vesperd::config::Config;
use vesperd::node::{Edge, Observer, clock};

/// Octets that the flood is ahead of what is asked.
const AHEAD: usize = 1 << 20;

fn config(listener: &str, gateway: SocketAddr, limits: &str) -> Config {
    let text = format!(
        r#"
[node]
workers = 1
[limits]
{limits}
[[listener]]
name = "stream"
bind = "127.0.0.1:0"
{listener}
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[trunk]]
name = "callers"
peers = "127.0.0.0/8"
[[trunk]]
name = "gateway"
next_hop = "udp:{gateway}"
[[route]]
from = "callers"
to = "gateway"
"#
    );
    parse(&text)
}

fn start(config: Config) -> Edge {
    Edge::start(config, &Observer::default()).unwrap()
}

fn message(method: &str, transport: &str, uri: &str, via: SocketAddr, body: &str) -> String {
    format!(
        "{method} sip:{uri} SIP/2.0\r\nVia: SIP/2.0/{transport} {via};branch=z9hG4bK-{method}-{}\r\n\
         From: <sip:a@192.0.2.8>;tag=a\r\nTo: <sip:b@192.0.2.9>\r\nCall-ID: {via}\r\nCSeq: 1 {method}\r\n\
         Max-Forwards: 70\r\nContent-Length: {}\r\n\r\n{body}",
        body.len(),
        body.len()
    )
}

/// A thread that writes the same octets again and again until this is dropped or the connection ends.
#[derive(Default)]
struct Flood {
    /// Octets that were taken.
    taken: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
}

impl Flood {
    fn start(mut stream: impl Write + Send + 'static, octets: Vec<u8>) -> Self {
        let flood = Flood::default();
        let (taken, ends) = (flood.taken.clone(), flood.ends.clone());
        thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) && stream.write_all(&octets).is_ok() {
                taken.fetch_add(octets.len(), Ordering::SeqCst);
            }
        });
        flood
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
    }
}

/// The flood has the worker busy; a request is forwarded all the same, and repeated when its timer says so.
fn is_served_beside(edge: &Edge, gateway: &UdpSocket, flood: &Flood) {
    while flood.taken.load(Ordering::SeqCst) < AHEAD {
        thread::yield_now();
    }
    let caller = udp();
    let text = message("MESSAGE", "UDP", "12155550113@192.0.2.9", caller.local_addr().unwrap(), "");
    caller.send_to(text.as_bytes(), address(edge, "udp")).unwrap();
    let mut copies = [[0; 2048]; 2];
    for copy in &mut copies {
        let (count, _) = gateway.recv_from(copy).expect("the request, and again by Timer E");
        assert!(copy[..count].starts_with(b"MESSAGE "));
    }
    assert_eq!(copies[0], copies[1]);
}

#[test]
fn a_web_socket_that_never_stops_lets_others_have_their_turn() {
    let gateway = udp();
    let edge = start(config("transport = \"ws\"\norigins = \"*\"", gateway.local_addr().unwrap(), ""));
    let mut stream = tcp(address(&edge, "stream"));
    let request = "GET / HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: sip\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let (mut head, mut octet) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet).unwrap();
        head.push(octet[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    // Messages that mean nothing (RFC 6455 5.2: final, text, masked by zeros, two octets).
    let frame = [0x81, 0x82, 0, 0, 0, 0, b'\r', b'\n'];
    let flood = Flood::start(stream, frame.repeat(8192));
    is_served_beside(&edge, &gateway, &flood);
    drop(flood);
    edge.stop();
}

#[test]
fn a_tls_session_that_never_stops_lets_others_have_their_turn() {
    let certificate = SelfSigned::new();
    let listener = format!("transport = \"tls\"\n{}", certificate.listener());
    let gateway = udp();
    let edge = start(config(&listener, gateway.local_addr().unwrap(), ""));

    let stream = tls(&certificate.client(), address(&edge, "stream"), "edge.example");
    // CRLF after CRLF: pings, whose answers nobody reads.
    let flood = Flood::start(stream, b"\r\n".repeat(32 * 1024));
    is_served_beside(&edge, &gateway, &flood);
    drop(flood);
    edge.stop();
}

/// Status lines of the answers that come until there are so many or the connection ends.
fn answers(stream: &mut TcpStream, many: usize) -> Vec<String> {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("SIP/2.0 ")).map(|line| line[8..11].to_owned()).collect()
    };
    while lines(&text).len() < many {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => text.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
            _ => break,
        }
    }
    lines(&text)
}

#[test]
fn a_reload_of_limits_reaches_the_streams_that_are_open() {
    let gateway: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let (listener, small, large) = ("transport = \"tcp\"", "message_bytes = 2048", "message_bytes = 8192");
    let edge = start(config(listener, gateway, small));
    let to = address(&edge, "stream");
    let connect = || tcp(to);
    let ask = |stream: &mut TcpStream, octets: usize| {
        let via = stream.local_addr().unwrap();
        let _ = stream.write_all(message("OPTIONS", "TCP", &to.to_string(), via, &"x".repeat(octets)).as_bytes());
        answers(stream, 1)
    };
    let mut standing = connect();
    assert_eq!(ask(&mut standing, 0), ["200"]);
    assert_eq!(ask(&mut connect(), 4096), ["413"]);
    edge.reload(config(listener, gateway, large)).unwrap();
    // The worker takes it over between two messages: then another connection says so.
    let began = clock::instant();
    while ask(&mut connect(), 4096) != ["200"] {
        assert!(clock::instant() - began < PATIENCE.unwrap(), "the new bound is never in force");
    }
    assert_eq!(ask(&mut standing, 4097), ["200"]);
    edge.reload(config(listener, gateway, small)).unwrap();
    while ask(&mut connect(), 4096) != ["413"] {
        assert!(clock::instant() - began < PATIENCE.unwrap(), "the new bound is never in force");
    }
    assert_eq!(ask(&mut standing, 4098), ["413"]);
    edge.stop();
}
