//! What a packet loop asks those who may wait, and their answers.

use super::{PacketLoop, now};
use crate::node::fetch::{Answered, Chain, FetchError, Question};
use crate::node::{resolve, signer};
use crate::proxy::{Answer, LocateFailure, NeedId, NeedKind, Now, Target};
use crate::stir::verification::{FetchFailure, FetchedChain};

impl PacketLoop {
    /// The answer to a need of this worker's.
    pub fn on_answer(&mut self, answered: Answered) {
        let now = now();
        let [found, failed] = &mut self.machine.counters.fetched;
        *if answered.result.is_ok() { found } else { failed } += 1;
        self.answer(now, NeedId(answered.id), answered.result);
        self.settle(now);
    }

    /// The addresses of a name that this worker asked for.
    pub fn on_located(&mut self, need: u64, located: resolve::Located) {
        let now = now();
        let [found, failed] = &mut self.machine.counters.located;
        *if located.is_ok() { found } else { failed } += 1;
        let answer = Answer::Locate(located);
        self.machine.proxy.handle_answer(now, NeedId(need), answer, &mut self.machine.output);
        self.settle(now);
    }

    /// A signature that this worker asked for.
    pub fn on_signature(&mut self, (need, signature): signer::Answered) {
        let now = now();
        let answer = Answer::Signature(signature);
        self.machine.proxy.handle_answer(now, NeedId(need), answer, &mut self.machine.output);
        self.settle(now);
    }

    /// Passes needs on to the side door.
    pub(super) fn ask(&mut self, now: Now) {
        self.machine.output.lacking.drain(..).for_each(|credential| self.fetcher.lacks(credential));
        for need in std::mem::take(&mut self.machine.output.needs) {
            let x5u = match need.kind {
                NeedKind::Certificate { x5u } => x5u,
                NeedKind::Locate { target } => {
                    self.locate(now, need.id, target);
                    continue;
                }
                NeedKind::Signature { key, input } => {
                    let (id, answer_to) = (need.id.0, self.signatures.clone());
                    let question = signer::Question { id, key, input, deadline: need.deadline, answer_to };
                    if let Err(failure) = self.signer.ask(question) {
                        let answer = Answer::Signature(Err(failure));
                        self.machine.proxy.handle_answer(now, need.id, answer, &mut self.machine.output);
                    }
                    continue;
                }
            };
            let question = Question { id: need.id.0, x5u, deadline: need.deadline, answer_to: self.answers.clone() };
            if self.fetcher.ask(question).is_err() {
                self.machine.counters.fetch_full += 1;
                self.answer(now, need.id, Err(FetchError::Busy));
            }
        }
    }

    fn locate(&mut self, now: Now, need: NeedId, target: Target) {
        let question = resolve::Question { id: need.0, target, answer_to: self.located.clone() };
        let failure = match &self.locator {
            Some(locator) => locator.ask(question).err().map(|_| LocateFailure::Busy),
            None => Some(LocateFailure::Unsupported), // not asked for without `Config::locate`
        };
        if let Some(failure) = failure {
            self.machine.counters.locate_full += u64::from(failure == LocateFailure::Busy);
            let answer = Answer::Locate(Err(failure));
            self.machine.proxy.handle_answer(now, need, answer, &mut self.machine.output);
        }
    }

    fn answer(&mut self, now: Now, need: NeedId, result: Result<Chain, FetchError>) {
        let answer = Answer::Certificate(result.map(FetchedChain::from).map_err(FetchFailure::from));
        self.machine.proxy.handle_answer(now, need, answer, &mut self.machine.output);
    }
}
