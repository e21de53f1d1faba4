//! The layout of a PostgreSQL page: header, line pointers, tuples, special area.
//!
//! | offset | size | name | meaning |
//! | --- | --- | --- | --- |
//! | 0 | 8 | lsn | high u32, low u32 |
//! | 8 | 2 | checksum | |
//! | 10 | 2 | flags | 1 has free lines, 2 page full, 4 all visible |
//! | 12 | 2 | lower | end of the line pointers |
//! | 14 | 2 | upper | start of the tuples; 0 on a page never initialised |
//! | 16 | 2 | special | start of the special area |
//! | 18 | 2 | size and version | 0x2004 |
//! | 20 | 4 | prune xid | |
//! | 24 | 4 each | line pointers | offset 15 bits, flags 2, length 15 |
//!
//! Little-endian. The operations here are those that redo is made of. What they must keep: tuples lie in `upper..special`,
//! lower <= upper, and the *physical* order of tuples equals what a stock server would have made, since replays are compared
//! byte by byte. A page that does not add up is an error and is left unchanged; no operation panics on foreign bytes.
//!
//! Source: PostgreSQL 15 `storage/bufpage.h`, `storage/itemid.h`; reference wal-redo, section 3.

use crate::types::{Lsn, PAGE_SIZE};
use std::ops::Range;

/// The bytes of one page.
pub type PageBytes = [u8; PAGE_SIZE];

/// Size of the page header; line pointers start here.
pub const PAGE_HEADER: usize = 24;
/// Page flag: the line pointer array has unused entries.
pub const PD_HAS_FREE_LINES: u16 = 1;
/// Page flag: an update found no room.
pub const PD_PAGE_FULL: u16 = 2;
/// Page flag: every tuple is visible to everybody.
pub const PD_ALL_VISIBLE: u16 = 4;

const LINE_POINTER: usize = 4;
const SIZE_AND_VERSION: u16 = 0x2004;

/// Why a page operation is impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    #[error("page header is damaged (lower {lower}, upper {upper}, special {special})")]
    Header { lower: u16, upper: u16, special: u16 },
    #[error("the page was never initialised")]
    New,
    #[error("line pointer {0} does not exist")]
    NoItem(u16),
    #[error("line pointer {0} is in use")]
    ItemInUse(u16),
    #[error("line pointer {0} has no tuple")]
    NoTuple(u16),
    #[error("line pointer {0} points outside of the tuple area")]
    ItemBounds(u16),
    #[error("no room for a tuple of {0} bytes")]
    NoRoom(usize),
    #[error("line pointers to delete are not in ascending order")]
    Order,
}

/// State of a line pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemState {
    Unused,
    Normal,
    Redirect,
    Dead,
}

/// A line pointer in its stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemId(pub u32);

impl ItemId {
    pub const UNUSED: ItemId = ItemId(0);
    pub const DEAD: ItemId = ItemId(3 << 15);

    /// A pointer to `len` bytes at `offset`; both below 32768.
    pub fn normal(offset: usize, len: usize) -> ItemId {
        ItemId((offset as u32 & 0x7FFF) | 1 << 15 | (len as u32) << 17)
    }

    /// A redirection to another line pointer of the page.
    pub fn redirect(to: u16) -> ItemId {
        ItemId((u32::from(to) & 0x7FFF) | 2 << 15)
    }

    pub fn offset(self) -> usize {
        (self.0 & 0x7FFF) as usize
    }

    pub fn len(self) -> usize {
        (self.0 >> 17) as usize
    }

    /// No tuple hangs on this pointer.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn state(self) -> ItemState {
        match self.0 >> 15 & 3 {
            0 => ItemState::Unused,
            1 => ItemState::Normal,
            2 => ItemState::Redirect,
            _ => ItemState::Dead,
        }
    }

    fn with_offset(self, offset: usize) -> ItemId {
        ItemId((self.0 & !0x7FFF) | (offset as u32 & 0x7FFF))
    }
}

/// What happens when the wanted line pointer exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddMode {
    /// Indexes: the pointer and those behind it move up by one.
    Insert,
    /// Heap: the pointer must be unused.
    Overwrite,
}

/// The three borders of a page, proven to be in order: 24 <= lower <= upper <= special <= 8192.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Borders {
    pub lower: usize,
    pub upper: usize,
    pub special: usize,
}

impl Borders {
    /// Number of the last line pointer, 0 if there is none.
    pub fn max_offset(self) -> u16 {
        ((self.lower - PAGE_HEADER) / LINE_POINTER) as u16
    }
}

/// Rounds a length up to the 8-byte alignment of tuples (`MAXALIGN`).
pub const fn align8(len: usize) -> usize {
    (len + 7) & !7
}

/// Reads and changes a page. Offsets of line pointers count from 1, as everywhere in PostgreSQL.
pub trait Page {
    fn u16_at(&self, at: usize) -> u16;
    fn u32_at(&self, at: usize) -> u32;
    fn set_u16_at(&mut self, at: usize, value: u16);
    fn set_u32_at(&mut self, at: usize, value: u32);

    fn lsn(&self) -> Lsn {
        Lsn(u64::from(self.u32_at(0)) << 32 | u64::from(self.u32_at(4)))
    }
    fn set_lsn(&mut self, lsn: Lsn) {
        self.set_u32_at(0, (lsn.0 >> 32) as u32);
        self.set_u32_at(4, lsn.0 as u32);
    }
    fn flags(&self) -> u16 {
        self.u16_at(10)
    }
    fn set_flags(&mut self, flags: u16) {
        self.set_u16_at(10, flags);
    }
    fn set_flag(&mut self, flag: u16, on: bool) {
        let flags = self.flags();
        self.set_flags(if on { flags | flag } else { flags & !flag });
    }
    fn set_lower(&mut self, lower: usize) {
        self.set_u16_at(12, lower as u16);
    }
    fn set_upper(&mut self, upper: usize) {
        self.set_u16_at(14, upper as u16);
    }
    fn prune_xid(&self) -> u32 {
        self.u32_at(20)
    }
    fn set_prune_xid(&mut self, xid: u32) {
        self.set_u32_at(20, xid);
    }
    /// Whether the page was never initialised (upper = 0).
    fn is_new(&self) -> bool {
        self.u16_at(14) == 0
    }

    /// Checks the header. Errors: a new page, or borders out of order.
    fn borders(&self) -> Result<Borders, PageError>;
    /// An empty page with `special` bytes (rounded up to 8) at its end; everything else zero.
    fn init(&mut self, special: usize);
    /// The line pointer `number`. Errors: it does not exist.
    fn item(&self, number: u16) -> Result<ItemId, PageError>;
    /// Writes an existing line pointer. Errors: it does not exist.
    fn set_item(&mut self, number: u16, item: ItemId) -> Result<(), PageError>;
    /// Where the tuple of `number` lies. Errors: no such pointer, no tuple, or a tuple outside of the page.
    fn tuple_range(&self, number: u16) -> Result<Range<usize>, PageError>;
    /// The tuple of `number`; see [`Page::tuple_range`].
    fn tuple(&self, number: u16) -> Result<&[u8], PageError>;
    /// Makes room for a tuple of `len` bytes at line pointer `number` and returns where its bytes belong. They are left as
    /// they were: the caller writes all of them.
    fn reserve(&mut self, len: usize, number: u16, mode: AddMode) -> Result<usize, PageError>;
    /// [`Page::reserve`] and copy.
    fn add_tuple(&mut self, tuple: &[u8], number: u16, mode: AddMode) -> Result<(), PageError>;
    /// Removes one line pointer and closes the gap its tuple leaves; the physical order stays.
    fn delete_tuple(&mut self, number: u16) -> Result<(), PageError>;
    /// Removes line pointers (ascending, as the bytes of a record hold them: u16 little-endian). One or two are deleted one
    /// by one, more by rewriting the tuple area in line pointer order.
    fn delete_tuples(&mut self, numbers: &[u8]) -> Result<(), PageError>;
    /// Removes a tuple and closes its gap but keeps the numbers of the others: its pointer becomes unused, or is dropped if
    /// it is the last one.
    fn delete_tuple_keep_numbers(&mut self, number: u16) -> Result<(), PageError>;
    /// Replaces a tuple by one of any length; what lies physically before it moves.
    fn overwrite_tuple(&mut self, number: u16, tuple: &[u8]) -> Result<(), PageError>;
    /// Heap: rewrites the tuple area in line pointer order, drops trailing unused pointers, maintains the free-lines flag.
    fn repair_fragmentation(&mut self) -> Result<(), PageError>;
    /// Heap: drops trailing unused pointers but keeps the first, maintains the free-lines flag; tuples stay.
    fn truncate_line_pointers(&mut self) -> Result<(), PageError>;
    /// An empty page with the special area of this one.
    fn empty_with_special(&self) -> Result<PageBytes, PageError>;
}

#[inline]
fn item_at(number: u16) -> usize {
    PAGE_HEADER + (usize::from(number) - 1) * LINE_POINTER
}

/// Rewrites the tuple area so that tuples lie in line pointer order from the special area down.
///
/// Source: PostgreSQL 14+ packs in line pointer order, whatever the order was before.
fn compact(page: &mut PageBytes, borders: Borders) -> Result<(), PageError> {
    let max = borders.max_offset();
    let (mut total, mut last, mut sorted) = (0, usize::MAX, true);
    for number in 1..=max {
        let item = ItemId(page.u32_at(item_at(number)));
        if item.is_empty() {
            continue;
        }
        if item.offset() < borders.upper || item.offset() + align8(item.len()) > borders.special {
            return Err(PageError::ItemBounds(number));
        }
        sorted &= item.offset() < last;
        last = item.offset();
        total += align8(item.len());
    }
    if total > borders.special - borders.lower {
        return Err(PageError::NoRoom(total));
    }
    let mut upper = borders.special;
    let scratch = if sorted { None } else { Some(*page) };
    for number in 1..=max {
        let item = ItemId(page.u32_at(item_at(number)));
        if item.is_empty() {
            continue;
        }
        let (from, len) = (item.offset(), align8(item.len()));
        upper -= len;
        match &scratch {
            Some(scratch) => page[upper..upper + len].copy_from_slice(&scratch[from..from + len]),
            None if from != upper => page.copy_within(from..from + len, upper),
            None => {}
        }
        page.set_u32_at(item_at(number), item.with_offset(upper).0);
    }
    page.set_upper(upper);
    Ok(())
}

/// Closes the gap of `len` bytes at `offset` by moving what lies physically before it.
fn close_gap(page: &mut PageBytes, borders: Borders, offset: usize, len: usize) {
    page.copy_within(borders.upper..offset, borders.upper + len);
    page.set_upper(borders.upper + len);
}

/// Adds `delta` to the offset of every tuple at or before `offset`.
fn shift_items(page: &mut PageBytes, max: u16, offset: usize, delta: isize) {
    for number in 1..=max {
        let item = ItemId(page.u32_at(item_at(number)));
        if !item.is_empty() && item.offset() <= offset {
            page.set_u32_at(item_at(number), item.with_offset(item.offset().wrapping_add_signed(delta)).0);
        }
    }
}

/// A tuple that is to go: (offset, aligned length), proven to lie in the tuple area.
fn doomed(page: &PageBytes, borders: Borders, number: u16) -> Result<(usize, usize), PageError> {
    let item = page.item(number)?;
    let (offset, len) = (item.offset(), align8(item.len()));
    if offset < borders.upper || offset + len > borders.special {
        return Err(PageError::ItemBounds(number));
    }
    Ok((offset, len))
}

impl Page for PageBytes {
    #[inline]
    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self[at], self[at + 1]])
    }

    #[inline]
    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes([self[at], self[at + 1], self[at + 2], self[at + 3]])
    }

    #[inline]
    fn set_u16_at(&mut self, at: usize, value: u16) {
        self[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn set_u32_at(&mut self, at: usize, value: u32) {
        self[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn borders(&self) -> Result<Borders, PageError> {
        let (lower, upper, special) = (self.u16_at(12), self.u16_at(14), self.u16_at(16));
        let b = Borders { lower: lower.into(), upper: upper.into(), special: special.into() };
        if PAGE_HEADER <= b.lower && b.lower <= b.upper && b.upper <= b.special && b.special <= PAGE_SIZE {
            return Ok(b);
        }
        Err(if upper == 0 { PageError::New } else { PageError::Header { lower, upper, special } })
    }

    fn init(&mut self, special: usize) {
        let special = PAGE_SIZE - align8(special);
        self.fill(0);
        self.set_lower(PAGE_HEADER);
        self.set_upper(special);
        self.set_u16_at(16, special as u16);
        self.set_u16_at(18, SIZE_AND_VERSION);
    }

    #[inline]
    fn item(&self, number: u16) -> Result<ItemId, PageError> {
        if number == 0 || number > self.borders()?.max_offset() {
            return Err(PageError::NoItem(number));
        }
        Ok(ItemId(self.u32_at(item_at(number))))
    }

    #[inline]
    fn set_item(&mut self, number: u16, item: ItemId) -> Result<(), PageError> {
        if number == 0 || number > self.borders()?.max_offset() {
            return Err(PageError::NoItem(number));
        }
        self.set_u32_at(item_at(number), item.0);
        Ok(())
    }

    #[inline]
    fn tuple_range(&self, number: u16) -> Result<Range<usize>, PageError> {
        let item = self.item(number)?;
        if item.is_empty() {
            return Err(PageError::NoTuple(number));
        }
        let range = item.offset()..item.offset() + item.len();
        if range.start < PAGE_HEADER || range.end > PAGE_SIZE {
            return Err(PageError::ItemBounds(number));
        }
        Ok(range)
    }

    #[inline]
    fn tuple(&self, number: u16) -> Result<&[u8], PageError> {
        self.tuple_range(number).map(|range| &self[range])
    }

    #[inline]
    fn reserve(&mut self, len: usize, number: u16, mode: AddMode) -> Result<usize, PageError> {
        let borders = self.borders()?;
        let limit = borders.max_offset() + 1;
        if number == 0 || number > limit {
            return Err(PageError::NoItem(number));
        }
        let at = item_at(number);
        let overwrite = number < limit && mode == AddMode::Overwrite;
        if overwrite && self.u32_at(at) & !0x7FFF != 0 {
            return Err(PageError::ItemInUse(number));
        }
        let lower = if overwrite { borders.lower } else { borders.lower + LINE_POINTER };
        if len > PAGE_SIZE || lower + align8(len) > borders.upper {
            return Err(PageError::NoRoom(len));
        }
        let upper = borders.upper - align8(len);
        if number < limit && !overwrite {
            self.copy_within(at..borders.lower, at + LINE_POINTER);
        }
        self.set_u32_at(at, ItemId::normal(upper, len).0);
        self.set_lower(lower);
        self.set_upper(upper);
        Ok(upper)
    }

    fn add_tuple(&mut self, tuple: &[u8], number: u16, mode: AddMode) -> Result<(), PageError> {
        let at = self.reserve(tuple.len(), number, mode)?;
        self[at..at + tuple.len()].copy_from_slice(tuple);
        Ok(())
    }

    fn delete_tuple(&mut self, number: u16) -> Result<(), PageError> {
        let borders = self.borders()?;
        let (offset, len) = doomed(self, borders, number)?;
        let at = item_at(number);
        self.copy_within(at + LINE_POINTER..borders.lower, at);
        self.set_lower(borders.lower - LINE_POINTER);
        close_gap(self, borders, offset, len);
        shift_items(self, borders.max_offset() - 1, offset, len as isize);
        Ok(())
    }

    fn delete_tuples(&mut self, numbers: &[u8]) -> Result<(), PageError> {
        let count = numbers.len() / 2;
        let nth = |i: usize| u16::from_le_bytes([numbers[2 * i], numbers[2 * i + 1]]);
        let borders = self.borders()?;
        let max = borders.max_offset();
        if (0..count).any(|i| nth(i) == 0 || nth(i) > max || (i > 0 && nth(i) <= nth(i - 1))) {
            return Err(PageError::Order);
        }
        if count <= 2 {
            return (0..count).rev().try_for_each(|i| self.delete_tuple(nth(i)));
        }
        let (mut next, mut kept) = (0, 0);
        let before = *self;
        for number in 1..=max {
            if next < count && nth(next) == number {
                next += 1;
                continue;
            }
            kept += 1;
            let item = before.u32_at(item_at(number));
            self.set_u32_at(item_at(kept), item);
        }
        let lower = PAGE_HEADER + usize::from(kept) * LINE_POINTER;
        self.set_lower(lower);
        let done = compact(self, Borders { lower, ..borders });
        if done.is_err() {
            *self = before;
        }
        done
    }

    fn delete_tuple_keep_numbers(&mut self, number: u16) -> Result<(), PageError> {
        let borders = self.borders()?;
        let (offset, len) = doomed(self, borders, number)?;
        let mut max = borders.max_offset();
        if number < max {
            self.set_u32_at(item_at(number), ItemId::UNUSED.0);
        } else {
            self.set_lower(borders.lower - LINE_POINTER);
            max -= 1;
        }
        close_gap(self, borders, offset, len);
        shift_items(self, max, offset, len as isize);
        Ok(())
    }

    fn overwrite_tuple(&mut self, number: u16, tuple: &[u8]) -> Result<(), PageError> {
        let borders = self.borders()?;
        let (offset, old) = doomed(self, borders, number)?;
        let new = align8(tuple.len());
        if tuple.len() > PAGE_SIZE || new > old + (borders.upper - borders.lower) {
            return Err(PageError::NoRoom(tuple.len()));
        }
        let delta = old as isize - new as isize;
        let start = offset.wrapping_add_signed(delta);
        if delta != 0 {
            let upper = borders.upper.wrapping_add_signed(delta);
            self.copy_within(borders.upper..offset, upper);
            self.set_upper(upper);
            shift_items(self, borders.max_offset(), offset, delta);
        }
        let state = self.u32_at(item_at(number)) & 3 << 15;
        self.set_u32_at(item_at(number), start as u32 | state | (tuple.len() as u32) << 17);
        self[start..start + tuple.len()].copy_from_slice(tuple);
        Ok(())
    }

    fn repair_fragmentation(&mut self) -> Result<(), PageError> {
        let borders = self.borders()?;
        let (mut used_last, mut unused) = (0, 0);
        for number in 1..=borders.max_offset() {
            if ItemId(self.u32_at(item_at(number))).state() == ItemState::Unused {
                self.set_u32_at(item_at(number), 0);
                unused += 1;
            } else {
                used_last = number;
            }
        }
        compact(self, borders)?;
        self.set_lower(PAGE_HEADER + usize::from(used_last) * LINE_POINTER);
        self.set_flag(PD_HAS_FREE_LINES, unused > borders.max_offset() - used_last);
        Ok(())
    }

    fn truncate_line_pointers(&mut self) -> Result<(), PageError> {
        let borders = self.borders()?;
        let unused = |page: &PageBytes, number: u16| ItemId(page.u32_at(item_at(number))).state() == ItemState::Unused;
        let mut last = borders.max_offset();
        while last > 1 && unused(self, last) {
            last -= 1;
        }
        self.set_lower(PAGE_HEADER + usize::from(last) * LINE_POINTER);
        let free = (1..=last).any(|number| unused(self, number));
        self.set_flag(PD_HAS_FREE_LINES, free);
        Ok(())
    }

    fn empty_with_special(&self) -> Result<PageBytes, PageError> {
        let special = self.borders()?.special;
        let mut page = [0; PAGE_SIZE];
        page.init(PAGE_SIZE - special);
        page[special..].copy_from_slice(&self[special..]);
        Ok(page)
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
