//! Responses this element makes itself (RFC 3261 8.2.6): fields copied by span, nothing echoed that could not be delimited (E-2).

use std::net::SocketAddr;

use super::message::Message;
use super::name::Name;
use super::text::{self, span};

/// Appends a response to `request` to `out`.
///
/// Copied in the order of the request: every Via (the top one stamped for `source`, T-3), From, To, Call-ID, CSeq, and for 100 the
/// Timestamp (8.2.6.1). `to_tag` is added to a readable To that has none, except in a 100. Of a repeated From, To, Call-ID or
/// CSeq the first is copied. `extra` is ready header lines, each with its CRLF; `Content-Length: 0` follows them. There is no body (E-1).
///
/// `reason` is this element's own text. Never call it for an ACK (P-2).
pub fn write(
    request: Message<'_>,
    source: SocketAddr,
    status: u16,
    reason: &str,
    to_tag: Option<&[u8]>,
    extra: &[u8],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"SIP/2.0 ");
    text::push_decimal(out, u32::from(status));
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut copied = Copied::default();
    for entry in &request.index().entries {
        let value = entry.value_start as usize..entry.value_end as usize;
        match entry.name {
            Name::Via if !std::mem::replace(&mut copied.via, true) => write_top_via(request, value, source, out),
            Name::Via => write_field(request, "Via: ", value, out),
            Name::From if !std::mem::replace(&mut copied.from, true) => write_field(request, "From: ", value, out),
            Name::CallId if !std::mem::replace(&mut copied.call_id, true) => {
                write_field(request, "Call-ID: ", value, out)
            }
            Name::CSeq if !std::mem::replace(&mut copied.cseq, true) => write_field(request, "CSeq: ", value, out),
            Name::To if !std::mem::replace(&mut copied.to, true) => {
                write_field(request, "To: ", value, out);
                let tag = to_tag.filter(|_| status != 100 && request.to().is_ok_and(|to| to.tag().is_none()));
                if let Some(tag) = tag {
                    out.truncate(out.len() - 2);
                    out.extend_from_slice(b";tag=");
                    out.extend_from_slice(tag);
                    out.extend_from_slice(b"\r\n");
                }
            }
            Name::Timestamp if status == 100 => write_field(request, "Timestamp: ", value, out),
            _ => {}
        }
    }
    out.extend_from_slice(extra);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

#[derive(Default)]
struct Copied {
    via: bool,
    from: bool,
    to: bool,
    call_id: bool,
    cseq: bool,
}

fn write_field(request: Message<'_>, name: &str, value: std::ops::Range<usize>, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    push_unfolded(span(request.bytes(), value.start, value.end), out);
    out.extend_from_slice(b"\r\n");
}

fn write_top_via(request: Message<'_>, value: std::ops::Range<usize>, source: SocketAddr, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Via: ");
    let mut at = value.start;
    for stamp in request.reply_via().stamps(source).into_iter().flatten() {
        push_unfolded(span(request.bytes(), at, stamp.range.start), out);
        stamp.write(out);
        at = stamp.range.end;
    }
    push_unfolded(span(request.bytes(), at, value.end), out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a value with folds turned into spaces; CR, LF and NUL can not get through (E-2).
fn push_unfolded(value: &[u8], out: &mut Vec<u8>) {
    let value = text::unfold(value);
    if memchr::memchr(b'\0', &value).is_none() {
        out.extend_from_slice(&value);
    } else {
        out.extend(value.iter().filter(|&&b| b != 0));
    }
}
