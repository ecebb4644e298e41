//! Call detail records: one JSON line per call that is over, written by a thread of its own. The workers hand records over by a bounded
//! queue and never wait, but at the end of the program: what finds it full is counted and lost.

mod line;
mod output;

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use output::{Output, open};

use super::clock;
use super::names::TrunkNames;
use crate::proxy::CallRecord;
use line::line_of;
pub(super) use line::{Clock, hop, shorten};

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

#[cfg(test)]
mod tests {
    use super::*;

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
