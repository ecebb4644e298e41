//! What a connection reads from and writes to: a TCP socket, a TLS session over one, or a WebSocket over either.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::CloseReason;
use crate::sip::hop::Transport;
use crate::transport::tls::{Identities, Session};
use crate::transport::ws;

/// A byte stream in both directions.
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Session),
    /// Messages instead of octets.
    Ws(Box<ws::Session>),
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl From<Session> for Stream {
    fn from(session: Session) -> Self {
        Self::Tls(session)
    }
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(session) => session.socket(),
            Self::Ws(session) => session.carrier().socket(),
        }
    }

    /// Of which kind it is.
    pub fn transport(&self) -> Transport {
        match self {
            Self::Plain(_) => Transport::Tcp,
            Self::Tls(_) => Transport::Tls,
            Self::Ws(session) => session.transport(),
        }
    }

    /// Names the peer has proven (RFC 5922 7.1).
    pub fn identities(&self) -> Identities {
        match self {
            Self::Plain(_) => Identities::new(),
            Self::Tls(session) => session.identities(),
            Self::Ws(session) => session.carrier().identities(),
        }
    }

    pub(super) fn set_nodelay(&self) {
        let _ = self.socket().set_nodelay(true); // latency only: a failure here shows with the first write
    }

    /// Reads octets; of a WebSocket those behind its last message.
    pub(crate) fn poll_octets(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Self::Tls(session) => session.poll_read(cx, buffer),
            Self::Ws(session) => session.poll_rest(cx, buffer),
        }
    }

    /// Reads octets if there are any.
    pub(crate) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_read(buffer),
            Self::Tls(session) => session.try_read(buffer),
            Self::Ws(_) => Err(io::ErrorKind::Unsupported.into()), // has messages
        }
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_read_ready(cx)
    }

    /// Takes octets, or one whole message.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(bytes),
            Self::Tls(session) => session.try_write(bytes),
            Self::Ws(session) if bytes.is_empty() => session.flush().map(|()| 0),
            Self::Ws(session) => session.try_write(bytes),
        }
    }

    /// Octets taken by [`Self::try_write`] that the kernel has not.
    pub(crate) fn has_pending(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(session) => session.has_pending(),
            Self::Ws(session) => session.has_pending(),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_write_ready(cx)
    }

    /// Ends the session over the socket, if there is one.
    pub(crate) fn close_session(&mut self) {
        if let Self::Tls(session) = self {
            session.close();
        }
    }

    /// Tells the peer that nothing more comes, and why.
    pub(super) fn shut(&mut self, reason: CloseReason) {
        match self {
            Self::Ws(session) => session.close(reason),
            _ => self.close_session(),
        }
        let _ = SockRef::from(self.socket()).shutdown(Shutdown::Write); // fails when the peer is gone: nothing left to tell
    }
}
