//! RFC 9060 section 4.1: the TNAuthLists along a path.

use rcgen::{CertificateParams, CustomExtension};
use vesperd::cert::{LogState, PathError, ScopeBasis, TnAuthListError, TnEntry, TrustStore, UnprovenSpc, oid};

use super::support::{
    Authority, Hierarchy, NOW, TestLog, ca_params, extension, hex, leaf_params, one, range, spc, tlv, tn_extension,
    trusting, vesper_params,
};

fn ca_with(name: &str, entries: &[TnEntry]) -> CertificateParams {
    let mut params = ca_params(name);
    params.custom_extensions.push(tn_extension(entries));
    params
}

/// Root (no list) - SCA (`upper`) - delegate CA (`lower`) - leaf.
fn basis(upper: Option<&[TnEntry]>, lower: Option<&[TnEntry]>, leaf: &[TnEntry]) -> Result<ScopeBasis, PathError> {
    basis_under(&TrustStore::default(), upper, lower, leaf)
}

fn basis_under(
    like: &TrustStore,
    upper: Option<&[TnEntry]>,
    lower: Option<&[TnEntry]>,
    leaf: &[TnEntry],
) -> Result<ScopeBasis, PathError> {
    let params =
        |name, entries: Option<&[TnEntry]>| entries.map_or_else(|| ca_params(name), |list| ca_with(name, list));
    let root = Authority::root(ca_params("Root CA"));
    let upper = root.issue(params("SCA", upper));
    let lower = upper.issue(params("Delegate CA", lower));
    let leaf = lower.issue(vesper_params(leaf));
    let mut store = trusting(&root);
    store.policy = like.policy.clone();
    store.assess(&[leaf.der, lower.der, upper.der]).unwrap().path.map(|facts| facts.scope)
}

#[test]
fn each_list_must_lie_inside_the_one_above() {
    let block = [range("12025550100", 100)];
    assert_eq!(basis(Some(&block), Some(&[range("12025550110", 10)]), &[one("12025550119")]), Ok(ScopeBasis::Proven));
    assert!(matches!(
        basis(Some(&block), Some(&[range("12025550110", 10)]), &[one("12025550120")]),
        Err(PathError::Scope { index: 0, excess }) if excess.entry == one("12025550120")
    ));
    assert!(matches!(
        basis(Some(&block), Some(&[range("12025550110", 91)]), &[one("12025550119")]),
        Err(PathError::Scope { index: 1, .. })
    ));
    // Abutting ranges are one interval.
    let abutting = [range("12025550100", 50), range("12025550150", 50)];
    assert_eq!(basis(Some(&abutting), Some(&block), &block), Ok(ScopeBasis::Proven));
}

#[test]
fn a_certificate_without_a_list_leaves_the_limit_unchanged() {
    let block = [range("12025550100", 100)];
    assert_eq!(basis(None, None, &[one("911")]), Ok(ScopeBasis::Unbounded));
    assert_eq!(basis(Some(&block), None, &[one("12025550199")]), Ok(ScopeBasis::Proven));
    assert!(matches!(basis(Some(&block), None, &[one("12025550200")]), Err(PathError::Scope { index: 0, .. })));
    assert_eq!(basis(None, Some(&block), &[one("12025550199")]), Ok(ScopeBasis::Proven));
    let mut strict = TrustStore::default();
    strict.policy.allow_direct_ca = false;
    assert_eq!(basis_under(&strict, None, None, &[one("911")]), Err(PathError::NotDelegated));
    assert_eq!(basis_under(&strict, None, Some(&block), &[one("12025550199")]), Ok(ScopeBasis::Proven));
}

#[test]
fn an_anchors_list_binds_too() {
    let anchor = Authority::root(ca_with("SCA", &[range("12025550100", 100)]));
    let store = trusting(&anchor);
    let inside = anchor.issue(vesper_params(&[one("12025550150")]));
    assert_eq!(store.assess(&[inside.der]).unwrap().path.unwrap().scope, ScopeBasis::Proven);
    let outside = anchor.issue(vesper_params(&[one("12025550250")]));
    assert!(matches!(store.assess(&[outside.der]).unwrap().path, Err(PathError::Scope { index: 0, .. })));
}

#[test]
fn numbers_under_a_code_need_an_sct_by_default() {
    let code = [spc("709J")];
    let number = [one("12025550123")];
    assert_eq!(basis(Some(&code), None, &number), Err(PathError::UnprovenScope));
    let mut lenient = TrustStore::default();
    lenient.policy.unproven_spc = UnprovenSpc::Always;
    assert_eq!(basis_under(&lenient, Some(&code), None, &number), Ok(ScopeBasis::UnprovenSpc));
    // Once unproven, a proven step below does not make it proven.
    assert_eq!(basis_under(&lenient, Some(&code), Some(&number), &number), Ok(ScopeBasis::UnprovenSpc));

    let mut hierarchy = Hierarchy::with(ca_with("SCA", &code));
    let log = TestLog::new();
    hierarchy.store.logs.add("operator", log.listed(LogState::Usable(0))).unwrap();
    let timestamp = u64::try_from(NOW * 1000).unwrap();
    let leaf = hierarchy.intermediate.issue_logged(vesper_params(&number), &[&log], timestamp, 0);
    let chain = hierarchy.chain(&leaf);
    assert_eq!(hierarchy.store.assess(&chain).unwrap().path.unwrap().scope, ScopeBasis::UnprovenSpc);
    hierarchy.store.policy.unproven_spc = UnprovenSpc::Never;
    assert_eq!(hierarchy.store.assess(&chain).unwrap().path.unwrap_err(), PathError::UnprovenScope);
    // The same code in a child needs no proof.
    assert_eq!(basis(Some(&code), None, &code), Ok(ScopeBasis::Proven));
    assert!(matches!(basis(Some(&code), None, &[spc("1234")]), Err(PathError::Scope { index: 0, .. })));
}

#[test]
fn an_issuers_list_that_cannot_be_used_stops_the_path() {
    let assess = |add: CustomExtension| {
        let mut ca = ca_params("SCA");
        ca.custom_extensions.push(add);
        let hierarchy = Hierarchy::with(ca);
        let leaf = hierarchy.intermediate.issue(vesper_params(&[one("911")]));
        hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap().path.unwrap_err()
    };
    let malformed = extension(&oid::TN_AUTH_LIST, hex("3006130431323334"));
    let error = TnAuthListError::UnknownChoice { entry: 0, tag: 0x13 };
    assert_eq!(assess(malformed), PathError::IssuerScope { index: 1, error });
    // Authority information access, id-ad-stirTNList: by reference, and nobody fetches here.
    assert_eq!(assess(by_reference()), PathError::ScopeByReference { index: 1 });
}

fn by_reference() -> CustomExtension {
    let uri = tlv(0x86, b"https://sti.example/list");
    let access = tlv(0x30, &tlv(0x30, &[tlv(0x06, oid::STIR_TN_LIST.der), uri].concat()));
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access)
}

#[test]
fn a_leafs_list_is_absent_readable_malformed_or_elsewhere() {
    let hierarchy = Hierarchy::new();
    let assess = |add: Option<CustomExtension>| {
        let mut params = leaf_params();
        params.custom_extensions.extend(add);
        let leaf = hierarchy.intermediate.issue(params);
        hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap()
    };
    let verdict = assess(None);
    assert!(verdict.path.is_ok() && verdict.leaf.tn_auth_list().is_none());
    // The two malformed shapes seen in production: PrintableString in the SEQUENCE, IA5String past the end.
    for malformed in ["3006130431323334", "3008a006160831323334"] {
        let verdict = assess(Some(extension(&oid::TN_AUTH_LIST, hex(malformed))));
        assert!(verdict.path.is_ok() && verdict.leaf.tn_auth_list().unwrap().is_err());
    }
    let verdict = assess(Some(by_reference()));
    assert!(verdict.path.is_ok() && verdict.leaf.tn_auth_list().is_none());
    assert_eq!(verdict.leaf.tn_auth_list_uris(), ["https://sti.example/list"]);
    // Twice: neither is believed.
    let mut params = leaf_params();
    params.custom_extensions.push(tn_extension(&[one("911")]));
    params.custom_extensions.push(tn_extension(&[one("112")]));
    let twice = hierarchy.intermediate.issue(params);
    let verdict = hierarchy.store.assess(&hierarchy.chain(&twice)).unwrap();
    assert_eq!(verdict.leaf.tn_auth_list(), Some(Err(&TnAuthListError::Repeated)));
}
