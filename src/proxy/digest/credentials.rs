//! The value of Proxy-Authorization (RFC 3261 20.28, RFC 7616 3.4).

use std::borrow::Cow;

use crate::sip::next_comma;
use crate::sip::text::{is_token, unquote};

/// Digest credentials; strings without their quotes.
#[derive(Debug, Default)]
pub struct Credentials<'a> {
    /// Who.
    pub username: Cow<'a, [u8]>,
    /// Where.
    pub realm: Cow<'a, [u8]>,
    /// The challenge that is answered.
    pub nonce: Cow<'a, [u8]>,
    /// The Request-URI they were made for.
    pub uri: Cow<'a, [u8]>,
    /// The answer, hexadecimal.
    pub response: Cow<'a, [u8]>,
    /// The algorithm; empty is MD5.
    pub algorithm: Cow<'a, [u8]>,
    /// The client's nonce.
    pub cnonce: Cow<'a, [u8]>,
    /// Quality of protection.
    pub qop: Cow<'a, [u8]>,
    /// Nonce count, eight hexadecimal digits.
    pub nc: Cow<'a, [u8]>,
}

/// Parameters of one value.
const MAX_PARAMETERS: usize = 32;

impl<'a> Credentials<'a> {
    /// Reads an unfolded value. `None`: another scheme, malformed, or a parameter twice.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let scheme = value.get(..6).filter(|scheme| scheme.eq_ignore_ascii_case(b"Digest"));
        let rest =
            scheme.and_then(|_| value.get(6..)).filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace))?;
        let mut found = Credentials::default();
        let mut at = 0;
        for _ in 0..MAX_PARAMETERS {
            let end = next_comma(rest, at, false).ok()?;
            found.take(rest.get(at..end)?.trim_ascii())?;
            if end == rest.len() {
                return Some(found);
            }
            at = end + 1;
        }
        None
    }

    fn take(&mut self, parameter: &'a [u8]) -> Option<()> {
        let equals = memchr::memchr(b'=', parameter)?;
        let (name, value) = (parameter.get(..equals)?.trim_ascii(), parameter.get(equals + 1..)?.trim_ascii());
        if !is_token(name) || value.is_empty() {
            return None;
        }
        let slot = match name.to_ascii_lowercase().as_slice() {
            b"username" => &mut self.username,
            b"realm" => &mut self.realm,
            b"nonce" => &mut self.nonce,
            b"uri" => &mut self.uri,
            b"response" => &mut self.response,
            b"algorithm" => &mut self.algorithm,
            b"cnonce" => &mut self.cnonce,
            b"qop" => &mut self.qop,
            b"nc" => &mut self.nc,
            _ => return Some(()),
        };
        if !slot.is_empty() {
            return None;
        }
        *slot = if value.starts_with(b"\"") { unquote(value) } else { Cow::Borrowed(value) };
        Some(())
    }

    /// The nonce count.
    pub fn count(&self) -> Option<u32> {
        let text = std::str::from_utf8(&self.nc).ok().filter(|text| text.len() == 8)?;
        u32::from_str_radix(text, 16).ok().filter(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_and_without_quotes() {
        let value = b"digest  username=\"a\\\"b, c\" , realm=r,nonce=\"n\",uri=\"sip:x@y;p=1\", response=\"0f\",\
            algorithm=SHA-256,cnonce=\"c\",qop=auth, nc=0000000a, opaque=\"\", other=1";
        let found = Credentials::parse(value).unwrap();
        assert_eq!(
            (&found.username[..], &found.realm[..], &found.uri[..]),
            (&b"a\"b, c"[..], &b"r"[..], &b"sip:x@y;p=1"[..])
        );
        assert_eq!((&found.qop[..], found.count()), (&b"auth"[..], Some(10)));
    }

    #[test]
    fn what_is_malformed_is_none() {
        for bad in [
            &b"Basic abc"[..],
            b"Digest",
            b"Digestusername=a",
            b"Digest username=\"a",
            b"Digest username=a,,realm=b",
            b"Digest username=a,username=b",
            b"Digest username",
            b"Digest user name=a",
        ] {
            assert!(Credentials::parse(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
        let count = |nc: &str| {
            let value = format!("Digest nc={nc}");
            Credentials::parse(value.as_bytes()).unwrap().count()
        };
        assert_eq!([count("1"), count("00000000"), count("0000000g"), count("000000001")], [None; 4]);
        assert_eq!(count("ffffffff"), Some(u32::MAX));
    }
}
