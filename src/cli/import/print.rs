//! Pieces of TOML.

/// A basic string.
pub fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A key: bare where it can be.
pub fn key(text: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !text.is_empty() && text.chars().all(is_bare) { text.to_owned() } else { string(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for text in ["", "plain", "a b", "\"quoted\\\"", "tab\tbell\u{7}del\u{7f}", "ümlaut"] {
            let table: toml::Table = format!("{} = {}", key(text), string(text)).parse().unwrap();
            assert_eq!(table.get(text).and_then(toml::Value::as_str), Some(text));
        }
    }
}
