//! The server side: what our neighbours are told of our load (O-5).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::params::{Algorithm, Feedback, Offer};

/// For how long what we say holds.
const VALIDITY: Duration = Duration::from_millis(500);
/// Time over which requests of a client are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// Clients remembered; the others are told in loss, which needs no memory.
const MAX_CLIENTS: usize = 4096;
/// How long a client stays with its algorithm (RFC 7339 5.5).
const KEPT: Duration = Duration::from_secs(3600);

/// What one worker knows of the clients it tells its load to.
pub struct Server {
    clients: HashMap<SocketAddr, Requests>,
    /// The second (Unix) of the last message, and when it began, for `oc-seq`.
    second: (i64, Instant),
}

struct Requests {
    algorithm: Algorithm,
    began: Instant,
    seen: Instant,
    count: u32,
    /// Per second, in the window before.
    rate: u32,
}

impl Server {
    /// Knows nobody yet.
    pub fn new(now: Instant) -> Self {
        Server { clients: HashMap::new(), second: (0, now) }
    }

    /// Counts a request of a client that offers overload control.
    pub fn count(&mut self, now: Instant, client: SocketAddr, offer: Offer, wanted: Algorithm) {
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&client) {
            self.clients.retain(|_, known| now.saturating_duration_since(known.seen) < KEPT);
            if self.clients.len() >= MAX_CLIENTS {
                return;
            }
        }
        let algorithm = if offer.rate { wanted } else { Algorithm::Loss };
        let fresh = Requests { algorithm, began: now, seen: now, count: 0, rate: 0 };
        let known = self.clients.entry(client).or_insert(fresh);
        known.seen = now;
        let passed = now.saturating_duration_since(known.began);
        if passed >= WINDOW {
            let rate = u128::from(known.count) * 1000 / passed.as_millis().max(1);
            known.rate = u32::try_from(rate).unwrap_or(u32::MAX);
            (known.began, known.count) = (now, 0);
        }
        known.count = known.count.saturating_add(1);
    }

    /// What to tell a client while `level` percent are too much for us. `unix` is the time in seconds.
    pub fn feedback(&mut self, now: Instant, unix: i64, client: SocketAddr, level: u8) -> Feedback {
        if self.second.0 != unix {
            self.second = (unix, now);
        }
        let part = now.saturating_duration_since(self.second.1).as_micros() / 10;
        let sequence = (u64::try_from(unix).unwrap_or(0), u32::try_from(part).unwrap_or(u32::MAX).min(99_999));
        let known = self.clients.get(&client);
        let algorithm = known.map_or(Algorithm::Loss, |known| known.algorithm);
        if level == 0 {
            return Feedback { value: 0, algorithm, validity: Duration::ZERO, sequence };
        }
        let value = match algorithm {
            Algorithm::Loss => u32::from(level.min(100)),
            Algorithm::Rate => {
                let rate = known.map_or(0, |known| known.rate.max(known.count));
                (u64::from(rate) * u64::from(100 - level.min(100)) / 100) as u32
            }
        };
        Feedback { value, algorithm, validity: VALIDITY, sequence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o5_loss_is_the_level_rate_is_what_remains_of_what_came() {
        let start = crate::node::clock::instant();
        let mut server = Server::new(start);
        let (a, b) = ("192.0.2.1:5060".parse().unwrap(), "192.0.2.2:5060".parse().unwrap());
        for n in 0..200u32 {
            let now = start + Duration::from_millis(10) * n;
            server.count(now, a, Offer { rate: true }, Algorithm::Rate);
            server.count(now, b, Offer { rate: false }, Algorithm::Rate);
        }
        let now = start + Duration::from_secs(2);
        let told = |server: &mut Server, client, level| {
            let told = server.feedback(now, 1000, client, level);
            (told.value, told.algorithm, told.validity)
        };
        assert_eq!(told(&mut server, a, 20), (80, Algorithm::Rate, VALIDITY));
        assert_eq!(told(&mut server, b, 20), (20, Algorithm::Loss, VALIDITY));
        assert_eq!(told(&mut server, a, 0), (0, Algorithm::Rate, Duration::ZERO), "not overloaded");
        // It stays with what was chosen.
        server.count(now, a, Offer { rate: true }, Algorithm::Loss);
        assert_eq!(told(&mut server, a, 20).1, Algorithm::Rate);
    }

    #[test]
    fn sequences_grow() {
        let start = crate::node::clock::instant();
        let mut server = Server::new(start);
        let client = "192.0.2.1:5060".parse().unwrap();
        let mut at = |millis, unix| server.feedback(start + Duration::from_millis(millis), unix, client, 1).sequence;
        let all = [at(0, 7), at(1, 7), at(999, 7), at(1000, 8), at(1500, 8)];
        assert!(all.is_sorted() && all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    }
}
