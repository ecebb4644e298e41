//! Child processes with a bound on every wait.

use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// A started child process; killed when dropped before its end.
pub struct Process {
    name: String,
    id: u32,
    ended: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> std::io::Result<Self> {
        let child = command.spawn()?;
        let id = child.id();
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || wait(child, &sender));
        Ok(Process { name: name.to_owned(), id, ended, status: None })
    }

    /// Its exit status, if it ends before `deadline`.
    pub fn wait(&mut self, deadline: Instant) -> Result<ExitStatus, String> {
        if self.status.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            self.status = self.ended.recv_timeout(left).ok();
        }
        self.status.ok_or_else(|| format!("{} is still running at its time limit", self.name))
    }

    pub fn has_ended(&mut self) -> bool {
        self.wait(Instant::now()).is_ok()
    }

    /// Sends a signal by its name (`TERM`, `USR1`).
    pub fn signal(&mut self, signal: &str) {
        if !self.has_ended() {
            let sent = Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", self.id)).status();
            assert!(sent.is_ok_and(|s| s.success()) || self.has_ended(), "signal {signal} to {}", self.name);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal("KILL");
            let _ = self.wait(Instant::now() + Duration::from_secs(5));
        }
    }
}

fn wait(mut child: Child, sender: &mpsc::Sender<ExitStatus>) {
    if let Ok(status) = child.wait() {
        let _ = sender.send(status);
    }
}

/// Asks `question` every few milliseconds until it says yes or `deadline` passes.
pub fn poll(deadline: Instant, mut question: impl FnMut() -> bool) -> bool {
    while Instant::now() < deadline {
        if question() {
            return true;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    false
}
