//! The pings of one worker: who is due, what is under way, what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::Probing;
use super::request::{Ping, write};
use crate::proxy::dispatcher::{Destination, hash};
use crate::proxy::health::{changed, pause_of};
use crate::proxy::plan::Place;
use crate::proxy::route::target::leave_by;
use crate::proxy::{Answer, Need, NeedId, NeedKind, NextHop, Now, Output, Proxy, Snapshot, Timer, Trunk, TrunkId};
use crate::sip::hop::{Hop, PeerId};
use crate::sip::{Message, Method};
use crate::transaction::ClientId;
use crate::transaction::timer::TimerHandle;

/// The half of a transaction's user, or of a need, that is a context's slot elsewhere: here it says that a ping is meant.
pub const PROBE_SLOT: u64 = 0xffff_fffe;

/// Whether a transaction or a need is a ping's.
pub fn is_probe(user: u64) -> bool {
    user & 0xffff_ffff == PROBE_SLOT
}

/// Which pings are a worker's: each destination is one worker's, which draws Call-IDs until one leads the answer home to it.
pub struct Duty {
    /// This worker.
    pub worker: usize,
    /// Workers there are.
    pub workers: usize,
    /// Messages with this Call-ID come to this worker.
    pub is_home: IsHome,
}

/// Whether a Call-ID leads home.
pub type IsHome = Box<dyn Fn(&[u8]) -> bool>;

/// A destination to be pinged, how, and the member it is.
type Wanted = (Arc<Destination>, Arc<Probing>, TrunkId, usize);

/// What one worker pings.
pub struct Prober {
    duty: Duty,
    targets: Slab<Target>,
}

/// A destination that is pinged, as the member of the first trunk that wants it.
struct Target {
    destination: Arc<Destination>,
    probing: Arc<Probing>,
    trunk: TrunkId,
    place: usize,
    /// The next round.
    timer: TimerHandle,
    /// Its name is being located.
    located_by: Option<(NeedId, TimerHandle)>,
    /// Pings under way: one at most to each address.
    pings: Vec<Outstanding>,
}

struct Outstanding {
    client: ClientId,
    at: NextHop,
    sent: Instant,
    timer: TimerHandle,
}

/// Draws for one Call-ID, for each worker: that so many fail is out of the question.
const DRAWS: usize = 100;
/// The first ping comes within this time, so that those of many members do not come at once.
const FIRST: Duration = Duration::from_secs(1);

impl Prober {
    /// The destinations that are this worker's, each once.
    fn wanted(&self, snapshot: &Snapshot) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for (number, trunk) in snapshot.config.trunks.iter().enumerate() {
            let Some(probing) = &trunk.dispatcher.probing else { continue };
            for (place, (member, hop)) in trunk.dispatcher.members().iter().zip(&trunk.next_hops).enumerate() {
                let owner = hash(hop.to_string().as_bytes()) as usize % self.duty.workers.max(1);
                let is_known = wanted.iter().any(|(known, ..)| Arc::ptr_eq(known, &member.destination));
                if owner == self.duty.worker && !is_known {
                    let destination = Arc::clone(&member.destination);
                    wanted.push((destination, Arc::clone(probing), TrunkId(number as u16), place));
                }
            }
        }
        wanted
    }
}

impl Proxy {
    /// From now on members of trunks are pinged, as far as that is this worker's duty.
    pub fn start_probing(&mut self, now: Now, duty: Duty) {
        self.prober = Some(Prober { duty, targets: Slab::new() });
        self.sync_probing(now.instant);
    }

    /// Follows the configuration: what is pinged already goes on, what is pinged no more is forgotten.
    pub(in crate::proxy) fn sync_probing(&mut self, now: Instant) {
        let Some(mut prober) = self.prober.take() else { return };
        let wanted = prober.wanted(&self.snapshot);
        let gone: Vec<usize> = prober
            .targets
            .iter()
            .filter(|(_, target)| !wanted.iter().any(|(w, ..)| Arc::ptr_eq(w, &target.destination)))
            .map(|(number, _)| number)
            .collect();
        for target in gone.into_iter().filter_map(|number| prober.targets.try_remove(number)) {
            let pings = target.pings.iter().map(|ping| (ping.timer, Some(ping.client)));
            let located_by = target.located_by.map(|(_, timer)| (timer, None));
            for (timer, client) in pings.chain(located_by).chain([(target.timer, None)]) {
                self.timers.cancel(timer);
                client.into_iter().for_each(|client| self.layer.abandon(client));
            }
        }
        for (destination, probing, trunk, place) in wanted {
            let known = prober.targets.iter_mut().find(|(_, t)| Arc::ptr_eq(&t.destination, &destination));
            if let Some((number, target)) = known {
                (target.trunk, target.place) = (trunk, place);
                if target.probing != probing {
                    self.timers.cancel(target.timer);
                    let first = self.share_of(FIRST.min(probing.interval));
                    target.timer = self.timers.insert(now + first, Timer::Probe { target: number as u32 });
                    target.probing = probing;
                }
                continue;
            }
            let first = self.share_of(FIRST.min(probing.interval));
            let entry = prober.targets.vacant_entry();
            let timer = self.timers.insert(now + first, Timer::Probe { target: entry.key() as u32 });
            let (located_by, pings) = (None, Vec::with_capacity(1));
            entry.insert(Target { destination, probing, trunk, place, timer, located_by, pings });
        }
        self.prober = Some(prober);
    }

    /// A part of a time, by chance.
    fn share_of(&mut self, time: Duration) -> Duration {
        let [a, b, c, d, ..] = self.unpredictable();
        time.mul_f64(f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX))
    }

    fn probed(&mut self, number: usize) -> Option<&mut Target> {
        self.prober.as_mut()?.targets.get_mut(number)
    }

    /// A round: the member is pinged, if there is a reason to.
    pub(in crate::proxy) fn probe_due(&mut self, now: Now, number: u32, out: &mut Output) {
        let number = number as usize;
        let Some(interval) = self.probed(number).map(|target| target.probing.interval) else { return };
        let jittered = interval.mul_f64(0.9) + self.share_of(interval.mul_f64(0.2)); // KR-7
        let timer = self.timers.insert(now.instant + jittered, Timer::Probe { target: number as u32 });
        let snapshot = self.snapshot.clone();
        let Some(target) = self.probed(number) else { return };
        target.timer = timer;
        let Some(trunk) = snapshot.config.trunk(target.trunk) else { return };
        let (health, is_waiting) = (&target.destination.health, target.located_by.is_some());
        let is_doubtful = health.is_doubtful() || target.destination.addresses.is_any_doubtful();
        let is_idle = target.probing.down_only && !is_doubtful;
        // Addresses of a name that are told apart are asked each for itself.
        let is_waiting = is_waiting || !trunk.dispatcher.expand && !target.pings.is_empty();
        // Who asked for a pause is not asked during it.
        if target.destination.is_disabled() || is_idle || is_waiting || health.pause(now.unix).is_some() {
            return;
        }
        match trunk.next_hops.get(target.place) {
            Some(Place::At(hop)) => self.ping(now, number, trunk, *hop, out),
            Some(Place::Locate(name)) => match name.direct() {
                Some(hop) => self.ping(now, number, trunk, hop, out),
                None => {
                    let timeout = target.probing.timeout;
                    let id = NeedId(self.next_serial() << 32 | PROBE_SLOT);
                    let deadline = now.instant + timeout;
                    let timer = self.timers.insert(deadline, Timer::Need { need: id });
                    out.needs.push(Need { id, deadline, kind: NeedKind::Locate { target: name.clone() } });
                    if let Some(target) = self.probed(number) {
                        target.located_by = Some((id, timer));
                    }
                }
            },
            None => {}
        }
    }

    /// A name has addresses: the first is pinged, or each where each has a health of its own (KR-8). Or it has none.
    pub(in crate::proxy) fn ping_located(&mut self, now: Now, need: NeedId, answer: &Answer, out: &mut Output) {
        let waits = |target: &Target| target.located_by.as_ref().is_some_and(|(id, _)| *id == need);
        let Some(prober) = &mut self.prober else { return };
        let Some((number, target)) = prober.targets.iter_mut().find(|(_, target)| waits(target)) else { return };
        if let Some((_, timer)) = target.located_by.take() {
            self.timers.cancel(timer);
        }
        let (trunk_id, place) = (target.trunk, target.place);
        let snapshot = self.snapshot.clone();
        let Some(trunk) = snapshot.config.trunk(trunk_id) else { return };
        let hops = match answer {
            Answer::Locate(Ok(hops)) if !hops.is_empty() => hops,
            _ => return self.ping_ended(now, number, None, Err(None), out),
        };
        snapshot.config.note_located(trunk_id, place, hops, now.unix);
        let count = if trunk.dispatcher.expand { MAX_ADDRESSES } else { 1 };
        hops.iter().take(count).for_each(|hop| self.ping(now, number, trunk, *hop, out));
    }

    /// Sends one ping, unless one is under way to this address.
    fn ping(&mut self, now: Now, number: usize, trunk: &Trunk, at: NextHop, out: &mut Output) {
        let snapshot = self.snapshot.clone();
        let Some(target) = self.probed(number) else { return };
        let (probing, trunk_id) = (Arc::clone(&target.probing), target.trunk);
        let is_paused = target.destination.addresses.health(at).is_some_and(|health| health.pause(now.unix).is_some());
        if is_paused || target.pings.iter().any(|ping| ping.at == at) {
            return;
        }
        let place = target.place;
        let exit = leave_by(&snapshot.config, at.transport, Some(at.remote), Some(trunk.listener));
        let Some(listener) = snapshot.config.listener(exit) else { return };
        let Some(call_id) = self.draw_call_id(&listener.advertise_host) else { return };
        let tag = self.unpredictable();
        // A full table says nothing of the member.
        let Ok((client, branch)) = self.layer.reserve_client((number as u64) << 32 | PROBE_SLOT, 0) else { return };
        let uri = match trunk.next_hops.get(place) {
            Some(Place::Locate(name)) => name.to_string(),
            _ => super::request::uri_of(at),
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let ping = Ping { probing: &probing, listener, at, uri: &uri, branch: &branch, call_id: &call_id, tag: &tag };
        write(&ping, &mut buffer);
        let hop = Hop {
            transport: at.transport,
            local: exit,
            remote: at.remote,
            connection: None,
            peer: Some(PeerId(trunk_id.0)),
        };
        let method = Method::new(probing.method.as_bytes());
        self.layer.send_request(now.instant, client, method, hop, &buffer, &mut out.outbox);
        self.buffer = buffer;
        self.vouch_for(now, at.remote);
        self.stats.pings += 1;
        let timeout = Timer::ProbeTimeout { target: number as u32, client };
        let timer = self.timers.insert(now.instant + probing.timeout, timeout);
        if let Some(target) = self.probed(number) {
            target.pings.push(Outstanding { client, at, sent: now.instant, timer });
        }
    }

    /// A Call-ID whose messages come to this worker.
    fn draw_call_id(&mut self, host: &str) -> Option<String> {
        let draws = DRAWS * self.prober.as_ref().map_or(0, |prober| prober.duty.workers);
        (0..draws).find_map(|_| {
            let call_id = format!("{:032x}@{host}", u128::from_be_bytes(self.unpredictable()));
            let is_home = self.prober.as_ref().is_some_and(|prober| (prober.duty.is_home)(call_id.as_bytes()));
            is_home.then_some(call_id)
        })
    }

    /// Takes a ping off the list of those under way.
    fn end_ping(&mut self, user: u64, client: ClientId) -> Option<(usize, Outstanding)> {
        let number = (user >> 32) as usize;
        let target = self.probed(number)?;
        let position = target.pings.iter().position(|ping| ping.client == client)?;
        let ping = target.pings.swap_remove(position);
        self.timers.cancel(ping.timer);
        Some((number, ping))
    }

    /// A response to a ping.
    pub(in crate::proxy) fn ping_answered(
        &mut self,
        now: Now,
        user: u64,
        client: ClientId,
        response: Message<'_>,
        out: &mut Output,
    ) {
        let Some(status) = response.status().filter(|status| *status >= 200) else { return };
        let Some((number, ping)) = self.end_ping(user, client) else { return };
        let Some(target) = self.probed(number) else { return };
        let result = if target.probing.ok.iter().any(|codes| codes.contains(status)) {
            target.destination.measured(now.instant.saturating_duration_since(ping.sent));
            Ok(())
        } else {
            Err(pause_of(status, response))
        };
        self.ping_ended(now, number, Some(ping.at), result, out);
    }

    /// A ping could not be sent, or its transaction is over without an answer.
    pub(in crate::proxy) fn ping_failed(&mut self, now: Now, user: u64, client: ClientId, out: &mut Output) {
        if let Some((number, ping)) = self.end_ping(user, client) {
            self.ping_ended(now, number, Some(ping.at), Err(None), out);
        }
    }

    /// A ping has waited long enough: no answer is never a good one, and a late one is nobody's.
    pub(in crate::proxy) fn ping_timed_out(&mut self, now: Now, number: u32, client: ClientId, out: &mut Output) {
        self.layer.abandon(client);
        self.ping_failed(now, u64::from(number) << 32 | PROBE_SLOT, client, out);
    }

    /// What came of a ping: good, or not, perhaps with a wish for a pause. The result counts with those of requests (KR-3).
    fn ping_ended(
        &mut self,
        now: Now,
        number: usize,
        at: Option<NextHop>,
        result: Result<(), Option<u32>>,
        out: &mut Output,
    ) {
        let snapshot = self.snapshot.clone();
        let Some(target) = self.probed(number) else { return };
        let (trunk_id, place, destination) = (target.trunk, target.place, Arc::clone(&target.destination));
        self.stats.pings_failed += u64::from(result.is_err());
        let Some(dispatcher) = snapshot.config.trunk(trunk_id).map(|trunk| &trunk.dispatcher) else { return };
        let Some(member) = dispatcher.member(place) else { return };
        let health = at.map_or(&destination.health, |at| dispatcher.health_of(member, at));
        let change = match result {
            Ok(()) => health.succeeded(dispatcher.rules(member), now.unix),
            Err(pause) => health.failed(dispatcher.rules(member), pause, now.unix),
        };
        let of_name = at.filter(|_| result.is_ok()).and_then(|at| dispatcher.leads_somewhere(member, at, now.unix));
        let told = [(at, change), (None, of_name)].into_iter();
        let told = told.filter_map(|(at, change)| Some(changed(&snapshot.config, trunk_id, place, at, change?)));
        out.events.extend(told);
    }
}

/// Addresses of a name that are pinged.
const MAX_ADDRESSES: usize = crate::proxy::plan::MAX_ATTEMPTS;
