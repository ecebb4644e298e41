//! The reader of a payload: one pass over its JSON, straight into the typed claims.
use super::{Claims, ClaimsError, Destinations, Identity, Texts, is_tn};
use crate::passport::json::{Any, Fault, NumericDate, Text};
use crate::passport::{Config, MediaKey};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// Reads a decoded payload.
pub(super) fn parse<'a>(payload: &'a [u8], config: &Config) -> Result<Claims<'a>, ClaimsError> {
    let fault = Fault::default();
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let read = Reader { fault: &fault, config }.deserialize(&mut deserializer).and_then(|claims| {
        deserializer.end()?;
        Ok(claims)
    });
    read.map_err(|error| fault.into_error(&error))
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

    /// A value that stands this many objects or arrays deep.
    fn any(self, depth: usize) -> Any<'c> {
        Any::within(self.fault, self.config, depth)
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
                    let value = map.next_value_seed(self.any(1))?;
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
                    map.next_value_seed(self.reader.any(2))?;
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
