//! Path validation: RFC 5280 section 6 on the rigid hierarchy of RFC 9060 section 6, where the order received is the only path.
//!
//! webpki supplies the signature algorithms, not the path: it refuses every critical certificatePolicies, which a seventh of the
//! deployed STI leaves carry, and it cannot be told otherwise.

mod error;

use std::sync::Arc;

use rustls_pki_types::{SignatureVerificationAlgorithm, alg_id};
use webpki::aws_lc_rs as algorithms;

use super::anchors::TrustAnchors;
use super::certificate::Certificate;
use super::crl::Revocable;
use super::store::{Limits, TrustPolicy};
use super::tn_auth_list::Encompassed;
pub use error::PathError;

/// How the leaf's scope is bounded by the CAs above (RFC 9060 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeBasis {
    /// No CA on the path has a TNAuthList: nothing bounds the leaf, which then is no delegate certificate.
    Unbounded,
    /// Each list on the path holds the one below.
    Proven,
    /// Somewhere numbers are held only through a service provider code of the list above.
    UnprovenSpc,
}

/// A validated path.
#[derive(Clone, Debug)]
pub struct PathFacts {
    /// The trust anchor the path ends at.
    pub anchor: Arc<Certificate>,
    /// How many certificates of the chain the path uses; the anchor is not one of them.
    pub length: usize,
    /// The DER SubjectPublicKeyInfo of the leaf's issuer.
    pub issuer_spki: Vec<u8>,
    /// How the leaf's scope is bounded.
    pub scope: ScopeBasis,
    /// Some certificate of the path carries no authorityKeyIdentifier, or its issuer no subjectKeyIdentifier: a lint under SHAKEN, an error under VESPER.
    pub missing_key_identifier: bool,
    /// Some signature AlgorithmIdentifier carries a NULL parameter that RFC 5758 section 3.2 forbids for ECDSA; deployed, accepted, worth a lint.
    pub null_parameter: bool,
    /// Latest notBefore of the path, Unix seconds.
    pub not_before: i64,
    /// Earliest notAfter of the path, Unix seconds. Before `not_before` when no instant suits all certificates.
    pub not_after: i64,
    /// The certificates whose revocation is to be asked for.
    pub revocable: Vec<Revocable>,
}

/// Whether authorityKeyIdentifier and the issuer's subjectKeyIdentifier agree; `None` when one is absent.
pub(crate) fn key_ids_agree(certificate: &Certificate, issuer: &Certificate) -> Option<bool> {
    let own = certificate.extensions.authority_key_id.as_ref()?;
    let issuers = issuer.extensions.subject_key_id.as_ref()?;
    Some(own == issuers)
}

/// Validates a chain, leaf first. The result does not depend on the present time: validity is returned as a window.
pub(crate) fn validate(
    chain: &[Certificate],
    anchors: &TrustAnchors,
    limits: &Limits,
    policy: &TrustPolicy,
) -> Result<PathFacts, PathError> {
    for (index, certificate) in chain.iter().enumerate() {
        if chain[..index].iter().any(|other| other.der() == certificate.der()) {
            return Err(PathError::Duplicate { index });
        }
    }
    for (index, pair) in chain.windows(2).enumerate() {
        if pair[0].issuer_raw != pair[1].subject_raw {
            return Err(PathError::IssuerName { index });
        }
        if key_ids_agree(&pair[0], &pair[1]) == Some(false) {
            return Err(PathError::KeyIdentifier { index });
        }
    }
    let included = included_anchor(chain, anchors)?;
    let path = &chain[..included.as_ref().map_or(chain.len(), |(length, _)| *length)];
    // The store refuses an empty chain, and the leaf is never taken for an anchor.
    let Some(last) = path.last() else {
        return Err(PathError::UnknownAnchor);
    };
    for (index, certificate) in path.iter().enumerate() {
        check_certificate(index, certificate, policy)?;
    }
    let mut budget = limits.max_signatures;
    let anchor = match included {
        Some((_, anchor)) => {
            check_signature(path.len() - 1, last, &anchor, policy, &mut budget)?;
            anchor
        }
        None => find_anchor(path.len() - 1, last, anchors, policy, &mut budget)?,
    };
    for (index, pair) in path.windows(2).enumerate().rev() {
        check_signature(index, &pair[0], &pair[1], policy, &mut budget)?;
    }
    check_constraints(path, &anchor)?;
    let scope = check_scope(path, &anchor, policy)?;
    let issued_by = |index: usize| path.get(index + 1).unwrap_or(&anchor);
    let (not_before, not_after) = window(path.iter().chain(policy.check_anchor_validity.then_some(&*anchor)));
    Ok(PathFacts {
        length: path.len(),
        issuer_spki: issued_by(0).spki_der().to_vec(),
        scope,
        missing_key_identifier: (0..path.len()).any(|index| key_ids_agree(&path[index], issued_by(index)).is_none()),
        null_parameter: path.iter().any(|certificate| ecdsa_null_parameter(&certificate.outer_algorithm).is_some()),
        not_before,
        not_after,
        revocable: (0..path.len()).filter_map(|index| Revocable::of(index, &path[index], issued_by(index))).collect(),
        anchor,
    })
}

/// Latest notBefore and earliest notAfter.
pub(crate) fn window<'a>(certificates: impl Iterator<Item = &'a Certificate>) -> (i64, i64) {
    certificates.fold((i64::MIN, i64::MAX), |(start, end), certificate| {
        (start.max(certificate.not_before()), end.min(certificate.not_after()))
    })
}

/// The first certificate above the leaf that is an anchor, with its index. What follows it must be anchors too.
fn included_anchor(
    chain: &[Certificate],
    anchors: &TrustAnchors,
) -> Result<Option<(usize, Arc<Certificate>)>, PathError> {
    let mut found: Option<(usize, Arc<Certificate>)> = None;
    for (index, certificate) in chain.iter().enumerate().skip(1) {
        match (anchors.matching(certificate), &found) {
            (Some(anchor), None) => found = Some((index, Arc::clone(anchor))),
            (None, Some(_)) => return Err(PathError::Unused { index }),
            _ => {}
        }
    }
    Ok(found)
}

/// What one certificate must satisfy on its own.
fn check_certificate(index: usize, certificate: &Certificate, policy: &TrustPolicy) -> Result<(), PathError> {
    let facts = &certificate.extensions;
    if certificate.version() != 3 {
        return Err(PathError::Version { index });
    }
    if let Some(extension) = facts.repeated.clone() {
        return Err(PathError::RepeatedExtension { index, extension });
    }
    if let Some(extension) = facts.malformed.clone() {
        return Err(PathError::MalformedExtension { index, extension });
    }
    if let Some(extension) = facts.unknown_critical.clone() {
        return Err(PathError::UnknownCritical { index, extension });
    }
    let leaf = index == 0;
    match (leaf, certificate.is_ca()) {
        (true, true) => return Err(PathError::LeafIsCa),
        (false, false) => return Err(PathError::NotCa { index }),
        _ => {}
    }
    if let Some((digital_signature, key_cert_sign)) = facts.key_usage
        && !(if leaf { digital_signature } else { key_cert_sign })
    {
        return Err(PathError::KeyUsage { index });
    }
    if facts.no_rev_avail && (!leaf || facts.status_pointer) {
        return Err(PathError::NoRevAvail { index });
    }
    if !policy.certificate_policies.is_empty()
        && !facts.policies.iter().any(|own| policy.certificate_policies.contains(own))
    {
        return Err(PathError::Policy { index });
    }
    if certificate.inner_algorithm != certificate.outer_algorithm {
        return Err(PathError::AlgorithmMismatch { index });
    }
    Ok(())
}

/// Tries every anchor that bears the issuer's name; anchors are configured, so their number is not the attacker's.
fn find_anchor(
    index: usize,
    last: &Certificate,
    anchors: &TrustAnchors,
    policy: &TrustPolicy,
    budget: &mut usize,
) -> Result<Arc<Certificate>, PathError> {
    let mut outcome = PathError::UnknownAnchor;
    for anchor in anchors.issuers_of(last) {
        match check_signature(index, last, anchor, policy, budget) {
            Ok(()) => return Ok(Arc::clone(anchor)),
            Err(PathError::Budget) => return Err(PathError::Budget),
            Err(error) => outcome = error,
        }
    }
    Err(outcome)
}

/// pathLenConstraint and nameConstraints, of the anchor too.
fn check_constraints(path: &[Certificate], anchor: &Certificate) -> Result<(), PathError> {
    for (index, issuer) in path.iter().chain([anchor]).enumerate().skip(1) {
        // RFC 5280 section 4.2.1.9: self-issued certificates do not count, nor does the leaf.
        let below = path[1..index].iter().filter(|certificate| !certificate.is_self_issued()).count();
        if let Some((_, Some(most))) = issuer.extensions.basic_constraints
            && below > usize::try_from(most).unwrap_or(usize::MAX)
        {
            return Err(PathError::PathLength { index });
        }
        if let Some(constraints) = &issuer.extensions.name_constraints
            && !constraints.allow(path[..index].iter().flat_map(Certificate::dns_names))
        {
            return Err(PathError::NameConstraints { index });
        }
    }
    Ok(())
}

/// Walks from the anchor to the leaf; each list must lie inside the last one above it.
fn check_scope(path: &[Certificate], anchor: &Certificate, policy: &TrustPolicy) -> Result<ScopeBasis, PathError> {
    let mut limit = None;
    let mut basis = ScopeBasis::Unbounded;
    let downwards = [(path.len(), anchor)].into_iter().chain(path.iter().enumerate().rev());
    for (index, certificate) in downwards {
        let list = match certificate.tn_auth_list() {
            Some(Ok(list)) => list,
            // A leaf without a readable list speaks for no number; that is for the TNAuthList check (R23) to say.
            _ if index == 0 => break,
            Some(Err(error)) => return Err(PathError::IssuerScope { index, error: *error }),
            None if certificate.tn_auth_list_uris().is_empty() => continue,
            None => return Err(PathError::ScopeByReference { index }),
        };
        if let Some(limit) = limit.replace(list) {
            match limit.encompasses(list) {
                Ok(Encompassed::Proven) if basis != ScopeBasis::UnprovenSpc => basis = ScopeBasis::Proven,
                Ok(Encompassed::Proven) => {}
                Ok(Encompassed::UnprovenSpc) => basis = ScopeBasis::UnprovenSpc,
                Err(excess) => return Err(PathError::Scope { index, excess }),
            }
        }
    }
    if basis == ScopeBasis::Unbounded && !policy.allow_direct_ca {
        return Err(PathError::NotDelegated);
    }
    Ok(basis)
}

const ECDSA: [&dyn SignatureVerificationAlgorithm; 9] = [
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA512,
];

/// 2048 bits and more.
const RSA: [&dyn SignatureVerificationAlgorithm; 6] = [
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
];

/// The ECDSA AlgorithmIdentifier without the NULL parameter some deployed certificates carry; `None` for any other.
pub(crate) fn ecdsa_null_parameter(algorithm: &[u8]) -> Option<&[u8]> {
    let bare = algorithm.strip_suffix(&[super::der::NULL, 0])?;
    let ecdsa = [alg_id::ECDSA_SHA256, alg_id::ECDSA_SHA384, alg_id::ECDSA_SHA512];
    ecdsa.iter().any(|id| id.as_ref() == bare).then_some(bare)
}

/// Why something signed is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureFault {
    Algorithm,
    Signature,
}

/// Whether `signature` over `message` is the issuer's. `algorithm` is the contents of the AlgorithmIdentifier.
pub(crate) fn check_signed(
    algorithm: &[u8],
    message: &[u8],
    signature: &[u8],
    issuer: &Certificate,
    allow_rsa: bool,
) -> Result<(), SignatureFault> {
    let algorithm = ecdsa_null_parameter(algorithm).unwrap_or(algorithm);
    let rsa: &[_] = if allow_rsa { &RSA } else { &[] };
    let verifier = ECDSA
        .iter()
        .chain(rsa)
        .find(|candidate| {
            candidate.signature_alg_id().as_ref() == algorithm
                && candidate.public_key_alg_id().as_ref() == &*issuer.key_algorithm
        })
        .ok_or(SignatureFault::Algorithm)?;
    verifier.verify_signature(&issuer.public_key, message, signature).map_err(|_| SignatureFault::Signature)
}

fn check_signature(
    index: usize,
    certificate: &Certificate,
    issuer: &Certificate,
    policy: &TrustPolicy,
    budget: &mut usize,
) -> Result<(), PathError> {
    *budget = budget.checked_sub(1).ok_or(PathError::Budget)?;
    let (algorithm, signature) = (&certificate.outer_algorithm, &certificate.signature);
    check_signed(algorithm, certificate.tbs(), signature, issuer, policy.allow_rsa_issuers).map_err(|fault| match fault
    {
        SignatureFault::Algorithm => PathError::Algorithm { index },
        SignatureFault::Signature => PathError::Signature { index },
    })
}
