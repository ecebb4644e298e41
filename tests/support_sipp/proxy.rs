//! The proxy under test: its configuration, its start, its orderly end.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use toml::{Table, Value};

use super::case::root;
use super::place::{Place, random};
use super::process::Process;

/// The longest that a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Proxy {
    process: Process,
    log: PathBuf,
}

impl Proxy {
    /// Starts `vesperd run` and waits until it answers an OPTIONS.
    pub fn start(overlay: &Table, place: &Place, directory: &Path) -> Self {
        let config = directory.join("proxy.toml");
        fs::write(&config, configuration(overlay, place)).unwrap();
        let log = directory.join("proxy.log");
        let output = File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vesperd"));
        command.arg("run").arg("--config").arg(&config).current_dir(directory).stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let mut proxy = Proxy { process: Process::start("vesperd", &mut command).expect("vesperd starts"), log };
        proxy.wait_until_ready(place);
        proxy
    }

    fn wait_until_ready(&mut self, place: &Place) {
        let socket = UdpSocket::bind((place.caller, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket.connect((place.proxy, place.port("a"))).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let mut answer = [0; 2048];
        while Instant::now() < deadline && !self.process.has_ended() {
            // A port that nobody has bound yet refuses; that and silence mean: ask again.
            let _ = socket.send(options(place, socket.local_addr().unwrap().port()).as_bytes());
            let asked = Instant::now();
            match socket.recv(&mut answer) {
                Ok(n) if answer[..n].starts_with(b"SIP/2.0 200") => return,
                Ok(n) => panic!("the proxy answered {}", String::from_utf8_lossy(&answer[..n])),
                Err(_) => std::thread::park_timeout(Duration::from_millis(20).saturating_sub(asked.elapsed())),
            }
        }
        panic!("the proxy does not answer; its log:\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Stops it by SIGTERM. Its log, and findings: how it ended, what its log complains of.
    pub fn stop(mut self) -> (String, Vec<String>) {
        let mut findings = Vec::new();
        if self.process.has_ended() {
            findings.push("the proxy ended by itself".to_owned());
        }
        self.process.signal("TERM");
        match self.process.wait(Instant::now() + PATIENCE) {
            Ok(status) if status.success() => {}
            Ok(status) => findings.push(format!("the proxy ended with {status}")),
            Err(why) => findings.push(why),
        }
        let log = self.log();
        let is_bad =
            |line: &&str| line.contains("ERROR") || line.contains("\"level\":\"error\"") || line.contains("panick");
        findings.extend(log.lines().filter(is_bad).map(|line| format!("in the log of the proxy: {line}")));
        (log.clone(), findings)
    }
}

fn options(place: &Place, port: u16) -> String {
    let (proxy, a, caller, id) = (place.proxy, place.get("a"), place.caller, random());
    format!(
        "OPTIONS sip:{proxy}:{a} SIP/2.0\r\nVia: SIP/2.0/UDP {caller}:{port};branch=z9hG4bK{id:x};rport\r\n\
         Max-Forwards: 0\r\nFrom: <sip:ready@{caller}>;tag={id:x}\r\nTo: <sip:{proxy}:{a}>\r\n\
         Call-ID: ready-{id:x}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

/// `sipp-scenarios/proxy.toml` with the overlay of the case: tables are merged, tables of a list by their `name`; those without one (routes) come first.
fn configuration(overlay: &Table, place: &Place) -> String {
    let path = root().join("proxy.toml");
    let base = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut table: Table = toml::from_str(&place.fill(&base)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let overlay: Table = toml::from_str(&place.fill(&overlay.to_string())).expect("it was TOML before");
    merge(&mut table, overlay);
    table.to_string()
}

fn merge(base: &mut Table, overlay: Table) {
    for (key, value) in overlay {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (Some(Value::Array(old)), Value::Array(new)) if new.iter().all(Value::is_table) => merge_named(old, new),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

fn merge_named(base: &mut Vec<Value>, overlay: Vec<Value>) {
    let mut nameless = Vec::new();
    for value in overlay {
        let Some(name) = value.get("name").cloned() else {
            nameless.push(value);
            continue;
        };
        match base.iter_mut().find(|old| old.get("name") == Some(&name)) {
            Some(Value::Table(old)) => merge(old, value.as_table().cloned().unwrap_or_default()),
            _ => base.push(value),
        }
    }
    base.splice(0..0, nameless);
}
