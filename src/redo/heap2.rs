//! Redo of heap2 records (rmid 9): pruning, vacuum, freezing, several tuples at once, visibility.
//!
//! 14-16 have one record each for prune, vacuum and freeze; 17 merged them into one with optional parts.
//! Source: PostgreSQL 14-18 `access/heapam_xlog.h`; reference wal-redo, section 4.

use super::cut::{Cut, numbers};
use super::heap::{self, INIT_PAGE, NewHeader, OP_MASK};
use super::{Effect, Step, StepError, vm};
use crate::pg::page::{ItemId, PD_ALL_VISIBLE, Page, PageBytes};
use crate::pg::version::PgVersion;

const FREEZE_XVAC_FROZEN: u8 = 2;
const FREEZE_XVAC_INVALID: u8 = 4;
const FROZEN_XID: u32 = 2;
/// Size of a freeze entry (14, 15) and of a freeze plan (16+).
const FREEZE_ITEM: usize = 12;

const MULTI_ALL_VISIBLE_CLEARED: u8 = 1;
const MULTI_ALL_FROZEN_SET: u8 = 0x20;

/// Flags of the merged record of 17+.
mod prune_flag {
    pub const CLEANUP_LOCK: u8 = 4;
    pub const FREEZE_PLANS: u8 = 0x10;
    pub const REDIRECTED: u8 = 0x20;
    pub const DEAD: u8 = 0x40;
    pub const UNUSED: u8 = 0x80;
}

/// Applies a heap2 record to one of its blocks.
pub(super) fn redo(step: Step<'_, '_>, page: &mut PageBytes) -> Result<Effect, StepError> {
    let merged = step.ctx.version >= PgVersion::V17;
    match step.info() & OP_MASK {
        0x10 | 0x20 | 0x30 if merged => prune_merged(step, page)?,
        0x10 => prune(step, page)?,
        0x20 => vacuum(step, page)?,
        0x30 if step.ctx.version == PgVersion::V16 => freeze_plans(step, page)?,
        0x30 => freeze_tuples(step, page)?,
        0x40 => return vm::visible(step, page),
        0x50 => multi_insert(step, page)?,
        0x60 => lock_updated(step, page)?,
        _ => return Err(StepError::Unhandled),
    }
    Ok(Effect::Changed)
}

/// Line pointer numbers that pruning changes, as the record's bytes hold them.
#[derive(Default)]
struct Pruned<'a> {
    /// Pairs (from, to).
    redirected: &'a [u8],
    dead: &'a [u8],
    unused: &'a [u8],
}

impl Pruned<'_> {
    fn is_empty(&self) -> bool {
        self.redirected.is_empty() && self.dead.is_empty() && self.unused.is_empty()
    }

    fn mark(&self, page: &mut PageBytes) -> Result<(), StepError> {
        let mut pairs = numbers(self.redirected);
        while let (Some(from), Some(to)) = (pairs.next(), pairs.next()) {
            page.set_item(from, ItemId::redirect(to))?;
        }
        for number in numbers(self.dead) {
            page.set_item(number, ItemId::DEAD)?;
        }
        for number in numbers(self.unused) {
            page.set_item(number, ItemId::UNUSED)?;
        }
        Ok(())
    }
}

fn prune(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut main = step.main();
    let (_conflict_xid, redirected, dead) = (main.u32()?, main.u16()?, main.u16()?);
    let mut data = step.data();
    let redirected = data.take(usize::from(redirected) * 4)?;
    let dead = data.take_numbers(dead)?;
    Pruned { redirected, dead, unused: data.rest() }.mark(page)?;
    Ok(page.repair_fragmentation()?)
}

fn vacuum(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let count = step.main().u16()?;
    let unused = step.data().take_numbers(count)?;
    Pruned { unused, ..Pruned::default() }.mark(page)?;
    Ok(page.truncate_line_pointers()?)
}

fn prune_merged(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut main = step.main();
    let (_reason, flags) = (main.u8()?, main.u8()?);
    let mut data = step.data();
    let mut plans: &[u8] = &[];
    if flags & prune_flag::FREEZE_PLANS != 0 {
        let (count, _pad) = (data.u16()?, data.u16()?);
        plans = data.take(usize::from(count) * FREEZE_ITEM)?;
    }
    let mut pruned = Pruned::default();
    if flags & prune_flag::REDIRECTED != 0 {
        let count = data.u16()?;
        pruned.redirected = data.take(usize::from(count) * 4)?;
    }
    if flags & prune_flag::DEAD != 0 {
        let count = data.u16()?;
        pruned.dead = data.take_numbers(count)?;
    }
    if flags & prune_flag::UNUSED != 0 {
        let count = data.u16()?;
        pruned.unused = data.take_numbers(count)?;
    }
    if !pruned.is_empty() {
        pruned.mark(page)?;
        match flags & prune_flag::CLEANUP_LOCK != 0 {
            true => page.repair_fragmentation()?,
            false => page.truncate_line_pointers()?,
        }
    }
    execute_plans(page, plans, &mut data)
}

/// 14, 15: one entry per tuple.
fn freeze_tuples(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut main = step.main();
    let (_cutoff_xid, count) = (main.u32()?, main.u16()?);
    let mut data = step.data();
    for _ in 0..count {
        let mut entry = Cut::new(data.take(FREEZE_ITEM)?, "freeze entry");
        let (xmax, number) = (entry.u32()?, entry.u16()?);
        let (infomask2, infomask, flags) = (entry.u16()?, entry.u16()?, entry.u8()?);
        freeze(page, number, Freeze { xmax, infomask2, infomask, flags })?;
    }
    Ok(())
}

/// 16: entries that many tuples share, then the tuples' line pointers.
fn freeze_plans(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut main = step.main();
    let (_conflict_xid, count) = (main.u32()?, main.u16()?);
    let mut data = step.data();
    let plans = data.take(usize::from(count) * FREEZE_ITEM)?;
    execute_plans(page, plans, &mut data)
}

fn execute_plans(page: &mut PageBytes, plans: &[u8], data: &mut Cut<'_>) -> Result<(), StepError> {
    for plan in plans.chunks_exact(FREEZE_ITEM) {
        let mut plan = Cut::new(plan, "freeze plan");
        let (xmax, infomask2, infomask, flags) = (plan.u32()?, plan.u16()?, plan.u16()?, plan.u8()?);
        let (_pad, count) = (plan.u8()?, plan.u16()?);
        for number in numbers(data.take_numbers(count)?) {
            freeze(page, number, Freeze { xmax, infomask2, infomask, flags })?;
        }
    }
    Ok(())
}

/// What freezing makes of a tuple header.
struct Freeze {
    xmax: u32,
    infomask2: u16,
    infomask: u16,
    flags: u8,
}

fn freeze(page: &mut PageBytes, number: u16, freeze: Freeze) -> Result<(), StepError> {
    let header = heap::header(page, number)?;
    heap::set_xmax(header, freeze.xmax);
    if freeze.flags & FREEZE_XVAC_FROZEN != 0 {
        heap::set_xvac(header, FROZEN_XID);
    }
    if freeze.flags & FREEZE_XVAC_INVALID != 0 {
        heap::set_xvac(header, 0);
    }
    heap::set_infomasks(header, freeze.infomask2, freeze.infomask);
    Ok(())
}

fn multi_insert(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut main = step.main();
    let (flags, _pad, count) = (main.u8()?, main.u8()?, main.u16()?);
    let init = step.info() & INIT_PAGE != 0;
    if init {
        page.init(0);
    }
    let data = step.block.data;
    let mut at = 0;
    for i in 0..count {
        let number = if init { i.wrapping_add(1) } else { main.u16()? };
        at += at & 1;
        let mut tuple = Cut::new(data.get(at..).ok_or(StepError::Short("block data"))?, "tuple");
        let len = usize::from(tuple.u16()?);
        let header = NewHeader::read(&mut tuple)?.build(step.record.header.xid, 0, step.block.block, number);
        heap::place(page, number, &header, tuple.take(len)?)?;
        at += 7 + len;
    }
    if flags & MULTI_ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(PD_ALL_VISIBLE, false);
    }
    if flags & MULTI_ALL_FROZEN_SET != 0 {
        page.set_flag(PD_ALL_VISIBLE, true);
    }
    Ok(())
}

/// Locks an older version of a row: neither ctid nor command id change.
fn lock_updated(step: Step<'_, '_>, page: &mut PageBytes) -> Result<(), StepError> {
    let mut main = step.main();
    let (xmax, number, infobits) = (main.u32()?, main.u16()?, main.u8()?);
    let header = heap::header(page, number)?;
    heap::set_xmax_bits(header, infobits);
    heap::set_xmax(header, xmax);
    Ok(())
}
