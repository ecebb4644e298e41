//! Messages (RFC 9475): `msgi` is a digest over the body (M-1 to M-8).
use crate::passport::digest::{Hash, LabelledDigest};
use crate::passport::{Claims, ClaimsError};

/// The digest in `msgi`, which is optional (M-2).
///
/// # Errors
/// [`ClaimsError::Malformed`]: another label than sha256, sha384, sha512, or a length that does not fit it (M-4).
pub fn read(claims: &Claims<'_>) -> Result<Option<LabelledDigest>, ClaimsError> {
    let Some(text) = claims.other_text("msgi")? else { return Ok(None) };
    LabelledDigest::parse(text).map(Some).ok_or(ClaimsError::Malformed("msgi"))
}

/// Adds `msgi` over the body as it goes out: all its octets, no encoding undone.
pub fn add(claims: &mut Claims<'_>, body: &[u8]) {
    claims.put("msgi", Hash::Sha256.padded(body));
}
