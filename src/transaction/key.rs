//! What tells server transactions apart: the key of RFC 3261 17.2.3, and that of RFC 2543 for branches without the cookie.

use super::SentBy;
use super::buffers::Buffers;
use crate::sip::hop::Transport;
use crate::sip::{Message, Method, Via};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// A key as kept with its transaction: the identity, and behind it for RFC 2543 the To tags of the request and of the response.
#[derive(Debug)]
pub(super) struct Key {
    bytes: Vec<u8>,
    /// Octets of the identity.
    identity: u32,
    /// End of the request's To tag; the response's follows.
    request_to_tag: u32,
    kind: Kind,
    written: Written,
}

/// What of the Via is no part of the identity but decides where a response may go (T-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    /// sent-by has a port.
    port: bool,
    /// There is an rport.
    rport: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Branch with the magic cookie: To tags play no part.
    Rfc3261,
    Rfc2543,
}

/// Which To tag must be that of the probing request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToTag {
    /// A retransmission, or a CANCEL, repeats the request's.
    OfRequest,
    /// An ACK has the response's.
    OfResponse,
}

/// The key a received request has, in memory that is used again.
#[derive(Debug)]
pub(super) struct Probe<'a> {
    bytes: &'a [u8],
    identity: u32,
    hash: u64,
    kind: Kind,
    to_tag: ToTag,
    written: Written,
}

/// Makes probes.
#[derive(Debug)]
pub(super) struct Prober {
    key: [u8; 16],
    scratch: Vec<u8>,
}

impl Prober {
    pub(super) fn new(key: [u8; 16]) -> Self {
        Self { key, scratch: Vec::new() }
    }

    /// The key of the transaction that `request` belongs to, read as a request of `method`. ACK belongs to its INVITE.
    pub(super) fn probe(&mut self, request: Message<'_>, method: Method<'_>) -> Probe<'_> {
        let (method, to_tag) = match method {
            Method::Ack => (Method::Invite, ToTag::OfResponse),
            other => (other, ToTag::OfRequest),
        };
        let bytes = &mut self.scratch;
        bytes.clear();
        let kind = write_identity(request, method, bytes);
        let identity = bytes.len() as u32;
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(bytes);
        let hash = hasher.finish();
        if kind == Kind::Rfc2543 {
            bytes.extend_from_slice(request.to_tag().unwrap_or_default());
        }
        let via = request.reply_via();
        let written = Written { port: via.port().is_some(), rport: via.rport().is_some() };
        Probe { bytes, identity, hash, kind, to_tag, written }
    }

    /// The key of the transaction that sent a response with this top Via to a request of `method`. `None` without the cookie.
    pub(super) fn probe_via(&mut self, via: Via<'_>, method: Method<'_>) -> Option<Probe<'_>> {
        let bytes = &mut self.scratch;
        bytes.clear();
        write_rfc3261(via, method, bytes).then_some(())?;
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(bytes);
        let (identity, hash) = (bytes.len() as u32, hasher.finish());
        let written = Written { port: via.port().is_some(), rport: via.rport().is_some() };
        Some(Probe { bytes, identity, hash, kind: Kind::Rfc3261, to_tag: ToTag::OfRequest, written })
    }
}

/// Writes the fields, each behind its length, so that no two keys run into one another.
fn write_identity(request: Message<'_>, method: Method<'_>, out: &mut Vec<u8>) -> Kind {
    // A Via with a fault is refused by others; here it still must tell retransmissions from new requests.
    let via = request.reply_via();
    if write_rfc3261(via, method, out) {
        return Kind::Rfc3261;
    }
    for bytes in [
        method.as_bytes(),
        request.request_uri(),
        request.from_tag().unwrap_or_default(),
        request.call_id().unwrap_or_default(),
        &request.cseq().map_or(0, |cseq| cseq.number).to_be_bytes(),
        request.bytes().get(via.range()).unwrap_or_default(),
    ] {
        write_field(bytes, out);
    }
    Kind::Rfc2543
}

/// False, and nothing is written, without the cookie.
fn write_rfc3261(via: Via<'_>, method: Method<'_>, out: &mut Vec<u8>) -> bool {
    let Some(branch) = via.rfc3261_branch() else { return false };
    // sent-by is part of the key so that two clients with one branch stay apart. Branch: byte-exact.
    write_field(method.as_bytes(), out);
    write_field(branch, out);
    let default = Transport::from_token(via.transport()).map_or(5060, Transport::default_port);
    out.extend_from_slice(&via.port().unwrap_or(default).to_be_bytes());
    out.extend(via.host().iter().map(u8::to_ascii_lowercase));
    true
}

fn write_field(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Splits what [`write_field`] has written from what follows.
fn split_field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

impl Probe<'_> {
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether this is the transaction: every octet is compared.
    pub(super) fn is(&self, key: &Key) -> bool {
        let (identity, to_tag) = self.bytes.split_at(self.identity as usize);
        if self.kind != key.kind || identity != key.identity() {
            return false;
        }
        match (self.kind, self.to_tag) {
            (Kind::Rfc3261, _) => true,
            (Kind::Rfc2543, ToTag::OfRequest) => to_tag == key.request_to_tag(),
            (Kind::Rfc2543, ToTag::OfResponse) => to_tag == key.response_to_tag(),
        }
    }

    /// The key for a new transaction.
    pub(super) fn keep(&self, buffers: &mut Buffers) -> Key {
        Key {
            bytes: buffers.copy(self.bytes),
            identity: self.identity,
            request_to_tag: self.bytes.len() as u32,
            kind: self.kind,
            written: self.written,
        }
    }
}

impl Key {
    /// Whether To tags matter, so that [`Self::set_response_to_tag`] must be called with every final response.
    pub(super) fn has_to_tags(&self) -> bool {
        self.kind == Kind::Rfc2543
    }

    /// Takes the To tag of the response sent, for the ACK to repeat.
    pub(super) fn set_response_to_tag(&mut self, response: Message<'_>) {
        self.bytes.truncate(self.request_to_tag as usize);
        self.bytes.extend_from_slice(response.to_tag().unwrap_or_default());
    }

    /// Whom the request's top Via names, where the key says it.
    pub(super) fn sent_by(&self) -> Option<SentBy<'_>> {
        let identity = Some(self.identity()).filter(|_| self.kind == Kind::Rfc3261)?;
        let (_method, rest) = split_field(identity)?;
        let (_branch, rest) = split_field(rest)?;
        let (port, host) = rest.split_first_chunk::<2>()?;
        let port = self.written.port.then_some(u16::from_be_bytes(*port));
        Some(SentBy { host, port, asks_rport: self.written.rport })
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn identity(&self) -> &[u8] {
        self.bytes.get(..self.identity as usize).unwrap_or_default()
    }

    fn request_to_tag(&self) -> &[u8] {
        self.bytes.get(self.identity as usize..self.request_to_tag as usize).unwrap_or_default()
    }

    fn response_to_tag(&self) -> &[u8] {
        self.bytes.get(self.request_to_tag as usize..).unwrap_or_default()
    }
}
