//! The way of one message through a worker: parse, find the owner of the call, hand to the proxy. What comes out waits in an
//! [`Output`] for the packet loop.

use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::clock;
use super::events;
use super::keepalive::stun_response;
use super::lane::Outs;
use crate::proxy::admission::Admission;
use crate::proxy::probe::Duty;
use crate::proxy::{Config, Now, Output, Proxy, Snapshot};
use crate::sip::hop::Hop;
use crate::sip::{Framing, Index, Leniency, Limits, Unusable, parse};

/// What a worker has seen besides what its sockets and its proxy count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages handed to the worker that owns the call.
    pub handed_over: u64,
    /// Messages dropped because the lane to their owner was full (UDP).
    pub lane_full: u64,
    /// Times a connection was not read for a while because the lane to an owner was full (TCP).
    pub lane_waits: u64,
    /// Keepalives swallowed.
    pub keepalives: u64,
    /// STUN messages (KA-2), swallowed or, where the configuration wants it, answered by the packet loop.
    pub stun: u64,
    /// Messages that nobody could answer: not SIP, or without a readable Via.
    pub unusable: u64,
    /// Needs that the fetch queue had no room for.
    pub fetch_full: u64,
    /// Names that the queue of the resolver had no room for.
    pub locate_full: u64,
    /// Certificates that calls waited for: found, and not.
    pub fetched: [u64; 2],
    /// Names that requests waited for: found, and not.
    pub located: [u64; 2],
    /// Messages for a listener or transport that there is not.
    pub no_way: u64,
    /// Accepted connections that brought no TLS session about.
    pub failed_handshakes: u64,
    /// Those whose handshake did not begin because too many began in the same second.
    pub excess_handshakes: u64,
    /// Those whose handshake did not begin because too many waited for theirs.
    pub queued_out_handshakes: u64,
    /// Connections closed at once because their source is denied or banned.
    pub refused_sources: u64,
}

impl Counters {
    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.handed_over += other.handed_over;
        self.lane_full += other.lane_full;
        self.lane_waits += other.lane_waits;
        self.keepalives += other.keepalives;
        self.stun += other.stun;
        self.unusable += other.unusable;
        self.fetch_full += other.fetch_full;
        self.locate_full += other.locate_full;
        self.fetched.iter_mut().zip(other.fetched).for_each(|(count, more)| *count += more);
        self.located.iter_mut().zip(other.located).for_each(|(count, more)| *count += more);
        self.no_way += other.no_way;
        self.failed_handshakes += other.failed_handshakes;
        self.excess_handshakes += other.excess_handshakes;
        self.queued_out_handshakes += other.queued_out_handshakes;
        self.refused_sources += other.refused_sources;
    }
}

/// The time, read once per batch.
pub(super) fn now() -> Now {
    Now { instant: clock::instant(), unix: clock::unix() }
}

/// Which worker owns a call: the same for all its messages, unknown to those outside.
#[derive(Clone, Copy)]
pub(super) struct Owners {
    /// Key of the hash; one per process.
    pub key: [u8; 16],
    /// Workers there are.
    pub workers: usize,
}

impl Owners {
    /// The number of the worker.
    pub fn of(&self, call_id: &[u8]) -> usize {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(call_id);
        // Any spread will do; the upper half is as good as the rest.
        (hasher.finish() >> 32) as usize % self.workers
    }
}

/// What became of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Handled here or handed over.
    Done,
    /// Nothing one could work with; counted.
    Unusable,
    /// It belongs to this worker, whose lane is full.
    LaneFull(usize),
}

fn lenient_limits(config: &Config) -> Option<[Limits; 2]> {
    let is_needed = config.trunks.iter().any(|trunk| trunk.lenient);
    let with = |leniency| Limits { leniency, ..config.parser.clone() };
    is_needed.then(|| [with(Leniency::TRUSTED), with(Leniency { bare_lf: false, ..Leniency::TRUSTED })])
}

/// The proxy of one worker and what stands before it.
pub(super) struct Machine {
    worker: usize,
    owners: Owners,
    limits: Limits,
    /// For trunks that are dealt with leniently, if there are any: datagrams, and what was cut out of streams, where a bare LF would
    /// leave in doubt where the next message begins.
    lenient: Option<[Limits; 2]>,
    index: Index,
    pub proxy: Proxy,
    pub output: Output,
    /// Lanes to the owners of calls.
    pub lanes: Outs,
    pub counters: Counters,
    /// STUN binding requests are answered.
    pub answers_stun: bool,
    /// The port of the last message's Via, if it came by a connection of this worker and offers it for requests the other way
    /// (RFC 5923).
    pub alias: Option<u16>,
}

impl Machine {
    pub fn new(worker: usize, owners: Owners, snapshot: Arc<Snapshot>, seed: [u8; 32], lanes: Outs) -> Self {
        let (limits, lenient) = (snapshot.config.parser.clone(), lenient_limits(&snapshot.config));
        let mut proxy = Proxy::new(snapshot, seed, now());
        let is_home = Box::new(move |call_id: &[u8]| owners.of(call_id) == worker);
        proxy.start_probing(now(), Duty { worker, workers: owners.workers, is_home });
        Self {
            worker,
            owners,
            limits,
            lenient,
            index: Index::new(),
            proxy,
            output: Output::default(),
            lanes,
            counters: Counters::default(),
            answers_stun: false,
            alias: None,
        }
    }

    /// Bounds of messages.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Goes on with another configuration.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.limits = snapshot.config.parser.clone();
        self.lenient = lenient_limits(&snapshot.config);
        self.proxy.set_snapshot(snapshot);
    }

    /// Takes a message. `is_here`: it is for this worker, handed over by another or without a call that has an owner.
    pub fn receive(&mut self, now: Now, source: Hop, bytes: &[u8], framing: Framing, is_here: bool) -> Taken {
        // A panic goes on to the worker, which ends by it; here the message that caused it is still known.
        catch_unwind(AssertUnwindSafe(|| self.take(now, source, bytes, framing, is_here))).unwrap_or_else(|panic| {
            let (call_id, message) = (events::call_id_in(bytes), events::redacted(bytes));
            let (worker, source) = (self.worker, source.remote);
            tracing::error!(worker, call_id, %source, message, "a message made the worker panic");
            resume_unwind(panic)
        })
    }

    /// Copies an item to every other worker whose lane has room.
    pub fn tell_others(&mut self, worker: usize, hop: Hop, tag: u64, bytes: &[u8]) {
        for other in (0..self.owners.workers).filter(|other| *other != worker) {
            let _ = self.lanes.to(other).is_some_and(|lane| lane.push(hop, tag, bytes));
        }
    }

    /// Whether what a source sends is looked at, for what [`Machine::receive`] takes as judged already.
    pub fn is_heard(&mut self, now: Now, source: &Hop) -> bool {
        self.proxy.admit(now, source, &mut self.output).is_heard()
    }

    fn take(&mut self, now: Now, source: Hop, bytes: &[u8], framing: Framing, is_here: bool) -> Taken {
        self.alias = None;
        // Judged where it was received, not once more where its call lives.
        let admission = if is_here { Admission::Known } else { self.proxy.admit(now, &source, &mut self.output) };
        if !admission.is_heard() {
            return Taken::Done;
        }
        let limits = match &self.lenient {
            Some([datagram, _]) if framing == Framing::Datagram && self.proxy.is_lenient_with(source) => datagram,
            Some([_, stream]) if framing == Framing::Stream && self.proxy.is_lenient_with(source) => stream,
            _ => &self.limits,
        };
        let message = match parse(bytes, &mut self.index, framing, limits) {
            Ok(message) => message,
            Err(Unusable::Keepalive) => {
                self.counters.keepalives += 1;
                return Taken::Done;
            }
            Err(Unusable::Stun) if framing == Framing::Datagram => {
                self.counters.stun += 1;
                // Not to just anybody: the answer is longer than the request, whose source may be forged (E-1).
                let is_answered = self.answers_stun && admission == Admission::Known;
                if let Some(response) = is_answered.then(|| stun_response(bytes, source.remote)).flatten() {
                    self.output.outbox.push(source, 0, &response);
                }
                return Taken::Done;
            }
            Err(other) => {
                self.counters.unusable += 1;
                return if other.is_framed() { Taken::Done } else { Taken::Unusable };
            }
        };
        if admission == Admission::Stranger && self.proxy.screen(now, &source, message, &mut self.output) {
            return Taken::Done;
        }
        if !is_here && source.transport.is_secure() && source.peer.is_some() && message.is_request() {
            let via = message.top_via().ok().filter(|via| via.params().find("alias").is_some());
            self.alias = via.map(|via| via.port().unwrap_or(source.transport.default_port()));
        }
        if !is_here
            && self.owners.workers > 1
            && let Some(call_id) = message.call_id()
        {
            let owner = self.owners.of(call_id);
            if let Some(lane) = self.lanes.to(owner) {
                if !lane.push(source, 0, bytes) {
                    return Taken::LaneFull(owner);
                }
                self.counters.handed_over += 1;
                return Taken::Done;
            }
        }
        self.proxy.handle_message(now, source, message, &mut self.output);
        Taken::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::TrustStore;
    use crate::proxy::admission::Standing;
    use crate::proxy::{Listener, Trunk};
    use crate::sip::hop::{ConnectionId, ListenerId, PeerId, Transport};
    use crate::stir::replay::ReplayTable;

    #[test]
    fn e1_stun_is_answered_to_those_who_are_known() {
        let mut config = Config::default();
        for (network, standing) in [("192.0.2.0/24", Standing::Known), ("203.0.113.0/24", Standing::Denied)] {
            config.guard.networks.add(network.parse().unwrap(), standing);
        }
        let snapshot = Arc::new(Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() });
        let owners = Owners { key: [0; 16], workers: 1 };
        let mut machine = Machine::new(0, owners, snapshot, [1; 32], Outs::default());
        machine.answers_stun = true;
        let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        for (from, answers) in [("192.0.2.9:5060", 1), ("198.51.100.9:5060", 0), ("203.0.113.9:5060", 0)] {
            let remote = from.parse().unwrap();
            let source = Hop { transport: Transport::Udp, local: ListenerId(0), remote, connection: None, peer: None };
            machine.receive(now(), source, &request, Framing::Datagram, false);
            assert_eq!(machine.output.outbox.items().len(), answers, "{from}");
            machine.output.outbox.clear();
        }
    }

    #[test]
    fn kr10_what_is_denied_is_not_even_parsed() {
        let mut config = Config::default();
        config.guard.networks.add("192.0.2.0/24".parse().unwrap(), Standing::Denied);
        let snapshot = Arc::new(Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() });
        let owners = Owners { key: [0; 16], workers: 1 };
        let mut machine = Machine::new(0, owners, snapshot, [1; 32], Outs::default());
        let mut receive = |from: &str| {
            let remote = from.parse().unwrap();
            let source = Hop { transport: Transport::Udp, local: ListenerId(0), remote, connection: None, peer: None };
            machine.receive(now(), source, b"not SIP at all\r\n\r\n", Framing::Datagram, false)
        };
        assert_eq!(receive("192.0.2.9:5060"), Taken::Done);
        assert_eq!(receive("198.51.100.9:5060"), Taken::Unusable);
        assert_eq!((machine.proxy.stats().banned_messages, machine.counters.unusable), (1, 1));
    }

    #[test]
    fn f6_only_a_lenient_trunk_may_end_lines_by_lf_and_only_in_datagrams() {
        let peers = |lenient, peers: &str| Trunk { lenient, peers: vec![peers.parse().unwrap()], ..Trunk::default() };
        let trunks = vec![peers(true, "192.0.2.0/24"), peers(false, "198.51.100.0/24")];
        let listener = Listener {
            name: "udp".into(),
            transport: Transport::Udp,
            bind: "203.0.113.1:5060".parse().unwrap(),
            advertise_host: "203.0.113.1".into(),
            advertise_port: 5060,
            names: Vec::new(),
        };
        let config = Config { trunks, listeners: vec![listener], ..Config::default() };
        let snapshot = Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() };
        let owners = Owners { key: [0; 16], workers: 1 };
        let mut machine = Machine::new(0, owners, Arc::new(snapshot), [1; 32], Outs::default());
        let mut status = |from: &str, framing| {
            let transport = if framing == Framing::Stream { Transport::Tcp } else { Transport::Udp };
            let remote = from.parse().unwrap();
            let source = Hop { transport, local: ListenerId(0), remote, connection: None, peer: None };
            let text = "OPTIONS sip:203.0.113.1 SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\nFrom: <sip:a@b>;tag=1\n\
                        To: <sip:b@c>\nCall-ID: c\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n";
            machine.output.outbox.clear();
            machine.receive(now(), source, text.as_bytes(), framing, false);
            let outbox = &machine.output.outbox;
            outbox.items().first().map(|item| outbox.bytes_of(item)[8..11].to_vec()).unwrap_or_default()
        };
        assert_eq!(status("192.0.2.9:5060", Framing::Datagram), b"200");
        assert_eq!(status("198.51.100.9:5060", Framing::Datagram), b"400");
        assert_eq!(status("192.0.2.9:5060", Framing::Stream), b"400");
    }

    #[test]
    fn rfc5923_the_offer_of_one_connection_is_no_other_ones() {
        let snapshot =
            Snapshot { config: Config::default(), trust: TrustStore::default(), replay: ReplayTable::default() };
        let owners = Owners { key: [0; 16], workers: 1 };
        let mut machine = Machine::new(0, owners, Arc::new(snapshot), [1; 32], Outs::default());
        let mut offered = |start: &str, is_here| {
            let remote = "192.0.2.9:40000".parse().unwrap();
            let (connection, peer) = (Some(ConnectionId(1)), Some(PeerId(0)));
            let source = Hop { transport: Transport::Tls, local: ListenerId(0), remote, connection, peer };
            let text = format!(
                "{start}\r\nVia: SIP/2.0/TLS 192.0.2.9:5061;branch=z9hG4bK1;alias\r\nFrom: <sip:a@b>;tag=1\r\n\
                 To: <sip:b@c>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
            );
            assert_eq!(machine.receive(now(), source, text.as_bytes(), Framing::Stream, is_here), Taken::Done);
            machine.alias
        };
        assert_eq!(offered("OPTIONS sip:b@c SIP/2.0", false), Some(5061));
        assert_eq!(offered("SIP/2.0 200 OK", false), None, "what was offered before is forgotten");
        assert_eq!(offered("OPTIONS sip:b@c SIP/2.0", true), None, "it came by a connection of another worker");
    }
}
