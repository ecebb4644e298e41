//! The first line against floods (KR-10, O-8): who is heard at all, how many calls a trunk may make, what is refused under load.
//!
//! Unknown sources are held to token buckets, and banned when they go on; known ones cost one look-up and are never banned for their
//! rate. Everything here is of fixed size.

pub mod bans;
pub mod limits;
pub mod networks;
pub mod priority;
pub mod rate;
pub mod shed;
mod sources;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use bans::{Ban, Bans, Cause, Marks};
pub use limits::{CallGuard, Refused, TrunkLimits};
pub use networks::{Networks, Source, Standing};
pub use rate::Rate;
pub use shed::{Shedder, SheddingConfig};

use crate::proxy::TrunkId;
use crate::proxy::digest::Digest;
use crate::proxy::overload::Role;
use crate::sip::hop::Hop;
use crate::sip::{Message, Name};
use sources::Sources;

/// How unknown sources are treated.
#[derive(Clone, Debug)]
pub struct Strangers {
    /// Messages one source may send.
    pub messages: Rate,
    /// Messages all of them may send to one worker: addresses are easily invented.
    pub all_messages: Rate,
    /// Error answers one source gets (E-1).
    pub answers: Rate,
    /// Error answers all of them get from one worker.
    pub all_answers: Rate,
    /// Offences within [`Strangers::window`] that end in a ban; 0 never bans.
    pub ban_after: u32,
    /// An offence this long after the one before is the first again.
    pub window: Duration,
    /// Length of a ban.
    pub ban: Duration,
    /// Pieces of a User-Agent, lower case, that betray a scanner.
    pub scanners: Vec<String>,
    /// Sources that a worker remembers.
    pub sources: usize,
}

/// What scanners found in the wild call themselves.
pub const SCANNERS: [&str; 11] = [
    "friendly-scanner",
    "sipvicious",
    "sipcli",
    "sip-scan",
    "sipsak",
    "sundayddr",
    "iwar",
    "vaxsipuseragent",
    "pplsip",
    "smap",
    "eyebeam-scan",
];

impl Default for Strangers {
    fn default() -> Self {
        Strangers {
            messages: Rate::new(20, 40),
            all_messages: Rate::new(2000, 2000),
            answers: Rate::new(2, 10),
            all_answers: Rate::new(200, 200),
            ban_after: 50,
            window: Duration::from_secs(10),
            ban: Duration::from_secs(300),
            scanners: SCANNERS.map(str::to_owned).to_vec(),
            sources: 65_536,
        }
    }
}

impl Strangers {
    /// Everything is read and nobody is banned, but error answers are few: whose address they bear may not have asked (E-1).
    pub fn answered_seldom() -> Self {
        let all = Rate::new(1_000_000, 1_000_000);
        Strangers { messages: all, all_messages: all, ban_after: 0, scanners: Vec::new(), ..Strangers::default() }
    }
}

/// Everything the configuration says about this line; empty, it lets everybody pass.
#[derive(Clone, Debug)]
pub struct Guard {
    /// How unknown sources are treated; `None` like known ones.
    pub strangers: Option<Strangers>,
    /// Neighbours' addresses and those the operator allows or denies.
    pub networks: Networks,
    /// Banned sources.
    pub bans: Arc<Bans>,
    /// Sources that count as a neighbour's for a while: they gave good credentials, or requests of ours went there.
    pub vouched: Arc<Marks>,
    /// When new dialogs are shed; `None` never.
    pub shedding: Option<SheddingConfig>,
    /// Called numbers, digits as dialled, that are never throttled.
    pub emergency_numbers: Vec<String>,
    /// Limits of the trunks by their number.
    pub limits: Vec<Option<TrunkLimits>>,
    /// What is done about overload with the trunks, by their number.
    pub overload: Vec<Role>,
    /// Users that trunks are known by.
    pub digest: Option<Arc<Digest>>,
    /// A call whose end was not seen counts for so long after its last request.
    pub longest_call: Duration,
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            strangers: None,
            networks: Networks::default(),
            bans: Arc::default(),
            vouched: Arc::default(),
            shedding: None,
            emergency_numbers: Vec::new(),
            limits: Vec::new(),
            overload: Vec::new(),
            digest: None,
            longest_call: Duration::from_secs(43_200),
        }
    }
}

impl Guard {
    /// Gives trunks other numbers: `numbers` holds the new one at the place of the old one, all below `count`. For a configuration that is
    /// not yet in use.
    pub fn renumber(&mut self, numbers: &[TrunkId], count: usize) {
        fn moved<T: Default>(old: Vec<T>, numbers: &[TrunkId], count: usize) -> Vec<T> {
            let mut new: Vec<T> = (0..count).map(|_| T::default()).collect();
            for (value, number) in old.into_iter().zip(numbers) {
                if let Some(place) = new.get_mut(usize::from(number.0)) {
                    *place = value;
                }
            }
            new
        }
        self.limits = moved(std::mem::take(&mut self.limits), numbers, count);
        self.overload = moved(std::mem::take(&mut self.overload), numbers, count);
        if let Some(digest) = self.digest.as_mut().and_then(Arc::get_mut) {
            digest.renumber(numbers, count);
        }
    }

    /// What is done about overload with a trunk; nothing with nobody.
    pub fn role_with(&self, trunk: Option<TrunkId>) -> Role {
        trunk.and_then(|trunk| self.overload.get(usize::from(trunk.0))).copied().unwrap_or_default()
    }

    /// The limits of a trunk, if it has any.
    pub fn limits_of(&self, trunk: TrunkId) -> Option<&TrunkLimits> {
        self.limits.get(usize::from(trunk.0)).and_then(Option::as_ref)
    }
}

impl Admission {
    /// The message is to be read.
    pub fn is_heard(self) -> bool {
        matches!(self, Admission::Known | Admission::Stranger)
    }
}

/// What becomes of a message before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// From a neighbour.
    Known,
    /// From somebody else, within what one may send.
    Stranger,
    /// Not read and not answered: denied or banned.
    Banned,
    /// Not read and not answered: too many.
    TooMany,
}

/// One worker's view of the sources of its messages.
pub struct Gate {
    epoch: Instant,
    sources: Sources,
    all_messages: u64,
    all_answers: u64,
}

/// What is told when a source becomes banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Banned {
    /// Who.
    pub source: Source,
    /// Why.
    pub cause: Cause,
}

impl Gate {
    /// A gate that has seen nobody.
    pub fn new(guard: &Guard, key: [u8; 16], now: Instant) -> Self {
        guard.bans.start(now, key);
        guard.vouched.start(now, key);
        let capacity = guard.strangers.as_ref().map_or(0, |strangers| strangers.sources);
        Gate { epoch: now, sources: Sources::new(capacity, key), all_messages: 0, all_answers: 0 }
    }

    /// Goes on under another configuration.
    pub fn configure(&mut self, guard: &Guard, key: [u8; 16], now: Instant) {
        guard.bans.start(now, key);
        guard.vouched.start(now, key);
        let capacity = guard.strangers.as_ref().map_or(0, |strangers| strangers.sources);
        if !self.sources.has_room_for(capacity) {
            self.sources = Sources::new(capacity, key);
        }
    }

    /// Never 0, so that what was never set lies in the past.
    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Judges a message by its source alone. A ban that results is told.
    pub fn admit(&mut self, guard: &Guard, now: Instant, source: &Hop) -> (Admission, Option<Banned>) {
        if guard.strangers.is_none() && !guard.networks.denies() {
            return (Admission::Known, None); // all are treated alike
        }
        let address = source.remote.ip();
        let standing = guard.networks.standing(address);
        match (standing, &guard.strangers) {
            (Some(Standing::Denied), _) => return (Admission::Banned, None),
            (Some(Standing::Known), _) => return (Admission::Known, None),
            (None, _) if is_proven(source) => return (Admission::Known, None), // proved by its certificate
            (None, None) => return (Admission::Stranger, None),
            (None, Some(_)) => {}
        }
        let Some(strangers) = &guard.strangers else { return (Admission::Stranger, None) };
        let (unit, nanos) = (Source::of(address), self.nanos(now));
        if guard.bans.is_banned(unit, now) {
            return (Admission::Banned, None);
        }
        if guard.vouched.is_marked(unit, now) {
            return (Admission::Known, None);
        }
        let record = self.sources.get(unit, nanos);
        if !strangers.messages.take(&mut record.messages, nanos) {
            return (Admission::TooMany, self.offence(guard, now, source, Cause::Rate));
        }
        if !strangers.all_messages.take(&mut self.all_messages, nanos) {
            return (Admission::TooMany, None);
        }
        (Admission::Stranger, None)
    }

    /// Bans a stranger whose message bears the signature of a scanner.
    pub fn screen(&self, guard: &Guard, now: Instant, source: &Hop, message: Message<'_>) -> Option<Banned> {
        let strangers = guard.strangers.as_ref()?;
        let names = [Name::UserAgent, Name::Server];
        let value = names.into_iter().find_map(|name| message.field(name))?.value();
        if !strangers.scanners.iter().any(|scanner| contains(value, scanner.as_bytes())) {
            return None;
        }
        let unit = Source::of(source.remote.ip());
        guard.bans.ban(unit, now, strangers.ban, Cause::Scanner);
        Some(Banned { source: unit, cause: Cause::Scanner })
    }

    /// Whether a source may get one more error answer (E-1). Known ones always get theirs.
    pub fn may_answer(&mut self, guard: &Guard, now: Instant, source: &Hop) -> (bool, Option<Banned>) {
        let Some(strangers) = &guard.strangers else { return (true, None) };
        if is_proven(source) || guard.networks.standing(source.remote.ip()).is_some() {
            return (true, None);
        }
        let (unit, nanos) = (Source::of(source.remote.ip()), self.nanos(now));
        if guard.vouched.is_marked(unit, now) {
            return (true, None);
        }
        let record = self.sources.get(unit, nanos);
        if !strangers.answers.take(&mut record.answers, nanos) {
            return (false, self.offence(guard, now, source, Cause::Rate));
        }
        (strangers.all_answers.take(&mut self.all_answers, nanos), None)
    }

    /// Notes an offence of a stranger; enough of them are a ban.
    pub fn offence(&mut self, guard: &Guard, now: Instant, source: &Hop, cause: Cause) -> Option<Banned> {
        let strangers = guard.strangers.as_ref().filter(|strangers| strangers.ban_after > 0)?;
        if guard.networks.standing(source.remote.ip()).is_some() {
            return None;
        }
        let (unit, nanos) = (Source::of(source.remote.ip()), self.nanos(now));
        let record = self.sources.get(unit, nanos);
        let window = u64::try_from(strangers.window.as_nanos()).unwrap_or(u64::MAX);
        if nanos.saturating_sub(record.offended) > window {
            record.offences = 0;
        }
        (record.offences, record.offended) = (record.offences.saturating_add(1), nanos);
        if record.offences < strangers.ban_after || guard.vouched.is_marked(unit, now) {
            return None;
        }
        record.offences = 0;
        guard.bans.ban(unit, now, strangers.ban, cause);
        Some(Banned { source: unit, cause })
    }

    /// Lets a source count as a neighbour's for a while: it gave good credentials, or requests of ours go there.
    pub fn vouch(&self, guard: &Guard, now: Instant, address: std::net::IpAddr, time: Duration) {
        if guard.strangers.is_some() && guard.networks.standing(address).is_none() {
            guard.vouched.mark(Source::of(address), now, time, 0);
        }
    }
}

/// TLS has proven who it is.
fn is_proven(source: &Hop) -> bool {
    source.peer.is_some() && source.transport.is_secure()
}

/// `needle`, lower case, occurs in `value` in any case.
fn contains(value: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && value.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle))
}

#[cfg(test)]
mod tests;
