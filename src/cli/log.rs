//! The log: lines go to the standard error output through a bounded queue and a thread, so that a reader who stalls holds nobody up.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Lines that wait; what comes on top is lost.
const QUEUE: usize = 4096;
/// How long the end of the program waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

enum Entry {
    Line(Vec<u8>),
    /// Everything before this is written.
    Mark(SyncSender<()>),
}

/// Dropped at the end of the program, it waits for the last lines.
pub struct Log {
    queue: SyncSender<Entry>,
    set_level: Box<dyn Fn(EnvFilter)>,
}

impl Log {
    /// Starts logging; once per process.
    pub fn start(format: LogFormat, level: &str) -> io::Result<Self> {
        let (queue, entries) = sync_channel(QUEUE);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&entries))?;
        let lines = queue.clone();
        let builder =
            tracing_subscriber::fmt().with_env_filter(EnvFilter::new(level)).with_writer(move || Line(lines.clone()));
        // A level fails to be set only when nobody logs any more.
        let set_level: Box<dyn Fn(EnvFilter)> = match format {
            LogFormat::Text => {
                let builder = builder.with_ansi(io::stderr().is_terminal()).with_filter_reloading();
                let handle = builder.reload_handle();
                builder.init();
                Box::new(move |filter| drop(handle.reload(filter)))
            }
            LogFormat::Json => {
                let builder = builder.json().with_filter_reloading();
                let handle = builder.reload_handle();
                builder.init();
                Box::new(move |filter| drop(handle.reload(filter)))
            }
        };
        Ok(Self { queue, set_level })
    }

    /// What is logged from now on, as [`Log::start`] takes it.
    pub fn set_level(&self, level: &str) {
        (self.set_level)(EnvFilter::new(level));
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (written, wait) = sync_channel(1);
        if self.queue.try_send(Entry::Mark(written)).is_ok() {
            let _ = wait.recv_timeout(LAST_LINES);
        }
    }
}

fn write(entries: &Receiver<Entry>) {
    for entry in entries {
        match entry {
            // There is no place to tell that the log can not be written.
            Entry::Line(line) => drop(io::stderr().write_all(&line)),
            Entry::Mark(written) => drop(written.try_send(())),
        }
    }
}

/// One line; the subscriber writes it in one piece.
struct Line(SyncSender<Entry>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(Entry::Line(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
