//! Signatures by keys that lie in a hardware module: the call waits, the others go on.

use std::collections::VecDeque;
use std::sync::Arc;

use super::SignedFor;
use crate::proxy::calls::Signed;
use crate::proxy::plan::Candidate;
use crate::proxy::service::Service;
use crate::proxy::waiting::Waiting;
use crate::proxy::{ContextKey, NeedKind, Now, Output, Proxy, SignatureFailure, TrunkId};
use crate::sip::Message;
use crate::stir::authentication::SignError;
use crate::stir::authentication::elsewhere::{self, SIGNATURE};

/// Lines that lack signatures.
pub struct Unfinished {
    /// What goes on with them.
    goal: Goal,
    lines: Vec<u8>,
    /// Keys that have not signed yet, in the order of the blanks.
    keys: VecDeque<Arc<str>>,
    signed: Option<Arc<Signed>>,
    signed_for: Option<SignedFor>,
    renews_date: bool,
}

/// What lines are made for.
enum Goal {
    /// An attempt.
    Attempt {
        candidate: Candidate,
        /// Its share of Max-Breadth.
        share: u16,
        /// What is tried when it can not serve: further addresses of the same name.
        alternates: VecDeque<Candidate>,
    },
    /// The answer to a served trunk.
    Answer { trunk: TrunkId, service: Service },
}

impl Unfinished {
    /// What it holds of Max-Breadth.
    pub fn share(&self) -> u16 {
        match self.goal {
            Goal::Attempt { share, .. } => share,
            Goal::Answer { .. } => 0,
        }
    }

    /// Keeps what is tried when its attempt can not serve.
    pub fn keep_alternates(&mut self, candidates: VecDeque<Candidate>) {
        if let Goal::Attempt { alternates, .. } = &mut self.goal {
            *alternates = candidates;
        }
    }

    /// Where the request is signed for.
    fn trunk(&self) -> Option<TrunkId> {
        match &self.goal {
            Goal::Attempt { candidate, .. } => candidate.egress,
            Goal::Answer { trunk, .. } => Some(*trunk),
        }
    }
}

impl Proxy {
    /// Signs for a candidate. True if the attempt waits for it: then it is made once the signatures are there, or without them.
    pub(in crate::proxy) fn waits_for_signature(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        candidate: &Candidate,
        share: u16,
        out: &mut Output,
    ) -> bool {
        let retarget = candidate.retarget.as_ref();
        let keys = self.sign_candidate(now, key, request, candidate.egress, retarget, out);
        let goal = || Goal::Attempt { candidate: candidate.clone(), share, alternates: VecDeque::new() };
        self.waits(now, key, request, keys, goal, out)
    }

    /// Signs for the answer to a served trunk. True if it waits.
    pub(in crate::proxy) fn answer_waits_for_signature(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        trunk: TrunkId,
        service: Service,
        out: &mut Output,
    ) -> bool {
        let keys = self.sign_candidate(now, key, request, Some(trunk), None, out);
        self.waits(now, key, request, keys, || Goal::Answer { trunk, service }, out)
    }

    /// Parks a request whose lines lack signatures by these keys.
    fn waits(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        keys: Vec<Arc<str>>,
        goal: impl FnOnce() -> Goal,
        out: &mut Output,
    ) -> bool {
        let Some(context) = self.context(key).filter(|_| !keys.is_empty()) else { return false };
        let unfinished = Unfinished {
            goal: goal(),
            lines: std::mem::take(&mut context.lines),
            keys: keys.into(),
            signed: context.signed.take(),
            signed_for: context.signed_for.take(),
            renews_date: context.renews_date,
        };
        match self.ask_signature(now, key, Box::new(unfinished), out) {
            None => true,
            Some(mut unfinished) => {
                // Too many wait: the call goes on at once.
                self.give_up_signature(request, &mut unfinished, out);
                self.take_lines(key, &mut unfinished);
                false
            }
        }
    }

    /// Asks for the first signature that is missing. Gives the lines back when too many wait.
    fn ask_signature(
        &mut self,
        now: Now,
        key: ContextKey,
        unfinished: Box<Unfinished>,
        out: &mut Output,
    ) -> Option<Box<Unfinished>> {
        let snapshot = self.snapshot_of(key);
        if self.parked >= snapshot.config.max_parked {
            self.stats.parking_full += 1;
            return Some(unfinished);
        }
        let blank = elsewhere::first_blank(&unfinished.lines);
        let input = blank.and_then(|blank| unfinished.lines.get(blank.input));
        let (Some(input), Some(name)) = (input, unfinished.keys.front()) else { return Some(unfinished) };
        let kind = NeedKind::Signature { key: Arc::clone(name), input: input.into() };
        self.park(now, key, kind, Waiting::Signature(unfinished), out);
        None
    }

    /// A signature, or why there is none: the next one is asked for, or the request goes on.
    pub(in crate::proxy) fn signature_came(
        &mut self,
        now: Now,
        key: ContextKey,
        mut unfinished: Box<Unfinished>,
        answer: Result<[u8; SIGNATURE], SignatureFailure>,
        out: &mut Output,
    ) {
        let goes_on = match (answer, elsewhere::first_blank(&unfinished.lines)) {
            (Ok(signature), Some(blank)) => {
                elsewhere::fill(&mut unfinished.lines, &blank, &signature);
                unfinished.keys.pop_front();
                unfinished.keys.is_empty()
            }
            _ => false,
        };
        let failed = answer.is_err();
        if !goes_on && !failed {
            match self.ask_signature(now, key, unfinished, out) {
                None => return,
                Some(given_back) => unfinished = given_back,
            }
        }
        let before = out.events.len();
        if unfinished.keys.is_empty() {
            self.stats.signed += u64::from(unfinished.signed.is_some());
        } else {
            self.with_request(key, |proxy, request| proxy.give_up_signature(request, &mut unfinished, out));
        }
        self.take_lines(key, &mut unfinished);
        match unfinished.goal {
            Goal::Attempt { candidate, share, alternates: mut candidates } => {
                candidates.push_front(candidate);
                if !self.replace_signed(now, key, candidates, share, out) {
                    self.stats.failed_attempts += 1;
                    self.conclude(now, key, out);
                }
            }
            Goal::Answer { service, .. } => {
                self.with_request(key, |proxy, request| proxy.answer_signed(now, key, request, service, before, out));
            }
        }
    }

    /// What is not signed by now leaves unsigned.
    fn give_up_signature(&mut self, request: Message<'_>, unfinished: &mut Unfinished, out: &mut Output) {
        const START: &[u8] = b"Identity: ";
        let first = |lines: &[u8]| memchr::memmem::find(lines, START).map(|at| at + START.len());
        // The token for the number stands first.
        let blank = elsewhere::first_blank(&unfinished.lines).map(|blank| blank.input.start);
        if blank == first(&unfinished.lines) {
            unfinished.signed = None;
        }
        let missing = elsewhere::take_out(&mut unfinished.lines);
        unfinished.keys.clear();
        if first(&unfinished.lines).is_none() {
            unfinished.lines.clear();
        }
        if unfinished.renews_date && memchr::memmem::find(&unfinished.lines, b";ppt=\"div\"").is_none() {
            // No diversion is left to have the Date for itself: the received one stays.
            unfinished.renews_date = false;
            let kept = unfinished.lines.split_inclusive(|octet| *octet == b'\n').filter(|l| !l.starts_with(b"Date: "));
            unfinished.lines = kept.flatten().copied().collect();
        }
        self.stats.signed += u64::from(unfinished.signed.is_some());
        let Some(trunk) = unfinished.trunk().filter(|_| missing > 0) else { return };
        self.unsigned(request, trunk, SignError::Signature, out);
    }

    fn take_lines(&mut self, key: ContextKey, unfinished: &mut Unfinished) {
        let Some(context) = self.context(key) else { return };
        context.lines_become(std::mem::take(&mut unfinished.lines));
        context.signed = unfinished.signed.take();
        context.signed_for = unfinished.signed_for.take();
        context.renews_date = unfinished.renews_date;
    }
}
