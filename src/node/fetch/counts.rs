//! What the side door has done, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::FetchError;
use crate::node::page::Page;

/// A number that only the side door's thread changes.
#[derive(Debug, Default)]
pub(in crate::node) struct Count(AtomicU64);

impl Count {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters and gauges.
#[derive(Debug, Default)]
pub(in crate::node) struct Counts {
    pub hits: Count,
    pub negative_hits: Count,
    pub stale_served: Count,
    pub misses: Count,
    /// First fetches, and refreshes of what was there, that brought a chain.
    pub fetches: Count,
    pub refreshes: Count,
    pub refreshes_failed: Count,
    /// By [`FetchError::reason`].
    failures: [Count; FetchError::REASONS.len()],
    pub entries: Count,
    pub octets: Count,
    pub in_flight: Count,
    pub waiting: Count,
    pub hosts_down: Count,
}

impl Counts {
    pub fn failed(&self, error: &FetchError) {
        let place = FetchError::REASONS.iter().position(|reason| *reason == error.reason());
        place.and_then(|place| self.failures.get(place)).into_iter().for_each(Count::add);
    }

    pub fn write(&self, page: &mut Page) {
        let name = "vesperd_certificate_cache_total";
        page.help(name, "counter", "Questions of workers for the chain of an x5u, by what the shared cache had.");
        let results = [
            ("hit", &self.hits),
            ("stale", &self.stale_served),
            ("negative", &self.negative_hits),
            ("miss", &self.misses),
        ];
        results.into_iter().for_each(|(result, count)| page.line(name, &[("result", result)], count.get()));
        let name = "vesperd_x5u_fetches_total";
        page.help(name, "counter", "Chains fetched: for the first time, anew, and those that could not be had anew.");
        let kinds =
            [("first", &self.fetches), ("refresh", &self.refreshes), ("refresh_failed", &self.refreshes_failed)];
        kinds.into_iter().for_each(|(kind, count)| page.line(name, &[("kind", kind)], count.get()));
        let name = "vesperd_x5u_failures_total";
        page.help(name, "counter", "Questions and fetches that brought no chain, by reason.");
        for (reason, count) in FetchError::REASONS.iter().zip(&self.failures) {
            page.line(name, &[("reason", reason)], count.get());
        }
        page.single("vesperd_certificate_cache_entries", "gauge", "Entries of the shared cache.", self.entries.get());
        page.single("vesperd_certificate_cache_bytes", "gauge", "Their size.", self.octets.get());
        page.single("vesperd_x5u_fetches_in_flight", "gauge", "Fetches under way.", self.in_flight.get());
        page.single("vesperd_x5u_waiting", "gauge", "Questions that wait for one.", self.waiting.get());
        let help = "Certificate hosts that are not asked for a while because they failed.";
        page.single("vesperd_x5u_hosts_down", "gauge", help, self.hosts_down.get());
    }
}
