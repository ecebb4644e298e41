//! What a trunk asks of its callers' identity.
use super::{Check, Mode, Profile};
use crate::sip::Method;

/// One [`Mode`] per [`Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes([Mode; Check::ALL.len()]);

impl Modes {
    /// All enforced, but [`Check::Revocation`] reported, and [`Check::Serialization`], which RFC 8225 asks of signers only, left out.
    pub const fn usual() -> Self {
        let mut modes = Self::all(Mode::Enforce);
        modes.0[Check::Serialization as usize] = Mode::Off;
        modes.0[Check::Revocation as usize] = Mode::Report;
        modes
    }

    /// The same mode for all.
    pub const fn all(mode: Mode) -> Self {
        Self([mode; Check::ALL.len()])
    }

    /// The mode of one check.
    pub fn get(&self, check: Check) -> Mode {
        self.0[check as usize]
    }

    /// Sets one mode.
    pub fn set(&mut self, check: Check, mode: Mode) {
        self.0[check as usize] = mode;
    }
}

/// Whether a request without a valid token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// By the code of RFC 8224 6.2.2. Of a valid request, what failed of its other tokens goes upstream in Reason fields (E-4).
    Reject,
    /// Never, and nobody upstream is told.
    Continue,
    /// Never: the findings go upstream in Reason fields (RFC 9410 section 4).
    ContinueWithReason,
}

/// What becomes of callers who are nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Callers {
    /// They are judged like all others: their Identity may be required, and what is there may fail.
    #[default]
    Judge,
    /// They are never refused for want or failure of an Identity.
    Pass,
    /// They are refused.
    Reject,
}

/// Which field names the caller (RFC 8224 6.1 and section 8: From, by local policy P-Asserted-Identity).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// From alone.
    From,
    /// P-Asserted-Identity of a trusted peer, else From; a token is good for either.
    AssertedThenFrom,
}

/// Whose certificate has authority over the namespaces of Resource-Priority (R-2; RFC 8443 leaves open how a certificate says so).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorityAuthority {
    /// One whose claim constraints name `rph`; the values they permit bind.
    Constraints,
    /// Besides, one with a service provider code, as STI certificates of providers have it.
    Provider,
}

/// Methods whose Identity is looked at, outside dialogs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods {
    /// INVITE.
    pub invite: bool,
    /// MESSAGE (RFC 9475).
    pub message: bool,
}

impl Methods {
    /// Whether this one is among them.
    pub fn has(self, method: Option<Method<'_>>) -> bool {
        match method {
            Some(Method::Invite) => self.invite,
            Some(Method::Message) => self.message,
            _ => false,
        }
    }
}

/// How requests of one trunk are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The demands.
    pub profile: Profile,
    /// What to do about each check.
    pub modes: Modes,
    /// Methods that are verified.
    pub methods: Methods,
    /// Take r-values that no valid token speaks for out of Resource-Priority: the call is an ordinary one then.
    pub strip_unproven_priority: bool,
    /// Refuse a request without a usable Identity field by 428.
    pub require_identity: bool,
    /// Refuse a request whose tokens are all invalid.
    pub on_failure: OnFailure,
    /// Callers without a name: From is `anonymous`, and no identity is asserted that counts. Refused by 433 (RFC 5079).
    pub anonymous: Callers,
    /// Callers of whom the network knows nothing: From at `unknown.invalid`, or none that could be an identity. Refused by 403.
    pub unknown: Callers,
    /// Greatest age of `iat` and Date, seconds (RFC 8224 recommends 60).
    pub freshness: i64,
    /// Greatest age of tokens that a chain of diversions leads back to, seconds: the outermost one is held to `freshness`. At most
    /// about three hours (RFC 8946 4.2).
    pub diverted_freshness: i64,
    /// Most diversions that are followed.
    pub max_diversions: usize,
    /// Clock skew, seconds: `iat` in the future, certificate validity, SCT timestamps.
    pub skew: i64,
    /// Most Identity fields looked at; further ones are left alone.
    pub max_identities: usize,
    /// Who the caller is.
    pub identity_source: IdentitySource,
    /// Refuse a token whose `dest` names To when the Request-URI is another and no chain of diversions proves how it came about
    /// (RFC 8224 12.1.1 leaves retargeting open).
    pub strict_retarget: bool,
    /// Show the signed name although From shows another (C-14); otherwise it counts as not verified.
    pub rcd_prefers_token: bool,
    /// Who may speak for Resource-Priority.
    pub priority_authority: PriorityAuthority,
    /// Accept a token without `mky` though the SDP has fingerprints (peers known to leave it out).
    pub allow_missing_mky: bool,
    /// VESPER: refuse a token with claims its certificate does not authorize (R13); otherwise such claims are dropped from the verdict.
    pub strict_claims: bool,
    /// VESPER: hold a token without `x5c`, or with a URI in `orig`, to [`Profile::Shaken`] instead of refusing it.
    pub accept_plain_stir: bool,
}

impl Policy {
    /// SHAKEN, all usual checks enforced (a CRL that can not be had is only noted), failures rejected.
    pub const fn shaken() -> Self {
        Self {
            profile: Profile::Shaken,
            modes: Modes::usual(),
            methods: Methods { invite: true, message: true },
            strip_unproven_priority: false,
            require_identity: false,
            on_failure: OnFailure::Reject,
            anonymous: Callers::Judge,
            unknown: Callers::Judge,
            freshness: 60,
            diverted_freshness: 60,
            max_diversions: 5,
            skew: 60,
            max_identities: 16,
            identity_source: IdentitySource::From,
            strict_retarget: false,
            rcd_prefers_token: false,
            priority_authority: PriorityAuthority::Provider,
            allow_missing_mky: false,
            strict_claims: false,
            accept_plain_stir: false,
        }
    }

    /// VESPER, all usual checks enforced, failures rejected, Identity required.
    pub const fn vesper() -> Self {
        let priority_authority = PriorityAuthority::Constraints;
        Self { profile: Profile::Vesper, require_identity: true, priority_authority, ..Self::shaken() }
    }
}
