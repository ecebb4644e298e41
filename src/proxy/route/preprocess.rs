//! Route information preprocessing (RFC 3261 16.4, RFC 5658 5; sip-proxy RT-1 to RT-5).

use std::borrow::Cow;
use std::ops::Range;

use super::marks;
use crate::proxy::forward::{PATH, PATH_PARAMETER};
use crate::proxy::{Config, TrunkId};
use crate::sip::hop::{ConnectionId, ListenerId, Transport};
use crate::sip::text::contains;
use crate::sip::{Message, Name, NameAddr, Refusal, Uri, request_uri_repaired};

/// What the Route values and the Request-URI said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Preprocessed {
    /// Route values of ours on top, to be removed: 0 to 2.
    pub pop: usize,
    /// The last Route value moves into the Request-URI (RT-1): where its URI stands, and what to remove.
    pub request_uri: Option<MovedUri>,
    /// The request named us in its route set or came from a strict router: it belongs to a call that runs through here.
    pub was_ours: bool,
    /// The listener of the last removed value: where the request leaves (RT-3).
    pub exit: Option<ListenerId>,
    /// The two trunks of the call, if our Record-Route still carries them (RR-9: fail soft).
    pub trunks: Option<(TrunkId, TrunkId)>,
    /// The connection that the last removed value names (W-3).
    pub flow: Option<ConnectionId>,
    /// The last removed value came from a Path of ours (RFC 3327): it may begin a call.
    pub is_path: bool,
    /// The first Route value that stays, as a range of the message.
    pub next: Option<Range<usize>>,
    /// Where the URI of that value stands if it is a strict router's: it has no `lr` (RT-5, F-6).
    pub strict: Option<Range<usize>>,
    /// Route values received.
    pub total: usize,
    /// The Request-URI without an `maddr` that named us (RT-2).
    pub without_maddr: Option<Vec<u8>>,
}

/// A Route value whose URI replaces the Request-URI.
#[derive(Debug, PartialEq, Eq)]
pub struct MovedUri {
    /// The URI.
    pub uri: Range<usize>,
    /// What to remove so that the value is gone.
    pub cut: Range<usize>,
}

/// Reads the route set of a request that came in by `entry`.
///
/// # Errors
/// 400 `Bad Route` when a value that must be read is malformed; 403 when `maddr` names another listener of ours.
pub fn preprocess(config: &Config, request: Message<'_>, entry: ListenerId) -> Result<Preprocessed, Refusal> {
    let mut out =
        Preprocessed { without_maddr: own_maddr(config, request.request_uri(), entry)?, ..Default::default() };
    let call_id = request.call_id().unwrap_or_default();
    if request.field(Name::Route).is_none() {
        return Ok(out);
    }
    // RT-1: a strict router put our Record-Route URI into the Request-URI and the target at the end of Route.
    let mut left = usize::MAX;
    if let Some(own) = own_route(config, request.request_uri(), call_id)
        && let Some(last) = request.values(Name::Route).last()
    {
        let address = NameAddr::parse(last.value).map_err(|_| BAD_ROUTE)?;
        let start = last.range.start + offset_in(last.value, address.uri);
        out.request_uri = Some(MovedUri { uri: start..start + address.uri.len(), cut: last.cut });
        out.note(own);
        left = request.values(Name::Route).count() - 1;
    }
    // RT-3: our own value on top, and a second one of a double Record-Route; never more.
    for value in request.values(Name::Route) {
        out.total += 1;
        if out.total > left || out.next.is_some() {
            continue; // it stays
        }
        let address = NameAddr::parse(value.value).map_err(|_| BAD_ROUTE)?;
        match own_route(config, address.uri, call_id) {
            Some(own) if out.pop < 2 => {
                out.pop += 1;
                out.note(own);
            }
            _ => {
                if !Uri::parse(address.uri).is_ok_and(|uri| uri.is_loose()) {
                    let start = value.range.start + offset_in(value.value, address.uri);
                    out.strict = Some(start..start + address.uri.len());
                }
                out.next = Some(value.range);
            }
        }
    }
    Ok(out)
}

/// RT-2: an `maddr` that names the listener the request came in by is stripped, together with port and transport. One that names
/// another listener of ours would send the request out and in again.
fn own_maddr(config: &Config, uri: &[u8], entry: ListenerId) -> Result<Option<Vec<u8>>, Refusal> {
    if !contains(uri, b"maddr") {
        return Ok(None); // nearly always
    }
    let Ok(parsed) = Uri::parse(uri) else { return Ok(None) };
    let Some(maddr) = parsed.param("maddr").flatten() else { return Ok(None) };
    let named = parsed.param("transport").flatten().and_then(Transport::from_token).unwrap_or(Transport::Udp);
    let Some(own) = config.listener_at(maddr, parsed.port, named) else { return Ok(None) };
    if own != entry {
        return Err(Refusal::new(403, "Hairpin"));
    }
    let mut out = uri.get(..uri.len() - parsed.opaque.len()).unwrap_or_default().to_vec();
    if let Some(user) = parsed.user {
        out.extend_from_slice(user);
        if let Some(password) = parsed.password {
            out.push(b':');
            out.extend_from_slice(password);
        }
        out.push(b'@');
    }
    out.extend_from_slice(parsed.host_bytes);
    for (name, value) in parsed.params() {
        if [&b"maddr"[..], b"transport"].iter().any(|n| name.eq_ignore_ascii_case(n)) {
            continue;
        }
        out.push(b';');
        out.extend_from_slice(name);
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    Ok(Some(out))
}

const BAD_ROUTE: Refusal = Refusal::new(400, "Bad Route");

/// Where `part`, a piece of `whole`, begins in it.
fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize)
}

/// A URI that this element put into a Record-Route: its address with `lr`.
struct OwnRoute {
    listener: ListenerId,
    is_path: bool,
    trunks: Option<(TrunkId, TrunkId)>,
    flow: Option<ConnectionId>,
}

impl Preprocessed {
    /// The Request-URI before F-6: the one a strict router hid in Route (RT-1), one stripped of our own `maddr` (RT-2), or the received
    /// one; without what it must not carry (F-2).
    pub fn target<'a>(&'a self, request: Message<'a>) -> Cow<'a, [u8]> {
        let uri = match (&self.request_uri, &self.without_maddr) {
            (Some(moved), _) => request.bytes().get(moved.uri.clone()).unwrap_or_default(),
            (None, Some(stripped)) => stripped,
            (None, None) => request.request_uri(),
        };
        request_uri_repaired(uri)
    }

    fn note(&mut self, own: OwnRoute) {
        self.was_ours = true;
        self.exit = Some(own.listener);
        self.trunks = own.trunks.or(self.trunks);
        self.flow = own.flow;
        self.is_path = own.is_path;
    }
}

fn own_route(config: &Config, uri: &[u8], call_id: &[u8]) -> Option<OwnRoute> {
    if memchr::memchr(b'@', uri).is_some() {
        return None; // it has a user, as most Request-URIs have
    }
    let uri = Uri::parse(uri).ok()?;
    if uri.user.is_some() || !uri.is_loose() {
        return None;
    }
    let id = config.listener_of_route(&uri)?;
    let listener = config.listener(id)?;
    let is_path = uri.param(PATH_PARAMETER).is_some();
    let trunks = marks::trunks_of(&config.keys, &uri, if is_path { PATH } else { call_id });
    // W-3: only browsers are reached by a token. In a URI that names another listener it would be a pass to relay.
    let flow = if listener.transport.is_web() { marks::flow_of(&config.keys, listener, &uri) } else { None };
    Some(OwnRoute { listener: id, is_path, trunks, flow })
}
