//! A hashed timing wheel: every timer of a worker in one place, insertion and cancellation in constant time.
//!
//! One turn is 4096 ticks of 10 ms (40.96 s), longer than 64*T1; a deadline beyond the turn waits in its slot and is looked at
//! once per turn. Slots are reused, so nothing is allocated once the peak number of timers has been seen.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// Resolution of the wheel: a timer fires at most this much late, never early.
pub const TICK: Duration = Duration::from_millis(10);

const TICK_NANOS: u128 = TICK.as_nanos();
const SLOTS: usize = 4096;
const WORDS: usize = SLOTS / 64;
/// The list of timers that are due and not yet handed out; it lies behind the slots.
const DUE: u32 = SLOTS as u32;
/// Owner of a node that holds no timer.
const FREE: u32 = DUE + 1;
/// End of a list.
const NIL: u32 = u32::MAX;

/// Names one running timer. Once that timer fired or was cancelled the handle means nothing, whatever its node holds by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerHandle {
    index: u32,
    generation: NonZeroU32,
}

#[derive(Debug)]
struct Node<T> {
    tick: u64,
    generation: NonZeroU32,
    /// Slot whose list this node is in, or [`DUE`], or [`FREE`].
    list: u32,
    previous: u32,
    next: u32,
    payload: T,
}

/// Timers with a payload each; see the module's description.
#[derive(Debug)]
pub struct Wheel<T> {
    epoch: Instant,
    /// First node of each slot's list, then of [`DUE`].
    heads: Box<[u32]>,
    /// One bit per slot that is not empty, and one bit per word that is not zero.
    occupied: [u64; WORDS],
    summary: u64,
    nodes: Vec<Node<T>>,
    free: u32,
    running: usize,
    /// Every tick up to this one has been moved to [`DUE`].
    cursor: u64,
}

// Every index below is a slot (`tick % SLOTS`), one of the two lists behind the slots, or a node linked from one of them.
#[allow(clippy::indexing_slicing)]
impl<T: Copy> Wheel<T> {
    /// An empty wheel. `epoch` is any instant not after the first use.
    pub fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            heads: vec![NIL; SLOTS + 1].into_boxed_slice(),
            occupied: [0; WORDS],
            summary: 0,
            nodes: Vec::new(),
            free: NIL,
            running: 0,
            cursor: 0,
        }
    }

    /// Timers running.
    pub fn len(&self) -> usize {
        self.running
    }

    /// No timer is running.
    pub fn is_empty(&self) -> bool {
        self.running == 0
    }

    /// Starts a timer that fires at the first tick not before `deadline`.
    pub fn insert(&mut self, deadline: Instant, payload: T) -> TimerHandle {
        let tick = self.tick_not_before(deadline).max(self.cursor + 1);
        let index = self.free;
        let index = if index == NIL {
            // Memory runs out long before four thousand million nodes do.
            let index = self.nodes.len() as u32;
            let generation = NonZeroU32::MIN;
            self.nodes.push(Node { tick, generation, list: FREE, previous: NIL, next: NIL, payload });
            index
        } else {
            let node = &mut self.nodes[index as usize];
            self.free = node.next;
            node.tick = tick;
            node.payload = payload;
            index
        };
        self.running += 1;
        self.link(index, (tick % SLOTS as u64) as u32);
        TimerHandle { index, generation: self.nodes[index as usize].generation }
    }

    /// Stops a timer; its payload, unless it has fired or was cancelled before.
    pub fn cancel(&mut self, handle: TimerHandle) -> Option<T> {
        let node = self.nodes.get(handle.index as usize)?;
        if node.generation != handle.generation || node.list == FREE {
            return None;
        }
        Some(self.release(handle.index))
    }

    /// The next timer that is due at `now`, in order of deadlines. Call it until it returns `None`.
    pub fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let now = self.tick_reached(now);
        loop {
            let first = self.heads[DUE as usize];
            if first != NIL {
                return Some(self.release(first));
            }
            match self.next_occupied() {
                Some(tick) if tick <= now => {
                    self.cursor = tick;
                    self.collect_due(tick);
                }
                _ => {
                    self.cursor = self.cursor.max(now);
                    return None;
                }
            }
        }
    }

    /// When [`Self::pop_expired`] should be called next. Never later than the next deadline; earlier only for a deadline more than
    /// one turn away, once per turn, when there is nothing to hand out yet.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tick = if self.heads[DUE as usize] != NIL { self.cursor } else { self.next_occupied()? };
        self.epoch.checked_add(Duration::from_millis(tick.saturating_mul(TICK.as_millis() as u64)))
    }

    fn tick_not_before(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos.div_ceil(TICK_NANOS)).unwrap_or(u64::MAX)
    }

    fn tick_reached(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos / TICK_NANOS).unwrap_or(u64::MAX)
    }

    /// Moves the timers of this very tick, not those of later turns, from their slot to the due list.
    fn collect_due(&mut self, tick: u64) {
        let mut index = self.heads[(tick % SLOTS as u64) as usize];
        while index != NIL {
            let Node { next, tick: deadline, .. } = self.nodes[index as usize];
            if deadline <= tick {
                self.unlink(index);
                // Both lists grow at the head, so moving restores the order of insertion.
                self.link(index, DUE);
            }
            index = next;
        }
    }

    /// The first tick after the cursor whose slot is not empty.
    fn next_occupied(&self) -> Option<u64> {
        let start = ((self.cursor + 1) % SLOTS as u64) as usize;
        let (word, bit) = (start / 64, start % 64);
        let ahead = self.occupied[word] & (u64::MAX << bit);
        let found = if ahead != 0 {
            word * 64 + ahead.trailing_zeros() as usize
        } else {
            let later = self.summary & (u64::MAX << word) & !(1 << word);
            // With nothing in later words the turn goes on at the first one, up to and including the word it began in.
            let words = if later != 0 { later } else { self.summary };
            if words == 0 {
                return None;
            }
            let word = words.trailing_zeros() as usize;
            word * 64 + self.occupied[word].trailing_zeros() as usize
        };
        Some(self.cursor + 1 + ((found + SLOTS - start) % SLOTS) as u64)
    }

    fn link(&mut self, index: u32, list: u32) {
        let head = std::mem::replace(&mut self.heads[list as usize], index);
        if head != NIL {
            self.nodes[head as usize].previous = index;
        }
        let node = &mut self.nodes[index as usize];
        node.list = list;
        node.previous = NIL;
        node.next = head;
        if list != DUE {
            let word = list as usize / 64;
            self.occupied[word] |= 1 << (list % 64);
            self.summary |= 1 << word;
        }
    }

    fn unlink(&mut self, index: u32) {
        let Node { list, previous, next, .. } = self.nodes[index as usize];
        if next != NIL {
            self.nodes[next as usize].previous = previous;
        }
        if previous != NIL {
            self.nodes[previous as usize].next = next;
            return;
        }
        self.heads[list as usize] = next;
        if next == NIL && list != DUE {
            let word = list as usize / 64;
            self.occupied[word] &= !(1 << (list % 64));
            if self.occupied[word] == 0 {
                self.summary &= !(1 << word);
            }
        }
    }

    fn release(&mut self, index: u32) -> T {
        self.unlink(index);
        let free = std::mem::replace(&mut self.free, index);
        self.running -= 1;
        let node = &mut self.nodes[index as usize];
        node.list = FREE;
        node.next = free;
        node.generation = node.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        node.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[allow(clippy::disallowed_methods)] // any instant will do as the origin of virtual time
    fn epoch() -> Instant {
        Instant::now()
    }

    fn drain(wheel: &mut Wheel<u32>, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| wheel.pop_expired(now)).collect()
    }

    #[test]
    fn fires_at_the_first_tick_not_before_the_deadline() {
        let t0 = epoch();
        let mut wheel = Wheel::new(t0);
        wheel.insert(t0 + ms(101), 1);
        assert_eq!(wheel.poll_timeout(), Some(t0 + ms(110)));
        assert!(drain(&mut wheel, t0 + ms(109)).is_empty());
        assert_eq!(drain(&mut wheel, t0 + ms(110)), [1]);
        assert!(wheel.is_empty() && wheel.poll_timeout().is_none());
    }

    #[test]
    fn equal_deadlines_keep_their_order() {
        let t0 = epoch();
        let mut wheel = Wheel::new(t0);
        for n in 0..5 {
            wheel.insert(t0 + ms(50), n);
        }
        assert_eq!(drain(&mut wheel, t0 + ms(50)), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn deadlines_beyond_a_turn_wait_their_turns() {
        let t0 = epoch();
        let mut wheel = Wheel::new(t0);
        wheel.insert(t0 + ms(185_000), 1); // Timer C
        wheel.insert(t0 + ms(3_600_000), 2);
        let mut fired = Vec::new();
        let mut wakes = 0;
        while let Some(at) = wheel.poll_timeout() {
            wakes += 1;
            fired.extend(drain(&mut wheel, at).into_iter().map(|n| (n, at - t0)));
        }
        assert_eq!(fired, [(1, ms(185_000)), (2, ms(3_600_000))]);
        assert!(wakes < 100, "one look per turn, not one per tick: {wakes}");
    }

    #[test]
    fn a_long_pause_fires_everything_in_order() {
        let t0 = epoch();
        let mut wheel = Wheel::new(t0);
        for n in [90_000, 10, 41_000, 40_960, 500] {
            wheel.insert(t0 + ms(u64::from(n)), n);
        }
        assert_eq!(drain(&mut wheel, t0 + ms(600_000)), [10, 500, 40_960, 41_000, 90_000]);
    }

    #[test]
    fn an_old_handle_cancels_nothing() {
        let t0 = epoch();
        let mut wheel = Wheel::new(t0);
        let first = wheel.insert(t0 + ms(10), 1);
        assert_eq!(wheel.cancel(first), Some(1));
        assert_eq!(wheel.cancel(first), None);
        let second = wheel.insert(t0 + ms(10), 2);
        assert_eq!(second.index, first.index, "the node is reused");
        assert_eq!(wheel.cancel(first), None);
        assert_eq!(drain(&mut wheel, t0 + ms(10)), [2]);
        assert_eq!(wheel.cancel(second), None);
    }

    #[test]
    fn a_due_timer_can_still_be_cancelled() {
        let t0 = epoch();
        let mut wheel = Wheel::new(t0);
        wheel.insert(t0 + ms(10), 1);
        let second = wheel.insert(t0 + ms(10), 2);
        assert_eq!(wheel.pop_expired(t0 + ms(10)), Some(1));
        assert_eq!(wheel.cancel(second), Some(2));
        assert_eq!(wheel.pop_expired(t0 + ms(10)), None);
    }

    #[test]
    fn steady_state_allocates_nothing() {
        let t0 = epoch();
        let mut wheel = Wheel::new(t0);
        let mut now = t0;
        let mut handles: Vec<TimerHandle> = (0..100).map(|n| wheel.insert(t0 + ms(500 + n), 0)).collect();
        let (nodes, capacity) = (wheel.nodes.len(), wheel.nodes.capacity());
        for round in 0..10_000u32 {
            now += ms(7);
            let handle = &mut handles[round as usize % 100];
            let _ = wheel.cancel(*handle);
            while wheel.pop_expired(now).is_some() {}
            *handle = wheel.insert(now + ms(u64::from(round) * 37 % 60_000), round);
        }
        assert_eq!((wheel.nodes.len(), wheel.nodes.capacity()), (nodes, capacity));
    }

    proptest! {
        /// Against a sorted list: every timer fires exactly once, in order, never early, and by the first look after its tick.
        #[test]
        fn agrees_with_a_sorted_list(steps in prop::collection::vec((0u64..60_000, 0u64..3_000, any::<bool>()), 1..200)) {
            let t0 = epoch();
            let mut wheel = Wheel::new(t0);
            let mut model: Vec<(u64, u32, TimerHandle)> = Vec::new();
            let mut now = 0u64;
            for (n, (delay, advance, cancel)) in steps.into_iter().enumerate() {
                let handle = wheel.insert(t0 + ms(now + delay), n as u32);
                // A deadline that is already reached fires with the next tick.
                model.push(((now + delay).max(now / 10 * 10 + 1).div_ceil(10) * 10, n as u32, handle));
                if cancel {
                    let (_, payload, handle) = model.swap_remove(n % model.len());
                    prop_assert_eq!(wheel.cancel(handle), Some(payload));
                }
                now += advance;
                let mut due: Vec<_> = model.iter().filter(|m| m.0 <= now).map(|m| (m.0, m.1)).collect();
                model.retain(|m| m.0 > now);
                due.sort_unstable();
                let due: Vec<u32> = due.into_iter().map(|m| m.1).collect();
                prop_assert_eq!(drain(&mut wheel, t0 + ms(now)), due);
                prop_assert_eq!(wheel.len(), model.len());
                let next = model.iter().map(|m| m.0).min();
                match (next, wheel.poll_timeout()) {
                    (Some(next), Some(poll)) => prop_assert!(poll <= t0 + ms(next) && poll > t0 + ms(now)),
                    (next, poll) => prop_assert!(next.is_none() && poll.is_none()),
                }
            }
        }
    }
}
