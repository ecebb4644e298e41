//! The first line: strangers, limits of trunks, shedding, overload control, credentials; a proxy on a clock of its own.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vesperd::config::Config;
use vesperd::proxy::admission::Admission;
use vesperd::proxy::{Event, NextHop, Now, Output, Proxy, Snapshot};
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::replay::ReplayTable;

const CALLER: &str = "192.0.2.10:5060";
const CALLEE: &str = "198.51.100.20:5060";
const STRANGER: &str = "203.0.113.99:5060";

fn configuration(caller: &str, callee: &str, rest: &str) -> Config {
    let text = format!(
        "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
         [[trunk]]\nname = \"caller\"\nnext_hop = \"udp:{CALLER}\"\n{caller}\n\
         [[trunk]]\nname = \"callee\"\nnext_hop = \"udp:{CALLEE}\"\n{callee}\n\
         [[route]]\nfrom = \"caller\"\nto = \"callee\"\n\
         [[route]]\nfrom = \"callee\"\nto = \"caller\"\n{rest}\n"
    );
    Config::parse(&text, Path::new("edge.toml"), 1_795_219_200).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

struct Rig {
    proxy: Proxy,
    now: Now,
    index: Index,
    events: Vec<Event>,
}

#[derive(Debug, Clone)]
struct Sent {
    to: SocketAddr,
    text: String,
}

impl Sent {
    fn status(&self) -> u16 {
        self.text.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    fn lines(&self, name: &str) -> Vec<&str> {
        let start = format!("{name}: ");
        self.text.split("\r\n").take_while(|l| !l.is_empty()).filter_map(|l| l.strip_prefix(&start)).collect()
    }
}

impl Rig {
    fn new(config: Config) -> Self {
        let now = Now { instant: support::epoch(), unix: 1_795_219_200 };
        let replay = ReplayTable::default();
        let snapshot = Snapshot { config: config.proxy, trust: config.trust, replay };
        Rig { proxy: Proxy::new(Arc::new(snapshot), [7; 32], now), now, index: Index::new(), events: Vec::new() }
    }

    /// As a worker takes a datagram: judged by its source, read, looked at, handled.
    fn receive(&mut self, from: &str, text: &str) -> Vec<Sent> {
        let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        let remote = from.parse().unwrap();
        let source = Hop { transport: Transport::Udp, local: ListenerId(0), remote, connection: None, peer: None };
        let mut out = Output::default();
        let admission = self.proxy.admit(self.now, &source, &mut out);
        if admission.is_heard() {
            let is_lenient = self.proxy.is_lenient_with(source);
            let leniency = if is_lenient { sip::Leniency::TRUSTED } else { sip::Leniency::default() };
            let limits = Limits { leniency, ..Limits::default() };
            let message = sip::parse(text.as_bytes(), &mut self.index, Framing::Datagram, &limits).unwrap();
            if admission == Admission::Known || !self.proxy.screen(self.now, &source, message, &mut out) {
                self.proxy.handle_message(self.now, source, message, &mut out);
            }
        }
        self.take(out)
    }

    fn take(&mut self, mut out: Output) -> Vec<Sent> {
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

    /// The worker is late by so much for so long.
    fn be_late(&mut self, time: Duration, late: Duration) {
        let end = self.now.instant + time;
        while self.now.instant < end {
            self.now.instant += Duration::from_millis(10);
            self.proxy.observe_delay(self.now, late);
        }
    }

    /// An INVITE from the caller: what the callee got, or the status of the refusal.
    fn call(&mut self, number: u32) -> Result<Sent, u16> {
        let sent = self.receive(CALLER, &invite(number, ""));
        let refusal = sent.iter().find(|s| s.to == addr(CALLER) && s.status() >= 200).map(Sent::status);
        let forwarded = sent.into_iter().find(|s| s.to == addr(CALLEE));
        forwarded.ok_or_else(|| refusal.expect("forwarded or refused"))
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn invite(number: u32, lines: &str) -> String {
    request("INVITE", "sip:+12155551213@192.0.2.1", number, "", lines)
}

fn request(method: &str, uri: &str, call: u32, to_tag: &str, lines: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{method}{call};rport\nMax-Forwards: 70\n{lines}\
         From: <sip:+12015550100@192.0.2.10>;tag=a1\nTo: <sip:+12155551213@192.0.2.1>{to_tag}\nCall-ID: c{call}@192.0.2.10\n\
         CSeq: 1 {method}\nContent-Length: 0\n\n"
    )
}

/// A request of the caller in a call that runs through here.
fn in_dialog(method: &str, call: u32) -> String {
    request(method, "sip:198.51.100.20", call, ";tag=b1", "Route: <sip:192.0.2.1:5060;lr;vt=0.1>\n")
}

/// The callee's response to a request it received.
fn answer(request: &Sent, status: &str, lines: &str) -> String {
    let copy = |name: &str| request.lines(name).iter().map(|v| format!("{name}: {v}\n")).collect::<String>();
    let to = request.lines("To")[0];
    let to = if to.contains("tag=") { to.to_owned() } else { format!("{to};tag=b1") };
    format!(
        "SIP/2.0 {status}\n{}{}{}To: {to}\n{}{}{lines}Content-Length: 0\n\n",
        copy("Via"),
        copy("Record-Route"),
        copy("From"),
        copy("Call-ID"),
        copy("CSeq")
    )
}

// --- strangers

#[test]
fn e1_without_the_table_all_are_heard_and_strangers_get_few_error_answers() {
    let mut rig = Rig::new(configuration("", "", ""));
    let answered =
        (0..500).filter(|n| rig.receive(STRANGER, &invite(*n, "User-Agent: sipvicious\n")).len() == 1).count();
    assert_eq!(answered, 10, "a 403 each, until there are too many");
    assert_eq!((rig.proxy.stats().banned_messages, rig.proxy.stats().excess_messages), (0, 0));
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.receive(STRANGER, &invite(600, "")).len(), 1);
    let known =
        (0..500).filter(|n| !rig.receive(CALLER, &request("OPTIONS", "foo:bar", *n, "", "")).is_empty()).count();
    assert_eq!(known, 500, "neighbours get all of theirs");
}

#[test]
fn c60_a_flood_from_one_stranger_is_answered_a_little_then_not_heard() {
    let mut rig = Rig::new(configuration("", "", "[guard]\nmessages_burst = 1000\nmessages_per_second = 1000\n"));
    let mut answers = 0;
    for n in 0..500 {
        answers += rig.receive(STRANGER, &invite(n, "")).len();
    }
    assert_eq!(answers, 10);
    let stats = *rig.proxy.stats();
    assert_eq!((stats.withheld_answers, stats.bans, stats.banned_messages), (50, 1, 440));
    assert!(
        rig.events
            .iter()
            .any(|e| matches!(e, Event::Banned { network, .. } if network.to_string() == "203.0.113.99/32"))
    );
    assert_eq!(rig.proxy.bans(rig.now).len(), 1);
    assert!(rig.call(1000).is_ok(), "neighbours go on");
    rig.pass(Duration::from_secs(301));
    assert_eq!(rig.receive(STRANGER, &invite(2000, ""))[0].status(), 403);
}

#[test]
fn scanners_get_no_answer_and_are_banned_but_not_behind_a_trunk() {
    let mut rig = Rig::new(configuration("", "", "[guard]\n"));
    assert!(rig.receive(STRANGER, &invite(1, "User-Agent: friendly-scanner\n")).is_empty());
    assert!(rig.receive(STRANGER, &invite(2, "User-Agent: Yealink\n")).is_empty());
    assert_eq!(rig.receive(CALLER, &invite(3, "User-Agent: sipcli/v1.8\n")).len(), 2, "100, and on it goes");
    assert!(rig.proxy.lift_ban(rig.now, "203.0.113.99".parse().unwrap()));
    assert_eq!(rig.receive(STRANGER, &invite(4, "User-Agent: Yealink\n"))[0].status(), 403);
}

#[test]
fn what_is_denied_is_not_heard_and_what_is_allowed_not_limited() {
    let rest = "[guard]\ndeny = \"203.0.113.0/24\"\nallow = \"203.0.113.98\"\n";
    let mut rig = Rig::new(configuration("", "", rest));
    assert!(rig.receive(STRANGER, &invite(1, "")).is_empty());
    let answered = (0..200).filter(|n| rig.receive("203.0.113.98:5060", &invite(*n, "")).len() == 1).count();
    assert_eq!(answered, 200);
}

// --- limits of trunks

#[test]
fn calls_at_a_time_end_by_refusal_and_by_bye() {
    let mut rig = Rig::new(configuration("[trunk.limits]\nmax_concurrent_calls = 2\n", "", ""));
    let first = rig.call(1).unwrap();
    rig.call(2).unwrap();
    assert_eq!(rig.call(3).unwrap_err(), 503);
    let refused = rig.receive(CALLER, &invite(4, ""));
    assert!(refused[0].lines("Retry-After").is_empty());
    // A refused INVITE frees its place.
    rig.receive(CALLEE, &answer(&first, "486 Busy Here", ""));
    let third = rig.call(5).unwrap();
    assert_eq!(rig.call(6).unwrap_err(), 503);
    // An answered one keeps it until the BYE has its answer.
    rig.receive(CALLEE, &answer(&third, "200 OK", ""));
    assert_eq!(rig.call(7).unwrap_err(), 503);
    let bye = rig.receive(CALLER, &in_dialog("BYE", 5));
    let bye = bye.iter().find(|s| s.to == addr(CALLEE)).expect("forwarded");
    assert_eq!(rig.call(8).unwrap_err(), 503);
    rig.receive(CALLEE, &answer(bye, "200 OK", ""));
    assert!(rig.call(9).is_ok());
    assert_eq!(rig.proxy.stats().limited, 5);
}

#[test]
fn calls_to_a_trunk_count_and_the_status_can_be_chosen() {
    let limits = "[trunk.limits]\nmax_concurrent_calls = 1\nstatus = 480\ncount = \"to\"\n";
    let mut rig = Rig::new(configuration("", limits, ""));
    rig.call(1).unwrap();
    assert_eq!(rig.call(2).unwrap_err(), 480);
    // Its own calls do not count.
    let sent = rig.receive(CALLEE, &invite(3, "").replace("192.0.2.10", "198.51.100.20"));
    assert!(sent.iter().any(|s| s.to == addr(CALLER)), "{sent:#?}");
}

#[test]
fn calls_per_second_and_emergency_calls_pass_all_limits() {
    let limits = "[trunk.limits]\nmax_calls_per_second = 10\ncalls_burst = 3\nmax_concurrent_calls = 1000\n";
    let mut rig = Rig::new(configuration(limits, "", "[guard]\nemergency_numbers = [\"112\"]\n"));
    let passed = (0..20).filter(|n| rig.call(*n).is_ok()).count();
    assert_eq!(passed, 3);
    let sent = rig.receive(CALLER, &request("INVITE", "sip:112@192.0.2.1", 100, "", ""));
    assert!(sent.iter().any(|s| s.to == addr(CALLEE)), "E-12");
    rig.pass(Duration::from_millis(100));
    assert_eq!((200..220).filter(|n| rig.call(*n).is_ok()).count(), 1);
}

/// RFC 4412 4.6.1, E-12: at the limits of the next hop, too, it is the caller's trunk that is believed.
#[test]
fn e12_resource_priority_passes_the_limits_of_a_next_hop_if_the_caller_may_use_it() {
    let limits = "[trunk.limits]\nmax_concurrent_calls = 1\ncount = \"to\"\n";
    for is_believed in [true, false] {
        let (caller, callee) = (format!("trusted = {is_believed}\n"), format!("trusted = {}\n{limits}", !is_believed));
        let mut rig = Rig::new(configuration(&caller, &callee, ""));
        rig.call(1).unwrap();
        let sent = rig.receive(CALLER, &invite(2, "Resource-Priority: esnet.1\n"));
        assert_eq!(sent.iter().any(|s| s.to == addr(CALLEE)), is_believed, "{sent:#?}");
    }
}

#[test]
fn a_call_that_fails_over_counts_where_it_is_and_once() {
    let callee = "[trunk.limits]\nmax_concurrent_calls = 1\n";
    let mut rig = Rig::new(configuration("", callee, ""));
    let spare = "198.51.100.21:5060";
    let text = format!(
        "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
         [[trunk]]\nname = \"caller\"\nnext_hop = \"udp:{CALLER}\"\n\
         [[trunk]]\nname = \"callee\"\nnext_hop = [\"udp:{CALLEE}\", \"udp:{spare}\"]\n{callee}\n\
         [[route]]\nfrom = \"caller\"\nto = \"callee\"\n"
    );
    rig.proxy = Rig::new(Config::parse(&text, Path::new("e.toml"), 1_795_219_200).unwrap()).proxy;
    let first = rig.call(1).unwrap();
    let retried = rig.receive(CALLEE, &answer(&first, "503 Service Unavailable", ""));
    let second = retried.iter().find(|s| s.to == addr(spare)).expect("its own place was free for it").clone();
    assert_eq!(rig.call(2).unwrap_err(), 503);
    rig.receive(spare, &answer(&second, "404 Not Found", ""));
    assert!(rig.call(3).is_ok());
}

/// Calls with one Call-ID are several all the same if their From tags differ, or their CSeq numbers.
#[test]
fn one_call_id_for_many_calls_evades_no_limit() {
    let passed = |rig: &mut Rig, change: &dyn Fn(u32, String) -> String| {
        let one = |n: u32| change(n, invite(1, "").replace("z9hG4bKINVITE1", &format!("z9hG4bKmany{n}")));
        let is_sent = |sent: &Vec<Sent>| sent.iter().any(|sent| sent.to == addr(CALLEE));
        (0..40).map(|n| rig.receive(CALLER, &one(n))).filter(is_sent).count()
    };
    let tags = |n: u32, text: String| text.replace("tag=a1", &format!("tag=a{n}"));
    let numbers = |n: u32, text: String| text.replace("CSeq: 1 ", &format!("CSeq: {} ", n + 1));
    let changes: [&dyn Fn(u32, String) -> String; 2] = [&tags, &numbers];
    for change in changes {
        let limits = "[trunk.limits]\nmax_concurrent_calls = 3\n";
        assert_eq!(passed(&mut Rig::new(configuration(limits, "", "")), change), 3, "from");
        assert_eq!(passed(&mut Rig::new(configuration("", limits, "")), change), 3, "to");
        let member = format!("[[trunk.member]]\nnext_hop = \"udp:{CALLEE}\"\nmax_calls = 3\n");
        let text = format!(
            "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
             [[trunk]]\nname = \"caller\"\nnext_hop = \"udp:{CALLER}\"\n[[trunk]]\nname = \"callee\"\n{member}\
             [[route]]\nfrom = \"caller\"\nto = \"callee\"\n"
        );
        let config = Config::parse(&text, Path::new("e.toml"), 1_795_219_200).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(passed(&mut Rig::new(config), change), 3, "member");
        // Above what is observed of one Call-ID nothing could be counted: such calls are refused, also at the way in.
        let wide = "[trunk.limits]\nmax_concurrent_calls = 1000\n";
        for (caller, callee) in [(wide, ""), ("", wide)] {
            let mut rig = Rig::new(configuration(caller, callee, ""));
            assert_eq!(passed(&mut rig, change), 16);
            assert_eq!((rig.proxy.stats().limited, rig.proxy.calls().len()), (24, 16));
        }
    }
}

#[test]
fn a_reload_keeps_what_was_counted() {
    let limits = "[trunk.limits]\nmax_concurrent_calls = 1\n";
    let first = configuration(limits, "", "[guard]\n");
    let mut rig = Rig::new(first.clone());
    rig.call(1).unwrap();
    rig.receive(STRANGER, &invite(50, "User-Agent: sipvicious\n"));
    let mut next = configuration(limits, "", "[guard]\nban_seconds = 10\n");
    next.proxy.continue_from(&first.proxy);
    let snapshot = Snapshot { config: next.proxy, trust: next.trust, replay: ReplayTable::default() };
    rig.proxy.set_snapshot(Arc::new(snapshot));
    assert_eq!(rig.call(2).unwrap_err(), 503);
    assert!(rig.receive(STRANGER, &invite(51, "")).is_empty());
    assert_eq!(rig.proxy.bans(rig.now).len(), 1);
}

/// As a node goes on with a configuration that is changed while it runs.
fn reload(rig: &mut Rig, from: &Config, guard: &str) -> Config {
    let mut next = configuration("", "", guard);
    next.proxy.continue_from(&from.proxy);
    let (config, trust) = (next.proxy.clone(), next.trust.clone());
    rig.proxy.set_snapshot(Arc::new(Snapshot { config, trust, replay: ReplayTable::default() }));
    next
}

#[test]
fn kr10_a_guard_that_a_reload_adds_bans_and_its_bans_leave_with_it() {
    let first = configuration("", "", "");
    let mut rig = Rig::new(first.clone());
    let guarded = reload(&mut rig, &first, "[guard]\n");
    rig.receive(STRANGER, &invite(50, "User-Agent: sipvicious\n"));
    assert_eq!(rig.proxy.bans(rig.now).len(), 1);
    let bare = reload(&mut rig, &guarded, "");
    assert!(rig.proxy.bans(rig.now).is_empty(), "without the table nobody is banned");
    let guarded = reload(&mut rig, &bare, "[guard]\nbans = 64\n");
    rig.receive(STRANGER, &invite(51, "User-Agent: sipvicious\n"));
    reload(&mut rig, &guarded, "[guard]\nbans = 64\n");
    assert_eq!(rig.proxy.bans(rig.now).len(), 1);
}

// --- shedding

#[test]
fn c60_under_overload_new_calls_are_refused_without_state_and_old_ones_are_served() {
    let mut rig = Rig::new(configuration("", "", "[guard]\nemergency_numbers = [\"112\"]\n"));
    let before = rig.call(1).unwrap();
    rig.receive(CALLEE, &answer(&before, "200 OK", ""));
    rig.be_late(Duration::from_secs(3), Duration::from_millis(80));
    let live = rig.proxy.live();
    let refused = rig.receive(CALLER, &invite(2, ""));
    assert_eq!((refused.len(), refused[0].status()), (1, 503));
    assert!(refused[0].lines("Retry-After").is_empty());
    assert_eq!(rig.receive(CALLER, &invite(2, ""))[0].text, refused[0].text, "the same answer to a copy");
    assert_eq!(rig.proxy.live(), live, "no state");
    // Its ACK is known by its tag, and is nobody's business.
    let dropped = rig.proxy.stats().dropped_requests;
    let tag = refused[0].lines("To")[0].split(";tag=").nth(1).unwrap();
    let ack = request("ACK", "sip:+12155551213@192.0.2.1", 2, &format!(";tag={tag}"), "");
    assert!(rig.receive(CALLER, &ack.replace("z9hG4bKACK2", "z9hG4bKINVITE2")).is_empty());
    assert_eq!(rig.proxy.stats().dropped_requests, dropped);
    // What belongs to a call, and an emergency, is served.
    for (method, what) in [("INVITE", "re-INVITE"), ("BYE", "BYE"), ("ACK", "ACK")] {
        let text = in_dialog(method, 1).replace("z9hG4bKINVITE1", "z9hG4bKreinvite");
        assert!(rig.receive(CALLER, &text).iter().any(|s| s.to == addr(CALLEE)), "{what}");
    }
    let emergency = rig.receive(CALLER, &request("INVITE", "sip:112@192.0.2.1", 9, "", ""));
    assert!(emergency.iter().any(|s| s.to == addr(CALLEE)));
    assert_eq!(rig.proxy.stats().shed, 2);
    // And it ends.
    rig.be_late(Duration::from_secs(3), Duration::from_millis(1));
    assert!(rig.call(10).is_ok());
}

#[test]
fn a_table_nearly_full_sheds_before_it_is_full() {
    let rest = "[guard]\nshed_table_percent = 50\n[limits]\nmax_server_transactions = 10\n";
    let mut rig = Rig::new(configuration("", "", rest));
    let outcome: Vec<_> =
        (0..10).map(|n| rig.call(n).map_err(|status| (status, rig.proxy.stats().shed)).is_ok()).collect();
    assert_eq!(outcome.iter().filter(|ok| **ok).count(), 5, "{outcome:?}");
    assert_eq!((rig.proxy.stats().shed, rig.proxy.stats().table_full), (5, 0));
}

// --- overload control (RFC 7339, RFC 7415)

/// The callee's answer with its load in our Via.
fn answer_with_load(request: &Sent, status: &str, load: &str) -> String {
    let via = request.lines("Via")[0].to_owned();
    assert!(via.ends_with(";oc;oc-algo=\"loss,rate\""), "{via}");
    let told = via.replace(";oc;oc-algo=\"loss,rate\"", load);
    answer(request, status, "").replacen(&via, &told, 1)
}

#[test]
fn c59_a_neighbour_that_asks_for_loss_gets_half_until_that_expires_and_nobody_upstream_sees_it() {
    let mut rig = Rig::new(configuration("", "oc = \"client\"\n", ""));
    let first = rig.call(1).unwrap();
    let answered =
        rig.receive(CALLEE, &answer_with_load(&first, "200 OK", ";oc=50;oc-algo=\"loss\";oc-validity=5000;oc-seq=7.1"));
    assert_eq!((answered[0].to, answered[0].status()), (addr(CALLER), 200));
    assert!(!answered[0].text.contains("oc"), "{}", answered[0].text.replace("Proxy", ""));
    let mut refused = Vec::new();
    let mut passed = 0;
    for n in 0..2000 {
        match rig.call(10 + n) {
            Ok(_) => passed += 1,
            Err(status) => refused.push(status),
        }
    }
    assert!((900..=1100).contains(&passed), "{passed}");
    assert!(refused.iter().all(|status| *status == 503));
    assert_eq!(rig.proxy.stats().withheld, refused.len() as u64);
    // What belongs to a call goes first.
    assert!((0..50).all(|n| {
        let bye = in_dialog("BYE", 5000 + n);
        rig.receive(CALLER, &bye).iter().any(|s| s.to == addr(CALLEE))
    }));
    rig.pass(Duration::from_secs(5));
    assert!((0..50).all(|n| rig.call(8000 + n).is_ok()), "it has expired");
}

#[test]
fn a_response_of_who_was_not_asked_limits_nobody_and_loses_its_load_upstream() {
    let mut rig = Rig::new(configuration("", "", ""));
    let first = rig.call(1).unwrap();
    assert!(!first.lines("Via")[0].contains(";oc"));
    let forged = answer(&first, "200 OK", "").replace(";rport=5060", ";rport=5060;oc=100;oc-validity=9999;oc-seq=1.1");
    let forwarded = rig.receive(CALLEE, &forged);
    assert!(!forwarded[0].text.contains("oc="), "{}", forwarded[0].text);
    assert!((10..60).all(|n| rig.call(n).is_ok()));
}

#[test]
fn o5_who_asks_is_told_our_load_in_every_response_and_throttles_itself() {
    let mut rig = Rig::new(configuration("oc = \"server\"\n", "", "[guard]\n"));
    let asking = |n| invite(n, "").replace(";rport", ";rport;oc;oc-algo=\"loss\"");
    let sent = rig.receive(CALLER, &asking(1));
    let idle = sent[0].lines("Via")[0].to_owned();
    assert!(idle.contains(";oc=0;oc-algo=\"loss\";oc-validity=0;oc-seq=1795219200."), "{idle}");
    rig.be_late(Duration::from_millis(700), Duration::from_millis(80));
    let sent = rig.receive(CALLER, &asking(2));
    assert_eq!(sent[0].status(), 100, "it is served");
    let busy = sent[0].lines("Via")[0].to_owned();
    let level: u32 = busy.split(";oc=").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
    assert!((50..100).contains(&level), "{busy}");
    assert!(busy.contains(";oc-validity=500;"));
    let forwarded = sent.iter().find(|s| s.to == addr(CALLEE)).unwrap();
    let answered = rig.receive(CALLEE, &answer(forwarded, "200 OK", ""));
    assert!(answered[0].lines("Via")[0].contains(&format!(";oc={level};")), "{}", answered[0].text);
    // Who does not ask is refused in that proportion.
    let refused = (100..1100).filter(|n| rig.call(*n).is_err()).count();
    assert!((level as usize * 10).abs_diff(refused) < 60, "{level} {refused}");
}

#[test]
fn telling_a_load_needs_one_that_is_measured() {
    let text = "[[listener]]\nname = \"u\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
        [[trunk]]\nname = \"a\"\npeers = \"192.0.2.9\"\noc = \"both\"\n[trunk.limits]\ncalls_burst = 2\n";
    let mistakes = Config::parse(text, Path::new("e.toml"), 0).err().expect("refused").to_string();
    assert!(mistakes.contains("e.toml:8: ") && mistakes.contains("add [guard] with shed = true"), "{mistakes}");
    assert!(mistakes.contains("max_calls_per_second, max_concurrent_calls or both"), "{mistakes}");
    assert!(mistakes.contains("add max_calls_per_second"), "{mistakes}");
    let text = "[[listener]]\nname = \"u\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
        [guard]\ndeny = \"192.0.2.9\"\nscanners = \"x\"\nban_after = -1\n\
        [[trunk]]\nname = \"a\"\npeers = \"192.0.2.9\"\n";
    let mistakes = Config::parse(text, Path::new("e.toml"), 0).err().expect("refused").to_string();
    assert!(mistakes.contains("trunk \"a\": is denied by [guard]"), "{mistakes}");
    assert!(
        mistakes.contains("guard.scanners: \"x\" can not be read") && mistakes.contains("guard.ban_after"),
        "{mistakes}"
    );
}

// --- credentials (RFC 7616, RFC 8760)

mod digest {
    use super::*;
    use vesperd::proxy::digest::Algorithm;

    const MOBILE: &str = "203.0.113.50:5062";

    struct Desk(tempfile::TempDir);

    impl Desk {
        fn new() -> Self {
            let desk = Desk(tempfile::TempDir::new().unwrap());
            let hash = |algorithm: Algorithm| {
                let hash = algorithm.hash(&[b"alice", b"example.com", b"secret"]);
                String::from_utf8(hash.as_bytes().to_vec()).unwrap()
            };
            let (sha, md5) = (hash(Algorithm::Sha256), hash(Algorithm::Md5));
            desk.write(&format!("alice:example.com:SHA-256:{sha}\nalice:example.com:MD5:{md5}\n"));
            desk
        }

        fn write(&self, users: &str) {
            std::fs::write(self.0.path().join("users"), users).unwrap();
        }

        fn parse(&self, more: &str, rest: &str) -> Result<Config, String> {
            self.parse_with("", more, rest)
        }

        fn parse_with(&self, trunk: &str, more: &str, rest: &str) -> Result<Config, String> {
            self.read(&self.text(trunk, more, rest))
        }

        fn text(&self, trunk: &str, more: &str, rest: &str) -> String {
            format!(
                "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
                 [[trunk]]\nname = \"callee\"\nnext_hop = \"udp:{CALLEE}\"\n#callee\n\
                 [[trunk]]\nname = \"roamer\"\n{trunk}[trunk.digest]\nrealm = \"example.com\"\nusers = \"users\"\n{more}\n\
                 [[route]]\nfrom = \"roamer\"\nto = \"callee\"\n{rest}"
            )
        }

        fn read(&self, text: &str) -> Result<Config, String> {
            Config::parse(text, &self.0.path().join("edge.toml"), 1_795_219_200).map_err(|m| m.to_string())
        }

        fn rig(&self, more: &str, rest: &str) -> Rig {
            Rig::new(self.parse(more, rest).unwrap_or_else(|mistakes| panic!("{mistakes}")))
        }
    }

    const URI: &str = "sip:+12155551213@192.0.2.1";

    /// What a client answers to a challenge.
    fn credentials(challenge: &str, algorithm: Algorithm, password: &str, count: u32) -> String {
        credentials_for(challenge, algorithm, password, count, URI)
    }

    fn credentials_for(challenge: &str, algorithm: Algorithm, password: &str, count: u32, uri: &str) -> String {
        let nonce = challenge.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
        let count = format!("{count:08x}");
        let secret = algorithm.hash(&[b"alice", b"example.com", password.as_bytes()]);
        let request = algorithm.hash(&[b"INVITE", uri.as_bytes()]);
        let parts = [secret.as_bytes(), nonce.as_bytes(), count.as_bytes(), b"0a4f113b", b"auth", request.as_bytes()];
        let response = algorithm.hash(&parts);
        let response = std::str::from_utf8(response.as_bytes()).unwrap();
        format!(
            "Proxy-Authorization: Digest username=\"alice\", realm=\"example.com\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\", algorithm={}, cnonce=\"0a4f113b\", qop=auth, nc={count}\n",
            algorithm.token()
        )
    }

    fn challenge(rig: &mut Rig) -> Sent {
        // As long as an INVITE with a session description is.
        let sent = rig.receive(MOBILE, &invite(1, &format!("X-Long: {}\n", "x".repeat(400))));
        assert_eq!((sent.len(), sent[0].status()), (1, 407));
        sent[0].clone()
    }

    fn passes(sent: &[Sent]) -> bool {
        sent.iter().any(|s| s.to == addr(CALLEE))
    }

    #[test]
    fn v9_a_challenge_then_the_call_and_its_ack_and_the_credentials_go_no_further() {
        let mut rig = Desk::new().rig("", "");
        let refusal = challenge(&mut rig);
        let challenges = refusal.lines("Proxy-Authenticate");
        assert_eq!(challenges.len(), 1);
        assert!(challenges[0].starts_with("Digest realm=\"example.com\",nonce=\""));
        assert!(challenges[0].contains(",algorithm=SHA-256,qop=\"auth\"") && !challenges[0].contains("stale"));
        let live = rig.proxy.live();
        assert_eq!(live, 0, "a challenge costs no state");
        let foreign =
            "Proxy-Authorization: Digest username=\"x\", realm=\"elsewhere\", nonce=\"n\", uri=\"u\", response=\"r\"\n";
        let own = credentials(challenges[0], Algorithm::Sha256, "secret", 1);
        let sent = rig.receive(MOBILE, &invite(2, &format!("{foreign}{own}")));
        let forwarded = sent.iter().find(|s| s.to == addr(CALLEE)).expect("forwarded");
        let left = forwarded.lines("Proxy-Authorization");
        assert_eq!(left.len(), 1, "{}", forwarded.text);
        assert!(left[0].contains("elsewhere"));
        // The ACK of the 2xx is not challenged; it comes from where the trunk authenticated.
        rig.receive(CALLEE, &answer(forwarded, "200 OK", ""));
        let ack = request("ACK", "sip:198.51.100.20", 2, ";tag=b1", "Route: <sip:192.0.2.1:5060;lr;vt=1.0>\n");
        assert!(passes(&rig.receive(MOBILE, &ack)));
        assert!(rig.receive(STRANGER, &ack.replace("z9hG4bKACK2", "z9hG4bKother")).is_empty());
    }

    /// V-9, KR-11: its address is another trunk's, which need not authenticate. Whoever is not in the table is known by what he has proven.
    #[test]
    fn v9_the_ack_of_who_authenticated_at_an_address_of_another_trunk_is_his() {
        const PHONE: &str = "203.0.113.77:5060";
        let desk = Desk::new();
        let pbx = format!("[[trunk]]\nname = \"pbx\"\nnext_hop = \"udp:{MOBILE}\"\n[cdr]\nfile = \"stdout\"\n");
        for is_observed in [true, false] {
            let mut config = desk.parse("", &pbx).unwrap();
            if !is_observed {
                config.proxy.max_calls = 0;
            }
            let mut rig = Rig::new(config);
            let wrong = "Proxy-Authorization: Digest username=\"alice\", realm=\"example.com\", nonce=\"o\", uri=\"u\", response=\"r\"\n";
            let refusal = rig.receive(MOBILE, &invite(1, &format!("{wrong}X-Long: {}\n", "x".repeat(400))));
            let own = credentials(refusal[0].lines("Proxy-Authenticate")[0], Algorithm::Sha256, "secret", 1);
            let sent = rig.receive(MOBILE, &invite(2, &own));
            let forwarded = sent.iter().find(|s| s.to == addr(CALLEE)).expect("forwarded").clone();
            rig.receive(CALLEE, &answer(&forwarded, "200 OK", "Contact: <sip:203.0.113.77>\n"));
            let ack = request("ACK", "sip:203.0.113.77", 2, ";tag=b1", "Route: <sip:192.0.2.1:5060;lr;vt=1.0>\n");
            let sent = rig.receive(MOBILE, &ack);
            assert!(sent.iter().any(|s| s.to == addr(PHONE)), "observed: {is_observed}: {sent:#?}");
            rig.pass(Duration::from_secs(40));
            assert_eq!(rig.proxy.calls().len(), usize::from(is_observed), "it is acknowledged");
        }
    }

    #[test]
    fn s6_what_was_tolerated_at_first_is_when_the_request_is_read_again() {
        const SPARE: &str = "198.51.100.21:5060";
        let pbx = format!("[[trunk]]\nname = \"pbx\"\nnext_hop = \"udp:{MOBILE}\"\nlenient = true\n");
        let desk = Desk::new();
        let two = format!("next_hop = [\"udp:{CALLEE}\", \"udp:{SPARE}\"]");
        let text = desk.text("", "", &pbx).replace(&format!("next_hop = \"udp:{CALLEE}\""), &two);
        let mut config = desk.read(&text).unwrap();
        config.proxy.listeners.push(support::rig::listener(Transport::Tls, 5061));
        config.proxy.trunks[0].next_hops[0] = NextHop { transport: Transport::Tls, remote: addr(CALLEE) }.into();
        let mut rig = Rig::new(config);
        // As long as an INVITE with a session description is. The address is a lenient trunk's.
        let wrong = "Proxy-Authorization: Digest username=\"alice\", realm=\"example.com\", nonce=\"o\", uri=\"u\", response=\"r\"\n";
        let refusal = rig.receive(MOBILE, &invite(1, &format!("{wrong}X-Long: {}\n", "x".repeat(400))));
        let refusal = refusal[0].lines("Proxy-Authenticate")[0].to_owned();
        // The credentials are another trunk's, which is not lenient. Read without its brackets, the URI wants TLS.
        let uri = URI.replace("sip:", "sips:");
        let own = credentials_for(&refusal, Algorithm::Sha256, "secret", 1, &uri);
        let sent = rig.receive(MOBILE, &invite(2, &own).replacen(URI, &format!("<{uri}>"), 1));
        let first = sent.iter().find(|s| s.to == addr(CALLEE)).expect("forwarded").clone();
        let sent = rig.receive(CALLEE, &answer(&first, "503 Service Unavailable", ""));
        assert!(sent.iter().all(|s| s.to != addr(SPARE)), "it left TLS: {sent:#?}");
    }

    #[test]
    fn e4_what_a_trunk_asserts_is_replaced_by_who_has_authenticated() {
        let own = "<sip:+4930123@example.com>, <tel:+4930123>";
        let asserted = "asserted = [\"sip:+4930123@example.com\", \"tel:+4930123\"]\n";
        let lied = "P-Asserted-Identity: <sip:+1@evil.example>\nP-Preferred-Identity: <sip:+2@evil.example>\n";
        for (callee, privacy, told) in [
            ("", "", true),
            ("", "Privacy: id\n", false),
            ("", "Privacy: none\n", true),
            ("trusted = true", "Privacy: id\n", true),
            ("asserted_identity = \"withhold\"", "", false),
            ("asserted_identity = \"withhold\"", "Privacy: none\n", true),
        ] {
            let desk = Desk::new();
            let text = desk.text(asserted, "", "").replace("#callee", callee);
            let mut rig = Rig::new(desk.read(&text).unwrap());
            let refusal = challenge(&mut rig);
            let proof = credentials(refusal.lines("Proxy-Authenticate")[0], Algorithm::Sha256, "secret", 1);
            let sent = rig.receive(MOBILE, &invite(2, &format!("{lied}{privacy}{proof}")));
            let forwarded = sent.iter().find(|s| s.to == addr(CALLEE)).expect("forwarded");
            let expected = if told { vec![own] } else { Vec::new() };
            assert_eq!(forwarded.lines("P-Asserted-Identity"), expected, "{callee} {privacy}");
            assert!(forwarded.lines("P-Preferred-Identity").is_empty());
        }
        let desk = Desk::new();
        let mistake = |line: &str| desk.parse_with(line, "", "").err().expect(line);
        assert!(mistake("asserted = \"mailto:a@b\"\n").contains("asserted: "));
        assert!(mistake("asserted = \"sip:a@b?x=y\"\n").contains("asserted: "));
        assert!(mistake("asserted = [\"sip:a@b\", \"sips:a@b\"]\n").contains("more than one URI of a kind"));
        assert!(mistake("asserted = \"sip:a@b\"\ntrusted = true\n").contains("a trusted trunk asserts"));
        let unproven = "[[trunk]]\nname = \"x\"\npeers = \"192.0.2.77\"\nasserted = \"sip:a@b\"\n";
        assert!(desk.parse("", unproven).err().unwrap().contains("nothing proves"));
    }

    #[test]
    fn rfc8760_each_algorithm_has_its_line_the_better_one_first_and_md5_only_if_configured() {
        let desk = Desk::new();
        let mut rig = desk.rig("algorithms = [\"MD5\", \"SHA-256\"]\n", "");
        let refusal = challenge(&mut rig);
        let challenges = refusal.lines("Proxy-Authenticate");
        assert!(challenges[0].contains("algorithm=SHA-256") && challenges[1].contains("algorithm=MD5"));
        assert!(passes(&rig.receive(MOBILE, &invite(2, &credentials(challenges[1], Algorithm::Md5, "secret", 1)))));
        let mut strict = desk.rig("", "");
        let refusal = challenge(&mut strict);
        let weak = credentials(refusal.lines("Proxy-Authenticate")[0], Algorithm::Md5, "secret", 1);
        assert_eq!(strict.receive(MOBILE, &invite(2, &weak))[0].status(), 407);
    }

    #[test]
    fn e1_a_challenge_is_no_amplifier() {
        let desk = Desk::new();
        let mut rig = desk.rig("algorithms = [\"MD5\", \"SHA-256\"]\n", "");
        let short = invite(1, "").replace('\n', "\r\n");
        let sent = rig.receive(MOBILE, &short);
        assert!(sent[0].text.len() <= short.len() + 200, "{} for {}", sent[0].text.len(), short.len());
        let challenges = sent[0].lines("Proxy-Authenticate");
        assert!(challenges.len() == 1 && challenges[0].contains("SHA-256"), "the best one stays: {challenges:?}");
    }

    #[test]
    fn a_count_is_good_once_a_nonce_for_its_time_and_another_uri_never() {
        let mut rig = Desk::new().rig("nonce_seconds = 60\n", "");
        let refusal = challenge(&mut rig);
        let line = refusal.lines("Proxy-Authenticate")[0].to_owned();
        let with = |count| credentials(&line, Algorithm::Sha256, "secret", count);
        assert!(passes(&rig.receive(MOBILE, &invite(2, &with(1)))));
        let replayed = rig.receive(STRANGER, &invite(3, &with(1)));
        assert_eq!(replayed[0].status(), 407);
        assert!(replayed[0].lines("Proxy-Authenticate")[0].ends_with(",stale=true"));
        assert!(passes(&rig.receive(MOBILE, &invite(4, &with(2)))));
        let other = invite(5, &with(3)).replacen(URI, "sip:+12155559999@192.0.2.1", 1);
        let refused = rig.receive(MOBILE, &other);
        assert_eq!(refused[0].status(), 407);
        assert!(!refused[0].text.contains("stale"));
        rig.now.unix += 61;
        let late = rig.receive(MOBILE, &invite(6, &with(4)));
        assert!(late[0].lines("Proxy-Authenticate")[0].ends_with(",stale=true"));
        let next = late[0].lines("Proxy-Authenticate")[0].to_owned();
        assert!(passes(&rig.receive(MOBILE, &invite(7, &credentials(&next, Algorithm::Sha256, "secret", 1)))));
    }

    #[test]
    fn v9_more_new_nonces_than_are_remembered_lock_nobody_out() {
        let mut rig = Desk::new().rig("", "[guard]\nnonces = 64\nanswers_burst = 10000\nall_answers_burst = 10000\n");
        for number in 0..500 {
            rig.now.unix += 1;
            let refusal = challenge(&mut rig);
            let own = credentials(refusal.lines("Proxy-Authenticate")[0], Algorithm::Sha256, "secret", 1);
            assert!(passes(&rig.receive(MOBILE, &invite(10 + number, &own))), "{number}");
        }
    }

    #[test]
    fn wrong_passwords_are_challenged_again_and_end_in_a_ban() {
        let mut rig = Desk::new().rig("", "[guard]\nban_after = 5\nanswers_burst = 100\n");
        let refusal = challenge(&mut rig);
        let wrong = credentials(refusal.lines("Proxy-Authenticate")[0], Algorithm::Sha256, "guess", 1);
        let answered = (2..20).filter(|n| !rig.receive(MOBILE, &invite(*n, &wrong)).is_empty()).count();
        assert_eq!((answered, rig.proxy.stats().wrong_credentials), (5, 5));
        assert_eq!(rig.proxy.bans(rig.now)[0].cause.name(), "credentials");
    }

    #[test]
    fn what_does_not_fit_is_refused_at_load() {
        let desk = Desk::new();
        let mistake = |desk: &Desk, more: &str, rest: &str| desk.parse(more, rest).err().expect("refused");
        assert!(mistake(&desk, "algorithms = \"SHA-512-256\"\n", "").contains("no HA1 for any of the algorithms"));
        assert!(mistake(&desk, "algorithms = \"SHA-1\"\n", "").contains("can not be read"));
        let again = "[[trunk]]\nname = \"two\"\n[trunk.digest]\nrealm = \"example.com\"\nusers = \"users\"\n";
        assert!(mistake(&desk, "", again).contains("in the file of another trunk"));
        desk.write("alice:example.com:SHA-256:secret\n");
        let told = mistake(&desk, "", "");
        assert!(told.contains("line 1: HA1 is not 64 hexadecimal digits") && !told.contains(":secret"), "{told}");
    }
}
