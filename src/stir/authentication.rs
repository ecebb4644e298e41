//! The authentication service (RFC 8224 6.1): signs requests, with everything prepared that does not change per call.
use super::signalling::{Signalling, media_keys};
use super::{IdentitySource, Profile};
use crate::cert::Certificate;
use crate::passport::claims::{Destinations, Identity};
use crate::passport::ppt::rcd::Assertion;
use crate::passport::ppt::{Ppt, shaken, shaken::Attestation};
use crate::passport::{CanonicalIdentity, Claims, DialPlan, MediaKey, jws, serialize};
use crate::sip::{Message, Name, date};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair as _};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

mod config;
mod diversion;
pub mod elsewhere;
mod error;
mod tokens;

pub use config::SignerConfig;
use config::{preflight, read_key};
pub use diversion::Diverted;
pub(super) use diversion::read_full;
pub use error::{SignError, SignerError, SignerWarning};
pub use tokens::Speaker;

/// Seconds for which a certificate has to be valid still.
const MIN_VALIDITY: i64 = 60;

/// What signs.
enum Key {
    Held(Box<EcdsaKeyPair>),
    /// Its name.
    Elsewhere(Arc<str>),
}

/// What a token for the number says that the request does not.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Who is taken for the caller. P-Asserted-Identity has to be vouched for.
    pub source: IdentitySource,
    /// `attest`; `None` makes a plain PASSporT.
    pub attestation: Option<Attestation>,
    /// `origid`, the text of a UUID, used with `attest` only.
    pub origid: &'a str,
    /// Rich call data in the token (C-9): one token where the certificate speaks for both.
    pub rich: Option<&'a Assertion>,
}

/// An authentication service for one certificate. Shared by all workers.
pub struct Signer {
    /// The kind of token it usually makes.
    ppt: Ppt,
    /// The encoded protected header of that kind, with its dot.
    header: Vec<u8>,
    /// What follows such a token on the Identity line.
    parameters: Vec<u8>,
    /// DER of what goes into `x5c`, leaf first; empty for plain STIR.
    inline: Vec<Vec<u8>>,
    x5u: String,
    key: Key,
    leaf: Certificate,
    not_before: i64,
    not_after: i64,
    attestation: Option<Attestation>,
    profile: Profile,
    dial_plan: DialPlan,
    identity_source: IdentitySource,
    date_tolerance: i64,
    warnings: Vec<SignerWarning>,
}

impl Signer {
    /// Reads certificate and key and makes the preflight checks that do not depend on the call (R12 to R14, R20).
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn new(config: SignerConfig) -> Result<Self, SignerError> {
        let mut chain = Vec::with_capacity(config.certificates.len());
        for (index, der) in config.certificates.iter().enumerate() {
            let certificate = Certificate::from_der(der).map_err(|error| SignerError::Certificate { index, error })?;
            chain.push(certificate);
        }
        if chain.len() > 1 && chain.last().is_some_and(Certificate::is_self_issued) {
            chain.pop();
        }
        let not_before = chain.iter().map(Certificate::not_before).max().ok_or(SignerError::NoCertificate)?;
        let not_after = chain.iter().map(Certificate::not_after).min().ok_or(SignerError::NoCertificate)?;
        let ppt = if config.attestation.is_some() { Ppt::Shaken } else { Ppt::Baseline };
        let inline: Vec<Vec<u8>> = match config.profile {
            Profile::Vesper => chain.iter().map(|certificate| certificate.der().to_vec()).collect(),
            Profile::Shaken => Vec::new(),
        };
        let leaf = chain.swap_remove(0);
        let point = leaf.es256_point().ok_or(SignerError::NotEs256)?;
        let key = match &config.remote_key {
            Some(name) => Key::Elsewhere(Arc::clone(name)),
            None => {
                let key = read_key(&config.key)?;
                if key.public_key().as_ref() != point {
                    return Err(SignerError::KeyMismatch);
                }
                Key::Held(Box::new(key))
            }
        };
        Ok(Self {
            ppt,
            header: header(ppt, &inline, &config.x5u),
            parameters: parameters(&config.x5u, ppt),
            key,
            warnings: preflight(&leaf, &config)?,
            leaf,
            not_before,
            not_after,
            attestation: config.attestation,
            profile: config.profile,
            inline,
            x5u: config.x5u,
            dial_plan: config.dial_plan,
            identity_source: config.identity_source,
            date_tolerance: config.date_tolerance,
        })
    }

    /// What was remarked while it was made.
    pub fn warnings(&self) -> &[SignerWarning] {
        &self.warnings
    }

    /// The signer's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.leaf
    }

    /// The name of its key, if that is not here.
    pub fn remote_key(&self) -> Option<&Arc<str>> {
        match &self.key {
            Key::Held(_) => None,
            Key::Elsewhere(name) => Some(name),
        }
    }

    /// Whether its certificate speaks for this number or URI.
    pub fn speaks_for(&self, identity: &Identity<'_>) -> bool {
        self.check_authority(identity).is_ok()
    }

    /// Which field it takes for the caller.
    pub fn identity_source(&self) -> IdentitySource {
        self.identity_source
    }

    /// `attest` of its tokens; `None` for plain PASSporTs.
    pub fn attestation(&self) -> Option<Attestation> {
        self.attestation
    }

    /// UNIX seconds after which it no longer signs.
    pub fn not_after(&self) -> i64 {
        self.not_after.saturating_sub(MIN_VALIDITY)
    }

    /// Appends the Identity line for this request, and before it a Date line when the request has none (I-5). `unix` is the present
    /// time in UNIX seconds; `origid` is random (RFC 8588 section 5) and only used with SHAKEN. Nothing is appended on error.
    ///
    /// # Errors
    /// [`SignError`]: then the request is to be forwarded without, or refused, by local policy (I-3).
    pub fn sign(
        &self,
        unix: i64,
        request: Message<'_>,
        origid: [u8; 16],
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        self.sign_believing(true, unix, request, origid, lines)
    }

    /// The same for a request whose P-Asserted-Identity is believed or not: then the caller is From, whatever the configuration
    /// says (RFC 3325 5: an identity that no trusted element asserted counts for nothing).
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign_believing(
        &self,
        is_asserted: bool,
        unix: i64,
        request: Message<'_>,
        origid: [u8; 16],
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        self.sign_rich(is_asserted, unix, request, origid, None, lines)
    }

    /// The same with rich call data in the token (C-9): one token where the certificate speaks for both.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign_rich(
        &self,
        is_asserted: bool,
        unix: i64,
        request: Message<'_>,
        origid: [u8; 16],
        rich: Option<&Assertion>,
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        let origid = shaken::origid(origid);
        let source = if is_asserted { self.identity_source } else { IdentitySource::From };
        let wish = Wish { source, attestation: self.attestation, origid: origid.as_str(), rich };
        self.sign_as(unix, request, &wish, lines)
    }

    /// The same as others wish it: policies that know more of the call than the signer does. With a key elsewhere, the lines are not
    /// complete (see [`elsewhere`]).
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign_as(
        &self,
        unix: i64,
        request: Message<'_>,
        wish: &Wish<'_>,
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        let call = self.prepare(wish.source, unix, request)?;
        self.check_authority(&call.caller()?)?;
        let mut claims = call.claims()?;
        let ppt = match wish.attestation {
            Some(attestation) => {
                claims.attest = Some(attestation.letter().into());
                claims.origid = Some(wish.origid.into());
                Ppt::Shaken
            }
            None => Ppt::Baseline,
        };
        if let Some(rich) = wish.rich {
            rich.add_to(&mut claims);
        }
        self.write_lines(ppt, request, &claims, call.iat, lines)
    }

    /// What all tokens about a request begin with: validity of the certificate, Date, who calls whom (I-3 to I-6).
    fn prepare(&self, source: IdentitySource, unix: i64, request: Message<'_>) -> Result<Prepared, SignError> {
        self.check_validity(unix)?;
        let signalling = Signalling::of(request, source, &self.dial_plan);
        let iat = match (request.field(Name::Date), signalling.date) {
            (None, _) => unix,
            (Some(_), None) => return Err(SignError::BadDate),
            (Some(_), Some(date)) => date,
        };
        self.check_age(unix, iat)?;
        let keys = media_keys(request);
        Ok(Prepared { signalling, iat, keys: (!keys.is_empty()).then_some(keys) })
    }

    /// Appends the Identity line with a token of this kind, and before it a Date line when there is none yet. All or nothing.
    fn write_lines(
        &self,
        ppt: Ppt,
        request: Message<'_>,
        claims: &Claims<'_>,
        date: i64,
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        let start = lines.len();
        let is_written = lines.starts_with(b"Date: ") || memchr::memmem::find(lines, b"\r\nDate: ").is_some();
        if request.field(Name::Date).is_none() && !is_written {
            lines.extend_from_slice(b"Date: ");
            date::write(u64::try_from(date).unwrap_or(0), lines);
            lines.extend_from_slice(b"\r\n");
        }
        self.write_line(ppt, claims, lines).inspect_err(|_| lines.truncate(start))
    }

    /// The Identity line alone. All or nothing.
    pub(super) fn write_line(&self, ppt: Ppt, claims: &Claims<'_>, lines: &mut Vec<u8>) -> Result<(), SignError> {
        let start = lines.len();
        lines.extend_from_slice(b"Identity: ");
        let (header, parameters) = self.kind(ppt);
        if let Err(error) = self.write_blank_of(&header, claims, lines) {
            lines.truncate(start);
            return Err(error);
        }
        lines.extend_from_slice(&parameters);
        Ok(())
    }

    /// Header and parameters of tokens of this kind; only the usual ones are kept ready.
    fn kind(&self, ppt: Ppt) -> (Cow<'_, [u8]>, Cow<'_, [u8]>) {
        if ppt == self.ppt {
            return (Cow::Borrowed(&self.header), Cow::Borrowed(&self.parameters));
        }
        (Cow::Owned(header(ppt, &self.inline, &self.x5u)), Cow::Owned(parameters(&self.x5u, ppt)))
    }

    /// Appends a whole token with these claims, after checking them against the certificate's constraints. Neither time nor authority
    /// over `orig` is asked about.
    ///
    /// # Errors
    /// [`SignError::Constraint`], [`SignError::Signature`]; [`SignError::KeyElsewhere`] for a signer whose key is not here.
    pub fn write_token(&self, claims: &Claims<'_>, out: &mut Vec<u8>) -> Result<(), SignError> {
        self.write_token_of(&self.header, claims, out)
    }

    /// The same; with a key elsewhere the signature is left blank.
    ///
    /// # Errors
    /// As [`Signer::write_token`].
    pub(super) fn write_blank(&self, claims: &Claims<'_>, out: &mut Vec<u8>) -> Result<(), SignError> {
        self.write_blank_of(&self.header, claims, out)
    }

    fn write_token_of(&self, header: &[u8], claims: &Claims<'_>, out: &mut Vec<u8>) -> Result<(), SignError> {
        match &self.key {
            Key::Held(_) => self.write_blank_of(header, claims, out),
            Key::Elsewhere(_) => Err(SignError::KeyElsewhere),
        }
    }

    /// The same; with a key elsewhere the signature is left blank.
    fn write_blank_of(&self, header: &[u8], claims: &Claims<'_>, out: &mut Vec<u8>) -> Result<(), SignError> {
        if let Some(Ok(constraints)) = self.leaf.claim_constraints() {
            constraints.check(&claims.to_map()).map_err(SignError::Constraint)?;
        }
        let start = out.len();
        out.extend_from_slice(header);
        // The payload's JSON stands at the end of the output for a moment, is encoded behind itself, and taken out.
        let json = out.len();
        serialize::write_claims(claims, out);
        let encoded = out.len();
        jws::encode_within(out, json..encoded);
        out.drain(json..encoded);
        match &self.key {
            Key::Held(key) => {
                // aws-lc-rs draws the nonce itself; the generator of the interface is not used.
                let signature = key.sign(&SystemRandom::new(), &out[start..]).map_err(|_| SignError::Signature)?;
                out.push(b'.');
                jws::encode(signature.as_ref(), out);
            }
            Key::Elsewhere(_) => {
                out.push(b'.');
                out.extend_from_slice(&elsewhere::BLANK);
            }
        }
        Ok(())
    }

    /// Appends ` ;info=<...>` and so on, as they follow a token of this signer in an Identity field, without line end.
    pub fn write_parameters(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.parameters.strip_suffix(b"\r\n").unwrap_or(&self.parameters));
    }

    pub(super) fn check_validity(&self, unix: i64) -> Result<(), SignError> {
        if unix < self.not_before {
            return Err(SignError::NotYetValid { not_before: self.not_before });
        }
        if unix > self.not_after() {
            return Err(SignError::Expired { not_after: self.not_after });
        }
        Ok(())
    }

    /// I-5, I-6.
    pub(super) fn check_age(&self, unix: i64, iat: i64) -> Result<(), SignError> {
        let age = unix.saturating_sub(iat);
        if age.saturating_abs() > self.date_tolerance { Err(SignError::StaleDate { age }) } else { Ok(()) }
    }

    /// How numbers are read.
    pub(super) fn dial_plan(&self) -> &DialPlan {
        &self.dial_plan
    }

    /// I-1, I-3, R20, D-8: the certificate speaks for this identity, as a verifier will ask.
    pub(super) fn check_authority(&self, identity: &Identity<'_>) -> Result<(), SignError> {
        let number = match identity {
            Identity::Tn(number) => number,
            Identity::Uri(_) if self.profile == Profile::Vesper => return Err(SignError::NotTelephoneNumber),
            Identity::Uri(uri) => {
                let named = super::url::is_domain_named(self.leaf.dns_names(), uri);
                return if named { Ok(()) } else { Err(SignError::NotAuthorized) };
            }
        };
        let Some(Ok(list)) = self.leaf.tn_auth_list() else { return Err(SignError::NotAuthorized) };
        let by_provider = self.profile == Profile::Shaken && list.spcs().next().is_some();
        if by_provider || list.covers(number) { Ok(()) } else { Err(SignError::NotAuthorized) }
    }
}

impl fmt::Debug for Signer {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("subject", &self.leaf.subject())
            .field("profile", &self.profile)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Who calls, as the field says that is taken for it.
pub fn caller(request: Message<'_>, source: IdentitySource, plan: &DialPlan) -> Option<CanonicalIdentity> {
    let mut asserted = request.values(Name::PAssertedIdentity).take(2);
    let named = |value: &[u8]| CanonicalIdentity::from_uri(crate::sip::NameAddr::parse(value).ok()?.uri, plan);
    let asserted = (source == IdentitySource::AssertedThenFrom).then(|| asserted.find_map(|value| named(value.value)));
    asserted.flatten().or_else(|| CanonicalIdentity::from_uri(request.from().ok()?.uri, plan))
}

/// What a request says, ready for a token about it.
struct Prepared {
    signalling: Signalling,
    iat: i64,
    /// `mky`.
    keys: Option<Vec<MediaKey<'static>>>,
}

impl Prepared {
    fn caller(&self) -> Result<Identity<'_>, SignError> {
        self.signalling.caller().map(CanonicalIdentity::as_identity).ok_or(SignError::NoOriginator)
    }

    /// The baseline claims, and `mky` when the SDP has fingerprints.
    fn claims(&self) -> Result<Claims<'_>, SignError> {
        let caller = self.caller()?;
        let callee = self.signalling.callee().ok_or(SignError::NoDestination)?;
        let mut claims = Claims::baseline(caller, Destinations::one(callee.as_identity()), self.iat);
        claims.mky.clone_from(&self.keys);
        Ok(claims)
    }
}

/// The encoded protected header with its dot.
fn header(ppt: Ppt, inline: &[Vec<u8>], x5u: &str) -> Vec<u8> {
    let mut json = Vec::new();
    serialize::write_header(ppt.name(), inline, Some(x5u), &mut json);
    let mut header = Vec::new();
    jws::encode(&json, &mut header);
    header.push(b'.');
    header
}

/// `;info=<...>;alg=ES256;ppt="shaken"` and the line end.
fn parameters(x5u: &str, ppt: Ppt) -> Vec<u8> {
    let ppt = ppt.name().map(|name| format!(";ppt=\"{name}\"")).unwrap_or_default();
    format!(";info=<{x5u}>;alg=ES256{ppt}\r\n").into_bytes()
}
