//! A network in memory: virtual time, delay, loss, duplication, reordering, refusal; everything follows from one seed.

use super::rng::Rng;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use vesperd::sip::Transport;
use vesperd::sip::hop::{ConnectionId, Hop, ListenerId, Outbox, RESPONSE_TAG};

/// What stands at an address: a machine without sockets and clock.
pub trait SimNode {
    /// A message came. `source` is the way back: own listener, peer, and connection on a reliable transport.
    fn receive(&mut self, now: Instant, source: Hop, bytes: &[u8], out: &mut Outbox);
    /// What bore this tag (not 0) could not be sent.
    fn transport_failed(&mut self, now: Instant, tag: u64, out: &mut Outbox);
    /// When [`Self::handle_timeout`] is to be called.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Time has come.
    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox);
}

/// A node that a test holds as well.
pub type Shared<N> = Rc<RefCell<N>>;

/// Puts a node where both the network and the test can reach it.
pub fn shared<N: SimNode>(node: N) -> Shared<N> {
    Rc::new(RefCell::new(node))
}

/// How packets travel from one address to another. Loss, duplication and reordering befall datagrams only.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub delay: Duration,
    /// Up to this much is added to a datagram's delay.
    pub jitter: Duration,
    /// Datagrams lost, of 1000.
    pub loss: u32,
    /// Datagrams that arrive twice, of 1000.
    pub duplication: u32,
    /// Datagrams that take five times as long as others, of 1000.
    pub reordering: u32,
    /// Nobody listens, and the sender is told.
    pub refused: bool,
}

impl Default for Link {
    fn default() -> Self {
        let (delay, jitter) = (Duration::from_millis(10), Duration::ZERO);
        Self { delay, jitter, loss: 0, duplication: 0, reordering: 0, refused: false }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Delivered,
    Duplicated,
    Lost,
    Refused,
}

/// A packet as it was sent.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Since the start.
    pub at: Duration,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub transport: Transport,
    pub bytes: Vec<u8>,
    pub fate: Fate,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cargo {
    Message { from: SocketAddr, connection: Option<u64>, transport: u8, bytes: Vec<u8> },
    Failure { tag: u64 },
}

/// Ordered by arrival, then by order of sending.
type Flight = Reverse<(Instant, u64, SocketAddr, Cargo)>;

struct Place {
    node: Rc<RefCell<dyn SimNode>>,
    /// By [`ListenerId`].
    addresses: Vec<SocketAddr>,
}

/// The network. It prints its seed when a test fails.
pub struct Network {
    seed: u64,
    rng: Rng,
    start: Instant,
    now: Instant,
    places: Vec<Place>,
    links: BTreeMap<(SocketAddr, SocketAddr), Link>,
    default_link: Link,
    connections: BTreeMap<(SocketAddr, SocketAddr, u8), u64>,
    /// Connections there have been.
    opened: u64,
    /// Who sent what over each connection, by tag: it fails if the connection breaks, unless it is answered by then.
    sent_over: BTreeMap<u64, Vec<(SocketAddr, u64)>>,
    flights: BinaryHeap<Flight>,
    sequence: u64,
    packets: Vec<Packet>,
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulated network: seed {}, {:?} after its start", self.seed, self.now - self.start);
        }
    }
}

impl Network {
    pub fn new(seed: u64, default_link: Link) -> Self {
        let start = super::epoch();
        Self {
            seed,
            rng: Rng::new(seed),
            start,
            now: start,
            places: Vec::new(),
            links: BTreeMap::new(),
            default_link,
            connections: BTreeMap::new(),
            opened: 0,
            sent_over: BTreeMap::new(),
            flights: BinaryHeap::new(),
            sequence: 0,
            packets: Vec::new(),
        }
    }

    /// The present instant of virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Places a node; its addresses are its listeners, numbered from 0.
    pub fn add<N: SimNode + 'static>(&mut self, addresses: &[SocketAddr], node: &Shared<N>) {
        self.places.push(Place { node: node.clone(), addresses: addresses.to_vec() });
    }

    /// How packets go from `from` to `to` from now on.
    pub fn link(&mut self, from: SocketAddr, to: SocketAddr, link: Link) {
        self.links.insert((from, to), link);
    }

    /// Every packet sent so far.
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// Start lines of what went from `from` to `to`, lost ones among them.
    pub fn sent(&self, from: SocketAddr, to: SocketAddr) -> Vec<String> {
        let on_link = self.packets.iter().filter(|packet| (packet.from, packet.to) == (from, to));
        on_link.map(|packet| super::message::start_line(&packet.bytes)).collect()
    }

    /// Lets a node (of which `address` is one) act of its own accord; what it puts out is sent.
    pub fn act<R>(&mut self, address: SocketAddr, act: impl FnOnce(Instant, &mut Outbox) -> R) -> R {
        let place = self.place_of(address).expect("a node at this address");
        let mut out = Outbox::new();
        let result = act(self.now, &mut out);
        self.post(place, &out);
        result
    }

    /// Goes on until nothing is under way and no timer runs, at most for `limit`; whether it got there.
    pub fn run_until_idle(&mut self, limit: Duration) -> bool {
        let until = self.now + limit;
        while let Some(at) = self.next() {
            if at > until {
                self.now = until;
                return false;
            }
            self.step(at);
        }
        true
    }

    /// Goes on for this long.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(at) = self.next().filter(|at| *at <= until) {
            self.step(at);
        }
        self.now = until;
    }

    /// Instant of the next arrival or timer.
    fn next(&self) -> Option<Instant> {
        let arrival = self.flights.peek().map(|Reverse((at, ..))| *at);
        let timers = self.places.iter().filter_map(|place| place.node.borrow().poll_timeout());
        timers.chain(arrival).min().map(|at| at.max(self.now))
    }

    fn step(&mut self, at: Instant) {
        self.now = at;
        while let Some(Reverse((_, _, to, cargo))) = self.pop_arrived() {
            self.deliver(to, cargo);
        }
        for place in 0..self.places.len() {
            let node = self.places[place].node.clone();
            if node.borrow().poll_timeout().is_some_and(|due| due <= at) {
                let mut out = Outbox::new();
                node.borrow_mut().handle_timeout(at, &mut out);
                let next = node.borrow().poll_timeout();
                assert!(next.is_none_or(|next| next > at), "a handled timeout must not be due again at once");
                self.post(place, &out);
            }
        }
    }

    fn pop_arrived(&mut self) -> Option<Flight> {
        if self.flights.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) { self.flights.pop() } else { None }
    }

    fn deliver(&mut self, to: SocketAddr, cargo: Cargo) {
        let Some(place) = self.place_of(to) else { return };
        let node = self.places[place].node.clone();
        let mut out = Outbox::new();
        match cargo {
            Cargo::Failure { tag } => node.borrow_mut().transport_failed(self.now, tag, &mut out),
            Cargo::Message { from, connection, transport, bytes } => {
                let local = self.places[place].addresses.iter().position(|address| *address == to).unwrap_or_default();
                let source = Hop {
                    transport: TRANSPORTS[usize::from(transport)],
                    local: ListenerId(local as u16),
                    remote: from,
                    connection: connection.map(ConnectionId),
                    peer: None,
                };
                node.borrow_mut().receive(self.now, source, &bytes, &mut out);
            }
        }
        self.post(place, &out);
    }

    fn place_of(&self, address: SocketAddr) -> Option<usize> {
        self.places.iter().position(|place| place.addresses.contains(&address))
    }

    /// Sends everything in `out` from the node at `place`.
    fn post(&mut self, place: usize, out: &Outbox) {
        for item in out.items() {
            let from = self.places[place].addresses[usize::from(item.hop.local.0)];
            self.post_one(from, item.hop, item.tag, out.bytes_of(item).to_vec());
        }
    }

    fn post_one(&mut self, from: SocketAddr, hop: Hop, tag: u64, bytes: Vec<u8>) {
        let to = hop.remote;
        let link = self.links.get(&(from, to)).copied().unwrap_or(self.default_link);
        let reliable = hop.transport.is_reliable();
        let is_nobody = self.place_of(to).is_none();
        let fate = match () {
            () if link.refused || (reliable && is_nobody) => Fate::Refused,
            () if is_nobody || (!reliable && self.rng.chance(link.loss)) => Fate::Lost,
            () if !reliable && self.rng.chance(link.duplication) => Fate::Duplicated,
            () => Fate::Delivered,
        };
        let at = self.now - self.start;
        self.packets.push(Packet { at, from, to, transport: hop.transport, bytes: bytes.clone(), fate });
        let transport = TRANSPORTS.iter().position(|t| *t == hop.transport).unwrap_or_default() as u8;
        let connection = reliable.then(|| self.connection(from, to, transport));
        if let Some(id) = connection.filter(|_| tag != 0 && tag & RESPONSE_TAG == 0 && fate == Fate::Delivered) {
            self.sent_over.entry(id).or_default().push((from, tag));
        }
        let message = |bytes| Cargo::Message { from, connection, transport, bytes };
        match fate {
            Fate::Refused if tag != 0 => self.launch(link, true, from, Cargo::Failure { tag }),
            Fate::Refused | Fate::Lost => {}
            Fate::Delivered => self.launch(link, reliable, to, message(bytes)),
            Fate::Duplicated => {
                self.launch(link, reliable, to, message(bytes.clone()));
                self.launch(link, reliable, to, message(bytes));
            }
        }
    }

    /// One connection per pair of addresses and transport, whichever end opened it.
    fn connection(&mut self, a: SocketAddr, b: SocketAddr, transport: u8) -> u64 {
        *self.connections.entry((a.min(b), a.max(b), transport)).or_insert_with(|| {
            self.opened += 1;
            self.opened
        })
    }

    /// Breaks the connections between two addresses: what is under way is lost, and who awaits something over them is told. Whether there
    /// was one.
    pub fn break_connections(&mut self, a: SocketAddr, b: SocketAddr) -> bool {
        let ends = (a.min(b), a.max(b));
        let is_between = |key: &(SocketAddr, SocketAddr, u8)| (key.0, key.1) == ends;
        let broken: Vec<u64> = self.connections.iter().filter(|(key, _)| is_between(key)).map(|(_, id)| *id).collect();
        self.connections.retain(|key, _| !is_between(key));
        let is_on = |cargo: &Cargo| matches!(cargo, Cargo::Message { connection: Some(id), .. } if broken.contains(id));
        self.flights.retain(|Reverse((_, _, _, cargo))| !is_on(cargo));
        for id in &broken {
            for (from, tag) in self.sent_over.remove(id).unwrap_or_default() {
                self.launch(Link { delay: Duration::ZERO, ..Link::default() }, true, from, Cargo::Failure { tag });
            }
        }
        !broken.is_empty()
    }

    fn launch(&mut self, link: Link, in_order: bool, to: SocketAddr, cargo: Cargo) {
        let mut delay = link.delay;
        if !in_order {
            delay += Duration::from_micros(self.rng.below(link.jitter.as_micros() as u64 + 1));
            if self.rng.chance(link.reordering) {
                delay *= 5;
            }
        }
        self.sequence += 1;
        self.flights.push(Reverse((self.now + delay, self.sequence, to, cargo)));
    }
}

const TRANSPORTS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];
