//! Trunks that are served: their INVITEs are signed or judged and answered by 302, and nothing of them stays.

mod support;

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use support::lab::{World, signer_config};
use support::rig::{CALLER, NOW, Rig, Sent, listener, seconds, trunk};
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::proxy::service::{Duty, Service};
use vesperd::proxy::{Answer, Config, Event, Need, NeedKind, Output, Residue, SignatureFailure};
use vesperd::sip::hop::Transport;
use vesperd::stir::authentication::{SignError, Signer};
use vesperd::stir::verification::FetchFailure;
use vesperd::stir::{IdentitySource, OnFailure, Policy, Profile};

const DATE: &str = "Sat, 21 Nov 2026 00:00:00 GMT";

/// Edges of a world that serve one trunk.
trait Edges {
    fn rig(&self, change: impl FnOnce(&mut Config)) -> Rig;
    fn signing(&self, no_match: Option<u16>) -> Rig;
    fn verifying(&self, no_match: Option<u16>, change: impl FnOnce(&mut Policy)) -> Rig;
}

impl Edges for World {
    fn rig(&self, change: impl FnOnce(&mut Config)) -> Rig {
        let mut config = Config {
            listeners: vec![listener(Transport::Udp, 5060), listener(Transport::Tcp, 5060)],
            trunks: vec![trunk("sbc", &[CALLER])],
            ..Config::default()
        };
        change(&mut config);
        Rig::trusting(config, self.trust())
    }

    fn signing(&self, no_match: Option<u16>) -> Rig {
        let signer = self.provider();
        self.rig(|config| {
            config.signers.push(signer);
            config.signer_names.push("lab".into());
            config.trunks[0].sign = Some(0);
            config.trunks[0].service = Some(Service { duty: Duty::Sign, no_match });
            config.records = true;
        })
    }

    fn verifying(&self, no_match: Option<u16>, change: impl FnOnce(&mut Policy)) -> Rig {
        let mut policy = Policy { on_failure: OnFailure::ContinueWithReason, ..Policy::shaken() };
        change(&mut policy);
        self.rig(|config| {
            config.trunks[0].verify = Some(policy);
            config.trunks[0].trusted = true;
            config.trunks[0].service = Some(Service { duty: Duty::Verify, no_match });
        })
    }
}

/// An INVITE; `lines` with their ends.
fn invite(call: &str, lines: &str) -> String {
    format!(
        "INVITE sip:+12155551213;rn=+12155550000@gw.example:5070;user=phone SIP/2.0\n\
         Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{call};rport\nMax-Forwards: 70\n{lines}\
         From: <sip:+12015550100@192.0.2.10;user=phone>;tag=a1\nTo: <sip:+12155551213@gw.example;user=phone>\nCall-ID: {call}\n\
         CSeq: 1 INVITE\nContent-Length: 0\n\n"
    )
}

fn ack(call: &str, response: &Sent) -> String {
    let to = response.line("To");
    format!(
        "ACK sip:+12155551213;rn=+12155550000@gw.example:5070;user=phone SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{call};rport\n\
         Max-Forwards: 70\nFrom: <sip:+12015550100@192.0.2.10;user=phone>;tag=a1\nTo: {to}\nCall-ID: {call}\nCSeq: 1 ACK\nContent-Length: 0\n\n"
    )
}

/// The last of what was sent: the final response.
fn answer(rig: &mut Rig, text: &str) -> Sent {
    rig.receive(CALLER, text).pop().expect("an answer")
}

/// An INVITE with an Identity of the lab's provider, made by a served trunk.
fn signed(world: &World, call: &str) -> String {
    let redirect = answer(&mut world.signing(None), &invite(call, ""));
    let lines = ["Date", "Identity"].map(|name| format!("{name}: {}\n", redirect.line(name)));
    invite(call, &lines.concat())
}

#[test]
fn an_invite_is_sent_back_with_an_identity_and_nothing_of_it_stays() {
    let world = World::new();
    let mut rig = world.signing(None);
    let redirect = answer(&mut rig, &invite("c1", ""));
    assert_eq!(redirect.first_line(), "SIP/2.0 302 Moved Temporarily");
    assert_eq!(
        redirect.line("Contact"),
        "<sip:+12155551213;rn=+12155550000@gw.example:5070;user=phone>",
        "where it wanted to go"
    );
    assert_eq!(redirect.line("Date"), DATE);
    let identity = redirect.line("Identity");
    assert!(identity.contains(&format!(";info=<{}>", world.lab.provider.x5u)), "{identity}");
    let claims = URL_SAFE_NO_PAD.decode(identity.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["orig"]["tn"], "12015550100");
    assert_eq!(claims["dest"]["tn"][0], "12155551213");
    assert_eq!((&claims["attest"], &claims["iat"]), (&"A".into(), &NOW.into()));

    // Its copy gets the very same answer, and the ACK goes nowhere.
    assert_eq!(answer(&mut rig, &invite("c1", "")).text, redirect.text);
    assert!(rig.receive(CALLER, &ack("c1", &redirect)).is_empty(), "absorbed");
    assert!(rig.proxy.calls().is_empty());
    rig.pass(seconds(60));
    assert_eq!(rig.proxy.residue(), Residue::default());
    let stats = rig.proxy.stats();
    assert_eq!((stats.served_signed, stats.signed, stats.refused), (1, 1, 0));
    assert!(rig.events.is_empty(), "nothing went wrong: {:?}", rig.events);
}

#[test]
fn over_tcp_as_well_and_the_date_of_the_invite_is_that_of_the_token() {
    let world = World::new();
    let mut rig = world.signing(None);
    let date = "Fri, 20 Nov 2026 23:59:30 GMT";
    let text = invite("c1", &format!("Date: {date}\n")).replace("SIP/2.0/UDP", "SIP/2.0/TCP");
    let (sent, needs) = rig.receive_all(Transport::Tcp, 1, CALLER, &text);
    let redirect = sent.last().unwrap();
    assert!(needs.is_empty() && redirect.status() == Some(302) && redirect.hop.connection.is_some());
    assert_eq!(redirect.line("Date"), date);
    let claims = URL_SAFE_NO_PAD.decode(redirect.line("Identity").split('.').nth(1).unwrap()).unwrap();
    assert!(String::from_utf8(claims).unwrap().contains(&format!("\"iat\":{}", NOW - 30)));
}

#[test]
fn what_is_not_to_be_signed_gets_the_code_that_was_chosen() {
    let world = World::new();
    for (no_match, line) in [
        (None, "SIP/2.0 404 Not Found"),
        (Some(503), "SIP/2.0 503 Service Unavailable"),
        (Some(488), "SIP/2.0 488 Nothing To Say"),
    ] {
        let with_identity = signed(&world, "c1");
        let mut rig = world.signing(no_match);
        let response = answer(&mut rig, &with_identity);
        assert_eq!((response.first_line(), response.lines("Contact").len()), (line, 0), "it has an Identity");
        let stale = answer(&mut rig, &invite("c2", "Date: Sat, 01 Jan 2000 00:00:00 GMT\n"));
        assert_eq!(stale.first_line(), line);
        let nobody = invite("c3", "").replace("sip:+12015550100@192.0.2.10", "sip:bob@elsewhere.example");
        let nobody = nobody.replace("elsewhere.example;user=phone", "elsewhere.example");
        assert_eq!(answer(&mut rig, &nobody).first_line(), line, "the certificate does not speak for a domain");
        assert_eq!(rig.proxy.stats().served_nothing, 3);
        let dates = format!("Date: {DATE}\nDate: {DATE}\n");
        assert_eq!(answer(&mut rig, &invite("c4", &dates)).first_line(), "SIP/2.0 400 Multiple Date");
    }
}

#[test]
fn a_signer_that_can_not_sign_at_all_is_503() {
    let world = World::new();
    let mut rig = world.signing(None);
    rig.now.unix += 100 * 365 * 86_400;
    assert_eq!(answer(&mut rig, &invite("c1", "")).first_line(), "SIP/2.0 503 Service Unavailable");
    assert!(rig.events.iter().any(|event| matches!(event, Event::Unsigned { .. })), "and the operator is told");
}

/// Its signer's key lies elsewhere.
fn remote(world: &World, no_match: Option<u16>, change: impl FnOnce(&mut Config)) -> (Rig, EcdsaKeyPair) {
    let mut config = signer_config(&world.lab.provider, Profile::Shaken, Some(Attestation::Full));
    config.remote_key = Some("module".into());
    let signer = Arc::new(Signer::new(config).unwrap());
    let rig = world.rig(|config| {
        config.signers.push(signer);
        config.signer_names.push("lab".into());
        config.trunks[0].sign = Some(0);
        config.trunks[0].trusted = true;
        config.trunks[0].service = Some(Service { duty: Duty::Sign, no_match });
        change(config);
    });
    let key = world.lab.provider.key.serialize_der();
    (rig, EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key).unwrap())
}

fn sign(key: &EcdsaKeyPair, need: &Need) -> Answer {
    let NeedKind::Signature { key: name, input } = &need.kind else { panic!("{need:?}") };
    assert_eq!(&**name, "module");
    let signature = key.sign(&SystemRandom::new(), input).unwrap();
    Answer::Signature(Ok(signature.as_ref().try_into().unwrap()))
}

#[test]
fn a_served_call_waits_for_the_module_that_signs_it() {
    let world = World::new();
    let (mut rig, key) = remote(&world, None, |config| config.trunks[0].signing.priorities = vec!["ets".into()]);
    let (sent, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &invite("c1", "Resource-Priority: ets.1\n"));
    assert_eq!((sent.len(), sent[0].status(), needs.len()), (1, Some(100), 1));
    assert!(rig.receive(CALLER, &invite("c1", "Resource-Priority: ets.1\n")).iter().all(|s| s.status() == Some(100)));
    let mut out = Output::default();
    rig.proxy.handle_answer(rig.now, needs[0].id, sign(&key, &needs[0]), &mut out);
    assert_eq!((out.needs.len(), out.outbox.items().len()), (1, 0), "the second token");
    let sent = rig.provide(out.needs[0].id, sign(&key, &out.needs[0]));
    let redirect = sent.last().unwrap();
    assert_eq!((redirect.status(), redirect.line("Date"), redirect.lines("Contact").len()), (Some(302), DATE, 1));
    let identities = redirect.lines("Identity");
    assert_eq!(identities.len(), 2);
    let leaf = vesperd::cert::Certificate::from_der(&world.lab.provider.chain[0]).unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, leaf.es256_point().unwrap());
    for identity in identities {
        let (input, signature) = identity.split(';').next().unwrap().rsplit_once('.').unwrap();
        public.verify(input.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    }
    assert!(rig.receive(CALLER, &ack("c1", redirect)).is_empty());
    rig.pass(seconds(60));
    assert_eq!(rig.proxy.residue(), Residue::default());
    assert_eq!((rig.proxy.stats().served_signed, rig.proxy.stats().signed, rig.proxy.stats().unsigned), (1, 1, 0));
}

#[test]
fn a_module_that_does_not_sign_in_time_is_503_and_what_is_not_to_be_signed_asks_none() {
    let world = World::new();
    for how in ["refused", "deadline", "full"] {
        let (mut rig, _) = remote(&world, Some(404), |config| config.max_parked = if how == "full" { 0 } else { 10 });
        let (mut sent, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &invite("c1", ""));
        match how {
            "refused" => sent = rig.provide(needs[0].id, Answer::Signature(Err(SignatureFailure::Refused))),
            "deadline" => sent = rig.pass(Config::default().need_timeout),
            _ => assert!(needs.is_empty()),
        }
        let response = sent.iter().find(|sent| sent.status() != Some(100)).unwrap_or_else(|| panic!("{how}"));
        assert_eq!(response.first_line(), "SIP/2.0 503 Service Unavailable", "{how}: the SBC asks another one");
        assert!(response.lines("Identity").is_empty());
        let told = |event: &&Event| matches!(event, Event::Unsigned { error: SignError::Signature, .. });
        assert_eq!(rig.events.iter().filter(told).count(), 1, "{how}");
        rig.pass(seconds(60));
        assert_eq!(rig.proxy.residue(), Residue::default(), "{how}");
    }
    let (mut rig, _) = remote(&world, Some(488), |_| {});
    let stale = invite("c1", "Date: Sat, 01 Jan 2000 00:00:00 GMT\n");
    let (sent, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &stale);
    assert!(needs.is_empty() && sent.last().unwrap().status() == Some(488));
}

#[test]
fn a_served_call_that_waits_for_its_signature_can_be_cancelled() {
    let world = World::new();
    let (mut rig, key) = remote(&world, None, |_| {});
    let (_, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &invite("c1", ""));
    let sent = rig.receive(CALLER, &invite("c1", "").replace("INVITE", "CANCEL"));
    assert_eq!(sent.iter().map(Sent::status).collect::<Vec<_>>(), [Some(200), Some(487)]);
    assert!(rig.provide(needs[0].id, sign(&key, &needs[0])).is_empty(), "too late");
    rig.pass(seconds(60));
    assert_eq!(rig.proxy.residue(), Residue::default());
}

#[test]
fn only_invites_outside_dialogs_are_served() {
    let world = World::new();
    let mut rig = world.signing(None);
    let within = invite("c1", "").replace("user=phone>\nCall-ID", "user=phone>;tag=b\nCall-ID");
    assert_eq!(answer(&mut rig, &within).first_line(), "SIP/2.0 481 Call/Transaction Does Not Exist");
    let message = invite("c2", "").replace("INVITE", "MESSAGE");
    let response = answer(&mut rig, &message);
    assert_eq!(response.first_line(), "SIP/2.0 405 Method Not Allowed");
    assert_eq!(response.line("Allow"), "INVITE, ACK, CANCEL, OPTIONS");
    let ping = invite("c3", "").replace("INVITE", "OPTIONS");
    let ping = ping.replace("sip:+12155551213;rn=+12155550000@gw.example:5070;user=phone", "sip:192.0.2.1");
    assert_eq!(answer(&mut rig, &ping).status(), Some(200), "SBCs ask whether we are there");
    rig.proxy.drain();
    assert_eq!(answer(&mut rig, &invite("c4", "")).first_line(), "SIP/2.0 503 Going Down");
}

#[test]
fn the_verdict_comes_back_beside_the_number() {
    let world = World::new();
    let mut rig = world.verifying(None, |_| {});
    // The chain has to be fetched: the call waits, and nobody else does.
    let (sent, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &signed(&world, "c1"));
    assert_eq!((sent.len(), sent[0].status()), (1, Some(100)));
    let [need] = &needs[..] else { panic!("{needs:?}") };
    assert!(matches!(&need.kind, NeedKind::Certificate { x5u } if **x5u == *world.lab.provider.x5u));
    let sent = rig.provide(need.id, world.fetched());
    let redirect = sent.last().unwrap();
    assert_eq!(redirect.first_line(), "SIP/2.0 302 Moved Temporarily");
    assert_eq!(
        redirect.line("P-Asserted-Identity"),
        "<sip:+12015550100;verstat=TN-Validation-Passed@192.0.2.10;user=phone>"
    );
    assert_eq!(redirect.line("Contact"), "<sip:+12155551213;rn=+12155550000@gw.example:5070;user=phone>");
    assert!(redirect.lines("Reason").is_empty());
    assert!(rig.receive(CALLER, &ack("c1", redirect)).is_empty());

    // Warm by now; another caller's number under the same token.
    let forged =
        signed(&world, "c2").replace("From: <sip:+12015550100", "From: <sip:+12015550101;verstat=TN-Validation-Passed");
    let redirect = answer(&mut rig, &forged);
    assert_eq!(redirect.status(), Some(302));
    assert_eq!(
        redirect.line("P-Asserted-Identity"),
        "<sip:+12015550101;verstat=TN-Validation-Failed@192.0.2.10;user=phone>",
        "what it says of itself does not count"
    );
    assert_eq!(redirect.line("Reason"), "STIR ;cause=438 ;text=\"Invalid Identity Header\"");

    let redirect = answer(&mut rig, &invite("c3", ""));
    assert_eq!(
        redirect.line("P-Asserted-Identity"),
        "<sip:+12015550100;verstat=No-TN-Validation@192.0.2.10;user=phone>"
    );
    assert_eq!(rig.proxy.stats().served_verdicts, 3);
    rig.pass(seconds(60));
    assert_eq!(rig.proxy.residue(), Residue::default());
}

/// I-27: what a token proves of one number is not said of another, and what a caller says of itself gets through in no spelling.
#[test]
fn i27_only_the_number_of_the_token_has_passed() {
    let world = World::new();
    let mut rig = world.verifying(None, |policy| policy.identity_source = IdentitySource::AssertedThenFrom);
    let victim = "P-Asserted-Identity: <tel:+12025550199>\nFrom:";
    let (_, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &signed(&world, "c1").replace("From:", victim));
    let sent = rig.provide(needs[0].id, Answer::Certificate(Ok(world.chain())));
    assert_eq!(
        sent.last().unwrap().line("P-Asserted-Identity"),
        "<sip:+12015550100;verstat=TN-Validation-Passed@192.0.2.10;user=phone>"
    );
    for (from, expected) in [
        (
            "sip:+12015550100;ver%73tat=TN-Validation-Passed@192.0.2.10",
            "<sip:+12015550100;verstat=No-TN-Validation@192.0.2.10;user=phone>",
        ),
        (
            "sip:+12015550100%3bverstat%3DTN-Validation-Passed@192.0.2.10",
            "<sip:+12015550100;verstat=No-TN-Validation@192.0.2.10;user=phone>",
        ),
        (
            "sip:+12015550100:secret@192.0.2.10",
            "<sip:+12015550100;verstat=No-TN-Validation:secret@192.0.2.10;user=phone>",
        ),
    ] {
        let text = invite(&format!("c{}", from.len()), "").replace("sip:+12015550100@192.0.2.10", from);
        assert_eq!(answer(&mut rig, &text).line("P-Asserted-Identity"), expected, "{from}");
    }
    let text = invite("c9", "").replace("sip:+12015550100@192.0.2.10;user=phone", "sip:bob;verstat=x@192.0.2.10");
    assert_eq!(answer(&mut rig, &text).line("P-Asserted-Identity"), "<sip:bob@192.0.2.10>", "no number");
}

#[test]
fn the_policy_of_the_trunk_rejects_and_chooses_the_caller() {
    let world = World::new();
    let mut strict = world.verifying(Some(404), |policy| {
        policy.on_failure = OnFailure::Reject;
        policy.require_identity = false;
    });
    let response = answer(&mut strict, &invite("c1", "Identity: nonsense;info=<https://a.example/>\n"));
    assert_eq!(response.first_line(), "SIP/2.0 438 Invalid Identity Header");
    assert_eq!(response.line("Reason"), "STIR ;cause=438 ;text=\"Invalid Identity Header\"");
    assert_eq!(answer(&mut strict, &invite("c2", "")).first_line(), "SIP/2.0 404 Not Found", "nothing to verify");
    let mut required = world.verifying(None, |policy| {
        policy.on_failure = OnFailure::Reject;
        policy.require_identity = true;
    });
    assert_eq!(answer(&mut required, &invite("c1", "")).first_line(), "SIP/2.0 428 Use Identity Header");

    let mut asserted = world.verifying(None, |policy| policy.identity_source = IdentitySource::AssertedThenFrom);
    let lines = "P-Asserted-Identity: <sip:+12015550177@a.example>, <tel:+12015550177>\n";
    let redirect = answer(&mut asserted, &invite("c1", lines));
    assert_eq!(redirect.line("P-Asserted-Identity"), "<tel:+12015550177;verstat=No-TN-Validation>");
}

#[test]
fn a_certificate_out_of_reach_ends_the_wait_and_a_cancel_does() {
    let world = World::new();
    let mut rig = world.verifying(None, |_| {});
    let (_, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &signed(&world, "c1"));
    let sent = rig.provide(needs[0].id, Answer::Certificate(Err(FetchFailure::Connect)));
    let redirect = sent.last().unwrap();
    assert!(redirect.line("P-Asserted-Identity").contains("verstat=TN-Validation-Failed"));
    assert!(redirect.line("Reason").contains("cause=436"));

    let mut rig = world.verifying(None, |_| {});
    let (_, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &signed(&world, "c2"));
    let sent = rig.receive(CALLER, &invite("c2", "").replace("INVITE", "CANCEL"));
    assert_eq!(sent.iter().map(Sent::status).collect::<Vec<_>>(), [Some(200), Some(487)]);
    assert!(rig.provide(needs[0].id, world.fetched()).is_empty(), "a late answer is dropped");
    rig.pass(seconds(60));
    assert_eq!(rig.proxy.residue(), Residue::default());
}

#[test]
fn a_request_uri_can_not_break_out_of_the_contact() {
    let world = World::new();
    for uri in ["sip:+1>;x=<@h", "tel:+12155551213>;evil=<a", "sip:+12155551213@h?X=%0d%0aEvil:1", "urn:x>y"] {
        let text = invite("c1", "")
            .replace("sip:+12155551213;rn=+12155550000@gw.example:5070;user=phone SIP", &format!("{uri} SIP"));
        let response = answer(&mut world.signing(None), &text);
        let contacts = response.lines("Contact");
        assert!(contacts.is_empty() || !contacts[0].trim_matches(['<', '>']).contains(['<', '>']), "{}", response.text);
        assert_eq!(response.text.matches("Evil:").count(), response.text.matches("%0aEvil:").count());
    }
}
