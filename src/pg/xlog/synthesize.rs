//! Writes WAL: records from their parts, and records into pages and segments.
//!
//! In: [`RecordBuilder`] values and a position. Out: the bytes PostgreSQL itself would have written there, ready for a segment file or a
//! replication stream. Used for the shutdown checkpoint of an exported cluster and by the generator of the simulator.
//!
//! Invariants:
//! - `SY-1`: equal input gives equal bytes.
//! - `SY-2`: everything below [`WalWriter::end`] is final: pages have their header, gaps are zero.
//!
//! Source: reference wal-redo, sections 2 and 10.

use crate::pg::version::PgVersion;
use crate::pg::xlog::page::{FIRST_IS_OVERWRITE_CONTRECORD, PageHeader, header_len, segment_size_is_valid};
use crate::pg::xlog::record::{ImageCompression, RECORD_HEADER, record_crc};
use crate::pg::xlog::stream::RecordSpan;
use crate::types::lsn::WAL_PAGE_SIZE;
use crate::types::{Lsn, PAGE_SIZE, RelTag};
use std::ops::Range;

/// A page image to put into a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// The page without its hole, compressed if `compression` says so.
    pub bytes: Vec<u8>,
    pub hole_offset: u16,
    pub hole_length: u16,
    pub apply: bool,
    pub compression: ImageCompression,
}

impl ImageSpec {
    /// An uncompressed image of a page, its free space left out as PostgreSQL does for pages of the standard layout.
    pub fn of_page(page: &[u8; PAGE_SIZE], apply: bool) -> ImageSpec {
        let lower = u16::from_le_bytes([page[12], page[13]]);
        let upper = u16::from_le_bytes([page[14], page[15]]);
        let standard = lower >= 24 && upper > lower && usize::from(upper) <= PAGE_SIZE;
        let (hole_offset, hole_length) = if standard { (lower, upper - lower) } else { (0, 0) };
        let mut bytes = page[..usize::from(hole_offset)].to_vec();
        bytes.extend_from_slice(&page[usize::from(hole_offset + hole_length)..]);
        ImageSpec { bytes, hole_offset, hole_length, apply, compression: ImageCompression::None }
    }

    fn info(&self, version: PgVersion) -> u8 {
        let hole = u8::from(self.hole_length > 0);
        let packed = self.compression != ImageCompression::None;
        match version {
            PgVersion::V14 => hole | if packed { 2 } else { 0 } | if self.apply { 4 } else { 0 },
            _ => {
                let method = match self.compression {
                    ImageCompression::None => 0,
                    ImageCompression::Pglz => 4,
                    ImageCompression::Lz4 => 8,
                    ImageCompression::Zstd => 16,
                };
                hole | if self.apply { 2 } else { 0 } | method
            }
        }
    }
}

/// A block reference to put into a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpec {
    pub id: u8,
    pub rel: RelTag,
    pub block: u32,
    pub will_init: bool,
    pub image: Option<ImageSpec>,
    pub data: Option<Vec<u8>>,
}

impl BlockSpec {
    pub fn new(id: u8, rel: RelTag, block: u32) -> BlockSpec {
        BlockSpec { id, rel, block, will_init: false, image: None, data: None }
    }

    pub fn will_init(mut self) -> BlockSpec {
        self.will_init = true;
        self
    }

    pub fn image(mut self, image: ImageSpec) -> BlockSpec {
        self.image = Some(image);
        self
    }

    pub fn data(mut self, data: impl Into<Vec<u8>>) -> BlockSpec {
        self.data = Some(data.into());
        self
    }
}

/// The parts of a record; [`RecordBuilder::encode`] joins them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBuilder {
    rmid: u8,
    info: u8,
    xid: u32,
    blocks: Vec<BlockSpec>,
    main: Vec<u8>,
    origin: Option<u16>,
    toplevel_xid: Option<u32>,
}

impl RecordBuilder {
    pub fn new(rmid: u8, info: u8) -> RecordBuilder {
        RecordBuilder { rmid, info, xid: 0, blocks: Vec::new(), main: Vec::new(), origin: None, toplevel_xid: None }
    }

    pub fn xid(mut self, xid: u32) -> RecordBuilder {
        self.xid = xid;
        self
    }

    /// Panics: references must be added in the order of their ids.
    pub fn block(mut self, block: BlockSpec) -> RecordBuilder {
        assert!(block.id <= 32 && self.blocks.last().is_none_or(|last| last.id < block.id), "block reference {} out of order", block.id);
        self.blocks.push(block);
        self
    }

    pub fn main(mut self, main: impl Into<Vec<u8>>) -> RecordBuilder {
        self.main = main.into();
        self
    }

    pub fn origin(mut self, origin: u16) -> RecordBuilder {
        self.origin = Some(origin);
        self
    }

    pub fn toplevel_xid(mut self, xid: u32) -> RecordBuilder {
        self.toplevel_xid = Some(xid);
        self
    }

    /// The record's bytes, linked to the record at `prev`.
    pub fn encode(&self, prev: Lsn, version: PgVersion) -> Vec<u8> {
        let mut out = vec![0; RECORD_HEADER];
        let mut previous: Option<&BlockSpec> = None;
        for block in &self.blocks {
            encode_block_header(&mut out, block, previous, version);
            previous = Some(block);
        }
        if let Some(origin) = self.origin {
            out.push(253);
            out.extend_from_slice(&origin.to_le_bytes());
        }
        if let Some(xid) = self.toplevel_xid {
            out.push(252);
            out.extend_from_slice(&xid.to_le_bytes());
        }
        match self.main.len() {
            0 => {}
            len @ 1..=255 => out.extend_from_slice(&[255, len as u8]),
            len => {
                out.push(254);
                out.extend_from_slice(&(len as u32).to_le_bytes());
            }
        }
        for block in &self.blocks {
            out.extend_from_slice(block.image.as_ref().map_or(&[], |image| &image.bytes));
            out.extend_from_slice(block.data.as_deref().unwrap_or_default());
        }
        out.extend_from_slice(&self.main);
        let len = out.len() as u32;
        out[0..4].copy_from_slice(&len.to_le_bytes());
        out[4..8].copy_from_slice(&self.xid.to_le_bytes());
        out[8..16].copy_from_slice(&prev.0.to_le_bytes());
        (out[16], out[17]) = (self.info, self.rmid);
        let crc = record_crc(&out);
        out[20..24].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

fn encode_block_header(out: &mut Vec<u8>, block: &BlockSpec, previous: Option<&BlockSpec>, version: PgVersion) {
    let same_rel = previous.is_some_and(|p| p.rel.with_fork(block.rel.fork) == block.rel);
    let data_len = block.data.as_ref().map_or(0, Vec::len);
    assert!(data_len <= usize::from(u16::MAX), "block data of {data_len} bytes does not fit a record");
    let mut flags = block.rel.fork as u8;
    for (set, bit) in [(block.image.is_some(), 0x10), (block.data.is_some(), 0x20), (block.will_init, 0x40), (same_rel, 0x80)] {
        flags |= if set { bit } else { 0 };
    }
    out.extend_from_slice(&[block.id, flags]);
    out.extend_from_slice(&(data_len as u16).to_le_bytes());
    if let Some(image) = &block.image {
        out.extend_from_slice(&(image.bytes.len() as u16).to_le_bytes());
        out.extend_from_slice(&image.hole_offset.to_le_bytes());
        out.push(image.info(version));
        if image.compression != ImageCompression::None && image.hole_length > 0 {
            out.extend_from_slice(&image.hole_length.to_le_bytes());
        }
    }
    if !same_rel {
        for word in [block.rel.spc, block.rel.db, block.rel.rel] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    out.extend_from_slice(&block.block.to_le_bytes());
}

/// Whose WAL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalIdentity {
    pub version: PgVersion,
    pub system_id: u64,
    pub tli: u32,
    /// Bytes; a power of two from 1 MiB to 1 GiB.
    pub segment_size: u64,
}

/// Lays records into pages. Keeps what it wrote until told to discard it.
pub struct WalWriter {
    identity: WalIdentity,
    /// LSN of `buf[0]`; a page start unless something was discarded.
    base: Lsn,
    buf: Vec<u8>,
    /// Start of the last record.
    prev: Lsn,
}

impl WalWriter {
    /// A writer whose first record starts at the first record position at or after `start` and is linked to `prev`. The part of the page below it
    /// is marked as the end of an earlier record, so that readers pass over it.
    ///
    /// Panics: a segment size that PostgreSQL does not allow.
    pub fn new(identity: WalIdentity, start: Lsn, prev: Lsn) -> WalWriter {
        assert!(segment_size_is_valid(identity.segment_size), "segment size {}", identity.segment_size);
        let start = start.record_start(identity.segment_size);
        let base = start.page_start();
        let mut writer = WalWriter { identity, base, buf: Vec::new(), prev };
        let below = start.distance_from(base) as usize - header_len(base, identity.segment_size);
        writer.page_header(below as u32, 0);
        writer.buf.resize(start.distance_from(base) as usize, 0);
        writer
    }

    pub fn identity(&self) -> WalIdentity {
        self.identity
    }

    /// The position after the last record: its [`RecordSpan::end`].
    pub fn end(&self) -> Lsn {
        Lsn(self.base.0 + self.buf.len() as u64)
    }

    /// Start of the last record, or what [`WalWriter::new`] was given.
    pub fn prev(&self) -> Lsn {
        self.prev
    }

    /// Pages begun from now on carry this PostgreSQL timeline.
    pub fn set_tli(&mut self, tli: u32) {
        assert!(tli >= self.identity.tli, "timeline goes back from {} to {tli}", self.identity.tli);
        self.identity.tli = tli;
    }

    /// Writes a record.
    pub fn append(&mut self, record: &RecordBuilder) -> RecordSpan {
        let start = self.open_page();
        let bytes = record.encode(self.prev, self.identity.version);
        self.lay(&bytes);
        self.prev = start;
        self.pad_to(self.end().align8());
        RecordSpan { start, end: self.end() }
    }

    /// Writes XLOG_SWITCH and fills the segment with empty pages.
    pub fn switch_segment(&mut self) -> RecordSpan {
        let span = self.append(&RecordBuilder::new(0, 0x40));
        let into = span.end.segment_offset(self.identity.segment_size);
        let end = Lsn(span.end.0 + if into == 0 { 0 } else { self.identity.segment_size - into });
        while self.end() < end {
            if self.end().page_offset() == 0 {
                self.page_header(0, 0);
            }
            let page_end = Lsn(self.end().page_start().0 + WAL_PAGE_SIZE);
            self.pad_to(page_end);
        }
        RecordSpan { start: span.start, end }
    }

    /// Writes as much of `record` as fits on the current page, as if the server had crashed there, and then OVERWRITE_CONTRECORD on the next page as
    /// the restarted server does. Gives the start of the cut-off record and the span of OVERWRITE_CONTRECORD.
    ///
    /// `None`, and nothing written, if the record would fit on the page.
    pub fn append_cut_off(&mut self, record: &RecordBuilder, time: i64) -> Option<(Lsn, RecordSpan)> {
        let start = self.end().record_start(self.identity.segment_size);
        let bytes = record.encode(self.prev, self.identity.version);
        let room = WAL_PAGE_SIZE as usize - start.page_offset();
        if bytes.len() <= room {
            return None;
        }
        self.open_page();
        self.buf.extend_from_slice(&bytes[..room]);
        self.page_header(0, FIRST_IS_OVERWRITE_CONTRECORD);
        let mut main = start.0.to_le_bytes().to_vec();
        main.extend_from_slice(&time.to_le_bytes());
        Some((start, self.append(&RecordBuilder::new(0, 0xD0).main(main))))
    }

    /// Bytes of a part of what was written; `None` if some of it is discarded or not written.
    pub fn bytes(&self, range: Range<Lsn>) -> Option<&[u8]> {
        if range.start < self.base || range.end < range.start {
            return None;
        }
        self.buf.get(range.start.distance_from(self.base) as usize..range.end.distance_from(self.base) as usize)
    }

    /// First position that [`WalWriter::bytes`] can give.
    pub fn kept_from(&self) -> Lsn {
        self.base
    }

    /// Forgets what lies below `lsn`.
    pub fn discard_before(&mut self, lsn: Lsn) {
        let len = lsn.distance_from(self.base).min(self.buf.len() as u64);
        self.buf.drain(..len as usize);
        self.base = Lsn(self.base.0 + len);
    }

    /// One whole segment, zeros where nothing was written; a first page that was not written gets its header.
    pub fn segment(&self, number: u64) -> Vec<u8> {
        let size = self.identity.segment_size;
        let start = Lsn(number * size);
        let mut out = vec![0; size as usize];
        let (from, to) = (start.max(self.base), Lsn(start.0 + size).min(self.end()));
        if let Some(bytes) = self.bytes(from..to.max(from)) {
            let at = from.distance_from(start) as usize;
            if let Some(room) = out.get_mut(at..at + bytes.len()) {
                room.copy_from_slice(bytes);
            }
        }
        if from > start || to <= start {
            self.header_of(start).encode_into(&mut out);
        }
        out
    }

    fn header_of(&self, page: Lsn) -> PageHeader {
        PageHeader::new(self.identity.version, self.identity.tli, page, self.identity.system_id, self.identity.segment_size)
    }

    fn page_header(&mut self, rem_len: u32, flags: u16) {
        let mut header = self.header_of(self.end()).continuing(rem_len);
        header.info |= flags;
        let at = self.buf.len();
        self.buf.resize(at + header.len(), 0);
        header.encode_into(&mut self.buf[at..]);
    }

    /// Begins the next page if the last one is full; gives the next record's start.
    fn open_page(&mut self) -> Lsn {
        if self.end().page_offset() == 0 {
            self.page_header(0, 0);
        }
        self.end()
    }

    fn lay(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.end().page_offset() == 0 {
                self.page_header(bytes.len() as u32, 0);
            }
            let room = WAL_PAGE_SIZE as usize - self.end().page_offset();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buf.extend_from_slice(now);
            bytes = later;
        }
    }

    fn pad_to(&mut self, end: Lsn) {
        self.buf.resize(end.distance_from(self.base) as usize, 0);
    }
}

/// A shutdown checkpoint made for an exported cluster, and the segments that hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointSegments {
    /// Where the record lies; pg_control names `span.start` as checkpoint and as redo.
    pub span: RecordSpan,
    /// (segment number, whole segment): one, or two when the record runs over a segment's end.
    pub segments: Vec<(u64, Vec<u8>)>,
}

/// Writes a shutdown checkpoint record at the first record position at or after `at`, in otherwise empty segments. `main` makes the checkpoint's 88
/// bytes when told where the record will stand. The record's prev link is 0, which recovery accepts.
///
/// Source: reference wal-redo, section 10; started by servers of 14 to 18.
pub fn synthesize_checkpoint_segment(identity: WalIdentity, at: Lsn, main: impl FnOnce(Lsn) -> Vec<u8>) -> CheckpointSegments {
    let mut writer = WalWriter::new(identity, at, Lsn::INVALID);
    let span = writer.append(&RecordBuilder::new(0, 0).main(main(writer.end())));
    let first = span.start.segment_number(identity.segment_size);
    // The end may be the very boundary: then the next segment holds nothing of the record.
    let last = Lsn(span.end.0 - 1).segment_number(identity.segment_size);
    let segments = (first..=last).map(|number| (number, writer.segment(number))).collect();
    CheckpointSegments { span, segments }
}

#[cfg(test)]
#[path = "synthesize_tests.rs"]
mod tests;
