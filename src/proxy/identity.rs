//! Where the call meets STIR before it is routed: verification (RFC 8224 6.2), and the wait for it. `signing` is what comes after.

use std::rc::Rc;

use super::admission::priority::Priority;
use super::neighbours::Source;
use super::route::table::{self, Verified};
use super::waiting::Waiting;
use super::{ContextKey, Event, NeedKind, Now, Output, Proxy};
use crate::sip::{Message, Name, Refusal};
use crate::stir::verification::{FetchFailure, FetchedChain, Outcome, Verdict};
use crate::stir::{Check, CheckResult, TokenVerdict, Verstat, priority, reason};

/// H-6: of two dates one verifier believes the first, the next the second.
pub(super) const MULTIPLE_DATE: Refusal = Refusal::new(400, "Multiple Date");

/// What routes may ask about a verdict.
fn verified(verdict: &Verdict) -> Verified {
    let valid = verdict.valid();
    let found = match valid {
        Some(_) => table::Verdict::Passed,
        None if verdict.tokens().is_empty() => table::Verdict::None,
        None => table::Verdict::Failed,
    };
    Verified { verdict: found, attest: valid.and_then(|token| token.attest) }
}

impl Proxy {
    /// Verifies the Identity fields of a request as its trunk wants it. False if there is nothing more to do about it now: it is parked,
    /// rejected, or sent on.
    pub(super) fn verify(&mut self, now: Now, key: ContextKey, request: Message<'_>, out: &mut Output) -> bool {
        let snapshot = self.snapshot_of(key);
        let Some(ingress) = self.context(key).map(|c| c.ingress) else { return false };
        let Some(policy) = snapshot.config.trunk(ingress).and_then(|t| t.verify.as_ref()) else { return true };
        if request.to_tag().is_some() || !policy.methods.has(request.method()) {
            return true; // identity inside a dialog is connected identity's business (RFC 9970)
        }
        let is_trusted = snapshot.config.trunk(ingress).is_some_and(|trunk| trunk.trusted);
        if is_trusted && snapshot.config.identity_headers.asks_bypass(request) {
            return true;
        }
        if request.is_repeated(Name::Date) {
            self.respond_local(now, key, request, MULTIPLE_DATE.status, MULTIPLE_DATE.reason, &[], out);
            return false;
        }
        // By what is trusted now: a fetch that the call waited for may have brought a list that its certificate names.
        let newest = Rc::clone(&self.snapshot);
        match self.verifier.verify(now.unix, policy, &newest.trust, Some(&snapshot.replay), request) {
            Outcome::Done(verdict) => self.judged(now, key, request, verdict, out),
            Outcome::Need { x5u } => {
                let (kind, waiting) =
                    (NeedKind::Certificate { x5u: x5u.clone() }, Waiting::Certificate { x5u: x5u.clone() });
                !self.park(now, key, kind, waiting, out)
                    && self.verify_without(now, key, &x5u, FetchFailure::Busy, request, out)
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
        let newest = Rc::clone(&self.snapshot);
        let verdict = self.verifier.verify_without(
            now.unix,
            policy,
            &newest.trust,
            Some(&snapshot.replay),
            request,
            x5u,
            failure,
        );
        self.judged(now, key, request, verdict, out)
    }

    /// Acts on a verdict: counts it, rejects by it, or keeps its Reason values for the responses (RFC 9410) and what others are told.
    fn judged(&mut self, now: Now, key: ContextKey, request: Message<'_>, verdict: Verdict, out: &mut Output) -> bool {
        if verdict.tokens().is_empty() {
            self.stats.identity_missing += 1;
        } else if verdict.is_valid() {
            self.stats.verified += 1;
        } else {
            self.stats.verification_failed += 1;
        }
        let is_open = |token: &TokenVerdict| token.checks.get(Check::Replay) == CheckResult::Unknown;
        self.stats.replay_unknown += u64::from(verdict.tokens().iter().any(is_open));
        out.lacking.extend(verdict.lacking_credentials());
        verdict.unfetched().into_iter().for_each(|x5u| self.fetch_beside(now, x5u, out));
        self.note_verdict(key, &verdict);
        self.meters.verdict(&verdict);
        self.witness_token(now, &verdict, out);
        let rejection = verdict.rejection();
        let mut lines = Vec::new();
        reason::write_lines(&verdict, &mut lines);
        let stripped = if rejection.is_none() { self.without_unproven_priority(key, request, &verdict) } else { None };
        let snapshot = self.snapshot_of(key);
        let Some(context) = self.context(key) else { return false };
        let trunk = context.ingress;
        context.verified = verified(&verdict);
        context.verstat = Some(Verstat::of(&verdict));
        let is_told = snapshot.config.observe || !verdict.is_valid();
        let is_served = snapshot.config.trunk(trunk).is_some_and(|trunk| trunk.service.is_some());
        if rejection.is_none() && (is_served || snapshot.config.discloses()) {
            context.verdict = Some(Rc::new(verdict.clone()));
        }
        if is_told {
            let call_id = request.call_id().unwrap_or_default().into();
            out.events.push(Event::Verified { call_id, trunk, verdict: Box::new(verdict) });
        }
        if let Some(rejection) = rejection {
            self.respond_local(now, key, request, rejection.status, rejection.phrase, &lines, out);
            return false;
        }
        if let Some(context) = self.context(key) {
            context.reason_lines = lines;
        }
        match stripped {
            Some(stripped) => self.go_on_without_priority(now, key, stripped, out),
            None => return true,
        }
        false
    }

    /// The request without the r-values of Resource-Priority that no valid token speaks for, if the policy wants that and there
    /// are any.
    fn without_unproven_priority(
        &mut self,
        key: ContextKey,
        request: Message<'_>,
        verdict: &Verdict,
    ) -> Option<Vec<u8>> {
        request.field(Name::ResourcePriority)?;
        let snapshot = self.snapshot_of(key);
        let ingress = self.context(key)?.ingress;
        snapshot.config.trunk(ingress)?.verify.filter(|policy| policy.strip_unproven_priority)?;
        self.patch.clear();
        if priority::strip_unproven(request, verdict, &mut self.patch) == 0 {
            return None;
        }
        let mut stripped = Vec::with_capacity(request.bytes().len());
        self.patch.write(request.bytes(), &mut stripped);
        Some(stripped)
    }

    /// A request goes on with what is left of its Resource-Priority. What it was admitted to only as an emergency call, it is refused now.
    fn go_on_without_priority(&mut self, now: Now, key: ContextKey, request: Vec<u8>, out: &mut Output) {
        self.stats.priorities_stripped += 1;
        let snapshot = self.snapshot_of(key);
        let Some(context) = self.context(key) else { return };
        context.request = request;
        let (ingress, hop, is_over_limit) = (context.ingress, context.source, context.is_over_limit);
        self.with_request(key, |proxy, request| {
            let trusted = snapshot.config.trunk(ingress).is_some_and(|trunk| trunk.trusted);
            let numbers = &snapshot.config.guard.emergency_numbers;
            if Priority::of(request, numbers, trusted) != Priority::Emergency {
                let limits = snapshot.config.guard.limits_of(ingress).filter(|_| is_over_limit);
                if let Some(limits) = limits {
                    proxy.stats.limited += 1;
                    return proxy.respond_local(now, key, request, limits.status, "Call Limit Reached", &[], out);
                }
                if proxy.sheds(now, Source { hop, trunk: Some(ingress) }, request) {
                    return proxy.respond_local(now, key, request, 503, "Service Unavailable", &[], out);
                }
            }
            proxy.route(now, key, request, out);
        });
    }

    /// Gives a chain, or why there is none, to the verifier; what says nothing of the certificate is not remembered for others. Gives
    /// the failure back.
    pub(super) fn remember_chain(
        &mut self,
        now: Now,
        x5u: &str,
        answer: Result<FetchedChain, FetchFailure>,
    ) -> Option<FetchFailure> {
        let failure = answer.as_ref().err().copied();
        if !matches!(failure, Some(FetchFailure::Timeout | FetchFailure::Busy)) {
            self.verifier.provide(now.unix, &self.snapshot.trust, x5u, answer);
        }
        failure
    }

    /// The chain that an INVITE waited for, or why there is none: the INVITE is judged and goes on.
    pub(super) fn certificate_fetched(
        &mut self,
        now: Now,
        key: ContextKey,
        x5u: &str,
        answer: Result<FetchedChain, FetchFailure>,
        out: &mut Output,
    ) {
        let failure = self.remember_chain(now, x5u, answer);
        self.with_request(key, |proxy, request| {
            let goes_on = match failure {
                Some(failure) => proxy.verify_without(now, key, x5u, failure, request, out),
                None => proxy.verify(now, key, request, out),
            };
            if goes_on {
                proxy.route(now, key, request, out);
            }
        });
    }
}
