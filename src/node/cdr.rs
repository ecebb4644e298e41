//! Call detail records: one JSON line per call that is over, written by a thread of its own. The workers hand records over by a bounded
//! queue and never wait: what finds it full is counted and lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::clock;
use super::names::TrunkNames;
use crate::passport::ppt::shaken::{self, Attestation};
use crate::proxy::{CallRecord, TrunkId};
use crate::sip::hop::Hop;

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
    Reopen,
}

/// The workers' end of the queue.
#[derive(Clone)]
pub struct Cdr {
    queue: SyncSender<Item>,
    counts: Arc<Counts>,
}

impl Cdr {
    /// Hands a record over. Never waits.
    pub fn tell(&self, record: CallRecord) {
        if self.queue.try_send(Item::Record(record)).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How long the end of the program waits for the last records: who reads a pipe may have stalled.
const LAST_RECORDS: Duration = Duration::from_secs(5);

/// The thread. Dropped when the workers are gone, it waits until everything is written, at most 5 seconds.
pub struct CdrThread {
    queue: Option<SyncSender<Item>>,
    /// Closed when the thread ends.
    ended: Receiver<()>,
    counts: Arc<Counts>,
}

impl CdrThread {
    /// Opens the file and starts.
    ///
    /// # Errors
    /// The file can not be opened, the thread not started.
    pub fn start(config: Config, names: TrunkNames) -> io::Result<Self> {
        let output = Output::open(&config.target)?;
        let counts = Arc::new(Counts::default());
        let (queue, items) = sync_channel(config.queue);
        let mut writer = Writer { config, output, names, counts: Arc::clone(&counts), is_broken: false };
        let (end, ended) = sync_channel(0);
        std::thread::Builder::new().name("cdr".to_owned()).spawn(move || {
            let _end: SyncSender<()> = end;
            writer.run(&items);
        })?;
        Ok(Self { queue: Some(queue), ended, counts })
    }

    /// For a worker.
    pub fn cdr(&self) -> Option<Cdr> {
        let queue = self.queue.clone()?;
        Some(Cdr { queue, counts: Arc::clone(&self.counts) })
    }

    /// What was written and what was not.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Opens the file anew, once what waits is written: it was renamed, most likely.
    pub fn reopen(&self) {
        // With the queue full the old file stays open until the next time.
        if self.queue.as_ref().is_some_and(|queue| queue.try_send(Item::Reopen).is_err()) {
            tracing::warn!("the queue of call records is full: their file was not opened anew");
        }
    }
}

impl Drop for CdrThread {
    fn drop(&mut self) {
        self.queue = None;
        if self.ended.recv_timeout(LAST_RECORDS) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the last call records were not written in time: they are lost");
        }
    }
}

enum Output {
    Stdout,
    File(File),
}

impl Output {
    fn open(target: &Target) -> io::Result<Self> {
        match target {
            Target::Stdout => Ok(Self::Stdout),
            Target::File(path) => open(path).map(Self::File),
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines).and_then(|()| stdout.flush())
            }
            Self::File(file) => file.write_all(lines),
        }
    }
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
                    Item::Reopen => {
                        self.write(&mut lines, &mut count);
                        self.reopen();
                    }
                }
                next = if lines.len() < BATCH { items.try_recv().ok() } else { None };
            }
            self.write(&mut lines, &mut count);
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
        let result = if lines.is_empty() { Ok(()) } else { self.output.write(lines) };
        match result {
            Ok(()) => {
                self.counts.written.fetch_add(*count, Ordering::Relaxed);
                self.is_broken &= lines.is_empty();
            }
            Err(error) => {
                self.counts.failed.fetch_add(*count, Ordering::Relaxed);
                if !std::mem::replace(&mut self.is_broken, true) {
                    tracing::error!(%error, "call records can not be written");
                }
            }
        }
        lines.clear();
        *count = 0;
    }

    fn reopen(&mut self) {
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
}
