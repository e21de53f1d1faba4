//! Redo of btree records (rmid 11).
//!
//! The special area of a btree page: previous u32, next u32, level u32, flags u16, vacuum cycle u16. Pages are rebuilt in
//! the order in which a stock server rebuilds them, because the physical order of tuples is part of the page.
//! Source: PostgreSQL 15 `access/nbtree.h`, `access/nbtxlog.h`; reference wal-redo, section 4.

use super::cut::{Cut, numbers};
use super::posting::{self, INDEX_HEADER, Tids, TupleBuf};
use super::{Effect, Step, StepError};
use crate::pg::page::{AddMode, Page, PageBytes, align8};
use crate::types::PAGE_SIZE;
use smallvec::SmallVec;

/// Size of the special area.
const SPECIAL: usize = 16;
const PREV: usize = PAGE_SIZE - SPECIAL;
const NEXT: usize = PREV + 4;
const LEVEL: usize = PREV + 8;
const FLAGS: usize = PREV + 12;
const CYCLE: usize = PREV + 14;

/// Page flags in the special area.
mod flag {
    pub const LEAF: u16 = 1;
    pub const ROOT: u16 = 2;
    pub const DELETED: u16 = 4;
    pub const META: u16 = 8;
    pub const HALF_DEAD: u16 = 16;
    pub const HAS_GARBAGE: u16 = 64;
    pub const INCOMPLETE_SPLIT: u16 = 128;
    pub const HAS_FULL_XID: u16 = 256;
}

const META_MAGIC: u32 = 0x0005_3162;
/// Line pointer of the high key.
const HIGH_KEY: u16 = 1;

/// Applies a btree record to one of its blocks.
pub(super) fn redo(step: Step<'_, '_>, page: &mut PageBytes) -> Result<Effect, StepError> {
    match (step.info(), step.block.id) {
        (0x00 | 0x10 | 0x20, 0) => insert(step, page)?,
        (0x10 | 0x20, 1) | (0x30 | 0x40, 3) | (0xA0, 1) => clear_incomplete_split(page)?,
        (0x20, 2) | (0xA0, 2) | (0x90, 4) | (0xE0, 0) => restore_meta(step, page)?,
        (0x50, 0) => insert_posting(step, page)?,
        (op @ (0x30 | 0x40), 0) => split_left(step, page, op == 0x30)?,
        (0x30 | 0x40, 1) => split_right(step, page)?,
        (0x30 | 0x40, 2) => set_link(page, PREV, step.block_number(1)?)?,
        (0x60, 0) => dedup(step, page)?,
        (0x70 | 0xC0, 0) => delete(step, page)?,
        (0x80 | 0x90, id @ 0..=3) => unlink(step, page, id)?,
        (0xA0, 0) => new_root(step, page)?,
        (0xB0, id @ 0..=1) => mark_half_dead(step, page, id)?,
        _ => return Err(StepError::Unhandled),
    }
    Ok(Effect::Changed)
}

/// Checks that the special area is where a btree page has it; the fixed offsets above rely on it.
#[inline]
fn check_special(page: &PageBytes) -> Result<(), StepError> {
    if page.borders()?.special == PREV { Ok(()) } else { Err(StepError::Special) }
}

fn init(page: &mut PageBytes, prev: u32, next: u32, level: u32, flags: u16) {
    page.init(SPECIAL);
    page.set_u32_at(PREV, prev);
    page.set_u32_at(NEXT, next);
    page.set_u32_at(LEVEL, level);
    page.set_u16_at(FLAGS, flags);
}

fn clear_flag(page: &mut PageBytes, flag: u16) {
    let flags = page.u16_at(FLAGS);
    page.set_u16_at(FLAGS, flags & !flag);
}

fn set_link(page: &mut PageBytes, at: usize, block: u32) -> Result<(), StepError> {
    check_special(page)?;
    page.set_u32_at(at, block);
    Ok(())
}

fn clear_incomplete_split(page: &mut PageBytes) -> Result<(), StepError> {
    check_special(page)?;
    clear_flag(page, flag::INCOMPLETE_SPLIT);
    Ok(())
}

/// The page has no right neighbour: its first line pointer is data, not a high key.
fn is_rightmost(page: &PageBytes) -> bool {
    page.u32_at(NEXT) == 0
}

#[inline]
fn insert(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let number = step.main().u16()?;
    Ok(page.add_tuple(step.block.data, number, AddMode::Insert)?)
}

/// The new item falls into the posting list before it: it takes its place there, and the list's last TID is inserted.
fn insert_posting(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let number = step.main().u16()?;
    let mut data = step.data();
    let at = data.u16()?;
    let mut new = TupleBuf::from_slice(data.rest());
    let range = page.tuple_range(number.checked_sub(1).ok_or(StepError::Range("line pointer number"))?)?;
    posting::swap(&mut page[range], &mut new, at)?;
    Ok(page.add_tuple(&new, number, AddMode::Insert)?)
}

fn restore_meta(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut data = step.data();
    init(page, 0, 0, 0, flag::META);
    page.set_u32_at(24, META_MAGIC);
    // version, root, level, fast root, fast level, deleted pages
    for at in (28..52).step_by(4) {
        page.set_u32_at(at, data.u32()?);
    }
    page[56..64].copy_from_slice(&(-1f64).to_le_bytes());
    page[64] = data.u8()?;
    page.set_lower(72);
    Ok(())
}

/// Puts tuples on an empty page; the record lists them in physical order, which is the reverse of their numbers.
fn restore_tuples(page: &mut PageBytes, bytes: &[u8]) -> Result<(), StepError> {
    let mut tuples: SmallVec<[(u16, u16); 512]> = SmallVec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let len = align8(posting::tuple_len(rest)?);
        if len > rest.len() {
            return Err(StepError::Short("tuple list"));
        }
        tuples.push((at as u16, len as u16));
        at += len;
    }
    for (i, (at, len)) in tuples.iter().rev().enumerate() {
        let tuple = &bytes[usize::from(*at)..usize::from(*at) + usize::from(*len)];
        page.add_tuple(tuple, i as u16 + 1, AddMode::Insert)?;
    }
    Ok(())
}

/// Main data of SPLIT_L and SPLIT_R.
struct Split {
    level: u32,
    first_right: u16,
    new_number: u16,
    posting_at: u16,
}

impl Split {
    fn read(step: Step<'_, '_>) -> Result<Split, StepError> {
        let mut main = step.main();
        Ok(Split { level: main.u32()?, first_right: main.u16()?, new_number: main.u16()?, posting_at: main.u16()? })
    }

    fn leaf_flag(&self) -> u16 {
        if self.level == 0 { flag::LEAF } else { 0 }
    }
}

fn split_right(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let split = Split::read(step)?;
    let next = step.record.block(2).map_or(0, |block| block.block);
    init(page, step.block_number(0)?, next, split.level, split.leaf_flag());
    restore_tuples(page, step.block.data)
}

/// Takes the next tuple, padded to 8 bytes, from a record's data.
fn take_tuple<'a>(data: &mut Cut<'a>) -> Result<&'a [u8], StepError> {
    let len = align8(posting::tuple_len(data.rest())?);
    data.take(len)
}

fn split_left(step: Step<'_, '_>, page: &mut PageBytes, new_on_left: bool) -> Result<(), StepError> {
    check_special(page)?;
    let split = Split::read(step)?;
    let mut data = step.data();
    let mut new = TupleBuf::new();
    if new_on_left || split.posting_at != 0 {
        new.extend_from_slice(take_tuple(&mut data)?);
    }
    let mut left = page.empty_with_special()?;
    left.add_tuple(take_tuple(&mut data)?, HIGH_KEY, AddMode::Insert)?;
    let mut to = HIGH_KEY + 1;
    let mut add = |left: &mut PageBytes, tuple: &[u8]| {
        to += 1;
        left.add_tuple(tuple, to - 1, AddMode::Insert).map(|()| to - 1)
    };
    let mut swapped = split.posting_at == 0;
    let first = if is_rightmost(page) { 1 } else { 2 };
    for number in first..split.first_right {
        if new_on_left && number == split.new_number {
            add(&mut left, &new)?;
        }
        let added = add(&mut left, page.tuple(number)?)?;
        if split.posting_at != 0 && number + 1 == split.new_number {
            let range = left.tuple_range(added)?;
            posting::swap(&mut left[range], &mut new, split.posting_at)?;
            swapped = true;
        }
    }
    if new_on_left && split.new_number == split.first_right {
        add(&mut left, &new)?;
    }
    if !swapped {
        return Err(StepError::Range("posting list to split"));
    }
    *page = left;
    page.set_u16_at(FLAGS, flag::INCOMPLETE_SPLIT | split.leaf_flag());
    page.set_u32_at(NEXT, step.block_number(1)?);
    page.set_u16_at(CYCLE, 0);
    Ok(())
}

/// Merges runs of equal keys into posting lists.
fn dedup(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    check_special(page)?;
    let count = step.main().u16()?;
    let mut data = step.data();
    let mut intervals = numbers(data.take(usize::from(count) * 4)?);
    let mut interval = || intervals.next().zip(intervals.next());
    let mut fresh = page.empty_with_special()?;
    let mut number = 1;
    if !is_rightmost(page) {
        fresh.add_tuple(page.tuple(HIGH_KEY)?, HIGH_KEY, AddMode::Insert)?;
        number = 2;
    }
    let (mut to, mut next) = (number, interval());
    let max = page.borders()?.max_offset();
    while number <= max {
        match next {
            Some((base, items)) if base == number && items > 1 => {
                merge(page, number, items, &mut fresh, to)?;
                number = number.checked_add(items).ok_or(StepError::Range("interval"))?;
                next = interval();
            }
            _ => {
                let tuple = page.tuple(number)?;
                fresh.add_tuple(&tuple[..posting::tuple_len(tuple)?], to, AddMode::Insert)?;
                number += 1;
            }
        }
        to += 1;
    }
    if next.is_some() {
        return Err(StepError::Range("interval"));
    }
    *page = fresh;
    clear_flag(page, flag::HAS_GARBAGE);
    Ok(())
}

/// Adds one posting tuple with the TIDs of `items` tuples from `base` on.
fn merge(page: &PageBytes, base: u16, items: u16, fresh: &mut PageBytes, to: u16) -> Result<(), StepError> {
    let end = base.checked_add(items).ok_or(StepError::Range("interval"))?;
    let first = page.tuple(base)?;
    let key_len = Tids::of(first)?.key_len;
    let mut count = 0;
    for number in base..end {
        count += Tids::of(page.tuple(number)?)?.count;
    }
    let len = posting::len_with(key_len, count);
    let at = fresh.reserve(len, to, AddMode::Insert)?;
    let out = &mut fresh[at..at + len];
    out.fill(0);
    out[..key_len].copy_from_slice(&first[..key_len]);
    let mut write = key_len;
    for number in base..end {
        let tuple = page.tuple(number)?;
        let tids = Tids::of(tuple)?;
        let bytes = tids.bytes(tuple);
        out[write..write + bytes.len()].copy_from_slice(bytes);
        write += bytes.len();
    }
    posting::set_header(out, key_len, count, &[])
}

/// DELETE and VACUUM: shortens posting lists, then deletes whole tuples.
fn delete(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    check_special(page)?;
    let mut main = step.main();
    if step.info() == 0x70 {
        main.u32()?; // conflict xid
    }
    let (deleted, updated) = (main.u16()?, main.u16()?);
    let mut data = step.data();
    let deleted = data.take_numbers(deleted)?;
    let updated = data.take_numbers(updated)?;
    for number in numbers(updated) {
        let count = data.u16()?;
        let positions = numbers(data.take_numbers(count)?);
        let shorter = posting::without(page.tuple(number)?, positions)?;
        page.overwrite_tuple(number, &shorter)?;
    }
    if !deleted.is_empty() {
        page.delete_tuples(deleted)?;
    }
    clear_flag(page, flag::HAS_GARBAGE);
    Ok(())
}

/// A leaf whose parent no longer points to it; its high key is a stub that names the top of the subtree to delete.
fn init_half_dead(page: &mut PageBytes, prev: u32, next: u32, top_parent: u32) -> Result<(), StepError> {
    const STUB_INFO: u16 = 0x2000 | INDEX_HEADER as u16;
    init(page, prev, next, 0, flag::HALF_DEAD | flag::LEAF);
    let mut stub = [0; INDEX_HEADER];
    posting::set_block(&mut stub, top_parent);
    stub[6..8].copy_from_slice(&STUB_INFO.to_le_bytes());
    Ok(page.add_tuple(&stub, HIGH_KEY, AddMode::Insert)?)
}

fn mark_half_dead(step: Step<'_, '_>, page: &mut PageBytes, id: u8) -> Result<(), StepError> {
    let mut main = step.main();
    let (number, _pad) = (main.u16()?, main.u16()?);
    let (_leaf, left, right, top_parent) = (main.u32()?, main.u32()?, main.u32()?, main.u32()?);
    if id == 0 {
        return init_half_dead(page, left, right, top_parent);
    }
    check_special(page)?;
    let next = number.checked_add(1).ok_or(StepError::Range("line pointer number"))?;
    let right_child = posting::block(page.tuple(next)?);
    let range = page.tuple_range(number)?;
    if range.len() < INDEX_HEADER {
        return Err(StepError::TupleShort(number));
    }
    posting::set_block(&mut page[range], right_child);
    Ok(page.delete_tuple(next)?)
}

/// Main data of UNLINK_PAGE: 0 left, 4 right, 8 level, 16 safe xid u64, 24 leaf's left, 28 leaf's right, 32 top parent.
fn unlink(step: Step<'_, '_>, page: &mut PageBytes, id: u8) -> Result<(), StepError> {
    let mut main = step.main();
    let (left, right, level, _pad) = (main.u32()?, main.u32()?, main.u32()?, main.u32()?);
    let (safe_xid, leaf_left, leaf_right, top_parent) = (main.u64()?, main.u32()?, main.u32()?, main.u32()?);
    match id {
        1 => set_link(page, NEXT, right),
        2 => set_link(page, PREV, left),
        3 => init_half_dead(page, leaf_left, leaf_right, top_parent),
        _ => {
            let leaf = if level == 0 { flag::LEAF } else { 0 };
            init(page, left, right, level, flag::DELETED | flag::HAS_FULL_XID | leaf);
            page[24..32].copy_from_slice(&safe_xid.to_le_bytes());
            page.set_lower(32);
            Ok(())
        }
    }
}

fn new_root(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut main = step.main();
    let (_root, level) = (main.u32()?, main.u32()?);
    let leaf = if level == 0 { flag::LEAF } else { 0 };
    init(page, 0, 0, level, flag::ROOT | leaf);
    if level > 0 {
        restore_tuples(page, step.block.data)?;
    }
    Ok(())
}
