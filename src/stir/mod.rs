//! RFC 8224: the authentication service ([`authentication`]), the verification service ([`verification`]), and what their findings
//! mean on the wire ([`reason`]).
//!
//! Everything here is a function of its arguments: present time (UNIX seconds) and random octets come in, lines and verdicts go out.
//!
//! Each Identity field is judged by itself (`judge`; a `div-o` token with those inside it, `nested`); then the diversions are joined to
//! chains (`diversion`), and the verdict is drawn: what the call is worth, what may be shown of the caller ([`rich_call_data`],
//! [`call_info`]), which Resource-Priority is proven ([`priority`]), what the inside network is told ([`Verstat`], [`mark`], [`verdict_line`]).
//!
//! What is slow, a certificate that only an `x5u` names, is asked for by [`verification::Outcome::Need`].
pub mod authentication;
pub mod call_info;
mod caller;
mod checks;
pub mod connected;
mod credential;
mod diversion;
pub mod facts;
mod failure;
mod judge;
pub mod mark;
mod nested;
mod policy;
pub mod priority;
pub mod reason;
mod rebuild;
pub mod redirected;
pub mod replay;
pub mod rich_call_data;
mod signalling;
pub mod url;
mod verdict;
pub mod verdict_line;
pub mod verification;
mod verstat;

pub use crate::cert::TrustStore;
pub use caller::Caller;
pub use failure::{Failure, FetchFailure};
pub use policy::{Callers, IdentitySource, Methods, Modes, OnFailure, Policy, PriorityAuthority};
pub use rich_call_data::RichCallData;
pub use verdict::{
    CheckResult, Checks, Disposition, Overall, Rejection, Retarget, Role, SignatureText, TokenVerdict, Verdict,
};
pub use verstat::Verstat;

/// What to do about one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not looked at.
    Off,
    /// Looked at and recorded; the token stays valid.
    Report,
    /// A failure makes the token invalid.
    Enforce,
}

/// Which demands a token is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// STIR as SHAKEN deploys it: chain to an STI anchor, TNAuthList present, signature, claims, freshness.
    Shaken,
    /// draft-wendt-stir-vesper-07: besides, `x5c`, number in the TNAuthList, SCT, claim constraints, domain binding (R21 to R29).
    Vesper,
}

impl Profile {
    /// Its name in settings and headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shaken => "shaken",
            Self::Vesper => "vesper",
        }
    }
}

/// One question about a token. Each is answered by itself, so that each has its own [`Mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// The Identity field and its PASSporT can be read and agree: grammar, JWS, `info`, `alg`, `ppt` (RFC 8224 4.1).
    Token,
    /// A path from the signer's certificate to a trusted STI anchor (R22).
    Chain,
    /// The path is valid now, and the leaf was when the token was made (R28).
    Validity,
    /// No certificate of the path is on a CRL; under [`Mode::Report`] it is only noted when the CRL can not be had.
    Revocation,
    /// The certificate speaks for the identity in `orig` (R23), of a diversion for that in `div` (D-8), of `rph` for the namespaces.
    TnAuthorization,
    /// An embedded SCT of a trusted log (R24).
    Sct,
    /// Host of `x5u` is a dNSName of the certificate (R26).
    DomainBinding,
    /// ES256 signature over the received octets (R21).
    Signature,
    /// `iat` and Date are recent (R29, RFC 8224 6.2 step 4).
    Freshness,
    /// `orig`, `dest`, `mky`, `msgi`, `rph` agree with the request (RFC 8224 6.2.4), and diversions lead to it (RFC 8946 4.2).
    Claims,
    /// The claims conform to the certificate's constraints (R25).
    Constraints,
    /// Header and payload are in the form of RFC 8225 section 9, as their signer had to write them (P-14). A verifier need not ask.
    Serialization,
    /// Not seen before in another call (RFC 8224 12.1).
    Replay,
}

impl Check {
    /// All checks, in the order in which a failure names the token's fault. Freshness comes late: 403 is for tokens that are only stale.
    pub const ALL: [Self; 13] = [
        Self::Token,
        Self::Chain,
        Self::Validity,
        Self::Revocation,
        Self::TnAuthorization,
        Self::Sct,
        Self::Signature,
        Self::Claims,
        Self::Constraints,
        Self::Serialization,
        Self::DomainBinding,
        Self::Freshness,
        Self::Replay,
    ];

    /// Stable name for settings, logs and JSON.
    pub fn id(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Chain => "chain",
            Self::Validity => "validity",
            Self::Revocation => "revocation",
            Self::TnAuthorization => "tn-authorization",
            Self::Sct => "sct",
            Self::DomainBinding => "domain-binding",
            Self::Signature => "signature",
            Self::Freshness => "freshness",
            Self::Claims => "claims",
            Self::Constraints => "constraints",
            Self::Serialization => "serialization",
            Self::Replay => "replay",
        }
    }

    /// By [`Check::id`].
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|check| check.id() == id)
    }
}
