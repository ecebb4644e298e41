//! `name-addr` and `addr-spec` with header parameters: To, From, Contact, Route and their kin (RFC 3261 20.10, 25.1).

use super::params::{MAX_PARAMS, Params, Step, step};
use super::text::{self, Malformed};

/// An address with its display name and header parameters.
#[derive(Debug, Clone, Copy)]
pub struct NameAddr<'a> {
    /// The display name as received, with its quotes; empty if absent.
    pub display: &'a [u8],
    /// The URI, without angle brackets.
    pub uri: &'a [u8],
    /// The URI stood in angle brackets; without them, parameters belong to the header (20.10).
    pub is_bracketed: bool,
    value: &'a [u8],
    params: usize,
    tag: Option<&'a [u8]>,
}

impl<'a> NameAddr<'a> {
    /// Reads a whole value: `[display] <uri> *(;param)` or `addr-spec *(;param)`.
    ///
    /// Malformed: no URI, LWS in it, an unterminated quote, a display name that is neither quoted nor tokens (K-3), an unreadable
    /// parameter, two `tag`s (K-4).
    pub fn parse(value: &'a [u8]) -> Result<Self, Malformed> {
        let start = text::skip_lws(value, 0);
        let mut read = match value.get(start) {
            Some(b'"') => {
                let close = text::quoted_end(value, start).ok_or(Malformed)?;
                let open = text::skip_lws(value, close);
                Self::bracketed(value, text::span(value, start, close), open)?
            }
            Some(b'<') => Self::bracketed(value, &[], start)?,
            _ => match memchr::memchr3(b'<', b'"', b';', value) {
                Some(open) if value.get(open) == Some(&b'<') => {
                    let display = text::trim_end(text::span(value, start, open));
                    if !display.iter().all(|&b| text::is_token_byte(b) || text::is_lws(b)) {
                        return Err(Malformed);
                    }
                    Self::bracketed(value, display, open)?
                }
                Some(quote) if value.get(quote) == Some(&b'"') => return Err(Malformed),
                semicolon => {
                    let end = semicolon.unwrap_or(value.len());
                    let uri = text::trim_end(text::span(value, start, end));
                    // name-addr is obligatory when the URI has a comma or question mark (20, H-5): it is the header's then.
                    if memchr::memchr2(b',', b'>', uri).is_some() {
                        return Err(Malformed);
                    }
                    Self { display: &[], uri, is_bracketed: false, value, params: end, tag: None }
                }
            },
        };
        check_absolute(read.uri)?;
        read.tag = read.read_params()?;
        Ok(read)
    }

    fn bracketed(value: &'a [u8], display: &'a [u8], open: usize) -> Result<Self, Malformed> {
        if value.get(open) != Some(&b'<') {
            return Err(Malformed);
        }
        let rest = text::span(value, open + 1, value.len());
        let len = memchr::memchr(b'>', rest).ok_or(Malformed)?;
        let params = open + len + 2;
        Ok(Self { display, uri: text::span(rest, 0, len), is_bracketed: true, value, params, tag: None })
    }

    /// Checks every parameter and finds the tag.
    fn read_params(&self) -> Result<Option<&'a [u8]>, Malformed> {
        let mut at = self.params;
        let mut tag = None;
        let mut seen = false;
        for _ in 0..=MAX_PARAMS {
            match step(self.value, at) {
                Step::End => return Ok(tag),
                Step::Param(param) => {
                    if param.is("tag") {
                        if seen {
                            return Err(Malformed);
                        }
                        seen = true;
                        tag = param.value;
                    }
                    at = param.range.end;
                }
                Step::Comma(_) | Step::Bad => return Err(Malformed),
            }
        }
        Err(Malformed)
    }

    /// The tag, if there is one with a value.
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.tag
    }

    /// The header parameters.
    pub fn params(&self) -> Params<'a> {
        Params::new(self.value, self.params)
    }
}

/// `scheme ":" 1*(visible octet)`: no LWS, quotes, brackets or control octets; scheme-specific grammar is `Uri`'s business.
pub(crate) fn check_absolute(uri: &[u8]) -> Result<(), Malformed> {
    let is_scheme_octet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let colon = uri.iter().position(|&b| !is_scheme_octet(b)).ok_or(Malformed)?;
    let is_ok = uri.first().is_some_and(u8::is_ascii_alphabetic)
        && uri.get(colon) == Some(&b':')
        && colon + 1 < uri.len()
        && is_visible(uri);
    if is_ok { Ok(()) } else { Err(Malformed) }
}

/// No control octet, SP, quote or angle bracket. Whole blocks at a time, the last one overlapping: a few vector instructions each.
#[inline]
fn is_visible(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk::<16>() else { return !bytes.iter().any(|&b| is_invisible(b)) };
    let mut bad = has_invisible(last);
    for block in bytes.as_chunks::<16>().0 {
        bad |= has_invisible(block);
    }
    !bad
}

#[inline(always)]
fn has_invisible(block: &[u8; 16]) -> bool {
    block.iter().fold(false, |bad, &b| bad | is_invisible(b))
}

#[inline(always)]
fn is_invisible(b: u8) -> bool {
    (b <= b' ') | (b == b'"') | (b == b'<') | (b == b'>') | (b == 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (&str, &str, Option<&str>) {
        let a = NameAddr::parse(text.as_bytes()).unwrap_or_else(|_| panic!("{text}"));
        let s = |b| std::str::from_utf8(b).unwrap();
        (s(a.display), s(a.uri), a.tag().map(s))
    }

    #[test]
    fn forms() {
        assert_eq!(parts("sip:a@b"), ("", "sip:a@b", None));
        assert_eq!(parts(" sip:a@b;tag=1;x=y"), ("", "sip:a@b", Some("1")));
        assert_eq!(parts("<sip:a@b;tag=no>;TAG = 1"), ("", "sip:a@b;tag=no", Some("1")));
        assert_eq!(parts("\"A; \\\"<\" <sip:a@b>;tag=1"), ("\"A; \\\"<\"", "sip:a@b", Some("1")));
        assert_eq!(parts("caller<sip:a@b>"), ("caller", "sip:a@b", None));
        assert_eq!(parts("Two Words\r\n <sip:a@b?c=d>"), ("Two Words", "sip:a@b?c=d", None));
        assert_eq!(parts("isbn:2983792873"), ("", "isbn:2983792873", None));
        assert_eq!(parts("<sip:a@b>;tag="), ("", "sip:a@b", None));
        assert!(!NameAddr::parse(b"sip:a@b;lr").unwrap().is_bracketed);
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "<>",
            "bob",
            "\"Mr. J. User <sip:j@x>",
            "< sip:a@b >",
            "<sip:a@b",
            "sip:a@b>",
            "Bell, Alexander <sip:a@b>",
            "<sip:a@b>;tag=1;tag=2",
            "<sip:a@b>;;",
            "<sip:a@b> x",
            "<sip:a@b>,<sip:c@d>",
            "\"x\" sip:a@b",
            "a \"b\" <sip:a@b>",
            "sip:a,b@c",
            "<1:a>",
            ":a",
        ] {
            assert!(NameAddr::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
