//! The claims of a payload, and what their kind asks of their shape.

use serde_json::Value;

use super::json::Json;
use super::rich;

pub struct Claims {
    pub orig: String,
    pub orig_is_number: bool,
    pub dest: Vec<String>,
    dest_has_number: bool,
    pub iat: i64,
    attest: Option<String>,
    origid: Option<String>,
    pub div: Option<String>,
    /// Fingerprints: algorithm and digest.
    pub mky: Option<Vec<(String, String)>>,
    /// All of them.
    pub all: Value,
}

fn is_tn(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit() || matches!(octet, b'*' | b'#'))
}

/// One identity: text, and whether it is a number.
fn identity(name: &str, value: &Json) -> Option<(String, bool)> {
    match name {
        "tn" => value.text().filter(|text| is_tn(text)).map(|text| (text.to_owned(), true)),
        "uri" => value.text().map(|text| (text.to_owned(), false)),
        _ => None,
    }
}

impl Claims {
    /// RFC 8225 section 5; `attest` and `origid` are texts where they are there. RFC 8946: `div` is one identity, others may be beside it.
    pub fn read(octets: &[u8]) -> Option<Self> {
        let (json, all) = (Json::read(octets)?, serde_json::from_slice(octets).ok()?);
        json.members()?.iter().all(|(name, _)| name.is_ascii()).then_some(())?;
        let Some(Json::Integer(iat)) = json.get("iat") else { return None };
        let [(name, value)] = json.get("orig")?.members()? else { return None };
        let (orig, orig_is_number) = identity(name, value)?;
        let (mut dest, mut dest_has_number) = (Vec::new(), false);
        for (name, value) in json.get("dest")?.members()? {
            for value in value.list()? {
                let (text, is_number) = identity(name, value)?;
                dest.push(text);
                dest_has_number |= is_number;
            }
        }
        (!dest.is_empty()).then_some(())?;
        let div = match json.get("div") {
            None => None,
            Some(div) => {
                let own = |(name, _): &&(String, Json)| matches!(name.as_str(), "tn" | "uri");
                let named: Vec<&(String, Json)> = div.members()?.iter().filter(own).collect();
                let [(name, value)] = named[..] else { return None };
                Some(identity(name, value)?.0)
            }
        };
        let mky = match json.get("mky") {
            None => None,
            Some(list) => Some(list.list()?.iter().map(fingerprint).collect::<Option<Vec<_>>>()?),
        };
        let optional = |name: &str| match json.get(name) {
            None => Some(None),
            Some(value) => value.text().map(|text| Some(text.to_owned())),
        };
        let (attest, origid) = (optional("attest")?, optional("origid")?);
        Some(Self { orig, orig_is_number, dest, dest_has_number, iat: *iat, attest, origid, div, mky, all })
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.all.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.as_object().into_iter().flatten().map(|(name, _)| name.as_str())
    }

    /// RFC 8588.
    pub fn attest(&self) -> Option<&str> {
        let is_uuid = |text: &str| {
            let groups: Vec<&str> = text.split('-').collect();
            let is_hex = |group: &&str| group.bytes().all(|octet| octet.is_ascii_hexdigit());
            groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(is_hex)
        };
        let letter = self.attest.as_deref().filter(|letter| ["A", "B", "C"].contains(letter))?;
        self.origid.as_deref().is_some_and(is_uuid).then_some(letter)
    }

    /// What the kind asks of its claims, apart from what they say.
    pub fn fit(&self, kind: Option<&str>) -> bool {
        let own = match kind {
            Some("shaken") => self.attest().is_some(),
            Some("div") => self.div.is_some() && self.get("opt").is_none(),
            Some("div-o") => self.div.is_some() && self.opt().is_some(),
            Some("rph") => Priority::read(self).is_some(),
            Some("rcd") => self.get("rcd").is_some() || self.get("crn").is_some(),
            Some("msg") => self.get("msgi").is_none_or(|msgi| msgi.as_str().and_then(rich::Digest::read).is_some()),
            _ => true,
        };
        // RFC 9795 section 8: these claims may be in tokens of other kinds. Diversions copy none.
        own && (matches!(kind, Some("div" | "div-o" | "rph")) || rich::fit(self))
    }

    /// D-17: a full form.
    pub fn opt(&self) -> Option<&str> {
        self.get("opt")?.as_str().filter(|token| !token.is_empty() && !token.starts_with('.'))
    }
}

fn fingerprint(json: &Json) -> Option<(String, String)> {
    let (alg, dig) = (json.get("alg")?.text()?, json.get("dig")?.text()?);
    (json.members()?.len() == 2).then(|| (alg.to_ascii_lowercase(), dig.to_ascii_uppercase()))
}

/// RFC 8443 and RFC 9027.
pub struct Priority {
    /// In lower case: they compare without case.
    pub values: Vec<String>,
    pub is_callback: bool,
}

impl Priority {
    pub fn read(claims: &Claims) -> Option<Self> {
        let auth = claims.get("rph")?.get("auth")?.as_array()?;
        let values: Vec<String> =
            auth.iter().map(|value| Some(value.as_str()?.to_ascii_lowercase())).collect::<Option<_>>()?;
        (!values.is_empty() && values.iter().all(|value| is_r_value(value))).then_some(())?;
        let is_emergency = values.iter().any(|value| value.starts_with("esnet."));
        (!is_emergency || claims.orig_is_number).then_some(())?;
        let is_callback = match claims.get("sph") {
            None => false,
            Some(sph) => {
                let is_good = sph == "psap-callback" && is_emergency && claims.dest_has_number;
                is_good.then_some(true)?
            }
        };
        Some(Self { values, is_callback })
    }
}

/// RFC 4412 section 3.1, RFC 7135.
fn is_r_value(text: &str) -> bool {
    let Some((namespace, priority)) = text.split_once('.') else { return false };
    let is_token =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-!%*_+`'~".contains(c));
    is_token(namespace) && is_token(priority) && (namespace != "esnet" || ["0", "1", "2", "3", "4"].contains(&priority))
}
