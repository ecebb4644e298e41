//! How the addresses of a trunk are tried: `fork`, `fr_ms`, `fr_inv_ms`, `failover_on`, `failover_after_18x`, `relay_503`.

use std::time::Duration;

use super::mistake::Fault;
use super::reader::Section;
use crate::proxy::{Codes, Failover, Forking, Relay503};

const FAILURES: &str = "\"timeout\", \"transport\", a status such as \"404\" or a class such as \"5xx\"";
const RELAY: &str = "\"rewrite500\", \"pass\" or a status from \"400\" to \"599\"";

/// One entry of `failover_on`.
#[derive(Clone, Copy)]
enum Failure {
    Timeout,
    Transport,
    Codes(Codes),
}

/// Reads the keys from a table.
pub(super) fn read(section: &Section<'_, '_>) -> Forking {
    let millis = |key, default, range| {
        let patience = section.number(key, range).unwrap_or(default);
        (patience > 0).then_some(Duration::from_millis(patience))
    };
    Forking {
        parallel: section.choice("fork", &[("serial", false), ("parallel", true)]).unwrap_or_default(),
        fr: millis("fr_ms", 5_000, (0, 600_000)),
        fr_inv: millis("fr_inv_ms", 120_000, (0, 3_600_000)),
        failover: read_failover(section),
    }
}

fn read_failover(section: &Section<'_, '_>) -> Failover {
    let after_18x = section.bool("failover_after_18x", false);
    if section.is_absent("failover_on") {
        return Failover { after_18x, ..Failover::default() };
    }
    let mut failover = Failover { on_timeout: false, on_transport: false, on: Vec::new(), after_18x };
    for entry in section.read_list("failover_on", FAILURES, failure) {
        match entry.value {
            Failure::Timeout => failover.on_timeout = true,
            Failure::Transport => failover.on_transport = true,
            Failure::Codes(Codes::Status(486 | 487 | 600..) | Codes::Class(6)) => {
                let reason = "that is the callee's own word: nobody else is tried after it";
                let remedy = "leave 6xx, 486 and 487 out";
                section.wrong(entry.offset, "failover_on", Fault::Conflict { reason, remedy });
            }
            Failure::Codes(codes) => failover.on.push(codes),
        }
    }
    failover
}

fn failure(text: &str) -> Option<Failure> {
    Some(match text {
        "timeout" => Failure::Timeout,
        "transport" => Failure::Transport,
        _ => Failure::Codes(match text.strip_suffix("xx") {
            Some(digit) => Codes::Class(digit.parse().ok().filter(|digit| (3..=6).contains(digit))?),
            None => Codes::Status(status(text, 300..=699)?),
        }),
    })
}

/// Reads `relay_503`.
pub(super) fn read_relay_503(section: &Section<'_, '_>) -> Relay503 {
    let relay = section.read("relay_503", RELAY, |text| match text {
        "rewrite500" => Some(Relay503::Rewrite500),
        "pass" => Some(Relay503::Pass),
        _ => Some(Relay503::Map(status(text, 400..=599)?)),
    });
    relay.map(|at| at.value).unwrap_or_default()
}

pub(super) fn status(text: &str, range: std::ops::RangeInclusive<u16>) -> Option<u16> {
    let is_number = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|status| is_number && range.contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_words_statuses_and_classes() {
        let codes = |text| match failure(text) {
            Some(Failure::Codes(codes)) => Some(codes),
            _ => None,
        };
        assert_eq!(codes("404"), Some(Codes::Status(404)));
        assert_eq!(codes("5xx"), Some(Codes::Class(5)));
        assert!(matches!(
            (failure("timeout"), failure("transport")),
            (Some(Failure::Timeout), Some(Failure::Transport))
        ));
        for bad in ["", "200", "2xx", "7xx", "4x", "+404", "0404", "700", "xx", "Timeout"] {
            assert!(failure(bad).is_none(), "{bad}");
        }
    }
}
