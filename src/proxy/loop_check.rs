//! Loop detection (RFC 3261 16.3 item 4 as replaced by RFC 5393 4.2; sip-proxy L-1 to L-4).

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use super::Config;
use super::dispatcher::Algorithm;
use super::neighbours::Source;
use super::route::table::Condition;
use crate::sip::text::contains;
use crate::sip::{FieldName, Message, Name, Via};
use crate::transaction::branch;

/// Octets of an Identity value that enter the hash: its signature. A retry with another token is no loop (RFC 8224 6.2.3).
const IDENTITY_TAIL: usize = 256;

/// What routes and trunks of a configuration look at in a request, besides what they always do.
#[derive(Debug, Default)]
pub struct RoutingInput {
    /// The URI of From.
    from: bool,
    /// The URI of To.
    to: bool,
    /// Whole fields.
    fields: Vec<FieldName>,
}

impl RoutingInput {
    fn of(config: &Config) -> Self {
        let mut out = Self::default();
        for condition in config.routes.iter().flat_map(|route| &route.when) {
            match condition {
                Condition::Header { name, .. } => out.add(name.clone()),
                Condition::Caller(_) | Condition::CallerPrefix(_) => {
                    out.from = true;
                    out.add(Name::PAssertedIdentity.as_str().into());
                }
                Condition::Emergency(_) => out.add(Name::ResourcePriority.as_str().into()),
                _ => {}
            }
        }
        for dispatcher in config.trunks.iter().map(|trunk| &trunk.dispatcher) {
            match dispatcher.algorithm {
                Algorithm::FromHash => out.from = true,
                Algorithm::ToHash => out.to = true,
                Algorithm::AuthUserHash => out.add(Name::Authorization.as_str().into()),
                // Their tags are new on each pass through somebody who makes calls of his own.
                Algorithm::KeyHash => match dispatcher.hash_header.known() {
                    Name::From => out.from = true,
                    Name::To => out.to = true,
                    _ => out.add(dispatcher.hash_header.clone()),
                },
                _ => {}
            }
        }
        out
    }

    fn add(&mut self, name: FieldName) {
        if !self.fields.contains(&name) {
            self.fields.push(name);
        }
    }
}

/// Hash over all that influences routing here, taken from the request as received; it depends neither on the method nor on anything that
/// changes with each pass (Via, Max-Forwards, Record-Route) (L-2).
///
/// A request that comes back from another side is a spiral: what it meets there is another route. If it goes round for ever, it is found
/// one pass later.
pub fn loop_hash(key: &[u8; 16], request: Message<'_>, source: Source, config: &Config) -> u64 {
    let mut hasher = SipHasher13::new_with_key(key);
    (source.trunk, source.hop.local).hash(&mut hasher);
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
    for name in [Name::Route, Name::ProxyRequire, Name::ProxyAuthorization] {
        request.fields_of(name).for_each(|field| feed(field.value()));
    }
    for field in request.fields_of(Name::Identity) {
        let value = field.value();
        feed(value.get(value.len().saturating_sub(IDENTITY_TAIL)..).unwrap_or(value));
    }
    let input = config.routing_input.get(|| RoutingInput::of(config));
    for address in [input.from.then(|| request.from()), input.to.then(|| request.to())].into_iter().flatten() {
        feed(address.map_or(&[], |address| address.uri));
    }
    for name in &input.fields {
        name.fields_of(request).for_each(|field| feed(field.value()));
    }
    hasher.finish()
}

/// The request was here before with the same routing input: some Via of ours carries this very hash (L-3).
pub fn is_loop(config: &Config, request: Message<'_>, hash: u64) -> bool {
    // Nearly no field carries it: they are searched for it before they are read.
    let mut text = [0; 16];
    branch::write_hex(&mut text, hash);
    if !request.fields_of(Name::Via).any(|field| contains(field.value(), &text)) {
        return false;
    }
    request.values(Name::Via).filter_map(|value| Via::parse(value.value).ok()).any(|via| {
        config.own_listener(via.host(), via.port()).is_some()
            && via.branch().and_then(branch::loop_hash_of).is_some_and(|earlier| earlier == hash)
    })
}
