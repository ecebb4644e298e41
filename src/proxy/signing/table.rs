//! `[[signing_table]]`: which signer speaks for a number. An exact number wins over the range around it, a narrower range over a wider
//! one, any of these over prefixes, a longer prefix over a shorter one. The same intervals as in prefix tables: 12 octets for each end.

use std::cmp::Reverse;
use std::sync::Arc;

use super::RichProfile;
use crate::passport::ppt::shaken::Attestation;
use crate::proxy::route::prefix::{self, Index, Interval, Prefix};
use crate::stir::IdentitySource;

/// Most digits of a number (E.164).
const MAX_DIGITS: usize = 15;

/// What holds for numbers of the table.
#[derive(Clone, Debug, Default)]
pub struct SigningRow {
    /// Index into [`Config::signers`](crate::proxy::Config::signers); `None`: calls of these numbers are not signed.
    pub signer: Option<usize>,
    /// `attest` instead of the signer's own.
    pub attestation: Option<Attestation>,
    /// Rich call data instead of the signer's own.
    pub rich: Option<Arc<RichProfile>>,
}

/// Which numbers a row of the file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// One number, or those from one to another of the same length.
    Range {
        /// Key of the first.
        first: u64,
        /// Key of the last.
        last: u64,
    },
    /// All that begin so.
    Prefix(Prefix),
}

impl Numbers {
    /// `+4930123456`, `+49301000-+49301999` or `+4930*`; the plus signs may be left out.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |text: &str| {
            let digits = text.trim().strip_prefix('+').unwrap_or(text.trim()).to_owned();
            ((1..=MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
        };
        if let Some(start) = text.strip_suffix('*') {
            return Prefix::new(&digits(start)?, 0, 0).map(Self::Prefix);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (digits(first)?, digits(last)?);
        let is_range = first.len() == last.len() && first <= last;
        is_range.then(|| Self::Range { first: exact_key(&first), last: exact_key(&last) })
    }
}

/// Numbers of one length lie side by side: their length in the highest four bits, then their digits.
fn exact_key(digits: &str) -> u64 {
    let length = digits.len().min(MAX_DIGITS) as u64;
    length << 60 | prefix::key(digits) >> 4
}

/// A row, and where it stands in its file.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its numbers.
    pub numbers: Numbers,
    /// Place of what it says among the rows.
    pub row: u32,
    /// Line, from 1.
    pub line: u32,
}

/// Two rows that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collision {
    /// The same numbers twice.
    Twice {
        /// Line of the first.
        first: u32,
        /// Line of the second.
        second: u32,
    },
    /// Ranges that overlap, and none lies in the other.
    Crossing {
        /// Line of one.
        first: u32,
        /// Line of the other.
        second: u32,
    },
}

/// A table of numbers and their signers.
#[derive(Clone, Debug)]
pub struct SigningTable {
    /// The operator's name for it.
    pub name: String,
    /// Which field has the number that is looked for.
    pub source: IdentitySource,
    rows: Vec<SigningRow>,
    numbers: Arc<Index>,
    prefixes: Arc<Index>,
}

impl SigningTable {
    /// A table of these rows, in any order.
    ///
    /// # Errors
    /// Rows of which it is not certain which one wins.
    pub fn new(
        name: String,
        source: IdentitySource,
        rows: Vec<SigningRow>,
        entries: Vec<Entry>,
    ) -> Result<Self, Collision> {
        let (mut numbers, mut prefixes) = (Vec::new(), Vec::new());
        for Entry { numbers: which, row: value, line } in entries {
            match which {
                Numbers::Range { first, last } => numbers.push(Interval { first, last, value, line }),
                Numbers::Prefix(prefix) => prefixes.push(Interval { value, line, ..prefix.interval() }),
            }
        }
        let index = |mut intervals: Vec<Interval>| {
            intervals.sort_unstable_by_key(|interval| (interval.first, Reverse(interval.last)));
            check(&intervals)?;
            Ok(Arc::new(Index::new(intervals.into_iter())))
        };
        Ok(Self { name, source, rows, numbers: index(numbers)?, prefixes: index(prefixes)? })
    }

    /// Places of all signers in it.
    pub fn signers(&self) -> Vec<usize> {
        self.rows.iter().filter_map(|row| row.signer).collect()
    }

    /// The row of a number in canonical form.
    pub fn find(&self, number: &str) -> Option<&SigningRow> {
        let value = self.numbers.value_of(exact_key(number));
        let exact = self.rows.get(value as usize);
        exact.or_else(|| self.rows.get(self.prefixes.value_of(prefix::key(number)) as usize))
    }

    /// Rows of the file.
    pub fn len(&self) -> usize {
        self.numbers.len() + self.prefixes.len()
    }

    /// It has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets of memory it holds.
    pub fn memory(&self) -> usize {
        self.numbers.memory() + self.prefixes.memory() + self.rows.capacity() * size_of::<SigningRow>()
    }
}

/// Neighbours in sorted order: equal, or the second half in the first.
fn check(intervals: &[Interval]) -> Result<(), Collision> {
    let mut open: Vec<&Interval> = Vec::new();
    for interval in intervals {
        while open.last().is_some_and(|outer| outer.last < interval.first) {
            open.pop();
        }
        if let Some(outer) = open.last() {
            let (first, second) = (outer.line.min(interval.line), outer.line.max(interval.line));
            if (outer.first, outer.last) == (interval.first, interval.last) {
                return Err(Collision::Twice { first, second });
            }
            if outer.last < interval.last {
                return Err(Collision::Crossing { first, second });
            }
        }
        open.push(interval);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(rows: &[&str]) -> Result<SigningTable, Collision> {
        let said = (0..rows.len()).map(|n| SigningRow { signer: Some(n), ..SigningRow::default() }).collect();
        let entries = rows.iter().zip(0..).map(|(text, n)| {
            let numbers = Numbers::parse(text).unwrap_or_else(|| panic!("{text}"));
            Entry { numbers, row: n, line: n + 2 }
        });
        SigningTable::new("t".into(), IdentitySource::From, said, entries.collect())
    }

    fn found(table: &SigningTable, number: &str) -> Option<usize> {
        table.find(number).and_then(|row| row.signer)
    }

    #[test]
    fn exact_before_range_before_prefix() {
        let table =
            table(&["+4930*", "4930123-4930199", "+4930150", "+49*", "+49301500-+49301599", "1000-1999", "100*"])
                .unwrap();
        for (number, wanted) in [
            ("4930150", Some(2)),
            ("4930151", Some(1)),
            ("4930123", Some(1)),
            ("4930199", Some(1)),
            ("4930200", Some(0)),
            ("4930122", Some(0)),
            ("49301500", Some(4)), // a longer number is in no range of shorter ones
            ("49301230", Some(0)),
            ("4989", Some(3)),
            ("44", None),
            ("", None),
            ("1001", Some(5)),
            ("10010", Some(6)),
            ("2000", None),
            ("999999999999999", None),
        ] {
            assert_eq!(found(&table, number), wanted, "{number}");
        }
    }

    #[test]
    fn rows_that_leave_it_open_who_signs_are_a_mistake() {
        assert_eq!(table(&["1-5", "7", "+7"]).unwrap_err(), Collision::Twice { first: 3, second: 4 });
        assert_eq!(table(&["49*", "+49*"]).unwrap_err(), Collision::Twice { first: 2, second: 3 });
        assert_eq!(table(&["10-50", "40-60"]).unwrap_err(), Collision::Crossing { first: 2, second: 3 });
        assert!(table(&["10-50", "10-20", "15-20", "20", "050-060"]).is_ok());
        for bad in ["", "*", "+", "12a", "50-10", "10-100", "1234567890123456", "*1", "1-2-3"] {
            assert_eq!(Numbers::parse(bad), None, "{bad}");
        }
    }

    /// Part 1 of the policy wants a million numbers; what they cost in memory is printed.
    #[test]
    fn a_million_numbers_fit_and_are_found() {
        let numbers: Vec<u64> = (0..1_000_000u64).map(|n| 10_000_000_000 + n * 79_193 % 79_999_999_999).collect();
        let entries = numbers.iter().zip(0..).map(|(number, line)| Entry {
            numbers: Numbers::parse(&format!("+{number}")).unwrap(),
            row: line % 3,
            line,
        });
        let rows = (0..3).map(|n| SigningRow { signer: Some(n), ..SigningRow::default() }).collect();
        let table = SigningTable::new("t".into(), IdentitySource::From, rows, entries.collect()).unwrap();
        for (number, n) in numbers.iter().zip(0..) {
            assert_eq!(found(&table, &number.to_string()), Some(n % 3));
            assert_eq!(found(&table, &format!("{number}0")), None);
        }
        eprintln!("{} numbers: {} octets", table.len(), table.memory());
        assert!(table.memory() < 32 << 20, "{}", table.memory());
    }

    proptest! {
        /// Against the plain reading: the narrowest range, else the longest prefix.
        #[test]
        fn the_table_says_what_a_walk_over_all_rows_says(
            starts in proptest::collection::btree_map(0u64..400, 1u64..30, 0..20),
            prefixes in proptest::collection::btree_set("[0-4]{1,3}", 0..10),
            numbers in proptest::collection::vec("[0-4]{1,4}", 1..40),
        ) {
            let mut rows: Vec<String> = starts.iter().map(|(a, n)| format!("{a:03}-{:03}", (a + n).min(999))).collect();
            rows.extend(prefixes.iter().map(|p| format!("{p}*")));
            let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
            let Ok(table) = table(&rows) else { return Ok(()) };
            for number in &numbers {
                let range = rows.iter().enumerate().filter_map(|(n, row)| {
                    let (a, b) = row.split_once('-')?;
                    (number.len() == 3 && (a..=b).contains(&number.as_str())).then(|| (b.parse::<u32>().unwrap() - a.parse::<u32>().unwrap(), n))
                }).min().map(|(_, n)| n);
                let prefix = || rows.iter().enumerate().filter_map(|(n, row)| {
                    let p = row.strip_suffix('*')?;
                    number.starts_with(p).then_some((p.len(), n))
                }).max().map(|(_, n)| n);
                prop_assert_eq!(found(&table, number), range.or_else(prefix), "{} in {:?}", number, rows);
            }
        }
    }
}
