//! Responses whose way back is gone (T-4; RFC 3261 18.2.2, RFC 3263 5): over a stream by a new connection to where the request came from,
//! then to the places that its sent-by names. For neighbours only: what a stranger writes into a Via makes us send nowhere.

use std::collections::{HashMap, VecDeque};

use super::plan::MAX_ATTEMPTS;
use super::route::target::is_nowhere;
use super::{
    Answer, Need, NeedId, NeedKind, NextHop, Now, Output, Proxy, Target, TargetHost, Timer, TrunkId, leave_by, waiting,
};
use crate::sip::Host;
use crate::sip::hop::{Hop, PeerId};
use crate::transaction::ServerId;
use crate::transaction::timer::TimerHandle;

/// How far the search for a way is.
enum Way {
    /// A new connection to the source was the last try.
    Reconnected,
    /// The sent-by is being located.
    Locating { need: NeedId, timer: TimerHandle },
    /// Places that are left.
    Located(VecDeque<Hop>),
}

/// Server transactions of neighbours whose responses could not be sent, until they end.
#[derive(Default)]
pub(super) struct WaysBack {
    ways: HashMap<ServerId, Way>,
    needs: HashMap<NeedId, ServerId>,
}

impl WaysBack {
    /// Somebody waits for this.
    pub fn has_asked(&self, need: NeedId) -> bool {
        self.needs.contains_key(&need)
    }
}

impl Proxy {
    /// A response could not be sent: it goes another way if there is one. The transaction and its branches go on all the same.
    pub(super) fn response_failed(&mut self, now: Now, server: ServerId, out: &mut Output) {
        self.stats.failed_responses += 1;
        if let Some(hop) = self.next_way(now, server, out) {
            self.take_way(now, server, hop, out);
        }
    }

    fn take_way(&mut self, now: Now, server: ServerId, hop: Hop, out: &mut Output) {
        self.stats.rerouted_responses += 1;
        self.layer.redirect_server(now.instant, server, hop, &mut out.outbox);
    }

    fn next_way(&mut self, now: Now, server: ServerId, out: &mut Output) -> Option<Hop> {
        let upstream = self.layer.server_upstream(server)?;
        match self.ways_back.ways.get_mut(&server) {
            Some(Way::Located(places)) => return places.pop_front(),
            Some(Way::Locating { .. }) => return None, // a copy of what failed before
            Some(Way::Reconnected) => {}
            None if upstream.transport.is_web() => return None, // a browser has its connection or none
            None if upstream.transport.is_reliable() => {
                let trunk = self.snapshot.config.neighbour(upstream)?;
                self.ways_back.ways.insert(server, Way::Reconnected);
                return Some(Hop { connection: None, peer: Some(PeerId(trunk.0)), ..upstream });
            }
            None => {}
        }
        let trunk = self.snapshot.config.neighbour(upstream)?;
        let target = self.sender(server, upstream)?;
        if let TargetHost::Ip(_) = target.host {
            return self.places(server, upstream, trunk, target.direct().as_slice());
        }
        self.locate_sender(now, server, target, out);
        None
    }

    /// Whom the sent-by of a request names, over the transport that it came by (D-11).
    fn sender(&self, server: ServerId, upstream: Hop) -> Option<Target> {
        let sent_by = self.layer.sent_by(server)?;
        if sent_by.asks_rport && !upstream.transport.is_reliable() {
            return None; // RFC 3581 4: where it came from, and nowhere else
        }
        let (host, _) = Host::leading(sent_by.host).ok()?;
        let host = match host.ip() {
            Some(ip) => TargetHost::Ip(ip),
            None => TargetHost::Name(std::str::from_utf8(sent_by.host).ok()?.trim_end_matches('.').into()),
        };
        let (transport, port) = (upstream.transport, sent_by.port);
        Some(Target { host, port, transport: Some(transport), secure: transport.is_secure() })
    }

    fn locate_sender(&mut self, now: Now, server: ServerId, target: Target, out: &mut Output) {
        let config = &self.snapshot.config;
        let is_real = matches!(&target.host, TargetHost::Name(name) if !is_nowhere(name));
        if !config.locate || !is_real {
            self.ways_back.ways.insert(server, Way::Located(VecDeque::new()));
            return;
        }
        if self.parked >= config.max_parked {
            self.stats.parking_full += 1;
            return;
        }
        let deadline = now.instant + config.need_timeout;
        let need = NeedId(self.next_serial() << 32 | waiting::NO_SLOT);
        let timer = self.timers.insert(deadline, Timer::Need { need });
        out.needs.push(Need { id: need, deadline, kind: NeedKind::Locate { target } });
        self.parked += 1;
        self.stats.parked += 1;
        self.ways_back.ways.insert(server, Way::Locating { need, timer });
        self.ways_back.needs.insert(need, server);
    }

    /// The sent-by of a request has addresses, or none.
    pub(super) fn sender_located(&mut self, now: Now, need: NeedId, answer: Answer, out: &mut Output) {
        let Some(server) = self.ways_back.needs.get(&need).copied() else { return };
        self.forget_way_back(server);
        let Some(upstream) = self.layer.server_upstream(server) else { return };
        match (answer, self.snapshot.config.neighbour(upstream)) {
            (Answer::Locate(Ok(hops)), Some(trunk)) => {
                if let Some(hop) = self.places(server, upstream, trunk, &hops) {
                    self.take_way(now, server, hop, out);
                }
            }
            // Nobody asks again for the copies that fail after this one.
            _ => _ = self.ways_back.ways.insert(server, Way::Located(VecDeque::new())),
        }
    }

    /// The first place to try; the others stand by. What was tried last is none of them.
    fn places(&mut self, server: ServerId, upstream: Hop, trunk: TrunkId, hops: &[NextHop]) -> Option<Hop> {
        let config = &self.snapshot.config;
        let is_new = |hop: &&NextHop| hop.transport == upstream.transport && hop.remote != upstream.remote;
        let place = |hop: &NextHop| Hop {
            transport: hop.transport,
            local: leave_by(config, hop.transport, Some(hop.remote), Some(upstream.local)),
            remote: hop.remote,
            connection: None,
            peer: Some(PeerId(trunk.0)),
        };
        let mut places: VecDeque<Hop> = hops.iter().filter(is_new).take(MAX_ATTEMPTS).map(place).collect();
        let first = places.pop_front();
        self.ways_back.ways.insert(server, Way::Located(places));
        first
    }

    /// The transaction is over, or what it waited for is.
    pub(super) fn forget_way_back(&mut self, server: ServerId) {
        if self.ways_back.ways.is_empty() {
            return;
        }
        if let Some(Way::Locating { need, timer }) = self.ways_back.ways.remove(&server) {
            self.timers.cancel(timer);
            self.ways_back.needs.remove(&need);
            self.parked -= 1;
        }
    }
}
