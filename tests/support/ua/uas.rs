//! The called side.

use super::{T1, T2, answer_at_once, text, write_response};
use crate::support::message::try_message;
use crate::support::network::SimNode;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use vesperd::sip::hop::{Hop, Outbox};
use vesperd::sip::{Message, Method, Name, OwnedMessage};
use vesperd::transaction::timer::Wheel;
use vesperd::transaction::{Config, Layer, RequestMatch, ServerId};

/// How a call is to be taken.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Provisional responses, each this long after the INVITE. A 100 goes out at once in any case.
    pub provisional: Vec<(Duration, u16)>,
    /// The final response, this long after the INVITE.
    pub after: Duration,
    pub status: u16,
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
}

/// A callee at one address.
pub struct Uas {
    address: SocketAddr,
    layer: Layer,
    wheel: Wheel<Alarm>,
    taken: Vec<Taken>,
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
        self.wheel.insert(now + answer.after, Alarm::Final(number));
        self.taken.push(Taken {
            invite: OwnedMessage::from(invite),
            state: TakenState::Ringing,
            acks: 0,
            answer,
            source,
            server,
            tag: format!("uas-{}-{number}", self.address.port()),
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
        let status = taken.answer.status;
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

    fn receive_ack(&mut self, ack: Message<'_>) {
        if let Some(taken) = self.dialog_of(ack) {
            taken.acks += 1;
            if matches!(taken.state, TakenState::Answered | TakenState::Unacknowledged) {
                taken.state = TakenState::Confirmed;
            }
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
            return;
        }
        match self.layer.receive_request(now, request, out) {
            RequestMatch::New if request.method() == Some(Method::Invite) => {
                self.receive_invite(now, source, request, out);
            }
            RequestMatch::New => self.receive_other(now, source, request, out),
            RequestMatch::Cancel { user, .. } => self.receive_cancel(now, source, request, user, out),
            RequestMatch::UnmatchedCancel => {
                let status = (481, "Call/Transaction Does Not Exist");
                answer_at_once(&mut self.layer, now, request, source, status, out);
            }
            RequestMatch::UnmatchedAck | RequestMatch::Ack2xx { .. } => self.receive_ack(request),
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
            }
        }
    }
}
