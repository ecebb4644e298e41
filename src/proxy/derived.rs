//! What is worked out from other settings once, and not for each message.

use std::sync::OnceLock;

/// Worked out when it is first asked for. What it comes from must not change any more then; a copy is worked out anew.
#[derive(Debug)]
pub struct Derived<T>(OnceLock<T>);

impl<T> Default for Derived<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Clone for Derived<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T> Derived<T> {
    /// It, worked out by `make` the first time.
    pub(super) fn get(&self, make: impl FnOnce() -> T) -> &T {
        self.0.get_or_init(make)
    }
}
