//! `[guard]`, `[trunk.limits]`: who is heard, how much a trunk may call.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::files::Files;
use super::mistake::Fault;
use super::network::Network;
use super::reader::{At, Section};
use crate::proxy;
use crate::proxy::admission::{Bans, Guard, Marks, Rate, SheddingConfig, Standing, Strangers, TrunkLimits};
use crate::proxy::digest::nonce::NONCES;
use crate::proxy::digest::{Algorithm as Hash, Digest, Realm, users};
use crate::proxy::overload::{Algorithm, Role};
use crate::proxy::{Place, TrunkId};

/// Messages or calls per second, and how many at once.
const PER_SECOND: (u64, u64) = (1, 1_000_000);
const ENTRIES: (u64, u64) = (64, 10_000_000);
const NETWORK: &str = "addresses or networks, such as \"192.0.2.10\" or \"192.0.2.0/24\"";

/// Reads the tables into `proxy`, whose trunks are known already.
pub(super) fn read(root: &Section<'_, '_>, network: &Network<'_, '_>, files: &Files<'_>, proxy: &mut proxy::Config) {
    let (mut guard, mut nonces) = (Guard::default(), NONCES);
    if let Some(section) = root.section("guard") {
        read_guard(&section, &mut guard);
        section.size("nonces", ENTRIES, &mut nonces);
        section.finish();
    } else {
        let strangers = Strangers::answered_seldom();
        guard.vouched = Arc::new(Marks::new(strangers.sources));
        guard.strangers = Some(strangers);
    }
    for (trunk, section) in proxy.trunks.iter().zip(&network.trunks) {
        // What a name stands for becomes known when a request goes there.
        let hops = trunk.next_hops.iter().filter_map(|place| match place {
            Place::At(hop) => Some(IpNet::from(hop.remote.ip())),
            Place::Locate(target) => target.direct().map(|hop| IpNet::from(hop.remote.ip())),
        });
        for known in trunk.peers.iter().copied().chain(hops) {
            if guard.networks.add(known, Standing::Known) == Some(Standing::Denied) {
                let reason = "is denied by [guard]";
                section.wrong(section.offset(), "", Fault::Conflict { reason, remedy: "remove its network from deny" });
            }
        }
    }
    for section in &network.trunks {
        guard.overload.push(read_role(section, guard.shedding.is_some()));
        guard.limits.push(section.section("limits").map(read_limits));
    }
    guard.digest = read_digest(network, files).map(|digest| Arc::new(digest.with_room(nonces)));
    proxy.guard = guard;
}

fn read_guard(section: &Section<'_, '_>, guard: &mut Guard) {
    let mut strangers = Strangers::default();
    let per_second = |key| section.number(key, PER_SECOND).map(|number| number as u32);
    let rates = [
        ("messages_per_second", "messages_burst", &mut strangers.messages, (20, 40)),
        ("all_messages_per_second", "all_messages_burst", &mut strangers.all_messages, (2000, 2000)),
        ("answers_per_second", "answers_burst", &mut strangers.answers, (2, 10)),
        ("all_answers_per_second", "all_answers_burst", &mut strangers.all_answers, (200, 200)),
    ];
    for (rate_key, burst_key, rate, (rate_default, burst_default)) in rates {
        let chosen = per_second(rate_key);
        // A burst smaller than the rate would be a lower rate for whoever sends in one go.
        let burst = per_second(burst_key).or(chosen.map(|chosen| chosen.max(burst_default)));
        *rate = Rate::new(chosen.unwrap_or(rate_default), burst.unwrap_or(burst_default));
    }
    if let Some(number) = section.number("ban_after", (0, 1_000_000)) {
        strangers.ban_after = number as u32;
    }
    let seconds = |key, setting: &mut Duration| {
        if let Some(number) = section.number(key, (1, 2_592_000)) {
            *setting = Duration::from_secs(number);
        }
    };
    seconds("ban_window_seconds", &mut strangers.window);
    seconds("ban_seconds", &mut strangers.ban);
    seconds("longest_call_seconds", &mut guard.longest_call);
    if !section.is_absent("scanners") {
        let expected = "a piece of a User-Agent, 3 characters or more";
        let scanners = section.read_list("scanners", expected, |text| (text.len() >= 3).then(|| text.to_lowercase()));
        strangers.scanners = scanners.into_iter().map(|at| at.value).collect();
    }
    section.size("sources", ENTRIES, &mut strangers.sources);
    let mut bans = 65_536;
    section.size("bans", ENTRIES, &mut bans);
    guard.bans = Arc::new(Bans::new(bans));
    guard.vouched = Arc::new(Marks::new(strangers.sources));
    guard.strangers = Some(strangers);
    read_networks(section, guard);
    read_shedding(section, guard);
    let expected = "a number as it is dialled: digits, * and #";
    let numbers = section.read_list("emergency_numbers", expected, |text| {
        let is_dialled = |octet| matches!(octet, b'0'..=b'9' | b'*' | b'#');
        (!text.is_empty() && text.len() <= 32 && text.bytes().all(is_dialled)).then(|| text.to_owned())
    });
    guard.emergency_numbers = numbers.into_iter().map(|at| at.value).collect();
}

fn read_networks(section: &Section<'_, '_>, guard: &mut Guard) {
    let parse = |text: &str| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    for (key, standing) in [("deny", Standing::Denied), ("allow", Standing::Known)] {
        for At { value, offset } in section.read_list(key, NETWORK, parse) {
            if guard.networks.add(value, standing).is_some_and(|before| before != standing) {
                let reason = "the same network is in deny";
                section.wrong(offset, key, Fault::Conflict { reason, remedy: "remove one of the two" });
            }
        }
    }
}

fn read_shedding(section: &Section<'_, '_>, guard: &mut Guard) {
    let is_on = section.bool("shed", true);
    let mut shedding = SheddingConfig::default();
    let millis = |key, range, setting: &mut Duration| {
        if let Some(number) = section.number(key, range) {
            *setting = Duration::from_millis(number);
        }
    };
    millis("shed_above_ms", (5, 10_000), &mut shedding.target);
    millis("shed_interval_ms", (10, 10_000), &mut shedding.interval);
    if let Some(number) = section.number("shed_table_percent", (20, 100)) {
        shedding.table_high = number as u8;
        shedding.table_low = (number - 10) as u8;
    }
    guard.shedding = is_on.then_some(shedding);
}

fn read_limits(section: Section<'_, '_>) -> TrunkLimits {
    let per_second = section.number("max_calls_per_second", PER_SECOND).map(|number| number as u32);
    let burst = section.number("calls_burst", PER_SECOND).map(|number| number as u32);
    let at_a_time = section.number("max_concurrent_calls", (1, 10_000_000)).map(|number| number as u32);
    if per_second.is_none() && at_a_time.is_none() {
        section.missing("max_calls_per_second", "max_calls_per_second, max_concurrent_calls or both");
    }
    if burst.is_some() && per_second.is_none() {
        let reason = "is the burst of a rate that is not limited";
        section.wrong(
            section.offset_of("calls_burst"),
            "calls_burst",
            Fault::Conflict { reason, remedy: "add max_calls_per_second" },
        );
    }
    let rate = per_second.map(|per_second| Rate::new(per_second, burst.unwrap_or(per_second)));
    let status = section.number("status", (400, 699)).map_or(503, |status| status as u16);
    let mut limits = TrunkLimits::new(rate, at_a_time, status);
    let directions = [("both", (true, true)), ("from", (true, false)), ("to", (false, true))];
    (limits.from, limits.to) = section.choice("count", &directions).unwrap_or((true, true));
    section.finish();
    limits
}

fn read_role(section: &Section<'_, '_>, is_measured: bool) -> Role {
    let sides = [("off", (false, false)), ("client", (true, false)), ("server", (false, true)), ("both", (true, true))];
    let (client, server) = section.choice("oc", &sides).unwrap_or_default();
    let algorithms = [("loss", Algorithm::Loss), ("rate", Algorithm::Rate)];
    let algorithm = section.choice("oc_algorithm", &algorithms).unwrap_or_default();
    if server && !is_measured {
        let reason = "tells a load that is not measured";
        section.wrong(
            section.offset_of("oc"),
            "oc",
            Fault::Conflict { reason, remedy: "add [guard] with shed = true" },
        );
    }
    Role { client, server, algorithm }
}

/// `[trunk.digest]` of all trunks.
fn read_digest(network: &Network<'_, '_>, files: &Files<'_>) -> Option<Digest> {
    let mut realms: Vec<Realm> = Vec::new();
    let mut required = Vec::new();
    for (position, trunk) in network.trunks.iter().enumerate() {
        let place = trunk.section("digest").and_then(|section| {
            let realm = read_realm(&section, files, TrunkId(position as u16));
            let place = realm.and_then(|realm| join(&section, &mut realms, realm));
            section.finish();
            place
        });
        required.push(place);
    }
    (!realms.is_empty()).then(|| Digest::new(realms, required))
}

fn read_realm(section: &Section<'_, '_>, files: &Files<'_>, trunk: TrunkId) -> Option<Realm> {
    section.required("realm", "the name that users authenticate to, such as \"example.com\"");
    let expected = "a name without quotes, backslashes and control characters";
    let realm = section.read("realm", expected, |text| {
        let is_plain = |c: char| !c.is_control() && c != '"' && c != '\\' && c.is_ascii();
        (!text.is_empty() && text.len() <= 128 && text.chars().all(is_plain)).then(|| text.to_owned())
    });
    let file = section.required("users", "a file with lines user:realm:algorithm:HA1");
    let expected = "\"SHA-256\", \"SHA-512-256\" or \"MD5\"";
    let chosen = section.read_list("algorithms", expected, |text| Hash::from_token(text.as_bytes()));
    let mut algorithms: Vec<Hash> = chosen.into_iter().map(|at| at.value).collect();
    algorithms.sort();
    algorithms.dedup();
    if algorithms.is_empty() {
        algorithms.push(Hash::Sha256);
    }
    let life = section.number("nonce_seconds", (10, 86_400)).map_or(300, |seconds| seconds);
    let (realm, file) = (realm?, file?);
    let path = files.path(file.value);
    let text = files.read(&path).map_err(|fault| section.wrong(file.offset, "users", fault)).ok()?;
    let text = String::from_utf8_lossy(&text);
    let users = match users::read(&text, &realm.value) {
        Ok(users) => users,
        Err(error) => {
            section.wrong(file.offset, "users", Fault::Users { path, error });
            return None;
        }
    };
    if users.values().any(|secrets| !algorithms.iter().any(|algorithm| secrets.of(*algorithm).is_some())) {
        let reason = "a user has no HA1 for any of the algorithms";
        let remedy = "add one to the file, or the algorithm to algorithms";
        section.wrong(file.offset, "users", Fault::Conflict { reason, remedy });
        return None;
    }
    let users = users.into_iter().map(|(name, secrets)| (name, (trunk, secrets))).collect();
    Some(Realm { name: realm.value, algorithms, users, life: Duration::from_secs(life) })
}

/// Adds the users of a trunk to those of its realm: no user may be two trunks (KR-11). The realm's place.
fn join(section: &Section<'_, '_>, realms: &mut Vec<Realm>, realm: Realm) -> Option<usize> {
    let Some(place) = realms.iter().position(|known| known.name == realm.name) else {
        realms.push(realm);
        return Some(realms.len() - 1);
    };
    let known = realms.get_mut(place)?;
    if known.algorithms != realm.algorithms || known.life != realm.life {
        let reason = "another trunk has this realm with other algorithms or nonce_seconds";
        section.wrong(section.offset_of("realm"), "realm", Fault::Conflict { reason, remedy: "make them equal" });
    }
    if realm.users.keys().any(|name| known.users.contains_key(name)) {
        let reason = "a user is in the file of another trunk of this realm too";
        section.wrong(section.offset_of("users"), "users", Fault::Conflict { reason, remedy: "remove one of the two" });
    }
    known.users.extend(realm.users);
    Some(place)
}
