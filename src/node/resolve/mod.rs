//! Names to addresses (RFC 3263), apart from the packet path: own thread, own runtime, bounded queue. hickory keeps the records by their
//! TTL; here concurrent questions for one name become one, a second is the shortest time an answer lives, and old answers serve on
//! when no name server answers (D-7).

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use moka::future::Cache;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::random;
use super::side_thread::SideThread;
use crate::proxy::location::order::{
    First, Naptr, Policy, Service, Srv, default_services, draw, first, is_absent, last_resort, places, services_of,
};
use crate::proxy::{LocateFailure, NextHop, Target, TargetHost};

/// Settings of name resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name servers; none: those of the system.
    pub servers: Vec<SocketAddr>,
    /// For one question to one name server; 500 ms.
    pub timeout: Duration,
    /// Times a question is asked; 2.
    pub attempts: usize,
    /// For everything one request asks; 2 s (D-7).
    pub budget: Duration,
    /// A record is kept no longer than this, whatever its TTL; 1 h.
    pub max_ttl: Duration,
    /// That there is no record is kept no longer than this; 60 s.
    pub negative_ttl: Duration,
    /// How long old records serve on while no name server answers; 1 h.
    pub stale: Duration,
    /// Names that are kept; 10,000.
    pub cache_entries: u64,
    /// Requests being located at the same time; 256.
    pub max_in_flight: usize,
    /// Requests that wait; 4096. What comes on top fails at once.
    pub queue: usize,
    /// The floor under any TTL: within it nothing is asked twice; 1 s. Not a matter of the file.
    pub floor: Duration,
    /// After a question that was not answered in time, old answers serve at once for this long; 5 s. Not a matter of the file.
    pub retry_after: Duration,
    /// IPv6 addresses of a name are tried before its IPv4 addresses.
    pub prefer_ipv6: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_millis(500),
            attempts: 2,
            budget: Duration::from_secs(2),
            max_ttl: Duration::from_secs(3600),
            negative_ttl: Duration::from_secs(60),
            stale: Duration::from_secs(3600),
            cache_entries: 10_000,
            max_in_flight: 256,
            queue: 4096,
            floor: Duration::from_secs(1),
            retry_after: Duration::from_secs(5),
            prefer_ipv6: true,
        }
    }
}

/// Addresses in the order of trial, or why there are none.
pub type Located = Result<Arc<[NextHop]>, LocateFailure>;

/// What is asked, by whom.
pub struct Question {
    /// Given back with the answer.
    pub id: u64,
    /// What RFC 3263 is asked.
    pub target: Target,
    /// Where the answer goes; dropped if there is no room.
    pub answer_to: mpsc::Sender<(u64, Located)>,
}

/// The workers' end.
#[derive(Clone)]
pub struct Locator {
    queue: mpsc::Sender<Question>,
}

impl Locator {
    /// Asks; the question comes back when too many wait.
    pub fn ask(&self, question: Question) -> Result<(), Question> {
        self.queue.try_send(question).map_err(|error| error.into_inner())
    }
}

/// Why there is no name resolution.
#[derive(Debug)]
pub enum StartError {
    /// The system's name servers are not known, or the resolver refuses its settings.
    Resolver(NetError),
    /// No thread, no runtime.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolver(error) => write!(f, "name resolution: {error}; give [dns] servers"),
            Self::Thread(error) => write!(f, "name resolution: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The thread; ends when it is dropped.
pub struct ResolveThread {
    locator: Locator,
    _thread: SideThread,
}

impl ResolveThread {
    /// Starts it. `policy` says what this element can reach.
    ///
    /// # Errors
    /// Without name servers or a thread.
    pub fn start(config: Config, policy: Policy) -> Result<Self, StartError> {
        let (queue, questions) = mpsc::channel(config.queue.max(1));
        // The resolver is made where it runs; whether that went well is told before this returns.
        let (made, is_made) = std::sync::mpsc::sync_channel(1);
        let thread = SideThread::start("resolve", move || async move {
            match Records::new(&config) {
                Ok(records) => {
                    let _ = made.send(Ok(()));
                    serve(config, Arc::new(records), Arc::new(policy), questions).await;
                }
                Err(error) => drop(made.send(Err(error))),
            }
        });
        let thread = thread.map_err(StartError::Thread)?;
        match is_made.recv() {
            Ok(Ok(())) => Ok(Self { locator: Locator { queue }, _thread: thread }),
            Ok(Err(error)) => Err(StartError::Resolver(error)),
            Err(_) => Err(StartError::Thread(io::ErrorKind::Other.into())), // it ended before it could say anything
        }
    }

    /// The workers' end.
    pub fn locator(&self) -> Locator {
        self.locator.clone()
    }
}

async fn serve(config: Config, records: Arc<Records>, policy: Arc<Policy>, mut questions: mpsc::Receiver<Question>) {
    let room = Arc::new(Semaphore::new(config.max_in_flight.max(1)));
    while let Some(question) = questions.recv().await {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (records, policy, budget) = (Arc::clone(&records), Arc::clone(&policy), config.budget);
        tokio::spawn(async move {
            let located = timeout(budget, locate(&records, &question.target, &policy)).await;
            let located = located.unwrap_or(Err(LocateFailure::NoAnswer));
            let _ = question.answer_to.try_send((question.id, located)); // the call's own deadline covers a lost answer
            drop(permit);
        });
    }
}

/// RFC 3263 4 from beginning to end.
async fn locate(records: &Records, target: &Target, policy: &Policy) -> Located {
    let TargetHost::Name(name) = &target.host else {
        return target.direct().map(|hop| Arc::from([hop])).ok_or(LocateFailure::Unsupported);
    };
    let services = match first(target, policy).ok_or(LocateFailure::Unsupported)? {
        First::Nothing(hop) => return Ok(Arc::from([hop])),
        First::Addresses { transport, port } => {
            return found(places(&records.addresses(name, policy).await?, transport, port, policy));
        }
        First::Services(services) => services,
        First::Naptr => {
            // Old forwarders fail on this type: as if there were none, which is what nearly all names have.
            let offered = services_of(&records.naptr(name).await.unwrap_or_default(), target, policy);
            if offered.is_empty() { default_services(target, policy) } else { offered }
        }
    };
    if let Some(hops) = by_services(records, &services, policy).await? {
        return found(hops);
    }
    let transport = last_resort(target, policy).ok_or(LocateFailure::Unsupported)?;
    let port = target.port.unwrap_or(transport.default_port());
    found(places(&records.addresses(name, policy).await?, transport, port, policy))
}

/// The addresses of the first service that has some; `None` if there is no SRV record at all.
///
/// # Errors
/// No service has addresses, and of some it is not known whether they are there.
async fn by_services(
    records: &Records,
    services: &[Service],
    policy: &Policy,
) -> Result<Option<Vec<NextHop>>, LocateFailure> {
    let (mut has_srv, mut failure) = (false, None);
    for service in services {
        let srv = match records.srv(&service.name).await {
            Ok(srv) => srv,
            Err(error) => {
                failure = Some(error);
                continue;
            }
        };
        has_srv |= !srv.is_empty();
        if is_absent(&srv) {
            continue;
        }
        let mut hops = Vec::new();
        let mut random = || u64::from_le_bytes(random());
        for record in draw(&srv, &mut random).into_iter().take(MAX_SRV) {
            // One target without an address does not spoil the others.
            if let Ok(addresses) = records.addresses(&record.target, policy).await {
                hops.extend(places(&addresses, service.transport, record.port, policy));
            }
        }
        if !hops.is_empty() {
            return Ok(Some(hops)); // RFC 3263 4.1: the first service that works out; its addresses are enough to try
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(has_srv.then(Vec::new)),
    }
}

/// SRV targets of one service that are looked at: whoever owns the zone decides how many there are.
const MAX_SRV: usize = 16;
/// Addresses that are handed on.
const MAX_PLACES: usize = 16;

fn found(mut hops: Vec<NextHop>) -> Located {
    hops.truncate(MAX_PLACES);
    if hops.is_empty() { Err(LocateFailure::NoSuchName) } else { Ok(hops.into()) }
}

/// The records of one name and type.
type Answer = Arc<[RData]>;
type Key = (Arc<str>, RecordType);

/// The longest wait for a name server where an old answer is at hand. The question goes on beside, for the next call.
const STALE_WAIT: Duration = Duration::from_millis(250);

/// Where records come from.
#[derive(Clone)]
struct Records {
    resolver: TokioResolver,
    /// Answers of the last moment: makes one question of many, and is the floor under any TTL.
    recent: Cache<Key, Answer>,
    /// The last answers of name servers, "there is none" among them, for when no name server answers.
    old: Cache<Key, Answer>,
    /// What was asked in vain lately, and has an old answer.
    failing: Cache<Key, ()>,
}

impl Records {
    fn new(config: &Config) -> Result<Self, NetError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if config.servers.is_empty() {
            Resolver::builder(provider)?
        } else {
            let servers = config.servers.iter().map(|server| name_server(*server)).collect();
            Resolver::builder_with_config(ResolverConfig::from_name_servers(servers), provider)
        };
        let options = builder.options_mut();
        options.timeout = config.timeout;
        options.attempts = config.attempts.saturating_sub(1); // hickory counts repetitions
        options.ndots = 0; // names in SIP are whole
        options.cache_size = config.cache_entries;
        options.positive_max_ttl = Some(config.max_ttl);
        options.negative_max_ttl = Some(config.negative_ttl);
        let resolver = builder.build()?;
        let life = |time| Cache::builder().max_capacity(config.cache_entries).time_to_live(time);
        let (recent, old) = (life(config.floor).build(), life(config.stale).build());
        let failing = Cache::builder().max_capacity(config.cache_entries).time_to_live(config.retry_after).build();
        Ok(Self { resolver, recent, old, failing })
    }

    /// Records of this type; none if the name has none.
    async fn ask(&self, name: &Arc<str>, kind: RecordType) -> Result<Answer, LocateFailure> {
        let key = (Arc::clone(name), kind);
        let asked = self.recent.try_get_with(key.clone(), self.refreshed(key));
        asked.await.map_err(|failure: Arc<LocateFailure>| *failure)
    }

    /// What the name servers say, or said before (D-7).
    async fn refreshed(&self, key: Key) -> Result<Answer, LocateFailure> {
        let Some(old) = self.old.get(&key).await else { return self.look_up(key).await };
        if self.failing.contains_key(&key) {
            return Ok(old);
        }
        let (beside, about) = (self.clone(), key.clone());
        let question = tokio::spawn(async move { beside.look_up(about).await });
        if let Ok(Ok(Ok(answer))) = timeout(STALE_WAIT, question).await {
            return Ok(answer);
        }
        self.failing.insert(key, ()).await;
        Ok(old)
    }

    async fn look_up(&self, key: Key) -> Result<Answer, LocateFailure> {
        let (name, kind) = &key;
        // The dot says that no search domain is to be tried.
        let answer: Answer = match self.resolver.lookup(format!("{name}."), *kind).await {
            Ok(lookup) => {
                let answers = lookup.answers().iter().filter(|record| record.record_type() == *kind);
                answers.map(|record| record.data.clone()).collect()
            }
            Err(error) if error.is_no_records_found() && !is_server_failure(&error) => Answer::from([]),
            Err(error) => {
                tracing::debug!(%name, %kind, %error, "name resolution");
                return Err(LocateFailure::NoAnswer);
            }
        };
        self.failing.invalidate(&key).await;
        self.old.insert(key, Arc::clone(&answer)).await;
        Ok(answer)
    }

    async fn naptr(&self, name: &Arc<str>) -> Result<Vec<Naptr>, LocateFailure> {
        let answer = self.ask(name, RecordType::NAPTR).await?;
        let records = answer.iter().filter_map(|data| match data {
            RData::NAPTR(naptr) => Some(Naptr {
                order: naptr.order,
                preference: naptr.preference,
                flags: naptr.flags.clone(),
                service: naptr.services.clone(),
                regexp: naptr.regexp.clone(),
                replacement: plain(&naptr.replacement.to_ascii()),
            }),
            _ => None,
        });
        Ok(records.collect())
    }

    async fn srv(&self, name: &Arc<str>) -> Result<Vec<Srv>, LocateFailure> {
        let answer = self.ask(name, RecordType::SRV).await?;
        let records = answer.iter().filter_map(|data| match data {
            RData::SRV(srv) => Some(Srv {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: plain(&srv.target.to_ascii()),
            }),
            _ => None,
        });
        Ok(records.collect())
    }

    /// Addresses of all families that can be reached (RFC 7984 3.1).
    async fn addresses(&self, name: &Arc<str>, policy: &Policy) -> Result<Vec<IpAddr>, LocateFailure> {
        let ask = |wanted: bool, kind| async move { if wanted { Some(self.ask(name, kind).await) } else { None } };
        let asked = tokio::join!(ask(policy.ipv6, RecordType::AAAA), ask(policy.ipv4, RecordType::A));
        let mut addresses = Vec::new();
        let mut failure = None;
        for answer in [asked.0, asked.1].into_iter().flatten() {
            match answer {
                Ok(answer) => addresses.extend(answer.iter().filter_map(RData::ip_addr)),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(failure) if addresses.is_empty() => Err(failure),
            _ => Ok(addresses),
        }
    }
}

/// NXDOMAIN and "no such record" are answers; anything else of a server is none.
fn is_server_failure(error: &NetError) -> bool {
    use hickory_resolver::proto::op::ResponseCode;
    let NetError::Dns(hickory_resolver::net::DnsError::NoRecordsFound(none)) = error else { return true };
    !matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

fn plain(name: &str) -> Arc<str> {
    name.trim_end_matches('.').to_ascii_lowercase().into()
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    };
    let connections = vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)];
    NameServerConfig::new(address.ip(), true, connections)
}
