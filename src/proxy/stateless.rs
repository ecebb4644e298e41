//! What needs no transaction: ACK for a 2xx and unmatched CANCEL passed on (RFC 3261 16.11), refusals before there is a context.

use super::history::History;
use super::neighbours::Source;
use super::plan::{Candidate, Place};
use super::request::upstream_of;
use super::route::preprocess::Preprocessed;
use super::route::target::Known;
use super::route::{preprocess, target};
use super::{Config, Event, NextHop, Now, Output, Proxy, RrStyle, TrunkId, forward, overload};
use crate::sip::hop::{Hop, PeerId, Transport};
use crate::sip::{MAGIC_COOKIE, Message, Method, Refusal, Uri, respond};

impl Proxy {
    /// ACK for a 2xx: end to end, so forwarded without a transaction (F-12); where it is wanted, a CANCEL that belongs to nothing here
    /// (K-4). What can not be forwarded is dropped (P-2). An ACK must run along our route set, but for one of a trusted trunk, which goes
    /// where its Request-URI says; a CANCEL, like the INVITE it follows, may be routed by the table.
    pub(super) fn forward_stateless(&mut self, now: Now, source: Source, request: Message<'_>, out: &mut Output) {
        let snapshot = self.snapshot.clone();
        let config = &snapshot.config;
        let is_ack = request.method() == Some(Method::Ack);
        let ingress = self.ingress_of_ack(now, source);
        let from = source.hop.remote.ip();
        let found = ingress.filter(|_| is_ack).and_then(|ingress| self.in_dialog(request, ingress, from));
        let party = found.map(|found| found.trunk);
        let ingress = party.or(ingress);
        let chance = self.chance(now, ingress);
        let may_go = request.max_forwards().ok() != Some(Some(0));
        let planned = ingress.filter(|_| may_go).and_then(|ingress| {
            let pre = preprocess::preprocess(config, request, source.hop.local).ok();
            let pre = pre.filter(|pre| !is_ack || may_pass(config, request, ingress, pre))?;
            let is_bare = is_ack && !pre.was_ours && pre.next.is_none();
            let is_named = is_bare && !is_addressed_here(config, request.request_uri());
            let named = is_named.then(|| target::direct(config, request.request_uri(), None, None)).flatten();
            let known = Known { party, ..Known::default() };
            let by_rules = || target::decide(config, request, ingress, &pre, chance, known).ok();
            let candidate = named.or_else(by_rules)?.pop()?;
            Some((candidate, pre))
        });
        let Some((candidate, pre)) = planned else {
            self.stats.dropped_requests += 1;
            return;
        };
        if let Some(found) = found {
            self.note_ack(found.call); // one that goes on, from a neighbour
        }
        match &candidate.place {
            Place::At(_) => self.send_stateless(config, source, request, &pre, &candidate, out),
            Place::Locate(target) => match target.direct() {
                Some(hop) => self.send_stateless(config, source, request, &pre, &candidate.at(config, hop), out),
                None => self.park_ack(now, source, request, candidate, out),
            },
        }
    }

    /// Sends one copy of a request without a transaction.
    pub(super) fn send_stateless(
        &mut self,
        config: &Config,
        source: Source,
        request: Message<'_>,
        pre: &Preprocessed,
        candidate: &Candidate,
        out: &mut Output,
    ) {
        let listeners = config.listener(source.hop.local).zip(config.listener(candidate.listener));
        let (Some((entry, exit)), &Place::At(NextHop { transport, remote })) = (listeners, &candidate.place) else {
            self.stats.dropped_requests += 1;
            return;
        };
        let branch = self.stateless_branch(request);
        let history = History::default();
        let copy = forward::Copy {
            source: source.hop.remote,
            entry,
            exit,
            transport,
            branch: &branch,
            record_route: None,
            flows: [None; 2],
            path: None,
            route: pre,
            uri: candidate.retarget.as_ref().map(|retarget| &*retarget.uri),
            border: Some(forward::Border {
                config,
                crossing: config.crossing(source.trunk, candidate.egress), // E-4: an ACK may repeat what its INVITE asserted
                asserted: None,
                telling: None,
                retarget: None,
                history: &history,
            }),
            styles: [RrStyle::default(); 2],
            is_sips: false,
            trunk_path: None,
            max_breadth: None,
            spent: config.guard.digest.as_deref(),
            offers_oc: false,
            alias: false,
            session: None,
            renews_date: false,
            lines: &[],
        };
        let peer = candidate.egress.map(|trunk| PeerId(trunk.0));
        let hop = Hop { transport, local: candidate.listener, remote, connection: candidate.flow, peer };
        let patch = &mut self.patch;
        out.outbox.push_with(hop, 0, |buffer| {
            // Validated above and by the parser: there is nothing left to refuse, and there is no answer to give anyway.
            let _ = forward::write(request, &copy, patch, buffer);
        });
        self.stats.forwarded += 1;
    }

    /// Answers a request that has no transaction. ACK is never answered (P-2).
    pub(super) fn refuse(
        &mut self,
        source: Source,
        request: Message<'_>,
        refusal: Refusal,
        lines: &[u8],
        out: &mut Output,
    ) {
        let is_ack = request.method() == Some(Method::Ack);
        out.events.push(Event::Refused {
            call_id: request.call_id().unwrap_or_default().into(),
            source: source.hop.remote,
            status: (!is_ack).then_some(refusal.status),
            reason: refusal.reason,
        });
        if is_ack {
            self.stats.dropped_requests += 1;
            return;
        }
        if !self.may_answer(source, out) {
            return;
        }
        self.stats.refused += 1;
        self.record_refusal(source, request, refusal.status, out);
        self.respond_stateless(source, request, refusal.status, refusal.reason, lines, out);
    }

    /// Refuses a request for overload: by its answer and a counter alone (O-8). A line in the log and a record of each would make dear,
    /// just when there is no time, what is to be cheap.
    pub(super) fn shed(&mut self, source: Source, request: Message<'_>, out: &mut Output) {
        if self.may_answer(source, out) {
            self.stats.refused += 1;
            self.respond_stateless(source, request, 503, "Service Unavailable", &[], out);
        }
    }

    pub(super) fn respond_stateless(
        &mut self,
        source: Source,
        request: Message<'_>,
        status: u16,
        reason: &str,
        lines: &[u8],
        out: &mut Output,
    ) {
        self.meters.sent(status);
        let (tag, told) = (self.tag_of(request), self.load_for(source.hop, source.trunk, request.reply_via()));
        let is_bounded = source.hop.transport == Transport::Udp && source.trunk.is_none();
        out.outbox.push_with(upstream_of(source.hop, request.reply_via()), 0, |buffer| {
            let start = buffer.len();
            let write = |lines: &[u8], buffer: &mut Vec<u8>| {
                respond::write(request, source.hop.remote, status, reason, Some(&tag), lines, buffer);
            };
            write(lines, buffer);
            let over = (buffer.len() - start).saturating_sub(answer_bound(request.bytes().len()));
            if is_bounded && over > 0 && !lines.is_empty() {
                buffer.truncate(start);
                write(whole_lines(lines, lines.len().saturating_sub(over)), buffer);
            }
            told.iter().for_each(|told| overload::params::mark(buffer, start, told));
        });
    }

    /// The branch of a request that is forwarded without a transaction: the same for each copy of it (RFC 3261 16.11).
    fn stateless_branch(&self, request: Message<'_>) -> [u8; 24] {
        let mut out = [0; 24];
        let (cookie, rest) = out.split_at_mut(MAGIC_COOKIE.len());
        cookie.copy_from_slice(MAGIC_COOKIE);
        for (to, from) in rest.iter_mut().zip(b"s".iter().chain(&self.tag_of(request))) {
            *to = *from;
        }
        out
    }
}

/// F-12: an ACK passes along our route set, or without one where its source may relay; not if it is for this element itself.
fn may_pass(config: &Config, ack: Message<'_>, ingress: TrunkId, pre: &Preprocessed) -> bool {
    let moved = pre.request_uri.as_ref().and_then(|moved| ack.bytes().get(moved.uri.clone()));
    if pre.was_ours {
        return pre.next.is_some() || !is_addressed_here(config, moved.unwrap_or(ack.request_uri()));
    }
    let names_us = Uri::parse(ack.request_uri()).is_ok_and(|uri| uri.user.is_none());
    let names_us = names_us && is_addressed_here(config, ack.request_uri());
    config.trunk(ingress).is_some_and(|trunk| trunk.trusted) && !names_us
}

/// The host of a URI is this element.
fn is_addressed_here(config: &Config, uri: &[u8]) -> bool {
    Uri::parse(uri).is_ok_and(|uri| config.own_listener_of(&uri).is_some())
}

/// E-1: octets of an answer to a request of so many octets, whose source may be forged: else we would be an amplifier.
fn answer_bound(request: usize) -> usize {
    (request + request / 2).max(request + 200)
}

/// As many of these header lines, from the first one, as `room` octets hold.
fn whole_lines(lines: &[u8], room: usize) -> &[u8] {
    let fitting = lines.get(..room).unwrap_or(lines);
    let end = memchr::memrchr(b'\n', fitting).map_or(0, |at| at + 1);
    fitting.get(..end).unwrap_or_default()
}
