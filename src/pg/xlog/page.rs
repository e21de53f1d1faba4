//! Headers of WAL pages.
//!
//! | offset | size | name | meaning |
//! | --- | --- | --- | --- |
//! | 0 | 2 | magic | `XLOG_PAGE_MAGIC`, names the major version |
//! | 2 | 2 | info | flags below |
//! | 4 | 4 | tli | PostgreSQL timeline that wrote the page |
//! | 8 | 8 | page_addr | LSN of the page's first byte |
//! | 16 | 4 | rem_len | bytes of a continued record from this page on |
//! | 24 | 8 | system_id | long header only (first page of a segment) |
//! | 32 | 4 | segment_size | long header only |
//! | 36 | 4 | page_size | long header only, 8192 |
//!
//! Little-endian; 20..24 is padding; no checksum. Source: PostgreSQL 15 `access/xlog_internal.h`; reference wal-redo, section 2.

use crate::pg::version::PgVersion;
use crate::types::Lsn;
use crate::types::lsn::{WAL_LONG_HEADER, WAL_PAGE_SIZE, WAL_SHORT_HEADER};

/// The first bytes of the page continue a record of the page before.
pub const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// The header is a long one.
pub const LONG_HEADER: u16 = 0x0002;
/// Backup blocks may be removed by an archiver; of no meaning to readers.
pub const BKP_REMOVABLE: u16 = 0x0004;
/// The record that ran into this page was never finished; the first record here is `OVERWRITE_CONTRECORD`.
pub const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const ALL_FLAGS: u16 = FIRST_IS_CONTRECORD | LONG_HEADER | BKP_REMOVABLE | FIRST_IS_OVERWRITE_CONTRECORD;

/// Why a page header is not valid at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageHeaderError {
    #[error("the page is all zeros: nothing was written here yet")]
    Zero,
    #[error("magic {0:04X} belongs to no supported version (14 to 18)")]
    Magic(u16),
    #[error("magic {found:04X} belongs to another version than the stream's, {expected:04X}")]
    OtherVersion { expected: u16, found: u16 },
    #[error("info bits {0:04X} are unknown")]
    Info(u16),
    #[error("the header says the page belongs at {0}")]
    Address(Lsn),
    #[error("a long header is due exactly on the first page of a segment")]
    Form,
    #[error("the header ends early")]
    Truncated,
    #[error("segment size is {found}, {expected} was expected")]
    SegmentSize { expected: u64, found: u64 },
    #[error("WAL page size is {0}, only 8192 is supported")]
    PageSize(u32),
    #[error("system identifier is {found}, {expected} was expected: this is another cluster's WAL")]
    SystemId { expected: u64, found: u64 },
    #[error("timeline goes back from {from} to {to}")]
    Timeline { from: u32, to: u32 },
}

/// What only the first page of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongPart {
    pub system_id: u64,
    /// Bytes.
    pub segment_size: u32,
    /// Bytes.
    pub page_size: u32,
}

/// A WAL page's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    pub magic: u16,
    pub info: u16,
    pub tli: u32,
    pub page_addr: Lsn,
    pub rem_len: u32,
    pub long: Option<LongPart>,
}

/// Length in bytes of the header of the page that starts at `page`.
pub fn header_len(page: Lsn, segment_size: u64) -> usize {
    match page.segment_offset(segment_size) {
        0 => WAL_LONG_HEADER as usize,
        _ => WAL_SHORT_HEADER as usize,
    }
}

/// PostgreSQL's rule: a power of two from 1 MiB to 1 GiB.
pub fn segment_size_is_valid(bytes: u64) -> bool {
    bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)
}

impl PageHeader {
    /// A header for the page at `page`, long if a segment starts there.
    pub fn new(version: PgVersion, tli: u32, page: Lsn, system_id: u64, segment_size: u64) -> PageHeader {
        let long = (page.segment_offset(segment_size) == 0).then_some(LongPart {
            system_id,
            segment_size: segment_size as u32,
            page_size: WAL_PAGE_SIZE as u32,
        });
        let info = if long.is_some() { LONG_HEADER } else { 0 };
        PageHeader { magic: version.wal_magic(), info, tli, page_addr: page, rem_len: 0, long }
    }

    /// The same header on a page whose first `rem_len` bytes and more finish a record; 0 marks nothing.
    pub fn continuing(mut self, rem_len: u32) -> PageHeader {
        if rem_len > 0 {
            self.info |= FIRST_IS_CONTRECORD;
            self.rem_len = rem_len;
        }
        self
    }

    /// Bytes of the encoded form.
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub fn len(&self) -> usize {
        match self.long {
            Some(_) => WAL_LONG_HEADER as usize,
            None => WAL_SHORT_HEADER as usize,
        }
    }

    pub fn is_continuation(&self) -> bool {
        self.info & FIRST_IS_CONTRECORD != 0
    }

    pub fn is_overwrite_contrecord(&self) -> bool {
        self.info & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// `None` when the magic is of no supported version; [`PageHeader::decode`] lets no such header through.
    pub fn version(&self) -> Option<PgVersion> {
        PgVersion::from_wal_magic(self.magic)
    }

    /// Reads a header by what it says itself; where it stands is checked by [`PageHeader::validate`].
    ///
    /// Errors: unknown magic or flags, too few bytes.
    pub fn decode(bytes: &[u8]) -> Result<PageHeader, PageHeaderError> {
        let short = bytes.first_chunk::<24>().ok_or(PageHeaderError::Truncated)?;
        if short.iter().all(|&b| b == 0) {
            return Err(PageHeaderError::Zero);
        }
        let u16_at = |at: usize| u16::from_le_bytes([short[at], short[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([short[at], short[at + 1], short[at + 2], short[at + 3]]);
        let (magic, info) = (u16_at(0), u16_at(2));
        if PgVersion::from_wal_magic(magic).is_none() {
            return Err(PageHeaderError::Magic(magic));
        }
        if info & !ALL_FLAGS != 0 {
            return Err(PageHeaderError::Info(info));
        }
        let long = match info & LONG_HEADER != 0 {
            false => None,
            true => Some(decode_long(bytes).ok_or(PageHeaderError::Truncated)?),
        };
        let page_addr = Lsn(u64::from(u32_at(12)) << 32 | u64::from(u32_at(8)));
        Ok(PageHeader { magic, info, tli: u32_at(4), page_addr, rem_len: u32_at(16), long })
    }

    /// Checks that the header belongs to the page that starts at `page` of a stream with this segment size.
    pub fn validate(&self, page: Lsn, segment_size: u64) -> Result<(), PageHeaderError> {
        if self.page_addr != page {
            return Err(PageHeaderError::Address(self.page_addr));
        }
        if self.long.is_some() != (page.segment_offset(segment_size) == 0) {
            return Err(PageHeaderError::Form);
        }
        if let Some(long) = self.long {
            if u64::from(long.segment_size) != segment_size {
                return Err(PageHeaderError::SegmentSize { expected: segment_size, found: u64::from(long.segment_size) });
            }
            if u64::from(long.page_size) != WAL_PAGE_SIZE {
                return Err(PageHeaderError::PageSize(long.page_size));
            }
        }
        if (self.is_continuation() && self.is_overwrite_contrecord()) || (self.is_continuation() && self.rem_len == 0) {
            return Err(PageHeaderError::Info(self.info));
        }
        Ok(())
    }

    /// Writes the header to the start of `page`.
    ///
    /// Panics: `page` is shorter than the header.
    pub fn encode_into(&self, page: &mut [u8]) {
        let out = &mut page[..self.len()];
        out.fill(0);
        out[0..2].copy_from_slice(&self.magic.to_le_bytes());
        out[2..4].copy_from_slice(&self.info.to_le_bytes());
        out[4..8].copy_from_slice(&self.tli.to_le_bytes());
        out[8..16].copy_from_slice(&self.page_addr.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.rem_len.to_le_bytes());
        if let Some(long) = self.long {
            out[24..32].copy_from_slice(&long.system_id.to_le_bytes());
            out[32..36].copy_from_slice(&long.segment_size.to_le_bytes());
            out[36..40].copy_from_slice(&long.page_size.to_le_bytes());
        }
    }
}

fn decode_long(bytes: &[u8]) -> Option<LongPart> {
    let system_id = u64::from_le_bytes(*bytes.get(24..32)?.first_chunk()?);
    let segment_size = u32::from_le_bytes(*bytes.get(32..36)?.first_chunk()?);
    let page_size = u32::from_le_bytes(*bytes.get(36..40)?.first_chunk()?);
    Some(LongPart { system_id, segment_size, page_size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::lsn::WAL_SEGMENT_SIZE;

    const SEG: u64 = WAL_SEGMENT_SIZE;

    fn encode(header: &PageHeader) -> Vec<u8> {
        let mut bytes = vec![0xAA; header.len()];
        header.encode_into(&mut bytes);
        bytes
    }

    #[test]
    fn round_trip() {
        for version in PgVersion::ALL {
            for (page, rem) in [(Lsn(SEG), 0), (Lsn(SEG), 77), (Lsn(SEG + 8192), 0), (Lsn(3 * SEG - 8192), 9000)] {
                let header = PageHeader::new(version, 7, page, 0x1234_5678_9ABC_DEF0, SEG).continuing(rem);
                let bytes = encode(&header);
                let back = PageHeader::decode(&bytes).unwrap();
                assert_eq!(back, header);
                assert_eq!(back.version(), Some(version));
                assert_eq!(back.is_continuation(), rem > 0);
                assert_eq!(back.validate(page, SEG), Ok(()));
                assert_eq!(bytes.len(), header_len(page, SEG));
            }
        }
    }

    #[test]
    fn wrong_headers_are_named() {
        let page = Lsn(SEG);
        let good = encode(&PageHeader::new(PgVersion::V15, 1, page, 42, SEG));
        let check = |at: usize, byte: u8, want: PageHeaderError| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let got = PageHeader::decode(&bytes).and_then(|h| h.validate(page, SEG));
            assert_eq!(got, Err(want), "byte {at} := {byte}");
        };
        check(0, 0xFF, PageHeaderError::Magic(0xD1FF));
        check(2, 0x12, PageHeaderError::Info(0x12));
        check(2, 0x00, PageHeaderError::Form);
        check(2, 0x03, PageHeaderError::Info(0x03));
        check(9, 1, PageHeaderError::Address(Lsn(SEG + 256)));
        check(34, 2, PageHeaderError::SegmentSize { expected: SEG, found: SEG + (2 << 16) });
        check(37, 0x40, PageHeaderError::PageSize(16384));
        assert_eq!(PageHeader::decode(&[0; 40]), Err(PageHeaderError::Zero));
        for len in 0..40 {
            assert_eq!(PageHeader::decode(&good[..len]), Err(PageHeaderError::Truncated), "{len}");
        }
    }

    #[test]
    fn segment_sizes() {
        for (bytes, want) in
            [(0, false), (1 << 19, false), (1 << 20, true), (3 << 20, false), (1 << 24, true), (1 << 30, true), (1 << 31, false)]
        {
            assert_eq!(segment_size_is_valid(bytes), want, "{bytes}");
        }
    }
}
