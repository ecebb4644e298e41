//! How many calls a trunk may make: so many a second, so many at a time. One count for all workers.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::rate::Rate;

/// Limits of one trunk and how much of them is taken. A clone counts together with the original.
#[derive(Clone)]
pub struct TrunkLimits {
    /// Calls per second, if limited.
    rate: Option<Rate>,
    /// Calls at a time, if limited.
    max_calls: Option<u32>,
    /// Calls that come from the trunk count.
    pub from: bool,
    /// Calls that go to it count.
    pub to: bool,
    /// The answer to a call above a limit.
    pub status: u16,
    usage: Arc<Usage>,
}

/// What is taken.
#[derive(Default)]
struct Usage {
    epoch: OnceLock<Instant>,
    bucket: AtomicU64,
    calls: AtomicU32,
}

impl Usage {
    /// Since the first call.
    fn nanos(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(*self.epoch.get_or_init(|| now));
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Why a call was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many in this second.
    Rate,
    /// Too many at a time.
    Calls,
}

/// One call of a trunk, counted until this is dropped.
pub struct CallGuard {
    usage: Arc<Usage>,
    /// Only an emergency call is admitted so.
    is_over: bool,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.usage.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for CallGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallGuard")
    }
}

impl CallGuard {
    /// It counts against these limits.
    pub fn is_of(&self, limits: &TrunkLimits) -> bool {
        Arc::ptr_eq(&self.usage, &limits.usage)
    }

    /// It is above a limit: admitted for being an emergency call.
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}

impl TrunkLimits {
    /// Limits with nothing taken.
    pub fn new(rate: Option<Rate>, max_calls: Option<u32>, status: u16) -> Self {
        TrunkLimits { rate, max_calls, from: true, to: true, status, usage: Arc::default() }
    }

    /// Admits a call or says why not. An emergency call is always admitted, and counted (E-12).
    pub fn admit(&self, now: Instant, is_emergency: bool) -> Result<CallGuard, Refused> {
        let limit = self.max_calls.filter(|_| !is_emergency).unwrap_or(u32::MAX);
        let take = |calls: u32| (calls < limit).then(|| calls.saturating_add(1));
        let before = self.usage.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let before = before.map_err(|_| Refused::Calls)?;
        let is_full = self.max_calls.is_some_and(|limit| before >= limit);
        let mut guard = CallGuard { usage: Arc::clone(&self.usage), is_over: is_full };
        let nanos = self.usage.nanos(now);
        let in_time = self.rate.is_none_or(|rate| rate.take_shared(&self.usage.bucket, nanos));
        guard.is_over |= !in_time;
        if in_time || is_emergency { Ok(guard) } else { Err(Refused::Rate) }
    }

    /// Whether a call would be admitted now. Nothing is taken.
    pub fn would_admit(&self, now: Instant, is_emergency: bool) -> bool {
        let in_time = |rate: Rate| rate.has_token(&self.usage.bucket, self.usage.nanos(now));
        is_emergency || self.max_calls.is_none_or(|limit| self.calls() < limit) && self.rate.is_none_or(in_time)
    }

    /// Goes on counting where the limits of an older configuration stopped.
    pub fn continue_from(&mut self, old: &TrunkLimits) {
        self.usage = Arc::clone(&old.usage);
    }

    /// Calls at a time are limited: guards are to be kept.
    pub fn counts_calls(&self) -> bool {
        self.max_calls.is_some()
    }

    /// Calls that count at present.
    pub fn calls(&self) -> u32 {
        self.usage.calls.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for TrunkLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrunkLimits")
            .field("rate", &self.rate)
            .field("max_calls", &self.max_calls)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn calls_at_a_time_are_counted_until_they_end() {
        let limits = TrunkLimits::new(None, Some(2), 503);
        let now = crate::node::clock::instant();
        let first = limits.admit(now, false).unwrap();
        let second = limits.admit(now, false).unwrap();
        assert_eq!(limits.admit(now, false).unwrap_err(), Refused::Calls);
        assert!(!limits.would_admit(now, false) && limits.would_admit(now, true));
        let emergency = limits.admit(now, true).unwrap();
        assert_eq!(limits.calls(), 3);
        drop((first, emergency));
        assert!(limits.would_admit(now, false) && limits.calls() == 1);
        let third = limits.admit(now, false).unwrap();
        assert_eq!(limits.admit(now, false).unwrap_err(), Refused::Calls);
        drop((second, third));
        assert_eq!(limits.calls(), 0);
    }

    #[test]
    fn calls_per_second_have_a_burst_and_a_refused_call_is_not_counted() {
        let limits = TrunkLimits::new(Some(Rate::new(10, 3)), None, 503);
        let start = crate::node::clock::instant();
        let admitted = |at: Instant| (0..10).filter(|_| limits.admit(at, false).is_ok()).count();
        assert!((0..10).all(|_| limits.would_admit(start, false)), "asking takes nothing");
        assert_eq!(admitted(start), 3);
        assert!(!limits.would_admit(start, false) && limits.would_admit(start, true));
        assert_eq!(limits.calls(), 0);
        assert_eq!(admitted(start + Duration::from_millis(100)), 1);
        assert!(limits.admit(start + Duration::from_millis(100), true).is_ok(), "E-12");
        assert_eq!(admitted(start + Duration::from_secs(10)), 3);
    }

    #[test]
    fn threads_never_exceed_the_count_together() {
        let limits = TrunkLimits::new(None, Some(100), 503);
        let now = crate::node::clock::instant();
        let held: usize = std::thread::scope(|scope| {
            let run = || (0..100).filter_map(|_| limits.admit(now, false).ok()).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            let guards: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            guards.iter().map(Vec::len).sum()
        });
        assert_eq!((held, limits.calls()), (100, 0));
    }

    #[test]
    fn e12_as_many_emergency_calls_are_above_the_limit_as_there_are_more() {
        let now = crate::node::clock::instant();
        for _ in 0..50 {
            let limits = TrunkLimits::new(None, Some(100), 503);
            let above: usize = std::thread::scope(|scope| {
                let run = || (0..100).filter_map(|_| limits.admit(now, true).ok()).collect::<Vec<_>>();
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
                let guards: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
                guards.iter().filter(|guard| guard.is_over()).count()
            });
            assert_eq!(above, 300);
        }
    }
}
