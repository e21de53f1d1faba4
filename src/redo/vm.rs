//! The visibility map: two bits per heap block (1 all visible, 2 all frozen) from byte 24 on.
//!
//! Bits are set by heap2 VISIBLE, which names the map page. They are cleared by heap records and by truncation, which do
//! not name it: those effects are computed here from the record, and they leave the page's LSN alone.
//! Source: PostgreSQL 15 `access/visibilitymap.h`; reference wal-redo, section 5.

use super::heap::OP_MASK;
use super::{ApplyContext, Effect, Step, StepError, rmid};
use crate::pg::page::{PAGE_HEADER, PD_ALL_VISIBLE, Page, PageBytes};
use crate::pg::version::PgVersion;
use crate::pg::xlog::record::Record;
use crate::types::{Fork, PAGE_SIZE, RelTag};

const BLOCKS_PER_BYTE: u32 = 4;
/// Heap blocks that one map page covers.
pub(super) const BLOCKS_PER_PAGE: u32 = (PAGE_SIZE - PAGE_HEADER) as u32 * BLOCKS_PER_BYTE;
const BOTH: u8 = 3;
const ALL_FROZEN: u8 = 2;

/// Where the bits of a heap block are on its map page: (byte, shift).
fn position(heap_block: u32) -> (usize, u32) {
    let within = heap_block % BLOCKS_PER_PAGE;
    (PAGE_HEADER + (within / BLOCKS_PER_BYTE) as usize, within % BLOCKS_PER_BYTE * 2)
}

/// heap2 VISIBLE: reference 0 is the map page, reference 1 the heap page.
pub(super) fn visible(step: Step<'_, '_>, page: &mut PageBytes) -> Result<Effect, StepError> {
    let mut main = step.main();
    let (_conflict_xid, flags) = (main.u32()?, main.u8()?);
    if step.block.id == 1 {
        page.set_flag(PD_ALL_VISIBLE, true);
        return Ok(if step.ctx.page_lsn_on_visible { Effect::Changed } else { Effect::Nothing });
    }
    if page.is_new() {
        page.init(0);
    }
    let (byte, shift) = position(step.block_number(1)?);
    let bits = (flags & BOTH) << shift;
    if page[byte] >> shift & BOTH == flags & BOTH {
        return Ok(Effect::Nothing);
    }
    page[byte] |= bits;
    Ok(Effect::Changed)
}

/// Heap blocks whose bits a heap or heap2 record clears, with the bits: at most two.
///
/// Errors: main data too short for its opcode.
fn heap_clears(record: &Record<'_>) -> Result<[Option<(u32, u8)>; 2], StepError> {
    let byte = |at: usize| record.main.get(at).copied().ok_or(StepError::Short("main data"));
    let block = |id| record.block(id).map(|block| block.block);
    let first = block(0);
    Ok(match (record.header.rmid, record.header.info & OP_MASK) {
        (rmid::HEAP, 0x00) if byte(2)? & 1 != 0 => [first.map(|b| (b, BOTH)), None],
        (rmid::HEAP, 0x10) if byte(7)? & 1 != 0 => [first.map(|b| (b, BOTH)), None],
        (rmid::HEAP, 0x20 | 0x40) => {
            let flags = byte(7)?;
            let old = (flags & 1 != 0).then(|| block(1).or(first)).flatten();
            let new = (flags & 2 != 0).then_some(first).flatten();
            [old.map(|b| (b, BOTH)), new.map(|b| (b, BOTH))]
        }
        (rmid::HEAP, 0x60) | (rmid::HEAP2, 0x60) if byte(7)? & 1 != 0 => [first.map(|b| (b, ALL_FROZEN)), None],
        (rmid::HEAP2, 0x50) if byte(0)? & 1 != 0 => [first.map(|b| (b, BOTH)), None],
        _ => [None, None],
    })
}

/// The first heap block that a storage TRUNCATE of `rel`'s heap cuts off, if it truncates the map too.
fn truncation(record: &Record<'_>, rel: RelTag) -> Option<u32> {
    const TRUNCATE: u8 = 0x20;
    const TRUNCATE_VM: u32 = 2;
    if record.header.rmid != rmid::SMGR || record.header.info & 0xF0 != TRUNCATE {
        return None;
    }
    let word = |i: usize| record.main.get(4 * i..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b));
    let same = word(1)? == rel.spc && word(2)? == rel.db && word(3)? == rel.rel;
    (same && word(4)? & TRUNCATE_VM != 0).then(|| word(0)).flatten()
}

/// The map page before a heap2 VISIBLE that left `after` behind: only the bits of its heap block are known to have been 0.
pub(super) fn before_visible(record: &Record<'_>, after: &PageBytes) -> PageBytes {
    let mut page = *after;
    if let Some(heap) = record.block(1) {
        let (byte, shift) = position(heap.block);
        page[byte] &= !(BOTH << shift);
    }
    page
}

/// Whether `record` is a storage TRUNCATE that cuts the visibility map `rel` too.
pub(super) fn truncates(record: &Record<'_>, rel: RelTag) -> bool {
    truncation(record, rel).is_some()
}

/// Applies what `record` does to block `map_block` of the visibility map `rel` without naming it.
///
/// Errors: [`StepError::Unrelated`] if it does nothing to it.
pub(super) fn implicit(
    ctx: &ApplyContext,
    record: &Record<'_>,
    rel: RelTag,
    map_block: u32,
    page: &mut PageBytes,
) -> Result<(), StepError> {
    if page.is_new() && ctx.version <= PgVersion::V15 {
        // Up to 15 a stock server writes initialised pages when it extends the map; from 16 on zeros.
        page.init(0);
    }
    if let Some(heap_block) = truncation(record, rel) {
        if heap_block / BLOCKS_PER_PAGE != map_block {
            return Err(StepError::Unrelated);
        }
        let (byte, shift) = position(heap_block);
        page[byte] &= (1 << shift) - 1;
        page[byte + 1..].fill(0);
        return Ok(());
    }
    let heap = rel.with_fork(Fork::Main);
    let mut related = false;
    if record.blocks.first().is_some_and(|block| block.rel == heap) {
        for (heap_block, bits) in heap_clears(record)?.into_iter().flatten() {
            if heap_block / BLOCKS_PER_PAGE == map_block {
                let (byte, shift) = position(heap_block);
                page[byte] &= !(bits << shift);
                related = true;
            }
        }
    }
    if related { Ok(()) } else { Err(StepError::Unrelated) }
}

/// Map blocks that `record` clears bits of without naming them: for readers that find them by themselves.
///
/// Errors: main data too short for its opcode.
pub fn cleared_blocks(record: &Record<'_>) -> Result<impl Iterator<Item = (RelTag, u32)> + use<>, StepError> {
    let rel = record.blocks.first().map(|block| block.rel.with_fork(Fork::Vm));
    let [a, b] = heap_clears(record)?.map(|clear| clear.map(|(block, _)| block / BLOCKS_PER_PAGE));
    let b = b.filter(|_| a != b);
    Ok([a, b].into_iter().flatten().filter_map(move |block| Some((rel?, block))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        assert_eq!(BLOCKS_PER_PAGE, 32672);
        for (block, want) in [(0, (24, 0)), (3, (24, 6)), (4, (25, 0)), (32671, (8191, 6)), (32672, (24, 0))] {
            assert_eq!(position(block), want, "{block}");
        }
    }
}
