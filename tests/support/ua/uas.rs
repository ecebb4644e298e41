//! The called side.

use super::{Successes, T1, T2, answer_at_once, text, write_response};
use crate::support::message::try_message;
use crate::support::network::SimNode;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use vesperd::sip::hop::{Hop, Outbox};
use vesperd::sip::{Message, Method, Name, OwnedMessage};
use vesperd::transaction::timer::Wheel;
use vesperd::transaction::{Config, Layer, RequestMatch, ResponseMatch, ServerId};

/// How a call is to be taken.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Provisional responses, each this long after the INVITE. A 100 goes out at once in any case.
    pub provisional: Vec<(Duration, u16)>,
    /// The final response, this long after the INVITE.
    pub after: Duration,
    /// 0 for none within any caller's patience.
    pub status: u16,
    /// re-INVITE, and BYE, this long after the ACK.
    pub reinvite_after: Option<Duration>,
    pub bye_after: Option<Duration>,
    /// Header lines of 2xx and final responses, each with its CRLF.
    pub lines: String,
    pub body: String,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            provisional: vec![(Duration::from_millis(200), 180)],
            after: Duration::from_secs(3),
            status: 200,
            reinvite_after: None,
            bye_after: None,
            lines: String::new(),
            body: String::new(),
        }
    }
}

impl Answer {
    /// This final status, otherwise as usual.
    pub fn with(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}

/// How far a taken call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenState {
    Ringing,
    /// 2xx sent, no ACK yet.
    Answered,
    /// ACK received.
    Confirmed,
    /// Other final response sent.
    Rejected,
    Cancelled,
    /// 64*T1 without an ACK.
    Unacknowledged,
    /// BYE received.
    HungUp,
}

/// One INVITE received.
#[derive(Debug)]
pub struct Taken {
    pub invite: OwnedMessage,
    pub state: TakenState,
    /// ACKs to the 2xx that arrived.
    pub acks: usize,
    answer: Answer,
    source: Hop,
    server: ServerId,
    tag: String,
    /// The 2xx as sent, and the time until its next copy.
    success: Vec<u8>,
    interval: Duration,
    answered_at: Option<Instant>,
}

impl Taken {
    /// Its Call-ID.
    pub fn call_id(&self) -> String {
        text(self.invite.message().call_id().unwrap_or_default())
    }
}

#[derive(Debug, Clone, Copy)]
enum Alarm {
    Provisional(usize, u16),
    Final(usize),
    SuccessAgain(usize),
    ReInvite(usize),
    Bye(usize),
    ReSuccessAgain(usize),
}

/// After which a callee that says nothing gives up.
const HANGS: Duration = Duration::from_secs(240);

/// A user of a client transaction is the number of the call for its re-INVITE, and one bit more for its BYE.
const BYE: u64 = 1 << 32;

/// A callee at one address.
pub struct Uas {
    address: SocketAddr,
    layer: Layer,
    wheel: Wheel<Alarm>,
    taken: Vec<Taken>,
    successes: Successes,
    /// What is done with the next calls; afterwards `usual`.
    pub answers: VecDeque<Answer>,
    pub usual: Answer,
}

impl Uas {
    pub fn new(address: SocketAddr, usual: Answer, epoch: Instant) -> Self {
        Self {
            address,
            layer: Layer::new(Config::default(), [address.port() as u8; 16], epoch),
            wheel: Wheel::new(epoch),
            taken: Vec::new(),
            successes: Successes::default(),
            answers: VecDeque::new(),
            usual,
        }
    }

    /// All INVITEs received, retransmissions not among them.
    pub fn taken(&self) -> &[Taken] {
        &self.taken
    }

    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    fn receive_invite(&mut self, now: Instant, source: Hop, invite: Message<'_>, out: &mut Outbox) {
        let number = self.taken.len();
        let Ok(server) = self.layer.open_server(now, invite, source, number as u64) else { return };
        let answer = self.answers.pop_front().unwrap_or_else(|| self.usual.clone());
        for (after, status) in &answer.provisional {
            self.wheel.insert(now + *after, Alarm::Provisional(number, *status));
        }
        let after = if answer.status == 0 { HANGS } else { answer.after };
        self.wheel.insert(now + after, Alarm::Final(number));
        self.taken.push(Taken {
            invite: OwnedMessage::from(invite),
            state: TakenState::Ringing,
            acks: 0,
            answer,
            source,
            server,
            tag: format!("uas-{}-{number}", self.address).replace([':', '[', ']'], "."),
            success: Vec::new(),
            interval: T1,
            answered_at: None,
        });
        self.respond(now, number, (100, "Trying"), out);
    }

    fn respond(&mut self, now: Instant, number: usize, status: (u16, &str), out: &mut Outbox) {
        let taken = &mut self.taken[number];
        let invite = taken.invite.message();
        let mut lines = String::new();
        if (101..300).contains(&status.0) {
            for line in invite.fields_of(Name::RecordRoute) {
                lines += &format!("Record-Route: {}\r\n", text(line.value()));
            }
            lines += &format!("Contact: <sip:uas@{}>\r\n", self.address);
        }
        let mut body = "";
        if status.0 >= 200 {
            lines += &taken.answer.lines;
            body = &taken.answer.body;
        }
        let response = write_response(invite, taken.source, status, &taken.tag, (&lines, body));
        self.layer.respond(now, taken.server, status.0, &response, out);
        if (200..300).contains(&status.0) {
            taken.success = response;
        }
    }

    fn answer(&mut self, now: Instant, number: usize, out: &mut Outbox) {
        let taken = &mut self.taken[number];
        if taken.state != TakenState::Ringing {
            return;
        }
        let status = if taken.answer.status == 0 { 480 } else { taken.answer.status };
        taken.state = if status < 300 { TakenState::Answered } else { TakenState::Rejected };
        taken.answered_at = Some(now);
        if status < 300 {
            self.wheel.insert(now + T1, Alarm::SuccessAgain(number));
        }
        self.respond(now, number, (status, "Final"), out);
    }

    /// The UAS core retransmits its 2xx until the ACK comes, whatever the transport (RFC 3261 13.3.1.4).
    fn repeat_success(&mut self, now: Instant, number: usize, out: &mut Outbox) {
        let taken = &mut self.taken[number];
        if taken.state != TakenState::Answered {
            return;
        }
        if taken.answered_at.is_some_and(|at| now >= at + 64 * T1) {
            taken.state = TakenState::Unacknowledged;
            return;
        }
        self.layer.respond(now, taken.server, taken.answer.status, &taken.success, out);
        taken.interval = (2 * taken.interval).min(T2);
        self.wheel.insert(now + taken.interval, Alarm::SuccessAgain(number));
    }

    /// The call an in-dialog request belongs to.
    fn dialog_of(&mut self, request: Message<'_>) -> Option<&mut Taken> {
        let (call_id, tag) = (text(request.call_id()?), text(request.to_tag()?));
        self.taken.iter_mut().find(|taken| taken.call_id() == call_id && taken.tag == tag)
    }

    fn receive_ack(&mut self, now: Instant, ack: Message<'_>) {
        if ack.cseq().is_ok_and(|cseq| cseq.number > 1) {
            return self.successes.acknowledge(ack);
        }
        let Some(taken) = self.dialog_of(ack) else { return };
        taken.acks += 1;
        if matches!(taken.state, TakenState::Answered | TakenState::Unacknowledged) {
            taken.state = TakenState::Confirmed;
            let (answer, tag) = (taken.answer.clone(), taken.tag.clone());
            let number = self.taken.iter().position(|taken| taken.tag == tag).unwrap_or_default();
            let alarms = [(answer.reinvite_after, Alarm::ReInvite(number)), (answer.bye_after, Alarm::Bye(number))];
            for (after, alarm) in alarms {
                if let Some(after) = after {
                    self.wheel.insert(now + after, alarm);
                }
            }
        }
    }

    /// 2xx to re-INVITEs of the peer that nobody has acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.successes.unacknowledged()
    }

    /// A request of our own in the dialog of a call: along its Record-Route, from the top (RFC 3261 12.1.1).
    fn in_dialog(&self, number: usize, method: &str, cseq: u32, branch: &str) -> (Hop, Vec<u8>) {
        let taken = &self.taken[number];
        let invite = taken.invite.message();
        let routes = super::uris_of(invite, Name::RecordRoute);
        let target = super::uris_of(invite, Name::Contact).pop().unwrap_or_default();
        let lines: String = routes.iter().map(|uri| format!("Route: <{uri}>\r\n")).collect();
        let value = |name| text(invite.field(name).map(|field| field.value()).unwrap_or_default());
        let first = routes.first().unwrap_or(&target);
        let hop =
            super::address_of(first.as_bytes()).map_or(taken.source, |to| super::hop_to(taken.source.transport, to));
        let bytes = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/{} {};branch={branch};rport\r\nMax-Forwards: 70\r\n{lines}\
             From: {};tag={}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <sip:uas@{}>\r\n\
             Content-Length: 0\r\n\r\n",
            taken.source.transport.via_token(),
            self.address,
            value(Name::To),
            taken.tag,
            value(Name::From),
            taken.call_id(),
            self.address
        );
        (Hop { connection: None, ..hop }, bytes.into_bytes())
    }

    fn send(&mut self, now: Instant, number: usize, method: Method<'_>, out: &mut Outbox) {
        if self.taken[number].state != TakenState::Confirmed {
            return;
        }
        let is_bye = method == Method::Bye;
        let (name, cseq, user) =
            if is_bye { ("BYE", 102, BYE + number as u64) } else { ("INVITE", 101, number as u64) };
        let Ok((client, branch)) = self.layer.reserve_client(user, 0) else { return };
        let (hop, bytes) = self.in_dialog(number, name, cseq, &text(&branch));
        if is_bye {
            self.taken[number].state = TakenState::HungUp;
        }
        self.layer.send_request(now, client, method, hop, &bytes, out);
    }

    fn receive_response(&mut self, now: Instant, response: Message<'_>, out: &mut Outbox) {
        let ResponseMatch::Deliver { user, .. } = self.layer.receive_response(now, response, out) else { return };
        let is_success = response.status().is_some_and(|status| (200..300).contains(&status));
        if user < BYE && is_success {
            let (hop, ack) = self.in_dialog(user as usize, "ACK", 101, &format!("z9hG4bKreack{user}"));
            out.push(hop, 0, &ack);
        }
    }

    fn receive_other(&mut self, now: Instant, source: Hop, request: Message<'_>, out: &mut Outbox) {
        let is_bye = request.method() == Some(Method::Bye);
        let status = match self.dialog_of(request) {
            Some(taken) => {
                if is_bye {
                    taken.state = TakenState::HungUp;
                }
                (200, "OK")
            }
            None if request.to_tag().is_none() => (200, "OK"),
            None => (481, "Call/Transaction Does Not Exist"),
        };
        answer_at_once(&mut self.layer, now, request, source, status, out);
    }

    fn receive_cancel(&mut self, now: Instant, source: Hop, cancel: Message<'_>, user: u64, out: &mut Outbox) {
        answer_at_once(&mut self.layer, now, cancel, source, (200, "OK"), out);
        let number = user as usize;
        if self.taken[number].state == TakenState::Ringing {
            self.taken[number].state = TakenState::Cancelled;
            self.respond(now, number, (487, "Request Terminated"), out);
        }
    }
}

impl SimNode for Uas {
    fn receive(&mut self, now: Instant, source: Hop, bytes: &[u8], out: &mut Outbox) {
        let Some(received) = try_message(bytes) else { return };
        let request = received.message();
        if !request.is_request() {
            self.receive_response(now, request, out);
            while self.layer.poll_event().is_some() {}
            return;
        }
        match self.layer.receive_request(now, request, out) {
            RequestMatch::New if request.method() == Some(Method::Invite) && self.dialog_of(request).is_some() => {
                let contact = format!("sip:uas@{}", self.address);
                let number = self.successes.answer(&mut self.layer, now, request, source, &contact, out);
                if let Some(number) = number {
                    self.wheel.insert(now + T1, Alarm::ReSuccessAgain(number));
                }
            }
            RequestMatch::New if request.method() == Some(Method::Invite) => {
                self.receive_invite(now, source, request, out);
            }
            RequestMatch::New => self.receive_other(now, source, request, out),
            RequestMatch::Cancel { user, .. } => self.receive_cancel(now, source, request, user, out),
            RequestMatch::UnmatchedCancel => {
                let status = (481, "Call/Transaction Does Not Exist");
                answer_at_once(&mut self.layer, now, request, source, status, out);
            }
            RequestMatch::UnmatchedAck | RequestMatch::Ack2xx { .. } => self.receive_ack(now, request),
            RequestMatch::Absorbed => {}
        }
        while self.layer.poll_event().is_some() {}
    }

    fn transport_failed(&mut self, now: Instant, tag: u64, _out: &mut Outbox) {
        self.layer.transport_failed(now, tag);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.layer.poll_timeout().into_iter().chain(self.wheel.poll_timeout()).min()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.layer.handle_timeout(now, out);
        while self.layer.poll_event().is_some() {}
        while let Some(alarm) = self.wheel.pop_expired(now) {
            match alarm {
                Alarm::Provisional(number, status) if self.taken[number].state == TakenState::Ringing => {
                    self.respond(now, number, (status, "Progress"), out);
                }
                Alarm::Provisional(..) => {}
                Alarm::Final(number) => self.answer(now, number, out),
                Alarm::SuccessAgain(number) => self.repeat_success(now, number, out),
                Alarm::ReInvite(number) => self.send(now, number, Method::Invite, out),
                Alarm::Bye(number) => self.send(now, number, Method::Bye, out),
                Alarm::ReSuccessAgain(number) => {
                    if let Some(after) = self.successes.repeat(&mut self.layer, now, number, out) {
                        self.wheel.insert(now + after, Alarm::ReSuccessAgain(number));
                    }
                }
            }
        }
    }
}
