//! What the proxy tells the table of calls: requests, attempts, answers, ends.

use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use super::dialog::{contact_of, record_routes};
use super::{Call, CallKey, CallRecord, CallState, Dialog, EndedBy, InDialog, Pieces, Side, Signed, Verification};
use crate::passport::Identity;
use crate::proxy::admission::CallGuard;
use crate::proxy::guard::request_hash;
use crate::proxy::neighbours::Source;
use crate::proxy::request_context::{BranchState, RequestContext};
use crate::proxy::{ContextKey, Now, Output, Proxy, Timer, TrunkId};
use crate::sip::hop::Hop;
use crate::sip::text::decimal;
use crate::sip::{Message, Method, Name};
use crate::stir::Verdict;
use crate::transaction::ClientId;

/// The context of a call that has none.
const NO_CONTEXT: ContextKey = ContextKey(u64::MAX);
/// Dialogs of one call that are told apart.
const MAX_DIALOGS: usize = 8;

/// What a request is to a call.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The call.
    pub call: CallKey,
    /// What it does.
    pub role: Role,
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The INVITE that began it.
    Begins,
    /// A request in this dialog of it that may move or refresh it: INVITE, UPDATE.
    Refreshes(usize, Side),
    /// The BYE of this dialog.
    Ends(usize, Side),
}

/// Names a Call-ID in the table.
pub(in crate::proxy) fn call_hash(key: &[u8; 16], request: Message<'_>) -> u64 {
    hash_of_call_id(key, request.call_id().unwrap_or_default())
}

pub(super) fn hash_of_call_id(key: &[u8; 16], call_id: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write_u8(1); // another hash than those over branches
    hasher.write(call_id);
    hasher.finish()
}

/// The Q.850 cause in a Reason (RFC 3326, RFC 6432).
fn q850_of(message: Message<'_>) -> Option<u16> {
    message.values(Name::Reason).find_map(|value| {
        let mut parts = value.value.split(|octet| *octet == b';');
        let protocol = parts.next()?.trim_ascii();
        let cause = || {
            parts.find_map(|part| {
                let (name, number) = part.split_at_checked(part.iter().position(|octet| *octet == b'=')?)?;
                let number = number.get(1..)?.trim_ascii();
                name.trim_ascii().eq_ignore_ascii_case(b"cause").then(|| decimal(number)).flatten()
            })
        };
        protocol.eq_ignore_ascii_case(b"Q.850").then(cause).flatten().and_then(|cause| u16::try_from(cause).ok())
    })
}

impl Proxy {
    /// A request has a context: it begins a call, or is part of one.
    pub(in crate::proxy) fn begin_call(&mut self, now: Now, key: ContextKey, request: Message<'_>, must: bool) {
        let method = request.method();
        let Some(context) = self.context(key) else { return };
        let (is_initial, ingress, from) = (context.is_initial, context.ingress, context.source.remote.ip());
        if method == Some(Method::Invite) && is_initial {
            if must || self.calls.len() < self.snapshot.config.max_calls {
                self.open_call(now, key, request);
            }
            let is_observed = self.context(key).is_some_and(|context| context.part.is_some());
            self.stats.unobserved_calls += u64::from(!must && !is_observed); // one that must be is refused
            return;
        }
        let Some(InDialog { call, place, side, .. }) = self.in_dialog(request, ingress, from) else { return };
        let longest = self.snapshot.config.guard.longest_call;
        let role = match method {
            Some(Method::Bye) => Some(Role::Ends(place, side)),
            Some(Method::Invite | Method::Update) => Some(Role::Refreshes(place, side)),
            _ => None,
        };
        if let Some(entry) = self.calls.get_mut(call) {
            entry.until = now.instant + longest;
            let number = request.cseq().map_or(0, |cseq| cseq.number);
            entry.dialogs.get_mut(place).into_iter().for_each(|dialog| dialog.saw(side, number));
            if let Some(Role::Ends(..)) = role {
                entry.cause = q850_of(request).or(entry.cause);
                if entry.dialogs.iter().enumerate().all(|(i, dialog)| i == place || dialog.has_ended()) {
                    entry.state = CallState::Ending;
                }
            }
        }
        if let Some(context) = self.context(key) {
            context.part = role.map(|role| Part { call, role });
        }
    }

    /// Takes a call into the table, unless its Call-ID has too many there.
    fn open_call(&mut self, now: Now, key: ContextKey, request: Message<'_>) {
        if !self.calls.has_room_for(call_hash(&self.key, request)) {
            return;
        }
        let Some((source, ingress)) = self.context(key).map(|context| (context.source, context.ingress)) else {
            return;
        };
        let call = self.new_call(now.instant, key, source, Some(ingress), request);
        if let Some(call) = self.calls.insert(call)
            && let Some(context) = self.context(key)
        {
            context.part = Some(Part { call, role: Role::Begins });
        }
    }

    fn new_call(
        &self,
        now: Instant,
        context: ContextKey,
        source: Hop,
        ingress: Option<TrunkId>,
        invite: Message<'_>,
    ) -> Box<Call> {
        let from = invite.field(Name::From).map(|field| field.unfolded()).unwrap_or_default();
        let contact = contact_of(invite).unwrap_or_default();
        let pieces = [
            invite.call_id().unwrap_or_default(),
            &from,
            invite.from_tag().unwrap_or_default(),
            &contact,
            &record_routes(invite),
            invite.request_uri(),
        ];
        Box::new(Call {
            serial: 0,
            hash: call_hash(&self.key, invite),
            cseq: invite.cseq().map_or(0, |cseq| cseq.number),
            context,
            state: CallState::Trying,
            source,
            ingress,
            egress: None,
            next: None,
            attempts: 0,
            started: now,
            rang: None,
            answered: None,
            until: now + self.snapshot.config.guard.longest_call,
            session: None,
            unacknowledged: None,
            timer: None,
            status: 0,
            is_own_answer: false,
            cancelled: false,
            is_condemned: false,
            cause: None,
            verification: Verification::default(),
            connection: (Verification::default(), None),
            signed: None,
            invite: Pieces::of(pieces),
            dialogs: Vec::new(),
            guards: Vec::new(),
        })
    }

    /// An INVITE was refused without state: a call too, if a short one. Copies of it get the same answer, and no second record.
    pub(in crate::proxy) fn record_refusal(
        &mut self,
        source: Source,
        request: Message<'_>,
        status: u16,
        out: &mut Output,
    ) {
        let config = &self.snapshot.config;
        let is_initial = request.method() == Some(Method::Invite) && request.to_tag().is_none();
        if !config.records || !is_initial || !self.refused.is_new(request_hash(&self.key, request)) {
            return;
        }
        let now = self.watch.now;
        let mut call = self.new_call(now, NO_CONTEXT, source.hop, source.trunk, request);
        (call.status, call.is_own_answer) = (status, true);
        let record = CallRecord { call, ended: now, ended_by: EndedBy::Refusal };
        self.meters.call(&record);
        out.records.push(record);
    }

    /// The call that a request began, if it is observed.
    pub(in crate::proxy) fn call_begun_by(&mut self, key: ContextKey) -> Option<&mut Call> {
        let part = self.context(key)?.part.filter(|part| part.role == Role::Begins)?;
        self.calls.get_mut(part.call)
    }

    /// Keeps what a call counts by until it ends. False if there is no place for it in the table: it must not go on then, or it would be
    /// counted nowhere.
    pub(in crate::proxy) fn hold_call(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        guard: Option<CallGuard>,
    ) -> bool {
        let Some(guard) = guard else { return true };
        if self.context(key).is_some_and(|context| context.part.is_none()) {
            self.open_call(now, key, request);
        }
        match self.call_begun_by(key) {
            Some(call) => call.guards.push(guard),
            None => self.stats.limited += 1,
        }
        self.call_begun_by(key).is_some()
    }

    /// Verification has spoken.
    pub(in crate::proxy) fn note_verdict(&mut self, key: ContextKey, verdict: &Verdict) {
        if let Some(call) = self.call_begun_by(key) {
            call.verification = Verification::of(verdict);
        }
    }

    /// Verification has spoken of the answer, which names this party.
    pub(in crate::proxy) fn note_connection(
        &mut self,
        key: ContextKey,
        verdict: &Verdict,
        party: Option<Identity<'static>>,
    ) {
        if let Some(call) = self.call_begun_by(key) {
            call.connection = (Verification::of(verdict), party);
        }
    }

    /// The request went to a next hop, with this signature of ours.
    pub(in crate::proxy) fn note_attempt(
        &mut self,
        key: ContextKey,
        egress: Option<TrunkId>,
        next: Hop,
        signed: Option<&Arc<Signed>>,
    ) {
        let part = self.context(key).and_then(|context| context.part).filter(|part| part.role == Role::Begins);
        part.into_iter().for_each(|part| self.calls.goes_to(part.call, egress));
        if let Some(call) = self.call_begun_by(key) {
            call.next = Some(next);
            call.signed = signed.cloned();
            call.attempts = call.attempts.saturating_add(1);
        }
    }

    /// The answer to the INVITE carries this signature of ours.
    pub(in crate::proxy) fn note_signed(&mut self, key: ContextKey, signed: Arc<Signed>) {
        if let Some(call) = self.call_begun_by(key) {
            call.signed = Some(signed);
        }
    }

    /// A CANCEL came for the INVITE of a call.
    pub(in crate::proxy) fn note_cancel(&mut self, key: ContextKey, cancel: Message<'_>) {
        if let Some(call) = self.call_begun_by(key) {
            call.cancelled = true;
            call.cause = q850_of(cancel).or(call.cause);
        }
    }

    /// The response that goes upstream now is this element's own.
    pub(in crate::proxy) fn note_own_answer(&mut self, key: ContextKey) {
        if let Some(call) = self.call_begun_by(key) {
            call.is_own_answer = true;
        }
    }

    /// The dialog in the table that a request from this trunk and address belongs to.
    pub(in crate::proxy) fn in_dialog(&self, request: Message<'_>, ingress: TrunkId, from: IpAddr) -> Option<InDialog> {
        let may_be = request.to_tag().is_some() && !self.calls.is_empty();
        may_be.then(|| self.calls.dialog_of(call_hash(&self.key, request), request, ingress, from))?
    }

    /// An ACK to the 2xx of a call came by.
    pub(in crate::proxy) fn note_ack(&mut self, call: CallKey) {
        if let Some(call) = self.calls.get_mut(call) {
            call.unacknowledged = None;
        }
    }

    /// The final response of a branch that goes upstream refuses the INVITE.
    pub(in crate::proxy) fn note_refusal(&mut self, key: ContextKey, response: Message<'_>) {
        if let Some(call) = self.call_begun_by(key) {
            call.cause = q850_of(response).or(call.cause);
        }
    }

    /// A response goes upstream that came from a branch, 101 to 299.
    pub(in crate::proxy) fn note_response(
        &mut self,
        now: Now,
        key: ContextKey,
        client: ClientId,
        response: Message<'_>,
    ) {
        let Some(part) = self.context(key).and_then(|context| context.part) else { return };
        match (response.status().unwrap_or_default(), part.role) {
            (100..=199, Role::Begins) => {
                if let Some(call) = self.calls.get_mut(part.call).filter(|call| call.state == CallState::Trying) {
                    call.state = CallState::Ringing;
                    call.rang = Some(now.instant);
                }
            }
            (200..=299, Role::Begins) => self.note_answered(now, key, part.call, client, response),
            (200..=299, Role::Refreshes(place, side)) => {
                self.note_refreshed(now, key, part.call, (place, side), response)
            }
            _ => {}
        }
    }

    /// A 2xx to the INVITE: a dialog stands, maybe one more (RFC 3261 13.2.2.4).
    fn note_answered(&mut self, now: Now, key: ContextKey, call: CallKey, client: ClientId, response: Message<'_>) {
        let snapshot = self.snapshot_of(key);
        let lifetime = snapshot.config.transaction.lifetime();
        let session = self.session_by(key, response);
        let Some(branch) = self.context(key).and_then(|c| c.branch_mut(client)) else { return };
        let (egress, next, signed) = (branch.egress, branch.next, branch.signed.clone());
        let Some(entry) = self.calls.get_mut(call) else { return };
        let is_known = entry.dialogs.iter().any(|dialog| Some(dialog.tag()) == response.to_tag());
        if !is_known && entry.dialogs.len() < MAX_DIALOGS {
            entry.dialogs.extend(Dialog::of(response, next));
        }
        let is_first = entry.answered.is_none();
        if is_first {
            entry.state = CallState::Answered;
            (entry.answered, entry.status) = (Some(now.instant), response.status().unwrap_or_default());
            (entry.next, entry.signed) = (Some(next), signed);
            entry.unacknowledged = Some(now.instant + lifetime);
            entry.session = session.map(|interval| now.instant + interval);
        }
        if is_first {
            self.calls.goes_to(call, egress);
        }
        self.watch_call(now.instant, call);
    }

    /// A 2xx to an INVITE or UPDATE in the dialog: contacts move, the session goes on (RFC 3261 12.2, RFC 4028 8).
    fn note_refreshed(
        &mut self,
        now: Now,
        key: ContextKey,
        call: CallKey,
        (place, side): (usize, Side),
        response: Message<'_>,
    ) {
        let moved =
            self.with_request(key, |_, request| contact_of(request).map(|contact| contact.into_owned())).flatten();
        let lives = self.session_by(key, response);
        let Some(Call { dialogs, invite, session, .. }) = self.calls.get_mut(call) else { return };
        *session = lives.map(|interval| now.instant + interval);
        if let Some(dialog) = dialogs.get_mut(place) {
            moved.into_iter().for_each(|contact| dialog.moved(invite, side, &contact));
            contact_of(response).into_iter().for_each(|contact| dialog.moved(invite, side.other(), &contact));
        }
        self.watch_call(now.instant, call);
    }

    /// Sets the timer of a call by what can end it first.
    fn watch_call(&mut self, now: Instant, key: CallKey) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let (old, at) = (call.timer.take(), call.deadline().max(now + Duration::from_millis(1)));
        old.into_iter().for_each(|timer| _ = self.timers.cancel(timer));
        let timer = self.timers.insert(at, Timer::Call { call: key });
        if let Some(call) = self.calls.get_mut(key) {
            call.timer = Some(timer);
        }
    }

    /// The timer of a call: it is over, or was put off meanwhile.
    pub(in crate::proxy) fn call_due(&mut self, now: Now, key: CallKey, out: &mut Output) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.timer = None;
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now.instant);
        let why = match () {
            () if is_over(call.session) => EndedBy::SessionExpiry,
            () if is_over(call.unacknowledged) => EndedBy::NoAck,
            () if call.until <= now.instant => EndedBy::Length,
            () => return self.watch_call(now.instant, key),
        };
        self.close_call(now, key, why, out);
    }

    /// A final response goes upstream: it ends a call if it refuses the INVITE or says that the BYE has ended the dialog.
    pub(in crate::proxy) fn count_final(&mut self, now: Now, key: ContextKey, status: u16, out: &mut Output) {
        let Some(context) = self.context(key).filter(|_| status >= 200) else { return };
        let (cancelled, no_answer) = (context.cancelled, has_only_timeouts(context));
        let is_lost = is_lost(context);
        let Some(Part { call, role }) = context.part else { return };
        if role == Role::Begins && status < 300 {
            if self.calls.get(call).is_some_and(|entry| entry.is_condemned) {
                self.hang_up(now, call, out); // the answer crossed the CANCEL
            }
            return;
        }
        match role {
            Role::Begins => {
                context.part = None;
                let Some(entry) = self.calls.get_mut(call) else { return };
                entry.status = status;
                let why = match () {
                    () if entry.is_condemned => EndedBy::Admin,
                    () if cancelled => EndedBy::Cancel,
                    () if entry.is_own_answer && no_answer => EndedBy::Timeout,
                    () => EndedBy::Refusal,
                };
                self.close_call(now, call, why, out);
            }
            Role::Ends(place, side) => {
                context.part = None;
                if is_lost || ends_dialog(status) {
                    self.end_dialog(now, call, place, side, out);
                } else if let Some(entry) = self.calls.get_mut(call).filter(|c| c.state == CallState::Ending) {
                    entry.state = CallState::Answered;
                }
            }
            Role::Refreshes(..) => {}
        }
    }

    /// A request is over: a BYE that nobody answered has ended its dialog all the same, and an INVITE without any final response its
    /// call.
    pub(in crate::proxy) fn count_over(&mut self, now: Now, key: ContextKey, out: &mut Output) {
        let Some(context) = self.context(key).filter(|context| context.final_status.is_none()) else { return };
        match context.part.take() {
            Some(Part { call, role: Role::Ends(place, side) }) => self.end_dialog(now, call, place, side, out),
            Some(Part { call, role: Role::Begins }) => self.close_call(now, call, EndedBy::Timeout, out),
            _ => {}
        }
    }

    /// A dialog has ended; with the last one the call.
    fn end_dialog(&mut self, now: Now, key: CallKey, place: usize, by: Side, out: &mut Output) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.dialogs.get_mut(place).into_iter().for_each(Dialog::end);
        if call.dialogs.iter().all(Dialog::has_ended) {
            let why = if by == Side::Caller { EndedBy::Caller } else { EndedBy::Callee };
            self.close_call(now, key, why, out);
        }
    }

    /// The call is over: what it counted by is given back, its record is told.
    pub(super) fn close_call(&mut self, now: Now, key: CallKey, ended_by: EndedBy, out: &mut Output) {
        let Some(mut call) = self.calls.remove(key) else { return };
        call.timer.take().into_iter().for_each(|timer| _ = self.timers.cancel(timer));
        call.guards.clear();
        let record = CallRecord { call, ended: now.instant, ended_by };
        self.meters.call(&record);
        if self.snapshot.config.records {
            out.records.push(record);
        }
    }
}

/// Whether a dialog is over by this answer to a BYE (RFC 3261 15.1.1, 12.2.1.2). One that was refused otherwise, by whomever, stands at
/// both its ends: who made us think it had ended would talk on uncounted.
fn ends_dialog(status: u16) -> bool {
    matches!(status, 200..=299 | 408 | 481)
}

/// It was sent, and nobody answered: not in time, or because nobody could be reached. For a BYE that is an end, too (15.1.1).
fn is_lost(context: &RequestContext) -> bool {
    let is_unanswered = |state| matches!(state, BranchState::Abandoned | BranchState::Ended(_));
    !context.branches.is_empty() && context.branches.iter().all(|branch| is_unanswered(branch.state))
}

/// No branch gave a final response.
fn has_only_timeouts(context: &RequestContext) -> bool {
    use crate::proxy::response_context::Local;
    context.local_outcome() == Some(Local::Timeout)
}
