//! The order in which the members of a trunk are tried. Nothing is allocated: a key is computed for each member that may be tried, and
//! the keys are sorted.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::{Algorithm, AllDown, Dispatcher, MAX_MEMBERS, Member};

/// What a choice depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Hash of what the trunk's algorithm looks at; `None` if the request has no such thing: round robin then.
    pub key: Option<u64>,
    /// Drawn for this request.
    pub random: u64,
    /// The time, Unix seconds.
    pub unix: i64,
    /// It begins a call: members that have as many as they may get none.
    pub is_call: bool,
    /// It may go where no call more may go (E-12).
    pub is_emergency: bool,
}

/// Places of members in the order of their trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    places: [u8; MAX_MEMBERS],
    len: usize,
    /// Bit i: the member at i is not tried together with the one before it, where members are tried at once.
    starts: u128,
    /// Some member has as many calls as it may have.
    pub has_full: bool,
}

impl Choice {
    fn none() -> Self {
        Choice { places: [0; MAX_MEMBERS], len: 0, starts: 0, has_full: false }
    }

    fn push(&mut self, place: u8, starts: bool) {
        if let Some(slot) = self.places.get_mut(self.len) {
            *slot = place;
            self.starts |= u128::from(starts) << self.len;
            self.len += 1;
        }
    }

    /// Nobody may be tried.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The places, and whether each begins a new group.
    pub fn iter(&self) -> impl Iterator<Item = (usize, bool)> {
        let places = self.places.iter().take(self.len).enumerate();
        places.map(|(i, place)| (usize::from(*place), i == 0 || self.starts >> i & 1 == 1))
    }

    /// The places alone.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        self.iter().map(|(place, _)| place)
    }
}

/// Order of a member: whether it is down, its priority, its rank among those, its place; each in its own bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Key(u64);

impl Key {
    fn new(is_down: bool, priority: u16, rank: u32, place: usize) -> Self {
        Key(u64::from(is_down) << 56 | u64::from(priority) << 40 | u64::from(rank) << 8 | place as u64 & 0xff)
    }

    fn place(self) -> u8 {
        self.0 as u8
    }

    fn rank(self) -> u32 {
        (self.0 >> 8) as u32
    }

    /// What the members of one group have in common.
    fn group(self) -> u64 {
        self.0 >> 40
    }

    fn is_down(self) -> bool {
        self.0 >> 56 & 1 == 1
    }
}

impl Dispatcher {
    /// Chooses for a request that is not in a dialog among `count` next hops, which are those of the members where there are any.
    pub fn choose(&self, count: usize, asked: &Asked) -> Choice {
        let mut choice = Choice::none();
        if self.members.is_empty() {
            (0..count.min(MAX_MEMBERS)).for_each(|place| choice.push(place as u8, false));
            return choice;
        }
        if let [only] = self.members.as_slice() {
            if let Some(is_down) = self.standing(only, asked, &mut choice)
                && !(is_down && self.all_down == AllDown::Reject)
            {
                choice.push(0, true);
            }
            return choice;
        }
        let mut keys = [Key::default(); MAX_MEMBERS];
        let len = self.rank_all(asked, &mut choice, &mut keys);
        let keys = keys.get_mut(..len).unwrap_or_default();
        keys.sort_unstable();
        self.turn_groups(asked, keys);
        let mut group = None;
        for key in keys.iter() {
            choice.push(key.place(), group.replace(key.group()) != Some(key.group()));
        }
        if let AllDown::Member(reserve) = self.all_down
            && let Some(member) = self.members.get(usize::from(reserve))
            && self.standing(member, asked, &mut choice).is_some()
        {
            choice.push(reserve as u8, true);
        }
        choice
    }

    /// Whether a member is down; `None` if it may not be tried at all.
    fn standing(&self, member: &Member, asked: &Asked, choice: &mut Choice) -> Option<bool> {
        if !member.destination.is_open() {
            return None;
        }
        if asked.is_call && !asked.is_emergency && member.is_full() {
            choice.has_full = true;
            return None;
        }
        Some(member.destination.is_down(asked.unix, member.is_probed))
    }

    /// Computes the key of each member that may be tried; how many there are.
    fn rank_all(&self, asked: &Asked, choice: &mut Choice, keys: &mut [Key; MAX_MEMBERS]) -> usize {
        let mut free = keys.iter_mut();
        let mut len = 0;
        for (place, member) in self.members.iter().enumerate() {
            if matches!(self.all_down, AllDown::Member(reserve) if usize::from(reserve) == place) {
                continue; // the last resort takes no part
            }
            let Some(is_down) = self.standing(member, asked, choice) else { continue };
            if is_down && self.all_down != AllDown::TryAnyway {
                continue;
            }
            // D-6: of those that are down the one first that failed least recently.
            let rank = if is_down { member.destination.health.until() } else { self.rank(member, place, asked) };
            let Some(key) = free.next() else { break };
            *key = Key::new(is_down, member.priority, rank, place);
            len += 1;
        }
        len
    }

    /// Lower ranks are tried first among members of one priority.
    fn rank(&self, member: &Member, place: usize, asked: &Asked) -> u32 {
        let drawn = || mix(asked.random ^ (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match self.algorithm {
            Algorithm::Serial | Algorithm::Parallel | Algorithm::RoundRobin => 0,
            Algorithm::Random => (drawn() >> 32) as u32,
            Algorithm::Weighted => lot(drawn(), member.weight.into()),
            Algorithm::Srv => lot(drawn(), member.weight.max(1).into()), // RFC 2782: 0 is a very small chance
            Algorithm::LeastCalls => member.limits.calls(),
            Algorithm::Latency => {
                member.latency().map_or(0, |latency| u32::try_from(latency.as_micros()).unwrap_or(u32::MAX))
            }
            _ => asked.key.map_or(0, |key| !((score(self.seeds.get(place), key) >> 32) as u32)),
        }
    }

    /// Where the order within a group is by turns: moves each request's start one further.
    fn turn_groups(&self, asked: &Asked, keys: &mut [Key]) {
        let by_turns = match self.algorithm {
            Algorithm::RoundRobin | Algorithm::Latency => true,
            algorithm => algorithm.is_hash() && asked.key.is_none(),
        };
        if !by_turns {
            return;
        }
        let turn = self.turn();
        for group in keys.chunk_by_mut(|a, b| a.group() == b.group()) {
            if group.first().is_some_and(|key| key.is_down()) {
                continue;
            }
            let equals = if self.algorithm == Algorithm::Latency { as_fast_as_the_best(group) } else { group.len() };
            if let Some(equals) = group.get_mut(..equals).filter(|equals| equals.len() > 1) {
                let by = turn % equals.len();
                equals.rotate_left(by);
            }
        }
    }
}

/// How many at the head of a group, which is in the order of latency, are not noticeably slower than the fastest: within a tenth and a
/// millisecond. Those without a measurement count as fast, so that they get one.
fn as_fast_as_the_best(group: &[Key]) -> usize {
    let best = group.iter().map(|key| key.rank()).find(|micros| *micros > 0).unwrap_or(0);
    let limit = best.saturating_add(best / 10).saturating_add(1000);
    group.iter().take_while(|key| key.rank() <= limit).count()
}

/// A place in a draw by weight without replacement (Efraimidis and Spirakis): with an exponential waiting time of rate `weight` for
/// each, they come in the order of a draw. Weight 0 comes last. Bits of a positive float are in the order of its values.
fn lot(random: u64, weight: u32) -> u32 {
    if weight == 0 {
        return u32::MAX;
    }
    let uniform = ((random >> 11) + 1) as f64 / (1u64 << 53) as f64; // above 0, up to 1
    ((-uniform.ln() / f64::from(weight)) as f32).to_bits()
}

/// Spreads the bits of a number (the finalizer of SplitMix64).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Rendezvous hashing: the member with the highest score is first, so one that goes moves only its own share. The key is no secret:
/// edges side by side must choose alike.
fn score(seed: Option<&u64>, key: u64) -> u64 {
    mix(key ^ seed.copied().unwrap_or_default())
}

/// For numbers that are the same on every edge.
pub fn hasher() -> SipHasher13 {
    SipHasher13::new_with_key(b"vesperd dispatch")
}

/// The number of a text.
pub fn hash(text: &[u8]) -> u64 {
    let mut hasher = hasher();
    hasher.write(text);
    hasher.finish()
}
