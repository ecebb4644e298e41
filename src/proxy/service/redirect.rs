//! INVITEs of a served trunk: signed or judged, and sent back (RFC 3261 8.3).

use super::{Duty, Service};
use crate::proxy::identity::MULTIPLE_DATE;
use crate::proxy::{ContextKey, Event, Now, Output, Proxy};
use crate::sip::{Message, Method, Name, NameAddr, respond};
use crate::stir::authentication::SignError;
use crate::stir::mark::{self, Mark};
use crate::stir::{IdentitySource, Verstat};

const ALLOW: &[u8] = b"Allow: INVITE, ACK, CANCEL, OPTIONS\r\n";
/// Where nothing is configured: what redirect STI-AS answer to calls that they have nothing to add to.
const NO_MATCH: u16 = 404;

impl Proxy {
    /// Answers a request of a served trunk. An INVITE that was to be verified has its verdict by now.
    pub(in crate::proxy) fn serve(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        service: Service,
        out: &mut Output,
    ) {
        if request.to_tag().is_some() {
            return self.respond_local(now, key, request, 481, "Call/Transaction Does Not Exist", &[], out);
        }
        if request.method() != Some(Method::Invite) {
            return self.respond_local(now, key, request, 405, "Method Not Allowed", ALLOW, out);
        }
        match service.duty {
            Duty::Sign => self.serve_signed(now, key, request, service, out),
            Duty::Verify => self.serve_verdict(now, key, request, service, out),
        }
    }

    /// Signs by the policy of the trunk itself. What can not be signed is answered by `no_match`: the SBC sends the call on as it
    /// is (I-3). A signer that can not sign at all, or not in time, is 503, so that the SBC asks another one.
    fn serve_signed(&mut self, now: Now, key: ContextKey, request: Message<'_>, service: Service, out: &mut Output) {
        if request.is_repeated(Name::Date) {
            return self.respond_local(now, key, request, MULTIPLE_DATE.status, MULTIPLE_DATE.reason, &[], out);
        }
        let Some(ingress) = self.context(key).map(|context| context.ingress) else { return };
        let before = out.events.len();
        if !self.answer_waits_for_signature(now, key, request, ingress, service, out) {
            self.answer_signed(now, key, request, service, before, out);
        }
    }

    /// The answer once all that can be signed is. What failed in between is among the events from `before` on.
    pub(in crate::proxy) fn answer_signed(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        service: Service,
        before: usize,
        out: &mut Output,
    ) {
        let Some(context) = self.context(key) else { return };
        let Some(signed) = context.signed.clone() else {
            let is_ours = out.events.iter().skip(before).any(|event| {
                use SignError::{Expired, NotYetValid, Signature};
                let Event::Unsigned { error, .. } = event else { return false };
                matches!(error, Expired { .. } | NotYetValid { .. } | Signature)
            });
            if is_ours {
                return self.respond_local(now, key, request, 503, "Service Unavailable", &[], out);
            }
            self.stats.served_nothing += 1;
            return self.answer_served(now, key, request, service.no_match.unwrap_or(NO_MATCH), &[], out);
        };
        let mut lines = contact(request);
        if let Some(date) = request.field(Name::Date) {
            // The one that the token was made for: the SBC may have dropped it by now.
            push_line(b"Date: ", &date.unfolded(), &mut lines);
        }
        lines.extend_from_slice(&context.lines);
        self.note_signed(key, signed);
        self.stats.served_signed += 1;
        self.answer_served(now, key, request, 302, &lines, out);
    }

    /// The verdict as `verstat` of the caller, in P-Asserted-Identity: of the number that it is about, where that has passed (I-27). What
    /// the policy rejects was answered before.
    fn serve_verdict(&mut self, now: Now, key: ContextKey, request: Message<'_>, service: Service, out: &mut Output) {
        let snapshot = self.snapshot_of(key);
        let Some(context) = self.context(key) else { return };
        let verstat = context.verstat.unwrap_or(Verstat::NotDone);
        let (reasons, verdict) = (std::mem::take(&mut context.reason_lines), context.verdict.clone());
        let trunk = snapshot.config.trunk(context.ingress);
        if let (Verstat::NotDone, Some(status)) = (verstat, service.no_match) {
            self.stats.served_nothing += 1;
            return self.answer_served(now, key, request, status, &reasons, out);
        }
        let policy = trunk.and_then(|trunk| trunk.verify.as_ref());
        let is_asserted = policy.is_some_and(|policy| policy.identity_source == IdentitySource::AssertedThenFrom)
            && trunk.is_some_and(|trunk| trunk.trusted);
        let mut lines = contact(request);
        let plan = &snapshot.config.verifier.dial_plan;
        let mark = verdict.map_or_else(|| Mark::not_done(plan), |verdict| Mark::of(&verdict, false, plan));
        if let Some(value) = caller(request, is_asserted, mark) {
            push_line(b"P-Asserted-Identity: ", &value, &mut lines);
        }
        lines.extend_from_slice(&reasons);
        self.stats.served_verdicts += 1;
        self.answer_served(now, key, request, 302, &lines, out);
    }

    /// The final response; no refusal, whatever its status.
    fn answer_served(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        status: u16,
        lines: &[u8],
        out: &mut Output,
    ) {
        let Some(context) = self.context(key).filter(|context| context.final_status.is_none()) else { return };
        let source = context.source;
        self.note_own_answer(key);
        let tag = self.tag_of(request);
        let mut buffer = Vec::with_capacity(512 + lines.len());
        respond::write(request, source.remote, status, phrase(status), Some(&tag), lines, &mut buffer);
        self.send_final(now, key, status, &buffer, out);
    }
}

/// The caller goes where it wanted to: the Contact of the 302 is the Request-URI.
fn contact(request: Message<'_>) -> Vec<u8> {
    let mut lines = Vec::with_capacity(1024);
    let value = [b"<", request.request_uri(), b">"].concat();
    push_line(b"Contact: ", &value, &mut lines);
    lines
}

fn push_line(name: &[u8], value: &[u8], lines: &mut Vec<u8>) {
    [name, value, b"\r\n"].iter().for_each(|part| lines.extend_from_slice(part));
}

/// Whom the verdict is about, marked: an asserted tel URI before an asserted sip URI before From. Without one that it may be said of, the
/// caller is only named.
fn caller(request: Message<'_>, is_asserted: bool, mark: Mark<'_>) -> Option<Vec<u8>> {
    let values = request.values(Name::PAssertedIdentity).filter(|_| is_asserted).take(2);
    let asserted: Vec<&[u8]> = values.filter_map(|value| Some(NameAddr::parse(value.value).ok()?.uri)).collect();
    let from: Vec<&[u8]> = request.from().iter().map(|from| from.uri).collect();
    let named = || asserted.first().or(from.first()).map(|uri| mark::address(uri));
    mark.address(&asserted).or_else(|| mark.address(&from)).or_else(named)
}

/// The phrase of a status that an operator may choose.
fn phrase(status: u16) -> &'static str {
    match status {
        302 => "Moved Temporarily",
        404 => "Not Found",
        480 => "Temporarily Unavailable",
        503 => "Service Unavailable",
        603 => "Decline",
        _ => "Nothing To Say",
    }
}
