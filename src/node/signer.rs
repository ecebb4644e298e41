//! Signatures by keys in hardware modules (PKCS#11), on threads of their own: a module may take its time, or hang. Needs wait in one
//! bounded queue per module; each of its threads has its own sessions and takes the next one.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::error::Error as ModuleError;
use cryptoki::types::AuthPin;
use tokio::sync::mpsc;

use self::pool::Pool;
use super::clock;
use crate::cert::sct::sha256;
use crate::proxy::SignatureFailure;
use crate::proxy::meters::Histogram;

mod pool;

/// Signature of a need, or why there is none.
pub(super) type Answered = (u64, Result<[u8; 64], SignatureFailure>);

/// The PIN of a token. Nothing prints it.
#[derive(Clone)]
pub struct Pin {
    pin: AuthPin,
    /// Tells one from another.
    digest: PinDigest,
}

type PinDigest = [u8; 32];

impl Pin {
    /// From the octets of its file: one line of text.
    pub fn read(octets: Vec<u8>) -> Option<Self> {
        let text = String::from_utf8(octets).ok()?;
        let pin = text.trim_end_matches(['\r', '\n']);
        (!pin.is_empty() && !pin.contains(['\r', '\n']))
            .then(|| Self { pin: AuthPin::new(pin.into()), digest: sha256(pin.as_bytes()) })
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
    /// Threads that sign, for each module.
    pub threads: usize,
    /// Needs that wait for one of them.
    pub queue: usize,
    /// How long the modules have, together, to show at a start or reload that they sign.
    pub check_timeout: Duration,
}

impl Config {
    /// Answers that a worker's mailbox has room for: what may be under way, and what it may ask in one round before it looks there.
    pub(super) fn answers(&self) -> usize {
        const ROUND: usize = 256;
        let modules: BTreeSet<&Path> = self.keys.iter().map(|key| key.module.path.as_path()).collect();
        (self.queue + self.threads) * modules.len().max(1) + ROUND
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { keys: Vec::new(), threads: 4, queue: 1024, check_timeout: Duration::from_secs(5) }
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
    /// The token refuses the PIN.
    Pin,
    /// The module does not answer in time.
    Silent,
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
            Trouble::Pin => f.write_str("the token refuses the PIN, or is locked; it is asked again at a reload only"),
            Trouble::Silent => f.write_str("the module does not answer in time ([stir.hsm] check_timeout_ms)"),
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

    fn waited(&self, time: Duration) {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).observe(time);
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

/// A key, and those who can sign with it.
type Served = (Arc<Key>, Arc<Pool>);

#[derive(Default)]
struct Shared {
    keys: Mutex<HashMap<Arc<str>, Served>>,
    /// By the path of the module.
    pools: Mutex<HashMap<PathBuf, Arc<Pool>>>,
    counts: Arc<Counts>,
}

/// Asks for signatures.
#[derive(Clone, Default)]
pub(super) struct Asker(Arc<Shared>);

impl Asker {
    /// Puts a need into the queue of its module.
    ///
    /// # Errors
    /// [`SignatureFailure::Busy`] when it is full, [`SignatureFailure::Refused`] when the key is not there any more.
    pub fn ask(&self, question: Question) -> Result<(), SignatureFailure> {
        let served = self.0.keys().get(&question.key).cloned();
        let Some((key, pool)) = served else {
            self.0.counts.count(1);
            return Err(SignatureFailure::Refused);
        };
        pool.ask(question, key).inspect_err(|_| _ = self.0.counts.full.fetch_add(1, Ordering::Relaxed))
    }
}

/// The threads. When this is dropped they end, but for those that hang in a module.
#[derive(Default)]
pub(super) struct SignerThreads(Arc<Shared>);

impl SignerThreads {
    /// Lets every key sign, checks what comes out, and goes on with these keys. The first key of a module starts its threads.
    ///
    /// # Errors
    /// The first key that can not be used, or whose module is silent for too long. The keys are the same as before then.
    pub fn configure(&self, config: Config) -> Result<(), KeyError> {
        let deadline = clock::instant() + config.check_timeout;
        let mut keys = HashMap::new();
        for key in config.keys {
            let (name, key) = (key.module.name(), Arc::new(key));
            let pool = self.0.pool(&key.module.path);
            let checked = pool.start(config.threads).and_then(|()| pool.check(Arc::clone(&key), deadline));
            checked.map_err(|why| KeyError { key: name.to_string(), why })?;
            keys.insert(name, (key, pool));
        }
        self.0.pools().values().for_each(|pool| pool.set_capacity(config.queue));
        *self.0.keys() = keys;
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
}

impl Drop for SignerThreads {
    fn drop(&mut self) {
        self.0.pools().values().for_each(|pool| pool.stop());
    }
}

impl Shared {
    fn keys(&self) -> MutexGuard<'_, HashMap<Arc<str>, Served>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pool(&self, module: &Path) -> Arc<Pool> {
        let new = || Arc::new(Pool::new(module, Arc::clone(&self.counts)));
        Arc::clone(self.pools().entry(module.to_owned()).or_insert_with(new))
    }
}
