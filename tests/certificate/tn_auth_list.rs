//! TNAuthList (RFC 8226 section 9): worked encodings, negative cases, scope arithmetic.

use proptest::prelude::*;
use vesperd::cert::{DerError, Encompassed, TnAuthList, TnAuthListError, TnEntry};

use super::support::{hex, one, range, spc, tlv};

fn list(entries: &[TnEntry]) -> TnAuthList {
    TnAuthList::new(entries.to_vec()).unwrap()
}

fn read(text: &str) -> Result<TnAuthList, TnAuthListError> {
    TnAuthList::from_der(&hex(text))
}

#[test]
fn worked_encodings_read_and_write_octet_for_octet() {
    for (text, entries) in [
        ("3008a006160431323334", vec![spc("1234")]),
        ("300fa20d160b3132303235353530313233", vec![one("12025550123")]),
        ("300fa20d160b3132303135353530313030", vec![one("12015550100")]),
        ("3014a1123010160b3132303235353530313030020164", vec![range("12025550100", 100)]),
        ("3015a1133011160b3132303235353531303030020203e8", vec![range("12025551000", 1000)]),
        (
            "302ba00616043730394aa20d160b3132303235353530313233a1123010160b3132303235353530313030020164",
            vec![spc("709J"), one("12025550123"), range("12025550100", 100)],
        ),
    ] {
        let read = read(text).unwrap();
        assert_eq!(read.entries(), entries, "{text}");
        assert_eq!(read.to_der(), hex(text));
        assert_eq!(list(&entries), read);
    }
}

#[test]
fn negative_cases_are_refused_for_their_own_reason() {
    use TnAuthListError as E;
    let entry = |error| E::Entry { entry: 0, error };
    let unexpected = |expected, found| entry(DerError::UnexpectedTag { expected, found });
    let cases = [
        ("IMPLICIT tag", "3006800431323334", E::UnknownChoice { entry: 0, tag: 0x80 }),
        ("empty SEQUENCE", "3000", E::Empty),
        ("count 1", "3014a1123010160b3132303235353530313030020101", E::Count { entry: 0 }),
        ("count 0", "3014a1123010160b3132303235353530313030020100", E::Count { entry: 0 }),
        ("negative count", "3014a1123010160b31323032353535303130300201ff", E::Count { entry: 0 }),
        ("padded count", "3015a1133011160b313230323535353031303002020064", entry(DerError::IntegerNotMinimal)),
        ("count of nine octets", "301ca11a3018160b31323032353535303130300209010000000000000000", E::Count { entry: 0 }),
        ("count above 10^15", "301aa1183016160b31323032353535303130300207038d7ea4c68001", E::Count { entry: 0 }),
        ("UTF8String", "300fa20d0c0b3132303235353530313233", unexpected(0x16, 0x0c)),
        ("PrintableString in the SEQUENCE", "3006130431323334", E::UnknownChoice { entry: 0, tag: 0x13 }),
        ("16 digits", "3014a212161031323032353535303132333435363738", E::Number { entry: 0 }),
        ("no digits", "3004a2021600", E::Number { entry: 0 }),
        ("leading +", "3010a20e160c2b3132303235353530313233", E::Number { entry: 0 }),
        ("start 1* with count", "300ba10930071602312a020105", E::RangeStart { entry: 0 }),
        ("start 10 count 91", "300ba109300716023130 02015b", E::RangeGrows { entry: 0 }),
        ("indefinite length", "3080a0061604313233340000", E::Der(DerError::IndefiniteLength)),
        ("trailing octets", "3008a00616043132333400", E::Der(DerError::TrailingBytes)),
        ("length past the end", "3008a006160531323334", entry(DerError::Truncated)),
        ("two strings in one choice", "300aa0081602313216023334", entry(DerError::TrailingBytes)),
        ("empty code", "3004a0021600", E::ServiceProviderCode { entry: 0 }),
        ("8-bit code", "3005a00316 01e9", E::ServiceProviderCode { entry: 0 }),
        ("not a SEQUENCE", "16043132", E::Der(DerError::Truncated)),
        ("nothing", "", E::Der(DerError::Truncated)),
    ];
    for (what, text, error) in cases {
        assert_eq!(read(&text.replace(' ', "")).unwrap_err(), error, "{what}");
    }
}

#[test]
fn a_range_may_be_followed_by_unknown_elements() {
    // The extension marker of TelephoneNumberRange.
    let read = read("3017a1153013160b3132303235353530313030020164 0101ff".replace(' ', "").as_str()).unwrap();
    assert_eq!(read.entries(), [range("12025550100", 100)]);
}

#[test]
fn a_range_to_the_last_number_of_its_length_is_read_but_never_issued() {
    // start 90 count 10: 90 + 10 = 10^2.
    let read = read("300ba109300716023930 02010a".replace(' ', "").as_str()).unwrap();
    assert!(read.covers("99") && !read.covers("100"));
    assert!(read.touches_digit_limit());
    assert_eq!(TnAuthList::new(vec![range("90", 10)]), Err(TnAuthListError::RangeGrows { entry: 0 }));
    assert!(!list(&[range("90", 9)]).touches_digit_limit());
}

#[test]
fn size_is_bounded() {
    let entry = tlv(0xa2, &tlv(0x16, b"1"));
    let mut content = entry.repeat(TnAuthList::MAX_ENTRIES + 1);
    let wrap = |content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[0x30, 0x83][..], &length[1..], content].concat()
    };
    if content.len() > 0xffff {
        // 10,001 entries of 5 octets stay below 64 KiB.
        panic!("the case does not test the number of entries");
    }
    assert_eq!(TnAuthList::from_der(&tlv(0x30, &content)), Err(TnAuthListError::TooManyEntries));
    content.truncate(entry.len() * TnAuthList::MAX_ENTRIES);
    assert!(TnAuthList::from_der(&tlv(0x30, &content)).unwrap().covers("1"));
    let long = wrap(&tlv(0xa0, &tlv(0x16, &[b'1'; 60])).repeat(1100));
    assert_eq!(TnAuthList::from_der(&long), Err(TnAuthListError::TooLong { octets: long.len() }));
}

#[test]
fn covers_is_exact_at_every_edge() {
    let list =
        list(&[spc("709J"), one("12025550123"), range("12025550200", 100), one("0123"), one("*67#"), one("911")]);
    for (tn, covered) in [
        ("12025550123", true),
        ("12025550122", false),
        ("12025550124", false),
        ("12025550199", false),
        ("12025550200", true),
        ("12025550299", true),
        ("12025550300", false),
        ("0123", true),
        ("123", false),
        ("00123", false),
        ("*67#", true),
        ("*67", false),
        ("911", true),
        ("709J", false),
        ("+12025550123", false),
        ("", false),
        ("1202555012300000", false),
    ] {
        assert_eq!(list.covers(tn), covered, "{tn}");
    }
    assert!(list.has_tn_entry());
    assert_eq!(list.spcs().collect::<Vec<_>>(), ["709J"]);
    assert!(!self::list(&[spc("1234")]).has_tn_entry());
}

#[test]
fn encompassing_joins_abutting_and_overlapping_ranges() {
    let parent = list(&[range("12025550100", 50), range("12025550150", 50), range("12025550190", 20), spc("709J")]);
    assert_eq!(parent.encompasses(&list(&[range("12025550100", 110)])), Ok(Encompassed::Proven));
    assert_eq!(parent.encompasses(&parent), Ok(Encompassed::Proven));
    assert_eq!(parent.encompasses(&list(&[one("12025550209"), spc("709J")])), Ok(Encompassed::Proven));
    // One past the end: only the SPC could hold it.
    assert_eq!(parent.encompasses(&list(&[range("12025550100", 111)])), Ok(Encompassed::UnprovenSpc));
    let numbers = list(&[range("12025550100", 110)]);
    assert_eq!(numbers.encompasses(&list(&[one("12025550210")])).unwrap_err().entry, one("12025550210"));
    assert_eq!(numbers.encompasses(&list(&[spc("709J")])).unwrap_err().entry, spc("709J"));
    // A code of the child is held by the same code only.
    assert_eq!(parent.encompasses(&list(&[spc("1234")])).unwrap_err().entry, spc("1234"));
    assert_eq!(list(&[spc("709J")]).encompasses(&list(&[one("911")])), Ok(Encompassed::UnprovenSpc));
}

/// Entries in a small space, so that they meet.
fn small_entries() -> impl Strategy<Value = Vec<TnEntry>> {
    let entry = prop_oneof![
        (0u32..1000).prop_map(|n| one(&format!("{n:03}"))),
        (0u32..900, 2u64..80).prop_map(|(n, count)| range(&format!("{n:03}"), count)),
        (0u32..90, 2u64..9).prop_map(|(n, count)| range(&format!("{n:02}"), count)),
        "[0-9*#]{1,3}".prop_map(|text| one(&text)),
    ];
    prop::collection::vec(entry, 1..12)
}

fn naive_covers(entries: &[TnEntry], tn: &str) -> bool {
    entries.iter().any(|entry| match entry {
        TnEntry::Spc(_) => false,
        TnEntry::One(number) => number == tn,
        TnEntry::Range { start, count } => {
            let first: u64 = start.parse().unwrap();
            (first..first + count).any(|n| format!("{n:0width$}", width = start.len()) == tn)
        }
    })
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_naive_reading(entries in small_entries(), n in 0u32..1000) {
        let list = TnAuthList::new(entries.clone()).unwrap();
        for tn in [format!("{n:03}"), format!("{:02}", n % 100), (n % 10).to_string(), format!("{n:04}")] {
            prop_assert_eq!(list.covers(&tn), naive_covers(&entries, &tn), "{}", tn);
        }
    }

    #[test]
    fn encompassing_means_every_number_is_covered(parent in small_entries(), child in small_entries()) {
        let (parent, held) = (TnAuthList::new(parent).unwrap(), TnAuthList::new(child.clone()).unwrap());
        let every = child.iter().all(|entry| match entry {
            TnEntry::Range { start, count } => {
                let first: u64 = start.parse().unwrap();
                (first..first + count).all(|n| parent.covers(&format!("{n:0width$}", width = start.len())))
            }
            TnEntry::One(number) => parent.covers(number),
            TnEntry::Spc(_) => false,
        });
        prop_assert_eq!(parent.encompasses(&held).is_ok(), every);
    }

    #[test]
    fn what_is_written_is_read_back(entries in small_entries()) {
        let list = TnAuthList::new(entries).unwrap();
        prop_assert_eq!(TnAuthList::from_der(&list.to_der()).unwrap(), list);
    }

    #[test]
    fn any_octets_are_read_or_refused(octets in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = TnAuthList::from_der(&octets);
    }
}
