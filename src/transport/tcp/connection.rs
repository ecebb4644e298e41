//! One connection: its stream, what was read and not yet framed, what waits to be written.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::Range;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use super::framer::Framer;
use super::keepalive::Pulse;
use super::table::Way;
use super::{CloseReason, Config, Stream, Tag};
use crate::sip::Limits;
use crate::sip::hop::{ConnectionId, ListenerId, PeerId, RESPONSE_TAG, Transport};
use crate::transport::tls::Identities;
use crate::transport::ws::Received;

/// Capacity above which an emptied buffer is given back: a burst does not stay in memory for the life of a connection.
const KEEP_CAPACITY: usize = 64 * 1024;

pub(super) struct Connection {
    pub id: ConnectionId,
    pub listener: ListenerId,
    pub remote: SocketAddr,
    pub transport: Transport,
    /// The neighbour at the other end, as TLS has proven it or as it was asked for.
    pub peer: Option<PeerId>,
    /// The neighbour it was opened for, whether or not that is part of its way.
    pub opened_for: Option<PeerId>,
    /// Names that the peer has proven.
    pub identities: Identities,
    /// The entry of the table of ways that leads here although the peer opened the connection (RFC 5923).
    pub alias: Option<(Transport, ListenerId, SocketAddr, Option<PeerId>)>,
    /// Opened by this side; what is accepted is not used for requests of ours (CN-2).
    pub is_outbound: bool,
    /// `None` while the connection is being opened.
    pub stream: Option<Stream>,
    pub framer: Framer,
    /// A framed message that its owner has no room for yet.
    pub held: Option<Range<usize>>,
    pub last_active: Instant,
    /// It is kept open by pings.
    pub pulse: Option<Pulse>,
    /// Set when the connection ends: input is forgotten, output is written to the end.
    pub closing: Option<CloseReason>,
    /// The peer was told that nothing more comes.
    pub is_shut: bool,
    /// In the table's list of connections with fresh output.
    pub is_dirty: bool,
    /// The task that drives this connection.
    pub waker: Option<Waker>,
    output: Vec<u8>,
    /// Bytes of `output` that are written.
    written: usize,
    /// Messages of `output`: end in it and tag.
    messages: VecDeque<(usize, Tag)>,
    /// Tags of the last requests that were written, at most `max_awaited`: they fail if the connection ends, unless they are answered
    /// by then, which only their transactions know.
    awaited: VecDeque<Tag>,
    max_awaited: usize,
    is_blocked: bool,
}

impl Connection {
    pub fn new(
        id: ConnectionId,
        listener: ListenerId,
        (transport, remote, peer): (Transport, SocketAddr, Option<PeerId>),
        stream: Option<Stream>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            listener,
            remote,
            transport,
            peer,
            opened_for: None,
            identities: stream.as_ref().map(Stream::identities).unwrap_or_default(),
            alias: None,
            is_outbound: stream.is_none(),
            stream,
            framer: Framer::new(transport),
            held: None,
            last_active: now,
            pulse: None,
            closing: None,
            is_shut: false,
            is_dirty: false,
            waker: None,
            output: Vec::new(),
            written: 0,
            messages: VecDeque::new(),
            awaited: VecDeque::new(),
            max_awaited: 0,
            is_blocked: false,
        }
    }

    /// Reads once, with the help of `scratch`, and hands it to the framer. `Ready(Ok(false))`: the peer has closed.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], now: Instant) -> Poll<io::Result<bool>> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        if self.closing.is_some() {
            return stream.poll_octets(cx, scratch).map_ok(|read| read > 0); // forgotten
        }
        if let Stream::Ws(socket) = stream {
            match ready!(socket.poll_read(cx, now))? {
                Received::Message(message) => self.framer.put(message),
                Received::Control => {}
                Received::Closed => return Poll::Ready(Ok(false)),
            }
        } else {
            let read = ready!(stream.poll_octets(cx, scratch))?;
            if read == 0 {
                return Poll::Ready(Ok(false));
            }
            self.framer.push(scratch.get(..read).unwrap_or_default(), now);
        }
        self.last_active = now;
        Poll::Ready(Ok(true))
    }

    /// Queues a message; false when the queue is full (CN-6).
    pub fn push(&mut self, tag: Tag, bytes: &[u8], config: &Config) -> bool {
        let waiting = self.output.len() - self.written;
        if waiting + bytes.len() > config.write_queue_bytes || self.messages.len() >= config.write_queue_messages {
            return false;
        }
        self.max_awaited = config.awaited_requests;
        self.output.extend_from_slice(bytes);
        self.messages.push_back((self.output.len(), tag));
        true
    }

    /// Writes what waits, as far as the kernel has room.
    pub fn flush(&mut self, now: Instant) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let is_web = self.transport.is_web();
        if stream.has_pending()
            && let Err(error) = stream.try_write(&[])
            && error.kind() != ErrorKind::WouldBlock
        {
            return Err(error);
        }
        let mut ends = self.messages.iter().map(|(end, _)| *end);
        while self.written < self.output.len() && !(is_web && stream.has_pending()) {
            // A stream takes what it can, a WebSocket one message at a time.
            let end = if is_web { ends.find(|end| *end > self.written) } else { None };
            let rest = self.output.get(self.written..end.unwrap_or(self.output.len())).unwrap_or_default();
            match stream.try_write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let has_pending = stream.has_pending();
        if self.written == self.output.len()
            && !has_pending
            && let Some(reason) = self.closing.filter(|_| !self.is_shut)
        {
            stream.shut(reason);
            self.is_shut = true;
        }
        if self.closing.is_none() {
            self.last_active = now;
        }
        self.forget_written();
        self.is_blocked |= has_pending;
        if self.is_blocked
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref(); // its task waits for room from now on
        }
        Ok(())
    }

    /// Waits for room when something could not be written, and writes it.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        while self.is_blocked {
            let Some(stream) = &self.stream else { break };
            match stream.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => self.write_blocked(now)?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn write_blocked(&mut self, now: Instant) -> io::Result<()> {
        let waker = self.waker.take(); // this is its task: no need to wake it
        let result = self.flush(now);
        self.waker = waker;
        result
    }

    /// Why the connection must end now, if it must.
    pub fn overdue(&self, now: Instant, idle: Duration, limits: &Limits) -> Option<CloseReason> {
        let quiet = now.saturating_duration_since(self.last_active);
        // A message that waits for its owner is complete: nobody was slow.
        let limit = Duration::from_millis(limits.message_millis);
        let is_slow_web = || matches!(&self.stream, Some(Stream::Ws(socket)) if socket.is_slow(now, limit));
        let is_slow = || self.held.is_none() && (self.framer.is_late(now, limits) || is_slow_web());
        match self.closing {
            Some(reason) => (quiet >= limit).then_some(reason),
            None if is_slow() => Some(CloseReason::TooSlow),
            None => (quiet >= idle).then_some(CloseReason::Idle),
        }
    }

    /// What it is found by as a way to its remote address.
    pub fn way(&self) -> Way {
        (self.transport, self.listener, self.remote, self.peer)
    }

    /// A WebSocket whose peer broke its rules says so before it ends.
    pub fn is_told_why(&self, error: &io::Error) -> bool {
        self.transport.is_web() && error.kind() == ErrorKind::InvalidData && self.closing.is_none()
    }

    /// A session that ends for a reason of this side's does not just vanish (CN-5).
    pub fn take_leave(&mut self, reason: CloseReason) {
        let is_ours = matches!(reason, CloseReason::Idle | CloseReason::TooSlow | CloseReason::NotSip);
        if let Some(stream) = self.stream.as_mut().filter(|_| is_ours && !self.is_shut) {
            stream.shut(reason);
        }
    }

    /// Everything handed over is written.
    fn is_flushed(&self) -> bool {
        self.written == self.output.len()
    }

    /// Tags of messages that are not written to their end, and of requests that may await a response.
    pub fn unfinished(&self) -> impl Iterator<Item = Tag> {
        let unsent = self.messages.iter().map(|&(_, tag)| tag).filter(|tag| tag.tag != 0);
        unsent.chain(self.awaited.iter().copied())
    }

    fn forget_written(&mut self) {
        while let Some(&(end, tag)) = self.messages.front()
            && end <= self.written
        {
            self.messages.pop_front();
            if tag.tag != 0 && tag.tag & RESPONSE_TAG == 0 && self.max_awaited > 0 {
                if self.awaited.len() >= self.max_awaited {
                    self.awaited.pop_front();
                }
                self.awaited.push_back(tag);
            }
        }
        self.is_blocked = !self.is_flushed();
        if self.is_flushed() {
            self.output.clear();
            self.output.shrink_to(KEEP_CAPACITY);
        } else if self.written >= KEEP_CAPACITY {
            self.output.drain(..self.written);
            self.messages.iter_mut().for_each(|(end, _)| *end -= self.written);
        } else {
            return;
        }
        self.written = 0;
    }
}
