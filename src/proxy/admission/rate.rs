//! Token buckets, kept as one number: the theoretical arrival time of the generic cell rate algorithm. A bucket that was never used
//! is full.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// So many tokens a second, so many at once. Times are nanoseconds since an epoch of the caller's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds between two tokens.
    step: u64,
    /// How far ahead of its time a token may be taken.
    tolerance: u64,
}

impl Rate {
    /// `per_second` tokens come, `burst` fit in; both at least 1.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let step = SECOND / u64::from(per_second.max(1));
        Rate { step, tolerance: step.saturating_mul(u64::from(burst.max(1)) - 1) }
    }

    /// Time between two tokens.
    pub fn interval(self) -> Duration {
        Duration::from_nanos(self.step)
    }

    /// Takes a token from the bucket `arrival` if there is one.
    pub fn take(self, arrival: &mut u64, now: u64) -> bool {
        let next = self.next(*arrival, now);
        if let Some(next) = next {
            *arrival = next;
        }
        next.is_some()
    }

    /// The same for a bucket that several threads take from.
    pub fn take_shared(self, arrival: &AtomicU64, now: u64) -> bool {
        arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |arrival| self.next(arrival, now)).is_ok()
    }

    /// Whether there is a token in such a bucket.
    pub fn has_token(self, arrival: &AtomicU64, now: u64) -> bool {
        self.next(arrival.load(Ordering::Relaxed), now).is_some()
    }

    fn next(self, arrival: u64, now: u64) -> Option<u64> {
        (arrival <= now.saturating_add(self.tolerance)).then(|| arrival.max(now).saturating_add(self.step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::new(10, 5);
        let mut bucket = 0;
        assert_eq!((0..100).filter(|_| rate.take(&mut bucket, SECOND)).count(), 5);
        assert!(!rate.take(&mut bucket, SECOND + SECOND / 10 - 1));
        assert!(rate.take(&mut bucket, SECOND + SECOND / 10));
        // Ten seconds at ten times the rate: a hundred pass, and what had gathered in between.
        let start = SECOND + SECOND / 10;
        let passed = (1..=1000).filter(|i| rate.take(&mut bucket, start + i * SECOND / 100)).count();
        assert_eq!(passed, 100);
        // A rest fills it to the burst and not above.
        assert_eq!((0..100).filter(|_| rate.take(&mut bucket, 100 * SECOND)).count(), 5);
    }

    #[test]
    fn threads_share_one_count() {
        let (rate, bucket) = (Rate::new(1, 1000), AtomicU64::new(0));
        let taken: usize = std::thread::scope(|scope| {
            let run = || (0..1000).filter(|_| rate.take_shared(&bucket, SECOND)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
