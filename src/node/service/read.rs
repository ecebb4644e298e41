//! Requests of the service: JSON of the ATIS-1000082 shape, with the names that different vendors give its members. Names are compared
//! without regard to case, `-` and `_`; members nobody knows are ignored.

use serde_json::{Map, Value};

use super::problem::Problem;
use crate::passport::ppt::shaken::Attestation;
use crate::sip::{Uri, date};
use crate::stir::facts::{Facts, Party};

/// Destinations of one request.
const MAX_PARTIES: usize = 16;
/// Octets of a number or URI.
const MAX_PARTY: usize = 256;
/// Identity fields of one request; the policy looks at fewer.
const MAX_IDENTITIES: usize = 64;
/// Octets of a Call-ID.
const MAX_CALL_ID: usize = 256;

/// A request for a verdict.
pub struct Verification {
    /// The INVITE that the facts would have come with.
    pub invite: Vec<u8>,
    /// The values of its Identity fields.
    pub identities: Vec<String>,
    /// The asker named the call.
    pub knows_call: bool,
    /// The asker uses the names of 3GPP TS 24.229 annex V, and wants them.
    pub is_3gpp: bool,
}

type Object = Map<String, Value>;

fn is_named(name: &str, wanted: &str) -> bool {
    let mut letters =
        name.bytes().filter(|octet| !matches!(octet, b'-' | b'_')).map(|octet| octet.to_ascii_lowercase());
    let mut wanted = wanted.bytes();
    loop {
        match (letters.next(), wanted.next()) {
            (None, None) => return true,
            (letter, other) if letter == other => {}
            _ => return false,
        }
    }
}

/// The first member that has one of these names, in their order. Names are lower case.
fn member<'v>(object: &'v Object, names: &[&str]) -> Option<&'v Value> {
    let named = |wanted: &&str| object.iter().find(|(name, _)| is_named(name, wanted)).map(|(_, value)| value);
    names.iter().find_map(named).filter(|value| !value.is_null())
}

/// What is asked, within its envelope if it has one.
fn envelope<'v>(body: &'v Value, name: &str) -> Result<&'v Object, Problem> {
    let object = body.as_object().ok_or(Problem::NotJson)?;
    match member(object, &[name]) {
        Some(inner) => inner.as_object().ok_or(Problem::NotJson),
        None => Ok(object),
    }
}

/// `{"tn": ..}`, `{"uri": ..}`, each one or several; or the number or URI itself.
fn parties(value: &Value, name: &'static str) -> Result<Vec<Party>, Problem> {
    let mut parties = Vec::new();
    collect(value, name, None, &mut parties)?;
    if parties.is_empty() { Err(Problem::Missing(name)) } else { Ok(parties) }
}

fn collect(value: &Value, name: &'static str, is_uri: Option<bool>, to: &mut Vec<Party>) -> Result<(), Problem> {
    const WHAT: &str = "a telephone number in 'tn', or a 'uri'";
    match value {
        Value::String(text) => {
            let is_uri = is_uri.unwrap_or_else(|| text.contains(':'));
            to.push(party(text, is_uri).ok_or(Problem::Invalid(name, WHAT))?);
            if to.len() > MAX_PARTIES { Err(Problem::Invalid(name, "fewer of them")) } else { Ok(()) }
        }
        Value::Array(list) => list.iter().try_for_each(|value| match value {
            Value::Array(_) => Err(Problem::Invalid(name, WHAT)),
            value => collect(value, name, is_uri, to),
        }),
        Value::Object(object) if is_uri.is_none() => {
            for (key, is_uri) in [("tn", false), ("uri", true)] {
                member(object, &[key]).map_or(Ok(()), |value| collect(value, name, Some(is_uri), to))?;
            }
            Ok(())
        }
        _ => Err(Problem::Invalid(name, WHAT)),
    }
}

/// A number may have a plus sign and visual separators; a URI is one that a SIP message could carry.
fn party(text: &str, is_uri: bool) -> Option<Party> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_PARTY {
        return None;
    }
    if is_uri {
        let is_plain = text.bytes().all(|octet| octet.is_ascii_graphic() && !matches!(octet, b'<' | b'>' | b'"'));
        return (is_plain && Uri::parse(text.as_bytes()).is_ok()).then(|| Party::Uri(text.to_owned()));
    }
    let is_number = text
        .bytes()
        .all(|octet| octet.is_ascii_digit() || matches!(octet, b'+' | b'*' | b'#' | b'-' | b'.' | b'(' | b')' | b' '));
    (is_number && text.bytes().any(|octet| octet.is_ascii_digit())).then(|| Party::Tn(text.to_owned()))
}

fn required<'v>(object: &'v Object, names: &[&str], name: &'static str) -> Result<&'v Value, Problem> {
    member(object, names).ok_or(Problem::Missing(name))
}

/// Seconds since 1970, as a number or in a string.
fn seconds(value: &Value, name: &'static str) -> Result<i64, Problem> {
    let number = value.as_i64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|seconds| *seconds > 0).ok_or(Problem::Invalid(name, "seconds since 1970"))
}

/// Reads a signing request.
///
/// # Errors
/// What is missing or can not be used.
pub fn signing(body: &Value) -> Result<Facts, Problem> {
    let asked = envelope(body, "signingrequest")?;
    if let Some(ppt) = member(asked, &["ppt"])
        && ppt.as_str() != Some("shaken")
    {
        return Err(Problem::Invalid("ppt", "'shaken'"));
    }
    let attest = required(asked, &["attest", "attestation", "attestindicator"], "attest")?;
    let attest =
        attest.as_str().and_then(Attestation::from_letter).ok_or(Problem::Invalid("attest", "'A', 'B' or 'C'"))?;
    let mut orig = parties(required(asked, &["orig", "origtn", "from"], "orig")?, "orig")?;
    let orig = orig.pop().filter(|_| orig.is_empty()).ok_or(Problem::Invalid("orig", "one of them"))?;
    let dest = parties(required(asked, &["dest", "desttn", "to"], "dest")?, "dest")?;
    let iat = member(asked, &["iat", "time"]).map(|value| seconds(value, "iat")).transpose()?;
    let origid = match member(asked, &["origid", "originationid"]) {
        Some(value) => Some(value.as_str().ok_or(Problem::Invalid("origid", "a UUID"))?.to_owned()),
        None => None,
    };
    Ok(Facts { attest, orig, dest, iat, origid })
}

/// Reads a verification request, and writes the INVITE it stands for. The first of several `to` is To, the last the Request-URI,
/// unless `dest` names that. `call_id` stands for the Call-ID that most askers do not tell.
///
/// # Errors
/// What is missing or can not be used.
pub fn verification(body: &Value, call_id: &str) -> Result<Verification, Problem> {
    let asked = envelope(body, "verificationrequest")?;
    let from = parties(required(asked, &["from", "orig"], "from")?, "from")?;
    let [from] = &from[..] else { return Err(Problem::Invalid("from", "one of them")) };
    let to = parties(required(asked, &["to", "dest"], "to")?, "to")?;
    let target = member(asked, &["requesturi", "dest"]).map(|value| parties(value, "dest")).transpose()?;
    let date = member(asked, &["time", "iat", "date"]).map(|value| seconds(value, "time")).transpose()?;
    let (identities, is_3gpp) = match member(asked, &["identity", "identities"]) {
        Some(value) => (identities(value)?, false),
        None => match member(asked, &["identityheader", "identityheaders"]) {
            Some(value) => (identities(value)?, true),
            None => (Vec::new(), false),
        },
    };
    let named = member(asked, &["callid"]).map(|value| {
        let text = value.as_str().filter(|text| !text.is_empty() && text.len() <= MAX_CALL_ID);
        text.filter(|text| text.bytes().all(|octet| octet.is_ascii_graphic()))
            .ok_or(Problem::Invalid("callid", "a Call-ID"))
    });
    let named = named.transpose()?;
    let target = target.as_deref().unwrap_or(&to).last();
    let (Some(target), Some(to)) = (target, to.first()) else { return Err(Problem::Missing("to")) };

    let mut invite = Vec::with_capacity(512 + identities.iter().map(String::len).sum::<usize>());
    let mut push = |part: &[u8]| invite.extend_from_slice(part);
    push(b"INVITE ");
    push(uri(target).as_bytes());
    push(b" SIP/2.0\r\nVia: SIP/2.0/TCP service.invalid;branch=z9hG4bKq\r\nFrom: <");
    push(uri(from).as_bytes());
    push(b">;tag=q\r\nTo: <");
    push(uri(to).as_bytes());
    push(b">\r\nCSeq: 1 INVITE\r\nCall-ID: ");
    push(named.unwrap_or(call_id).as_bytes());
    push(b"\r\n");
    if let Some(seconds) = date {
        let mut line = b"Date: ".to_vec();
        date::write(u64::try_from(seconds).unwrap_or_default(), &mut line);
        push(&line);
        push(b"\r\n");
    }
    for identity in &identities {
        push(b"Identity: ");
        push(identity.as_bytes());
        push(b"\r\n");
    }
    push(b"Content-Length: 0\r\n\r\n");
    Ok(Verification { invite, identities, knows_call: named.is_some(), is_3gpp })
}

/// One value or several, each without the name of its field.
fn identities(value: &Value) -> Result<Vec<String>, Problem> {
    const WHAT: Problem = Problem::Invalid("identity", "the value of an Identity field");
    let list = match value {
        Value::String(_) => std::slice::from_ref(value),
        Value::Array(list) => list,
        _ => return Err(WHAT),
    };
    if list.len() > MAX_IDENTITIES {
        return Err(Problem::Invalid("identity", "fewer of them"));
    }
    let read = |value: &Value| {
        let text = value.as_str()?.trim();
        let text = match text.split_at_checked(9) {
            Some((name, rest)) if name.eq_ignore_ascii_case("identity:") => rest.trim_start(),
            _ => text,
        };
        let is_field = text.bytes().all(|octet| octet.is_ascii_graphic() || octet == b' ' || octet == b'\t');
        (is_field && !text.is_empty()).then(|| text.to_owned())
    };
    list.iter().map(|value| read(value).ok_or(WHAT)).collect()
}

/// A party as a message has it.
fn uri(party: &Party) -> String {
    match party {
        Party::Uri(uri) => uri.clone(),
        Party::Tn(number) => {
            let digits = number.bytes().filter(|octet| octet.is_ascii_digit() || matches!(octet, b'+' | b'*' | b'#'));
            let user: String =
                digits.map(|octet| if octet == b'#' { "%23".to_owned() } else { char::from(octet).into() }).collect();
            format!("sip:{user}@service.invalid;user=phone")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_vendors_mean_the_same() {
        let plain = json!({"signingRequest": {"attest": "B", "orig": {"tn": "12155551212"}, "dest": {"tn": ["12355551212"]},
            "iat": 1_632_412_033, "origid": "de305d54-75b4-431b-adb2-eb6b9e546014", "ppt": "shaken"}});
        let facts = signing(&plain).unwrap();
        for same in [
            json!({"attest": "B", "orig": "12155551212", "dest": "12355551212", "iat": "1632412033",
                "origid": "de305d54-75b4-431b-adb2-eb6b9e546014"}),
            json!({"SigningRequest": {"Attestation": "B", "orig": {"tn": ["12155551212"]}, "to": {"TN": "12355551212"},
                "iat": 1_632_412_033, "origination-id": "de305d54-75b4-431b-adb2-eb6b9e546014", "x": [1]}}),
            json!({"signing_request": {"attest": "B", "orig_tn": "12155551212", "dest_tn": ["12355551212"], "time": 1_632_412_033,
                "origId": "de305d54-75b4-431b-adb2-eb6b9e546014", "ppt": null}}),
        ] {
            assert_eq!(signing(&same).as_ref(), Ok(&facts), "{same}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_signing_request_is_named() {
        let good = json!({"attest": "A", "orig": {"tn": "1"}, "dest": {"tn": ["2"]}});
        let with = |name: &str, value: Value| {
            let mut request = good.clone();
            request[name] = value;
            signing(&request).unwrap_err()
        };
        assert!(signing(&good).is_ok());
        assert_eq!(with("attest", Value::Null), Problem::Missing("attest"));
        assert!(matches!(with("attest", json!("a")), Problem::Invalid("attest", _)));
        assert!(matches!(with("ppt", json!("div")), Problem::Invalid("ppt", _)));
        assert!(matches!(with("orig", json!({"tn": ["1", "2"]})), Problem::Invalid("orig", _)));
        assert!(matches!(with("orig", json!({"tn": "alice"})), Problem::Invalid("orig", _)));
        assert!(matches!(with("orig", json!({"tn": {"tn": "1"}})), Problem::Invalid("orig", _)));
        assert_eq!(with("orig", json!({})), Problem::Missing("orig"));
        assert!(matches!(with("dest", json!({"uri": "sip:a>b@c"})), Problem::Invalid("dest", _)));
        assert!(matches!(with("dest", json!(vec!["1"; 17])), Problem::Invalid("dest", _)));
        assert!(matches!(with("dest", json!([["1"]])), Problem::Invalid("dest", _)));
        assert!(matches!(with("iat", json!(-1)), Problem::Invalid("iat", _)));
        assert!(matches!(with("iat", json!("soon")), Problem::Invalid("iat", _)));
        assert!(matches!(with("origid", json!(7)), Problem::Invalid("origid", _)));
        assert_eq!(signing(&json!([])), Err(Problem::NotJson));
        assert_eq!(signing(&json!({"signingRequest": 1})), Err(Problem::NotJson));
    }

    #[test]
    fn a_verification_request_becomes_an_invite() {
        let request = json!({"verificationRequest": {"from": {"tn": "+1 (215) 555-1212"}, "to": {"tn": ["*67#"]},
            "time": 1_632_413_071, "identity": ["Identity: a.b.c;info=<https://x/y>", "d.e.f;info=<https://x/y>"]}});
        let read = verification(&request, "id").unwrap();
        let text = String::from_utf8(read.invite).unwrap();
        assert_eq!(
            text,
            "INVITE sip:*67%23@service.invalid;user=phone SIP/2.0\r\nVia: SIP/2.0/TCP service.invalid;branch=z9hG4bKq\r\n\
             From: <sip:+12155551212@service.invalid;user=phone>;tag=q\r\nTo: <sip:*67%23@service.invalid;user=phone>\r\n\
             CSeq: 1 INVITE\r\nCall-ID: id\r\nDate: Thu, 23 Sep 2021 16:04:31 GMT\r\nIdentity: a.b.c;info=<https://x/y>\r\n\
             Identity: d.e.f;info=<https://x/y>\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!((read.identities.len(), read.knows_call, read.is_3gpp), (2, false, false));
        let moved =
            json!({"from": "1", "to": "2", "dest": "sip:c@d.example", "callId": "c1", "identityHeaders": ["a.b.c"]});
        let read = verification(&moved, "id").unwrap();
        let text = String::from_utf8(read.invite).unwrap();
        assert!(text.starts_with("INVITE sip:c@d.example SIP") && text.contains("\r\nCall-ID: c1\r\n"), "{text}");
        assert!(read.knows_call && read.is_3gpp);
    }

    #[test]
    fn nothing_breaks_out_of_its_line() {
        let base = json!({"from": "1", "to": "2", "identity": "a.b.c"});
        for (name, value) in [
            ("identity", json!("a\r\nEvil: x")),
            ("identity", json!("a\nb")),
            ("identity", json!("a\u{0}")),
            ("identity", json!("\u{e9}")),
            ("identity", json!("")),
            ("identity", json!(7)),
            ("identity", json!(vec!["a"; 65])),
            ("from", json!({"uri": "sip:a@b>\r\nEvil: x"})),
            ("from", json!({"uri": "sip:a@b>;tag=x"})),
            ("from", json!({"uri": "no uri"})),
            ("to", json!({"tn": "1\r\n2"})),
            ("callid", json!("a b")),
            ("callid", json!("a\r\nb")),
        ] {
            let mut request = base.clone();
            request[name] = value.clone();
            assert!(matches!(verification(&request, "id"), Err(Problem::Invalid(..))), "{name} {value}");
        }
    }

    proptest::proptest! {
        /// Whatever the members hold, the INVITE has the fields it was given and no others.
        #[test]
        fn an_invite_has_no_fields_of_the_asker(
            from in "[0-9+#*]{1,8}[ -~\\r\\n]{0,2}[0-9]{0,3}",
            to in "[0-9+#*]{1,8}[ -~\\r\\n]{0,2}[0-9]{0,3}",
            call in "[!-~]{1,8}[ -~\\r\\n]{0,1}",
            identity in "[!-~]{1,20}[ -~\\r\\n\\t]{0,1}[!-~]{0,10}",
            uri: bool
        ) {
            let party = |text: &str| if uri { json!({"uri": format!("sip:{text}")}) } else { json!({"tn": text}) };
            let request = json!({"from": party(&from), "to": party(&to), "callid": call, "identity": [identity, "a.b.c"]});
            if let Ok(read) = verification(&request, "id") {
                let mut index = crate::sip::Index::new();
                let limits = crate::sip::Limits::default();
                let invite = crate::sip::parse(&read.invite, &mut index, crate::sip::Framing::Datagram, &limits).unwrap();
                proptest::prop_assert_eq!(invite.fields().count(), 8);
                proptest::prop_assert_eq!(invite.fields_of(crate::sip::Name::Identity).count(), 2);
                proptest::prop_assert!(invite.body().is_empty());
            }
        }

        /// What a caller can be, in the same way.
        #[test]
        fn numbers_and_uris_get_through(number in "[0-9]{1,15}", user in "[a-z0-9]{1,10}") {
            let request = json!({"from": {"tn": number}, "to": {"uri": format!("sip:{user}@host.example")}, "identity": "a.b.c"});
            let read = verification(&request, "id").unwrap();
            let text = String::from_utf8(read.invite).unwrap();
            let (caller, callee) = (format!("<sip:{number}@"), format!("INVITE sip:{user}@host.example SIP"));
            proptest::prop_assert!(text.contains(&caller) && text.starts_with(&callee));
        }
    }
}
