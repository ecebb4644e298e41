//! Overload control between neighbours: RFC 7339 (loss) and RFC 7415 (rate). A neighbour says in the Via of its responses how much
//! it can take; we say the same to ours.

pub mod client;
pub mod params;
pub mod server;

pub use client::Client;
pub use params::{Algorithm, Feedback, Offer};
pub use server::Server;

/// What is done about overload with one trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Role {
    /// Requests to it offer `oc`, and what it answers is obeyed.
    pub client: bool,
    /// Responses to it tell our own load, if it offers `oc`.
    pub server: bool,
    /// What it is told in, if it can do that; else loss.
    pub algorithm: Algorithm,
}
