//! Rich call data (RFC 9795): `rcd`, its digests `rcdi`, the call reason `crn`, and `iss` of a third party (C-1 to C-16, T-1 to T-6).
use super::jcard;
use crate::passport::claims::{Destinations, is_tn};
use crate::passport::digest::{Hash, LabelledDigest};
use crate::passport::{Claims, ClaimsError, Identity, serialize};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::fmt;

/// A part of rich call data that is shown or not by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// `nam`.
    Name,
    /// `apn`.
    AlternateNumber,
    /// `icn`.
    Icon,
    /// `jcd` or `jcl`.
    Card,
    /// `crn`.
    Reason,
    /// A member of `rcd` that nobody here shows.
    Other,
}

/// The card of the caller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Card<'c> {
    /// `jcd`: a jCard.
    Inline(&'c Value),
    /// `jcl`: an https URL of one.
    Link(&'c str),
}

/// The rich call data claims of a token, as received.
#[derive(Clone, Debug, PartialEq)]
pub struct RichClaims<'c> {
    /// The whole of `rcd`; `None` when only `crn` is there.
    rcd: Option<&'c Value>,
    /// Display name; empty when the caller has none, `None` without `rcd`.
    pub name: Option<&'c str>,
    /// Number to show instead of the calling one, in canonical form.
    pub alternate_number: Option<&'c str>,
    /// URL of a picture: https or data.
    pub icon: Option<&'c str>,
    /// The card.
    pub card: Option<Card<'c>>,
    /// Digests by JSON pointer.
    digests: Option<&'c Map<String, Value>>,
    /// `crn`.
    pub reason: Option<&'c str>,
    /// `iss`: who speaks, if it is not the caller.
    pub issuer: Option<&'c str>,
}

/// What the digests say of the parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Integrity<'c> {
    /// A digest is not that of what it points to, can not be read, or points to nothing (C-11).
    pub failed: Vec<Element>,
    /// Content of another server that no digest covers (C-5 to C-7).
    pub uncovered: Vec<Element>,
    /// The digest of the linked icon.
    pub icon: Option<&'c str>,
    /// The digest of the linked card.
    pub card: Option<&'c str>,
}

impl Integrity<'_> {
    fn fail(&mut self, pointer: &str) {
        // The empty pointer is the whole of rcd.
        const ALL: [Element; 4] = [Element::Name, Element::AlternateNumber, Element::Icon, Element::Card];
        if pointer.is_empty() { self.failed.extend(ALL) } else { self.failed.push(element(pointer)) }
    }
}

impl<'c> RichClaims<'c> {
    /// Reads them; all empty when the token has none.
    ///
    /// # Errors
    /// [`ClaimsError`] naming the claim or member, when they are not built as RFC 9795 asks: then nothing of them may be used (C-10).
    pub fn read(claims: &'c Claims<'_>) -> Result<Self, ClaimsError> {
        let mut read = Self {
            rcd: claims.other("rcd"),
            name: None,
            alternate_number: None,
            icon: None,
            card: None,
            digests: None,
            reason: claims.other_text("crn")?,
            issuer: claims.other_text("iss")?,
        };
        if let Some(digests) = claims.other("rcdi") {
            // C-2: only with rcd.
            let digests = digests.as_object().filter(|_| read.rcd.is_some());
            let digests = digests.filter(|digests| digests.values().all(Value::is_string));
            read.digests = Some(digests.ok_or(ClaimsError::Malformed("rcdi"))?);
        }
        let Some(rcd) = read.rcd else { return Ok(read) };
        let rcd = rcd.as_object().ok_or(ClaimsError::Malformed("rcd"))?;
        let text = |name: &'static str| {
            rcd.get(name).map(|value| value.as_str().ok_or(ClaimsError::Malformed(name))).transpose()
        };
        let wanted = |name, value: Option<&'c str>, is_good: fn(&str) -> bool| match value {
            Some(value) if !is_good(value) => Err(ClaimsError::Malformed(name)),
            value => Ok(value),
        };
        // C-1
        read.name = Some(text("nam")?.ok_or(ClaimsError::Missing("nam"))?);
        read.alternate_number = wanted("apn", text("apn")?, is_tn)?;
        read.icon = wanted("icn", text("icn")?, |url| is_https(url) || is_data(url))?;
        let link = wanted("jcl", text("jcl")?, is_https)?;
        read.card = match (rcd.get("jcd"), link) {
            (Some(_), Some(_)) => return Err(ClaimsError::Malformed("jcl")),
            (Some(card), None) if !jcard::is_jcard(card) => return Err(ClaimsError::Malformed("jcd")),
            (Some(card), None) => Some(Card::Inline(card)),
            (None, link) => link.map(Card::Link),
        };
        Ok(read)
    }

    /// No claim of rich call data at all.
    pub fn is_empty(&self) -> bool {
        self.rcd.is_none() && self.reason.is_none()
    }

    /// Compares the digests with what is inside the token, and finds what no digest covers. What lies on other servers is not asked
    /// for (C-12).
    pub fn integrity(&self) -> Integrity<'c> {
        let mut found = Integrity::default();
        let Some(rcd) = self.rcd else { return found };
        let mut covered: Vec<&str> = Vec::new();
        for (pointer, text) in self.digests.into_iter().flatten() {
            let text = text.as_str().unwrap_or_default();
            let Some(digest) = LabelledDigest::parse(text) else {
                found.fail(pointer);
                continue;
            };
            match self.target(rcd, pointer) {
                Target::Elsewhere => {
                    covered.push(pointer);
                    match pointer.as_str() {
                        "/icn" => found.icon = Some(text),
                        "/jcl" => found.card = Some(text),
                        _ => {}
                    }
                }
                Target::Here(octets) if digest.is_of(&octets) => {}
                Target::Here(_) | Target::Nothing => found.fail(pointer),
            }
        }
        if self.icon.is_some_and(|url| !is_data(url)) && !covered.contains(&"/icn") {
            found.uncovered.push(Element::Icon);
        }
        let is_card_covered = match self.card {
            None => true,
            Some(Card::Link(_)) => covered.contains(&"/jcl"),
            Some(Card::Inline(card)) => {
                jcard::references(card).all(|(place, _)| covered.contains(&format!("/jcd{place}").as_str()))
            }
        };
        if !is_card_covered {
            found.uncovered.push(Element::Card);
        }
        found
    }

    fn target(&self, rcd: &Value, pointer: &str) -> Target {
        // Behind /jcl a pointer goes on into the card that is not here (C-7).
        if pointer == "/jcl" || pointer.starts_with("/jcl/") {
            return if matches!(self.card, Some(Card::Link(_))) { Target::Elsewhere } else { Target::Nothing };
        }
        let Some(value) = rcd.pointer(pointer) else { return Target::Nothing };
        let refers = |card| jcard::references(card).any(|(place, _)| pointer.strip_prefix("/jcd") == Some(&place));
        match (value.as_str(), self.card) {
            (Some(url), _) if pointer == "/icn" => {
                data_octets(url).map_or(if is_data(url) { Target::Nothing } else { Target::Elsewhere }, Target::Here)
            }
            (Some(_), Some(Card::Inline(card))) if refers(card) => Target::Elsewhere,
            (Some(url), Some(Card::Inline(_))) if pointer.starts_with("/jcd/") && is_data(url) => {
                data_octets(url).map_or(Target::Nothing, Target::Here)
            }
            _ => Target::Here(canonical(value)),
        }
    }
}

/// What a pointer of `rcdi` points to.
enum Target {
    Here(Vec<u8>),
    /// Content that would have to be fetched.
    Elsewhere,
    Nothing,
}

/// The part that a pointer lies in.
fn element(pointer: &str) -> Element {
    match pointer.split('/').nth(1) {
        Some("nam") => Element::Name,
        Some("apn") => Element::AlternateNumber,
        Some("icn") => Element::Icon,
        Some("jcd" | "jcl") => Element::Card,
        _ => Element::Other,
    }
}

fn canonical(value: &Value) -> Vec<u8> {
    let mut octets = Vec::new();
    serialize::write_value(value, &mut octets);
    octets
}

/// The digest to put into `rcdi` for an inline value of `rcd`, or for the octets of a `data` URL (section 6.1: a string with its quotes).
/// `None` when the pointer points to nothing.
pub fn inline_digest(rcd: &Value, pointer: &str, hash: Hash) -> Option<String> {
    let value = rcd.pointer(pointer)?;
    let data = value.as_str().filter(|url| is_data(url));
    Some(match data {
        Some(url) => hash.unpadded(&data_octets(url)?),
        None => hash.unpadded(&canonical(value)),
    })
}

fn is_https(url: &str) -> bool {
    let starts = url.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"));
    starts && url.len() > 8 && is_visible(url)
}

fn is_data(url: &str) -> bool {
    url.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("data:")) && is_visible(url)
}

/// Nothing that could end a URL inside angle brackets, or a line.
fn is_visible(url: &str) -> bool {
    url.bytes().all(|octet| octet.is_ascii_graphic() && !matches!(octet, b'<' | b'>' | b'"' | b'\\'))
}

/// The octets of a `data` URL in base64 (RFC 2397); `None` for another URL or encoding.
fn data_octets(url: &str) -> Option<Vec<u8>> {
    let (head, data) = url.get(5..).filter(|_| is_data(url))?.split_once(',')?;
    let is_base64 = head.get(head.len().checked_sub(7)?..).is_some_and(|end| end.eq_ignore_ascii_case(";base64"));
    STANDARD.decode(data).ok().filter(|_| is_base64)
}

/// Rich call data to be signed, checked when it is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    rcd: Option<Value>,
    rcdi: Option<Value>,
    crn: Option<String>,
}

/// Why rich call data is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssertionError {
    /// There is neither `rcd` nor `crn` (C-8).
    Empty,
    /// Not built as RFC 9795 asks.
    Claims(ClaimsError),
    /// A digest does not fit.
    Digest(Element),
    /// Content on another server without digest (C-3, C-5 to C-7).
    Uncovered(Element),
}

impl fmt::Display for AssertionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("neither rcd nor crn"),
            Self::Claims(error) => error.fmt(f),
            Self::Digest(element) => write!(f, "a digest in rcdi does not fit {}", element.name()),
            Self::Uncovered(element) => write!(f, "{} refers to content without digest in rcdi", element.name()),
        }
    }
}

impl std::error::Error for AssertionError {}

impl Element {
    /// The claim or member.
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "nam",
            Self::AlternateNumber => "apn",
            Self::Icon => "icn",
            Self::Card => "jcd or jcl",
            Self::Reason => "crn",
            Self::Other => "another member",
        }
    }
}

impl Assertion {
    /// Takes and checks the claims; what lies on other servers needs its digest in `rcdi`.
    ///
    /// # Errors
    /// [`AssertionError`].
    pub fn new(rcd: Option<Value>, rcdi: Option<Value>, crn: Option<String>) -> Result<Self, AssertionError> {
        let made = Self { rcd, rcdi, crn };
        let nobody = || Identity::Tn("0".into());
        let mut claims = Claims::baseline(nobody(), Destinations::one(nobody()), 0);
        made.add_to(&mut claims);
        let read = RichClaims::read(&claims).map_err(AssertionError::Claims)?;
        if read.is_empty() {
            return Err(AssertionError::Empty);
        }
        let integrity = read.integrity();
        match (integrity.failed.first(), integrity.uncovered.first()) {
            (Some(element), _) => Err(AssertionError::Digest(*element)),
            (None, Some(element)) => Err(AssertionError::Uncovered(*element)),
            (None, None) => Ok(made),
        }
    }

    /// Adds the claims to those of a token.
    pub fn add_to(&self, claims: &mut Claims<'_>) {
        for (name, value) in [("rcd", &self.rcd), ("rcdi", &self.rcdi)] {
            if let Some(value) = value {
                claims.put(name, value.clone());
            }
        }
        if let Some(crn) = &self.crn {
            claims.put("crn", crn.as_str());
        }
    }

    /// Only a call reason.
    pub fn reason(crn: impl Into<String>) -> Self {
        Self { rcd: None, rcdi: None, crn: Some(crn.into()) }
    }
}
