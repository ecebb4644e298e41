//! Where a case takes place: loopback addresses and ports of its own, and the words that stand for them in its files.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses in 127/8 that no other case of this machine uses at the same time: the two middle octets come from the process
/// and a counter. The proxy tells its trunks apart by address, so each party has one of its own.
pub struct Place {
    pub proxy: IpAddr,
    pub caller: IpAddr,
    pub callee: IpAddr,
    pub server: IpAddr,
    words: BTreeMap<String, String>,
}

impl Place {
    pub fn new() -> Self {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let net = (std::process::id().wrapping_mul(61)).wrapping_add(CASES.fetch_add(1, Ordering::Relaxed)) as u16;
        let [high, low] = net.to_be_bytes();
        let ip = |host| IpAddr::from(Ipv4Addr::new(127, high, low, host));
        let mut place = Place { proxy: ip(1), caller: ip(2), callee: ip(3), server: ip(4), words: BTreeMap::new() };
        place.set("proxy", place.proxy);
        place.set("caller", place.caller);
        place.set("callee", place.callee);
        place.set("a", free_port(place.proxy));
        place.set("b", free_port(place.proxy));
        place.set("tls_a", free_port(place.proxy));
        place.set("tls_b", free_port(place.proxy));
        place.set("caller_port", free_port(place.caller));
        place.set("callee_port", free_port(place.callee));
        for (name, host) in [("front", 5), ("back", 6)] {
            place.set(name, ip(host));
            place.set(&format!("{name}_port"), free_port(ip(host)));
        }
        // IPv6 has one loopback address only: there the parties are told apart by port.
        place.set("proxy6", "[::1]");
        for port in ["a6", "b6", "caller6_port", "callee6_port"] {
            place.set(port, free_port(Ipv6Addr::LOCALHOST.into()));
        }
        place.set("dead_port", free_port(place.callee)); // nobody listens there
        place.set("number", format!("+1202555{:04}", random() % 10_000));
        place.set("case", format!("{:016x}", random()));
        place
    }

    pub fn set(&mut self, word: &str, value: impl ToString) {
        self.words.insert(word.to_owned(), value.to_string());
    }

    pub fn get(&self, word: &str) -> &str {
        self.words.get(word).unwrap_or_else(|| panic!("no word {{{word}}}"))
    }

    pub fn port(&self, word: &str) -> u16 {
        self.get(word).parse().unwrap()
    }

    /// `text` with `{word}` replaced by what it stands for; unknown words stay as they are.
    pub fn fill(&self, text: &str) -> String {
        fill_with(text, |word| self.words.get(word).cloned())
    }
}

/// Replaces each `{word}` that `value` knows.
pub fn fill_with(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        match after.split_once('}').and_then(|(word, tail)| Some((value(word)?, tail))) {
            Some((value, tail)) => {
                out.push_str(&value);
                rest = tail;
            }
            None => {
                out.push('{');
                rest = after;
            }
        }
    }
    out + rest
}

/// A port that is free for UDP and TCP on `ip`. It lies below those that the kernel gives out, for whoever binds one of those on all
/// addresses takes it away from this one too; nobody else picks ports on `ip`, so it stays free until it is used.
pub fn free_port(ip: IpAddr) -> u16 {
    pick(10_000, 18_000, |port| UdpSocket::bind((ip, port)).is_ok() && TcpListener::bind((ip, port)).is_ok())
}

/// A port for the control socket that every SIPp binds on all addresses; apart from all [`free_port`]s.
pub fn control_port() -> u16 {
    pick(28_000, 4_000, |port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok())
}

/// None twice: what was picked before may not be bound yet.
fn pick(first: u16, count: u16, is_free: impl Fn(u16) -> bool) -> u16 {
    static PICKED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut picked = PICKED.lock().unwrap();
    let mut ports = (0..100).map(|_| first + (random() % u64::from(count)) as u16);
    ports.find(|port| is_free(*port) && picked.insert(*port)).expect("a free port")
}

/// A number that is another one each time, so that no fixed string passes by accident.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
