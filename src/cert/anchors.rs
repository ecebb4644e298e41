//! The certificates that are trusted without further proof.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::certificate::{Certificate, CertificateError};

/// Why a certificate cannot be a trust anchor.
#[derive(Clone, Debug, PartialEq)]
pub enum AnchorError {
    /// It cannot be read.
    Unreadable(CertificateError),
    /// basicConstraints does not say cA TRUE.
    NotCa {
        /// Its subject.
        subject: String,
    },
}

impl fmt::Display for AnchorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "trust anchor: {error}"),
            Self::NotCa { subject } => write!(f, "trust anchor {subject} is not a CA"),
        }
    }
}

impl std::error::Error for AnchorError {}

/// Trust anchors: roots, or intermediates trusted as such, found by the name and key they issue under.
#[derive(Clone, Debug, Default)]
pub struct TrustAnchors {
    by_subject: BTreeMap<Box<[u8]>, Vec<Arc<Certificate>>>,
}

impl TrustAnchors {
    /// No anchors: nothing validates.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one anchor; one with the same name and key is replaced by the later.
    ///
    /// # Errors
    /// When it is unreadable or not a CA.
    pub fn add_der(&mut self, der: &[u8]) -> Result<(), AnchorError> {
        let anchor = Certificate::from_der(der).map_err(AnchorError::Unreadable)?;
        if !anchor.is_ca() {
            return Err(AnchorError::NotCa { subject: anchor.subject() });
        }
        let same_name = self.by_subject.entry(anchor.subject_raw.clone()).or_default();
        same_name.retain(|other| other.spki_der() != anchor.spki_der());
        same_name.push(Arc::new(anchor));
        Ok(())
    }

    /// Adds all of another set; of two with the same name and key the other's stays.
    pub fn extend(&mut self, other: &Self) {
        for anchor in other.iter() {
            let same_name = self.by_subject.entry(anchor.subject_raw.clone()).or_default();
            same_name.retain(|own| own.spki_der() != anchor.spki_der());
            same_name.push(Arc::clone(anchor));
        }
    }

    /// Anchors from DER certificates, stopping at the first that cannot be one.
    ///
    /// # Errors
    /// As [`add_der`](Self::add_der).
    pub fn from_ders<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, AnchorError> {
        let mut anchors = Self::new();
        for der in ders {
            anchors.add_der(der)?;
        }
        Ok(anchors)
    }

    /// How many anchors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_subject.is_empty()
    }

    /// All anchors, ordered by subject.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.by_subject.values().flatten()
    }

    /// The anchor that is this certificate: same name, same key (RFC 5280 section 6.1.1 (d)).
    pub(crate) fn matching(&self, certificate: &Certificate) -> Option<&Arc<Certificate>> {
        self.by_subject.get(&certificate.subject_raw)?.iter().find(|anchor| anchor.spki_der() == certificate.spki_der())
    }

    /// The anchors that may have issued this certificate: by name, and by key identifier where both sides have one.
    pub(crate) fn issuers_of<'a>(&'a self, certificate: &'a Certificate) -> impl Iterator<Item = &'a Arc<Certificate>> {
        self.by_subject
            .get(&certificate.issuer_raw)
            .into_iter()
            .flatten()
            .filter(|anchor| super::path::key_ids_agree(certificate, anchor) != Some(false))
    }
}
