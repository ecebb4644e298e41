//! What goes over the connections of a table: reading, writing, and what keeps them in time.

use std::ops::Range;
use std::task::{Context, Poll};
use std::time::Instant;

use super::{Beat, CloseReason, Incoming, Table, Tag, slot, step};
use crate::sip::hop::ConnectionId;
use crate::sip::stream::{Frame, StreamError};

impl Table {
    /// Octets of a framed message.
    pub fn bytes(&self, id: ConnectionId, range: Range<usize>) -> &[u8] {
        self.get(id).and_then(|connection| connection.framer.bytes().get(range)).unwrap_or_default()
    }

    /// The next thing the connection holds. Keepalive pings are answered here (KA-1).
    pub fn next(&mut self, id: ConnectionId, failed: &mut Vec<u64>) -> Incoming {
        loop {
            let limits = &self.limits;
            let Some(connection) = self.slots.get_mut(slot(id)).filter(|connection| connection.id == id) else {
                return Incoming::Closed;
            };
            if let Some(held) = connection.held.take() {
                return Incoming::Message(held);
            }
            if connection.closing.is_some() {
                return Incoming::Nothing;
            }
            match connection.framer.next(limits) {
                Ok(Some(Frame::Message(range))) => {
                    self.stats.received += 1;
                    return Incoming::Message(range);
                }
                Ok(Some(Frame::Broken(range))) => return Incoming::Broken(range),
                Ok(Some(Frame::Pong)) => {
                    if let Some(pulse) = &mut connection.pulse {
                        pulse.heard();
                        self.kept.proven(&connection.way());
                    }
                }
                Ok(Some(Frame::Ping)) => self.send(id, 0, b"\r\n", failed),
                Ok(None) => return Incoming::Nothing,
                Err(error) => {
                    let reason = match error {
                        StreamError::NotSip(_) => CloseReason::NotSip,
                        StreamError::TooSlow => CloseReason::TooSlow,
                    };
                    self.close(id, reason, failed);
                    return Incoming::Closed;
                }
            }
        }
    }

    /// Gives a message back: [`Table::next`] will hand it out again. Nothing is to be read before that.
    pub fn hold(&mut self, id: ConnectionId, range: Range<usize>) {
        if let Some(connection) = self.get_mut(id) {
            connection.held = Some(range);
        }
    }

    /// Reads once. `Ready(true)`: something was read; `Ready(false)`: the connection is no more.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnectionId,
        scratch: &mut [u8],
        now: Instant,
        failed: &mut Vec<u64>,
    ) -> Poll<bool> {
        if self.poll_write(cx, id, now, failed).is_ready() {
            return Poll::Ready(false);
        }
        let Some(connection) = self.get_mut(id) else { return Poll::Ready(false) };
        let reason = match connection.poll_read(cx, scratch, now) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(false)) => CloseReason::Peer,
            Poll::Ready(Ok(true)) => return Poll::Ready(true),
            Poll::Ready(Err(error)) if connection.is_told_why(&error) => {
                self.close_when_written(id, CloseReason::Error, now); // the peer learns from the close code what was wrong
                return Poll::Ready(true);
            }
            Poll::Ready(Err(_)) => CloseReason::Error,
        };
        self.close(id, reason, failed);
        Poll::Ready(false)
    }

    /// Writes what waits for room; nothing is read. `Ready`: the connection is no more.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnectionId,
        now: Instant,
        failed: &mut Vec<u64>,
    ) -> Poll<()> {
        let Some(connection) = self.get_mut(id) else { return Poll::Ready(()) };
        if !connection.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            connection.waker = Some(cx.waker().clone());
        }
        if let Poll::Ready(Err(_)) = connection.poll_flush(cx, now) {
            self.close(id, CloseReason::Error, failed);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Queues a message; it leaves with [`Table::flush_all`]. A tag other than 0 goes to `failed` if it can not.
    pub fn send(&mut self, id: ConnectionId, tag: u64, bytes: &[u8], failed: &mut Vec<u64>) {
        self.send_for(id, Tag { worker: self.worker, tag }, bytes, failed);
    }

    /// The same for any worker; what fails of others is told by [`Table::take_failed_of_others`].
    pub fn send_for(&mut self, id: ConnectionId, tag: Tag, bytes: &[u8], failed: &mut Vec<u64>) {
        let config = &self.config;
        let Some(connection) = self.slots.get_mut(slot(id)).filter(|connection| connection.id == id) else {
            self.stats.gone += 1;
            return self.fail([tag], failed);
        };
        if connection.is_shut || !connection.push(tag, bytes, config) {
            self.stats.queue_full += 1;
            return self.fail([tag], failed);
        }
        self.stats.sent += 1;
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(id);
        }
    }

    /// Writes all fresh output: one system call per connection, unless its send buffer is full.
    pub fn flush_all(&mut self, now: Instant, failed: &mut Vec<u64>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.flush(id, now, failed);
        }
        self.dirty = dirty;
    }

    /// Ends the connection once everything is written: says so to the peer, then forgets what still comes until the peer closes
    /// too (closing with unread input would reset the connection and could destroy the last answer) or time is over.
    pub fn close_when_written(&mut self, id: ConnectionId, reason: CloseReason, now: Instant) {
        if let Some(connection) = self.get_mut(id) {
            connection.closing = Some(reason);
            connection.last_active = now;
            if !connection.is_dirty {
                connection.is_dirty = true;
                self.dirty.push(id);
            }
        }
    }

    /// Closes what is idle or too slow. To be called about once a second.
    pub fn sweep(&mut self, now: Instant, failed: &mut Vec<u64>) {
        let (idle, limits) = (self.config.idle_timeout, &self.limits);
        let overdue: Vec<_> =
            self.slots.iter().filter_map(|(_, c)| Some((c.id, c.overdue(now, idle, limits)?))).collect();
        for (id, reason) in overdue {
            self.close(id, reason, failed);
        }
        self.ping(now, failed);
    }

    /// KA-1.
    fn ping(&mut self, now: Instant, failed: &mut Vec<u64>) {
        let (mut chance, mut beats) = (self.chance, Vec::new());
        for (_, connection) in &mut self.slots {
            let is_open = connection.stream.is_some() && connection.closing.is_none();
            if let Some(pulse) = connection.pulse.as_mut().filter(|_| is_open) {
                match pulse.beat(now, step(&mut chance)) {
                    Beat::Rest => {}
                    Beat::Ping => {
                        connection.framer.await_pong();
                        beats.push((connection.id, true));
                    }
                    Beat::Dead => beats.push((connection.id, false)),
                }
            }
        }
        self.chance = chance;
        for (id, is_alive) in beats {
            if is_alive {
                self.stats.pings += 1;
                self.send(id, 0, b"\r\n\r\n", failed);
            } else {
                self.close(id, CloseReason::NoPong, failed);
            }
        }
    }

    /// What other workers sent and could not be delivered since the last call.
    pub fn take_failed_of_others(&mut self) -> Vec<Tag> {
        std::mem::take(&mut self.failed_of_others)
    }

    pub(super) fn fail(&mut self, tags: impl IntoIterator<Item = Tag>, failed: &mut Vec<u64>) {
        for Tag { worker, tag } in tags.into_iter().filter(|tag| tag.tag != 0) {
            if worker == self.worker {
                failed.push(tag);
            } else {
                self.failed_of_others.push(Tag { worker, tag });
            }
        }
    }

    pub(super) fn flush(&mut self, id: ConnectionId, now: Instant, failed: &mut Vec<u64>) {
        let Some(connection) = self.get_mut(id) else { return };
        connection.is_dirty = false;
        match connection.flush(now) {
            Ok(()) => {}
            Err(_) => self.close(id, CloseReason::Error, failed),
        }
    }
}
