//! PASSporT objects against published and constructed vectors (RFC 8225, RFC 8588, RFC 8946).
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::pkcs8::{DecodePublicKey, EncodePublicKey};
use proptest::prelude::*;
use serde_json::Value;
use std::borrow::Cow;
use vesperd::passport::claims::{Destinations, Texts};
use vesperd::passport::jws::{self, decode_signature};
use vesperd::passport::ppt::shaken::{self, Attestation};
use vesperd::passport::{Claims, ClaimsError, Config, Identity, Jws, MediaKey, ProtectedHeader, Token};
use vesperd::passport::{media_key, serialize};

mod extensions;
mod rich_call_data;

const VECTORS: &str = include_str!("../vectors/passport/tokens.json");

fn vectors() -> Vec<Value> {
    serde_json::from_str(VECTORS).expect("vector file is JSON")
}

fn vector(name: &str) -> Value {
    vectors().into_iter().find(|vector| vector["name"] == name).expect("vector exists")
}

fn token(vector: &Value) -> &str {
    vector["token"].as_str().expect("every vector has a token")
}

fn full(token: &str) -> Jws<'_> {
    match Token::parse(token.as_bytes(), &Config::default()) {
        Ok(Token::Full(jws)) => jws,
        other => panic!("not a full form: {other:?}"),
    }
}

fn public_key(name: &str) -> p256::PublicKey {
    let pem = match name {
        "rfc8946" => include_str!("../vectors/passport/rfc8946.pub.pem"),
        "rfc8225-a2" => include_str!("../vectors/passport/rfc8225-a2.pub.pem"),
        other => panic!("no key {other}"),
    };
    p256::PublicKey::from_public_key_pem(pem).expect("key file is PEM")
}

/// Both verifiers have to agree.
fn verifies(jws: &Jws<'_>, key: &p256::PublicKey) -> bool {
    let signature = decode_signature(jws.signature).expect("64 octets");
    let spki = key.to_public_key_der().expect("encodes");
    let ours = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, spki.as_bytes()).verify(jws.signing_input, &signature);
    let oracle = p256::ecdsa::Signature::from_slice(&signature)
        .and_then(|signature| p256::ecdsa::VerifyingKey::from(key).verify(jws.signing_input, &signature));
    assert_eq!(ours.is_ok(), oracle.is_ok(), "aws-lc-rs and p256 disagree");
    ours.is_ok()
}

#[test]
fn published_and_constructed_tokens_verify_over_the_received_octets() {
    let mut checked = 0;
    for vector in vectors() {
        let jws = full(token(&vector));
        let keys = ["rfc8946", "rfc8225-a2"];
        for name in keys {
            let expected = vector["key"].as_str() == Some(name);
            assert_eq!(verifies(&jws, &public_key(name)), expected, "{} with {name}", vector["name"]);
            checked += usize::from(expected);
        }
    }
    assert_eq!(checked, 12, "all but RFC 8225 appendix A, whose signature verifies with neither key");
}

#[test]
fn p14_serialization_reproduces_every_canonical_vector() {
    let config = Config { lenient_iat: true, ..Config::default() };
    for vector in vectors().iter().filter(|vector| vector["serialization"] == true) {
        let name = vector["name"].as_str().expect("named");
        let jws = full(token(vector));
        let header = ProtectedHeader::parse(jws.header, &config).expect("header");
        let mut out = Vec::new();
        serialize::write_header(header.ppt.as_deref(), &header.x5c, header.x5u.as_deref(), &mut out);
        let mut encoded = Vec::new();
        jws::encode(&out, &mut encoded);
        assert_eq!(encoded, jws.header, "{name}");
        if let Some(text) = vector["header"].as_str() {
            assert_eq!(out, text.as_bytes(), "{name}");
        }
        let mut buffer = Vec::new();
        let payload = jws.decode_payload(&mut buffer).expect("payload").to_vec();
        if let Some(text) = vector["payload"].as_str() {
            assert_eq!(payload, text.as_bytes(), "{name}");
        }
        // RFC 8946 prints a div-o token whose dest.tn is a string: refused, as P-9 asks.
        if name == "RFC 8946 div-o" {
            assert_eq!(Claims::parse(&payload, &config), Err(ClaimsError::Malformed("dest")));
            continue;
        }
        let claims = Claims::parse(&payload, &config).expect(name);
        let mut written = Vec::new();
        serialize::write_claims(&claims, &mut written);
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&payload), "{name}");
    }
}

#[test]
fn p15_compact_forms_carry_the_same_signature() {
    for name in ["CV1 baseline", "CV2 baseline+mky"] {
        let vector = vector(name);
        let compact = vector["compact"].as_str().expect("compact form");
        let jws = full(token(&vector));
        assert_eq!(
            Token::parse(compact.as_bytes(), &Config::default()),
            Ok(Token::Compact { signature: jws.signature })
        );
    }
}

#[test]
fn string_iat_is_refused_unless_lenient() {
    let vector = vector("RFC 8225 7.1");
    let jws = full(token(&vector));
    let mut buffer = Vec::new();
    let payload = jws.decode_payload(&mut buffer).expect("payload");
    assert_eq!(Claims::parse(payload, &Config::default()), Err(ClaimsError::Malformed("iat")));
    let lenient = Config { lenient_iat: true, ..Config::default() };
    assert_eq!(Claims::parse(payload, &lenient).map(|claims| claims.iat), Ok(1_443_208_345));
}

#[test]
fn p12_mky_of_rfc_8225_section_5_2_2() {
    let sdp = b"v=0\r\no=- 0 0 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n\
a=fingerprint:sha-256 4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF:3E:5D:49:6B:19:E5:7C:AB:3E:4B:65:2E:7D:46:3F:54:42:CD:54:F1\r\n\
a=fingerprint:sha-256 02:1A:CC:54:27:AB:EB:9C:53:3F:3E:4B:65:2E:7D:46:3F:54:42:CD:54:F1:7A:03:A2:7D:F9:B0:7F:46:19:B2\r\n";
    let vector = vector("CV2 baseline+mky");
    let dest = Destinations::one(Identity::Uri("sip:alice@example.com".into()));
    let mut claims = Claims::baseline(Identity::Tn("12155551212".into()), dest, 1_443_208_345);
    claims.mky = Some(media_key::from_sdp(sdp, 16));
    let mut out = Vec::new();
    serialize::write_claims(&claims, &mut out);
    assert_eq!(String::from_utf8_lossy(&out), vector["payload"].as_str().expect("payload"));
}

#[test]
fn rfc_6979_signing_reproduces_the_constructed_tokens() {
    let pem = include_str!("../vectors/passport/rfc8946.key.pem");
    let key = p256::SecretKey::from_sec1_pem(pem).expect("key file is PEM");
    let key = p256::ecdsa::SigningKey::from(key);
    for vector in vectors().iter().filter(|v| v["source"] == "constructed, RFC 6979") {
        let name = vector["name"].as_str().expect("named");
        let jws = full(token(vector));
        let signature: p256::ecdsa::Signature = key.sign(jws.signing_input);
        let mut text = Vec::new();
        jws::encode(&signature.to_bytes(), &mut text);
        assert_eq!(text, jws.signature, "{name}");
    }
}

#[test]
fn claims_that_are_refused() {
    let config = Config::default();
    let (o, d, i) = (r#""orig":{"tn":"1"}"#, r#""dest":{"tn":["2"]}"#, r#""iat":3"#);
    use ClaimsError::*;
    for (payload, expected) in [
        (format!("{{{d},{i}}}"), Missing("orig")),
        (format!("{{{o},{i}}}"), Missing("dest")),
        (format!("{{{o},{d}}}"), Missing("iat")),
        (format!("{{{o},{d},{i},{i}}}"), DuplicateMember),
        (format!("{{{o},{d},{i},{o}}}"), DuplicateMember),
        (format!(r#"{{{o},{d},{i},"x":1,"x":2}}"#), DuplicateMember),
        (format!(r#"{{{o},{d},{i},"x":{{"a":[{{"b":1,"b":1}}]}}}}"#), DuplicateMember),
        (format!(r#"{{"orig":{{"tn":"1","tn":"1"}},{d},{i}}}"#), DuplicateMember),
        (format!(r#"{{{o},{i},"dest":{{"tn":["2"],"tn":["2"]}}}}"#), DuplicateMember),
        (format!(r#"{{"or\u0069g":{{"tn":"1"}},{d},{i},{o}}}"#), DuplicateMember),
        (format!(r#"{{{o},{d},"iat":3.0}}"#), Malformed("iat")),
        (format!(r#"{{{o},{d},"iat":3e0}}"#), Malformed("iat")),
        (format!(r#"{{{o},{d},"iat":"3"}}"#), Malformed("iat")),
        (format!(r#"{{{o},{d},"iat":null}}"#), Malformed("iat")),
        (format!(r#"{{{o},{d},"iat":18446744073709551615}}"#), Malformed("iat")),
        (format!(r#"{{"orig":{{"tn":"+1"}},{d},{i}}}"#), Malformed("orig")),
        (format!(r#"{{"orig":{{"tn":["1"]}},{d},{i}}}"#), Malformed("orig")),
        (format!(r#"{{"orig":{{"tn":""}},{d},{i}}}"#), Malformed("orig")),
        (format!(r#"{{"orig":{{}},{d},{i}}}"#), Malformed("orig")),
        (format!(r#"{{"orig":{{"tn":"1","uri":"sip:a@b"}},{d},{i}}}"#), Malformed("orig")),
        (format!(r#"{{"orig":"1",{d},{i}}}"#), Malformed("orig")),
        (format!(r#"{{{o},{i},"dest":{{"tn":"2"}}}}"#), Malformed("dest")),
        (format!(r#"{{{o},{i},"dest":{{"tn":[]}}}}"#), Malformed("dest")),
        (format!(r#"{{{o},{i},"dest":{{"tn":[2]}}}}"#), Malformed("dest")),
        (format!(r#"{{{o},{i},"dest":{{}}}}"#), Malformed("dest")),
        (format!(r#"{{{o},{d},{i},"mky":{{"alg":"sha-256","dig":"AB"}}}}"#), Malformed("mky")),
        (format!(r#"{{{o},{d},{i},"mky":[{{"alg":"sha-256"}}]}}"#), Malformed("mky")),
        (format!(r#"{{{o},{d},{i},"attest":1}}"#), Malformed("attest")),
    ] {
        assert_eq!(Claims::parse(payload.as_bytes(), &config), Err(expected), "{payload}");
    }
    for payload in ["", "[]", "null", "{", "\"a\"", "{\"iat\":1,}"] {
        let refused = Claims::parse(payload.as_bytes(), &config);
        assert!(matches!(refused, Err(NotJson { .. })), "{payload}: {refused:?}");
    }
    let many: String = (0..70).map(|n| format!(",\"x{n}\":{n}")).collect();
    let payload = format!("{{{o},{d},{i}{many}}}");
    assert_eq!(Claims::parse(payload.as_bytes(), &config), Err(TooManyMembers { limit: 64 }));
    let nested = |depth: usize| format!("{{{o},{d},{i},\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(Claims::parse(nested(15).as_bytes(), &config).is_ok(), "with the payload itself sixteen levels");
    assert_eq!(Claims::parse(nested(16).as_bytes(), &config), Err(TooDeep { limit: 16 }));
    let deep = format!("{{{o},{d},{i},\"x\":{}{}}}", "[".repeat(500), "]".repeat(500));
    assert!(Claims::parse(deep.as_bytes(), &config).is_err());
}

#[test]
fn white_space_and_member_order_are_free_on_receipt() {
    let payload =
        br#" { "orig" : {"tn":"1"} , "x" : [1] , "iat":3, "dest":{"uri":["sip:a@b","sip:\u0063@d"],"tn":["2"]} } "#;
    let claims = Claims::parse(payload, &Config::default()).expect("legal JSON");
    assert_eq!(claims.dest.uri.iter().collect::<Vec<_>>(), ["sip:a@b", "sip:c@d"]);
    assert_eq!(claims.others, [(Cow::from("x"), serde_json::json!([1]))]);
    assert_eq!(claims.names().collect::<Vec<_>>(), ["dest", "iat", "orig", "x"]);
}

#[test]
fn s1_shaken_claims() {
    let base = || {
        let dest = Destinations::one(Identity::Tn("2".into()));
        let mut claims = Claims::baseline(Identity::Tn("1".into()), dest, 3);
        claims.attest = Some("B".into());
        claims.origid = Some("123e4567-e89b-12d3-a456-426655440000".into());
        claims
    };
    assert_eq!(shaken::check(&base()), Ok(Attestation::Partial));
    for (attest, origid, expected) in [
        (None, Some("123e4567-e89b-12d3-a456-426655440000"), ClaimsError::Missing("attest")),
        (Some("A"), None, ClaimsError::Missing("origid")),
        (Some("a"), Some("123e4567-e89b-12d3-a456-426655440000"), ClaimsError::Malformed("attest")),
        (Some("D"), Some("123e4567-e89b-12d3-a456-426655440000"), ClaimsError::Malformed("attest")),
        (Some("C"), Some("call-1"), ClaimsError::Malformed("origid")),
    ] {
        let mut claims = base();
        claims.attest = attest.map(Into::into);
        claims.origid = origid.map(Into::into);
        assert_eq!(shaken::check(&claims), Err(expected));
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z:@.]{1,12}", 1 => "\\PC{0,8}", 1 => any::<String>().prop_map(|text| text.chars().take(6).collect())]
}

fn identity() -> impl Strategy<Value = Identity<'static>> {
    prop_oneof![
        "[0-9*#]{1,15}".prop_map(|tn| Identity::Tn(tn.into())),
        text().prop_map(|uri| Identity::Uri(uri.into())),
    ]
}

fn destinations() -> impl Strategy<Value = Destinations<'static>> {
    (proptest::collection::vec("[0-9]{1,15}", 0..4), proptest::collection::vec(text(), 0..4))
        .prop_filter("at least one", |(tn, uri)| !tn.is_empty() || !uri.is_empty())
        .prop_map(|(tn, uri)| {
            let list = |texts: Vec<String>| {
                let mut list = Texts::default();
                texts.into_iter().for_each(|text| list.push(text));
                list
            };
            Destinations { tn: list(tn), uri: list(uri) }
        })
}

fn claims() -> impl Strategy<Value = Claims<'static>> {
    let keys = proptest::option::of(proptest::collection::vec(("[a-z0-9-]{1,8}", "[0-9A-F]{2,8}"), 0..3));
    let others = proptest::collection::btree_map("[b-c][a-z\"\\\\]{0,5}", any::<i64>(), 0..3);
    let scalar = (any::<i64>(), proptest::option::of("[A-C]"), proptest::option::of(text()));
    (identity(), destinations(), proptest::option::of(identity()), scalar, keys, others).prop_map(
        |(orig, dest, div, (iat, attest, origid), keys, others)| {
            let keys: Option<Vec<_>> = keys.map(|keys| {
                let key = |(algorithm, digest): (String, String)| MediaKey {
                    algorithm: algorithm.into(),
                    digest: digest.into(),
                };
                keys.into_iter().map(key).collect()
            });
            Claims {
                div,
                attest: attest.map(Into::into),
                origid: origid.map(Into::into),
                mky: keys,
                others: others.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
                ..Claims::baseline(orig, dest, iat)
            }
        },
    )
}

proptest! {
    /// What is written is read back, is canonical, and is what the general writer writes.
    #[test]
    fn p14_serialization_is_deterministic(claims in claims()) {
        let mut out = Vec::new();
        serialize::write_claims(&claims, &mut out);
        let read = Claims::parse(&out, &Config::default()).expect("own output is valid");
        prop_assert_eq!(&read, &claims);
        let mut again = Vec::new();
        serialize::write_claims(&read, &mut again);
        prop_assert_eq!(&again, &out);
        let mut general = Vec::new();
        serialize::write_value(&Value::Object(claims.to_map()), &mut general);
        prop_assert_eq!(String::from_utf8_lossy(&general), String::from_utf8_lossy(&out));
        let value: Value = serde_json::from_slice(&out).expect("JSON");
        prop_assert_eq!(value, Value::Object(claims.to_map()));
    }

    /// Arbitrary octets never panic the readers, and what the claims reader takes, serde_json takes too.
    #[test]
    fn readers_survive_anything(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let config = Config::default();
        if Claims::parse(&octets, &config).is_ok() {
            prop_assert!(serde_json::from_slice::<Value>(&octets).is_ok());
        }
        let _ = ProtectedHeader::parse(&octets, &config);
        if let Ok(Token::Full(jws)) = Token::parse(&octets, &config) {
            prop_assert!(octets.starts_with(jws.signing_input));
        }
    }
}
