//! The entry points: one record onto one page, and a whole chain.
//!
//! What a record does to a page is decided by the page's key: a relation block that the record names goes to the routine of
//! the resource manager; a visibility map block that it does not name is cleared; SLRU blocks have effects of their own.

use super::slru::{self, SlruPage};
use super::{ApplyContext, Effect, RedoError, Step, StepError, brin, btree, generic, heap, heap2, image, rmid, sequence, vm};
use crate::pg::page::{Page, PageBytes};
use crate::pg::xlog::record::{BlockRef, Record};
use crate::types::key::KeyKind;
use crate::types::{Fork, Key, Lsn, PAGE_SIZE, RelTag, SlruKind};

/// A page in work; can be loaded again and again without allocating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageBuf {
    page: Box<PageBytes>,
    present: bool,
    newest_commit: Option<i64>,
}

impl Default for PageBuf {
    fn default() -> PageBuf {
        PageBuf::new()
    }
}

impl PageBuf {
    /// An absent page.
    pub fn new() -> PageBuf {
        PageBuf { page: Box::new([0; PAGE_SIZE]), present: false, newest_commit: None }
    }

    /// Replaces the content by a stored value: 8192 bytes, or 8200 for pg_xact (page + i64 big-endian); `None` = no base.
    ///
    /// Errors: any other length.
    pub fn load(&mut self, key: Key, base: Option<&[u8]>) -> Result<(), RedoError> {
        self.newest_commit = None;
        self.present = base.is_some();
        let Some(base) = base else {
            self.page.fill(0);
            return Ok(());
        };
        let bad = || RedoError::Base { key, len: base.len() };
        let (page, newest_commit) = split_value(base).ok_or_else(bad)?;
        let clog = key.field1 == 1 && key.field2 == SlruKind::Clog as u32;
        if newest_commit.is_some() && !clog {
            return Err(bad());
        }
        self.newest_commit = newest_commit;
        self.page.copy_from_slice(page);
        Ok(())
    }

    /// The page's 8192 bytes.
    pub fn page(&self) -> &PageBytes {
        &self.page
    }

    pub fn page_mut(&mut self) -> &mut PageBytes {
        &mut self.page
    }

    /// Whether there was a base or a record that made the page.
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// The value to store: see [`PageBuf::load`].
    pub fn to_value(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(PAGE_SIZE + size_of::<i64>());
        value.extend_from_slice(&self.page[..]);
        if let Some(time) = self.newest_commit {
            value.extend_from_slice(&time.to_be_bytes());
        }
        value
    }
}

/// The page of a stored value and, behind it on pages of pg_xact, the time of the newest commit on the page (i64, big-endian,
/// microseconds since 2000); `None` for any other length.
pub fn split_value(value: &[u8]) -> Option<(&PageBytes, Option<i64>)> {
    let (page, suffix) = value.split_first_chunk::<PAGE_SIZE>()?;
    match suffix.is_empty() {
        true => Some((page, None)),
        false => Some((page, Some(i64::from_be_bytes(suffix.try_into().ok()?)))),
    }
}

/// Whether history of `key` below this record is not needed: an image to apply, WILL_INIT, or the zeroing of an SLRU page
/// (whose number is taken on trust: the record is in this key's chain).
pub fn replaces_page(record: &Record<'_>, key: Key) -> bool {
    match key.kind() {
        Some(KeyKind::RelBlock { rel, block }) => find(record, rel, block).is_some_and(BlockRef::replaces_page),
        Some(KeyKind::SlruBlock { kind, .. }) => slru::is_zero_page(record, kind),
        _ => false,
    }
}

/// Applies one record, whole and with its header first, to the page of `key`. `record_end` is the end of the record, rounded
/// up to 8: the new page LSN.
///
/// Errors: [`RedoError`]; the page is then not to be used further.
pub fn apply_record(ctx: &ApplyContext, key: Key, page: &mut PageBuf, record_end: Lsn, record: &[u8]) -> Result<(), RedoError> {
    let decoded = Record::decode(record, ctx.version).map_err(|source| RedoError::Decode { lsn: record_end, key, source })?;
    apply_decoded(ctx, key, page, record_end, &decoded)
}

/// [`apply_record`] for a record that is already decoded.
pub(super) fn apply_decoded(
    ctx: &ApplyContext,
    key: Key,
    page: &mut PageBuf,
    record_end: Lsn,
    record: &Record<'_>,
) -> Result<(), RedoError> {
    let done = match key.kind() {
        Some(KeyKind::RelBlock { rel, block }) => relation_block(ctx, record, rel, block, page, record_end),
        Some(KeyKind::SlruBlock { kind, segment, block }) => slru_block(ctx, record, kind, segment, block, page),
        _ => return Err(RedoError::NotAPage(key)),
    };
    let (rmgr, opcode) = (record.header.rmid, record.header.info & 0xF0);
    done.map_err(|source| match source {
        StepError::Unhandled => RedoError::Unhandled { rmgr, opcode, lsn: record_end, key },
        source => RedoError::Apply { rmgr, opcode, lsn: record_end, key, source },
    })?;
    page.present = true;
    Ok(())
}

/// Replays a chain of records (end LSN, bytes) in order onto a base and returns the value to store.
///
/// Errors: the first record that cannot be applied.
pub fn replay<'a>(
    ctx: &ApplyContext,
    key: Key,
    base: Option<&[u8]>,
    records: impl IntoIterator<Item = (Lsn, &'a [u8])>,
) -> Result<Vec<u8>, RedoError> {
    let mut page = PageBuf::new();
    page.load(key, base)?;
    for (record_end, record) in records {
        apply_record(ctx, key, &mut page, record_end, record)?;
    }
    Ok(page.to_value())
}

#[inline]
fn find<'r, 'a>(record: &'r Record<'a>, rel: RelTag, block: u32) -> Option<&'r BlockRef<'a>> {
    record.blocks.iter().find(|b| b.block == block && b.rel == rel)
}

fn slru_block(
    ctx: &ApplyContext,
    record: &Record<'_>,
    kind: SlruKind,
    segment: u32,
    block: u32,
    page: &mut PageBuf,
) -> Result<(), StepError> {
    let number = segment.wrapping_mul(SlruKind::PAGES_PER_SEGMENT).wrapping_add(block);
    let PageBuf { page, present, newest_commit } = page;
    slru::apply(record, ctx.version, SlruPage { kind, number, present: *present, bytes: page, newest_commit })
}

fn relation_block(
    ctx: &ApplyContext,
    record: &Record<'_>,
    rel: RelTag,
    number: u32,
    page: &mut PageBuf,
    lsn: Lsn,
) -> Result<(), StepError> {
    let Some(block) = find(record, rel, number) else {
        return match rel.fork {
            Fork::Vm => vm::implicit(ctx, record, rel, number, &mut page.page),
            _ => Err(StepError::Unrelated),
        };
    };
    if let Some(image) = block.image.as_ref().filter(|image| image.apply) {
        if changes_restored_page(record, block.id) {
            return Err(StepError::Unhandled);
        }
        image::restore_image(image, &mut page.page)?;
        if !page.page.is_new() {
            page.page.set_lsn(lsn);
        }
        return Ok(());
    }
    let is_map = rel.fork == Fork::Vm;
    if !page.present && !block.will_init && !is_map {
        return Err(StepError::NoBase);
    }
    if ctx.skip_applied && !block.will_init && page.page.lsn() >= lsn {
        return Ok(());
    }
    let step = Step { ctx, record, block };
    if redo(step, &mut page.page)? == Effect::Changed {
        page.page.set_lsn(lsn);
    }
    Ok(())
}

#[inline]
fn redo(step: Step<'_, '_>, page: &mut PageBytes) -> Result<Effect, StepError> {
    match step.record.header.rmid {
        rmid::HEAP => heap::redo(step, page),
        rmid::HEAP2 => heap2::redo(step, page),
        rmid::BTREE => btree::redo(step, page),
        rmid::SEQ => sequence::redo(step, page),
        rmid::GENERIC => generic::redo(step, page),
        rmid::BRIN => brin::redo(step, page),
        // FPI_FOR_HINT without an image (full_page_writes off) leaves the page as it is.
        rmid::XLOG if step.info() == 0xA0 => Ok(Effect::Nothing),
        _ => Err(StepError::Unhandled),
    }
}

/// Whether the record's image is not yet the page: hash and GiST routines change it once more. A page of theirs is an error then,
/// never the bare image.
pub fn changes_restored_page(record: &Record<'_>, id: u8) -> bool {
    let op = record.header.info & 0xF0;
    match record.header.rmid {
        rmid::HASH => op == 0x40 && id == 0 || op == 0x60,
        rmid::GIST => op == 0x00 && id == 1 || op == 0x30 && id == 0,
        _ => false,
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
