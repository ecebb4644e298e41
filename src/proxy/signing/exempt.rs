//! Destinations whose calls are not signed: where nobody verifies, or a signature does harm.

use crate::passport::{CanonicalIdentity, DialPlan};
use crate::proxy::admission::priority::Priority;
use crate::sip::Message;

/// Kinds of destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// Emergency calls: `urn:service:sos`, the emergency numbers.
    Emergency,
    /// Numbers of another country than this one.
    International {
        /// Our country code.
        country_code: String,
    },
    /// Numbers that begin so, without plus sign.
    Prefix(String),
}

/// Whether a request that leaves for this URI is for one of these destinations.
pub fn is_exempt(
    exempt: &[Exempt],
    request: Message<'_>,
    uri: &[u8],
    plan: &DialPlan,
    emergency_numbers: &[String],
) -> bool {
    if exempt.is_empty() {
        return false;
    }
    let called = CanonicalIdentity::from_uri(uri, plan);
    let number = match &called {
        Some(CanonicalIdentity::Tn(number)) => Some(&**number),
        _ => None,
    };
    exempt.iter().any(|exempt| match exempt {
        // Resource-Priority makes no call of anybody's an emergency call here.
        Exempt::Emergency => Priority::of(request, emergency_numbers, false) == Priority::Emergency,
        Exempt::International { country_code } => number.is_some_and(|number| !number.starts_with(&**country_code)),
        Exempt::Prefix(prefix) => number.is_some_and(|number| number.starts_with(&**prefix)),
    })
}
