//! The calling side.

use super::{Successes, T1, address_of, answer_at_once, hop_to, text, uris_of};
use crate::support::message::{Request, try_message};
use crate::support::network::SimNode;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use vesperd::sip::hop::{Hop, Outbox};
use vesperd::sip::{Message, Method, Name, OwnedMessage, Transport};
use vesperd::transaction::timer::Wheel;
use vesperd::transaction::{ClientId, Config, Event, Layer, RequestMatch, ResponseMatch};

/// How a call is to go.
#[derive(Debug, Clone)]
pub struct CallPlan {
    /// Request-URI.
    pub uri: String,
    /// Header lines of the INVITE, each with its CRLF.
    pub lines: String,
    pub body: String,
    /// CANCEL this long after the INVITE.
    pub cancel_after: Option<Duration>,
    /// BYE this long after the answer.
    pub talk: Duration,
    /// re-INVITE this long after the answer.
    pub reinvite_after: Option<Duration>,
    /// CANCEL this long after the INVITE if there is no final response: a caller does not wait for ever.
    pub patience: Duration,
}

impl Default for CallPlan {
    fn default() -> Self {
        Self {
            uri: "sip:bob@biloxi.example".into(),
            lines: String::new(),
            body: String::new(),
            cancel_after: None,
            talk: Duration::from_secs(10),
            reinvite_after: None,
            patience: Duration::from_secs(180),
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Answered, and the BYE got this final response.
    HungUp(u16),
    /// The INVITE got this final response.
    Rejected(u16),
    /// The INVITE got no response (Timer B).
    TimedOut,
    /// Cancelled, and no final response within 64*T1.
    CancelTimedOut,
    /// The BYE got no response (Timer F).
    ByeTimedOut,
    /// The transport could not send.
    Failed,
    /// The callee said BYE.
    HungUpByPeer,
}

/// A dialog: one per To tag of a 2xx (RFC 3261 12.1.2).
#[derive(Debug, Clone)]
struct Dialog {
    tag: String,
    target: String,
    routes: Vec<String>,
    /// Sent again for every retransmitted 2xx (13.2.2.4).
    ack: Vec<u8>,
    ack_hop: Hop,
}

/// A call from its INVITE to its end.
#[derive(Debug)]
pub struct Call {
    plan: CallPlan,
    call_id: String,
    invite: ClientId,
    /// Statuses of all responses to the INVITE that reached the UAC core, in order.
    pub responses: Vec<u16>,
    /// The first final response.
    pub final_response: Option<OwnedMessage>,
    is_cancelled: bool,
    dialogs: Vec<Dialog>,
    /// Final response to the re-INVITE, or 0 while there is none.
    pub reinvited: Option<u16>,
    /// The ACK to its 2xx.
    reinvite_ack: Vec<u8>,
    /// `None` while it lasts.
    pub ending: Option<Ending>,
}

impl Call {
    /// The Call-ID, to find the other half of the call.
    pub fn call_id(&self) -> &str {
        &self.call_id
    }
}

#[derive(Debug, Clone, Copy)]
enum Alarm {
    Cancel(usize),
    HangUp(usize, usize),
    ReInvite(usize),
    SuccessAgain(usize),
}

/// A user of client transactions is twice the number of the call, and one more for its BYE.
const BYE: u64 = 1;
/// Added to it for its re-INVITE.
const REINVITE: u64 = 1 << 32;

/// A caller at one address. Sends INVITEs to one next hop, and in-dialog requests along the route set.
pub struct Uac {
    address: SocketAddr,
    next_hop: Hop,
    layer: Layer,
    wheel: Wheel<Alarm>,
    calls: Vec<Call>,
    acks: u64,
    successes: Successes,
}

impl Uac {
    pub fn new(address: SocketAddr, next_hop: SocketAddr, transport: Transport, epoch: Instant) -> Self {
        let key = [address.port() as u8; 16];
        Self {
            address,
            next_hop: hop_to(transport, next_hop),
            layer: Layer::new(Config::default(), key, epoch),
            wheel: Wheel::new(epoch),
            calls: Vec::new(),
            acks: 0,
            successes: Successes::default(),
        }
    }

    /// All calls in the order they were placed.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Sends the INVITE of a new call; its number.
    pub fn call(&mut self, now: Instant, plan: CallPlan, out: &mut Outbox) -> usize {
        let number = self.calls.len();
        let call_id = format!("call-{number}@{}", self.address);
        let (invite, branch) = self.layer.reserve_client(2 * number as u64, 0).expect("room for a call");
        let request = self.request(&call_id, "INVITE", 1, text(&branch));
        let lines = format!("Contact: <sip:uac@{}>\r\n{}", self.address, plan.lines);
        let bytes = Request { uri: plan.uri.clone(), lines, body: plan.body.clone(), ..request }.to_bytes();
        self.layer.send_request(now, invite, Method::Invite, self.next_hop, &bytes, out);
        let patience = plan.cancel_after.unwrap_or(plan.patience);
        self.wheel.insert(now + patience, Alarm::Cancel(number));
        self.calls.push(Call {
            plan,
            call_id,
            invite,
            responses: Vec::new(),
            final_response: None,
            is_cancelled: false,
            dialogs: Vec::new(),
            reinvited: None,
            reinvite_ack: Vec::new(),
            ending: None,
        });
        number
    }

    fn request(&self, call_id: &str, method: &str, cseq: u32, branch: String) -> Request {
        Request {
            method: method.into(),
            transport: self.next_hop.transport,
            sent_by: self.address.to_string(),
            branch,
            from_tag: format!("from-{call_id}").replace([':', '@', '[', ']'], "."),
            call_id: call_id.into(),
            cseq,
            ..Request::default()
        }
    }

    fn receive_response(&mut self, now: Instant, response: Message<'_>, out: &mut Outbox) {
        let ResponseMatch::Deliver { user, .. } = self.layer.receive_response(now, response, out) else { return };
        let Some(status) = response.status() else { return };
        if user >= REINVITE {
            return self.reinvite_answered((user - REINVITE) as usize, status, out);
        }
        let number = (user / 2) as usize;
        if user % 2 == BYE {
            if status >= 200 {
                self.calls[number].ending.get_or_insert(Ending::HungUp(status));
            }
            return;
        }
        let call = &mut self.calls[number];
        call.responses.push(status);
        if status >= 200 && call.final_response.is_none() {
            call.final_response = Some(OwnedMessage::from(response));
        }
        match status {
            200..=299 => self.acknowledge(now, number, response, out),
            300.. => {
                call.ending.get_or_insert(Ending::Rejected(status));
            }
            _ => {}
        }
    }

    /// ACK to a 2xx: the same again for its copies; a second dialog, or one that was to be cancelled, is ended at once.
    fn acknowledge(&mut self, now: Instant, number: usize, response: Message<'_>, out: &mut Outbox) {
        let tag = text(response.to_tag().unwrap_or_default());
        if let Some(known) = self.calls[number].dialogs.iter().find(|dialog| dialog.tag == tag) {
            out.push(known.ack_hop, 0, &known.ack);
            return;
        }
        let mut routes = uris_of(response, Name::RecordRoute);
        routes.reverse();
        let target = uris_of(response, Name::Contact).pop().unwrap_or_else(|| self.calls[number].plan.uri.clone());
        let ack_hop = self.hop_along(&routes, &target);
        let mut dialog = Dialog { tag, target, routes, ack: Vec::new(), ack_hop };
        self.acks += 1;
        let branch = format!("z9hG4bKack{}", self.acks);
        dialog.ack = self.in_dialog(number, &dialog, "ACK", 1, branch);
        out.push(ack_hop, 0, &dialog.ack);
        let call = &mut self.calls[number];
        call.dialogs.push(dialog);
        let index = call.dialogs.len() - 1;
        let talk = if call.is_cancelled || index > 0 { Duration::ZERO } else { call.plan.talk };
        let reinvite_after = call.plan.reinvite_after.filter(|after| index == 0 && *after < talk);
        self.wheel.insert(now + talk, Alarm::HangUp(number, index));
        if let Some(after) = reinvite_after {
            self.wheel.insert(now + after, Alarm::ReInvite(number));
        }
    }

    /// 2xx to re-INVITEs of the peer that nobody has acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.successes.unacknowledged()
    }

    fn reinvite(&mut self, now: Instant, number: usize, out: &mut Outbox) {
        if self.calls[number].ending.is_some() {
            return;
        }
        let (client, branch) = self.layer.reserve_client(REINVITE + number as u64, 0).expect("room for a re-INVITE");
        let dialog = &self.calls[number].dialogs[0];
        let bytes = self.in_dialog(number, dialog, "INVITE", 2, text(&branch));
        let (hop, ack) = (dialog.ack_hop, self.in_dialog(number, dialog, "ACK", 2, format!("z9hG4bKre{number}")));
        let call = &mut self.calls[number];
        (call.reinvited, call.reinvite_ack) = (Some(0), ack);
        self.layer.send_request(now, client, Method::Invite, hop, &bytes, out);
    }

    fn reinvite_answered(&mut self, number: usize, status: u16, out: &mut Outbox) {
        let call = &mut self.calls[number];
        if (200..300).contains(&status) {
            out.push(call.dialogs[0].ack_hop, 0, &call.reinvite_ack);
        }
        if status >= 200 {
            call.reinvited = Some(status);
        }
    }

    fn hop_along(&self, routes: &[String], target: &str) -> Hop {
        let first = routes.first().map_or(target, String::as_str);
        match address_of(first.as_bytes()) {
            Some(remote) => hop_to(self.next_hop.transport, remote),
            None => self.next_hop,
        }
    }

    fn in_dialog(&self, number: usize, dialog: &Dialog, method: &str, cseq: u32, branch: String) -> Vec<u8> {
        let lines = dialog.routes.iter().map(|uri| format!("Route: <{uri}>\r\n")).collect();
        let request = self.request(&self.calls[number].call_id, method, cseq, branch);
        Request { uri: dialog.target.clone(), to_tag: Some(dialog.tag.clone()), lines, ..request }.to_bytes()
    }

    fn hang_up(&mut self, now: Instant, number: usize, dialog: usize, out: &mut Outbox) {
        if self.calls[number].ending == Some(Ending::HungUpByPeer) {
            return;
        }
        let (bye, branch) = self.layer.reserve_client(2 * number as u64 + BYE, 0).expect("room for a BYE");
        let dialog = &self.calls[number].dialogs[dialog];
        let bytes = self.in_dialog(number, dialog, "BYE", 3, text(&branch));
        let hop = dialog.ack_hop;
        self.layer.send_request(now, bye, Method::Bye, hop, &bytes, out);
    }

    fn receive_request(&mut self, now: Instant, source: Hop, request: Message<'_>, out: &mut Outbox) {
        match self.layer.receive_request(now, request, out) {
            RequestMatch::New => {}
            RequestMatch::Ack2xx { .. } | RequestMatch::UnmatchedAck => return self.successes.acknowledge(request),
            _ => return,
        }
        let call_id = text(request.call_id().unwrap_or_default());
        let call = self.calls.iter_mut().find(|call| call.call_id == call_id);
        let status = match (request.method(), call) {
            (Some(Method::Bye), Some(call)) => {
                call.ending.get_or_insert(Ending::HungUpByPeer);
                (200, "OK")
            }
            (Some(Method::Invite), Some(_)) => {
                let contact = format!("sip:uac@{}", self.address);
                let number = self.successes.answer(&mut self.layer, now, request, source, &contact, out);
                if let Some(number) = number {
                    self.wheel.insert(now + T1, Alarm::SuccessAgain(number));
                }
                return;
            }
            (Some(Method::Options), _) | (_, Some(_)) => (200, "OK"),
            (_, None) => (481, "Call/Transaction Does Not Exist"),
        };
        answer_at_once(&mut self.layer, now, request, source, status, out);
    }

    fn drain(&mut self) {
        while let Some(event) = self.layer.poll_event() {
            let (user, invite, bye) = match event {
                Event::ClientTimedOut { user, .. } => (user, Ending::TimedOut, Ending::ByeTimedOut),
                Event::CancelTimedOut { user, .. } => (user, Ending::CancelTimedOut, Ending::ByeTimedOut),
                Event::ClientFailed { user, .. } => (user, Ending::Failed, Ending::Failed),
                _ => continue,
            };
            if user >= REINVITE {
                self.calls[(user - REINVITE) as usize].reinvited = Some(408);
                continue;
            }
            let ending = if user % 2 == BYE { bye } else { invite };
            self.calls[(user / 2) as usize].ending.get_or_insert(ending);
        }
    }
}

impl SimNode for Uac {
    fn receive(&mut self, now: Instant, source: Hop, bytes: &[u8], out: &mut Outbox) {
        let Some(received) = try_message(bytes) else { return };
        match received.message().is_request() {
            true => self.receive_request(now, source, received.message(), out),
            false => self.receive_response(now, received.message(), out),
        }
        self.drain();
    }

    fn transport_failed(&mut self, now: Instant, tag: u64, _out: &mut Outbox) {
        self.layer.transport_failed(now, tag);
        self.drain();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.layer.poll_timeout().into_iter().chain(self.wheel.poll_timeout()).min()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.layer.handle_timeout(now, out);
        while let Some(alarm) = self.wheel.pop_expired(now) {
            match alarm {
                Alarm::Cancel(number) => {
                    let call = &mut self.calls[number];
                    call.is_cancelled = call.final_response.is_none();
                    self.layer.cancel(now, call.invite, b"", out);
                }
                Alarm::HangUp(number, dialog) => self.hang_up(now, number, dialog, out),
                Alarm::ReInvite(number) => self.reinvite(now, number, out),
                Alarm::SuccessAgain(number) => {
                    if let Some(after) = self.successes.repeat(&mut self.layer, now, number, out) {
                        self.wheel.insert(now + after, Alarm::SuccessAgain(number));
                    }
                }
            }
        }
        self.drain();
    }
}
