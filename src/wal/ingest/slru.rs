//! pg_xact, pg_multixact, pg_commit_ts: pages come, take records, and go by segment.

use super::{Ingest, IngestError};
use crate::layer::ValueKind;
use crate::layer::memory::BatchBytes;
use crate::pg::checkpoint::precedes;
use crate::pg::rmgr::{MalformedRecord, id, slru};
use crate::pg::xlog::record::Record;
use crate::redo;
use crate::timeline::directory::{decode_size, encode_size};
use crate::types::{Key, PAGE_SIZE, SlruKind};

const PAGES: u32 = SlruKind::PAGES_PER_SEGMENT;
/// Last segment of the members area before its numbers wrap: offset FFFFFFFF lies in it.
const MEMBERS_SEGMENT_MAX: u32 = u32::MAX / (slru::MEMBERS_PER_PAGE * PAGES);

impl Ingest {
    async fn slru_size(&mut self, kind: SlruKind, segment: u32) -> Result<u32, IngestError> {
        if !self.known.slru[kind as usize].0.contains(&segment) {
            return Ok(0);
        }
        if let Some(size) = self.known.slru_sizes.get(&(kind, segment)) {
            return Ok(*size);
        }
        let last = self.timeline.last_record.lsn();
        let size = decode_size(&self.timeline.get(Key::slru_segment_size(kind, segment), last).await?)?;
        self.known.slru_sizes.insert((kind, segment), size);
        Ok(size)
    }

    pub(super) async fn slru_page_exists(&mut self, kind: SlruKind, page: u32) -> Result<bool, IngestError> {
        Ok(page % PAGES < self.slru_size(kind, page / PAGES).await?)
    }

    /// A page of zeros, the segment grown to hold it.
    async fn zero_page(&mut self, kind: SlruKind, page: u32) -> Result<(), IngestError> {
        self.grow_segment(kind, page).await?;
        self.put_image(Key::slru_page(kind, page), &[]);
        Ok(())
    }

    /// Makes room for `page`, whose content the caller puts; pages skipped before it are zeros.
    async fn grow_segment(&mut self, kind: SlruKind, page: u32) -> Result<(), IngestError> {
        let (segment, block) = (page / PAGES, page % PAGES);
        let size = self.slru_size(kind, segment).await?;
        if self.known.slru[kind as usize].0.insert(segment) {
            self.put_slru_dir(kind);
        }
        for page in size.min(block)..block {
            self.put_image(Key::slru_page(kind, segment * PAGES + page), &[]);
        }
        if block >= size {
            self.known.slru_sizes.insert((kind, segment), block + 1);
            self.put_image(Key::slru_segment_size(kind, segment), &encode_size(block + 1));
        }
        Ok(())
    }

    fn put_slru_dir(&mut self, kind: SlruKind) {
        let image = self.known.slru[kind as usize].encode();
        self.put_image(Key::slru_dir(kind), &image);
    }

    fn drop_segments(&mut self, kind: SlruKind, goes: impl Fn(u32) -> bool) {
        let directory = &mut self.known.slru[kind as usize].0;
        let before = directory.len();
        directory.retain(|segment| !goes(*segment));
        if directory.len() != before {
            self.known.slru_sizes.retain(|(k, segment), _| *k != kind || !goes(*segment));
            self.put_slru_dir(kind);
        }
    }

    /// Commit timestamps were turned off: a server removes all of them.
    pub(super) fn forget_commit_timestamps(&mut self) {
        self.drop_segments(SlruKind::CommitTs, |_| true);
        (self.checkpoint.oldest_commit_ts_xid, self.checkpoint.newest_commit_ts_xid) = (0, 0);
        self.checkpoint_changed = true;
    }

    /// Drops the segments before the one with `page`, each page holding `per_page` ids that wrap at 2^32.
    fn drop_before(&mut self, kind: SlruKind, page: u32, per_page: u32) {
        let first_id = |segment: u32| segment.wrapping_mul(PAGES).wrapping_mul(per_page);
        let keep = first_id(page / PAGES);
        self.drop_segments(kind, |segment| precedes(first_id(segment), keep));
    }

    pub(super) async fn slru(&mut self, record: &Record<'_>) -> Result<(), IngestError> {
        let start = self.start;
        let malformed = |error: MalformedRecord| IngestError::Malformed { lsn: start, error };
        let (main, version) = (record.main, self.version);
        match (record.header.rmid, record.header.info & 0xF0) {
            (id::CLOG, slru::CLOG_ZEROPAGE) => {
                let page = slru::parse_zero_page(main, version).map_err(malformed)?;
                self.zero_page(SlruKind::Clog, page).await
            }
            (id::COMMIT_TS, slru::COMMIT_TS_ZEROPAGE) => {
                let page = slru::parse_zero_page(main, version).map_err(malformed)?;
                self.zero_page(SlruKind::CommitTs, page).await
            }
            (id::MULTIXACT, slru::MULTIXACT_ZERO_OFFSETS) => {
                let page = slru::parse_zero_page(main, version).map_err(malformed)?;
                self.zero_page(SlruKind::MultiXactOffsets, page).await
            }
            (id::MULTIXACT, slru::MULTIXACT_ZERO_MEMBERS) => {
                let page = slru::parse_zero_page(main, version).map_err(malformed)?;
                self.zero_page(SlruKind::MultiXactMembers, page).await
            }
            (id::CLOG, slru::CLOG_TRUNCATE) => {
                let truncate = slru::parse_clog_truncate(main, version).map_err(malformed)?;
                self.checkpoint_changed |= self.checkpoint.advance_oldest_xid(truncate.oldest_xid, truncate.oldest_xid_db);
                self.drop_before(SlruKind::Clog, truncate.page, slru::CLOG_XIDS_PER_PAGE);
                Ok(())
            }
            (id::COMMIT_TS, slru::COMMIT_TS_TRUNCATE) => {
                let (page, oldest) = slru::parse_commit_ts_truncate(main, version).map_err(malformed)?;
                self.checkpoint.oldest_commit_ts_xid = oldest;
                self.checkpoint_changed = true;
                self.drop_before(SlruKind::CommitTs, page, slru::COMMIT_TS_PER_PAGE);
                Ok(())
            }
            (id::MULTIXACT, slru::MULTIXACT_CREATE) => {
                let create = slru::parse_multixact_create(main).map_err(malformed)?;
                self.create_multixact(record, &create).await
            }
            (id::MULTIXACT, slru::MULTIXACT_TRUNCATE) => {
                let truncate = slru::parse_multixact_truncate(main).map_err(malformed)?;
                self.truncate_multixacts(truncate);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn create_multixact(&mut self, record: &Record<'_>, create: &slru::MultiXactCreate) -> Result<(), IngestError> {
        let mut stored = None;
        let members = create.members.len() as u32;
        let (page, next_page) = (create.id / slru::OFFSETS_PER_PAGE, create.id.wrapping_add(1) / slru::OFFSETS_PER_PAGE);
        // Late minor releases also write the next multixact's offset; the WAL of older ones may not have zeroed its page yet.
        if next_page != page && self.slru_page_exists(SlruKind::MultiXactOffsets, next_page).await? {
            self.put_slru_record(SlruKind::MultiXactOffsets, next_page, record, &mut stored).await?;
        } else if next_page != page {
            self.put_new_page(SlruKind::MultiXactOffsets, next_page, record, &mut stored).await?;
        }
        self.put_slru_record(SlruKind::MultiXactOffsets, page, record, &mut stored).await?;
        let mut last_page = None;
        for n in 0..members {
            let page = create.offset.wrapping_add(n) / slru::MEMBERS_PER_PAGE;
            if last_page != Some(page) {
                last_page = Some(page);
                self.put_slru_record(SlruKind::MultiXactMembers, page, record, &mut stored).await?;
            }
        }
        self.checkpoint_changed |= self.checkpoint.advance_next_multi(create.id, create.offset, members);
        for (xid, _) in &create.members {
            self.checkpoint_changed |= self.checkpoint.advance_next_xid_aligned(*xid, super::XID_STEP);
        }
        Ok(())
    }

    /// A page that comes into being with this record: zeros below it would have the record's own LSN.
    pub(super) async fn put_new_page(
        &mut self,
        kind: SlruKind,
        page: u32,
        record: &Record<'_>,
        stored: &mut Option<BatchBytes>,
    ) -> Result<(), IngestError> {
        let context = redo::ApplyContext::new(self.version);
        let key = Key::slru_page(kind, page);
        let zeros = [0; PAGE_SIZE];
        let image = redo::replay(&context, key, Some(&zeros), [(self.lsn, record.bytes)]);
        self.grow_segment(kind, page).await?;
        match image {
            Ok(image) => self.put_image(key, &image),
            Err(_) => self.put_record(key, ValueKind::InitRecord, record, stored),
        }
        Ok(())
    }

    fn truncate_multixacts(&mut self, truncate: slru::MultiXactTruncate) {
        self.checkpoint_changed |= self.checkpoint.advance_oldest_multi(truncate.end_offset, truncate.oldest_db);
        // The page of the multixact before the oldest one stays: the oldest one's own page may not exist yet.
        let before = if truncate.end_offset <= 1 { u32::MAX } else { truncate.end_offset - 1 };
        self.drop_before(SlruKind::MultiXactOffsets, before / slru::OFFSETS_PER_PAGE, slru::OFFSETS_PER_PAGE);
        let segment = |offset: u32| offset / (slru::MEMBERS_PER_PAGE * PAGES);
        let (first, end) = (segment(truncate.start_member), segment(truncate.end_member));
        let count = if end >= first { end - first } else { MEMBERS_SEGMENT_MAX - first + 1 + end };
        self.drop_segments(SlruKind::MultiXactMembers, |s| {
            let distance = if s >= first { s - first } else { MEMBERS_SEGMENT_MAX - first + 1 + s };
            distance < count
        });
    }
}
