//! Effects of records on SLRU pages, which records never name: transaction status, multixacts, commit timestamps.
//!
//! | area | page holds | written by |
//! | --- | --- | --- |
//! | pg_xact | 2 bits an xid, 32768 xids: 1 committed, 2 aborted | commit, abort, also of prepared transactions |
//! | multixact offsets | u32 per multixact, 2048 | multixact create: its own offset and that of the next one |
//! | multixact members | 409 groups of 4 flag bytes + 4 xids | multixact create |
//! | pg_commit_ts | 10 bytes an xid, 819: time i64, origin u16 | commit, when timestamps are tracked |
//!
//! The pages have neither header nor LSN. All numbers little-endian. Source: PostgreSQL 15 `access/transam/{clog,multixact,
//! commit_ts}.c` (layouts), `access/xact.h`; reference wal-redo, section 4, and wal-ingest, section 4.

use super::cut::Cut;
use super::{StepError, rmid};
use crate::pg::page::{Page, PageBytes};
use crate::pg::version::PgVersion;
use crate::pg::xlog::record::Record;
use crate::types::{PAGE_SIZE, SlruKind};

const XIDS_PER_CLOG_PAGE: u32 = PAGE_SIZE as u32 * 4;
const OFFSETS_PER_PAGE: u32 = PAGE_SIZE as u32 / 4;
const GROUP_MEMBERS: u32 = 4;
const GROUP_BYTES: u32 = GROUP_MEMBERS + 4 * GROUP_MEMBERS;
const GROUPS_PER_PAGE: u32 = PAGE_SIZE as u32 / GROUP_BYTES;
const MEMBERS_PER_PAGE: u32 = GROUPS_PER_PAGE * GROUP_MEMBERS;
const TIMESTAMP: u32 = 10;
const TIMESTAMPS_PER_PAGE: u32 = PAGE_SIZE as u32 / TIMESTAMP;

/// An SLRU page in work.
pub(super) struct SlruPage<'p> {
    pub kind: SlruKind,
    /// Number of the page in its area.
    pub number: u32,
    pub present: bool,
    pub bytes: &'p mut PageBytes,
    /// pg_xact only: time of the newest commit applied, microseconds since 2000.
    pub newest_commit: &'p mut Option<i64>,
}

/// Applies the effect of `record` on an SLRU page.
///
/// Errors: [`StepError::Unrelated`] if it has none; a missing base where stock servers always have a page.
pub(super) fn apply(record: &Record<'_>, version: PgVersion, page: SlruPage<'_>) -> Result<(), StepError> {
    if let Some(number) = zeroes(record, page.kind, version)? {
        if number != u64::from(page.number) {
            return Err(StepError::Unrelated);
        }
        page.bytes.fill(0);
        *page.newest_commit = None;
        return Ok(());
    }
    // Offsets of the next multixact may come before their page is zeroed; commit timestamps start without a record.
    if !page.present && matches!(page.kind, SlruKind::Clog | SlruKind::MultiXactMembers) {
        return Err(StepError::NoBase);
    }
    let related = match page.kind {
        SlruKind::Clog => set_status(record, version, page)?,
        SlruKind::CommitTs => set_timestamps(record, version, page)?,
        SlruKind::MultiXactOffsets => set_offsets(record, page)?,
        SlruKind::MultiXactMembers => set_members(record, page)?,
    };
    if related { Ok(()) } else { Err(StepError::Unrelated) }
}

/// Whether the record makes a zero page of this kind, whatever its number: history below it is not needed.
pub(super) fn is_zero_page(record: &Record<'_>, kind: SlruKind) -> bool {
    let op = (record.header.rmid, record.header.info & 0xF0);
    op == match kind {
        SlruKind::Clog => (rmid::CLOG, 0x00),
        SlruKind::MultiXactOffsets => (rmid::MULTIXACT, 0x00),
        SlruKind::MultiXactMembers => (rmid::MULTIXACT, 0x10),
        SlruKind::CommitTs => (rmid::COMMIT_TS, 0x00),
    }
}

/// The page that the record zeroes.
fn zeroes(record: &Record<'_>, kind: SlruKind, version: PgVersion) -> Result<Option<u64>, StepError> {
    if !is_zero_page(record, kind) {
        return Ok(None);
    }
    let mut main = Cut::new(record.main, "main data");
    Ok(Some(if version >= PgVersion::V17 { main.u64()? } else { main.u32()?.into() }))
}

/// The end of a transaction, as far as SLRU pages need it.
struct TransactionEnd<'a> {
    committed: bool,
    xid: u32,
    /// Subtransactions: u32 each.
    subxids: &'a [u8],
    /// Microseconds since 2000.
    time: i64,
    /// What commit timestamps keep: the time at the origin if the transaction was replicated.
    origin_time: i64,
    origin: u16,
}

impl<'a> TransactionEnd<'a> {
    fn read(record: &Record<'a>, version: PgVersion) -> Result<Option<TransactionEnd<'a>>, StepError> {
        let (committed, prepared) = match (record.header.rmid, record.header.info & 0x70) {
            (rmid::XACT, 0x00) => (true, false),
            (rmid::XACT, 0x20) => (false, false),
            (rmid::XACT, 0x30) => (true, true),
            (rmid::XACT, 0x40) => (false, true),
            _ => return Ok(None),
        };
        let mut main = Cut::new(record.main, "main data");
        let time = main.u64()? as i64;
        let xinfo = if record.header.info & 0x80 != 0 { main.u32()? } else { 0 };
        let origin = record.origin.unwrap_or(0);
        let mut end = TransactionEnd { committed, xid: record.header.xid, subxids: &[], time, origin_time: time, origin };
        let stats_item = if version >= PgVersion::V18 { 16 } else { 12 };
        // (bit, bytes per item; 0 = a fixed part of 8 bytes), in the order of the record
        for (bit, item) in [(0x01, 0), (0x02, 4), (0x04, 12), (0x100, stats_item), (0x08, 16)] {
            if xinfo & bit == 0 {
                continue;
            }
            let len = if item == 0 { 8 } else { (main.u32()? as usize).checked_mul(item).ok_or(StepError::Short("main data"))? };
            let items = main.take(len)?;
            if bit == 0x02 {
                end.subxids = items;
            }
        }
        if xinfo & 0x10 != 0 {
            let xid = main.u32()?;
            if prepared {
                end.xid = xid;
            }
            if xinfo & 0x80 != 0 {
                while main.u8()? != 0 {}
            }
        } else if prepared {
            return Err(StepError::Range("xid of the prepared transaction"));
        }
        if xinfo & 0x20 != 0 {
            main.u64()?;
            end.origin_time = main.u64()? as i64;
        }
        Ok(Some(end))
    }

    fn xids(&self) -> impl Iterator<Item = u32> + '_ {
        let subxids = self.subxids.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        std::iter::once(self.xid).chain(subxids)
    }
}

fn set_status(record: &Record<'_>, version: PgVersion, page: SlruPage<'_>) -> Result<bool, StepError> {
    let Some(end) = TransactionEnd::read(record, version)? else { return Ok(false) };
    let status = if end.committed { 1 } else { 2 };
    let mut related = false;
    for xid in end.xids().filter(|xid| xid / XIDS_PER_CLOG_PAGE == page.number) {
        let (byte, shift) = ((xid % XIDS_PER_CLOG_PAGE / 4) as usize, xid % 4 * 2);
        page.bytes[byte] = page.bytes[byte] & !(3 << shift) | status << shift;
        related = true;
    }
    if related && end.committed {
        *page.newest_commit = Some(page.newest_commit.map_or(end.time, |newest| newest.max(end.time)));
    }
    Ok(related)
}

fn set_timestamps(record: &Record<'_>, version: PgVersion, page: SlruPage<'_>) -> Result<bool, StepError> {
    let Some(end) = TransactionEnd::read(record, version)?.filter(|end| end.committed) else { return Ok(false) };
    let mut related = false;
    for xid in end.xids().filter(|xid| xid / TIMESTAMPS_PER_PAGE == page.number) {
        let at = (xid % TIMESTAMPS_PER_PAGE * TIMESTAMP) as usize;
        page.bytes[at..at + 8].copy_from_slice(&end.origin_time.to_le_bytes());
        page.bytes[at + 8..at + 10].copy_from_slice(&end.origin.to_le_bytes());
        related = true;
    }
    Ok(related)
}

/// Main data of multixact CREATE.
struct MultixactCreate<'a> {
    multi: u32,
    /// Offset of its first member.
    offset: u32,
    /// xid and status, u32 each.
    members: &'a [u8],
}

/// Nothing for another record.
fn multixact_create<'a>(record: &Record<'a>) -> Result<Option<MultixactCreate<'a>>, StepError> {
    if record.header.rmid != rmid::MULTIXACT || record.header.info & 0xF0 != 0x20 {
        return Ok(None);
    }
    let mut main = Cut::new(record.main, "main data");
    let (multi, offset, count) = (main.u32()?, main.u32()?, main.u32()?);
    let len = (count as usize).checked_mul(8).ok_or(StepError::Short("main data"))?;
    Ok(Some(MultixactCreate { multi, offset, members: main.take(len)? }))
}

fn set_offsets(record: &Record<'_>, page: SlruPage<'_>) -> Result<bool, StepError> {
    let Some(MultixactCreate { multi, offset, members }) = multixact_create(record)? else { return Ok(false) };
    let next = multi.wrapping_add(1).max(1);
    let next_offset = offset.wrapping_add((members.len() / 8) as u32).max(1);
    let mut related = false;
    for (multi, offset) in [(multi, offset), (next, next_offset)] {
        if multi / OFFSETS_PER_PAGE == page.number {
            page.bytes.set_u32_at((multi % OFFSETS_PER_PAGE * 4) as usize, offset);
            related = true;
        }
    }
    Ok(related)
}

fn set_members(record: &Record<'_>, page: SlruPage<'_>) -> Result<bool, StepError> {
    let Some(MultixactCreate { offset: first, members, .. }) = multixact_create(record)? else { return Ok(false) };
    let mut related = false;
    for (i, member) in members.chunks_exact(8).enumerate() {
        let offset = first.wrapping_add(i as u32);
        if offset / MEMBERS_PER_PAGE != page.number {
            continue;
        }
        let group = (offset / GROUP_MEMBERS % GROUPS_PER_PAGE * GROUP_BYTES) as usize;
        let slot = (offset % GROUP_MEMBERS) as usize;
        // The status is a u32 in the record and a byte, in order of the members, on the page.
        page.bytes[group + slot] = member[4];
        let at = group + GROUP_MEMBERS as usize + 4 * slot;
        page.bytes[at..at + 4].copy_from_slice(&member[..4]);
        related = true;
    }
    Ok(related)
}
