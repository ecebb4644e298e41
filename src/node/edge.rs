//! Start and stop: binds every socket, starts the workers and the side door, gives a handle.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::admin::{self, AdminThread, Means, Order, Question};
use super::cdr::{self, CdrThread};
use super::clock;
use super::events::Observer;
use super::fetch::{FetchStartError, FetchThread};
use super::handshake::HandshakeThread;
use super::http::HttpThread;
use super::lane;
use super::machine::Owners;
use super::metrics::Published;
use super::names::TrunkNames;
use super::packet_loop::Summary;
use super::random;
use super::reload::{Fixed, ReloadError, changed_listener, keep_numbers};
use super::resolve::{self, ResolveThread};
use super::service::{self, ServiceThread};
use super::signer::{KeyError, SignerThreads};
use super::trust::Desk;
use super::worker::{Bound, Orders, Worker};
use crate::cert::TrustStore;
use crate::config::{Config, Node};
use crate::proxy::location::order::Policy;
use crate::proxy::{Listener, Snapshot};
use crate::sip::hop::{ListenerId, Transport};
use crate::stir::replay::ReplayTable;
use crate::transport::{tcp, tls, udp};

/// What the STIR service is called among the listeners.
const STIR_SERVICE: &str = "stir_service";

/// Questions of the operator that wait for a worker.
const QUESTIONS: usize = 4;

/// Why an edge did not start.
#[derive(Debug)]
pub enum StartError {
    /// A listener's address could not be bound.
    Bind {
        /// The listener's name.
        listener: String,
        /// Its address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The file of call records can not be opened.
    Cdr {
        /// Its path, or what stands for the standard output.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The admin socket can not be bound.
    Admin {
        /// Its path.
        socket: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The side door did not open.
    Fetch(FetchStartError),
    /// A key in a hardware module can not be used.
    Signer(KeyError),
    /// Names can not be resolved.
    Resolve(resolve::StartError),
    /// A worker thread did not start.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { listener, address, error } => write!(f, "listener \"{listener}\": bind {address}: {error}"),
            Self::Cdr { file, error } => write!(f, "cdr.file {}: {error}", file.display()),
            Self::Admin { socket, error } => write!(f, "admin.socket {}: {error}", socket.display()),
            Self::Fetch(error) => error.fmt(f),
            Self::Signer(error) => error.fmt(f),
            Self::Resolve(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "worker thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A running edge. Dropping it stops it.
pub struct Edge {
    addresses: Vec<(String, Transport, SocketAddr)>,
    stop: CancellationToken,
    workers: Vec<JoinHandle<io::Result<Summary>>>,
    // Ends after the workers.
    fetch: FetchThread,
    desk: Arc<Desk>,
    handshakes: HandshakeThread,
    resolve: Option<ResolveThread>,
    signer: SignerThreads,
    http: Option<HttpThread>,
    service: Option<ServiceThread>,
    admin: Option<AdminThread>,
    program: Option<mpsc::Receiver<Order>>,
    cdr: Option<CdrThread>,
    names: TrunkNames,
    published: Arc<Published>,
    orders: watch::Sender<Orders>,
    /// Listeners as configured, and as bound.
    listeners: [Vec<Listener>; 2],
    configured_workers: usize,
    fixed: Fixed,
}

impl Edge {
    /// Binds, starts, and returns once all sockets are bound. Ports of listeners may be 0: the bound ones take their place, in
    /// [`Edge::addresses`] as in Via and Record-Route.
    pub fn start(mut config: Config, observer: &Observer) -> Result<Self, StartError> {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = if config.node.workers == 0 { cores() } else { config.node.workers };
        let configured = config.proxy.listeners.clone();
        let configured_workers = config.node.workers;
        let fixed = Fixed::of(&config);
        let bound = bind_all(&mut config, workers)?;
        let names = TrunkNames::default();
        names.note(&config.proxy.trunks);
        let published = Arc::new(Published::new(workers, names.clone()));
        published.set_loaded(clock::unix(), certificates_of(&config));
        let http = config.node.http.map(|address| start_http(address, &published)).transpose()?;
        let listeners = config.proxy.listeners.iter();
        let addresses = listeners.map(|listener| (listener.name.clone(), listener.transport, listener.bind)).collect();
        let Node { udp, tcp, lane_capacity, .. } = config.node;
        let answers_stun = udp.answers_stun;
        let fetch_queue = config.fetch.queue.max(1);
        let desk = Desk::new(config.trust);
        published.set_clock(&config.proxy.clock);
        let fetch = FetchThread::start(config.fetch, Arc::clone(&desk)).map_err(StartError::Fetch)?;
        let located_queue = config.resolve.queue.max(1);
        let resolve = start_resolve(config.resolve, &mut config.proxy)?;
        let signer = SignerThreads::default();
        let signature_queue = config.keys.answers();
        signer.configure(config.keys).map_err(StartError::Signer)?;
        published.set_signer(signer.counts());
        let store = tls::Store::new(config.tls);
        let handshakes = HandshakeThread::start(config.handshakes, store).map_err(StartError::Thread)?;
        let owners = Owners { key: random(), workers };
        let replay = ReplayTable::new(config.replay, random());
        let listeners = [configured, config.proxy.listeners.clone()];
        config.proxy.keys.flow = Some(random());
        config.proxy.keys.trunks.get_or_insert_with(random);
        let start_cdr = |cdr: cdr::Config| {
            let file = cdr.target.path().to_owned();
            let started = CdrThread::start(cdr, names.clone(), config.node.drain_timeout);
            started.map_err(|error| StartError::Cdr { file, error })
        };
        let cdr = config.cdr.map(start_cdr).transpose()?;
        cdr.iter().for_each(|cdr: &CdrThread| published.set_cdr(cdr.counts()));
        let snapshot = Arc::new(Snapshot { config: config.proxy, trust: TrustStore::clone(&desk.current()), replay });
        published.set_fetch(fetch.counts());
        published.set_snapshot(&snapshot);
        let mut edge = Self {
            addresses,
            stop: CancellationToken::new(),
            workers: Vec::new(),
            fetch,
            desk,
            handshakes,
            resolve,
            signer,
            http,
            service: None,
            admin: None,
            program: None,
            cdr,
            names,
            published,
            orders: watch::Sender::new(Orders { snapshot, tcp, answers_stun, drain: false }),
            listeners,
            configured_workers,
            fixed,
        };
        edge.desk.attach(edge.orders.clone(), Arc::clone(&edge.published));
        let mut questions = Vec::with_capacity(workers);
        let mut asked = Vec::with_capacity(workers);
        let asked_queue = config.service.as_ref().map_or(1, |service| service.queue.max(1));
        let queues = || lane::between(workers, lane_capacity).into_iter();
        let lanes = queues().zip(queues());
        for ((number, bound), (messages, transmits)) in bound.into_iter().enumerate().zip(lanes) {
            let worker = Worker {
                number,
                owners,
                orders: edge.orders.subscribe(),
                published: Arc::clone(&edge.published),
                udp: udp.clone(),
                bound,
                message_outs: messages.0,
                message_ins: messages.1,
                transmit_outs: transmits.0,
                transmit_ins: transmits.1,
                fetcher: edge.fetch.fetcher(),
                handshaker: edge.handshakes.handshaker(),
                answers: mpsc::channel(fetch_queue),
                locator: edge.resolve.as_ref().map(ResolveThread::locator),
                located: mpsc::channel(located_queue),
                signer: edge.signer.asker(),
                signatures: mpsc::channel(signature_queue),
                questions: mpsc::channel(QUESTIONS),
                asked: mpsc::channel(asked_queue),
                cdr: edge.cdr.as_ref().and_then(CdrThread::cdr),
                observer: observer.clone(),
                names: edge.names.clone(),
                stop: edge.stop.clone(),
            };
            questions.push(worker.questions.0.clone());
            asked.push(worker.asked.0.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            edge.workers.push(thread.spawn(move || worker.run()).map_err(StartError::Thread)?);
        }
        if let Some(service) = config.service {
            edge.start_service(service, service::Workers { owners, queues: asked, orders: edge.orders.subscribe() })?;
        }
        if let Some(admin) = config.admin {
            edge.start_admin(admin, questions)?;
        }
        Ok(edge)
    }

    fn start_service(&mut self, config: service::Config, workers: service::Workers) -> Result<(), StartError> {
        let (address, snapshot) = (config.bind, Arc::clone(&self.orders.borrow().snapshot));
        let failed = |error| StartError::Bind { listener: STIR_SERVICE.to_owned(), address, error };
        let thread = ServiceThread::start(config, &snapshot.config.trunks, workers).map_err(failed)?;
        self.published.set_service(thread.counts());
        self.service = Some(thread);
        Ok(())
    }

    fn start_admin(&mut self, config: admin::Config, workers: Vec<mpsc::Sender<Question>>) -> Result<(), StartError> {
        let (program, orders) = mpsc::channel(1);
        let socket = config.socket.clone();
        let means = Means {
            workers,
            orders: self.orders.clone(),
            published: Arc::clone(&self.published),
            names: self.names.clone(),
            program,
            fetch: self.fetch.commands(),
        };
        let thread = AdminThread::start(config, means).map_err(|error| StartError::Admin { socket, error })?;
        (self.admin, self.program) = (Some(thread), Some(orders));
        Ok(())
    }

    /// What the admin socket asks of the program; never ready where there is no such socket.
    pub async fn order(&mut self) -> Order {
        loop {
            match &mut self.program {
                Some(orders) => match orders.recv().await {
                    Some(order) => return order,
                    None => self.program = None,
                },
                None => std::future::pending().await,
            }
        }
    }

    /// Opens the file of call records anew.
    pub fn reopen_records(&self) {
        self.cdr.iter().for_each(CdrThread::reopen);
    }

    /// Name, transport and bound address of each listener, in the order of the configuration.
    pub fn addresses(&self) -> &[(String, Transport, SocketAddr)] {
        &self.addresses
    }

    /// Where the TLS credentials can be replaced; connections that stand are kept.
    pub fn tls(&self) -> tls::Store {
        self.handshakes.handshaker().store().clone()
    }

    /// Where `/metrics` is, if anywhere.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(HttpThread::address)
    }

    /// Where the STIR service is, if anywhere.
    pub fn stir_service(&self) -> Option<SocketAddr> {
        self.service.as_ref().map(ServiceThread::address)
    }

    /// What the workers have written down.
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Goes on with another configuration: requests that come from now on are treated by it, what is under way is finished by the old one.
    /// Connections, tokens seen and counters stay. Keys and tables that have changed, but in force with a restart only.
    ///
    /// # Errors
    /// What can not change while it runs. Nothing has changed then.
    pub fn reload(&self, mut config: Config) -> Result<Vec<&'static str>, ReloadError> {
        let [configured, bound] = &self.listeners;
        if let Some(listener) = changed_listener(configured, &config.proxy.listeners) {
            return Err(ReloadError::Listeners { listener });
        }
        if config.node.workers != self.configured_workers {
            return Err(ReloadError::Workers);
        }
        if let Some(cdr) = &config.cdr {
            let file = cdr.target.path().to_owned();
            cdr::check(&cdr.target).map_err(|error| ReloadError::Cdr { file, reason: error.kind() })?;
        }
        let later = self.fixed.changed(&config);
        let old = Arc::clone(&self.orders.borrow().snapshot);
        let credentials = keep_numbers(&old.config.trunks, &self.names, &mut config.proxy, &config.tls)?;
        // The last that may fail, for it puts the keys in force.
        self.signer.configure(std::mem::take(&mut config.keys)).map_err(ReloadError::Signer)?;
        let certificates = certificates_of(&config);
        config.proxy.listeners.clone_from(bound);
        config.proxy.locate &= self.resolve.is_some();
        config.proxy.records = self.fixed.records();
        config.proxy.continue_from(&old.config);
        self.tls().replace(credentials);
        self.names.note(&config.proxy.trunks);
        let (proxy, replay) = (config.proxy, old.replay.clone());
        self.desk.reconfigure(config.trust, |trust| {
            let snapshot = Arc::new(Snapshot { config: proxy, trust, replay });
            self.published.set_snapshot(&snapshot);
            if let (Some(service), Some(config)) = (&self.service, config.service) {
                service.reload(config, &snapshot.config.trunks);
            }
            self.orders.send_modify(|orders| {
                orders.snapshot = snapshot;
                orders.tcp = config.node.tcp;
                orders.answers_stun = config.node.udp.answers_stun;
            });
        });
        // Of the side door only what concerns lists changes while it runs.
        self.fetch.configure(config.fetch);
        self.published.set_loaded(clock::unix(), certificates);
        if let (Some(thread), Some(cdr)) = (&self.cdr, config.cdr) {
            thread.configure(cdr);
        }
        Ok(later)
    }

    /// Takes no new calls from now on. [`Published::summary`] tells how many requests are still unanswered.
    pub fn drain(&self) {
        self.published.set_draining();
        self.orders.send_modify(|orders| orders.drain = true);
    }

    /// Stops the workers, waits for their end and says what they have seen.
    pub fn stop(mut self) -> Summary {
        self.end()
    }

    fn end(&mut self) -> Summary {
        self.admin = None;
        self.service = None;
        self.stop.cancel();
        let mut total = Summary::default();
        for (number, worker) in self.workers.drain(..).enumerate() {
            match worker.join() {
                Ok(Ok(summary)) => total.add(&summary),
                Ok(Err(error)) => tracing::error!(worker = number, %error, "worker ended"),
                Err(_) => tracing::error!(worker = number, "worker ended by a panic outside its loop"),
            }
        }
        total
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.end();
    }
}

fn start_http(address: SocketAddr, published: &Arc<Published>) -> Result<HttpThread, StartError> {
    let failed = |error| StartError::Bind { listener: "node.http".to_owned(), address, error };
    HttpThread::start(address, Arc::clone(published)).map_err(failed)
}

fn certificates_of(config: &Config) -> Vec<(String, i64)> {
    config.signers.clone()
}

/// Name resolution for what the listeners can reach. A system that knows no name servers does without, unless a trunk has a name.
fn start_resolve(
    resolve: resolve::Config,
    proxy: &mut crate::proxy::Config,
) -> Result<Option<ResolveThread>, StartError> {
    if !proxy.locate {
        return Ok(None);
    }
    let mut transports: Vec<Transport> = proxy.listeners.iter().map(|listener| listener.transport).collect();
    transports
        .sort_by_key(|transport| [Transport::Udp, Transport::Tcp, Transport::Tls].iter().position(|t| t == transport));
    transports.dedup();
    transports.retain(|transport| !transport.is_web());
    let has = |is_it: fn(&SocketAddr) -> bool| proxy.listeners.iter().any(|listener| is_it(&listener.bind));
    let (ipv4, ipv6) = (has(SocketAddr::is_ipv4), has(SocketAddr::is_ipv6));
    let policy = Policy { transports, prefer_ipv6: resolve.prefer_ipv6, ipv4, ipv6 };
    let has_names = proxy.trunks.iter().flat_map(|trunk| &trunk.next_hops).any(|hop| hop.address().is_none());
    match ResolveThread::start(resolve, policy) {
        Ok(thread) => Ok(Some(thread)),
        Err(error) if has_names => Err(StartError::Resolve(error)),
        Err(error) => {
            tracing::warn!(%error, "names are not resolved");
            proxy.locate = false;
            Ok(None)
        }
    }
}

/// Binds each listener once per worker. The first socket decides port 0; the configuration learns the bound address.
fn bind_all(config: &mut Config, workers: usize) -> Result<Vec<Bound>, StartError> {
    let mut all: Vec<Bound> = (0..workers).map(|_| Bound { udp: Vec::new(), tcp: Vec::new() }).collect();
    for (listener, id) in config.proxy.listeners.iter_mut().zip(0..) {
        let id = ListenerId(id);
        let failed = |error| StartError::Bind { listener: listener.name.clone(), address: listener.bind, error };
        let bound = match listener.transport {
            Transport::Udp => bind_udp(listener.bind, id, &config.node.udp, &mut all).map_err(failed)?,
            _ => bind_tcp(listener.bind, id, &mut all).map_err(failed)?,
        };
        if listener.advertise_port == listener.bind.port() {
            listener.advertise_port = bound.port();
        }
        listener.bind = bound;
    }
    Ok(all)
}

fn bind_udp(address: SocketAddr, id: ListenerId, config: &udp::Config, all: &mut [Bound]) -> io::Result<SocketAddr> {
    let first = udp::bind(address, config)?;
    let address = first.local_addr()?;
    for bound in all.iter_mut().skip(1) {
        bound.udp.push((id, udp::share(&first, config)?));
    }
    if let Some(bound) = all.first_mut() {
        bound.udp.push((id, first));
    }
    Ok(address)
}

fn bind_tcp(address: SocketAddr, id: ListenerId, all: &mut [Bound]) -> io::Result<SocketAddr> {
    let first = tcp::bind(address)?;
    let address = first.local_addr()?;
    for bound in all.iter_mut().skip(1) {
        bound.tcp.push((id, tcp::share(&first)?));
    }
    if let Some(bound) = all.first_mut() {
        bound.tcp.push((id, first));
    }
    Ok(address)
}
