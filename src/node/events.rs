//! Events of the proxy: to the log, with the Call-ID on each line, and to whoever observes.

use tokio::sync::mpsc;

use crate::proxy::Event;

/// Where events of a worker go besides the log.
#[derive(Clone, Default)]
pub struct Observer(Option<mpsc::Sender<Event>>);

impl Observer {
    /// An observer that gets a copy of each event; events it has no room for are dropped.
    pub fn new(to: mpsc::Sender<Event>) -> Self {
        Self(Some(to))
    }

    pub(super) fn tell(&self, event: Event) {
        log(&event);
        if let Some(to) = &self.0 {
            let _ = to.try_send(event);
        }
    }
}

/// Octets of a value from the outside that a log line shows (L-4).
const SHOWN: usize = 80;

/// A value from the outside, escaped and cut.
fn shown(value: &[u8]) -> String {
    let (head, rest) = value.split_at(value.len().min(SHOWN));
    format!("{}{}", head.escape_ascii(), if rest.is_empty() { "" } else { "..." })
}

fn log(event: &Event) {
    match event {
        Event::Refused { call_id, source, status, reason } => {
            tracing::info!(call_id = shown(call_id), %source, status, reason, "refused");
        }
        Event::Verified { call_id, trunk, verdict } => {
            tracing::info!(call_id = shown(call_id), trunk = trunk.0, verdict = ?verdict.overall(), rejection = ?verdict.rejection(), "verified");
        }
        Event::Unsigned { call_id, trunk, error } => {
            tracing::warn!(call_id = shown(call_id), trunk = trunk.0, %error, "not signed");
        }
        Event::Unacknowledged => tracing::debug!("a final response was not acknowledged"),
    }
}
