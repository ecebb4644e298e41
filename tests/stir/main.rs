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
mod fetch;
mod reason;
mod robustness;
mod shaken;
mod vesper;
mod work;
