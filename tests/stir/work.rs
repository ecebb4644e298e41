//! What a hostile request may cost: counted in signature checks, chains and certificates, not in time.
use super::bombs;
use super::pki::*;
use super::support::verifier;
use vesperd::stir::verification::{Outcome, Policy, Work};

#[test]
fn header_bombs_cost_a_bounded_amount_of_work() {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(shaken_params());
    let work_of = |octets: &[u8]| {
        let mut verifier = verifier();
        let outcome =
            bombs::wide(octets, |message| verifier.verify(NOW, &Policy::shaken(), &hierarchy.store, None, message));
        let Outcome::Done(verdict) = outcome else { panic!("needs something") };
        (verdict.is_valid(), verifier.work())
    };
    let once = Work { signatures: 1, chains: 1, certificates: 2 };
    assert_eq!(work_of(&bombs::good(&hierarchy, &leaf)), (true, once));
    let nothing = Work::default();
    // At most `max_identities` fields are looked at, and of each at most what a good one takes.
    for (name, octets) in bombs::all(&hierarchy, &leaf) {
        let expected = match name {
            "1000 fields of strangers" => Work { signatures: 16, chains: 16, certificates: 32 },
            "1000 fields of one token" => Work { signatures: 16, ..once },
            "as many certificates as are read" => Work { certificates: 6, ..once },
            "1000 fields that are no tokens"
            | "1 MB of x5c"
            | "64 certificates"
            | "deep JSON"
            | "broad JSON"
            | "tokens in tokens" => nothing,
            other => panic!("{other}"),
        };
        let (is_valid, work) = work_of(&octets);
        assert_eq!(work, expected, "{name}");
        assert_eq!(is_valid, name == "1000 fields of one token", "{name}");
    }
}
