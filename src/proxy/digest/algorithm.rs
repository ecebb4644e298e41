//! The hashes of digest authentication (RFC 7616 3.3, RFC 8760 2.1).

use aws_lc_rs::digest::{Context, SHA256, SHA512_256};
use md5::{Digest as _, Md5};

/// A hash that credentials may be made with, the better one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// `SHA-256`.
    Sha256,
    /// `SHA-512-256`.
    Sha512_256,
    /// `MD5`: only for what can do nothing better.
    Md5,
}

/// Digits of the longest hash.
const MAX_HEX: usize = 64;

/// A hash in lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex {
    digits: [u8; MAX_HEX],
    len: usize,
}

impl Hex {
    /// The digits.
    pub fn as_bytes(&self) -> &[u8] {
        self.digits.get(..self.len).unwrap_or_default()
    }

    fn of(octets: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; MAX_HEX];
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or_default();
        for (pair, octet) in digits.chunks_exact_mut(2).zip(octets) {
            pair.copy_from_slice(&[digit(octet >> 4), digit(octet & 15)]);
        }
        Hex { digits, len: (octets.len() * 2).min(MAX_HEX) }
    }

    /// Reads the digits of a hash of this algorithm.
    pub fn read(algorithm: Algorithm, text: &[u8]) -> Option<Self> {
        if text.len() != algorithm.digits() || !text.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut digits = [0; MAX_HEX];
        for (to, from) in digits.iter_mut().zip(text) {
            *to = from.to_ascii_lowercase();
        }
        Some(Hex { digits, len: text.len() })
    }
}

impl Algorithm {
    /// All, the preferred one first.
    pub const ALL: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha512_256, Algorithm::Md5];

    /// The token of the `algorithm` parameter.
    pub fn token(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "SHA-256",
            Algorithm::Sha512_256 => "SHA-512-256",
            Algorithm::Md5 => "MD5",
        }
    }

    /// The algorithm a token names, in any case.
    pub fn from_token(token: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.token().as_bytes().eq_ignore_ascii_case(token))
    }

    /// Hexadecimal digits of its result.
    pub fn digits(self) -> usize {
        match self {
            Algorithm::Sha256 | Algorithm::Sha512_256 => 64,
            Algorithm::Md5 => 32,
        }
    }

    /// The hash of the parts, with a colon between each two.
    pub fn hash(self, parts: &[&[u8]]) -> Hex {
        fn feed<'a>(parts: &[&'a [u8]], mut update: impl FnMut(&'a [u8])) {
            for (position, part) in parts.iter().enumerate() {
                if position > 0 {
                    update(b":");
                }
                update(part);
            }
        }
        let modern = |kind| {
            let mut context = Context::new(kind);
            feed(parts, |part| context.update(part));
            Hex::of(context.finish().as_ref())
        };
        match self {
            Algorithm::Sha256 => modern(&SHA256),
            Algorithm::Sha512_256 => modern(&SHA512_256),
            Algorithm::Md5 => {
                let mut context = Md5::new();
                feed(parts, |part| context.update(part));
                Hex::of(&context.finalize())
            }
        }
    }
}
