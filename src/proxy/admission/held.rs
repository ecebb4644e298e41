//! The calls that count against the limits of trunks, from their INVITE to a final response other than 2xx, a BYE, or their greatest
//! length (KR-6). All messages of a call come to one worker, so each keeps its own.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::limits::{CallGuard, TrunkLimits};

/// Guards by call. Only calls of trunks with a limit are in here, so its size is bounded by those limits.
#[derive(Default)]
pub struct HeldCalls {
    calls: HashMap<u64, Held>,
    /// Calls in the order in which they are to be looked at for their length.
    ends: VecDeque<(Instant, u64)>,
}

struct Held {
    until: Instant,
    guards: Vec<CallGuard>,
}

impl HeldCalls {
    /// Keeps a guard until the call ends, or for `longest` after its last sign of life.
    pub fn hold(&mut self, now: Instant, call: u64, guard: CallGuard, longest: Duration) {
        self.expire(now);
        let until = now + longest;
        let held = self.calls.entry(call).or_insert_with(|| {
            self.ends.push_back((until, call));
            Held { until, guards: Vec::with_capacity(2) }
        });
        held.until = until;
        held.guards.push(guard);
    }

    /// Whether the call is held: its further INVITEs do not count again.
    pub fn contains(&self, call: u64) -> bool {
        self.calls.contains_key(&call)
    }

    /// Whether the call counts for a trunk already.
    pub fn counts(&self, call: u64, limits: &TrunkLimits) -> bool {
        self.calls.get(&call).is_some_and(|held| held.guards.iter().any(|guard| guard.is_of(limits)))
    }

    /// The call counts no more for one trunk.
    pub fn release_one(&mut self, call: u64, limits: &TrunkLimits) {
        if let Some(held) = self.calls.get_mut(&call) {
            held.guards.retain(|guard| !guard.is_of(limits));
            if held.guards.is_empty() {
                self.calls.remove(&call);
            }
        }
    }

    /// A sign of life of the call.
    pub fn touch(&mut self, now: Instant, call: u64, longest: Duration) {
        if let Some(held) = self.calls.get_mut(&call) {
            held.until = now + longest;
        }
    }

    /// The call is over.
    pub fn release(&mut self, call: u64) {
        self.calls.remove(&call);
    }

    /// Lets go of calls whose end was never seen.
    pub fn expire(&mut self, now: Instant) {
        while let Some((_, call)) = self.ends.front().copied().filter(|(at, _)| *at <= now) {
            self.ends.pop_front();
            match self.calls.get(&call).map(|held| held.until) {
                Some(until) if until > now => self.ends.push_back((until, call)),
                Some(_) => drop(self.calls.remove(&call)),
                None => {}
            }
        }
        // What ended by itself leaves its entry behind; when those prevail they are swept out.
        if self.ends.len() > 64 + 2 * self.calls.len() {
            self.ends.retain(|(_, call)| self.calls.contains_key(call));
        }
    }

    /// Calls held.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// No call is held.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kr6_calls_are_let_go_by_their_end_or_their_length() {
        let limits = TrunkLimits::new(None, Some(10), 503);
        let (start, hour) = (crate::node::clock::instant(), Duration::from_secs(3600));
        let mut held = HeldCalls::default();
        for call in 0..3 {
            held.hold(start, call, limits.admit(start, false).unwrap(), hour);
        }
        assert_eq!((held.len(), limits.calls()), (3, 3));
        held.release(0);
        held.release(77);
        assert_eq!(limits.calls(), 2);
        held.touch(start + hour / 2, 1, hour);
        held.expire(start + hour);
        assert_eq!((held.contains(1), held.contains(2), limits.calls()), (true, false, 1));
        held.expire(start + hour * 2);
        assert!(held.is_empty() && limits.calls() == 0);
    }

    #[test]
    fn what_has_ended_leaves_nothing_behind() {
        let limits = TrunkLimits::new(None, None, 503);
        let (start, hour) = (crate::node::clock::instant(), Duration::from_secs(3600));
        let mut held = HeldCalls::default();
        for call in 0..100_000 {
            held.hold(start, call, limits.admit(start, false).unwrap(), hour);
            held.release(call);
        }
        assert!(held.ends.len() < 100, "{}", held.ends.len());
    }
}
