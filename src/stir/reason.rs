//! What findings mean on the wire, said once: failure to status and phrase (RFC 8224 6.2.2), and the `STIR` values of Reason
//! (RFC 9410, RFC 3326).
use super::{
    Caller, Callers, Check, Disposition, Failure, Mode, OnFailure, Overall, Policy, Rejection, TokenVerdict, Verdict,
};
use crate::sip::{Message, Name, Patch, text};

/// A status of RFC 8224 section 6.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 403.
    StaleDate,
    /// 428.
    UseIdentityHeader,
    /// 428, for a request whose tokens are all of unsupported kinds.
    UseSupportedPassport,
    /// 436.
    BadIdentityInfo,
    /// 437.
    UnsupportedCredential,
    /// 438.
    InvalidIdentityHeader,
}

impl Code {
    /// Status of a response, and `cause` of a Reason value.
    pub fn status(self) -> u16 {
        match self {
            Self::StaleDate => 403,
            Self::UseIdentityHeader | Self::UseSupportedPassport => 428,
            Self::BadIdentityInfo => 436,
            Self::UnsupportedCredential => 437,
            Self::InvalidIdentityHeader => 438,
        }
    }

    /// Reason phrase, and `text` of a Reason value.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::StaleDate => "Stale Date",
            Self::UseIdentityHeader => "Use Identity Header",
            Self::UseSupportedPassport => "Use Supported PASSporT Format",
            Self::BadIdentityInfo => "Bad Identity Info",
            Self::UnsupportedCredential => "Unsupported Credential",
            Self::InvalidIdentityHeader => "Invalid Identity Header",
        }
    }

    /// The code of a failed check. `None` as failure: the check could not be made.
    pub fn of(check: Check, failure: Option<Failure>) -> Self {
        match (check, failure) {
            (Check::DomainBinding, _) => Self::InvalidIdentityHeader,
            (_, Some(Failure::NoInfo | Failure::Url(_) | Failure::Fetch(_))) => Self::BadIdentityInfo,
            (_, Some(Failure::Algorithm | Failure::BadConstraints)) => Self::UnsupportedCredential,
            // RFC 8224 names no code for a certificate without authority over the number; 437 is this program's one choice.
            (Check::Chain | Check::Validity | Check::Revocation | Check::TnAuthorization | Check::Sct, _) => {
                Self::UnsupportedCredential
            }
            (Check::Freshness, _) => Self::StaleDate,
            _ => Self::InvalidIdentityHeader,
        }
    }
}

/// The code of an invalid token.
pub fn code(token: &TokenVerdict) -> Option<Code> {
    token.fault().map(|(check, failure)| Code::of(check, failure))
}

/// RFC 5079: no code of RFC 8224, and none for a Reason of `STIR` (E-7).
const ANONYMITY_DISALLOWED: Rejection = Rejection { status: 433, phrase: "Anonymity Disallowed", check: None };
const UNKNOWN_CALLER: Rejection = Rejection { status: 403, phrase: "Unknown Caller", check: None };

/// What the policy answers to a verdict, and what it only says in Reason fields that the request lacks.
pub(super) fn conclude(verdict: &Verdict, policy: &Policy) -> (Option<Rejection>, Option<Code>) {
    match (verdict.caller.treatment(policy), verdict.caller) {
        (Callers::Reject, Caller::Anonymous) => return (Some(ANONYMITY_DISALLOWED), None),
        (Callers::Reject, _) => return (Some(UNKNOWN_CALLER), None),
        (Callers::Pass, _) => return (None, None),
        (Callers::Judge, _) => {}
    }
    let Some((code, check)) = wrong(verdict, policy) else { return (None, None) };
    match policy.on_failure {
        OnFailure::Reject => (Some(Rejection { status: code.status(), phrase: code.phrase(), check }), None),
        OnFailure::ContinueWithReason if verdict.overall() == Overall::NoIdentity => (None, Some(code)),
        OnFailure::Continue | OnFailure::ContinueWithReason => (None, None),
    }
}

/// What is wrong with a request: one code over all Identity fields (RFC 8224 6.2.2), and the check that decided.
fn wrong(verdict: &Verdict, policy: &Policy) -> Option<(Code, Option<Check>)> {
    Some(match verdict.overall() {
        Overall::Valid { .. } => return None,
        Overall::NoIdentity if !policy.require_identity => return None,
        Overall::NoIdentity if verdict.tokens().iter().any(|token| token.disposition == Disposition::Ignored) => {
            (Code::UseSupportedPassport, None)
        }
        Overall::NoIdentity => (Code::UseIdentityHeader, None),
        Overall::Invalid => {
            let code = single(verdict, policy)?;
            let token = verdict.tokens().iter().find(|token| token.role.counts() && self::code(token) == Some(code));
            (code, token.and_then(TokenVerdict::fault).map(|(check, _)| check))
        }
    })
}

/// One code for several invalid tokens: 436 only if all are unreachable, 403 only if all are stale, 437 if any credential was
/// obtained and refused, else 438. `None` when no enforced check failed.
fn single(verdict: &Verdict, policy: &Policy) -> Option<Code> {
    let counts = |(check, failure): (Check, Option<Failure>)| {
        // A certificate known to be revoked counts wherever that is looked at.
        policy.modes.get(check) == Mode::Enforce || failure == Some(Failure::Revoked)
    };
    let enforced = |token: &&TokenVerdict| token.role.counts() && token.fault().is_some_and(counts);
    let codes = || verdict.tokens().iter().filter(enforced).filter_map(code);
    codes().next()?;
    let all = |wanted: Code| codes().all(|code| code == wanted);
    Some(if all(Code::BadIdentityInfo) {
        Code::BadIdentityInfo
    } else if all(Code::StaleDate) {
        Code::StaleDate
    } else if codes().any(|code| code == Code::UnsupportedCredential) {
        Code::UnsupportedCredential
    } else {
        Code::InvalidIdentityHeader
    })
}

/// Most octets of Reason lines written for one response.
const MAX_REASON: usize = 4096;

/// Appends a `Reason` line for every invalid token, for a response other than 100 (RFC 9410 sections 4 to 6): `cause` and `text`,
/// and, when the request had several Identity fields, the compact form as `ppi`. None, if the policy is to tell nobody.
pub fn write_lines(verdict: &Verdict, out: &mut Vec<u8>) {
    if !verdict.is_told {
        return;
    }
    let several = verdict.tokens().len() > 1;
    let start = out.len();
    for token in verdict.tokens() {
        let Some(code) = code(token) else { continue };
        let signature = token.signature.as_bytes();
        if out.len() - start + signature.len() + 96 > MAX_REASON {
            return;
        }
        write_line(code, if several { signature } else { &[] }, out);
    }
    verdict.lacking.into_iter().for_each(|code| write_line(code, &[], out));
}

fn write_line(code: Code, signature: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"Reason: STIR ;cause=");
    text::push_decimal(out, u32::from(code.status()));
    out.extend_from_slice(b" ;text=\"");
    out.extend_from_slice(code.phrase().as_bytes());
    out.push(b'"');
    if !signature.is_empty() {
        out.extend_from_slice(b" ;ppi=\"..");
        out.extend_from_slice(signature);
        out.push(b'"');
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends those of our `lines` ([`write_lines`]) that a response does not say already, by somebody further on who has verified the
/// same tokens: a `ppi` names one cause (E-7), and the same is not said twice.
pub fn write_missing(lines: &[u8], response: Message<'_>, out: &mut Vec<u8>) {
    let is_said = |line: &[u8]| {
        let own = line.strip_prefix(b"Reason: ").unwrap_or_default();
        response.values(Name::Reason).any(|theirs| match (ppi(own), ppi(theirs.value)) {
            (Some(own), Some(theirs)) => own == theirs,
            (None, None) => cause(own).is_some() && cause(own) == cause(theirs.value),
            _ => false,
        })
    };
    let has_any = response.field(Name::Reason).is_some();
    let lines = lines.split_inclusive(|octet| *octet == b'\n');
    lines.filter(|line| !has_any || !is_said(line.trim_ascii_end())).for_each(|line| out.extend_from_slice(line));
}

/// Removes from a response the Reason values that speak of our own tokens, recognised by the signature in `ppi`, full or compact
/// form (RFC 9410 section 7); other values stay. `own` holds the signature segments this server added to the call. Gives the number
/// of values removed.
pub fn remove_own(response: Message<'_>, own: &[&[u8]], patch: &mut Patch) -> usize {
    let ours = |value: &[u8]| ppi(value).is_some_and(|signature| own.contains(&signature));
    remove_values(response, Name::Reason, ours, patch)
}

/// Removes the values of a list header that are to go. Gives their number.
pub(super) fn remove_values(
    message: Message<'_>,
    name: Name,
    is_to_go: impl Fn(&[u8]) -> bool,
    patch: &mut Patch,
) -> usize {
    // One cut per line, over all of its values or what of it stays: cuts of neighbours must not overlap.
    let mut removed = 0;
    let mut values = message.values(name).peekable();
    while let Some(first) = values.next() {
        let (line, start) = (first.line.clone(), first.range.start);
        let mut on_line = vec![first];
        while let Some(next) = values.next_if(|next| next.line == line) {
            on_line.push(next);
        }
        let end = on_line.last().map_or(start, |last| last.range.end);
        let count = on_line.len();
        on_line.retain(|value| !is_to_go(value.value));
        if on_line.is_empty() {
            patch.remove(line);
        } else if on_line.len() < count {
            patch.replace_with(start..end, |out| {
                for (index, value) in on_line.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    out.extend_from_slice(value.value);
                }
            });
        }
        removed += count - on_line.len();
    }
    removed
}

/// The signature segment in the `ppi` of a `STIR` Reason value whose cause is a STIR code.
fn ppi(value: &[u8]) -> Option<&[u8]> {
    cause(value)?;
    let parameters = value.get(memchr::memchr(b';', value)?..)?;
    parameter(parameters, b"ppi")?.rsplit(|octet| *octet == b'.').next().filter(|signature| !signature.is_empty())
}

/// The STIR code in a `STIR` Reason value.
fn cause(value: &[u8]) -> Option<&[u8]> {
    let (protocol, parameters) = value.split_at(memchr::memchr(b';', value)?);
    let cause = parameter(parameters, b"cause").filter(|_| protocol.trim_ascii().eq_ignore_ascii_case(b"STIR"))?;
    matches!(cause, b"403" | b"428" | b"436" | b"437" | b"438").then_some(cause)
}

/// The value of one `;name=value` parameter, without quotes. Quoted strings may hold semicolons.
fn parameter<'a>(mut rest: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    while let Some(stripped) = rest.trim_ascii().strip_prefix(b";") {
        let equals = memchr::memchr2(b'=', b';', stripped)?;
        let key = stripped.get(..equals)?.trim_ascii();
        let value = stripped.get(equals + 1..)?.trim_ascii_start();
        let (text, after) = match value.strip_prefix(b"\"") {
            Some(quoted) => {
                let close = memchr::memchr(b'"', quoted)?;
                (quoted.get(..close)?, quoted.get(close + 1..)?)
            }
            None => value.split_at(memchr::memchr(b';', value).unwrap_or(value.len())),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(text.trim_ascii());
        }
        rest = after;
    }
    None
}
