//! Keys of the versioned map that a timeline is: 18 bytes, big-endian, ordered as bytes.
//!
//! | item | field1 | field2 | field3 | field4 | field5 | field6 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | directory of databases | 00 | 0 | 0 | 0 | 0 | 0 |
//! | relmap file | 00 | spc | db | 0 | 0 | 0 |
//! | directory of relations, bucket b | 00 | spc | db | 0 | 0 | 1 + b |
//! | relation block | 00 | spc | db | rel | fork | block |
//! | relation size | 00 | spc | db | rel | fork | FFFFFFFF |
//! | SLRU directory | 01 | kind | 0 | 0 | 0 | 0 |
//! | SLRU block | 01 | kind | 1 | segment | 0 | block in segment |
//! | SLRU segment size | 01 | kind | 1 | segment | 0 | FFFFFFFF |
//! | two-phase directory | 02 | 0 | 0 | 0 | 0 | 0 |
//! | two-phase file | 02 | 0 | 0 | xid bits 40..63 | xid bits 32..39 | xid bits 0..31 |
//! | control file | 03 | 0 | 0 | 0 | 0 | 0 |
//! | checkpoint struct | 03 | 0 | 0 | 0 | 0 | 1 |
//! | tablespace directory | 03 | 0 | 0 | 0 | 0 | 3 |
//!
//! Source: reference storage-format, section 2. Ours: the tablespace directory, and a directory of relations that is split by
//! relation number, so that creating one table among many does not rewrite a list of all.

use super::rel::{Fork, RelTag, SlruKind};
use std::fmt;

/// Size of the encoded form in bytes.
pub const KEY_LEN: usize = 18;
/// `field6` of a size key: sorts right after the last block.
const SIZE: u32 = u32::MAX;
/// Buckets of a directory of relations.
pub const REL_DIR_BUCKETS: u32 = 64;

/// One key. Field order is sort order, so the derived ordering equals that of the encoded bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub field1: u8,
    pub field2: u32,
    pub field3: u32,
    pub field4: u32,
    pub field5: u8,
    pub field6: u32,
}

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    DbDir,
    RelMap { spc: u32, db: u32 },
    RelDir { spc: u32, db: u32, bucket: u32 },
    RelBlock { rel: RelTag, block: u32 },
    RelSize(RelTag),
    SlruDir(SlruKind),
    SlruBlock { kind: SlruKind, segment: u32, block: u32 },
    SlruSegmentSize { kind: SlruKind, segment: u32 },
    TwoPhaseDir,
    TwoPhaseFile { xid: u64 },
    ControlFile,
    Checkpoint,
    TablespaceDir,
}

const fn key(field1: u8, field2: u32, field3: u32, field4: u32, field5: u8, field6: u32) -> Key {
    Key { field1, field2, field3, field4, field5, field6 }
}

impl Key {
    pub const MIN: Key = key(0, 0, 0, 0, 0, 0);
    pub const MAX: Key = key(u8::MAX, u32::MAX, u32::MAX, u32::MAX, u8::MAX, u32::MAX);
    pub const DB_DIR: Key = Key::MIN;
    pub const TWO_PHASE_DIR: Key = key(2, 0, 0, 0, 0, 0);
    pub const CONTROL_FILE: Key = key(3, 0, 0, 0, 0, 0);
    pub const CHECKPOINT: Key = key(3, 0, 0, 0, 0, 1);
    pub const TABLESPACE_DIR: Key = key(3, 0, 0, 0, 0, 3);

    pub const fn rel_map(spc: u32, db: u32) -> Key {
        key(0, spc, db, 0, 0, 0)
    }

    pub const fn rel_dir(spc: u32, db: u32, bucket: u32) -> Key {
        key(0, spc, db, 0, 0, 1 + bucket)
    }

    /// The bucket of a directory of relations that lists `rel`.
    pub const fn rel_dir_of(spc: u32, db: u32, rel: u32) -> Key {
        Key::rel_dir(spc, db, rel % REL_DIR_BUCKETS)
    }

    pub const fn rel_block(rel: RelTag, block: u32) -> Key {
        key(0, rel.spc, rel.db, rel.rel, rel.fork as u8, block)
    }

    pub const fn rel_size(rel: RelTag) -> Key {
        key(0, rel.spc, rel.db, rel.rel, rel.fork as u8, SIZE)
    }

    pub const fn slru_dir(kind: SlruKind) -> Key {
        key(1, kind as u32, 0, 0, 0, 0)
    }

    /// The block that holds SLRU page `page` (counted from the start of the area).
    pub const fn slru_page(kind: SlruKind, page: u32) -> Key {
        key(1, kind as u32, 1, page / SlruKind::PAGES_PER_SEGMENT, 0, page % SlruKind::PAGES_PER_SEGMENT)
    }

    pub const fn slru_segment_size(kind: SlruKind, segment: u32) -> Key {
        key(1, kind as u32, 1, segment, 0, SIZE)
    }

    pub const fn two_phase_file(xid: u64) -> Key {
        key(2, 0, 0, (xid >> 40) as u32, (xid >> 32) as u8, xid as u32)
    }

    pub fn to_bytes(self) -> [u8; KEY_LEN] {
        let mut out = [0; KEY_LEN];
        out[0] = self.field1;
        out[1..5].copy_from_slice(&self.field2.to_be_bytes());
        out[5..9].copy_from_slice(&self.field3.to_be_bytes());
        out[9..13].copy_from_slice(&self.field4.to_be_bytes());
        out[13] = self.field5;
        out[14..18].copy_from_slice(&self.field6.to_be_bytes());
        out
    }

    pub fn from_bytes(bytes: &[u8; KEY_LEN]) -> Key {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        key(bytes[0], word(1), word(5), word(9), bytes[13], word(14))
    }

    /// The next key in order; `MAX` stays.
    pub fn next(self) -> Key {
        let mut bytes = self.to_bytes();
        if self == Key::MAX {
            return self;
        }
        for byte in bytes.iter_mut().rev() {
            let (sum, carry) = byte.overflowing_add(1);
            *byte = sum;
            if !carry {
                break;
            }
        }
        Key::from_bytes(&bytes)
    }

    /// Reads the key; `None` for keys this version does not write.
    pub fn kind(self) -> Option<KeyKind> {
        match self.field1 {
            0 => self.relation_kind(),
            1 => self.slru_kind(),
            2 if self == Key::TWO_PHASE_DIR => Some(KeyKind::TwoPhaseDir),
            2 => {
                let xid = u64::from(self.field4) << 40 | u64::from(self.field5) << 32 | u64::from(self.field6);
                Some(KeyKind::TwoPhaseFile { xid })
            }
            3 if self == Key::CONTROL_FILE => Some(KeyKind::ControlFile),
            3 if self == Key::CHECKPOINT => Some(KeyKind::Checkpoint),
            3 if self == Key::TABLESPACE_DIR => Some(KeyKind::TablespaceDir),
            _ => None,
        }
    }

    fn relation_kind(self) -> Option<KeyKind> {
        let (spc, db) = (self.field2, self.field3);
        if self == Key::DB_DIR {
            return Some(KeyKind::DbDir);
        }
        if self.field4 == 0 {
            return match self.field6 {
                0 => Some(KeyKind::RelMap { spc, db }),
                bucket @ 1..=REL_DIR_BUCKETS => Some(KeyKind::RelDir { spc, db, bucket: bucket - 1 }),
                _ => None,
            };
        }
        let rel = RelTag { spc, db, rel: self.field4, fork: Fork::from_number(self.field5)? };
        Some(if self.field6 == SIZE { KeyKind::RelSize(rel) } else { KeyKind::RelBlock { rel, block: self.field6 } })
    }

    fn slru_kind(self) -> Option<KeyKind> {
        let kind = SlruKind::from_number(u8::try_from(self.field2).ok()?)?;
        let segment = self.field4;
        match (self.field3, self.field6) {
            (0, _) => Some(KeyKind::SlruDir(kind)),
            (_, SIZE) => Some(KeyKind::SlruSegmentSize { kind, segment }),
            (_, block) => Some(KeyKind::SlruBlock { kind, segment, block }),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names of layers are made of this by the thousand: one call of the formatter, not one per byte.
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let mut text = [0; 2 * KEY_LEN];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.to_bytes()) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        f.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Some(kind) => write!(f, "{kind:?}"),
            None => write!(f, "{self}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REL: RelTag = RelTag { spc: 1663, db: 5, rel: 16384, fork: Fork::Vm };

    #[test]
    fn kinds_round_trip() {
        for (key, kind) in [
            (Key::DB_DIR, KeyKind::DbDir),
            (Key::rel_map(1663, 5), KeyKind::RelMap { spc: 1663, db: 5 }),
            (Key::rel_dir(1663, 5, 3), KeyKind::RelDir { spc: 1663, db: 5, bucket: 3 }),
            (Key::rel_block(REL, 7), KeyKind::RelBlock { rel: REL, block: 7 }),
            (Key::rel_size(REL), KeyKind::RelSize(REL)),
            (Key::slru_dir(SlruKind::CommitTs), KeyKind::SlruDir(SlruKind::CommitTs)),
            (Key::slru_page(SlruKind::Clog, 70), KeyKind::SlruBlock { kind: SlruKind::Clog, segment: 2, block: 6 }),
            (Key::slru_segment_size(SlruKind::Clog, 2), KeyKind::SlruSegmentSize { kind: SlruKind::Clog, segment: 2 }),
            (Key::TWO_PHASE_DIR, KeyKind::TwoPhaseDir),
            (Key::two_phase_file(0x12_3456_789A), KeyKind::TwoPhaseFile { xid: 0x12_3456_789A }),
            (Key::CONTROL_FILE, KeyKind::ControlFile),
            (Key::CHECKPOINT, KeyKind::Checkpoint),
            (Key::TABLESPACE_DIR, KeyKind::TablespaceDir),
        ] {
            assert_eq!(key.kind(), Some(kind));
            assert_eq!(Key::from_bytes(&key.to_bytes()), key);
        }
    }

    #[test]
    fn order_is_that_of_bytes_and_next_carries() {
        let mut keys = [Key::MIN, Key::rel_size(REL), Key::rel_block(REL, 0), Key::rel_block(REL, u32::MAX - 1), Key::CHECKPOINT, Key::MAX];
        keys.sort();
        assert!(keys.windows(2).all(|w| w[0].to_bytes() < w[1].to_bytes()));
        assert_eq!(Key::rel_block(REL, u32::MAX - 1).next(), Key::rel_size(REL));
        assert_eq!(Key::rel_size(REL).next(), Key::rel_block(RelTag { fork: Fork::Init, ..REL }, 0));
        assert_eq!(Key::MAX.next(), Key::MAX);
    }
}
