//! The authentication service: what it writes verifies, and what it may not sign it does not.
use super::fetch::fetched;
use super::support::*;
use p256::ecdsa::signature::Verifier as _;
use p256::pkcs8::EncodePrivateKey as _;
use vesperd::cert::{Certificate, ClaimConstraints, ConstraintKind, PermittedValues, oid};
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::passport::{Claims, Config, Identity, ProtectedHeader, Token, jws};
use vesperd::sip::{Name, identity::IdentityValue};
use vesperd::stir::authentication::{SignError, Signer, SignerConfig, SignerError, SignerWarning};
use vesperd::stir::url::UrlError;
use vesperd::stir::verification::{IdentitySource, Policy, Profile};

fn config(credential: &Credential, profile: Profile) -> SignerConfig {
    SignerConfig::new(profile, credential.chain(), credential.key_der(), X5U)
}

fn signed(signer: &Signer, octets: &[u8]) -> Result<String, SignError> {
    let mut lines = Vec::new();
    let result = with(octets, |message| signer.sign(NOW, message, [0xab; 16], &mut lines));
    assert_eq!(result.is_err(), lines.is_empty(), "all or nothing");
    result.map(|()| String::from_utf8(lines).unwrap())
}

/// The request with the lines a signer added.
fn add(octets: &[u8], lines: &str) -> Vec<u8> {
    String::from_utf8(octets.to_vec()).unwrap().replacen("CSeq:", &format!("{lines}CSeq:"), 1).into_bytes()
}

#[test]
fn what_is_signed_verifies() {
    let credential = Credential::vesper();
    let request = invite(&[], "");
    for profile in [Profile::Vesper, Profile::Shaken] {
        for attestation in [None, Some(Attestation::Partial)] {
            let signer = Signer::new(SignerConfig { attestation, ..config(&credential, profile) }).unwrap();
            let lines = signed(&signer, &request).unwrap();
            assert!(lines.starts_with("Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nIdentity: "), "{lines}");
            let ppt = if attestation.is_some() { ";ppt=\"shaken\"" } else { "" };
            assert!(lines.ends_with(&format!(";info=<{X5U}>;alg=ES256{ppt}\r\n")), "{lines}");
            let mut verifier = verifier();
            let policy = if profile == Profile::Vesper { Policy::vesper() } else { Policy::shaken() };
            verifier.provide(NOW, &credential.trust, X5U, fetched(&credential.chain(), NOW + DAY));
            let octets = add(&request, &lines);
            let verdict =
                done(with(&octets, |message| verifier.verify(NOW, &policy, &credential.trust, None, message)));
            assert_valid(&verdict);
            let believed = if profile == Profile::Shaken { attestation } else { None };
            assert_eq!(sole(&verdict).attest, believed);
        }
    }
}

/// RFC 8224 8.4: the domain of a URI without a user part is read by the signer as by the verifier.
#[test]
fn a_domain_itself_signs_and_verifies() {
    let credential = Credential::vesper();
    let plain = SignerConfig { attestation: None, ..config(&credential, Profile::Shaken) };
    let signer = Signer::new(plain).unwrap();
    for (uri, is_signed) in [
        (format!("sip:{HOST}"), true),
        (format!("sip:bob@{HOST}"), true),
        ("sip:other.example".to_owned(), false),
        (format!("sip:bob@other.example;x={HOST}"), false),
    ] {
        let text = String::from_utf8(invite(&[], "")).unwrap();
        let octets = text.replace(&format!("sip:+{CALLER}@a.example;user=phone"), &uri).into_bytes();
        let lines = match signed(&signer, &octets) {
            Ok(lines) => lines,
            Err(error) => {
                assert_eq!((error, is_signed), (SignError::NotAuthorized, false), "{uri}");
                continue;
            }
        };
        assert!(is_signed, "{uri}");
        let mut verifier = verifier();
        verifier.provide(NOW, &credential.trust, X5U, fetched(&credential.chain(), NOW + DAY));
        let octets = add(&octets, &lines);
        let (policy, trust) = (Policy::shaken(), &credential.trust);
        assert_valid(&done(with(&octets, |message| verifier.verify(NOW, &policy, trust, None, message))));
    }
}

/// Differential oracle: p256 verifies what aws-lc-rs signs, over the octets of the field.
#[test]
fn the_token_as_written() {
    let credential = Credential::vesper();
    let attestation = Some(Attestation::Full);
    let signer = Signer::new(SignerConfig { attestation, ..config(&credential, Profile::Vesper) }).unwrap();
    assert_eq!(signer.warnings(), [SignerWarning::UnauthorizedClaims]);
    let request = invite(&["Date: Wed, 31 Dec 2025 23:59:00 GMT".into()], "");
    let lines = signed(&signer, &request).unwrap();
    assert!(lines.starts_with("Identity: "), "there is a Date already");
    let octets = add(&request, &lines);
    with(&octets, |message| {
        let field = message.field(Name::Identity).unwrap();
        let value = IdentityValue::parse(field.value(), field.value_range.clone()).unwrap();
        let Ok(Token::Full(token)) = Token::parse(value.digest, &Config::default()) else { panic!("not full") };
        let header = ProtectedHeader::parse(token.header, &Config::default()).unwrap();
        assert_eq!(header.x5c, credential.chain(), "leaf and intermediate, no root");
        let mut payload = Vec::new();
        token.decode_payload(&mut payload).unwrap();
        let expected = format!(
            r#"{{"attest":"A","dest":{{"tn":["{CALLEE}"]}},"iat":{},"orig":{{"tn":"{CALLER}"}},"origid":"abababab-abab-4bab-abab-abababababab"}}"#,
            NOW - 60
        );
        assert_eq!(String::from_utf8(payload).unwrap(), expected);
        let leaf = Certificate::from_der(&header.x5c[0]).unwrap();
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(leaf.es256_point().unwrap()).unwrap();
        let signature = jws::decode_signature(token.signature).unwrap();
        let signature = p256::ecdsa::Signature::from_slice(&signature).unwrap();
        key.verify(token.signing_input, &signature).unwrap();
    });
}

#[test]
fn keys_in_every_form() {
    let credential = Credential::vesper();
    let secret = p256::SecretKey::from_slice(&{
        let pkcs8 = credential.key_der();
        let key = <p256::SecretKey as p256::pkcs8::DecodePrivateKey>::from_pkcs8_der(&pkcs8).unwrap();
        key.to_bytes()
    })
    .unwrap();
    let forms = [
        credential.leaf.key.serialize_pem().into_bytes(),
        credential.key_der(),
        secret.to_sec1_pem(Default::default()).unwrap().as_bytes().to_vec(),
        secret.to_sec1_der().unwrap().to_vec(),
        secret.to_pkcs8_der().unwrap().as_bytes().to_vec(),
    ];
    for key in forms {
        let signer = Signer::new(SignerConfig { key, ..config(&credential, Profile::Vesper) }).unwrap();
        let lines = signed(&signer, &invite(&[], "")).unwrap();
        assert_valid(&verify(&Policy::vesper(), &credential.trust, &add(&invite(&[], ""), &lines)));
    }
    let with_key = |key: Vec<u8>| Signer::new(SignerConfig { key, ..config(&credential, Profile::Vesper) }).err();
    assert_eq!(with_key(Credential::vesper().key_der()), Some(SignerError::KeyMismatch));
    assert_eq!(with_key(b"nonsense".to_vec()), Some(SignerError::Key));
}

#[test]
fn preflight() {
    let good = Credential::vesper();
    let refused = |credential: &Credential, x5u: &str| {
        Signer::new(SignerConfig { x5u: x5u.into(), ..config(credential, Profile::Vesper) }).err()
    };
    assert_eq!(refused(&good, X5U), None);
    assert_eq!(refused(&good, "https://other.example/"), Some(SignerError::HostNotInCertificate));
    assert_eq!(refused(&good, "http://exampleretail.example/"), Some(SignerError::Url(UrlError::Scheme)));
    let no_sct = Credential::issue_from(vesper_params(&numbers()), &[], NOW);
    assert_eq!(refused(&no_sct, X5U), Some(SignerError::NoSct));
    let spc_only = Credential::issue(vesper_params(&[spc("709J")]), NOW);
    assert_eq!(refused(&spc_only, X5U), Some(SignerError::NoNumber));
    assert_eq!(refused(&Credential::shaken(), X5U), Some(SignerError::NoNumber));
    assert!(Signer::new(config(&Credential::shaken(), Profile::Shaken)).is_ok());
    let mut nameless = vesper_params(&numbers());
    nameless.subject_alt_names.clear();
    assert_eq!(refused(&Credential::issue(nameless, NOW), X5U), Some(SignerError::NoDnsName));
    assert_eq!(refused(&Credential::issue_from(leaf_params(), &[], NOW), X5U), Some(SignerError::NoTnAuthList));
    let empty = SignerConfig { certificates: vec![], ..config(&good, Profile::Vesper) };
    assert_eq!(Signer::new(empty).err(), Some(SignerError::NoCertificate));

    let mut params = vesper_params(&numbers());
    set_validity(&mut params, NOW, NOW + 8 * DAY);
    params.distinguished_name = rcgen::DistinguishedName::new();
    let long = Credential::issue(params, NOW);
    let x5u = "https://exampleretail.example:444/x".to_owned();
    let signer = Signer::new(SignerConfig { x5u, ..config(&long, Profile::Vesper) }).unwrap();
    let warnings = [
        SignerWarning::NotFetchable(UrlError::PortNotAllowed),
        SignerWarning::NoOrganization,
        SignerWarning::LongLived { seconds: 8 * DAY },
    ];
    assert_eq!(signer.warnings(), warnings);
}

#[test]
fn what_is_not_signed() {
    let credential = Credential::vesper();
    let signer = Signer::new(config(&credential, Profile::Vesper)).unwrap();
    let at = |unix: i64| {
        let mut lines = Vec::new();
        with(&invite(&[], ""), |message| signer.sign(unix, message, [0; 16], &mut lines))
    };
    let (not_before, not_after) = (NOW - HOUR, NOW - HOUR + DAY);
    assert_eq!(at(not_before - 1), Err(SignError::NotYetValid { not_before }));
    assert_eq!(at(not_after - 60), Ok(()));
    assert_eq!(at(not_after - 59), Err(SignError::Expired { not_after }));

    let date = |date: &str| signed(&signer, &invite(&[format!("Date: {date}")], "")).err();
    assert_eq!(date("Thu, 01 Jan 2026 00:01:00 GMT"), None);
    assert_eq!(date("Thu, 01 Jan 2026 00:01:01 GMT"), Some(SignError::StaleDate { age: -61 }));
    assert_eq!(date("Wed, 31 Dec 2025 23:58:59 GMT"), Some(SignError::StaleDate { age: 61 }));
    assert_eq!(date("yesterday"), Some(SignError::BadDate));

    let from = |number: &str| signed(&signer, &request(number, CALLEE, CALLEE, "c", &[], "")).err();
    assert_eq!(from("12015550109"), None);
    assert_eq!(from("12015550110"), Some(SignError::NotAuthorized));
    let text = String::from_utf8(invite(&[], "")).unwrap();
    let uri = text.replace(&format!("sip:+{CALLER}@a.example;user=phone"), "sip:alice@exampleretail.example");
    assert_eq!(signed(&signer, uri.as_bytes()), Err(SignError::NotTelephoneNumber));
    let garbled = text.replace(&format!("<sip:+{CALLER}@a.example;user=phone>"), "<");
    let mut lines = Vec::new();
    let mut index = vesperd::sip::Index::new();
    let limits = vesperd::sip::Limits::default();
    let message = vesperd::sip::parse(garbled.as_bytes(), &mut index, vesperd::sip::Framing::Stream, &limits).unwrap();
    assert_eq!(signer.sign(NOW, message, [0; 16], &mut lines), Err(SignError::NoOriginator));
}

#[test]
fn constraints_bind_the_signer() {
    let permitted = vec![PermittedValues { claim: "attest".into(), values: vec!["A".into()] }];
    let constraints =
        ClaimConstraints::new(ConstraintKind::Basic, vec!["attest".into(), "origid".into()], permitted, vec![])
            .unwrap();
    let mut params = vesper_params(&numbers());
    params.custom_extensions.push(extension(&oid::JWT_CLAIM_CONSTRAINTS, constraints.to_der()));
    let credential = Credential::issue(params, NOW - HOUR);
    let signer =
        |attestation| Signer::new(SignerConfig { attestation, ..config(&credential, Profile::Vesper) }).unwrap();
    let full = signer(Some(Attestation::Full));
    assert_eq!(full.warnings(), []);
    let lines = signed(&full, &invite(&[], "")).unwrap();
    let strict = Policy { strict_claims: true, ..Policy::vesper() };
    let verdict = verify(&strict, &credential.trust, &add(&invite(&[], ""), &lines));
    assert_valid(&verdict);
    assert_eq!(sole(&verdict).attest, Some(Attestation::Full));
    assert!(matches!(signed(&signer(Some(Attestation::Gateway)), &invite(&[], "")), Err(SignError::Constraint(_))));
    assert!(matches!(signed(&signer(None), &invite(&[], "")), Err(SignError::Constraint(_))));
}

#[test]
fn media_keys_are_signed() {
    let credential = Credential::vesper();
    let signer = Signer::new(config(&credential, Profile::Vesper)).unwrap();
    let request = invite(&[], "v=0\r\na=fingerprint:SHA-256 ab:cd\r\n");
    let lines = signed(&signer, &request).unwrap();
    let octets = add(&request, &lines);
    assert_valid(&verify(&Policy::vesper(), &credential.trust, &octets));
    let rewritten = String::from_utf8(octets).unwrap().replace("ab:cd", "ab:ce");
    assert!(!verify(&Policy::vesper(), &credential.trust, rewritten.as_bytes()).is_valid());
}

#[test]
fn the_caller_may_be_asserted() {
    let credential = Credential::vesper();
    let identity_source = IdentitySource::AssertedThenFrom;
    let signer = Signer::new(SignerConfig { identity_source, ..config(&credential, Profile::Vesper) }).unwrap();
    let asserted = ["P-Asserted-Identity: <tel:+12015550105>".to_owned()];
    let request = request("18005550000", CALLEE, CALLEE, "c", &asserted, "");
    let octets = add(&request, &signed(&signer, &request).unwrap());
    let trusted = Policy { identity_source, ..Policy::vesper() };
    assert_valid(&verify(&trusted, &credential.trust, &octets));
    assert!(!verify(&Policy::vesper(), &credential.trust, &octets).is_valid());
}

#[test]
fn tokens_by_themselves() {
    let credential = Credential::vesper();
    let signer = Signer::new(config(&credential, Profile::Vesper)).unwrap();
    let dest = vesperd::passport::claims::Destinations::one(Identity::Tn(CALLEE.into()));
    let claims = Claims::baseline(Identity::Tn(CALLER.into()), dest, NOW);
    let mut line = b"Identity: ".to_vec();
    signer.write_token(&claims, &mut line).unwrap();
    signer.write_parameters(&mut line);
    let line = String::from_utf8(line).unwrap();
    assert_valid(&verify(&Policy::vesper(), &credential.trust, &invite(&[line], "")));
}
