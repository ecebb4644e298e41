//! Octets of strangers: nothing panics, and nothing that was altered is valid.
use super::support::*;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use proptest::prelude::*;
use std::sync::OnceLock;
use vesperd::stir::verification::{Outcome, Policy};

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
