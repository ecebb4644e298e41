//! One hardware module: what waits for it, and the threads that work with it. One that hangs stops these, and nobody else.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
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

use super::{Counts, Key, KeyError, Module, PinDigest, Question, Trouble};
use crate::node::clock;
use crate::proxy::SignatureFailure;

/// After a failure a thread leaves a key alone for so long: others do not wait for a module that is away.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Pool {
    path: PathBuf,
    state: Mutex<State>,
    /// Something is in the queue, or the end is there.
    changed: Condvar,
    counts: Arc<Counts>,
    /// Loaded once: a module does not like to be initialized twice.
    library: Mutex<Option<Pkcs11>>,
    refused: RefusedPins,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    capacity: usize,
    threads: usize,
    stopped: bool,
}

enum Job {
    Sign {
        question: Question,
        key: Arc<Key>,
        queued: Instant,
    },
    /// Whether the key signs for its certificate.
    Check {
        key: Arc<Key>,
        answer_to: SyncSender<Result<(), Trouble>>,
    },
}

impl Pool {
    pub fn new(module: &Path, counts: Arc<Counts>) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self {
            path: module.to_owned(),
            state,
            changed,
            counts,
            library: Mutex::default(),
            refused: RefusedPins::default(),
        }
    }

    /// Sees to it that there are so many threads.
    pub fn start(self: &Arc<Self>, threads: usize) -> Result<(), Trouble> {
        let mut state = self.state();
        while state.threads < threads {
            let pool = Arc::clone(self);
            let thread = std::thread::Builder::new().name(format!("signer-{}", state.threads));
            thread.spawn(move || pool.work()).map_err(|error| Trouble::Thread(error.kind()))?;
            state.threads += 1;
        }
        Ok(())
    }

    /// How many needs may wait.
    pub fn set_capacity(&self, capacity: usize) {
        self.state().capacity = capacity;
    }

    /// The threads end, but for those that hang.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Puts a need into the queue.
    pub fn ask(&self, question: Question, key: Arc<Key>) -> Result<(), SignatureFailure> {
        let mut state = self.state();
        if state.queue.len() >= state.capacity {
            return Err(SignatureFailure::Busy);
        }
        state.queue.push_back(Job::Sign { question, key, queued: clock::instant() });
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Lets a thread sign with the key, before all that waits: a thread, because this one is not to hang.
    pub fn check(&self, key: Arc<Key>, deadline: Instant) -> Result<(), Trouble> {
        let (answer_to, answer) = sync_channel(1);
        self.state().queue.push_front(Job::Check { key, answer_to });
        self.changed.notify_one();
        let left = deadline.saturating_duration_since(clock::instant());
        answer.recv_timeout(left).unwrap_or_else(|_| {
            self.state().queue.retain(|job| matches!(job, Job::Sign { .. }));
            Err(Trouble::Silent)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; `None` at the end.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The life of a thread.
    fn work(&self) {
        let mut sessions = Sessions::default();
        while let Some(job) = self.next() {
            match job {
                Job::Sign { question, key, queued } => self.sign(&mut sessions, question, &key, queued),
                // Nobody listens any more when it took too long.
                Job::Check { key, answer_to } => drop(answer_to.try_send(self.try_out(&key))),
            }
        }
    }

    fn sign(&self, sessions: &mut Sessions, question: Question, key: &Arc<Key>, queued: Instant) {
        let now = clock::instant();
        self.counts.waited(now.saturating_duration_since(queued));
        if question.deadline <= now {
            self.counts.count(2); // its call has gone on
            return;
        }
        let Question { id, key: name, input, answer_to, .. } = question;
        let result = if sessions.is_resting(&name, now) {
            Err(SignatureFailure::Refused)
        } else {
            sessions.sign(self, &name, key, &input).map_err(|why| {
                tracing::error!(key = %name, why = %KeyError { key: String::new(), why }, "no signature");
                sessions.resting.insert(Arc::clone(&name), clock::instant() + PAUSE);
                SignatureFailure::Refused
            })
        };
        self.counts.count(usize::from(result.is_err()));
        // A full mailbox is one whose worker does not come to reading: the call ends its wait by itself.
        let _ = answer_to.try_send((id, result));
    }

    fn try_out(&self, key: &Key) -> Result<(), Trouble> {
        const TEST: &[u8] = b"vesperd asks whether this key is the certificate's";
        let (session, object) = self.open(&key.module, true)?;
        let signature = sign(&session, object, TEST)?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point);
        public.verify(TEST, &signature).map_err(|_| Trouble::Mismatch)
    }

    fn library(&self) -> Result<Pkcs11, Trouble> {
        let mut library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = &*library {
            return Ok(library.clone());
        }
        let loaded = Pkcs11::new(&self.path)?;
        match loaded.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(ModuleError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error.into()),
        }
        *library = Some(loaded.clone());
        Ok(loaded)
    }

    /// A session and the key in it. `insists`: somebody looks at what comes of it, and a PIN that was refused is tried once more.
    fn open(&self, module: &Module, insists: bool) -> Result<(Session, ObjectHandle), Trouble> {
        let library = self.library()?;
        let mut token = None;
        for slot in library.get_slots_with_token()? {
            if library.get_token_info(slot)?.label().trim_end() == module.token {
                token = Some(slot);
            }
        }
        let session = library.open_ro_session(token.ok_or(Trouble::NoToken)?)?;
        self.refused.try_pin(module, insists, |pin| session.login(UserType::User, Some(pin)))?;
        let wanted = [
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::Label(module.label.clone().into_bytes()),
        ];
        match session.find_objects(&wanted)?.as_slice() {
            [key] => Ok((session, *key)),
            [] => Err(Trouble::NoKey),
            _ => Err(Trouble::Ambiguous),
        }
    }
}

fn sign(session: &Session, object: ObjectHandle, input: &[u8]) -> Result<[u8; 64], Trouble> {
    let hash = digest(&SHA256, input);
    let signature = session.sign(&Mechanism::Ecdsa, object, hash.as_ref())?;
    signature.try_into().map_err(|_| Trouble::Mismatch) // of another curve
}

/// PINs that were wrong, by token. Every try counts, and after a few the token locks itself.
#[derive(Default)]
struct RefusedPins(Mutex<HashMap<String, PinDigest>>);

impl RefusedPins {
    /// Logs in, one thread at a time, unless the token has refused this PIN before.
    fn try_pin(
        &self,
        module: &Module,
        insists: bool,
        log_in: impl FnOnce(&AuthPin) -> Result<(), ModuleError>,
    ) -> Result<(), Trouble> {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !insists && refused.get(&module.token) == Some(&module.pin.digest) {
            return Err(Trouble::Pin);
        }
        match log_in(&module.pin.pin) {
            Ok(()) | Err(ModuleError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                refused.remove(&module.token);
                Ok(())
            }
            Err(ModuleError::Pkcs11(RvError::PinIncorrect | RvError::PinLocked | RvError::PinExpired, _)) => {
                refused.insert(module.token.clone(), module.pin.digest);
                Err(Trouble::Pin)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A key in an open session.
struct Opened {
    session: Session,
    object: ObjectHandle,
    /// Of another configuration, the name may be another key's.
    key: Arc<Key>,
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
    fn sign(&mut self, pool: &Pool, name: &Arc<str>, key: &Arc<Key>, input: &[u8]) -> Result<[u8; 64], Trouble> {
        let known = self.opened.get(name).filter(|opened| Arc::ptr_eq(&opened.key, key));
        if let Some(signature) = known.and_then(|opened| sign(&opened.session, opened.object, input).ok()) {
            return Ok(signature);
        }
        self.opened.remove(name);
        let (session, object) = pool.open(&key.module, false)?;
        let signature = sign(&session, object, input)?;
        self.opened.insert(Arc::clone(name), Opened { session, object, key: Arc::clone(key) });
        Ok(signature)
    }

    fn is_resting(&self, name: &str, now: Instant) -> bool {
        self.resting.get(name).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use cryptoki::context::Function;

    use super::*;
    use crate::node::signer::Pin;

    #[test]
    fn a_pin_that_was_wrong_is_not_tried_again_until_somebody_insists() {
        let module = |token: &str, pin: &str| Module {
            path: PathBuf::new(),
            token: token.to_owned(),
            label: String::new(),
            pin: Pin::read(pin.into()).unwrap(),
        };
        let (pins, mut tries) = (RefusedPins::default(), 0);
        let mut try_pin = |module: &Module, insists, answer: Result<(), RvError>| {
            let result = pins.try_pin(module, insists, |_| {
                tries += 1;
                answer.map_err(|error| ModuleError::Pkcs11(error, Function::Login))
            });
            (result, tries)
        };
        let wrong = module("edge", "1");
        assert_eq!(try_pin(&wrong, false, Err(RvError::DeviceError)).1, 1);
        assert_eq!(try_pin(&wrong, false, Err(RvError::PinIncorrect)), (Err(Trouble::Pin), 2));
        for _ in 0..10 {
            assert_eq!(try_pin(&module("edge", "1"), false, Ok(())), (Err(Trouble::Pin), 2), "of another key too");
        }
        assert_eq!(try_pin(&module("other", "1"), false, Ok(())), (Ok(()), 3));
        assert_eq!(try_pin(&module("edge", "2"), false, Ok(())), (Ok(()), 4), "another PIN");
        assert_eq!(try_pin(&wrong, false, Err(RvError::PinLocked)), (Err(Trouble::Pin), 5));
        // A reload asks once more.
        assert_eq!(try_pin(&wrong, true, Err(RvError::UserAlreadyLoggedIn)), (Ok(()), 6));
        assert_eq!(try_pin(&wrong, false, Ok(())), (Ok(()), 7));
    }
}
