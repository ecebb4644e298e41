//! Requests: from the packet to the first attempt at a next hop (RFC 3261 16.3 to 16.6), CANCEL and ACK (16.10, 16.11).

use std::hash::Hasher;
use std::net::SocketAddr;

use siphasher::sip::SipHasher13;

use super::admission::{CallGuard, TrunkLimits};
use super::guard::UNCOUNTED;
use super::history::{self, History};
use super::neighbours::Source;
use super::plan::Plan;
use super::request_context::RequestContext;
use super::response_context::ResponseContext;
use super::route::table::Verified;
use super::route::target::{Decline, Known};
use super::route::{preprocess, target};
use super::session_timer::{self, TooSmall};
use super::upstream::Answered;
use super::validate::{self, Valid};
use super::{ContextKey, Now, Output, Proxy, TrunkId, loop_check};
use crate::sip::hop::{Hop, Transport};
use crate::sip::{Message, Method, Refusal, Via, respond};
use crate::transaction::RequestMatch;

/// What an OPTIONS to this element itself learns (RFC 3261 11.2): a proxy passes any method, so none is listed as refused.
const OPTIONS_LINES: &[u8] = b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, PRACK, UPDATE, INFO, MESSAGE, REFER, NOTIFY, SUBSCRIBE, PUBLISH\r\nAccept: application/sdp\r\nSupported: \r\n";

impl Proxy {
    pub(super) fn handle_request(&mut self, now: Now, source: Source, request: Message<'_>, out: &mut Output) {
        if let Err(refusal) = request.check_request() {
            return self.refuse(source, request, refusal, &[], out);
        }
        match self.layer.receive_request(now.instant, request, &mut out.outbox) {
            RequestMatch::New => self.new_request(now, source, request, out),
            RequestMatch::Absorbed => {}
            RequestMatch::Cancel { user, .. } => self.cancel(now, source, ContextKey(user), request, out),
            RequestMatch::UnmatchedCancel if self.snapshot.config.forward_unmatched_cancel => {
                self.forward_stateless(now, source, request, out);
            }
            RequestMatch::UnmatchedCancel => {
                self.refuse(source, request, Refusal::new(481, "Call/Transaction Does Not Exist"), &[], out); // K-4
            }
            RequestMatch::UnmatchedAck if self.is_ack_of_refusal(request) => {} // section 14
            RequestMatch::Ack2xx { .. } | RequestMatch::UnmatchedAck => {
                self.forward_stateless(now, source, request, out)
            }
        }
    }

    fn new_request(&mut self, now: Now, source: Source, request: Message<'_>, out: &mut Output) {
        let snapshot = self.snapshot.clone();
        if self.sheds(now, source, request) {
            return self.shed(source, request, out);
        }
        let hash = loop_check::loop_hash(&self.key, request, source, &snapshot.config);
        let valid = match validate::validate(&snapshot.config, request, hash) {
            Ok(valid) => valid,
            Err(invalid) => return self.refuse(source, request, invalid.refusal, &invalid.line, out),
        };
        let breadth = match validate::max_breadth(&snapshot.config, request) {
            Ok(breadth) => breadth,
            Err(refusal) => return self.refuse(source, request, refusal, &[], out),
        };
        let ingress = match self.recognise(now, source, request, out) {
            Ok(ingress) => ingress,
            Err(invalid) => return self.refuse(source, request, invalid.refusal, &invalid.line, out),
        };
        self.witness(now, request, out);
        if self.is_draining && begins_something(request, &valid) {
            return self.refuse(source, request, Refusal::new(503, "Going Down"), &[], out);
        }
        if valid == Valid::OptionsToSelf {
            return self.respond_stateless(source, request, 200, "OK", OPTIONS_LINES, out);
        }
        let timer = snapshot.config.trunk(ingress).and_then(|trunk| trunk.session_timer);
        let session = match timer.map_or(Ok(None), |timer| session_timer::treat(timer, request)) {
            Ok(session) => session,
            Err(TooSmall { min_se }) => {
                let line = format!("Min-SE: {min_se}\r\n");
                let refusal = Refusal::new(422, "Session Interval Too Small");
                return self.refuse(source, request, refusal, line.as_bytes(), out);
            }
        };
        let admitted = match self.admit_call(now, ingress, request) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refuse(source, request, refusal, &[], out),
        };
        let is_over_limit = admitted.as_ref().is_some_and(CallGuard::is_over);
        let counts = |limits: &TrunkLimits| limits.counts_calls();
        let admitted = admitted.filter(|_| snapshot.config.guard.limits_of(ingress).is_some_and(counts));
        let Some(key) = self.open_context(now, source, ingress, hash, breadth, request) else {
            self.stats.table_full += 1;
            return self.refuse(source, request, Refusal::new(503, "Service Unavailable"), &[], out);
        };
        if let Some(context) = self.context(key) {
            context.session = session;
            context.is_over_limit = is_over_limit;
        }
        self.begin_call(now, key, request, admitted.is_some());
        if !self.hold_call(now, key, request, admitted) {
            return self.respond_local(now, key, request, UNCOUNTED.status, UNCOUNTED.reason, &[], out);
        }
        self.count_load(now, ingress, source.hop, request);
        self.stats.requests += 1;
        if request.method() == Some(Method::Invite) {
            self.respond_trying_to(now, key, request, out);
        }
        if !self.verify(now, key, request, out) {
            return; // parked, rejected, or on its way already
        }
        self.route(now, key, request, out);
    }

    /// what is left of the tables is for what belongs to a call, BYE before all: a sixteenth.
    fn has_room_for_dialogs_only(&self) -> bool {
        let (servers, clients) = self.layer.live();
        let bounds = &self.snapshot.config.transaction;
        let is_short = |live: usize, bound: usize| live >= bound - bound / 16;
        is_short(servers, bounds.max_server) || is_short(clients, bounds.max_client)
    }

    /// Opens the server transaction and the context of a request.
    fn open_context(
        &mut self,
        now: Now,
        source: Source,
        ingress: TrunkId,
        loop_hash: u64,
        breadth: u16,
        request: Message<'_>,
    ) -> Option<ContextKey> {
        if request.to_tag().is_none() && self.has_room_for_dialogs_only() {
            return None;
        }
        let upstream = upstream_of(source.hop, request.reply_via());
        let slot = self.contexts.vacant_key() as u64;
        let key = ContextKey(self.next_serial() << 32 | slot);
        let server = self.layer.open_server(now.instant, request, upstream, key.0).ok()?;
        self.contexts.insert((
            key,
            RequestContext {
                server: Some(server),
                snapshot: self.snapshot.clone(),
                request: request.bytes().to_vec(),
                arrived: now.instant,
                source: source.hop,
                ingress,
                is_lenient: self.snapshot.config.is_lenient_with(source.trunk),
                is_invite: request.method() == Some(Method::Invite),
                is_initial: request.to_tag().is_none(),
                asks_history: history::is_asked_for(request),
                loop_hash,
                parked: Vec::new(),
                plan: Plan::default(),
                history: History::default(),
                followed: Vec::new(),
                verified: Verified::default(),
                signed_for: None,
                renews_date: false,
                earlier_signatures: Vec::new(),
                verdict: None,
                verstat: None,
                signed: None,
                lines: Vec::new(),
                breadth,
                branches: Vec::with_capacity(1),
                responses: ResponseContext::default(),
                part: None,
                session: None,
                refused: None,
                final_status: None,
                cancelled: false,
                settled: false,
                reason_lines: Vec::new(),
                has_told_reasons: false,
                tokens: None,
                connections: Vec::new(),
                is_over_limit: false,
            },
        ));
        self.unanswered += 1;
        Some(key)
    }

    /// Decides where the request goes and makes the first attempt.
    pub(super) fn route(&mut self, now: Now, key: ContextKey, request: Message<'_>, out: &mut Output) {
        let snapshot = self.snapshot_of(key);
        let Some(context) = self.context(key) else { return };
        if let Some(service) = snapshot.config.trunk(context.ingress).and_then(|trunk| trunk.service) {
            return self.serve(now, key, request, service, out);
        }
        let (ingress, source, verified) = (context.ingress, context.source, context.verified);
        let entry = source.local;
        let found = self.in_dialog(request, ingress, source.remote.ip());
        let known = Known { verified, party: found.map(|found| found.trunk) };
        let chance = self.chance(now, Some(ingress));
        let planned = preprocess::preprocess(&snapshot.config, request, entry).map_err(Decline::from).and_then(|pre| {
            target::decide(&snapshot.config, request, ingress, &pre, chance, known).map(|plan| (pre, plan))
        });
        let (pre, plan) = match planned {
            Ok(planned) => planned,
            Err(decline) => return self.decline(now, key, request, &decline, out),
        };
        if let Some(context) = self.context(key) {
            context.plan = plan;
        }
        self.advance(now, key, request, &pre, out);
    }

    /// Answers a request that goes nowhere.
    fn decline(&mut self, now: Now, key: ContextKey, request: Message<'_>, decline: &Decline, out: &mut Output) {
        let mut lines = Vec::new();
        let (status, phrase, noted) = match decline {
            Decline::Refusal(refusal) => (refusal.status, refusal.reason, refusal.reason),
            Decline::Rejected { status, reason } => (*status, &**reason, "Rejected by Route"),
            Decline::Redirected { status, contact } => {
                lines.extend_from_slice(b"Contact: <");
                lines.extend_from_slice(contact);
                lines.extend_from_slice(b">\r\n");
                let phrase = if *status == 301 { "Moved Permanently" } else { "Moved Temporarily" };
                (*status, phrase, "Redirected by Route")
            }
        };
        self.respond_as(now, key, request, Answered { status, phrase, noted, lines: &lines }, out);
    }

    /// CANCEL for a transaction of ours: answered at once, then every pending branch is cancelled (K-1).
    fn cancel(&mut self, now: Now, source: Source, key: ContextKey, cancel: Message<'_>, out: &mut Output) {
        // The CANCEL has a server transaction of its own, without a context: its user is nobody.
        let upstream = upstream_of(source.hop, cancel.reply_via());
        match self.layer.open_server(now.instant, cancel, upstream, u64::MAX) {
            Ok(server) => {
                let tag = self.tag_of(cancel);
                let mut buffer = std::mem::take(&mut self.buffer);
                buffer.clear();
                respond::write(cancel, source.hop.remote, 200, "OK", Some(&tag), &[], &mut buffer);
                self.meters.sent(200);
                self.layer.respond(now.instant, server, 200, &buffer, &mut out.outbox);
                self.buffer = buffer;
            }
            Err(_) => self.respond_stateless(source, cancel, 200, "OK", &[], out),
        }
        self.note_cancel(key, cancel);
        let mut reasons = Vec::new();
        for field in cancel.fields_of(crate::sip::Name::Reason) {
            reasons.extend_from_slice(b"Reason: ");
            reasons.extend_from_slice(&field.unfolded());
            reasons.extend_from_slice(b"\r\n");
        }
        self.cancel_request(now, key, &reasons, out);
    }

    /// Nobody wants the request answered any more: no further attempt, and every pending branch is cancelled, with these lines.
    pub(super) fn cancel_request(&mut self, now: Now, key: ContextKey, reasons: &[u8], out: &mut Output) {
        let Some(context) = self.context(key) else { return };
        if context.final_status.is_some() {
            return;
        }
        context.cancelled = true;
        self.unpark(key);
        if self.context(key).is_some_and(|c| !c.is_pending()) {
            // Parked or between attempts: nobody else will answer (K-5).
            self.with_request(key, |proxy, request| {
                proxy.respond_local(now, key, request, 487, "Request Terminated", &[], out);
            });
        }
        self.cancel_branches(now, key, reasons, out);
    }

    /// Cancels every branch that has no final response yet.
    pub(super) fn cancel_branches(&mut self, now: Now, key: ContextKey, lines: &[u8], out: &mut Output) {
        let Some(context) = self.context(key) else { return };
        let pending: Vec<_> =
            context.branches.iter().filter(|b| !b.state.has_ended()).filter_map(|b| b.client).collect();
        for client in pending {
            self.layer.cancel(now.instant, client, lines, &mut out.outbox);
        }
    }

    /// The To tag of responses of our own to a request: the same for its retransmissions and its CANCEL, unpredictable to others.
    pub(super) fn tag_of(&self, request: Message<'_>) -> [u8; 16] {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(request.reply_via().branch().unwrap_or_default());
        hasher.write(request.call_id().unwrap_or_default());
        hasher.write(request.from_tag().unwrap_or_default());
        let mut rest = hasher.finish();
        std::array::from_fn(|_| {
            let digit = (rest & 0xf) as u8;
            rest >>= 4;
            if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }
        })
    }
}

/// What a draining element takes no more of: requests outside a dialog that want one, and questions whether it is there.
fn begins_something(request: Message<'_>, valid: &Valid) -> bool {
    let may_begin = matches!(request.method(), Some(Method::Invite | Method::Subscribe | Method::Refer));
    *valid == Valid::OptionsToSelf || may_begin && request.to_tag().is_none()
}

/// Where responses to a request go (T-4): its connection, or the packet's address with the port that was asked for.
/// `maddr` is ignored: obeying it would make a reflector of us.
pub(super) fn upstream_of(source: Hop, via: Via<'_>) -> Hop {
    let sent_by = || via.port().unwrap_or(source.transport.default_port());
    let port = match (source.transport, via.rport()) {
        (Transport::Udp, Some(_)) => source.remote.port(), // RFC 3581 4
        _ => sent_by(),
    };
    Hop { remote: SocketAddr::new(source.remote.ip(), port), ..source }
}
