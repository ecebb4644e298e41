//! What `[stir]` says of lists that are kept up to date, and `[stir.fetch]`.

use std::time::Duration;

use super::files::Files;
use super::identity::Identity;
use super::mistake::{Fault, Warning};
use super::reader::{At, Section};
use crate::cert::{AnchorList, ListKey};
use crate::node::fetch::{self, AnchorSource, KeeperConfig, ListSource, Place};

const SECURE: &str = "https://";

/// The list of logs, the list of authorities, CRLs.
pub(super) fn read(section: &Section<'_, '_>, files: &Files<'_>, identity: &mut Identity, warnings: &mut Vec<Warning>) {
    let key = section.string("log_list_key").and_then(|at| read_key(section, "log_list_key", at, files));
    if let Some(At { value, offset }) = section.string("log_list") {
        if value.starts_with(SECURE) {
            identity.fetch.keeper.logs = Some(ListSource { place: Place::Url(value.to_owned()), key });
        } else {
            match files.read_logs(&files.path(value), key.as_ref()) {
                Ok(logs) => identity.trust.logs = logs,
                Err(fault) => section.wrong(offset, "log_list", fault),
            }
        }
    }
    if let Some(list) = section.section("anchor_list") {
        identity.fetch.keeper.anchors = read_anchor_list(list, files);
    }
    let keeper = &mut identity.fetch.keeper;
    if let Some(hours) = section.number("list_refresh_minutes", (1, 10_080)) {
        keeper.list_interval = Duration::from_secs(hours * 60);
    }
    if let Some(crl) = section.section("crl") {
        read_crl(crl, files, keeper, warnings);
    }
}

fn read_anchor_list(section: Section<'_, '_>, files: &Files<'_>) -> Option<AnchorSource> {
    let expected = "the list as a file, or the https URL where it is published";
    let place = section.required("location", expected);
    let key = section.required("key", "a PEM file with the public key or certificate that signs the list");
    let grace = section.number("grace_hours", (0, 24 * 365)).unwrap_or(72);
    let key = key.and_then(|at| read_key(&section, "key", at, files));
    let source = place.zip(key).and_then(|(At { value, offset }, key)| {
        if value.starts_with(SECURE) {
            return Some((Place::Url(value.to_owned()), key));
        }
        let path = files.path(value);
        let read = files.read(&path).and_then(|token| {
            AnchorList::read(&token, &key, None).map_err(|error| Fault::SignedList { path: path.clone(), error })
        });
        match read {
            Ok(_) => Some((Place::File(path), key)),
            Err(fault) => {
                section.wrong(offset, "location", fault);
                None
            }
        }
    });
    section.finish();
    source.map(|(place, key)| AnchorSource { place, key, grace: Duration::from_secs(grace * 3600) })
}

fn read_key(section: &Section<'_, '_>, name: &'static str, at: At<&str>, files: &Files<'_>) -> Option<ListKey> {
    let path = files.path(at.value);
    let read = files.read(&path);
    let key = read.and_then(|pem| ListKey::from_pem(&pem).map_err(|error| Fault::SignedList { path, error }));
    key.map_err(|fault| section.wrong(at.offset, name, fault)).ok()
}

fn read_crl(section: Section<'_, '_>, files: &Files<'_>, keeper: &mut KeeperConfig, warnings: &mut Vec<Warning>) {
    let urls =
        section.read_list("urls", "https URLs of CRLs", |text| text.starts_with(SECURE).then(|| text.to_owned()));
    keeper.crl_urls = urls.into_iter().map(|at| at.value).collect();
    for At { value: path, offset } in section.read_list("issuers", "PEM files", |text| Some(files.path(text))) {
        match files.read_certificates(&path, warnings) {
            Ok(ders) => keeper.crl_issuers.extend(ders),
            Err(fault) => section.wrong(offset, "issuers", fault),
        }
    }
    if let Some(minutes) = section.number("refresh_minutes", (1, 10_080)) {
        keeper.crl_interval = Duration::from_secs(minutes * 60);
    }
    section.size("max_bytes", (1024, 1 << 30), &mut keeper.max_crl);
    section.size("max_entries", (1, 100_000_000), &mut keeper.max_crl_entries);
    section.size("max_crls", (1, 10_000), &mut keeper.max_lists);
    section.finish();
}

/// `[stir.fetch]`. `budget` is how long a call waits for a certificate.
pub(super) fn read_fetch(
    section: Section<'_, '_>,
    files: &Files<'_>,
    fetch: &mut fetch::Config,
    budget: &mut Duration,
    warnings: &mut Vec<Warning>,
) {
    fetch.allow_any_port = section.bool("allow_any_port", false);
    fetch.allow_private_addresses = section.bool("allow_private_addresses", false);
    if fetch.allow_private_addresses {
        warnings.push(Warning::PrivateFetch);
    }
    if let Some(At { value, offset }) = section.string("ca_file") {
        let path = files.path(value);
        match files.read_certificates(&path, warnings) {
            Ok(_) => fetch.ca_file = Some(path),
            Err(fault) => section.wrong(offset, "ca_file", fault),
        }
    }
    let time = |key, range, unit: fn(u64) -> Duration, setting: &mut Duration| {
        *setting = section.number(key, range).map_or(*setting, unit);
    };
    time("connect_timeout_ms", (10, 30_000), Duration::from_millis, &mut fetch.connect_timeout);
    time("total_timeout_ms", (10, 30_000), Duration::from_millis, &mut fetch.total_timeout);
    time("call_budget_ms", (10, 30_000), Duration::from_millis, budget);
    let day = (1, 7 * 86_400);
    time("min_ttl_seconds", day, Duration::from_secs, &mut fetch.min_ttl);
    time("max_ttl_seconds", day, Duration::from_secs, &mut fetch.max_ttl);
    time("negative_ttl_seconds", day, Duration::from_secs, &mut fetch.negative_ttl);
    time("stale_seconds", (0, 7 * 86_400), Duration::from_secs, &mut fetch.stale);
    time("save_seconds", (1, 86_400), Duration::from_secs, &mut fetch.save_interval);
    time("breaker_open_seconds", (1, 3600), Duration::from_secs, &mut fetch.breaker.open);
    time("breaker_max_open_seconds", (1, 86_400), Duration::from_secs, &mut fetch.breaker.max_open);
    if let Some(failures) = section.number("breaker_failures", (1, 1000)) {
        fetch.breaker.failures = u32::try_from(failures).unwrap_or(u32::MAX);
    }
    if let Some(percent) = section.number("prefetch_percent", (10, 99)) {
        fetch.prefetch_percent = u8::try_from(percent).unwrap_or(80);
    }
    section.size("max_body_bytes", (1024, 1 << 20), &mut fetch.max_body);
    section.size("max_certificates", (1, 16), &mut fetch.max_certificates);
    section.size("max_in_flight", (1, 4096), &mut fetch.max_in_flight);
    section.size("max_in_flight_per_host", (1, 4096), &mut fetch.max_in_flight_per_host);
    section.size("max_waiting_per_host", (1, 65_536), &mut fetch.max_waiting_per_host);
    section.size("max_hosts", (1, 1_000_000), &mut fetch.max_hosts);
    section.size("queue", (1, 65_536), &mut fetch.queue);
    if let Some(bytes) = section.number("cache_bytes", (1024, 1 << 32)) {
        fetch.cache_bytes = bytes;
    }
    section.finish();
}
