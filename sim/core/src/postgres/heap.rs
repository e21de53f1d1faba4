//! Heap records: the parts of a record for each change of a tuple, and what a generator must see of a page to choose one.
//!
//! Source: PostgreSQL 15 `access/heapam_xlog.h`, `access/htup_details.h`, `storage/bufpage.h`; all little-endian.

use palimpsest::types::PAGE_SIZE;

/// Opcodes of rmgr 10.
pub const INSERT: u8 = 0x00;
pub const DELETE: u8 = 0x10;
pub const UPDATE: u8 = 0x20;
pub const HOT_UPDATE: u8 = 0x40;
pub const LOCK: u8 = 0x60;
pub const INIT_PAGE: u8 = 0x80;

/// Where the columns of our tuples start: the fixed header of 23 bytes and one of padding.
const HOFF: u8 = 24;
/// Two columns.
const INFOMASK2: u16 = 2;
/// XMAX_INVALID | HASVARWIDTH
const INFOMASK: u16 = 0x0802;
const LINE_POINTER: usize = 4;
const PAGE_HEADER: usize = 24;

/// Bits of `infobits`: exclusive lock only, and keys updated.
pub const LOCK_ONLY_EXCLUSIVE: u8 = 0x02 | 0x04;
pub const KEYS_UPDATED: u8 = 0x10;

fn u16_at(page: &[u8; PAGE_SIZE], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

fn u32_at(page: &[u8; PAGE_SIZE], at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

/// Number of line pointers.
pub fn items(page: &[u8; PAGE_SIZE]) -> u16 {
    let lower = usize::from(u16_at(page, 12)).max(PAGE_HEADER);
    ((lower - PAGE_HEADER) / LINE_POINTER) as u16
}

/// Whether a tuple with `data` bytes of columns fits with a new line pointer.
pub fn has_room(page: &[u8; PAGE_SIZE], data: usize) -> bool {
    let (lower, upper) = (usize::from(u16_at(page, 12)), usize::from(u16_at(page, 14)));
    let tuple = (usize::from(HOFF) + data).next_multiple_of(8);
    items(page) < 200 && lower + LINE_POINTER + tuple <= upper
}

/// Line pointers of tuples that nobody has deleted or updated.
pub fn live_tuples(page: &[u8; PAGE_SIZE]) -> Vec<u16> {
    let live = |number: &u16| {
        let pointer = u32_at(page, PAGE_HEADER + LINE_POINTER * usize::from(number - 1));
        let (offset, normal) = ((pointer & 0x7FFF) as usize, pointer >> 15 & 3 == 1);
        normal && offset + 8 <= PAGE_SIZE && u32_at(page, offset + 4) == 0
    };
    (1..=items(page)).filter(live).collect()
}

/// Block data that carries a tuple.
pub fn tuple(columns: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(6 + columns.len());
    out.extend_from_slice(&INFOMASK2.to_le_bytes());
    out.extend_from_slice(&INFOMASK.to_le_bytes());
    out.extend_from_slice(&[HOFF, 0]);
    out.extend_from_slice(columns);
    out
}

/// Main data of INSERT.
pub fn insert_main(number: u16) -> Vec<u8> {
    let mut out = number.to_le_bytes().to_vec();
    out.push(0);
    out
}

/// Main data of DELETE and LOCK.
pub fn xmax_main(xmax: u32, number: u16, infobits: u8) -> Vec<u8> {
    let mut out = xmax.to_le_bytes().to_vec();
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&[infobits, 0]);
    out
}

/// Main data of UPDATE and HOT_UPDATE.
pub fn update_main(xid: u32, old: u16, new: u16) -> Vec<u8> {
    let mut out = xid.to_le_bytes().to_vec();
    out.extend_from_slice(&old.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&new.to_le_bytes());
    out
}

/// An empty heap page. `special` bytes at its end belong to an access method.
pub fn empty_page(special: u16) -> Box<[u8; PAGE_SIZE]> {
    let mut page = Box::new([0; PAGE_SIZE]);
    let end = PAGE_SIZE as u16 - special;
    page[12..14].copy_from_slice(&(PAGE_HEADER as u16).to_le_bytes());
    page[14..16].copy_from_slice(&end.to_le_bytes());
    page[16..18].copy_from_slice(&end.to_le_bytes());
    page[18..20].copy_from_slice(&0x2004u16.to_le_bytes());
    page
}

/// Puts a tuple onto a page directly, as it would lie in a data directory.
pub fn put_tuple(page: &mut [u8; PAGE_SIZE], xmin: u32, block: u32, columns: &[u8]) {
    let number = items(page) + 1;
    let len = usize::from(HOFF) + columns.len();
    let upper = usize::from(u16_at(page, 14)) - len.next_multiple_of(8);
    let lower = PAGE_HEADER + LINE_POINTER * usize::from(number);
    page[upper..upper + 4].copy_from_slice(&xmin.to_le_bytes());
    page[upper + 12..upper + 14].copy_from_slice(&((block >> 16) as u16).to_le_bytes());
    page[upper + 14..upper + 16].copy_from_slice(&(block as u16).to_le_bytes());
    page[upper + 16..upper + 18].copy_from_slice(&number.to_le_bytes());
    page[upper + 18..upper + 20].copy_from_slice(&INFOMASK2.to_le_bytes());
    page[upper + 20..upper + 22].copy_from_slice(&INFOMASK.to_le_bytes());
    page[upper + 22] = HOFF;
    page[upper + 24..upper + len].copy_from_slice(columns);
    let pointer = upper as u32 | 1 << 15 | (len as u32) << 17;
    page[lower - LINE_POINTER..lower].copy_from_slice(&pointer.to_le_bytes());
    page[12..14].copy_from_slice(&(lower as u16).to_le_bytes());
    page[14..16].copy_from_slice(&(upper as u16).to_le_bytes());
}
