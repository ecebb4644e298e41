//! Tables of number prefixes: longest match over millions of them, without allocation (KR-1 of the dossier's section 2: mtree, lcr).
//!
//! A prefix covers an interval of numbers, so the table is the ends of these intervals, sorted, and which entry holds from each one on:
//! finding the longest prefix is finding the nearest end at or below the number. 12 octets for each end, at most two ends for each
//! prefix, and no pointers. An index over the leading digits leaves a few ends to be searched, which lie side by side: a trie would be
//! one jump through memory for each digit.

use std::sync::Arc;

use crate::proxy::TrunkId;

/// Digits of a prefix that count: so many fit a key. E.164 numbers have 15.
pub const MAX_DIGITS: usize = 16;

/// Bits of the widest index over leading digits: a million slots.
const MAX_WIDTH: u32 = 20;

/// Nothing holds from here on.
const NONE: u32 = u32::MAX;

/// What a prefix says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct PrefixRoute {
    /// Where its numbers go, in the order of trial.
    pub to: Vec<TrunkId>,
    /// Leading digits that go.
    pub strip: u8,
    /// What comes in their place.
    pub add: Box<str>,
}

/// A table of prefixes.
#[derive(Clone, Debug)]
pub struct PrefixTable {
    /// The operator's name for it.
    pub name: String,
    /// What the prefixes say; many say the same.
    pub routes: Vec<PrefixRoute>,
    index: Arc<Index>,
}

/// Intervals of keys, of which an inner one wins over the one around it: shared by all who hold the table.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Index {
    /// Where an interval begins, or ends and another goes on.
    starts: Vec<u64>,
    /// Which of the routes holds from there on.
    values: Vec<u32>,
    /// Positions in `starts` by the leading digits behind those that all prefixes have in common.
    leading: Vec<u32>,
    /// Bits that all prefixes have in common.
    common: u32,
    /// Bits by which `leading` is asked.
    width: u32,
    intervals: usize,
}

/// A prefix of a table that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    key: u64,
    len: u8,
    /// Where it stands in its file.
    pub line: u32,
    /// Place of what it says among the routes.
    pub route: u32,
}

impl Prefix {
    /// From its digits (`*` and `#` too), at least one, at most [`MAX_DIGITS`].
    pub fn new(digits: &str, route: u32, line: u32) -> Option<Self> {
        let is_good = (1..=MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| nibble(b) != 0);
        is_good.then(|| Self { key: key(digits), len: digits.len() as u8, line, route })
    }

    /// The keys of its numbers.
    pub(in crate::proxy) fn interval(&self) -> Interval {
        let last = last_of(self.key, u32::from(self.len));
        Interval { first: self.key, last, value: self.route, line: self.line }
    }
}

/// Keys from the first to the last, and what holds for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Interval {
    pub first: u64,
    pub last: u64,
    pub value: u32,
    /// Where it stands in its file.
    pub line: u32,
}

/// A prefix that is in a table twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twice {
    /// Line of the first.
    pub first: u32,
    /// Line of the second.
    pub second: u32,
}

/// A digit as four bits; 0 stands for the end, so that a number sorts before those that are longer.
pub(in crate::proxy) fn nibble(digit: u8) -> u64 {
    match digit {
        b'0'..=b'9' => u64::from(digit - b'0') + 1,
        b'*' => 11,
        b'#' => 12,
        _ => 0,
    }
}

/// The first [`MAX_DIGITS`] digits, the first in the highest bits.
pub(in crate::proxy) fn key(digits: &str) -> u64 {
    let mut key = 0;
    let mut shift = 64;
    for digit in digits.bytes().take(MAX_DIGITS) {
        shift -= 4;
        key |= nibble(digit) << shift;
    }
    key
}

/// The last key that begins with the first `len` digits of this one.
fn last_of(key: u64, len: u32) -> u64 {
    key | u64::MAX.checked_shr(4 * len).unwrap_or(0)
}

impl PrefixTable {
    /// A table of these prefixes, in any order.
    ///
    /// # Errors
    /// A prefix that is there twice.
    pub fn new(name: String, routes: Vec<PrefixRoute>, mut prefixes: Vec<Prefix>) -> Result<Self, Twice> {
        prefixes.sort_unstable(); // a shorter one before those it contains
        let mut pairs = prefixes.iter().zip(prefixes.iter().skip(1));
        if let Some((a, b)) = pairs.find(|(a, b)| (a.key, a.len) == (b.key, b.len)) {
            return Err(Twice { first: a.line.min(b.line), second: a.line.max(b.line) });
        }
        Ok(Self { name, routes, index: Arc::new(Index::new(prefixes.iter().map(Prefix::interval))) })
    }

    /// What the longest prefix of this number says.
    pub fn find(&self, number: &str) -> Option<&PrefixRoute> {
        self.routes.get(self.index.value_of(key(number)) as usize)
    }

    /// Digits are missing: some prefix begins with this number and is longer (484).
    pub fn is_incomplete(&self, number: &str) -> bool {
        if number.len() >= MAX_DIGITS || number.is_empty() {
            return false;
        }
        let key = key(number);
        let next = self.index.after(key);
        self.index.starts.get(next).is_some_and(|start| *start <= last_of(key, number.len() as u32))
    }

    /// Prefixes in it.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// It has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets of memory it holds.
    pub fn memory(&self) -> usize {
        let routes =
            self.routes.iter().map(|r| size_of::<PrefixRoute>() + r.to.len() * size_of::<TrunkId>() + r.add.len());
        self.index.memory() + routes.sum::<usize>()
    }
}

impl Index {
    /// From sorted intervals: an outer one stands before those it contains, and none reaches half into another.
    pub fn new(intervals: impl ExactSizeIterator<Item = Interval>) -> Self {
        let mut index = Self { intervals: intervals.len(), ..Self::default() };
        let mut open: Vec<(u64, u32)> = Vec::with_capacity(MAX_DIGITS);
        for interval in intervals {
            index.close(&mut open, interval.first);
            index.push(interval.first, interval.value);
            open.push((interval.last, interval.value));
        }
        index.close(&mut open, u64::MAX);
        index.starts.shrink_to_fit();
        index.values.shrink_to_fit();
        index.lead();
        index
    }

    /// Intervals in it.
    pub fn len(&self) -> usize {
        self.intervals
    }

    /// Octets of memory it holds.
    pub fn memory(&self) -> usize {
        self.starts.capacity() * 8 + (self.values.capacity() + self.leading.capacity()) * 4
    }

    /// Ends the intervals that end before `until`: what contains them holds again.
    fn close(&mut self, open: &mut Vec<(u64, u32)>, until: u64) {
        while let Some((last, _)) = open.last().copied().filter(|(last, _)| *last < until) {
            open.pop();
            let outer = open.last().map_or(NONE, |(_, route)| *route);
            self.push(last + 1, outer);
        }
    }

    fn push(&mut self, start: u64, value: u32) {
        match (self.starts.last(), self.values.last_mut()) {
            // An interval that begins where another one ended.
            (Some(last), Some(held)) if *last == start => *held = value,
            _ => {
                self.starts.push(start);
                self.values.push(value);
            }
        }
    }

    /// Makes `leading`: about one slot for each start, at most a million.
    fn lead(&mut self) {
        let (Some(first), Some(last)) = (self.starts.first(), self.starts.last()) else { return };
        // Ends belong to the prefix before them; what they have in common with the first start, its prefixes have.
        self.common = ((first ^ (last - 1)).leading_zeros() / 4 * 4).min(64 - MAX_WIDTH);
        self.width = (self.starts.len().ilog2().div_ceil(4) * 4 + 4).min(MAX_WIDTH);
        let slots = 1usize << self.width;
        let mut leading = vec![0u32; slots + 1];
        for start in &self.starts {
            let slot = self.slot(*start) + 1;
            if let Some(count) = leading.get_mut(slot) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for count in &mut leading {
            sum += *count;
            *count = sum;
        }
        self.leading = leading;
    }

    /// The slot of a key: its bits behind the common ones. What differs in these lies before the first slot or behind the last one.
    fn slot(&self, key: u64) -> usize {
        let first = self.starts.first().copied().unwrap_or_default();
        let above = 64 - self.common;
        let (common, own) = match above {
            64 => (0, 0),
            _ => (first >> above, key >> above),
        };
        let last = (1usize << self.width) - 1;
        match own.cmp(&common) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Greater => last,
            std::cmp::Ordering::Equal => (key << self.common >> (64 - self.width)) as usize,
        }
    }

    /// Position of the first start above a key.
    fn after(&self, key: u64) -> usize {
        if self.leading.is_empty() {
            return 0;
        }
        let slot = self.slot(key);
        let at = |slot: usize| self.leading.get(slot).map_or(0, |position| *position as usize);
        let (from, to) = (at(slot), at(slot + 1));
        from + self.starts.get(from..to).unwrap_or_default().partition_point(|start| *start <= key)
    }

    /// What the innermost interval around a key says; [`u32::MAX`] where there is none.
    pub fn value_of(&self, key: u64) -> u32 {
        let before = self.after(key).checked_sub(1);
        before.and_then(|position| self.values.get(position)).copied().unwrap_or(NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(prefixes: &[&str]) -> PrefixTable {
        let routes = (0..prefixes.len()).map(|n| PrefixRoute { strip: n as u8, ..PrefixRoute::default() }).collect();
        let made = prefixes.iter().enumerate().map(|(n, p)| Prefix::new(p, n as u32, n as u32 + 2).unwrap());
        PrefixTable::new("t".into(), routes, made.collect()).unwrap()
    }

    fn found(table: &PrefixTable, number: &str) -> Option<usize> {
        table.find(number).map(|route| usize::from(route.strip))
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table = table(&["1", "1212", "12125551", "44", "4420", "4", "0", "9999999999999999"]);
        for (number, wanted) in [
            ("1", Some(0)),
            ("13", Some(0)),
            ("1212", Some(1)),
            ("121", Some(0)),
            ("12125551212", Some(2)),
            ("12125552", Some(1)),
            ("1213", Some(0)),
            ("44", Some(3)),
            ("442", Some(3)),
            ("4420", Some(4)),
            ("45", Some(5)),
            ("5", None),
            ("2", None),
            ("", None),
            ("00", Some(6)),
            ("9999999999999999", Some(7)),
            ("99999999999999991", Some(7)),
            ("999999999999999", None),
            ("*67", None),
        ] {
            assert_eq!(found(&table, number), wanted, "{number}");
        }
    }

    #[test]
    fn stars_and_hashes_are_digits() {
        let table = table(&["*", "*67", "#31#"]);
        assert_eq!(
            (found(&table, "*6"), found(&table, "*671212"), found(&table, "#31#49")),
            (Some(0), Some(1), Some(2))
        );
        assert!(
            Prefix::new("+1", 0, 0).is_none() && Prefix::new("", 0, 0).is_none() && Prefix::new("1a", 0, 0).is_none()
        );
        assert!(Prefix::new("12345678901234567", 0, 0).is_none());
    }

    #[test]
    fn an_incomplete_number_begins_a_prefix() {
        let table = table(&["1212", "44"]);
        for (number, wanted) in
            [("1", true), ("121", true), ("1212", false), ("12125", false), ("4", true), ("5", false)]
        {
            assert_eq!(table.is_incomplete(number), wanted, "{number}");
        }
        assert!(!table.is_incomplete(""));
    }

    #[test]
    fn a_prefix_twice_is_a_mistake_with_both_lines() {
        let twice = |a, b| {
            PrefixTable::new(
                "t".into(),
                vec![],
                vec![Prefix::new("49", 0, a).unwrap(), Prefix::new("49", 1, b).unwrap()],
            )
        };
        assert_eq!(twice(9, 4).unwrap_err(), Twice { first: 4, second: 9 });
        assert!(PrefixTable::new("t".into(), vec![], vec![]).unwrap().find("49").is_none());
    }

    proptest! {
        /// Against the plain reading: try all prefixes, keep the longest.
        #[test]
        fn the_table_says_what_a_walk_over_all_prefixes_says(
            prefixes in proptest::collection::btree_set("[0-4*]{1,5}|12[0-9]{3,8}|[0-9]{14,16}", 0..60),
            numbers in proptest::collection::vec("[0-4*]{1,7}|12[0-9]{3,10}|[0-9]{12,18}", 1..40),
        ) {
            let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            let table = table(&prefixes);
            for number in numbers.iter().map(String::as_str).chain(prefixes.iter().copied()) {
                let fits = prefixes.iter().enumerate().filter(|(_, p)| number.starts_with(**p));
                let wanted = fits.max_by_key(|(_, p)| p.len()).map(|(n, _)| n);
                prop_assert_eq!(found(&table, number), wanted, "{}", number);
                let longer = prefixes.iter().any(|p| p.len() > number.len() && p.starts_with(number));
                prop_assert_eq!(table.is_incomplete(number), longer, "{}", number);
            }
        }
    }

    /// Section 2 wants a million; what it costs in memory is printed.
    #[test]
    fn a_million_prefixes_fit_and_are_found() {
        let mut digits: Vec<String> =
            (0..1_000_000u64).map(|n| format!("{}", 1_000_000_000 + n * 7_919 % 8_999_999_999)).collect();
        digits.sort_unstable();
        digits.dedup();
        let prefixes = digits.iter().zip(0..).map(|(d, n)| Prefix::new(d, n % 3, n).unwrap()).collect();
        let routes = (0..3).map(|strip| PrefixRoute { strip, ..PrefixRoute::default() }).collect();
        let table = PrefixTable::new("t".into(), routes, prefixes).unwrap();
        println!(
            "{} prefixes in {} octets ({:.1} each)",
            table.len(),
            table.memory(),
            table.memory() as f64 / table.len() as f64
        );
        assert!(table.len() == digits.len() && table.len() > 990_000);
        assert!(table.memory() < 32 << 20);
        for (n, digits) in digits.iter().enumerate().step_by(997) {
            assert_eq!(found(&table, &format!("{digits}42")), Some(n % 3));
        }
    }
}
