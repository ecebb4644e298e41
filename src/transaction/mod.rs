//! The transaction layer: RFC 3261 17 with RFC 6026 (Accepted), RFC 4320 (non-INVITE) and RFC 3581's hop for responses.
//!
//! A [`Layer`] holds the transactions of one worker. It is sans-IO: messages, user decisions and `now` come in; octets to send go to
//! an [`Outbox`], what the user must know comes out of [`Layer::poll_event`], and [`Layer::poll_timeout`] says when to call
//! [`Layer::handle_timeout`]. The user (the proxy core) is named by a `u64` of its choice.
//!
//! The four machines are tables, one row per line: `client_invite`, `client_non_invite`, `server_invite`,
//! `server_non_invite`. `client` and `server` carry their rows out; `key` tells server transactions apart, [`branch`] leads
//! responses home, [`timer`] is the wheel all timers share.

mod alarms;
pub mod branch;
mod buffers;
mod client;
mod client_invite;
mod client_non_invite;
mod hop_by_hop;
mod ids;
mod key;
mod machine;
mod server;
mod server_invite;
mod server_non_invite;
pub mod timer;

use crate::sip::hop::{Hop, Outbox};
use crate::sip::{Message, Method};
use alarms::{Alarm, Owner};
use branch::Branch;
use buffers::Buffers;
use client::Clients;
use hop_by_hop::Reader;
pub use ids::{ClientId, ServerId};
use ids::{Place, first_serial, next_serial};
use server::Servers;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use timer::Wheel;

/// Timer values and bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Estimate of the round-trip time; 500 ms. Shorter only in a closed network (RFC 3261 17.1.1.1). At least one [`timer::TICK`].
    pub t1: Duration,
    /// Longest interval between retransmissions of a non-INVITE request or of a final response to INVITE; 4 s.
    pub t2: Duration,
    /// How long a message may stay in the network; 5 s.
    pub t4: Duration,
    /// Timer D on UDP; 32 s, and not less where peers keep the standard timers: it does not scale with T1.
    pub timer_d: Duration,
    /// Most server transactions at a time. Each lives on for 32 s after a call, so this is 32 s of calls at the highest rate.
    pub max_server: usize,
    /// Most client transactions at a time. A CANCEL of this layer is not counted: there is at most one per INVITE.
    pub max_client: usize,
    /// Most buffers kept for reuse, in each of eight sizes.
    pub pooled_buffers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            timer_d: Duration::from_secs(32),
            max_server: 2_000_000,
            max_client: 2_000_000,
            pooled_buffers: 1024,
        }
    }
}

impl Config {
    /// 64*T1: Timers B, F, H, J, L and M.
    pub fn lifetime(&self) -> Duration {
        self.t1.saturating_mul(64)
    }

    /// How long after a non-INVITE request the client's Timer E has reached T2: from then on it may, and must, be answered by a
    /// 100 (RFC 4320 4.1). 3.5 s with the default timers.
    pub fn trying_delay(&self) -> Duration {
        let (mut elapsed, mut interval) = (Duration::ZERO, self.t1.max(timer::TICK));
        while interval < self.t2 {
            elapsed += interval;
            interval = interval.saturating_mul(2);
        }
        elapsed
    }
}

/// What a request is to this layer (RFC 3261 17.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestMatch {
    /// The first of its transaction: [`Layer::open_server`], or a stateless answer.
    New,
    /// A retransmission, or the ACK to a 300-699: dealt with.
    Absorbed,
    /// An ACK on the branch of an INVITE that got a 2xx: to be forwarded (K-11).
    Ack2xx {
        /// The INVITE's transaction.
        server: ServerId,
        /// Its user.
        user: u64,
    },
    /// The first CANCEL of this INVITE. It is not answered yet: open a server transaction for the CANCEL and answer 200 (K-1).
    Cancel {
        /// The INVITE's transaction, in whatever state.
        invite: ServerId,
        /// Its user.
        user: u64,
    },
    /// An ACK of no transaction: one to a 2xx (F-12), or a stray.
    UnmatchedAck,
    /// The first CANCEL of something unknown (K-4).
    UnmatchedCancel,
}

/// What a response is to this layer (RFC 3261 17.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseMatch {
    /// For the user to process (RFC 3261 16.7).
    Deliver {
        /// The transaction it belongs to.
        client: ClientId,
        /// Its user.
        user: u64,
    },
    /// A retransmission, or a response to this layer's own CANCEL: dealt with.
    Absorbed,
    /// No transaction sent such a request: discard.
    Unmatched,
}

/// What became of a wish to cancel (K-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelResult {
    /// The CANCEL is on its way, or was before.
    Sent,
    /// No provisional response yet: it is sent on the first one.
    Deferred,
    /// There is nothing to cancel: a final response came, it is no INVITE, it was not sent, or it is gone.
    TooLate,
}

/// What happened without a message to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Timer B or F: no response, or no final one. [`Event::ClientGone`] follows.
    ClientTimedOut {
        /// The transaction.
        client: ClientId,
        /// Its user.
        user: u64,
    },
    /// The transport could not send the request, or the ACK to a 300-699 already delivered. [`Event::ClientGone`] follows.
    ClientFailed {
        /// The transaction.
        client: ClientId,
        /// Its user.
        user: u64,
    },
    /// 64*T1 have passed since the CANCEL without a final response: the branch counts as answered by 487 (K-3).
    /// [`Event::ClientGone`] follows.
    CancelTimedOut {
        /// The transaction of the INVITE.
        client: ClientId,
        /// Its user.
        user: u64,
    },
    /// Terminated and freed; once for every transaction that sent its request.
    ClientGone {
        /// The transaction.
        client: ClientId,
        /// Its user.
        user: u64,
    },
    /// Terminated and freed; once for every transaction.
    ServerGone {
        /// The transaction.
        server: ServerId,
        /// Its user.
        user: u64,
    },
    /// Timer H: no ACK to a 300-699. [`Event::ServerGone`] follows.
    ServerUnacknowledged {
        /// The transaction.
        server: ServerId,
        /// Its user.
        user: u64,
    },
    /// The transport could not send a response; the transaction stays (RFC 6026 7.1, R-13).
    ResponseFailed {
        /// The transaction.
        server: ServerId,
        /// Its user.
        user: u64,
    },
    /// A non-INVITE request has had no answer for [`Config::trying_delay`]: send a 100 now (RFC 4320 4.1, N-1).
    TryingDue {
        /// The transaction.
        server: ServerId,
        /// Its user.
        user: u64,
    },
}

/// No room for another transaction: answer 503 without state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFull {
    /// The bound that was reached: [`Config::max_server`] or [`Config::max_client`].
    pub limit: usize,
}

impl std::fmt::Display for TableFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "all {} transactions are in use", self.limit)
    }
}

impl std::error::Error for TableFull {}

/// Whom the top Via of a request names as its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentBy<'a> {
    /// The host, in lower case; IPv6 in brackets.
    pub host: &'a [u8],
    /// The port, if written.
    pub port: Option<u16>,
    /// There is an rport (RFC 3581).
    pub asks_rport: bool,
}

/// Counters, ever rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Server transactions opened.
    pub servers: u64,
    /// Client transactions that sent their request, CANCELs of this layer among them.
    pub clients: u64,
    /// Transactions refused for want of room.
    pub table_full: u64,
    /// Requests sent again by Timers A and E.
    pub requests_resent: u64,
    /// Responses sent again by Timer G or for a retransmitted request.
    pub responses_resent: u64,
    /// Requests received that were retransmissions.
    pub request_retransmissions: u64,
    /// Responses received that matched no transaction.
    pub unmatched_responses: u64,
    /// 2xx received after a 300-699 on the same branch: a broken fork downstream.
    pub success_after_failure: u64,
    /// Responses of the user that the state did not allow or RFC 4320 forbids (N-1, N-2): not sent.
    pub responses_withheld: u64,
    /// ACKs to 300-699 sent, each copy counted.
    pub acks: u64,
    /// CANCELs sent, retransmissions not counted.
    pub cancels: u64,
    /// Timers B and F.
    pub client_timeouts: u64,
    /// Timer H.
    pub unacknowledged: u64,
    /// Failures to send reported for a living transaction.
    pub transport_failures: u64,
}

/// What clients and servers share.
#[derive(Debug)]
struct Shared {
    config: Config,
    wheel: Wheel<Alarm>,
    buffers: Buffers,
    reader: Reader,
    events: VecDeque<Event>,
    /// Responses that nobody acknowledged, until they are asked for; the latest few.
    unacknowledged: VecDeque<(ServerId, Vec<u8>)>,
    stats: Stats,
}

/// The transactions of one worker.
#[derive(Debug)]
pub struct Layer {
    clients: Clients,
    servers: Servers,
    shared: Shared,
}

impl Layer {
    /// No transactions. `key` is random and secret: it hides what branches mean and keeps the tables from being flooded with
    /// colliding keys. `epoch` is any instant not after the first `now`.
    pub fn new(config: Config, key: [u8; 16], epoch: Instant) -> Self {
        let config = Config { t1: config.t1.max(timer::TICK), ..config };
        Self {
            clients: Clients::new(key),
            servers: Servers::new(key),
            shared: Shared {
                wheel: Wheel::new(epoch),
                buffers: Buffers::new(config.pooled_buffers),
                reader: Reader::new(),
                events: VecDeque::new(),
                unacknowledged: VecDeque::new(),
                stats: Stats::default(),
                config,
            },
        }
    }

    /// Takes other timers and table sizes; timers that run keep their end.
    pub fn set_config(&mut self, config: Config) {
        self.shared.config = Config { t1: config.t1.max(timer::TICK), ..config };
    }

    /// Matches a request (RFC 3261 17.2.3), answers retransmissions and absorbs the ACK to a 300-699 by itself.
    pub fn receive_request(&mut self, now: Instant, request: Message<'_>, out: &mut Outbox) -> RequestMatch {
        self.servers.receive(&mut self.shared, now, request, out)
    }

    /// Matches a response (RFC 3261 17.1.3) and acknowledges 300-699 to an INVITE by itself. The caller has checked the sent-by (T-7).
    pub fn receive_response(&mut self, now: Instant, response: Message<'_>, out: &mut Outbox) -> ResponseMatch {
        self.clients.receive(&mut self.shared, now, response, out)
    }

    /// Opens the server transaction of a request that was [`RequestMatch::New`], or of a CANCEL. Not for ACK. Responses, and their
    /// retransmissions, go to `upstream`. An INVITE should be answered by a 100 at once (RFC 3261 17.2.1), and must get a final
    /// response in the end: nothing else ends it. Any other request ends by itself after 64*T1 (N-2).
    pub fn open_server(
        &mut self,
        now: Instant,
        request: Message<'_>,
        upstream: Hop,
        user: u64,
    ) -> Result<ServerId, TableFull> {
        self.servers.open(&mut self.shared, now, request, upstream, user)
    }

    /// Sends a response of the user and keeps what must be sent again. One that the state does not allow is dropped and counted:
    /// anything but 2xx after a 2xx, anything after a 300-699; to a non-INVITE any 1xx but a 100, the 100 on UDP before
    /// [`Config::trying_delay`], and 408 (RFC 4320).
    pub fn respond(&mut self, now: Instant, server: ServerId, status: u16, response: &[u8], out: &mut Outbox) {
        self.servers.respond(&mut self.shared, now, server, status, response, out);
    }

    /// Where the responses of this transaction go.
    pub fn server_upstream(&self, server: ServerId) -> Option<Hop> {
        self.servers.upstream(server)
    }

    /// Reserves a client transaction. The branch goes into the Via the caller writes; `loop_hash` is read back by
    /// [`branch::loop_hash_of`]. Then [`Self::send_request`] or [`Self::release_client`].
    pub fn reserve_client(&mut self, user: u64, loop_hash: u64) -> Result<(ClientId, Branch), TableFull> {
        self.clients.reserve(&mut self.shared, user, loop_hash)
    }

    /// Sends the request of a reserved client transaction, with that branch in the first Via value. Not for ACK or CANCEL.
    pub fn send_request(
        &mut self,
        now: Instant,
        client: ClientId,
        method: Method<'_>,
        hop: Hop,
        request: &[u8],
        out: &mut Outbox,
    ) {
        self.clients.send(&mut self.shared, now, client, method, hop, request, out);
    }

    /// Gives a reserved client transaction back. No event follows.
    pub fn release_client(&mut self, client: ClientId) {
        self.clients.release(&mut self.shared, client);
    }

    /// Cancels an INVITE: at once if a provisional response came, on the first one otherwise (RFC 3261 9.1, K-2). `extra_lines` are
    /// header lines, each with its CRLF, such as Reason (RFC 3326). The CANCEL is a transaction of its own that tells the user nothing.
    pub fn cancel(&mut self, now: Instant, client: ClientId, extra_lines: &[u8], out: &mut Outbox) -> CancelResult {
        self.clients.cancel(&mut self.shared, now, client, extra_lines, out)
    }

    /// Stops sending the request again, as the user tries elsewhere; the transaction lives on and delivers what comes late.
    /// Follow it by [`Self::cancel`], so that a late provisional response is answered by a CANCEL.
    pub fn abandon(&mut self, client: ClientId) {
        self.clients.abandon(&mut self.shared, client);
    }

    /// The transport could not send what bore this tag.
    pub fn transport_failed(&mut self, now: Instant, tag: u64) {
        if let Some(client) = ClientId::from_tag(tag) {
            self.clients.transport_failed(&mut self.shared, now, client);
        } else if let Some(server) = ServerId::from_tag(tag) {
            self.servers.transport_failed(&mut self.shared, now, server);
        }
    }

    /// Whom the top Via of the transaction's request names; `None` where the branch has no cookie.
    pub fn sent_by(&self, server: ServerId) -> Option<SentBy<'_>> {
        self.servers.sent_by(server)
    }

    /// From now on the responses of this transaction go there, by the same transport as before (T-4). The last one is sent again if it is
    /// kept; a 2xx to an INVITE is not, as its sender repeats it (RFC 3261 13.3.1.4).
    pub fn redirect_server(&mut self, now: Instant, server: ServerId, upstream: Hop, out: &mut Outbox) {
        self.servers.redirect(&mut self.shared, now, server, upstream, out);
    }

    /// A message came back by ICMP from `remote` (RFC 3261 18.4); `quoted` is its beginning. Fails the transaction that it quotes, if that
    /// sent there, and no other (T-9): whoever can not read our messages can not name one. False if there is none.
    pub fn returned(&mut self, now: Instant, quoted: &[u8], remote: std::net::SocketAddr) -> bool {
        if let Some((method, branch)) = branch::quoted_in(quoted) {
            let found = self.clients.sent_to(method, branch, remote);
            found.into_iter().for_each(|client| self.clients.transport_failed(&mut self.shared, now, client));
            return found.is_some();
        }
        let quoted = branch::quoted_response(quoted);
        let found = quoted.and_then(|(via, method)| self.servers.answered_to(via, method, remote));
        found.into_iter().for_each(|server| self.servers.transport_failed(&mut self.shared, now, server));
        found.is_some()
    }

    /// When to call [`Self::handle_timeout`] next; `None` while no timer runs. Cheap, and sometimes early (see [`timer::Wheel`]).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.shared.wheel.poll_timeout()
    }

    /// Fires every timer due at `now`.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        while let Some(Alarm { owner, timer }) = self.shared.wheel.pop_expired(now) {
            match owner {
                Owner::Client(index) => self.clients.fired(&mut self.shared, now, index, timer, out),
                Owner::Server(index) => self.servers.fired(&mut self.shared, now, index, timer, out),
            }
        }
    }

    /// What happened, in order. To be called until it returns `None` after every call that takes `now`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// The response of an [`Event::ServerUnacknowledged`], once; of a flood of them the latest only.
    pub fn unacknowledged(&mut self, server: ServerId) -> Option<Vec<u8>> {
        let place = self.shared.unacknowledged.iter().position(|(other, _)| *other == server)?;
        self.shared.unacknowledged.remove(place).map(|(_, response)| response)
    }

    /// Counters since the start.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Transactions alive: servers, and clients (reserved ones and CANCELs among them).
    pub fn live(&self) -> (usize, usize) {
        (self.servers.len(), self.clients.len())
    }

    /// Buffers allocated for kept messages and keys since the start. It stands still in steady state, as long as
    /// [`Config::pooled_buffers`] is not exceeded between peaks.
    pub fn buffers_made(&self) -> u64 {
        self.shared.buffers.made
    }

    /// Timers running. Zero whenever no transaction is alive.
    pub fn timers(&self) -> usize {
        self.shared.wheel.len()
    }
}
