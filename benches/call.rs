//! The work of one worker for one relayed call without sockets: INVITE, 100, 180, 200, ACK, BYE, 200 through parse, transaction,
//! proxy and patch into an outbox.
#![allow(missing_docs)] // criterion's macros

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use vesperd::proxy::{Config, Listener, NextHop, Now, Output, Proxy, Route, Snapshot, Trunk, TrunkId, UdpOversize};
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::TrustStore;
use vesperd::stir::replay::ReplayTable;

const CALLER: ([u8; 4], u16) = ([192, 0, 2, 10], 5060);
const CALLEE: ([u8; 4], u16) = ([198, 51, 100, 20], 5060);

fn config() -> Config {
    let trunk = |name: &str, remote: ([u8; 4], u16)| Trunk {
        name: name.into(),
        peers: Vec::new(),
        next_hops: vec![NextHop { transport: Transport::Udp, remote: remote.into() }.into()],
        listener: ListenerId(0),
        trusted: false,
        sign: None,
        verify: None,
        udp_oversize: UdpOversize::Udp,
        ..Trunk::default()
    };
    Config {
        listeners: vec![Listener {
            name: "udp".into(),
            transport: Transport::Udp,
            bind: SocketAddr::from(([192, 0, 2, 1], 5060)),
            advertise_host: "192.0.2.1".into(),
            advertise_port: 5060,
            names: Vec::new(),
        }],
        trunks: vec![trunk("caller", CALLER), trunk("callee", CALLEE)],
        routes: vec![Route::between(TrunkId(0), TrunkId(1))],
        ..Config::default()
    }
}

struct Rig {
    proxy: Proxy,
    now: Now,
    index: Index,
    out: Output,
    limits: Limits,
    call: u64,
}

impl Rig {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods)] // the clock of the bench begins anywhere
        let now = Now { instant: Instant::now(), unix: 1_795_219_200 };
        let snapshot = Snapshot { config: config(), trust: TrustStore::default(), replay: ReplayTable::default() };
        let proxy = Proxy::new(Arc::new(snapshot), [7; 32], now);
        Rig { proxy, now, index: Index::new(), out: Output::default(), limits: Limits::default(), call: 0 }
    }

    /// What left last, as text.
    fn receive(&mut self, from: ([u8; 4], u16), text: &[u8]) -> Vec<u8> {
        let source =
            Hop { transport: Transport::Udp, local: ListenerId(0), remote: from.into(), connection: None, peer: None };
        self.out.outbox.clear();
        let message = sip::parse(text, &mut self.index, Framing::Datagram, &self.limits).expect("well formed");
        self.proxy.handle_message(self.now, source, message, &mut self.out);
        self.out.outbox.items().last().map(|t| self.out.outbox.bytes_of(t).to_vec()).expect("something is sent")
    }

    fn whole_call(&mut self) {
        self.call += 1;
        // Time passes as at 10,000 calls a second, so that old transactions end as new ones begin.
        self.now.instant += Duration::from_micros(100);
        if self.proxy.poll_timeout().is_some_and(|at| at <= self.now.instant) {
            self.out.outbox.clear();
            self.proxy.handle_timeout(self.now, &mut self.out);
        }
        let call = self.call;
        let request = |method: &str, cseq: u32, to_tag: &str, extra: &str, body: &str| {
            format!(
                "{method} sip:+12155551213@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{method}{call}\r\n\
                 Max-Forwards: 70\r\n{extra}From: <sip:+12015550100@192.0.2.10>;tag=a{call}\r\nTo: <sip:+12155551213@192.0.2.1>{to_tag}\r\n\
                 Call-ID: {call}@192.0.2.10\r\nCSeq: {cseq} {method}\r\nContact: <sip:a@192.0.2.10>\r\nSupported: timer, 100rel\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let sdp = "v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8 0 101\r\n";
        let forwarded = self.receive(CALLER, request("INVITE", 1, "", "", sdp).as_bytes());
        for status in ["180 Ringing", "200 OK"] {
            self.receive(CALLEE, &answer(&forwarded, status));
        }
        let route = "Route: <sip:192.0.2.1:5060;lr;vt=0.1>\r\n";
        self.receive(
            CALLER,
            request("ACK", 1, ";tag=b", route, "")
                .replace("ACK sip:+12155551213@192.0.2.1 ", "ACK sip:b@198.51.100.20 ")
                .as_bytes(),
        );
        let bye = request("BYE", 2, ";tag=b", route, "")
            .replace("BYE sip:+12155551213@192.0.2.1 ", "BYE sip:b@198.51.100.20 ");
        let forwarded = self.receive(CALLER, bye.as_bytes());
        self.receive(CALLEE, &answer(&forwarded, "200 OK"));
    }
}

/// A response with the Via, Record-Route, From, To, Call-ID and CSeq lines of a request.
fn answer(request: &[u8], status: &str) -> Vec<u8> {
    let text = std::str::from_utf8(request).expect("ASCII");
    let mut out = format!("SIP/2.0 {status}\r\n");
    for line in text.split("\r\n").take_while(|l| !l.is_empty()) {
        if ["Via:", "Record-Route:", "From:", "Call-ID:", "CSeq:"].iter().any(|n| line.starts_with(n)) {
            out.push_str(line);
            out.push_str("\r\n");
        } else if line.starts_with("To:") {
            out.push_str(line);
            out.push_str(if line.contains("tag=") { "\r\n" } else { ";tag=b\r\n" });
        }
    }
    out.push_str("Contact: <sip:b@198.51.100.20>\r\nContent-Length: 0\r\n\r\n");
    out.into_bytes()
}

fn whole_call(c: &mut Criterion) {
    let mut rig = Rig::new();
    c.bench_function("relay one call, making the messages included", |b| b.iter(|| rig.whole_call()));
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = whole_call
}
criterion_main!(benches);
