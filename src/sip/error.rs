//! What is wrong with a message, and whose business it is.

use std::fmt;

/// A request is to be answered with this, and goes no further. The phrase names the header, never its content.
///
/// An ACK is never answered, whatever is wrong with it (P-2): the caller drops it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// SIP status code, 400 to 699.
    pub status: u16,
    /// Reason phrase.
    pub reason: &'static str,
}

impl Refusal {
    /// A refusal with this status and phrase.
    pub const fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason }
    }

    pub(crate) const fn bad(reason: &'static str) -> Self {
        Self::new(400, reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}

impl std::error::Error for Refusal {}

/// The octets are no message that could be answered: swallow them and count the class (on a stream: close).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unusable {
    /// Only CR, LF and NUL, or at most four octets: a keepalive (F-5).
    Keepalive,
    /// A STUN message (F-5, KA-2).
    Stun,
    /// A TLS record on a plain port (F-5).
    Tls,
    /// An HTTP request or response (F-5).
    Http,
    /// The start line is neither `token … SIP/n.n` nor `SIP/n.n …`.
    StartLine,
    /// A response whose version is not 2.0 (S-2).
    Version,
    /// A response whose status is not 100 to 699 (S-4).
    Status,
    /// No top Via with readable protocol and sent-by: nobody to answer (P-1).
    Via,
    /// Larger than a message can be.
    TooLong,
}

impl Unusable {
    /// It is a response that is to be dropped, but its end is known: on a stream the next message follows (section 9).
    pub fn is_framed(self) -> bool {
        matches!(self, Self::Version | Self::Status)
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keepalive => "keepalive",
            Self::Stun => "STUN message",
            Self::Tls => "TLS record on a plain port",
            Self::Http => "HTTP message",
            Self::StartLine => "start line is not SIP",
            Self::Version => "response of another SIP version",
            Self::Status => "response status outside 100 to 699",
            Self::Via => "no readable top Via",
            Self::TooLong => "message too long",
        })
    }
}

impl std::error::Error for Unusable {}

/// Why a response is dropped (section 9: responses are never answered).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Content-Length, line ends, limits: whatever would be a [`Refusal`] for a request.
    Framing,
    /// The top Via has a fault.
    Via,
    /// CSeq missing, repeated or malformed.
    CSeq,
    /// Call-ID missing, repeated or empty.
    CallId,
    /// From missing, repeated or malformed.
    From,
    /// To missing, repeated or malformed.
    To,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Framing => "bad framing",
            Self::Via => "bad Via",
            Self::CSeq => "bad CSeq",
            Self::CallId => "bad Call-ID",
            Self::From => "bad From",
            Self::To => "bad To",
        })
    }
}

impl std::error::Error for DropReason {}
