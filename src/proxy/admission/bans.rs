//! Marks on sources, such as bans: node-wide, of fixed size, without a lock. A worker that finds an offender writes it; all workers
//! read it before they parse; an operator lists it.

use std::fmt;
use std::hash::Hasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use super::networks::Source;

/// Entries that one source may lie in.
const WAYS: usize = 8;

/// Why a source is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// More messages, or more refused requests, than one source may send.
    Rate,
    /// The signature of a scanner.
    Scanner,
    /// Wrong credentials, again and again.
    Credentials,
}

impl Cause {
    const ALL: [Cause; 3] = [Cause::Rate, Cause::Scanner, Cause::Credentials];

    /// A word for logs and lists.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Rate => "rate",
            Cause::Scanner => "scanner",
            Cause::Credentials => "credentials",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One banned source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Its address, or its IPv6 /64.
    pub network: IpNet,
    /// How long the ban still lasts.
    pub left: Duration,
    /// Why.
    pub cause: Cause,
}

#[derive(Default)]
struct Slot {
    source: AtomicU64,
    /// End of the mark in nanoseconds since the epoch, its lowest two bits a tag; 0 is nobody.
    until: AtomicU64,
}

/// Sources with a mark that ends. When a place is contested, the mark that ends first gives way.
#[derive(Default)]
pub struct Marks {
    slots: Box<[Slot]>,
    /// Where times begin, and the key of the hash: from whoever comes first.
    start: OnceLock<(Instant, [u8; 16])>,
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks").field("capacity", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Marks {
    /// Room for about `capacity` marks, all of it taken now: 16 octets each.
    pub fn new(capacity: usize) -> Self {
        let sets = capacity.div_ceil(WAYS).next_power_of_two();
        Marks { slots: (0..sets * WAYS).map(|_| Slot::default()).collect(), start: OnceLock::new() }
    }

    /// Marks there is room for.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Gives the hash its secret key and time its beginning; only the first call counts.
    pub fn start(&self, now: Instant, key: [u8; 16]) {
        let _ = self.start.set((now, key));
    }

    fn set(&self, source: Source) -> &[Slot] {
        let sets = self.slots.len() / WAYS;
        let Some((_, key)) = self.start.get().filter(|_| sets > 0) else { return &[] };
        let mut hasher = SipHasher13::new_with_key(key);
        hasher.write_u64(source.number());
        let first = (hasher.finish() as usize & (sets - 1)) * WAYS;
        self.slots.get(first..first + WAYS).unwrap_or_default()
    }

    fn slot(&self, source: Source) -> Option<&Slot> {
        self.set(source).iter().find(|slot| slot.source.load(Ordering::Relaxed) == source.number())
    }

    /// Nanoseconds since the start, never so few that they read as nobody.
    fn nanos(&self, at: Instant) -> u64 {
        let elapsed = self.start.get().map_or(Duration::ZERO, |(start, _)| at.saturating_duration_since(*start));
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).max(8)
    }

    /// Whether a source is marked.
    pub fn is_marked(&self, source: Source, now: Instant) -> bool {
        self.slot(source).is_some_and(|slot| slot.until.load(Ordering::Relaxed) & !3 > self.nanos(now))
    }

    /// Marks a source, with a tag of two bits. A longer mark that it has already stays.
    pub fn mark(&self, source: Source, now: Instant, length: Duration, tag: u64) {
        let first_to_end = || self.set(source).iter().min_by_key(|slot| slot.until.load(Ordering::Relaxed));
        let Some(slot) = self.slot(source).or_else(first_to_end) else { return };
        let until = self.nanos(now + length) & !3 | tag & 3;
        // Two workers may meet here: one mark is lost then, and comes back with its next reason.
        if slot.source.swap(source.number(), Ordering::Relaxed) == source.number() {
            slot.until.fetch_max(until, Ordering::Relaxed);
        } else {
            slot.until.store(until, Ordering::Relaxed);
        }
    }

    /// Takes the mark from a source. Whether there was one.
    pub fn lift(&self, source: Source, now: Instant) -> bool {
        let was_marked = self.is_marked(source, now);
        if let Some(slot) = self.slot(source) {
            slot.until.store(0, Ordering::Relaxed);
        }
        was_marked
    }

    /// All marks that have not ended: source, time left, tag.
    fn iter(&self, now: Instant) -> impl Iterator<Item = (Source, Duration, u64)> {
        let now = self.nanos(now);
        self.slots.iter().filter_map(move |slot| {
            let (source, until) = (slot.source.load(Ordering::Relaxed), slot.until.load(Ordering::Relaxed));
            let left = until.checked_sub(now).filter(|left| *left > 0 && source != 0)?;
            Some((Source::from_number(source), Duration::from_nanos(left), until & 3))
        })
    }
}

/// Banned sources.
#[derive(Debug, Default)]
pub struct Bans(Marks);

impl Bans {
    /// Room for about `capacity` bans.
    pub fn new(capacity: usize) -> Self {
        Bans(Marks::new(capacity))
    }

    /// Bans there is room for.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// As [`Marks::start`].
    pub fn start(&self, now: Instant, key: [u8; 16]) {
        self.0.start(now, key);
    }

    /// Whether a source is banned.
    pub fn is_banned(&self, source: Source, now: Instant) -> bool {
        self.0.is_marked(source, now)
    }

    /// Bans a source. A longer ban that it has already stays.
    pub fn ban(&self, source: Source, now: Instant, length: Duration, cause: Cause) {
        self.0.mark(source, now, length, cause as u64);
    }

    /// Lifts the ban on a source. Whether there was one.
    pub fn lift(&self, source: Source, now: Instant) -> bool {
        self.0.lift(source, now)
    }

    /// All bans that have not ended, the longest first.
    pub fn list(&self, now: Instant) -> Vec<Ban> {
        let mut list: Vec<_> = self
            .0
            .iter(now)
            .map(|(source, left, tag)| {
                let cause = Cause::ALL.get(tag as usize).copied().unwrap_or(Cause::Rate);
                Ban { network: source.network(), left, cause }
            })
            .collect();
        list.sort_by_key(|ban| std::cmp::Reverse(ban.left));
        list
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn source(number: u32) -> Source {
        Source::of(IpAddr::V4(Ipv4Addr::from(number)))
    }

    #[test]
    fn bans_end_and_can_be_listed_and_lifted() {
        let (bans, start) = (Bans::new(64), crate::node::clock::instant());
        bans.ban(source(1), start, Duration::from_secs(9), Cause::Rate);
        assert!(!bans.is_banned(source(1), start), "nothing before the start");
        bans.start(start, [1; 16]);
        bans.ban(source(1), start, Duration::from_secs(10), Cause::Scanner);
        bans.ban(source(2), start, Duration::from_secs(20), Cause::Credentials);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(bans.is_banned(source(1), at(9)) && !bans.is_banned(source(1), at(10)));
        assert!(!bans.is_banned(source(3), at(1)));
        bans.ban(source(2), at(1), Duration::from_secs(1), Cause::Rate);
        let list = bans.list(at(1));
        let seen: Vec<_> =
            list.iter().map(|b| (b.network.to_string(), b.left.as_secs_f64().round(), b.cause)).collect();
        assert_eq!(seen, [("0.0.0.2/32".into(), 19.0, Cause::Credentials), ("0.0.0.1/32".into(), 9.0, Cause::Scanner)]);
        assert!(bans.lift(source(2), at(1)) && !bans.lift(source(2), at(1)) && !bans.is_banned(source(2), at(1)));
    }

    #[test]
    fn a_flood_of_bans_takes_no_more_room_and_keeps_the_longest() {
        let (bans, start) = (Bans::new(64), crate::node::clock::instant());
        bans.start(start, [7; 16]);
        bans.ban(source(0), start, Duration::from_secs(3600), Cause::Scanner);
        for n in 1..10_000 {
            bans.ban(source(n), start, Duration::from_secs(60), Cause::Rate);
        }
        assert_eq!(bans.list(start).len(), 64);
        assert!(bans.is_banned(source(0), start));
    }
}
