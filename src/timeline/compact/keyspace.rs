//! The keys that a timeline has at an LSN, and their division into parts of about equal size.

use crate::timeline::{ReadError, Timeline};
use crate::types::key::REL_DIR_BUCKETS;
use crate::types::{Key, Lsn, PAGE_SIZE, RelTag, SlruKind};
use std::ops::Range;

/// What a value that is no page is taken to have, in bytes: most are a size or a short list.
const SMALL_VALUE_BYTES: u64 = 256;

/// So many keys, each one more in `field6` than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keys {
    pub first: Key,
    pub count: u32,
}

impl Keys {
    pub fn iter(self) -> impl Iterator<Item = Key> {
        (0..self.count).map(move |n| Key { field6: self.first.field6 + n, ..self.first })
    }

    fn last(self) -> Key {
        Key { field6: self.first.field6.saturating_add(self.count - 1), ..self.first }
    }

    fn value_bytes(self) -> u64 {
        use crate::types::key::KeyKind;
        let is_page = matches!(self.first.kind(), Some(KeyKind::RelBlock { .. } | KeyKind::SlruBlock { .. }));
        if is_page { PAGE_SIZE as u64 } else { SMALL_VALUE_BYTES }
    }
}

/// Keys that one image layer holds, and the range that it covers: up to where the next part begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub range: Range<Key>,
    pub keys: Vec<Keys>,
}

/// The keys that can be reached at an LSN, ascending. Those of relations that were dropped, and of blocks behind the end of their
/// relation, are not among them.
#[derive(Debug, Default)]
pub struct KeySpace(Vec<Keys>);

impl KeySpace {
    pub async fn at(timeline: &Timeline, lsn: Lsn) -> Result<KeySpace, ReadError> {
        let mut all = KeySpace::default();
        all.add(Key::DB_DIR, 1);
        for ((spc, db), has_files) in timeline.db_dir(lsn).await?.0 {
            all.add(Key::rel_map(spc, db), u32::from(has_files));
            all.add(Key::rel_dir(spc, db, 0), REL_DIR_BUCKETS);
            for (rel, fork) in timeline.relations(spc, db, lsn).await? {
                let rel = RelTag { spc, db, rel, fork };
                all.add(Key::rel_block(rel, 0), timeline.stored_rel_size(rel, lsn).await?);
                all.add(Key::rel_size(rel), 1);
            }
        }
        for kind in SlruKind::ALL {
            all.add(Key::slru_dir(kind), 1);
            for segment in timeline.slru_segments(kind, lsn).await?.0 {
                let pages = timeline.slru_segment_size(kind, segment, lsn).await?;
                all.add(Key::slru_page(kind, segment.saturating_mul(SlruKind::PAGES_PER_SEGMENT)), pages);
                all.add(Key::slru_segment_size(kind, segment), 1);
            }
        }
        all.add(Key::TWO_PHASE_DIR, 1);
        for xid in timeline.two_phase_dir(lsn).await?.0 {
            all.add(Key::two_phase_file(xid), 1);
        }
        for key in [Key::CONTROL_FILE, Key::CHECKPOINT, Key::TABLESPACE_DIR] {
            all.add(key, 1);
        }
        all.0.sort_unstable();
        match all.0.windows(2).find(|pair| pair[0].last() >= pair[1].first) {
            None => Ok(all),
            Some(pair) => Err(ReadError::Malformed { key: pair[1].first, lsn, reason: "two directories name it" }),
        }
    }

    fn add(&mut self, first: Key, count: u32) {
        // Blocks end before the key of their relation's size.
        let count = count.min((u32::MAX - first.field6).max(1));
        if count > 0 {
            self.0.push(Keys { first, count });
        }
    }

    /// Divides the keys into parts of about `bytes`. Their ranges join and cover the whole key space.
    pub fn parts(&self, bytes: u64) -> Vec<Part> {
        let bytes = bytes.max(1);
        let mut parts = vec![Part { range: Key::MIN..Key::MAX, keys: Vec::new() }];
        let mut filled = 0;
        for keys in &self.0 {
            let (mut left, size) = (*keys, keys.value_bytes());
            while left.count > 0 {
                if filled >= bytes {
                    parts.push(Part { range: left.first..Key::MAX, keys: Vec::new() });
                    filled = 0;
                }
                let room = (bytes - filled).div_ceil(size).min(u64::from(left.count)) as u32;
                parts.last_mut().expect("there is one").keys.push(Keys { first: left.first, count: room });
                filled += size * u64::from(room);
                left = Keys { first: Key { field6: left.first.field6.saturating_add(room), ..left.first }, count: left.count - room };
            }
        }
        for n in 1..parts.len() {
            parts[n - 1].range.end = parts[n].range.start;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Fork;

    #[test]
    fn parts_join_and_hold_every_key_once() {
        let rel = |rel| RelTag { spc: 1663, db: 5, rel, fork: Fork::Main };
        let mut space = KeySpace::default();
        for (first, count) in [
            (Key::DB_DIR, 1),
            (Key::rel_dir(1663, 5, 0), REL_DIR_BUCKETS),
            (Key::rel_block(rel(7), 0), 1000),
            (Key::rel_size(rel(7)), 1),
            (Key::rel_block(rel(8), 0), 0),
            (Key::rel_size(rel(8)), 1),
            (Key::CHECKPOINT, 1),
        ] {
            space.add(first, count);
        }
        let all: Vec<Key> = space.0.iter().flat_map(|keys| keys.iter()).collect();
        assert!(all.is_sorted() && all.len() == 1 + 64 + 1000 + 1 + 1 + 1);
        for bytes in [1, 8192, 100_000, 1 << 20, 1 << 40] {
            let parts = space.parts(bytes);
            assert_eq!((parts[0].range.start, parts[parts.len() - 1].range.end), (Key::MIN, Key::MAX));
            assert!(parts.windows(2).all(|pair| pair[0].range.end == pair[1].range.start));
            for part in &parts {
                assert!(part.keys.iter().flat_map(|keys| keys.iter()).all(|key| part.range.contains(&key)), "{bytes}");
                let size: u64 = part.keys.iter().map(|keys| keys.value_bytes() * u64::from(keys.count)).sum();
                assert!(size < bytes + PAGE_SIZE as u64);
            }
            let held: Vec<Key> = parts.iter().flat_map(|part| &part.keys).flat_map(|keys| keys.iter()).collect();
            assert_eq!(held, all, "{bytes}");
        }
        assert_eq!(space.parts(1 << 40).len(), 1);
    }
}
