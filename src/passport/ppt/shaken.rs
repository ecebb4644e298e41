//! SHAKEN (RFC 8588): `attest` and `origid` besides the baseline claims (S-1 to S-6).
use crate::passport::{Claims, ClaimsError};

/// What the signing provider says about the caller (RFC 8588 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attestation {
    /// `A`: the provider knows the customer, and that it may use the number.
    Full,
    /// `B`: the provider knows the customer, not its right to the number.
    Partial,
    /// `C`: the provider is only the gateway by which the call came in.
    Gateway,
}

impl Attestation {
    /// By its upper case letter.
    pub fn from_letter(letter: &str) -> Option<Self> {
        match letter {
            "A" => Some(Self::Full),
            "B" => Some(Self::Partial),
            "C" => Some(Self::Gateway),
            _ => None,
        }
    }

    /// `A`, `B` or `C`.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Full => "A",
            Self::Partial => "B",
            Self::Gateway => "C",
        }
    }
}

/// The claims RFC 8588 asks for: `attest` in A, B, C and `origid` a UUID (S-1).
///
/// # Errors
/// [`ClaimsError::Missing`] or [`ClaimsError::Malformed`] naming the claim.
pub fn check(claims: &Claims<'_>) -> Result<Attestation, ClaimsError> {
    let attest = claims.attest.as_deref().ok_or(ClaimsError::Missing("attest"))?;
    let attestation = Attestation::from_letter(attest).ok_or(ClaimsError::Malformed("attest"))?;
    let origid = claims.origid.as_deref().ok_or(ClaimsError::Missing("origid"))?;
    if is_uuid(origid) { Ok(attestation) } else { Err(ClaimsError::Malformed("origid")) }
}

/// RFC 4122 section 3 text form: 8-4-4-4-12 hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, octet)| match index {
            8 | 13 | 18 | 23 => octet == b'-',
            _ => octet.is_ascii_hexdigit(),
        })
}

/// The text of a random (version 4) UUID made of 16 random octets; six of their bits are overwritten (RFC 4122 section 4.4).
pub fn origid(random: [u8; 16]) -> OrigId {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut octets = random;
    octets[6] = octets[6] & 0x0f | 0x40;
    octets[8] = octets[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, octet) in octets.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(octet >> 4)];
        text[at + 1] = HEX[usize::from(octet & 15)];
        at += 2;
    }
    OrigId(text)
}

/// UUID text on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrigId([u8; 36]);

impl OrigId {
    /// From the text of a UUID of any version; `None` for other text.
    pub fn from_text(text: &str) -> Option<Self> {
        is_uuid(text).then(|| text.as_bytes().try_into().ok().map(Self)).flatten()
    }

    /// The 36 characters.
    pub fn as_str(&self) -> &str {
        // Only hexadecimal digits and dashes are ever written into it.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_origid_is_a_version_4_uuid() {
        let text = origid([0xff; 16]);
        assert_eq!(text.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert!(is_uuid(text.as_str()));
        assert_eq!(origid([0; 16]).as_str(), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn s1_uuid_text() {
        for (text, good) in [
            ("123e4567-e89b-12d3-a456-426655440000", true),
            ("123E4567-E89B-12D3-A456-426655440000", true),
            ("123e4567e89b12d3a456426655440000", false),
            ("123e4567-e89b-12d3-a456-42665544000g", false),
            ("123e4567-e89b-12d3-a456-4266554400000", false),
            ("", false),
        ] {
            assert_eq!(is_uuid(text), good, "{text}");
        }
    }
}
