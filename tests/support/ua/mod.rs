//! Scriptable user agents over the transaction layer: [`Uac`] places calls, [`Uas`] takes them (RFC 3261 8, 12, 13, 15).

mod uac;
mod uas;

pub use uac::{Call, CallPlan, Ending, Uac};
pub use uas::{Answer, Taken, TakenState, Uas};

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use vesperd::sip::hop::{Hop, ListenerId, Outbox};
use vesperd::sip::{Message, Name, Transport, Uri, respond};

/// T1 and T2 of the 2xx that a UAS retransmits by itself (RFC 3261 13.3.1.4).
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);

/// The way to an address from the first listener.
pub fn hop_to(transport: Transport, remote: SocketAddr) -> Hop {
    Hop { transport, local: ListenerId(0), remote, connection: None, peer: None }
}

/// The address in a SIP URI, if it is one.
fn address_of(uri: &[u8]) -> Option<SocketAddr> {
    let uri = Uri::parse(uri).ok()?;
    Some(SocketAddr::new(uri.host.ip()?, uri.port.unwrap_or(5060)))
}

/// The URIs of Record-Route or Route values, in order.
fn uris_of(message: Message<'_>, name: Name) -> Vec<String> {
    let uri = |value: &[u8]| vesperd::sip::NameAddr::parse(value).map(|address| text(address.uri)).ok();
    message.values(name).filter_map(|value| uri(value.value)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A response with a body.
fn write_response(
    request: Message<'_>,
    source: Hop,
    (status, reason): (u16, &str),
    to_tag: &str,
    (lines, body): (&str, &str),
) -> Vec<u8> {
    let mut out = Vec::new();
    respond::write(request, source.remote, status, reason, Some(to_tag.as_bytes()), lines.as_bytes(), &mut out);
    if !body.is_empty() {
        out.truncate(out.len() - b"Content-Length: 0\r\n\r\n".len());
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    }
    out
}

/// Opens a server transaction and answers at once: what a UA does with everything but INVITE.
fn answer_at_once(
    layer: &mut vesperd::transaction::Layer,
    now: Instant,
    request: Message<'_>,
    source: Hop,
    status: (u16, &str),
    out: &mut Outbox,
) {
    if let Ok(server) = layer.open_server(now, request, source, u64::MAX) {
        let response = write_response(request, source, status, "uas", ("", ""));
        layer.respond(now, server, status.0, &response, out);
    }
}
