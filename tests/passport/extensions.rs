//! The claims of div, div-o, rph, msg and shaken: what is read, what is refused, and what is written, octet for octet.
use super::{full, vector};
use p256::ecdsa::signature::Signer as _;
use serde_json::{Value, json};
use vesperd::passport::claims::Destinations;
use vesperd::passport::ppt::{Ppt, div, msg, rcd::Assertion, rph};
use vesperd::passport::{Claims, ClaimsError, Config, Identity, jws, serialize};

const X5U: &str = "https://www.example.com/cert.cer";
const THEN: i64 = 1_443_208_345;

fn tn(number: &'static str) -> Identity<'static> {
    Identity::Tn(number.into())
}

fn to(number: &'static str) -> Destinations<'static> {
    Destinations::one(tn(number))
}

fn baseline() -> Claims<'static> {
    Claims::baseline(tn("12155551212"), to("12155551213"), THEN)
}

/// A whole token with the deterministic signature of RFC 6979 (P-4), made by p256.
fn token(ppt: Ppt, claims: &Claims<'_>) -> String {
    let (mut json, mut out) = (Vec::new(), Vec::new());
    serialize::write_header::<&[u8]>(ppt.name(), &[], Some(X5U), &mut json);
    jws::encode(&json, &mut out);
    out.push(b'.');
    json.clear();
    serialize::write_claims(claims, &mut json);
    jws::encode(&json, &mut out);
    let pem = include_str!("../vectors/passport/rfc8946.key.pem");
    let key = p256::ecdsa::SigningKey::from(p256::SecretKey::from_sec1_pem(pem).unwrap());
    let signature: p256::ecdsa::Signature = key.sign(&out);
    out.push(b'.');
    jws::encode(&signature.to_bytes(), &mut out);
    String::from_utf8(out).unwrap()
}

fn check(ppt: Ppt, payload: &Value) -> Result<(), ClaimsError> {
    let text = payload.to_string();
    let claims = Claims::parse(text.as_bytes(), &Config::default()).unwrap();
    ppt.check(&claims)
}

#[test]
fn p14_the_writers_make_cv1_cv3_cv4_cv7_and_cv8_octet_for_octet() {
    let mut shaken = baseline();
    shaken.attest = Some("A".into());
    shaken.origid = Some("123e4567-e89b-12d3-a456-426655440000".into());
    let diverted = div::claims(tn("12155551212"), to("12155551214"), tn("12155551213"), THEN);
    let mut message = baseline();
    msg::add(&mut message, b"Hello, STIR messaging\r\n");
    let mut rich = baseline();
    let rcd = json!({"nam": "Q Branch Spy Gadgets"});
    let rcdi = json!({"/nam": "sha256-sM275lTgzCte+LHOKHtU4SxG8shlOo6OS4ot8IJQImY"});
    Assertion::new(Some(rcd), Some(rcdi), Some("Delivery at noon".into())).unwrap().add_to(&mut rich);
    for (name, ppt, claims) in [
        ("CV1 baseline", Ppt::Baseline, baseline()),
        ("CV3 shaken", Ppt::Shaken, shaken),
        ("CV4 div", Ppt::Div, diverted),
        ("CV7 msg", Ppt::Msg, message),
        ("CV8 rcd", Ppt::Rcd, rich),
    ] {
        assert_eq!(token(ppt, &claims), vector(name)["token"].as_str().unwrap(), "{name}");
        assert_eq!(ppt.check(&claims), Ok(()), "{name}");
    }
}

#[test]
fn s2_d7_r9_order_of_members() {
    let write = |claims: &Claims<'_>| {
        let mut out = Vec::new();
        serialize::write_claims(claims, &mut out);
        String::from_utf8(out).unwrap()
    };
    let diverted = div::claims_with(tn("1"), to("3"), tn("2"), 5, "a.b.c");
    assert_eq!(write(&diverted), r#"{"dest":{"tn":["3"]},"div":{"tn":"2"},"iat":5,"opt":"a.b.c","orig":{"tn":"1"}}"#);
    // The two payloads that RFC 9027 prints.
    let urn = Destinations::one(Identity::Uri("urn:service:sos".into()));
    let mut call = Claims::baseline(tn("12155551212"), urn, 1_615_471_428);
    rph::add(&mut call, &["esnet.1"], false);
    assert_eq!(
        write(&call),
        r#"{"dest":{"uri":["urn:service:sos"]},"iat":1615471428,"orig":{"tn":"12155551212"},"rph":{"auth":["esnet.1"]}}"#
    );
    let mut back = Claims::baseline(tn("12155551213"), to("12155551212"), 1_615_471_428);
    rph::add(&mut back, &["esnet.0"], true);
    assert_eq!(
        write(&back),
        r#"{"dest":{"tn":["12155551212"]},"iat":1615471428,"orig":{"tn":"12155551213"},"rph":{"auth":["esnet.0"]},"sph":"psap-callback"}"#
    );
    for claims in [call, back] {
        assert_eq!(Ppt::Rph.check(&claims), Ok(()));
    }
}

#[test]
fn i21_names_of_extensions() {
    for ppt in Ppt::NAMED {
        assert_eq!(Ppt::from_name(ppt.name()), Some(ppt));
    }
    assert_eq!(Ppt::from_name(None), Some(Ppt::Baseline));
    for name in ["", "DIV", "div-O", "RSP", "msec", "foo", "passport"] {
        assert_eq!(Ppt::from_name(Some(name)), None, "{name}");
    }
}

#[test]
fn d1_d9_d17_d19_claims_of_diversions() {
    use ClaimsError::{Malformed, Missing};
    let base = json!({"dest": {"tn": ["3"]}, "iat": 5, "orig": {"tn": "1"}});
    let with = |members: &[(&str, Value)]| {
        let mut payload = base.clone();
        members.iter().for_each(|(name, value)| payload[*name] = value.clone());
        payload
    };
    let div = ("div", json!({"tn": "2"}));
    let opt = |text: &str| ("opt", json!(text));
    for (ppt, payload, expected) in [
        (Ppt::Div, with(std::slice::from_ref(&div)), Ok(())),
        (Ppt::Div, with(&[("div", json!({"tn": "2", "hi": "1.2.1"}))]), Ok(())),
        (Ppt::Div, base.clone(), Err(Missing("div"))),
        (Ppt::Div, with(&[div.clone(), opt("a.b.c")]), Err(Malformed("opt"))),
        (Ppt::DivO, with(&[div.clone(), opt("a.b.c")]), Ok(())),
        (Ppt::DivO, with(&[opt("a.b.c")]), Err(Missing("div"))),
        (Ppt::DivO, with(std::slice::from_ref(&div)), Err(Missing("opt"))),
        (Ppt::DivO, with(&[div.clone(), opt("..c")]), Err(Malformed("opt"))),
        (Ppt::DivO, with(&[div.clone(), opt("")]), Err(Malformed("opt"))),
        (Ppt::DivO, with(&[div.clone(), ("opt", json!({"a": 1}))]), Err(Malformed("opt"))),
    ] {
        assert_eq!(check(ppt, &payload), expected, "{payload}");
    }
    for bad in [json!({"tn": ["2"]}), json!({"tn": "2", "uri": "sip:a@b"}), json!({"hi": "1"}), json!("2")] {
        let text = with(&[("div", bad)]).to_string();
        assert_eq!(Claims::parse(text.as_bytes(), &Config::default()), Err(Malformed("div")), "{text}");
    }
}

#[test]
fn r1_r6_r7_r8_claims_of_priority() {
    use ClaimsError::{Malformed, Missing};
    let payload = |rph: Value, sph: Option<&str>, dest: Value| {
        let mut payload = json!({"dest": dest, "iat": 5, "orig": {"tn": "1"}, "rph": rph});
        if let Some(sph) = sph {
            payload["sph"] = sph.into();
        }
        payload
    };
    let number = || json!({"tn": ["3"]});
    let esnet = || json!({"auth": ["esnet.0"]});
    for (payload, expected) in [
        (payload(json!({"auth": ["ets.0", "wps.1"]}), None, number()), Ok(())),
        (payload(json!({"auth": ["ets.0"], "other": 1}), None, number()), Ok(())),
        (payload(esnet(), Some("psap-callback"), number()), Ok(())),
        (payload(json!({}), None, number()), Err(Malformed("rph"))),
        (payload(json!({"auth": []}), None, number()), Err(Malformed("rph"))),
        (payload(json!({"auth": "ets.0"}), None, number()), Err(Malformed("rph"))),
        (payload(json!({"auth": [1]}), None, number()), Err(Malformed("rph"))),
        (payload(json!({"auth": ["ets"]}), None, number()), Err(Malformed("rph"))),
        (payload(json!({"auth": ["ets.0.1"]}), None, number()), Err(Malformed("rph"))),
        (payload(json!({"auth": ["ets.a b"]}), None, number()), Err(Malformed("rph"))),
        (payload(json!({"auth": ["esnet.5"]}), None, number()), Err(Malformed("rph"))),
        (payload(esnet(), Some("emergency"), number()), Err(Malformed("sph"))),
        (payload(esnet(), Some("psap-callback"), json!({"uri": ["urn:service:sos"]})), Err(Malformed("sph"))),
        (payload(json!({"auth": ["ets.0"]}), Some("psap-callback"), number()), Err(Malformed("sph"))),
    ] {
        assert_eq!(check(Ppt::Rph, &payload), expected, "{payload}");
    }
    assert_eq!(check(Ppt::Rph, &json!({"dest": number(), "iat": 5, "orig": {"tn": "1"}})), Err(Missing("rph")));
    let mut anonymous = payload(esnet(), None, number());
    anonymous["orig"] = json!({"uri": "sip:a@b"});
    assert_eq!(check(Ppt::Rph, &anonymous), Err(Malformed("orig")));
}

/// RFC 8443 prints an Identity whose payload is no JSON; RFC 9475 a digest that does not fit its label.
#[test]
fn r1_m4_the_examples_that_are_wrong_in_print() {
    let printed = "{\"dest\":{[\"tn\":\"12155551213\"]},\"iat\":\"1443208345\",\"orig\":{\"tn\":\"12155551212\"},\"rph\":{\"auth\":[\"ets.0\"]}}\n";
    assert!(Claims::parse(printed.as_bytes(), &Config::default()).is_err());
    let text = format!(r#"{{"dest":{{"tn":["3"]}},"iat":5,"orig":{{"tn":"1"}},"msgi":"sha256-{}"}}"#, "A".repeat(64));
    let claims = Claims::parse(text.as_bytes(), &Config::default()).unwrap();
    assert_eq!(Ppt::Msg.check(&claims), Err(ClaimsError::Malformed("msgi")));
    // M-3: elsewhere it means nothing.
    assert_eq!(Ppt::Baseline.check(&claims), Ok(()));
}

/// The published div token is well-formed; the published div-o has a `dest` that no reader may take.
#[test]
fn d1_the_tokens_of_rfc_8946() {
    let mut payload = Vec::new();
    let divs = vector("RFC 8946 div");
    let json = full(divs["token"].as_str().unwrap()).decode_payload(&mut payload).unwrap();
    let claims = Claims::parse(json, &Config::default()).unwrap();
    assert_eq!(Ppt::Div.check(&claims), Ok(()));
    assert_eq!(claims.div, Some(tn("121555551213")), "a typo, but signed");
    let mut payload = Vec::new();
    let nested = vector("RFC 8946 div-o");
    let json = full(nested["token"].as_str().unwrap()).decode_payload(&mut payload).unwrap();
    assert_eq!(Claims::parse(json, &Config::default()), Err(ClaimsError::Malformed("dest")));
}
