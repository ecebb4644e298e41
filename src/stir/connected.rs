//! Connected identity (RFC 9970): the called side says in responses, by a token of `ppt=rsp`, whom the call has reached; the calling side
//! verifies that as it would verify a caller, with authority over `dest`.
//!
//! Both sides go by the tokens of the INVITE ([`Tokens`]): without any there is no connected identity (N-26).
use super::judge::Request;
use super::replay::ReplayTable;
use super::signalling::Signalling;
use super::verification::{Outcome, Verifier};
use super::{Check, CheckResult, Disposition, Failure, FetchFailure, IdentitySource, Policy, Verdict, diversion};
use crate::cert::TrustStore;
use crate::passport::claims::Destinations;
use crate::passport::ppt::Ppt;
use crate::passport::{CanonicalIdentity, Claims, Config, DialPlan, Identity, Token};
use crate::sip::identity::IdentityValue;
use crate::sip::{Message, Name, NameAddr};
use std::cell::Cell;

mod reach;

pub use reach::Reach;

/// Most tokens of an INVITE that are looked at, and most Identity fields of a response.
const MAX_FIELDS: usize = 16;

/// What the INVITE of a call says of caller and callee, as its tokens have it. Nothing here is verified: whoever asks has done that, or
/// has signed the tokens himself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens(Vec<Asserted>);

/// What one of them says.
#[derive(Clone, Debug, PartialEq)]
struct Asserted {
    orig: Identity<'static>,
    dest: Vec<Identity<'static>>,
    /// Who diverted the call, in a token of `ppt=div`.
    div: Option<Identity<'static>>,
    iat: i64,
    /// The value of its Identity field.
    value: Box<[u8]>,
}

/// What we sent, for the verification of what comes back.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// The tokens that left with the INVITE.
    pub tokens: Tokens,
    /// When it left, UNIX seconds: a diversion may come back after long ringing.
    pub at: i64,
    /// Whom an earlier response in this dialog named (N-20).
    pub pinned: Option<Identity<'static>>,
    /// A party that proven diversions lead to may answer, not only the one that was called (N-12).
    pub accepts_diversions: bool,
}

impl Tokens {
    /// Those of a request, and of Identity lines that are added to it. What can not be read is left out, and so is what speaks of no
    /// callee: `div-o`, `rph`, rich call data of others.
    pub fn of(request: Message<'_>, lines: &[u8], plan: &DialPlan) -> Self {
        let mut tokens = Vec::new();
        for value in request.values(Name::Identity).take(MAX_FIELDS) {
            if let Ok(field) = IdentityValue::parse(value.value, value.range) {
                tokens.extend(Asserted::read(&field, value.value, Some(request), plan));
            }
        }
        for line in lines.split(|octet| *octet == b'\n').take(MAX_FIELDS) {
            let Some(value) = line.strip_prefix(b"Identity: ").map(<[u8]>::trim_ascii_end) else { continue };
            if let Ok(field) = IdentityValue::parse(value, 0..value.len()) {
                tokens.extend(Asserted::read(&field, value, None, plan));
            }
        }
        Self(tokens)
    }

    /// There is none: then no `rsp` is sent (N-26), and none is believed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latest time of a token, UNIX seconds.
    pub(super) fn latest_iat(&self) -> Option<i64> {
        self.0.iter().map(|token| token.iat).max()
    }

    /// Whether a token names this caller.
    pub(super) fn has_caller(&self, orig: &Identity<'_>) -> bool {
        self.0.iter().any(|token| token.orig == *orig)
    }

    /// Whether a token was meant for this party. One that we have diverted the call to counts: we know of that.
    pub(super) fn was_meant_for(&self, party: &Identity<'_>) -> bool {
        self.0.iter().any(|token| token.dest.contains(party))
    }
}

impl Asserted {
    fn read(field: &IdentityValue<'_>, value: &[u8], request: Option<Message<'_>>, plan: &DialPlan) -> Option<Self> {
        let ppt = Ppt::from_name(field.ppt.map(std::str::from_utf8).transpose().ok()?)?;
        if matches!(ppt, Ppt::DivO | Ppt::Rph | Ppt::Msg | Ppt::Rsp) {
            return None;
        }
        let config = Config::default();
        let of = |claims: &Claims<'_>| {
            let speaks = ppt != Ppt::Rcd || claims.other("iss").is_none();
            speaks.then(|| Self {
                orig: diversion::canonical(&claims.orig, plan),
                dest: claims.dest.iter().map(|identity| diversion::canonical(&identity, plan)).collect(),
                div: claims.div.as_ref().filter(|_| ppt == Ppt::Div).map(|div| diversion::canonical(div, plan)),
                iat: claims.iat,
                value: value.into(),
            })
        };
        match Token::parse(field.digest, &config).ok()? {
            Token::Full(jws) => {
                let mut payload = Vec::new();
                let json = jws.decode_payload(&mut payload).ok()?;
                of(&Claims::parse(json, &config).ok()?)
            }
            // It says what the request says.
            Token::Compact { .. } => {
                let signalling = Signalling::of(request?, IdentitySource::From, plan);
                let (caller, callee) = (signalling.caller()?, signalling.callee()?);
                of(&Claims::baseline(caller.as_identity(), Destinations::one(callee.as_identity()), signalling.date?))
            }
        }
    }
}

/// Whom the network says a response comes from: the first P-Asserted-Identity. For who believes it.
pub fn asserted_party(response: Message<'_>, plan: &DialPlan) -> Option<CanonicalIdentity> {
    let value = response.values(Name::PAssertedIdentity).next()?;
    CanonicalIdentity::from_uri(NameAddr::parse(value.value).ok()?.uri, plan)
}

/// A response holds a token of `ppt=rsp`, good or bad.
pub fn has_rsp(response: Message<'_>) -> bool {
    let mut fields = response.values(Name::Identity).take(MAX_FIELDS);
    fields.any(|value| {
        IdentityValue::parse(value.value, value.range)
            .is_ok_and(|field| field.ppt == Ppt::Rsp.name().map(str::as_bytes))
    })
}

impl Verifier {
    /// Verifies the Identity fields of a response to an INVITE of ours: those of `ppt=rsp`, with the diversions beside them (section 4 of
    /// RFC 9970). A valid verdict says that the party in [`super::TokenVerdict::connected`] was reached. Checks and modes are those of
    /// the policy; what it says of the request itself (methods, refusals) means nothing here, as a response can not be refused (N-5).
    pub fn verify_response(
        &mut self,
        unix: i64,
        policy: &Policy,
        trust: &TrustStore,
        replay: Option<&ReplayTable>,
        sent: &Sent,
        response: Message<'_>,
    ) -> Outcome {
        let (mut verdict, need) = self.judge_response(unix, policy, trust, replay, sent, response, None);
        match need {
            Some(x5u) if !verdict.is_valid() => Outcome::Need { x5u },
            need => {
                verdict.unfetched = need;
                Outcome::Done(verdict)
            }
        }
    }

    /// The same without waiting for the certificate at `x5u`.
    #[allow(clippy::too_many_arguments)] // `verify_response` and what could not be had
    pub fn verify_response_without(
        &mut self,
        unix: i64,
        policy: &Policy,
        trust: &TrustStore,
        replay: Option<&ReplayTable>,
        sent: &Sent,
        response: Message<'_>,
        x5u: &str,
        failure: FetchFailure,
    ) -> Verdict {
        self.judge_response(unix, policy, trust, replay, sent, response, Some((x5u, failure))).0
    }

    #[allow(clippy::too_many_arguments)] // what both have in common
    fn judge_response(
        &mut self,
        unix: i64,
        policy: &Policy,
        trust: &TrustStore,
        replay: Option<&ReplayTable>,
        sent: &Sent,
        response: Message<'_>,
        unreachable: Option<(&str, FetchFailure)>,
    ) -> (Verdict, Option<Box<str>>) {
        let mut verdict = Verdict::new();
        let (mut links, mut need) = (Vec::new(), None);
        if response.field(Name::Identity).is_some() && !sent.tokens.is_empty() {
            let signalling = Signalling::of(response, IdentitySource::From, &self.config.dial_plan);
            let cx = Request {
                unix,
                policy,
                trust,
                replay,
                message: response,
                signalling,
                unreachable,
                is_diverted: true,
                answers: Some(sent),
                signatures: Cell::new(0),
            };
            self.judge_fields(&cx, &mut links, &mut verdict, |_, x5u| {
                need.get_or_insert(x5u);
            });
            if sent.accepts_diversions {
                diversion::resolve_response(&cx, sent, &mut links, &mut verdict);
            }
            if policy.identity_source == IdentitySource::AssertedThenFrom {
                hold_to_assertion(policy, asserted_party(response, &self.config.dial_plan).as_ref(), &mut verdict);
            }
        }
        verdict.conclude(policy);
        (verdict, need)
    }
}

/// O-5: where the network asserts who answered, an `rsp` that names another is not believed.
fn hold_to_assertion(policy: &Policy, asserted: Option<&CanonicalIdentity>, verdict: &mut Verdict) {
    let Some(asserted) = asserted else { return };
    for token in verdict.tokens_mut().iter_mut().filter(|token| token.disposition == Disposition::Valid) {
        if token.connected.as_ref().is_some_and(|connected| !asserted.is(connected)) {
            token.checks.set(Check::Claims, CheckResult::Failed(Failure::PartyNotAsserted));
            token.disposition = token.checks.fault(policy).map_or(token.disposition, Disposition::Invalid);
        }
    }
}
