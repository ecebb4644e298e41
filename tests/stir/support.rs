//! Calls to sign and verify: requests, hand-made tokens, a VESPER credential with an SCT.
pub use super::pki::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::CertificateParams;
use serde_json::{Value, json};
use vesperd::cert::{LogState, TnEntry, TrustStore};
use vesperd::sip::{Framing, Index, Limits, Message, parse};
use vesperd::stir::replay::ReplayTable;
use vesperd::stir::verification::{
    Check, Disposition, Failure, Outcome, Policy, TokenVerdict, Verdict, Verifier, VerifierConfig,
};

pub const HOST: &str = "exampleretail.example";
pub const X5U: &str = "https://exampleretail.example/sti/leaf.pem";
pub const CALLER: &str = "12015550100";
pub const CALLEE: &str = "12155551213";

/// A leaf under an intermediate under a trusted root, with the log that vouches for it.
pub struct Credential {
    pub hierarchy: Hierarchy,
    pub leaf: Authority,
    pub trust: TrustStore,
}

pub fn milliseconds(seconds: i64) -> u64 {
    u64::try_from(seconds * 1000).unwrap()
}

pub fn numbers() -> Vec<TnEntry> {
    vec![range("12015550100", 10)]
}

impl Credential {
    pub fn vesper() -> Self {
        Self::issue(vesper_params(&numbers()), NOW - HOUR)
    }

    /// A leaf with an SCT of this time.
    pub fn issue(params: CertificateParams, sct: i64) -> Self {
        let log = TestLog::new();
        let mut made = Self::issue_from(params, &[&log], sct);
        made.trust.logs.add("example", log.listed(LogState::Usable(0))).unwrap();
        made
    }

    /// A leaf with SCTs of logs that the store does not know yet.
    pub fn issue_from(params: CertificateParams, logs: &[&TestLog], sct: i64) -> Self {
        let hierarchy = Hierarchy::new();
        let leaf = match logs {
            [] => hierarchy.intermediate.issue(params),
            logs => hierarchy.intermediate.issue_logged(params, logs, milliseconds(sct), 0),
        };
        let trust = hierarchy.store.clone();
        Self { hierarchy, leaf, trust }
    }

    pub fn shaken() -> Self {
        Self::issue_from(shaken_params(), &[], NOW)
    }

    pub fn chain(&self) -> Vec<Vec<u8>> {
        self.hierarchy.chain(&self.leaf)
    }

    pub fn key_der(&self) -> Vec<u8> {
        self.leaf.key.serialize_der()
    }

    pub fn header(&self) -> Value {
        let x5c: Vec<String> = self.chain().iter().map(|der| STANDARD.encode(der)).collect();
        json!({"alg": "ES256", "typ": "passport", "x5c": x5c, "x5u": X5U})
    }

    pub fn token(&self, header: &Value, payload: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encode(header), encode(payload));
        let signature = es256(&self.leaf.key, input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

pub fn claims() -> Value {
    json!({"dest": {"tn": [CALLEE]}, "iat": NOW, "orig": {"tn": CALLER}})
}

/// An INVITE from [`CALLER`] to [`CALLEE`] with these header lines besides.
pub fn invite(lines: &[String], body: &str) -> Vec<u8> {
    request(CALLER, CALLEE, CALLEE, "call-1@host.example", lines, body)
}

pub fn request(from: &str, to: &str, uri: &str, call_id: &str, lines: &[String], body: &str) -> Vec<u8> {
    let mut text = format!(
        "INVITE sip:+{uri}@b.example;user=phone SIP/2.0\r\nVia: SIP/2.0/TCP a.example;branch=z9hG4bK1\r\n\
Max-Forwards: 70\r\nFrom: \"Caller\" <sip:+{from}@a.example;user=phone>;tag=1\r\n\
To: <sip:+{to}@b.example;user=phone>\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE\r\n"
    );
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str("Content-Type: application/sdp\r\n");
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}

pub fn identity(token: &str) -> String {
    format!("Identity: {token};info=<{X5U}>;alg=ES256")
}

pub fn identity_ppt(token: &str, ppt: &str) -> String {
    format!("Identity: {token};info=<{X5U}>;alg=ES256;ppt=\"{ppt}\"")
}

/// Calls `f` with the parsed message.
pub fn with<T>(octets: &[u8], f: impl FnOnce(Message<'_>) -> T) -> T {
    let mut index = Index::new();
    let limits = Limits { head: 256 * 1024, identity_value: 64 * 1024, ..Limits::default() };
    let message = parse(octets, &mut index, Framing::Stream, &limits).unwrap();
    assert_eq!(message.fault(), None);
    f(message)
}

pub fn verifier() -> Verifier {
    Verifier::new(VerifierConfig::default(), [7; 16])
}

pub fn verify_at(unix: i64, policy: &Policy, trust: &TrustStore, octets: &[u8]) -> Verdict {
    let replay = ReplayTable::default();
    let outcome = with(octets, |message| verifier().verify(unix, policy, trust, Some(&replay), message));
    done(outcome)
}

pub fn verify(policy: &Policy, trust: &TrustStore, octets: &[u8]) -> Verdict {
    verify_at(NOW, policy, trust, octets)
}

pub fn done(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Done(verdict) => verdict,
        Outcome::Need { x5u } => panic!("needs {x5u}"),
    }
}

pub fn sole(verdict: &Verdict) -> &TokenVerdict {
    assert_eq!(verdict.tokens().len(), 1);
    &verdict.tokens()[0]
}

pub fn failures(token: &TokenVerdict) -> Vec<(Check, Failure)> {
    token.checks.failures().collect()
}

/// The token is valid, and no check failed.
#[track_caller]
pub fn assert_valid(verdict: &Verdict) {
    let token = sole(verdict);
    assert_eq!(failures(token), []);
    assert_eq!(token.disposition, Disposition::Valid);
    assert!(verdict.is_valid());
    assert_eq!(verdict.rejection(), None);
}

/// Exactly this check failed, for this reason, and the call is refused by this status.
#[track_caller]
pub fn assert_fault(name: &str, verdict: &Verdict, check: Check, failure: Failure, status: u16) {
    let token = sole(verdict);
    assert_eq!(failures(token), [(check, failure)], "{name}");
    assert_eq!(token.disposition, Disposition::Invalid(check), "{name}");
    assert!(!verdict.is_valid(), "{name}");
    let rejection = verdict.rejection().unwrap_or_else(|| panic!("{name}: not rejected"));
    assert_eq!((rejection.status, rejection.check), (status, Some(check)), "{name}");
}
