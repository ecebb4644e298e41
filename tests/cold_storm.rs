//! A cold-fetch storm over real sockets, open loop: calls whose certificates lie on many hosts, a third of them slow or dead, beside calls whose
//! certificates are known. Every call must be answered; how long the warm ones took is printed, with and without the storm. With
//! `VESPERD_LONG` there are 200 hosts and 20,000 warm calls in each half. What must hold in any case is tested in virtual time, in
//! `src/node/fetch/storm.rs`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vesperd::config::Config;
use vesperd::node::{Edge, Observer, clock};
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::pki::lab::{self, Lab, Options};
use vesperd::sip::{Framing, Index, Limits, parse};
use vesperd::stir::Profile;
use vesperd::stir::authentication::{Signer, SignerConfig};

/// How large it is.
struct Size {
    hosts: usize,
    warm: usize,
    warm_per_second: usize,
    cold_per_second: usize,
}

const SMALL: Size = Size { hosts: 12, warm: 300, warm_per_second: 300, cold_per_second: 60 };
const LARGE: Size = Size { hosts: 200, warm: 20_000, warm_per_second: 500, cold_per_second: 100 };

fn pem(ders: &[Vec<u8>]) -> String {
    let block =
        |der: &Vec<u8>| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    ders.iter().map(block).collect()
}

/// One HTTPS server for all hosts, which are addresses 127.0.1.n: every sixth holds its sockets. Its port; the CA is written to `ca`.
fn serve(hosts: usize, chain: String, ca: &Path) -> u16 {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    std::fs::write(ca, params.self_signed(&ca_key).unwrap().pem()).unwrap();
    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    leaf.subject_alt_names = (0..hosts).map(|host| SanType::IpAddress(IpAddr::V4(address(host)))).collect();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(params, ca_key)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let (port, is_bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
            port.send(listener.local_addr().unwrap().port()).unwrap();
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                let IpAddr::V4(local) = stream.local_addr().unwrap().ip() else { continue };
                if local.octets()[3] % 6 == 0 {
                    held.push(stream);
                    continue;
                }
                let (acceptor, chain) = (acceptor.clone(), chain.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut request = [0; 2048];
                    let _ = stream.read(&mut request).await;
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/pem-certificate-chain\r\nContent-Length: {}\r\n\
                         Cache-Control: max-age=3600\r\nConnection: close\r\n\r\n",
                        chain.len()
                    );
                    let _ = stream.write_all((head + &chain).as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
    });
    is_bound.recv().unwrap()
}

fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, host as u8)
}

fn field<'a>(message: &'a str, name: &str) -> &'a str {
    message.lines().find(|line| line.starts_with(name)).unwrap_or("")
}

/// Refuses every call: 486.
fn gateway(socket: UdpSocket) {
    let mut buffer = [0; 16_384];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if message.starts_with("INVITE") {
            let vias: Vec<&str> = message.lines().filter(|line| line.starts_with("Via:")).collect();
            let reply = format!(
                "SIP/2.0 486 Busy Here\r\n{}\r\n{}\r\n{};tag=gw\r\n{}\r\n{}\r\nContent-Length: 0\r\n\r\n",
                vias.join("\r\n"),
                field(&message, "From:"),
                field(&message, "To:"),
                field(&message, "Call-ID:"),
                field(&message, "CSeq:"),
            );
            let _ = socket.send_to(reply.as_bytes(), from);
        }
    }
}

/// When calls ended, and how: by Call-ID.
type Ended = Arc<Mutex<HashMap<String, (Instant, u16)>>>;

/// Hears final responses and acknowledges them.
fn hear(socket: UdpSocket, edge: SocketAddr, ended: Ended) {
    let mut buffer = [0; 16_384];
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        let now = clock::instant();
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let status: u16 = message.get(8..11).and_then(|status| status.parse().ok()).unwrap_or(0);
        if status < 200 {
            continue;
        }
        let id = field(&message, "Call-ID:").trim_start_matches("Call-ID:").trim().to_owned();
        ended.lock().unwrap().entry(id).or_insert((now, status));
        let ack = format!(
            "ACK sip:+12155551213@127.0.0.1 SIP/2.0\r\n{}\r\nMax-Forwards: 70\r\n{}\r\n{}\r\n{}\r\nCSeq: 1 ACK\r\n\
             Content-Length: 0\r\n\r\n",
            field(&message, "Via:"),
            field(&message, "From:"),
            field(&message, "To:"),
            field(&message, "Call-ID:"),
        );
        let _ = socket.send_to(ack.as_bytes(), edge);
    }
}

struct Caller {
    socket: UdpSocket,
    edge: SocketAddr,
    ended: Ended,
    begun: HashMap<String, Instant>,
    lab: Lab,
    signers: HashMap<String, Signer>,
}

impl Caller {
    fn signer(&mut self, x5u: &str) -> &Signer {
        let credential = &self.lab.provider;
        self.signers.entry(x5u.to_owned()).or_insert_with(|| {
            let (chain, key) = (credential.chain.clone(), credential.key.serialize_der());
            let mut config = SignerConfig::new(Profile::Shaken, chain, key, x5u.to_owned());
            config.attestation = Some(Attestation::Full);
            Signer::new(config).unwrap()
        })
    }

    fn call(&mut self, id: &str, x5u: &str) {
        let own = self.socket.local_addr().unwrap();
        let head = format!(
            "INVITE sip:+12155551213@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\n\
             From: <sip:+12015550100@127.0.0.1>;tag=1\r\nTo: <sip:+12155551213@127.0.0.1>\r\nCall-ID: {id}\r\n\
             CSeq: 1 INVITE\r\nContact: <sip:c@{own}>\r\n"
        );
        let text = format!("{head}Content-Length: 0\r\n\r\n");
        let mut lines = Vec::new();
        let mut index = Index::new();
        let message = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        let origid = Default::default();
        self.signer(x5u).sign(clock::unix(), message, origid, &mut lines).unwrap();
        let signed = format!("{head}{}Content-Length: 0\r\n\r\n", String::from_utf8(lines).unwrap());
        self.begun.insert(id.to_owned(), clock::instant());
        self.socket.send_to(signed.as_bytes(), self.edge).unwrap();
    }

    /// How a call ended, and after how long.
    fn outcome(&self, id: &str) -> (Duration, u16) {
        let patience = clock::instant() + Duration::from_secs(40);
        loop {
            if let Some((at, status)) = self.ended.lock().unwrap().get(id) {
                return (*at - self.begun[id], *status);
            }
            assert!(clock::instant() < patience, "{id} is not answered");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

/// Resident memory in KiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[test]
fn every_call_is_answered_while_certificates_are_fetched_in_vain() {
    let size = if std::env::var_os("VESPERD_LONG").is_some() { LARGE } else { SMALL };
    let directory = tempfile::tempdir().unwrap();
    let lab = lab::create(&directory.path().join("lab"), clock::unix(), &Options::default()).unwrap();
    let port = serve(size.hosts, pem(&lab.provider.chain), &directory.path().join("ca.pem"));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (caller, refuses) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let text = format!(
        "[node]\nworkers = 1\n[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"127.0.0.1:0\"\n\
         [[trunk]]\nname = \"in\"\nnext_hop = \"udp:{}\"\n[trunk.verify]\nprofile = \"shaken\"\nrequire_identity = true\n\
         [[trunk]]\nname = \"out\"\nnext_hop = \"udp:{}\"\n[[route]]\nfrom = \"in\"\nto = \"out\"\n\
         [stir]\nanchors = \"lab/sti/root.pem\"\n\
         [stir.fetch]\nallow_private_addresses = true\nallow_any_port = true\nca_file = \"ca.pem\"\n",
        caller.local_addr().unwrap(),
        refuses.local_addr().unwrap(),
    );
    let config = Config::parse(&text, &directory.path().join("edge.toml"), clock::unix());
    let edge = Edge::start(config.unwrap_or_else(|mistakes| panic!("{mistakes}")), &Observer::default()).unwrap();
    let at = edge.addresses()[0].2;
    std::thread::spawn(move || gateway(refuses));
    let ended = Ended::default();
    let (socket, heard) = (caller.try_clone().unwrap(), Arc::clone(&ended));
    std::thread::spawn(move || hear(socket, at, heard));
    let mut caller = Caller { socket: caller, edge: at, ended, begun: HashMap::new(), lab, signers: HashMap::new() };

    let url = |host: usize, path: &str| {
        let port = if host % 6 == 1 { closed } else { port };
        format!("https://{}:{port}/{path}.pem", address(host))
    };
    let warm: Vec<String> = (0..10).map(|n| url(2 + 6 * (n % (size.hosts / 6)), &format!("warm{n}"))).collect();
    for (n, x5u) in warm.iter().enumerate() {
        // The first one of each fetches, within its budget or for the next.
        (0..10).any(|again| {
            let id = format!("prepare-{n}-{again}");
            caller.call(&id, x5u);
            caller.outcome(&id).1 == 486
        });
    }
    let before = resident();
    let mut p99 = [Duration::ZERO; 2];
    for (storm, p99) in p99.iter_mut().enumerate() {
        let start = clock::instant();
        let each = size.warm_per_second / size.cold_per_second;
        let mut cold = Vec::new();
        for n in 0..size.warm {
            let due = start + Duration::from_micros(n as u64 * 1_000_000 / size.warm_per_second as u64);
            while let Some(left) = due.checked_duration_since(clock::instant()).filter(|left| !left.is_zero()) {
                std::thread::park_timeout(left);
            }
            if storm == 1 && n % each == 0 {
                let host = n / each * 7 % size.hosts;
                let id = format!("cold-{n}");
                caller.call(&id, &url(host, &format!("cold{}", n / each / size.hosts)));
                cold.push((id, host));
            }
            caller.call(&format!("warm-{storm}-{n}"), &warm[n % warm.len()]);
        }
        let mut times = Vec::new();
        for n in 0..size.warm {
            let (time, status) = caller.outcome(&format!("warm-{storm}-{n}"));
            assert_eq!(status, 486, "a warm call goes through");
            times.push(time);
        }
        *p99 = percentile(&mut times, 99);
        println!("storm {storm}: {} warm calls, p50 {:?}, p99 {p99:?}", times.len(), percentile(&mut times, 50));
        let mut cold_times = Vec::new();
        for (id, host) in &cold {
            let (time, status) = caller.outcome(id);
            assert!(status == 486 || status == 436, "{id}: {status}");
            assert!(status == 436 || host % 6 > 1, "{id}: its host answers nobody");
            cold_times.push(time);
        }
        if !cold_times.is_empty() {
            println!(
                "  {} cold calls, p50 {:?}, p99 {:?}",
                cold.len(),
                percentile(&mut cold_times, 50),
                percentile(&mut cold_times, 99)
            );
        }
    }
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!(
        "p99 with the storm over p99 without: {:.2}; {cores} cores, shared by callers, gateway, certificate server and edge; \
         memory {before} KiB before, {} KiB after",
        p99[1].as_secs_f64() / p99[0].as_secs_f64(),
        resident(),
    );
    edge.stop();
}
