//! The payload of a PASSporT: claims of RFC 8225 section 5, and those of the extensions this program acts on.
//!
//! Reading borrows from the decoded payload and allocates only for what is rare: escapes in strings, several destinations, `mky`,
//! claims this program does not know. The latter are kept with their values, since certificates may constrain them (RFC 8226
//! section 8, RFC 9118).
use super::{Config, MediaKey};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

mod read;

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
    /// Objects or arrays within each other, more than [`Config::max_depth`].
    TooDeep {
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
            Self::TooDeep { limit } => write!(f, "JSON is more than {limit} levels deep"),
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
    /// The same, borrowing from it.
    pub fn borrowed(&self) -> Identity<'_> {
        match self {
            Self::Tn(tn) => Identity::Tn(Cow::Borrowed(tn)),
            Self::Uri(uri) => Identity::Uri(Cow::Borrowed(uri)),
        }
    }

    /// The same, borrowing from nothing.
    pub fn into_owned(self) -> Identity<'static> {
        match self {
            Self::Tn(tn) => Identity::Tn(tn.into_owned().into()),
            Self::Uri(uri) => Identity::Uri(uri.into_owned().into()),
        }
    }

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

    /// All of them: numbers, then URIs.
    pub fn iter(&self) -> impl Iterator<Item = Identity<'_>> {
        let numbers = self.tn.iter().map(|tn| Identity::Tn(tn.into()));
        numbers.chain(self.uri.iter().map(|uri| Identity::Uri(uri.into())))
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
        read::parse(payload, config)
    }

    /// One of the claims that have no field of their own.
    pub fn other(&self, name: &str) -> Option<&Value> {
        self.others.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// The same as text.
    ///
    /// # Errors
    /// [`ClaimsError::Malformed`] when it is there and no string.
    pub fn other_text(&self, name: &'static str) -> Result<Option<&str>, ClaimsError> {
        self.other(name).map(|value| value.as_str().ok_or(ClaimsError::Malformed(name))).transpose()
    }

    /// Adds a claim that has no field of its own; whoever signs sees to it that it is not there yet.
    pub fn put(&mut self, name: &'static str, value: impl Into<Value>) {
        self.others.push((name.into(), value.into()));
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
pub(super) fn is_tn(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit() || matches!(octet, b'*' | b'#'))
}
