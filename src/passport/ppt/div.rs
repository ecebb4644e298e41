//! Diversion (RFC 8946): `div` names the previous destination, `opt` holds the earlier token (D-1 to D-19).
use crate::passport::claims::Destinations;
use crate::passport::{Claims, ClaimsError, Identity};

/// What `ppt=div` asks: `div` is there (D-1), `opt` is not (D-9).
///
/// # Errors
/// [`ClaimsError::Missing`], [`ClaimsError::Malformed`].
pub fn check(claims: &Claims<'_>) -> Result<(), ClaimsError> {
    claims.div.as_ref().ok_or(ClaimsError::Missing("div"))?;
    if claims.other("opt").is_some() { Err(ClaimsError::Malformed("opt")) } else { Ok(()) }
}

/// The token inside a `ppt=div-o` token: `div` and `opt` are there, and `opt` is no compact form (D-17).
///
/// # Errors
/// [`ClaimsError::Missing`], [`ClaimsError::Malformed`].
pub fn nested<'c>(claims: &'c Claims<'_>) -> Result<&'c str, ClaimsError> {
    claims.div.as_ref().ok_or(ClaimsError::Missing("div"))?;
    let token = claims.other_text("opt")?.ok_or(ClaimsError::Missing("opt"))?;
    if token.is_empty() || token.starts_with('.') { Err(ClaimsError::Malformed("opt")) } else { Ok(token) }
}

/// The claims of a `ppt=div` token: `orig` and `iat` of the earlier one (D-5, D-6), nothing else of it (D-7).
pub fn claims<'a>(orig: Identity<'a>, dest: Destinations<'a>, div: Identity<'a>, iat: i64) -> Claims<'a> {
    Claims { div: Some(div), ..Claims::baseline(orig, dest, iat) }
}

/// The claims of a `ppt=div-o` token; `opt` is the earlier token in full form.
pub fn claims_with<'a>(
    orig: Identity<'a>,
    dest: Destinations<'a>,
    div: Identity<'a>,
    iat: i64,
    opt: &str,
) -> Claims<'a> {
    let mut claims = claims(orig, dest, div, iat);
    claims.put("opt", opt);
    claims
}
