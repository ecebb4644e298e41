//! Is this machine's clock right? Everybody else's word on the time is compared with it: Date of neighbours' messages, `iat` of tokens with a
//! good signature. Each witness by itself may be wrong; the median of several is not likely to be. Servers of certificates are not asked:
//! any caller chooses them by its `x5u`, as many as it likes.
//!
//! One for the whole node. A worker looks at no more than one witness a second, so its lock is hardly ever wanted twice.

use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

/// Witnesses remembered; the one heard longest ago makes room.
const MAX_WITNESSES: usize = 64;
/// What a witness said counts for so long.
const MEMORY: Duration = Duration::from_secs(900);

/// The clock is found wrong, or right again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockChange {
    /// How far the others are ahead of this machine, in seconds; negative: behind.
    pub offset: i64,
    /// It is further than allowed.
    pub is_wrong: bool,
}

/// What is known of the clock.
#[derive(Debug)]
pub struct ClockWatch {
    /// Seconds; 0: nobody is asked.
    threshold: AtomicU64,
    /// Witnesses without whom nothing is concluded.
    quorum: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    witnesses: Vec<Witness>,
    offset: Option<i64>,
    is_wrong: bool,
}

#[derive(Debug)]
struct Witness {
    name: u64,
    offset: i64,
    at: Instant,
}

impl Default for ClockWatch {
    fn default() -> Self {
        Self::new(10, 3)
    }
}

impl ClockWatch {
    /// Asks nobody yet. The alarm is raised when the median is more than `threshold` seconds off (0: never), and at least `quorum`
    /// witnesses have spoken lately.
    pub fn new(threshold: u64, quorum: usize) -> Self {
        Self { threshold: threshold.into(), quorum: quorum.into(), seen: Mutex::default() }
    }

    /// Takes over the settings of a newer one.
    pub fn configure(&self, new: &ClockWatch) {
        self.threshold.store(new.threshold.load(Ordering::Relaxed), Ordering::Relaxed);
        self.quorum.store(new.quorum.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether anybody is asked.
    pub fn is_on(&self) -> bool {
        self.threshold.load(Ordering::Relaxed) > 0
    }

    /// The median of what the witnesses said last, and whether that is too much; `None` while there are too few, unless they found the
    /// clock wrong before.
    pub fn state(&self) -> Option<ClockChange> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.offset.map(|offset| ClockChange { offset, is_wrong: seen.is_wrong })
    }

    /// A witness, whoever it is by these octets, says it is `theirs` (Unix seconds) where this machine says `ours`. What changes by that.
    pub fn hear(&self, now: Instant, ours: i64, witness: &[u8], theirs: i64) -> Option<ClockChange> {
        let threshold = i64::try_from(self.threshold.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        if threshold == 0 {
            return None;
        }
        let mut hasher = SipHasher13::new(); // equality is all that is asked of it
        hasher.write(witness);
        let heard = Witness { name: hasher.finish(), offset: theirs.saturating_sub(ours), at: now };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.take(heard);
        let Some(offset) = seen.median(now, self.quorum.load(Ordering::Relaxed).max(1)) else {
            // An alarm stands until enough witnesses say that all is well: silence is no such word.
            if !seen.is_wrong {
                seen.offset = None;
            }
            return None;
        };
        seen.offset = Some(offset);
        // Once wrong, it is right again only when it is clearly so.
        let allowed = if seen.is_wrong { threshold / 2 } else { threshold };
        let is_wrong = offset.saturating_abs() > allowed;
        (std::mem::replace(&mut seen.is_wrong, is_wrong) != is_wrong).then_some(ClockChange { offset, is_wrong })
    }
}

impl Seen {
    fn take(&mut self, heard: Witness) {
        self.witnesses
            .retain(|witness| witness.name != heard.name && heard.at.saturating_duration_since(witness.at) < MEMORY);
        if self.witnesses.len() >= MAX_WITNESSES {
            self.witnesses.remove(0); // they stand in the order in which they were heard
        }
        self.witnesses.push(heard);
    }

    fn median(&self, now: Instant, quorum: usize) -> Option<i64> {
        let lately = self.witnesses.iter().filter(|witness| now.saturating_duration_since(witness.at) < MEMORY);
        let mut offsets: Vec<i64> = lately.map(|witness| witness.offset).collect();
        offsets.sort_unstable();
        if offsets.len() < quorum {
            return None;
        }
        // Of an even number the one nearer to nothing.
        let middle = offsets.len() / 2;
        let (low, high) = (offsets.get((offsets.len() - 1) / 2)?, offsets.get(middle)?);
        Some(if low.saturating_abs() < high.saturating_abs() { *low } else { *high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: i64 = 1_795_219_200;

    fn hear(watch: &ClockWatch, now: Instant, witness: u8, offset: i64) -> Option<ClockChange> {
        watch.hear(now, OURS, &[witness], OURS + offset)
    }

    #[test]
    fn several_witnesses_raise_the_alarm_and_lift_it_and_one_liar_does_neither() {
        let (watch, mut now) = (ClockWatch::new(10, 3), crate::node::clock::instant());
        assert_eq!(hear(&watch, now, 1, 3600), None, "one is not enough");
        for _ in 0..100 {
            assert_eq!(hear(&watch, now, 1, 3600), None, "however often it says so");
        }
        assert_eq!(watch.state(), None);
        hear(&watch, now, 2, 0);
        assert_eq!(hear(&watch, now, 3, -1), None);
        assert_eq!(watch.state(), Some(ClockChange { offset: 0, is_wrong: false }));
        // Our clock falls behind: they say so one after the other.
        now += Duration::from_secs(60);
        assert_eq!(hear(&watch, now, 2, 40), Some(ClockChange { offset: 40, is_wrong: true }));
        assert_eq!(hear(&watch, now, 3, 41), None, "it is told once");
        assert_eq!(hear(&watch, now, 1, 39), None);
        // It is set right, nearly: not good enough yet, then good.
        assert_eq!(hear(&watch, now, 1, 8), None);
        assert_eq!(hear(&watch, now, 2, 8), None);
        assert_eq!(hear(&watch, now, 1, 1), None);
        assert_eq!(hear(&watch, now, 2, 1), Some(ClockChange { offset: 1, is_wrong: false }));
    }

    #[test]
    fn an_alarm_outlives_its_witnesses_and_is_lifted_by_others() {
        let (watch, now) = (ClockWatch::new(10, 3), crate::node::clock::instant());
        let raised: Vec<_> = (0..3).filter_map(|witness| hear(&watch, now, witness, 100)).collect();
        let alarm = ClockChange { offset: 100, is_wrong: true };
        assert_eq!(raised, [alarm]);
        assert_eq!([hear(&watch, now + MEMORY, 7, 0), hear(&watch, now + MEMORY, 8, 0)], [None, None]);
        assert_eq!(watch.state(), Some(alarm), "what was logged is what is shown");
        assert_eq!(hear(&watch, now + MEMORY, 9, 0), Some(ClockChange { offset: 0, is_wrong: false }));
    }

    #[test]
    fn what_was_said_long_ago_counts_no_more_and_the_memory_is_bounded() {
        let (watch, now) = (ClockWatch::new(10, 3), crate::node::clock::instant());
        for witness in 0..3 {
            hear(&watch, now, witness, 5);
        }
        assert_eq!(watch.state(), Some(ClockChange { offset: 5, is_wrong: false }));
        hear(&watch, now + MEMORY, 9, 0);
        assert_eq!(watch.state(), None, "three have been silent for long");
        for witness in 0..200 {
            hear(&watch, now + MEMORY, witness, 0);
        }
        assert_eq!(watch.seen.lock().unwrap().witnesses.len(), MAX_WITNESSES);
        let off = ClockWatch::new(0, 1);
        assert_eq!(hear(&off, now, 1, 1_000_000), None);
        assert!(!off.is_on() && off.state().is_none());
    }
}
