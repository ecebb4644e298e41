//! What differs between two configuration files, by key. Values are not shown: a line of a log is no place for them.

use toml::{Table, Value};

/// One line per key that was added, removed or changed; tables of a list are known by their `name`, or else by their place.
pub fn difference(old: &str, new: &str) -> Vec<String> {
    let read = |text: &str| text.parse::<Table>().unwrap_or_default();
    let mut lines = Vec::new();
    compare(&Value::Table(read(old)), &Value::Table(read(new)), "", &mut lines);
    lines
}

fn compare(old: &Value, new: &Value, path: &str, lines: &mut Vec<String>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Value::Table(old), Value::Table(new)) => {
            for (key, value) in old {
                match new.get(key) {
                    Some(other) => compare(value, other, &join(path, key), lines),
                    None => all(value, &join(path, key), "removed", lines),
                }
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                all(value, &join(path, key), "added", lines);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.iter().chain(new).all(Value::is_table) => {
            let name = |position: usize, value: &Value| match value.get("name").and_then(Value::as_str) {
                Some(name) => format!("{path} \"{name}\""),
                None => format!("{path} {}", position + 1),
            };
            let named = |list: &[Value]| -> Vec<(String, Value)> {
                list.iter().enumerate().map(|(i, value)| (name(i, value), value.clone())).collect()
            };
            let (old, new) = (named(old), named(new));
            for (key, value) in &old {
                match new.iter().find(|(other, _)| other == key) {
                    Some((_, other)) => compare(value, other, key, lines),
                    None => lines.push(format!("{key} removed")),
                }
            }
            let added = new.iter().filter(|(key, _)| !old.iter().any(|(other, _)| other == key));
            lines.extend(added.map(|(key, _)| format!("{key} added")));
        }
        _ => lines.push(format!("{path} changed")),
    }
}

/// A whole value that came or went: one line per named table in it, else one.
fn all(value: &Value, path: &str, what: &str, lines: &mut Vec<String>) {
    let empty = match value {
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_table) => Value::Array(Vec::new()),
        _ => return lines.push(format!("{path} {what}")),
    };
    if what == "added" { compare(&empty, value, path, lines) } else { compare(value, &empty, path, lines) }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_told_apart_by_name() {
        let old = "[limits]\nudp_mtu = 1300\nvias = 70\n[[trunk]]\nname = \"a\"\npeers = \"192.0.2.1\"\n[[trunk]]\nname = \"b\"\n[[route]]\nto = \"a\"\n";
        let new = "[limits]\nudp_mtu = 1400\nroutes = 9\n[[trunk]]\nname = \"c\"\n[[trunk]]\nname = \"a\"\npeers = \"192.0.2.2\"\n[[route]]\nto = \"c\"\n[[signer]]\nname = \"s\"\nkey = \"secret\"\n";
        let mut lines = difference(old, new);
        lines.sort();
        assert_eq!(
            lines,
            [
                "limits.routes added",
                "limits.udp_mtu changed",
                "limits.vias removed",
                "route 1.to changed",
                "signer \"s\" added",
                "trunk \"a\".peers changed",
                "trunk \"b\" removed",
                "trunk \"c\" added",
            ]
        );
        assert!(difference(old, old).is_empty());
    }
}
