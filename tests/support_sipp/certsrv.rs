//! A small HTTPS server for certificate URLs: what an `x5u` may lead to.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;

/// Longer than any proxy waits for an answer.
const SLOW: Duration = Duration::from_secs(30);

/// Starts a server on `ip` that gives `chain` for `/good.pem`, nothing at all for `/slow.pem`, and 404 for the rest. Its authority is
/// written to `ca_file`. It ends with the process.
pub fn start(ip: IpAddr, chain: String, ca_file: &Path) -> SocketAddr {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    std::fs::write(ca_file, ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new([ip.to_string()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = Arc::new(tls.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap());

    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (tls, chain) = (Arc::clone(&tls), chain.clone());
            thread::spawn(move || serve(stream, tls, &chain));
        }
    });
    address
}

/// One request. A client that goes away is no concern of the server's.
fn serve(stream: TcpStream, tls: Arc<ServerConfig>, chain: &str) -> Option<()> {
    stream.set_read_timeout(Some(SLOW)).ok()?;
    let mut stream = StreamOwned::new(ServerConnection::new(tls).ok()?, stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet).ok()?;
        head.push(octet[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (status, body) = match head.split(' ').nth(1)? {
        "/good.pem" => ("200 OK", chain),
        "/slow.pem" => {
            let _ = stream.read(&mut [0]); // until the client gives up
            return None;
        }
        _ => ("404 Not Found", ""),
    };
    let length = body.len();
    let kind = "application/pem-certificate-chain";
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).ok()?;
    stream.flush().ok()
}
