//! Tokens beside the one for the number: rich call data, Resource-Priority, messages.
use super::{SignError, Signer};
use crate::passport::Claims;
use crate::passport::ppt::rcd::Assertion;
use crate::passport::ppt::{Ppt, msg, rph};
use crate::sip::{Message, Method, Name};
use crate::stir::IdentitySource;

/// Most r-values signed in one token.
const MAX_PRIORITIES: usize = 16;

/// Who speaks in a token of `ppt=rcd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker<'a> {
    /// The caller's own side: the certificate has to speak for the number.
    Caller,
    /// Somebody else (T-1), named as the ecosystem wants its certificate's subject to be named (T-2).
    ThirdParty(&'a str),
}

impl Signer {
    /// Appends an Identity line with a token of `ppt=rcd` (RFC 9795 section 8). For a certificate that speaks for the number, data in
    /// the token for the number itself is shorter: [`Signer::sign_rich`]. `source` says who is taken for the caller, here and in the others
    /// as in a [`Wish`](super::Wish): one call has one caller, whichever certificates speak of it.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign_rcd(
        &self,
        speaker: Speaker<'_>,
        source: IdentitySource,
        unix: i64,
        request: Message<'_>,
        rich: &Assertion,
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        let call = self.prepare(source, unix, request)?;
        let mut claims = call.claims()?;
        match speaker {
            Speaker::Caller => self.check_authority(&claims.orig)?,
            Speaker::ThirdParty(name) => claims.put("iss", name),
        }
        rich.add_to(&mut claims);
        self.write_lines(Ppt::Rcd, request, &claims, call.iat, lines)
    }

    /// Appends an Identity line with a token of `ppt=rph` for those r-values of Resource-Priority whose namespace is among `namespaces`
    /// and `sph` when the request is a call back from an emergency centre. For INVITE alone.
    ///
    /// # Errors
    /// As [`Signer::sign`]; [`SignError::NoPriority`] when there is no such r-value, [`SignError::NotAuthorized`] when verifiers will not
    /// take the certificate as one that speaks for namespaces.
    pub fn sign_rph(
        &self,
        source: IdentitySource,
        unix: i64,
        request: Message<'_>,
        namespaces: &[&str],
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        if request.method() != Some(Method::Invite) {
            return Err(SignError::Method);
        }
        let call = self.prepare(source, unix, request)?;
        self.check_priority_authority()?;
        let is_meant = |value: &&str| namespaces.iter().any(|name| name.eq_ignore_ascii_case(rph::namespace(value)));
        let values = request.values(Name::ResourcePriority).filter_map(|value| std::str::from_utf8(value.value).ok());
        let mut authorized: Vec<&str> = values.filter(is_meant).take(MAX_PRIORITIES).collect();
        authorized.dedup();
        if authorized.is_empty() {
            return Err(SignError::NoPriority);
        }
        let emergency = authorized.iter().any(|value| rph::namespace(value).eq_ignore_ascii_case("esnet"));
        let mut claims = call.claims()?;
        let callback = emergency && crate::stir::priority::is_callback(request) && !claims.dest.tn.is_empty();
        rph::add(&mut claims, &authorized, callback);
        // As a verifier will read it: no malformed r-value leaves here, and esnet only for callers with a number.
        rph::PriorityClaims::read(&claims).map_err(|_| SignError::NoPriority)?;
        self.write_lines(Ppt::Rph, request, &claims, call.iat, lines)
    }

    /// Appends an Identity line with a token of `ppt=msg` and the digest of the body (M-2), for MESSAGE alone (M-1).
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign_message(
        &self,
        source: IdentitySource,
        unix: i64,
        request: Message<'_>,
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        if request.method() != Some(Method::Message) {
            return Err(SignError::Method);
        }
        let call = self.prepare(source, unix, request)?;
        let mut claims: Claims<'_> = call.claims()?;
        self.check_authority(&claims.orig)?;
        msg::add(&mut claims, request.body());
        self.write_lines(Ppt::Msg, request, &claims, call.iat, lines)
    }

    fn check_priority_authority(&self) -> Result<(), SignError> {
        let constraints = self.leaf.claim_constraints().and_then(Result::ok);
        let is_named = constraints.is_some_and(|constraints| constraints.authorizes("rph"));
        let list = self.leaf.tn_auth_list().and_then(Result::ok);
        let is_provider = list.is_some_and(|list| list.spcs().next().is_some());
        if is_named || is_provider { Ok(()) } else { Err(SignError::NotAuthorized) }
    }
}
