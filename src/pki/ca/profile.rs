//! What an authority may put into certificates: one type for each kind, and nothing that its profile does not name.

use rcgen::string::{Ia5String, PrintableString};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, KeyUsagePurpose, SanType,
};

use super::IssueError;
use crate::cert::{ClaimConstraints, ConstraintKind, TnAuthList, der, oid};

/// Shortest lifetime of a delegate certificate, seconds.
pub const MIN_LIFETIME: i64 = 3600;
/// Longest lifetime of a delegate certificate, seconds (R5).
pub const MAX_LIFETIME: i64 = 7 * 86_400;
/// Default lifetime of a delegate certificate, seconds (R9).
pub const DEFAULT_LIFETIME: i64 = 86_400;
/// How far notBefore lies before the time of issuing, seconds.
pub const BACKDATE: i64 = 300;

/// A subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// ISO 3166 alpha-2 code.
    pub country: String,
    /// Legal name.
    pub organization: String,
    /// Common name.
    pub common_name: String,
    /// serialNumber, which the US certificate policy asks of all SHAKEN subjects below the root.
    pub serial_number: Option<String>,
}

/// Last arcs of the attribute types below 2.5.4 (X.520).
const COMMON_NAME: u8 = 3;
const SERIAL_NUMBER: u8 = 5;
const COUNTRY: u8 = 6;
const ORGANIZATION: u8 = 10;

/// What SHAKEN certificates below the root point at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShakenPointers {
    /// The one certificate policy, dotted, as the contents octets of its OID.
    pub policy: &'static [u8],
    /// HTTP(S) URL of the indirect CRL.
    pub crl_url: String,
    /// Who issues that CRL.
    pub crl_issuer: Name,
}

/// An authority's own certificate.
#[derive(Clone, Debug)]
pub struct AuthorityProfile {
    /// Its subject.
    pub subject: Name,
    /// Limits the path below (RFC 9060 section 4.1).
    pub scope: Option<TnAuthList>,
    /// Authorities allowed below it.
    pub path_length: u8,
    /// notBefore, Unix seconds.
    pub not_before: i64,
    /// notAfter, Unix seconds.
    pub not_after: i64,
    /// For an authority of the STI below the root.
    pub shaken: Option<ShakenPointers>,
}

/// A VESPER delegate certificate.
#[derive(Clone, Debug)]
pub struct DelegateProfile {
    /// Legal name of the entity (R15).
    pub organization: String,
    /// The one dNSName (R14, B4).
    pub dns_name: String,
    /// The numbers, and the providers that may originate for them (R12).
    pub scope: TnAuthList,
    /// What claims beyond RFC 8225 the holder may make (R13).
    pub constraints: Option<ClaimConstraints>,
    /// Seconds from issuing to notAfter, [`MIN_LIFETIME`] to [`MAX_LIFETIME`].
    pub lifetime: i64,
}

/// A SHAKEN end-entity certificate: one service provider code, no SCT.
#[derive(Clone, Debug)]
pub struct ShakenProfile {
    /// ISO 3166 alpha-2 code.
    pub country: String,
    /// The provider.
    pub organization: String,
    /// Its code: digits and upper-case letters.
    pub service_provider_code: String,
    /// serialNumber of the subject.
    pub serial_number: String,
    /// Policy and CRL.
    pub pointers: ShakenPointers,
    /// Seconds from issuing to notAfter.
    pub lifetime: i64,
}

/// A TLS server and client certificate of a web authority.
#[derive(Clone, Debug)]
pub struct TlsProfile {
    /// The one dNSName.
    pub dns_name: String,
    /// Seconds from issuing to notAfter.
    pub lifetime: i64,
}

impl AuthorityProfile {
    pub(super) fn params(&self) -> Result<CertificateParams, IssueError> {
        let mut params = base(self.subject.distinguished()?, self.not_before, self.not_after)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(self.path_length));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if let Some(pointers) = &self.shaken {
            params.custom_extensions.extend(pointers.extensions());
        }
        params.custom_extensions.extend(self.scope.as_ref().map(tn_auth_list));
        Ok(params)
    }
}

impl DelegateProfile {
    /// Refuses what no verifier would accept, or no authority may certify.
    fn check(&self) -> Result<(), IssueError> {
        if !self.scope.has_tn_entry() {
            return Err(IssueError::NoNumber);
        }
        if !(MIN_LIFETIME..=MAX_LIFETIME).contains(&self.lifetime) {
            return Err(IssueError::Lifetime { seconds: self.lifetime });
        }
        let Some(constraints) = &self.constraints else { return Ok(()) };
        // RFC 9118 section 8: such a certificate could sign nothing.
        match constraints.must_include().iter().find(|claim| constraints.must_exclude().contains(claim)) {
            Some(claim) => Err(IssueError::ContradictoryClaim { claim: claim.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn params(&self, now: i64) -> Result<CertificateParams, IssueError> {
        self.check()?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, self.organization.as_str());
        let mut params = end_entity(subject, now, self.lifetime)?;
        params.subject_alt_names = vec![dns_name(&self.dns_name)?];
        params.custom_extensions.push(tn_auth_list(&self.scope));
        params.custom_extensions.extend(self.constraints.as_ref().map(claim_constraints));
        // RFC 9608: nobody asks for the status of a certificate that ends within days.
        params.custom_extensions.push(extension(&oid::NO_REV_AVAIL, vec![der::NULL, 0]));
        Ok(params)
    }
}

impl ShakenProfile {
    pub(super) fn scope(&self) -> Result<TnAuthList, IssueError> {
        TnAuthList::new(vec![crate::cert::TnEntry::Spc(self.service_provider_code.clone())])
            .map_err(IssueError::TnAuthList)
    }

    pub(super) fn params(&self, now: i64) -> Result<CertificateParams, IssueError> {
        let subject = Name {
            country: self.country.clone(),
            organization: self.organization.clone(),
            common_name: format!("SHAKEN {}", self.service_provider_code),
            serial_number: Some(self.serial_number.clone()),
        };
        let mut params = end_entity(subject.distinguished()?, now, self.lifetime)?;
        params.custom_extensions.extend(self.pointers.extensions());
        params.custom_extensions.push(tn_auth_list(&self.scope()?));
        Ok(params)
    }
}

impl TlsProfile {
    pub(super) fn params(&self, now: i64) -> Result<CertificateParams, IssueError> {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, self.dns_name.as_str());
        let mut params = end_entity(subject, now, self.lifetime)?;
        params.subject_alt_names = vec![dns_name(&self.dns_name)?];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params)
    }
}

impl Name {
    /// Type, whether it is a PrintableString (RFC 5280 Appendix A) and not a UTF8String, and value.
    fn attributes(&self) -> impl Iterator<Item = (u8, bool, &str)> {
        let serial_number = self.serial_number.iter().map(|number| (SERIAL_NUMBER, true, number.as_str()));
        [
            (COUNTRY, true, self.country.as_str()),
            (ORGANIZATION, false, self.organization.as_str()),
            (COMMON_NAME, false, self.common_name.as_str()),
        ]
        .into_iter()
        .chain(serial_number)
    }

    fn distinguished(&self) -> Result<DistinguishedName, IssueError> {
        let mut name = DistinguishedName::new();
        for (arc, is_printable, value) in self.attributes() {
            let value = if is_printable {
                DnValue::PrintableString(PrintableString::try_from(value).map_err(IssueError::Encoding)?)
            } else {
                DnValue::Utf8String(value.to_owned())
            };
            name.push(DnType::from_oid(&[2, 5, 4, u64::from(arc)]), value);
        }
        Ok(name)
    }

    /// The DER of the same name.
    fn to_der(&self) -> Vec<u8> {
        const PRINTABLE_STRING: u8 = 0x13;
        const SET: u8 = 0x31;
        let mut sequence = Vec::new();
        for (arc, is_printable, value) in self.attributes() {
            let mut content = der::element(der::OBJECT_IDENTIFIER, &[0x55, 0x04, arc]);
            let tag = if is_printable { PRINTABLE_STRING } else { der::UTF8_STRING };
            der::write(&mut content, tag, value.as_bytes());
            der::write(&mut sequence, SET, &der::element(der::SEQUENCE, &content));
        }
        der::element(der::SEQUENCE, &sequence)
    }
}

impl ShakenPointers {
    /// certificatePolicies with one policy, and CRLDistributionPoints with one point that names its cRLIssuer: rcgen writes neither.
    fn extensions(&self) -> [CustomExtension; 2] {
        const FULL_NAME_URI: u8 = 0x86;
        let policy = der::element(der::SEQUENCE, &der::element(der::OBJECT_IDENTIFIER, self.policy));
        let policies = der::element(der::SEQUENCE, &policy);
        let uri = der::element(FULL_NAME_URI, self.crl_url.as_bytes());
        let full_name = der::element(der::context(0), &uri);
        let mut point = der::element(der::context(0), &full_name);
        let directory_name = der::element(der::context(4), &self.crl_issuer.to_der());
        der::write(&mut point, der::context(2), &directory_name);
        let points = der::element(der::SEQUENCE, &der::element(der::SEQUENCE, &point));
        [
            CustomExtension::from_oid_content(&[2, 5, 29, 32], policies),
            CustomExtension::from_oid_content(&[2, 5, 29, 31], points),
        ]
    }
}

fn end_entity(subject: DistinguishedName, now: i64, lifetime: i64) -> Result<CertificateParams, IssueError> {
    let mut params = base(subject, now.saturating_sub(BACKDATE), now.saturating_add(lifetime))?;
    // `30 00`: DER leaves out the default, cA FALSE.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn base(subject: DistinguishedName, not_before: i64, not_after: i64) -> Result<CertificateParams, IssueError> {
    let date = |unix| time::OffsetDateTime::from_unix_timestamp(unix).map_err(|_| IssueError::Date { unix });
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A host name of lower-case A-labels, two at least, no wildcard, no trailing dot (R14).
fn dns_name(name: &str) -> Result<SanType, IssueError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|octet| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let fault = || IssueError::DnsName { name: name.to_owned() };
    if name.len() > 253 || !name.contains('.') || !name.split('.').all(label) {
        return Err(fault());
    }
    Ia5String::try_from(name).map(SanType::DnsName).map_err(|_| fault())
}

fn tn_auth_list(scope: &TnAuthList) -> CustomExtension {
    extension(&oid::TN_AUTH_LIST, scope.to_der())
}

fn claim_constraints(constraints: &ClaimConstraints) -> CustomExtension {
    let id = match constraints.kind() {
        ConstraintKind::Basic => &oid::JWT_CLAIM_CONSTRAINTS,
        ConstraintKind::Enhanced => &oid::ENHANCED_JWT_CLAIM_CONSTRAINTS,
    };
    extension(id, constraints.to_der())
}

/// A non-critical extension.
pub(super) fn extension(id: &oid::Oid, content: Vec<u8>) -> CustomExtension {
    CustomExtension::from_oid_content(id.arcs, content)
}
