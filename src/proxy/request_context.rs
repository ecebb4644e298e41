//! One request's journey through the proxy: the received request, its branches, and what was sent upstream.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::calls::{Part, Signed};
use super::connected::{Called, Connection};
use super::failover::Outcome;
use super::history::History;
use super::plan::{Candidate, Plan, Retarget};
use super::response_context::{Local, ResponseContext};
use super::route::table::Verified;
use super::session_timer::Treatment;
use super::signing::SignedFor;
use super::waiting::{Parked, Waiting};
use super::{Held, NextHop, TrunkId};
use crate::sip::hop::Hop;
use crate::stir::{Verdict, Verstat};
use crate::transaction::timer::TimerHandle;
use crate::transaction::{ClientId, ServerId};

/// State of one request from its arrival until its last transaction has ended.
pub struct RequestContext {
    /// The configuration it began with and is finished by.
    pub snapshot: Rc<Held>,
    /// The server transaction; `None` once it has terminated.
    pub server: Option<ServerId>,
    /// The request as received, for further attempts and for responses of our own; emptied when neither can happen any more.
    pub request: Vec<u8>,
    /// When it arrived.
    pub arrived: Instant,
    /// Where it came from.
    pub source: Hop,
    /// The trunk it came from.
    pub ingress: TrunkId,
    /// Small faults of its syntax were tolerated when it was first read, and are when it is read again.
    pub is_lenient: bool,
    /// INVITE, or another method.
    pub is_invite: bool,
    /// Outside a dialog: it has no To tag.
    pub is_initial: bool,
    /// Its sender wants History-Info in responses (RFC 7044).
    pub asks_history: bool,
    /// Loop hash of the request as received (RFC 5393 4.2).
    pub loop_hash: u64,
    /// What it waits for.
    pub parked: Vec<Parked>,
    /// Candidates not yet tried.
    pub plan: Plan,
    /// The copies that were sent, if some trunk wants to know (RFC 7044).
    pub history: History,
    /// Targets that a 3xx named and that were followed.
    pub followed: Vec<Box<[u8]>>,
    /// What verification found.
    pub verified: Verified,
    /// What the header lines in `lines` were made for.
    pub signed_for: Option<SignedFor>,
    /// Signatures of lines that were replaced by others.
    pub earlier_signatures: Vec<Box<[u8]>>,
    /// Date of the copy is that of a diversion, not the received one (D-6).
    pub renews_date: bool,
    /// All of it, where some trunk is told.
    pub verdict: Option<Rc<Verdict>>,
    /// The same in the word for the inside network; `None` if nothing was asked.
    pub verstat: Option<Verstat>,
    /// What these lines say, for the record of the call; `None` if signing failed.
    pub signed: Option<Arc<Signed>>,
    /// What its session timers become, and its answer is to be given (RFC 4028 8).
    pub session: Option<Treatment>,
    /// Header lines to add: Identity, Date.
    pub lines: Vec<u8>,
    /// Branches that may be alive at one time (RFC 5393 5.3).
    pub breadth: u16,
    /// Client transactions, in the order of their start; all but the last have usually ended.
    pub branches: Vec<Branch>,
    /// Final responses of the branches.
    pub responses: ResponseContext,
    /// What it is to an observed call.
    pub part: Option<Part>,
    /// Why the latest candidate could not even be tried.
    pub refused: Option<Local>,
    /// The final response that was sent upstream.
    pub final_status: Option<u16>,
    /// The caller sent CANCEL: no further attempt (K-5).
    pub cancelled: bool,
    /// Some branch ended in a way that forbids further candidates (KR-9).
    pub settled: bool,
    /// `Reason: STIR` lines for the responses of this call (RFC 9410), complete with line ends.
    pub reason_lines: Vec<u8>,
    /// A provisional response carried them.
    pub has_told_reasons: bool,
    /// What its tokens say, and whom it is for, once a response is to go by that.
    pub tokens: Option<Rc<Called>>,
    /// Connected identity of its dialogs (RFC 9970).
    pub connections: Vec<Connection>,
    /// It was admitted above a limit, as an emergency call.
    pub is_over_limit: bool,
}

/// One client transaction of a request.
pub struct Branch {
    /// The transaction; `None` once it has terminated.
    pub client: Option<ClientId>,
    /// What it is told apart by in the layer's reports, also after `client` is gone.
    pub id: ClientId,
    /// Its state as far as the proxy core cares.
    pub state: BranchState,
    /// The trunk it goes to.
    pub egress: Option<TrunkId>,
    /// Where it went.
    pub next: Hop,
    /// Its place among that trunk's next hops.
    pub member: Option<u16>,
    /// The address it went to.
    pub next_hop: NextHop,
    /// Its share of Max-Breadth; it counts until the branch has its final response (RFC 5393 5.3.3).
    pub share: u16,
    /// It goes to a browser by its connection (W-3).
    pub is_flow: bool,
    /// A 101 to 199 came.
    pub rang: bool,
    /// The signature of its copy.
    pub signed: Option<Arc<Signed>>,
    /// A 2xx came: where it went, the call is.
    pub is_answered: bool,
    /// Its time was over (fr_inv) and it was cancelled: a 487 stands for a timeout.
    pub overdue: bool,
    /// Timer C, for INVITE.
    pub timer_c: Option<TimerHandle>,
    /// The trunk's shorter patience: before the first response, then before the final one.
    pub patience: Option<TimerHandle>,
    /// What replaces it if the transport fails: the same place over UDP (T-5).
    pub fallback: Option<Box<Candidate>>,
    /// Its Request-URI is sips: what it is redirected to must be, too.
    pub is_secure: bool,
    /// The Request-URI of its copy, if that means another target than the received one.
    pub retarget: Option<Rc<Retarget>>,
    /// What replaces it after a 416: its tel URI of ours as the SIP URI that it was.
    pub as_sip: Option<Box<Candidate>>,
    /// Further addresses of the same name, tried when this one can not serve (RFC 3263 4.3).
    pub alternates: VecDeque<Candidate>,
}

/// What is known of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchState {
    /// Sent, nothing heard.
    Calling,
    /// A provisional response came.
    Proceeding,
    /// Given up for the next candidate, but alive: counts as ended by a 408, is cancelled by its late 1xx, and a late 2xx is forwarded.
    Abandoned,
    /// A final response was received and stored or forwarded.
    Final,
    /// It ended without a final response of its own.
    Ended(Local),
}

impl BranchState {
    /// Nothing is waited for any more.
    pub fn has_ended(self) -> bool {
        !matches!(self, BranchState::Calling | BranchState::Proceeding)
    }
}

impl RequestContext {
    /// The branch of a client transaction.
    pub fn branch_mut(&mut self, client: ClientId) -> Option<&mut Branch> {
        self.branches.iter_mut().find(|b| b.id == client)
    }

    /// Some branch may still give a final response, or is being located.
    pub fn is_pending(&self) -> bool {
        self.parked.iter().any(|parked| !parked.waiting.is_afterwards())
            || self.branches.iter().any(|b| !b.state.has_ended())
    }

    /// Nothing will be built from the request any more.
    pub fn is_done(&self) -> bool {
        self.final_status.is_some() && !self.is_pending()
    }

    /// Gives back what only further attempts and a final response need; the context itself lives on with its transactions, 32 seconds
    /// and more.
    pub fn forget_if_done(&mut self) {
        if self.is_done() {
            self.request = Vec::new();
            self.lines = Vec::new();
            self.verdict = None;
            self.plan.clear();
            self.responses = ResponseContext::default();
        }
    }

    /// Octets kept of messages.
    pub fn kept(&self) -> usize {
        self.request.capacity() + self.lines.capacity() + self.responses.kept()
    }

    /// No branch may be started any more (R-6, R-12, K-5).
    pub fn is_closed(&self) -> bool {
        self.cancelled || self.final_status.is_some() || self.responses.is_global_failure()
    }

    /// What is left of Max-Breadth: a branch holds its share until its final response (RFC 5393 5.3.3). It is counted anew each
    /// time, so that several 2xx of one branch give nothing back twice.
    pub fn breadth_left(&self) -> u16 {
        let holds = |b: &&Branch| !matches!(b.state, BranchState::Final | BranchState::Ended(_));
        let located = self.parked.iter().map(|parked| match parked.waiting {
            Waiting::Location { share, .. } => share,
            Waiting::Signature(ref unfinished) => unfinished.share(),
            Waiting::Certificate { .. } | Waiting::Answered { .. } => 0,
        });
        let held = self.branches.iter().filter(holds).map(|b| b.share).chain(located).fold(0, u16::saturating_add);
        self.breadth.saturating_sub(held)
    }

    /// What the branches without a response of their own amount to: the mildest of them.
    pub fn local_outcome(&self) -> Option<Local> {
        let locals = || {
            self.branches.iter().filter_map(|b| match b.state {
                BranchState::Ended(local) => Some(local),
                BranchState::Abandoned => Some(Local::Timeout),
                _ => None,
            })
        };
        let has = |local| locals().any(|l| l == local);
        if has(Local::Cancelled) {
            return Some(Local::Cancelled);
        }
        if has(Local::Timeout) {
            return Some(Local::Timeout);
        }
        let refused = || locals().find(|local| matches!(local, Local::Refused { .. }));
        self.refused.or_else(refused).or_else(|| has(Local::Unavailable).then_some(Local::Unavailable))
    }

    /// Notes how a branch ended: whether further candidates may be tried at all.
    pub fn note(&mut self, client: ClientId, outcome: Outcome) {
        let snapshot = Rc::clone(&self.snapshot);
        let Some(branch) = self.branch_mut(client) else { return };
        let trunk = branch.egress.and_then(|id| snapshot.config.trunk(id));
        let allowed = match trunk {
            Some(trunk) => trunk.forking.failover.allows(outcome, branch.rang),
            None => super::failover::Failover::default().allows(outcome, branch.rang),
        };
        self.settled |= !allowed;
    }

    /// Every transaction of this request has ended: the context can go.
    pub fn is_over(&self) -> bool {
        self.server.is_none() && self.parked.is_empty() && self.branches.iter().all(|b| b.client.is_none())
    }
}
