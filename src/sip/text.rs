//! Character classes and the small scanners every header parser shares (RFC 3261 25.1).
//!
//! "LWS" here is SP, HTAB, CR and LF: inside a field value CR and LF stand for a fold only (the scanner refuses bare ones).

use std::borrow::Cow;
use std::ops::Range;

/// The octets do not follow the grammar of the part they were read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed header value")
    }
}

impl std::error::Error for Malformed {}

const TOKEN: u8 = 1;
const LWS: u8 = 2;
const USER: u8 = 4;
const PASSWORD: u8 = 8;
const HOST: u8 = 16;
const URI_PARAM: u8 = 32;
const URI_HEADER: u8 = 64;
const PARAM_VALUE: u8 = 128;

static CLASS: [u8; 256] = classes();

#[allow(clippy::indexing_slicing)] // evaluated by the compiler, which checks the bounds
const fn mark(mut table: [u8; 256], set: &[u8], class: u8) -> [u8; 256] {
    let mut i = 0;
    while i < set.len() {
        table[set[i] as usize] |= class;
        i += 1;
    }
    table
}

#[allow(clippy::indexing_slicing)] // evaluated by the compiler, which checks the bounds
const fn classes() -> [u8; 256] {
    let mut t = [0u8; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        if c.is_ascii_alphanumeric() {
            t[b] |= TOKEN | USER | PASSWORD | HOST | URI_PARAM | URI_HEADER;
        }
        // A parameter value outside quotes: token or host by the grammar (K-4), any visible octet by tolerance.
        if c > 0x20 && c != 0x7f && c != b';' && c != b',' && c != b'"' && c != b'<' && c != b'>' {
            t[b] |= PARAM_VALUE;
        }
        b += 1;
    }
    t = mark(t, b"-.!%*_+`'~", TOKEN);
    t = mark(t, b" \t\r\n", LWS);
    // unreserved / escaped / user-unreserved; '#' is what dial strings carry unescaped in practice.
    t = mark(t, b"-_.!~*'()%&=+$,;?/#", USER);
    t = mark(t, b"-_.!~*'()%&=+$,", PASSWORD);
    t = mark(t, b"-._", HOST);
    t = mark(t, b"-_.!~*'()%[]/:&+$", URI_PARAM);
    mark(t, b"-_.!~*'()%[]/?:+$=&", URI_HEADER)
}

#[allow(clippy::indexing_slicing)] // 256 entries, the index is an octet
#[inline(always)]
fn has(byte: u8, class: u8) -> bool {
    CLASS[byte as usize] & class != 0
}

/// `token` octet (K-1).
#[inline(always)]
pub fn is_token_byte(byte: u8) -> bool {
    has(byte, TOKEN)
}

/// SP, HTAB, CR or LF.
#[inline(always)]
pub fn is_lws(byte: u8) -> bool {
    has(byte, LWS)
}

/// Octet of a parameter value outside quotes.
#[inline(always)]
pub(crate) fn is_param_value_byte(byte: u8) -> bool {
    has(byte, PARAM_VALUE)
}

/// Octet of a host name.
#[inline(always)]
pub(crate) fn is_host_byte(byte: u8) -> bool {
    has(byte, HOST)
}

/// A non-empty `token` (K-1).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_token_byte(b))
}

/// End of the run of URI octets of a class that begins at `at`; `None` at a `%` without two hexadecimal digits (U-3).
#[inline]
fn escaped_run(bytes: &[u8], mut at: usize, class: u8) -> Option<usize> {
    while let Some(&b) = bytes.get(at) {
        if b == b'%' {
            match bytes.get(at + 1..at + 3) {
                Some([high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => at += 3,
                _ => return None,
            }
        } else if has(b, class) {
            at += 1;
        } else {
            break;
        }
    }
    Some(at)
}

/// Octets of a URI user part, escapes well formed.
pub(crate) fn is_user(bytes: &[u8]) -> bool {
    escaped_run(bytes, 0, USER) == Some(bytes.len())
}

/// Octets of a URI password, escapes well formed.
pub(crate) fn is_password(bytes: &[u8]) -> bool {
    escaped_run(bytes, 0, PASSWORD) == Some(bytes.len())
}

/// End of the run of octets of a URI parameter name or value that begins at `at`; `None` at a bad escape.
pub(crate) fn uri_param_run(bytes: &[u8], at: usize) -> Option<usize> {
    escaped_run(bytes, at, URI_PARAM)
}

/// Octets of a URI parameter name or value, escapes well formed.
pub(crate) fn is_uri_param(bytes: &[u8]) -> bool {
    uri_param_run(bytes, 0) == Some(bytes.len())
}

/// Octets of the header part of a URI, escapes well formed.
pub(crate) fn is_uri_headers(bytes: &[u8]) -> bool {
    escaped_run(bytes, 0, URI_HEADER) == Some(bytes.len())
}

/// `bytes[start..end]`; empty when the range lies outside.
#[inline(always)]
pub(crate) fn span(bytes: &[u8], start: usize, end: usize) -> &[u8] {
    bytes.get(start..end).unwrap_or_default()
}

/// Offsets of a part, 4 octets a position; empty where the part is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    pub(crate) fn new(range: Range<usize>) -> Self {
        Self { start: range.start as u32, end: range.end as u32 }
    }

    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        span(bytes, self.start as usize, self.end as usize)
    }
}

/// First position at or after `at` that is not LWS.
#[inline(always)]
pub(crate) fn skip_lws(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|&b| is_lws(b)) {
        at += 1;
    }
    at
}

/// End of the run of token octets that begins at `at`.
#[inline(always)]
pub(crate) fn skip_token(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|&b| is_token_byte(b)) {
        at += 1;
    }
    at
}

/// Removes LWS at both ends.
pub fn trim(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [first, tail @ ..] = rest
        && is_lws(*first)
    {
        rest = tail;
    }
    trim_end(rest)
}

/// Removes LWS at the end.
pub fn trim_end(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [head @ .., last] = rest
        && is_lws(*last)
    {
        rest = head;
    }
    rest
}

/// `1*DIGIT` that fits 32 bits (F-3, K-5): no sign, no space, no prefix; leading zeros are legal.
pub fn decimal(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() {
        return None;
    }
    let mut value = 0u32;
    for &b in bytes {
        if !b.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u32::from(b - b'0'))?;
    }
    Some(value)
}

/// A port: 1 to 65535 (K-5).
pub(crate) fn port(bytes: &[u8]) -> Option<u16> {
    decimal(bytes).and_then(|v| u16::try_from(v).ok()).filter(|&p| p != 0)
}

/// Position just behind the closing quote of the quoted-string that opens at `open`; `\` escapes the next octet (K-2).
pub fn quoted_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        let hit = at + memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes.get(hit) == Some(&b'"') {
            return Some(hit + 1);
        }
        // CR and LF can not be escaped (K-2).
        if matches!(bytes.get(hit + 1), None | Some(b'\r' | b'\n')) {
            return None;
        }
        at = hit + 2;
    }
}

/// Position just behind the comment that opens at `open`; nested at most eight deep.
pub(crate) fn comment_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0u8;
    let mut at = open;
    loop {
        match bytes.get(at)? {
            b'(' if depth == 8 => return None,
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(at + 1),
            b')' => depth -= 1,
            b'\\' => at += 1,
            _ => {}
        }
        at += 1;
    }
}

/// The content of a quoted-string without quotes and escapes; anything else comes back as it is.
pub fn unquote(bytes: &[u8]) -> Cow<'_, [u8]> {
    let inner = match bytes {
        [b'"', inner @ .., b'"'] => inner,
        _ => return Cow::Borrowed(bytes),
    };
    if memchr::memchr(b'\\', inner).is_none() {
        return Cow::Borrowed(inner);
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut octets = inner.iter();
    while let Some(&b) = octets.next() {
        out.extend(if b == b'\\' { octets.next() } else { Some(&b) });
    }
    Cow::Owned(out)
}

/// The value with every fold (CRLF and the LWS around it) turned into one SP (H-2); borrowed when there is none.
pub fn unfold(bytes: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\r', b'\n', bytes).is_none() {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        if b == b'\r' || b == b'\n' {
            out.truncate(trim_end(&out).len());
            out.push(b' ');
            at = skip_lws(bytes, at);
        } else {
            out.push(b);
            at += 1;
        }
    }
    Cow::Owned(out)
}

/// Appends a decimal number.
pub fn push_decimal(out: &mut Vec<u8>, value: u32) {
    let mut digits = [0u8; 10];
    let mut rest = value;
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

/// Whether `needle` stands in a text in any case: for short needles that are searched for once.
pub(crate) fn contains(text: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut starts = memchr::memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), text);
    starts.any(|at| text.get(at..at + needle.len()).is_some_and(|part| part.eq_ignore_ascii_case(needle)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_is_digits_only_and_checked() {
        assert_eq!(decimal(b"0068"), Some(68));
        assert_eq!(decimal(b"4294967295"), Some(u32::MAX));
        for bad in [&b"4294967296"[..], b"", b"+5", b"-1", b"0x5", b"5,5", b"5.0", b" 5", b"5 "] {
            assert_eq!(decimal(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn quotes_and_comments() {
        assert_eq!(quoted_end(br#""a\"b" x"#, 0), Some(6));
        assert_eq!(quoted_end(br#""a\""#, 0), None);
        assert_eq!(quoted_end(b"\"a\\\r\n \"", 0), None);
        assert_eq!(unquote(br#""J \\\"""#).as_ref(), br#"J \""#);
        assert_eq!(comment_end(b"(a(b\\))) x", 0), Some(8));
        assert_eq!(comment_end(b"(((((((((", 0), None);
    }

    #[test]
    fn unfolding_gives_one_space() {
        assert_eq!(unfold(b"a \r\n\t b\r\n c").as_ref(), b"a b c");
        assert!(matches!(unfold(b"a  b"), Cow::Borrowed(_)));
    }

    #[test]
    fn decimals_are_written() {
        for value in [0, 7, 10, 69, 65535, u32::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
    }
}
