//! Whether a destination serves: one word for failures and successes in a row, changed by whoever hears of them (KR-3).

use std::sync::atomic::{AtomicU64, Ordering};

/// A destination went down or came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has failed too often in a row.
    Down,
    /// It answers again.
    Up,
}

/// When a destination is down and when it is up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row after which it is down; 0: never, but for the pauses that it asks for.
    pub down_after: u32,
    /// Successes in a row after which one that is probed is up again; one that is not needs one.
    pub up_after: u32,
    /// Seconds after which one that is down and not probed is tried again.
    pub retry_seconds: u32,
    /// It is pinged: only successes bring it back, not time.
    pub is_probed: bool,
}

/// Failures in a row while it is up; successes in a row while it is down.
#[derive(Debug, Default)]
pub struct Health(AtomicU64);

/// The word of a [`Health`], taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct View {
    is_down: bool,
    /// It asked for a pause itself (D-6): until then no success counts, afterwards it is tried again.
    is_paused: bool,
    count: u16,
    /// Unix seconds.
    until: u32,
}

const DOWN: u64 = 1;
const PAUSED: u64 = 2;
/// Longest pause, seconds: an hour is an outage, not a pause.
const LONGEST_PAUSE: u32 = 3600;

impl View {
    fn of(word: u64) -> Self {
        View {
            is_down: word & DOWN != 0,
            is_paused: word & PAUSED != 0,
            count: (word >> 16) as u16,
            until: (word >> 32) as u32,
        }
    }

    fn word(self) -> u64 {
        let flags = u64::from(self.is_down) * DOWN + u64::from(self.is_paused) * PAUSED;
        u64::from(self.until) << 32 | u64::from(self.count) << 16 | flags
    }

    fn is_down_at(self, unix: i64, is_probed: bool) -> bool {
        self.is_down && (i64::from(self.until) > unix || is_probed && !self.is_paused)
    }

    fn succeed(self, rules: Rules, unix: i64) -> Self {
        let up_after = if rules.is_probed { rules.up_after } else { 1 };
        let successes = self.count.saturating_add(1);
        match self.is_down {
            true if self.is_paused && i64::from(self.until) > unix => self,
            true if u32::from(successes) < up_after => View { count: successes, ..self },
            _ => View::default(),
        }
    }

    fn fail(self, rules: Rules, pause: Option<u32>, unix: i64) -> Self {
        let seconds = pause.map_or(rules.retry_seconds, |pause| pause.clamp(1, LONGEST_PAUSE));
        let until = u32::try_from(unix.saturating_add(i64::from(seconds))).unwrap_or(u32::MAX);
        let failures = self.count.saturating_add(1);
        match self.is_down {
            false if u32::from(failures) < rules.down_after && pause.is_none() => View { count: failures, ..self },
            false => View { is_down: true, is_paused: pause.is_some(), count: 0, until },
            true => {
                let is_paused = pause.is_some() || self.is_paused && i64::from(self.until) > unix;
                View { is_down: true, is_paused, count: 0, until: until.max(self.until) }
            }
        }
    }
}

impl Health {
    fn view(&self) -> View {
        View::of(self.0.load(Ordering::Relaxed))
    }

    /// Whether it is down now.
    pub fn is_down(&self, unix: i64, is_probed: bool) -> bool {
        self.view().is_down_at(unix, is_probed)
    }

    /// When it failed last or will be tried again, Unix seconds: only for an order among those that are down.
    pub fn until(&self) -> u32 {
        self.view().until
    }

    /// Until when it asked not to be asked; `None` if it did not, or that is over.
    pub fn pause(&self, unix: i64) -> Option<u32> {
        let view = self.view();
        (view.is_down && view.is_paused && i64::from(view.until) > unix).then_some(view.until)
    }

    /// Failures in a row; once it is down they are not counted on.
    pub fn failures(&self) -> u32 {
        let view = self.view();
        if view.is_down { 0 } else { view.count.into() }
    }

    /// It may not be up: failed lately, or down.
    pub fn is_doubtful(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// It answered.
    pub fn succeeded(&self, rules: Rules, unix: i64) -> Option<Change> {
        // Nearly always: nothing is written, so that no cache line moves between cores.
        if !self.is_doubtful() {
            return None;
        }
        self.change(|view| view.succeed(rules, unix))
    }

    /// It gave no answer in time, could not be reached, or answered that it can not serve; `pause` is what it asks for, seconds.
    pub fn failed(&self, rules: Rules, pause: Option<u32>, unix: i64) -> Option<Change> {
        if rules.down_after == 0 && pause.is_none() {
            return None; // what it asks for itself is no matter of counting (D-6)
        }
        self.change(|view| view.fail(rules, pause, unix))
    }

    /// As if nothing had happened, but for so many failures.
    pub fn set_up(&self, failures: u16) {
        self.0.store(View { count: failures, ..View::default() }.word(), Ordering::Relaxed);
    }

    /// Down until a success.
    pub fn set_down(&self) {
        self.0.store(View { is_down: true, until: u32::MAX, ..View::default() }.word(), Ordering::Relaxed);
    }

    /// Of several that change it at the same time each sees its own step, so each change is told once.
    fn change(&self, step: impl Fn(View) -> View) -> Option<Change> {
        let update = |word| Some(step(View::of(word)).word());
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).unwrap_or_else(|word| word);
        let (before, after) = (View::of(before), step(View::of(before)));
        match (before.is_down, after.is_down) {
            (false, true) => Some(Change::Down),
            (true, false) => Some(Change::Up),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { down_after: 3, up_after: 2, retry_seconds: 30, is_probed: false };
    const PROBED: Rules = Rules { is_probed: true, ..RULES };

    #[test]
    fn kr3_failures_in_a_row_bring_it_down_and_any_answer_brings_it_back() {
        let health = Health::default();
        assert_eq!([health.failed(RULES, None, 100), health.failed(RULES, None, 100)], [None, None]);
        assert_eq!((health.failures(), health.succeeded(RULES, 100)), (2, None), "not in a row");
        let changes = [(); 4].map(|()| health.failed(RULES, None, 100));
        assert_eq!(changes, [None, None, Some(Change::Down), None]);
        assert!(health.is_down(129, false) && !health.is_down(130, false), "it is tried again");
        assert_eq!([health.succeeded(RULES, 120), health.succeeded(RULES, 120)], [Some(Change::Up), None]);
        let never = Rules { down_after: 0, ..RULES };
        assert_eq!((0..9).find_map(|_| health.failed(never, None, 0)), None);
    }

    #[test]
    fn kr3_one_that_is_probed_comes_back_by_successes_in_a_row_only() {
        let health = Health::default();
        (0..3).for_each(|_| {
            health.failed(PROBED, None, 100);
        });
        assert!(health.is_down(1_000_000, true), "time does not bring it back");
        assert!(!health.is_down(1_000_000, false), "unless a reload has ended its probing");
        assert_eq!(health.succeeded(PROBED, 200), None);
        assert_eq!(health.failed(PROBED, None, 200), None);
        assert_eq!([health.succeeded(PROBED, 201), health.succeeded(PROBED, 202)], [None, Some(Change::Up)]);
    }

    #[test]
    fn d6_retry_after_is_a_pause_within_bounds_that_no_answer_ends() {
        let health = Health::default();
        assert_eq!(health.failed(PROBED, Some(10), 100), Some(Change::Down));
        assert_eq!([health.succeeded(PROBED, 105), health.succeeded(PROBED, 106)], [None, None]);
        assert_eq!((health.pause(109), health.pause(110)), (Some(110), None));
        assert!(health.is_down(109, true) && !health.is_down(110, true), "afterwards it is tried again");
        assert_eq!([health.succeeded(PROBED, 110), health.succeeded(PROBED, 111)], [None, Some(Change::Up)]);
        health.failed(RULES, Some(u32::MAX), 100);
        assert!(health.is_down(3699, false) && !health.is_down(3700, false));
        health.failed(RULES, None, 200);
        assert!(health.is_down(3699, false), "a failure does not shorten it");
        let (health, uncounted) = (Health::default(), Rules { down_after: 0, ..RULES });
        assert_eq!(health.failed(uncounted, Some(5), 100), Some(Change::Down), "whatever counts otherwise");
        assert_eq!(health.failed(uncounted, None, 103), None);
        assert!(health.is_down(104, false) && !health.is_down(105, false));
        assert_eq!(health.succeeded(uncounted, 105), Some(Change::Up));
    }

    #[test]
    fn of_many_that_fail_it_at_once_one_tells() {
        let health = Health::default();
        let told: usize = std::thread::scope(|scope| {
            let run = || (0..1000).filter(|_| health.failed(RULES, None, 100).is_some()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(told, 1);
    }
}
