//! Where the proxy obeys the load of its neighbours and tells its own (RFC 7339, RFC 7415).

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::admission::priority::Priority;
use super::overload::{Feedback, params};
use super::plan::{Candidate, Place};
use super::response_context::Local;
use super::{ContextKey, Now, Proxy, TrunkId};
use crate::sip::hop::Hop;
use crate::sip::{Message, Name, Via};
use crate::transaction::ClientId;

/// O-4: 503, and never a Retry-After.
const WITHHELD: Local = Local::Refused { status: 503, reason: "Service Unavailable" };

impl Proxy {
    /// Whether a request may go to a candidate now, as far as that one said how much it can take.
    ///
    /// # Errors
    /// The next candidate is to be tried; there may be one that is not overloaded (O-4).
    pub(super) fn may_send(
        &mut self,
        now: Now,
        key: ContextKey,
        candidate: &Candidate,
        request: Message<'_>,
    ) -> Result<(), Local> {
        let Place::At(hop) = candidate.place else { return Ok(()) };
        let peer = hop.remote;
        if !self.watch.client.is_limited(now.instant, peer) {
            return Ok(());
        }
        let ingress = self.context(key).map(|context| context.ingress);
        let config = &self.snapshot.config;
        let is_trusted = ingress.and_then(|t| config.trunk(t)).is_some_and(|t| t.trusted);
        let priority = Priority::of(request, &config.guard.emergency_numbers, is_trusted);
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u64(self.next_serial());
        let random = hasher.finish() as u32;
        if self.watch.client.may_send(now.instant, peer, priority, random) {
            return Ok(());
        }
        self.stats.withheld += 1;
        Err(WITHHELD)
    }

    /// Takes what a neighbour tells of its load in our Via of a response to a request of ours.
    pub(super) fn take_load(&mut self, now: Now, key: ContextKey, client: ClientId, response: Message<'_>) {
        let egress = self.context(key).and_then(|c| c.branch_mut(client)).and_then(|branch| branch.egress);
        if !self.snapshot.config.guard.role_with(egress).client {
            return;
        }
        if let Some(feedback) = params::feedback(response.reply_via()) {
            let source = self.watch.source;
            self.watch.client.take(now.instant, source, feedback);
        }
    }

    /// Counts a request of a trunk that is told our load.
    pub(super) fn count_load(&mut self, now: Now, ingress: TrunkId, source: Hop, request: Message<'_>) {
        let role = self.snapshot.config.guard.role_with(Some(ingress));
        if let Some(offer) = params::offer(request.reply_via()).filter(|_| role.server) {
            self.watch.server.count(now.instant, source.remote, offer, role.algorithm);
        }
    }

    /// What a client, this trunk, is told in a response to a request that came from it with this Via; `None` if it does not ask.
    pub(super) fn load_for(&mut self, source: Hop, ingress: Option<TrunkId>, via: Via<'_>) -> Option<Feedback> {
        let config = &self.snapshot.config;
        if config.guard.overload.is_empty() || !config.guard.role_with(ingress).server {
            return None;
        }
        params::offer(via)?;
        let (now, unix) = (self.watch.now, self.watch.unix);
        let level = self.watch.shedder.as_mut().map_or(0, |shedder| shedder.level(now));
        Some(self.watch.server.feedback(now, unix, source.remote, level))
    }

    /// The same for a response that is forwarded: the offer stands in the Via below ours.
    pub(super) fn load_told(&mut self, key: ContextKey, response: Message<'_>) -> Option<Feedback> {
        let (source, ingress) = self.context(key).map(|context| (context.source, context.ingress))?;
        if !self.snapshot.config.guard.overload.iter().any(|role| role.server) {
            return None;
        }
        let via = Via::parse(response.values(Name::Via).nth(1)?.value).ok()?;
        self.load_for(source, Some(ingress), via)
    }
}
