//! What a packet loop sends: by which socket or connection, and what becomes of what can not be sent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Opening, PacketLoop};
use crate::node::keepalive::PING;
use crate::node::random;
use crate::proxy::{Now, TrunkId};
use crate::sip::hop::{ConnectionId, Hop, ListenerId, Transport};
use crate::transport::tcp;

/// Where the report of a failure comes from does not matter.
const NOWHERE: Hop = Hop {
    transport: Transport::Tcp,
    local: ListenerId(0),
    remote: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    connection: None,
    peer: None,
};

impl PacketLoop {
    /// Sends, asks and tells what the proxy has put out, until nothing is left. Each failure to send uses up an attempt of its
    /// transaction, so this ends.
    pub(in crate::node) fn settle(&mut self, now: Now) {
        loop {
            self.send(now);
            (0..self.sockets.len()).for_each(|socket| self.on_returned(now, socket));
            self.tcp.flush_all(now.instant, &mut self.failed);
            self.ask(now);
            self.machine.output.events.drain(..).for_each(|event| self.events.tell(now.unix, event));
            self.machine.output.replies.drain(..).for_each(|reply| self.desk.reply(reply));
            for record in self.machine.output.records.drain(..) {
                if let Some(cdr) = &self.cdr {
                    cdr.tell(record);
                }
            }
            // What is answered at once, because a queue is full, may ask for the next thing.
            let output = &self.machine.output;
            if self.failed.is_empty() && output.outbox.is_empty() && output.needs.is_empty() {
                break;
            }
            let mut failed = std::mem::take(&mut self.failed);
            // A transaction whose connection broke with several messages of its own on it has failed once.
            failed.sort_unstable();
            failed.dedup();
            for tag in failed.drain(..) {
                self.machine.proxy.handle_transport_failure(now, tag, &mut self.machine.output);
            }
            self.failed = failed;
        }
        let mut of_others = self.tcp.take_failed_of_others();
        of_others.sort_unstable();
        of_others.dedup();
        for tcp::Tag { worker, tag } in of_others {
            self.report_failure(usize::from(worker), tag);
        }
        self.machine.lanes.flush();
        self.transmits.flush();
    }

    /// Empties the outbox.
    fn send(&mut self, now: Now) {
        let outbox = std::mem::take(&mut self.machine.output.outbox);
        for (item, transmit) in outbox.items().iter().enumerate() {
            let hop = transmit.hop;
            let local = self.locals.get(usize::from(hop.local.0));
            match (hop.transport, local.and_then(|local| local.socket)) {
                (Transport::Udp, Some(socket)) => {
                    self.queued.get_mut(socket).into_iter().for_each(|queue| queue.push(item))
                }
                (Transport::Udp, None) => self.no_way(transmit.tag),
                _ => self.send_stream(now, hop, transmit.tag, outbox.bytes_of(transmit)),
            }
        }
        for (socket, queue) in self.sockets.iter_mut().zip(&mut self.queued) {
            if !queue.is_empty() {
                socket.send(&outbox, queue, &mut self.failed);
                queue.clear();
            }
        }
        self.machine.output.outbox = outbox;
        self.machine.output.outbox.clear();
    }

    fn send_stream(&mut self, now: Now, hop: Hop, tag: u64, bytes: &[u8]) {
        if let Some(other) = hop.connection.map(tcp::Table::worker_of).filter(|worker| *worker != self.worker) {
            if !self.transmits.to(other).is_some_and(|lane| lane.push(hop, tag, bytes)) {
                self.failed.extend((tag != 0).then_some(tag));
            }
            return;
        }
        match self.connection_for(now, hop, tag) {
            Some(id) => self.tcp.send(id, tag, bytes, &mut self.failed),
            None => self.no_way(tag),
        }
    }

    /// The connection a message leaves by: the one it names while that lives. If it names none, one that was opened to its address,
    /// else a new one.
    pub(super) fn connection_for(&mut self, now: Now, hop: Hop, tag: u64) -> Option<ConnectionId> {
        let named = hop.connection.filter(|id| self.tcp.takes(*id));
        // T-4: what a transaction sent by a connection that is gone may go elsewhere, but it knows where. An answer without a transaction
        // goes to the sent-by port of a known neighbour; to a stranger nothing is opened, and a browser has its connection only.
        let stays = || tag != 0 || self.machine.proxy.snapshot().config.neighbour(hop).is_none();
        if named.is_some() || hop.transport.is_web() || hop.connection.is_some() && stays() {
            return named;
        }
        self.tcp.find(hop).or_else(|| self.open(now, hop))
    }

    /// Whether the way to a neighbour is to be kept open (KA-1).
    pub(super) fn is_kept(&self, hop: Hop) -> bool {
        let config = &self.machine.proxy.snapshot().config;
        let trunk = hop.peer.map(|peer| TrunkId(peer.0)).or_else(|| config.trunk_of(hop.remote));
        trunk.and_then(|id| config.trunk(id)).is_some_and(|trunk| trunk.keepalive)
    }

    /// Opens what was kept and got lost (KA-4).
    pub(super) fn reopen(&mut self, now: Now) {
        for hop in self.tcp.to_reopen(now.instant) {
            // Without room for it now, it is named again.
            if !self.is_kept(hop) {
                self.tcp.forget(hop);
            } else {
                self.open(now, hop);
            }
        }
    }

    /// Datagrams that keep a NAT open (KA-2).
    pub(super) fn keep_mappings(&mut self, now: Now) {
        for hop in self.mappings.take_due(now.instant, || u64::from_le_bytes(random())) {
            self.machine.output.outbox.push(hop, 0, PING);
        }
    }

    pub(super) fn open(&mut self, now: Now, hop: Hop) -> Option<ConnectionId> {
        let local = self.locals.get(usize::from(hop.local.0))?.address;
        let tls = hop.peer.filter(|_| hop.transport.is_secure());
        if hop.transport.is_secure() && tls.is_none() {
            return None; // nobody said whose certificate to expect (TL-4)
        }
        let id = self.tcp.open(hop, now.instant).ok()?;
        if self.is_kept(hop) {
            self.tcp.keep(id, hop.peer, now.instant);
        }
        self.opening.push(Opening { id, local, remote: hop.remote, tls });
        Some(id)
    }

    /// Tells another worker what of its own could not be delivered. With a full lane it learns of it by its timers.
    pub(super) fn report_failure(&mut self, worker: usize, tag: u64) {
        let lane = self.machine.lanes.to(worker).filter(|_| tag != 0);
        let _ = lane.is_some_and(|lane| lane.push(NOWHERE, tag, b""));
    }

    pub(super) fn no_way(&mut self, tag: u64) {
        self.machine.counters.no_way += 1;
        self.failed.extend((tag != 0).then_some(tag));
    }
}
