//! Joins a stream of WAL bytes, cut anywhere, into whole records.
//!
//! In: runs of bytes with their LSN ([`StreamDecoder::feed`]), each starting where the one before ended. Out: complete records that passed
//! every check, each with the LSN of its start and of the position after it ([`StreamDecoder::next`]). A record that lies within one fed run
//! and one page is lent in place; only records cut by a page or a run are put together in a buffer.
//!
//! Invariants:
//! - `ST-1`: records come out in order and without a gap: each one's prev link is the start of the one before.
//! - `ST-2`: the input's cuts never show: any cutting gives the same records and the same error.
//! - `ST-3`: after an error nothing more comes out; the same error is given again.
//!
//! Source: reference wal-redo, section 2; wal-ingest, section 2.

use crate::pg::version::PgVersion;
use crate::pg::xlog::page::{PageHeader, PageHeaderError, header_len, segment_size_is_valid};
use crate::pg::xlog::record::{RECORD_HEADER, RecordError, RecordHeader, record_crc};
use crate::types::Lsn;
use crate::types::lsn::{WAL_LONG_HEADER, WAL_PAGE_SIZE};
use bytes::Bytes;
use std::collections::VecDeque;

/// `XLOG_SWITCH` and `XLOG_OVERWRITE_CONTRECORD` of resource manager 0.
const INFO_MASK: u8 = 0xF0;
const XLOG_SWITCH: u8 = 0x40;
const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;

/// Where a record lies in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSpan {
    /// First byte of the record's header.
    pub start: Lsn,
    /// The LSN of the record's changes: the position after it, rounded up to 8. The page boundary itself if the record ends a page, the segment
    /// boundary after XLOG_SWITCH.
    pub end: Lsn,
}

/// Why the stream cannot go on. Whether that is just the end of what was written is for the caller to know: see [`WalError::may_be_end_of_wal`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    #[error("WAL bytes for {expected} are due but bytes for {got} came")]
    NotContiguous { expected: Lsn, got: Lsn },
    #[error("segment size {0} is not a power of two from 1 MiB to 1 GiB")]
    SegmentSize(u64),
    #[error("WAL page {page}: {error}")]
    Page { page: Lsn, error: PageHeaderError },
    #[error("WAL page {page} does not continue the record at {record}")]
    ContinuationMissing { page: Lsn, record: Lsn },
    #[error("WAL page {page} continues a record by {rem_len} bytes, but none is open")]
    ContinuationUnexpected { page: Lsn, rem_len: u32 },
    #[error("WAL page {page} says {found} bytes of the record at {record} are left, {expected} are")]
    ContinuationLength { page: Lsn, record: Lsn, expected: u32, found: u32 },
    #[error("no record starts at {start}: a record that began earlier reaches to {reaches}")]
    StartInsideRecord { start: Lsn, reaches: Lsn },
    #[error("nothing is written at {at}: the record length there is 0")]
    ZeroLength { at: Lsn },
    #[error("WAL record at {at}: {error}")]
    Record { at: Lsn, error: RecordError },
    #[error("WAL record at {at} names {found} as the record before it, that is {expected}")]
    PrevLink { at: Lsn, expected: Lsn, found: Lsn },
    #[error("the record at {record} was cut off, but the record at {at} does not say so")]
    OverwriteMissing { at: Lsn, record: Lsn },
}

impl WalError {
    /// True for what the last, half-written or recycled part of the newest segment looks like. In the middle of WAL that is known to be
    /// complete (a stream from a primary, a segment that has a successor) the same thing is damage.
    pub fn may_be_end_of_wal(&self) -> bool {
        match self {
            WalError::NotContiguous { .. } | WalError::SegmentSize(_) | WalError::StartInsideRecord { .. } => false,
            WalError::Page { error, .. } => match error {
                PageHeaderError::Zero | PageHeaderError::Address(_) | PageHeaderError::Magic(_) => true,
                PageHeaderError::Info(_) | PageHeaderError::Form | PageHeaderError::Timeline { .. } => true,
                PageHeaderError::OtherVersion { .. } | PageHeaderError::Truncated | PageHeaderError::SegmentSize { .. } => false,
                PageHeaderError::PageSize(_) | PageHeaderError::SystemId { .. } => false,
            },
            WalError::ContinuationMissing { .. } | WalError::ContinuationUnexpected { .. } | WalError::ContinuationLength { .. } => true,
            WalError::ZeroLength { .. } | WalError::Record { .. } | WalError::PrevLink { .. } => true,
            WalError::OverwriteMissing { .. } => true,
        }
    }
}

/// A record that is put together from pieces.
struct Assembly {
    start: Lsn,
    bytes: Vec<u8>,
    /// 0 until the first four bytes are there.
    len: usize,
    header_checked: bool,
}

/// Bytes fed and not yet consumed; `chunk[pos..]` first, then the queue.
#[derive(Default)]
struct Input {
    chunk: Bytes,
    pos: usize,
    queue: VecDeque<Bytes>,
}

impl Input {
    fn push(&mut self, bytes: Bytes) {
        if self.pos == self.chunk.len() {
            (self.chunk, self.pos) = (bytes, 0);
        } else {
            self.queue.push_back(bytes);
        }
    }

    /// Contiguous bytes at hand; empty only when everything is consumed.
    fn rest(&mut self) -> &[u8] {
        while self.pos == self.chunk.len() {
            match self.queue.pop_front() {
                Some(next) => (self.chunk, self.pos) = (next, 0),
                None => break,
            }
        }
        self.chunk.get(self.pos..).unwrap_or_default()
    }
}

/// Where a found record's bytes lie.
enum Found {
    Lent { from: usize, len: usize },
    Assembled,
}

/// See the module's description.
pub struct StreamDecoder {
    segment_size: u64,
    version: Option<PgVersion>,
    system_id: Option<u64>,
    tli: Option<u32>,
    /// Next byte to consume; `None` until the first bytes came.
    at: Option<Lsn>,
    /// Where fed bytes end.
    fed_to: Option<Lsn>,
    /// The first record's start, and whether its page is still to be joined.
    start: Lsn,
    joining: bool,
    /// The first record is still to be found: it follows what the first pages continue.
    seeking: bool,
    /// Everything below is passed over unread.
    skip_to: Lsn,
    /// Start of the last record that came out, if known.
    prev: Option<Lsn>,
    /// End of the last record that came out.
    last_end: Lsn,
    assembly: Option<Assembly>,
    spare: Vec<u8>,
    /// A record that was begun and given up; the next one must say so.
    overwritten: Option<Lsn>,
    page_header: [u8; WAL_LONG_HEADER as usize],
    page_header_len: usize,
    input: Input,
    failed: Option<WalError>,
}

impl StreamDecoder {
    /// A decoder whose first record starts at `start`: the end of another record, or that position moved past a page header.
    /// `version` is found from the first page header when `None`.
    ///
    /// Errors: a segment size that PostgreSQL does not allow.
    pub fn new(start: Lsn, version: Option<PgVersion>, segment_size: u64) -> Result<StreamDecoder, WalError> {
        if !segment_size_is_valid(segment_size) {
            return Err(WalError::SegmentSize(segment_size));
        }
        Ok(StreamDecoder {
            segment_size,
            version,
            system_id: None,
            tli: None,
            at: None,
            fed_to: None,
            start: start.record_start(segment_size),
            joining: true,
            seeking: false,
            skip_to: Lsn::INVALID,
            prev: None,
            last_end: start,
            assembly: None,
            spare: Vec::new(),
            overwritten: None,
            page_header: [0; WAL_LONG_HEADER as usize],
            page_header_len: 0,
            input: Input::default(),
            failed: None,
        })
    }

    /// A decoder whose first record is the first one that starts at or after `page`, the start of a page: what that page and the following ones
    /// continue is passed over.
    ///
    /// Errors: a segment size that PostgreSQL does not allow.
    pub fn seek(page: Lsn, version: Option<PgVersion>, segment_size: u64) -> Result<StreamDecoder, WalError> {
        let mut decoder = StreamDecoder::new(page.page_start(), version, segment_size)?;
        decoder.seeking = true;
        Ok(decoder)
    }

    /// The start of the record before the first one: its prev link is then checked too.
    pub fn with_prev(mut self, prev: Option<Lsn>) -> StreamDecoder {
        self.prev = prev;
        self
    }

    /// Refuses segments of another cluster.
    pub fn with_system_id(mut self, system_id: u64) -> StreamDecoder {
        self.system_id = Some(system_id);
        self
    }

    /// The major version, once a page header was seen.
    pub fn version(&self) -> Option<PgVersion> {
        self.version
    }

    /// Timeline of the newest page header seen.
    pub fn tli(&self) -> Option<u32> {
        self.tli
    }

    /// System identifier, given or found in the first segment header.
    pub fn system_id(&self) -> Option<u64> {
        self.system_id
    }

    /// End of the last record that came out, at first the start given.
    pub fn last_end(&self) -> Lsn {
        self.last_end
    }

    /// Start of the last record that came out, if known.
    pub fn prev(&self) -> Option<Lsn> {
        self.prev
    }

    /// Where the next fed bytes must start; `None` before the first.
    pub fn fed_to(&self) -> Option<Lsn> {
        self.fed_to
    }

    /// Takes over a copy of `bytes`, which lie at `lsn`. See [`StreamDecoder::feed_bytes`].
    pub fn feed(&mut self, lsn: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        self.feed_bytes(lsn, Bytes::copy_from_slice(bytes))
    }

    /// Takes `bytes`, which lie at `lsn`, without copying them. The first bytes may start anywhere at or before the first record (what lies before
    /// its page is passed over); later ones exactly where the ones before ended.
    ///
    /// Errors: a gap or an overlap; the decoder can go on when the right bytes come.
    pub fn feed_bytes(&mut self, lsn: Lsn, bytes: Bytes) -> Result<(), WalError> {
        let len = bytes.len() as u64;
        match self.fed_to {
            Some(expected) if expected != lsn => return Err(WalError::NotContiguous { expected, got: lsn }),
            None if lsn > self.start || (self.seeking && lsn > self.start.page_start()) => {
                return Err(WalError::NotContiguous { expected: self.start, got: lsn });
            }
            _ => {}
        }
        let end = lsn.checked_add(len).ok_or(WalError::NotContiguous { expected: lsn, got: Lsn::MAX })?;
        if self.at.is_none() {
            let page = self.start.page_start();
            self.skip_to = if lsn <= page { page } else { self.start };
            self.joining = lsn <= page;
            self.at = Some(lsn);
        }
        self.fed_to = Some(end);
        self.input.push(bytes);
        Ok(())
    }

    /// The next whole record, or `None` until more bytes are fed.
    ///
    /// Errors: the bytes are not valid WAL; final (`ST-3`).
    #[expect(clippy::should_implement_trait, reason = "lends from self, which an Iterator cannot")]
    pub fn next(&mut self) -> Result<Option<(RecordSpan, &[u8])>, WalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.advance() {
            Ok(None) => Ok(None),
            Ok(Some((span, Found::Lent { from, len }))) => Ok(Some((span, self.input.chunk.get(from..from + len).unwrap_or_default()))),
            Ok(Some((span, Found::Assembled))) => Ok(Some((span, &self.spare))),
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn consume(&mut self, len: usize) {
        self.input.pos += len;
        self.at = self.at.map(|at| Lsn(at.0 + len as u64));
    }

    fn advance(&mut self) -> Result<Option<(RecordSpan, Found)>, WalError> {
        let Some(mut at) = self.at else { return Ok(None) };
        loop {
            let available = self.input.rest().len();
            if available == 0 {
                return Ok(None);
            }
            if at < self.skip_to {
                let len = self.skip_to.distance_from(at).min(available as u64);
                self.consume(len as usize);
            } else if at.page_offset() == 0 {
                self.page_header(at)?;
            } else if self.assembly.is_some() {
                if let Some(span) = self.assemble(at)? {
                    return Ok(Some((span, Found::Assembled)));
                }
            } else if let Some(found) = self.lend(at)? {
                return Ok(Some(found));
            } else {
                let mut bytes = std::mem::take(&mut self.spare);
                bytes.clear();
                self.assembly = Some(Assembly { start: at, bytes, len: 0, header_checked: false });
            }
            at = self.at.unwrap_or(at);
        }
    }

    /// The record at `at`, if all of it is at hand on this page.
    #[inline]
    fn lend(&mut self, at: Lsn) -> Result<Option<(RecordSpan, Found)>, WalError> {
        let rest = self.input.chunk.get(self.input.pos..).unwrap_or_default();
        let Some(first) = rest.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*first) as usize;
        if len == 0 {
            return Err(WalError::ZeroLength { at });
        }
        let room = WAL_PAGE_SIZE as usize - at.page_offset();
        if !(RECORD_HEADER..=room).contains(&len) {
            return Ok(None);
        }
        let Some(bytes) = rest.get(..len) else { return Ok(None) };
        let header = check_record(self.prev, self.overwritten, at, bytes)?;
        let from = self.input.pos;
        self.consume(len);
        Ok(Some((self.finish(at, &header), Found::Lent { from, len })))
    }

    /// Adds to the record that is being put together; its span once it is whole, its bytes then in `spare`.
    fn assemble(&mut self, at: Lsn) -> Result<Option<RecordSpan>, WalError> {
        let Some(assembly) = &mut self.assembly else { return Ok(None) };
        let rest = self.input.chunk.get(self.input.pos..).unwrap_or_default();
        let room = WAL_PAGE_SIZE as usize - at.page_offset();
        // In steps: the length, the rest of the header, the rest. Each is checked before more is collected, so that garbage is seen early.
        let have = assembly.bytes.len();
        let goal = match (assembly.len, assembly.header_checked) {
            (0, _) => 4,
            (_, false) => RECORD_HEADER,
            (len, true) => len,
        };
        let take = (goal - have).min(room).min(rest.len());
        assembly.bytes.extend_from_slice(rest.get(..take).unwrap_or_default());
        let (start, whole) = (assembly.start, assembly.bytes.len() == goal);
        if whole && goal == 4 {
            let mut len = [0; 4];
            len.copy_from_slice(&assembly.bytes);
            assembly.len = u32::from_le_bytes(len) as usize;
            match assembly.len {
                0 => return Err(WalError::ZeroLength { at: start }),
                1..RECORD_HEADER => return Err(WalError::Record { at: start, error: RecordError::Length(assembly.len as u32) }),
                _ => {}
            }
        } else if whole && !assembly.header_checked {
            let header = RecordHeader::decode(&assembly.bytes).map_err(|error| WalError::Record { at: start, error })?;
            check_prev(self.prev, start, &header)?;
            assembly.header_checked = true;
        }
        let complete = assembly.header_checked && assembly.bytes.len() == assembly.len;
        self.consume(take);
        if !complete {
            return Ok(None);
        }
        self.spare = self.assembly.take().map(|a| a.bytes).unwrap_or_default();
        let header = check_record(self.prev, self.overwritten, start, &self.spare)?;
        Ok(Some(self.finish(start, &header)))
    }

    /// Books a record whose last byte was just consumed.
    #[inline]
    fn finish(&mut self, start: Lsn, header: &RecordHeader) -> RecordSpan {
        let mut end = self.at.unwrap_or(start).align8();
        if header.rmid == 0 && header.info & INFO_MASK == XLOG_SWITCH {
            let into = end.segment_offset(self.segment_size);
            end = Lsn(end.0.saturating_add(if into == 0 { 0 } else { self.segment_size - into }));
        }
        self.skip_to = end;
        self.prev = Some(start);
        self.overwritten = None;
        self.last_end = end;
        RecordSpan { start, end }
    }

    /// Collects and checks the header of the page that starts at `page`, or of which a part is collected already.
    fn page_header(&mut self, page: Lsn) -> Result<(), WalError> {
        let want = header_len(page, self.segment_size);
        // `at` stays on the boundary until the header is whole.
        let rest = self.input.chunk.get(self.input.pos..).unwrap_or_default();
        let take = (want - self.page_header_len).min(rest.len());
        if let (Some(to), Some(from)) = (self.page_header.get_mut(self.page_header_len..self.page_header_len + take), rest.get(..take)) {
            to.copy_from_slice(from);
        }
        self.page_header_len += take;
        self.input.pos += take;
        if self.page_header_len < want {
            return Ok(());
        }
        self.page_header_len = 0;
        let failed = |error| WalError::Page { page, error };
        let header = PageHeader::decode(self.page_header.get(..want).unwrap_or_default()).map_err(failed)?;
        header.validate(page, self.segment_size).map_err(failed)?;
        self.check_identity(&header).map_err(failed)?;
        let body = Lsn(page.0 + want as u64);
        self.at = Some(body);
        if self.seeking {
            self.seek_past(page, body, &header);
            return Ok(());
        }
        if self.joining {
            self.joining = false;
            return self.join(body, &header);
        }
        self.check_continuation(page, &header)
    }

    fn check_identity(&mut self, header: &PageHeader) -> Result<(), PageHeaderError> {
        match self.version {
            Some(version) if version.wal_magic() != header.magic => {
                return Err(PageHeaderError::OtherVersion { expected: version.wal_magic(), found: header.magic });
            }
            _ => self.version = header.version(),
        }
        if let Some(long) = header.long {
            match self.system_id {
                Some(expected) if expected != long.system_id => {
                    return Err(PageHeaderError::SystemId { expected, found: long.system_id });
                }
                _ => self.system_id = Some(long.system_id),
            }
        }
        match self.tli {
            Some(from) if from > header.tli => return Err(PageHeaderError::Timeline { from, to: header.tli }),
            _ => self.tli = Some(header.tli),
        }
        Ok(())
    }

    /// Passes over what the page continues; the first record is found unless that goes on behind the page.
    fn seek_past(&mut self, page: Lsn, body: Lsn, header: &PageHeader) {
        let rem_len = if header.is_continuation() { u64::from(header.rem_len) } else { 0 };
        let page_end = Lsn(page.0.saturating_add(WAL_PAGE_SIZE));
        let reaches = Lsn(body.0.saturating_add(rem_len)).align8();
        self.skip_to = reaches.min(page_end);
        if reaches <= page_end {
            (self.seeking, self.joining) = (false, false);
            self.start = reaches.record_start(self.segment_size);
            self.last_end = reaches;
        }
    }

    /// On the page of the first record: what it continues must end at or before that record.
    fn join(&mut self, body: Lsn, header: &PageHeader) -> Result<(), WalError> {
        if header.is_continuation() {
            let reaches = Lsn(body.0.saturating_add(u64::from(header.rem_len))).align8();
            if reaches > self.start {
                return Err(WalError::StartInsideRecord { start: self.start, reaches });
            }
        }
        self.skip_to = self.start;
        Ok(())
    }

    fn check_continuation(&mut self, page: Lsn, header: &PageHeader) -> Result<(), WalError> {
        let Some(assembly) = &self.assembly else {
            return match header.is_continuation() {
                true => Err(WalError::ContinuationUnexpected { page, rem_len: header.rem_len }),
                false => Ok(()),
            };
        };
        let record = assembly.start;
        if header.is_overwrite_contrecord() {
            self.overwritten = Some(record);
            self.spare = self.assembly.take().map(|a| a.bytes).unwrap_or_default();
            return Ok(());
        }
        if !header.is_continuation() {
            return Err(WalError::ContinuationMissing { page, record });
        }
        let expected = (assembly.len - assembly.bytes.len().min(assembly.len)) as u32;
        match header.rem_len == expected {
            true => Ok(()),
            false => Err(WalError::ContinuationLength { page, record, expected, found: header.rem_len }),
        }
    }
}

#[inline]
fn check_prev(prev: Option<Lsn>, at: Lsn, header: &RecordHeader) -> Result<(), WalError> {
    match prev {
        Some(expected) if expected != header.prev => Err(WalError::PrevLink { at, expected, found: header.prev }),
        // The link of the first record is unknown but never points forward.
        None if header.prev >= at => Err(WalError::PrevLink { at, expected: Lsn::INVALID, found: header.prev }),
        _ => Ok(()),
    }
}

/// All checks on a whole record; the cheap ones first, in the order in which a record that comes in pieces is checked (`ST-2`).
#[inline]
fn check_record(prev: Option<Lsn>, overwritten: Option<Lsn>, at: Lsn, bytes: &[u8]) -> Result<RecordHeader, WalError> {
    let failed = |error| WalError::Record { at, error };
    let header = RecordHeader::decode(bytes).map_err(failed)?;
    check_prev(prev, at, &header)?;
    let actual = record_crc(bytes);
    if actual != header.crc {
        return Err(failed(RecordError::Crc { expected: header.crc, actual }));
    }
    if let Some(record) = overwritten {
        check_overwrite(record, at, &header, bytes)?;
    }
    Ok(header)
}

/// The first record after a cut-off one is OVERWRITE_CONTRECORD and names it.
fn check_overwrite(record: Lsn, at: Lsn, header: &RecordHeader, bytes: &[u8]) -> Result<(), WalError> {
    // Main data: LSN of the overwritten record u64, time i64; its header is two bytes long.
    let named = bytes.get(RECORD_HEADER + 2..).and_then(|main| main.first_chunk::<8>()).map(|lsn| Lsn(u64::from_le_bytes(*lsn)));
    let says_so = header.rmid == 0 && header.info & INFO_MASK == XLOG_OVERWRITE_CONTRECORD && named == Some(record);
    if says_so { Ok(()) } else { Err(WalError::OverwriteMissing { at, record }) }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
