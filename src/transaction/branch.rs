//! The branch of the Via this element writes: it leads a response back to its transaction without a lookup.
//!
//! `z9hG4bK` IIIIIIIIIIIIIIII `-` NNNNNNNNNNNNNNNN `.` LLLLLLLLLLLLLLLL, each part 16 lower-case hexadecimal digits:
//! the client's id, hidden under a keyed hash of N; a number nobody outside can guess, new for each transaction; the loop hash of
//! RFC 5393 4.2.1, which this element recognises in a request that comes back.

use crate::sip::{CSeq, MAGIC_COOKIE, Method, Via};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;
use std::ops::Deref;

const PART: usize = 16;
const DASH: usize = MAGIC_COOKIE.len() + PART;
const DOT: usize = DASH + 1 + PART;
const LENGTH: usize = DOT + 1 + PART;

/// A branch of ours in the form it has on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch([u8; LENGTH]);

impl Deref for Branch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The two parts that tell one transaction from another; the id is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonce {
    pub(super) number: u64,
    pub(super) loop_hash: u64,
}

/// Makes branches and reads them back. The key makes the numbers unpredictable, so that nobody off the path can answer for a peer.
#[derive(Debug)]
pub(super) struct BranchCodec {
    key: [u8; 16],
    made: u64,
}

impl BranchCodec {
    pub(super) fn new(key: [u8; 16]) -> Self {
        Self { key, made: 0 }
    }

    pub(super) fn next_nonce(&mut self, loop_hash: u64) -> Nonce {
        self.made = self.made.wrapping_add(1);
        Nonce { number: self.hash(b'N', self.made), loop_hash }
    }

    pub(super) fn encode(&self, id: u64, nonce: Nonce) -> Branch {
        let mut bytes = [b'-'; LENGTH];
        let (cookie, rest) = bytes.split_at_mut(MAGIC_COOKIE.len());
        cookie.copy_from_slice(MAGIC_COOKIE);
        for (part, value) in rest.chunks_mut(PART + 1).zip([id ^ self.mask(nonce), nonce.number, nonce.loop_hash]) {
            write_hex(part, value);
        }
        bytes[DOT] = b'.';
        Branch(bytes)
    }

    /// Id and nonce of a branch that has the form of ours. Whether it *is* one, only the transaction of that id can tell.
    pub(super) fn decode(&self, branch: &[u8]) -> Option<(u64, Nonce)> {
        let [id, number, loop_hash] = parts(branch)?;
        let nonce = Nonce { number, loop_hash };
        Some((id ^ self.mask(nonce), nonce))
    }

    fn mask(&self, nonce: Nonce) -> u64 {
        self.hash(b'I', nonce.number)
    }

    fn hash(&self, domain: u8, value: u64) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(&[domain]);
        hasher.write(&value.to_be_bytes());
        hasher.finish()
    }
}

/// The loop hash in a branch of this form, from any Via of a request (RFC 5393 4.2.1); `None` for every other form.
pub fn loop_hash_of(branch: &[u8]) -> Option<u64> {
    parts(branch).map(|[.., loop_hash]| loop_hash)
}

/// Method and first branch of a request of which only the beginning may be left (an ICMP message quotes a few hundred octets). `None`
/// for a response, for anything else, and when the first Via is not whole.
pub fn quoted_in(datagram: &[u8]) -> Option<(Method<'_>, &[u8])> {
    let mut lines = Lines(datagram);
    let start = lines.next()?;
    let (method, rest) = start.split_at(start.iter().position(|octet| *octet == b' ')?);
    if !rest.ends_with(b" SIP/2.0") {
        return None;
    }
    Some((Method::new(method), lines.first_via()?.branch()?))
}

/// First Via of a response of which only the beginning may be left, and the method if what is left says it.
pub fn quoted_response(datagram: &[u8]) -> Option<(Via<'_>, Option<Method<'_>>)> {
    let mut lines = Lines(datagram);
    if !lines.next()?.starts_with(b"SIP/2.0 ") {
        return None;
    }
    let method = Lines(lines.0).filter_map(field).find(|(name, _)| name.eq_ignore_ascii_case(b"CSeq"));
    let method = method.and_then(|(_, value)| CSeq::parse(value).ok()).map(|cseq| cseq.method);
    Some((lines.first_via()?, method))
}

/// Name and value of a line.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = line.split_at_checked(line.iter().position(|octet| *octet == b':')?)?;
    Some((name.trim_ascii_end(), value.get(1..)?.trim_ascii()))
}

/// Whole lines only.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn first_via(&mut self) -> Option<Via<'a>> {
        let is_via = |name: &[u8]| name.eq_ignore_ascii_case(b"Via") || name.eq_ignore_ascii_case(b"v");
        let (_, value) = self.by_ref().filter_map(field).find(|(name, _)| is_via(name))?;
        Via::parse(value.split(|octet| *octet == b',').next()?.trim_ascii()).ok()
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.windows(2).position(|pair| pair == b"\r\n")?;
        let (line, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(2..)?;
        (!line.is_empty()).then_some(line)
    }
}

/// Strict, so that one value has one spelling and comparing values is comparing octets.
fn parts(branch: &[u8]) -> Option<[u64; 3]> {
    let branch: &[u8; LENGTH] = branch.try_into().ok()?;
    let (cookie, rest) = branch.split_at(MAGIC_COOKIE.len());
    if cookie != MAGIC_COOKIE || branch[DASH] != b'-' || branch[DOT] != b'.' {
        return None;
    }
    let mut parts = [0; 3];
    for (value, digits) in parts.iter_mut().zip(rest.chunks(PART + 1)) {
        *value = read_hex(digits.get(..PART)?)?;
    }
    Some(parts)
}

/// Writes the 16 digits of a part.
pub fn write_hex(digits: &mut [u8], value: u64) {
    for (n, digit) in digits.iter_mut().take(PART).enumerate() {
        let nibble = (value >> (60 - 4 * n)) as u8 & 15;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
}

fn read_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(nibble))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_documented_form_and_reads_back() {
        let mut codec = BranchCodec::new([7; 16]);
        for id in [1, 0xdead_beef, u64::MAX] {
            let nonce = codec.next_nonce(0x0123_4567_89ab_cdef);
            let branch = codec.encode(id, nonce);
            assert!(branch.starts_with(MAGIC_COOKIE) && branch.ends_with(b".0123456789abcdef"));
            assert_eq!(branch.len(), 57);
            assert_eq!(codec.decode(&branch), Some((id, nonce)));
            assert_eq!(loop_hash_of(&branch), Some(0x0123_4567_89ab_cdef));
        }
    }

    #[test]
    fn one_spelling_only() {
        let mut codec = BranchCodec::new([7; 16]);
        let nonce = codec.next_nonce(0xabcd_ef01_2345_6789);
        let branch = codec.encode(5, nonce).to_vec();
        assert_eq!(codec.decode(&branch.to_ascii_uppercase()), None);
        assert_eq!(codec.decode(&branch[1..]), None);
        assert_eq!(codec.decode(b""), None);
        for at in 0..branch.len() {
            let mut other = branch.clone();
            other[at] = b'x';
            assert_eq!(codec.decode(&other), None, "octet {at}");
            other.truncate(at);
            assert_eq!(codec.decode(&other), None);
        }
    }

    #[test]
    fn t9_a_quoted_request_names_its_branch_only_while_its_first_via_is_whole() {
        let branch = BranchCodec::new([7; 16]).encode(5, Nonce { number: 1, loop_hash: 2 });
        let mut request = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=".to_vec();
        request.extend_from_slice(&branch);
        request.extend_from_slice(b";rport\r\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKother\r\nCall");
        assert_eq!(quoted_in(&request), Some((Method::Invite, &branch[..])));
        let whole = request.windows(2).skip(30).position(|pair| pair == b"\r\n").unwrap() + 32;
        for length in 0..request.len() {
            assert_eq!(quoted_in(&request[..length]).is_some(), length >= whole, "{length} octets");
        }
        assert_eq!(quoted_in(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n"), None, "a response");
        assert_eq!(quoted_in(b"OPTIONS sip:a SIP/2.0\r\n\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n"), None, "a body");
    }

    #[test]
    fn t8_a_quoted_response_names_its_transaction_as_far_as_it_is_left() {
        let response =
            b"SIP/2.0 200 OK\r\nv: SIP/2.0/UDP gw.example:5070;branch=z9hG4bK1, SIP/2.0/UDP b;branch=z9hG4bK2\r\n\
            Call-ID: c\r\nCSeq: 7 BYE\r\n\r\n";
        let (via, method) = quoted_response(response).unwrap();
        assert_eq!((via.host(), via.port(), via.branch()), (&b"gw.example"[..], Some(5070), Some(&b"z9hG4bK1"[..])));
        assert_eq!(method, Some(Method::Bye));
        let (via, method) = quoted_response(&response[..response.len() - 6]).unwrap();
        assert_eq!((via.branch(), method), (Some(&b"z9hG4bK1"[..]), None));
        assert!(quoted_response(&response[..40]).is_none(), "half a Via");
        assert!(quoted_response(b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n").is_none());
    }

    #[test]
    fn another_key_reads_another_id() {
        let mut codec = BranchCodec::new([7; 16]);
        let nonce = codec.next_nonce(0);
        let branch = codec.encode(5, nonce);
        assert_ne!(BranchCodec::new([8; 16]).decode(&branch).unwrap().0, 5);
    }
}
