//! Names of trunks by their number, for whoever tells of calls. A number keeps its name for the life of the process (see `reload`).

use std::sync::{Arc, Mutex, PoisonError};

use crate::proxy::{Trunk, TrunkId};

/// The names; a clone is the same list.
#[derive(Clone, Debug, Default)]
pub struct TrunkNames(Arc<Mutex<Vec<Arc<str>>>>);

impl TrunkNames {
    /// Notes the names of a configuration. A trunk that is no more keeps its name: calls may still run there.
    pub fn note(&self, trunks: &[Trunk]) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = trunks.len().max(names.len());
        names.resize(count, Arc::default());
        for (name, trunk) in names.iter_mut().zip(trunks).filter(|(_, trunk)| !trunk.name.is_empty()) {
            *name = trunk.name.as_str().into();
        }
    }

    /// The name of a trunk; empty for a number that nobody has.
    pub fn of(&self, trunk: TrunkId) -> Arc<str> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(usize::from(trunk.0)).cloned().unwrap_or_default()
    }

    /// The number of a trunk.
    pub fn number(&self, name: &str) -> Option<TrunkId> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = names.iter().position(|other| **other == *name)?;
        u16::try_from(number).ok().map(TrunkId)
    }
}
