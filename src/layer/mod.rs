//! Layers: immutable files of page versions, and the in-memory layer that becomes one.
//!
//! A *delta* layer holds values of a key range over an LSN range, an *image* layer whole values of a key range at one LSN.
//! Reading a key walks layers from new to old and collects records until a base is found: see [`Reconstruct`].

pub mod cache;
pub mod file;
pub mod format;
pub mod map;
pub mod memory;
pub mod name;
pub mod scan;
pub mod writer;

#[cfg(test)]
mod tests;

pub use cache::BlockCache;
pub use file::{LayerError, LayerFile};
pub use map::{Below, LayerMap};
pub use memory::{Batch, MemoryLayer, SortedVersions};
pub use name::{LayerKind, LayerName};
pub use scan::Scan;
pub use writer::LayerWriter;

use crate::types::Lsn;
use bytes::Bytes;
use std::ops::Range;

/// What a stored value is. Numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ValueKind {
    /// The whole value. An empty image of a relation or SLRU block stands for a page of zeros.
    Image = 0,
    /// A WAL record to apply on the value below it.
    Record = 1,
    /// A WAL record that needs no value below it.
    InitRecord = 2,
}

impl ValueKind {
    pub fn from_number(number: u8) -> Option<ValueKind> {
        [ValueKind::Image, ValueKind::Record, ValueKind::InitRecord].get(usize::from(number)).copied()
    }

    /// Nothing older is needed to read this version.
    pub fn is_base(self) -> bool {
        self != ValueKind::Record
    }
}

/// Collects what is needed to rebuild one key at one LSN, newest first.
#[derive(Debug, Default)]
pub struct Reconstruct {
    bytes: Vec<u8>,
    /// The image at the bottom, if it is kept where it was found.
    shared_base: Option<Bytes>,
    /// Newest first; the last one is a base when `complete`.
    values: Vec<(Lsn, ValueKind, Range<usize>)>,
    complete: bool,
    /// Layer files that were looked into for data, a figure for tests and metrics.
    pub layers_visited: u32,
}

impl Reconstruct {
    /// Adds the next older value. Gives true when no older one is needed.
    pub fn push(&mut self, lsn: Lsn, kind: ValueKind, value: &[u8]) -> bool {
        debug_assert!(!self.complete, "values below a base are not asked for");
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.values.push((lsn, kind, start..self.bytes.len()));
        self.complete = kind.is_base();
        self.complete
    }

    /// As [`Reconstruct::push`], for a part of a block: an image is not copied.
    pub fn push_shared(&mut self, lsn: Lsn, kind: ValueKind, block: &Bytes, range: Range<usize>) -> bool {
        if kind != ValueKind::Image {
            return self.push(lsn, kind, &block[range]);
        }
        self.shared_base = Some(block.slice(range));
        self.push(lsn, kind, &[])
    }

    /// Adds what an older layer gave.
    pub fn append(&mut self, older: Reconstruct) {
        debug_assert!(!self.complete || older.values.is_empty(), "values below a base are not asked for");
        let shift = self.bytes.len();
        self.bytes.extend_from_slice(&older.bytes);
        self.values.extend(older.values.into_iter().map(|(lsn, kind, range)| (lsn, kind, range.start + shift..range.end + shift)));
        self.complete |= older.complete;
        self.shared_base = self.shared_base.take().or(older.shared_base);
        self.layers_visited += older.layers_visited;
    }

    pub fn is_complete(&self) -> bool {
        self.complete
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The image at the bottom, if there is one.
    pub fn base(&self) -> Option<&[u8]> {
        let (_, kind, range) = self.values.last()?;
        (*kind == ValueKind::Image).then(|| self.shared_base.as_deref().unwrap_or(&self.bytes[range.clone()]))
    }

    /// [`Reconstruct::base`] as bytes of their own.
    pub fn base_bytes(&self) -> Option<Bytes> {
        self.shared_base.clone().or_else(|| self.base().map(Bytes::copy_from_slice))
    }

    /// Records above the base, oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = (Lsn, &[u8])> + Clone {
        let skip = usize::from(self.base().is_some());
        self.values.iter().rev().skip(skip).map(|(lsn, _, range)| (*lsn, &self.bytes[range.clone()]))
    }

    pub fn record_count(&self) -> usize {
        self.values.len() - usize::from(self.base().is_some())
    }

    /// LSN of the newest value found.
    pub fn newest_lsn(&self) -> Option<Lsn> {
        self.values.first().map(|v| v.0)
    }
}
