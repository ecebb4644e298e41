//! Connected identity on responses (RFC 9970): towards a trunk that wants it, an `rsp` says whom the call has reached; what a trunk's
//! responses say of that is verified. Responses are never held up or refused for it (N-5, O-4).

use super::waiting::Waiting;
use super::{Config, ContextKey, Event, NeedKind, Now, Output, Proxy, Trunk, TrunkId};
use crate::passport::{CanonicalIdentity, Identity};
use crate::sip::{Field, Framing, Message, Name};
use crate::stir::authentication::{SignError, Signer};
use crate::stir::connected::{self, Sent, Tokens};
use crate::stir::verification::{FetchFailure, FetchedChain, Outcome};
use crate::stir::{Policy, Verdict, verdict_line};
use crate::transaction::ClientId;
use std::rc::Rc;

/// Early and confirmed dialogs of one call that are told apart; what comes from further ones passes as it is.
const MAX_DIALOGS: usize = 8;
/// The header that tells the verdict on a response has the name of the one for requests; without a verdict this is its value.
const UNKNOWN: &[u8] = b"unknown";

/// Connected identity between us and a trunk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectedIdentity {
    /// Index into [`Config::signers`]: responses *to* the trunk say whom its call has reached, if the certificate speaks for that.
    pub sign: Option<usize>,
    /// Index into [`Config::signing_tables`]: the signers of numbers in it, before `sign`. Numbers that it says are left unsigned stay so.
    pub table: Option<usize>,
    /// The signer's rich call data are in the token: the called party wants to be shown (N-25).
    pub rich: bool,
    /// A party that a call was diverted to is named, and the diversions with it (N-8, N-13); else such a call gets no `rsp`.
    pub discloses_diversions: bool,
    /// Reliable provisional responses say it, not only the 2xx.
    pub early: bool,
    /// Responses *from* the trunk are verified by it.
    pub verify: Option<Policy>,
    /// There, only the party that was called may answer: proven diversions are no excuse (N-12).
    pub refuses_diversions: bool,
}

impl ConnectedIdentity {
    /// Responses to the trunk get tokens of ours.
    pub fn signs(&self) -> bool {
        self.sign.is_some() || self.table.is_some()
    }

    /// Who signs for a party, by place: by the table, else the default.
    fn signer<'c>(&self, config: &'c Config, party: &CanonicalIdentity) -> Option<(usize, &'c Signer)> {
        let row = match party {
            CanonicalIdentity::Tn(number) => {
                self.table.and_then(|table| config.signing_tables.get(table)).and_then(|table| table.find(number))
            }
            CanonicalIdentity::Uri(_) => None,
        };
        let place = match row {
            Some(row) => row.signer?,
            None => self.sign?,
        };
        Some((place, config.signers.get(place)?))
    }
}

/// What an INVITE says of itself.
pub struct Called {
    /// Its tokens, and those that we added.
    tokens: Tokens,
    /// It had some when it came: its sender wants to know (N-26).
    asks: bool,
    /// The Request-URI as received.
    target: Option<CanonicalIdentity>,
}

/// What is known of the connected identity of one dialog of a call.
pub struct Connection {
    /// To tag.
    tag: Box<[u8]>,
    /// What was added to its 2xx: copies of that get the same octets (step 8 of the called side).
    lines: Option<Vec<u8>>,
    /// The same for the latest reliable provisional response, by its RSeq.
    early: Option<(Box<[u8]>, Vec<u8>)>,
    /// Whom an `rsp` named (N-20).
    pinned: Option<Identity<'static>>,
}

impl Connection {
    /// What was added to an earlier copy of a response.
    fn said(&self, is_final: bool, sequence: &[u8]) -> Option<Vec<u8>> {
        let early =
            || self.early.as_ref().filter(|(earlier, _)| **earlier == *sequence).map(|(_, lines)| lines.clone());
        if is_final { self.lines.clone() } else { early() }
    }
}

/// A response under way.
#[derive(Clone, Copy)]
struct Answer<'a> {
    now: Now,
    key: ContextKey,
    response: Message<'a>,
    /// Where it comes from.
    egress: TrunkId,
    /// Where it goes.
    ingress: TrunkId,
}

impl Proxy {
    /// Header lines for a response, 101 to 299, that goes to the caller: what the called side says, what the calling side found.
    pub(super) fn connect(
        &mut self,
        now: Now,
        key: ContextKey,
        client: ClientId,
        response: Message<'_>,
        out: &mut Output,
    ) -> Vec<u8> {
        let Some(context) = self.context(key).filter(|context| context.is_invite && context.is_initial) else {
            return Vec::new();
        };
        let (snapshot, ingress) = (Rc::clone(&context.snapshot), context.ingress);
        let Some(egress) = context.branch_mut(client).and_then(|branch| branch.egress) else { return Vec::new() };
        let (Some(from), Some(to)) = (snapshot.config.trunk(egress), snapshot.config.trunk(ingress)) else {
            return Vec::new();
        };
        if !to.connected.signs() && from.connected.verify.is_none() {
            return Vec::new(); // nearly always
        }
        let is_final = response.status().is_some_and(|status| status >= 200);
        let (Some(tag), true) = (response.to_tag(), is_final || is_reliable(response)) else { return Vec::new() };
        let sequence = response.field(Name::RSeq).map(|field| field.value()).unwrap_or_default();
        if let Some(lines) = self.connection(key, tag).and_then(|known| known.said(is_final, sequence)) {
            return lines;
        }
        self.read_tokens(key, &snapshot.config);
        let answer = Answer { now, key, response, egress, ingress };
        let mut lines = Vec::new();
        if let Some(policy) = &from.connected.verify {
            self.verify_answer(answer, policy, is_final, &mut lines, out);
        }
        if to.connected.signs() && (is_final || to.connected.early) && !connected::has_rsp(response) {
            self.sign_answer(answer, client, (from, to), &mut lines, out);
        }
        match self.connection(key, tag) {
            Some(known) if is_final => known.lines = Some(lines.clone()),
            Some(known) => known.early = Some((sequence.into(), lines.clone())),
            None => {}
        }
        lines
    }

    /// The connection of a To tag, which may be new.
    fn connection(&mut self, key: ContextKey, tag: &[u8]) -> Option<&mut Connection> {
        let connections = &mut self.context(key)?.connections;
        let place = match connections.iter().position(|known| *known.tag == *tag) {
            Some(place) => place,
            None if connections.len() >= MAX_DIALOGS => return None,
            None => {
                connections.push(Connection { tag: tag.into(), lines: None, early: None, pinned: None });
                connections.len() - 1
            }
        };
        connections.get_mut(place)
    }

    /// What the INVITE said, once: after the first 2xx it is at hand no more.
    fn read_tokens(&mut self, key: ContextKey, config: &Config) {
        let Some(context) = self.context(key).filter(|context| context.tokens.is_none()) else { return };
        let lines = std::mem::take(&mut context.lines);
        let retargets: Vec<_> = context.branches.iter().filter_map(|branch| branch.retarget.clone()).collect();
        let plan = &config.verifier.dial_plan;
        let tokens = self.with_request(key, |_, request| {
            // Diversions of a 3xx went along (D-18).
            let brought = retargets.iter().flat_map(|retarget| retarget.tokens_for(request, &lines, config));
            let all: Vec<u8> = lines.iter().copied().chain(brought).collect();
            Called {
                tokens: Tokens::of(request, &all, plan),
                asks: request.field(Name::Identity).is_some(),
                target: CanonicalIdentity::from_uri(request.request_uri(), plan),
            }
        });
        let Some(context) = self.context(key) else { return };
        context.lines = lines;
        context.tokens = tokens.map(Rc::new);
    }

    /// Section 3: the called side.
    fn sign_answer(
        &mut self,
        answer: Answer<'_>,
        client: ClientId,
        (from, to): (&Trunk, &Trunk),
        lines: &mut Vec<u8>,
        out: &mut Output,
    ) {
        let Answer { now, key, response, ingress, .. } = answer;
        let snapshot = self.snapshot_of(key);
        let (config, plan) = (&snapshot.config, &snapshot.config.verifier.dial_plan);
        let Some(context) = self.context(key) else { return };
        let Some(called) = context.tokens.clone().filter(|called| called.asks) else { return };
        let retarget = context.branch_mut(client).and_then(|branch| branch.retarget.clone());
        let sent_to = retarget.and_then(|retarget| CanonicalIdentity::from_uri(&retarget.uri, plan));
        // N-7: whom the network says it has reached, else whom we sent it to.
        let asserted = from.trusted.then(|| connected::asserted_party(response, plan)).flatten();
        let Some(party) = asserted.or(sent_to).or_else(|| called.target.clone()) else { return };
        let Some(reach) = called.tokens.reach(&party.as_identity()) else { return }; // N-10, N-26
        if !reach.diversions.is_empty() && !to.connected.discloses_diversions {
            return;
        }
        let Some((place, signer)) = to.connected.signer(config, &party) else { return };
        let rich = to.connected.rich.then(|| config.signer_rich.get(place)?.as_deref()).flatten();
        let rich = rich.map(|rich| &rich.assertion);
        let start = lines.len();
        match signer.sign_response(now.unix, reach.caller, &party.as_identity(), response, rich, lines) {
            Ok(()) => {
                self.stats.connected_signed += 1;
                for value in reach.diversions {
                    [b"Identity: ", value, b"\r\n"].iter().for_each(|part| lines.extend_from_slice(part));
                }
            }
            Err(error) => {
                lines.truncate(start);
                // Nobody is to be signed for who is not ours (N-3): that is no failure.
                if error != SignError::NotAuthorized {
                    self.stats.unsigned += 1;
                    let call_id = response.call_id().unwrap_or_default().into();
                    out.events.push(Event::Unsigned { call_id, trunk: ingress, error });
                }
            }
        }
    }

    /// Section 4: the calling side.
    fn verify_answer(
        &mut self,
        answer: Answer<'_>,
        policy: &Policy,
        is_final: bool,
        lines: &mut Vec<u8>,
        out: &mut Output,
    ) {
        let Answer { now, key, response, ingress, .. } = answer;
        let snapshot = self.snapshot_of(key);
        let Some(sent) = self.sent(answer) else { return };
        if sent.tokens.is_empty() {
            self.stats.connected_unasked += u64::from(connected::has_rsp(response)); // N-26
            return;
        }
        if !is_final && !connected::has_rsp(response) {
            return; // N-6
        }
        // By what is trusted now, as for calls.
        let newest = Rc::clone(&self.snapshot);
        let (trust, replay) = (&newest.trust, Some(&snapshot.replay));
        let told = match self.verifier.verify_response(now.unix, policy, trust, replay, &sent, response) {
            Outcome::Done(verdict) => {
                let mut value = Vec::new();
                verdict_line::write_value(&verdict, now.unix, &mut value);
                self.connected(answer, verdict, is_final, out);
                value
            }
            // The response goes on at once; what it was worth is known when the certificate is there.
            Outcome::Need { x5u } => {
                let kind = NeedKind::Certificate { x5u: x5u.clone() };
                let waiting =
                    Waiting::Answered { x5u: x5u.clone(), response: response.bytes().into(), egress: answer.egress };
                if !is_final || !self.park(now, key, kind, waiting, out) {
                    let verdict = self.verifier.verify_response_without(
                        now.unix,
                        policy,
                        trust,
                        replay,
                        &sent,
                        response,
                        &x5u,
                        FetchFailure::Busy,
                    );
                    self.connected(answer, verdict, is_final, out);
                }
                UNKNOWN.to_vec()
            }
        };
        let name = snapshot.config.trunk(ingress).and_then(|to| to.discloses.verdict.as_deref());
        if let Some(name) = name {
            [name.as_bytes(), b": ", &told, b"\r\n"].iter().for_each(|part| lines.extend_from_slice(part));
        }
    }

    /// What is told inside of an answer is said by us alone. The edits are under way.
    pub(super) fn remove_foreign_verdict(&mut self, key: ContextKey, response: Message<'_>) {
        let snapshot = self.snapshot_of(key);
        let Some(ingress) = self.context(key).map(|context| context.ingress) else { return };
        let Some(name) = snapshot.config.trunk(ingress).and_then(|to| to.discloses.verdict.as_deref()) else { return };
        let is_it =
            |field: &Field<'_>| field.name == Name::Other && field.raw_name().eq_ignore_ascii_case(name.as_bytes());
        response.fields().filter(is_it).for_each(|field| self.patch.remove(field.line));
    }

    /// What we sent, for this dialog.
    fn sent(&mut self, answer: Answer<'_>) -> Option<Sent> {
        let Answer { now, key, response, egress, .. } = answer;
        let pinned = self.connection(key, response.to_tag()?)?.pinned.clone();
        let snapshot = self.snapshot_of(key);
        let accepts_diversions = !snapshot.config.trunk(egress)?.connected.refuses_diversions;
        let context = self.context(key)?;
        let ago = now.instant.saturating_duration_since(context.arrived).as_secs();
        let at = now.unix.saturating_sub(i64::try_from(ago).unwrap_or(0));
        let tokens = context.tokens.as_ref().map(|called| called.tokens.clone()).unwrap_or_default();
        Some(Sent { tokens, at, pinned, accepts_diversions })
    }

    /// A verdict on who has answered: counted, noted with the call, told to the operator.
    fn connected(&mut self, answer: Answer<'_>, verdict: Verdict, is_final: bool, out: &mut Output) {
        let Answer { now, key, response, egress, .. } = answer;
        let valid = verdict.valid().and_then(|token| token.connected.clone());
        if let (Some(party), Some(tag)) = (&valid, response.to_tag())
            && let Some(connection) = self.connection(key, tag)
        {
            connection.pinned.get_or_insert_with(|| party.clone());
        }
        out.lacking.extend(verdict.lacking_credentials());
        verdict.unfetched().into_iter().for_each(|x5u| self.fetch_beside(now, x5u, out));
        if !is_final && verdict.is_valid() {
            return; // the 2xx says it again, and counts
        }
        match () {
            () if verdict.is_valid() => self.stats.connected_verified += 1,
            () if !connected::has_rsp(response) => self.stats.connected_missing += 1,
            () => self.stats.connected_failed += 1,
        }
        let is_told = self.snapshot_of(key).config.observe || (!verdict.is_valid() && connected::has_rsp(response));
        self.note_connection(key, &verdict, valid);
        if is_told {
            let call_id = response.call_id().unwrap_or_default().into();
            out.events.push(Event::Connected { call_id, trunk: egress, verdict: Box::new(verdict) });
        }
    }

    /// The chain that the verdict on a 2xx waited for, or why there is none.
    pub(super) fn answer_certificate_fetched(
        &mut self,
        now: Now,
        key: ContextKey,
        (x5u, egress, response): (&str, TrunkId, &[u8]),
        fetched: Result<FetchedChain, FetchFailure>,
        out: &mut Output,
    ) {
        let failure = self.remember_chain(now, x5u, fetched);
        let snapshot = self.snapshot_of(key);
        let Some(policy) = snapshot.config.trunk(egress).and_then(|trunk| trunk.connected.verify) else { return };
        let Some(ingress) = self.context(key).map(|context| context.ingress) else { return };
        let mut index = std::mem::take(&mut self.spare_index);
        let limits = snapshot.config.parser_for(snapshot.config.is_lenient_with(Some(egress)));
        let parsed = crate::sip::parse(response, &mut index, Framing::Datagram, &limits).ok();
        let answer = parsed.map(|response| Answer { now, key, response, egress, ingress });
        if let Some((answer, sent)) = answer.and_then(|answer| Some((answer, self.sent(answer)?))) {
            let newest = Rc::clone(&self.snapshot);
            let (trust, replay) = (&newest.trust, Some(&snapshot.replay));
            let verdict = self.verifier.verify_response_without(
                now.unix,
                &policy,
                trust,
                replay,
                &sent,
                answer.response,
                x5u,
                failure.unwrap_or(FetchFailure::Busy),
            );
            self.connected(answer, verdict, true, out);
        }
        self.spare_index = index;
        if let Some(context) = self.context(key) {
            context.forget_if_done();
        }
    }
}

/// RFC 3262: it is acknowledged, so it arrives (N-6).
fn is_reliable(response: Message<'_>) -> bool {
    response.values(Name::Require).any(|value| value.value.eq_ignore_ascii_case(b"100rel"))
}
