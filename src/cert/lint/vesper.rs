//! The VESPER profile.

use x509_parser::extensions::ParsedExtension;

use super::{Rule, Subject, error, notice, warning, when};
use crate::cert::TnEntry;

const DAY: i64 = 86_400;

pub(super) const RULES: &[Rule] = &[
    error("vesper_public_key", public_key),
    warning("vesper_signature_algorithm", signature_algorithm),
    error("vesper_end_entity", end_entity),
    warning("vesper_subject_organization", organization),
    error("vesper_dns_name", dns_name),
    warning("vesper_single_dns_name", single_dns_name),
    error("vesper_tn_auth_list", tn_auth_list),
    notice("vesper_single_number", single_number),
    error("vesper_scts", scts),
    warning("vesper_extended_key_usage", extended_key_usage),
    warning("vesper_lifetime", lifetime),
    error("vesper_lifetime_limit", lifetime_limit),
    notice("vesper_no_rev_avail", no_rev_avail),
];

fn public_key(subject: &Subject<'_>) -> Option<String> {
    when(subject.certificate.es256_point().is_none(), "the key cannot sign ES256 (RFC 8226 section 4)")
}

fn signature_algorithm(subject: &Subject<'_>) -> Option<String> {
    let algorithm = &subject.parsed.signature_algorithm.algorithm;
    (algorithm.to_id_string() != "1.2.840.10045.4.3.2")
        .then(|| format!("signature algorithm {algorithm} is not ecdsa-with-SHA256"))
}

fn end_entity(subject: &Subject<'_>) -> Option<String> {
    when(subject.is_ca(), "cA is TRUE: a CA does not sign tokens (RFC 9060 section 4)")
}

fn organization(subject: &Subject<'_>) -> Option<String> {
    when(subject.certificate.subject_organization().is_none(), "the subject has no organization (R15)")
}

fn dns_name(subject: &Subject<'_>) -> Option<String> {
    let names = subject.certificate.dns_names();
    if names.is_empty() {
        return when(true, "no dNSName in subjectAltName (R14)");
    }
    let wildcard = names.iter().find(|name| name.contains('*'))?;
    Some(format!("the dNSName {wildcard} is a wildcard, which never matches (R26)"))
}

fn single_dns_name(subject: &Subject<'_>) -> Option<String> {
    let count = subject.certificate.dns_names().len();
    (count > 1).then(|| format!("{count} dNSNames instead of exactly one (B4)"))
}

fn tn_auth_list(subject: &Subject<'_>) -> Option<String> {
    match subject.certificate.tn_auth_list() {
        None => when(true, "TNAuthList is missing (R11)"),
        // Reported by `tn_auth_list_malformed`.
        Some(Err(_)) => None,
        Some(Ok(list)) => when(!list.has_tn_entry(), "TNAuthList holds no number (R12)"),
    }
}

fn single_number(subject: &Subject<'_>) -> Option<String> {
    let list = subject.certificate.tn_auth_list()?.ok()?;
    let numbers = list.entries().iter().filter(|entry| !matches!(entry, TnEntry::Spc(_))).count();
    (numbers > 1).then(|| format!("{numbers} number entries; one per certificate is recommended (B7)"))
}

fn scts(subject: &Subject<'_>) -> Option<String> {
    when(subject.certificate.scts().is_none(), "no embedded SCT (R10)")
}

fn extended_key_usage(subject: &Subject<'_>) -> Option<String> {
    let found = subject.extension(|parsed| match parsed {
        ParsedExtension::ExtendedKeyUsage(_) => Some(()),
        _ => None,
    });
    when(found.is_some(), "extendedKeyUsage is present and means nothing here")
}

fn lifetime_of(subject: &Subject<'_>) -> i64 {
    subject.certificate.not_after().saturating_sub(subject.certificate.not_before())
}

fn lifetime(subject: &Subject<'_>) -> Option<String> {
    let days = lifetime_of(subject) / DAY;
    (lifetime_of(subject) > 7 * DAY).then(|| format!("lives {days} days, more than 7 (R5)"))
}

fn lifetime_limit(subject: &Subject<'_>) -> Option<String> {
    let days = lifetime_of(subject) / DAY;
    (lifetime_of(subject) > 90 * DAY).then(|| format!("lives {days} days; verifiers refuse more than 90"))
}

fn no_rev_avail(subject: &Subject<'_>) -> Option<String> {
    let facts = &subject.certificate.extensions;
    when(
        lifetime_of(subject) <= 7 * DAY && !facts.no_rev_avail && !facts.status_pointer,
        "neither noRevAvail nor a revocation pointer (RFC 9608)",
    )
}
