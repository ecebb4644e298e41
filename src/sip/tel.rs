//! tel URIs (RFC 3966) and their form inside a SIP URI (RFC 3261 19.1.6).

use super::params::MAX_PARAMS;
use super::text::{self, Malformed};
use super::uri::{Subscriber, UriParams};

/// A telephone number with its parameters.
#[derive(Debug, Clone, Copy)]
pub struct TelUri<'a> {
    /// The number as written, visual separators included.
    pub number: &'a [u8],
    params: &'a [u8],
}

impl<'a> TelUri<'a> {
    /// Reads `tel:…` (TEL-1, TEL-2). A local number without phone-context passes (it is common in life): see [`TelUri::is_valid`].
    ///
    /// Malformed: other octets in the number, no digit in it, bad parameters, `isub` beside `ext`, an `m-` parameter (nobody here
    /// understands any, and such a URI must not be used).
    pub fn parse(uri: &'a [u8]) -> Result<Self, Malformed> {
        let rest = match uri.split_at_checked(4) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"tel:") => rest,
            _ => return Err(Malformed),
        };
        let end = memchr::memchr(b';', rest).unwrap_or(rest.len());
        Self::new(text::span(rest, 0, end), text::span(rest, end, rest.len()))
    }

    /// The user part of a SIP URI as a tel URI (TEL-4).
    pub fn from_subscriber(subscriber: Subscriber<'a>) -> Result<Self, Malformed> {
        Self::new(subscriber.number, subscriber.params)
    }

    fn new(number: &'a [u8], params: &'a [u8]) -> Result<Self, Malformed> {
        let tel = Self { number, params };
        let digits = number.strip_prefix(b"+").unwrap_or(number);
        let is_global = tel.is_global();
        let is_number =
            digits.iter().all(|&b| is_separator(b) || b.is_ascii_digit() || !is_global && is_local_digit(b))
                && digits.iter().any(|&b| !is_separator(b));
        let has = |name: &str| tel.param(name).is_some();
        let is_ok = is_number
            && tel.params().count() <= usize::from(MAX_PARAMS)
            && tel.params().all(|(name, value)| {
                text::is_token(name)
                    && !name.get(..2).is_some_and(|m| m.eq_ignore_ascii_case(b"m-"))
                    && value.is_none_or(text::is_uri_param)
            })
            && !(has("isub") && has("ext"));
        if is_ok { Ok(tel) } else { Err(Malformed) }
    }

    /// `+` and digits: valid everywhere.
    pub fn is_global(&self) -> bool {
        self.number.first() == Some(&b'+')
    }

    /// Valid by grammar: global, or local with a phone-context (TEL-1).
    pub fn is_valid(&self) -> bool {
        self.is_global() || self.phone_context().is_some()
    }

    /// Where a local number is valid: a domain or a `+digits` prefix.
    pub fn phone_context(&self) -> Option<&'a [u8]> {
        self.param("phone-context").flatten()
    }

    /// The parameters in order.
    pub fn params(&self) -> UriParams<'a> {
        UriParams::new(self.params)
    }

    /// The value of a parameter: `None` if absent, `Some(None)` without a value.
    pub fn param(&self, name: &str) -> Option<Option<&'a [u8]>> {
        self.params().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// Equality of RFC 3966 section 4 (TEL-3): both global or both local, the same digits without separators, the same parameters in
    /// any order.
    pub fn equals(&self, other: &TelUri<'_>) -> bool {
        self.is_global() == other.is_global()
            && digits(self.number).eq(digits(other.number))
            && self.params().count() == other.params().count()
            && self.params().all(|(name, value)| {
                other.params().any(|(n, v)| n.eq_ignore_ascii_case(name) && same_value(name, value, v))
            })
    }

    /// Appends the user part of the SIP URI that means this number (TEL-4): parameters in lower case, `isub` or `ext` first, then
    /// phone-context, then the others by name (TEL-2). `@domain;user=phone` is the caller's to add.
    pub fn write_user(&self, out: &mut Vec<u8>) {
        let rank = |name: &[u8]| match name {
            b"isub" | b"ext" => 0,
            b"phone-context" => 1,
            _ => 2,
        };
        let mut params: Vec<_> = self
            .params()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.map(<[u8]>::to_ascii_lowercase)))
            .collect();
        params.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
        out.extend_from_slice(self.number);
        for (name, value) in params {
            out.push(b';');
            out.extend_from_slice(&name);
            if let Some(value) = value {
                out.push(b'=');
                out.extend_from_slice(&value);
            }
        }
    }
}

fn is_separator(b: u8) -> bool {
    matches!(b, b'-' | b'.' | b'(' | b')')
}

/// What a local number holds beside digits (RFC 3966 section 3, phonedigit-hex).
fn is_local_digit(b: u8) -> bool {
    b.is_ascii_hexdigit() || b == b'*' || b == b'#'
}

fn digits(number: &[u8]) -> impl Iterator<Item = u8> {
    number.iter().filter(|&&b| !is_separator(b)).map(u8::to_ascii_lowercase)
}

fn same_value(name: &[u8], a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (a, b) => return a == b,
    };
    let is_number = a.first() == Some(&b'+') || name.eq_ignore_ascii_case(b"ext") || name.eq_ignore_ascii_case(b"isub");
    if is_number { digits(a).eq(digits(b)) } else { a.eq_ignore_ascii_case(b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tel(text: &str) -> TelUri<'_> {
        TelUri::parse(text.as_bytes()).unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn tel1_tel2_grammar() {
        assert!(tel("tel:+1-201-555-0123").is_valid());
        assert!(tel("TEL:7042;phone-context=example.com").is_valid());
        assert_eq!(tel("tel:863-1234;Phone-Context=+1-914-555").phone_context(), Some(&b"+1-914-555"[..]));
        assert!(!tel("tel:911").is_valid() && !tel("tel:911").is_global());
        assert!(!tel("tel:*67#Af;x=y").is_valid());
        for bad in [
            "tel:",
            "tel:+",
            "tel:+1a",
            "tel:x",
            "tel:+1;;",
            "tel:+1;isub=1;ext=2",
            "tel:+1;m-new",
            "sip:+1",
            "tel",
            "tel:-.",
            "tel:+1;a=%zz",
            "tel:1 2",
        ] {
            assert!(TelUri::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn tel3_comparison() {
        assert!(tel("tel:+1-201-555-0123").equals(&tel("tel:+1.201.(555)0123")));
        assert!(tel("tel:7042;phone-context=EXAMPLE.com;a=b").equals(&tel("tel:7042;A=B;phone-context=example.com")));
        assert!(tel("tel:1;phone-context=+1-914").equals(&tel("tel:1;phone-context=+1914")));
        assert!(!tel("tel:+12015550123").equals(&tel("tel:12015550123")));
        assert!(!tel("tel:+1;x").equals(&tel("tel:+1")));
        assert!(!tel("tel:1;phone-context=a").equals(&tel("tel:1;phone-context=b")));
    }

    #[test]
    fn tel4_into_a_sip_user_and_back() {
        let mut user = Vec::new();
        tel("tel:+1-201-555-0123;npdi;RN=+1404;phone-context=+1;EXT=22").write_user(&mut user);
        assert_eq!(user, b"+1-201-555-0123;ext=22;phone-context=+1;npdi;rn=+1404");
        let back = TelUri::from_subscriber(super::super::split_subscriber(&user).unwrap()).unwrap();
        assert!(back.equals(&tel("tel:+12015550123;rn=+1404;npdi;ext=22;phone-context=+1")));
    }
}
