//! What integration tests share: message texts, a simulated network with virtual time, scriptable user agents.
#![allow(dead_code, unused_imports)] // each test crate uses a part of it

pub mod edge;
pub mod lab;
pub mod message;
pub mod network;
pub mod rig;
pub mod rng;
pub mod table;
pub mod ua;

use std::time::Instant;

/// Origin of virtual time: tests count from it and never look at the clock again.
#[allow(clippy::disallowed_methods)] // an Instant can be had in no other way
pub fn epoch() -> Instant {
    Instant::now()
}
