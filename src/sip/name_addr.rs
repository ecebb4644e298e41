//! `name-addr` and `addr-spec` with header parameters: To, From, Contact, Route and their kin (RFC 3261 20.10, 25.1).

use super::params::{MAX_PARAMS, Params, Step, step};
use super::text::{self, Malformed, Span};

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

/// The parts of a name-addr as offsets into its value.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AddressSpans {
    display: Span,
    uri: Span,
    /// Where the header parameters begin.
    params: u32,
    tag: Span,
    is_bracketed: bool,
}

impl AddressSpans {
    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let start = text::skip_lws(value, 0);
        match value.get(start) {
            Some(b'"') => {
                let close = text::quoted_end(value, start).ok_or(Malformed)?;
                read.display = Span::new(start..close);
                read.read_brackets(value, text::skip_lws(value, close))?;
            }
            Some(b'<') => read.read_brackets(value, start)?,
            _ => read.read_unquoted(value, start)?,
        }
        check_absolute(read.uri.of(value))?;
        read.read_params(value)?;
        Ok(read)
    }

    fn read_brackets(&mut self, value: &[u8], open: usize) -> Result<(), Malformed> {
        let rest = value.get(open..).and_then(|v| v.strip_prefix(b"<")).ok_or(Malformed)?;
        let close = open + 1 + memchr::memchr(b'>', rest).ok_or(Malformed)?;
        self.uri = Span::new(open + 1..close);
        self.params = close as u32 + 1;
        self.is_bracketed = true;
        Ok(())
    }

    /// Tokens and a bracketed URI, or a bare URI.
    fn read_unquoted(&mut self, value: &[u8], start: usize) -> Result<(), Malformed> {
        let stop = memchr::memchr3(b'<', b'"', b';', value).unwrap_or(value.len());
        let head = text::trim_end(text::span(value, start, stop));
        let head_span = Span::new(start..start + head.len());
        match value.get(stop) {
            Some(b'<') if head.iter().all(|&b| text::is_token_byte(b) || text::is_lws(b)) => {
                self.display = head_span;
                self.read_brackets(value, stop)
            }
            // name-addr is obligatory when the URI has a comma or question mark (20, H-5): a comma here is no URI's.
            None | Some(b';') if memchr::memchr2(b',', b'>', head).is_none() => {
                self.uri = head_span;
                self.params = stop as u32;
                Ok(())
            }
            _ => Err(Malformed),
        }
    }

    /// Checks every parameter and finds the tag.
    fn read_params(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut at = self.params as usize;
        let mut has_tag = false;
        for _ in 0..=MAX_PARAMS {
            match step(value, at) {
                Step::End => return Ok(()),
                Step::Param(param) => {
                    at = param.range.end;
                    if param.is("tag") {
                        if std::mem::replace(&mut has_tag, true) {
                            return Err(Malformed);
                        }
                        self.tag = Span::new(at - param.value.map_or(0, <[u8]>::len)..at);
                    }
                }
                Step::Comma(_) | Step::Bad => return Err(Malformed),
            }
        }
        Err(Malformed)
    }
}

impl<'a> NameAddr<'a> {
    /// Reads a whole value: `[display] <uri> *(;param)` or `addr-spec *(;param)`.
    ///
    /// Malformed: no URI, LWS in it, an unterminated quote, a display name that is neither quoted nor tokens (K-3), an unreadable
    /// parameter, two `tag`s (K-4).
    pub fn parse(value: &'a [u8]) -> Result<Self, Malformed> {
        AddressSpans::read(value).map(|spans| Self::from_spans(value, &spans))
    }

    pub(crate) fn from_spans(value: &'a [u8], spans: &AddressSpans) -> Self {
        Self {
            display: spans.display.of(value),
            uri: spans.uri.of(value),
            is_bracketed: spans.is_bracketed,
            value,
            params: spans.params as usize,
            tag: Some(spans.tag.of(value)).filter(|t| !t.is_empty()),
        }
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

/// No control octet, SP, quote or angle bracket; eight octets at a time.
fn is_visible(bytes: &[u8]) -> bool {
    // The last word overlaps the one before it.
    let Some(last) = bytes.last_chunk::<8>() else { return bytes.iter().all(|&b| is_visible_octet(b)) };
    let mut bad = invisible_in(u64::from_ne_bytes(*last));
    for word in bytes.as_chunks::<8>().0 {
        bad |= invisible_in(u64::from_ne_bytes(*word));
    }
    bad == 0
}

fn is_visible_octet(b: u8) -> bool {
    b > b' ' && !matches!(b, b'"' | b'<' | b'>' | 0x7f)
}

/// Not 0 if one of eight octets is a control octet, SP, quote or angle bracket (the borrow tricks of "haszero" and "hasless").
#[inline(always)]
fn invisible_in(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let is = |octet: u8, word: u64| {
        let differs = word ^ (EACH * u64::from(octet));
        differs.wrapping_sub(EACH) & !differs
    };
    let below_visible = word.wrapping_sub(EACH * 0x21) & !word;
    // `<` and `>` differ in one bit.
    let bracket = is(b'<', word & !(EACH * 0x02));
    (below_visible | is(b'"', word) | bracket | is(0x7f, word)) & (EACH << 7)
}

/// The shape of a name-addr and no more: something in angle brackets behind an optional display name.
pub(crate) fn is_bracketed(value: &[u8]) -> bool {
    let open = match value.first() {
        Some(b'"') => text::quoted_end(value, 0).map(|close| text::skip_lws(value, close)),
        _ => memchr::memchr(b'<', value),
    };
    let inner = open.filter(|&at| value.get(at) == Some(&b'<')).and_then(|at| value.get(at + 1..));
    inner.is_some_and(|inner| memchr::memchr(b'>', inner).is_some_and(|len| len > 0))
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
    fn every_octet_is_visible_or_not() {
        for b in 0..=255u8 {
            let is_good = is_visible_octet(b);
            for at in 0..20 {
                let mut bytes = *b"abcdefghijklmnopqrst";
                bytes[at] = b;
                assert_eq!(is_visible(&bytes), is_good, "{b:#x} at {at}");
            }
        }
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
