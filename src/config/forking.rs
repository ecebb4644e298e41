//! How the addresses of a trunk are tried: `fork`, `fr_ms`, `fr_inv_ms`, `failover_on`, `failover_after_18x`, `relay_503`.

use std::time::Duration;

use super::mistake::Fault;
use super::reader::Section;
use crate::proxy::dispatcher::{Algorithm, Dispatcher};
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
    let millis = |key, range| section.number(key, range).map(Duration::from_millis);
    Forking {
        parallel: section.choice("fork", &[("serial", false), ("parallel", true)]).unwrap_or_default(),
        fr: millis("fr_ms", (100, 600_000)),
        fr_inv: millis("fr_inv_ms", (1_000, 3_600_000)),
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

const ALGORITHMS: [(&str, Algorithm); 5] = [
    ("serial", Algorithm::Serial),
    ("round-robin", Algorithm::RoundRobin),
    ("random", Algorithm::Random),
    ("call-id-hash", Algorithm::CallIdHash),
    ("weighted", Algorithm::Weighted),
];

/// Reads `algorithm`, `weights`, `down_after`, `retry_seconds`.
pub(super) fn read_dispatcher(section: &Section<'_, '_>, next_hops: usize) -> Dispatcher {
    let algorithm = section.choice("algorithm", &ALGORITHMS).unwrap_or_default();
    let expected = "a weight from \"0\" to \"1000\" for each next_hop";
    let weights =
        section.read_list("weights", expected, |text| text.parse::<u16>().ok().filter(|weight| *weight <= 1000));
    let weights: Vec<u16> = weights.into_iter().map(|weight| weight.value).collect();
    if (algorithm == Algorithm::Weighted) == section.is_absent("weights") {
        let (reason, remedy) = ("algorithm = \"weighted\" and weights go together", "give both or neither");
        section.wrong(section.offset_of("weights"), "weights", Fault::Conflict { reason, remedy });
    } else if algorithm == Algorithm::Weighted
        && (weights.len() != next_hops || weights.iter().all(|weight| *weight == 0))
    {
        let (reason, remedy) = ("not one weight for each next_hop, or all are 0", "give as many weights as next hops");
        section.wrong(section.offset_of("weights"), "weights", Fault::Conflict { reason, remedy });
    }
    let mut dispatcher = Dispatcher::new(algorithm, weights, next_hops);
    let number = |key, range, setting: &mut u32| {
        if let Some(number) = section.number(key, range).and_then(|number| number.try_into().ok()) {
            *setting = number;
        }
    };
    number("down_after", (0, 1000), &mut dispatcher.down_after);
    number("retry_seconds", (1, 3600), &mut dispatcher.retry_seconds);
    dispatcher
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

fn status(text: &str, range: std::ops::RangeInclusive<u16>) -> Option<u16> {
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
