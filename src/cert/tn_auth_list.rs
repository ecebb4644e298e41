//! TNAuthList (RFC 8226 section 9): the numbers and service providers a certificate speaks for.

use std::fmt;

use super::der::{self, DerError, Reader};

/// Longest telephone number (RFC 8226 section 9: `SIZE (1..15)`).
const MAX_DIGITS: usize = 15;

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TnEntry {
    /// A service provider code: OCN, SPID or another local identifier.
    Spc(String),
    /// `count` numbers from `start` on, `start` included.
    Range {
        /// First number, digits only.
        start: String,
        /// How many numbers, at least 2.
        count: u64,
    },
    /// A single number: 1 to 15 of `0-9`, `#`, `*`; no leading `+`.
    One(String),
}

impl fmt::Display for TnEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spc(code) => write!(f, "SPC {code}"),
            Self::Range { start, count } => write!(f, "{count} numbers from {start}"),
            Self::One(number) => write!(f, "{number}"),
        }
    }
}

/// Why a TNAuthList is refused. `entry` counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TnAuthListError {
    /// The list itself is not the DER of a SEQUENCE.
    Der(DerError),
    /// An entry is not the DER the grammar asks for (EXPLICIT tags).
    Entry {
        /// Which entry.
        entry: usize,
        /// What is wrong with it.
        error: DerError,
    },
    /// The extension occurs more than once in the certificate.
    Repeated,
    /// No entries (`SIZE (1..MAX)`).
    Empty,
    /// Longer than [`TnAuthList::MAX_OCTETS`].
    TooLong {
        /// Length in octets.
        octets: usize,
    },
    /// More than [`TnAuthList::MAX_ENTRIES`] entries.
    TooManyEntries,
    /// None of the three choices.
    UnknownChoice {
        /// Which entry.
        entry: usize,
        /// Its identifier octet.
        tag: u8,
    },
    /// A service provider code is empty or not IA5 (7-bit).
    ServiceProviderCode {
        /// Which entry.
        entry: usize,
    },
    /// A number is empty, longer than 15 characters, or holds something else than digits, `#` and `*`.
    Number {
        /// Which entry.
        entry: usize,
    },
    /// A count below 2, negative, or above 10^15.
    Count {
        /// Which entry.
        entry: usize,
    },
    /// A range starts at a number with `#` or `*` (RFC 8226 section 9: count is meaningless there).
    RangeStart {
        /// Which entry.
        entry: usize,
    },
    /// A range grows in digit count (RFC 8226 section 9).
    RangeGrows {
        /// Which entry.
        entry: usize,
    },
}

impl fmt::Display for TnAuthListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Der(error) => write!(f, "TNAuthList: {error}"),
            Self::Entry { entry, error } => write!(f, "TNAuthList entry {entry}: {error}"),
            Self::Repeated => f.write_str("TNAuthList occurs more than once"),
            Self::Empty => f.write_str("TNAuthList has no entries"),
            Self::TooLong { octets } => write!(f, "TNAuthList of {octets} octets"),
            Self::TooManyEntries => f.write_str("TNAuthList has too many entries"),
            Self::UnknownChoice { entry, tag } => {
                write!(f, "TNAuthList entry {entry}: tag {tag:#04x} is none of [0], [1], [2]")
            }
            Self::ServiceProviderCode { entry } => {
                write!(f, "TNAuthList entry {entry}: empty or non-IA5 service provider code")
            }
            Self::Number { entry } => {
                write!(f, "TNAuthList entry {entry}: not 1 to 15 of digits, '#' and '*'")
            }
            Self::Count { entry } => {
                write!(f, "TNAuthList entry {entry}: count not between 2 and 10^15")
            }
            Self::RangeStart { entry } => {
                write!(f, "TNAuthList entry {entry}: a range starts at a number with '#' or '*'")
            }
            Self::RangeGrows { entry } => {
                write!(f, "TNAuthList entry {entry}: the range grows in digit count")
            }
        }
    }
}

impl std::error::Error for TnAuthListError {}

/// How a parent's scope holds a child's (RFC 9060 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encompassed {
    /// Every entry of the child is in the parent's list.
    Proven,
    /// Numbers of the child could only be held through a service provider code of the parent, and no number-to-code data says so.
    UnprovenSpc,
}

/// The first entry of a child that its parent's scope does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeExcess {
    /// The entry of the child.
    pub entry: TnEntry,
}

/// A TNAuthList: its entries, and an index over them. The scope is the union of all entries (RFC 8226 section 9).
#[derive(Clone, Debug)]
pub struct TnAuthList {
    entries: Vec<TnEntry>,
    /// By number of digits: sorted, disjoint, non-adjacent closed intervals. Leading zeros are significant, so each length is its own space.
    intervals: [Vec<(u64, u64)>; MAX_DIGITS + 1],
    /// Numbers that hold `#` or `*`, sorted.
    symbolic: Vec<String>,
}

impl PartialEq for TnAuthList {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for TnAuthList {}

impl TnAuthList {
    /// Longest extension value read, in octets.
    pub const MAX_OCTETS: usize = 64 * 1024;
    /// Most entries read.
    pub const MAX_ENTRIES: usize = 10_000;
    /// Largest count of a range.
    const MAX_COUNT: u64 = 1_000_000_000_000_000;

    /// A list to issue. Stricter than the reader: RFC 8226 section 9 as written forbids a range whose last number is all nines.
    ///
    /// # Errors
    /// Whatever would make a reader refuse the list, and [`TnAuthListError::RangeGrows`] for such a range.
    pub fn new(entries: Vec<TnEntry>) -> Result<Self, TnAuthListError> {
        if entries.is_empty() {
            return Err(TnAuthListError::Empty);
        }
        if entries.len() > Self::MAX_ENTRIES {
            return Err(TnAuthListError::TooManyEntries);
        }
        for (entry, content) in entries.iter().enumerate() {
            check_entry(entry, content)?;
            if ends_at_digit_limit(content) {
                return Err(TnAuthListError::RangeGrows { entry });
            }
        }
        Ok(Self::index(entries))
    }

    /// Reads the DER of a `TNAuthorizationList`, the contents of the extension's OCTET STRING.
    ///
    /// # Errors
    /// Names the faulty entry.
    pub fn from_der(input: &[u8]) -> Result<Self, TnAuthListError> {
        if input.len() > Self::MAX_OCTETS {
            return Err(TnAuthListError::TooLong { octets: input.len() });
        }
        let mut list = Reader::new(der::only(input, der::SEQUENCE).map_err(TnAuthListError::Der)?);
        let mut entries = Vec::new();
        while !list.is_empty() {
            if entries.len() == Self::MAX_ENTRIES {
                return Err(TnAuthListError::TooManyEntries);
            }
            entries.push(read_entry(&mut list, entries.len())?);
        }
        if entries.is_empty() {
            return Err(TnAuthListError::Empty);
        }
        Ok(Self::index(entries))
    }

    /// The DER of the list, to put into an extension.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let mut contents = Vec::new();
        for entry in &self.entries {
            let (choice, inner) = match entry {
                TnEntry::Spc(code) => (0, der::element(der::IA5_STRING, code.as_bytes())),
                TnEntry::Range { start, count } => {
                    let mut range = der::element(der::IA5_STRING, start.as_bytes());
                    range.extend(der::integer(*count));
                    (1, der::element(der::SEQUENCE, &range))
                }
                TnEntry::One(number) => (2, der::element(der::IA5_STRING, number.as_bytes())),
            };
            der::write(&mut contents, der::context(choice), &inner);
        }
        der::element(der::SEQUENCE, &contents)
    }

    /// The entries in their order.
    #[must_use]
    pub fn entries(&self) -> &[TnEntry] {
        &self.entries
    }

    /// Whether a `one` or `range` entry holds `tn` (canonical digits, no `+`). SPC entries never do (RFC 8226 section 3).
    #[must_use]
    pub fn covers(&self, tn: &str) -> bool {
        match digits(tn) {
            Some(number) => self.holds(tn.len(), number, number),
            None => self.symbolic.binary_search_by(|have| have.as_str().cmp(tn)).is_ok(),
        }
    }

    /// Whether the list names at least one number (R12).
    #[must_use]
    pub fn has_tn_entry(&self) -> bool {
        self.entries.iter().any(|entry| !matches!(entry, TnEntry::Spc(_)))
    }

    /// The service provider codes, in their order.
    pub fn spcs(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| match entry {
            TnEntry::Spc(code) => Some(code.as_str()),
            _ => None,
        })
    }

    /// Whether some range ends exactly at the last number of its length: readers differ there.
    #[must_use]
    pub fn touches_digit_limit(&self) -> bool {
        self.entries.iter().any(ends_at_digit_limit)
    }

    /// RFC 9060 section 4.1: whether this scope holds all of `child`.
    ///
    /// # Errors
    /// The first entry it does not hold.
    pub fn encompasses(&self, child: &Self) -> Result<Encompassed, ScopeExcess> {
        let has_spc = self.spcs().next().is_some();
        let mut verdict = Encompassed::Proven;
        for entry in &child.entries {
            let (held, is_number) = match entry {
                TnEntry::Spc(code) => (self.spcs().any(|own| own == code), false),
                TnEntry::One(number) => (self.covers(number), true),
                TnEntry::Range { start, .. } => {
                    (interval(entry).is_some_and(|(low, high)| self.holds(start.len(), low, high)), true)
                }
            };
            match (held, is_number && has_spc) {
                (true, _) => {}
                (false, true) => verdict = Encompassed::UnprovenSpc,
                (false, false) => {
                    return Err(ScopeExcess { entry: entry.clone() });
                }
            }
        }
        Ok(verdict)
    }

    fn holds(&self, length: usize, low: u64, high: u64) -> bool {
        let Some(intervals) = self.intervals.get(length) else {
            return false;
        };
        // The last interval that starts at or before `low` is the only one that can hold it.
        let after = intervals.partition_point(|&(start, _)| start <= low);
        intervals[..after].last().is_some_and(|&(_, end)| high <= end)
    }

    fn index(entries: Vec<TnEntry>) -> Self {
        let mut intervals: [Vec<(u64, u64)>; MAX_DIGITS + 1] = Default::default();
        let mut symbolic = Vec::new();
        for entry in &entries {
            match (entry, interval(entry)) {
                // Entries are checked before they are indexed: a number has at most 15 digits.
                (TnEntry::One(text) | TnEntry::Range { start: text, .. }, Some(held)) => {
                    intervals[text.len()].push(held);
                }
                (TnEntry::One(text), None) => symbolic.push(text.clone()),
                _ => {}
            }
        }
        symbolic.sort_unstable();
        for held in &mut intervals {
            merge(held);
        }
        Self { entries, intervals, symbolic }
    }
}

/// Sorts closed intervals and joins those that overlap or touch.
fn merge(intervals: &mut Vec<(u64, u64)>) {
    intervals.sort_unstable();
    intervals.dedup_by(|next, last| {
        let joined = next.0 <= last.1 + 1;
        if joined {
            last.1 = last.1.max(next.1);
        }
        joined
    });
}

/// The value of 1 to 15 digits; `None` for anything else.
fn digits(tn: &str) -> Option<u64> {
    if tn.is_empty() || tn.len() > MAX_DIGITS {
        return None;
    }
    tn.bytes().try_fold(0u64, |value, octet| octet.is_ascii_digit().then(|| value * 10 + u64::from(octet - b'0')))
}

/// The closed interval an entry covers; `None` for codes and for numbers with `#` or `*`.
fn interval(entry: &TnEntry) -> Option<(u64, u64)> {
    match entry {
        TnEntry::Spc(_) => None,
        TnEntry::One(number) => digits(number).map(|value| (value, value)),
        // Counts are checked to be at least 2 and at most 10^15.
        TnEntry::Range { start, count } => digits(start).map(|value| (value, value + count - 1)),
    }
}

/// `start + count = 10^D`.
fn ends_at_digit_limit(entry: &TnEntry) -> bool {
    match (entry, interval(entry)) {
        (TnEntry::Range { start, .. }, Some((_, high))) => high + 1 == power_of_ten(start.len()),
        _ => false,
    }
}

/// `10^digits` for at most 15 digits.
fn power_of_ten(digits: usize) -> u64 {
    (0..digits).fold(1, |power, _| power * 10)
}

fn read_entry(list: &mut Reader<'_>, entry: usize) -> Result<TnEntry, TnAuthListError> {
    let fault = |error| TnAuthListError::Entry { entry, error };
    let choice = list.read().map_err(fault)?;
    let content = match choice.tag {
        0xa0 => TnEntry::Spc(read_ia5(choice.value).map_err(fault)?),
        0xa1 => {
            let mut range = Reader::new(der::only(choice.value, der::SEQUENCE).map_err(fault)?);
            let start = ia5_text(range.contents(der::IA5_STRING).map_err(fault)?);
            let count = range.contents(der::INTEGER).map_err(fault)?;
            // The extension marker: unknown elements may follow.
            while !range.is_empty() {
                range.read().map_err(fault)?;
            }
            let count = der::magnitude(count)
                .map_err(fault)?
                .and_then(small_integer)
                .ok_or(TnAuthListError::Count { entry })?;
            TnEntry::Range { start, count }
        }
        0xa2 => TnEntry::One(read_ia5(choice.value).map_err(fault)?),
        tag => return Err(TnAuthListError::UnknownChoice { entry, tag }),
    };
    check_entry(entry, &content)?;
    Ok(content)
}

/// An IA5String on its own. Octets above 127 read as U+FFFD, which no later check lets pass.
fn read_ia5(input: &[u8]) -> Result<String, DerError> {
    der::only(input, der::IA5_STRING).map(ia5_text)
}

fn ia5_text(octets: &[u8]) -> String {
    octets.iter().map(|&octet| if octet.is_ascii() { char::from(octet) } else { char::REPLACEMENT_CHARACTER }).collect()
}

fn small_integer(magnitude: &[u8]) -> Option<u64> {
    (magnitude.len() <= 8).then(|| magnitude.iter().fold(0, |value, &octet| value << 8 | u64::from(octet)))
}

fn check_entry(entry: usize, content: &TnEntry) -> Result<(), TnAuthListError> {
    match content {
        TnEntry::Spc(code) if code.is_empty() || !code.is_ascii() => {
            Err(TnAuthListError::ServiceProviderCode { entry })
        }
        TnEntry::Spc(_) => Ok(()),
        TnEntry::One(number) => check_number(entry, number),
        TnEntry::Range { start, count } => {
            check_number(entry, start)?;
            let first = digits(start).ok_or(TnAuthListError::RangeStart { entry })?;
            if !(2..=TnAuthList::MAX_COUNT).contains(count) {
                return Err(TnAuthListError::Count { entry });
            }
            if first + count > power_of_ten(start.len()) {
                return Err(TnAuthListError::RangeGrows { entry });
            }
            Ok(())
        }
    }
}

fn check_number(entry: usize, number: &str) -> Result<(), TnAuthListError> {
    let legal = |octet: u8| octet.is_ascii_digit() || octet == b'#' || octet == b'*';
    if (1..=MAX_DIGITS).contains(&number.len()) && number.bytes().all(legal) {
        Ok(())
    } else {
        Err(TnAuthListError::Number { entry })
    }
}
