//! jCard (RFC 7095) as far as rich call data asks: its shape, and the content it refers to.
use serde_json::Value;

/// Whether a value is a jCard: `["vcard", [property, ...]]` with `version` once, `fn` at least once, `n` and `uid` at most once
/// (RFC 9796 sections 10.4.1 and 10.9.6).
pub fn is_jcard(card: &Value) -> bool {
    let Some(properties) = properties(card) else { return false };
    let count = |name: &str| properties.iter().filter(|property| is_named(property, name)).count();
    properties.iter().all(is_property)
        && count("version") == 1
        && count("fn") >= 1
        && count("n") <= 1
        && count("uid") <= 1
}

fn properties(card: &Value) -> Option<&Vec<Value>> {
    match card.as_array().map(Vec::as_slice) {
        Some([kind, properties]) if kind.as_str() == Some("vcard") => properties.as_array(),
        _ => None,
    }
}

/// `[name, {parameters}, type, value, ...]` (RFC 7095 section 3.3).
fn is_property(property: &Value) -> bool {
    match property.as_array().map(Vec::as_slice) {
        Some([name, parameters, kind, _, ..]) => name.is_string() && parameters.is_object() && kind.is_string(),
        _ => false,
    }
}

fn is_named(property: &Value, name: &str) -> bool {
    property.get(0).and_then(Value::as_str).is_some_and(|own| own.eq_ignore_ascii_case(name))
}

/// What a jCard refers to over the network: JSON pointer from the card on (`/1/3/3`) and URI. A `url` is not among them: it is only
/// ever shown (RFC 9796 section 10.9.5). Nor is what nothing is fetched from, as a `tel` URI.
pub fn references(card: &Value) -> impl Iterator<Item = (String, &str)> {
    let numbered = properties(card).into_iter().flatten().enumerate();
    let with_content = numbered.filter(|(_, property)| !is_named(property, "url"));
    with_content.flat_map(|(at, property)| {
        let values = property.as_array().into_iter().flatten().enumerate().skip(3);
        values.filter_map(move |(place, value)| {
            let uri = value.as_str().filter(|uri| is_fetched(uri))?;
            Some((format!("/1/{at}/{place}"), uri))
        })
    })
}

fn is_fetched(uri: &str) -> bool {
    let starts = |scheme: &str| uri.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    starts("https:") || starts("http:") || starts("cid:") || starts("ftp:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn c6_references_of_a_card() {
        let card = json!([
            "vcard",
            [
                ["version", {}, "text", "4.0"],
                ["fn", {}, "text", "Q Branch"],
                ["url", {}, "uri", "https://example.com/"],
                ["photo", {}, "uri", "https://example.com/q.png"],
                ["tel", {}, "uri", "tel:+12155551212"],
                ["logo", {}, "uri", "data:image/png;base64,AA==", "HTTP://example.com/l.png"],
            ]
        ]);
        assert!(is_jcard(&card));
        let found: Vec<_> = references(&card).collect();
        let expected = [("/1/3/3", "https://example.com/q.png"), ("/1/5/4", "HTTP://example.com/l.png")];
        assert_eq!(found, expected.map(|(pointer, uri)| (pointer.to_owned(), uri)));
    }

    #[test]
    fn what_is_no_card() {
        let version = json!(["version", {}, "text", "4.0"]);
        let name = json!(["fn", {}, "text", "Q"]);
        assert!(is_jcard(&json!(["vcard", [version, name]])));
        for bad in [
            json!(null),
            json!({"fn": "Q"}),
            json!(["vcard"]),
            json!(["vcard", {}]),
            json!(["card", [version, name]]),
            json!(["vcard", [version, name], 1]),
            json!(["vcard", [name]]),
            json!(["vcard", [version]]),
            json!(["vcard", [version, version, name]]),
            json!(["vcard", [version, name, ["n", {}, "text", "a"], ["n", {}, "text", "b"]]]),
            json!(["vcard", [version, name, ["x", {}, "text"]]]),
            json!(["vcard", [version, name, ["x", "", "text", ""]]]),
        ] {
            assert!(!is_jcard(&bad), "{bad}");
            assert_eq!(references(&bad).count(), 0);
        }
    }
}
