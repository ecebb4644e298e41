//! What a signer is made of, and whether it may be made (R12 to R14, R20).
use super::{SignerError, SignerWarning};
use crate::cert::Certificate;
use crate::passport::DialPlan;
use crate::passport::ppt::shaken::Attestation;
use crate::stir::url::HttpsUrl;
use crate::stir::{IdentitySource, Profile};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use std::fmt;
use std::sync::Arc;

/// A lifetime above which a VESPER certificate is remarked (R5): 7 days.
const SHORT_LIVED: i64 = 7 * 24 * 3600;

/// What a [`Signer`](super::Signer) is made of.
#[derive(Clone)]
pub struct SignerConfig {
    /// DER, leaf first. A self-signed last one is not sent.
    pub certificates: Vec<Vec<u8>>,
    /// Private key of the leaf: PKCS#8 or SEC1, PEM or DER.
    pub key: Vec<u8>,
    /// The name of a key that lies elsewhere, in a hardware module: then `key` is not looked at (see [`super::elsewhere`]).
    pub remote_key: Option<Arc<str>>,
    /// Where the chain is published.
    pub x5u: String,
    /// `attest`, which makes the tokens SHAKEN ones (RFC 8588); without it they are plain PASSporTs.
    pub attestation: Option<Attestation>,
    /// VESPER puts the chain into `x5c` (R17) and refuses a certificate that is none of its profile (R12 to R14, R20).
    pub profile: Profile,
    /// How numbers in requests are read.
    pub dial_plan: DialPlan,
    /// Which field names the caller. P-Asserted-Identity has to be vouched for by whoever configures this.
    pub identity_source: IdentitySource,
    /// Most seconds a Date in the request may be off (I-5: 60).
    pub date_tolerance: i64,
}

impl SignerConfig {
    /// Usual settings.
    pub fn new(profile: Profile, certificates: Vec<Vec<u8>>, key: Vec<u8>, x5u: impl Into<String>) -> Self {
        Self {
            certificates,
            key,
            remote_key: None,
            x5u: x5u.into(),
            attestation: None,
            profile,
            dial_plan: DialPlan::default(),
            identity_source: IdentitySource::From,
            date_tolerance: 60,
        }
    }
}

impl fmt::Debug for SignerConfig {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignerConfig").field("x5u", &self.x5u).field("profile", &self.profile).finish_non_exhaustive()
    }
}

pub(super) fn read_key(key: &[u8]) -> Result<EcdsaKeyPair, SignerError> {
    let der = match PrivateKeyDer::from_pem_slice(key) {
        Ok(der) => der.secret_der().to_vec(),
        Err(_) => key.to_vec(),
    };
    EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).map_err(|_| SignerError::Key)
}

/// Whether the certificate may sign at all, and what is to be said of it.
pub(super) fn preflight(leaf: &Certificate, config: &SignerConfig) -> Result<Vec<SignerWarning>, SignerError> {
    let url = HttpsUrl::parse(&config.x5u).map_err(SignerError::Url)?;
    let mut warnings = Vec::new();
    if let Err(error) = url.fetchable(false) {
        warnings.push(SignerWarning::NotFetchable(error));
    }
    let list = leaf.tn_auth_list().and_then(Result::ok).ok_or(SignerError::NoTnAuthList)?;
    let constraints = leaf.claim_constraints().transpose().map_err(|_| SignerError::BadConstraints)?;
    if config.profile == Profile::Shaken {
        return Ok(warnings);
    }
    if !list.has_tn_entry() {
        return Err(SignerError::NoNumber);
    }
    if leaf.dns_names().is_empty() {
        return Err(SignerError::NoDnsName);
    }
    if !leaf.dns_names().iter().any(|name| url.is_host(name)) {
        return Err(SignerError::HostNotInCertificate);
    }
    if !leaf.scts().is_some_and(|scts| scts.is_ok_and(|list| !list.scts.is_empty())) {
        return Err(SignerError::NoSct);
    }
    if leaf.subject_organization().is_none() {
        warnings.push(SignerWarning::NoOrganization);
    }
    let seconds = leaf.not_after().saturating_sub(leaf.not_before());
    if seconds > SHORT_LIVED {
        warnings.push(SignerWarning::LongLived { seconds });
    }
    let authorized = |name| constraints.is_some_and(|constraints| constraints.authorizes(name));
    if config.attestation.is_some() && !(authorized("attest") && authorized("origid")) {
        warnings.push(SignerWarning::UnauthorizedClaims);
    }
    Ok(warnings)
}
