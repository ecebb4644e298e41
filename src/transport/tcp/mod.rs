//! TCP: listening, connecting, and the table of one worker's connections. A connection belongs to the worker that accepted or
//! opened it; only that worker reads, frames and writes.

mod connection;
mod framer;
mod keepalive;
mod stream;
mod table;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

pub use stream::Stream;
pub use table::{Incoming, Table};

/// Settings of all TCP connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// For opening a connection; 2 s (CN-7).
    pub connect_timeout: Duration,
    /// A connection that carries nothing for so long is closed; 15 min (CN-4).
    pub idle_timeout: Duration,
    /// Bytes that wait to be written on one connection; 512 KiB (CN-6).
    pub write_queue_bytes: usize,
    /// Messages that wait to be written on one connection; 1024 (CN-6).
    pub write_queue_messages: usize,
    /// Requests sent over one connection that fail with it if they have no answer; of more the oldest wait for their timers; 4096.
    pub awaited_requests: usize,
    /// Connections per worker; 16,384.
    pub max_connections: usize,
    /// Accepted connections per source /24 (IPv4) or /56 (IPv6) and worker; 256.
    pub max_per_prefix: usize,
    /// Connections accepted per second, listener and worker, and as many at once; 1000. The others wait in the kernel.
    pub accepts_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(15 * 60),
            write_queue_bytes: 512 * 1024,
            write_queue_messages: 1024,
            awaited_requests: 4096,
            max_connections: 16_384,
            max_per_prefix: 256,
            accepts_per_second: 1_000,
        }
    }
}

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 1024;

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed it.
    Peer,
    /// Reading or writing failed.
    Error,
    /// It could not be opened.
    ConnectFailed,
    /// It could not be opened in time.
    ConnectTimeout,
    /// It carried nothing for too long.
    Idle,
    /// A message was not complete in time (F-7).
    TooSlow,
    /// What it carried is not SIP (F-5).
    NotSip,
    /// A message whose end is unknown; answered if possible (F-2).
    Broken,
    /// A ping got no pong (KA-1).
    NoPong,
    /// The TLS handshake failed: no session, or not the peer it should be (TL-4).
    Handshake,
}

impl CloseReason {
    /// All reasons, in the order of [`Stats::closed`].
    pub const ALL: [Self; 10] = [
        Self::Peer,
        Self::Error,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::Idle,
        Self::TooSlow,
        Self::NotSip,
        Self::Broken,
        Self::NoPong,
        Self::Handshake,
    ];
}

/// Why a connection was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The worker holds [`Config::max_connections`].
    Full,
    /// The source prefix holds [`Config::max_per_prefix`].
    Prefix,
    /// The source is not heard; whose table this is says so.
    Source,
}

/// The mark of a message, for the report that it could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// Who sent it.
    pub worker: u16,
    /// That worker's mark; 0 if nobody cares.
    pub tag: u64,
}

/// What the connections of a worker have seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections opened, or tried to.
    pub opened: u64,
    /// Connections not taken in because the table was full.
    pub refused_full: u64,
    /// Connections not taken in because their source prefix had its share.
    pub refused_prefix: u64,
    /// Messages received.
    pub received: u64,
    /// Messages queued for writing.
    pub sent: u64,
    /// Messages refused because the write queue was full.
    pub queue_full: u64,
    /// Messages for a connection that is gone.
    pub gone: u64,
    /// Keepalive pings sent.
    pub pings: u64,
    /// Connections closed, by [`CloseReason::ALL`].
    pub closed: [u64; CloseReason::ALL.len()],
}

impl Stats {
    /// Adds the counts of another table.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.opened += other.opened;
        self.refused_full += other.refused_full;
        self.refused_prefix += other.refused_prefix;
        self.received += other.received;
        self.sent += other.sent;
        self.queue_full += other.queue_full;
        self.gone += other.gone;
        self.pings += other.pings;
        for (mine, other) in self.closed.iter_mut().zip(other.closed) {
            *mine += other;
        }
    }
}

/// Binds the first listening socket of an address; fails if anyone else listens there. Without a runtime: [`listen`] makes it a
/// listener of the runtime's.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = open_listener(address)?;
    socket.bind(&address.into())?;
    // Only now: with SO_REUSEPORT at bind, the same address in another process of ours would be no error but half of the traffic.
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds another listening socket to the address of `first`; the kernel gives each of them a share of the connections.
pub fn share(first: &std::net::TcpListener) -> io::Result<std::net::TcpListener> {
    let address = first.local_addr()?;
    let socket = open_listener(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn open_listener(address: SocketAddr) -> io::Result<socket2::Socket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier process that linger in TIME_WAIT do not hold the address.
    socket.set_reuse_address(address.port() != 0)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Registers a bound listener; call within the runtime.
pub fn listen(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener)
}

/// Opens a connection from `local` (its address; the port is the kernel's choice) within the timeout.
pub async fn connect(local: SocketAddr, remote: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !local.ip().is_unspecified() && local.is_ipv4() == remote.is_ipv4() {
        socket.bind(SocketAddr::new(local.ip(), 0))?; // T-11
    }
    timeout(limit, socket.connect(remote)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
