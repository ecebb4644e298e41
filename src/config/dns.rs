//! `[dns]`: how names are located.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::reader::Section;
use crate::node::resolve;

/// Reads the table; whether names are located at all.
pub(super) fn read(root: &Section<'_, '_>, config: &mut resolve::Config) -> bool {
    let Some(section) = root.section("dns") else { return true };
    let expected = "addresses of name servers, such as \"192.0.2.53\" or \"[2001:db8::53]:5353\"";
    let servers = section.read_list("servers", expected, |text| {
        let with_port = text.parse::<SocketAddr>().ok();
        with_port.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53)))
    });
    config.servers = servers.into_iter().map(|server| server.value).collect();
    let duration = |key, range, unit: fn(u64) -> Duration, setting: &mut Duration| {
        if let Some(number) = section.number(key, range) {
            *setting = unit(number);
        }
    };
    duration("timeout_ms", (10, 30_000), Duration::from_millis, &mut config.timeout);
    duration("budget_ms", (10, 30_000), Duration::from_millis, &mut config.budget);
    duration("max_ttl_seconds", (1, 86_400), Duration::from_secs, &mut config.max_ttl);
    duration("negative_ttl_seconds", (1, 3600), Duration::from_secs, &mut config.negative_ttl);
    duration("stale_seconds", (1, 86_400), Duration::from_secs, &mut config.stale);
    section.size("attempts", (1, 10), &mut config.attempts);
    section.size("max_in_flight", (1, 100_000), &mut config.max_in_flight);
    section.size("queue", (1, 1_000_000), &mut config.queue);
    if let Some(number) = section.number("cache_entries", (1, 10_000_000)) {
        config.cache_entries = number;
    }
    config.prefer_ipv6 = section.choice("prefer", &[("ipv6", true), ("ipv4", false)]).unwrap_or(config.prefer_ipv6);
    let is_enabled = section.bool("enabled", true);
    section.finish();
    is_enabled
}
