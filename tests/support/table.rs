//! A proxy made of the text of a configuration, on a clock of its own: what requests meet with.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use vesperd::config::Config;
use vesperd::proxy::{Now, Output, Proxy, Snapshot};
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::TrustStore;
use vesperd::stir::replay::ReplayTable;

pub const PBX: &str = "192.0.2.10:5060";
pub const PBX2: &str = "192.0.2.11:5060";
pub const A: &str = "198.51.100.1:5060";
pub const B: &str = "198.51.100.2:5060";
pub const B2: &str = "198.51.100.3:5060";
/// Tuesday, 2026-11-24 12:00 UTC.
pub const NOON: i64 = 1_795_521_600;

/// Two PBXs (the second one trusted) and two carriers.
pub const NETWORK: &str = r#"
[[listener]]
name = "udp"
transport = "udp"
bind = "192.0.2.1:5060"
[[listener]]
name = "tcp"
transport = "tcp"
bind = "192.0.2.1:5060"
[[trunk]]
name = "pbx-1"
next_hop = "udp:192.0.2.10:5060"
#pbx-1
[[trunk]]
name = "pbx-2"
next_hop = "udp:192.0.2.11:5060"
trusted = true
[[trunk]]
name = "a"
next_hop = "udp:198.51.100.1:5060"
#a
[[trunk]]
name = "b"
next_hop = ["udp:198.51.100.2:5060", "udp:198.51.100.3:5060"]
#b
"#;

/// A proxy made of a configuration file.
pub struct Rig {
    pub proxy: Proxy,
    pub now: Now,
    pub calls: u32,
    pub files: TempDir,
}

/// Reads a file that has no mistakes.
pub fn parse(text: &str, path: &Path) -> Config {
    Config::parse(text, &path.join("edge.toml"), NOON).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

impl Rig {
    pub fn new(routes: &str) -> Self {
        Self::with(NETWORK, routes, &[])
    }

    /// The network with lines put in place of `#name`.
    pub fn between(lines: &[(&str, &str)], routes: &str) -> Self {
        let network = lines
            .iter()
            .fold(NETWORK.to_owned(), |text, (at, lines)| text.replace(&format!("#{at}\n"), &format!("{lines}\n")));
        Self::with(&network, routes, &[])
    }

    pub fn with(network: &str, routes: &str, files: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(directory.path().join(name), text).unwrap());
        let config = parse(&format!("{network}{routes}"), directory.path()).proxy;
        Rig { files: directory, ..Self::of(config) }
    }

    /// Of a configuration that is read already.
    pub fn of(config: vesperd::proxy::Config) -> Self {
        let now = Now { instant: super::epoch(), unix: NOON };
        let snapshot = Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() };
        Rig { proxy: Proxy::new(Arc::new(snapshot), [7; 32], now), now, calls: 0, files: TempDir::new().unwrap() }
    }

    pub fn receive(&mut self, from: &str, text: &str) -> Vec<(SocketAddr, String)> {
        let text = text.replace('\n', "\r\n");
        let source = Hop {
            transport: Transport::Udp,
            local: ListenerId(0),
            remote: from.parse().unwrap(),
            connection: None,
            peer: None,
        };
        let mut index = Index::new();
        let message = sip::parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        self.take(source, message)
    }

    /// Takes a message; what is sent then, but for 100.
    pub fn take(&mut self, source: Hop, message: sip::Message<'_>) -> Vec<(SocketAddr, String)> {
        let mut out = Output::default();
        self.proxy.handle_message(self.now, source, message, &mut out);
        let text = |t| String::from_utf8(out.outbox.bytes_of(t).to_vec()).unwrap();
        out.outbox
            .items()
            .iter()
            .map(|t| (t.hop.remote, text(t)))
            .filter(|(_, t)| !t.starts_with("SIP/2.0 100"))
            .collect()
    }

    /// What a new request meets with: `ADDRESS REQUEST-URI`, or the status line of the answer.
    pub fn send(&mut self, from: &str, method: &str, uri: &str, lines: &str) -> String {
        self.calls += 1;
        let n = self.calls;
        let from_uri = if lines.contains("From:") { "" } else { "From: <sip:+12015550100@pbx.example>;tag=a1\n" };
        let text = format!(
            "{method} {uri} SIP/2.0\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{n};rport\nMax-Forwards: 70\n{from_uri}{lines}To: <sip:+4930@b.example>\n\
             Call-ID: c{n}\nCSeq: 1 {method}\nContent-Length: 0\n\n"
        );
        let out = self.receive(from, &text);
        let [(to, text)] = &out[..] else { panic!("{out:#?}") };
        let line = text.lines().next().unwrap();
        match line.strip_prefix("SIP/2.0 ") {
            Some(status) => status.to_owned(),
            None => format!("{to} {}", line.split(' ').nth(1).unwrap()),
        }
    }

    pub fn call(&mut self, uri: &str) -> String {
        self.send(PBX, "INVITE", uri, "")
    }
}

/// An answer to a request that the proxy sent.
pub fn answer(request: &str, status: &str, lines: &str) -> String {
    let copy =
        |name: &str| request.lines().filter(|l| l.starts_with(name)).map(|l| format!("{l}\n")).collect::<String>();
    let to = copy("To:");
    let to = if to.contains("tag=") { to } else { format!("{};tag=b\n", to.trim_end()) };
    format!(
        "SIP/2.0 {status}\n{}{}{}{to}{}{}{lines}Content-Length: 0\n\n",
        copy("Via:"),
        copy("Record-Route:"),
        copy("From:"),
        copy("Call-ID:"),
        copy("CSeq:")
    )
}

/// The requests of a method among what was sent.
pub fn requests(out: &[(SocketAddr, String)], method: &str) -> Vec<(String, String)> {
    let start = format!("{method} ");
    out.iter().filter(|(_, t)| t.starts_with(&start)).map(|(to, t)| (to.to_string(), t.clone())).collect()
}
