//! Sets of next hops: members, limits, states and health of the proxy core on a clock of its own (KR-1 to KR-9, KR-12).

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vesperd::config::Config;
use vesperd::proxy::dispatcher::MemberState;
use vesperd::proxy::probe::Duty;
use vesperd::proxy::{self, Answer, Event, LocateFailure, Need, NeedKind, NextHop, Now, Output, Proxy, Snapshot};
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::replay::ReplayTable;

const CALLER: &str = "192.0.2.10:5060";
const A: &str = "198.51.100.1:5060";
const B: &str = "198.51.100.2:5060";
const C: &str = "198.51.100.3:5060";
const UNIX: i64 = 1_795_219_200;

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("edge.toml"), UNIX).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// A caller, and a trunk `gateways` with these lines.
fn configuration(trunk: &str) -> Config {
    parse(&format!(
        "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
         [[trunk]]\nname = \"caller\"\nnext_hop = \"udp:{CALLER}\"\n\
         [[trunk]]\nname = \"gateways\"\n{trunk}\n\
         [[route]]\nfrom = \"caller\"\nto = \"gateways\"\n"
    ))
}

fn member(id: &str, address: &str, more: &str) -> String {
    format!("[[trunk.member]]\nid = \"{id}\"\nnext_hop = \"udp:{address}\"\n{more}\n")
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[derive(Debug, Clone)]
struct Sent {
    to: SocketAddr,
    text: String,
    at: Duration,
    tag: u64,
}

impl Sent {
    fn method(&self) -> &str {
        self.text.split(' ').next().unwrap()
    }

    fn status(&self) -> u16 {
        self.text.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)).and_then(|s| s.parse().ok()).unwrap_or(0)
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
}

struct Rig {
    proxy: Proxy,
    snapshot: Arc<Snapshot>,
    start: Now,
    now: Now,
    index: Index,
    events: Vec<Event>,
    needs: Vec<Need>,
}

fn snapshot(config: Config) -> Arc<Snapshot> {
    Arc::new(Snapshot { config: config.proxy, trust: config.trust, replay: ReplayTable::default() })
}

impl Rig {
    fn new(config: Config) -> Self {
        let now = Now { instant: support::epoch(), unix: UNIX };
        let snapshot = snapshot(config);
        let proxy = Proxy::new(Arc::clone(&snapshot), [7; 32], now);
        let (events, needs) = (Vec::new(), Vec::new());
        Rig { proxy, snapshot, start: now, now, index: Index::new(), events, needs }
    }

    fn config(&self) -> &proxy::Config {
        &self.snapshot.config
    }

    /// As an edge does when it reads its file anew.
    fn reload(&mut self, mut config: Config) {
        config.proxy.continue_from(self.config());
        self.snapshot = snapshot(config);
        self.proxy.set_snapshot(Arc::clone(&self.snapshot));
    }

    fn take(&mut self, mut out: Output) -> Vec<Sent> {
        self.events.append(&mut out.events);
        self.needs.append(&mut out.needs);
        let text = |t| String::from_utf8(out.outbox.bytes_of(t).to_vec()).unwrap();
        let at = self.now.instant - self.start.instant;
        out.outbox.items().iter().map(|t| Sent { to: t.hop.remote, text: text(t), at, tag: t.tag }).collect()
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

    fn pass(&mut self, time: Duration) -> Vec<Sent> {
        self.pass_with(time, |_, _| None)
    }

    /// Lets time go by. `answer` says with which status, if any, a request is answered at once.
    fn pass_with(&mut self, time: Duration, mut answer: impl FnMut(&Sent, Duration) -> Option<String>) -> Vec<Sent> {
        let (end, mut all) = (self.now.instant + time, Vec::new());
        while let Some(at) = self.proxy.poll_timeout().filter(|at| *at <= end) {
            self.set_time(at.max(self.now.instant));
            let mut out = Output::default();
            self.proxy.handle_timeout(self.now, &mut out);
            let sent = self.take(out);
            for request in sent.iter().filter(|sent| sent.status() == 0) {
                if let Some(status) = answer(request, request.at) {
                    self.answer(request, &status, "");
                }
            }
            all.extend(sent);
        }
        self.set_time(end);
        all
    }

    fn set_time(&mut self, instant: std::time::Instant) {
        self.now.instant = instant;
        self.now.unix = self.start.unix + (instant - self.start.instant).as_secs() as i64;
    }

    fn answer(&mut self, request: &Sent, status: &str, lines: &str) -> Vec<Sent> {
        self.receive(&request.to.to_string(), &answer(request, status, lines))
    }

    /// What an INVITE brings about at the gateways, or the status of the refusal.
    fn call(&mut self, call: u32) -> Result<Vec<Sent>, u16> {
        let sent = self.receive(CALLER, &request("INVITE", call));
        let forwarded: Vec<Sent> = sent.iter().filter(|s| s.to != addr(CALLER)).cloned().collect();
        let refusal = sent.iter().map(Sent::status).find(|status| *status >= 200);
        if forwarded.is_empty() { Err(refusal.expect("forwarded or refused")) } else { Ok(forwarded) }
    }

    /// Where a call goes that is then refused by the callee.
    fn probe(&mut self, call: u32) -> SocketAddr {
        let sent = self.call(call).unwrap();
        self.answer(&sent[0], "486 Busy Here", "");
        sent[0].to
    }

    fn state(&self, member: &str) -> MemberState {
        self.report(member).state
    }

    fn report(&self, member: &str) -> proxy::dispatcher::MemberReport {
        let all = self.config().members(self.now.unix);
        all.into_iter().find(|report| report.member == member).expect("a member of this id")
    }

    /// Members that went down or came back since the last time, `-a` and `+a`.
    fn changes(&mut self) -> Vec<String> {
        let told = std::mem::take(&mut self.events).into_iter().filter_map(|event| match event {
            Event::NextHop { member, is_up, .. } => Some(format!("{}{member}", if is_up { '+' } else { '-' })),
            _ => None,
        });
        told.collect()
    }
}

fn request(method: &str, call: u32) -> String {
    format!(
        "{method} sip:+12155551213@192.0.2.1 SIP/2.0\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bK{method}{call}\nMax-Forwards: 70\n\
         From: <sip:+12015550100@192.0.2.10>;tag=a1\nTo: <sip:+12155551213@192.0.2.1>\nCall-ID: c{call}@192.0.2.10\n\
         CSeq: 1 {method}\nContent-Length: 0\n\n"
    )
}

/// The BYE of a call whose INVITE was forwarded like this.
fn bye(call: u32, invite: &Sent) -> String {
    let route = format!("Max-Forwards: 70\nRoute: {}", invite.line("Record-Route"));
    let uri = format!("BYE sip:+12155551213@{}", invite.to);
    request("BYE", call)
        .replace("BYE sip:+12155551213@192.0.2.1", &uri)
        .replace("Max-Forwards: 70", &route)
        .replace("To: <sip:+12155551213@192.0.2.1>", "To: <sip:+12155551213@192.0.2.1>;tag=b")
}

fn answer(request: &Sent, status: &str, lines: &str) -> String {
    let copy = |name: &str| request.lines(name).iter().map(|v| format!("{name}: {v}\n")).collect::<String>();
    let to = request.line("To");
    let tag = if to.contains("tag=") { "" } else { ";tag=b" };
    let (vias, rr, from, id, cseq) = (copy("Via"), copy("Record-Route"), copy("From"), copy("Call-ID"), copy("CSeq"));
    format!("SIP/2.0 {status}\n{vias}{rr}{from}To: {to}{tag}\n{id}{cseq}{lines}Content-Length: 0\n\n")
}

fn addresses(sent: &[Sent]) -> Vec<SocketAddr> {
    sent.iter().map(|sent| sent.to).collect()
}

// ---- choice, limits, states

#[test]
fn kr1_members_by_priority_and_weight() {
    let members = [member("a", A, "priority = 20"), member("b", B, "weight = 3"), member("c", C, "weight = 1")];
    let mut rig = Rig::new(configuration(&format!("algorithm = \"weighted\"\n{}", members.concat())));
    let mut counts = [0; 3];
    for call in 0..4000 {
        let to = rig.probe(call);
        counts[[A, B, C].iter().position(|gateway| addr(gateway) == to).unwrap()] += 1;
    }
    assert_eq!(counts[0], 0, "{counts:?}");
    assert!((2850..3150).contains(&counts[1]), "{counts:?}");
}

#[test]
fn kr1_parallel_is_all_of_the_best_priority_at_once() {
    let members = [member("a", A, "priority = 10"), member("b", B, "priority = 20"), member("c", C, "priority = 10")];
    let mut rig = Rig::new(configuration(&format!("algorithm = \"parallel\"\n{}", members.concat())));
    let sent = rig.call(1).unwrap();
    assert_eq!(addresses(&sent), [addr(A), addr(C)]);
    rig.answer(&sent[0], "503 Service Unavailable", "");
    let next = rig.answer(&sent[1], "503 Service Unavailable", "");
    assert!(next.iter().any(|sent| sent.method() == "INVITE" && sent.to == addr(B)), "{next:?}");
}

#[test]
fn kr6_calls_of_a_member_are_counted_to_their_end_and_the_full_one_is_passed_over() {
    let members = [member("a", A, "max_calls = 1"), member("b", B, "max_calls = 1")].concat();
    let guard = "[guard]\nemergency_numbers = [\"112\"]";
    let mut rig = Rig::new(configuration(&format!("unavailable_status = 480\n{members}{guard}")));
    let first = rig.call(1).unwrap();
    let second = rig.call(2).unwrap();
    assert_eq!((addresses(&first), addresses(&second)), (vec![addr(A)], vec![addr(B)]));
    assert_eq!((rig.report("a").calls, rig.report("b").calls), (Some(1), Some(1)));
    assert_eq!(rig.call(3).unwrap_err(), 480);
    let sos =
        rig.receive(CALLER, &request("INVITE", 4).replace("sip:+12155551213@192.0.2.1 SIP", "sip:112@192.0.2.1 SIP"));
    assert!(sos.iter().any(|sent| sent.to == addr(A)), "E-12: {sos:?}");
    rig.answer(&sos[1], "486 Busy Here", "");
    rig.answer(&second[0], "486 Busy Here", "");
    assert_eq!(rig.probe(5), addr(B), "its call was refused");
    rig.answer(&first[0], "200 OK", "");
    assert_eq!(rig.probe(6), addr(B), "the call at a stands");
    let bye = rig.receive(CALLER, &bye(1, &first[0]));
    rig.answer(&bye[0], "200 OK", "");
    assert_eq!((rig.report("a").calls, rig.report("b").calls), (Some(0), Some(0)));
    assert_eq!(rig.probe(7), addr(A));
}

#[test]
fn kr6_a_call_that_moves_on_counts_where_it_is() {
    let members = [member("a", A, ""), member("b", B, "")].concat();
    let mut rig = Rig::new(configuration(&format!("algorithm = \"least-calls\"\n{members}")));
    let first = rig.call(1).unwrap();
    let moved = rig.answer(&first[0], "503 Service Unavailable", "");
    let moved = moved.iter().find(|sent| sent.to == addr(B)).unwrap().clone();
    assert_eq!((rig.report("a").calls, rig.report("b").calls), (Some(0), Some(1)));
    rig.answer(&moved, "200 OK", "");
    assert_eq!((rig.report("a").calls, rig.report("b").calls), (Some(0), Some(1)));
    assert_eq!(rig.call(2).unwrap()[0].to, addr(A));
    let third = rig.call(3).unwrap();
    rig.receive(CALLER, &request("CANCEL", 3).replace("z9hG4bKCANCEL", "z9hG4bKINVITE"));
    rig.answer(&third[0], "487 Request Terminated", "");
    assert_eq!((rig.report("a").calls, rig.report("b").calls), (Some(1), Some(1)), "CANCEL ends it");
    rig.pass(seconds(13 * 3600));
    rig.call(4).unwrap();
    assert_eq!((rig.report("a").calls, rig.report("b").calls), (Some(1), Some(0)), "calls whose end was not seen");
}

/// A call that all members of a trunk refused and a second trunk took counts there alone.
#[test]
fn kr6_a_call_counts_no_more_where_it_was_refused() {
    let text = format!(
        "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
         [[trunk]]\nname = \"caller\"\nnext_hop = \"udp:{CALLER}\"\n\
         [[trunk]]\nname = \"gateways\"\nalgorithm = \"least-calls\"\n{}{}[trunk.limits]\nmax_concurrent_calls = 1\n\
         [[trunk]]\nname = \"backup\"\nnext_hop = \"udp:{C}\"\n\
         [[route]]\nfrom = \"caller\"\nto = [\"gateways\", \"backup\"]\n",
        member("a", A, ""),
        member("b", B, "")
    );
    let mut rig = Rig::new(parse(&text));
    let mut sent = rig.call(1).unwrap();
    for next in [B, C] {
        let answered = rig.answer(&sent[0], "503 Service Unavailable", "");
        sent = answered.into_iter().filter(|sent| sent.to == addr(next)).collect();
    }
    rig.answer(&sent[0], "200 OK", "");
    assert_eq!((rig.report("a").calls, rig.report("b").calls), (Some(0), Some(0)));
    assert_eq!(addresses(&rig.call(2).unwrap()), [addr(A)], "the trunk has room");
}

/// The same for two addresses of one member.
#[test]
fn kr6_a_call_counts_no_more_at_a_member_all_of_whose_addresses_failed() {
    let gateway = "[[trunk.member]]\nid = \"a\"\nnext_hop = \"sip:gw.example:5060\"\nmax_calls = 5\n";
    let mut rig = Rig::new(configuration(&[gateway, &member("c", C, "priority = 1")].concat()));
    rig.receive(CALLER, &request("INVITE", 1));
    let need = rig.needs.pop().unwrap();
    let hop = |remote| NextHop { transport: Transport::Udp, remote: addr(remote) };
    let mut out = Output::default();
    rig.proxy.handle_answer(rig.now, need.id, Answer::Locate(Ok([hop(A), hop(B)].into())), &mut out);
    let mut sent = rig.take(out);
    for next in [B, C] {
        assert_eq!(rig.report("a").calls, Some(1));
        let last = sent.iter().find(|sent| sent.method() == "INVITE").unwrap().clone();
        sent = rig.answer(&last, "503 Service Unavailable", "");
        sent.retain(|sent| sent.method() == "INVITE" && sent.to == addr(next));
    }
    rig.answer(&sent[0], "200 OK", "");
    assert_eq!(rig.report("a").calls, Some(0));
}

#[test]
fn kr6_a_member_that_was_given_up_and_answers_after_all_has_the_call() {
    let members = [member("a", A, ""), member("b", B, "")].concat();
    let mut rig = Rig::new(configuration(&format!("algorithm = \"least-calls\"\nfr_ms = 1000\n{members}")));
    let first = rig.call(1).unwrap();
    let second = rig.pass(Duration::from_millis(1100)).into_iter().find(|sent| sent.to == addr(B)).unwrap();
    assert_eq!((rig.report("a").calls, rig.report("b").calls), (Some(0), Some(1)));
    rig.answer(&second, "180 Ringing", "");
    rig.answer(&first[0], "200 OK", "");
    rig.answer(&second, "487 Request Terminated", "");
    assert_eq!((rig.report("a").calls, rig.report("b").calls), (Some(1), Some(0)));
    let ended = rig.receive(CALLER, &bye(1, &first[0]));
    rig.answer(&ended[0], "200 OK", "");
    assert_eq!((rig.report("a").calls, rig.report("b").calls), (Some(0), Some(0)));
}

#[test]
fn kr4_no_new_dialog_goes_to_a_member_that_drains_but_its_dialogs_go_on() {
    let mut rig = Rig::new(configuration(&[member("a", A, ""), member("b", B, "")].concat()));
    let call = rig.call(1).unwrap();
    assert_eq!(call[0].to, addr(A));
    rig.answer(&call[0], "200 OK", "");
    for state in [MemberState::Draining, MemberState::Disabled] {
        rig.config().set_member_state("gateways", "a", state).unwrap();
        assert_eq!((rig.state("a"), rig.probe(10 + state as u32)), (state, addr(B)));
    }
    let bye = rig.receive(CALLER, &bye(1, &call[0]));
    assert_eq!(addresses(&bye), [addr(A)]);
    rig.config().set_member_state("gateways", "a", MemberState::Active).unwrap();
    assert_eq!(rig.probe(20), addr(A));
    rig.config().set_member_state("gateways", "a", MemberState::Inactive).unwrap();
    assert_eq!(rig.probe(21), addr(B));
    assert!(rig.config().set_member_state("gateways", "x", MemberState::Active).is_err());
    assert!(rig.config().set_member_state("", "a", MemberState::Active).is_err());
}

#[test]
fn c29_a_dialog_goes_on_at_a_member_that_is_down() {
    let members = [member("a", A, ""), member("b", B, "")].concat();
    let mut rig = Rig::new(configuration(&format!("down_after = 1\nall_down = \"reject\"\n{members}")));
    let call = rig.call(1).unwrap();
    rig.answer(&call[0], "200 OK", "");
    let failed = rig.call(2).unwrap();
    rig.answer(&failed[0], "503 Service Unavailable", "");
    assert_eq!((rig.state("a"), rig.changes()), (MemberState::Inactive, vec!["-a".to_owned()]));
    assert_eq!(rig.probe(3), addr(B));
    let bye = rig.receive(CALLER, &bye(1, &call[0]));
    assert_eq!(addresses(&bye), [addr(A)], "KR-4");
}

/// RFC 7339: what a member asks for goes to the others instead, until that has expired; the caller notices nothing.
#[test]
fn kr1_round_robin_overload_passes_over_a_member_that_asks_for_less() {
    let members = [member("a", A, ""), member("b", B, "")].concat();
    let mut rig = Rig::new(configuration(&format!("algorithm = \"round-robin-overload\"\noc = \"client\"\n{members}")));
    let share = |rig: &mut Rig, calls: std::ops::Range<u32>| calls.filter(|call| rig.probe(*call) == addr(A)).count();
    assert_eq!(share(&mut rig, 0..100), 50, "in turn");
    let ask = |rig: &mut Rig, call: u32, load: &str| {
        let mut sent = rig.call(call).unwrap().remove(0);
        for call in call + 1..call + 50 {
            if sent.to == addr(A) {
                break;
            }
            rig.answer(&sent, "486 Busy Here", "");
            sent = rig.call(call).unwrap().remove(0);
        }
        let told = answer(&sent, "486 Busy Here", "").replacen(";oc;oc-algo=\"loss,rate\"", load, 1);
        assert!(sent.to == addr(A) && told.contains(load), "{told}");
        rig.receive(A, &told);
    };
    ask(&mut rig, 1000, ";oc=50;oc-algo=\"loss\";oc-validity=5000;oc-seq=1.1");
    let half = share(&mut rig, 2000..4000);
    assert!((400..=600).contains(&half), "half of its half: {half}");
    ask(&mut rig, 5000, ";oc=100;oc-algo=\"loss\";oc-validity=5000;oc-seq=2.1");
    assert_eq!(share(&mut rig, 6000..6100), 0, "it wants nothing");
    assert_eq!((rig.state("a"), rig.changes().len()), (MemberState::Active, 0), "it has not failed");
    rig.pass(seconds(5));
    assert_eq!(share(&mut rig, 7000..7100), 50, "that has expired");
}

#[test]
fn kr5_all_down_is_refused_or_tried_or_left_to_the_default_member() {
    let members = [member("a", A, ""), member("b", B, "")].concat();
    let fail_all = |lines: &str| {
        let mut rig = Rig::new(configuration(&format!("down_after = 1\n{lines}\n{members}")));
        let mut sent = rig.call(1).unwrap();
        while let Some(invite) = sent.iter().find(|sent| sent.method() == "INVITE").cloned() {
            sent = rig.answer(&invite, "503 Service Unavailable", "");
        }
        rig
    };
    let mut rig = fail_all("");
    assert_eq!(rig.call(9).unwrap()[0].to, addr(A), "try-anyway");
    let mut rig = fail_all("all_down = \"reject\"\nunavailable_status = 480");
    assert_eq!(rig.call(9).unwrap_err(), 480);
    let ack_only = rig.pass(seconds(29));
    assert!(ack_only.iter().all(|sent| sent.method() != "INVITE"));
    rig.pass(seconds(2));
    assert_eq!(rig.probe(10), addr(A), "after retry_seconds it is tried again");
    let mut rig = fail_all("all_down = \"default-member\"\ndefault_member = \"b\"");
    assert_eq!(rig.call(9).unwrap()[0].to, addr(B));
}

#[test]
fn kr2_a_gateway_of_two_trunks_is_down_in_both() {
    let trunk =
        |name: &str, members: &[String]| format!("[[trunk]]\nname = \"{name}\"\ndown_after = 1\n{}", members.concat());
    let text = format!(
        "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
         [[trunk]]\nname = \"caller\"\nnext_hop = \"udp:{CALLER}\"\n{}{}\
         [[route]]\nprefix = \"1215\"\nto = \"one\"\n[[route]]\nto = \"two\"\n",
        trunk("one", &[member("a1", A, ""), member("b1", B, "")]),
        trunk("two", &[member("a2", A, ""), member("c2", C, "max_calls = 7")]),
    );
    let mut rig = Rig::new(parse(&text));
    let first = rig.call(1).unwrap();
    rig.answer(&first[0], "503 Service Unavailable", "");
    assert_eq!((rig.state("a1"), rig.state("a2")), (MemberState::Inactive, MemberState::Inactive));
    let other =
        rig.receive(CALLER, &request("INVITE", 2).replace("sip:+12155551213@192.0.2.1 SIP", "sip:+49@192.0.2.1 SIP"));
    assert_eq!(other[1].to, addr(C));
    rig.config().set_member_state("two", "a2", MemberState::Draining).unwrap();
    assert_eq!(rig.state("a1"), MemberState::Draining);
}

#[test]
fn kr12_a_reload_keeps_what_is_known_of_members_that_stay() {
    let members = |more: &str| [member("a", A, ""), member("b", B, "max_calls = 5"), more.to_owned()].concat();
    let mut rig = Rig::new(configuration(&format!("down_after = 1\n{}", members(""))));
    let failed = rig.call(1).unwrap();
    let moved = rig.answer(&failed[0], "503 Service Unavailable", "Retry-After: 100\n");
    rig.answer(moved.iter().find(|sent| sent.to == addr(B)).unwrap(), "486 Busy Here", "");
    let held = rig.call(2).unwrap();
    assert_eq!((held[0].to, rig.report("b").calls), (addr(B), Some(1)));
    rig.reload(configuration(&format!("down_after = 1\n{}", members(&member("c", C, "state = \"draining\"")))));
    assert_eq!((rig.state("a"), rig.report("b").calls), (MemberState::Inactive, Some(1)));
    assert_eq!(rig.state("c"), MemberState::Draining);
    rig.answer(&held[0], "486 Busy Here", "");
    assert_eq!(rig.report("b").calls, Some(0), "the old configuration lets go what the new one counts");
    rig.config().set_member_state("gateways", "c", MemberState::Active).unwrap();
    rig.reload(configuration(&format!("down_after = 1\n{}", members(&member("c", C, "state = \"draining\"")))));
    assert_eq!(rig.state("c"), MemberState::Active, "what the operator set stays while the file says the same");
    rig.reload(configuration(&format!("down_after = 1\n{}", members(&member("c", C, "state = \"disabled\"")))));
    assert_eq!(rig.state("c"), MemberState::Disabled);
}

#[test]
fn kr8_each_address_of_a_name_is_a_destination_of_its_own() {
    let mut rig = Rig::new(configuration("down_after = 1\nexpand = true\nnext_hop = \"sip:gw.example:5060\""));
    let call = |rig: &mut Rig, call: u32| {
        rig.receive(CALLER, &request("INVITE", call));
        let need = rig.needs.pop().unwrap();
        assert!(matches!(need.kind, NeedKind::Locate { .. }));
        let hop = |remote| NextHop { transport: Transport::Udp, remote: addr(remote) };
        let mut out = Output::default();
        rig.proxy.handle_answer(rig.now, need.id, Answer::Locate(Ok([hop(A), hop(B)].into())), &mut out);
        rig.take(out).remove(0)
    };
    let first = call(&mut rig, 1);
    assert_eq!(first.to, addr(A));
    let next = rig.answer(&first, "503 Service Unavailable", "");
    let next = next.iter().find(|sent| sent.to == addr(B)).unwrap().clone();
    rig.answer(&next, "486 Busy Here", "");
    assert_eq!(rig.changes().len(), 1);
    let second = call(&mut rig, 2);
    assert_eq!(second.to, addr(B), "A is down, the name is not");
    assert_eq!(rig.state("sip:gw.example:5060"), MemberState::Active);
    rig.answer(&second, "503 Service Unavailable", "");
    assert_eq!(rig.state("sip:gw.example:5060"), MemberState::Inactive);
}

// ---- pings

/// With a prober, as the only worker.
fn probing(config: Config) -> Rig {
    let mut rig = Rig::new(config);
    rig.proxy.start_probing(rig.now, Duty { worker: 0, workers: 1, is_home: Box::new(|_| true) });
    rig
}

const PROBE: &str = "[trunk.probe]\ninterval_ms = 10000\ntimeout_ms = 2000\nup_after = 2\n";

fn two_members(lines: &str) -> Config {
    let members = [member("a", A, ""), member("b", B, "")].concat();
    configuration(&format!("down_after = 3\n{lines}\n{members}{PROBE}"))
}

fn ok(_: &Sent, _: Duration) -> Option<String> {
    Some("200 OK".to_owned())
}

fn pings<'a>(sent: &'a [Sent], to: &str) -> Vec<&'a Sent> {
    sent.iter().filter(|sent| sent.method() == "OPTIONS" && sent.to == addr(to)).collect()
}

#[test]
fn kr7_a_ping_is_a_request_of_its_own() {
    let mut rig = probing(two_members(""));
    let sent = rig.pass_with(seconds(1), ok);
    let [ping] = pings(&sent, A)[..] else { panic!("{sent:?}") };
    assert!(ping.text.starts_with("OPTIONS sip:198.51.100.1:5060 SIP/2.0\r\n"), "{}", ping.text);
    assert_eq!(ping.line("Max-Forwards"), "70");
    assert!(ping.line("Via").starts_with("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK"));
    assert!(ping.line("From").starts_with("<sip:ping@192.0.2.1>;tag="));
    assert_eq!((ping.line("To"), ping.line("CSeq")), ("<sip:198.51.100.1:5060>", "1 OPTIONS"));
    assert!(ping.lines("Record-Route").is_empty() && ping.lines("Route").is_empty());
    let all = rig.pass_with(seconds(100), ok);
    let (to_a, calls) = (pings(&all, A), pings(&all, A).iter().map(|ping| ping.line("Call-ID")).collect::<Vec<_>>());
    assert!((9..=11).contains(&to_a.len()), "{}", to_a.len());
    let mut gaps: Vec<Duration> = to_a.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(gaps.iter().all(|gap| (9_000..=11_020).contains(&gap.as_millis())), "jitter: {gaps:?}");
    gaps.dedup();
    assert!(gaps.len() > 3, "jitter: {gaps:?}");
    assert!(calls.windows(2).all(|pair| pair[0] != pair[1]));
    let stats = rig.proxy.stats();
    assert_eq!((stats.requests, stats.forwarded, stats.responses, stats.pings_failed), (0, 0, 0, 0));
    assert!(stats.pings >= 20 && rig.proxy.live() == 0);
    assert!(rig.changes().is_empty());
}

#[test]
fn c25_pings_bring_a_member_down_and_back_within_the_counts() {
    let mut rig = probing(two_members(""));
    rig.pass_with(seconds(1), ok);
    let mut asked = 0;
    // a falls silent; each ping counts once, at its timeout, whatever it retransmits.
    let (mut ids, mut down_at) = (std::collections::BTreeSet::new(), None);
    while down_at.is_none() {
        let sent = rig.pass_with(Duration::from_millis(100), |ping, at| ok(ping, at).filter(|_| ping.to != addr(A)));
        ids.extend(pings(&sent, A).iter().map(|ping| ping.line("Call-ID").to_owned()));
        if rig.changes() == ["-a"] {
            down_at = Some(rig.now.instant);
        }
        asked += 1;
        assert!(asked < 400, "it never goes down");
    }
    assert_eq!((ids.len(), rig.state("a"), rig.probe(1)), (3, MemberState::Inactive, addr(B)));
    rig.pass_with(seconds(60), |ping, at| ok(ping, at).filter(|_| ping.to != addr(A)));
    assert_eq!(rig.state("a"), MemberState::Inactive, "time alone does not bring it back");
    let mut answered = 0;
    let mut count = |ping: &Sent, at| {
        answered += usize::from(ping.to == addr(A));
        ok(ping, at)
    };
    while rig.changes().is_empty() {
        rig.pass_with(Duration::from_millis(100), &mut count);
    }
    assert_eq!((answered, rig.state("a"), rig.probe(2)), (2, MemberState::Active, addr(A)));
}

#[test]
fn kr3_pings_and_requests_count_together() {
    let mut rig = probing(two_members(""));
    let silent = |ping: &Sent, at| ok(ping, at).filter(|_| ping.to != addr(A));
    rig.pass_with(seconds(4), silent);
    assert_eq!(rig.report("a").failures, 1);
    for call in 1..3 {
        let sent = rig.call(call).unwrap();
        assert_eq!(sent[0].to, addr(A));
        rig.answer(&sent[0], "503 Service Unavailable", "");
    }
    assert_eq!((rig.state("a"), rig.changes()), (MemberState::Inactive, vec!["-a".to_owned()]));
}

#[test]
fn kr7_what_is_no_good_answer() {
    // (status, header lines, state after it with down_after = 1)
    let cases = [
        ("200 OK", MemberState::Active),
        ("302 Moved", MemberState::Active),
        ("404 Not Found", MemberState::Active),
        ("405 Method Not Allowed", MemberState::Active),
        ("408 Request Timeout", MemberState::Active),
        ("500 Server Error", MemberState::Inactive),
        ("503 Service Unavailable", MemberState::Inactive),
        ("100 Trying", MemberState::Inactive),
    ];
    for (status, state) in cases {
        let config = configuration(&format!("down_after = 1\n{}{PROBE}", member("a", A, "")));
        let mut rig = probing(config);
        rig.pass_with(seconds(5), |_, _| Some(status.to_owned()));
        assert_eq!(rig.state("a"), state, "{status}");
    }
    let config = configuration(&format!("down_after = 1\n{}{PROBE}ok = [\"2xx\", \"503\"]\n", member("a", A, "")));
    for (status, state) in [("503 Service Unavailable", MemberState::Active), ("404 Not Found", MemberState::Inactive)]
    {
        let mut rig = probing(config.clone());
        rig.pass_with(seconds(5), |_, _| Some(status.to_owned()));
        assert_eq!(rig.state("a"), state, "{status}");
    }
}

#[test]
fn kr7_a_pause_that_a_member_asks_for_is_kept() {
    let config = configuration(&format!("{}{}{PROBE}", member("a", A, ""), member("b", B, "")));
    let mut rig = probing(config);
    let first = rig.pass_with(seconds(1), |ping, at| ok(ping, at).filter(|_| ping.to != addr(A)));
    let asked = *pings(&first, A).first().unwrap();
    rig.answer(&asked.clone(), "503 Service Unavailable", "Retry-After: 45\n");
    assert_eq!((rig.changes(), rig.probe(1)), (vec!["-a".to_owned()], addr(B)));
    let sent = rig.pass_with(seconds(43), ok);
    assert!(pings(&sent, A).is_empty() && pings(&sent, B).len() > 3, "nor is it pinged meanwhile");
    let sent = rig.pass_with(seconds(25), ok);
    assert!(pings(&sent, A).len() >= 2);
    assert_eq!((rig.changes(), rig.probe(2)), (vec!["+a".to_owned()], addr(A)));
}

#[test]
fn kr7_one_ping_at_a_time_and_an_unreachable_member_fails_at_once() {
    let slow =
        PROBE.replace("interval_ms = 10000", "interval_ms = 1000").replace("timeout_ms = 2000", "timeout_ms = 5000");
    let mut rig = probing(configuration(&format!("{}{slow}", member("a", A, ""))));
    let sent = rig.pass(seconds(5));
    let ids: std::collections::BTreeSet<_> = pings(&sent, A).iter().map(|ping| ping.line("Call-ID")).collect();
    assert!(ids.len() <= 2 && pings(&sent, A).len() > 3, "retransmissions of one: {ids:?}");
    let mut rig = probing(configuration(&format!("down_after = 1\n{}{slow}", member("a", A, ""))));
    let sent = rig.pass(seconds(1));
    let mut out = Output::default();
    rig.proxy.handle_transport_failure(rig.now, sent[0].tag, &mut out);
    rig.take(out);
    assert_eq!(rig.changes(), ["-a"]);
    rig.answer(&sent[0], "200 OK", "");
    assert_eq!(rig.state("a"), MemberState::Inactive, "a late answer is nobody's");
}

#[test]
fn kr4_a_disabled_member_is_not_pinged_and_a_draining_one_is() {
    let mut rig = probing(two_members(""));
    rig.pass_with(seconds(1), ok);
    rig.config().set_member_state("gateways", "a", MemberState::Disabled).unwrap();
    rig.config().set_member_state("gateways", "b", MemberState::Draining).unwrap();
    let sent = rig.pass_with(seconds(50), ok);
    assert!(pings(&sent, A).is_empty() && pings(&sent, B).len() >= 4);
}

#[test]
fn kr7_down_only_asks_only_those_that_have_failed() {
    let members = [member("a", A, ""), member("b", B, "")].concat();
    let mut rig = probing(configuration(&format!("down_after = 1\n{members}{PROBE}mode = \"down-only\"\n")));
    assert!(rig.pass_with(seconds(60), ok).is_empty());
    let call = rig.call(1).unwrap();
    rig.answer(&call[0], "503 Service Unavailable", "");
    let sent = rig.pass_with(seconds(60), ok);
    assert_eq!((pings(&sent, A).len(), pings(&sent, B).len()), (2, 0));
    assert_eq!(rig.changes(), ["-a", "+a"]);
}

#[test]
fn kr2_a_gateway_of_two_trunks_is_pinged_once_and_by_one_worker() {
    let trunk = |name: &str, members: &[String]| format!("[[trunk]]\nname = \"{name}\"\n{}{PROBE}", members.concat());
    let text = format!(
        "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n{}{}",
        trunk("one", &[member("a1", A, ""), member("b1", B, "")]),
        trunk("two", &[member("a2", A, ""), member("c2", C, "")]),
    );
    let mut all = Vec::new();
    for worker in 0..3 {
        let mut rig = Rig::new(parse(&text));
        let is_home = move |call_id: &[u8]| usize::from(call_id[0]) % 3 == worker;
        rig.proxy.start_probing(rig.now, Duty { worker, workers: 3, is_home: Box::new(is_home) });
        let sent = rig.pass_with(seconds(1), ok);
        assert!(sent.iter().all(|ping| is_home(ping.line("Call-ID").as_bytes())), "the answer comes home");
        all.extend(sent);
    }
    assert_eq!([A, B, C].map(|gateway| pings(&all, gateway).len()), [1, 1, 1]);
}

#[test]
fn kr8_each_address_of_a_name_is_pinged() {
    let text = format!("down_after = 1\nexpand = true\nnext_hop = \"sip:gw.example:5060\"\n{PROBE}");
    let mut rig = probing(configuration(&text));
    let hop = |remote| NextHop { transport: Transport::Udp, remote: addr(remote) };
    let round = |rig: &mut Rig, result: Result<Arc<[NextHop]>, LocateFailure>, silent: &str| {
        while rig.needs.is_empty() {
            rig.pass(Duration::from_millis(100));
        }
        let need = rig.needs.pop().unwrap();
        let mut out = Output::default();
        rig.proxy.handle_answer(rig.now, need.id, Answer::Locate(result), &mut out);
        let sent = rig.take(out);
        for ping in sent.iter().filter(|ping| ping.to != addr(silent)) {
            rig.answer(ping, "200 OK", "");
        }
        rig.pass(seconds(3));
        addresses(&sent)
    };
    let both = || -> Result<Arc<[NextHop]>, LocateFailure> { Ok([hop(A), hop(B)].into()) };
    assert_eq!(round(&mut rig, both(), B), [addr(A), addr(B)]);
    assert_eq!((rig.changes().len(), rig.state("sip:gw.example:5060")), (1, MemberState::Active));
    // The zone changes: the address that answers is gone.
    round(&mut rig, Ok([hop(B)].into()), B);
    assert_eq!(rig.state("sip:gw.example:5060"), MemberState::Inactive);
    round(&mut rig, Ok([hop(C)].into()), B);
    assert_eq!(rig.state("sip:gw.example:5060"), MemberState::Active);
    round(&mut rig, Err(LocateFailure::NoSuchName), B);
    assert_eq!(rig.state("sip:gw.example:5060"), MemberState::Inactive, "it leads nowhere");
    // The name server is back: so is the member, once something answers there as often as `up_after` says.
    round(&mut rig, both(), C);
    assert_eq!(rig.state("sip:gw.example:5060"), MemberState::Active);
}

/// KR-8: of a name whose addresses are told apart, the whole comes back by the answers of any of them, also to requests.
#[test]
fn kr8_a_name_that_was_set_down_comes_back_by_an_answer_from_an_address() {
    let mut rig = Rig::new(configuration("expand = true\nnext_hop = \"sip:gw.example:5060\""));
    rig.config().set_member_state("gateways", "sip:gw.example:5060", MemberState::Inactive).unwrap();
    assert_eq!(rig.state("sip:gw.example:5060"), MemberState::Inactive);
    rig.receive(CALLER, &request("INVITE", 1));
    let need = rig.needs.pop().unwrap();
    let hop = NextHop { transport: Transport::Udp, remote: addr(A) };
    let mut out = Output::default();
    rig.proxy.handle_answer(rig.now, need.id, Answer::Locate(Ok([hop].into())), &mut out);
    let sent = rig.take(out);
    rig.answer(&sent[0], "486 Busy Here", "");
    assert_eq!(rig.state("sip:gw.example:5060"), MemberState::Active);
    assert_eq!(rig.changes().len(), 1);
}

#[test]
fn kr1_latency_is_measured_and_the_fastest_comes_first() {
    let members = [member("a", A, ""), member("b", B, "")].concat();
    let mut rig = probing(configuration(&format!("algorithm = \"latency\"\n{members}{PROBE}")));
    let mut waiting = std::collections::VecDeque::new();
    for _ in 0..1800 {
        // b answers within 10 ms, whenever it is asked, a 100 ms later.
        waiting.push_back(rig.pass(Duration::from_millis(10)));
        pings(&waiting[waiting.len() - 1], B).into_iter().for_each(|ping| drop(rig.answer(ping, "200 OK", "")));
        if waiting.len() > 10 {
            let sent = waiting.pop_front().unwrap();
            pings(&sent, A).into_iter().for_each(|ping| drop(rig.answer(ping, "200 OK", "")));
        }
    }
    let latency = |rig: &Rig, id| rig.report(id).latency.unwrap();
    assert!(latency(&rig, "a") > latency(&rig, "b") + Duration::from_millis(50));
    assert!((0..10).all(|call| rig.probe(call) == addr(B)));
}

#[test]
fn kr12_a_reload_changes_who_is_pinged() {
    let mut rig = probing(two_members(""));
    rig.pass_with(seconds(1), ok);
    let members = [member("a", A, ""), member("c", C, "")].concat();
    let every_second = PROBE.replace("10000", "1000");
    rig.reload(configuration(&format!("{members}{every_second}")));
    let sent = rig.pass_with(seconds(20), ok);
    assert!(pings(&sent, B).is_empty());
    assert!(pings(&sent, A).len() > 15 && pings(&sent, C).len() > 15);
    rig.reload(configuration(&members));
    assert!(rig.pass_with(seconds(20), ok).is_empty());
    assert!(!rig.report("a").is_probed);
}

/// What a re-INVITE comes to says nothing of the call.
#[test]
fn kr6_a_refused_re_invite_leaves_the_call_counted() {
    let mut rig = Rig::new(configuration(&format!(
        "{}[trunk.limits]\nmax_concurrent_calls = 1\n",
        member("a", A, "max_calls = 1")
    )));
    let invite = rig.call(1).unwrap().remove(0);
    rig.answer(&invite, "200 OK", "");
    let again = bye(1, &invite).replace("BYE", "INVITE").replace("z9hG4bKINVITE1", "z9hG4bKagain");
    let again = rig.receive(CALLER, &again);
    rig.answer(again.iter().find(|sent| sent.to == addr(A)).unwrap(), "488 Not Acceptable Here", "");
    assert_eq!(rig.report("a").calls, Some(1));
    assert_eq!(rig.call(2).unwrap_err(), 503);
}
