//! The work of one worker for one relayed call without sockets: INVITE, 100, 180, 200, ACK, BYE, 200 through parse, transaction,
//! proxy and patch into an outbox; with two trunks and with a thousand. How often it allocates is printed, too.
#![allow(missing_docs)] // criterion's macros

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use vesperd::proxy::{Config, Listener, NextHop, Now, Output, Proxy, Route, Snapshot, Trunk, TrunkId, UdpOversize};
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::TrustStore;
use vesperd::stir::replay::ReplayTable;

/// Counts how often memory is asked for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[allow(unsafe_code)] // hands everything on to the system's allocator
// SAFETY: each method keeps its contract by calling the same method of `System` with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const CALLER: ([u8; 4], u16) = ([192, 0, 2, 10], 5060);
const CALLEE: ([u8; 4], u16) = ([198, 51, 100, 20], 5060);

/// The caller and the callee are the last of so many trunks.
fn config(trunks: u16) -> Config {
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
    let others = (0..trunks - 2).map(|n| trunk(&n.to_string(), ([10, 0, (n >> 8) as u8, n as u8], 5060)));
    let own = [trunk("caller", CALLER), trunk("callee", CALLEE)];
    Config {
        listeners: vec![Listener {
            name: "udp".into(),
            transport: Transport::Udp,
            bind: SocketAddr::from(([192, 0, 2, 1], 5060)),
            advertise_host: "192.0.2.1".into(),
            advertise_port: 5060,
            names: Vec::new(),
        }],
        trunks: others.chain(own).collect(),
        routes: vec![Route::between(TrunkId(trunks - 2), TrunkId(trunks - 1))],
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
    /// Our Route, as the 2xx made it.
    route: String,
    /// What the proxy took for the messages, and how often it asked for memory; the making of the messages is not included.
    time: Duration,
    allocations: u64,
}

impl Rig {
    fn new(trunks: u16) -> Self {
        #[allow(clippy::disallowed_methods)] // the clock of the bench begins anywhere
        let now = Now { instant: Instant::now(), unix: 1_795_219_200 };
        let config = config(trunks);
        let snapshot = Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() };
        let proxy = Proxy::new(Arc::new(snapshot), [7; 32], now);
        Rig {
            proxy,
            now,
            index: Index::new(),
            out: Output::default(),
            limits: Limits::default(),
            call: 0,
            route: format!("Route: <sip:192.0.2.1:5060;lr;vt={}.{}>\r\n", trunks - 2, trunks - 1),
            time: Duration::ZERO,
            allocations: 0,
        }
    }

    /// What leaves last for each message.
    #[allow(clippy::disallowed_methods)] // the clock
    fn receive(&mut self, from: ([u8; 4], u16), messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let source =
            Hop { transport: Transport::Udp, local: ListenerId(0), remote: from.into(), connection: None, peer: None };
        self.out.outbox.clear();
        let mut ends = Vec::with_capacity(messages.len());
        let (begun, allocations) = (Instant::now(), ALLOCATIONS.load(Relaxed));
        for message in messages {
            let message = sip::parse(message, &mut self.index, Framing::Datagram, &self.limits).expect("well formed");
            self.proxy.handle_message(self.now, source, message, &mut self.out);
            ends.push(self.out.outbox.items().len());
        }
        self.time += begun.elapsed();
        self.allocations += ALLOCATIONS.load(Relaxed) - allocations;
        let sent = |end: &usize| &self.out.outbox.items()[end.checked_sub(1).expect("something is sent")];
        ends.iter().map(|end| self.out.outbox.bytes_of(sent(end)).to_vec()).collect()
    }

    /// So many calls, each message of all of them before the next.
    fn calls(&mut self, count: u64) {
        // Time passes as at 10,000 calls a second, so that old transactions end as new ones begin.
        self.now.instant += Duration::from_micros(100) * count as u32;
        if self.proxy.poll_timeout().is_some_and(|at| at <= self.now.instant) {
            self.out.outbox.clear();
            self.proxy.handle_timeout(self.now, &mut self.out);
        }
        let calls = self.call..self.call + count;
        self.call += count;
        let route = self.route.clone();
        let invites: Vec<_> = calls.clone().map(|call| request("INVITE", call, 1, "", SDP)).collect();
        let forwarded = self.receive(CALLER, &invites);
        for status in ["180 Ringing", "200 OK"] {
            let answers: Vec<_> = forwarded.iter().map(|invite| answer(invite, status)).collect();
            self.receive(CALLEE, &answers);
        }
        let acks: Vec<_> = calls.clone().map(|call| request("ACK", call, 1, &route, "")).collect();
        self.receive(CALLER, &acks);
        let byes: Vec<_> = calls.map(|call| request("BYE", call, 2, &route, "")).collect();
        let forwarded = self.receive(CALLER, &byes);
        let answers: Vec<_> = forwarded.iter().map(|bye| answer(bye, "200 OK")).collect();
        self.receive(CALLEE, &answers);
    }
}

const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8 0 101\r\n";

/// A request of the caller; in a dialog where there is a route.
fn request(method: &str, call: u64, cseq: u32, route: &str, body: &str) -> Vec<u8> {
    let (target, tag) = if route.is_empty() { ("+12155551213@192.0.2.1", "") } else { ("b@198.51.100.20", ";tag=b") };
    format!(
        "{method} sip:{target} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{method}{call}\r\n\
         Max-Forwards: 70\r\n{route}From: <sip:+12015550100@192.0.2.10>;tag=a{call}\r\nTo: <sip:+12155551213@192.0.2.1>{tag}\r\n\
         Call-ID: {call}@192.0.2.10\r\nCSeq: {cseq} {method}\r\nContact: <sip:a@192.0.2.10>\r\nSupported: timer, 100rel\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
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

/// Calls at one time in the bench: enough that the clock is read seldom.
const TOGETHER: u64 = 64;

fn whole_call(c: &mut Criterion) {
    let mut rig = Rig::new(2);
    c.bench_function("relay one call, making the messages included", |b| b.iter(|| rig.calls(1)));
    for trunks in [2, 1000] {
        let mut rig = Rig::new(trunks);
        c.bench_function(&format!("relay one call, {trunks} trunks"), |b| {
            b.iter_custom(|calls| {
                rig.time = Duration::ZERO;
                let rounds = calls.div_ceil(TOGETHER);
                (0..rounds).for_each(|_| rig.calls(TOGETHER));
                rig.time.mul_f64(calls as f64 / (rounds * TOGETHER) as f64)
            });
        });
        // Whoever only lists the benchmarks has made no call.
        if rig.call > 0 {
            let mean = rig.allocations as f64 / rig.call as f64;
            println!("allocations for one call, {trunks} trunks: {mean:.1}");
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = whole_call
}
criterion_main!(benches);
