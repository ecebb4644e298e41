//! SIP and SIPS URIs (RFC 3261 19.1, 25.1); others are opaque.

use std::borrow::Cow;

use super::host::{self, Host};
use super::name_addr::check_absolute;
use super::params::MAX_PARAMS;
use super::text::{self, Malformed};

/// A URI scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the variants are the registered names
pub enum Scheme {
    Sip,
    Sips,
    Tel,
    Urn,
    /// Any other (section 6.4: legal in To, From and Contact; 416 in a Request-URI).
    Other,
}

/// A URI cut into its parts; nothing is decoded.
#[derive(Debug, Clone, Copy)]
pub struct Uri<'a> {
    /// The scheme.
    pub scheme: Scheme,
    /// The user part before `@` and before the password, escapes kept; `None` without `@`.
    pub user: Option<&'a [u8]>,
    /// The password (never a good idea).
    pub password: Option<&'a [u8]>,
    /// The host; an empty name for schemes other than SIP and SIPS.
    pub host: Host<'a>,
    /// The host as received, IPv6 in brackets; empty for other schemes.
    pub host_bytes: &'a [u8],
    /// The port, if written (U-5).
    pub port: Option<u16>,
    /// The text between the host and `?`, beginning with `;` if there is any.
    pub params: &'a [u8],
    /// The text behind `?`.
    pub headers: Option<&'a [u8]>,
    /// Everything behind the scheme's colon.
    pub opaque: &'a [u8],
}

impl<'a> Uri<'a> {
    /// Reads a URI. SIP and SIPS follow the grammar strictly; of other schemes only the general form is checked.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (scheme, opaque) = split_scheme(bytes)?;
        if !matches!(scheme, Scheme::Sip | Scheme::Sips) {
            check_absolute(bytes)?;
            return Ok(Self {
                scheme,
                user: None,
                password: None,
                host: Host::Name(&[]),
                host_bytes: &[],
                port: None,
                params: &[],
                headers: None,
                opaque,
            });
        }
        // `;`, `?` and `/` are legal in the user part: look for `@` before interpreting them (U-1).
        let (user, password, rest) = match memchr::memchr(b'@', opaque) {
            None => (None, None, opaque),
            Some(at) => {
                let (user, password) = split_userinfo(text::span(opaque, 0, at))?;
                (Some(user), password, text::span(opaque, at + 1, opaque.len()))
            }
        };
        let (host, host_len) = Host::leading(rest)?;
        let host_bytes = text::span(rest, 0, host_len);
        let (port, rest) = split_port(text::span(rest, host_len, rest.len()))?;
        let (params, headers) = match memchr::memchr(b'?', rest) {
            Some(at) => (text::span(rest, 0, at), Some(text::span(rest, at + 1, rest.len()))),
            None => (rest, None),
        };
        check_params(params)?;
        if headers.is_some_and(|h| !is_headers(h)) {
            return Err(Malformed);
        }
        Ok(Self { scheme, user, password, host, host_bytes, port, params, headers, opaque })
    }

    /// The URI parameters in order.
    pub fn params(&self) -> UriParams<'a> {
        UriParams::new(self.params)
    }

    /// The value of a parameter: `None` if absent, `Some(None)` if it has no value.
    pub fn param(&self, name: &str) -> Option<Option<&'a [u8]>> {
        self.params().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The `lr` flag, also as `lr=on`, `lr=true` and `lr=` (U-4).
    pub fn is_loose(&self) -> bool {
        self.param("lr").is_some()
    }

    /// The user part read as `telephone-subscriber`: number and its parameters (U-2). See [`split_subscriber`].
    pub fn subscriber(&self) -> Option<Subscriber<'a>> {
        self.user.and_then(split_subscriber)
    }
}

fn split_scheme(bytes: &[u8]) -> Result<(Scheme, &[u8]), Malformed> {
    if let [b'S' | b's', b'I' | b'i', b'P' | b'p', b':', rest @ ..] = bytes {
        return Ok((Scheme::Sip, rest));
    }
    let colon = memchr::memchr(b':', bytes).ok_or(Malformed)?;
    let scheme = match text::span(bytes, 0, colon) {
        s if s.eq_ignore_ascii_case(b"sips") => Scheme::Sips,
        s if s.eq_ignore_ascii_case(b"tel") => Scheme::Tel,
        s if s.eq_ignore_ascii_case(b"urn") => Scheme::Urn,
        _ => Scheme::Other,
    };
    Ok((scheme, text::span(bytes, colon + 1, bytes.len())))
}

fn split_userinfo(userinfo: &[u8]) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let (user, password) = match memchr::memchr(b':', userinfo) {
        Some(at) => (text::span(userinfo, 0, at), Some(text::span(userinfo, at + 1, userinfo.len()))),
        None => (userinfo, None),
    };
    let is_ok = !user.is_empty() && text::is_user(user) && password.is_none_or(text::is_password);
    if is_ok { Ok((user, password)) } else { Err(Malformed) }
}

fn split_port(rest: &[u8]) -> Result<(Option<u16>, &[u8]), Malformed> {
    let Some(after) = rest.strip_prefix(b":") else { return Ok((None, rest)) };
    let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
    let port = text::port(text::span(after, 0, digits)).ok_or(Malformed)?;
    Ok((Some(port), text::span(after, digits, after.len())))
}

/// `*( ";" name [ "=" value ] )`, at most 64; an empty value is tolerated.
fn check_params(params: &[u8]) -> Result<(), Malformed> {
    let mut at = 0;
    let mut left = MAX_PARAMS;
    while at < params.len() {
        left = left.checked_sub(1).ok_or(Malformed)?;
        let name_end = text::uri_param_run(params, at + 1).ok_or(Malformed)?;
        if params.get(at) != Some(&b';') || name_end == at + 1 {
            return Err(Malformed);
        }
        at = match params.get(name_end) {
            Some(b'=') => text::uri_param_run(params, name_end + 1).ok_or(Malformed)?,
            _ => name_end,
        };
    }
    Ok(())
}

fn is_headers(headers: &[u8]) -> bool {
    text::is_uri_headers(headers)
        && memchr::memchr_iter(b'&', headers).count() < usize::from(MAX_PARAMS)
        && headers.split(|&b| b == b'&').all(|h| matches!(split_equals(h), (name, Some(_)) if !name.is_empty()))
}

fn split_equals(part: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'=', part) {
        Some(at) => (text::span(part, 0, at), Some(text::span(part, at + 1, part.len()))),
        None => (part, None),
    }
}

/// `(name, value)` pairs of a URI.
#[derive(Debug, Clone)]
pub struct UriParams<'a> {
    rest: &'a [u8],
}

impl<'a> UriParams<'a> {
    /// Over text that begins with `;`, or is empty.
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }
}

impl<'a> Iterator for UriParams<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let after = self.rest.strip_prefix(b";")?;
        let end = memchr::memchr(b';', after).unwrap_or(after.len());
        self.rest = text::span(after, end, after.len());
        Some(split_equals(text::span(after, 0, end)))
    }
}

/// A user part read as a telephone number with parameters (U-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscriber<'a> {
    /// The number as written: optional `+`, digits, visual separators, `*`, `#` (also escaped `%23`).
    pub number: &'a [u8],
    /// What follows, beginning with `;`, or empty: phone-context, rn, npdi, isub, …
    pub params: &'a [u8],
}

/// Splits a user part into number and number parameters if it is a telephone number by the local rule of U-2: `+` and digits, or
/// digits and visual separators only (`*` and `#` included), at least one digit. `user=phone` is not asked for.
pub fn split_subscriber(user: &[u8]) -> Option<Subscriber<'_>> {
    let end = memchr::memchr(b';', user).unwrap_or(user.len());
    let number = text::span(user, 0, end);
    is_number(number).then(|| Subscriber { number, params: text::span(user, end, user.len()) })
}

/// `+`, digits, visual separators `-.()`, `*` and `#` (bare or as `%23`, `%2A`), with at least one digit (TEL-1, TEL-6).
pub fn is_number(text: &[u8]) -> bool {
    let rest = text.strip_prefix(b"+").or_else(|| text.strip_prefix(b"%2B")).or_else(|| text.strip_prefix(b"%2b"));
    let mut rest = rest.unwrap_or(text);
    let mut digits = 0usize;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'0'..=b'9' => digits += 1,
            b'-' | b'.' | b'(' | b')' | b'*' | b'#' => {}
            b'%' => match tail {
                [b'2', b'3' | b'A' | b'a' | b'8' | b'9', tail @ ..] => rest = tail,
                _ => return false,
            },
            _ => return false,
        }
    }
    digits > 0
}

/// The URI without what a Request-URI must not carry: `?headers`, the `method` parameter, angle brackets, the third colon of
/// RFC 5118 4.10 (S-6, S-7). Borrowed when nothing is wrong with it.
pub fn request_uri_repaired(uri: &[u8]) -> Cow<'_, [u8]> {
    if !uri.iter().any(|octet| matches!(octet, b'<' | b'[' | b';' | b'?')) {
        return Cow::Borrowed(uri); // nothing that could be wrong
    }
    let bare = uri.strip_prefix(b"<").and_then(|u| u.strip_suffix(b">")).unwrap_or(uri);
    let Ok(parsed) = Uri::parse(bare) else { return Cow::Borrowed(bare) };
    let host = host::repaired(parsed.host_bytes);
    let has_method = parsed.param("method").is_some();
    if parsed.headers.is_none() && !has_method && matches!(host, Cow::Borrowed(_)) {
        return Cow::Borrowed(bare);
    }
    let scheme_and_userinfo = bare.len() - parsed.opaque.len()
        + parsed.user.map_or(0, |u| u.len() + parsed.password.map_or(0, |p| p.len() + 1) + 1);
    let mut out = text::span(bare, 0, scheme_and_userinfo).to_vec();
    out.extend_from_slice(&host);
    if let Some(port) = parsed.port {
        out.push(b':');
        text::push_decimal(&mut out, u32::from(port));
    }
    for (name, value) in parsed.params().filter(|(name, _)| !name.eq_ignore_ascii_case(b"method")) {
        out.push(b';');
        out.extend_from_slice(name);
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u1_parts() {
        let u = Uri::parse(b"sips:alice:secret@[2001:db8::1]:5061;transport=tcp;lr?subject=a%20b&x=").unwrap();
        assert_eq!(u.scheme, Scheme::Sips);
        assert_eq!((u.user, u.password), (Some(&b"alice"[..]), Some(&b"secret"[..])));
        assert_eq!(u.host, Host::V6("2001:db8::1".parse().unwrap()));
        assert_eq!(u.port, Some(5061));
        assert_eq!(u.param("Transport"), Some(Some(&b"tcp"[..])));
        assert!(u.is_loose());
        assert_eq!(u.headers, Some(&b"subject=a%20b&x="[..]));
        // RFC 4475 3.1.1.9: the semicolon belongs to the user.
        let u = Uri::parse(b"sip:user;par=u%40example.net@example.com").unwrap();
        assert_eq!(u.user, Some(&b"user;par=u%40example.net"[..]));
        assert_eq!(u.host, Host::Name(b"example.com"));
        // rsip takes the whole as host.
        assert_eq!(Uri::parse(b"sip:a.g.bell@example.com").unwrap().user, Some(&b"a.g.bell"[..]));
        assert!(!Uri::parse(b"sip:a;lr@example.com").unwrap().is_loose());
        for lr in ["lr=on", "lr=true", "lr=", "LR"] {
            assert!(Uri::parse(format!("sip:h;{lr}").as_bytes()).unwrap().is_loose(), "{lr}");
        }
        assert_eq!(Uri::parse(b"urn:service:sos").unwrap().scheme, Scheme::Urn);
        assert_eq!(Uri::parse(b"tel:+1-212").unwrap().scheme, Scheme::Tel);
    }

    #[test]
    fn u1_refused() {
        for bad in [
            "",
            "sip",
            "sip:",
            "sip:@host",
            "sip:a@b@c",
            "sip:a b@c",
            "sip:a@",
            "sip:host:",
            "sip:host:0",
            "sip:host:65536",
            "sip:2001:db8::1",
            "sip:a@2001:db8::1",
            "sip:a%4@host",
            "sip:a%zz@host",
            "sip:host;",
            "sip:host;;lr",
            "sip:host?",
            "sip:host?a",
            "sip:host?=b",
            "sip:host;a=b=c",
            "sip:host/x",
            "sip:a\0@host",
            "<sip:host>",
            "sip:h%6fst",
            "unknown:",
            "x y:z",
        ] {
            assert!(Uri::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_and_headers_are_bounded() {
        for n in [64, 65] {
            let is_ok = |uri: String| Uri::parse(uri.as_bytes()).is_ok() == (n == 64);
            assert!(is_ok(format!("sip:h{}", ";a=b".repeat(n))));
            assert!(is_ok(format!("sip:h?a=b{}", "&a=b".repeat(n - 1))));
        }
    }

    #[test]
    fn u2_numbers() {
        let s = Uri::parse(b"sip:+12125551212;phone-context=example.com;npdi;rn=+1212@gw;user=phone")
            .unwrap()
            .subscriber()
            .unwrap();
        assert_eq!(s.number, b"+12125551212");
        assert_eq!(s.params, b";phone-context=example.com;npdi;rn=+1212");
        for number in ["+1-212-555.1212", "(212)5551212", "911", "*67", "#31#1212", "%2331%231", "%2B1212"] {
            assert!(is_number(number.as_bytes()), "{number}");
        }
        for no in ["", "+", "anonymous", "alice", "12a", "1+2", "-.", "%4112"] {
            assert!(!is_number(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn s6_s7_repair() {
        let cases = [
            ("sip:a@b;method=INVITE;x=1?Route=%3Csip:c%3E", "sip:a@b;x=1"),
            ("<sip:a@b>", "sip:a@b"),
            ("sip:u:p@[2001:db8:::192.0.2.1]:5070;lr", "sip:u:p@[2001:db8::c000:201]:5070;lr"),
            ("sip:a@b;x;y=", "sip:a@b;x;y="),
            ("not a uri", "not a uri"),
        ];
        for (before, after) in cases {
            assert_eq!(request_uri_repaired(before.as_bytes()).as_ref(), after.as_bytes());
        }
    }
}
