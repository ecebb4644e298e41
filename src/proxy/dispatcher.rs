//! Which next hop of a trunk comes first (Kamailio's dispatcher algorithms by name), and which has failed so often that it comes last
//! (KR-1 to KR-5). Shared by all workers: atomics only. Time and randomness are arguments.

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};

use siphasher::sip::SipHasher13;

/// How the first next hop of a request is chosen; the others follow in case it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Always in the order written: active and standby (Kamailio's 8).
    #[default]
    Serial,
    /// One after the other (4).
    RoundRobin,
    /// Any (6).
    Random,
    /// By Call-ID: all requests of a call, on every edge with the same list (0). Rendezvous hashing: a next hop that is gone moves only its
    /// own share.
    CallIdHash,
    /// At random by weight, the rest by weight again (9, 11 and 15 within a priority; but failures count).
    Weighted,
}

/// What is known of one next hop.
#[derive(Debug, Default)]
struct Health {
    /// Failures in a row.
    failures: AtomicU32,
    /// Unix seconds until which it is tried last; 0 while it is up.
    down_until: AtomicI64,
}

/// A next hop went down or came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has failed too often in a row.
    Down,
    /// It answers again.
    Up,
}

/// The choice among the next hops of one trunk.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    /// How the first is chosen.
    pub algorithm: Algorithm,
    /// Shares for [`Algorithm::Weighted`], by place; 1 where there is none.
    pub weights: Vec<u16>,
    /// Failures in a row after which a next hop is tried last; 0: never.
    pub down_after: u32,
    /// Seconds after which one that is down gets its place back to be tried again.
    pub retry_seconds: u32,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    turn: AtomicUsize,
    health: Vec<Health>,
}

/// Next hops of one trunk that are dealt with at most.
pub const MAX_MEMBERS: usize = 64;

impl Default for Dispatcher {
    fn default() -> Self {
        Self::new(Algorithm::Serial, Vec::new(), 0)
    }
}

impl Dispatcher {
    /// For so many next hops, all up.
    pub fn new(algorithm: Algorithm, weights: Vec<u16>, members: usize) -> Self {
        let health = (0..members.min(MAX_MEMBERS)).map(|_| Health::default()).collect();
        Self {
            algorithm,
            weights,
            down_after: 3,
            retry_seconds: 30,
            state: Arc::new(State { health, ..State::default() }),
        }
    }

    /// Keeps what an older one knows; for a reload that left the next hops as they were.
    pub fn continue_from(&mut self, old: &Self) {
        if old.state.health.len() == self.state.health.len() {
            self.state = Arc::clone(&old.state);
        }
    }

    /// Places of `count` next hops in the order of trial, for a request that is not in a dialog. `random` is drawn anew for each.
    pub fn order(&self, count: usize, call_id: &[u8], random: u64, unix: i64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        match self.algorithm {
            Algorithm::Serial => {}
            Algorithm::RoundRobin => rotate(&mut order, self.state.turn.fetch_add(1, Ordering::Relaxed)),
            Algorithm::Random => rotate(&mut order, (random >> 16) as usize),
            Algorithm::CallIdHash => order.sort_by_cached_key(|place| std::cmp::Reverse(score(call_id, *place))),
            Algorithm::Weighted => self.draw(&mut order, random),
        }
        // Stable: those that are up keep their order, those that are down keep theirs behind them (KR-5: if all are down, all are tried).
        order.sort_by_key(|place| self.is_down(*place, unix));
        order
    }

    /// Whether a next hop is down now.
    pub fn is_down(&self, place: usize, unix: i64) -> bool {
        self.state.health.get(place).is_some_and(|health| health.down_until.load(Ordering::Relaxed) > unix)
    }

    /// A next hop answered, with anything but 503: whatever it says, it is there (KR-3).
    pub fn succeeded(&self, place: usize) -> Option<Change> {
        let health = self.state.health.get(place)?;
        if health.failures.load(Ordering::Relaxed) != 0 {
            health.failures.store(0, Ordering::Relaxed);
        }
        let was_down =
            health.down_until.load(Ordering::Relaxed) != 0 && health.down_until.swap(0, Ordering::Relaxed) != 0;
        was_down.then_some(Change::Up)
    }

    /// A next hop gave no answer in time, could not be reached, or answered 503; `pause` is what its Retry-After asks for, seconds (D-6).
    pub fn failed(&self, place: usize, pause: Option<u32>, unix: i64) -> Option<Change> {
        let health = self.state.health.get(place).filter(|_| self.down_after > 0)?;
        let failures = health.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < self.down_after && pause.is_none() {
            return None;
        }
        // Whoever asks for a pause gets it, within bounds: an hour is an outage, not a pause.
        let seconds = pause.map_or(self.retry_seconds, |pause| pause.clamp(1, 3600));
        let before = health.down_until.swap(unix.saturating_add(i64::from(seconds)), Ordering::Relaxed);
        (before == 0).then_some(Change::Down)
    }

    /// Weighted choice without replacement.
    fn draw(&self, order: &mut [usize], random: u64) {
        let weight = |place: usize| u64::from(self.weights.get(place).copied().unwrap_or(1));
        let mut state = random | 1;
        for first in 0..order.len() {
            let Some(left) = order.get_mut(first..) else { return };
            let sum: u64 = left.iter().map(|place| weight(*place)).sum();
            // xorshift64*: the places of one request are drawn from one random number.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let mut drawn = if sum == 0 { 0 } else { (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % sum };
            let hit = left.iter().position(|place| {
                let share = weight(*place);
                let is_hit = drawn < share;
                drawn = drawn.saturating_sub(share);
                is_hit
            });
            left.swap(0, hit.unwrap_or(0));
        }
    }
}

fn rotate(order: &mut [usize], by: usize) {
    if !order.is_empty() {
        let by = by % order.len();
        order.rotate_left(by);
    }
}

/// The rank of a place for a call. The key is no secret: edges side by side must choose alike.
fn score(call_id: &[u8], place: usize) -> u64 {
    let mut hasher = SipHasher13::new_with_key(b"vesperd dispatch");
    hasher.write(call_id);
    hasher.write_usize(place);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICKS: u64 = 10_000;

    /// A generator of even spread; its seed is fixed, so the test is the same each time.
    fn generator() -> impl FnMut() -> u64 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    /// How often each of `count` comes first, in percent.
    fn shares(dispatcher: &Dispatcher, count: usize, unix: i64) -> Vec<f64> {
        let (mut firsts, mut random) = (vec![0_u32; count], generator());
        for call in 0..PICKS {
            let order = dispatcher.order(count, format!("call-{call}").as_bytes(), random(), unix);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>(), "each once");
            firsts[order[0]] += 1;
        }
        firsts.iter().map(|n| f64::from(*n) * 100.0 / PICKS as f64).collect()
    }

    fn near(found: &[f64], wanted: &[f64]) {
        let is_near = found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1.0);
        assert!(is_near, "{found:?} instead of {wanted:?}");
    }

    #[test]
    fn kr1_each_algorithm_gives_each_next_hop_its_share() {
        let even = [100.0 / 3.0; 3];
        near(&shares(&Dispatcher::new(Algorithm::Serial, vec![], 3), 3, 0), &[100.0, 0.0, 0.0]);
        near(&shares(&Dispatcher::new(Algorithm::RoundRobin, vec![], 3), 3, 0), &even);
        near(&shares(&Dispatcher::new(Algorithm::Random, vec![], 3), 3, 0), &even);
        near(&shares(&Dispatcher::new(Algorithm::CallIdHash, vec![], 3), 3, 0), &even);
        near(&shares(&Dispatcher::new(Algorithm::Weighted, vec![60, 30, 10], 3), 3, 0), &[60.0, 30.0, 10.0]);
    }

    #[test]
    fn kr1_one_and_none() {
        let all =
            [Algorithm::Serial, Algorithm::RoundRobin, Algorithm::Random, Algorithm::CallIdHash, Algorithm::Weighted];
        for algorithm in all {
            assert_eq!(Dispatcher::new(algorithm, vec![0], 1).order(1, b"c", 7, 0), [0], "{algorithm:?}");
            assert!(Dispatcher::new(algorithm, vec![], 0).order(0, b"c", 7, 0).is_empty(), "{algorithm:?}");
        }
    }

    #[test]
    fn kr3_failures_in_a_row_bring_a_next_hop_down_and_any_answer_brings_it_back() {
        let dispatcher = Dispatcher::new(Algorithm::Serial, vec![], 2);
        assert_eq!((dispatcher.failed(0, None, 100), dispatcher.failed(0, None, 100)), (None, None));
        assert_eq!(dispatcher.succeeded(0), None, "not in a row");
        let changes = [(); 4].map(|()| dispatcher.failed(0, None, 100));
        assert_eq!(changes, [None, None, Some(Change::Down), None]);
        assert_eq!(dispatcher.order(2, b"c", 0, 129), [1, 0]);
        assert_eq!(dispatcher.order(2, b"c", 0, 130), [0, 1], "it is tried again");
        assert_eq!(dispatcher.succeeded(0), Some(Change::Up));
        assert_eq!(dispatcher.succeeded(0), None);
        let none = Dispatcher { down_after: 0, ..Dispatcher::new(Algorithm::Serial, vec![], 1) };
        assert_eq!((0..9).find_map(|_| none.failed(0, Some(5), 0)), None);
    }

    #[test]
    fn d6_retry_after_is_a_pause_within_bounds() {
        let dispatcher = Dispatcher::new(Algorithm::Serial, vec![], 2);
        assert_eq!(dispatcher.failed(0, Some(10), 100), Some(Change::Down));
        assert!(dispatcher.is_down(0, 109) && !dispatcher.is_down(0, 110));
        dispatcher.failed(1, Some(u32::MAX), 100);
        assert!(dispatcher.is_down(1, 3699) && !dispatcher.is_down(1, 3700));
        assert_eq!(dispatcher.order(2, b"c", 0, 105), [0, 1], "KR-5: all are down, all are tried");
    }

    #[test]
    fn kr1_a_next_hop_that_is_down_moves_only_its_own_share() {
        let dispatcher = Dispatcher::new(Algorithm::CallIdHash, vec![], 4);
        let first =
            |unix| (0..1000).map(|n| dispatcher.order(4, format!("{n}").as_bytes(), 0, unix)[0]).collect::<Vec<_>>();
        let before = first(0);
        dispatcher.failed(2, Some(60), 0);
        for (before, after) in before.iter().zip(first(1)) {
            assert!(if *before == 2 { after != 2 } else { after == *before });
        }
        let weighted = Dispatcher::new(Algorithm::Weighted, vec![50, 25, 25], 3);
        weighted.failed(0, Some(60), 0);
        near(&shares(&weighted, 3, 1), &[0.0, 50.0, 50.0]);
    }
}
