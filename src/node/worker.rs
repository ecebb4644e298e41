//! A worker: one OS thread with one single-threaded runtime. Tasks wait for readiness and call into the [`PacketLoop`]; between two
//! waits nothing else runs, so its state needs no lock.
//!
//! A panic in the loop ends this life of the worker: it is logged, its calls and connections are lost, and the thread begins anew
//! with the same sockets and lanes. The other workers do not notice.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::admin::Question;
use super::cdr::Cdr;
use super::events::{Events, Observer};
use super::fetch::{Answered, Fetcher};
use super::handshake::Handshaker;
use super::lane::{Ins, Outs};
use super::machine::Owners;
use super::metrics::{Published, Report};
use super::names::TrunkNames;
use super::packet_loop::{Halt, NotShaken, Opening, PacketLoop, Parts, Summary};
use super::resolve::{Located, Locator};
use super::service::Asking;
use super::{clock, random, signer};
use crate::proxy::Snapshot;
use crate::proxy::admission::Rate;
use crate::sip::hop::{ConnectionId, ListenerId, Transport};
use crate::transport::tcp::Stream;
use crate::transport::{tcp, udp};

/// Wait after a failure to accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest time between two looks at the clock.
const FAR: Duration = Duration::from_secs(3600);

/// Bound sockets of one worker, by listener.
pub(super) struct Bound {
    pub udp: Vec<(ListenerId, UdpSocket)>,
    pub tcp: Vec<(ListenerId, TcpListener)>,
}

/// What all workers are told.
#[derive(Clone)]
pub(super) struct Orders {
    pub snapshot: Arc<Snapshot>,
    /// Settings of connections.
    pub tcp: tcp::Config,
    /// STUN binding requests are answered.
    pub answers_stun: bool,
    /// Take no new calls.
    pub drain: bool,
}

#[cfg(test)]
impl Orders {
    /// With the defaults of everything else.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, tcp: tcp::Config::default(), answers_stun: false, drain: false }
    }
}

/// How often a worker writes its counters down.
const PUBLISH: Duration = Duration::from_secs(1);

/// Both ends of a queue: one is given to whoever answers, the other outlives a worker's panics.
pub(super) type Mailbox<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

/// What a worker is made of; outlives its panics.
pub(super) struct Worker {
    pub number: usize,
    pub owners: Owners,
    pub orders: watch::Receiver<Orders>,
    pub published: Arc<Published>,
    pub udp: udp::Config,
    pub bound: Bound,
    pub message_outs: Outs,
    pub message_ins: Ins,
    pub transmit_outs: Outs,
    pub transmit_ins: Ins,
    pub fetcher: Fetcher,
    pub handshaker: Handshaker,
    pub answers: Mailbox<Answered>,
    pub locator: Option<Locator>,
    pub located: Mailbox<(u64, Located)>,
    pub signer: signer::Asker,
    pub signatures: Mailbox<signer::Answered>,
    pub questions: Mailbox<Question>,
    pub asked: Mailbox<Asking>,
    pub cdr: Option<Cdr>,
    pub observer: Observer,
    pub names: TrunkNames,
    pub stop: CancellationToken,
}

/// How a life of a worker ended.
enum End {
    Stopped(Report),
    Panicked(Report),
}

impl Worker {
    /// Runs until stopped. `Err` only if the worker can not begin at all.
    pub fn run(mut self) -> io::Result<Summary> {
        let mut earlier = Rc::new(Report::default());
        loop {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = LocalSet::new();
            match local.block_on(&runtime, self.live(&earlier))? {
                End::Stopped(report) => return Ok(report.summary),
                End::Panicked(report) => {
                    let calls_lost = report.summary.live;
                    tracing::error!(worker = self.number, calls_lost, "worker restarted after a panic");
                    earlier = Rc::new(report.buried());
                }
            }
        }
    }

    /// One life; what was counted in earlier ones counts on.
    async fn live(&mut self, earlier: &Rc<Report>) -> io::Result<End> {
        let sockets = self.bound.udp.iter().map(|(id, socket)| udp::Socket::new(socket.try_clone()?, *id, &self.udp));
        let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
        let count = sockets.len();
        let shared = self.shared(sockets, earlier);
        for socket in 0..count {
            let shared = shared.clone();
            spawn_local(async move { poll_fn(|cx| shared.poll(|packets| packets.poll_socket(cx, socket))).await });
        }
        for (id, listener) in &self.bound.tcp {
            let transport = self
                .orders
                .borrow()
                .snapshot
                .config
                .listener(*id)
                .map_or(Transport::Tcp, |listener| listener.transport);
            let (listener, pace) = (tcp::listen(listener.try_clone()?)?, Pace::new(clock::instant()));
            spawn_local(accept(shared.clone(), listener, (*id, transport), pace));
        }
        Ok(self.serve(&shared).await)
    }

    fn shared(&self, sockets: Vec<udp::Socket>, earlier: &Rc<Report>) -> Shared {
        let packets = PacketLoop::new(self.parts(earlier.summary.restarts), sockets);
        Shared::new(packets, self.handshaker.clone(), Rc::clone(earlier))
    }

    fn parts(&self, restarts: u32) -> Parts {
        let orders = self.orders.borrow().clone();
        Parts {
            worker: self.number,
            restarts,
            owners: self.owners,
            seed: random::<32>(),
            answers_stun: orders.answers_stun,
            snapshot: orders.snapshot,
            tcp: orders.tcp,
            messages: self.message_outs.again(),
            transmits: self.transmit_outs.again(),
            fetcher: self.fetcher.clone(),
            answers: self.answers.0.clone(),
            locator: self.locator.clone(),
            located: self.located.0.clone(),
            signer: self.signer.clone(),
            signatures: self.signatures.0.clone(),
            cdr: self.cdr.clone(),
            events: Events::new(self.observer.clone(), self.names.clone()),
        }
    }

    /// Lanes, answers, timers, the end.
    async fn serve(&mut self, shared: &Shared) -> End {
        let timer = sleep_until((clock::instant() + FAR).into());
        tokio::pin!(timer);
        let mut publish = tokio::time::interval(PUBLISH);
        publish.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if self.orders.borrow_and_update().drain {
            shared.enter(PacketLoop::drain);
        }
        loop {
            let deadline = shared.arm().unwrap_or_else(|| clock::instant() + FAR);
            if timer.deadline() != deadline.into() {
                timer.as_mut().reset(deadline.into());
            }
            let (message_ins, transmit_ins) = (&mut self.message_ins, &mut self.transmit_ins);
            tokio::select! {
                () = shared.signals.panicked.notified() => return End::Panicked(shared.report()),
                () = self.stop.cancelled() => {
                    shared.enter(PacketLoop::close);
                    return End::Stopped(shared.report());
                }
                () = shared.signals.rearm.notified() => {}
                parcel = poll_fn(|cx| message_ins.poll(cx)) => shared.enter(|packets| packets.on_messages(&parcel)),
                parcel = poll_fn(|cx| transmit_ins.poll(cx)) => shared.enter(|packets| packets.on_transmits(&parcel)),
                Some(answered) = self.answers.1.recv() => shared.enter(|packets| packets.on_answer(answered)),
                Some((need, located)) = self.located.1.recv() => shared.enter(|packets| packets.on_located(need, located)),
                Some(signature) = self.signatures.1.recv() => shared.enter(|packets| packets.on_signature(signature)),
                Some(asking) = self.asked.1.recv() => shared.enter(|packets| packets.on_asked(asking)),
                Some(question) = self.questions.1.recv() => shared.enter(|packets| packets.on_question(question)),
                Ok(()) = self.orders.changed() => {
                    let Orders { snapshot, tcp, answers_stun, drain } = self.orders.borrow_and_update().clone();
                    shared.enter(|packets| {
                        packets.set_snapshot(snapshot);
                        packets.set_sockets(tcp, answers_stun);
                        if drain {
                            packets.drain();
                        }
                    });
                    shared.publish(&self.published, self.number);
                }
                _ = publish.tick() => shared.publish(&self.published, self.number),
                () = timer.as_mut() => shared.enter(PacketLoop::on_timeout),
            }
        }
    }
}

struct Signals {
    panicked: Notify,
    /// The timer of the main task is set too late.
    rearm: Notify,
}

/// The packet loop as its tasks see it.
#[derive(Clone)]
struct Shared {
    /// `None` after a panic.
    packets: Rc<RefCell<Option<PacketLoop>>>,
    /// What was seen up to a panic.
    last: Rc<RefCell<Report>>,
    /// What was seen in earlier lives.
    earlier: Rc<Report>,
    signals: Rc<Signals>,
    armed: Rc<std::cell::Cell<Option<Instant>>>,
    handshaker: Handshaker,
}

impl Shared {
    fn new(packets: PacketLoop, handshaker: Handshaker, earlier: Rc<Report>) -> Self {
        Self {
            packets: Rc::new(RefCell::new(Some(packets))),
            last: Rc::default(),
            earlier,
            signals: Rc::new(Signals { panicked: Notify::new(), rearm: Notify::new() }),
            armed: Rc::default(),
            handshaker,
        }
    }

    /// Lets the packet loop work, then sees to what it asks of its tasks. `None` after a panic, now or before.
    fn with<R>(&self, work: impl FnOnce(&mut PacketLoop) -> R) -> Option<R> {
        let mut guard = self.packets.borrow_mut();
        let packets = guard.as_mut()?;
        // The loop's state may be broken after a panic; it is not used again but for its counters.
        let Ok(result) = catch_unwind(AssertUnwindSafe(|| work(packets))) else {
            *self.last.borrow_mut() = packets.report();
            *guard = None;
            self.signals.panicked.notify_one();
            return None;
        };
        let opening = packets.take_opening();
        if packets.deadline().is_some_and(|deadline| self.armed.get().is_none_or(|armed| deadline < armed)) {
            self.signals.rearm.notify_one();
        }
        drop(guard);
        opening.into_iter().for_each(|opening| drop(spawn_local(connect(self.clone(), opening))));
        Some(result)
    }

    fn enter(&self, work: impl FnOnce(&mut PacketLoop)) {
        self.with(work);
    }

    /// For tasks: after a panic they wait for their end, which comes with the runtime's.
    fn poll<R>(&self, work: impl FnOnce(&mut PacketLoop) -> Poll<R>) -> Poll<R> {
        self.with(work).unwrap_or(Poll::Pending)
    }

    /// When the main task is to look at the timers next; remembered as the armed time.
    fn arm(&self) -> Option<Instant> {
        let deadline = self.packets.borrow().as_ref().and_then(PacketLoop::deadline);
        self.armed.set(deadline);
        deadline
    }

    /// Writes down what was seen; after a panic what was written last stands.
    fn publish(&self, published: &Published, worker: usize) {
        if self.packets.borrow().is_some() {
            published.publish(worker, self.report());
        }
    }

    /// What was seen, in earlier lives too.
    fn report(&self) -> Report {
        let packets = self.packets.borrow();
        let mut report = packets.as_ref().map_or_else(|| self.last.take(), PacketLoop::report);
        report.add(&self.earlier);
        report
    }
}

/// How fast one listener accepts.
struct Pace {
    began: Instant,
    bucket: u64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { began: now, bucket: 0 }
    }

    fn may_go(&mut self, rate: Rate, now: Instant) -> bool {
        let nanos = now.saturating_duration_since(self.began).as_nanos();
        rate.take(&mut self.bucket, u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

async fn accept(
    shared: Shared,
    listener: tokio::net::TcpListener,
    (id, transport): (ListenerId, Transport),
    mut pace: Pace,
) {
    loop {
        // Who comes too fast waits in the kernel: handshakes and first messages of a storm do not delay the calls there are.
        let Some(rate) = shared.with(|packets| packets.accept_rate()) else { return };
        while !pace.may_go(rate, clock::instant()) {
            tokio::time::sleep(rate.interval()).await;
        }
        match listener.accept().await {
            Ok((stream, remote)) if transport != Transport::Tcp => {
                spawn_local(admit(shared.clone(), stream, remote, id, transport));
            }
            Ok((stream, remote)) => {
                // A refused connection is closed by being dropped; the table has counted it.
                if let Some(Ok(connection)) = shared.with(|packets| packets.on_accepted(stream, remote, id, None)) {
                    spawn_local(drive(shared.clone(), connection));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// TLS and WebSocket before the table: who has no session takes no place in it.
async fn admit(shared: Shared, stream: TcpStream, remote: SocketAddr, listener: ListenerId, transport: Transport) {
    let may_prove = shared.handshaker.store().current().asks_clients(listener);
    let Some(Ok(())) = shared.with(|packets| packets.on_handshake(remote, may_prove)) else { return };
    if !shared.handshaker.may_begin(clock::instant()) {
        return shared.enter(|packets| packets.on_handshake_failed(remote, NotShaken::TooMany));
    }
    match shared.handshaker.accept(stream, listener, transport).await {
        Ok(session) => {
            let peer = shared.handshaker.store().current().peer_of(&session.identities());
            let accepted = shared.with(|packets| {
                let stream = if transport.is_web() { packets.web(session) } else { session };
                packets.on_shaken(stream, remote, listener, peer)
            });
            if let Some(Ok(connection)) = accepted {
                drive(shared, connection).await;
            }
        }
        Err(error) => {
            tracing::debug!(%remote, %error, "handshake refused"); // strangers decide how often
            let is_full = error.kind() == io::ErrorKind::ResourceBusy;
            let why = if is_full { NotShaken::QueueFull } else { NotShaken::Failed };
            shared.enter(|packets| packets.on_handshake_failed(remote, why));
        }
    }
}

async fn connect(shared: Shared, opening: Opening) {
    let Some(limit) = shared.with(|packets| packets.connect_timeout()) else { return };
    let result = match (tcp::connect(opening.local, opening.remote, limit).await, opening.tls) {
        (Ok(stream), Some(peer)) => {
            let session = shared.handshaker.connect(stream, peer).await;
            if let Err(error) = &session {
                tracing::warn!(remote = %opening.remote, %error, "TLS handshake failed");
            }
            session
        }
        (result, _) => result.map(Stream::from),
    };
    shared.enter(|packets| packets.on_connected(opening.id, result));
    drive(shared, opening.id).await;
}

/// Serves one connection until it is no more.
async fn drive(shared: Shared, id: ConnectionId) {
    loop {
        match poll_fn(|cx| shared.poll(|packets| packets.poll_connection(cx, id))).await {
            Halt::Closed => return,
            // Not reading is what tells the peer to wait; what waits to be written to it goes on.
            Halt::LaneFull(lane) => tokio::select! {
                _ = lane.reserve() => {} // the permit itself is of no use here
                () = poll_fn(|cx| shared.poll(|packets| packets.poll_write(cx, id))) => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::cert::TrustStore;
    use crate::node::fetch::{self, FetchThread};
    use crate::node::handshake::{self, HandshakeThread};
    use crate::node::trust::Desk;
    use crate::proxy;
    use crate::stir::replay::ReplayTable;
    use crate::transport::tls;

    fn worker(fetch: &FetchThread, handshakes: &HandshakeThread, stop: CancellationToken) -> Worker {
        let config = proxy::Config::default();
        let snapshot = Arc::new(Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() });
        Worker {
            number: 0,
            owners: Owners { key: [0; 16], workers: 1 },
            orders: watch::channel(Orders::new(snapshot)).1,
            published: Arc::default(),
            udp: udp::Config::default(),
            bound: Bound { udp: Vec::new(), tcp: Vec::new() },
            message_outs: Outs::default(),
            message_ins: Ins::default(),
            transmit_outs: Outs::default(),
            transmit_ins: Ins::default(),
            fetcher: fetch.fetcher(),
            handshaker: handshakes.handshaker(),
            answers: mpsc::channel(1),
            locator: None,
            located: mpsc::channel(1),
            signer: signer::Asker::default(),
            signatures: mpsc::channel(1),
            questions: mpsc::channel(1),
            asked: mpsc::channel(1),
            cdr: None,
            observer: Observer::default(),
            names: TrunkNames::default(),
            stop,
        }
    }

    #[tokio::test]
    async fn a_panic_ends_this_life_and_nothing_works_on_what_it_left() {
        let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
        let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
        let stop = CancellationToken::new();
        let mut worker = worker(&fetch, &handshakes, stop.clone());
        let first = worker.shared(Vec::new(), &Rc::default());
        assert!(first.with(|_| panic!("on purpose")).is_none());
        assert!(first.with(|_| ()).is_none());
        assert!(matches!(worker.serve(&first).await, End::Panicked(_)));

        let next = worker.shared(Vec::new(), &Rc::default());
        assert!(next.with(|_| ()).is_some());
        stop.cancel();
        assert!(matches!(worker.serve(&next).await, End::Stopped(_)));
    }

    #[tokio::test]
    async fn no_counter_falls_when_a_worker_begins_anew_and_the_restart_is_counted() {
        let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
        let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
        let stop = CancellationToken::new();
        let mut worker = worker(&fetch, &handshakes, stop.clone());
        worker.published = Arc::new(Published::new(1, TrunkNames::default()));
        let mut earlier = Rc::new(Report::default());
        for life in 1..=3 {
            let shared = worker.shared(Vec::new(), &earlier);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, remote) = listener.accept().await.unwrap();
            shared.enter(|packets| {
                packets.machine.counters.keepalives += 10;
                packets.on_accepted(stream, remote, ListenerId(0), None).unwrap();
            });
            shared.publish(&worker.published, 0);
            let seen = worker.published.summary();
            assert_eq!((seen.worker.keepalives, seen.tcp.accepted, seen.restarts), (10 * life, life, life as u32 - 1));
            assert_eq!(seen.tcp.closed.iter().sum::<u64>(), life - 1, "those of earlier lives are gone");
            shared.with(|_| panic!("on purpose"));
            let End::Panicked(report) = worker.serve(&shared).await else { panic!("it has panicked") };
            earlier = Rc::new(report.buried());
        }
        stop.cancel();
        let End::Stopped(report) = worker.serve(&worker.shared(Vec::new(), &earlier)).await else { panic!("told to") };
        assert_eq!((report.summary.worker.keepalives, report.summary.restarts), (30, 3));
    }

    /// Lets other tasks run until this holds.
    async fn until(shared: &Shared, holds: impl Fn(&PacketLoop) -> bool) {
        let reached = async {
            while !shared.with(|packets| holds(packets)).unwrap() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.expect("it comes about");
    }

    /// The rate itself is tested where it is made, in virtual time; here, that a listener asks it and waits.
    #[tokio::test]
    async fn a_listener_that_has_accepted_its_share_lets_others_wait() {
        let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
        let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
        let worker = worker(&fetch, &handshakes, CancellationToken::new());
        let shared = worker.shared(Vec::new(), &Rc::default());
        let local = LocalSet::new();
        let mut peers = Vec::new();
        let run = async {
            // The share of the first listener is used up for an hour.
            for bucket in [3_600_000_000_000, 0] {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let pace = Pace { began: clock::instant(), bucket };
                spawn_local(accept(shared.clone(), listener, (ListenerId(0), Transport::Tcp), pace));
                peers.push(TcpStream::connect(address).await.unwrap());
            }
            // When the one that came last is served, the first one is still not accepted.
            let last = peers.last_mut().unwrap();
            last.write_all(b"\r\n\r\n").await.unwrap();
            last.read_exact(&mut [0; 2]).await.unwrap();
            assert_eq!(shared.with(|packets| packets.tcp.stats().accepted), Some(1));
        };
        local.run_until(run).await;
    }

    #[tokio::test]
    async fn a_connection_that_waits_for_a_lane_goes_on_writing() {
        const OUTPUT: usize = 24 << 20; // more than the kernel takes for a peer that does not read
        let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
        let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
        let mut worker = worker(&fetch, &handshakes, CancellationToken::new());
        let owners = Owners { key: [0; 16], workers: 2 };
        // The other worker never takes anything out of its lane.
        let mut lanes = super::super::lane::between(2, 1);
        (worker.owners, worker.message_outs) = (owners, std::mem::take(&mut lanes[0].0));
        let mut orders = worker.orders.borrow().clone();
        orders.tcp.write_queue_bytes = OUTPUT;
        worker.orders = watch::channel(orders).1;
        let shared = worker.shared(Vec::new(), &Rc::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, remote) = listener.accept().await.unwrap();
        let id = shared.with(|packets| packets.on_accepted(stream, remote, ListenerId(0), None)).unwrap().unwrap();
        let local = LocalSet::new();
        local.spawn_local(drive(shared.clone(), id));
        let call = (0..).map(|n| format!("call-{n}")).find(|call| owners.of(call.as_bytes()) == 1).unwrap();
        let request = format!(
            "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@c>\r\n\
             Call-ID: {call}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        );
        let run = async {
            peer.write_all(request.as_bytes()).await.unwrap();
            until(&shared, |packets| packets.machine.counters.handed_over == 1).await;
            peer.write_all(request.as_bytes()).await.unwrap();
            until(&shared, |packets| packets.machine.counters.lane_waits == 1).await;
            shared.enter(|packets| {
                packets.tcp.send(id, 0, &vec![b'x'; OUTPUT], &mut Vec::new());
                packets.tcp.flush_all(clock::instant(), &mut Vec::new());
            });
            let mut received = vec![0; OUTPUT];
            let read = tokio::time::timeout(Duration::from_secs(20), peer.read_exact(&mut received)).await;
            assert!(read.is_ok(), "all of it arrives while the lane is full");
            shared.with(|packets| assert_eq!(packets.machine.counters.lane_waits, 1)).unwrap();
        };
        local.run_until(run).await;
    }

    #[tokio::test]
    async fn ka1_a_reload_gives_and_takes_the_pings_of_connections_that_stand() {
        let fetch = FetchThread::start(fetch::Config::default(), Desk::new(TrustStore::default())).unwrap();
        let handshakes = HandshakeThread::start(handshake::Config::default(), tls::Store::default()).unwrap();
        let worker = worker(&fetch, &handshakes, CancellationToken::new());
        let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let remote = peer.local_addr().unwrap();
        // The next hop is a name: whose connection it is stands in no address.
        let snapshot = |keepalive| {
            let listener = proxy::Listener {
                name: "tcp".into(),
                transport: Transport::Tcp,
                bind: "127.0.0.1:0".parse().unwrap(),
                advertise_host: "edge.example".into(),
                advertise_port: 5060,
                names: Vec::new(),
            };
            let trunks = vec![proxy::Trunk { keepalive, ..proxy::Trunk::default() }];
            let config = proxy::Config { listeners: vec![listener], trunks, ..proxy::Config::default() };
            Arc::new(Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() })
        };
        let mut packets = PacketLoop::new(Parts { snapshot: snapshot(false), ..worker.parts(0) }, Vec::new());
        let peer_id = Some(crate::sip::hop::PeerId(0));
        let hop = crate::sip::hop::Hop {
            transport: Transport::Tcp,
            local: ListenerId(0),
            remote,
            connection: None,
            peer: peer_id,
        };
        packets.machine.output.outbox.push(hop, 0, b"\r\n\r\n");
        packets.settle(super::super::machine::now());
        let opening = packets.take_opening();
        let [Opening { id, .. }] = opening[..] else { panic!("one connection is opened") };
        packets.on_connected(id, Ok(TcpStream::connect(remote).await.unwrap().into()));
        let (start, mut failed) = (clock::instant(), Vec::new());
        let mut pings_until = |packets: &mut PacketLoop, seconds| {
            packets.tcp.sweep(start + Duration::from_secs(seconds), &mut failed);
            packets.tcp.stats().pings
        };
        assert_eq!(pings_until(&mut packets, 200), 0);
        packets.set_snapshot(snapshot(true));
        assert_eq!(pings_until(&mut packets, 200), 1);
        packets.set_snapshot(snapshot(true));
        assert_eq!(pings_until(&mut packets, 205), 1, "it goes on in its rhythm");
        packets.set_snapshot(snapshot(false));
        assert_eq!(pings_until(&mut packets, 600), 1, "nor does anybody wait for the answer any more");
        assert_eq!(packets.tcp.len(), 1);
        assert!(packets.tcp.to_reopen(start + Duration::from_secs(9999)).is_empty());
    }
}
