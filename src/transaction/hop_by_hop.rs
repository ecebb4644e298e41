//! The two requests a client transaction makes of its INVITE: ACK to a 300-699 (RFC 3261 17.1.1.3) and CANCEL (9.1).

use crate::sip::text::unfold;
use crate::sip::{Framing, Index, Leniency, Limits, Message, Name, parse};

/// Reads what this element itself has written.
#[derive(Debug)]
pub(super) struct Reader {
    index: Index,
    limits: Limits,
}

impl Reader {
    pub(super) fn new() -> Self {
        // What was received was within the receiver's limits; how much was added since is this element's own business.
        let (octets, count) = (1 << 20, 1 << 12);
        let limits = Limits {
            message: octets,
            head: octets,
            value: octets,
            identity_value: octets,
            fields: count,
            folds: count,
            vias: count,
            routes: count,
            uri: octets,
            leniency: Leniency::TRUSTED,
            ..Limits::default()
        };
        Self { index: Index::new(), limits }
    }

    /// Calls `f` with the message, unless the octets are none.
    pub(super) fn read<T>(&mut self, bytes: &[u8], f: impl FnOnce(Message<'_>) -> T) -> Option<T> {
        Some(f(parse(bytes, &mut self.index, Framing::Datagram, &self.limits).ok()?))
    }
}

/// Appends the ACK for `response` to `invite`; `false` if the INVITE as sent can not be read.
pub(super) fn write_ack(reader: &mut Reader, invite: &[u8], response: Message<'_>, out: &mut Vec<u8>) -> bool {
    let to = response.field(Name::To).map(|field| field.value());
    reader.read(invite, |invite| write(invite, b"ACK", to, &[], out)).is_some_and(|written| written.is_some())
}

/// Appends the CANCEL of `invite`, with `extra_lines` among its header lines; `false` if the INVITE as sent can not be read.
pub(super) fn write_cancel(reader: &mut Reader, invite: &[u8], extra_lines: &[u8], out: &mut Vec<u8>) -> bool {
    reader
        .read(invite, |invite| write(invite, b"CANCEL", None, extra_lines, out))
        .is_some_and(|written| written.is_some())
}

/// Request-URI, Call-ID, From, CSeq number and all Route values of the INVITE, its top Via alone, and no other header: in
/// particular no Require or Proxy-Require (9.1). To is the INVITE's unless one is given. Folds are not written again (H-2).
fn write(invite: Message<'_>, method: &[u8], to: Option<&[u8]>, extra_lines: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let via = invite.bytes().get(invite.reply_via().range())?;
    let from = invite.field(Name::From)?.unfolded();
    let to = to.or_else(|| Some(invite.field(Name::To)?.value()))?;
    let number = invite.cseq().ok()?.number;
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    put(&[method, b" ", invite.request_uri(), b" SIP/2.0\r\nVia: ", via, b"\r\nMax-Forwards: 70\r\n"]);
    for route in invite.fields_of(Name::Route) {
        put(&[b"Route: ", &route.unfolded(), b"\r\n"]);
    }
    put(&[b"From: ", &from, b"\r\nTo: ", &unfold(to), b"\r\nCall-ID: ", invite.call_id()?, b"\r\nCSeq: "]);
    write_decimal(number, out);
    out.extend_from_slice(b" ");
    out.extend_from_slice(method);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(extra_lines);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    Some(())
}

fn write_decimal(number: u32, out: &mut Vec<u8>) {
    use std::io::Write;
    let _ = write!(out, "{number}"); // writing to a Vec can not fail
}
