//! `[[route]]` and `[[prefix_table]]`: where requests go.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::tz::{Offset, TimeZone};
use regex::bytes::{Regex, RegexBuilder};

use super::files::Files;
use super::mistake::Fault;
use super::network::{Names, read_name, refer};
use super::numbers::host_text;
use super::prefix_file;
use super::reader::{At, Section};
use crate::passport::ppt::shaken::Attestation;
use crate::proxy::route::number::Shape;
use crate::proxy::route::table::{Action, Condition, NumberKind, NumberPrefix, Verdict, Window};
use crate::proxy::{self, Route, TrunkId};
use crate::sip::Uri;
use crate::sip::text::is_token;

/// Octets that a compiled regular expression may take: a bound for what a mistake in a file can cost.
const REGEX_SIZE: usize = 1 << 20;

const PREFIX: &str = "leading digits of a number, such as \"49\", or \"+49\" for numbers with their country code only";
const TO: &str = "the name of a [[trunk]]";
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const VERDICTS: [(&str, Verdict); 3] =
    [("passed", Verdict::Passed), ("failed", Verdict::Failed), ("none", Verdict::None)];
const KINDS: [(&str, NumberKind); 4] = [
    ("global", NumberKind::Global),
    ("local", NumberKind::Local),
    ("any", NumberKind::Any),
    ("none", NumberKind::None),
];

/// The trunks that routes may name.
pub(super) struct Trunks<'t, 'a, 'c> {
    pub names: &'t Names,
    pub sections: &'t [Section<'a, 'c>],
}

/// Reads tables and routes into `proxy`.
pub(super) fn read(root: &Section<'_, '_>, files: &Files<'_>, trunks: &Trunks<'_, '_, '_>, proxy: &mut proxy::Config) {
    let mut tables = HashMap::new();
    for (position, mut section) in root.sections("prefix_table").into_iter().enumerate() {
        let name = read_name(&mut section, "prefix_table", position, &mut tables);
        if let Some(At { value, offset }) = section.required("file", "a CSV file") {
            let path = files.path(value);
            let table = files
                .read(&path)
                .map_err(|fault| vec![fault])
                .and_then(|text| prefix_file::parse(&path, name, &text, |name| trunks.destination(name)));
            match table {
                Ok(table) => proxy.prefix_tables.push(table),
                Err(faults) => faults.into_iter().for_each(|fault| section.wrong(offset, "file", fault)),
            }
        }
        section.finish();
    }
    for section in root.sections("route") {
        if let Some(route) = read_route(&section, trunks, &tables) {
            proxy.routes.push(route);
        }
        section.finish();
    }
}

impl Trunks<'_, '_, '_> {
    /// The trunk of this name, if requests can go there.
    fn destination(&self, name: &str) -> Result<TrunkId, String> {
        let Some((position, _)) = self.names.get(name) else { return Err(format!("there is no trunk \"{name}\"")) };
        if self.is_source_only(*position) {
            return Err(format!("trunk \"{name}\" has no next_hop, so nothing can go to it"));
        }
        Ok(TrunkId(*position as u16))
    }

    fn is_source_only(&self, position: usize) -> bool {
        self.sections.get(position).is_some_and(|trunk| trunk.is_absent("next_hop") && trunk.is_absent("member"))
    }

    /// The trunks that a name, or a pattern with `*`, means.
    fn matching(&self, pattern: &str) -> Vec<TrunkId> {
        let fits = self.names.iter().filter(|(name, _)| is_like(name, pattern));
        let mut found: Vec<_> = fits.map(|(_, (position, _))| TrunkId(*position as u16)).collect();
        found.sort_unstable();
        found
    }
}

/// `*` stands for any text.
fn is_like(name: &str, pattern: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return name == pattern };
    let Some(mut left) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = left.get(at + part.len()..).unwrap_or_default();
    }
    left.ends_with(tail)
}

fn read_route(section: &Section<'_, '_>, trunks: &Trunks<'_, '_, '_>, tables: &Names) -> Option<Route> {
    // Taken for no condition it would hold for everybody.
    for key in ["from", "to", "method", "prefix", "caller_prefix", "attest"] {
        if section.is_empty_list(key) {
            let (reason, remedy) = ("the list is empty", "name what it is for, or leave the key out");
            section.wrong(section.offset_of(key), key, Fault::Conflict { reason, remedy });
        }
    }
    let from = read_from(section, trunks);
    let when = read_conditions(section);
    let shape = read_shape(section);
    let action = read_action(section, trunks, tables)?;
    Some(Route { from, when, action, shape })
}

fn read_from(section: &Section<'_, '_>, trunks: &Trunks<'_, '_, '_>) -> Vec<TrunkId> {
    let mut from = Vec::new();
    for At { value, offset } in section.read_list("from", TO, |text| Some(text.to_owned())) {
        let found = trunks.matching(&value);
        if found.is_empty() {
            section.wrong(offset, "from", unknown_trunk(value, trunks.names));
        }
        from.extend(found);
    }
    from
}

fn unknown_trunk(name: String, names: &Names) -> Fault {
    let mut known: Vec<String> = names.keys().cloned().collect();
    known.sort();
    Fault::UnknownName { name, kind: "trunk", known }
}

/// Exactly one of `to`, `table`, `reject`, `redirect`.
fn read_action(section: &Section<'_, '_>, trunks: &Trunks<'_, '_, '_>, tables: &Names) -> Option<Action> {
    let given: Vec<_> =
        ["to", "table", "reject", "redirect"].into_iter().filter(|key| !section.is_absent(key)).collect();
    match given[..] {
        ["to"] => {
            let mut to = Vec::new();
            for At { value, offset } in section.read_list("to", TO, |text| (!text.is_empty()).then(|| text.to_owned()))
            {
                match trunks.names.get(&value) {
                    None => section.wrong(offset, "to", unknown_trunk(value, trunks.names)),
                    Some((position, _)) if trunks.is_source_only(*position) => {
                        let reason = "the trunk has no next_hop, so nothing can go to it";
                        let remedy = "give it one, or name another trunk";
                        section.wrong(offset, "to", Fault::Conflict { reason, remedy });
                    }
                    Some((position, _)) => to.push(TrunkId(*position as u16)),
                }
            }
            Some(Action::To(to))
        }
        ["table"] => refer(section, "table", "prefix_table", tables).map(|at| Action::Table(at.value)),
        ["reject"] => section.section("reject").map(read_reject),
        ["redirect"] => section.section("redirect").map(read_redirect),
        [] => {
            section.missing("to", TO);
            None
        }
        [.., last] => {
            let reason = "a route does one thing";
            let remedy = "give one of to, table, reject, redirect";
            section.wrong(section.offset_of(last), last, Fault::Conflict { reason, remedy });
            None
        }
    }
}

fn read_reject(section: Section<'_, '_>) -> Action {
    if section.is_absent("status") {
        section.missing("status", "400 to 699");
    }
    let status = section.number("status", (400, 699)).and_then(|status| status.try_into().ok()).unwrap_or(403);
    let is_phrase = |text: &str| text.len() <= 128 && !text.chars().any(char::is_control);
    let reason = section.read("reason", "a phrase on one line", |text| is_phrase(text).then(|| Arc::from(text)));
    section.finish();
    Action::Reject { status, reason: reason.map_or_else(|| Arc::from("Rejected"), |at| at.value) }
}

fn read_redirect(section: Section<'_, '_>) -> Action {
    let status = section.number("status", (301, 302)).and_then(|status| status.try_into().ok()).unwrap_or(302);
    let is_uri = |text: &str| Uri::parse(text.as_bytes()).is_ok();
    let contact = section.read("contact", "a URI", |text| is_uri(text).then(|| Arc::from(text)));
    section.finish();
    Action::Redirect { status, contact: contact.map(|at| at.value) }
}

/// What may stand in a dialled number.
pub(super) fn is_dialled(text: &str) -> bool {
    text.len() <= 32 && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'*' | b'#'))
}

fn read_shape(section: &Section<'_, '_>) -> Shape {
    let strip = section.number("strip", (0, 32)).and_then(|strip| strip.try_into().ok()).unwrap_or_default();
    let add = section.read("add", "digits, +, * or #", |text| is_dialled(text).then(|| text.into()));
    let host = section.read("set_uri_host", "\"host\" or \"host:port\"", |text| host_text(text).map(Into::into));
    Shape { strip, add: add.map(|at| at.value).unwrap_or_default(), host: host.map(|at| at.value) }
}

fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

/// The conditions, cheap ones first: an order that only time tells.
fn read_conditions(section: &Section<'_, '_>) -> Vec<Condition> {
    let mut when = Vec::new();
    let mut list = |is_given: bool, condition: Condition| when.extend(is_given.then_some(condition));
    let methods =
        section.read_list("method", "a method in capitals", |text| is_token(text.as_bytes()).then(|| text.into()));
    list(!section.is_absent("method"), Condition::Method(values(methods)));
    let letter = |text: &str| match text {
        "A" => Some(Attestation::Full),
        "B" => Some(Attestation::Partial),
        "C" => Some(Attestation::Gateway),
        _ => None,
    };
    let attest = section.read_list("attest", "\"A\", \"B\" or \"C\"", letter);
    list(!section.is_absent("attest"), Condition::Attest(values(attest)));
    when.extend(section.choice("verdict", &VERDICTS).map(Condition::Verdict));
    when.extend(section.choice("number", &KINDS).map(Condition::Number));
    for (key, condition) in
        [("prefix", Condition::Prefix as fn(_) -> _), ("caller_prefix", Condition::CallerPrefix as fn(_) -> _)]
    {
        if !section.is_absent(key) {
            when.push(condition(values(section.read_list(key, PREFIX, NumberPrefix::parse))));
        }
    }
    if !section.is_absent("emergency") {
        when.push(Condition::Emergency(section.bool("emergency", true)));
    }
    when.extend(section.section("time").and_then(read_time).map(Condition::Time));
    when.extend(section.tables("header").into_iter().filter_map(read_header));
    when.extend(read_regex(section, "uri").map(Condition::Uri));
    when.extend(read_regex(section, "caller").map(Condition::Caller));
    when
}

fn read_header(section: Section<'_, '_>) -> Option<Condition> {
    let name = section.required("name", "the name of a header field");
    let matches = read_regex(&section, "matches");
    let name = name.filter(|name| {
        let is_name = is_token(name.value.as_bytes());
        if !is_name {
            let expected = "the name of a header field";
            section.wrong(name.offset, "name", Fault::Unreadable { found: name.value.to_owned(), expected });
        }
        is_name
    });
    section.finish();
    Some(Condition::Header { name: name?.value.into(), matches })
}

/// Texts of messages are octets: `.` is one of them, classes are ASCII.
fn read_regex(section: &Section<'_, '_>, key: &'static str) -> Option<Regex> {
    let At { value, offset } = section.string(key)?;
    match RegexBuilder::new(value).unicode(false).size_limit(REGEX_SIZE).build() {
        Ok(regex) => Some(regex),
        Err(error) => {
            section.wrong(offset, key, Fault::Pattern(error));
            None
        }
    }
}

fn read_time(section: Section<'_, '_>) -> Option<Window> {
    let days = section.read_list("days", "\"mon\" to \"sun\", or a range such as \"mon-fri\"", days);
    let days = if section.is_absent("days") { 0x7f } else { days.iter().fold(0, |all, at| all | at.value) };
    let hour = |key, default| match section.read(key, "a time such as \"08:30\"", minute_of_day) {
        Some(at) => Some(at.value),
        None => section.is_absent(key).then_some(default),
    };
    let (from, to) = (hour("from", 0), hour("to", 24 * 60));
    let expected = "an offset such as \"+01:00\", or a zone such as \"Europe/Berlin\"";
    let zone = section.read("zone", expected, zone).map(|at| at.value);
    if section.is_absent("zone") {
        section.missing("zone", expected);
    }
    section.finish();
    Some(Window { days, from: from?, to: to?, zone: zone? })
}

/// A day or a range of days, as bits.
fn days(text: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (day(first)?, day(last)?),
        None => (day(text)?, day(text)?),
    };
    let length = (last + 7 - first) % 7;
    Some((0..=length).fold(0, |bits, n| bits | 1 << ((first + n) % 7)))
}

/// `00:00` to `24:00`.
fn minute_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number =
        |part: &str| part.parse::<u16>().ok().filter(|_| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit()));
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let total = hours * 60 + minutes;
    (minutes < 60 && total <= 24 * 60).then_some(total)
}

fn zone(text: &str) -> Option<TimeZone> {
    let offset = |text: &str, sign: i32| {
        let minutes = i32::from(minute_of_day(text)?);
        Offset::from_seconds(sign * minutes * 60).ok().map(TimeZone::fixed)
    };
    match text.split_at_checked(1)? {
        ("+", rest) => offset(rest, 1),
        ("-", rest) => offset(rest, -1),
        _ => TimeZone::get(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_stars() {
        for (name, pattern, wanted) in [
            ("pbx-1", "pbx-*", true),
            ("pbx-", "pbx-*", true),
            ("pbx", "pbx-*", false),
            ("a-pbx-b", "*-pbx-*", true),
            ("ab", "a*b*b", false),
            ("abb", "a*b*b", true),
            ("pbx", "pbx", true),
            ("pbx2", "pbx", false),
            ("", "*", true),
        ] {
            assert_eq!(is_like(name, pattern), wanted, "{name} {pattern}");
        }
    }

    #[test]
    fn days_hours_and_zones() {
        assert_eq!(
            (days("mon"), days("sun"), days("mon-fri"), days("sat-mon")),
            (Some(1), Some(64), Some(31), Some(97))
        );
        assert!(days("day").is_none() && days("mon-").is_none() && days("Mon").is_none());
        assert_eq!(
            (minute_of_day("00:00"), minute_of_day("24:00"), minute_of_day("08:30")),
            (Some(0), Some(1440), Some(510))
        );
        for bad in ["24:01", "8:30", "08:60", "+8:30", "08-30", ""] {
            assert!(minute_of_day(bad).is_none(), "{bad}");
        }
        assert!(
            zone("+01:00").is_some()
                && zone("-09:30").is_some()
                && zone("Europe/Berlin").is_some()
                && zone("UTC").is_some()
        );
        assert!(zone("Europe/Nowhere").is_none() && zone("+26:00").is_none() && zone("").is_none());
    }

    #[test]
    fn a_window_is_open_on_its_days_and_past_midnight() {
        // 2026-11-24 is a Tuesday.
        let noon = 1_795_521_600;
        let window = |days, from, to, zone_name| Window { days, from, to, zone: zone(zone_name).unwrap() };
        assert!(window(0b10, 700, 730, "UTC").contains(noon) && !window(0b10, 721, 730, "UTC").contains(noon));
        assert!(!window(0b10, 700, 720, "UTC").contains(noon), "the end is outside");
        assert!(!window(0b101, 0, 1440, "UTC").contains(noon));
        assert!(window(0b10, 780, 781, "+01:00").contains(noon));
        assert!(window(0b10, 780, 781, "Europe/Berlin").contains(noon), "winter");
        assert!(window(0b11_1111, 840, 841, "Europe/Berlin").contains(noon - 130 * 86_400), "summer");
        let night = window(0b10, 22 * 60, 6 * 60, "UTC");
        assert!(night.contains(noon + 11 * 3600) && night.contains(noon + 17 * 3600));
        assert!(!night.contains(noon) && !night.contains(noon - 7 * 3600), "Monday's night is not Tuesday's");
    }
}
