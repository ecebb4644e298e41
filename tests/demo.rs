//! The demo, as a user runs it: a child process, real sockets, real certificates.

use std::process::Command;

use serde_json::Value;

fn demo(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vesperd")).arg("demo").args(arguments).output().unwrap();
    let text = |octets| String::from_utf8(octets).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn r21_to_r29_every_call_goes_as_it_must() {
    let (code, stdout, stderr) = demo(&["--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    let expected = [
        (200, None),
        (200, None),
        (200, None),
        (438, Some(("R21", "signature"))),
        (437, Some(("R22", "chain"))),
        (437, Some(("R23", "tn-authorization"))),
        (437, Some(("R24", "sct"))),
        (438, Some(("R25", "constraints"))),
        (438, Some(("R26", "domain-binding"))),
        (437, Some(("R28", "validity"))),
        (403, Some(("R29", "freshness"))),
        (428, None),
    ];
    let calls = report["calls"].as_array().unwrap();
    assert_eq!(calls.len(), expected.len());
    for (call, (status, fault)) in calls.iter().zip(expected) {
        assert_eq!(call["got"]["status"], status, "{call:#}");
        assert_eq!(call["got"]["rang"], status == 200, "{call:#}");
        assert_eq!(call["got"]["hung_up"], status == 200, "{call:#}");
        let failed: Vec<&str> = fault.iter().map(|(_, check)| *check).collect();
        assert_eq!(call["got"]["failed"], serde_json::json!(failed), "{call:#}");
        assert_eq!(call["requirement"].as_str(), fault.map(|(id, _)| id), "{call:#}");
        assert_eq!(call["ok"], true, "{call:#}");
    }
    let answered: Vec<_> = calls.iter().filter_map(|call| call["answered_by"].as_str()).collect();
    assert_eq!(answered, ["12025550100", "12025550110"], "RFC 9970: Acme's edge knows who has answered");
    for transport in ["udp", "tcp"] {
        assert!(calls.iter().any(|call| call["transport"] == transport && call["got"]["status"] == 200));
    }
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)), "{stderr}");
}

#[test]
fn the_lab_is_kept_on_demand_and_nothing_else_is_touched() {
    let directory = tempfile::TempDir::new().unwrap();
    let lab = directory.path().join("lab");
    let (code, stdout, stderr) = demo(&["--keep", lab.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("12 of 12 calls went as they must"), "{stdout}");
    assert!(lab.join("terminating.toml").exists());
    // A second demo would take the first one's lab away.
    let (code, _, stderr) = demo(&["--keep", lab.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is a lab already"), "{stderr}");
}
