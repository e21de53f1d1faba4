//! Index entries: where the versions of a key lie. Fixed size, so that a raw index block is searched as it is.
//!
//! A *run* is a group of consecutive versions of one key in one data block. Entries are sorted by (key, lsn_first).
//!
//! | offset | size | name | meaning |
//! | --- | --- | --- | --- |
//! | 0 | 18 | key | big-endian |
//! | 18 | 8 | lsn_first | oldest version of the run |
//! | 26 | 8 | lsn_last | newest version of the run |
//! | 34 | 8 | block_offset | data block in the file |
//! | 42 | 4 | block_len | length of the data block with its header |
//! | 46 | 4 | position | start of the run in the raw data block |
//! | 50 | 4 | count | versions in the run |
//! | 54 | 4 | depth | records a reader of the newest version replays, older layers included |
//!
//! The top index has one entry per index block: key 18, lsn_first 8, offset 8, length 4. Numbers big-endian.

use crate::types::key::KEY_LEN;
use crate::types::{Key, Lsn};

/// Size of a run entry in bytes.
pub const RUN_ENTRY: usize = 58;
/// Size of a top index entry in bytes.
pub const TOP_ENTRY: usize = 38;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub key: Key,
    pub lsn_first: Lsn,
    pub lsn_last: Lsn,
    pub block_offset: u64,
    pub block_len: u32,
    pub position: u32,
    pub count: u32,
    pub depth: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopEntry {
    pub key: Key,
    pub lsn_first: Lsn,
    pub offset: u64,
    pub len: u32,
}

fn key_at(bytes: &[u8]) -> Option<Key> {
    Some(Key::from_bytes(bytes.first_chunk::<KEY_LEN>()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk::<8>()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

impl Run {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.to_bytes());
        out.extend_from_slice(&self.lsn_first.0.to_be_bytes());
        out.extend_from_slice(&self.lsn_last.0.to_be_bytes());
        out.extend_from_slice(&self.block_offset.to_be_bytes());
        for word in [self.block_len, self.position, self.count, self.depth] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Option<Run> {
        Some(Run {
            key: key_at(bytes)?,
            lsn_first: Lsn(u64_at(bytes, 18)?),
            lsn_last: Lsn(u64_at(bytes, 26)?),
            block_offset: u64_at(bytes, 34)?,
            block_len: u32_at(bytes, 42)?,
            position: u32_at(bytes, 46)?,
            count: u32_at(bytes, 50)?,
            depth: u32_at(bytes, 54)?,
        })
    }
}

impl TopEntry {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.to_bytes());
        out.extend_from_slice(&self.lsn_first.0.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<TopEntry> {
        Some(TopEntry { key: key_at(bytes)?, lsn_first: Lsn(u64_at(bytes, 18)?), offset: u64_at(bytes, 26)?, len: u32_at(bytes, 34)? })
    }
}

/// Number of entries at the front whose (key, lsn_first) is at or below the target.
fn partition(raw: &[u8], entry: usize, key: Key, lsn: Lsn) -> usize {
    let mut target = [0; KEY_LEN + 8];
    target[..KEY_LEN].copy_from_slice(&key.to_bytes());
    target[KEY_LEN..].copy_from_slice(&lsn.0.to_be_bytes());
    let (mut low, mut high) = (0, raw.len() / entry);
    while low < high {
        let middle = low + (high - low) / 2;
        let at = middle * entry;
        let not_above = raw.get(at..at + KEY_LEN + 8).is_some_and(|prefix| prefix <= target.as_slice());
        if not_above { low = middle + 1 } else { high = middle }
    }
    low
}

/// The run at `position`, if there is one.
pub fn run_at(raw: &[u8], position: usize) -> Option<Run> {
    raw.get(position.checked_mul(RUN_ENTRY)?..).and_then(Run::decode)
}

/// Position of the last run whose (key, lsn_first) is at or below the target.
pub fn find_run(raw: &[u8], key: Key, lsn: Lsn) -> Option<usize> {
    partition(raw, RUN_ENTRY, key, lsn).checked_sub(1)
}

pub fn run_count(raw: &[u8]) -> usize {
    raw.len() / RUN_ENTRY
}

pub fn top_at(raw: &[u8], position: usize) -> Option<TopEntry> {
    raw.get(position.checked_mul(TOP_ENTRY)?..).and_then(TopEntry::decode)
}

/// Position of the last index block that can hold the target.
pub fn find_top(raw: &[u8], key: Key, lsn: Lsn) -> Option<usize> {
    partition(raw, TOP_ENTRY, key, lsn).checked_sub(1)
}

pub fn top_count(raw: &[u8]) -> usize {
    raw.len() / TOP_ENTRY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(block: u32, lsn: u64) -> Run {
        let key = Key { field6: block, ..Key::MIN };
        Run { key, lsn_first: Lsn(lsn), lsn_last: Lsn(lsn + 5), block_offset: 9, block_len: 8, position: 7, count: 6, depth: 5 }
    }

    #[test]
    fn search() {
        let runs = [run(1, 10), run(1, 20), run(3, 10)];
        let mut raw = Vec::new();
        runs.iter().for_each(|r| r.encode(&mut raw));
        assert_eq!(run_count(&raw), 3);
        for (i, want) in runs.iter().enumerate() {
            assert_eq!(run_at(&raw, i), Some(*want));
        }
        assert_eq!(run_at(&raw, 3), None);
        let key = |b| Key { field6: b, ..Key::MIN };
        for (block, lsn, want) in [
            (0, 99, None),
            (1, 9, None),
            (1, 10, Some(0)),
            (1, 19, Some(0)),
            (1, 20, Some(1)),
            (2, 0, Some(1)),
            (3, 9, Some(1)),
            (9, 9, Some(2)),
        ] {
            assert_eq!(find_run(&raw, key(block), Lsn(lsn)), want, "{block}@{lsn}");
        }
    }
}
