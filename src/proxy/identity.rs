//! Where the call meets STIR before it is routed: verification (RFC 8224 6.2), and the wait for it. `signing` is what comes after.

use super::route::table::{self, Verified};
use super::waiting::Waiting;
use super::{ContextKey, Event, NeedKind, Now, Output, Proxy};
use crate::sip::{Message, Name, Refusal};
use crate::stir::verification::{FetchFailure, FetchedChain, Outcome, Verdict};
use crate::stir::{Verstat, reason};

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
    /// Verifies the Identity fields of an INVITE as its trunk wants it. False if the call does not go on now: parked or rejected.
    pub(super) fn verify(&mut self, now: Now, key: ContextKey, request: Message<'_>, out: &mut Output) -> bool {
        let snapshot = self.snapshot_of(key);
        let Some(ingress) = self.context(key).map(|c| c.ingress) else { return false };
        let Some(policy) = snapshot.config.trunk(ingress).and_then(|t| t.verify.as_ref()) else { return true };
        if request.to_tag().is_some() {
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
        match self.verifier.verify(now.unix, policy, &snapshot.trust, Some(&snapshot.replay), request) {
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
        let lacking = verdict.tokens().iter().filter(|token| token.lacks());
        out.lacking.extend(lacking.filter_map(|token| token.credential.clone()));
        self.note_verdict(key, &verdict);
        self.meters.verdict(&verdict);
        self.witness_token(now, &verdict, out);
        let rejection = verdict.rejection();
        let mut lines = Vec::new();
        reason::write_lines(&verdict, &mut lines);
        let Some(context) = self.context(key) else { return false };
        let trunk = context.ingress;
        context.verified = verified(&verdict);
        context.verstat = Some(Verstat::of(&verdict));
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

    /// The chain that an INVITE waited for, or why there is none: the INVITE is judged and goes on.
    pub(super) fn certificate_fetched(
        &mut self,
        now: Now,
        key: ContextKey,
        x5u: &str,
        answer: Result<FetchedChain, FetchFailure>,
        out: &mut Output,
    ) {
        let failure = answer.as_ref().err().copied();
        // What says nothing of the certificate is not remembered for others.
        if !matches!(failure, Some(FetchFailure::Timeout | FetchFailure::Busy)) {
            self.verifier.provide(now.unix, x5u, answer);
        }
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
