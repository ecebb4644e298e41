//! Resource-Priority (RFC 4412) and what `ppt=rph` tokens prove of it (RFC 8443, RFC 9027).
use super::{Failure, Verdict};
use crate::passport::ppt::rph::{PSAP_CALLBACK, PriorityClaims};
use crate::sip::{Message, Name, Patch};

/// The r-values of the request that a token speaks for. A value of another authority is left to that one's token.
pub(super) fn proven(request: Message<'_>, claims: &PriorityClaims<'_>) -> Result<Vec<Box<str>>, Failure> {
    let names = |value: &[u8]| {
        let found = claims.authorized.iter().find(|own| own.as_bytes().eq_ignore_ascii_case(value))?;
        Some(Box::from(*found))
    };
    let mut proven: Vec<Box<str>> = Vec::new();
    for value in request.values(Name::ResourcePriority).filter_map(|value| names(value.value)) {
        if !proven.contains(&value) {
            proven.push(value);
        }
    }
    // a call back says so in Priority too.
    if proven.is_empty() || (claims.callback && !is_callback(request)) {
        return Err(Failure::PriorityMismatch);
    }
    Ok(proven)
}

/// Priority says so (RFC 7090).
pub(super) fn is_callback(request: Message<'_>) -> bool {
    let mut fields = request.fields().filter(|field| field.raw_name().eq_ignore_ascii_case(b"Priority"));
    fields.any(|field| field.value().eq_ignore_ascii_case(PSAP_CALLBACK.as_bytes()))
}

/// Takes out of Resource-Priority what no valid token speaks for: the call goes on as an ordinary one. Gives the number of values
/// taken out.
pub fn strip_unproven(request: Message<'_>, verdict: &Verdict, patch: &mut Patch) -> usize {
    let keeps = |value: &[u8]| verdict.is_priority_proven(value);
    super::reason::remove_values(request, Name::ResourcePriority, |value| !keeps(value), patch)
}
