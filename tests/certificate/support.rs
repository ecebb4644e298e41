//! Certificates made on the spot: an issuing hierarchy, a transparency log, and surgery on finished certificates.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SerialNumber, SigningKey,
};
use time::OffsetDateTime;
use vesperd::cert::sct::{Entry, Sct, SctList};
use vesperd::cert::{Log, LogState, TnAuthList, TnEntry, TrustStore, oid};

/// 2026-01-01T00:00:00Z; every certificate here is valid around it.
pub const NOW: i64 = 1_767_225_600;
pub const HOUR: i64 = 3600;
pub const DAY: i64 = 24 * HOUR;

pub fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub fn pem(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/vectors/certificate/{name}", env!("CARGO_MANIFEST_DIR"));
    let blocks = vesperd::cert::certificates_from_pem_or_der(&std::fs::read(path).unwrap());
    assert_eq!(blocks.len(), 1);
    blocks[0].clone().unwrap()
}

pub fn spc(code: &str) -> TnEntry {
    TnEntry::Spc(code.to_owned())
}

pub fn one(number: &str) -> TnEntry {
    TnEntry::One(number.to_owned())
}

pub fn range(start: &str, count: u64) -> TnEntry {
    TnEntry::Range { start: start.to_owned(), count }
}

pub fn tn_extension(entries: &[TnEntry]) -> CustomExtension {
    extension(&oid::TN_AUTH_LIST, TnAuthList::new(entries.to_vec()).unwrap().to_der())
}

pub fn extension(id: &oid::Oid, value: Vec<u8>) -> CustomExtension {
    CustomExtension::from_oid_content(id.arcs, value)
}

pub fn critical(mut extension: CustomExtension) -> CustomExtension {
    extension.set_criticality(true);
    extension
}

pub fn certificate_policies(policy_der: &[u8]) -> CustomExtension {
    let policy = tlv(0x30, &tlv(0x30, &tlv(0x06, policy_der)));
    CustomExtension::from_oid_content(&[2, 5, 29, 32], policy)
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

/// Parameters valid from an hour before [`NOW`] on.
pub fn params(common_name: &str, lifetime: i64) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US");
    params.distinguished_name.push(DnType::OrganizationName, "Example Retail");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from_slice(&[0x7e; 16]));
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, NOW - HOUR, NOW - HOUR + lifetime);
    params
}

pub fn set_validity(params: &mut CertificateParams, not_before: i64, not_after: i64) {
    params.not_before = at(not_before);
    params.not_after = at(not_after);
}

pub fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = params(common_name, 3650 * DAY);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub fn leaf_params() -> CertificateParams {
    let mut params = params("SHAKEN 709J", DAY);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// A leaf that fits VESPER but for the SCTs.
pub fn vesper_params(entries: &[TnEntry]) -> CertificateParams {
    let mut params = leaf_params();
    params.subject_alt_names = vec![rcgen::SanType::DnsName("exampleretail.example".try_into().unwrap())];
    params.custom_extensions.push(tn_extension(entries));
    params
}

pub fn shaken_params() -> CertificateParams {
    let mut params = leaf_params();
    params.custom_extensions.push(tn_extension(&[spc("709J")]));
    params
}

/// A certificate and the key it certifies.
pub struct Authority {
    pub params: CertificateParams,
    pub key: KeyPair,
    pub der: Vec<u8>,
}

pub fn p256() -> KeyPair {
    KeyPair::generate().unwrap()
}

impl Authority {
    pub fn root(params: CertificateParams) -> Self {
        Self::root_with(params, p256())
    }

    pub fn root_with(params: CertificateParams, key: KeyPair) -> Self {
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { params, key, der }
    }

    pub fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    pub fn issue(&self, params: CertificateParams) -> Self {
        self.issue_with(params, p256())
    }

    pub fn issue_with(&self, params: CertificateParams, key: KeyPair) -> Self {
        let der = params.signed_by(&key, &self.issuer()).unwrap().der().to_vec();
        Self { params, key, der }
    }

    pub fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// Issues a leaf with SCTs of `logs` at `timestamp` ms, the list standing before the last `behind` extensions.
    pub fn issue_logged(
        &self,
        params: CertificateParams,
        logs: &[&TestLog],
        timestamp: u64,
        behind: usize,
    ) -> Authority {
        let key = p256();
        let place = params.custom_extensions.len() - behind;
        let mut precertificate = params.clone();
        precertificate
            .custom_extensions
            .insert(place, critical(extension(&oid::PRECERTIFICATE_POISON, vec![0x05, 0x00])));
        let precertificate = precertificate.signed_by(&key, &self.issuer()).unwrap();
        let entry = Entry::of_precertificate(precertificate.der(), &self.spki()).unwrap();
        let scts: Vec<Sct> = logs.iter().map(|log| log.sign(&entry, timestamp, &[])).collect();
        let mut final_params = params;
        final_params.custom_extensions.insert(place, extension(&oid::SCT_LIST, SctList::to_extension(&scts).unwrap()));
        self.issue_with(final_params, key)
    }
}

/// Root, intermediate, and the store that trusts the root.
pub struct Hierarchy {
    pub root: Authority,
    pub intermediate: Authority,
    pub store: TrustStore,
}

impl Hierarchy {
    pub fn new() -> Self {
        Self::with(ca_params("Intermediate CA"))
    }

    pub fn with(intermediate: CertificateParams) -> Self {
        let root = Authority::root(ca_params("Root CA"));
        let intermediate = root.issue(intermediate);
        let store = trusting(&root);
        Self { root, intermediate, store }
    }

    pub fn chain(&self, leaf: &Authority) -> Vec<Vec<u8>> {
        vec![leaf.der.clone(), self.intermediate.der.clone()]
    }
}

pub fn trusting(anchor: &Authority) -> TrustStore {
    let mut store = TrustStore::default();
    store.anchors.add_der(&anchor.der).unwrap();
    store
}

/// A transparency log with a P-256 key.
pub struct TestLog {
    pub key: KeyPair,
    signer: EcdsaKeyPair,
}

impl TestLog {
    pub fn new() -> Self {
        let key = p256();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der()).unwrap();
        Self { key, signer }
    }

    pub fn listed(&self, state: LogState) -> Log {
        Log::new("test log", &self.key.subject_public_key_info(), 86_400, state, None).unwrap()
    }

    pub fn sign(&self, entry: &Entry, timestamp: u64, extensions: &[u8]) -> Sct {
        let message = entry.signed_data(timestamp, extensions);
        Sct {
            log_id: vesperd::cert::sct::sha256(&self.key.subject_public_key_info()),
            timestamp,
            extensions: extensions.to_vec(),
            hash_algorithm: 4,
            signature_algorithm: 3,
            signature: self.signer.sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec(),
        }
    }
}

/// The raw ES256 signature a token carries.
pub fn es256(key: &KeyPair, message: &[u8]) -> [u8; 64] {
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap();
    signer.sign(&SystemRandom::new(), message).unwrap().as_ref().try_into().unwrap()
}

pub fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        length @ 0..=0x7f => out.push(u8::try_from(length).unwrap()),
        length => {
            let octets = u16::try_from(length).unwrap().to_be_bytes();
            match octets {
                [0, low] => out.extend([0x81, low]),
                [high, low] => out.extend([0x82, high, low]),
            }
        }
    }
    out.extend_from_slice(value);
    out
}

/// The elements of a constructed value, each with its octets.
pub fn elements(mut value: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while !value.is_empty() {
        let (header, length) = match value[1] {
            0x82 => (4, usize::from(value[2]) << 8 | usize::from(value[3])),
            0x81 => (3, usize::from(value[2])),
            short => (2, usize::from(short)),
        };
        out.push(value[..header + length].to_vec());
        value = &value[header + length..];
    }
    out
}

/// The contents of one element.
pub fn contents(element: &[u8]) -> &[u8] {
    let header = match element[1] {
        0x82 => 4,
        0x81 => 3,
        _ => 2,
    };
    &element[header..]
}

/// Changes the fields of a TBSCertificate (version first), sets both signature algorithms, and signs anew.
pub fn resign(
    der: &[u8],
    issuer: &KeyPair,
    outer_algorithm: Option<Vec<u8>>,
    change: impl FnOnce(&mut Vec<Vec<u8>>),
) -> Vec<u8> {
    let parts = elements(contents(der));
    let mut fields = elements(contents(&parts[0]));
    change(&mut fields);
    let tbs = tlv(0x30, &fields.concat());
    let algorithm = outer_algorithm.unwrap_or_else(|| parts[1].clone());
    let signature = issuer.sign(&tbs).unwrap();
    tlv(0x30, &[tbs, algorithm, tlv(0x03, &[&[0][..], &signature].concat())].concat())
}

/// Fields of a certificate's TBSCertificate: version, serial, algorithm, issuer, validity, subject, and so on.
pub fn tbs_fields(der: &[u8]) -> Vec<Vec<u8>> {
    elements(contents(&elements(contents(der))[0]))
}

pub fn subject_of(der: &[u8]) -> Vec<u8> {
    tbs_fields(der)[5].clone()
}

pub fn serial_of(der: &[u8]) -> Vec<u8> {
    contents(&tbs_fields(der)[1]).to_vec()
}

/// cRLDistributionPoints with one point: its URI, and the DER name of who issues the CRL.
pub fn crl_point(uri: &str, crl_issuer: Option<&[u8]>) -> CustomExtension {
    let name = tlv(0xa0, &tlv(0xa0, &tlv(0x86, uri.as_bytes())));
    let issuer = crl_issuer.map(|issuer| tlv(0xa2, &tlv(0xa4, issuer))).unwrap_or_default();
    let points = tlv(0x30, &tlv(0x30, &[name, issuer].concat()));
    CustomExtension::from_oid_content(&[2, 5, 29, 31], points)
}

/// A CRL made by hand, for no library here writes indirect ones.
#[derive(Clone)]
pub struct TestCrl {
    /// DER name.
    pub issuer: Vec<u8>,
    pub this_update: i64,
    pub next_update: Option<i64>,
    pub number: u8,
    /// Contents of issuingDistributionPoint.
    pub scope: Option<Vec<u8>>,
    /// Serial numbers, each with certificateIssuer where it is given.
    pub entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Further extensions, DER.
    pub extensions: Vec<Vec<u8>>,
}

pub fn der_extension(id: &[u8], is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if is_critical { vec![1, 1, 0xff] } else { vec![] };
    tlv(0x30, &[tlv(6, id), critical, tlv(4, value)].concat())
}

fn generalized_time(seconds: i64) -> Vec<u8> {
    let at = at(seconds);
    let text = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    tlv(0x18, text.as_bytes())
}

impl TestCrl {
    /// Says of itself that it is indirect, and speaks for a day around [`NOW`].
    pub fn indirect(issuer: &[u8]) -> Self {
        Self {
            issuer: issuer.to_vec(),
            this_update: NOW - HOUR,
            next_update: Some(NOW + DAY),
            number: 7,
            scope: Some(tlv(0x84, &[0xff])),
            entries: Vec::new(),
            extensions: Vec::new(),
        }
    }

    pub fn revoke(mut self, serial: &[u8], issuer: Option<&[u8]>) -> Self {
        self.entries.push((serial.to_vec(), issuer.map(<[u8]>::to_vec)));
        self
    }

    pub fn sign(&self, key: &KeyPair) -> Vec<u8> {
        let algorithm = tlv(0x30, &tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]));
        let entries: Vec<u8> = self
            .entries
            .iter()
            .flat_map(|(serial, issuer)| {
                let names = issuer.as_ref().map(|issuer| tlv(0x30, &tlv(0xa4, issuer)));
                let extensions = names.map(|names| tlv(0x30, &der_extension(&[0x55, 0x1d, 0x1d], true, &names)));
                tlv(
                    0x30,
                    &[tlv(2, serial), generalized_time(self.this_update), extensions.unwrap_or_default()].concat(),
                )
            })
            .collect();
        let mut extensions = der_extension(&[0x55, 0x1d, 0x14], false, &tlv(2, &[self.number]));
        if let Some(scope) = &self.scope {
            extensions.extend(der_extension(&[0x55, 0x1d, 0x1c], true, &tlv(0x30, scope)));
        }
        extensions.extend(self.extensions.concat());
        let tbs = [
            tlv(2, &[1]),
            algorithm.clone(),
            self.issuer.clone(),
            generalized_time(self.this_update),
            self.next_update.map(generalized_time).unwrap_or_default(),
            if self.entries.is_empty() { Vec::new() } else { tlv(0x30, &entries) },
            tlv(0xa0, &tlv(0x30, &extensions)),
        ];
        let tbs = tlv(0x30, &tbs.concat());
        let signature = key.sign(&tbs).unwrap();
        tlv(0x30, &[tbs, algorithm, tlv(3, &[&[0][..], &signature].concat())].concat())
    }
}

/// authorityInfoAccess with id-ad-stirTNList.
pub fn by_reference(uri: &str) -> CustomExtension {
    let method = tlv(6, &[0x2b, 6, 1, 5, 5, 7, 0x30, 0x0e]);
    let access = tlv(0x30, &tlv(0x30, &[method, tlv(0x86, uri.as_bytes())].concat()));
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access)
}
