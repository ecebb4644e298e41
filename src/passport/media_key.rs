//! `mky`: the fingerprints of the media keys, computed from SDP (RFC 8225 section 5.2.2, RFC 8224 section 4.1, RFC 8122).
use serde_json::{Map, Value};
use std::borrow::Cow;

/// One fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaKey<'a> {
    /// Name of the hash function, lower case as in SDP (`sha-256`).
    pub algorithm: Cow<'a, str>,
    /// Upper case hexadecimal without colons.
    pub digest: Cow<'a, str>,
}

impl MediaKey<'_> {
    /// The JSON object of the claim.
    pub(super) fn to_value(&self) -> Value {
        let member = |name: &str, text: &str| (name.to_owned(), Value::from(text));
        Value::Object(Map::from_iter([member("alg", &self.algorithm), member("dig", &self.digest)]))
    }

    fn sort_key(&self) -> impl Iterator<Item = u8> + '_ {
        self.algorithm.bytes().chain(self.digest.bytes())
    }
}

/// What `mky` has to be for this SDP: every `a=fingerprint` of session and media level, without duplicates, in the order of
/// `alg` and `dig` joined. Empty when there is none: then there is no claim. A line that is no `hash hex` pair is skipped, for a
/// peer can not use it as a key either. At most `limit` fingerprints are looked at.
pub fn from_sdp(sdp: &[u8], limit: usize) -> Vec<MediaKey<'static>> {
    let lines = sdp.split(|octet| matches!(octet, b'\r' | b'\n'));
    let fingerprints = lines.filter_map(|line| line.strip_prefix(b"a=fingerprint:"));
    let mut keys: Vec<_> = fingerprints.take(limit).filter_map(fingerprint).collect();
    keys.sort_by(|one, other| one.sort_key().cmp(other.sort_key()));
    keys.dedup();
    keys
}

/// Whether the SDP has any fingerprint line, usable or not.
pub fn sdp_has_fingerprint(sdp: &[u8]) -> bool {
    memchr::memmem::find(sdp, b"a=fingerprint:").is_some()
}

/// `sha-256 4A:AD:...` (RFC 8122 section 5).
fn fingerprint(text: &[u8]) -> Option<MediaKey<'static>> {
    let text = std::str::from_utf8(text).ok()?;
    let (algorithm, digest) = text.trim().split_once(' ')?;
    let digest: String = digest.trim().split(':').collect();
    let hexadecimal = !digest.is_empty() && digest.bytes().all(|octet| octet.is_ascii_hexdigit());
    let key = MediaKey { algorithm: algorithm.to_ascii_lowercase().into(), digest: digest.to_ascii_uppercase().into() };
    hexadecimal.then_some(key)
}

/// Whether a received claim names the same set of fingerprints, hash names and digits compared without case.
pub fn same_set(claim: &[MediaKey<'_>], computed: &[MediaKey<'_>]) -> bool {
    let equal = |one: &MediaKey<'_>, other: &MediaKey<'_>| {
        one.algorithm.eq_ignore_ascii_case(&other.algorithm) && one.digest.eq_ignore_ascii_case(&other.digest)
    };
    let within = |some: &[MediaKey<'_>], all: &[MediaKey<'_>]| some.iter().all(|key| all.iter().any(|k| equal(k, key)));
    within(claim, computed) && within(computed, claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p12_lines_are_sorted_and_deduplicated() {
        let sdp = b"v=0\r\na=fingerprint:SHA-256 ab:cd\r\nm=audio 1 X 0\r\na=fingerprint:sha-1 FF\r\na=fingerprint:sha-256 AB:CD\r\n";
        let keys = from_sdp(sdp, 16);
        let text: Vec<_> = keys.iter().map(|key| (key.algorithm.as_ref(), key.digest.as_ref())).collect();
        assert_eq!(text, [("sha-1", "FF"), ("sha-256", "ABCD")]);
        assert!(from_sdp(b"v=0\r\na=fingerprints:no\r\na=fingerprint:sha-1\r\n", 16).is_empty());
    }

    #[test]
    fn sets_compare_without_case_and_order() {
        let key = |algorithm: &'static str, digest: &'static str| MediaKey {
            algorithm: algorithm.into(),
            digest: digest.into(),
        };
        let computed = [key("sha-1", "FF"), key("sha-256", "AB")];
        assert!(same_set(&[key("SHA-256", "ab"), key("sha-1", "ff")], &computed));
        assert!(!same_set(&[key("sha-256", "AB")], &computed));
        assert!(!same_set(&[key("sha-256", "AB"), key("sha-1", "FE")], &computed));
        assert!(same_set(&[], &[]));
    }
}
