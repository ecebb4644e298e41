//! What a worker remembers of sources that are no neighbour's: a table of fixed size, so that a flood from invented addresses costs
//! no memory. When a place is contested, the entry that matters least gives way.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::networks::Source;

/// Entries that one source may lie in.
const WAYS: usize = 8;

/// What is remembered of a source. Times are nanoseconds since the worker began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    source: u64,
    /// Its bucket of messages.
    pub messages: u64,
    /// Its bucket of error answers.
    pub answers: u64,
    /// Offences so far.
    pub offences: u32,
    /// When the last offence was.
    pub offended: u64,
    seen: u64,
}

impl Record {
    /// The larger, the more would be lost with it: one with offences, then one seen lately.
    fn weight(&self) -> (u32, u64) {
        (self.offences, self.seen)
    }
}

/// The table.
pub struct Sources {
    records: Box<[Record]>,
    key: [u8; 16],
    /// Never used: the table has no place without a record.
    spare: Record,
}

impl Sources {
    /// Room for about `capacity` sources, all of it taken now: 48 octets each.
    pub fn new(capacity: usize, key: [u8; 16]) -> Self {
        let sets = capacity.div_ceil(WAYS).next_power_of_two();
        Sources { records: vec![Record::default(); sets * WAYS].into_boxed_slice(), key, spare: Record::default() }
    }

    /// The record of a source; a new one takes the place of the one that matters least.
    pub fn get(&mut self, source: Source, now: u64) -> &mut Record {
        let sets = (self.records.len() / WAYS).max(1);
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u64(source.number());
        let first = (hasher.finish() as usize & (sets - 1)) * WAYS;
        let set = self.records.get(first..first + WAYS).unwrap_or_default();
        let known = set.iter().position(|record| record.source == source.number());
        let way = known.unwrap_or_else(|| {
            let least = set.iter().enumerate().min_by_key(|(_, record)| (record.source != 0, record.weight()));
            least.map_or(0, |(way, _)| way)
        });
        let record = self.records.get_mut(first + way).unwrap_or(&mut self.spare);
        if known.is_none() {
            *record = Record { source: source.number(), ..Record::default() };
        }
        record.seen = now;
        record
    }

    /// Its size is the one for this capacity.
    pub fn has_room_for(&self, capacity: usize) -> bool {
        self.records.len() == capacity.div_ceil(WAYS).next_power_of_two() * WAYS
    }

    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.records.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn a_flood_of_sources_takes_no_more_room_and_keeps_who_offended() {
        let mut sources = Sources::new(64, [3; 16]);
        let of = |number: u32| Source::of(IpAddr::V4(Ipv4Addr::from(number)));
        sources.get(of(2), 6).offences = 3;
        for n in 0..100_000u32 {
            sources.get(of(1000 + n), 10 + u64::from(n)).messages = 1;
        }
        assert_eq!(sources.capacity(), 64);
        assert_eq!(sources.get(of(2), 200_000).offences, 3);
        assert_eq!(sources.get(of(1000), 200_000).messages, 0, "long gone");
    }
}
