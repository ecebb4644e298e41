//! Whose an address is: made of all trunks once, asked for each request.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::plan::Place;
use super::{Trunk, TrunkId};
use crate::sip::hop::Hop;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// Listener, address, connection.
    pub hop: Hop,
    /// The trunk that this proves ([`super::Config::ingress_of`]); credentials may prove another one.
    pub trunk: Option<TrunkId>,
}

/// Trunks by their addresses.
#[derive(Debug, Default)]
pub struct Neighbours {
    /// Next hops.
    exact: HashMap<SocketAddr, TrunkId>,
    /// Networks of peers, by their first address: one map for each length of prefix there is, the longest first.
    networks: Vec<(u8, HashMap<IpAddr, TrunkId>)>,
    /// Addresses of next hops.
    addresses: HashMap<IpAddr, TrunkId>,
}

impl Neighbours {
    pub(super) fn of(trunks: &[Trunk]) -> Self {
        let mut out = Self::default();
        let mut networks: BTreeMap<Reverse<u8>, HashMap<IpAddr, TrunkId>> = BTreeMap::new();
        for (trunk, number) in trunks.iter().zip(0..) {
            let id = TrunkId(number);
            for hop in trunk.next_hops.iter().filter_map(Place::address) {
                out.exact.entry(hop).or_insert(id);
                out.addresses.entry(hop.ip()).or_insert(id);
            }
            for network in &trunk.peers {
                let same_length = networks.entry(Reverse(network.prefix_len())).or_default();
                same_length.entry(network.network()).or_insert(id);
            }
        }
        out.networks = networks.into_iter().map(|(Reverse(length), networks)| (length, networks)).collect();
        out
    }

    /// The trunk whose next hop `source` is to the port, else whose peers it is among (the narrowest network wins), else whose next hop
    /// has its address; of several the first.
    pub(super) fn trunk_of(&self, source: SocketAddr) -> Option<TrunkId> {
        let ip = source.ip().to_canonical();
        let exact = self.exact.get(&SocketAddr::new(ip, source.port()));
        let among = || {
            self.networks.iter().find_map(|(length, networks)| {
                let network = IpNet::new(ip, *length).ok()?; // a length for IPv6 may be none for IPv4
                networks.get(&network.network())
            })
        };
        exact.or_else(among).or_else(|| self.addresses.get(&ip)).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::NextHop;
    use crate::sip::hop::Transport;

    /// The rule as it is written: each trunk is looked at.
    fn by_search(trunks: &[Trunk], source: SocketAddr) -> Option<TrunkId> {
        let hops = |t: &Trunk| t.next_hops.iter().filter_map(Place::address).collect::<Vec<_>>();
        let exact = trunks.iter().position(|t| hops(t).contains(&source));
        let width = |t: &Trunk| t.peers.iter().filter(|net| net.contains(&source.ip())).map(IpNet::prefix_len).max();
        let widths = trunks.iter().enumerate().filter_map(|(i, t)| Some((width(t)?, std::cmp::Reverse(i))));
        let peer = widths.max().map(|(_, std::cmp::Reverse(i))| i);
        let address = trunks.iter().position(|t| hops(t).iter().any(|hop| hop.ip() == source.ip()));
        exact.or(peer).or(address).map(|i| TrunkId(i as u16))
    }

    /// Few addresses, so that trunks overlap.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = (0..4u8, 0..4u8).prop_map(|(a, b)| IpAddr::from([10, a, 0, b]));
        let v6 = (0..4u16, 0..4u16).prop_map(|(a, b)| IpAddr::from([0x2001, 0xdb8, a, 0, 0, 0, 0, b]));
        prop_oneof![v4, v6]
    }

    fn trunk() -> impl Strategy<Value = (Vec<Place>, Vec<IpNet>)> {
        let hops = prop::collection::vec((address(), 5060..5063u16), 0..3);
        let peers = prop::collection::vec((address(), 0..129u8), 0..3);
        (hops, peers).prop_map(|(hops, peers)| {
            let hop = |remote: (IpAddr, u16)| NextHop { transport: Transport::Udp, remote: remote.into() }.into();
            let peer = |(ip, length): (IpAddr, u8)| {
                IpNet::new(ip, length.min(if ip.is_ipv4() { 32 } else { 128 })).expect("short enough")
            };
            (hops.into_iter().map(hop).collect(), peers.into_iter().map(peer).collect())
        })
    }

    proptest! {
        #[test]
        fn kr11_the_table_says_what_a_search_would(
            trunks in prop::collection::vec(trunk(), 0..6),
            source in (address(), 5060..5063u16),
        ) {
            let source = SocketAddr::from(source);
            let trunks: Vec<_> = trunks.into_iter().map(|(next_hops, peers)| Trunk { next_hops, peers, ..Trunk::default() }).collect();
            prop_assert_eq!(Neighbours::of(&trunks).trunk_of(source), by_search(&trunks, source));
        }
    }

    #[test]
    fn kr11_an_ipv4_address_is_one_in_ipv6_too() {
        let trunks = [Trunk { peers: vec!["10.0.0.0/8".parse().unwrap()], ..Trunk::default() }];
        let neighbours = Neighbours::of(&trunks);
        assert_eq!(neighbours.trunk_of("[::ffff:10.1.2.3]:9".parse().unwrap()), Some(TrunkId(0)));
        assert_eq!(neighbours.trunk_of("[::10.1.2.3]:9".parse().unwrap()), None);
    }
}
