//! Redo of heap records (rmid 10): one tuple inserted, deleted, updated, locked or overwritten.
//!
//! | offset | size | tuple header |
//! | --- | --- | --- |
//! | 0, 4 | 4 each | xmin, xmax |
//! | 8 | 4 | command id, or xvac |
//! | 12 | 6 | ctid: block high u16, block low u16, line pointer u16 |
//! | 18, 20 | 2 each | infomask2, infomask |
//! | 22 | 1 | hoff: where the columns start |
//!
//! Source: PostgreSQL 15 `access/htup_details.h`, `access/heapam_xlog.h`; reference wal-redo, section 4.

use super::cut::Cut;
use super::{Effect, Step, StepError};
use crate::pg::page::{AddMode, PD_ALL_VISIBLE, Page, PageBytes};
use std::ops::Range;

/// Size of the fixed tuple header in bytes.
pub(super) const TUPLE_HEADER: usize = 23;
/// Line pointers beyond this never occur on a heap page (`MaxHeapTuplesPerPage`).
const TUPLES_MAX: u16 = 291;

pub(super) const OP_MASK: u8 = 0x70;
pub(super) const INIT_PAGE: u8 = 0x80;

const COMBO_CID: u16 = 0x0020;
const XMAX_EXCL_LOCK: u16 = 0x0040;
const XMAX_KEYSHR_LOCK: u16 = 0x0010;
const XMAX_LOCK_ONLY: u16 = 0x0080;
const XMAX_IS_MULTI: u16 = 0x1000;
const XMAX_BITS: u16 = 0x1CD0;
const MOVED: u16 = 0xC000;
const KEYS_UPDATED: u16 = 0x2000;
const HOT_UPDATED: u16 = 0x4000;

/// All visible bits of the old or only page were cleared.
const ALL_VISIBLE_CLEARED: u8 = 1;
const UPDATE_NEW_ALL_VISIBLE_CLEARED: u8 = 2;
const UPDATE_PREFIX_FROM_OLD: u8 = 0x20;
const UPDATE_SUFFIX_FROM_OLD: u8 = 0x40;
const DELETE_IS_SUPER: u8 = 8;
const DELETE_MOVED_PARTITION: u8 = 0x10;
/// 17+: a single insert of a frozen tuple.
const ALL_FROZEN_SET: u8 = 0x20;

/// The fixed part of a tuple.
pub(super) type Header = [u8; TUPLE_HEADER];

/// The header of an existing tuple.
#[inline]
pub(super) fn header(page: &mut PageBytes, number: u16) -> Result<&mut Header, StepError> {
    let range = page.tuple_range(number)?;
    page[range].first_chunk_mut().ok_or(StepError::TupleShort(number))
}

#[inline]
fn get16(header: &Header, at: usize) -> u16 {
    u16::from_le_bytes([header[at], header[at + 1]])
}

#[inline]
fn set16(header: &mut Header, at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

#[inline]
fn set32(header: &mut Header, at: usize, value: u32) {
    header[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn set_xmax(header: &mut Header, xid: u32) {
    set32(header, 4, xid);
}

pub(super) fn set_xvac(header: &mut Header, xid: u32) {
    set32(header, 8, xid);
}

pub(super) fn set_infomasks(header: &mut Header, infomask2: u16, infomask: u16) {
    set16(header, 18, infomask2);
    set16(header, 20, infomask);
}

#[inline]
fn set_ctid(header: &mut Header, block: u32, number: u16) {
    set16(header, 12, (block >> 16) as u16);
    set16(header, 14, block as u16);
    set16(header, 16, number);
}

/// Command id 0, not combined.
#[inline]
fn clear_cid(header: &mut Header) {
    set32(header, 8, 0);
    let infomask = get16(header, 20);
    set16(header, 20, infomask & !COMBO_CID);
}

/// Replaces everything that the masks say of xmax by what the record's `infobits` say.
#[inline]
pub(super) fn set_xmax_bits(header: &mut Header, infobits: u8) {
    let mut infomask = get16(header, 20) & !(XMAX_BITS | MOVED);
    let mut infomask2 = get16(header, 18) & !KEYS_UPDATED;
    for (bit, mask) in [(1, XMAX_IS_MULTI), (2, XMAX_LOCK_ONLY), (4, XMAX_EXCL_LOCK), (8, XMAX_KEYSHR_LOCK)] {
        if infobits & bit != 0 {
            infomask |= mask;
        }
    }
    if infobits & 0x10 != 0 {
        infomask2 |= KEYS_UPDATED;
    }
    set_infomasks(header, infomask2, infomask);
}

#[inline]
fn set_hot_updated(header: &mut Header, on: bool) {
    let infomask2 = get16(header, 18);
    set16(header, 18, if on { infomask2 | HOT_UPDATED } else { infomask2 & !HOT_UPDATED });
}

/// xmax is a lock, not a deletion.
#[inline]
fn is_locked_only(header: &Header) -> bool {
    let infomask = get16(header, 20);
    infomask & XMAX_LOCK_ONLY != 0 || infomask & (XMAX_IS_MULTI | XMAX_EXCL_LOCK | XMAX_KEYSHR_LOCK) == XMAX_EXCL_LOCK
}

/// Whether xid `a` is older than `b`; xids below 3 are special and older than all others.
#[inline]
fn precedes(a: u32, b: u32) -> bool {
    if a < 3 || b < 3 { a < b } else { (a.wrapping_sub(b) as i32) < 0 }
}

#[inline]
fn set_prunable(page: &mut PageBytes, xid: u32) {
    let present = page.prune_xid();
    if present == 0 || precedes(xid, present) {
        page.set_prune_xid(xid);
    }
}

/// What a record carries of a new tuple's header.
#[derive(Clone, Copy)]
pub(super) struct NewHeader {
    pub infomask2: u16,
    pub infomask: u16,
    pub hoff: u8,
}

impl NewHeader {
    #[inline]
    pub fn read(cut: &mut Cut<'_>) -> Result<NewHeader, StepError> {
        Ok(NewHeader { infomask2: cut.u16()?, infomask: cut.u16()?, hoff: cut.u8()? })
    }

    /// The full header of a tuple at (block, number), its command id 0.
    #[inline]
    pub fn build(self, xmin: u32, xmax: u32, block: u32, number: u16) -> Header {
        let mut header = [0; TUPLE_HEADER];
        set32(&mut header, 0, xmin);
        set32(&mut header, 4, xmax);
        set_ctid(&mut header, block, number);
        set_infomasks(&mut header, self.infomask2, self.infomask & !COMBO_CID);
        header[22] = self.hoff;
        header
    }
}

/// Puts a tuple of `header` and `body` at line pointer `number`, which must be free.
#[inline]
pub(super) fn place(page: &mut PageBytes, number: u16, header: &Header, body: &[u8]) -> Result<(), StepError> {
    let at = reserve(page, number, TUPLE_HEADER + body.len())?;
    page[at..at + TUPLE_HEADER].copy_from_slice(header);
    page[at + TUPLE_HEADER..at + TUPLE_HEADER + body.len()].copy_from_slice(body);
    Ok(())
}

fn reserve(page: &mut PageBytes, number: u16, len: usize) -> Result<usize, StepError> {
    if number > TUPLES_MAX {
        return Err(StepError::Range("line pointer number"));
    }
    Ok(page.reserve(len, number, AddMode::Overwrite)?)
}

/// Applies a heap record to one of its blocks.
pub(super) fn redo(step: Step<'_, '_>, page: &mut PageBytes) -> Result<Effect, StepError> {
    match step.info() & OP_MASK {
        0x00 => insert(step, page)?,
        0x10 => delete(step, page)?,
        op @ (0x20 | 0x40) => update(step, page, op == 0x40)?,
        0x50 => confirm(step, page)?,
        0x60 => lock(step, page)?,
        0x70 => inplace(step, page)?,
        _ => return Err(StepError::Unhandled),
    }
    Ok(Effect::Changed)
}

fn insert(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut main = step.main();
    let (number, flags) = (main.u16()?, main.u8()?);
    if step.info() & INIT_PAGE != 0 {
        page.init(0);
    }
    let mut data = step.data();
    let header = NewHeader::read(&mut data)?.build(step.record.header.xid, 0, step.block.block, number);
    place(page, number, &header, data.rest())?;
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(PD_ALL_VISIBLE, false);
    }
    if flags & ALL_FROZEN_SET != 0 {
        page.set_flag(PD_ALL_VISIBLE, true);
    }
    Ok(())
}

fn delete(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut main = step.main();
    let (xmax, number, infobits, flags) = (main.u32()?, main.u16()?, main.u8()?, main.u8()?);
    let header = header(page, number)?;
    set_xmax_bits(header, infobits);
    set_hot_updated(header, false);
    if flags & DELETE_IS_SUPER != 0 {
        set32(header, 0, 0);
    } else {
        set_xmax(header, xmax);
    }
    clear_cid(header);
    match flags & DELETE_MOVED_PARTITION != 0 {
        true => set_ctid(header, u32::MAX, 0xFFFD),
        false => set_ctid(header, step.block.block, number),
    }
    set_prunable(page, step.record.header.xid);
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(PD_ALL_VISIBLE, false);
    }
    Ok(())
}

/// Main data of UPDATE and HOT_UPDATE.
struct Update {
    old_xmax: u32,
    old_number: u16,
    old_infobits: u8,
    flags: u8,
    new_xmax: u32,
    new_number: u16,
}

fn update(step: Step<'_, '_>, page: &mut PageBytes, hot: bool) -> Result<(), StepError> {
    let mut main = step.main();
    let update = Update {
        old_xmax: main.u32()?,
        old_number: main.u16()?,
        old_infobits: main.u8()?,
        flags: main.u8()?,
        new_xmax: main.u32()?,
        new_number: main.u16()?,
    };
    let same_page = step.record.block(1).is_none();
    let mut old = None;
    if same_page || step.block.id == 1 {
        old = Some(page.tuple_range(update.old_number)?);
        update_old(step, page, &update, hot)?;
    }
    if step.block.id == 0 {
        if step.info() & INIT_PAGE != 0 {
            page.init(0);
        }
        update_new(step, page, &update, old)?;
    }
    Ok(())
}

fn update_old(step: Step<'_, '_>, page: &mut PageBytes, update: &Update, hot: bool) -> Result<(), StepError> {
    let header = header(page, update.old_number)?;
    set_xmax_bits(header, update.old_infobits);
    set_hot_updated(header, hot);
    set_xmax(header, update.old_xmax);
    clear_cid(header);
    set_ctid(header, step.block_number(0)?, update.new_number);
    set_prunable(page, step.record.header.xid);
    if update.flags & ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(PD_ALL_VISIBLE, false);
    }
    Ok(())
}

/// `old`: where the old tuple lies if it is on this page; the record may leave out what both have in common.
fn update_new(step: Step<'_, '_>, page: &mut PageBytes, update: &Update, old: Option<Range<usize>>) -> Result<(), StepError> {
    let mut data = step.data();
    let mut common = |flag| if update.flags & flag != 0 { data.u16().map(usize::from) } else { Ok(0) };
    let (prefix, suffix) = (common(UPDATE_PREFIX_FROM_OLD)?, common(UPDATE_SUFFIX_FROM_OLD)?);
    let new = NewHeader::read(&mut data)?;
    let header = new.build(step.record.header.xid, update.new_xmax, step.block.block, update.new_number);
    if prefix == 0 && suffix == 0 {
        place(page, update.new_number, &header, data.rest())?;
    } else {
        let old = old.ok_or(StepError::Range("prefix or suffix of a tuple on another page"))?;
        let bitmap = usize::from(new.hoff).checked_sub(TUPLE_HEADER).ok_or(StepError::Range("hoff"))?;
        let bitmap = if prefix > 0 { data.take(bitmap)? } else { &[] };
        let middle = data.rest();
        let old_columns = old.start + usize::from(page[old.start + 22]);
        if old_columns + prefix > old.end || suffix > old.len() {
            return Err(StepError::Range("prefix or suffix"));
        }
        let len = TUPLE_HEADER + bitmap.len() + prefix + middle.len() + suffix;
        let mut at = reserve(page, update.new_number, len)?;
        for part in [&header[..], bitmap] {
            page[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        page.copy_within(old_columns..old_columns + prefix, at);
        at += prefix;
        page[at..at + middle.len()].copy_from_slice(middle);
        page.copy_within(old.end - suffix..old.end, at + middle.len());
    }
    if update.flags & UPDATE_NEW_ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(PD_ALL_VISIBLE, false);
    }
    Ok(())
}

/// A speculative insertion became a real one.
fn confirm(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let number = step.main().u16()?;
    set_ctid(header(page, number)?, step.block.block, number);
    Ok(())
}

fn lock(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut main = step.main();
    let (xmax, number, infobits) = (main.u32()?, main.u16()?, main.u8()?);
    let header = header(page, number)?;
    set_xmax_bits(header, infobits);
    if is_locked_only(header) {
        set_hot_updated(header, false);
        set_ctid(header, step.block.block, number);
    }
    set_xmax(header, xmax);
    clear_cid(header);
    Ok(())
}

fn inplace(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let number = step.main().u16()?;
    let columns = usize::from(header(page, number)?[22]);
    let range = page.tuple_range(number)?;
    let target = page[range].get_mut(columns..).filter(|t| t.len() == step.block.data.len());
    target.ok_or(StepError::TupleKind(number))?.copy_from_slice(step.block.data);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xid_order_wraps() {
        for (a, b, older) in [(3, 4, true), (4, 3, false), (u32::MAX, 3, true), (0, u32::MAX, true), (2, 3, true), (3, 0x8000_0003, true)] {
            assert_eq!(precedes(a, b), older, "{a} {b}");
        }
    }

    #[test]
    fn lock_only_forms() {
        for (infobits, only) in [(2, true), (4, true), (2 | 1, true), (1 | 4, false), (8, false), (4 | 8, false), (0, false)] {
            let mut header = [0xFF; TUPLE_HEADER];
            set_xmax_bits(&mut header, infobits);
            assert_eq!(is_locked_only(&header), only, "{infobits}");
        }
    }
}
