//! Compact forms (RFC 8225 section 7): header and claims are written from the call, member by member.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::claims::Claims;
use super::json::{Json, quoted};
use super::{Call, Field, Opened, opened};

/// The full form, where the kind has a compact one: baseline tokens, and rich call data of name and reason (RFC 9795 12.2). Without Date
/// there is none.
pub fn rebuild(signature: &str, field: &Field, call: &Call) -> Option<Opened> {
    (!signature.is_empty() && !signature.contains('.')).then_some(())?;
    let mut header = String::from(r#"{"alg":"ES256","#);
    let mut payload = String::from("{");
    match field.ppt.as_deref() {
        None => {}
        Some("rcd") => {
            header += r#""ppt":"rcd","#;
            if let Some(reason) = &call.reason {
                payload += &format!(r#""crn":{},"#, quoted(reason));
            }
        }
        Some(_) => return None,
    }
    header += &format!(r#""typ":"passport","x5u":{}}}"#, quoted(&field.info));
    payload += &format!(r#""dest":{{"tn":["{}"]}},"iat":{},"#, call.to, call.date?);
    let keys: Vec<String> =
        call.fingerprints().iter().map(|(alg, dig)| format!(r#"{{"alg":"{alg}","dig":"{dig}"}}"#)).collect();
    if !keys.is_empty() {
        payload += &format!(r#""mky":[{}],"#, keys.join(","));
    }
    payload += &format!(r#""orig":{{"tn":"{}"}}"#, call.asserted.as_ref().unwrap_or(&call.from));
    if field.ppt.is_some() {
        payload += &format!(r#","rcd":{{"nam":{}}}"#, quoted(&call.shown));
    }
    payload.push('}');
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let input = format!("{}.{}", encode(&header), encode(&payload));
    opened(Json::read(header.as_bytes())?, Claims::read(payload.as_bytes())?, input, signature)
}
