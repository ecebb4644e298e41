//! Headers by which the inside network and we tell each other of signatures (extensions 7.2): what a trusted trunk asks for, and that no
//! other says it.

use crate::passport::ppt::shaken::Attestation;
use crate::sip::{Message, Name, Patch};

/// The names of these headers, in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    /// A trusted trunk wants a request neither signed nor verified.
    pub bypass: String,
    /// The attestation that a trusted trunk gives.
    pub attestation: String,
    /// The `origid` that it gives.
    pub origination: String,
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self {
            bypass: "P-Identity-Bypass".to_owned(),
            attestation: "P-Attestation-Indicator".to_owned(),
            origination: "P-Origination-ID".to_owned(),
        }
    }
}

impl IdentityHeaders {
    /// Whether a request asks to be left alone. Only a trusted trunk may.
    pub fn asks_bypass(&self, request: Message<'_>) -> bool {
        let value = value(request, &self.bypass);
        value.is_some_and(|value| !matches!(&value.to_ascii_lowercase()[..], b"false" | b"no" | b"0"))
    }

    /// The attestation that a request brings.
    pub fn attestation(&self, request: Message<'_>) -> Option<Attestation> {
        let value = value(request, &self.attestation)?;
        Attestation::from_letter(std::str::from_utf8(value).ok()?.to_ascii_uppercase().as_str())
    }

    /// The `origid` that a request brings, as text and octets.
    pub fn origination<'a>(&self, request: Message<'a>) -> Option<(&'a str, [u8; 16])> {
        let text = std::str::from_utf8(value(request, &self.origination)?).ok()?;
        Some((text, octets(text)?))
    }

    /// Takes out what must not pass: the bypass is for us alone, the others stay between those that trust each other.
    pub fn strip(&self, request: Message<'_>, is_inside: bool, patch: &mut Patch) {
        for field in request.fields().filter(|field| matches!(field.name, Name::Other)) {
            let is = |name: &str| field.raw_name().eq_ignore_ascii_case(name.as_bytes());
            if is(&self.bypass) || !is_inside && (is(&self.attestation) || is(&self.origination)) {
                patch.remove(field.line);
            }
        }
    }
}

/// The first value of a header that is none of those with a meaning of their own.
fn value<'a>(request: Message<'a>, name: &str) -> Option<&'a [u8]> {
    let is_it = |field: &crate::sip::Field<'_>| {
        matches!(field.name, Name::Other) && field.raw_name().eq_ignore_ascii_case(name.as_bytes())
    };
    request.fields().find(is_it).map(|field| field.value().trim_ascii())
}

/// The octets of a UUID (RFC 9562 4).
fn octets(text: &str) -> Option<[u8; 16]> {
    let is_separator = |at| matches!(at, 8 | 13 | 18 | 23);
    let is_uuid = text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| if is_separator(at) { b == b'-' } else { b.is_ascii_hexdigit() });
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).ok().filter(|_| is_uuid).map(u128::to_be_bytes)
}
