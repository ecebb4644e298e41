//! SCTs (RFC 6962): published vectors, and tests T2 to T8.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use vesperd::cert::sct::{Entry, Sct, SctList, sha256, tbs_without};
use vesperd::cert::{
    Certificate, CertificateError, Log, LogList, LogState, PathError, SctCounts, SctError, SctListError, TbsError, oid,
};

use super::support::{
    Authority, DAY, HOUR, Hierarchy, NOW, TestLog, contents, critical, elements, extension, hex, one, pem, resign,
    vesper_params,
};

const LOG_SPKI: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEmXg8sUUzwBYaWrRb+V0IopzQ6o3UyEJ04r5ZrRXGdpYM8K+hB0pXrGRLI0eeWz+3skXrS0IO83AhA3GpRL6s6w==";
const SCT: &str = "00df1c2ec11500945247a96168325ddc5c7959e8f7c6d388fc002e0bbd3f74d7640000013ddb27df9300000403004730450220482f6751af35dba65436be1fd6640f3dbf9a41429495924530288fa3e5e23e06022100e4edc0db3ac572b1e2f5e8ab6a680653987dcf41027dfeffa105519d89edbf08";

fn ms(seconds: i64) -> u64 {
    u64::try_from(seconds * 1000).unwrap()
}

fn vector_entry() -> Entry {
    Entry {
        issuer_key_hash: hex("02adddca08b8bf9861f035940c940156d8350fdff899a6239c6bd77255b8f8fc").try_into().unwrap(),
        tbs: tbs_without(&pem("ct-embedded-sct.pem"), &oid::SCT_LIST).unwrap(),
    }
}

fn vector_key() -> ParsedPublicKey {
    // The point is the last 65 octets of a P-256 SubjectPublicKeyInfo.
    let spki = STANDARD.decode(LOG_SPKI).unwrap();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &spki[spki.len() - 65..]).unwrap()
}

#[test]
fn t1_published_sct_vector() {
    let certificate = Certificate::from_der(&pem("ct-embedded-sct.pem")).unwrap();
    let list = certificate.scts().unwrap().unwrap();
    assert_eq!((list.scts.len(), list.unknown_versions), (1, 0));
    let sct = &list.scts[0];
    assert_eq!(sct.to_octets().unwrap(), hex(SCT));
    assert_eq!(sct.timestamp, 1_365_181_456_275);
    assert_eq!(sct.log_id[..], sha256(&STANDARD.decode(LOG_SPKI).unwrap()));
    assert_eq!((sct.hash_algorithm, sct.signature_algorithm, sct.signature.len()), (4, 3, 71));

    let entry = vector_entry();
    assert_eq!(entry.tbs.len(), 567);
    assert_eq!(sha256(&entry.tbs)[..], hex("f891a12ef5a416b880296328e399ac1fce0b3d794781d11b62b33375beb3a956"));
    assert_eq!(
        STANDARD.encode(entry.leaf_hash(sct.timestamp, &sct.extensions)),
        "mbk+d5FDW3oNZJCbOi828rqC3hf+qhigTWVGcXEZq1U="
    );
    assert!(sct.verifies(&entry, &vector_key()));

    // The extension value is 04 7a, list 0078, SCT 0076, and is written back octet for octet.
    let value = SctList::to_extension(&list.scts).unwrap();
    assert_eq!(value[..6], [0x04, 0x7a, 0x00, 0x78, 0x00, 0x76]);
    assert_eq!(SctList::from_extension(&value).as_ref(), Ok(list));
}

#[test]
fn t2_every_part_of_an_sct_is_under_the_signature() {
    let (entry, key) = (vector_entry(), vector_key());
    let good = Sct::from_octets(&hex(SCT)).unwrap().unwrap();
    assert!(good.verifies(&entry, &key));
    let with = |change: fn(&mut Sct)| {
        let mut sct = good.clone();
        change(&mut sct);
        sct.verifies(&entry, &key)
    };
    assert!(!with(|sct| sct.timestamp ^= 1));
    assert!(!with(|sct| sct.extensions.push(0)));
    assert!(!with(|sct| sct.hash_algorithm = 2));
    assert!(!with(|sct| sct.signature_algorithm = 1));
    assert!(!with(|sct| sct.signature[20] ^= 1));
    // Any other version is not read at all.
    let mut octets = hex(SCT);
    octets[0] = 1;
    assert_eq!(Sct::from_octets(&octets), Ok(None));
    // T3: another issuer key.
    let mut other = entry.clone();
    other.issuer_key_hash[0] ^= 1;
    assert!(!good.verifies(&other, &key));
}

#[test]
fn every_length_of_a_list_must_fit() {
    let sct = hex(SCT);
    let list = |octets: &[u8]| SctList::from_extension(&super::support::tlv(0x04, octets));
    let vector = |octets: &[u8]| [&u16::try_from(octets.len()).unwrap().to_be_bytes()[..], octets].concat();
    let good = vector(&vector(&sct));
    assert!(list(&good).is_ok());
    assert_eq!(list(&vector(&[])), Err(SctListError::Empty));
    assert_eq!(list(&vector(&vector(&[]))), Err(SctListError::Length));
    assert_eq!(list(&[&good[..], &[0]].concat()), Err(SctListError::Length));
    assert_eq!(list(&good[..good.len() - 1]), Err(SctListError::Length));
    assert_eq!(list(&vector(&vector(&[&sct[..], &[0]].concat()))), Err(SctListError::Length));
    assert_eq!(list(&vector(&vector(&sct[..sct.len() - 1]))), Err(SctListError::Length));
    assert_eq!(list(&vector(&vector(&sct).repeat(17))), Err(SctListError::TooMany));
    // Without the inner OCTET STRING.
    assert!(matches!(SctList::from_extension(&good), Err(SctListError::Der(_))));
    // An unknown version is skipped, not refused.
    let skipped = list(&vector(&[vector(&[9, 9]), vector(&sct)].concat())).unwrap();
    assert_eq!((skipped.scts.len(), skipped.unknown_versions), (1, 1));
}

struct Scene {
    hierarchy: Hierarchy,
    log: TestLog,
}

impl Scene {
    fn new() -> Self {
        let mut hierarchy = Hierarchy::new();
        let log = TestLog::new();
        hierarchy.store.logs.add("operator", log.listed(LogState::Usable(0))).unwrap();
        Self { hierarchy, log }
    }

    fn leaf(&self, logs: &[&TestLog], timestamp: u64) -> Authority {
        self.hierarchy.intermediate.issue_logged(vesper_params(&[one("12025550123")]), logs, timestamp, 0)
    }

    fn scts(&self, leaf: &[u8]) -> Result<(), SctError> {
        let chain = [leaf.to_vec(), self.hierarchy.intermediate.der.clone()];
        let verdict = self.hierarchy.store.assess(&chain).unwrap();
        verdict.path.as_ref().unwrap();
        verdict.check_scts(NOW, 60)
    }
}

fn too_few(change: impl FnOnce(&mut SctCounts)) -> Result<(), SctError> {
    let mut counts = SctCounts::default();
    change(&mut counts);
    Err(SctError::TooFew(counts))
}

#[test]
fn a_leaf_with_an_sct_of_a_trusted_log_is_recorded() {
    let scene = Scene::new();
    let leaf = scene.leaf(&[&scene.log], ms(NOW - HOUR));
    assert_eq!(scene.scts(&leaf.der), Ok(()));
    let verdict = scene.hierarchy.store.assess(&scene.hierarchy.chain(&leaf)).unwrap();
    assert_eq!(verdict.vesper_profile, Ok(()));
    assert!(!verdict.scts.unwrap().unusual_timestamp);
    // The anchor issued the leaf directly: its key is the issuer key.
    let direct = scene.hierarchy.root.issue_logged(vesper_params(&[one("911")]), &[&scene.log], ms(NOW), 0);
    let verdict = scene.hierarchy.store.assess(&[&direct.der]).unwrap();
    assert_eq!(verdict.check_scts(NOW, 60), Ok(()));
}

#[test]
fn no_sct_and_no_path_are_told_apart() {
    let scene = Scene::new();
    let bare = scene.hierarchy.intermediate.issue(vesper_params(&[one("12025550123")]));
    assert_eq!(scene.scts(&bare.der), Err(SctError::Absent));
    let leaf = scene.leaf(&[&scene.log], ms(NOW));
    let verdict = scene.hierarchy.store.assess(&[&leaf.der]).unwrap();
    assert_eq!(verdict.path.unwrap_err(), PathError::UnknownAnchor);
    assert_eq!(verdict.scts.unwrap_err(), SctError::NoPath);
}

#[test]
fn t3_an_sct_for_another_issuer_key_does_not_count() {
    let scene = Scene::new();
    let other = scene.hierarchy.root.issue(super::support::ca_params("Intermediate CA"));
    // Logged under the other key of the same name, issued under ours.
    let logged = other.issue_logged(vesper_params(&[one("12025550123")]), &[&scene.log], ms(NOW), 0);
    let leaf = scene.hierarchy.intermediate.issue_with(logged.params, logged.key);
    assert_eq!(scene.scts(&leaf.der), too_few(|counts| counts.bad_signature = 1));
}

#[test]
fn t4_the_list_may_stand_between_other_extensions() {
    let scene = Scene::new();
    let mut params = vesper_params(&[one("12025550123")]);
    params.custom_extensions.push(extension(&oid::NO_REV_AVAIL, vec![0x05, 0x00]));
    let leaf = scene.hierarchy.intermediate.issue_logged(params, &[&scene.log], ms(NOW), 2);
    assert_eq!(scene.scts(&leaf.der), Ok(()));
}

#[test]
fn t5_two_lists_are_an_error() {
    let scene = Scene::new();
    let logged = scene.leaf(&[&scene.log], ms(NOW));
    let leaf = resign(&logged.der, &scene.hierarchy.intermediate.key, None, |fields| {
        let extensions = fields.last_mut().unwrap();
        let mut list = elements(contents(contents(extensions)));
        list.push(list.last().unwrap().clone());
        *extensions = super::support::tlv(0xa3, &super::support::tlv(0x30, &list.concat()));
    });
    let verdict = scene.hierarchy.store.assess(&[leaf.clone(), scene.hierarchy.intermediate.der.clone()]).unwrap();
    assert_eq!(verdict.scts.unwrap_err(), SctError::Malformed(SctListError::Repeated));
    assert!(matches!(verdict.path, Err(PathError::RepeatedExtension { index: 0, .. })));
    assert_eq!(tbs_without(&leaf, &oid::SCT_LIST), Err(TbsError::Repeated));
}

#[test]
fn t6_unknown_logs_are_skipped() {
    let scene = Scene::new();
    let unknown = TestLog::new();
    let leaf = scene.leaf(&[&unknown, &scene.log], ms(NOW));
    assert_eq!(scene.scts(&leaf.der), Ok(()));
    let leaf = scene.leaf(&[&unknown], ms(NOW));
    assert_eq!(scene.scts(&leaf.der), too_few(|counts| counts.unknown_log = 1));
}

#[test]
fn t7_an_sct_from_the_future_counts_within_the_skew_only() {
    let scene = Scene::new();
    for (offset, outcome) in [(59, Ok(())), (60, Ok(())), (61, Err(SctError::Future { timestamp: ms(NOW + 61) }))] {
        let leaf = scene.leaf(&[&scene.log], ms(NOW + offset));
        assert_eq!(scene.scts(&leaf.der), outcome, "{offset}");
    }
    // The refusal is not baked into the verdict.
    let leaf = scene.leaf(&[&scene.log], ms(NOW + 61));
    let verdict = scene.hierarchy.store.assess(&scene.hierarchy.chain(&leaf)).unwrap();
    assert!(verdict.check_scts(NOW, 60).is_err());
    assert!(verdict.check_scts(NOW + 1, 60).is_ok());
}

#[test]
fn t8_a_precertificate_is_no_leaf() {
    let scene = Scene::new();
    let mut params = vesper_params(&[one("12025550123")]);
    params.custom_extensions.push(critical(extension(&oid::PRECERTIFICATE_POISON, vec![0x05, 0x00])));
    let precertificate = scene.hierarchy.intermediate.issue(params.clone());
    let chain = scene.hierarchy.chain(&precertificate);
    assert_eq!(scene.hierarchy.store.assess(&chain).unwrap_err(), CertificateError::Precertificate);
    // Poison and SCT list together are refused, not both stripped.
    let list = SctList::to_extension(&[Sct::from_octets(&hex(SCT)).unwrap().unwrap()]).unwrap();
    params.custom_extensions.push(extension(&oid::SCT_LIST, list));
    let both = scene.hierarchy.intermediate.issue(params);
    for drop in [&oid::SCT_LIST, &oid::PRECERTIFICATE_POISON] {
        assert_eq!(tbs_without(&both.der, drop), Err(TbsError::PoisonAndScts));
    }
    assert_eq!(tbs_without(&scene.hierarchy.root.der, &oid::SCT_LIST), Err(TbsError::Absent));
}

#[test]
fn precertificate_and_certificate_yield_the_same_entry() {
    let scene = Scene::new();
    let mut pre = vesper_params(&[one("12025550123")]);
    let mut fin = pre.clone();
    pre.custom_extensions.insert(0, critical(extension(&oid::PRECERTIFICATE_POISON, vec![0x05, 0x00])));
    let pre = scene.hierarchy.intermediate.issue_with(pre, super::support::p256());
    let sct =
        scene.log.sign(&Entry::of_precertificate(&pre.der, &scene.hierarchy.intermediate.spki()).unwrap(), 1, &[]);
    fin.custom_extensions.push(extension(&oid::SCT_LIST, SctList::to_extension(&[sct]).unwrap()));
    let (spki, pre_der) = (scene.hierarchy.intermediate.spki(), pre.der.clone());
    let fin = scene.hierarchy.intermediate.issue_with(fin, pre.key);
    assert_eq!(Entry::of_certificate(&fin.der, &spki), Entry::of_precertificate(&pre_der, &spki));
}

#[test]
fn two_scts_of_one_log_count_once() {
    let mut scene = Scene::new();
    scene.hierarchy.store.policy.min_sct_logs = 2;
    let leaf = scene.leaf(&[&scene.log, &scene.log], ms(NOW));
    assert_eq!(scene.scts(&leaf.der), too_few(|counts| (counts.valid, counts.skipped) = (1, 1)));
    let second = TestLog::new();
    scene.hierarchy.store.logs.add("another", second.listed(LogState::Qualified(0))).unwrap();
    let leaf = scene.leaf(&[&scene.log, &second], ms(NOW));
    assert_eq!(scene.scts(&leaf.der), Ok(()));
}

#[test]
fn the_state_of_a_log_bounds_its_scts() {
    let mut scene = Scene::new();
    let leaf = scene.leaf(&[&scene.log], ms(NOW));
    for (state, good) in [
        (LogState::Usable(0), true),
        (LogState::Qualified(0), true),
        (LogState::ReadOnly(ms(NOW)), true),
        (LogState::Retired(ms(NOW + 1)), true),
        (LogState::Retired(ms(NOW) - 1), false),
        (LogState::Pending(0), false),
        (LogState::Rejected(0), false),
    ] {
        scene.hierarchy.store.logs = LogList::new();
        scene.hierarchy.store.logs.add("operator", scene.log.listed(state)).unwrap();
        let expected = if good { Ok(()) } else { too_few(|counts| counts.untrusted_log = 1) };
        assert_eq!(scene.scts(&leaf.der), expected, "{state:?}");
    }
}

#[test]
fn sct_signatures_have_a_budget() {
    let mut scene = Scene::new();
    scene.hierarchy.store.limits.max_sct_signatures = 1;
    let bad = TestLog::new();
    // A listed log whose SCT was signed for nothing eats the budget.
    let spki = rcgen::PublicKeyData::subject_public_key_info(&bad.key);
    let listed = Log::new("bad", &spki, 0, LogState::Usable(0), None).unwrap();
    scene.hierarchy.store.logs.add("operator", listed).unwrap();
    let good = scene.leaf(&[&scene.log], ms(NOW));
    let mut scts = Certificate::from_der(&good.der).unwrap().scts().unwrap().unwrap().scts.clone();
    scts.insert(0, Sct { log_id: sha256(&spki), ..scts[0].clone() });
    let mut params = vesper_params(&[one("12025550123")]);
    params.custom_extensions.push(extension(&oid::SCT_LIST, SctList::to_extension(&scts).unwrap()));
    let leaf = scene.hierarchy.intermediate.issue_with(params, good.key);
    let expected = too_few(|counts| (counts.bad_signature, counts.skipped) = (1, 1));
    assert_eq!(scene.scts(&leaf.der), expected);
    scene.hierarchy.store.limits.max_sct_signatures = 2;
    assert_eq!(scene.scts(&leaf.der), Ok(()));
}

#[test]
fn a_timestamp_far_from_the_validity_is_remarked() {
    let scene = Scene::new();
    for (timestamp, unusual) in [(NOW - HOUR - 2 * DAY, false), (NOW - HOUR - 2 * DAY - 1, true)] {
        let leaf = scene.leaf(&[&scene.log], ms(timestamp));
        let verdict = scene.hierarchy.store.assess(&scene.hierarchy.chain(&leaf)).unwrap();
        assert_eq!(verdict.scts.unwrap().unusual_timestamp, unusual);
    }
}
