//! An established TLS session: octets in, octets out, over a socket that says when it is ready.

use std::io::{self, ErrorKind, Read, Write};
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::net::TcpStream;

use super::identity::{Identities, identities_of};

/// Reads of the socket in one go: a peer that always has more to say does not keep the thread to itself.
const ROUNDS: usize = 16;

/// A session after its handshake.
pub struct Session {
    socket: TcpStream,
    tls: Box<Connection>,
}

/// A socket as `std::io` sees it: it never waits.
struct NoWait<'a>(&'a TcpStream);

impl Read for NoWait<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for NoWait<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Session {
    /// Over a socket of the present runtime.
    pub fn new(socket: TcpStream, tls: Connection) -> Self {
        Self { socket, tls: Box::new(tls) }
    }

    /// The socket underneath.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The names that the peer's certificate proves (RFC 5922 7.1); none if it showed no certificate.
    pub fn identities(&self) -> Identities {
        self.tls.peer_certificates().and_then(<[_]>::first).map(|leaf| identities_of(leaf)).unwrap_or_default()
    }

    /// Reads plain octets. `Ready(Ok(0))`: the peer has closed.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        for _ in 0..ROUNDS {
            match self.try_read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(self.socket.poll_read_ready(cx))?,
                read => return Poll::Ready(read),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The same, or `WouldBlock`: also after many records that held nothing.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for _ in 0..ROUNDS {
            // What came with the handshake is there before the socket has anything.
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0), // SIP frames itself
                read => return read,
            }
            match self.tls.read_tls(&mut NoWait(&self.socket)) {
                Ok(_) => {
                    let state = self.tls.process_new_packets();
                    let _ = self.write_records(); // an alert or a key update; the next write tells what is wrong
                    state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::WouldBlock.into())
    }

    /// Takes plain octets as far as there is room, and sends records as far as the kernel has.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            let rest = bytes.get(taken..).unwrap_or_default();
            let count = self.tls.writer().write(rest)?;
            taken += count;
            let is_sent = self.write_records()?;
            if taken == bytes.len() || !is_sent || count == 0 {
                break;
            }
        }
        if taken == 0 && !bytes.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Records that the kernel had no room for.
    pub fn has_pending(&self) -> bool {
        self.tls.wants_write()
    }

    /// Says that nothing more comes (CN-5).
    pub fn close(&mut self) {
        self.tls.send_close_notify();
        let _ = self.write_records(); // the peer may be gone: nothing left to tell
    }

    /// Whether all records are with the kernel.
    fn write_records(&mut self) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut NoWait(&self.socket)) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
