//! Where the proxy asks its first line: before a message is read, before a dialog begins, before an error is answered.

use std::collections::HashMap;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use super::admission::priority::Priority;
use super::admission::{self, Admission, Ban, Banned, CallGuard, Cause, Gate, Guard, Shedder, Standing, TrunkLimits};
use super::calls::{Role, call_hash};
use super::digest::Proof;
use super::neighbours::Source;
use super::overload;
use super::plan::Candidate;
use super::response_context::Local;
use super::validate::Invalid;
use super::{Config, ContextKey, Event, Now, Output, Proxy, Trunk, TrunkId};
use crate::sip::hop::Hop;
use crate::sip::{Message, Method, Name, Refusal, date};
use crate::stir::{Check, CheckResult, TokenVerdict, Verdict};
use crate::transaction::ClientId;

/// Addresses remembered from which somebody authenticated.
const MAX_AUTHENTICATED: usize = 65_536;
/// How long whom we sent a request to counts as a neighbour.
const VOUCHED: Duration = Duration::from_secs(3600);

/// What one worker knows of sources, load and counted calls.
pub(super) struct Watch {
    /// The time of the message in hand, and in seconds (Unix).
    pub now: Instant,
    pub unix: i64,
    /// Where it came from.
    pub source: SocketAddr,
    /// The second (Unix) in which a witness of the time was last heard.
    witnessed: i64,
    gate: Gate,
    pub shedder: Option<Shedder>,
    /// Trunks that authenticated lately, by the address they did it from: whose ACKs theirs are (V-9: no challenge for an ACK).
    authenticated: HashMap<SocketAddr, (TrunkId, Instant)>,
    /// Load of neighbours, and what they are told of ours.
    pub client: overload::Client,
    pub server: overload::Server,
}

impl Watch {
    /// Knows nothing yet.
    pub fn new(guard: &Guard, key: [u8; 16], now: Instant) -> Self {
        let shedder = guard.shedding.clone().map(|config| Shedder::new(config, now));
        guard.digest.iter().for_each(|digest| digest.start(&key));
        Watch {
            now,
            unix: 0,
            source: SocketAddr::from(([0; 4], 0)),
            witnessed: 0,
            gate: Gate::new(guard, key, now),
            shedder,
            authenticated: HashMap::new(),
            client: overload::Client::default(),
            server: overload::Server::new(now),
        }
    }
}

impl Watch {
    /// Notes when and whence a message came.
    pub fn at(&mut self, now: Now, source: SocketAddr) {
        (self.now, self.unix, self.source) = (now.instant, now.unix, source);
    }

    /// Goes on under another configuration. Sources seen stay known if there is still room for as many.
    pub fn configure(&mut self, guard: &Guard, key: [u8; 16]) {
        self.gate.configure(guard, key, self.now);
        guard.digest.iter().for_each(|digest| digest.start(&key));
        self.shedder = guard.shedding.clone().map(|config| Shedder::new(config, self.now));
    }
}

impl Proxy {
    /// A neighbour's message may tell the time; one witness a second is heard.
    pub(super) fn witness(&mut self, now: Now, message: Message<'_>, out: &mut Output) {
        if self.watch.witnessed == now.unix || !self.snapshot.config.clock.is_on() {
            return;
        }
        let date = message.field(Name::Date).and_then(|field| date::parse(field.value()));
        let Some(theirs) = date.and_then(|date| i64::try_from(date).ok()) else { return };
        self.hear_witness(now, self.watch.source.ip().to_string().as_bytes(), theirs, out);
    }

    /// So may a token whose signature is good, even if it seems stale.
    pub(super) fn witness_token(&mut self, now: Now, verdict: &Verdict, out: &mut Output) {
        if self.watch.witnessed == now.unix || !self.snapshot.config.clock.is_on() {
            return;
        }
        let is_signed = |token: &&TokenVerdict| token.checks.get(Check::Signature) == CheckResult::Passed;
        let Some(token) = verdict.tokens().iter().find(is_signed) else { return };
        // Whoever signed the field signed `iat`.
        let chain = token.credentials().next().and_then(|credential| credential.chain.as_ref().ok());
        if let (Some(iat), Some(chain)) = (token.iat, chain) {
            self.hear_witness(now, chain.leaf.der(), iat, out);
        }
    }

    fn hear_witness(&mut self, now: Now, witness: &[u8], theirs: i64, out: &mut Output) {
        self.watch.witnessed = now.unix;
        let change = self.snapshot.config.clock.hear(now.instant, now.unix, witness, theirs);
        out.events.extend(change.map(Event::Clock));
    }

    /// Judges a received message before it is read, by its source alone (KR-10). What is not heard is to be dropped without answer.
    pub fn admit(&mut self, now: Now, source: &Hop, out: &mut Output) -> Admission {
        let snapshot = self.snapshot.clone();
        let (admission, banned) = self.watch.gate.admit(&snapshot.config.guard, now.instant, source);
        self.note_ban(banned, out);
        match admission {
            Admission::Banned => self.stats.banned_messages += 1,
            Admission::TooMany => self.stats.excess_messages += 1,
            Admission::Known | Admission::Stranger => {}
        }
        admission
    }

    /// Whether a connection from here is closed at once, for nothing that comes over it would be heard (KR-10). `may_prove`: TLS proves
    /// who it is, or may do so yet; that counts for more than a ban of its address.
    pub fn refuses(&self, now: Now, address: IpAddr, may_prove: bool) -> bool {
        let guard = &self.snapshot.config.guard;
        match guard.networks.standing(address) {
            Some(standing) => standing == Standing::Denied,
            None => {
                let may_be_banned = !may_prove && guard.strangers.is_some();
                may_be_banned && guard.bans.is_banned(admission::Source::of(address), now.instant)
            }
        }
    }

    /// Looks at what a stranger sent; true if it is to be dropped without answer.
    pub fn screen(&mut self, now: Now, source: &Hop, message: Message<'_>, out: &mut Output) -> bool {
        let snapshot = self.snapshot.clone();
        let banned = self.watch.gate.screen(&snapshot.config.guard, now.instant, source, message);
        self.stats.banned_messages += u64::from(banned.is_some());
        self.note_ban(banned, out);
        banned.is_some()
    }

    /// Tells how late something was done: a timer after it was due, a message after it had arrived. Measures overload.
    pub fn observe_delay(&mut self, now: Now, late: Duration) {
        if let Some(shedder) = &mut self.watch.shedder {
            shedder.observe(now.instant, late);
        }
    }

    /// Who is banned at present, node-wide.
    pub fn bans(&self, now: Now) -> Vec<Ban> {
        self.snapshot.config.guard.bans.list(now.instant)
    }

    /// Lifts a ban. Whether there was one.
    pub fn lift_ban(&self, now: Now, address: IpAddr) -> bool {
        self.snapshot.config.guard.bans.lift(admission::Source::of(address), now.instant)
    }

    /// We send requests there: what comes back is no stranger's.
    pub(super) fn vouch_for(&mut self, now: Now, remote: SocketAddr) {
        let snapshot = self.snapshot.clone();
        self.watch.gate.vouch(&snapshot.config.guard, now.instant, remote.ip(), VOUCHED);
    }

    fn note_ban(&mut self, banned: Option<Banned>, out: &mut Output) {
        if let Some(Banned { source, cause }) = banned {
            self.stats.bans += 1;
            out.events.push(Event::Banned { network: source.network(), cause });
        }
    }

    /// Whether an error may be answered (E-1).
    pub(super) fn may_answer(&mut self, source: Source, out: &mut Output) -> bool {
        let snapshot = self.snapshot.clone();
        let now = self.watch.now;
        let (may, banned) = self.watch.gate.may_answer(&snapshot.config.guard, now, &source.hop);
        self.note_ban(banned, out);
        self.stats.withheld_answers += u64::from(!may);
        may
    }

    /// Whether a new dialog is refused because this worker has too much to do (O-8). The same for all copies of a request.
    pub(super) fn sheds(&mut self, now: Now, source: Source, request: Message<'_>) -> bool {
        let Some(shedder) = &mut self.watch.shedder else { return false };
        let (servers, clients) = self.layer.live();
        let bounds = &self.snapshot.config.transaction;
        let fill = |entries: usize, of: usize| entries.saturating_mul(1000) / of.max(1);
        shedder.observe_table(fill(servers, bounds.max_server).max(fill(clients, bounds.max_client)), 1000);
        if shedder.level(now.instant) == 0 || !shedder.sheds(now.instant, request_hash(&self.key, request)) {
            return false;
        }
        let config = &self.snapshot.config;
        let ingress = source.trunk;
        // Whoever throttles itself as it is told is not refused besides (O-5), until it is clear that this does not help.
        let obeys = config.guard.role_with(ingress).server && overload::params::offer(request.reply_via()).is_some();
        if obeys && shedder.level(now.instant) < 100 {
            return false;
        }
        let is_trusted = ingress.and_then(|t| config.trunk(t)).is_some_and(|t| t.trusted);
        let sheds = Priority::of(request, &config.guard.emergency_numbers, is_trusted).may_be_shed();
        self.stats.shed += u64::from(sheds);
        sheds
    }

    /// The trunk a request comes from (KR-11): proven by TLS, else by its credentials, else by its source.
    ///
    /// # Errors
    /// 407 with challenges (V-9) where credentials are missing or wrong, 403 to who is nobody's (TG-1: relaying is for trunks).
    pub(super) fn recognise(
        &mut self,
        now: Now,
        Source { hop: source, trunk: known }: Source,
        request: Message<'_>,
        out: &mut Output,
    ) -> Result<TrunkId, Invalid> {
        let snapshot = self.snapshot.clone();
        let is_proven = source.peer.is_some() && source.transport.is_secure();
        let forbidden = Refusal::new(403, "Forbidden");
        let Some(digest) = snapshot.config.guard.digest.as_deref().filter(|_| !(is_proven && known.is_some())) else {
            return known.ok_or(forbidden.into());
        };
        let proof = digest.prove(request, now.unix);
        match (proof, known.filter(|trunk| !digest.requires(*trunk))) {
            (Proof::Trunk(trunk), _) => {
                self.note_authenticated(now, source, trunk, digest.life_for(trunk));
                return Ok(trunk);
            }
            (Proof::None, Some(trunk)) => return Ok(trunk), // it need not authenticate
            _ => {}
        }
        if proof == Proof::Wrong {
            self.stats.wrong_credentials += 1;
            let guard = &snapshot.config.guard;
            let banned = self.watch.gate.offence(guard, now.instant, &source, Cause::Credentials);
            self.note_ban(banned, out);
        }
        let mut line = Vec::with_capacity(256);
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u64(self.next_serial());
        digest.challenge(known, now.unix, hasher.finish(), proof == Proof::Stale, &mut line);
        Err(Invalid { refusal: Refusal::new(407, "Proxy Authentication Required"), line })
    }

    fn note_authenticated(&mut self, now: Now, source: Hop, trunk: TrunkId, life: Duration) {
        let snapshot = self.snapshot.clone();
        self.watch.gate.vouch(&snapshot.config.guard, now.instant, source.remote.ip(), life);
        let known = &mut self.watch.authenticated;
        if known.len() >= MAX_AUTHENTICATED {
            known.retain(|_, (_, until)| *until > now.instant);
        }
        if known.len() < MAX_AUTHENTICATED {
            known.insert(source.remote, (trunk, now.instant + life));
        }
    }

    /// The trunk an ACK comes from. It can not be challenged: who authenticated lately from this address is believed, whosever it is, but
    /// TLS before that, as for other requests.
    pub(super) fn ingress_of_ack(&self, now: Now, Source { hop, trunk: known }: Source) -> Option<TrunkId> {
        let is_proven = hop.peer.is_some() && hop.transport.is_secure();
        let lately = self.watch.authenticated.get(&hop.remote).filter(|(_, until)| *until > now.instant);
        let lately = lately.filter(|_| !(is_proven && known.is_some()));
        lately.map(|(trunk, _)| *trunk).or(known)
    }

    /// An ACK for an error that was answered without state: its To tag is the one such an answer gets (section 14).
    pub(super) fn is_ack_of_refusal(&self, ack: Message<'_>) -> bool {
        ack.to_tag().is_some_and(|tag| tag == self.tag_of(ack))
    }

    /// Counts a new call against the limits of the trunk it comes from. The guard is for [`Proxy::hold_call`] where calls are counted.
    pub(super) fn admit_call(
        &mut self,
        now: Now,
        ingress: TrunkId,
        request: Message<'_>,
    ) -> Result<Option<CallGuard>, Refusal> {
        let snapshot = self.snapshot.clone();
        let Some(limits) = snapshot.config.guard.limits_of(ingress).filter(|limits| limits.from) else {
            return Ok(None);
        };
        self.admit_one(now, limits, ingress, request)
    }

    fn admit_one(
        &mut self,
        now: Now,
        limits: &TrunkLimits,
        ingress: TrunkId,
        request: Message<'_>,
    ) -> Result<Option<CallGuard>, Refusal> {
        if request.method() != Some(Method::Invite) || request.to_tag().is_some() {
            return Ok(None);
        }
        match limits.admit(now.instant, self.is_emergency(ingress, request)) {
            Ok(guard) => Ok(Some(guard)),
            Err(_) => {
                self.stats.limited += 1;
                Err(Refusal::new(limits.status, LIMITED))
            }
        }
    }

    /// It is an emergency call, as far as whoever it comes from is believed that.
    fn is_emergency(&self, ingress: TrunkId, request: Message<'_>) -> bool {
        let config = &self.snapshot.config;
        let is_trusted = config.trunk(ingress).is_some_and(|t| t.trusted);
        Priority::of(request, &config.guard.emergency_numbers, is_trusted) == Priority::Emergency
    }

    /// The limits of the trunk of a candidate, unless the call counts there already.
    fn limits_to<'c>(
        &self,
        config: &'c Config,
        egress: Option<TrunkId>,
        request: Message<'_>,
    ) -> Option<&'c TrunkLimits> {
        let limits = config.guard.limits_of(egress?).filter(|limits| limits.to)?;
        (!self.calls.counts(call_hash(&self.key, request), request, limits)).then_some(limits)
    }

    /// The same for the member of a trunk that a candidate is (KR-6), and how a call above them is refused.
    fn limits_at<'c>(
        &self,
        config: &'c Config,
        candidate: &Candidate,
        request: Message<'_>,
    ) -> Option<(&'c TrunkLimits, u16)> {
        let dispatcher = config.trunk(candidate.egress?).map(|trunk| &trunk.dispatcher);
        let dispatcher = dispatcher.filter(|dispatcher| dispatcher.counts_calls())?;
        let limits = &dispatcher.member(usize::from(candidate.member?))?.limits;
        let counts = self.calls.counts(call_hash(&self.key, request), request, limits);
        (!counts).then_some((limits, dispatcher.refuse_with))
    }

    /// Whether the limits of a candidate have room for a call, as far as can be known before it is sent: what has no room is not signed.
    ///
    /// # Errors
    /// Its refusal.
    pub(super) fn may_admit(
        &mut self,
        now: Now,
        key: ContextKey,
        candidate: &Candidate,
        request: Message<'_>,
    ) -> Result<(), Local> {
        let snapshot = self.snapshot_of(key);
        let config = &snapshot.config;
        let is_signed = candidate.egress.and_then(|id| config.trunk(id)).is_some_and(Trunk::signs);
        let begins = self.context(key).filter(|context| context.is_invite && context.is_initial);
        let Some(ingress) = begins.filter(|_| is_signed).map(|context| context.ingress) else { return Ok(()) };
        let to = self.limits_to(config, candidate.egress, request).map(|limits| (limits, limits.status));
        for (limits, status) in to.into_iter().chain(self.limits_at(config, candidate, request)) {
            if !limits.would_admit(now.instant, self.is_emergency(ingress, request)) {
                self.stats.limited += 1;
                return Err(Local::Refused { status, reason: LIMITED });
            }
        }
        Ok(())
    }

    /// Counts a call for the trunk of a candidate, until it ends there; once for each trunk.
    pub(super) fn admit_call_to(
        &mut self,
        now: Now,
        key: ContextKey,
        egress: Option<TrunkId>,
        request: Message<'_>,
    ) -> Result<(), Local> {
        let snapshot = self.snapshot_of(key);
        let Some(ingress) = self.context(key).map(|context| context.ingress) else { return Ok(()) };
        let Some(limits) = self.limits_to(&snapshot.config, egress, request) else { return Ok(()) };
        let refused = |refusal: Refusal| Local::Refused { status: refusal.status, reason: refusal.reason };
        let admitted = self.admit_one(now, limits, ingress, request).map_err(refused)?;
        let admitted = admitted.filter(|_| limits.counts_calls());
        if self.hold_call(now, key, request, admitted) { Ok(()) } else { Err(refused(UNCOUNTED)) }
    }

    /// The same for the member that it is.
    pub(super) fn admit_call_at(
        &mut self,
        now: Now,
        key: ContextKey,
        candidate: &Candidate,
        request: Message<'_>,
    ) -> Result<(), Local> {
        let snapshot = self.snapshot_of(key);
        let Some(ingress) = self.context(key).map(|context| context.ingress) else { return Ok(()) };
        let Some((limits, status)) = self.limits_at(&snapshot.config, candidate, request) else { return Ok(()) };
        let refused = |refusal: Refusal| Local::Refused { status, reason: refusal.reason };
        let admitted = self.admit_one(now, limits, ingress, request).map_err(refused)?;
        if self.hold_call(now, key, request, admitted) { Ok(()) } else { Err(refused(UNCOUNTED)) }
    }

    /// A branch has failed: the call does not count any more for its trunk and member, unless another branch goes there, or it came
    /// from there.
    pub(super) fn count_branch_end(&mut self, key: ContextKey, client: ClientId) {
        let branch = self.context(key).and_then(|context| context.branch_mut(client));
        if let Some((egress, member)) = branch.and_then(|branch| Some((branch.egress?, branch.member))) {
            self.uncount(key, egress, member, Some(client));
        }
    }

    /// The same for a trunk and a member to which nothing goes but perhaps this branch.
    pub(super) fn uncount(&mut self, key: ContextKey, egress: TrunkId, member: Option<u16>, ended: Option<ClientId>) {
        let Some(context) = self.context(key).filter(|context| context.is_invite) else { return };
        // The end of a re-INVITE is no end of the call.
        let (part, ingress) = (context.part.filter(|part| part.role == Role::Begins), context.ingress);
        let others = context.branches.iter().filter(|b| Some(b.id) != ended && b.egress == Some(egress));
        // One that was refused has ended, too; one that was given up counts again if it answers after all.
        let mut alive = others.filter(|b| !b.state.has_ended() || b.is_answered).peekable();
        let (goes_on, goes_on_there) = (alive.peek().is_some(), alive.any(|b| b.member == member));
        let snapshot = self.snapshot_of(key);
        let Some(call) = part.map(|part| part.call) else { return };
        if let Some(limits) = snapshot.config.guard.limits_of(egress)
            && !goes_on
            && !(ingress == egress && limits.from)
        {
            self.calls.release_one(call, limits);
        }
        let member = snapshot.config.trunk(egress).zip(member);
        let member = member.and_then(|(trunk, place)| trunk.dispatcher.member(usize::from(place)));
        if let Some(member) = member.filter(|_| !goes_on_there) {
            self.calls.release_one(call, &member.limits);
        }
    }

    /// A branch that was given up has its 2xx after all: the call counts where it is, whatever the limits are (KR-6).
    pub(super) fn count_late(&mut self, now: Now, key: ContextKey, client: ClientId, response: Message<'_>) {
        let Some(context) = self.context(key) else { return };
        let begins = context.part.is_some_and(|part| part.role == Role::Begins);
        let Some(branch) = context.branch_mut(client).filter(|_| begins) else { return };
        let (Some(egress), member) = (branch.egress, branch.member) else { return };
        let snapshot = self.snapshot_of(key);
        let trunk = snapshot.config.guard.limits_of(egress).filter(|limits| limits.to && limits.counts_calls());
        let dispatcher = snapshot.config.trunk(egress).map(|trunk| &trunk.dispatcher);
        let member = dispatcher.filter(|dispatcher| dispatcher.counts_calls()).zip(member);
        let member = member.and_then(|(dispatcher, place)| dispatcher.member(usize::from(place)));
        let hash = call_hash(&self.key, response);
        for limits in trunk.into_iter().chain(member.map(|member| &member.limits)) {
            if !self.calls.counts(hash, response, limits) {
                self.hold_call(now, key, response, limits.admit(now.instant, true).ok());
            }
        }
    }
}

/// Reason phrase for a call above a limit.
const LIMITED: &str = "Call Limit Reached";
/// One Call-ID has so many calls that no other can be counted.
pub(super) const UNCOUNTED: Refusal = Refusal::new(503, LIMITED);

/// Even over requests, equal for the copies of one.
pub(super) fn request_hash(key: &[u8; 16], request: Message<'_>) -> u64 {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(request.reply_via().branch().unwrap_or_default());
    hasher.write(request.call_id().unwrap_or_default());
    hasher.finish()
}
