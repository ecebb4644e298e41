//! A member of a trunk, and the destination behind it: what all trunks that lead there share (KR-2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use super::addresses::Addresses;
use super::health::Health;
use crate::proxy::admission::TrunkLimits;

/// How a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MemberState {
    /// It serves.
    #[default]
    Active,
    /// It serves, and has failed lately.
    Trying,
    /// Its health is bad: the last choice, or none ([`super::AllDown`]).
    Inactive,
    /// Not in use, by the operator: no new dialogs, no pings.
    Disabled,
    /// No new dialogs, by the operator; it is pinged on.
    Draining,
}

impl MemberState {
    /// All of them.
    pub const ALL: [MemberState; 5] =
        [MemberState::Active, MemberState::Trying, MemberState::Inactive, MemberState::Disabled, MemberState::Draining];

    /// Its name in configuration, metrics and commands.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::Active => "active",
            MemberState::Trying => "trying",
            MemberState::Inactive => "inactive",
            MemberState::Disabled => "disabled",
            MemberState::Draining => "draining",
        }
    }

    /// The state of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// One next hop of a trunk and its part in the choice.
#[derive(Clone, Debug)]
pub struct Member {
    /// Names it within its trunk, for the operator and for hashes.
    pub id: String,
    /// Lower numbers first, as in SRV.
    pub priority: u16,
    /// Share among those of one priority, where weights count.
    pub weight: u16,
    /// Calls at a time.
    pub max_calls: Option<u32>,
    /// The state it begins with.
    pub state: MemberState,
    /// Whatever the operator wants to know of it.
    pub tags: BTreeMap<String, String>,
    /// Its latency until one is measured.
    pub latency: Option<Duration>,
    /// What is known of where it leads.
    pub(in crate::proxy) destination: Arc<Destination>,
    /// Some trunk pings its destination.
    pub(in crate::proxy) is_probed: bool,
    /// Its calls, counted with those of other members that lead to the same destination.
    pub(in crate::proxy) limits: TrunkLimits,
}

impl Member {
    /// A member like any other.
    pub fn new(id: String) -> Self {
        let destination = Arc::<Destination>::default();
        let mut member = Member {
            id,
            priority: 0,
            weight: 1,
            max_calls: None,
            state: MemberState::Active,
            tags: BTreeMap::new(),
            latency: None,
            limits: TrunkLimits::new(None, None, 503),
            is_probed: false,
            destination: Arc::default(),
        };
        member.lead_to(destination);
        member
    }

    /// Shares what is known of a destination.
    pub(in crate::proxy) fn lead_to(&mut self, destination: Arc<Destination>) {
        let mut limits = TrunkLimits::new(None, self.max_calls, 503);
        limits.continue_from(&destination.calls);
        (self.limits, self.destination) = (limits, destination);
    }

    /// No call more is to go there.
    pub fn is_full(&self) -> bool {
        self.max_calls.is_some_and(|max| self.limits.calls() >= max)
    }

    /// The measured latency, or the one to begin with.
    pub fn latency(&self) -> Option<Duration> {
        self.destination.latency().or(self.latency)
    }
}

/// What is known of a next hop reached by one listener. Atomics only: all workers read and write it.
#[derive(Debug, Default)]
pub struct Destination {
    /// As a whole.
    pub health: Health,
    /// Address by address, where a name's addresses are told apart (KR-8).
    pub addresses: Addresses,
    /// What the operator wants, see [`MemberState`]: 0, disabled or draining.
    order: AtomicU8,
    /// Moving average, microseconds; 0: not measured.
    latency: AtomicU32,
    /// Calls that are there.
    calls: Calls,
}

const DISABLED: u8 = 1;
const DRAINING: u8 = 2;

/// Weight of a new measurement in the average: one in so many.
const SMOOTHING: u32 = 10;

impl Destination {
    /// Whether new dialogs may go there at all, as far as the operator decides.
    pub fn is_open(&self) -> bool {
        self.order.load(Ordering::Relaxed) == 0
    }

    /// Nothing is to go there, not even a ping.
    pub fn is_disabled(&self) -> bool {
        self.order.load(Ordering::Relaxed) == DISABLED
    }

    /// Whether it is down: by its own health, or because each of its addresses is.
    pub fn is_down(&self, unix: i64, is_probed: bool) -> bool {
        self.health.is_down(unix, is_probed) || self.addresses.are_all_down(unix, is_probed)
    }

    /// How it stands.
    pub fn state(&self, unix: i64, is_probed: bool) -> MemberState {
        match self.order.load(Ordering::Relaxed) {
            DISABLED => MemberState::Disabled,
            DRAINING => MemberState::Draining,
            _ if self.is_down(unix, is_probed) => MemberState::Inactive,
            _ if self.health.is_doubtful() => MemberState::Trying,
            _ => MemberState::Active,
        }
    }

    /// Puts it into a state, from which it goes on by itself.
    pub fn set_state(&self, state: MemberState) {
        let order = match state {
            MemberState::Disabled => DISABLED,
            MemberState::Draining => DRAINING,
            _ => 0,
        };
        match state {
            MemberState::Active => {
                self.health.set_up(0);
                self.addresses.set_up();
            }
            MemberState::Trying => self.health.set_up(1),
            MemberState::Inactive => self.health.set_down(),
            MemberState::Disabled | MemberState::Draining => {}
        }
        self.order.store(order, Ordering::Relaxed);
    }

    /// The measured latency.
    pub fn latency(&self) -> Option<Duration> {
        let micros = self.latency.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }

    /// Takes a measurement into the average.
    pub fn measured(&self, latency: Duration) {
        let sample = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX).max(1);
        let average = |old: u32| {
            let old_share = u64::from(old) * u64::from(SMOOTHING - 1);
            if old == 0 { sample } else { ((old_share + u64::from(sample)) / u64::from(SMOOTHING)) as u32 }
        };
        let update = |old| Some(average(old).max(1));
        let _ = self.latency.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}

/// A counter of calls that limits of members are made from.
#[derive(Debug)]
struct Calls(TrunkLimits);

impl Default for Calls {
    fn default() -> Self {
        Calls(TrunkLimits::new(None, None, 503))
    }
}

impl std::ops::Deref for Calls {
    type Target = TrunkLimits;

    fn deref(&self) -> &TrunkLimits {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::dispatcher::health::Rules;

    #[test]
    fn kr4_states_are_set_and_go_on_by_themselves() {
        let destination = Destination::default();
        for state in MemberState::ALL {
            destination.set_state(state);
            assert_eq!(destination.state(100, false), state);
            assert_eq!(MemberState::named(state.as_str()), Some(state));
            let is_closed = matches!(state, MemberState::Disabled | MemberState::Draining);
            assert_eq!(destination.is_open(), !is_closed);
        }
        let rules = Rules { down_after: 3, up_after: 1, retry_seconds: 30, is_probed: false };
        destination.set_state(MemberState::Inactive);
        assert_eq!(destination.state(1_000_000, false), MemberState::Inactive);
        destination.health.succeeded(rules, 1_000_000);
        assert_eq!(destination.state(1_000_000, false), MemberState::Active);
        destination.set_state(MemberState::Disabled);
        destination.health.succeeded(rules, 131);
        assert_eq!(destination.state(131, false), MemberState::Disabled, "no answer enables it");
    }

    #[test]
    fn latency_is_a_moving_average() {
        let destination = Destination::default();
        assert_eq!(destination.latency(), None);
        destination.measured(Duration::from_millis(10));
        assert_eq!(destination.latency(), Some(Duration::from_millis(10)));
        destination.measured(Duration::from_millis(20));
        assert_eq!(destination.latency(), Some(Duration::from_millis(11)));
        (0..200).for_each(|_| destination.measured(Duration::from_millis(20)));
        assert!(destination.latency().unwrap() > Duration::from_millis(19));
    }
}
