//! The map of `src/lib.rs`, enforced: which room may use which, and where clocks, sockets, files, tasks and randomness may be touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module with the modules it may name. `node`, `config` and `cli` stand on top and may use all.
const TABLE: &[(&str, &[&str])] = &[
    ("sip", &[]),
    ("passport", &[]),
    ("cert", &[]),
    ("transaction", &["sip"]),
    ("stir", &["sip", "passport", "cert"]),
    ("proxy", &["sip", "passport", "transaction", "stir"]),
    ("transport", &["sip"]),
    ("pki", &["passport", "cert"]),
];
const TOP: &[&str] = &["node", "config", "cli"];

/// Floors 1 and 2: no clock, socket, file, thread, task, randomness or log.
const PURE: &[&str] = &["sip", "passport", "cert", "transaction", "stir", "proxy"];
const BANNED_IN_PURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::net::UdpSocket",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::fs",
    "std::thread",
    "tokio",
    "tracing",
    "rand::fill",
    "async fn",
    "println!",
    "eprintln!",
];
/// Floor 1 keeps no lock either.
const FLOOR_ONE: &[&str] = &["sip", "passport", "cert"];
const BANNED_ON_FLOOR_ONE: &[&str] = &["Mutex", "RwLock"];
/// Only `node` and the commands read clocks; only they start threads or tasks.
const BANNED_IN_TRANSPORT_AND_PKI: &[&str] =
    &["Instant::now", "SystemTime::now", "thread::spawn", "tokio::spawn", "spawn_local"];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of a file without comments and without its test module (tests may use what they like).
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let body = text.split("#[cfg(test)]").next().unwrap_or("");
    body.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let dir = src().join(module);
    if dir.is_dir() {
        sources(&dir, &mut out);
    }
    let file = src().join(format!("{module}.rs"));
    if file.exists() {
        out.push(file);
    }
    out
}

/// The crate-level modules that a file names: `crate::x` and the members of `crate::{x, y}`.
fn named(code: &str) -> BTreeSet<String> {
    let ident = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut out = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            out.insert(ident(rest));
            continue;
        };
        let (mut depth, mut member) = (1, String::new());
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && c == ',') {
                out.insert(ident(member.trim()));
                member.clear();
                if depth == 0 {
                    break;
                }
            } else {
                member.push(c);
            }
        }
    }
    out
}

#[test]
fn every_module_is_on_the_map() {
    let lib = fs::read_to_string(src().join("lib.rs")).unwrap();
    let declared: BTreeSet<&str> = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mapped: BTreeSet<&str> = TABLE.iter().map(|(m, _)| *m).chain(TOP.iter().copied()).collect();
    assert_eq!(declared, mapped, "src/lib.rs and the table of this test must name the same modules");
}

#[test]
fn arrows_go_down_only() {
    let mut wrong = Vec::new();
    for (module, allowed) in TABLE {
        let files = files_of(module);
        assert!(!files.is_empty(), "module {module} has no source");
        for file in files {
            for used in named(&code(&file)) {
                let known = TABLE.iter().any(|(m, _)| *m == used) || TOP.contains(&used.as_str());
                if known && used != *module && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{}: {module} uses {used}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_outside_is_touched_only_where_the_map_says() {
    let mut wrong = Vec::new();
    let mut check = |modules: &[&str], banned: &[&str]| {
        for module in modules {
            for file in files_of(module) {
                let code = code(&file);
                for word in banned.iter().filter(|w| code.contains(**w)) {
                    wrong.push(format!("{}: {word}", file.display()));
                }
            }
        }
    };
    check(PURE, BANNED_IN_PURE);
    check(FLOOR_ONE, BANNED_ON_FLOOR_ONE);
    check(&["transport", "pki"], BANNED_IN_TRANSPORT_AND_PKI);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_only_in_the_batched_system_calls() {
    let mut all = Vec::new();
    sources(&src(), &mut all);
    let with: Vec<_> = all
        .iter()
        .filter(|f| code(f).contains("unsafe {"))
        .map(|f| f.strip_prefix(src()).unwrap().to_owned())
        .collect();
    assert!(with.iter().all(|f| f.starts_with("transport")), "unsafe outside transport: {with:?}");
    assert!(with.len() <= 1, "one small reviewed place: {with:?}");
}

#[test]
fn the_reader_of_use_lines_sees_groups() {
    let found = named("use crate::{sip::{Message, Name}, cert};\nfn f() { crate::proxy::x() }");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["cert", "proxy", "sip"]);
}
