//! Whole edges in the test's own process, and the sockets, certificates and TLS clients of those around them.
#![allow(dead_code)] // each test crate uses a part of it

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;
use vesperd::config::Config;
use vesperd::node::{Edge, Observer, clock};

/// Far longer than anything takes; a hang, or who is kept waiting for ever, ends as a failure.
pub const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// Reads a configuration without mistakes.
pub fn parse(text: &str) -> Config {
    parse_at(text, clock::unix())
}

/// The same at another time.
pub fn parse_at(text: &str, unix: i64) -> Config {
    Config::parse(text, Path::new("test.toml"), unix).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

pub fn start(text: &str) -> Edge {
    Edge::start(parse(text), &Observer::default()).unwrap()
}

/// Where a listener is.
pub fn address(edge: &Edge, name: &str) -> SocketAddr {
    edge.addresses().iter().find(|(listener, ..)| listener == name).unwrap().2
}

pub fn udp() -> UdpSocket {
    udp_at("127.0.0.1")
}

pub fn udp_at(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind(format!("{ip}:0")).unwrap();
    socket.set_read_timeout(PATIENCE).unwrap();
    socket
}

pub fn tcp(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(PATIENCE).unwrap();
    stream
}

pub fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 65_535];
    let (count, from) = socket.recv_from(&mut buffer).expect("a message comes");
    (String::from_utf8(buffer[..count].to_vec()).unwrap(), from)
}

/// A certificate for edge.example that signs itself.
pub struct SelfSigned {
    directory: TempDir,
}

impl SelfSigned {
    pub fn new() -> Self {
        let (directory, key) = (TempDir::new().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName("edge.example".try_into().unwrap())];
        fs::write(directory.path().join("edge.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(directory.path().join("edge.key"), key.serialize_pem()).unwrap();
        Self { directory }
    }

    fn path(&self, file: &str) -> String {
        self.directory.path().join(file).to_str().unwrap().to_owned()
    }

    /// The lines of a listener that shows it.
    pub fn listener(&self) -> String {
        format!("certificate = \"{}\"\nkey = \"{}\"", self.path("edge.pem"), self.path("edge.key"))
    }

    /// Whoever trusts it and has no certificate.
    pub fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("edge.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A session with whom has this name.
pub fn tls(config: &Arc<ClientConfig>, to: SocketAddr, name: &str) -> Tls {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), tcp(to))
}
