//! PASSporT extensions, named by `ppt` (RFC 8225 section 8).
//!
//! Each file reads the claims of one extension from a payload and makes those that a signer writes. Whether they are true is for `stir`.
pub mod div;
pub mod jcard;
pub mod msg;
pub mod rcd;
pub mod rph;
pub mod shaken;

use super::{Claims, ClaimsError};

/// The extensions this program understands. An Identity field with another `ppt` is ignored (RFC 8224 6.2 step 1); so is `msec`, a
/// marker for end points (RFC 8862), for which an element between them must not block a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ppt {
    /// No `ppt`: claims of RFC 8225 alone.
    Baseline,
    /// RFC 8588.
    Shaken,
    /// RFC 8946: the call was diverted.
    Div,
    /// RFC 8946 section 5: the same, with the earlier token inside.
    DivO,
    /// RFC 8443 and RFC 9027: the Resource-Priority of the call.
    Rph,
    /// RFC 9795: what to show of the caller.
    Rcd,
    /// RFC 9475: a message.
    Msg,
    /// RFC 9970: who was reached, in responses only (N-22).
    Rsp,
}

impl Ppt {
    /// All that have a name.
    pub const NAMED: [Self; 7] = [Self::Shaken, Self::Div, Self::DivO, Self::Rph, Self::Rcd, Self::Msg, Self::Rsp];

    /// By name, case-sensitive; `None` inside when there is no `ppt`, `None` outside when it is not supported.
    pub fn from_name(name: Option<&str>) -> Option<Self> {
        match name {
            None => Some(Self::Baseline),
            Some(name) => Self::NAMED.into_iter().find(|ppt| ppt.name() == Some(name)),
        }
    }

    /// The value of the `ppt` member, if there is to be one.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Baseline => None,
            Self::Shaken => Some("shaken"),
            Self::Div => Some("div"),
            Self::DivO => Some("div-o"),
            Self::Rph => Some("rph"),
            Self::Rcd => Some("rcd"),
            Self::Msg => Some("msg"),
            Self::Rsp => Some("rsp"),
        }
    }

    /// What the extension asks of its claims, apart from what they say.
    ///
    /// # Errors
    /// [`ClaimsError::Missing`] or [`ClaimsError::Malformed`] naming the claim.
    pub fn check(self, claims: &Claims<'_>) -> Result<(), ClaimsError> {
        match self {
            Self::Baseline | Self::Msg | Self::Rsp => Ok(()),
            Self::Shaken => shaken::check(claims).map(drop),
            Self::Div => div::check(claims),
            Self::DivO => div::nested(claims).map(drop),
            Self::Rph => rph::PriorityClaims::read(claims).map(drop),
            Self::Rcd if claims.other("rcd").is_none() && claims.other("crn").is_none() => {
                // C-8
                Err(ClaimsError::Missing("rcd"))
            }
            Self::Rcd => Ok(()),
        }?;
        if self == Self::Msg {
            msg::read(claims)?;
        }
        // C-9: these claims may stand in other tokens too. A diversion copies none (D-7), and what none asks for is not read.
        match self {
            Self::Div | Self::DivO | Self::Rph => Ok(()),
            _ => rcd::RichClaims::read(claims).map(drop),
        }
    }
}
