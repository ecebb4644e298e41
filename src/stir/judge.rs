//! The judgement of one token: steps 1 to 5 of RFC 8224 6.2.
use super::checks;
use super::connected::Sent;
use super::credential::{Credential, Found, Known};
use super::diversion::Link;
use super::rebuild::rebuild;
use super::replay::{ReplayTable, Seen};
use super::rich_call_data::RichCallData;
use super::signalling::Signalling;
use super::verification::{Verifier, VerifierConfig};
use super::{
    Check, CheckResult, Disposition, Failure, FetchFailure, Mode, Policy, Profile, Role, SignatureText, TokenVerdict,
};
use crate::cert::{ChainVerdict, TrustStore};
use crate::passport::jws::{self, Jws};
use crate::passport::ppt::{Ppt, shaken};
use crate::passport::{Claims, HeaderError, Identity, ProtectedHeader, TelephoneNumber, Token};
use crate::sip::identity::IdentityValue;
use crate::sip::{Message, Method};
use aws_lc_rs::digest::{self, Digest};
use std::cell::Cell;
use std::sync::Arc;

/// What all tokens of one request have in common.
pub(super) struct Request<'a> {
    pub(super) unix: i64,
    pub(super) policy: &'a Policy,
    pub(super) trust: &'a TrustStore,
    pub(super) replay: Option<&'a ReplayTable>,
    pub(super) message: Message<'a>,
    pub(super) signalling: Signalling,
    /// A chain that this call can not have, and why.
    pub(super) unreachable: Option<(&'a str, FetchFailure)>,
    /// A field says `ppt=div`: what the tokens say of origin and destination is kept, to join them to chains.
    pub(super) is_diverted: bool,
    /// The message is a response, to an INVITE with these tokens.
    pub(super) answers: Option<&'a Sent>,
    /// Signatures checked.
    pub(super) signatures: Cell<u64>,
}

/// A token taken apart: what the checks look at.
pub(super) struct Opened<'a> {
    pub(super) known: &'a Known,
    pub(super) ppt: Ppt,
    pub(super) claims: &'a Claims<'a>,
    pub(super) seal: Seal,
    pub(super) signature: &'a [u8],
}

/// What tells a token from all others: what the replay table is asked.
#[derive(Clone, Copy)]
pub(super) struct Seal {
    /// SHA-256 of the signing input.
    pub(super) input: Digest,
    /// The signature; `None` when it can not be read.
    pub(super) signature: Option<[u8; jws::SIGNATURE_LEN]>,
    pub(super) iat: i64,
}

/// Judgement of one token, or what it needs first.
pub(super) enum Judged {
    Token(TokenVerdict),
    Need(TokenVerdict, Box<str>),
}

/// What became of the search for a token's certificate.
pub(super) enum Reached {
    /// It is known; whether only since now.
    Known(Arc<Known>, bool),
    /// Its `ppt` is not supported.
    Unsupported,
    Need(Box<str>),
    Refused(Check, Failure),
}

impl Verifier {
    /// Judges the field at this place among the Identity fields of the request.
    pub(super) fn judge(
        &mut self,
        cx: &Request<'_>,
        place: usize,
        field: &IdentityValue<'_>,
        links: &mut Vec<Link>,
    ) -> Judged {
        // The buffers are lent to this call, so that claims can borrow from them while the caches are used.
        let mut payload = std::mem::take(&mut self.payload);
        let mut rebuilt = std::mem::take(&mut self.rebuilt);
        let judged = self.judge_with(cx, field, &mut payload, &mut rebuilt, |mut link| {
            link.token = place;
            links.push(link);
        });
        (self.payload, self.rebuilt) = (payload, rebuilt);
        judged
    }

    fn judge_with(
        &mut self,
        cx: &Request<'_>,
        field: &IdentityValue<'_>,
        payload: &mut Vec<u8>,
        rebuilt: &mut Vec<u8>,
        keep: impl FnOnce(Link),
    ) -> Judged {
        let policy = cx.policy;
        let signature = SignatureText::of(field.digest);
        let ignore = || Judged::Token(TokenVerdict::new(Disposition::Ignored, policy.profile, signature));
        // Step 1, I-21.
        let name = field.ppt.map(std::str::from_utf8).transpose();
        let Some(announced) = name.ok().and_then(Ppt::from_name).filter(|ppt| is_for(*ppt, cx.message)) else {
            return ignore();
        };
        let refuse = |check, failure| {
            let mut token = refused(policy, check, failure, signature);
            token.role = Role::of(Some(announced), false);
            Judged::Token(token)
        };
        if field.info.is_empty() {
            return refuse(Check::Token, Failure::NoInfo);
        }
        let jws = match Token::parse(field.digest, &self.config.passport) {
            Ok(Token::Full(jws)) => jws,
            Ok(Token::Compact { signature }) => match rebuild(cx, field, signature, rebuilt) {
                Ok(jws) => jws,
                Err(failure) => return refuse(Check::Token, failure),
            },
            Err(error) => return refuse(Check::Token, Failure::Jws(error)),
        };
        let claims = match self.read_claims(&jws, payload) {
            Ok(claims) => claims,
            Err(failure) => return refuse(Check::Token, failure),
        };
        let (known, is_new) = match self.reach(cx, jws.header, Some(field.info)) {
            Reached::Known(known, is_new) => (known, is_new),
            Reached::Unsupported => return ignore(),
            Reached::Refused(check, failure) => return refuse(check, failure),
            Reached::Need(x5u) => {
                let mut token = TokenVerdict::new(Disposition::Unchecked, policy.profile, signature);
                token.role = Role::of(Some(announced), false);
                return Judged::Need(token, x5u);
            }
        };
        let ppt = known.supported.unwrap_or(announced);
        if !is_for(ppt, cx.message) {
            return ignore();
        }
        let opened = Opened::new(&known, ppt, &claims, &jws);
        let mut token = TokenVerdict::new(Disposition::Valid, profile_for(policy, &known, ppt, &claims), signature);
        describe(&opened, &mut token);
        if policy.modes.get(Check::Token) != Mode::Off {
            token.checks.set(Check::Token, token_check(Some(field), &opened));
        }
        if policy.modes.get(Check::Serialization) != Mode::Off {
            token.checks.set(Check::Serialization, checks::serialization(&jws));
        }
        let verified = examine(cx, &opened, &self.config, &mut token);
        let mut broken = None;
        if ppt == Ppt::DivO {
            match self.open_nested(cx, &claims, &mut token) {
                Ok(()) => {}
                Err(super::nested::Stop::Ignored) => return ignore(),
                Err(super::nested::Stop::Need(x5u)) => {
                    let token = TokenVerdict::new(Disposition::Unchecked, policy.profile, signature);
                    return Judged::Need(token, x5u);
                }
                Err(super::nested::Stop::Broken(check, failure)) => {
                    token.checks.set(check, CheckResult::Failed(failure));
                    broken = Some(Disposition::Invalid(check));
                }
            }
        }
        settle(cx, &opened.seal, policy.freshness, &mut token);
        if let (Some(broken), Disposition::Valid) = (broken, token.disposition) {
            token.disposition = broken;
        }
        if cx.is_diverted && broken.is_none() {
            keep(Link::new(&opened, cx, &self.config.dial_plan));
        }
        if verified && is_new {
            self.credentials.remember(cx.trust.epoch, jws.header, known);
        }
        Judged::Token(token)
    }

    /// Decodes and reads a payload.
    pub(super) fn read_claims<'b>(&self, jws: &Jws<'_>, buffer: &'b mut Vec<u8>) -> Result<Claims<'b>, Failure> {
        let json = jws.decode_payload(buffer).map_err(Failure::Jws)?;
        Claims::parse(json, &self.config.passport).map_err(Failure::Payload)
    }

    /// Step 3: the certificate of a token, by its protected header. `info` is that of its field, if it stands in one.
    pub(super) fn reach(&mut self, cx: &Request<'_>, header: &[u8], info: Option<&[u8]>) -> Reached {
        if let Some(known) = self.credentials.known(cx.unix, cx.trust.epoch, header) {
            return Reached::Known(known, false);
        }
        let header = match ProtectedHeader::parse(header, &self.config.passport) {
            // Before anything is fetched or validated for it: an unsupported kind is ignored.
            Ok(header) if header.supported_ppt().is_none() => return Reached::Unsupported,
            Ok(header) => header,
            Err(error) => return bad_header(error),
        };
        // Asked for only when the policy could be content with a fetched chain, and `info` agrees.
        let vesper_only = cx.policy.profile == Profile::Vesper && !cx.policy.accept_plain_stir;
        let x5u = header.x5u.as_deref().map(str::as_bytes);
        let agrees = x5u.is_some() && info.is_none_or(|info| x5u == Some(info)) && header.alg == "ES256";
        match self.credentials.look_up(cx.unix, cx.trust, header, vesper_only || !agrees) {
            Found::Known(known) => Reached::Known(known, true),
            Found::Need(x5u) => match cx.unreachable {
                Some((url, failure)) if *url == *x5u => Reached::Refused(Check::Chain, Failure::Fetch(failure)),
                Some(_) => Reached::Refused(Check::Chain, Failure::Fetch(FetchFailure::Busy)),
                None => Reached::Need(x5u),
            },
        }
    }
}

impl<'a> Opened<'a> {
    pub(super) fn new(known: &'a Known, ppt: Ppt, claims: &'a Claims<'a>, jws: &Jws<'a>) -> Self {
        let input = digest::digest(&digest::SHA256, jws.signing_input);
        let seal = Seal { input, signature: jws::decode_signature(jws.signature).ok(), iat: claims.iat };
        Self { known, ppt, claims, seal, signature: jws.signature }
    }

    fn chain(&self) -> Option<&ChainVerdict> {
        self.known.credential.as_ref().ok().and_then(|credential| credential.chain.as_ref().ok())
    }
}

/// M-1: `msg` is for messages. N-22: `rsp` is for responses; beside it they hold diversions (N-8), and nothing else counts there.
pub(super) fn is_for(ppt: Ppt, message: Message<'_>) -> bool {
    match ppt {
        Ppt::Rsp => !message.is_request(),
        Ppt::Div => true,
        _ if !message.is_request() => false,
        Ppt::Msg => message.method() == Some(Method::Message),
        _ => true,
    }
}

/// What the token says of itself.
pub(super) fn describe(opened: &Opened<'_>, token: &mut TokenVerdict) {
    token.ppt = Some(opened.ppt);
    token.role = checks::role(opened.ppt, opened.claims);
    token.iat = Some(opened.claims.iat);
    token.orig = opened.claims.orig.tn().and_then(TelephoneNumber::from_canonical);
    if opened.ppt == Ppt::Rsp {
        token.connected = opened.claims.dest.iter().next().map(Identity::into_owned);
    }
    let attest = if opened.ppt == Ppt::Shaken { shaken::check(opened.claims).ok() } else { None };
    let authorized = |chain: &ChainVerdict| token.profile == Profile::Shaken || checks::is_authorized(chain, "attest");
    token.attest = attest.filter(|_| opened.chain().is_some_and(authorized));
    let has_origid = token.attest.is_some()
        && (token.profile == Profile::Shaken
            || opened.chain().is_some_and(|chain| checks::is_authorized(chain, "origid")));
    let origid = opened.claims.origid.as_deref().filter(|_| has_origid);
    token.origid = origid.and_then(shaken::OrigId::from_text);
}

/// RFC 8224 4.1: header and field agree (there is no field for a token inside another), and the claims have the shape of their kind.
pub(super) fn token_check(field: Option<&IdentityValue<'_>>, opened: &Opened<'_>) -> Result<(), Failure> {
    let known = opened.known;
    if !known.is_passport {
        return Err(Failure::Header(HeaderError::Type));
    }
    if !known.is_es256 || field.and_then(|field| field.alg).is_some_and(|alg| alg != b"ES256") {
        return Err(Failure::Algorithm);
    }
    if field.is_some_and(|field| known.ppt.as_deref().map(str::as_bytes) != field.ppt) {
        return Err(Failure::PptMismatch);
    }
    let x5u = known.x5u.as_deref().ok_or(Failure::NoX5u)?;
    if field.is_some_and(|field| x5u.as_bytes() != field.info) {
        return Err(Failure::InfoMismatch);
    }
    opened.ppt.check(opened.claims).map_err(Failure::Extension)
}

/// The demands on this token: plain STIR when a VESPER policy allows it and the token can not be more.
pub(super) fn profile_for(policy: &Policy, known: &Known, ppt: Ppt, claims: &Claims<'_>) -> Profile {
    let has_number = if ppt == Ppt::Rsp { claims.dest.uri.is_empty() } else { claims.orig.tn().is_some() };
    let eligible = known.inline && has_number;
    if eligible || !policy.accept_plain_stir { policy.profile } else { Profile::Shaken }
}

/// Makes all checks but [`Check::Token`] and [`Check::Replay`], and records them. Gives whether the token may be remembered: its signature
/// verified under a chain with a path.
fn examine(cx: &Request<'_>, opened: &Opened<'_>, config: &VerifierConfig, token: &mut TokenVerdict) -> bool {
    let (policy, claims) = (cx.policy, opened.claims);
    let asked = |check: Check| policy.modes.get(check) != Mode::Off;
    if asked(Check::Freshness) {
        let replay_kept = cx.replay.is_some() && asked(Check::Replay);
        let fresh = match cx.answers {
            Some(sent) => checks::response_freshness(opened.ppt, claims.iat, sent, cx.unix, policy),
            None => checks::freshness(claims.iat, cx.signalling.date, cx.unix, policy, replay_kept),
        };
        token.checks.set(Check::Freshness, fresh);
    }
    if asked(Check::Claims) {
        let agreed = match cx.answers {
            Some(sent) => checks::response_claims(cx, sent, opened.ppt, claims).map(|()| checks::Agreed::default()),
            None => checks::claims(cx, opened.ppt, claims, &config.dial_plan),
        };
        let failure = agreed.as_ref().map_or_else(|failure| Some(*failure), |agreed| agreed.astray);
        token.checks.set(Check::Claims, failure.map_or(CheckResult::Passed, CheckResult::Failed));
        if let Ok(agreed) = agreed {
            token.retargeted = agreed.retargeted;
            token.priorities = agreed.priorities;
        }
    }
    let verified = examine_credential(cx, opened, token);
    let rich = verified && !claims.others.is_empty() && !matches!(opened.ppt, Ppt::Div | Ppt::DivO | Ppt::Rph);
    if let (true, Some(chain)) = (rich, opened.chain()) {
        let third_party = token.role == Role::ThirdParty;
        token.rich_call_data = RichCallData::of(claims, third_party, chain, token.profile, policy, cx.message);
    }
    verified
}

/// The checks that look at the certificate and what it signed.
pub(super) fn examine_credential(cx: &Request<'_>, opened: &Opened<'_>, token: &mut TokenVerdict) -> bool {
    match &opened.known.credential {
        Ok(credential) => {
            token.credential = Some(Arc::clone(credential));
            token.checks.set(Check::Chain, chain_check(opened.known, credential, token.profile));
            match &credential.chain {
                Ok(chain) => examine_chain(cx, opened, chain, token) && chain.path.is_ok(),
                Err(_) => false,
            }
        }
        Err(failure) => {
            token.checks.set(Check::Chain, CheckResult::Failed(*failure));
            false
        }
    }
}

fn chain_check(known: &Known, credential: &Credential, profile: Profile) -> Result<(), Failure> {
    if profile == Profile::Vesper && !known.inline {
        return Err(Failure::NoX5c);
    }
    checks::chain(credential, profile)
}

/// Gives whether the signature verifies.
fn examine_chain(cx: &Request<'_>, opened: &Opened<'_>, chain: &ChainVerdict, token: &mut TokenVerdict) -> bool {
    let (policy, profile, claims) = (cx.policy, token.profile, opened.claims);
    let asked = |check: Check| policy.modes.get(check) != Mode::Off;
    let checks = &mut token.checks;
    if asked(Check::Validity) {
        let valid = checks::validity(chain, profile, cx.trust, cx.unix, claims.iat, policy.skew);
        checks.set(Check::Validity, valid);
    }
    if asked(Check::Revocation) {
        let result = match checks::revocation(chain, cx.trust, cx.unix, policy.skew) {
            Err(Failure::CrlUnavailable) if policy.modes.get(Check::Revocation) != Mode::Enforce => {
                CheckResult::Unknown
            }
            result => result.into(),
        };
        checks.set(Check::Revocation, result);
    }
    if asked(Check::TnAuthorization) {
        let authorized = checks::authorization(chain, profile, policy, opened.ppt, claims);
        checks.set(Check::TnAuthorization, authorized.map_or(CheckResult::NotApplicable, CheckResult::from));
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
    cx.signatures.set(cx.signatures.get() + 1);
    let signature = checks::signature(chain, &opened.seal, opened.signature);
    if asked(Check::Signature) {
        checks.set(Check::Signature, signature);
    }
    signature.is_ok()
}

/// Asks the replay table, if all else is well, and concludes. `freshness`: how long the token could come again, in seconds.
pub(super) fn settle(cx: &Request<'_>, seal: &Seal, freshness: i64, token: &mut TokenVerdict) {
    let policy = cx.policy;
    let mut fault = token.checks.fault(policy);
    if matches!(fault, None | Some(Check::Replay)) && policy.modes.get(Check::Replay) != Mode::Off {
        // N-8: a diversion in a response is that of the INVITE, come back.
        let comes_back = cx.answers.is_some() && token.ppt == Some(Ppt::Div);
        let replay = if comes_back { CheckResult::NotApplicable } else { replay(cx, seal, freshness) };
        token.checks.set(Check::Replay, replay);
        fault = token.checks.fault(policy);
    }
    token.disposition = fault.map_or(Disposition::Valid, Disposition::Invalid);
}

/// Remembers a token that is valid so far (a stranger's invalid copy must not make the true one a replay).
fn replay(cx: &Request<'_>, seal: &Seal, freshness: i64) -> CheckResult {
    let Some(table) = cx.replay else { return CheckResult::NotApplicable };
    // Only reached with a signature that verified, unless that check is off and the segment is anything: then nothing is known.
    let Some(signature) = &seal.signature else { return CheckResult::Unknown };
    let until = cx.unix.max(seal.iat).saturating_add(freshness).saturating_add(cx.policy.skew);
    match table.check(cx.unix, until, &seal.input, signature, cx.message.call_id().unwrap_or_default()) {
        Seen::First | Seen::SameCall => CheckResult::Passed,
        Seen::OtherCall => CheckResult::Failed(Failure::Replayed),
        Seen::Full => CheckResult::Unknown,
    }
}

/// A field of which nothing can be checked but that. It never is valid; whether the call is refused for it, the mode decides.
pub(super) fn unreadable(policy: &Policy) -> TokenVerdict {
    refused(policy, Check::Token, Failure::Field, SignatureText::of(&[]))
}

/// A protected header that is refused: for its certificates (437), or altogether (438).
fn bad_header(error: HeaderError) -> Reached {
    use HeaderError::{CertificateBase64, CertificateTooLong, Certificates, Malformed};
    match error {
        Certificates { .. } | CertificateTooLong { .. } | CertificateBase64 { .. } | Malformed("x5c") => {
            Reached::Refused(Check::Chain, Failure::X5c(error))
        }
        _ => Reached::Refused(Check::Token, Failure::Header(error)),
    }
}

fn refused(policy: &Policy, check: Check, failure: Failure, signature: SignatureText) -> TokenVerdict {
    let mut token = TokenVerdict::new(Disposition::Invalid(check), policy.profile, signature);
    token.checks.set(check, CheckResult::Failed(failure));
    token.disposition = Disposition::Invalid(token.checks.fault(policy).unwrap_or(check));
    token
}
