//! Where the call meets STIR: verification before routing, signing after it (RFC 8224 6), and the wait in between.

use super::request_context::Parked;
use super::{ContextKey, Event, Need, NeedId, NeedKind, Now, Output, Proxy, Timer, TrunkId};
use crate::sip::{Message, Name};
use crate::stir::reason;
use crate::stir::verification::{FetchFailure, FetchedChain, Outcome, Verdict};

impl Proxy {
    /// Verifies the Identity fields of an INVITE as its trunk wants it. False if the call does not go on now: parked or rejected.
    pub(super) fn verify(&mut self, now: Now, key: ContextKey, request: Message<'_>, out: &mut Output) -> bool {
        let snapshot = self.snapshot_of(key);
        let Some(ingress) = self.context(key).map(|c| c.ingress) else { return false };
        let Some(policy) = snapshot.config.trunk(ingress).and_then(|t| t.verify.as_ref()) else { return true };
        if request.to_tag().is_some() {
            return true; // identity inside a dialog is connected identity's business (RFC 9970)
        }
        match self.verifier.verify(now.unix, policy, &snapshot.trust, Some(&snapshot.replay), request) {
            Outcome::Done(verdict) => self.judged(now, key, request, verdict, out),
            Outcome::Need { x5u } if self.parked < snapshot.config.max_parked => {
                self.park(now, key, x5u, out);
                false
            }
            Outcome::Need { x5u } => {
                self.stats.parking_full += 1;
                self.verify_without(now, key, &x5u, FetchFailure::Busy, request, out)
            }
        }
    }

    /// Verifies again with one certificate known to be out of reach for this call.
    fn verify_without(
        &mut self,
        now: Now,
        key: ContextKey,
        x5u: &str,
        failure: FetchFailure,
        request: Message<'_>,
        out: &mut Output,
    ) -> bool {
        let snapshot = self.snapshot_of(key);
        let Some(ingress) = self.context(key).map(|c| c.ingress) else { return false };
        let Some(policy) = snapshot.config.trunk(ingress).and_then(|t| t.verify.as_ref()) else { return true };
        let verdict = self.verifier.verify_without(
            now.unix,
            policy,
            &snapshot.trust,
            Some(&snapshot.replay),
            request,
            x5u,
            failure,
        );
        self.judged(now, key, request, verdict, out)
    }

    /// Acts on a verdict: counts it, rejects by it, or keeps its Reason values for the responses (RFC 9410).
    fn judged(&mut self, now: Now, key: ContextKey, request: Message<'_>, verdict: Verdict, out: &mut Output) -> bool {
        if verdict.tokens().is_empty() {
            self.stats.identity_missing += 1;
        } else if verdict.is_valid() {
            self.stats.verified += 1;
        } else {
            self.stats.verification_failed += 1;
        }
        let rejection = verdict.rejection();
        let mut lines = Vec::new();
        reason::write_lines(&verdict, &mut lines);
        let Some(context) = self.context(key) else { return false };
        let trunk = context.ingress;
        if self.snapshot_of(key).config.observe || !verdict.is_valid() {
            let call_id = request.call_id().unwrap_or_default().into();
            out.events.push(Event::Verified { call_id, trunk, verdict: Box::new(verdict) });
        }
        match rejection {
            Some(rejection) => {
                self.respond_local(now, key, request, rejection.status, rejection.phrase, &lines, out);
                false
            }
            None => {
                if let Some(context) = self.context(key) {
                    context.reason_lines = lines;
                }
                true
            }
        }
    }

    fn park(&mut self, now: Now, key: ContextKey, x5u: Box<str>, out: &mut Output) {
        let need = NeedId(self.next_serial() << 32 | key.slot() as u64);
        let deadline = now.instant + self.snapshot_of(key).config.need_timeout;
        let timer = self.timers.insert(deadline, Timer::Need { need });
        if let Some(context) = self.context(key) {
            context.parked = Some(Parked { need, x5u: x5u.clone(), timer });
            self.parked += 1;
            self.stats.parked += 1;
            out.needs.push(Need { id: need, deadline, kind: NeedKind::Certificate { x5u } });
        }
    }

    /// Ends the wait of a call, if it waits. Gives back what it waited for.
    pub(super) fn unpark(&mut self, key: ContextKey) -> Option<Parked> {
        let parked = self.context(key).and_then(|c| c.parked.take())?;
        self.timers.cancel(parked.timer);
        self.parked -= 1;
        Some(parked)
    }

    /// The answer to a need, or its deadline. Only the call that still waits for it goes on.
    pub(super) fn end_need(
        &mut self,
        now: Now,
        need: NeedId,
        answer: Result<FetchedChain, FetchFailure>,
        out: &mut Output,
    ) {
        let slot = (need.0 & 0xffff_ffff) as usize;
        let waiting = self.contexts.get(slot).filter(|(_, c)| c.parked.as_ref().is_some_and(|p| p.need == need));
        let Some(key) = waiting.map(|(key, _)| *key) else { return };
        let Some(parked) = self.unpark(key) else { return };
        let failure = answer.as_ref().err().copied();
        if failure != Some(FetchFailure::Timeout) {
            self.verifier.provide(now.unix, &parked.x5u, answer);
        }
        self.with_request(key, |proxy, request| {
            let goes_on = match failure {
                Some(failure) => proxy.verify_without(now, key, &parked.x5u, failure, request, out),
                None => proxy.verify(now, key, request, out),
            };
            if goes_on {
                proxy.route(now, key, request, out);
            }
        });
    }

    /// Signs a dialog-forming INVITE for the trunk of a candidate; once, unless another one wants another signer. One that can not be
    /// signed goes unsigned (I-3): the call is worth more.
    pub(super) fn sign(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        egress: Option<TrunkId>,
        out: &mut Output,
    ) {
        let snapshot = self.snapshot_of(key);
        let Some((trunk, wanted)) = egress.and_then(|id| Some((id, snapshot.config.trunk(id)?.sign?))) else { return };
        let Some(signer) = snapshot.config.signers.get(wanted) else { return };
        let Some(context) = self.context(key) else { return };
        // A call that carries an identity keeps it.
        let initial = context.is_invite && context.is_initial && request.field(Name::Identity).is_none();
        if !initial || context.signed_by == Some(wanted) {
            return;
        }
        context.signed_by = Some(wanted);
        let mut lines = std::mem::take(&mut context.lines);
        lines.clear();
        let origid = self.unpredictable();
        match signer.sign(now.unix, request, origid, &mut lines) {
            Ok(()) => self.stats.signed += 1,
            Err(error) => {
                lines.clear();
                self.stats.unsigned += 1;
                let call_id = request.call_id().unwrap_or_default().into();
                out.events.push(Event::Unsigned { call_id, trunk, error });
            }
        }
        if let Some(context) = self.context(key) {
            context.lines = lines;
        }
    }
}
