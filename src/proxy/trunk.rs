//! The neighbours of a proxy, as it is told of them.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::connected::ConnectedIdentity;
use super::disclosure::Disclosure;
use super::dispatcher::Dispatcher;
use super::failover::{Forking, Relay503};
use super::plan::Place;
use super::redirect::On3xx;
use super::route::number::{NumbersIn, NumbersOut};
use super::service::Service;
use super::session_timer::SessionTimer;
use super::signing::Signing;
use super::trust::HeaderRules;
use crate::sip::hop::{ListenerId, Transport};
use crate::stir::verification::Policy;

/// An index into [`Config::trunks`](super::Config::trunks).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrunkId(pub u16);

/// A neighbour: who it is by source address, and where it is reached.
#[derive(Clone)]
pub struct Trunk {
    /// The operator's name for it.
    pub name: String,
    /// Source addresses that are this trunk.
    pub peers: Vec<IpNet>,
    /// Where requests for it go, in order of preference; the next one is tried when one fails.
    pub next_hops: Vec<Place>,
    /// The listener that requests leave by; by default the first one of the next hop's transport.
    pub listener: ListenerId,
    /// Its P-Asserted-Identity and pre-loaded Route are believed.
    pub trusted: bool,
    /// Who calls from it, as values of P-Asserted-Identity: what a trunk asserts that is not trusted is replaced by this.
    pub asserted: Option<Arc<str>>,
    /// Its small faults of syntax are repaired instead of refused ([`crate::sip::Leniency`]).
    pub lenient: bool,
    /// Index into [`super::Config::signers`]: INVITEs *to* this trunk are signed with it.
    pub sign: Option<usize>,
    /// How they are signed else.
    pub signing: Signing,
    /// INVITEs *from* this trunk are verified by it.
    pub verify: Option<Policy>,
    /// What responses to its INVITEs say of who was reached, and what its own responses have to say.
    pub connected: ConnectedIdentity,
    /// What becomes of a request too large for one datagram.
    pub udp_oversize: UdpOversize,
    /// We show it a certificate over TLS, so it may send requests of its own over our connections (RFC 5923, CN-4).
    pub alias: bool,
    /// What leads to it is kept alive (RFC 5626): connections to its next hops by pings, the way of datagrams by datagrams.
    pub keepalive: bool,
    /// Seconds between keepalives that it is told if its Via asks for that (RFC 6223); 0 leaves them to it.
    pub keep: Option<u16>,
    /// Which of its next hops comes first, and which are down.
    pub dispatcher: Dispatcher,
    /// How its addresses are tried.
    pub forking: Forking,
    /// What the caller is told when this trunk's 503 is the best there is.
    pub relay_503: Relay503,
    /// Session timers of INVITEs and UPDATEs that come from it; otherwise they are only observed.
    pub session_timer: Option<SessionTimer>,
    /// How it and we write called numbers.
    pub numbers: Numbers,
    /// How headers pass to it and from it.
    pub headers: HeaderRules,
    /// What it is told of verdicts.
    pub discloses: Disclosure,
    /// What becomes of its 3xx.
    pub on_3xx: On3xx,
    /// Diversions in its 3xx that are followed go into the request to the new target (D-18).
    pub redirect_tokens: bool,
    /// How our Record-Route names a TLS listener to it (RR-5).
    pub rr_style: RrStyle,
    /// REGISTER requests that go there get a Path of ours (RFC 3327).
    pub path: bool,
    /// Its requests for foreign domains are sent there (TG-1).
    pub relays: bool,
    /// Its INVITEs are not forwarded: they are signed or judged, and answered.
    pub service: Option<Service>,
}

impl Default for Trunk {
    /// A trunk without name and address.
    fn default() -> Self {
        Trunk {
            name: String::new(),
            peers: Vec::new(),
            next_hops: Vec::new(),
            listener: ListenerId(0),
            trusted: false,
            asserted: None,
            lenient: false,
            sign: None,
            signing: Signing::default(),
            verify: None,
            connected: ConnectedIdentity::default(),
            udp_oversize: UdpOversize::default(),
            alias: false,
            keepalive: false,
            keep: None,
            dispatcher: Dispatcher::default(),
            forking: Forking::default(),
            relay_503: Relay503::default(),
            session_timer: None,
            numbers: Numbers::default(),
            headers: HeaderRules::default(),
            discloses: Disclosure::default(),
            on_3xx: On3xx::default(),
            redirect_tokens: false,
            rr_style: RrStyle::default(),
            path: false,
            relays: false,
            service: None,
        }
    }
}

/// One address of a trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Transport to use.
    pub transport: Transport,
    /// Address and port.
    pub remote: SocketAddr,
}

/// A request above [`super::Config::udp_mtu`] towards a UDP next hop (RFC 3261 18.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UdpOversize {
    /// Send it over TCP to the same address; over UDP after all when TCP is refused.
    #[default]
    Tcp,
    /// Send it over UDP and let IP fragment it.
    Udp,
    /// Answer 513.
    Reject,
}

/// How our Record-Route and Path name a TLS listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RrStyle {
    /// `sip:host:port;transport=tls`: deprecated (RFC 3261 26.2.2), understood everywhere.
    #[default]
    TransportTls,
    /// `sips:host:port`: as RFC 5658 6.2 has it; some peers refuse it beside a `sip:` Contact.
    Sips,
    /// `sip:host`: its NAPTR and SRV records say TLS.
    NaptrHost,
}

/// How a trunk writes the numbers it calls, and how numbers are written to it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Numbers {
    /// Numbers it calls become E.164 by this.
    pub inbound: Option<NumbersIn>,
    /// Numbers called there are written so.
    pub outbound: Option<NumbersOut>,
}
