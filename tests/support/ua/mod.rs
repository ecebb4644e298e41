//! Scriptable user agents over the transaction layer: [`Uac`] places calls, [`Uas`] takes them (RFC 3261 8, 12, 13, 15).

mod uac;
mod uas;

pub use uac::{Call, CallPlan, Ending, Uac};
pub use uas::{Answer, Taken, TakenState, Uas};

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use vesperd::sip::hop::{Hop, ListenerId, Outbox};
use vesperd::sip::{Message, Name, Transport, Uri, respond};
use vesperd::transaction::Layer;

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

/// 2xx to re-INVITEs, each repeated until its ACK comes (RFC 3261 13.3.1.4).
#[derive(Debug, Default)]
struct Successes(Vec<Success>);

#[derive(Debug)]
struct Success {
    call_id: String,
    cseq: u32,
    server: vesperd::transaction::ServerId,
    bytes: Vec<u8>,
    interval: Duration,
    since: Instant,
    is_acknowledged: bool,
}

impl Successes {
    /// Answers a re-INVITE; the number to call [`Self::repeat`] with after [`T1`].
    fn answer(
        &mut self,
        layer: &mut Layer,
        now: Instant,
        invite: Message<'_>,
        source: Hop,
        contact: &str,
        out: &mut Outbox,
    ) -> Option<usize> {
        let server = layer.open_server(now, invite, source, u64::MAX).ok()?;
        let bytes = write_response(invite, source, (200, "OK"), "", (&format!("Contact: <{contact}>\r\n"), ""));
        layer.respond(now, server, 200, &bytes, out);
        let cseq = invite.cseq().map_or(0, |cseq| cseq.number);
        let call_id = text(invite.call_id()?);
        self.0.push(Success { call_id, cseq, server, bytes, interval: T1, since: now, is_acknowledged: false });
        Some(self.0.len() - 1)
    }

    /// Sends one again; when to do so next, if at all.
    fn repeat(&mut self, layer: &mut Layer, now: Instant, number: usize, out: &mut Outbox) -> Option<Duration> {
        let success = &mut self.0[number];
        if success.is_acknowledged || now >= success.since + 64 * T1 {
            return None;
        }
        layer.respond(now, success.server, 200, &success.bytes, out);
        success.interval = (2 * success.interval).min(T2);
        Some(success.interval)
    }

    fn acknowledge(&mut self, ack: Message<'_>) {
        let (call_id, cseq) = (text(ack.call_id().unwrap_or_default()), ack.cseq().map_or(0, |cseq| cseq.number));
        let of_it = |success: &&mut Success| success.call_id == call_id && success.cseq == cseq;
        self.0.iter_mut().filter(of_it).for_each(|success| success.is_acknowledged = true);
    }

    fn unacknowledged(&self) -> usize {
        self.0.iter().filter(|success| !success.is_acknowledged).count()
    }
}

/// Opens a server transaction and answers at once: what a UA does with everything but INVITE.
fn answer_at_once(
    layer: &mut Layer,
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
