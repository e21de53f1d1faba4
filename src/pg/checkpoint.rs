//! The checkpoint struct: what a checkpoint record carries, pg_control copies and ingest keeps up to date.
//!
//! | offset | size | name |
//! | --- | --- | --- |
//! | 0 | 8 | redo |
//! | 8, 12 | 4 | this and previous PostgreSQL timeline |
//! | 16 | 1 | full_page_writes |
//! | 20 | 4 | wal_level (17 and later, padding before) |
//! | 24 | 8 | next xid with its epoch |
//! | 32 | 4 | next oid |
//! | 36, 40 | 4 | next multixact, next multixact offset |
//! | 44, 48 | 4 | oldest xid, its database |
//! | 52, 56 | 4 | oldest multixact, its database |
//! | 64 | 8 | time, seconds since 1970 |
//! | 72, 76 | 4 | oldest and newest xid with a commit timestamp |
//! | 80 | 4 | oldest active xid |
//!
//! Little-endian, 88 bytes, gaps are zero. Source: PostgreSQL 15 `catalog/pg_control.h`; 17 for wal_level.
//!
//! Invariant `CK-1`: the counters never go back, in the wrap-aware order of their kind, except that a shutdown checkpoint record states them exactly.

use crate::pg::version::PgVersion;
use crate::types::Lsn;

/// Bytes of the encoded form.
pub const CHECKPOINT_LEN: usize = 88;
/// The first xid a transaction can have; smaller ones have special meanings.
pub const FIRST_NORMAL_XID: u32 = 3;

/// An xid with its epoch in the upper half.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FullXid(pub u64);

impl FullXid {
    pub fn new(epoch: u32, xid: u32) -> FullXid {
        FullXid(u64::from(epoch) << 32 | u64::from(xid))
    }

    pub fn xid(self) -> u32 {
        self.0 as u32
    }

    pub fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The value with this `xid` that lies nearest; an xid in WAL is never more than 2^31 away from the next one.
    pub fn nearest(self, xid: u32) -> FullXid {
        let distance = xid.wrapping_sub(self.xid()) as i32;
        FullXid(self.0.saturating_add_signed(i64::from(distance)))
    }

    /// Moves past the xids that no transaction gets.
    fn skip_special(self) -> FullXid {
        match self.xid() {
            special @ 0..FIRST_NORMAL_XID => FullXid(self.0 + u64::from(FIRST_NORMAL_XID - special)),
            _ => self,
        }
    }
}

/// Whether xid (or multixact, or member offset) `a` comes before `b`, modulo 2^32.
pub fn precedes(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// As [`precedes`], but special xids come before all normal ones.
pub fn xid_precedes(a: u32, b: u32) -> bool {
    match a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID {
        true => a < b,
        false => precedes(a, b),
    }
}

/// See the module's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckPoint {
    pub redo: Lsn,
    pub tli: u32,
    pub prev_tli: u32,
    pub full_page_writes: bool,
    /// 17 and later.
    pub wal_level: Option<i32>,
    pub next_xid: FullXid,
    pub next_oid: u32,
    pub next_multi: u32,
    pub next_multi_offset: u32,
    pub oldest_xid: u32,
    pub oldest_xid_db: u32,
    pub oldest_multi: u32,
    pub oldest_multi_db: u32,
    /// Seconds since 1970.
    pub time: i64,
    pub oldest_commit_ts_xid: u32,
    pub newest_commit_ts_xid: u32,
    pub oldest_active_xid: u32,
}

impl CheckPoint {
    /// `None` if there are fewer than 88 bytes.
    pub fn decode(bytes: &[u8], version: PgVersion) -> Option<CheckPoint> {
        let bytes = bytes.first_chunk::<CHECKPOINT_LEN>()?;
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at + 4)) << 32 | u64::from(u32_at(at));
        Some(CheckPoint {
            redo: Lsn(u64_at(0)),
            tli: u32_at(8),
            prev_tli: u32_at(12),
            full_page_writes: bytes[16] != 0,
            wal_level: (version >= PgVersion::V17).then(|| u32_at(20) as i32),
            next_xid: FullXid(u64_at(24)),
            next_oid: u32_at(32),
            next_multi: u32_at(36),
            next_multi_offset: u32_at(40),
            oldest_xid: u32_at(44),
            oldest_xid_db: u32_at(48),
            oldest_multi: u32_at(52),
            oldest_multi_db: u32_at(56),
            time: u64_at(64) as i64,
            oldest_commit_ts_xid: u32_at(72),
            newest_commit_ts_xid: u32_at(76),
            oldest_active_xid: u32_at(80),
        })
    }

    pub fn encode(&self) -> [u8; CHECKPOINT_LEN] {
        let mut out = [0; CHECKPOINT_LEN];
        out[16] = u8::from(self.full_page_writes);
        for (at, value) in [(0, self.redo.0), (24, self.next_xid.0), (64, self.time as u64)] {
            out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in [
            (8, self.tli),
            (12, self.prev_tli),
            (20, self.wal_level.unwrap_or(0) as u32),
            (32, self.next_oid),
            (36, self.next_multi),
            (40, self.next_multi_offset),
            (44, self.oldest_xid),
            (48, self.oldest_xid_db),
            (52, self.oldest_multi),
            (56, self.oldest_multi_db),
            (72, self.oldest_commit_ts_xid),
            (76, self.newest_commit_ts_xid),
            (80, self.oldest_active_xid),
        ] {
            out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    /// Moves the next xid past `xid`. Gives whether anything changed.
    pub fn advance_next_xid(&mut self, xid: u32) -> bool {
        self.advance_next_xid_aligned(xid, 1)
    }

    /// Moves the next xid past `xid` to a multiple of `step` (a power of two), so that it changes more rarely; xids that are left out are taken for
    /// aborted. Gives whether anything changed.
    pub fn advance_next_xid_aligned(&mut self, xid: u32, step: u64) -> bool {
        assert!(step.is_power_of_two(), "step {step}");
        if xid < FIRST_NORMAL_XID {
            return false;
        }
        let used = self.next_xid.nearest(xid);
        if used < self.next_xid {
            return false;
        }
        self.next_xid = FullXid((used.0 + 1).next_multiple_of(step)).skip_special();
        true
    }

    /// A multixact with `members` members was created at `offset`. Gives whether anything changed.
    pub fn advance_next_multi(&mut self, multi: u32, offset: u32, members: u32) -> bool {
        // 0 is no multixact: after the wrap comes 1.
        let next = multi.wrapping_add(1).max(1);
        let next_offset = offset.wrapping_add(members);
        let moves = precedes(self.next_multi, next);
        if moves {
            self.next_multi = next;
        }
        let offset_moves = precedes(self.next_multi_offset, next_offset);
        if offset_moves {
            self.next_multi_offset = next_offset;
        }
        moves || offset_moves
    }

    /// pg_xact was truncated. Gives whether anything changed.
    pub fn advance_oldest_xid(&mut self, xid: u32, db: u32) -> bool {
        let moves = xid_precedes(self.oldest_xid, xid);
        if moves {
            (self.oldest_xid, self.oldest_xid_db) = (xid, db);
        }
        moves
    }

    /// pg_multixact was truncated. Gives whether anything changed.
    pub fn advance_oldest_multi(&mut self, multi: u32, db: u32) -> bool {
        let moves = precedes(self.oldest_multi, multi);
        if moves {
            (self.oldest_multi, self.oldest_multi_db) = (multi, db);
        }
        moves
    }

    /// Takes over a checkpoint record. A shutdown checkpoint states the counters exactly; at an online one they may have moved on since it began.
    pub fn merge(&mut self, record: &CheckPoint, shutdown: bool) {
        let mut merged = record.clone();
        if !shutdown {
            // NEXTOID records tell the next oid; the one here is from when the checkpoint began.
            merged.next_oid = self.next_oid;
            if merged.newest_commit_ts_xid != 0 && xid_precedes(merged.newest_commit_ts_xid, self.newest_commit_ts_xid) {
                merged.newest_commit_ts_xid = self.newest_commit_ts_xid;
            }
            merged.next_xid = merged.next_xid.max(self.next_xid);
            if precedes(merged.next_multi, self.next_multi) {
                merged.next_multi = self.next_multi;
            }
            if precedes(merged.next_multi_offset, self.next_multi_offset) {
                merged.next_multi_offset = self.next_multi_offset;
            }
        }
        merged.advance_oldest_xid(self.oldest_xid, self.oldest_xid_db);
        merged.advance_oldest_multi(self.oldest_multi, self.oldest_multi_db);
        *self = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> CheckPoint {
        CheckPoint {
            redo: Lsn(0x1_2345_6789),
            tli: 2,
            prev_tli: 1,
            full_page_writes: true,
            wal_level: None,
            next_xid: FullXid::new(3, 1000),
            next_oid: 24576,
            next_multi: 5,
            next_multi_offset: 11,
            oldest_xid: 722,
            oldest_xid_db: 1,
            oldest_multi: 1,
            oldest_multi_db: 4,
            time: -7,
            oldest_commit_ts_xid: 8,
            newest_commit_ts_xid: 9,
            oldest_active_xid: 10,
        }
    }

    #[test]
    fn round_trip() {
        for version in PgVersion::ALL {
            let mut point = sample();
            if version >= PgVersion::V17 {
                point.wal_level = Some(2);
            }
            let bytes = point.encode();
            assert_eq!(CheckPoint::decode(&bytes, version), Some(point.clone()));
            assert_eq!(CheckPoint::decode(&bytes[..87], version), None);
            // Every byte that is not padding matters.
            let padding = |at: usize| matches!(at, 17..20 | 60..64 | 84..88) || (version < PgVersion::V17 && (20..24).contains(&at));
            for at in (0..88).filter(|&at| !padding(at) && at != 16) {
                let mut other = bytes;
                other[at] ^= 0x10;
                assert_ne!(CheckPoint::decode(&other, version), Some(point.clone()), "byte {at}");
            }
        }
    }

    #[test]
    fn next_xid_moves_past() {
        let check = |next: FullXid, xid: u32, step: u64, want: FullXid| {
            let mut point = CheckPoint { next_xid: next, ..sample() };
            let changed = point.advance_next_xid_aligned(xid, step);
            assert_eq!((point.next_xid, changed), (want, want != next), "{next:?} past {xid}");
        };
        let at = FullXid::new;
        check(at(3, 1000), 999, 1, at(3, 1000));
        check(at(3, 1000), 1000, 1, at(3, 1001));
        check(at(3, 1000), 5000, 1, at(3, 5001));
        check(at(3, 1000), 5000, 1024, at(3, 5120));
        check(at(3, 1000), 1023, 1024, at(3, 1024));
        check(at(3, 1000), 0, 1, at(3, 1000));
        check(at(3, 1000), 2, 1, at(3, 1000));
        check(at(3, u32::MAX - 5), u32::MAX, 1, at(4, 3));
        check(at(3, u32::MAX - 5), u32::MAX - 1, 1024, at(4, 3));
        check(at(3, u32::MAX - 5), 10, 1, at(4, 11));
        check(at(4, 3), u32::MAX, 1, at(4, 3));
        check(at(0, 3), u32::MAX, 1, at(0, 3));
    }

    #[test]
    fn multixacts_move_past_and_wrap() {
        let check = |from: (u32, u32), (multi, offset, members): (u32, u32, u32), want: (u32, u32)| {
            let mut point = CheckPoint { next_multi: from.0, next_multi_offset: from.1, ..sample() };
            let changed = point.advance_next_multi(multi, offset, members);
            assert_eq!(((point.next_multi, point.next_multi_offset), changed), (want, want != from));
        };
        check((5, 11), (5, 11, 3), (6, 14));
        check((5, 11), (3, 7, 2), (5, 11));
        check((5, 11), (9, 20, 2), (10, 22));
        check((u32::MAX, 11), (u32::MAX, 11, 2), (1, 13));
        check((5, u32::MAX - 1), (5, u32::MAX - 1, 4), (6, 2));
    }

    #[test]
    fn oldest_ones_only_grow() {
        let mut point = CheckPoint { oldest_xid: u32::MAX - 10, oldest_multi: u32::MAX - 10, ..sample() };
        assert!(!point.advance_oldest_xid(u32::MAX - 11, 9));
        assert!(point.advance_oldest_xid(5, 9));
        assert_eq!((point.oldest_xid, point.oldest_xid_db), (5, 9));
        assert!(point.advance_oldest_multi(1, 9));
        assert!(!point.advance_oldest_multi(u32::MAX, 8));
        assert_eq!((point.oldest_multi, point.oldest_multi_db), (1, 9));
        assert!(xid_precedes(1, u32::MAX) && xid_precedes(2, 3) && !xid_precedes(3, 2));
    }

    #[test]
    fn checkpoint_records_merge() {
        let stored = CheckPoint {
            next_xid: FullXid::new(3, 2000),
            next_oid: 32768,
            newest_commit_ts_xid: 1999,
            next_multi: 9,
            next_multi_offset: 50,
            oldest_xid: 900,
            ..sample()
        };
        let mut online = stored.clone();
        online.merge(&sample(), false);
        assert_eq!((online.next_xid, online.next_multi, online.next_multi_offset), (FullXid::new(3, 2000), 9, 50));
        assert_eq!((online.oldest_xid, online.redo), (900, sample().redo));
        assert_eq!((online.next_oid, online.newest_commit_ts_xid), (32768, 1999));
        let mut shutdown = stored;
        shutdown.merge(&sample(), true);
        assert_eq!((shutdown.next_xid, shutdown.next_multi, shutdown.oldest_xid), (FullXid::new(3, 1000), 5, 900));
        assert_eq!((shutdown.next_oid, shutdown.newest_commit_ts_xid), (sample().next_oid, sample().newest_commit_ts_xid));
    }
}
