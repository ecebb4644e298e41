//! Certificate revocation lists (RFC 5280 section 5), among them indirect ones: one list of the STI-PA for the certificates of many issuers
//! (certificates dossier section 7).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use x509_parser::asn1_rs::FromDer;
use x509_parser::time::ASN1Time;

use super::certificate::Certificate;
use super::der::{self, DerError, Reader, Tlv};
use super::name::canonical;
use super::oid;
use super::path::{SignatureFault, check_signed};
use super::sct::sha256;

const BOOLEAN: u8 = 0x01;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[number] IMPLICIT` of a primitive type.
const fn primitive(number: u8) -> u8 {
    0x80 | number
}

/// Why a CRL is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrlError {
    /// Not the structure of RFC 5280 section 5.1.
    Der(DerError),
    /// A time that can not be read.
    Time,
    /// Not version 2, or with algorithms inside and outside that differ.
    Form,
    /// No nextUpdate: it would never be known to be out of date (RFC 5280 5.1.2.5 requires it).
    NoNextUpdate,
    /// A critical extension of the list or an entry that nobody here processes, dotted; a delta CRL is one.
    UnknownCritical(String),
    /// It lists attribute certificates.
    AttributeCertificates,
    /// More entries than allowed.
    TooManyEntries,
    /// None of the certificates that may sign it bears the issuer's name and may sign CRLs.
    UnknownIssuer {
        /// Who issued it.
        issuer: String,
    },
    /// The signature's algorithm is not accepted.
    Algorithm,
    /// The signature does not verify.
    Signature,
    /// Issued in the future, or its nextUpdate is past.
    NotCurrent {
        /// thisUpdate and nextUpdate, Unix seconds.
        window: [i64; 2],
    },
    /// Older than the one that is there.
    OutOfDate,
}

impl fmt::Display for CrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Der(error) => write!(f, "not a CRL: {error}"),
            Self::Time => f.write_str("not a CRL: a time can not be read"),
            Self::Form => f.write_str("not a CRL of version 2, or its two algorithms differ"),
            Self::NoNextUpdate => f.write_str("CRL without nextUpdate"),
            Self::UnknownCritical(extension) => write!(f, "CRL with unknown critical extension {extension}"),
            Self::AttributeCertificates => f.write_str("CRL of attribute certificates"),
            Self::TooManyEntries => f.write_str("CRL with too many entries"),
            Self::UnknownIssuer { issuer } => write!(f, "CRL of an unknown issuer, {issuer}"),
            Self::Algorithm => f.write_str("CRL signed by an algorithm that is not accepted"),
            Self::Signature => f.write_str("the CRL's signature does not verify"),
            Self::NotCurrent { window: [from, to] } => write!(f, "CRL is for {from} to {to}, Unix seconds"),
            Self::OutOfDate => f.write_str("CRL is older than the one that is there"),
        }
    }
}

impl std::error::Error for CrlError {}

impl From<DerError> for CrlError {
    fn from(error: DerError) -> Self {
        Self::Der(error)
    }
}

/// issuingDistributionPoint (RFC 5280 section 5.2.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Scope {
    uris: Vec<String>,
    /// Only certificates of users, or only those of CAs.
    users: bool,
    cas: bool,
    some_reasons: bool,
    indirect: bool,
}

/// A CRL whose signature has been verified.
#[derive(Debug)]
pub struct Crl {
    issuer: Box<[u8]>,
    issuer_text: String,
    scope: Scope,
    this_update: i64,
    next_update: i64,
    number: Box<[u8]>,
    /// Serial numbers, sorted, by the canonical name of their certificates' issuer.
    revoked: BTreeMap<Box<[u8]>, Vec<Box<[u8]>>>,
    entries: usize,
    authority_key_id: Option<Box<[u8]>>,
    /// SHA-256 of the signer's SubjectPublicKeyInfo.
    signer: [u8; 32],
}

impl Crl {
    /// Reads a CRL and verifies it by the first of `signers` that bears its issuer's name and may sign CRLs. `max_entries` bounds what is
    /// kept; the size of `input` is the caller's to bound.
    ///
    /// # Errors
    /// Any fault; whether it is current is asked by [`Crl::is_current`].
    pub fn from_der<'a>(
        input: &[u8],
        signers: impl IntoIterator<Item = &'a Certificate>,
        max_entries: usize,
    ) -> Result<Self, CrlError> {
        let mut outer = Reader::new(der::only(input, der::SEQUENCE)?);
        let tbs = outer.read()?;
        let algorithm = outer.contents(der::SEQUENCE)?;
        let bits = outer.contents(der::BIT_STRING)?;
        outer.finish()?;
        let signature = bits.strip_prefix(&[0]).ok_or(CrlError::Form)?;
        let (mut crl, inner_algorithm) = read_tbs(&tbs, max_entries)?;
        if inner_algorithm != algorithm {
            return Err(CrlError::Form);
        }
        let mut fault = CrlError::UnknownIssuer { issuer: crl.issuer_text.clone() };
        for signer in signers {
            let key_ids = (&crl.authority_key_id, &signer.extensions.subject_key_id);
            let differs = matches!(key_ids, (Some(own), Some(signers)) if own != signers);
            if differs || !signer.may_sign_crls() || canonical(&signer.subject_raw) != crl.issuer {
                continue;
            }
            match check_signed(algorithm, tbs.raw, signature, signer, true) {
                Ok(()) => {
                    crl.signer = sha256(signer.spki_der());
                    return Ok(crl);
                }
                Err(SignatureFault::Algorithm) => fault = CrlError::Algorithm,
                Err(SignatureFault::Signature) => fault = CrlError::Signature,
            }
        }
        Err(fault)
    }

    /// Whether it speaks for `unix`, give or take `skew` seconds.
    #[must_use]
    pub fn is_current(&self, unix: i64, skew: i64) -> bool {
        self.this_update <= unix.saturating_add(skew) && unix <= self.next_update.saturating_add(skew)
    }

    /// thisUpdate and nextUpdate, Unix seconds.
    #[must_use]
    pub fn window(&self) -> [i64; 2] {
        [self.this_update, self.next_update]
    }

    /// Certificates it lists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether it lists none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Whether this one may take the place of `other`: it is not older (by thisUpdate and, where both have one, CRL number).
    #[must_use]
    pub fn may_replace(&self, other: &Self) -> bool {
        let number = |crl: &Self| (crl.number.len(), crl.number.clone());
        let numbered = !self.number.is_empty() && !other.number.is_empty();
        let same_issuer = self.issuer == other.issuer;
        !same_issuer || (self.this_update >= other.this_update && (!numbered || number(self) >= number(other)))
    }

    /// Whether it lists a certificate.
    fn lists(&self, certificate: &Revocable) -> bool {
        let serials = self.revoked.get(&certificate.issuer);
        serials.is_some_and(|serials| serials.binary_search(&certificate.serial).is_ok())
    }

    /// Whether it is the CRL that a distribution point of the certificate means.
    fn is_meant(&self, point: &CrlPoint, certificate: &Revocable) -> bool {
        let issued = match &point.crl_issuer {
            // RFC 5280 6.3.3 (b)(1): of the issuer the point names; for another issuer's certificates it must say that it is indirect.
            Some(issuer) => *issuer == self.issuer && (self.scope.indirect || certificate.issuer == self.issuer),
            None => certificate.issuer == self.issuer && certificate.issuer_key == self.signer,
        };
        let named = self.scope.uris.is_empty() || self.scope.uris.iter().any(|uri| point.uris.contains(uri));
        let kind = if certificate.is_ca { !self.scope.users } else { !self.scope.cas };
        issued && named && kind
    }
}

/// One distribution point of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CrlPoint {
    pub(crate) uris: Vec<String>,
    /// Canonical name of who issues the CRL, when that is not the certificate's issuer.
    pub(crate) crl_issuer: Option<Box<[u8]>>,
}

/// A certificate of a path whose revocation is to be asked for.
#[derive(Clone, Debug)]
pub struct Revocable {
    /// Its place in the chain.
    pub index: usize,
    is_ca: bool,
    /// Canonical name of its issuer.
    issuer: Box<[u8]>,
    issuer_key: [u8; 32],
    /// Its issuer: who signs its CRL where no other is named.
    issuer_der: Arc<[u8]>,
    serial: Box<[u8]>,
    points: Vec<CrlPoint>,
}

/// What CRLs say about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// It is not revoked.
    Good,
    /// It is.
    Revoked,
    /// No current CRL of its distribution points is at hand.
    Unavailable,
}

/// A leaf that lives no longer than this needs no revocation (certificates dossier section 6; R37), seconds.
pub const SHORT_LIVED: i64 = 7 * 86_400;

impl Revocable {
    /// What is to be asked about a certificate of a validated path; nothing for a short-lived leaf (RFC 9608, R37), and for a certificate
    /// that names no CRL.
    pub(crate) fn of(index: usize, certificate: &Certificate, issuer: &Certificate) -> Option<Self> {
        let lifetime = certificate.not_after().saturating_sub(certificate.not_before());
        let is_short_lived = certificate.extensions.no_rev_avail || lifetime <= SHORT_LIVED;
        if (index == 0 && is_short_lived) || certificate.extensions.crl_points.is_empty() {
            return None;
        }
        Some(Self {
            index,
            is_ca: certificate.is_ca(),
            issuer: canonical(&certificate.issuer_raw),
            issuer_key: sha256(issuer.spki_der()),
            issuer_der: issuer.der().into(),
            serial: certificate.serial().into(),
            points: certificate.extensions.crl_points.clone(),
        })
    }

    /// URLs of its CRLs.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.points.iter().flat_map(|point| &point.uris).map(String::as_str)
    }

    /// DER of the certificate that signs its CRL where no other issuer is named.
    #[must_use]
    pub fn issuer_der(&self) -> &Arc<[u8]> {
        &self.issuer_der
    }
}

/// The CRLs at hand, by URL: an immutable snapshot, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    by_url: Arc<BTreeMap<Box<str>, Arc<Crl>>>,
}

impl Revocations {
    /// The same with one CRL more, or in another's place.
    #[must_use]
    pub fn with(&self, url: &str, crl: Arc<Crl>) -> Self {
        let mut by_url = BTreeMap::clone(&self.by_url);
        by_url.insert(url.into(), crl);
        Self { by_url: by_url.into() }
    }

    /// The CRL of a URL.
    #[must_use]
    pub fn get(&self, url: &str) -> Option<&Arc<Crl>> {
        self.by_url.get(url)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Crl>)> {
        self.by_url.iter().map(|(url, crl)| (&**url, crl))
    }

    /// What they say about a certificate at `unix`. A certificate that a CRL lists stays revoked when that CRL has become old.
    #[must_use]
    pub fn status(&self, certificate: &Revocable, unix: i64, skew: i64) -> Revocation {
        let mut status = Revocation::Unavailable;
        for point in &certificate.points {
            for crl in point.uris.iter().filter_map(|uri| self.get(uri)) {
                if !crl.is_meant(point, certificate) {
                    continue;
                }
                if crl.lists(certificate) {
                    return Revocation::Revoked;
                }
                if crl.is_current(unix, skew) && !crl.scope.some_reasons {
                    status = Revocation::Good;
                }
            }
        }
        status
    }

    /// The worst there is to say about all certificates of a path.
    #[must_use]
    pub fn worst(&self, path: &[Revocable], unix: i64, skew: i64) -> Revocation {
        let mut worst = Revocation::Good;
        for certificate in path {
            match self.status(certificate, unix, skew) {
                Revocation::Revoked => return Revocation::Revoked,
                Revocation::Unavailable => worst = Revocation::Unavailable,
                Revocation::Good => {}
            }
        }
        worst
    }
}

fn read_tbs<'a>(tbs: &Tlv<'a>, max_entries: usize) -> Result<(Crl, &'a [u8]), CrlError> {
    let mut fields = Reader::new(der::only(tbs.raw, der::SEQUENCE)?);
    if fields.contents(der::INTEGER)? != [1] {
        return Err(CrlError::Form); // v2; a v1 CRL has no extensions and says nothing of its scope
    }
    let algorithm = fields.contents(der::SEQUENCE)?;
    let issuer = fields.read()?;
    let this_update = time(&fields.read()?)?;
    let next_update = match fields.peek() {
        Some(UTC_TIME | GENERALIZED_TIME) => time(&fields.read()?)?,
        _ => return Err(CrlError::NoNextUpdate),
    };
    let entries = fields.optional(der::SEQUENCE)?.unwrap_or_default();
    let extensions = fields.optional(der::context(0))?;
    fields.finish()?;
    let mut crl = Crl {
        issuer: canonical(issuer.raw),
        issuer_text: x509_parser::x509::X509Name::from_der(issuer.raw)
            .map_or_else(|_| super::hex(issuer.raw), |(_, name)| name.to_string()),
        scope: Scope::default(),
        this_update,
        next_update,
        number: Box::default(),
        revoked: BTreeMap::new(),
        entries: 0,
        authority_key_id: None,
        signer: [0; 32],
    };
    if let Some(extensions) = extensions {
        each_extension(extensions, |id, value, is_critical| crl.read_extension(id, value, is_critical))?;
    }
    crl.read_entries(entries, max_entries)?;
    Ok((crl, algorithm))
}

impl Crl {
    fn read_extension(&mut self, id: &[u8], value: &[u8], is_critical: bool) -> Result<(), CrlError> {
        if id == oid::CRL_NUMBER.der {
            let number = der::magnitude(der::only(value, der::INTEGER)?)?;
            self.number = number.ok_or(CrlError::Form)?.into();
        } else if id == oid::AUTHORITY_KEY_ID.der {
            let mut fields = Reader::new(der::only(value, der::SEQUENCE)?);
            self.authority_key_id = fields.optional(primitive(0))?.map(Into::into);
        } else if id == oid::ISSUING_DISTRIBUTION_POINT.der {
            self.scope = read_scope(value)?;
        } else if is_critical {
            return Err(CrlError::UnknownCritical(oid::dotted(id)));
        }
        Ok(())
    }

    fn read_entries(&mut self, entries: &[u8], max: usize) -> Result<(), CrlError> {
        let mut entries = Reader::new(entries);
        // RFC 5280 5.3.3: the issuer of an entry is that of the one before, at first the CRL's own.
        let mut issuer = self.issuer.clone();
        while !entries.is_empty() {
            if self.entries == max {
                return Err(CrlError::TooManyEntries);
            }
            let mut fields = Reader::new(entries.contents(der::SEQUENCE)?);
            let serial = fields.contents(der::INTEGER)?;
            time(&fields.read()?)?;
            if let Some(extensions) = fields.optional(der::SEQUENCE)? {
                each_listed(extensions, |id, value, is_critical| {
                    if id == oid::CERTIFICATE_ISSUER.der {
                        issuer = directory_name(value)?;
                    } else if is_critical {
                        return Err(CrlError::UnknownCritical(oid::dotted(id)));
                    }
                    Ok(())
                })?;
            }
            fields.finish()?;
            match self.revoked.get_mut(&issuer) {
                Some(serials) => serials.push(serial.into()),
                None => drop(self.revoked.insert(issuer.clone(), vec![serial.into()])),
            }
            self.entries += 1;
        }
        for serials in self.revoked.values_mut() {
            serials.sort_unstable();
            serials.shrink_to_fit();
        }
        Ok(())
    }
}

/// Calls with identifier, value and criticality of each extension.
fn each_extension(
    extensions: &[u8],
    each: impl FnMut(&[u8], &[u8], bool) -> Result<(), CrlError>,
) -> Result<(), CrlError> {
    each_listed(der::only(extensions, der::SEQUENCE)?, each)
}

fn each_listed(
    extensions: &[u8],
    mut each: impl FnMut(&[u8], &[u8], bool) -> Result<(), CrlError>,
) -> Result<(), CrlError> {
    let mut extensions = Reader::new(extensions);
    while !extensions.is_empty() {
        let mut fields = Reader::new(extensions.contents(der::SEQUENCE)?);
        let id = fields.contents(der::OBJECT_IDENTIFIER)?;
        let is_critical = fields.optional(BOOLEAN)?.is_some_and(|value| value != [0]);
        let value = fields.contents(der::OCTET_STRING)?;
        fields.finish()?;
        each(id, value, is_critical)?;
    }
    Ok(())
}

/// The directoryName of certificateIssuer's GeneralNames.
fn directory_name(value: &[u8]) -> Result<Box<[u8]>, CrlError> {
    let mut names = Reader::new(der::only(value, der::SEQUENCE)?);
    while !names.is_empty() {
        let name = names.read()?;
        if name.tag == der::context(4) {
            return Ok(canonical(name.value));
        }
    }
    Err(CrlError::Form)
}

fn read_scope(value: &[u8]) -> Result<Scope, CrlError> {
    let mut scope = Scope::default();
    let mut fields = Reader::new(der::only(value, der::SEQUENCE)?);
    let set = |value: &[u8]| value != [0];
    if let Some(point) = fields.optional(der::context(0))? {
        // Only a full name; one relative to the issuer's is nothing that a certificate here could name.
        let mut names = Reader::new(der::only(point, der::context(0)).map_err(|_| CrlError::Form)?);
        while !names.is_empty() {
            let name = names.read()?;
            if name.tag == primitive(6) {
                scope.uris.push(String::from_utf8_lossy(name.value).into_owned());
            }
        }
        if scope.uris.is_empty() {
            return Err(CrlError::Form);
        }
    }
    scope.users = fields.optional(primitive(1))?.is_some_and(set);
    scope.cas = fields.optional(primitive(2))?.is_some_and(set);
    scope.some_reasons = fields.optional(primitive(3))?.is_some();
    scope.indirect = fields.optional(primitive(4))?.is_some_and(set);
    if fields.optional(primitive(5))?.is_some_and(set) {
        return Err(CrlError::AttributeCertificates);
    }
    fields.finish()?;
    Ok(scope)
}

fn time(field: &Tlv<'_>) -> Result<i64, CrlError> {
    ASN1Time::from_der(field.raw).map(|(_, time)| time.timestamp()).map_err(|_| CrlError::Time)
}
