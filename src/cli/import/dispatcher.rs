//! A Kamailio dispatcher.list: `setid destination [flags] [priority] [attributes]`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use super::algorithm::Wanted;
use super::{Imported, lines, print};
use crate::proxy::dispatcher::MAX_MEMBERS;
use crate::proxy::{Target, TargetHost};
use crate::sip::Uri;
use crate::sip::hop::Transport;

/// Kamailio reads a line into so many octets.
const LINE: usize = 1024;

const INACTIVE: u32 = 1;
const TRYING: u32 = 2;
const DISABLED: u32 = 4;
const PROBING: u32 = 8;
const NO_PING: u32 = 32;

/// One line of the list.
struct Entry {
    line: usize,
    target: Target,
    flags: u32,
    priority: i64,
    attributes: Vec<(String, String)>,
}

impl Entry {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The number of an attribute, if it is one and within what the configuration takes; else it is told that it is lost.
    fn number(&self, name: &str, range: RangeInclusive<u32>, imported: &mut Imported) -> Option<u32> {
        let value = self.attribute(name)?;
        let number = value.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            imported
                .loss(self.line, format!("{name} \"{value}\": no number from {} to {}", range.start(), range.end()));
        }
        number
    }
}

/// Each set becomes a trunk with members.
pub fn import(text: &str, wanted: &[Wanted], hash_header: Option<&str>) -> Imported {
    let mut imported = Imported::default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| line.len() >= LINE) {
        let length = line.len();
        imported.remark(number + 1, format!("{length} octets: Kamailio reads {} of them, here all count", LINE - 1));
    }
    let mut sets: BTreeMap<i64, Vec<Entry>> = BTreeMap::new();
    for (line, fields) in lines(text) {
        match read(line, &fields, &mut imported) {
            Ok((set, entry)) => sets.entry(set).or_default().push(entry),
            Err(why) => imported.loss(line, why),
        }
    }
    if !sets.is_empty() && wanted.is_empty() {
        imported.remark(0, "the list does not say the algorithms: all sets are \"serial\"; give --algorithm");
    }
    for (set, entries) in sets {
        Set::new(set, entries, wanted, hash_header, &mut imported).print(&mut imported);
    }
    imported
}

fn read(line: usize, fields: &[&str], imported: &mut Imported) -> Result<(i64, Entry), String> {
    let [set, destination, rest @ ..] = fields else { return Err("no destination".to_owned()) };
    let set = set.parse().map_err(|_| format!("\"{set}\" is no number of a set"))?;
    let has_scheme = ["sip:", "sips:"].iter().any(|scheme| destination.to_ascii_lowercase().starts_with(scheme));
    let uri = if has_scheme { (*destination).to_owned() } else { format!("sip:{destination}") };
    let parsed = Uri::parse(uri.as_bytes()).map_err(|_| format!("\"{destination}\" is no SIP URI"))?;
    let target = Target::of_uri(&parsed).ok_or_else(|| format!("\"{destination}\": no transport of ours"))?;
    let is_served = |transport: Transport| matches!(transport, Transport::Udp | Transport::Tcp | Transport::Tls);
    if !target.transport.is_none_or(is_served) {
        return Err(format!("\"{destination}\": next hops are reached by UDP, TCP or TLS"));
    }
    if matches!(target.host, TargetHost::Ip(_)) && target.direct().is_none() {
        return Err(format!("\"{destination}\": nothing can be sent there"));
    }
    let flags =
        rest.first().map_or(Ok(0), |flags| number(flags)).map_err(|()| format!("flags \"{}\"", rest.join(" ")))?;
    let priority = match rest.get(1) {
        // As Kamailio's own number is an int.
        Some(text) => text.parse::<i32>().map(i64::from).map_err(|_| format!("priority \"{text}\""))?,
        None => 0,
    };
    if parsed.user.is_some() {
        imported.remark(line, "the user part of the URI is left out");
    }
    let mut attributes = Vec::new();
    for attribute in rest.get(2..).unwrap_or_default().join(" ").split(';').map(str::trim).filter(|a| !a.is_empty()) {
        let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        attributes.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    Ok((set, Entry { line, target, flags, priority, attributes }))
}

/// Decimal, or hexadecimal behind 0x.
fn number(text: &str) -> Result<u32, ()> {
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).map_err(drop),
        None => text.parse().map_err(drop),
    }
}

/// A set on its way to a trunk.
struct Set {
    number: i64,
    algorithm: &'static str,
    hash_header: Option<String>,
    /// In the order of trial.
    entries: Vec<Entry>,
    /// Weight of each, where there are weights.
    weights: Vec<Option<u32>>,
    /// Priority of each: lower first.
    priorities: Vec<i64>,
}

impl Set {
    fn new(
        number: i64,
        entries: Vec<Entry>,
        wanted: &[Wanted],
        hash_header: Option<&str>,
        imported: &mut Imported,
    ) -> Self {
        let has_priorities = entries.iter().any(|entry| entries.first().is_some_and(|f| f.priority != entry.priority));
        let own = wanted.iter().rev().find(|wanted| wanted.set == Some(number));
        let chosen = own.or(wanted.iter().rev().find(|wanted| wanted.set.is_none()));
        let algorithm = chosen.map_or("serial", |wanted| wanted.algorithm.name(has_priorities));
        let mut set =
            Set { number, algorithm, hash_header: None, entries, weights: Vec::new(), priorities: Vec::new() };
        if algorithm == "key-hash" {
            let header = hash_header.unwrap_or("Call-ID");
            if hash_header.is_none() {
                let text = format!(
                    "set {number}: the field that is hashed is not in the list; Call-ID taken: give --hash-header"
                );
                imported.remark(0, text);
            }
            set.hash_header = Some(header.to_owned());
        }
        set.drop_repeated(imported);
        set.sort(imported);
        set.weigh(imported);
        set
    }

    fn first_line(&self) -> usize {
        self.entries.iter().map(|entry| entry.line).min().unwrap_or(0)
    }

    fn drop_repeated(&mut self, imported: &mut Imported) {
        let mut known: Vec<(Target, usize)> = Vec::new();
        self.entries.retain(|entry| {
            if let Some((_, first)) = known.iter().find(|(target, _)| *target == entry.target) {
                imported.loss(entry.line, format!("the same destination as line {first}: a set has it once"));
                return false;
            }
            known.push((entry.target.clone(), entry.line));
            true
        });
        if self.entries.len() > MAX_MEMBERS {
            let left_out = self.entries.split_off(MAX_MEMBERS);
            left_out.iter().for_each(|entry| imported.loss(entry.line, "a trunk has 128 members at most"));
        }
    }

    /// Kamailio's order: higher priorities first, but in algorithm 15, and of equal ones the later line first.
    fn sort(&mut self, imported: &mut Imported) {
        let ascending = self.algorithm == "srv";
        self.entries
            .sort_by_key(|entry| (if ascending { entry.priority } else { -entry.priority }, usize::MAX - entry.line));
        let highest = self.entries.iter().map(|entry| entry.priority).max().unwrap_or(0);
        let lowest = self.entries.iter().map(|entry| entry.priority).min().unwrap_or(0);
        let steps: BTreeSet<i64> = self.entries.iter().map(|entry| entry.priority).collect();
        let fits = lowest >= 0 && highest <= i64::from(u16::MAX);
        self.priorities = self
            .entries
            .iter()
            .map(|entry| match (ascending, fits) {
                (true, true) => entry.priority,
                (false, true) => highest - entry.priority,
                // Their order is all that counts.
                (true, false) => steps.range(..entry.priority).count() as i64,
                (false, false) => steps.range(entry.priority..).count() as i64 - 1,
            })
            .collect();
        let has_equals = self.entries.windows(2).any(|pair| matches!(pair, [a, b] if a.priority == b.priority));
        if has_equals && self.entries.len() > 1 && self.algorithm == "serial" {
            let text =
                format!("set {}: members of equal priority are in reverse order, as Kamailio tries them", self.number);
            imported.remark(self.first_line(), text);
        }
    }

    /// Weights as Kamailio fills its table of 100 places.
    fn weigh(&mut self, imported: &mut Imported) {
        let name = if self.algorithm == "relative-weight" { "rweight" } else { "weight" };
        let read = |entry: &Entry| entry.number(name, 0..=u32::MAX, imported);
        let mut weights: Vec<Option<u32>> = self.entries.iter().map(read).collect();
        let line = self.first_line();
        if matches!(self.algorithm, "weighted" | "relative-weight" | "srv") {
            weights.iter_mut().for_each(|weight| *weight = Some(weight.unwrap_or(0)));
            let sum: u64 = weights.iter().flatten().map(|weight| u64::from(*weight)).sum();
            if sum == 0 && self.algorithm != "srv" {
                imported.remark(line, format!("set {}: no weights; all are 1 now", self.number));
                weights.iter_mut().for_each(|weight| *weight = Some(1));
            } else if self.algorithm == "weighted" && sum != 100 {
                let text = match fill(&mut weights) {
                    true => {
                        format!("set {}: weights add up to {sum}; the rest of 100 is the last member's", self.number)
                    }
                    false => format!("set {}: weights add up to {sum}; what is above 100 is cut off", self.number),
                };
                imported.remark(line, text);
            }
        }
        scale(&mut weights, &self.entries, imported);
        self.weights = weights;
        let other = if name == "weight" { "rweight" } else { "weight" };
        for entry in self.entries.iter().filter(|entry| entry.attribute(other).is_some()) {
            imported
                .remark(entry.line, format!("{other}: left out, algorithm = \"{}\" does not go by it", self.algorithm));
        }
    }

    fn print(&self, imported: &mut Imported) {
        let mut out = format!("[[trunk]]\nname = \"set-{}\"\nalgorithm = \"{}\"\n", self.number, self.algorithm);
        if self.algorithm == "round-robin-overload" {
            out.push_str("oc = \"client\"\n");
        }
        if let Some(header) = &self.hash_header {
            let _ = writeln!(out, "hash_header = {}", print::string(header));
        }
        self.print_tls(&mut out, imported);
        self.print_probe(&mut out, imported);
        let mut ids = BTreeSet::new();
        for ((entry, weight), priority) in self.entries.iter().zip(&self.weights).zip(&self.priorities) {
            print_member(entry, *weight, *priority, &mut ids, &mut out, imported);
        }
        out.push('\n');
        imported.text.push_str(&out);
    }

    fn print_tls(&self, out: &mut String, imported: &mut Imported) {
        let mut names = BTreeSet::new();
        let is_tls = |entry: &&Entry| entry.target.secure || entry.target.transport == Some(Transport::Tls);
        for entry in self.entries.iter().filter(is_tls) {
            names.insert(match &entry.target.host {
                TargetHost::Name(name) => name.to_string(),
                TargetHost::Ip(_) => "name-of-the-gateway.invalid".to_owned(),
            });
        }
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(|name| print::string(name)).collect();
            let _ = writeln!(out, "[trunk.tls]\nnames = [{}]", names.join(", "));
            let text = format!("set {}: [trunk.tls] names must be what the gateways' certificates prove", self.number);
            imported.remark(self.first_line(), text);
        }
    }

    fn print_probe(&self, out: &mut String, imported: &mut Imported) {
        let pinged =
            self.entries.iter().filter(|entry| entry.flags & PROBING != 0 && entry.flags & NO_PING == 0).count();
        if pinged == 0 {
            return;
        }
        out.push_str("[trunk.probe]\n");
        let from: BTreeSet<&str> = self.entries.iter().filter_map(|entry| entry.attribute("ping_from")).collect();
        if let Some(from) = from.first() {
            let _ = writeln!(out, "from = {}", print::string(from));
        }
        let (number, line) = (self.number, self.first_line());
        if pinged < self.entries.len() {
            imported.remark(
                line,
                format!("set {number}: some members are flagged for pings; here all of a trunk are pinged"),
            );
        }
        if from.len() > 1 {
            imported.remark(line, format!("set {number}: several ping_from; the first is taken"));
        }
        let text =
            format!("set {number}: answers 2xx to 4xx to pings are good here, 2xx in Kamailio; see [trunk.probe] ok");
        imported.remark(line, text);
    }
}

/// Makes weights add up to 100: cuts off what is above; true if instead the last one got what was missing.
fn fill(weights: &mut [Option<u32>]) -> bool {
    let mut left = 100_u32;
    for weight in weights.iter_mut().flatten() {
        *weight = (*weight).min(left);
        left -= *weight;
    }
    if let Some(Some(last)) = weights.last_mut() {
        *last += left;
    }
    left > 0
}

/// The largest weight of a configuration.
const MAX_WEIGHT: u32 = 1000;

/// Weights that are too large for the configuration keep their proportions, as far as 1000 steps can tell them.
fn scale(weights: &mut [Option<u32>], entries: &[Entry], imported: &mut Imported) {
    let largest = weights.iter().flatten().copied().max().unwrap_or(0);
    if largest <= MAX_WEIGHT {
        return;
    }
    for (weight, entry) in weights.iter_mut().zip(entries) {
        let Some(weight) = weight.as_mut().filter(|weight| **weight > 0) else { continue };
        let scaled = u64::from(*weight) * u64::from(MAX_WEIGHT) / u64::from(largest);
        let scaled = u32::try_from(scaled).unwrap_or(MAX_WEIGHT).max(1);
        imported.remark(entry.line, format!("weight {weight} is {scaled} here: the largest of a set is 1000 at most"));
        *weight = scaled;
    }
}

/// Attributes that have a key of their own.
const TRANSLATED: [&str; 6] = ["duid", "maxload", "weight", "rweight", "latency", "ping_from"];

fn print_member(
    entry: &Entry,
    weight: Option<u32>,
    priority: i64,
    ids: &mut BTreeSet<String>,
    out: &mut String,
    imported: &mut Imported,
) {
    let _ = writeln!(out, "[[trunk.member]]\nnext_hop = {}", print::string(&entry.target.to_string()));
    if let Some(id) = entry.attribute("duid").filter(|id| !id.is_empty()) {
        let is_plain = id.len() <= 128 && id.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\');
        if is_plain && ids.insert(id.to_owned()) {
            let _ = writeln!(out, "id = {}", print::string(id));
        } else {
            imported.loss(entry.line, format!("duid {id:?} is taken already, or no plain name"));
        }
    }
    if priority != 0 {
        let _ = writeln!(out, "priority = {priority}");
    }
    if let Some(weight) = weight {
        let _ = writeln!(out, "weight = {weight}");
    }
    if let Some(max) = entry.number("maxload", 0..=10_000_000, imported).filter(|max| *max > 0) {
        let _ = writeln!(out, "max_calls = {max}");
    }
    if let Some(latency) = entry.number("latency", 0..=60_000, imported).filter(|latency| *latency > 0) {
        let _ = writeln!(out, "latency_ms = {latency}");
    }
    let state = match entry.flags {
        flags if flags & DISABLED != 0 => Some("disabled"),
        flags if flags & INACTIVE != 0 => Some("inactive"),
        flags if flags & TRYING != 0 => Some("trying"),
        _ => None,
    };
    if let Some(state) = state {
        let _ = writeln!(out, "state = \"{state}\"");
    }
    if entry.flags & NO_PING != 0 {
        imported.remark(entry.line, "flag 32: that a member is never pinged can not be said of one alone");
    }
    let rest = entry.attributes.iter().filter(|(name, _)| !TRANSLATED.contains(&name.as_str()));
    let mut tags: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, value) in rest {
        imported.remark(entry.line, remark_on(name));
        tags.insert(name, value);
    }
    if !tags.is_empty() {
        let tags: Vec<String> =
            tags.iter().map(|(name, value)| format!("{} = {}", print::key(name), print::string(value))).collect();
        let _ = writeln!(out, "tags = {{ {} }}", tags.join(", "));
    }
}

/// What becomes of an attribute that has no key of its own.
fn remark_on(name: &str) -> String {
    match name {
        "socket" | "sockname" | "ping_socket" => {
            format!("{name}: kept as a tag; the socket is a trunk's `listener` here")
        }
        "cc" | "ocmin" | "ocrate" => format!("{name}: kept as a tag; see `algorithm = \"latency\"` and `oc`"),
        "obproxy" => "obproxy: kept as a tag; pings go where requests go".to_owned(),
        _ => format!("{name}: kept as a tag"),
    }
}

#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;
