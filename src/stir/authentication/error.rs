//! Why no signer is made, what is remarked about one, and why a request is not signed.
use crate::cert::{CertificateError, ConstraintViolation};
use crate::stir::url::UrlError;
use std::fmt;

/// Why no signer can be made.
#[derive(Clone, Debug, PartialEq)]
pub enum SignerError {
    /// No certificate was given.
    NoCertificate,
    /// A certificate can not be read.
    Certificate {
        /// Its place in the chain.
        index: usize,
        /// Why.
        error: CertificateError,
    },
    /// The leaf has no P-256 key.
    NotEs256,
    /// The private key can not be read.
    Key,
    /// The private key is another's.
    KeyMismatch,
    /// `x5u` can not be used.
    Url(UrlError),
    /// The leaf has no readable TNAuthList (R11).
    NoTnAuthList,
    /// VESPER: the TNAuthList has no number (R12).
    NoNumber,
    /// VESPER: the leaf has no dNSName (R14).
    NoDnsName,
    /// VESPER: host of `x5u` is no dNSName of the leaf (R14, R26).
    HostNotInCertificate,
    /// VESPER: the leaf embeds no SCT (R20).
    NoSct,
    /// The leaf's claim constraints are malformed or of both kinds (R13).
    BadConstraints,
}

impl fmt::Display for SignerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("no certificate"),
            Self::Certificate { index, error } => write!(f, "certificate {index}: {error}"),
            Self::NotEs256 => f.write_str("the certificate has no P-256 key"),
            Self::Key => f.write_str("the private key is no P-256 key in PKCS#8 or SEC1 form"),
            Self::KeyMismatch => f.write_str("the private key is not the certificate's"),
            Self::Url(error) => write!(f, "x5u: {error}"),
            Self::NoTnAuthList => f.write_str("the certificate has no readable TNAuthList"),
            Self::NoNumber => f.write_str("the certificate's TNAuthList has no telephone number"),
            Self::NoDnsName => f.write_str("the certificate has no dNSName"),
            Self::HostNotInCertificate => f.write_str("the host of x5u is no dNSName of the certificate"),
            Self::NoSct => f.write_str("the certificate embeds no SCT"),
            Self::BadConstraints => f.write_str("the certificate's claim constraints can not be read"),
        }
    }
}

impl std::error::Error for SignerError {}

/// What is worth telling the operator, though signing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignerWarning {
    /// The subject has no organization (R15).
    NoOrganization,
    /// A VESPER certificate that lives longer than a week (R5).
    LongLived {
        /// Seconds from notBefore to notAfter.
        seconds: i64,
    },
    /// `attest` and `origid` are not authorized by the certificate: VESPER verifiers drop them (R13).
    UnauthorizedClaims,
    /// Verifiers that keep to ATIS-1000074 will not fetch this `x5u`.
    NotFetchable(UrlError),
}

impl fmt::Display for SignerWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOrganization => f.write_str("the certificate's subject names no organization"),
            Self::LongLived { seconds } => write!(f, "the certificate lives {seconds} s, more than a week"),
            Self::UnauthorizedClaims => f.write_str("the certificate does not authorize attest and origid"),
            Self::NotFetchable(error) => write!(f, "x5u will not be fetched by everybody: {error}"),
        }
    }
}

/// Why a request is not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignError {
    /// The certificate is not valid yet.
    NotYetValid {
        /// UNIX seconds.
        not_before: i64,
    },
    /// The certificate has expired, or does within a minute.
    Expired {
        /// UNIX seconds.
        not_after: i64,
    },
    /// The request has no usable originator.
    NoOriginator,
    /// The request has no usable To.
    NoDestination,
    /// VESPER signs for telephone numbers.
    NotTelephoneNumber,
    /// The certificate does not speak for the originator (I-3).
    NotAuthorized,
    /// Date can not be read.
    BadDate,
    /// Date is off by more than the tolerance (I-5, I-6).
    StaleDate {
        /// Seconds from Date to now, negative for a Date in the future.
        age: i64,
    },
    /// The request carries no Identity that could be diverted (D-10).
    NoIdentity,
    /// The new target is the old one (D-2), or can not be read.
    NotRetargeted,
    /// No token of the request was meant for the present target: a diversion from here could be joined to none (D-14, D-15).
    NothingToDivert,
    /// The chain of diversions is as long as it may be.
    TooManyDiversions,
    /// The token to be diverted is older than three hours, or from the future.
    StaleToken {
        /// Seconds from its `iat` to now.
        age: i64,
    },
    /// The request has no Resource-Priority that is to be signed.
    NoPriority,
    /// The request is none that such tokens are for (R-4, M-1).
    Method,
    /// The certificate forbids these claims.
    Constraint(ConstraintViolation),
    /// The cryptographic library, or the hardware module, refused or did not answer.
    Signature,
    /// The key is in a hardware module, which is not asked here.
    KeyElsewhere,
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetValid { not_before } => write!(f, "the certificate is valid only from {not_before}"),
            Self::Expired { not_after } => write!(f, "the certificate is valid only until {not_after}"),
            Self::NoOriginator => f.write_str("the request has no usable originator"),
            Self::NoDestination => f.write_str("the request has no usable To"),
            Self::NotTelephoneNumber => f.write_str("the originator is no telephone number"),
            Self::NotAuthorized => f.write_str("the certificate does not speak for the originator"),
            Self::BadDate => f.write_str("Date can not be read"),
            Self::NoIdentity => f.write_str("the request carries no Identity"),
            Self::NotRetargeted => f.write_str("the request is not retargeted"),
            Self::NothingToDivert => f.write_str("no token was meant for the present target"),
            Self::TooManyDiversions => f.write_str("the chain of diversions is as long as it may be"),
            Self::StaleToken { age } => write!(f, "the token to be diverted is {age} s old"),
            Self::NoPriority => f.write_str("the request has no Resource-Priority to be signed"),
            Self::Method => f.write_str("such tokens are not for this method"),
            Self::StaleDate { age } => write!(f, "Date is {age} s old"),
            Self::Constraint(violation) => violation.fmt(f),
            Self::Signature => f.write_str("signing failed"),
            Self::KeyElsewhere => f.write_str("the key is in a hardware module that is not asked here"),
        }
    }
}

impl std::error::Error for SignError {}
