//! A real Kamailio from the distribution, as a neighbour of the proxy.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::case::{self, Secsipid, Transport, root};
use super::place::Place;
use super::process::{Process, poll};
use super::sipp::is_bound;

pub struct Kamailio {
    name: String,
    process: Process,
    log: PathBuf,
}

impl Kamailio {
    /// Starts it; all its ports are bound when this returns.
    pub fn start(spec: &case::Kamailio, place: &Place, directory: &Path) -> Self {
        let home = directory.join(&spec.name);
        fs::create_dir(&home).unwrap();
        let log = home.join("log");
        let output = File::create(&log).unwrap();
        let listen: Vec<String> = spec.listen.iter().map(|address| place.fill(address)).collect();
        let mut command = Command::new("kamailio");
        command.arg("-f").arg(root().join("peers/kamailio.cfg")).args(["-DD", "-E", "-m", "64", "-n", "1", "-N", "1"]);
        command.arg("-w").arg(&home).arg("-Y").arg(&home).arg("-P").arg(home.join("pid"));
        command.arg("-A").arg(format!("NEXT_HOP=\"{}\"", place.fill(&spec.next_hop)));
        let source = listen.iter().filter_map(|address| address.split(':').nth(1)).next().expect("an address");
        command.arg("-A").arg(format!("SOURCE={source}"));
        for address in &listen {
            command.args(["-l", address]);
        }
        if listen.iter().any(|address| address.starts_with("tls:")) {
            command.args(["-A", "WITH_TLS"]);
            let (chain, key) = (format!("{}_chain", spec.name), format!("{}_key", spec.name));
            for (name, word) in [("TLS_KEY", &key), ("TLS_CERT", &chain), ("TLS_CA", &"tls_ca".to_owned())] {
                command.arg("-A").arg(format!("{name}=\"{}\"", place.get(word)));
            }
        }
        if let Some(duty) = spec.stir {
            let file = |path: &str| format!("\"{}\"", directory.join(path).display());
            let switch = if duty == Secsipid::Sign { "WITH_SIGN" } else { "WITH_VERIFY" };
            command.args(["-A", "WITH_STIR", "-A", switch]);
            command.arg("-A").arg(format!("SIGN_KEY={}", file("lab/provider/shaken.key")));
            command.arg("-A").arg(format!("X5U=\"{}\"", place.get("served_x5u")));
            command.arg("-A").arg(format!("STI_ROOT=\"CertCAFile={}\"", directory.join("lab/sti/root.pem").display()));
            command.env("SSL_CERT_FILE", directory.join("web-ca.pem")); // whom its HTTPS client trusts
        }
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let process = Process::start(&spec.name, &mut command).unwrap_or_else(|e| match e.kind() {
            ErrorKind::NotFound => panic!("kamailio is missing: install the Debian package kamailio"),
            _ => panic!("kamailio: {e}"),
        });
        let mut kamailio = Self { name: spec.name.clone(), process, log };
        let deadline = Instant::now() + Duration::from_secs(20);
        let is_up = poll(deadline, || kamailio.process.has_ended() || listen.iter().all(|a| is_listening(a)));
        assert!(is_up && !kamailio.process.has_ended(), "{} does not listen\n{}", kamailio.name, kamailio.log());
        kamailio
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it. Finding, if it ended by itself or complained.
    pub fn stop(mut self, deadline: Instant) -> Option<String> {
        let ended_early = self.process.has_ended();
        self.process.signal("TERM");
        let ended = self.process.wait(deadline);
        let log = self.log();
        let complaints: Vec<_> = log.lines().filter(|line| line.contains("ERROR:")).collect();
        (ended_early || ended.is_err() || !complaints.is_empty()).then(|| format!("{}: {log}", self.name))
    }
}

/// Whether `transport:address:port` is bound.
fn is_listening(listen: &str) -> bool {
    let (transport, address) = listen.split_once(':').expect("transport:address:port");
    let address: std::net::SocketAddr = address.parse().expect("address:port");
    let transport = if transport == "udp" { Transport::Udp } else { Transport::Tcp };
    is_bound(transport, address.ip(), address.port())
}
