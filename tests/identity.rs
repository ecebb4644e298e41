//! Identity in the proxy core: INVITEs signed on their way out, verified on their way in, and parked while a certificate is fetched.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::lab::{World, signer, signer_config};
use support::rig::{CALLER, NOW, Rig, Sent, listener, trunk};
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::proxy::route::table::{Action, Condition, Verdict};
use vesperd::proxy::{Answer, Config, Event, Need, NeedKind, Output, Route, Trunk, TrunkId, UdpOversize};
use vesperd::sip::hop::Transport;
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::authentication::{SignError, Signer};
use vesperd::stir::verification::FetchFailure;
use vesperd::stir::{IdentitySource, OnFailure, Policy, Profile};

const CALLEE: &str = "198.51.100.20:5060";
const SPARE: &str = "198.51.100.21:5060";

/// Edges of a world.
trait Edges {
    fn proxy(&self, change: impl FnOnce(&mut Config)) -> Rig;
    /// One that holds calls from its first trunk to the SHAKEN rules.
    fn verifying(&self, change: impl FnOnce(&mut Policy)) -> Rig;
}

impl Edges for World {
    fn proxy(&self, change: impl FnOnce(&mut Config)) -> Rig {
        let mut config = Config {
            listeners: vec![listener(Transport::Udp, 5060)],
            trunks: vec![trunk("caller", &[CALLER]), trunk("callee", &[CALLEE])],
            routes: vec![Route::between(TrunkId(0), TrunkId(1))],
            ..Config::default()
        };
        config.trunks.iter_mut().for_each(|trunk| trunk.udp_oversize = UdpOversize::Udp);
        change(&mut config);
        Rig::trusting(config, self.trust())
    }

    fn verifying(&self, change: impl FnOnce(&mut Policy)) -> Rig {
        let mut policy = Policy { require_identity: true, ..Policy::shaken() };
        change(&mut policy);
        self.proxy(|config| config.trunks[0].verify = Some(policy))
    }
}

/// What a call waits for, which has got nothing but 100 so far.
fn parked(edge: &mut Rig, text: &str) -> Need {
    let (sent, mut needs) = edge.receive_all(Transport::Udp, 0, CALLER, text);
    assert_eq!((first_lines(&sent), needs.len()), (vec![TRYING], 1));
    needs.remove(0)
}

fn invite(call: &str, lines: &str) -> String {
    format!(
        "INVITE sip:+12155551213@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{call};rport\r\nMax-Forwards: 70\r\n{lines}\
         From: <sip:+12015550100@192.0.2.10>;tag=a1\r\nTo: <sip:+12155551213@192.0.2.1>\r\nCall-ID: {call}\r\nCSeq: 1 INVITE\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// An INVITE with the token that `signer` makes for it.
fn signed(signer: &Signer, call: &str) -> String {
    let plain = invite(call, "");
    let mut index = Index::new();
    let message = sip::parse(plain.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
    let mut lines = Vec::new();
    let last = call.bytes().last().unwrap();
    signer.sign(NOW, message, [last; 16], &mut lines).unwrap();
    invite(call, std::str::from_utf8(&lines).unwrap())
}

fn first_lines(sent: &[Sent]) -> Vec<&str> {
    sent.iter().map(Sent::first_line).collect()
}

const TRYING: &str = "SIP/2.0 100 Trying";
const FORWARDED: &str = "INVITE sip:+12155551213@192.0.2.1 SIP/2.0";

#[test]
fn an_invite_is_signed_for_a_trunk_that_wants_it_and_verified_at_the_other_end() {
    let world = World::new();
    let acme = &world.lab.acme.sti;
    let signer = signer(acme, Profile::Vesper, None);
    let mut edge = world.proxy(|config| {
        config.signers.push(signer);
        config.trunks[1].sign = Some(0);
    });
    let sent = edge.receive(CALLER, &invite("c1", ""));
    assert_eq!(first_lines(&sent), [TRYING, FORWARDED]);
    let forwarded = &sent[1].text;
    let lines = |name: &str| forwarded.split("\r\n").filter(|l| l.starts_with(name)).count();
    assert_eq!((lines("Identity: "), lines("Date: ")), (1, 1), "{forwarded}");
    assert_eq!(edge.proxy.stats().signed, 1);

    // At the far end: every check of VESPER, no network, no wait.
    let mut far = world.proxy(|config| {
        config.trunks[0].verify = Some(Policy::vesper());
        config.observe = true;
    });
    let (sent, needs) = far.receive_all(Transport::Udp, 0, CALLER, forwarded);
    assert_eq!((first_lines(&sent), needs.len()), (vec![TRYING, FORWARDED], 0));
    let Some(Event::Verified { verdict, .. }) = far.events.first() else { panic!("{:?}", far.events) };
    assert!(verdict.is_valid());
    let identity = |text: &str| text.split("\r\n").find(|l| l.starts_with("Identity: ")).unwrap().to_owned();
    assert_eq!(identity(forwarded), identity(&sent[1].text), "the field passes untouched (E-10)");
}

#[test]
fn e4_only_a_trusted_trunk_says_who_calls() {
    let world = World::new();
    for is_trusted in [true, false] {
        let mut config = signer_config(&world.lab.provider, Profile::Shaken, Some(Attestation::Full));
        config.identity_source = IdentitySource::AssertedThenFrom;
        let signer = Arc::new(Signer::new(config).unwrap());
        let mut edge = world.proxy(|config| {
            config.signers.push(signer);
            config.trunks[0].trusted = is_trusted;
            config.trunks[1].sign = Some(0);
        });
        let sent = edge.receive(CALLER, &invite("c1", "P-Asserted-Identity: <sip:+12015550199@a>\r\nPrivacy: id\r\n"));
        let text = &sent[1].text;
        assert!(!text.contains("P-Asserted-Identity"), "removed after it was read: {text}");
        let token = text.split("Identity: ").nth(1).unwrap().split('.').nth(1).unwrap();
        let claims = base64_url(token);
        let caller = if is_trusted { "12015550199" } else { "12015550100" };
        assert!(claims.contains(&format!("\"orig\":{{\"tn\":\"{caller}\"}}")), "{claims}");
    }
}

fn base64_url(text: &str) -> String {
    use base64::Engine;
    String::from_utf8(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

#[test]
fn routes_go_by_verdict_and_attestation() {
    let world = World::new();
    let signer = world.provider();
    let refuse = |status, condition| Route {
        when: vec![condition],
        action: Action::Reject { status, reason: "By Verdict".into() },
        ..Route::default()
    };
    let mut edge = world.proxy(|config| {
        let policy = Policy { require_identity: false, on_failure: OnFailure::Continue, ..Policy::shaken() };
        config.trunks[0].verify = Some(policy);
        config.routes = vec![
            refuse(600, Condition::Verdict(Verdict::None)),
            refuse(601, Condition::Verdict(Verdict::Failed)),
            refuse(602, Condition::Attest(vec![Attestation::Partial, Attestation::Gateway])),
            Route { when: vec![Condition::Attest(vec![Attestation::Full])], ..Route::to(TrunkId(1)) },
        ];
    });
    assert_eq!(first_lines(&edge.receive(CALLER, &invite("c1", ""))), [TRYING, "SIP/2.0 600 By Verdict"]);
    let need = parked(&mut edge, &signed(&signer, "c2"));
    assert_eq!(first_lines(&edge.provide(need.id, world.fetched())), [FORWARDED]);
    let forged = signed(&signer, "c3").replace("From: <sip:+12015550100", "From: <sip:+12015550101");
    assert_eq!(first_lines(&edge.receive(CALLER, &forged)), [TRYING, "SIP/2.0 601 By Verdict"]);
}

#[test]
fn i3_a_call_that_can_not_be_signed_goes_out_unsigned() {
    let world = World::new();
    let signer = world.provider();
    let mut edge = world.proxy(|config| {
        config.signers.push(signer);
        config.trunks[1].sign = Some(0);
    });
    let sent = edge.receive(CALLER, &invite("c1", "Date: Sat, 01 Jan 2000 00:00:00 GMT\r\n"));
    assert_eq!(first_lines(&sent), [TRYING, FORWARDED]);
    assert!(!sent[1].text.contains("Identity: "));
    let unsigned = matches!(edge.events[..], [Event::Unsigned { error: SignError::StaleDate { .. }, .. }]);
    assert!(unsigned, "{:?}", edge.events);
    // One that carries an identity keeps it, and gets no second one.
    let other = signed(&world.provider(), "c2");
    let sent = edge.receive(CALLER, &other);
    assert_eq!(sent[1].text.matches("Identity: ").count(), 1);
}

#[test]
fn a_call_waits_for_its_certificate_and_the_next_one_does_not() {
    let world = World::new();
    let signer = world.provider();
    let mut edge = world.verifying(|_| {});
    let need = parked(&mut edge, &signed(&signer, "c1"));
    let NeedKind::Certificate { x5u } = &need.kind else { panic!("{need:?}") };
    assert_eq!(**x5u, *world.lab.provider.x5u);
    // The caller's retransmission is answered and asks for nothing more.
    let (sent, needs) = edge.receive_all(Transport::Udp, 0, CALLER, &signed(&signer, "c1"));
    assert_eq!((first_lines(&sent), needs.len()), (vec![TRYING], 0));
    assert_eq!(first_lines(&edge.provide(need.id, world.fetched())), [FORWARDED]);
    assert!(edge.provide(need.id, world.fetched()).is_empty(), "a need ends once");
    let second = signed(&signer, "c2");
    assert_eq!(first_lines(&edge.receive(CALLER, &second)), [TRYING, FORWARDED], "known by now");
    let replayed = second.replace("Call-ID: c2", "Call-ID: c3").replace("z9hG4bKc2", "z9hG4bKc3");
    assert_eq!(first_lines(&edge.receive(CALLER, &replayed)), [TRYING, "SIP/2.0 438 Invalid Identity Header"]);
    assert_eq!((edge.proxy.stats().parked, edge.proxy.stats().verified), (1, 2));
}

#[test]
fn c65_a_certificate_out_of_reach_is_436_or_a_reason() {
    let world = World::new();
    let signer = world.provider();
    let mut edge = world.verifying(|_| {});
    let need = parked(&mut edge, &signed(&signer, "c1"));
    assert_eq!(
        first_lines(&edge.provide(need.id, Answer::Certificate(Err(FetchFailure::Status(404))))),
        ["SIP/2.0 436 Bad Identity Info"]
    );

    let mut edge = world.verifying(|policy| policy.on_failure = OnFailure::ContinueWithReason);
    let need = parked(&mut edge, &signed(&signer, "c1"));
    let sent = edge.provide(need.id, Answer::Certificate(Err(FetchFailure::Connect)));
    assert_eq!(first_lines(&sent), [FORWARDED], "E-2: no 4xx when the call continues");
    let response = |status: &str| {
        let copied = ["Via: ", "From: ", "Call-ID: ", "CSeq: ", "Record-Route: "];
        let lines: Vec<_> =
            sent[0].text.split("\r\n").filter(|l| copied.iter().any(|name| l.starts_with(name))).collect();
        let to = "To: <sip:+12155551213@192.0.2.1>;tag=b1";
        format!("SIP/2.0 {status}\r\n{}\r\n{to}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n"))
    };
    let ringing = edge.receive(CALLEE, &response("180 Ringing"));
    assert_eq!(ringing[0].text.matches("Reason: STIR").count(), 1, "E-3\n{}", ringing[0].text);
    assert!(ringing[0].text.contains("cause=436"));
    let ok = edge.receive(CALLEE, &response("200 OK"));
    assert!(ok[0].text.contains("cause=436"), "a 180 may get lost: again in the final response");
}

#[test]
fn a_wait_ends_by_its_deadline() {
    let world = World::new();
    let signer = world.provider();
    let mut edge = world.verifying(|_| {});
    let need = parked(&mut edge, &signed(&signer, "c1"));
    assert_eq!(need.deadline, edge.now.instant + Duration::from_millis(500), "the budget of a call");
    let sent = edge.pass(Duration::from_millis(550));
    assert_eq!(first_lines(&sent), ["SIP/2.0 436 Bad Identity Info"]);
    assert!(edge.provide(need.id, world.fetched()).is_empty(), "late answers are dropped");
    edge.pass(Duration::from_secs(60));
    assert_eq!(edge.proxy.live(), 0);
}

#[test]
fn k5_a_parked_call_can_be_cancelled_at_once() {
    let world = World::new();
    let signer = world.provider();
    let mut edge = world.verifying(|_| {});
    let need = parked(&mut edge, &signed(&signer, "c1"));
    let cancel = invite("c1", "").replace("INVITE", "CANCEL");
    let sent = edge.receive(CALLER, &cancel);
    assert_eq!(first_lines(&sent), ["SIP/2.0 200 OK", "SIP/2.0 487 Request Terminated"]);
    assert!(edge.provide(need.id, world.fetched()).is_empty());
    edge.pass(Duration::from_secs(60));
    assert_eq!(edge.proxy.live(), 0);
}

#[test]
fn only_so_many_calls_wait() {
    let world = World::new();
    let signer = world.provider();
    let policy = Policy { require_identity: true, ..Policy::shaken() };
    let mut edge = world.proxy(|config| {
        config.trunks[0].verify = Some(policy);
        config.max_parked = 1;
    });
    parked(&mut edge, &signed(&signer, "c1"));
    let (sent, needs) = edge.receive_all(Transport::Udp, 0, CALLER, &signed(&signer, "c2"));
    assert_eq!((first_lines(&sent), needs.len()), (vec![TRYING, "SIP/2.0 436 Bad Identity Info"], 0));
    assert_eq!((edge.proxy.stats().parked, edge.proxy.stats().parking_full), (1, 1));
}

/// A door that was busy says nothing of the certificate, whoever asked for it.
#[test]
fn a_busy_answer_to_a_question_from_beside_does_not_fail_the_calls_after_it() {
    use vesperd::proxy::service::{Kind, Question};
    let world = World::new();
    let signer = world.provider();
    for (failure, is_remembered) in [(FetchFailure::Busy, false), (FetchFailure::Status(404), true)] {
        let mut rig = world.verifying(|_| {});
        let invite = signed(&signer, "1").into_bytes();
        let question =
            Question { id: 1, trunk: TrunkId(0), label: "x".into(), kind: Kind::Verify { invite, knows_call: false } };
        let mut out = Output::default();
        rig.proxy.ask(rig.now, question, &mut out);
        rig.proxy.handle_answer(rig.now, out.needs[0].id, Answer::Certificate(Err(failure)), &mut out);
        assert_eq!(out.replies.len(), 1);
        let (_, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &signed(&signer, "2"));
        assert_eq!(needs.is_empty(), is_remembered, "{failure:?}");
    }
}

#[test]
fn c64_c67_missing_and_malformed_identity() {
    let world = World::new();
    let refused = |lines: &str| {
        let sent = world.verifying(|_| {}).receive(CALLER, &invite("c1", lines));
        first_lines(&sent).last().copied().unwrap_or_default().to_owned()
    };
    assert_eq!(refused(""), "SIP/2.0 428 Use Identity Header");
    assert_eq!(refused("Identity: nonsense;info=<https://a.example/>\r\n"), "SIP/2.0 438 Invalid Identity Header");
    assert_eq!(refused("y: a.b.c;alg=ES256\r\n"), "SIP/2.0 436 Bad Identity Info", "no info; compact name");
    let mut lenient = world.verifying(|policy| {
        policy.on_failure = OnFailure::Continue;
        policy.require_identity = false;
    });
    let sent = lenient.receive(CALLER, &invite("c1", "Identity: nonsense\r\n"));
    assert_eq!(first_lines(&sent), [TRYING, FORWARDED]);
    assert!(sent[1].text.contains("Identity: nonsense\r\n"), "passed on as it came");
}

#[test]
fn h6_a_second_date_is_refused_where_it_matters() {
    let world = World::new();
    let dates = "Date: Sat, 01 Jan 2000 00:00:00 GMT\r\nDate: Sun, 02 Jan 2000 00:00:00 GMT\r\n";
    let refused = [TRYING, "SIP/2.0 400 Multiple Date"];
    assert_eq!(first_lines(&world.verifying(|_| {}).receive(CALLER, &invite("c1", dates))), refused);
    let signer = world.provider();
    let mut edge = world.proxy(|config| {
        config.signers.push(signer);
        config.trunks[1].sign = Some(0);
    });
    assert_eq!(first_lines(&edge.receive(CALLER, &invite("c1", dates))), refused);
    assert_eq!(first_lines(&world.proxy(|_| {}).receive(CALLER, &invite("c1", dates))), [TRYING, FORWARDED]);
}

/// What the record of a call says of its signature is true of the copy that was answered.
#[test]
fn the_record_names_the_signer_of_the_copy_that_was_answered() {
    let world = World::new();
    for (signs, is_named) in [([true, false], false), ([false, true], true), ([true, true], true)] {
        let signer = world.provider();
        let mut edge = world.proxy(|config| {
            config.signers.push(signer);
            config.signer_names.push("carrier".into());
            config.trunks.push(Trunk { udp_oversize: UdpOversize::Udp, ..trunk("spare", &[SPARE]) });
            for (trunk, signs) in config.trunks[1..].iter_mut().zip(signs) {
                trunk.sign = signs.then_some(0);
            }
            config.routes[0].action = Action::To(vec![TrunkId(1), TrunkId(2)]);
            config.records = true;
        });
        let invite = invite("c1", "");
        let first = edge.receive(CALLER, &invite).remove(1).text;
        let sent = edge.receive(CALLEE, &response(&first, "503 Service Unavailable"));
        let second = sent.iter().find(|s| s.is_to(SPARE)).unwrap().text.clone();
        assert_eq!([&first, &second].map(|copy| copy.contains("\r\nIdentity: ")), signs);
        edge.receive(SPARE, &response(&second, "200 OK"));
        let mut out = Output::default();
        edge.proxy.close_calls(edge.now, &mut out);
        let [record] = &out.records[..] else { panic!("{:?}", out.records) };
        let named = record.call.signed().map(|signed| &*signed.signer);
        assert_eq!(named, is_named.then_some("carrier"), "{signs:?}");
    }
}

/// What a next hop answers to this copy.
fn response(copy: &str, status: &str) -> String {
    let is_copied = |line: &&str| ["Via: ", "From: ", "Call-ID: ", "CSeq: "].iter().any(|name| line.starts_with(name));
    let lines: String = copy.split("\r\n").filter(is_copied).map(|line| format!("{line}\r\n")).collect();
    let to = copy.split("\r\n").find(|line| line.starts_with("To: ")).unwrap();
    format!("SIP/2.0 {status}\r\n{lines}{to};tag=b1\r\nContent-Length: 0\r\n\r\n")
}
