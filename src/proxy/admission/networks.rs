//! What the configuration says about a source address: the longest network that holds it decides. And the unit in which unknown
//! sources are counted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What is known of an address before anything is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A neighbour's, or one the operator allows: never limited or banned here (a carrier is not banned for its own traffic).
    Known,
    /// One the operator denies.
    Denied,
}

/// Networks with their standing. A single address costs one look-up; each further prefix length in use costs one more.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    map: HashMap<IpNet, Standing>,
    /// Prefix lengths in use, longest first, of IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
    /// Some network is denied.
    denies: bool,
}

impl Networks {
    /// Adds a network. A standing it had before is returned and stays.
    pub fn add(&mut self, network: IpNet, standing: Standing) -> Option<Standing> {
        let network = network.trunc();
        if let Some(old) = self.map.get(&network) {
            return Some(*old);
        }
        self.map.insert(network, standing);
        self.denies |= standing == Standing::Denied;
        let [v4, v6] = &mut self.lengths;
        let lengths = if matches!(network, IpNet::V4(_)) { v4 } else { v6 };
        if let Err(place) = lengths.binary_search_by(|length| network.prefix_len().cmp(length)) {
            lengths.insert(place, network.prefix_len());
        }
        None
    }

    /// Whether any network is denied.
    pub fn denies(&self) -> bool {
        self.denies
    }

    /// The standing of an address, if any network holds it.
    pub fn standing(&self, address: IpAddr) -> Option<Standing> {
        let address = address.to_canonical();
        let [v4, v6] = &self.lengths;
        let lengths = if address.is_ipv4() { v4 } else { v6 };
        lengths.iter().find_map(|length| self.map.get(&IpNet::new(address, *length).ok()?.trunc()).copied())
    }
}

/// The unit in which unknown sources are counted: an IPv4 address, or an IPv6 /64 (one subscriber has all of it). Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(u64);

/// Upper half of the number of an IPv4 source: as an IPv6 prefix it would be 0:ffff::/32, which nobody has.
const V4: u64 = 0x0000_ffff_0000_0000;

impl Source {
    /// The unit an address belongs to.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source(V4 | u64::from(u32::from(v4))),
            IpAddr::V6(v6) => Source(((u128::from(v6) >> 64) as u64).max(1)),
        }
    }

    /// As a number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// From its number.
    pub fn from_number(number: u64) -> Self {
        Source(number.max(1))
    }

    /// The addresses it stands for.
    pub fn network(self) -> IpNet {
        let (address, length) = if self.0 >> 32 == V4 >> 32 {
            (IpAddr::V4(Ipv4Addr::from(self.0 as u32)), 32)
        } else {
            (IpAddr::V6(Ipv6Addr::from(u128::from(self.0) << 64)), 64)
        };
        // Both lengths fit their family.
        IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_network_decides() {
        let mut networks = Networks::default();
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(networks.add(net("192.0.2.0/24"), Standing::Known), None);
        assert_eq!(networks.add(net("192.0.2.128/25"), Standing::Denied), None);
        assert_eq!(networks.add(net("192.0.2.200/32"), Standing::Known), None);
        assert_eq!(networks.add(net("2001:db8::/32"), Standing::Denied), None);
        assert_eq!(networks.add(net("192.0.2.77/24"), Standing::Denied), Some(Standing::Known));
        let standing = |text: &str| networks.standing(text.parse().unwrap());
        assert_eq!(standing("192.0.2.1"), Some(Standing::Known));
        assert_eq!(standing("192.0.2.129"), Some(Standing::Denied));
        assert_eq!(standing("::ffff:192.0.2.200"), Some(Standing::Known));
        assert_eq!(standing("192.0.3.1"), None);
        assert_eq!(standing("2001:db8::1"), Some(Standing::Denied));
        assert_eq!(standing("2001:db9::1"), None);
    }

    #[test]
    fn ipv6_sources_are_counted_by_64() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1").network().to_string(), "192.0.2.1/32");
        assert_eq!(of("2001:db8:1:2::9").network().to_string(), "2001:db8:1:2::/64");
        assert_eq!(Source::from_number(of("192.0.2.1").number()), of("192.0.2.1"));
    }
}
