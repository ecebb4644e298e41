//! The Identity header field (RFC 8224 4), tolerant in and strict out.

use std::ops::Range;

use super::params::{MAX_PARAMS, Step, step};
use super::text::{self, Malformed};

/// One Identity value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityValue<'a> {
    /// signed-identity-digest: the PASSporT, full or compact; letters, digits and `-_.+/=` only.
    pub digest: &'a [u8],
    /// The `info` URI, without angle brackets; empty if the parameter is missing (RFC 8224 6.2.2: such a field can not be used, 436).
    pub info: &'a [u8],
    /// `alg`, unquoted.
    pub alg: Option<&'a [u8]>,
    /// `ppt`, unquoted; compared case-sensitively.
    pub ppt: Option<&'a [u8]>,
    /// Where the value stands in the message.
    pub range: Range<usize>,
}

impl<'a> IdentityValue<'a> {
    /// Reads one value that stands at `range` of the message. Parameters come in any order, with LWS around `;` and `=`, names in
    /// any case, `ppt` quoted or bare, `info` bracketed or bare; unknown ones are skipped. The first of a repeated name counts.
    pub fn parse(value: &'a [u8], range: Range<usize>) -> Result<Self, Malformed> {
        let start = text::skip_lws(value, 0);
        let len = digest_len(text::span(value, start, value.len()));
        let mut read = Self { digest: text::span(value, start, start + len), info: &[], alg: None, ppt: None, range };
        if len == 0 {
            return Err(Malformed);
        }
        let mut at = start + len;
        let mut has_info = false;
        for _ in 0..=MAX_PARAMS {
            if let Some((uri, end)) = bracketed_info(value, at) {
                if !std::mem::replace(&mut has_info, true) {
                    read.info = uri;
                }
                at = end;
                continue;
            }
            match step(value, at) {
                Step::End => return Ok(read),
                Step::Comma(_) | Step::Bad => return Err(Malformed),
                Step::Param(param) => {
                    if param.is("info") {
                        if !std::mem::replace(&mut has_info, true) {
                            read.info = unquoted(param.value.unwrap_or_default());
                        }
                    } else if param.is("alg") {
                        read.alg = read.alg.or(param.value.map(unquoted));
                    } else if param.is("ppt") {
                        read.ppt = read.ppt.or(param.value.map(unquoted));
                    }
                    at = param.range.end;
                }
            }
        }
        Err(Malformed)
    }
}

/// Octets of digest at the beginning. It is nearly all of the value, so what usually is the whole of it, up to the first semicolon, is
/// checked without a branch per octet.
fn digest_len(text: &[u8]) -> usize {
    let head = text::span(text, 0, memchr::memchr(b';', text).unwrap_or(text.len()));
    if head.iter().fold(true, |all, &b| all & is_digest_byte(b)) {
        return head.len();
    }
    head.iter().take_while(|&&b| is_digest_byte(b)).count()
}

/// base64url with padding and the base64 alphabet of the printed ABNF tolerated.
fn is_digest_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+' | b'/' | b'=')
}

/// `; info = <uri>` at `at`: the angle brackets are no generic-param, so it is read apart. Gives the URI and the end.
fn bracketed_info(value: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let at = text::skip_lws(value, at);
    let name = text::skip_lws(value, at + 1);
    let equals = text::skip_lws(value, name + 4);
    let open = text::skip_lws(value, equals + 1);
    let is_info = value.get(at) == Some(&b';')
        && text::span(value, name, name + 4).eq_ignore_ascii_case(b"info")
        && value.get(equals) == Some(&b'=')
        && value.get(open) == Some(&b'<');
    if !is_info {
        return None;
    }
    let len = memchr::memchr(b'>', text::span(value, open, value.len()))?;
    Some((text::trim(text::span(value, open + 1, open + len)), open + len + 1))
}

/// Without the quotes around it; escapes stay, as no token has any.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value)
}

/// Appends a whole header line `Identity: digest;info=<uri>;alg=ES256;ppt="ppt"` with its CRLF (RFC 8224 4.1 prints ppt quoted).
///
/// `digest`, `info`, `alg` and `ppt` are this element's own text and must hold no CR, LF, `>` or quote.
pub fn write_line(digest: &[u8], info: &[u8], alg: Option<&[u8]>, ppt: Option<&[u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Identity: ");
    out.extend_from_slice(digest);
    out.extend_from_slice(b";info=<");
    out.extend_from_slice(info);
    out.push(b'>');
    if let Some(alg) = alg {
        out.extend_from_slice(b";alg=");
        out.extend_from_slice(alg);
    }
    if let Some(ppt) = ppt {
        out.extend_from_slice(b";ppt=\"");
        out.extend_from_slice(ppt);
        out.push(b'"');
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<IdentityValue<'_>, Malformed> {
        IdentityValue::parse(text.as_bytes(), 0..text.len())
    }

    #[test]
    fn tolerant_in() {
        for text in [
            "ab-_.c.d;info=<https://x.example/c.pem>;alg=ES256;ppt=\"shaken\"",
            "ab-_.c.d;info=<https://x.example/c.pem>;alg=ES256;ppt=shaken",
            "ab-_.c.d ; PPT = \"shaken\" ; Info = < https://x.example/c.pem > ; x=y ; ALG = \"ES256\"",
            " ab-_.c.d\r\n ;info=https://x.example/c.pem\r\n ;alg=ES256;ppt=shaken;info=<http://second>",
            "ab-_.c.d;info=\"https://x.example/c.pem\";alg=ES256;ppt=shaken;ppt=div",
        ] {
            let v = read(text).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(v.digest, b"ab-_.c.d", "{text}");
            assert_eq!(v.info, b"https://x.example/c.pem", "{text}");
            assert_eq!((v.alg, v.ppt), (Some(&b"ES256"[..]), Some(&b"shaken"[..])), "{text}");
        }
        let bare = read("..sig=").unwrap();
        assert_eq!((bare.digest, bare.info, bare.alg, bare.ppt), (&b"..sig="[..], &b""[..], None, None));
    }

    #[test]
    fn malformed() {
        for bad in [
            "",
            ";info=<x>",
            "a b;info=<x>",
            "a!;info=<x>",
            "a;info=<x",
            "a;;ppt=x",
            "\"a\";info=<x>",
            "a;info=<x>,b;info=<y>",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn strict_out_and_read_back() {
        let mut out = Vec::new();
        write_line(b"h.p.s", b"https://x/c", Some(b"ES256"), Some(b"shaken"), &mut out);
        assert_eq!(out, b"Identity: h.p.s;info=<https://x/c>;alg=ES256;ppt=\"shaken\"\r\n");
        let value = out.strip_prefix(b"Identity: ").unwrap().strip_suffix(b"\r\n").unwrap();
        let v = IdentityValue::parse(value, 0..value.len()).unwrap();
        assert_eq!(
            (v.digest, v.info, v.alg, v.ppt),
            (&b"h.p.s"[..], &b"https://x/c"[..], Some(&b"ES256"[..]), Some(&b"shaken"[..]))
        );
    }
}
