//! The worker's side of the service: questions in, each with the way back for its reply.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::node::machine::now;
use crate::node::packet_loop::PacketLoop;
use crate::proxy::TrunkId;
use crate::proxy::service::{Kind, Question, Replied, Reply};

/// A question on its way to a worker.
pub(in crate::node) struct Asking {
    pub trunk: TrunkId,
    pub label: Box<str>,
    pub kind: Kind,
    /// Dropped without an answer when the worker panics.
    pub answer: oneshot::Sender<Replied>,
}

/// Questions that the worker has not answered.
#[derive(Default)]
pub(in crate::node) struct Desk {
    serial: u64,
    open: HashMap<u64, oneshot::Sender<Replied>>,
}

impl Desk {
    /// Takes a question in; what comes of it ends in [`Desk::reply`].
    pub fn open(&mut self, asking: Asking) -> Question {
        let Asking { trunk, label, kind, answer } = asking;
        self.serial += 1;
        self.open.insert(self.serial, answer);
        Question { id: self.serial, trunk, label, kind }
    }

    /// Gives a reply to whoever still waits for it.
    pub fn reply(&mut self, reply: Reply) {
        if let Some(answer) = self.open.remove(&reply.id) {
            let _ = answer.send(reply.result);
        }
    }
}

impl PacketLoop {
    /// A question of the STIR service.
    pub fn on_asked(&mut self, asking: Asking) {
        let now = now();
        let question = self.desk.open(asking);
        self.machine.proxy.ask(now, question, &mut self.machine.output);
        self.settle(now);
    }
}
