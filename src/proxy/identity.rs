//! Where the call meets STIR: verification before routing, signing after it (RFC 8224 6), and the wait in between.

use std::sync::Arc;

use super::calls::Signed;
use super::response_context::Local;
use super::route::table::{self, Verified};
use super::waiting::Waiting;
use super::{ContextKey, Event, NeedKind, Now, Output, Proxy, TrunkId};
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

    /// Whether a request may go to a trunk that wants INVITEs signed.
    ///
    /// # Errors
    /// 400 for an INVITE whose date is not certain.
    pub(super) fn may_sign(
        &mut self,
        key: ContextKey,
        egress: Option<TrunkId>,
        request: Message<'_>,
    ) -> Result<(), Local> {
        let snapshot = self.snapshot_of(key);
        let signs = egress.and_then(|id| snapshot.config.trunk(id)).is_some_and(|trunk| trunk.sign.is_some());
        let is_meant = self.context(key).is_some_and(|context| context.is_invite && context.is_initial);
        if signs && is_meant && request.is_repeated(Name::Date) { Err(MULTIPLE_DATE.into()) } else { Ok(()) }
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
        context.signed = None;
        let is_asserted = snapshot.config.trunk(context.ingress).is_some_and(|trunk| trunk.trusted);
        let mut lines = std::mem::take(&mut context.lines);
        lines.clear();
        let origid = self.unpredictable();
        // E-4: decided on the request as it came, before the asserted identity is removed.
        match signer.sign_believing(is_asserted, now.unix, request, origid, &mut lines) {
            Ok(()) => {
                self.stats.signed += 1;
                let attestation = signer.attestation();
                let name = snapshot.config.signer_names.get(wanted).cloned().unwrap_or_default();
                if let Some(context) = self.context(key) {
                    context.signed = Some(Arc::new(Signed { signer: name, attestation, origid }));
                }
            }
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
