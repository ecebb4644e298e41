//! Events of the proxy: to the log, with the Call-ID and the names of trunks, and to whoever observes.

use tokio::sync::mpsc;

use super::names::{KnownNames, TrunkNames};
use crate::proxy::Event;
use crate::proxy::clock_watch::ClockChange;
use crate::stir::Verdict;

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
    names: KnownNames,
    /// The second (Unix) in which lines are being written, and how many.
    second: i64,
    lines: u32,
}

impl Events {
    pub fn new(observer: Observer, names: TrunkNames) -> Self {
        Self { observer, names: KnownNames::new(names), second: 0, lines: 0 }
    }

    pub fn tell(&mut self, unix: i64, event: Event) {
        if self.may_log(unix) {
            log(&event, &mut self.names);
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

/// The Call-ID of a message that perhaps can not be parsed; empty if no line looks like one.
pub(super) fn call_id_in(message: &[u8]) -> String {
    let value = message.split(|octet| *octet == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|octet| *octet == b':')?)?;
        let name = name.trim_ascii();
        let is_it = name.eq_ignore_ascii_case(b"Call-ID") || name.eq_ignore_ascii_case(b"i");
        is_it.then(|| value.get(1..).unwrap_or_default().trim_ascii())
    });
    shown(value.unwrap_or_default())
}

/// A message for the log: escaped, every line cut, so that no token gets there whole, and the digits of numbers behind their first
/// four replaced, whatever separates them (RFC 3966 5.1.1). IPv4 addresses stay where addresses stand.
pub(super) fn redacted(message: &[u8]) -> String {
    let mut out = String::new();
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        let mut masked = Vec::with_capacity(line.len());
        let belongs = |octet: &u8| octet.is_ascii_digit() || matches!(octet, b'-' | b'.' | b'(' | b')');
        for run in line.chunk_by(|one, next| belongs(one) == belongs(next)) {
            let may_be_address = matches!(masked.last(), Some(b'@' | b' ' | b'='));
            let is_address = may_be_address && is_ipv4(run);
            let mut digits = 0;
            masked.extend(run.iter().map(|octet| {
                digits += usize::from(octet.is_ascii_digit());
                if octet.is_ascii_digit() && digits > 4 && !is_address { b'x' } else { *octet }
            }));
        }
        out.push_str(&shown(&masked));
    }
    out
}

fn is_ipv4(octets: &[u8]) -> bool {
    std::str::from_utf8(octets).is_ok_and(|text| text.parse::<std::net::Ipv4Addr>().is_ok())
}

/// The failed checks of a verdict, token by token.
fn failures(verdict: &Verdict) -> String {
    let all = verdict.tokens().iter().flat_map(|token| token.checks.failures());
    all.map(|(check, failure)| format!("{}: {failure}", check.id())).collect::<Vec<_>>().join("; ")
}

fn log(event: &Event, names: &mut KnownNames) {
    match event {
        Event::Refused { call_id, source, status, reason } => {
            tracing::info!(call_id = shown(call_id), %source, status, reason, "refused");
        }
        Event::Verified { call_id, trunk, verdict } => {
            let status = verdict.rejection().map(|rejection| rejection.status);
            let (valid, failed) = (verdict.is_valid(), failures(verdict));
            tracing::info!(
                call_id = shown(call_id),
                trunk = names.of(*trunk),
                valid,
                tokens = verdict.tokens().len(),
                failed,
                status,
                "verified"
            );
        }
        Event::Connected { call_id, trunk, verdict } => {
            let (valid, failed) = (verdict.is_valid(), failures(verdict));
            tracing::info!(call_id = shown(call_id), trunk = names.of(*trunk), valid, failed, "connected identity");
        }
        Event::Unsigned { call_id, trunk, error } => {
            tracing::warn!(call_id = shown(call_id), trunk = names.of(*trunk), %error, "not signed");
        }
        Event::Disputed { call_id, trunk, reason } => {
            let reason = shown(reason);
            tracing::warn!(call_id = shown(call_id), trunk = names.of(*trunk), reason, "a token of ours failed there");
        }
        Event::Banned { network, cause } => tracing::warn!(%network, %cause, "banned"),
        Event::NextHop { trunk, member, next_hop, is_up: true } => {
            tracing::info!(trunk = names.of(*trunk), member, next_hop, "next hop is up")
        }
        Event::NextHop { trunk, member, next_hop, .. } => {
            tracing::warn!(trunk = names.of(*trunk), member, next_hop, "next hop is down")
        }
        Event::Clock(change) => log_clock(change),
        Event::Unacknowledged { call_id } => {
            tracing::debug!(call_id = shown(call_id), "a final response was not acknowledged");
        }
    }
}

fn log_clock(change: &ClockChange) {
    let offset = change.offset;
    if change.is_wrong {
        tracing::error!(
            offset_seconds = offset,
            "the clock of this machine is wrong by what others say: check it; tokens will be refused"
        );
    } else {
        tracing::info!(offset_seconds = offset, "the clock of this machine agrees with others again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_so_many_lines_a_second() {
        let mut events = Events::new(Observer::default(), TrunkNames::default());
        assert_eq!((0..1000).filter(|_| events.may_log(7)).count(), LINES_PER_SECOND as usize);
        assert!(events.may_log(8));
    }

    #[test]
    fn l4_values_are_escaped_and_cut() {
        assert_eq!(shown(b"a\r\n\x1b[31m\xff"), "a\\r\\n\\x1b[31m\\xff");
        assert_eq!(shown(&[b'x'; 81]), "x".repeat(80) + "...");
    }

    #[test]
    fn the_call_id_of_what_can_not_be_parsed_is_found_all_the_same() {
        assert_eq!(call_id_in(b"INVITE\r\nVia: x\r\ncall-id : a@b\r\n\r\n"), "a@b");
        assert_eq!(call_id_in(b"x\ni:c\n"), "c");
        assert_eq!(call_id_in(b"\xff\x00"), "");
    }

    #[test]
    fn no_token_and_no_number_of_a_message_reaches_the_log_whole() {
        let token = "eyJhbGciOiJFUzI1NiJ9.".repeat(20);
        let message = format!(
            "INVITE sip:+12155551213@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;received=198.51.100.7\r\n\
             From: <tel:+1-215-555-1212>;tag=x\r\nTo: <tel:+1(215)555.1212>\r\nContact: <sip:12.34.56.78@a>\r\n\
             Identity: {token}\r\nCSeq: 1 INVITE\r\n\r\n"
        );
        let logged = redacted(message.as_bytes());
        for shown in ["<tel:+1-215-xxx-xxxx>", "<tel:+1(215)xxx.xxxx>", "<sip:12.34.xx.xx@a>"] {
            assert!(logged.contains(shown), "{logged}");
        }
        assert!(logged.contains("UDP 192.0.2.10:5060;received=198.51.100.7"), "{logged}");
        assert!(logged.contains("INVITE sip:+1215xxxxxxx@192.0.2.1 SIP/2.0\\r\\n"), "{logged}");
        assert!(logged.contains("CSeq: 1 INVITE") && !logged.contains(&token[..100]), "{logged}");
    }
}
