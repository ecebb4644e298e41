//! The outer structure of a certificate, octet for octet, and the kind of its key.
use x509_parser::public_key::PublicKey;

use crate::cert::der::{self, DerError, Reader};

/// What kind of key a certificate carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    P256,
    P384,
    P521,
    Rsa { bits: usize },
    Other,
}

/// The parts of a certificate that are needed octet for octet.
pub(super) struct Frame<'a> {
    pub(super) tbs: &'a [u8],
    pub(super) inner_algorithm: &'a [u8],
    pub(super) outer_algorithm: &'a [u8],
    pub(super) key_algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(super) fn read(input: &'a [u8]) -> Result<Self, DerError> {
        let mut outer = Reader::new(der::only(input, der::SEQUENCE)?);
        let tbs = outer.read()?;
        let outer_algorithm = outer.contents(der::SEQUENCE)?;
        let bits = outer.contents(der::BIT_STRING)?;
        outer.finish()?;
        let mut fields = Reader::new(der::only(tbs.raw, der::SEQUENCE)?);
        fields.optional(der::context(0))?;
        fields.contents(der::INTEGER)?;
        let inner_algorithm = fields.contents(der::SEQUENCE)?;
        // Issuer, validity, subject.
        for _ in 0..3 {
            fields.contents(der::SEQUENCE)?;
        }
        let key_algorithm = Reader::new(fields.contents(der::SEQUENCE)?).contents(der::SEQUENCE)?;
        match bits {
            [0, signature @ ..] => {
                Ok(Self { tbs: tbs.raw, inner_algorithm, outer_algorithm, key_algorithm, signature })
            }
            [] => Err(DerError::Truncated),
            _ => Err(DerError::TrailingBytes),
        }
    }
}

pub(super) fn key_kind(algorithm: &[u8], key: &Result<PublicKey<'_>, x509_parser::error::X509Error>) -> KeyKind {
    use rustls_pki_types::alg_id;
    if algorithm == alg_id::ECDSA_P256.as_ref() {
        KeyKind::P256
    } else if algorithm == alg_id::ECDSA_P384.as_ref() {
        KeyKind::P384
    } else if algorithm == alg_id::ECDSA_P521.as_ref() {
        KeyKind::P521
    } else if let (true, Ok(PublicKey::RSA(key))) = (algorithm == alg_id::RSA_ENCRYPTION.as_ref(), key) {
        KeyKind::Rsa { bits: key.key_size() }
    } else {
        KeyKind::Other
    }
}

pub(super) fn first_text<'a>(
    mut attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Option<String> {
    attributes.next().and_then(|attribute| attribute.as_str().ok()).map(str::to_owned)
}
