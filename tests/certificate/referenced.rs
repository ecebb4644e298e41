//! TNAuthLists by reference (certificates dossier section 2 items 10 to 12).

use std::sync::Arc;

use vesperd::cert::{PathError, ReferencedList, TnAuthList, TnEntry, TrustStore};

use super::support::{Hierarchy, NOW, by_reference, ca_params, leaf_params, one, range, tn_extension};

const URI: &str = "https://lists.example/1";

fn with_list(store: &TrustStore, entries: Vec<TnEntry>, fresh_until: i64) -> TrustStore {
    let mut store = store.clone();
    let list = ReferencedList { list: TnAuthList::new(entries).unwrap(), fresh_until };
    store.referenced = store.referenced.with(URI, Arc::new(list));
    store
}

#[test]
fn a_leafs_list_by_reference_counts_as_if_by_value() {
    let hierarchy = Hierarchy::new();
    let mut params = leaf_params();
    params.custom_extensions.push(by_reference(URI));
    let leaf = hierarchy.intermediate.issue(params);
    let chain = hierarchy.chain(&leaf);
    let without = hierarchy.store.assess(&chain).unwrap();
    assert!(without.leaf.tn_auth_list().is_none(), "a list that is not at hand gives no authority");
    assert_eq!(without.missing_lists(), [URI]);
    let store = with_list(&hierarchy.store, vec![one("12025550100")], NOW + 100);
    let verdict = store.assess(&chain).unwrap();
    let list = verdict.leaf.tn_auth_list().unwrap().unwrap();
    assert!(list.covers("12025550100") && !list.covers("12025550101"));
    assert_eq!((verdict.holds_until(), verdict.missing_lists().len()), (NOW + 100, 0), "RFC 9060 section 12");
}

#[test]
fn a_cas_list_by_reference_limits_the_path() {
    let mut ca = ca_params("Intermediate CA");
    ca.custom_extensions.push(by_reference(URI));
    let hierarchy = Hierarchy::with(ca);
    let mut params = leaf_params();
    params.custom_extensions.push(tn_extension(&[one("12025550105")]));
    let leaf = hierarchy.intermediate.issue(params);
    let chain = hierarchy.chain(&leaf);
    let without = hierarchy.store.assess(&chain).unwrap();
    assert_eq!(without.path.as_ref().unwrap_err(), &PathError::ScopeByReference { index: 1 });
    assert_eq!(without.missing_lists(), [URI]);
    let holds = with_list(&hierarchy.store, vec![range("12025550100", 10)], NOW);
    assert!(holds.assess(&chain).unwrap().path.is_ok());
    let narrow = with_list(&hierarchy.store, vec![range("12025550100", 5)], NOW);
    assert!(matches!(narrow.assess(&chain).unwrap().path, Err(PathError::Scope { index: 0, .. })));
}

/// Where delegation is asked for, only the list says whether the leaf is delegated: it has to be had first.
#[test]
fn a_leaf_under_no_delegating_ca_says_what_list_it_lacks() {
    let hierarchy = Hierarchy::new();
    let mut params = leaf_params();
    params.custom_extensions.push(by_reference(URI));
    let leaf = hierarchy.intermediate.issue(params);
    let mut store = hierarchy.store.clone();
    store.policy.allow_direct_ca = false;
    let verdict = store.assess(&hierarchy.chain(&leaf)).unwrap();
    assert_eq!(verdict.path.as_ref().unwrap_err(), &PathError::NotDelegated);
    assert_eq!(verdict.missing_lists(), [URI]);
    // Of a delegating CA, the leaf is good as soon as its list is there.
    let mut ca = ca_params("Intermediate CA");
    ca.custom_extensions.push(tn_extension(&[range("12025550100", 10)]));
    let hierarchy = Hierarchy::with(ca);
    let mut params = leaf_params();
    params.custom_extensions.push(by_reference(URI));
    let leaf = hierarchy.intermediate.issue(params);
    let mut store = hierarchy.store.clone();
    store.policy.allow_direct_ca = false;
    let without = store.assess(&hierarchy.chain(&leaf)).unwrap();
    assert_eq!(without.path.as_ref().unwrap_err(), &PathError::NotDelegated);
    assert_eq!(without.missing_lists(), [URI]);
    let store = with_list(&store, vec![one("12025550105")], NOW + 100);
    assert!(store.assess(&hierarchy.chain(&leaf)).unwrap().path.is_ok());
}

#[test]
fn nobody_is_asked_on_a_strangers_behalf() {
    let (hierarchy, stranger) = (Hierarchy::new(), Hierarchy::new());
    let mut params = leaf_params();
    params.custom_extensions.push(by_reference(URI));
    let leaf = stranger.intermediate.issue(params);
    let verdict = hierarchy.store.assess(&stranger.chain(&leaf)).unwrap();
    assert!(verdict.path.is_err() && verdict.missing_lists().is_empty());
}
