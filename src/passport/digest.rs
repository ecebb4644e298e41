//! Digests as claims carry them: `sha256-` and base64 (`rcdi` of RFC 9795 section 6, `msgi` of RFC 9475 section 3.2).
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Reads with and without padding: RFC 9795 prints its digests without, RFC 9475 with.
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The hash functions both documents ask for (C-4, M-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// All.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// As the label has it: lower case, no hyphen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// The claim for these octets without padding, as `rcdi` has it.
    pub fn unpadded(self, octets: &[u8]) -> String {
        let digest = digest::digest(self.algorithm(), octets);
        format!("{}-{}", self.name(), STANDARD_NO_PAD.encode(digest))
    }

    /// The same with padding, as `msgi` has it.
    pub fn padded(self, octets: &[u8]) -> String {
        let digest = digest::digest(self.algorithm(), octets);
        format!("{}-{}", self.name(), STANDARD.encode(digest))
    }
}

/// A digest that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledDigest {
    hash: Hash,
    octets: Vec<u8>,
}

impl LabelledDigest {
    /// Reads `sha256-<base64>`, padded or not. `None`: another label, not base64, or a length that does not fit the label (as the
    /// example of RFC 9475, which is labelled sha256 and has the 48 octets of SHA-384).
    pub fn parse(text: &str) -> Option<Self> {
        let (label, encoded) = text.split_once('-')?;
        let hash = Hash::ALL.into_iter().find(|hash| hash.name() == label)?;
        // The longest has 88 characters.
        let octets = TOLERANT.decode(Some(encoded).filter(|encoded| encoded.len() <= 88)?).ok()?;
        (octets.len() == hash.algorithm().output_len()).then_some(Self { hash, octets })
    }

    /// Whether it is the digest of these octets.
    pub fn is_of(&self, octets: &[u8]) -> bool {
        digest::digest(self.hash.algorithm(), octets).as_ref() == self.octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c4_m4_labels_lengths_and_padding() {
        for hash in Hash::ALL {
            for text in [hash.padded(b"x"), hash.unpadded(b"x")] {
                let read = LabelledDigest::parse(&text).expect("own output");
                assert!(read.is_of(b"x") && !read.is_of(b"y"), "{text}");
            }
        }
        let sha384 = Hash::Sha384.padded(b"x");
        for bad in [
            sha384.replace("sha384", "sha256"),
            sha384.replace("sha384", "sha-384"),
            sha384.replace("sha384", "SHA384"),
            sha384.replace("sha384", "md5"),
            sha384.replace('-', ""),
            format!("{sha384}AAAA"),
            "sha256-".into(),
            "sha256-!".into(),
            String::new(),
        ] {
            assert_eq!(LabelledDigest::parse(&bad), None, "{bad}");
        }
        // RFC 9475 prints 64 characters behind sha256.
        assert_eq!(LabelledDigest::parse(&format!("sha256-{}", "A".repeat(64))), None);
    }

    #[test]
    fn m2_digest_of_cv7() {
        let body = b"Hello, STIR messaging\r\n";
        assert_eq!(Hash::Sha256.padded(body), "sha256-kRA8OpDOml1FWxzYOmwEMw4YXwLfjvXR4lR3nLxTtsg=");
    }
}
