//! Where a request goes: candidates in the order of their trial, those of one group at once (RFC 3261 16.6, 16.7 item 5).

use std::collections::VecDeque;
use std::rc::Rc;

use super::location::Target;
use super::route::target::leave_by;
use super::{Config, NextHop, TrunkId};
use crate::sip::hop::{ConnectionId, ListenerId, Transport};
use crate::stir::redirected::Redirection;

/// At most this many candidates are tried for one request, UDP and TCP counted apart.
pub const MAX_ATTEMPTS: usize = 16;

/// One place to try.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The trunk it belongs to, if it is one's: decides about signing, timers and failover.
    pub egress: Option<TrunkId>,
    /// The address.
    pub place: Place,
    /// The listener to leave by, or near which (see [`leave_by`]).
    pub listener: ListenerId,
    /// This is the UDP retry of an oversize request whose TCP attempt failed (RFC 3261 18.1.1): do not switch again.
    pub keep_udp: bool,
    /// Its place among the next hops of the trunk, for a request that is not in a dialog.
    pub member: Option<u16>,
    /// It is tried at the same time as the candidate before it.
    pub joins: bool,
    /// The connection it is reached by, and by nothing else (RFC 5626 5.3).
    pub flow: Option<ConnectionId>,
    /// The Request-URI of its copy, if that is not the received one.
    pub retarget: Option<Rc<Retarget>>,
}

/// Another Request-URI than the received one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retarget {
    /// The URI.
    pub uri: Box<[u8]>,
    /// What it means.
    pub change: Change,
    /// Diversions that came with it, in 3xx that were followed (D-18).
    pub tokens: Box<[Rc<Redirection>]>,
}

impl Retarget {
    /// Without diversions.
    pub fn new(uri: &[u8], change: Change) -> Self {
        Self { uri: uri.into(), change, tokens: Box::default() }
    }
}

/// What another Request-URI means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The same target, written differently or reached elsewhere.
    Form,
    /// Another number, by our own routing.
    Number,
    /// Another target, by a 3xx.
    Deflection,
}

/// Where a candidate is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Here.
    At(NextHop),
    /// Where RFC 3263 says.
    Locate(Target),
}

/// As in the configuration: `udp:192.0.2.1:5060`.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::At(hop) => write!(f, "{}:{}", hop.transport.via_token().to_ascii_lowercase(), hop.remote),
            Place::Locate(target) => target.fmt(f),
        }
    }
}

impl From<NextHop> for Place {
    fn from(hop: NextHop) -> Self {
        Place::At(hop)
    }
}

impl Place {
    /// Its address, if that is known without asking.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Place::At(hop) => Some(hop.remote),
            Place::Locate(_) => None,
        }
    }

    /// Its transport, or the one it most likely has.
    pub fn transport(&self) -> Transport {
        match self {
            Place::At(hop) => hop.transport,
            Place::Locate(target) => target.likely_transport(),
        }
    }
}

impl Candidate {
    /// The same candidate at an address of its name.
    pub fn at(&self, config: &Config, hop: NextHop) -> Candidate {
        let listener = leave_by(config, hop.transport, Some(hop.remote), Some(self.listener));
        Candidate { place: Place::At(hop), listener, joins: false, ..self.clone() }
    }
}

/// Candidates still to be tried. A group is a candidate and those behind it that join it: one list for all groups, as nearly every
/// request has one candidate.
#[derive(Default, Debug)]
pub struct Plan {
    candidates: VecDeque<Candidate>,
    /// Status and reason phrase where a trunk would have candidates and none of them may be tried.
    pub refusal: Option<(u16, &'static str)>,
}

impl Plan {
    /// A single candidate.
    pub fn one(candidate: Candidate) -> Self {
        Plan { candidates: VecDeque::from(vec![candidate]), refusal: None }
    }

    /// Adds candidates behind those there are: tried at once, or one after the other.
    pub fn push(&mut self, candidates: impl Iterator<Item = Candidate>, parallel: bool) {
        for (position, candidate) in candidates.enumerate().take(MAX_ATTEMPTS) {
            self.push_one(candidate, parallel && position > 0);
        }
    }

    /// Adds a candidate, to be tried together with the one before it or after it. Beyond [`MAX_ATTEMPTS`] it is left out.
    pub fn push_one(&mut self, candidate: Candidate, joins: bool) {
        if self.candidates.len() < MAX_ATTEMPTS {
            self.candidates.push_back(Candidate { joins, ..candidate });
        }
    }

    /// Adds another plan behind this one; its copies get this Request-URI.
    pub fn append(&mut self, other: Plan, retarget: Option<&Rc<Retarget>>) {
        let room = MAX_ATTEMPTS.saturating_sub(self.candidates.len());
        let others = other.candidates.into_iter().take(room);
        self.refusal = self.refusal.or(other.refusal);
        self.candidates.extend(
            others.map(|candidate| Candidate { retarget: retarget.cloned().or(candidate.retarget), ..candidate }),
        );
    }

    /// Candidates for targets of a 3xx get the diversions that it brought.
    pub fn carry(&mut self, tokens: &[Rc<Redirection>]) {
        for retarget in self.candidates.iter_mut().filter_map(|candidate| candidate.retarget.as_mut()) {
            if retarget.change == Change::Deflection {
                *retarget = Rc::new(Retarget { tokens: tokens.into(), ..Retarget::clone(retarget) });
            }
        }
    }

    /// Puts another plan before this one.
    pub fn prepend(&mut self, mut other: Plan) {
        other.append(std::mem::take(self), None);
        *self = other;
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Candidates left.
    pub fn len(&self) -> usize {
        self.candidates.len()
    }

    /// The next candidate.
    pub fn first(&self) -> Option<&Candidate> {
        self.candidates.front()
    }

    /// All that are left, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter()
    }

    /// Size of the next group.
    pub fn group_len(&self) -> usize {
        let joining = self.candidates.iter().skip(1).take_while(|c| c.joins).count();
        joining + usize::from(!self.candidates.is_empty())
    }

    /// Cuts the next group down to its first `len` candidates; the others become the group behind it (RFC 5393 5.3.3).
    pub fn split_group(&mut self, len: usize) {
        if let Some(candidate) = self.candidates.get_mut(len) {
            candidate.joins = false;
        }
    }

    /// Takes the next candidate.
    pub fn pop(&mut self) -> Option<Candidate> {
        self.candidates.pop_front()
    }

    /// Nothing more is to be tried.
    pub fn clear(&mut self) {
        self.candidates.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::hop::Transport;

    fn candidates(ports: std::ops::Range<u16>) -> impl Iterator<Item = Candidate> {
        ports.map(|port| Candidate {
            member: None,
            egress: None,
            place: Place::At(NextHop { transport: Transport::Udp, remote: ([192, 0, 2, 1], port).into() }),
            listener: ListenerId(0),
            keep_udp: false,
            joins: false,
            flow: None,
            retarget: None,
        })
    }

    fn groups(mut plan: Plan) -> Vec<usize> {
        let mut out = Vec::new();
        while !plan.is_empty() {
            let len = plan.group_len();
            out.push(len);
            (0..len).for_each(|_| drop(plan.pop()));
        }
        out
    }

    #[test]
    fn groups_follow_each_other() {
        let mut plan = Plan::default();
        plan.push(candidates(1..3), true);
        plan.push(candidates(3..5), false);
        plan.push(candidates(5..8), true);
        assert_eq!((plan.len(), plan.group_len()), (7, 2));
        assert_eq!(groups(plan), [2, 1, 1, 3]);
    }

    #[test]
    fn l5_a_group_too_broad_becomes_two() {
        let mut plan = Plan::default();
        plan.push(candidates(1..6), true);
        plan.split_group(2);
        assert_eq!(groups(plan), [2, 3]);
    }

    #[test]
    fn a_plan_behind_another_keeps_its_groups_and_has_its_own_request_uri() {
        let (mut plan, mut backup) = (Plan::default(), Plan::default());
        plan.push(candidates(1..3), false);
        backup.push(candidates(3..6), true);
        plan.append(backup, Some(&Rc::new(Retarget::new(b"sip:backup", Change::Form))));
        let uris: Vec<_> = plan.candidates.iter().map(|c| c.retarget.is_some()).collect();
        assert_eq!(uris, [false, false, true, true, true]);
        assert_eq!(groups(plan), [1, 1, 3]);
    }

    #[test]
    fn plans_are_bounded() {
        let mut plan = Plan::default();
        plan.push(candidates(1..100), false);
        assert_eq!(plan.len(), MAX_ATTEMPTS);
        let (mut two, mut more) = (Plan::default(), Plan::default());
        more.push(candidates(1..10), false);
        two.append(plan, None);
        two.append(more, None);
        assert_eq!(two.len(), MAX_ATTEMPTS);
    }
}
