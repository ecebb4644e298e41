//! Tokens seen of late, to tell a replay (RFC 8224 12.1). One table per node: a replay has another Call-ID, so another worker.
use aws_lc_rs::digest::{self, Digest};
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use std::collections::VecDeque;
use std::hash::Hasher as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Bounds of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayConfig {
    /// Most tokens remembered, all shards together.
    pub capacity: usize,
    /// Number of shards, each with its own lock.
    pub shards: usize,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self { capacity: 1 << 18, shards: 64 }
    }
}

/// What the table knows of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// First time; it is remembered now.
    First,
    /// Before, in the same call: a retransmission, a fork or a spiral.
    SameCall,
    /// Before, in another call.
    OtherCall,
    /// No room to remember: nothing can be said.
    Full,
}

/// A bounded table of tokens, sharded by the first octets of their keys.
///
/// The key is the SHA-256 of the signing input, which names the signer in its header, and of the r half of the signature. A third party
/// can turn s into n-s without breaking a signature, so s stays out; nobody but the signer can make another r.
/// With it two calls of one caller to one callee in the same second, whose baseline claims are equal, are two tokens and no replay.
/// Scope is the Call-ID.
#[derive(Clone, Debug)]
pub struct ReplayTable {
    /// Shared by all clones: a new configuration keeps what was seen under the old one.
    shards: Arc<[Mutex<Shard>]>,
    per_shard: usize,
    key: [u8; 16],
}

#[derive(Debug, Default)]
struct Shard {
    /// Places in `entries`, counted from the first entry ever: place minus `base` is the index.
    index: HashTable<u64>,
    /// In the order of insertion, which is nearly the order of expiry.
    entries: VecDeque<Entry>,
    base: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    token: [u8; 32],
    call: u64,
    until: i64,
}

impl Default for ReplayTable {
    /// Usual bounds and a key that everybody knows: for tests.
    fn default() -> Self {
        Self::new(ReplayConfig::default(), [0; 16])
    }
}

impl ReplayTable {
    /// An empty table; `key` is random and keeps Call-IDs from being made to collide.
    pub fn new(config: ReplayConfig, key: [u8; 16]) -> Self {
        let count = config.shards.max(1);
        let shards = (0..count).map(|_| Mutex::default()).collect();
        Self { shards, per_shard: config.capacity.div_ceil(count).max(1), key }
    }

    /// Looks a token up and remembers it until `until` (UNIX seconds), which is at least its freshness and the skew from now.
    /// `signing_input` is the SHA-256 of its signing input, `signature` r and s of 32 octets each. One short lock.
    pub fn check(&self, unix: i64, until: i64, signing_input: &Digest, signature: &[u8; 64], call_id: &[u8]) -> Seen {
        let (r, _) = signature.split_at(32);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(signing_input.as_ref());
        context.update(r);
        let Ok(token) = <[u8; digest::SHA256_OUTPUT_LEN]>::try_from(context.finish().as_ref()) else {
            return Seen::Full;
        };
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(call_id);
        let entry = Entry { token, call: hasher.finish(), until };
        let place = usize::from(u16::from_be_bytes([token[0], token[1]])) % self.shards.len();
        // A poisoned lock means a panic between two complete states at worst: the table holds no invariant that could be torn
        // beyond a place that is not found.
        let mut shard = self.shards[place].lock().unwrap_or_else(PoisonError::into_inner);
        shard.check(unix, entry, self.per_shard)
    }

    /// How many tokens are remembered, expired ones included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).entries.len()).sum()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The digest is uniform already: eight octets of it are its hash.
fn hash(token: &[u8; 32]) -> u64 {
    token.last_chunk::<8>().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

impl Shard {
    fn entry(&self, place: u64) -> Option<&Entry> {
        usize::try_from(place.wrapping_sub(self.base)).ok().and_then(|index| self.entries.get(index))
    }

    fn check(&mut self, unix: i64, new: Entry, capacity: usize) -> Seen {
        self.expire(unix);
        let same = |place: &u64| self.entry(*place).is_some_and(|entry| entry.token == new.token);
        if let Some(known) = self.index.find(hash(&new.token), same).and_then(|place| self.entry(*place)) {
            return if known.call == new.call { Seen::SameCall } else { Seen::OtherCall };
        }
        if self.entries.len() >= capacity {
            return Seen::Full;
        }
        let place = self.base + self.entries.len() as u64;
        self.entries.push_back(new);
        let (entries, base) = (&self.entries, self.base);
        // Every place in the index has its entry: both are inserted and removed together.
        let rehash = |place: &u64| entries.get((place - base) as usize).map_or(0, |entry| hash(&entry.token));
        self.index.insert_unique(hash(&new.token), place, rehash);
        Seen::First
    }

    fn expire(&mut self, unix: i64) {
        while let Some(oldest) = self.entries.front().copied().filter(|oldest| oldest.until < unix) {
            let base = self.base;
            if let Ok(found) = self.index.find_entry(hash(&oldest.token), |place| *place == base) {
                found.remove();
            }
            self.entries.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: [u8; 64] = [1; 64];

    fn token(text: &str) -> Digest {
        digest::digest(&digest::SHA256, text.as_bytes())
    }

    #[test]
    fn replay_is_scoped_by_call_id() {
        let table = ReplayTable::new(ReplayConfig::default(), [7; 16]);
        assert_eq!(table.check(100, 220, &token("a"), &SIGNATURE, b"call-1"), Seen::First);
        assert_eq!(table.check(101, 221, &token("a"), &SIGNATURE, b"call-1"), Seen::SameCall);
        assert_eq!(table.check(102, 222, &token("a"), &SIGNATURE, b"call-2"), Seen::OtherCall);
        assert_eq!(table.check(102, 222, &token("b"), &SIGNATURE, b"call-2"), Seen::First);
        assert_eq!(table.check(220, 340, &token("a"), &SIGNATURE, b"call-2"), Seen::OtherCall, "remembered until 220");
        assert_eq!(table.check(221, 341, &token("a"), &SIGNATURE, b"call-2"), Seen::First, "forgotten after 220");
    }

    #[test]
    fn r_belongs_to_the_token_and_s_does_not() {
        let table = ReplayTable::default();
        let (mut other_r, mut other_s) = (SIGNATURE, SIGNATURE);
        (other_r[31], other_s[63]) = (2, 2);
        assert_eq!(table.check(0, 10, &token("a"), &SIGNATURE, b"call-1"), Seen::First);
        assert_eq!(table.check(0, 10, &token("a"), &other_s, b"call-2"), Seen::OtherCall, "n-s verifies too");
        assert_eq!(table.check(0, 10, &token("a"), &other_r, b"call-2"), Seen::First, "signed anew");
    }

    #[test]
    fn a_full_table_says_so_and_recovers() {
        let table = ReplayTable::new(ReplayConfig { capacity: 8, shards: 1 }, [0; 16]);
        for n in 0..8 {
            assert_eq!(table.check(0, 10, &token(&n.to_string()), &SIGNATURE, b"c"), Seen::First);
        }
        assert_eq!(table.check(10, 20, &token("new"), &SIGNATURE, b"c"), Seen::Full);
        assert_eq!(table.check(10, 20, &token("3"), &SIGNATURE, b"d"), Seen::OtherCall);
        for n in 100..108 {
            assert_eq!(table.check(11, 21, &token(&n.to_string()), &SIGNATURE, b"c"), Seen::First);
        }
        assert_eq!(table.len(), 8);
        assert_eq!(table.check(11, 21, &token("105"), &SIGNATURE, b"d"), Seen::OtherCall);
    }
}
