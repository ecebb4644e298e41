//! Strict DER (X.690 section 10): just enough to walk and to write what the cert module reads itself.

use std::fmt;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const IA5_STRING: u8 = 0x16;
pub(crate) const SEQUENCE: u8 = 0x30;

/// The constructed, context-specific tag `[number]`; EXPLICIT tagging throughout.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// What is wrong with an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DerError {
    /// A length runs past the end of what encloses it, or nothing is left where an element must be.
    Truncated,
    /// A length is not in the shortest form, or needs more than four octets.
    LengthNotMinimal,
    /// The indefinite length form, which DER forbids.
    IndefiniteLength,
    /// A tag number above 30; nothing read here uses one.
    HighTagNumber,
    /// Another tag than the grammar asks for.
    UnexpectedTag {
        /// The identifier octet the grammar asks for.
        expected: u8,
        /// The identifier octet found.
        found: u8,
    },
    /// Octets follow the last element.
    TrailingBytes,
    /// An INTEGER that is empty or carries padding octets.
    IntegerNotMinimal,
}

impl fmt::Display for DerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("an element runs past the end of what encloses it"),
            Self::LengthNotMinimal => f.write_str("a length is not in its shortest form"),
            Self::IndefiniteLength => f.write_str("indefinite length"),
            Self::HighTagNumber => f.write_str("a tag number above 30"),
            Self::UnexpectedTag { expected, found } => {
                write!(f, "tag {found:#04x} where {expected:#04x} belongs")
            }
            Self::TrailingBytes => f.write_str("octets after the last element"),
            Self::IntegerNotMinimal => f.write_str("an INTEGER that is empty or padded"),
        }
    }
}

impl std::error::Error for DerError {}

/// One element: identifier octet, contents, and all of its octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tlv<'a> {
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
    pub(crate) raw: &'a [u8],
}

/// Reads elements one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The identifier octet of the next element.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub(crate) fn read(&mut self) -> Result<Tlv<'a>, DerError> {
        let (&tag, rest) = self.rest.split_first().ok_or(DerError::Truncated)?;
        if tag & 0x1f == 0x1f {
            return Err(DerError::HighTagNumber);
        }
        let (&first, mut rest) = rest.split_first().ok_or(DerError::Truncated)?;
        let length = match first {
            0..=0x7f => usize::from(first),
            0x80 => return Err(DerError::IndefiniteLength),
            0x81..=0x84 => {
                let (octets, after) = rest.split_at_checked(usize::from(first & 0x7f)).ok_or(DerError::Truncated)?;
                rest = after;
                let length = octets.iter().fold(0u32, |length, &octet| length << 8 | u32::from(octet));
                if octets[0] == 0 || length < 0x80 {
                    return Err(DerError::LengthNotMinimal);
                }
                usize::try_from(length).map_err(|_| DerError::Truncated)?
            }
            0x85..=0xff => return Err(DerError::LengthNotMinimal),
        };
        let (value, after) = rest.split_at_checked(length).ok_or(DerError::Truncated)?;
        let raw = &self.rest[..self.rest.len() - after.len()];
        self.rest = after;
        Ok(Tlv { tag, value, raw })
    }

    /// The contents of the next element, which must carry `tag`.
    pub(crate) fn contents(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        let tlv = self.read()?;
        if tlv.tag == tag { Ok(tlv.value) } else { Err(DerError::UnexpectedTag { expected: tag, found: tlv.tag }) }
    }

    /// The contents of the next element if it carries `tag`; nothing is consumed otherwise.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, DerError> {
        if self.peek() == Some(tag) { self.contents(tag).map(Some) } else { Ok(None) }
    }

    pub(crate) fn finish(&self) -> Result<(), DerError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DerError::TrailingBytes) }
    }
}

/// The contents of the one element `input` consists of.
pub(crate) fn only(input: &[u8], tag: u8) -> Result<&[u8], DerError> {
    let mut reader = Reader::new(input);
    let value = reader.contents(tag)?;
    reader.finish()?;
    Ok(value)
}

/// The magnitude octets of a non-negative INTEGER, or `None` for a negative one.
pub(crate) fn magnitude(value: &[u8]) -> Result<Option<&[u8]>, DerError> {
    match value {
        [] => Err(DerError::IntegerNotMinimal),
        [0x00, second, ..] if *second < 0x80 => Err(DerError::IntegerNotMinimal),
        [0xff, second, ..] if *second >= 0x80 => Err(DerError::IntegerNotMinimal),
        [0x00, rest @ ..] => Ok(Some(rest)),
        [first, ..] if *first >= 0x80 => Ok(None),
        _ => Ok(Some(value)),
    }
}

/// Appends one element.
pub(crate) fn write(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    if value.len() < 0x80 {
        // Below 128 by the line above.
        out.push(value.len() as u8);
    } else {
        let octets = value.len().to_be_bytes();
        let significant = &octets[octets.iter().take_while(|&&octet| octet == 0).count()..];
        // A usize has at most eight octets.
        out.push(0x80 | significant.len() as u8);
        out.extend_from_slice(significant);
    }
    out.extend_from_slice(value);
}

/// One element on its own.
pub(crate) fn element(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 6);
    write(&mut out, tag, value);
    out
}

/// A non-negative INTEGER.
pub(crate) fn integer(value: u64) -> Vec<u8> {
    let octets = value.to_be_bytes();
    let zeros = octets.iter().take_while(|&&octet| octet == 0).count();
    let mut contents = octets[zeros.min(7)..].to_vec();
    if contents[0] >= 0x80 {
        contents.insert(0, 0);
    }
    element(INTEGER, &contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_in_their_shortest_form_only() {
        let long = element(OCTET_STRING, &[7; 200]);
        assert_eq!(long[..3], [4, 0x81, 200]);
        assert_eq!(only(&long, OCTET_STRING).unwrap(), [7; 200]);
        assert_eq!(only(&[4, 0x81, 1, 7], OCTET_STRING), Err(DerError::LengthNotMinimal));
        assert_eq!(only(&[4, 0x82, 0, 200], OCTET_STRING), Err(DerError::LengthNotMinimal));
        assert_eq!(only(&[4, 0x80, 0, 0], OCTET_STRING), Err(DerError::IndefiniteLength));
        assert_eq!(only(&[4, 2, 7], OCTET_STRING), Err(DerError::Truncated));
        assert_eq!(only(&[4, 1, 7, 0], OCTET_STRING), Err(DerError::TrailingBytes));
        assert_eq!(only(&[0x1f, 1, 7], OCTET_STRING), Err(DerError::HighTagNumber));
    }

    #[test]
    fn integers_carry_no_padding() {
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(127), [2, 1, 127]);
        assert_eq!(integer(128), [2, 2, 0, 128]);
        assert_eq!(integer(1000), [2, 2, 3, 0xe8]);
        assert_eq!(magnitude(&[0, 0x80]), Ok(Some(&[0x80][..])));
        assert_eq!(magnitude(&[0x80]), Ok(None));
        assert_eq!(magnitude(&[0, 5]), Err(DerError::IntegerNotMinimal));
        assert_eq!(magnitude(&[]), Err(DerError::IntegerNotMinimal));
    }
}
