//! The circuit breaker of one host: after some failures in a row it is left alone for a while, then asked once to see whether it is back.

use std::time::{Duration, Instant};

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it; 3.
    pub failures: u32,
    /// How long it stays open the first time; 30 s. Each time the host fails its probe, twice as long.
    pub open: Duration,
    /// and at most this long; 300 s.
    pub max_open: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 3, open: Duration::from_secs(30), max_open: Duration::from_secs(300) }
    }
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The host is asked; so many failures in a row.
    Closed { failures: u32 },
    /// Not asked until then.
    Open { until: Instant },
    /// One question is under way, which decides.
    HalfOpen,
}

/// The breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Breaker {
    standing: Standing,
    /// Openings in a row.
    openings: u32,
}

impl Breaker {
    pub fn new() -> Self {
        Self { standing: Standing::Closed { failures: 0 }, openings: 0 }
    }

    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Nothing is known against the host.
    pub fn is_clean(&self) -> bool {
        self.standing == Standing::Closed { failures: 0 }
    }

    /// Whether the host would be asked now.
    pub fn lets(&self, now: Instant) -> bool {
        match self.standing {
            Standing::Closed { .. } => true,
            Standing::Open { until } => now >= until,
            Standing::HalfOpen => false,
        }
    }

    /// A question goes out now; only when [`Breaker::lets`] it.
    pub fn begin(&mut self) {
        if matches!(self.standing, Standing::Open { .. }) {
            self.standing = Standing::HalfOpen;
        }
    }

    /// What came of a question.
    pub fn heard(&mut self, is_alive: bool, now: Instant, config: &BreakerConfig) {
        if is_alive {
            *self = Self::new();
            return;
        }
        let failures = match self.standing {
            Standing::Closed { failures } => failures + 1,
            Standing::HalfOpen => config.failures,
            Standing::Open { .. } => return, // began before it opened
        };
        if failures < config.failures {
            self.standing = Standing::Closed { failures };
            return;
        }
        let doubled = config.open.saturating_mul(1 << self.openings.min(16));
        self.openings = self.openings.saturating_add(1);
        self.standing = Standing::Open { until: now + doubled.min(config.max_open.max(config.open)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::clock;

    #[test]
    fn opens_after_failures_in_a_row_and_closes_by_a_probe() {
        let config = BreakerConfig::default();
        let (start, second) = (clock::instant(), Duration::from_secs(1));
        let mut breaker = Breaker::new();
        breaker.heard(false, start, &config);
        breaker.heard(false, start, &config);
        breaker.heard(true, start, &config);
        breaker.heard(false, start, &config);
        breaker.heard(false, start, &config);
        assert!(breaker.lets(start), "a success in between begins anew");
        breaker.heard(false, start, &config);
        assert!(!breaker.lets(start + 29 * second) && breaker.lets(start + 30 * second));
        // What began before counts no more.
        breaker.heard(false, start + second, &config);
        assert_eq!(breaker.standing(), Standing::Open { until: start + 30 * second });
        breaker.begin();
        assert!(!breaker.lets(start + 31 * second), "one probe at a time");
        breaker.heard(true, start + 31 * second, &config);
        assert!(breaker.is_clean());
    }

    #[test]
    fn stays_open_longer_each_time_up_to_a_bound() {
        let config = BreakerConfig::default();
        let mut now = clock::instant();
        let mut breaker = Breaker::new();
        (0..3).for_each(|_| breaker.heard(false, now, &config));
        for seconds in [30, 60, 120, 240, 300, 300] {
            let until = now + Duration::from_secs(seconds);
            assert_eq!(breaker.standing(), Standing::Open { until });
            now = until;
            breaker.begin();
            breaker.heard(false, now, &config);
        }
    }
}
