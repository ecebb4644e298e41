//! Lanes between workers: for each pair and direction one bounded single-producer queue for messages that belong to calls of the
//! other worker, and one for what is to leave by a connection of the other worker. Nobody blocks on a push.
//!
//! Items of one batch travel together in a [`Parcel`]: one copy, one wake-up per target and batch. A parcel is begun only when the
//! queue has room for it; as nobody else pushes into that queue, the room is still there when the parcel leaves.

use std::ops::Range;
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::sip::hop::Hop;

/// A parcel that has grown so far leaves at once.
const PARCEL_BYTES: usize = 64 * 1024;

/// Messages of one batch for one worker.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    /// The worker that sent it.
    pub from: usize,
    bytes: Vec<u8>,
    items: Vec<(Hop, u64, Range<usize>)>,
}

impl Parcel {
    fn new(from: usize) -> Self {
        Self { from, ..Self::default() }
    }

    /// Hop, tag and octets of each item, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Hop, u64, &[u8])> {
        self.items.iter().map(|(hop, tag, range)| (*hop, *tag, self.bytes.get(range.clone()).unwrap_or_default()))
    }
}

/// The sending end of one queue.
pub(super) struct Out {
    sender: mpsc::Sender<Parcel>,
    pending: Parcel,
}

impl Out {
    /// Copies an item into the parcel under way; false when the queue is full.
    pub fn push(&mut self, hop: Hop, tag: u64, bytes: &[u8]) -> bool {
        if self.pending.items.is_empty() && self.sender.capacity() == 0 {
            return false;
        }
        let start = self.pending.bytes.len();
        self.pending.bytes.extend_from_slice(bytes);
        self.pending.items.push((hop, tag, start..self.pending.bytes.len()));
        if self.pending.bytes.len() >= PARCEL_BYTES {
            self.flush();
        }
        true
    }

    /// Sends the parcel under way.
    pub fn flush(&mut self) {
        if !self.pending.items.is_empty() {
            // There is room (see above), or the other worker is gone for good and the node about to end.
            let next = Parcel::new(self.pending.from);
            let _ = self.sender.try_send(std::mem::replace(&mut self.pending, next));
        }
    }

    /// The queue itself, to wait for room in.
    pub fn sender(&self) -> mpsc::Sender<Parcel> {
        self.sender.clone()
    }
}

/// The queues from one worker to all others; the place of the worker itself is empty.
#[derive(Default)]
pub(super) struct Outs(Vec<Option<Out>>);

impl Outs {
    pub fn to(&mut self, worker: usize) -> Option<&mut Out> {
        self.0.get_mut(worker)?.as_mut()
    }

    pub fn flush(&mut self) {
        self.0.iter_mut().flatten().for_each(Out::flush);
    }

    /// The same queues for a worker that is started again; what was under way is lost with its calls.
    pub fn again(&self) -> Self {
        let renew = |out: &Out| Out { sender: out.sender.clone(), pending: Parcel::new(out.pending.from) };
        Self(self.0.iter().map(|out| out.as_ref().map(renew)).collect())
    }
}

/// The queues from all other workers to one.
#[derive(Default)]
pub(super) struct Ins {
    receivers: Vec<mpsc::Receiver<Parcel>>,
    /// Where the next look begins, so that no queue starves.
    next: usize,
}

impl Ins {
    /// The next parcel of any queue. Never ready without queues.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Parcel> {
        let count = self.receivers.len();
        let (behind, ahead) = self.receivers.split_at_mut(self.next.min(count));
        for (i, receiver) in ahead.iter_mut().chain(behind).enumerate() {
            if let Poll::Ready(Some(parcel)) = receiver.poll_recv(cx) {
                self.next = (self.next + i + 1) % count;
                return Poll::Ready(parcel);
            }
        }
        Poll::Pending
    }
}

/// Queues of `capacity` parcels from each worker to each other one.
pub(super) fn between(workers: usize, capacity: usize) -> Vec<(Outs, Ins)> {
    let mut ends: Vec<(Outs, Ins)> = (0..workers).map(|_| Default::default()).collect();
    for to in 0..workers {
        for from in 0..workers {
            let mut out = None;
            if from != to {
                let (sender, receiver) = mpsc::channel(capacity.max(1));
                out = Some(Out { sender, pending: Parcel::new(from) });
                if let Some((_, ins)) = ends.get_mut(to) {
                    ins.receivers.push(receiver);
                }
            }
            if let Some((outs, _)) = ends.get_mut(from) {
                outs.0.push(out);
            }
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::hop::{ListenerId, Transport};
    use std::task::Waker;

    fn hop(port: u16) -> Hop {
        Hop {
            transport: Transport::Udp,
            local: ListenerId(0),
            remote: ([192, 0, 2, 1], port).into(),
            connection: None,
            peer: None,
        }
    }

    fn take(ins: &mut Ins) -> Option<Vec<(u16, u64, Vec<u8>)>> {
        match ins.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(parcel) => {
                Some(parcel.iter().map(|(h, tag, bytes)| (h.remote.port(), tag, bytes.to_vec())).collect())
            }
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_batch_travels_as_one_parcel_to_its_worker_only() {
        let mut ends = between(3, 4);
        let (outs, _) = &mut ends[0];
        assert!(outs.to(0).is_none());
        assert!(outs.to(2).unwrap().push(hop(1), 7, b"one"));
        assert!(outs.to(2).unwrap().push(hop(2), 0, b"two"));
        outs.flush();
        assert_eq!(take(&mut ends[2].1), Some(vec![(1, 7, b"one".to_vec()), (2, 0, b"two".to_vec())]));
        assert_eq!(take(&mut ends[2].1), None);
        assert_eq!(take(&mut ends[1].1), None);
    }

    #[test]
    fn a_parcel_says_whose_it_is() {
        let mut ends = between(3, 4);
        for _ in 0..2 {
            assert!(ends[1].0.to(2).unwrap().push(hop(1), 7, b"one"));
            ends[1].0.flush();
            let Poll::Ready(parcel) = ends[2].1.poll(&mut Context::from_waker(Waker::noop())) else { panic!("sent") };
            assert_eq!(parcel.from, 1);
        }
        let mut again = ends[1].0.again();
        assert!(again.to(2).unwrap().push(hop(1), 7, b"one"));
        again.flush();
        let Poll::Ready(parcel) = ends[2].1.poll(&mut Context::from_waker(Waker::noop())) else { panic!("sent") };
        assert_eq!(parcel.from, 1, "in a second life too");
    }

    #[test]
    fn a_full_queue_refuses_the_item_and_keeps_what_it_took() {
        let mut ends = between(2, 2);
        let (outs, _) = &mut ends[0];
        for tag in 0..2 {
            assert!(outs.to(1).unwrap().push(hop(1), tag, b"x"));
            outs.flush();
        }
        assert!(!outs.to(1).unwrap().push(hop(1), 9, b"x"));
        assert_eq!(take(&mut ends[1].1).unwrap()[0].1, 0);
        assert!(ends[0].0.to(1).unwrap().push(hop(1), 2, b"x"), "room again");
        ends[0].0.flush();
        assert_eq!(take(&mut ends[1].1).unwrap()[0].1, 1);
        assert_eq!(take(&mut ends[1].1).unwrap()[0].1, 2);
    }

    #[test]
    fn no_queue_starves() {
        let mut ends = between(3, 4);
        for from in [0, 1] {
            for tag in 0..3 {
                assert!(ends[from].0.to(2).unwrap().push(hop(from as u16), tag, b"x"));
                ends[from].0.flush();
            }
        }
        let order: Vec<u16> = std::iter::from_fn(|| take(&mut ends[2].1)).map(|items| items[0].0).collect();
        assert_eq!(order, [0, 1, 0, 1, 0, 1]);
    }
}
