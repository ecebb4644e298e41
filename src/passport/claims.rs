//! The payload of a PASSporT: claims of RFC 8225 section 5, and those of the extensions this program acts on.
//!
//! Reading borrows from the decoded payload and allocates only for what is rare: escapes in strings, several destinations, `mky`,
//! claims this program does not know. The latter are kept with their values, since certificates may constrain them (RFC 8226
//! section 8, RFC 9118).
use super::json::{Any, Fault, NumericDate, Text};
use super::{Config, MediaKey};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

/// What is wrong with a payload (or with the JSON of a protected header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimsError {
    /// Not JSON, not UTF-8, or not an object; `column` is where the reader stopped, 1-based.
    NotJson {
        /// Octet at which reading stopped, counted from 1.
        column: usize,
    },
    /// Two members of one object have the same name (P-21).
    DuplicateMember,
    /// More members or elements than [`Config::max_members`].
    TooManyMembers {
        /// The limit that was passed.
        limit: usize,
    },
    /// A claim that has to be there is missing (P-7, P-8, P-9, S-1).
    Missing(&'static str),
    /// A claim has the wrong type or an impossible value, as `iat` in a string or `orig.tn` with a plus sign.
    Malformed(&'static str),
}

impl fmt::Display for ClaimsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson { column } => write!(f, "payload is not a JSON object (octet {column})"),
            Self::DuplicateMember => f.write_str("two members of one JSON object have the same name"),
            Self::TooManyMembers { limit } => write!(f, "a JSON object or array has more than {limit} members"),
            Self::Missing(claim) => write!(f, "claim {claim} is missing"),
            Self::Malformed(claim) => write!(f, "claim {claim} is malformed"),
        }
    }
}

impl std::error::Error for ClaimsError {}

/// One identity: the value of `orig` or `div`, or one element of `dest` (RFC 8225 section 5.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// A telephone number in canonical form: digits, `*`, `#` (P-11).
    Tn(Cow<'a, str>),
    /// A URI.
    Uri(Cow<'a, str>),
}

impl Identity<'_> {
    /// The number, if it is one.
    pub fn tn(&self) -> Option<&str> {
        match self {
            Self::Tn(tn) => Some(tn),
            Self::Uri(_) => None,
        }
    }

    /// The number or URI as text.
    pub fn text(&self) -> &str {
        match self {
            Self::Tn(text) | Self::Uri(text) => text,
        }
    }
}

/// Strings of a `dest` array: one is the rule and needs no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts<'a> {
    first: Option<Cow<'a, str>>,
    more: Vec<Cow<'a, str>>,
}

impl<'a> Texts<'a> {
    /// Exactly one string.
    pub fn one(text: impl Into<Cow<'a, str>>) -> Self {
        Self { first: Some(text.into()), more: Vec::new() }
    }

    /// Appends one.
    pub fn push(&mut self, text: impl Into<Cow<'a, str>>) {
        match self.first {
            None => self.first = Some(text.into()),
            Some(_) => self.more.push(text.into()),
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.first.iter().chain(&self.more).map(AsRef::as_ref)
    }

    /// How many.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Lexicographic order, as a signer is to write them (P-10).
    pub fn sort(&mut self) {
        if let Some(first) = self.first.take() {
            self.more.push(first);
            self.more.sort_unstable();
            self.first = Some(self.more.remove(0));
        }
    }
}

/// The `dest` claim: at least one identity in all (P-9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations<'a> {
    /// Telephone numbers in canonical form.
    pub tn: Texts<'a>,
    /// URIs.
    pub uri: Texts<'a>,
}

impl<'a> Destinations<'a> {
    /// One destination.
    pub fn one(identity: Identity<'a>) -> Self {
        match identity {
            Identity::Tn(tn) => Self { tn: Texts::one(tn), uri: Texts::default() },
            Identity::Uri(uri) => Self { tn: Texts::default(), uri: Texts::one(uri) },
        }
    }
}

/// The claims of a PASSporT.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims<'a> {
    /// `attest` of SHAKEN, as received; judged by [`super::ppt::shaken`].
    pub attest: Option<Cow<'a, str>>,
    /// Who is called.
    pub dest: Destinations<'a>,
    /// `div` of RFC 8946: the previous destination.
    pub div: Option<Identity<'a>>,
    /// When the call was originated, UNIX seconds.
    pub iat: i64,
    /// Fingerprints of the media keys.
    pub mky: Option<Vec<MediaKey<'a>>>,
    /// Who calls.
    pub orig: Identity<'a>,
    /// `origid` of SHAKEN, as received; judged by [`super::ppt::shaken`].
    pub origid: Option<Cow<'a, str>>,
    /// All other claims in the order received, names unique.
    pub others: Vec<(Cow<'a, str>, Value)>,
}

impl<'a> Claims<'a> {
    /// Baseline claims alone (RFC 8225 section 5.1 and 5.2.1).
    pub fn baseline(orig: Identity<'a>, dest: Destinations<'a>, iat: i64) -> Self {
        Self { attest: None, dest, div: None, iat, mky: None, orig, origid: None, others: Vec::new() }
    }

    /// Reads a decoded payload.
    ///
    /// # Errors
    /// [`ClaimsError`] when it is no JSON object, repeats a member name at any depth, lacks `iat`, `orig` or `dest`, or holds a
    /// known claim of the wrong shape. White space and member order are free: only signers are bound to RFC 8225 section 9.
    pub fn parse(payload: &'a [u8], config: &Config) -> Result<Self, ClaimsError> {
        let fault = Fault::default();
        let mut deserializer = serde_json::Deserializer::from_slice(payload);
        let read = Reader { fault: &fault, config }.deserialize(&mut deserializer).and_then(|claims| {
            deserializer.end()?;
            Ok(claims)
        });
        read.map_err(|error| fault.into_error(&error))
    }

    /// Names of the claims present, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let known = [
            ("attest", self.attest.is_some()),
            ("div", self.div.is_some()),
            ("mky", self.mky.is_some()),
            ("origid", self.origid.is_some()),
            ("dest", true),
            ("iat", true),
            ("orig", true),
        ];
        let known = known.into_iter().filter_map(|(name, present)| present.then_some(name));
        known.chain(self.others.iter().map(|(name, _)| name.as_ref()))
    }

    /// All claims as one JSON object: what constraints in a certificate are compared with.
    pub fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
        if let Some(attest) = &self.attest {
            put("attest", Value::from(attest.as_ref()));
        }
        let mut dest = Map::new();
        for (name, texts) in [("tn", &self.dest.tn), ("uri", &self.dest.uri)] {
            if !texts.is_empty() {
                dest.insert(name.to_owned(), texts.iter().collect());
            }
        }
        put("dest", Value::Object(dest));
        if let Some(div) = &self.div {
            put("div", identity_value(div));
        }
        put("iat", Value::from(self.iat));
        if let Some(mky) = &self.mky {
            put("mky", mky.iter().map(MediaKey::to_value).collect());
        }
        put("orig", identity_value(&self.orig));
        if let Some(origid) = &self.origid {
            put("origid", Value::from(origid.as_ref()));
        }
        for (name, value) in &self.others {
            put(name, value.clone());
        }
        map
    }
}

fn identity_value(identity: &Identity<'_>) -> Value {
    let (name, text) = match identity {
        Identity::Tn(text) => ("tn", text),
        Identity::Uri(text) => ("uri", text),
    };
    Value::Object(Map::from_iter([(name.to_owned(), Value::from(text.as_ref()))]))
}

/// A canonical telephone number: `1*(DIGIT / "*" / "#")` (RFC 8224 section 8.3, P-11).
fn is_tn(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit() || matches!(octet, b'*' | b'#'))
}

#[derive(Clone, Copy)]
struct Reader<'c> {
    fault: &'c Fault,
    config: &'c Config,
}

impl<'c> Reader<'c> {
    /// Sets a claim once; a second time is a duplicate member.
    fn set<T, E: serde::de::Error>(self, slot: &mut Option<T>, value: T) -> Result<(), E> {
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(self.fault.raise(ClaimsError::DuplicateMember)),
        }
    }

    /// The next value by `seed`; a failure without a cause of its own means a malformed `claim`.
    fn value<'de, A: MapAccess<'de>, S: DeserializeSeed<'de>>(
        self,
        map: &mut A,
        claim: &'static str,
        seed: S,
    ) -> Result<S::Value, A::Error> {
        map.next_value_seed(seed).map_err(|_| self.fault.raise(ClaimsError::Malformed(claim)))
    }

    fn any(self) -> Any<'c> {
        Any { fault: self.fault, max_members: self.config.max_members }
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Claims<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Claims<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Claims<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims<'de>, A::Error> {
        let (mut attest, mut origid, mut iat, mut mky) = (None, None, None, None);
        let (mut orig, mut dest, mut div) = (None, None, None);
        let mut others: Vec<(Cow<'de, str>, Value)> = Vec::new();
        let sole = IdentitySeed { reader: self, siblings: false };
        while let Some(name) = map.next_key_seed(Text)? {
            match name.as_ref() {
                "attest" => self.set(&mut attest, self.value(&mut map, "attest", Text)?)?,
                "dest" => self.set(&mut dest, self.value(&mut map, "dest", DestinationsSeed(self))?)?,
                "div" => {
                    let seed = IdentitySeed { siblings: true, ..sole };
                    self.set(&mut div, self.value(&mut map, "div", seed)?)?;
                }
                "iat" => {
                    let seed = NumericDate { lenient: self.config.lenient_iat };
                    self.set(&mut iat, self.value(&mut map, "iat", seed)?)?;
                }
                "mky" => self.set(&mut mky, self.value(&mut map, "mky", MediaKeysSeed(self))?)?,
                "orig" => self.set(&mut orig, self.value(&mut map, "orig", sole)?)?,
                "origid" => self.set(&mut origid, self.value(&mut map, "origid", Text)?)?,
                // P-6: claim names are ASCII.
                _ if !name.is_ascii() => return Err(self.fault.raise(ClaimsError::Malformed("(name)"))),
                _ => {
                    if others.iter().any(|(known, _)| *known == name) {
                        return Err(self.fault.raise(ClaimsError::DuplicateMember));
                    }
                    if others.len() == self.config.max_members {
                        let limit = self.config.max_members;
                        return Err(self.fault.raise(ClaimsError::TooManyMembers { limit }));
                    }
                    let value = map.next_value_seed(self.any())?;
                    others.push((name, value));
                }
            }
        }
        let missing = |claim| self.fault.raise(ClaimsError::Missing(claim));
        Ok(Claims {
            attest,
            dest: dest.ok_or_else(|| missing("dest"))?,
            div,
            iat: iat.ok_or_else(|| missing("iat"))?,
            mky,
            orig: orig.ok_or_else(|| missing("orig"))?,
            origid,
            others,
        })
    }
}

/// `{"tn":"..."}` or `{"uri":"..."}`, exactly one (P-8); `div` may have siblings such as `hi` (RFC 8946 section 8).
#[derive(Clone, Copy)]
struct IdentitySeed<'c> {
    reader: Reader<'c>,
    siblings: bool,
}

impl<'de> DeserializeSeed<'de> for IdentitySeed<'_> {
    type Value = Identity<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Identity<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for IdentitySeed<'_> {
    type Value = Identity<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one identity")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Identity<'de>, A::Error> {
        use serde::de::Error;
        let (mut tn, mut uri) = (None, None);
        let mut siblings = Vec::new();
        while let Some(name) = map.next_key_seed(Text)? {
            match name.as_ref() {
                "tn" => self.reader.set(&mut tn, map.next_value_seed(Text)?)?,
                "uri" => self.reader.set(&mut uri, map.next_value_seed(Text)?)?,
                _ if !self.siblings || siblings.len() == self.reader.config.max_members => {
                    return Err(A::Error::custom("not an identity"));
                }
                _ => {
                    if siblings.contains(&name) {
                        return Err(self.reader.fault.raise(ClaimsError::DuplicateMember));
                    }
                    siblings.push(name);
                    map.next_value_seed(self.reader.any())?;
                }
            }
        }
        match (tn, uri) {
            (Some(tn), None) if is_tn(&tn) => Ok(Identity::Tn(tn)),
            (None, Some(uri)) => Ok(Identity::Uri(uri)),
            _ => Err(A::Error::custom("not exactly one identity")),
        }
    }
}

struct DestinationsSeed<'c>(Reader<'c>);

impl<'de> DeserializeSeed<'de> for DestinationsSeed<'_> {
    type Value = Destinations<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Destinations<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for DestinationsSeed<'_> {
    type Value = Destinations<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of arrays of identities")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Destinations<'de>, A::Error> {
        use serde::de::Error;
        let (mut tn, mut uri) = (None, None);
        while let Some(name) = map.next_key_seed(Text)? {
            match name.as_ref() {
                "tn" => self.0.set(&mut tn, map.next_value_seed(TextsSeed(self.0))?)?,
                "uri" => self.0.set(&mut uri, map.next_value_seed(TextsSeed(self.0))?)?,
                _ => return Err(A::Error::custom("not an identity")),
            }
        }
        let destinations = Destinations { tn: tn.unwrap_or_default(), uri: uri.unwrap_or_default() };
        let some = !destinations.tn.is_empty() || !destinations.uri.is_empty();
        if !some || !destinations.tn.iter().all(is_tn) {
            return Err(A::Error::custom("no canonical identity"));
        }
        Ok(destinations)
    }
}

struct TextsSeed<'c>(Reader<'c>);

impl<'de> DeserializeSeed<'de> for TextsSeed<'_> {
    type Value = Texts<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Texts<'de>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for TextsSeed<'_> {
    type Value = Texts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts<'de>, A::Error> {
        let limit = self.0.config.max_members;
        let mut texts = Texts::default();
        while let Some(text) = seq.next_element_seed(Text)? {
            if texts.len() == limit {
                return Err(self.0.fault.raise(ClaimsError::TooManyMembers { limit }));
            }
            texts.push(text);
        }
        Ok(texts)
    }
}

struct MediaKeysSeed<'c>(Reader<'c>);

impl<'de> DeserializeSeed<'de> for MediaKeysSeed<'_> {
    type Value = Vec<MediaKey<'de>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MediaKeysSeed<'_> {
    type Value = Vec<MediaKey<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of fingerprints")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let limit = self.0.config.max_members;
        let mut keys = Vec::new();
        while let Some(key) = seq.next_element_seed(MediaKeySeed(self.0))? {
            if keys.len() == limit {
                return Err(self.0.fault.raise(ClaimsError::TooManyMembers { limit }));
            }
            keys.push(key);
        }
        Ok(keys)
    }
}

/// `{"alg":"sha-256","dig":"..."}` (P-12).
struct MediaKeySeed<'c>(Reader<'c>);

impl<'de> DeserializeSeed<'de> for MediaKeySeed<'_> {
    type Value = MediaKey<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<MediaKey<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MediaKeySeed<'_> {
    type Value = MediaKey<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with alg and dig")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MediaKey<'de>, A::Error> {
        use serde::de::Error;
        let (mut alg, mut dig) = (None, None);
        while let Some(name) = map.next_key_seed(Text)? {
            match name.as_ref() {
                "alg" => self.0.set(&mut alg, map.next_value_seed(Text)?)?,
                "dig" => self.0.set(&mut dig, map.next_value_seed(Text)?)?,
                _ => return Err(A::Error::custom("not a fingerprint")),
            }
        }
        match (alg, dig) {
            (Some(algorithm), Some(digest)) => Ok(MediaKey { algorithm, digest }),
            _ => Err(A::Error::custom("not a fingerprint")),
        }
    }
}
