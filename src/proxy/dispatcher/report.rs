//! Members as an operator sees and sets them.

use std::fmt;
use std::time::Duration;

use super::MemberState;
use crate::proxy::{Config, NextHop, TrunkId};

/// How a member of a trunk stands.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberReport {
    /// Name of the trunk.
    pub trunk: String,
    /// Its number.
    pub trunk_id: TrunkId,
    /// Id of the member.
    pub member: String,
    /// Where it leads, as text.
    pub next_hop: String,
    /// Lower first.
    pub priority: u16,
    /// Its weight.
    pub weight: u16,
    /// How it stands.
    pub state: MemberState,
    /// It is pinged.
    pub is_probed: bool,
    /// Failures in a row; once it is down they are not counted on.
    pub failures: u32,
    /// Moving average of its answers to pings, or the one it began with.
    pub latency: Option<Duration>,
    /// Calls that are there; `None` where they are not counted.
    pub calls: Option<u32>,
    /// Calls at a time, if limited.
    pub max_calls: Option<u32>,
    /// What the operator wrote down.
    pub tags: Vec<(String, String)>,
}

/// There is no such member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSuchMember {
    /// No trunk has this name.
    Trunk {
        /// The name.
        name: String,
    },
    /// The trunk has no member of this id.
    Member {
        /// The id.
        id: String,
        /// Those there are.
        known: Vec<String>,
    },
}

impl fmt::Display for NoSuchMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoSuchMember::Trunk { name } => write!(f, "no trunk \"{name}\""),
            NoSuchMember::Member { id, known } => {
                write!(f, "no member \"{id}\"; there are \"{}\"", known.join("\", \""))
            }
        }
    }
}

impl std::error::Error for NoSuchMember {}

impl Config {
    /// All members of all trunks.
    pub fn members(&self, unix: i64) -> Vec<MemberReport> {
        let mut reports = Vec::new();
        for (number, trunk) in self.trunks.iter().enumerate() {
            let counts = trunk.dispatcher.counts_calls();
            for (member, next_hop) in trunk.dispatcher.members().iter().zip(&trunk.next_hops) {
                let destination = &member.destination;
                reports.push(MemberReport {
                    trunk: trunk.name.clone(),
                    trunk_id: TrunkId(number as u16),
                    member: member.id.clone(),
                    next_hop: next_hop.to_string(),
                    priority: member.priority,
                    weight: member.weight,
                    state: destination.state(unix, member.is_probed),
                    is_probed: member.is_probed,
                    failures: destination.health.failures(),
                    latency: member.latency(),
                    calls: counts.then(|| member.limits.calls()),
                    max_calls: member.max_calls,
                    tags: member.tags.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
                });
            }
        }
        reports
    }

    /// Puts a member into a state, and with it every member of other trunks that leads to the same place by the same listener (KR-2).
    ///
    /// # Errors
    /// There is no such member.
    pub fn set_member_state(&self, trunk: &str, member: &str, state: MemberState) -> Result<(), NoSuchMember> {
        let found = self.trunks.iter().find(|known| known.name == trunk && !trunk.is_empty());
        let found = found.ok_or_else(|| NoSuchMember::Trunk { name: trunk.to_owned() })?;
        let members = found.dispatcher.members();
        let Some(known) = members.iter().find(|known| known.id == member) else {
            let known = members.iter().map(|member| member.id.clone()).collect();
            return Err(NoSuchMember::Member { id: member.to_owned(), known });
        };
        known.destination.set_state(state);
        Ok(())
    }

    /// A name next hop was located: its addresses are told apart from now on, where the trunk wants that (KR-8).
    pub(in crate::proxy) fn note_located(&self, trunk: TrunkId, place: usize, hops: &[NextHop], unix: i64) {
        let dispatcher = self.trunk(trunk).map(|trunk| &trunk.dispatcher).filter(|dispatcher| dispatcher.expand);
        if let Some(member) = dispatcher.and_then(|dispatcher| dispatcher.member(place)) {
            member.destination.addresses.located(hops, unix);
        }
    }

    /// Whether an address of a name is down, where the trunk tells them apart.
    pub(in crate::proxy) fn is_address_down(&self, member: Option<(TrunkId, usize)>, at: NextHop, unix: i64) -> bool {
        let Some((trunk, place)) = member else { return false };
        let dispatcher = self.trunk(trunk).map(|trunk| &trunk.dispatcher).filter(|dispatcher| dispatcher.expand);
        let member = dispatcher.and_then(|dispatcher| dispatcher.member(place));
        member.is_some_and(|member| {
            let health = member.destination.addresses.health(at);
            health.is_some_and(|health| health.is_down(unix, member.is_probed))
        })
    }
}
