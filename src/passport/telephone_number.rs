//! Identities in canonical form: telephone numbers (RFC 8224 section 8.3) and URIs (section 8.5).
use super::claims::Identity;
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

/// Most characters of a number: E.164 has 15 digits, service codes are short; the rest is room for private plans.
const MAX_TN: usize = 32;

/// Digits of an E.164 number (ITU-T E.164 section 6.1).
const E164_DIGITS: usize = 15;

/// A telephone number in canonical form: `1*(DIGIT / "*" / "#")`, no plus sign (RFC 8224 section 8.3). Lives on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TelephoneNumber {
    digits: [u8; MAX_TN],
    len: u8,
}

impl TelephoneNumber {
    /// From text that already is canonical.
    pub fn from_canonical(text: &str) -> Option<Self> {
        let mut number = Self::EMPTY;
        for octet in text.bytes() {
            if !is_tn_char(octet) || !number.push(octet) {
                return None;
            }
        }
        (number.len > 0).then_some(number)
    }

    /// From the user part of a URI (or a `tel` subscriber), percent-encoding and parameters still in it: what follows a `;` is cut
    /// off first, so that the digits of `rn` are not taken for digits of the number; then all but digits, `*` and `#` is dropped,
    /// and a number without country code is completed by `plan`. `None` when no digit is left or too many are.
    pub fn from_user(user: &[u8], plan: &DialPlan) -> Option<Self> {
        Self::completed(user, plan).map(|(number, _)| number)
    }

    /// The same, and whether the number is known to begin with a country code: it had a plus sign, or `plan` completed it.
    pub fn completed(user: &[u8], plan: &DialPlan) -> Option<(Self, bool)> {
        let end = memchr::memchr(b';', user).unwrap_or(user.len());
        let mut number = Self::EMPTY;
        let mut global = false;
        let mut first = true;
        for octet in PercentDecoded(&user[..end]) {
            match octet {
                b';' => break,
                b'+' if first => global = true,
                _ if is_tn_char(octet) && !number.push(octet) => return None,
                _ => {}
            }
            first &= octet == b' ' || octet == b'(';
        }
        if number.len == 0 {
            return None;
        }
        if global { Some((number, true)) } else { plan.complete(number) }
    }

    const EMPTY: Self = Self { digits: [0; MAX_TN], len: 0 };

    fn push(&mut self, octet: u8) -> bool {
        match self.digits.get_mut(usize::from(self.len)) {
            Some(slot) => {
                *slot = octet;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    fn joined(prefix: &str, rest: &str) -> Option<Self> {
        let mut number = Self::EMPTY;
        prefix.bytes().chain(rest.bytes()).all(|octet| number.push(octet)).then_some(number)
    }

    /// A number that can be dialled from anywhere: digits only, at most 15, no leading zero.
    fn is_e164(&self) -> bool {
        self.len() <= E164_DIGITS && !self.starts_with('0') && self.bytes().all(|octet| octet.is_ascii_digit())
    }
}

impl Deref for TelephoneNumber {
    type Target = str;
    fn deref(&self) -> &str {
        // Only ASCII is ever pushed, and `len` never passes the array.
        self.digits.get(..usize::from(self.len)).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default()
    }
}

impl fmt::Debug for TelephoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Display for TelephoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

fn is_tn_char(octet: u8) -> bool {
    octet.is_ascii_digit() || matches!(octet, b'*' | b'#')
}

/// How numbers without a country code are read, and which user parts are numbers though nothing says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialPlan {
    /// Country code put before national numbers, as `1`; `None` leaves them as they are.
    pub country_code: Option<String>,
    /// Dialled before a foreign number, as `011` or `00`.
    pub international_prefix: Option<String>,
    /// Dialled before a national number and dropped, as `0` (in the NANP it is the country code itself and needs no entry).
    pub trunk_prefix: Option<String>,
    /// Fewest digits of a national number, without prefixes.
    pub national_min: usize,
    /// Most digits of a national number, without prefixes.
    pub national_max: usize,
    /// Fewest digits that make a user part of digits alone a number, when neither `tel:`, `user=phone` nor `+` says so.
    /// `None`: never.
    pub bare_digits: Option<usize>,
}

impl Default for DialPlan {
    /// Numbers are global already, plus sign or not; seven or more digits alone are a number.
    fn default() -> Self {
        Self {
            country_code: None,
            international_prefix: None,
            trunk_prefix: None,
            national_min: 0,
            national_max: 0,
            bare_digits: Some(7),
        }
    }
}

impl DialPlan {
    /// North American Numbering Plan: country code 1, ten digits, `011` for the rest of the world.
    pub fn nanp() -> Self {
        Self {
            country_code: Some("1".into()),
            international_prefix: Some("011".into()),
            trunk_prefix: None,
            national_min: 10,
            national_max: 10,
            bare_digits: Some(7),
        }
    }

    /// Completes a number without plus sign; whether it was one to be completed. What can not be completed (911, 112, `*67`) stays
    /// (RFC 8224 section 8.3).
    fn complete(&self, number: TelephoneNumber) -> Option<(TelephoneNumber, bool)> {
        let prefix =
            |prefix: &Option<String>| prefix.as_deref().and_then(|p| number.strip_prefix(p)).filter(|r| !r.is_empty());
        if let Some(foreign) = prefix(&self.international_prefix) {
            return TelephoneNumber::from_canonical(foreign).map(|number| (number, true));
        }
        let Some(country_code) = &self.country_code else { return Some((number, false)) };
        let national = prefix(&self.trunk_prefix).unwrap_or(&number);
        if (self.national_min..=self.national_max).contains(&national.len()) && !national.contains(['*', '#']) {
            return TelephoneNumber::joined(country_code, national).map(|number| (number, true));
        }
        Some((number, false))
    }
}

/// A canonical identity taken from a SIP field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanonicalIdentity {
    /// A telephone number.
    Tn(TelephoneNumber),
    /// A URI in canonical form.
    Uri(String),
}

impl CanonicalIdentity {
    /// The canonical identity of an addr-spec (RFC 8224 section 8.1): a number for `tel:`, `user=phone`, a leading plus sign or
    /// (by `plan`) digits alone; else the URI. `None` when the text is no URI, or a `tel` URI without digits.
    pub fn from_uri(uri: &[u8], plan: &DialPlan) -> Option<Self> {
        let uri = std::str::from_utf8(uri).ok()?;
        let (scheme, rest) = uri.split_once(':')?;
        if scheme.eq_ignore_ascii_case("tel") {
            return TelephoneNumber::from_user(rest.as_bytes(), plan).map(Self::Tn);
        }
        let secure = scheme.eq_ignore_ascii_case("sips");
        if !secure && !scheme.eq_ignore_ascii_case("sip") {
            // Service URNs compare without case (RFC 9027); other schemes are not rewritten.
            let urn = scheme.eq_ignore_ascii_case("urn");
            return Some(Self::Uri(if urn { uri.to_ascii_lowercase() } else { uri.to_owned() }));
        }
        let parts = SipParts::split(rest)?;
        if let Some(number) = parts.number(plan) {
            return Some(Self::Tn(number));
        }
        Some(Self::Uri(parts.canonical(if secure { "sips" } else { "sip" })))
    }

    /// As a claim.
    pub fn as_identity(&self) -> Identity<'_> {
        match self {
            Self::Tn(number) => Identity::Tn(Cow::Borrowed(number)),
            Self::Uri(uri) => Identity::Uri(Cow::Borrowed(uri)),
        }
    }

    /// Whether a claim names this identity. URIs of a claim are taken to be canonical, as the signer has to write them.
    pub fn is(&self, claim: &Identity<'_>) -> bool {
        match (self, claim) {
            (Self::Tn(number), Identity::Tn(tn)) => **number == **tn,
            (Self::Uri(uri), Identity::Uri(claimed)) => uri == claimed,
            _ => false,
        }
    }
}

/// What canonicalization needs of a `sip` URI after the scheme.
struct SipParts<'a> {
    /// User part with its own parameters, without password.
    user: Option<&'a str>,
    /// Host without port.
    host: &'a str,
    /// URI parameters, from the first `;`.
    parameters: &'a str,
}

impl<'a> SipParts<'a> {
    fn split(rest: &'a str) -> Option<Self> {
        let (userinfo, hostport) = match rest.split_once('@') {
            Some((userinfo, hostport)) => (Some(userinfo), hostport),
            None => (None, rest),
        };
        let user = userinfo.map(|userinfo| userinfo.split_once(':').map_or(userinfo, |(user, _password)| user));
        let end = hostport.find([';', '?']).unwrap_or(hostport.len());
        let (hostport, tail) = hostport.split_at(end);
        let host = match hostport.strip_prefix('[') {
            Some(reference) => &hostport[..reference.find(']')? + 2],
            None => hostport.split_once(':').map_or(hostport, |(host, _port)| host),
        };
        let parameters = tail.split_once('?').map_or(tail, |(parameters, _headers)| parameters);
        (!host.is_empty()).then_some(Self { user, host, parameters })
    }

    fn number(&self, plan: &DialPlan) -> Option<TelephoneNumber> {
        let user = self.user?;
        let phone = self.parameters.split(';').any(|parameter| parameter.eq_ignore_ascii_case("user=phone"));
        if phone {
            return TelephoneNumber::from_user(user.as_bytes(), plan);
        }
        let subscriber = user.split_once(';').map_or(user, |(subscriber, _)| subscriber);
        let visual = |octet: u8| matches!(octet, b'-' | b'.' | b'(' | b')');
        let digits = PercentDecoded(subscriber.as_bytes()).filter(u8::is_ascii_digit).count();
        let mut octets = PercentDecoded(subscriber.as_bytes()).peekable();
        let global = octets.next_if_eq(&b'+').is_some();
        let numeric = digits > 0 && octets.all(|octet| octet.is_ascii_digit() || visual(octet));
        let enough = global || plan.bare_digits.is_some_and(|least| digits >= least);
        if !numeric || !enough {
            return None;
        }
        TelephoneNumber::from_user(user.as_bytes(), plan).filter(TelephoneNumber::is_e164)
    }

    /// RFC 8224 section 8.5: no password, port, parameters or headers; lower case; no needless percent-encoding.
    fn canonical(&self, scheme: &str) -> String {
        let mut out = String::with_capacity(scheme.len() + self.user.map_or(0, str::len) + self.host.len() + 2);
        out.push_str(scheme);
        out.push(':');
        if let Some(user) = self.user {
            push_normalized(user, &mut out);
            out.push('@');
        }
        out.extend(self.host.chars().map(|c| c.to_ascii_lowercase()));
        out
    }
}

/// RFC 3986 section 6.2.2: unreserved characters are decoded, other percent-encodings get upper case digits; letters are lowered.
fn push_normalized(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.extend(rest[..at].chars().map(|c| c.to_ascii_lowercase()));
        match hex_pair(rest.as_bytes().get(at + 1..at + 3)) {
            Some(octet) => {
                if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~') {
                    out.push(char::from(octet.to_ascii_lowercase()));
                } else {
                    out.extend(rest[at..at + 3].chars().map(|c| c.to_ascii_uppercase()));
                }
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.extend(rest.chars().map(|c| c.to_ascii_lowercase()));
}

fn hex_pair(digits: Option<&[u8]>) -> Option<u8> {
    let digit = |octet: u8| char::from(octet).to_digit(16);
    match digits {
        Some(&[high, low]) => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    }
}

/// The octets of a text with percent-encodings resolved; a lone `%` stands for itself.
struct PercentDecoded<'a>(&'a [u8]);

impl Iterator for PercentDecoded<'_> {
    type Item = u8;
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        if *first == b'%'
            && let Some(octet) = hex_pair(rest.get(..2))
        {
            self.0 = &rest[2..];
            return Some(octet);
        }
        Some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(uri: &str, plan: &DialPlan) -> String {
        match CanonicalIdentity::from_uri(uri.as_bytes(), plan) {
            Some(CanonicalIdentity::Tn(number)) => format!("tn {number}"),
            Some(CanonicalIdentity::Uri(uri)) => format!("uri {uri}"),
            None => "none".into(),
        }
    }

    #[test]
    fn rfc_8224_section_8_3_table() {
        let global = DialPlan::default();
        let nanp = DialPlan::nanp();
        for (uri, expected) in [
            ("tel:+1-215-555-1212", "tn 12155551212"),
            ("sip:+12155551212;verstat=TN-Validation-Passed@a.example;user=phone", "tn 12155551212"),
            ("sip:+1(215)555.1212;npdi;rn=+12155550000@gw.example;user=phone", "tn 12155551212"),
            ("sip:911@a.example;user=phone", "tn 911"),
            ("tel:*67", "tn *67"),
            ("sip:alice@Example.COM:5061;transport=tcp", "uri sip:alice@example.com"),
            ("sip:%2B12155551212@a.example", "tn 12155551212"),
            ("tel:+12155551212;ext=7", "tn 12155551212"),
            ("TEL:112", "tn 112"),
        ] {
            assert_eq!(canonical(uri, &global), expected, "{uri}");
            assert_eq!(canonical(uri, &nanp), expected, "{uri} in the NANP");
        }
        assert_eq!(canonical("sip:2155551212@a.example;user=phone", &nanp), "tn 12155551212");
        assert_eq!(canonical("sip:12155551212@a.example;user=phone", &nanp), "tn 12155551212");
        assert_eq!(canonical("sip:011442079460123@a.example;user=phone", &nanp), "tn 442079460123");
        let uk = DialPlan {
            country_code: Some("44".into()),
            international_prefix: Some("00".into()),
            trunk_prefix: Some("0".into()),
            national_min: 9,
            national_max: 10,
            bare_digits: None,
        };
        assert_eq!(canonical("tel:02079460123", &uk), "tn 442079460123");
        assert_eq!(canonical("tel:0012155551212", &uk), "tn 12155551212");
        assert_eq!(canonical("tel:999", &uk), "tn 999");
    }

    #[test]
    fn what_is_a_number() {
        let plan = DialPlan::default();
        for (uri, expected) in [
            ("sip:12155551212@a.example", "tn 12155551212"),
            ("sip:1001@pbx.example", "uri sip:1001@pbx.example"),
            ("sip:+alice@a.example", "uri sip:+alice@a.example"),
            ("sip:+1234567890123456@a.example", "uri sip:+1234567890123456@a.example"),
            ("tel:", "none"),
            ("tel:+", "none"),
            ("tel:123456789012345678901234567890123", "none"),
            ("nonsense", "none"),
        ] {
            assert_eq!(canonical(uri, &plan), expected, "{uri}");
        }
        let strict = DialPlan { bare_digits: None, ..plan };
        assert_eq!(canonical("sip:12155551212@a.example", &strict), "uri sip:12155551212@a.example");
    }

    #[test]
    fn rfc_8224_section_8_5_uris() {
        let plan = DialPlan::default();
        for (uri, expected) in [
            ("SIP:Alice:secret@Example.COM;transport=tcp?Subject=x", "uri sip:alice@example.com"),
            ("sips:bob@[2001:DB8::1]:5061", "uri sips:bob@[2001:db8::1]"),
            ("sip:%41lice%7e@a.example", "uri sip:alice~@a.example"),
            ("sip:j%c3%b6rg%@a.example", "uri sip:j%C3%B6rg%@a.example"),
            ("sip:a.b@host", "uri sip:a.b@host"),
            ("sip:example.com", "uri sip:example.com"),
            ("urn:service:SOS.police", "uri urn:service:sos.police"),
            ("http://Example.COM/A", "uri http://Example.COM/A"),
            ("sip:", "none"),
            ("sip:bob@", "none"),
            ("sip:bob@[::1", "none"),
        ] {
            assert_eq!(canonical(uri, &plan), expected, "{uri}");
        }
    }
}
