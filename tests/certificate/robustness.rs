//! Mutated input: read or refused, never a panic.

use proptest::prelude::*;
use vesperd::cert::lint::{Profile, lint};
use vesperd::cert::sct::{SctList, tbs_without};
use vesperd::cert::{
    Certificate, ClaimConstraints, ConstraintKind, LogState, PemError, certificates_from_pem_or_der, oid,
};

use super::support::{Hierarchy, NOW, TestLog, extension, hex, one, pem, range, spc, vesper_params};

struct Scene {
    hierarchy: Hierarchy,
    leaf: Vec<u8>,
}

/// A leaf with every extension this crate reads.
fn scene() -> Scene {
    let mut hierarchy = Hierarchy::new();
    let log = TestLog::new();
    hierarchy.store.logs.add("operator", log.listed(LogState::Usable(0))).unwrap();
    let mut params = vesper_params(&[spc("709J"), one("12025550123"), range("12025550100", 100)]);
    let constraints = hex(
        "3040a00e300c160a636f6e666964656e6365a120301e301c160a636f6e666964656e6365300e0c04686967680c066d656469756da20c300a16087072696f72697479",
    );
    params.custom_extensions.push(extension(&oid::ENHANCED_JWT_CLAIM_CONSTRAINTS, constraints));
    let leaf = hierarchy.intermediate.issue_logged(params, &[&log], u64::try_from(NOW * 1000).unwrap(), 0);
    Scene { leaf: leaf.der, hierarchy }
}

thread_local! {
    static SCENE: Scene = scene();
}

fn exercise(scene: &Scene, der: &[u8]) {
    let _ = tbs_without(der, &oid::SCT_LIST);
    if let Ok(certificate) = Certificate::from_der(der) {
        for profile in [Profile::Shaken, Profile::Vesper] {
            let _ = lint(&certificate, profile);
        }
        let _ = (certificate.subject(), certificate.serial_hex(), certificate.key_description());
    }
    let _ = scene.hierarchy.store.assess(&[der, &scene.hierarchy.intermediate.der]);
    let _ = scene.hierarchy.store.assess(&[&scene.leaf[..], der]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_octets(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        SCENE.with(|scene| {
            let mut der = scene.leaf.clone();
            for (at, value) in &changes {
                let at = at.index(der.len());
                der[at] = *value;
            }
            exercise(scene, &der);
        });
    }

    #[test]
    fn removed_or_inserted_octets(at in any::<prop::sample::Index>(), count in 1usize..20, insert in any::<bool>()) {
        SCENE.with(|scene| {
            let mut der = scene.leaf.clone();
            let at = at.index(der.len());
            if insert {
                der.splice(at..at, vec![0x30; count]);
            } else {
                der.drain(at..(at + count).min(der.len()));
            }
            exercise(scene, &der);
        });
    }

    #[test]
    fn any_octets(octets in prop::collection::vec(any::<u8>(), 0..300)) {
        SCENE.with(|scene| exercise(scene, &octets));
        let _ = SctList::from_extension(&octets);
        let _ = ClaimConstraints::from_der(ConstraintKind::Enhanced, &octets);
        prop_assert!(!certificates_from_pem_or_der(&octets).is_empty());
    }
}

#[test]
fn pem_goes_on_after_a_broken_block() {
    let good = std::fs::read_to_string(format!(
        "{}/tests/vectors/certificate/rfc9118-section5.pem",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap();
    let broken = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    let other = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let text = format!("subject=example\n{good}{broken}{other}\r\n{}", good.replace('\n', "\r\n"));
    let blocks = certificates_from_pem_or_der(text.as_bytes());
    assert_eq!(blocks.len(), 3);
    let der = pem("rfc9118-section5.pem");
    assert_eq!((blocks[0].as_ref().unwrap(), blocks[2].as_ref().unwrap()), (&der, &der));
    assert!(matches!(blocks[1], Err(PemError::Block { .. })));

    assert_eq!(certificates_from_pem_or_der(&der), [Ok(der)]);
    assert_eq!(certificates_from_pem_or_der(b""), [Err(PemError::NoCertificate)]);
    assert_eq!(certificates_from_pem_or_der(other.as_bytes()), [Err(PemError::NoCertificate)]);
    let cut = &good[..good.len() / 2];
    assert!(matches!(certificates_from_pem_or_der(cut.as_bytes())[..], [Err(PemError::Block { .. })]));
}
