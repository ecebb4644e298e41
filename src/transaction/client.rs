//! The client transactions: matching of responses, and the actions of both client tables.

use super::alarms::{Alarm, Alarms, Owner, Started};
use super::branch::{Branch, BranchCodec, Nonce};
use super::hop_by_hop::{write_ack, write_cancel};
use super::machine::{Action, Class, ClientInput, Pace, Report, Row, Timer, go};
use super::{CancelResult, ClientId, Event, Place, ResponseMatch, Shared, TableFull};
use super::{client_invite, client_non_invite, first_serial, next_serial};
use crate::sip::hop::{Hop, Outbox};
use crate::sip::{Message, Method};
use siphasher::sip::SipHasher13;
use slab::Slab;
use std::hash::Hasher;
use std::net::SocketAddr;
use std::time::Instant;

#[derive(Debug, Clone, Copy)]
enum Machine {
    Invite(client_invite::State),
    NonInvite(client_non_invite::State),
}

/// Where an INVITE stands with its CANCEL.
#[derive(Debug)]
enum Cancel {
    /// Nobody wants one.
    No,
    /// To be sent on the first provisional response, with these lines.
    Wished(Vec<u8>),
    /// Sent; its transaction has this index.
    Running(u32),
    /// Sent, and its transaction is over.
    Over,
    /// This transaction is itself the CANCEL of the INVITE at this index.
    Of(u32),
}

#[derive(Debug)]
struct Client {
    serial: u32,
    user: u64,
    nonce: Nonce,
    /// `None` until the request is sent.
    sent: Option<Sent>,
    alarms: Alarms,
    cancel: Cancel,
}

/// What is known once the request has left.
#[derive(Debug)]
struct Sent {
    machine: Machine,
    /// Keyed hash of the method, which a response must repeat in its CSeq.
    method: u64,
    hop: Hop,
    /// The request; after a 300-699 to an INVITE its ACK; empty when neither can be needed any more.
    kept: Vec<u8>,
}

/// What a row's actions work on besides the transaction.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Nothing,
    Request(&'a [u8]),
    Response(Message<'a>),
}

/// All client transactions of a layer.
#[derive(Debug)]
pub(super) struct Clients {
    entries: Slab<Client>,
    serial: u32,
    /// CANCELs among the entries.
    cancels: usize,
    codec: BranchCodec,
    key: [u8; 16],
    /// Memory for the CANCEL being written.
    scratch: Vec<u8>,
}

impl Clients {
    pub(super) fn new(key: [u8; 16]) -> Self {
        let serial = first_serial(key);
        Self { entries: Slab::new(), serial, cancels: 0, codec: BranchCodec::new(key), key, scratch: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn reserve(
        &mut self,
        shared: &mut Shared,
        user: u64,
        loop_hash: u64,
    ) -> Result<(ClientId, Branch), TableFull> {
        let limit = shared.config.max_client;
        if self.entries.len() - self.cancels >= limit {
            shared.stats.table_full += 1;
            return Err(TableFull { limit });
        }
        let nonce = self.codec.next_nonce(loop_hash);
        let id = self.insert(user, nonce, Cancel::No).id();
        Ok((ClientId(id), self.codec.encode(id, nonce)))
    }

    fn insert(&mut self, user: u64, nonce: Nonce, cancel: Cancel) -> Place {
        let serial = next_serial(&mut self.serial);
        let client = Client { serial, user, nonce, sent: None, alarms: Alarms::default(), cancel };
        Place { index: self.entries.insert(client) as u32, serial }
    }

    #[allow(clippy::too_many_arguments)] // the public call's, and what the layer shares
    pub(super) fn send(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        id: ClientId,
        method: Method<'_>,
        hop: Hop,
        request: &[u8],
        out: &mut Outbox,
    ) {
        let method_hash = self.method_hash(method);
        let Some((index, client)) = self.get_mut(id) else { return };
        if client.sent.is_some() {
            return;
        }
        let (machine, actions) = match method {
            Method::Invite => (Machine::Invite(client_invite::START.first), client_invite::START.actions),
            _ => (Machine::NonInvite(client_non_invite::START.first), client_non_invite::START.actions),
        };
        client.sent = Some(Sent { machine, method: method_hash, hop, kept: Vec::new() });
        shared.stats.clients += 1;
        self.perform(shared, now, index, go(actions, machine), Subject::Request(request), out);
    }

    pub(super) fn release(&mut self, shared: &mut Shared, id: ClientId) {
        if let Some((index, client)) = self.get_mut(id)
            && client.sent.is_none()
        {
            self.remove(shared, index);
        }
    }

    pub(super) fn receive(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        response: Message<'_>,
        out: &mut Outbox,
    ) -> ResponseMatch {
        let (Some(index), Some(class)) = (self.find(response), response.status().and_then(Class::of)) else {
            shared.stats.unmatched_responses += 1;
            return ResponseMatch::Unmatched;
        };
        let place = self.entries.get(index as usize).map(|client| (client.serial, client.user, client.sent.as_ref()));
        if let (Class::Success, Some((_, _, Some(sent)))) = (class, place)
            && matches!(sent.machine, Machine::Invite(client_invite::State::Completed))
        {
            shared.stats.success_after_failure += 1;
        }
        let place = place.map(|(serial, user, _)| (Place { index, serial }.id(), user));
        match (self.drive(shared, now, index, class.into(), Subject::Response(response), out), place) {
            (true, Some((id, user))) => ResponseMatch::Deliver { client: ClientId(id), user },
            _ => ResponseMatch::Absorbed,
        }
    }

    /// RFC 3261 17.1.3: the branch, whole, and the method of the CSeq; a CANCEL shares the branch of its INVITE.
    fn find(&self, response: Message<'_>) -> Option<u32> {
        self.find_by(response.reply_via().branch()?, response.cseq().ok()?.method)
    }

    fn find_by(&self, branch: &[u8], method: Method<'_>) -> Option<u32> {
        let (id, nonce) = self.codec.decode(branch)?;
        let Place { index, serial } = Place::of(id);
        let client = self.entries.get(index as usize)?;
        if client.serial != serial || client.nonce != nonce {
            return None;
        }
        match client.cancel {
            Cancel::Running(cancel) if method == Method::Cancel => Some(cancel),
            _ => (client.sent.as_ref()?.method == self.method_hash(method)).then_some(index),
        }
    }

    /// The transaction that sent a request of this method and branch to this address. The ACK to a 300-699 is the INVITE's.
    pub(super) fn sent_to(&self, method: Method<'_>, branch: &[u8], remote: SocketAddr) -> Option<ClientId> {
        let index = self.find_by(branch, if method == Method::Ack { Method::Invite } else { method })?;
        let client = self.entries.get(index as usize)?;
        let to = client.sent.as_ref()?.hop.remote;
        ((to.ip(), to.port()) == (remote.ip(), remote.port()))
            .then(|| ClientId(Place { index, serial: client.serial }.id()))
    }

    pub(super) fn cancel(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        id: ClientId,
        extra_lines: &[u8],
        out: &mut Outbox,
    ) -> CancelResult {
        use client_invite::State::{Calling, Proceeding};
        let Some((index, client)) = self.get_mut(id) else { return CancelResult::TooLate };
        let machine = client.sent.as_ref().map(|sent| sent.machine);
        match (machine, &client.cancel) {
            (Some(Machine::Invite(Calling)), Cancel::No) => {
                client.cancel = Cancel::Wished(shared.buffers.copy(extra_lines));
                CancelResult::Deferred
            }
            (Some(Machine::Invite(Calling)), _) => CancelResult::Deferred,
            (Some(Machine::Invite(Proceeding)), Cancel::No) => {
                self.send_cancel(shared, now, index, extra_lines, out);
                CancelResult::Sent
            }
            (Some(Machine::Invite(Proceeding)), _) => CancelResult::Sent,
            _ => CancelResult::TooLate,
        }
    }

    pub(super) fn abandon(&mut self, shared: &mut Shared, id: ClientId) {
        if let Some((_, client)) = self.get_mut(id) {
            client.alarms.stop(&mut shared.wheel, Pace::Repeating);
        }
    }

    pub(super) fn transport_failed(&mut self, shared: &mut Shared, now: Instant, id: ClientId) {
        if let Some((index, _)) = self.get_mut(id) {
            shared.stats.transport_failures += 1;
            let mut nothing = Outbox::new(); // the rows of a transport error send nothing
            self.drive(shared, now, index, ClientInput::TransportError, Subject::Nothing, &mut nothing);
        }
    }

    pub(super) fn fired(&mut self, shared: &mut Shared, now: Instant, index: u32, timer: Timer, out: &mut Outbox) {
        if let Some(client) = self.entries.get_mut(index as usize) {
            client.alarms.fired(timer.pace());
            self.drive(shared, now, index, ClientInput::Fired(timer), Subject::Nothing, out);
        }
    }

    fn get_mut(&mut self, id: ClientId) -> Option<(u32, &mut Client)> {
        let Place { index, serial } = Place::of(id.0);
        let client = self.entries.get_mut(index as usize)?;
        (client.serial == serial).then_some((index, client))
    }

    fn method_hash(&self, method: Method<'_>) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(method.as_bytes());
        hasher.finish()
    }

    /// Looks the row up and carries it out; whether the message goes to the user.
    fn drive(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: u32,
        input: ClientInput,
        subject: Subject<'_>,
        out: &mut Outbox,
    ) -> bool {
        let row = match self.entries.get(index as usize).and_then(|client| client.sent.as_ref()) {
            Some(Sent { machine: Machine::Invite(state), .. }) => {
                client_invite::row(*state, input).map(Machine::Invite)
            }
            Some(Sent { machine: Machine::NonInvite(state), .. }) => {
                client_non_invite::row(*state, input).map(Machine::NonInvite)
            }
            None => return false,
        };
        self.perform(shared, now, index, row, subject, out)
    }

    fn perform(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: u32,
        row: Row<Machine>,
        subject: Subject<'_>,
        out: &mut Outbox,
    ) -> bool {
        let mut delivered = false;
        let mut next = row.next;
        for action in row.actions {
            // A wished CANCEL opens its transaction in the middle of a row, so nothing is borrowed across actions.
            if *action == Action::CancelIfWished {
                self.send_wished_cancel(shared, now, index, out);
                continue;
            }
            let Some(client) = self.entries.get_mut(index as usize) else { return delivered };
            if client.perform(shared, now, index, *action, subject, out) == Effect::Terminate {
                next = None;
            }
            delivered |= *action == Action::Deliver && !matches!(client.cancel, Cancel::Of(_));
        }
        match (next, self.entries.get_mut(index as usize).and_then(|client| client.sent.as_mut())) {
            (Some(next), Some(sent)) => sent.machine = next,
            _ => self.terminate(shared, index),
        }
        delivered
    }

    fn send_wished_cancel(&mut self, shared: &mut Shared, now: Instant, index: u32, out: &mut Outbox) {
        let Some(client) = self.entries.get_mut(index as usize) else { return };
        if let Cancel::Wished(lines) = std::mem::replace(&mut client.cancel, Cancel::No) {
            self.send_cancel(shared, now, index, &lines, out);
            shared.buffers.give(lines);
        }
    }

    /// Sends the CANCEL of the INVITE at `index`, and gives the INVITE 64*T1 to end (RFC 3261 9.1).
    fn send_cancel(&mut self, shared: &mut Shared, now: Instant, index: u32, extra_lines: &[u8], out: &mut Outbox) {
        let Some(Client { sent: Some(sent), nonce, user, .. }) = self.entries.get(index as usize) else { return };
        let (hop, nonce, user) = (sent.hop, *nonce, *user);
        let mut cancel = std::mem::take(&mut self.scratch);
        cancel.clear();
        let is_written = write_cancel(&mut shared.reader, &sent.kept, extra_lines, &mut cancel);
        let mut state = Cancel::Over;
        if is_written {
            let place = self.insert(user, nonce, Cancel::Of(index));
            self.cancels += 1;
            shared.stats.cancels += 1;
            state = Cancel::Running(place.index);
            self.send(shared, now, ClientId(place.id()), Method::Cancel, hop, &cancel, out);
        }
        self.scratch = cancel;
        if let Some(client) = self.entries.get_mut(index as usize) {
            client.cancel = state;
            let alarm = Alarm { owner: Owner::Client(index), timer: Timer::Cancelled };
            client.alarms.start(now, &mut shared.wheel, alarm, &shared.config, hop.transport.is_reliable());
        }
    }

    /// Terminated: once, with every timer stopped and everything given back. The CANCEL of an INVITE ends with it, as only
    /// its branch leads responses there and there is nothing left to cancel.
    fn terminate(&mut self, shared: &mut Shared, index: u32) {
        let Some(client) = self.remove(shared, index) else { return };
        match client.cancel {
            Cancel::Of(invite) => {
                self.cancels -= 1;
                if let Some(invite) = self.entries.get_mut(invite as usize) {
                    invite.cancel = Cancel::Over;
                }
                return;
            }
            Cancel::Running(cancel) => {
                self.cancels -= 1;
                self.remove(shared, cancel);
            }
            Cancel::No | Cancel::Over | Cancel::Wished(_) => {}
        }
        let id = Place { index, serial: client.serial }.id();
        shared.events.push_back(Event::ClientGone { client: ClientId(id), user: client.user });
    }

    /// Frees the entry; what is left of it has nothing to give back.
    fn remove(&mut self, shared: &mut Shared, index: u32) -> Option<Client> {
        let mut client = self.entries.try_remove(index as usize)?;
        client.alarms.stop_all(&mut shared.wheel);
        if let Some(sent) = &mut client.sent {
            shared.buffers.give(std::mem::take(&mut sent.kept));
        }
        if let Cancel::Wished(lines) = &mut client.cancel {
            shared.buffers.give(std::mem::take(lines));
        }
        Some(client)
    }
}

/// What an action means for the row it stands in.
#[derive(PartialEq, Eq)]
enum Effect {
    GoOn,
    /// The timer that ends the row's next state is zero on this transport.
    Terminate,
}

impl Client {
    #[allow(clippy::too_many_arguments)] // borrowed parts of the layer
    fn perform(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: u32,
        action: Action,
        subject: Subject<'_>,
        out: &mut Outbox,
    ) -> Effect {
        let tag = ClientId(Place { index, serial: self.serial }.id()).tag();
        let Some(sent) = &mut self.sent else { return Effect::GoOn };
        let reliable = sent.hop.transport.is_reliable();
        let alarm = |timer| Alarm { owner: Owner::Client(index), timer };
        match (action, subject) {
            (Action::Send, Subject::Request(request)) => out.push(sent.hop, tag, request),
            // Only an INVITE has to be at hand on a reliable transport: for ACK and CANCEL.
            (Action::Keep, Subject::Request(request)) if !reliable || matches!(sent.machine, Machine::Invite(_)) => {
                sent.kept = shared.buffers.copy(request);
            }
            (Action::Resend, _) if !sent.kept.is_empty() => {
                out.push(sent.hop, tag, &sent.kept);
                match sent.machine {
                    Machine::Invite(client_invite::State::Completed) => shared.stats.acks += 1,
                    _ => shared.stats.requests_resent += 1,
                }
            }
            (Action::Acknowledge, Subject::Response(response)) => {
                let invite = std::mem::take(&mut sent.kept);
                let mut ack = shared.buffers.take(invite.len().min(512));
                if write_ack(&mut shared.reader, &invite, response, &mut ack) {
                    out.push(sent.hop, tag, &ack);
                    shared.stats.acks += 1;
                }
                sent.kept = ack;
                shared.buffers.give(invite);
            }
            (Action::Forget, _) => shared.buffers.give(std::mem::take(&mut sent.kept)),
            (Action::Report(report), _) => self.report(shared, index, report),
            (Action::Start(timer), _) => {
                let started = self.alarms.start(now, &mut shared.wheel, alarm(timer), &shared.config, reliable);
                if started == Started::AtOnce {
                    return Effect::Terminate;
                }
            }
            (Action::Double(timer), _) => self.alarms.double(now, &mut shared.wheel, alarm(timer), &shared.config),
            (Action::AtT2(timer), _) => self.alarms.run(now, &mut shared.wheel, alarm(timer), shared.config.t2),
            (Action::Stop(timer), _) => self.alarms.stop(&mut shared.wheel, timer.pace()),
            _ => {}
        }
        Effect::GoOn
    }

    fn report(&self, shared: &mut Shared, index: u32, report: Report) {
        let client = ClientId(Place { index, serial: self.serial }.id());
        let user = self.user;
        if matches!(self.cancel, Cancel::Of(_)) {
            return;
        }
        shared.events.push_back(match report {
            Report::TimedOut => {
                shared.stats.client_timeouts += 1;
                Event::ClientTimedOut { client, user }
            }
            Report::Failed => Event::ClientFailed { client, user },
            Report::CancelTimedOut => Event::CancelTimedOut { client, user },
            Report::Unacknowledged | Report::TryingDue => return, // of servers
        });
    }
}
