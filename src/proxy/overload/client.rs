//! The client side: what neighbours asked for, and which requests are therefore withheld (O-2 to O-4).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::params::{Algorithm, Feedback};
use crate::proxy::admission::priority::Priority;

/// Neighbours remembered; one more takes the place of one whose wish has expired, or else is not obeyed.
const MAX_PEERS: usize = 4096;
/// Time over which the mix of requests is measured.
const WINDOW: Duration = Duration::from_secs(1);
/// Share of requests that may be withheld first, percent, until one is measured (RFC 7339 6.3).
const FIRST_SHARE: u32 = 80;

/// What one worker knows of its neighbours' load.
#[derive(Default)]
pub struct Client {
    peers: HashMap<SocketAddr, Peer>,
}

struct Peer {
    feedback: Feedback,
    until: Instant,
    mix: Mix,
    bucket: Bucket,
}

impl Client {
    /// Takes what a neighbour says in a response. Only what is newer than what it said before counts.
    pub fn take(&mut self, now: Instant, peer: SocketAddr, feedback: Feedback) {
        let until = now + feedback.validity;
        if let Some(known) = self.peers.get_mut(&peer) {
            if feedback.sequence <= known.feedback.sequence {
                return;
            }
            if known.feedback.algorithm != feedback.algorithm || known.until <= now {
                known.bucket = Bucket::new(now);
            }
            (known.feedback, known.until) = (feedback, until);
            return;
        }
        if self.peers.len() >= MAX_PEERS {
            self.peers.retain(|_, known| known.until > now);
        }
        if self.peers.len() < MAX_PEERS && !feedback.validity.is_zero() {
            self.peers.insert(peer, Peer { feedback, until, mix: Mix::new(now), bucket: Bucket::new(now) });
        }
    }

    /// Whether a request may go to a neighbour. `random` is even over 32 bits.
    pub fn may_send(&mut self, now: Instant, peer: SocketAddr, priority: Priority, random: u32) -> bool {
        let Some(peer) = self.peers.get_mut(&peer).filter(|peer| peer.until > now) else { return true };
        let is_low = priority.may_be_shed();
        let share = peer.mix.count(now, is_low);
        let is_emergency = priority == Priority::Emergency;
        match peer.feedback.algorithm {
            Algorithm::Loss => is_emergency || !withheld(peer.feedback.value, share, is_low, random),
            Algorithm::Rate => {
                let tolerance = if is_low { 5 } else { 10 };
                let tolerance = (!is_emergency).then_some(tolerance);
                peer.bucket.pass(now, peer.feedback.value, tolerance) || is_emergency
            }
        }
    }

    /// Whether a neighbour asks for anything at present.
    pub fn is_limited(&self, now: Instant, peer: SocketAddr) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.until > now)
    }
}

/// Of all requests `percent` are withheld, those of low priority first, which make up `share` percent (RFC 7339 6.3).
fn withheld(percent: u32, share: u32, is_low: bool, random: u32) -> bool {
    let (part, of) = match (is_low, percent <= share) {
        (true, true) => (percent, share.max(1)),
        (true, false) => return percent > 0,
        (false, true) => return false,
        (false, false) => (percent - share, 100u32.saturating_sub(share).max(1)),
    };
    u64::from(random) * u64::from(of) < u64::from(part) << 32
}

/// How many requests are of low priority.
struct Mix {
    began: Instant,
    low: u32,
    all: u32,
    /// In the last full window, percent.
    share: Option<u32>,
}

impl Mix {
    fn new(now: Instant) -> Self {
        Mix { began: now, low: 0, all: 0, share: None }
    }

    /// Counts a request; percent of low ones in the window before, or so far.
    fn count(&mut self, now: Instant, is_low: bool) -> u32 {
        if now.saturating_duration_since(self.began) >= WINDOW {
            self.share = self.seen().or(self.share);
            (self.began, self.low, self.all) = (now, 0, 0);
        }
        self.all = self.all.saturating_add(1);
        self.low = self.low.saturating_add(u32::from(is_low));
        self.share.or_else(|| self.seen()).unwrap_or(FIRST_SHARE)
    }

    /// The share so far, once there is enough to say one.
    fn seen(&self) -> Option<u32> {
        (self.all >= 20).then(|| (u64::from(self.low) * 100 / u64::from(self.all)) as u32)
    }
}

/// The leaky bucket of RFC 7415 3.5.1, times in nanoseconds.
struct Bucket {
    /// X: content at `last`.
    content: i128,
    /// LCT: time of the last request that passed.
    last: Instant,
}

impl Bucket {
    /// TAU0 = 0: empty.
    fn new(now: Instant) -> Self {
        Bucket { content: 0, last: now }
    }

    /// A request of a class whose TAU is so many T; `None` passes always, and fills the bucket all the same.
    fn pass(&mut self, now: Instant, rate: u32, tolerance: Option<i128>) -> bool {
        if rate == 0 {
            return false;
        }
        let interval = 1_000_000_000 / i128::from(rate);
        let passed = i128::try_from(now.saturating_duration_since(self.last).as_nanos()).unwrap_or(i128::MAX);
        let content = self.content - passed;
        if tolerance.is_some_and(|tolerance| content > tolerance * interval) {
            return false;
        }
        (self.content, self.last) = (content.max(0) + interval, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "198.51.100.20:5060";

    struct Run {
        client: Client,
        now: Instant,
        random: u32,
        sequence: u64,
    }

    impl Run {
        fn new() -> Self {
            Run { client: Client::default(), now: crate::node::clock::instant(), random: 1, sequence: 1 }
        }

        fn ask(&mut self, value: u32, algorithm: Algorithm, millis: u64) {
            self.sequence += 1;
            let feedback =
                Feedback { value, algorithm, validity: Duration::from_millis(millis), sequence: (self.sequence, 1) };
            self.client.take(self.now, PEER.parse().unwrap(), feedback);
        }

        fn send(&mut self, priority: Priority) -> bool {
            self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            self.client.may_send(self.now, PEER.parse().unwrap(), priority, self.random)
        }

        /// Sends so many, at so many per second; how many of the first and of the second kind passed.
        fn run(&mut self, count: u32, per_second: u32, kinds: [Priority; 2]) -> [u32; 2] {
            let mut passed = [0; 2];
            for n in 0..count {
                self.now += Duration::from_secs(1) / per_second;
                let kind = (n % 2) as usize;
                passed[kind] += u32::from(self.send(kinds[kind]));
            }
            passed
        }
    }

    use Priority::{Emergency, Ending, NewCall, Other};

    #[test]
    fn c59_loss_withholds_the_share_that_was_asked_for() {
        let mut run = Run::new();
        assert_eq!(run.run(100, 100, [NewCall, Other]), [50, 50], "nobody asked");
        run.ask(50, Algorithm::Loss, 1_000_000);
        run.run(1000, 200, [NewCall, Other]);
        let [new, other] = run.run(10_000, 200, [NewCall, Other]);
        assert!((4500..5500).contains(&(new + other)), "{new} {other}");
    }

    #[test]
    fn o4_what_belongs_to_a_call_is_withheld_last_and_emergencies_never() {
        let mut run = Run::new();
        run.ask(40, Algorithm::Loss, 1_000_000);
        run.run(400, 200, [NewCall, Ending]);
        let [new, ending] = run.run(10_000, 200, [NewCall, Ending]);
        assert_eq!(ending, 5000);
        assert!((800..1200).contains(&new), "40 of the 50 percent: {new}");
        run.ask(75, Algorithm::Loss, 1_000_000);
        let [new, ending] = run.run(10_000, 200, [NewCall, Ending]);
        assert_eq!(new, 0);
        assert!((2250..2750).contains(&ending), "{ending}");
        run.ask(100, Algorithm::Loss, 1_000_000);
        assert_eq!(run.run(400, 200, [Emergency, Ending])[0], 200);
    }

    #[test]
    fn c59_rate_lets_so_many_a_second_through() {
        let mut run = Run::new();
        run.ask(10, Algorithm::Rate, 1_000_000);
        let [a, b] = run.run(2000, 200, [NewCall, NewCall]);
        assert!((100..=107).contains(&(a + b)), "10 s at 10 a second, and the tolerance: {a} {b}");
        run.ask(0, Algorithm::Rate, 1_000_000);
        assert_eq!(run.run(200, 200, [NewCall, Ending]), [0, 0], "oc=0 is nothing at all");
        assert!(run.send(Emergency));
    }

    #[test]
    fn rfc7415_the_bucket_against_values_worked_out_by_hand() {
        // T = 100 ms, TAU = 4 T. At one moment 5 pass (X = 0, 100 .. 400 before each); then one per T.
        let start = crate::node::clock::instant();
        let mut bucket = Bucket::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        let passes: Vec<bool> = (0..7).map(|_| bucket.pass(at(0), 10, Some(4))).collect();
        assert_eq!(passes, [true, true, true, true, true, false, false]);
        assert_eq!(bucket.content, 500_000_000);
        assert!(!bucket.pass(at(99), 10, Some(4)) && bucket.pass(at(100), 10, Some(4)));
        assert_eq!(bucket.content, 500_000_000);
        // Two classes: at X' = 700 ms the lower (5 T) waits, the higher (10 T) goes.
        let mut bucket = Bucket { content: 700_000_000, last: start };
        assert!(!bucket.pass(at(0), 10, Some(5)) && bucket.pass(at(0), 10, Some(10)));
        // A rest empties it, and not below 0.
        assert!(bucket.pass(at(10_000), 10, Some(5)));
        assert_eq!(bucket.content, 100_000_000);
    }

    #[test]
    fn o2_wishes_expire_and_old_ones_are_not_heard() {
        let mut run = Run::new();
        run.ask(100, Algorithm::Loss, 500);
        assert!(!run.send(NewCall));
        let peer = PEER.parse().unwrap();
        let stale =
            Feedback { value: 0, algorithm: Algorithm::Loss, validity: Duration::ZERO, sequence: (run.sequence, 1) };
        run.client.take(run.now, peer, stale);
        assert!(!run.send(NewCall), "an equal oc-seq says nothing");
        run.now += Duration::from_millis(499);
        assert!(!run.send(NewCall) && run.client.is_limited(run.now, peer));
        run.now += Duration::from_millis(1);
        assert!(run.send(NewCall) && !run.client.is_limited(run.now, peer));
        run.ask(100, Algorithm::Loss, 500);
        assert!(!run.send(NewCall));
        run.ask(0, Algorithm::Loss, 0);
        assert!(run.send(NewCall), "oc-validity=0 ends it at once");
    }

    #[test]
    fn neighbours_beyond_number_are_not_remembered() {
        let mut client = Client::default();
        let now = crate::node::clock::instant();
        for n in 0..10_000u32 {
            let peer = SocketAddr::from((std::net::Ipv4Addr::from(n), 5060));
            let validity = Duration::from_secs(5);
            client.take(now, peer, Feedback { value: 1, algorithm: Algorithm::Loss, validity, sequence: (1, 1) });
        }
        assert_eq!(client.peers.len(), MAX_PEERS);
    }
}
