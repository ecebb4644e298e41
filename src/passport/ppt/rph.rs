//! Resource priority (RFC 8443) and its use for emergency calls (RFC 9027): `rph` and `sph`.
use crate::passport::{Claims, ClaimsError};
use serde_json::{Value, json};

/// The only value of `sph`.
pub const PSAP_CALLBACK: &str = "psap-callback";

/// What `rph` and `sph` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorityClaims<'c> {
    /// r-values of `auth`, as received: `namespace.priority`.
    pub authorized: Vec<&'c str>,
    /// `sph`, when there is one.
    pub callback: bool,
}

impl<'c> PriorityClaims<'c> {
    /// Reads and checks them. Other members of `rph` than `auth` are left alone: the registry may grow.
    ///
    /// # Errors
    /// [`ClaimsError::Missing`], [`ClaimsError::Malformed`]: no r-values, `esnet` with another priority than 0 to 4 or a caller
    /// who is no number, `sph` with another value or without `esnet` or without a number to call back.
    pub fn read(claims: &'c Claims<'_>) -> Result<Self, ClaimsError> {
        const BAD: ClaimsError = ClaimsError::Malformed("rph");
        let rph = claims.other("rph").ok_or(ClaimsError::Missing("rph"))?;
        let auth = rph.get("auth").and_then(Value::as_array).ok_or(BAD)?;
        let authorized: Vec<&str> = auth.iter().map(|value| value.as_str().ok_or(BAD)).collect::<Result<_, _>>()?;
        if authorized.is_empty() || !authorized.iter().all(|value| is_r_value(value)) {
            return Err(BAD);
        }
        let emergency = authorized.iter().any(|value| namespace(value).eq_ignore_ascii_case("esnet"));
        if emergency && claims.orig.tn().is_none() {
            return Err(ClaimsError::Malformed("orig"));
        }
        let callback = match claims.other_text("sph")? {
            None => false,
            Some(PSAP_CALLBACK) if emergency && !claims.dest.tn.is_empty() => true,
            Some(_) => return Err(ClaimsError::Malformed("sph")),
        };
        Ok(Self { authorized, callback })
    }
}

/// The part before the dot.
pub fn namespace(r_value: &str) -> &str {
    r_value.split_once('.').map_or(r_value, |(namespace, _)| namespace)
}

/// `namespace "." priority`, both tokens without dots (RFC 4412 section 3.1); `esnet` has the priorities 0 to 4 (RFC 7135).
fn is_r_value(text: &str) -> bool {
    let is_token = |text: &str| {
        let token = |octet: u8| octet.is_ascii_alphanumeric() || b"-!%*_+`'~".contains(&octet);
        !text.is_empty() && text.bytes().all(token)
    };
    let Some((namespace, priority)) = text.split_once('.') else { return false };
    let known = !namespace.eq_ignore_ascii_case("esnet") || matches!(priority, "0" | "1" | "2" | "3" | "4");
    is_token(namespace) && is_token(priority) && known
}

/// Adds `rph`, and `sph` for a call back from an emergency centre.
pub fn add(claims: &mut Claims<'_>, authorized: &[&str], callback: bool) {
    claims.put("rph", json!({"auth": authorized}));
    if callback {
        claims.put("sph", PSAP_CALLBACK);
    }
}
