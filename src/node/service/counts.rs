//! What the service has seen, for the page.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::node::page::Page;
use crate::proxy::meters::Histogram;

/// Endpoints, with their names.
pub const ENDPOINTS: [&str; 3] = ["signing", "verification", "other"];
/// Results, with their names: the first four are answers.
pub const RESULTS: [&str; 14] = [
    "signed",
    "passed",
    "failed",
    "no-identity",
    "bad-request",
    "not-found",
    "unauthorized",
    "forbidden",
    "slow",
    "too-large",
    "limited",
    "busy",
    "internal",
    "other",
];

/// The counters.
#[derive(Default)]
pub struct Counts {
    under_way: AtomicUsize,
    results: [[AtomicU64; RESULTS.len()]; ENDPOINTS.len()],
    /// Time to an answer, whatever it is: signing, verification.
    durations: Mutex<[Histogram; 2]>,
}

/// A request that is being answered.
pub struct UnderWay<'c>(&'c Counts);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counts {
    /// A request came; it is under way as long as the result lives.
    pub fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// Requests without an answer.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// A request was answered: by [`ENDPOINTS`], a name of [`RESULTS`], after so long.
    pub fn end(&self, endpoint: usize, result: &str, after: Duration) {
        let place = RESULTS.iter().position(|name| *name == result).unwrap_or(RESULTS.len() - 1);
        if let Some(count) = self.results.get(endpoint).and_then(|results| results.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(histogram) = durations.get_mut(endpoint) {
            histogram.observe(after);
        }
    }

    /// Writes them down.
    pub(in crate::node) fn write(&self, page: &mut Page) {
        page.help(
            "vesperd_stir_service_requests_total",
            "counter",
            "Requests of the STIR service, by what came of them.",
        );
        for (endpoint, results) in ENDPOINTS.iter().zip(&self.results) {
            for (result, count) in RESULTS.iter().zip(results) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 || *result == "signed" && *endpoint == "signing" {
                    page.line(
                        "vesperd_stir_service_requests_total",
                        &[("endpoint", endpoint), ("result", result)],
                        count,
                    );
                }
            }
        }
        let under_way = self.under_way();
        page.single(
            "vesperd_stir_service_under_way",
            "gauge",
            "Requests of the STIR service without an answer.",
            under_way,
        );
        let durations = *self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        page.help(
            "vesperd_stir_service_duration_seconds",
            "histogram",
            "From a request of the STIR service to its answer.",
        );
        for (endpoint, histogram) in ENDPOINTS.iter().zip(&durations) {
            page.histogram("vesperd_stir_service_duration_seconds", &[("endpoint", endpoint)], histogram);
        }
    }
}
