//! Reads one TOML table by hand, so that all mistakes come at once and each has its line.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Collector, Fault};

/// A table, and what was asked of it so far: keys never asked for are unknown keys.
pub(super) struct Section<'a, 'c> {
    table: &'a DeTable<'a>,
    /// Byte offset of the table's heading.
    offset: usize,
    label: String,
    asked: RefCell<Vec<&'static str>>,
    mistakes: &'c RefCell<Collector<'c>>,
}

/// A value and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub offset: usize,
}

impl<'a, 'c> Section<'a, 'c> {
    pub fn new(
        table: &'a DeTable<'a>,
        span: Range<usize>,
        label: String,
        mistakes: &'c RefCell<Collector<'c>>,
    ) -> Self {
        Self { table, offset: span.start, label, asked: RefCell::default(), mistakes }
    }

    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The name of a table of this one in messages.
    pub fn label_of(&self, key: &str) -> String {
        if self.label.is_empty() { key.to_owned() } else { format!("{}.{key}", self.label) }
    }

    /// Names the section in messages once its name is known: `trunk "carrier"`.
    pub fn relabel(&mut self, label: String) {
        self.label = label;
    }

    /// Notes a mistake about a key of this section.
    pub fn wrong(&self, offset: usize, key: &str, fault: Fault) {
        let path = match (self.label.as_str(), key) {
            ("", key) => key.to_owned(),
            (label, "") => label.to_owned(),
            (label, key) => format!("{label}.{key}"),
        };
        self.mistakes.borrow_mut().add(offset, path, fault);
    }

    pub fn missing(&self, key: &str, expected: &'static str) {
        self.wrong(self.offset, key, Fault::Missing { expected });
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    /// Line of an offset in the file.
    pub fn line(&self, offset: usize) -> usize {
        self.mistakes.borrow().line(offset)
    }

    /// Whether the table lacks a key.
    pub fn is_absent(&self, key: &'static str) -> bool {
        self.get(key).is_none()
    }

    /// Whether a key's value is a list with nothing in it.
    pub fn is_empty_list(&self, key: &'static str) -> bool {
        self.get(key).and_then(|value| value.get_ref().as_array()).is_some_and(|list| list.is_empty())
    }

    /// Where a key's value stands, or else the section.
    pub fn offset_of(&self, key: &'static str) -> usize {
        self.get(key).map_or(self.offset, |value| value.span().start)
    }

    fn typed<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<At<T>> {
        let spanned = self.get(key)?;
        let offset = spanned.span().start;
        let value = read(spanned.get_ref());
        if value.is_none() {
            self.wrong(offset, key, Fault::WrongType { found: spanned.get_ref().type_str(), expected });
        }
        value.map(|value| At { value, offset })
    }

    pub fn string(&self, key: &'static str) -> Option<At<&'a str>> {
        self.typed(key, "a \"string\"", DeValue::as_str)
    }

    /// A string that is not empty and must be there; `expected` says what it would be.
    pub fn required(&self, key: &'static str, expected: &'static str) -> Option<At<&'a str>> {
        if self.get(key).is_none() {
            self.missing(key, expected);
        }
        let found = self.string(key)?;
        if found.value.is_empty() {
            self.wrong(found.offset, key, Fault::Unreadable { found: String::new(), expected });
            return None;
        }
        Some(found)
    }

    pub fn bool(&self, key: &'static str, default: bool) -> bool {
        self.typed(key, "true or false", DeValue::as_bool).map_or(default, |found| found.value)
    }

    /// A whole number from `low` to `high`.
    pub fn number(&self, key: &'static str, (low, high): (u64, u64)) -> Option<u64> {
        let found = self.typed(key, "a whole number", DeValue::as_integer)?;
        let number =
            u64::from_str_radix(found.value.as_str(), found.value.radix()).ok().filter(|n| (low..=high).contains(n));
        if number.is_none() {
            self.wrong(found.offset, key, Fault::OutOfRange { range: (low, high) });
        }
        number
    }

    /// The same for a setting that is a `usize`; `range` fits 32 bits.
    pub fn size(&self, key: &'static str, range: (u64, u64), setting: &mut usize) {
        if let Some(number) = self.number(key, range).and_then(|number| usize::try_from(number).ok()) {
            *setting = number;
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let found = self.string(key)?;
        let chosen = choices.iter().find(|(word, _)| *word == found.value).map(|(_, chosen)| *chosen);
        if chosen.is_none() {
            let choices = choices.iter().map(|(word, _)| *word).collect();
            self.wrong(found.offset, key, Fault::NoSuchChoice { found: found.value.to_owned(), choices });
        }
        chosen
    }

    /// A string that `read` understands.
    pub fn read<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<At<T>> {
        let found = self.string(key)?;
        self.understood(key, found, expected, read)
    }

    fn understood<T>(
        &self,
        key: &str,
        found: At<&str>,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<At<T>> {
        let value = read(found.value);
        if value.is_none() {
            self.wrong(found.offset, key, Fault::Unreadable { found: found.value.to_owned(), expected });
        }
        value.map(|value| At { value, offset: found.offset })
    }

    /// A string or a list of strings, each of which `read` understands.
    pub fn read_list<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Vec<At<T>> {
        let Some(spanned) = self.get(key) else { return Vec::new() };
        let single = [spanned];
        let items: Vec<_> = match spanned.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => single.to_vec(),
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            let offset = item.span().start;
            match item.get_ref().as_str() {
                Some(value) => list.extend(self.understood(key, At { value, offset }, expected, &read)),
                None => self.wrong(
                    offset,
                    key,
                    Fault::WrongType { found: item.get_ref().type_str(), expected: "a \"string\"" },
                ),
            }
        }
        list
    }

    /// A table of strings under names of the file's own choice.
    pub fn strings(&self, key: &'static str) -> BTreeMap<String, String> {
        let Some(found) = self.typed(key, "a [table] of \"strings\"", DeValue::as_table) else {
            return BTreeMap::new();
        };
        let mut strings = BTreeMap::new();
        for (name, value) in found.value.iter() {
            let name = name.get_ref().as_ref();
            match value.get_ref().as_str() {
                Some(text) => drop(strings.insert(name.to_owned(), text.to_owned())),
                None => {
                    let found = value.get_ref().type_str();
                    let fault = Fault::WrongType { found, expected: "a \"string\"" };
                    self.wrong(value.span().start, &format!("{key}.{name}"), fault);
                }
            }
        }
        strings
    }

    /// A table of the table.
    pub fn section(&self, key: &'static str) -> Option<Section<'a, 'c>> {
        let span = self.get(key)?.span();
        let found = self.typed(key, "a [table]", DeValue::as_table)?;
        Some(Section::new(found.value, span, self.label_of(key), self.mistakes))
    }

    /// A table, or a list of them.
    pub fn tables(&self, key: &'static str) -> Vec<Section<'a, 'c>> {
        match self.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.sections(key),
            _ => self.section(key).into_iter().collect(),
        }
    }

    /// An array of tables.
    pub fn sections(&self, key: &'static str) -> Vec<Section<'a, 'c>> {
        let Some(found) = self.typed(key, "a list of [[tables]]", DeValue::as_array) else { return Vec::new() };
        let mut sections = Vec::new();
        for item in found.value.iter() {
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(table, item.span(), key.to_owned(), self.mistakes)),
                None => {
                    let found = item.get_ref().type_str();
                    self.wrong(item.span().start, key, Fault::WrongType { found, expected: "a [[table]]" });
                }
            }
        }
        sections
    }

    /// Notes every key that nobody asked for.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if !asked.contains(&name) {
                let nearest = nearest(name, &asked).map(str::to_owned);
                self.wrong(key.span().start, name, Fault::UnknownKey { nearest });
            }
        }
    }
}

/// The known word most like `word`, if any is near.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known.iter().map(|candidate| (distance(word, candidate), *candidate)).min()?;
    (near.0 <= 1 + word.len() / 3).then_some(near.1)
}

/// Edits (insert, delete, replace) from one word to another.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(to.bytes()) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("peers", "peers"), 0);
        assert_eq!(distance("peer", "peers"), 1);
        assert_eq!(distance("next-hop", "next_hop"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn only_near_words_are_suggested() {
        assert_eq!(nearest("nexthop", &["name", "next_hop"]), Some("next_hop"));
        assert_eq!(nearest("colour", &["name", "next_hop"]), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
