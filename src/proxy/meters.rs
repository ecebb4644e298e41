//! Plain counters of one worker that have more than one dimension, and histograms; `node` writes them down about once a second.

use std::time::Duration;

use super::calls::{CallRecord, EndedBy};
use crate::passport::ppt::shaken::Attestation;
use crate::sip::hop::Transport;
use crate::sip::{Message, Method};
use crate::stir::Check;
use crate::stir::Verstat;
use crate::stir::verification::{Overall, Verdict};

/// Methods that are told apart, with their names; every other one is `other`.
pub const METHODS: [&str; 15] = [
    "INVITE",
    "ACK",
    "CANCEL",
    "BYE",
    "OPTIONS",
    "REGISTER",
    "PRACK",
    "UPDATE",
    "INFO",
    "MESSAGE",
    "REFER",
    "NOTIFY",
    "SUBSCRIBE",
    "PUBLISH",
    "other",
];
/// Transports, with their names.
pub const TRANSPORTS: [&str; 5] = ["udp", "tcp", "tls", "ws", "wss"];
/// Verdicts, with their names.
pub const VERDICTS: [&str; 3] = ["valid", "invalid", "none"];
/// Attestations of valid tokens; the last is none.
pub const ATTESTATIONS: [&str; 4] = ["A", "B", "C", ""];
/// Status codes from 100 on.
pub const CODES: usize = 600;
/// Upper bounds of the buckets of [`Histogram`], in milliseconds; the last bucket has none.
pub const BOUNDS: [u64; 17] =
    [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 120_000, 600_000, 3_600_000];

/// How many durations fell into each bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By [`BOUNDS`]; not added up.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// All durations together.
    pub sum: Duration,
}

impl Histogram {
    /// Takes one in.
    pub fn observe(&mut self, duration: Duration) {
        let millis = duration.as_micros().div_ceil(1000);
        let place = BOUNDS.iter().position(|bound| millis <= u128::from(*bound)).unwrap_or(BOUNDS.len());
        self.buckets.get_mut(place).into_iter().for_each(|count| *count += 1);
        self.sum = self.sum.saturating_add(duration);
    }

    fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(count, more)| *count += more);
        self.sum = self.sum.saturating_add(other.sum);
    }
}

/// The counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meters {
    /// Requests received, by transport and method; retransmissions among them.
    pub requests: [[u64; METHODS.len()]; TRANSPORTS.len()],
    /// Responses received and sent, by status from 100 on. What the transaction layer sends again is not counted again.
    pub responses: [[u64; CODES]; 2],
    /// Verdicts on INVITEs and MESSAGEs, by [`VERDICTS`] and the check that failed (the last place: none did).
    pub verdicts: [[u64; Check::ALL.len() + 1]; VERDICTS.len()],
    /// What verdicts come to for the number, by [`Verstat::ALL`].
    pub verstat: [u64; Verstat::ALL.len()],
    /// Valid tokens by attestation: A, B, C, none.
    pub attestations: [u64; 4],
    /// Requests whose diversions are proven.
    pub diverted: u64,
    /// Signed names that are verified, and that are not.
    pub names: [u64; 2],
    /// From a request to the final response sent to it: INVITE, other methods.
    pub request_duration: [Histogram; 2],
    /// From INVITE to 2xx.
    pub setup: Histogram,
    /// From 2xx to the end of the call.
    pub call_duration: Histogram,
    /// Calls that are over, by [`EndedBy::ALL`].
    pub ended: [u64; EndedBy::ALL.len()],
    /// Headers of PASSporTs that were found in the cache, and that were not.
    pub credentials: [u64; 2],
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            requests: Default::default(),
            responses: [[0; CODES]; 2],
            verdicts: Default::default(),
            verstat: Default::default(),
            attestations: Default::default(),
            diverted: 0,
            names: Default::default(),
            request_duration: Default::default(),
            setup: Histogram::default(),
            call_duration: Histogram::default(),
            ended: Default::default(),
            credentials: [0; 2],
        }
    }
}

fn count(counter: Option<&mut u64>) {
    counter.into_iter().for_each(|counter| *counter += 1);
}

impl Meters {
    /// A request came.
    pub(super) fn request(&mut self, transport: Transport, request: Message<'_>) {
        let by_transport = self.requests.get_mut(place_of_transport(transport));
        let method = request.method().map_or(METHODS.len() - 1, place_of_method);
        count(by_transport.and_then(|methods| methods.get_mut(method)));
    }

    /// A response came.
    pub(super) fn received(&mut self, status: u16) {
        let [received, _] = &mut self.responses;
        count(usize::from(status).checked_sub(100).and_then(|place| received.get_mut(place)));
    }

    /// A response was sent.
    pub(super) fn sent(&mut self, status: u16) {
        let [_, sent] = &mut self.responses;
        count(usize::from(status).checked_sub(100).and_then(|place| sent.get_mut(place)));
    }

    /// A request got its final response after so long.
    pub(super) fn answered(&mut self, is_invite: bool, after: Duration) {
        let [invite, other] = &mut self.request_duration;
        if is_invite { invite } else { other }.observe(after);
    }

    /// Verification has spoken.
    pub(super) fn verdict(&mut self, verdict: &Verdict) {
        let (result, failed) = match verdict.overall() {
            Overall::Valid { .. } => (0, None),
            Overall::Invalid => (1, verdict.tokens().iter().find_map(|token| token.fault()).map(|(check, _)| check)),
            Overall::NoIdentity => (2, None),
        };
        let reason = failed.and_then(|check| Check::ALL.iter().position(|other| *other == check));
        let place = reason.unwrap_or(Check::ALL.len());
        count(self.verdicts.get_mut(result).and_then(|reasons| reasons.get_mut(place)));
        let verstat = Verstat::of(verdict);
        count(Verstat::ALL.iter().position(|other| *other == verstat).and_then(|place| self.verstat.get_mut(place)));
        if let Some(token) = verdict.valid() {
            let place = ATTESTATIONS.iter().position(|letter| *letter == token.attest.map_or("", Attestation::letter));
            count(place.and_then(|place| self.attestations.get_mut(place)));
        }
        self.diverted += u64::from(!verdict.diversions().is_empty());
        let [verified, unverified] = &mut self.names;
        match verdict.is_name_verified() {
            Some(true) => *verified += 1,
            Some(false) => *unverified += 1,
            None => {}
        }
    }

    /// A call is over.
    pub(super) fn call(&mut self, record: &CallRecord) {
        count(EndedBy::ALL.iter().position(|by| *by == record.ended_by).and_then(|place| self.ended.get_mut(place)));
        if let Some(answered) = record.call.answered() {
            self.setup.observe(answered.saturating_duration_since(record.call.started()));
            self.call_duration.observe(record.duration());
        }
    }

    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        fn add(to: &mut [u64], from: &[u64]) {
            to.iter_mut().zip(from).for_each(|(count, more)| *count += more);
        }
        self.requests.iter_mut().zip(&other.requests).for_each(|(to, from)| add(to, from));
        self.responses.iter_mut().zip(&other.responses).for_each(|(to, from)| add(to, from));
        self.verdicts.iter_mut().zip(&other.verdicts).for_each(|(to, from)| add(to, from));
        add(&mut self.verstat, &other.verstat);
        add(&mut self.attestations, &other.attestations);
        self.diverted += other.diverted;
        add(&mut self.names, &other.names);
        self.request_duration.iter_mut().zip(&other.request_duration).for_each(|(to, from)| to.add(from));
        self.setup.add(&other.setup);
        self.call_duration.add(&other.call_duration);
        add(&mut self.ended, &other.ended);
        add(&mut self.credentials, &other.credentials);
    }
}

fn place_of_transport(transport: Transport) -> usize {
    match transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
        Transport::Tls => 2,
        Transport::Ws => 3,
        Transport::Wss => 4,
    }
}

/// As in [`METHODS`].
fn place_of_method(method: Method<'_>) -> usize {
    match method {
        Method::Invite => 0,
        Method::Ack => 1,
        Method::Cancel => 2,
        Method::Bye => 3,
        Method::Options => 4,
        Method::Register => 5,
        Method::Prack => 6,
        Method::Update => 7,
        Method::Info => 8,
        Method::Message => 9,
        Method::Refer => 10,
        Method::Notify => 11,
        Method::Subscribe => 12,
        Method::Publish => 13,
        Method::Other(_) => 14,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let mut histogram = Histogram::default();
        for micros in [0, 1000, 1001, 2000, 99_999, 100_000, 100_001, 4_000_000_000, u64::MAX / 2] {
            histogram.observe(Duration::from_micros(micros));
        }
        let place = |bound: u64| BOUNDS.iter().position(|b| *b == bound).unwrap();
        assert_eq!(histogram.buckets[place(1)], 2);
        assert_eq!(histogram.buckets[place(2)], 2);
        assert_eq!(histogram.buckets[place(100)], 2);
        assert_eq!(histogram.buckets[place(250)], 1);
        assert_eq!(histogram.buckets[BOUNDS.len()], 2);
        assert_eq!(histogram.buckets.iter().sum::<u64>(), 9);
    }

    #[test]
    fn methods_have_their_own_names() {
        for (place, name) in METHODS.iter().enumerate() {
            assert_eq!(place_of_method(Method::new(name.as_bytes())), place, "{name}");
        }
    }
}
