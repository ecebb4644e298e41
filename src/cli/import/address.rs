//! The address file of Kamailio's permissions module: `group address [mask] [port] [tag]`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Imported, lines, print};

/// A network and what the file calls it.
struct Peer<'a> {
    network: IpNet,
    tag: Option<&'a str>,
}

/// Each group becomes a trunk whose peers are its networks.
pub fn import(text: &str) -> Imported {
    let mut imported = Imported::default();
    let mut groups: BTreeMap<u32, Vec<Peer<'_>>> = BTreeMap::new();
    let mut known: BTreeMap<IpNet, (u32, usize)> = BTreeMap::new();
    for (line, fields) in lines(text) {
        let (group, peer) = match read(line, &fields, &mut imported) {
            Ok(read) => read,
            Err(why) => {
                imported.loss(line, why);
                continue;
            }
        };
        match known.get(&peer.network) {
            Some((other, first)) if *other == group => {
                imported.remark(line, format!("{} again; it is in line {first} already", peer.network));
            }
            Some((other, first)) => {
                let network = peer.network;
                imported.loss(line, format!("{network} is group {other}'s in line {first}: a source is one trunk"));
            }
            None => {
                known.insert(peer.network, (group, line));
                groups.entry(group).or_default().push(peer);
            }
        }
    }
    for (group, peers) in groups {
        let _ = writeln!(imported.text, "[[trunk]]\nname = \"group-{group}\"\npeers = [");
        for Peer { network, tag } in peers {
            let comment = tag.map(|tag| format!(" # {}", tag.escape_debug())).unwrap_or_default();
            let _ = writeln!(imported.text, "    {},{comment}", print::string(&network.to_string()));
        }
        imported.text.push_str("]\n\n");
    }
    imported
}

fn read<'a>(line: usize, fields: &[&'a str], imported: &mut Imported) -> Result<(u32, Peer<'a>), String> {
    let [group, address, rest @ ..] = fields else { return Err("no address".to_owned()) };
    let group = group.parse().map_err(|_| format!("\"{group}\" is no number of a group"))?;
    let plain = address.trim_start_matches('[').trim_end_matches(']');
    let (plain, slash) = plain.split_once('/').map_or((plain, None), |(plain, mask)| (plain, Some(mask)));
    let ip: IpAddr = plain.parse().map_err(|_| format!("\"{address}\" is a name: peers are addresses and networks"))?;
    let full = if ip.is_ipv4() { 32 } else { 128 };
    // With the mask behind a slash the other fields stand one further to the front.
    let (mask, rest) = match (slash, rest) {
        (Some(mask), rest) => (Some(mask), rest),
        (None, [mask, rest @ ..]) => (Some(*mask), rest),
        (None, []) => (None, rest),
    };
    let bits = match mask {
        Some(mask) => mask.parse().ok().filter(|bits| *bits <= full).ok_or(format!("\"{mask}\" is no mask"))?,
        None => full,
    };
    let network = IpNet::new(ip, bits).map_err(|_| format!("\"{address}\" with {bits} bits"))?.trunc();
    if let Some(port) = rest.first().filter(|port| **port != "0") {
        imported.remark(line, format!("port {port} is not looked at: a trunk is known by its addresses"));
    }
    Ok((group, Peer { network, tag: rest.get(1).copied() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_become_trunks() {
        let list = "# group address mask port tag\n1 192.0.2.10 32 5060 alice\n1 192.0.2.77 24\n2 [2001:db8::1] 64 0 six\n\
                    2 198.51.100.1 # a comment\n3 sbc.example.com\n2 192.0.2.10\n1 192.0.2.0/24\nx 192.0.2.1\n4 192.0.2.1 33\n";
        let imported = import(list);
        let table: toml::Table = imported.text.parse().unwrap();
        let trunks = table["trunk"].as_array().unwrap();
        let peers = |at: usize| {
            let peers = trunks[at]["peers"].as_array().unwrap().iter();
            (trunks[at]["name"].as_str().unwrap(), peers.map(|peer| peer.as_str().unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(peers(0), ("group-1", vec!["192.0.2.10/32", "192.0.2.0/24"]));
        assert_eq!(peers(1), ("group-2", vec!["2001:db8::/64", "198.51.100.1/32"]));
        assert_eq!(trunks.len(), 2);
        let remarks: Vec<_> = imported.remarks.iter().map(|remark| (remark.line, remark.is_loss)).collect();
        assert_eq!(remarks, [(2, false), (6, true), (7, true), (8, false), (9, true), (10, true)]);
        assert!(imported.text.contains("# alice"));
    }
}
