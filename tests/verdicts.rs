//! What the proxy makes of verdicts: who is told what, who is refused, and how often it is said.

#[allow(dead_code)]
#[path = "certificate/support.rs"]
mod pki;
#[allow(dead_code)]
#[path = "stir/support.rs"]
mod stir;
mod support;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pki::NOW;
use serde_json::{Value, json};
use stir::{CALLEE, CALLER, Credential, identity, identity_ppt};
use support::rig::{Rig, Sent, answer, listener, requests, routes, trunk, upstream};
use vesperd::cert::{ReferencedList, TnAuthList};
use vesperd::proxy::admission::limits::TrunkLimits;
use vesperd::proxy::admission::shed::SheddingConfig;
use vesperd::proxy::{Answer, Config, Disclosure, Snapshot};
use vesperd::sip::hop::Transport;
use vesperd::stir::replay::{ReplayConfig, ReplayTable};
use vesperd::stir::verification::FetchedChain;
use vesperd::stir::{Callers, Check, IdentitySource, Methods, Mode, OnFailure, Policy};

const INSIDE: &str = "198.51.100.20:5060";
const OUTSIDE: &str = "192.0.2.10:5060";
const ORIGID: &str = "123e4567-e89b-12d3-a456-426655440000";

/// Calls from outside, verified by this policy, go inside.
fn config(policy: Policy) -> Config {
    let mut config = Config {
        listeners: vec![listener(Transport::Udp, 5060)],
        trunks: vec![trunk("outside", &[OUTSIDE]), trunk("inside", &[INSIDE])],
        routes: routes(&[(Some(0), 1), (Some(1), 0)]),
        udp_mtu: 65_535,
        ..Config::default()
    };
    config.trunks[0].verify = Some(policy);
    config.trunks[1].trusted = true;
    config
}

fn rig(credential: &Credential, config: Config) -> Rig {
    let mut rig = Rig::of(Snapshot { config, trust: credential.trust.clone(), replay: ReplayTable::default() });
    rig.now.unix = NOW;
    rig
}

/// A lenient policy: what is found is told inside, nobody is refused.
fn patient() -> Policy {
    Policy { on_failure: OnFailure::Continue, ..Policy::shaken() }
}

fn shaken_claims() -> Value {
    json!({"attest": "A", "dest": {"tn": [CALLEE]}, "iat": NOW, "orig": {"tn": CALLER}, "origid": ORIGID})
}

fn header(credential: &Credential, ppt: Option<&str>) -> Value {
    let mut header = credential.header();
    if let Some(ppt) = ppt {
        header["ppt"] = ppt.into();
    }
    header
}

/// An Identity line with these claims.
fn line(credential: &Credential, ppt: Option<&str>, claims: &Value) -> String {
    let token = credential.token(&header(credential, ppt), claims);
    ppt.map_or_else(|| identity(&token), |ppt| identity_ppt(&token, ppt)) + "\n"
}

fn shaken(credential: &Credential) -> String {
    line(credential, Some("shaken"), &shaken_claims())
}

/// The last character of the payload is another.
fn broken(line: &str) -> String {
    let signature = line.split(';').next().unwrap().rfind('.').unwrap() + 1;
    let other = if line[signature..].starts_with('A') { "B" } else { "A" };
    format!("{}{other}{}", &line[..signature], &line[signature + 1..])
}

fn request(method: &str, call: &str, from: &str, lines: &str) -> String {
    format!(
        "{method} sip:+{CALLEE}@192.0.2.1;user=phone SIP/2.0\nVia: SIP/2.0/UDP {OUTSIDE};branch=z9hG4bK{call};rport\nMax-Forwards: 70\n\
         From: {from};tag=a1\nTo: <sip:+{CALLEE}@192.0.2.1;user=phone>\nCall-ID: {call}\nCSeq: 1 {method}\n{lines}Content-Length: 0\n\n"
    )
}

fn usual_from() -> String {
    format!("<sip:+{CALLER}@a.example;user=phone>")
}

fn invite(call: &str, lines: &str) -> String {
    request("INVITE", call, &usual_from(), lines)
}

/// The copy that went inside.
fn copy(sent: &[Sent]) -> Sent {
    sent.iter().find(|sent| sent.is_to(INSIDE)).unwrap_or_else(|| panic!("nothing went inside: {sent:?}")).clone()
}

fn status(sent: &[Sent]) -> u16 {
    *upstream(sent).last().unwrap()
}

#[test]
fn verstat_is_set_on_the_best_number_that_it_is_true_of() {
    let credential = Credential::shaken();
    let mut config = config(Policy { identity_source: IdentitySource::AssertedThenFrom, ..patient() });
    config.trunks[0].trusted = true;
    config.trunks[1].headers.verstat = true;
    config.trunks[1].discloses.verstat_attestation = true;
    let good = shaken(&credential);
    let tel = format!("<tel:+{CALLER}>");
    let sip = format!("<sip:+{CALLER};npdi@a.example;user=phone>");
    let other = "<tel:+12015550999>";
    let passed = "verstat=TN-Validation-Passed-A";
    let asserted = |values: &str| format!("P-Asserted-Identity: {values}\n");
    let marked = [
        // Identity, what is asserted, From; then both as they go inside.
        (&good, String::new(), usual_from(), None, format!("<sip:+{CALLER};{passed}@a.example;user=phone>;tag=a1")),
        (
            &good,
            asserted(&format!("{sip}, {tel}")),
            usual_from(),
            Some(format!("{sip}, <tel:+{CALLER};{passed}>")),
            usual_from() + ";tag=a1",
        ),
        (
            &good,
            asserted(&sip),
            usual_from(),
            Some(format!("<sip:+{CALLER};npdi;{passed}@a.example;user=phone>")),
            usual_from() + ";tag=a1",
        ),
        // The token speaks for From only, so nothing is said of the other number.
        (
            &good,
            asserted(other),
            usual_from(),
            Some(other.into()),
            format!("<sip:+{CALLER};{passed}@a.example;user=phone>;tag=a1"),
        ),
        // An older mark goes; a URI without brackets gets some.
        (
            &good,
            asserted(&format!("\"A\" <tel:+{CALLER};verstat=No-TN-Validation>")),
            usual_from(),
            Some(format!("\"A\" <tel:+{CALLER};{passed}>")),
            usual_from() + ";tag=a1",
        ),
        (&good, String::new(), format!("tel:+{CALLER}"), None, format!("<tel:+{CALLER};{passed}>;tag=a1")),
        // Failed and nothing to verify.
        (
            &broken(&good),
            asserted(&tel),
            usual_from(),
            Some(format!("<tel:+{CALLER};verstat=TN-Validation-Failed>")),
            usual_from() + ";tag=a1",
        ),
        (
            &String::new(),
            String::new(),
            usual_from(),
            None,
            format!("<sip:+{CALLER};verstat=No-TN-Validation@a.example;user=phone>;tag=a1"),
        ),
        // What is no number has no verstat.
        (&String::new(), String::new(), "<sip:alice@a.example>".into(), None, "<sip:alice@a.example>;tag=a1".into()),
    ];
    for (place, (token, asserted, from, identity, caller)) in marked.into_iter().enumerate() {
        let mut rig = rig(&credential, config.clone());
        let sent = rig.receive(OUTSIDE, &request("INVITE", &format!("c{place}"), &from, &format!("{asserted}{token}")));
        let copy = copy(&sent);
        assert_eq!(copy.lines("P-Asserted-Identity"), Vec::from_iter(identity.as_deref()), "{place}");
        assert_eq!(copy.line("From"), caller, "{place}");
    }
}

#[test]
fn an_identity_that_privacy_keeps_back_is_not_marked_but_from_is() {
    let credential = Credential::shaken();
    let mut config = config(Policy { identity_source: IdentitySource::AssertedThenFrom, ..patient() });
    config.trunks[0].trusted = true;
    config.trunks[1].trusted = false;
    config.trunks[1].headers.verstat = true;
    let lines = format!("P-Asserted-Identity: <tel:+{CALLER}>\nPrivacy: id\n{}", shaken(&credential));
    let copy = copy(&rig(&credential, config).receive(OUTSIDE, &invite("c1", &lines)));
    assert!(copy.lines("P-Asserted-Identity").is_empty());
    assert_eq!(copy.line("From"), format!("<sip:+{CALLER};verstat=TN-Validation-Passed@a.example;user=phone>;tag=a1"));
}

#[test]
fn verstat_of_strangers_goes_everywhere_and_ours_stays_inside() {
    let credential = Credential::shaken();
    for (is_trusted, wants, passes) in
        [(false, true, false), (false, false, false), (true, false, false), (true, true, true)]
    {
        let mut config = config(patient());
        config.trunks[0].verify = None;
        config.trunks[0].trusted = is_trusted;
        config.trunks[1].headers.verstat = wants;
        let mut rig = rig(&credential, config);
        let from = format!("<sip:+{CALLER};verstat=TN-Validation-Passed@a.example;verstat=x;user=phone>;verstat=y");
        let lines = format!("P-Asserted-Identity: <tel:+{CALLER};verstat=TN-Validation-Passed>\n");
        let copy = copy(&rig.receive(OUTSIDE, &request("INVITE", "c1", &from, &lines)));
        assert_eq!(copy.text.contains("verstat"), passes, "{is_trusted} {wants}\n{}", copy.text);
        if passes {
            continue;
        }
        // Nor does it come back in what mirrors From: the response, and To of requests from the other side.
        let back =
            answer(&copy, 180, "").replace(&format!("+{CALLER}@"), &format!("+{CALLER};verstat=TN-Validation-Passed@"));
        assert!(back.contains("verstat"));
        let sent = rig.receive(INSIDE, &back);
        let ringing = sent.iter().find(|sent| sent.status() == Some(180)).unwrap();
        assert!(!ringing.text.contains("verstat"), "{}", ringing.text);
        rig.receive(INSIDE, &answer(&copy, 200, ""));
        let bye = format!(
            "BYE sip:+{CALLER}@{OUTSIDE} SIP/2.0\nVia: SIP/2.0/UDP {INSIDE};branch=z9hG4bKbye;rport\nMax-Forwards: 70\nRoute: {}\n\
             From: <sip:+{CALLEE}@192.0.2.1;user=phone>;tag=b1\nTo: <sip:+{CALLER};verstat=TN-Validation-Passed@a.example;user=phone>;tag=a1\n\
             Call-ID: c1\nCSeq: 2 BYE\nContent-Length: 0\n\n",
            copy.line("Record-Route")
        );
        let sent = rig.receive(INSIDE, &bye);
        assert_eq!(requests(&sent, "BYE")[0].line("To"), format!("<sip:+{CALLER}@a.example;user=phone>;tag=a1"));
    }
}

#[test]
fn the_verdict_goes_inside_in_headers_that_nobody_outside_may_write() {
    let credential = Credential::shaken();
    let mut config = config(patient());
    config.trunks[1].discloses = Disclosure {
        verdict: Some("X-Identity-Verdict".into()),
        attestation: Some("P-Attestation-Indicator".into()),
        origination: Some("P-Origination-ID".into()),
        ..Disclosure::default()
    };
    let mut rig = rig(&credential, config);
    let forged = "x-identity-verdict: valid\nP-ATTESTATION-INDICATOR: A\nP-Origination-ID: x\nAttestation-Info: A\nX-Other: stays\n";
    let copy_of = |rig: &mut Rig, call: &str, identity: &str| {
        copy(&rig.receive(OUTSIDE, &invite(call, &format!("{forged}{identity}"))))
    };
    let good = copy_of(&mut rig, "c1", &shaken(&credential));
    let subject = credential.trust.assess(&credential.chain()).unwrap().leaf.subject();
    assert_eq!(
        good.line("X-Identity-Verdict"),
        format!(
            "valid;profile=shaken;ppt=shaken;attest=A;origid={ORIGID};orig=\"{CALLER}\";age=0;subject=\"{subject}\";spc=\"709J\""
        )
    );
    assert_eq!((good.line("P-Attestation-Indicator"), good.line("P-Origination-ID")), ("A", ORIGID));
    assert!(!good.text.contains("x-identity") && !good.text.contains("Attestation-Info"), "{}", good.text);
    assert_eq!(good.line("X-Other"), "stays");
    let meters = rig.proxy.meters();
    assert_eq!(
        (meters.verstat, meters.attestations, meters.diverted, meters.names),
        ([1, 0, 0], [1, 0, 0, 0], 0, [0, 0])
    );
    let bad = copy_of(&mut rig, "c2", &broken(&shaken(&credential)));
    assert_eq!(bad.line("X-Identity-Verdict"), "invalid;failed=\"signature\"");
    let none = copy_of(&mut rig, "c3", "");
    assert_eq!(none.line("X-Identity-Verdict"), "none");
    for copy in [&bad, &none] {
        assert!(!copy.text.to_ascii_lowercase().contains("p-attestation") && !copy.text.contains("P-Origination-ID"));
    }
    // On the way out the words of the inside network stay behind, whatever trunk they were meant for.
    let out = format!(
        "INVITE sip:+12015550100@192.0.2.1 SIP/2.0\nVia: SIP/2.0/UDP {INSIDE};branch=z9hG4bKo;rport\nMax-Forwards: 70\nFrom: <sip:+1@i>;tag=1\nTo: <sip:+12015550100@192.0.2.1>\nCall-ID: out\nCSeq: 1 INVITE\n{forged}Content-Length: 0\n\n"
    );
    let sent = rig.receive(INSIDE, &out);
    let outside = requests(&sent, "INVITE")[0];
    assert!(outside.text.contains("X-Other: stays"));
    for name in ["verdict", "attestation", "origination"] {
        assert!(!outside.text.to_ascii_lowercase().contains(name), "{}", outside.text);
    }
}

#[test]
fn a_trusted_neighbours_headers_pass_unless_ours_replace_them() {
    let credential = Credential::shaken();
    for verifies in [false, true] {
        let mut config = config(patient());
        config.trunks[0].trusted = true;
        config.trunks[1].discloses.attestation = Some("P-Attestation-Indicator".into());
        if !verifies {
            config.trunks[0].verify = None;
        }
        let lines = format!("P-Attestation-Indicator: B\n{}", shaken(&credential));
        let copy = copy(&rig(&credential, config).receive(OUTSIDE, &invite("c1", &lines)));
        assert_eq!(copy.line("P-Attestation-Indicator"), if verifies { "A" } else { "B" });
    }
}

#[test]
fn rich_call_data_goes_inside_as_call_info_and_that_of_strangers_does_not() {
    let credential = Credential::shaken();
    let claims = json!({"crn": "Delivery \"now\"", "dest": {"tn": [CALLEE]}, "iat": NOW, "orig": {"tn": CALLER},
        "rcd": {"icn": "https://example.com/a.png", "nam": "Caller"},
        "rcdi": {"/icn": "sha256-RojgWwU6xUtI4q82+kHPyHm1JKbm7+663bMvzymhkl4"}});
    let forged =
        "Call-Info: <https://evil.example/a.png>;purpose=icon;verified=\"true\", <https://a.example/>;purpose=info\n";
    let from = format!("\"Caller\" {}", usual_from());
    let call = |is_told: bool, identity: &str| {
        let mut config = config(patient());
        config.trunks[1].discloses.call_info = is_told;
        config.trunks[1].discloses.verdict = Some("X-Identity-Verdict".into());
        let text = request("INVITE", "c1", &from, &format!("{forged}{identity}"));
        copy(&rig(&credential, config).receive(OUTSIDE, &text))
    };
    let rich = line(&credential, Some("rcd"), &claims);
    let told = call(true, &rich);
    assert_eq!(
        told.lines("Call-Info"),
        [
            "<https://a.example/>;purpose=info",
            "<https://example.com/a.png>;purpose=icon;verified=\"true\";integrity=\"sha256-RojgWwU6xUtI4q82+kHPyHm1JKbm7+663bMvzymhkl4\"",
            "<data:>;purpose=jcard;verified=\"true\";call-reason=\"Delivery \\\"now\\\"\"",
        ]
    );
    assert!(told.line("X-Identity-Verdict").contains(";name=verified"));
    let from = from.replace("\"Caller\"", "\"Somebody\"");
    let mut other = config(patient());
    other.trunks[1].discloses.verdict = Some("X-Identity-Verdict".into());
    let mut other = rig(&credential, other);
    let unverified = copy(&other.receive(OUTSIDE, &request("INVITE", "c1", &from, &rich)));
    assert!(unverified.line("X-Identity-Verdict").contains(";name=unverified"), "C-14");
    assert_eq!(other.proxy.meters().names, [0, 1]);
    for copy in [call(true, &broken(&rich)), call(false, &rich)] {
        assert_eq!(copy.lines("Call-Info"), ["<https://a.example/>;purpose=info"]);
    }
}

/// Case 1 and 9 of the dossier, and E-2, E-3: the first provisional response and the final one, once each.
#[test]
fn e3_reasons_are_told_once_before_the_end_and_once_at_the_end() {
    let credential = Credential::shaken();
    let bad = broken(&shaken(&credential));
    for (on_failure, tells) in [(OnFailure::ContinueWithReason, true), (OnFailure::Continue, false)] {
        let mut rig = rig(&credential, config(Policy { on_failure, ..Policy::shaken() }));
        let sent = rig.receive(OUTSIDE, &invite("c1", &bad));
        assert_eq!(upstream(&sent), [100]);
        assert!(!sent[0].text.contains("Reason"), "E-1");
        let copy = copy(&sent);
        for (status, tells) in [(180, tells), (183, false), (180, false), (200, tells), (200, tells)] {
            let sent = rig.receive(INSIDE, &answer(&copy, status, ""));
            let response = sent.iter().find(|sent| sent.status() == Some(status)).unwrap();
            let expected: &[&str] = if tells { &["STIR ;cause=438 ;text=\"Invalid Identity Header\""] } else { &[] };
            assert_eq!(response.lines("Reason"), expected, "{status}");
        }
    }
    // One that is refused further on, one that nobody answers, one that is cancelled.
    let mut rig = rig(&credential, config(Policy { on_failure: OnFailure::ContinueWithReason, ..Policy::shaken() }));
    let first = copy(&rig.receive(OUTSIDE, &invite("c2", &bad)));
    let busy = rig.receive(INSIDE, &answer(&first, 486, "Reason: Q.850;cause=17\n"));
    let busy = busy.iter().find(|sent| sent.status() == Some(486)).unwrap();
    assert_eq!(busy.lines("Reason"), ["Q.850;cause=17", "STIR ;cause=438 ;text=\"Invalid Identity Header\""]);
    rig.receive(OUTSIDE, &invite("c3", &bad));
    let sent = rig.pass(support::rig::seconds(200));
    let timeout = sent.iter().find(|sent| sent.status() == Some(408)).unwrap();
    assert_eq!(timeout.lines("Reason").len(), 1);
}

#[test]
fn e9_several_failures_carry_ppi_and_what_was_said_further_on_is_not_said_twice() {
    let credential = Credential::shaken();
    let (good, bad) = (shaken(&credential), broken(&line(&credential, None, &stir::claims())));
    let signature = |line: &str| line.split(';').next().unwrap().rsplit('.').next().unwrap().to_owned();
    let mut rig = rig(&credential, config(Policy::shaken()));
    let call = copy(&rig.receive(OUTSIDE, &invite("c1", &format!("{good}{bad}"))));
    let reason = format!("STIR ;cause=438 ;text=\"Invalid Identity Header\" ;ppi=\"..{}\"", signature(&bad));
    let ringing = rig.receive(INSIDE, &answer(&call, 180, ""));
    assert_eq!(ringing[0].lines("Reason"), [&*reason], "E-4: one is valid, the other is told");
    let theirs = format!("STIR;cause=437;text=\"Unsupported Credential\";ppi=\"a.b.{}\"", signature(&bad));
    let answered = rig.receive(INSIDE, &answer(&call, 200, &format!("Reason: {theirs}\n")));
    assert_eq!(answered[0].lines("Reason"), [&*theirs], "E-7: one cause for one ppi");
    // All fail and the call is refused: each is told.
    let worse = broken(&good);
    let refused = rig.receive(OUTSIDE, &invite("c2", &format!("{worse}{bad}")));
    let refused = refused.iter().find(|sent| sent.status() == Some(438)).unwrap();
    assert_eq!(refused.lines("Reason").len(), 2);
    assert!(refused.lines("Reason").iter().all(|reason| reason.contains(";ppi=\"..")));
}

#[test]
fn i30_no_identity_is_428_or_a_reason_or_nothing() {
    let credential = Credential::shaken();
    let unsupported = identity_ppt(&credential.token(&header(&credential, Some("foo")), &stir::claims()), "foo") + "\n";
    for (lines, phrase) in [("", "Use Identity Header"), (&*unsupported, "Use Supported PASSporT Format")] {
        let rig = |on_failure| {
            let policy = Policy { on_failure, require_identity: true, ..Policy::shaken() };
            let mut rig = rig(&credential, config(policy));
            let sent = rig.receive(OUTSIDE, &invite("c1", lines));
            (rig, sent)
        };
        let (_, sent) = rig(OnFailure::Reject);
        assert_eq!(sent.last().unwrap().first_line(), format!("SIP/2.0 428 {phrase}"));
        for (on_failure, tells) in [(OnFailure::Continue, 0), (OnFailure::ContinueWithReason, 1)] {
            let (mut rig, sent) = rig(on_failure);
            let ringing = rig.receive(INSIDE, &answer(&copy(&sent), 180, ""));
            assert_eq!(ringing[0].lines("Reason").len(), tells);
            assert_eq!(ringing[0].text.contains(phrase), tells == 1);
        }
    }
    // A field of an unsupported kind beside a good one is no matter.
    let both = format!("{unsupported}{}", shaken(&credential));
    let mut rig = rig(&credential, config(Policy { require_identity: true, ..Policy::shaken() }));
    let call = copy(&rig.receive(OUTSIDE, &invite("c1", &both)));
    assert!(rig.receive(INSIDE, &answer(&call, 180, ""))[0].lines("Reason").is_empty());
}

#[test]
fn anonymous_and_unknown_callers_are_judged_passed_or_refused() {
    let credential = Credential::shaken();
    let anonymous =
        ["<sip:anonymous@anonymous.invalid>", "\"Anonymous\" <sip:Anonymous@a.example>", "<sip:x@anonymous.invalid>"];
    let unknown = ["<sip:unavailable@unknown.invalid>", "<sip:unknown@a.example>"];
    for (froms, code) in [(&anonymous[..], "433 Anonymity Disallowed"), (&unknown[..], "403 Unknown Caller")] {
        for (from, identity) in froms.iter().flat_map(|from| [(from, String::new()), (from, shaken(&credential))]) {
            let outcome = |callers| {
                let mut policy = Policy { require_identity: true, ..Policy::shaken() };
                if froms == anonymous {
                    policy.anonymous = callers
                } else {
                    policy.unknown = callers
                }
                let sent = rig(&credential, config(policy)).receive(OUTSIDE, &request("INVITE", "c1", from, &identity));
                sent.last().unwrap().first_line().to_owned()
            };
            let judged = if identity.is_empty() { "428 Use Identity Header" } else { "438 Invalid Identity Header" };
            assert_eq!(outcome(Callers::Judge), format!("SIP/2.0 {judged}"), "{from}");
            assert!(outcome(Callers::Pass).starts_with("INVITE "), "{from}");
            assert_eq!(outcome(Callers::Reject), format!("SIP/2.0 {code}"), "{from}");
        }
    }
    // Nobody else is affected; who is asserted by a trusted trunk is known.
    let policy = Policy {
        anonymous: Callers::Reject,
        unknown: Callers::Reject,
        identity_source: IdentitySource::AssertedThenFrom,
        ..Policy::shaken()
    };
    let mut trusting = config(policy);
    trusting.trunks[0].trusted = true;
    let asserted = format!("P-Asserted-Identity: <tel:+{CALLER}>\n");
    copy(&rig(&credential, trusting.clone()).receive(OUTSIDE, &request("INVITE", "c1", anonymous[0], &asserted)));
    copy(&rig(&credential, trusting.clone()).receive(OUTSIDE, &invite("c1", "")));
    let nobody = "P-Asserted-Identity: <sip:anonymous@anonymous.invalid>\n";
    assert_eq!(
        status(&rig(&credential, trusting).receive(OUTSIDE, &request("INVITE", "c1", anonymous[0], nobody))),
        433
    );
}

#[test]
fn m1_messages_are_verified_as_calls_are() {
    let credential = Credential::shaken();
    let claims = json!({"dest": {"tn": [CALLEE]}, "iat": NOW, "msgi": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "orig": {"tn": CALLER}});
    let good = line(&credential, Some("msg"), &claims);
    let policy = Policy { require_identity: true, ..Policy::shaken() };
    let message = |policy: Policy, call: &str, identity: &str| {
        let mut rig = rig(&credential, config(policy));
        let sent = rig.receive(OUTSIDE, &request("MESSAGE", call, &usual_from(), identity));
        let stats = *rig.proxy.stats();
        (sent, stats.verified, stats.verification_failed, stats.identity_missing)
    };
    let (sent, verified, ..) = message(policy, "c1", &good);
    assert!(copy(&sent).first_line().starts_with("MESSAGE ") && verified == 1);
    let (sent, _, failed, _) = message(policy, "c1", &broken(&good));
    assert_eq!((status(&sent), failed), (438, 1));
    let body = json!({"dest": {"tn": [CALLEE]}, "iat": NOW, "msgi": "sha256-sM275lTgzCte+LHOKHtU4SxG8shlOo6OS4ot8IJQImY=", "orig": {"tn": CALLER}});
    assert_eq!(status(&message(policy, "c1", &line(&credential, Some("msg"), &body)).0), 438, "M-5");
    let (sent, .., missing) = message(policy, "c1", "");
    assert_eq!((status(&sent), missing), (428, 1));
    // Only where it is wanted, and nothing else outside dialogs.
    let calls_only = Policy { methods: Methods { invite: true, message: false }, ..policy };
    copy(&message(calls_only, "c1", "").0);
    let mut rig = rig(&credential, config(policy));
    copy(&rig.receive(OUTSIDE, &request("OPTIONS", "c2", &usual_from(), "")));
}

/// The same for a policy that lets failures pass: the answer to the message tells them.
#[test]
fn e3_the_answer_to_a_message_tells_what_failed() {
    let credential = Credential::shaken();
    let mut rig = rig(&credential, config(Policy { on_failure: OnFailure::ContinueWithReason, ..Policy::shaken() }));
    let bad = broken(&line(&credential, None, &stir::claims()));
    for (call, status) in [("c1", 200), ("c2", 404)] {
        let message = copy(&rig.receive(OUTSIDE, &request("MESSAGE", call, &usual_from(), &bad)));
        let sent = rig.receive(INSIDE, &answer(&message, status, ""));
        assert_eq!(sent.last().unwrap().lines("Reason").len(), 1, "{status}");
    }
}

#[test]
fn r3_unproven_priority_is_taken_out_and_the_call_is_an_ordinary_one() {
    let credential = Credential::shaken();
    let claims = json!({"dest": {"tn": [CALLEE]}, "iat": NOW, "orig": {"tn": CALLER}, "rph": {"auth": ["esnet.1"]}});
    let proof = line(&credential, Some("rph"), &claims);
    let both = "Resource-Priority: esnet.1, wps.0\n";
    let call = |strips: bool, lines: String| {
        let mut config = config(Policy { strip_unproven_priority: strips, ..patient() });
        config.trunks[0].trusted = true;
        // Full already: only an emergency call comes in.
        config.guard.limits = vec![Some(TrunkLimits::new(None, Some(0), 503)), None];
        let mut rig = rig(&credential, config);
        let sent = rig.receive(OUTSIDE, &invite("c1", &lines));
        let stats = *rig.proxy.stats();
        (sent, stats.priorities_stripped, stats.limited)
    };
    let (sent, stripped, _) = call(true, format!("{both}{proof}"));
    assert_eq!((copy(&sent).lines("Resource-Priority"), stripped), (vec!["esnet.1"], 1), "what is proven stays");
    for unproven in [format!("{both}{}", broken(&proof)), both.to_owned()] {
        let (sent, stripped, limited) = call(true, unproven.clone());
        assert_eq!((status(&sent), stripped, limited), (503, 1, 1), "an ordinary call is above the limit");
        let (sent, stripped, _) = call(false, unproven);
        assert_eq!((copy(&sent).line("Resource-Priority"), stripped), ("esnet.1, wps.0", 0), "kept by policy");
    }
    // Nothing is taken from a call that is proven in full, and below the limit the others go on.
    let mut config = config(Policy { strip_unproven_priority: true, ..patient() });
    config.trunks[0].trusted = true;
    let mut rig = rig(&credential, config);
    let full = copy(&rig.receive(OUTSIDE, &invite("c1", &format!("Resource-Priority: esnet.1\n{proof}"))));
    assert_eq!(full.line("Resource-Priority"), "esnet.1");
    let ordinary = copy(&rig.receive(OUTSIDE, &invite("c2", both)));
    assert!(ordinary.lines("Resource-Priority").is_empty());
    let sent = rig.receive(INSIDE, &answer(&ordinary, 200, ""));
    assert_eq!(status(&sent), 200);
    rig.settle();
}

/// RFC 4412 4.6.1, O-8: an emergency call is never shed, one that only says so is, once that is known.
#[test]
fn r3_a_call_whose_priority_nothing_proves_is_shed_like_any_other() {
    let credential = Credential::shaken();
    let claims = json!({"dest": {"tn": [CALLEE]}, "iat": NOW, "orig": {"tn": CALLER}, "rph": {"auth": ["esnet.1"]}});
    let proof = line(&credential, Some("rph"), &claims);
    let call = |is_loaded: bool, strips: bool, lines: String| {
        let mut config = config(Policy { strip_unproven_priority: strips, ..patient() });
        config.trunks[0].trusted = true;
        // The first transaction fills it to the mark.
        config.guard.shedding = Some(SheddingConfig { table_high: 50, table_low: 40, ..SheddingConfig::default() });
        config.transaction.max_server = if is_loaded { 2 } else { 1000 };
        let mut rig = rig(&credential, config);
        let sent = rig.receive(OUTSIDE, &invite("c1", &lines));
        let stats = *rig.proxy.stats();
        let went = requests(&sent, "INVITE").len();
        (upstream(&sent), went, stats.priorities_stripped, stats.shed)
    };
    let says = "Resource-Priority: esnet.1\n".to_owned();
    let (proven, forged) = (format!("{says}{proof}"), format!("{says}{}", broken(&proof)));
    for unproven in [&says, &forged] {
        assert_eq!(call(true, true, unproven.clone()), (vec![100, 503], 0, 1, 1), "{unproven}");
        assert_eq!(call(false, true, unproven.clone()), (vec![100], 1, 1, 0), "there is room");
        assert_eq!(call(true, false, unproven.clone()), (vec![100], 1, 0, 0), "believed by policy");
    }
    assert_eq!(call(true, true, proven), (vec![100], 1, 0, 0), "an emergency");
}

#[test]
fn identity_fields_pass_octet_by_octet_and_none_comes_twice() {
    let credential = Credential::shaken();
    let mut config = config(patient());
    config.trunks[1].trusted = true;
    let mut rig = rig(&credential, config);
    let good = shaken(&credential);
    let odd = "y: nonsense;info=<>\nIDENTITY:  a.b.c ;  info=<https://a.example/> ; x=\"y\"\n";
    let twice = format!("{good}{odd}{good}");
    let copy = copy(&rig.receive(OUTSIDE, &invite("c1", &twice)));
    let fields = |text: &str| -> Vec<String> {
        let is_identity = |line: &&str| line.to_ascii_lowercase().starts_with("identity:") || line.starts_with("y:");
        text.split('\n').map(|line| line.trim_end_matches('\r')).filter(is_identity).map(str::to_owned).collect()
    };
    assert_eq!(fields(&copy.text), fields(&twice));
    assert_eq!(fields(&copy.text).len(), 4);
}

/// RFC 8224 12.1 on the node: retransmissions and spirals are the same call, a second worker knows what the first has seen.
#[test]
fn the_replay_table_is_one_for_all_workers() {
    let credential = Credential::shaken();
    let table = ReplayTable::new(ReplayConfig { capacity: 2, shards: 1 }, [1; 16]);
    let worker = || {
        let policy = Policy { on_failure: OnFailure::Reject, ..Policy::shaken() };
        let snapshot = Snapshot { config: config(policy), trust: credential.trust.clone(), replay: table.clone() };
        let mut rig = Rig::of(snapshot);
        rig.now.unix = NOW;
        rig
    };
    let (mut first, mut second) = (worker(), worker());
    let good = shaken(&credential);
    copy(&first.receive(OUTSIDE, &invite("c1", &good)));
    assert!(
        requests(&first.receive(OUTSIDE, &invite("c1", &good)), "INVITE").is_empty(),
        "a retransmission is absorbed"
    );
    let spiral = invite("c1", &good)
        .replace("z9hG4bKc1", "z9hG4bKspiral")
        .replace(&format!("INVITE sip:+{CALLEE}@192.0.2.1"), &format!("INVITE sip:+{CALLEE}@192.0.2.1:5060"));
    copy(&first.receive(OUTSIDE, &spiral));
    copy(&second.receive(OUTSIDE, &spiral.replace("spiral", "spiral2")));
    assert_eq!(status(&second.receive(OUTSIDE, &invite("c2", &good))), 438, "another call");
    assert_eq!(second.proxy.stats().replay_unknown, 0);
    // Full: nothing can be said, the call passes, and that is counted.
    let other = |n: i64| {
        let mut claims = shaken_claims();
        claims["iat"] = (NOW - n).into();
        line(&credential, Some("shaken"), &claims)
    };
    copy(&second.receive(OUTSIDE, &invite("c3", &other(1))));
    assert_eq!(second.proxy.stats().replay_unknown, 0);
    copy(&second.receive(OUTSIDE, &invite("c4", &other(2))));
    assert_eq!(second.proxy.stats().replay_unknown, 1);
    copy(&first.receive(OUTSIDE, &invite("c5", &other(2))));
    assert_eq!(first.proxy.stats().replay_unknown, 1, "a replay of it is not seen");
    assert_eq!(table.len(), 2);
}

#[test]
fn p14_other_forms_are_refused_where_that_is_asked() {
    let credential = Credential::shaken();
    let mut strict = Policy::shaken();
    strict.modes.set(Check::Serialization, Mode::Enforce);
    let loose = shaken_claims().to_string().replace(",\"iat\"", ", \"iat\"");
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let input = format!("{}.{}", encode(&header(&credential, Some("shaken")).to_string()), encode(&loose));
    let signature = pki::es256(&credential.leaf.key, input.as_bytes());
    let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature));
    let lines = identity_ppt(&token, "shaken") + "\n";
    copy(&rig(&credential, config(Policy::shaken())).receive(OUTSIDE, &invite("c1", &lines)));
    assert_eq!(status(&rig(&credential, config(strict)).receive(OUTSIDE, &invite("c1", &lines))), 438);
    copy(&rig(&credential, config(strict)).receive(OUTSIDE, &invite("c1", &shaken(&credential))));
}

/// RFC 9060 section 6: the list by reference that came with the chain counts for the call that waited for the chain.
#[test]
fn the_first_call_is_judged_by_the_list_that_its_fetch_brought() {
    const LIST: &str = "https://lists.example/1";
    let mut params = pki::leaf_params();
    params.custom_extensions.push(pki::by_reference(LIST));
    let credential = Credential::issue_from(params, &[], NOW);
    let header = json!({"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": stir::X5U});
    let lines = |age: i64| {
        let mut claims = shaken_claims();
        claims["iat"] = (NOW - age).into();
        identity_ppt(&credential.token(&header, &claims), "shaken") + "\n"
    };
    let config = config(Policy::shaken());
    let mut rig = rig(&credential, config.clone());
    let (sent, needs) = rig.receive_all(Transport::Udp, 0, OUTSIDE, &invite("c1", &lines(0)));
    assert_eq!((upstream(&sent), needs.len()), (vec![100], 1));
    // The side door learns the list, publishes it, and answers.
    let mut trust = credential.trust.clone();
    let list = TnAuthList::new(vec![pki::one(CALLER)]).unwrap();
    trust.referenced = trust.referenced.with(LIST, Arc::new(ReferencedList { list, fresh_until: NOW + 3600 }));
    trust.epoch += 1;
    rig.proxy.set_snapshot(Arc::new(Snapshot { config, trust, replay: ReplayTable::default() }));
    let chain = FetchedChain { certificates: credential.chain(), fresh_until: NOW + 3600 };
    let sent = rig.provide(needs[0].id, Answer::Certificate(Ok(chain)));
    copy(&sent);
    assert_eq!(rig.proxy.stats().verified, 1);
    // And for the next one, which waits for nothing.
    copy(&rig.receive(OUTSIDE, &invite("c2", &lines(1))));
    assert_eq!(rig.proxy.stats().verified, 2);
}

/// RFC 8946: who diverted the call is told too, also to the record.
#[test]
fn d16_proven_diversions_are_told() {
    let credential = Credential::shaken();
    let diverted = "12155551299";
    let mut first = shaken_claims();
    first["dest"]["tn"] = json!([diverted]);
    first["iat"] = (NOW - 600).into();
    let div = json!({"dest": {"tn": [CALLEE]}, "div": {"tn": diverted}, "iat": NOW, "orig": {"tn": CALLER}});
    let lines = line(&credential, Some("shaken"), &first) + &line(&credential, Some("div"), &div);
    for (window, verdict) in [(600, "valid"), (599, "invalid")] {
        let mut config = config(Policy { diverted_freshness: window, ..patient() });
        config.trunks[1].discloses.verdict = Some("X-Identity-Verdict".into());
        config.records = true;
        let mut rig = rig(&credential, config);
        let call = copy(&rig.receive(OUTSIDE, &invite("c1", &lines)));
        let told = call.line("X-Identity-Verdict");
        assert!(told.starts_with(verdict), "{window}: {told}");
        assert_eq!(told.contains(&format!(";diverted=\"{diverted}\"")), verdict == "valid");
        let call = rig.proxy.calls().from(0, 100).0.next().unwrap();
        let recorded: Vec<&str> = call.verification().diverted.iter().map(|identity| identity.text()).collect();
        assert_eq!(recorded, if verdict == "valid" { vec![diverted] } else { vec![] });
        assert_eq!(rig.proxy.meters().diverted, u64::from(verdict == "valid"));
    }
}
