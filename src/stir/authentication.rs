//! The authentication service (RFC 8224 6.1): signs requests, with everything prepared that does not change per call.
use super::signalling::{Signalling, media_keys};
use super::url::{HttpsUrl, UrlError};
use super::{IdentitySource, Profile};
use crate::cert::{Certificate, CertificateError, ConstraintViolation};
use crate::passport::claims::{Destinations, Identity};
use crate::passport::ppt::{Ppt, shaken, shaken::Attestation};
use crate::passport::{CanonicalIdentity, Claims, DialPlan, jws, serialize};
use crate::sip::{Message, Name, date};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use std::fmt;

/// Seconds for which a certificate has to be valid still.
const MIN_VALIDITY: i64 = 60;
/// A lifetime above which a VESPER certificate is remarked (R5): 7 days.
const SHORT_LIVED: i64 = 7 * 24 * 3600;

/// What a [`Signer`] is made of.
#[derive(Clone)]
pub struct SignerConfig {
    /// DER, leaf first. A self-signed last one is not sent.
    pub certificates: Vec<Vec<u8>>,
    /// Private key of the leaf: PKCS#8 or SEC1, PEM or DER.
    pub key: Vec<u8>,
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

/// Why no signer can be made.
#[derive(Clone, Debug, PartialEq)]
pub enum SignerError {
    /// No certificate was given.
    NoCertificate,
    /// A certificate can not be read.
    Certificate {
        /// Its place in the chain.
        index: usize,
        /// Why.
        error: CertificateError,
    },
    /// The leaf has no P-256 key.
    NotEs256,
    /// The private key can not be read.
    Key,
    /// The private key is another's.
    KeyMismatch,
    /// `x5u` can not be used.
    Url(UrlError),
    /// The leaf has no readable TNAuthList (R11).
    NoTnAuthList,
    /// VESPER: the TNAuthList has no number (R12).
    NoNumber,
    /// VESPER: the leaf has no dNSName (R14).
    NoDnsName,
    /// VESPER: host of `x5u` is no dNSName of the leaf (R14, R26).
    HostNotInCertificate,
    /// VESPER: the leaf embeds no SCT (R20).
    NoSct,
    /// The leaf's claim constraints are malformed or of both kinds (R13).
    BadConstraints,
}

impl fmt::Display for SignerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("no certificate"),
            Self::Certificate { index, error } => write!(f, "certificate {index}: {error}"),
            Self::NotEs256 => f.write_str("the certificate has no P-256 key"),
            Self::Key => f.write_str("the private key is no P-256 key in PKCS#8 or SEC1 form"),
            Self::KeyMismatch => f.write_str("the private key is not the certificate's"),
            Self::Url(error) => write!(f, "x5u: {error}"),
            Self::NoTnAuthList => f.write_str("the certificate has no readable TNAuthList"),
            Self::NoNumber => f.write_str("the certificate's TNAuthList has no telephone number"),
            Self::NoDnsName => f.write_str("the certificate has no dNSName"),
            Self::HostNotInCertificate => f.write_str("the host of x5u is no dNSName of the certificate"),
            Self::NoSct => f.write_str("the certificate embeds no SCT"),
            Self::BadConstraints => f.write_str("the certificate's claim constraints can not be read"),
        }
    }
}

impl std::error::Error for SignerError {}

/// What is worth telling the operator, though signing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignerWarning {
    /// The subject has no organization (R15).
    NoOrganization,
    /// A VESPER certificate that lives longer than a week (R5).
    LongLived {
        /// Seconds from notBefore to notAfter.
        seconds: i64,
    },
    /// `attest` and `origid` are not authorized by the certificate: VESPER verifiers drop them (R13).
    UnauthorizedClaims,
    /// Verifiers that keep to ATIS-1000074 will not fetch this `x5u`.
    NotFetchable(UrlError),
}

impl fmt::Display for SignerWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOrganization => f.write_str("the certificate's subject names no organization"),
            Self::LongLived { seconds } => write!(f, "the certificate lives {seconds} s, more than a week"),
            Self::UnauthorizedClaims => f.write_str("the certificate does not authorize attest and origid"),
            Self::NotFetchable(error) => write!(f, "x5u will not be fetched by everybody: {error}"),
        }
    }
}

/// Why a request is not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignError {
    /// The certificate is not valid yet.
    NotYetValid {
        /// UNIX seconds.
        not_before: i64,
    },
    /// The certificate has expired, or does within a minute.
    Expired {
        /// UNIX seconds.
        not_after: i64,
    },
    /// The request has no usable originator.
    NoOriginator,
    /// The request has no usable To.
    NoDestination,
    /// VESPER signs for telephone numbers.
    NotTelephoneNumber,
    /// The certificate does not speak for the originator (I-3).
    NotAuthorized,
    /// Date can not be read.
    BadDate,
    /// Date is off by more than the tolerance (I-5, I-6).
    StaleDate {
        /// Seconds from Date to now, negative for a Date in the future.
        age: i64,
    },
    /// The certificate forbids these claims.
    Constraint(ConstraintViolation),
    /// The cryptographic library refused.
    Signature,
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetValid { not_before } => write!(f, "the certificate is valid only from {not_before}"),
            Self::Expired { not_after } => write!(f, "the certificate is valid only until {not_after}"),
            Self::NoOriginator => f.write_str("the request has no usable originator"),
            Self::NoDestination => f.write_str("the request has no usable To"),
            Self::NotTelephoneNumber => f.write_str("the originator is no telephone number"),
            Self::NotAuthorized => f.write_str("the certificate does not speak for the originator"),
            Self::BadDate => f.write_str("Date can not be read"),
            Self::StaleDate { age } => write!(f, "Date is {age} s old"),
            Self::Constraint(violation) => violation.fmt(f),
            Self::Signature => f.write_str("signing failed"),
        }
    }
}

impl std::error::Error for SignError {}

/// An authentication service for one certificate. Shared by all workers.
pub struct Signer {
    /// The encoded protected header with its dot.
    header: Vec<u8>,
    /// What follows the token on the Identity line.
    parameters: Vec<u8>,
    key: EcdsaKeyPair,
    leaf: Certificate,
    not_before: i64,
    not_after: i64,
    attestation: Option<Attestation>,
    profile: Profile,
    dial_plan: DialPlan,
    identity_source: IdentitySource,
    date_tolerance: i64,
    warnings: Vec<SignerWarning>,
}

impl Signer {
    /// Reads certificate and key and makes the preflight checks that do not depend on the call (R12 to R14, R20).
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn new(config: SignerConfig) -> Result<Self, SignerError> {
        let mut chain = Vec::with_capacity(config.certificates.len());
        for (index, der) in config.certificates.iter().enumerate() {
            let certificate = Certificate::from_der(der).map_err(|error| SignerError::Certificate { index, error })?;
            chain.push(certificate);
        }
        if chain.len() > 1 && chain.last().is_some_and(Certificate::is_self_issued) {
            chain.pop();
        }
        let not_before = chain.iter().map(Certificate::not_before).max().ok_or(SignerError::NoCertificate)?;
        let not_after = chain.iter().map(Certificate::not_after).min().ok_or(SignerError::NoCertificate)?;
        let ppt = if config.attestation.is_some() { Ppt::Shaken } else { Ppt::Baseline };
        let inline: Vec<&[u8]> = match config.profile {
            Profile::Vesper => chain.iter().map(Certificate::der).collect(),
            Profile::Shaken => Vec::new(),
        };
        let mut json = Vec::new();
        serialize::write_header(ppt.name(), &inline, Some(&config.x5u), &mut json);
        let mut header = Vec::new();
        jws::encode(&json, &mut header);
        header.push(b'.');
        let leaf = chain.swap_remove(0);
        let key = read_key(&config.key)?;
        let point = leaf.es256_point().ok_or(SignerError::NotEs256)?;
        if key.public_key().as_ref() != point {
            return Err(SignerError::KeyMismatch);
        }
        Ok(Self {
            header,
            parameters: parameters(&config.x5u, ppt),
            key,
            warnings: preflight(&leaf, &config)?,
            leaf,
            not_before,
            not_after,
            attestation: config.attestation,
            profile: config.profile,
            dial_plan: config.dial_plan,
            identity_source: config.identity_source,
            date_tolerance: config.date_tolerance,
        })
    }

    /// What was remarked while it was made.
    pub fn warnings(&self) -> &[SignerWarning] {
        &self.warnings
    }

    /// The signer's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.leaf
    }

    /// `attest` of its tokens; `None` for plain PASSporTs.
    pub fn attestation(&self) -> Option<Attestation> {
        self.attestation
    }

    /// UNIX seconds after which it no longer signs.
    pub fn not_after(&self) -> i64 {
        self.not_after.saturating_sub(MIN_VALIDITY)
    }

    /// Appends the Identity line for this request, and before it a Date line when the request has none (I-5). `unix` is the present
    /// time in UNIX seconds; `origid` is random (RFC 8588 section 5) and only used with SHAKEN. Nothing is appended on error.
    ///
    /// # Errors
    /// [`SignError`]: then the request is to be forwarded without, or refused, by local policy (I-3).
    pub fn sign(
        &self,
        unix: i64,
        request: Message<'_>,
        origid: [u8; 16],
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        self.sign_believing(true, unix, request, origid, lines)
    }

    /// The same for a request whose P-Asserted-Identity is believed or not: then the caller is From, whatever the configuration
    /// says (RFC 3325 5: an identity that no trusted element asserted counts for nothing).
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign_believing(
        &self,
        is_asserted: bool,
        unix: i64,
        request: Message<'_>,
        origid: [u8; 16],
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        self.check_validity(unix)?;
        let source = if is_asserted { self.identity_source } else { IdentitySource::From };
        let signalling = Signalling::of(request, source, &self.dial_plan);
        let iat = match (request.field(Name::Date), signalling.date) {
            (None, _) => unix,
            (Some(_), None) => return Err(SignError::BadDate),
            (Some(_), Some(date)) => date,
        };
        let age = unix.saturating_sub(iat);
        if age.saturating_abs() > self.date_tolerance {
            return Err(SignError::StaleDate { age });
        }
        let caller = signalling.caller().ok_or(SignError::NoOriginator)?;
        let callee = signalling.callee().ok_or(SignError::NoDestination)?;
        self.check_authority(caller)?;
        let origid = shaken::origid(origid);
        let mut claims = Claims::baseline(caller.as_identity(), Destinations::one(callee.as_identity()), iat);
        if let Some(attestation) = self.attestation {
            claims.attest = Some(attestation.letter().into());
            claims.origid = Some(origid.as_str().into());
        }
        let keys = media_keys(request);
        claims.mky = (!keys.is_empty()).then_some(keys);

        let start = lines.len();
        if request.field(Name::Date).is_none() {
            lines.extend_from_slice(b"Date: ");
            date::write(u64::try_from(iat).unwrap_or(0), lines);
            lines.extend_from_slice(b"\r\n");
        }
        lines.extend_from_slice(b"Identity: ");
        if let Err(error) = self.write_token(&claims, lines) {
            lines.truncate(start);
            return Err(error);
        }
        lines.extend_from_slice(&self.parameters);
        Ok(())
    }

    /// Appends a whole token with these claims, after checking them against the certificate's constraints. Neither time nor authority
    /// over `orig` is asked about.
    ///
    /// # Errors
    /// [`SignError::Constraint`], [`SignError::Signature`].
    pub fn write_token(&self, claims: &Claims<'_>, out: &mut Vec<u8>) -> Result<(), SignError> {
        if let Some(Ok(constraints)) = self.leaf.claim_constraints() {
            constraints.check(&claims.to_map()).map_err(SignError::Constraint)?;
        }
        let start = out.len();
        out.extend_from_slice(&self.header);
        // The payload's JSON stands at the end of the output for a moment, is encoded behind itself, and taken out.
        let json = out.len();
        serialize::write_claims(claims, out);
        let encoded = out.len();
        jws::encode_within(out, json..encoded);
        out.drain(json..encoded);
        // aws-lc-rs draws the nonce itself; the generator of the interface is not used.
        let signature = self.key.sign(&SystemRandom::new(), &out[start..]).map_err(|_| SignError::Signature)?;
        out.push(b'.');
        jws::encode(signature.as_ref(), out);
        Ok(())
    }

    /// Appends ` ;info=<...>` and so on, as they follow a token of this signer in an Identity field, without line end.
    pub fn write_parameters(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.parameters.strip_suffix(b"\r\n").unwrap_or(&self.parameters));
    }

    fn check_validity(&self, unix: i64) -> Result<(), SignError> {
        if unix < self.not_before {
            return Err(SignError::NotYetValid { not_before: self.not_before });
        }
        if unix > self.not_after() {
            return Err(SignError::Expired { not_after: self.not_after });
        }
        Ok(())
    }

    /// I-1, I-3, R20: the certificate speaks for the originator, as a verifier will ask.
    fn check_authority(&self, caller: &CanonicalIdentity) -> Result<(), SignError> {
        let number = match caller.as_identity() {
            Identity::Tn(number) => number,
            Identity::Uri(_) if self.profile == Profile::Vesper => return Err(SignError::NotTelephoneNumber),
            Identity::Uri(uri) => {
                let host = uri.rsplit_once('@').map_or(&*uri, |(_, host)| host);
                let named = self.leaf.dns_names().iter().any(|name| super::url::same_host(host, name));
                return if named { Ok(()) } else { Err(SignError::NotAuthorized) };
            }
        };
        let Some(Ok(list)) = self.leaf.tn_auth_list() else { return Err(SignError::NotAuthorized) };
        let by_provider = self.profile == Profile::Shaken && list.spcs().next().is_some();
        if by_provider || list.covers(&number) { Ok(()) } else { Err(SignError::NotAuthorized) }
    }
}

impl fmt::Debug for Signer {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("subject", &self.leaf.subject())
            .field("profile", &self.profile)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// `;info=<...>;alg=ES256;ppt="shaken"` and the line end.
fn parameters(x5u: &str, ppt: Ppt) -> Vec<u8> {
    let ppt = ppt.name().map(|name| format!(";ppt=\"{name}\"")).unwrap_or_default();
    format!(";info=<{x5u}>;alg=ES256{ppt}\r\n").into_bytes()
}

fn read_key(key: &[u8]) -> Result<EcdsaKeyPair, SignerError> {
    let der = match PrivateKeyDer::from_pem_slice(key) {
        Ok(der) => der.secret_der().to_vec(),
        Err(_) => key.to_vec(),
    };
    EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).map_err(|_| SignerError::Key)
}

fn preflight(leaf: &Certificate, config: &SignerConfig) -> Result<Vec<SignerWarning>, SignerError> {
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
