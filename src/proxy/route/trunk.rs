//! The next hops of a trunk as candidates (KR-1, KR-4, KR-5).

use crate::proxy::admission::priority::Priority;
use crate::proxy::dispatcher::{Asked, Choice};
use crate::proxy::plan::{Candidate, Place, Plan};
use crate::proxy::{Config, Trunk, TrunkId};
use crate::sip::{Message, Method};

use super::target::{Chance, leave_by};

/// The next hops of a trunk: chosen among for a request that begins something (KR-4), in the order written for one in a dialog. Where
/// nobody may be tried the plan is empty and says how the request is to be refused.
pub fn to_trunk(config: &Config, egress: TrunkId, begins: Option<(Message<'_>, Chance)>) -> Plan {
    let mut plan = Plan::default();
    let Some(trunk) = config.trunk(egress) else { return plan };
    let candidate = |place: usize, hop: &Place| Candidate {
        egress: Some(egress),
        place: hop.clone(),
        listener: leave_by(config, hop.transport(), hop.address(), Some(trunk.listener)),
        member: begins.and(u16::try_from(place).ok()),
        keep_udp: false,
        joins: false,
        flow: None,
        retarget: None,
    };
    let Some((request, chance)) = begins else {
        let all = trunk.next_hops.iter().enumerate().map(|(place, hop)| candidate(place, hop));
        plan.push(all, trunk.forking.parallel);
        return plan;
    };
    let choice = choose(config, trunk, request, chance);
    for (place, starts_group) in choice.iter() {
        if let Some(hop) = trunk.next_hops.get(place) {
            plan.push_one(candidate(place, hop), trunk.forking.parallel && !starts_group);
        }
    }
    if plan.is_empty() && !trunk.next_hops.is_empty() {
        let reason = if choice.has_full { "Call Limit Reached" } else { "No Next Hop Available" };
        plan.refusal = Some((trunk.dispatcher.refuse_with, reason));
    }
    plan
}

fn choose(config: &Config, trunk: &Trunk, request: Message<'_>, chance: Chance) -> Choice {
    let dispatcher = &trunk.dispatcher;
    let mut asked = Asked {
        key: dispatcher.key_of(request),
        random: chance.random,
        unix: chance.unix,
        is_call: request.method() == Some(Method::Invite),
        is_emergency: false,
    };
    let choice = dispatcher.choose(trunk.next_hops.len(), &asked);
    if choice.has_full && choice.is_empty() && is_emergency(config, request, chance.ingress) {
        asked.is_emergency = true; // E-12
        return dispatcher.choose(trunk.next_hops.len(), &asked);
    }
    choice
}

fn is_emergency(config: &Config, request: Message<'_>, ingress: Option<TrunkId>) -> bool {
    let is_trusted = ingress.and_then(|id| config.trunk(id)).is_some_and(|trunk| trunk.trusted);
    Priority::of(request, &config.guard.emergency_numbers, is_trusted) == Priority::Emergency
}
