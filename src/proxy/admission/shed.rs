//! Overload of this element itself (O-8): how late it is, how full its tables are, and which share of new dialogs is therefore
//! refused. What belongs to a call that was let in is always served.

use std::time::{Duration, Instant};

/// When new dialogs are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SheddingConfig {
    /// Lateness above which the worker counts as overloaded, when it lasts a whole interval (CoDel's target). Half of it ends that.
    pub target: Duration,
    /// Time over which the smallest lateness is taken.
    pub interval: Duration,
    /// Fill of a transaction table, percent, from which new dialogs are refused.
    pub table_high: u8,
    /// Fill below which that ends.
    pub table_low: u8,
}

impl Default for SheddingConfig {
    fn default() -> Self {
        SheddingConfig {
            target: Duration::from_millis(50),
            interval: Duration::from_millis(100),
            table_high: 90,
            table_low: 80,
        }
    }
}

/// Percent points by which the share refused grows in an interval of overload, and shrinks in one without.
const UP: u8 = 10;
const DOWN: u8 = 5;
/// Nothing was measured for so many intervals: the past says nothing any more.
const STALE: u32 = 20;

/// How much one worker refuses.
pub struct Shedder {
    config: SheddingConfig,
    /// Percent of new dialogs refused because of lateness.
    level: u8,
    /// The tables are too full.
    is_full: bool,
    /// The interval that runs, and the smallest lateness in it.
    began: Instant,
    smallest: Option<Duration>,
}

impl Shedder {
    /// Nothing is refused.
    pub fn new(config: SheddingConfig, now: Instant) -> Self {
        Shedder { config, level: 0, is_full: false, began: now, smallest: None }
    }

    /// Tells how late something was done: a timer after it was due, a message after it had arrived.
    pub fn observe(&mut self, now: Instant, late: Duration) {
        self.turn(now);
        self.smallest = Some(self.smallest.map_or(late, |smallest| smallest.min(late)));
    }

    /// Tells how full the fuller transaction table is, as entries of so many.
    pub fn observe_table(&mut self, entries: usize, of: usize) {
        let percent = entries.saturating_mul(100) / of.max(1);
        let bound = if self.is_full { self.config.table_low } else { self.config.table_high };
        self.is_full = percent >= usize::from(bound);
    }

    /// Closes intervals that have passed.
    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        if passed < self.config.interval {
            return;
        }
        let intervals = passed.as_nanos() / self.config.interval.as_nanos().max(1);
        if intervals > u128::from(STALE) {
            self.level = 0;
        } else {
            self.level = match self.smallest {
                Some(late) if late > self.config.target => (self.level + UP).min(100),
                Some(late) if late > self.config.target / 2 => self.level, // in between: stay
                _ => self.level.saturating_sub(DOWN),
            };
            let idle = u8::try_from(intervals - 1).unwrap_or(u8::MAX);
            self.level = self.level.saturating_sub(idle.saturating_mul(DOWN));
        }
        self.smallest = None;
        self.began = now;
    }

    /// Percent of new dialogs refused now.
    pub fn level(&mut self, now: Instant) -> u8 {
        self.turn(now);
        if self.is_full { 100 } else { self.level }
    }

    /// Whether a new dialog is refused. `spread` is the same for all copies of one request and even over different ones.
    pub fn sheds(&mut self, now: Instant, spread: u64) -> bool {
        spread % 100 < u64::from(self.level(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Run {
        shedder: Shedder,
        now: Instant,
    }

    impl Run {
        fn new() -> Self {
            let now = crate::node::clock::instant();
            Run { shedder: Shedder::new(SheddingConfig::default(), now), now }
        }

        /// Runs for so long; every 10 ms something is so late.
        fn pass(&mut self, time: Duration, late: Duration) -> u8 {
            let end = self.now + time;
            while self.now < end {
                self.now += 10 * MS;
                self.shedder.observe(self.now, late);
            }
            self.shedder.level(self.now)
        }
    }

    #[test]
    fn one_late_moment_is_no_overload() {
        let mut run = Run::new();
        run.pass(300 * MS, MS);
        run.shedder.observe(run.now, Duration::from_secs(2));
        assert_eq!(run.pass(300 * MS, MS), 0);
    }

    #[test]
    fn standing_lateness_sheds_more_and_more_and_ends_slowly() {
        let mut run = Run::new();
        let soon = run.pass(300 * MS, 80 * MS);
        assert!((10..=30).contains(&soon), "{soon}");
        assert_eq!(run.pass(Duration::from_secs(2), 80 * MS), 100);
        assert_eq!(run.pass(Duration::from_secs(2), 30 * MS), 100, "between target and its half nothing changes");
        let less = run.pass(Duration::from_secs(1), MS);
        assert!((40..=60).contains(&less), "{less}");
        assert_eq!(run.pass(Duration::from_secs(2), MS), 0);
    }

    #[test]
    fn silence_ends_it() {
        let mut run = Run::new();
        run.pass(Duration::from_secs(2), 80 * MS);
        run.now += Duration::from_secs(5);
        assert_eq!(run.shedder.level(run.now), 0);
    }

    #[test]
    fn a_full_table_sheds_until_it_is_clearly_emptier() {
        let mut run = Run::new();
        for (entries, level) in [(899, 0), (900, 100), (850, 100), (800, 100), (799, 0), (899, 0)] {
            run.shedder.observe_table(entries, 1000);
            assert_eq!(run.shedder.level(run.now), level, "{entries}");
        }
    }

    #[test]
    fn the_share_refused_is_the_level_and_copies_share_their_fate() {
        let mut run = Run::new();
        run.pass(500 * MS, 80 * MS);
        let (now, level) = (run.now, run.shedder.level(run.now));
        assert!(level > 0 && level < 100);
        let shed = (0..1000u64).filter(|n| run.shedder.sheds(now, *n)).count();
        assert_eq!(shed, usize::from(level) * 10);
        assert_eq!(run.shedder.sheds(now, 7), run.shedder.sheds(now, 7));
    }
}
