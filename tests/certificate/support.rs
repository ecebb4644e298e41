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
