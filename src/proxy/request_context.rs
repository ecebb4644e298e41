//! One request's journey through the proxy: the received request, its branches, and what was sent upstream.

use super::response_context::{Local, ResponseContext};
use super::{NeedId, NextHop, TrunkId};
use crate::sip::hop::{Hop, ListenerId};
use crate::transaction::timer::TimerHandle;
use crate::transaction::{ClientId, ServerId};

/// At most this many addresses are tried for one request (one trunk's next hops, UDP and TCP counted apart).
pub const MAX_ATTEMPTS: usize = 8;

/// State of one request from its arrival until its last transaction has ended.
pub struct RequestContext {
    /// The server transaction; `None` once it has terminated.
    pub server: Option<ServerId>,
    /// The request as received, for further attempts and for responses of our own; emptied when neither can happen any more.
    pub request: Vec<u8>,
    /// Where it came from.
    pub source: Hop,
    /// The trunk it came from.
    pub ingress: TrunkId,
    /// INVITE, or another method.
    pub is_invite: bool,
    /// Loop hash of the request as received (RFC 5393 4.2).
    pub loop_hash: u64,
    /// Waiting for something slow.
    pub parked: Option<Parked>,
    /// Where it goes, as decided once.
    pub plan: Plan,
    /// Client transactions, in the order of their start; all but the last have usually ended.
    pub branches: Vec<Branch>,
    /// Final responses of the branches.
    pub responses: ResponseContext,
    /// The call it began, if that counts against the limits of a trunk.
    pub held_call: Option<u64>,
    /// The final response that was sent upstream.
    pub final_status: Option<u16>,
    /// The caller sent CANCEL: no further attempt (K-5).
    pub cancelled: bool,
    /// `Reason: STIR` lines for the responses of this call (RFC 9410), complete with line ends.
    pub reason_lines: Vec<u8>,
}

/// A call that waits for an answer of the slow side.
pub struct Parked {
    /// What it waits for.
    pub need: NeedId,
    /// The URL that was asked for.
    pub x5u: Box<str>,
    /// Ends the wait.
    pub timer: TimerHandle,
}

/// Where a request goes and what is added to it.
#[derive(Default)]
pub struct Plan {
    /// The trunk it goes to, when it was routed by one.
    pub egress: Option<TrunkId>,
    /// Addresses still to be tried; the first is next.
    pub attempts: Vec<Attempt>,
    /// Header lines to add: Identity, Date.
    pub lines: Vec<u8>,
}

/// One address to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The address.
    pub hop: NextHop,
    /// The listener to leave by.
    pub listener: ListenerId,
    /// This is the UDP retry of an oversize request whose TCP attempt failed (RFC 3261 18.1.1): do not switch again.
    pub keep_udp: bool,
}

/// One client transaction of a request.
pub struct Branch {
    /// The transaction; `None` once it has terminated.
    pub client: Option<ClientId>,
    /// What it is told apart by in the layer's reports, also after `client` is gone.
    pub id: ClientId,
    /// Its state as far as the proxy core cares.
    pub state: BranchState,
    /// Timer C, for INVITE.
    pub timer_c: Option<TimerHandle>,
}

/// What is known of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchState {
    /// Sent, nothing heard.
    Calling,
    /// A provisional response came.
    Proceeding,
    /// A final response was received and stored or forwarded.
    Final,
    /// It ended without a final response of its own.
    Ended(Local),
}

impl RequestContext {
    /// The branch of a client transaction.
    pub fn branch_mut(&mut self, client: ClientId) -> Option<&mut Branch> {
        self.branches.iter_mut().find(|b| b.id == client)
    }

    /// Some branch may still give a final response.
    pub fn is_pending(&self) -> bool {
        self.branches.iter().any(|b| matches!(b.state, BranchState::Calling | BranchState::Proceeding))
    }

    /// What the branches without a response of their own amount to: the mildest of them.
    pub fn local_outcome(&self) -> Option<Local> {
        let has = |local| self.branches.iter().any(|b| b.state == BranchState::Ended(local));
        [Local::Cancelled, Local::Timeout, Local::Unavailable].into_iter().find(|local| has(*local))
    }

    /// Every transaction of this request has ended: the context can go.
    pub fn is_over(&self) -> bool {
        self.server.is_none() && self.parked.is_none() && self.branches.iter().all(|b| b.client.is_none())
    }
}
