//! Forking, best response, failover, CANCEL and Timer C of the proxy core on a clock of its own: RFC 3261 16.6 to 16.10, RFC 5393 5.3,
//! sip-proxy, K-1 to K-11.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::network::{Link, Network, SimNode, shared};
use support::rng::Rng;
use support::ua::{Answer as UasAnswer, CallPlan, Ending, TakenState, Uac, Uas};
use vesperd::proxy::{
    Answer, Codes, Config, Forking, Listener, LocateFailure, Need, NeedId, NeedKind, NextHop, Now, Output, Proxy,
    Relay503, Route, Snapshot, TargetHost, Trunk, TrunkId,
};
use vesperd::sip::hop::{Hop, ListenerId, Outbox, Transport};
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::TrustStore;
use vesperd::stir::replay::ReplayTable;

const CALLER: &str = "192.0.2.10:5060";
const US: &str = "192.0.2.1";
const GATEWAYS: [&str; 3] = ["198.51.100.1:5071", "198.51.100.2:5072", "198.51.100.3:5073"];

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A caller and a trunk with `gateways` next hops.
fn config(gateways: usize, forking: Forking) -> Config {
    let listener = Listener {
        name: "udp".into(),
        transport: Transport::Udp,
        bind: format!("{US}:5060").parse().unwrap(),
        advertise_host: US.into(),
        advertise_port: 5060,
        names: Vec::new(),
    };
    let trunk = |name: &str, hops: &[&str]| Trunk {
        name: name.into(),
        next_hops: hops.iter().map(|h| NextHop { transport: Transport::Udp, remote: addr(h) }.into()).collect(),
        ..Trunk::default()
    };
    Config {
        listeners: vec![listener],
        trunks: vec![trunk("caller", &[CALLER]), Trunk { forking, ..trunk("gateways", &GATEWAYS[..gateways]) }],
        routes: vec![Route::between(TrunkId(0), TrunkId(1))],
        ..Config::default()
    }
}

fn parallel() -> Forking {
    Forking { parallel: true, ..Forking::default() }
}

fn patient_for(fr: u64) -> Forking {
    Forking { fr: Some(seconds(fr)), ..Forking::default() }
}

struct Rig {
    proxy: Proxy,
    now: Now,
    index: Index,
}

/// One message that left.
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

    fn is_to(&self, address: &str) -> bool {
        self.hop.remote == addr(address)
    }

    fn status(&self) -> Option<u16> {
        self.first_line().strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }
}

impl Rig {
    fn new(config: Config) -> Self {
        let now = Now { instant: support::epoch(), unix: 1_795_219_200 };
        let proxy = Proxy::new(Arc::new(snapshot(config)), [7; 32], now);
        Rig { proxy, now, index: Index::new() }
    }

    fn receive(&mut self, from: &str, text: &str) -> Vec<Sent> {
        self.receive_all(from, text).0
    }

    /// What is sent, and what is needed.
    fn receive_all(&mut self, from: &str, text: &str) -> (Vec<Sent>, Vec<Need>) {
        let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        let source =
            Hop { transport: Transport::Udp, local: ListenerId(0), remote: addr(from), connection: None, peer: None };
        let mut out = Output::default();
        let message =
            sip::parse(text.as_bytes(), &mut self.index, Framing::Datagram, &Limits::default()).expect("indexable");
        self.proxy.handle_message(self.now, source, message, &mut out);
        (sent(&out), out.needs)
    }

    fn provide(&mut self, need: NeedId, answer: Answer) -> Vec<Sent> {
        let mut out = Output::default();
        self.proxy.handle_answer(self.now, need, answer, &mut out);
        sent(&out)
    }

    /// The copies of an INVITE that leave at once.
    fn invite(&mut self, extra: &str) -> Vec<Sent> {
        let out = self.receive(CALLER, &request("INVITE", "", extra));
        assert_eq!(out[0].first_line(), "SIP/2.0 100 Trying");
        out[1..].to_vec()
    }

    /// An answer of the place a request went to.
    fn answer(&mut self, request: &Sent, status: u16, extra: &str) -> Vec<Sent> {
        let from = request.hop.remote.to_string();
        let text = answer(request, status, &format!("tag-{}", request.hop.remote.ip()), extra);
        self.receive(&from, &text)
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

    /// Everything ends, and nothing is left.
    fn settle(&mut self) -> Vec<Sent> {
        let out = self.pass(seconds(600));
        assert_eq!(self.proxy.live(), 0, "a context leaked");
        out
    }
}

fn snapshot(config: Config) -> Snapshot {
    Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() }
}

fn sent(out: &Output) -> Vec<Sent> {
    let text = |t| String::from_utf8(out.outbox.bytes_of(t).to_vec()).unwrap();
    out.outbox.items().iter().map(|t| Sent { hop: t.hop, tag: t.tag, text: text(t) }).collect()
}

fn request(method: &str, to_tag: &str, extra: &str) -> String {
    format!(
        "{method} sip:+12155551213@192.0.2.1 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1;rport\nMax-Forwards: 70\n{extra}\
         From: <sip:+12015550100@192.0.2.10>;tag=a1\nTo: <sip:+12155551213@192.0.2.1>{to_tag}\nCall-ID: c1@192.0.2.10\n\
         CSeq: 1 {method}\nContent-Length: 0\n\n"
    )
}

fn answer(request: &Sent, status: u16, to_tag: &str, extra: &str) -> String {
    let copy = |name: &str| request.lines(name).iter().map(|v| format!("{name}: {v}\n")).collect::<String>();
    let to = request.line("To");
    let tag = if status == 100 || to.contains("tag=") { String::new() } else { format!(";tag={to_tag}") };
    format!(
        "SIP/2.0 {status} Said So\n{}{}{}To: {to}{tag}\n{}{}{extra}Content-Length: 0\n\n",
        copy("Via"),
        copy("Record-Route"),
        copy("From"),
        copy("Call-ID"),
        copy("CSeq")
    )
}

fn upstream(out: &[Sent]) -> Vec<u16> {
    out.iter().filter(|s| s.is_to(CALLER)).filter_map(Sent::status).collect()
}

fn requests<'a>(out: &'a [Sent], method: &str) -> Vec<&'a Sent> {
    out.iter().filter(|s| s.first_line().starts_with(&format!("{method} "))).collect()
}

/// The INVITE that went to this gateway.
fn invite_to(out: &[Sent], gateway: &str) -> Sent {
    requests(out, "INVITE").into_iter().find(|s| s.is_to(gateway)).expect("an INVITE to this gateway").clone()
}

/// Answers a CANCEL with 200 and its INVITE with `status`.
fn cancelled(rig: &mut Rig, invite: &Sent, cancel: &Sent, status: u16) -> Vec<Sent> {
    let mut out = rig.answer(cancel, 200, "");
    out.extend(rig.answer(invite, status, ""));
    out
}

// ---- forking and best response

#[test]
fn c10_one_of_three_answers() {
    let mut rig = Rig::new(config(3, parallel()));
    let invites = rig.invite("");
    assert_eq!(invites.len(), 3, "all at once");
    for (invite, gateway) in invites.iter().zip(GATEWAYS) {
        assert!(invite.is_to(gateway) && invite.lines("Via").len() == 2);
        assert_eq!(invite.line("Record-Route"), "<sip:192.0.2.1:5060;lr;vt=0.1>");
    }
    let branches: BTreeSet<_> = invites.iter().map(|i| i.lines("Via")[0].to_owned()).collect();
    assert_eq!(branches.len(), 3, "each its own branch");
    for invite in &invites {
        let up = rig.answer(invite, 180, "");
        assert_eq!(upstream(&up), [180]);
        assert!(up[0].line("To").ends_with(&format!("tag=tag-{}", invite.hop.remote.ip())), "R-10");
    }
    let out = rig.answer(&invites[1], 200, "");
    assert_eq!(upstream(&out), [200]);
    let cancels = requests(&out, "CANCEL");
    assert_eq!(cancels.len(), 2);
    for (cancel, invite) in cancels.iter().zip([&invites[0], &invites[2]]) {
        assert_eq!(cancel.hop, invite.hop);
        assert_eq!(cancel.line("Via"), invite.lines("Via")[0]);
        assert_eq!(cancel.line("Reason"), "SIP;cause=200;text=\"Call completed elsewhere\"", "R-12");
        let out = cancelled(&mut rig, invite, cancel, 487);
        assert_eq!(upstream(&out), [0u16; 0], "their 487 is not relayed");
        assert_eq!(requests(&out, "ACK").len(), 1, "but acknowledged");
    }
    rig.settle();
}

#[test]
fn r12_a_silent_branch_is_cancelled_on_its_first_provisional() {
    let mut rig = Rig::new(config(2, parallel()));
    let invites = rig.invite("");
    let out = rig.answer(&invites[0], 200, "");
    assert!(requests(&out, "CANCEL").is_empty(), "K-2: nothing was heard of it");
    let out = rig.answer(&invites[1], 180, "");
    assert_eq!(upstream(&out), [0u16; 0], "no 180 after the 200");
    assert_eq!(requests(&out, "CANCEL")[0].line("Reason"), "SIP;cause=200;text=\"Call completed elsewhere\"");
    rig.settle();
}

#[test]
fn c11_two_200s_are_both_forwarded() {
    let mut rig = Rig::new(config(2, parallel()));
    let invites = rig.invite("");
    let mut tags = Vec::new();
    for invite in &invites {
        let out = rig.answer(invite, 200, "");
        assert_eq!(upstream(&out), [200], "R-9");
        let ok = out.iter().find(|s| s.is_to(CALLER)).unwrap();
        tags.push(ok.line("To").rsplit_once("tag=").unwrap().1.to_owned());
    }
    assert_ne!(tags[0], tags[1]);
    assert_eq!(upstream(&rig.answer(&invites[0], 200, "")), [200], "a retransmitted 200 passes too");
    for (tag, gateway) in tags.iter().zip(GATEWAYS) {
        let ack = request("ACK", &format!(";tag={tag}"), "Route: <sip:192.0.2.1:5060;lr;vt=0.1>\n")
            .replace("ACK sip:+12155551213@192.0.2.1 ", &format!("ACK sip:b@{gateway} "))
            .replace("branch=z9hG4bK1", &format!("branch=z9hG4bKack{tag}"));
        let out = rig.receive(CALLER, &ack);
        assert!(out.len() == 1 && out[0].is_to(gateway), "{out:#?}");
    }
    rig.settle();
}

#[test]
fn c12_6xx_stops_everything() {
    for status in [603, 607, 608] {
        let mut config = config(3, Forking { parallel: true, ..patient_for(30) });
        config.max_breadth = 2; // so the third one is a serial target
        let mut rig = Rig::new(config);
        let invites = rig.invite("");
        assert_eq!(invites.len(), 2);
        rig.answer(&invites[1], 180, "");
        let out = rig.answer(&invites[0], status, "Call-Info: <https://b.example/jcard>;purpose=jwscard\n");
        assert_eq!(upstream(&out), [0u16; 0], "not before the other one has ended");
        let cancel = requests(&out, "CANCEL")[0].clone();
        assert!(cancel.is_to(GATEWAYS[1]) && cancel.lines("Reason").is_empty());
        let out = cancelled(&mut rig, &invites[1], &cancel, 487);
        assert_eq!(upstream(&out), [status]);
        let last = out.iter().find(|s| s.is_to(CALLER)).unwrap();
        assert_eq!(last.line("Call-Info"), "<https://b.example/jcard>;purpose=jwscard");
        assert!(requests(&rig.settle(), "INVITE").is_empty(), "the serial target is never tried");
    }
}

#[test]
fn r6_a_2xx_after_a_6xx_still_wins() {
    let mut rig = Rig::new(config(2, parallel()));
    let invites = rig.invite("");
    rig.answer(&invites[1], 180, "");
    assert_eq!(upstream(&rig.answer(&invites[0], 603, "")), [0u16; 0]);
    assert_eq!(upstream(&rig.answer(&invites[1], 200, "")), [200], "R-5: any 2xx while no final was sent");
    rig.settle();
}

#[test]
fn c13_challenges_are_aggregated() {
    let mut rig = Rig::new(config(3, parallel()));
    let invites = rig.invite("");
    let (a, b) = ("Digest realm=\"a\", nonce=\"1\", algorithm=SHA-256", "Digest realm=\"b\",nonce=\"2\"");
    rig.answer(&invites[0], 401, &format!("WWW-Authenticate: {a}\nWWW-Authenticate: {a}, qop=\"auth\"\n"));
    rig.answer(&invites[1], 404, "");
    let out = rig.answer(&invites[2], 407, &format!("Proxy-Authenticate: {b}\n"));
    assert_eq!(upstream(&out), [407]);
    let last = out.iter().find(|s| s.is_to(CALLER)).unwrap();
    assert_eq!(last.lines("WWW-Authenticate"), [a, &format!("{a}, qop=\"auth\"")], "R-8: unmodified and in order");
    assert_eq!(last.line("Proxy-Authenticate"), b);
    rig.settle();
}

#[test]
fn c14_best_response_matrix() {
    let sets: [(&[u16], u16); 7] = [
        (&[404, 503], 404),
        (&[503], 500),
        (&[486, 404], 404),
        (&[302, 404], 302),
        (&[480, 500], 480),
        (&[408, 404], 404),
        (&[407, 404], 407),
    ];
    for (statuses, expected) in sets {
        let mut rig = Rig::new(config(statuses.len(), parallel()));
        let invites = rig.invite("");
        let mut seen = Vec::new();
        for (invite, status) in invites.iter().zip(statuses) {
            seen.extend(upstream(&rig.answer(invite, *status, "")));
        }
        assert_eq!(seen, [expected], "{statuses:?}");
        rig.settle();
    }
}

/// How one branch ends, in the reference below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Final(u16),
    Silence,
    Refused,
}

/// R-7, written down a second time: the classes in their order of preference, the latest of the best class.
fn reference(ends: &[End]) -> u16 {
    if ends.iter().any(|end| matches!(end, End::Final(200..=299))) {
        return 200;
    }
    let preferences: [&dyn Fn(u16) -> bool; 7] = [
        &|s| s >= 600,
        &|s| s / 100 == 3,
        &|s| s == 401 || s == 407,
        &|s| [415, 420, 422, 428, 436, 437, 438, 484].contains(&s),
        &|s| s / 100 == 4 && s != 408,
        &|s| s == 408,
        &|s| s / 100 == 5 && s != 503,
    ];
    for is_meant in preferences {
        let finals = || ends.iter().filter_map(|end| if let End::Final(s) = end { Some(*s) } else { None });
        if let Some(status) = finals().filter(|s| is_meant(*s)).last() {
            return status;
        }
        if is_meant(408) && ends.contains(&End::Silence) {
            return 408;
        }
    }
    500
}

#[test]
fn r7_every_combination_of_ends_on_three_branches() {
    use End::{Final, Refused, Silence};
    let ends: Vec<_> = [200, 302, 401, 404, 407, 408, 415, 428, 480, 484, 486, 487, 500, 503, 504, 600, 603]
        .map(Final)
        .into_iter()
        .chain([Silence, Refused])
        .collect();
    let n = ends.len();
    for number in 0..n * n * n {
        let order = [ends[number / (n * n)], ends[number / n % n], ends[number % n]];
        let mut rig = Rig::new(config(3, parallel()));
        let invites = rig.invite("");
        let mut finals = Vec::new();
        for (invite, end) in invites.iter().zip(order) {
            let out = match end {
                Final(status) => rig.answer(invite, status, ""),
                Refused => rig.fail(invite.tag),
                Silence => Vec::new(),
            };
            finals.extend(upstream(&out));
        }
        finals.extend(upstream(&rig.settle()));
        let successes = order.iter().filter(|end| **end == Final(200)).count();
        if successes > 0 {
            assert_eq!(finals, vec![200; successes], "{order:?}");
        } else {
            // Timer G repeats the answer, as nobody acknowledges it here.
            let expected = reference(&order);
            assert!(
                !finals.is_empty() && finals.iter().all(|s| *s == expected),
                "{order:?}: {expected}, not {finals:?}"
            );
        }
    }
}

#[test]
fn r7_relay_503() {
    let told = |relay_503, lines: &str| {
        let mut config = config(1, Forking::default());
        config.trunks[1].relay_503 = relay_503;
        let mut rig = Rig::new(config);
        let invites = rig.invite("");
        let out = rig.answer(&invites[0], 503, lines);
        let up = out.iter().find(|s| s.is_to(CALLER)).unwrap();
        (up.first_line().to_owned(), up.lines("Retry-After").len())
    };
    let lines = "Retry-After: 30\n";
    assert_eq!(told(Relay503::Rewrite500, lines), ("SIP/2.0 500 Server Internal Error".into(), 0));
    assert_eq!(told(Relay503::Pass, lines), ("SIP/2.0 503 Said So".into(), 1));
    assert_eq!(told(Relay503::Map(480), lines), ("SIP/2.0 480 Temporarily Unavailable".into(), 0));
}

// ---- failover

#[test]
fn kr9_codes_of_the_trunk_move_on_and_the_callees_word_does_not() {
    let mut forking = Forking::default();
    forking.failover.on = vec![Codes::Status(404), Codes::Class(5)];
    for (status, moves_on) in
        [(404, true), (500, true), (503, true), (480, false), (486, false), (487, false), (603, false)]
    {
        let mut rig = Rig::new(config(2, forking.clone()));
        let invites = rig.invite("");
        assert_eq!(invites.len(), 1);
        let out = rig.answer(&invites[0], status, "");
        assert_eq!(requests(&out, "INVITE").len(), usize::from(moves_on), "{status}");
        if let Some(second) = requests(&out, "INVITE").first() {
            assert!(second.is_to(GATEWAYS[1]));
            assert_eq!((second.lines("Via").len(), second.lines("Record-Route").len()), (2, 1), "RR-8");
            assert_eq!((second.line("Max-Forwards"), second.line("Max-Breadth")), ("69", "60"));
            assert_ne!(second.lines("Via")[0], invites[0].lines("Via")[0]);
            let last = rig.answer(second, 480, "");
            assert_eq!(upstream(&last), [480]);
        } else {
            assert_eq!(upstream(&out), [status]);
        }
        rig.settle();
    }
}

#[test]
fn kr9_a_phone_that_rang_is_no_dead_gateway() {
    for after_18x in [false, true] {
        let mut forking = Forking::default();
        forking.failover.after_18x = after_18x;
        let mut rig = Rig::new(config(2, forking));
        let invites = rig.invite("");
        rig.answer(&invites[0], 183, "");
        let out = rig.answer(&invites[0], 503, "");
        assert_eq!(requests(&out, "INVITE").len(), usize::from(after_18x));
        assert_eq!(upstream(&out).len(), usize::from(!after_18x));
        rig.settle();
    }
}

#[test]
fn c28_silence_moves_on_at_fr_and_a_late_180_is_cancelled() {
    let mut rig = Rig::new(config(2, patient_for(3)));
    let first = rig.invite("")[0].clone();
    let out = rig.pass(Duration::from_millis(2_900));
    assert!(out.iter().all(|s| s.is_to(GATEWAYS[0])), "retransmissions only");
    let out = rig.pass(Duration::from_millis(200));
    let second = requests(&out, "INVITE")[0].clone();
    assert!(second.is_to(GATEWAYS[1]));
    rig.answer(&second, 100, "");
    let out = rig.pass(seconds(20));
    assert!(requests(&out, "INVITE").iter().all(|s| s.is_to(GATEWAYS[1])), "the first one is not sent again");
    let out = rig.answer(&first, 180, "");
    assert_eq!(upstream(&out), [0u16; 0]);
    let cancel = requests(&out, "CANCEL")[0].clone();
    assert!(cancel.is_to(GATEWAYS[0]));
    assert_eq!(upstream(&cancelled(&mut rig, &first, &cancel, 487)), [0u16; 0]);
    assert_eq!(upstream(&rig.answer(&second, 180, "")), [180]);
    assert_eq!(upstream(&rig.answer(&second, 200, "")), [200]);
    rig.settle();
}

#[test]
fn c28_a_late_200_is_forwarded_and_cancels_the_newer_branch() {
    let mut rig = Rig::new(config(2, patient_for(3)));
    let first = rig.invite("")[0].clone();
    let second = invite_to(&rig.pass(Duration::from_millis(3_100)), GATEWAYS[1]);
    rig.answer(&second, 180, "");
    let out = rig.answer(&first, 200, "");
    assert_eq!(upstream(&out), [200], "R-9");
    let cancel = requests(&out, "CANCEL")[0].clone();
    assert!(cancel.is_to(GATEWAYS[1]));
    assert_eq!(upstream(&cancelled(&mut rig, &second, &cancel, 487)), [0u16; 0]);
    rig.settle();
}

#[test]
fn r6_a_given_up_branch_delays_nothing() {
    let mut rig = Rig::new(config(2, patient_for(3)));
    rig.invite("");
    let second = invite_to(&rig.pass(Duration::from_millis(3_100)), GATEWAYS[1]);
    assert_eq!(upstream(&rig.answer(&second, 486, "")), [486], "at once, though the first one may still answer");

    let mut rig = Rig::new(config(2, patient_for(3)));
    let first = rig.invite("")[0].clone();
    assert_eq!(upstream(&rig.pass(Duration::from_millis(6_200)))[..1], [408]);
    assert_eq!(upstream(&rig.answer(&first, 200, "")), [0u16; 0], "R-9: nobody could acknowledge it any more");
    rig.settle();
}

#[test]
fn fr_inv_moves_on_unless_it_rang() {
    for rang in [false, true] {
        let forking = Forking { fr_inv: Some(seconds(10)), ..Forking::default() };
        let mut rig = Rig::new(config(2, forking));
        let first = rig.invite("")[0].clone();
        rig.answer(&first, if rang { 180 } else { 100 }, "");
        let out = rig.pass(Duration::from_millis(10_100));
        let cancel = requests(&out, "CANCEL")[0].clone();
        assert!(cancel.is_to(GATEWAYS[0]));
        assert_eq!(requests(&out, "INVITE").len(), usize::from(!rang));
        let ended = cancelled(&mut rig, &first, &cancel, 487);
        assert_eq!(upstream(&ended), if rang { vec![408] } else { Vec::new() }, "nobody cancelled: no 487");
        rig.settle();
    }
}

#[test]
fn d8_the_budget_ends_failover() {
    let mut config = config(3, patient_for(4));
    config.failover_budget = seconds(6);
    let mut rig = Rig::new(config);
    rig.invite("");
    let out = rig.pass(seconds(5));
    assert!(requests(&out, "INVITE").iter().any(|s| s.is_to(GATEWAYS[1])));
    let out = rig.pass(seconds(5));
    assert!(!out.iter().any(|s| s.is_to(GATEWAYS[2])), "8 s is over the budget");
    assert_eq!(upstream(&out)[..1], [408]);
    rig.settle();
}

#[test]
fn n3_a_non_invite_is_tried_again_only_while_its_client_waits() {
    let mut rig = Rig::new(config(3, patient_for(20)));
    let out = rig.receive(CALLER, &request("MESSAGE", "", ""));
    assert!(out[0].is_to(GATEWAYS[0]));
    let out = rig.pass(seconds(21));
    assert!(out.iter().any(|s| s.is_to(GATEWAYS[1])));
    let out = rig.settle();
    assert!(!out.iter().any(|s| s.is_to(GATEWAYS[2])), "40 s: the client's Timer F is over");
    assert!(!upstream(&out).contains(&408), "N-2");
}

#[test]
fn transport_failure_moves_on_at_once() {
    let mut rig = Rig::new(config(2, Forking::default()));
    let first = rig.invite("")[0].clone();
    let out = rig.fail(first.tag);
    assert!(requests(&out, "INVITE")[0].is_to(GATEWAYS[1]));
    let second = requests(&out, "INVITE")[0].clone();
    assert_eq!(upstream(&rig.fail(second.tag)), [500]);
    rig.settle();
}

// ---- Max-Breadth

#[test]
fn l5_breadth_is_shared_and_counted() {
    let mut rig = Rig::new(config(3, parallel()));
    let shares: Vec<_> = rig.invite("").iter().map(|i| i.line("Max-Breadth").to_owned()).collect();
    assert_eq!(shares, ["20", "20", "20"]);

    let mut rig = Rig::new(config(1, Forking::default()));
    assert_eq!(rig.invite("Max-Breadth: 1000\n")[0].line("Max-Breadth"), "60", "the local ceiling");

    let mut rig = Rig::new(config(3, parallel()));
    let invites = rig.invite("Max-Breadth: 2\n");
    assert_eq!(invites.iter().map(|i| i.line("Max-Breadth")).collect::<Vec<_>>(), ["1", "1"], "the third has to wait");
    assert!(requests(&rig.answer(&invites[0], 503, ""), "INVITE").is_empty(), "groups follow groups");
    let third = requests(&rig.answer(&invites[1], 503, ""), "INVITE")[0].clone();
    assert_eq!(third.line("Max-Breadth"), "2", "both shares came back");

    let mut rig = Rig::new(config(3, parallel()));
    let out = rig.receive(CALLER, &request("INVITE", "", "Max-Breadth: 0\n"));
    assert_eq!(out[1].first_line(), "SIP/2.0 440 Max-Breadth Exceeded");
    let out = rig.receive(CALLER, &request("MESSAGE", "", "Max-Breadth: many\n"));
    assert_eq!(out[0].first_line(), "SIP/2.0 400 Bad Max-Breadth");
}

#[test]
fn l5_a_branch_given_up_keeps_its_share() {
    let mut rig = Rig::new(config(3, patient_for(3)));
    let first = rig.invite("Max-Breadth: 4\n")[0].clone();
    assert_eq!(first.line("Max-Breadth"), "2", "something stays for a successor");
    let second = invite_to(&rig.pass(Duration::from_millis(3_100)), GATEWAYS[1]);
    assert_eq!(second.line("Max-Breadth"), "1");
    let out = rig.pass(seconds(3));
    let third = invite_to(&out, GATEWAYS[2]);
    assert_eq!(third.line("Max-Breadth"), "1");

    let mut rig = Rig::new(config(2, patient_for(3)));
    rig.invite("Max-Breadth: 1\n");
    let out = rig.pass(seconds(4));
    assert!(requests(&out, "INVITE").iter().all(|s| s.is_to(GATEWAYS[0])), "no room for a second one");
}

#[test]
fn l5_several_2xx_of_one_branch_give_nothing_back_twice() {
    // A spiral behind us answers twice on one branch; what is alive never exceeds what came in.
    let mut config = config(3, parallel());
    config.trunks[1].forking.failover.on = vec![Codes::Class(5)];
    let mut rig = Rig::new(config);
    let invites = rig.invite("Max-Breadth: 2\n");
    for _ in 0..3 {
        rig.answer(&invites[0], 200, "");
    }
    let out = rig.answer(&invites[1], 503, "");
    assert!(requests(&out, "INVITE").is_empty(), "nothing new after a 2xx");
    rig.settle();
}

// ---- CANCEL and Timer C

#[test]
fn c04_cancel_before_any_provisional() {
    let mut rig = Rig::new(config(2, parallel()));
    let invites = rig.invite("");
    let out = rig.receive(CALLER, &request("CANCEL", "", "Reason: SIP;cause=487\nReason: Q.850;cause=16\n"));
    assert_eq!(upstream(&out), [200], "at once");
    assert!(requests(&out, "CANCEL").is_empty());
    assert!(requests(&rig.pass(seconds(2)), "CANCEL").is_empty(), "K-2");
    let mut last = Vec::new();
    for invite in &invites {
        let out = rig.answer(invite, 180, "");
        let cancel = requests(&out, "CANCEL")[0].clone();
        assert_eq!(cancel.lines("Reason"), ["SIP;cause=487", "Q.850;cause=16"], "C-07");
        last = cancelled(&mut rig, invite, &cancel, 487);
    }
    assert_eq!(upstream(&last), [487]);
    rig.settle();
}

#[test]
fn c05_cancel_reaches_every_ringing_branch() {
    let mut rig = Rig::new(config(3, parallel()));
    let invites = rig.invite("");
    invites.iter().for_each(|invite| drop(rig.answer(invite, 180, "")));
    let out = rig.receive(CALLER, &request("CANCEL", "", ""));
    let cancels: Vec<_> = requests(&out, "CANCEL").into_iter().cloned().collect();
    assert_eq!(cancels.len(), 3);
    let mut seen = Vec::new();
    for (invite, cancel) in invites.iter().zip(&cancels) {
        assert_eq!(cancel.first_line().split(' ').nth(1), invite.first_line().split(' ').nth(1));
        assert_eq!((cancel.line("Via"), cancel.line("CSeq")), (invite.lines("Via")[0], "1 CANCEL"));
        seen.extend(upstream(&cancelled(&mut rig, invite, cancel, 487)));
    }
    assert_eq!(seen, [487], "once, when the last has ended");
    rig.settle();
}

#[test]
fn c06_cancel_crosses_a_200() {
    let mut rig = Rig::new(config(2, parallel()));
    let invites = rig.invite("");
    invites.iter().for_each(|invite| drop(rig.answer(invite, 180, "")));
    let out = rig.receive(CALLER, &request("CANCEL", "", ""));
    assert_eq!(requests(&out, "CANCEL").len(), 2);
    assert_eq!(upstream(&rig.answer(&invites[0], 200, "")), [200], "K-6");
    assert_eq!(upstream(&rig.answer(&invites[1], 487, "")), [0u16; 0]);
    rig.settle();
}

#[test]
fn k5_no_further_target_after_cancel() {
    let mut rig = Rig::new(config(3, Forking::default()));
    let invites = rig.invite("");
    rig.receive(CALLER, &request("CANCEL", "", ""));
    let out = rig.answer(&invites[0], 503, "");
    assert!(requests(&out, "INVITE").is_empty());
    assert_eq!(upstream(&out), [500]);
    rig.settle();
}

#[test]
fn k3_a_branch_that_ignores_its_cancel_counts_as_487() {
    let mut rig = Rig::new(config(2, parallel()));
    let invites = rig.invite("");
    rig.answer(&invites[0], 180, "");
    rig.answer(&invites[1], 404, "");
    rig.receive(CALLER, &request("CANCEL", "", ""));
    assert_eq!(upstream(&rig.pass(seconds(31))), [0u16; 0]);
    assert_eq!(upstream(&rig.pass(seconds(2)))[..1], [404], "of equal rank: the one that was received");
    rig.settle();
}

#[test]
fn k4_an_unmatched_cancel_is_refused_or_forwarded() {
    let mut rig = Rig::new(config(1, Forking::default()));
    let out = rig.receive(CALLER, &request("CANCEL", "", ""));
    assert_eq!(out[0].first_line(), "SIP/2.0 481 Call/Transaction Does Not Exist");

    let mut forwards = config(1, Forking::default());
    forwards.forward_unmatched_cancel = true;
    let mut rig = Rig::new(forwards);
    let first = rig.receive(CALLER, &request("CANCEL", "", ""));
    let again = rig.receive(CALLER, &request("CANCEL", "", ""));
    assert!(first.len() == 1 && first[0].is_to(GATEWAYS[0]) && first[0].first_line().starts_with("CANCEL "));
    assert_eq!(first[0].text, again[0].text, "without state, a copy has the branch of the first");
    assert_eq!(rig.proxy.live(), 0);
    let stranger = rig.receive("203.0.113.9:5060", &request("CANCEL", "", ""));
    assert_eq!(upstream(&stranger), [0u16; 0]);
    assert!(requests(&stranger, "CANCEL").is_empty(), "no reflector");
}

#[test]
fn c19_timer_c_per_branch() {
    for is_answered in [true, false] {
        let mut rig = Rig::new(config(2, parallel()));
        let invites = rig.invite("");
        rig.answer(&invites[0], 180, "");
        rig.answer(&invites[1], 180, "");
        rig.pass(seconds(100));
        rig.answer(&invites[0], 183, ""); // 101 to 199 restart it on this branch
        rig.answer(&invites[1], 100, ""); // 100 does not
        let out = rig.pass(seconds(86));
        let cancels = requests(&out, "CANCEL");
        assert!(!cancels.is_empty() && cancels.iter().all(|c| c.is_to(GATEWAYS[1])), "at 185 s the second only");
        let (cancel, second) = (cancels[0].clone(), invites[1].clone());
        if is_answered {
            assert_eq!(upstream(&cancelled(&mut rig, &second, &cancel, 487)), [0u16; 0], "the first still rings");
        }
        let out = rig.pass(seconds(100));
        let cancel = (*requests(&out, "CANCEL").iter().find(|c| c.is_to(GATEWAYS[0])).unwrap()).clone();
        if is_answered {
            assert_eq!(upstream(&cancelled(&mut rig, &invites[0], &cancel, 487)), [487]);
        } else {
            assert_eq!(upstream(&rig.pass(seconds(40)))[..1], [487], "K-3");
        }
        rig.settle();
    }
}

// ---- routing of one copy

#[test]
fn c55_a_strict_next_hop() {
    let mut trusting = config(1, Forking::default());
    trusting.trunks[0].trusted = true;
    let mut rig = Rig::new(trusting.clone());
    let out = rig
        .invite("Route: <sip:192.0.2.1;lr>, <sip:198.51.100.9:5070;method=INVITE?x=y>\nRoute: <sip:far.example;lr>\n");
    assert!(out[0].is_to("198.51.100.9:5070"));
    assert_eq!(out[0].first_line(), "INVITE sip:198.51.100.9:5070 SIP/2.0", "F-6: without what no Request-URI has");
    assert_eq!(out[0].lines("Route"), ["<sip:far.example;lr>", "<sip:+12155551213@192.0.2.1>"]);

    let mut rig = Rig::new(trusting);
    let out = rig.invite("Route: <sip:198.51.100.9:5070>\n");
    assert_eq!(out[0].first_line(), "INVITE sip:198.51.100.9:5070 SIP/2.0");
    assert_eq!(out[0].lines("Route"), ["<sip:+12155551213@192.0.2.1>"]);
}

#[test]
fn rt2_an_maddr_of_ours_is_stripped() {
    let mut rig = Rig::new(config(1, Forking::default()));
    let text = request("INVITE", "", "").replace(
        "INVITE sip:+12155551213@192.0.2.1 ",
        "INVITE sip:+12155551213@example.com:5060;maddr=192.0.2.1;user=phone ",
    );
    let out = rig.receive(CALLER, &text);
    assert_eq!(out[1].first_line(), "INVITE sip:+12155551213@example.com;user=phone SIP/2.0");
}

#[test]
fn an_maddr_in_a_dialog_says_where_to() {
    let mut rig = Rig::new(config(1, Forking::default()));
    let bye = request("BYE", ";tag=b", "Route: <sip:192.0.2.1:5060;lr;vt=0.1>\n")
        .replace("BYE sip:+12155551213@192.0.2.1 ", "BYE sip:b@pbx.example;maddr=198.51.100.77 ");
    let out = rig.receive(CALLER, &bye);
    assert!(out[0].is_to("198.51.100.77:5060"), "{out:#?}");
    assert!(out[0].first_line().contains("maddr=198.51.100.77"), "a foreign maddr stays");
}

// ---- location

/// A BYE of a call through us, to this URI.
fn bye(uri: &str) -> String {
    request("BYE", ";tag=b", "Route: <sip:192.0.2.1:5060;lr;vt=0.1>\n")
        .replace("BYE sip:+12155551213@192.0.2.1 ", &format!("BYE {uri} "))
}

fn locating() -> Rig {
    let mut config = config(1, Forking::default());
    config.locate = true;
    config.trunks[0].trusted = true;
    Rig::new(config)
}

fn hops(addresses: &[&str]) -> Answer {
    let hop = |a: &&str| NextHop { transport: Transport::Udp, remote: addr(a) };
    Answer::Locate(Ok(addresses.iter().map(hop).collect()))
}

#[test]
fn a_name_in_a_route_set_is_located() {
    let mut rig = locating();
    let (out, needs) = rig.receive_all(CALLER, &bye("sip:b@PBX.example;transport=udp"));
    assert!(out.is_empty() && needs.len() == 1);
    let NeedKind::Locate { target } = &needs[0].kind else { panic!("{needs:?}") };
    assert_eq!(target.host, TargetHost::Name("pbx.example".into()));
    let out = rig.provide(needs[0].id, hops(&["198.51.100.7:5062", "198.51.100.8:5062"]));
    assert!(out.len() == 1 && out[0].is_to("198.51.100.7:5062"));
    assert!(rig.provide(needs[0].id, hops(&["198.51.100.9:5060"])).is_empty(), "an answer counts once");
    let second = rig.answer(&out[0], 503, "");
    assert!(second.len() == 1 && second[0].is_to("198.51.100.8:5062"), "RFC 3263 4.3: {second:#?}");
    assert_eq!((second[0].lines("Via").len(), second[0].line("Max-Forwards")), (2, "69"));
    assert_eq!(upstream(&rig.answer(&second[0], 200, "")), [200]);
    rig.settle();
}

#[test]
fn an_ack_waits_for_its_address_too() {
    let mut rig = locating();
    let ack = bye("sip:b@pbx.example").replace("BYE", "ACK");
    let (out, needs) = rig.receive_all(CALLER, &ack);
    assert!(out.is_empty() && needs.len() == 1);
    let out = rig.provide(needs[0].id, hops(&["198.51.100.7:5060", "198.51.100.8:5060"]));
    assert!(
        out.len() == 1
            && out[0].is_to("198.51.100.7:5060")
            && out[0].first_line().starts_with("ACK sip:b@pbx.example ")
    );
    let (_, needs) = rig.receive_all(CALLER, &ack);
    assert!(rig.pass(seconds(3)).is_empty(), "nobody is told");
    assert!(rig.provide(needs[0].id, hops(&["198.51.100.7:5060"])).is_empty(), "too late");
    assert!(rig.proxy.poll_timeout().is_none());
}

#[test]
fn a_wait_for_an_address_ends_once() {
    let route = "Route: <sip:far.example;lr>\n";
    // By its failure.
    for failure in [LocateFailure::NoSuchName, LocateFailure::NoAnswer, LocateFailure::Unsupported, LocateFailure::Busy]
    {
        let mut rig = locating();
        let (_, needs) = rig.receive_all(CALLER, &request("INVITE", "", route));
        let out = rig.provide(needs[0].id, Answer::Locate(Err(failure)));
        assert_eq!(out[0].first_line(), "SIP/2.0 500 Next Hop Unresolvable");
        rig.settle();
    }
    // By its deadline.
    let mut rig = locating();
    let (_, needs) = rig.receive_all(CALLER, &request("INVITE", "", route));
    assert_eq!(upstream(&rig.pass(Duration::from_millis(2_100)))[..1], [500]);
    assert!(rig.provide(needs[0].id, hops(&["198.51.100.7:5060"])).is_empty());
    rig.settle();
    // By a CANCEL: K-5, no branch lives.
    let mut rig = locating();
    let (_, needs) = rig.receive_all(CALLER, &request("INVITE", "", route));
    let (out, _) = rig.receive_all(CALLER, &request("CANCEL", "", ""));
    assert_eq!(upstream(&out), [200, 487]);
    assert!(rig.provide(needs[0].id, hops(&["198.51.100.7:5060"])).is_empty());
    rig.settle();
    // By nothing at all being usable.
    let mut rig = locating();
    let (_, needs) = rig.receive_all(CALLER, &request("INVITE", "", route));
    assert_eq!(upstream(&rig.provide(needs[0].id, hops(&[]))), [500]);
    rig.settle();
}

#[test]
fn addresses_of_a_name_are_tried_in_order_and_a_phone_that_rang_ends_it() {
    let mut rig = locating();
    let (_, needs) = rig.receive_all(CALLER, &request("INVITE", "", "Route: <sip:far.example;lr>\n"));
    let first = rig.provide(needs[0].id, hops(&[GATEWAYS[0], GATEWAYS[1], GATEWAYS[2]]))[0].clone();
    let second = invite_to(&rig.fail(first.tag), GATEWAYS[1]);
    rig.answer(&second, 180, "");
    let out = rig.answer(&second, 503, "");
    assert!(requests(&out, "INVITE").is_empty());
    assert_eq!(upstream(&out), [500]);
    rig.settle();
}

#[test]
fn without_location_a_name_leads_to_the_other_side_of_the_call() {
    let mut rig = Rig::new(config(1, Forking::default()));
    assert!(rig.receive(CALLER, &bye("sip:b@pbx.example"))[0].is_to(GATEWAYS[0]));
}

// ---- snapshot

#[test]
fn a_transaction_keeps_the_snapshot_it_began_with() {
    let mut rig = Rig::new(config(2, Forking::default()));
    let first = rig.invite("")[0].clone();
    let mut other = config(2, Forking::default());
    other.trunks[1].next_hops = vec![NextHop { transport: Transport::Udp, remote: addr(GATEWAYS[2]) }.into()];
    rig.proxy.set_snapshot(Arc::new(snapshot(other)));
    let out = rig.answer(&first, 503, "");
    assert!(requests(&out, "INVITE")[0].is_to(GATEWAYS[1]), "the old plan is finished");
    let new = request("INVITE", "", "").replace("c1@", "c2@").replace("z9hG4bK1", "z9hG4bK2");
    let out = rig.receive(CALLER, &new);
    assert!(out[1].is_to(GATEWAYS[2]), "a new request goes by the new one");
}

// ---- whole calls on a bad network

/// The proxy as a node of the simulated network.
struct ProxyNode {
    proxy: Proxy,
    index: Index,
    output: Output,
}

impl ProxyNode {
    fn give(&mut self, out: &mut Outbox) {
        for item in self.output.outbox.items() {
            out.push(item.hop, item.tag, self.output.outbox.bytes_of(item));
        }
        self.output.outbox.clear();
    }

    fn at(instant: Instant) -> Now {
        Now { instant, unix: 1_795_219_200 }
    }
}

impl SimNode for ProxyNode {
    fn receive(&mut self, now: Instant, source: Hop, bytes: &[u8], out: &mut Outbox) {
        let Ok(message) = sip::parse(bytes, &mut self.index, Framing::Datagram, &Limits::default()) else { return };
        self.proxy.handle_message(Self::at(now), source, message, &mut self.output);
        self.give(out);
    }

    fn transport_failed(&mut self, now: Instant, tag: u64, out: &mut Outbox) {
        self.proxy.handle_transport_failure(Self::at(now), tag, &mut self.output);
        self.give(out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.proxy.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.proxy.handle_timeout(Self::at(now), &mut self.output);
        self.give(out);
    }
}

/// Calls through a forking proxy to gateways of every temper. Whatever happens: every call ends once, nothing is left anywhere, no
/// gateway sees a call twice, and whoever answered a call that the caller got is acknowledged.
fn storm(seed: u64, forking: Forking, loss: u32) -> Vec<Ending> {
    let link = Link {
        jitter: Duration::from_millis(20),
        loss,
        duplication: loss / 2,
        reordering: loss / 2,
        ..Link::default()
    };
    let mut network = Network::new(seed, link);
    let mut rng = Rng::new(seed ^ 0x5eed);
    let epoch = network.now();
    let us = addr("192.0.2.1:5060");
    let proxy = Proxy::new(Arc::new(snapshot(config(3, forking))), [seed as u8; 32], ProxyNode::at(epoch));
    let proxy = shared(ProxyNode { proxy, index: Index::new(), output: Output::default() });
    let uac = shared(Uac::new(addr(CALLER), us, Transport::Udp, epoch));
    network.add(&[addr(CALLER)], &uac);
    network.add(&[us], &proxy);
    let gateways: Vec<_> = GATEWAYS.iter().map(|g| shared(Uas::new(addr(g), UasAnswer::default(), epoch))).collect();
    for (gateway, address) in gateways.iter().zip(GATEWAYS) {
        network.add(&[addr(address)], gateway);
    }
    for n in 0..8 {
        for (gateway, address) in gateways.iter().zip(GATEWAYS) {
            let status = [200, 200, 404, 486, 503, 603][rng.below(6) as usize];
            let after = Duration::from_millis(300 * rng.below(30));
            let rings = rng.chance(500).then_some((Duration::from_millis(200), 180)).into_iter().collect();
            gateway.borrow_mut().answers.push_back(UasAnswer { provisional: rings, after, ..UasAnswer::with(status) });
            // Now and then a gateway is deaf, or so slow that it is given up and answers late.
            let delay = Duration::from_millis(if rng.chance(150) { 4_000 } else { 10 });
            let loss = if rng.chance(150) { 1000 } else { loss };
            network.link(us, addr(address), Link { delay, loss, ..Link::default() });
        }
        let cancel_after = (n % 4 == 3).then(|| Duration::from_millis(rng.below(6_000)));
        network.act(addr(CALLER), |now, out| {
            uac.borrow_mut().call(now, CallPlan { cancel_after, ..CallPlan::default() }, out)
        });
        network.run_for(seconds(15));
        for address in GATEWAYS {
            network.link(us, addr(address), link);
        }
        network.run_for(seconds(60));
    }
    assert!(network.run_until_idle(seconds(1_800)), "something runs for ever");
    assert_eq!(proxy.borrow().proxy.live(), 0, "a context leaked");
    assert_eq!(uac.borrow().layer().live(), (0, 0));
    let uac = uac.borrow();
    for gateway in &gateways {
        let gateway = gateway.borrow();
        assert_eq!(gateway.layer().live(), (0, 0));
        let ids: Vec<_> = gateway.taken().iter().map(|t| t.call_id()).collect();
        let distinct: BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "a call came twice");
        for taken in gateway.taken() {
            let call = uac.calls().iter().find(|c| c.call_id() == taken.call_id()).unwrap();
            let is_open = matches!(taken.state, TakenState::Ringing | TakenState::Answered);
            assert!(!is_open, "a gateway was left alone: {:?}", taken.state);
            if loss == 0 && taken.state == TakenState::Unacknowledged {
                assert!(!matches!(call.ending, Some(Ending::HungUp(_))), "an answer was kept from its caller");
            }
        }
    }
    uac.calls().iter().map(|call| call.ending.expect("every call ends")).collect()
}

#[test]
fn storms_of_forked_calls_leave_nothing_behind() {
    let seeds = if std::env::var_os("VESPERD_LONG").is_some() { 400 } else { 25 };
    let mut good = 0;
    for loss in [0, 100] {
        for seed in 0..seeds {
            let patient = Forking { fr: Some(seconds(3)), fr_inv: Some(seconds(6)), ..Forking::default() };
            for forking in [parallel(), patient.clone(), Forking { parallel: true, ..patient }] {
                let endings = storm(seed, forking, loss);
                good += endings.iter().filter(|e| **e == Ending::HungUp(200)).count();
                let is_clean = |e: &Ending| matches!(e, Ending::HungUp(200) | Ending::Rejected(_));
                assert!(loss > 0 || endings.iter().all(is_clean), "seed {seed}: {endings:?}");
            }
        }
    }
    assert!(good > seeds as usize * 10, "the storm was too bad to prove anything: {good}");
}
