//! Why a check failed. Small and `Copy`: it is part of a verdict, and verdicts are made for every call.
use super::url::UrlError;
use crate::cert::{ProfileError, SctError, ValidityError};
use crate::passport::{ClaimsError, HeaderError, JwsError};
use std::fmt;

/// Why a certificate chain could not be fetched from its `x5u`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFailure {
    /// The policy forbids to ask this URL or the address it resolves to.
    Blocked,
    /// The name does not resolve.
    Name,
    /// No connection.
    Connect,
    /// TLS failed, or the server's certificate did not fit.
    Tls,
    /// No answer in time.
    Timeout,
    /// An answer with another status than 200; redirects are not followed.
    Status(u16),
    /// The answer is longer than allowed.
    TooLarge,
    /// The answer is no chain of certificates.
    NotCertificates,
    /// Too many fetches under way.
    Busy,
}

impl fmt::Display for FetchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked => f.write_str("fetching it is forbidden by policy"),
            Self::Name => f.write_str("its host name does not resolve"),
            Self::Connect => f.write_str("its server can not be reached"),
            Self::Tls => f.write_str("TLS with its server failed"),
            Self::Timeout => f.write_str("its server did not answer in time"),
            Self::Status(status) => write!(f, "its server answered {status}"),
            Self::TooLarge => f.write_str("the answer is too large"),
            Self::NotCertificates => f.write_str("the answer holds no certificates"),
            Self::Busy => f.write_str("too many fetches are under way"),
        }
    }
}

impl std::error::Error for FetchFailure {}

/// Why a check failed. What it means on the wire is said once, in [`super::reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The Identity field is not of the grammar of RFC 8224 section 4.
    Field,
    /// The field has no `info` (RFC 8224 section 4: it has to).
    NoInfo,
    /// `info` or `x5u` is no URL that may be used.
    Url(UrlError),
    /// Not the segments of a token.
    Jws(JwsError),
    /// The protected header is refused, its `x5c` apart.
    Header(HeaderError),
    /// The payload is refused.
    Payload(ClaimsError),
    /// The token's algorithm is not ES256.
    Algorithm,
    /// A full form whose protected header lacks `x5u`.
    NoX5u,
    /// `x5u` differs from `info` (RFC 8224 4.1).
    InfoMismatch,
    /// `ppt` of the header differs from the field's parameter.
    PptMismatch,
    /// A compact form of an extension that has none (S-3), or without what is needed to rebuild it.
    Compact,
    /// `x5c` can not be read.
    X5c(HeaderError),
    /// VESPER asks for `x5c`, the token has none (R17).
    NoX5c,
    /// The credential can not be fetched.
    Fetch(FetchFailure),
    /// The signer's certificate is unreadable or its key can not make ES256 signatures; the credential has the details.
    Certificate,
    /// No path to a trusted anchor; the credential has the details.
    Path,
    /// The certificate does not fit the VESPER profile.
    Profile(ProfileError),
    /// Outside the validity window.
    Validity(ValidityError),
    /// `iat` is outside the validity of the signer's certificate.
    IatOutsideCertificate,
    /// A certificate of the path is revoked.
    Revoked,
    /// No current CRL is at hand for a certificate of the path that names one.
    CrlUnavailable,
    /// No TNAuthList, or one that can not be read.
    NoTnAuthList,
    /// The TNAuthList does not cover the number.
    NumberNotAuthorized,
    /// The certificate does not name the domain of a URI identity (RFC 8224 8.4).
    DomainNotAuthorized,
    /// VESPER speaks of telephone numbers; `orig` is a URI.
    NotTelephoneNumber,
    /// No SCT that counts.
    Sct(SctError),
    /// Host of `x5u` is no dNSName of the certificate.
    HostNotInCertificate,
    /// The signature does not verify.
    Signature,
    /// Older than the policy allows.
    Stale {
        /// Seconds since `iat` or Date.
        age: i64,
    },
    /// Further in the future than clock skew explains.
    Future {
        /// Seconds until `iat`.
        ahead: i64,
    },
    /// Date is stale; `iat` is not, but no replay state is kept (RFC 8224 12.1).
    StaleDate {
        /// Seconds since Date.
        age: i64,
    },
    /// The request has no usable originator identity.
    NoOriginator,
    /// `orig` is not the originator in the request (I-27).
    OrigMismatch,
    /// `dest` is neither To nor Request-URI.
    DestMismatch,
    /// `dest` names To, the Request-URI is another, and the policy asks for proof of the retarget.
    Retargeted,
    /// The outermost diversion does not lead to the Request-URI.
    DivTarget,
    /// No token of the request was meant for the diverting party, or none that is valid (D-16).
    DivIncomplete,
    /// `rsp` names another party than the network asserts in P-Asserted-Identity (RFC 9970, O-5).
    PartyNotAsserted,
    /// `rsp` names another party than an earlier one of the dialog (N-20).
    PartyChanged,
    /// The caller of a diversion is not the caller of the diverted token (RFC 8946 4.2 step 3).
    DivOrig,
    /// More diversions than the policy follows.
    TooManyDiversions,
    /// `msgi` is not the digest of the body (M-5).
    BodyMismatch,
    /// `rph` names no r-value of the Resource-Priority of the request, or `sph` is not its Priority.
    PriorityMismatch,
    /// The certificate does not speak for the namespaces of Resource-Priority.
    NamespaceNotAuthorized,
    /// `mky` differs from the fingerprints of the SDP.
    MediaKeyMismatch,
    /// The SDP has fingerprints, the token no `mky`.
    MediaKeyMissing,
    /// Claims of the extension are missing or malformed (S-1).
    Extension(ClaimsError),
    /// The certificate's constraints can not be read, or are of both kinds.
    BadConstraints,
    /// A claim violates the certificate's constraints.
    ConstraintViolation,
    /// A claim the certificate does not authorize (R13), under a strict policy.
    UnauthorizedClaim,
    /// White space, members in another order, or numbers that are no plain integers (RFC 8225 section 9).
    Serialization,
    /// The same token was seen in another call.
    Replayed,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(error) => error.fmt(f),
            Self::Jws(error) => error.fmt(f),
            Self::Header(error) | Self::X5c(error) => error.fmt(f),
            Self::Payload(error) | Self::Extension(error) => error.fmt(f),
            Self::Fetch(error) => write!(f, "credential: {error}"),
            Self::Profile(error) => write!(f, "certificate: {error}"),
            Self::Validity(error) => error.fmt(f),
            Self::Sct(error) => error.fmt(f),
            Self::Stale { age } => write!(f, "the token is {age} s old"),
            Self::Future { ahead } => write!(f, "the token is from {ahead} s in the future"),
            Self::StaleDate { age } => write!(f, "Date is {age} s old and no replay state is kept"),
            other => f.write_str(other.phrase()),
        }
    }
}

impl Failure {
    /// The failures without facts.
    fn phrase(&self) -> &'static str {
        match self {
            Self::Field => "Identity field is malformed",
            Self::NoInfo => "Identity field has no info parameter",
            Self::Algorithm => "algorithm is not ES256",
            Self::NoX5u => "protected header lacks x5u",
            Self::InfoMismatch => "x5u differs from info",
            Self::PptMismatch => "ppt differs from the Identity parameter",
            Self::Compact => "compact form can not be rebuilt",
            Self::NoX5c => "no x5c",
            Self::Certificate => "the signer's certificate can not be used",
            Self::Path => "no path to a trusted anchor",
            Self::IatOutsideCertificate => "iat is outside the validity of the signer's certificate",
            Self::Revoked => "a certificate of the path is revoked",
            Self::CrlUnavailable => "no current CRL is at hand for a certificate of the path",
            Self::NoTnAuthList => "certificate has no readable TNAuthList",
            Self::NumberNotAuthorized => "TNAuthList does not cover the number",
            Self::DomainNotAuthorized => "certificate does not name the domain",
            Self::NotTelephoneNumber => "orig is no telephone number",
            Self::HostNotInCertificate => "host of x5u is no dNSName of the certificate",
            Self::Signature => "signature does not verify",
            Self::NoOriginator => "request has no originator identity",
            Self::OrigMismatch => "orig is not the originator of the request",
            Self::DestMismatch => "dest is not the destination of the request",
            Self::Retargeted => "request was retargeted without proof",
            Self::DivTarget => "diversion does not lead to the Request-URI",
            Self::DivIncomplete => "no valid token was meant for the diverting party",
            Self::PartyNotAsserted => "rsp names another party than P-Asserted-Identity",
            Self::PartyChanged => "rsp names another party than before",
            Self::DivOrig => "diversion and diverted token have different callers",
            Self::TooManyDiversions => "more diversions than are followed",
            Self::BodyMismatch => "msgi is not the digest of the body",
            Self::PriorityMismatch => "rph does not fit Resource-Priority or Priority",
            Self::NamespaceNotAuthorized => "certificate does not speak for Resource-Priority",
            Self::MediaKeyMismatch => "mky differs from the fingerprints in SDP",
            Self::MediaKeyMissing => "SDP has fingerprints, the token no mky",
            Self::BadConstraints => "claim constraints of the certificate can not be read",
            Self::ConstraintViolation => "claims violate the constraints of the certificate",
            Self::UnauthorizedClaim => "a claim is not authorized by the certificate",
            Self::Serialization => "the token is not in the form of RFC 8225 section 9",
            Self::Replayed => "the token was used in another call",
            _ => "failed",
        }
    }
}

impl std::error::Error for Failure {}
