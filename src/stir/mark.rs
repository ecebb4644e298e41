//! Where `verstat` stands in a forwarded request: on the best number that it is true of; and how it is taken from those who must not say it.
use super::{Verdict, Verstat};
use crate::passport::ppt::shaken::Attestation;
use crate::passport::{CanonicalIdentity, DialPlan, TelephoneNumber};
use crate::sip::{Field, Message, Name, NameAddr, Patch, Scheme, Uri, text};
use std::ops::Range;

/// The number that a valid token speaks for.
pub(super) fn number(verdict: &Verdict) -> Option<TelephoneNumber> {
    verdict.valid().and_then(|token| token.orig)
}

/// A parameter to be added to one number of a request.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    value: Verstat,
    /// The number that has passed.
    number: Option<TelephoneNumber>,
    /// `-A`, `-B` or `-C` behind a passed one, as some vendors read it.
    attestation: Option<Attestation>,
    plan: &'a DialPlan,
}

impl<'a> Mark<'a> {
    /// What a verdict says. `plan` reads numbers as verification did.
    pub fn of(verdict: &Verdict, tells_attestation: bool, plan: &'a DialPlan) -> Self {
        let value = Verstat::of(verdict);
        let tells = tells_attestation && value == Verstat::Passed;
        let attestation = if tells { verdict.valid().and_then(|token| token.attest) } else { None };
        Self { value, number: number(verdict), attestation, plan }
    }

    /// Where nothing was verified.
    pub fn not_done(plan: &'a DialPlan) -> Self {
        Self { value: Verstat::NotDone, number: None, attestation: None, plan }
    }

    /// Whether it may be said of this URI: it is a number and, where the number has passed, the one of the token (I-27).
    fn fits(&self, uri: &[u8]) -> bool {
        let Some(CanonicalIdentity::Tn(number)) = CanonicalIdentity::from_uri(uri, self.plan) else { return false };
        self.value != Verstat::Passed || self.number == Some(number)
    }

    fn push(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b";verstat=");
        out.extend_from_slice(self.value.text().as_bytes());
        if let Some(attestation) = self.attestation {
            out.push(b'-');
            out.extend_from_slice(attestation.letter().as_bytes());
        }
    }

    /// Marks the best of these addresses: tel before sip. Gives whether there was one.
    fn set_among<'f>(&self, fields: impl Iterator<Item = (&'f [u8], usize)>, patch: &mut Patch) -> bool {
        let read = fields.filter_map(|(value, at)| Some((NameAddr::parse(value).ok()?, value, at)));
        let fitting = read.filter(|(address, ..)| self.fits(address.uri));
        let Some((address, value, at)) = fitting.min_by_key(|(address, ..)| !is_tel(address.uri)) else { return false };
        // A part of `value`.
        let start = at + (address.uri.as_ptr() as usize).saturating_sub(value.as_ptr() as usize);
        let inside = start + user_end(address.uri);
        patch.insert_with(inside, |out| self.push(out));
        if !address.is_bracketed {
            // RFC 3261 20.10: a URI with semicolons stands in brackets.
            patch.insert(start, b"<");
            patch.insert(start + address.uri.len(), b">");
        }
        true
    }

    /// Marks a number of a request: P-Asserted-Identity with a tel URI, with a SIP URI, From. `asserted`: P-Asserted-Identity goes along.
    /// What was there before is to be stripped ([`strip`]).
    pub fn set(&self, request: Message<'_>, asserted: bool, patch: &mut Patch) {
        let fields = request.values(Name::PAssertedIdentity).take(if asserted { 2 } else { 0 });
        if self.set_among(fields.map(|value| (value.value, value.range.start)), patch) {
            return;
        }
        let from = request.field(Name::From);
        self.set_among(from.iter().map(|field| (field.value(), field.value_range.start)), patch);
    }

    /// The best of these URIs that it may be said of, tel before sip, as a marked address in brackets. What they say themselves does
    /// not get through.
    pub fn address(&self, uris: &[&[u8]]) -> Option<Vec<u8>> {
        let (tel, others): (Vec<&[u8]>, Vec<&[u8]>) = uris.iter().partition(|uri| is_tel(uri));
        tel.into_iter().chain(others).find_map(|uri| {
            let bare = address(uri);
            let mut patch = Patch::new();
            self.set_among(std::iter::once((&*bare, 0)), &mut patch).then(|| {
                let mut out = Vec::new();
                patch.write(&bare, &mut out);
                out
            })
        })
    }

    /// A value of P-Asserted-Identity of our own, marked if it may be; else `None`.
    pub fn marked(&self, asserted: &str) -> Option<Vec<u8>> {
        let mut patch = Patch::new();
        let values = asserted.split(',').scan(0, |at, value| {
            let start = *at;
            *at += value.len() + 1;
            Some((value.as_bytes(), start))
        });
        let is_marked = self.set_among(values, &mut patch);
        let mut out = Vec::new();
        patch.write(asserted.as_bytes(), &mut out);
        is_marked.then_some(out)
    }
}

fn is_tel(uri: &[u8]) -> bool {
    matches!(Uri::parse(uri), Ok(uri) if uri.scheme == Scheme::Tel)
}

/// A URI as an address in brackets, without any verstat.
pub fn address(uri: &[u8]) -> Vec<u8> {
    let mut patch = Patch::new();
    found(uri).for_each(|range| patch.remove(range));
    let mut out = vec![b'<'];
    patch.write(uri, &mut out);
    out.push(b'>');
    out
}

/// Where parameters of the number end: in a SIP URI before the password or `@`, in a tel URI at its end.
fn user_end(uri: &[u8]) -> usize {
    match Uri::parse(uri) {
        Ok(read) if read.scheme != Scheme::Tel => {
            let scheme = memchr::memchr(b':', uri).map_or(0, |colon| colon + 1);
            scheme + read.user.map_or(0, <[u8]>::len)
        }
        _ => uri.len(),
    }
}

/// Takes every verstat out of From and P-Asserted-Identity, and out of To where that may be a mirror of them: in responses and inside a
/// dialog. Whatever stands for a parameter of that name to anybody goes: of the number, of the URI, of the field, escaped or not.
pub fn strip(message: Message<'_>, patch: &mut Patch) {
    let mirrors = !message.is_request() || message.to_tag().is_some();
    let names = [Name::From, Name::PAssertedIdentity, Name::To];
    let mut remove = |field: Field<'_>| {
        let (value, start) = (field.value(), field.value_range.start);
        found(value).for_each(|range| patch.remove(start + range.start..start + range.end));
    };
    for name in names.into_iter().take(2 + usize::from(mirrors)) {
        message.fields_of(name).for_each(&mut remove);
    }
}

/// Parameters of this name in a header value.
fn found(value: &[u8]) -> impl Iterator<Item = Range<usize>> {
    found_by(value, text::quoted_end)
}

/// The same by a way of finding the end of a quoted string.
fn found_by(value: &[u8], quoted_end: impl Fn(&[u8], usize) -> Option<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    // A quote that is never closed opens nothing, and so does none after it: each is looked for to the end, and only one such look is paid.
    let mut has_open_end = false;
    std::iter::from_fn(move || {
        loop {
            let rest = value.get(at..)?;
            at += memchr::memchr3(b';', b'"', b'%', rest)?;
            let rest = value.get(at..)?;
            if rest.first() == Some(&b'"') {
                let end = if has_open_end { None } else { quoted_end(value, at) };
                has_open_end |= end.is_none();
                at = end.unwrap_or(at + 1);
                continue;
            }
            let start = at;
            let Some(length) = separator(rest) else {
                at += 1;
                continue;
            };
            at += length;
            if let Some(end) = parameter_end(value, at) {
                at = end;
                return Some(start..end);
            }
        }
    })
}

/// A semicolon, plain or escaped.
fn separator(text: &[u8]) -> Option<usize> {
    match text {
        [b';', ..] => Some(1),
        [b'%', b'3', b'b' | b'B', ..] => Some(3),
        _ => None,
    }
}

/// The end of a verstat parameter whose name begins at `at`.
fn parameter_end(value: &[u8], at: usize) -> Option<usize> {
    let skip = |mut at: usize| {
        while value.get(at).is_some_and(|octet| matches!(octet, b' ' | b'\t' | b'\r' | b'\n')) {
            at += 1;
        }
        at
    };
    let mut at = skip(at);
    for wanted in b"verstat" {
        let (octet, length) = octet_at(value.get(at..)?)?;
        if !octet.eq_ignore_ascii_case(wanted) {
            return None;
        }
        at += length;
    }
    let name_end = at;
    at = skip(at);
    let Some((b'=', length)) = value.get(at..).and_then(octet_at) else {
        let is_over = at > name_end || value.get(at..).is_none_or(ends_parameter);
        return is_over.then_some(name_end);
    };
    at = skip(at + length);
    if value.get(at) == Some(&b'"')
        && let Some(end) = text::quoted_end(value, at)
    {
        return Some(end);
    }
    while value.get(at..).is_some_and(|rest| !ends_parameter(rest)) {
        at += 1;
    }
    Some(at)
}

fn ends_parameter(rest: &[u8]) -> bool {
    match rest.first() {
        None | Some(b'@' | b'>' | b',' | b'?' | b':' | b' ' | b'\t' | b'\r' | b'\n') => true,
        Some(_) => separator(rest).is_some(),
    }
}

/// An octet, escaped or not, and the length of its text.
fn octet_at(text: &[u8]) -> Option<(u8, usize)> {
    let digit = |octet: u8| char::from(octet).to_digit(16);
    match *text {
        [b'%', high, low, ..] => Some(((digit(high)? * 16 + digit(low)?) as u8, 3)),
        [octet, ..] => Some((octet, 1)),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(value: &str) -> String {
        let mut patch = Patch::new();
        found(value.as_bytes()).for_each(|range| patch.remove(range));
        let mut out = Vec::new();
        patch.write(value.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// However many quotes there are, octets are looked through for closing ones about once.
    #[test]
    fn quotes_that_are_never_closed_cost_no_more_than_their_length() {
        use std::cell::Cell;
        for unit in ["\\\"", "\"\\\"", ";verstat=\\\"", "\"a\"", "\\\";"] {
            for length in [1000, 8000] {
                let value = format!("\"{}", unit.repeat(length / unit.len()));
                let looked_at = Cell::new(0);
                let quoted_end = |value: &[u8], open: usize| {
                    let end = text::quoted_end(value, open);
                    looked_at.set(looked_at.get() + end.unwrap_or(value.len()) - open);
                    end
                };
                let _ = found_by(value.as_bytes(), quoted_end).count();
                assert!(looked_at.get() <= 2 * value.len(), "{unit} {length}: {}", looked_at.get());
            }
        }
        // What stands behind such a quote is not hidden by it.
        assert_eq!(stripped("\"\\\"<sip:+1201;verstat=x\\\"@a>"), "\"\\\"<sip:+1201@a>");
        assert_eq!(stripped("<sip:+1201@a>;verstat=\"x;tag=1"), "<sip:+1201@a>;tag=1");
    }

    #[test]
    fn an_address_is_marked_as_its_number_and_by_nobody_else() {
        let plan = DialPlan::default();
        let mark = |value| Mark { value, number: None, attestation: None, plan: &plan };
        let marked = |uris: &[&str]| {
            let uris: Vec<&[u8]> = uris.iter().map(|uri| uri.as_bytes()).collect();
            mark(Verstat::Failed).address(&uris).map(|address| String::from_utf8(address).unwrap())
        };
        for (uri, expected) in [
            ("tel:+12155551212", "<tel:+12155551212;verstat=TN-Validation-Failed>"),
            ("sip:+12155551212@a.example", "<sip:+12155551212;verstat=TN-Validation-Failed@a.example>"),
            (
                "sips:+12155551212;npdi@a.example:5061;user=phone",
                "<sips:+12155551212;npdi;verstat=TN-Validation-Failed@a.example:5061;user=phone>",
            ),
            // A password stays behind the number and its parameters.
            ("sip:+12155551212:pw@a.example", "<sip:+12155551212;verstat=TN-Validation-Failed:pw@a.example>"),
            (
                "sip:+12155551212;ver%73tat=TN-Validation-Passed@a.example;VERSTAT=x",
                "<sip:+12155551212;verstat=TN-Validation-Failed@a.example>",
            ),
            (
                "sip:+12155551212%3bverstat%3DTN-Validation-Passed@a.example;user=phone",
                "<sip:+12155551212;verstat=TN-Validation-Failed@a.example;user=phone>",
            ),
        ] {
            assert_eq!(marked(&[uri]).as_deref(), Some(expected), "{uri}");
        }
        assert_eq!(marked(&["sip:bob@a.example"]), None, "no number");
        assert_eq!(marked(&["sip:a.example", "nonsense"]), None);
        assert_eq!(
            marked(&["sip:+12155551212@a.example", "tel:+12155551213"]).as_deref(),
            Some("<tel:+12155551213;verstat=TN-Validation-Failed>")
        );
        assert_eq!(mark(Verstat::Passed).address(&[b"tel:+12155551212"]), None, "I-27: it is not the one that passed");
        assert_eq!(address(b"sip:bob@a.example;verstat=x"), b"<sip:bob@a.example>");
    }

    #[test]
    fn every_form_of_the_parameter_goes_and_nothing_else() {
        for (value, left) in [
            ("<sip:+1201;verstat=TN-Validation-Passed@a;user=phone>;tag=1", "<sip:+1201@a;user=phone>;tag=1"),
            ("<sip:+1201@a;verstat=TN-Validation-Passed;user=phone>;tag=1", "<sip:+1201@a;user=phone>;tag=1"),
            ("<sip:+1201@a>;Verstat=\"x;y\";tag=1", "<sip:+1201@a>;tag=1"),
            ("<tel:+1201;VERSTAT=TN-Validation-Passed-A>", "<tel:+1201>"),
            ("<tel:+1201;verstat>", "<tel:+1201>"),
            ("<sip:+1201;verstat=a;npdi;verstat=b:pw@a>", "<sip:+1201;npdi:pw@a>"),
            ("<sip:+1201;ver%73tat=TN-Validation-Passed@a>", "<sip:+1201@a>"),
            ("<sip:+1201%3bverstat%3DTN-Validation-Passed@a>", "<sip:+1201@a>"),
            ("<tel:+1201>,<sip:+1201; verstat = x@a>", "<tel:+1201>,<sip:+1201@a>"),
            ("sip:+1201@a ;verstat=x ;tag=1", "sip:+1201@a  ;tag=1"),
            ("\";verstat=x\" <sip:+1201@a>", "\";verstat=x\" <sip:+1201@a>"),
            ("<sip:+1201;verstatus=x@a>", "<sip:+1201;verstatus=x@a>"),
            ("<sip:verstat=x@a;p=verstat>", "<sip:verstat=x@a;p=verstat>"),
            ("<sip:+1%23;x=%3;%%3b@a>", "<sip:+1%23;x=%3;%%3b@a>"),
        ] {
            assert_eq!(stripped(value), left, "{value}");
        }
    }
}
