//! What goes to the caller: the best response of the branches (RFC 3261 16.7 items 6 to 9), one that is forwarded at once, one of our own.

use std::borrow::Cow;
use std::rc::Rc;

use super::response_context::{Choice, Local};
use super::trust::Crossing;
use super::{ContextKey, Event, Held, Now, Output, Proxy, overload};
use crate::sip::{Field, Framing, Message, Name, respond};
use crate::stir::reason;
use crate::transaction::ClientId;

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
    pub(super) fn forward_response(
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
        let mut lines = Vec::new();
        if tells {
            reason::write_missing(&context.reason_lines, response, &mut lines);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.note_own_reasons(key, client, response, out);
        lines.extend(self.connect(now, key, client, response, out));
        self.write_upstream(key, client, response, &lines, &Kept::Whole, &mut buffer);
        self.send_final(now, key, status, &buffer, out);
        self.buffer = buffer;
    }

    /// Writes a response without its top Via value (R-3, V-6), with one Content-Length (F-9).
    pub(super) fn write_upstream(
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
        self.remove_own_reasons(key, response);
        if let Some((snapshot, crossing)) = self.crossing_back(key, client) {
            crossing.write(response, |host| snapshot.config.is_own_host(host), &mut self.patch);
        }
        self.remove_foreign_verdict(key, response);
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
    pub(super) fn send_final(&mut self, now: Now, key: ContextKey, status: u16, bytes: &[u8], out: &mut Output) {
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
