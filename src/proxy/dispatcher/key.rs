//! What a hash looks at in a request.

use std::hash::Hasher;

use super::Algorithm;
use super::choice::{hash, hasher};
use crate::proxy::digest::Credentials;
use crate::sip::{FieldName, Message, Name, NameAddr, Scheme, Uri};

/// The key of a request; `None` if it has nothing of the kind. `header` is for [`Algorithm::KeyHash`]; with `user_only` hosts of URIs
/// do not count.
pub fn of(algorithm: Algorithm, request: Message<'_>, header: &FieldName, user_only: bool) -> Option<u64> {
    match algorithm {
        Algorithm::CallIdHash => request.call_id().map(hash),
        Algorithm::FromHash => uri_key(request.from().ok()?.uri, user_only),
        Algorithm::ToHash => uri_key(request.to().ok()?.uri, user_only),
        Algorithm::RuriHash => uri_key(request.request_uri(), user_only),
        Algorithm::AuthUserHash => auth_user(request),
        Algorithm::KeyHash => named(request, header),
        _ => None,
    }
}

/// User as written, host in lower case, port if written.
fn uri_key(uri: &[u8], user_only: bool) -> Option<u64> {
    let uri = Uri::parse(uri).ok()?;
    if !matches!(uri.scheme, Scheme::Sip | Scheme::Sips) {
        // Of a tel URI the number, without its parameters.
        return Some(hash(uri.opaque.split(|octet| *octet == b';').next().unwrap_or_default()));
    }
    let user = uri.user.unwrap_or_default();
    if user_only {
        return Some(hash(user));
    }
    let mut hasher = hasher();
    hasher.write(user);
    hasher.write(b"@");
    uri.host_bytes.iter().for_each(|octet| hasher.write_u8(octet.to_ascii_lowercase()));
    if let Some(port) = uri.port {
        hasher.write_u16(port);
    }
    Some(hasher.finish())
}

/// The name in the first credentials.
fn auth_user(request: Message<'_>) -> Option<u64> {
    let names = [Name::ProxyAuthorization, Name::Authorization];
    let mut fields = names.into_iter().flat_map(|name| request.fields_of(name));
    fields.find_map(|field| {
        let value = field.unfolded();
        let user = Credentials::parse(&value)?.username;
        (!user.is_empty()).then(|| hash(&user))
    })
}

/// The first field of a name. Of From, To and the like the URI alone: tags are new for each call.
fn named(request: Message<'_>, header: &FieldName) -> Option<u64> {
    let field = header.fields_of(request).next()?;
    let value = field.unfolded();
    let has_address = matches!(header.known(), Name::From | Name::To | Name::Contact | Name::PAssertedIdentity);
    match NameAddr::parse(&value).ok().filter(|_| has_address) {
        Some(address) => uri_key(address.uri, false),
        None => Some(hash(value.trim_ascii())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Framing, Index, Limits, parse};

    fn key(algorithm: Algorithm, uri: &str, lines: &str, user_only: bool) -> Option<u64> {
        let text = format!(
            "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n{lines}CSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        );
        let mut index = Index::new();
        let message = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        of(algorithm, message, &"X-Customer".into(), user_only)
    }

    const LINES: &str = "From: \"A\" <sip:a@one.example>;tag=1\r\nTo: <sip:b@two.example:5070>\r\nCall-ID: c\r\n";

    #[test]
    fn kr1_each_hash_looks_at_its_own() {
        let is_same = |algorithm, other: &str, uri: &str| {
            key(algorithm, "sip:b@Two.example", LINES, false) == key(algorithm, uri, other, false)
        };
        let other_call = LINES.replace("Call-ID: c", "Call-ID: d").replace("tag=1", "tag=2");
        assert!(!is_same(Algorithm::CallIdHash, &other_call, "sip:b@two.example"));
        for algorithm in [Algorithm::FromHash, Algorithm::ToHash, Algorithm::RuriHash] {
            assert!(is_same(algorithm, &other_call, "sip:b@two.example"), "{algorithm:?}");
        }
        assert!(!is_same(Algorithm::FromHash, &LINES.replace("sip:a@", "sip:x@"), "sip:b@two.example"));
        assert!(!is_same(Algorithm::FromHash, &LINES.replace("one.example", "two.example"), "sip:b@two.example"));
        assert!(!is_same(Algorithm::ToHash, &LINES.replace(":5070", ""), "sip:b@two.example"));
        assert!(!is_same(Algorithm::RuriHash, LINES, "sip:c@two.example"));
        let by_user = |uri| key(Algorithm::RuriHash, uri, LINES, true);
        assert_eq!(by_user("sip:b@one.example"), by_user("sips:b@two.example:5070"));
        assert_eq!(by_user("tel:+1215;phone-context=a"), by_user("tel:+1215"));
    }

    #[test]
    fn kr1_what_is_not_there_gives_no_key() {
        let with = |algorithm, line: &str| key(algorithm, "sip:b@two.example", &format!("{LINES}{line}\r\n"), false);
        let none = "Subject: x";
        assert_eq!((with(Algorithm::AuthUserHash, none), with(Algorithm::KeyHash, none)), (None, None));
        let alice = with(Algorithm::AuthUserHash, "Proxy-Authorization: Digest username=\"alice\", realm=\"r\"");
        let same = with(Algorithm::AuthUserHash, "Authorization: Digest realm=\"q\", username=alice");
        assert!(alice.is_some() && alice == same);
        assert_ne!(alice, with(Algorithm::AuthUserHash, "Authorization: Digest username=\"bob\", realm=\"r\""));
        let customer = with(Algorithm::KeyHash, "X-Customer: 7");
        assert!(customer.is_some() && customer == with(Algorithm::KeyHash, "x-customer:   7"));
        assert_eq!(with(Algorithm::Serial, none), None);
    }
}
