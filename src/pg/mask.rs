//! What may differ between a page and its replay: hint bits and the like, which are not logged. Masking overwrites it with
//! zeros, on both sides, before pages are compared byte by byte.
//!
//! Exactly the rules of stock consistency checks, and nothing more, with one exception that is stricter: the content of
//! visibility map pages is compared (stock hides it as "hole"). Pages that do not add up are masked less, so they differ.
//! Source: reference wal-redo, section 6.

use crate::pg::page::{ItemState, PAGE_HEADER, PD_ALL_VISIBLE, PD_HAS_FREE_LINES, PD_PAGE_FULL, Page, PageBytes, align8};
use crate::pg::rmgr::id as rmid;
use crate::types::{Fork, PAGE_SIZE};

/// Masks `page`, which is block `block` of a relation's `fork` and was changed by a record of resource manager `rmgr`.
pub fn mask_page(rmgr: u8, fork: Fork, block: u32, page: &mut PageBytes) {
    page[..10].fill(0); // LSN and checksum
    if fork == Fork::Vm {
        return mask_header_hints(page);
    }
    match rmgr {
        rmid::HEAP | rmid::HEAP2 => mask_heap(page, block),
        rmid::BTREE => mask_btree(page),
        rmid::HASH => mask_hash(page),
        rmid::GIN => mask_gin(page),
        rmid::GIST => mask_gist(page),
        rmid::SPGIST => {
            mask_header_hints(page);
            if usize::from(page.u16_at(12)) >= PAGE_HEADER {
                mask_hole(page);
            }
        }
        rmid::BRIN => mask_brin(page),
        rmid::SEQ | rmid::GENERIC => mask_hole(page),
        _ => {}
    }
}

/// Prune xid and the hint flags.
fn mask_header_hints(page: &mut PageBytes) {
    page.set_prune_xid(0);
    let flags = page.flags();
    page.set_flags(flags & !(PD_HAS_FREE_LINES | PD_PAGE_FULL | PD_ALL_VISIBLE));
}

fn mask_hole(page: &mut PageBytes) {
    if let Ok(borders) = page.borders() {
        page[borders.lower..borders.upper].fill(0);
    }
}

/// Everything after the header, and the borders.
fn mask_content(page: &mut PageBytes) {
    page[12..16].fill(0);
    page[PAGE_HEADER..].fill(0);
}

/// The state bits of line pointers, where scans leave hints.
fn mask_item_states(page: &mut PageBytes) {
    let max = page.borders().map_or(0, |borders| borders.max_offset());
    for number in 1..=max {
        if let Ok(item) = page.item(number) {
            let _ = page.set_item(number, crate::pg::page::ItemId(item.0 & !(3 << 15)));
        }
    }
}

/// The special area's start if it has `len` bytes.
fn special(page: &PageBytes, len: usize) -> Option<usize> {
    page.borders().ok().map(|borders| borders.special).filter(|start| *start == PAGE_SIZE - len)
}

fn clear_u16(page: &mut PageBytes, at: usize, bits: u16) {
    let value = page.u16_at(at);
    page.set_u16_at(at, value & !bits);
}

fn mask_heap(page: &mut PageBytes, block: u32) {
    const XMIN_FROZEN: u16 = 0x0300;
    const XMAX_HINTS: u16 = 0x0C00;
    /// A line pointer number that marks a speculative insertion's token in ctid.
    const SPECULATIVE: u16 = 0xFFFE;
    mask_header_hints(page);
    mask_hole(page);
    let max = page.borders().map_or(0, |borders| borders.max_offset());
    for number in 1..=max {
        let Ok(item) = page.item(number) else { continue };
        let (start, end) = (item.offset(), item.offset() + item.len());
        if item.is_empty() || align8(end) > PAGE_SIZE {
            continue;
        }
        if item.state() == ItemState::Normal && item.len() >= 23 {
            let infomask = page.u16_at(start + 20);
            let frozen = infomask & XMIN_FROZEN == XMIN_FROZEN;
            page.set_u16_at(start + 20, infomask & if frozen { !XMAX_HINTS } else { 0x000F });
            page.set_u32_at(start + 8, 0);
            if page.u16_at(start + 16) == SPECULATIVE {
                // A replay has the tuple's own position instead.
                page.set_u16_at(start + 12, (block >> 16) as u16);
                page.set_u16_at(start + 14, block as u16);
                page.set_u16_at(start + 16, number);
            }
        }
        let padded = start + align8(item.len());
        if padded <= PAGE_SIZE {
            page[end..padded].fill(0);
        }
    }
}

fn mask_btree(page: &mut PageBytes) {
    const LEAF: u16 = 1;
    const SPLIT_END: u16 = 32;
    const HAS_GARBAGE: u16 = 64;
    mask_header_hints(page);
    mask_hole(page);
    let Some(special) = special(page, 16) else { return };
    if page.u16_at(special + 12) & LEAF != 0 {
        mask_item_states(page);
    }
    clear_u16(page, special + 12, HAS_GARBAGE | SPLIT_END);
    page.set_u16_at(special + 14, 0);
}

fn mask_hash(page: &mut PageBytes) {
    const TYPE: u16 = 0x0F;
    const OVERFLOW_OR_BUCKET: u16 = 1 | 2;
    const DEAD_TUPLES: u16 = 128;
    mask_header_hints(page);
    mask_hole(page);
    let Some(special) = special(page, 16) else { return };
    match page.u16_at(special + 12) & TYPE {
        0 => mask_content(page),
        kind if kind & OVERFLOW_OR_BUCKET != 0 => mask_item_states(page),
        _ => {}
    }
    clear_u16(page, special + 12, DEAD_TUPLES);
}

fn mask_gin(page: &mut PageBytes) {
    const DELETED: u16 = 4;
    mask_header_hints(page);
    let Some(special) = special(page, 8) else { return };
    if page.u16_at(special + 6) & DELETED != 0 {
        mask_content(page);
    } else if usize::from(page.u16_at(12)) > PAGE_HEADER {
        mask_hole(page);
    }
}

fn mask_gist(page: &mut PageBytes) {
    const LEAF: u16 = 1;
    const FOLLOW_RIGHT: u16 = 8;
    const GARBAGE: u16 = 16;
    mask_header_hints(page);
    mask_hole(page);
    let Some(special) = special(page, 16) else { return };
    page[special..special + 8].fill(0);
    let flags = page.u16_at(special + 12);
    if flags & LEAF != 0 {
        mask_item_states(page);
    }
    page.set_u16_at(special + 12, (flags | FOLLOW_RIGHT) & !GARBAGE);
}

fn mask_brin(page: &mut PageBytes) {
    const META: u16 = 0xF091;
    const REGULAR: u16 = 0xF093;
    const EVACUATE: u16 = 1;
    mask_header_hints(page);
    let Some(special) = special(page, 8) else { return };
    let kind = page.u16_at(special + 6);
    if kind == REGULAR || kind == META && usize::from(page.u16_at(12)) > PAGE_HEADER {
        mask_hole(page);
    }
    clear_u16(page, special + 4, EVACUATE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::page::AddMode;

    fn heap_page(infomask: u16) -> PageBytes {
        let mut page = [0; PAGE_SIZE];
        page.init(0);
        let mut tuple = [0x11; 30];
        tuple[20..22].copy_from_slice(&infomask.to_le_bytes());
        page.add_tuple(&tuple, 1, AddMode::Overwrite).unwrap();
        page
    }

    /// Changes one byte; tells whether masking hides the change.
    fn hides(rmgr: u8, fork: Fork, base: PageBytes, at: usize, bits: u8) -> bool {
        let (mut a, mut b) = (base, base);
        b[at] ^= bits;
        mask_page(rmgr, fork, 3, &mut a);
        mask_page(rmgr, fork, 3, &mut b);
        a == b
    }

    #[test]
    fn heap_hides_hints_only() {
        let start = PAGE_SIZE - 32;
        for (at, bits, want) in [
            (0, 0xFF, true),          // LSN
            (9, 0xFF, true),          // checksum
            (10, 7, true),            // hint flags
            (10, 8, false),           // any other flag
            (12, 4, false),           // lower
            (20, 0xFF, true),         // prune xid
            (24, 1, false),           // line pointer
            (100, 0xFF, true),        // hole
            (start, 1, false),        // xmin
            (start + 4, 1, false),    // xmax
            (start + 8, 1, true),     // cid
            (start + 16, 1, false),   // ctid
            (start + 18, 1, false),   // infomask2
            (start + 20, 1, false),   // has null
            (start + 21, 0x0C, true), // xmax hints
            (start + 21, 0x01, true), // xmin hint
            (start + 22, 1, false),   // hoff
            (start + 29, 1, false),   // last byte
            (start + 30, 0xFF, true), // padding
        ] {
            assert_eq!(hides(10, Fork::Main, heap_page(0), at, bits), want, "byte {at} bits {bits:x}");
        }
        assert!(hides(9, Fork::Main, heap_page(0x0300), start + 21, 0x0C));
        assert!(!hides(9, Fork::Main, heap_page(0x0300), start + 21, 0x10), "a frozen tuple's multixact flag shows");
    }

    #[test]
    fn a_speculative_tuple_points_to_itself() {
        let start = PAGE_SIZE - 32;
        let (mut primary, mut replay) = (heap_page(0), heap_page(0));
        primary[start + 12..start + 18].copy_from_slice(&[1, 0, 2, 0, 0xFE, 0xFF]);
        replay[start + 12..start + 18].copy_from_slice(&[4, 0, 3, 0, 1, 0]);
        mask_page(10, Fork::Main, 0x4_0003, &mut primary);
        mask_page(10, Fork::Main, 0x4_0003, &mut replay);
        assert_eq!(primary, replay);
    }

    #[test]
    fn map_content_is_compared() {
        let mut page = [0; PAGE_SIZE];
        page.init(0);
        assert!(!hides(9, Fork::Vm, page, 24, 1));
        assert!(hides(9, Fork::Main, page, 24, 1));
    }

    #[test]
    fn btree_leaf_and_inner() {
        let mut page = [0; PAGE_SIZE];
        page.init(16);
        page.add_tuple(&[5; 16], 1, AddMode::Insert).unwrap();
        let flags = PAGE_SIZE - 4;
        for leaf in [0, 1] {
            page[flags] = leaf;
            assert_eq!(hides(11, Fork::Main, page, 26, 1), leaf == 1, "line pointer state, leaf {leaf}");
            assert!(hides(11, Fork::Main, page, flags, 32 | 64));
            assert!(hides(11, Fork::Main, page, flags + 2, 0xFF));
            assert!(!hides(11, Fork::Main, page, flags, 128));
            assert!(!hides(11, Fork::Main, page, PAGE_SIZE - 16, 1));
        }
    }

    /// Masking any bytes never panics and never hides the borders of a good page.
    #[test]
    fn damage_is_masked_less() {
        let mut seed = 7u64;
        for i in 0..20_000u32 {
            let mut page = heap_page(0x0300);
            for _ in 0..3 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                page[(seed >> 33) as usize % 40] = (seed >> 20) as u8;
            }
            mask_page((i % 21) as u8, Fork::Main, i, &mut page);
            assert_eq!(&page[..10], &[0; 10]);
        }
    }
}
