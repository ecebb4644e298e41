//! Diversions (RFC 8946): chains over several fields, chains inside one, and all that breaks them.
use super::fetch::fetched;
use super::parties::*;
use super::pki::crl_point;
use super::support::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};
use vesperd::passport::Identity;
use vesperd::passport::ppt::{Ppt, shaken::Attestation};
use vesperd::stir::reason::write_lines;
use vesperd::stir::replay::ReplayTable;
use vesperd::stir::verification::{
    Check, CheckResult, Disposition, Failure, IdentitySource, Mode, Modes, OnFailure, Outcome, Overall, Policy,
    Profile, Retarget, Role, Verdict,
};

const STRICT: Policy = Policy { strict_retarget: true, ..Policy::shaken() };
const POLICY: Policy = Policy::shaken();

fn diversions(verdict: &Verdict) -> Vec<&str> {
    verdict.diversions().iter().map(Identity::text).collect()
}

fn fault(verdict: &Verdict, token: usize) -> Option<(Check, Option<Failure>)> {
    verdict.tokens()[token].fault()
}

fn status(verdict: &Verdict) -> Option<u16> {
    verdict.rejection().map(|rejection| rejection.status)
}

#[test]
fn d16_a_chain_proves_the_retarget() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    let lines = [provider.line("shaken", &shaken(B)), b.line("div", &div(B, C))];
    for (policy, lines) in [(STRICT, lines.to_vec()), (POLICY, lines.iter().rev().cloned().collect())] {
        let verdict = world.verify(&policy, &call(C, &lines));
        assert!(verdict.is_valid() && verdict.rejection().is_none(), "{:?}", verdict.tokens());
        assert!(verdict.tokens().iter().all(|token| token.disposition == Disposition::Valid));
        assert_eq!((verdict.retarget(), diversions(&verdict)), (Some(Retarget::Proven), vec![B]));
        assert_eq!(verdict.valid().unwrap().attest, Some(Attestation::Full));
    }
    // Without it the retarget is unproven.
    let verdict = world.verify(&POLICY, &call(C, &lines[..1]));
    assert_eq!((verdict.retarget(), status(&verdict)), (Some(Retarget::Unproven), None));
    let verdict = world.verify(&STRICT, &call(C, &lines[..1]));
    assert_eq!(fault(&verdict, 0), Some((Check::Claims, Some(Failure::Retargeted))));
    // A call that was not retargeted needs none.
    let verdict = world.verify(&STRICT, &call(B, &lines[..1]));
    assert_eq!(verdict.retarget(), Some(Retarget::None));
}

/// RFC 8946 4.2 looks at the Request-URI, not at To.
#[test]
fn d16_to_is_not_asked() {
    let world = World::new();
    let lines = [world.provider().line("shaken", &shaken(B)), world.number(B).line("div", &div(B, C))];
    let octets = request(A, C, C, "c", &lines, "");
    let verdict = world.verify(&STRICT, &octets);
    assert!(verdict.is_valid(), "{:?}", verdict.tokens());
    let verdict = world.verify(&STRICT, &request(A, C, C, "c", &lines[..1], ""));
    assert_eq!(fault(&verdict, 0), Some((Check::Claims, Some(Failure::DestMismatch))));
}

#[test]
fn d15_two_diversions_in_order_and_the_limits() {
    let world = World::new();
    let lines = [
        world.number(C).line("div", &div(C, D)),
        world.provider().line("shaken", &shaken(B)),
        world.number(B).line("div", &div(B, C)),
    ];
    let verdict = world.verify(&STRICT, &call(D, &lines));
    assert_eq!((verdict.is_valid(), diversions(&verdict)), (true, vec![B, C]));
    let one = Policy { max_diversions: 1, ..STRICT };
    let verdict = world.verify(&one, &call(D, &lines));
    assert_eq!(status(&verdict), Some(438));
    assert_eq!(fault(&verdict, 0), Some((Check::Claims, Some(Failure::TooManyDiversions))));
    // Five are followed by default, a sixth is not.
    let numbers: Vec<String> = (0..8).map(|n| format!("1215555{n:04}")).collect();
    for (count, is_valid) in [(5, true), (6, false)] {
        let mut lines = vec![world.provider().line("shaken", &shaken(&numbers[0]))];
        for pair in numbers.windows(2).take(count) {
            lines.push(world.provider().line("div", &div(&pair[0], &pair[1])));
        }
        let verdict = world.verify(&STRICT, &call(&numbers[count], &lines));
        assert_eq!(verdict.is_valid(), is_valid, "{count}");
        assert_eq!(diversions(&verdict).len(), if is_valid { count } else { 0 });
    }
}

#[test]
fn d8_the_certificate_speaks_for_the_diverting_party() {
    let world = World::new();
    let shaken = world.provider().line("shaken", &shaken(B));
    for other in [A, C, D] {
        let lines = [shaken.clone(), world.number(other).line("div", &div(B, C))];
        let verdict = world.verify(&STRICT, &call(C, &lines));
        assert_eq!(fault(&verdict, 1), Some((Check::TnAuthorization, Some(Failure::NumberNotAuthorized))), "{other}");
        assert_eq!(verdict.overall(), Overall::Invalid);
        // RFC 8224 leaves retargeting open, so the innermost token stands by itself (I-29).
        let verdict = world.verify(&POLICY, &call(C, &lines));
        assert_eq!((verdict.is_valid(), verdict.retarget()), (true, Some(Retarget::Unproven)));
    }
}

#[test]
fn d16_a_div_without_innermost_never_makes_a_call_valid() {
    let world = World::new();
    let b = world.number(B);
    for lines in [vec![b.line("div", &div(B, C))], vec![b.line("div", &div(B, C)), b.line("div", &div(B, C))]] {
        let verdict = world.verify(&POLICY, &call(C, &lines));
        assert_eq!((verdict.overall(), status(&verdict)), (Overall::Invalid, Some(438)));
        assert_eq!(fault(&verdict, 0), Some((Check::Claims, Some(Failure::DivIncomplete))));
        assert_eq!(verdict.tokens()[0].role, Role::Diversion);
    }
}

#[test]
fn step_1_the_outermost_leads_to_the_request_uri() {
    let world = World::new();
    let lines = [world.provider().line("shaken", &shaken(B)), world.number(B).line("div", &div(B, C))];
    let verdict = world.verify(&STRICT, &call(D, &lines));
    assert_eq!(fault(&verdict, 1), Some((Check::Claims, Some(Failure::DivTarget))));
    assert_eq!(status(&verdict), Some(438));
}

#[test]
fn step_3_one_caller_along_the_chain() {
    let world = World::new();
    let foreign = set(div(B, C), "orig", json!({"tn": "12015550109"}));
    let lines = [world.provider().line("shaken", &shaken(B)), world.number(B).line("div", &foreign)];
    let verdict = world.verify(&STRICT, &call(C, &lines));
    assert_eq!(fault(&verdict, 1), Some((Check::Claims, Some(Failure::OrigMismatch))));
    // The diversion names the caller of the request, the token another.
    let other = set(shaken(B), "orig", json!({"tn": "12015550109"}));
    let lines = [world.provider().line("shaken", &other), world.number(B).line("div", &div(B, C))];
    let verdict = world.verify(&POLICY, &call(C, &lines));
    assert_eq!(fault(&verdict, 1), Some((Check::Claims, Some(Failure::DivOrig))));
    assert_eq!(status(&verdict), Some(438));
    // Both are callers of the request, one asserted, one in From: the chain is broken all the same.
    let asserted = "P-Asserted-Identity: <tel:+12015550109>".to_owned();
    let lines = [world.provider().line("shaken", &other), world.number(B).line("div", &div(B, C)), asserted];
    let policy = Policy { identity_source: IdentitySource::AssertedThenFrom, ..STRICT };
    let verdict = world.verify(&policy, &call(C, &lines));
    assert_eq!(fault(&verdict, 1), Some((Check::Claims, Some(Failure::DivOrig))));
    assert_eq!((status(&verdict), verdict.diversions().len()), (Some(438), 0));
}

#[test]
fn step_4_freshness_inside_and_outside() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    let aged = |payload: Value, age: i64| set(payload, "iat", NOW - age);
    let late = Policy { diverted_freshness: 300, ..STRICT };
    for (inner, outer, policy, expected) in [
        (61, 0, STRICT, Err((0, Failure::Stale { age: 61 }))),
        (61, 0, late, Ok(())),
        (300, 60, late, Ok(())),
        (301, 0, late, Err((0, Failure::Stale { age: 301 }))),
        (61, 61, late, Err((1, Failure::Stale { age: 61 }))),
    ] {
        let lines = [provider.line("shaken", &aged(shaken(B), inner)), b.line("div", &aged(div(B, C), outer))];
        let verdict = world.verify(&policy, &call(C, &lines));
        assert_eq!(verdict.is_valid(), expected.is_ok(), "{inner} {outer}");
        if let Err((token, failure)) = expected {
            assert_eq!(verdict.tokens()[token].checks.get(Check::Freshness).failure(), Some(failure));
        }
    }
    // Without a diversion the wider window is for nobody.
    let verdict = world.verify(&late, &call(B, &[provider.line("shaken", &aged(shaken(B), 61))]));
    assert_eq!(status(&verdict), Some(403));
}

#[test]
fn step_5_every_signature_counts() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    let break_signature = |line: &str| line.replace(signature(line), &"A".repeat(86));
    let good = [provider.line("shaken", &shaken(B)), b.line("div", &div(B, C))];
    for at in 0..2 {
        let mut lines = good.clone();
        lines[at] = break_signature(&lines[at]);
        let verdict = world.verify(&STRICT, &call(C, &lines));
        assert_eq!(fault(&verdict, at), Some((Check::Signature, Some(Failure::Signature))), "{at}");
        assert_eq!(status(&verdict), Some(438));
    }
    // An innermost token of an unknown kind takes its chain along: ignored, not failed.
    let unknown = [good[0].replace("ppt=\"shaken\"", "ppt=\"foo\""), good[1].clone()];
    let verdict = world.verify(&POLICY, &call(C, &unknown));
    assert!(verdict.tokens().iter().all(|token| token.disposition == Disposition::Ignored));
    assert_eq!((verdict.overall(), verdict.rejection()), (Overall::NoIdentity, None));
}

#[test]
fn d14_one_div_may_end_in_several_tokens() {
    let world = World::new();
    let rich = json!({"dest": {"tn": [B]}, "iat": NOW, "orig": {"tn": A}, "rcd": {"nam": "Caller"}});
    let lines = [
        world.number(A).line("rcd", &rich),
        world.number(B).line("div", &div(B, C)),
        world.provider().line("shaken", &shaken(B)),
    ];
    let verdict = world.verify(&STRICT, &call(C, &lines));
    assert!(verdict.tokens().iter().all(|token| token.disposition == Disposition::Valid), "{:?}", verdict.tokens());
    assert_eq!(verdict.valid().unwrap().ppt, Some(Ppt::Shaken), "the one with attestation decides");
    assert_eq!(verdict.rich_call_data().next().unwrap().name.as_deref(), Some("Caller"));
    // Each for a destination of its own.
    let other = json!({"dest": {"tn": ["12155551299"]}, "iat": NOW, "orig": {"tn": A}});
    let lines = [
        world.number(A).line("", &other),
        world.number("12155551299").line("div", &div("12155551299", C)),
        world.provider().line("shaken", &shaken(B)),
        world.number(B).line("div", &div(B, C)),
    ];
    let verdict = world.verify(&STRICT, &call(C, &lines));
    assert!(verdict.tokens().iter().all(|token| token.disposition == Disposition::Valid));
    let of = |at: usize| verdict.tokens()[at].diversions.iter().map(Identity::text).collect::<Vec<_>>();
    assert_eq!((of(0), of(2)), (vec!["12155551299"], vec![B]));
}

#[test]
fn circles_end() {
    let world = World::new();
    let provider = world.provider();
    // Round in a circle and never back to the first token.
    let lines = [
        provider.line("shaken", &shaken("12155551299")),
        provider.line("div", &div(B, C)),
        provider.line("div", &div(C, B)),
    ];
    let verdict = world.verify(&STRICT, &call(C, &lines));
    assert_eq!(status(&verdict), Some(438));
    assert!(verdict.tokens()[1..].iter().all(|token| matches!(token.disposition, Disposition::Invalid(_))));
    // There and back, and then on: each token is used once.
    let lines = [
        provider.line("shaken", &shaken(B)),
        provider.line("div", &div(B, C)),
        provider.line("div", &div(C, B)),
        provider.line("div", &div(B, D)),
    ];
    let verdict = world.verify(&STRICT, &call(D, &lines));
    assert_eq!((verdict.is_valid(), diversions(&verdict)), (true, vec![B]));
    // One that diverts to itself.
    let lines = [provider.line("shaken", &shaken("12155551299")), provider.line("div", &div(C, C))];
    assert_eq!(status(&world.verify(&STRICT, &call(C, &lines))), Some(438));
}

/// D-16: each diversion is asked for an earlier token, also where a shorter chain leads to the same one.
#[test]
fn d16_several_chains_to_one_token() {
    let world = World::new();
    let provider = world.provider();
    let (first, step) = (provider.line("shaken", &shaken(B)), |from, to| provider.line("div", &div(from, to)));
    for (target, steps) in [
        (C, vec![step(B, C), world.number(B).line("div", &div(B, C))]),
        (D, vec![step(B, D), step(B, C), step(C, D)]),
        // There and back, and then on.
        (D, vec![step(B, C), step(C, B), step(B, D)]),
    ] {
        let lines: Vec<String> = [vec![first.clone()], steps].concat();
        let verdict = world.verify(&STRICT, &call(target, &lines));
        let is_valid = |at: usize| verdict.tokens()[at].disposition == Disposition::Valid;
        assert!((0..lines.len()).all(is_valid), "{:?}", verdict.tokens());
        assert_eq!(diversions(&verdict).len(), 1, "the shortest is told");
    }
    // One that leads nowhere is none of them.
    let lines = [first.clone(), step(B, C), step(D, C)];
    let verdict = world.verify(&STRICT, &call(C, &lines));
    assert!(verdict.is_valid());
    assert_eq!(fault(&verdict, 2), Some((Check::Claims, Some(Failure::DivIncomplete))));
}

/// All lead to all: the ways are more than could be gone.
#[test]
fn d16_the_search_for_chains_is_bounded() {
    let world = World::new();
    let provider = world.provider();
    let policy = Policy { max_diversions: 10, ..STRICT };
    let mut lines: Vec<String> = (0..15).map(|at| provider.line("div", &set(div(B, B), "iat", NOW - at))).collect();
    // None is at the beginning.
    lines.push(provider.line("shaken", &shaken(C)));
    let verdict = world.verify(&policy, &call(B, &lines));
    assert!(!verdict.is_valid());
    lines.pop();
    lines.push(provider.line("shaken", &shaken(B)));
    assert!(world.verify(&policy, &call(B, &lines)).is_valid());
}

#[test]
fn uris_compare_in_canonical_form() {
    let world = World::new();
    let innermost = set(shaken(B), "dest", json!({"uri": ["sip:Bob@B.example;transport=tcp"]}));
    let div = set(div(B, C), "div", json!({"uri": "sip:bob@b.example"}));
    let mut params = leaf_params();
    params.subject_alt_names = vec![rcgen::SanType::DnsName("b.example".try_into().unwrap())];
    params.custom_extensions.push(tn_extension(&[one(D)]));
    let lines = [world.provider().line("shaken", &innermost), world.issue(params).line("div", &div)];
    let verdict = world.verify(&STRICT, &call(C, &lines));
    assert_eq!((verdict.is_valid(), diversions(&verdict)), (true, vec!["sip:bob@b.example"]));
}

#[test]
fn d19_hi_counts_for_nothing() {
    let world = World::new();
    let div = set(div(B, C), "div", json!({"hi": "1.2.1", "tn": B}));
    let lines = [world.provider().line("shaken", &shaken(B)), world.number(B).line("div", &div)];
    assert!(world.verify(&STRICT, &call(C, &lines)).is_valid());
}

#[test]
fn i31_a_chain_is_not_replayed() {
    let world = World::new();
    let lines = [world.provider().line("shaken", &shaken(B)), world.number(B).line("div", &div(B, C))];
    let (replay, mut verifier) = (ReplayTable::default(), verifier());
    let mut verify = |uri: &str, call_id: &str| {
        let octets = request(A, B, uri, call_id, &lines, "");
        let store = &world.hierarchy.store;
        done(with(&octets, |message| verifier.verify(NOW, &STRICT, store, Some(&replay), message)))
    };
    // A copy whose chain leads elsewhere is refused, and does not spoil the true call.
    assert!(!verify(D, "stranger").is_valid());
    assert!(verify(C, "call-1").is_valid());
    assert!(verify(C, "call-1").is_valid(), "a retransmission");
    let again = verify(C, "call-2");
    assert!(!again.is_valid());
    assert_eq!(again.tokens()[0].checks.get(Check::Replay).failure(), Some(Failure::Replayed));
}

/// Test 1 of RFC 9410: one valid, the diversion tampered with: one Reason value, for that field.
#[test]
fn e4_case_1_a_tampered_div_beside_a_valid_token() {
    let world = World::new();
    let mut lines = [world.provider().line("shaken", &shaken(B)), world.number(B).line("div", &div(B, C))];
    lines[1] = lines[1].replace(signature(&lines[1]), &"A".repeat(86));
    let policy = Policy { on_failure: OnFailure::ContinueWithReason, ..STRICT };
    let verdict = world.verify(&policy, &call(B, &lines));
    assert_eq!((verdict.is_valid(), verdict.rejection()), (true, None));
    let mut out = Vec::new();
    write_lines(&verdict, &mut out);
    let expected =
        format!("Reason: STIR ;cause=438 ;text=\"Invalid Identity Header\" ;ppi=\"..{}\"\r\n", "A".repeat(86));
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

/// A certificate that is not there yet leaves the chain open, and is asked for only where the call needs it.
#[test]
fn d16_certificates_to_be_fetched() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    let header = json!({"alg": "ES256", "ppt": "div", "typ": "passport", "x5u": "https://b.example/c.pem"});
    let credential = Credential { hierarchy: Hierarchy::new(), leaf: b.leaf, trust: Default::default() };
    let token = credential.token(&header, &div(B, C));
    let lines =
        [provider.line("shaken", &shaken(B)), format!("Identity: {token};info=<https://b.example/c.pem>;ppt=\"div\"")];
    let octets = call(C, &lines);
    let mut verifier = verifier();
    let store = &world.hierarchy.store;
    let run = |verifier: &mut vesperd::stir::verification::Verifier, policy: &Policy| {
        with(&octets, |message| verifier.verify(NOW, policy, store, None, message))
    };
    match run(&mut verifier, &STRICT) {
        Outcome::Need { x5u } => assert_eq!(&*x5u, "https://b.example/c.pem"),
        other => panic!("{other:?}"),
    }
    // The call is valid without: nothing is waited for, nothing is failed, and it is said what would be worth fetching.
    let verdict = done(run(&mut verifier, &POLICY));
    assert_eq!((verdict.is_valid(), verdict.retarget()), (true, Some(Retarget::Unproven)));
    assert_eq!(verdict.tokens()[1].disposition, Disposition::Unchecked);
    assert_eq!(verdict.unfetched(), Some("https://b.example/c.pem"));
    let chain = vec![credential.leaf.der.clone(), world.hierarchy.intermediate.der.clone()];
    verifier.provide(NOW, store, "https://b.example/c.pem", fetched(&chain, NOW + DAY));
    let verdict = done(run(&mut verifier, &STRICT));
    assert_eq!((verdict.is_valid(), verdict.retarget(), verdict.unfetched()), (true, Some(Retarget::Proven), None));
}

fn nested(party: &Party, from: &str, to: &str, opt: &str) -> String {
    party.token("div-o", &set(div(from, to), "opt", opt))
}

#[test]
fn d17_a_div_o_holds_its_whole_chain() {
    let world = World::new();
    let (provider, b, c) = (world.provider(), world.number(B), world.number(C));
    let first = provider.token("shaken", &shaken(B));
    let one = nested(&b, B, C, &first);
    let two = nested(&c, C, D, &one);
    for (uri, token, expected) in [(C, &one, vec![B]), (D, &two, vec![B, C])] {
        let verdict = world.verify(&STRICT, &call(uri, &[field("div-o", token)]));
        assert_valid(&verdict);
        assert_eq!((verdict.retarget(), diversions(&verdict)), (Some(Retarget::Proven), expected));
        let token = sole(&verdict);
        assert_eq!((token.ppt, token.role, token.attest), (Some(Ppt::DivO), Role::Number, Some(Attestation::Full)));
    }
    // To is not asked, the Request-URI is.
    let verdict = world.verify(&POLICY, &call(B, &[field("div-o", &two)]));
    assert_fault("target", &verdict, Check::Claims, Failure::DivTarget, 438);
    let short = Policy { max_diversions: 1, ..STRICT };
    let verdict = world.verify(&short, &call(D, &[field("div-o", &two)]));
    assert_fault("too many", &verdict, Check::Claims, Failure::TooManyDiversions, 438);
    // A later diversion in a field of its own goes on from it.
    let lines = [field("div-o", &one), c.line("div", &div(C, D))];
    let verdict = world.verify(&STRICT, &call(D, &lines));
    assert_eq!((verdict.is_valid(), diversions(&verdict)), (true, vec![B, C]), "{:?}", verdict.tokens());
}

#[test]
fn d17_what_breaks_inside_breaks_the_whole() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    let stranger = World::new().provider();
    let good = provider.token("shaken", &shaken(B));
    let unsigned = good.replace(good.rsplit('.').next().unwrap(), &"A".repeat(86));
    let malformed = Failure::Extension(vesperd::passport::ClaimsError::Malformed("opt"));
    let segments = Failure::Jws(vesperd::passport::JwsError::Segments);
    let foreign = set(shaken(B), "orig", json!({"tn": "12015550109"}));
    for (name, opt, check, failure, status) in [
        ("signature", unsigned, Check::Signature, Failure::Signature, 438),
        ("root", stranger.token("shaken", &shaken(B)), Check::Chain, Failure::Path, 437),
        (
            "scope",
            world.number(B).token("shaken", &shaken(B)),
            Check::TnAuthorization,
            Failure::NumberNotAuthorized,
            437,
        ),
        ("dest", provider.token("shaken", &shaken(C)), Check::Claims, Failure::DivIncomplete, 438),
        ("orig", provider.token("shaken", &foreign), Check::Claims, Failure::DivOrig, 438),
        (
            "stale",
            provider.token("shaken", &set(shaken(B), "iat", NOW - 61)),
            Check::Freshness,
            Failure::Stale { age: 61 },
            403,
        ),
        ("no token", "a.b".into(), Check::Token, segments, 438),
        ("a div", provider.token("div", &div(A, B)), Check::Claims, Failure::DivIncomplete, 438),
        (
            "attest",
            provider.token("shaken", &set(shaken(B), "attest", "Z")),
            Check::Token,
            Failure::Extension(vesperd::passport::ClaimsError::Malformed("attest")),
            438,
        ),
    ] {
        let verdict = world.verify(&POLICY, &call(C, &[field("div-o", &nested(&b, B, C, &opt))]));
        let token = sole(&verdict);
        assert_eq!(token.checks.get(check).failure(), Some(failure), "{name}");
        assert_eq!(verdict.rejection().map(|rejection| rejection.status), Some(status), "{name}");
        assert!(verdict.diversions().is_empty() && !verdict.is_valid());
    }
    let compact = format!("..{}", good.rsplit('.').next().unwrap());
    let verdict = world.verify(&POLICY, &call(C, &[field("div-o", &nested(&b, B, C, &compact))]));
    assert_fault("compact", &verdict, Check::Token, malformed, 438);
    // An unknown kind inside: ignored as a whole.
    let unknown = nested(&b, B, C, &provider.token("rsp", &shaken(B)));
    let verdict = world.verify(&POLICY, &call(C, &[field("div-o", &unknown)]));
    assert_eq!(sole(&verdict).disposition, Disposition::Ignored);
}

/// Attestation and caller are those of the innermost token: so are the certificate and the demands that are told of it.
#[test]
fn d17_the_credential_is_that_of_the_innermost_token() {
    let world = World::new();
    let (provider, b, c) = (world.provider(), world.number(B), world.number(C));
    let two = nested(&c, C, D, &nested(&b, B, C, &provider.token("shaken", &shaken(B))));
    let verdict = world.verify(&STRICT, &call(D, &[field("div-o", &two)]));
    assert_valid(&verdict);
    let ders = |token: &vesperd::stir::verification::TokenVerdict| -> Vec<Vec<u8>> {
        token.credentials().map(|known| known.chain.as_ref().unwrap().leaf.der().to_vec()).collect()
    };
    let token = sole(&verdict);
    assert_eq!(ders(token), [c.leaf.der, b.leaf.der.clone(), provider.leaf.der.clone()]);
    let shown = token.credential.as_ref().unwrap().chain.as_ref().unwrap();
    assert_eq!(shown.leaf.der(), provider.leaf.der);
    let mut line = Vec::new();
    vesperd::stir::verdict_line::write_value(&verdict, NOW, &mut line);
    let line = String::from_utf8(line).unwrap();
    assert!(line.contains(";attest=A") && line.contains(";spc=\"709J\""), "{line}");
    // Only the outer token carries its chain: it is held to VESPER, what is inside to plain STIR.
    let header = json!({"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": "https://p.example/c.pem"});
    let chain = vec![provider.leaf.der.clone(), world.hierarchy.intermediate.der.clone()];
    let credential = Credential { hierarchy: Hierarchy::new(), leaf: provider.leaf, trust: Default::default() };
    let one = nested(&b, B, C, &credential.token(&header, &shaken(B)));
    let policy = Policy { accept_plain_stir: true, modes: Modes::all(Mode::Report), ..Policy::vesper() };
    let mut verifier = verifier();
    verifier.provide(NOW, &world.hierarchy.store, "https://p.example/c.pem", fetched(&chain, NOW + DAY));
    let octets = call(C, &[field("div-o", &one)]);
    let store = &world.hierarchy.store;
    let verdict = done(with(&octets, |message| verifier.verify(NOW, &policy, store, None, message)));
    assert_eq!((sole(&verdict).profile, sole(&verdict).attest), (Profile::Shaken, Some(Attestation::Full)));
    assert_eq!(ders(sole(&verdict)), [b.leaf.der, chain[0].clone()]);
}

/// What is not at hand for a token inside is not known of the whole, and is fetched for calls to come.
#[test]
fn d17_what_lacks_inside_is_asked_for() {
    let world = World::new();
    let mut params = shaken_params();
    params.not_after = params.not_before + time::Duration::days(30);
    params.custom_extensions.push(crl_point("https://crl.example/list.crl", None));
    let (caller, b) = (world.issue(params), world.number(B));
    let octets = call(C, &[field("div-o", &nested(&b, B, C, &caller.token("shaken", &shaken(B))))]);
    let verdict = world.verify(&STRICT, &octets);
    let token = sole(&verdict);
    assert!(verdict.is_valid());
    assert_eq!(token.checks.get(Check::Revocation), CheckResult::Unknown);
    let lacking = |verdict: &Verdict| -> Vec<Vec<u8>> {
        verdict.lacking_credentials().map(|known| known.chain.as_ref().unwrap().leaf.der().to_vec()).collect()
    };
    assert!(token.lacks() && lacking(&verdict).contains(&caller.leaf.der));
    let mut enforced = STRICT;
    enforced.modes.set(Check::Revocation, Mode::Enforce);
    assert_eq!(fault(&world.verify(&enforced, &octets), 0), Some((Check::Revocation, Some(Failure::CrlUnavailable))));
}

/// Reporting a failure does not make good what was never looked at.
#[test]
fn d17_what_can_not_be_opened_proves_nothing_whatever_is_enforced() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    let report = Policy { modes: Modes::all(Mode::Report), ..POLICY };
    let good = provider.token("shaken", &shaken(B));
    let with_chain = |x5c: Value| {
        let header = json!({"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5c": x5c, "x5u": X5U});
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), good.split_once('.').unwrap().1)
    };
    for opt in ["a.b.c".to_owned(), with_chain(json!("none"))] {
        let verdict = world.verify(&report, &call(C, &[field("div-o", &nested(&b, B, C, &opt))]));
        assert!(!verdict.is_valid(), "{opt}");
    }
    // The certificate is reported, the signature counts: nobody knows it.
    let mut signature = report;
    signature.modes.set(Check::Signature, Mode::Enforce);
    let octets = call(C, &[field("div-o", &nested(&b, B, C, &with_chain(json!(["AAAA"]))))]);
    assert!(!world.verify(&signature, &octets).is_valid());
}

/// D-3: a diversion in compact form can not be rebuilt.
#[test]
fn d3_no_compact_forms() {
    let world = World::new();
    for ppt in ["div", "div-o", "rph"] {
        let line = field(ppt, &format!("..{}", "A".repeat(86)));
        let verdict = world.verify(&POLICY, &call(C, &[line, "Date: Thu, 01 Jan 2026 00:00:00 GMT".into()]));
        assert_eq!(fault(&verdict, 0), Some((Check::Token, Some(Failure::Compact))), "{ppt}");
    }
}

/// Depth costs no more than length: what lies deeper than the limit is not even read, and the payload bounds what can be there.
#[test]
fn deep_nesting_is_bounded() {
    let world = World::new();
    let party = world.party(&[spc("709J")]);
    let mut token = format!("{}.{}.{}", "e30", "e30", "A".repeat(86));
    for _ in 0..12 {
        token = nested(&party, B, C, &token);
        if token.len() > 40_000 {
            break;
        }
    }
    let verdict = world.verify(&POLICY, &call(C, &[field("div-o", &token)]));
    assert!(!verdict.is_valid());
    assert_eq!(verdict.rejection().map(|rejection| rejection.status), Some(438));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any set of diversions: the chain is proven exactly when a walk from the Request-URI back finds the first token.
    #[test]
    fn chains_are_found_as_a_plain_search_finds_them(edges in proptest::collection::vec((0_usize..4, 0_usize..4), 0..6)) {
        static NUMBERS: [&str; 4] = ["12155551210", "12155551211", "12155551212", "12155551213"];
        let world = World::new();
        let provider = world.provider();
        let mut lines = vec![provider.line("shaken", &shaken(NUMBERS[0]))];
        lines.extend(edges.iter().map(|(from, to)| provider.line("div", &div(NUMBERS[*from], NUMBERS[*to]))));
        let octets = request(A, "12155559999", NUMBERS[3], "c", &lines, "");
        let verdict = world.verify(&STRICT, &octets);
        // All numbers that lead to the last one, by as many rounds as there are numbers.
        let mut leads = [false, false, false, true];
        for _ in 0..4 {
            for (from, to) in &edges {
                leads[*from] |= leads[*to];
            }
        }
        prop_assert_eq!(verdict.is_valid(), leads[0] && edges.iter().any(|(from, _)| *from == 0));
        prop_assert_eq!(verdict.retarget() == Some(Retarget::Proven), verdict.is_valid());
    }
}
