//! The calls of the demo: what is done, and what must come of it.

use crate::pki::lab::{Credential, Flaw, Lab, LabError};
use crate::sip::Transport;
use crate::stir::Check;

use super::identity::{Draft, KeyRefused};

/// Acme's first number, which its certificate holds.
pub const ACME: &str = "12015550100";
/// A number of Acme's provider that Acme's certificate does not hold.
pub const NEIGHBOUR: &str = "12015550120";
/// A number of Globex that the edges pass on over UDP.
pub const GLOBEX: &str = "12025550100";
/// A number of Globex that the edges pass on over TCP.
pub const GLOBEX_BY_TCP: &str = "12025550110";
/// Age of a stale token, seconds; freshness is 60.
const STALE: i64 = 120;

/// Who puts the token in, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// Acme's edge signs; nothing is wrong.
    ByEdge,
    /// The provider signs as SHAKEN does; nothing is wrong.
    Shaken,
    /// Nobody signs.
    Missing,
    /// One bit of the signature is changed.
    Tampered,
    /// The number is the neighbour's.
    NumberNotCovered,
    /// `iat` is two minutes old.
    Stale,
    /// The credential has this flaw.
    Flawed(Flaw),
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// In a few words.
    pub name: &'static str,
    /// Requirement of draft-wendt-stir-vesper-07 that it shows, as numbered in the documentation.
    pub requirement: &'static str,
    /// To the edge.
    pub transport: Transport,
    /// Its token.
    pub token: Token,
    /// Final status that must come.
    pub status: u16,
    /// The one check that must fail.
    pub failed: Option<Check>,
}

const fn good(name: &'static str, transport: Transport, token: Token) -> Case {
    Case { name, requirement: "", transport, token, status: 200, failed: None }
}

const fn bad(
    requirement: &'static str,
    name: &'static str,
    transport: Transport,
    token: Token,
    status: u16,
    failed: Check,
) -> Case {
    Case { name, requirement, transport, token, status, failed: Some(failed) }
}

/// All calls, in order.
pub const CASES: &[Case] = &[
    good("signed by Acme's edge, over UDP", Transport::Udp, Token::ByEdge),
    good("signed by Acme's edge, over TCP", Transport::Tcp, Token::ByEdge),
    good("signed by a provider, plain SHAKEN", Transport::Udp, Token::Shaken),
    bad("R21", "signature changed by one bit", Transport::Udp, Token::Tampered, 438, Check::Signature),
    bad("R22", "certificate from an unknown root", Transport::Tcp, Token::Flawed(Flaw::UnknownRoot), 437, Check::Chain),
    bad("R23", "number not in the certificate", Transport::Udp, Token::NumberNotCovered, 437, Check::TnAuthorization),
    bad("R24", "certificate in no public log", Transport::Tcp, Token::Flawed(Flaw::NoSct), 437, Check::Sct),
    bad("R25", "call reason not permitted", Transport::Udp, Token::Flawed(Flaw::Constrained), 438, Check::Constraints),
    bad(
        "R26",
        "published by another domain",
        Transport::Tcp,
        Token::Flawed(Flaw::ForeignX5u),
        438,
        Check::DomainBinding,
    ),
    bad("R28", "certificate expired", Transport::Udp, Token::Flawed(Flaw::Expired), 437, Check::Validity),
    bad("R29", "token two minutes old", Transport::Tcp, Token::Stale, 403, Check::Freshness),
    Case {
        name: "no Identity at all",
        requirement: "",
        transport: Transport::Udp,
        token: Token::Missing,
        status: 428,
        failed: None,
    },
];

/// Why a token could not be made.
#[derive(Debug)]
pub enum TokenError {
    /// The lab issues nothing.
    Lab(LabError),
    /// The key signs nothing.
    Key(KeyRefused),
}

impl std::fmt::Display for TokenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lab(error) => error.fmt(f),
            Self::Key(_) => f.write_str("a key of the lab can not sign"),
        }
    }
}

impl std::error::Error for TokenError {}

impl Case {
    /// The calling number.
    pub fn from(&self) -> &'static str {
        if self.token == Token::NumberNotCovered { NEIGHBOUR } else { ACME }
    }

    /// The called number.
    pub fn to(&self) -> &'static str {
        if self.transport == Transport::Tcp { GLOBEX_BY_TCP } else { GLOBEX }
    }

    /// The number that must be proven to have answered: where the caller's edge asks, and the call is answered.
    pub fn answered_by(&self) -> Option<&'static str> {
        (self.token == Token::ByEdge && self.status == 200).then(|| self.to())
    }

    /// The Identity field that the caller adds itself, made at `now` (Unix seconds); `None` when an edge is to add one, or nobody.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn identity(&self, lab: &Lab, now: i64, random: [u8; 16]) -> Result<Option<String>, TokenError> {
        let issued: Credential;
        let credential = match self.token {
            Token::ByEdge | Token::Missing => return Ok(None),
            Token::Shaken => &lab.provider,
            Token::Tampered | Token::NumberNotCovered | Token::Stale => &lab.acme.sti,
            Token::Flawed(flaw) => {
                issued = lab.flawed(flaw, now).map_err(TokenError::Lab)?;
                &issued
            }
        };
        let is_stale = self.token == Token::Stale;
        let draft = Draft {
            credential,
            orig: self.from(),
            dest: self.to(),
            iat: if is_stale { now - STALE } else { now },
            shaken: (self.token == Token::Shaken).then_some(random),
            reason: (self.token == Token::Flawed(Flaw::Constrained)).then_some(OTHER_CALL_REASON),
            is_tampered: self.token == Token::Tampered,
        };
        draft.sign().map(Some).map_err(TokenError::Key)
    }
}

/// Not [`PERMITTED_CALL_REASON`](crate::pki::lab::PERMITTED_CALL_REASON).
const OTHER_CALL_REASON: &str = "Your bank, about your account";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::lab::PERMITTED_CALL_REASON;

    #[test]
    fn the_other_call_reason_is_another() {
        assert_ne!(OTHER_CALL_REASON, PERMITTED_CALL_REASON);
    }

    #[test]
    fn refused_calls_use_both_transports() {
        for transport in [Transport::Udp, Transport::Tcp] {
            assert!(CASES.iter().filter(|case| case.status != 200 && case.transport == transport).count() >= 4);
        }
    }
}
