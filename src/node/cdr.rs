//! Call detail records: one JSON line per call that is over, written by a thread of its own. The workers hand records over by a bounded
//! queue and never wait, but at the end of the program: what finds it full is counted and lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::clock;
use super::names::TrunkNames;
use crate::passport::ppt::shaken::{self, Attestation};
use crate::proxy::{CallRecord, TrunkId};
use crate::sip::hop::Hop;
use crate::stir::Verstat;

/// Where records go and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to.
    pub target: Target,
    /// Records that wait for the thread.
    pub queue: usize,
    /// Only the beginning of each number is written.
    pub shortened: bool,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The standard output.
    Stdout,
    /// Appended to this file, which [`CdrThread::reopen`] opens anew.
    File(PathBuf),
}

impl Target {
    /// The file, or `stdout` as the configuration has it.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Stdout => Path::new("stdout"),
            Self::File(path) => path,
        }
    }
}

/// What was written and what was not.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records written.
    pub written: AtomicU64,
    /// Records that found the queue full.
    pub dropped: AtomicU64,
    /// Records that could not be written.
    pub failed: AtomicU64,
}

enum Item {
    Record(CallRecord),
    /// Somebody wishes something.
    Wish,
}

/// What is asked of the thread besides writing; it looks here between batches, however full the queue.
#[derive(Default)]
struct Wishes {
    reopen: AtomicBool,
    config: Mutex<Option<Config>>,
}

/// The workers' end of the queue.
#[derive(Clone)]
pub struct Cdr {
    queue: SyncSender<Item>,
    counts: Arc<Counts>,
    patience: Arc<Patience>,
}

impl Cdr {
    /// Hands a record over. Never waits.
    pub fn tell(&self, record: CallRecord) {
        if self.queue.try_send(Item::Record(record)).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The same at the end of the program: waits for room while there is patience.
    pub fn tell_last(&self, record: CallRecord) {
        let mut item = Item::Record(record);
        loop {
            match self.queue.try_send(item) {
                Ok(()) => return,
                Err(TrySendError::Full(back)) if !self.patience.is_over(clock::instant(), self.counts.done()) => {
                    item = back;
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                Err(_) => {
                    self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

impl Counts {
    /// Records that the thread has done with.
    fn done(&self) -> u64 {
        self.written.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}

/// Without a record written for so long nobody waits any more for the last ones: who reads a pipe may have stalled.
const STALL: Duration = Duration::from_secs(5);

/// How long the end of the program waits for the last records: while some are being written, but no longer than `limit` in all.
struct Patience {
    limit: Duration,
    began: OnceLock<Instant>,
    /// Records that were done with, and since when no more of them are.
    seen: Mutex<Option<(u64, Instant)>>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit: limit.max(STALL), began: OnceLock::new(), seen: Mutex::default() }
    }

    fn is_over(&self, now: Instant, done: u64) -> bool {
        let began = *self.began.get_or_init(|| now);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match *seen {
            Some((before, since)) if before == done => since,
            _ => now,
        };
        *seen = Some((done, since));
        now.saturating_duration_since(began) >= self.limit || now.saturating_duration_since(since) >= STALL
    }
}

/// How often the end of the program looks how far the last records are.
const LOOK: Duration = Duration::from_millis(100);

/// The thread. Dropped when the workers are gone, it waits until everything is written, while there is patience.
pub struct CdrThread {
    queue: Option<SyncSender<Item>>,
    wishes: Arc<Wishes>,
    patience: Arc<Patience>,
    /// Closed when the thread ends.
    ended: Receiver<()>,
    counts: Arc<Counts>,
}

impl CdrThread {
    /// Opens the file and starts. `limit`: the longest that the end waits for the last records.
    ///
    /// # Errors
    /// The file can not be opened, the thread not started.
    pub fn start(config: Config, names: TrunkNames, limit: Duration) -> io::Result<Self> {
        let output = Output::open(&config.target)?;
        let counts = Arc::new(Counts::default());
        let (queue, items) = sync_channel(config.queue);
        let wishes = Arc::new(Wishes::default());
        let (told, asked) = (Arc::clone(&counts), Arc::clone(&wishes));
        let mut writer = Writer { config, output, names, counts: told, wishes: asked, is_broken: false };
        let (end, ended) = sync_channel(0);
        std::thread::Builder::new().name("cdr".to_owned()).spawn(move || {
            let _end: SyncSender<()> = end;
            writer.run(&items);
        })?;
        Ok(Self { queue: Some(queue), wishes, patience: Arc::new(Patience::new(limit)), ended, counts })
    }

    /// For a worker.
    pub fn cdr(&self) -> Option<Cdr> {
        let queue = self.queue.clone()?;
        Some(Cdr { queue, counts: Arc::clone(&self.counts), patience: Arc::clone(&self.patience) })
    }

    /// What was written and what was not.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Opens the file anew, once what is being written is written: it was renamed, most likely.
    pub fn reopen(&self) {
        self.wishes.reopen.store(true, Ordering::Release);
        // A queue that is full wakes the thread by itself.
        let _ = self.queue.as_ref().map(|queue| queue.try_send(Item::Wish));
    }

    /// Goes on as this says; the queue stays as it is.
    pub fn configure(&self, config: Config) {
        *self.wishes.config.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
        self.reopen();
    }
}

/// Whether records can go there. A named pipe is not asked: that could take as long as it likes.
///
/// # Errors
/// The file can not be opened.
pub(super) fn check(target: &Target) -> io::Result<()> {
    match target {
        Target::File(path) if !std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) => {
            open(path).map(drop)
        }
        Target::File(_) | Target::Stdout => Ok(()),
    }
}

impl Drop for CdrThread {
    fn drop(&mut self) {
        self.queue = None;
        while self.ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if self.patience.is_over(clock::instant(), self.counts.done()) {
                tracing::error!("the last call records were not written in time: they are lost");
                return;
            }
        }
    }
}

struct Output {
    /// `None`: the standard output.
    file: Option<File>,
    /// What was written last is no whole line: the next one begins behind a line feed.
    is_torn: bool,
}

impl Output {
    fn open(target: &Target) -> io::Result<Self> {
        Ok(match target {
            Target::Stdout => Self { file: None, is_torn: false },
            Target::File(path) => Self { file: Some(open(path)?), is_torn: is_torn(path) },
        })
    }

    /// Octets that were written, and what stopped it.
    fn write(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        let result = self.write_counted(lines, &mut written);
        (written, result)
    }

    fn write_counted(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        if self.is_torn {
            self.write_some(b"\n")?;
            self.is_torn = false;
        }
        while let Some(rest) = lines.get(*written..).filter(|rest| !rest.is_empty()) {
            match self.write_some(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    *written += count;
                    self.is_torn = lines.get(..*written).is_some_and(|done| done.last() != Some(&b'\n'));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_some(&mut self, octets: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(octets),
            None => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(octets)?; // it has a buffer of its own and does not say what of it was written
                stdout.flush().map(|()| octets.len())
            }
        }
    }
}

/// Whether an earlier life left a line that does not end.
fn is_torn(path: &Path) -> bool {
    let last = || -> io::Result<u8> {
        if !std::fs::metadata(path)?.is_file() {
            return Ok(b'\n');
        }
        let (mut file, mut last) = (File::open(path)?, [b'\n']);
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(u8::from_be_bytes(last))
    };
    last().is_ok_and(|last| last != b'\n')
}

/// Numbers of people are in it: for the owner and the group.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Octets of lines that are written in one go.
const BATCH: usize = 64 * 1024;

struct Writer {
    config: Config,
    output: Output,
    names: TrunkNames,
    counts: Arc<Counts>,
    wishes: Arc<Wishes>,
    /// The last write failed, and the log has said so.
    is_broken: bool,
}

impl Writer {
    fn run(&mut self, items: &Receiver<Item>) {
        let (mut lines, mut count) = (Vec::with_capacity(BATCH), 0);
        while let Ok(first) = items.recv() {
            let mut next = Some(first);
            while let Some(item) = next {
                match item {
                    Item::Record(record) => {
                        self.append(&record, &mut lines);
                        count += 1;
                    }
                    Item::Wish => {}
                }
                next = if lines.len() < BATCH { items.try_recv().ok() } else { None };
            }
            self.write(&mut lines, &mut count);
            if self.wishes.reopen.swap(false, Ordering::Acquire) {
                self.reopen();
            }
        }
    }

    fn append(&self, record: &CallRecord, lines: &mut Vec<u8>) {
        let clock = Clock { instant: clock::instant(), millis: clock::unix_millis() };
        let line = line_of(record, &self.names, clock, self.config.shortened);
        if serde_json::to_writer(&mut *lines, &line).is_ok() {
            lines.push(b'\n');
        }
    }

    fn write(&mut self, lines: &mut Vec<u8>, count: &mut u64) {
        let (octets, result) = self.output.write(lines);
        let whole = lines.get(..octets).unwrap_or_default().iter().filter(|octet| **octet == b'\n').count() as u64;
        self.counts.written.fetch_add(whole, Ordering::Relaxed);
        match result {
            Ok(()) => self.is_broken &= lines.is_empty(),
            Err(error) => {
                self.counts.failed.fetch_add(count.saturating_sub(whole), Ordering::Relaxed);
                if !std::mem::replace(&mut self.is_broken, true) {
                    tracing::error!(%error, "call records can not be written");
                }
            }
        }
        lines.clear();
        *count = 0;
    }

    fn reopen(&mut self) {
        if let Some(config) = self.wishes.config.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.config = config;
        }
        match Output::open(&self.config.target) {
            Ok(output) => self.output = output,
            Err(error) => tracing::error!(%error, "the file of call records can not be opened anew; the old one stays"),
        }
    }
}

/// A moment on both clocks: records know the monotonic one only.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub instant: Instant,
    pub millis: i64,
}

impl Clock {
    /// What the wall clock showed at an instant, ISO 8601 in UTC with milliseconds.
    pub fn wall(self, at: Instant) -> String {
        let ago = self.instant.saturating_duration_since(at).as_millis();
        iso8601(self.millis.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX)))
    }
}

fn iso8601(millis: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000);
    at.map_or_else(
        |_| String::new(),
        |at| {
            let (year, month, day) = at.to_calendar_date();
            let (hour, minute, second, milli) = at.to_hms_milli();
            format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", u8::from(month))
        },
    )
}

/// One line; docs/operation.md describes the fields.
#[derive(Serialize)]
struct Line {
    call_id: String,
    from_tag: String,
    to_tag: String,
    caller: String,
    called: String,
    ingress: Option<String>,
    egress: Option<String>,
    source: String,
    member: Option<String>,
    received: String,
    ringing: Option<String>,
    answered: Option<String>,
    ended: String,
    setup_seconds: Option<f64>,
    duration_seconds: f64,
    status: u16,
    own_status: bool,
    cause: Option<u16>,
    ended_by: &'static str,
    cancelled: bool,
    answers: usize,
    attempts: u16,
    verdict: &'static str,
    verdict_check: Option<&'static str>,
    attest: Option<&'static str>,
    verified_origid: Option<String>,
    verstat: Option<&'static str>,
    diverted: Vec<String>,
    rcd_name: Option<&'static str>,
    certificate: Option<String>,
    signer: Option<String>,
    signer_attest: Option<&'static str>,
    origid: Option<String>,
}

fn line_of(record: &CallRecord, names: &TrunkNames, clock: Clock, shortened: bool) -> Line {
    let call = &record.call;
    let name = |trunk: Option<TrunkId>| trunk.map(|trunk| names.of(trunk).to_string());
    let numbers = call.numbers();
    let number = |octets: &[u8]| if shortened { shorten(&text(octets)) } else { text(octets) };
    let (verification, signed) = (call.verification(), call.signed());
    let origid = |signed: &crate::proxy::calls::Signed| shaken::origid(signed.origid).as_str().to_owned();
    Line {
        call_id: text(call.call_id()),
        from_tag: text(call.from_tag()),
        to_tag: text(call.to_tag()),
        caller: number(numbers.caller),
        called: number(numbers.called),
        ingress: name(call.ingress()),
        egress: name(call.egress()),
        source: hop(&call.source()),
        member: call.next_hop().as_ref().map(hop),
        received: clock.wall(call.started()),
        ringing: call.rang().map(|at| clock.wall(at)),
        answered: call.answered().map(|at| clock.wall(at)),
        ended: clock.wall(record.ended),
        setup_seconds: call.answered().map(|at| seconds(at.saturating_duration_since(call.started()))),
        duration_seconds: seconds(record.duration()),
        status: call.status(),
        own_status: call.is_own_answer(),
        cause: call.cause(),
        ended_by: record.ended_by.name(),
        cancelled: call.is_cancelled(),
        answers: call.answers(),
        attempts: call.attempts(),
        verdict: verification.result(),
        verdict_check: verification.failed,
        attest: verification.attestation.map(Attestation::letter),
        verified_origid: verification.origid.map(|origid| origid.as_str().to_owned()),
        verstat: verification.verstat.map(Verstat::text),
        diverted: verification.diverted.iter().map(|identity| number(identity.text().as_bytes())).collect(),
        rcd_name: verification.is_name_verified.map(|is| if is { "verified" } else { "unverified" }),
        certificate: verification.subject(),
        signer: signed.map(|signed| signed.signer.to_string()),
        signer_attest: signed.and_then(|signed| signed.attestation).map(Attestation::letter),
        origid: signed.filter(|signed| signed.attestation.is_some()).map(origid),
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// The last four digits of a number are nobody's business, whatever separates them (RFC 3966 5.1.1), nor the last four characters of
/// what is none.
pub(super) fn shorten(number: &str) -> String {
    let is_visible = |c: char| matches!(c, '-' | '.' | '(' | ')' | ' ');
    let count = number.chars().filter(|c| !is_visible(*c)).count();
    let mut place = 0;
    let mut shortened = |c: char| {
        place += usize::from(!is_visible(c));
        if is_visible(c) || place + 4 <= count { c } else { 'x' }
    };
    number.chars().map(&mut shortened).collect()
}

/// Whole milliseconds.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

/// As next hops are written in the configuration.
pub(super) fn hop(hop: &Hop) -> String {
    format!("{}:{}", hop.transport.via_token().to_ascii_lowercase(), hop.remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shortened_by_their_digits() {
        let all = ["+12155551212", "+1-215-555-1212", "+1 (215) 555.12.12", "12-1", "alice", "", "-.-"].map(shorten);
        assert_eq!(all, ["+1215555xxxx", "+1-215-555-xxxx", "+1 (215) 555.xx.xx", "xx-x", "axxxx", "", "-.-"]);
    }

    #[test]
    fn half_a_line_is_ended_before_the_next_one() {
        // A stream with little room: of what does not fit a part is written, as on a disk that becomes full.
        let (mut reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let mut output = Output { file: Some(writer), is_torn: false };
        let line = [vec![b'x'; 40_000], vec![b'\n']].concat();
        let (written, result) = output.write(&line.repeat(10));
        assert!(result.is_err() && written > 0 && written < 400_010 && written % 40_001 != 0, "{written}");
        let mut read = vec![0; written];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(output.write(b"next\n").0, 5);
        drop(output);
        read.clear();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"\nnext\n");
    }

    #[test]
    fn a_file_that_was_left_in_the_middle_of_a_line_goes_on_with_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("calls");
        for (before, after) in [("", "new\n"), ("old\n", "old\nnew\n"), ("ol", "ol\nnew\n")] {
            std::fs::write(&path, before).unwrap();
            let mut output = Output::open(&Target::File(path.clone())).unwrap();
            assert!(output.write(b"new\n").1.is_ok());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }

    #[test]
    fn the_end_waits_while_records_are_written_and_not_for_ever() {
        let start = clock::instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        let patience = Patience::new(Duration::from_secs(60));
        assert!(!patience.is_over(start, 0) && !patience.is_over(at(4), 0));
        assert!(!patience.is_over(at(6), 1), "one was written");
        assert!(!patience.is_over(at(10), 1) && patience.is_over(at(11), 1), "then none");
        assert!((12..60).all(|second| !patience.is_over(at(second), second)));
        assert!(patience.is_over(at(60), 60));
        let hasty = Patience::new(Duration::ZERO);
        assert!(!hasty.is_over(start, 0) && hasty.is_over(at(5), 5));
    }
}
