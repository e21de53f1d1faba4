//! Transactions: their fate in pg_xact, files that go with them, two-phase state.

use super::{Ingest, IngestError, XID_STEP};
use crate::pg::checkpoint::xid_precedes;
use crate::pg::rmgr::MalformedRecord;
use crate::pg::rmgr::slru::{CLOG_XIDS_PER_PAGE, COMMIT_TS_PER_PAGE};
use crate::pg::rmgr::xact::{self, XactEnd};
use crate::pg::xlog::record::Record;
use crate::types::{Key, SlruKind};

impl Ingest {
    pub(super) async fn xact(&mut self, record: &Record<'_>) -> Result<(), IngestError> {
        let start = self.start;
        let malformed = |error: MalformedRecord| IngestError::Malformed { lsn: start, error };
        let (info, main) = (record.header.info, record.main);
        match info & xact::OPCODE_MASK {
            opcode @ (xact::COMMIT | xact::ABORT | xact::COMMIT_PREPARED | xact::ABORT_PREPARED) => {
                let end = xact::parse_end(info, main, record.header.xid, self.version).map_err(malformed)?;
                let committed = matches!(opcode, xact::COMMIT | xact::COMMIT_PREPARED);
                self.end_transaction(record, &end, committed).await?;
                if matches!(opcode, xact::COMMIT_PREPARED | xact::ABORT_PREPARED) {
                    let xid = self.full_xid(end.xid);
                    if self.known.two_phase.0.remove(&xid) {
                        self.put_two_phase_dir();
                    }
                }
                Ok(())
            }
            xact::PREPARE => {
                for xid in xact::prepared_subxids(main, self.version).map_err(malformed)? {
                    self.advance_xid(xid);
                }
                self.advance_xid(record.header.xid);
                let xid = self.full_xid(record.header.xid);
                self.put_image(Key::two_phase_file(xid), main);
                self.known.two_phase.0.insert(xid);
                self.put_two_phase_dir();
                Ok(())
            }
            xact::ASSIGNMENT => {
                let (top, subxids) = xact::parse_assignment(main).map_err(malformed)?;
                self.advance_xid(top);
                subxids.into_iter().for_each(|xid| self.advance_xid(xid));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn advance_xid(&mut self, xid: u32) {
        self.checkpoint_changed |= self.checkpoint.advance_next_xid_aligned(xid, XID_STEP);
    }

    /// Before 17 the state file is named by the plain xid.
    fn full_xid(&self, xid: u32) -> u64 {
        match self.version >= crate::pg::version::PgVersion::V17 {
            true => self.checkpoint.next_xid.nearest(xid).0,
            false => u64::from(xid),
        }
    }

    fn put_two_phase_dir(&mut self) {
        let image = self.known.two_phase.encode();
        self.put_image(Key::TWO_PHASE_DIR, &image);
    }

    async fn end_transaction(&mut self, record: &Record<'_>, end: &XactEnd, committed: bool) -> Result<(), IngestError> {
        if end.xid != 0 {
            self.advance_xid(end.xid);
            end.subxids.iter().for_each(|xid| self.advance_xid(*xid));
            self.put_status(SlruKind::Clog, CLOG_XIDS_PER_PAGE, record, end).await?;
            if committed {
                self.put_status(SlruKind::CommitTs, COMMIT_TS_PER_PAGE, record, end).await?;
                if self.known.control.limits.track_commit_timestamp {
                    self.advance_commit_timestamps(end);
                }
            }
        }
        for rel in &end.dropped {
            self.drop_relation(*rel).await?;
        }
        Ok(())
    }

    /// Keeps the range of xids whose timestamps may be asked for; its end moves in the steps of the next xid.
    fn advance_commit_timestamps(&mut self, end: &XactEnd) {
        let checkpoint = &mut self.checkpoint;
        let newest = end.subxids.iter().copied().fold(end.xid, |a, b| if xid_precedes(a, b) { b } else { a });
        if checkpoint.oldest_commit_ts_xid == 0 {
            // Turned on since the last checkpoint. Subtransactions have higher xids.
            (checkpoint.oldest_commit_ts_xid, checkpoint.newest_commit_ts_xid) = (end.xid, end.xid);
            self.checkpoint_changed = true;
        }
        if xid_precedes(checkpoint.newest_commit_ts_xid, newest) {
            let before_next = checkpoint.next_xid.xid().wrapping_sub(1);
            checkpoint.newest_commit_ts_xid = if xid_precedes(newest, before_next) { before_next } else { newest };
            self.checkpoint_changed = true;
        }
    }

    /// Each page with one of the transaction's xids takes the record once.
    async fn put_status(&mut self, kind: SlruKind, per_page: u32, record: &Record<'_>, end: &XactEnd) -> Result<(), IngestError> {
        let mut stored = None;
        let first = end.xid / per_page;
        let mut pages: Vec<u32> = end.subxids.iter().map(|xid| xid / per_page).filter(|page| *page != first).collect();
        pages.sort_unstable();
        pages.dedup();
        // Turning commit timestamps on creates a page without a record.
        let creates = kind == SlruKind::CommitTs && self.known.control.limits.track_commit_timestamp;
        for page in std::iter::once(first).chain(pages) {
            if creates && !self.slru_page_exists(kind, page).await? {
                self.put_new_page(kind, page, record, &mut stored).await?;
            } else {
                self.put_slru_record(kind, page, record, &mut stored).await?;
            }
        }
        Ok(())
    }
}
