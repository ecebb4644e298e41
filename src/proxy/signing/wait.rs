//! Signatures by keys that lie in a hardware module: the call waits, the others go on.

use std::collections::VecDeque;
use std::sync::Arc;

use super::SignedFor;
use crate::proxy::calls::Signed;
use crate::proxy::plan::Candidate;
use crate::proxy::waiting::Waiting;
use crate::proxy::{ContextKey, NeedKind, Now, Output, Proxy, SignatureFailure};
use crate::sip::Message;
use crate::stir::authentication::SignError;
use crate::stir::authentication::elsewhere::{self, SIGNATURE};

/// An attempt whose lines lack signatures.
pub struct Unfinished {
    candidate: Candidate,
    /// Its share of Max-Breadth.
    pub share: u16,
    /// What is tried when it can not serve: further addresses of the same name.
    pub alternates: VecDeque<Candidate>,
    lines: Vec<u8>,
    /// Keys that have not signed yet, in the order of the blanks.
    keys: VecDeque<Arc<str>>,
    signed: Option<Arc<Signed>>,
    signed_for: Option<SignedFor>,
    renews_date: bool,
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
        let Some(context) = self.context(key).filter(|_| !keys.is_empty()) else { return false };
        let unfinished = Unfinished {
            candidate: candidate.clone(),
            share,
            alternates: VecDeque::new(),
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

    /// Asks for the first signature that is missing. Gives the attempt back when too many wait.
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

    /// A signature, or why there is none: the next one is asked for, or the attempt is made.
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
        if unfinished.keys.is_empty() {
            self.stats.signed += u64::from(unfinished.signed.is_some());
        } else {
            self.with_request(key, |proxy, request| proxy.give_up_signature(request, &mut unfinished, out));
        }
        self.take_lines(key, &mut unfinished);
        let mut candidates = std::mem::take(&mut unfinished.alternates);
        candidates.push_front(unfinished.candidate);
        if !self.replace_signed(now, key, candidates, unfinished.share, out) {
            self.stats.failed_attempts += 1;
            self.conclude(now, key, out);
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
        let Some(trunk) = unfinished.candidate.egress.filter(|_| missing > 0) else { return };
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
