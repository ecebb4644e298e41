//! Responses: from the branches to the caller (RFC 3261 16.7; sip-proxy ), Timer C (16.8), failed attempts (16.9).

use std::borrow::Cow;
use std::rc::Rc;

use super::calls::is_own_bye;
use super::failover::{Outcome, Relay503};
use super::redirect::On3xx;
use super::request_context::BranchState;
use super::response_context::{Choice, Local};
use super::route::target::FLOW_FAILED;
use super::trust::Crossing;
use super::{ContextKey, Event, Held, Now, Output, Proxy, overload, probe};
use crate::sip::{Field, Framing, Message, Name, Via, respond};
use crate::stir::reason;
use crate::transaction::{ClientId, ResponseMatch, ServerId};

/// RFC 3326 3.1, R-12.
const COMPLETED_ELSEWHERE: &[u8] = b"Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n";

/// What of a 3xx is left for the caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of it.
    Whole,
    /// These Contacts only.
    Contacts(Vec<u8>),
    /// Nothing: all its Contacts are being tried.
    Nothing,
}

/// A final response of our own.
pub(super) struct Answered<'a> {
    pub status: u16,
    pub phrase: &'a str,
    /// What the log says.
    pub noted: &'static str,
    /// Header lines.
    pub lines: &'a [u8],
}

impl Proxy {
    pub(super) fn handle_response(&mut self, now: Now, response: Message<'_>, out: &mut Output) {
        let ours = response.check_response().is_ok()
            && response.top_via().is_ok_and(|via| self.snapshot.config.own_listener(via.host(), via.port()).is_some()); // T-7
        let matched = if ours {
            self.layer.receive_response(now.instant, response, &mut out.outbox)
        } else {
            ResponseMatch::Unmatched
        };
        match matched {
            ResponseMatch::Deliver { client, user } if probe::is_probe(user) => {
                self.ping_answered(now, user, client, response, out);
            }
            ResponseMatch::Deliver { user, .. } if is_own_bye(user) => {}
            ResponseMatch::Deliver { client, user } => self.deliver(now, ContextKey(user), client, response, out),
            ResponseMatch::Absorbed => {}
            ResponseMatch::Unmatched => self.stats.dropped_responses += 1, // never forwarded statelessly
        }
    }

    fn deliver(&mut self, now: Now, key: ContextKey, client: ClientId, response: Message<'_>, out: &mut Output) {
        let Some(status) = response.status() else { return };
        self.witness(now, response, out);
        if !has_way_back(response) {
            // it is for nobody. A final one ends its branch, or its caller would wait for ever.
            self.stats.dropped_responses += 1;
            return match status {
                100..=199 => {}
                _ => self.branch_ended(now, key, client, Local::Unavailable, out),
            };
        }
        self.take_load(now, key, client, response);
        self.note_answer(now, key, client, status, response, out);
        let Some(context) = self.context(key) else { return };
        let is_invite = context.is_invite;
        let answered = context.final_status.is_some();
        let is_refused = context.final_status.is_some_and(|status| status >= 300);
        let source = context.source.remote;
        let Some(branch) = context.branch_mut(client) else { return };
        let earlier = branch.state;
        match status {
            100..=199 if earlier.has_ended() => {} // the layer sends the CANCEL that waits for it
            100..=199 => {
                branch.rang |= status > 100;
                if earlier == BranchState::Calling {
                    branch.state = BranchState::Proceeding;
                    self.await_final(now, key, client);
                }
                if status > 100 {
                    self.restart_timer_c(now, key, client);
                    if is_invite && !answered {
                        self.forward_response(now, key, client, response, out); // R-5; N-1: no 1xx to a non-INVITE
                    }
                }
            }
            200..=299 => {
                branch.state = BranchState::Final;
                branch.is_answered = true;
                self.stop_timers(key, client);
                self.give_up_plan(key);
                if earlier == BranchState::Abandoned && !is_refused {
                    self.count_late(now, key, client, response);
                }
                if is_invite && is_refused {
                    self.refuse_late(source, response, out);
                } else if is_invite || !answered {
                    self.forward_response(now, key, client, response, out);
                    self.cancel_branches(now, key, COMPLETED_ELSEWHERE, out);
                }
            }
            _ => {
                let timed_out = match earlier {
                    BranchState::Abandoned => status == 487,
                    _ => branch.overdue && status == 487 || !is_invite && status == 408, // N-2: no 408 is relayed
                };
                if timed_out {
                    branch.state = BranchState::Proceeding; // ends below, whatever it was
                    return self.branch_ended(now, key, client, Local::Timeout, out);
                }
                branch.state = BranchState::Final;
                self.stop_timers(key, client);
                self.store(now, key, client, status, response, out);
            }
        }
    }

    /// a 2xx after another final response was sent: nobody could acknowledge it.
    fn refuse_late(&mut self, source: std::net::SocketAddr, response: Message<'_>, out: &mut Output) {
        self.stats.late_answers += 1;
        let call_id = response.call_id().unwrap_or_default().into();
        out.events.push(Event::Refused { call_id, source, status: None, reason: "Answered Too Late" });
    }

    /// Keeps a final response other than 2xx, and moves on: to the next candidate if it allows one, else towards the caller.
    fn store(
        &mut self,
        now: Now,
        key: ContextKey,
        client: ClientId,
        status: u16,
        response: Message<'_>,
        out: &mut Output,
    ) {
        let mut challenges = Vec::new();
        if matches!(status, 401 | 407) {
            let is_challenge = |name| matches!(name, Name::WwwAuthenticate | Name::ProxyAuthenticate);
            for field in response.fields().filter(|field| is_challenge(field.name)) {
                let value = field.unfolded();
                [field.raw_name(), b": ", &value, b"\r\n"].iter().for_each(|part| challenges.extend_from_slice(part));
            }
        }
        let Some(context) = self.context(key) else { return };
        let egress = context.branch_mut(client).and_then(|b| b.egress);
        let trunk = egress.and_then(|id| context.snapshot.config.trunk(id));
        let (relay_503, on_3xx) = trunk.map(|t| (t.relay_503, t.on_3xx)).unwrap_or_default();
        let (sent, kept) = match (status, on_3xx) {
            (503, _) => (relayed(relay_503), Kept::Whole),
            (300..=399, On3xx::Map(other)) => (other, Kept::Whole),
            (300..=399, On3xx::Recurse) => (status, self.follow(now, key, client, response)),
            _ => (status, Kept::Whole),
        };
        if kept != Kept::Nothing {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            self.write_upstream(key, client, response, &[], &kept, &mut buffer);
            if let Some(context) = self.context(key).filter(|c| c.final_status.is_none()) {
                context.responses.store(status, sent, &buffer, challenges);
            }
            self.buffer = buffer;
        }
        if kept != Kept::Whole {
            return self.after_followed(now, key, client, status, out);
        }
        if status == 503 {
            self.stats.failed_attempts += 1;
        }
        if status >= 600 {
            self.give_up_plan(key);
            self.cancel_branches(now, key, &[], out);
        }
        self.after_branch(now, key, client, Outcome::Answered(status), out);
    }

    /// A branch ended without a final response of its own.
    pub(super) fn branch_ended(&mut self, now: Now, key: ContextKey, client: ClientId, how: Local, out: &mut Output) {
        self.stop_timers(key, client);
        let Some(branch) = self.context(key).and_then(|c| c.branch_mut(client)) else { return };
        let how = match how {
            Local::Cancelled if branch.overdue => Local::Timeout,
            Local::Unavailable if branch.is_flow => FLOW_FAILED.into(), // RFC 5626 5.3
            how => how,
        };
        match branch.state {
            BranchState::Final | BranchState::Ended(_) => return,
            BranchState::Abandoned => {
                branch.state = BranchState::Ended(Local::Timeout); // as which it counted before
                return;
            }
            BranchState::Calling => {
                branch.state = BranchState::Ended(how);
                self.note_silence(now, key, client, out);
            }
            BranchState::Proceeding => branch.state = BranchState::Ended(how),
        }
        if how != Local::Cancelled {
            self.stats.failed_attempts += 1;
        }
        self.after_branch(now, key, client, Outcome::Local(how), out);
    }

    /// What follows the end of a branch: the other way to the same place, the next candidates, or the answer upstream.
    pub(super) fn after_branch(
        &mut self,
        now: Now,
        key: ContextKey,
        client: ClientId,
        outcome: Outcome,
        out: &mut Output,
    ) {
        let Some(context) = self.context(key) else { return };
        context.history.ended(client, outcome);
        let may_replace = !context.is_closed() && context.is_in_time(now);
        let left = context.breadth_left();
        let Some(branch) = context.branch_mut(client) else { return };
        let (fallback, mut others, rang) =
            (branch.fallback.take(), std::mem::take(&mut branch.alternates), branch.rang);
        // One that was given up keeps its share (L-5): its successor lives on what is left.
        let share = if branch.state == BranchState::Abandoned { left } else { branch.share };
        let as_sip = branch.as_sip.take().filter(|_| outcome == Outcome::Answered(416));
        let is_failure = match outcome {
            Outcome::Answered(status) => status == 503 || as_sip.is_some(),
            Outcome::Local(local) => matches!(local, Local::Timeout | Local::Unavailable),
        };
        let serves_not = is_failure && !rang;
        if let Some(candidate) = fallback.filter(|_| outcome == Outcome::Local(Local::Unavailable)) {
            others.push_front(*candidate); // T-5
        }
        if let Some(candidate) = as_sip {
            others.push_front(*candidate); // the other addresses would get the URI that was refused
        }
        if may_replace && serves_not && !others.is_empty() && self.replace(now, key, others, share, out) {
            return; // D-5, RFC 3263 4.3
        }
        let Some(context) = self.context(key) else { return };
        context.note(client, outcome);
        self.count_branch_end(key, client);
        let Some(context) = self.context(key) else { return };
        context.forget_if_done();
        if context.final_status.is_none() && !context.is_pending() {
            self.conclude(now, key, out);
        }
    }

    /// No candidate is tried or located any more.
    fn give_up_plan(&mut self, key: ContextKey) {
        self.unpark(key);
        if let Some(context) = self.context(key) {
            context.plan.clear();
        }
    }

    /// The best response goes upstream. `request` is the request if it is at hand.
    pub(super) fn finish(&mut self, now: Now, key: ContextKey, request: Option<Message<'_>>, out: &mut Output) {
        let Some(context) = self.context(key).filter(|c| c.final_status.is_none()) else { return };
        let (is_invite, local, cancelled) = (context.is_invite, context.local_outcome(), context.cancelled);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let Some(context) = self.context(key) else { return };
        let choice = match context.responses.choose(local) {
            Choice::Received { status, bytes, challenges, sent } => {
                buffer.extend_from_slice(bytes);
                Ok((status, challenges.to_vec(), sent))
            }
            Choice::Local(_) if cancelled => Err(Local::Cancelled), // K-5: however its branches ended
            Choice::Local(local) => Err(local),
        };
        match choice {
            Ok((status, challenges, sent)) => {
                self.send_stored(now, key, (status, sent), &challenges, &buffer, out);
            }
            Err(Local::Timeout) if !is_invite => {} // N-2: silence, RFC 4320 4.2
            Err(local) => {
                let (status, reason) = match local {
                    Local::Timeout => (408, "Request Timeout"),
                    Local::Unavailable => (500, "Server Internal Error"),
                    Local::Cancelled => (487, "Request Terminated"),
                    Local::Refused { status, reason } => (status, reason),
                };
                match request {
                    Some(request) => self.respond_local(now, key, request, status, reason, &[], out),
                    None => {
                        self.with_request(key, |proxy, request| {
                            proxy.respond_local(now, key, request, status, reason, &[], out);
                        });
                    }
                }
            }
        }
        self.buffer = buffer;
    }

    /// Sends a stored final response with the challenges of other branches, under another status if that is wanted: then
    /// without Retry-After.
    fn send_stored(
        &mut self,
        now: Now,
        key: ContextKey,
        (status, sent): (u16, u16),
        challenges: &[u8],
        bytes: &[u8],
        out: &mut Output,
    ) {
        let mut index = std::mem::take(&mut self.spare_index);
        let limits = self.snapshot_of(key).config.parser.clone();
        if let Ok(response) = crate::sip::parse(bytes, &mut index, Framing::Datagram, &limits) {
            self.patch.clear();
            if sent != status {
                let line = format!("SIP/2.0 {sent} {}\r\n", reason_phrase(sent));
                self.patch.replace(0..response.headers_start(), line.as_bytes());
                let goes = |field: &Field<'_>| {
                    field.name == Name::RetryAfter || field.name == Name::Contact && status / 100 == 3
                };
                response.fields().filter(goes).for_each(|field| self.patch.remove(field.line));
            }
            self.note_refusal(key, response);
            let own = self.context(key).map(|c| std::mem::take(&mut c.reason_lines)).unwrap_or_default();
            let mut reasons = Vec::new();
            reason::write_missing(&own, response, &mut reasons);
            self.patch.insert(response.headers_end(), challenges);
            self.patch.insert(response.headers_end(), &reasons);
            let mut ready = Vec::with_capacity(bytes.len() + reasons.len() + challenges.len());
            self.patch.write(bytes, &mut ready);
            self.spare_index = index;
            return self.send_final(now, key, sent, &ready, out);
        }
        self.spare_index = index;
        self.with_request(key, |proxy, request| {
            proxy.respond_local(now, key, request, 500, "Server Internal Error", &[], out);
        });
    }

    /// Forwards a response at once: our Via removed, the Reason values of this call added (RFC 9410 4).
    fn forward_response(
        &mut self,
        now: Now,
        key: ContextKey,
        client: ClientId,
        response: Message<'_>,
        out: &mut Output,
    ) {
        let Some(status) = response.status() else { return };
        self.note_response(now, key, client, response);
        let Some(context) = self.context(key) else { return };
        // E-3: the first provisional response tells, and the final one again, as that may have been lost.
        let tells = status >= 200 || !std::mem::replace(&mut context.has_told_reasons, true);
        let mut reasons = Vec::new();
        if tells {
            reason::write_missing(&context.reason_lines, response, &mut reasons);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.write_upstream(key, client, response, &reasons, &Kept::Whole, &mut buffer);
        self.send_final(now, key, status, &buffer, out);
        self.buffer = buffer;
    }

    /// Writes a response without its top Via value (R-3, V-6), with one Content-Length (F-9).
    fn write_upstream(
        &mut self,
        key: ContextKey,
        client: ClientId,
        response: Message<'_>,
        lines: &[u8],
        kept: &Kept,
        buffer: &mut Vec<u8>,
    ) {
        let told = self.load_told(key, response);
        self.patch.clear();
        if let Some((snapshot, crossing)) = self.crossing_back(key, client) {
            crossing.write(response, |host| snapshot.config.is_own_host(host), &mut self.patch);
        }
        if !self.context(key).is_some_and(|context| context.asks_history) {
            response.fields_of(Name::HistoryInfo).for_each(|field| self.patch.remove(field.line));
        }
        if let Kept::Contacts(contacts) = kept {
            response.fields_of(Name::Contact).for_each(|field| self.patch.remove(field.line));
            self.patch.insert_with(response.headers_end(), |buf| {
                buf.extend_from_slice(b"Contact: ");
                buf.extend_from_slice(contacts);
                buf.extend_from_slice(b"\r\n");
            });
        }
        response.pop_values(Name::Via, 1, &mut self.patch);
        overload::params::rewrite(response, 1, told.as_ref(), &mut self.patch);
        self.answer_keep(key, response);
        self.patch.insert(response.headers_end(), lines);
        self.add_session(key, response);
        response.settle_content_length(&mut self.patch);
        response.repair(None, &mut self.patch); // last, as in requests
        self.patch.write(response.bytes(), buffer);
    }

    /// From the trunk of a branch back to the one the request came from.
    fn crossing_back(&mut self, key: ContextKey, client: ClientId) -> Option<(Rc<Held>, Crossing)> {
        let context = self.context(key)?;
        let (ingress, egress) = (context.ingress, context.branch_mut(client)?.egress);
        let snapshot = Rc::clone(&context.snapshot);
        let crossing = snapshot.config.crossing(egress, Some(ingress));
        Some((snapshot, crossing))
    }

    /// Hands a response to the server transaction and remembers that it was final.
    fn send_final(&mut self, now: Now, key: ContextKey, status: u16, bytes: &[u8], out: &mut Output) {
        let Some(context) = self.context(key) else { return };
        let server = context.server;
        let answered =
            (status >= 200 && context.final_status.is_none()).then_some((context.is_invite, context.arrived));
        if status >= 200 {
            let is_first = context.final_status.replace(status).is_none();
            context.forget_if_done();
            self.unanswered -= usize::from(is_first);
        }
        // without a server transaction (Timer L is over) a late 2xx is discarded.
        if let Some(server) = server {
            self.layer.respond(now.instant, server, status, bytes, &mut out.outbox);
            self.stats.responses += 1;
            self.meters.sent(status);
        }
        if let Some((is_invite, arrived)) = answered {
            self.meters.answered(is_invite, now.instant.saturating_duration_since(arrived));
        }
        self.count_final(now, key, status, out);
    }

    /// A final response of our own, through the server transaction.
    #[allow(clippy::too_many_arguments)] // one response, spelled out
    pub(super) fn respond_local(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        status: u16,
        reason: &'static str,
        lines: &[u8],
        out: &mut Output,
    ) {
        self.respond_as(now, key, request, Answered { status, phrase: reason, noted: reason, lines }, out);
    }

    /// The same, with a phrase that is the operator's.
    pub(super) fn respond_as(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        answer: Answered<'_>,
        out: &mut Output,
    ) {
        let Some(context) = self.context(key).filter(|c| c.final_status.is_none()) else { return };
        let (source, ingress) = (context.source, context.ingress);
        let reasons = std::mem::take(&mut context.reason_lines);
        self.stats.refused += 1;
        self.note_own_answer(key);
        let Answered { status, phrase, noted, lines } = answer;
        let lines = &*if reasons.is_empty() { Cow::Borrowed(lines) } else { Cow::Owned([lines, &reasons].concat()) };
        let call_id = request.call_id().unwrap_or_default().into();
        out.events.push(Event::Refused { call_id, source: source.remote, status: Some(status), reason: noted });
        let tag = self.tag_of(request);
        let mut buffer = Vec::with_capacity(512);
        respond::write(request, source.remote, status, phrase, Some(&tag), lines, &mut buffer);
        let told = self.load_for(source, Some(ingress), request.reply_via());
        told.iter().for_each(|told| overload::params::mark(&mut buffer, 0, told));
        self.send_final(now, key, status, &buffer, out);
    }

    /// Nobody acknowledged the final response of an INVITE; that response says whose it was.
    pub(super) fn note_unacknowledged(&mut self, server: ServerId, out: &mut Output) {
        let kept = self.layer.unacknowledged(server).unwrap_or_default();
        let mut index = std::mem::take(&mut self.spare_index);
        let message = crate::sip::parse(&kept, &mut index, Framing::Datagram, &self.snapshot.config.parser);
        let call_id = message.ok().and_then(|message| message.call_id()).unwrap_or_default().into();
        out.events.push(Event::Unacknowledged { call_id });
        self.spare_index = index;
    }

    /// 100 for an INVITE, at once (P-4).
    pub(super) fn respond_trying_to(&mut self, now: Now, key: ContextKey, request: Message<'_>, out: &mut Output) {
        let Some(context) = self.context(key) else { return };
        let (source, ingress, Some(server)) = (context.source, context.ingress, context.server) else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        respond::write(request, source.remote, 100, "Trying", None, &[], &mut buffer);
        let told = self.load_for(source, Some(ingress), request.reply_via());
        told.iter().for_each(|told| overload::params::mark(&mut buffer, 0, told));
        self.meters.sent(100);
        self.layer.respond(now.instant, server, 100, &buffer, &mut out.outbox);
        self.buffer = buffer;
    }

    /// 100 for a non-INVITE whose answer takes long (N-1).
    pub(super) fn respond_trying(&mut self, now: Now, key: ContextKey, out: &mut Output) {
        self.with_request(key, |proxy, request| proxy.respond_trying_to(now, key, request, out));
    }
}

/// Behind our own Via there is one that can be read: the caller's, or that of a proxy on the way to it.
fn has_way_back(response: Message<'_>) -> bool {
    response.values(Name::Via).nth(1).is_some_and(|value| Via::parse(value.value).is_ok())
}

/// The status that goes upstream for a 503.
fn relayed(policy: Relay503) -> u16 {
    match policy {
        Relay503::Rewrite500 => 500,
        Relay503::Pass => 503,
        Relay503::Map(status) => status,
    }
}

/// Phrases of the statuses a 503 is likely turned into (RFC 3261 21).
fn reason_phrase(status: u16) -> &'static str {
    match status {
        404 => "Not Found",
        480 => "Temporarily Unavailable",
        500 => "Server Internal Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        _ => "Not Served",
    }
}
