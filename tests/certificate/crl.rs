//! Revocation lists, one fault at a time; the indirect ones of certificates dossier section 7 above all.

use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, KeyIdMethod, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use vesperd::cert::{Certificate, Crl, CrlError, Revocation, Revocations};

use super::support::{
    Authority, DAY, HOUR, Hierarchy, NOW, TestCrl, ca_params, crl_point, der_extension, extension, serial_of,
    shaken_params, subject_of, tlv,
};

const URL: &str = "https://crl.example/sti-pa.crl";

/// A hierarchy whose certificates name the CRL of somebody who issued none of them.
struct World {
    crl_signer: Authority,
    hierarchy: Hierarchy,
    leaf: Authority,
}

impl World {
    fn new() -> Self {
        let crl_signer = Authority::root(ca_params("STI-PA CRL"));
        let name = subject_of(&crl_signer.der);
        let mut intermediate = ca_params("SHAKEN Intermediate");
        intermediate.serial_number = Some(SerialNumber::from_slice(&[0x11; 8]));
        intermediate.custom_extensions.push(crl_point(URL, Some(&name)));
        let hierarchy = Hierarchy::with(intermediate);
        let mut leaf = shaken_params();
        leaf.not_after = leaf.not_before + time::Duration::days(30);
        leaf.serial_number = Some(SerialNumber::from_slice(&[0x22; 8]));
        leaf.custom_extensions.push(crl_point(URL, Some(&name)));
        let leaf = hierarchy.intermediate.issue(leaf);
        Self { crl_signer, hierarchy, leaf }
    }

    fn crl(&self) -> TestCrl {
        TestCrl::indirect(&subject_of(&self.crl_signer.der))
    }

    fn read(&self, der: &[u8]) -> Result<Crl, CrlError> {
        Crl::from_der(der, &[Certificate::from_der(&self.crl_signer.der).unwrap()], 100)
    }

    /// What a CRL says of the path.
    fn says(&self, crl: &TestCrl, unix: i64) -> Revocation {
        let crl = self.read(&crl.sign(&self.crl_signer.key)).unwrap();
        let verdict = self.hierarchy.store.assess(&self.hierarchy.chain(&self.leaf)).unwrap();
        assert_eq!(verdict.revocable().iter().map(|one| one.index).collect::<Vec<_>>(), [0, 1]);
        Revocations::default().with(URL, Arc::new(crl)).worst(verdict.revocable(), unix, 60)
    }
}

#[test]
fn an_indirect_crl_speaks_for_the_certificates_of_many_issuers() {
    let world = World::new();
    let root = subject_of(&world.hierarchy.root.der);
    let intermediate = subject_of(&world.hierarchy.intermediate.der);
    let (leaf_serial, ca_serial) = (serial_of(&world.leaf.der), serial_of(&world.hierarchy.intermediate.der));
    assert_eq!(world.says(&world.crl(), NOW), Revocation::Good);
    let other = [1, 2, 3];
    for (crl, expected) in [
        (world.crl().revoke(&leaf_serial, Some(&intermediate)), Revocation::Revoked),
        (world.crl().revoke(&ca_serial, Some(&root)), Revocation::Revoked),
        // RFC 5280 5.3.3: an entry without certificateIssuer is of the issuer of the one before.
        (world.crl().revoke(&other, Some(&intermediate)).revoke(&leaf_serial, None), Revocation::Revoked),
        // and the first one of the CRL's own issuer, who issued none of these.
        (world.crl().revoke(&leaf_serial, None), Revocation::Good),
        (world.crl().revoke(&leaf_serial, Some(&root)), Revocation::Good),
        (world.crl().revoke(&other, Some(&intermediate)), Revocation::Good),
    ] {
        assert_eq!(world.says(&crl, NOW), expected);
    }
}

#[test]
fn names_are_compared_and_not_their_octets() {
    let world = World::new();
    let intermediate = subject_of(&world.hierarchy.intermediate.der);
    // UTF8String by PrintableString, and another case.
    let respelled: Vec<u8> = intermediate.iter().map(|octet| if *octet == 0x0c { 0x13 } else { *octet }).collect();
    assert_ne!(respelled, intermediate);
    let at = respelled.windows(6).position(|window| window == b"SHAKEN").unwrap();
    let mut respelled = respelled;
    respelled[at..at + 6].copy_from_slice(b"shaken");
    let crl = world.crl().revoke(&serial_of(&world.leaf.der), Some(&respelled));
    assert_eq!(world.says(&crl, NOW), Revocation::Revoked);
}

#[test]
fn a_crl_that_is_out_of_date_says_only_who_was_revoked() {
    let world = World::new();
    let intermediate = subject_of(&world.hierarchy.intermediate.der);
    assert_eq!(world.says(&world.crl(), NOW + DAY + 60), Revocation::Good);
    assert_eq!(world.says(&world.crl(), NOW + DAY + 61), Revocation::Unavailable);
    assert_eq!(world.says(&world.crl(), NOW - HOUR - 61), Revocation::Unavailable);
    let revoked = world.crl().revoke(&serial_of(&world.leaf.der), Some(&intermediate));
    assert_eq!(world.says(&revoked, NOW + 10 * DAY), Revocation::Revoked);
}

#[test]
fn only_the_crl_that_a_distribution_point_means_counts() {
    let world = World::new();
    let named = |uri: &str| tlv(0xa0, &tlv(0xa0, &tlv(0x86, uri.as_bytes())));
    let scope = |fields: &[Vec<u8>]| TestCrl { scope: Some(fields.concat()), ..world.crl() };
    let indirect = tlv(0x84, &[0xff]);
    for (crl, expected) in [
        (scope(&[named(URL), indirect.clone()]), Revocation::Good),
        (scope(&[named("https://crl.example/other.crl"), indirect.clone()]), Revocation::Unavailable),
        // It does not say that it is indirect.
        (TestCrl { scope: None, ..world.crl() }, Revocation::Unavailable),
        // For users only: the intermediate's status is not known. For CAs only: the leaf's is not.
        (scope(&[tlv(0x81, &[0xff]), indirect.clone()]), Revocation::Unavailable),
        (scope(&[tlv(0x82, &[0xff]), indirect.clone()]), Revocation::Unavailable),
        // Some reasons only: who is not on it may have been revoked for others.
        (scope(&[tlv(0x83, &[1, 0x40]), indirect.clone()]), Revocation::Unavailable),
    ] {
        assert_eq!(world.says(&crl, NOW), expected);
    }
    let elsewhere = Revocations::default();
    let verdict = world.hierarchy.store.assess(&world.hierarchy.chain(&world.leaf)).unwrap();
    assert_eq!(elsewhere.worst(verdict.revocable(), NOW, 60), Revocation::Unavailable);
}

#[test]
fn faults_of_a_crl_have_their_own_errors() {
    let world = World::new();
    let sign = |crl: &TestCrl| crl.sign(&world.crl_signer.key);
    assert!(matches!(world.read(b"junk"), Err(CrlError::Der(_))));
    let good = sign(&world.crl());
    assert!(matches!(world.read(&[&good[..], &[0]].concat()), Err(CrlError::Der(_))));
    // Of the right name, by another key: a signature is not enough.
    let imposter = Authority::root(ca_params("STI-PA CRL"));
    assert!(matches!(world.read(&world.crl().sign(&imposter.key)), Err(CrlError::Signature)));
    let stranger = TestCrl::indirect(&subject_of(&world.hierarchy.root.der));
    assert!(matches!(world.read(&sign(&stranger)), Err(CrlError::UnknownIssuer { .. })));
    let mut changed = good.clone();
    let place = good.len() / 2;
    changed[place] ^= 1;
    assert!(world.read(&changed).is_err());
    let without = TestCrl { next_update: None, ..world.crl() };
    assert!(matches!(world.read(&sign(&without)), Err(CrlError::NoNextUpdate)));
    let delta = der_extension(&[0x55, 0x1d, 0x1b], true, &tlv(2, &[1]));
    let delta = TestCrl { extensions: vec![delta], ..world.crl() };
    assert_eq!(world.read(&sign(&delta)).unwrap_err(), CrlError::UnknownCritical("2.5.29.27".into()));
    let attributes = TestCrl { scope: Some(tlv(0x85, &[0xff])), ..world.crl() };
    assert!(matches!(world.read(&sign(&attributes)), Err(CrlError::AttributeCertificates)));
    let many = (0..=100u8).fold(world.crl(), |crl, n| crl.revoke(&[n + 1], None));
    assert!(matches!(world.read(&sign(&many)), Err(CrlError::TooManyEntries)));
}

#[test]
fn whoever_signs_a_crl_must_be_allowed_to() {
    let mut params = ca_params("STI-PA CRL");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let signer = Authority::root(params);
    let crl = TestCrl::indirect(&subject_of(&signer.der)).sign(&signer.key);
    let signers = [Certificate::from_der(&signer.der).unwrap()];
    assert!(matches!(Crl::from_der(&crl, &signers, 100), Err(CrlError::UnknownIssuer { .. })));
}

#[test]
fn an_older_crl_does_not_take_the_place_of_a_newer() {
    let world = World::new();
    let read = |crl: &TestCrl| world.read(&crl.sign(&world.crl_signer.key)).unwrap();
    let now = read(&world.crl());
    let later = read(&TestCrl { this_update: NOW, number: 8, ..world.crl() });
    let renumbered = read(&TestCrl { this_update: NOW, number: 6, ..world.crl() });
    assert!(later.may_replace(&now) && now.may_replace(&now));
    assert!(!now.may_replace(&later) && !renumbered.may_replace(&now));
}

/// A CRL that another library wrote, of the certificates' own issuer.
#[test]
fn a_direct_crl_must_be_signed_by_the_issuers_own_key() {
    let hierarchy = Hierarchy::new();
    let mut leaf = shaken_params();
    leaf.not_after = leaf.not_before + time::Duration::days(30);
    leaf.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![URL.to_owned()] }];
    let leaf = hierarchy.intermediate.issue(leaf);
    let verdict = hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap();
    let date = |unix| time::OffsetDateTime::from_unix_timestamp(unix).unwrap();
    let list = |issuer: &Authority, serial: &[u8]| {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date(NOW - HOUR),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date(NOW - HOUR),
            next_update: date(NOW + DAY),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&issuer.issuer()).unwrap().der().to_vec()
    };
    let status = |der: &[u8], signer: &Authority| {
        let crl = Crl::from_der(der, &[Certificate::from_der(&signer.der).unwrap()], 10).unwrap();
        Revocations::default().with(URL, Arc::new(crl)).worst(verdict.revocable(), NOW, 60)
    };
    let issuer = &hierarchy.intermediate;
    assert_eq!(status(&list(issuer, &serial_of(&leaf.der)), issuer), Revocation::Revoked);
    assert_eq!(status(&list(issuer, &[1]), issuer), Revocation::Good);
    let namesake = Authority::root(ca_params("Intermediate CA"));
    assert_eq!(status(&list(&namesake, &[1]), &namesake), Revocation::Unavailable, "another key of that name");
}

#[test]
fn r37_short_lived_leaves_are_not_asked_about() {
    let hierarchy = Hierarchy::new();
    let revocable = |days: i64, no_rev_avail: bool| {
        let mut leaf = shaken_params();
        leaf.not_after = leaf.not_before + time::Duration::days(days);
        if no_rev_avail {
            leaf.custom_extensions.push(extension(&vesperd::cert::oid::NO_REV_AVAIL, vec![5, 0]));
        } else {
            leaf.custom_extensions.push(crl_point(URL, None));
        }
        let leaf = hierarchy.intermediate.issue(leaf);
        hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap().revocable().len()
    };
    assert_eq!((revocable(7, false), revocable(8, false), revocable(30, true)), (0, 1, 0));
}

proptest! {
    #[test]
    fn no_octets_make_the_reader_panic(place in 0usize..400, octet: u8, cut in 0usize..400) {
        let signer = Authority::root(ca_params("STI-PA CRL"));
        let mut crl = TestCrl::indirect(&subject_of(&signer.der)).revoke(&[1], Some(&subject_of(&signer.der))).sign(&signer.key);
        let signers = [Certificate::from_der(&signer.der).unwrap()];
        let length = crl.len();
        crl[place % length] = octet;
        let _ = Crl::from_der(&crl, &signers, 10);
        let _ = Crl::from_der(&crl[..cut % length], &signers, 10);
    }
}
