//! Rich call data (RFC 9795): its shape, its digests against the published ones, and what is signed.
use serde_json::{Value, json};
use vesperd::passport::claims::Destinations;
use vesperd::passport::digest::Hash;
use vesperd::passport::ppt::Ppt;
use vesperd::passport::ppt::rcd::{Assertion, AssertionError, Card, Element, RichClaims, inline_digest};
use vesperd::passport::{Claims, ClaimsError, Config, Identity, serialize};

const PHOTO: &str = "sha256-RojgWwU6xUtI4q82+kHPyHm1JKbm7+663bMvzymhkl4";
const LOGO: &str = "sha256-jL4f47fF82LuwcrOrSyckA4SWrlElfARHkW6kYo1JdI";
const SMALL: &str = "sha256-GKNxxqlLRarbyBNh7hc/4lbZAdK6B0kMRf1AMRWPkSo";
const NAME: &str = "sha256-sM275lTgzCte+LHOKHtU4SxG8shlOo6OS4ot8IJQImY";

fn card(photo: &str) -> Value {
    json!([
        "vcard",
        [
            ["version", {}, "text", "4.0"],
            ["fn", {}, "text", "Q Branch"],
            ["org", {}, "text", "MI6;Q Branch Spy Gadgets"],
            ["photo", {}, "uri", format!("https://example.com/photos/{photo}")],
            ["logo", {}, "uri", "https://example.com/logos/mi6-256x256.jpg"],
            ["logo", {}, "uri", "https://example.com/logos/mi6-64x64.jpg"],
        ]
    ])
}

fn read<T>(members: &Value, look: impl FnOnce(Result<RichClaims<'_>, ClaimsError>) -> T) -> T {
    let mut payload = json!({"dest": {"tn": ["2"]}, "iat": 3, "orig": {"tn": "1"}});
    members.as_object().unwrap().iter().for_each(|(name, value)| payload[name] = value.clone());
    let text = payload.to_string();
    let claims = Claims::parse(text.as_bytes(), &Config::default()).unwrap();
    look(RichClaims::read(&claims))
}

fn found(members: &Value) -> (Vec<Element>, Vec<Element>) {
    read(members, |read| {
        let integrity = read.unwrap().integrity();
        (integrity.failed, integrity.uncovered)
    })
}

#[test]
fn c4_the_published_digests() {
    let written = |value: &Value| {
        let mut out = Vec::new();
        serialize::write_value(value, &mut out);
        out
    };
    let rcd = json!({"nam": "Q Branch Spy Gadgets", "jcd": card("quartermaster-256x256.png")});
    let digest = |pointer| inline_digest(&rcd, pointer, Hash::Sha256).unwrap();
    assert_eq!(digest("/nam"), NAME);
    assert_eq!(written(&rcd["jcd"]).len(), 308);
    assert_eq!(digest("/jcd"), "sha256-7kdCBZqH0nqMSPsmABvsKlHPhZEStgjojhdSJGRr3rk");
    let first = written(&card("q-256x256.png"));
    assert_eq!(
        (first.len(), Hash::Sha256.unpadded(&first).as_str()),
        (296, "sha256-qCn4pEH6BJu7zXndLFuAP6DwlTv5fRmJ1AFkqftwnCs")
    );
    // A string is hashed with its quotes.
    assert_ne!(digest("/nam"), Hash::Sha256.unpadded(b"Q Branch Spy Gadgets"));
    assert_eq!(Hash::Sha256.unpadded(b"Q Branch Spy Gadgets"), "sha256-tbh37rWCJ/BF9cuhFJFpJTWb8sVRb0L2F6iGDVZSBLo");
    assert_eq!(inline_digest(&rcd, "/icn", Hash::Sha256), None);
}

#[test]
fn c1_c2_c8_the_shape_of_the_claims() {
    use ClaimsError::{Malformed, Missing};
    let card = card("q-256x256.png");
    for (members, expected) in [
        (json!({"rcd": {"nam": ""}}), None),
        (json!({"crn": "x"}), None),
        (json!({"rcd": {"nam": "a", "new": {"x": 1}}}), None),
        (json!({"rcd": {"nam": "a", "icn": "https://e.example/i.png"}}), None),
        (json!({"rcd": {"nam": "a", "jcd": card}}), None),
        (json!({"rcd": {}}), Some(Missing("nam"))),
        (json!({"rcd": [{"nam": "a"}]}), Some(Malformed("rcd"))),
        (json!({"rcd": {"nam": 1}}), Some(Malformed("nam"))),
        (json!({"rcd": {"nam": "a", "apn": "+12"}}), Some(Malformed("apn"))),
        (json!({"rcd": {"nam": "a", "icn": "http://e.example/i.png"}}), Some(Malformed("icn"))),
        (json!({"rcd": {"nam": "a", "icn": "https://e.example/>;x"}}), Some(Malformed("icn"))),
        (json!({"rcd": {"nam": "a", "jcl": "data:,x"}}), Some(Malformed("jcl"))),
        (json!({"rcd": {"nam": "a", "jcd": card, "jcl": "https://e.example/c"}}), Some(Malformed("jcl"))),
        (json!({"rcd": {"nam": "a", "jcd": ["vcard", []]}}), Some(Malformed("jcd"))),
        (json!({"rcdi": {}}), Some(Malformed("rcdi"))),
        (json!({"rcd": {"nam": "a"}, "rcdi": {"/nam": 1}}), Some(Malformed("rcdi"))),
        (json!({"rcd": {"nam": "a"}, "rcdi": [NAME]}), Some(Malformed("rcdi"))),
        (json!({"crn": ["x"]}), Some(Malformed("crn"))),
        (json!({"rcd": {"nam": "a"}, "iss": 1}), Some(Malformed("iss"))),
    ] {
        read(&members, |read| assert_eq!(read.err(), expected, "{members}"));
    }
    // Twice the same member is refused before (C-1, C-2).
    let twice = br#"{"dest":{"tn":["2"]},"iat":3,"orig":{"tn":"1"},"rcd":{"nam":"a","nam":"b"}}"#;
    assert_eq!(Claims::parse(twice, &Config::default()), Err(ClaimsError::DuplicateMember));
    // C-8: nothing to say.
    let nobody = || Identity::Tn("1".into());
    let empty = Claims::baseline(nobody(), Destinations::one(nobody()), 3);
    assert_eq!(Ppt::Rcd.check(&empty), Err(Missing("rcd")));
    assert_eq!(Ppt::Shaken.check(&empty), Err(Missing("attest")));
}

#[test]
fn c11_digests_of_inline_values() {
    let rcd = json!({"nam": "Q Branch Spy Gadgets", "apn": "12025551000"});
    let with = |rcdi: Value| found(&json!({"rcd": rcd, "rcdi": rcdi}));
    assert_eq!(with(json!({"/nam": NAME})), (vec![], vec![]));
    assert_eq!(with(json!({"/nam": format!("{NAME}=")})), (vec![], vec![]), "padding is accepted");
    assert_eq!(with(json!({"/nam": PHOTO})).0, [Element::Name]);
    assert_eq!(with(json!({"/nam": "sha1-AAAA"})).0, [Element::Name], "an unknown label proves nothing");
    assert_eq!(with(json!({"/apn": NAME, "/nam": NAME})).0, [Element::AlternateNumber]);
    assert_eq!(with(json!({"/icn": NAME})).0, [Element::Icon], "points to nothing");
    assert_eq!(with(json!({"/jcl/1/3/3": NAME})).0, [Element::Card]);
    assert_eq!(with(json!({"/x": NAME})).0, [Element::Other]);
    assert_eq!(with(json!({"": NAME})).0.len(), 4, "all of it");
    let whole = inline_digest(&rcd, "", Hash::Sha512).unwrap();
    assert_eq!(with(json!({"": whole})), (vec![], vec![]));
}

#[test]
fn c5_c6_c7_references_need_a_digest() {
    let icon = json!({"nam": "a", "icn": "https://example.com/q.png"});
    assert_eq!(found(&json!({"rcd": icon})).1, [Element::Icon]);
    assert_eq!(found(&json!({"rcd": icon, "rcdi": {"/icn": PHOTO}})), (vec![], vec![]));
    assert_eq!(found(&json!({"rcd": icon, "rcdi": {"/icn": "sha256-AA"}})), (vec![Element::Icon], vec![Element::Icon]));
    let link = json!({"nam": "a", "jcl": "https://example.com/c.json"});
    assert_eq!(found(&json!({"rcd": link, "rcdi": {"/jcl/1/3/3": PHOTO}})).1, [Element::Card]);
    assert_eq!(found(&json!({"rcd": link, "rcdi": {"/jcl": NAME, "/jcl/1/3/3": PHOTO}})), (vec![], vec![]));
    // The card of RFC 9795 section 6, with all its digests, and one short.
    let inline = json!({"nam": "Q Branch Spy Gadgets", "jcd": card("quartermaster-256x256.png")});
    let mut rcdi = json!({
        "/jcd": "sha256-7kdCBZqH0nqMSPsmABvsKlHPhZEStgjojhdSJGRr3rk",
        "/jcd/1/3/3": PHOTO, "/jcd/1/4/3": LOGO, "/jcd/1/5/3": SMALL, "/nam": NAME,
    });
    assert_eq!(found(&json!({"rcd": inline, "rcdi": rcdi})), (vec![], vec![]));
    rcdi.as_object_mut().unwrap().remove("/jcd/1/4/3");
    assert_eq!(found(&json!({"rcd": inline, "rcdi": rcdi})), (vec![], vec![Element::Card]));
    rcdi["/jcd/1/1/3"] = NAME.into();
    assert_eq!(found(&json!({"rcd": inline, "rcdi": rcdi})).0, [Element::Card], "a text value of the card");
}

/// The digest of a data URL is that of the picture, not of the text (RFC 9795 8.3).
#[test]
fn c4_data_urls() {
    let data = "data:image/png;base64,iVBORw0KGgo=";
    let rcd = json!({"nam": "a", "icn": data});
    let digest = Hash::Sha256.unpadded(b"\x89PNG\r\n\x1a\n");
    assert_eq!(inline_digest(&rcd, "/icn", Hash::Sha256).as_ref(), Some(&digest));
    assert_eq!(found(&json!({"rcd": rcd, "rcdi": {"/icn": digest}})), (vec![], vec![]));
    assert_eq!(found(&json!({"rcd": rcd})), (vec![], vec![]), "the signature covers it");
    assert_eq!(found(&json!({"rcd": rcd, "rcdi": {"/icn": PHOTO}})).0, [Element::Icon]);
    let unreadable = json!({"nam": "a", "icn": "data:image/png,%89PNG"});
    assert_eq!(found(&json!({"rcd": unreadable, "rcdi": {"/icn": digest}})).0, [Element::Icon]);
}

#[test]
fn c3_c8_what_may_be_signed() {
    let icon = || Some(json!({"nam": "a", "icn": "https://example.com/q.png"}));
    for (rcd, rcdi, crn, expected) in [
        (None, None, None, Some(AssertionError::Empty)),
        (icon(), None, None, Some(AssertionError::Uncovered(Element::Icon))),
        (icon(), Some(json!({"/icn": PHOTO, "/nam": NAME})), None, Some(AssertionError::Digest(Element::Name))),
        (icon(), Some(json!({"/icn": PHOTO, "/x": NAME})), None, Some(AssertionError::Digest(Element::Other))),
        (None, Some(json!({})), Some("x"), Some(AssertionError::Claims(ClaimsError::Malformed("rcdi")))),
        (icon(), Some(json!({"/icn": PHOTO})), Some("x"), None),
        (None, None, Some("x"), None),
    ] {
        assert_eq!(Assertion::new(rcd, rcdi, crn.map(str::to_owned)).err(), expected);
    }
    assert_eq!(Assertion::new(None, None, Some("x".into())), Ok(Assertion::reason("x")));
}

#[test]
fn what_was_read() {
    let rcd = json!({"nam": "Q", "apn": "12025551000", "jcl": "https://example.com/c.json"});
    read(&json!({"rcd": rcd, "crn": "Delivery", "iss": "Example"}), |read| {
        let read = read.unwrap();
        assert_eq!((read.name, read.alternate_number, read.icon), (Some("Q"), Some("12025551000"), None));
        assert_eq!(read.card, Some(Card::Link("https://example.com/c.json")));
        assert_eq!((read.reason, read.issuer, read.is_empty()), (Some("Delivery"), Some("Example"), false));
    });
}
