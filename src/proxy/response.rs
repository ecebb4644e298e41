//! Responses: from the branches to the caller (RFC 3261 16.7; sip-proxy ), Timer C (16.8), failed attempts (16.9).

use super::calls::is_own_bye;
use super::failover::{Outcome, Relay503};
use super::redirect::On3xx;
use super::request_context::BranchState;
use super::response_context::Local;
use super::route::target::FLOW_FAILED;
use super::upstream::Kept;
use super::{ContextKey, Event, Now, Output, Proxy, probe};
use crate::sip::{Framing, Message, Name, Via};
use crate::transaction::{ClientId, ResponseMatch, ServerId};

/// RFC 3326 3.1, R-12.
const COMPLETED_ELSEWHERE: &[u8] = b"Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n";

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
            self.note_own_reasons(key, client, response, out);
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

    /// Nobody acknowledged the final response of an INVITE; that response says whose it was.
    pub(super) fn note_unacknowledged(&mut self, server: ServerId, out: &mut Output) {
        let kept = self.layer.unacknowledged(server).unwrap_or_default();
        let mut index = std::mem::take(&mut self.spare_index);
        let message = crate::sip::parse(&kept, &mut index, Framing::Datagram, &self.snapshot.config.parser);
        let call_id = message.ok().and_then(|message| message.call_id()).unwrap_or_default().into();
        out.events.push(Event::Unacknowledged { call_id });
        self.spare_index = index;
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
