//! STI certificates: bytes in, types out. No clock, no files, no locks; the present time is an argument in Unix seconds, SCT timestamps
//! are milliseconds.
//!
//! A chain enters [`TrustStore::assess`], which answers with a [`ChainVerdict`]: path, window of validity, SCTs and profile, each judged
//! on its own. A worker keeps verdicts in its [`ChainCache`], under the raw protected header of the token they came with.

mod anchors;
mod cache;
mod certificate;
mod claim_constraints;
mod crl;
pub(crate) mod der;
pub mod lint;
mod log_list;
mod name;
mod name_constraints;
pub mod oid;
mod path;
mod pem;
mod referenced;
pub mod sct;
mod signed_list;
mod store;
mod tn_auth_list;
mod verdict;

pub use anchors::{AnchorError, TrustAnchors};
pub use cache::{CacheLimits, ChainCache};
pub use certificate::{Certificate, CertificateError, X509Fault};
pub use claim_constraints::{
    ClaimConstraints, ClaimConstraintsError, ConstraintKind, ConstraintViolation, PermittedValues, is_baseline_claim,
};
pub use crl::{Crl, CrlError, Revocable, Revocation, Revocations, SHORT_LIVED};
pub use der::DerError;
pub use log_list::{Log, LogList, LogListError, LogState};
pub use path::{PathError, PathFacts, ScopeBasis};
pub use pem::{PemError, certificates_from_pem_or_der};
pub use referenced::{ReferencedList, ReferencedLists};
pub use sct::{Sct, SctList, SctListError, TbsError};
pub use signed_list::{AnchorList, ListKey, SignedListError, open};
pub use store::{Limits, TrustPolicy, TrustStore, UnprovenSpc};
pub use tn_auth_list::{Encompassed, ScopeExcess, TnAuthList, TnAuthListError, TnEntry};
pub use verdict::{ChainVerdict, ProfileError, SctCounts, SctError, SctFacts, ValidSct, ValidityError};

/// Lower-case hexadecimal digits.
pub(crate) fn hex(octets: &[u8]) -> String {
    use std::fmt::Write;
    octets.iter().fold(String::with_capacity(octets.len() * 2), |mut out, octet| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{octet:02x}");
        out
    })
}
