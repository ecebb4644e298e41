//! The connections of one worker.

mod traffic;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Instant;

use slab::Slab;

use super::connection::Connection;
use super::keepalive::{Beat, Kept, Pulse};
use super::{CloseReason, Config, Refused, Stats, Stream, Tag};
use crate::sip::Limits;
use crate::sip::hop::{ConnectionId, Hop, ListenerId, PeerId, Transport};

/// What a connection holds for the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A whole message; its octets are [`Table::bytes`] of this range until the next read.
    Message(Range<usize>),
    /// A message whose end is unknown: to be answered, then [`Table::close_when_written`].
    Broken(Range<usize>),
    /// Nothing complete: read on.
    Nothing,
    /// The connection was closed just now, or is no more.
    Closed,
}

/// What makes a connection fit for a request (CN-1): over TLS also whom it leads to, for several domains may share an address.
pub(super) type Way = (Transport, ListenerId, SocketAddr, Option<PeerId>);

fn way_of(hop: Hop) -> Way {
    (hop.transport, hop.local, hop.remote, hop.peer.filter(|_| hop.transport.is_secure()))
}

/// All connections of one worker, by id and, for those it opened, by remote address.
pub struct Table {
    config: Config,
    limits: Limits,
    worker: u16,
    /// Number of the next connection; part of its id, so that an id is not used twice.
    serial: u32,
    slots: Slab<Connection>,
    opened: HashMap<Way, ConnectionId>,
    accepted_from: HashMap<IpAddr, usize>,
    /// Ways to be kept open (KA-1).
    kept: Kept,
    /// For the spread of pings.
    chance: u64,
    /// Connections with output that nobody has tried to write yet.
    dirty: Vec<ConnectionId>,
    /// What other workers sent and could not be delivered.
    failed_of_others: Vec<Tag>,
    stats: Stats,
}

/// Bits of an id that are the slot; above them the serial (32 bits), then the worker.
const SLOT_BITS: u32 = 20;

impl Table {
    /// An empty table. `serial` is where numbering starts: a worker that is started again must not repeat ids.
    pub fn new(config: Config, limits: Limits, worker: u16, serial: u32) -> Self {
        let mut table = Self {
            config: Config::default(),
            limits,
            worker,
            serial,
            slots: Slab::new(),
            opened: HashMap::new(),
            accepted_from: HashMap::new(),
            kept: Kept::default(),
            chance: 0,
            dirty: Vec::new(),
            failed_of_others: Vec::new(),
            stats: Stats::default(),
        };
        table.set_config(config);
        table
    }

    /// The worker that a connection belongs to.
    pub fn worker_of(id: ConnectionId) -> usize {
        (id.0 >> (SLOT_BITS + 32)) as usize
    }

    /// Settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Settings from now on. Connections that are there stay, even if they are more than they may be now.
    pub fn set_config(&mut self, config: Config) {
        self.config = Config { max_connections: config.max_connections.min(1 << SLOT_BITS), ..config };
    }

    /// Bounds of messages from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What the connections have seen.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Connections there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes in an accepted connection that needs no handshake.
    pub fn accept(
        &mut self,
        stream: impl Into<Stream>,
        listener: ListenerId,
        remote: SocketAddr,
        peer: Option<PeerId>,
        now: Instant,
    ) -> Result<ConnectionId, Refused> {
        self.count(remote)?;
        self.accept_counted(stream, listener, remote, peer, now)
    }

    /// Counts an accepted connection for where it comes from, before the work of its handshake. [`Table::accept_counted`] follows, or
    /// [`Table::discount`].
    pub fn count(&mut self, remote: SocketAddr) -> Result<(), Refused> {
        self.check_room()?;
        let count = self.accepted_from.entry(source_prefix(remote.ip())).or_default();
        if *count >= self.config.max_per_prefix {
            self.stats.refused_prefix += 1;
            return Err(Refused::Prefix);
        }
        *count += 1;
        Ok(())
    }

    /// A connection that was counted comes to nothing.
    pub fn discount(&mut self, remote: SocketAddr) {
        let prefix = source_prefix(remote.ip());
        if let Some(count) = self.accepted_from.get_mut(&prefix) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.accepted_from.remove(&prefix);
            }
        }
    }

    /// Takes in a connection that [`Table::count`] has counted; `peer` is who it is if TLS has proven that.
    pub fn accept_counted(
        &mut self,
        stream: impl Into<Stream>,
        listener: ListenerId,
        remote: SocketAddr,
        peer: Option<PeerId>,
        now: Instant,
    ) -> Result<ConnectionId, Refused> {
        let stream = stream.into();
        stream.set_nodelay();
        let way = (stream.transport(), listener, remote, peer);
        let id = self.insert(way, Some(stream), now).inspect_err(|_| self.discount(remote))?;
        self.stats.accepted += 1;
        Ok(id)
    }

    fn check_room(&mut self) -> Result<(), Refused> {
        if self.slots.len() >= self.config.max_connections {
            self.stats.refused_full += 1;
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// Makes room for a connection to be opened; messages for it wait until [`Table::connected`].
    pub fn open(&mut self, hop: Hop, now: Instant) -> Result<ConnectionId, Refused> {
        let way = way_of(hop);
        let id = self.insert(way, None, now)?;
        if let Some(connection) = self.get_mut(id) {
            connection.opened_for = hop.peer;
        }
        self.opened.insert(way, id);
        self.stats.opened += 1;
        Ok(id)
    }

    /// Connections that this side opened and that can be kept by pings: where they lead, and for whom they were opened.
    pub fn opened(&self) -> Vec<(ConnectionId, Hop)> {
        let opened = self.slots.iter().filter(|(_, c)| c.is_outbound && !c.transport.is_web() && c.closing.is_none());
        let hop = |c: &Connection| {
            let Connection { transport, listener, remote, opened_for, .. } = *c;
            (c.id, Hop { transport, local: listener, remote, connection: None, peer: opened_for })
        };
        opened.map(|(_, connection)| hop(connection)).collect()
    }

    /// Random numbers to come follow from this one; where nothing is random, pings come as early as they may.
    pub fn seed(&mut self, random: u64) {
        self.chance = random;
    }

    /// Keeps a connection this side opened alive by pings, and its way open (RFC 5626 4.4.1) for `peer`: see [`Table::to_reopen`].
    pub fn keep(&mut self, id: ConnectionId, peer: Option<PeerId>, now: Instant) {
        let random = self.random();
        let Some(connection) = self.get_mut(id).filter(|c| c.is_outbound && !c.transport.is_web()) else { return };
        connection.pulse.get_or_insert_with(|| Pulse::new(now, random));
        let way = connection.way();
        self.kept.open(way, peer);
    }

    /// Takes [`Table::keep`] back: no pings any more, and the way need not be open.
    pub fn let_go(&mut self, id: ConnectionId) {
        let Some(connection) = self.get_mut(id) else { return };
        connection.pulse = None;
        let way = connection.way();
        self.kept.forget(&way);
    }

    /// Ways of [`Table::keep`] whose connection has ended and that are to be opened now (KA-4). What is not opened and kept again, or
    /// forgotten, is named again.
    pub fn to_reopen(&mut self, now: Instant) -> Vec<Hop> {
        let mut chance = self.chance;
        let due = self.kept.due(now, || step(&mut chance));
        self.chance = chance;
        let hop = |((transport, local, remote, _), peer)| Hop { transport, local, remote, connection: None, peer };
        due.into_iter().map(hop).collect()
    }

    /// A way need not be kept open any more.
    pub fn forget(&mut self, hop: Hop) {
        self.kept.forget(&way_of(hop));
    }

    /// Whether [`Table::sweep`] and [`Table::to_reopen`] have anything to do.
    pub fn needs_sweep(&self) -> bool {
        !self.slots.is_empty() || !self.kept.is_empty()
    }

    fn random(&mut self) -> u64 {
        step(&mut self.chance)
    }

    /// A connection that this worker opened the same way (RFC 3261 18.1.1, CN-1), or that its peer opened and put at our disposal
    /// ([`Table::alias`]).
    pub fn find(&self, hop: Hop) -> Option<ConnectionId> {
        self.opened.get(&way_of(hop)).copied()
    }

    /// RFC 5923: the peer of an accepted connection takes requests on it, as if it had been opened to this port. Only where TLS has
    /// proven who it is (CN-2).
    pub fn alias(&mut self, id: ConnectionId, port: u16) {
        let Some(connection) = self.get(id).filter(|c| c.transport == Transport::Tls && c.peer.is_some()) else {
            return;
        };
        let remote = SocketAddr::new(connection.remote.ip(), port);
        let way = (connection.transport, connection.listener, remote, connection.peer);
        if self.opened.contains_key(&way) {
            return;
        }
        self.opened.insert(way, id);
        if let Some(connection) = self.get_mut(id) {
            connection.alias = Some(way);
        }
    }

    /// Names that the peer of a connection has proven (RFC 5922 7.1).
    pub fn identities(&self, id: ConnectionId) -> &[std::sync::Arc<str>] {
        self.get(id).map_or(&[], |connection| &connection.identities)
    }

    /// The end of opening: the stream, or why there is none. Unsent tags go to `failed`.
    pub fn connected(
        &mut self,
        id: ConnectionId,
        result: io::Result<impl Into<Stream>>,
        now: Instant,
        failed: &mut Vec<u64>,
    ) {
        match result.map(Into::into) {
            Ok(stream) => {
                stream.set_nodelay();
                if let Some(connection) = self.get_mut(id) {
                    connection.identities = stream.identities();
                    connection.stream = Some(stream);
                    connection.last_active = now;
                    self.flush(id, now, failed);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.close(id, CloseReason::ConnectTimeout, failed)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => self.close(id, CloseReason::Handshake, failed),
            Err(_) => self.close(id, CloseReason::ConnectFailed, failed),
        }
    }

    /// The connection as the source of what it carries.
    pub fn hop(&self, id: ConnectionId) -> Option<Hop> {
        let Connection { transport, listener, remote, peer, .. } = *self.get(id)?;
        Some(Hop { transport, local: listener, remote, connection: Some(id), peer })
    }

    /// Closes now. Tags of messages that are not written, and of requests that may await a response, go to `failed`.
    pub fn close(&mut self, id: ConnectionId, reason: CloseReason, failed: &mut Vec<u64>) {
        if self.get(id).is_none() {
            return;
        }
        let mut connection = self.slots.remove(slot(id));
        self.fail(connection.unfinished(), failed);
        connection.take_leave(reason);
        if connection.pulse.is_some() {
            self.kept.lost(&connection.way());
        }
        if let Some(count) = self.stats.closed.get_mut(reason as usize) {
            *count += 1;
        }
        if connection.is_outbound {
            self.opened.remove(&connection.way());
        } else {
            if let Some(way) = connection.alias {
                self.opened.remove(&way);
            }
            self.discount(connection.remote);
        }
        if let Some(waker) = connection.waker {
            waker.wake(); // its task finds it gone and ends
        }
    }

    fn insert(&mut self, way: Way, stream: Option<Stream>, now: Instant) -> Result<ConnectionId, Refused> {
        self.check_room()?;
        let entry = self.slots.vacant_entry();
        let worker = u64::from(self.worker) << (SLOT_BITS + 32);
        let id = ConnectionId(worker | u64::from(self.serial) << SLOT_BITS | entry.key() as u64);
        self.serial = self.serial.wrapping_add(1);
        let (transport, listener, remote, peer) = way;
        entry.insert(Connection::new(id, listener, (transport, remote, peer), stream, now));
        Ok(id)
    }

    /// Whether the connection lives and its write side is open.
    pub fn takes(&self, id: ConnectionId) -> bool {
        self.get(id).is_some_and(|connection| !connection.is_shut)
    }

    fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.slots.get(slot(id)).filter(|connection| connection.id == id)
    }

    fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slots.get_mut(slot(id)).filter(|connection| connection.id == id)
    }
}

/// SplitMix64; 0 stays 0, so that a table without a seed is predictable.
fn step(state: &mut u64) -> u64 {
    if *state == 0 {
        return 0;
    }
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn slot(id: ConnectionId) -> usize {
    (id.0 & ((1 << SLOT_BITS) - 1)) as usize
}

/// The /24 or /56 of an address.
fn source_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & !0xff).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !((1 << 72) - 1)).into()),
    }
}
