//! What is known of a call, for those who ask while it lasts and for the record of it when it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{CALL_ID, CALLED, Call, CallState, FROM, FROM_TAG};
use crate::passport::Identity;
use crate::passport::ppt::shaken::{Attestation, OrigId};
use crate::proxy::TrunkId;
use crate::sip::hop::Hop;
use crate::sip::{NameAddr, Uri};
use crate::stir::Verstat;
use crate::stir::verification::{Credential, Overall, Profile, Verdict};

/// How a call came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The caller said BYE.
    Caller,
    /// The callee said BYE.
    Callee,
    /// The caller sent CANCEL before an answer.
    Cancel,
    /// The INVITE got a final response other than 2xx.
    Refusal,
    /// Nobody answered the INVITE in time.
    Timeout,
    /// The operator.
    Admin,
    /// Its session was not refreshed in time (RFC 4028 8).
    SessionExpiry,
    /// No ACK for the 2xx was seen in 64*T1.
    NoAck,
    /// Nothing was seen of it for as long as a call may last.
    Length,
    /// It still stood when the program stopped.
    Stop,
}

impl EndedBy {
    /// All.
    pub const ALL: [Self; 10] = [
        Self::Caller,
        Self::Callee,
        Self::Cancel,
        Self::Refusal,
        Self::Timeout,
        Self::Admin,
        Self::SessionExpiry,
        Self::NoAck,
        Self::Length,
        Self::Stop,
    ];

    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Callee => "callee",
            Self::Cancel => "cancel",
            Self::Refusal => "refusal",
            Self::Timeout => "timeout",
            Self::Admin => "admin",
            Self::SessionExpiry => "session_expiry",
            Self::NoAck => "no_ack",
            Self::Length => "length",
            Self::Stop => "stop",
        }
    }
}

/// What verification said of the INVITE.
#[derive(Clone, Debug, Default)]
pub struct Verification {
    /// `None` where nothing was verified.
    pub overall: Option<Overall>,
    /// The check that the deciding token failed.
    pub failed: Option<&'static str>,
    /// Attestation of the valid token.
    pub attestation: Option<Attestation>,
    /// The demands it was held to.
    pub profile: Option<Profile>,
    /// `origid` of the valid token.
    pub origid: Option<OrigId>,
    /// Certificate of the valid token.
    pub credential: Option<Arc<Credential>>,
    /// What it comes to for the number.
    pub verstat: Option<Verstat>,
    /// Who diverted the call, the first one first, as far as that is proven.
    pub diverted: Box<[Identity<'static>]>,
    /// Whether a signed name is verified; `None` without one.
    pub is_name_verified: Option<bool>,
}

impl Verification {
    pub(in crate::proxy) fn of(verdict: &Verdict) -> Self {
        let valid = verdict.valid();
        let fault = || verdict.tokens().iter().find_map(|token| token.fault()).map(|(check, _)| check.id());
        Self {
            overall: Some(verdict.overall()),
            failed: if valid.is_none() { fault() } else { None },
            attestation: valid.and_then(|token| token.attest),
            profile: valid.map(|token| token.profile),
            origid: valid.and_then(|token| token.origid),
            credential: valid.and_then(|token| token.credential.clone()),
            verstat: Some(Verstat::of(verdict)),
            diverted: verdict.diversions().into(),
            is_name_verified: verdict.is_name_verified(),
        }
    }

    /// Subject of the certificate of the valid token.
    pub fn subject(&self) -> Option<String> {
        Some(self.credential.as_ref()?.chain.as_ref().ok()?.leaf.subject())
    }

    /// `valid`, `invalid`, `none` (no Identity) or `unchecked`.
    pub fn result(&self) -> &'static str {
        match self.overall {
            None => "unchecked",
            Some(Overall::NoIdentity) => "none",
            Some(Overall::Valid { .. }) => "valid",
            Some(Overall::Invalid) => "invalid",
        }
    }
}

/// The signature that this element put on the INVITE.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The operator's name of the signer.
    pub signer: Arc<str>,
    /// `attest` of a SHAKEN token.
    pub attestation: Option<Attestation>,
    /// `origid` of a SHAKEN token.
    pub origid: [u8; 16],
}

/// Caller and called number, or what stands for them: the user parts of From and the Request-URI, as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers<'a> {
    /// From.
    pub caller: &'a [u8],
    /// Request-URI.
    pub called: &'a [u8],
}

/// A call that is over.
#[derive(Debug)]
pub struct CallRecord {
    /// All that was seen of it.
    pub call: Box<Call>,
    /// When it ended.
    pub ended: Instant,
    /// How.
    pub ended_by: EndedBy,
}

impl CallRecord {
    /// From the answer to the end; zero for a call that was not answered.
    pub fn duration(&self) -> Duration {
        self.call.answered.map_or(Duration::ZERO, |at| self.ended.saturating_duration_since(at))
    }
}

impl Call {
    /// Call-ID as received.
    pub fn call_id(&self) -> &[u8] {
        self.invite.get(CALL_ID)
    }

    /// Tag of From.
    pub fn from_tag(&self) -> &[u8] {
        self.invite.get(FROM_TAG)
    }

    /// Tag of To in the first 2xx; empty before it.
    pub fn to_tag(&self) -> &[u8] {
        self.dialogs.first().map_or(&[], |dialog| dialog.tag())
    }

    /// Who calls whom.
    pub fn numbers(&self) -> Numbers<'_> {
        let caller = NameAddr::parse(self.invite.get(FROM)).map_or(&[][..], |from| user_of(from.uri));
        Numbers { caller, called: user_of(self.invite.get(CALLED)) }
    }

    /// How far it has come.
    pub fn state(&self) -> CallState {
        self.state
    }

    /// The trunk it came from.
    pub fn ingress(&self) -> Option<TrunkId> {
        self.ingress
    }

    /// The trunk that the latest attempt went to, or the one that answered.
    pub fn egress(&self) -> Option<TrunkId> {
        self.egress
    }

    /// Where it came from.
    pub fn source(&self) -> Hop {
        self.source
    }

    /// Where the latest attempt went, or the one that answered.
    pub fn next_hop(&self) -> Option<Hop> {
        self.next
    }

    /// Copies of the INVITE that were sent to next hops, retransmissions not counted.
    pub fn attempts(&self) -> u16 {
        self.attempts
    }

    /// When the INVITE came.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// When the first 101 to 199 went to the caller.
    pub fn rang(&self) -> Option<Instant> {
        self.rang
    }

    /// When the first 2xx went to the caller.
    pub fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// The final status that went to the caller; 0 if none did.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// That status was this element's own, not one of a next hop.
    pub fn is_own_answer(&self) -> bool {
        self.is_own_answer
    }

    /// A CANCEL came. The call may have been answered all the same (K-6).
    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Q.850 cause in the Reason of the request or response that ended it.
    pub fn cause(&self) -> Option<u16> {
        self.cause
    }

    /// 2xx with different To tags (RFC 3261 13.2.2.4): more than one where the call forked.
    pub fn answers(&self) -> usize {
        self.dialogs.len()
    }

    /// What verification said.
    pub fn verification(&self) -> &Verification {
        &self.verification
    }

    /// What verification said of the answer (RFC 9970).
    pub fn connection(&self) -> &Verification {
        &self.connection.0
    }

    /// Who has answered, as far as that is proven.
    pub fn connected(&self) -> Option<&Identity<'static>> {
        self.connection.1.as_ref()
    }

    /// The signature it was given.
    pub fn signed(&self) -> Option<&Signed> {
        self.signed.as_deref()
    }

    /// When its session ends if it is not refreshed.
    pub fn session_until(&self) -> Option<Instant> {
        self.session
    }
}

/// The part of a URI that says whom it means: user, number, or the host where there is no user.
fn user_of(uri: &[u8]) -> &[u8] {
    match Uri::parse(uri) {
        Ok(parsed) => parsed.user.unwrap_or(if parsed.host_bytes.is_empty() {
            parsed.opaque.split(|octet| *octet == b';').next().unwrap_or_default()
        } else {
            parsed.host_bytes
        }),
        Err(_) => &[],
    }
}
