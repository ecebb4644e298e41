//! `;name=value` parameters (K-4), and the splitter of comma lists (H-5).

use std::ops::Range;

use super::text::{self, Malformed};

/// A parameter after `;`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param<'a> {
    /// Name as received; compare it without case.
    pub name: &'a [u8],
    /// Value as received, with its quotes; `None` without `=` or with nothing behind it.
    pub value: Option<&'a [u8]>,
    /// From the `;` to the end of the value, in the coordinates of the iterator.
    pub range: Range<usize>,
}

impl Param<'_> {
    /// The name is this one, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// What stands at a place where a parameter may begin.
pub(crate) enum Step<'a> {
    Param(Param<'a>),
    /// A comma of the enclosing list.
    Comma(usize),
    End,
    Bad,
}

/// Reads one parameter of `bytes` at `at`.
#[inline]
pub(crate) fn step(bytes: &[u8], at: usize) -> Step<'_> {
    let at = text::skip_lws(bytes, at);
    match bytes.get(at) {
        None => return Step::End,
        Some(b';') => {}
        Some(b',') => return Step::Comma(at),
        Some(_) => return Step::Bad,
    }
    let name_start = text::skip_lws(bytes, at + 1);
    let name_end = text::skip_token(bytes, name_start);
    if name_end == name_start {
        return Step::Bad;
    }
    let name = text::span(bytes, name_start, name_end);
    let next = text::skip_lws(bytes, name_end);
    if bytes.get(next) != Some(&b'=') {
        return Step::Param(Param { name, value: None, range: at..name_end });
    }
    let value_start = text::skip_lws(bytes, next + 1);
    let value_end = match bytes.get(value_start) {
        Some(b'"') => match text::quoted_end(bytes, value_start) {
            Some(end) => end,
            None => return Step::Bad,
        },
        _ => {
            let mut end = value_start;
            while bytes.get(end).is_some_and(|&b| text::is_param_value_byte(b)) {
                end += 1;
            }
            end
        }
    };
    if value_end == value_start {
        return Step::Param(Param { name, value: None, range: at..next + 1 });
    }
    Step::Param(Param { name, value: Some(text::span(bytes, value_start, value_end)), range: at..value_end })
}

/// Header parameters in order; ends at the first one that can not be read, at a comma, or after 64.
#[derive(Debug, Clone)]
pub struct Params<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u8,
}

/// Parameters of one value (section 10 of the limits).
pub(crate) const MAX_PARAMS: u8 = 64;

impl<'a> Params<'a> {
    /// Iterates over `bytes` from `at`, where a `;` (or the end) is expected.
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, left: MAX_PARAMS }
    }

    /// Iterates over what follows a value; the text begins with a `;` or is empty.
    pub fn of(parameters: &'a [u8]) -> Self {
        Self::new(parameters, 0)
    }

    /// The first parameter of this name, in any case.
    pub fn find(mut self, name: &str) -> Option<Param<'a>> {
        Iterator::find(&mut self, |p| p.is(name))
    }
}

impl<'a> Iterator for Params<'a> {
    type Item = Param<'a>;

    fn next(&mut self) -> Option<Param<'a>> {
        self.left = self.left.checked_sub(1)?;
        match step(self.bytes, self.at) {
            Step::Param(param) => {
                self.at = param.range.end;
                Some(param)
            }
            _ => None,
        }
    }
}

/// Position of the next comma at the top level of `bytes`, or its length: commas in quotes, angle brackets and (where
/// `comments`) parentheses do not count (H-5). An unterminated quote, bracket or comment is malformed.
pub(crate) fn next_comma(bytes: &[u8], mut at: usize, comments: bool) -> Result<usize, Malformed> {
    loop {
        let Some(&b) = bytes.get(at) else { return Ok(bytes.len()) };
        at = match b {
            b',' => return Ok(at),
            b'"' => text::quoted_end(bytes, at).ok_or(Malformed)?,
            b'<' => at + 1 + memchr::memchr(b'>', text::span(bytes, at, bytes.len())).ok_or(Malformed)?,
            b'(' if comments => text::comment_end(bytes, at).ok_or(Malformed)?,
            _ => at + 1,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commas(text: &str) -> Vec<usize> {
        let mut at = 0;
        let mut found = Vec::new();
        while let Ok(comma) = next_comma(text.as_bytes(), at, true) {
            if comma == text.len() {
                break;
            }
            found.push(comma);
            at = comma + 1;
        }
        found
    }

    #[test]
    fn k4_parameters() {
        let bytes = b" ; a = 1;B;c=\"x;,\\\"\" ;received=[2001:db8::1]; d =;e";
        let all: Vec<_> = Params::new(bytes, 0).map(|p| (p.name, p.value)).collect();
        let expected: [(&[u8], Option<&[u8]>); 6] = [
            (b"a", Some(b"1")),
            (b"B", None),
            (b"c", Some(b"\"x;,\\\"\"")),
            (b"received", Some(b"[2001:db8::1]")),
            (b"d", None),
            (b"e", None),
        ];
        assert_eq!(all, expected);
        assert!(Params::new(bytes, 0).find("b").is_some());
        assert!(matches!(step(b";;", 0), Step::Bad));
        assert!(matches!(step(b";a b", 2), Step::Bad));
    }

    #[test]
    fn h5_commas() {
        assert_eq!(commas(r#""a,b" <sip:x,y@z>, (c,(d,)) e,f"#), [17, 29]);
        assert_eq!(next_comma(b"\"a, b", 0, false), Err(Malformed));
        assert_eq!(next_comma(b"<a, b", 0, false), Err(Malformed));
    }
}
