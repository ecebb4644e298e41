//! What a proxy is told: listeners, trunks, routes, limits. Plain valid values; `crate::config` reads them from TOML.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::admission::Guard;
use super::attempt::FAILOVER_BUDGET;
use super::clock_watch::ClockWatch;
use super::derived::Derived;
use super::disclosure::Disclosed;
use super::dispatcher::{Destination, Member};
use super::forward::LISTENER_PARAMETER;
use super::loop_check::RoutingInput;
use super::neighbours::Neighbours;
use super::plan::Place;
use super::route::marks::Keys;
use super::route::prefix::PrefixTable;
use super::route::table::Route;
use super::route::target::leave_by;
use super::session_timer::{self};
use super::signing::{IdentityHeaders, RichProfile, SigningTable};
use super::trunk::{Trunk, TrunkId};
use super::trust::Crossing;
use crate::sip;
use crate::sip::hop::{Hop, ListenerId, Transport};
use crate::sip::text::decimal;
use crate::sip::{Host, Scheme, Uri};
use crate::stir::TrustStore;
use crate::stir::authentication::Signer;
use crate::stir::replay::ReplayTable;
use crate::stir::verification::VerifierConfig;
use crate::transaction;

/// Everything a worker needs to treat a request; a transaction keeps the snapshot it began with.
pub struct Snapshot {
    /// Listeners, trunks, routes, timers.
    pub config: Config,
    /// STI anchors and transparency logs.
    pub trust: TrustStore,
    /// The node-wide table of tokens seen (RFC 8224 12.1).
    pub replay: ReplayTable,
}

/// The proxy's own settings.
#[derive(Clone)]
pub struct Config {
    /// Where messages arrive and leave; [`ListenerId`] is the index.
    pub listeners: Vec<Listener>,
    /// The neighbours; [`TrunkId`] is the index.
    pub trunks: Vec<Trunk>,
    /// Whose an address is, from `trunks`.
    pub neighbours: Derived<Neighbours>,
    /// Headers that tell verdicts, from `trunks`.
    pub disclosed: Derived<Disclosed>,
    /// What routing looks at, from `routes` and `trunks`.
    pub routing_input: Derived<RoutingInput>,
    /// First match wins.
    pub routes: Vec<Route>,
    /// Some trunk is told the history of requests (RFC 7044), so it is kept.
    pub keeps_history: bool,
    /// Domains we are responsible for besides our own addresses (TG-2); without any, for all.
    pub domains: Vec<String>,
    /// Tables of number prefixes that routes refer to by index.
    pub prefix_tables: Vec<PrefixTable>,
    /// Credentials that trunks refer to by index.
    pub signers: Vec<Arc<Signer>>,
    /// Their names, in the same order.
    pub signer_names: Vec<Arc<str>>,
    /// The rich call data of their callers, in the same order.
    pub signer_rich: Vec<Option<Arc<RichProfile>>>,
    /// Tables of numbers and their signers, which trunks refer to by index.
    pub signing_tables: Vec<Arc<SigningTable>>,
    /// Headers in which the inside network speaks of signatures.
    pub identity_headers: IdentityHeaders,
    /// Transaction timers and table sizes.
    pub transaction: transaction::Config,
    /// Sizes of the verification caches of a worker.
    pub verifier: VerifierConfig,
    /// Message limits.
    pub parser: sip::Limits,
    /// No final response this long after the last provisional one ends a branch (RFC 3261 16.6 item 11; above 3 minutes).
    pub timer_c: Duration,
    /// Longest wait for an answer from the slow side; after it the call goes on without (policy decides how).
    pub need_timeout: Duration,
    /// The same for a certificate that is to be fetched. The fetch goes on after it, for calls to come.
    pub certificate_timeout: Duration,
    /// Calls that may wait at the same time; above it a call that would have to wait is treated as if the answer had failed.
    pub max_parked: usize,
    /// Names of next hops are located by RFC 3263. Without it a request of a call goes to the trunk on the other side of the call
    /// where its route set names a host.
    pub locate: bool,
    /// STUN binding requests are answered (KA-2).
    pub answers_stun: bool,
    /// No further attempt at an INVITE is begun this long after it arrived (D-8).
    pub failover_budget: Duration,
    /// Greatest Max-Breadth, and the one a request without gets: branches of it alive at one time, here and behind (RFC 5393 5.3).
    pub max_breadth: u16,
    /// A CANCEL that belongs to no transaction is forwarded without state (RFC 3261 16.10) instead of being answered 481 (K-4).
    pub forward_unmatched_cancel: bool,
    /// Requests above this many octets leave over TCP (RFC 3261 18.1.1), when the trunk allows.
    pub udp_mtu: usize,
    /// Emit an [`super::Event`] for each verified call too, not only for what went wrong.
    pub observe: bool,
    /// Put out a [`super::CallRecord`] for each call that is over.
    pub records: bool,
    /// Session intervals that are shorter count as this (RFC 4028 4).
    pub min_session: Duration,
    /// Calls that a worker observes at a time; those above it go on unobserved.
    pub max_calls: usize,
    /// Whether the machine's clock is right.
    pub clock: Arc<ClockWatch>,
    /// The first line against floods.
    pub guard: Guard,
    /// Secrets of what stands in our Record-Route and Path.
    pub keys: Keys,
    /// A request of a call whose route set does not carry our MAC is refused (RR-9); otherwise it only loses what the marks tell.
    pub requires_marks: bool,
    /// The trunk of whoever is known by nothing else, by listener (KR-11).
    pub default_trunks: Vec<Option<TrunkId>>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listeners: Vec::new(),
            trunks: Vec::new(),
            neighbours: Derived::default(),
            disclosed: Derived::default(),
            routing_input: Derived::default(),
            routes: Vec::new(),
            keeps_history: false,
            domains: Vec::new(),
            prefix_tables: Vec::new(),
            signers: Vec::new(),
            signer_names: Vec::new(),
            signer_rich: Vec::new(),
            signing_tables: Vec::new(),
            identity_headers: IdentityHeaders::default(),
            transaction: transaction::Config::default(),
            verifier: VerifierConfig::default(),
            parser: sip::Limits::default(),
            timer_c: Duration::from_secs(185),
            need_timeout: Duration::from_millis(2000),
            certificate_timeout: Duration::from_millis(500),
            max_parked: 10_000,
            locate: false,
            answers_stun: false,
            failover_budget: FAILOVER_BUDGET,
            max_breadth: 60,
            forward_unmatched_cancel: false,
            udp_mtu: 1300,
            observe: false,
            records: false,
            min_session: Duration::from_secs(session_timer::SHORTEST as u64),
            max_calls: 250_000,
            clock: Arc::default(),
            guard: Guard::default(),
            keys: Keys::default(),
            requires_marks: false,
            default_trunks: Vec::new(),
        }
    }
}

/// A socket address we answer on, and the name under which others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The operator's name for it.
    pub name: String,
    /// Its transport.
    pub transport: Transport,
    /// Where it is bound.
    pub bind: SocketAddr,
    /// Host in our Via and Record-Route; lower case, IPv6 in brackets.
    pub advertise_host: String,
    /// Port in our Via and Record-Route.
    pub advertise_port: u16,
    /// Further hosts and ports that are this listener (T-7); hosts as in `advertise_host`.
    pub names: Vec<(String, u16)>,
}

impl Config {
    /// The trunk that `source` belongs to: whose next hop it is to the port, else whose peers it is among (the narrowest network
    /// wins), else whose next hop has its address.
    pub fn trunk_of(&self, source: SocketAddr) -> Option<TrunkId> {
        self.neighbours.get(|| Neighbours::of(&self.trunks)).trunk_of(source)
    }

    /// Keeps what was counted under an older configuration: bans, calls of trunks of the same name. For a reload.
    pub fn continue_from(&mut self, old: &Config) {
        old.clock.configure(&self.clock);
        self.clock = Arc::clone(&old.clock);
        self.keys.flow = old.keys.flow;
        self.keys.trunks = self.keys.trunks.or(old.keys.trunks);
        if self.guard.strangers.is_some() && old.guard.strangers.is_some() {
            // Another size is another table: without `[guard]` there is no room for bans at all.
            if self.guard.bans.capacity() == old.guard.bans.capacity() {
                self.guard.bans = Arc::clone(&old.guard.bans);
            }
            if self.guard.vouched.capacity() == old.guard.vouched.capacity() {
                self.guard.vouched = Arc::clone(&old.guard.vouched);
            }
        }
        if let (Some(digest), Some(old)) = (self.guard.digest.as_mut().and_then(Arc::get_mut), &old.guard.digest) {
            digest.continue_from(old);
        }
        for trunk in &mut self.trunks {
            if let Some(before) = old.trunks.iter().find(|t| t.name == trunk.name) {
                trunk.dispatcher.continue_from(&before.dispatcher);
            }
        }
        self.share_destinations(Some(old));
        for (trunk, limits) in self.trunks.iter().zip(&mut self.guard.limits) {
            let before = old.trunks.iter().position(|t| t.name == trunk.name);
            let before = before.and_then(|id| old.guard.limits.get(id)).and_then(Option::as_ref);
            if let (Some(limits), Some(before)) = (limits, before) {
                limits.continue_from(before);
            }
        }
    }

    /// Members that lead to the same place by the same listener share what is known of it (KR-2), and keep what an older configuration
    /// knew (KR-12). States written in the configuration are taken where they are new.
    pub fn share_destinations(&mut self, old: Option<&Config>) {
        let mut trunks = std::mem::take(&mut self.trunks);
        let mut known: HashMap<(Place, ListenerId), Arc<Destination>> = HashMap::new();
        for trunk in old.iter().flat_map(|old| &old.trunks) {
            for (hop, member) in trunk.next_hops.iter().zip(trunk.dispatcher.members()) {
                let listener = leave_by(self, hop.transport(), hop.address(), Some(trunk.listener));
                known.entry((hop.clone(), listener)).or_insert_with(|| Arc::clone(&member.destination));
            }
        }
        let mut probed: Vec<Arc<Destination>> = Vec::new();
        for trunk in &mut trunks {
            let before = old.and_then(|old| old.trunks.iter().find(|t| t.name == trunk.name));
            for (hop, member) in trunk.next_hops.iter().zip(trunk.dispatcher.members_mut()) {
                let listener = leave_by(self, hop.transport(), hop.address(), Some(trunk.listener));
                let own = || Arc::clone(&member.destination);
                let destination = Arc::clone(known.entry((hop.clone(), listener)).or_insert_with(own));
                let same = |m: &&Member| m.id == member.id && Arc::ptr_eq(&m.destination, &destination);
                let written = before.and_then(|t| t.dispatcher.members().iter().find(same)).map(|m| m.state);
                if written.unwrap_or_default() != member.state {
                    destination.set_state(member.state);
                }
                member.lead_to(destination);
            }
            if trunk.dispatcher.probing.is_some() {
                probed.extend(trunk.dispatcher.members().iter().map(|member| Arc::clone(&member.destination)));
            }
        }
        for member in trunks.iter_mut().flat_map(|trunk| trunk.dispatcher.members_mut()) {
            member.is_probed = probed.iter().any(|probed| Arc::ptr_eq(probed, &member.destination));
        }
        self.trunks = trunks;
    }

    /// The trunk a request came from (KR-11): the one TLS has proven, else by its source address, else its listener's.
    pub fn ingress_of(&self, source: Hop) -> Option<TrunkId> {
        self.neighbour(source).or_else(|| self.default_trunk(source.local))
    }

    /// The trunk that whoever is at the other end is by TLS or by address; not whom a listener takes for one.
    pub fn neighbour(&self, source: Hop) -> Option<TrunkId> {
        let proven = source.peer.filter(|_| source.transport.is_secure()).map(|peer| TrunkId(peer.0));
        let proven = proven.filter(|id| self.trunk(*id).is_some());
        proven.or_else(|| self.trunk_of(source.remote))
    }

    /// The trunk of whoever is known by nothing but the listener.
    pub fn default_trunk(&self, listener: ListenerId) -> Option<TrunkId> {
        self.default_trunks.get(usize::from(listener.0)).copied().flatten()
    }

    /// Whether small faults of syntax are tolerated of a trunk.
    pub fn is_lenient_with(&self, trunk: Option<TrunkId>) -> bool {
        trunk.and_then(|id| self.trunk(id)).is_some_and(|trunk| trunk.lenient)
    }

    /// Bounds of messages, and what is tolerated in them.
    pub fn parser_for(&self, is_lenient: bool) -> sip::Limits {
        let leniency = if is_lenient { sip::Leniency::TRUSTED } else { self.parser.leniency };
        sip::Limits { leniency, ..self.parser.clone() }
    }

    /// A trunk by its id. Ids come from this configuration only.
    pub fn trunk(&self, id: TrunkId) -> Option<&Trunk> {
        self.trunks.get(usize::from(id.0))
    }

    /// A listener by its id.
    pub fn listener(&self, id: ListenerId) -> Option<&Listener> {
        self.listeners.get(usize::from(id.0))
    }

    /// What a message meets on its way from one trunk to another; what is no trunk's is not trusted.
    pub fn crossing(&self, from: Option<TrunkId>, to: Option<TrunkId>) -> Crossing {
        let trunk = |id: Option<TrunkId>| id.and_then(|id| self.trunk(id));
        Crossing {
            from_trusted: trunk(from).is_some_and(|t| t.trusted),
            to_trusted: trunk(to).is_some_and(|t| t.trusted),
            rules: trunk(to).map(|t| t.headers).unwrap_or_default(),
        }
    }

    /// The identity that requests of a trunk get in place of what they assert themselves (RFC 3325 5).
    pub fn asserted_by(&self, trunk: TrunkId) -> Option<&str> {
        self.trunk(trunk).filter(|trunk| !trunk.trusted)?.asserted.as_deref()
    }

    /// The listener that a URI of a Record-Route or Path of ours names: by host and port, or by the port of a TLS listener in a parameter
    /// where its name stands alone.
    pub fn listener_of_route(&self, uri: &Uri<'_>) -> Option<ListenerId> {
        match uri.param(LISTENER_PARAMETER).flatten().and_then(decimal).filter(|_| uri.port.is_none()) {
            Some(port) => self.listener_at(uri.host_bytes, u16::try_from(port).ok(), Transport::Tls),
            None => self.own_listener_of(uri),
        }
    }

    /// A host of our own: one of the domains, or an address we are known by. In any case.
    pub fn is_own_host(&self, host: &[u8]) -> bool {
        let ip = crate::sip::Host::leading(host).ok().and_then(|(host, _)| host.ip());
        let is_listener = |l: &Listener| {
            l.addresses().any(|(own, _)| is_same_host(own, host)) || ip.is_some_and(|ip| ip == l.bind.ip())
        };
        self.domains.iter().any(|domain| is_same_host(domain, host)) || self.listeners.iter().any(is_listener)
    }

    /// The listener that carries this host and port in our Via or Record-Route (RFC 3261 18.1.2, 16.4).
    /// An absent port is the default of the transport.
    pub fn own_listener(&self, host: &[u8], port: Option<u16>) -> Option<ListenerId> {
        self.listeners.iter().position(|l| l.is_known_as(host, port)).map(|i| ListenerId(i as u16))
    }

    /// The listener of this transport that is reached at `host` (its advertised name or the address it is bound to) and port.
    pub fn listener_at(&self, host: &[u8], port: Option<u16>, transport: Transport) -> Option<ListenerId> {
        let ip = Host::leading(host).ok().and_then(|(host, _)| host.ip());
        let fits = |l: &Listener| {
            let bound = ip == Some(l.bind.ip()) && l.bind.port() == port.unwrap_or(transport.default_port());
            l.transport == transport && (bound || l.is_known_as(host, port))
        };
        self.listeners.iter().position(fits).map(|i| ListenerId(i as u16))
    }

    /// The same for a URI: of several listeners at one address the one of this transport (UDP where none is named).
    pub fn own_listener_of(&self, uri: &Uri<'_>) -> Option<ListenerId> {
        let secure = (uri.scheme == Scheme::Sips).then_some(Transport::Tls);
        let named = secure.or_else(|| uri.param("transport").flatten().and_then(Transport::from_token));
        let fits =
            |l: &Listener| l.transport == named.unwrap_or(Transport::Udp) && l.is_known_as(uri.host_bytes, uri.port);
        let exact = self.listeners.iter().position(fits).map(|i| ListenerId(i as u16));
        exact.or_else(|| self.own_listener(uri.host_bytes, uri.port))
    }
}

impl Listener {
    fn is_known_as(&self, host: &[u8], port: Option<u16>) -> bool {
        let port = port.unwrap_or(self.transport.default_port());
        self.addresses().any(|(own, own_port)| own_port == port && is_same_host(own, host))
    }

    /// Hosts and ports others know it by.
    fn addresses(&self) -> impl Iterator<Item = (&str, u16)> {
        let further = self.names.iter().map(|(host, port)| (host.as_str(), *port));
        std::iter::once((self.advertise_host.as_str(), self.advertise_port)).chain(further)
    }
}

/// Addresses are compared by value, and the dot of the root means nothing (K-7).
fn is_same_host(own: &str, host: &[u8]) -> bool {
    let own = own.as_bytes();
    match host {
        [b'[', ..] => Host::parse(host).is_ok_and(|host| Host::parse(own) == Ok(host)),
        [name @ .., b'.'] => name.eq_ignore_ascii_case(own),
        _ => host.eq_ignore_ascii_case(own),
    }
}
