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

    /// The number of a trunk; it has only one, ever.
    pub fn number(&self, name: &str) -> Option<TrunkId> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = names.iter().position(|other| !other.is_empty() && **other == *name)?;
        u16::try_from(number).ok().map(TrunkId)
    }
}

/// The names as one worker knows them: it asks for each once, so that the lock is not on the way of messages.
pub struct KnownNames {
    all: TrunkNames,
    /// By number; empty where it has not asked yet.
    known: Vec<Arc<str>>,
}

impl KnownNames {
    /// Knows none yet.
    pub fn new(all: TrunkNames) -> Self {
        Self { all, known: Vec::new() }
    }

    /// As [`TrunkNames::of`].
    pub fn of(&mut self, trunk: TrunkId) -> &str {
        let number = usize::from(trunk.0);
        if number >= self.known.len() {
            self.known.resize(number + 1, Arc::default());
        }
        let Some(name) = self.known.get_mut(number) else { return "" };
        if name.is_empty() {
            *name = self.all.of(trunk);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<Trunk> {
        names.iter().map(|name| Trunk { name: (*name).to_owned(), ..Trunk::default() }).collect()
    }

    #[test]
    fn a_worker_learns_names_that_a_reload_brings_and_keeps_those_of_trunks_that_are_gone() {
        let names = TrunkNames::default();
        let mut known = KnownNames::new(names.clone());
        names.note(&named(&["a", "b"]));
        assert_eq!((known.of(TrunkId(1)).to_owned(), known.of(TrunkId(2))), ("b".to_owned(), ""));
        names.note(&named(&["a", "", "c"]));
        assert_eq!((known.of(TrunkId(1)).to_owned(), known.of(TrunkId(2))), ("b".to_owned(), "c"));
    }
}
