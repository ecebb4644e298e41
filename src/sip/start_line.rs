//! Request line and status line (RFC 3261 7.1, 7.2; S-1 to S-7).

use std::ops::Range;

use super::error::{Refusal, Unusable};
use super::index::{Index, Start};
use super::limits::Limits;
use super::text::{self, span};

const BAD_VERSION: Refusal = Refusal::new(505, "Version Not Supported");
const BAD_REQUEST_LINE: Refusal = Refusal::bad("Bad Request Line");

/// Reads the start line at `line` (without its line end).
pub(super) fn read_start_line(
    bytes: &[u8],
    line: Range<usize>,
    index: &mut Index,
    limits: &Limits,
) -> Result<(), Unusable> {
    let text = span(bytes, line.start, line.end);
    if span(text, 0, 4).eq_ignore_ascii_case(b"SIP/") {
        index.start = read_status_line(text)?;
        return Ok(());
    }
    let method_end = text::skip_token(text, 0);
    if method_end == 0 {
        return Err(Unusable::StartLine);
    }
    read_request_line(text, method_end, index, limits)
}

/// `Method SP Request-URI SP SIP/2.0`, and what is close enough to be answered (S-1, S-5 to S-7).
fn read_request_line(text: &[u8], method_end: usize, index: &mut Index, limits: &Limits) -> Result<(), Unusable> {
    let trimmed = text::trim_end(text);
    let version_start = memchr::memrchr2(b' ', b'\t', trimmed).ok_or(Unusable::StartLine)? + 1;
    let version = span(trimmed, version_start, trimmed.len());
    let number = version.get(..4).filter(|v| v.eq_ignore_ascii_case(b"SIP/")).ok_or(Unusable::StartLine)?;
    let number = span(version, number.len(), version.len());
    if number != b"2.0" {
        match memchr::memchr(b'.', number) {
            Some(dot) if text::decimal(span(number, 0, dot)).is_some() => index.note(BAD_VERSION),
            _ => return Err(Unusable::StartLine),
        }
    }
    let mut uri_start = method_end;
    while matches!(text.get(uri_start), Some(b' ' | b'\t')) {
        uri_start += 1;
    }
    if uri_start == method_end || uri_start >= version_start {
        return Err(Unusable::StartLine);
    }
    let uri_end = uri_start + text::trim_end(span(text, uri_start, version_start)).len();
    let is_spaced = uri_start != method_end + 1
        || uri_end + 1 != version_start
        || trimmed.len() != text.len()
        || text.get(method_end) != Some(&b' ')
        || text.get(uri_end) != Some(&b' ');
    if is_spaced && !limits.leniency.start_line_space {
        index.note(BAD_REQUEST_LINE);
    }
    // S-6: brackets, where they are tolerated, are no part of the URI from here on.
    let is_bracketed = uri_end - uri_start > 2 && span(text, uri_start, uri_end).starts_with(b"<");
    let is_bracketed = is_bracketed && text.get(uri_end - 1) == Some(&b'>') && limits.leniency.bracketed_uri;
    let bracket = usize::from(is_bracketed);
    index.start = Start {
        method_end: method_end as u32,
        rest_start: (uri_start + bracket) as u32,
        rest_end: (uri_end - bracket) as u32,
        status: 0,
        end: 0,
    };
    Ok(())
}

/// `SIP/2.0 SP 3DIGIT SP Reason`; the SP before an empty reason may be missing (S-1).
fn read_status_line(text: &[u8]) -> Result<Start, Unusable> {
    match span(text, 4, 8) {
        b"2.0 " => {}
        b"2.0" | [] => return Err(Unusable::StartLine),
        _ => return Err(Unusable::Version),
    }
    let digits = span(text, 8, text.len()).iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return Err(Unusable::StartLine);
    }
    let status = text::decimal(span(text, 8, 8 + digits)).filter(|s| digits == 3 && (100..=699).contains(s));
    let status = status.ok_or(Unusable::Status)? as u16;
    let rest_start = match text.get(11) {
        None => 11,
        Some(b' ') => 12,
        Some(_) => return Err(Unusable::StartLine),
    };
    Ok(Start { method_end: 0, rest_start, rest_end: text.len() as u32, status, end: 0 })
}

#[cfg(test)]
mod tests {
    use super::super::limits::Leniency;
    use super::super::{Framing, parse};
    use super::*;

    fn start_line(line: &str, limits: &Limits) -> Result<Option<u16>, Unusable> {
        let message = format!("{line}\r\nVia: SIP/2.0/UDP h\r\n\r\n");
        let mut index = Index::new();
        parse(message.as_bytes(), &mut index, Framing::Datagram, limits).map(|m| m.fault().map(|f| f.status))
    }

    #[test]
    fn s1_s2_s4_start_lines() {
        let strict = Limits::default();
        for good in ["x sip:a sip/2.0", "SIP/2.0 200 OK", "SIP/2.0 100 ", "SIP/2.0 699", "SIP/2.0 200 \u{441} ; <>\""] {
            assert_eq!(start_line(good, &strict), Ok(None), "{good}");
        }
        for other in ["INVITE sip:a SIP/7.0", "INVITE sip:a SIP/2.1", "INVITE sip:a SIP/2.0.1"] {
            assert_eq!(start_line(other, &strict), Ok(Some(505)), "{other}");
        }
        assert_eq!(start_line("SIP/7.0 200 OK", &strict), Err(Unusable::Version));
        for bad in ["SIP/2.0 99 x", "SIP/2.0 700 x", "SIP/2.0 4294967301 x", "SIP/2.0 1000 x", "SIP/2.0 20 x"] {
            assert_eq!(start_line(bad, &strict), Err(Unusable::Status), "{bad}");
        }
        for bad in [
            "INVITE",
            "INVITE sip:a",
            "INVITE sip:a HTTP/1.1",
            "IN(VITE sip:a SIP/2.0",
            " INVITE sip:a SIP/2.0",
            "INVITE SIP/2.0",
            "SIP/2.0",
            "SIP/2.0 OK",
            "SIP/2.0 200OK",
            "INVITE sip:a SIP/x",
        ] {
            assert_eq!(start_line(bad, &strict), Err(Unusable::StartLine), "{bad}");
        }
    }

    #[test]
    fn s5_spacing_is_a_switch() {
        let lenient = Limits { leniency: Leniency::TRUSTED, ..Limits::default() };
        for line in [
            "INVITE  sip:a SIP/2.0",
            "INVITE sip:a  SIP/2.0",
            "INVITE sip:a SIP/2.0 ",
            "INVITE\tsip:a SIP/2.0",
            "INVITE sip:a\tSIP/2.0",
        ] {
            assert_eq!(start_line(line, &Limits::default()), Ok(Some(400)), "{line:?}");
            assert_eq!(start_line(line, &lenient), Ok(None), "{line:?}");
        }
    }
}
