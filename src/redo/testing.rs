//! Records for unit tests, put together byte by byte.

use crate::pg::page::{Page, PageBytes};
use crate::types::{PAGE_SIZE, RelTag};

/// An empty heap page.
pub fn heap_page() -> PageBytes {
    let mut page = [0; PAGE_SIZE];
    page.init(0);
    page
}

/// One block reference to be written; flags as in the record format (0x20 has data, 0x40 will init).
pub struct Ref<'a> {
    pub rel: RelTag,
    pub block: u32,
    pub flags: u8,
    pub data: &'a [u8],
}

/// A record of xid 700 without a valid CRC.
pub fn record(rmid: u8, info: u8, refs: &[Ref<'_>], main: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 24];
    out[4..8].copy_from_slice(&700u32.to_le_bytes());
    (out[16], out[17]) = (info, rmid);
    for (id, block) in refs.iter().enumerate() {
        let has_data = if block.data.is_empty() { 0 } else { 0x20 };
        out.extend_from_slice(&[id as u8, block.rel.fork as u8 | block.flags | has_data]);
        out.extend_from_slice(&(block.data.len() as u16).to_le_bytes());
        for word in [block.rel.spc, block.rel.db, block.rel.rel, block.block] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    if !main.is_empty() {
        out.push(254);
        out.extend_from_slice(&(main.len() as u32).to_le_bytes());
    }
    refs.iter().for_each(|block| out.extend_from_slice(block.data));
    out.extend_from_slice(main);
    let len = out.len() as u32;
    out[..4].copy_from_slice(&len.to_le_bytes());
    out
}

/// Heap INSERT of a tuple whose columns are `body`.
pub fn heap_insert(rel: RelTag, block: u32, number: u16, body: &[u8]) -> Vec<u8> {
    let mut data = vec![1, 0, 0, 8, 24, 0];
    data.extend_from_slice(body);
    let [low, high] = number.to_le_bytes();
    record(10, 0, &[Ref { rel, block, flags: 0, data: &data }], &[low, high, 0])
}
