//! The verification service (RFC 8224 6.2, draft-wendt-stir-vesper-07 4.4.2).
//!
//! A warm verification is: the raw protected header found in a map and compared in full, the claims read, one ECDSA verification, one
//! entry in the replay table. It allocates nothing beyond the result, and waits for nothing.
pub use super::credential::{Credential, FetchedChain};
pub use super::failure::FetchFailure;
pub use super::{
    Check, CheckResult, Checks, Disposition, Failure, IdentitySource, Mode, Modes, OnFailure, Overall, Policy,
    PriorityAuthority, Profile, Rejection, Retarget, RichCallData, Role, SignatureText, TokenVerdict, Verdict,
};

use super::caller::Caller;
use super::credential::Credentials;
use super::diversion::{self, Link};
use super::judge::{Judged, Request, unreadable};
use super::replay::ReplayTable;
use super::signalling::Signalling;
use crate::cert::{CacheLimits, TrustStore};
use crate::passport::{self, DialPlan};
use crate::sip::identity::IdentityValue;
use crate::sip::{Message, Name};
use std::cell::Cell;

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
    pub(super) config: VerifierConfig,
    pub(super) credentials: Credentials,
    /// Decoded payloads, used again and again.
    pub(super) payload: Vec<u8>,
    /// Rebuilt signing inputs of compact forms, likewise.
    pub(super) rebuilt: Vec<u8>,
    signatures: u64,
}

/// What a verifier has done for which it pays in time, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Signatures of tokens checked.
    pub signatures: u64,
    /// Chains that were read and led to an anchor or not; those known from before are not counted.
    pub chains: u64,
    /// Certificates in them.
    pub certificates: u64,
}

/// A certificate that would have to be fetched.
struct Wanted {
    x5u: Box<str>,
    /// The call is not to go on without.
    is_vital: bool,
}

impl Verifier {
    /// Empty caches. `hash_key` is random: it keeps a stranger from choosing headers that collide.
    pub fn new(config: VerifierConfig, hash_key: [u8; 16]) -> Self {
        let credentials = Credentials::new(&config, hash_key);
        Self { config, credentials, payload: Vec::new(), rebuilt: Vec::new(), signatures: 0 }
    }

    /// Other bounds and habits from now on; the caches keep their sizes.
    pub fn set_config(&mut self, config: VerifierConfig) {
        self.config = config;
    }

    /// How often the header of a token was known, with the verdict on its certificate, and how often not.
    pub fn cache_counts(&self) -> [u64; 2] {
        self.credentials.counts
    }

    /// Judges the Identity fields of a message, as many as the policy looks at; `need` hears of certificates that would have to be fetched.
    pub(super) fn judge_fields(
        &mut self,
        cx: &Request<'_>,
        links: &mut Vec<Link>,
        verdict: &mut Verdict,
        mut need: impl FnMut(&TokenVerdict, Box<str>),
    ) {
        for (place, value) in cx.message.values(Name::Identity).take(cx.policy.max_identities).enumerate() {
            let judged = match IdentityValue::parse(value.value, value.range.clone()) {
                Ok(field) => self.judge(cx, place, &field, links),
                Err(_) => Judged::Token(unreadable(cx.policy)),
            };
            match judged {
                Judged::Token(token) => verdict.push(token),
                Judged::Need(token, x5u) => {
                    need(&token, x5u);
                    verdict.push(token);
                }
            }
        }
        self.signatures += cx.signatures.get();
    }

    /// What was done so far.
    pub fn work(&self) -> Work {
        let [chains, certificates] = self.credentials.assessed;
        Work { signatures: self.signatures, chains, certificates }
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
        let (mut verdict, need) = self.verify_with(unix, policy, trust, replay, request, None);
        match need {
            // I-29: one valid token suffices, so nothing is waited for.
            Some(need) if !verdict.is_valid() || need.is_vital => Outcome::Need { x5u: need.x5u },
            need => {
                verdict.unfetched = need.map(|need| need.x5u);
                Outcome::Done(verdict)
            }
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
    ) -> (Verdict, Option<Wanted>) {
        let mut verdict = Verdict::new();
        verdict.caller = Caller::of(request, policy, &self.config.dial_plan);
        let mut need = None;
        if request.field(Name::Identity).is_some() {
            let signalling = Signalling::of(request, policy.identity_source, &self.config.dial_plan);
            let has_priority = request.field(Name::ResourcePriority).is_some();
            let is_diverted = is_diverted(request, policy);
            let cx = Request {
                unix,
                policy,
                trust,
                replay,
                message: request,
                signalling,
                unreachable,
                is_diverted,
                answers: None,
                signatures: Cell::new(0),
            };
            let mut links = Vec::new();
            self.judge_fields(&cx, &mut links, &mut verdict, |token, x5u| {
                // without its priority it is another call, so that is waited for even if the call is valid.
                let is_vital = token.role == Role::Priority && has_priority;
                if need.as_ref().is_none_or(|need: &Wanted| is_vital && !need.is_vital) {
                    need = Some(Wanted { x5u, is_vital });
                }
            });
            if is_diverted {
                diversion::resolve(&cx, &mut links, &mut verdict);
            }
        }
        verdict.conclude(policy);
        (verdict, need)
    }

    /// Gives the answer to a [`Outcome::Need`], for calls that are judged by this store, as the one that asked is to be next: under
    /// another epoch the chain is asked for anew. It is kept while it is fresh, a failure for [`VerifierConfig::negative_ttl`].
    pub fn provide(&mut self, unix: i64, trust: &TrustStore, x5u: &str, answer: Result<FetchedChain, FetchFailure>) {
        self.credentials.provide(unix, trust.epoch, x5u, answer);
    }
}

/// Whether there are chains to look for: several fields, one of them a diversion.
fn is_diverted(request: Message<'_>, policy: &Policy) -> bool {
    let mut fields = request.values(Name::Identity).take(policy.max_identities);
    let is_diversion = |value: crate::sip::ListValue<'_>| {
        IdentityValue::parse(value.value, value.range).is_ok_and(|field| field.ppt == Some(b"div"))
    };
    request.values(Name::Identity).nth(1).is_some() && fields.any(is_diversion)
}
