//! A certificate authority of the STI: builds, records in a log, compares, and only then hands out.

use std::fmt;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rcgen::{CertificateParams, CustomExtension, Issuer, KeyIdMethod, KeyPair, PublicKeyData, SerialNumber};

use super::log::{LogError, TransparencyLog};
use crate::cert::lint::{Finding, Level, Profile, lint};
use crate::cert::sct::tbs_without;
use crate::cert::{
    Certificate, CertificateError, ClaimConstraintsError, Encompassed, ScopeExcess, SctList, SctListError, TbsError,
    TnAuthList, TnAuthListError, der, oid,
};

pub mod profile;

use profile::{AuthorityProfile, DelegateProfile, ShakenProfile, TlsProfile};

/// Why an authority does not issue.
#[derive(Debug)]
pub enum IssueError {
    /// A delegate certificate without a number (R12).
    NoNumber,
    /// A lifetime outside [`profile::MIN_LIFETIME`] to [`profile::MAX_LIFETIME`] (R5).
    Lifetime {
        /// As asked for.
        seconds: i64,
    },
    /// Not a host name of lower-case A-labels (R14).
    DnsName {
        /// As asked for.
        name: String,
    },
    /// Constraints that demand and exclude the same claim (RFC 9118 section 8).
    ContradictoryClaim {
        /// The claim.
        claim: String,
    },
    /// The TNAuthList asked for is malformed.
    TnAuthList(TnAuthListError),
    /// The claim constraints asked for are malformed.
    ClaimConstraints(ClaimConstraintsError),
    /// The authority's own TNAuthList does not hold an entry (RFC 9060 section 4.1).
    OutsideScope(ScopeExcess),
    /// The authority's own TNAuthList holds a number through a service provider code only, which proves nothing to a verifier.
    UnprovenScope,
    /// The certificate would end after its issuer.
    OutlivesIssuer {
        /// The issuer's notAfter, Unix seconds.
        not_after: i64,
    },
    /// A date that X.509 can not express.
    Date {
        /// Unix seconds.
        unix: i64,
    },
    /// A name or key that can not be encoded.
    Encoding(rcgen::Error),
    /// The system gives no random octets.
    Random,
    /// A delegate certificate is to be recorded, and no log is there to do so (R10).
    NoLog,
    /// A log refuses.
    Log(LogError),
    /// The log's SCTs do not fit an extension.
    SctList(SctListError),
    /// A TBSCertificate can not be rebuilt.
    Tbs(TbsError),
    /// Precertificate and certificate differ in more than poison and SCT list.
    TbsDiffers,
    /// The certificate would break its profile; nothing was signed with the authority's key.
    Lint(Finding),
    /// What was made can not be read again.
    Unreadable(CertificateError),
}

impl fmt::Display for IssueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNumber => f.write_str("a delegate certificate needs at least one telephone number"),
            Self::Lifetime { seconds } => write!(f, "a lifetime of {seconds} s is not between 1 hour and 7 days"),
            Self::DnsName { name } => write!(f, "{name:?} is not a host name in lower case"),
            Self::ContradictoryClaim { claim } => write!(f, "the claim {claim} is both demanded and excluded"),
            Self::TnAuthList(error) => error.fmt(f),
            Self::ClaimConstraints(error) => error.fmt(f),
            Self::OutsideScope(excess) => write!(f, "the authority may not certify {}", excess.entry),
            Self::UnprovenScope => f.write_str("the authority's own list does not name all of the numbers"),
            Self::OutlivesIssuer { not_after } => write!(f, "the issuer's certificate ends before, at {not_after}"),
            Self::Date { unix } => write!(f, "no certificate can express the time {unix}"),
            Self::Encoding(error) => error.fmt(f),
            Self::Random => f.write_str("the system gives no random octets"),
            Self::NoLog => f.write_str("no transparency log to record the certificate in"),
            Self::Log(error) => error.fmt(f),
            Self::SctList(error) => error.fmt(f),
            Self::Tbs(error) => error.fmt(f),
            Self::TbsDiffers => f.write_str("precertificate and certificate differ in more than poison and SCT list"),
            Self::Lint(finding) => write!(f, "the certificate would break its profile: {}", finding.sentence),
            Self::Unreadable(error) => write!(f, "what was issued can not be read again: {error}"),
        }
    }
}

impl std::error::Error for IssueError {}

/// Whether an issued delegate certificate is recorded.
#[derive(Clone, Copy, Debug)]
pub enum Transparency<'a> {
    /// In each of these logs, whose SCTs are embedded (R10); at least one.
    Embed(&'a [&'a TransparencyLog]),
    /// In none. Verifiers must refuse the certificate, which is the only use of it.
    Omit,
}

/// An authority: its certificate and key.
pub struct Authority {
    certificate: Certificate,
    params: CertificateParams,
    key: KeyPair,
    spki: Vec<u8>,
}

/// What a certificate is held against before the authority's key touches it.
#[derive(Clone, Copy)]
enum Draft<'a> {
    /// An STI certificate with this scope.
    Sti(Profile, Option<&'a TnAuthList>),
    /// A certificate of the web.
    Web,
}

/// The lint rule that only a finished certificate can satisfy: the logs sign last.
const RULE_FOR_FINISHED: &str = "vesper_scts";

impl Authority {
    /// A trust anchor under a new P-256 key.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn root(profile: &AuthorityProfile) -> Result<Self, IssueError> {
        let key = KeyPair::generate().map_err(IssueError::Encoding)?;
        let params = identified(profile.params()?, &key)?;
        let der = params.self_signed(&key).map_err(IssueError::Encoding)?;
        Self::new(der.der(), params, key)
    }

    /// An authority below this one, under a new P-256 key.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn subordinate(&self, profile: &AuthorityProfile) -> Result<Self, IssueError> {
        let key = KeyPair::generate().map_err(IssueError::Encoding)?;
        let params = identified(profile.params()?, &key)?;
        let draft =
            if profile.shaken.is_some() { Draft::Sti(Profile::Shaken, profile.scope.as_ref()) } else { Draft::Web };
        let der = self.sign(&params, draft, &key)?;
        Self::new(&der, params, key)
    }

    fn new(der: &[u8], params: CertificateParams, key: KeyPair) -> Result<Self, IssueError> {
        let certificate = Certificate::from_der(der).map_err(IssueError::Unreadable)?;
        let spki = key.subject_public_key_info();
        Ok(Self { certificate, params, key, spki })
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The authority's key, to be stored.
    #[must_use]
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// Issues a VESPER delegate certificate for `key` at `now` (Unix seconds): DER.
    ///
    /// A precertificate goes to each log first; the certificate has the SCTs in the poison's place and is compared with what the logs
    /// signed, on the octets, before it is handed out.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_delegate(
        &self,
        profile: &DelegateProfile,
        key: &impl PublicKeyData,
        now: i64,
        transparency: Transparency<'_>,
    ) -> Result<Vec<u8>, IssueError> {
        let mut params = identified(profile.params(now)?, key)?;
        self.admit(&params, Draft::Sti(Profile::Vesper, Some(&profile.scope)), key)?;
        let logs = match transparency {
            Transparency::Omit => return self.encode(&params, key, &self.key),
            Transparency::Embed([]) => return Err(IssueError::NoLog),
            Transparency::Embed(logs) => logs,
        };
        params.custom_extensions.push(poison());
        let precertificate = self.encode(&params, key, &self.key)?;

        let timestamp = u64::try_from(now).map_err(|_| IssueError::Date { unix: now })?.saturating_mul(1000);
        let scts: Result<Vec<_>, _> =
            logs.iter().map(|log| log.add_precertificate(&precertificate, &self.spki, timestamp)).collect();
        let list = SctList::to_extension(&scts.map_err(IssueError::Log)?).map_err(IssueError::SctList)?;
        params.custom_extensions.pop();
        params.custom_extensions.push(profile::extension(&oid::SCT_LIST, list));
        let certificate = self.encode(&params, key, &self.key)?;
        check_correspondence(&precertificate, &certificate)?;
        Ok(certificate)
    }

    /// Issues a SHAKEN end-entity certificate for `key` at `now` (Unix seconds): DER.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_shaken(
        &self,
        profile: &ShakenProfile,
        key: &impl PublicKeyData,
        now: i64,
    ) -> Result<Vec<u8>, IssueError> {
        let scope = profile.scope()?;
        self.sign(&identified(profile.params(now)?, key)?, Draft::Sti(Profile::Shaken, Some(&scope)), key)
    }

    /// Issues a TLS certificate for `key` at `now` (Unix seconds): DER.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_tls(&self, profile: &TlsProfile, key: &impl PublicKeyData, now: i64) -> Result<Vec<u8>, IssueError> {
        self.sign(&identified(profile.params(now)?, key)?, Draft::Web, key)
    }

    /// Signs what [`admit`](Self::admit) lets pass.
    fn sign(
        &self,
        params: &CertificateParams,
        draft: Draft<'_>,
        key: &impl PublicKeyData,
    ) -> Result<Vec<u8>, IssueError> {
        self.admit(params, draft, key)?;
        self.encode(params, key, &self.key)
    }

    /// Refuses what this authority may not certify, and what breaks its profile.
    fn admit(&self, params: &CertificateParams, draft: Draft<'_>, key: &impl PublicKeyData) -> Result<(), IssueError> {
        let not_after = self.certificate.not_after();
        if params.not_after.unix_timestamp() > not_after {
            return Err(IssueError::OutlivesIssuer { not_after });
        }
        if let Draft::Sti(profile, scope) = draft {
            if let (Some(Ok(own)), Some(scope)) = (self.certificate.tn_auth_list(), scope)
                && own.encompasses(scope).map_err(IssueError::OutsideScope)? != Encompassed::Proven
            {
                return Err(IssueError::UnprovenScope);
            }
            self.lint_draft(params, profile, key)?;
        }
        Ok(())
    }

    /// Lints the certificate under a key of no meaning: what breaks its profile never carries the authority's signature.
    fn lint_draft(
        &self,
        params: &CertificateParams,
        profile: Profile,
        key: &impl PublicKeyData,
    ) -> Result<(), IssueError> {
        let throwaway = KeyPair::generate().map_err(IssueError::Encoding)?;
        let draft = Certificate::from_der(&self.encode(params, key, &throwaway)?).map_err(IssueError::Unreadable)?;
        let broken = |finding: &Finding| finding.level == Level::Error && finding.id != RULE_FOR_FINISHED;
        match lint(&draft, profile).into_iter().find(broken) {
            Some(finding) => Err(IssueError::Lint(finding)),
            None => Ok(()),
        }
    }

    fn encode(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
        signing_key: &KeyPair,
    ) -> Result<Vec<u8>, IssueError> {
        let issuer = Issuer::from_params(&self.params, signing_key);
        Ok(params.signed_by(key, &issuer).map_err(IssueError::Encoding)?.der().to_vec())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("subject", &self.certificate.subject()).finish_non_exhaustive()
    }
}

/// Refuses a certificate whose TBSCertificate is not the precertificate's, apart from poison and SCT list: no log recorded it then.
///
/// # Errors
/// [`IssueError::Tbs`], [`IssueError::TbsDiffers`].
pub fn check_correspondence(precertificate: &[u8], certificate: &[u8]) -> Result<(), IssueError> {
    let recorded = tbs_without(precertificate, &oid::PRECERTIFICATE_POISON).map_err(IssueError::Tbs)?;
    let issued = tbs_without(certificate, &oid::SCT_LIST).map_err(IssueError::Tbs)?;
    if recorded == issued { Ok(()) } else { Err(IssueError::TbsDiffers) }
}

/// RFC 6962 section 3.1: critical, ASN.1 NULL.
fn poison() -> CustomExtension {
    let mut poison = profile::extension(&oid::PRECERTIFICATE_POISON, vec![der::NULL, 0]);
    poison.set_criticality(true);
    poison
}

/// Gives the certificate a serial number of 126 random bits and the key's identifier, SHA-1 of the key (RFC 5280 section 4.2.1.2).
fn identified(mut params: CertificateParams, key: &impl PublicKeyData) -> Result<CertificateParams, IssueError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| IssueError::Random)?;
    // Positive, and always of 16 octets.
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let identifier = digest(&SHA1_FOR_LEGACY_USE_ONLY, key.der_bytes());
    params.key_identifier_method = KeyIdMethod::PreSpecified(identifier.as_ref().to_vec());
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use profile::Name;

    const NOW: i64 = 1_795_132_800;

    #[test]
    fn habit_13_a_certificate_that_no_log_recorded_is_not_handed_out() {
        let name = |text: &str| text.to_owned();
        let subject =
            Name { country: name("US"), organization: name("Test"), common_name: name("Test"), serial_number: None };
        let root = Authority::root(&AuthorityProfile {
            subject,
            scope: None,
            path_length: 0,
            not_before: NOW,
            not_after: NOW + 86_400,
            shaken: None,
        })
        .unwrap();
        let key = KeyPair::generate().unwrap();
        let params = |dns_name: &str| {
            let profile = TlsProfile { dns_name: name(dns_name), lifetime: 3600 };
            let mut params = identified(profile.params(NOW).unwrap(), &key).unwrap();
            params.serial_number = Some(SerialNumber::from_slice(&[0x40; 16]));
            params
        };
        let with = |mut params: CertificateParams, extension| {
            params.custom_extensions.push(extension);
            root.encode(&params, &key, &root.key).unwrap()
        };
        let scts = || profile::extension(&oid::SCT_LIST, vec![der::OCTET_STRING, 0]);
        let precertificate = with(params("a.example"), poison());
        let certificate = with(params("a.example"), scts());
        check_correspondence(&precertificate, &certificate).unwrap();
        let other = with(params("b.example"), scts());
        assert!(matches!(check_correspondence(&precertificate, &other), Err(IssueError::TbsDiffers)));
        assert!(matches!(check_correspondence(&certificate, &certificate), Err(IssueError::Tbs(TbsError::Absent))));
    }
}
