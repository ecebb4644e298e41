//! The running program: worker (the packet loop), fetch (slow side door), start and stop. Only here tasks are spawned, clocks
//! are read and randomness is drawn.
//!
//! Beside the workers: [`resolve`] (names), [`handshake`] (TLS), [`signer`] (keys in hardware modules), `http` (the page for operators,
//! from what [`metrics`] keeps), `reload` (what a new configuration may change), [`renewal`] (certificates of signers that end or are
//! replaced), [`cdr`] (records of calls), [`admin`] (the socket for operators), [`service`] (the STIR engine for those who keep their SBC).
//!
//! `edge` starts `worker`s; each drives a `packet_loop` (sockets, sending) around a `machine` (parse, owner, proxy). `lane`s join
//! the workers, [`fetch`] serves their needs and keeps lists and CRLs up to date, [`trust`] hands what it learns to all workers, `events`
//! tell what happened.

pub mod admin;
pub mod cdr;
pub mod clock;
mod edge;
mod events;
pub mod fetch;
pub mod handshake;
mod http;
mod keepalive;
mod lane;
mod machine;
pub mod metrics;
pub mod names;
mod packet_loop;
mod page;
mod reload;
pub mod renewal;
pub mod resolve;
pub mod service;
mod side_thread;
pub mod signer;
mod telling;
pub mod trust;
mod worker;

pub use edge::{Edge, StartError};
pub use events::Observer;
pub use machine::Counters;
pub use packet_loop::Summary;
pub use reload::ReloadError;

/// Unpredictable octets from the system's generator.
fn random<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    // Only a system without a working generator fails here, and nothing can be kept secret on such a system.
    aws_lc_rs::rand::fill(&mut octets).expect("the system's random number generator works");
    octets
}
