//! The index over a received message: where its lines begin and end, and which headers they are.

use std::ops::Range;

use super::error::Refusal;
use super::name::{COUNT, Name};
use super::name_addr::AddressSpans;
use super::via::ViaSpans;

/// One header field: 24 octets. `start..end` is the line with its folds and line end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) value_start: u32,
    pub(crate) value_end: u32,
    pub(crate) name_len: u32,
    pub(crate) name: Name,
}

/// The start line as offsets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Start {
    /// Method, or empty in a response.
    pub(crate) method_end: u32,
    /// Request-URI, or reason phrase.
    pub(crate) rest_start: u32,
    pub(crate) rest_end: u32,
    /// 0 in a request.
    pub(crate) status: u16,
    /// Behind the line end.
    pub(crate) end: u32,
}

pub(crate) const NONE: u16 = u16::MAX;

/// Reusable memory for one message's index; see [`super::parse`]. Nothing is allocated once it has grown.
#[derive(Debug, Clone)]
pub struct Index {
    pub(crate) entries: Vec<Entry>,
    /// First entry of each name, or [`NONE`].
    first: [u16; COUNT],
    /// Names that stand on more than one line.
    repeated: u64,
    pub(crate) start: Start,
    pub(crate) via: ViaSpans,
    /// The first From and To, if readable.
    pub(crate) from: Option<AddressSpans>,
    pub(crate) to: Option<AddressSpans>,
    /// First octet of the body.
    pub(crate) body: u32,
    /// The Content-Length as sent.
    pub(crate) content_length: Option<u32>,
    pub(crate) fault: Option<Refusal>,
    /// A line ends in a bare LF, which was tolerated.
    pub(crate) has_bare_lf: bool,
    /// Others might see other lines than this element did: on a stream the next message can not be trusted (F-6, F-8).
    pub(crate) is_boundary_unsafe: bool,
    /// Checked by the semantic stage.
    pub(crate) bounds: Bounds,
}

/// The limits the semantic stage needs, copied from the caller's at parse time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bounds {
    pub(crate) vias: u32,
    pub(crate) routes: u32,
    pub(crate) uri: u32,
    pub(crate) user: u32,
    pub(crate) uri_headers: bool,
    pub(crate) bare_cookie: bool,
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self {
            entries: Vec::with_capacity(48),
            first: [NONE; COUNT],
            repeated: 0,
            start: Start::default(),
            via: ViaSpans::default(),
            from: None,
            to: None,
            body: 0,
            content_length: None,
            fault: None,
            has_bare_lf: false,
            is_boundary_unsafe: false,
            bounds: Bounds::default(),
        }
    }

    /// Forgets the message, keeps the memory. [`super::parse`] does this by itself.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.first = [NONE; COUNT];
        self.repeated = 0;
        self.start = Start::default();
        self.via = ViaSpans::default();
        self.from = None;
        self.to = None;
        self.body = 0;
        self.content_length = None;
        self.fault = None;
        self.has_bare_lf = false;
        self.is_boundary_unsafe = false;
    }

    /// Adds a header field. The caller keeps the number of fields under `u16::MAX`.
    #[allow(clippy::indexing_slicing)] // a Name is less than COUNT
    #[inline]
    pub(crate) fn push(&mut self, entry: Entry) {
        let name = entry.name as usize;
        if self.first[name] == NONE {
            self.first[name] = self.entries.len() as u16;
        } else {
            self.repeated |= 1 << name;
        }
        self.entries.push(entry);
    }

    /// Position of the first field of this name.
    #[allow(clippy::indexing_slicing)] // a Name is less than COUNT
    pub(crate) fn first(&self, name: Name) -> Option<usize> {
        Some(self.first[name as usize]).filter(|&i| i != NONE).map(usize::from)
    }

    /// Where the value of the first field of this name stands.
    pub(crate) fn value(&self, name: Name) -> Option<Range<usize>> {
        let entry = self.first(name).and_then(|i| self.entries.get(i))?;
        Some(entry.value_start as usize..entry.value_end as usize)
    }

    pub(crate) fn is_repeated(&self, name: Name) -> bool {
        self.repeated & (1 << name as u32) != 0
    }

    /// Notes a fault that makes the place of the next message on a stream doubtful.
    pub(crate) fn note_unsafe(&mut self, fault: Refusal) {
        self.is_boundary_unsafe = true;
        self.note(fault);
    }

    /// Notes a fault; the first one noted stays.
    pub(crate) fn note(&mut self, fault: Refusal) {
        self.fault.get_or_insert(fault);
    }
}
