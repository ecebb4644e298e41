//! TNAuthLists that certificates name by reference (RFC 8226 section 10.1), as far as they have been fetched.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::tn_auth_list::TnAuthList;

/// A list and for how long it holds.
#[derive(Debug)]
pub struct ReferencedList {
    /// The list.
    pub list: TnAuthList,
    /// First second at which it is to be had anew, Unix seconds: what rests on it is not kept longer (RFC 9060 section 12).
    pub fresh_until: i64,
}

/// The lists at hand, by URI: an immutable snapshot, cheap to clone. What is not in it gives no authority.
#[derive(Clone, Debug, Default)]
pub struct ReferencedLists {
    by_uri: Arc<BTreeMap<Box<str>, Arc<ReferencedList>>>,
}

impl ReferencedLists {
    /// The same with one list more, or in another's place.
    #[must_use]
    pub fn with(&self, uri: &str, list: Arc<ReferencedList>) -> Self {
        let mut by_uri = BTreeMap::clone(&self.by_uri);
        by_uri.insert(uri.into(), list);
        Self { by_uri: by_uri.into() }
    }

    /// The same without one.
    #[must_use]
    pub fn without(&self, uri: &str) -> Self {
        let mut by_uri = BTreeMap::clone(&self.by_uri);
        by_uri.remove(uri);
        Self { by_uri: by_uri.into() }
    }

    /// The list of a URI.
    #[must_use]
    pub fn get(&self, uri: &str) -> Option<&Arc<ReferencedList>> {
        self.by_uri.get(uri)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<ReferencedList>)> {
        self.by_uri.iter().map(|(uri, list)| (&**uri, list))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_uri.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_uri.is_empty()
    }
}
