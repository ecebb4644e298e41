//! Against a real HTTPS server on loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::cert::TrustStore;
use crate::node::clock;

/// An HTTPS server whose certificate is for 127.0.0.1, and what it serves.
pub(super) struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    ca_file: tempfile::NamedTempFile,
    pub chain: Vec<Vec<u8>>,
    pages: Pages,
}

/// What is served besides, by path.
type Pages = Arc<std::sync::Mutex<std::collections::HashMap<String, Vec<u8>>>>;

impl Server {
    pub async fn start() -> Self {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let ca_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca_file.path(), ca_certificate.pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let chain_pem = leaf.pem() + &ca_certificate.pem();
        let chain = vec![leaf.der().to_vec(), ca_certificate.der().to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let pages = Pages::default();
        let served = Arc::clone(&pages);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, pem, counter) = (acceptor.clone(), chain_pem.clone(), Arc::clone(&counter));
                let served = Arc::clone(&served);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let page = served.lock().unwrap().get(request.uri().path()).cloned();
                        respond(request, pem.clone(), page, Arc::clone(&counter))
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, requests, ca_file, chain, pages }
    }

    pub fn put(&self, path: &str, content: &[u8]) {
        self.pages.lock().unwrap().insert(path.to_owned(), content.to_vec());
    }

    /// A desk that trusts the authority of this server's chain, as if that were an STI authority.
    pub fn trusting(&self) -> Arc<Desk> {
        let mut trust = TrustStore::default();
        trust.anchors.add_der(&self.chain[1]).unwrap();
        Desk::new(trust)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn asked(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub fn config(&self) -> Config {
        Config {
            allow_private_addresses: true,
            allow_any_port: true,
            ca_file: Some(self.ca_file.path().to_owned()),
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(5),
            ..Config::default()
        }
    }
}

async fn respond(
    request: Request<Incoming>,
    pem: String,
    page: Option<Vec<u8>>,
    counter: Arc<AtomicUsize>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    counter.fetch_add(1, Ordering::SeqCst);
    let reply = Response::builder();
    if let Some(page) = page {
        return Ok(reply.body(Full::from(page)).unwrap());
    }
    let reply = match request.uri().path() {
        "/chain.pem" => reply.header("cache-control", "max-age=3600").body(Full::from(pem)),
        "/moved" => reply.status(302).header("location", "/chain.pem").body(Full::default()),
        "/large" => reply.body(Full::from(vec![b'-'; 64 * 1024 + 1])),
        "/page" => reply.body(Full::from("<html>not a certificate</html>")),
        "/html" => reply.header("content-type", "text/html").body(Full::from("<html>sign in here</html>")),
        "/silent" => std::future::pending().await,
        _ => reply.status(404).body(Full::default()),
    };
    Ok(reply.unwrap())
}

async fn fetch(config: Config, url: &str) -> Result<Chain, FetchError> {
    let thread = start(config);
    ask(&thread.fetcher(), url).await
}

fn start(config: Config) -> FetchThread {
    FetchThread::start(config, Desk::new(TrustStore::default())).unwrap()
}

fn question(id: u64, x5u: String, answer_to: mpsc::Sender<Answered>) -> Question {
    Question { id, x5u: x5u.into(), deadline: clock::instant() + Duration::from_secs(60), answer_to }
}

pub(super) async fn ask(fetcher: &Fetcher, url: &str) -> Result<Chain, FetchError> {
    let (answer_to, mut answers) = mpsc::channel(1);
    assert!(fetcher.ask(question(7, url.to_owned(), answer_to)).is_ok());
    let answered = answers.recv().await.unwrap();
    assert_eq!(answered.id, 7);
    answered.result
}

#[tokio::test]
async fn a_chain_is_fetched_once_for_many_who_ask() {
    let server = Server::start().await;
    let thread = start(server.config());
    let (answer_to, mut answers) = mpsc::channel(16);
    for id in 0..10 {
        assert!(thread.fetcher().ask(question(id, server.url("/chain.pem"), answer_to.clone())).is_ok());
    }
    let mut seen = Vec::new();
    for _ in 0..10 {
        let answered = answers.recv().await.unwrap();
        assert_eq!(answered.result.unwrap().certificates.as_ref(), server.chain);
        seen.push(answered.id);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    assert_eq!(server.requests.load(Ordering::SeqCst), 1, "single flight, then the cache");
}

#[tokio::test]
async fn a_failure_is_remembered() {
    let server = Server::start().await;
    let thread = start(server.config());
    for _ in 0..3 {
        assert_eq!(ask(&thread.fetcher(), &server.url("/nothing")).await, Err(FetchError::Status(404)));
    }
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn answers_that_are_no_chain_have_their_own_error() {
    let server = Server::start().await;
    for (path, error) in [
        ("/nothing", FetchError::Status(404)),
        ("/moved", FetchError::Status(302)),
        ("/large", FetchError::TooLarge),
        ("/page", FetchError::NotCertificates),
        ("/html", FetchError::NotCertificates),
    ] {
        assert_eq!(fetch(server.config(), &server.url(path)).await, Err(error), "{path}");
    }
    let few = Config { max_certificates: 1, ..server.config() };
    assert_eq!(fetch(few, &server.url("/chain.pem")).await, Err(FetchError::TooManyCertificates));
}

#[tokio::test]
async fn a_silent_server_ends_at_the_total_timeout() {
    let server = Server::start().await;
    let hasty = Config { total_timeout: Duration::from_millis(300), ..server.config() };
    assert_eq!(fetch(hasty, &server.url("/silent")).await, Err(FetchError::Timeout));
}

#[tokio::test]
async fn the_server_must_prove_the_name_in_the_url() {
    let server = Server::start().await;
    let url = format!("https://localhost:{}/chain.pem", server.address.port());
    assert!(matches!(fetch(server.config(), &url).await, Err(FetchError::Tls(rustls::Error::InvalidCertificate(_)))));
    assert_eq!(server.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn private_addresses_and_odd_ports_are_refused_unless_allowed() {
    let server = Server::start().await;
    let public_only = Config { allow_private_addresses: false, ..server.config() };
    let refused = FetchError::AddressRefused(server.address.ip());
    assert_eq!(fetch(public_only, &server.url("/chain.pem")).await, Err(refused));
    let usual_ports = Config { allow_any_port: false, ..server.config() };
    let refused = FetchError::PortRefused(server.address.port());
    assert_eq!(fetch(usual_ports, &server.url("/chain.pem")).await, Err(refused));
    assert_eq!(server.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let server = Server::start().await;
    let narrow = Config { queue: 1, max_in_flight: 1, ..server.config() };
    let thread = start(narrow);
    let (answer_to, _answers) = mpsc::channel(1);
    let refused = (0..100).find_map(|id| {
        thread.fetcher().ask(question(id, server.url(&format!("/nothing{id}")), answer_to.clone())).err()
    });
    assert!(refused.is_some_and(|question| question.id > 0), "the first fits, a later one does not");
}
