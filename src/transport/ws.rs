//! WebSocket (RFC 7118): who may open one, and an established one over its TCP connection or TLS session. One SIP message travels in
//! one WebSocket message (W-1); permessage-deflate is never offered.
//!
//! The HTTP handshake needs a runtime and time; `node` runs it apart from the workers, as it does for TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, WebSocket};

use crate::sip::hop::Transport;
use crate::transport::tcp::{CloseReason, Stream};

/// The subprotocol that must be asked for (RFC 7118 4).
const SUBPROTOCOL: &str = "sip";
/// Octets read at once; a longer message gets room of its own.
const READ: usize = 8 * 1024;
/// Reads of the stream in one go, each of up to [`READ`] octets or what a message lacks: empty fragments end no message, and a peer
/// that always has more of them does not keep the thread to itself.
const ROUNDS: u32 = 4;
/// What pongs may add to a full write queue.
const PONGS: usize = 64 * 1024;
/// Octets a control frame adds to its payload: two of header and length, four of mask (RFC 6455 5.2, 5.5).
const CONTROL_HEADER: u64 = 6;

/// Web pages that may open a WebSocket (RFC 6455 10.2): values of Origin, or `*` for any. A client that is no browser sends none and is
/// let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(pub Vec<String>);

impl Origins {
    fn allows(&self, origin: Option<&HeaderValue>) -> bool {
        let Some(origin) = origin else { return true };
        self.0.iter().any(|allowed| allowed == "*" || allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
    }
}

/// Judges the HTTP request of a handshake: subprotocol `sip`, an allowed origin.
///
/// # Errors
/// 400 without the subprotocol, 403 for a page from elsewhere.
#[allow(clippy::result_large_err)] // the type that the handshake wants
pub fn screen(request: &Request, mut response: Response, origins: &Origins) -> Result<Response, ErrorResponse> {
    let asked = request.headers().get_all("sec-websocket-protocol");
    let words = asked.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    if !words.map(str::trim).any(|word| word.eq_ignore_ascii_case(SUBPROTOCOL)) {
        return Err(refusal(StatusCode::BAD_REQUEST, "the subprotocol is \"sip\"\n"));
    }
    if !origins.allows(request.headers().get("origin")) {
        return Err(refusal(StatusCode::FORBIDDEN, "this origin is not allowed\n"));
    }
    response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

fn refusal(status: StatusCode, why: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(why.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert("connection", HeaderValue::from_static("close"));
    response.headers_mut().insert("content-length", HeaderValue::from(why.len()));
    response
}

/// What a read brought.
#[derive(Debug)]
pub enum Received {
    /// The payload of a message.
    Message(Bytes),
    /// A ping or pong; a ping is answered already.
    Control,
    /// The peer has closed.
    Closed,
}

/// An established WebSocket of which this side is the server.
pub struct Session {
    inner: WebSocket<Carrier>,
    /// Octets read since the last whole message that belong to a message still incomplete.
    partial: u64,
    /// When the first of them came.
    since: Option<Instant>,
    /// Why the peer's frames are unreadable.
    failure: Option<CloseCode>,
    /// Octets wait for room in the kernel.
    is_blocked: bool,
}

/// The octets underneath, as `std::io` sees them: they never wait.
struct Carrier {
    stream: Stream,
    /// Octets read.
    read: u64,
    /// Reads that are left in this go.
    left: u32,
}

impl Read for Carrier {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(1).ok_or(ErrorKind::WouldBlock)?;
        let count = self.stream.try_read(buffer)?;
        self.read += count as u64;
        Ok(count)
    }
}

impl Write for Carrier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.stream.has_pending() {
            self.stream.try_write(&[])?;
        }
        if self.stream.has_pending() { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }
}

impl Session {
    /// Over a stream whose handshake is done. `max_message`: octets of a message, whole or in fragments (W-4); `max_output`: octets that
    /// may wait to be written.
    pub fn new(stream: Stream, max_message: usize, max_output: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(0)
            .max_write_buffer_size(max_output.saturating_add(PONGS))
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let inner = WebSocket::from_raw_socket(Carrier { stream, read: 0, left: 0 }, Role::Server, Some(config));
        Self { inner, partial: 0, since: None, failure: None, is_blocked: false }
    }

    /// What it runs over.
    pub fn carrier(&self) -> &Stream {
        &self.inner.get_ref().stream
    }

    /// WS or WSS.
    pub fn transport(&self) -> Transport {
        if self.carrier().transport().is_secure() { Transport::Wss } else { Transport::Ws }
    }

    /// Reads the next message.
    ///
    /// # Errors
    /// The transport's, or `InvalidData` for frames against RFC 6455 or above the limit.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<Received>> {
        self.inner.get_mut().left = ROUNDS;
        loop {
            let before = self.inner.get_ref().read;
            let result = self.inner.read();
            self.partial += self.inner.get_ref().read - before;
            match result {
                Ok(Message::Text(text)) => return Poll::Ready(Ok(self.whole(text.into()))),
                Ok(Message::Binary(bytes)) => return Poll::Ready(Ok(self.whole(bytes))),
                Ok(Message::Ping(payload) | Message::Pong(payload)) => {
                    self.partial = self.partial.saturating_sub(payload.len() as u64 + CONTROL_HEADER);
                    self.since = self.since.filter(|_| self.partial > 0);
                    return Poll::Ready(Ok(Received::Control));
                }
                // Answered by the next read, which then ends.
                Ok(Message::Close(_) | Message::Frame(_)) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    if self.partial > 0 {
                        self.since.get_or_insert(now);
                    }
                    if self.inner.get_ref().left == 0 {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    ready!(self.carrier().poll_read_ready(cx))?;
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Poll::Ready(Ok(Received::Closed)),
                Err(Error::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(Received::Closed));
                }
                Err(Error::Io(error)) => return Poll::Ready(Err(error)),
                Err(error) => return Poll::Ready(Err(self.fail(&error))),
            }
        }
    }

    fn whole(&mut self, bytes: Bytes) -> Received {
        // What came of the next message with it is counted from its next octet on.
        (self.partial, self.since) = (0, None);
        Received::Message(bytes)
    }

    fn fail(&mut self, error: &Error) -> io::Error {
        use tokio_tungstenite::tungstenite::error::ProtocolError;
        let (code, kind) = match error {
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => (None, ErrorKind::ConnectionReset),
            Error::Capacity(_) => (Some(CloseCode::Size), ErrorKind::InvalidData),
            Error::Utf8(_) => (Some(CloseCode::Invalid), ErrorKind::InvalidData),
            _ => (Some(CloseCode::Protocol), ErrorKind::InvalidData),
        };
        self.failure = code;
        io::Error::new(kind, error.to_string())
    }

    /// A message is on its way for so long and not complete (F-7).
    pub fn is_slow(&self, now: Instant, limit: Duration) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    /// Takes one whole message: as text if it is UTF-8 (W-1).
    ///
    /// # Errors
    /// `WouldBlock` while an earlier one is not with the kernel.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.has_pending() {
            self.flush()?;
        }
        let message = match std::str::from_utf8(bytes) {
            Ok(text) => Message::text(text),
            Err(_) => Message::binary(bytes.to_vec()),
        };
        match self.inner.write(message) {
            Ok(()) => {}
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {} // it is taken all the same
            Err(Error::Io(error)) => return Err(error),
            Err(_) => return Err(ErrorKind::BrokenPipe.into()),
        }
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(bytes.len()),
        }
    }

    /// Hands on what waits.
    ///
    /// # Errors
    /// `WouldBlock` if the kernel has no room.
    pub fn flush(&mut self) -> io::Result<()> {
        let flushed = match self.inner.flush() {
            Ok(()) => Ok(()),
            Err(Error::Io(error)) => Err(error),
            Err(_) => Err(ErrorKind::BrokenPipe.into()),
        };
        self.is_blocked = flushed.is_err();
        flushed
    }

    /// Octets taken that the kernel has not.
    pub fn has_pending(&self) -> bool {
        self.is_blocked
    }

    /// Says why it ends, as far as there is room.
    pub fn close(&mut self, reason: CloseReason) {
        let code = self.failure.unwrap_or(match reason {
            CloseReason::Idle => CloseCode::Away,
            CloseReason::TooSlow => CloseCode::Policy,
            CloseReason::NotSip => CloseCode::Unsupported,
            CloseReason::Broken => CloseCode::Protocol,
            _ => CloseCode::Normal,
        });
        let _ = self.inner.close(Some(CloseFrame { code, reason: Default::default() })); // the peer may be gone: nothing left to tell
        self.inner.get_mut().stream.close_session();
    }

    /// Reads octets behind the last message, to be forgotten.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.inner.get_mut().stream.poll_octets(cx, buffer)
    }
}
