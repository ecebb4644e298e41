//! The transaction layer from outside: every row of the tables of RFC 3261 17 as changed by RFC 6026 and RFC 4320, every timer,
//! matching, ACK and CANCEL, and random events. The clock is virtual.

mod support;

#[path = "transaction/hop_by_hop.rs"]
mod hop_by_hop;
#[path = "transaction/matching.rs"]
mod matching;
#[path = "transaction/random.rs"]
mod random;
#[path = "transaction/rows.rs"]
mod rows;
#[path = "transaction/timers.rs"]
mod timers;

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::message::{Request, message, response_to, start_line};
use vesperd::sip::hop::{ConnectionId, Hop, ListenerId, Outbox};
use vesperd::sip::{OwnedMessage, Transport};
use vesperd::transaction::{ClientId, Config, Event, Layer, RequestMatch, ResponseMatch, ServerId};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn hop(transport: Transport) -> Hop {
    let connection = transport.is_reliable().then_some(ConnectionId(1));
    Hop { transport, local: ListenerId(0), remote: SocketAddr::from(([192, 0, 2, 77], 5060)), connection, peer: None }
}

/// A layer, its clock, and what it said.
struct Bench {
    layer: Layer,
    t0: Instant,
    now: Instant,
    out: Outbox,
    transport: Transport,
}

impl Bench {
    fn new(transport: Transport) -> Self {
        Self::with(transport, Config::default())
    }

    fn with(transport: Transport, config: Config) -> Self {
        let t0 = support::epoch();
        Self { layer: Layer::new(config, [42; 16], t0), t0, now: t0, out: Outbox::new(), transport }
    }

    /// Start lines sent since the last look.
    fn sent(&mut self) -> Vec<String> {
        self.sent_bytes().iter().map(|bytes| start_line(bytes)).collect()
    }

    fn sent_bytes(&mut self) -> Vec<Vec<u8>> {
        for item in self.out.items() {
            assert_eq!(item.hop, hop(self.transport), "everything stays on the hop of its transaction");
            assert_ne!(item.tag, 0);
        }
        let sent = self.out.items().iter().map(|item| self.out.bytes_of(item).to_vec()).collect();
        self.out.clear();
        sent
    }

    fn events(&mut self) -> Vec<&'static str> {
        std::iter::from_fn(|| self.layer.poll_event()).map(name_of).collect()
    }

    fn live(&self) -> usize {
        let (servers, clients) = self.layer.live();
        servers + clients
    }

    /// Jumps to the next timer; how long that took.
    fn fire(&mut self) -> Duration {
        let before = self.now;
        self.now = self.layer.poll_timeout().expect("a running timer");
        self.layer.handle_timeout(self.now, &mut self.out);
        self.now - before
    }

    /// Runs every timer until none is left; the instants at which something was sent.
    fn run_out(&mut self) -> Vec<u64> {
        let mut instants = Vec::new();
        while self.layer.poll_timeout().is_some() {
            self.fire();
            let at = (self.now - self.t0).as_millis() as u64;
            instants.extend(self.sent_bytes().iter().map(|_| at));
        }
        instants
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while self.layer.poll_timeout().is_some_and(|at| at <= until) {
            self.fire();
        }
        self.now = until;
    }

    fn send(&mut self, method: &str) -> Client {
        let (id, branch) = self.layer.reserve_client(7, 0x1234).expect("room");
        let branch = String::from_utf8(branch.to_vec()).expect("ASCII");
        let request = Request { method: method.into(), transport: self.transport, branch, ..Request::default() };
        let request = message(&request.to_bytes());
        let bytes = request.message().bytes();
        let method = request.message().method().expect("a request");
        self.layer.send_request(self.now, id, method, hop(self.transport), bytes, &mut self.out);
        Client { id, request }
    }

    fn respond_to(&mut self, client: &Client, status: u16) -> ResponseMatch {
        self.receive_response(&response_to(client.request.message(), status, "314159"))
    }

    fn receive_response(&mut self, bytes: &[u8]) -> ResponseMatch {
        self.layer.receive_response(self.now, message(bytes).message(), &mut self.out)
    }

    fn receive(&mut self, request: &Request) -> RequestMatch {
        self.layer.receive_request(self.now, message(&request.to_bytes()).message(), &mut self.out)
    }

    /// A new request arrives and gets its transaction.
    fn open(&mut self, request: &Request) -> ServerId {
        assert!(matches!(
            self.receive(request),
            RequestMatch::New | RequestMatch::Cancel { .. } | RequestMatch::UnmatchedCancel
        ));
        let request = message(&request.to_bytes());
        self.layer.open_server(self.now, request.message(), hop(self.transport), 9).expect("room")
    }

    fn answer(&mut self, server: ServerId, request: &Request, status: u16) {
        let response = response_to(message(&request.to_bytes()).message(), status, "314159");
        self.layer.respond(self.now, server, status, &response, &mut self.out);
    }
}

struct Client {
    id: ClientId,
    request: OwnedMessage,
}

fn name_of(event: Event) -> &'static str {
    match event {
        Event::ClientTimedOut { .. } => "TimedOut",
        Event::ClientFailed { .. } => "Failed",
        Event::CancelTimedOut { .. } => "CancelTimedOut",
        Event::ClientGone { .. } | Event::ServerGone { .. } => "Gone",
        Event::ServerUnacknowledged { .. } => "Unacknowledged",
        Event::ResponseFailed { .. } => "ResponseFailed",
        Event::TryingDue { .. } => "TryingDue",
    }
}

fn ack_of(request: &Request) -> Request {
    Request { method: "ACK".into(), to_tag: Some("314159".into()), ..request.clone() }
}
