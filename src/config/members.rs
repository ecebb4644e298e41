//! The next hops of a trunk as a set: `next_hop`, `[[trunk.member]]`, `algorithm` and what belongs to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::forking::status;
use super::mistake::Fault;
use super::network::{HOP, next_hop};
use super::reader::{At, Section};
use crate::proxy::dispatcher::{Algorithm, AllDown, Dispatcher, MAX_MEMBERS, Member, MemberState};
use crate::proxy::probe::Probing;
use crate::proxy::{Codes, Listener, Place};
use crate::sip::{Scheme, Uri};

const ALGORITHMS: [(&str, Algorithm); 16] = [
    ("serial", Algorithm::Serial),
    ("round-robin", Algorithm::RoundRobin),
    ("round-robin-overload", Algorithm::RoundRobin),
    ("random", Algorithm::Random),
    ("call-id-hash", Algorithm::CallIdHash),
    ("from-hash", Algorithm::FromHash),
    ("to-hash", Algorithm::ToHash),
    ("ruri-hash", Algorithm::RuriHash),
    ("auth-user-hash", Algorithm::AuthUserHash),
    ("key-hash", Algorithm::KeyHash),
    ("weighted", Algorithm::Weighted),
    ("relative-weight", Algorithm::Weighted),
    ("srv", Algorithm::Srv),
    ("least-calls", Algorithm::LeastCalls),
    ("parallel", Algorithm::Parallel),
    ("latency", Algorithm::Latency),
];

/// Reads the next hops, and the choice among them.
pub(super) fn read(section: &Section<'_, '_>, listeners: Option<&[Listener]>) -> (Vec<Place>, Dispatcher) {
    let algorithm = section.choice("algorithm", &ALGORITHMS).unwrap_or_default();
    let tables = section.sections("member");
    if !tables.is_empty() && !section.is_absent("next_hop") {
        let reason = "the trunk has [[trunk.member]] tables too";
        let remedy = "write all next hops in one of the two forms";
        section.wrong(section.offset_of("next_hop"), "next_hop", Fault::Conflict { reason, remedy });
    }
    let (hops, mut members) = match tables.is_empty() {
        true => read_short(section, listeners),
        false => read_tables(section, tables, listeners),
    };
    read_weights(section, algorithm, &mut members);
    if hops.len() > MAX_MEMBERS {
        let reason = "more than 128 next hops";
        let remedy = "make several trunks of them";
        section.wrong(section.offset(), "", Fault::Conflict { reason, remedy });
    }
    let ids: Vec<String> = members.iter().map(|member| member.id.clone()).collect();
    let mut dispatcher = Dispatcher::with_members(algorithm, members);
    read_choice(section, &mut dispatcher, &ids);
    (hops, dispatcher)
}

/// `next_hop` as a word or a list.
fn read_short(section: &Section<'_, '_>, listeners: Option<&[Listener]>) -> (Vec<Place>, Vec<Member>) {
    let mut hops = Vec::new();
    let mut lines: HashMap<Place, usize> = HashMap::new();
    for At { value, offset } in section.read_list("next_hop", HOP, next_hop) {
        // Two with one id could not be told apart by hashes, commands and metrics.
        if let Some(first_line) = lines.get(&value).copied() {
            section.wrong(offset, "next_hop", Fault::Duplicate { what: value.to_string(), first_line });
            continue;
        }
        lines.insert(value.clone(), section.line(offset));
        hops.extend(reachable(section, value, offset, listeners));
    }
    let members = hops.iter().map(|hop: &Place| Member::new(hop.to_string())).collect();
    (hops, members)
}

/// The next hop, if there is a listener to leave by.
fn reachable(section: &Section<'_, '_>, hop: Place, offset: usize, listeners: Option<&[Listener]>) -> Option<Place> {
    let fits = |l: &Listener| match &hop {
        Place::At(hop) => l.transport == hop.transport && l.bind.is_ipv4() == hop.remote.is_ipv4(),
        Place::Locate(target) => target.transport.is_none_or(|transport| l.transport == transport),
    };
    if listeners.is_none_or(|listeners| listeners.iter().any(fits)) {
        return Some(hop);
    }
    let reason = "there is no listener of this transport and address family to leave by";
    section.wrong(offset, "next_hop", Fault::Conflict { reason, remedy: "add a [[listener]]" });
    None
}

fn read_tables(
    trunk: &Section<'_, '_>,
    tables: Vec<Section<'_, '_>>,
    listeners: Option<&[Listener]>,
) -> (Vec<Place>, Vec<Member>) {
    let (mut hops, mut members) = (Vec::new(), Vec::new());
    let (mut ids, mut places): (HashMap<String, usize>, HashMap<Place, usize>) = (HashMap::new(), HashMap::new());
    for mut section in tables {
        section.relabel(trunk.label_of("member"));
        section.required("next_hop", HOP);
        let hop = section.read("next_hop", HOP, next_hop);
        let hop = hop.and_then(|at| Some((reachable(&section, at.value, at.offset, listeners)?, at.offset)));
        let member = read_member(&section, hop.as_ref().map(|(hop, _)| hop.to_string()).unwrap_or_default());
        if let Some((hop, offset)) = hop {
            let line = section.line(offset);
            let duplicate = |what: String, first: &usize| Fault::Duplicate { what, first_line: *first };
            if let Some(first) = places.get(&hop) {
                section.wrong(offset, "next_hop", duplicate(hop.to_string(), first));
            } else if let Some(first) = ids.get(&member.id) {
                section.wrong(section.offset_of("id"), "id", duplicate(format!("\"{}\"", member.id), first));
            }
            ids.entry(member.id.clone()).or_insert(line);
            places.entry(hop.clone()).or_insert(line);
            hops.push(hop);
            members.push(member);
        }
        section.finish();
    }
    (hops, members)
}

fn read_member(section: &Section<'_, '_>, default_id: String) -> Member {
    let expected = "a short name without blanks";
    let id = section.read("id", expected, |text| {
        let is_plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
        (!text.is_empty() && text.len() <= 128 && text.chars().all(is_plain)).then(|| text.to_owned())
    });
    let mut member = Member::new(id.map_or(default_id, |at| at.value));
    if let Some(number) = section.number("priority", (0, 65_535)) {
        member.priority = number as u16;
    }
    if let Some(number) = section.number("weight", (0, 1000)) {
        member.weight = number as u16;
    }
    member.max_calls = section.number("max_calls", (1, 10_000_000)).map(|number| number as u32);
    member.latency = section.number("latency_ms", (1, 60_000)).map(Duration::from_millis);
    let states: Vec<_> = MemberState::ALL.iter().map(|state| (state.as_str(), *state)).collect();
    member.state = section.choice("state", &states).unwrap_or_default();
    member.tags = section.strings("tags");
    member
}

/// `weights` of the short form; weights have to leave something to choose.
fn read_weights(section: &Section<'_, '_>, algorithm: Algorithm, members: &mut [Member]) {
    let wrong = |reason, remedy| {
        section.wrong(section.offset_of("weights"), "weights", Fault::Conflict { reason, remedy });
    };
    let expected = "a weight from \"0\" to \"1000\" for each next_hop";
    let read = |text: &str| text.parse::<u16>().ok().filter(|weight| *weight <= 1000);
    let weights = section.read_list("weights", expected, read);
    let is_short = section.is_absent("member");
    if section.is_absent("weights") {
        if is_short && algorithm.is_weighted() {
            wrong("the algorithm goes by weights, and there are none", "give one for each next_hop");
        }
    } else if !is_short {
        return wrong("members have a weight each", "write it into [[trunk.member]]");
    } else if !algorithm.is_weighted() {
        wrong("the algorithm does not go by weights", "leave them out, or take algorithm = \"weighted\"");
    } else if weights.len() != members.len() {
        wrong("not one weight for each next_hop", "give as many weights as next hops");
    }
    for (member, weight) in members.iter_mut().zip(&weights) {
        member.weight = weight.value;
    }
    if algorithm == Algorithm::Weighted && !members.is_empty() && members.iter().all(|member| member.weight == 0) {
        wrong("all weights are 0", "give some member a share");
    }
}

fn read_choice(section: &Section<'_, '_>, dispatcher: &mut Dispatcher, ids: &[String]) {
    let number = |key, range, setting: &mut u32| {
        if let Some(number) = section.number(key, range).and_then(|number| number.try_into().ok()) {
            *setting = number;
        }
    };
    number("down_after", (0, 1000), &mut dispatcher.down_after);
    number("retry_seconds", (1, 3600), &mut dispatcher.retry_seconds);
    if let Some(status) = section.number("unavailable_status", (400, 699)) {
        dispatcher.refuse_with = status as u16;
    }
    dispatcher.expand = section.bool("expand", false);
    dispatcher.hash_user_only = section.bool("hash_user_only", false);
    let header = section.read("hash_header", "the name of a header field, such as \"X-Customer\"", |text| {
        (crate::sip::text::is_token(text.as_bytes()) && text.len() <= 128).then(|| text.to_owned())
    });
    if (dispatcher.algorithm == Algorithm::KeyHash) == section.is_absent("hash_header") {
        let (reason, remedy) = ("algorithm = \"key-hash\" and hash_header go together", "give both or neither");
        section.wrong(section.offset_of("hash_header"), "hash_header", Fault::Conflict { reason, remedy });
    }
    dispatcher.hash_header = header.map(|at| at.value).unwrap_or_default().into();
    if section.string("algorithm").is_some_and(|at| at.value == "round-robin-overload")
        && !section.string("oc").is_some_and(|at| matches!(at.value, "client" | "both"))
    {
        let reason =
            "\"round-robin-overload\" passes over members that ask for less, and the trunk does not listen to that";
        let remedy = "add oc = \"client\"";
        section.wrong(section.offset_of("algorithm"), "algorithm", Fault::Conflict { reason, remedy });
    }
    dispatcher.probing = section.section("probe").map(|section| Arc::new(read_probe(section)));
    read_all_down(section, dispatcher, ids);
}

/// `[trunk.probe]`.
fn read_probe(section: Section<'_, '_>) -> Probing {
    let mut probing = Probing::default();
    if let Some(method) = section.choice("method", &[("OPTIONS", "OPTIONS"), ("INFO", "INFO")]) {
        probing.method = method.to_owned();
    }
    let millis = |key, range, setting: &mut Duration| {
        if let Some(number) = section.number(key, range) {
            *setting = Duration::from_millis(number);
        }
    };
    millis("interval_ms", (100, 3_600_000), &mut probing.interval);
    millis("timeout_ms", (50, 30_000), &mut probing.timeout);
    if let Some(number) = section.number("up_after", (1, 1000)) {
        probing.up_after = number as u32;
    }
    if !section.is_absent("ok") {
        let expected = "a status such as \"404\" or a class such as \"2xx\"";
        probing.ok = section.read_list("ok", expected, codes).into_iter().map(|at| at.value).collect();
    }
    let from = section.read("from", "a SIP URI, such as \"sip:ping@edge.example.com\"", |text| {
        let uri = Uri::parse(text.as_bytes()).ok()?;
        let is_plain = uri.headers.is_none() && text.bytes().all(|octet| octet.is_ascii_graphic());
        (matches!(uri.scheme, Scheme::Sip | Scheme::Sips) && is_plain && !text.contains('>')).then(|| text.to_owned())
    });
    probing.from = from.map(|at| at.value);
    if let Some(number) = section.number("max_forwards", (0, 255)) {
        probing.max_forwards = number as u8;
    }
    probing.down_only = section.choice("mode", &[("all", false), ("down-only", true)]).unwrap_or_default();
    section.finish();
    probing
}

fn codes(text: &str) -> Option<Codes> {
    Some(match text.strip_suffix("xx") {
        Some(digit) => Codes::Class(digit.parse().ok().filter(|digit| (2..=6).contains(digit))?),
        None => Codes::Status(status(text, 200..=699)?),
    })
}

/// `all_down` and `default_member`.
fn read_all_down(section: &Section<'_, '_>, dispatcher: &mut Dispatcher, ids: &[String]) {
    let choices =
        [("try-anyway", AllDown::TryAnyway), ("reject", AllDown::Reject), ("default-member", AllDown::Member(0))];
    dispatcher.all_down = section.choice("all_down", &choices).unwrap_or_default();
    let named = section.string("default_member");
    let wants = matches!(dispatcher.all_down, AllDown::Member(_));
    if wants != named.is_some() {
        let (reason, remedy) = ("all_down = \"default-member\" and default_member go together", "give both or neither");
        section.wrong(section.offset_of("default_member"), "default_member", Fault::Conflict { reason, remedy });
    }
    if let Some(At { value, offset }) = named {
        match ids.iter().position(|id| id == value) {
            Some(place) => dispatcher.all_down = AllDown::Member(place as u16),
            None => {
                let fault = Fault::UnknownName { name: value.to_owned(), kind: "member", known: ids.to_vec() };
                section.wrong(offset, "default_member", fault);
            }
        }
    }
}
