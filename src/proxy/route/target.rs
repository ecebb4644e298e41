//! Target and next hop (RFC 3261 16.5, 16.6 items 6 and 7; sip-proxy TG-1 to TG-4, F-7).

use std::net::SocketAddr;

use super::preprocess::Preprocessed;
use super::trunk::to_trunk;
use crate::passport::telephone_number::{DialPlan, TelephoneNumber};
use crate::proxy::plan::{Candidate, Place, Plan};
use crate::proxy::{Config, Listener, NextHop, Target, TargetHost, TrunkId};
use crate::sip::hop::{ConnectionId, ListenerId, Transport};
use crate::sip::{Message, NameAddr, Refusal, Scheme, Uri, split_subscriber};

const NO_CALL: Refusal = Refusal::new(481, "Call/Transaction Does Not Exist");
const NO_ROUTE: Refusal = Refusal::new(404, "Not Found");
const NOT_RELAYING: Refusal = Refusal::new(403, "Not Relaying");
const NO_MARKS: Refusal = Refusal::new(403, "Not Our Route");
/// RFC 5626 11.6.
pub const FLOW_FAILED: Refusal = Refusal::new(430, "Flow Failed");
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
) -> Result<Plan, Refusal> {
    // A Route that merely names us, as a user agent with an outbound proxy writes it, is no route set of ours.
    if pre.was_ours && (pre.trunks.is_some() || pre.flow.is_some() || request.to_tag().is_some()) {
        return in_route_set(config, request, ingress, pre);
    }
    let is_trusted = config.trunk(ingress).is_some_and(|t| t.trusted);
    if let Some(next) = &pre.next {
        // RT-4: a pre-loaded Route is a relay order; only a trusted trunk may give one. A host name in it is left to the next hop.
        if !is_trusted {
            return Err(NOT_RELAYING);
        }
        let next = NameAddr::parse(slice(request, next)).map_err(|_| Refusal::new(400, "Bad Route"))?;
        return direct(config, next.uri, None, None).map_or_else(|| by_table(config, request, ingress, chance), Ok);
    }
    if request.to_tag().is_some() && !is_trusted {
        return Err(NO_CALL); // nothing of ours in its route set: this call does not run through here
    }
    by_table(config, request, ingress, chance)
}

/// A request of a call that we record-routed: to its next Route value or its Request-URI. Where names are not located, the request
/// goes to the trunk on the other side of the call instead.
fn in_route_set(config: &Config, request: Message<'_>, ingress: TrunkId, pre: &Preprocessed) -> Result<Plan, Refusal> {
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
    let other = pre.trunks.map(|(a, b)| if a == ingress { b } else { a }).filter(|t| config.trunk(*t).is_some());
    if let Some(plan) = direct(config, uri, pre.exit, other) {
        return Ok(plan);
    }
    let egress = other.ok_or(UNRESOLVED)?;
    Ok(to_trunk(config, egress, None))
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
    })
}

/// The route table: first rule whose trunk and number prefix match.
fn by_table(config: &Config, request: Message<'_>, ingress: TrunkId, chance: Chance) -> Result<Plan, Refusal> {
    let mut number = None;
    for route in config.routes.iter().filter(|r| r.from.is_none_or(|from| from == ingress)) {
        if let Some(prefix) = &route.prefix {
            let number = number.get_or_insert_with(|| called_number(request));
            if !number.as_ref().is_some_and(|n| n.starts_with(prefix.as_str())) {
                continue;
            }
        }
        return Ok(to_trunk(config, route.to, Some((request, chance))));
    }
    Err(NO_ROUTE)
}

/// The number in the Request-URI in canonical form (RFC 8224 8.3), if it is one.
fn called_number(request: Message<'_>) -> Option<TelephoneNumber> {
    let uri = Uri::parse(request.request_uri()).ok()?;
    let number = if uri.scheme == Scheme::Tel { split_subscriber(uri.opaque) } else { uri.subscriber() }?;
    TelephoneNumber::from_user(number.number, &DialPlan::default())
}

/// The place that a URI names, if it needs no DNS or names are located here (RFC 3263 4).
fn direct(config: &Config, uri: &[u8], exit: Option<ListenerId>, egress: Option<TrunkId>) -> Option<Plan> {
    let target = Target::of_uri(&Uri::parse(uri).ok()?)?;
    let (place, transport, known) = match (target.direct(), &target.host) {
        (Some(hop), _) => (Place::At(hop), hop.transport, config.trunk_of(hop.remote)),
        (None, TargetHost::Name(name)) if config.locate && !is_nowhere(name) => {
            let likely = target.likely_transport();
            (Place::Locate(target), likely, None)
        }
        (None, _) => return None,
    };
    let listener = leave_by(config, transport, exit);
    Some(Plan::one(Candidate {
        egress: egress.or(known),
        place,
        listener,
        member: None,
        keep_udp: false,
        joins: false,
        flow: None,
    }))
}

/// RFC 6761 6.4: what browsers call themselves is in no DNS (W-3).
fn is_nowhere(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("invalid"))
}

/// The listener to leave by: the wanted one if its transport fits, else one of that transport at the same address (so that a call
/// stays on its side of the network), else the first of that transport, else the wanted one.
pub fn leave_by(config: &Config, transport: Transport, wanted: Option<ListenerId>) -> ListenerId {
    let address = wanted.and_then(|id| config.listener(id)).map(|l| l.bind.ip());
    let rank = |l: &Listener| (l.transport == transport).then(|| u8::from(Some(l.bind.ip()) != address));
    let is_fit = |id: &ListenerId| config.listener(*id).is_some_and(|l| l.transport == transport);
    let best = || {
        let ranked = config.listeners.iter().enumerate().filter_map(|(i, l)| Some((rank(l)?, i)));
        ranked.min().map(|(_, i)| ListenerId(i as u16))
    };
    wanted.filter(is_fit).or_else(best).or(wanted).unwrap_or(ListenerId(0))
}

fn slice<'a>(request: Message<'a>, range: &std::ops::Range<usize>) -> &'a [u8] {
    request.bytes().get(range.clone()).unwrap_or_default()
}
