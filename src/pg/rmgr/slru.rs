//! Records of pg_xact, pg_multixact and pg_commit_ts.

use super::MalformedRecord;
use super::cut::Cut;
use crate::pg::version::PgVersion;

pub const CLOG_ZEROPAGE: u8 = 0x00;
pub const CLOG_TRUNCATE: u8 = 0x10;
pub const COMMIT_TS_ZEROPAGE: u8 = 0x00;
pub const COMMIT_TS_TRUNCATE: u8 = 0x10;
pub const MULTIXACT_ZERO_OFFSETS: u8 = 0x00;
pub const MULTIXACT_ZERO_MEMBERS: u8 = 0x10;
pub const MULTIXACT_CREATE: u8 = 0x20;
pub const MULTIXACT_TRUNCATE: u8 = 0x30;

/// Transactions in a page of pg_xact.
pub const CLOG_XIDS_PER_PAGE: u32 = 32768;
/// Multixacts in a page of pg_multixact/offsets.
pub const OFFSETS_PER_PAGE: u32 = 2048;
/// Members in a page of pg_multixact/members: 409 groups of 4.
pub const MEMBERS_PER_PAGE: u32 = 1636;
/// Transactions in a page of pg_commit_ts.
pub const COMMIT_TS_PER_PAGE: u32 = 819;

fn page_number(cut: &mut Cut<'_>, version: PgVersion) -> Result<u32, MalformedRecord> {
    if version >= PgVersion::V17 {
        // Only members of 17 can have more pages than 32 bits count, and none does in practice.
        u32::try_from(cut.u64()?).map_err(|_| MalformedRecord("SLRU page"))
    } else {
        cut.u32()
    }
}

/// The page of a ZEROPAGE record of any SLRU.
pub fn parse_zero_page(main: &[u8], version: PgVersion) -> Result<u32, MalformedRecord> {
    page_number(&mut Cut::new(main, "SLRU zero page"), version)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClogTruncate {
    /// First page that is kept.
    pub page: u32,
    pub oldest_xid: u32,
    pub oldest_xid_db: u32,
}

pub fn parse_clog_truncate(main: &[u8], version: PgVersion) -> Result<ClogTruncate, MalformedRecord> {
    let mut cut = Cut::new(main, "pg_xact truncate");
    Ok(ClogTruncate { page: page_number(&mut cut, version)?, oldest_xid: cut.u32()?, oldest_xid_db: cut.u32()? })
}

/// (first page that is kept, oldest xid)
pub fn parse_commit_ts_truncate(main: &[u8], version: PgVersion) -> Result<(u32, u32), MalformedRecord> {
    let mut cut = Cut::new(main, "pg_commit_ts truncate");
    Ok((page_number(&mut cut, version)?, cut.u32()?))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultiXactCreate {
    pub id: u32,
    /// Of its first member.
    pub offset: u32,
    /// (xid, status)
    pub members: Vec<(u32, u32)>,
}

pub fn parse_multixact_create(main: &[u8]) -> Result<MultiXactCreate, MalformedRecord> {
    let mut cut = Cut::new(main, "multixact create");
    let (id, offset, count) = (cut.u32()?, cut.u32()?, cut.count()?);
    Ok(MultiXactCreate { id, offset, members: cut.items(count, 8, |c| Ok((c.u32()?, c.u32()?)))? })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultiXactTruncate {
    pub oldest_db: u32,
    /// Oldest multixact before, and the one that is kept.
    pub start_offset: u32,
    pub end_offset: u32,
    pub start_member: u32,
    pub end_member: u32,
}

pub fn parse_multixact_truncate(main: &[u8]) -> Result<MultiXactTruncate, MalformedRecord> {
    let mut cut = Cut::new(main, "multixact truncate");
    Ok(MultiXactTruncate {
        oldest_db: cut.u32()?,
        start_offset: cut.u32()?,
        end_offset: cut.u32()?,
        start_member: cut.u32()?,
        end_member: cut.u32()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse() {
        let words = |w: &[u32]| w.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(parse_zero_page(&words(&[7]), PgVersion::V15), Ok(7));
        assert_eq!(parse_zero_page(&words(&[7, 0]), PgVersion::V17), Ok(7));
        assert!(parse_zero_page(&words(&[7]), PgVersion::V17).is_err());
        let create = words(&[3, 10, 2, 100, 1, 101, 4]);
        assert_eq!(parse_multixact_create(&create).unwrap().members, [(100, 1), (101, 4)]);
        assert!(parse_multixact_create(&create[..24]).is_err());
        assert!(parse_multixact_create(&words(&[3, 10, u32::MAX])).is_err());
        assert_eq!(parse_multixact_truncate(&words(&[1, 2, 3, 4, 5])).unwrap().end_member, 5);
    }
}
