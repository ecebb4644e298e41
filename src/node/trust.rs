//! The trust store in force: what the configuration says, and what has been learned since (lists that were fetched, CRLs). Whoever learns
//! something puts it in here; all workers go on with a new snapshot then. Verdicts made before are made anew where that could change them.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use super::metrics::Published;
use super::worker::Orders;
use crate::cert::{AnchorList, LogList, ReferencedLists, Revocations, TrustStore};
use crate::proxy::Snapshot;

/// What is learned while running.
#[derive(Clone, Default)]
pub(super) struct Learned {
    /// The STI-PA's list, while it counts.
    pub anchors: Option<Arc<AnchorList>>,
    /// Transparency logs from a list that is fetched.
    pub logs: Option<Arc<LogList>>,
    pub revocations: Revocations,
    pub referenced: ReferencedLists,
}

/// Whether verdicts made before still hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdicts {
    Hold,
    AreMadeAnew,
}

struct State {
    configured: TrustStore,
    learned: Learned,
    current: Arc<TrustStore>,
}

impl State {
    fn compose(&mut self, epoch: u64) {
        let mut trust = self.configured.clone();
        if let Some(list) = &self.learned.anchors {
            trust.anchors.extend(&list.anchors);
        }
        if let Some(logs) = &self.learned.logs {
            trust.logs.extend(logs);
        }
        trust.revocations = self.learned.revocations.clone();
        trust.referenced = self.learned.referenced.clone();
        trust.epoch = epoch;
        self.current = trust.into();
    }
}

/// The store and whoever uses it.
pub struct Desk {
    state: Mutex<State>,
    users: OnceLock<(watch::Sender<Orders>, Arc<Published>)>,
}

impl Desk {
    /// Nothing learned yet.
    pub fn new(configured: TrustStore) -> Arc<Self> {
        let current = Arc::new(configured.clone());
        let state = Mutex::new(State { configured, learned: Learned::default(), current });
        Arc::new(Self { state, users: OnceLock::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store in force.
    pub fn current(&self) -> Arc<TrustStore> {
        Arc::clone(&self.lock().current)
    }

    /// From now on these get what is learned.
    pub(super) fn attach(&self, orders: watch::Sender<Orders>, published: Arc<Published>) {
        let state = self.lock(); // nothing may be learned in between
        let current = Arc::clone(&state.current);
        let users = (orders, published);
        hand_on(&users, &current);
        let _ = self.users.set(users); // once, at the start
    }

    /// What has been learned.
    pub(super) fn learned(&self) -> Learned {
        self.lock().learned.clone()
    }

    /// Learns something.
    pub(super) fn learn(&self, verdicts: Verdicts, change: impl FnOnce(&mut Learned)) {
        let mut state = self.lock();
        change(&mut state.learned);
        let epoch = state.current.epoch + u64::from(verdicts == Verdicts::AreMadeAnew);
        state.compose(epoch);
        if let Some(users) = self.users.get() {
            hand_on(users, &state.current);
        }
    }

    /// Another configuration: `publish` gets the store to go on with and hands it to the workers.
    pub(super) fn reconfigure(&self, configured: TrustStore, publish: impl FnOnce(TrustStore)) {
        let mut state = self.lock();
        state.configured = configured;
        let epoch = state.current.epoch + 1;
        state.compose(epoch);
        publish(TrustStore::clone(&state.current));
    }
}

fn hand_on((orders, published): &(watch::Sender<Orders>, Arc<Published>), trust: &TrustStore) {
    orders.send_modify(|orders| {
        let old = &orders.snapshot;
        // Tables are shared and states of members live behind pointers: the copy is small, and not a worker's work.
        let snapshot = Snapshot { config: old.config.clone(), trust: trust.clone(), replay: old.replay.clone() };
        orders.snapshot = Arc::new(snapshot);
        published.set_snapshot(&orders.snapshot);
    });
}
