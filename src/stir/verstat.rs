//! `verstat`: the verdict in one word beside the caller's number (3GPP TS 24.229 7.2A.20, IANA tel URI parameters).
use super::{Overall, Verdict, mark};

/// What the terminating side says of a caller's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verstat {
    /// A token for the number verified.
    Passed,
    /// There are tokens, and none is good.
    Failed,
    /// There was nothing to verify.
    NotDone,
}

impl Verstat {
    /// All.
    pub const ALL: [Self; 3] = [Self::Passed, Self::Failed, Self::NotDone];

    /// Of a verdict. Tokens of unsupported kinds are nothing to verify (I-21); a valid token of a URI says nothing about a number.
    pub fn of(verdict: &Verdict) -> Self {
        match verdict.overall() {
            Overall::Valid { .. } if mark::number(verdict).is_some() => Self::Passed,
            Overall::Invalid => Self::Failed,
            Overall::Valid { .. } | Overall::NoIdentity => Self::NotDone,
        }
    }

    /// The value of the parameter.
    pub fn text(self) -> &'static str {
        match self {
            Self::Passed => "TN-Validation-Passed",
            Self::Failed => "TN-Validation-Failed",
            Self::NotDone => "No-TN-Validation",
        }
    }

    /// Appends `uri`, a `tel`, `sip` or `sips` URI, with this value as the parameter of its number: in the user part, before `@`. A
    /// value that it has already, there or (as some write it) behind the host, does not get through. A URI without a user part has
    /// no number and gets none.
    pub fn write_in(self, uri: &[u8], out: &mut Vec<u8>) {
        let Some(colon) = memchr::memchr(b':', uri) else { return out.extend_from_slice(uri) };
        let (scheme, rest) = uri.split_at(colon + 1);
        let is_tel = scheme.eq_ignore_ascii_case(b"tel:");
        let (user, host) = match memchr::memchr(b'@', rest) {
            Some(at) => rest.split_at(at),
            None if is_tel => (rest, &[][..]),
            None => (&[][..], rest),
        };
        out.extend_from_slice(scheme);
        if !user.is_empty() {
            write_without(user, out);
            out.extend_from_slice(b";verstat=");
            out.extend_from_slice(self.text().as_bytes());
        }
        write_without(host, out);
    }
}

/// Appends text with parameters, without any `verstat` among them.
fn write_without(text: &[u8], out: &mut Vec<u8>) {
    for (position, piece) in text.split(|octet| *octet == b';').enumerate() {
        let name = piece.split(|octet| *octet == b'=').next().unwrap_or_default().trim_ascii();
        if position > 0 && name.eq_ignore_ascii_case(b"verstat") {
            continue;
        }
        if position > 0 {
            out.push(b';');
        }
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_that_of_the_number() {
        for (uri, with) in [
            ("tel:+12155551212", "tel:+12155551212;verstat=TN-Validation-Passed"),
            ("sip:+12155551212@a.example", "sip:+12155551212;verstat=TN-Validation-Passed@a.example"),
            (
                "sips:+12155551212;npdi@a.example:5061;user=phone",
                "sips:+12155551212;npdi;verstat=TN-Validation-Passed@a.example:5061;user=phone",
            ),
            ("sip:a.example", "sip:a.example"),
            ("nonsense", "nonsense"),
        ] {
            let mut out = Vec::new();
            Verstat::Passed.write_in(uri.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), with);
        }
    }

    #[test]
    fn what_a_caller_says_of_himself_does_not_get_through() {
        for uri in [
            "sip:+12155551212;verstat=TN-Validation-Passed@a.example",
            "sip:+12155551212@a.example;verstat=TN-Validation-Passed",
            "sip:+12155551212;VERSTAT=x;verstat@a.example",
        ] {
            let mut out = Vec::new();
            Verstat::Failed.write_in(uri.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), "sip:+12155551212;verstat=TN-Validation-Failed@a.example");
        }
    }
}
