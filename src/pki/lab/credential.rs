//! A key with its certificate chain.

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, PublicKeyData};

use crate::pki::ca::{Authority, IssueError};

/// A private key, the chain of its certificate, and where that is published.
#[derive(Debug)]
pub struct Credential {
    /// DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// P-256.
    pub key: KeyPair,
    /// Where relying parties find the chain.
    pub x5u: String,
}

impl Credential {
    /// A new key, certified by `issuer` through `certify`.
    pub(super) fn issue(
        issuer: &Authority,
        x5u: String,
        certify: impl FnOnce(&KeyPair) -> Result<Vec<u8>, IssueError>,
    ) -> Result<Self, IssueError> {
        let key = KeyPair::generate().map_err(IssueError::Encoding)?;
        let mut chain = vec![certify(&key)?];
        if !issuer.certificate().is_self_issued() {
            chain.push(issuer.certificate().der().to_vec());
        }
        Ok(Self { chain, key, x5u })
    }

    /// The end-entity certificate, DER.
    #[must_use]
    pub fn leaf(&self) -> &[u8] {
        // `issue` alone makes chains, and puts the leaf in.
        self.chain.first().map_or(&[], Vec::as_slice)
    }

    /// The key as PKCS#8 DER.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        self.key.serialized_der()
    }

    /// The chain as PEM, leaf first: what the repository serves (RFC 9060 section 7).
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| certificate_pem(der)).collect()
    }

    /// The public key, SubjectPublicKeyInfo DER.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }
}

/// One CERTIFICATE block (RFC 7468 section 5).
pub(super) fn certificate_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII: every index is a boundary.
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
