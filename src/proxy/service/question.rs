//! Questions from beside the calls: facts to be signed, an INVITE to be judged. They are answered by the policy of a trunk, with the
//! caches and the slow side door that calls use.
//!
//! What is to be judged comes as a whole INVITE, though its asker had only a few of its facts: so there is one reading of numbers,
//! one set of bounds and one verifier. What is to be signed comes as the claims themselves, because they need not follow from any
//! one request (several destinations, an `origid` of the asker's).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::proxy::signing;
use crate::proxy::waiting::NO_SLOT;
use crate::proxy::{Answer, Event, Held, Need, NeedId, NeedKind, Now, Output, Proxy, Timer, TrunkId};
use crate::sip::{self, Framing};
use crate::stir::facts::{Facts, FactsError};
use crate::stir::verification::{FetchFailure, Outcome, Verdict};
use crate::transaction::timer::TimerHandle;

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
    /// What was found.
    Judged(Box<Verdict>),
    /// The INVITE is beyond the bounds of messages.
    Unreadable,
    /// The trunk has no policy for this.
    NoPolicy,
}

/// A question that waits for a certificate.
pub struct Parked {
    snapshot: Rc<Held>,
    question: Asked,
    x5u: Box<str>,
    timer: TimerHandle,
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
                let result = self.sign_facts(now, trunk, &label, &facts, out);
                out.replies.push(Reply { id, result });
            }
            Kind::Verify { invite, knows_call } => {
                let snapshot = Rc::clone(&self.snapshot);
                self.judge_asked(now, &snapshot, Asked { id, trunk, label, invite, knows_call }, None, out);
            }
        }
    }

    fn sign_facts(&mut self, now: Now, trunk: TrunkId, label: &str, facts: &Facts, out: &mut Output) -> Replied {
        let config = &self.snapshot.config;
        let chosen = config.trunk(trunk).and_then(|trunk| signing::signer_of(config, trunk, &facts.orig));
        let Some((signer, most)) = chosen.map(|(signer, most)| (Arc::clone(signer), most)) else {
            return Replied::NoPolicy;
        };
        let mut value = Vec::with_capacity(1024);
        let origid = self.unpredictable();
        match signer.sign_facts(now.unix, facts, most, origid, &mut value) {
            Ok(()) => Replied::Signed(value),
            Err(error) => {
                if let FactsError::Sign(error) = &error {
                    let (call_id, error) = (label.as_bytes().into(), error.clone());
                    out.events.push(Event::Unsigned { call_id, trunk, error });
                }
                Replied::NotSigned(error)
            }
        }
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
        let replay = Some(&snapshot.replay).filter(|_| asked.knows_call);
        let read = sip::parse(&asked.invite, &mut index, Framing::Datagram, limits).ok();
        // The bounds of a call's INVITE hold here too.
        let outcome = read.filter(|invite| invite.check_request().is_ok()).map(|invite| match missing {
            Some((x5u, failure)) => Outcome::Done(self.verifier.verify_without(
                now.unix,
                policy,
                &snapshot.trust,
                replay,
                invite,
                x5u,
                failure,
            )),
            None => self.verifier.verify(now.unix, policy, &snapshot.trust, replay, invite),
        });
        self.spare_index = index;
        match outcome {
            None => out.replies.push(Reply { id: asked.id, result: Replied::Unreadable }),
            Some(Outcome::Done(verdict)) => {
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
        if self.parked >= snapshot.config.max_parked {
            self.stats.parking_full += 1;
            return self.judge_asked(now, snapshot, asked, Some((&x5u, FetchFailure::Busy)), out);
        }
        let need = NeedId(self.next_serial() << 32 | NO_SLOT);
        let deadline = now.instant + snapshot.config.need_timeout;
        let timer = self.timers.insert(deadline, Timer::Need { need });
        out.needs.push(Need { id: need, deadline, kind: NeedKind::Certificate { x5u: x5u.clone() } });
        self.parked += 1;
        self.stats.parked += 1;
        let snapshot = Rc::clone(snapshot);
        self.parked_questions.insert(need, Parked { snapshot, question: asked, x5u, timer });
    }

    /// The chain that a question waited for, or why there is none. Gives the answer back if no question waits for it.
    pub(in crate::proxy) fn asked_fetched(
        &mut self,
        now: Now,
        need: NeedId,
        answer: Answer,
        out: &mut Output,
    ) -> Option<Answer> {
        let Some(parked) = self.parked_questions.remove(&need) else { return Some(answer) };
        self.timers.cancel(parked.timer);
        self.parked -= 1;
        let answer = match answer {
            Answer::Certificate(answer) => answer,
            _ => Err(FetchFailure::Timeout), // its deadline
        };
        let failure = self.remember_chain(now, &parked.x5u, answer);
        let missing = failure.map(|failure| (&*parked.x5u, failure));
        self.judge_asked(now, &parked.snapshot, parked.question, missing, out);
        None
    }
}
