//! A transparency log's key: it turns precertificates into SCTs (RFC 6962 section 3.2). The tree is not here.

use std::fmt;

use rcgen::{KeyPair, PublicKeyData, SigningKey};

use crate::cert::sct::{Entry, sha256};
use crate::cert::{Log, LogListError, LogState, Sct, TbsError};

/// TLS HashAlgorithm sha256 and SignatureAlgorithm ecdsa (RFC 5246 section 7.4.1.4.1).
const SHA256: u8 = 4;
const ECDSA: u8 = 3;

/// Why a log gives no SCT.
#[derive(Debug)]
pub enum LogError {
    /// What was submitted is no precertificate.
    Precertificate(TbsError),
    /// The key can not sign.
    Key(rcgen::Error),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Precertificate(error) => write!(f, "the submission is no precertificate: {error}"),
            Self::Key(error) => write!(f, "the log's key can not sign: {error}"),
        }
    }
}

impl std::error::Error for LogError {}

/// A log that signs what it is given. It keeps no tree and checks no chain: whoever holds it submits only what its own authorities issue.
#[derive(Debug)]
pub struct TransparencyLog {
    description: String,
    key: KeyPair,
    spki: Vec<u8>,
}

impl TransparencyLog {
    /// A log under a new P-256 key.
    ///
    /// # Errors
    /// [`LogError::Key`] when no key can be made.
    pub fn generate(description: &str) -> Result<Self, LogError> {
        let key = KeyPair::generate().map_err(LogError::Key)?;
        let spki = key.subject_public_key_info();
        Ok(Self { description: description.to_owned(), key, spki })
    }

    /// SHA-256 of the log's SubjectPublicKeyInfo.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        sha256(&self.spki)
    }

    /// The key, to be stored.
    #[must_use]
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// An SCT for a precertificate (DER) of the issuer with this SubjectPublicKeyInfo (DER); `timestamp` in milliseconds since 1970.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn add_precertificate(
        &self,
        precertificate: &[u8],
        issuer_spki: &[u8],
        timestamp: u64,
    ) -> Result<Sct, LogError> {
        let entry = Entry::of_precertificate(precertificate, issuer_spki).map_err(LogError::Precertificate)?;
        let signature = self.key.sign(&entry.signed_data(timestamp, &[])).map_err(LogError::Key)?;
        Ok(Sct {
            log_id: self.id(),
            timestamp,
            extensions: Vec::new(),
            hash_algorithm: SHA256,
            signature_algorithm: ECDSA,
            signature,
        })
    }

    /// How a log list shows this log: usable since `since` (milliseconds), with a merge delay in seconds.
    ///
    /// # Errors
    /// [`LogListError::Key`] never, as the key is a P-256 one.
    pub fn listed(&self, since: u64, mmd: u64) -> Result<Log, LogListError> {
        Log::new(&self.description, &self.spki, mmd, LogState::Usable(since), None)
    }
}
