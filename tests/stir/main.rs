//! RFC 8224 and VESPER: what is signed, what is accepted, what is refused and by which code.
#[allow(dead_code)]
#[path = "../certificate/support.rs"]
mod pki;
mod support;

mod authentication;
#[allow(dead_code)]
mod bombs;
mod command;
mod compact;
mod diversion;
mod fetch;
mod messages;
mod parties;
mod priority;
mod reason;
mod revocation;
mod rich_call_data;
mod robustness;
mod shaken;
mod signing;
mod vesper;
mod work;
