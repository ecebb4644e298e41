//! Every case: one call record per INVITE that got a final response, with that response (sipp-conformance 1.3), and a call whose BYE was
//! answered is over.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::case::Case;
use super::judge::Traces;
use super::message::Seen;

/// What was seen of one Call-ID.
#[derive(Default)]
struct Seeing {
    /// Final statuses of initial INVITEs, one for each.
    finals: Vec<u64>,
    /// Initial INVITEs without one.
    open: usize,
    hung_up: bool,
}

/// Findings; empty when all is as it should be. Parties without a trace (baresip) must have ended their calls by BYE.
pub fn check(case: &Case, file: &Path, traces: &Traces) -> Vec<String> {
    let has_unseen = !case.baresip.is_empty();
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut calls: BTreeMap<String, Seeing> = BTreeMap::new();
    for trace in traces.values() {
        look_at(trace, &mut calls);
    }
    let mut findings = Vec::new();
    let mut records: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in text.lines() {
        match serde_json::from_str::<Value>(line) {
            Ok(record) => {
                let id = record["call_id"].as_str().unwrap_or_default().to_owned();
                records.entry(id).or_default().push(record);
            }
            Err(error) => findings.push(format!("a call record is no JSON: {error}: {line}")),
        }
    }
    for wanted in &case.records {
        let wanted = serde_json::to_value(wanted).expect("TOML is JSON");
        let has =
            |record: &Value| wanted.as_object().is_some_and(|all| all.iter().all(|(key, value)| record[key] == *value));
        if !records.values().flatten().any(has) {
            findings.push(format!("no call record has {wanted}: {records:?}"));
        }
    }
    for (id, seen) in &calls {
        let of_call = records.remove(id).unwrap_or_default();
        findings.extend(compare(id, seen, &of_call));
    }
    for (id, unseen) in records {
        let is_good =
            |record: &Value| record["status"] == 200 && ["caller", "callee"].iter().any(|by| record["ended_by"] == *by);
        if !has_unseen || unseen.len() != 1 || !unseen.iter().all(is_good) {
            findings.push(format!("call records of a call that nobody made: {id}: {unseen:?}"));
        }
    }
    findings
}

fn look_at(trace: &[Seen], calls: &mut BTreeMap<String, Seeing>) {
    let branch = |seen: &Seen| {
        let via = seen.elements("Via").into_iter().next().unwrap_or_default();
        via.split(';').find_map(|part| part.trim().strip_prefix("branch=").map(str::to_owned)).unwrap_or_default()
    };
    let mut known = Vec::new();
    for (at, seen) in trace.iter().enumerate().filter(|(_, seen)| seen.sent && seen.status().is_none()) {
        let (id, branch_sent) = (seen.call_id(), branch(seen));
        let answers = |method: &str| {
            let answer = |m: &&Seen| {
                !m.sent && m.status().is_some_and(|s| s >= 200) && m.method() == method && m.call_id() == id
            };
            let is_of_it = |m: &&Seen| branch(m) == branch_sent;
            trace.iter().skip(at).filter(answer).find(is_of_it).and_then(|m| m.status())
        };
        let has_to_tag = seen.value("To").is_some_and(|to| to.contains(";tag="));
        match seen.method().as_str() {
            "INVITE" if !has_to_tag && !known.contains(&(id.clone(), branch_sent.clone())) => {
                known.push((id.clone(), branch_sent.clone()));
                let call = calls.entry(id.clone()).or_default();
                match answers("INVITE") {
                    Some(status) => call.finals.push(status.into()),
                    None => call.open += 1,
                }
            }
            "BYE" if answers("BYE").is_some_and(|status| status < 300) => {
                calls.entry(id.clone()).or_default().hung_up = true;
            }
            _ => {}
        }
    }
}

fn compare(id: &str, seen: &Seeing, records: &[Value]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut statuses: Vec<u64> = records.iter().filter_map(|record| record["status"].as_u64()).collect();
    for status in &seen.finals {
        match statuses.iter().position(|told| told == status) {
            Some(place) => drop(statuses.swap_remove(place)),
            None => findings.push(format!("no call record says {status} of {id}: {records:?}")),
        }
    }
    if statuses.len() > seen.open {
        findings.push(format!("call records too many of {id}: {statuses:?}"));
    }
    let stands = |record: &&Value| {
        record["status"].as_u64().is_some_and(|status| status / 100 == 2)
            && !["caller", "callee", "admin"].contains(&record["ended_by"].as_str().unwrap_or_default())
    };
    if seen.hung_up && records.iter().any(|record| stands(&record)) {
        findings.push(format!("a BYE was answered, but the record of {id} knows no end: {records:?}"));
    }
    findings
}
