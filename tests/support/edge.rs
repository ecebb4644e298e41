//! A whole proxy as a node of the simulated network, with a resolver that answers after a while.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vesperd::proxy::{
    Answer, Config, Listener, LocateFailure, NeedId, NeedKind, NextHop, Now, Output, Proxy, Snapshot, TargetHost,
};
use vesperd::sip::hop::{Hop, Outbox};
use vesperd::sip::{self, Framing, Index, Limits, Transport};
use vesperd::stir::TrustStore;
use vesperd::stir::replay::ReplayTable;

use super::network::SimNode;

/// Unix time at the start of virtual time.
const UNIX: i64 = 1_795_219_200;

pub struct EdgeNode {
    pub proxy: Proxy,
    index: Index,
    epoch: Instant,
    output: Output,
    /// What the resolver knows, and how long it takes.
    pub names: BTreeMap<String, Vec<NextHop>>,
    pub resolve_after: Duration,
    /// Answers under way: when, to which need, for which name.
    asked: BinaryHeap<Reverse<(Instant, u64, String)>>,
}

/// A listener at an address, without a name.
pub fn listener(transport: Transport, bind: SocketAddr) -> Listener {
    let advertise_host = if bind.is_ipv6() { format!("[{}]", bind.ip()) } else { bind.ip().to_string() };
    Listener { name: bind.to_string(), transport, bind, advertise_host, advertise_port: bind.port(), names: Vec::new() }
}

impl EdgeNode {
    pub fn new(config: Config, seed: u8, epoch: Instant) -> Self {
        let snapshot = Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() };
        let now = Now { instant: epoch, unix: UNIX };
        Self {
            proxy: Proxy::new(Arc::new(snapshot), [seed ^ 0x5a; 32], now),
            index: Index::new(),
            epoch,
            output: Output::default(),
            names: BTreeMap::new(),
            resolve_after: Duration::from_millis(50),
            asked: BinaryHeap::new(),
        }
    }

    fn now(&self, instant: Instant) -> Now {
        Now { instant, unix: UNIX + instant.duration_since(self.epoch).as_secs() as i64 }
    }

    fn give(&mut self, now: Instant, out: &mut Outbox) {
        for item in self.output.outbox.items() {
            out.push(item.hop, item.tag, self.output.outbox.bytes_of(item));
        }
        self.output.outbox.clear();
        self.output.events.clear();
        for need in self.output.needs.drain(..) {
            if let NeedKind::Locate { target } = need.kind
                && let TargetHost::Name(name) = &target.host
            {
                self.asked.push(Reverse((now + self.resolve_after, need.id.0, name.to_string())));
            }
        }
    }
}

impl SimNode for EdgeNode {
    fn receive(&mut self, now: Instant, source: Hop, bytes: &[u8], out: &mut Outbox) {
        let at = self.now(now);
        let Ok(message) = sip::parse(bytes, &mut self.index, Framing::Datagram, &Limits::default()) else { return };
        self.proxy.handle_message(at, source, message, &mut self.output);
        self.give(now, out);
    }

    fn transport_failed(&mut self, now: Instant, tag: u64, out: &mut Outbox) {
        self.proxy.handle_transport_failure(self.now(now), tag, &mut self.output);
        self.give(now, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let answer = self.asked.peek().map(|Reverse((at, ..))| *at);
        self.proxy.poll_timeout().into_iter().chain(answer).min()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        let at = self.now(now);
        while let Some(Reverse((due, need, name))) = self.asked.pop() {
            if due > now {
                self.asked.push(Reverse((due, need, name)));
                break;
            }
            let known = self.names.get(&name).map(|hops| hops.as_slice().into()).ok_or(LocateFailure::NoAnswer);
            self.proxy.handle_answer(at, NeedId(need), Answer::Locate(known), &mut self.output);
        }
        self.proxy.handle_timeout(at, &mut self.output);
        self.give(now, out);
    }
}
