//! The path, one fault at a time. The TNAuthLists along it are in `scope`.

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CrlDistributionPoint, DnType, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA256, SanType, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use vesperd::cert::{
    AnchorError, Certificate, CertificateError, PathError, ProfileError, ScopeBasis, TrustAnchors, TrustStore,
    ValidityError, oid,
};

use super::support::{
    Authority, DAY, HOUR, Hierarchy, NOW, ca_params, certificate_policies, critical, elements, es256, extension,
    leaf_params, one, p256, params, resign, set_validity, shaken_params, tlv, trusting, vesper_params,
};

const POLICY: [u8; 10] = [0x60, 0x86, 0x48, 0x01, 0x86, 0xff, 0x09, 0x01, 0x01, 0x04];

fn path_error(store: &TrustStore, chain: &[Vec<u8>]) -> PathError {
    store.assess(chain).unwrap().path.unwrap_err()
}

fn accepts(store: &TrustStore, chain: &[Vec<u8>]) -> bool {
    store.assess(chain).unwrap().path.is_ok()
}

#[test]
fn r22_a_good_chain_validates_and_verifies_tokens() {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let verdict = hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap();
    let path = verdict.path.as_ref().unwrap();
    assert_eq!((path.length, path.scope), (2, ScopeBasis::Unbounded));
    assert_eq!(path.anchor.der(), hierarchy.root.der);
    assert_eq!(path.issuer_spki, hierarchy.intermediate.spki());
    assert!(!path.missing_key_identifier && !path.null_parameter);
    assert_eq!((verdict.not_before, verdict.not_after), (NOW - HOUR, NOW - HOUR + DAY));
    let signature = es256(&leaf.key, b"header.payload");
    assert!(verdict.verify_es256(b"header.payload", &signature));
    assert!(!verdict.verify_es256(b"header.Payload", &signature));
    assert!(!verdict.verify_es256(b"header.payload", &[0; 64]));
    // Not a VESPER leaf: no number.
    assert_eq!(verdict.vesper_profile, Err(ProfileError::NoNumber));
}

#[test]
fn the_root_may_be_sent_and_must_be_an_anchor() {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let mut chain = hierarchy.chain(&leaf);
    chain.push(hierarchy.root.der.clone());
    assert_eq!(hierarchy.store.assess(&chain).unwrap().path.unwrap().length, 2);
    let strange = trusting(&Authority::root(ca_params("Another root")));
    assert_eq!(path_error(&strange, &chain), PathError::UnknownAnchor);
    assert_eq!(path_error(&TrustStore::default(), &chain), PathError::UnknownAnchor);
}

#[test]
fn an_intermediate_may_be_the_anchor() {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let store = trusting(&hierarchy.intermediate);
    let mut chain = hierarchy.chain(&leaf);
    assert!(accepts(&store, &chain[..1]));
    assert_eq!(store.assess(&chain).unwrap().path.unwrap().length, 1);
    // A certificate beyond the anchor that is no anchor itself is unused.
    chain.push(hierarchy.root.der.clone());
    assert_eq!(path_error(&store, &chain), PathError::Unused { index: 2 });
    let mut both = store.clone();
    both.anchors.add_der(&hierarchy.root.der).unwrap();
    assert!(accepts(&both, &chain));
}

#[test]
fn order_gaps_and_strangers() {
    let hierarchy = Hierarchy::new();
    let issuing = hierarchy.intermediate.issue(ca_params("Issuing CA"));
    let leaf = issuing.issue(shaken_params());
    let (leaf_der, issuing, intermediate) = (leaf.der, issuing.der, hierarchy.intermediate.der.clone());
    let chain = |list: &[&Vec<u8>]| list.iter().map(|&der| der.clone()).collect::<Vec<_>>();
    let store = &hierarchy.store;
    assert!(accepts(store, &chain(&[&leaf_der, &issuing, &intermediate])));
    let swapped = chain(&[&leaf_der, &intermediate, &issuing]);
    assert_eq!(path_error(store, &swapped), PathError::IssuerName { index: 0 });
    assert_eq!(path_error(store, &chain(&[&leaf_der, &issuing])), PathError::UnknownAnchor);
    assert_eq!(path_error(store, &chain(&[&leaf_der, &intermediate])), PathError::IssuerName { index: 0 });
    assert_eq!(
        path_error(store, &chain(&[&leaf_der, &issuing, &issuing, &intermediate])),
        PathError::Duplicate { index: 2 }
    );
    let stranger = Authority::root(ca_params("Stranger")).der;
    assert_eq!(
        path_error(store, &chain(&[&leaf_der, &issuing, &intermediate, &stranger])),
        PathError::IssuerName { index: 2 }
    );
    let garbage = chain(&[&leaf_der, &vec![0x30, 0x00]]);
    assert!(matches!(path_error(store, &garbage), PathError::Unreadable { index: 1, .. }));
}

#[test]
fn a_root_of_the_same_name_and_another_key_is_no_anchor() {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let imposter = trusting(&Authority::root(ca_params("Root CA")));
    // The key identifiers differ, so no signature is even tried.
    assert_eq!(path_error(&imposter, &hierarchy.chain(&leaf)), PathError::UnknownAnchor);
    let mut bare = ca_params("Intermediate CA");
    bare.use_authority_key_identifier_extension = false;
    let hierarchy = Hierarchy::with(bare);
    let leaf = hierarchy.intermediate.issue(shaken_params());
    assert!(accepts(&hierarchy.store, &hierarchy.chain(&leaf)));
    assert_eq!(path_error(&imposter, &hierarchy.chain(&leaf)), PathError::Signature { index: 1 });
    // Two anchors of one name: the one that signed is found.
    let mut both = imposter;
    both.anchors.add_der(&hierarchy.root.der).unwrap();
    assert!(accepts(&both, &hierarchy.chain(&leaf)));
    both.limits.max_signatures = 1;
    assert_eq!(path_error(&both, &hierarchy.chain(&leaf)), PathError::Budget);
}

#[test]
fn key_identifiers_must_pair_up() {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    // authorityKeyIdentifier of another key, the signature correct.
    let other = Authority::root(ca_params("Intermediate CA"));
    let foreign = other.issue_with(shaken_params(), leaf.key);
    let der = resign(&foreign.der, &hierarchy.intermediate.key, None, |_| {});
    let chain = [der, hierarchy.intermediate.der.clone()];
    assert_eq!(path_error(&hierarchy.store, &chain), PathError::KeyIdentifier { index: 0 });
    // None at all: accepted, remarked, and against the VESPER profile.
    let mut params = vesper_params(&[one("12025550123")]);
    params.use_authority_key_identifier_extension = false;
    let verdict = hierarchy.store.assess(&hierarchy.chain(&hierarchy.intermediate.issue(params))).unwrap();
    assert!(verdict.path.unwrap().missing_key_identifier);
    assert_eq!(verdict.vesper_profile, Err(ProfileError::MissingKeyIdentifier));
}

#[test]
fn production_issuer_keys() {
    fn under(algorithm: &'static SignatureAlgorithm) -> (TrustStore, Vec<Vec<u8>>) {
        let key = || KeyPair::generate_for(algorithm).unwrap();
        let root = Authority::root_with(ca_params("Root CA"), key());
        let intermediate = root.issue_with(ca_params("Intermediate CA"), key());
        let leaf = intermediate.issue(shaken_params());
        (trusting(&root), vec![leaf.der, intermediate.der])
    }
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512, &PKCS_RSA_SHA256] {
        let (store, chain) = under(algorithm);
        assert!(accepts(&store, &chain), "{algorithm:?}");
    }
    let (mut store, chain) = under(&PKCS_RSA_SHA256);
    store.policy.allow_rsa_issuers = false;
    assert_eq!(path_error(&store, &chain), PathError::Algorithm { index: 1 });
}

/// C11.8: root RSA, then P-384, then P-521, and a leaf that signs ES256, all of another hand.
#[test]
fn a_chain_of_mixed_keys_made_by_openssl() {
    let directory = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let output = std::process::Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(directory.path())
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let ca = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
    let leaf = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\n";
    let below = "authorityKeyIdentifier=keyid\n";
    let tn = "1.3.6.1.5.5.7.1.26=DER:3008a006160431323334\n";
    std::fs::write(directory.path().join("ca.cnf"), format!("{ca}{below}")).unwrap();
    std::fs::write(directory.path().join("leaf.cnf"), format!("{leaf}{below}{tn}")).unwrap();
    openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out root.key");
    openssl("req -x509 -new -key root.key -sha256 -days 3650 -subj /C=US/O=T/CN=SHAKEN-ROOT -out root.pem");
    for (name, curve, issuer, digest, extensions) in [
        ("one", "P-384", "root", "sha256", "ca.cnf"),
        ("two", "P-521", "one", "sha384", "ca.cnf"),
        ("leaf", "P-256", "two", "sha512", "leaf.cnf"),
    ] {
        openssl(&format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:{curve} -out {name}.key"));
        openssl(&format!("req -new -key {name}.key -subj /C=US/O=T/CN=SHAKEN-{name} -out {name}.csr"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial -{digest} -days 30 -extfile {extensions} -out {name}.pem"
        ));
    }
    let der = |name: &str| {
        let pem = std::fs::read(directory.path().join(format!("{name}.pem"))).unwrap();
        vesperd::cert::certificates_from_pem_or_der(&pem)[0].clone().unwrap()
    };
    let mut store = TrustStore::default();
    store.anchors.add_der(&der("root")).unwrap();
    let chain = [der("leaf"), der("two"), der("one")];
    let verdict = store.assess(&chain).unwrap();
    assert_eq!(verdict.path.as_ref().unwrap().length, 3);
    let key = std::fs::read_to_string(directory.path().join("leaf.key")).unwrap();
    let signature = es256(&KeyPair::from_pem(&key).unwrap(), b"header.payload");
    assert!(verdict.verify_es256(b"header.payload", &signature));
    store.policy.allow_rsa_issuers = false;
    assert_eq!(path_error(&store, &chain), PathError::Algorithm { index: 2 });
}

#[test]
fn r22_the_leaf_key_must_sign_es256() {
    let hierarchy = Hierarchy::new();
    for (algorithm, key) in [(&PKCS_ECDSA_P384_SHA384, "P-384"), (&PKCS_RSA_SHA256, "RSA-2048")] {
        let leaf = hierarchy.intermediate.issue_with(shaken_params(), KeyPair::generate_for(algorithm).unwrap());
        let error = hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap_err();
        assert_eq!(error, CertificateError::NotEs256 { key: key.to_owned() });
    }
}

#[test]
fn a_null_parameter_is_accepted_and_remarked() {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    // ecdsa-with-SHA256 with NULL, which RFC 5758 forbids and some authorities write.
    let oid = tlv(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]);
    let algorithm = tlv(0x30, &[oid, vec![0x05, 0x00]].concat());
    let with_null = resign(&leaf.der, &hierarchy.intermediate.key, Some(algorithm.clone()), |fields| {
        fields[2] = algorithm.clone();
    });
    let chain = [with_null, hierarchy.intermediate.der.clone()];
    assert!(hierarchy.store.assess(&chain).unwrap().path.unwrap().null_parameter);
    // Inside and outside must still be equal.
    let outside_only = resign(&leaf.der, &hierarchy.intermediate.key, Some(algorithm), |_| {});
    let chain = [outside_only, hierarchy.intermediate.der.clone()];
    assert_eq!(path_error(&hierarchy.store, &chain), PathError::AlgorithmMismatch { index: 0 });
}

#[test]
fn any_change_breaks_the_signature() {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let mut chain = hierarchy.chain(&leaf);
    let at = chain[0].windows(4).position(|window| window == b"709J").unwrap();
    chain[0][at] = b'8';
    assert_eq!(path_error(&hierarchy.store, &chain), PathError::Signature { index: 0 });
    // The verdict on the token's signature does not depend on it.
    let verdict = hierarchy.store.assess(&chain).unwrap();
    assert!(verdict.verify_es256(b"m", &es256(&leaf.key, b"m")));
}

#[test]
fn versions_and_certificate_authorities() {
    let hierarchy = Hierarchy::new();
    let chain = |leaf: Authority| hierarchy.chain(&leaf);
    let mut params = shaken_params();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    assert_eq!(path_error(&hierarchy.store, &chain(hierarchy.intermediate.issue(params))), PathError::LeafIsCa);

    let leaf = hierarchy.intermediate.issue(shaken_params());
    let v1 = resign(&leaf.der, &hierarchy.intermediate.key, None, |fields| {
        fields.remove(0);
        fields.pop();
    });
    let chain = [v1, hierarchy.intermediate.der.clone()];
    assert_eq!(path_error(&hierarchy.store, &chain), PathError::Version { index: 0 });

    // A leaf cannot issue.
    let below = leaf.issue(shaken_params());
    let chain = [below.der, leaf.der, hierarchy.intermediate.der.clone()];
    assert_eq!(path_error(&hierarchy.store, &chain), PathError::NotCa { index: 1 });
}

#[test]
fn key_usage_binds_when_present() {
    let with = |leaf: Vec<KeyUsagePurpose>, issuer: Vec<KeyUsagePurpose>| {
        let mut ca = ca_params("Intermediate CA");
        ca.key_usages = issuer;
        let hierarchy = Hierarchy::with(ca);
        let mut params = shaken_params();
        params.key_usages = leaf;
        let leaf = hierarchy.intermediate.issue(params);
        hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap().path.err()
    };
    let (sign, certify) = (KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign);
    assert_eq!(with(vec![], vec![]), None);
    assert_eq!(with(vec![sign], vec![certify]), None);
    assert_eq!(with(vec![KeyUsagePurpose::KeyAgreement], vec![certify]), Some(PathError::KeyUsage { index: 0 }));
    assert_eq!(with(vec![sign], vec![KeyUsagePurpose::CrlSign]), Some(PathError::KeyUsage { index: 1 }));
}

#[test]
fn path_length_counts_authorities_below() {
    let constrained = |length| {
        let mut ca = ca_params("Intermediate CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        let hierarchy = Hierarchy::with(ca);
        let issuing = hierarchy.intermediate.issue(ca_params("Issuing CA"));
        let leaf = issuing.issue(shaken_params());
        let chain = [leaf.der, issuing.der, hierarchy.intermediate.der.clone()];
        hierarchy.store.assess(&chain).unwrap().path.err()
    };
    assert_eq!(constrained(1), None);
    assert_eq!(constrained(0), Some(PathError::PathLength { index: 2 }));
    // The anchor's constraint holds too.
    let mut ca = ca_params("Root CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = Authority::root(ca);
    let intermediate = root.issue(ca_params("Intermediate CA"));
    let chain = [intermediate.issue(shaken_params()).der, intermediate.der];
    assert_eq!(path_error(&trusting(&root), &chain), PathError::PathLength { index: 2 });
}

#[test]
fn name_constraints_bind_the_leafs_dns_name() {
    let check = |permitted: Vec<GeneralSubtree>, excluded: Vec<GeneralSubtree>, name: &str| {
        let mut ca = ca_params("Intermediate CA");
        let constraints = NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded };
        ca.name_constraints = Some(constraints);
        let hierarchy = Hierarchy::with(ca);
        let mut params = vesper_params(&[one("12025550123")]);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let leaf = hierarchy.intermediate.issue(params);
        hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap().path.is_ok()
    };
    let dns = |name: &str| vec![GeneralSubtree::DnsName(name.to_owned())];
    assert!(check(dns("retail.example"), vec![], "retail.example"));
    assert!(check(dns("retail.example"), vec![], "sti.Retail.Example"));
    assert!(!check(dns("retail.example"), vec![], "xretail.example"));
    assert!(!check(dns("retail.example"), vec![], "example"));
    assert!(!check(dns(".retail.example"), vec![], "retail.example"));
    assert!(!check(vec![], dns("retail.example"), "sti.retail.example"));
    assert!(check(vec![], dns("retail.example"), "other.example"));
    // Name forms that are not applied reject the chain.
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::OrganizationName, "Example Retail");
    assert!(!check(vec![GeneralSubtree::DirectoryName(name)], vec![], "retail.example"));
}

#[test]
fn r26_the_host_is_exactly_one_of_the_names() {
    let hierarchy = Hierarchy::new();
    let names = |names: &[&str]| {
        let mut params = leaf_params();
        params.subject_alt_names = names.iter().map(|&name| SanType::DnsName(name.try_into().unwrap())).collect();
        Certificate::from_der(&hierarchy.intermediate.issue(params).der).unwrap()
    };
    let certificate = names(&["Retail.example", "xn--bcher-kva.example", "*.wild.example"]);
    for (host, matches) in [
        ("retail.example", true),
        ("RETAIL.EXAMPLE.", true),
        ("xn--bcher-kva.example", true),
        ("bücher.example", false),
        ("sti.retail.example", false),
        ("example", false),
        ("retail.example..", false),
        ("retail.example:443", false),
        ("a.wild.example", false),
        ("*.wild.example", false),
        ("", false),
        (".", false),
    ] {
        assert_eq!(certificate.names_host(host), matches, "{host}");
    }
    assert!(!names(&[]).names_host("retail.example"));
}

#[test]
fn extensions_of_a_path() {
    let hierarchy = Hierarchy::new();
    let issue = |change: fn(&mut rcgen::CertificateParams)| {
        let mut params = shaken_params();
        change(&mut params);
        hierarchy.store.assess(&hierarchy.chain(&hierarchy.intermediate.issue(params))).unwrap().path.err()
    };
    assert_eq!(
        issue(|params| params
            .custom_extensions
            .push(critical(rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0x05, 0x00])))),
        Some(PathError::UnknownCritical { index: 0, extension: "1.2.3.4".to_owned() })
    );
    // As a seventh of the deployed leaves have it.
    assert_eq!(issue(|params| params.custom_extensions.push(critical(certificate_policies(&POLICY)))), None);
    assert_eq!(
        issue(|params| {
            params.custom_extensions.push(certificate_policies(&POLICY));
            params.custom_extensions.push(certificate_policies(&POLICY));
        }),
        Some(PathError::RepeatedExtension { index: 0, extension: "2.5.29.32".to_owned() })
    );
    assert_eq!(
        issue(|params| params
            .custom_extensions
            .push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 32], vec![0x30, 0x03, 0x01]))),
        Some(PathError::MalformedExtension { index: 0, extension: "2.5.29.32".to_owned() })
    );
    // RFC 9608: noRevAvail alone is fine, beside a CRL pointer it is not.
    assert_eq!(issue(|params| params.custom_extensions.push(extension(&oid::NO_REV_AVAIL, vec![0x05, 0x00]))), None);
    assert_eq!(
        issue(|params| {
            params.custom_extensions.push(extension(&oid::NO_REV_AVAIL, vec![0x05, 0x00]));
            params.crl_distribution_points =
                vec![CrlDistributionPoint { uris: vec!["https://crl.example".to_owned()] }];
        }),
        Some(PathError::NoRevAvail { index: 0 })
    );
    let mut ca = ca_params("Intermediate CA");
    ca.custom_extensions.push(extension(&oid::NO_REV_AVAIL, vec![0x05, 0x00]));
    let hierarchy = Hierarchy::with(ca);
    let leaf = hierarchy.intermediate.issue(shaken_params());
    assert_eq!(path_error(&hierarchy.store, &hierarchy.chain(&leaf)), PathError::NoRevAvail { index: 1 });
}

#[test]
fn a_policy_may_be_asked_for() {
    let mut ca = ca_params("Intermediate CA");
    ca.custom_extensions.push(certificate_policies(&POLICY));
    let mut hierarchy = Hierarchy::with(ca);
    hierarchy.store.policy.certificate_policies = vec!["2.16.840.1.114569.1.1.4".to_owned()];
    let mut params = shaken_params();
    let without = hierarchy.intermediate.issue(params.clone());
    params.custom_extensions.push(certificate_policies(&POLICY));
    let with = hierarchy.intermediate.issue(params);
    assert!(accepts(&hierarchy.store, &hierarchy.chain(&with)));
    assert_eq!(path_error(&hierarchy.store, &hierarchy.chain(&without)), PathError::Policy { index: 0 });
}

#[test]
fn r28_the_window_is_that_of_the_whole_path() {
    let mut ca = ca_params("Intermediate CA");
    set_validity(&mut ca, NOW - DAY, NOW + 2 * HOUR);
    let hierarchy = Hierarchy::with(ca);
    // The leaf outlives its issuer.
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let verdict = hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap();
    assert!(verdict.path.is_ok());
    assert_eq!((verdict.not_before, verdict.not_after), (NOW - HOUR, NOW + 2 * HOUR));
    let end = NOW + 2 * HOUR;
    assert_eq!(verdict.validity(NOW, 0), Ok(()));
    assert_eq!(verdict.validity(end, 0), Ok(()));
    assert_eq!(verdict.validity(end + 60, 60), Ok(()));
    assert_eq!(verdict.validity(end + 61, 60), Err(ValidityError::Expired { not_after: end }));
    let start = NOW - HOUR;
    assert_eq!(verdict.validity(start - 60, 60), Ok(()));
    assert_eq!(verdict.validity(start - 61, 60), Err(ValidityError::NotYetValid { not_before: start }));
    assert!(verdict.validity(i64::MAX, 60).is_err() && verdict.validity(i64::MIN, 60).is_err());
}

#[test]
fn an_empty_window_is_never_valid_and_no_fault_of_the_path() {
    let mut ca = ca_params("Intermediate CA");
    set_validity(&mut ca, NOW - 10 * DAY, NOW - 2 * HOUR);
    let hierarchy = Hierarchy::with(ca);
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let verdict = hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap();
    assert!(verdict.path.is_ok() && verdict.not_before > verdict.not_after);
    for now in [NOW - 5 * DAY, NOW - 2 * HOUR, NOW - 90 * 60, NOW - HOUR, NOW] {
        assert!(verdict.validity(now, 60).is_err(), "{now}");
        // Not even where the skew bridges the gap.
        assert!(verdict.validity(now, DAY).is_err(), "{now}");
    }
}

#[test]
fn the_anchors_validity_counts_unless_waived() {
    let mut old = ca_params("Root CA");
    set_validity(&mut old, NOW - 10 * DAY, NOW - DAY);
    let root = Authority::root(old);
    let leaf = root.issue(shaken_params());
    let mut store = trusting(&root);
    let chain = [leaf.der];
    assert!(store.assess(&chain).unwrap().validity(NOW, 60).is_err());
    store.policy.check_anchor_validity = false;
    assert_eq!(store.assess(&chain).unwrap().validity(NOW, 60), Ok(()));
}

#[test]
fn limits_of_a_chain() {
    let mut hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let store = &hierarchy.store;
    let none: [Vec<u8>; 0] = [];
    assert_eq!(store.assess(&none).unwrap_err(), CertificateError::EmptyChain);
    let seven = vec![leaf.der.clone(); 7];
    assert_eq!(store.assess(&seven).unwrap_err(), CertificateError::TooManyCertificates { count: 7 });
    let big = [vec![0; 8193]];
    assert_eq!(store.assess(&big).unwrap_err(), CertificateError::TooLarge { octets: 8193 });
    let many = vec![vec![0; 8192]; 3];
    assert_eq!(store.assess(&many).unwrap_err(), CertificateError::TooLarge { octets: 3 * 8192 });
    let trailing = [[&leaf.der[..], &[0]].concat()];
    assert!(matches!(store.assess(&trailing).unwrap_err(), CertificateError::Der(_)));
    let chain = hierarchy.chain(&leaf);
    hierarchy.store.limits.max_signatures = 1;
    assert_eq!(path_error(&hierarchy.store, &chain), PathError::Budget);
}

#[test]
fn only_authorities_are_anchors() {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let mut anchors = TrustAnchors::new();
    assert!(matches!(anchors.add_der(&leaf.der), Err(AnchorError::NotCa { .. })));
    assert!(matches!(anchors.add_der(b"nonsense"), Err(AnchorError::Unreadable(_))));
    anchors.add_der(&hierarchy.root.der).unwrap();
    anchors.add_der(&hierarchy.root.der).unwrap();
    assert_eq!(anchors.len(), 1);
    // A self-signed leaf vouches for nobody, itself included.
    let selfish = Authority::root(leaf_params());
    assert_eq!(path_error(&hierarchy.store, &[selfish.der]), PathError::UnknownAnchor);
}

#[test]
fn the_vesper_profile_of_a_leaf() {
    let mut hierarchy = Hierarchy::new();
    let number = [one("12025550123")];
    let profile = |hierarchy: &Hierarchy, params| {
        let leaf = hierarchy.intermediate.issue(params);
        let verdict = hierarchy.store.assess(&hierarchy.chain(&leaf)).unwrap();
        (verdict.vesper_profile, verdict.long_lived)
    };
    assert_eq!(profile(&hierarchy, vesper_params(&number)), (Ok(()), false));
    assert_eq!(profile(&hierarchy, leaf_params()).0, Err(ProfileError::TnAuthList));
    let mut nameless = vesper_params(&number);
    nameless.subject_alt_names.clear();
    assert_eq!(profile(&hierarchy, nameless).0, Err(ProfileError::NoDnsName));
    let mut long = vesper_params(&number);
    set_validity(&mut long, NOW, NOW + 8 * DAY);
    assert_eq!(profile(&hierarchy, long.clone()), (Ok(()), true));
    set_validity(&mut long, NOW, NOW + 91 * DAY);
    assert_eq!(profile(&hierarchy, long).0, Err(ProfileError::Lifetime { seconds: 91 * DAY }));
    let mut two = vesper_params(&number);
    two.subject_alt_names.push(SanType::DnsName("second.example".try_into().unwrap()));
    assert_eq!(profile(&hierarchy, two.clone()).0, Ok(()));
    hierarchy.store.policy.vesper_single_dns_name = true;
    assert_eq!(profile(&hierarchy, two).0, Err(ProfileError::SeveralDnsNames));
}

/// What webpki says of the same chain, at an instant when all of it is valid.
fn webpki_accepts(root: &[u8], chain: &[Vec<u8>]) -> bool {
    struct AnyUsage;
    impl webpki::ExtendedKeyUsageValidator for AnyUsage {
        fn validate(&self, _: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
            Ok(())
        }
    }
    let root = CertificateDer::from(root);
    let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap()];
    let ders: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(&der[..])).collect();
    let Ok(leaf) = webpki::EndEntityCert::try_from(&ders[0]) else {
        return false;
    };
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW.try_into().unwrap()));
    leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &ders[1..], now, AnyUsage, None, None).is_ok()
}

#[test]
fn webpki_agrees_on_the_chains_it_can_read() {
    let hierarchy = Hierarchy::new();
    let mut leaves = vec![shaken_params(), vesper_params(&[one("911")]), params("bare", DAY)];
    let mut ca = shaken_params();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages.clear();
    leaves.push(ca);
    let mut unknown = shaken_params();
    unknown.custom_extensions.push(critical(rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])));
    leaves.push(unknown);
    for params in leaves {
        let leaf = hierarchy.intermediate.issue_with(params, p256());
        for chain in [hierarchy.chain(&leaf), vec![leaf.der.clone()]] {
            assert_eq!(accepts(&hierarchy.store, &chain), webpki_accepts(&hierarchy.root.der, &chain));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Soundness: whatever octet is changed, nothing passes here that webpki refuses.
    #[test]
    fn no_mutation_passes_that_webpki_refuses(which in 0usize..2, at in any::<prop::sample::Index>(), flip in 1u8..) {
        thread_local! {
            static SCENE: (Hierarchy, Vec<Vec<u8>>) = {
                let hierarchy = Hierarchy::new();
                let leaf = hierarchy.intermediate.issue(vesper_params(&[one("12025550123")]));
                let chain = hierarchy.chain(&leaf);
                (hierarchy, chain)
            };
        }
        SCENE.with(|(hierarchy, chain)| {
            let mut chain = chain.clone();
            let at = at.index(chain[which].len());
            chain[which][at] ^= flip;
            let accepted = hierarchy.store.assess(&chain).is_ok_and(|verdict| verdict.path.is_ok());
            prop_assert!(!accepted || webpki_accepts(&hierarchy.root.der, &chain), "octet {} of {}", at, which);
            Ok(())
        })?;
    }
}

#[test]
fn the_surgery_of_these_tests_changes_nothing_by_itself() {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let again = resign(&leaf.der, &hierarchy.intermediate.key, None, |_| {});
    assert_eq!(elements(super::support::contents(&again))[0], elements(super::support::contents(&leaf.der))[0]);
    assert!(accepts(&hierarchy.store, &[again, hierarchy.intermediate.der.clone()]));
}
