//! Diversions that a redirecting element has signed and sent back in a 3xx (RFC 8946 7, D-18): which of them go with the request to the new
//! target. They are read, not verified: that is for whoever verifies the request (D-12), as with diversions that arrive with it.
use super::IdentitySource;
use super::authentication::read_full;
use super::diversion::canonical;
use super::signalling::Signalling;
use crate::passport::claims::{Destinations, Identity};
use crate::passport::{CanonicalIdentity, Claims, Config, DialPlan, Token};
use crate::sip::identity::IdentityValue;
use crate::sip::{Message, Name};
use std::rc::Rc;

/// Most of them that are taken from one response, and most in a request.
const MOST: usize = 5;
/// Most Identity fields that are looked at.
const MAX_FIELDS: usize = 16;

/// A diversion of a redirecting element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    /// The Identity line, with its end.
    line: Vec<u8>,
    /// The token.
    digest: Vec<u8>,
    token: Link,
    div: Identity<'static>,
}

/// Who calls whom by a token.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    orig: Identity<'static>,
    dest: Vec<Identity<'static>>,
}

impl Link {
    fn of(claims: &Claims<'_>, plan: &DialPlan) -> Self {
        let dest = claims.dest.iter().map(|identity| canonical(&identity, plan)).collect();
        Self { orig: canonical(&claims.orig, plan), dest }
    }

    /// A diversion of the call that this token is about, by the party that it was meant for (D-16).
    fn precedes(&self, diversion: &Redirection) -> bool {
        self.orig == diversion.token.orig && self.dest.contains(&diversion.div)
    }
}

/// The diversions in a 3xx, in the order of its fields, five at most. What else is in its Identity fields is left out.
pub fn read(response: Message<'_>, plan: &DialPlan) -> Vec<Rc<Redirection>> {
    let fields = response.fields_of(Name::Identity).take(MAX_FIELDS);
    fields.filter_map(|field| Redirection::read(&field.unfolded(), plan)).take(MOST).map(Rc::new).collect()
}

impl Redirection {
    fn read(value: &[u8], plan: &DialPlan) -> Option<Self> {
        let field = IdentityValue::parse(value, 0..value.len()).ok()?;
        let is_text = value.iter().all(|octet| matches!(octet, b' '..=b'~' | b'\t'));
        if field.ppt != Some(b"div") || !is_text {
            return None;
        }
        let read = |claims: &Claims<'_>| Some((Link::of(claims, plan), canonical(claims.div.as_ref()?, plan)));
        let (token, div) = read_full(field.digest, read)??;
        let line = [b"Identity: ", value, b"\r\n"].concat();
        Some(Self { line, digest: field.digest.to_vec(), token, div })
    }
}

/// The Identity lines that lead a request to `target` (a URI): diversions of this list that end there and begin with a token that the
/// copy carries, in the request or in `own` lines that are added to it. Empty where none do (D-10), or they would be too many.
pub fn lines(request: Message<'_>, own: &[u8], tokens: &[Rc<Redirection>], target: &[u8], plan: &DialPlan) -> Vec<u8> {
    if tokens.is_empty() {
        return Vec::new();
    }
    let Some(target) = CanonicalIdentity::from_uri(target, plan) else { return Vec::new() };
    let has = |octets: &[u8], token: &Redirection| memchr::memmem::find(octets, &token.digest).is_some();
    let is_there = |token: &Redirection| has(request.bytes(), token) || has(own, token);
    let tokens: Vec<&Redirection> = tokens.iter().map(|token| &**token).filter(|token| !is_there(token)).collect();
    let (carried, diversions) = carried(request, own, plan);
    let is_begun = |token: &Redirection| carried.iter().any(|link| link.precedes(token));
    let begun = spread(&tokens, is_begun, |earlier, later| earlier.token.precedes(later));
    let ends = |token: &Redirection| token.token.dest.iter().any(|dest| target.is(dest));
    let chosen = spread(&begun, ends, |later, earlier| earlier.token.precedes(later));
    if diversions + chosen.len() > MOST {
        return Vec::new();
    }
    chosen.iter().flat_map(|token| &token.line).copied().collect()
}

/// Those that are first, and those that are next to one of these; none twice.
fn spread<'t>(
    tokens: &[&'t Redirection],
    is_first: impl Fn(&Redirection) -> bool,
    is_next: impl Fn(&Redirection, &Redirection) -> bool,
) -> Vec<&'t Redirection> {
    let mut found: Vec<&Redirection> = Vec::new();
    for token in tokens {
        if is_first(token) && !found.contains(token) {
            found.push(token);
        }
    }
    let mut at = 0;
    while let Some(&token) = found.get(at) {
        at += 1;
        for other in tokens {
            if is_next(token, other) && !found.contains(other) {
                found.push(other);
            }
        }
    }
    found
}

/// The tokens that a copy carries anyway, and how many of them are diversions.
fn carried(request: Message<'_>, own: &[u8], plan: &DialPlan) -> (Vec<Link>, usize) {
    let signalling = Signalling::of(request, IdentitySource::From, plan);
    let own = own.split(|octet| *octet == b'\n').filter_map(|line| line.strip_prefix(b"Identity: "));
    let received = request.values(Name::Identity).map(|value| value.value);
    let fields = received.chain(own).filter_map(|value| IdentityValue::parse(value.trim_ascii_end(), 0..0).ok());
    let mut diversions = 0;
    let link = |field: IdentityValue<'_>| {
        diversions += usize::from(field.ppt == Some(b"div"));
        match Token::parse(field.digest, &Config::default()).ok()? {
            Token::Full(_) => read_full(field.digest, |claims| Link::of(claims, plan)),
            Token::Compact { .. } => {
                // A compact form says what the request says.
                let (caller, callee) = (signalling.caller()?, signalling.callee()?);
                let dest = Destinations::one(callee.as_identity());
                Some(Link::of(&Claims::baseline(caller.as_identity(), dest, 0), plan))
            }
        }
    };
    let links = fields.take(MAX_FIELDS).filter_map(link).collect();
    (links, diversions)
}
