//! `vesperd cert`: show and lint certificates.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::printable;
use crate::cert::{
    Certificate, ClaimConstraints, ConstraintKind, Sct, TnEntry, certificates_from_pem_or_der,
    lint::{Finding, Level, Profile, lint},
};

const EXAMPLES: &str = "\
Examples:
  vesperd cert show chain.pem
  vesperd cert show --json chain.pem | jq .tn_auth_list
  vesperd cert lint --profile vesper leaf.pem
  cat chain.pem | vesperd cert lint -

Exit codes:
  0  everything could be read (lint: and nothing at level error was found)
  1  something could not be read (lint: or an error was found); the other certificates are still shown
  2  usage";

/// Show and lint STI certificates.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CertCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print what certificates say.
    #[command(after_help = EXAMPLES)]
    Show(Input),
    /// Hold certificates against a profile.
    #[command(after_help = EXAMPLES)]
    Lint {
        #[command(flatten)]
        input: Input,
        /// The profile; `auto` chooses by content.
        #[arg(long, value_enum, default_value_t = ProfileChoice::Auto)]
        profile: ProfileChoice,
    },
}

#[derive(Debug, Args)]
struct Input {
    /// One JSON object per certificate and line.
    #[arg(long)]
    json: bool,
    /// PEM (any number of certificates) or DER; `-` is the standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProfileChoice {
    Auto,
    Shaken,
    Vesper,
}

impl ProfileChoice {
    fn for_certificate(self, certificate: &Certificate) -> Profile {
        match self {
            Self::Auto => Profile::of(certificate),
            Self::Shaken => Profile::Shaken,
            Self::Vesper => Profile::Vesper,
        }
    }
}

impl CertCommand {
    /// Runs the command on the process's standard streams.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let mut out = io::stdout().lock();
        match self.print(&mut out).and_then(|clean| out.flush().map(|()| clean)) {
            Ok(true) => ExitCode::SUCCESS,
            // A closed pipe is the reader's choice; there is nobody left to tell.
            Ok(false) | Err(_) => ExitCode::FAILURE,
        }
    }

    /// Prints every certificate; false when one could not be read, or has an error of lint.
    fn print(&self, out: &mut impl io::Write) -> io::Result<bool> {
        let (input, profile) = match &self.action {
            Action::Show(input) => (input, None),
            Action::Lint { input, profile } => (input, Some(*profile)),
        };
        let mut clean = true;
        for file in &input.files {
            for (index, certificate) in read(file).into_iter().enumerate() {
                let report = Report::new(file, index, certificate, profile);
                clean &= report.is_clean();
                let text = if input.json { report.json() } else { report.text() };
                out.write_all(text.as_bytes())?;
            }
        }
        Ok(clean)
    }
}

/// The certificates of a file, or sentences about why there is none.
fn read(file: &Path) -> Vec<Result<Certificate, String>> {
    let octets = if file == Path::new("-") {
        let mut octets = Vec::new();
        io::stdin().lock().read_to_end(&mut octets).map(|_| octets)
    } else {
        std::fs::read(file)
    };
    match octets {
        Err(error) => vec![Err(error.to_string())],
        Ok(octets) => certificates_from_pem_or_der(&octets)
            .into_iter()
            .map(|der| {
                let der = der.map_err(|error| error.to_string())?;
                Certificate::from_der(&der).map_err(|error| error.to_string())
            })
            .collect(),
    }
}

#[derive(Serialize)]
struct Report {
    file: String,
    index: usize,
    #[serde(flatten)]
    content: Option<Content>,
    /// What could not be read: the certificate, or an extension of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<FindingReport>>,
}

#[derive(Serialize)]
struct Content {
    subject: String,
    issuer: String,
    serial: String,
    not_before: String,
    not_after: String,
    key: String,
    /// Empty without the extension, or when it can not be read, which `error` says.
    tn_auth_list: Vec<EntryReport>,
    dns_names: Vec<String>,
    /// Likewise.
    scts: Vec<SctReport>,
    claim_constraints: Option<ConstraintsReport>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum EntryReport {
    Spc { spc: String },
    Range { start: String, count: u64 },
    One { one: String },
}

#[derive(Serialize)]
struct SctReport {
    log_id: String,
    timestamp: u64,
}

#[derive(Serialize)]
struct ConstraintsReport {
    kind: &'static str,
    must_include: Vec<String>,
    permitted_values: Vec<PermittedReport>,
    must_exclude: Vec<String>,
}

#[derive(Serialize)]
struct PermittedReport {
    claim: String,
    values: Vec<String>,
}

#[derive(Serialize)]
struct FindingReport {
    id: &'static str,
    level: &'static str,
    sentence: String,
}

impl Report {
    fn new(
        file: &Path,
        index: usize,
        certificate: Result<Certificate, String>,
        profile: Option<ProfileChoice>,
    ) -> Self {
        let mut report =
            Self { file: file.display().to_string(), index, content: None, error: None, profile: None, findings: None };
        match certificate {
            Err(error) => report.error = Some(error),
            Ok(certificate) => {
                report.error = extension_error(&certificate);
                if let Some(choice) = profile {
                    let profile = choice.for_certificate(&certificate);
                    report.profile = Some(profile.as_str());
                    report.findings = Some(lint(&certificate, profile).into_iter().map(FindingReport::from).collect());
                }
                report.content = Some(Content::of(&certificate));
            }
        }
        report
    }

    fn is_clean(&self) -> bool {
        let errors =
            |findings: &Vec<FindingReport>| findings.iter().any(|finding| finding.level == Level::Error.as_str());
        self.error.is_none() && !self.findings.as_ref().is_some_and(errors)
    }

    fn json(&self) -> String {
        // Strings, numbers and lists of them: nothing that could fail to serialize.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    fn text(&self) -> String {
        let mut text = format!("{} [{}]\n", self.file, self.index);
        let mut line = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<18} {}", printable(value));
        };
        if let Some(content) = &self.content {
            content.lines(&mut line);
        }
        if let Some(error) = &self.error {
            line("ERROR", error);
        }
        if let (Some(profile), Some(findings)) = (self.profile, &self.findings) {
            line("profile", profile);
            if findings.is_empty() {
                line("lint", "clean");
            }
            for finding in findings {
                line(finding.level, &format!("{}: {}", finding.id, finding.sentence));
            }
        }
        text
    }
}

impl Content {
    fn of(certificate: &Certificate) -> Self {
        let list = certificate.tn_auth_list().and_then(Result::ok);
        let scts = certificate.scts().and_then(Result::ok);
        Self {
            subject: certificate.subject(),
            issuer: certificate.issuer(),
            serial: certificate.serial_hex(),
            not_before: date(certificate.not_before()),
            not_after: date(certificate.not_after()),
            key: certificate.key_description(),
            tn_auth_list: list.map(|list| list.entries().iter().map(EntryReport::from).collect()).unwrap_or_default(),
            dns_names: certificate.dns_names().to_vec(),
            scts: scts.map(|list| list.scts.iter().map(SctReport::from).collect()).unwrap_or_default(),
            claim_constraints: certificate.claim_constraints().and_then(Result::ok).map(ConstraintsReport::from),
        }
    }

    fn lines(&self, line: &mut impl FnMut(&str, &str)) {
        line("subject", &self.subject);
        line("issuer", &self.issuer);
        line("serial", &self.serial);
        line("not before", &self.not_before);
        line("not after", &self.not_after);
        line("key", &self.key);
        for entry in &self.tn_auth_list {
            match entry {
                EntryReport::Spc { spc } => line("SPC", spc),
                EntryReport::Range { start, count } => line("numbers", &format!("{count} from {start}")),
                EntryReport::One { one } => line("number", one),
            }
        }
        for name in &self.dns_names {
            line("dNSName", name);
        }
        for sct in &self.scts {
            line("SCT", &format!("log {} at {} ms", sct.log_id, sct.timestamp));
        }
        if let Some(constraints) = &self.claim_constraints {
            line("claim constraints", constraints.kind);
            for name in &constraints.must_include {
                line("  must include", name);
            }
            for entry in &constraints.permitted_values {
                line("  permitted", &format!("{} = {}", entry.claim, entry.values.join(" | ")));
            }
            for name in &constraints.must_exclude {
                line("  must exclude", name);
            }
        }
    }
}

impl From<&Sct> for SctReport {
    fn from(sct: &Sct) -> Self {
        Self { log_id: crate::cert::hex(&sct.log_id), timestamp: sct.timestamp }
    }
}

impl From<&TnEntry> for EntryReport {
    fn from(entry: &TnEntry) -> Self {
        match entry.clone() {
            TnEntry::Spc(spc) => Self::Spc { spc },
            TnEntry::Range { start, count } => Self::Range { start, count },
            TnEntry::One(one) => Self::One { one },
        }
    }
}

impl From<&ClaimConstraints> for ConstraintsReport {
    fn from(constraints: &ClaimConstraints) -> Self {
        Self {
            kind: match constraints.kind() {
                ConstraintKind::Basic => "JWTClaimConstraints",
                ConstraintKind::Enhanced => "EnhancedJWTClaimConstraints",
            },
            must_include: constraints.must_include().to_vec(),
            permitted_values: constraints
                .permitted()
                .iter()
                .map(|entry| PermittedReport { claim: entry.claim.clone(), values: entry.values.clone() })
                .collect(),
            must_exclude: constraints.must_exclude().to_vec(),
        }
    }
}

impl From<Finding> for FindingReport {
    fn from(finding: Finding) -> Self {
        Self { id: finding.id, level: finding.level.as_str(), sentence: finding.sentence }
    }
}

/// The first extension of the STI kind that is there and cannot be read.
fn extension_error(certificate: &Certificate) -> Option<String> {
    let list = certificate.tn_auth_list().and_then(Result::err).map(ToString::to_string);
    let constraints = || certificate.claim_constraints().and_then(Result::err).map(ToString::to_string);
    let scts = || certificate.scts().and_then(Result::err).map(ToString::to_string);
    list.or_else(constraints).or_else(scts)
}

/// RFC 3339, or the bare number of seconds for a year it cannot name.
fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        command: CertCommand,
    }

    const VECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/certificate/rfc9118-section5.pem");
    const SCT_VECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/certificate/ct-embedded-sct.pem");

    fn run(arguments: &[&str]) -> (bool, String) {
        let cli = Cli::try_parse_from(["cert"].iter().chain(arguments)).unwrap();
        let mut out = Vec::new();
        let clean = cli.command.print(&mut out).unwrap();
        (clean, String::from_utf8(out).unwrap())
    }

    fn objects(text: &str) -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn show_prints_one_object_per_certificate() {
        let (clean, text) = run(&["show", "--json", VECTOR, SCT_VECTOR]);
        assert!(clean);
        let objects = objects(&text);
        assert_eq!(objects.len(), 2);
        assert_eq!(
            objects[0],
            json!({
                "file": VECTOR,
                "index": 0,
                "subject": "C=US, ST=VA, L=Herndon, O=Bogus Example Telecom, OU=VoIP, CN=SHAKEN",
                "issuer": "C=US, CN=BOGUS SHAKEN ROOT",
                "serial": "1fb65ddeb43902cbce9732e7cd41e1ad58434a5b",
                "not_before": "2021-07-15T21:52:15Z",
                "not_after": "2022-07-15T21:52:15Z",
                "key": "P-256",
                "tn_auth_list": [{"spc": "1234"}],
                "dns_names": [],
                "scts": [],
                "claim_constraints": {
                    "kind": "EnhancedJWTClaimConstraints",
                    "must_include": ["confidence"],
                    "permitted_values": [{"claim": "confidence", "values": ["high", "medium"]}],
                    "must_exclude": ["priority"],
                },
            })
        );
        assert_eq!(
            objects[1]["scts"],
            json!([{
                "log_id": "df1c2ec11500945247a96168325ddc5c7959e8f7c6d388fc002e0bbd3f74d764",
                "timestamp": 1_365_181_456_275_u64,
            }])
        );
        assert_eq!((&objects[1]["key"], &objects[1]["tn_auth_list"]), (&json!("RSA-1024"), &json!([])));
    }

    #[test]
    fn goes_on_after_a_bad_one_and_says_so_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mixed.pem");
        let good = std::fs::read_to_string(VECTOR).unwrap();
        let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        std::fs::write(&file, format!("{good}{broken}{good}")).unwrap();
        let (clean, text) = run(&["show", "--json", "/nonexistent", file.to_str().unwrap()]);
        assert!(!clean);
        let objects = objects(&text);
        let with_error: Vec<bool> = objects.iter().map(|object| object.get("error").is_some()).collect();
        assert_eq!(with_error, [true, false, true, false]);
        assert_eq!(objects[2]["index"], 1);
        assert!(objects[2].get("subject").is_none());
    }

    #[test]
    fn lint_adds_findings() {
        let (clean, text) = run(&["lint", "--json", VECTOR]);
        assert!(!clean);
        let object = &objects(&text)[0];
        assert_eq!(object["profile"], "shaken");
        let ids: Vec<&str> =
            object["findings"].as_array().unwrap().iter().map(|finding| finding["id"].as_str().unwrap()).collect();
        assert!(ids.contains(&"shaken_certificate_policies") && !ids.contains(&"vesper_scts"));
        let (_, text) = run(&["lint", "--profile", "vesper", VECTOR]);
        assert!(text.contains("vesper_scts: no embedded SCT (R10)"), "{text}");
    }

    #[test]
    fn usage_is_refused_by_the_parser() {
        assert_eq!(Cli::try_parse_from(["cert", "show"]).err().unwrap().exit_code(), 2);
        assert_eq!(Cli::try_parse_from(["cert", "lint", "--profile", "x", "y"]).err().unwrap().exit_code(), 2);
    }
}
