//! Records to versions: which keys a record changes, beyond the blocks that it names.
//!
//! Everything that one record changes becomes readable at once, at the record's end LSN. What is known of the cluster
//! (databases, relations, sizes, SLRU segments, counters) is kept in memory and written through, so that pending versions
//! are seen.
//!
//! Invariant IN-1: ingest is a function of (timeline at its last record, WAL): reading the same WAL again after a crash gives
//! the same versions.

mod databases;
mod known;
mod relations;
mod slru;
#[cfg(test)]
mod tests;
mod xact;

use crate::layer::memory::BatchBytes;
use crate::layer::{Batch, ValueKind};
use crate::limits::INGEST_BATCH_BYTES;
use crate::pg::checkpoint::CheckPoint;
use crate::pg::control::{ControlError, ControlFile};
use crate::pg::page::Page as _;
use crate::pg::rmgr::{MalformedRecord, id, xlog};
use crate::pg::version::PgVersion;
use crate::pg::xlog::record::{BlockRef, Record, RecordError};
use crate::pg::xlog::stream::{RecordSpan, WalError};
use crate::redo;
use crate::timeline::directory::MalformedDirectory;
use crate::timeline::{ReadError, Timeline, TimelineWriter};
use crate::types::{Fork, Key, Lsn, PAGE_SIZE, RelTag, SlruKind};
use crate::wal::log::LogError;
use known::Known;
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error("WAL record at {lsn}: {error}")]
    Record { lsn: Lsn, error: RecordError },
    #[error("WAL record at {lsn}: {error}")]
    Malformed { lsn: Lsn, error: MalformedRecord },
    #[error("WAL record at {lsn} extends {rel} from {from} to {to} blocks at once: this is taken for damage")]
    Extend { lsn: Lsn, rel: RelTag, from: u32, to: u32 },
    #[error("read what is known of the cluster: {0}")]
    Read(#[from] ReadError),
    #[error("the stored control file is not usable: {0}")]
    Control(#[from] ControlError),
    #[error("the stored checkpoint or directory is damaged")]
    Stored,
}

impl From<MalformedDirectory> for IngestError {
    fn from(_: MalformedDirectory) -> IngestError {
        IngestError::Stored
    }
}

/// FPI_FOR_HINT without full_page_writes names a page and does nothing to it; a lone FSM reference neither.
fn is_inert(record: &Record<'_>, block: &BlockRef<'_>) -> bool {
    !block.replaces_page() && (record.header.rmid == id::XLOG || block.rel.fork == Fork::Fsm)
}

/// Xids are moved on in steps, so that the checkpoint is not written with every record.
const XID_STEP: u64 = 1024;

/// The ingest state of a timeline.
pub struct Ingest {
    timeline: Arc<Timeline>,
    version: PgVersion,
    known: Known,
    checkpoint: CheckPoint,
    checkpoint_changed: bool,
    batch: Batch,
    /// The record being ingested.
    lsn: Lsn,
    start: Lsn,
    /// The last whole record in the batch: end and start.
    done: Option<(Lsn, Lsn)>,
    /// A part of the record's changes left the batch: the rest must follow before the next record.
    put_ahead: bool,
}

impl Ingest {
    /// Reads the cluster's state at the timeline's last record.
    pub async fn load(timeline: &Arc<Timeline>) -> Result<Ingest, IngestError> {
        let lsn = timeline.last_record.lsn();
        let version = timeline.identity.pg_version;
        let checkpoint = timeline.get(Key::CHECKPOINT, lsn).await?;
        Ok(Ingest {
            timeline: timeline.clone(),
            version,
            known: Known::load(timeline, lsn).await?,
            checkpoint: CheckPoint::decode(&checkpoint, version).ok_or(IngestError::Stored)?,
            checkpoint_changed: false,
            batch: Batch::default(),
            lsn,
            start: lsn,
            done: None,
            put_ahead: false,
        })
    }

    /// Takes one record; commits when the batch is full.
    ///
    /// After an error the records before can still be committed, and nothing else can be done with this state.
    pub async fn record(&mut self, writer: &mut TimelineWriter, span: RecordSpan, bytes: &[u8]) -> Result<(), IngestError> {
        if span.end <= self.timeline.last_record.lsn() {
            return Ok(());
        }
        (self.start, self.lsn) = (span.start, span.end);
        let mark = self.batch.mark();
        if let Err(error) = self.changes(writer, span, bytes).await {
            self.batch.truncate(mark);
            return Err(error);
        }
        self.done = Some((span.end, span.start));
        let full = self.batch.byte_len() >= INGEST_BATCH_BYTES || crate::buggify!(self.timeline.shared.env, "commit-early");
        if std::mem::take(&mut self.put_ahead) || full {
            self.commit(writer).await;
        }
        Ok(())
    }

    async fn changes(&mut self, writer: &mut TimelineWriter, span: RecordSpan, bytes: &[u8]) -> Result<(), IngestError> {
        let record = Record::decode(bytes, self.version).map_err(|error| IngestError::Record { lsn: span.start, error })?;
        self.blocks(&record).await?;
        let malformed = |error| IngestError::Malformed { lsn: span.start, error };
        match record.header.rmid {
            id::HEAP | id::HEAP2 => self.clear_visibility(&record).await?,
            id::XLOG => self.xlog(&record).map_err(malformed)?,
            id::XACT => self.xact(&record).await?,
            id::SMGR => self.storage(&record).await?,
            id::CLOG | id::MULTIXACT | id::COMMIT_TS => self.slru(&record).await?,
            id::DBASE => self.database(writer, &record).await?,
            id::TBLSPC => self.tablespace(&record)?,
            id::RELMAP => self.relation_map(&record)?,
            id::STANDBY => self.standby(&record).map_err(malformed)?,
            _ => {}
        }
        if record.header.xid != 0 {
            self.checkpoint_changed |= self.checkpoint.advance_next_xid_aligned(record.header.xid, XID_STEP);
        }
        if self.checkpoint_changed {
            self.checkpoint_changed = false;
            let checkpoint = self.checkpoint.encode();
            self.put_image(Key::CHECKPOINT, &checkpoint);
        }
        Ok(())
    }

    /// Makes all whole records readable.
    pub async fn commit(&mut self, writer: &mut TimelineWriter) {
        let Some((last, prev)) = self.done.take() else { return };
        let batch = std::mem::take(&mut self.batch);
        writer.commit(batch, last, prev).await;
    }

    fn put_image(&mut self, key: Key, image: &[u8]) {
        self.batch.push_image(key, self.lsn, image);
    }

    /// Adds the whole record to a key's chain; `stored` keeps its bytes once.
    fn put_record(&mut self, key: Key, kind: ValueKind, record: &Record<'_>, stored: &mut Option<BatchBytes>) {
        let bytes = *stored.get_or_insert_with(|| self.batch.store_record(record.bytes));
        self.batch.push(key, self.lsn, kind, bytes);
    }

    async fn blocks(&mut self, record: &Record<'_>) -> Result<(), IngestError> {
        let mut stored = None;
        for (n, block) in record.blocks.iter().enumerate() {
            let is_new = self.extend_to(block.rel, block.block, record).await?;
            let key = Key::rel_block(block.rel, block.block);
            if is_inert(record, block) {
                if is_new {
                    self.put_image(key, &[]);
                }
                continue;
            }
            if record.blocks[..n].iter().any(|other| (other.rel, other.block) == (block.rel, block.block) && !is_inert(record, other)) {
                // No server writes such a record; the page's chain has it already.
                continue;
            }
            if !block.replaces_page() {
                let from_zeros = is_new && block.rel.fork == Fork::Vm;
                if !(from_zeros && self.put_from_zeros(key, record)) {
                    self.put_record(key, ValueKind::Record, record, &mut stored);
                }
            } else if record.blocks.len() > 1 && !redo::changes_restored_page(record, block.id) && self.put_restored(key, block) {
                // Kept as a page: the record with all its images would be stored once per block.
            } else {
                self.put_record(key, ValueKind::InitRecord, record, &mut stored);
            }
        }
        Ok(())
    }

    /// Stores what the record makes of a page of zeros: maps grow without WAL, and versions from before a truncation, or of an
    /// earlier relation of this number, must not show through. False if the record cannot be applied.
    fn put_from_zeros(&mut self, key: Key, record: &Record<'_>) -> bool {
        let page = redo::replay(&self.timeline.apply_context(), key, Some(&[0; PAGE_SIZE]), [(self.lsn, record.bytes)]);
        page.is_ok_and(|page| {
            self.put_image(key, &page);
            true
        })
    }

    /// Stores the page that the block's image is; false if it has none.
    fn put_restored(&mut self, key: Key, block: &BlockRef<'_>) -> bool {
        let Some(image) = block.image.filter(|image| image.apply) else { return false };
        let mut page = redo::PageBuf::new();
        if redo::restore_image(&image, page.page_mut()).is_err() {
            return false;
        }
        if !page.page().is_new() {
            page.page_mut().set_lsn(self.lsn);
        }
        let bytes: &[u8; PAGE_SIZE] = page.page();
        let stored = self.batch.store(bytes);
        self.batch.push(key, self.lsn, ValueKind::Image, stored);
        true
    }

    async fn clear_visibility(&mut self, record: &Record<'_>) -> Result<(), IngestError> {
        let malformed = |_| IngestError::Malformed { lsn: self.start, error: MalformedRecord("heap") };
        let mut stored = None;
        for (map, page) in redo::cleared_blocks(record).map_err(malformed)? {
            // A map that does not exist has no bits to clear.
            if self.rel_size(map).await?.is_some_and(|size| page < size) {
                self.put_record(Key::rel_block(map, page), ValueKind::Record, record, &mut stored);
            }
        }
        Ok(())
    }

    fn xlog(&mut self, record: &Record<'_>) -> Result<(), MalformedRecord> {
        match record.header.info & 0xF0 {
            info @ (xlog::CHECKPOINT_SHUTDOWN | xlog::CHECKPOINT_ONLINE) => {
                let bytes = xlog::checkpoint_bytes(record.main)?;
                let checkpoint = CheckPoint::decode(bytes, self.version).ok_or(MalformedRecord("checkpoint"))?;
                self.checkpoint.merge(&checkpoint, info == xlog::CHECKPOINT_SHUTDOWN);
                self.checkpoint_changed = true;
            }
            xlog::NEXTOID => {
                self.checkpoint.next_oid = xlog::parse_next_oid(record.main)?;
                self.checkpoint_changed = true;
            }
            xlog::PARAMETER_CHANGE => self.parameter_change(xlog::parse_parameter_change(record.main)?),
            _ => {}
        }
        Ok(())
    }

    /// The control file is what a standby and an export take their settings from.
    fn parameter_change(&mut self, change: xlog::ParameterChange) {
        let control: &mut ControlFile = &mut self.known.control;
        control.limits.max_connections = change.max_connections as i32;
        control.limits.max_worker_processes = change.max_worker_processes as i32;
        control.limits.max_wal_senders = change.max_wal_senders as i32;
        control.limits.max_prepared_xacts = change.max_prepared_transactions as i32;
        control.limits.max_locks_per_xact = change.max_locks_per_transaction as i32;
        control.limits.wal_level = change.wal_level as i32;
        control.limits.wal_log_hints = change.wal_log_hints;
        let tracked = std::mem::replace(&mut control.limits.track_commit_timestamp, change.track_commit_timestamp);
        let bytes = control.encode();
        self.put_image(Key::CONTROL_FILE, &bytes);
        if let Some(level) = &mut self.checkpoint.wal_level {
            *level = change.wal_level as i32;
            self.checkpoint_changed = true;
        }
        if tracked && !change.track_commit_timestamp {
            self.forget_commit_timestamps();
        }
    }

    fn standby(&mut self, record: &Record<'_>) -> Result<(), MalformedRecord> {
        if record.header.info & 0xF0 == xlog::STANDBY_RUNNING_XACTS {
            let running = xlog::parse_running_xacts(record.main)?;
            self.checkpoint.oldest_active_xid = running.oldest_running_xid;
            self.checkpoint_changed = true;
        }
        Ok(())
    }

    /// Pages of an SLRU that exist take the record.
    async fn put_slru_record(
        &mut self,
        kind: SlruKind,
        page: u32,
        record: &Record<'_>,
        stored: &mut Option<BatchBytes>,
    ) -> Result<(), IngestError> {
        if self.slru_page_exists(kind, page).await? {
            self.put_record(Key::slru_page(kind, page), ValueKind::Record, record, stored);
        }
        Ok(())
    }
}
