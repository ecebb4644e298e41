//! Who may ask, and how often.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use crate::proxy::admission::Rate;

/// Addresses that are told apart; beyond them, those that have not asked lately make room.
const MAX_ADDRESSES: usize = 4096;

/// A client's secret, as its digest only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What the log calls the client.
    pub name: String,
    digest: [u8; 32],
}

impl Token {
    /// Of a secret.
    pub fn new(name: String, secret: &[u8]) -> Self {
        Self { name, digest: sha256(secret) }
    }
}

/// Equal lengths for the comparison, whatever was sent.
fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, octets).as_ref()); // SHA-256 has 32 octets
    out
}

/// Whose bucket a request is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The token of this place in the list.
    Token(usize),
    /// Whoever has no token: where it comes from.
    Address(IpAddr),
}

/// All clients, and their buckets.
pub struct Clients {
    tokens: Vec<Token>,
    rate: Rate,
    by_token: Vec<AtomicU64>,
    by_address: Mutex<HashMap<IpAddr, u64>>,
}

impl Clients {
    /// With full buckets.
    pub fn new(tokens: Vec<Token>, rate: Rate) -> Self {
        let by_token = tokens.iter().map(|_| AtomicU64::new(0)).collect();
        Self { tokens, rate, by_token, by_address: Mutex::default() }
    }

    /// Whose request this is, by its `Authorization`. `None`: a token is asked for, and this is none of them. Every token is compared,
    /// and all of each.
    pub fn identify(&self, authorization: Option<&[u8]>, remote: IpAddr) -> Option<Client> {
        if self.tokens.is_empty() {
            return Some(Client::Address(remote));
        }
        let (scheme, secret) = authorization?.split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let shown = sha256(secret.trim_ascii());
        let mut found = None;
        for (place, token) in self.tokens.iter().enumerate() {
            if verify_slices_are_equal(&shown, &token.digest).is_ok() {
                found = Some(Client::Token(place));
            }
        }
        found
    }

    /// Whether it may ask once more; `now` in nanoseconds.
    pub fn admit(&self, client: Client, now: u64) -> bool {
        match client {
            Client::Token(place) => self.by_token.get(place).is_none_or(|bucket| self.rate.take_shared(bucket, now)),
            Client::Address(address) => {
                let address = address.to_canonical();
                let mut buckets = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
                if buckets.len() >= MAX_ADDRESSES && !buckets.contains_key(&address) {
                    buckets.retain(|_, arrival| *arrival > now); // the others are full again
                    if buckets.len() >= MAX_ADDRESSES {
                        return false;
                    }
                }
                self.rate.take(buckets.entry(address).or_default(), now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_token_is_its_client() {
        let tokens =
            ["first-secret-0123", "second-secret-012"].map(|secret| Token::new(secret[..5].into(), secret.as_bytes()));
        let clients = Clients::new(tokens.to_vec(), Rate::new(1, 1));
        let home = "192.0.2.1".parse().unwrap();
        let who = |text: &str| clients.identify(Some(text.as_bytes()), home);
        assert_eq!(who("Bearer second-secret-012"), Some(Client::Token(1)));
        assert_eq!(who("bearer  first-secret-0123 "), Some(Client::Token(0)));
        for wrong in
            ["", "Bearer", "Bearer ", "Basic first-secret-0123", "Bearer first-secret-012", "Bearer first-secret-01234"]
        {
            assert_eq!(who(wrong), None, "{wrong}");
        }
        assert_eq!(clients.identify(None, home), None);
        assert!(clients.admit(Client::Token(0), SECOND) && !clients.admit(Client::Token(0), SECOND));
        assert!(clients.admit(Client::Token(1), SECOND), "each has a bucket of its own");
        assert_eq!(Clients::new(Vec::new(), Rate::new(1, 1)).identify(None, home), Some(Client::Address(home)));
    }

    #[test]
    fn addresses_are_bounded_and_the_quiet_ones_make_room() {
        let clients = Clients::new(Vec::new(), Rate::new(1, 1));
        let address = |n: u32| Client::Address(IpAddr::from(n.to_be_bytes()));
        for n in 0..MAX_ADDRESSES as u32 {
            assert!(clients.admit(address(n), SECOND));
        }
        assert!(!clients.admit(address(0), SECOND), "its bucket is empty");
        assert!(!clients.admit(address(u32::MAX), SECOND), "no room");
        assert!(clients.admit(address(u32::MAX), 3 * SECOND), "the others have been quiet");
    }
}
