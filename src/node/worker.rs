//! A worker: one OS thread with one single-threaded runtime. Tasks wait for readiness and call into the [`PacketLoop`]; between two
//! waits nothing else runs, so its state needs no lock.
//!
//! A panic in the loop ends this life of the worker: it is logged, its calls and connections are lost, and the thread begins anew
//! with the same sockets and lanes. The other workers do not notice.

mod connections;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use connections::{Pace, accept, connect};

use super::admin::Question;
use super::cdr::Cdr;
use super::events::{Events, Observer};
use super::fetch::{Answered, Fetcher};
use super::handshake::Handshaker;
use super::lane::{Ins, Outs};
use super::machine::Owners;
use super::metrics::{Published, Report};
use super::names::TrunkNames;
use super::packet_loop::{PacketLoop, Parts, Summary};
use super::resolve::{Located, Locator};
use super::service::Asking;
use super::{clock, random, signer};
use crate::proxy::Snapshot;
use crate::sip::hop::{ListenerId, Transport};
use crate::transport::{tcp, udp};

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
                Some(answered) = self.answers.1.recv() => self.hear(answered, shared),
                Some((need, located)) = self.located.1.recv() => shared.enter(|packets| packets.on_located(need, located)),
                Some(signature) = self.signatures.1.recv() => shared.enter(|packets| packets.on_signature(signature)),
                Some(asking) = self.asked.1.recv() => shared.enter(|packets| packets.on_asked(asking)),
                Some(question) = self.questions.1.recv() => shared.enter(|packets| packets.on_question(question)),
                Ok(()) = self.orders.changed() => self.obey(shared),
                _ = publish.tick() => shared.publish(&self.published, self.number),
                () = timer.as_mut() => shared.enter(PacketLoop::on_timeout),
            }
        }
    }

    /// Takes an answer. What the side door learned with it was published before it, and counts for the call that waits.
    fn hear(&mut self, answered: Answered, shared: &Shared) {
        if self.orders.has_changed().is_ok_and(|has_changed| has_changed) {
            self.obey(shared);
        }
        shared.enter(|packets| packets.on_answer(answered));
    }

    /// Goes on by the orders in force.
    fn obey(&mut self, shared: &Shared) {
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
