//! The one pass over a message: start line, header lines, Content-Length, top Via (sections 1 to 3 of the parsing rules).

use std::ops::Range;

use super::error::{Refusal, Unusable};
use super::index::{Bounds, Entry, Index, Start};
use super::limits::Limits;
use super::message::Message;
use super::name::Name;
use super::text::{self, span};
use super::via::Via;

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
const BAD_VERSION: Refusal = Refusal::new(505, "Version Not Supported");
const BAD_REQUEST_LINE: Refusal = Refusal::bad("Bad Request Line");
pub(crate) const BAD_REQUEST_URI: Refusal = Refusal::bad("Bad Request-URI");

/// Splits a message into start line, header fields and body, and reads its top Via.
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
    read_top_via(bytes, index)?;
    index.bounds = Bounds {
        vias: limits.vias as u32,
        routes: limits.routes as u32,
        uri: limits.uri as u32,
        user: limits.user as u32,
        uri_headers: limits.leniency.uri_headers,
        bracketed_uri: limits.leniency.bracketed_uri,
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
pub(crate) fn scan_head(bytes: &[u8], index: &mut Index, limits: &Limits) -> Result<(), Unusable> {
    index.clear();
    let head = span(bytes, 0, limits.head.min(bytes.len()));
    let mut lines = Lines { bytes, head, has_bare_cr: false, has_bare_lf: false, has_nul: false };
    let Some(newline) = lines.line_end(0) else {
        return scan_lone_start_line(bytes, head, index, limits);
    };
    read_start_line(bytes, trim_line_end(bytes, 0..newline), index, limits)?;
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
    if lines.has_nul && !memchr::memchr_iter(b'\0', span(bytes, 0, end)).all(|at| is_quoted_pair(bytes, index, at)) {
        index.note_unsafe(BAD_OCTET);
    }
    index.body = end as u32;
    Ok(())
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

/// Reads the start line at `line` (without its line end).
fn read_start_line(bytes: &[u8], line: Range<usize>, index: &mut Index, limits: &Limits) -> Result<(), Unusable> {
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
    index.start = Start {
        method_end: method_end as u32,
        rest_start: uri_start as u32,
        rest_end: uri_end as u32,
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

/// Applies the Content-Length rules; returns the end of the message in `bytes`.
fn find_body_end(bytes: &[u8], index: &mut Index, framing: Framing, limits: &Limits) -> usize {
    let body = index.body as usize;
    match content_length(bytes, index) {
        Err(fault) => {
            index.note(fault);
            body
        }
        Ok(None) if framing == Framing::Datagram => bytes.len(),
        Ok(None) => {
            if index.first(Name::ContentType).is_some() {
                index.note(Refusal::bad("Missing Content-Length"));
            }
            body
        }
        Ok(Some(length)) => {
            index.content_length = Some(length);
            let end = body + length as usize;
            if length as usize > limits.message {
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

fn read_top_via(bytes: &[u8], index: &mut Index) -> Result<(), Unusable> {
    let entry = index.first(Name::Via).and_then(|i| index.entries.get(i)).ok_or(Unusable::Via)?;
    let via = Via::read(bytes, entry.value_start as usize, entry.value_end as usize).map_err(|_| Unusable::Via)?;
    index.via = *via.spans();
    Ok(())
}
