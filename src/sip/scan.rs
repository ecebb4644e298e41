//! The one pass over a message: start line, header lines, Content-Length, top Via (sections 1 to 3 of the parsing rules).

use std::ops::Range;

use super::error::{Refusal, Unusable};
use super::index::{Bounds, Entry, Index};
use super::limits::Limits;
use super::message::Message;
use super::name::Name;
use super::name_addr::AddressSpans;
use super::start_line::read_start_line;
use super::text::{self, span};

/// How the end of the message is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One datagram, one message: without Content-Length the body is the rest, surplus is cut off (F-1).
    Datagram,
    /// Octets cut out of a stream by [`super::stream::StreamFramer`]: Content-Length is needed for a body (F-2).
    Stream,
}

const NO_HEADER_END: Refusal = Refusal::bad("Header Section Not Closed");
const BAD_CONTENT_LENGTH: Refusal = Refusal::bad("Bad Content-Length");
const BAD_HEADER_LINE: Refusal = Refusal::bad("Bad Header Line");
const BAD_LINE_END: Refusal = Refusal::bad("Bad Line End");
const BAD_OCTET: Refusal = Refusal::bad("NUL In Header");
const TOO_LARGE_HEAD: Refusal = Refusal::new(513, "Message Too Large");
const TOO_LARGE_BODY: Refusal = Refusal::new(413, "Request Entity Too Large");
pub(crate) const BAD_REQUEST_URI: Refusal = Refusal::bad("Bad Request-URI");

/// Splits a message into start line, header fields and body, and reads its top Via, From and To.
///
/// `Err`: nothing that could be answered (drop, on a stream close). A fault that is to be answered is kept in
/// [`Message::fault`]; such a message holds as much as could be read. Offsets of all views count from the first octet of
/// [`Message::bytes`], which begins behind leading CRLFs (F-4).
pub fn parse<'a>(
    bytes: &'a [u8],
    index: &'a mut Index,
    framing: Framing,
    limits: &Limits,
) -> Result<Message<'a>, Unusable> {
    let leading = bytes.iter().take_while(|&&b| b == b'\r' || b == b'\n').count();
    let bytes = span(bytes, leading, bytes.len());
    if let Some(other) = not_sip(bytes) {
        return Err(other);
    }
    if bytes.len() >= u32::MAX as usize {
        return Err(Unusable::TooLong);
    }
    scan_head(bytes, index, limits)?;
    let end = find_body_end(bytes, index, framing, limits);
    read_keys(bytes, index)?;
    index.bounds = Bounds {
        vias: limits.vias as u32,
        routes: limits.routes as u32,
        uri: limits.uri as u32,
        user: limits.user as u32,
        uri_headers: limits.leniency.uri_headers,
        bare_cookie: limits.leniency.bare_cookie,
    };
    Ok(Message::new(span(bytes, 0, end), index))
}

/// What arrives on SIP ports and is not SIP (F-5); `bytes` begins behind leading CRLFs.
pub(crate) fn not_sip(bytes: &[u8]) -> Option<Unusable> {
    match bytes {
        [] => Some(Unusable::Keepalive),
        [0..=3, ..] if span(bytes, 4, 8) == [0x21, 0x12, 0xa4, 0x42] => Some(Unusable::Stun),
        [0x16, 0x03, ..] => Some(Unusable::Tls),
        _ if bytes.len() <= 4 || bytes.iter().all(|b| matches!(b, 0 | b'\r' | b'\n')) => Some(Unusable::Keepalive),
        [b'G', b'E', b'T', b' ', ..] | [b'H', b'T', b'T', b'P', b'/', ..] => Some(Unusable::Http),
        [b'P', b'O', b'S', b'T', b' ', b'/', ..] | [b'H', b'E', b'A', b'D', b' ', ..] => Some(Unusable::Http),
        [b'P', b'R', b'I', b' ', b'*', ..] | [b'P', b'U', b'T', b' ', ..] => Some(Unusable::Http),
        _ => None,
    }
}

/// Indexes start line and header lines. Bounds: `limits.head`, `fields`, `folds`, `value`, `identity_value`.
///
/// `Err`: not SIP. Where [`Unusable::is_framed`] the header lines are indexed all the same.
pub(crate) fn scan_head(bytes: &[u8], index: &mut Index, limits: &Limits) -> Result<(), Unusable> {
    index.clear();
    let head = span(bytes, 0, limits.head.min(bytes.len()));
    let mut lines = Lines { bytes, head, has_bare_cr: false, has_bare_lf: false, has_nul: false };
    let Some(newline) = lines.line_end(0) else {
        return scan_lone_start_line(bytes, head, index, limits);
    };
    let started = read_start_line(bytes, trim_line_end(bytes, 0..newline), index, limits);
    if let Err(other) = started
        && !other.is_framed()
    {
        return Err(other);
    }
    index.start.end = newline as u32 + 1;
    let end = scan_fields(&mut lines, newline + 1, index, limits);
    if lines.has_bare_cr {
        index.note_unsafe(BAD_LINE_END);
    }
    if lines.has_bare_lf {
        index.has_bare_lf = true;
        if !limits.leniency.bare_lf {
            index.note_unsafe(BAD_LINE_END);
        }
    }
    if lines.has_nul && !are_quoted_pairs(bytes, end, index) {
        index.note_unsafe(BAD_OCTET);
    }
    if end > head.len() {
        index.note(TOO_LARGE_HEAD);
    }
    index.body = end as u32;
    started
}

/// A start line without a line end: a truncated datagram, or a start line over the limit.
fn scan_lone_start_line(bytes: &[u8], head: &[u8], index: &mut Index, limits: &Limits) -> Result<(), Unusable> {
    read_start_line(bytes, 0..head.len(), index, limits)?;
    index.start.end = head.len() as u32;
    index.body = head.len() as u32;
    index.note(if head.len() < bytes.len() { TOO_LARGE_HEAD } else { NO_HEADER_END });
    Ok(())
}

/// The lines of a header block, and what must not stand in it (F-6, F-8).
struct Lines<'a> {
    bytes: &'a [u8],
    /// The part of `bytes` the header block may fill.
    head: &'a [u8],
    has_bare_cr: bool,
    has_bare_lf: bool,
    has_nul: bool,
}

impl Lines<'_> {
    /// Position of the LF that ends the line at `at`. One search finds the line end and all that is not allowed.
    #[inline]
    fn line_end(&mut self, at: usize) -> Option<usize> {
        let mut from = at;
        loop {
            let hit = from + memchr::memchr3(b'\r', b'\n', b'\0', span(self.head, from, self.head.len()))?;
            match self.bytes.get(hit..hit + 2) {
                Some(b"\r\n") => return Some(hit + 1),
                _ => match self.bytes.get(hit) {
                    Some(b'\n') => {
                        self.has_bare_lf = true;
                        return Some(hit);
                    }
                    Some(b'\r') => self.has_bare_cr = true,
                    _ => self.has_nul = true,
                },
            }
            from = hit + 1;
        }
    }

    /// Position of the LF that ends the field at `at`, folds included; `Err` at the end of the header block.
    #[inline]
    fn field_end(&mut self, at: usize, limits: &Limits) -> Result<usize, Refusal> {
        let mut from = at;
        for _ in 0..=limits.folds {
            let Some(newline) = self.line_end(from) else {
                return Err(if self.head.len() < self.bytes.len() { TOO_LARGE_HEAD } else { NO_HEADER_END });
            };
            if !matches!(self.bytes.get(newline + 1), Some(b' ' | b'\t')) {
                return Ok(newline);
            }
            from = newline + 1;
        }
        Err(TOO_LARGE_HEAD)
    }
}

/// Indexes the header lines from `at`; returns the end of the header block, or of what could be read of it.
fn scan_fields(lines: &mut Lines<'_>, mut at: usize, index: &mut Index, limits: &Limits) -> usize {
    if matches!(lines.bytes.get(at), Some(b' ' | b'\t')) {
        index.note_unsafe(BAD_HEADER_LINE); // a fold with nothing to continue (H-2)
    }
    loop {
        match lines.bytes.get(at) {
            Some(b'\r') if lines.bytes.get(at + 1) == Some(&b'\n') => return at + 2,
            Some(b'\n') => {
                lines.has_bare_lf = true;
                return at + 1;
            }
            _ => {}
        }
        if index.entries.len() >= limits.fields.min(usize::from(u16::MAX) - 1) {
            index.note(TOO_LARGE_HEAD);
            return at;
        }
        let newline = match lines.field_end(at, limits) {
            Ok(newline) => newline,
            Err(fault) => {
                index.note(fault);
                return at;
            }
        };
        if !push_field(lines.bytes, at, newline, index, limits) {
            index.note_unsafe(BAD_HEADER_LINE);
        }
        at = newline + 1;
    }
}

/// Adds the field on `start..=newline`; false if the line is no `token HCOLON value` (it stays out of the index).
#[inline]
fn push_field(bytes: &[u8], start: usize, newline: usize, index: &mut Index, limits: &Limits) -> bool {
    let Some((name, name_end, colon)) = read_name(bytes, start) else { return false };
    // One SP is what nearly everybody writes.
    let mut value_start = colon + 1 + usize::from(bytes.get(colon + 1) == Some(&b' '));
    while value_start < newline && bytes.get(value_start).is_some_and(|&b| text::is_lws(b)) {
        value_start += 1;
    }
    let value_end = value_start + text::trim_end(span(bytes, value_start, newline)).len();
    let bound = if name == Name::Identity { limits.identity_value } else { limits.value };
    if value_end - value_start > bound {
        index.note(TOO_LARGE_HEAD);
    }
    index.push(Entry {
        start: start as u32,
        end: newline as u32 + 1,
        value_start: value_start as u32,
        value_end: value_end as u32,
        name_len: (name_end - start) as u32,
        name,
    });
    true
}

/// `token HCOLON` at `start`: the name, its end, the position of the colon.
#[inline]
fn read_name(bytes: &[u8], start: usize) -> Option<(Name, usize, usize)> {
    if let Some((name, len)) = Name::known_at(span(bytes, start, bytes.len())) {
        return Some((name, start + len, start + len));
    }
    let end = text::skip_token(bytes, start);
    let mut colon = end;
    while matches!(bytes.get(colon), Some(b' ' | b'\t')) {
        colon += 1;
    }
    let is_field = end > start && bytes.get(colon) == Some(&b':');
    is_field.then(|| (Name::new(span(bytes, start, end)), end, colon))
}

/// Every NUL before `end` is the second octet of a quoted-pair. Each is looked up from the start of its value, so they are
/// bounded: more than 16 are refused.
fn are_quoted_pairs(bytes: &[u8], end: usize, index: &Index) -> bool {
    let mut nuls = memchr::memchr_iter(b'\0', span(bytes, 0, end));
    nuls.by_ref().take(16).all(|at| is_quoted_pair(bytes, index, at)) && nuls.next().is_none()
}

/// The octet at `at` is the second of a quoted-pair inside a quoted string of a header value (K-2).
fn is_quoted_pair(bytes: &[u8], index: &Index, at: usize) -> bool {
    let position = index.entries.partition_point(|e| (e.start as usize) <= at);
    let Some(entry) = position.checked_sub(1).and_then(|i| index.entries.get(i)) else { return false };
    let value = span(bytes, 0, entry.value_end as usize);
    let mut from = entry.value_start as usize;
    while let Some(open) = memchr::memchr(b'"', span(value, from, at)).map(|n| from + n) {
        let Some(end) = text::quoted_end(value, open) else { return false };
        if end > at {
            // Inside: legal if the backslashes before it are odd in number.
            let run = span(value, open, at).iter().rev().take_while(|&&b| b == b'\\').count();
            return run % 2 == 1;
        }
        from = end;
    }
    false
}

fn trim_line_end(bytes: &[u8], line: Range<usize>) -> Range<usize> {
    match span(bytes, line.start, line.end) {
        [head @ .., b'\r'] => line.start..line.start + head.len(),
        _ => line,
    }
}

/// Applies the Content-Length rules; returns the end of the message in `bytes`.
fn find_body_end(bytes: &[u8], index: &mut Index, framing: Framing, limits: &Limits) -> usize {
    let body = index.body as usize;
    match content_length(bytes, index) {
        Err(fault) => {
            index.note(fault);
            body
        }
        Ok(None) if framing == Framing::Datagram => {
            if bytes.len() > limits.message {
                index.note(TOO_LARGE_BODY);
                return body;
            }
            bytes.len()
        }
        Ok(None) => {
            if index.first(Name::ContentType).is_some() {
                index.note(Refusal::bad("Missing Content-Length"));
            }
            body
        }
        Ok(Some(length)) => {
            index.content_length = Some(length);
            let end = body + length as usize;
            if end > limits.message {
                index.note(TOO_LARGE_BODY);
                return body;
            }
            if end > bytes.len() {
                index.note(BAD_CONTENT_LENGTH);
            }
            end.min(bytes.len())
        }
    }
}

/// The Content-Length, if there is one; equal repetitions are one (F-2, F-3).
pub(crate) fn content_length(bytes: &[u8], index: &Index) -> Result<Option<u32>, Refusal> {
    let Some(first) = index.first(Name::ContentLength) else { return Ok(None) };
    let mut length = None;
    for entry in index.entries.iter().skip(first).filter(|e| e.name == Name::ContentLength) {
        let value = text::decimal(span(bytes, entry.value_start as usize, entry.value_end as usize));
        if value.is_none() || length.is_some_and(|l| Some(l) != value) {
            return Err(BAD_CONTENT_LENGTH);
        }
        length = value;
    }
    Ok(length)
}

/// Reads what every message is asked for: its top Via, From and To.
fn read_keys(bytes: &[u8], index: &mut Index) -> Result<(), Unusable> {
    let via = index.value(Name::Via).ok_or(Unusable::Via)?;
    index.via.read(bytes, via.start, via.end).map_err(|_| Unusable::Via)?;
    let address = |range: Range<usize>| AddressSpans::read(span(bytes, range.start, range.end)).ok();
    index.from = index.value(Name::From).and_then(address);
    index.to = index.value(Name::To).and_then(address);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIA: &str = "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx\r\n";

    /// What `look` sees in `head` with a Via put behind its start line.
    fn with<T>(framing: Framing, limits: &Limits, message: &str, look: impl FnOnce(Message<'_>) -> T) -> T {
        let mut index = Index::new();
        look(parse(message.as_bytes(), &mut index, framing, limits).unwrap_or_else(|e| panic!("{e}: {message:?}")))
    }

    fn fault(framing: Framing, headers: &str) -> Option<&'static str> {
        let message = format!("OPTIONS sip:a@b SIP/2.0\r\n{VIA}{headers}");
        with(framing, &Limits::default(), &message, |m| m.fault().map(|f| f.reason))
    }

    fn datagram(headers: &str) -> Option<&'static str> {
        fault(Framing::Datagram, headers)
    }

    #[test]
    fn f1_datagram_bodies() {
        let body = |headers: &str| {
            let message = format!("OPTIONS sip:a@b SIP/2.0\r\n{VIA}{headers}");
            with(Framing::Datagram, &Limits::default(), &message, |m| (m.body().len(), m.bytes().len() < message.len()))
        };
        assert_eq!(body("\r\nhello"), (5, false));
        assert_eq!(body("Content-Length: 3\r\n\r\nhello"), (3, true));
        assert_eq!(body("l: 5\r\n\r\nhello"), (5, false));
        assert_eq!(datagram("l: 6\r\n\r\nhello"), Some("Bad Content-Length"));
        assert_eq!(datagram("Subject: x\r\n"), Some("Header Section Not Closed"));
        assert_eq!(datagram("Subject: x"), Some("Header Section Not Closed"));
    }

    #[test]
    fn f2_stream_bodies_need_a_length() {
        assert_eq!(fault(Framing::Stream, "\r\n"), None);
        assert_eq!(fault(Framing::Stream, "c: text/plain\r\n\r\n"), Some("Missing Content-Length"));
        assert_eq!(datagram("c: text/plain\r\n\r\n"), None);
    }

    #[test]
    fn f3_content_length_is_digits() {
        for good in ["5", "005", "\t5 ", "\r\n 5"] {
            assert_eq!(datagram(&format!("Content-Length:{good}\r\n\r\nhello")), None, "{good:?}");
        }
        for bad in ["+5", "-5", "0x5", "5,5", "5.0", "", "5 5", "5;x", "99999999999", "\u{665}", "1\r\n 0"] {
            assert_eq!(datagram(&format!("Content-Length: {bad}\r\n\r\nhello")), Some("Bad Content-Length"), "{bad:?}");
        }
        let message = |n: usize| format!("OPTIONS sip:a@b SIP/2.0\r\n{VIA}l: {n}\r\n\r\n{}", "x".repeat(n));
        let limits = Limits { message: message(10).len(), ..Limits::default() };
        let length = |n: usize| {
            let message = message(n);
            with(Framing::Datagram, &limits, &message, |m| m.fault().map(|f| f.status))
        };
        assert_eq!((length(10), length(11)), (None, Some(413)));
    }

    #[test]
    fn f4_f5_what_is_no_message() {
        let unusable = |bytes: &[u8]| parse(bytes, &mut Index::new(), Framing::Datagram, &Limits::default()).err();
        for keepalive in [&b""[..], b"\r\n\r\n", b"\0\0\0\0\0\0", b"ping", b"\r\n\r\n\0"] {
            assert_eq!(unusable(keepalive), Some(Unusable::Keepalive), "{keepalive:?}");
        }
        assert_eq!(unusable(b"\0\x01\0\0\x21\x12\xa4\x42aaaaaaaaaaaa"), Some(Unusable::Stun));
        assert_eq!(unusable(b"\x16\x03\x01\x02\0\x01"), Some(Unusable::Tls));
        assert_eq!(unusable(b"GET / HTTP/1.1\r\n\r\n"), Some(Unusable::Http));
        assert_eq!(unusable(b"hello world\r\n\r\n"), Some(Unusable::StartLine));
        assert_eq!(unusable(b"OPTIONS sip:a SIP/2.0\r\n\r\n"), Some(Unusable::Via));
        assert_eq!(unusable(b"OPTIONS sip:a SIP/2.0\r\nVia: x\r\n\r\n"), Some(Unusable::Via));
        let message = format!("\r\n\r\nOPTIONS sip:a@b SIP/2.0\r\n{VIA}\r\n");
        with(Framing::Datagram, &Limits::default(), &message, |m| assert!(m.bytes().starts_with(b"OPTIONS")));
    }

    #[test]
    fn smuggling_set() {
        // A bare CR is never a line end, and never passed on.
        assert_eq!(datagram("Subject: a\rContent-Length: 5\r\n\r\n"), Some("Bad Line End"));
        assert_eq!(datagram("Subject: a\r\r\n\r\n"), Some("Bad Line End"));
        // A bare LF neither, unless the peer is trusted.
        assert_eq!(datagram("Subject: a\nContent-Length: 0\r\n\r\n"), Some("Bad Line End"));
        assert_eq!(datagram("Content-Length: 0\r\n\n"), Some("Bad Line End"));
        // LWS before the colon is legal, and does not hide the header.
        assert_eq!(datagram("Content-Length : 9\r\n\r\nhello"), Some("Bad Content-Length"));
        assert_eq!(datagram("Content-Length\t : 5\r\n\r\nhello"), None);
        // Compact and long form are one header.
        assert_eq!(datagram("l: 5\r\nContent-Length: 4\r\n\r\nhello"), Some("Bad Content-Length"));
        assert_eq!(datagram("l: 5\r\nContent-Length: 005\r\n\r\nhello"), None);
        // NUL and octets that look like letters.
        assert_eq!(datagram("Content-Length\0: 5\r\n\r\nhello"), Some("Bad Header Line"));
        assert_eq!(datagram("Subject: a\0b\r\n\r\n"), Some("NUL In Header"));
        assert_eq!(datagram("Subject: \"a\\\0b\"\r\n\r\n"), None);
        assert_eq!(datagram("Subject: \"a\\\\\0b\"\r\n\r\n"), Some("NUL In Header"));
        let pairs = |n| datagram(&format!("Subject: \"{}\"\r\n\r\n", "\\\0".repeat(n)));
        assert_eq!((pairs(16), pairs(17)), (None, Some("NUL In Header")));
        assert_eq!(datagram("Subject: \"\" \\\0\r\n\r\n"), Some("NUL In Header"));
        for line in ["V\u{131}a: x", "Content Length: 5", "no colon", ": empty", "(x): y", "\u{ff36}ia: x"] {
            assert_eq!(datagram(&format!("{line}\r\n\r\n")), Some("Bad Header Line"), "{line}");
        }
        assert_eq!(
            with(
                Framing::Datagram,
                &Limits::default(),
                &format!("OPTIONS sip:a SIP/2.0\r\n folded\r\n{VIA}\r\n"),
                |m| m.fault()
            ),
            Some(BAD_HEADER_LINE)
        );
        let message = format!(
            "OPTIONS sip:a SIP/2.0\r\n{VIA}y: a;info=<b>\r\nIdentity: c;info=<d>\r\nIDENTITY : e;info=<f>\r\n\r\n"
        );
        with(Framing::Datagram, &Limits::default(), &message, |m| assert_eq!(m.fields_of(Name::Identity).count(), 3));
    }

    #[test]
    fn limits_one_under_and_one_over() {
        let limits = Limits { head: 400, fields: 4, folds: 2, value: 60, identity_value: 80, ..Limits::default() };
        let status = |headers: &str| {
            let message = format!("OPTIONS sip:a@b SIP/2.0\r\n{VIA}{headers}\r\n");
            with(Framing::Datagram, &limits, &message, |m| m.fault().map(|f| f.status))
        };
        let long = |name: &str, n: usize| status(&format!("{name}: {}\r\n", "x".repeat(n)));
        assert_eq!((long("Subject", 60), long("Subject", 61)), (None, Some(513)));
        assert_eq!((long("Identity", 80), long("y", 81)), (None, Some(513)));
        assert_eq!((status(&"a: b\r\n".repeat(3)), status(&"a: b\r\n".repeat(4))), (None, Some(513)));
        let folded = |n: usize| status(&format!("Subject: x{}\r\n", "\r\n y".repeat(n)));
        assert_eq!((folded(2), folded(3)), (None, Some(513)));
        let head = |n: usize| {
            let fixed = format!("OPTIONS sip:a@b SIP/2.0\r\n{VIA}\r\n");
            let uri = "a".repeat(n - fixed.len() + 1);
            let message = fixed.replace("sip:a@b", &format!("sip:{uri}@b"));
            assert_eq!(message.len(), n);
            with(Framing::Datagram, &limits, &message, |m| m.fault().map(|f| f.status))
        };
        assert_eq!((head(400), head(401)), (None, Some(513)));
    }

    #[test]
    fn h3_compact_and_long_names_are_one_list_in_order() {
        let message =
            format!("OPTIONS sip:a SIP/2.0\r\n{VIA}m: <sip:1>\r\nContact: <sip:2>, <sip:3>\r\nM : <sip:4>\r\n\r\n");
        with(Framing::Datagram, &Limits::default(), &message, |m| {
            let values: Vec<_> = m.values(Name::Contact).map(|v| v.value.to_vec()).collect();
            assert_eq!(values, [&b"<sip:1>"[..], b"<sip:2>", b"<sip:3>", b"<sip:4>"]);
            assert_eq!(m.fields_of(Name::Contact).count(), 3);
        });
    }
}
