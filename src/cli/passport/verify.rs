//! `vesperd passport verify`: a token, check by check.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::{
    ProfileName, Stop, bounds, full_form, line, present, printable, read, read_chain, read_field, read_token, request,
    with_request,
};
use crate::cert::{LogList, TrustAnchors, TrustStore};
use crate::config::is_certificate_file;
use crate::passport::ppt::shaken::Attestation;
use crate::passport::{Claims, Identity, ProtectedHeader};
use crate::stir::reason::Code;
use crate::stir::verification::{
    Check, CheckResult, Credential, FetchFailure, FetchedChain, Mode, Outcome, Policy, TokenVerdict, Verdict, Verifier,
    VerifierConfig,
};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Identity header value or bare token; `-` or none is the standard input.
    token: Option<String>,
    /// Trusted roots: a PEM or DER file, or a directory of such files.
    #[arg(long, required = true, value_name = "FILE|DIR")]
    anchors: Vec<PathBuf>,
    /// Trusted transparency logs: a log list, version 3, JSON.
    #[arg(long, value_name = "FILE")]
    log_list: Option<PathBuf>,
    /// The chain that `x5u` names, for a token without `x5c`; nothing is fetched.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Verify as of these UNIX seconds; the present time if absent.
    #[arg(long, value_name = "UNIX", allow_negative_numbers = true)]
    at: Option<i64>,
    /// Caller the token has to name.
    #[arg(long, value_name = "NUMBER|URI")]
    orig: Option<String>,
    /// Callee the token has to name.
    #[arg(long, value_name = "NUMBER|URI")]
    dest: Option<String>,
    /// The demands.
    #[arg(long, value_enum, default_value_t = ProfileName::Shaken)]
    profile: ProfileName,
    /// One JSON object: `valid`, `checks`, `code` and what the token says.
    #[arg(long)]
    json: bool,
}

/// The certificates of a file, or of all files in a directory.
fn read_anchors(paths: &[PathBuf]) -> Result<TrustAnchors, Stop> {
    let mut anchors = TrustAnchors::new();
    for path in paths {
        let usage = |error: &dyn std::fmt::Display| Stop::Usage(format!("{}: {error}", path.display()));
        let files = if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|error| usage(&error))?;
            let mut files: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
            files.retain(|file| is_certificate_file(file)); // keys may lie beside them
            files.sort();
            files
        } else {
            vec![path.clone()]
        };
        for file in files {
            for der in read_chain(&file)? {
                anchors.add_der(&der).map_err(|error| usage(&error))?;
            }
        }
    }
    Ok(anchors)
}

#[derive(Serialize)]
struct Report {
    valid: bool,
    checks: Vec<CheckReport>,
    /// The status of RFC 8224 section 6.2.2 by which a proxy would refuse the call.
    code: Option<u16>,
    phrase: Option<&'static str>,
    ppt: Option<&'static str>,
    orig: Option<String>,
    iat: Option<i64>,
    attest: Option<&'static str>,
    subject: Option<String>,
    domains: Vec<String>,
}

#[derive(Serialize)]
struct CheckReport {
    id: &'static str,
    ok: bool,
    detail: String,
}

impl VerifyArgs {
    /// The report, and whether the token is valid.
    pub(super) fn run(&self) -> Result<(String, bool), Stop> {
        let value = read_token(self.token.as_deref())?;
        let mut trust = TrustStore { anchors: read_anchors(&self.anchors)?, ..TrustStore::default() };
        if let Some(path) = &self.log_list {
            let read = LogList::from_json(&read(path)?);
            trust.logs = read.map_err(|error| Stop::Usage(format!("{}: {error}", path.display())))?;
        }
        let chain = self.cert.as_deref().map(read_chain).transpose()?;
        let policy = self.policy();
        let report = match self.verdict(&value, &policy, &trust, chain) {
            Ok(verdict) => Report::new(&verdict, &policy),
            Err(Stop::Refused(why)) => Report::unreadable(why),
            Err(usage) => return Err(usage),
        };
        let text = if self.json { line(&report) } else { report.text() };
        Ok((text, report.valid))
    }

    fn policy(&self) -> Policy {
        let mut policy = match self.profile {
            ProfileName::Shaken => Policy::shaken(),
            ProfileName::Vesper => Policy::vesper(),
        };
        policy.require_identity = true;
        policy.modes.set(Check::Replay, Mode::Off);
        if self.orig.is_none() && self.dest.is_none() {
            policy.modes.set(Check::Claims, Mode::Off);
        }
        policy
    }

    fn verdict(
        &self,
        value: &str,
        policy: &Policy,
        trust: &TrustStore,
        chain: Option<Vec<Vec<u8>>>,
    ) -> Result<Verdict, Stop> {
        let unix = present(self.at);
        let value = with_parameters(value)?;
        let (orig, dest) = self.parties(&value);
        let request = request(&orig, &dest, &format!("Identity: {value}\r\n"));
        let config = VerifierConfig { passport: bounds(), ..VerifierConfig::default() };
        let mut verifier = Verifier::new(config, [0; 16]);
        with_request(&request, |message| {
            let x5u = match verifier.verify(unix, policy, trust, None, message) {
                Outcome::Done(verdict) => return verdict,
                Outcome::Need { x5u } => x5u,
            };
            let Some(certificates) = chain else {
                return verifier.verify_without(unix, policy, trust, None, message, &x5u, FetchFailure::Blocked);
            };
            verifier.provide(unix, trust, &x5u, Ok(FetchedChain { certificates, fresh_until: i64::MAX }));
            match verifier.verify(unix, policy, trust, None, message) {
                Outcome::Done(verdict) => verdict,
                Outcome::Need { x5u } => {
                    verifier.verify_without(unix, policy, trust, None, message, &x5u, FetchFailure::Blocked)
                }
            }
        })
    }

    /// Caller and callee: as asked for, else as the token says.
    fn parties(&self, value: &str) -> (String, String) {
        let mut buffer = Vec::new();
        let mut said = || -> Option<(String, String)> {
            let field = read_field(value).ok()?;
            let payload = full_form(field.digest).ok()?.decode_payload(&mut buffer).ok()?;
            let claims = Claims::parse(payload, &bounds()).ok()?;
            let dest = claims.dest.tn.iter().next().map(|tn| Identity::Tn(tn.into()));
            let dest = dest.or_else(|| claims.dest.uri.iter().next().map(|uri| Identity::Uri(uri.into())));
            Some((claims.orig.text().to_owned(), dest?.text().to_owned()))
        };
        let (orig, dest) = said().unwrap_or_else(|| ("0".into(), "0".into()));
        (self.orig.clone().unwrap_or(orig), self.dest.clone().unwrap_or(dest))
    }
}

/// A bare token gets the parameters its header names; what carries parameters is left as it is.
fn with_parameters(value: &str) -> Result<String, Stop> {
    if value.contains(';') {
        return Ok(value.to_owned());
    }
    let field = read_field(value)?;
    let jws = full_form(field.digest)?;
    let header = ProtectedHeader::parse(jws.header, &bounds()).map_err(|error| Stop::Refused(error.to_string()))?;
    let ppt = header.ppt.map(|ppt| format!(";ppt=\"{ppt}\"")).unwrap_or_default();
    Ok(format!("{value};info=<{}>{ppt}", header.x5u.unwrap_or_default()))
}

impl Report {
    fn new(verdict: &Verdict, policy: &Policy) -> Self {
        let token = verdict.tokens().first();
        let rejection = verdict.rejection();
        let leaf =
            token.and_then(|token| token.credential.as_ref()).and_then(|credential| credential.chain.as_ref().ok());
        Self {
            valid: verdict.is_valid(),
            checks: token.map(|token| checks(token, policy)).unwrap_or_default(),
            code: rejection.map(|rejection| rejection.status),
            phrase: rejection.map(|rejection| rejection.phrase),
            ppt: token.and_then(|token| token.ppt).and_then(|ppt| ppt.name()),
            orig: token.and_then(|token| token.orig).map(|orig| orig.to_string()),
            iat: token.and_then(|token| token.iat),
            attest: token.and_then(|token| token.attest).map(Attestation::letter),
            subject: leaf.map(|chain| chain.leaf.subject()),
            domains: leaf.map(|chain| chain.leaf.dns_names().to_vec()).unwrap_or_default(),
        }
    }

    /// For what is no token at all.
    fn unreadable(detail: String) -> Self {
        let code = Code::InvalidIdentityHeader;
        Self {
            valid: false,
            checks: vec![CheckReport { id: Check::Token.id(), ok: false, detail }],
            code: Some(code.status()),
            phrase: Some(code.phrase()),
            ppt: None,
            orig: None,
            iat: None,
            attest: None,
            subject: None,
            domains: Vec::new(),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut show = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<18} {}", printable(value));
        };
        for check in &self.checks {
            show(check.id, &if check.ok { "ok".to_owned() } else { format!("FAILED: {}", check.detail) });
        }
        for (name, value) in [("orig", &self.orig), ("subject", &self.subject)] {
            value.iter().for_each(|value| show(name, value));
        }
        self.attest.iter().for_each(|attest| show("attest", attest));
        self.domains.iter().for_each(|domain| show("domain", domain));
        match (self.valid, self.code, self.phrase) {
            (true, ..) => show("verdict", "valid"),
            (false, Some(code), Some(phrase)) => show("verdict", &format!("invalid ({code} {phrase})")),
            _ => show("verdict", "invalid"),
        }
        text
    }
}

fn checks(token: &TokenVerdict, policy: &Policy) -> Vec<CheckReport> {
    let asked = |check: &Check| policy.modes.get(*check) != Mode::Off;
    let mut reports = Vec::new();
    for check in Check::ALL.into_iter().filter(asked) {
        let (ok, detail) = match token.checks.get(check) {
            CheckResult::NotApplicable => continue,
            CheckResult::Passed | CheckResult::Unknown => (true, String::new()),
            CheckResult::NotDone => (false, "could not be checked".to_owned()),
            CheckResult::Failed(failure) => (false, explain(token, check, &failure.to_string())),
        };
        reports.push(CheckReport { id: check.id(), ok, detail });
    }
    reports
}

/// The failure, and what the credentials know about it besides.
fn explain(token: &TokenVerdict, check: Check, failure: &str) -> String {
    let reason = |credential: &Arc<Credential>| match &credential.chain {
        Err(error) => Some(error.to_string()),
        Ok(chain) => chain.path.as_ref().err().map(ToString::to_string),
    };
    let more = if check == Check::Chain { token.credentials().find_map(reason) } else { None };
    more.map_or_else(|| failure.to_owned(), |more| format!("{failure}: {more}"))
}
