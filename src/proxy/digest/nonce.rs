//! Nonces and their counts (RFC 7616 3.3, 5.4). A nonce carries its time and number under a keyed hash, so that challenges cost no
//! memory; only nonces that were answered rightly are remembered, for their counts.

use std::collections::HashMap;
use std::sync::Mutex;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Octets of time and number, and of the keyed hash behind them.
const CLAIM: usize = 16;
const MAC: usize = 16;
/// Shards of the table of counts, so that workers seldom wait for each other.
const SHARDS: usize = 16;
/// Nonces remembered per shard.
const PER_SHARD: usize = 4096;

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
    /// There is no room to remember it.
    NoRoom,
}

/// The counts of all nonces in use; one for all workers.
#[derive(Default)]
pub struct Counts {
    shards: [Mutex<HashMap<u64, Window>>; SHARDS],
}

impl Counts {
    /// Notes a count. Nonces made before `oldest` are forgotten where room is needed: they are not accepted any more.
    pub fn note(&self, claim: Claim, count: u32, oldest: i64) -> Count {
        let Some(shard) = self.shards.get(claim.number as usize % SHARDS) else { return Count::NoRoom };
        let mut shard = shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if shard.len() >= PER_SHARD && !shard.contains_key(&claim.number) {
            shard.retain(|_, window| window.made >= oldest);
            if shard.len() >= PER_SHARD {
                return Count::NoRoom;
            }
        }
        let window = shard.entry(claim.number).or_insert(Window { largest: 0, seen: 0, made: claim.made });
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
    fn room_is_bounded_and_comes_back_with_age() {
        let counts = Counts::default();
        let at = |number: u64, made| Claim { made, number: number * SHARDS as u64 };
        for number in 0..PER_SHARD as u64 {
            assert_eq!(counts.note(at(number, 100), 1, 0), Count::Fresh);
        }
        assert_eq!(counts.note(at(999_999, 100), 1, 100), Count::NoRoom);
        assert_eq!(counts.note(at(5, 100), 1, 100), Count::Used, "who is remembered still is");
        assert_eq!(counts.note(at(999_999, 200), 1, 101), Count::Fresh);
    }
}
