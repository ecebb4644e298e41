//! The verification service (RFC 8224 6.2, draft-wendt-stir-vesper-07 4.4.2).
//!
//! A warm verification is: the raw protected header found in a map and compared in full, the claims read, one ECDSA verification, one
//! entry in the replay table. It allocates nothing beyond the result, and waits for nothing.
pub use super::credential::{Credential, FetchedChain};
pub use super::failure::FetchFailure;
pub use super::{
    Check, CheckResult, Checks, Disposition, Failure, IdentitySource, Mode, Modes, OnFailure, Overall, Policy, Profile,
    Rejection, SignatureText, TokenVerdict, Verdict,
};

use super::checks;
use super::credential::{Credentials, Found, Known};
use super::replay::{ReplayTable, Seen};
use super::signalling::{Signalling, media_keys};
use crate::cert::{CacheLimits, ChainVerdict, TrustStore};
use crate::passport::claims::Destinations;
use crate::passport::jws::{self, Jws};
use crate::passport::{self, Claims, DialPlan, HeaderError, Identity, ProtectedHeader, TelephoneNumber, Token};
use crate::passport::{ppt::Ppt, serialize};
use crate::sip::identity::IdentityValue;
use crate::sip::{Message, Name};
use aws_lc_rs::digest::{self, Digest};
use std::sync::Arc;

/// Bounds and habits of a [`Verifier`].
#[derive(Clone, Debug)]
pub struct VerifierConfig {
    /// Bounds on tokens.
    pub passport: passport::Config,
    /// How numbers in the request are read.
    pub dial_plan: DialPlan,
    /// Bounds of the map of protected headers.
    pub headers: CacheLimits,
    /// Most chains with a path to an anchor that are kept.
    pub max_chains: usize,
    /// Most chains without one.
    pub max_refused_chains: usize,
    /// Most answers of `x5u` servers.
    pub max_fetched: usize,
    /// Seconds for which a failed fetch or a refused chain is kept.
    pub negative_ttl: i64,
    /// Most seconds for which a fetched chain is kept.
    pub max_fetched_age: i64,
    /// Ask `x5u` servers on other ports than 443 and 8443.
    pub allow_any_port: bool,
}

impl Default for VerifierConfig {
    fn default() -> Self {
        Self {
            passport: passport::Config::default(),
            dial_plan: DialPlan::default(),
            headers: CacheLimits::default(),
            max_chains: 8192,
            max_refused_chains: 1024,
            max_fetched: 4096,
            negative_ttl: 30,
            max_fetched_age: 7 * 24 * 3600,
            allow_any_port: false,
        }
    }
}

/// What verification came to.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // a verdict on every call; a box would be an allocation on every call
pub enum Outcome {
    /// All is said.
    Done(Verdict),
    /// The chain at this URL is to be fetched and given to [`Verifier::provide`]; then verify again.
    Need {
        /// An https URL that may be fetched (certificates are checked by this module, the resolved address by the fetcher).
        x5u: Box<str>,
    },
}

/// A verification service with its caches. One per worker.
#[derive(Debug)]
pub struct Verifier {
    config: VerifierConfig,
    credentials: Credentials,
    /// Decoded payloads, used again and again.
    payload: Vec<u8>,
    /// Rebuilt signing inputs of compact forms, likewise.
    rebuilt: Vec<u8>,
}

/// What all tokens of one request have in common.
struct Request<'a> {
    unix: i64,
    policy: &'a Policy,
    trust: &'a TrustStore,
    replay: Option<&'a ReplayTable>,
    message: Message<'a>,
    signalling: Signalling,
    /// A chain that this call can not have, and why.
    unreachable: Option<(&'a str, FetchFailure)>,
}

/// A token taken apart: what the checks look at.
struct Opened<'a> {
    known: &'a Known,
    claims: &'a Claims<'a>,
    signing_input: &'a [u8],
    signature: &'a [u8],
}

/// Judgement of one token, or what it needs first.
enum Judged {
    Token(TokenVerdict),
    Need(TokenVerdict, Box<str>),
}

impl Verifier {
    /// Empty caches. `hash_key` is random: it keeps a stranger from choosing headers that collide.
    pub fn new(config: VerifierConfig, hash_key: [u8; 16]) -> Self {
        let credentials = Credentials::new(&config, hash_key);
        Self { config, credentials, payload: Vec::new(), rebuilt: Vec::new() }
    }

    /// Other bounds and habits from now on; the caches keep their sizes.
    pub fn set_config(&mut self, config: VerifierConfig) {
        self.config = config;
    }

    /// How often the header of a token was known, with the verdict on its certificate, and how often not.
    pub fn cache_counts(&self) -> [u64; 2] {
        self.credentials.counts
    }

    /// Verifies a request. `unix` is the present time in UNIX seconds; without a `replay` table replays are not noticed.
    pub fn verify(
        &mut self,
        unix: i64,
        policy: &Policy,
        trust: &TrustStore,
        replay: Option<&ReplayTable>,
        request: Message<'_>,
    ) -> Outcome {
        let (verdict, need) = self.verify_with(unix, policy, trust, replay, request, None);
        match need {
            // I-29: one valid token suffices, so nothing is waited for.
            Some(x5u) if !verdict.is_valid() => Outcome::Need { x5u },
            _ => Outcome::Done(verdict),
        }
    }

    /// Verifies a request that is not to wait any longer: the chain at `x5u` could not be had because of `failure`, and whatever else
    /// would have to be fetched counts as [`FetchFailure::Busy`]. Nothing of this is kept for other calls.
    #[allow(clippy::too_many_arguments)] // `verify` and the two facts about the fetch
    pub fn verify_without(
        &mut self,
        unix: i64,
        policy: &Policy,
        trust: &TrustStore,
        replay: Option<&ReplayTable>,
        request: Message<'_>,
        x5u: &str,
        failure: FetchFailure,
    ) -> Verdict {
        self.verify_with(unix, policy, trust, replay, request, Some((x5u, failure))).0
    }

    fn verify_with(
        &mut self,
        unix: i64,
        policy: &Policy,
        trust: &TrustStore,
        replay: Option<&ReplayTable>,
        request: Message<'_>,
        unreachable: Option<(&str, FetchFailure)>,
    ) -> (Verdict, Option<Box<str>>) {
        let mut verdict = Verdict::new();
        let mut need = None;
        if request.field(Name::Identity).is_some() {
            let signalling = Signalling::of(request, policy.identity_source, &self.config.dial_plan);
            let cx = Request { unix, policy, trust, replay, message: request, signalling, unreachable };
            for value in request.values(Name::Identity).take(policy.max_identities) {
                match IdentityValue::parse(value.value, value.range.clone()) {
                    Ok(field) => match self.judge(&cx, &field) {
                        Judged::Token(token) => verdict.push(token),
                        Judged::Need(token, x5u) => {
                            verdict.push(token);
                            need.get_or_insert(x5u);
                        }
                    },
                    Err(_) => verdict.push(unreadable(policy, Failure::Field, SignatureText::of(&[]))),
                }
            }
        }
        verdict.conclude(policy);
        (verdict, need)
    }

    /// Gives the answer to a [`Outcome::Need`]. A chain is kept while it is fresh, a failure for [`VerifierConfig::negative_ttl`].
    pub fn provide(&mut self, unix: i64, x5u: &str, answer: Result<FetchedChain, FetchFailure>) {
        self.credentials.provide(unix, x5u, answer);
    }

    fn judge(&mut self, cx: &Request<'_>, field: &IdentityValue<'_>) -> Judged {
        // The buffers are lent to this call, so that claims can borrow from them while the caches are used.
        let mut payload = std::mem::take(&mut self.payload);
        let mut rebuilt = std::mem::take(&mut self.rebuilt);
        let judged = self.judge_with(cx, field, &mut payload, &mut rebuilt);
        (self.payload, self.rebuilt) = (payload, rebuilt);
        judged
    }

    /// Steps 1 to 5 of RFC 8224 6.2 for one field.
    fn judge_with(
        &mut self,
        cx: &Request<'_>,
        field: &IdentityValue<'_>,
        payload: &mut Vec<u8>,
        rebuilt: &mut Vec<u8>,
    ) -> Judged {
        let policy = cx.policy;
        let signature = SignatureText::of(field.digest);
        let refuse = |failure| Judged::Token(unreadable(policy, failure, signature));
        let ignore = || Judged::Token(TokenVerdict::new(Disposition::Ignored, policy.profile, signature));
        // Step 1, I-21.
        let supported = |ppt| std::str::from_utf8(ppt).is_ok_and(|name| Ppt::from_name(Some(name)).is_some());
        if !field.ppt.is_none_or(supported) {
            return ignore();
        }
        if field.info.is_empty() {
            return refuse(Failure::NoInfo);
        }
        let jws = match Token::parse(field.digest, &self.config.passport) {
            Ok(Token::Full(jws)) => jws,
            Ok(Token::Compact { signature }) => match rebuild(cx, field, signature, rebuilt) {
                Ok(jws) => jws,
                Err(failure) => return refuse(failure),
            },
            Err(error) => return refuse(Failure::Jws(error)),
        };
        let read = jws.decode_payload(payload).map_err(Failure::Jws);
        let claims = match read.and_then(|json| Claims::parse(json, &self.config.passport).map_err(Failure::Payload)) {
            Ok(claims) => claims,
            Err(failure) => return refuse(failure),
        };
        let warm = self.credentials.known(cx.unix, cx.trust.epoch, jws.header);
        let is_new = warm.is_none();
        let known = match warm {
            Some(known) => known,
            None => match ProtectedHeader::parse(jws.header, &self.config.passport) {
                // Before anything is fetched or validated for it: an unsupported kind is ignored.
                Ok(header) if header.supported_ppt().is_none() => return ignore(),
                Ok(header) => match self.look_up(cx, field, header) {
                    Found::Known(known) => known,
                    Found::Need(x5u) => {
                        if let Some((url, failure)) = cx.unreachable {
                            let failure = if *url == *x5u { failure } else { FetchFailure::Busy };
                            return Judged::Token(refused(policy, Check::Chain, Failure::Fetch(failure), signature));
                        }
                        let token = TokenVerdict::new(Disposition::Unchecked, policy.profile, signature);
                        return Judged::Need(token, x5u);
                    }
                },
                Err(error) => return Judged::Token(bad_header(policy, error, signature)),
            },
        };
        let opened =
            Opened { known: &known, claims: &claims, signing_input: jws.signing_input, signature: jws.signature };
        let mut token = TokenVerdict::new(Disposition::Valid, profile_for(policy, &known, &claims), signature);
        if policy.modes.get(Check::Token) != Mode::Off {
            let readable = token_check(field, &opened, &mut token);
            token.checks.set(Check::Token, readable);
        }
        let verified = examine(cx, &opened, &self.config.dial_plan, &mut token);
        if verified && is_new {
            self.credentials.remember(cx.trust.epoch, jws.header, known);
        }
        Judged::Token(token)
    }

    /// Finds the credential; asks for a fetch only when the policy could be content with a fetched one, and `info` agrees.
    fn look_up(&mut self, cx: &Request<'_>, field: &IdentityValue<'_>, header: ProtectedHeader) -> Found {
        let vesper_only = cx.policy.profile == Profile::Vesper && !cx.policy.accept_plain_stir;
        let agrees = header.x5u.as_deref().map(str::as_bytes) == Some(field.info) && header.alg == "ES256";
        self.credentials.look_up(cx.unix, cx.trust, header, vesper_only || !agrees)
    }
}

/// RFC 8224 4.1: header and field agree, and the claims have the shape of their kind.
fn token_check(field: &IdentityValue<'_>, opened: &Opened<'_>, token: &mut TokenVerdict) -> Result<(), Failure> {
    let known = opened.known;
    token.ppt = known.supported;
    token.iat = Some(opened.claims.iat);
    token.orig = opened.claims.orig.tn().and_then(TelephoneNumber::from_canonical);
    if !known.is_passport {
        return Err(Failure::Header(HeaderError::Type));
    }
    if !known.is_es256 || field.alg.is_some_and(|alg| alg != b"ES256") {
        return Err(Failure::Algorithm);
    }
    if known.ppt.as_deref().map(str::as_bytes) != field.ppt {
        return Err(Failure::PptMismatch);
    }
    let x5u = known.x5u.as_deref().ok_or(Failure::NoX5u)?;
    if x5u.as_bytes() != field.info {
        return Err(Failure::InfoMismatch);
    }
    let attest = checks::extension(known.supported.unwrap_or(Ppt::Baseline), opened.claims)?;
    let chain = known.credential.as_ref().ok().and_then(|credential| credential.chain.as_ref().ok());
    let authorized = |chain: &ChainVerdict| token.profile == Profile::Shaken || checks::is_authorized(chain, "attest");
    token.attest = attest.filter(|_| chain.is_some_and(authorized));
    Ok(())
}

/// The demands on this token: plain STIR when a VESPER policy allows it and the token can not be more.
fn profile_for(policy: &Policy, known: &Known, claims: &Claims<'_>) -> Profile {
    let eligible = known.inline && claims.orig.tn().is_some();
    if eligible || !policy.accept_plain_stir { policy.profile } else { Profile::Shaken }
}

/// Makes all checks but [`Check::Token`], records them and the disposition. Gives whether the token may be remembered: its signature
/// verified under a chain with a path.
fn examine(cx: &Request<'_>, opened: &Opened<'_>, plan: &DialPlan, token: &mut TokenVerdict) -> bool {
    let (policy, profile, claims) = (cx.policy, token.profile, opened.claims);
    let asked = |check: Check| policy.modes.get(check) != Mode::Off;
    let replay_kept = cx.replay.is_some() && asked(Check::Replay);
    if asked(Check::Freshness) {
        let fresh = checks::freshness(claims.iat, cx.signalling.date, cx.unix, policy, replay_kept);
        token.checks.set(Check::Freshness, fresh);
    }
    if asked(Check::Claims) {
        let agreed = checks::claims(claims, &cx.signalling, cx.message, policy, plan);
        token.retargeted = agreed == Ok(true);
        token.checks.set(Check::Claims, agreed.map(|_| ()));
    }
    let digest = digest::digest(&digest::SHA256, opened.signing_input);
    let mut verified = false;
    match &opened.known.credential {
        Ok(credential) => {
            token.credential = Some(Arc::clone(credential));
            token.checks.set(Check::Chain, chain_check(opened.known, credential, profile));
            if let Ok(chain) = &credential.chain {
                verified = examine_chain(cx, opened, chain, &digest, token) && chain.path.is_ok();
            }
        }
        Err(failure) => token.checks.set(Check::Chain, CheckResult::Failed(*failure)),
    }
    let mut fault = token.checks.fault(policy);
    if matches!(fault, None | Some(Check::Replay)) && asked(Check::Replay) {
        token.checks.set(Check::Replay, replay(cx, claims.iat, &digest, opened.signature));
        fault = token.checks.fault(policy);
    }
    token.disposition = fault.map_or(Disposition::Valid, Disposition::Invalid);
    verified
}

fn chain_check(known: &Known, credential: &Credential, profile: Profile) -> Result<(), Failure> {
    if profile == Profile::Vesper && !known.inline {
        return Err(Failure::NoX5c);
    }
    checks::chain(credential, profile)
}

/// The checks that look at the certificate. Gives whether the signature verifies.
fn examine_chain(
    cx: &Request<'_>,
    opened: &Opened<'_>,
    chain: &ChainVerdict,
    digest: &Digest,
    token: &mut TokenVerdict,
) -> bool {
    let (policy, profile, claims) = (cx.policy, token.profile, opened.claims);
    let asked = |check: Check| policy.modes.get(check) != Mode::Off;
    let checks = &mut token.checks;
    if asked(Check::Validity) {
        let valid = checks::validity(chain, profile, cx.trust, cx.unix, claims.iat, policy.skew);
        checks.set(Check::Validity, valid);
    }
    if asked(Check::TnAuthorization) {
        let authorized = match claims.orig {
            Identity::Uri(_) if profile == Profile::Vesper => Err(Failure::NotTelephoneNumber),
            _ => checks::tn_authorization(chain, profile, &claims.orig),
        };
        checks.set(Check::TnAuthorization, authorized);
    }
    if asked(Check::Constraints) {
        checks.set(Check::Constraints, checks::constraints(chain, profile, policy, claims));
    }
    if profile == Profile::Shaken {
        checks.set(Check::Sct, CheckResult::NotApplicable);
        checks.set(Check::DomainBinding, CheckResult::NotApplicable);
    } else {
        // Where the chain is enforced, its failure says it all.
        let moot = policy.modes.get(Check::Chain) == Mode::Enforce && checks::sct_needs_path(chain);
        if asked(Check::Sct) && !moot {
            checks.set(Check::Sct, checks::sct(chain, cx.unix, policy.skew));
        }
        if asked(Check::DomainBinding) {
            checks.set(Check::DomainBinding, checks::domain_binding(opened.known, chain, cx.trust));
        }
    }
    // Asked even when it is not to count: it decides what is remembered.
    let signature = checks::signature(chain, digest, opened.signature);
    if asked(Check::Signature) {
        checks.set(Check::Signature, signature);
    }
    signature.is_ok()
}

/// Remembers a token that is valid so far (a stranger's invalid copy must not make the true one a replay).
fn replay(cx: &Request<'_>, iat: i64, digest: &Digest, segment: &[u8]) -> CheckResult {
    let Some(table) = cx.replay else { return CheckResult::NotApplicable };
    // Only reached with a signature that verified, unless that check is off and the segment is anything: then nothing is known.
    let Ok(signature) = jws::decode_signature(segment) else { return CheckResult::Unknown };
    let until = cx.unix.max(iat).saturating_add(cx.policy.freshness).saturating_add(cx.policy.skew);
    match table.check(cx.unix, until, digest, &signature, cx.message.call_id().unwrap_or_default()) {
        Seen::First | Seen::SameCall => CheckResult::Passed,
        Seen::OtherCall => CheckResult::Failed(Failure::Replayed),
        Seen::Full => CheckResult::Unknown,
    }
}

/// Header and claims of a compact form (RFC 8225 section 7): from the field, the request and its Date. Only baseline tokens have one
/// (P-19, S-3).
fn rebuild<'b>(
    cx: &Request<'_>,
    field: &IdentityValue<'b>,
    signature: &'b [u8],
    out: &'b mut Vec<u8>,
) -> Result<Jws<'b>, Failure> {
    let (caller, callee) = (cx.signalling.caller(), cx.signalling.callee());
    let (Some(caller), Some(callee), Some(date)) = (caller, callee, cx.signalling.date) else {
        return Err(Failure::Compact);
    };
    let info = std::str::from_utf8(field.info).map_err(|_| Failure::Compact)?;
    if field.ppt.is_some() {
        return Err(Failure::Compact);
    }
    let mut claims = Claims::baseline(caller.as_identity(), Destinations::one(callee.as_identity()), date);
    let keys = media_keys(cx.message);
    claims.mky = (!keys.is_empty()).then_some(keys);
    let mut json = Vec::new();
    serialize::write_header::<&[u8]>(None, &[], Some(info), &mut json);
    out.clear();
    jws::encode(&json, out);
    let header = out.len();
    json.clear();
    serialize::write_claims(&claims, &mut json);
    out.push(b'.');
    jws::encode(&json, out);
    let (header, payload) = (&out[..header], &out[header + 1..]);
    Ok(Jws { signing_input: out, header, payload, signature })
}

/// A token of which nothing can be checked but that. It never is valid; whether the call is refused for it, the mode decides.
fn unreadable(policy: &Policy, failure: Failure, signature: SignatureText) -> TokenVerdict {
    refused(policy, Check::Token, failure, signature)
}

/// A protected header that is refused: for its certificates (437), or altogether (438).
fn bad_header(policy: &Policy, error: HeaderError, signature: SignatureText) -> TokenVerdict {
    use HeaderError::{CertificateBase64, CertificateTooLong, Certificates, Malformed};
    match error {
        Certificates { .. } | CertificateTooLong { .. } | CertificateBase64 { .. } | Malformed("x5c") => {
            refused(policy, Check::Chain, Failure::X5c(error), signature)
        }
        _ => unreadable(policy, Failure::Header(error), signature),
    }
}

fn refused(policy: &Policy, check: Check, failure: Failure, signature: SignatureText) -> TokenVerdict {
    let mut token = TokenVerdict::new(Disposition::Invalid(check), policy.profile, signature);
    token.checks.set(check, CheckResult::Failed(failure));
    token.disposition = Disposition::Invalid(token.checks.fault(policy).unwrap_or(check));
    token
}
