//! Octets of strangers: nothing panics, and nothing that was altered is valid.
use super::support::*;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::OnceLock;
use vesperd::sip::{Framing, Index, Limits, Patch, parse};
use vesperd::stir::call_info;
use vesperd::stir::priority::strip_unproven;
use vesperd::stir::verification::{Outcome, Policy, Verdict};

struct World {
    credential: Credential,
    token: String,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let credential = Credential::vesper();
        let token = credential.token(&credential.header(), &claims());
        World { token, credential }
    })
}

/// What the segments of a token mean, with the tolerated alphabet and padding resolved.
fn meaning(token: &str) -> Vec<Option<Vec<u8>>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&URL_SAFE, config);
    let plain = |segment: &str| segment.trim_end_matches('=').replace('+', "-").replace('/', "_");
    token.split('.').map(|segment| engine.decode(plain(segment)).ok()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One octet changed: invalid, unless only the spelling of the signature changed.
    #[test]
    fn an_altered_token_is_not_valid(at in any::<prop::sample::Index>(), octet in "[A-Za-z0-9_.=+/-]") {
        let World { credential, token } = world();
        let at = at.index(token.len());
        let mut altered = token.clone();
        altered.replace_range(at..=at, &octet);
        let octets = invite(&[identity(&altered)], "");
        let signed = token.rfind('.').unwrap();
        for policy in [Policy::vesper(), Policy::shaken()] {
            let outcome = with(&octets, |message| verifier().verify(NOW, &policy, &credential.trust, None, message));
            let Outcome::Done(verdict) = outcome else { continue };
            let same = altered[..signed] == token[..signed] && meaning(&altered) == meaning(token);
            prop_assert_eq!(verdict.is_valid(), same, "octet {} {}", at, octet);
        }
    }

    /// Any text in an Identity field is judged without a panic, and is not valid.
    #[test]
    fn any_field_is_judged(text in "[ -~]{0,120}", compact in any::<bool>()) {
        let World { credential, token } = world();
        let tail = if compact { format!("..{text};info=<{X5U}>") } else { format!("{text};info=<{X5U}>;alg=ES256") };
        for line in [text.clone(), tail, token.replace('.', &text)] {
            let octets = invite(&[format!("Identity: {line}"), "Date: Thu, 01 Jan 2026 00:00:00 GMT".into()], "");
            let policy = Policy { accept_plain_stir: true, ..Policy::vesper() };
            let outcome = with(&octets, |message| verifier().verify(NOW, &policy, &credential.trust, None, message));
            if let Outcome::Done(verdict) = outcome {
                prop_assert!(!verdict.is_valid() || line == *token);
                let mut lines = Vec::new();
                vesperd::stir::reason::write_lines(&verdict, &mut lines);
                prop_assert!(lines.iter().filter(|octet| **octet == b'\n').count() <= verdict.tokens().len());
            }
        }
    }
}

/// Header bombs: what lies behind the limits is not looked at.
#[test]
fn bombs_cost_what_the_limits_allow() {
    let World { credential, token } = world();
    let judge = |lines: &[String]| {
        let text = String::from_utf8(invite(lines, "")).unwrap();
        let mut index = Index::new();
        let limits =
            Limits { message: 8 << 20, head: 8 << 20, identity_value: 2 << 20, fields: 4096, ..Limits::default() };
        let message = parse(text.as_bytes(), &mut index, Framing::Stream, &limits).unwrap();
        assert_eq!(message.fault(), None);
        done(verifier().verify(NOW, &Policy::vesper(), &credential.trust, None, message))
    };
    let status = |verdict: &Verdict| verdict.rejection().map(|rejection| rejection.status);
    // A thousand fields, all good but one look-alike in front: sixteen are judged.
    let verdict = judge(&vec![identity(token); 1000]);
    assert_eq!(verdict.tokens().len(), Policy::vesper().max_identities);
    // A thousand diversions that lead everywhere.
    let everywhere: Vec<String> = (0..64).map(|n| format!("1215555{n:04}")).collect();
    let div = json!({"dest": {"tn": everywhere}, "div": {"tn": "12155550001"}, "iat": NOW, "orig": {"tn": CALLER}});
    let mut header = credential.header();
    header["ppt"] = "div".into();
    let line = identity_ppt(&credential.token(&header, &div), "div");
    let verdict = judge(&vec![line; 1000]);
    assert_eq!((verdict.tokens().len(), verdict.is_valid()), (16, false));
    // A megabyte of x5c; 64 certificates; a payload too long, too deep, too wide.
    let mut long = credential.header();
    long["x5c"] = json!(["A".repeat(1 << 20)]);
    let mut many = credential.header();
    many["x5c"] = json!(vec!["AAAA"; 64]);
    let padded = |value: Value| {
        let mut payload = claims();
        payload["x"] = value;
        payload
    };
    let mut deep = json!(1);
    (0..120).for_each(|_| deep = json!([deep]));
    for (name, header, payload, expected) in [
        ("long x5c", &long, claims(), 438),
        ("many certificates", &many, claims(), 437),
        ("long payload", &credential.header(), padded("y".repeat(20_000).into()), 438),
        ("deep payload", &credential.header(), padded(deep), 438),
        ("wide payload", &credential.header(), padded(json!(vec![1; 65])), 438),
    ] {
        let verdict = judge(&[identity(&credential.token(header, &payload))]);
        assert_eq!(status(&verdict), Some(expected), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// One octet of a chain changed: nothing is proven, unless only the spelling of a signature changed.
    #[test]
    fn an_altered_chain_proves_nothing(at in any::<prop::sample::Index>(), which in 0_usize..3, octet in "[A-Za-z0-9_.-]") {
        static CHAIN: OnceLock<(super::parties::World, [String; 3])> = OnceLock::new();
        let (world, tokens) = CHAIN.get_or_init(|| {
            use super::parties::*;
            let world = World::new();
            let (provider, b) = (world.provider(), world.number(B));
            let first = provider.token("shaken", &shaken(B));
            let nested = b.token("div-o", &set(div(B, C), "opt", first.clone()));
            let tokens = [first, b.token("div", &div(B, C)), nested];
            (world, tokens)
        });
        let mut altered = tokens.clone();
        let at = at.index(altered[which].len());
        altered[which].replace_range(at..=at, &octet);
        let [first, div, nested] = &altered;
        let lines = match which {
            2 => vec![identity_ppt(nested, "div-o")],
            _ => vec![identity_ppt(first, "shaken"), identity_ppt(div, "div")],
        };
        let strict = Policy { strict_retarget: true, ..Policy::shaken() };
        let octets = super::parties::call(super::parties::C, &lines);
        let (altered, token) = (&altered[which], &tokens[which]);
        let signed = token.rfind('.').unwrap();
        let same = altered[..signed] == token[..signed] && meaning(altered) == meaning(token);
        let outcome = with(&octets, |message| verifier().verify(NOW, &strict, &world.hierarchy.store, None, message));
        if let Outcome::Done(verdict) = outcome {
            prop_assert_eq!(verdict.is_valid(), same, "octet {} {}", at, octet);
            prop_assert_eq!(verdict.diversions().len(), usize::from(same));
        }
    }

    /// Any Call-Info and Resource-Priority is stripped without a panic, and what is left has nothing to strip.
    #[test]
    fn stripping_leaves_nothing_to_strip(values in proptest::collection::vec("[ -~]{0,40}", 0..5)) {
        let lines: Vec<String> = values
            .iter()
            .flat_map(|value| [format!("Call-Info: {value}"), format!("Resource-Priority: {value}")])
            .collect();
        let credential = &world().credential;
        let strip = |octets: &[u8]| {
            with(octets, |message| {
                let verdict = done(verifier().verify(NOW, &Policy::vesper(), &credential.trust, None, message));
                let mut patch = Patch::new();
                let removed = call_info::strip(message, &mut patch) + strip_unproven(message, &verdict, &mut patch);
                let mut out = Vec::new();
                patch.write(message.bytes(), &mut out);
                (removed, out)
            })
        };
        let (_, octets) = strip(&invite(&lines, ""));
        prop_assert_eq!(strip(&octets).0, 0);
    }
}
