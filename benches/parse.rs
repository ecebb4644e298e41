//! Parse, check, and forward one INVITE of about 2.2 KB; the same work done with rsip beside it.
//!
//! "keys" is what every proxied request costs before routing: the semantic stage (RFC 3261 16.3), top Via and branch, first Route,
//! CSeq, Call-ID, tags, Max-Forwards. "forward" adds own Via and Record-Route on top, stamps `received`, counts Max-Forwards down, pops
//! the first Route and writes the message (16.6).

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rsip::headers::{ToTypedHeader, UntypedHeader};
use rsip::message::HeadersExt;
use vesperd::sip::{Framing, Index, Limits, Message, Name, Patch, parse};

const OWN_VIA: &str = "SIP/2.0/UDP 203.0.113.9:5060;branch=z9hG4bK7f3a9c0d1e2b4a5968778695a4b3c2d1;rport";
const OWN_RECORD_ROUTE: &str = "<sip:203.0.113.9:5060;lr;tr=17>";

/// 21 header fields: 3 Via, 2 Record-Route, one Route line with two entries, an Identity of 620 characters, and SDP.
fn invite() -> Vec<u8> {
    let digest: String = "eyJhbGciOiJFUzI1NiIsInBwdCI6InNoYWtlbiIsInR5cCI6InBhc3Nwb3J0IiwieDV1IjoiaHR0cHM6Ly9j"
        .chars()
        .cycle()
        .take(560)
        .collect();
    let body = "v=0\r\no=- 20518 0 IN IP4 192.0.2.101\r\ns=-\r\nc=IN IP4 192.0.2.101\r\nt=0 0\r\n\
                m=audio 54344 RTP/AVP 0 8 18 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:18 G729/8000\r\n\
                a=fmtp:18 annexb=no\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n\
                a=candidate:1 1 UDP 2130706431 192.0.2.101 54344 typ host\r\na=candidate:1 2 UDP 2130706430 192.0.2.101 54345 typ host\r\n\
                a=rtcp:54345 IN IP4 192.0.2.101\r\na=ice-ufrag:8hhY\r\na=ice-pwd:asd88fgpdd777uzjYhagZg\r\n";
    format!(
        "INVITE sip:+12155551213@203.0.113.9:5060;user=phone SIP/2.0\r\n\
         Via: SIP/2.0/UDP 198.51.100.20:5060;branch=z9hG4bK4b43c2ff8.1a2b3c4d5e6f\r\n\
         Via: SIP/2.0/UDP 198.51.100.10:5060;branch=z9hG4bKnashds8.9f8e7d6c5b4a;received=198.51.100.10\r\n\
         Via: SIP/2.0/TCP pbx.example.com:5060;branch=z9hG4bK776asdhds.001122334455;received=192.0.2.101\r\n\
         Record-Route: <sip:198.51.100.20;lr;ftag=9fxced76sl>\r\n\
         Record-Route: <sip:198.51.100.10;lr;ftag=9fxced76sl>\r\n\
         Route: <sip:203.0.113.9;lr>, <sip:gw7.carrier.example.net:5060;lr>\r\n\
         Max-Forwards: 67\r\n\
         From: \"Example Caller\" <sip:+12155551212@pbx.example.com;user=phone>;tag=9fxced76sl\r\n\
         To: <sip:+12155551213@carrier.example.net;user=phone>\r\n\
         Call-ID: 3848276298220188511@pbx.example.com\r\n\
         CSeq: 31862 INVITE\r\n\
         Contact: <sip:+12155551212@192.0.2.101:5060;transport=tcp>\r\n\
         Date: Sat, 21 Nov 2026 01:02:03 GMT\r\n\
         Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, PRACK, UPDATE, REFER, NOTIFY, INFO\r\n\
         Supported: 100rel, timer, replaces\r\n\
         P-Asserted-Identity: <sip:+12155551212@pbx.example.com;user=phone>\r\n\
         Session-Expires: 1800\r\n\
         User-Agent: Example PBX 5.2.1\r\n\
         Identity: {digest};info=<https://cert.example.org/p.pem>;alg=ES256;ppt=shaken\r\n\
         Content-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn source() -> SocketAddr {
    "198.51.100.21:5062".parse().unwrap()
}

fn keys(message: Message<'_>) {
    message.check_request().unwrap();
    black_box(message.top_via().unwrap().branch());
    black_box(message.values(Name::Route).next());
    black_box((message.cseq().unwrap(), message.call_id(), message.from_tag(), message.to_tag()));
    black_box(message.max_forwards().unwrap());
}

fn forward(message: Message<'_>, source: SocketAddr, patch: &mut Patch, out: &mut Vec<u8>) {
    patch.clear();
    out.clear();
    patch.insert_with(message.headers_start(), |line| {
        for part in ["Via: ", OWN_VIA, "\r\nRecord-Route: ", OWN_RECORD_ROUTE, "\r\n"] {
            line.extend_from_slice(part.as_bytes());
        }
    });
    message.top_via().unwrap().stamp(source, patch);
    let hops = message.field(Name::MaxForwards).unwrap();
    let left = message.max_forwards().unwrap().unwrap() - 1;
    patch.replace_with(hops.value_range, |value| vesperd::sip::text::push_decimal(value, u32::from(left)));
    message.pop_values(Name::Route, 1, patch);
    patch.write(message.bytes(), out);
}

/// The checks that rsip leaves to its user: one of each key header, Content-Length, Proxy-Require, no NUL in a header.
fn rsip_check(request: &rsip::Request) {
    let mut seen = [0; 4];
    for header in request.headers.iter() {
        match header {
            rsip::Header::CallId(_) => seen[0] += 1,
            rsip::Header::From(_) => seen[1] += 1,
            rsip::Header::To(_) => seen[2] += 1,
            rsip::Header::CSeq(_) => seen[3] += 1,
            rsip::Header::ContentLength(length) => assert_eq!(length.value().parse(), Ok(request.body.len())),
            rsip::Header::ProxyRequire(_) => panic!("there is none"),
            rsip::Header::Other(name, value) => assert!(!name.contains('\0') && !value.contains('\0')),
            _ => {}
        }
    }
    assert_eq!(seen, [1; 4]);
}

fn rsip_keys(request: &rsip::Request) {
    rsip_check(request);
    let via = request.via_header().unwrap().typed().unwrap();
    black_box(via.branch());
    for header in request.headers.iter() {
        if let rsip::Header::RecordRoute(route) = header {
            black_box(route.typed().unwrap());
        }
    }
    black_box(request.route_header().unwrap().typed().unwrap());
    let cseq = request.cseq_header().unwrap().typed().unwrap();
    assert_eq!(cseq.method, request.method);
    black_box(request.call_id_header().unwrap().value());
    black_box(request.from_header().unwrap().typed().unwrap().tag().cloned());
    black_box(request.to_header().unwrap().typed().unwrap().tag().cloned());
    black_box(request.max_forwards_header().unwrap().num().unwrap());
}

fn rsip_forward(mut request: rsip::Request, source: SocketAddr) -> Vec<u8> {
    let mut via = request.via_header().unwrap().typed().unwrap();
    via.params.push(rsip::Param::Received(rsip::param::Received::new(source.ip().to_string())));
    *request.via_header_mut().unwrap() = via.into();
    let hops = request.max_forwards_header().unwrap().num().unwrap();
    *request.max_forwards_header_mut().unwrap() = (hops - 1).into();
    let mut headers: Vec<rsip::Header> = request.headers.into();
    for header in &mut headers {
        if let rsip::Header::Route(route) = header {
            let mut uris = route.typed().unwrap();
            uris.0.0.remove(0);
            *route = uris.into();
        }
    }
    let own = [
        rsip::Header::Via(rsip::headers::Via::new(OWN_VIA)),
        rsip::Header::RecordRoute(rsip::headers::RecordRoute::new(OWN_RECORD_ROUTE)),
    ];
    headers.splice(0..0, own);
    request.headers = headers.into();
    request.into()
}

/// Both ways must have done the same work.
fn assert_same_result(bytes: &[u8]) {
    let limits = Limits::default();
    let (mut index, mut patch, mut out) = (Index::new(), Patch::new(), Vec::new());
    forward(parse(bytes, &mut index, Framing::Datagram, &limits).unwrap(), source(), &mut patch, &mut out);
    let theirs = rsip_forward(rsip::Request::try_from(bytes).unwrap(), source());
    let fields = |bytes: &[u8]| -> Vec<(Name, Vec<u8>)> {
        let mut index = Index::new();
        let message = parse(bytes, &mut index, Framing::Datagram, &limits).unwrap();
        message.fields().map(|f| (f.name, f.value().to_vec())).collect()
    };
    assert_eq!(fields(&out), fields(&theirs));
}

fn benches(c: &mut Criterion) {
    let bytes = invite();
    let source = source();
    let limits = Limits::default();
    assert_same_result(&bytes);
    let (mut index, mut patch, mut out) = (Index::new(), Patch::new(), Vec::with_capacity(4096));

    let mut group = c.benchmark_group("invite");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("parse", |b| {
        b.iter(|| black_box(parse(black_box(&bytes), &mut index, Framing::Datagram, &limits).unwrap()).bytes().len());
    });
    group.bench_function("parse+keys", |b| {
        b.iter(|| keys(parse(black_box(&bytes), &mut index, Framing::Datagram, &limits).unwrap()));
    });
    group.bench_function("parse+keys+forward", |b| {
        b.iter(|| {
            let message = parse(black_box(&bytes), &mut index, Framing::Datagram, &limits).unwrap();
            keys(message);
            forward(message, black_box(source), &mut patch, &mut out);
            black_box(out.len())
        });
    });
    group.bench_function("rsip/parse", |b| b.iter(|| rsip::Request::try_from(black_box(&bytes[..])).unwrap()));
    group.bench_function("rsip/parse+keys", |b| {
        b.iter(|| rsip_keys(&rsip::Request::try_from(black_box(&bytes[..])).unwrap()));
    });
    group.bench_function("rsip/parse+keys+forward", |b| {
        b.iter_batched(
            || (),
            |()| {
                let request = rsip::Request::try_from(black_box(&bytes[..])).unwrap();
                rsip_keys(&request);
                rsip_forward(request, black_box(source))
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Nanoseconds of one call: the shortest of the rounds, 20 calls each.
#[allow(clippy::disallowed_methods)] // a benchmark reads the clock
fn round(shortest: &mut f64, mut work: impl FnMut()) {
    let start = std::time::Instant::now();
    (0..20).for_each(|_| work());
    *shortest = shortest.min(start.elapsed().as_secs_f64() * 1e9 / 20.0);
}

/// The requirement is a ratio: both ways in alternating rounds, so that whatever disturbs the machine disturbs both.
fn ratio(_: &mut Criterion) {
    let is_given = |flag: &str| std::env::args().any(|arg| arg == flag);
    if !is_given("--bench") || is_given("--profile-time") {
        return; // run as a test, or under a profiler
    }
    let bytes = invite();
    let (source, limits) = (source(), Limits::default());
    let (mut index, mut patch, mut out) = (Index::new(), Patch::new(), Vec::with_capacity(4096));
    let (mut parsed, mut keyed, mut own, mut theirs) = (f64::MAX, f64::MAX, f64::MAX, f64::MAX);
    for _ in 0..3000 {
        round(&mut parsed, || {
            black_box(parse(black_box(&bytes), &mut index, Framing::Datagram, &limits).unwrap());
        });
        round(&mut keyed, || keys(parse(black_box(&bytes), &mut index, Framing::Datagram, &limits).unwrap()));
        round(&mut own, || {
            let message = parse(black_box(&bytes), &mut index, Framing::Datagram, &limits).unwrap();
            keys(message);
            forward(message, black_box(source), &mut patch, &mut out);
            black_box(out.len());
        });
        round(&mut theirs, || {
            let request = rsip::Request::try_from(black_box(&bytes[..])).unwrap();
            rsip_keys(&request);
            black_box(rsip_forward(request, black_box(source)));
        });
    }
    println!(
        "{} octets, shortest rounds: parse {parsed:.0} ns, with keys {keyed:.0} ns, with forward {own:.0} ns; \
         rsip {theirs:.0} ns, {:.1} times as long",
        bytes.len(),
        theirs / own
    );
}

criterion_group!(parsing, benches, ratio);
criterion_main!(parsing);
