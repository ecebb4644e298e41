//! What the workers have seen, for people and for Prometheus. Each worker writes its counters down about once a second; whoever asks reads
//! those, so that no counter on the packet path is shared.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::clock;
use super::packet_loop::Summary;
use crate::proxy::Snapshot;
use crate::proxy::dispatcher::{MemberReport, MemberState, NoSuchMember};
use crate::transport::tcp::CloseReason;

/// The state of the edge that others may read.
#[derive(Default)]
pub struct Published {
    workers: Vec<Mutex<Summary>>,
    /// No new calls are taken.
    draining: AtomicBool,
    /// Reloads that were taken over, and those that were not.
    reloads: [AtomicU64; 2],
    /// When the present configuration came into force, Unix seconds.
    loaded_at: AtomicI64,
    /// Leaf certificates of signers: name and end of validity, Unix seconds.
    certificates: Mutex<Vec<(String, i64)>>,
    /// The configuration in force, for what workers write into it.
    snapshot: Mutex<Option<Arc<Snapshot>>>,
}

impl Published {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Mutex::default()).collect(), ..Self::default() }
    }

    pub(super) fn publish(&self, worker: usize, summary: Summary) {
        if let Some(place) = self.workers.get(worker) {
            *place.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = summary;
        }
    }

    pub(super) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether no new calls are taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Notes a reload, taken over or not.
    pub fn count_reload(&self, is_taken: bool) {
        let [taken, refused] = &self.reloads;
        if is_taken { taken } else { refused }.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_loaded(&self, unix: i64, certificates: Vec<(String, i64)>) {
        self.loaded_at.store(unix, Ordering::Relaxed);
        *self.certificates.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = certificates;
    }

    pub(super) fn set_snapshot(&self, snapshot: &Arc<Snapshot>) {
        *self.snapshot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Arc::clone(snapshot));
    }

    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// How the members of all trunks stand.
    pub fn members(&self) -> Vec<MemberReport> {
        self.snapshot().map(|snapshot| snapshot.config.members(clock::unix())).unwrap_or_default()
    }

    /// Puts a member into a state, for all workers at once.
    ///
    /// # Errors
    /// There is no such member.
    pub fn set_member_state(&self, trunk: &str, member: &str, state: MemberState) -> Result<(), NoSuchMember> {
        let nobody = NoSuchMember::Trunk { name: trunk.to_owned() };
        self.snapshot().ok_or(nobody)?.config.set_member_state(trunk, member, state)?;
        tracing::info!(trunk, member, state = state.as_str(), "state of a member set");
        Ok(())
    }

    /// The sum over all workers; about a second old.
    pub fn summary(&self) -> Summary {
        let mut total = Summary::default();
        for worker in &self.workers {
            total.add(&worker.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        }
        total
    }

    /// The text of `/metrics` (Prometheus exposition format 0.0.4).
    pub fn prometheus(&self) -> String {
        let total = self.summary();
        let mut page = Page::default();
        page.help("vesperd_build_info", "gauge", "The version that runs.");
        page.line("vesperd_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.single("vesperd_calls_unanswered", "gauge", "Requests without a final response yet.", total.unanswered);
        page.single("vesperd_transactions", "gauge", "Requests whose transactions have not all ended.", total.live);
        page.single("vesperd_draining", "gauge", "1 while no new calls are taken.", u8::from(self.is_draining()));
        page.single("vesperd_worker_restarts_total", "counter", "Workers started again after a panic.", total.restarts);
        for (name, count) in total.proxy.iter() {
            page.single(&format!("vesperd_{name}_total"), "counter", "See docs/operation.md.", count);
        }
        let worker = total.worker;
        page.help("vesperd_messages_dropped_total", "counter", "Messages nobody could do anything with, by reason.");
        let dropped = [("lane_full", worker.lane_full), ("unusable", worker.unusable), ("no_way", worker.no_way)];
        for (reason, count) in dropped {
            page.line("vesperd_messages_dropped_total", &[("reason", reason)], count);
        }
        page.single("vesperd_keepalives_total", "counter", "Keepalives received.", worker.keepalives);
        let failed = worker.failed_handshakes;
        page.single(
            "vesperd_tls_handshakes_failed_total",
            "counter",
            "Accepted connections without a TLS session.",
            failed,
        );
        page.help("vesperd_udp_datagrams_total", "counter", "Datagrams by what became of them.");
        let udp = total.udp;
        let datagrams =
            [("received", udp.received), ("sent", udp.sent), ("dropped", udp.dropped), ("refused", udp.refused)];
        for (fate, count) in datagrams {
            page.line("vesperd_udp_datagrams_total", &[("fate", fate)], count);
        }
        self.streams(&mut page, &total);
        self.targets(&mut page);
        self.configuration(&mut page);
        page.0
    }

    fn streams(&self, page: &mut Page, total: &Summary) {
        let tcp = &total.tcp;
        page.help("vesperd_connections_total", "counter", "TCP and TLS connections by who opened them.");
        page.line("vesperd_connections_total", &[("opened_by", "peer")], tcp.accepted);
        page.line("vesperd_connections_total", &[("opened_by", "us")], tcp.opened);
        let closed: u64 = tcp.closed.iter().sum();
        let open = (tcp.accepted + tcp.opened).saturating_sub(closed);
        page.single("vesperd_connections", "gauge", "TCP and TLS connections that are open.", open);
        page.help("vesperd_connections_closed_total", "counter", "Connections closed, by reason.");
        for (reason, count) in CloseReason::ALL.iter().zip(tcp.closed) {
            page.line("vesperd_connections_closed_total", &[("reason", &format!("{reason:?}"))], count);
        }
        page.help("vesperd_stream_messages_total", "counter", "Messages over connections by what became of them.");
        let messages =
            [("received", tcp.received), ("sent", tcp.sent), ("queue_full", tcp.queue_full), ("gone", tcp.gone)];
        for (fate, count) in messages {
            page.line("vesperd_stream_messages_total", &[("fate", fate)], count);
        }
    }

    /// Gauges of the members of trunks.
    fn targets(&self, page: &mut Page) {
        let members = self.members();
        let mut gauge = |name: &str, help: &str, value: &dyn Fn(&MemberReport) -> Option<String>| {
            page.help(name, "gauge", help);
            for member in &members {
                let labels = [("trunk", member.trunk.as_str()), ("member", member.member.as_str())];
                value(member).into_iter().for_each(|value| page.line(name, &labels, value));
            }
        };
        gauge("vesperd_target_up", "1 while new dialogs go there.", &|member| {
            let is_up = matches!(member.state, MemberState::Active | MemberState::Trying);
            Some(u8::from(is_up).to_string())
        });
        gauge("vesperd_target_latency_seconds", "Moving average of answers to pings.", &|member| {
            member.latency.map(|latency| latency.as_secs_f64().to_string())
        });
        gauge("vesperd_target_calls", "Calls at a member, where they are counted.", &|member| {
            member.calls.map(|calls| calls.to_string())
        });
    }

    fn configuration(&self, page: &mut Page) {
        let [taken, refused] = &self.reloads;
        page.help("vesperd_reloads_total", "counter", "Reloads of the configuration.");
        page.line("vesperd_reloads_total", &[("result", "taken")], taken.load(Ordering::Relaxed));
        page.line("vesperd_reloads_total", &[("result", "refused")], refused.load(Ordering::Relaxed));
        let loaded = self.loaded_at.load(Ordering::Relaxed);
        page.single("vesperd_configuration_loaded_timestamp_seconds", "gauge", "When it came into force.", loaded);
        page.help(
            "vesperd_signer_certificate_expiry_timestamp_seconds",
            "gauge",
            "End of validity of each signer's leaf.",
        );
        for (signer, not_after) in self.certificates.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            page.line("vesperd_signer_certificate_expiry_timestamp_seconds", &[("signer", signer)], not_after);
        }
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn help(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.help(name, kind, help);
        self.line(name, &[], value);
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (position, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if position == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_and_labels_escaped() {
        let published = Published::new(2);
        for worker in 0..2 {
            let mut summary = Summary { live: 3, ..Summary::default() };
            summary.proxy.requests = 5;
            published.publish(worker, summary);
        }
        published.set_loaded(1_795_219_200, vec![("a\"b\\".to_owned(), 1_800_000_000)]);
        let page = published.prometheus();
        assert!(
            page.contains("\nvesperd_transactions 6\n") && page.contains("\nvesperd_requests_total 10\n"),
            "{page}"
        );
        assert!(page.contains("{signer=\"a\\\"b\\\\\"} 1800000000\n"), "{page}");
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<i64>().is_ok()), "{line}");
        }
    }
}
