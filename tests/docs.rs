//! The documents say what the program does: every configuration key is described, every command is named.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use vesperd::config::Config;
use vesperd::node::admin::Request;
use vesperd::node::clock;
use vesperd::pki::lab::{self, Options};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// First string arguments of the calls that read keys.
fn keys(code: &str) -> BTreeSet<String> {
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let readers = [
        "size(",
        "bool(",
        "number(",
        "string(",
        "strings(",
        "choice(",
        "required(",
        "read(",
        "read_list(",
        "section(",
        "sections(",
        "tables(",
        "read_regex(section, ",
        "read_regex(&section, ",
        "hour(",
        "millis(",
        "time(",
        "seconds(",
        "digits(",
    ];
    let mut keys = BTreeSet::new();
    for reader in readers {
        for (at, _) in code.match_indices(reader) {
            let argument = code[at + reader.len()..].trim_start();
            if let Some(key) = argument.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                keys.insert(key.to_owned());
            }
        }
    }
    keys
}

#[test]
fn every_configuration_key_is_described() {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config")).unwrap() {
        all.extend(keys(&fs::read_to_string(entry.unwrap().path()).unwrap()));
    }
    assert!(all.len() > 60, "the search has lost its keys: {all:?}");
    let document = read("docs/configuration.md");
    let is_described = |key: &String| {
        [format!("`{key}`"), format!("[{key}]"), format!(".{key}]")].iter().any(|form| document.contains(form))
    };
    let missing: Vec<_> = all.iter().filter(|key| !is_described(key)).collect();
    assert!(missing.is_empty(), "not in docs/configuration.md: {missing:?}");
}

#[test]
fn the_readme_names_every_command_and_opens_with_the_two() {
    let readme = read("README.md");
    let help = String::from_utf8(vesperd(&["--help"])).unwrap();
    let listed = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| line.starts_with("  "));
    let commands: Vec<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"bans") && commands.len() >= 10, "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        assert!(readme.contains(&format!("vesperd {command}")), "{command}");
    }
    let (demo, tests) = (readme.find("cargo run --release -- demo").unwrap(), readme.find("./tests/run").unwrap());
    assert!(demo < tests && tests < 1200, "the two commands come first");
}

fn vesperd(arguments: &[&str]) -> Vec<u8> {
    std::process::Command::new(env!("CARGO_BIN_EXE_vesperd")).args(arguments).output().unwrap().stdout
}

/// What the manual says of the admin socket: each example is a request with every field there is, each action of the commands is one.
#[test]
fn the_manual_of_the_admin_socket_names_every_request_and_every_field() {
    let manual = read("docs/operation.md");
    let section = manual.split("## The admin socket").nth(1).unwrap().split("\n## ").next().unwrap();
    let examples: Vec<&str> = section.split('`').filter(|text| text.starts_with("{\"command\"")).collect();
    let mut shown = BTreeSet::new();
    for example in examples {
        let filled = example.replace("\"address\": \"...\"", "\"address\": \"192.0.2.7\"");
        let request: Request = serde_json::from_str(&filled).unwrap_or_else(|error| panic!("{example}: {error}"));
        let value = serde_json::to_value(&request).unwrap();
        shown.insert(value["command"].as_str().unwrap().to_owned());
        let given: serde_json::Value = serde_json::from_str(&filled).unwrap();
        assert_eq!(value, given, "with all of its fields");
    }
    // The variants as their own source names them: a new one can not be left out.
    let source = read("src/node/admin/request.rs");
    let named: BTreeSet<String> =
        source.split("rename = \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    assert!(named.len() >= 9, "{named:?}");
    assert_eq!(shown, named);
    for command in ["calls", "bans", "targets", "cache"] {
        let help = String::from_utf8(vesperd(&[command, "--help"])).unwrap();
        let listed = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| line.starts_with("  "));
        for action in listed.filter_map(|line| line.split_whitespace().next()).filter(|action| *action != "help") {
            assert!(named.contains(&format!("{command} {action}")), "{command} {action}");
            assert!(section.contains(&format!("vesperd {command} {action}")), "{command} {action}");
        }
    }
    // What comes back.
    let fields = |entry: &str| -> BTreeSet<String> {
        let body = source.split(&format!("pub struct {entry} {{")).nth(1).unwrap().split("\n}").next().unwrap();
        let lines = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
        lines.map(|line| line.split(':').next().unwrap().to_owned()).collect()
    };
    for entry in ["CallEntry", "TargetEntry"] {
        for field in fields(entry) {
            assert!(section.contains(&format!("`{field}`")), "{entry} {field}");
        }
    }
}

/// What the README shows is a configuration, with files of the names it uses.
#[test]
fn the_configurations_of_the_readme_load() {
    let directory = tempfile::TempDir::new().unwrap();
    let now = clock::unix();
    lab::create(&directory.path().join("lab"), now, &Options::default()).unwrap();
    fs::create_dir(directory.path().join("anchors")).unwrap();
    let files = [
        ("lab/provider/shaken.pem", "chain.pem"),
        ("lab/provider/shaken.key", "key.pem"),
        ("lab/sti/root.pem", "anchors/root.pem"),
        ("lab/log/log-list.json", "log-list.json"),
    ];
    for (from, to) in files {
        fs::copy(directory.path().join(from), directory.path().join(to)).unwrap();
    }
    let readme = read("README.md");
    let shown: Vec<&str> = readme.split("```toml").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    // The others leave out what they share with the first.
    let listener = "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"127.0.0.1:5060\"\n";
    let east = "[[trunk]]\nname = \"east\"\npeers = [\"203.0.113.5\"]\n";
    let over_tcp = listener.replace("udp", "tcp");
    let [signing, verifying, relaying] = shown[..] else {
        panic!("three configurations are shown, not {}", shown.len())
    };
    for text in [signing.to_owned(), format!("{listener}{verifying}"), format!("{over_tcp}{east}{relaying}")] {
        if let Err(mistakes) = Config::parse(&text, &directory.path().join("edge.toml"), now) {
            panic!("{mistakes}");
        }
    }
}

#[test]
fn what_the_conformance_table_names_exists_and_every_case_is_in_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let mut named = std::collections::BTreeSet::new();
    for row in table.lines().filter(|row| row.contains("| passes")) {
        let by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for part in by.split("; ") {
            match part.strip_prefix("case ") {
                Some(cases) => named.extend(cases.split(", ").map(str::to_owned)),
                None => {
                    let (file, test) = part.split_once(' ').unwrap_or_else(|| panic!("{row}"));
                    let source = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
                    assert!(source.contains(&format!("fn {test}(")), "{file} has no {test}");
                }
            }
        }
    }
    let files = fs::read_dir(root.join("sipp-scenarios/cases")).unwrap();
    let cases: std::collections::BTreeSet<String> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(named, cases);
}

/// Every requirement has a row, every row a test that exists or a reason.
#[test]
fn what_the_stir_conformance_table_names_exists_and_no_requirement_is_missing() {
    let table = read("docs/stir-conformance.md");
    let mut named = BTreeSet::new();
    for row in table.lines().filter(|row| row.starts_with("| ") && !row.starts_with("| id ")) {
        let [ids, _, result, by] = row.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>()[..] else {
            panic!("not four cells: {row}")
        };
        named.extend(ids.split(", ").map(str::to_owned));
        match result {
            "passes" => {
                for part in by.split("; ") {
                    let (file, test) = part.split_once(' ').unwrap_or_else(|| panic!("{row}"));
                    assert!(read(file).contains(&format!("fn {test}(")), "{file} has no {test}");
                }
            }
            "left out" | "open" => assert!(by.len() > 20, "no reason: {row}"),
            other => panic!("{other}: {row}"),
        }
    }
    let families = [
        ("P", 1..=23),
        ("I", 1..=10),
        ("I", 20..=32),
        ("S", 1..=6),
        ("D", 1..=19),
        ("R", 1..=9),
        ("C", 1..=16),
        ("T", 1..=6),
        ("M", 1..=8),
        ("N", 1..=26),
        ("E", 1..=12),
    ];
    for (family, numbers) in families {
        for number in numbers {
            assert!(named.contains(&format!("{family}-{number}")), "{family}-{number} has no row");
        }
    }
}

#[test]
fn what_the_table_of_certificates_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = read("docs/stir-conformance-certificates.md");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| id "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() > 90, "{} rows", rows.len());
    for row in rows {
        let [id, _, result, by] = row[..] else { panic!("{row:?}") };
        assert_eq!(result.starts_with("passes"), !by.is_empty(), "{id}: what passes is shown by a test");
        for named in by.split("; ").filter(|named| !named.is_empty()) {
            let (file, test) = named.split_once(' ').unwrap_or_else(|| panic!("{id}: {named}"));
            let source = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{id}: {file}: {e}"));
            assert!(source.contains(&format!("fn {test}(")), "{id}: {file} has no {test}");
        }
    }
    for (letter, last) in [('R', 37), ('B', 7)] {
        let has = |number: usize| {
            table.lines().filter_map(|line| line.strip_prefix("| ")).any(|line| {
                let ids = line.split('|').next().unwrap_or_default().split(", ").map(str::trim);
                ids.into_iter().any(|id| {
                    let numbers: Vec<usize> =
                        id.split(" to ").filter_map(|id| id.trim().strip_prefix(letter)?.parse().ok()).collect();
                    matches!(numbers[..], [one] if one == number)
                        || matches!(numbers[..], [from, to] if (from..=to).contains(&number))
                })
            })
        };
        assert!((1..=last).all(has), "{letter}1 to {letter}{last} are all there");
    }
}
