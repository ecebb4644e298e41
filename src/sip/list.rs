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

#[cfg(test)]
mod tests {
    use super::super::{Framing, Index, Limits, Patch, parse};
    use super::*;

    fn with(headers: &str, look: impl FnOnce(Message<'_>)) {
        let text = format!("OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n{headers}\r\n");
        let mut index = Index::new();
        look(parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap());
    }

    fn values(headers: &str, name: Name) -> Vec<String> {
        let mut out = Vec::new();
        with(headers, |m| out = m.values(name).map(|v| String::from_utf8(v.value.to_vec()).unwrap()).collect());
        out
    }

    #[test]
    fn h4_h5_h9_lists() {
        assert_eq!(
            values("Contact: \"a,b\" <sip:x,y@z>;q=1,<sip:2>\r\nm:\r\n <sip:3>\r\n , sip:4\r\n", Name::Contact),
            ["\"a,b\" <sip:x,y@z>;q=1", "<sip:2>", "<sip:3>", "sip:4"]
        );
        assert_eq!(values("Supported: a,,b,\r\nk:\r\n", Name::Supported), ["a", "b"]);
        assert_eq!(values("Route: <a:b>,,<c:d>\r\n", Name::Route), ["<a:b>", "", "<c:d>"]);
        assert_eq!(values("y: a;info=<b,c>,d\r\nIdentity: e\r\n", Name::Identity), ["a;info=<b,c>", "d", "e"]);
        // Never split: the comma is part of the value.
        assert_eq!(values("Date: Sat, 13 Nov 2010 23:29:00 GMT\r\n", Name::Date).len(), 1);
        assert_eq!(values("Authorization: Digest a=b, c=d\r\n", Name::Authorization).len(), 1);
        assert_eq!(values("Subject: a, b\r\n", Name::Subject), ["a, b"]);
    }

    #[test]
    fn what_does_not_close_is_one_value() {
        with("Route: <a:b>, \"x <c:d>, <e:f>\r\n", |m| {
            let all: Vec<_> = m.values(Name::Route).map(|v| (v.value.len(), v.is_unsplittable)).collect();
            assert_eq!(all, [(5, false), (15, true)]);
        });
    }

    #[test]
    fn v6_one_value_is_cut_out() {
        let headers = "Route: <a:1> , <a:2>,\r\n <a:3>\r\nRoute: <a:4>\r\n";
        for (n, left) in [
            (0, "Route: <a:2>,\r\n <a:3>\r\nRoute: <a:4>\r\n"),
            (1, "Route: <a:1> , <a:3>\r\nRoute: <a:4>\r\n"),
            (2, "Route: <a:1> , <a:2>\r\nRoute: <a:4>\r\n"),
            (3, "Route: <a:1> , <a:2>,\r\n <a:3>\r\n"),
        ] {
            with(headers, |m| {
                let mut patch = Patch::new();
                patch.remove(m.values(Name::Route).nth(n).unwrap().cut);
                let mut out = Vec::new();
                patch.write(m.bytes(), &mut out);
                let out = String::from_utf8(out).unwrap();
                assert!(out.ends_with(&format!("h\r\n{left}\r\n")), "{n}: {out}");
            });
        }
    }
}
