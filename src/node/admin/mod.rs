//! The socket for operators: one JSON request a line, one JSON answer a line. Served by a thread of its own; it asks the workers over
//! bounded queues, a piece of their tables at a time, and never waits in them.

mod request;
mod serve;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use request::{Answer, CallEntry, Request, TargetEntry};

use super::fetch;
use super::metrics::Published;
use super::names::TrunkNames;
use super::side_thread::SideThread;
use super::worker::Orders;
use crate::proxy::{Call, CallState, EndedCalls, TrunkId};
use crate::sip::hop::Hop;

/// Where the socket is and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its path. The directory must be there.
    pub socket: PathBuf,
    /// Its permissions: 0600 or 0660.
    pub mode: u32,
    /// Connections at the same time; more wait.
    pub connections: usize,
}

/// What a worker is asked. Answers nobody waits for any more are dropped.
pub(in crate::node) enum Question {
    /// The calls that fit, in a piece of its table.
    Calls {
        /// Where the piece begins.
        place: usize,
        filter: Filter,
        answer: oneshot::Sender<Page>,
    },
    /// End the calls of a Call-ID.
    End { call_id: Vec<u8>, answer: oneshot::Sender<EndedCalls> },
}

/// Which calls are wanted.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct Filter {
    pub trunk: Option<TrunkId>,
    /// Caller's or called number contain this.
    pub number: Option<Vec<u8>>,
    pub state: Option<CallState>,
}

/// Calls of a piece of a worker's table.
pub(in crate::node) struct Page {
    pub calls: Vec<SeenCall>,
    /// Where the next piece begins.
    pub next: Option<usize>,
}

/// What is copied of a call for the answer.
pub(in crate::node) struct SeenCall {
    pub call_id: Vec<u8>,
    pub caller: Vec<u8>,
    pub called: Vec<u8>,
    pub state: CallState,
    pub ingress: Option<TrunkId>,
    pub egress: Option<TrunkId>,
    pub next: Option<Hop>,
    pub started: std::time::Instant,
    pub answered: Option<std::time::Instant>,
    pub attempts: u16,
    pub verdict: &'static str,
}

impl Filter {
    pub fn takes(&self, call: &Call) -> bool {
        let has = |text: &[u8], number: &[u8]| memchr::memmem::find(text, number).is_some();
        let numbers = call.numbers();
        self.state.is_none_or(|state| call.state() == state)
            && self.trunk.is_none_or(|trunk| call.ingress() == Some(trunk) || call.egress() == Some(trunk))
            && self.number.as_ref().is_none_or(|number| has(numbers.caller, number) || has(numbers.called, number))
    }
}

impl SeenCall {
    pub fn of(call: &Call) -> Self {
        let numbers = call.numbers();
        Self {
            call_id: call.call_id().to_vec(),
            caller: numbers.caller.to_vec(),
            called: numbers.called.to_vec(),
            state: call.state(),
            ingress: call.ingress(),
            egress: call.egress(),
            next: call.next_hop(),
            started: call.started(),
            answered: call.answered(),
            attempts: call.attempts(),
            verdict: call.verification().result(),
        }
    }
}

/// What only the program itself can do.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration anew; the answer is what has changed, or why nothing has.
    Reload(oneshot::Sender<Result<Vec<String>, String>>),
}

/// What the thread works with.
pub(in crate::node) struct Means {
    pub workers: Vec<mpsc::Sender<Question>>,
    pub orders: watch::Sender<Orders>,
    pub published: Arc<Published>,
    pub names: TrunkNames,
    pub program: mpsc::Sender<Order>,
    pub fetch: mpsc::Sender<fetch::Command>,
}

/// The thread; ends when it is dropped, and takes the socket away.
pub(in crate::node) struct AdminThread {
    socket: PathBuf,
    _thread: SideThread,
}

impl AdminThread {
    /// Binds and starts.
    ///
    /// # Errors
    /// The socket can not be bound, or somebody serves it already; the thread can not be started.
    pub fn start(config: Config, means: Means) -> io::Result<Self> {
        let listener = bind(&config)?;
        let means = Arc::new(means);
        let permits = Arc::new(Semaphore::new(config.connections));
        let thread = SideThread::start("admin", move || async move {
            match tokio::net::UnixListener::from_std(listener) {
                Ok(listener) => serve::accept(&listener, &permits, &means).await,
                Err(error) => tracing::error!(%error, "admin socket"),
            }
        })?;
        Ok(Self { socket: config.socket, _thread: thread })
    }
}

impl Drop for AdminThread {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

fn bind(config: &Config) -> io::Result<UnixListener> {
    remove_stale(&config.socket)?;
    // Bound where nobody may connect, and moved once its permissions are right.
    let mut hidden = config.socket.clone().into_os_string();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    remove_stale(&hidden)?;
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(config.mode))?;
    fs::rename(&hidden, &config.socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket that an earlier life left behind is in the way; one that somebody serves is not ours.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() || UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    fs::remove_file(path)
}
