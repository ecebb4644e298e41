//! Equality of SIP and SIPS URIs (RFC 3261 19.1.4).
//!
//! It is not transitive, so it is no `PartialEq` and never a map key.

use super::text;
use super::uri::{Scheme, Uri};

impl Uri<'_> {
    /// The two URIs are equal by RFC 3261 19.1.4. Where its list of rules ignores a `transport` that only one has and its examples do
    /// not, the examples are followed. Other schemes are equal if their octets are.
    pub fn equals(&self, other: &Uri<'_>) -> bool {
        if self.scheme != other.scheme {
            return false;
        }
        if !matches!(self.scheme, Scheme::Sip | Scheme::Sips) {
            return self.opaque == other.opaque;
        }
        same_userinfo(self.user, other.user)
            && same_userinfo(self.password, other.password)
            && self.host == other.host
            && self.port == other.port
            && self.params_fit(other)
            && other.params_fit(self)
            && self.headers_fit(other)
            && other.headers_fit(self)
    }

    /// Every parameter here is in `other` with the same value, or may be missing there. Of a repeated name the first counts (K-4).
    fn params_fit(&self, other: &Uri<'_>) -> bool {
        self.params().all(|(name, _)| match (first(self, name), first(other, name)) {
            (Some(ours), Some(theirs)) => same(ours, theirs, false),
            _ => !["user", "ttl", "method", "maddr", "transport"].iter().any(|n| same(name, n.as_bytes(), false)),
        })
    }

    /// Every header component here is in `other`.
    fn headers_fit(&self, other: &Uri<'_>) -> bool {
        headers(self).all(|(name, value)| headers(other).any(|(n, v)| same(name, n, false) && same(value, v, true)))
    }
}

fn first<'a>(uri: &Uri<'a>, name: &[u8]) -> Option<&'a [u8]> {
    uri.params().find(|(n, _)| same(name, n, false)).map(|(_, value)| value.unwrap_or_default())
}

fn headers<'a>(uri: &Uri<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    uri.headers.into_iter().flat_map(|h| h.split(|&b| b == b'&')).map(|h| {
        let at = memchr::memchr(b'=', h).unwrap_or(h.len());
        (text::span(h, 0, at), text::span(h, at + 1, h.len()))
    })
}

fn same_userinfo(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same(a, b, true),
        (None, None) => true,
        _ => false,
    }
}

fn same(a: &[u8], b: &[u8], case_sensitive: bool) -> bool {
    let fold = |c: u16| match u8::try_from(c) {
        Ok(b) if !case_sensitive => u16::from(b.to_ascii_lowercase()),
        _ => c,
    };
    octets(a).map(fold).eq(octets(b).map(fold))
}

/// The octets with escapes resolved once; an escaped reserved octet stays distinct from the bare one (U-3).
fn octets(text: &[u8]) -> impl Iterator<Item = u16> {
    let mut rest = text;
    std::iter::from_fn(move || match rest {
        [b'%', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            rest = tail;
            let octet = hex(*high) << 4 | hex(*low);
            Some(u16::from(octet) | if b";/?:@&=+$,".contains(&octet) { 0x100 } else { 0 })
        }
        [first, tail @ ..] => {
            rest = tail;
            Some(u16::from(*first))
        }
        [] => None,
    })
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equal(a: &str, b: &str) -> bool {
        let (left, right) = (Uri::parse(a.as_bytes()).unwrap(), Uri::parse(b.as_bytes()).unwrap());
        assert_eq!(left.equals(&right), right.equals(&left), "{a} and {b}: not symmetric");
        left.equals(&right)
    }

    #[test]
    fn rfc3261_19_1_4_equal() {
        for (a, b) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
            ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("sip:[2001:db8::1]", "sip:[2001:0DB8:0:0::1]"),
            ("SIP:a:p@h", "sip:a:p@h"),
            ("sip:h;x=1;x=2", "sip:h;x=1"),
        ] {
            assert!(equal(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn rfc3261_19_1_4_unequal() {
        for (a, b) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
            ("sip:a@h", "sips:a@h"),
            ("sip:h", "sip:a@h"),
            ("sip:a@h", "sip:a:p@h"),
            ("sip:a@h;user=phone", "sip:a@h"),
            ("sip:a@h;maddr=1.2.3.4", "sip:a@h"),
            ("sip:a%3Bb@h", "sip:a;b@h"),
            ("sip:%2541@h", "sip:%41@h"),
        ] {
            assert!(!equal(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn other_schemes_by_octets() {
        assert!(equal("urn:service:sos", "urn:service:sos"));
        assert!(!equal("tel:911", "tel:912"));
    }
}
