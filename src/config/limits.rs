//! `[node]`, `[timers]`, `[limits]`.

use std::sync::Arc;
use std::time::Duration;

use super::Node;
use super::files::Files;
use super::mistake::{Fault, Warning};
use super::reader::{At, Section};
use crate::cert::sct::sha256;
use crate::proxy;
use crate::proxy::clock_watch::ClockWatch;
use crate::sip;
use crate::transport::{tcp, udp};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Bytes a setting may ask for.
const MEMORY: (u64, u64) = (1024, 1 << 30);
const ENTRIES: (u64, u64) = (1, 10_000_000);

pub(super) fn read(root: &Section<'_, '_>, files: &Files<'_>, warnings: &mut Vec<Warning>) -> (Node, proxy::Config) {
    let mut proxy = proxy::Config::default();
    let mut node = Node {
        workers: 0,
        log: LogFormat::Text,
        log_level: "info".to_owned(),
        lane_capacity: 128,
        udp: udp::Config::default(),
        tcp: tcp::Config::default(),
        http: None,
        drain_timeout: Duration::from_secs(60),
    };
    if let Some(section) = root.section("node") {
        proxy.observe = section.bool("log_verified_calls", false);
        read_route_key(&section, files, &mut proxy);
        read_node(section, &mut node, &mut proxy);
    }
    if let Some(section) = root.section("timers") {
        read_timers(section, &mut proxy, warnings);
    }
    if let Some(section) = root.section("limits") {
        read_limits(section, &mut proxy, &mut node);
    }
    (node, proxy)
}

fn read_node(section: Section<'_, '_>, node: &mut Node, proxy: &mut proxy::Config) {
    section.size("workers", (0, 1024), &mut node.workers);
    section.size("lane_capacity", (1, 65_536), &mut node.lane_capacity);
    section.size("udp_buffer_bytes", MEMORY, &mut node.udp.buffer);
    section.size("udp_backlog_bytes", MEMORY, &mut node.udp.backlog);
    node.udp.answers_stun = section.choice("stun", &[("drop", false), ("answer", true)]).unwrap_or_default();
    if let Some(format) = section.choice("log", &[("text", LogFormat::Text), ("json", LogFormat::Json)]) {
        node.log = format;
    }
    if let Some(number) = section.number("drain_timeout_seconds", (0, 86_400)) {
        node.drain_timeout = Duration::from_secs(number);
    }
    let seconds = section.number("clock_drift_seconds", (0, 86_400)).unwrap_or(10);
    let witnesses = section.number("clock_witnesses", (1, 64)).unwrap_or(3);
    proxy.clock = Arc::new(ClockWatch::new(seconds, witnesses as usize));
    let address = "\"ip:port\", such as \"127.0.0.1:9060\"";
    node.http = section.read("http", address, |text| text.parse().ok()).map(|at| at.value);
    let expected =
        "a level (\"error\", \"warn\", \"info\", \"debug\", \"trace\") or directives (\"info,vesperd::node=debug\")";
    if let Some(level) = section.read("log_level", expected, |text| {
        tracing_subscriber::EnvFilter::builder().parse(text).ok().map(|_| text.to_owned())
    }) {
        node.log_level = level.value;
    }
    section.finish();
}

/// What signs the marks in our Record-Route (RR-2).
fn read_route_key(section: &Section<'_, '_>, files: &Files<'_>, proxy: &mut proxy::Config) {
    proxy.requires_marks = section.bool("require_route_mac", false);
    let Some(At { value, offset }) = section.string("route_key") else {
        if proxy.requires_marks {
            let reason = "calls would not outlive a restart, as the key would be a new one";
            let remedy = "add route_key = \"FILE\" with 16 or more random octets";
            section.wrong(
                section.offset_of("require_route_mac"),
                "require_route_mac",
                Fault::Conflict { reason, remedy },
            );
        }
        return;
    };
    let path = files.path(value);
    match files.read(&path) {
        Ok(secret) if secret.trim_ascii().len() >= 16 => {
            let hash = sha256(secret.trim_ascii());
            proxy.keys.trunks = Some(std::array::from_fn(|i| hash.get(i).copied().unwrap_or_default()));
        }
        Ok(_) => section.wrong(offset, "route_key", Fault::Content { path, expected: "16 or more random octets" }),
        Err(fault) => section.wrong(offset, "route_key", fault),
    }
}

fn read_timers(section: Section<'_, '_>, proxy: &mut proxy::Config, warnings: &mut Vec<Warning>) {
    let millis = |key, range, setting: &mut Duration| {
        if let Some(number) = section.number(key, range) {
            *setting = Duration::from_millis(number);
        }
    };
    let timers = &mut proxy.transaction;
    millis("t1_ms", (10, 10_000), &mut timers.t1);
    millis("t2_ms", (10, 60_000), &mut timers.t2);
    millis("t4_ms", (10, 60_000), &mut timers.t4);
    millis("timer_d_ms", (0, 600_000), &mut timers.timer_d);
    millis("need_timeout_ms", (10, 30_000), &mut proxy.need_timeout);
    if let Some(number) = section.number("timer_c_seconds", (1, 3600)) {
        proxy.timer_c = Duration::from_secs(number);
    }
    if let Some(number) = section.number("min_session_seconds", (1, 86_400)) {
        proxy.min_session = Duration::from_secs(number);
    }
    if let Some(number) = section.number("failover_budget_seconds", (1, 600)) {
        proxy.failover_budget = Duration::from_secs(number);
    }
    // R-2, 16.6 item 11: a call may ring for three minutes. 17.1.1.2: a peer repeats its answer for 32 seconds.
    if proxy.timer_c <= Duration::from_secs(180) {
        warnings.push(Warning::ShortTimer { key: "timer_c_seconds", standard: "more than 180" });
    }
    if proxy.transaction.timer_d < Duration::from_secs(32) {
        warnings.push(Warning::ShortTimer { key: "timer_d_ms", standard: "32000 or more" });
    }
    section.finish();
}

fn read_limits(section: Section<'_, '_>, proxy: &mut proxy::Config, node: &mut Node) {
    let size = |key, range, setting: &mut usize| section.size(key, range, setting);
    size("max_server_transactions", ENTRIES, &mut proxy.transaction.max_server);
    size("max_client_transactions", ENTRIES, &mut proxy.transaction.max_client);
    size("max_parked_calls", ENTRIES, &mut proxy.max_parked);
    size("max_calls", ENTRIES, &mut proxy.max_calls);
    size("udp_mtu", (500, 65_507), &mut proxy.udp_mtu);
    if let Some(number) = section.number("max_breadth", (1, 1000)) {
        proxy.max_breadth = number as u16;
    }
    let unmatched = section.choice("unmatched_cancel", &[("reject", false), ("forward", true)]);
    proxy.forward_unmatched_cancel = unmatched.unwrap_or_default();

    let tcp = &mut node.tcp;
    size("max_connections", ENTRIES, &mut tcp.max_connections);
    size("max_connections_per_prefix", ENTRIES, &mut tcp.max_per_prefix);
    if let Some(number) = section.number("accepts_per_second", (1, 1_000_000)) {
        tcp.accepts_per_second = number as u32;
    }
    size("write_queue_bytes", MEMORY, &mut tcp.write_queue_bytes);
    size("write_queue_messages", (1, 65_536), &mut tcp.write_queue_messages);
    size("awaited_requests", (0, 65_536), &mut tcp.awaited_requests);
    if let Some(number) = section.number("connect_timeout_ms", (10, 60_000)) {
        tcp.connect_timeout = Duration::from_millis(number);
    }
    if let Some(number) = section.number("idle_timeout_seconds", (1, 86_400)) {
        tcp.idle_timeout = Duration::from_secs(number);
    }
    read_parser_limits(&section, &mut proxy.parser);
    section.finish();
}

fn read_parser_limits(section: &Section<'_, '_>, parser: &mut sip::Limits) {
    let message = (1024, 1 << 20);
    section.size("message_bytes", message, &mut parser.message);
    section.size("head_bytes", message, &mut parser.head);
    section.size("value_bytes", message, &mut parser.value);
    section.size("identity_value_bytes", message, &mut parser.identity_value);
    section.size("uri_bytes", (64, 65_536), &mut parser.uri);
    section.size("user_bytes", (16, 65_536), &mut parser.user);
    section.size("folds", (0, 10_000), &mut parser.folds);
    section.size("fields", (16, 10_000), &mut parser.fields);
    section.size("vias", (1, 255), &mut parser.vias);
    section.size("routes", (1, 255), &mut parser.routes);
    if let Some(number) = section.number("message_timeout_ms", (100, 600_000)) {
        parser.message_millis = number;
    }
}
