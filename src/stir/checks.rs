//! The single checks on a token: each a function of what it looks at, so that each is answered by itself.
use super::connected::Sent;
use super::credential::{Credential, Known};
use super::judge::{Request, Seal};
use super::signalling::media_keys;
use super::url::is_domain_named;
use super::{Failure, Policy, PriorityAuthority, Profile, Role, priority};
use crate::cert::{ChainVerdict, ProfileError, Revocation, SctError, TrustStore, is_baseline_claim};
use crate::passport::form;
use crate::passport::jws::{Jws, decode_signature};
use crate::passport::media_key::{same_set, sdp_has_fingerprint};
use crate::passport::ppt::{Ppt, msg, rph::PriorityClaims};
use crate::passport::{Claims, ClaimsError, DialPlan, Identity};
use crate::sip::Message;

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

/// RFC 5280 6.1.3 (a)(3), by the CRLs at hand: nothing is waited for. Short-lived leaves are not asked about (R37).
pub(super) fn revocation(chain: &ChainVerdict, trust: &TrustStore, unix: i64, skew: i64) -> Result<(), Failure> {
    match trust.revocations.worst(chain.revocable(), unix, skew) {
        Revocation::Good => Ok(()),
        Revocation::Revoked => Err(Failure::Revoked),
        Revocation::Unavailable => Err(Failure::CrlUnavailable),
    }
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

/// Whom the certificate has to speak for: the caller (R23), the diverting party (D-8), the namespaces of Resource-Priority, or
/// nobody in the call: a third party speaks for itself (T-1).
pub(super) fn authorization(
    chain: &ChainVerdict,
    profile: Profile,
    policy: &Policy,
    ppt: Ppt,
    claims: &Claims<'_>,
) -> Option<Result<(), Failure>> {
    let number = |identity: &Identity<'_>| match identity {
        Identity::Uri(_) if profile == Profile::Vesper => Err(Failure::NotTelephoneNumber),
        _ => tn_authorization(chain, profile, identity),
    };
    match ppt {
        Ppt::Div | Ppt::DivO => {
            let missing = Err(Failure::Extension(ClaimsError::Missing("div")));
            Some(claims.div.as_ref().map_or(missing, number))
        }
        Ppt::Rph => Some(namespace_authorization(chain, policy)),
        // N-3: over whoever was reached.
        Ppt::Rsp => Some(claims.dest.iter().try_for_each(|reached| number(&reached))),
        Ppt::Rcd if role(ppt, claims) == Role::ThirdParty => None,
        _ => Some(number(&claims.orig)),
    }
}

/// What a token of this kind with these claims speaks of. With `div-o` that is for the innermost token to say.
pub(super) fn role(ppt: Ppt, claims: &Claims<'_>) -> Role {
    Role::of(Some(ppt), ppt == Ppt::Rcd && claims.other("iss").is_some())
}

/// constraints that name `rph`, by the choice of this program; or a provider's certificate where the policy has it so.
fn namespace_authorization(chain: &ChainVerdict, policy: &Policy) -> Result<(), Failure> {
    let named = matches!(chain.leaf.claim_constraints(), Some(Ok(constraints)) if constraints.authorizes("rph"));
    let list = chain.leaf.tn_auth_list().and_then(Result::ok);
    let provider = policy.priority_authority == PriorityAuthority::Provider;
    let is_provider = || list.is_some_and(|list| list.spcs().next().is_some());
    if named || (provider && is_provider()) { Ok(()) } else { Err(Failure::NamespaceNotAuthorized) }
}

fn domain_authorization(chain: &ChainVerdict, uri: &str) -> Result<(), Failure> {
    if is_domain_named(chain.leaf.dns_names(), uri) { Ok(()) } else { Err(Failure::DomainNotAuthorized) }
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
pub(super) fn signature(chain: &ChainVerdict, seal: &Seal, segment: &[u8]) -> Result<(), Failure> {
    let signature = match seal.signature {
        Some(signature) => signature,
        None => decode_signature(segment).map_err(Failure::Jws)?,
    };
    if chain.verify_es256_digest(&seal.input, &signature) { Ok(()) } else { Err(Failure::Signature) }
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

/// RFC 8946 4.2 step 4: how old a token may be that diversions lead back to.
pub(super) fn diverted_freshness(iat: i64, unix: i64, policy: &Policy) -> Result<(), Failure> {
    let age = unix.saturating_sub(iat);
    if age > policy.freshness.max(policy.diverted_freshness) {
        return Err(Failure::Stale { age });
    }
    if age < policy.skew.saturating_neg() { Err(Failure::Future { ahead: age.saturating_neg() }) } else { Ok(()) }
}

/// N-18, O-3: an `rsp` is signed when the response is, and not before the INVITE; a diversion that comes back is as old as the INVITE
/// was when it left.
pub(super) fn response_freshness(ppt: Ppt, iat: i64, sent: &Sent, unix: i64, policy: &Policy) -> Result<(), Failure> {
    if ppt == Ppt::Div {
        return diverted_freshness(iat, sent.at, policy);
    }
    freshness(iat, None, unix, policy, true)?;
    let before = sent.tokens.latest_iat().unwrap_or(sent.at).min(sent.at).saturating_sub(iat);
    if before > policy.skew { Err(Failure::Stale { age: before }) } else { Ok(()) }
}

/// What the claims of a token in a response say of the INVITE that we sent, and of the SDP of the response (steps 6 to 8 of the calling
/// side). `dest` of an `rsp` comes last: diversions may make up for it.
pub(super) fn response_claims(cx: &Request<'_>, sent: &Sent, ppt: Ppt, claims: &Claims<'_>) -> Result<(), Failure> {
    if !sent.tokens.has_caller(&claims.orig) {
        return Err(Failure::OrigMismatch);
    }
    if ppt == Ppt::Div {
        return Err(Failure::DivIncomplete);
    }
    if sent.pinned.as_ref().is_some_and(|pinned| !claims.dest.iter().any(|reached| reached == *pinned)) {
        return Err(Failure::PartyChanged);
    }
    media(claims, cx.message, cx.policy)?;
    if claims.dest.iter().any(|reached| sent.tokens.was_meant_for(&reached)) {
        Ok(())
    } else {
        Err(Failure::DestMismatch)
    }
}

/// P-14: header and payload as RFC 8225 section 9 has them, of a token that has been read.
pub(super) fn serialization(jws: &Jws<'_>) -> Result<(), Failure> {
    let mut json = Vec::new();
    let header = form::is_deterministic(jws.decode_header(&mut json).map_err(Failure::Jws)?);
    let payload = form::is_deterministic(jws.decode_payload(&mut json).map_err(Failure::Jws)?);
    if header && payload { Ok(()) } else { Err(Failure::Serialization) }
}

/// What the claims say of the request.
#[derive(Default)]
pub(super) struct Agreed {
    /// `dest` names somebody else; a chain of diversions may make up for that.
    pub(super) astray: Option<Failure>,
    /// `dest` names To, not the Request-URI.
    pub(super) retargeted: bool,
    /// r-values of Resource-Priority that `rph` names.
    pub(super) priorities: Vec<Box<str>>,
}

/// RFC 8224 6.2.4: the claims against the request. What `dest` says against it is kept apart: a chain of diversions
/// may make up for that, not for the rest.
pub(super) fn claims(cx: &Request<'_>, ppt: Ppt, claims: &Claims<'_>, plan: &DialPlan) -> Result<Agreed, Failure> {
    let (signalling, request, policy) = (&cx.signalling, cx.message, cx.policy);
    signalling.caller().ok_or(Failure::NoOriginator)?;
    if !signalling.is_caller(&claims.orig, plan) {
        return Err(Failure::OrigMismatch);
    }
    let mut agreed = Agreed { priorities: contents(ppt, claims, request, policy)?, ..Agreed::default() };
    let (mut is_callee, mut is_target) = (false, false);
    for destination in claims.dest.iter() {
        is_callee |= signalling.is_callee(&destination, plan);
        is_target |= signalling.is_target(&destination, plan);
    }
    agreed.astray = match (ppt, is_callee, is_target) {
        // Until a chain is found that it belongs to.
        (Ppt::Div, ..) => Some(Failure::DivIncomplete),
        (_, _, true) => None,
        // RFC 8946 4.2: To is not used for diversions.
        (Ppt::DivO, ..) => Some(Failure::DivTarget),
        (_, false, false) => Some(Failure::DestMismatch),
        // An emergency call keeps its priority, however it is routed.
        (_, true, false) if policy.strict_retarget && ppt != Ppt::Rph => Some(Failure::Retargeted),
        (_, true, false) => {
            agreed.retargeted = true;
            None
        }
    };
    Ok(agreed)
}

/// What a token of this kind says of what the request carries. Gives the r-values of Resource-Priority that it speaks for.
pub(super) fn contents(
    ppt: Ppt,
    claims: &Claims<'_>,
    request: Message<'_>,
    policy: &Policy,
) -> Result<Vec<Box<str>>, Failure> {
    match ppt {
        // D-7: they carry no mky.
        Ppt::Div | Ppt::DivO => {}
        Ppt::Rph => {
            media(claims, request, policy)?;
            let read = PriorityClaims::read(claims).map_err(Failure::Extension)?;
            return priority::proven(request, &read);
        }
        Ppt::Msg => {
            media(claims, request, policy)?;
            let digest = msg::read(claims).map_err(Failure::Extension)?;
            if digest.is_some_and(|digest| !digest.is_of(request.body())) {
                return Err(Failure::BodyMismatch);
            }
        }
        // M-3: msgi counts for nothing here.
        Ppt::Baseline | Ppt::Shaken | Ppt::Rcd | Ppt::Rsp => media(claims, request, policy)?,
    }
    Ok(Vec::new())
}

/// A failure that a chain of diversions makes up for.
pub(super) fn is_for_chain(failure: Failure) -> bool {
    use Failure::{DestMismatch, DivIncomplete, DivTarget, Retargeted};
    matches!(failure, DestMismatch | DivIncomplete | DivTarget | Retargeted)
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
