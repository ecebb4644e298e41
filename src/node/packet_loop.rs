//! What one worker does with a batch: receive, let the [`Machine`] handle it, send what comes out. No task, lock or channel lies on
//! this way as long as the call belongs to this worker.

mod asking;
mod sending;

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::cdr::Cdr;
use super::events::Events;
use super::fetch::{Answered, Fetcher};
use super::keepalive::Mappings;
use super::lane::{Outs, Parcel};
use super::machine::{Counters, Machine, Owners, Taken, now};
use super::random;
use super::resolve::{self, Locator};
use super::service::Desk;
use super::signer;
use crate::proxy::admission::Rate;
use crate::proxy::{Now, Snapshot};
use crate::sip::Framing;
use crate::sip::hop::{ConnectionId, Hop, ListenerId, PeerId, Transport};
use crate::transport::tcp::{self, CloseReason, Incoming, Refused, Stream};
use crate::transport::{udp, ws};

/// How often idle and slow connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Octets read from a connection at once.
const READ: usize = 64 * 1024;
/// Reads of a connection before others have their turn: what it sends may come faster than it is handled.
const ROUNDS: usize = 32;
/// Tag of an item in a lane of messages that is a datagram of some worker's, returned by ICMP. Messages have 0; what has any other tag
/// has no octets: the owner of the lane sent it so tagged by a connection of ours, and it could not be delivered.
const RETURNED: u64 = 1;

/// What ends or halts the task of a connection.
pub(super) enum Halt {
    /// The connection is no more.
    Closed,
    /// Nothing is to be read until this lane has room.
    LaneFull(mpsc::Sender<Parcel>),
}

/// Why an accepted connection has no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotShaken {
    /// The handshake failed.
    Failed,
    /// More handshakes than may begin in a second.
    TooMany,
    /// Too many wait for theirs.
    QueueFull,
}

/// A connection to be opened.
pub(super) struct Opening {
    pub id: ConnectionId,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Whom a TLS session is to be made with.
    pub tls: Option<PeerId>,
}

/// What a packet loop is made of, besides its sockets.
pub(super) struct Parts {
    pub worker: usize,
    /// How often the worker was started before.
    pub restarts: u32,
    pub owners: Owners,
    pub seed: [u8; 32],
    pub snapshot: Arc<Snapshot>,
    pub tcp: tcp::Config,
    /// STUN binding requests are answered.
    pub answers_stun: bool,
    /// Lanes for messages to the owners of their calls.
    pub messages: Outs,
    /// Lanes for what leaves by connections of other workers.
    pub transmits: Outs,
    pub fetcher: Fetcher,
    pub answers: mpsc::Sender<Answered>,
    pub locator: Option<Locator>,
    pub located: mpsc::Sender<(u64, resolve::Located)>,
    pub signer: signer::Asker,
    pub signatures: mpsc::Sender<signer::Answered>,
    pub cdr: Option<Cdr>,
    pub events: Events,
}

/// What a worker has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Calls that had not ended.
    pub live: usize,
    /// Calls that are observed.
    pub calls: usize,
    /// Requests without a final response.
    pub unanswered: usize,
    /// The proxy's counters.
    pub proxy: crate::proxy::Stats,
    /// The worker's own counters.
    pub worker: Counters,
    /// Of all UDP sockets.
    pub udp: udp::Stats,
    /// Of all TCP connections.
    pub tcp: tcp::Stats,
    /// Times a worker was started again after a panic.
    pub restarts: u32,
}

impl Summary {
    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.live += other.live;
        self.calls += other.calls;
        self.unanswered += other.unanswered;
        self.proxy.add(&other.proxy);
        self.worker.add(&other.worker);
        self.udp.add(&other.udp);
        self.tcp.add(&other.tcp);
        self.restarts += other.restarts;
    }
}

/// Where a listener is bound, and its place among the UDP sockets if it is one.
struct Local {
    address: SocketAddr,
    socket: Option<usize>,
}

/// The state of one worker.
pub(super) struct PacketLoop {
    worker: usize,
    pub(super) machine: Machine,
    pub(super) sockets: Vec<udp::Socket>,
    /// Items of the outbox per socket; kept for its memory.
    queued: Vec<Vec<usize>>,
    locals: Vec<Local>,
    batch: udp::Batch,
    pub(super) tcp: tcp::Table,
    scratch: Vec<u8>,
    opening: Vec<Opening>,
    transmits: Outs,
    /// Tags of what could not be sent.
    failed: Vec<u64>,
    fetcher: Fetcher,
    answers: mpsc::Sender<Answered>,
    locator: Option<Locator>,
    located: mpsc::Sender<(u64, resolve::Located)>,
    signer: signer::Asker,
    signatures: mpsc::Sender<signer::Answered>,
    pub(super) cdr: Option<Cdr>,
    events: Events,
    next_sweep: Instant,
    /// Questions of the STIR service.
    pub(super) desk: Desk,
    /// Ways of datagrams to be kept open; all of them are the first worker's.
    mappings: Mappings,
}

impl PacketLoop {
    /// A loop over these sockets, which are in the order of their listeners.
    pub fn new(parts: Parts, sockets: Vec<udp::Socket>) -> Self {
        let place = |id| sockets.iter().position(|socket| socket.listener() == ListenerId(id));
        let listeners = parts.snapshot.config.listeners.iter().zip(0..);
        let locals = listeners.map(|(listener, id)| Local { address: listener.bind, socket: place(id) }).collect();
        let limits = parts.snapshot.config.parser.clone();
        let mut mappings = Mappings::default();
        if parts.worker == 0 {
            mappings.configure(&parts.snapshot.config, now().instant);
        }
        let mut machine = Machine::new(parts.worker, parts.owners, parts.snapshot, parts.seed, parts.messages);
        machine.answers_stun = parts.answers_stun;
        // Serial numbers of an earlier life are not met again: it would have had to open 2^24 connections.
        let mut tcp = tcp::Table::new(parts.tcp, limits, parts.worker as u16, parts.restarts << 24);
        tcp.seed(u64::from_le_bytes(random()));
        Self {
            mappings,
            worker: parts.worker,
            queued: vec![Vec::new(); sockets.len()],
            sockets,
            locals,
            batch: udp::Batch::new(),
            tcp,
            scratch: vec![0; READ],
            opening: Vec::new(),
            machine,
            transmits: parts.transmits,
            failed: Vec::new(),
            fetcher: parts.fetcher,
            answers: parts.answers,
            locator: parts.locator,
            located: parts.located,
            signer: parts.signer,
            signatures: parts.signatures,
            cdr: parts.cdr,
            events: parts.events,
            next_sweep: now().instant,
            desk: Desk::default(),
        }
    }

    /// When [`PacketLoop::on_timeout`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let sweep = self.tcp.needs_sweep().then_some(self.next_sweep);
        [self.machine.proxy.poll_timeout(), sweep, self.mappings.deadline()].into_iter().flatten().min()
    }

    /// For an [`Opening`].
    pub fn connect_timeout(&self) -> Duration {
        self.tcp.config().connect_timeout
    }

    /// How fast connections are accepted.
    pub fn accept_rate(&self) -> Rate {
        let per_second = self.tcp.config().accepts_per_second;
        Rate::new(per_second, per_second)
    }

    /// Connections that are to be opened; each ends in [`PacketLoop::on_connected`].
    pub fn take_opening(&mut self) -> Vec<Opening> {
        std::mem::take(&mut self.opening)
    }

    /// Receives from a socket for as long as there is something.
    pub fn poll_socket(&mut self, cx: &mut Context<'_>, socket: usize) -> Poll<()> {
        loop {
            let Some(from) = self.sockets.get_mut(socket) else { return Poll::Ready(()) };
            let received = ready!(from.poll(cx, &mut self.batch, &mut self.failed));
            let local = from.listener();
            let now = now();
            if received.is_ok() {
                self.on_datagrams(now, local);
            }
            self.settle(now);
        }
    }

    /// Datagrams that came back by ICMP. The kernel picks the socket by the flow, not by who sent: a transaction that is not here may
    /// be another worker's.
    fn on_returned(&mut self, now: Now, socket: usize) {
        let Some(from) = self.sockets.get_mut(socket) else { return };
        let local = from.listener();
        let Self { machine, worker, .. } = self;
        for udp::Returned { remote, quoted } in from.take_returned() {
            if !machine.proxy.handle_returned(now, &quoted, remote, &mut machine.output) {
                let hop = Hop { transport: Transport::Udp, local, remote, connection: None, peer: None };
                machine.tell_others(*worker, hop, RETURNED, &quoted);
            }
        }
    }

    fn on_datagrams(&mut self, now: Now, local: ListenerId) {
        let Self { batch, machine, .. } = self;
        for (remote, bytes) in batch.iter() {
            let source = Hop { transport: Transport::Udp, local, remote, connection: None, peer: None };
            if let Taken::LaneFull(_) = machine.receive(now, source, bytes, Framing::Datagram, false) {
                machine.counters.lane_full += 1;
            }
        }
    }

    /// Takes in an accepted connection, for [`PacketLoop::poll_connection`].
    pub fn on_accepted(
        &mut self,
        stream: impl Into<Stream>,
        remote: SocketAddr,
        local: ListenerId,
        peer: Option<PeerId>,
    ) -> Result<ConnectionId, Refused> {
        self.check_source(remote, false)?;
        self.tcp.accept(stream, local, remote, peer, now().instant)
    }

    /// Lets a connection begin its handshake, or not. It counts for where it comes from until [`PacketLoop::on_handshake_failed`] or for as
    /// long as it stands. `may_prove`: its certificate may say whose it is, whatever its address.
    pub fn on_handshake(&mut self, remote: SocketAddr, may_prove: bool) -> Result<(), Refused> {
        self.check_source(remote, may_prove)?;
        self.tcp.count(remote)
    }

    /// Takes in an accepted connection after its handshake, as [`PacketLoop::on_accepted`] does others.
    pub fn on_shaken(
        &mut self,
        stream: Stream,
        remote: SocketAddr,
        local: ListenerId,
        peer: Option<PeerId>,
    ) -> Result<ConnectionId, Refused> {
        self.check_source(remote, peer.is_some()).inspect_err(|_| self.tcp.discount(remote))?;
        self.tcp.accept_counted(stream, local, remote, peer, now().instant)
    }

    /// Nothing that came from a denied or banned source would be read (KR-10).
    fn check_source(&mut self, remote: SocketAddr, may_prove: bool) -> Result<(), Refused> {
        if self.machine.proxy.refuses(now(), remote.ip(), may_prove) {
            self.machine.counters.refused_sources += 1;
            return Err(Refused::Source);
        }
        Ok(())
    }

    /// A WebSocket over a stream on which one was opened.
    pub fn web(&self, stream: Stream) -> Stream {
        let (limits, config) = (self.machine.limits(), self.tcp.config());
        let longest = limits.message.saturating_add(limits.head); // head and body are bounded each
        Stream::Ws(Box::new(ws::Session::new(stream, longest, config.write_queue_bytes)))
    }

    /// A connection is not taken in: its handshake failed, or did not begin.
    pub fn on_handshake_failed(&mut self, remote: SocketAddr, why: NotShaken) {
        self.tcp.discount(remote);
        let Counters { failed_handshakes, excess_handshakes, queued_out_handshakes, .. } = &mut self.machine.counters;
        *match why {
            NotShaken::Failed => failed_handshakes,
            NotShaken::TooMany => excess_handshakes,
            NotShaken::QueueFull => queued_out_handshakes,
        } += 1;
    }

    /// The end of an [`Opening`].
    pub fn on_connected(&mut self, id: ConnectionId, result: std::io::Result<Stream>) {
        let now = now();
        self.tcp.connected(id, result, now.instant, &mut self.failed);
        self.settle(now);
    }

    /// Reads from a connection and writes to it for as long as there is something to do.
    pub fn poll_connection(&mut self, cx: &mut Context<'_>, id: ConnectionId) -> Poll<Halt> {
        for _ in 0..ROUNDS {
            let now = now();
            let halt = self.handle_framed(now, id);
            self.settle(now);
            if let Some(halt) = halt {
                return Poll::Ready(halt);
            }
            match self.tcp.poll_read(cx, id, &mut self.scratch, now.instant, &mut self.failed) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => {
                    self.settle(now);
                    return Poll::Ready(Halt::Closed);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes to a connection that is not to be read now. Ready when it is no more.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, id: ConnectionId) -> Poll<()> {
        let now = now();
        let end = self.tcp.poll_write(cx, id, now.instant, &mut self.failed);
        if end.is_ready() {
            self.settle(now);
        }
        end
    }

    fn handle_framed(&mut self, now: Now, id: ConnectionId) -> Option<Halt> {
        let Self { tcp, machine, failed, .. } = self;
        loop {
            let (range, is_broken) = match tcp.next(id, failed) {
                Incoming::Message(range) => (range, false),
                Incoming::Broken(range) => (range, true),
                Incoming::Nothing => return None,
                Incoming::Closed => return Some(Halt::Closed),
            };
            let source = tcp.hop(id)?;
            if is_broken && !machine.is_heard(now, &source) {
                tcp.close_when_written(id, CloseReason::Broken, now.instant);
                continue;
            }
            // What is broken has no call: it is answered here, whatever its Call-ID says.
            let taken =
                machine.receive(now, source, tcp.bytes(id, range.clone()), source.transport.framing(), is_broken);
            if let Some(port) = machine.alias.take() {
                tcp.alias(id, port);
            }
            match taken {
                Taken::Done if is_broken => tcp.close_when_written(id, CloseReason::Broken, now.instant),
                Taken::Done => {}
                Taken::Unusable => tcp.close_when_written(id, CloseReason::NotSip, now.instant),
                Taken::LaneFull(owner) => {
                    tcp.hold(id, range);
                    machine.counters.lane_waits += 1;
                    return machine.lanes.to(owner).map(|lane| Halt::LaneFull(lane.sender()));
                }
            }
        }
    }

    /// Messages of calls that this worker owns, received by another.
    pub fn on_messages(&mut self, parcel: &Parcel) {
        let now = now();
        for (source, tag, bytes) in parcel.iter() {
            let Machine { proxy, output, .. } = &mut self.machine;
            match tag {
                0 => _ = self.machine.receive(now, source, bytes, source.transport.framing(), true),
                RETURNED => _ = proxy.handle_returned(now, bytes, source.remote, output),
                tag => proxy.handle_transport_failure(now, tag, output),
            }
        }
        self.settle(now);
    }

    /// Messages that leave by connections of this worker.
    pub fn on_transmits(&mut self, parcel: &Parcel) {
        let now = now();
        for (hop, tag, bytes) in parcel.iter() {
            match self.connection_for(now, hop, tag) {
                Some(id) => {
                    let tag = tcp::Tag { worker: parcel.from as u16, tag };
                    self.tcp.send_for(id, tag, bytes, &mut self.failed);
                }
                None => {
                    self.no_way(0);
                    self.report_failure(parcel.from, tag);
                }
            }
        }
        self.settle(now);
    }

    /// Runs what is due.
    pub fn on_timeout(&mut self) {
        let now = now();
        if let Some(late) = self.machine.proxy.poll_timeout().and_then(|due| now.instant.checked_duration_since(due)) {
            self.machine.proxy.observe_delay(now, late);
        }
        self.machine.proxy.handle_timeout(now, &mut self.machine.output);
        if self.next_sweep <= now.instant {
            self.next_sweep = now.instant + SWEEP;
            self.tcp.sweep(now.instant, &mut self.failed);
            self.reopen(now);
        }
        self.keep_mappings(now);
        self.settle(now);
    }

    /// Goes on with another configuration.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        if self.worker == 0 {
            self.mappings.configure(&snapshot.config, now().instant);
        }
        self.tcp.set_limits(snapshot.config.parser.clone());
        self.machine.set_snapshot(snapshot);
        self.keep_or_let_go(now().instant);
    }

    /// Connections that stand follow the `keepalive` of their trunks.
    fn keep_or_let_go(&mut self, now: Instant) {
        for (id, hop) in self.tcp.opened() {
            if self.is_kept(hop) {
                self.tcp.keep(id, hop.peer, now);
            } else {
                self.tcp.let_go(id);
            }
        }
    }

    /// Other settings of connections and of STUN.
    pub fn set_sockets(&mut self, tcp: tcp::Config, answers_stun: bool) {
        self.tcp.set_config(tcp);
        self.machine.answers_stun = answers_stun;
    }

    /// Takes no new calls from now on.
    pub fn drain(&mut self) {
        self.machine.proxy.drain();
    }
}

#[cfg(test)]
mod tests;
