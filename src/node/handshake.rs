//! TLS and WebSocket handshakes, on a thread of their own: a storm of reconnects takes its time there, not from the packets. How many begin
//! in a second and how many may be under way is bounded; what comes on top is refused at once. The worker that asked gets the socket back
//! with its session.

use std::io;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::clock;
use super::side_thread::SideThread;
use crate::proxy::admission::Rate;
use crate::sip::hop::{ListenerId, PeerId, Transport};
use crate::transport::tcp::Stream;
use crate::transport::tls::{Session, Store};
use crate::transport::ws;

/// Octets of a WebSocket's HTTP request read at once.
const HEAD: usize = 4096;

/// Bounds on handshakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For one handshake; 5 s (CN-7).
    pub timeout: Duration,
    /// Handshakes that compute or wait for their peer at the same time, accepted and opened connections each; 256.
    pub max_in_flight: usize,
    /// Connections that wait for their handshake to begin; 1024. What comes on top is closed.
    pub queue: usize,
    /// Handshakes of accepted connections that begin in a second, all workers together; 500, and as many at once. What comes on top is
    /// closed.
    pub per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), max_in_flight: 256, queue: 1024, per_second: 500 }
    }
}

#[derive(Clone, Copy)]
enum Role {
    Server(ListenerId, Transport),
    Client(PeerId),
}

/// A socket without a runtime, and the session over it.
type Shaken = (StdStream, Option<Connection>);

struct Job {
    socket: StdStream,
    role: Role,
    answer: oneshot::Sender<io::Result<Shaken>>,
}

/// The workers' end.
#[derive(Clone)]
pub struct Handshaker {
    /// Of accepted connections, and of opened ones: whoever connects to us does not keep us from connecting.
    accepted: mpsc::Sender<Job>,
    opened: mpsc::Sender<Job>,
    store: Store,
    pace: Arc<Pace>,
}

/// How fast handshakes begin.
struct Pace {
    rate: Rate,
    bucket: AtomicU64,
    epoch: Instant,
}

impl Handshaker {
    /// The credentials in force.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether one more accepted connection may begin its handshake at this moment.
    pub fn may_begin(&self, now: Instant) -> bool {
        let Pace { rate, bucket, epoch } = &*self.pace;
        let nanos = now.saturating_duration_since(*epoch).as_nanos();
        rate.take_shared(bucket, u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// As the server of a listener. What a WebSocket's messages travel in comes back as the bare stream.
    pub async fn accept(&self, socket: TcpStream, listener: ListenerId, transport: Transport) -> io::Result<Stream> {
        run(&self.accepted, socket, Role::Server(listener, transport)).await
    }

    /// As a client of a neighbour.
    pub async fn connect(&self, socket: TcpStream, peer: PeerId) -> io::Result<Stream> {
        run(&self.opened, socket, Role::Client(peer)).await
    }
}

/// Hands a connection over for its handshake. `ResourceBusy`: there is no place for it.
async fn run(queue: &mpsc::Sender<Job>, socket: TcpStream, role: Role) -> io::Result<Stream> {
    let (answer, answered) = oneshot::channel();
    let job = Job { socket: socket.into_std()?, role, answer };
    queue.try_send(job).map_err(|_| io::Error::from(io::ErrorKind::ResourceBusy))?;
    let (socket, tls) = answered.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let socket = TcpStream::from_std(socket)?;
    Ok(match tls {
        Some(tls) => Session::new(socket, tls).into(),
        None => socket.into(),
    })
}

/// The thread; ends when it is dropped.
pub struct HandshakeThread {
    handshaker: Handshaker,
    _thread: SideThread,
}

impl HandshakeThread {
    /// Starts it.
    ///
    /// # Errors
    /// Without threads or a runtime there are no handshakes.
    pub fn start(config: Config, store: Store) -> io::Result<Self> {
        let queue = || mpsc::channel(config.queue.max(1));
        let ((accepted, from_peers), (opened, to_peers)) = (queue(), queue());
        let rate = Rate::new(config.per_second, config.per_second);
        let pace = Arc::new(Pace { rate, bucket: AtomicU64::new(0), epoch: clock::instant() });
        let own = store.clone();
        let thread = SideThread::start("handshakes", move || async move {
            tokio::join!(serve(&config, &own, from_peers), serve(&config, &own, to_peers));
        })?;
        Ok(Self { handshaker: Handshaker { accepted, opened, store, pace }, _thread: thread })
    }

    /// The workers' end.
    pub fn handshaker(&self) -> Handshaker {
        self.handshaker.clone()
    }
}

async fn serve(config: &Config, store: &Store, mut jobs: mpsc::Receiver<Job>) {
    let room = Arc::new(Semaphore::new(config.max_in_flight.max(1)));
    while let Some(job) = jobs.recv().await {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (store, limit) = (store.clone(), config.timeout);
        tokio::spawn(async move {
            let shaken = timeout(limit, shake(&store, job.socket, job.role)).await;
            let _ = job.answer.send(shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
            drop(permit);
        });
    }
}

async fn shake(store: &Store, socket: StdStream, role: Role) -> io::Result<Shaken> {
    let socket = TcpStream::from_std(socket)?;
    let credentials = store.current();
    let unknown = || io::Error::from(io::ErrorKind::InvalidData);
    let (socket, tls) = match role {
        Role::Server(listener, Transport::Ws) => {
            let origins = credentials.origins(listener).ok_or_else(unknown)?;
            (open_web(socket, &origins).await?, None)
        }
        Role::Server(listener, transport) => {
            let config = credentials.server(listener).ok_or_else(unknown)?;
            let mut session = TlsAcceptor::from(config).accept(socket).await?;
            if transport.is_web() {
                let origins = credentials.origins(listener).ok_or_else(unknown)?;
                session = open_web(session, &origins).await?;
            }
            let (socket, tls) = session.into_inner();
            (socket, Some(Connection::Server(tls)))
        }
        Role::Client(peer) => {
            let (config, name) = credentials.client(peer).ok_or_else(unknown)?;
            let (socket, tls) = TlsConnector::from(config).connect(name, socket).await?.into_inner();
            (socket, Some(Connection::Client(tls)))
        }
    };
    Ok((socket.into_std()?, tls))
}

/// The HTTP part (RFC 6455 4.2). Its size is bounded by the library, its time by [`Config::timeout`]. A client that sends frames before
/// it has the answer is refused, so nothing read is left in the library's hands.
async fn open_web<S: AsyncRead + AsyncWrite + Unpin>(stream: S, origins: &ws::Origins) -> io::Result<S> {
    #[allow(clippy::result_large_err)] // the type that the library wants
    let screen = |request: &Request, response| ws::screen(request, response, origins);
    let config = WebSocketConfig::default().read_buffer_size(HEAD).write_buffer_size(0);
    let opened = tokio_tungstenite::accept_hdr_async_with_config(stream, screen, Some(config)).await;
    opened
        .map(WebSocketStream::into_inner)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (peer.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn who_connects_and_says_nothing_does_not_keep_us_from_connecting() {
        let mut credentials = crate::transport::tls::Credentials::default();
        credentials.add_web(ListenerId(0), ws::Origins::default());
        let config = Config { timeout: Duration::from_secs(60), max_in_flight: 1, queue: 1, ..Config::default() };
        let handshakes = HandshakeThread::start(config, Store::new(Arc::new(credentials))).unwrap();
        let mut silent = Vec::new();
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..5 {
            let (peer, accepted) = pair().await;
            let handshaker = handshakes.handshaker();
            silent.push(peer);
            waiting.spawn(async move { handshaker.accept(accepted, ListenerId(0), Transport::Ws).await.err() });
        }
        // One is under way, one or two wait, and the others have been refused.
        let refused = waiting.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        // Nobody has said what certificate this peer has: the handshake was begun, and has ended.
        let (_peer, ours) = pair().await;
        let ended = timeout(Duration::from_secs(20), handshakes.handshaker().connect(ours, PeerId(7))).await;
        assert_eq!(ended.expect("it has its turn").err().unwrap().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn so_many_handshakes_begin_in_a_second() {
        let config = Config { per_second: 10, ..Config::default() };
        let handshakes = HandshakeThread::start(config, Store::default()).unwrap();
        let (one, other) = (handshakes.handshaker(), handshakes.handshaker());
        let now = one.pace.epoch + Duration::from_secs(1);
        assert_eq!(
            (0..20).filter(|_| one.may_begin(now) || other.may_begin(now)).count(),
            10,
            "of all workers together"
        );
        let later = now + Duration::from_millis(500);
        assert_eq!((0..20).filter(|_| other.may_begin(later)).count(), 5);
    }
}
