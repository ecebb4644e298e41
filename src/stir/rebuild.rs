//! Compact forms (RFC 8225 section 7): header and claims are made from the request, as the signer made them.
use super::Failure;
use super::call_info::call_reason;
use super::judge::Request;
use super::signalling::{display_names, media_keys};
use crate::passport::claims::Destinations;
use crate::passport::jws::{self, Jws};
use crate::passport::ppt::Ppt;
use crate::passport::{Claims, serialize};
use crate::sip::identity::IdentityValue;
use crate::stir::IdentitySource;
use serde_json::json;

/// The full form of a compact one, from the field, the request and its Date. Baseline tokens have one, and rich call data limited to
/// name and reason (RFC 9795 12.2); others do not (P-19, S-3, D-3, C-15, R-9).
pub(super) fn rebuild<'b>(
    cx: &Request<'_>,
    field: &IdentityValue<'b>,
    signature: &'b [u8],
    out: &'b mut Vec<u8>,
) -> Result<Jws<'b>, Failure> {
    let (caller, callee) = (cx.signalling.caller(), cx.signalling.callee());
    let (Some(caller), Some(callee), Some(date)) = (caller, callee, cx.signalling.date) else {
        return Err(Failure::Compact);
    };
    let info = std::str::from_utf8(field.info).map_err(|_| Failure::Compact)?;
    let ppt = match field.ppt {
        None => Ppt::Baseline,
        Some(b"rcd") => Ppt::Rcd,
        Some(_) => return Err(Failure::Compact),
    };
    let mut claims = Claims::baseline(caller.as_identity(), Destinations::one(callee.as_identity()), date);
    let keys = media_keys(cx.message);
    claims.mky = (!keys.is_empty()).then_some(keys);
    if ppt == Ppt::Rcd {
        let name = display_names(cx.message, IdentitySource::From).next();
        let name = std::str::from_utf8(name.as_deref().unwrap_or_default()).map_err(|_| Failure::Compact)?;
        claims.put("rcd", json!({"nam": name}));
        if let Some(reason) = call_reason(cx.message) {
            claims.put("crn", reason);
        }
    }
    let mut json = Vec::new();
    serialize::write_header::<&[u8]>(ppt.name(), &[], Some(info), &mut json);
    out.clear();
    jws::encode(&json, out);
    let header = out.len();
    json.clear();
    serialize::write_claims(&claims, &mut json);
    out.push(b'.');
    jws::encode(&json, out);
    let (header, payload) = (&out[..header], &out[header + 1..]);
    Ok(Jws { signing_input: out, header, payload, signature })
}
