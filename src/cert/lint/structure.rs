//! Rules of RFC 5280 and RFC 8226 that every STI certificate must satisfy.

use x509_parser::extensions::ParsedExtension;

use super::{Rule, Subject, error, warning, when};
use crate::cert::{oid, path, sct};

pub(super) const RULES: &[Rule] = &[
    error("version", version),
    error("validity_order", validity_order),
    error("serial_form", serial_form),
    error("serial_bits", serial_bits),
    error("algorithm_mismatch", algorithm_mismatch),
    warning("null_parameter", null_parameter),
    error("repeated_extension", repeated_extension),
    error("malformed_extension", malformed_extension),
    error("unknown_critical_extension", unknown_critical_extension),
    error("precertificate", precertificate),
    error("tn_auth_list_malformed", tn_auth_list_malformed),
    warning("tn_auth_list_critical", tn_auth_list_critical),
    warning("tn_range_end", tn_range_end),
    error("claim_constraints_malformed", claim_constraints_malformed),
    error("claim_constraints_in_ca", claim_constraints_in_ca),
    error("claim_constraints_contradictory", claim_constraints_contradictory),
    warning("claim_constraints_void", claim_constraints_void),
    warning("claim_constraints_base_claim", claim_constraints_base_claim),
    warning("claim_constraints_rcdi", claim_constraints_rcdi),
    error("scts_malformed", scts_malformed),
    error("no_rev_avail", no_rev_avail),
    error("basic_constraints", basic_constraints),
    error("subject_key_identifier", subject_key_identifier),
    warning("subject_key_identifier_value", subject_key_identifier_value),
    error("authority_key_identifier", authority_key_identifier),
    error("key_usage", key_usage),
];

fn version(subject: &Subject<'_>) -> Option<String> {
    let version = subject.certificate.version();
    (version != 3).then(|| format!("version is {version}, not 3"))
}

fn validity_order(subject: &Subject<'_>) -> Option<String> {
    let certificate = subject.certificate;
    when(certificate.not_before() > certificate.not_after(), "notBefore lies after notAfter")
}

fn serial_form(subject: &Subject<'_>) -> Option<String> {
    match subject.parsed.raw_serial() {
        [first, ..] if *first >= 0x80 => when(true, "serial number is negative"),
        serial if serial.iter().all(|&octet| octet == 0) => when(true, "serial number is zero"),
        serial => {
            let octets = serial.len();
            (octets > 20).then(|| format!("serial number has {octets} octets, more than 20"))
        }
    }
}

fn serial_bits(subject: &Subject<'_>) -> Option<String> {
    let bits = subject.parsed.tbs_certificate.serial.bits();
    (bits < 64).then(|| format!("serial number has {bits} bits, fewer than 64"))
}

fn algorithm_mismatch(subject: &Subject<'_>) -> Option<String> {
    let certificate = subject.certificate;
    when(
        certificate.inner_algorithm != certificate.outer_algorithm,
        "the signature algorithms inside and beside the TBSCertificate differ",
    )
}

fn null_parameter(subject: &Subject<'_>) -> Option<String> {
    when(
        path::ecdsa_null_parameter(&subject.certificate.outer_algorithm).is_some(),
        "the ECDSA AlgorithmIdentifier carries a NULL parameter (RFC 5758 section 3.2)",
    )
}

fn repeated_extension(subject: &Subject<'_>) -> Option<String> {
    let extension = subject.certificate.extensions.repeated.as_ref()?;
    Some(format!("extension {extension} occurs more than once"))
}

fn malformed_extension(subject: &Subject<'_>) -> Option<String> {
    let extension = subject.certificate.extensions.malformed.as_ref()?;
    Some(format!("extension {extension} cannot be read"))
}

fn unknown_critical_extension(subject: &Subject<'_>) -> Option<String> {
    let extension = subject.certificate.extensions.unknown_critical.as_ref()?;
    Some(format!("extension {extension} is critical and no verifier processes it"))
}

fn precertificate(subject: &Subject<'_>) -> Option<String> {
    when(subject.certificate.is_precertificate(), "carries the precertificate poison (RFC 6962 section 3.1)")
}

fn tn_auth_list_malformed(subject: &Subject<'_>) -> Option<String> {
    Some(subject.certificate.tn_auth_list()?.err()?.to_string())
}

fn tn_auth_list_critical(subject: &Subject<'_>) -> Option<String> {
    when(subject.critical(&oid::TN_AUTH_LIST), "TNAuthList is critical (RFC 8226 section 9 makes it non-critical)")
}

fn tn_range_end(subject: &Subject<'_>) -> Option<String> {
    let list = subject.certificate.tn_auth_list()?.ok()?;
    when(list.touches_digit_limit(), "a range ends at the last number of its length, which some readers refuse")
}

fn claim_constraints_malformed(subject: &Subject<'_>) -> Option<String> {
    Some(subject.certificate.claim_constraints()?.err()?.to_string())
}

fn claim_constraints_in_ca(subject: &Subject<'_>) -> Option<String> {
    when(
        subject.is_ca() && subject.certificate.claim_constraints().is_some(),
        "claim constraints are for end-entity certificates only",
    )
}

fn claim_constraints_contradictory(subject: &Subject<'_>) -> Option<String> {
    let constraints = subject.certificate.claim_constraints()?.ok()?;
    let both = constraints.must_include().iter().find(|name| constraints.must_exclude().contains(name))?;
    Some(format!("the claim {both} is demanded and excluded: no token can conform (RFC 9118 section 8)"))
}

fn claim_constraints_void(subject: &Subject<'_>) -> Option<String> {
    let constraints = subject.certificate.claim_constraints()?.ok()?;
    when(constraints.is_void(), "mustExclude names iat, orig or dest, which voids the extension (RFC 9118 section 3)")
}

fn claim_constraints_base_claim(subject: &Subject<'_>) -> Option<String> {
    let constraints = subject.certificate.claim_constraints()?.ok()?;
    let base = |name: &&String| matches!(name.as_str(), "iat" | "orig" | "dest");
    let name = constraints.must_include().iter().find(base)?;
    Some(format!("mustInclude names {name}, which every token carries (RFC 8226 section 8)"))
}

fn claim_constraints_rcdi(subject: &Subject<'_>) -> Option<String> {
    let constraints = subject.certificate.claim_constraints()?.ok()?;
    let excluded = constraints.must_exclude().iter().any(|name| name == "rcdi");
    when(excluded, "mustExclude names rcdi (RFC 9118 section 8)")
}

fn scts_malformed(subject: &Subject<'_>) -> Option<String> {
    Some(subject.certificate.scts()?.err()?.to_string())
}

fn no_rev_avail(subject: &Subject<'_>) -> Option<String> {
    let facts = &subject.certificate.extensions;
    when(
        facts.no_rev_avail && (subject.is_ca() || facts.status_pointer),
        "noRevAvail in a CA certificate or beside a revocation pointer (RFC 9608 section 3)",
    )
}

fn basic_constraints(subject: &Subject<'_>) -> Option<String> {
    let found = subject.extension(|parsed| match parsed {
        ParsedExtension::BasicConstraints(basic) => Some(basic),
        _ => None,
    });
    match found {
        None => when(true, "basicConstraints is missing"),
        Some((critical, _)) => when(!critical, "basicConstraints is not critical"),
    }
}

fn subject_key_identifier(subject: &Subject<'_>) -> Option<String> {
    match &subject.certificate.extensions.subject_key_id {
        None => when(true, "subjectKeyIdentifier is missing"),
        Some(id) => (id.len() != 20).then(|| format!("subjectKeyIdentifier has {} bits, not 160", id.len() * 8)),
    }
}

fn subject_key_identifier_value(subject: &Subject<'_>) -> Option<String> {
    let id = subject.certificate.extensions.subject_key_id.as_ref()?;
    when(
        id.len() == 20 && **id != sct::sha1(&subject.certificate.public_key),
        "subjectKeyIdentifier is not the SHA-1 of the public key",
    )
}

fn authority_key_identifier(subject: &Subject<'_>) -> Option<String> {
    when(
        !subject.is_root() && subject.certificate.extensions.authority_key_id.is_none(),
        "authorityKeyIdentifier with a keyIdentifier is missing",
    )
}

fn key_usage(subject: &Subject<'_>) -> Option<String> {
    let found = subject.extension(|parsed| match parsed {
        ParsedExtension::KeyUsage(usage) => Some(usage),
        _ => None,
    });
    match found {
        None => when(true, "keyUsage is missing"),
        Some((false, _)) => when(true, "keyUsage is not critical"),
        Some((true, usage)) if subject.is_ca() => when(!usage.key_cert_sign(), "keyUsage of a CA lacks keyCertSign"),
        Some((true, usage)) => when(usage.flags != 1, "keyUsage is not digitalSignature alone"),
    }
}
