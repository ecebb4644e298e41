//! Signed certificate timestamps of CT v1 (RFC 6962 section 3), for embedded lists of precertificate entries.

use std::fmt;

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest},
    signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey},
};

use super::der::{self, DerError, Reader};
use super::oid::{self, Oid};

/// `hash_alg` 4 (sha256), `sig_alg` 3 (ecdsa): the only pair accepted.
const SHA256_ECDSA: (u8, u8) = (4, 3);

/// One version 1 SCT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sct {
    /// SHA-256 of the log's DER SubjectPublicKeyInfo.
    pub log_id: [u8; 32],
    /// Milliseconds since 1970-01-01T00:00Z, no leap seconds.
    pub timestamp: u64,
    /// `CtExtensions`, opaque here; part of what the log signs.
    pub extensions: Vec<u8>,
    /// TLS HashAlgorithm; 4 is SHA-256.
    pub hash_algorithm: u8,
    /// TLS SignatureAlgorithm; 3 is ECDSA.
    pub signature_algorithm: u8,
    /// The log's signature; for ECDSA the DER `Ecdsa-Sig-Value`.
    pub signature: Vec<u8>,
}

/// An embedded list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SctList {
    /// The version 1 SCTs, in their order.
    pub scts: Vec<Sct>,
    /// SCTs of other versions, which are skipped.
    pub unknown_versions: usize,
}

/// Why an SCT list cannot be read: the certificate is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SctListError {
    /// The extension value is not an OCTET STRING.
    Der(DerError),
    /// The extension occurs more than once.
    Repeated,
    /// The list holds no SCT.
    Empty,
    /// More than [`SctList::MAX_SCTS`] SCTs.
    TooMany,
    /// A length does not fit what encloses it.
    Length,
}

impl fmt::Display for SctListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Der(error) => write!(f, "SCT list: {error}"),
            Self::Repeated => f.write_str("SCT list occurs more than once"),
            Self::Empty => f.write_str("SCT list is empty"),
            Self::TooMany => f.write_str("SCT list has too many entries"),
            Self::Length => f.write_str("SCT list: a length does not fit"),
        }
    }
}

impl std::error::Error for SctListError {}

/// Why the TBSCertificate a log signed cannot be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TbsError {
    /// Not the DER of a certificate.
    Der(DerError),
    /// The extension to drop is not there.
    Absent,
    /// The extension to drop occurs more than once.
    Repeated,
    /// Poison and SCT list in one certificate.
    PoisonAndScts,
}

impl fmt::Display for TbsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Der(error) => write!(f, "certificate: {error}"),
            Self::Absent => f.write_str("the certificate lacks the extension to drop"),
            Self::Repeated => f.write_str("the extension to drop occurs more than once"),
            Self::PoisonAndScts => f.write_str("the certificate holds the precertificate poison and an SCT list"),
        }
    }
}

impl std::error::Error for TbsError {}

impl SctList {
    /// Most SCTs read from one certificate.
    pub const MAX_SCTS: usize = 16;

    /// Reads the contents of the extension's OCTET STRING: another OCTET STRING around the TLS encoding.
    ///
    /// # Errors
    /// Any length mismatch or trailing octet.
    pub fn from_extension(value: &[u8]) -> Result<Self, SctListError> {
        let list = der::only(value, der::OCTET_STRING).map_err(SctListError::Der)?;
        let mut rest = Cursor { rest: list };
        let mut entries = Cursor { rest: rest.vector16()? };
        rest.finish()?;
        let mut scts = Self::default();
        while !entries.rest.is_empty() {
            if scts.scts.len() + scts.unknown_versions == Self::MAX_SCTS {
                return Err(SctListError::TooMany);
            }
            match Sct::from_octets(entries.vector16()?)? {
                Some(sct) => scts.scts.push(sct),
                None => scts.unknown_versions += 1,
            }
        }
        if scts.scts.is_empty() && scts.unknown_versions == 0 {
            return Err(SctListError::Empty);
        }
        Ok(scts)
    }

    /// The contents of the extension's OCTET STRING, to issue.
    ///
    /// # Errors
    /// [`SctListError::Empty`], [`SctListError::TooMany`], or [`SctListError::Length`] when a part exceeds its length field.
    pub fn to_extension(scts: &[Sct]) -> Result<Vec<u8>, SctListError> {
        if scts.is_empty() {
            return Err(SctListError::Empty);
        }
        if scts.len() > Self::MAX_SCTS {
            return Err(SctListError::TooMany);
        }
        let mut entries = Vec::new();
        for sct in scts {
            push_vector16(&mut entries, &sct.to_octets()?)?;
        }
        let mut list = Vec::new();
        push_vector16(&mut list, &entries)?;
        Ok(der::element(der::OCTET_STRING, &list))
    }
}

impl Sct {
    /// Reads one `SerializedSCT`; `Ok(None)` for a version other than 1.
    ///
    /// # Errors
    /// [`SctListError::Length`].
    pub fn from_octets(octets: &[u8]) -> Result<Option<Self>, SctListError> {
        let mut cursor = Cursor { rest: octets };
        if cursor.array::<1>()? != [0] {
            return Ok(None);
        }
        let log_id = cursor.array()?;
        let timestamp = u64::from_be_bytes(cursor.array()?);
        let extensions = cursor.vector16()?.to_vec();
        let [hash_algorithm, signature_algorithm] = cursor.array()?;
        let signature = cursor.vector16()?.to_vec();
        cursor.finish()?;
        Ok(Some(Self { log_id, timestamp, extensions, hash_algorithm, signature_algorithm, signature }))
    }

    /// The `SerializedSCT`.
    ///
    /// # Errors
    /// [`SctListError::Length`] when a part exceeds its length field.
    pub fn to_octets(&self) -> Result<Vec<u8>, SctListError> {
        let mut out = vec![0];
        out.extend_from_slice(&self.log_id);
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        push_vector16(&mut out, &self.extensions)?;
        out.extend([self.hash_algorithm, self.signature_algorithm]);
        push_vector16(&mut out, &self.signature)?;
        Ok(out)
    }

    /// Whether the log of `key` signed this SCT for the entry of [`Entry`]. A P-256 log only.
    #[must_use]
    pub fn verifies(&self, entry: &Entry, key: &ParsedPublicKey) -> bool {
        (self.hash_algorithm, self.signature_algorithm) == SHA256_ECDSA
            && key.verify_sig(&entry.signed_data(self.timestamp, &self.extensions), &self.signature).is_ok()
    }
}

/// A precertificate entry: what a log signs, apart from timestamp and extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// SHA-256 of the DER SubjectPublicKeyInfo of the certificate's issuer.
    pub issuer_key_hash: [u8; 32],
    /// The TBSCertificate without poison and without SCT list.
    pub tbs: Vec<u8>,
}

impl Entry {
    /// The entry of a final certificate with embedded SCTs.
    ///
    /// # Errors
    /// See [`tbs_without`].
    pub fn of_certificate(certificate: &[u8], issuer_spki: &[u8]) -> Result<Self, TbsError> {
        Ok(Self { issuer_key_hash: sha256(issuer_spki), tbs: tbs_without(certificate, &oid::SCT_LIST)? })
    }

    /// The entry of a precertificate, as a log and its submitter see it.
    ///
    /// # Errors
    /// See [`tbs_without`].
    pub fn of_precertificate(precertificate: &[u8], issuer_spki: &[u8]) -> Result<Self, TbsError> {
        Ok(Self {
            issuer_key_hash: sha256(issuer_spki),
            tbs: tbs_without(precertificate, &oid::PRECERTIFICATE_POISON)?,
        })
    }

    /// The octets a log signs for this entry, which are those of its MerkleTreeLeaf too (RFC 6962 sections 3.2 and 3.4).
    ///
    /// `timestamp` in milliseconds; `extensions` are those of the very SCT.
    #[must_use]
    pub fn signed_data(&self, timestamp: u64, extensions: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.tbs.len() + extensions.len() + 49);
        // Version 1, certificate_timestamp.
        out.extend([0, 0]);
        out.extend_from_slice(&timestamp.to_be_bytes());
        // precert_entry.
        out.extend([0, 1]);
        out.extend_from_slice(&self.issuer_key_hash);
        // A TBSCertificate comes from a certificate of bounded size; extensions from a 16-bit vector.
        out.extend_from_slice(&(self.tbs.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&self.tbs);
        out.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        out.extend_from_slice(extensions);
        out
    }

    /// The Merkle tree leaf hash (RFC 6962 section 2.1).
    #[must_use]
    pub fn leaf_hash(&self, timestamp: u64, extensions: &[u8]) -> [u8; 32] {
        let mut leaf = vec![0];
        leaf.extend(self.signed_data(timestamp, extensions));
        sha256(&leaf)
    }
}

/// The TBSCertificate with exactly one extension spliced out; every other octet is copied, lengths are rewritten.
///
/// # Errors
/// When the extension is absent or repeated, or the certificate holds poison and SCT list at once.
pub fn tbs_without(certificate: &[u8], drop: &Oid) -> Result<Vec<u8>, TbsError> {
    let fault = TbsError::Der;
    let outer = der::only(certificate, der::SEQUENCE).map_err(fault)?;
    let mut tbs = Reader::new(Reader::new(outer).contents(der::SEQUENCE).map_err(fault)?);
    let mut out = Vec::with_capacity(certificate.len());
    let mut dropped = 0;
    let mut other = false;
    let counterpart = if *drop == oid::SCT_LIST { &oid::PRECERTIFICATE_POISON } else { &oid::SCT_LIST };
    while !tbs.is_empty() {
        let field = tbs.read().map_err(fault)?;
        if field.tag != der::context(3) {
            out.extend_from_slice(field.raw);
            continue;
        }
        let mut extensions = Reader::new(der::only(field.value, der::SEQUENCE).map_err(fault)?);
        let mut kept = Vec::with_capacity(field.value.len());
        while !extensions.is_empty() {
            let extension = extensions.read().map_err(fault)?;
            let id = Reader::new(extension.value).contents(der::OBJECT_IDENTIFIER).map_err(fault)?;
            other |= id == counterpart.der;
            if id == drop.der {
                dropped += 1;
            } else {
                kept.extend_from_slice(extension.raw);
            }
        }
        if !kept.is_empty() {
            der::write(&mut out, field.tag, &der::element(der::SEQUENCE, &kept));
        }
    }
    match (dropped, other) {
        (0, _) => Err(TbsError::Absent),
        (1, true) => Err(TbsError::PoisonAndScts),
        (1, false) => Ok(der::element(der::SEQUENCE, &out)),
        _ => Err(TbsError::Repeated),
    }
}

/// The public key of a P-256 log, ready to verify; `None` when the point is not on the curve.
pub(crate) fn log_key(point: &[u8]) -> Option<ParsedPublicKey> {
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).ok()
}

/// SHA-256; of a DER SubjectPublicKeyInfo it is the log id (RFC 6962 section 3.2) and the issuer key hash.
#[must_use]
pub fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, octets).as_ref());
    out
}

/// SHA-1, for RFC 5280's key identifiers only.
pub(crate) fn sha1(octets: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    out.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, octets).as_ref());
    out
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], SctListError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(SctListError::Length)?;
        self.rest = rest;
        Ok(*head)
    }

    /// `opaque<0..2^16-1>`.
    fn vector16(&mut self) -> Result<&'a [u8], SctListError> {
        let length = u16::from_be_bytes(self.array()?);
        let (head, rest) = self.rest.split_at_checked(length.into()).ok_or(SctListError::Length)?;
        self.rest = rest;
        Ok(head)
    }

    fn finish(&self) -> Result<(), SctListError> {
        if self.rest.is_empty() { Ok(()) } else { Err(SctListError::Length) }
    }
}

fn push_vector16(out: &mut Vec<u8>, octets: &[u8]) -> Result<(), SctListError> {
    let length = u16::try_from(octets.len()).map_err(|_| SctListError::Length)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(octets);
    Ok(())
}
