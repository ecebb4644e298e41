//! Pings: whether the members of trunks are there, asked before a call is lost (KR-7).

mod prober;
mod request;

use std::time::Duration;

pub use prober::{Duty, IsHome};
pub(super) use prober::{Prober, is_probe};

use super::Codes;

/// How the members of a trunk are pinged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probing {
    /// OPTIONS, or another method that begins nothing.
    pub method: String,
    /// From one ping to the next, a tenth more or less.
    pub interval: Duration,
    /// No answer for so long is a failure.
    pub timeout: Duration,
    /// Answers in a row after which a member is up again.
    pub up_after: u32,
    /// Statuses that say that a member serves. That no answer came is none of them.
    pub ok: Vec<Codes>,
    /// URI of From; `None`: this element's own address.
    pub from: Option<String>,
    /// Max-Forwards: 1 ends a ping at the member itself.
    pub max_forwards: u8,
    /// Only members that have failed are pinged.
    pub down_only: bool,
}

impl Default for Probing {
    fn default() -> Self {
        Probing {
            method: "OPTIONS".to_owned(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            up_after: 2,
            ok: vec![Codes::Class(2), Codes::Class(3), Codes::Class(4)],
            from: None,
            max_forwards: 70,
            down_only: false,
        }
    }
}
