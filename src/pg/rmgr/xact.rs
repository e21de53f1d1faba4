//! Transaction records: commit, abort, prepare.

use super::MalformedRecord;
use super::cut::Cut;
use crate::pg::version::PgVersion;
use crate::types::{Fork, RelTag};

pub const COMMIT: u8 = 0x00;
pub const PREPARE: u8 = 0x10;
pub const ABORT: u8 = 0x20;
pub const COMMIT_PREPARED: u8 = 0x30;
pub const ABORT_PREPARED: u8 = 0x40;
pub const ASSIGNMENT: u8 = 0x50;
pub const OPCODE_MASK: u8 = 0x70;
const HAS_INFO: u8 = 0x80;

const HAS_DBINFO: u32 = 1 << 0;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_DROPPED_STATS: u32 = 1 << 8;

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct XactEnd {
    /// Microseconds since PostgreSQL's epoch.
    pub time: i64,
    /// The transaction that ends: the record's own, or the prepared one.
    pub xid: u32,
    pub subxids: Vec<u32>,
    /// Main forks of the relations whose files go.
    pub dropped: Vec<RelTag>,
}

/// Reads COMMIT, ABORT and their PREPARED forms. `record_xid` is the xid of the record's header.
pub fn parse_end(info: u8, main: &[u8], record_xid: u32, version: PgVersion) -> Result<XactEnd, MalformedRecord> {
    let mut cut = Cut::new(main, "transaction end");
    let mut end = XactEnd { time: cut.u64()? as i64, xid: record_xid, ..XactEnd::default() };
    let flags = if info & HAS_INFO != 0 { cut.u32()? } else { 0 };
    if flags & HAS_DBINFO != 0 {
        cut.take(8)?;
    }
    if flags & HAS_SUBXACTS != 0 {
        let count = cut.count()?;
        end.subxids = cut.items(count, 4, Cut::u32)?;
    }
    if flags & HAS_RELATIONS != 0 {
        let count = cut.count()?;
        end.dropped = cut.items(count, 12, |c| Ok(RelTag { spc: c.u32()?, db: c.u32()?, rel: c.u32()?, fork: Fork::Main }))?;
    }
    if flags & HAS_DROPPED_STATS != 0 {
        let item = if version >= PgVersion::V18 { 16 } else { 12 };
        let count = cut.count()?;
        cut.items(count, item, |c| c.take(item).map(|_| ()))?;
    }
    if flags & HAS_INVALIDATIONS != 0 {
        let count = cut.count()?;
        cut.items(count, 16, |c| c.take(16).map(|_| ()))?;
    }
    if flags & HAS_TWO_PHASE != 0 {
        end.xid = cut.u32()?;
    }
    Ok(end)
}

/// Reads ASSIGNMENT: (top-level xid, its subtransactions).
pub fn parse_assignment(main: &[u8]) -> Result<(u32, Vec<u32>), MalformedRecord> {
    let mut cut = Cut::new(main, "transaction assignment");
    let top = cut.u32()?;
    let count = cut.count()?;
    Ok((top, cut.items(count, 4, Cut::u32)?))
}

/// The subtransactions that a PREPARE record (a two-phase state file) lists.
///
/// Header: magic, total length, xid, database u32; prepared at i64; owner u32; counts i32: subxacts, commit relations, abort
/// relations, [15+: commit stats, abort stats,] invalidations; a bool; GID length u16; origin u64 and i64. Then the GID and the
/// subxids, each part aligned to 8. Source: PostgreSQL 15 `access/xact.h` (xl_xact_prepare).
pub fn prepared_subxids(main: &[u8], version: PgVersion) -> Result<Vec<u32>, MalformedRecord> {
    const WHAT: &str = "prepare";
    let counts = if version >= PgVersion::V15 { 6 } else { 4 };
    let gid_len_at = 28 + 4 * counts + 2;
    let header = (gid_len_at + 2usize).next_multiple_of(8) + 16;
    let count = Cut::new(main.get(28..).unwrap_or_default(), WHAT).count()?;
    let gid_len = main.get(gid_len_at..).and_then(|b| b.first_chunk::<2>()).ok_or(MalformedRecord(WHAT))?;
    let subxids_at = header + usize::from(u16::from_le_bytes(*gid_len)).next_multiple_of(8);
    let mut cut = Cut::new(main.get(subxids_at..).ok_or(MalformedRecord(WHAT))?, WHAT);
    cut.items(count, 4, Cut::u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn ends() {
        let plain = [7u64.to_le_bytes().to_vec()].concat();
        assert_eq!(parse_end(COMMIT, &plain, 9, PgVersion::V15), Ok(XactEnd { time: 7, xid: 9, ..XactEnd::default() }));
        let flags = HAS_DBINFO | HAS_SUBXACTS | HAS_RELATIONS | HAS_DROPPED_STATS | HAS_INVALIDATIONS | HAS_TWO_PHASE;
        let body =
            [&7u64.to_le_bytes()[..], &words(&[flags, 5, 1663, 2, 101, 102, 1, 1663, 5, 16384, 1, 0, 0, 0, 1, 0, 0, 0, 0, 77])].concat();
        let want =
            XactEnd { time: 7, xid: 77, subxids: vec![101, 102], dropped: vec![RelTag { spc: 1663, db: 5, rel: 16384, fork: Fork::Main }] };
        assert_eq!(parse_end(COMMIT_PREPARED | HAS_INFO, &body, 0, PgVersion::V15), Ok(want));
        for len in 0..body.len() {
            assert!(parse_end(COMMIT | HAS_INFO, &body[..len], 0, PgVersion::V15).is_err(), "cut at {len}");
        }
        let wild = [&7u64.to_le_bytes()[..], &words(&[HAS_SUBXACTS, u32::MAX >> 1])].concat();
        assert!(parse_end(HAS_INFO, &wild, 0, PgVersion::V15).is_err());
    }
}
