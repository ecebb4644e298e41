//! Issuing: a certificate authority, the key of a transparency log, and the lab, which is a whole small ecosystem in one directory.
//!
//! Keys and serial numbers are random; time is an argument. Only the lab touches files.

pub mod ca;
pub mod lab;
pub mod log;

pub use ca::{Authority, IssueError};
pub use log::{LogError, TransparencyLog};
