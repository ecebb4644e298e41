//! RFC 3263 against a name server on loopback: the records of a zone are real datagrams, the resolver is the one that runs in an edge
//! (C-31).

mod support_edge;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, NAPTR, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use support_edge::{PATIENCE, start, udp_at};
use tokio::sync::mpsc;
use vesperd::config::Config;
use vesperd::node::resolve::{self, Located, Question, ResolveThread};
use vesperd::node::{Edge, Observer, clock};
use vesperd::proxy::location::order::Policy;
use vesperd::proxy::{LocateFailure, Target};
use vesperd::sip::{Transport, Uri};

type Zone = HashMap<(String, RecordType), Vec<RData>>;

/// A name server for one zone.
struct Server {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    /// Questions that arrived.
    asked: Arc<AtomicUsize>,
    /// It answers SERVFAIL to everything.
    is_broken: Arc<AtomicBool>,
    /// It answers nothing.
    is_silent: Arc<AtomicBool>,
    /// It answers SERVFAIL to questions of these types.
    fails_on: Arc<Mutex<Vec<RecordType>>>,
    ttl: u32,
}

impl Server {
    fn start(ttl: u32, records: &[(&str, RData)]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut zone = Zone::new();
        for (name, data) in records {
            zone.entry((name.to_string(), data.record_type())).or_default().push(data.clone());
        }
        let server = Self {
            address,
            zone: Arc::new(Mutex::new(zone)),
            asked: Arc::default(),
            is_broken: Arc::default(),
            is_silent: Arc::default(),
            fails_on: Arc::default(),
            ttl,
        };
        let (zone, asked, is_broken) = (server.zone.clone(), server.asked.clone(), server.is_broken.clone());
        let (is_silent, fails_on) = (server.is_silent.clone(), server.fails_on.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                let Ok(question) = Message::from_vec(&buffer[..count]) else { continue };
                asked.fetch_add(1, Ordering::SeqCst);
                if is_silent.load(Ordering::SeqCst) {
                    continue;
                }
                let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
                answer.metadata.authoritative = true;
                let query = question.queries[0].clone();
                let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
                let found = zone.lock().unwrap().get(&(name, query.query_type())).cloned();
                for data in found.unwrap_or_default() {
                    answer.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
                }
                let fails = fails_on.lock().unwrap().contains(&query.query_type());
                answer.add_query(query);
                if fails || is_broken.load(Ordering::SeqCst) {
                    answer.answers.clear();
                    answer.metadata.response_code = ResponseCode::ServFail;
                }
                let _ = socket.send_to(&answer.to_vec().unwrap(), from);
            }
        });
        server
    }

    fn resolver(&self, change: impl FnOnce(&mut resolve::Config)) -> Asker {
        let mut config = resolve::Config { servers: vec![self.address], ..resolve::Config::default() };
        change(&mut config);
        let transports = vec![Transport::Udp, Transport::Tcp, Transport::Tls];
        let policy = Policy { transports, prefer_ipv6: config.prefer_ipv6, ipv4: true, ipv6: true };
        let (sender, answers) = mpsc::channel(10_000);
        Asker { thread: ResolveThread::start(config, policy).unwrap(), sender, answers }
    }
}

struct Asker {
    thread: ResolveThread,
    sender: mpsc::Sender<(u64, Located)>,
    answers: mpsc::Receiver<(u64, Located)>,
}

impl Asker {
    fn ask(&mut self, uri: &str) -> Result<Vec<String>, LocateFailure> {
        let target = Target::of_uri(&Uri::parse(uri.as_bytes()).unwrap()).unwrap();
        let question = Question { id: 7, target, answer_to: self.sender.clone() };
        assert!(self.thread.locator().ask(question).is_ok());
        let (id, located) = self.answers.blocking_recv().unwrap();
        assert_eq!(id, 7);
        located.map(|hops| hops.iter().map(|hop| format!("{}:{}", hop.transport.via_token(), hop.remote)).collect())
    }
}

fn a(ip: &str) -> RData {
    RData::A(A(ip.parse().unwrap()))
}

fn aaaa(ip: &str) -> RData {
    RData::AAAA(AAAA(ip.parse().unwrap()))
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
}

fn naptr(order: u16, service: &str, replacement: &str) -> RData {
    let (flags, service) = (b"s"[..].into(), service.as_bytes().into());
    RData::NAPTR(NAPTR::new(order, 1, flags, service, Box::default(), Name::from_ascii(replacement).unwrap()))
}

#[test]
fn naptr_then_srv_then_addresses_in_their_order() {
    let server = Server::start(
        60,
        &[
            ("a.example", naptr(20, "SIP+D2U", "_sip._udp.a.example.")),
            ("a.example", naptr(10, "SIPS+D2T", "_sips._tcp.a.example.")),
            ("_sips._tcp.a.example", srv(20, 0, 5071, "backup.a.example.")),
            ("_sips._tcp.a.example", srv(10, 0, 5061, "main.a.example.")),
            ("_sip._udp.a.example", srv(1, 0, 5060, "main.a.example.")),
            ("main.a.example", a("192.0.2.1")),
            ("main.a.example", aaaa("2001:db8::1")),
            ("backup.a.example", a("192.0.2.2")),
            ("backup.a.example", aaaa("2001:db8::2")),
            ("b.example", a("192.0.2.9")),
            ("_sip._udp.gone.example", srv(0, 0, 0, ".")),
            ("_sip._tcp.gone.example", srv(0, 0, 5080, "main.a.example.")),
        ],
    );
    let mut asker = server.resolver(|_| {});
    // D-2: the two addresses of one SRV target stay together.
    let all = ["TLS:[2001:db8::1]:5061", "TLS:192.0.2.1:5061", "TLS:[2001:db8::2]:5071", "TLS:192.0.2.2:5071"];
    assert_eq!(asker.ask("sip:a.example").unwrap(), all);
    assert_eq!(asker.ask("sip:a.example;transport=udp").unwrap()[1], "UDP:192.0.2.1:5060");
    assert_eq!(asker.ask("sip:main.a.example:5090;transport=tcp").unwrap()[1], "TCP:192.0.2.1:5090", "a port: no SRV");
    assert_eq!(asker.ask("sip:b.example").unwrap(), ["UDP:192.0.2.9:5060"], "neither NAPTR nor SRV");
    assert_eq!(asker.ask("sips:b.example").unwrap(), ["TLS:192.0.2.9:5061"]);
    assert_eq!(asker.ask("sip:gone.example").unwrap()[1], "TCP:192.0.2.1:5080", "no UDP there, says its target \".\"");
    assert_eq!(asker.ask("sip:nowhere.example"), Err(LocateFailure::NoSuchName));
    let mut four_first = server.resolver(|config| config.prefer_ipv6 = false);
    assert_eq!(four_first.ask("sip:main.a.example").unwrap(), ["UDP:192.0.2.1:5060", "UDP:[2001:db8::1]:5060"]);
}

#[test]
fn d7_records_are_kept_by_their_ttl_and_absence_too() {
    let server = Server::start(3600, &[("kept.example", a("192.0.2.1"))]);
    let mut asker = server.resolver(|_| {});
    assert!(asker.ask("sip:kept.example:5060").is_ok());
    let asked = server.asked.load(Ordering::SeqCst);
    for _ in 0..50 {
        assert!(asker.ask("sip:kept.example:5060").is_ok());
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), asked, "nothing is asked twice");
}

#[test]
fn concurrent_questions_for_one_name_become_one() {
    let server = Server::start(60, &[("a.example", a("192.0.2.1"))]);
    let mut asker = server.resolver(|_| {});
    let target = Target::of_uri(&Uri::parse(b"sip:a.example:5060").unwrap()).unwrap();
    for id in 0..200 {
        let question = Question { id, target: target.clone(), answer_to: asker.sender.clone() };
        assert!(asker.thread.locator().ask(question).is_ok());
    }
    for _ in 0..200 {
        assert!(asker.answers.blocking_recv().unwrap().1.is_ok());
    }
    assert!(server.asked.load(Ordering::SeqCst) <= 2, "one A, one AAAA");
}

/// Nothing is kept for its TTL, so that each question for a location is one to the name server; those that it does not answer are not
/// repeated.
fn forgetful(config: &mut resolve::Config) {
    (config.floor, config.negative_ttl) = (Duration::ZERO, Duration::ZERO);
    (config.timeout, config.attempts) = (Duration::from_secs(60), 1);
    config.retry_after = Duration::from_secs(3600);
}

#[test]
fn d7_old_answers_serve_on_while_the_server_fails() {
    let server = Server::start(0, &[("a.example", a("192.0.2.1"))]);
    assert_eq!(server.ttl, 0);
    let mut asker = server.resolver(forgetful);
    assert!(asker.ask("sip:a.example:5060").is_ok());
    server.is_broken.store(true, Ordering::SeqCst);
    let before = server.asked.load(Ordering::SeqCst);
    assert_eq!(asker.ask("sip:a.example:5060").unwrap(), ["UDP:192.0.2.1:5060"]);
    assert!(server.asked.load(Ordering::SeqCst) > before, "it was asked");
    assert_eq!(asker.ask("sip:a.example:5060").unwrap(), ["UDP:192.0.2.1:5060"]);
    assert_eq!(asker.ask("sip:other.example:5060"), Err(LocateFailure::NoAnswer));
}

#[test]
fn d7_that_there_is_no_naptr_and_no_srv_serves_on_too() {
    let server = Server::start(0, &[("a.example", a("192.0.2.1"))]);
    for is_silent in [false, true] {
        let mut asker = server.resolver(forgetful);
        assert_eq!(asker.ask("sip:a.example").unwrap(), ["UDP:192.0.2.1:5060"]);
        let fails = if is_silent { &server.is_silent } else { &server.is_broken };
        fails.store(true, Ordering::SeqCst);
        let before = server.asked.load(Ordering::SeqCst);
        assert_eq!(asker.ask("sip:a.example").unwrap(), ["UDP:192.0.2.1:5060"]);
        assert!(server.asked.load(Ordering::SeqCst) > before, "it was asked");
        assert_eq!(asker.ask("sip:a.example").unwrap(), ["UDP:192.0.2.1:5060"]);
        fails.store(false, Ordering::SeqCst);
    }
}

#[test]
fn d7_a_silent_server_costs_one_call_a_moment_and_the_next_ones_nothing() {
    let server = Server::start(0, &[("a.example", a("192.0.2.1"))]);
    let mut asker = server.resolver(forgetful);
    let asked = || server.asked.load(Ordering::SeqCst);
    assert!(asker.ask("sip:a.example:5060").is_ok());
    assert_eq!(asked(), 2, "A and AAAA");
    server.is_silent.store(true, Ordering::SeqCst);
    assert_eq!(asker.ask("sip:a.example:5060").unwrap(), ["UDP:192.0.2.1:5060"]);
    assert_eq!(asked(), 4);
    // Until it is time to try again nobody waits for the server: it is left alone.
    for _ in 0..200 {
        assert_eq!(asker.ask("sip:a.example:5060").unwrap(), ["UDP:192.0.2.1:5060"]);
    }
    assert_eq!(asked(), 4);
}

#[test]
fn one_type_that_a_server_can_not_answer_spoils_nothing() {
    let server = Server::start(
        60,
        &[
            ("a.example", a("192.0.2.1")),
            ("_sip._tcp.a.example", srv(0, 0, 5080, "main.example")),
            ("main.example", a("192.0.2.2")),
        ],
    );
    server.fails_on.lock().unwrap().push(RecordType::NAPTR);
    let mut asker = server.resolver(|_| {});
    assert_eq!(asker.ask("sip:a.example").unwrap(), ["TCP:192.0.2.2:5080"]);
    assert_eq!(asker.ask("sip:main.example").unwrap(), ["UDP:192.0.2.2:5060"]);
    // Whether there is a service can not be told: its port is not guessed.
    server.fails_on.lock().unwrap().push(RecordType::SRV);
    assert_eq!(server.resolver(|_| {}).ask("sip:main.example"), Err(LocateFailure::NoAnswer));
}

#[test]
fn c31_an_edge_finds_its_gateway_by_name_and_the_next_one_when_the_first_refuses() {
    let gateway = UdpSocket::bind("127.0.0.1:0").unwrap();
    gateway.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server::start(
        60,
        &[
            ("gw.example", naptr(10, "SIP+D2T", "_sip._tcp.gw.example.")),
            ("gw.example", naptr(20, "SIP+D2U", "_sip._udp.gw.example.")),
            ("_sip._tcp.gw.example", srv(10, 0, closed, "one.gw.example.")),
            ("_sip._udp.gw.example", srv(10, 0, gateway.local_addr().unwrap().port(), "one.gw.example.")),
            ("one.gw.example", a("127.0.0.1")),
        ],
    );
    let text = |hop: &str| {
        format!(
            "[dns]\nservers = \"{}\"\n[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"tcp\"\ntransport = \"tcp\"\nbind = \"127.0.0.1:0\"\n\
             [[trunk]]\nname = \"all\"\npeers = \"127.0.0.0/8\"\n[[trunk]]\nname = \"gateway\"\nnext_hop = {hop}\n\
             [[route]]\nto = \"gateway\"\n",
            server.address
        )
    };
    let config = text("[\"tcp:gw.example\", \"udp:gw.example\"]");
    let config = Config::parse(&config, Path::new("test.toml"), clock::unix()).unwrap_or_else(|e| panic!("{e}"));
    let edge = Edge::start(config, &Observer::default()).unwrap();
    let to = edge.addresses()[0].2;
    let caller = UdpSocket::bind("127.0.0.1:0").unwrap();
    caller.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let via = caller.local_addr().unwrap();
    let request = format!(
        "OPTIONS sip:12155550113@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK-1\r\n\
         From: <sip:a@192.0.2.8>;tag=a\r\nTo: <sip:b@192.0.2.9>\r\nCall-ID: located@test\r\n\
         CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    );
    caller.send_to(request.as_bytes(), to).unwrap();
    let mut buffer = [0; 4096];
    let (count, from) = gateway.recv_from(&mut buffer).expect("the request reaches the gateway");
    let received = std::str::from_utf8(&buffer[..count]).unwrap();
    assert!(received.starts_with("OPTIONS sip:12155550113@192.0.2.9"), "{received}");
    let lines: Vec<_> = received.split("\r\n").skip(1).filter(|line| !line.starts_with("Max")).collect();
    gateway.send_to(format!("SIP/2.0 200 OK\r\n{}", lines.join("\r\n")).as_bytes(), from).unwrap();
    let (count, _) = caller.recv_from(&mut buffer).unwrap();
    assert!(buffer[..count].starts_with(b"SIP/2.0 200"));
}

/// Where the caller's Via says it is, which is not where it calls from; a port that is closed there.
fn home() -> (TcpListener, UdpSocket, u16) {
    loop {
        let stream = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = stream.local_addr().unwrap().port();
        let Ok(datagrams) = UdpSocket::bind(("127.0.0.2", port)) else { continue };
        datagrams.set_read_timeout(PATIENCE).unwrap();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return (stream, datagrams, port);
        }
    }
}

fn message(transport: &str, call: usize, port: u16) -> String {
    format!(
        "MESSAGE sip:12155550113@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/{transport} home.example:{port};branch=z9hG4bK-{call}\r\n\
         From: <sip:a@192.0.2.8>;tag=a\r\nTo: <sip:b@192.0.2.9>\r\nCall-ID: {call}@test\r\nCSeq: 1 MESSAGE\r\n\
         Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Takes a request and gives its answer, which is to be sent to whoever sent it.
fn answer(gateway: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 4096];
    let (count, from) = gateway.recv_from(&mut buffer).expect("forwarded");
    let received = std::str::from_utf8(&buffer[..count]).unwrap();
    let lines: Vec<_> = received.split("\r\n").skip(1).filter(|line| !line.starts_with("Max")).collect();
    (format!("SIP/2.0 200 OK\r\n{}", lines.join("\r\n")), from)
}

fn edge_for_callers(workers: usize, server: &Server, gateway: &UdpSocket, peers: &str, listener: &str) -> Edge {
    let text = format!(
        "[node]\nworkers = {workers}\n[dns]\nservers = \"{}\"\n\
         [[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"tcp\"\ntransport = \"tcp\"\nbind = \"127.0.0.1:0\"\n{listener}\
         [[trunk]]\nname = \"callers\"\n{peers}[[trunk]]\nname = \"gateway\"\nnext_hop = \"udp:{}\"\n\
         [[route]]\nto = \"gateway\"\n",
        server.address,
        gateway.local_addr().unwrap()
    );
    start(&text)
}

fn gateway(ip: &str) -> UdpSocket {
    udp_at(ip)
}

/// Sends a request over a connection that is gone when the answer comes.
fn call_and_hang_up(edge: &Edge, gateway: &UdpSocket, request: &str) {
    let mut caller = TcpStream::connect(edge.addresses()[1].2).unwrap();
    caller.write_all(request.as_bytes()).unwrap();
    let (answer, from) = answer(gateway);
    caller.shutdown(std::net::Shutdown::Write).unwrap();
    // The edge has seen the end once it has closed its side too.
    caller.set_read_timeout(PATIENCE).unwrap();
    assert_eq!(caller.read(&mut [0; 16]).unwrap_or(0), 0);
    gateway.send_to(answer.as_bytes(), from).unwrap();
}

/// The next connection.
fn accepted(streams: &TcpListener) -> TcpStream {
    streams.set_nonblocking(true).unwrap();
    let began = clock::instant();
    loop {
        if let Ok((stream, _)) = streams.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(PATIENCE).unwrap();
            return stream;
        }
        assert!(clock::instant() - began < PATIENCE.unwrap(), "the response takes the other way");
        std::thread::yield_now();
    }
}

#[test]
fn t4_a_response_finds_a_caller_who_has_gone_home() {
    let server = Server::start(60, &[("home.example", a("127.0.0.2"))]);
    for workers in [1, 3] {
        let (gateway, (streams, datagrams, port)) = (gateway("127.0.0.1"), home());
        let edge = edge_for_callers(workers, &server, &gateway, "peers = \"127.0.0.0/8\"\n", "");
        for call in 0..6 {
            call_and_hang_up(&edge, &gateway, &message("TCP", call, port));
            let mut stream = accepted(&streams);
            assert_eq!(stream.peer_addr().unwrap().ip(), edge.addresses()[1].2.ip());
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).unwrap();
            let received = std::str::from_utf8(&buffer[..count]).unwrap();
            assert!(received.starts_with("SIP/2.0 200") && received.contains(&format!("{call}@test")), "{received}");
        }
        // Over UDP without an rport: the port of the Via is closed where the request came from, and ICMP says so.
        let caller = UdpSocket::bind("127.0.0.1:0").unwrap();
        for call in 10..16 {
            caller.send_to(message("UDP", call, port).as_bytes(), edge.addresses()[0].2).unwrap();
            let (answer, from) = answer(&gateway);
            gateway.send_to(answer.as_bytes(), from).unwrap();
            let mut buffer = [0; 4096];
            let count = datagrams.recv(&mut buffer).expect("the response takes the other way");
            let received = std::str::from_utf8(&buffer[..count]).unwrap();
            assert!(received.starts_with("SIP/2.0 200") && received.contains(&format!("{call}@test")), "{received}");
        }
        let summary = edge.stop();
        assert!(summary.proxy.rerouted_responses >= 18, "{summary:?}");
    }
}

#[test]
fn t4_nobody_is_connected_to_for_a_stranger() {
    let server = Server::start(60, &[("home.example", a("127.0.0.2"))]);
    let (gateway, (streams, _, port)) = (gateway("127.0.0.3"), home());
    let edge = edge_for_callers(1, &server, &gateway, "peers = \"192.0.2.0/24\"\n", "trunk = \"callers\"\n");
    call_and_hang_up(&edge, &gateway, &message("TCP", 1, port));
    // What it brought about is over once this one is answered.
    let mut caller = TcpStream::connect(edge.addresses()[1].2).unwrap();
    caller.set_read_timeout(PATIENCE).unwrap();
    caller.write_all(message("TCP", 2, port).as_bytes()).unwrap();
    let (answer, from) = answer(&gateway);
    gateway.send_to(answer.as_bytes(), from).unwrap();
    assert!(caller.read(&mut [0; 4096]).unwrap() > 0);
    let summary = edge.stop();
    assert_eq!((summary.tcp.opened, summary.proxy.failed_responses, summary.proxy.rerouted_responses), (0, 1, 0));
    streams.set_nonblocking(true).unwrap();
    assert!(streams.accept().is_err());
}
