//! The commands as a shell sees them: arguments, standard input, exit codes, JSON.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn vesperd(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vesperd"))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn lab() -> TempDir {
    let directory = TempDir::new().unwrap();
    let made = vesperd(directory.path(), &["lab", "init", "lab"], "");
    assert_eq!(made.status.code(), Some(0), "{}", String::from_utf8_lossy(&made.stderr));
    directory
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

const SIGN: &[&str] = &[
    "passport",
    "sign",
    "--profile",
    "vesper",
    "--cert",
    "lab/acme/sti.pem",
    "--key",
    "lab/acme/sti.key",
    "--x5u",
    "https://acme.example/sti.pem",
    "--orig",
    "12015550100",
    "--dest",
    "12025550100",
];
const VERIFY: &[&str] = &[
    "passport",
    "verify",
    "--profile",
    "vesper",
    "--anchors",
    "lab/sti",
    "--log-list",
    "lab/log/log-list.json",
    "--json",
];

fn verify(directory: &Path, more: &[&str], token: &str) -> (Option<i32>, Value) {
    let arguments: Vec<&str> = VERIFY.iter().chain(more).copied().collect();
    let output = vesperd(directory, &arguments, token);
    let parsed = serde_json::from_slice(&output.stdout);
    (output.status.code(), parsed.unwrap_or_else(|e| panic!("{e}: {output:?}")))
}

fn failed(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().filter(|c| c["ok"] == false).map(|c| c["id"].as_str().unwrap()).collect()
}

#[test]
fn a_token_is_signed_and_verified_with_the_anchors_of_a_directory_that_holds_keys_too() {
    let directory = lab();
    let signed = vesperd(directory.path(), SIGN, "");
    assert_eq!(signed.status.code(), Some(0));
    let value = text(&signed);
    for token in [value.trim(), value.split(';').next().unwrap()] {
        let (code, report) = verify(directory.path(), &[], token);
        assert_eq!((code, &report["valid"], &report["code"]), (Some(0), &Value::Bool(true), &Value::Null), "{report}");
        assert_eq!(failed(&report), [""; 0]);
    }
    let (code, report) = verify(directory.path(), &["--orig", "12015550101", "--dest", "12025550100"], &value);
    assert_eq!((code, failed(&report), &report["code"]), (Some(1), vec!["claims"], &Value::from(438)));
    let (code, report) = verify(directory.path(), &["--at", "1"], &value);
    assert_eq!((code, &report["valid"]), (Some(1), &Value::Bool(false)));
    assert!(failed(&report).contains(&"validity"), "{report}");
}

#[test]
fn what_is_no_token_is_reported_like_any_invalid_one() {
    let directory = lab();
    for input in ["garbage", "a.b.c", "..abc;info=<https://a.example/x>"] {
        let (code, report) = verify(directory.path(), &[], input);
        assert_eq!((code, &report["valid"]), (Some(1), &Value::Bool(false)), "{input:?}: {report}");
        assert!(report["code"].is_u64() && !failed(&report).is_empty(), "{input:?}: {report}");
    }
    let missing = vesperd(directory.path(), &["passport", "verify", "--anchors", "nowhere", "x"], "");
    assert_eq!(missing.status.code(), Some(2));
    assert_eq!(vesperd(directory.path(), &["passport", "verify"], "").status.code(), Some(2));
}

#[test]
fn cert_show_goes_on_after_a_bad_one() {
    let directory = lab();
    std::fs::write(directory.path().join("junk.der"), b"\x30\x03\x02\x01").unwrap();
    let output = vesperd(directory.path(), &["cert", "show", "--json", "junk.der", "lab/acme/sti.pem"], "");
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<Value> = text(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "the junk, the leaf, its issuer");
    assert!(lines[0]["error"].is_string());
    assert_eq!(lines[1]["dns_names"][0], "acme.example");
    assert_eq!(lines[1]["tn_auth_list"][0]["one"], "12015550100");
    assert_eq!(lines[2]["index"], 1);
}

#[test]
fn run_refuses_what_check_config_refuses() {
    let directory = lab();
    let bad = directory.path().join("bad.toml");
    std::fs::write(&bad, "[[listener]]\nname = \"a\"\ntransport = \"sctp\"\nbind = \"127.0.0.1:0\"\nbnid = 1\n")
        .unwrap();
    for command in [&["run", "--config", "bad.toml"][..], &["check-config", "bad.toml"]] {
        let output = vesperd(directory.path(), command, "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("bad.toml:3:") && said.contains("bad.toml:5:") && said.contains("bind"), "{said}");
    }
    assert_eq!(vesperd(directory.path(), &["run", "--config", "absent.toml"], "").status.code(), Some(2));
    let plain = "[[listener]]\nname = \"a\"\ntransport = \"udp\"\nbind = \"127.0.0.1:0\"\n";
    std::fs::write(directory.path().join("plain.toml"), plain).unwrap();
    for (edge, has_lab_key) in [("lab/originating.toml", true), ("lab/terminating.toml", true), ("plain.toml", false)] {
        let checked = vesperd(directory.path(), &["check-config", edge], "");
        let warnings = String::from_utf8(checked.stderr).unwrap();
        assert_eq!(
            (checked.status.code(), warnings.contains("made by `vesperd lab`")),
            (Some(0), has_lab_key),
            "{warnings}"
        );
    }
}

#[test]
fn check_config_shows_what_is_in_force() {
    let directory = TempDir::new().unwrap();
    let file = "# a remark\n[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"127.0.0.1:5060\"\n";
    std::fs::write(directory.path().join("edge.toml"), file).unwrap();
    let run = |variable: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vesperd"));
        command.args(["check-config"]).args(arguments).arg("edge.toml").env(variable, "2");
        command.current_dir(directory.path()).output().unwrap()
    };
    let shown = run("VESPERD__NODE__WORKERS", &["--show"]);
    assert_eq!(shown.status.code(), Some(0), "{}", String::from_utf8_lossy(&shown.stderr));
    let shown: toml::Table = text(&shown).parse().unwrap();
    assert_eq!(shown["node"]["workers"].as_integer(), Some(2));
    assert_eq!(shown["listener"][0]["bind"].as_str(), Some("127.0.0.1:5060"));
    let refused = run("VESPERD__NODE__WROKERS", &["--show"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with("environment variable VESPERD__NODE__WROKERS: "));
}

/// What is printed loads beside a listener, and remarks do not get into it.
#[test]
fn an_imported_list_is_a_configuration() {
    let directory = TempDir::new().unwrap();
    let list = "1 sip:192.0.2.10 8 10 duid=gw1;weight=60\n1 192.0.2.11:5070 0 10 weight=40\n2 sip:gw.example.net\n";
    std::fs::write(directory.path().join("dispatcher.list"), list).unwrap();
    let printed = vesperd(directory.path(), &["import", "dispatcher", "--algorithm", "1=9", "dispatcher.list"], "");
    assert_eq!(printed.status.code(), Some(0), "{}", String::from_utf8_lossy(&printed.stderr));
    assert!(String::from_utf8_lossy(&printed.stderr).contains("dispatcher.list:1: "));
    std::fs::write(directory.path().join("address"), "1 192.0.2.10 32\n2 sbc.example.net\n").unwrap();
    let peers = vesperd(directory.path(), &["import", "address", "address"], "");
    assert_eq!(peers.status.code(), Some(1), "a name is not carried over");
    let listener = "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"127.0.0.1:5060\"\n\n";
    std::fs::write(directory.path().join("edge.toml"), format!("{listener}{}{}", text(&printed), text(&peers)))
        .unwrap();
    let checked = vesperd(directory.path(), &["check-config", "edge.toml"], "");
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(text(&checked).contains("trunks 3"), "{}", text(&checked));
    let nothing = vesperd(directory.path(), &["import", "dispatcher", "no-such-file"], "");
    assert_eq!(nothing.status.code(), Some(2));
}

/// What would keep it from starting, as far as that can be known before.
#[test]
fn check_config_warns_of_directories_that_are_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let listener = "[[listener]]\nname = \"tcp\"\ntransport = \"tcp\"\nbind = \"127.0.0.1:0\"\n";
    let more = "[cdr]\nfile = \"records/calls\"\n[admin]\nsocket = \"run/admin.sock\"\n";
    std::fs::write(directory.path().join("edge.toml"), format!("{listener}{more}")).unwrap();
    let check = || {
        let output = vesperd(directory.path(), &["check-config", "edge.toml"], "");
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = check();
    assert!(said.contains("warning: cdr.file: there is no directory records;"), "{said}");
    assert!(said.contains("warning: admin.socket: there is no directory run;"), "{said}");
    for name in ["records", "run"] {
        std::fs::create_dir(directory.path().join(name)).unwrap();
    }
    assert_eq!(check(), "");
}
