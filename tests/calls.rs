//! The table of calls on a clock of its own: what a record says of a call, what ends one, what the operator may do
//! (kamailio-routing KR-6, sip-proxy K-6, E-3, sipp-conformance 1.3).

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vesperd::config::Config;
use vesperd::proxy::route::table::Action;
use vesperd::proxy::{CallRecord, CallState, EndedBy, EndedCalls, Event, Now, Output, Proxy, Snapshot, TrunkId};
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::replay::ReplayTable;

const CALLER: &str = "192.0.2.10:5060";
const CALLEE: &str = "198.51.100.20:5060";
const SPARE: &str = "198.51.100.21:5060";

fn configuration(callee: &str, rest: &str) -> Config {
    let text = format!(
        "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
         [[trunk]]\nname = \"caller\"\nnext_hop = \"udp:{CALLER}\"\n\
         [[trunk]]\nname = \"callee\"\nnext_hop = [\"udp:{CALLEE}\", \"udp:{SPARE}\"]\n{callee}\n\
         [[route]]\nfrom = \"caller\"\nto = \"callee\"\n\
         [[route]]\nfrom = \"callee\"\nto = \"caller\"\n[cdr]\nfile = \"stdout\"\n{rest}\n"
    );
    Config::parse(&text, Path::new("edge.toml"), 1_795_219_200).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

struct Rig {
    proxy: Proxy,
    now: Now,
    index: Index,
    records: Vec<CallRecord>,
    events: Vec<Event>,
}

#[derive(Debug, Clone)]
struct Sent {
    to: SocketAddr,
    text: String,
}

impl Sent {
    fn lines(&self, name: &str) -> Vec<&str> {
        let start = format!("{name}: ");
        self.text.split("\r\n").take_while(|l| !l.is_empty()).filter_map(|l| l.strip_prefix(&start)).collect()
    }

    fn is(&self, to: &str, start: &str) -> bool {
        self.to == to.parse().unwrap() && self.text.starts_with(start)
    }
}

fn one<'a>(sent: &'a [Sent], to: &str, start: &str) -> &'a Sent {
    let found: Vec<_> = sent.iter().filter(|s| s.is(to, start)).collect();
    assert_eq!(found.len(), 1, "one {start:?} to {to} in {sent:#?}");
    found[0]
}

impl Rig {
    fn new(config: Config) -> Self {
        let now = Now { instant: support::epoch(), unix: 1_795_219_200 };
        let snapshot = Snapshot { config: config.proxy, trust: config.trust, replay: ReplayTable::default() };
        Rig {
            proxy: Proxy::new(Arc::new(snapshot), [7; 32], now),
            now,
            index: Index::new(),
            records: Vec::new(),
            events: Vec::new(),
        }
    }

    fn plain() -> Self {
        Self::new(configuration("", ""))
    }

    fn receive(&mut self, from: &str, text: &str) -> Vec<Sent> {
        let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        let remote = from.parse().unwrap();
        let source = Hop { transport: Transport::Udp, local: ListenerId(0), remote, connection: None, peer: None };
        let mut out = Output::default();
        let message = sip::parse(text.as_bytes(), &mut self.index, Framing::Datagram, &Limits::default()).unwrap();
        self.proxy.handle_message(self.now, source, message, &mut out);
        self.take(out)
    }

    fn take(&mut self, mut out: Output) -> Vec<Sent> {
        self.records.append(&mut out.records);
        self.events.append(&mut out.events);
        let text = |t| String::from_utf8(out.outbox.bytes_of(t).to_vec()).unwrap();
        out.outbox.items().iter().map(|t| Sent { to: t.hop.remote, text: text(t) }).collect()
    }

    fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let end = self.now.instant + time;
        let mut all = Vec::new();
        while let Some(at) = self.proxy.poll_timeout().filter(|at| *at <= end) {
            self.now.instant = self.now.instant.max(at);
            let mut out = Output::default();
            self.proxy.handle_timeout(self.now, &mut out);
            all.extend(self.take(out));
        }
        self.now.instant = end;
        all
    }

    fn end(&mut self, call: u32) -> (EndedCalls, Vec<Sent>) {
        let mut out = Output::default();
        let ended = self.proxy.end_calls(self.now, format!("c{call}@192.0.2.10").as_bytes(), &mut out);
        (ended, self.take(out))
    }

    /// An INVITE as it reached the callee.
    fn call(&mut self, call: u32, lines: &str) -> Sent {
        let sent = self.receive(CALLER, &invite(call, lines));
        one(&sent, CALLEE, "INVITE ").clone()
    }

    /// A call that stands, acknowledged.
    fn answered(&mut self, call: u32, lines: &str, answer_lines: &str) -> Sent {
        let invite = self.call(call, lines);
        self.pass(Duration::from_secs(2));
        self.receive(CALLEE, &answer(&invite, "180 Ringing", "b1", ""));
        self.pass(Duration::from_secs(3));
        self.receive(CALLEE, &answer(&invite, "200 OK", "b1", answer_lines));
        self.receive(CALLER, &in_dialog("ACK", call, 1, "b1", ""));
        invite
    }

    /// The only record there is.
    fn record(&mut self) -> CallRecord {
        assert_eq!(self.records.len(), 1, "{:#?}", self.records);
        self.records.pop().unwrap()
    }

    fn settle(&mut self) {
        self.pass(Duration::from_secs(600));
        assert_eq!((self.proxy.live(), self.proxy.calls().len()), (0, 0), "something leaked");
    }
}

fn invite(call: u32, lines: &str) -> String {
    request("INVITE", "sip:+12155551213@192.0.2.1", call, 1, "", lines)
}

fn request(method: &str, uri: &str, call: u32, cseq: u32, to_tag: &str, lines: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{method}{call}-{cseq};rport\nMax-Forwards: 70\n{lines}\
         From: \"A\" <sip:+12015550100@192.0.2.10>;tag=a1\nTo: <sip:+12155551213@192.0.2.1>{to_tag}\nCall-ID: c{call}@192.0.2.10\n\
         CSeq: {cseq} {method}\nContact: <sip:a@192.0.2.10:5060>\nContent-Length: 0\n\n"
    )
}

/// A request of the caller in a call that runs through here.
fn in_dialog(method: &str, call: u32, cseq: u32, tag: &str, lines: &str) -> String {
    let route = "Route: <sip:192.0.2.1:5060;lr;vt=0.1>\n";
    let uri = "sip:b@198.51.100.20:5060";
    request(method, uri, call, cseq, &format!(";tag={tag}"), &format!("{route}{lines}"))
}

/// A request of the callee in it.
fn from_callee(method: &str, call: u32, cseq: u32, lines: &str) -> String {
    format!(
        "{method} sip:a@192.0.2.10:5060 SIP/2.0\nVia: SIP/2.0/UDP 198.51.100.20:5060;branch=z9hG4bKx{method}{call}-{cseq};rport\n\
         Max-Forwards: 70\nRoute: <sip:192.0.2.1:5060;lr;vt=0.1>\n{lines}From: <sip:+12155551213@192.0.2.1>;tag=b1\n\
         To: \"A\" <sip:+12015550100@192.0.2.10>;tag=a1\nCall-ID: c{call}@192.0.2.10\nCSeq: {cseq} {method}\n\
         Contact: <sip:b@198.51.100.20:5060>\nContent-Length: 0\n\n"
    )
}

/// A response to a request as it was received.
fn answer(request: &Sent, status: &str, tag: &str, lines: &str) -> String {
    let copy = |name: &str| request.lines(name).iter().map(|v| format!("{name}: {v}\n")).collect::<String>();
    let to = request.lines("To")[0];
    let to = if to.contains("tag=") { to.to_owned() } else { format!("{to};tag={tag}") };
    let contact = if lines.contains("Contact:") { "" } else { "Contact: <sip:b@198.51.100.20:5060>\n" };
    format!(
        "SIP/2.0 {status}\n{}{}{}To: {to}\n{}{}{contact}{lines}Content-Length: 0\n\n",
        copy("Via"),
        copy("Record-Route"),
        copy("From"),
        copy("Call-ID"),
        copy("CSeq")
    )
}

fn hang_up(rig: &mut Rig, call: u32, tag: &str, lines: &str) {
    let sent = rig.receive(CALLER, &in_dialog("BYE", call, 2, tag, lines));
    let bye = one(&sent, CALLEE, "BYE ").clone();
    rig.receive(CALLEE, &answer(&bye, "200 OK", tag, ""));
}

// ---- records

#[test]
fn a_record_tells_the_whole_call() {
    let mut rig = Rig::plain();
    rig.answered(1, "", "");
    assert_eq!(rig.proxy.calls().len(), 1);
    rig.pass(Duration::from_secs(60));
    hang_up(&mut rig, 1, "b1", "Reason: SIP;cause=200, Q.850 ;cause = 16;text=\"x\"\n");
    let CallRecord { call, ended, ended_by } = rig.record();
    assert_eq!((call.call_id(), call.from_tag(), call.to_tag()), (&b"c1@192.0.2.10"[..], &b"a1"[..], &b"b1"[..]));
    assert_eq!((call.numbers().caller, call.numbers().called), (&b"+12015550100"[..], &b"+12155551213"[..]));
    assert_eq!((call.ingress().unwrap().0, call.egress().unwrap().0), (0, 1));
    assert_eq!(call.next_hop().unwrap().remote.to_string(), CALLEE);
    let since = |at: Option<std::time::Instant>| at.unwrap().duration_since(call.started()).as_secs();
    assert_eq!((since(call.rang()), since(call.answered()), since(Some(ended))), (2, 5, 65));
    assert_eq!((call.status(), ended_by, call.cause(), call.attempts()), (200, EndedBy::Caller, Some(16), 1));
    assert!(!call.is_own_answer() && !call.is_cancelled() && call.answers() == 1);
    assert_eq!(call.verification().result(), "unchecked");
    rig.settle();
}

#[test]
fn the_callee_hangs_up() {
    let mut rig = Rig::plain();
    rig.answered(1, "", "");
    let sent = rig.receive(CALLEE, &from_callee("BYE", 1, 1, ""));
    let bye = one(&sent, CALLER, "BYE ").clone();
    assert_eq!(rig.records.len(), 0, "not before the BYE is answered");
    rig.receive(CALLER, &answer(&bye, "200 OK", "", ""));
    assert_eq!(rig.record().ended_by, EndedBy::Callee);
    rig.settle();
}

#[test]
fn a_bye_that_nobody_answers_ends_the_call_all_the_same() {
    let mut rig = Rig::plain();
    rig.answered(1, "", "");
    rig.receive(CALLER, &in_dialog("BYE", 1, 2, "b1", ""));
    rig.pass(Duration::from_secs(70));
    assert_eq!(rig.record().ended_by, EndedBy::Caller);
    rig.settle();
}

/// RFC 3261 15.1.1: a BYE that is refused, by the other end or here, has ended nothing.
#[test]
fn a_bye_that_is_refused_leaves_the_call_observed_and_counted() {
    let mut rig = Rig::new(configuration("[trunk.limits]\nmax_concurrent_calls = 1\n", ""));
    rig.answered(1, "", "");
    let state = |rig: &Rig| rig.proxy.calls().from(0, 100).0.map(|call| call.state()).collect::<Vec<_>>();
    for (cseq, status) in [(2, "500 CSeq Too Low"), (3, "401 Unauthorized"), (4, "420 Bad Extension")] {
        let sent = rig.receive(CALLER, &in_dialog("BYE", 1, cseq, "b1", ""));
        let bye = one(&sent, CALLEE, "BYE ").clone();
        assert_eq!(state(&rig), [CallState::Ending]);
        rig.receive(CALLEE, &answer(&bye, status, "b1", ""));
        assert_eq!((rig.records.len(), state(&rig)), (0, vec![CallState::Answered]), "{status}");
    }
    let astray = in_dialog("BYE", 1, 5, "b1", "").replace("Route: <sip:192.0.2.1:5060", "Route: <sip:203.0.113.1");
    let sent = rig.receive(CALLER, &astray);
    assert!(one(&sent, CALLER, "SIP/2.0 ").text.starts_with("SIP/2.0 403"), "{sent:#?}");
    assert_eq!((rig.records.len(), state(&rig)), (0, vec![CallState::Answered]));
    let second = rig.receive(CALLER, &invite(2, ""));
    assert!(second.iter().any(|sent| sent.is(CALLER, "SIP/2.0 503")), "the limit holds: {second:#?}");
    rig.records.clear(); // that of the second call
    let sent = rig.receive(CALLER, &in_dialog("BYE", 1, 6, "b1", ""));
    let bye = one(&sent, CALLEE, "BYE ").clone();
    rig.receive(CALLEE, &answer(&bye, "481 Call/Transaction Does Not Exist", "b1", ""));
    assert_eq!(rig.record().ended_by, EndedBy::Caller);
    rig.settle();
}

/// Whoever is at neither end of the call does not end it for us, and does not hide that it was not acknowledged.
#[test]
fn a_request_of_a_third_trunk_has_no_part_in_a_call() {
    let third = "[[trunk]]\nname = \"third\"\nnext_hop = \"udp:203.0.113.7:5060\"\n";
    let mut rig = Rig::new(configuration("", third));
    let invite = rig.call(1, "");
    rig.receive(CALLEE, &answer(&invite, "200 OK", "b1", ""));
    for (method, cseq) in [("ACK", 1), ("BYE", 2)] {
        let sent = rig.receive("203.0.113.7:5060", &in_dialog(method, 1, cseq, "b1", ""));
        let forwarded = one(&sent, CALLEE, method).clone(); // a known neighbour is reached
        if method == "BYE" {
            rig.receive(CALLEE, &answer(&forwarded, "200 OK", "b1", ""));
        }
    }
    let state = |rig: &Rig| rig.proxy.calls().from(0, 100).0.map(|call| call.state()).collect::<Vec<_>>();
    assert_eq!((rig.records.len(), state(&rig)), (0, vec![CallState::Answered]));
    rig.pass(Duration::from_secs(40));
    assert_eq!(rig.record().ended_by, EndedBy::NoAck);
    rig.settle();
}

/// Two trunks with the same next hop: what the gateway sends comes from the first one, also in a call that went to it by the second.
#[test]
fn kr11_a_gateway_of_two_trunks_has_its_part_in_the_calls_of_both() {
    let text = format!(
        "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
         [[trunk]]\nname = \"caller\"\nnext_hop = \"udp:{CALLER}\"\n\
         [[trunk]]\nname = \"first\"\nnext_hop = \"udp:{CALLEE}\"\n\
         [[trunk]]\nname = \"second\"\nnext_hop = \"udp:{CALLEE}\"\n[trunk.limits]\nmax_concurrent_calls = 1\n\
         [[route]]\nfrom = \"caller\"\nto = \"second\"\n[cdr]\nfile = \"stdout\"\n"
    );
    let config = Config::parse(&text, Path::new("edge.toml"), 1_795_219_200).unwrap_or_else(|m| panic!("{m}"));
    let mut rig = Rig::new(config);
    let phone = "203.0.113.50:5060"; // behind the caller's gateway, no neighbour
    let in_call =
        |text: String| text.replace("vt=0.1", "vt=0.2").replace("sip:a@192.0.2.10:5060", "sip:a@203.0.113.50:5060");
    let begin = |rig: &mut Rig, call| {
        let invite = rig.call(call, "");
        rig.receive(CALLEE, &answer(&invite, "200 OK", "b1", ""));
        rig.receive(CALLER, &in_call(in_dialog("ACK", call, 1, "b1", "")));
    };
    begin(&mut rig, 1);
    let again = rig.receive(CALLEE, &in_call(from_callee("INVITE", 1, 1, "")));
    let again = one(&again, phone, "INVITE ").clone();
    rig.receive(phone, &answer(&again, "200 OK", "", "Contact: <sip:a@203.0.113.50:5060>\n"));
    let ack = rig.receive(CALLEE, &in_call(from_callee("ACK", 1, 1, "")));
    one(&ack, phone, "ACK ");
    let bye = rig.receive(CALLEE, &in_call(from_callee("BYE", 1, 2, "")));
    let bye = one(&bye, phone, "BYE ").clone();
    rig.receive(phone, &answer(&bye, "200 OK", "", ""));
    let CallRecord { call, ended_by, .. } = rig.record();
    assert_eq!((ended_by, call.egress()), (EndedBy::Callee, Some(TrunkId(2))));
    begin(&mut rig, 2); // it counts no more
    hang_up(&mut rig, 2, "b1", "");
    rig.records.clear();
    rig.settle();
}

/// KR-6: a branch that was given up counts no more where it went, whatever becomes of its sibling there.
#[test]
fn a_branch_that_was_given_up_does_not_count_when_its_sibling_fails() {
    const BACKUP: &str = "203.0.113.8:5060";
    let callee = "fr_inv_ms = 6000\n[trunk.limits]\nmax_concurrent_calls = 1\ncount = \"to\"\n";
    let backup = format!("[[trunk]]\nname = \"backup\"\nnext_hop = \"udp:{BACKUP}\"\n");
    let mut config = configuration(callee, &backup);
    config.proxy.routes[0].action = Action::To(vec![TrunkId(1), TrunkId(2)]);
    let mut rig = Rig::new(config);
    let first = rig.call(1, "");
    rig.receive(CALLEE, &answer(&first, "100 Trying", "b1", ""));
    let sent = rig.pass(Duration::from_millis(6200));
    let second = one(&sent, SPARE, "INVITE ").clone();
    let sent = rig.receive(SPARE, &answer(&second, "503 Service Unavailable", "b2", ""));
    let third = one(&sent, BACKUP, "INVITE ").clone();
    rig.receive(BACKUP, &answer(&third, "200 OK", "b3", ""));
    // The first one is still alive, and nothing counts at its trunk.
    let sent = rig.receive(CALLER, &invite(2, ""));
    one(&sent, CALLEE, "INVITE ");
    // It answers after all: the call counts there again.
    rig.receive(CALLEE, &answer(&first, "200 OK", "b1", ""));
    let sent = rig.receive(CALLER, &invite(3, ""));
    one(&sent, BACKUP, "INVITE ");
}

#[test]
fn a_refused_call_has_its_record_at_once_with_the_cause_of_the_response() {
    let mut rig = Rig::plain();
    let invite = rig.call(1, "");
    rig.receive(CALLEE, &answer(&invite, "486 Busy Here", "b1", "Reason: Q.850;cause=17\n"));
    let CallRecord { call, ended_by, .. } = rig.record();
    assert_eq!((call.status(), ended_by, call.cause()), (486, EndedBy::Refusal, Some(17)));
    assert!(!call.is_own_answer() && call.answered().is_none());
    rig.settle();
    assert!(rig.records.is_empty());
}

#[test]
fn a_call_that_fails_over_tells_where_it_was_answered_and_how_often_it_was_tried() {
    let mut rig = Rig::plain();
    let first = rig.call(1, "");
    let sent = rig.receive(CALLEE, &answer(&first, "503 Service Unavailable", "b1", ""));
    let second = one(&sent, SPARE, "INVITE ").clone();
    rig.receive(SPARE, &answer(&second, "404 Not Found", "b1", ""));
    let CallRecord { call, .. } = rig.record();
    assert_eq!((call.status(), call.attempts()), (404, 2));
    assert_eq!(call.next_hop().unwrap().remote.to_string(), SPARE);
    rig.settle();
}

#[test]
fn a_call_that_nobody_answers_ends_by_timeout() {
    let mut rig = Rig::new(configuration("failover_on = \"transport\"", ""));
    rig.call(1, "");
    rig.pass(Duration::from_secs(40));
    let CallRecord { call, ended_by, .. } = rig.record();
    assert_eq!((call.status(), ended_by, call.is_own_answer()), (408, EndedBy::Timeout, true));
    rig.settle();
}

#[test]
fn what_is_refused_without_state_is_a_call_once_and_a_re_invite_is_none() {
    let mut rig = Rig::plain();
    let looped = invite(1, "").replace("Max-Forwards: 70", "Max-Forwards: 0");
    for _ in 0..3 {
        assert!(rig.receive(CALLER, &looped)[0].text.starts_with("SIP/2.0 483"));
    }
    let CallRecord { call, ended_by, .. } = rig.record();
    assert_eq!((call.status(), ended_by, call.ingress().unwrap().0), (483, EndedBy::Refusal, 0));
    assert!(call.is_own_answer());
    assert!(rig.receive("203.0.113.9:5060", &invite(2, ""))[0].text.starts_with("SIP/2.0 403"));
    assert_eq!((rig.records[0].call.ingress(), rig.records[0].call.status()), (None, 403));
    rig.records.clear();
    let stray = in_dialog("INVITE", 3, 2, "b1", "").replace("Max-Forwards: 70", "Max-Forwards: 0");
    assert!(rig.receive(CALLER, &stray)[0].text.starts_with("SIP/2.0 483"));
    assert!(rig.records.is_empty(), "a re-INVITE is no call");
    rig.settle();
}

/// O-8: what is refused for overload costs its answer only.
#[test]
fn what_is_shed_has_no_record_and_no_line_in_the_log() {
    let mut rig = Rig::new(configuration("", "[guard]\n"));
    let end = rig.now.instant + Duration::from_secs(3);
    while rig.now.instant < end {
        rig.now.instant += Duration::from_millis(10);
        rig.proxy.observe_delay(rig.now, Duration::from_millis(80));
    }
    let sent: Vec<_> = (0..50).flat_map(|call| rig.receive(CALLER, &invite(call, ""))).collect();
    let shed = sent.iter().filter(|sent| sent.is(CALLER, "SIP/2.0 503 Service Unavailable")).count();
    assert!(shed > 0 && rig.proxy.stats().shed == shed as u64, "{shed}");
    assert!(rig.records.is_empty() && rig.events.is_empty(), "{:?}", rig.events);
}

#[test]
fn a_challenged_call_is_two() {
    let mut rig = Rig::plain();
    let first = rig.call(1, "");
    rig.receive(CALLEE, &answer(&first, "407 Proxy Authentication Required", "b1", ""));
    assert_eq!(rig.record().call.status(), 407);
    let again =
        invite(1, "Proxy-Authorization: Digest x=y\n").replace("CSeq: 1", "CSeq: 2").replace("INVITE1-1", "INVITE1-2");
    let sent = rig.receive(CALLER, &again);
    let second = one(&sent, CALLEE, "INVITE ").clone();
    rig.receive(CALLEE, &answer(&second, "603 Decline", "b1", ""));
    assert_eq!(rig.record().call.status(), 603);
    rig.settle();
}

// ---- CANCEL, forks

fn cancel(call: u32, lines: &str) -> String {
    request("CANCEL", "sip:+12155551213@192.0.2.1", call, 1, "", lines).replace("bKCANCEL", "bKINVITE")
}

#[test]
fn a_cancelled_call_ends_by_its_487() {
    let mut rig = Rig::plain();
    let invite = rig.call(1, "");
    rig.receive(CALLEE, &answer(&invite, "180 Ringing", "b1", ""));
    rig.receive(CALLER, &cancel(1, "Reason: Q.850;cause=16\n"));
    assert!(rig.records.is_empty());
    rig.receive(CALLEE, &answer(&invite, "487 Request Terminated", "b1", ""));
    let CallRecord { call, ended_by, .. } = rig.record();
    assert_eq!((call.status(), ended_by, call.cause(), call.is_cancelled()), (487, EndedBy::Cancel, Some(16), true));
    rig.settle();
}

#[test]
fn k6_an_answer_that_crosses_the_cancel_is_a_call_and_the_record_says_both() {
    let mut rig = Rig::plain();
    let invite = rig.call(1, "");
    rig.receive(CALLEE, &answer(&invite, "180 Ringing", "b1", ""));
    rig.receive(CALLER, &cancel(1, ""));
    rig.receive(CALLEE, &answer(&invite, "200 OK", "b1", ""));
    rig.receive(CALLER, &in_dialog("ACK", 1, 1, "b1", ""));
    hang_up(&mut rig, 1, "b1", "");
    let CallRecord { call, ended_by, .. } = rig.record();
    assert_eq!((call.status(), ended_by, call.is_cancelled()), (200, EndedBy::Caller, true));
    rig.settle();
}

#[test]
fn r9_a_call_with_two_answers_ends_with_its_last_dialog_and_has_one_record() {
    let mut rig = Rig::plain();
    let invite = rig.call(1, "");
    for tag in ["b1", "b2"] {
        rig.receive(CALLEE, &answer(&invite, "200 OK", tag, ""));
        rig.receive(CALLER, &in_dialog("ACK", 1, 1, tag, ""));
    }
    hang_up(&mut rig, 1, "b1", "");
    assert!(rig.records.is_empty(), "the other dialog stands");
    let bye = in_dialog("BYE", 1, 3, "b2", "");
    let sent = rig.receive(CALLER, &bye);
    let bye = one(&sent, CALLEE, "BYE ").clone();
    rig.receive(CALLEE, &answer(&bye, "200 OK", "b2", ""));
    let CallRecord { call, .. } = rig.record();
    assert_eq!((call.answers(), call.to_tag(), call.status()), (2, &b"b1"[..], 200));
    rig.settle();
}

// ---- ends that nobody tells

#[test]
fn an_answer_without_ack_ends_after_64_t1() {
    let mut rig = Rig::plain();
    let invite = rig.call(1, "");
    rig.receive(CALLEE, &answer(&invite, "200 OK", "b1", ""));
    rig.pass(Duration::from_secs(31));
    assert!(rig.records.is_empty());
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.record().ended_by, EndedBy::NoAck);
    rig.settle();
}

/// An ACK that is dropped here, or comes from a stranger, acknowledges nothing.
#[test]
fn an_ack_that_does_not_go_on_does_not_count() {
    let mut rig = Rig::plain();
    let invite = rig.call(1, "");
    rig.receive(CALLEE, &answer(&invite, "200 OK", "b1", ""));
    let ack = in_dialog("ACK", 1, 1, "b1", "");
    assert!(rig.receive("203.0.113.9:5060", &ack).is_empty());
    assert!(rig.receive(CALLER, &ack.replace("Max-Forwards: 70", "Max-Forwards: 0")).is_empty());
    rig.pass(Duration::from_secs(33));
    assert_eq!(rig.record().ended_by, EndedBy::NoAck);
    rig.settle();
}

#[test]
fn e3_a_session_that_is_not_refreshed_ends_without_a_bye() {
    let mut rig = Rig::plain();
    rig.answered(1, "Supported: timer\n", "Session-Expires: 90;refresher=uac\nRequire: timer\n");
    rig.pass(Duration::from_secs(60));
    // A refresh by UPDATE from the callee.
    let sent = rig.receive(CALLEE, &from_callee("UPDATE", 1, 1, "Session-Expires: 90;refresher=uac\n"));
    let update = one(&sent, CALLER, "UPDATE ").clone();
    rig.receive(CALLER, &answer(&update, "200 OK", "", "Contact: <sip:a@192.0.2.10>\nx: 90;refresher=uac\n"));
    let sent = rig.pass(Duration::from_secs(89));
    assert!(rig.records.is_empty() && sent.is_empty(), "{sent:#?}");
    let sent = rig.pass(Duration::from_secs(2));
    assert_eq!(rig.record().ended_by, EndedBy::SessionExpiry);
    assert!(!sent.iter().any(|s| s.text.starts_with("BYE")), "E-3");
    rig.settle();
}

#[test]
fn a_call_of_which_nothing_is_seen_any_more_ends_by_its_length() {
    let mut rig = Rig::new(configuration("", "[guard]\nlongest_call_seconds = 1000\n"));
    rig.answered(1, "", "");
    rig.pass(Duration::from_secs(900));
    let sent = rig.receive(CALLEE, &from_callee("INFO", 1, 1, ""));
    let info = one(&sent, CALLER, "INFO ").clone();
    rig.receive(CALLER, &answer(&info, "200 OK", "", ""));
    rig.pass(Duration::from_secs(900));
    assert!(rig.records.is_empty(), "a sign of life");
    rig.pass(Duration::from_secs(200));
    assert_eq!(rig.record().ended_by, EndedBy::Length);
    rig.settle();
}

#[test]
fn calls_that_stand_when_the_program_stops_have_their_record() {
    let mut rig = Rig::plain();
    rig.answered(1, "", "");
    rig.call(2, "");
    let mut out = Output::default();
    rig.proxy.close_calls(rig.now, &mut out);
    rig.take(out);
    let mut ends: Vec<_> = rig.records.iter().map(|r| (r.call.status(), r.ended_by)).collect();
    ends.sort_by_key(|(status, _)| *status);
    assert_eq!(ends, [(0, EndedBy::Stop), (200, EndedBy::Stop)]);
}

#[test]
fn the_table_is_bounded_and_calls_above_it_go_on() {
    let mut rig = Rig::new(configuration("", "[limits]\nmax_calls = 2\n"));
    for call in 0..5 {
        rig.answered(call, "", "");
    }
    assert_eq!((rig.proxy.calls().len(), rig.proxy.stats().unobserved_calls), (2, 3));
    for call in 0..5 {
        hang_up(&mut rig, call, "b1", "");
    }
    assert_eq!(rig.records.len(), 2);
    rig.settle();
    // One Call-ID may not fill it.
    let mut rig = Rig::plain();
    for branch in 0..40 {
        rig.receive(CALLER, &invite(1, "").replace("INVITE1-1", &format!("many{branch}")));
    }
    assert_eq!((rig.proxy.calls().len(), rig.proxy.stats().unobserved_calls), (16, 24));
}

// ---- the operator ends calls

#[test]
fn a_ringing_call_is_cancelled_and_the_caller_gets_its_487() {
    let mut rig = Rig::plain();
    let invite = rig.call(1, "");
    rig.receive(CALLEE, &answer(&invite, "180 Ringing", "b1", ""));
    let (ended, sent) = rig.end(1);
    assert_eq!(ended, EndedCalls { cancelled: 1, hung_up: 0 });
    let cancel = one(&sent, CALLEE, "CANCEL ").clone();
    assert_eq!(cancel.lines("Reason"), ["Q.850;cause=16;text=\"Ended by operator\""]);
    rig.receive(CALLEE, &answer(&cancel, "200 OK", "b1", ""));
    let sent = rig.receive(CALLEE, &answer(&invite, "487 Request Terminated", "b1", ""));
    one(&sent, CALLER, "SIP/2.0 487");
    let CallRecord { call, ended_by, .. } = rig.record();
    assert_eq!((call.status(), ended_by, call.is_cancelled()), (487, EndedBy::Admin, false));
    assert_eq!(rig.end(1).0, EndedCalls::default(), "there is no such call");
    rig.settle();
}

#[test]
fn an_answered_call_gets_a_bye_on_both_sides_that_the_dialog_accepts() {
    let mut rig = Rig::plain();
    let upstream = "Record-Route: <sip:192.0.2.77;lr>\nRecord-Route: <sip:far.example;lr>\n";
    let invite = rig.call(1, upstream);
    let response = answer(&invite, "200 OK", "b1", "");
    let response = response.replacen(
        "Record-Route: ",
        "Record-Route: <sip:198.51.100.9;lr>,\n <sip:198.51.100.8:5070;lr>\nRecord-Route: ",
        1,
    );
    rig.receive(CALLEE, &response);
    rig.receive(CALLER, &in_dialog("ACK", 1, 1, "b1", ""));
    // The caller moves and counts up, the callee sends a request of its own.
    let sent = rig.receive(
        CALLER,
        &in_dialog("INVITE", 1, 7, "b1", "").replace("sip:a@192.0.2.10:5060>", "sip:a@192.0.2.12:5066>"),
    );
    let again = one(&sent, CALLEE, "INVITE ").clone();
    rig.receive(CALLEE, &answer(&again, "200 OK", "b1", "Contact: <sip:b@198.51.100.99:5099>\n"));
    rig.receive(CALLER, &in_dialog("ACK", 1, 7, "b1", ""));
    let sent = rig.receive(CALLEE, &from_callee("INFO", 1, 40, ""));
    let info = one(&sent, CALLER, "INFO ").clone();
    rig.receive(CALLER, &answer(&info, "200 OK", "", ""));
    rig.pass(Duration::from_secs(10));

    let (ended, sent) = rig.end(1);
    assert_eq!((ended, sent.len()), (EndedCalls { cancelled: 0, hung_up: 1 }, 2));
    let down = one(&sent, "198.51.100.8:5070", "BYE sip:b@198.51.100.99:5099 SIP/2.0\r\n");
    assert_eq!(down.lines("Route"), ["<sip:198.51.100.8:5070;lr>", "<sip:198.51.100.9;lr>"]);
    assert_eq!((down.lines("CSeq"), down.lines("Call-ID")), (vec!["8 BYE"], vec!["c1@192.0.2.10"]));
    assert_eq!(down.lines("From"), ["\"A\" <sip:+12015550100@192.0.2.10>;tag=a1"]);
    assert_eq!(down.lines("To"), ["<sip:+12155551213@192.0.2.1>;tag=b1"]);
    assert_eq!(down.lines("Via").len(), 1);
    let up = one(&sent, "192.0.2.77:5060", "BYE sip:a@192.0.2.12:5066 SIP/2.0\r\n");
    assert_eq!(up.lines("Route"), ["<sip:192.0.2.77;lr>", "<sip:far.example;lr>"]);
    assert_eq!((up.lines("CSeq"), up.lines("From")), (vec!["41 BYE"], vec!["<sip:+12155551213@192.0.2.1>;tag=b1"]));
    assert_eq!(rig.record().ended_by, EndedBy::Admin);
    // They are transactions of our own: sent again until answered, and over then.
    let (down, up) = (down.clone(), up.clone());
    assert_eq!(rig.pass(Duration::from_millis(600)).len(), 2);
    rig.receive("198.51.100.8:5070", &answer(&down, "200 OK", "", ""));
    rig.receive("192.0.2.77:5060", &answer(&up, "481 Call/Transaction Does Not Exist", "", ""));
    assert!(rig.pass(Duration::from_secs(60)).is_empty());
    assert_eq!(rig.proxy.stats().dropped_responses, 0, "they were waited for");
    rig.settle();
}

/// RR-5: also where our Record-Route names the listener by a parameter, the BYE leaves this element and takes the way behind it.
#[test]
fn a_bye_of_ours_goes_by_the_proxies_behind_us_in_each_record_route_style() {
    for style in ["transport-tls", "sips", "naptr-host"] {
        let mut config = configuration(&format!("rr_style = \"{style}\""), "");
        // A TLS listener needs a certificate; the core does not ask for it.
        let mut tls = config.proxy.listeners[0].clone();
        (tls.transport, tls.advertise_host, tls.advertise_port) = (Transport::Tls, "edge.example".into(), 5071);
        tls.bind = "192.0.2.1:5071".parse().unwrap();
        config.proxy.listeners.push(tls);
        let hop = vesperd::proxy::NextHop { transport: Transport::Tls, remote: CALLEE.parse().unwrap() };
        config.proxy.trunks[1].next_hops[0] = hop.into();
        config.proxy.trunks[1].listener = ListenerId(1);
        let mut rig = Rig::new(config);
        let invite = rig.call(1, "");
        assert_eq!(invite.lines("Record-Route").len(), 2, "{invite:?}");
        let behind = "Record-Route: <sip:198.51.100.9;lr>\nRecord-Route: ";
        rig.receive(CALLEE, &answer(&invite, "200 OK", "b1", "").replacen("Record-Route: ", behind, 1));
        let (_, sent) = rig.end(1);
        let down = one(&sent, "198.51.100.9:5060", "BYE sip:b@198.51.100.20:5060 SIP/2.0\r\n");
        assert_eq!(down.lines("Route"), ["<sip:198.51.100.9;lr>"], "{style}");
    }
}

#[test]
fn an_answer_that_crosses_the_order_gets_its_byes() {
    let mut rig = Rig::plain();
    let invite = rig.call(1, "");
    rig.receive(CALLEE, &answer(&invite, "180 Ringing", "b1", ""));
    rig.end(1);
    let sent = rig.receive(CALLEE, &answer(&invite, "200 OK", "b1", ""));
    let place =
        |to: &str, start: &str| sent.iter().position(|s| s.is(to, start)).unwrap_or_else(|| panic!("{sent:#?}"));
    assert!(place(CALLER, "SIP/2.0 200") < place(CALLER, "BYE "), "the answer first");
    place(CALLEE, "BYE ");
    let CallRecord { call, ended_by, .. } = rig.record();
    assert_eq!((call.status(), ended_by), (200, EndedBy::Admin));
    rig.settle();
}

#[test]
fn a_strict_router_on_the_way_gets_the_bye_its_way() {
    let mut rig = Rig::plain();
    let invite = rig.call(1, "Record-Route: <sip:192.0.2.77:5062>\n");
    rig.receive(CALLEE, &answer(&invite, "200 OK", "b1", ""));
    let (_, sent) = rig.end(1);
    let up = one(&sent, "192.0.2.77:5062", "BYE sip:192.0.2.77:5062 SIP/2.0\r\n");
    assert_eq!(up.lines("Route"), ["<sip:a@192.0.2.10:5060>"], "RFC 3261 12.2.1.1");
    rig.settle();
}

#[test]
fn calls_are_listed_a_piece_of_the_table_at_a_time() {
    let mut rig = Rig::plain();
    for call in 0..25 {
        rig.call(call, "");
    }
    rig.answered(100, "", "");
    let (mut place, mut seen) = (Some(0), Vec::new());
    while let Some(from) = place {
        let (calls, next) = rig.proxy.calls().from(from, 7);
        seen.extend(calls.map(|call| (call.call_id().to_vec(), call.state())));
        place = next;
    }
    assert_eq!(seen.len(), 26);
    assert_eq!(seen.iter().filter(|(_, state)| *state == CallState::Answered).count(), 1);
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    seen.dedup();
    assert_eq!(seen.len(), 26);
}

// ---- what else is told

#[test]
fn each_line_about_a_call_names_it_also_where_no_ack_came() {
    let mut rig = Rig::plain();
    let relayed = rig.call(1, "");
    rig.receive(CALLEE, &answer(&relayed, "486 Busy Here", "b1", ""));
    rig.receive(CALLER, &invite(2, "").replace("To: <sip:+12155551213@192.0.2.1>", "To: <sip:x@192.0.2.1>;tag=gone"));
    rig.pass(Duration::from_secs(40));
    let mut missing: Vec<_> = rig
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Unacknowledged { call_id } => Some(String::from_utf8(call_id.to_vec()).unwrap()),
            _ => None,
        })
        .collect();
    missing.sort();
    assert_eq!(missing, ["c1@192.0.2.10", "c2@192.0.2.10"]);
    rig.settle();
}

/// Three neighbours agree that it is two minutes later than this machine thinks.
#[test]
fn a_clock_that_others_contradict_is_told_once_and_again_when_it_is_right() {
    let mut rig = Rig::plain();
    let mut call = 0;
    let mut told = |rig: &mut Rig, ahead: i64| -> Vec<(i64, bool)> {
        for _ in 0..2 {
            for (from, is_callee) in [(CALLER, false), (CALLEE, true), (SPARE, true)] {
                rig.pass(Duration::from_secs(1));
                rig.now.unix += 1;
                let mut date = Vec::new();
                sip::date::write((rig.now.unix + ahead) as u64, &mut date);
                let date = format!("Date: {}\n", String::from_utf8(date).unwrap());
                call += 1;
                let request =
                    request("OPTIONS", "sip:+12155551213@192.0.2.1", call, 1, "", if is_callee { "" } else { &date });
                let sent = rig.receive(CALLER, &request);
                if is_callee {
                    let options = one(&sent, CALLEE, "OPTIONS ").clone();
                    rig.receive(from, &answer(&options, "200 OK", "b1", &date));
                }
            }
        }
        let events = std::mem::take(&mut rig.events);
        events
            .iter()
            .filter_map(|e| if let Event::Clock(c) = e { Some((c.offset, c.is_wrong)) } else { None })
            .collect()
    };
    assert_eq!(told(&mut rig, 0), []);
    assert_eq!(told(&mut rig, 120), [(120, true)]);
    assert_eq!(told(&mut rig, 121), []);
    assert_eq!(told(&mut rig, 0), [(0, false)]);
}
