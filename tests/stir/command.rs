//! `vesperd passport` as a process: sign, decode, verify, exit codes.
use super::support::*;
use rcgen::PublicKeyData as _;
use serde_json::Value;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use vesperd::cert::{LogList, LogState};

struct Files {
    dir: tempfile::TempDir,
}

fn pem(kind: &str, blocks: &[&[u8]]) -> String {
    use base64::Engine as _;
    let block = |der: &&[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
    };
    blocks.iter().map(block).collect()
}

impl Files {
    fn new() -> Self {
        let log = TestLog::new();
        let credential = Credential::issue_from(vesper_params(&numbers()), &[&log], NOW - HOUR);
        let mut logs = LogList::new();
        logs.add("example", log.listed(LogState::Usable(0))).unwrap();
        let files = Self { dir: tempfile::tempdir().unwrap() };
        let chain = credential.chain();
        files.write("chain.pem", &pem("CERTIFICATE", &[&chain[0], &chain[1]]));
        files.write("key.pem", &credential.leaf.key.serialize_pem());
        files.write("logs.json", &logs.to_json());
        std::fs::create_dir(files.dir.path().join("anchors")).unwrap();
        files.write("anchors/root.pem", &pem("CERTIFICATE", &[&credential.hierarchy.root.der]));
        assert_eq!(credential.leaf.key.subject_public_key_info().len(), 91);
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn run(&self, arguments: &str, input: Option<&str>) -> Output {
        run(self.dir.path(), arguments, input)
    }

    fn sign(&self, profile: &str, more: &str) -> String {
        let arguments = format!(
            "sign --cert chain.pem --key key.pem --x5u {X5U} --orig +{CALLER} --dest {CALLEE} --at {NOW} --profile {profile} {more}"
        );
        let output = self.run(&arguments, None);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn run(dir: &Path, arguments: &str, input: Option<&str>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vesperd"))
        .arg("passport")
        .args(arguments.split_whitespace())
        .current_dir(dir)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).unwrap();
    }
    child.wait_with_output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn failed(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().filter(|check| check["ok"] == false).map(|check| check["id"].as_str().unwrap()).collect()
}

#[test]
fn sign_then_verify() {
    let files = Files::new();
    let vesper = format!("verify --profile vesper --anchors anchors --log-list logs.json --at {NOW}");
    let shaken = format!("verify --anchors anchors/root.pem --at {NOW} --cert chain.pem");
    let token = files.sign("vesper", "");
    let output = files.run(&format!("{vesper} --json"), Some(&token));
    assert_eq!(output.status.code(), Some(0));
    let found = report(&output);
    assert_eq!((&found["valid"], &found["code"], failed(&found)), (&true.into(), &Value::Null, vec![]));
    assert_eq!((&found["orig"], &found["domains"][0]), (&CALLER.into(), &HOST.into()));
    let output = files.run(&vesper, Some(&format!("Identity: {token}")));
    assert!(String::from_utf8(output.stdout).unwrap().contains("verdict            valid"));

    let token = files.sign("shaken", "--attest B");
    let bare = token.split(';').next().unwrap();
    for text in [&*token, bare] {
        let found = report(&files.run(&format!("{shaken} --json"), Some(text)));
        assert_eq!((&found["valid"], &found["attest"], &found["ppt"]), (&true.into(), &"B".into(), &"shaken".into()));
    }
    let json: Value = serde_json::from_str(&files.sign("shaken", "--json")).unwrap();
    assert_eq!(json["date"], "Thu, 01 Jan 2026 00:00:00 GMT");
}

#[test]
fn invalid_tokens_have_a_code() {
    let files = Files::new();
    let token = files.sign("vesper", "");
    let at = |unix: i64, more: &str| {
        let arguments = format!("verify --profile vesper --anchors anchors --at {unix} --json {more}");
        let output = files.run(&arguments, Some(&token));
        assert_eq!(output.status.code(), Some(1), "{more}");
        report(&output)
    };
    let found = at(NOW, "");
    assert_eq!((failed(&found), &found["code"]), (vec!["sct"], &437.into()));
    let found = at(NOW + 61, "--log-list logs.json");
    assert_eq!((failed(&found), &found["code"]), (vec!["freshness"], &403.into()));
    let found = at(NOW, "--log-list logs.json --orig +12015550101");
    assert_eq!((failed(&found), &found["code"]), (vec!["claims"], &438.into()));
    let found = at(NOW, "--log-list logs.json --dest sip:bob@b.example");
    assert_eq!((failed(&found), &found["code"]), (vec!["claims"], &438.into()));
    let shaken = files.sign("shaken", "");
    let output = files.run(&format!("verify --anchors anchors --at {NOW} --json"), Some(&shaken));
    let found = report(&output);
    assert_eq!((output.status.code(), &found["code"]), (Some(1), &436.into()), "no chain was given");
    // A stranger's control characters do not reach the terminal.
    let output =
        files.run(&format!("verify --anchors anchors --at {NOW}"), Some("\u{1b}[2J.b.c;info=<https://x.example/>"));
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b));
}

#[test]
fn decode_shows_without_believing() {
    let files = Files::new();
    let token = files.sign("vesper", "");
    let output = files.run("decode --json", Some(&token));
    let shown = report(&output);
    assert_eq!(shown["payload"]["orig"]["tn"], CALLER);
    assert_eq!(shown["header"]["x5u"], X5U);
    assert_eq!(shown["certificates"].as_array().unwrap().len(), 2);
    let text = String::from_utf8(files.run("decode", Some(&token)).stdout).unwrap();
    assert!(text.contains("Example Retail") && text.contains(CALLEE));
    for bad in ["a.b.c", "..abc", "nonsense"] {
        assert_eq!(files.run("decode", Some(bad)).status.code(), Some(1), "{bad}");
    }
}

#[test]
fn usage_and_refusals() {
    let files = Files::new();
    for arguments in [
        "",
        "verify token",
        "verify --anchors missing.pem token",
        "decode --nonsense",
        "sign --cert chain.pem",
        "verify --anchors anchors --log-list key.pem a.b.c",
    ] {
        assert_eq!(files.run(arguments, None).status.code(), Some(2), "{arguments}");
    }
    assert_eq!(files.run("verify --anchors anchors", Some("  \n")).status.code(), Some(2));
    let sign = |more: &str| {
        let arguments = format!("sign --cert chain.pem --key key.pem --dest 1 --at {NOW} {more}");
        files.run(&arguments, None).status.code()
    };
    assert_eq!(sign(&format!("--x5u {X5U} --orig 12015550110")), Some(1), "not our number");
    assert_eq!(sign(&format!("--x5u http://a.example/ --orig {CALLER}")), Some(1));
    let help = String::from_utf8(files.run("--help", None).stdout).unwrap();
    assert!(help.contains("Examples:") && help.contains("Exit codes:"));
}
