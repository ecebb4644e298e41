//! Attempts: the candidates of a plan become client transactions, a group at a time (RFC 3261 16.6, RFC 5393 5.3; R-6, D-8, N-3).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::disclosure::Telling;
use super::forward::{Border, PATH};
use super::plan::{Candidate, Change, Place, Retarget};
use super::request_context::{Branch, BranchState, RequestContext};
use super::response_context::Local;
use super::route::marks::Marks;
use super::route::number;
use super::route::preprocess::{self, Preprocessed};
use super::waiting::Waiting;
use super::{Config, ContextKey, Held, Now, Output, Proxy, Timer, Trunk, TrunkId, UdpOversize, forward};
use crate::sip::hop::{Hop, ListenerId, PeerId, Transport};
use crate::sip::{Message, Method, NameAddr, Scheme, Uri};

const TABLE_FULL: Local = Local::Refused { status: 503, reason: "Service Unavailable" };
const NO_NEXT_HOP: Local = Local::Refused { status: 500, reason: "No Next Hop" };
const NO_LISTENER: Local = Local::Refused { status: 500, reason: "No Listener" };
/// RFC 5630 3.3: nobody can be reached securely.
const NOT_SECURE: Local = Local::Refused { status: 480, reason: "No Next Hop over TLS" };
const TOO_LARGE: Local = Local::Refused { status: 513, reason: "Message Too Large" };
const BREADTH_EXCEEDED: Local = Local::Refused { status: 440, reason: "Max-Breadth Exceeded" }; // RFC 5393 5.3.3

/// A request on its way to one candidate.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    key: ContextKey,
    request: Message<'a>,
    /// What its route set said.
    pre: &'a Preprocessed,
    candidate: &'a Candidate,
    /// Of Max-Breadth.
    share: u16,
    /// It has waited for its signatures: whether it may be made was asked before that.
    is_signed: bool,
}

/// What became of an attempt that could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Started {
    /// It is sent.
    Sent,
    /// It waits for its signatures.
    Waits,
}

impl Proxy {
    /// Starts the next group; where none of its candidates can be tried the one after it, and so on; with none left the best response
    /// goes upstream. Each copy is made of the request as received (RR-8).
    pub(super) fn advance(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        pre: &Preprocessed,
        out: &mut Output,
    ) {
        while self.context(key).is_some_and(|context| context.may_try_next(now)) {
            let Some((group, share)) = self.context(key).and_then(next_group) else { break };
            let mut is_started = false;
            for _ in 0..group {
                let Some(candidate) = self.context(key).and_then(|c| c.plan.pop()) else { break };
                let attempt = Attempt { key, request, pre, candidate: &candidate, share, is_signed: false };
                match self.try_candidate(now, attempt, out) {
                    Ok(()) => is_started = true,
                    Err(why) => self.refuse_candidate(key, why),
                }
            }
            if is_started {
                return;
            }
        }
        if let Some(context) = self.context(key)
            && context.branches.is_empty()
            && context.refused.is_none()
        {
            let nobody = context.plan.refusal.map(|(status, reason)| Local::Refused { status, reason });
            context.refused = nobody.or(Some(NO_NEXT_HOP));
        }
        self.finish(now, key, Some(request), out);
    }

    /// The snapshot of a request and the listener it came in by.
    fn entry_of(&mut self, key: ContextKey) -> (Rc<Held>, ListenerId) {
        (self.snapshot_of(key), self.context(key).map_or(ListenerId(0), |c| c.source.local))
    }

    fn refuse_candidate(&mut self, key: ContextKey, why: Local) {
        if why == TABLE_FULL {
            self.stats.table_full += 1;
        }
        if let Some(context) = self.context(key) {
            context.refused = Some(why);
        }
    }

    /// All branches have ended: the next group if their ends allow one (KR-9, K-5, R-6), else the best response.
    pub(super) fn conclude(&mut self, now: Now, key: ContextKey, out: &mut Output) {
        let Some(context) = self.context(key) else { return };
        if context.final_status.is_some() || context.is_pending() {
            return;
        }
        if !context.may_try_next(now) {
            return self.finish(now, key, None, out);
        }
        self.with_request(key, |proxy, request| {
            let (snapshot, entry) = proxy.entry_of(key);
            if let Ok(pre) = preprocess::preprocess(&snapshot.config, request, entry) {
                proxy.advance(now, key, request, &pre, out);
            }
        });
    }

    /// Tries candidates one after the other in the place of a branch that has ended or could be located only now; those behind the
    /// first that can be tried stand by. False if none could.
    pub(super) fn replace(
        &mut self,
        now: Now,
        key: ContextKey,
        candidates: VecDeque<Candidate>,
        share: u16,
        out: &mut Output,
    ) -> bool {
        self.try_in_turn(now, key, candidates, share, false, out)
    }

    /// The same where the first of them has waited for its signatures.
    pub(super) fn replace_signed(
        &mut self,
        now: Now,
        key: ContextKey,
        candidates: VecDeque<Candidate>,
        share: u16,
        out: &mut Output,
    ) -> bool {
        self.try_in_turn(now, key, candidates, share, true, out)
    }

    fn try_in_turn(
        &mut self,
        now: Now,
        key: ContextKey,
        mut candidates: VecDeque<Candidate>,
        share: u16,
        mut is_signed: bool,
        out: &mut Output,
    ) -> bool {
        let tried = self.with_request(key, |proxy, request| {
            let (snapshot, entry) = proxy.entry_of(key);
            let Ok(pre) = preprocess::preprocess(&snapshot.config, request, entry) else { return false };
            while let Some(candidate) = candidates.pop_front() {
                let left = share.min(proxy.context(key).map_or(0, |c| c.breadth_left()));
                if left == 0 {
                    break;
                }
                let keeps_some = !candidates.is_empty() && may_be_abandoned(&snapshot.config, candidate.egress);
                let share = if keeps_some { (left / 2).max(1) } else { left };
                let attempt = Attempt { key, request, pre: &pre, candidate: &candidate, share, is_signed };
                is_signed = false;
                match proxy.attempt(now, attempt, out) {
                    Ok(started) => {
                        proxy.keep_alternates(key, started, candidates);
                        return true;
                    }
                    Err(why) => proxy.refuse_candidate(key, why),
                }
            }
            false
        });
        tried == Some(true)
    }

    /// Keeps what is tried when the latest attempt can not serve.
    fn keep_alternates(&mut self, key: ContextKey, started: Started, candidates: VecDeque<Candidate>) {
        let Some(context) = self.context(key) else { return };
        match started {
            Started::Sent => {
                if let Some(branch) = context.branches.last_mut() {
                    branch.alternates = candidates;
                }
            }
            Started::Waits => {
                if let Some(Waiting::Signature(unfinished)) = context.parked.last_mut().map(|p| &mut p.waiting) {
                    unfinished.keep_alternates(candidates);
                }
            }
        }
    }

    /// Tries a candidate, or asks where it is first.
    fn try_candidate(&mut self, now: Now, attempt: Attempt<'_>, out: &mut Output) -> Result<(), Local> {
        let Attempt { key, candidate, share, .. } = attempt;
        let Place::Locate(target) = &candidate.place else {
            return self.attempt(now, attempt, out).map(drop);
        };
        if let Some(hop) = target.direct() {
            let snapshot = self.snapshot_of(key);
            let candidate = candidate.at(&snapshot.config, hop);
            return self.attempt(now, Attempt { candidate: &candidate, ..attempt }, out).map(drop);
        }
        if self.locate(now, key, candidate, target, share, out) { Ok(()) } else { Err(TABLE_FULL) }
    }

    /// Sends the request to one candidate, or lets it wait for the signatures of its copy.
    ///
    /// # Errors
    /// Why that is not possible. Nothing was sent then.
    fn attempt(&mut self, now: Now, attempt: Attempt<'_>, out: &mut Output) -> Result<Started, Local> {
        let Attempt { key, request, candidate, share, is_signed, .. } = attempt;
        if !is_signed {
            self.may_sign(key, candidate.egress, request)?;
            self.may_send(now, key, candidate, request)?; // once: what is asked is counted (RFC 7339 6.3)
            self.may_cross(key, candidate, request)?;
            self.may_admit(now, key, candidate, request)?;
            if self.waits_for_signature(now, key, request, candidate, share, out) {
                return Ok(Started::Waits);
            }
        }
        self.admit_call_to(now, key, candidate.egress, request)?;
        let sent = self.attempt_admitted(now, attempt, out);
        if let (Err(_), Some(egress)) = (&sent, candidate.egress) {
            self.uncount(key, egress, candidate.member, None);
        }
        sent.map(|()| Started::Sent)
    }

    fn attempt_admitted(&mut self, now: Now, attempt: Attempt<'_>, out: &mut Output) -> Result<(), Local> {
        let Attempt { key, request, candidate, .. } = attempt;
        self.admit_call_at(now, key, candidate, request)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let sent = self.attempt_with(now, attempt, &mut buffer, out);
        self.buffer = buffer;
        sent
    }

    /// Whether a request may go where a candidate is: nothing of sips leaves TLS (RFC 3261 26.2.2), and critical privacy is provided or the
    /// request refused (E-5).
    fn may_cross(&mut self, key: ContextKey, candidate: &Candidate, request: Message<'_>) -> Result<(), Local> {
        let snapshot = self.snapshot_of(key);
        let Some(context) = self.context(key) else { return Err(NO_NEXT_HOP) };
        if is_secure(candidate, request) && matches!(&candidate.place, Place::At(hop) if !hop.transport.is_secure()) {
            return Err(NOT_SECURE);
        }
        match snapshot.config.crossing(Some(context.ingress), candidate.egress).unmet(request) {
            Some(reason) => Err(Local::Refused { status: 500, reason }),
            None => Ok(()),
        }
    }

    fn attempt_with(
        &mut self,
        now: Now,
        Attempt { key, request, pre, candidate, share, .. }: Attempt<'_>,
        buffer: &mut Vec<u8>,
        out: &mut Output,
    ) -> Result<(), Local> {
        let snapshot = self.snapshot_of(key);
        let config = &snapshot.config;
        let Place::At(hop) = candidate.place else { return Err(NO_NEXT_HOP) };
        let Some(context) = self.context(key) else { return Err(NO_NEXT_HOP) };
        let (loop_hash, source, ingress) = (context.loop_hash, context.source, context.ingress);
        // Ids come from one configuration; a call is answered all the same.
        let entry = config.listener(source.local).ok_or(NO_LISTENER)?;
        let exit = config.listener(candidate.listener).ok_or(NO_LISTENER)?;
        let flow = source.connection.filter(|_| source.transport.is_web());
        let (client, branch) = self.layer.reserve_client(key.0, loop_hash).map_err(|_| TABLE_FULL)?;
        let method = request.method().unwrap_or(Method::Other(b""));
        let egress = candidate.egress.and_then(|id| config.trunk(id));
        let signs = egress.is_some_and(Trunk::signs);
        let (session, renews_date) = self.context(key).map(|c| (c.session, c.renews_date)).unwrap_or_default();
        let verdict = self.context(key).and_then(|c| c.verdict.clone());
        let lines = self.context(key).map(|c| std::mem::take(&mut c.lines)).unwrap_or_default();
        let history = self.context(key).map(|c| std::mem::take(&mut c.history)).unwrap_or_default();
        let added = with_tokens(config, request, candidate, if signs { &lines } else { &[] });
        let mut copy = forward::Copy {
            source: source.remote,
            entry,
            exit,
            transport: hop.transport,
            branch: &branch,
            record_route: forward::is_record_routed(method).then_some(Marks {
                keys: &config.keys,
                call_id: request.call_id().unwrap_or_default(),
                ingress,
                egress: candidate.egress,
            }),
            flows: [flow, candidate.flow],
            path: flow.filter(|_| method == Method::Register).map(|flow| (&config.keys, flow)),
            route: pre,
            uri: candidate.retarget.as_ref().map(|retarget| &*retarget.uri),
            border: Some(Border {
                config,
                crossing: config.crossing(Some(ingress), candidate.egress),
                asserted: config.asserted_by(ingress),
                telling: verdict.as_deref().zip(egress).map(|(verdict, trunk)| Telling {
                    verdict,
                    unix: now.unix,
                    rules: &trunk.discloses,
                    plan: &config.verifier.dial_plan,
                }),
                retarget: candidate.retarget.as_deref(),
                history: &history,
            }),
            styles: [config.trunk(ingress), egress].map(|t| t.map(|t| t.rr_style).unwrap_or_default()),
            is_sips: is_secure(candidate, request) || next_route(request, pre).is_some_and(is_sips),
            trunk_path: (method == Method::Register && flow.is_none() && egress.is_some_and(|t| t.path))
                .then_some(Marks { keys: &config.keys, call_id: PATH, ingress, egress: candidate.egress }),
            max_breadth: Some(share),
            spent: config.guard.digest.as_deref(),
            offers_oc: config.guard.role_with(candidate.egress).client,
            alias: egress.is_some_and(|t| t.alias),
            session,
            renews_date: signs && renews_date,
            lines: &added,
        };
        let mut written = forward::write(request, &copy, &mut self.patch, buffer);
        let oversize = hop.transport == Transport::Udp && !candidate.keep_udp && buffer.len() > config.udp_mtu;
        let policy = egress.map(|t| t.udp_oversize).unwrap_or_default();
        let moves = oversize && policy == UdpOversize::Tcp; // T-5, RFC 3261 18.1.1
        if moves {
            copy.transport = Transport::Tcp;
            buffer.clear();
            written = forward::write(request, &copy, &mut self.patch, buffer);
        }
        let transport = copy.transport;
        drop(added);
        if let Some(context) = self.context(key) {
            context.lines = lines;
            context.history = history;
        }
        let refused =
            written.err().map(Local::from).or((oversize && policy == UdpOversize::Reject).then_some(TOO_LARGE));
        if let Some(why) = refused {
            self.layer.release_client(client);
            return Err(why);
        }
        let peer = candidate.egress.map(|trunk| PeerId(trunk.0));
        let next = Hop { transport, local: candidate.listener, remote: hop.remote, connection: candidate.flow, peer };
        self.layer.send_request(now.instant, client, method, next, buffer, &mut out.outbox);
        if candidate.flow.is_none() {
            self.vouch_for(now, next.remote);
        }
        self.stats.forwarded += 1;
        let signed = self.context(key).filter(|_| signs).and_then(|context| context.signed.clone());
        self.note_attempt(key, candidate.egress, next, signed.as_ref());
        let target = target_of(candidate, request);
        if let Some(context) = self.context(key).filter(|_| config.keeps_history) {
            context.history.sent(client, target, candidate.retarget.as_deref());
        }
        let is_initial = self.context(key).is_some_and(|c| c.is_initial);
        let patience = egress.filter(|_| is_initial).and_then(|t| t.forking.fr);
        let branch = Branch {
            client: Some(client),
            id: client,
            state: BranchState::Calling,
            egress: candidate.egress,
            next,
            member: candidate.member,
            next_hop: hop,
            share,
            is_flow: candidate.flow.is_some(),
            rang: false,
            signed: signed.clone(),
            is_answered: false,
            overdue: false,
            timer_c: (method == Method::Invite)
                .then(|| self.timers.insert(now.instant + config.timer_c, Timer::C { context: key, client })),
            patience: patience
                .map(|after| self.timers.insert(now.instant + after, Timer::Patience { context: key, client })),
            is_secure: is_secure(candidate, request),
            retarget: candidate.retarget.clone().filter(|retarget| retarget.change != Change::Form),
            as_sip: as_sip(candidate, request),
            fallback: moves.then(|| Box::new(Candidate { keep_udp: true, ..candidate.clone() })),
            alternates: VecDeque::new(),
        };
        if let Some(context) = self.context(key) {
            context.branches.push(branch);
        }
        Ok(())
    }
}

/// Our lines for a copy, and those that a 3xx brought for its target (D-18), unless it goes where tokens do not go (S-6).
fn with_tokens<'l>(config: &Config, request: Message<'_>, candidate: &Candidate, own: &'l [u8]) -> Cow<'l, [u8]> {
    let is_told = || !candidate.egress.and_then(|id| config.trunk(id)).is_some_and(|t| t.headers.withholds_tokens);
    let retarget = candidate.retarget.as_ref().filter(|_| is_told());
    let brought = retarget.map(|retarget| retarget.tokens_for(request, own, config)).unwrap_or_default();
    if brought.is_empty() { Cow::Borrowed(own) } else { Cow::Owned([own, &brought].concat()) }
}

/// The Request-URI of a candidate's copy, as far as it is not moved by strict routers.
fn target_of<'a>(candidate: &'a Candidate, request: Message<'a>) -> &'a [u8] {
    candidate.retarget.as_ref().map_or(request.request_uri(), |retarget| &retarget.uri)
}

/// The URI of the Route value that stays on top.
fn next_route<'a>(request: Message<'a>, pre: &Preprocessed) -> Option<&'a [u8]> {
    let value = request.bytes().get(pre.next.clone()?)?;
    NameAddr::parse(value).ok().map(|address| address.uri)
}

fn is_sips(uri: &[u8]) -> bool {
    uri.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"sips:"))
}

/// It may go over TLS only: it is for a sips URI, or came for one, however its trunk writes numbers (RR-3).
fn is_secure(candidate: &Candidate, request: Message<'_>) -> bool {
    is_sips(target_of(candidate, request)) || is_sips(request.request_uri())
}

/// What is tried after a 416, if we made a tel URI of a SIP URI.
fn as_sip(candidate: &Candidate, request: Message<'_>) -> Option<Box<Candidate>> {
    let retarget = candidate.retarget.as_ref()?;
    let Place::At(hop) = &candidate.place else { return None };
    let received = Uri::parse(request.request_uri()).ok()?;
    let is_ours = matches!(received.scheme, Scheme::Sip | Scheme::Sips);
    if !is_ours || !retarget.uri.get(..4)?.eq_ignore_ascii_case(b"tel:") {
        return None; // before anything is allocated
    }
    let mut uri = number::as_sip(&retarget.uri, &hop.remote.to_string())?;
    if received.scheme == Scheme::Sips {
        uri.splice(..4, *b"sips:");
    }
    let retarget = Some(Rc::new(Retarget { uri: uri.into(), ..Retarget::clone(retarget) }));
    Some(Box::new(Candidate { retarget, joins: false, ..candidate.clone() }))
}

impl RequestContext {
    /// Whether another group may be started: something is left, no branch's end forbids it, and there is time.
    fn may_try_next(&self, now: Now) -> bool {
        !self.plan.is_empty() && !self.is_closed() && !self.settled && self.is_in_time(now)
    }

    /// There is time for another attempt (D-8; N-3: the client of a non-INVITE gives up 64*T1 after it sent it).
    pub fn is_in_time(&self, now: Now) -> bool {
        let config = &self.snapshot.config;
        let budget = if self.is_invite {
            config.failover_budget
        } else {
            let lifetime = config.transaction.lifetime();
            lifetime - lifetime / 8
        };
        self.branches.is_empty() || now.instant.saturating_duration_since(self.arrived) < budget
    }
}

/// Size of the group to start now and each member's share of Max-Breadth (L-5): a group broader than what is left is tried in parts.
fn next_group(context: &mut RequestContext) -> Option<(usize, u16)> {
    let left = context.breadth_left();
    if left == 0 {
        context.refused = Some(BREADTH_EXCEEDED);
        return None;
    }
    if context.plan.group_len() > usize::from(left) {
        context.plan.split_group(usize::from(left));
    }
    let group = context.plan.group_len();
    // A branch that is given up keeps its share, so something has to stay for the candidates behind it (for further addresses of a
    // name `replace` sees to that).
    let may_be_abandoned = may_be_abandoned(&context.snapshot.config, context.plan.first().and_then(|c| c.egress));
    let parts = group + usize::from(may_be_abandoned && context.plan.len() > group);
    let share = (usize::from(left) / parts.max(1)).max(1);
    Some((group, share as u16))
}

/// Whether a branch to this trunk can be given up while it lives.
fn may_be_abandoned(config: &Config, egress: Option<TrunkId>) -> bool {
    let trunk = egress.and_then(|id| config.trunk(id));
    trunk.is_some_and(|t| t.forking.fr.or(t.forking.fr_inv).is_some())
}

/// Longest total time for attempts at an INVITE, by default (D-8).
pub const FAILOVER_BUDGET: Duration = Duration::from_secs(60);
