//! What is slow and lies outside: asked for by a [`Need`], given back as an [`Answer`].

use std::sync::Arc;
use std::time::Instant;

use super::{LocateFailure, NextHop, Target};
use crate::stir::verification::{FetchFailure, FetchedChain};

/// Names something slow that a call waits for; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeedId(pub u64);

/// Something slow that a call waits for. It ends exactly once: by its answer, its deadline or a CANCEL.
#[derive(Debug)]
pub struct Need {
    /// To be given back with the answer.
    pub id: NeedId,
    /// When the call goes on without; an answer after it is dropped.
    pub deadline: Instant,
    /// What is needed.
    pub kind: NeedKind,
}

/// Kinds of [`Need`].
#[derive(Debug)]
pub enum NeedKind {
    /// The certificate chain behind a URL (RFC 8224 6.2 step 3).
    Certificate {
        /// Its `x5u`, already judged fetchable.
        x5u: Box<str>,
    },
    /// The addresses of a next hop (RFC 3263 4).
    Locate {
        /// Whom.
        target: Target,
    },
    /// A signature by a key in a hardware module.
    Signature {
        /// The name of the key.
        key: Arc<str>,
        /// What is to be signed (ES256).
        input: Box<[u8]>,
    },
}

/// Why there is no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureFailure {
    /// Too many wait for one.
    Busy,
    /// The module refused, or the key is not there.
    Refused,
    /// No answer in time.
    NoAnswer,
}

/// The answer to a [`Need`].
#[derive(Debug)]
pub enum Answer {
    /// To [`NeedKind::Certificate`].
    Certificate(Result<FetchedChain, FetchFailure>),
    /// To [`NeedKind::Locate`]: in the order of trial, addresses of one SRV target together (RFC 7984 4).
    Locate(Result<Arc<[NextHop]>, LocateFailure>),
    /// To [`NeedKind::Signature`]: r and s (RFC 7518 3.4).
    Signature(Result<[u8; 64], SignatureFailure>),
}
