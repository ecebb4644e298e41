//! One call record as a line of JSON.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::node::names::TrunkNames;
use crate::passport::ppt::shaken::{self, Attestation};
use crate::proxy::{CallRecord, TrunkId};
use crate::sip::hop::Hop;
use crate::stir::Verstat;

/// A moment on both clocks: records know the monotonic one only.
#[derive(Clone, Copy)]
pub(in crate::node) struct Clock {
    pub instant: Instant,
    pub millis: i64,
}

impl Clock {
    /// What the wall clock showed at an instant, ISO 8601 in UTC with milliseconds.
    pub fn wall(self, at: Instant) -> String {
        let ago = self.instant.saturating_duration_since(at).as_millis();
        iso8601(self.millis.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX)))
    }
}

fn iso8601(millis: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000);
    at.map_or_else(
        |_| String::new(),
        |at| {
            let (year, month, day) = at.to_calendar_date();
            let (hour, minute, second, milli) = at.to_hms_milli();
            format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", u8::from(month))
        },
    )
}

/// One line; docs/operation.md describes the fields.
#[derive(Serialize)]
pub(super) struct Line {
    call_id: String,
    from_tag: String,
    to_tag: String,
    caller: String,
    called: String,
    ingress: Option<String>,
    egress: Option<String>,
    source: String,
    member: Option<String>,
    received: String,
    ringing: Option<String>,
    answered: Option<String>,
    ended: String,
    setup_seconds: Option<f64>,
    duration_seconds: f64,
    status: u16,
    own_status: bool,
    cause: Option<u16>,
    ended_by: &'static str,
    cancelled: bool,
    answers: usize,
    attempts: u16,
    verdict: &'static str,
    verdict_check: Option<&'static str>,
    attest: Option<&'static str>,
    verified_origid: Option<String>,
    verstat: Option<&'static str>,
    diverted: Vec<String>,
    rcd_name: Option<&'static str>,
    certificate: Option<String>,
    connected: &'static str,
    connected_check: Option<&'static str>,
    connected_number: Option<String>,
    connected_diverted: Vec<String>,
    signer: Option<String>,
    signer_attest: Option<&'static str>,
    origid: Option<String>,
}

pub(super) fn line_of(record: &CallRecord, names: &TrunkNames, clock: Clock, shortened: bool) -> Line {
    let call = &record.call;
    let name = |trunk: Option<TrunkId>| trunk.map(|trunk| names.of(trunk).to_string());
    let numbers = call.numbers();
    let number = |octets: &[u8]| if shortened { shorten(&text(octets)) } else { text(octets) };
    let (verification, connection, signed) = (call.verification(), call.connection(), call.signed());
    let origid = |signed: &crate::proxy::calls::Signed| shaken::origid(signed.origid).as_str().to_owned();
    Line {
        call_id: text(call.call_id()),
        from_tag: text(call.from_tag()),
        to_tag: text(call.to_tag()),
        caller: number(numbers.caller),
        called: number(numbers.called),
        ingress: name(call.ingress()),
        egress: name(call.egress()),
        source: hop(&call.source()),
        member: call.next_hop().as_ref().map(hop),
        received: clock.wall(call.started()),
        ringing: call.rang().map(|at| clock.wall(at)),
        answered: call.answered().map(|at| clock.wall(at)),
        ended: clock.wall(record.ended),
        setup_seconds: call.answered().map(|at| seconds(at.saturating_duration_since(call.started()))),
        duration_seconds: seconds(record.duration()),
        status: call.status(),
        own_status: call.is_own_answer(),
        cause: call.cause(),
        ended_by: record.ended_by.name(),
        cancelled: call.is_cancelled(),
        answers: call.answers(),
        attempts: call.attempts(),
        verdict: verification.result(),
        verdict_check: verification.failed,
        attest: verification.attestation.map(Attestation::letter),
        verified_origid: verification.origid.map(|origid| origid.as_str().to_owned()),
        verstat: verification.verstat.map(Verstat::text),
        diverted: verification.diverted.iter().map(|identity| number(identity.text().as_bytes())).collect(),
        rcd_name: verification.is_name_verified.map(|is| if is { "verified" } else { "unverified" }),
        certificate: verification.subject(),
        connected: connection.result(),
        connected_check: connection.failed,
        connected_number: call.connected().map(|party| number(party.text().as_bytes())),
        connected_diverted: connection.diverted.iter().map(|identity| number(identity.text().as_bytes())).collect(),
        signer: signed.map(|signed| signed.signer.to_string()),
        signer_attest: signed.and_then(|signed| signed.attestation).map(Attestation::letter),
        origid: signed.filter(|signed| signed.attestation.is_some()).map(origid),
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// The last four digits of a number are nobody's business, whatever separates them (RFC 3966 5.1.1), nor the last four characters of
/// what is none.
pub(in crate::node) fn shorten(number: &str) -> String {
    let is_visible = |c: char| matches!(c, '-' | '.' | '(' | ')' | ' ');
    let count = number.chars().filter(|c| !is_visible(*c)).count();
    let mut place = 0;
    let mut shortened = |c: char| {
        place += usize::from(!is_visible(c));
        if is_visible(c) || place + 4 <= count { c } else { 'x' }
    };
    number.chars().map(&mut shortened).collect()
}

/// Whole milliseconds.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

/// As next hops are written in the configuration.
pub(in crate::node) fn hop(hop: &Hop) -> String {
    format!("{}:{}", hop.transport.via_token().to_ascii_lowercase(), hop.remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shortened_by_their_digits() {
        let all = ["+12155551212", "+1-215-555-1212", "+1 (215) 555.12.12", "12-1", "alice", "", "-.-"].map(shorten);
        assert_eq!(all, ["+1215555xxxx", "+1-215-555-xxxx", "+1 (215) 555.xx.xx", "xx-x", "axxxx", "", "-.-"]);
    }
}
