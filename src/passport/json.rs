//! Reading JSON strictly: serde_json for the grammar, and what it leaves open on top: a repeated member name in one object scope is
//! refused (P-21, RFC 8225 section 9), objects and arrays are bounded.
use super::{ClaimsError, Config};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

/// Where a visitor leaves the typed cause, since serde's errors carry only text.
#[derive(Default)]
pub(super) struct Fault(Cell<Option<ClaimsError>>);

impl Fault {
    /// Records the cause (the innermost wins) and gives the error that stops serde.
    pub(super) fn raise<E: serde::de::Error>(&self, error: ClaimsError) -> E {
        if self.0.get().is_none() {
            self.0.set(Some(error));
        }
        E::custom("refused")
    }

    /// The recorded cause, else that the text is no JSON.
    pub(super) fn into_error(self, json: &serde_json::Error) -> ClaimsError {
        self.0.into_inner().unwrap_or(ClaimsError::NotJson { column: json.column() })
    }
}

/// A JSON string, borrowed when it holds no escape.
pub(super) struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text))
    }
}

/// Any JSON value, with unique member names at every depth.
#[derive(Clone, Copy)]
pub(super) struct Any<'c> {
    fault: &'c Fault,
    config: &'c Config,
    /// Objects and arrays that it may still hold within each other.
    depth: usize,
}

impl<'c> Any<'c> {
    /// A value that stands `depth` objects or arrays deep.
    pub(super) fn within(fault: &'c Fault, config: &'c Config, depth: usize) -> Self {
        Self { fault, config, depth: config.max_depth.saturating_sub(depth) }
    }

    /// The elements or members of this value.
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth, ..self }),
            None => Err(self.fault.raise(ClaimsError::TooDeep { limit: self.config.max_depth })),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not finite"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let (inner, mut elements) = (self.inner()?, Vec::new());
        while let Some(element) = seq.next_element_seed(inner)? {
            if elements.len() == self.config.max_members {
                return Err(self.fault.raise(ClaimsError::TooManyMembers { limit: self.config.max_members }));
            }
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let (inner, mut members) = (self.inner()?, Map::new());
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(self.fault.raise(ClaimsError::DuplicateMember));
            }
            if members.len() == self.config.max_members {
                return Err(self.fault.raise(ClaimsError::TooManyMembers { limit: self.config.max_members }));
            }
            let value = map.next_value_seed(inner)?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

/// `iat`: a JSON integer; a decimal string only when `lenient` (P-7, RFC 7519 NumericDate).
pub(super) struct NumericDate {
    pub(super) lenient: bool,
}

impl<'de> DeserializeSeed<'de> for NumericDate {
    type Value = i64;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<i64, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for NumericDate {
    type Value = i64;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer number of seconds")
    }
    fn visit_i64<E>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(|_| E::custom("out of range"))
    }
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<i64, E> {
        let digits = !value.is_empty() && value.bytes().all(|octet| octet.is_ascii_digit());
        if !self.lenient || !digits {
            return Err(E::custom("not a number"));
        }
        value.parse().map_err(E::custom)
    }
}
