//! What may be shown of the caller (RFC 9795): the parts of verified rich call data that hold, and why others do not.
use super::checks::is_authorized;
use super::signalling::display_names;
use super::{Policy, Profile};
use crate::cert::ChainVerdict;
use crate::passport::ppt::rcd::{self, RichClaims};
use crate::passport::{Claims, TelephoneNumber, serialize};
use crate::sip::Message;

pub use crate::passport::ppt::rcd::Element;

/// Content on another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    /// An https URL; for an icon also a data URL, which is covered by the signature itself.
    pub url: Box<str>,
    /// The digest its content has to have, as `rcdi` writes it. It is for whoever fetches the content to compare (C-12).
    pub integrity: Option<Box<str>>,
}

/// The caller's card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Card {
    /// A jCard: its JSON, serialized as RFC 8225 section 9 asks.
    Inline(Box<str>),
    /// Where one lies.
    Link(Linked),
}

/// Who speaks, if it is not the caller's own side (T-2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// `iss`.
    pub name: Box<str>,
    /// It is the name, organization or common name of the certificate's subject. How both relate is left to the ecosystem.
    pub is_subject: bool,
}

/// Why a part is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its digest is another, or can not be read (C-11).
    Digest,
    /// It lies elsewhere, and no digest covers it (C-5 to C-7).
    NoDigest,
    /// The signed name is not the display name of the request (C-14).
    DisplayName,
    /// A VESPER certificate does not authorize the claim (R13).
    NotAuthorized,
}

/// Verified rich call data. Parts that do not hold are left out and listed. What is on other servers is not fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RichCallData {
    /// `None`: the caller's own side.
    pub issuer: Option<Issuer>,
    /// Display name.
    pub name: Option<Box<str>>,
    /// Number to show instead of the calling one.
    pub alternate_number: Option<TelephoneNumber>,
    /// A picture.
    pub icon: Option<Linked>,
    /// The card.
    pub card: Option<Card>,
    /// Why the call is made.
    pub reason: Option<Box<str>>,
    /// What was signed and is not given here, and why.
    pub unverified: Vec<(Element, Why)>,
}

impl RichCallData {
    /// The caller's own side speaks.
    pub fn is_first_party(&self) -> bool {
        self.issuer.is_none()
    }

    /// From the claims of a token whose signature has verified; `None` when it has none of these claims.
    pub(super) fn of(
        claims: &Claims<'_>,
        third_party: bool,
        chain: &ChainVerdict,
        profile: Profile,
        policy: &Policy,
        request: Message<'_>,
    ) -> Option<Box<Self>> {
        let read = RichClaims::read(claims).ok().filter(|read| !read.is_empty())?;
        let mut refused = Refused { found: Vec::new() };
        if profile == Profile::Vesper {
            if !is_authorized(chain, "rcd") {
                refused
                    .add(&[Element::Name, Element::AlternateNumber, Element::Icon, Element::Card], Why::NotAuthorized);
            }
            if !is_authorized(chain, "crn") {
                refused.add(&[Element::Reason], Why::NotAuthorized);
            }
        }
        let integrity = read.integrity();
        refused.add(&integrity.failed, Why::Digest);
        refused.add(&integrity.uncovered, Why::NoDigest);
        let name = read.name.filter(|name| !name.is_empty());
        let differs =
            |name: &str| !display_names(request, policy.identity_source).any(|shown| *shown == *name.as_bytes());
        if !policy.rcd_prefers_token && name.is_some_and(differs) {
            refused.add(&[Element::Name], Why::DisplayName);
        }
        let linked =
            |url: &str, integrity: Option<&str>| Linked { url: url.into(), integrity: integrity.map(Into::into) };
        let number = read.alternate_number.and_then(TelephoneNumber::from_canonical);
        let data = Self {
            issuer: read.issuer.filter(|_| third_party).map(|name| issuer(name, chain)),
            name: refused.keep(Element::Name, name.map(Into::into)),
            alternate_number: refused.keep(Element::AlternateNumber, number),
            icon: refused.keep(Element::Icon, read.icon.map(|url| linked(url, integrity.icon))),
            card: refused.keep(
                Element::Card,
                read.card.map(|card| match card {
                    rcd::Card::Inline(card) => Card::Inline(canonical(card)),
                    rcd::Card::Link(url) => Card::Link(linked(url, integrity.card)),
                }),
            ),
            reason: refused.keep(Element::Reason, read.reason.map(Into::into)),
            unverified: refused.of(&read),
        };
        Some(Box::new(data))
    }
}

/// Parts that do not hold.
struct Refused {
    found: Vec<(Element, Why)>,
}

impl Refused {
    fn add(&mut self, elements: &[Element], why: Why) {
        for element in elements {
            if !self.found.iter().any(|(known, _)| known == element) {
                self.found.push((*element, why));
            }
        }
    }

    fn keep<T>(&self, element: Element, value: Option<T>) -> Option<T> {
        value.filter(|_| !self.found.iter().any(|(refused, _)| *refused == element))
    }

    /// Those that were there at all.
    fn of(self, read: &RichClaims<'_>) -> Vec<(Element, Why)> {
        let is_there = |element: Element| match element {
            Element::Name => read.name.is_some_and(|name| !name.is_empty()),
            Element::AlternateNumber => read.alternate_number.is_some(),
            Element::Icon => read.icon.is_some(),
            Element::Card => read.card.is_some(),
            Element::Reason => read.reason.is_some(),
            Element::Other => true,
        };
        self.found.into_iter().filter(|(element, _)| is_there(*element)).collect()
    }
}

fn issuer(name: &str, chain: &ChainVerdict) -> Issuer {
    let leaf = &chain.leaf;
    let is_subject = [leaf.subject_organization(), leaf.subject_common_name()].contains(&Some(name));
    Issuer { name: name.into(), is_subject: is_subject || leaf.subject() == name }
}

fn canonical(card: &serde_json::Value) -> Box<str> {
    let mut json = Vec::new();
    serialize::write_value(card, &mut json);
    // JSON written from strings.
    String::from_utf8(json).unwrap_or_default().into()
}
