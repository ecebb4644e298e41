//! Cutting a byte stream into messages (RFC 3261 18.3, RFC 5626 3.5.1; F-2 to F-7).

use std::ops::Range;
use std::time::{Duration, Instant};

use super::error::Unusable;
use super::index::Index;
use super::limits::Limits;
use super::name::Name;
use super::scan::{content_length, not_sip, scan_head};
use super::text::span;

/// What the stream holds next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A whole message at this range of [`StreamFramer::bytes`].
    Message(Range<usize>),
    /// A keepalive ping (CRLFCRLF between messages): answer CRLF (KA-1).
    Ping,
    /// The end: where the next message would begin is lost. [`super::parse`] of this range with [`super::Framing::Stream`] gives the
    /// fault to answer, if it can be answered; then flush and close.
    Broken(Range<usize>),
}

/// The stream can not go on and there is nothing to answer: close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// Not SIP, or no start line within the limit.
    NotSip(Unusable),
    /// A message was not complete in time (F-7).
    TooSlow,
}

impl std::fmt::Display for StreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSip(what) => write!(f, "not a SIP stream: {what}"),
            Self::TooSlow => f.write_str("message not complete in time"),
        }
    }
}

impl std::error::Error for StreamError {}

/// Incremental framing of one stream. Octets are looked at once (F-7): a search for the end of a header block goes on where the last read ended.
#[derive(Debug, Default)]
pub struct StreamFramer {
    buffer: Vec<u8>,
    /// First octet not handed out yet.
    start: usize,
    /// Everything before this was searched for the empty line.
    searched: usize,
    /// CRLFs seen since the last message or ping.
    crlfs: u8,
    /// End of the message at `start`, once its header block is complete.
    end: Option<usize>,
    /// When the first octet of the message at `start` came.
    since: Option<Instant>,
    is_broken: bool,
    index: Index,
}

impl StreamFramer {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds received octets. Ranges handed out before are void: what was framed is forgotten here.
    pub fn push(&mut self, octets: &[u8], now: Instant) {
        self.compact();
        if self.since.is_none() && !octets.is_empty() {
            self.since = Some(now);
        }
        self.buffer.extend_from_slice(octets);
    }

    /// The buffer the ranges of [`Frame`] point into.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Octets held back for a message that is not complete.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The next frame; `Ok(None)`: more octets are needed. After [`Frame::Broken`] or `Err` there is nothing more.
    pub fn next(&mut self, limits: &Limits) -> Result<Option<Frame>, StreamError> {
        if self.is_broken {
            return Ok(None);
        }
        if self.end.is_none() {
            if self.skip_line_ends() {
                return Ok(Some(Frame::Ping));
            }
            if self.pending() == 0 {
                return Ok(None);
            }
            if let Some(broken) = self.find_end(limits)? {
                return Ok(Some(broken));
            }
        }
        match self.end {
            Some(end) if end <= self.buffer.len() => {
                let range = self.start..end;
                self.start = end;
                self.searched = end;
                self.end = None;
                self.crlfs = 0;
                if self.start == self.buffer.len() {
                    self.since = None;
                }
                Ok(Some(Frame::Message(range)))
            }
            _ => Ok(None),
        }
    }

    /// When the message under way must be complete (F-7); `None` between messages.
    pub fn deadline(&self, limits: &Limits) -> Option<Instant> {
        self.since.filter(|_| self.pending() > 0).map(|since| since + Duration::from_millis(limits.message_millis))
    }

    /// `Err` if the deadline has passed.
    pub fn check_deadline(&self, now: Instant, limits: &Limits) -> Result<(), StreamError> {
        match self.deadline(limits) {
            Some(deadline) if now >= deadline => Err(StreamError::TooSlow),
            _ => Ok(()),
        }
    }

    /// Moves what is left to the front of the buffer.
    fn compact(&mut self) {
        if self.start == 0 {
            return;
        }
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.end = self.end.map(|end| end - self.start);
        self.start = 0;
    }

    /// Skips CRLFs between messages (F-4); true for the second one in a row, a ping. A CR alone waits for its LF.
    fn skip_line_ends(&mut self) -> bool {
        loop {
            let step = match self.buffer.get(self.start..) {
                Some([b'\r', b'\n', ..]) => 2,
                Some([b'\n', ..]) => 1,
                _ => return false,
            };
            self.start += step;
            self.searched = self.searched.max(self.start);
            if self.pending() == 0 {
                self.since = None;
            }
            self.crlfs += 1;
            if self.crlfs == 2 {
                self.crlfs = 0;
                return true;
            }
        }
    }

    /// Looks for the end of the header block and from it for the end of the message.
    fn find_end(&mut self, limits: &Limits) -> Result<Option<Frame>, StreamError> {
        let pending = span(&self.buffer, self.start, self.buffer.len());
        if pending.len() >= 8
            && let Some(other) = not_sip(pending)
        {
            return self.fail(StreamError::NotSip(other));
        }
        let Some(head_end) = self.find_empty_line() else {
            if self.pending() <= limits.head {
                return Ok(None);
            }
            return self.give_up(limits);
        };
        let head = span(&self.buffer, self.start, head_end);
        if let Err(other) = scan_head(head, &mut self.index, limits) {
            return self.fail(StreamError::NotSip(other));
        }
        let length = content_length(head, &self.index);
        let has_type = self.index.first(Name::ContentType).is_some();
        let is_lost = self.index.is_boundary_unsafe || self.index.body as usize != head.len();
        match length {
            Ok(Some(length)) if length as usize <= limits.message && !is_lost => {
                self.end = Some(head_end + length as usize);
                Ok(None)
            }
            Ok(None) if !has_type && !is_lost => {
                self.end = Some(head_end);
                Ok(None)
            }
            _ => {
                self.is_broken = true;
                Ok(Some(Frame::Broken(self.start..head_end)))
            }
        }
    }

    /// The header block is longer than it may be: hand out what there is, if it begins like SIP.
    fn give_up(&mut self, limits: &Limits) -> Result<Option<Frame>, StreamError> {
        let range = self.start..self.buffer.len();
        if let Err(other) = scan_head(span(&self.buffer, range.start, range.end), &mut self.index, limits) {
            return self.fail(StreamError::NotSip(other));
        }
        self.is_broken = true;
        Ok(Some(Frame::Broken(range)))
    }

    fn fail(&mut self, error: StreamError) -> Result<Option<Frame>, StreamError> {
        self.is_broken = true;
        Err(error)
    }

    /// Position behind the first empty line, searching each octet once.
    fn find_empty_line(&mut self) -> Option<usize> {
        let mut from = self.searched.max(self.start);
        loop {
            let Some(newline) = memchr::memchr(b'\n', span(&self.buffer, from, self.buffer.len())).map(|n| n + from)
            else {
                self.searched = self.buffer.len();
                return None;
            };
            match self.buffer.get(newline + 1..) {
                Some([b'\n', ..]) => return Some(newline + 2),
                Some([b'\r', b'\n', ..]) => return Some(newline + 3),
                // Not enough octets to tell: look at this LF again.
                None | Some([]) | Some([b'\r']) => {
                    self.searched = newline;
                    return None;
                }
                _ => from = newline + 1,
            }
        }
    }
}
