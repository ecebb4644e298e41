//! `verstat`: the verdict in one word beside the caller's number (3GPP TS 24.229 7.2A.20, IANA tel URI parameters).
use super::{Overall, Verdict, mark};

/// What the terminating side says of a caller's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verstat {
    /// A token for the number verified.
    Passed,
    /// There are tokens, and none is good.
    Failed,
    /// There was nothing to verify.
    NotDone,
}

impl Verstat {
    /// All.
    pub const ALL: [Self; 3] = [Self::Passed, Self::Failed, Self::NotDone];

    /// Of a verdict. Tokens of unsupported kinds are nothing to verify (I-21); a valid token of a URI says nothing about a number.
    pub fn of(verdict: &Verdict) -> Self {
        match verdict.overall() {
            Overall::Valid { .. } if mark::number(verdict).is_some() => Self::Passed,
            Overall::Invalid => Self::Failed,
            Overall::Valid { .. } | Overall::NoIdentity => Self::NotDone,
        }
    }

    /// The value of the parameter.
    pub fn text(self) -> &'static str {
        match self {
            Self::Passed => "TN-Validation-Passed",
            Self::Failed => "TN-Validation-Failed",
            Self::NotDone => "No-TN-Validation",
        }
    }
}
