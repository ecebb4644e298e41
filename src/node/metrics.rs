//! What the workers have seen, for people and for Prometheus. Each worker writes its counters down about once a second; whoever asks reads
//! those, so that no counter on the packet path is shared.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::cdr;
use super::clock;
use super::fetch;
use super::names::TrunkNames;
use super::packet_loop::Summary;
use super::page::Page;
use super::renewal::Life;
use super::{service, signer};
use crate::proxy::clock_watch::ClockWatch;
use crate::proxy::dispatcher::{MemberReport, MemberState, NoSuchMember};
use crate::proxy::meters::{ATTESTATIONS, METHODS, Meters, TRANSPORTS, VERDICTS};
use crate::proxy::{EndedBy, Snapshot, TrunkId};
use crate::stir::Check;
use crate::stir::Verstat;
use crate::transport::tcp::CloseReason;

/// What one worker has seen.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub summary: Summary,
    pub meters: Meters,
    /// Calls from each trunk and to it, by its number.
    pub trunks: Vec<[u32; 2]>,
}

impl Report {
    /// Adds what was counted in an earlier life of the same worker.
    pub fn add(&mut self, earlier: &Self) {
        self.summary.add(&earlier.summary);
        self.meters.add(&earlier.meters);
    }

    /// What counts on after this life was ended by a panic: calls and connections are gone.
    pub fn buried(mut self) -> Self {
        let summary = &mut self.summary;
        (summary.live, summary.calls, summary.unanswered) = (0, 0, 0);
        summary.restarts += 1;
        let open = (summary.tcp.accepted + summary.tcp.opened).saturating_sub(summary.tcp.closed.iter().sum());
        if let Some(lost) = summary.tcp.closed.get_mut(CloseReason::Error as usize) {
            *lost += open;
        }
        self.trunks.clear();
        self
    }
}

/// The state of the edge that others may read.
#[derive(Default)]
pub struct Published {
    workers: Vec<Mutex<Report>>,
    names: TrunkNames,
    cdr: OnceLock<Arc<cdr::Counts>>,
    clock: OnceLock<Arc<ClockWatch>>,
    signer: OnceLock<Arc<signer::Counts>>,
    service: OnceLock<Arc<service::Counts>>,
    fetch: OnceLock<Arc<fetch::Counts>>,
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
    pub(super) fn new(workers: usize, names: TrunkNames) -> Self {
        Self { workers: (0..workers).map(|_| Mutex::default()).collect(), names, ..Self::default() }
    }

    pub(super) fn publish(&self, worker: usize, report: Report) {
        if let Some(place) = self.workers.get(worker) {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = report;
        }
    }

    pub(super) fn set_clock(&self, clock: &Arc<ClockWatch>) {
        let _ = self.clock.set(Arc::clone(clock)); // one and the same over all reloads
    }

    pub(super) fn set_signer(&self, counts: &Arc<signer::Counts>) {
        let _ = self.signer.set(Arc::clone(counts));
    }

    pub(super) fn set_fetch(&self, counts: &Arc<fetch::Counts>) {
        let _ = self.fetch.set(Arc::clone(counts)); // once, at the start
    }

    pub(super) fn set_cdr(&self, counts: &Arc<cdr::Counts>) {
        let _ = self.cdr.set(Arc::clone(counts)); // once, at the start
    }

    pub(super) fn set_service(&self, counts: &Arc<service::Counts>) {
        let _ = self.service.set(Arc::clone(counts)); // once, at the start
    }

    /// Requests without an answer: of calls, about a second old, and of the STIR service.
    pub fn unanswered(&self) -> usize {
        self.summary().unanswered + self.service.get().map_or(0, |counts| counts.under_way())
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
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    pub(super) fn set_snapshot(&self, snapshot: &Arc<Snapshot>) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(snapshot));
    }

    /// The certificates of the signers in force.
    pub fn lives(&self) -> Vec<Life> {
        let Some(snapshot) = self.snapshot() else { return Vec::new() };
        let named = snapshot.config.signer_names.iter().zip(&snapshot.config.signers);
        let life = named.map(|(name, signer)| Life {
            signer: name.to_string(),
            not_before: signer.certificate().not_before(),
            not_after: signer.not_after(),
        });
        life.collect()
    }

    /// The leaf certificates of the signers in force, DER.
    pub fn leaves(&self) -> Vec<Vec<u8>> {
        let signers = self.snapshot().map(|snapshot| snapshot.config.signers.clone()).unwrap_or_default();
        signers.iter().map(|signer| signer.certificate().der().to_vec()).collect()
    }

    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
            total.add(&worker.lock().unwrap_or_else(PoisonError::into_inner).summary);
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
            let name = match name {
                "requests" => "transactions_begun", // the plain names are those of all requests and responses
                "responses" => "responses_forwarded",
                name => name,
            };
            page.single(&format!("vesperd_{name}_total"), "counter", "See docs/operation.md.", count);
        }
        self.meters(&mut page);
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
        self.queues(&mut page, &total);
        self.fetch.get().into_iter().for_each(|counts| counts.write(&mut page));
        self.trust(&mut page);
        self.configuration(&mut page);
        self.service.get().into_iter().for_each(|counts| counts.write(&mut page));
        page.into_text()
    }

    /// What the workers count in more than one dimension.
    fn meters(&self, page: &mut Page) {
        let (mut meters, mut trunks) = (Meters::default(), Vec::new());
        for worker in &self.workers {
            let report = worker.lock().unwrap_or_else(PoisonError::into_inner);
            meters.add(&report.meters);
            trunks.resize(report.trunks.len().max(trunks.len()), [0u64; 2]);
            for (total, counts) in trunks.iter_mut().zip(&report.trunks) {
                total.iter_mut().zip(counts).for_each(|(total, count)| *total += u64::from(*count));
            }
        }
        page.help("vesperd_requests_total", "counter", "Requests received, retransmissions among them.");
        for (transport, methods) in TRANSPORTS.iter().zip(&meters.requests) {
            for (method, count) in METHODS.iter().zip(methods).filter(|(_, count)| **count > 0) {
                page.line("vesperd_requests_total", &[("method", method), ("transport", transport)], count);
            }
        }
        page.help("vesperd_responses_total", "counter", "Responses received and sent, by status.");
        for (direction, codes) in ["received", "sent"].into_iter().zip(&meters.responses) {
            for (code, count) in (100..).zip(codes).filter(|(_, count)| **count > 0) {
                let code: String = u16::to_string(&code);
                page.line("vesperd_responses_total", &[("code", &code), ("direction", direction)], count);
            }
        }
        page.help("vesperd_request_duration_seconds", "histogram", "From a request to the final response sent to it.");
        for (method, histogram) in ["INVITE", "other"].into_iter().zip(&meters.request_duration) {
            page.histogram("vesperd_request_duration_seconds", &[("method", method)], histogram);
        }
        page.help("vesperd_call_setup_seconds", "histogram", "From INVITE to 2xx, of calls that are over.");
        page.histogram("vesperd_call_setup_seconds", &[], &meters.setup);
        page.help("vesperd_call_duration_seconds", "histogram", "From 2xx to the end, of calls that are over.");
        page.histogram("vesperd_call_duration_seconds", &[], &meters.call_duration);
        page.help(
            "vesperd_calls",
            "gauge",
            "Calls that are observed, by the trunk they come from and the one they go to.",
        );
        for (trunk, counts) in (0..).map(TrunkId).zip(&trunks) {
            let name = self.names.of(trunk);
            for (direction, count) in ["from", "to"].into_iter().zip(counts) {
                page.line("vesperd_calls", &[("trunk", &name), ("direction", direction)], count);
            }
        }
        page.help("vesperd_calls_ended_total", "counter", "Calls that are over, by what ended them.");
        for (by, count) in EndedBy::ALL.iter().zip(meters.ended) {
            page.line("vesperd_calls_ended_total", &[("ended_by", by.name())], count);
        }
        page.help("vesperd_verdicts_total", "counter", "Verdicts on INVITEs and MESSAGEs, and the check that failed.");
        let reasons = || Check::ALL.iter().map(|check| check.id()).chain([""]);
        for (result, counts) in VERDICTS.iter().zip(&meters.verdicts) {
            let is_usual = |(reason, count): &(&str, &u64)| **count > 0 || reason.is_empty();
            for (reason, count) in reasons().zip(counts).filter(is_usual) {
                page.line("vesperd_verdicts_total", &[("result", result), ("reason", reason)], count);
            }
        }
        page.help("vesperd_verstat_total", "counter", "What verdicts come to for the calling number.");
        for (verstat, count) in Verstat::ALL.iter().zip(meters.verstat) {
            page.line("vesperd_verstat_total", &[("value", verstat.text())], count);
        }
        page.help("vesperd_attestations_total", "counter", "Valid tokens by attestation.");
        for (attest, count) in ATTESTATIONS.iter().zip(meters.attestations) {
            page.line("vesperd_attestations_total", &[("attest", attest)], count);
        }
        let help = "Requests whose diversions are proven.";
        page.single("vesperd_diversions_proven_total", "counter", help, meters.diverted);
        page.help(
            "vesperd_caller_names_total",
            "counter",
            "Signed names of callers that may be shown, and that may not.",
        );
        for (result, count) in ["verified", "unverified"].into_iter().zip(meters.names) {
            page.line("vesperd_caller_names_total", &[("result", result)], count);
        }
        page.help(
            "vesperd_credential_cache_total",
            "counter",
            "Headers of tokens that were known from before, and not.",
        );
        for (result, count) in ["hit", "miss"].into_iter().zip(meters.credentials) {
            page.line("vesperd_credential_cache_total", &[("result", result)], count);
        }
    }

    /// The slow sides: what came of questions to them, and what they had no room for.
    fn queues(&self, page: &mut Page, total: &Summary) {
        let worker = total.worker;
        page.help("vesperd_certificate_fetches_total", "counter", "Certificates that calls waited for.");
        for (result, count) in ["found", "failed"].into_iter().zip(worker.fetched) {
            page.line("vesperd_certificate_fetches_total", &[("result", result)], count);
        }
        page.help("vesperd_dns_total", "counter", "Names that requests waited for.");
        for (result, count) in ["found", "failed"].into_iter().zip(worker.located) {
            page.line("vesperd_dns_total", &[("result", result)], count);
        }
        page.help("vesperd_queue_drops_total", "counter", "What found a queue full.");
        page.line("vesperd_queue_drops_total", &[("queue", "lane")], worker.lane_full);
        page.line("vesperd_queue_drops_total", &[("queue", "fetch")], worker.fetch_full);
        page.line("vesperd_queue_drops_total", &[("queue", "dns")], worker.locate_full);
        if let Some(counts) = self.signer.get() {
            page.line("vesperd_queue_drops_total", &[("queue", "signer")], counts.full());
        }
        if let Some(counts) = self.cdr.get() {
            page.line("vesperd_queue_drops_total", &[("queue", "cdr")], counts.dropped.load(Ordering::Relaxed));
        }
        if let Some(counts) = self.signer.get() {
            page.help("vesperd_module_signatures_total", "counter", "Signatures asked of hardware modules.");
            for (result, count) in counts.results() {
                page.line("vesperd_module_signatures_total", &[("result", result)], count);
            }
            let name = "vesperd_signer_queue_wait_seconds";
            page.help(name, "histogram", "How long signatures waited for a thread of their module.");
            page.histogram(name, &[], &counts.waits());
        }
        let Some(counts) = self.cdr.get() else { return };
        page.help("vesperd_call_records_total", "counter", "Call records by what became of them.");
        let fates = [("written", &counts.written), ("dropped", &counts.dropped), ("failed", &counts.failed)];
        for (fate, count) in fates {
            page.line("vesperd_call_records_total", &[("fate", fate)], count.load(Ordering::Relaxed));
        }
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
        page.help("vesperd_connections_refused_total", "counter", "Accepted connections closed at once, by reason.");
        let worker = &total.worker;
        let refused = [
            ("full", tcp.refused_full),
            ("prefix", tcp.refused_prefix),
            ("source", worker.refused_sources),
            ("handshake_rate", worker.excess_handshakes),
            ("handshake_queue", worker.queued_out_handshakes),
        ];
        for (reason, count) in refused {
            page.line("vesperd_connections_refused_total", &[("reason", reason)], count);
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

    /// What the trust store in force holds.
    fn trust(&self, page: &mut Page) {
        let Some(snapshot) = self.snapshot() else { return };
        let trust = &snapshot.trust;
        page.single("vesperd_trust_anchors", "gauge", "Trust anchors in force.", trust.anchors.len());
        page.single("vesperd_trust_logs", "gauge", "Transparency logs in force.", trust.logs.len());
        let name = "vesperd_crl_next_update_timestamp_seconds";
        page.help(name, "gauge", "Until when each CRL at hand speaks.");
        for (url, crl) in trust.revocations.iter() {
            page.line(name, &[("url", url)], crl.window()[1]);
        }
    }

    fn configuration(&self, page: &mut Page) {
        if let Some(state) = self.clock.get().and_then(|clock| clock.state()) {
            let help = "How far others are ahead of the machine's clock, by their median.";
            page.single("vesperd_clock_offset_seconds", "gauge", help, state.offset);
            let wrong = u8::from(state.is_wrong);
            page.single("vesperd_clock_wrong", "gauge", "1 while that is more than allowed.", wrong);
        }
        let [taken, refused] = &self.reloads;
        page.help("vesperd_reloads_total", "counter", "Reloads of the configuration.");
        page.line("vesperd_reloads_total", &[("result", "taken")], taken.load(Ordering::Relaxed));
        page.line("vesperd_reloads_total", &[("result", "refused")], refused.load(Ordering::Relaxed));
        let loaded = self.loaded_at.load(Ordering::Relaxed);
        page.single("vesperd_configuration_loaded_timestamp_seconds", "gauge", "When it came into force.", loaded);
        let help = "Seconds until a signer signs no more; negative once it does not.";
        page.help("vesperd_signer_not_after_seconds", "gauge", help);
        for life in self.lives() {
            let left = life.not_after.saturating_sub(clock::unix());
            page.line("vesperd_signer_not_after_seconds", &[("signer", &life.signer)], left);
        }
        page.help(
            "vesperd_signer_certificate_expiry_timestamp_seconds",
            "gauge",
            "End of validity of each signer's leaf.",
        );
        for (signer, not_after) in self.certificates.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            page.line("vesperd_signer_certificate_expiry_timestamp_seconds", &[("signer", signer)], not_after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_and_labels_escaped() {
        let published = Published::new(2, TrunkNames::default());
        for worker in 0..2 {
            let mut summary = Summary { live: 3, ..Summary::default() };
            summary.proxy.requests = 5;
            published.publish(worker, Report { summary, ..Report::default() });
        }
        published.set_loaded(1_795_219_200, vec![("a\"b\\".to_owned(), 1_800_000_000)]);
        let page = published.prometheus();
        assert!(
            page.contains("\nvesperd_transactions 6\n") && page.contains("\nvesperd_transactions_begun_total 10\n"),
            "{page}"
        );
        assert!(page.contains("{signer=\"a\\\"b\\\\\"} 1800000000\n"), "{page}");
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()), "{line}");
        }
    }
}
