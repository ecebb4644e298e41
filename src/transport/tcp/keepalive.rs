//! Connections that are kept open by pings (RFC 5626 4.4.1, 4.5; KA-1, KA-4): when to ping, when a connection is dead, when to open it
//! again. Times and random numbers are arguments.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::table::Way;
use crate::sip::hop::PeerId;

/// Between two pings: so long, and up to [`SPREAD`] more.
const INTERVAL: Duration = Duration::from_secs(95);
const SPREAD: Duration = Duration::from_secs(25);
/// For the answer to a ping.
const PATIENCE: Duration = Duration::from_secs(10);
/// First and longest wait before a connection is opened again; it doubles with each failure in a row.
const BASE: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(1800);
/// After so many failures in a row, about half a day, a way is given up until a request opens it.
const MOST_FAILURES: u32 = 24;

/// The pulse of one connection.
#[derive(Debug)]
pub(super) struct Pulse {
    next: Instant,
    pong_until: Option<Instant>,
}

/// What is to be done for a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Rest,
    Ping,
    Dead,
}

impl Pulse {
    pub fn new(now: Instant, random: u64) -> Self {
        Self { next: now + interval(random), pong_until: None }
    }

    /// To be asked often.
    pub fn beat(&mut self, now: Instant, random: u64) -> Beat {
        if self.pong_until.is_some_and(|until| now >= until) {
            return Beat::Dead;
        }
        if now < self.next {
            return Beat::Rest;
        }
        self.next = now + interval(random);
        self.pong_until = Some(now + PATIENCE);
        Beat::Ping
    }

    /// A pong came.
    pub fn heard(&mut self) {
        self.pong_until = None;
    }
}

/// 95 to 120 s.
fn interval(random: u64) -> Duration {
    INTERVAL + SPREAD.mul_f64(fraction(random))
}

/// The wait after this many failures in a row: uniformly half of W to W, where W = min(1800 s, 30 s * 2^failures).
fn wait(failures: u32, random: u64) -> Duration {
    let longest = BASE.saturating_mul(1 << failures.min(16)).min(LONGEST);
    longest.mul_f64(0.5 + fraction(random) / 2.0)
}

/// 0 to 1.
fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[derive(Debug)]
enum State {
    Open,
    /// Lost; nobody has looked at the clock yet.
    Lost,
    Waiting(Instant),
}

/// The ways that are to be open.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// With failures in a row, and whose way it is: an address alone does not tell (a next hop may be a name).
    ways: HashMap<Way, (State, u32, Option<PeerId>)>,
}

impl Kept {
    /// A connection is being opened on this way.
    pub fn open(&mut self, way: Way, peer: Option<PeerId>) {
        let (state, _, owner) = self.ways.entry(way).or_insert((State::Open, 0, peer));
        (*state, *owner) = (State::Open, peer);
    }

    /// It answered: earlier failures are forgotten.
    pub fn proven(&mut self, way: &Way) {
        if let Some((_, failures, _)) = self.ways.get_mut(way) {
            *failures = 0;
        }
    }

    /// Its connection is no more.
    pub fn lost(&mut self, way: &Way) {
        if let Some((state, failures, _)) = self.ways.get_mut(way) {
            (*state, *failures) = (State::Lost, *failures + 1);
        }
        if self.ways.get(way).is_some_and(|(_, failures, _)| *failures > MOST_FAILURES) {
            self.ways.remove(way);
        }
    }

    /// It need not be open any more.
    pub fn forget(&mut self, way: &Way) {
        self.ways.remove(way);
    }

    /// Ways that are to be opened again now.
    pub fn due(&mut self, now: Instant, mut random: impl FnMut() -> u64) -> Vec<(Way, Option<PeerId>)> {
        let mut due = Vec::new();
        for (way, (state, failures, peer)) in &mut self.ways {
            match state {
                State::Open => {}
                State::Lost => *state = State::Waiting(now + wait(*failures, random())),
                State::Waiting(until) if now >= *until => due.push((*way, *peer)),
                State::Waiting(_) => {}
            }
        }
        due
    }

    pub fn is_empty(&self) -> bool {
        self.ways.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::hop::{ListenerId, Transport};

    #[allow(clippy::disallowed_methods)] // a starting point; only differences matter
    fn epoch() -> Instant {
        Instant::now()
    }

    /// Not part of a way without TLS, and known all the same when it is to be opened again.
    const PEER: Option<PeerId> = Some(PeerId(3));
    const WAY: fn() -> Way = || (Transport::Tcp, ListenerId(0), ([192, 0, 2, 1], 5060).into(), None);

    #[test]
    fn ka1_a_ping_every_95_to_120_s_and_10_s_for_its_pong() {
        let start = epoch();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (random, first) in [(0, 95), (u64::MAX, 120), (u64::MAX / 2, 108)] {
            let mut pulse = Pulse::new(start, random);
            assert_eq!(pulse.beat(at(first - 1), random), Beat::Rest);
            assert_eq!(pulse.beat(at(first), random), Beat::Ping);
            assert_eq!(pulse.beat(at(first + 9), random), Beat::Rest);
            pulse.heard();
            assert_eq!(pulse.beat(at(first + 10), random), Beat::Rest);
            assert_eq!(pulse.beat(at(2 * first), random), Beat::Ping);
            assert_eq!(pulse.beat(at(2 * first + 10), random), Beat::Dead);
        }
    }

    #[test]
    fn ka4_the_wait_doubles_up_to_half_an_hour() {
        let longest: Vec<_> = (1..9).map(|failures| wait(failures, u64::MAX).as_secs_f64().round()).collect();
        assert_eq!(longest, [60.0, 120.0, 240.0, 480.0, 960.0, 1800.0, 1800.0, 1800.0]);
        assert_eq!((wait(1, 0), wait(40, 0)), (Duration::from_secs(30), Duration::from_secs(900)));
    }

    #[test]
    fn ka4_a_lost_way_is_opened_again_and_given_up_in_the_end() {
        let (start, mut kept) = (epoch(), Kept::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        kept.lost(&WAY());
        assert!(kept.is_empty(), "it was not kept");
        kept.open(WAY(), PEER);
        assert!(kept.due(at(9999), || 0).is_empty(), "it is open");
        kept.lost(&WAY());
        assert!(kept.due(at(100), || 0).is_empty() && kept.due(at(129), || 0).is_empty());
        assert_eq!(kept.due(at(130), || 0), [(WAY(), PEER)]);
        kept.open(WAY(), PEER);
        kept.lost(&WAY());
        assert!(kept.due(at(200), || 0).is_empty() && kept.due(at(259), || 0).is_empty(), "the second failure");
        assert_eq!(kept.due(at(260), || 0), [(WAY(), PEER)]);
        kept.open(WAY(), PEER);
        kept.proven(&WAY());
        kept.lost(&WAY());
        assert!(kept.due(at(300), || 0).is_empty());
        assert_eq!(kept.due(at(330), || 0), [(WAY(), PEER)], "it had answered in between");
        for _ in 0..MOST_FAILURES {
            kept.open(WAY(), PEER);
            kept.lost(&WAY());
        }
        assert!(kept.is_empty());
    }
}
