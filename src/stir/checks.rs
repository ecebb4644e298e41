//! The single checks on a token: each a function of what it looks at, so that each is answered by itself.
use super::credential::{Credential, Known};
use super::signalling::{Signalling, media_keys};
use super::url::same_host;
use super::{Failure, Policy, Profile};
use crate::cert::{ChainVerdict, ProfileError, SctError, TrustStore, is_baseline_claim};
use crate::passport::jws::decode_signature;
use crate::passport::media_key::{same_set, sdp_has_fingerprint};
use crate::passport::ppt::{Ppt, shaken};
use crate::passport::{Claims, DialPlan, Identity};
use crate::sip::Message;
use aws_lc_rs::digest::Digest;

/// R22: a path to an anchor. VESPER also asks for key identifiers all along it (RFC 9060 section 7).
pub(super) fn chain(credential: &Credential, profile: Profile) -> Result<(), Failure> {
    let chain = credential.chain.as_ref().map_err(|_| Failure::Certificate)?;
    let path = chain.path.as_ref().map_err(|_| Failure::Path)?;
    if profile == Profile::Vesper && path.missing_key_identifier {
        return Err(Failure::Profile(ProfileError::MissingKeyIdentifier));
    }
    Ok(())
}

/// R28: the path is valid now, the leaf was when the token was made, and a VESPER leaf does not live too long (R5).
pub(super) fn validity(
    chain: &ChainVerdict,
    profile: Profile,
    trust: &TrustStore,
    unix: i64,
    iat: i64,
    skew: i64,
) -> Result<(), Failure> {
    chain.validity(unix, skew).map_err(Failure::Validity)?;
    let (start, end) = (chain.leaf.not_before(), chain.leaf.not_after());
    if iat < start.saturating_sub(skew) || iat > end.saturating_add(skew) {
        return Err(Failure::IatOutsideCertificate);
    }
    let seconds = end.saturating_sub(start);
    if profile == Profile::Vesper && seconds > trust.policy.vesper_max_lifetime {
        return Err(Failure::Profile(ProfileError::Lifetime { seconds }));
    }
    Ok(())
}

/// R23, and under SHAKEN: a TNAuthList with a service provider code speaks for any number; one with numbers alone for these. A URI
/// needs a certificate for its domain (RFC 8224 8.4, RFC 5922 7.2).
pub(super) fn tn_authorization(chain: &ChainVerdict, profile: Profile, orig: &Identity<'_>) -> Result<(), Failure> {
    let tn = match orig {
        Identity::Uri(uri) => return domain_authorization(chain, uri),
        Identity::Tn(tn) => tn,
    };
    let list = match chain.leaf.tn_auth_list() {
        Some(Ok(list)) => list,
        _ => return Err(Failure::NoTnAuthList),
    };
    if profile == Profile::Vesper && !list.has_tn_entry() {
        return Err(Failure::Profile(ProfileError::NoNumber));
    }
    let by_provider = profile == Profile::Shaken && list.spcs().next().is_some();
    if by_provider || list.covers(tn) { Ok(()) } else { Err(Failure::NumberNotAuthorized) }
}

fn domain_authorization(chain: &ChainVerdict, uri: &str) -> Result<(), Failure> {
    let host = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let named = chain.leaf.dns_names().iter().any(|name| same_host(host, name));
    if named { Ok(()) } else { Err(Failure::DomainNotAuthorized) }
}

/// R24. Without a path there is no issuer key to check an SCT with.
pub(super) fn sct(chain: &ChainVerdict, unix: i64, skew: i64) -> Result<(), Failure> {
    chain.check_scts(unix, skew).map_err(Failure::Sct)
}

/// The SCT check could not be made for want of a path.
pub(super) fn sct_needs_path(chain: &ChainVerdict) -> bool {
    matches!(chain.scts, Err(SctError::NoPath))
}

/// R26, and how many names the policy allows (B4).
pub(super) fn domain_binding(known: &Known, chain: &ChainVerdict, trust: &TrustStore) -> Result<(), Failure> {
    match chain.leaf.dns_names().len() {
        0 => Err(Failure::Profile(ProfileError::NoDnsName)),
        2.. if trust.policy.vesper_single_dns_name => Err(Failure::Profile(ProfileError::SeveralDnsNames)),
        _ => known.domain,
    }
}

/// R21.
pub(super) fn signature(chain: &ChainVerdict, signing_input: &Digest, segment: &[u8]) -> Result<(), Failure> {
    let signature = decode_signature(segment).map_err(Failure::Jws)?;
    if chain.verify_es256_digest(signing_input, &signature) { Ok(()) } else { Err(Failure::Signature) }
}

/// R29, RFC 8224 6.2 step 4. A full form is judged by `iat`; a stale Date beside a fresh `iat` is only accepted when replay state is
/// kept (I-25, I-31). A compact form has the Date for its `iat`.
pub(super) fn freshness(
    iat: i64,
    date: Option<i64>,
    unix: i64,
    policy: &Policy,
    replay_kept: bool,
) -> Result<(), Failure> {
    let age = unix.saturating_sub(iat);
    if age > policy.freshness {
        return Err(Failure::Stale { age });
    }
    if age < policy.skew.saturating_neg() {
        return Err(Failure::Future { ahead: age.saturating_neg() });
    }
    let date_age = date.map_or(0, |date| unix.saturating_sub(date));
    if date_age > policy.freshness && !replay_kept {
        return Err(Failure::StaleDate { age: date_age });
    }
    Ok(())
}

/// RFC 8224 6.2.4: `orig`, `dest` and `mky` against the request. Gives whether the request was retargeted.
pub(super) fn claims(
    claims: &Claims<'_>,
    signalling: &Signalling,
    request: Message<'_>,
    policy: &Policy,
    plan: &DialPlan,
) -> Result<bool, Failure> {
    signalling.caller().ok_or(Failure::NoOriginator)?;
    if !signalling.is_caller(&claims.orig, plan) {
        return Err(Failure::OrigMismatch);
    }
    let (mut is_callee, mut is_target) = (false, false);
    for destination in destinations(claims) {
        is_callee |= signalling.is_callee(&destination, plan);
        is_target |= signalling.is_target(&destination, plan);
    }
    match (is_callee, is_target) {
        (false, false) => return Err(Failure::DestMismatch),
        (true, false) if policy.strict_retarget => return Err(Failure::Retargeted),
        _ => {}
    }
    media(claims, request, policy)?;
    Ok(!is_target)
}

fn destinations<'c>(claims: &'c Claims<'_>) -> impl Iterator<Item = Identity<'c>> {
    let numbers = claims.dest.tn.iter().map(|tn| Identity::Tn(tn.into()));
    numbers.chain(claims.dest.uri.iter().map(|uri| Identity::Uri(uri.into())))
}

/// RFC 8224 4.1: `mky` is there exactly when the SDP has fingerprints, and names the same ones.
fn media(claims: &Claims<'_>, request: Message<'_>, policy: &Policy) -> Result<(), Failure> {
    if claims.mky.is_none() && !sdp_has_fingerprint(request.body()) {
        return Ok(());
    }
    let computed = media_keys(request);
    match &claims.mky {
        None if computed.is_empty() || policy.allow_missing_mky => Ok(()),
        None => Err(Failure::MediaKeyMissing),
        Some(claimed) if !computed.is_empty() && same_set(claimed, &computed) => Ok(()),
        Some(_) => Err(Failure::MediaKeyMismatch),
    }
}

/// What the extension asks of the claims (S-1).
pub(super) fn extension(ppt: Ppt, claims: &Claims<'_>) -> Result<Option<shaken::Attestation>, Failure> {
    match ppt {
        Ppt::Baseline => Ok(None),
        Ppt::Shaken => shaken::check(claims).map(Some).map_err(Failure::Extension),
    }
}

/// R25: constraints that are there bind under every profile. VESPER besides asks whether claims are authorized (R13); a strict policy
/// refuses the token then, others drop such claims.
pub(super) fn constraints(
    chain: &ChainVerdict,
    profile: Profile,
    policy: &Policy,
    claims: &Claims<'_>,
) -> Result<(), Failure> {
    if let Some(constraints) = chain.leaf.claim_constraints() {
        let constraints = constraints.map_err(|_| Failure::BadConstraints)?;
        constraints.check(&claims.to_map()).map_err(|_| Failure::ConstraintViolation)?;
    }
    let strict = profile == Profile::Vesper && policy.strict_claims;
    if strict && !claims.names().all(|name| is_authorized(chain, name)) {
        return Err(Failure::UnauthorizedClaim);
    }
    Ok(())
}

/// Whether a VESPER certificate authorizes a claim (R13).
pub(super) fn is_authorized(chain: &ChainVerdict, name: &str) -> bool {
    match chain.leaf.claim_constraints() {
        Some(Ok(constraints)) => constraints.authorizes(name),
        Some(Err(_)) => false,
        None => is_baseline_claim(name),
    }
}
