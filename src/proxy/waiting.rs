//! Requests that wait for the slow side: a certificate before they are routed, an address before a candidate is tried. A wait ends
//! once: by its answer, its deadline, or because nothing more is wanted (a CANCEL, a 2xx of another branch).

use std::collections::HashMap;
use std::rc::Rc;

use super::location::{LocateFailure, Target};
use super::neighbours::Source;
use super::plan::{Candidate, MAX_ATTEMPTS, Place};
use super::response_context::Local;
use super::route::preprocess::preprocess;
use super::signing::Unfinished;
use super::{
    Answer, ContextKey, Held, Need, NeedId, NeedKind, NextHop, Now, Output, Proxy, SignatureFailure, Timer, TrunkId,
    probe,
};
use crate::sip::{Framing, Message};
use crate::stir::verification::FetchFailure;
use crate::transaction::timer::TimerHandle;

const UNRESOLVED: Local = Local::Refused { status: 500, reason: "Next Hop Unresolvable" };

/// One wait of a request.
pub struct Parked {
    /// What it waits for.
    pub need: NeedId,
    /// Ends the wait.
    pub timer: TimerHandle,
    /// What goes on afterwards.
    pub waiting: Waiting,
}

/// What is waited for.
pub enum Waiting {
    /// The chain at this URL, before the request is routed.
    Certificate {
        /// The URL.
        x5u: Box<str>,
    },
    /// The addresses of a candidate.
    Location {
        /// Which one.
        candidate: Candidate,
        /// Its share of Max-Breadth.
        share: u16,
    },
    /// The signatures of a copy, before it is sent.
    Signature(Box<Unfinished>),
    /// The chain at this URL, to judge the answer that has gone on already.
    Answered {
        /// The URL.
        x5u: Box<str>,
        /// The 2xx as received.
        response: Box<[u8]>,
        /// The trunk that it came from.
        egress: TrunkId,
    },
}

impl Waiting {
    /// Nothing of the request itself depends on it.
    pub fn is_afterwards(&self) -> bool {
        matches!(self, Self::Answered { .. })
    }
}

/// An ACK to a 2xx that waits for the address of its next hop. It has no transaction, so its octets wait here.
pub struct ParkedAck {
    snapshot: Rc<Held>,
    source: Source,
    bytes: Vec<u8>,
    candidate: Candidate,
    timer: TimerHandle,
}

/// ACKs that wait, by their need.
pub type ParkedAcks = HashMap<NeedId, ParkedAck>;

/// Chains that nobody waits for, by their need: where they lie, and what ends the wait.
pub type Beside = HashMap<NeedId, (Box<str>, TimerHandle)>;

/// Most of them at one time.
const MAX_BESIDE: usize = 64;

/// The half of a [`NeedId`] that is a context's slot; this one is nobody's.
pub(super) const NO_SLOT: u64 = 0xffff_ffff;

impl Proxy {
    /// Parks a request. False if too many wait already.
    pub(super) fn park(
        &mut self,
        now: Now,
        key: ContextKey,
        kind: NeedKind,
        waiting: Waiting,
        out: &mut Output,
    ) -> bool {
        let snapshot = self.snapshot_of(key);
        if self.parked >= snapshot.config.max_parked {
            self.stats.parking_full += 1;
            return false;
        }
        let need = NeedId(self.next_serial() << 32 | key.slot() as u64);
        let limit = match kind {
            NeedKind::Certificate { .. } => snapshot.config.certificate_timeout,
            NeedKind::Locate { .. } | NeedKind::Signature { .. } => snapshot.config.need_timeout,
        };
        let deadline = now.instant + limit;
        let timer = self.timers.insert(deadline, Timer::Need { need });
        let Some(context) = self.context(key) else { return false };
        context.parked.push(Parked { need, timer, waiting });
        self.parked += 1;
        self.stats.parked += 1;
        out.needs.push(Need { id: need, deadline, kind });
        true
    }

    /// Asks for a chain that no call waits for: the next one will find it.
    pub(super) fn fetch_beside(&mut self, now: Now, x5u: &str, out: &mut Output) {
        if self.beside.len() >= MAX_BESIDE || self.beside.values().any(|(asked, _)| **asked == *x5u) {
            return;
        }
        let need = NeedId(self.next_serial() << 32 | NO_SLOT);
        let deadline = now.instant + self.snapshot.config.need_timeout;
        let timer = self.timers.insert(deadline, Timer::Need { need });
        self.beside.insert(need, (x5u.into(), timer));
        out.needs.push(Need { id: need, deadline, kind: NeedKind::Certificate { x5u: x5u.into() } });
    }

    /// Ends every wait of a request, but for what is to be known of its answer.
    pub(super) fn unpark(&mut self, key: ContextKey) {
        let Some(context) = self.context(key).filter(|c| !c.parked.is_empty()) else { return };
        let ended: Vec<_> = context.parked.extract_if(.., |parked| !parked.waiting.is_afterwards()).collect();
        for parked in ended {
            self.timers.cancel(parked.timer);
            self.parked -= 1;
        }
    }

    /// The answer to a need. Only the call that still waits for it goes on.
    pub(super) fn end_need(&mut self, now: Now, need: NeedId, answer: Answer, out: &mut Output) {
        if self.ways_back.has_asked(need) {
            return self.sender_located(now, need, answer, out);
        }
        if need.0 & NO_SLOT == NO_SLOT {
            if let Some((x5u, timer)) = self.beside.remove(&need) {
                self.timers.cancel(timer);
                if let Answer::Certificate(answer) = answer {
                    self.remember_chain(now, &x5u, answer);
                }
                return;
            }
            if let Some(answer) = self.asked_answered(now, need, answer, out) {
                self.ack_located(need, answer, out);
            }
            return;
        }
        if probe::is_probe(need.0) {
            return self.ping_located(now, need, &answer, out);
        }
        let slot = (need.0 & NO_SLOT) as usize;
        let waits = |parked: &Parked| parked.need == need;
        let Some((key, context)) = self.contexts.get_mut(slot) else { return };
        let (key, Some(position)) = (*key, context.parked.iter().position(waits)) else { return };
        let parked = context.parked.swap_remove(position);
        self.timers.cancel(parked.timer);
        self.parked -= 1;
        match (parked.waiting, answer) {
            (Waiting::Certificate { x5u }, Answer::Certificate(answer)) => {
                self.certificate_fetched(now, key, &x5u, answer, out);
            }
            (Waiting::Certificate { x5u }, _) => {
                self.certificate_fetched(now, key, &x5u, Err(FetchFailure::Timeout), out);
            }
            (Waiting::Answered { x5u, response, egress }, answer) => {
                let fetched = match answer {
                    Answer::Certificate(fetched) => fetched,
                    _ => Err(FetchFailure::Timeout),
                };
                self.answer_certificate_fetched(now, key, (&x5u, egress, &response), fetched, out);
            }
            (Waiting::Location { candidate, share }, Answer::Locate(answer)) => {
                self.located(now, key, &candidate, share, answer.as_deref().map_err(|failure| *failure), out);
            }
            (Waiting::Location { candidate, share }, _) => {
                self.located(now, key, &candidate, share, Err(LocateFailure::NoAnswer), out);
            }
            (Waiting::Signature(unfinished), Answer::Signature(answer)) => {
                self.signature_came(now, key, unfinished, answer, out);
            }
            (Waiting::Signature(unfinished), _) => {
                self.signature_came(now, key, unfinished, Err(SignatureFailure::NoAnswer), out);
            }
        }
    }

    /// The deadline of a need.
    pub(super) fn need_timed_out(&mut self, now: Now, need: NeedId, out: &mut Output) {
        let waits_for_certificate = || {
            let (_, context) = self.contexts.get((need.0 & NO_SLOT) as usize)?;
            let parked = context.parked.iter().find(|parked| parked.need == need)?;
            Some(matches!(parked.waiting, Waiting::Certificate { .. } | Waiting::Answered { .. }))
        };
        let answer = match waits_for_certificate() {
            Some(true) => Answer::Certificate(Err(FetchFailure::Timeout)),
            _ => Answer::Locate(Err(LocateFailure::NoAnswer)),
        };
        self.end_need(now, need, answer, out);
    }

    /// Asks for the addresses of a candidate. False if too many requests wait already.
    pub(super) fn locate(
        &mut self,
        now: Now,
        key: ContextKey,
        candidate: &Candidate,
        target: &Target,
        share: u16,
        out: &mut Output,
    ) -> bool {
        let kind = NeedKind::Locate { target: target.clone() };
        self.park(now, key, kind, Waiting::Location { candidate: candidate.clone(), share }, out)
    }

    /// A candidate has addresses: the first is tried now, the others stand by (RFC 3263 4.3). Or it has none: it counts as failed.
    fn located(
        &mut self,
        now: Now,
        key: ContextKey,
        candidate: &Candidate,
        share: u16,
        answer: Result<&[NextHop], LocateFailure>,
        out: &mut Output,
    ) {
        let snapshot = self.snapshot_of(key);
        let hops = answer.unwrap_or_default();
        let member = candidate.egress.zip(candidate.member.map(usize::from));
        member.iter().for_each(|(trunk, place)| snapshot.config.note_located(*trunk, *place, hops, now.unix));
        let is_down = |hop: &NextHop| snapshot.config.is_address_down(member, *hop, now.unix);
        let (down, up): (Vec<&NextHop>, Vec<&NextHop>) = hops.iter().take(MAX_ATTEMPTS).partition(|hop| is_down(hop));
        let candidates = up.into_iter().chain(down).map(|hop| candidate.at(&snapshot.config, *hop)).collect();
        if self.replace(now, key, candidates, share, out) {
            return;
        }
        self.stats.failed_attempts += 1;
        if let Some(context) = self.context(key) {
            context.refused.get_or_insert(UNRESOLVED);
        }
        self.conclude(now, key, out);
    }

    /// Keeps an ACK to a 2xx until the address of its next hop is known.
    pub(super) fn park_ack(
        &mut self,
        now: Now,
        source: Source,
        ack: Message<'_>,
        candidate: Candidate,
        out: &mut Output,
    ) {
        let snapshot = Rc::clone(&self.snapshot);
        let Place::Locate(target) = &candidate.place else { return };
        if self.parked >= snapshot.config.max_parked {
            self.stats.parking_full += 1;
            self.stats.dropped_requests += 1;
            return;
        }
        let need = NeedId(self.next_serial() << 32 | NO_SLOT);
        let deadline = now.instant + snapshot.config.need_timeout;
        let timer = self.timers.insert(deadline, Timer::Need { need });
        out.needs.push(Need { id: need, deadline, kind: NeedKind::Locate { target: target.clone() } });
        self.parked += 1;
        self.stats.parked += 1;
        let ack = ParkedAck { snapshot, source, bytes: ack.bytes().to_vec(), candidate, timer };
        self.parked_acks.insert(need, ack);
    }

    /// The next hop of an ACK has addresses: it goes to the first, once (F-12). Or it has none: nobody is told (P-2).
    fn ack_located(&mut self, need: NeedId, answer: Answer, out: &mut Output) {
        let Some(parked) = self.parked_acks.remove(&need) else { return };
        self.timers.cancel(parked.timer);
        self.parked -= 1;
        let config = &parked.snapshot.config;
        let first = match &answer {
            Answer::Locate(Ok(hops)) => hops.first().map(|hop| parked.candidate.at(config, *hop)),
            _ => None,
        };
        let mut index = std::mem::take(&mut self.spare_index);
        let limits = config.parser_for(config.is_lenient_with(parked.source.trunk));
        let message = crate::sip::parse(&parked.bytes, &mut index, Framing::Datagram, &limits).ok();
        let read = message.and_then(|ack| Some((ack, preprocess(config, ack, parked.source.hop.local).ok()?)));
        match first.zip(read) {
            Some((first, (ack, pre))) => self.send_stateless(config, parked.source, ack, &pre, &first, out),
            None => self.stats.dropped_requests += 1,
        }
        self.spare_index = index;
    }
}
