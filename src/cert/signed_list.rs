//! Lists that somebody signs: the STI-PA's list of trusted authorities, a JWT (ATIS-1000084; certificates dossier section 8), and any other
//! text in the same envelope. The key is configured; what the token says of its own key (`x5u`) is not believed.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use super::anchors::TrustAnchors;
use super::certificate::Certificate;
use super::log_list::p256_point;
use super::pem::certificates_from_pem_or_der;

/// Why a list is refused.
#[derive(Debug)]
pub enum SignedListError {
    /// The key is no PEM with one P-256 public key or a certificate for one.
    Key,
    /// Not three segments of base64url.
    Envelope,
    /// Another algorithm than ES256.
    Algorithm {
        /// What the header says.
        alg: String,
    },
    /// The signature does not verify by the configured key.
    Signature,
    /// Header or payload are not the JSON that they should be.
    Json(serde_json::Error),
    /// Its `exp` is past.
    Expired {
        /// `exp`, Unix seconds.
        exp: i64,
    },
    /// Its sequence number is lower than that of the list at hand.
    Sequence {
        /// Its own.
        offered: u64,
        /// Of the list at hand.
        known: u64,
    },
    /// It holds no certificate that can be a trust anchor, or more than [`AnchorList::MAX_ANCHORS`].
    Anchors {
        /// How many it lists.
        listed: usize,
    },
}

impl fmt::Display for SignedListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("not a PEM file with a P-256 public key or a certificate for one"),
            Self::Envelope => f.write_str("not a compact JWS"),
            Self::Algorithm { alg } => write!(f, "signed by {alg:?}, not by ES256"),
            Self::Signature => f.write_str("the signature does not verify by the configured key"),
            Self::Json(error) => write!(f, "not the JSON expected: {error}"),
            Self::Expired { exp } => write!(f, "expired at {exp} (Unix seconds)"),
            Self::Sequence { offered, known } => {
                write!(f, "sequence {offered} is lower than {known}, which is at hand")
            }
            Self::Anchors { listed } => write!(f, "no usable trust anchor among {listed}, or too many"),
        }
    }
}

impl std::error::Error for SignedListError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            _ => None,
        }
    }
}

/// The key of whoever signs a list.
#[derive(Clone, Debug)]
pub struct ListKey {
    key: ParsedPublicKey,
    point: Box<[u8]>,
}

impl PartialEq for ListKey {
    fn eq(&self, other: &Self) -> bool {
        self.point == other.point
    }
}

impl Eq for ListKey {}

impl ListKey {
    /// From a PEM text with a public key, or with a certificate (the first counts; its dates do not: the operator pins the key).
    ///
    /// # Errors
    /// [`SignedListError::Key`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, SignedListError> {
        let parsed = |point: &[u8]| {
            let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?;
            Some(Self { key, point: point.into() })
        };
        let key = match SubjectPublicKeyInfoDer::from_pem_slice(pem) {
            Ok(spki) => p256_point(&spki).and_then(parsed),
            Err(_) => {
                let first = certificates_from_pem_or_der(pem).into_iter().next().and_then(Result::ok);
                let certificate = first.and_then(|der| Certificate::from_der(&der).ok());
                certificate.as_ref().and_then(Certificate::es256_point).and_then(parsed)
            }
        };
        key.ok_or(SignedListError::Key)
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

/// The payload of a compact JWS, if it is signed by ES256 with `key`. White space around the token is ignored.
///
/// # Errors
/// Nothing of what it says counts then.
pub fn open(token: &[u8], key: &ListKey) -> Result<Vec<u8>, SignedListError> {
    let token = token.trim_ascii();
    let last = memchr::memrchr(b'.', token).ok_or(SignedListError::Envelope)?;
    let (signed, signature) = (&token[..last], &token[last + 1..]);
    let dot = memchr::memchr(b'.', signed).ok_or(SignedListError::Envelope)?;
    let decode = |text: &[u8]| URL_SAFE_NO_PAD.decode(text).map_err(|_| SignedListError::Envelope);
    let (header, payload, signature) = (decode(&signed[..dot])?, decode(&signed[dot + 1..])?, decode(signature)?);
    let header: Header = serde_json::from_slice(&header).map_err(SignedListError::Json)?;
    if header.alg != "ES256" {
        return Err(SignedListError::Algorithm { alg: header.alg });
    }
    key.key.verify_sig(signed, &signature).map_err(|_| SignedListError::Signature)?;
    Ok(payload)
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    version: String,
    sequence: u64,
    exp: i64,
    #[serde(rename = "trustList")]
    trust_list: Vec<String>,
}

/// The STI-PA's list of trusted authorities.
#[derive(Clone, Debug)]
pub struct AnchorList {
    /// `version`.
    pub version: String,
    /// `sequence`: never goes back.
    pub sequence: u64,
    /// `exp`, Unix seconds.
    pub exp: i64,
    /// The anchors.
    pub anchors: TrustAnchors,
    /// Entries that can not be trust anchors: their place, and why. The others count all the same.
    pub left_out: Vec<(usize, String)>,
}

impl AnchorList {
    /// Most entries that are read.
    pub const MAX_ANCHORS: usize = 1024;

    /// Reads and verifies a list. `known` is the sequence number of the one at hand.
    ///
    /// # Errors
    /// The one at hand stays.
    pub fn read(token: &[u8], key: &ListKey, known: Option<u64>) -> Result<Self, SignedListError> {
        let payload: Payload = serde_json::from_slice(&open(token, key)?).map_err(SignedListError::Json)?;
        if let Some(known) = known.filter(|known| payload.sequence < *known) {
            return Err(SignedListError::Sequence { offered: payload.sequence, known });
        }
        let listed = payload.trust_list.len();
        let (mut anchors, mut left_out) = (TrustAnchors::new(), Vec::new());
        for (place, text) in payload.trust_list.iter().enumerate().take(Self::MAX_ANCHORS) {
            for der in ders(text) {
                let added = der.and_then(|der| anchors.add_der(&der).map_err(|error| error.to_string()));
                left_out.extend(added.err().map(|why| (place, why)));
            }
        }
        if anchors.is_empty() || listed > Self::MAX_ANCHORS {
            return Err(SignedListError::Anchors { listed });
        }
        let Payload { version, sequence, exp, .. } = payload;
        Ok(Self { version, sequence, exp, anchors, left_out })
    }

    /// Whether it still counts at `unix`: until `exp`, and `grace` seconds longer.
    ///
    /// # Errors
    /// [`SignedListError::Expired`].
    pub fn check_expiry(&self, unix: i64, grace: i64) -> Result<(), SignedListError> {
        if unix < self.exp.saturating_add(grace) { Ok(()) } else { Err(SignedListError::Expired { exp: self.exp }) }
    }
}

/// The certificates of an entry: PEM, or the base64 of a DER without its frame.
fn ders(text: &str) -> Vec<Result<Vec<u8>, String>> {
    if text.contains("-----BEGIN") {
        let all = certificates_from_pem_or_der(text.as_bytes()).into_iter();
        return all.map(|der| der.map_err(|error| error.to_string())).collect();
    }
    let bare: String = text.split_whitespace().collect();
    vec![STANDARD.decode(bare).map_err(|error| error.to_string())]
}
