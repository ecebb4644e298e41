//! Keepalives by UDP (KA-2, RFC 5626 3.5): datagrams that keep the mapping of a NAT on the way to a trunk alive, and the answer to those of
//! others by STUN (RFC 8489).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::proxy::{Config, Place, TrunkId};
use crate::sip::hop::{Hop, PeerId, Transport};

/// What is sent: no SIP, so nobody answers.
pub(super) const PING: &[u8] = b"\r\n\r\n";
/// Between two of them: so long, and up to [`SPREAD`] more.
const INTERVAL: Duration = Duration::from_secs(24);
const SPREAD: Duration = Duration::from_secs(5);

/// The UDP next hops of trunks with `keepalive`. One worker has them all.
#[derive(Default)]
pub(super) struct Mappings {
    due: Vec<(Hop, Instant)>,
    /// The first of them: this is asked after every batch.
    first: Option<Instant>,
}

impl Mappings {
    /// Those of a configuration. What was kept before goes on in its rhythm; what is new begins at once.
    pub fn configure(&mut self, config: &Config, now: Instant) {
        let trunks = config.trunks.iter().zip(0u16..).filter(|(trunk, _)| trunk.keepalive);
        let hops = trunks.flat_map(|(trunk, id)| {
            let of_place = move |place: &Place| match place {
                Place::At(hop) if hop.transport == Transport::Udp => {
                    let listener =
                        crate::proxy::leave_by(config, hop.transport, Some(hop.remote), Some(trunk.listener));
                    let peer = Some(PeerId(TrunkId(id).0));
                    Some(Hop { transport: hop.transport, local: listener, remote: hop.remote, connection: None, peer })
                }
                _ => None,
            };
            trunk.next_hops.iter().filter_map(of_place)
        });
        let known = std::mem::take(&mut self.due);
        let since = |hop: &Hop| known.iter().find(|(known, _)| known == hop).map_or(now, |(_, at)| *at);
        self.due = hops.map(|hop| (hop, since(&hop))).collect();
        self.first = self.due.iter().map(|(_, at)| *at).min();
    }

    /// When [`Mappings::take_due`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.first
    }

    /// Where to send [`PING`] now; their next ones come 24 to 29 s later.
    pub fn take_due(&mut self, now: Instant, mut random: impl FnMut() -> u64) -> Vec<Hop> {
        let mut hops = Vec::new();
        if self.first.is_none_or(|first| first > now) {
            return hops;
        }
        for (hop, at) in self.due.iter_mut().filter(|(_, at)| *at <= now) {
            hops.push(*hop);
            *at = now + INTERVAL + SPREAD.mul_f64((random() >> 32) as f64 / f64::from(u32::MAX));
        }
        self.first = self.due.iter().map(|(_, at)| *at).min();
        hops
    }
}

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];

/// The success response to a binding request (RFC 8489 14.2): where it came from. `None` for anything else. No attribute of the request
/// is looked at: a keepalive has none that matters.
pub(super) fn stun_response(request: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
    let (header, attributes) = request.split_at_checked(20)?;
    let length = u16::from_be_bytes([*header.get(2)?, *header.get(3)?]);
    let (cookie, transaction) = (header.get(4..8)?, header.get(8..20)?);
    if !header.starts_with(&BINDING_REQUEST) || cookie != COOKIE || usize::from(length) != attributes.len() {
        return None;
    }
    let port = (source.port() ^ 0x2112).to_be_bytes();
    let (family, address) = match source.ip().to_canonical() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    let mask = COOKIE.iter().chain(transaction);
    let address = address.iter().zip(mask).map(|(octet, mask)| octet ^ mask);
    let mut value = vec![0, family];
    value.extend(port);
    value.extend(address);
    let mut out = BINDING_SUCCESS.to_vec();
    out.extend((value.len() as u16 + 4).to_be_bytes());
    out.extend(COOKIE);
    out.extend(transaction);
    out.extend(XOR_MAPPED_ADDRESS);
    out.extend((value.len() as u16).to_be_bytes());
    out.extend(value);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{Listener, NextHop, Trunk};

    fn config(ports: &[u16]) -> Config {
        let bind = ([192, 0, 2, 9], 5060).into();
        let listener = Listener {
            name: "udp".into(),
            transport: Transport::Udp,
            bind,
            advertise_host: "192.0.2.9".into(),
            advertise_port: 5060,
            names: Vec::new(),
        };
        let hop = |port: &u16| {
            let transport = if *port == 1 { Transport::Tcp } else { Transport::Udp };
            Place::At(NextHop { transport, remote: ([192, 0, 2, 1], *port).into() })
        };
        let trunk = Trunk { keepalive: true, next_hops: ports.iter().map(hop).collect(), ..Trunk::default() };
        let silent = Trunk { keepalive: false, ..trunk.clone() };
        Config { listeners: vec![listener], trunks: vec![silent, trunk], ..Config::default() }
    }

    #[test]
    fn ka2_a_datagram_every_24_to_29_s() {
        let start = super::super::clock::instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut mappings = Mappings::default();
        assert_eq!(mappings.deadline(), None);
        mappings.configure(&config(&[5060, 1]), start);
        let ports = |mappings: &mut Mappings, at, random| {
            mappings.take_due(at, || random).iter().map(|hop| hop.remote.port()).collect::<Vec<_>>()
        };
        assert_eq!(ports(&mut mappings, start, 0), [5060], "at once, and not over TCP");
        assert_eq!(mappings.deadline(), Some(at(24)));
        assert_eq!(ports(&mut mappings, at(23), 0), [0u16; 0]);
        assert_eq!(ports(&mut mappings, at(24), u64::MAX), [5060]);
        assert_eq!(mappings.deadline(), Some(at(24 + 29)));
        mappings.configure(&config(&[5060, 5070]), at(30));
        assert_eq!(ports(&mut mappings, at(30), 0), [5070], "a reload does not begin anew");
        mappings.configure(&config(&[]), at(30));
        assert_eq!(mappings.deadline(), None);
    }

    /// RFC 5769 2.2 and 2.3: the transaction and the mapped addresses of its test vectors.
    #[test]
    fn ka2_a_binding_request_learns_where_it_came_from() {
        let transaction = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        let request = [&[0, 1, 0, 0][..], &COOKIE, &transaction].concat();
        let v4 = stun_response(&request, "192.0.2.1:32853".parse().unwrap()).unwrap();
        let mapped = [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        assert_eq!(v4, [&[1, 1, 0, 12][..], &COOKIE, &transaction, &mapped].concat());
        let v6 = stun_response(&request, "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap()).unwrap();
        let mapped = [
            0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25,
            0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        assert_eq!(v6, [&[1, 1, 0, 24][..], &COOKIE, &transaction, &mapped].concat());
        let source = "192.0.2.1:1".parse().unwrap();
        assert_eq!(stun_response(&v4, source), None, "a response");
        assert_eq!(stun_response(&request[..19], source), None);
        assert_eq!(stun_response(&[&request[..], b"x"].concat(), source), None);
    }
}
