//! The slow side door: certificates that only an `x5u` names, CRLs, lists of authorities and logs. Own thread, own runtime, bounded queues.
//! A call waits parked in its machine; nothing here ever holds a worker up, and what is in the cache is answered whatever else goes on.
//!
//! `door` decides (who is answered, what is fetched, who waits), `cache` remembers, `breaker` leaves failing hosts alone, `guard` says what may
//! be asked, `client` asks; `keeper` keeps CRLs and lists up to date, `memory` keeps the cache over a restart, `command` is what operators
//! do to it.

mod breaker;
mod cache;
mod client;
mod command;
mod counts;
mod door;
mod guard;
mod keeper;
mod memory;
mod serve;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};

use super::side_thread::SideThread;
use super::trust::Desk;
use crate::stir::FetchFailure;
use crate::stir::verification::{Credential, FetchedChain};

pub use breaker::BreakerConfig;
pub use command::CacheEntry;
pub(in crate::node) use command::{Command, Which};
pub(in crate::node) use counts::Counts;
pub use keeper::{AnchorSource, KeeperConfig, ListSource, Place};

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
    /// For one TCP connection, and for one question to a name server; 500 ms.
    pub connect_timeout: Duration,
    /// For the whole fetch, name lookup included; 2 s.
    pub total_timeout: Duration,
    /// Bytes of a body; 64 KiB.
    pub max_body: usize,
    /// Certificates in a body; 6.
    pub max_certificates: usize,
    /// Fetches that run at the same time; 256.
    pub max_in_flight: usize,
    /// and to one host; 4.
    pub max_in_flight_per_host: usize,
    /// URLs of one host that wait for their turn; 64.
    pub max_waiting_per_host: usize,
    /// Hosts that are remembered; 4096.
    pub max_hosts: usize,
    /// Questions that wait; 1024. What comes on top fails at once.
    pub queue: usize,
    /// When a host is left alone.
    pub breaker: BreakerConfig,
    /// Bytes of cached chains; 64 MiB.
    pub cache_bytes: u64,
    /// A good answer is kept at least this long, whatever the server says; 60 s.
    pub min_ttl: Duration,
    /// and at most this long; 24 h. Never beyond the end of the leaf's validity.
    pub max_ttl: Duration,
    /// A failure is kept this long; 30 s.
    pub negative_ttl: Duration,
    /// A good answer serves this much longer while it is fetched anew; 1 h.
    pub stale: Duration,
    /// What is still used is fetched anew after this share of its time, percent; 80.
    pub prefetch_percent: u8,
    /// Where the cache is kept over a restart, and the lists that were good last; without it nowhere.
    pub state_directory: Option<PathBuf>,
    /// How often the cache is written there when it has changed; 60 s.
    pub save_interval: Duration,
    /// Lets `x5u` point into private networks. For laboratories.
    pub allow_private_addresses: bool,
    /// Lets `x5u` name ports other than 443 and 8443.
    pub allow_any_port: bool,
    /// Name servers; none: those of the system.
    pub name_servers: Vec<SocketAddr>,
    /// PEM file with roots trusted for the HTTPS servers on top of the system's.
    pub ca_file: Option<PathBuf>,
    /// CRLs and lists.
    pub keeper: KeeperConfig,
}

impl Config {
    /// The same but for CRLs, lists (which are reloaded) and name servers (which are `[dns]`'s to tell of).
    pub(in crate::node) fn differs_by_lists_only(&self, other: &Self) -> bool {
        let (keeper, name_servers) = (other.keeper.clone(), other.name_servers.clone());
        Self { keeper, name_servers, ..self.clone() } == *other
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_millis(500),
            total_timeout: Duration::from_secs(2),
            max_body: 64 * 1024,
            max_certificates: 6,
            max_in_flight: 256,
            max_in_flight_per_host: 4,
            max_waiting_per_host: 64,
            max_hosts: 4096,
            queue: 1024,
            breaker: BreakerConfig::default(),
            cache_bytes: 64 * 1024 * 1024,
            min_ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(24 * 3600),
            negative_ttl: Duration::from_secs(30),
            stale: Duration::from_secs(3600),
            prefetch_percent: 80,
            state_directory: None,
            save_interval: Duration::from_secs(60),
            allow_private_addresses: false,
            allow_any_port: false,
            name_servers: Vec::new(),
            ca_file: None,
            keeper: KeeperConfig::default(),
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
    /// Too many wait, or the side door is closed.
    Busy,
    /// The host has failed several times and is left alone for a while.
    HostDown,
}

impl FetchError {
    /// What [`FetchError::reason`] may be.
    pub(in crate::node) const REASONS: [&'static str; 11] = [
        "refused",
        "resolve",
        "connect",
        "tls",
        "http",
        "status",
        "too_large",
        "not_certificates",
        "timeout",
        "busy",
        "host_down",
    ];

    /// In a word, for counters.
    pub(in crate::node) fn reason(&self) -> &'static str {
        match self {
            Self::UrlRefused | Self::SchemeRefused | Self::PortRefused(_) | Self::AddressRefused(_) => "refused",
            Self::Resolve => "resolve",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Http => "http",
            Self::Status(_) => "status",
            Self::TooLarge | Self::TooManyCertificates => "too_large",
            Self::NotCertificates => "not_certificates",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::HostDown => "host_down",
        }
    }

    /// The host works: it is this resource that does not.
    fn shows_life(&self) -> bool {
        match self {
            Self::Status(status) => *status < 500 && *status != 429,
            Self::TooLarge | Self::TooManyCertificates | Self::NotCertificates => true,
            _ => false,
        }
    }
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
            Self::HostDown => write!(f, "host failed several times and is left alone for a while"),
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
            FetchError::Busy | FetchError::HostDown => Self::Busy,
        }
    }
}

/// Why the side door does not open.
#[derive(Debug)]
pub enum FetchStartError {
    /// The extra CA file can not be read or holds no certificate.
    CaFile(PathBuf),
    /// The state directory can not be used.
    StateDirectory(PathBuf, io::Error),
    /// The thread or its runtime did not start.
    Thread(io::Error),
}

impl fmt::Display for FetchStartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaFile(path) => write!(f, "{}: no readable certificate", path.display()),
            Self::StateDirectory(path, error) => write!(f, "stir.state_directory {}: {error}", path.display()),
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
    /// Whoever asks waits no longer.
    pub deadline: Instant,
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

/// Credentials that lack something and wait to be looked at; more are dropped, for the next call brings them again.
const LACKING: usize = 64;
/// Orders of operators that wait.
const COMMANDS: usize = 4;

/// The workers' end: cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    queue: mpsc::Sender<Question>,
    lacking: mpsc::Sender<Arc<Credential>>,
}

impl Fetcher {
    /// Never waits. `Err` gives the question back when the queue is full.
    pub fn ask(&self, question: Question) -> Result<(), Question> {
        self.queue.try_send(question).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(question) | mpsc::error::TrySendError::Closed(question) => question,
        })
    }

    /// Tells of a credential that lacks a CRL or a list by reference. Never waits, and may be forgotten.
    pub fn lacks(&self, credential: Arc<Credential>) {
        let _ = self.lacking.try_send(credential);
    }
}

/// The running thread; ends when dropped or stopped.
pub struct FetchThread {
    fetcher: Fetcher,
    commands: mpsc::Sender<Command>,
    settings: watch::Sender<Config>,
    counts: Arc<Counts>,
    _thread: SideThread,
}

impl FetchThread {
    /// Starts the thread.
    pub fn start(config: Config, desk: Arc<Desk>) -> Result<Self, FetchStartError> {
        let tls = Arc::new(tls_config(&config)?);
        if let Some(directory) = &config.state_directory {
            memory::check(directory).map_err(|error| FetchStartError::StateDirectory(directory.clone(), error))?;
        }
        keeper::restore(&config, &desk);
        let (queue, questions) = mpsc::channel(config.queue.max(1));
        let (lacking, lacks) = mpsc::channel(LACKING);
        let (commands, orders) = mpsc::channel(COMMANDS);
        let counts = Arc::new(Counts::default());
        let (settings, changes) = watch::channel(config.clone());
        let inlets = serve::Inlets { questions, lacks, orders, changes };
        let served = Arc::clone(&counts);
        let thread = SideThread::start("fetch", move || serve::serve(config, tls, desk, served, inlets))
            .map_err(FetchStartError::Thread)?;
        Ok(Self { fetcher: Fetcher { queue, lacking }, commands, settings, counts, _thread: thread })
    }

    /// The workers' end.
    pub fn fetcher(&self) -> Fetcher {
        self.fetcher.clone()
    }

    /// The operators' end.
    pub(in crate::node) fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Goes on with other settings for CRLs and lists. Never waits, and does not get lost: what was told last counts.
    pub(in crate::node) fn configure(&self, config: Config) {
        self.settings.send_replace(config);
    }

    /// What it has done.
    pub(in crate::node) fn counts(&self) -> &Arc<Counts> {
        &self.counts
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

#[cfg(test)]
mod kept_tests;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod tests;
