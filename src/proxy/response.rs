//! Responses: from the branches to the caller (RFC 3261 16.7; sip-proxy ), Timer C (16.8), failed attempts (16.9).

use super::request_context::BranchState;
use super::response_context::{Choice, Local};
use super::{ContextKey, Event, Now, Output, Proxy, Timer, has_ended};
use crate::sip::{Framing, Message, Name, respond};
use crate::transaction::{ClientId, ResponseMatch};

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
            ResponseMatch::Deliver { client, user } => self.deliver(now, ContextKey(user), client, response, out),
            ResponseMatch::Absorbed => {}
            ResponseMatch::Unmatched => self.stats.dropped_responses += 1, // never forwarded statelessly
        }
    }

    fn deliver(&mut self, now: Now, key: ContextKey, client: ClientId, response: Message<'_>, out: &mut Output) {
        let Some(status) = response.status() else { return };
        let Some(context) = self.context(key) else { return };
        let is_invite = context.is_invite;
        let answered = context.final_status.is_some();
        let Some(branch) = context.branch_mut(client) else { return };
        match status {
            100..=199 => {
                if branch.state == BranchState::Calling {
                    branch.state = BranchState::Proceeding;
                }
                if status > 100 {
                    self.restart_timer_c(now, key, client);
                    if is_invite && !answered {
                        self.forward_response(now, key, status, response, out); // R-5; N-1: no 1xx to a non-INVITE
                    }
                }
            }
            200..=299 => {
                branch.state = BranchState::Final;
                self.stop_timer_c(key, client);
                if is_invite || !answered {
                    self.forward_response(now, key, status, response, out);
                    self.cancel_branches(now, key, COMPLETED_ELSEWHERE, out);
                }
            }
            _ => {
                branch.state = BranchState::Final;
                self.stop_timer_c(key, client);
                self.store(now, key, status, response, out);
            }
        }
    }

    /// Keeps a final response other than 2xx, and moves on: to the next address after a 503, else towards the caller.
    fn store(&mut self, now: Now, key: ContextKey, status: u16, response: Message<'_>, out: &mut Output) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.write_upstream(response, &[], &mut buffer);
        let sole = self.context(key).is_some_and(|context| {
            context.responses.store(status, &buffer);
            context.final_status.is_none() && !context.is_pending()
        });
        self.buffer = buffer;
        if status == 503 {
            self.stats.failed_attempts += 1;
        }
        if sole {
            self.conclude(now, key, status == 503, out);
        }
    }

    /// A branch ended without a final response of its own.
    pub(super) fn branch_ended(&mut self, now: Now, key: ContextKey, client: ClientId, how: Local, out: &mut Output) {
        self.stop_timer_c(key, client);
        let Some(context) = self.context(key) else { return };
        let Some(branch) = context.branch_mut(client).filter(|b| !has_ended(b.state)) else { return };
        branch.state = BranchState::Ended(how);
        let sole = context.final_status.is_none() && !context.is_pending();
        if how != Local::Cancelled {
            self.stats.failed_attempts += 1;
        }
        if sole {
            self.conclude(now, key, true, out);
        }
    }

    /// All branches have ended: the next address if the failure allows one (K-5, R-6), else the best response.
    fn conclude(&mut self, now: Now, key: ContextKey, may_retry: bool, out: &mut Output) {
        let Some(context) = self.context(key) else { return };
        let retry = may_retry && !context.cancelled && !context.responses.is_global_failure();
        if retry && self.attempt_again(now, key, out) {
            return;
        }
        let Some(context) = self.context(key).filter(|c| c.final_status.is_none()) else { return };
        let (is_invite, local) = (context.is_invite, context.local_outcome());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let Some(context) = self.context(key) else { return };
        let choice = match context.responses.choose(local) {
            Choice::Received { status, bytes } => {
                buffer.extend_from_slice(bytes);
                Ok(status)
            }
            Choice::Local(local) => Err(local),
        };
        match choice {
            Ok(status) => self.send_stored(now, key, status, &buffer, out),
            Err(Local::Timeout) if !is_invite => {} // N-2: silence, RFC 4320 4.2
            Err(local) => {
                let (status, reason) = match local {
                    Local::Timeout => (408, "Request Timeout"),
                    Local::Unavailable => (500, "Server Internal Error"),
                    Local::Cancelled => (487, "Request Terminated"),
                };
                self.with_request(key, |proxy, request| {
                    proxy.respond_local(now, key, request, status, reason, &[], out)
                });
            }
        }
        self.buffer = buffer;
    }

    /// Sends a stored final response; a 503 becomes a 500 without Retry-After.
    fn send_stored(&mut self, now: Now, key: ContextKey, status: u16, bytes: &[u8], out: &mut Output) {
        let mut index = std::mem::take(&mut self.spare_index);
        let limits = self.snapshot.config.parser.clone();
        if let Ok(response) = crate::sip::parse(bytes, &mut index, Framing::Datagram, &limits) {
            let sent = if status == 503 { 500 } else { status };
            self.patch.clear();
            if sent != status {
                self.patch.replace(0..response.headers_start(), b"SIP/2.0 500 Server Internal Error\r\n");
                for field in response.fields_of(Name::RetryAfter) {
                    self.patch.remove(field.line);
                }
            }
            let reasons = self.context(key).map(|c| std::mem::take(&mut c.reason_lines)).unwrap_or_default();
            self.patch.insert(response.headers_end(), &reasons);
            let mut ready = Vec::with_capacity(bytes.len() + reasons.len());
            self.patch.write(bytes, &mut ready);
            self.send_final(now, key, sent, &ready, out);
        }
        self.spare_index = index;
    }

    /// Forwards a response at once: our Via removed, the Reason values of this call added (RFC 9410 4).
    fn forward_response(&mut self, now: Now, key: ContextKey, status: u16, response: Message<'_>, out: &mut Output) {
        let Some(context) = self.context(key) else { return };
        let reasons = std::mem::take(&mut context.reason_lines);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        if self.write_upstream(response, &reasons, &mut buffer) {
            self.send_final(now, key, status, &buffer, out);
        }
        self.buffer = buffer;
        if let Some(context) = self.context(key) {
            context.reason_lines = reasons;
        }
    }

    /// Writes a response without its top Via value (R-3, V-6). False if no Via would be left: it was for us.
    fn write_upstream(&mut self, response: Message<'_>, lines: &[u8], buffer: &mut Vec<u8>) -> bool {
        self.patch.clear();
        response.pop_values(Name::Via, 1, &mut self.patch);
        self.patch.insert(response.headers_end(), lines);
        self.patch.write(response.bytes(), buffer);
        response.values(Name::Via).nth(1).is_some()
    }

    /// Hands a response to the server transaction and remembers that it was final.
    fn send_final(&mut self, now: Now, key: ContextKey, status: u16, bytes: &[u8], out: &mut Output) {
        self.count_final(key, status);
        let Some(context) = self.context(key) else { return };
        if status >= 200 {
            context.final_status = Some(status);
            if !context.is_pending() {
                context.request = Vec::new(); // nothing will be built from it any more
            }
        }
        // without a server transaction (Timer L is over) a late 2xx is discarded.
        if let Some(server) = context.server {
            self.layer.respond(now.instant, server, status, bytes, &mut out.outbox);
            self.stats.responses += 1;
        }
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
        let Some(context) = self.context(key).filter(|c| c.final_status.is_none()) else { return };
        let source = context.source;
        self.stats.refused += 1;
        let call_id = request.call_id().unwrap_or_default().into();
        out.events.push(Event::Refused { call_id, source: source.remote, status: Some(status), reason });
        let tag = self.tag_of(request);
        let mut buffer = Vec::with_capacity(512);
        respond::write(request, source.remote, status, reason, Some(&tag), lines, &mut buffer);
        self.send_final(now, key, status, &buffer, out);
    }

    /// 100 for an INVITE, at once (P-4).
    pub(super) fn respond_trying_to(
        &mut self,
        now: Now,
        key: ContextKey,
        source: crate::sip::hop::Hop,
        request: Message<'_>,
        out: &mut Output,
    ) {
        let Some(server) = self.context(key).and_then(|c| c.server) else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        respond::write(request, source.remote, 100, "Trying", None, &[], &mut buffer);
        self.layer.respond(now.instant, server, 100, &buffer, &mut out.outbox);
        self.buffer = buffer;
    }

    /// 100 for a non-INVITE whose answer takes long (N-1).
    pub(super) fn respond_trying(&mut self, now: Now, key: ContextKey, out: &mut Output) {
        let Some(source) = self.context(key).map(|c| c.source) else { return };
        self.with_request(key, |proxy, request| proxy.respond_trying_to(now, key, source, request, out));
    }

    /// 16.8: a provisional response was seen: CANCEL, and the branch ends by its answer or by K-3; none was seen: as if 408.
    pub(super) fn timer_c(&mut self, now: Now, key: ContextKey, client: ClientId, out: &mut Output) {
        let Some(branch) = self.context(key).and_then(|c| c.branch_mut(client)) else { return };
        branch.timer_c = None;
        match branch.state {
            BranchState::Proceeding => {
                self.layer.cancel(now.instant, client, &[], &mut out.outbox);
            }
            BranchState::Calling => self.branch_ended(now, key, client, Local::Timeout, out),
            BranchState::Final | BranchState::Ended(_) => {}
        }
    }

    /// 101 to 199 restart Timer C, 100 does not.
    fn restart_timer_c(&mut self, now: Now, key: ContextKey, client: ClientId) {
        let after = self.snapshot.config.timer_c;
        let Some(old) = self.context(key).and_then(|c| c.branch_mut(client)).and_then(|b| b.timer_c.take()) else {
            return;
        };
        self.timers.cancel(old);
        let timer = self.timers.insert(now.instant + after, Timer::C { context: key, client });
        if let Some(branch) = self.context(key).and_then(|c| c.branch_mut(client)) {
            branch.timer_c = Some(timer);
        }
    }

    fn stop_timer_c(&mut self, key: ContextKey, client: ClientId) {
        let timer = self.context(key).and_then(|c| c.branch_mut(client)).and_then(|b| b.timer_c.take());
        if let Some(timer) = timer {
            self.timers.cancel(timer);
        }
    }
}
