//! Where a request goes: the rules of RFC 3261 16.4 to 16.6 in their order, one file per rule.

pub mod marks;
pub mod preprocess;
pub mod target;
pub mod trunk;
