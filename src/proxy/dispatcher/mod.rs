//! The next hops of a trunk as a set: which comes first (Kamailio's dispatcher algorithms by name), which is down, which is full
//! (KR-1 to KR-6). Shared by all workers: atomics only. Time and randomness are arguments.
//!
//! A [`Member`] is a next hop's part in one trunk; the `Destination` behind it is shared by all trunks that lead there. `health` knows
//! who is down, `addresses` the same for each address of a name, `choice` orders members for a request, `key` says what hashes look
//! at, `report` is for operators.

mod addresses;
mod choice;
mod health;
mod key;
mod member;
mod report;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(in crate::proxy) use choice::hash;
pub use choice::{Asked, Choice};
pub use health::{Change, Rules};
pub use member::{Destination, Member, MemberState};
pub use report::{MemberReport, NoSuchMember};

use super::NextHop;
use super::probe::Probing;
use crate::sip::{FieldName, Message};

/// How the first next hop of a request is chosen; the others follow in case it fails. Lower priorities come first in each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Always in the order written: active and standby (Kamailio's 8).
    #[default]
    Serial,
    /// One after the other (4, and 64 with overload control).
    RoundRobin,
    /// Any (6).
    Random,
    /// By Call-ID: all requests of a call, on every edge with the same members (0). Rendezvous hashing: a member that is gone moves only
    /// its own share.
    CallIdHash,
    /// By the URI of From (1).
    FromHash,
    /// By the URI of To (2).
    ToHash,
    /// By the Request-URI (3).
    RuriHash,
    /// By the user of the credentials (5).
    AuthUserHash,
    /// By a header field (7).
    KeyHash,
    /// At random by weight, the rest by weight again (9 and 11; but failures count).
    Weighted,
    /// The same as for SRV records: weight 0 has a very small chance (15).
    Srv,
    /// Where there are the fewest calls (10).
    LeastCalls,
    /// All at once (12).
    Parallel,
    /// Where answers to pings come fastest, by turns among those that are about as fast (13).
    Latency,
}

impl Algorithm {
    /// The choice follows from the request alone.
    pub fn is_hash(self) -> bool {
        use Algorithm::{AuthUserHash, CallIdHash, FromHash, KeyHash, RuriHash, ToHash};
        matches!(self, CallIdHash | FromHash | ToHash | RuriHash | AuthUserHash | KeyHash)
    }

    /// Weights count.
    pub fn is_weighted(self) -> bool {
        matches!(self, Algorithm::Weighted | Algorithm::Srv)
    }
}

/// What becomes of a request when all members are down (KR-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AllDown {
    /// Those that are down are tried after all others.
    #[default]
    TryAnyway,
    /// It is refused.
    Reject,
    /// The member at this place is tried after all others, up or down, and never otherwise.
    Member(u16),
}

/// Next hops of one trunk that are dealt with at most.
pub const MAX_MEMBERS: usize = 128;

/// The choice among the next hops of one trunk.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    /// How the first is chosen.
    pub algorithm: Algorithm,
    /// The header field for [`Algorithm::KeyHash`].
    pub hash_header: FieldName,
    /// Hashes of URIs look at the user only.
    pub hash_user_only: bool,
    /// Failures in a row after which a next hop is down; 0: never.
    pub down_after: u32,
    /// Seconds after which one that is down and not pinged gets its place back to be tried again.
    pub retry_seconds: u32,
    /// When all are down.
    pub all_down: AllDown,
    /// The answer where nobody may be tried.
    pub refuse_with: u16,
    /// Each address of a name has a health of its own (KR-8).
    pub expand: bool,
    /// The members are pinged.
    pub probing: Option<Arc<Probing>>,
    members: Vec<Member>,
    /// Hashes of the members' ids.
    seeds: Vec<u64>,
    turn: Arc<AtomicUsize>,
}

impl Default for Dispatcher {
    /// For next hops of which nothing is known: all are up, always.
    fn default() -> Self {
        Self::with_members(Algorithm::Serial, Vec::new())
    }
}

impl Dispatcher {
    /// For so many next hops, all up, with weights by place; 1 where there is none.
    pub fn new(algorithm: Algorithm, weights: Vec<u16>, members: usize) -> Self {
        let member = |place: usize| Member {
            weight: weights.get(place).copied().unwrap_or(1),
            ..Member::new(place.to_string())
        };
        Self::with_members(algorithm, (0..members).map(member).collect())
    }

    /// For these members, in the order of the trunk's next hops.
    pub fn with_members(algorithm: Algorithm, mut members: Vec<Member>) -> Self {
        members.truncate(MAX_MEMBERS);
        Self {
            algorithm,
            hash_header: FieldName::from(""),
            hash_user_only: false,
            down_after: 3,
            retry_seconds: 30,
            all_down: AllDown::TryAnyway,
            refuse_with: 503,
            expand: false,
            probing: None,
            seeds: members.iter().map(|member| choice::hash(member.id.as_bytes())).collect(),
            members,
            turn: Arc::default(),
        }
    }

    /// The members, by place.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn members_mut(&mut self) -> &mut [Member] {
        &mut self.members
    }

    /// A member by its place.
    pub fn member(&self, place: usize) -> Option<&Member> {
        self.members.get(place)
    }

    /// Keeps the turn of an older one. What is known of destinations is kept by [`super::Config::continue_from`].
    pub fn continue_from(&mut self, old: &Self) {
        self.turn = Arc::clone(&old.turn);
    }

    /// Calls are to be counted by member.
    pub fn counts_calls(&self) -> bool {
        self.algorithm == Algorithm::LeastCalls || self.members.iter().any(|member| member.max_calls.is_some())
    }

    /// What the algorithm looks at in a request.
    pub fn key_of(&self, request: Message<'_>) -> Option<u64> {
        key::of(self.algorithm, request, &self.hash_header, self.hash_user_only)
    }

    /// Whether a next hop is down now.
    pub fn is_down(&self, place: usize, unix: i64) -> bool {
        self.members.get(place).is_some_and(|member| member.destination.is_down(unix, member.is_probed))
    }

    /// A next hop answered, with anything but 503: whatever it says, it is there (KR-3). `at` is the address that was asked.
    pub fn succeeded(&self, place: usize, at: NextHop, unix: i64) -> Option<Change> {
        let member = self.members.get(place)?;
        let of_address = self.health_of(member, at).succeeded(self.rules(member), unix);
        self.leads_somewhere(member, at, unix).or(of_address)
    }

    /// An address of a member answered. Where addresses are told apart, only what brought down the name as a whole (it could not be
    /// located, or the operator wanted it) counts with the member itself: an answer from anywhere behind the name ends that.
    pub(super) fn leads_somewhere(&self, member: &Member, at: NextHop, unix: i64) -> Option<Change> {
        let destination = &member.destination;
        let is_told_apart =
            self.expand && destination.health.is_doubtful() && destination.addresses.health(at).is_some();
        is_told_apart.then(|| destination.health.succeeded(self.rules(member), unix)).flatten()
    }

    /// A next hop gave no answer in time, could not be reached, or answered 503; `pause` is what its Retry-After asks for, seconds (D-6).
    pub fn failed(&self, place: usize, at: NextHop, pause: Option<u32>, unix: i64) -> Option<Change> {
        let member = self.members.get(place)?;
        self.health_of(member, at).failed(self.rules(member), pause, unix)
    }

    pub(super) fn health_of<'a>(&self, member: &'a Member, at: NextHop) -> &'a health::Health {
        let own = if self.expand { member.destination.addresses.health(at) } else { None };
        own.unwrap_or(&member.destination.health)
    }

    /// By which rules a member goes down and comes back.
    pub(super) fn rules(&self, member: &Member) -> Rules {
        Rules {
            down_after: self.down_after,
            up_after: self.probing.as_ref().map_or(1, |probing| probing.up_after),
            retry_seconds: self.retry_seconds,
            is_probed: member.is_probed,
        }
    }

    fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}
