//! A certificate and everything read out of it, once.

use std::fmt;

use x509_parser::{
    asn1_rs::FromDer,
    certificate::X509Certificate,
    extensions::{CRLDistributionPoint, DistributionPointName, GeneralName, ParsedExtension, X509Extension},
};

use super::claim_constraints::{ClaimConstraints, ClaimConstraintsError, ConstraintKind, is_baseline_claim};
use super::crl::CrlPoint;
use super::der::{self, DerError, Reader};
use super::name::canonical;
use super::name_constraints::NameConstraints;
use super::oid;
use super::sct::{SctList, SctListError};
use super::tn_auth_list::{TnAuthList, TnAuthListError};
use frame::{Frame, KeyKind, first_text, key_kind};

mod frame;

/// Extensions a path may carry as critical: what `path` processes, and certificatePolicies, which means nothing to a verifier that
/// sets no initial policy (RFC 5280 section 6.1.1 (c)); a seventh of the deployed STI leaves mark it critical.
const PROCESSED: [&[u8]; 7] = [
    &[0x55, 0x1d, 0x0f],
    &[0x55, 0x1d, 0x11],
    &[0x55, 0x1d, 0x13],
    &[0x55, 0x1d, 0x1e],
    &[0x55, 0x1d, 0x20],
    &[0x55, 0x1d, 0x25],
    oid::TN_AUTH_LIST.der,
];

/// Why a certificate, or a chain's leaf, cannot be used at all.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateError {
    /// The outer structure is not DER.
    Der(DerError),
    /// A field cannot be read.
    Field(X509Fault),
    /// The chain holds no certificate.
    EmptyChain,
    /// The chain holds more certificates than allowed.
    TooManyCertificates {
        /// How many there are.
        count: usize,
    },
    /// A certificate of the chain, or all of them together, exceed the size allowed.
    TooLarge {
        /// Octets of DER.
        octets: usize,
    },
    /// The leaf's key is not an uncompressed P-256 point, so nothing can be ES256 signed with it (RFC 8226 section 4).
    NotEs256 {
        /// What it is.
        key: String,
    },
    /// The leaf is a precertificate.
    Precertificate,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Der(error) => write!(f, "not a certificate: {error}"),
            Self::Field(fault) => write!(f, "not a certificate: {fault}"),
            Self::EmptyChain => f.write_str("no certificate"),
            Self::TooManyCertificates { count } => write!(f, "{count} certificates in a chain"),
            Self::TooLarge { octets } => write!(f, "{octets} octets of certificates"),
            Self::NotEs256 { key } => write!(f, "a {key} key cannot sign ES256"),
            Self::Precertificate => f.write_str("a precertificate, not a certificate"),
        }
    }
}

impl std::error::Error for CertificateError {}

impl From<DerError> for CertificateError {
    fn from(error: DerError) -> Self {
        Self::Der(error)
    }
}

/// Which part of RFC 5280's Certificate is unreadable.
#[derive(Clone, Debug, PartialEq)]
pub struct X509Fault(x509_parser::error::X509Error);

impl fmt::Display for X509Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The standard extensions path validation asks about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extensions {
    pub(crate) basic_constraints: Option<(bool, Option<u32>)>,
    /// `(digitalSignature, keyCertSign)`.
    pub(crate) key_usage: Option<(bool, bool)>,
    pub(crate) subject_key_id: Option<Box<[u8]>>,
    pub(crate) authority_key_id: Option<Box<[u8]>>,
    pub(crate) policies: Vec<String>,
    pub(crate) name_constraints: Option<NameConstraints>,
    pub(crate) no_rev_avail: bool,
    /// keyUsage with cRLSign; `None` without keyUsage.
    pub(crate) crl_sign: Option<bool>,
    /// CRL distribution points that name a URI.
    pub(crate) crl_points: Vec<CrlPoint>,
    /// CRL distribution points, freshest CRL, or an OCSP responder.
    pub(crate) status_pointer: bool,
    pub(crate) poison: bool,
    /// First critical extension nobody here processes, dotted.
    pub(crate) unknown_critical: Option<String>,
    /// First extension that occurs twice, dotted.
    pub(crate) repeated: Option<String>,
    /// First standard extension whose contents cannot be read, dotted.
    pub(crate) malformed: Option<String>,
}

/// A certificate: its DER, and everything read out of it. Reading is lenient, so that defective certificates can be shown and linted;
/// what a path may not contain is judged by [`TrustStore::assess`](super::TrustStore::assess).
#[derive(Clone, Debug)]
pub struct Certificate {
    der: Box<[u8]>,
    version: u32,
    serial: Box<[u8]>,
    subject: String,
    issuer: String,
    organization: Option<String>,
    common_name: Option<String>,
    pub(crate) subject_raw: Box<[u8]>,
    pub(crate) issuer_raw: Box<[u8]>,
    not_before: i64,
    not_after: i64,
    spki: Box<[u8]>,
    /// Contents of the key's AlgorithmIdentifier.
    pub(crate) key_algorithm: Box<[u8]>,
    pub(crate) public_key: Box<[u8]>,
    key: KeyKind,
    /// Contents of the AlgorithmIdentifier inside the TBSCertificate.
    pub(crate) inner_algorithm: Box<[u8]>,
    /// Contents of the AlgorithmIdentifier beside the signature.
    pub(crate) outer_algorithm: Box<[u8]>,
    pub(crate) signature: Box<[u8]>,
    pub(crate) extensions: Extensions,
    dns_names: Vec<String>,
    tn_auth_list: Option<Result<TnAuthList, TnAuthListError>>,
    tn_auth_list_uris: Vec<String>,
    claim_constraints: Option<Result<ClaimConstraints, ClaimConstraintsError>>,
    scts: Option<Result<SctList, SctListError>>,
}

impl Certificate {
    /// Reads one DER certificate.
    ///
    /// # Errors
    /// When the structure of RFC 5280 section 4.1 is not there, or octets follow it. Faults inside extensions are not errors here.
    pub fn from_der(input: &[u8]) -> Result<Self, CertificateError> {
        let frame = Frame::read(input)?;
        let (_, parsed) = X509Certificate::from_der(input).map_err(|error| {
            CertificateError::Field(X509Fault(match error {
                x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => error,
                x509_parser::nom::Err::Incomplete(_) => x509_parser::error::X509Error::InvalidCertificate,
            }))
        })?;
        let spki = parsed.public_key();
        let mut certificate = Self {
            der: input.into(),
            version: parsed.version().0.saturating_add(1),
            serial: parsed.raw_serial().into(),
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            organization: first_text(parsed.subject().iter_organization()),
            common_name: first_text(parsed.subject().iter_common_name()),
            subject_raw: parsed.subject().as_raw().into(),
            issuer_raw: parsed.issuer().as_raw().into(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            spki: spki.raw.into(),
            key_algorithm: frame.key_algorithm.into(),
            public_key: spki.subject_public_key.data.as_ref().into(),
            key: key_kind(frame.key_algorithm, &spki.parsed()),
            inner_algorithm: frame.inner_algorithm.into(),
            outer_algorithm: frame.outer_algorithm.into(),
            signature: frame.signature.into(),
            extensions: Extensions::default(),
            dns_names: Vec::new(),
            tn_auth_list: None,
            tn_auth_list_uris: Vec::new(),
            claim_constraints: None,
            scts: None,
        };
        let mut seen: Vec<&[u8]> = Vec::new();
        for extension in parsed.extensions() {
            let id = extension.oid.as_bytes();
            let repeated = seen.contains(&id);
            seen.push(id);
            certificate.remember(extension, repeated);
        }
        Ok(certificate)
    }

    fn remember(&mut self, extension: &X509Extension<'_>, repeated: bool) {
        let id = extension.oid.as_bytes();
        if repeated {
            self.extensions.repeated.get_or_insert_with(|| oid::dotted(id));
        }
        if id == oid::TN_AUTH_LIST.der {
            let list = if repeated { Err(TnAuthListError::Repeated) } else { TnAuthList::from_der(extension.value) };
            self.tn_auth_list = Some(list);
        } else if id == oid::JWT_CLAIM_CONSTRAINTS.der {
            self.remember_constraints(ConstraintKind::Basic, extension.value, repeated);
        } else if id == oid::ENHANCED_JWT_CLAIM_CONSTRAINTS.der {
            self.remember_constraints(ConstraintKind::Enhanced, extension.value, repeated);
        } else if id == oid::SCT_LIST.der {
            let list = if repeated { Err(SctListError::Repeated) } else { SctList::from_extension(extension.value) };
            self.scts = Some(list);
        } else if id == oid::PRECERTIFICATE_POISON.der {
            self.extensions.poison = true;
        } else if id == oid::NO_REV_AVAIL.der {
            self.extensions.no_rev_avail = true;
        } else if id == oid::FRESHEST_CRL.der {
            self.extensions.status_pointer = true;
        } else {
            self.remember_standard(extension);
        }
        if extension.critical && !PROCESSED.contains(&id) {
            self.extensions.unknown_critical.get_or_insert_with(|| oid::dotted(id));
        }
    }

    fn remember_constraints(&mut self, kind: ConstraintKind, value: &[u8], repeated: bool) {
        self.claim_constraints = Some(match &self.claim_constraints {
            None => ClaimConstraints::from_der(kind, value),
            Some(_) if repeated => Err(ClaimConstraintsError::Repeated),
            Some(_) => Err(ClaimConstraintsError::BothKinds),
        });
    }

    fn remember_standard(&mut self, extension: &X509Extension<'_>) {
        let facts = &mut self.extensions;
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(basic) => {
                facts.basic_constraints = Some((basic.ca, basic.path_len_constraint));
            }
            ParsedExtension::KeyUsage(usage) => {
                facts.key_usage = Some((usage.digital_signature(), usage.key_cert_sign()));
                facts.crl_sign = Some(usage.crl_sign());
            }
            ParsedExtension::SubjectKeyIdentifier(id) => facts.subject_key_id = Some(id.0.into()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                facts.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.into());
            }
            ParsedExtension::CertificatePolicies(policies) => {
                facts.policies = policies.iter().map(|policy| oid::dotted(policy.policy_id.as_bytes())).collect();
            }
            ParsedExtension::CRLDistributionPoints(points) => {
                facts.status_pointer = true;
                facts.crl_points = points.iter().filter_map(crl_point).collect();
            }
            ParsedExtension::AuthorityInfoAccess(access) => {
                for description in access.iter() {
                    let method = description.access_method.as_bytes();
                    facts.status_pointer |= method == oid::AD_OCSP.der;
                    if let (true, GeneralName::URI(uri)) =
                        (method == oid::STIR_TN_LIST.der, &description.access_location)
                    {
                        self.tn_auth_list_uris.push((*uri).to_owned());
                    }
                }
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
                        GeneralName::Invalid(..) => {
                            facts.malformed.get_or_insert_with(|| oid::dotted(extension.oid.as_bytes()));
                        }
                        _ => {}
                    }
                }
            }
            ParsedExtension::NameConstraints(_) => match NameConstraints::from_der(extension.value) {
                Ok(constraints) => facts.name_constraints = Some(constraints),
                Err(_) => {
                    facts.malformed.get_or_insert_with(|| oid::dotted(extension.oid.as_bytes()));
                }
            },
            ParsedExtension::ParseError { .. } => {
                facts.malformed.get_or_insert_with(|| oid::dotted(extension.oid.as_bytes()));
            }
            _ => {}
        }
    }

    /// The DER it was read from.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// X.509 version: 1, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The subject's distinguished name, for people.
    #[must_use]
    pub fn subject(&self) -> String {
        self.subject.clone()
    }

    /// The issuer's distinguished name, for people.
    #[must_use]
    pub fn issuer(&self) -> String {
        self.issuer.clone()
    }

    /// The serial number's contents octets in lower-case hexadecimal digits.
    #[must_use]
    pub fn serial_hex(&self) -> String {
        super::hex(&self.serial)
    }

    /// First organizationName of the subject (R15).
    #[must_use]
    pub fn subject_organization(&self) -> Option<&str> {
        self.organization.as_deref()
    }

    /// First commonName of the subject.
    #[must_use]
    pub fn subject_common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// First second of validity, Unix seconds.
    #[must_use]
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Last second of validity, Unix seconds.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// `P-256`, `P-384`, `P-521`, `RSA-2048`, or the key algorithm's identifier.
    #[must_use]
    pub fn key_description(&self) -> String {
        match self.key {
            KeyKind::P256 => "P-256".to_owned(),
            KeyKind::P384 => "P-384".to_owned(),
            KeyKind::P521 => "P-521".to_owned(),
            KeyKind::Rsa { bits } => format!("RSA-{bits}"),
            KeyKind::Other => Reader::new(&self.key_algorithm)
                .contents(der::OBJECT_IDENTIFIER)
                .map_or_else(|_| super::hex(&self.key_algorithm), oid::dotted),
        }
    }

    /// The 65-octet uncompressed point of a P-256 key.
    #[must_use]
    pub fn es256_point(&self) -> Option<&[u8]> {
        (self.key == KeyKind::P256 && self.public_key.len() == 65 && self.public_key[0] == 4)
            .then_some(&*self.public_key)
    }

    /// Size of an RSA modulus in bits; `None` for other keys.
    #[must_use]
    pub fn rsa_bits(&self) -> Option<usize> {
        match self.key {
            KeyKind::Rsa { bits } => Some(bits),
            _ => None,
        }
    }

    /// basicConstraints with cA TRUE.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        matches!(self.extensions.basic_constraints, Some((true, _)))
    }

    /// Holds the poison extension: a precertificate (RFC 6962 section 3.1).
    #[must_use]
    pub fn is_precertificate(&self) -> bool {
        self.extensions.poison
    }

    /// The TNAuthList: absent, readable, or malformed.
    #[must_use]
    pub fn tn_auth_list(&self) -> Option<Result<&TnAuthList, &TnAuthListError>> {
        self.tn_auth_list.as_ref().map(Result::as_ref)
    }

    /// Where TNAuthLists by reference are (RFC 8226 section 10.1). They are never fetched here: an unfetched list gives no authority.
    #[must_use]
    pub fn tn_auth_list_uris(&self) -> &[String] {
        &self.tn_auth_list_uris
    }

    /// The claim constraints: absent, readable, or an error that must reject the certificate (437), among them both extensions
    /// together (RFC 9118 section 6).
    #[must_use]
    pub fn claim_constraints(&self) -> Option<Result<&ClaimConstraints, &ClaimConstraintsError>> {
        self.claim_constraints.as_ref().map(Result::as_ref)
    }

    /// Whether the holder may assert a claim under VESPER (R13): baseline claims, and what the constraints name.
    #[must_use]
    pub fn authorizes_claim(&self, name: &str) -> bool {
        match &self.claim_constraints {
            Some(Ok(constraints)) => constraints.authorizes(name),
            Some(Err(_)) | None => is_baseline_claim(name),
        }
    }

    /// dNSNames of subjectAltName, as they are.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Whether `host` is exactly one of the dNSNames (R26): case and a trailing dot aside, and a wildcard never matches. `host` comes from
    /// a URL parser, in A-label form and without port.
    #[must_use]
    pub fn names_host(&self, host: &str) -> bool {
        fn absolute(name: &str) -> &str {
            name.strip_suffix('.').unwrap_or(name)
        }
        let same = |name: &String| !name.contains('*') && absolute(name).eq_ignore_ascii_case(absolute(host));
        !absolute(host).is_empty() && self.dns_names.iter().any(same)
    }

    /// The embedded SCTs: absent, readable, or malformed.
    #[must_use]
    pub fn scts(&self) -> Option<Result<&SctList, &SctListError>> {
        self.scts.as_ref().map(Result::as_ref)
    }

    /// The octets the issuer signed.
    pub(crate) fn tbs(&self) -> &[u8] {
        // The frame was read from these octets before.
        Frame::read(&self.der).map_or(&[], |frame| frame.tbs)
    }

    /// The serial number's contents octets.
    pub(crate) fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Its key may sign CRLs: keyUsage says so, or says nothing.
    pub(crate) fn may_sign_crls(&self) -> bool {
        self.extensions.crl_sign.unwrap_or(true)
    }

    /// Takes a list that it names by reference for its own (RFC 9060 section 6: as if by value).
    pub(crate) fn adopt_tn_auth_list(&mut self, list: TnAuthList) {
        self.tn_auth_list = Some(Ok(list));
    }

    /// Subject and issuer are the same name.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.subject_raw == self.issuer_raw
    }
}

/// A distribution point with URIs; one that names its CRL otherwise can not be fetched from.
fn crl_point(point: &CRLDistributionPoint<'_>) -> Option<CrlPoint> {
    let Some(DistributionPointName::FullName(names)) = &point.distribution_point else { return None };
    let uris: Vec<String> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .collect();
    let crl_issuer = point.crl_issuer.iter().flatten().find_map(|name| match name {
        GeneralName::DirectoryName(name) => Some(canonical(name.as_raw())),
        _ => None,
    });
    (!uris.is_empty()).then_some(CrlPoint { uris, crl_issuer })
}
