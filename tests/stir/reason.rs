//! Several Identity fields, the one code over them, and Reason (RFC 8224 6.2.2, RFC 9410 sections 4 to 7).
use super::support::*;
use serde_json::json;
use vesperd::sip::{Framing, Index, Limits, Patch, parse};
use vesperd::stir::reason::{remove_own, write_lines};
use vesperd::stir::verification::{OnFailure, Outcome, Policy, Verdict};

const POLICY: Policy = Policy::vesper();

fn lines(verdict: &Verdict) -> Vec<String> {
    let mut out = Vec::new();
    write_lines(verdict, &mut out);
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

fn signature(token: &str) -> &str {
    token.rsplit('.').next().unwrap()
}

struct Tokens {
    credential: Credential,
    good: String,
    tampered: String,
    stale: String,
    unknown_root: String,
}

fn tokens() -> Tokens {
    let credential = Credential::vesper();
    let good = credential.token(&credential.header(), &claims());
    let (input, _) = good.rsplit_once('.').unwrap();
    let tampered = format!("{input}.{}", "B".repeat(86));
    let old = json!({"dest":{"tn":[CALLEE]},"iat":NOW - 61,"orig":{"tn":CALLER}});
    let stale = credential.token(&credential.header(), &old);
    let stranger = Credential::vesper();
    let unknown_root = stranger.token(&stranger.header(), &claims());
    Tokens { good, tampered, stale, unknown_root, credential }
}

fn judge(tokens: &Tokens, policy: &Policy, fields: &[&str]) -> Verdict {
    let fields: Vec<String> = fields.iter().map(|token| identity(token)).collect();
    verify(policy, &tokens.credential.trust, &invite(&fields, ""))
}

#[test]
fn one_code_over_several_fields() {
    let t = tokens();
    let broken = "a.b";
    for (fields, expected) in [
        (&[&*t.good, &*t.tampered][..], None),
        (&[&*t.tampered, &*t.good], None),
        (&[&*t.tampered, &*t.tampered], Some(438)),
        (&[&*t.stale, &*t.stale], Some(403)),
        (&[&*t.stale, &*t.tampered], Some(438)),
        (&[&*t.tampered, &*t.unknown_root], Some(437)),
        (&[&*t.stale, &*t.unknown_root, broken], Some(437)),
        (&[broken], Some(438)),
    ] {
        let verdict = judge(&t, &POLICY, fields);
        assert_eq!(verdict.rejection().map(|rejection| rejection.status), expected, "{} fields", fields.len());
    }
    let no_info = ["Identity: a.b.c".to_owned(), "Identity: d.e.f".to_owned()];
    let verdict = verify(&POLICY, &t.credential.trust, &invite(&no_info, ""));
    assert_eq!(verdict.rejection().map(|rejection| rejection.status), Some(436), "all unreachable");
    let mixed = [no_info[0].clone(), identity(&t.tampered)];
    let verdict = verify(&POLICY, &t.credential.trust, &invite(&mixed, ""));
    assert_eq!(verdict.rejection().map(|rejection| rejection.status), Some(438), "not all unreachable");
    // An ignored field does not count.
    let ignored = [identity_ppt(&t.good, "foo"), identity(&t.stale)];
    let verdict = verify(&POLICY, &t.credential.trust, &invite(&ignored, ""));
    assert_eq!(verdict.rejection().map(|rejection| rejection.status), Some(403));
}

#[test]
fn case_1_one_valid_one_tampered() {
    let t = tokens();
    let verdict = judge(&t, &POLICY, &[&t.good, &t.tampered]);
    let expected =
        format!("Reason: STIR ;cause=438 ;text=\"Invalid Identity Header\" ;ppi=\"..{}\"", signature(&t.tampered));
    assert_eq!(lines(&verdict), [expected]);
}

#[test]
fn cases_2_and_3_two_failures_two_values() {
    let t = tokens();
    for on_failure in [OnFailure::Reject, OnFailure::ContinueWithReason] {
        let policy = Policy { on_failure, ..POLICY };
        let fields = [format!("Identity: {}", t.good), identity(&t.tampered)];
        let verdict = verify(&policy, &t.credential.trust, &invite(&fields, ""));
        assert_eq!(verdict.rejection().is_some(), on_failure == OnFailure::Reject);
        let found = lines(&verdict);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            format!("Reason: STIR ;cause=436 ;text=\"Bad Identity Info\" ;ppi=\"..{}\"", signature(&t.good))
        );
        assert!(found[1].contains("cause=438") && found[1].contains(signature(&t.tampered)));
    }
}

#[test]
fn a_single_field_needs_no_ppi() {
    let t = tokens();
    assert_eq!(lines(&judge(&t, &POLICY, &[&t.stale])), ["Reason: STIR ;cause=403 ;text=\"Stale Date\""]);
    assert!(lines(&judge(&t, &POLICY, &[&t.good])).is_empty());
    assert!(lines(&judge(&t, &POLICY, &[])).is_empty());
}

#[test]
fn fields_beyond_the_limit_are_left_alone() {
    let t = tokens();
    let mut fields = vec![&*t.tampered; 16];
    fields.push(&t.good);
    let verdict = judge(&t, &POLICY, &fields);
    assert_eq!(verdict.tokens().len(), 16);
    assert!(!verdict.is_valid());
}

#[test]
fn a_need_is_no_verdict() {
    let t = tokens();
    let mut header = t.credential.header();
    header.as_object_mut().unwrap().remove("x5c");
    let octets = invite(&[identity(&t.tampered), identity(&t.credential.token(&header, &claims()))], "");
    let policy = Policy { accept_plain_stir: true, ..POLICY };
    let outcome = with(&octets, |message| verifier().verify(NOW, &policy, &t.credential.trust, None, message));
    assert!(matches!(outcome, Outcome::Need { .. }));
}

fn response(reasons: &[&str]) -> Vec<u8> {
    let reasons: String = reasons.iter().map(|reason| format!("{reason}\r\n")).collect();
    format!(
        "SIP/2.0 180 Ringing\r\nVia: SIP/2.0/TCP a.example;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
To: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n{reasons}Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn stripped(reasons: &[&str], own: &[&[u8]]) -> (usize, Vec<String>) {
    let octets = response(reasons);
    let mut index = Index::new();
    let message = parse(&octets, &mut index, Framing::Stream, &Limits::default()).unwrap();
    let mut patch = Patch::new();
    let removed = remove_own(message, own, &mut patch);
    let mut out = Vec::new();
    patch.write(message.bytes(), &mut out);
    let text = String::from_utf8(out).unwrap();
    (removed, text.lines().filter(|line| line.starts_with("Reason")).map(str::to_owned).collect())
}

#[test]
fn cases_4_to_7_only_our_own_values_are_removed() {
    let foreign = "Reason: STIR ;cause=438 ;text=\"x;ppi=..ours\" ;ppi=\"..foreign\"";
    let ours = "Reason: STIR ;cause=436 ;text=\"Bad Identity Info\" ;ppi=\"..ours\"";
    assert_eq!(stripped(&[ours, foreign], &[b"ours"]), (1, vec![foreign.to_owned()]));
    // 5: joined by commas, with another protocol in between.
    let joined = "Reason: STIR;cause=438;ppi=\"..foreign\", Q.850;cause=16, STIR ;cause=437;ppi=\"..ours\"";
    let kept = "Reason: STIR;cause=438;ppi=\"..foreign\", Q.850;cause=16";
    assert_eq!(stripped(&[joined], &[b"ours"]), (1, vec![kept.to_owned()]));
    // 6: full form; bare token.
    for ppi in ["\"h.p.ours\"", "..ours"] {
        let full = format!("Reason: stir;ppi={ppi};cause=438");
        assert_eq!(stripped(&[&full], &[b"other", b"ours"]), (1, vec![]));
    }
    // 7: no STIR code; no ppi; no protocol of ours.
    for line in [
        "Reason: STIR ;cause=500 ;ppi=\"..ours\"",
        "Reason: STIR ;cause=438",
        "Reason: SIP ;cause=438 ;ppi=\"..ours\"",
        "Reason: STIR ;cause=438 ;ppi=\"..\"",
    ] {
        assert_eq!(stripped(&[line], &[b"ours"]), (0, vec![line.to_owned()]));
    }
}
