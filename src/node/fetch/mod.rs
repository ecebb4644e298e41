//! The slow side door: certificates that only an `x5u` names. Own thread, own runtime, bounded queue, single flight per URL, a
//! cache with time limits. A call waits parked in its machine; nothing here ever holds a worker up.
//!
//! Rules of the fetch: `guard` (what may be asked), `client` (how it is asked).

mod client;
mod guard;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};

use self::client::{Client, Fetched};
use super::clock;
use super::side_thread::SideThread;
use crate::stir::FetchFailure;
use crate::stir::verification::FetchedChain;

/// A fetched chain; not validated. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// DER, leaf first.
    pub certificates: Arc<[Vec<u8>]>,
    /// Unix seconds until which it is kept: after that the server is asked anew.
    pub fresh_until: i64,
}

impl From<Chain> for FetchedChain {
    fn from(chain: Chain) -> Self {
        Self { certificates: chain.certificates.to_vec(), fresh_until: chain.fresh_until }
    }
}

/// Settings of the side door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For one TCP connection; 500 ms.
    pub connect_timeout: Duration,
    /// For the whole fetch, name lookup included; 2 s.
    pub total_timeout: Duration,
    /// Bytes of a body; 64 KiB.
    pub max_body: usize,
    /// Certificates in a body; 6.
    pub max_certificates: usize,
    /// Fetches that run at the same time; 64.
    pub max_in_flight: usize,
    /// Requests that wait; 1024. What comes on top fails at once.
    pub queue: usize,
    /// Bytes of cached chains; 64 MiB.
    pub cache_bytes: u64,
    /// A good answer is kept at least this long, whatever the server says; 60 s.
    pub min_ttl: Duration,
    /// and at most this long; 24 h. Never beyond the end of the leaf's validity.
    pub max_ttl: Duration,
    /// A failure is kept this long; 30 s.
    pub negative_ttl: Duration,
    /// Lets `x5u` point into private networks. For laboratories.
    pub allow_private_addresses: bool,
    /// Lets `x5u` name ports other than 443 and 8443.
    pub allow_any_port: bool,
    /// PEM file with roots trusted for the HTTPS servers on top of the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_millis(500),
            total_timeout: Duration::from_secs(2),
            max_body: 64 * 1024,
            max_certificates: 6,
            max_in_flight: 64,
            queue: 1024,
            cache_bytes: 64 * 1024 * 1024,
            min_ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(24 * 3600),
            negative_ttl: Duration::from_secs(30),
            allow_private_addresses: false,
            allow_any_port: false,
            ca_file: None,
        }
    }
}

/// Why a chain could not be had.
#[derive(Clone, Debug, PartialEq)]
pub enum FetchError {
    /// Not a URL, or one with userinfo, query or fragment.
    UrlRefused,
    /// A scheme other than https.
    SchemeRefused,
    /// A port other than 443 and 8443.
    PortRefused(u16),
    /// The host has no address.
    Resolve,
    /// The host's address is not a public one.
    AddressRefused(IpAddr),
    /// No TCP connection, or it broke during the handshake.
    Connect(io::ErrorKind),
    /// The TLS handshake failed; a wrong server name shows here.
    Tls(rustls::Error),
    /// The server did not speak HTTP/1.1 to the end.
    Http,
    /// Another status than 200. Redirects are not followed.
    Status(u16),
    /// More bytes than allowed.
    TooLarge,
    /// More certificates than allowed.
    TooManyCertificates,
    /// Neither PEM certificates nor one DER certificate.
    NotCertificates,
    /// The total time was over.
    Timeout,
    /// The queue is full or the side door is closed.
    Busy,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UrlRefused => write!(f, "not an acceptable URL"),
            Self::SchemeRefused => write!(f, "scheme is not https"),
            Self::PortRefused(port) => write!(f, "port {port} is neither 443 nor 8443"),
            Self::Resolve => write!(f, "host has no address"),
            Self::AddressRefused(address) => write!(f, "address {address} is not public"),
            Self::Connect(kind) => write!(f, "no connection: {kind}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Http => write!(f, "HTTP exchange broke"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::TooLarge => write!(f, "body too large"),
            Self::TooManyCertificates => write!(f, "too many certificates"),
            Self::NotCertificates => write!(f, "body is not a certificate chain"),
            Self::Timeout => write!(f, "timed out"),
            Self::Busy => write!(f, "fetch queue full"),
        }
    }
}

impl std::error::Error for FetchError {}

impl From<FetchError> for FetchFailure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::UrlRefused
            | FetchError::SchemeRefused
            | FetchError::PortRefused(_)
            | FetchError::AddressRefused(_) => Self::Blocked,
            FetchError::Resolve => Self::Name,
            FetchError::Connect(_) => Self::Connect,
            FetchError::Tls(_) => Self::Tls,
            FetchError::Http | FetchError::NotCertificates => Self::NotCertificates,
            FetchError::Status(status) => Self::Status(status),
            FetchError::TooLarge | FetchError::TooManyCertificates => Self::TooLarge,
            FetchError::Timeout => Self::Timeout,
            FetchError::Busy => Self::Busy,
        }
    }
}

/// Why the side door does not open.
#[derive(Debug)]
pub enum FetchStartError {
    /// The extra CA file can not be read or holds no certificate.
    CaFile(PathBuf),
    /// The thread or its runtime did not start.
    Thread(io::Error),
}

impl fmt::Display for FetchStartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaFile(path) => write!(f, "{}: no readable certificate", path.display()),
            Self::Thread(error) => write!(f, "fetch thread: {error}"),
        }
    }
}

impl std::error::Error for FetchStartError {}

/// A question; the answer goes to `answer_to`.
pub struct Question {
    /// Given back in the answer.
    pub id: u64,
    /// What to fetch.
    pub x5u: Box<str>,
    /// Lane of the worker that asks.
    pub answer_to: mpsc::Sender<Answered>,
}

/// An answer.
#[derive(Debug)]
pub struct Answered {
    /// From the question.
    pub id: u64,
    /// The chain, or why there is none.
    pub result: Result<Chain, FetchError>,
}

/// The workers' end: cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    queue: mpsc::Sender<Question>,
}

impl Fetcher {
    /// Never waits. `Err` gives the question back when the queue is full.
    pub fn ask(&self, question: Question) -> Result<(), Question> {
        self.queue.try_send(question).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(question) | mpsc::error::TrySendError::Closed(question) => question,
        })
    }
}

/// The running thread; ends when dropped or stopped.
pub struct FetchThread {
    fetcher: Fetcher,
    _thread: SideThread,
}

impl FetchThread {
    /// Starts the thread.
    pub fn start(config: Config) -> Result<Self, FetchStartError> {
        let tls = Arc::new(tls_config(&config)?);
        let (queue, questions) = mpsc::channel(config.queue.max(1));
        let thread =
            SideThread::start("fetch", move || serve(config, tls, questions)).map_err(FetchStartError::Thread)?;
        Ok(Self { fetcher: Fetcher { queue }, _thread: thread })
    }

    /// The workers' end.
    pub fn fetcher(&self) -> Fetcher {
        self.fetcher.clone()
    }
}

fn tls_config(config: &Config) -> Result<rustls::ClientConfig, FetchStartError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &config.ca_file {
        use rustls_pki_types::pem::PemObject;
        let refused = || FetchStartError::CaFile(path.clone());
        let pem = std::fs::read(path).map_err(|_| refused())?;
        let extra: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let (added, _) = roots.add_parsable_certificates(extra.map_err(|_| refused())?);
        if added == 0 {
            return Err(refused());
        }
    }
    if roots.is_empty() {
        tracing::warn!(
            "no trusted root for HTTPS: no x5u can be fetched; install ca-certificates or set stir.fetch.ca_file"
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.expect("the provider is built with TLS 1.2 and 1.3");
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What the cache keeps: the answer and for how long it holds.
#[derive(Clone)]
struct Entry {
    result: Result<Chain, FetchError>,
    ttl: Duration,
}

struct EntryTtl;

impl Expiry<Box<str>, Entry> for EntryTtl {
    fn expire_after_create(&self, _: &Box<str>, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.ttl)
    }
}

async fn serve(config: Config, tls: Arc<rustls::ClientConfig>, mut questions: mpsc::Receiver<Question>) {
    let cache: Cache<Box<str>, Entry> =
        Cache::builder().max_capacity(config.cache_bytes).weigher(weight).expire_after(EntryTtl).build();
    let permits = Arc::new(Semaphore::new(config.max_in_flight.max(1)));
    let client = Arc::new(Client::new(config.clone(), tls));
    while let Some(question) = questions.recv().await {
        if let Some(entry) = cache.get(&question.x5u).await {
            answer(question, entry);
            continue;
        }
        // Waiting here lets the bounded queue fill up, which is what tells the workers.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let (cache, client, config) = (cache.clone(), Arc::clone(&client), config.clone());
        tokio::spawn(async move {
            let fetch = async { entry_of(client.fetch(&question.x5u).await, &config, clock::unix()) };
            let entry = cache.get_with(question.x5u.clone(), fetch).await;
            drop(permit);
            answer(question, entry);
        });
    }
}

/// Bytes that an entry takes, near enough.
fn weight(url: &impl AsRef<str>, entry: &Entry) -> u32 {
    let chain = entry.result.as_ref().map_or(0, |chain| chain.certificates.iter().map(Vec::len).sum());
    u32::try_from(url.as_ref().len() + chain + 128).unwrap_or(u32::MAX)
}

fn answer(question: Question, entry: Entry) {
    // A worker that is gone or drowning gets no answer: the deadline of its need ends the wait.
    let _ = question.answer_to.try_send(Answered { id: question.id, result: entry.result });
}

fn entry_of(fetched: Result<Fetched, FetchError>, config: &Config, unix: i64) -> Entry {
    match fetched {
        Ok(fetched) => {
            let wanted =
                fetched.max_age.unwrap_or(config.max_ttl).clamp(config.min_ttl, config.max_ttl.max(config.min_ttl));
            let left = fetched.certificates.first().and_then(|leaf| seconds_left(leaf, unix)).unwrap_or(0);
            // A leaf that is over is kept like a failure, so that its replacement is seen soon.
            let ttl = if left == 0 { config.negative_ttl } else { wanted.min(Duration::from_secs(left)) };
            let fresh_until = unix.saturating_add_unsigned(ttl.as_secs());
            Entry { result: Ok(Chain { certificates: fetched.certificates, fresh_until }), ttl }
        }
        Err(error) => Entry { result: Err(error), ttl: config.negative_ttl },
    }
}

/// Seconds to the end of a certificate's validity, 0 when over.
fn seconds_left(der: &[u8], unix: i64) -> Option<u64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(u64::try_from(certificate.validity().not_after.timestamp().saturating_sub(unix)).unwrap_or(0))
}

#[cfg(test)]
mod tests;
