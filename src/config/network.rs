//! `[[listener]]`, `[[trunk]]`: where messages arrive, and whose they are.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::files::Files;
use super::forking;
use super::members;
use super::mistake::{Fault, Warning};
use super::reader::{At, Section};
use super::tls::{self, Tls};
use super::{border, numbers, routes};
use crate::proxy::dispatcher::Algorithm;
use crate::proxy::{
    self, ConnectedIdentity, Listener, NextHop, Place, SessionTimer, Signing, Target, TargetHost, Trunk, TrunkId,
    UdpOversize,
};
use crate::sip::Uri;
use crate::sip::hop::{ListenerId, PeerId, Transport};
use crate::transport::ws::Origins;

pub(super) const HOP: &str = "\"udp:192.0.2.10:5060\", \"tls:gateway.example.net\" or \"sip:example.net\"";

/// Names and the lines they stand on.
pub(super) type Names = HashMap<String, (usize, usize)>;

/// The tables that later parts need again.
pub(super) struct Network<'a, 'c> {
    /// `[[trunk]]` tables in order; their `sign` and `verify` are not read here.
    pub trunks: Vec<Section<'a, 'c>>,
}

impl<'a, 'c> Network<'a, 'c> {
    /// Reads everything about the network into `proxy`.
    pub fn read(
        root: &Section<'a, 'c>,
        files: &Files<'_>,
        proxy: &mut proxy::Config,
        tls: &mut Tls,
        warnings: &mut Vec<Warning>,
    ) -> Self {
        let (listeners, is_complete) = read_listeners(root, files, proxy, tls, warnings);
        // With a listener missing, positions are not ids and "no such listener" may be untrue: the mistake is noted already.
        let usable = is_complete.then(|| proxy.listeners.clone());
        let mut trunk_names = Names::new();
        let mut networks: HashMap<IpNet, usize> = HashMap::new();
        let mut trunks = root.sections("trunk");
        for (position, section) in trunks.iter_mut().enumerate() {
            let name = read_name(section, "trunk", position, &mut trunk_names);
            let mut trunk = read_trunk(section, name, usable.as_deref(), &listeners, &mut networks, warnings);
            trunk.alias = read_trunk_tls(section, &trunk, PeerId(position as u16), files, tls, warnings);
            proxy.trunks.push(trunk);
        }
        proxy.default_trunks = read_default_trunks(root, &trunk_names);
        proxy.share_destinations(None);
        border::read_routing(root, proxy, warnings);
        routes::read(root, files, &routes::Trunks { names: &trunk_names, sections: &trunks }, proxy);
        Self { trunks }
    }
}

/// `trunk` of each listener (KR-11); the other keys of the tables were read before the trunks were known.
fn read_default_trunks(root: &Section<'_, '_>, trunks: &Names) -> Vec<Option<TrunkId>> {
    let sections = root.sections("listener").into_iter();
    let named = sections.map(|mut section| {
        if let Some(name) = section.string("name") {
            section.relabel(format!("listener \"{}\"", name.value));
        }
        refer(&section, "trunk", "trunk", trunks).map(|at| TrunkId(at.value as u16))
    });
    named.collect()
}

/// Reads `name`, which no other table of its kind may have.
pub(super) fn read_name(section: &mut Section<'_, '_>, kind: &str, position: usize, names: &mut Names) -> String {
    let Some(At { value, offset }) = section.required("name", "a name to refer to it by") else { return String::new() };
    section.relabel(format!("{kind} \"{value}\""));
    let line = section.line(offset);
    if let Some(&(_, first_line)) = names.get(value) {
        section.wrong(offset, "name", Fault::Duplicate { what: format!("\"{value}\""), first_line });
    } else {
        names.insert(value.to_owned(), (position, line));
    }
    value.to_owned()
}

/// The position of the table that a key names.
pub(super) fn refer(
    section: &Section<'_, '_>,
    key: &'static str,
    kind: &'static str,
    names: &Names,
) -> Option<At<usize>> {
    let At { value, offset } = section.string(key)?;
    if let Some(&(position, _)) = names.get(value) {
        return Some(At { value: position, offset });
    }
    let mut known: Vec<String> = names.keys().cloned().collect();
    known.sort();
    section.wrong(offset, key, Fault::UnknownName { name: value.to_owned(), kind, known });
    None
}

/// Names of the listeners, and whether all of them could be read.
fn read_listeners(
    root: &Section<'_, '_>,
    files: &Files<'_>,
    proxy: &mut proxy::Config,
    tls: &mut Tls,
    warnings: &mut Vec<Warning>,
) -> (Names, bool) {
    let mut names = Names::new();
    let mut bound: HashMap<(Transport, SocketAddr), usize> = HashMap::new();
    let sections = root.sections("listener");
    if sections.is_empty() {
        root.missing("listener", "at least one [[listener]]");
    }
    let count = sections.len();
    for (position, mut section) in sections.into_iter().enumerate() {
        let name = read_name(&mut section, "listener", position, &mut names);
        if let Some(listener) = read_listener(&section, name) {
            let key = (listener.transport, listener.bind);
            if let Some(&first_line) = bound.get(&key).filter(|_| listener.bind.port() != 0) {
                let what = format!("{} {}", listener.transport.via_token(), listener.bind);
                section.wrong(section.offset_of("bind"), "bind", Fault::Duplicate { what, first_line });
            }
            bound.entry(key).or_insert(section.line(section.offset_of("bind")));
            let id = ListenerId(proxy.listeners.len() as u16);
            if listener.transport.is_web() {
                tls.credentials.add_web(id, read_origins(&section));
            }
            if listener.transport.is_secure()
                && let Some(server) = tls::read_server(&section, files, warnings)
                && let Err(error) = tls.credentials.add_server(id, server)
            {
                section.wrong(section.offset_of("certificate"), "certificate", Fault::Tls(error));
            }
            proxy.listeners.push(listener);
        }
        section.finish();
    }
    let tcp: Vec<_> = proxy.listeners.iter().filter(|l| l.transport == Transport::Tcp).map(|l| l.bind).collect();
    for udp in proxy.listeners.iter().filter(|l| l.transport == Transport::Udp && !tcp.contains(&l.bind)) {
        warnings.push(Warning::UdpWithoutTcp { listener: udp.name.clone() });
    }
    (names, proxy.listeners.len() == count)
}

fn read_listener(section: &Section<'_, '_>, name: String) -> Option<Listener> {
    let transport = read_transport(section);
    if section.string("bind").is_none() && transport.is_some() {
        section.required("bind", "\"ip:port\"");
    }
    let _ = section.is_absent("trunk"); // is read once the trunks are known
    let bind = section.read("bind", "\"ip:port\", such as \"192.0.2.1:5060\" or \"[2001:db8::1]:5060\"", |text| {
        text.parse::<SocketAddr>().ok()
    });
    let advertise = section.read("advertise", "\"host\" or \"host:port\"", host_and_port);
    let names = section.read_list("names", "\"host\" or \"host:port\"", host_and_port);
    let (transport, bind) = (transport?, bind?);
    let (host, port) = match advertise {
        Some(At { value: (host, port), .. }) => (host, port),
        None if bind.value.ip().is_unspecified() => {
            let reason = "others need a name or address to answer to, and every address is bound";
            let remedy = "add advertise = \"host\" or bind one address";
            section.wrong(bind.offset, "bind", Fault::Conflict { reason, remedy });
            return None;
        }
        None => (host_of(bind.value.ip()), None),
    };
    let bind: SocketAddr = bind.value;
    let advertise_port = port.unwrap_or(bind.port());
    let names = names.into_iter().map(|At { value: (host, port), .. }| (host, port.unwrap_or(advertise_port)));
    Some(Listener { name, transport, bind, advertise_host: host, advertise_port, names: names.collect() })
}

fn read_transport(section: &Section<'_, '_>) -> Option<Transport> {
    section.required("transport", "\"udp\", \"tcp\", \"tls\", \"ws\" or \"wss\"")?;
    let choices = [
        ("udp", Transport::Udp),
        ("tcp", Transport::Tcp),
        ("tls", Transport::Tls),
        ("ws", Transport::Ws),
        ("wss", Transport::Wss),
    ];
    section.choice("transport", &choices)
}

/// Who may open a WebSocket from a web page: nobody unless it is said, for a page from anywhere could use its visitor's network and
/// cookies (RFC 6455 10.2).
fn read_origins(section: &Section<'_, '_>) -> Origins {
    let expected = "origins such as \"https://phone.example.com\", or \"*\" for any";
    let origins = section.read_list("origins", expected, |text| {
        let is_origin = || {
            let (scheme, rest) = text.split_once("://")?;
            let is_host = !rest.is_empty() && !rest.contains(['/', '?', '#', '@']);
            (matches!(scheme, "http" | "https") && is_host).then_some(())
        };
        (text == "*" || is_origin().is_some()).then(|| text.to_ascii_lowercase())
    });
    Origins(origins.into_iter().map(|origin| origin.value).collect())
}

fn host_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// A host as it goes into Via and Record-Route, and a port if one is given.
pub(super) fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some((host_of(address.ip()), Some(address.port())));
    }
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Some((host_of(address), None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|&port| port != 0)?)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last label is a number would be a malformed address (RFC 3261 25.1 toplabel).
    let is_name = host.len() <= 253
        && host.split('.').all(is_label)
        && host.rsplit('.').next().is_some_and(|top| top.starts_with(|c: char| c.is_ascii_alphabetic()));
    is_name.then(|| (host.to_ascii_lowercase(), port))
}

fn read_trunk(
    section: &Section<'_, '_>,
    name: String,
    listeners: Option<&[Listener]>,
    listener_names: &Names,
    networks: &mut HashMap<IpNet, usize>,
    warnings: &mut Vec<Warning>,
) -> Trunk {
    let expected = "addresses or networks, such as \"192.0.2.10\" or \"192.0.2.0/24\"";
    let peers = section.read_list("peers", expected, |text| {
        text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
    });
    for peer in &peers {
        let line = section.line(peer.offset);
        if let Some(&first_line) = networks.get(&peer.value) {
            section.wrong(peer.offset, "peers", Fault::Duplicate { what: peer.value.to_string(), first_line });
        }
        networks.entry(peer.value).or_insert(line);
    }
    let (next_hops, dispatcher) = members::read(section, listeners);
    if ["peers", "next_hop", "member", "tls", "digest"].iter().all(|key| section.is_absent(key)) {
        let reason = "has neither peers nor next_hop, tls nor digest, so nothing can come from it or go to it";
        section.wrong(
            section.offset(),
            "",
            Fault::Conflict { reason, remedy: "add peers, next_hop, [trunk.tls] or [trunk.digest]" },
        );
    }
    let leave_by = refer(section, "listener", "listener", listener_names);
    let wanted = next_hops.first().map(Place::transport);
    let chosen = leave_by.and_then(|at| Some((at.offset, listeners?.get(at.value)?)));
    if let (Some((offset, listener)), Some(wanted)) = (chosen, wanted)
        && listener.transport != wanted
    {
        let reason = "the listener has another transport than the first next_hop";
        section.wrong(
            offset,
            "listener",
            Fault::Conflict { reason, remedy: "name a listener of the next hop's transport" },
        );
    }
    let fits = |listener: &Listener| wanted.is_none_or(|wanted| listener.transport == wanted);
    let default = listeners.and_then(|listeners| listeners.iter().position(fits));
    let listener = leave_by.map(|at| at.value).or(default).unwrap_or(0);
    let mut forking = forking::read(section);
    forking.parallel |= dispatcher.algorithm == Algorithm::Parallel;
    let oversize = [("tcp", UdpOversize::Tcp), ("udp", UdpOversize::Udp), ("reject", UdpOversize::Reject)];
    let numbers = numbers::read(section, next_hops.first());
    let border = border::read(section, &next_hops, &name, warnings);
    Trunk {
        headers: border.headers,
        discloses: border.discloses,
        asserted: border.asserted,
        on_3xx: border.on_3xx,
        redirect_tokens: border.redirect_tokens,
        rr_style: border.rr_style,
        path: section.bool("path", false),
        relays: section.bool("relay", false),
        service: None,
        numbers,
        dispatcher,
        name,
        peers: peers.into_iter().map(|peer| peer.value).collect(),
        next_hops,
        listener: ListenerId(listener as u16),
        trusted: section.bool("trusted", false),
        lenient: section.bool("lenient", false),
        sign: None,
        signing: Signing::default(),
        verify: None,
        connected: ConnectedIdentity::default(),
        alias: false,
        keepalive: section.bool("keepalive", false),
        keep: section.number("keep", (0, 3_600)).map(|seconds| seconds as u16),
        udp_oversize: section.choice("udp_oversize", &oversize).unwrap_or_default(),
        forking,
        relay_503: forking::read_relay_503(section),
        session_timer: section.section("session_timer").and_then(read_session_timer),
    }
}

/// `[trunk.session_timer]`.
fn read_session_timer(table: Section<'_, '_>) -> Option<SessionTimer> {
    let min_se = table.number("min_se", (90, 86_400)).unwrap_or(90) as u32;
    if table.is_absent("expires") {
        table.missing("expires", "a number of seconds, such as 1800");
    }
    let expires = table.number("expires", (90, 86_400)).map(|seconds| seconds as u32);
    if expires.is_some_and(|expires| expires < min_se) {
        let reason = "is shorter than min_se";
        table.wrong(
            table.offset_of("expires"),
            "expires",
            Fault::Conflict { reason, remedy: "raise it, or lower min_se" },
        );
    }
    table.finish();
    Some(SessionTimer { expires: expires?, min_se })
}

/// `[trunk.tls]`, which a trunk with a `tls:` next hop must have. Returns whether we show it a certificate of ours (CN-4).
fn read_trunk_tls(
    section: &Section<'_, '_>,
    trunk: &Trunk,
    peer: PeerId,
    files: &Files<'_>,
    tls: &mut Tls,
    warnings: &mut Vec<Warning>,
) -> bool {
    let Some(table) = section.section("tls") else {
        if trunk.next_hops.iter().any(|hop| hop.transport().is_secure()) {
            let reason = "a next hop is reached over TLS, and nothing says which name its certificate must prove";
            let remedy = "add [trunk.tls] with names = [\"sip.example.com\"]";
            section.wrong(section.offset_of("next_hop"), "next_hop", Fault::Conflict { reason, remedy });
        }
        return false;
    };
    let Some(client) = tls::read_client(table, files, warnings) else { return false };
    let shows_certificate = client.credential.is_some();
    if let Err(error) = tls.credentials.add_client(peer, client) {
        section.wrong(section.offset_of("tls"), "tls", Fault::Tls(error));
    }
    shows_certificate
}

/// `transport:address`, `transport:host:port`, or a SIP URI.
pub(super) fn next_hop(text: &str) -> Option<Place> {
    if let Some(target) = text.starts_with("sip").then(|| Uri::parse(text.as_bytes()).ok()).flatten() {
        let target = Target::of_uri(&target).filter(|target| !target.transport.is_some_and(Transport::is_web))?;
        return Some(target.direct().map_or(Place::Locate(target), Place::At));
    }
    let (transport, address) = text.split_once(':')?;
    // No connection is opened to a browser.
    let transport = Transport::from_token(transport.as_bytes()).filter(|transport| !transport.is_web())?;
    if let Some(hop) = numeric_hop(text) {
        return Some(Place::At(hop));
    }
    let (name, port) =
        host_and_port(address).filter(|(name, _)| name.starts_with(|c: char| c.is_ascii_alphanumeric()))?;
    Some(Place::Locate(Target { host: TargetHost::Name(name.into()), port, transport: Some(transport), secure: false }))
}

fn numeric_hop(text: &str) -> Option<NextHop> {
    let (transport, address) = text.split_once(':')?;
    let transport = Transport::from_token(transport.as_bytes())?;
    let with_port = || address.parse::<SocketAddr>().ok().filter(|remote| remote.port() != 0);
    let host = || address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let remote = with_port().or_else(|| Some(SocketAddr::new(host()?, transport.default_port())))?;
    Some(NextHop { transport, remote })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        assert_eq!(host_and_port("Edge.Example.com"), Some(("edge.example.com".into(), None)));
        assert_eq!(host_and_port("edge:5070"), Some(("edge".into(), Some(5070))));
        assert_eq!(host_and_port("192.0.2.1"), Some(("192.0.2.1".into(), None)));
        assert_eq!(host_and_port("192.0.2.1:5070"), Some(("192.0.2.1".into(), Some(5070))));
        assert_eq!(host_and_port("2001:db8::1"), Some(("[2001:db8::1]".into(), None)));
        assert_eq!(host_and_port("[2001:db8::1]"), Some(("[2001:db8::1]".into(), None)));
        assert_eq!(host_and_port("[2001:db8::1]:5070"), Some(("[2001:db8::1]".into(), Some(5070))));
        for bad in ["", "a b", "a..b", "-a", "a:0", "a:x", "1.2.3", "a\r\nVia"] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn next_hops_are_addresses_with_a_transport() {
        let hop = |text| numeric_hop(text).map(|hop| (hop.transport, hop.remote.to_string()));
        assert_eq!(hop("udp:192.0.2.1:5070"), Some((Transport::Udp, "192.0.2.1:5070".into())));
        assert_eq!(hop("TCP:[2001:db8::1]:5070"), Some((Transport::Tcp, "[2001:db8::1]:5070".into())));
        assert_eq!(hop("udp:192.0.2.1"), Some((Transport::Udp, "192.0.2.1:5060".into())));
        assert_eq!(hop("tls:192.0.2.1"), Some((Transport::Tls, "192.0.2.1:5061".into())));
        for bad in
            ["192.0.2.1:5060", "udp:", "udp:host:5060", "sctp:192.0.2.1", "udp:192.0.2.1:0", "udp:192.0.2.1:99999"]
        {
            assert_eq!(hop(bad), None, "{bad}");
        }
    }
}
