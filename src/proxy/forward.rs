//! One forwarded copy (RFC 3261 16.6; sip-proxy F-1 to F-9, RR-1 to RR-4): edits over the received bytes, written once.

use std::net::SocketAddr;

use super::digest::Digest;
use super::disclosure::{self, Telling};
use super::history::{self, History};
use super::overload::params::OFFER;
use super::plan::Retarget;
use super::route::marks::{self, Keys, Marks};
use super::route::preprocess::Preprocessed;
use super::session_timer::Treatment;
use super::trust::{Crossing, Passing, Privacy};
use super::{Config, Listener, RrStyle};
use crate::sip::hop::{ConnectionId, Transport};
use crate::sip::text::push_decimal;
use crate::sip::{Message, Method, Name, Patch, Refusal, request_uri_repaired};

/// What distinguishes this copy from the received request.
pub struct Copy<'a> {
    /// Where the request came from, for `received` and `rport`.
    pub source: SocketAddr,
    /// The listener it came in by.
    pub entry: &'a Listener,
    /// The listener it leaves by.
    pub exit: &'a Listener,
    /// Transport of this copy; differs from the listener's when an oversize request moves from UDP to TCP.
    pub transport: Transport,
    /// Branch of our Via.
    pub branch: &'a [u8],
    /// What to note in Record-Route; `None` writes no Record-Route.
    pub record_route: Option<Marks<'a>>,
    /// The connections by which a browser before and behind us is reached (W-3).
    pub flows: [Option<ConnectionId>; 2],
    /// A registration of the browser at the end of this connection: the registrar learns the way back (RFC 3327, RFC 5626 5.1).
    pub path: Option<(&'a Keys, ConnectionId)>,
    /// What the route set said.
    pub route: &'a Preprocessed,
    /// The Request-URI, if routing has changed it.
    pub uri: Option<&'a [u8]>,
    /// What crossing from one trunk to the other takes; `None` for what has no headers to speak of.
    pub border: Option<Border<'a>>,
    /// How Record-Route and Path name a TLS listener on the side the request came from, and on the other.
    pub styles: [RrStyle; 2],
    /// Its Request-URI, or the next Route, is sips.
    pub is_sips: bool,
    /// A Path of ours is added: a REGISTER whose trunk wants one (RFC 3327).
    pub trunk_path: Option<Marks<'a>>,
    /// This copy's share of Max-Breadth (RFC 5393 5.3.3); `None` leaves the field as it is.
    pub max_breadth: Option<u16>,
    /// Our Via offers overload control (RFC 7339 5.1).
    pub offers_oc: bool,
    /// The neighbour may use our TLS connection for requests of its own (RFC 5923).
    pub alias: bool,
    /// Credentials for these realms have been used and go (RFC 3261 22.3).
    pub spent: Option<&'a Digest>,
    /// What its session timers become (RFC 4028 8.1).
    pub session: Option<Treatment>,
    /// `lines` bring another Date (RFC 8946 3).
    pub renews_date: bool,
    /// Header lines to add.
    pub lines: &'a [u8],
}

/// What is to be known of both sides of a copy.
pub struct Border<'a> {
    /// Knows our own domain.
    pub config: &'a Config,
    /// The trust of both sides.
    pub crossing: Crossing,
    /// The identity that the trunk it comes from has proven, as a value of P-Asserted-Identity.
    pub asserted: Option<&'a str>,
    /// What the trunk it goes to is told of a verdict.
    pub telling: Option<Telling<'a>>,
    /// The other Request-URI of the copy.
    pub retarget: Option<&'a Retarget>,
    /// Copies sent before.
    pub history: &'a History,
}

impl Copy<'_> {
    /// The style of a side: sips where the request itself is (RR-3).
    fn style(&self, style: RrStyle) -> RrStyle {
        if self.is_sips { RrStyle::Sips } else { style }
    }
}

impl Border<'_> {
    fn write(&self, request: Message<'_>, received: &[u8], patch: &mut Patch) {
        let own = |host: &[u8]| self.config.is_own_host(host);
        self.crossing.write(request, own, patch);
        let asserted = self.asserted.filter(|_| self.crossing.tells_identity(request));
        disclosure::write(request, self.config, self.crossing, self.telling, asserted, patch);
        let is_inside = self.crossing.from_trusted && self.crossing.to_trusted;
        self.config.identity_headers.strip(request, is_inside, patch);
        let is_call = request.method() == Some(Method::Invite) && request.to_tag().is_none();
        let rules = self.crossing.rules;
        if is_call && rules.history_info == Passing::Add {
            let hides_all = !self.crossing.to_trusted && Privacy::of(request).hides_history();
            let uri = self.retarget.map_or(received, |retarget| &retarget.uri);
            let hides = |host: &[u8]| hides_all && own(host);
            patch.insert_with(request.headers_end(), |buf| {
                self.history.write(request, received, uri, self.retarget, &hides, buf);
            });
        }
        if let Some(retarget) = self.retarget.filter(|_| is_call && rules.diversion == Passing::Add) {
            history::write_diversion(request, received, retarget.change, patch);
        }
    }
}

/// Stands for the Call-ID in marks of a Path, which are for any call.
pub const PATH: &[u8] = b" path";
/// Tells marks of a Path from those of a call.
pub const PATH_PARAMETER: &str = "vp";
/// Tells the port of the TLS listener where only its host is named.
pub const LISTENER_PARAMETER: &str = "vl";

/// A method that may form a dialog or refresh its route set (RR-1).
pub fn is_record_routed(method: Method<'_>) -> bool {
    !matches!(
        method,
        Method::Register
            | Method::Ack
            | Method::Cancel
            | Method::Bye
            | Method::Options
            | Method::Message
            | Method::Info
            | Method::Prack
            | Method::Publish
    )
}

/// Appends the copy to `out`.
///
/// # Errors
/// 400 when a part that has to be rewritten can not be read; validation has seen to that before.
pub fn write(request: Message<'_>, copy: &Copy<'_>, patch: &mut Patch, out: &mut Vec<u8>) -> Result<(), Refusal> {
    patch.clear();
    let received = copy.route.target(request);
    let uri = copy.uri.unwrap_or(&received);
    let top = request.headers_start();
    patch.insert_with(top, |buf| {
        write_via(copy, buf);
        if let Some(marks) = &copy.record_route {
            write_record_route(copy, marks, buf);
        }
        if let Some(marks) = &copy.trunk_path {
            write_trunk_path(copy, marks, buf);
        }
        if let Some((keys, connection)) = copy.path {
            write_path(copy.entry, keys, connection, buf);
        }
    });
    request.top_via()?.stamp(copy.source, patch);
    decrement_max_forwards(request, top, patch)?;
    remove_routes(request, copy.route, uri, patch);
    if let Some(share) = copy.max_breadth {
        set_max_breadth(request, top, share, patch);
    }
    for field in request.fields_of(Name::ProxyAuthorization) {
        if copy.spent.is_some_and(|digest| digest.is_ours(&field.unfolded())) {
            patch.remove(field.line);
        }
    }
    if copy.renews_date {
        request.fields_of(Name::Date).for_each(|field| patch.remove(field.line));
    }
    copy.border.iter().for_each(|border| border.write(request, &received, patch));
    copy.session.iter().for_each(|session| session.write(request, patch));
    patch.insert(request.headers_end(), copy.lines);
    request.settle_content_length(patch);
    // Last: what was added at the end of a line stands before the CR that the line may lack.
    match copy.route.strict.as_ref().and_then(|range| request.bytes().get(range.clone())) {
        Some(next) => request.repair(Some(&request_uri_repaired(next)), patch), // F-6
        None => request.repair(Some(uri), patch),
    }
    patch.write(request.bytes(), out);
    Ok(())
}

/// Octets before the transport token of our Via line, which stands first in the header block.
const VIA_START: &[u8] = b"Via: SIP/2.0/";

/// F-8.
fn write_via(copy: &Copy<'_>, buf: &mut Vec<u8>) {
    buf.extend_from_slice(VIA_START);
    write_via_end(copy.exit, copy.transport, copy.branch, buf);
    if copy.offers_oc {
        buf.extend_from_slice(OFFER);
    }
    if copy.alias && copy.transport == Transport::Tls {
        buf.extend_from_slice(b";alias");
    }
    buf.extend_from_slice(b"\r\n");
}

fn write_via_end(exit: &Listener, transport: Transport, branch: &[u8], buf: &mut Vec<u8>) {
    buf.extend_from_slice(transport.via_token().as_bytes());
    buf.push(b' ');
    push_address(buf, exit);
    buf.extend_from_slice(b";branch=");
    buf.extend_from_slice(branch);
    if transport == Transport::Udp {
        buf.extend_from_slice(b";rport");
    }
}

/// Appends the value of our Via for a request of our own.
pub fn write_via_value(exit: &Listener, transport: Transport, branch: &[u8], buf: &mut Vec<u8>) {
    buf.extend_from_slice(b"SIP/2.0/");
    write_via_end(exit, transport, branch, buf);
}

/// RR-2 and RR-4: one value, or two when the sides differ: the upper for the side the request leaves by. Between two browsers each side has
/// its own connection.
fn write_record_route(copy: &Copy<'_>, marks: &Marks<'_>, buf: &mut Vec<u8>) {
    let [before, behind] = copy.flows;
    let double = copy.entry != copy.exit || before.is_some() || behind.is_some();
    let [inner, outer] = copy.styles;
    let sides = [(copy.exit, behind, outer), (copy.entry, before, inner)];
    for (listener, flow, style) in sides.into_iter().take(1 + usize::from(double)) {
        buf.extend_from_slice(b"Record-Route: <");
        push_uri(listener, double, copy.style(style), buf);
        marks.write(buf);
        if let Some(flow) = flow {
            marks::write_flow(marks.keys, listener, flow, buf);
        }
        buf.extend_from_slice(b">\r\n");
    }
}

/// RFC 5626 5.1: requests for whoever registers come to the connection it registers by.
fn write_path(entry: &Listener, keys: &Keys, connection: ConnectionId, buf: &mut Vec<u8>) {
    buf.extend_from_slice(b"Path: <");
    push_uri(entry, true, RrStyle::TransportTls, buf);
    marks::write_flow(keys, entry, connection, buf);
    buf.extend_from_slice(b";ob>\r\n");
}

/// RFC 3327 5.2: the way back to whoever registers, through us.
fn write_trunk_path(copy: &Copy<'_>, marks: &Marks<'_>, buf: &mut Vec<u8>) {
    let double = copy.entry != copy.exit;
    let [inner, outer] = copy.styles;
    for (listener, style) in [(copy.exit, outer), (copy.entry, inner)].into_iter().take(1 + usize::from(double)) {
        buf.extend_from_slice(b"Path: <");
        push_uri(listener, double, copy.style(style), buf);
        buf.push(b';');
        buf.extend_from_slice(PATH_PARAMETER.as_bytes());
        marks.write(buf);
        buf.extend_from_slice(b">\r\n");
    }
}

/// A URI of ours, without its end.
fn push_uri(listener: &Listener, names_udp: bool, style: RrStyle, buf: &mut Vec<u8>) {
    match (listener.transport, style) {
        (Transport::Tls, RrStyle::Sips) => {
            buf.extend_from_slice(b"sips:");
            push_address(buf, listener);
            return buf.extend_from_slice(b";lr");
        }
        (Transport::Tls, RrStyle::NaptrHost) => {
            buf.extend_from_slice(b"sip:");
            buf.extend_from_slice(listener.advertise_host.as_bytes());
            buf.extend_from_slice(b";lr;");
            buf.extend_from_slice(LISTENER_PARAMETER.as_bytes());
            buf.push(b'=');
            return push_decimal(buf, listener.advertise_port.into());
        }
        _ => buf.extend_from_slice(b"sip:"),
    }
    push_address(buf, listener);
    match listener.transport {
        Transport::Udp if !names_udp => {}
        Transport::Udp => buf.extend_from_slice(b";transport=udp"),
        Transport::Tcp => buf.extend_from_slice(b";transport=tcp"),
        Transport::Tls => buf.extend_from_slice(b";transport=tls"),
        Transport::Ws | Transport::Wss => buf.extend_from_slice(b";transport=ws"), // RFC 7118 5.5
    }
    buf.extend_from_slice(b";lr");
}

/// F-3: one less, or 70 where it is absent or out of range; exactly one field.
fn decrement_max_forwards(request: Message<'_>, top: usize, patch: &mut Patch) -> Result<(), Refusal> {
    let left = request.max_forwards()?.map_or(70, |n| u32::from(n.saturating_sub(1)));
    let mut fields = request.fields_of(Name::MaxForwards);
    match fields.next() {
        Some(field) => patch.replace_with(field.value_range, |buf| push_decimal(buf, left)),
        None => patch.insert_with(top, |buf| {
            buf.extend_from_slice(b"Max-Forwards: ");
            push_decimal(buf, left);
            buf.extend_from_slice(b"\r\n");
        }),
    }
    fields.for_each(|field| patch.remove(field.line)); // H-6
    Ok(())
}

fn push_address(buf: &mut Vec<u8>, listener: &Listener) {
    buf.extend_from_slice(listener.advertise_host.as_bytes());
    buf.push(b':');
    push_decimal(buf, listener.advertise_port.into());
}

/// L-5: exactly one Max-Breadth, with this value.
fn set_max_breadth(request: Message<'_>, top: usize, share: u16, patch: &mut Patch) {
    let mut fields = request.fields_of(Name::MaxBreadth);
    match fields.next() {
        Some(field) => patch.replace_with(field.value_range, |buf| push_decimal(buf, share.into())),
        None => patch.insert_with(top, |buf| {
            buf.extend_from_slice(b"Max-Breadth: ");
            push_decimal(buf, share.into());
            buf.extend_from_slice(b"\r\n");
        }),
    }
    fields.for_each(|field| patch.remove(field.line));
}

/// Removes our own values from the top of Route, and the one that moved into the Request-URI from its end. A strict router next in line
/// loses its value too, and finds the Request-URI at the end (F-6).
fn remove_routes(request: Message<'_>, route: &Preprocessed, uri: &[u8], patch: &mut Patch) {
    let end = request.fields_of(Name::Route).last().map(|field| field.line.end);
    if let (Some(_), Some(end)) = (&route.strict, end) {
        patch.insert_with(end, |buf| {
            buf.extend_from_slice(b"Route: <");
            buf.extend_from_slice(uri);
            buf.extend_from_slice(b">\r\n");
        });
    }
    let pop = route.pop + usize::from(route.strict.is_some());
    let taken = pop + usize::from(route.request_uri.is_some());
    if taken >= route.total && taken > 0 {
        // Nothing stays: whole lines go, so that no empty Route is left behind.
        for field in request.fields_of(Name::Route) {
            patch.remove(field.line);
        }
        return;
    }
    request.pop_values(Name::Route, pop, patch);
    if let Some(moved) = &route.request_uri {
        patch.remove(moved.cut.clone());
    }
}
