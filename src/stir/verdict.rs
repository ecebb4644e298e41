//! What verification found. A verdict on a request with one Identity field allocates nothing.
use super::credential::Credential;
use super::rich_call_data::{Element, RichCallData};
use super::{Caller, Check, Failure, Mode, OnFailure, Policy, Profile, reason};
use crate::passport::ppt::Ppt;
use crate::passport::ppt::shaken::{Attestation, OrigId};
use crate::passport::{Identity, TelephoneNumber};
use std::sync::Arc;

/// The answer to one [`Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// Not asked: switched off, or another failure left nothing to ask about.
    NotDone,
    /// The profile does not ask it.
    NotApplicable,
    /// Good.
    Passed,
    /// Asked, but it can not be told: the replay table is full, or a CRL is not at hand.
    Unknown,
    /// Bad.
    Failed(Failure),
}

impl CheckResult {
    /// Nothing speaks against the token.
    pub fn ok(self) -> bool {
        matches!(self, Self::Passed | Self::NotApplicable | Self::Unknown)
    }

    /// Why it failed.
    pub fn failure(self) -> Option<Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

impl From<Result<(), Failure>> for CheckResult {
    fn from(result: Result<(), Failure>) -> Self {
        result.map_or_else(Self::Failed, |()| Self::Passed)
    }
}

/// One answer per [`Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks([CheckResult; Check::ALL.len()]);

impl Checks {
    pub(super) const NOT_DONE: Self = Self([CheckResult::NotDone; Check::ALL.len()]);

    /// The answer to one.
    pub fn get(&self, check: Check) -> CheckResult {
        self.0[check as usize]
    }

    pub(super) fn set(&mut self, check: Check, result: impl Into<CheckResult>) {
        self.0[check as usize] = result.into();
    }

    /// All failures, the most telling first.
    pub fn failures(&self) -> impl Iterator<Item = (Check, Failure)> + '_ {
        Check::ALL.into_iter().filter_map(|check| self.get(check).failure().map(|failure| (check, failure)))
    }

    /// The first enforced check that is not answered well.
    pub(super) fn fault(&self, policy: &Policy) -> Option<Check> {
        // A certificate known to be revoked counts wherever it is looked at; a CRL that can not be had only where that is enforced.
        let is_revoked = self.get(Check::Revocation) == CheckResult::Failed(Failure::Revoked);
        let enforced =
            |check: &Check| policy.modes.get(*check) == Mode::Enforce || (*check == Check::Revocation && is_revoked);
        let failed = |check: &Check| self.get(*check).failure().is_some();
        let open = |check: &Check| !self.get(*check).ok();
        let all = || Check::ALL.into_iter().filter(enforced);
        all().find(failed).or_else(|| all().find(open))
    }
}

/// What becomes of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// All enforced checks passed.
    Valid,
    /// This enforced check did not.
    Invalid(Check),
    /// Its `ppt` is not supported: the field counts neither as valid nor as broken (I-21).
    Ignored,
    /// Its certificate would have to be fetched, and another token was valid already.
    Unchecked,
}

/// What a token speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The calling number: a valid one makes the call valid.
    Number,
    /// A diversion of the call; by itself it says nothing about the caller.
    Diversion,
    /// Resource-Priority. A failure never refuses a call: the priority is to be stripped.
    Priority,
    /// Rich call data of somebody else than the caller's own side (T-3): it counts beside a valid token for the number.
    ThirdParty,
}

impl Role {
    pub(super) fn of(ppt: Option<Ppt>, has_issuer: bool) -> Self {
        match ppt {
            Some(Ppt::Div) => Self::Diversion,
            Some(Ppt::Rph) => Self::Priority,
            Some(Ppt::Rcd) if has_issuer => Self::ThirdParty,
            _ => Self::Number,
        }
    }

    /// A failure of such a token counts against the call.
    pub(super) fn counts(self) -> bool {
        matches!(self, Self::Number | Self::Diversion)
    }
}

/// How a call came to its Request-URI, as far as its valid token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retarget {
    /// It was meant for it.
    None,
    /// It was meant for To; nothing says how it came here.
    Unproven,
    /// Diverted, and each diverting party has signed that.
    Proven,
}

/// What was found about one Identity field.
#[derive(Clone, Debug)]
pub struct TokenVerdict {
    /// Valid or not, by the policy.
    pub disposition: Disposition,
    /// The single answers.
    pub checks: Checks,
    /// The demands it was held to: a VESPER policy may fall back to plain STIR. With `ppt=div-o`, those on the innermost token.
    pub profile: Profile,
    /// Its extension; `None` when it could not be read or is not supported.
    pub ppt: Option<Ppt>,
    /// What it speaks of; with `ppt=div-o`, what the innermost token does.
    pub role: Role,
    /// `attest`, when it is well-formed and (under VESPER) authorized by the certificate.
    pub attest: Option<Attestation>,
    /// `origid`, likewise.
    pub origid: Option<OrigId>,
    /// `orig` as a number.
    pub orig: Option<TelephoneNumber>,
    /// Whom an `rsp` says the call has reached.
    pub connected: Option<Identity<'static>>,
    /// `iat`, UNIX seconds; with `ppt=div-o`, that of the diversion.
    pub iat: Option<i64>,
    /// `dest` names To, while the Request-URI is another: valid by RFC 8224, the retarget is unproven.
    pub retargeted: bool,
    /// Who diverted the call, the first one first: proven by tokens of `ppt=div` in other fields, or `div-o` in this one.
    pub diversions: Vec<Identity<'static>>,
    /// What may be shown of the caller, if the token is valid; see [`Verdict::rich_call_data`].
    pub rich_call_data: Option<Box<RichCallData>>,
    /// r-values of the request's Resource-Priority that it speaks for; see [`Verdict::is_priority_proven`].
    pub priorities: Vec<Box<str>>,
    /// Certificate and chain, when there are any; with `ppt=div-o`, those of the innermost token that was reached.
    pub credential: Option<Arc<Credential>>,
    /// With `ppt=div-o`: certificates and chains of the tokens around that one, the outermost first.
    pub diverters: Vec<Arc<Credential>>,
    /// The signature segment: with two dots before it, the compact form that `ppi` carries.
    pub signature: SignatureText,
}

/// The base64url text of an ES256 signature (86 characters); empty when the token has none of about that length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureText {
    text: [u8; 96],
    len: u8,
}

impl SignatureText {
    /// The last segment of a token.
    pub(super) fn of(token: &[u8]) -> Self {
        let segment = memchr::memrchr(b'.', token).and_then(|dot| token.get(dot + 1..)).unwrap_or_default();
        let mut copy = Self { text: [0; 96], len: 0 };
        if let Some(place) = copy.text.get_mut(..segment.len()) {
            place.copy_from_slice(segment);
            copy.len = segment.len() as u8; // at most 96
        }
        copy
    }

    /// The characters.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl TokenVerdict {
    pub(super) fn new(disposition: Disposition, profile: Profile, signature: SignatureText) -> Self {
        Self {
            disposition,
            checks: Checks::NOT_DONE,
            profile,
            ppt: None,
            role: Role::Number,
            attest: None,
            origid: None,
            orig: None,
            connected: None,
            iat: None,
            retargeted: false,
            diversions: Vec::new(),
            rich_call_data: None,
            priorities: Vec::new(),
            credential: None,
            diverters: Vec::new(),
            signature,
        }
    }

    /// How the call came to its Request-URI, by this token.
    pub fn retarget(&self) -> Retarget {
        match (self.diversions.is_empty(), self.retargeted) {
            (false, _) => Retarget::Proven,
            (true, true) => Retarget::Unproven,
            (true, false) => Retarget::None,
        }
    }

    /// It makes the call valid (I-29).
    pub fn proves_number(&self) -> bool {
        self.role == Role::Number && self.disposition == Disposition::Valid
    }

    /// All certificates with their chains: that of whoever signed the field first, the innermost last.
    pub fn credentials(&self) -> impl Iterator<Item = &Arc<Credential>> {
        self.diverters.iter().chain(&self.credential)
    }

    /// Something was not at hand that may be there for calls to come: a CRL, a TNAuthList by reference. The credentials say which.
    pub fn lacks(&self) -> bool {
        let mut chains = self.credentials().filter_map(|credential| credential.chain.as_ref().ok());
        let revocation = self.checks.get(Check::Revocation);
        matches!(revocation, CheckResult::Unknown | CheckResult::Failed(Failure::CrlUnavailable))
            || chains.any(|chain| !chain.missing_lists().is_empty())
    }

    /// The failure that makes it invalid; `None` for a valid or ignored token.
    pub fn fault(&self) -> Option<(Check, Option<Failure>)> {
        match self.disposition {
            Disposition::Invalid(check) => Some((check, self.checks.get(check).failure())),
            _ => None,
        }
    }
}

/// The verdict in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overall {
    /// No Identity field, or only such with an unsupported `ppt` or that do not speak of the caller.
    NoIdentity,
    /// A token is valid: its place among [`Verdict::tokens`].
    Valid {
        /// Index of the first valid token, one with `attest` before others.
        token: usize,
    },
    /// There are tokens that speak of the caller, none is valid (I-29).
    Invalid,
}

/// A final response that the policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// 403, 428, 436, 437 or 438; 433 for an anonymous caller.
    pub status: u16,
    /// Its reason phrase.
    pub phrase: &'static str,
    /// The check that decided, unless Identity is missing.
    pub check: Option<Check>,
}

/// What was found about a request.
#[derive(Clone, Debug)]
pub struct Verdict {
    tokens: Tokens,
    overall: Overall,
    rejection: Option<Rejection>,
    pub(super) caller: Caller,
    /// Upstream is told by Reason fields what failed.
    pub(super) is_told: bool,
    /// Told besides: what the policy wants and the request lacks.
    pub(super) lacking: Option<reason::Code>,
    /// A certificate that was not waited for.
    pub(super) unfetched: Option<Box<str>>,
}

/// One token is the rule, and takes no allocation.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // that is the point
enum Tokens {
    None,
    One(TokenVerdict),
    Several(Vec<TokenVerdict>),
}

impl Verdict {
    pub(super) fn new() -> Self {
        Self {
            tokens: Tokens::None,
            overall: Overall::NoIdentity,
            rejection: None,
            caller: Caller::Named,
            is_told: true,
            lacking: None,
            unfetched: None,
        }
    }

    pub(super) fn push(&mut self, token: TokenVerdict) {
        self.tokens = match std::mem::replace(&mut self.tokens, Tokens::None) {
            Tokens::None => Tokens::One(token),
            Tokens::One(first) => Tokens::Several(vec![first, token]),
            Tokens::Several(mut tokens) => {
                tokens.push(token);
                Tokens::Several(tokens)
            }
        };
    }

    /// The tokens in the order of their fields.
    pub fn tokens(&self) -> &[TokenVerdict] {
        match &self.tokens {
            Tokens::None => &[],
            Tokens::One(token) => std::slice::from_ref(token),
            Tokens::Several(tokens) => tokens,
        }
    }

    pub(super) fn tokens_mut(&mut self) -> &mut [TokenVerdict] {
        match &mut self.tokens {
            Tokens::None => &mut [],
            Tokens::One(token) => std::slice::from_mut(token),
            Tokens::Several(tokens) => tokens,
        }
    }

    /// Credentials of tokens that lack something ([`TokenVerdict::lacks`]).
    pub fn lacking_credentials(&self) -> impl Iterator<Item = Arc<Credential>> {
        self.tokens().iter().filter(|token| token.lacks()).flat_map(|token| token.credentials().cloned())
    }

    /// Whether a valid token speaks for this r-value of Resource-Priority. What none speaks for is to be stripped where the
    /// policy does not trust the peer with it: [`super::priority::strip_unproven`].
    pub fn is_priority_proven(&self, r_value: &[u8]) -> bool {
        // A policy may let claims that do not agree pass; they prove nothing all the same.
        let agrees = |token: &&TokenVerdict| token.checks.get(Check::Claims).failure().is_none();
        let valid = self.tokens().iter().filter(|token| token.disposition == Disposition::Valid).filter(agrees);
        valid.flat_map(|token| &token.priorities).any(|proven| proven.as_bytes().eq_ignore_ascii_case(r_value))
    }

    /// What may be shown of the caller: rich call data of valid tokens, that of the caller's own side first. That of third parties
    /// counts only when the number is proven (T-3).
    pub fn rich_call_data(&self) -> impl Iterator<Item = &RichCallData> {
        let of = |first_party: bool| {
            let valid = self.tokens().iter().filter(|token| token.disposition == Disposition::Valid);
            let usable = valid.filter(|token| token.role == Role::Number || self.is_valid());
            let data = usable.filter_map(|token| token.rich_call_data.as_deref());
            data.filter(move |data| data.is_first_party() == first_party)
        };
        of(true).chain(of(false))
    }

    /// Whether a signed name may be shown; `None` without one.
    pub fn is_name_verified(&self) -> Option<bool> {
        let is_name = |(element, _): &(Element, _)| *element == Element::Name;
        let has_name = |data: &RichCallData| data.name.is_some();
        let is_refused = |data: &RichCallData| data.unverified.iter().any(is_name);
        if self.rich_call_data().any(has_name) {
            return Some(true);
        }
        let mut all = self.tokens().iter().filter_map(|token| token.rich_call_data.as_deref());
        all.any(|data| has_name(data) || is_refused(data)).then_some(false)
    }

    /// `valid`, `invalid` or `none`.
    pub fn word(&self) -> &'static str {
        match self.overall {
            Overall::NoIdentity => "none",
            Overall::Valid { .. } => "valid",
            Overall::Invalid => "invalid",
        }
    }

    /// Who diverted the call, the first one first, by its valid token; empty when nobody did or nothing proves it.
    pub fn diversions(&self) -> &[Identity<'static>] {
        self.valid().map_or(&[], |token| &token.diversions)
    }

    /// How the call came to its Request-URI, by its valid token.
    pub fn retarget(&self) -> Option<Retarget> {
        self.valid().map(TokenVerdict::retarget)
    }

    /// Where a certificate lies that the call did not have to wait for, since it is valid without; worth fetching for the next one.
    pub fn unfetched(&self) -> Option<&str> {
        self.unfetched.as_deref()
    }

    /// In one word.
    pub fn overall(&self) -> Overall {
        self.overall
    }

    /// A token is valid (I-29).
    pub fn is_valid(&self) -> bool {
        matches!(self.overall, Overall::Valid { .. })
    }

    /// How the request names its caller, where the policy makes a difference.
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// What to answer; `None` when the call goes on. Policy is applied already.
    pub fn rejection(&self) -> Option<Rejection> {
        self.rejection
    }

    /// The valid token that decided.
    pub fn valid(&self) -> Option<&TokenVerdict> {
        match self.overall {
            Overall::Valid { token } => self.tokens().get(token),
            _ => None,
        }
    }

    /// Draws the conclusion from the tokens.
    pub(super) fn conclude(&mut self, policy: &Policy) {
        let place = |wanted: fn(&TokenVerdict) -> bool| {
            self.tokens().iter().position(|token| token.proves_number() && wanted(token))
        };
        let valid = place(|token| token.attest.is_some()).or_else(|| place(|_| true));
        let counts = |token: &TokenVerdict| token.disposition != Disposition::Ignored && token.role.counts();
        let judged = self.tokens().iter().any(counts);
        self.overall = match valid {
            Some(token) => Overall::Valid { token },
            None if judged => Overall::Invalid,
            None => Overall::NoIdentity,
        };
        self.is_told = policy.on_failure != OnFailure::Continue;
        (self.rejection, self.lacking) = reason::conclude(self, policy);
    }
}
