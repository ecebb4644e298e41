//! SIP over TLS between real sockets (C-58, RFC 5922, RFC 5923): whole edges on both ends of a session, and bare TLS clients.

mod support_edge;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use support_edge::{PATIENCE, Tls, address, parse_at, receive, start, tls, udp};
use tempfile::TempDir;
use vesperd::config::Config;
use vesperd::node::{Edge, Observer, clock};

/// A directory with a CA and the certificates it has issued.
struct Ca {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test CA");
        fs::write(directory.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    fn path(&self, file: &str) -> String {
        self.directory.path().join(file).to_str().unwrap().to_owned()
    }

    /// Writes `name.pem` and `name.key` with these DNS names.
    fn issue(&self, name: &str, dns: &[&str], change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "b.example");
        params.subject_alt_names = dns.iter().map(|dns| SanType::DnsName((*dns).try_into().unwrap())).collect();
        change(&mut params);
        fs::write(self.path(&format!("{name}.pem")), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        roots
    }
}

fn start_at(text: &str, unix: i64) -> Edge {
    Edge::start(parse_at(text, unix), &Observer::default()).unwrap()
}

/// An edge that takes calls over TLS, with this certificate, and hands them to `callee` over UDP.
fn terminating(ca: &Ca, certificate: &str, client_auth: &str, peer: &str, callee: SocketAddr, unix: i64) -> Edge {
    let (pem, key, roots) =
        (ca.path(&format!("{certificate}.pem")), ca.path(&format!("{certificate}.key")), ca.path("ca.pem"));
    let asks = if client_auth == "none" {
        String::new()
    } else {
        format!("client_auth = \"{client_auth}\"\nclient_ca = \"{roots}\"")
    };
    let text = format!(
        r#"
[[listener]]
name = "tls"
transport = "tls"
bind = "127.0.0.1:0"
certificate = "{pem}"
key = "{key}"
{asks}
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[trunk]]
name = "a"
{peer}
[[trunk]]
name = "callee"
next_hop = "udp:{callee}"
[[route]]
from = "a"
to = "callee"
"#
    );
    start_at(&text, unix)
}

/// An edge that takes calls over UDP and hands them on over TLS; it shows `a.example`.
fn originating(ca: &Ca, next_hop: SocketAddr, tls: &str) -> Edge {
    let (pem, key) = (ca.path("a.pem"), ca.path("a.key"));
    start(&format!(
        r#"
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[listener]]
name = "tls"
transport = "tls"
bind = "127.0.0.1:0"
certificate = "{pem}"
key = "{key}"
[[trunk]]
name = "caller"
peers = "127.0.0.0/8"
[[trunk]]
name = "b"
next_hop = "tls:{next_hop}"
[trunk.tls]
ca = "{roots}"
certificate = "{pem}"
key = "{key}"
{tls}
[[route]]
from = "caller"
to = "b"
"#,
        roots = ca.path("ca.pem")
    ))
}

const KNOWN_BY_TLS: &str = "[trunk.tls]\nnames = [\"a.example\"]";

fn options(transport: &str, via: SocketAddr, call: &str) -> Vec<u8> {
    format!(
        "OPTIONS sip:12155550113@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/{transport} {via};branch=z9hG4bK-{call}\r\n\
         From: <sip:12155550112@192.0.2.8>;tag=a\r\nTo: <sip:12155550113@192.0.2.9>\r\nCall-ID: {call}@test\r\n\
         CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// A 200 to a request.
fn answer(request: &str) -> String {
    let copied = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let lines: Vec<_> = request.split("\r\n").filter(|line| copied.iter().any(|name| line.starts_with(name))).collect();
    format!("SIP/2.0 200 OK\r\n{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n"))
}

/// Sends a request to `edge` over UDP; the status line of what comes back.
fn ask(edge: &Edge, call: &str) -> String {
    let caller = udp();
    caller.send_to(&options("UDP", caller.local_addr().unwrap(), call), address(edge, "udp")).unwrap();
    receive(&caller).0.lines().next().unwrap().to_owned()
}

/// A bare TLS client with (or without) a certificate of `ca`.
fn client(roots: RootCertStore, credential: Option<(&Ca, &str)>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match credential {
        Some((ca, name)) => {
            let chain = vec![CertificateDer::from_pem_file(ca.path(&format!("{name}.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(ca.path(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    })
}

/// The status line of the answer to a request, or nothing if the session does not stand.
fn ask_tls(tls: &mut Tls, call: &str) -> Option<String> {
    tls.write_all(&options("TLS", tls.sock.local_addr().unwrap(), call)).ok()?;
    let mut buffer = [0; 4096];
    let count = tls.read(&mut buffer).ok().filter(|count| *count > 0)?;
    String::from_utf8_lossy(&buffer[..count]).lines().next().map(str::to_owned)
}

#[test]
fn c58_udp_in_tls_between_and_udp_out_with_certificates_on_both_sides() {
    let ca = Ca::new();
    ca.issue("a", &["a.example"], |_| {});
    ca.issue("b", &["b.example"], |_| {});
    let callee = udp();
    let b = terminating(&ca, "b", "required", KNOWN_BY_TLS, callee.local_addr().unwrap(), clock::unix());
    let a = originating(&ca, address(&b, "tls"), "names = [\"b.example\"]");
    let caller = udp();
    for call in ["one", "two", "three"] {
        caller.send_to(&options("UDP", caller.local_addr().unwrap(), call), address(&a, "udp")).unwrap();
        let (request, from) = receive(&callee);
        let vias: Vec<_> = request.lines().filter(|line| line.starts_with("Via:")).collect();
        assert!(vias[0].starts_with("Via: SIP/2.0/UDP") && vias[1].starts_with("Via: SIP/2.0/TLS"), "{request}");
        assert!(vias[1].contains(";alias"), "CN-4: {request}");
        callee.send_to(answer(&request).as_bytes(), from).unwrap();
        assert!(receive(&caller).0.starts_with("SIP/2.0 200"));
    }
    let (a, b) = (a.stop(), b.stop());
    assert_eq!((a.tcp.opened, b.tcp.accepted), (a.tcp.opened.min(2), a.tcp.opened), "CN-1: at most one per worker");
}

#[test]
fn c58_a_server_that_does_not_prove_its_name_gets_no_call() {
    let ca = Ca::new();
    let past = clock::unix() - 10 * 86_400;
    let day = |days: i64| rcgen::date_time_ymd(1970, 1, 1) + time::Duration::days(past / 86_400 + days);
    ca.issue("a", &["a.example"], |_| {});
    ca.issue("good", &["b.example"], |_| {});
    ca.issue("other", &["c.example"], |_| {});
    ca.issue("common-name", &[], |_| {});
    ca.issue("wildcard", &["*.example.com"], |_| {});
    ca.issue("expired", &["b.example"], |params| (params.not_before, params.not_after) = (day(-5), day(5)));
    ca.issue("purpose", &["b.example"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    });
    ca.issue("sip", &[], |params| {
        params.subject_alt_names = vec![SanType::URI("sip:b.example".try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 20])];
    });
    let foreign = Ca::new();
    foreign.issue("good", &["b.example"], |_| {});

    let own_name = "names = [\"b.example\"]";
    let cases = [
        (&ca, "good", own_name, "200"),
        (&ca, "sip", own_name, "200"),
        (&ca, "other", own_name, "500"),
        (&ca, "common-name", own_name, "500"),
        (&ca, "wildcard", "names = [\"sip.example.com\"]", "500"),
        (&ca, "wildcard", "names = [\"sip.example.com\"]\nallow_wildcard = true", "200"),
        (&ca, "expired", own_name, "500"),
        (&ca, "purpose", own_name, "500"),
        (&foreign, "good", own_name, "500"),
    ];
    for (issuer, certificate, tls, status) in cases {
        let callee = udp();
        let unix = if certificate == "expired" { past } else { clock::unix() };
        let peers = "peers = \"127.0.0.1\"";
        let b = terminating(issuer, certificate, "none", peers, callee.local_addr().unwrap(), unix);
        let a = originating(&ca, address(&b, "tls"), tls);
        let answering = std::thread::spawn(move || {
            callee.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
            let mut buffer = [0; 4096];
            let Ok((count, from)) = callee.recv_from(&mut buffer) else { return false };
            callee.send_to(answer(std::str::from_utf8(&buffer[..count]).unwrap()).as_bytes(), from).unwrap();
            true
        });
        let line = ask(&a, certificate);
        assert!(line.starts_with(&format!("SIP/2.0 {status}")), "{certificate}: {line}");
        assert_eq!(answering.join().unwrap(), status == "200", "{certificate}");
    }
}

#[test]
fn c58_a_client_is_who_its_certificate_proves() {
    let ca = Ca::new();
    ca.issue("a", &["a.example"], |_| {});
    ca.issue("b", &["b.example"], |_| {});
    ca.issue("stranger", &["stranger.example"], |_| {});
    let foreign = Ca::new();
    foreign.issue("a", &["a.example"], |_| {});
    // Another address than the clients', by which they could be taken for the callee.
    let callee = UdpSocket::bind("127.0.0.2:0").unwrap();
    callee.set_read_timeout(PATIENCE).unwrap();
    let b = terminating(&ca, "b", "required", KNOWN_BY_TLS, callee.local_addr().unwrap(), clock::unix());
    let to = address(&b, "tls");
    let echo = callee.try_clone().unwrap();
    std::thread::spawn(move || {
        let (request, from) = receive(&echo);
        echo.send_to(answer(&request).as_bytes(), from).unwrap();
    });
    let mut known = tls(&client(ca.roots(), Some((&ca, "a"))), to, "b.example");
    assert_eq!(ask_tls(&mut known, "known").as_deref(), Some("SIP/2.0 200 OK"));
    // TL-4: a name that belongs to no trunk is nobody's; no certificate, or one of another CA, gets no session.
    let mut stranger = tls(&client(ca.roots(), Some((&ca, "stranger"))), to, "b.example");
    assert_eq!(ask_tls(&mut stranger, "stranger").as_deref(), Some("SIP/2.0 403 Forbidden"));
    assert_eq!(ask_tls(&mut tls(&client(ca.roots(), None), to, "b.example"), "none"), None);
    assert_eq!(ask_tls(&mut tls(&client(ca.roots(), Some((&foreign, "a"))), to, "b.example"), "foreign"), None);
    drop((known, stranger));
    // The server learns of a refused session after the client does.
    let deadline = clock::instant() + Duration::from_secs(20);
    while b.published().summary().worker.failed_handshakes < 2 && clock::instant() < deadline {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let summary = b.stop();
    assert_eq!((summary.tcp.accepted, summary.worker.failed_handshakes), (2, 2));
}

#[test]
fn tl5_the_name_asked_for_picks_the_certificate_and_a_reload_replaces_it_for_new_sessions() {
    let ca = Ca::new();
    for name in ["one.example", "two.example", "three.example"] {
        ca.issue(name, &[name], |_| {});
    }
    let text = |first: &str| {
        let file = |name: &str, kind: &str| ca.path(&format!("{name}.{kind}"));
        format!(
            r#"
[[listener]]
name = "tls"
transport = "tls"
bind = "127.0.0.1:0"
certificate = "{}"
key = "{}"
[[listener.sni]]
certificate = "{}"
key = "{}"
[[trunk]]
name = "all"
peers = "127.0.0.0/8"
"#,
            file(first, "pem"),
            file(first, "key"),
            file("two.example", "pem"),
            file("two.example", "key")
        )
    };
    let edge = start(&text("one.example"));
    let to = address(&edge, "tls");
    let config = client(ca.roots(), None);
    let mut kept = tls(&config, to, "one.example");
    assert_eq!(ask_tls(&mut kept, "first").as_deref(), Some("SIP/2.0 404 Not Found"));
    assert!(ask_tls(&mut tls(&config, to, "two.example"), "second").is_some());
    assert_eq!(ask_tls(&mut tls(&config, to, "three.example"), "third"), None, "it is shown another name");

    let renewed = Config::parse(&text("three.example"), Path::new("test.toml"), clock::unix()).unwrap();
    edge.tls().replace(renewed.tls);
    assert!(ask_tls(&mut tls(&config, to, "three.example"), "fourth").is_some());
    assert_eq!(ask_tls(&mut tls(&config, to, "one.example"), "fifth"), None);
    assert_eq!(ask_tls(&mut kept, "sixth").as_deref(), Some("SIP/2.0 404 Not Found"), "the old session lives on");
}

#[test]
fn cn2_requests_go_back_over_a_connection_that_offers_itself() {
    let ca = Ca::new();
    ca.issue("a", &["a.example"], |_| {});
    ca.issue("b", &["b.example"], |_| {});
    let callee = udp();
    // The peer's own listening port; nobody listens there, so only the alias can lead back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (pem, key, roots) = (ca.path("b.pem"), ca.path("b.key"), ca.path("ca.pem"));
    let edge = start(&format!(
        r#"
[node]
workers = 1
[[listener]]
name = "tls"
transport = "tls"
bind = "127.0.0.1:0"
certificate = "{pem}"
key = "{key}"
client_auth = "optional"
client_ca = "{roots}"
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[trunk]]
name = "a"
next_hop = "tls:{port}"
[trunk.tls]
names = ["a.example"]
ca = "{roots}"
[[trunk]]
name = "callee"
peers = "127.0.0.1"
next_hop = "udp:{callee}"
[[route]]
from = "a"
to = "callee"
[[route]]
from = "callee"
to = "a"
"#,
        callee = callee.local_addr().unwrap()
    ));
    let mut tls = tls(&client(ca.roots(), Some((&ca, "a"))), address(&edge, "tls"), "b.example");
    let offer = String::from_utf8(options("TLS", port, "offer")).unwrap().replace("branch=", "alias;branch=");
    tls.write_all(offer.as_bytes()).unwrap();
    let (request, from) = receive(&callee);
    callee.send_to(answer(&request).as_bytes(), from).unwrap();
    let mut buffer = [0; 4096];
    let count = tls.read(&mut buffer).unwrap();
    assert!(buffer[..count].starts_with(b"SIP/2.0 200"));

    callee.send_to(&options("UDP", callee.local_addr().unwrap(), "back"), address(&edge, "udp")).unwrap();
    let count = tls.read(&mut buffer).unwrap();
    let back = String::from_utf8_lossy(&buffer[..count]).into_owned();
    assert!(back.starts_with("OPTIONS ") && back.contains("Call-ID: back@test"), "{back}");
    assert_eq!(edge.stop().tcp.opened, 0);
}

#[test]
fn tls_mistakes_are_found_at_load() {
    let ca = Ca::new();
    ca.issue("a", &["a.example"], |_| {});
    ca.issue("b", &["b.example"], |_| {});
    let (pem, key, wrong) = (ca.path("a.pem"), ca.path("a.key"), ca.path("b.key"));
    let mistakes = |listener: &str, trunk: &str| {
        let text = format!(
            "[[listener]]\nname = \"x\"\ntransport = \"tls\"\nbind = \"127.0.0.1:5061\"\n{listener}\n[[trunk]]\nname = \"t\"\n{trunk}\n"
        );
        Config::parse(&text, Path::new("test.toml"), clock::unix()).map(|_| ()).unwrap_err().to_string()
    };
    let hop = "next_hop = \"tls:192.0.2.1\"";
    let good = format!("certificate = \"{pem}\"\nkey = \"{key}\"");
    let named = format!("{hop}\n[trunk.tls]\nnames = [\"a.example\"]");
    for (listener, trunk, words) in [
        ("", named.as_str(), "listener \"x\".certificate: missing"),
        (&format!("certificate = \"{pem}\"\nkey = \"{wrong}\""), &named, "is not the private key"),
        (&format!("certificate = \"{pem}\"\nkey = \"{pem}\""), &named, "not a PEM file with the private key"),
        (&format!("{good}\nclient_auth = \"required\""), &named, "client_ca: missing"),
        (&good, hop, "nothing says which name its certificate must prove"),
        (&good, &format!("{hop}\n[trunk.tls]\nnames = [\"not a name\"]"), "\"not a name\" can not be read"),
    ] {
        let found = mistakes(listener, trunk);
        assert!(found.contains(words), "{words:?} is not in:\n{found}");
    }
}
