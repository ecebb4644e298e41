//! What the demo prints: for people, or one JSON object.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::caller::Answer;
use super::cases::Case;
use crate::pki::lab::Addresses;
use crate::stir::{Check, CheckResult, Verdict};

/// What the verifying edge found about the first token of a call; empty when there was none.
#[derive(Debug, Default)]
pub struct Finding {
    /// Each check with its result.
    pub checks: Vec<(Check, CheckResult)>,
    /// Whom the signer's certificate names: organization, then domains.
    pub signer: Option<String>,
    /// The number that is proven to have answered, as the caller's edge found.
    pub answered_by: Option<String>,
}

impl Finding {
    /// Of a verdict.
    pub fn of(verdict: &Verdict) -> Self {
        let Some(token) = verdict.tokens().first() else { return Self::default() };
        let leaf = token.credential.as_ref().and_then(|credential| Some(&credential.chain.as_ref().ok()?.leaf));
        let names = leaf.map(|leaf| {
            let domains = leaf.dns_names().iter().map(String::as_str);
            leaf.subject_organization().into_iter().chain(domains).collect::<Vec<_>>().join(", ")
        });
        let checks = Check::ALL.map(|check| (check, token.checks.get(check))).to_vec();
        Self { checks, signer: names, answered_by: None }
    }
}

/// What came of one call.
pub struct Record {
    /// Which.
    pub case: &'static Case,
    /// The caller's side of it, or what went wrong.
    pub answer: Result<Answer, String>,
    /// The verifying edge's side of it.
    pub finding: Finding,
    /// From the INVITE to the end.
    pub took: Duration,
}

impl Record {
    /// Checks that failed.
    fn failed(&self) -> Vec<Check> {
        self.finding.checks.iter().filter(|(_, result)| result.failure().is_some()).map(|(check, _)| *check).collect()
    }

    /// The call went as it must: status, the one failed check and no other, and a phone that rang only if the call was good.
    pub fn is_as_expected(&self) -> bool {
        let is_good = self.case.status == 200;
        let Ok(answer) = &self.answer else { return false };
        answer.status == self.case.status
            && answer.rang == is_good
            && answer.hung_up == is_good
            && self.failed() == Vec::from_iter(self.case.failed)
            && (!is_good || !self.finding.checks.is_empty())
            && self.finding.answered_by.as_deref() == self.case.answered_by()
    }

    fn millis(&self) -> f64 {
        (self.took.as_secs_f64() * 100_000.0).round() / 100.0
    }

    fn got(&self) -> String {
        match &self.answer {
            Ok(answer) => format!("{} {}", answer.status, answer.phrase),
            Err(error) => error.clone(),
        }
    }

    fn verdict(&self) -> &'static str {
        if self.is_as_expected() { "ok" } else { "WRONG" }
    }

    fn json(&self) -> Value {
        let ids = |checks: &[Check]| checks.iter().map(|check| check.id()).collect::<Vec<_>>();
        let got = match &self.answer {
            Ok(answer) => json!({
                "status": answer.status,
                "phrase": answer.phrase,
                "rang": answer.rang,
                "hung_up": answer.hung_up,
                "failed": ids(&self.failed()),
            }),
            Err(error) => json!({ "error": error }),
        };
        let checks: Map<String, Value> =
            self.finding.checks.iter().map(|(check, result)| (check.id().to_owned(), word(*result).into())).collect();
        json!({
            "name": self.case.name,
            "requirement": Some(self.case.requirement).filter(|id| !id.is_empty()),
            "transport": self.case.transport.via_token().to_lowercase(),
            "expected": { "status": self.case.status, "failed": ids(&Vec::from_iter(self.case.failed)) },
            "got": got,
            "ok": self.is_as_expected(),
            "checks": checks,
            "signer": self.finding.signer,
            "answered_by": self.finding.answered_by,
            "reason": self.finding.checks.iter().find_map(|(_, result)| result.failure()).map(|failure| failure.to_string()),
            "millis": self.millis(),
        })
    }
}

/// The opening: who is where.
pub fn opening(at: &Addresses) -> String {
    format!(
        "Acme calls Globex, through two edges of vesperd on this machine.

  Acme's phone       Acme's edge        Globex's edge      Globex's phone
  {:<18} {:<18} {:<18} {}
  calls         -->  signs         -->  verifies      -->  rings, or never knows
",
        at.caller.to_string(),
        at.originating.to_string(),
        at.terminating.to_string(),
        at.callee
    )
}

/// What is said about a call once it is over.
pub fn passage(number: usize, record: &Record) -> String {
    let mut text = format!("{number:>2}. {}: {}\n", record.case.name, record.got());
    let shown = record.finding.checks.iter().filter(|(_, result)| *result != CheckResult::NotDone);
    if record.case.status == 200 {
        let _ = writeln!(text, "      signed by {}", record.finding.signer.as_deref().unwrap_or("nobody"));
        let list: Vec<String> = shown.map(|(check, result)| format!("{} {}", check.id(), word(*result))).collect();
        for line in list.chunks(4) {
            let _ = writeln!(text, "      {}", line.join(", "));
        }
        if let Some(number) = &record.finding.answered_by {
            let _ = writeln!(text, "      answered by {number}: signed by its holder, verified by Acme's edge");
        }
    } else {
        for (check, failure) in shown.filter_map(|(check, result)| Some((check, result.failure()?))) {
            let _ = writeln!(text, "      {}: {failure}", check.id());
        }
    }
    text
}

/// The summary, and the last word.
pub fn summary(records: &[Record], took: Duration) -> String {
    let name = records.iter().map(|record| record.case.name.len()).max().unwrap_or(0);
    let got = records.iter().map(|record| record.got().len()).max().unwrap_or(0);
    let mut text =
        format!("\n{:<4} {:<name$}  {:<4} {:<8} {:<got$} {:>8}\n", "", "call", "over", "must be", "was", "ms");
    for record in records {
        let Case { name: what, requirement, status, .. } = record.case;
        let over = record.case.transport.via_token();
        let (was, millis, verdict) = (record.got(), record.millis(), record.verdict());
        let _ = writeln!(
            text,
            "{requirement:<4} {what:<name$}  {over:<4} {status:<8} {was:<got$} {millis:>8.1}  {verdict}"
        );
    }
    let good = records.iter().filter(|record| record.is_as_expected()).count();
    let _ = write!(text, "\n{good} of {} calls went as they must, in {:.2} s.", records.len(), took.as_secs_f64());
    text
}

/// Everything as one JSON object.
pub fn json(records: &[Record], took: Duration) -> Value {
    json!({
        "ok": records.iter().all(Record::is_as_expected),
        "millis": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "calls": records.iter().map(Record::json).collect::<Vec<_>>(),
    })
}

fn word(result: CheckResult) -> &'static str {
    match result {
        CheckResult::Passed => "ok",
        CheckResult::Failed(_) => "failed",
        CheckResult::NotApplicable => "not asked",
        CheckResult::NotDone => "not done",
        CheckResult::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::cases::CASES;
    use crate::stir::Failure;

    fn record(case: &'static Case, status: u16, failed: &[Check]) -> Record {
        let is_good = status == 200;
        let result = |check| {
            if failed.contains(&check) { CheckResult::Failed(Failure::Signature) } else { CheckResult::Passed }
        };
        Record {
            case,
            answer: Ok(Answer { status, phrase: String::new(), rang: is_good, hung_up: is_good }),
            finding: Finding {
                checks: Check::ALL.map(|check| (check, result(check))).to_vec(),
                signer: None,
                answered_by: case.answered_by().filter(|_| is_good).map(str::to_owned),
            },
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_call_that_goes_otherwise_is_noticed() {
        let good = &CASES[0];
        assert!(record(good, 200, &[]).is_as_expected());
        assert!(!record(good, 438, &[Check::Signature]).is_as_expected());
        assert!(!record(good, 200, &[Check::Sct]).is_as_expected(), "a failed check that did not stop the call");
        let unverified = Record { finding: Finding::default(), ..record(good, 200, &[]) };
        assert!(!unverified.is_as_expected(), "a good call that nobody verified");
        let mut anonymous = record(good, 200, &[]);
        anonymous.finding.answered_by = None;
        assert!(!anonymous.is_as_expected(), "nobody says who has answered");

        let tampered = CASES.iter().find(|case| case.failed == Some(Check::Signature)).unwrap();
        assert!(record(tampered, 438, &[Check::Signature]).is_as_expected());
        assert!(!record(tampered, 200, &[]).is_as_expected());
        assert!(!record(tampered, 437, &[Check::Signature]).is_as_expected());
        assert!(!record(tampered, 438, &[Check::Signature, Check::Sct]).is_as_expected(), "two faults");
        let mut rang = record(tampered, 438, &[Check::Signature]);
        rang.answer.as_mut().unwrap().rang = true;
        assert!(!rang.is_as_expected(), "the phone rang before the call was refused");
        let silent = Record { answer: Err("no final response in time".to_owned()), ..rang };
        assert!(!silent.is_as_expected());
    }
}
