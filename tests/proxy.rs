//! The proxy core against written messages: what goes in, what comes out, on a clock of its own (RFC 3261 section 16).

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use vesperd::proxy::{Config, Listener, NextHop, Now, Output, Proxy, Route, Snapshot, Trunk, TrunkId, UdpOversize};
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::TrustStore;
use vesperd::stir::replay::ReplayTable;

const CALLER: &str = "192.0.2.10:5060";
const CALLEE: &str = "198.51.100.20:5060";
const SPARE: &str = "198.51.100.21:5060";
const STRANGER: &str = "203.0.113.99:5060";
const US: &str = "192.0.2.1";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn listener(name: &str, transport: Transport, port: u16) -> Listener {
    Listener {
        name: name.into(),
        transport,
        bind: format!("{US}:{port}").parse().unwrap(),
        advertise_host: US.into(),
        advertise_port: port,
        names: Vec::new(),
    }
}

fn trunk(name: &str, transport: Transport, hops: &[&str], listener: u16) -> Trunk {
    Trunk {
        name: name.into(),
        peers: Vec::new(),
        next_hops: hops.iter().map(|h| NextHop { transport, remote: addr(h) }.into()).collect(),
        listener: ListenerId(listener),
        trusted: false,
        sign: None,
        verify: None,
        udp_oversize: UdpOversize::Tcp,
        ..Trunk::default()
    }
}

/// Caller and callee over UDP, one listener.
fn config() -> Config {
    Config {
        listeners: vec![listener("udp", Transport::Udp, 5060)],
        trunks: vec![trunk("caller", Transport::Udp, &[CALLER], 0), trunk("callee", Transport::Udp, &[CALLEE], 0)],
        routes: vec![Route::between(TrunkId(0), TrunkId(1))],
        ..Config::default()
    }
}

struct Rig {
    proxy: Proxy,
    now: Now,
    index: Index,
}

/// One message that left: transport, destination, text.
#[derive(Debug, Clone)]
struct Sent {
    hop: Hop,
    tag: u64,
    text: String,
}

impl Sent {
    fn first_line(&self) -> &str {
        self.text.split("\r\n").next().unwrap()
    }

    fn lines(&self, name: &str) -> Vec<&str> {
        let start = format!("{name}: ");
        self.text.split("\r\n").take_while(|l| !l.is_empty()).filter_map(|l| l.strip_prefix(&start)).collect()
    }

    fn line(&self, name: &str) -> &str {
        let lines = self.lines(name);
        assert_eq!(lines.len(), 1, "one {name} in\n{}", self.text);
        lines[0]
    }

    fn to(&self) -> SocketAddr {
        self.hop.remote
    }
}

impl Rig {
    fn new(config: Config) -> Self {
        let now = Now { instant: support::epoch(), unix: 1_795_219_200 };
        let snapshot = Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() };
        Rig { proxy: Proxy::new(Arc::new(snapshot), [7; 32], now), now, index: Index::new() }
    }

    fn receive(&mut self, from: &str, text: &str) -> Vec<Sent> {
        self.receive_by(Transport::Udp, 0, from, text)
    }

    fn receive_by(&mut self, transport: Transport, listener: u16, from: &str, text: &str) -> Vec<Sent> {
        let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        let source = Hop {
            transport,
            local: ListenerId(listener),
            remote: addr(from),
            connection: transport.is_reliable().then_some(sip::ConnectionId(1)),
            peer: None,
        };
        let mut out = Output::default();
        let message =
            sip::parse(text.as_bytes(), &mut self.index, Framing::Datagram, &Limits::default()).expect("indexable");
        self.proxy.handle_message(self.now, source, message, &mut out);
        sent(&out)
    }

    /// Advances the clock, running every timer that comes due on the way.
    fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let end = self.now.instant + time;
        let mut all = Vec::new();
        while let Some(at) = self.proxy.poll_timeout().filter(|at| *at <= end) {
            self.now.instant = self.now.instant.max(at);
            let mut out = Output::default();
            self.proxy.handle_timeout(self.now, &mut out);
            all.extend(sent(&out));
        }
        self.now.instant = end;
        all
    }

    fn fail(&mut self, tag: u64) -> Vec<Sent> {
        let mut out = Output::default();
        self.proxy.handle_transport_failure(self.now, tag, &mut out);
        sent(&out)
    }
}

fn sent(out: &Output) -> Vec<Sent> {
    let text = |t| String::from_utf8(out.outbox.bytes_of(t).to_vec()).unwrap();
    out.outbox.items().iter().map(|t| Sent { hop: t.hop, tag: t.tag, text: text(t) }).collect()
}

fn invite(extra: &str) -> String {
    request("INVITE", "sip:+12155551213@192.0.2.1", "1", "", extra)
}

fn request(method: &str, uri: &str, cseq: &str, to_tag: &str, extra: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{method}{cseq};rport\nMax-Forwards: 70\n{extra}\
         From: <sip:+12015550100@192.0.2.10>;tag=a1\nTo: <sip:+12155551213@192.0.2.1>{to_tag}\nCall-ID: c1@192.0.2.10\n\
         CSeq: {cseq} {method}\nX-Odd:   kept  as it is \nContent-Length: 0\n\n"
    )
}

/// A response of the callee to a request it received.
fn answer(request: &Sent, status: &str, to_tag: &str, extra: &str) -> String {
    let copy = |name: &str| request.lines(name).iter().map(|v| format!("{name}: {v}\n")).collect::<String>();
    let to = request.line("To");
    let to = if to.contains("tag=") { format!("To: {to}\n") } else { format!("To: {to};tag={to_tag}\n") };
    format!(
        "SIP/2.0 {status}\n{}{}{}{to}{}{}{extra}Content-Length: 0\n\n",
        copy("Via"),
        copy("Record-Route"),
        copy("From"),
        copy("Call-ID"),
        copy("CSeq")
    )
}

/// INVITE up to what the callee sees of it.
fn begin(rig: &mut Rig) -> Sent {
    let out = rig.receive(CALLER, &invite(""));
    assert_eq!(out.len(), 2, "{out:#?}");
    assert_eq!((out[0].first_line(), out[0].to()), ("SIP/2.0 100 Trying", addr(CALLER)));
    assert!(out[0].line("To").ends_with("192.0.2.1>"), "100 has no To tag: {}", out[0].text);
    out[1].clone()
}

#[test]
fn c01_an_invite_is_forwarded_with_via_record_route_and_nothing_else_touched() {
    let forwarded = begin(&mut Rig::new(config()));
    assert_eq!(forwarded.first_line(), "INVITE sip:+12155551213@192.0.2.1 SIP/2.0");
    assert_eq!(forwarded.to(), addr(CALLEE));
    let vias = forwarded.lines("Via");
    assert_eq!(vias.len(), 2);
    assert!(
        vias[0].starts_with("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK") && vias[0].ends_with(";rport"),
        "{}",
        vias[0]
    );
    assert_eq!(vias[1], "SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKINVITE1;rport=5060;received=192.0.2.10");
    assert_eq!(forwarded.line("Max-Forwards"), "69");
    assert_eq!(forwarded.line("Record-Route"), "<sip:192.0.2.1:5060;lr;vt=0.1>");
    assert!(forwarded.text.contains("X-Odd:   kept  as it is \r\n"));
}

#[test]
fn c15_whole_call_with_ack_and_bye_by_the_route_set() {
    let mut rig = Rig::new(config());
    let forwarded = begin(&mut rig);
    let ringing = rig.receive(CALLEE, &answer(&forwarded, "180 Ringing", "b1", ""));
    assert_eq!((ringing.len(), ringing[0].first_line(), ringing[0].to()), (1, "SIP/2.0 180 Ringing", addr(CALLER)));
    assert_eq!(ringing[0].lines("Via").len(), 1);
    let ok = rig.receive(CALLEE, &answer(&forwarded, "200 OK", "b1", "Contact: <sip:callee@198.51.100.20:5062>\n"));
    assert_eq!((ok.len(), ok[0].first_line()), (1, "SIP/2.0 200 OK"));
    let again = rig.receive(CALLEE, &answer(&forwarded, "200 OK", "b1", "Contact: <sip:callee@198.51.100.20:5062>\n"));
    assert_eq!(again.len(), 1, "C-26: every copy of a 2xx crosses the proxy");

    let route = format!("Route: {}\n", ok[0].line("Record-Route"));
    let ack = rig.receive(CALLER, &request("ACK", "sip:callee@198.51.100.20:5062", "1", ";tag=b1", &route));
    assert_eq!((ack.len(), ack[0].to()), (1, addr("198.51.100.20:5062")));
    assert!(ack[0].lines("Route").is_empty() && ack[0].lines("Record-Route").is_empty());
    let bye = rig.receive(CALLER, &request("BYE", "sip:callee@198.51.100.20:5062", "2", ";tag=b1", &route));
    assert_eq!((bye.len(), bye[0].to()), (1, addr("198.51.100.20:5062")));
    let done = rig.receive(CALLEE, &answer(&bye[0], "200 OK", "b1", ""));
    assert_eq!((done.len(), done[0].first_line(), done[0].to()), (1, "SIP/2.0 200 OK", addr(CALLER)));
    assert!(rig.pass(Duration::from_secs(60)).is_empty());
    assert_eq!(rig.proxy.live(), 0, "every transaction has ended");
}

#[test]
fn c16_bye_by_the_callee_goes_to_the_callers_contact() {
    let mut rig = Rig::new(config());
    let forwarded = begin(&mut rig);
    rig.receive(CALLEE, &answer(&forwarded, "200 OK", "b1", ""));
    let bye = format!(
        "BYE sip:caller@192.0.2.10:5066 SIP/2.0\nVia: SIP/2.0/UDP 198.51.100.20:5060;branch=z9hG4bKbye\nMax-Forwards: 70\nRoute: {}\n\
         From: <sip:+12155551213@192.0.2.1>;tag=b1\nTo: <sip:+12015550100@192.0.2.10>;tag=a1\nCall-ID: c1@192.0.2.10\nCSeq: 9 BYE\nContent-Length: 0\n\n",
        forwarded.line("Record-Route")
    );
    let out = rig.receive(CALLEE, &bye);
    assert_eq!((out.len(), out[0].to()), (1, addr("192.0.2.10:5066")));
}

#[test]
fn a_route_to_a_host_name_goes_to_the_trunk_on_the_other_side() {
    let mut rig = Rig::new(config());
    let forwarded = begin(&mut rig);
    let route = format!("Route: {}\n", forwarded.line("Record-Route"));
    let ack = rig.receive(CALLER, &request("ACK", "sip:callee@pbx.example", "1", ";tag=b1", &route));
    assert_eq!((ack.len(), ack[0].to()), (1, addr(CALLEE)));
}

#[test]
fn r16_non_2xx_is_acknowledged_hop_by_hop() {
    let mut rig = Rig::new(config());
    let forwarded = begin(&mut rig);
    let out = rig.receive(CALLEE, &answer(&forwarded, "486 Busy Here", "b1", ""));
    assert_eq!(out.len(), 2);
    let ack = out.iter().find(|s| s.first_line().starts_with("ACK ")).expect("our own ACK");
    assert_eq!(ack.to(), addr(CALLEE));
    let busy = out.iter().find(|s| s.first_line() == "SIP/2.0 486 Busy Here").expect("relayed");
    assert_eq!(busy.to(), addr(CALLER));
    let tag = busy.line("To").split(";tag=").nth(1).unwrap().to_owned();
    let mut ack = request("ACK", "sip:+12155551213@192.0.2.1", "1", &format!(";tag={tag}"), "");
    ack = ack.replace("z9hG4bKACK1", "z9hG4bKINVITE1");
    assert!(rig.receive(CALLER, &ack).is_empty(), "never forwarded");
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.proxy.live(), 0);
}

#[test]
fn c04_c05_cancel_waits_for_a_provisional_response() {
    let mut rig = Rig::new(config());
    let forwarded = begin(&mut rig);
    let cancel =
        request("CANCEL", "sip:+12155551213@192.0.2.1", "1", "", "Reason: SIP;cause=487\nReason: Q.850;cause=16\n")
            .replace("z9hG4bKCANCEL1", "z9hG4bKINVITE1");
    let out = rig.receive(CALLER, &cancel);
    assert_eq!((out.len(), out[0].first_line()), (1, "SIP/2.0 200 OK"), "K-1, and no CANCEL before a 1xx (K-2)");
    let out = rig.receive(CALLEE, &answer(&forwarded, "180 Ringing", "b1", ""));
    let sent = out.iter().find(|s| s.first_line().starts_with("CANCEL ")).expect("CANCEL on the first 1xx");
    assert_eq!(sent.lines("Via"), &forwarded.lines("Via")[..1]);
    assert_eq!(sent.lines("Reason").len(), 2, "C-07");
    let out = rig.receive(CALLEE, &answer(&forwarded, "487 Request Terminated", "b1", ""));
    assert!(out.iter().any(|s| s.first_line() == "SIP/2.0 487 Request Terminated" && s.to() == addr(CALLER)));
}

#[test]
fn k6_a_2xx_that_crosses_the_cancel_is_forwarded() {
    let mut rig = Rig::new(config());
    let forwarded = begin(&mut rig);
    rig.receive(CALLEE, &answer(&forwarded, "180 Ringing", "b1", ""));
    let cancel =
        request("CANCEL", "sip:+12155551213@192.0.2.1", "1", "", "").replace("z9hG4bKCANCEL1", "z9hG4bKINVITE1");
    rig.receive(CALLER, &cancel);
    let out = rig.receive(CALLEE, &answer(&forwarded, "200 OK", "b1", ""));
    assert_eq!(out[0].first_line(), "SIP/2.0 200 OK");
}

#[test]
fn c09_silence_ends_with_408_and_a_non_invite_with_nothing() {
    let mut rig = Rig::new(config());
    begin(&mut rig);
    let out = rig.pass(Duration::from_secs(40));
    assert_eq!(out.iter().filter(|s| s.to() == addr(CALLEE)).count(), 6, "Timer A");
    assert!(out.iter().any(|s| s.first_line() == "SIP/2.0 408 Request Timeout" && s.to() == addr(CALLER)));
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.proxy.live(), 0);

    let mut rig = Rig::new(config());
    assert_eq!(rig.receive(CALLER, &request("MESSAGE", "sip:+12155551213@192.0.2.1", "5", "", "")).len(), 1);
    let up: Vec<_> = rig.pass(Duration::from_secs(80)).into_iter().filter(|s| s.to() == addr(CALLER)).collect();
    assert_eq!(up.len(), 1, "RFC 4320: one 100, never a 408: {up:#?}");
    assert_eq!(up[0].first_line(), "SIP/2.0 100 Trying");
    assert_eq!(rig.proxy.live(), 0);
}

#[test]
fn r7_a_sole_503_becomes_500_and_the_next_address_is_tried_first() {
    let mut rig = Rig::new(config());
    let forwarded = begin(&mut rig);
    let out = rig.receive(CALLEE, &answer(&forwarded, "503 Service Unavailable", "b1", "Retry-After: 10\n"));
    let up = out.iter().find(|s| s.to() == addr(CALLER)).unwrap();
    assert_eq!(up.first_line(), "SIP/2.0 500 Server Internal Error");
    assert!(up.lines("Retry-After").is_empty());

    let mut two = config();
    two.trunks[1] = trunk("callee", Transport::Udp, &[CALLEE, SPARE], 0);
    let mut rig = Rig::new(two);
    let first = begin(&mut rig);
    let out = rig.receive(CALLEE, &answer(&first, "503 Service Unavailable", "b1", ""));
    let second = out.iter().find(|s| s.first_line().starts_with("INVITE ")).expect("C-27: next address");
    assert_eq!(second.to(), addr(SPARE));
    assert_eq!(
        (second.lines("Via").len(), second.lines("Record-Route").len(), second.line("Max-Forwards")),
        (2, 1, "69"),
        "RR-8"
    );
    assert_ne!(second.lines("Via")[0], first.lines("Via")[0], "a new branch");
    assert!(!out.iter().any(|s| s.to() == addr(CALLER)));
}

#[test]
fn t5_an_oversize_request_moves_to_tcp_and_back_when_tcp_is_refused() {
    let mut rig = Rig::new(config());
    let out = rig.receive(CALLER, &invite(&format!("X-Filler: {}\n", "x".repeat(1300))));
    let tcp = &out[1];
    assert_eq!(tcp.hop.transport, Transport::Tcp);
    assert!(tcp.lines("Via")[0].starts_with("SIP/2.0/TCP "));
    let out = rig.fail(tcp.tag);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].hop.transport, out[0].to()), (Transport::Udp, addr(CALLEE)));

    let mut plain = config();
    plain.trunks[1].udp_oversize = UdpOversize::Reject;
    let out = Rig::new(plain).receive(CALLER, &invite(&format!("X-Filler: {}\n", "x".repeat(1300))));
    assert_eq!(out[1].first_line(), "SIP/2.0 513 Message Too Large");
}

#[test]
fn c57_two_record_routes_when_the_sides_differ_and_both_are_removed() {
    let mut crossing = config();
    crossing.listeners.push(listener("tcp", Transport::Tcp, 5070));
    crossing.trunks[1] = trunk("callee", Transport::Tcp, &[CALLEE], 1);
    let mut rig = Rig::new(crossing);
    let forwarded = begin(&mut rig);
    let recorded = forwarded.lines("Record-Route");
    assert_eq!(
        recorded,
        ["<sip:192.0.2.1:5070;transport=tcp;lr;vt=0.1>", "<sip:192.0.2.1:5060;transport=udp;lr;vt=0.1>"]
    );
    assert!(forwarded.lines("Via")[0].starts_with("SIP/2.0/TCP 192.0.2.1:5070;"));
    let routes = format!("Route: {}, {}\n", recorded[1], recorded[0]);
    let ack =
        rig.receive(CALLER, &request("ACK", "sip:callee@198.51.100.20:5062;transport=tcp", "1", ";tag=b1", &routes));
    assert!(ack[0].lines("Route").is_empty());
    assert_eq!((ack[0].hop.transport, ack[0].hop.local), (Transport::Tcp, ListenerId(1)), "RT-3");
}

#[test]
fn c54_a_strict_router_upstream_gets_its_request_uri_back() {
    let mut rig = Rig::new(config());
    let forwarded = begin(&mut rig);
    rig.receive(CALLEE, &answer(&forwarded, "200 OK", "b1", ""));
    let own = forwarded.line("Record-Route").trim_matches(['<', '>']).to_owned();
    let bye = rig.receive(CALLER, &request("BYE", &own, "2", ";tag=b1", "Route: <sip:callee@198.51.100.20:5062>\n"));
    assert_eq!(bye[0].first_line(), "BYE sip:callee@198.51.100.20:5062 SIP/2.0");
    assert_eq!(bye[0].to(), addr("198.51.100.20:5062"));
    assert!(bye[0].lines("Route").is_empty());
}

#[test]
fn c51_a_loop_is_found_and_a_spiral_passes() {
    let mut looping = config();
    looping.routes = vec![Route::to(TrunkId(1))];
    let mut rig = Rig::new(looping);
    let forwarded = begin(&mut rig);
    // The callee sends the very request back; the Via it adds changes nothing.
    let back = forwarded.text.replacen("Via: ", "Via: SIP/2.0/UDP 198.51.100.20:5060;branch=z9hG4bKback\r\nVia: ", 1);
    let back = back.replacen("Record-Route: ", "X-Was: ", 1);
    let out = rig.receive(CALLER, &back);
    assert_eq!(out[0].first_line(), "SIP/2.0 482 Loop Detected");
    let spiral =
        back.replace("INVITE sip:+12155551213@", "INVITE sip:+12155559999@").replace("z9hG4bKback", "z9hG4bKback2");
    let out = rig.receive(CALLEE, &spiral);
    assert!(out.iter().any(|s| s.first_line() == "INVITE sip:+12155559999@192.0.2.1 SIP/2.0"), "{out:#?}");
}

#[test]
fn validation_answers_in_the_order_of_the_rules() {
    let first = |text: &str| {
        Rig::new(config()).receive(CALLER, text).first().map(|s| s.first_line().to_owned()).unwrap_or_default()
    };
    let ask = |uri: &str, extra: &str| request("OPTIONS", uri, "1", "", extra);
    let number = "sip:+12155551213@192.0.2.1";
    assert_eq!(first(&ask("nobodyknows:x", "")), "SIP/2.0 416 Unsupported URI Scheme");
    assert_eq!(first(&ask(number, "").replace("Forwards: 70", "Forwards: 0")), "SIP/2.0 483 Too Many Hops");
    assert_eq!(first(&ask("sip:192.0.2.1", "").replace("Forwards: 70", "Forwards: 0")), "SIP/2.0 200 OK");
    assert_eq!(first(&request("ACK", number, "1", "", "").replace("Forwards: 70", "Forwards: 0")), "");
    assert_eq!(first(&ask(number, "").replace("SIP/2.0\n", "SIP/7.0\n")), "SIP/2.0 505 Version Not Supported");
    let forwarded = Rig::new(config()).receive(CALLER, &ask(number, "").replace("Forwards: 70", "Forwards: 256"));
    assert_eq!(forwarded[0].line("Max-Forwards"), "70", "K-5");
    let refused = Rig::new(config()).receive(CALLER, &ask(number, "Proxy-Require: foo, bar\nRequire: baz\n"));
    assert_eq!((refused[0].first_line(), refused[0].line("Unsupported")), ("SIP/2.0 420 Bad Extension", "foo, bar"));
    let passed = Rig::new(config()).receive(CALLER, &ask(number, "Require: baz\n"));
    assert_eq!(passed[0].line("Require"), "baz", "V-10");
}

#[test]
fn t11_an_ipv6_next_hop_is_left_for_by_an_ipv6_socket() {
    let mut config = config();
    let six = Listener {
        bind: "[2001:db8::1]:5060".parse().unwrap(),
        advertise_host: "[2001:db8::1]".into(),
        ..config.listeners[0].clone()
    };
    config.listeners.push(six);
    config.trunks[1] = trunk("callee", Transport::Udp, &["[2001:db8::9]:5060"], 0);
    let sent = Rig::new(config).receive(CALLER, &invite("")).remove(1);
    assert_eq!((sent.hop.local, sent.to()), (ListenerId(1), addr("[2001:db8::9]:5060")));
    assert_eq!(sent.lines("Record-Route").len(), 2, "C-49: double between the families");
}

#[test]
fn rt4_marks_lead_nobody_past_the_table() {
    let signed = |trusted| {
        let mut config = config();
        config.keys.trunks = Some([9; 16]);
        config.trunks[0].trusted = trusted;
        Rig::new(config)
    };
    let elsewhere = "sip:+882@203.0.113.9";
    let status = |rig: &mut Rig, message: &str| rig.receive(CALLER, message).last().unwrap().first_line().to_owned();
    // Marks that somebody made up, and marks of a call seen in its Record-Route, begin no other call.
    let mut rig = signed(false);
    let record_route = rig.receive(CALLER, &invite(""))[1].line("Record-Route").to_owned();
    assert!(record_route.contains(";vm="), "{record_route}");
    for marks in ["<sip:192.0.2.1:5060;lr;vt=0.1>", &record_route] {
        let begins = invite(&format!("Route: {marks}\n")).replacen(
            "INVITE sip:+12155551213@192.0.2.1",
            &format!("INVITE {elsewhere}"),
            1,
        );
        let begins = begins.replace("branch=z9hG4bK", "branch=z9hG4bKnew");
        let out = rig.receive(CALLER, &begins);
        assert!(out.iter().all(|sent| sent.to() != addr("203.0.113.9:5060")), "{marks}: {out:#?}");
    }
    // In a call without marks an untrusted trunk reaches known neighbours, and nobody else.
    let in_call = |uri: &str| request("BYE", uri, "1", ";tag=b", "Route: <sip:192.0.2.1:5060;lr>\n");
    assert_eq!(status(&mut signed(false), &in_call(elsewhere)), "SIP/2.0 403 Not Our Route");
    assert!(status(&mut signed(true), &in_call(elsewhere)).starts_with("BYE "));
    assert!(status(&mut signed(false), &in_call("sip:198.51.100.20")).starts_with("BYE "));
}

#[test]
fn rt4_a_flow_token_is_for_listeners_of_browsers_only() {
    let mut config = config();
    config.keys.flow = Some([8; 16]);
    let mut token = Vec::new();
    vesperd::proxy::route::marks::write_flow(
        &config.keys,
        &config.listeners[0],
        vesperd::sip::ConnectionId(5),
        &mut token,
    );
    let route = format!("Route: <sip:192.0.2.1:5060;lr{}>\n", String::from_utf8(token).unwrap());
    for to_tag in ["", ";tag=b"] {
        let text = request("INVITE", "sip:+882@203.0.113.9", "1", to_tag, &route);
        let out = Rig::new(config.clone()).receive(CALLER, &text);
        assert!(out.iter().all(|sent| sent.to() != addr("203.0.113.9:5060")), "{to_tag}: {out:#?}");
    }
}

#[test]
fn rt4_a_made_up_to_tag_leads_nobody_past_the_table() {
    let keyed = || {
        let mut config = config();
        config.keys.trunks = Some([9; 16]);
        config.trunks.push(trunk("other", Transport::Udp, &["192.0.2.99:5060"], 0));
        Rig::new(config)
    };
    let bare = "Route: <sip:192.0.2.1:5060;lr>\n";
    let in_call = |method: &str, lines: &str| request(method, "sip:+882@198.51.100.20", "9", ";tag=b", lines);
    let last = |out: Vec<Sent>| out.last().unwrap().first_line().to_owned();
    for method in ["INVITE", "SUBSCRIBE", "REFER", "MESSAGE"] {
        let told = last(keyed().receive(CALLER, &in_call(method, bare)));
        assert_eq!(told, "SIP/2.0 481 Call/Transaction Does Not Exist", "{method}");
    }
    // RR-9: after a restart calls can still be ended and go on.
    for method in ["BYE", "UPDATE", "INFO", "NOTIFY"] {
        assert!(last(keyed().receive(CALLER, &in_call(method, bare))).starts_with(method), "{method}");
    }
    // Marks are a proof for the two trunks that they name, and so is the table of calls.
    let mut rig = keyed();
    let sent = begin(&mut rig);
    let marked = format!("Route: {}\n", sent.line("Record-Route"));
    assert!(last(rig.receive(CALLER, &in_call("MESSAGE", &marked))).starts_with("MESSAGE"));
    let told = last(rig.receive("192.0.2.99:5060", &in_call("REFER", &marked)));
    assert_eq!(told, "SIP/2.0 481 Call/Transaction Does Not Exist");
    let elsewhere = request("BYE", "sip:+882@203.0.113.9", "10", ";tag=b", &marked);
    assert_eq!(last(rig.receive("192.0.2.99:5060", &elsewhere)), "SIP/2.0 403 Not Our Route");
    rig.receive(CALLEE, &answer(&sent, "200 OK", "b", "Contact: <sip:b@198.51.100.20>\n"));
    assert!(last(rig.receive(CALLER, &in_call("INVITE", bare))).starts_with("INVITE"));
}

#[test]
fn relaying_is_for_trunks() {
    let out = Rig::new(config()).receive(STRANGER, &invite(""));
    assert_eq!((out.len(), out[0].first_line(), out[0].to()), (1, "SIP/2.0 403 Forbidden", addr(STRANGER)));
    // C-56: a Route of somebody else's is a relay order.
    let preloaded = invite("Route: <sip:203.0.113.5;lr>\n");
    assert_eq!(Rig::new(config()).receive(CALLER, &preloaded)[1].first_line(), "SIP/2.0 403 Not Relaying");
    let mut trusting = config();
    trusting.trunks[0].trusted = true;
    assert_eq!(Rig::new(trusting).receive(CALLER, &preloaded)[1].to(), addr("203.0.113.5:5060"));
    // A dialog that does not run through here.
    let stray = request("BYE", "sip:x@203.0.113.5", "7", ";tag=zz", "");
    assert_eq!(
        Rig::new(config()).receive(CALLER, &stray)[0].first_line(),
        "SIP/2.0 481 Call/Transaction Does Not Exist"
    );
}

#[test]
fn c08_an_unmatched_cancel_is_refused() {
    let out = Rig::new(config()).receive(CALLER, &request("CANCEL", "sip:+12155551213@192.0.2.1", "1", "", ""));
    assert_eq!(out[0].first_line(), "SIP/2.0 481 Call/Transaction Does Not Exist");
}

#[test]
fn c50_spoofed_responses_are_dropped() {
    let mut rig = Rig::new(config());
    let forwarded = begin(&mut rig);
    let good = answer(&forwarded, "200 OK", "b1", "");
    let foreign = good.replacen("SIP/2.0/UDP 192.0.2.1:5060", "SIP/2.0/UDP 203.0.113.9:5060", 1);
    let branch = good.replacen("branch=z9hG4bK", "branch=z9hG4bKx", 1);
    let method = good.replace("CSeq: 1 INVITE", "CSeq: 1 BYE");
    for spoofed in [foreign, branch, method] {
        assert!(rig.receive(CALLEE, &spoofed).is_empty(), "{spoofed}");
    }
    assert_eq!(rig.proxy.stats().dropped_responses, 3);
    assert_eq!(rig.receive(CALLEE, &good).len(), 1);
}

#[test]
fn c34_c35_responses_go_where_the_via_and_the_packet_say() {
    let options = |via: &str| {
        format!(
            "OPTIONS sip:192.0.2.1 SIP/2.0\nVia: SIP/2.0/UDP {via}\nMax-Forwards: 70\nFrom: <sip:a@x>;tag=1\nTo: <sip:192.0.2.1>\n\
             Call-ID: o1\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n"
        )
    };
    let from = "192.0.2.10:6789";
    let mut wide = config();
    wide.trunks[0].peers = vec!["192.0.2.10/32".parse().unwrap()];
    let out = Rig::new(wide.clone()).receive(from, &options("10.0.0.1:5099;branch=z9hG4bKa;rport"));
    assert_eq!(out[0].to(), addr(from), "rport");
    assert!(out[0].line("Via").contains("received=192.0.2.10") && out[0].line("Via").contains("rport=6789"));
    let out = Rig::new(wide).receive(from, &options("pc.example:5099;branch=z9hG4bKa"));
    assert_eq!(out[0].to(), addr("192.0.2.10:5099"), "source address, port of the Via");
}

#[test]
fn c19_timer_c_cancels_a_call_that_rings_for_ever() {
    let mut rig = Rig::new(config());
    let forwarded = begin(&mut rig);
    rig.receive(CALLEE, &answer(&forwarded, "180 Ringing", "b1", ""));
    assert!(rig.pass(Duration::from_secs(180)).is_empty());
    rig.receive(CALLEE, &answer(&forwarded, "180 Ringing", "b1", ""));
    assert!(rig.pass(Duration::from_secs(180)).is_empty(), "R-2: a 180 restarts it");
    let out = rig.pass(Duration::from_secs(10));
    assert!(out.iter().any(|s| s.first_line().starts_with("CANCEL ")), "{out:#?}");
    let out = rig.pass(Duration::from_secs(60));
    assert!(out.iter().any(|s| s.first_line() == "SIP/2.0 487 Request Terminated" && s.to() == addr(CALLER)), "K-3");
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.proxy.live(), 0);
}

/// What a proxy does with a torture message of a trusted neighbour over UDP.
#[derive(Debug, PartialEq)]
enum Does {
    Forwards,
    Answers(u16),
    Drops,
}

fn torture(file: &str) -> (Does, Vec<Sent>) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file).with_extension("dat");
    let bytes = std::fs::read(path).unwrap();
    let mut trusting = config();
    trusting.trunks[0].trusted = true;
    trusting.trunks[1].udp_oversize = UdpOversize::Udp;
    let mut rig = Rig::new(trusting);
    let source =
        Hop { transport: Transport::Udp, local: ListenerId(0), remote: addr(CALLER), connection: None, peer: None };
    let mut out = Output::default();
    if let Ok(message) = sip::parse(&bytes, &mut rig.index, Framing::Datagram, &Limits::default()) {
        rig.proxy.handle_message(rig.now, source, message, &mut out);
    }
    let text = |t| String::from_utf8_lossy(out.outbox.bytes_of(t)).into_owned();
    let sent = out.outbox.items().iter().map(|t| Sent { hop: t.hop, tag: t.tag, text: text(t) });
    let sent: Vec<Sent> = sent.filter(|s| !s.first_line().starts_with("SIP/2.0 100 ")).collect();
    let does = match &sent[..] {
        [] => Does::Drops,
        [one] if one.first_line().starts_with("SIP/2.0 ") => Does::Answers(one.first_line()[8..11].parse().unwrap()),
        [_] => Does::Forwards,
        more => panic!("{file}: {more:#?}"),
    };
    (does, sent)
}

#[test]
fn c47_the_torture_messages_in_the_proxy_role() {
    let forwarded = [
        "wsinv",
        "intmeth",
        "esc01",
        "escnull",
        "esc02",
        "lwsdisp",
        "longreq",
        "dblreq",
        "semiuri",
        "transports",
        "mpart01",
        "unksm2",
        "invut",
        "regaut01",
        "cparam01",
        "cparam02",
        "regescrt",
        "sdp01",
        "inv2543",
        "baddate",
        "regbadct",
    ];
    let refused = [
        "badinv01",
        "clerr",
        "ncl",
        "scalar02",
        "quotbal",
        "ltgtruri",
        "lwsruri",
        "lwsstart",
        "trws",
        "escruri",
        "badaspec",
        "baddn",
        "mismatch01",
        "badbranch",
        "insuf",
        "multi01",
        "mcl01",
    ];
    let others =
        [("badvers", 505), ("mismatch02", 501), ("unkscm", 416), ("novelsc", 416), ("bext01", 420), ("zeromf", 483)];
    // Responses to nothing we asked: dropped, whatever they hold.
    let dropped = ["unreason", "noreason", "scalarlg", "bigcode", "bcast"];
    let all = forwarded.iter().map(|n| (*n, Does::Forwards));
    let all =
        all.chain(refused.iter().map(|n| (*n, Does::Answers(400)))).chain(dropped.iter().map(|n| (*n, Does::Drops)));
    let all: Vec<_> = all.chain(others.map(|(n, status)| (n, Does::Answers(status)))).collect();
    assert_eq!(all.len(), 49);
    for (name, expected) in all {
        let (does, sent) = torture(&format!("rfc4475/{name}"));
        assert_eq!(does, expected, "{name}: {sent:#?}");
    }
    assert_eq!(torture("rfc4475/bext01").1[0].line("Unsupported"), "noProxiesSupportThis, norDoAnyProxiesSupportThis");
    assert_eq!(torture("rfc4475/inv2543").1[0].line("Max-Forwards"), "70");

    let forwarded = [
        "ipv6-good",
        "port-ambiguous",
        "port-unambiguous",
        "via-received-param-with-delim",
        "via-received-param-no-delim",
        "ipv6-in-sdp",
        "mult-ip-in-header",
        "mult-ip-in-sdp",
        "ipv4-mapped-ipv6",
        "ipv6-bug-abnf-3-colons",
        "ipv6-correct-abnf-2-colons",
    ];
    for name in forwarded {
        let (does, sent) = torture(&format!("rfc5118/{name}"));
        assert_eq!(does, Does::Forwards, "{name}: {sent:#?}");
        assert!(!sent[0].first_line().contains(":::"), "{name}");
    }
    assert_eq!(torture("rfc5118/ipv6-bad").0, Does::Answers(400));
}
