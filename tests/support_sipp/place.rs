//! Where a case takes place: loopback addresses and ports of its own, and the words that stand for them in its files.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses in 127/8 that no other case of this machine uses at the same time: the two middle octets come from the process
/// and a counter. The proxy tells its trunks apart by address, so each party has one of its own.
pub struct Place {
    pub proxy: IpAddr,
    pub caller: IpAddr,
    pub callee: IpAddr,
    words: BTreeMap<String, String>,
}

impl Place {
    pub fn new() -> Self {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let net = (std::process::id().wrapping_mul(61)).wrapping_add(CASES.fetch_add(1, Ordering::Relaxed)) as u16;
        let [high, low] = net.to_be_bytes();
        let ip = |host| IpAddr::from(Ipv4Addr::new(127, high, low, host));
        let mut place = Place { proxy: ip(1), caller: ip(2), callee: ip(3), words: BTreeMap::new() };
        place.set("proxy", place.proxy);
        place.set("caller", place.caller);
        place.set("callee", place.callee);
        place.set("a", free_port(place.proxy));
        place.set("b", free_port(place.proxy));
        place.set("caller_port", free_port(place.caller));
        place.set("callee_port", free_port(place.callee));
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

/// A port that is free for UDP and TCP on `ip`. Nobody else picks ports there, so it stays free until it is used.
pub fn free_port(ip: IpAddr) -> u16 {
    (0..100)
        .find_map(|_| {
            let udp = UdpSocket::bind((ip, 0)).ok()?;
            let port = udp.local_addr().ok()?.port();
            TcpListener::bind((ip, port)).ok().map(|_| port)
        })
        .expect("a free port on the loopback network")
}

/// A number that is another one each time, so that no fixed string passes by accident.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
