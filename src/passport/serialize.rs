//! Deterministic serialization (RFC 8225 section 9): no white space, members in code point order, integers only.
//!
//! String escaping, which RFC 8225 leaves open, is minimal: quotation mark, backslash and control characters.
use super::claims::{Claims, Identity, Texts};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::io::Write as _;

/// Appends the payload of `claims`. The arrays of `dest` are written in the order given: a signer sorts them first (P-10).
pub fn write_claims(claims: &Claims<'_>, out: &mut Vec<u8>) {
    if !claims.others.is_empty() {
        return write_value(&Value::Object(claims.to_map()), out);
    }
    out.push(b'{');
    if let Some(attest) = &claims.attest {
        write_member("attest", attest, out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"dest\":{");
    write_texts("tn", &claims.dest.tn, out);
    if !claims.dest.tn.is_empty() && !claims.dest.uri.is_empty() {
        out.push(b',');
    }
    write_texts("uri", &claims.dest.uri, out);
    out.push(b'}');
    if let Some(div) = &claims.div {
        write_identity("div", div, out);
    }
    out.extend_from_slice(b",\"iat\":");
    write_integer(claims.iat, out);
    if let Some(keys) = &claims.mky {
        out.extend_from_slice(b",\"mky\":[");
        for (index, key) in keys.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"{" } else { b",{" });
            write_member("alg", &key.algorithm, out);
            out.push(b',');
            write_member("dig", &key.digest, out);
            out.push(b'}');
        }
        out.push(b']');
    }
    write_identity("orig", &claims.orig, out);
    if let Some(origid) = &claims.origid {
        out.push(b',');
        write_member("origid", origid, out);
    }
    out.push(b'}');
}

/// Appends a protected header for ES256. `x5c` holds DER, leaf first, and is left out when empty.
pub fn write_header<C: AsRef<[u8]>>(ppt: Option<&str>, x5c: &[C], x5u: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"alg\":\"ES256\",");
    if let Some(ppt) = ppt {
        write_member("ppt", ppt, out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"typ\":\"passport\"");
    if !x5c.is_empty() {
        out.extend_from_slice(b",\"x5c\":[");
        for (index, der) in x5c.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
            out.extend_from_slice(STANDARD.encode(der).as_bytes());
            out.push(b'"');
        }
        out.push(b']');
    }
    if let Some(x5u) = x5u {
        out.push(b',');
        write_member("x5u", x5u, out);
    }
    out.push(b'}');
}

/// Appends any JSON value: members sorted by code point at every depth, array order kept.
pub fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        // Writing into a Vec does not fail.
        Value::Number(number) => write!(out, "{number}").unwrap_or_default(),
        Value::String(text) => write_text(text, out),
        Value::Array(elements) => {
            out.push(b'[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(element, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            // The order of UTF-8 octets is the order of code points.
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write_value(member, out);
            }
            out.push(b'}');
        }
    }
}

fn write_texts(name: &str, texts: &Texts<'_>, out: &mut Vec<u8>) {
    for (index, text) in texts.iter().enumerate() {
        if index == 0 {
            write_text(name, out);
            out.extend_from_slice(b":[");
        } else {
            out.push(b',');
        }
        write_text(text, out);
    }
    if !texts.is_empty() {
        out.push(b']');
    }
}

fn write_identity(name: &str, identity: &Identity<'_>, out: &mut Vec<u8>) {
    out.push(b',');
    write_text(name, out);
    out.extend_from_slice(b":{");
    write_member(if identity.tn().is_some() { "tn" } else { "uri" }, identity.text(), out);
    out.push(b'}');
}

fn write_member(name: &str, text: &str, out: &mut Vec<u8>) {
    write_text(name, out);
    out.push(b':');
    write_text(text, out);
}

fn write_integer(number: i64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        // A single decimal digit; 20 of them hold any u64.
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|octet| matches!(octet, b'"' | b'\\' | 0..=0x1f)) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            octet @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', octet]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            octet => write!(out, "\\u{octet:04x}").unwrap_or_default(),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        for number in [0, 7, 10, -1, 1_443_208_345, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            write_integer(number, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), number.to_string());
        }
    }

    #[test]
    fn p14_members_are_sorted_at_every_depth() {
        let value: Value =
            serde_json::from_str(r#"{ "b" : [1, {"d":null,"c":true}], "\u00e9":2, "a":"x\/\"\u0001\u00e9" }"#)
                .expect("valid JSON");
        let mut out = Vec::new();
        write_value(&value, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), r#"{"a":"x/\"\u0001é","b":[1,{"c":true,"d":null}],"é":2}"#);
    }
}
