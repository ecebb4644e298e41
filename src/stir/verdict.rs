//! What verification found. A verdict on a request with one Identity field allocates nothing.
use super::credential::Credential;
use super::{Check, Failure, Mode, Policy, Profile, reason};
use crate::passport::TelephoneNumber;
use crate::passport::ppt::{Ppt, shaken::Attestation};
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
    /// Asked, but there was no room to remember (replay table full).
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
        let enforced = |check: &Check| policy.modes.get(*check) == Mode::Enforce;
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

/// What was found about one Identity field.
#[derive(Clone, Debug)]
pub struct TokenVerdict {
    /// Valid or not, by the policy.
    pub disposition: Disposition,
    /// The single answers.
    pub checks: Checks,
    /// The demands it was held to: a VESPER policy may fall back to plain STIR.
    pub profile: Profile,
    /// Its extension; `None` when it could not be read or is not supported.
    pub ppt: Option<Ppt>,
    /// `attest`, when it is well-formed and (under VESPER) authorized by the certificate.
    pub attest: Option<Attestation>,
    /// `orig` as a number.
    pub orig: Option<TelephoneNumber>,
    /// `iat`, UNIX seconds.
    pub iat: Option<i64>,
    /// `dest` names To, while the Request-URI is another: valid by RFC 8224, the retarget is unproven.
    pub retargeted: bool,
    /// Certificate and chain, when there are any.
    pub credential: Option<Arc<Credential>>,
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
            attest: None,
            orig: None,
            iat: None,
            retargeted: false,
            credential: None,
            signature,
        }
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
    /// No Identity field, or only such with an unsupported `ppt`.
    NoIdentity,
    /// A token is valid: its place among [`Verdict::tokens`].
    Valid {
        /// Index of the first valid token.
        token: usize,
    },
    /// There are tokens, none is valid (I-29).
    Invalid,
}

/// A final response that the policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// 403, 428, 436, 437 or 438.
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
        Self { tokens: Tokens::None, overall: Overall::NoIdentity, rejection: None }
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

    /// In one word.
    pub fn overall(&self) -> Overall {
        self.overall
    }

    /// A token is valid (I-29).
    pub fn is_valid(&self) -> bool {
        matches!(self.overall, Overall::Valid { .. })
    }

    /// What to answer; `None` when the call goes on. Policy is applied already.
    pub fn rejection(&self) -> Option<Rejection> {
        self.rejection
    }

    /// The first valid token.
    pub fn valid(&self) -> Option<&TokenVerdict> {
        match self.overall {
            Overall::Valid { token } => self.tokens().get(token),
            _ => None,
        }
    }

    /// Draws the conclusion from the tokens.
    pub(super) fn conclude(&mut self, policy: &Policy) {
        let valid = self.tokens().iter().position(|token| token.disposition == Disposition::Valid);
        let judged = self.tokens().iter().any(|token| token.disposition != Disposition::Ignored);
        self.overall = match valid {
            Some(token) => Overall::Valid { token },
            None if judged => Overall::Invalid,
            None => Overall::NoIdentity,
        };
        self.rejection = reason::rejection(self, policy);
    }
}
