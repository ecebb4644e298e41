//! The STIR engine over HTTP, for networks that keep their SBC: the REST shape of ATIS-1000082 (`/stir/v1/signing`,
//! `/stir/v1/verification`). A thread of its own speaks HTTP/1.1 and 2, with TLS if that is wanted; what is asked goes to a worker
//! over a bounded queue, where the caches and policies of the calls are, and comes back when that has its answer.
//!
//! `listen` has the connections, `answer` one request, `read` its JSON, `reply` ours, `problem` what is said instead; `clients` knows
//! who may ask and how often, `desk` is the worker's side, `counts` the page's.

mod answer;
mod clients;
mod counts;
mod desk;
mod listen;
mod problem;
mod read;
mod reply;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

pub use clients::Token;
pub(super) use counts::Counts;
pub(super) use desk::{Asking, Desk};

use self::clients::Clients;
use super::clock;
use super::machine::Owners;
use super::side_thread::SideThread;
use super::worker::Orders;
use crate::proxy::admission::Rate;
use crate::proxy::{Trunk, TrunkId};

/// The service as configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub bind: SocketAddr,
    /// With which certificate; without it in plain text.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Who may ask; empty: anybody who gets a connection.
    pub tokens: Vec<Token>,
    /// Names of the trunks whose policies can be asked for; the first one is the one meant where none is named.
    pub policies: Vec<String>,
    /// Requests per second of one client, and as many at once.
    pub rate: Rate,
    /// Connections at the same time; more wait.
    pub connections: usize,
    /// Requests at the same time on one HTTP/2 connection.
    pub streams: u32,
    /// Questions that wait for a worker.
    pub queue: usize,
    /// Octets of a body.
    pub max_body: usize,
    /// For a TLS handshake, for a body to come in, for a connection without requests.
    pub idle_timeout: Duration,
    /// For the worker's answer.
    pub answer_timeout: Duration,
}

impl Config {
    /// Usual bounds.
    pub fn new(bind: SocketAddr) -> Self {
        Self {
            bind,
            tls: None,
            tokens: Vec::new(),
            policies: Vec::new(),
            rate: Rate::new(1000, 1000),
            connections: 256,
            streams: 128,
            queue: 256,
            max_body: 64 * 1024,
            idle_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(5),
        }
    }
}

/// What can change while it runs.
struct Settings {
    config: Config,
    clients: Clients,
    policies: Vec<(String, TrunkId)>,
}

impl Settings {
    fn new(config: Config, trunks: &[Trunk]) -> Arc<Self> {
        let find =
            |name: &String| trunks.iter().zip(0..).find(|(trunk, _)| trunk.name == *name).map(|(_, id)| TrunkId(id));
        let policies = config.policies.iter().filter_map(|name| Some((name.clone(), find(name)?))).collect();
        let clients = Clients::new(config.tokens.clone(), config.rate);
        Arc::new(Self { config, clients, policies })
    }
}

/// The workers as the service sees them.
pub(super) struct Workers {
    pub owners: Owners,
    pub queues: Vec<mpsc::Sender<Asking>>,
    pub orders: watch::Receiver<Orders>,
}

/// What all connections share.
struct Shared {
    settings: watch::Receiver<Arc<Settings>>,
    workers: Workers,
    counts: Arc<Counts>,
    /// Time is counted from here.
    epoch: Instant,
}

/// The thread; ends when it is dropped.
pub(super) struct ServiceThread {
    address: SocketAddr,
    settings: watch::Sender<Arc<Settings>>,
    counts: Arc<Counts>,
    _thread: SideThread,
}

impl ServiceThread {
    /// Binds and starts.
    ///
    /// # Errors
    /// The address can not be bound, the thread not started.
    pub fn start(config: Config, trunks: &[Trunk], workers: Workers) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(config.bind)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let settings = watch::Sender::new(Settings::new(config, trunks));
        let counts = Arc::new(Counts::default());
        let shared =
            Shared { settings: settings.subscribe(), workers, counts: Arc::clone(&counts), epoch: clock::instant() };
        let thread = SideThread::start("stir-service", move || async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listen::serve(listener, Arc::new(shared)).await,
                Err(error) => tracing::error!(%error, "the STIR service"),
            }
        })?;
        Ok(Self { address, settings, counts, _thread: thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Goes on by another configuration: certificates for connections to come, everything else for requests to come.
    pub fn reload(&self, config: Config, trunks: &[Trunk]) {
        self.settings.send_replace(Settings::new(config, trunks));
    }
}
