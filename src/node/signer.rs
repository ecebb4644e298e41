//! Signatures by keys in hardware modules (PKCS#11), on threads of their own: a module may take its time, or hang. Needs wait in one
//! bounded queue; each thread has its own sessions and takes the next one.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as ModuleError, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use tokio::sync::mpsc;

use super::clock;
use crate::proxy::SignatureFailure;
use crate::proxy::meters::Histogram;

/// After a failure a thread leaves a key alone for so long: others do not wait for a module that is away.
const PAUSE: Duration = Duration::from_secs(1);

/// Signature of a need, or why there is none.
pub(super) type Answered = (u64, Result<[u8; 64], SignatureFailure>);

/// The PIN of a token. Nothing prints it.
#[derive(Clone)]
pub struct Pin(AuthPin);

impl Pin {
    /// From the octets of its file: one line of text.
    pub fn read(octets: Vec<u8>) -> Option<Self> {
        let text = String::from_utf8(octets).ok()?;
        let pin = text.trim_end_matches(['\r', '\n']);
        (!pin.is_empty() && !pin.contains(['\r', '\n'])).then(|| Self(AuthPin::new(pin.into())))
    }
}

/// Where a private key is.
#[derive(Clone)]
pub struct Module {
    /// The shared library.
    pub path: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Label of the key.
    pub label: String,
    /// The user's PIN.
    pub pin: Pin,
}

impl Module {
    /// The name of the key, the same for the same key.
    pub fn name(&self) -> Arc<str> {
        format!("{} token={} label={}", self.path.display(), self.token, self.label).into()
    }
}

/// A key of a signer.
#[derive(Clone)]
pub struct Key {
    /// Where it is.
    pub module: Module,
    /// The public key of the certificate, as an uncompressed point.
    pub point: Vec<u8>,
}

/// The keys, and bounds.
#[derive(Clone)]
pub struct Config {
    /// All keys of signers.
    pub keys: Vec<Key>,
    /// Threads that sign.
    pub threads: usize,
    /// Needs that wait for one.
    pub queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { keys: Vec::new(), threads: 4, queue: 1024 }
    }
}

/// Why a key can not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// Its name.
    pub key: String,
    /// Why.
    pub why: Trouble,
}

/// What is wrong with a key, or with the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The module says so; its own words.
    Module(String),
    /// No token has this label.
    NoToken,
    /// No private EC key has this label.
    NoKey,
    /// More than one has.
    Ambiguous,
    /// It signs, but not for the certificate.
    Mismatch,
    /// A thread could not be started.
    Thread(std::io::ErrorKind),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkcs11 {}: ", self.key)?;
        match &self.why {
            Trouble::Module(words) => f.write_str(words),
            Trouble::NoToken => f.write_str("no token has this label"),
            Trouble::NoKey => f.write_str("the token has no private EC key with this label"),
            Trouble::Ambiguous => f.write_str("the token has several private EC keys with this label"),
            Trouble::Mismatch => f.write_str("the key is not that of the signer's certificate"),
            Trouble::Thread(kind) => write!(f, "thread: {kind}"),
        }
    }
}

impl std::error::Error for KeyError {}

/// The words of the module; never the PIN, which is no part of them.
impl From<ModuleError> for Trouble {
    fn from(error: ModuleError) -> Self {
        Self::Module(error.to_string())
    }
}

/// What became of needs.
#[derive(Debug, Default)]
pub struct Counts {
    /// From the queue's end to its beginning.
    waits: Mutex<Histogram>,
    /// Signed, refused by the module, too old when their turn came.
    results: [AtomicU64; 3],
    full: AtomicU64,
}

impl Counts {
    /// The waits in the queue.
    pub fn waits(&self) -> Histogram {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Result and count.
    pub fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = ["signed", "failed", "late"].into_iter();
        names.zip(&self.results).map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// What found the queue full.
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    fn count(&self, result: usize) {
        self.results.get(result).into_iter().for_each(|count| _ = count.fetch_add(1, Ordering::Relaxed));
    }
}

/// A need.
pub(super) struct Question {
    pub id: u64,
    pub key: Arc<str>,
    pub input: Box<[u8]>,
    pub deadline: Instant,
    pub answer_to: mpsc::Sender<Answered>,
}

struct Job {
    question: Question,
    queued: Instant,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    keys: HashMap<Arc<str>, Arc<Key>>,
    capacity: usize,
    threads: usize,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something is in the queue, or the end is there.
    changed: Condvar,
    counts: Arc<Counts>,
    /// Loaded once each: a module does not like to be initialized twice.
    modules: Mutex<HashMap<PathBuf, Pkcs11>>,
}

/// Asks for signatures.
#[derive(Clone, Default)]
pub(super) struct Asker(Arc<Shared>);

impl Asker {
    /// Puts a need into the queue.
    ///
    /// # Errors
    /// [`SignatureFailure::Busy`] when it is full.
    pub fn ask(&self, question: Question) -> Result<(), SignatureFailure> {
        let mut state = self.0.state();
        if state.queue.len() >= state.capacity {
            self.0.counts.full.fetch_add(1, Ordering::Relaxed);
            return Err(SignatureFailure::Busy);
        }
        state.queue.push_back(Job { question, queued: clock::instant() });
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }
}

/// The threads. When this is dropped they end, but for those that hang in a module.
#[derive(Default)]
pub(super) struct SignerThreads(Arc<Shared>);

impl SignerThreads {
    /// Opens every key, lets it sign and checks what comes out, and goes on with these keys. The first keys start the threads.
    ///
    /// # Errors
    /// The first key that can not be used. Nothing has changed then.
    pub fn configure(&self, config: Config) -> Result<(), KeyError> {
        let mut keys = HashMap::new();
        for key in config.keys {
            let name = key.module.name();
            self.check(&key).map_err(|why| KeyError { key: name.to_string(), why })?;
            keys.insert(name, Arc::new(key));
        }
        let mut state = self.0.state();
        let wanted = if keys.is_empty() { state.threads } else { config.threads };
        (state.keys, state.capacity) = (keys, config.queue);
        while state.threads < wanted {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name(format!("signer-{}", state.threads));
            let started = thread.spawn(move || work(&shared));
            started.map_err(|error| KeyError { key: String::new(), why: Trouble::Thread(error.kind()) })?;
            state.threads += 1;
        }
        Ok(())
    }

    /// For a worker.
    pub fn asker(&self) -> Asker {
        Asker(Arc::clone(&self.0))
    }

    /// What became of needs.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.0.counts
    }

    fn check(&self, key: &Key) -> Result<(), Trouble> {
        const TEST: &[u8] = b"vesperd asks whether this key is the certificate's";
        let signature = self.0.open(&key.module)?.sign(TEST)?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point);
        public.verify(TEST, &signature).map_err(|_| Trouble::Mismatch)
    }
}

impl Drop for SignerThreads {
    fn drop(&mut self) {
        self.0.state().stopped = true;
        self.0.changed.notify_all();
    }
}

/// A key in an open session.
struct Opened {
    session: Session,
    key: ObjectHandle,
}

impl Opened {
    fn sign(&self, input: &[u8]) -> Result<[u8; 64], Trouble> {
        let hash = digest(&SHA256, input);
        let signature = self.session.sign(&Mechanism::Ecdsa, self.key, hash.as_ref())?;
        signature.try_into().map_err(|_| Trouble::Mismatch) // of another curve
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn module(&self, path: &Path) -> Result<Pkcs11, Trouble> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(path) {
            return Ok(module.clone());
        }
        let module = Pkcs11::new(path)?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(ModuleError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error.into()),
        }
        modules.insert(path.to_owned(), module.clone());
        Ok(module)
    }

    fn open(&self, module: &Module) -> Result<Opened, Trouble> {
        let library = self.module(&module.path)?;
        let mut token = None;
        for slot in library.get_slots_with_token()? {
            if library.get_token_info(slot)?.label().trim_end() == module.token {
                token = Some(slot);
            }
        }
        let session = library.open_ro_session(token.ok_or(Trouble::NoToken)?)?;
        match session.login(UserType::User, Some(&module.pin.0)) {
            Ok(()) | Err(ModuleError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => return Err(error.into()),
        }
        let wanted = [
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::Label(module.label.clone().into_bytes()),
        ];
        match session.find_objects(&wanted)?.as_slice() {
            [key] => Ok(Opened { key: *key, session }),
            [] => Err(Trouble::NoKey),
            _ => Err(Trouble::Ambiguous),
        }
    }

    /// The next need and its key; `None` at the end.
    fn next(&self) -> Option<(Job, Option<Arc<Key>>)> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                let key = state.keys.get(&job.question.key).cloned();
                return Some((job, key));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The sessions of one thread.
#[derive(Default)]
struct Sessions {
    opened: HashMap<Arc<str>, Opened>,
    /// Keys that are left alone until then.
    resting: HashMap<Arc<str>, Instant>,
}

impl Sessions {
    /// Signs; a session that has ended is opened once more.
    fn sign(&mut self, shared: &Shared, name: &Arc<str>, key: &Key, input: &[u8]) -> Result<[u8; 64], Trouble> {
        if let Some(signature) = self.opened.get(name).and_then(|opened| opened.sign(input).ok()) {
            return Ok(signature);
        }
        self.opened.remove(name);
        let opened = shared.open(&key.module)?;
        let signature = opened.sign(input)?;
        self.opened.insert(Arc::clone(name), opened);
        Ok(signature)
    }

    fn is_resting(&self, name: &str, now: Instant) -> bool {
        self.resting.get(name).is_some_and(|until| now < *until)
    }
}

/// The life of a thread.
fn work(shared: &Shared) {
    let mut sessions = Sessions::default();
    while let Some((Job { question, queued }, key)) = shared.next() {
        let now = clock::instant();
        let waited = now.saturating_duration_since(queued);
        shared.counts.waits.lock().unwrap_or_else(PoisonError::into_inner).observe(waited);
        if question.deadline <= now {
            shared.counts.count(2); // its call has gone on
            continue;
        }
        let Question { id, key: name, input, answer_to, .. } = question;
        let result = match key.filter(|_| !sessions.is_resting(&name, now)) {
            Some(key) => sessions.sign(shared, &name, &key, &input).map_err(|why| {
                tracing::error!(key = %name, why = %KeyError { key: String::new(), why }, "no signature");
                sessions.resting.insert(Arc::clone(&name), clock::instant() + PAUSE);
                SignatureFailure::Refused
            }),
            None => Err(SignatureFailure::Refused),
        };
        shared.counts.count(usize::from(result.is_err()));
        // A full mailbox is one whose worker does not come to reading: the call ends its wait by itself.
        let _ = answer_to.try_send((id, result));
    }
}
