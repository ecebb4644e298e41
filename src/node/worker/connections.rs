//! The tasks of a worker's connections: accepting them, handshakes before the table, opening and serving them.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::Shared;
use crate::node::clock;
use crate::node::packet_loop::{Halt, NotShaken, Opening};
use crate::proxy::admission::Rate;
use crate::sip::hop::{ConnectionId, ListenerId, Transport};
use crate::transport::tcp::{self, Stream};

/// Wait after a failure to accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How fast one listener accepts.
pub(super) struct Pace {
    pub began: Instant,
    pub bucket: u64,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { began: now, bucket: 0 }
    }

    fn may_go(&mut self, rate: Rate, now: Instant) -> bool {
        let nanos = now.saturating_duration_since(self.began).as_nanos();
        rate.take(&mut self.bucket, u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

pub(super) async fn accept(
    shared: Shared,
    listener: tokio::net::TcpListener,
    (id, transport): (ListenerId, Transport),
    mut pace: Pace,
) {
    loop {
        // Who comes too fast waits in the kernel: handshakes and first messages of a storm do not delay the calls there are.
        let Some(rate) = shared.with(|packets| packets.accept_rate()) else { return };
        while !pace.may_go(rate, clock::instant()) {
            tokio::time::sleep(rate.interval()).await;
        }
        match listener.accept().await {
            Ok((stream, remote)) if transport != Transport::Tcp => {
                spawn_local(admit(shared.clone(), stream, remote, id, transport));
            }
            Ok((stream, remote)) => {
                // A refused connection is closed by being dropped; the table has counted it.
                if let Some(Ok(connection)) = shared.with(|packets| packets.on_accepted(stream, remote, id, None)) {
                    spawn_local(drive(shared.clone(), connection));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// TLS and WebSocket before the table: who has no session takes no place in it.
pub(super) async fn admit(
    shared: Shared,
    stream: TcpStream,
    remote: SocketAddr,
    listener: ListenerId,
    transport: Transport,
) {
    let may_prove = shared.handshaker.store().current().asks_clients(listener);
    let Some(Ok(())) = shared.with(|packets| packets.on_handshake(remote, may_prove)) else { return };
    if !shared.handshaker.may_begin(clock::instant()) {
        return shared.enter(|packets| packets.on_handshake_failed(remote, NotShaken::TooMany));
    }
    match shared.handshaker.accept(stream, listener, transport).await {
        Ok(session) => {
            let peer = shared.handshaker.store().current().peer_of(&session.identities());
            let accepted = shared.with(|packets| {
                let stream = if transport.is_web() { packets.web(session) } else { session };
                packets.on_shaken(stream, remote, listener, peer)
            });
            if let Some(Ok(connection)) = accepted {
                drive(shared, connection).await;
            }
        }
        Err(error) => {
            tracing::debug!(%remote, %error, "handshake refused"); // strangers decide how often
            let is_full = error.kind() == io::ErrorKind::ResourceBusy;
            let why = if is_full { NotShaken::QueueFull } else { NotShaken::Failed };
            shared.enter(|packets| packets.on_handshake_failed(remote, why));
        }
    }
}

pub(super) async fn connect(shared: Shared, opening: Opening) {
    let Some(limit) = shared.with(|packets| packets.connect_timeout()) else { return };
    let result = match (tcp::connect(opening.local, opening.remote, limit).await, opening.tls) {
        (Ok(stream), Some(peer)) => {
            let session = shared.handshaker.connect(stream, peer).await;
            if let Err(error) = &session {
                tracing::warn!(remote = %opening.remote, %error, "TLS handshake failed");
            }
            session
        }
        (result, _) => result.map(Stream::from),
    };
    shared.enter(|packets| packets.on_connected(opening.id, result));
    drive(shared, opening.id).await;
}

/// Serves one connection until it is no more.
pub(super) async fn drive(shared: Shared, id: ConnectionId) {
    loop {
        match poll_fn(|cx| shared.poll(|packets| packets.poll_connection(cx, id))).await {
            Halt::Closed => return,
            // Not reading is what tells the peer to wait; what waits to be written to it goes on.
            Halt::LaneFull(lane) => tokio::select! {
                _ = lane.reserve() => {} // the permit itself is of no use here
                () = poll_fn(|cx| shared.poll(|packets| packets.poll_write(cx, id))) => {}
            },
        }
    }
}
