//! Target and next hop (RFC 3261 16.5, 16.6 items 6 and 7; sip-proxy TG-1 to TG-4, F-7).

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::number::{self, Called, Shape};
use super::preprocess::Preprocessed;
use super::table::{Action, Circumstances, Facts, Route, Verified};
use super::trunk::to_trunk;
use crate::proxy::plan::{Candidate, Change, Place, Plan, Retarget};
use crate::proxy::{Config, Listener, NextHop, Target, TargetHost, TrunkId};
use crate::sip::hop::{ConnectionId, ListenerId, Transport};
use crate::sip::{Message, Method, NameAddr, Refusal, Scheme, Uri};

const NO_CALL: Refusal = Refusal::new(481, "Call/Transaction Does Not Exist");
const NO_ROUTE: Refusal = Refusal::new(404, "Not Found");
const NOT_RELAYING: Refusal = Refusal::new(403, "Not Relaying");
const NO_MARKS: Refusal = Refusal::new(403, "Not Our Route");
/// RFC 5626 11.6.
pub const FLOW_FAILED: Refusal = Refusal::new(430, "Flow Failed");
const INCOMPLETE: Refusal = Refusal::new(484, "Address Incomplete");
const NO_TARGET: Refusal = Refusal::new(480, "Temporarily Unavailable");
const UNRESOLVED: Refusal = Refusal::new(500, "Next Hop Unresolvable");

/// What a choice among next hops depends on besides the request.
#[derive(Clone, Copy, Debug)]
pub struct Chance {
    /// Drawn for this request.
    pub random: u64,
    /// The time, Unix seconds.
    pub unix: i64,
    /// The trunk it came from, if it is one's.
    pub ingress: Option<TrunkId>,
}

/// What is known of a request before it is decided where it goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// What its verification said.
    pub verified: Verified,
    /// It belongs to a dialog of a call in the table: the trunk that its sender is there.
    pub party: Option<TrunkId>,
}

/// Why a request goes nowhere: how it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decline {
    /// By this response.
    Refusal(Refusal),
    /// As the operator's route says.
    Rejected {
        /// Status.
        status: u16,
        /// Reason phrase.
        reason: Arc<str>,
    },
    /// By 301 or 302.
    Redirected {
        /// Status.
        status: u16,
        /// The URI of its Contact.
        contact: Vec<u8>,
    },
}

impl From<Refusal> for Decline {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

/// Decides where a request goes.
///
/// # Errors
/// The response that says why it goes nowhere.
pub fn decide(
    config: &Config,
    request: Message<'_>,
    ingress: TrunkId,
    pre: &Preprocessed,
    chance: Chance,
    known: Known,
) -> Result<Plan, Decline> {
    let verified = known.verified;
    let is_trusted = config.trunk(ingress).is_some_and(|t| t.trusted);
    // A Route that merely names us, as a user agent with an outbound proxy writes it, is no route set of ours. The marks of one call
    // are no order to begin another: what a neighbour saw in a Record-Route does not lead it past the table (RT-4).
    let may_begin = pre.flow.is_some() || pre.trunks.is_some() && (pre.is_path || is_trusted);
    if pre.was_ours && (may_begin || request.to_tag().is_some()) {
        // A made-up To tag is no way around the table either: what may cost money needs a proof that its dialog runs through here.
        let side = known.party.unwrap_or(ingress);
        let is_in_call = known.party.is_some() || other_side(config, side, pre).is_some();
        if !(is_trusted || is_in_call || pre.flow.is_some()) && may_cost(request) {
            return Err(NO_CALL.into());
        }
        return Ok(in_route_set(config, request, side, pre, is_trusted)?);
    }
    if let Some(next) = &pre.next {
        // RT-4: a pre-loaded Route is a relay order; only a trusted trunk may give one. A host name in it is left to the next hop.
        if !is_trusted {
            return Err(NOT_RELAYING.into());
        }
        let next = NameAddr::parse(slice(request, next)).map_err(|_| Refusal::new(400, "Bad Route"))?;
        let by_table = || by_table(config, request, ingress, pre, chance, verified);
        return direct(config, next.uri, None, None).map_or_else(by_table, Ok);
    }
    if request.to_tag().is_some() && !is_trusted {
        return Err(NO_CALL.into()); // nothing of ours in its route set: this call does not run through here
    }
    by_table(config, request, ingress, pre, chance, verified)
}

/// A request of a call that we record-routed: to its next Route value or its Request-URI. Where names are not located, the request
/// goes to the trunk on the other side of the call instead.
///
/// Without marks of ours (a neighbour dropped them, or a restart without `route_key` made them void, RR-9) an untrusted trunk reaches
/// known neighbours only.
fn in_route_set(
    config: &Config,
    request: Message<'_>,
    ingress: TrunkId,
    pre: &Preprocessed,
    is_trusted: bool,
) -> Result<Plan, Refusal> {
    if config.requires_marks && pre.trunks.is_none() && pre.flow.is_none() {
        return Err(NO_MARKS);
    }
    if let Some(exit) = pre.exit
        && let Some(listener) = config.listener(exit).filter(|l| l.transport.is_web())
    {
        return Ok(by_flow(config, listener, exit, pre.flow.ok_or(FLOW_FAILED)?));
    }
    let uri = match (&pre.next, &pre.request_uri) {
        (Some(next), _) => NameAddr::parse(slice(request, next)).map_err(|_| Refusal::new(400, "Bad Route"))?.uri,
        (None, Some(moved)) => slice(request, &moved.uri),
        (None, None) => request.request_uri(),
    };
    let other = other_side(config, ingress, pre);
    if pre.is_path && !is_trusted {
        return along_path(config, uri, pre.exit, other.ok_or(NOT_RELAYING)?);
    }
    let is_marked = other.is_some();
    let other = other.filter(|t| config.trunk(*t).is_some());
    if let Some(plan) = direct(config, uri, pre.exit, other) {
        let is_neighbour = plan.first().is_some_and(|candidate| candidate.egress.is_some());
        return if is_marked || is_trusted || is_neighbour { Ok(plan) } else { Err(NO_MARKS) };
    }
    let egress = other.ok_or(UNRESOLVED)?;
    Ok(to_trunk(config, egress, None))
}

/// The trunk on the other side of the call, if the marks name the one that the request came from. Marks of a Path lead from the registrar
/// to whoever registered, not back: the registered one sees them too (RFC 3327 5.3).
fn other_side(config: &Config, ingress: TrunkId, pre: &Preprocessed) -> Option<TrunkId> {
    let (first, second) = pre.trunks?;
    if second == ingress {
        return Some(first);
    }
    // The call may have gone to no trunk's address: then whoever is recognised on that side is the other one.
    let is_first = first == ingress;
    match (pre.is_path, is_first, config.trunk(second)) {
        (false, true, _) => Some(second),
        (false, false, None) => Some(first),
        _ => None,
    }
}

/// Along a Path of ours (RFC 3327) from an untrusted registrar: to the trunk that registered, and to nobody else.
fn along_path(config: &Config, uri: &[u8], exit: Option<ListenerId>, to: TrunkId) -> Result<Plan, Refusal> {
    let plan = direct(config, uri, exit, None).filter(|plan| plan.first().is_some_and(|c| c.egress == Some(to)));
    plan.ok_or(NOT_RELAYING)
}

/// Methods that a callee may take outside a dialog it knows, whatever To tag they carry.
fn may_cost(request: Message<'_>) -> bool {
    matches!(request.method(), Some(Method::Invite | Method::Subscribe | Method::Refer | Method::Message))
}

/// To the browser at the other end of a connection (W-3). Its address is nobody's concern: it can not be connected to.
fn by_flow(config: &Config, listener: &Listener, exit: ListenerId, flow: ConnectionId) -> Plan {
    Plan::one(Candidate {
        egress: config.default_trunk(exit),
        place: Place::At(NextHop { transport: listener.transport, remote: SocketAddr::from(([0; 4], 0)) }),
        listener: exit,
        member: None,
        keep_udp: false,
        joins: false,
        flow: Some(flow),
        retarget: None,
    })
}

/// The route table: the first route that matches.
fn by_table(
    config: &Config,
    request: Message<'_>,
    ingress: TrunkId,
    pre: &Preprocessed,
    chance: Chance,
    verified: Verified,
) -> Result<Plan, Decline> {
    let trunk = config.trunk(ingress);
    let received = pre.target(request);
    let uri = number::normalised(&received, trunk.and_then(|t| t.numbers.inbound.as_ref()));
    let circumstances = Circumstances {
        ingress,
        is_trusted: trunk.is_some_and(|t| t.trusted),
        verified,
        unix: chance.unix,
        emergency_numbers: &config.guard.emergency_numbers,
    };
    if !is_ours(config, &uri) {
        // TG-1: a foreign domain is its own target, for those who may be relayed there.
        if !trunk.is_some_and(|t| t.relays) {
            return Err(NOT_RELAYING.into());
        }
        if let Some(plan) = direct(config, &uri, None, None) {
            return Ok(plan);
        }
    }
    let facts = Facts::new(request, &uri, circumstances);
    let asked = Asked { config, request, received: &received, chance, change: None };
    asked.by_table(&facts)
}

/// TG-2, TG-4: we are responsible for the Request-URI.
fn is_ours(config: &Config, uri: &[u8]) -> bool {
    config.domains.is_empty()
        || Uri::parse(uri).is_ok_and(|uri| {
            let is_elsewhere = uri.param("maddr").is_some();
            uri.host_bytes.is_empty() || config.is_own_host(uri.host_bytes) && !is_elsewhere
        })
}

/// Where a request goes that was redirected to `uri`: by the table if that is ours, else to the trunk that is there, if the table
/// leads there and its member may be tried. `None`: nowhere that is allowed.
pub fn redirected(
    config: &Config,
    request: Message<'_>,
    ingress: TrunkId,
    uri: &[u8],
    chance: Chance,
    verified: Verified,
) -> Option<Plan> {
    let parsed = Uri::parse(uri).ok()?;
    let retarget = Rc::new(Retarget::new(uri, Change::Deflection));
    let by_table = || {
        let circumstances = Circumstances {
            ingress,
            is_trusted: config.trunk(ingress).is_some_and(|t| t.trusted),
            verified,
            unix: chance.unix,
            emergency_numbers: &config.guard.emergency_numbers,
        };
        let facts = Facts::new(request, uri, circumstances);
        let received = request.request_uri();
        let asked = Asked { config, request, received, chance, change: Some(Change::Deflection) };
        asked.by_table(&facts).ok()
    };
    if parsed.host_bytes.is_empty() || config.is_own_host(parsed.host_bytes) {
        return by_table();
    }
    let target = Target::of_uri(&parsed)?;
    let is_there = |place: &Place| match place {
        Place::At(hop) => target.direct().is_some_and(|there| there == *hop),
        Place::Locate(named) => named.host == target.host,
    };
    let plan = by_table()?;
    let candidate = plan.iter().find(|candidate| is_there(&candidate.place))?;
    Some(Plan::one(Candidate { joins: false, retarget: Some(retarget), ..candidate.clone() }))
}

impl Asked<'_> {
    /// The first route that matches and knows where.
    fn by_table(&self, facts: &Facts<'_>) -> Result<Plan, Decline> {
        let matching = self.config.routes.iter().filter(|route| route.matches(facts));
        let answer = matching.filter_map(|route| self.act(route, facts)).next();
        answer.unwrap_or_else(|| Err(nothing_found(self.config, facts).into()))
    }
}
/// A request that is routed by the table.
struct Asked<'a> {
    config: &'a Config,
    request: Message<'a>,
    /// Its Request-URI before numbers were normalised.
    received: &'a [u8],
    chance: Chance,
    /// What another Request-URI means, if that is not to be seen from the routes.
    change: Option<Change>,
}

impl Asked<'_> {
    /// Does what a route says; `None` if its prefix table does not know the number.
    fn act(&self, route: &Route, facts: &Facts<'_>) -> Option<Result<Plan, Decline>> {
        match &route.action {
            Action::To(trunks) => Some(self.plan(trunks, &[&route.shape], facts)),
            Action::Table(table) => {
                let found = self.config.prefix_tables.get(*table)?.find(&facts.called()?.digits)?;
                let shape = Shape { strip: found.strip, add: found.add.clone(), host: None };
                Some(self.plan(&found.to, &[&shape, &route.shape], facts))
            }
            Action::Reject { status, reason } => {
                Some(Err(Decline::Rejected { status: *status, reason: Arc::clone(reason) }))
            }
            Action::Redirect { status, contact } => {
                let contact = contact.as_ref().map(|contact| contact.as_bytes().to_vec());
                let contact = contact.or_else(|| number::shaped(facts.uri, &[&route.shape], None));
                let answer = contact.map(|contact| Decline::Redirected { status: *status, contact });
                Some(Err(answer.unwrap_or(INCOMPLETE.into())))
            }
        }
    }

    /// The next hops of these trunks in turn, each with the Request-URI that its trunk gets.
    fn plan(&self, trunks: &[TrunkId], shapes: &[&Shape], facts: &Facts<'_>) -> Result<Plan, Decline> {
        let mut plan = Plan::default();
        for egress in trunks {
            let retarget = self.retarget(*egress, shapes, facts).ok_or(INCOMPLETE)?;
            plan.append(to_trunk(self.config, *egress, Some((self.request, self.chance))), retarget.as_ref());
        }
        if plan.is_empty() && plan.refusal.is_none() { Err(NO_TARGET.into()) } else { Ok(plan) }
    }

    /// The Request-URI for a trunk, if it is not the received one; the outer `None`: nothing is left of its number.
    fn retarget(&self, egress: TrunkId, shapes: &[&Shape], facts: &Facts<'_>) -> Option<Option<Rc<Retarget>>> {
        let out = self.config.trunk(egress).and_then(|t| t.numbers.outbound.as_ref());
        let is_routed = shapes.iter().any(|shape| !shape.is_empty());
        let routed =
            if is_routed { Cow::Owned(number::shaped(facts.uri, shapes, None)?) } else { Cow::Borrowed(facts.uri) };
        let uri = if out.is_some() { Cow::Owned(number::shaped(&routed, &[], out)?) } else { routed.clone() };
        if *uri == *self.received {
            return Some(None);
        }
        let is_same_number = || Called::in_uri(&routed).map(|n| n.digits) == facts.called().map(|n| n.digits);
        let change = self.change.unwrap_or(if !is_routed || is_same_number() { Change::Form } else { Change::Number });
        Some(Some(Rc::new(Retarget::new(&uri, change))))
    }
}

/// Why no route matches: the number is only the beginning of one, or there is none where one is called (484, 404; TG-3).
fn nothing_found(config: &Config, facts: &Facts<'_>) -> Refusal {
    let asks_tables = config.routes.iter().filter_map(|route| match route.action {
        Action::Table(table) if route.matches(facts) => config.prefix_tables.get(table),
        _ => None,
    });
    let is_incomplete = facts.called().is_some_and(|n| asks_tables.into_iter().any(|t| t.is_incomplete(&n.digits)));
    if is_incomplete || calls_nobody(facts) { INCOMPLETE } else { NO_ROUTE }
}

/// A call to a host, not to somebody there.
fn calls_nobody(facts: &Facts<'_>) -> bool {
    let is_call = matches!(facts.method(), Some(Method::Invite | Method::Message | Method::Refer));
    is_call
        && Uri::parse(facts.uri).is_ok_and(|uri| matches!(uri.scheme, Scheme::Sip | Scheme::Sips) && uri.user.is_none())
}

/// The place that a URI names, if it needs no DNS or names are located here (RFC 3263 4).
pub fn direct(config: &Config, uri: &[u8], exit: Option<ListenerId>, egress: Option<TrunkId>) -> Option<Plan> {
    let target = Target::of_uri(&Uri::parse(uri).ok()?)?;
    let (place, transport, known) = match (target.direct(), &target.host) {
        (Some(hop), _) => (Place::At(hop), hop.transport, config.trunk_of(hop.remote)),
        (None, TargetHost::Name(name)) if config.locate && !is_nowhere(name) => {
            let likely = target.likely_transport();
            (Place::Locate(target), likely, None)
        }
        (None, _) => return None,
    };
    let listener = leave_by(config, transport, place.address(), exit);
    Some(Plan::one(Candidate {
        egress: egress.or(known),
        place,
        listener,
        member: None,
        keep_udp: false,
        joins: false,
        flow: None,
        retarget: None,
    }))
}

/// RFC 6761 6.4: what browsers call themselves is in no DNS (W-3).
pub fn is_nowhere(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("invalid"))
}

/// The listener to leave by towards an address of this transport, if it is known yet: the wanted one if it fits, else one that fits at the
/// same address (so that a call stays on its side of the network), else the first that fits, else the wanted one. A socket fits if it has
/// the transport and, where there is one, the family (T-11, C-49).
pub fn leave_by(
    config: &Config,
    transport: Transport,
    remote: Option<SocketAddr>,
    wanted: Option<ListenerId>,
) -> ListenerId {
    let bound = wanted.and_then(|id| config.listener(id)).map(|l| l.bind.ip());
    let reaches = |l: &Listener| remote.is_none_or(|remote| remote.is_ipv4() == l.bind.is_ipv4());
    let rank = |l: &Listener| {
        (l.transport == transport).then(|| (u8::from(!reaches(l)), u8::from(Some(l.bind.ip()) != bound)))
    };
    let is_fit = |id: &ListenerId| config.listener(*id).is_some_and(|l| l.transport == transport && reaches(l));
    let best = || {
        let ranked = config.listeners.iter().enumerate().filter_map(|(i, l)| Some((rank(l)?, i)));
        ranked.min().map(|(_, i)| ListenerId(i as u16))
    };
    wanted.filter(is_fit).or_else(best).or(wanted).unwrap_or(ListenerId(0))
}

fn slice<'a>(request: Message<'a>, range: &std::ops::Range<usize>) -> &'a [u8] {
    request.bytes().get(range.clone()).unwrap_or_default()
}
