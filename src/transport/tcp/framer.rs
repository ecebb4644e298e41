//! Where one message ends and the next begins: in a stream of octets by their own lengths, in a WebSocket by its own messages.

use std::time::Instant;

use tokio_tungstenite::tungstenite::Bytes;

use crate::sip::Limits;
use crate::sip::hop::Transport;
use crate::sip::stream::{Frame, StreamError, StreamFramer};

#[allow(clippy::large_enum_variant, reason = "streams are the usual kind")]
pub(super) enum Framer {
    Stream(StreamFramer),
    /// F-9: the last WebSocket message, and whether it was not handed out yet.
    Messages(Bytes, bool),
}

impl Framer {
    pub fn new(transport: Transport) -> Self {
        if transport.is_web() { Self::Messages(Bytes::new(), false) } else { Self::Stream(StreamFramer::new()) }
    }

    /// Octets of a stream.
    pub fn push(&mut self, octets: &[u8], now: Instant) {
        if let Self::Stream(framer) = self {
            framer.push(octets, now);
        }
    }

    /// A ping was sent: the next CRLF is its answer.
    pub fn await_pong(&mut self) {
        if let Self::Stream(framer) = self {
            framer.await_pong();
        }
    }

    /// A whole message.
    pub fn put(&mut self, message: Bytes) {
        *self = Self::Messages(message, true);
    }

    /// What the ranges of [`Frame`] point into.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Stream(framer) => framer.bytes(),
            Self::Messages(message, _) => message,
        }
    }

    /// The next frame, if a whole one is there.
    pub fn next(&mut self, limits: &Limits) -> Result<Option<Frame>, StreamError> {
        match self {
            Self::Stream(framer) => framer.next(limits),
            Self::Messages(message, is_new) => {
                if !std::mem::take(is_new) {
                    return Ok(None);
                }
                let is_blank = message.iter().all(|octet| matches!(octet, b'\r' | b'\n'));
                Ok(match is_blank {
                    false => Some(Frame::Message(0..message.len())),
                    true => (message.len() >= 4).then_some(Frame::Ping), // KA-1, inside a message (W-4)
                })
            }
        }
    }

    /// Whether a message is not complete in time (F-7). A WebSocket sees to that itself.
    pub fn is_late(&self, now: Instant, limits: &Limits) -> bool {
        match self {
            Self::Stream(framer) => framer.check_deadline(now, limits).is_err(),
            Self::Messages(..) => false,
        }
    }
}
