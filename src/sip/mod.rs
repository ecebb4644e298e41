//! SIP messages (RFC 3261): an index over received octets, views parsed on demand, edits written once.
//!
//! A proxy must understand only what it uses and forward the rest octet for octet (16.3 item 1). So a message is the received
//! octets and a list of spans: [`parse`] makes it, [`Message`] reads it, [`Patch`] changes it, [`respond`] answers it,
//! [`stream::StreamFramer`] cuts it out of a byte stream. Values are octets, never text, until someone validates them (H-12).
//!
//! | file | part |
//! |---|---|
//! | `scan` `start_line` `index` | framing, start line, header lines, Content-Length |
//! | `message` `list` | views: fields, values, keys |
//! | `check` | what a proxy must refuse or drop, in one order |
//! | `via` `name_addr` `cseq` `uri` `compare` `tel` `host` `params` `identity` `date` | one grammar each |
//! | `patch` `respond` | writing |
//! | `stream` | TCP and TLS |
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod check;
mod compare;
mod cseq;
pub mod date;
mod error;
mod field_name;
pub mod hop;
mod host;
pub mod identity;
mod index;
mod limits;
mod list;
mod message;
mod method;
mod name;
mod name_addr;
mod params;
mod patch;
pub mod respond;
mod scan;
mod start_line;
pub mod stream;
mod tel;
pub mod text;
mod uri;
mod via;

pub use cseq::CSeq;
pub use error::{DropReason, Refusal, Unusable};
pub use field_name::FieldName;
pub use hop::{ConnectionId, Hop, ListenerId, Transport};
pub use host::{Host, received_address};
pub use index::Index;
pub use limits::{Leniency, Limits};
pub use list::{ListValue, Values};
pub use message::{Field, Message, OwnedMessage, StartLine};
pub use method::Method;
pub use name::Name;
pub use name_addr::NameAddr;
pub(crate) use params::next_comma;
pub use params::{Param, Params};
pub use patch::Patch;
pub use scan::{Framing, parse};
pub use tel::TelUri;
pub use text::Malformed;
pub use uri::{Scheme, Subscriber, Uri, UriParams, is_number, request_uri_repaired, split_subscriber};
pub use via::{MAGIC_COOKIE, Via};
