//! One WAL record: header, block references, main data.
//!
//! | offset | size | name | meaning |
//! | --- | --- | --- | --- |
//! | 0 | 4 | tot_len | whole record in bytes |
//! | 4 | 4 | xid | transaction, 0 if none |
//! | 8 | 8 | prev | start of the previous record |
//! | 16 | 1 | info | high nibble: opcode and flags of the resource manager |
//! | 17 | 1 | rmid | resource manager |
//! | 20 | 4 | crc | CRC-32C over bytes 24.. and then 0..20 |
//!
//! Little-endian. Source: PostgreSQL 15 `access/xlogrecord.h`; reference wal-redo, section 2.

use crate::pg::version::PgVersion;
use crate::types::{Fork, Lsn, PAGE_SIZE, RelTag};
use smallvec::SmallVec;

/// Size of the record header in bytes.
pub const RECORD_HEADER: usize = 24;
/// A record longer than this is taken for damage (PostgreSQL 16 `XLogRecordMaxSize`).
pub const RECORD_LEN_MAX: usize = 1020 << 20;

/// Why bytes are not a valid record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record ends inside its {0}")]
    Truncated(&'static str),
    #[error("record length {0} is impossible")]
    Length(u32),
    #[error("CRC is {actual:08X}, the record says {expected:08X}")]
    Crc { expected: u32, actual: u32 },
    #[error("block header id {0} is unknown")]
    HeaderId(u8),
    #[error("block reference {0} is out of order")]
    BlockOrder(u8),
    #[error("block reference {0} names fork {1}")]
    Fork(u8, u8),
    #[error("block reference {0} repeats a relation but none came before")]
    NoRelation(u8),
    #[error("block reference {0} has an impossible image (length {1}, hole {2}+{3})")]
    Image(u8, u16, u16, u16),
    #[error("{0} bytes are left over after the record's data")]
    LeftOver(usize),
}

/// Fixed part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    pub tot_len: u32,
    pub xid: u32,
    pub prev: Lsn,
    pub info: u8,
    pub rmid: u8,
    pub crc: u32,
}

/// How a page image is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageCompression {
    None,
    Pglz,
    Lz4,
    Zstd,
}

/// A full-page image as the record carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockImage<'a> {
    pub bytes: &'a [u8],
    pub hole_offset: u16,
    pub hole_length: u16,
    /// Redo restores the image; false for images that only serve `wal_consistency_checking`.
    pub apply: bool,
    pub compression: ImageCompression,
}

/// One block that the record changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRef<'a> {
    /// The number by which redo routines know it.
    pub id: u8,
    pub rel: RelTag,
    pub block: u32,
    /// Redo starts from a fresh page: no base is needed.
    pub will_init: bool,
    pub image: Option<BlockImage<'a>>,
    /// Whether the reference carries a data area (which may be empty).
    pub has_data: bool,
    pub data: &'a [u8],
}

impl BlockRef<'_> {
    /// The record replaces the page: history below it is not needed.
    pub fn replaces_page(&self) -> bool {
        self.will_init || self.image.is_some_and(|image| image.apply)
    }
}

/// A record taken apart; borrows the record's bytes.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// The whole record, header first.
    pub bytes: &'a [u8],
    pub header: RecordHeader,
    pub blocks: SmallVec<[BlockRef<'a>; 2]>,
    pub main: &'a [u8],
    pub origin: Option<u16>,
    pub toplevel_xid: Option<u32>,
}

/// A cursor over the header bytes; every step is bounds-checked.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], RecordError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(RecordError::Truncated(what))?;
        self.rest = rest;
        Ok(head)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, RecordError> {
        let (&first, rest) = self.rest.split_first().ok_or(RecordError::Truncated(what))?;
        self.rest = rest;
        Ok(first)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, RecordError> {
        let (head, rest) = self.rest.split_first_chunk::<2>().ok_or(RecordError::Truncated(what))?;
        self.rest = rest;
        Ok(u16::from_le_bytes(*head))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, RecordError> {
        let (head, rest) = self.rest.split_first_chunk::<4>().ok_or(RecordError::Truncated(what))?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*head))
    }
}

impl RecordHeader {
    /// Reads the fixed part.
    ///
    /// Errors: fewer than 24 bytes, or a total length that no record has.
    pub fn decode(bytes: &[u8]) -> Result<RecordHeader, RecordError> {
        let head = bytes.first_chunk::<RECORD_HEADER>().ok_or(RecordError::Truncated("header"))?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let tot_len = word(0);
        if (tot_len as usize) < RECORD_HEADER || tot_len as usize > RECORD_LEN_MAX {
            return Err(RecordError::Length(tot_len));
        }
        let prev = Lsn(u64::from(word(12)) << 32 | u64::from(word(8)));
        Ok(RecordHeader { tot_len, xid: word(4), prev, info: head[16], rmid: head[17], crc: word(20) })
    }
}

/// Clears what no redo routine reads, and what hardly compresses: the link to the record before, and the CRC.
pub fn strip_record(record: &mut [u8]) {
    if let Some(head) = record.first_chunk_mut::<RECORD_HEADER>() {
        head[8..16].fill(0);
        head[20..].fill(0);
    }
}

/// CRC-32C of a whole record, its crc field left out.
pub fn record_crc(bytes: &[u8]) -> u32 {
    match (bytes.get(RECORD_HEADER..), bytes.get(..20)) {
        (Some(body), Some(head)) => crc32c::crc32c_append(crc32c::crc32c(body), head),
        _ => 0,
    }
}

/// Checks the length and the CRC of a complete record.
pub fn verify_record(bytes: &[u8]) -> Result<RecordHeader, RecordError> {
    let header = RecordHeader::decode(bytes)?;
    if header.tot_len as usize != bytes.len() {
        return Err(RecordError::Length(header.tot_len));
    }
    let actual = record_crc(bytes);
    if actual != header.crc {
        return Err(RecordError::Crc { expected: header.crc, actual });
    }
    Ok(header)
}

const BLOCK_ID_MAX: u8 = 32;
const ID_TOPLEVEL_XID: u8 = 252;
const ID_ORIGIN: u8 = 253;
const ID_MAIN_LONG: u8 = 254;
const ID_MAIN_SHORT: u8 = 255;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_REL: u8 = 0x80;

impl<'a> Record<'a> {
    /// Takes a record apart. The CRC is not looked at: see [`verify_record`].
    ///
    /// Errors: anything that does not add up; never panics on foreign bytes.
    // Inlined around `fill`, so that the 350 bytes of a record are built where the caller wants them.
    #[inline]
    pub fn decode(bytes: &'a [u8], version: PgVersion) -> Result<Record<'a>, RecordError> {
        let header = RecordHeader::decode(bytes)?;
        if header.tot_len as usize != bytes.len() {
            return Err(RecordError::Length(header.tot_len));
        }
        let mut record = Record { bytes, header, blocks: SmallVec::new(), main: &[], origin: None, toplevel_xid: None };
        record.fill(version)?;
        Ok(record)
    }

    /// Reads everything after the header.
    fn fill(&mut self, version: PgVersion) -> Result<(), RecordError> {
        let mut cursor = Cursor { rest: self.bytes.get(RECORD_HEADER..).unwrap_or_default() };
        let mut lengths: SmallVec<[(u16, u16); 4]> = SmallVec::new();
        let mut main_len = 0;
        let mut announced = 0;
        while cursor.rest.len() > announced {
            match cursor.u8("block header")? {
                id @ 0..=BLOCK_ID_MAX => {
                    let (block, image_len, data_len) = decode_block(&mut cursor, id, self.blocks.last(), version)?;
                    announced += usize::from(image_len) + usize::from(data_len);
                    lengths.push((image_len, data_len));
                    self.blocks.push(block);
                }
                ID_MAIN_SHORT => {
                    main_len = usize::from(cursor.u8("main data header")?);
                    break;
                }
                ID_MAIN_LONG => {
                    main_len = cursor.u32("main data header")? as usize;
                    break;
                }
                ID_ORIGIN => self.origin = Some(cursor.u16("origin")?),
                ID_TOPLEVEL_XID => self.toplevel_xid = Some(cursor.u32("top-level xid")?),
                other => return Err(RecordError::HeaderId(other)),
            }
        }
        for (block, (image_len, data_len)) in self.blocks.iter_mut().zip(&lengths) {
            if let Some(image) = &mut block.image {
                image.bytes = cursor.take(usize::from(*image_len), "page image")?;
            }
            block.data = cursor.take(usize::from(*data_len), "block data")?;
        }
        self.main = cursor.take(main_len, "main data")?;
        match cursor.rest.len() {
            0 => Ok(()),
            more => Err(RecordError::LeftOver(more)),
        }
    }

    /// The block reference with this id.
    pub fn block(&self, id: u8) -> Option<&BlockRef<'a>> {
        self.blocks.iter().find(|block| block.id == id)
    }
}

/// Reads one block header: (reference without its payload, image length, data length).
fn decode_block<'a>(
    cursor: &mut Cursor<'a>,
    id: u8,
    previous: Option<&BlockRef<'a>>,
    version: PgVersion,
) -> Result<(BlockRef<'a>, u16, u16), RecordError> {
    if previous.is_some_and(|p| p.id >= id) {
        return Err(RecordError::BlockOrder(id));
    }
    let flags = cursor.u8("block header")?;
    let fork = Fork::from_number(flags & FORK_MASK).ok_or(RecordError::Fork(id, flags & FORK_MASK))?;
    let data_len = cursor.u16("block header")?;
    let has_data = flags & HAS_DATA != 0;
    if !has_data && data_len != 0 {
        return Err(RecordError::LeftOver(usize::from(data_len)));
    }
    let (image, image_len) = match flags & HAS_IMAGE != 0 {
        true => decode_image_header(cursor, id, version).map(|(image, len)| (Some(image), len))?,
        false => (None, 0),
    };
    let rel = match flags & SAME_REL != 0 {
        true => previous.ok_or(RecordError::NoRelation(id))?.rel.with_fork(fork),
        false => {
            let (spc, db) = (cursor.u32("relation")?, cursor.u32("relation")?);
            RelTag { spc, db, rel: cursor.u32("relation")?, fork }
        }
    };
    let block = cursor.u32("block number")?;
    let will_init = flags & WILL_INIT != 0;
    Ok((BlockRef { id, rel, block, will_init, image, has_data, data: &[] }, image_len, data_len))
}

fn decode_image_header<'a>(cursor: &mut Cursor<'a>, id: u8, version: PgVersion) -> Result<(BlockImage<'a>, u16), RecordError> {
    let image_len = cursor.u16("image header")?;
    let hole_offset = cursor.u16("image header")?;
    let info = cursor.u8("image header")?;
    let has_hole = info & 1 != 0;
    let (apply, compression) = match (version, info) {
        (PgVersion::V14, info) if info & 2 != 0 => (info & 4 != 0, ImageCompression::Pglz),
        (PgVersion::V14, info) => (info & 4 != 0, ImageCompression::None),
        (_, info) if info & 4 != 0 => (info & 2 != 0, ImageCompression::Pglz),
        (_, info) if info & 8 != 0 => (info & 2 != 0, ImageCompression::Lz4),
        (_, info) if info & 16 != 0 => (info & 2 != 0, ImageCompression::Zstd),
        (_, info) => (info & 2 != 0, ImageCompression::None),
    };
    let hole_length = match (has_hole, compression) {
        (false, _) => 0,
        (true, ImageCompression::None) => (PAGE_SIZE as u16).saturating_sub(image_len),
        (true, _) => cursor.u16("hole length")?,
    };
    let fits = usize::from(hole_offset) + usize::from(hole_length) <= PAGE_SIZE;
    let len_fits = match compression {
        ImageCompression::None => usize::from(image_len) + usize::from(hole_length) == PAGE_SIZE,
        _ => usize::from(image_len) < PAGE_SIZE,
    };
    if !fits || !len_fits {
        return Err(RecordError::Image(id, image_len, hole_offset, hole_length));
    }
    Ok((BlockImage { bytes: &[], hole_offset, hole_length, apply, compression }, image_len))
}
