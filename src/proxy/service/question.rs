//! Questions from beside the calls: facts to be signed, an INVITE to be judged. They are answered by the policy of a trunk, with the
//! caches and the slow side door that calls use.
//!
//! What is to be judged comes as a whole INVITE, though its asker had only a few of its facts: so there is one reading of numbers,
//! one set of bounds and one verifier. What is to be signed comes as the claims themselves, because they need not follow from any
//! one request (several destinations, an `origid` of the asker's).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::proxy::signing;
use crate::proxy::waiting::NO_SLOT;
use crate::proxy::{Answer, Event, Held, Need, NeedId, NeedKind, Now, Output, Proxy, Timer, TrunkId};
use crate::sip::{self, Framing};
use crate::stir::authentication::{SignError, elsewhere};
use crate::stir::facts::{Facts, FactsError};
use crate::stir::verification::{FetchFailure, Outcome, Verdict};
use crate::transaction::timer::TimerHandle;

/// An Identity line around a value.
const START: &[u8] = b"Identity: ";
const END: &[u8] = b"\r\n";

/// A question.
#[derive(Debug)]
pub struct Question {
    /// Given back with the reply.
    pub id: u64,
    /// Whose policy it is answered by.
    pub trunk: TrunkId,
    /// What the log calls it.
    pub label: Box<str>,
    /// What is asked.
    pub kind: Kind,
}

/// Kinds of [`Question`].
#[derive(Debug)]
pub enum Kind {
    /// Sign this.
    Sign(Facts),
    /// Judge the Identity fields of an INVITE.
    Verify {
        /// The INVITE.
        invite: Vec<u8>,
        /// Its Call-ID is that of the call: only then a replay can be told from a second question.
        knows_call: bool,
    },
}

/// The end of a [`Question`].
#[derive(Debug)]
pub struct Reply {
    /// The question's.
    pub id: u64,
    /// What came of it.
    pub result: Replied,
}

/// What came of a question.
#[derive(Debug)]
pub enum Replied {
    /// The value of an Identity field.
    Signed(Vec<u8>),
    /// Why there is none.
    NotSigned(FactsError),
    /// The module that has the key does not sign now.
    NoSignature,
    /// What was found.
    Judged(Box<Verdict>),
    /// The INVITE is beyond the bounds of messages.
    Unreadable,
    /// The trunk has no policy for this.
    NoPolicy,
}

/// A question that waits.
pub struct Parked {
    waits: Waits,
    timer: TimerHandle,
}

/// What a question waits for.
enum Waits {
    /// The chain at this URL.
    Certificate { snapshot: Rc<Held>, question: Asked, x5u: Box<str> },
    /// The signature of this Identity line.
    Signature { id: u64, trunk: TrunkId, label: Box<str>, line: Vec<u8> },
}

/// Questions that wait, by their need.
pub type ParkedQuestions = HashMap<NeedId, Parked>;

/// A question about an INVITE, while it is answered.
struct Asked {
    id: u64,
    trunk: TrunkId,
    label: Box<str>,
    invite: Vec<u8>,
    knows_call: bool,
}

impl Proxy {
    /// Takes a question. Its reply comes in [`Output::replies`], now or once a certificate is there.
    pub fn ask(&mut self, now: Now, question: Question, out: &mut Output) {
        let Question { id, trunk, label, kind } = question;
        match kind {
            Kind::Sign(facts) => {
                if let Some(result) = self.sign_facts(now, id, trunk, &label, &facts, out) {
                    out.replies.push(Reply { id, result });
                }
            }
            Kind::Verify { invite, knows_call } => {
                let snapshot = Rc::clone(&self.snapshot);
                self.judge_asked(now, &snapshot, Asked { id, trunk, label, invite, knows_call }, None, out);
            }
        }
    }

    /// Signs; `None` if the question waits for it.
    fn sign_facts(
        &mut self,
        now: Now,
        id: u64,
        trunk: TrunkId,
        label: &str,
        facts: &Facts,
        out: &mut Output,
    ) -> Option<Replied> {
        let config = &self.snapshot.config;
        let chosen = config.trunk(trunk).and_then(|trunk| signing::signer_of(config, trunk, &facts.orig));
        let Some((signer, most)) = chosen.map(|(signer, most)| (Arc::clone(signer), most)) else {
            return Some(Replied::NoPolicy);
        };
        let mut line = Vec::with_capacity(1024);
        line.extend_from_slice(START);
        let origid = self.unpredictable();
        if let Err(error) = signer.sign_facts(now.unix, facts, most, origid, &mut line) {
            if let FactsError::Sign(error) = &error {
                let (call_id, error) = (label.as_bytes().into(), error.clone());
                out.events.push(Event::Unsigned { call_id, trunk, error });
            }
            return Some(Replied::NotSigned(error));
        }
        match signer.remote_key() {
            None => Some(Replied::Signed(line.split_off(START.len()))),
            Some(key) => {
                line.extend_from_slice(END);
                self.park_signature(now, key, Waits::Signature { id, trunk, label: label.into(), line }, out)
            }
        }
    }

    /// Asks for the signature of a line; the end of the question if it can not be asked for.
    fn park_signature(&mut self, now: Now, key: &Arc<str>, waits: Waits, out: &mut Output) -> Option<Replied> {
        let Waits::Signature { line, .. } = &waits else { return None };
        let input = elsewhere::first_blank(line).and_then(|blank| line.get(blank.input));
        let kind = input.map(|input| NeedKind::Signature { key: Arc::clone(key), input: input.into() });
        let limit = self.snapshot.config.need_timeout;
        match kind.and_then(|kind| self.park_question(now, limit, kind, out)) {
            Some((need, timer)) => {
                self.parked_questions.insert(need, Parked { waits, timer });
                None
            }
            None => Some(self.without_signature(waits, out)),
        }
    }

    /// A question ends without its signature.
    fn without_signature(&self, waits: Waits, out: &mut Output) -> Replied {
        if let Waits::Signature { trunk, label, .. } = waits {
            let error = SignError::Signature;
            out.events.push(Event::Unsigned { call_id: label.as_bytes().into(), trunk, error });
        }
        Replied::NoSignature
    }

    /// Judges an INVITE, without a chain that could not be had if there is one.
    fn judge_asked(
        &mut self,
        now: Now,
        snapshot: &Rc<Held>,
        asked: Asked,
        missing: Option<(&str, FetchFailure)>,
        out: &mut Output,
    ) {
        let Some(policy) = snapshot.config.trunk(asked.trunk).and_then(|trunk| trunk.verify.as_ref()) else {
            return out.replies.push(Reply { id: asked.id, result: Replied::NoPolicy });
        };
        let mut index = std::mem::take(&mut self.spare_index);
        let limits = &snapshot.config.parser;
        let newest = Rc::clone(&self.snapshot); // as for calls
        let replay = Some(&snapshot.replay).filter(|_| asked.knows_call);
        let read = sip::parse(&asked.invite, &mut index, Framing::Datagram, limits).ok();
        // The bounds of a call's INVITE hold here too.
        let outcome = read.filter(|invite| invite.check_request().is_ok()).map(|invite| match missing {
            Some((x5u, failure)) => Outcome::Done(self.verifier.verify_without(
                now.unix,
                policy,
                &newest.trust,
                replay,
                invite,
                x5u,
                failure,
            )),
            None => self.verifier.verify(now.unix, policy, &newest.trust, replay, invite),
        });
        self.spare_index = index;
        match outcome {
            None => out.replies.push(Reply { id: asked.id, result: Replied::Unreadable }),
            Some(Outcome::Done(verdict)) => {
                out.lacking.extend(verdict.lacking_credentials());
                if !verdict.is_valid() && !verdict.tokens().is_empty() {
                    let (call_id, trunk) = (asked.label.as_bytes().into(), asked.trunk);
                    out.events.push(Event::Verified { call_id, trunk, verdict: Box::new(verdict.clone()) });
                }
                out.replies.push(Reply { id: asked.id, result: Replied::Judged(Box::new(verdict)) });
            }
            Some(Outcome::Need { x5u }) => self.park_asked(now, snapshot, asked, x5u, out),
        }
    }

    fn park_asked(&mut self, now: Now, snapshot: &Rc<Held>, asked: Asked, x5u: Box<str>, out: &mut Output) {
        let kind = NeedKind::Certificate { x5u: x5u.clone() };
        let Some((need, timer)) = self.park_question(now, snapshot.config.certificate_timeout, kind, out) else {
            return self.judge_asked(now, snapshot, asked, Some((&x5u, FetchFailure::Busy)), out);
        };
        let waits = Waits::Certificate { snapshot: Rc::clone(snapshot), question: asked, x5u };
        self.parked_questions.insert(need, Parked { waits, timer });
    }

    /// A need of a question; `None` if too much waits already.
    fn park_question(
        &mut self,
        now: Now,
        limit: Duration,
        kind: NeedKind,
        out: &mut Output,
    ) -> Option<(NeedId, TimerHandle)> {
        if self.parked >= self.snapshot.config.max_parked {
            self.stats.parking_full += 1;
            return None;
        }
        let need = NeedId(self.next_serial() << 32 | NO_SLOT);
        let deadline = now.instant + limit;
        let timer = self.timers.insert(deadline, Timer::Need { need });
        out.needs.push(Need { id: need, deadline, kind });
        self.parked += 1;
        self.stats.parked += 1;
        Some((need, timer))
    }

    /// What a question waited for, or why there is none. Gives the answer back if no question waits for it.
    pub(in crate::proxy) fn asked_answered(
        &mut self,
        now: Now,
        need: NeedId,
        answer: Answer,
        out: &mut Output,
    ) -> Option<Answer> {
        let Some(parked) = self.parked_questions.remove(&need) else { return Some(answer) };
        self.timers.cancel(parked.timer);
        self.parked -= 1;
        // An answer of another kind is the deadline.
        match parked.waits {
            Waits::Certificate { snapshot, question, x5u } => {
                let answer = match answer {
                    Answer::Certificate(answer) => answer,
                    _ => Err(FetchFailure::Timeout),
                };
                let failure = self.remember_chain(now, &x5u, answer);
                let missing = failure.map(|failure| (&*x5u, failure));
                self.judge_asked(now, &snapshot, question, missing, out);
            }
            Waits::Signature { id, trunk, label, mut line } => {
                let blank = elsewhere::first_blank(&line);
                let result = if let (Answer::Signature(Ok(signature)), Some(blank)) = (answer, blank) {
                    elsewhere::fill(&mut line, &blank, &signature);
                    line.truncate(line.len() - END.len());
                    Replied::Signed(line.split_off(START.len()))
                } else {
                    self.without_signature(Waits::Signature { id, trunk, label, line }, out)
                };
                out.replies.push(Reply { id, result });
            }
        }
        None
    }
}
