//! The stateful proxy core (RFC 3261 section 16), sans-IO: messages, answers and time go in, messages to send, needs and events
//! come out. One [`Proxy`] belongs to one worker; nothing in it is shared or locked but the [`Snapshot`].

pub mod admission;
mod attempt;
pub mod calls;
pub mod clock_watch;
mod config;
pub mod connected;
mod derived;
pub mod digest;
pub mod disclosure;
pub mod dispatcher;
mod event;
mod failover;
mod forward;
mod guard;
mod health;
mod history;
mod identity;
mod keep;
mod load;
pub mod location;
mod loop_check;
pub mod meters;
mod need;
mod neighbours;
pub mod overload;
mod patience;
mod plan;
pub mod probe;
mod redirect;
mod request;
mod request_context;
mod response;
mod response_context;
pub mod route;
pub mod service;
mod session_timer;
pub mod signing;
mod stateless;
mod trunk;
pub mod trust;
mod upstream;
mod validate;
mod waiting;
mod way_back;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use siphasher::sip::SipHasher13;
use slab::Slab;

pub use calls::{Call, CallRecord, CallState, Calls, EndedBy, EndedCalls};
pub use config::{Config, Listener, Snapshot};
pub use connected::ConnectedIdentity;
pub use derived::Derived;
pub use disclosure::Disclosure;
pub use event::{Event, Stats};
pub use failover::{Codes, Failover, Forking, Relay503};
pub use location::{LocateFailure, Target, TargetHost};
pub use loop_check::RoutingInput;
pub use need::{Answer, Need, NeedId, NeedKind, SignatureFailure};
pub use neighbours::Neighbours;
pub use plan::Place;
pub use redirect::On3xx;
pub use route::marks::Keys;
pub use route::table::{Condition, Route};
pub use route::target::leave_by;
pub use session_timer::SessionTimer;
pub use signing::Signing;
pub use trunk::{NextHop, Numbers, RrStyle, Trunk, TrunkId, UdpOversize};

use crate::sip::hop::{Hop, Outbox};
use crate::sip::{Index, Message, Patch};
use crate::stir::verification::{Credential, Verifier};
use crate::transaction::timer::Wheel;
use crate::transaction::{self, ClientId, Layer};
use calls::CallKey;
use meters::Meters;
use neighbours::Source;
use request_context::RequestContext;
use response_context::Local;
use waiting::ParkedAcks;

/// The time, read once per batch of messages.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For timers.
    pub instant: Instant,
    /// For `iat`, Date and certificates: seconds since 1970-01-01T00:00Z.
    pub unix: i64,
}

/// What comes out of the proxy; the caller empties it after each batch.
#[derive(Default)]
pub struct Output {
    /// Messages to send.
    pub outbox: Outbox,
    /// Slow things to get.
    pub needs: Vec<Need>,
    /// Credentials that lack something which may be there for calls to come: a CRL, a TNAuthList by reference. Nobody waits for it.
    pub lacking: Vec<Arc<Credential>>,
    /// Things to log.
    pub events: Vec<Event>,
    /// Calls that are over, if [`Config::records`] are wanted.
    pub records: Vec<CallRecord>,
    /// Ends of questions ([`Proxy::ask`]).
    pub replies: Vec<service::Reply>,
}

/// What a proxy keeps of requests; see [`Proxy::residue`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residue {
    /// Requests whose transactions have not all ended.
    pub contexts: usize,
    /// Server transactions.
    pub servers: usize,
    /// Client transactions.
    pub clients: usize,
    /// Requests and ACKs that wait for the slow side.
    pub parked: usize,
    /// Calls in the table of calls.
    pub calls: usize,
    /// Timers.
    pub timers: usize,
}

/// What the proxy's own timers stand for.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// Timer C of a branch (RFC 3261 16.6 item 11).
    C { context: ContextKey, client: ClientId },
    /// A branch was silent for longer than its trunk's patience (section 3: `fr`, `fr_inv`).
    Patience { context: ContextKey, client: ClientId },
    /// A member of a trunk is to be pinged.
    Probe { target: u32 },
    /// A ping had no answer in time.
    ProbeTimeout { target: u32, client: ClientId },
    /// A parked call waited long enough.
    Need { need: NeedId },
    /// A call may be over.
    Call { call: CallKey },
}

/// Slot in the slab of contexts with a serial number, so that a late report never meets a newer context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContextKey(u64);

impl ContextKey {
    fn slot(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// One worker's hold on the snapshot.
struct Held(Arc<Snapshot>);

impl std::ops::Deref for Held {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// Where serial numbers begin: elsewhere for each key.
fn first_serial(key: [u8; 16]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = SipHasher13::new_with_key(&key);
    hasher.write(b"serial");
    hasher.finish()
}

/// The proxy core of one worker.
pub struct Proxy {
    /// Counted per worker, so that holding it during a message touches no memory that another core writes.
    snapshot: Rc<Held>,
    layer: Layer,
    verifier: Verifier,
    contexts: Slab<(ContextKey, RequestContext)>,
    calls: Calls,
    refused: calls::Refused,
    timers: Wheel<Timer>,
    /// Key of loop hashes, tags and stateless branches; secret.
    key: [u8; 16],
    /// Source of serial numbers for contexts and needs, and of `origid` values.
    serial: u64,
    /// Contexts without a final response.
    unanswered: usize,
    parked: usize,
    parked_acks: ParkedAcks,
    ways_back: way_back::WaysBack,
    parked_questions: service::ParkedQuestions,
    /// Chains that are fetched beside the calls.
    beside: waiting::Beside,
    is_draining: bool,
    stats: Stats,
    meters: Box<Meters>,
    watch: guard::Watch,
    prober: Option<probe::Prober>,
    // Scratch space, kept for its memory.
    patch: Patch,
    buffer: Vec<u8>,
    spare_index: Index,
}

impl Proxy {
    /// A proxy with empty tables. `seed` must be unpredictable: identifiers are derived from it.
    pub fn new(snapshot: Arc<Snapshot>, seed: [u8; 32], now: Now) -> Self {
        let half = |from: usize| std::array::from_fn(|i| seed.get(from + i).copied().unwrap_or_default());
        let (layer_key, key): ([u8; 16], [u8; 16]) = (half(0), half(16));
        Proxy {
            layer: Layer::new(snapshot.config.transaction.clone(), layer_key, now.instant),
            verifier: Verifier::new(snapshot.config.verifier.clone(), key),
            contexts: Slab::new(),
            calls: Calls::default(),
            refused: calls::Refused::default(),
            timers: Wheel::new(now.instant),
            key,
            // Not from the beginning: a late answer to what an earlier life of this worker asked must meet no need of this one.
            serial: first_serial(key),
            unanswered: 0,
            parked: 0,
            is_draining: false,
            parked_acks: ParkedAcks::new(),
            ways_back: way_back::WaysBack::default(),
            parked_questions: service::ParkedQuestions::new(),
            beside: waiting::Beside::new(),
            stats: Stats::default(),
            meters: Box::default(),
            watch: guard::Watch::new(&snapshot.config.guard, key, now.instant),
            prober: None,
            patch: Patch::new(),
            buffer: Vec::with_capacity(8192),
            spare_index: Index::new(),
            snapshot: Rc::new(Held(snapshot)),
        }
    }

    /// Goes on with another configuration: requests that come from now on are treated by it, those under way are finished by the one
    /// they began with. Timers and table sizes of the transaction layer change at once; ids of listeners must keep their meaning.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.layer.set_config(snapshot.config.transaction.clone());
        self.watch.configure(&snapshot.config.guard, self.key);
        self.verifier.set_config(snapshot.config.verifier.clone());
        self.snapshot = Rc::new(Held(snapshot));
        self.sync_probing(self.watch.now);
    }

    /// The configuration that requests to come are treated by.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// From now on no new calls are taken: dialog-forming requests, and OPTIONS to this element, are answered 503; what belongs to a call
    /// goes on.
    pub fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Requests that have no final response yet.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Whether small faults of syntax are tolerated of this source.
    pub fn is_lenient_with(&self, source: Hop) -> bool {
        let config = &self.snapshot.config;
        config.is_lenient_with(config.ingress_of(source))
    }

    /// Takes a message that arrived from `source`: its listener, the packet's address, its connection.
    pub fn handle_message(&mut self, now: Now, source: Hop, message: Message<'_>, out: &mut Output) {
        self.watch.at(now, source.remote);
        if message.is_request() {
            self.meters.request(source.transport, message);
            let source = Source { hop: source, trunk: self.snapshot.config.ingress_of(source) };
            self.handle_request(now, source, message, out);
        } else {
            self.meters.received(message.status().unwrap_or_default());
            self.handle_response(now, message, out);
        }
        self.handle_events(now, out);
    }

    /// Takes the answer to a need. Answers nobody waits for any more are dropped.
    pub fn handle_answer(&mut self, now: Now, need: NeedId, answer: Answer, out: &mut Output) {
        self.end_need(now, need, answer, out);
        self.handle_events(now, out);
    }

    /// Takes the report that what was sent with `tag` could not be delivered (RFC 3261 18.4).
    pub fn handle_transport_failure(&mut self, now: Now, tag: u64, out: &mut Output) {
        self.layer.transport_failed(now.instant, tag);
        self.handle_events(now, out);
    }

    /// Takes the beginning of a message that came back by ICMP from `remote` (T-8). False if no transaction of this proxy is quoted: then
    /// nothing has changed.
    pub fn handle_returned(&mut self, now: Now, quoted: &[u8], remote: std::net::SocketAddr, out: &mut Output) -> bool {
        let is_ours = self.layer.returned(now.instant, quoted, remote);
        self.handle_events(now, out);
        is_ours
    }

    /// The next moment [`Proxy::handle_timeout`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.layer.poll_timeout(), self.timers.poll_timeout()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Runs everything that is due.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Output) {
        self.watch.now = now.instant;
        self.layer.handle_timeout(now.instant, &mut out.outbox);
        while let Some(timer) = self.timers.pop_expired(now.instant) {
            match timer {
                Timer::C { context, client } => self.timer_c(now, context, client, out),
                Timer::Patience { context, client } => self.lost_patience(now, context, client, out),
                Timer::Probe { target } => self.probe_due(now, target, out),
                Timer::ProbeTimeout { target, client } => self.ping_timed_out(now, target, client, out),
                Timer::Need { need } => self.need_timed_out(now, need, out),
                Timer::Call { call } => self.call_due(now, call, out),
            }
        }
        self.handle_events(now, out);
    }

    /// Octets of requests and responses kept for what may still have to be done with them, those of the transactions not counted.
    pub fn kept(&self) -> usize {
        self.contexts.iter().map(|(_, (_, context))| context.kept()).sum()
    }

    /// Counters since the start.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Counters of more than one dimension since the start, and histograms.
    pub fn meters(&self) -> Meters {
        Meters { credentials: self.verifier.cache_counts(), ..Meters::clone(&self.meters) }
    }

    /// Requests whose transactions have not all ended.
    pub fn live(&self) -> usize {
        self.contexts.len()
    }

    /// The calls that run through here.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// What the transaction layer reports.
    fn handle_events(&mut self, now: Now, out: &mut Output) {
        while let Some(event) = self.layer.poll_event() {
            match event {
                transaction::Event::ClientTimedOut { client, user }
                | transaction::Event::ClientFailed { client, user }
                    if probe::is_probe(user) =>
                {
                    self.ping_failed(now, user, client, out);
                }
                transaction::Event::ClientTimedOut { client, user } => {
                    self.branch_ended(now, ContextKey(user), client, Local::Timeout, out);
                }
                transaction::Event::ClientFailed { client, user } => {
                    self.branch_ended(now, ContextKey(user), client, Local::Unavailable, out);
                }
                transaction::Event::CancelTimedOut { client, user } => {
                    self.branch_ended(now, ContextKey(user), client, Local::Cancelled, out);
                }
                transaction::Event::ClientGone { client, user } => {
                    if let Some(branch) = self.context(ContextKey(user)).and_then(|c| c.branch_mut(client)) {
                        branch.client = None;
                    }
                    self.drop_if_over(now, ContextKey(user), out);
                }
                transaction::Event::ServerGone { server, user } => {
                    self.forget_way_back(server);
                    if let Some(context) = self.context(ContextKey(user)) {
                        context.server = None;
                    }
                    self.drop_if_over(now, ContextKey(user), out);
                }
                transaction::Event::TryingDue { user, .. } => self.respond_trying(now, ContextKey(user), out),
                transaction::Event::ServerUnacknowledged { server, .. } => self.note_unacknowledged(server, out),
                transaction::Event::ResponseFailed { server, .. } => self.response_failed(now, server, out),
            }
        }
    }

    /// What is still there of earlier requests. All zero when nothing is under way.
    pub fn residue(&self) -> Residue {
        let (servers, clients) = self.layer.live();
        Residue {
            contexts: self.contexts.len(),
            servers,
            clients,
            parked: self.parked,
            calls: self.calls.len(),
            timers: self.timers.len() + self.layer.timers(),
        }
    }

    fn context(&mut self, key: ContextKey) -> Option<&mut RequestContext> {
        self.contexts.get_mut(key.slot()).filter(|(k, _)| *k == key).map(|(_, context)| context)
    }

    /// The snapshot a request began with.
    fn snapshot_of(&self, key: ContextKey) -> Rc<Held> {
        let context = self.contexts.get(key.slot()).filter(|(k, _)| *k == key);
        Rc::clone(context.map_or(&self.snapshot, |(_, context)| &context.snapshot))
    }

    fn drop_if_over(&mut self, now: Now, key: ContextKey, out: &mut Output) {
        if self.context(key).is_some_and(|c| c.is_over()) {
            self.count_over(now, key, out);
            let (_, context) = self.contexts.remove(key.slot());
            self.unanswered -= usize::from(context.final_status.is_none());
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// 128 bits that nobody outside can predict, for `origid`.
    fn unpredictable(&mut self) -> [u8; 16] {
        use std::hash::Hasher;
        let serial = self.next_serial();
        let mut out = [0u8; 16];
        for (half, salt) in out.chunks_mut(8).zip(0u8..) {
            let mut hasher = SipHasher13::new_with_key(&self.key);
            hasher.write_u8(salt);
            hasher.write_u64(serial);
            half.copy_from_slice(&hasher.finish().to_be_bytes());
        }
        out
    }

    /// Runs `f` with the stored request of a context, indexed anew; `None` if there is none.
    fn with_request<R>(&mut self, key: ContextKey, f: impl FnOnce(&mut Self, Message<'_>) -> R) -> Option<R> {
        let context = self.context(key)?;
        let (bytes, is_lenient) = (std::mem::take(&mut context.request), context.is_lenient);
        let mut index = std::mem::take(&mut self.spare_index);
        let limits = self.snapshot_of(key).config.parser_for(is_lenient);
        let result = crate::sip::parse(&bytes, &mut index, crate::sip::Framing::Datagram, &limits)
            .ok()
            .map(|message| f(self, message));
        self.spare_index = index;
        // One that was rewritten meanwhile stays so.
        if let Some(context) = self.context(key).filter(|context| !context.is_done() && context.request.is_empty()) {
            context.request = bytes;
        }
        result
    }
}
