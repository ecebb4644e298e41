//! The values of a header over all its lines (H-4, H-5).

use std::ops::Range;

use super::index::Entry;
use super::message::Message;
use super::name::Name;
use super::params::next_comma;
use super::text::{self, span};

/// One value of a header that may be a comma list.
#[derive(Debug, Clone)]
pub struct ListValue<'a> {
    /// The value without LWS at its ends; folds inside it stay.
    pub value: &'a [u8],
    /// Where it stands.
    pub range: Range<usize>,
    /// What to remove so that this one value is gone: its line if it stands alone, else the value and one comma. To remove several
    /// from the top use [`Message::pop_values`].
    pub cut: Range<usize>,
    /// The line it stands on, with folds and line end.
    pub line: Range<usize>,
    /// No value follows it on its line.
    pub is_last_of_line: bool,
    /// Quotes, brackets or comments of the line do not close, so it could not be split: this is all the rest of it.
    pub is_unsplittable: bool,
}

/// One value as it was found, before anyone asks how to cut it out.
pub(crate) struct Element<'a> {
    pub(crate) value: &'a [u8],
    entry: &'a Entry,
    /// Behind the comma before it, or the start of the line's value.
    at: usize,
    start: usize,
    /// The comma behind it, or the end of the line's value.
    stop: usize,
    pub(crate) is_unsplittable: bool,
}

/// Iterator of [`Message::values`].
#[derive(Debug, Clone)]
pub struct Values<'a> {
    bytes: &'a [u8],
    name: Name,
    rest: std::slice::Iter<'a, Entry>,
    /// The line being split and the position in it.
    line: Option<(&'a Entry, usize)>,
}

impl<'a> Values<'a> {
    pub(crate) fn new(message: Message<'a>, name: Name) -> Self {
        let index = message.index();
        let entries = match index.first(name) {
            None => &[],
            Some(first) if index.is_repeated(name) => index.entries.get(first..).unwrap_or_default(),
            Some(first) => index.entries.get(first..=first).unwrap_or_default(),
        };
        Self { bytes: message.bytes(), name, rest: entries.iter(), line: None }
    }

    /// The next value, empty ones included; leaves the state at what follows it.
    #[inline]
    pub(crate) fn next_element(&mut self) -> Option<Element<'a>> {
        let (entry, at) = match self.line.take() {
            Some(open) => open,
            None => {
                let name = self.name;
                let entry = self.rest.find(|e| e.name == name)?;
                (entry, entry.value_start as usize)
            }
        };
        let end = entry.value_end as usize;
        let value_bytes = span(self.bytes, 0, end);
        let start = text::skip_lws(value_bytes, at);
        let comma = if self.name.is_list() { self.find_comma(value_bytes, start) } else { Ok(end) };
        let stop = comma.unwrap_or(end);
        if stop < end {
            self.line = Some((entry, stop + 1));
        }
        let value = text::trim_end(span(self.bytes, start, stop));
        Some(Element { value, entry, at, start, stop, is_unsplittable: comma.is_err() })
    }

    fn describe(&self, element: &Element<'a>) -> ListValue<'a> {
        let &Element { value, entry, at, start, stop, is_unsplittable } = element;
        let end = entry.value_end as usize;
        let is_last_of_line = stop >= end;
        let line = entry.start as usize..entry.end as usize;
        let cut = match (at == entry.value_start as usize, is_last_of_line) {
            (true, true) => line.clone(),
            (false, true) => at.saturating_sub(1)..end,
            (_, false) => start..text::skip_lws(span(self.bytes, 0, end), stop + 1),
        };
        ListValue { value, range: start..start + value.len(), cut, line, is_last_of_line, is_unsplittable }
    }

    fn find_comma(&self, value: &[u8], at: usize) -> Result<usize, text::Malformed> {
        // Nearly every value holds no comma: one memchr settles that.
        if memchr::memchr(b',', span(value, at, value.len())).is_none() {
            return Ok(value.len());
        }
        next_comma(value, at, matches!(self.name, Name::Via | Name::Warning))
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = ListValue<'a>;

    fn next(&mut self) -> Option<ListValue<'a>> {
        let keeps_empty = matches!(self.name, Name::Via | Name::Route | Name::RecordRoute);
        loop {
            let element = self.next_element()?;
            if keeps_empty || !element.value.is_empty() {
                return Some(self.describe(&element));
            }
        }
    }
}
