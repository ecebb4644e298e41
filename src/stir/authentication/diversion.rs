//! Diversions (RFC 8946): whoever sends a call on to another number signs that, with authority over the number it was meant for.
use super::{SignError, Signer};
use crate::passport::claims::Destinations;
use crate::passport::ppt::{Ppt, div};
use crate::passport::{CanonicalIdentity, Claims, Config, Identity, Token};
use crate::sip::identity::IdentityValue;
use crate::sip::{Message, Name};
use crate::stir::IdentitySource;
use crate::stir::signalling::Signalling;

/// Most seconds a token may have been under way before it is diverted (RFC 8946 4.2: about three hours).
const MAX_AGE: i64 = 3 * 3600;
/// Most Identity fields looked at.
const MAX_FIELDS: usize = 16;

/// What a diversion repeats of an earlier token.
#[derive(Clone, Debug, PartialEq)]
struct Earlier {
    orig: Identity<'static>,
    /// The identity of its `dest` that is the present target (D-4).
    div: Identity<'static>,
    iat: i64,
}

/// What was appended for a diversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diverted {
    /// Tokens, at least one.
    pub tokens: usize,
    /// A call was under way for so long that its first time is no longer fresh: a token has the present time, and Date has to be
    /// replaced by it (D-6).
    pub renews_date: bool,
}

impl Signer {
    /// Appends Identity lines with tokens of `ppt=div` to a request that is about to be sent from its Request-URI on to `target` (a
    /// URI): one for each caller among the tokens that were meant for the Request-URI (D-14, D-15), so usually one. The Identity
    /// fields that are there stay (D-11). Whoever calls this has verified them, or leaves that to the terminating side (D-12). Nothing
    /// is appended on error.
    ///
    /// # Errors
    /// [`SignError`]: no Identity (D-10), the same target (D-2), none that was meant for the Request-URI, no authority over it (D-8).
    pub fn sign_diversion(
        &self,
        unix: i64,
        request: Message<'_>,
        target: &[u8],
        lines: &mut Vec<u8>,
    ) -> Result<Diverted, SignError> {
        self.check_validity(unix)?;
        if request.field(Name::Identity).is_none() {
            return Err(SignError::NoIdentity);
        }
        let signalling = Signalling::of(request, IdentitySource::From, &self.dial_plan);
        let target = CanonicalIdentity::from_uri(target, &self.dial_plan).ok_or(SignError::NotRetargeted)?;
        if signalling.is_target(&target.as_identity(), &self.dial_plan) {
            return Err(SignError::NotRetargeted);
        }
        let mut earlier: Vec<Earlier> = Vec::new();
        for value in request.values(Name::Identity).take(MAX_FIELDS) {
            let Ok(field) = IdentityValue::parse(value.value, value.range) else { continue };
            let Some(token) = self.earlier(field.digest, &signalling) else { continue };
            // Tokens of one caller make the same diversion, of the latest of their times.
            match earlier.iter_mut().find(|known| known.orig == token.orig) {
                Some(known) => known.iat = known.iat.max(token.iat),
                None => earlier.push(token),
            }
        }
        if earlier.is_empty() {
            return Err(SignError::NothingToDivert);
        }
        let start = lines.len();
        for token in &earlier {
            let written = self
                .diverted(unix, token, &target)
                .and_then(|claims| self.write_lines(Ppt::Div, request, &claims, unix, lines));
            if let Err(error) = written {
                lines.truncate(start);
                return Err(error);
            }
        }
        let renews_date = earlier.iter().any(|token| self.is_renewed(unix, token));
        Ok(Diverted { tokens: earlier.len(), renews_date })
    }

    /// Appends a token of `ppt=div-o` with the full form of an earlier one inside (RFC 8946 section 5), for ways on which Identity fields
    /// do not travel together. `present` is the URI the call was meant for, `target` that it is sent on to.
    ///
    /// # Errors
    /// As [`Signer::sign_diversion`]; [`SignError::NoIdentity`] when `token` is no full form (D-17).
    pub fn write_div_o(
        &self,
        unix: i64,
        token: &[u8],
        present: &[u8],
        target: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        self.check_validity(unix)?;
        let canonical = |uri| CanonicalIdentity::from_uri(uri, &self.dial_plan);
        let present = canonical(present).ok_or(SignError::NothingToDivert)?;
        let target = canonical(target).filter(|target| *target != present).ok_or(SignError::NotRetargeted)?;
        let opt = std::str::from_utf8(token).map_err(|_| SignError::NoIdentity)?;
        let earlier = read_full(token, |claims| {
            let div = claims.dest.iter().find(|identity| present.is(identity))?.into_owned();
            Some(Earlier { orig: claims.orig.borrowed().into_owned(), div, iat: claims.iat })
        });
        let earlier = earlier.ok_or(SignError::NoIdentity)?.ok_or(SignError::NothingToDivert)?;
        let claims = self.diverted(unix, &earlier, &target)?;
        let Claims { orig, dest, div: Some(div), iat, .. } = claims else { return Err(SignError::NothingToDivert) };
        let claims = div::claims_with(orig, dest, div, iat, opt);
        let start = out.len();
        let (header, _) = self.kind(Ppt::DivO);
        self.write_token_of(&header, &claims, out).inspect_err(|_| out.truncate(start))
    }

    /// What a diversion repeats of a token, if that was meant for the Request-URI. A compact form says what the request says.
    fn earlier(&self, token: &[u8], signalling: &Signalling) -> Option<Earlier> {
        let plan = &self.dial_plan;
        let meant = |claims: &Claims<'_>| {
            let div = claims.dest.iter().find(|identity| signalling.is_target(identity, plan))?.into_owned();
            Some(Earlier { orig: claims.orig.borrowed().into_owned(), div, iat: claims.iat })
        };
        match Token::parse(token, &Config::default()).ok()? {
            Token::Full(_) => read_full(token, meant)?,
            Token::Compact { .. } => {
                let (caller, callee) = (signalling.caller()?, signalling.callee()?);
                let dest = Destinations::one(callee.as_identity());
                meant(&Claims::baseline(caller.as_identity(), dest, signalling.date?))
            }
        }
    }

    /// `iat` is kept while it is fresh, and the certificate was valid then: verifiers ask that of a diversion.
    fn is_renewed(&self, unix: i64, earlier: &Earlier) -> bool {
        unix.saturating_sub(earlier.iat) > self.date_tolerance || earlier.iat < self.leaf.not_before()
    }

    /// The claims of the diversion (D-1 to D-8).
    fn diverted<'a>(
        &self,
        unix: i64,
        earlier: &'a Earlier,
        target: &'a CanonicalIdentity,
    ) -> Result<Claims<'a>, SignError> {
        let age = unix.saturating_sub(earlier.iat);
        if age > MAX_AGE || age < self.date_tolerance.saturating_neg() {
            return Err(SignError::StaleToken { age });
        }
        self.check_authority(&earlier.div)?;
        let iat = if self.is_renewed(unix, earlier) { unix } else { earlier.iat.min(unix) };
        let dest = Destinations::one(target.as_identity());
        Ok(div::claims(earlier.orig.borrowed(), dest, earlier.div.borrowed(), iat))
    }
}

/// Reads the claims of a full form; `None` when it is none.
pub(in crate::stir) fn read_full<T>(token: &[u8], read: impl FnOnce(&Claims<'_>) -> T) -> Option<T> {
    let config = Config::default();
    let Ok(Token::Full(jws)) = Token::parse(token, &config) else { return None };
    let mut payload = Vec::new();
    let json = jws.decode_payload(&mut payload).ok()?;
    Claims::parse(json, &config).ok().as_ref().map(read)
}
