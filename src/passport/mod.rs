//! PASSporT (RFC 8225): the signed token that states who calls whom, and when.
//!
//! [`jws`] takes a token apart, [`claims`] reads its payload, [`serialize`] writes both deterministically (RFC 8225 section 9),
//! [`telephone_number`] brings identities into the canonical form of RFC 8224 section 8, [`media_key`] computes `mky` from SDP,
//! [`form`] tells whether JSON is in that form, [`digest`] reads and makes the digests inside claims, and [`ppt`] knows the extensions. Nothing here checks a signature or knows a certificate: that is the duty of `stir`.
pub mod claims;
pub mod digest;
pub mod form;
mod json;
pub mod jws;
pub mod media_key;
pub mod ppt;
pub mod serialize;
pub mod telephone_number;

pub use claims::{Claims, ClaimsError, Identity};
pub use jws::{HeaderError, Jws, JwsError, ProtectedHeader, Token};
pub use media_key::MediaKey;
pub use telephone_number::{CanonicalIdentity, DialPlan, TelephoneNumber};

/// Bounds on what is read from a peer, and the one leniency that laboratories ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Longest token in octets, all segments and dots.
    pub max_token: usize,
    /// Longest payload segment in octets, base64url-encoded.
    pub max_payload: usize,
    /// Most certificates in `x5c`.
    pub max_certificates: usize,
    /// Longest certificate in `x5c`, octets of DER.
    pub max_certificate: usize,
    /// Most base64 octets in `x5c`, all entries together.
    pub max_x5c: usize,
    /// Most members in any JSON object, and most elements in any array.
    pub max_members: usize,
    /// Most objects and arrays within each other; a jCard needs eight.
    pub max_depth: usize,
    /// Accept `iat` as a decimal string, as printed in RFC 8588 section 6 and RFC 8225 section 7.1. Off in production.
    pub lenient_iat: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_token: 48 * 1024,
            max_payload: 12 * 1024,
            max_certificates: 6,
            max_certificate: 8 * 1024,
            max_x5c: 24 * 1024,
            max_members: 64,
            max_depth: 16,
            lenient_iat: false,
        }
    }
}
