//! The server transactions: matching of requests, and the actions of both server tables.

use super::alarms::{Alarm, Alarms, Owner, Started};
use super::key::{Key, Prober};
use super::machine::{Action, Class, Pace, Report, Row, ServerInput, Timer, go};
use super::{Event, Place, RequestMatch, SentBy, ServerId, Shared, TableFull};
use super::{first_serial, next_serial, server_invite, server_non_invite};
use crate::sip::hop::{Hop, Outbox};
use crate::sip::{Message, Method, Via};
use hashbrown::HashTable;
use slab::Slab;
use std::net::SocketAddr;
use std::time::Instant;

#[derive(Debug, Clone, Copy)]
enum Machine {
    Invite(server_invite::State),
    NonInvite(server_non_invite::State),
}

/// Methods that are tried where a quoted response does not say its own.
const USUAL: [Method<'static>; 13] = [
    Method::Invite,
    Method::Bye,
    Method::Cancel,
    Method::Options,
    Method::Register,
    Method::Prack,
    Method::Update,
    Method::Info,
    Method::Message,
    Method::Refer,
    Method::Notify,
    Method::Subscribe,
    Method::Publish,
];

/// Responses kept for [`super::Layer::unacknowledged`].
const MAX_UNACKNOWLEDGED: usize = 64;

#[derive(Debug)]
struct Server {
    serial: u32,
    user: u64,
    machine: Machine,
    hash: u64,
    key: Key,
    upstream: Hop,
    /// The last provisional or final response sent; empty when it can not be needed any more.
    kept: Vec<u8>,
    alarms: Alarms,
}

/// All server transactions of a layer.
#[derive(Debug)]
pub(super) struct Servers {
    entries: Slab<Server>,
    /// Indices into `entries` by the keyed hash of the key.
    table: HashTable<u32>,
    serial: u32,
    prober: Prober,
}

impl Servers {
    pub(super) fn new(key: [u8; 16]) -> Self {
        Self { entries: Slab::new(), table: HashTable::new(), serial: first_serial(key), prober: Prober::new(key) }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn receive(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        request: Message<'_>,
        out: &mut Outbox,
    ) -> RequestMatch {
        let method = request.method().unwrap_or(Method::Other(&[]));
        if method == Method::Ack {
            return self.receive_ack(shared, now, request, out);
        }
        if let Some((index, _)) = self.find(request, method) {
            shared.stats.request_retransmissions += 1;
            self.drive(shared, now, index, ServerInput::Request, &[], out);
            return RequestMatch::Absorbed;
        }
        if method != Method::Cancel {
            return RequestMatch::New;
        }
        // RFC 3261 9.2: the transaction with the same key but for the method; only an INVITE can be cancelled.
        match self.find(request, Method::Invite) {
            Some((_, (invite, user))) => RequestMatch::Cancel { invite, user },
            None => RequestMatch::UnmatchedCancel,
        }
    }

    fn receive_ack(&mut self, shared: &mut Shared, now: Instant, ack: Message<'_>, out: &mut Outbox) -> RequestMatch {
        let Some((index, (server, user))) = self.find(ack, Method::Ack) else { return RequestMatch::UnmatchedAck };
        match self.drive(shared, now, index, ServerInput::Ack, &[], out) {
            true => RequestMatch::Ack2xx { server, user },
            false => RequestMatch::Absorbed,
        }
    }

    /// The transaction `request` would belong to if its method were `method`.
    fn find(&mut self, request: Message<'_>, method: Method<'_>) -> Option<(u32, (ServerId, u64))> {
        let probe = self.prober.probe(request, method);
        let entries = &self.entries;
        let is_it = |index: &u32| entries.get(*index as usize).is_some_and(|server| probe.is(&server.key));
        let index = *self.table.find(probe.hash(), is_it)?;
        let server = entries.get(index as usize)?;
        Some((index, (ServerId(Place { index, serial: server.serial }.id()), server.user)))
    }

    pub(super) fn open(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        request: Message<'_>,
        upstream: Hop,
        user: u64,
    ) -> Result<ServerId, TableFull> {
        let limit = shared.config.max_server;
        if self.entries.len() >= limit {
            shared.stats.table_full += 1;
            return Err(TableFull { limit });
        }
        let method = request.method().unwrap_or(Method::Other(&[]));
        let (machine, actions) = match method {
            Method::Invite => (Machine::Invite(server_invite::START.first), server_invite::START.actions),
            _ => (Machine::NonInvite(server_non_invite::START.first), server_non_invite::START.actions),
        };
        let probe = self.prober.probe(request, method);
        let (hash, key) = (probe.hash(), probe.keep(&mut shared.buffers));
        let serial = next_serial(&mut self.serial);
        let alarms = Alarms::default();
        let server = Server { serial, user, machine, hash, key, upstream, kept: Vec::new(), alarms };
        let index = self.entries.insert(server) as u32;
        let entries = &self.entries;
        let hash_of = |index: &u32| entries.get(*index as usize).map_or(0, |server| server.hash);
        self.table.insert_unique(hash, index, hash_of);
        shared.stats.servers += 1;
        let mut nothing = Outbox::new(); // a new server transaction sends nothing by itself
        self.perform(shared, now, index, go(actions, machine), &[], &mut nothing);
        Ok(ServerId(Place { index, serial }.id()))
    }

    pub(super) fn respond(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        id: ServerId,
        status: u16,
        response: &[u8],
        out: &mut Outbox,
    ) {
        let (Some((index, server)), Some(class)) = (self.get_mut(id), Class::of(status)) else { return };
        if !server.may_send(status, class) {
            shared.stats.responses_withheld += 1;
            return;
        }
        if class != Class::Provisional && server.key.has_to_tags() {
            shared.reader.read(response, |response| server.key.set_response_to_tag(response));
        }
        self.drive(shared, now, index, class.into(), response, out);
    }

    pub(super) fn upstream(&self, id: ServerId) -> Option<Hop> {
        let Place { index, serial } = Place::of(id.0);
        self.entries.get(index as usize).filter(|server| server.serial == serial).map(|server| server.upstream)
    }

    /// Whom the request of a transaction came from by its own word.
    pub(super) fn sent_by(&self, id: ServerId) -> Option<SentBy<'_>> {
        let Place { index, serial } = Place::of(id.0);
        self.entries.get(index as usize).filter(|server| server.serial == serial)?.key.sent_by()
    }

    pub(super) fn redirect(&mut self, shared: &mut Shared, now: Instant, id: ServerId, hop: Hop, out: &mut Outbox) {
        if let Some((index, server)) = self.get_mut(id) {
            server.upstream = hop;
            server.perform(shared, now, index, Action::Resend, &[], out);
        }
    }

    /// The transaction that sent a response with this top Via to this address; of any usual method if it is not known.
    pub(super) fn answered_to(
        &mut self,
        via: Via<'_>,
        method: Option<Method<'_>>,
        remote: SocketAddr,
    ) -> Option<ServerId> {
        let methods = method.as_ref().map_or(&USUAL[..], std::slice::from_ref);
        methods.iter().find_map(|method| {
            let probe = self.prober.probe_via(via, *method)?;
            let entries = &self.entries;
            let is_it = |index: &u32| entries.get(*index as usize).is_some_and(|server| probe.is(&server.key));
            let index = *self.table.find(probe.hash(), is_it)?;
            let Server { serial, upstream, .. } = entries.get(index as usize)?;
            let is_there = (upstream.remote.ip(), upstream.remote.port()) == (remote.ip(), remote.port());
            is_there.then(|| ServerId(Place { index, serial: *serial }.id()))
        })
    }

    pub(super) fn transport_failed(&mut self, shared: &mut Shared, now: Instant, id: ServerId) {
        if let Some((index, _)) = self.get_mut(id) {
            shared.stats.transport_failures += 1;
            let mut nothing = Outbox::new(); // the rows of a transport error send nothing
            self.drive(shared, now, index, ServerInput::TransportError, &[], &mut nothing);
        }
    }

    pub(super) fn fired(&mut self, shared: &mut Shared, now: Instant, index: u32, timer: Timer, out: &mut Outbox) {
        if let Some(server) = self.entries.get_mut(index as usize) {
            server.alarms.fired(timer.pace());
            self.drive(shared, now, index, ServerInput::Fired(timer), &[], out);
        }
    }

    fn get_mut(&mut self, id: ServerId) -> Option<(u32, &mut Server)> {
        let Place { index, serial } = Place::of(id.0);
        let server = self.entries.get_mut(index as usize)?;
        (server.serial == serial).then_some((index, server))
    }

    /// Looks the row up and carries it out; whether the message goes to the user. `response` is empty unless the user responds.
    fn drive(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: u32,
        input: ServerInput,
        response: &[u8],
        out: &mut Outbox,
    ) -> bool {
        let row = match self.entries.get(index as usize).map(|server| server.machine) {
            Some(Machine::Invite(state)) => server_invite::row(state, input).map(Machine::Invite),
            Some(Machine::NonInvite(state)) => server_non_invite::row(state, input).map(Machine::NonInvite),
            None => return false,
        };
        self.perform(shared, now, index, row, response, out)
    }

    fn perform(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: u32,
        row: Row<Machine>,
        response: &[u8],
        out: &mut Outbox,
    ) -> bool {
        let Some(server) = self.entries.get_mut(index as usize) else { return false };
        let mut next = row.next;
        for action in row.actions {
            if server.perform(shared, now, index, *action, response, out) == Started::AtOnce {
                next = None;
            }
        }
        match next {
            Some(machine) => server.machine = machine,
            None => self.terminate(shared, index),
        }
        row.actions.contains(&Action::Deliver)
    }

    /// Terminated: once, with every timer stopped and everything given back.
    fn terminate(&mut self, shared: &mut Shared, index: u32) {
        let Some(mut server) = self.entries.try_remove(index as usize) else { return };
        if let Ok(slot) = self.table.find_entry(server.hash, |other| *other == index) {
            slot.remove();
        }
        debug_assert_eq!(self.table.len(), self.entries.len());
        server.alarms.stop_all(&mut shared.wheel);
        shared.buffers.give(server.kept);
        shared.buffers.give(server.key.into_bytes());
        let id = Place { index, serial: server.serial }.id();
        shared.events.push_back(Event::ServerGone { server: ServerId(id), user: server.user });
    }
}

impl Server {
    /// What the state lets the user send: no response after a final one, but for 2xx after 2xx; to a non-INVITE no
    /// provisional but a 100, that not before it is due on UDP (RFC 4320 4.1), and no 408 (4.2).
    fn may_send(&self, status: u16, class: Class) -> bool {
        use server_invite::State as Invite;
        use server_non_invite::State as NonInvite;
        match self.machine {
            Machine::Invite(Invite::Proceeding) => true,
            Machine::Invite(Invite::Accepted) => class == Class::Success,
            Machine::Invite(Invite::Completed | Invite::Confirmed) => false,
            Machine::NonInvite(NonInvite::Completed) => false,
            Machine::NonInvite(NonInvite::Trying | NonInvite::Proceeding) => match status {
                // The timer stops when it fires, and when the first 100 is sent.
                100 => self.upstream.transport.is_reliable() || !self.alarms.is_running(Pace::Repeating),
                101..=199 | 408 => false,
                _ => true,
            },
        }
    }

    fn perform(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: u32,
        action: Action,
        response: &[u8],
        out: &mut Outbox,
    ) -> Started {
        let server = ServerId(Place { index, serial: self.serial }.id());
        let reliable = self.upstream.transport.is_reliable();
        let alarm = |timer| Alarm { owner: Owner::Server(index), timer };
        match action {
            Action::Send => out.push(self.upstream, server.tag(), response),
            Action::Keep => {
                shared.buffers.give(std::mem::take(&mut self.kept));
                self.kept = shared.buffers.copy(response);
            }
            Action::Resend if !self.kept.is_empty() => {
                out.push(self.upstream, server.tag(), &self.kept);
                shared.stats.responses_resent += 1;
            }
            Action::Forget => shared.buffers.give(std::mem::take(&mut self.kept)),
            Action::Report(report) => self.report(shared, server, report),
            Action::Start(timer) => {
                return self.alarms.start(now, &mut shared.wheel, alarm(timer), &shared.config, reliable);
            }
            Action::Double(timer) => self.alarms.double(now, &mut shared.wheel, alarm(timer), &shared.config),
            Action::AtT2(timer) => self.alarms.run(now, &mut shared.wheel, alarm(timer), shared.config.t2),
            Action::Stop(timer) => self.alarms.stop(&mut shared.wheel, timer.pace()),
            // Deliver is the caller's; the rest is of clients; there is nothing to resend before the first response.
            Action::Deliver | Action::Resend | Action::Acknowledge | Action::CancelIfWished => {}
        }
        Started::Later
    }

    fn report(&self, shared: &mut Shared, server: ServerId, report: Report) {
        let user = self.user;
        shared.events.push_back(match report {
            Report::Unacknowledged => {
                shared.stats.unacknowledged += 1;
                if shared.unacknowledged.len() >= MAX_UNACKNOWLEDGED {
                    shared.unacknowledged.pop_front();
                }
                shared.unacknowledged.push_back((server, self.kept.clone()));
                Event::ServerUnacknowledged { server, user }
            }
            Report::Failed => Event::ResponseFailed { server, user },
            Report::TryingDue => Event::TryingDue { server, user },
            Report::TimedOut | Report::CancelTimedOut => return, // of clients
        });
    }
}
