//! Events of the proxy: to the log, with the Call-ID on each line, and to whoever observes.

use tokio::sync::mpsc;

use crate::proxy::Event;

/// Event lines per second and worker. A flood of bad requests must not become a flood of log lines; all are counted.
const LINES_PER_SECOND: u32 = 100;

/// Where events go besides the log.
#[derive(Clone, Default)]
pub struct Observer(Option<mpsc::Sender<Event>>);

impl Observer {
    /// An observer that gets a copy of each event; events it has no room for are dropped.
    pub fn new(to: mpsc::Sender<Event>) -> Self {
        Self(Some(to))
    }
}

/// The events of one worker.
pub(super) struct Events {
    observer: Observer,
    /// The second (Unix) in which lines are being written, and how many.
    second: i64,
    lines: u32,
}

impl Events {
    pub fn new(observer: Observer) -> Self {
        Self { observer, second: 0, lines: 0 }
    }

    pub fn tell(&mut self, unix: i64, event: Event) {
        if self.may_log(unix) {
            log(&event);
        }
        if let Some(to) = &self.observer.0 {
            let _ = to.try_send(event);
        }
    }

    fn may_log(&mut self, unix: i64) -> bool {
        if unix != self.second {
            let kept_back = self.lines.saturating_sub(LINES_PER_SECOND);
            if kept_back > 0 {
                tracing::warn!(kept_back, "more events than log lines");
            }
            (self.second, self.lines) = (unix, 0);
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= LINES_PER_SECOND
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_so_many_lines_a_second() {
        let mut events = Events::new(Observer::default());
        assert_eq!((0..1000).filter(|_| events.may_log(7)).count(), LINES_PER_SECOND as usize);
        assert!(events.may_log(8));
    }

    #[test]
    fn l4_values_are_escaped_and_cut() {
        assert_eq!(shown(b"a\r\n\x1b[31m\xff"), "a\\r\\n\\x1b[31m\\xff");
        assert_eq!(shown(&[b'x'; 81]), "x".repeat(80) + "...");
    }
}
