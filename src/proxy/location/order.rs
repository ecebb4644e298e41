//! From DNS records to the order of trial (RFC 3263 4.1 and 4.2, RFC 2782, RFC 7984). Pure: records and randomness are arguments.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Target, TargetHost};
use crate::proxy::NextHop;
use crate::sip::hop::{Transport, is_sendable};

/// What this element can do and prefers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Transports there are listeners for, in the order of preference where nothing else decides (RFC 3263 4.1).
    pub transports: Vec<Transport>,
    /// IPv6 addresses of a name come before its IPv4 addresses (RFC 6724 6 prefers them where both can be reached).
    pub prefer_ipv6: bool,
    /// There is a listener for IPv4.
    pub ipv4: bool,
    /// There is a listener for IPv6.
    pub ipv6: bool,
}

/// A NAPTR record (RFC 3403 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naptr {
    /// Ascending; all of one order before any of the next.
    pub order: u16,
    /// Ascending within an order.
    pub preference: u16,
    /// `s`: the replacement is an SRV name.
    pub flags: Box<[u8]>,
    /// Such as `SIP+D2U`.
    pub service: Box<[u8]>,
    /// Empty in what RFC 3263 uses.
    pub regexp: Box<[u8]>,
    /// The next name to ask for.
    pub replacement: Arc<str>,
}

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// Ascending.
    pub priority: u16,
    /// Share within a priority.
    pub weight: u16,
    /// Port of the service.
    pub port: u16,
    /// Host of the service, without a dot at its end; empty where there is no such service.
    pub target: Arc<str>,
}

/// An SRV name to ask for, and the transport it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The transport.
    pub transport: Transport,
    /// The name.
    pub name: Arc<str>,
}

/// What the form of a target says to ask first (tables 9.1 and 9.2 of the rules above).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// Nothing: it is an address.
    Nothing(NextHop),
    /// Addresses of the name: a port is written, so there is no SRV, not even for 5060.
    Addresses {
        /// The transport.
        transport: Transport,
        /// The port.
        port: u16,
    },
    /// SRV for these: the transport is written.
    Services(Vec<Service>),
    /// NAPTR, then [`services_of`]; without any, [`default_services`].
    Naptr,
}

/// Where to begin. `None`: no transport of ours leads there.
pub fn first(target: &Target, policy: &Policy) -> Option<First> {
    let transport = target.transport.map(|named| secured(named, target.secure));
    let default = if target.secure { Transport::Tls } else { Transport::Udp };
    let is_supported = |transport: Transport| policy.transports.contains(&transport);
    match (&target.host, target.port, transport) {
        (TargetHost::Ip(_), ..) => target.direct().map(First::Nothing),
        (TargetHost::Name(_), Some(port), transport) => {
            let transport = transport.unwrap_or(default);
            is_supported(transport).then_some(First::Addresses { transport, port })
        }
        (TargetHost::Name(name), None, Some(transport)) => {
            is_supported(transport).then(|| First::Services(service(name, transport).into_iter().collect()))
        }
        (TargetHost::Name(_), None, None) => Some(First::Naptr),
    }
}

/// The transport for a target without SRV records (RFC 3263 4.1, last paragraph).
pub fn last_resort(target: &Target, policy: &Policy) -> Option<Transport> {
    let usual = if target.secure { Transport::Tls } else { Transport::Udp };
    let wanted = target.transport.map_or(usual, |named| secured(named, target.secure));
    let is_there = |transport: &&Transport| policy.transports.contains(transport);
    let any = || policy.transports.iter().find(|transport| transport.is_secure() == target.secure).copied();
    Some(&wanted).filter(is_there).copied().or_else(|| any().filter(|_| target.transport.is_none()))
}

/// The services that NAPTR records offer and we support, in their order. Of a `sips` target only secure ones.
pub fn services_of(records: &[Naptr], target: &Target, policy: &Policy) -> Vec<Service> {
    let mut usable: Vec<(u16, u16, Service)> = records
        .iter()
        .filter(|record| record.flags.eq_ignore_ascii_case(b"s") && record.regexp.is_empty())
        .filter_map(|record| {
            let transport = transport_of(&record.service)?;
            let fits = policy.transports.contains(&transport) && (!target.secure || transport.is_secure());
            let service = Service { transport, name: Arc::clone(&record.replacement) };
            fits.then_some((record.order, record.preference, service))
        })
        .collect();
    usable.sort_by_key(|(order, preference, _)| (*order, *preference));
    usable.into_iter().map(|(.., service)| service).collect()
}

/// SRV names to try without NAPTR records: one per transport we support. A `sip` target is not asked for `_sips._tcp`.
pub fn default_services(target: &Target, policy: &Policy) -> Vec<Service> {
    let TargetHost::Name(name) = &target.host else { return Vec::new() };
    let fitting = policy.transports.iter().filter(|transport| transport.is_secure() == target.secure);
    fitting.filter_map(|transport| service(name, *transport)).collect()
}

/// Whether the records say that there is no such service (RFC 2782: one record with target ".").
pub fn is_absent(records: &[Srv]) -> bool {
    matches!(records, [only] if only.target.is_empty())
}

/// All records in an order drawn by RFC 2782: priorities ascending; in each, by weight without replacement.
pub fn draw<'a>(records: &'a [Srv], random: &mut impl FnMut() -> u64) -> Vec<&'a Srv> {
    let mut left: Vec<&Srv> = records.iter().filter(|record| !record.target.is_empty()).collect();
    // Records of weight 0 stand first: they are hit by the 0 of the draw only.
    left.sort_by_key(|record| (record.priority, record.weight != 0));
    let mut order = Vec::with_capacity(left.len());
    while let Some(priority) = left.first().map(|record| record.priority) {
        let group = left.iter().take_while(|record| record.priority == priority).count();
        let sum: u64 = left.iter().take(group).map(|record| u64::from(record.weight)).sum();
        let drawn = random() % (sum + 1);
        let mut running = 0;
        let hit = left.iter().take(group).position(|record| {
            running += u64::from(record.weight);
            running >= drawn
        });
        order.push(left.remove(hit.unwrap_or(0)));
    }
    order
}

/// The addresses of one name, in the order of trial: families are ordered here, inside one target only (RFC 7984 4).
pub fn places(addresses: &[IpAddr], transport: Transport, port: u16, policy: &Policy) -> Vec<NextHop> {
    let can_reach = |ip: &&IpAddr| is_sendable(**ip) && if ip.is_ipv4() { policy.ipv4 } else { policy.ipv6 };
    let mut usable: Vec<IpAddr> = addresses.iter().filter(can_reach).copied().collect();
    usable.sort_by_key(|ip| ip.is_ipv6() != policy.prefer_ipv6);
    usable.into_iter().map(|ip| NextHop { transport, remote: SocketAddr::new(ip, port) }).collect()
}

/// The transport under a `sips` URI: TLS over what it names.
fn secured(named: Transport, secure: bool) -> Transport {
    match named {
        Transport::Udp | Transport::Tcp if secure => Transport::Tls,
        Transport::Ws if secure => Transport::Wss,
        named => named,
    }
}

fn service(name: &str, transport: Transport) -> Option<Service> {
    let prefix = match transport {
        Transport::Udp => "_sip._udp",
        Transport::Tcp => "_sip._tcp",
        Transport::Tls => "_sips._tcp",
        Transport::Ws | Transport::Wss => return None, // RFC 7118 5.5 has NAPTR services, no SRV of a fixed name
    };
    Some(Service { transport, name: format!("{prefix}.{name}").into() })
}

fn transport_of(service: &[u8]) -> Option<Transport> {
    let known: [(&[u8], Transport); 5] = [
        (b"SIP+D2U", Transport::Udp),
        (b"SIP+D2T", Transport::Tcp),
        (b"SIPS+D2T", Transport::Tls),
        (b"SIP+D2W", Transport::Ws),
        (b"SIPS+D2W", Transport::Wss),
    ];
    known.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(service)).map(|(_, transport)| transport)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::Uri;

    fn target(uri: &str) -> Target {
        Target::of_uri(&Uri::parse(uri.as_bytes()).unwrap()).unwrap()
    }

    fn policy() -> Policy {
        let transports = vec![Transport::Udp, Transport::Tcp, Transport::Tls];
        Policy { transports, prefer_ipv6: true, ipv4: true, ipv6: true }
    }

    fn naptr(order: u16, preference: u16, service: &str, replacement: &str) -> Naptr {
        let (flags, service) = (b"s"[..].into(), service.as_bytes().into());
        Naptr { order, preference, flags, service, regexp: Box::default(), replacement: replacement.into() }
    }

    fn srv(priority: u16, weight: u16, target: &str) -> Srv {
        Srv { priority, weight, port: 5060, target: target.into() }
    }

    fn names(services: &[Service]) -> Vec<&str> {
        services.iter().map(|service| &*service.name).collect()
    }

    #[test]
    fn tables_of_forms() {
        let first = |uri: &str| first(&target(uri), &policy());
        let addresses = |transport, port| Some(First::Addresses { transport, port });
        assert_eq!(first("sip:a.example:5060"), addresses(Transport::Udp, 5060));
        assert_eq!(first("sips:a.example:5061"), addresses(Transport::Tls, 5061));
        assert_eq!(first("sip:a.example:5070;transport=tcp"), addresses(Transport::Tcp, 5070));
        assert_eq!(first("sips:a.example:5070;transport=tcp"), addresses(Transport::Tls, 5070));
        assert!(matches!(first("sip:192.0.2.1"), Some(First::Nothing(hop)) if hop.remote.port() == 5060));
        assert_eq!(first("sip:a.example"), Some(First::Naptr));
        let named = |uri| match first(uri) {
            Some(First::Services(services)) => names(&services).join(" "),
            other => panic!("{other:?}"),
        };
        assert_eq!(named("sip:a.example;transport=tcp"), "_sip._tcp.a.example");
        assert_eq!(named("sip:a.example;transport=tls"), "_sips._tcp.a.example");
        assert_eq!(named("sips:a.example;transport=tcp"), "_sips._tcp.a.example");
        let udp_only = Policy { transports: vec![Transport::Udp], ..policy() };
        assert_eq!(super::first(&target("sip:a.example;transport=tcp"), &udp_only), None);
        assert_eq!(last_resort(&target("sips:a.example"), &udp_only), None, "sips never leaves TLS");
        let tcp_only = Policy { transports: vec![Transport::Tcp], ..policy() };
        assert_eq!(last_resort(&target("sip:a.example"), &tcp_only), Some(Transport::Tcp));
    }

    #[test]
    fn naptr_records_are_sorted_and_filtered() {
        let mut records = vec![
            naptr(20, 1, "SIP+D2U", "u20"),
            naptr(10, 50, "SIP+D2T", "t10-50"),
            naptr(10, 5, "sips+d2t", "s10-5"),
            naptr(5, 1, "SIP+D2S", "sctp"),
            naptr(1, 1, "E2U+sip", "enum"),
            Naptr { flags: b"u"[..].into(), ..naptr(1, 1, "SIP+D2U", "uri") },
            Naptr { regexp: b"!.*!x!"[..].into(), ..naptr(1, 1, "SIP+D2U", "regexp") },
        ];
        assert_eq!(names(&services_of(&records, &target("sip:a.example"), &policy())), ["s10-5", "t10-50", "u20"]);
        assert_eq!(names(&services_of(&records, &target("sips:a.example"), &policy())), ["s10-5"]);
        records.clear();
        assert!(services_of(&records, &target("sip:a.example"), &policy()).is_empty());
        let default = |uri: &str| default_services(&target(uri), &policy());
        assert_eq!(names(&default("sip:a.example")), ["_sip._udp.a.example", "_sip._tcp.a.example"]);
        assert_eq!(names(&default("sips:a.example")), ["_sips._tcp.a.example"]);
    }

    /// A generator of even spread; its seed is fixed, so the test is the same each time.
    fn generator() -> impl FnMut() -> u64 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state >> 11
        }
    }

    #[test]
    fn d1_srv_weights_within_two_percent_over_5000_draws() {
        let records = [srv(10, 60, "a"), srv(10, 30, "b"), srv(10, 10, "c"), srv(20, 100, "d"), srv(10, 0, "e")];
        let (mut firsts, mut random) = ([0; 4], generator());
        for _ in 0..5000 {
            let order = draw(&records, &mut random);
            assert_eq!(order.len(), 5);
            assert_eq!(&*order[4].target, "d", "a higher priority number is the last resort");
            let place = ["a", "b", "c", "e"].iter().position(|name| **name == *order[0].target).unwrap();
            firsts[place] += 1;
        }
        for (count, share) in firsts.iter().zip([60.0, 30.0, 10.0, 1.0]) {
            let percent = f64::from(*count) / 50.0;
            assert!((percent - share).abs() < 2.0, "{firsts:?}");
        }
    }

    #[test]
    fn d1_no_such_service() {
        assert!(is_absent(&[srv(0, 0, "")]) && !is_absent(&[srv(0, 0, "a")]) && !is_absent(&[]));
        assert!(draw(&[srv(0, 0, "")], &mut generator()).is_empty());
    }

    #[test]
    fn d2_families_are_ordered_inside_one_target() {
        let all = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "0.0.0.0"].map(|ip| ip.parse().unwrap());
        let order = |policy: &Policy| {
            places(&all, Transport::Udp, 5060, policy).iter().map(|hop| hop.remote.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(order(&policy()), ["[2001:db8::1]:5060", "192.0.2.1:5060", "192.0.2.2:5060"]);
        let four_first = Policy { prefer_ipv6: false, ..policy() };
        assert_eq!(order(&four_first), ["192.0.2.1:5060", "192.0.2.2:5060", "[2001:db8::1]:5060"]);
        assert_eq!(order(&Policy { ipv4: false, ..policy() }), ["[2001:db8::1]:5060"], "D-3");
    }
}
