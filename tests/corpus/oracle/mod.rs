//! A verifier of its own, from other libraries: serde_json reads, x509-parser looks into certificates, the OpenSSL command line judges
//! paths and makes digests, p256 checks signatures. Slow, and with nothing of `vesperd` in it. It judges all Identity fields of a
//! request, with 60 seconds of freshness and of skew.

mod chain;
mod claims;
mod compact;
mod constraints;
mod der;
mod diversion;
mod json;
mod openssl;
mod rich;
mod transparency;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use claims::{Claims, Priority};
use constraints::Constraints;
use diversion::{Ends, is_fresh};
use json::Json;
use openssl::OpenSsl;
pub use rich::{Part, Rich};
pub use transparency::Log;

const WINDOW: i64 = 60;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Token,
    Chain,
    Validity,
    Number,
    Transparency,
    Signature,
    Claims,
    Constraints,
    Domain,
    Freshness,
}

/// What a token is worth, and all that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Valid,
    Ignored,
    Invalid(BTreeSet<Family>),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid => f.write_str("valid"),
            Self::Ignored => f.write_str("ignored"),
            Self::Invalid(families) => write!(f, "invalid {families:?}"),
        }
    }
}

fn only(family: Family) -> Finding {
    Finding::Invalid(BTreeSet::from([family]))
}

/// The finding on a field, and what a valid token says.
pub struct Judged {
    pub finding: Finding,
    /// `attest`, where the certificate may say it.
    pub attest: Option<String>,
    pub rich: Option<Rich>,
}

impl Judged {
    fn of(finding: Finding) -> Self {
        Self { finding, attest: None, rich: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Shaken,
    Vesper,
}

/// What is asked of tokens, where the documents leave it open.
#[derive(Clone, Copy, Debug)]
pub struct Demands {
    pub profile: Profile,
    /// A Request-URI that `dest` does not name needs a chain of diversions.
    pub strict_retarget: bool,
    /// VESPER: claims that the certificate does not authorize make the token invalid.
    pub strict_claims: bool,
    pub max_diversions: usize,
    /// Seconds a diverted token may be old.
    pub diverted_window: i64,
    /// Service providers may speak for Resource-Priority.
    pub providers_prioritize: bool,
}

/// The request around the tokens.
#[derive(Clone, Debug)]
pub struct Call {
    pub now: i64,
    pub method: &'static str,
    /// Canonical numbers of From, To and Request-URI.
    pub from: String,
    pub to: String,
    pub target: String,
    /// Number of a P-Asserted-Identity that is trusted: a caller as From is (RFC 8224 section 8).
    pub asserted: Option<String>,
    /// Display name of From.
    pub shown: String,
    /// Date.
    pub date: Option<i64>,
    /// Resource-Priority and Priority.
    pub priorities: Vec<String>,
    pub priority: Option<String>,
    /// `call-reason` of Call-Info.
    pub reason: Option<String>,
    /// The body, SDP unless the method is MESSAGE.
    pub body: String,
    /// What URLs in rich call data answer.
    pub content: BTreeMap<String, Vec<u8>>,
}

impl Call {
    fn is_caller(&self, number: &str) -> bool {
        number == self.from || Some(number) == self.asserted.as_deref()
    }

    /// `mky` as the SDP has it (RFC 8225 5.2.2): each once, sorted.
    fn fingerprints(&self) -> Vec<(String, String)> {
        let lines = self.body.lines().filter_map(|line| line.strip_prefix("a=fingerprint:")?.split_once(' '));
        let all: BTreeSet<(String, String)> =
            lines.map(|(alg, dig)| (alg.to_ascii_lowercase(), dig.replace(':', "").to_ascii_uppercase())).collect();
        all.into_iter().collect()
    }
}

/// The protected header, claims and signature of a token.
struct Opened {
    head: Json,
    claims: Claims,
    /// `ppt` and `x5u` of the header.
    ppt: Option<String>,
    x5u: Option<String>,
    /// What is signed.
    input: String,
    signature: String,
}

enum Looked {
    /// Of an unknown kind; whom it speaks of, where that can be read.
    Ignored(Option<Ends>),
    Unreadable,
    Token(Token),
}

/// What can be said of a token by itself.
struct Token {
    kind: Option<String>,
    ends: Ends,
    /// Seconds since `iat`.
    age: i64,
    /// All but age and destination.
    faults: BTreeSet<Family>,
    attest: Option<String>,
    rich: Option<Rich>,
}

impl Token {
    fn is_div(&self) -> bool {
        self.kind.as_deref() == Some("div")
    }
}

/// The parameters of a field.
struct Field {
    ppt: Option<String>,
    info: String,
    alg: Option<String>,
}

pub struct Oracle {
    openssl: OpenSsl,
    /// DER of the one trust anchor.
    anchor: Vec<u8>,
    logs: Vec<Log>,
    /// What `x5u` URLs answer.
    web: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Oracle {
    pub fn new(anchor: &[u8], logs: Vec<Log>, web: BTreeMap<String, Vec<Vec<u8>>>) -> Self {
        Self { openssl: OpenSsl::new(anchor), anchor: anchor.to_vec(), logs, web }
    }

    /// Processes started.
    pub fn asked(&self) -> usize {
        self.openssl.asked
    }

    /// The findings about the values of the Identity fields of a request.
    pub fn judge(&mut self, values: &[String], call: &Call, demands: &Demands) -> Vec<Judged> {
        let looked: Vec<Looked> = values.iter().map(|value| self.look(value, call, demands)).collect();
        diversion::settle(&looked, call, demands)
    }

    fn look(&mut self, value: &str, call: &Call, demands: &Demands) -> Looked {
        let Some((digest, parameters)) = value.split_once(';') else { return Looked::Unreadable };
        let parameter = |name: &str| {
            let found = parameters.split(';').filter_map(|part| part.trim().split_once('='));
            found.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
        };
        let ppt = parameter("ppt").map(|ppt| ppt.trim_matches('"').to_owned());
        let is_supported = |ppt: &Option<String>| ppt.as_deref().is_none_or(|ppt| is_supported(ppt, call));
        if !is_supported(&ppt) {
            return Looked::Ignored(open(digest.trim()).map(|opened| ends(&opened.claims)));
        }
        let info = parameter("info").and_then(|info| Some(info.strip_prefix('<')?.strip_suffix('>')?.to_owned()));
        let Some(info) = info else { return Looked::Unreadable };
        let field = Field { ppt, info, alg: parameter("alg") };
        let opened = match digest.trim().strip_prefix("..") {
            Some(signature) => compact::rebuild(signature, &field, call),
            None => open(digest.trim()),
        };
        let Some(opened) = opened else { return Looked::Unreadable };
        if !is_supported(&opened.ppt) {
            return Looked::Ignored(Some(ends(&opened.claims)));
        }
        // Where field and header differ, the header is what was signed.
        let kind = opened.ppt.clone().or(field.ppt.clone());
        let mut found = BTreeSet::new();
        if !agrees(&opened, Some(&field)) || !opened.claims.fit(kind.as_deref()) {
            found.insert(Family::Token);
        }
        let constraints = self.look_at_credential(&opened, kind.as_deref(), call, demands, &mut found);
        if !conforms(&opened.claims, kind.as_deref(), call, &mut self.openssl) {
            found.insert(Family::Claims);
        }
        let age = call.now - opened.claims.iat;
        let mut attest = attest(&opened.claims, kind.as_deref(), &constraints, demands);
        if kind.as_deref() == Some("div-o") {
            match self.look_inside(&opened.claims, call, demands, 1, &mut found) {
                Ok(inner) => attest = inner,
                Err(Unsupported) => return Looked::Ignored(Some(ends(&opened.claims))),
            }
        }
        let is_rich = !matches!(kind.as_deref(), Some("div" | "div-o" | "rph")) && found.is_empty();
        let is_authorized = |name: &str| demands.profile == Profile::Shaken || constraints.authorize(name);
        let rich =
            is_rich.then(|| rich::judge(&opened.claims, &call.shown, is_authorized, &call.content, &mut self.openssl));
        Looked::Token(Token { kind, ends: ends(&opened.claims), age, faults: found, attest, rich: rich.flatten() })
    }

    /// RFC 8946 section 5: the token in `opt`, and in that one's. Gives what the innermost attests.
    fn look_inside(
        &mut self,
        outer: &Claims,
        call: &Call,
        demands: &Demands,
        depth: usize,
        found: &mut BTreeSet<Family>,
    ) -> Result<Option<String>, Unsupported> {
        let (Some(opt), Some(div)) = (outer.opt(), &outer.div) else { return Ok(None) };
        if depth > demands.max_diversions {
            found.insert(Family::Claims);
            return Ok(None);
        }
        let Some(opened) = open(opt) else {
            found.insert(Family::Token);
            return Ok(None);
        };
        let kind = opened.ppt.clone();
        if kind.as_deref().is_some_and(|ppt| !is_supported(ppt, call)) {
            return Err(Unsupported);
        }
        let claims = &opened.claims;
        if !agrees(&opened, None) || !claims.fit(kind.as_deref()) {
            found.insert(Family::Token);
        }
        let constraints = self.look_at_credential(&opened, kind.as_deref(), call, demands, found);
        // A plain `div` inside leads nowhere: what it diverted is not there.
        let joins = claims.orig == outer.orig && claims.dest.contains(div) && kind.as_deref() != Some("div");
        if !joins || !has_media_keys(claims, kind.as_deref(), call) {
            found.insert(Family::Claims);
        }
        if !is_fresh(call.now - claims.iat, WINDOW.max(demands.diverted_window)) {
            found.insert(Family::Freshness);
        }
        if kind.as_deref() == Some("div-o") {
            return self.look_inside(claims, call, demands, depth + 1, found);
        }
        Ok(attest(claims, kind.as_deref(), &constraints, demands))
    }
}

/// The innermost token is of an unknown kind.
struct Unsupported;

fn is_supported(ppt: &str, call: &Call) -> bool {
    // RFC 9475: `msg` is for messages.
    ["shaken", "div", "div-o", "rph", "rcd"].contains(&ppt) || (ppt == "msg" && call.method == "MESSAGE")
}

/// A full form.
fn open(token: &str) -> Option<Opened> {
    let segments: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = segments[..] else { return None };
    segments.iter().all(|segment| !segment.is_empty()).then_some(())?;
    let decoded = |segment: &str| URL_SAFE_NO_PAD.decode(segment).ok();
    let claims = Claims::read(&decoded(payload)?)?;
    let head = Json::read(&decoded(header)?).filter(|json| json.members().is_some())?;
    opened(head, claims, format!("{header}.{payload}"), signature)
}

fn opened(head: Json, claims: Claims, input: String, signature: &str) -> Option<Opened> {
    let text = |name: &str| head.get(name).map(Json::text);
    let is_malformed = ["alg", "typ", "ppt", "x5u"].iter().any(|name| text(name) == Some(None));
    if is_malformed || head.get("crit").is_some() || text("alg").is_none() {
        return None;
    }
    let own = |name: &str| text(name).flatten().map(str::to_owned);
    let (ppt, x5u) = (own("ppt"), own("x5u"));
    Some(Opened { head, claims, ppt, x5u, input, signature: signature.to_owned() })
}

/// RFC 8224 4.1: header and field; a token inside another has no field.
fn agrees(opened: &Opened, field: Option<&Field>) -> bool {
    let is = |name: &str, wanted: &str| opened.head.get(name).and_then(Json::text) == Some(wanted);
    let fits = |field: &Field| {
        field.alg.as_deref().is_none_or(|alg| alg == "ES256")
            && opened.ppt == field.ppt
            && opened.x5u.as_ref() == Some(&field.info)
    };
    is("typ", "passport") && is("alg", "ES256") && opened.x5u.is_some() && field.is_none_or(fits)
}

fn ends(claims: &Claims) -> Ends {
    Ends { orig: claims.orig.clone(), dest: claims.dest.clone(), div: claims.div.clone() }
}

fn attest(claims: &Claims, kind: Option<&str>, constraints: &Constraints, demands: &Demands) -> Option<String> {
    let may = demands.profile == Profile::Shaken || constraints.authorize("attest");
    claims.attest().filter(|_| kind == Some("shaken") && may).map(str::to_owned)
}

/// What the claims say of the request, the destination apart.
fn conforms(claims: &Claims, kind: Option<&str>, call: &Call, openssl: &mut OpenSsl) -> bool {
    let own = match kind {
        Some("rph") => Priority::read(claims).is_none_or(|read| {
            let is_named = call.priorities.iter().any(|value| read.values.contains(&value.to_ascii_lowercase()));
            is_named && (!read.is_callback || call.priority.as_deref() == Some("psap-callback"))
        }),
        Some("msg") => {
            let digest = claims.get("msgi").and_then(|msgi| rich::Digest::read(msgi.as_str()?));
            digest.is_none_or(|digest| digest.is_of(call.body.as_bytes(), openssl))
        }
        _ => true,
    };
    own && call.is_caller(&claims.orig) && has_media_keys(claims, kind, call)
}

/// RFC 8224 4.1: `mky` is there exactly when the SDP has fingerprints. Diversions carry none (D-7).
fn has_media_keys(claims: &Claims, kind: Option<&str>, call: &Call) -> bool {
    let own = claims.mky.clone().map(|keys| keys.into_iter().collect::<BTreeSet<_>>());
    let wanted: BTreeSet<_> = call.fingerprints().into_iter().collect();
    matches!(kind, Some("div" | "div-o")) || own == (!wanted.is_empty()).then_some(wanted)
}
