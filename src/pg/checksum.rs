//! Checksums of data pages.
//!
//! The page is read as 64 rows of 32 little-endian words. Column `i` starts from its own constant and takes in its words from top to bottom, then two
//! zero words; taking in word `w` is `x := sum ^ w; sum := x * 16777619 ^ (x >> 17)` (FNV-1a with a shift that spreads the upper bits). The 32 sums are
//! xored together, then the block number is xored in, and the result is reduced modulo 65535 and raised by 1, so that 0 never occurs. The
//! checksum field itself (bytes 8..10 of the page) counts as zero. A new page, all zeros, carries no checksum.
//!
//! The block number is that within the relation's fork, not within the 1 GiB file.
//! Source: PostgreSQL 15, description in `storage/checksum_impl.h` and its table of constants; checked against pages of a real server.

use crate::types::PAGE_SIZE;

const COLUMNS: usize = 32;
const PRIME: u32 = 16_777_619;
const FIELD: std::ops::Range<usize> = 8..10;

/// The starting value of each column.
const START: [u32; COLUMNS] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C, 0xF8D4474F, 0xE39EB970, 0x42C6AE16,
    0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2,
    0x304A0979, 0x85AA43D4, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

#[inline(always)]
fn take_in(sum: u32, word: u32) -> u32 {
    let x = sum ^ word;
    x.wrapping_mul(PRIME) ^ (x >> 17)
}

/// The checksum that belongs into a page which is not new.
pub fn page_checksum(page: &[u8; PAGE_SIZE], block_number: u32) -> u16 {
    let mut sums = START;
    let (rows, _) = page.as_chunks::<{ COLUMNS * 4 }>();
    for (index, row) in rows.iter().enumerate() {
        let (words, _) = row.as_chunks::<4>();
        let mut values = [0; COLUMNS];
        for (value, word) in values.iter_mut().zip(words) {
            *value = u32::from_le_bytes(*word);
        }
        if index == 0 {
            // Word 2 holds the checksum field in its lower half.
            values[2] &= 0xFFFF_0000;
        }
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = take_in(*sum, value);
        }
    }
    let folded = sums.into_iter().fold(0, |all, sum| all ^ take_in(take_in(sum, 0), 0));
    ((folded ^ block_number) % 65535 + 1) as u16
}

/// PostgreSQL's test for a page that was never initialised: `upper` is 0.
fn is_new(page: &[u8; PAGE_SIZE]) -> bool {
    page[14] == 0 && page[15] == 0
}

/// The checksum the page carries.
pub fn stored_checksum(page: &[u8; PAGE_SIZE]) -> u16 {
    u16::from_le_bytes([page[FIELD.start], page[FIELD.start + 1]])
}

/// Writes the checksum into the page; new pages stay as they are.
pub fn set_checksum(page: &mut [u8; PAGE_SIZE], block_number: u32) {
    if !is_new(page) {
        let checksum = page_checksum(page, block_number);
        page[FIELD].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Whether the page carries the right checksum; a new page must be all zeros.
pub fn verify_checksum(page: &[u8; PAGE_SIZE], block_number: u32) -> bool {
    match is_new(page) {
        true => page.iter().all(|&b| b == 0),
        false => stored_checksum(page) == page_checksum(page, block_number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks 0 and 3 of a relation written by PostgreSQL 15 with checksums on.
    const PAGES: [(&[u8; PAGE_SIZE], u32); 2] = [(include_bytes!("testdata/page_0.15"), 0), (include_bytes!("testdata/page_3.15"), 3)];

    #[test]
    fn pages_of_a_real_server() {
        for (page, block) in PAGES {
            assert_ne!(stored_checksum(page), 0);
            assert_eq!(page_checksum(page, block), stored_checksum(page), "block {block}");
            assert!(verify_checksum(page, block));
            assert!(!verify_checksum(page, block + 1));
            let mut again = *page;
            again[FIELD].fill(0xAA);
            assert!(!verify_checksum(&again, block));
            set_checksum(&mut again, block);
            assert_eq!(&again, page);
        }
    }

    #[test]
    fn any_flipped_bit_shows() {
        let (page, block) = PAGES[1];
        for at in 0..PAGE_SIZE {
            let mut damaged = *page;
            damaged[at] ^= 1 << (at % 8);
            assert!(!verify_checksum(&damaged, block), "byte {at}");
        }
    }

    #[test]
    fn new_pages_carry_none() {
        let mut page = [0; PAGE_SIZE];
        set_checksum(&mut page, 7);
        assert_eq!(page, [0; PAGE_SIZE]);
        assert!(verify_checksum(&page, 7));
        page[100] = 1;
        assert!(!verify_checksum(&page, 7));
    }
}
