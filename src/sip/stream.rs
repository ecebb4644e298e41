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
    /// The answer to a ping of ours ([`StreamFramer::await_pong`]).
    Pong,
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

/// Capacity above which an emptied buffer is given back: one large message does not stay in memory for the life of a connection.
const KEEP_CAPACITY: usize = 16 * 1024;

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
    /// A ping of ours waits for its answer.
    awaits_pong: bool,
    /// End of the message at `start`, once its header block is complete.
    end: Option<usize>,
    /// When the first octet of the message at `start` came, if any has.
    since: Option<Instant>,
    /// When the last octets came.
    last_push: Option<Instant>,
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
        self.last_push = Some(now);
        if !octets.is_empty() {
            self.since.get_or_insert(now);
        }
        self.buffer.extend_from_slice(octets);
    }

    /// A ping was sent: the next CRLF between messages is its pong, and no half of a ping (RFC 5626 3.5.1).
    pub fn await_pong(&mut self) {
        self.awaits_pong = true;
    }

    /// The buffer the ranges of [`Frame`] point into.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Octets held back for a message that is not complete.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The next frame; `Ok(None)`: more octets are needed, and ranges handed out before are void. After [`Frame::Broken`] or `Err` there is nothing more.
    pub fn next(&mut self, limits: &Limits) -> Result<Option<Frame>, StreamError> {
        if self.is_broken {
            return Ok(None);
        }
        if self.end.is_none() {
            if let Some(frame) = self.skip_line_ends() {
                return Ok(Some(frame));
            }
            if self.pending() == 0 {
                if self.buffer.capacity() > KEEP_CAPACITY {
                    self.compact();
                    self.buffer.shrink_to(KEEP_CAPACITY);
                }
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
                self.restart_clock();
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

    /// Something ended at `start`: what stands behind it, if anything, came with the last octets.
    fn restart_clock(&mut self) {
        self.since = self.last_push.filter(|_| self.pending() > 0);
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

    /// Skips CRLFs between messages (F-4); the second one in a row is a ping, an awaited one a pong. A CR alone waits for its LF.
    fn skip_line_ends(&mut self) -> Option<Frame> {
        loop {
            let step = match self.buffer.get(self.start..) {
                Some([b'\r', b'\n', ..]) => 2,
                Some([b'\n', ..]) => 1,
                _ => return None,
            };
            self.start += step;
            self.searched = self.searched.max(self.start);
            self.restart_clock();
            if std::mem::take(&mut self.awaits_pong) {
                self.crlfs = 0;
                return Some(Frame::Pong);
            }
            self.crlfs += 1;
            if self.crlfs == 2 {
                self.crlfs = 0;
                return Some(Frame::Ping);
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
        if let Err(other) = scan_head(head, &mut self.index, limits)
            && !other.is_framed()
        {
            return self.fail(StreamError::NotSip(other));
        }
        let length = content_length(head, &self.index);
        let has_type = self.index.first(Name::ContentType).is_some();
        let is_lost = self.index.is_boundary_unsafe || self.index.body as usize != head.len();
        match length {
            Ok(Some(length)) if head.len() + length as usize <= limits.message && !is_lost => {
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

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h\r\nl: 5\r\n\r\nhello";

    #[allow(clippy::disallowed_methods)] // a starting point; the framer only compares times
    fn start() -> Instant {
        Instant::now()
    }

    fn frames(stream: &[u8], limits: &Limits) -> (Vec<Frame>, Option<StreamError>) {
        let mut framer = StreamFramer::new();
        framer.push(stream, start());
        let mut seen = Vec::new();
        loop {
            match framer.next(limits) {
                Ok(Some(frame)) => seen.push(frame),
                Ok(None) => return (seen, None),
                Err(error) => return (seen, Some(error)),
            }
        }
    }

    fn status(stream: &str, limits: &Limits) -> u16 {
        let mut framer = StreamFramer::new();
        framer.push(stream.as_bytes(), start());
        match framer.next(limits) {
            Ok(Some(Frame::Broken(range))) => {
                let mut index = Index::new();
                let bytes = framer.bytes().get(range).unwrap();
                let fault =
                    super::super::parse(bytes, &mut index, super::super::Framing::Stream, limits).unwrap().fault();
                assert_eq!(framer.next(limits), Ok(None), "nothing follows a broken frame");
                fault.unwrap().status
            }
            Ok(Some(Frame::Message(_))) => 0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn f4_pings_and_line_ends_between_messages() {
        let limits = Limits::default();
        let n = MESSAGE.len();
        let stream = format!("\r\n{MESSAGE}\r\n\r\n{MESSAGE}\r\n{MESSAGE}");
        let (seen, error) = frames(stream.as_bytes(), &limits);
        let expected = [
            Frame::Message(2..2 + n),
            Frame::Ping,
            Frame::Message(6 + n..6 + 2 * n),
            Frame::Message(8 + 2 * n..8 + 3 * n),
        ];
        assert_eq!((&seen[..], error), (&expected[..], None));
        assert_eq!(frames(b"\r\n\r\n\r\n\r\n\r", &limits).0, [Frame::Ping, Frame::Ping]);
        assert_eq!(frames(b"\r", &limits).0, []);
    }

    #[test]
    fn ka1_an_awaited_line_end_is_a_pong() {
        let limits = Limits::default();
        let mut framer = StreamFramer::new();
        framer.await_pong();
        framer.push(b"\r", start());
        assert_eq!(framer.next(&limits), Ok(None));
        framer.push(format!("\n{MESSAGE}\r\n\r\n").as_bytes(), start());
        assert_eq!(framer.next(&limits), Ok(Some(Frame::Pong)));
        assert!(matches!(framer.next(&limits), Ok(Some(Frame::Message(_)))));
        assert_eq!(framer.next(&limits), Ok(Some(Frame::Ping)), "one pong per ping");
        // Two pongs are no ping.
        for _ in 0..2 {
            framer.await_pong();
            framer.push(b"\r\n", start());
            assert_eq!(framer.next(&limits), Ok(Some(Frame::Pong)));
        }
    }

    #[test]
    fn f5_other_protocols_close() {
        for (stream, what) in [
            (&b"\x16\x03\x01\x02\0\x01\0\0"[..], Unusable::Tls),
            (b"GET / HTTP/1.1\r\n", Unusable::Http),
            (b"\0\0\0\0\0\0\0\0", Unusable::Keepalive),
            (b"hello there\r\n\r\n", Unusable::StartLine),
        ] {
            assert_eq!(frames(stream, &Limits::default()), (vec![], Some(StreamError::NotSip(what))));
        }
    }

    #[test]
    fn f2_broken_frames_are_answered_and_end_the_stream() {
        let limits = Limits { head: 200, message: 100, ..Limits::default() };
        assert_eq!(status(MESSAGE, &limits), 0);
        assert_eq!(status(&MESSAGE.replace("l: 5", "l: -5"), &limits), 400);
        assert_eq!(status(&MESSAGE.replace("l: 5", "l: 5\r\nl: 6"), &limits), 400);
        assert_eq!(status(&MESSAGE.replace("l: 5", "c: a/b"), &limits), 400);
        assert_eq!(status(&MESSAGE.replace("l: 5", "l: 51"), &limits), 413);
        assert_eq!(status(&MESSAGE.replace("h\r\n", "h\r\nSubject: a\rb\r\n"), &limits), 400);
        assert_eq!(status(&MESSAGE.replace("h\r\n", "h\r\nSubject: a\0b\r\n"), &limits), 400);
        assert_eq!(status(&MESSAGE.replace("h\r\n", &format!("h\r\nSubject: {}\r\n", "x".repeat(200))), &limits), 513);
        assert_eq!(status(&MESSAGE.replace("h\r\n", "h\n"), &limits), 400, "a bare LF from a stranger");
        // A fault that does not touch the boundary leaves the stream alone; so does a response that is to be dropped.
        for line in ["SIP/3.0 200 OK", "SIP/2.0 700 What"] {
            assert_eq!(status(&MESSAGE.replace("OPTIONS sip:a@b SIP/2.0", line), &limits), 0, "{line}");
        }
        assert_eq!(status(&MESSAGE.replace("SIP/2.0\r\nVia", "SIP/3.0\r\nVia"), &limits), 0);
    }

    #[test]
    fn an_emptied_buffer_is_given_back() {
        let limits = Limits::default();
        let large = MESSAGE.replace("l: 5", "l: 60000").replace("hello", &"x".repeat(60_000));
        let mut framer = StreamFramer::new();
        framer.push(large.repeat(2).as_bytes(), start());
        for _ in 0..2 {
            assert!(matches!(framer.next(&limits), Ok(Some(Frame::Message(range))) if range.len() == large.len()));
        }
        assert_eq!(framer.next(&limits), Ok(None));
        assert!(framer.buffer.capacity() <= KEEP_CAPACITY, "{}", framer.buffer.capacity());
        framer.push(MESSAGE.as_bytes(), start());
        assert_eq!(framer.next(&limits), Ok(Some(Frame::Message(0..MESSAGE.len()))));
    }

    #[test]
    fn f7_an_endless_header_block_is_cut_off() {
        let limits = Limits { head: 200, ..Limits::default() };
        let mut framer = StreamFramer::new();
        let mut broken = None;
        for i in 0..100 {
            let line: &[u8] = if i == 0 { b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h\r\n" } else { b"a: b\r\n" };
            framer.push(line, start());
            if let Some(frame) = framer.next(&limits).unwrap() {
                broken = Some(frame);
                break;
            }
        }
        assert_eq!(broken, Some(Frame::Broken(0..framer.bytes().len())));
        assert!(framer.bytes().len() < 210);
    }

    #[test]
    fn f7_the_clock_runs_per_message() {
        let limits = Limits::default();
        let mut framer = StreamFramer::new();
        let begin = start();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (head, tail) = MESSAGE.split_at(20);
        assert_eq!(framer.deadline(&limits), None);
        framer.push(head.as_bytes(), at(0));
        assert_eq!(framer.next(&limits), Ok(None));
        framer.push(b"", at(5));
        assert_eq!(framer.deadline(&limits), Some(at(10)));
        assert_eq!(framer.check_deadline(at(9), &limits), Ok(()));
        assert_eq!(framer.check_deadline(at(10), &limits), Err(StreamError::TooSlow));
        // The rest and the beginning of the next message: its own ten seconds.
        framer.push(format!("{tail}{head}").as_bytes(), at(8));
        assert!(matches!(framer.next(&limits), Ok(Some(Frame::Message(_)))));
        assert_eq!(framer.deadline(&limits), Some(at(18)));
        framer.push(tail.as_bytes(), at(12));
        assert!(matches!(framer.next(&limits), Ok(Some(Frame::Message(_)))));
        assert_eq!(framer.deadline(&limits), None);
    }
}
