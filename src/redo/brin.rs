//! Redo of brin records (rmid 17).
//!
//! The special area is four u16: the third is flags, the fourth the page type. A revmap page holds 1360 TIDs of 6 bytes from
//! byte 24 on, one per page range. Source: PostgreSQL 15 `access/brin_page.h`, `access/brin_xlog.h`.

use super::{Effect, Step, StepError};
use crate::pg::page::{AddMode, PAGE_HEADER, Page, PageBytes};
use crate::types::PAGE_SIZE;

const SPECIAL: usize = 8;
const META: u16 = 0xF091;
const REVMAP: u16 = 0xF092;
const REGULAR: u16 = 0xF093;
const META_MAGIC: u32 = 0xA810_9CFA;
const TID: usize = 6;
const TIDS_PER_PAGE: u32 = ((PAGE_SIZE - PAGE_HEADER - SPECIAL) / TID) as u32;
/// A range without a summary: block FFFFFFFF, position 0.
const NO_TID: [u8; TID] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0];
const INIT_PAGE: u8 = 0x80;

pub(super) fn redo(step: Step<'_, '_>, page: &mut PageBytes) -> Result<Effect, StepError> {
    let mut main = step.main();
    match (step.info() & 0x70, step.block.id) {
        (0x00, 0) => {
            let (pages_per_range, version) = (main.u32()?, main.u16()?);
            init(page, META);
            for (i, word) in [META_MAGIC, version.into(), pages_per_range, 0].into_iter().enumerate() {
                page.set_u32_at(PAGE_HEADER + 4 * i, word);
            }
            page.set_lower(PAGE_HEADER + 16);
        }
        (0x10, id @ 0..=1) => insert(step, page, main, id)?,
        (0x20, id @ 0..=2) => {
            let (old, _pad) = (main.u16()?, main.u16()?);
            match id {
                2 => page.delete_tuple_keep_numbers(old)?,
                _ => insert(step, page, main, id)?,
            }
        }
        (0x30, 0) => page.overwrite_tuple(main.u16()?, step.block.data)?,
        (0x40, 0) => {
            page.set_u32_at(PAGE_HEADER + 12, main.u32()?);
            page.set_lower(PAGE_HEADER + 16);
        }
        (0x40, 1) => init(page, REVMAP),
        (0x50, id @ 0..=1) => {
            let (pages_per_range, heap_block, number) = (main.u32()?, main.u32()?, main.u16()?);
            match id {
                0 => set_tid(page, pages_per_range, heap_block, NO_TID)?,
                _ => page.delete_tuple_keep_numbers(number)?,
            }
        }
        _ => return Err(StepError::Unhandled),
    }
    Ok(Effect::Changed)
}

fn init(page: &mut PageBytes, kind: u16) {
    page.init(SPECIAL);
    page.set_u16_at(PAGE_SIZE - 2, kind);
}

/// Reference 0 gets the summary tuple, reference 1 (the revmap) its TID.
fn insert(step: Step<'_, '_>, page: &mut PageBytes, mut main: super::cut::Cut<'_>, id: u8) -> Result<(), StepError> {
    let (heap_block, pages_per_range, number) = (main.u32()?, main.u32()?, main.u16()?);
    if id == 0 {
        if step.info() & INIT_PAGE != 0 {
            init(page, REGULAR);
        }
        return Ok(page.add_tuple(step.block.data, number, AddMode::Overwrite)?);
    }
    let block = step.block_number(0)?;
    let mut tid = [0; TID];
    tid[..2].copy_from_slice(&((block >> 16) as u16).to_le_bytes());
    tid[2..4].copy_from_slice(&(block as u16).to_le_bytes());
    tid[4..].copy_from_slice(&number.to_le_bytes());
    set_tid(page, pages_per_range, heap_block, tid)
}

fn set_tid(page: &mut PageBytes, pages_per_range: u32, heap_block: u32, tid: [u8; TID]) -> Result<(), StepError> {
    let range = heap_block.checked_div(pages_per_range).ok_or(StepError::Range("pages per range"))?;
    let at = PAGE_HEADER + (range % TIDS_PER_PAGE) as usize * TID;
    page[at..at + TID].copy_from_slice(&tid);
    Ok(())
}
