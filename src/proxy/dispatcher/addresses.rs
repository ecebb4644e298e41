//! Health of each address of a name (KR-8). The table has a fixed size and no lock: a name server decides how many addresses there
//! are, but not how many are remembered.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

use super::health::Health;
use crate::proxy::NextHop;

/// Addresses of a name that are told apart; as many as are ever tried for one request.
const SLOTS: usize = 16;

/// Addresses by their hash.
#[derive(Debug, Default)]
pub struct Addresses {
    slots: [Slot; SLOTS],
    /// When the name was located last, Unix seconds; 0: never.
    located: AtomicU32,
}

#[derive(Debug, Default)]
struct Slot {
    /// Hash of the address; 0: nobody's.
    key: AtomicU64,
    /// When the name led there last.
    seen: AtomicU32,
    health: Health,
}

fn key_of(hop: NextHop) -> u64 {
    let mut hasher = SipHasher13::new_with_key(b"vesperd address!");
    hop.hash(&mut hasher);
    hasher.finish() | 1
}

impl Addresses {
    /// The name leads to these now. What is known of others counts no more.
    pub fn located(&self, hops: &[NextHop], unix: i64) {
        let now = u32::try_from(unix).unwrap_or(u32::MAX).max(1);
        for hop in hops.iter().take(SLOTS) {
            if let Some(slot) = self.claim(*hop) {
                slot.seen.store(now, Ordering::Relaxed);
            }
        }
        self.located.store(now, Ordering::Relaxed);
    }

    /// Health of an address the name leads to.
    pub fn health(&self, hop: NextHop) -> Option<&Health> {
        let key = key_of(hop);
        self.slots.iter().find(|slot| slot.key.load(Ordering::Relaxed) == key).map(|slot| &slot.health)
    }

    /// Whether the name leads somewhere and nothing there is up.
    pub fn are_all_down(&self, unix: i64, is_probed: bool) -> bool {
        let located = self.located.load(Ordering::Relaxed);
        if located == 0 {
            return false;
        }
        let mut present = self.slots.iter().filter(|slot| slot.seen.load(Ordering::Relaxed) >= located).peekable();
        present.peek().is_some() && present.all(|slot| slot.health.is_down(unix, is_probed))
    }

    /// Some address is down, or has failed lately.
    pub fn is_any_doubtful(&self) -> bool {
        self.slots.iter().any(|slot| slot.health.is_doubtful())
    }

    /// All that is known is forgotten but the addresses.
    pub fn set_up(&self) {
        self.slots.iter().for_each(|slot| slot.health.set_up(0));
    }

    /// The slot of an address: its own, a free one, or that of the address that was seen longest ago.
    fn claim(&self, hop: NextHop) -> Option<&Slot> {
        let key = key_of(hop);
        if let Some(own) = self.slots.iter().find(|slot| slot.key.load(Ordering::Relaxed) == key) {
            return Some(own);
        }
        let take = |slot: &&Slot| slot.key.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        self.slots.iter().find(take).or_else(|| {
            let oldest = self.slots.iter().min_by_key(|slot| slot.seen.load(Ordering::Relaxed))?;
            oldest.key.store(key, Ordering::Relaxed);
            oldest.health.set_up(0);
            Some(oldest)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::dispatcher::health::Rules;
    use crate::sip::hop::Transport;

    const RULES: Rules = Rules { down_after: 1, up_after: 1, retry_seconds: 30, is_probed: false };

    fn hop(last: u8) -> NextHop {
        NextHop { transport: Transport::Udp, remote: ([192, 0, 2, last], 5060).into() }
    }

    fn fail(addresses: &Addresses, last: u8) {
        addresses.health(hop(last)).unwrap().failed(RULES, None, 100);
    }

    #[test]
    fn kr8_a_name_is_down_when_all_its_addresses_are() {
        let addresses = Addresses::default();
        assert!(!addresses.are_all_down(100, false) && addresses.health(hop(1)).is_none());
        addresses.located(&[hop(1), hop(2)], 100);
        fail(&addresses, 1);
        assert!(!addresses.are_all_down(100, false));
        fail(&addresses, 2);
        assert!(addresses.are_all_down(100, false));
        addresses.located(&[hop(1), hop(3)], 101);
        assert!(!addresses.are_all_down(101, false), "3 is new");
        fail(&addresses, 3);
        assert!(addresses.are_all_down(101, false), "2 is no address of the name any more");
        addresses.set_up();
        assert!(!addresses.are_all_down(101, false));
    }

    #[test]
    fn a_zone_that_changes_all_the_time_takes_no_more_room() {
        let addresses = Addresses::default();
        for last in 0..=255 {
            addresses.located(&[hop(last)], 100 + i64::from(last));
        }
        assert!(addresses.health(hop(255)).is_some() && addresses.health(hop(0)).is_none());
        let many: Vec<NextHop> = (0..100).map(hop).collect();
        addresses.located(&many, 1000);
        assert!(addresses.health(hop(99)).is_none(), "no more are tried either");
    }
}
