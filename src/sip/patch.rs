//! Edits over one received message, written once (house rule: patch the received bytes, never rebuild them).

use std::ops::Range;

#[derive(Debug, Clone, Copy)]
struct Edit {
    /// Octets of the message this edit replaces; empty for an insertion.
    start: u32,
    end: u32,
    /// Where its text lies in the arena.
    text: u32,
    text_end: u32,
    /// Order of arrival, so that sorting keeps equal positions in order.
    order: u32,
}

/// A reusable set of edits. They may come in any order; edits at one position are written in the order they were added.
///
/// Where removed ranges overlap, their union is removed; the text of an edit that begins inside a range removed or replaced by
/// another goes with it. Nothing is allocated in steady state.
#[derive(Debug, Default)]
pub struct Patch {
    edits: Vec<Edit>,
    arena: Vec<u8>,
}

impl Patch {
    /// No edits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the edits, keeps the memory.
    pub fn clear(&mut self) {
        self.edits.clear();
        self.arena.clear();
    }

    /// No edits were added.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Inserts `bytes` before the octet at `at`.
    pub fn insert(&mut self, at: usize, bytes: &[u8]) {
        self.replace(at..at, bytes);
    }

    /// Inserts what `write` appends to the buffer it is given, before the octet at `at`.
    pub fn insert_with(&mut self, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.replace_with(at..at, write);
    }

    /// Replaces `range` by `bytes`.
    pub fn replace(&mut self, range: Range<usize>, bytes: &[u8]) {
        self.replace_with(range, |out| out.extend_from_slice(bytes));
    }

    /// Replaces `range` by what `write` appends to the buffer it is given.
    pub fn replace_with(&mut self, range: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        let text = self.arena.len() as u32;
        write(&mut self.arena);
        self.edits.push(Edit {
            start: range.start as u32,
            end: range.end.max(range.start) as u32,
            text,
            // `write` might have shortened the buffer: never let the text reach back into another edit's.
            text_end: (self.arena.len() as u32).max(text),
            order: self.edits.len() as u32,
        });
    }

    /// Removes `range`.
    pub fn remove(&mut self, range: Range<usize>) {
        self.replace_with(range, |_| {});
    }

    /// Appends the edited message to `out`. The edits stay, so the same copy can be written again.
    pub fn write(&mut self, message: &[u8], out: &mut Vec<u8>) {
        self.edits.sort_unstable_by_key(|e| (e.start, e.order));
        out.reserve(message.len() + self.arena.len());
        let mut cut = 0..0;
        for edit in &self.edits {
            let start = (edit.start as usize).min(message.len());
            let end = (edit.end as usize).max(start);
            if cut.start < start && start < cut.end {
                cut.end = cut.end.max(end);
                continue;
            }
            out.extend_from_slice(message.get(cut.end..start).unwrap_or_default());
            out.extend_from_slice(self.arena.get(edit.text as usize..edit.text_end as usize).unwrap_or_default());
            cut = start..end.max(cut.end);
        }
        out.extend_from_slice(message.get(cut.end..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(message: &str, edits: impl FnOnce(&mut Patch)) -> String {
        let mut patch = Patch::new();
        edits(&mut patch);
        let mut out = Vec::new();
        patch.write(message.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn edits_in_any_order_and_stable_at_one_place() {
        let out = edited("0123456789", |p| {
            p.replace(8..9, b"EIGHT");
            p.insert(2, b"a");
            p.insert(2, b"b");
            p.remove(4..6);
            p.insert_with(10, |out| out.extend_from_slice(b"end"));
            p.insert(0, b"start");
        });
        assert_eq!(out, "start01ab2367EIGHT9end");
    }

    #[test]
    fn overlaps_remove_the_union_and_nothing_panics() {
        assert_eq!(
            edited("0123456789", |p| {
                p.remove(2..6);
                p.remove(4..8);
                p.insert(5, b"x");
            }),
            "0189"
        );
        assert_eq!(edited("01", |p| p.replace(5..9, b"x")), "01x");
    }

    #[test]
    fn text_at_the_edges_of_a_removed_range_stays() {
        for remove_first in [true, false] {
            let out = edited("0123456789", |p| {
                if remove_first {
                    p.remove(2..6);
                }
                p.insert(2, b"a");
                p.insert(6, b"b");
                if !remove_first {
                    p.remove(2..6);
                }
                p.replace(4..5, b"inside");
            });
            assert_eq!(out, "01ab6789");
        }
    }

    #[test]
    fn a_cleared_patch_writes_the_message() {
        let mut patch = Patch::new();
        patch.insert(0, b"x");
        patch.clear();
        let mut out = Vec::new();
        patch.write(b"same", &mut out);
        assert_eq!(out, b"same");
    }
}
