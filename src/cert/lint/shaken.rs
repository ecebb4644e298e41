//! The SHAKEN profile.

use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};

use super::{Rule, Subject, error, warning, when};
use crate::cert::{TnAuthList, TnEntry, oid};

/// US SHAKEN certificate policies in force, v1.3 and v1.4.
const POLICIES: [&str; 2] = ["2.16.840.1.114569.1.1.3", "2.16.840.1.114569.1.1.4"];

/// basicConstraints, keyUsage, subjectKeyIdentifier, authorityKeyIdentifier, certificatePolicies, CRLDistributionPoints, TNAuthList.
const EXTENSIONS: [&[u8]; 7] = [
    &[0x55, 0x1d, 0x13],
    &[0x55, 0x1d, 0x0f],
    &[0x55, 0x1d, 0x0e],
    &[0x55, 0x1d, 0x23],
    &[0x55, 0x1d, 0x20],
    &[0x55, 0x1d, 0x1f],
    oid::TN_AUTH_LIST.der,
];

pub(super) const RULES: &[Rule] = &[
    error("shaken_signature_algorithm", signature_algorithm),
    error("shaken_public_key", public_key),
    error("shaken_subject_country", country),
    error("shaken_subject_organization", organization),
    error("shaken_subject_common_name", common_name),
    warning("shaken_subject_serial_number", subject_serial_number),
    error("shaken_certificate_policies", certificate_policies),
    error("shaken_certificate_policies_critical", certificate_policies_critical),
    error("shaken_crl_distribution_point", crl_distribution_point),
    error("shaken_tn_auth_list", tn_auth_list),
    warning("shaken_other_extension", other_extension),
];

fn signature_algorithm(subject: &Subject<'_>) -> Option<String> {
    let algorithm = &subject.parsed.signature_algorithm.algorithm;
    (algorithm.to_id_string() != "1.2.840.10045.4.3.2")
        .then(|| format!("signature algorithm {algorithm} is not ecdsa-with-SHA256"))
}

fn public_key(subject: &Subject<'_>) -> Option<String> {
    let key = subject.certificate.key_description();
    (key != "P-256").then(|| format!("the key is {key}, not P-256"))
}

fn country(subject: &Subject<'_>) -> Option<String> {
    let mut countries = subject.parsed.subject().iter_country();
    match countries.next().and_then(|country| country.as_str().ok()) {
        None => when(true, "the subject has no country"),
        Some(text) => {
            let alpha_2 = text.len() == 2 && text.bytes().all(|octet| octet.is_ascii_uppercase());
            (!alpha_2).then(|| format!("the subject's country {text:?} is not an ISO 3166 alpha-2 code"))
        }
    }
}

fn organization(subject: &Subject<'_>) -> Option<String> {
    when(subject.certificate.subject_organization().is_none(), "the subject has no organization")
}

fn common_name(subject: &Subject<'_>) -> Option<String> {
    let Some(name) = subject.certificate.subject_common_name() else {
        return when(true, "the subject has no common name");
    };
    if !name.contains("SHAKEN") {
        return Some(format!("the common name {name:?} does not contain SHAKEN"));
    }
    if subject.is_root() {
        return (!name.to_ascii_uppercase().contains("ROOT"))
            .then(|| format!("the common name {name:?} of a root does not contain ROOT"));
    }
    let code = subject.certificate.tn_auth_list()?.ok().and_then(single_code)?;
    (!subject.is_ca() && !name.contains(&format!("SHAKEN {code}")))
        .then(|| format!("the common name {name:?} does not contain \"SHAKEN {code}\""))
}

/// US SHAKEN certificate policy v1.3.
fn subject_serial_number(subject: &Subject<'_>) -> Option<String> {
    const SERIAL_NUMBER: [u8; 3] = [0x55, 0x04, 0x05];
    let mut attributes = subject.parsed.subject().iter_attributes();
    when(
        !subject.is_root() && !attributes.any(|attribute| attribute.attr_type().as_bytes() == SERIAL_NUMBER),
        "the subject has no serialNumber attribute",
    )
}

fn single_code(list: &TnAuthList) -> Option<&str> {
    match list.entries() {
        [TnEntry::Spc(code)] => Some(code),
        _ => None,
    }
}

fn certificate_policies(subject: &Subject<'_>) -> Option<String> {
    if subject.is_root() {
        return None;
    }
    match subject.certificate.extensions.policies.as_slice() {
        [policy] if POLICIES.contains(&policy.as_str()) => None,
        [] => when(true, "certificatePolicies is missing"),
        [policy] => Some(format!("certificate policy {policy} is none of {}", POLICIES.join(", "))),
        several => Some(format!("{} certificate policies instead of one", several.len())),
    }
}

fn certificate_policies_critical(subject: &Subject<'_>) -> Option<String> {
    let found = subject.extension(|parsed| match parsed {
        ParsedExtension::CertificatePolicies(_) => Some(()),
        _ => None,
    });
    when(matches!(found, Some((true, ()))), "certificatePolicies is critical, which many verifiers refuse")
}

fn crl_distribution_point(subject: &Subject<'_>) -> Option<String> {
    if subject.is_root() {
        return None;
    }
    let points = subject.extension(|parsed| match parsed {
        ParsedExtension::CRLDistributionPoints(points) => Some(&points.points),
        _ => None,
    });
    let point = match points.map(|(_, points)| points.as_slice()) {
        None => return when(true, "CRLDistributionPoints is missing"),
        Some([point]) => point,
        Some(several) => return Some(format!("{} CRL distribution points instead of one", several.len())),
    };
    let by_http = |name: &GeneralName<'_>| matches!(name, GeneralName::URI(uri) if uri.starts_with("https://") || uri.starts_with("http://"));
    match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) if names.iter().any(by_http) => {
            when(point.crl_issuer.is_none(), "the CRL distribution point has no cRLIssuer")
        }
        _ => when(true, "the CRL distribution point is not an HTTP(S) URL"),
    }
}

fn tn_auth_list(subject: &Subject<'_>) -> Option<String> {
    if subject.is_ca() {
        return None;
    }
    match subject.certificate.tn_auth_list() {
        None => when(true, "TNAuthList is missing"),
        // Reported by `tn_auth_list_malformed`.
        Some(Err(_)) => None,
        Some(Ok(list)) => match single_code(list) {
            None => when(true, "TNAuthList is not exactly one service provider code"),
            Some(code) => {
                let legal = code.bytes().all(|octet| octet.is_ascii_digit() || octet.is_ascii_uppercase());
                (!legal).then(|| format!("service provider code {code:?} is not made of digits and upper-case letters"))
            }
        },
    }
}

fn other_extension(subject: &Subject<'_>) -> Option<String> {
    let others: Vec<String> = subject
        .parsed
        .extensions()
        .iter()
        .map(|extension| extension.oid.as_bytes())
        .filter(|id| !EXTENSIONS.contains(id))
        .map(oid::dotted)
        .collect();
    (!others.is_empty()).then(|| format!("extensions the profile does not name: {}", others.join(", ")))
}
