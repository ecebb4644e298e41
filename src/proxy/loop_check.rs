//! Loop detection (RFC 3261 16.3 item 4 as replaced by RFC 5393 4.2; sip-proxy L-1 to L-4).

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use super::route::table::{Condition, Route, fields_named};
use super::{Config, TrunkId};
use crate::sip::hop::ListenerId;
use crate::sip::{Message, Name, Via};
use crate::transaction::branch;

/// Octets of an Identity value that enter the hash: its signature. A retry with another token is no loop (RFC 8224 6.2.3).
const IDENTITY_TAIL: usize = 256;

/// What routing depends on besides the request itself. A request that comes back from another side is a spiral: what it meets there is
/// another route. If it goes round for ever, it is found one pass later (L-2).
#[derive(Clone, Copy, Debug, Hash)]
pub struct Origin {
    /// The trunk that its connection or its address proves; credentials are in the request.
    pub trunk: Option<TrunkId>,
    /// The listener it came in by.
    pub listener: ListenerId,
}

/// Hash over all that influences routing here, taken from the request as received, the header fields that `routes` look at included; it
/// depends neither on the method nor on anything that changes with each pass (Via, Max-Forwards, Record-Route) (L-2).
pub fn loop_hash(key: &[u8; 16], request: Message<'_>, origin: Origin, routes: &[Route]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(key);
    origin.hash(&mut hasher);
    let mut feed = |part: &[u8]| {
        hasher.write(part);
        hasher.write_u8(0);
    };
    feed(request.request_uri());
    feed(request.call_id().unwrap_or_default());
    feed(request.from_tag().unwrap_or_default());
    if let Ok(cseq) = request.cseq() {
        feed(&cseq.number.to_be_bytes());
    }
    for field in request.fields() {
        match field.name {
            Name::Route | Name::ProxyRequire | Name::ProxyAuthorization => feed(field.value()),
            Name::Identity => {
                let value = field.value();
                feed(value.get(value.len().saturating_sub(IDENTITY_TAIL)..).unwrap_or(value));
            }
            _ => {}
        }
    }
    for condition in routes.iter().flat_map(|route| &route.when) {
        if let Condition::Header { name, .. } = condition {
            fields_named(request, name).for_each(|field| feed(field.value()));
        }
    }
    hasher.finish()
}

/// The request was here before with the same routing input: some Via of ours carries this very hash (L-3).
pub fn is_loop(config: &Config, request: Message<'_>, hash: u64) -> bool {
    request.values(Name::Via).filter_map(|value| Via::parse(value.value).ok()).any(|via| {
        config.own_listener(via.host(), via.port()).is_some()
            && via.branch().and_then(branch::loop_hash_of).is_some_and(|earlier| earlier == hash)
    })
}
