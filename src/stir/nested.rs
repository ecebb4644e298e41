//! Tokens inside tokens (RFC 8946 section 5): `div-o` holds the diverted token in `opt`, which may be a `div-o` again.
//!
//! A level is three quarters as long as the text it stands in, so all levels together cost a fixed multiple of the outermost; their
//! number is bounded besides, as is that of certificates by the length of the payload.
use super::checks;
use super::judge::{Opened, Reached, Request, describe, examine_credential, is_for, profile_for, token_check};
use super::verification::Verifier;
use super::{Check, CheckResult, Disposition, Failure, Mode, Role, SignatureText, TokenVerdict};
use crate::passport::jws::Jws;
use crate::passport::ppt::{Ppt, div};
use crate::passport::{Claims, ClaimsError, Identity, JwsError, Token};
use std::sync::Arc;

/// Most levels, whatever the policy says.
const MAX_DEPTH: usize = 10;

/// Why the levels can not be judged now, or at all.
pub(super) enum Stop {
    /// The innermost token is of an unsupported kind, or of one that counts for nothing in this request (M-1): so is its chain (RFC 8946
    /// 4.2 step 5).
    Ignored,
    /// A certificate has to be fetched first.
    Need(Box<str>),
    /// What is inside can not be read or reached, for this reason: then nothing is proven, whatever the policy enforces.
    Broken(Check, Failure),
}

/// A verdict on what is inside, and the next level, if there is one.
type Judged = (TokenVerdict, Option<Result<Level, Stop>>);

/// What the next level has to fit.
struct Level {
    div: Identity<'static>,
    orig: Identity<'static>,
    opt: String,
}

impl Level {
    fn of(claims: &Claims<'_>) -> Result<Self, Stop> {
        let extension = |error| unreadable(Failure::Extension(error));
        let opt = div::nested(claims).map_err(extension)?.to_owned();
        let div = claims.div.as_ref().ok_or_else(|| extension(ClaimsError::Missing("div")))?;
        Ok(Self { div: div.borrowed().into_owned(), orig: claims.orig.borrowed().into_owned(), opt })
    }
}

impl Verifier {
    /// Judges what is inside a `div-o` token and records in its verdict what fails there; from the innermost one comes what it proves.
    pub(super) fn open_nested(
        &mut self,
        cx: &Request<'_>,
        outer: &Claims<'_>,
        token: &mut TokenVerdict,
    ) -> Result<(), Stop> {
        let mut level = Level::of(outer)?;
        let mut diversions = Vec::new();
        for _ in 0..cx.policy.max_diversions.min(MAX_DEPTH) {
            let (inner, next) = self.judge_level(cx, &level, token.signature)?;
            merge(cx, &inner, token);
            token.diverters.extend(token.credential.take());
            (token.credential, token.profile) = (inner.credential, inner.profile);
            diversions.push(level.div);
            match next {
                Some(next) => level = next?,
                None => {
                    (token.role, token.attest, token.origid) = (inner.role, inner.attest, inner.origid);
                    token.priorities = inner.priorities;
                    if inner.role == Role::Diversion {
                        // What it was meant for is nowhere in here.
                        token.checks.set(Check::Claims, CheckResult::Failed(Failure::DivIncomplete));
                        return Ok(());
                    }
                    diversions.reverse();
                    token.diversions = diversions;
                    return Ok(());
                }
            }
        }
        Err(Stop::Broken(Check::Claims, Failure::TooManyDiversions))
    }

    /// Judges the token at a level. With its verdict comes what it holds itself, if it is a `div-o` again.
    fn judge_level(&mut self, cx: &Request<'_>, level: &Level, signature: SignatureText) -> Result<Judged, Stop> {
        let mut payload = Vec::new();
        let jws = full_form(&level.opt, self).map_err(unreadable)?;
        let claims = self.read_claims(&jws, &mut payload).map_err(unreadable)?;
        let (known, is_new) = match self.reach(cx, jws.header, None) {
            Reached::Known(known, is_new) => (known, is_new),
            Reached::Unsupported => return Err(Stop::Ignored),
            Reached::Need(x5u) => return Err(Stop::Need(x5u)),
            Reached::Refused(check, failure) => return Err(Stop::Broken(check, failure)),
        };
        let ppt = known.supported.unwrap_or(Ppt::Baseline);
        if !is_for(ppt, cx.message) {
            return Err(Stop::Ignored);
        }
        let opened = Opened::new(&known, ppt, &claims, &jws);
        let mut inner = TokenVerdict::new(Disposition::Valid, profile_for(cx.policy, &known, ppt, &claims), signature);
        describe(&opened, &mut inner);
        inner.checks.set(Check::Token, token_check(None, &opened));
        if cx.policy.modes.get(Check::Claims) != Mode::Off {
            let joined = joins(cx, ppt, &claims, &level.div, &level.orig);
            inner.checks.set(Check::Claims, joined.as_ref().map(drop).map_err(|failure| *failure));
            inner.priorities = joined.unwrap_or_default();
        }
        if cx.policy.modes.get(Check::Serialization) != Mode::Off {
            inner.checks.set(Check::Serialization, checks::serialization(&jws));
        }
        inner.checks.set(Check::Freshness, checks::diverted_freshness(claims.iat, cx.unix, cx.policy));
        let verified = examine_credential(cx, &opened, &mut inner);
        if verified && is_new {
            self.credentials.remember(cx.trust.epoch, jws.header, Arc::clone(&known));
        }
        Ok((inner, (ppt == Ppt::DivO).then(|| Level::of(&claims))))
    }
}

/// D-17: only a full form can be inside.
fn full_form<'t>(opt: &'t str, verifier: &Verifier) -> Result<Jws<'t>, Failure> {
    match Token::parse(opt.as_bytes(), &verifier.config.passport) {
        Ok(Token::Full(jws)) => Ok(jws),
        Ok(Token::Compact { .. }) => Err(Failure::Jws(JwsError::Segments)),
        Err(error) => Err(Failure::Jws(error)),
    }
}

/// The inner token was meant for whoever diverted it, speaks of the same caller and of what the request carries. Gives the r-values of
/// Resource-Priority that it speaks for.
fn joins(
    cx: &Request<'_>,
    ppt: Ppt,
    claims: &Claims<'_>,
    div: &Identity<'_>,
    orig: &Identity<'_>,
) -> Result<Vec<Box<str>>, Failure> {
    if claims.orig != *orig {
        return Err(Failure::DivOrig);
    }
    if !claims.dest.iter().any(|destination| destination == *div) {
        return Err(Failure::DivIncomplete);
    }
    checks::contents(ppt, claims, cx.message, cx.policy)
}

/// The worse answer is that of the whole: one failure breaks it, and what could not be told or asked inside is not known of it.
fn merge(cx: &Request<'_>, inner: &TokenVerdict, token: &mut TokenVerdict) {
    for check in Check::ALL.into_iter().filter(|check| cx.policy.modes.get(*check) != Mode::Off) {
        let answer = inner.checks.get(check);
        if badness(answer) > badness(token.checks.get(check)) {
            token.checks.set(check, answer);
        }
    }
}

fn badness(answer: CheckResult) -> u8 {
    match answer {
        CheckResult::NotApplicable => 0,
        CheckResult::Passed => 1,
        CheckResult::Unknown => 2,
        CheckResult::NotDone => 3,
        CheckResult::Failed(_) => 4,
    }
}

fn unreadable(failure: Failure) -> Stop {
    Stop::Broken(Check::Token, failure)
}
