//! The tokens of the corpus, and the requests they come in.

mod compact;
mod constraints;
mod diversion;
mod message;
mod priority;
mod rich;
mod shaken;
mod transparency;
mod vesper;

use std::collections::BTreeMap;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use vesperd::cert::{LogState, TnEntry, TrustStore};

use super::oracle::{Call, Demands, Log, Profile};
use super::pki::*;
use super::rng::Rng;
use super::stir::{CALLEE, CALLER, X5U};

pub const ORIGID: &str = "123e4567-e89b-12d3-a456-426655440000";
/// Caller, callee, and whom it is diverted to.
pub const A: &str = CALLER;
pub const B: &str = CALLEE;
pub const C: &str = "12155551214";
pub const D: &str = "12155551215";
/// Another caller.
pub const OTHER: &str = "12015550101";

/// A request with Identity fields.
pub struct Case {
    pub class: &'static str,
    pub name: String,
    pub call: Call,
    /// Values of the fields.
    pub fields: Vec<String>,
    pub demands: Demands,
}

pub struct Corpus {
    pub hierarchy: Hierarchy,
    /// Speaks for all numbers.
    pub leaf: Authority,
    pub logs: Logs,
    /// What `x5u` URLs answer.
    pub web: BTreeMap<String, Vec<Vec<u8>>>,
    pub cases: Vec<Case>,
}

/// Transparency logs: trusted, another one, trusted until an hour ago, not trusted, and not in the list.
pub struct Logs {
    pub usable: TestLog,
    pub second: TestLog,
    pub retired: TestLog,
    pub rejected: TestLog,
    pub unknown: TestLog,
}

impl Logs {
    fn listed(&self) -> [(&TestLog, LogState, Option<u64>); 4] {
        let then = milliseconds(NOW - HOUR);
        [
            (&self.usable, LogState::Usable(0), Some(u64::MAX)),
            (&self.second, LogState::Usable(0), Some(u64::MAX)),
            (&self.retired, LogState::Retired(then), Some(then)),
            (&self.rejected, LogState::Rejected(0), None),
        ]
    }
}

pub fn milliseconds(seconds: i64) -> u64 {
    u64::try_from(seconds * 1000).unwrap()
}

/// A certificate with its chain and key.
pub struct Party {
    pub chain: Vec<Vec<u8>>,
    pub key: KeyPair,
}

/// How a token is carried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// With its chain.
    Inline,
    /// Without.
    Linked,
    Compact,
}

/// A token to be.
#[derive(Clone)]
pub struct Piece {
    pub signer: Rc<Party>,
    /// Whose key signs, if not the signer's own.
    pub key: Option<Rc<Party>>,
    /// Empty: none.
    pub ppt: String,
    /// Where the field's is another.
    pub field_ppt: Option<String>,
    pub x5u: String,
    /// Where `info` is another.
    pub info: Option<String>,
    pub form: Form,
    pub claims: Value,
    /// The token in `opt`.
    pub inner: Option<Box<Piece>>,
    pub is_flipped: bool,
    /// It is left out.
    pub is_absent: bool,
}

impl Piece {
    pub fn new(signer: &Rc<Party>, ppt: &str, claims: Value) -> Self {
        Self {
            signer: Rc::clone(signer),
            key: None,
            ppt: ppt.to_owned(),
            field_ppt: None,
            x5u: X5U.to_owned(),
            info: None,
            form: Form::Inline,
            claims,
            inner: None,
            is_flipped: false,
            is_absent: false,
        }
    }

    fn token(&self) -> String {
        let mut head = header(&self.signer.chain, Some(&*self.ppt).filter(|ppt| !ppt.is_empty()));
        head["x5u"] = self.x5u.as_str().into();
        if self.form != Form::Inline {
            head.as_object_mut().unwrap().remove("x5c");
        }
        let mut claims = self.claims.clone();
        if let Some(inner) = &self.inner {
            claims["opt"] = inner.token().into();
        }
        let key = &self.key.as_ref().unwrap_or(&self.signer).key;
        let mut token = sign(key, &head.to_string(), &claims.to_string());
        if self.is_flipped {
            let at = token.rfind('.').unwrap() + 1;
            let other = if &token[at..=at] == "A" { "B" } else { "A" };
            token.replace_range(at..=at, other);
        }
        match self.form {
            Form::Compact => format!("..{}", token.rsplit_once('.').unwrap().1),
            _ => token,
        }
    }

    fn value(&self) -> String {
        let ppt = self.field_ppt.as_ref().unwrap_or(&self.ppt);
        let ppt = if ppt.is_empty() { String::new() } else { format!(";ppt=\"{ppt}\"") };
        format!("{};info=<{}>;alg=ES256{ppt}", self.token(), self.info.as_ref().unwrap_or(&self.x5u))
    }
}

/// A request to be.
#[derive(Clone)]
pub struct Draft {
    pub call: Call,
    pub demands: Demands,
    pub pieces: Vec<Piece>,
}

impl Draft {
    pub fn new(demands: Demands, pieces: Vec<Piece>) -> Self {
        Self { call: call(), demands, pieces }
    }
}

/// One thing that is changed.
pub struct Change {
    name: String,
    make: Box<dyn Fn(&mut Draft)>,
}

pub fn change(name: impl Into<String>, make: impl Fn(&mut Draft) + 'static) -> Change {
    Change { name: name.into(), make: Box::new(make) }
}

/// A change of one claim of a token; `Value::Null` takes it out.
pub fn claim(at: usize, name: &'static str, value: Value) -> Change {
    change(format!("{name} of {at} = {value}"), move |draft| put(&mut draft.pieces[at].claims, name, value.clone()))
}

pub fn put(claims: &mut Value, name: &str, value: Value) {
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
}

/// Faults that a token of any kind can have.
pub fn common(corpus: &Corpus, at: usize) -> Vec<Change> {
    let stranger = Rc::new(Party { chain: corpus.chain(), key: p256() });
    vec![
        change(format!("{at} flipped"), move |draft| draft.pieces[at].is_flipped = true),
        change(format!("{at} by another key"), move |draft| draft.pieces[at].key = Some(Rc::clone(&stranger))),
        change(format!("another info of {at}"), move |draft| {
            draft.pieces[at].info = Some("https://other.example/c.pem".into());
        }),
        claim(at, "iat", json!(NOW - 61)),
        claim(at, "iat", json!(NOW + 61)),
        claim(at, "iat", json!(NOW.to_string())),
        claim(at, "orig", json!({"tn": OTHER})),
        claim(at, "dest", json!({"tn": ["12155551299"]})),
        change("another From", |draft| draft.call.from = OTHER.into()),
    ]
}

pub fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

pub fn header(chain: &[Vec<u8>], ppt: Option<&str>) -> Value {
    let x5c: Vec<String> = chain.iter().map(|der| STANDARD.encode(der)).collect();
    let mut header = json!({"alg": "ES256", "typ": "passport", "x5c": x5c, "x5u": X5U});
    if let Some(ppt) = ppt {
        header["ppt"] = ppt.into();
    }
    header
}

/// Of a SHAKEN token from A to B.
pub fn claims() -> Value {
    json!({"attest": "A", "dest": {"tn": [B]}, "iat": NOW, "orig": {"tn": A}, "origid": ORIGID})
}

/// Of any token from A to B, with these besides.
pub fn plain(others: Value) -> Value {
    let mut all = json!({"dest": {"tn": [B]}, "iat": NOW, "orig": {"tn": A}});
    others.as_object().unwrap().iter().for_each(|(name, value)| all[name] = value.clone());
    all
}

fn sign(key: &KeyPair, header: &str, payload: &str) -> String {
    let input = format!("{}.{}", encode(header), encode(payload));
    let signature = es256(key, input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn value(token: &str, ppt: Option<&str>) -> String {
    let ppt = ppt.map(|ppt| format!(";ppt=\"{ppt}\"")).unwrap_or_default();
    format!("{token};info=<{X5U}>;alg=ES256{ppt}")
}

/// A call from A to B.
pub fn call() -> Call {
    Call {
        now: NOW,
        method: "INVITE",
        from: A.into(),
        to: B.into(),
        target: B.into(),
        asserted: None,
        shown: "Caller".into(),
        date: None,
        priorities: Vec::new(),
        priority: None,
        reason: None,
        body: String::new(),
        content: BTreeMap::new(),
    }
}

pub const SHAKEN: Demands = Demands {
    profile: Profile::Shaken,
    strict_retarget: false,
    strict_claims: false,
    max_diversions: 5,
    diverted_window: 60,
    providers_prioritize: true,
};
pub const VESPER: Demands = Demands { profile: Profile::Vesper, providers_prioritize: false, ..SHAKEN };

impl Corpus {
    pub fn new(seed: u64) -> Self {
        let hierarchy = Hierarchy::new();
        let leaf = hierarchy.intermediate.issue(shaken_params());
        let log = TestLog::new;
        let logs = Logs { usable: log(), second: log(), retired: log(), rejected: log(), unknown: log() };
        let mut corpus = Self { hierarchy, leaf, logs, web: BTreeMap::new(), cases: Vec::new() };
        let rng = &mut Rng::new(seed);
        corpus.good(rng);
        corpus.changed(rng);
        corpus.payloads();
        corpus.headers();
        corpus.certificates();
        corpus.diversions(rng);
        corpus.priorities(rng);
        corpus.rich_call_data(rng);
        corpus.messages(rng);
        corpus.compact_forms(rng);
        corpus.vesper(rng);
        corpus.transparency();
        corpus.constraints(rng);
        corpus
    }

    /// Trusts the root and the logs.
    pub fn trust(&self) -> TrustStore {
        let mut trust = self.hierarchy.store.clone();
        for (log, state, _) in self.logs.listed() {
            trust.logs.add("example", log.listed(state)).unwrap();
        }
        trust
    }

    /// The same logs, for the other verifier.
    pub fn log_list(&self) -> Vec<Log> {
        let spki = |log: &TestLog| rcgen::PublicKeyData::subject_public_key_info(&log.key);
        self.logs.listed().into_iter().map(|(log, _, until)| Log { spki: spki(log), until }).collect()
    }

    fn add(&mut self, class: &'static str, name: impl Into<String>, value: String) {
        let fields = vec![value];
        self.cases.push(Case { class, name: name.into(), call: call(), fields, demands: SHAKEN });
    }

    fn add_draft(&mut self, class: &'static str, name: impl Into<String>, draft: &Draft) {
        let fields = draft.pieces.iter().filter(|piece| !piece.is_absent).map(Piece::value).collect();
        let (call, demands) = (draft.call.clone(), draft.demands);
        self.cases.push(Case { class, name: name.into(), call, fields, demands });
    }

    /// A draft, with each change by itself, and with some two.
    fn vary(&mut self, class: &'static str, draft: &Draft, changes: &[Change], pairs: usize, rng: &mut Rng) {
        self.add_draft(class, "as it is", draft);
        for change in changes {
            let mut changed = draft.clone();
            (change.make)(&mut changed);
            self.add_draft(class, &change.name, &changed);
        }
        for _ in 0..pairs {
            let first = rng.below(changes.len() as u64) as usize;
            let second = (first + 1 + rng.below(changes.len() as u64 - 1) as usize) % changes.len();
            let (first, second) = (&changes[first.min(second)], &changes[first.max(second)]);
            let mut changed = draft.clone();
            (first.make)(&mut changed);
            (second.make)(&mut changed);
            self.add_draft(class, format!("{}, {}", first.name, second.name), &changed);
        }
    }

    fn chain(&self) -> Vec<Vec<u8>> {
        self.hierarchy.chain(&self.leaf)
    }

    fn shaken(&self, header: &Value, claims: &Value) -> String {
        value(&sign(&self.leaf.key, &header.to_string(), &claims.to_string()), Some("shaken"))
    }

    fn party(&self, params: CertificateParams) -> Rc<Party> {
        let leaf = self.hierarchy.intermediate.issue(params);
        Rc::new(Party { chain: self.hierarchy.chain(&leaf), key: leaf.key })
    }

    /// Speaks for these.
    fn holder(&self, entries: &[TnEntry]) -> Rc<Party> {
        let mut params = leaf_params();
        params.custom_extensions.push(tn_extension(entries));
        self.party(params)
    }

    fn number(&self, number: &str) -> Rc<Party> {
        self.holder(&[one(number)])
    }

    fn provider(&self) -> Rc<Party> {
        self.holder(&[spc("709J")])
    }
}
