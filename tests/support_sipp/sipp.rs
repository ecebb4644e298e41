//! SIPp processes.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::case::{Side, Sipp, Transport, root};
use super::message::{Seen, read_sipp_trace};
use super::place::{Place, control_port, free_port};
use super::process::{Process, poll};

pub struct Running<'a> {
    pub spec: &'a Sipp,
    process: Process,
    files: PathBuf,
}

impl<'a> Running<'a> {
    /// Starts a SIPp; a callee is listening when this returns. `proxy` is where a caller sends to that names nobody else, `limit` bounds its life.
    pub fn start(
        spec: &'a Sipp,
        transport: Transport,
        proxy: (IpAddr, u16),
        place: &Place,
        directory: &Path,
        limit: Duration,
    ) -> Self {
        let (ip, port) = match (spec.side, spec.ipv6) {
            (Side::Caller, true) => (IpAddr::from(Ipv6Addr::LOCALHOST), place.port("caller6_port")),
            (Side::Callee, true) => (IpAddr::from(Ipv6Addr::LOCALHOST), place.port("callee6_port")),
            (Side::Caller, false) => (place.caller, if spec.port == 0 { free_port(place.caller) } else { spec.port }),
            (Side::Callee, false) => (place.callee, place.port("callee_port")),
        };
        let transport = spec.transport.unwrap_or(transport);
        let files = directory.join(&spec.name);
        let mut command = Command::new("sipp");
        command.current_dir(directory).stdin(Stdio::null());
        let screen = File::create(files.with_extension("out")).unwrap();
        command.stdout(screen.try_clone().unwrap()).stderr(screen);
        command.arg("-sf").arg(root().join(&spec.scenario));
        command.args(["-i", &ip.to_string(), "-p", &port.to_string(), "-cp", &control_port().to_string()]);
        command.args(["-t", if transport == Transport::Udp { "u1" } else { "t1" }, "-nostdin"]);
        command.arg("-trace_msg").arg("-message_file").arg(files.with_extension("messages"));
        command.arg("-trace_err").arg("-error_file").arg(files.with_extension("errors"));
        command.args(["-timeout", &limit.as_secs().to_string(), "-timeout_error"]);
        if spec.side == Side::Caller {
            command.args(["-m", &spec.calls.to_string(), "-s", place.get("number")]);
            let target = spec.target.as_ref().map(|target| place.fill(target));
            command.arg(target.unwrap_or_else(|| format!("{}:{}", proxy.0, proxy.1)));
        }
        command.args(spec.arguments.iter().map(|argument| place.fill(argument)));
        let process = Process::start(&format!("sipp {}", spec.name), &mut command).unwrap_or_else(|e| match e.kind() {
            ErrorKind::NotFound => {
                panic!("sipp is missing: install it with `apt-get install sip-tester` (Debian package sip-tester)")
            }
            _ => panic!("sipp: {e}"),
        });
        let mut running = Running { spec, process, files };
        if spec.side == Side::Callee {
            let deadline = Instant::now() + Duration::from_secs(10);
            let is_up = poll(deadline, || running.process.has_ended() || is_bound(transport, ip, port));
            assert!(is_up && !running.process.has_ended(), "{} does not listen\n{}", spec.name, running.report());
        }
        running
    }

    /// Tells a callee to end with its last call.
    pub fn finish(&mut self) {
        self.process.signal("USR1");
    }

    /// Finding, if it does not end well by `deadline`.
    pub fn wait(&mut self, deadline: Instant) -> Option<String> {
        match self.process.wait(deadline) {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("sipp {} ended with {status}\n{}", self.spec.name, self.report())),
            Err(why) => Some(why),
        }
    }

    pub fn trace(&self) -> Vec<Seen> {
        fs::read(self.files.with_extension("messages")).map(|file| read_sipp_trace(&file)).unwrap_or_default()
    }

    /// What it complained of.
    fn report(&self) -> String {
        let read = |extension| fs::read(self.files.with_extension(extension)).unwrap_or_default();
        let errors = String::from_utf8_lossy(&read("errors")).into_owned();
        if errors.is_empty() { String::from_utf8_lossy(&read("out")).into_owned() } else { errors }
    }
}

/// Whether somebody has bound this port, as the kernel tells it.
pub fn is_bound(transport: Transport, ip: IpAddr, port: u16) -> bool {
    let word = |octets: &[u8]| format!("{:08X}", u32::from_ne_bytes(octets.try_into().unwrap()));
    let (address, six) = match ip {
        IpAddr::V4(v4) => (word(&v4.octets()), ""),
        IpAddr::V6(v6) => (v6.octets().chunks(4).map(word).collect::<String>(), "6"),
    };
    let entry = format!("{address}:{port:04X}");
    let table = format!("/proc/net/{}{six}", if transport == Transport::Udp { "udp" } else { "tcp" });
    let sockets = fs::read_to_string(table).unwrap_or_default();
    sockets.lines().any(|line| line.split_whitespace().nth(1) == Some(&entry))
}
