//! Keys that lie elsewhere, in a hardware module: what is to be signed goes there, the signature comes back after a while.
//!
//! An ES256 signature has always the same length, so the lines are written with a blank in its place, and filled in later. No blank
//! may leave: whoever has lines written by such a signer fills them ([`first_blank`], [`fill`]) or takes them out ([`take_out`]).
use crate::passport::jws;
use std::ops::Range;

/// Octets of an ES256 signature (RFC 7518 section 3.4).
pub const SIGNATURE: usize = 64;

/// Stands for a signature: of the same length, and none by its alphabet.
pub(super) const BLANK: [u8; 86] = [b'*'; 86];

/// A token whose signature is blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blank {
    /// Where its line begins and ends, in the lines.
    line: Range<usize>,
    /// What is to be signed.
    pub input: Range<usize>,
    signature: Range<usize>,
}

/// The first token without a signature.
pub fn first_blank(lines: &[u8]) -> Option<Blank> {
    const START: &[u8] = b"Identity: ";
    let at = memchr::memmem::find(lines, &BLANK)?;
    let before = lines.get(..at)?;
    let line = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
    let input = line + START.len()..at.checked_sub(1)?;
    let end = at + memchr::memchr(b'\n', lines.get(at..)?)? + 1;
    let is_token = lines.get(line..)?.starts_with(START) && input.start < input.end;
    is_token.then(|| Blank { line: line..end, input, signature: at..at + BLANK.len() })
}

/// Puts the signature into the blank.
pub fn fill(lines: &mut [u8], blank: &Blank, signature: &[u8; SIGNATURE]) {
    let mut text = Vec::with_capacity(BLANK.len());
    jws::encode(signature, &mut text);
    if let Some(place) = lines.get_mut(blank.signature.clone()).filter(|place| place.len() == text.len()) {
        place.copy_from_slice(&text);
    }
}

/// Takes out every line whose signature is blank. Gives their number.
pub fn take_out(lines: &mut Vec<u8>) -> usize {
    let mut count = 0;
    while let Some(blank) = first_blank(lines) {
        lines.drain(blank.line);
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(tokens: &[&str]) -> Vec<u8> {
        let mut out = b"Date: x\r\n".to_vec();
        for token in tokens {
            out.extend_from_slice(format!("Identity: {token};info=<https://a.example/c>\r\n").as_bytes());
        }
        out
    }

    #[test]
    fn blanks_are_filled_one_after_the_other() {
        let blank = format!("aa.bb.{}", "*".repeat(86));
        let mut text = lines(&["xx.yy.zz", &blank, &blank]);
        for _ in 0..2 {
            let blank = first_blank(&text).unwrap();
            assert_eq!(&text[blank.input.clone()], b"aa.bb");
            fill(&mut text, &blank, &[0; 64]);
        }
        let filled = format!("aa.bb.{}", "A".repeat(86));
        assert_eq!(text, lines(&["xx.yy.zz", &filled, &filled]));
        assert_eq!(first_blank(&text), None);
    }

    #[test]
    fn what_stays_blank_is_taken_out() {
        let blank = format!("aa.bb.{}", "*".repeat(86));
        let mut text = lines(&[&blank, "xx.yy.zz", &blank]);
        assert_eq!(take_out(&mut text), 2);
        assert_eq!(text, lines(&["xx.yy.zz"]));
        assert_eq!(take_out(&mut text), 0);
    }
}
