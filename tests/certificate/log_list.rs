//! The log list in the layout of the public list, version 3.

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PublicKeyData};
use serde_json::{Value, json};
use vesperd::cert::{LogList, LogListError, LogState, sct::sha256};

fn entry(spki: &[u8], state: &Value) -> Value {
    json!({
        "description": "Example log",
        "log_id": STANDARD.encode(sha256(spki)),
        "key": STANDARD.encode(spki),
        "url": "https://log.example/stict/v1",
        "mmd": 86400,
        "state": state,
        "temporal_interval": {"start_inclusive": "2026-01-01T00:00:00Z", "end_exclusive": "2027-01-01T00:00:00Z"},
    })
}

fn document(logs: &[Value]) -> Vec<u8> {
    json!({"version": "1.2", "operators": [{"name": "Operator", "email": ["x@example"], "logs": logs}]})
        .to_string()
        .into_bytes()
}

fn spki() -> Vec<u8> {
    KeyPair::generate().unwrap().subject_public_key_info()
}

fn usable() -> Value {
    json!({"usable": {"timestamp": "2026-01-01T00:00:00Z"}})
}

#[test]
fn reads_every_state_and_writes_what_it_reads() {
    const AT: u64 = 1_767_225_600_000;
    for (state, expected) in [
        (usable(), LogState::Usable(AT)),
        (json!({"qualified": {"timestamp": "2026-01-01T00:00:00Z"}}), LogState::Qualified(AT)),
        (json!({"pending": {"timestamp": "2026-01-01T00:00:00Z"}}), LogState::Pending(AT)),
        (
            json!({"readonly": {"timestamp": "2026-01-01T00:00:00.250Z", "final_tree_head": {"tree_size": 1}}}),
            LogState::ReadOnly(AT + 250),
        ),
        (json!({"retired": {"timestamp": "2026-01-01T01:00:00+01:00"}}), LogState::Retired(AT)),
        (json!({"rejected": {"timestamp": "2026-01-01T00:00:00Z"}}), LogState::Rejected(AT)),
    ] {
        let spki = spki();
        let list = LogList::from_json(&document(&[entry(&spki, &state)])).unwrap();
        let log = list.get(&sha256(&spki)).unwrap();
        assert_eq!((log.state, log.mmd, log.spki.as_slice()), (expected, 86_400, spki.as_slice()));
        assert_eq!(log.url.as_deref(), Some("https://log.example/stict/v1"));
        let again = LogList::from_json(list.to_json().as_bytes()).unwrap();
        assert_eq!(again.to_json(), list.to_json());
        assert_eq!(again.get(&log.id).unwrap().state, expected);
    }
}

#[test]
fn names_the_guilty_log() {
    let fault = |logs: &[Value]| LogList::from_json(&document(logs)).unwrap_err();
    let mut changed = entry(&spki(), &usable());
    changed["log_id"] = json!(STANDARD.encode([0; 32]));
    assert!(matches!(fault(&[changed.clone()]), LogListError::LogId { log } if log == "Example log"));
    changed["log_id"] = json!("AAAA");
    assert!(matches!(fault(&[changed]), LogListError::Base64 { .. }));

    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().subject_public_key_info();
    assert!(matches!(fault(&[entry(&p384, &usable())]), LogListError::Key { .. }));
    let mut off_curve = spki();
    *off_curve.last_mut().unwrap() ^= 1;
    assert!(matches!(fault(&[entry(&off_curve, &usable())]), LogListError::Key { .. }));

    let same = entry(&spki(), &usable());
    assert!(matches!(fault(&[same.clone(), same]), LogListError::Repeated { .. }));
    let late = json!({"usable": {"timestamp": "yesterday"}});
    assert!(matches!(fault(&[entry(&spki(), &late)]), LogListError::Timestamp { .. }));
    let odd = json!({"excellent": {"timestamp": "2026-01-01T00:00:00Z"}});
    assert!(matches!(fault(&[entry(&spki(), &odd)]), LogListError::Json(_)));
    assert!(matches!(LogList::from_json(b"[]"), Err(LogListError::Json(_))));
}

#[test]
fn tiled_logs_are_logs() {
    let spki = spki();
    let mut log = entry(&spki, &usable());
    log.as_object_mut().unwrap().remove("url");
    let json = json!({"operators": [{"name": "Operator", "tiled_logs": [log]}]}).to_string();
    let list = LogList::from_json(json.as_bytes()).unwrap();
    assert_eq!((list.len(), list.iter().count()), (1, 1));
    assert!(list.get(&sha256(&spki)).unwrap().url.is_none());
}
