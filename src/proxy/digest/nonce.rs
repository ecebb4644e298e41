//! Nonces and their counts (RFC 7616 3.3, 5.4). A nonce carries its time and number under a keyed hash, so that challenges cost no
//! memory; only nonces that were answered rightly are remembered, for their counts.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Octets of time and number, and of the keyed hash behind them.
const CLAIM: usize = 16;
const MAC: usize = 16;
/// Shards of the table of counts, so that workers seldom wait for each other.
const SHARDS: usize = 16;
/// Nonces in use that are remembered by default: 300 seconds of 870 new ones each.
pub const NONCES: usize = 262_144;

/// Makes nonces and knows them again.
pub struct Nonces {
    key: hmac::Key,
}

/// What a nonce says, if it is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// When it was made, Unix seconds.
    pub made: i64,
    /// Its number: no two nonces of a time have the same.
    pub number: u64,
}

impl Nonces {
    /// Nonces under a secret key.
    pub fn new(key: &[u8]) -> Self {
        Nonces { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    fn mac(&self, realm: &str, claim: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(claim);
        context.update(realm.as_bytes());
        context.sign()
    }

    /// A new nonce for a realm.
    pub fn make(&self, realm: &str, claim: Claim) -> String {
        let mut octets = [0; CLAIM + MAC];
        let (head, tail) = octets.split_at_mut(CLAIM);
        let (made, number) = head.split_at_mut(CLAIM / 2);
        made.copy_from_slice(&claim.made.to_be_bytes());
        number.copy_from_slice(&claim.number.to_be_bytes());
        for (to, from) in tail.iter_mut().zip(self.mac(realm, head).as_ref()) {
            *to = *from;
        }
        URL_SAFE_NO_PAD.encode(octets)
    }

    /// Reads a nonce; `None` if it was not made here for this realm.
    pub fn read(&self, realm: &str, nonce: &[u8]) -> Option<Claim> {
        let mut octets = [0; CLAIM + MAC + 2];
        let len = URL_SAFE_NO_PAD.decode_slice(nonce, &mut octets).ok().filter(|len| *len == CLAIM + MAC)?;
        let (claim, mac) = octets.get(..len)?.split_at_checked(CLAIM)?;
        let tag = self.mac(realm, claim);
        constant_time::verify_slices_are_equal(mac, tag.as_ref().get(..MAC)?).ok()?;
        let number = |range: std::ops::Range<usize>| claim.get(range)?.try_into().ok().map(u64::from_be_bytes);
        Some(Claim { made: number(0..8)? as i64, number: number(8..16)? })
    }
}

/// Counts seen with each nonce: the largest, and which of the 64 up to it.
#[derive(Clone, Copy)]
struct Window {
    largest: u32,
    seen: u64,
    made: i64,
}

/// What a count means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Not used before.
    Fresh,
    /// Used, or too old to tell.
    Used,
}

/// Counts of some of the nonces.
#[derive(Default)]
struct Shard {
    windows: HashMap<u64, Window>,
    /// Their numbers in the order of their first use.
    order: VecDeque<u64>,
    /// Nonces made up to this second may have been forgotten.
    forgotten: Option<i64>,
}

/// The counts of all nonces in use; one for all workers. Where there is no room the one that was first used longest ago is forgotten:
/// it, and what was made before it and was not used yet, is not good any more.
pub struct Counts {
    shards: [Mutex<Shard>; SHARDS],
    /// Nonces per shard.
    room: AtomicUsize,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { shards: Default::default(), room: AtomicUsize::new(NONCES / SHARDS) }
    }
}

impl Counts {
    /// Room for so many nonces.
    pub fn with_room(nonces: usize) -> Self {
        let counts = Counts::default();
        counts.set_room(nonces);
        counts
    }

    /// Nonces that are remembered.
    pub fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed) * SHARDS
    }

    /// Room for so many nonces from now on.
    pub fn set_room(&self, nonces: usize) {
        self.room.store(nonces.div_ceil(SHARDS).max(1), Ordering::Relaxed);
    }

    /// Notes a count. Nonces made before `oldest` are not accepted any more and forgotten first.
    pub fn note(&self, claim: Claim, count: u32, oldest: i64) -> Count {
        let Some(shard) = self.shards.get(claim.number as usize % SHARDS) else { return Count::Used };
        let mut shard = shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shard.note(claim, count, oldest, self.room.load(Ordering::Relaxed))
    }
}

impl Shard {
    fn note(&mut self, claim: Claim, count: u32, oldest: i64, room: usize) -> Count {
        if !self.windows.contains_key(&claim.number) {
            if self.forgotten.is_some_and(|made| claim.made <= made) {
                return Count::Used;
            }
            self.make_room(oldest, room);
            self.order.push_back(claim.number);
        }
        let window = self.windows.entry(claim.number).or_insert(Window { largest: 0, seen: 0, made: claim.made });
        if count > window.largest {
            window.seen = window.seen.checked_shl(count - window.largest).unwrap_or(0) | 1;
            window.largest = count;
            return Count::Fresh;
        }
        let bit = 1u64.checked_shl(window.largest - count).unwrap_or(0);
        if bit == 0 || window.seen & bit != 0 {
            return Count::Used;
        }
        window.seen |= bit;
        Count::Fresh
    }

    /// Forgets what is too old to be accepted, a little at a time, and what there is no room for.
    fn make_room(&mut self, oldest: i64, room: usize) {
        for _ in 0..4 {
            let Some(first) = self.order.front() else { return };
            let Some(made) = self.windows.get(first).map(|window| window.made) else { return };
            let is_over = made < oldest;
            if !is_over && self.windows.len() < room {
                return;
            }
            if !is_over {
                self.forgotten = self.forgotten.max(Some(made));
            }
            if let Some(number) = self.order.pop_front() {
                self.windows.remove(&number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_are_known_again_by_their_maker_only() {
        let (ours, theirs) = (Nonces::new(&[1; 16]), Nonces::new(&[2; 16]));
        let claim = Claim { made: 1_795_219_200, number: 42 };
        let nonce = ours.make("a", claim);
        assert_eq!(ours.read("a", nonce.as_bytes()), Some(claim));
        assert_eq!(ours.read("b", nonce.as_bytes()), None);
        assert_eq!(theirs.read("a", nonce.as_bytes()), None);
        for at in 0..nonce.len() {
            let mut other = nonce.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert_ne!(ours.read("a", &other), Some(claim), "{at}");
        }
        for bad in [&b""[..], b"x", b"!!!!", "A".repeat(1000).as_bytes()] {
            assert_eq!(ours.read("a", bad), None);
        }
    }

    #[test]
    fn each_count_is_good_once_and_may_come_a_little_late() {
        let counts = Counts::default();
        let claim = Claim { made: 100, number: 7 };
        let note = |count| counts.note(claim, count, 0);
        assert_eq!([note(1), note(1), note(3), note(2), note(2), note(3)], {
            use Count::{Fresh, Used};
            [Fresh, Used, Fresh, Fresh, Used, Used]
        });
        assert_eq!([note(100), note(37), note(36), note(101)], [Count::Fresh, Count::Fresh, Count::Used, Count::Fresh]);
        assert_eq!(counts.note(Claim { number: 8, ..claim }, 1, 0), Count::Fresh);
    }

    #[test]
    fn v9_room_is_bounded_and_the_oldest_nonce_goes_first() {
        let counts = Counts::with_room(SHARDS * 100);
        assert_eq!(counts.room(), SHARDS * 100);
        let at = |number: u64, made| Claim { made, number: number * SHARDS as u64 };
        let size = || counts.shards[0].lock().unwrap().windows.len();
        for number in 0..100 {
            assert_eq!(counts.note(at(number, 100 + number as i64), 1, 0), Count::Fresh);
        }
        for number in 100..1_000 {
            assert_eq!(counts.note(at(number, 100 + number as i64), 1, 0), Count::Fresh, "newer ones always find room");
        }
        assert_eq!(size(), 100);
        assert_eq!(counts.note(at(999, 1_099), 1, 0), Count::Used, "who is remembered still is");
        assert_eq!(counts.note(at(5, 105), 1, 0), Count::Used, "a forgotten one is never good again");
        assert_eq!(counts.note(at(5, 105), 2, 0), Count::Used);
        // Age gives room without a loss.
        for number in 2_000..2_030 {
            assert_eq!(counts.note(at(number, 5_000), 1, 4_900), Count::Fresh);
        }
        assert_eq!(size(), 30);
        counts.set_room(SHARDS * 10);
        for number in 3_000..3_010 {
            assert_eq!(counts.note(at(number, 6_000), 1, 4_900), Count::Fresh);
        }
        assert_eq!(size(), 10, "less room after a reload");
    }
}
