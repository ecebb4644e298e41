//! The verdict on a chain, and why a check fails.

use std::fmt;

use aws_lc_rs::digest::Digest;
use aws_lc_rs::signature::ParsedPublicKey;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::certificate::Certificate;
use super::crl::Revocable;
use super::path::{PathError, PathFacts};
use super::sct::{SctListError, TbsError};

/// Outside the validity of a path (R28).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValidityError {
    /// Before the latest notBefore.
    NotYetValid {
        /// Unix seconds.
        not_before: i64,
    },
    /// After the earliest notAfter.
    Expired {
        /// Unix seconds.
        not_after: i64,
    },
}

impl fmt::Display for ValidityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetValid { not_before } => write!(f, "not valid before {}", Date(*not_before)),
            Self::Expired { not_after } => write!(f, "not valid after {}", Date(*not_after)),
        }
    }
}

impl std::error::Error for ValidityError {}

/// Unix seconds as people write them.
struct Date(i64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = OffsetDateTime::from_unix_timestamp(self.0).ok().and_then(|date| date.format(&Rfc3339).ok());
        match date {
            Some(date) => f.write_str(&date),
            None => write!(f, "{} s since 1970", self.0),
        }
    }
}

/// Why the embedded SCTs do not show that a trusted log recorded the certificate (R24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SctError {
    /// No SCT list.
    Absent,
    /// The list cannot be read.
    Malformed(SctListError),
    /// The TBSCertificate the logs signed cannot be rebuilt.
    Tbs(TbsError),
    /// No validated path says which key issued the leaf.
    NoPath,
    /// Too few logs vouch for the certificate.
    TooFew(SctCounts),
    /// Too few logs do so yet: SCTs lie in the future.
    Future {
        /// The latest timestamp, milliseconds.
        timestamp: u64,
    },
}

/// What became of the SCTs of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SctCounts {
    /// Valid, one per log.
    pub valid: usize,
    /// Of another version than 1.
    pub unknown_version: usize,
    /// Of a log that is not in the list.
    pub unknown_log: usize,
    /// Of a log that is not trusted, or was not at the SCT's time.
    pub untrusted_log: usize,
    /// With a signature that does not verify, or of another algorithm than ECDSA with SHA-256.
    pub bad_signature: usize,
    /// Not looked at because the budget was spent, or because the log had vouched already.
    pub skipped: usize,
}

impl fmt::Display for SctError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no SCT list"),
            Self::Malformed(error) => error.fmt(f),
            Self::Tbs(error) => error.fmt(f),
            Self::NoPath => f.write_str("SCTs cannot be checked without a validated path"),
            Self::TooFew(counts) => write!(
                f,
                "{} trusted logs vouch for the certificate ({} SCTs of unknown logs, {} of logs not trusted, {} with a bad signature, {} of an unknown version)",
                counts.valid, counts.unknown_log, counts.untrusted_log, counts.bad_signature, counts.unknown_version
            ),
            Self::Future { timestamp } => write!(f, "an SCT from the future, {timestamp} ms"),
        }
    }
}

impl std::error::Error for SctError {}

/// An SCT whose signature is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidSct {
    /// The log.
    pub log_id: [u8; 32],
    /// Milliseconds since 1970; not compared with the present time yet.
    pub timestamp: u64,
}

/// The SCTs that are good apart from the present time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SctFacts {
    /// One per trusted log: its earliest.
    pub valid: Vec<ValidSct>,
    /// What became of all SCTs.
    pub counts: SctCounts,
    /// How many logs the policy asks for.
    pub required: usize,
    /// Some SCT is older than notBefore - 48 h or younger than notAfter: worth a remark.
    pub unusual_timestamp: bool,
}

impl SctFacts {
    /// RFC 6962 section 5.2: SCTs from the future do not count. `now` in Unix seconds, `skew` in seconds (60 is the common constant).
    ///
    /// # Errors
    /// [`SctError::Future`] when too few logs remain.
    pub fn check(&self, now: i64, skew: i64) -> Result<(), SctError> {
        let latest = u64::try_from(now.saturating_add(skew)).unwrap_or(0).saturating_mul(1000);
        if self.valid.iter().filter(|sct| sct.timestamp <= latest).count() >= self.required {
            return Ok(());
        }
        Err(SctError::Future { timestamp: self.valid.iter().map(|sct| sct.timestamp).max().unwrap_or(0) })
    }
}

/// Why a leaf does not fit the VESPER profile, apart from chain, SCT and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileError {
    /// No TNAuthList, or a malformed one.
    TnAuthList,
    /// TNAuthList without a number (R12).
    NoNumber,
    /// No dNSName (R14).
    NoDnsName,
    /// More than one dNSName, and the policy asks for exactly one (B4).
    SeveralDnsNames,
    /// Malformed claim constraints, or both kinds (R13).
    ClaimConstraints,
    /// A key identifier is missing on the path (RFC 9060 section 7).
    MissingKeyIdentifier,
    /// Lives longer than the policy's maximum.
    Lifetime {
        /// Seconds from notBefore to notAfter.
        seconds: i64,
    },
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TnAuthList => f.write_str("no readable TNAuthList"),
            Self::NoNumber => f.write_str("TNAuthList without a number"),
            Self::NoDnsName => f.write_str("no dNSName"),
            Self::SeveralDnsNames => f.write_str("more than one dNSName"),
            Self::ClaimConstraints => f.write_str("malformed claim constraints"),
            Self::MissingKeyIdentifier => f.write_str("a key identifier is missing on the path"),
            Self::Lifetime { seconds } => write!(f, "a lifetime of {seconds} seconds"),
        }
    }
}

impl std::error::Error for ProfileError {}

/// What can be said about a chain once and for all under one [`TrustStore`](super::TrustStore). Each check stands alone, because each has its own policy;
/// what depends on the present time is asked at use.
#[derive(Debug)]
pub struct ChainVerdict {
    /// The signer's certificate.
    pub leaf: Certificate,
    /// The path to an anchor (R22), with the scopes along it.
    pub path: Result<PathFacts, PathError>,
    /// Latest notBefore, Unix seconds: of the path, or of all certificates presented when there is none.
    pub not_before: i64,
    /// Earliest notAfter, Unix seconds, likewise. Before `not_before` when no instant suits all certificates.
    pub not_after: i64,
    /// The embedded SCTs (R24). Their timestamps are compared by [`SctFacts::check`].
    pub scts: Result<SctFacts, SctError>,
    /// The VESPER profile of the leaf; SHAKEN leaves do not fit it.
    pub vesper_profile: Result<(), ProfileError>,
    /// The leaf outlives the lifetime from which on a VESPER leaf is remarked.
    pub long_lived: bool,
    /// Unix seconds until which the TNAuthLists by reference hold that this rests on; far away when there is none.
    pub referenced_until: i64,
    /// URIs of TNAuthLists by reference that were not at hand.
    pub(super) missing_lists: Vec<String>,
    pub(super) key: ParsedPublicKey,
}

impl ChainVerdict {
    /// Whether the whole path is valid at `now` (Unix seconds), give or take `skew` seconds (R28).
    ///
    /// # Errors
    /// Which end of the window is missed; the beginning when the window is empty.
    pub fn validity(&self, now: i64, skew: i64) -> Result<(), ValidityError> {
        if now.saturating_add(skew) < self.not_before {
            Err(ValidityError::NotYetValid { not_before: self.not_before })
        } else if now.saturating_sub(skew) > self.not_after || self.not_before > self.not_after {
            Err(ValidityError::Expired { not_after: self.not_after })
        } else {
            Ok(())
        }
    }

    /// Last second at which the verdict may be used without making it anew, Unix seconds.
    #[must_use]
    pub fn holds_until(&self) -> i64 {
        self.not_after.min(self.referenced_until)
    }

    /// The certificates whose revocation is to be asked for: none without a path.
    #[must_use]
    pub fn revocable(&self) -> &[Revocable] {
        self.path.as_ref().map_or(&[], |path| &path.revocable)
    }

    /// URIs of TNAuthLists by reference that were not at hand when this was made. None for a chain that leads to no trust anchor: nobody
    /// is asked on a stranger's behalf.
    pub fn missing_lists(&self) -> &[String] {
        match self.path {
            // Both are said after the anchor was found and all signatures were good.
            Ok(_) | Err(PathError::ScopeByReference { .. } | PathError::NotDelegated) => &self.missing_lists,
            Err(_) => &[],
        }
    }

    /// SCT check with the present time (R24); `now` in Unix seconds, `skew` in seconds.
    ///
    /// # Errors
    /// As [`scts`](Self::scts), or [`SctError::Future`].
    pub fn check_scts(&self, now: i64, skew: i64) -> Result<(), SctError> {
        self.scts.as_ref().map_err(|error| *error)?.check(now, skew)
    }

    /// Whether `raw_signature` (r and s, 32 octets each, RFC 7518 section 3.4) is the leaf's over `signing_input` (R21).
    ///
    /// See [`verify_es256_digest`](Self::verify_es256_digest) for a caller that needs the digest anyway.
    #[must_use]
    pub fn verify_es256(&self, signing_input: &[u8], raw_signature: &[u8; 64]) -> bool {
        self.key.verify_sig(signing_input, raw_signature).is_ok()
    }

    /// As [`verify_es256`](Self::verify_es256), over the SHA-256 of the signing input.
    #[must_use]
    pub fn verify_es256_digest(&self, digest: &Digest, raw_signature: &[u8; 64]) -> bool {
        self.key.verify_digest_sig(digest, raw_signature).is_ok()
    }
}
