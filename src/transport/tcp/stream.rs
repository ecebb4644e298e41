//! What a connection reads from and writes to: a TCP socket, or a TLS session over one.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::sip::hop::Transport;
use crate::transport::tls::{Identities, Session};

/// A byte stream in both directions.
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Session),
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
        }
    }

    /// TCP or TLS.
    pub fn transport(&self) -> Transport {
        match self {
            Self::Plain(_) => Transport::Tcp,
            Self::Tls(_) => Transport::Tls,
        }
    }

    /// Names the peer has proven (RFC 5922 7.1).
    pub fn identities(&self) -> Identities {
        match self {
            Self::Plain(_) => Identities::new(),
            Self::Tls(session) => session.identities(),
        }
    }

    pub(super) fn set_nodelay(&self) {
        let _ = self.socket().set_nodelay(true); // latency only: a failure here shows with the first write
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Self::Tls(session) => session.poll_read(cx, buffer),
        }
    }

    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(bytes),
            Self::Tls(session) => session.try_write(bytes),
        }
    }

    /// Octets taken by [`Self::try_write`] that the kernel has not.
    pub(super) fn has_pending(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(session) => session.has_pending(),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_write_ready(cx)
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn shut(&mut self) {
        if let Self::Tls(session) = self {
            session.close();
        }
        let _ = SockRef::from(self.socket()).shutdown(Shutdown::Write); // fails when the peer is gone: nothing left to tell
    }
}
