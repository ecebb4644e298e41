//! Rich call data (RFC 9795): the shape of the claims, and which parts hold.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::Value;

use super::claims::Claims;
use super::json::canonical;
use super::openssl::OpenSsl;

/// A part that is shown or not by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Name,
    Number,
    Icon,
    Card,
    Reason,
    Other,
}

/// What is to be said of the rich call data of a valid token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rich {
    /// Parts that are there and do not hold.
    pub refused: BTreeSet<Part>,
    /// Of a picture or card elsewhere that is covered by a digest and was fetched: whether it has that digest.
    pub content: BTreeMap<String, bool>,
}

/// `sha256-` and base64, with or without padding (C-4).
pub struct Digest {
    hash: &'static str,
    octets: Vec<u8>,
}

impl Digest {
    pub fn read(text: &str) -> Option<Self> {
        let (label, encoded) = text.split_once('-')?;
        let known = [("sha256", 32), ("sha384", 48), ("sha512", 64)];
        let (hash, length) = known.into_iter().find(|(name, _)| *name == label)?;
        let octets = STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
        (octets.len() == length).then_some(Self { hash, octets })
    }

    pub fn is_of(&self, octets: &[u8], openssl: &mut OpenSsl) -> bool {
        openssl.digest(self.hash, octets) == self.octets
    }
}

fn is_url(text: &str, scheme: &str) -> bool {
    let head = text.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
    head && text.len() > scheme.len() && text.chars().all(|c| c.is_ascii_graphic() && !"<>\"\\".contains(c))
}

/// RFC 7095 section 3.3, RFC 9796 sections 10.4.1 and 10.9.6.
fn is_jcard(card: &Value) -> bool {
    let Some(properties) = card.get(1).and_then(Value::as_array) else { return false };
    let is_vcard = card.as_array().is_some_and(|card| card.len() == 2) && card[0] == "vcard";
    let is_property = |property: &Value| {
        property.as_array().is_some_and(|property| property.len() >= 4)
            && property[0].is_string()
            && property[1].is_object()
            && property[2].is_string()
    };
    let count = |name: &str| properties.iter().filter(|property| property[0] == name).count();
    is_vcard
        && properties.iter().all(is_property)
        && count("version") == 1
        && count("fn") >= 1
        && count("n") <= 1
        && count("uid") <= 1
}

/// Construction rules (C-1, C-2).
pub fn fit(claims: &Claims) -> bool {
    let is_text = |value: Option<&Value>| value.is_none_or(Value::is_string);
    if !is_text(claims.get("crn")) || !is_text(claims.get("iss")) {
        return false;
    }
    let digests = claims.get("rcdi").map(|rcdi| rcdi.as_object().filter(|all| all.values().all(Value::is_string)));
    let Some(rcd) = claims.get("rcd") else { return digests.is_none() };
    let linked = |name: &str, schemes: &[&str]| {
        let text = |value: &Value| value.as_str().is_some_and(|url| schemes.iter().any(|scheme| is_url(url, scheme)));
        rcd.get(name).is_none_or(text)
    };
    let is_number = |value: &Value| {
        let is_digit = |c: char| c.is_ascii_digit() || "*#".contains(c);
        value.as_str().is_some_and(|text| !text.is_empty() && text.chars().all(is_digit))
    };
    digests != Some(None)
        && rcd.is_object()
        && rcd.get("nam").is_some_and(Value::is_string)
        && rcd.get("apn").is_none_or(is_number)
        && linked("icn", &["https://", "data:"])
        && linked("jcl", &["https://"])
        && rcd.get("jcd").is_none_or(is_jcard)
        && !(rcd.get("jcd").is_some() && rcd.get("jcl").is_some())
}

/// JSON pointers into `rcd` behind which content lies elsewhere, and its URL.
fn references(rcd: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let text = |name: &str| rcd.get(name).and_then(Value::as_str).map(str::to_owned);
    all.extend(text("icn").filter(|url| is_url(url, "https://")).map(|url| ("/icn".to_owned(), url)));
    all.extend(text("jcl").map(|url| ("/jcl".to_owned(), url)));
    let properties = rcd.get("jcd").and_then(|card| card[1].as_array());
    for (at, property) in properties.into_iter().flatten().enumerate().filter(|(_, property)| property[0] != "url") {
        for (place, value) in property.as_array().unwrap().iter().enumerate().skip(3) {
            let schemes = ["https:", "http:", "cid:", "ftp:"];
            if let Some(url) = value.as_str().filter(|url| schemes.iter().any(|scheme| is_url(url, scheme))) {
                all.push((format!("/jcd/1/{at}/{place}"), url.to_owned()));
            }
        }
    }
    all
}

fn part(pointer: &str) -> Part {
    match pointer.split('/').nth(1) {
        Some("nam") => Part::Name,
        Some("apn") => Part::Number,
        Some("icn") => Part::Icon,
        Some("jcd" | "jcl") => Part::Card,
        _ => Part::Other,
    }
}

/// The octets a digest is over, of what is inside the token (section 6.1): content of a data URL, else the JSON.
fn inline(value: &Value, pointer: &str) -> Option<Vec<u8>> {
    let is_content = pointer == "/icn" || pointer.starts_with("/jcd/");
    match value.as_str().filter(|url| is_content && url.starts_with("data:")) {
        Some(url) => STANDARD.decode(url.split_once(";base64,")?.1).ok(),
        None => Some(canonical(value).into_bytes()),
    }
}

/// Which parts hold (C-5 to C-7, C-11, C-14). `None`: there are none. `content`: what URLs answered.
pub fn judge(
    claims: &Claims,
    shown: &str,
    is_authorized: impl Fn(&str) -> bool,
    content: &BTreeMap<String, Vec<u8>>,
    openssl: &mut OpenSsl,
) -> Option<Rich> {
    let (rcd, crn) = (claims.get("rcd"), claims.get("crn"));
    rcd.or(crn)?;
    let mut found = Rich::default();
    if crn.is_some() && !is_authorized("crn") {
        found.refused.insert(Part::Reason);
    }
    let Some(rcd) = rcd else { return Some(found) };
    const ALL: [Part; 4] = [Part::Name, Part::Number, Part::Icon, Part::Card];
    if !is_authorized("rcd") {
        found.refused.extend(ALL);
    }
    let references = references(rcd);
    let digests = claims.get("rcdi").and_then(Value::as_object);
    for (pointer, text) in digests.into_iter().flatten() {
        let digest = text.as_str().and_then(Digest::read);
        let reference = references.iter().find(|(own, _)| own == pointer);
        // C-7: what a linked card refers to is addressed as if the card were here.
        let is_behind = pointer.starts_with("/jcl/") && rcd.get("jcl").is_some();
        let holds = match (&digest, reference) {
            (Some(digest), Some((_, url))) => {
                // References of a card are not handed on one by one.
                if let Some(octets) = content.get(url).filter(|_| ["/icn", "/jcl"].contains(&pointer.as_str())) {
                    let is_good = digest.is_of(octets, openssl);
                    found.content.insert(url.clone(), is_good);
                }
                true
            }
            (Some(_), None) if is_behind => true,
            (Some(digest), None) => {
                let octets = rcd.pointer(pointer).and_then(|value| inline(value, pointer));
                octets.is_some_and(|octets| digest.is_of(&octets, openssl))
            }
            (None, _) => false,
        };
        match (holds, pointer.as_str()) {
            (true, _) => {}
            (false, "") => found.refused.extend(ALL),
            (false, pointer) => drop(found.refused.insert(part(pointer))),
        }
    }
    let is_covered = |pointer: &str| {
        digests.and_then(|all| all.get(pointer)?.as_str()).is_some_and(|text| Digest::read(text).is_some())
    };
    found
        .refused
        .extend(references.iter().filter(|(pointer, _)| !is_covered(pointer)).map(|(pointer, _)| part(pointer)));
    let name = rcd["nam"].as_str().unwrap();
    if name != shown {
        found.refused.insert(Part::Name);
    }
    let is_there = |part: &Part| match part {
        Part::Name => !name.is_empty(),
        Part::Number => rcd.get("apn").is_some(),
        Part::Icon => rcd.get("icn").is_some(),
        Part::Card => rcd.get("jcd").is_some() || rcd.get("jcl").is_some(),
        Part::Reason | Part::Other => true,
    };
    found.refused.retain(is_there);
    let is_refused =
        |url: &String| references.iter().any(|(pointer, own)| own == url && found.refused.contains(&part(pointer)));
    found.content = std::mem::take(&mut found.content).into_iter().filter(|(url, _)| !is_refused(url)).collect();
    Some(found)
}
