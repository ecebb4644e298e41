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

#[cfg(test)]
mod tests {
    use super::super::{Framing, Index, Limits, parse};
    use super::*;

    fn answer(request: &str, status: u16, tag: Option<&[u8]>, extra: &str) -> String {
        let mut index = Index::new();
        let request = parse(request.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        let mut out = Vec::new();
        write(request, "192.0.2.9:5062".parse().unwrap(), status, "Reason", tag, extra.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    const REQUEST: &str = "INVITE sip:b@c SIP/2.0\r\nv: SIP/2.0/UDP h;rport\r\n ;branch=z9hG4bKx , SIP/2.0/UDP g\r\n\
        Via: SIP/2.0/UDP f\r\nTimestamp: 54 1\r\nf: <sip:a@b>;tag=1\r\nt: \"B\r\n C\" <sip:b@c>\r\ni: c\r\nCSeq: 1 INVITE\r\n\
        Subject: x\r\nContent-Length: 2\r\n\r\nhi";

    #[test]
    fn rfc3261_8_2_6_fields_are_copied() {
        let copied = "Via: SIP/2.0/UDP h;rport=5062 ;branch=z9hG4bKx;received=192.0.2.9 , SIP/2.0/UDP g\r\nVia: SIP/2.0/UDP f\r\n";
        let rest = "Call-ID: c\r\nCSeq: 1 INVITE\r\n";
        assert_eq!(
            answer(REQUEST, 486, Some(b"t9"), "Retry-After: 5\r\n"),
            format!(
                "SIP/2.0 486 Reason\r\n{copied}From: <sip:a@b>;tag=1\r\nTo: \"B C\" <sip:b@c>;tag=t9\r\n{rest}\
                 Retry-After: 5\r\nContent-Length: 0\r\n\r\n"
            )
        );
        // 100: no tag, but the Timestamp.
        assert_eq!(
            answer(REQUEST, 100, Some(b"t9"), ""),
            format!(
                "SIP/2.0 100 Reason\r\n{copied}Timestamp: 54 1\r\nFrom: <sip:a@b>;tag=1\r\nTo: \"B C\" <sip:b@c>\r\n{rest}\
                 Content-Length: 0\r\n\r\n"
            )
        );
    }

    #[test]
    fn a_to_tag_stays_and_an_unreadable_to_gets_none() {
        let tagged = REQUEST.replace("<sip:b@c>", "<sip:b@c>;tag=own");
        assert!(answer(&tagged, 400, Some(b"t9"), "").contains("To: \"B C\" <sip:b@c>;tag=own\r\n"));
        let broken = REQUEST.replace("t: \"B", "t: B\"");
        assert!(!answer(&broken, 400, Some(b"t9"), "").contains("t9"));
    }

    #[test]
    fn e2_repeated_fields_once_and_no_nul() {
        let doubled = REQUEST
            .replace("i: c\r\n", "i: c\r\nCall-ID: d\r\nf: <sip:x@y>\r\nCSeq: 2 BYE\r\n")
            .replace("\"B", "\"B\0");
        let out = answer(&doubled, 400, None, "");
        for name in ["Call-ID: ", "From: ", "To: ", "CSeq: "] {
            assert_eq!(out.matches(name).count(), 1, "{name}");
        }
        assert!(out.contains("Call-ID: c\r\n") && !out.contains('\0'));
    }
}
