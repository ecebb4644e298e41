//! Messages (RFC 9475): ppt=msg and the digest of the body.
use super::compact::{cv, message_call};
use super::parties::*;
use super::support::*;
use serde_json::json;
use vesperd::passport::ClaimsError;
use vesperd::passport::digest::Hash;
use vesperd::passport::ppt::Ppt;
use vesperd::stir::verification::{Check, Disposition, Failure, Overall, Policy, Verdict};

const POLICY: Policy = Policy::shaken();
const BODY: &str = "Hello, STIR messaging\r\n";

fn judge(world: &World, method: &str, line: &str, body: &str) -> Verdict {
    let text = String::from_utf8(request(A, B, B, "c", &[line.to_owned()], body)).unwrap();
    world.verify(&POLICY, text.replace("INVITE", method).replace("application/sdp", "text/plain").as_bytes())
}

#[test]
fn m2_cv7_verifies_over_the_body_as_it_is_on_the_wire() {
    let token = cv("CV7 msg");
    let verdict = message_call(&token, BODY);
    assert_valid(&verdict);
    assert_eq!(sole(&verdict).ppt, Some(Ppt::Msg));
    for other in ["Hello, STIR messaging\n", "Hello, STIR messaging\r\n ", "", "hello, STIR messaging\r\n"] {
        assert_fault(other, &message_call(&token, other), Check::Claims, Failure::BodyMismatch, 438);
    }
}

#[test]
fn m1_msg_is_for_messages() {
    let world = World::new();
    let line = world.number(A).line("msg", &claims());
    assert_valid(&judge(&world, "MESSAGE", &line, "x"));
    let verdict = judge(&world, "INVITE", &line, "");
    assert_eq!((sole(&verdict).disposition, verdict.overall()), (Disposition::Ignored, Overall::NoIdentity));
    // So it is when only the header of the token says so.
    let verdict = judge(&world, "INVITE", &line.replace(";ppt=\"msg\"", ""), "");
    assert_eq!(sole(&verdict).disposition, Disposition::Ignored);
}

#[test]
fn m3_m4_msgi_elsewhere_counts_for_nothing_and_has_to_fit_its_label() {
    let world = World::new();
    let party = world.number(A);
    for digest in [json!("sha256-AA"), json!(1), json!(Hash::Sha256.padded(b"other"))] {
        let payload = set(claims(), "msgi", digest);
        assert_valid(&judge(&world, "MESSAGE", &party.line("", &payload), BODY));
    }
    for hash in Hash::ALL {
        for digest in [hash.padded(BODY.as_bytes()), hash.unpadded(BODY.as_bytes())] {
            let payload = set(claims(), "msgi", digest);
            assert_valid(&judge(&world, "MESSAGE", &party.line("msg", &payload), BODY));
        }
    }
    let mislabelled = Hash::Sha384.padded(BODY.as_bytes()).replace("sha384", "sha256");
    let verdict = judge(&world, "MESSAGE", &party.line("msg", &set(claims(), "msgi", mislabelled)), BODY);
    let failure = Failure::Extension(ClaimsError::Malformed("msgi"));
    assert_eq!(failures(sole(&verdict)), [(Check::Token, failure), (Check::Claims, failure)]);
    assert_eq!(verdict.rejection().map(|rejection| rejection.status), Some(438));
}

/// A diversion around it makes of a message's token no token for calls, nor for another message.
#[test]
fn m1_m5_a_diverted_msg_is_for_its_message() {
    let world = World::new();
    let payload = set(claims(), "msgi", json!(Hash::Sha256.padded(BODY.as_bytes())));
    let inner = world.number(A).token("msg", &payload);
    let line = field("div-o", &world.number(B).token("div-o", &set(div(B, C), "opt", inner)));
    let judge = |method: &str, body: &str| {
        let text = String::from_utf8(request(A, B, C, "c", std::slice::from_ref(&line), body)).unwrap();
        world.verify(&POLICY, text.replace("INVITE", method).replace("application/sdp", "text/plain").as_bytes())
    };
    assert_valid(&judge("MESSAGE", BODY));
    assert_fault("another body", &judge("MESSAGE", "Pay him"), Check::Claims, Failure::BodyMismatch, 438);
    let verdict = judge("INVITE", "");
    assert_eq!((sole(&verdict).disposition, verdict.overall()), (Disposition::Ignored, Overall::NoIdentity));
}
