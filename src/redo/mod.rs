//! Base page + WAL records -> page.
//!
//! ```text
//! replay(base, records) -> apply -> image   | a full-page image replaces the page
//!                                   heap, heap2, btree, sequence, generic, brin   | the record names the block
//!                                   vm      | heap records clear visibility bits of a block they do not name
//!                                   slru    | commit, abort, multixact and commit timestamp records
//! pipe, child: the same code in another process      verify: the oracles over WAL with check images
//! ```
//!
//! Redo is per block: no routine needs another page. What must hold: a page equals byte for byte (apart from what
//! `pg::mask` hides) what a stock server makes of the same record; a record that cannot be applied is an error that names
//! resource manager, opcode, LSN and page, never a panic. Source: reference wal-redo.

mod apply;
mod brin;
mod btree;
pub mod child;
mod cut;
pub mod executor;
mod generic;
mod heap;
mod heap2;
mod image;
mod pglz;
pub mod pipe;
mod posting;
mod sequence;
mod slru;
#[cfg(test)]
mod testing;
pub mod verify;
mod vm;

pub use apply::{PageBuf, apply_record, changes_restored_page, replaces_page, replay, split_value};
pub use image::restore_image;
pub use vm::cleared_blocks;

use crate::pg::page::PageError;
pub use crate::pg::rmgr::id as rmid;
use crate::pg::version::PgVersion;
use crate::pg::xlog::record::{BlockRef, Record, RecordError};
use crate::types::{Key, Lsn};

/// What redo must know besides the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyContext {
    pub version: PgVersion,
    /// Data checksums or `wal_log_hints` are on: heap VISIBLE moves the LSN of the heap page.
    pub page_lsn_on_visible: bool,
    /// Leave out records that the page holds already (page LSN >= end of the record): for imports of fuzzy backups.
    pub skip_applied: bool,
}

impl ApplyContext {
    /// The context of exact bases, checksums on.
    pub fn new(version: PgVersion) -> ApplyContext {
        ApplyContext { version, page_lsn_on_visible: true, skip_applied: false }
    }
}

/// Why one record cannot be applied to one page.
#[derive(Debug, thiserror::Error)]
pub enum RedoError {
    #[error("no redo routine for rmgr {rmgr} opcode {opcode:02X}, record ending at {lsn}, {key:?}")]
    Unhandled { rmgr: u8, opcode: u8, lsn: Lsn, key: Key },
    #[error("record ending at {lsn} of {key:?} does not decode")]
    Decode {
        lsn: Lsn,
        key: Key,
        #[source]
        source: RecordError,
    },
    #[error("rmgr {rmgr} opcode {opcode:02X}, record ending at {lsn}, cannot be applied to {key:?}: {source}")]
    Apply {
        rmgr: u8,
        opcode: u8,
        lsn: Lsn,
        key: Key,
        #[source]
        source: StepError,
    },
    #[error("base value of {key:?} has {len} bytes")]
    Base { key: Key, len: usize },
    #[error("{0:?} is not a page that WAL records change")]
    NotAPage(Key),
}

/// What is wrong with a record or the page under it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("no redo routine")]
    Unhandled,
    #[error("the record does not concern this page")]
    Unrelated,
    #[error("the page has no base")]
    NoBase,
    #[error("the record's {0} ends early")]
    Short(&'static str),
    #[error("block reference {0} is missing")]
    NoBlock(u8),
    #[error("tuple {0} is too short")]
    TupleShort(u16),
    #[error("tuple {0} is not what the record expects")]
    TupleKind(u16),
    #[error("the special area is not that of the access method")]
    Special,
    #[error("{0} is out of range")]
    Range(&'static str),
    #[error("the page image does not unpack")]
    Image,
    #[error(transparent)]
    Page(#[from] PageError),
}

/// One record applied to one of its registered blocks.
#[derive(Clone, Copy)]
struct Step<'s, 'a> {
    ctx: &'s ApplyContext,
    record: &'s Record<'a>,
    block: &'s BlockRef<'a>,
}

impl<'a> Step<'_, 'a> {
    /// The opcode bits of the info byte, without the low nibble.
    fn info(&self) -> u8 {
        self.record.header.info & 0xF0
    }

    fn main(&self) -> cut::Cut<'a> {
        cut::Cut::new(self.record.main, "main data")
    }

    fn data(&self) -> cut::Cut<'a> {
        cut::Cut::new(self.block.data, "block data")
    }

    /// The block number of another reference.
    fn block_number(&self, id: u8) -> Result<u32, StepError> {
        self.record.block(id).map(|block| block.block).ok_or(StepError::NoBlock(id))
    }
}

/// Whether a routine moved the page's LSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Changed,
    /// The record names the page but leaves it as it is.
    Nothing,
}
