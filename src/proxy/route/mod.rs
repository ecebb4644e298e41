//! Where a request goes: the rules of RFC 3261 16.4 to 16.6 in their order, one file per rule; `table` is the operator's, `prefix` and
//! `number` are what it is made of.

pub mod marks;
pub mod number;
pub mod prefix;
pub mod preprocess;
pub mod table;
pub mod target;
pub mod trunk;
