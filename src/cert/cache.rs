//! A bounded map from raw protected headers to verdicts, for one worker.

use std::sync::Arc;

use hashbrown::HashTable;

/// Bounds of a [`ChainCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Most entries; default 8192.
    pub max_entries: usize,
    /// Most octets of keys, all together; default 32 MiB. A longer key is never kept.
    pub max_key_octets: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { max_entries: 8192, max_key_octets: 32 * 1024 * 1024 }
    }
}

/// Verdicts by the raw octets of a token's protected header.
///
/// The caller hashes the key with a keyed hash; keys are compared in full, so a collision costs time and nothing else. An entry serves
/// until it expires and only in the epoch (the trust store's generation) it was made in. When full, entries that were not asked for since
/// the hand last passed go first (second chance). A negative verdict is a value like any other, with a short expiry.
#[derive(Debug)]
pub struct ChainCache<V> {
    limits: CacheLimits,
    index: HashTable<usize>,
    slots: Vec<Slot<V>>,
    key_octets: usize,
    hand: usize,
}

#[derive(Debug)]
struct Slot<V> {
    hash: u64,
    key: Box<[u8]>,
    value: Arc<V>,
    epoch: u64,
    /// Last second at which the entry serves, Unix seconds.
    until: i64,
    used: bool,
}

impl<V> ChainCache<V> {
    /// An empty cache; it allocates as it fills.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Self {
        Self { limits, index: HashTable::new(), slots: Vec::new(), key_octets: 0, hand: 0 }
    }

    /// The value kept under `key`, whose keyed hash is `hash`, if it still serves at `now` (Unix seconds) and in `epoch`.
    pub fn get(&mut self, hash: u64, key: &[u8], epoch: u64, now: i64) -> Option<&Arc<V>> {
        let slots = &self.slots;
        let &at = self.index.find(hash, |&at| *slots[at].key == *key)?;
        let slot = &mut self.slots[at];
        if slot.epoch != epoch || now > slot.until {
            return None;
        }
        slot.used = true;
        Some(&slot.value)
    }

    /// Keeps `value` until `until` (Unix seconds), in place of what was there; makes room first.
    pub fn insert(&mut self, hash: u64, key: &[u8], epoch: u64, until: i64, value: Arc<V>) {
        if let Some(&at) = self.index.find(hash, |&at| *self.slots[at].key == *key) {
            let slot = &mut self.slots[at];
            (slot.value, slot.epoch, slot.until) = (value, epoch, until);
            return;
        }
        if key.len() > self.limits.max_key_octets || self.limits.max_entries == 0 {
            return;
        }
        while self.slots.len() >= self.limits.max_entries || self.key_octets + key.len() > self.limits.max_key_octets {
            self.evict_one();
        }
        let at = self.slots.len();
        self.key_octets += key.len();
        self.slots.push(Slot { hash, key: key.into(), value, epoch, until, used: false });
        let slots = &self.slots;
        self.index.insert_unique(hash, at, |&at| slots[at].hash);
    }

    /// How many entries are kept, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Removes the first entry from the hand on that was not used since the hand last passed. At most two rounds; something is kept
    /// whenever this is called, since an empty cache is within its limits.
    fn evict_one(&mut self) {
        loop {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let slot = &mut self.slots[self.hand];
            if slot.used {
                slot.used = false;
                self.hand += 1;
            } else {
                self.remove(self.hand);
                return;
            }
        }
    }

    /// Removes a slot; the last one moves into its place.
    fn remove(&mut self, at: usize) {
        self.forget(self.slots[at].hash, at);
        let removed = self.slots.swap_remove(at);
        self.key_octets -= removed.key.len();
        if let Some(moved) = self.slots.get(at) {
            let from = self.slots.len();
            if let Some(place) = self.index.find_mut(moved.hash, |&place| place == from) {
                *place = at;
            }
        }
    }

    fn forget(&mut self, hash: u64, at: usize) {
        if let Ok(entry) = self.index.find_entry(hash, |&place| place == at) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(max_entries: usize) -> ChainCache<u32> {
        ChainCache::new(CacheLimits { max_entries, max_key_octets: 100 })
    }

    #[test]
    fn serves_until_expiry_and_within_its_epoch() {
        let mut cache = cache(4);
        cache.insert(1, b"a", 7, 100, Arc::new(1));
        assert_eq!(cache.get(1, b"a", 7, 100).map(|value| **value), Some(1));
        assert!(cache.get(1, b"a", 7, 101).is_none());
        assert!(cache.get(1, b"a", 8, 50).is_none());
        cache.insert(1, b"a", 8, 200, Arc::new(2));
        assert_eq!(cache.get(1, b"a", 8, 101).map(|value| **value), Some(2));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut cache = cache(4);
        cache.insert(1, b"a", 0, 100, Arc::new(1));
        cache.insert(1, b"b", 0, 100, Arc::new(2));
        assert_eq!(cache.get(1, b"b", 0, 0).map(|value| **value), Some(2));
        assert_eq!(cache.get(1, b"a", 0, 0).map(|value| **value), Some(1));
        assert!(cache.get(1, b"c", 0, 0).is_none());
    }

    #[test]
    fn a_used_entry_survives_a_flood() {
        let mut cache = cache(8);
        cache.insert(0, b"good", 0, 100, Arc::new(0));
        for flood in 1u32..1000 {
            assert!(cache.get(0, b"good", 0, 0).is_some(), "lost after {flood}");
            // All in one bucket: the worst an attacker without the hash key can hope for.
            cache.insert(u64::from(flood % 3), &flood.to_be_bytes(), 0, 100, Arc::new(flood));
            assert!(cache.len() <= 8);
        }
        for kept in 992u32..1000 {
            let found = cache.get(u64::from(kept % 3), &kept.to_be_bytes(), 0, 0).map(|value| **value);
            assert!(found.is_none_or(|value| value == kept));
        }
    }

    #[test]
    fn keys_are_bounded_in_octets_too() {
        let mut cache = cache(100);
        for key in 0u8..20 {
            cache.insert(u64::from(key), &[key; 30], 0, 100, Arc::new(u32::from(key)));
            assert!(cache.key_octets <= 100);
        }
        assert_eq!(cache.len(), 3);
        cache.insert(77, &[7; 101], 0, 100, Arc::new(0));
        assert!(cache.get(77, &[7; 101], 0, 0).is_none());
        assert_eq!(cache.len(), 3);
    }
}
