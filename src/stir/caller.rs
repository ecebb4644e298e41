//! Whether a request names its caller at all: for what a policy says of those who are nobody.
use super::{Callers, IdentitySource, Policy};
use crate::passport::{CanonicalIdentity, DialPlan};
use crate::sip::{Message, Name, NameAddr, Uri};

/// How a request names its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Caller {
    /// By a number or URI.
    #[default]
    Named,
    /// Not at all, by wish (RFC 3323 4.1.1.3).
    Anonymous,
    /// Not at all, for want of knowledge.
    Unknown,
}

impl Caller {
    /// From, or by policy P-Asserted-Identity: who is asserted is known, whatever From says. Looked at only when the policy makes a
    /// difference.
    pub(super) fn of(request: Message<'_>, policy: &Policy, plan: &DialPlan) -> Self {
        if [policy.anonymous, policy.unknown] == [Callers::Judge; 2] {
            return Self::Named;
        }
        let is_asserted = policy.identity_source == IdentitySource::AssertedThenFrom
            && request.values(Name::PAssertedIdentity).take(2).any(|value| {
                NameAddr::parse(value.value).is_ok_and(|asserted| Self::of_uri(asserted.uri, plan) == Self::Named)
            });
        if is_asserted {
            return Self::Named;
        }
        request.from().map_or(Self::Unknown, |from| Self::of_uri(from.uri, plan))
    }

    fn of_uri(uri: &[u8], plan: &DialPlan) -> Self {
        if let Ok(read) = Uri::parse(uri) {
            let is_host = |name: &str| read.host_bytes.eq_ignore_ascii_case(name.as_bytes());
            let user = read.user.unwrap_or_default().split(|octet| *octet == b';').next().unwrap_or_default();
            let is_user = |name: &str| user.eq_ignore_ascii_case(name.as_bytes());
            if is_host("anonymous.invalid") || is_user("anonymous") {
                return Self::Anonymous;
            }
            if is_host("unknown.invalid") || is_user("unavailable") || is_user("unknown") {
                return Self::Unknown;
            }
        }
        if CanonicalIdentity::from_uri(uri, plan).is_some() { Self::Named } else { Self::Unknown }
    }

    /// What the policy says of such a caller.
    pub(super) fn treatment(self, policy: &Policy) -> Callers {
        match self {
            Self::Named => Callers::Judge,
            Self::Anonymous => policy.anonymous,
            Self::Unknown => policy.unknown,
        }
    }
}
