//! Certificates as files and repositories carry them: PEM blocks, or one DER.

use std::fmt;

use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Why a block is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PemError {
    /// The block is broken: no end marker, or not base64.
    Block {
        /// What the reader says.
        detail: String,
    },
    /// The input holds no CERTIFICATE block at all.
    NoCertificate,
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { detail } => write!(f, "broken PEM block: {detail}"),
            Self::NoCertificate => f.write_str("no CERTIFICATE block and no DER"),
        }
    }
}

impl std::error::Error for PemError {}

/// The DER of every certificate in `input`, in order: the CERTIFICATE blocks of a PEM text, or `input` itself when it begins as a DER
/// SEQUENCE does. Other blocks and text between blocks are skipped; after a broken block it goes on. Never empty.
#[must_use]
pub fn certificates_from_pem_or_der(input: &[u8]) -> Vec<Result<Vec<u8>, PemError>> {
    if input.first() == Some(&super::der::SEQUENCE) {
        return vec![Ok(input.to_vec())];
    }
    let blocks: Vec<_> = CertificateDer::pem_slice_iter(input)
        .map(|block| match block {
            Ok(der) => Ok(der.to_vec()),
            Err(error) => Err(PemError::Block { detail: error.to_string() }),
        })
        .collect();
    if blocks.is_empty() { vec![Err(PemError::NoCertificate)] } else { blocks }
}
