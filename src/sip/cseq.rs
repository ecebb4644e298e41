//! CSeq (RFC 3261 20.16).

use super::Method;
use super::text::{self, Malformed};

/// A sequence number and a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CSeq<'a> {
    /// 0 to 2^32-1; leading zeros are tolerated.
    pub number: u32,
    /// The method.
    pub method: Method<'a>,
}

impl<'a> CSeq<'a> {
    /// Reads `1*DIGIT LWS Method`.
    pub fn parse(value: &'a [u8]) -> Result<Self, Malformed> {
        let (number, method) = split(value)?;
        Ok(Self { number, method: Method::new(method) })
    }
}

/// The number, and the octets of the method.
pub(crate) fn split(value: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let mut number = 0u32;
    let mut digits = 0;
    while let Some(&b) = value.get(digits).filter(|b| b.is_ascii_digit()) {
        number = number.checked_mul(10).and_then(|n| n.checked_add(u32::from(b - b'0'))).ok_or(Malformed)?;
        digits += 1;
    }
    let start = text::skip_lws(value, digits);
    let end = text::skip_token(value, start);
    if digits == 0 || start == digits || end == start || end != value.len() {
        return Err(Malformed);
    }
    Ok((number, text::span(value, start, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k5_boundaries() {
        assert_eq!(CSeq::parse(b"0009\r\n  INVITE"), Ok(CSeq { number: 9, method: Method::Invite }));
        assert_eq!(CSeq::parse(b"4294967295 x").unwrap().number, u32::MAX);
        for bad in ["", "1", "INVITE", "1INVITE", "-1 INVITE", "4294967296 INVITE", "1 INVITE x", "1 ", "1 (x)"] {
            assert!(CSeq::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
