//! Claim constraints (RFC 8226 section 8, RFC 9118).

use serde_json::{Map, Value, json};
use vesperd::cert::{
    Certificate, ClaimConstraints, ClaimConstraintsError, ConstraintKind, ConstraintViolation, PermittedValues, oid,
};

use super::support::{Hierarchy, extension, hex, leaf_params, pem, tlv};

const VECTOR: &str = "3040a00e300c160a636f6e666964656e6365a120301e301c160a636f6e666964\
656e6365300e0c04686967680c066d656469756da20c300a16087072696f7269\
7479";

fn claims(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn permitted(claim: &str, values: &[&str]) -> PermittedValues {
    PermittedValues { claim: claim.to_owned(), values: names(values) }
}

fn enhanced(include: &[&str], values: Vec<PermittedValues>, exclude: &[&str]) -> ClaimConstraints {
    ClaimConstraints::new(ConstraintKind::Enhanced, names(include), values, names(exclude)).unwrap()
}

#[test]
fn rfc_9118_section_5_certificate() {
    let certificate = Certificate::from_der(&pem("rfc9118-section5.pem")).unwrap();
    assert_eq!(
        vesperd::cert::sct::sha256(certificate.der())[..],
        hex("85b1a780a9a515c723eb28b0c972e224b54ed554b1acef3aa16dfd15d9e01c25")
    );
    assert_eq!(certificate.subject_common_name(), Some("SHAKEN"));
    assert_eq!((certificate.not_before(), certificate.not_after()), (1_626_385_935, 1_657_921_935));
    assert_eq!(certificate.tn_auth_list().unwrap().unwrap().to_der(), hex("3008a006160431323334"));
    let constraints = certificate.claim_constraints().unwrap().unwrap();
    assert_eq!(constraints.kind(), ConstraintKind::Enhanced);
    assert_eq!(constraints.must_include(), ["confidence"]);
    assert_eq!(constraints.permitted(), [permitted("confidence", &["high", "medium"])]);
    assert_eq!(constraints.must_exclude(), ["priority"]);
    assert_eq!(constraints.to_der(), hex(VECTOR));
    assert_eq!(ClaimConstraints::from_der(ConstraintKind::Enhanced, &hex(VECTOR)).as_ref(), Ok(constraints));

    let check = |value| constraints.check(&claims(value));
    let claim = || "confidence".to_owned();
    assert_eq!(check(json!({"confidence": "high"})), Ok(()));
    assert_eq!(check(json!({})), Err(ConstraintViolation::Missing { claim: claim() }));
    assert_eq!(check(json!({"confidence": "low"})), Err(ConstraintViolation::ValueNotPermitted { claim: claim() }));
    assert_eq!(
        check(json!({"confidence": "high", "priority": 1})),
        Err(ConstraintViolation::Excluded { claim: "priority".to_owned() })
    );
    // Exact match: no case folding.
    assert!(check(json!({"confidence": "High"})).is_err());
}

#[test]
fn a_permitted_value_binds_only_a_claim_that_is_there() {
    let constraints = enhanced(&[], vec![permitted("attest", &["A"])], &[]);
    assert_eq!(constraints.check(&claims(json!({}))), Ok(()));
    assert!(constraints.check(&claims(json!({"attest": "B"}))).is_err());
}

#[test]
fn values_compare_by_the_rule_of_their_json_type() {
    let constraints = enhanced(
        &[],
        vec![permitted("x", &["A", "7", "true", r#"{"b": 1, "a": [1, 2]}"#, r#"{"nam":"caf\u00e9"}"#])],
        &[],
    );
    let ok = |value: Value| constraints.check(&claims(json!({ "x": value }))).is_ok();
    assert!(ok(json!("A")) && ok(json!("7")) && ok(json!(7)) && ok(json!(true)));
    assert!(!ok(json!(8)) && !ok(json!("B")) && !ok(json!(null)) && !ok(json!(7.5)));
    // Structures: any member order and whitespace on the certificate's side.
    assert!(ok(json!({"a": [1, 2], "b": 1})) && !ok(json!({"a": [2, 1], "b": 1})));
    assert!(ok(json!({"nam": "café"})));
    // A permitted value is never parsed for a string: this is the text of a structure, not the structure.
    assert!(!ok(json!(r#"{"a":[1,2],"b":1}"#)));
    let canonical = enhanced(&[], vec![permitted("x", &[r#"{"a":[1,2],"b":1}"#])], &[]);
    assert!(canonical.check(&claims(json!({"x": {"b": 1, "a": [1, 2]}}))).is_ok());
}

#[test]
fn excluding_a_base_claim_voids_the_extension() {
    for base in ["iat", "orig", "dest"] {
        let constraints = enhanced(&["rcd"], vec![permitted("attest", &["A"])], &[base, "priority"]);
        assert!(constraints.is_void());
        assert_eq!(constraints.check(&claims(json!({"iat": 1, "attest": "C", "priority": 1}))), Ok(()));
        // As if absent: nothing beyond the baseline is authorized.
        assert!(constraints.authorizes("iat") && constraints.authorizes("mky"));
        assert!(!constraints.authorizes("rcd") && !constraints.authorizes("attest"));
    }
}

#[test]
fn conforming_and_authorized_are_two_questions() {
    let constraints = enhanced(&["rcd"], vec![permitted("attest", &["A"])], &["mky"]);
    assert!(constraints.check(&claims(json!({"rcd": {}, "crn": "x"}))).is_ok());
    for (claim, authorized) in
        [("rcd", true), ("attest", true), ("crn", false), ("orig", true), ("div", true), ("mky", false), ("RCD", false)]
    {
        assert_eq!(constraints.authorizes(claim), authorized, "{claim}");
    }
}

#[test]
fn forcing_rich_call_data_by_digest() {
    // RFC 9795 section 6.2.
    let rcdi = r#"{"/icn":"sha256-RojgWwU6xUtI4q82+kHPyHm1JKbm7+663bMvzymhkl4"}"#;
    let constraints = enhanced(&["rcd", "rcdi"], vec![permitted("rcdi", &[rcdi])], &[]);
    let digest: Value = serde_json::from_str(rcdi).unwrap();
    assert!(constraints.check(&claims(json!({"rcd": {"nam": "x"}, "rcdi": digest}))).is_ok());
    assert!(constraints.check(&claims(json!({"rcd": {"nam": "x"}}))).is_err());
    assert!(constraints.check(&claims(json!({"rcd": {}, "rcdi": {"/icn": "sha256-other"}}))).is_err());
}

#[test]
fn malformed_extensions_are_refused() {
    use ClaimConstraintsError as E;
    let names = |names: &[&[u8]]| tlv(0x30, &names.iter().flat_map(|name| tlv(0x16, name)).collect::<Vec<_>>());
    let include = |names: Vec<u8>| tlv(0x30, &tlv(0xa0, &names));
    let read = |kind, der: &[u8]| ClaimConstraints::from_der(kind, der).unwrap_err();
    let kind = ConstraintKind::Enhanced;
    assert_eq!(read(kind, &hex("3000")), E::Empty);
    assert_eq!(read(kind, &include(tlv(0x30, &[]))), E::EmptyList);
    assert_eq!(read(kind, &include(names(&["café".as_bytes()]))), E::ClaimName);
    assert_eq!(read(kind, &include(names(&[b""]))), E::ClaimName);
    // IMPLICIT tagging: the names follow [0] directly.
    assert!(matches!(read(kind, &tlv(0x30, &tlv(0xa0, &tlv(0x16, b"rcd")))), E::Der(_)));
    let mut trailing = hex(VECTOR);
    trailing.push(0);
    assert!(matches!(read(kind, &trailing), E::Der(_)));
    // The basic extension has no [2].
    assert_eq!(read(ConstraintKind::Basic, &hex(VECTOR)), E::ExcludeInBasic);
    let value = tlv(0x30, &[tlv(0x16, b"x"), tlv(0x30, &tlv(0x0c, &[0xff]))].concat());
    assert_eq!(read(kind, &tlv(0x30, &tlv(0xa1, &tlv(0x30, &value)))), E::Utf8);
    let no_values = tlv(0x30, &[tlv(0x16, b"x"), tlv(0x30, &[])].concat());
    assert_eq!(read(kind, &tlv(0x30, &tlv(0xa1, &tlv(0x30, &no_values)))), E::EmptyList);
    let many = include(names(&vec![&b"x"[..]; ClaimConstraints::MAX_ITEMS + 1]));
    assert_eq!(read(kind, &many), E::TooManyItems);
}

#[test]
fn both_extensions_in_one_certificate_are_an_error_of_the_certificate() {
    let hierarchy = Hierarchy::new();
    let basic = ClaimConstraints::new(ConstraintKind::Basic, names(&["rcd"]), Vec::new(), Vec::new()).unwrap();
    let mut params = leaf_params();
    params.custom_extensions.push(extension(&oid::JWT_CLAIM_CONSTRAINTS, basic.to_der()));
    let alone = Certificate::from_der(&hierarchy.intermediate.issue(params.clone()).der).unwrap();
    assert_eq!(alone.claim_constraints(), Some(Ok(&basic)));
    assert!(alone.authorizes_claim("rcd") && !alone.authorizes_claim("attest"));

    params.custom_extensions.push(extension(&oid::ENHANCED_JWT_CLAIM_CONSTRAINTS, hex(VECTOR)));
    let both = Certificate::from_der(&hierarchy.intermediate.issue(params).der).unwrap();
    assert_eq!(both.claim_constraints(), Some(Err(&ClaimConstraintsError::BothKinds)));
    // Fail closed: nothing beyond the baseline.
    assert!(!both.authorizes_claim("rcd") && both.authorizes_claim("dest"));

    let mut params = leaf_params();
    params.custom_extensions.push(extension(&oid::JWT_CLAIM_CONSTRAINTS, basic.to_der()));
    params.custom_extensions.push(extension(&oid::JWT_CLAIM_CONSTRAINTS, basic.to_der()));
    let twice = Certificate::from_der(&hierarchy.intermediate.issue(params).der).unwrap();
    assert_eq!(twice.claim_constraints(), Some(Err(&ClaimConstraintsError::Repeated)));
}
