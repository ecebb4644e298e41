//! Signing on the word of somebody who states the claims instead of showing the request: a network that keeps its SBC and asks by
//! ATIS-1000082.
use super::authentication::{SignError, Signer};
use crate::passport::claims::{Claims, Destinations, Identity};
use crate::passport::ppt::shaken::{self, Attestation};
use crate::passport::{CanonicalIdentity, DialPlan, TelephoneNumber};
use std::fmt;

/// A caller or callee as stated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// A telephone number, canonical or not; the signer's dial plan completes it.
    Tn(String),
    /// A URI.
    Uri(String),
}

impl Party {
    /// In canonical form; `None` for what is neither a number nor a URI.
    pub fn canonical(&self, plan: &DialPlan) -> Option<CanonicalIdentity> {
        match self {
            Self::Tn(number) => TelephoneNumber::from_user(number.as_bytes(), plan).map(CanonicalIdentity::Tn),
            Self::Uri(uri) => CanonicalIdentity::from_uri(uri.as_bytes(), plan),
        }
    }
}

/// What is to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What the asking provider attests.
    pub attest: Attestation,
    /// Who calls.
    pub orig: Party,
    /// Who is called.
    pub dest: Vec<Party>,
    /// When, UNIX seconds; now if it is left out.
    pub iat: Option<i64>,
    /// Text of a UUID; drawn if it is left out.
    pub origid: Option<String>,
}

/// Why facts are not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactsError {
    /// `origid` is no UUID.
    BadOrigId,
    /// The signer makes plain PASSporTs, or less may be attested than is asked for.
    AboveCeiling,
    /// As for a request.
    Sign(SignError),
}

impl fmt::Display for FactsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadOrigId => f.write_str("origid is no UUID"),
            Self::AboveCeiling => f.write_str("the signer may not attest so much"),
            Self::Sign(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FactsError {}

impl From<SignError> for FactsError {
    fn from(error: SignError) -> Self {
        Self::Sign(error)
    }
}

impl Signer {
    /// Appends the value of an Identity field with these claims; with a key elsewhere its signature is blank (see
    /// [`elsewhere`](super::authentication::elsewhere)). No more than `most` is attested; `iat` is held to the tolerance of
    /// Date, the caller to the certificate. `origid` is random (RFC 8588 section 5), for facts without one.
    ///
    /// # Errors
    /// [`FactsError`]; nothing is appended then.
    pub fn sign_facts(
        &self,
        unix: i64,
        facts: &Facts,
        most: Option<Attestation>,
        origid: [u8; 16],
        value: &mut Vec<u8>,
    ) -> Result<(), FactsError> {
        self.check_validity(unix)?;
        if self.attestation().and(most).is_none_or(|most| facts.attest.letter() < most.letter()) {
            return Err(FactsError::AboveCeiling); // A is above B is above C
        }
        let iat = facts.iat.unwrap_or(unix);
        self.check_age(unix, iat)?;
        let plan = self.dial_plan();
        let caller = facts.orig.canonical(plan).ok_or(SignError::NoOriginator)?;
        self.check_authority(&caller.as_identity())?;
        let callees: Option<Vec<_>> = facts.dest.iter().map(|party| party.canonical(plan)).collect();
        let callees = callees.filter(|callees| !callees.is_empty()).ok_or(SignError::NoDestination)?;
        let mut dest = Destinations::default();
        for callee in &callees {
            match callee.as_identity() {
                Identity::Tn(tn) => dest.tn.push(tn),
                Identity::Uri(uri) => dest.uri.push(uri),
            }
        }
        dest.tn.sort();
        dest.uri.sort();
        let drawn = shaken::origid(origid);
        let mut claims = Claims::baseline(caller.as_identity(), dest, iat);
        claims.attest = Some(facts.attest.letter().into());
        claims.origid = Some(facts.origid.as_deref().unwrap_or(drawn.as_str()).into());
        if shaken::check(&claims).is_err() {
            return Err(FactsError::BadOrigId); // `attest` is one of the three
        }
        let start = value.len();
        if let Err(error) = self.write_blank(&claims, value) {
            value.truncate(start);
            return Err(error.into());
        }
        self.write_parameters(value);
        Ok(())
    }
}
