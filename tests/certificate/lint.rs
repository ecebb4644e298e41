//! Lint: clean certificates are clean, and each defect is named.

use rcgen::{CertificateParams, CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use vesperd::cert::lint::{Level, Profile, lint};
use vesperd::cert::{Certificate, ClaimConstraints, ConstraintKind, oid};

use super::support::{
    DAY, Hierarchy, NOW, TestLog, certificate_policies, critical, extension, hex, leaf_params, one, range,
    set_validity, shaken_params, spc, tlv, tn_extension, vesper_params,
};

fn errors_and_warnings(certificate: &Certificate, profile: Profile) -> Vec<&'static str> {
    let serious = lint(certificate, profile).into_iter().filter(|finding| finding.level > Level::Notice);
    serious.map(|finding| finding.id).collect()
}

/// subjectKeyIdentifier by SHA-1 is the usual method, not rcgen's default; that rule is of no interest here.
fn findings(params: CertificateParams, profile: Profile) -> Vec<&'static str> {
    let hierarchy = Hierarchy::new();
    let der = hierarchy.intermediate.issue(params).der;
    let mut found = errors_and_warnings(&Certificate::from_der(&der).unwrap(), profile);
    found.retain(|id| *id != "subject_key_identifier_value");
    found
}

/// A leaf as the SHAKEN profile wants it.
fn model_shaken() -> CertificateParams {
    let mut params = shaken_params();
    let serial_number = DnType::CustomDnType(vec![2, 5, 4, 5]);
    params.distinguished_name.push(serial_number, "1");
    params.custom_extensions.push(certificate_policies(&hex("60864801 86ff09010104".replace(' ', "").as_str())));
    // One DistributionPoint: [0] [0] URI, and [2] cRLIssuer with a directoryName.
    let uri = tlv(0xa0, &tlv(0xa0, &tlv(0x86, b"https://crl.example/crl")));
    let attribute = tlv(0x30, &[tlv(0x06, &[0x55, 4, 3]), tlv(0x0c, b"STI-PA CRL")].concat());
    let name = tlv(0x30, &tlv(0x31, &attribute));
    let issuer = tlv(0xa2, &tlv(0xa4, &name));
    let points = tlv(0x30, &tlv(0x30, &[uri, issuer].concat()));
    params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 31], points));
    params
}

#[test]
fn a_model_shaken_leaf_is_clean() {
    assert_eq!(findings(model_shaken(), Profile::Shaken), Vec::<&str>::new());
}

#[test]
fn shaken_defects() {
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = model_shaken();
        change(&mut params);
        findings(params, Profile::Shaken)
    };
    assert_eq!(
        with(|params| params.distinguished_name.push(DnType::CommonName, "Example SHAKEN 1234")),
        ["shaken_subject_common_name"]
    );
    assert_eq!(with(|params| params.distinguished_name.push(DnType::CountryName, "usa")), ["shaken_subject_country"]);
    assert_eq!(
        with(|params| {
            params.distinguished_name.remove(DnType::OrganizationName);
        }),
        ["shaken_subject_organization"]
    );
    assert_eq!(with(|params| params.key_usages.push(KeyUsagePurpose::KeyAgreement)), ["key_usage"]);
    assert_eq!(with(|params| params.use_authority_key_identifier_extension = false), ["authority_key_identifier"]);
    assert_eq!(
        with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ["shaken_other_extension"]
    );
    assert_eq!(
        with(|params| params.custom_extensions[0] = tn_extension(&[spc("709j")])),
        ["shaken_subject_common_name", "shaken_tn_auth_list"]
    );
    assert_eq!(
        with(|params| params.custom_extensions[0] = tn_extension(&[one("12025550123")])),
        ["shaken_tn_auth_list"]
    );
    assert_eq!(
        with(|params| params.custom_extensions[0] = extension(&oid::TN_AUTH_LIST, hex("3006130431323334"))),
        ["tn_auth_list_malformed"]
    );
    assert_eq!(
        with(|params| {
            params.custom_extensions.remove(0);
        }),
        ["shaken_tn_auth_list"]
    );
    assert_eq!(
        with(|params| {
            let policy = params.custom_extensions.remove(1);
            params.custom_extensions.push(critical(policy));
        }),
        ["shaken_certificate_policies_critical"]
    );
    assert_eq!(
        with(|params| {
            params.custom_extensions.pop();
            params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec!["https://x.example".to_owned()] }];
        }),
        ["shaken_crl_distribution_point"]
    );
    assert_eq!(
        with(|params| params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x7f; 7]))),
        ["serial_bits"]
    );
}

#[test]
fn a_model_vesper_leaf_is_clean() {
    let hierarchy = Hierarchy::new();
    let log = TestLog::new();
    let timestamp = u64::try_from(NOW * 1000).unwrap();
    let leaf = hierarchy.intermediate.issue_logged(vesper_params(&[one("12025550123")]), &[&log], timestamp, 0);
    let certificate = Certificate::from_der(&leaf.der).unwrap();
    assert_eq!(Profile::of(&certificate), Profile::Vesper);
    let mut found = errors_and_warnings(&certificate, Profile::Vesper);
    found.retain(|id| *id != "subject_key_identifier_value");
    assert_eq!(found, Vec::<&str>::new());
    // SHAKEN by construction objects.
    assert!(!errors_and_warnings(&certificate, Profile::Shaken).is_empty());
}

#[test]
fn vesper_defects() {
    // Not logged, which is one finding of each.
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = vesper_params(&[one("12025550123")]);
        change(&mut params);
        let mut found = findings(params, Profile::Vesper);
        let before = found.len();
        found.retain(|id| *id != "vesper_scts");
        assert_eq!(found.len() + 1, before);
        found
    };
    assert_eq!(with(|_| {}), Vec::<&str>::new());
    assert_eq!(with(|params| params.subject_alt_names.clear()), ["vesper_dns_name"]);
    assert_eq!(
        with(|params| params.subject_alt_names = vec![SanType::DnsName("*.retail.example".try_into().unwrap())]),
        ["vesper_dns_name"]
    );
    assert_eq!(
        with(|params| params.subject_alt_names.push(SanType::DnsName("second.example".try_into().unwrap()))),
        ["vesper_single_dns_name"]
    );
    assert_eq!(with(|params| params.custom_extensions[0] = tn_extension(&[spc("709J")])), ["vesper_tn_auth_list"]);
    assert_eq!(with(|params| set_validity(params, NOW, NOW + 8 * DAY)), ["vesper_lifetime"]);
    assert_eq!(with(|params| set_validity(params, NOW, NOW + 91 * DAY)), ["vesper_lifetime", "vesper_lifetime_limit"]);
    assert_eq!(with(|params| params.is_ca = rcgen::IsCa::NoCa), ["basic_constraints", "subject_key_identifier"]);
    let constraints = |include: &[&str], exclude: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let value = ClaimConstraints::new(ConstraintKind::Enhanced, names(include), Vec::new(), names(exclude));
        extension(&oid::ENHANCED_JWT_CLAIM_CONSTRAINTS, value.unwrap().to_der())
    };
    let with_constraints = |include: &[&str], exclude: &[&str]| {
        let mut params = vesper_params(&[one("12025550123")]);
        params.custom_extensions.push(constraints(include, exclude));
        let mut found = findings(params, Profile::Vesper);
        found.retain(|id| *id != "vesper_scts");
        found
    };
    assert_eq!(with_constraints(&["rcd"], &["crn"]), Vec::<&str>::new());
    assert_eq!(with_constraints(&["rcd"], &["rcd"]), ["claim_constraints_contradictory"]);
    assert_eq!(with_constraints(&["rcd"], &["orig"]), ["claim_constraints_void"]);
    assert_eq!(with_constraints(&["iat"], &["rcdi"]), ["claim_constraints_base_claim", "claim_constraints_rcdi"]);
}

#[test]
fn the_profile_follows_the_content() {
    let hierarchy = Hierarchy::new();
    let of = |params| Profile::of(&Certificate::from_der(&hierarchy.intermediate.issue(params).der).unwrap());
    assert_eq!(of(shaken_params()), Profile::Shaken);
    assert_eq!(of(leaf_params()), Profile::Shaken);
    assert_eq!(of(vesper_params(&[spc("709J"), range("12025550100", 10)])), Profile::Vesper);
    assert_eq!(Profile::of(&Certificate::from_der(&hierarchy.intermediate.der).unwrap()), Profile::Shaken);
}
