//! A verifier of its own, from other libraries: serde_json reads, x509-parser looks into certificates, the OpenSSL command line judges
//! paths, p256 checks signatures. Slow, and with nothing of `vesperd` in it. It is given the SHAKEN demands: 60 seconds of freshness and
//! of skew.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use x509_parser::prelude::{FromDer, X509Certificate};

const WINDOW: i64 = 60;
const ES256_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const TN_AUTH_LIST: &str = "1.3.6.1.5.5.7.1.26";

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Token,
    Chain,
    Validity,
    Number,
    Signature,
    Claims,
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

/// JSON whose objects have no member twice.
enum Json {
    Null,
    Bool,
    Integer(i64),
    Number,
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn read(octets: &[u8]) -> Option<Self> {
        serde_json::from_slice(octets).ok()
    }

    fn members(&self) -> Option<&[(String, Json)]> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    fn get(&self, name: &str) -> Option<&Json> {
        self.members()?.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::List(list) => list.iter().map(Json::text).collect(),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
                Ok(Json::Bool)
            }
            fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
                Ok(Json::Integer(number))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
                Ok(i64::try_from(number).map_or(Json::Number, Json::Integer))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
                Ok(Json::Number)
            }
            fn visit_str<E>(self, text: &str) -> Result<Json, E> {
                Ok(Json::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
                let mut all = Vec::new();
                while let Some(value) = list.next_element()? {
                    all.push(value);
                }
                Ok(Json::List(all))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut all: Vec<(String, Json)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Json>()? {
                    if all.iter().any(|(known, _)| *known == name) {
                        return Err(serde::de::Error::custom("twice"));
                    }
                    all.push((name, value));
                }
                Ok(Json::Object(all))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// The request around a token.
pub struct Call<'a> {
    pub now: i64,
    /// Canonical numbers of From, To and Request-URI.
    pub from: &'a str,
    pub to: &'a str,
    pub target: &'a str,
}

/// What OpenSSL said of a chain: it leads to the anchor at all, it does now.
type Paths = HashMap<Vec<Vec<u8>>, (bool, bool)>;

pub struct Oracle {
    directory: tempfile::TempDir,
    anchor: PathBuf,
    paths: Paths,
    /// Processes started.
    pub asked: usize,
}

impl Oracle {
    pub fn new(anchor: &[u8]) -> Self {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("anchor.pem");
        std::fs::write(&path, pem(anchor)).unwrap();
        Self { directory, anchor: path, paths: Paths::new(), asked: 0 }
    }

    /// The finding about an Identity field value.
    pub fn judge(&mut self, value: &str, call: &Call<'_>) -> Finding {
        let Some((digest, parameters)) = value.split_once(';') else { return only(Family::Token) };
        let parameter = |name: &str| {
            let found = parameters.split(';').filter_map(|part| part.trim().split_once('='));
            found.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
        };
        let ppt = parameter("ppt").map(|ppt| ppt.trim_matches('"').to_owned());
        let is_supported = |ppt: &str| ["shaken", "div", "div-o", "rph", "rcd"].contains(&ppt);
        if ppt.as_deref().is_some_and(|ppt| !is_supported(ppt)) {
            return Finding::Ignored;
        }
        let info = parameter("info").and_then(|info| Some(info.strip_prefix('<')?.strip_suffix('>')?.to_owned()));
        let segments: Vec<&str> = digest.trim().split('.').collect();
        let (Some(info), [header, payload, signature]) = (info, &segments[..]) else { return only(Family::Token) };
        if segments.iter().any(|segment| segment.is_empty()) {
            return only(Family::Token); // compact, or not signed at all
        }
        let decoded = |segment: &str| URL_SAFE_NO_PAD.decode(segment).ok();
        let Some(claims) = decoded(payload).and_then(|json| Json::read(&json)).and_then(|json| Claims::read(&json))
        else {
            return only(Family::Token);
        };
        let Some(head) = decoded(header).and_then(|json| Json::read(&json)).filter(|json| json.members().is_some())
        else {
            return only(Family::Token);
        };
        let text = |name: &str| head.get(name).map(Json::text);
        let is_malformed = ["alg", "typ", "ppt", "x5u"].iter().any(|name| text(name) == Some(None));
        if is_malformed || head.get("crit").is_some() || text("alg").is_none() {
            return only(Family::Token);
        }
        let header_ppt = text("ppt").flatten();
        if header_ppt.is_some_and(|ppt| !is_supported(ppt)) {
            return Finding::Ignored;
        }
        let mut found = BTreeSet::new();
        let agrees = text("typ").flatten() == Some("passport")
            && text("alg").flatten() == Some("ES256")
            && parameter("alg").is_none_or(|alg| alg == "ES256")
            && header_ppt == ppt.as_deref()
            && text("x5u").flatten() == Some(&info);
        if !agrees || (ppt.as_deref() == Some("shaken") && !claims.is_shaken()) {
            found.insert(Family::Token);
        }
        self.look_at_chain(&head, &claims, &[header, payload, signature], call, &mut found);
        if claims.orig != call.from || !claims.dest.iter().any(|dest| dest == call.to || dest == call.target) {
            found.insert(Family::Claims);
        }
        if (call.now - claims.iat).abs() > WINDOW {
            found.insert(Family::Freshness);
        }
        if found.is_empty() { Finding::Valid } else { Finding::Invalid(found) }
    }

    fn look_at_chain(
        &mut self,
        head: &Json,
        claims: &Claims,
        token: &[&str; 3],
        call: &Call<'_>,
        found: &mut BTreeSet<Family>,
    ) {
        let [header, payload, signature] = token;
        let chain: Option<Vec<Vec<u8>>> = head
            .get("x5c")
            .and_then(Json::texts)
            .and_then(|texts| texts.into_iter().map(|text| STANDARD.decode(text).ok()).collect::<Option<Vec<_>>>());
        let chain = chain.filter(|chain| !chain.is_empty());
        let leaf = chain.as_ref().and_then(|chain| X509Certificate::from_der(&chain[0]).ok()).map(|(_, leaf)| leaf);
        let (Some(chain), Some(leaf)) = (&chain, leaf) else {
            found.insert(Family::Chain);
            return;
        };
        let (leads, leads_now) = self.paths_of(chain, call.now);
        let spki = leaf.public_key();
        let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok()).map(|oid| oid.to_id_string());
        let is_p256 = spki.algorithm.algorithm.to_id_string() == ES256_KEY && curve.as_deref() == Some(P256);
        let key = VerifyingKey::from_sec1_bytes(&spki.subject_public_key.data).ok().filter(|_| is_p256);
        if !leads || key.is_none() {
            found.insert(Family::Chain);
        }
        let validity = leaf.validity();
        let (start, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        if (leads && !leads_now) || claims.iat < start - WINDOW || claims.iat > end + WINDOW {
            found.insert(Family::Validity);
        }
        let list = leaf.extensions().iter().find(|extension| extension.oid.to_id_string() == TN_AUTH_LIST);
        if !list.is_some_and(|list| covers(list.value, &claims.orig)) {
            found.insert(Family::Number);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok().and_then(|octets| Signature::from_slice(&octets).ok());
        let is_good = key
            .zip(signature)
            .is_some_and(|(key, signature)| key.verify(format!("{header}.{payload}").as_bytes(), &signature).is_ok());
        if !is_good {
            found.insert(Family::Signature);
        }
    }

    fn paths_of(&mut self, chain: &[Vec<u8>], now: i64) -> (bool, bool) {
        if let Some(known) = self.paths.get(chain) {
            return *known;
        }
        let file = |name: &str, certificates: &[Vec<u8>]| {
            let path = self.directory.path().join(name);
            std::fs::write(&path, certificates.iter().map(|der| pem(der)).collect::<String>()).unwrap();
            path
        };
        let (leaf, others) = (file("leaf.pem", &chain[..1]), file("others.pem", &chain[1..]));
        let has_others = chain.len() > 1;
        // RFC 7515 4.1.6: each one certifies the one before. OpenSSL takes them in any order, so each pair is asked about.
        let certifies = |pair: &[Vec<u8>]| {
            let (below, above) = (file("below.pem", &pair[..1]), file("above.pem", &pair[1..]));
            let check = ["verify", "-no_check_time", "-partial_chain", "-no-CApath", "-no-CAstore", "-trusted"];
            quietly(Command::new("openssl").args(check).arg(above).arg(below))
        };
        let is_ordered = chain.windows(2).all(certifies);
        let verifies = |time: &[&str]| openssl(&self.anchor, has_others.then_some(&*others), &leaf, time);
        let (leads, leads_now) = (verifies(&["-no_check_time"]), verifies(&["-attime", &now.to_string()]));
        let answer = (is_ordered && leads, is_ordered && leads_now);
        self.asked += 1 + chain.len();
        self.paths.insert(chain.to_vec(), answer);
        answer
    }
}

fn openssl(anchor: &Path, others: Option<&Path>, leaf: &Path, time: &[&str]) -> bool {
    let mut command = Command::new("openssl");
    command.arg("verify").arg("-no-CApath").arg("-no-CAstore").arg("-CAfile").arg(anchor).args(time);
    if let Some(others) = others {
        command.arg("-untrusted").arg(others);
    }
    quietly(command.arg(leaf))
}

fn quietly(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// A TNAuthList (RFC 8226 section 9): a service provider code speaks for all numbers, others for their own.
fn covers(mut der: &[u8], number: &str) -> bool {
    let Some((0x30, mut list, rest)) = element(der) else { return false };
    if !rest.is_empty() {
        return false;
    }
    let mut covered = false;
    while let Some((tag, value, rest)) = element(list) {
        (list, der) = (rest, value);
        covered |= match tag {
            0xa0 => matches!(element(der), Some((0x16, ..))),
            0xa1 => {
                let Some((0x30, range, _)) = element(der) else { return false };
                let Some((0x16, start, count)) = element(range) else { return false };
                let Some((0x02, count, _)) = element(count) else { return false };
                let count = count.iter().fold(0u64, |sum, octet| sum << 8 | u64::from(*octet));
                let start = std::str::from_utf8(start).unwrap_or_default();
                let (first, wanted) = (start.parse::<u64>(), number.parse::<u64>());
                start.len() == number.len()
                    && first
                        .ok()
                        .zip(wanted.ok())
                        .is_some_and(|(first, wanted)| (first..first + count).contains(&wanted))
            }
            0xa2 => matches!(element(der), Some((0x16, own, _)) if own == number.as_bytes()),
            _ => return false,
        };
    }
    covered
}

/// Tag, contents and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(*rest.first()?) << 8 | usize::from(*rest.get(1)?), rest.get(2..)?),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

struct Claims {
    orig: String,
    dest: Vec<String>,
    iat: i64,
    attest: Option<String>,
    origid: Option<String>,
}

fn is_tn(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit() || matches!(octet, b'*' | b'#'))
}

impl Claims {
    /// RFC 8225 section 5; `attest` and `origid` are texts where they are there.
    fn read(json: &Json) -> Option<Self> {
        json.members()?.iter().all(|(name, _)| name.is_ascii()).then_some(())?;
        let Some(Json::Integer(iat)) = json.get("iat") else { return None };
        let orig = match json.get("orig")?.members()? {
            [(name, value)] if name == "tn" => value.text().filter(|text| is_tn(text))?,
            [(name, value)] if name == "uri" => value.text()?,
            _ => return None,
        };
        let mut dest = Vec::new();
        for (name, value) in json.get("dest")?.members()? {
            let texts = value.texts()?;
            match name.as_str() {
                "tn" => texts.iter().all(|text| is_tn(text)).then_some(())?,
                "uri" => {}
                _ => return None,
            }
            dest.extend(texts.into_iter().map(str::to_owned));
        }
        (!dest.is_empty()).then_some(())?;
        let optional = |name: &str| match json.get(name) {
            None => Some(None),
            Some(value) => value.text().map(|text| Some(text.to_owned())),
        };
        Some(Self { orig: orig.to_owned(), dest, iat: *iat, attest: optional("attest")?, origid: optional("origid")? })
    }

    /// RFC 8588.
    fn is_shaken(&self) -> bool {
        let is_uuid = |text: &str| {
            let groups: Vec<&str> = text.split('-').collect();
            let is_hex = |group: &&str| group.bytes().all(|octet| octet.is_ascii_hexdigit());
            groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(is_hex)
        };
        matches!(self.attest.as_deref(), Some("A" | "B" | "C")) && self.origid.as_deref().is_some_and(is_uuid)
    }
}
