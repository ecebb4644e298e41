//! Session timers as a proxy has to do with them (RFC 4028 8, E-3).

use std::time::Duration;

use crate::sip::text::decimal;
use crate::sip::{Message, Name};

/// The interval of Session-Expires, if there is a readable one.
pub(super) fn interval_of(message: Message<'_>) -> Option<Duration> {
    let field = message.field(Name::SessionExpires)?;
    let seconds = field.value().split(|octet| *octet == b';').next().map(<[u8]>::trim_ascii).and_then(decimal)?;
    Some(Duration::from_secs(seconds.into()))
}
