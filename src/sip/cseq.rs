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
        let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = text::decimal(text::span(value, 0, digits)).ok_or(Malformed)?;
        let start = text::skip_lws(value, digits);
        let method = text::span(value, start, value.len());
        if start == digits || !text::is_token(method) {
            return Err(Malformed);
        }
        Ok(Self { number, method: Method::new(method) })
    }
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
