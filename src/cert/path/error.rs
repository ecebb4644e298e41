//! Why a chain leads to no trust anchor.

use std::fmt;

use crate::cert::certificate::CertificateError;
use crate::cert::tn_auth_list::{ScopeExcess, TnAuthListError};

/// Why a chain leads to no trust anchor (R22). `index` counts from the leaf, 0.
#[derive(Clone, Debug, PartialEq)]
pub enum PathError {
    /// A certificate above the leaf cannot be read.
    Unreadable {
        /// Which certificate.
        index: usize,
        /// Why.
        error: CertificateError,
    },
    /// The same certificate twice.
    Duplicate {
        /// The later one.
        index: usize,
    },
    /// The next certificate does not carry the name of this one's issuer: unordered, or not of this chain.
    IssuerName {
        /// The certificate whose issuer is missing.
        index: usize,
    },
    /// authorityKeyIdentifier differs from the issuer's subjectKeyIdentifier (RFC 9060 section 7).
    KeyIdentifier {
        /// The certificate with the authorityKeyIdentifier.
        index: usize,
    },
    /// A certificate beyond the trust anchor.
    Unused {
        /// Which certificate.
        index: usize,
    },
    /// No trust anchor issued the last certificate.
    UnknownAnchor,
    /// Not X.509 version 3.
    Version {
        /// Which certificate.
        index: usize,
    },
    /// The leaf has cA TRUE (RFC 9060 section 4).
    LeafIsCa,
    /// An issuer without cA TRUE.
    NotCa {
        /// Which certificate.
        index: usize,
    },
    /// keyUsage lacks digitalSignature (leaf) or keyCertSign (issuer).
    KeyUsage {
        /// Which certificate.
        index: usize,
    },
    /// More CAs below than pathLenConstraint allows.
    PathLength {
        /// The certificate with the constraint.
        index: usize,
    },
    /// A dNSName outside the nameConstraints of a CA above, or constraints of another form than dNSName.
    NameConstraints {
        /// The certificate with the constraints.
        index: usize,
    },
    /// A critical extension nobody here processes.
    UnknownCritical {
        /// Which certificate.
        index: usize,
        /// The extension, dotted.
        extension: String,
    },
    /// An extension occurs twice.
    RepeatedExtension {
        /// Which certificate.
        index: usize,
        /// The extension, dotted.
        extension: String,
    },
    /// A standard extension cannot be read.
    MalformedExtension {
        /// Which certificate.
        index: usize,
        /// The extension, dotted.
        extension: String,
    },
    /// noRevAvail in a CA, or beside a pointer to revocation status (RFC 9608 sections 3 and 4).
    NoRevAvail {
        /// Which certificate.
        index: usize,
    },
    /// None of the accepted certificate policies.
    Policy {
        /// Which certificate.
        index: usize,
    },
    /// The signature algorithm inside the TBSCertificate differs from the one beside the signature.
    AlgorithmMismatch {
        /// Which certificate.
        index: usize,
    },
    /// A signature algorithm or issuer key that is not accepted.
    Algorithm {
        /// Which certificate.
        index: usize,
    },
    /// A signature that does not verify.
    Signature {
        /// Which certificate.
        index: usize,
    },
    /// More signature verifications than allowed.
    Budget,
    /// The TNAuthList of an issuer is malformed, so nothing bounds what is below.
    IssuerScope {
        /// Which certificate; the length of the path is the anchor.
        index: usize,
        /// Why.
        error: TnAuthListError,
    },
    /// The TNAuthList of an issuer is only given by reference, and an unfetched list gives no authority.
    ScopeByReference {
        /// Which certificate; the length of the path is the anchor.
        index: usize,
    },
    /// A TNAuthList exceeds that of a CA above (RFC 9060 section 4).
    Scope {
        /// The certificate that exceeds.
        index: usize,
        /// With what.
        excess: ScopeExcess,
    },
    /// Numbers rest on a service provider code of a CA above, and the policy asks for more.
    UnprovenScope,
    /// No CA above the leaf has a TNAuthList, so the leaf is no delegate certificate, and the policy asks for one.
    NotDelegated,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { index, error } => write!(f, "certificate {index}: {error}"),
            Self::Duplicate { index } => write!(f, "certificate {index} occurs twice"),
            Self::IssuerName { index } => write!(f, "certificate {index} is not followed by its issuer"),
            Self::KeyIdentifier { index } => {
                write!(f, "certificate {index}: authorityKeyIdentifier is not its issuer's key identifier")
            }
            Self::Unused { index } => write!(f, "certificate {index} lies beyond the trust anchor"),
            Self::UnknownAnchor => f.write_str("no trust anchor issued the last certificate"),
            Self::Version { index } => write!(f, "certificate {index} is not version 3"),
            Self::LeafIsCa => f.write_str("the signer's certificate is a CA's"),
            Self::NotCa { index } => write!(f, "certificate {index} is not a CA's"),
            Self::KeyUsage { index } => write!(f, "certificate {index}: keyUsage forbids what its key is used for"),
            Self::PathLength { index } => {
                write!(f, "certificate {index}: more CAs below than pathLenConstraint allows")
            }
            Self::NameConstraints { index } => write!(f, "certificate {index}: nameConstraints not satisfied below"),
            Self::UnknownCritical { index, extension } => {
                write!(f, "certificate {index}: unknown critical extension {extension}")
            }
            Self::RepeatedExtension { index, extension } => {
                write!(f, "certificate {index}: extension {extension} occurs twice")
            }
            Self::MalformedExtension { index, extension } => {
                write!(f, "certificate {index}: malformed extension {extension}")
            }
            Self::NoRevAvail { index } => {
                write!(f, "certificate {index}: noRevAvail in a CA or beside a revocation pointer")
            }
            Self::Policy { index } => write!(f, "certificate {index}: no accepted certificate policy"),
            Self::AlgorithmMismatch { index } => {
                write!(f, "certificate {index}: signature algorithms inside and outside differ")
            }
            Self::Algorithm { index } => {
                write!(f, "certificate {index}: signature algorithm or issuer key not accepted")
            }
            Self::Signature { index } => write!(f, "certificate {index}: signature does not verify"),
            Self::Budget => f.write_str("more signature verifications than allowed"),
            Self::IssuerScope { index, error } => write!(f, "certificate {index}: {error}"),
            Self::ScopeByReference { index } => write!(f, "certificate {index}: TNAuthList by reference only"),
            Self::Scope { index, excess } => {
                write!(f, "certificate {index}: {} exceeds the scope of a CA above", excess.entry)
            }
            Self::UnprovenScope => f.write_str("numbers rest on a service provider code above"),
            Self::NotDelegated => f.write_str("no CA above the leaf has a TNAuthList"),
        }
    }
}

impl std::error::Error for PathError {}
