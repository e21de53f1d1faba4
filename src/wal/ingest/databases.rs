//! Databases, tablespaces, relation maps.

use super::{Ingest, IngestError};
use crate::limits::INGEST_BATCH_BYTES;
use crate::pg::rmgr::MalformedRecord;
use crate::pg::rmgr::database::{self, DatabaseChange, TablespaceChange};
use crate::pg::xlog::record::Record;
use crate::timeline::TimelineWriter;
use crate::timeline::directory::{RelDir, encode_size};
use crate::types::key::REL_DIR_BUCKETS;
use crate::types::{Key, PAGE_SIZE, RelTag};

impl Ingest {
    /// An empty database in a tablespace; `files` if it has its map and version file.
    pub(super) fn create_database(&mut self, spc: u32, db: u32, files: bool) {
        self.forget_database(spc, db);
        self.known.databases.0.insert((spc, db), files);
        let empty = RelDir::default();
        let image = empty.encode();
        for bucket in 0..REL_DIR_BUCKETS {
            self.known.relations.insert((spc, db, bucket), empty.clone());
            self.put_image(Key::rel_dir(spc, db, bucket), &image);
        }
        self.put_databases();
    }

    fn forget_database(&mut self, spc: u32, db: u32) {
        self.known.forget_database(spc, db);
        self.timeline.sizes.forget_all(self.lsn);
    }

    fn put_databases(&mut self) {
        let image = self.known.databases.encode();
        self.batch.replace_or_push_image(Key::DB_DIR, self.lsn, &image);
    }

    pub(super) async fn database(&mut self, writer: &mut TimelineWriter, record: &Record<'_>) -> Result<(), IngestError> {
        let malformed = |error: MalformedRecord| IngestError::Malformed { lsn: self.start, error };
        match database::parse_database(record.header.info, record.main, self.version).map_err(malformed)? {
            DatabaseChange::CreateByFileCopy { to, from } => {
                // The copy reads what came before: it must be readable.
                self.commit(writer).await;
                self.copy_database(writer, to, from).await
            }
            DatabaseChange::CreateWalLogged { to: (spc, db) } => {
                self.create_database(spc, db, false);
                Ok(())
            }
            DatabaseChange::Drop { db, tablespaces } => {
                for spc in tablespaces {
                    self.known.databases.0.remove(&(spc, db));
                    self.forget_database(spc, db);
                }
                self.put_databases();
                Ok(())
            }
        }
    }

    /// Every relation of `from` as of now, under the new name.
    async fn copy_database(&mut self, writer: &mut TimelineWriter, to: (u32, u32), from: (u32, u32)) -> Result<(), IngestError> {
        let timeline = self.timeline.clone();
        let last = timeline.last_record.lsn();
        let Some(files) = self.known.databases.0.get(&from).copied() else {
            // A directory in which no file was ever logged.
            self.create_database(to.0, to.1, false);
            return Ok(());
        };
        self.forget_database(to.0, to.1);
        self.known.databases.0.insert(to, files);
        self.put_databases();
        if files {
            let map = timeline.get(Key::rel_map(from.0, from.1), last).await?;
            self.put_image(Key::rel_map(to.0, to.1), &map);
        }
        for bucket in 0..REL_DIR_BUCKETS {
            let directory = timeline.rel_bucket(from.0, from.1, bucket, last).await?;
            self.put_image(Key::rel_dir(to.0, to.1, bucket), &directory.encode());
            for (rel, fork) in &directory.0 {
                let source = RelTag { spc: from.0, db: from.1, rel: *rel, fork: *fork };
                let target = RelTag { spc: to.0, db: to.1, ..source };
                let size = timeline.rel_size(source, last).await?.unwrap_or(0);
                for block in 0..size {
                    let page = timeline.rel_block(source, block, last).await?;
                    let image: &[u8] = if page.iter().all(|b| *b == 0) { &[] } else { &page };
                    debug_assert!(image.is_empty() || image.len() == PAGE_SIZE);
                    self.put_image(Key::rel_block(target, block), image);
                    self.put_full_batch_ahead(writer).await;
                }
                self.put_image(Key::rel_size(target), &encode_size(size));
            }
            self.known.relations.insert((to.0, to.1, bucket), directory);
        }
        Ok(())
    }

    /// A copy may be larger than any batch.
    async fn put_full_batch_ahead(&mut self, writer: &mut TimelineWriter) {
        if self.batch.byte_len() >= INGEST_BATCH_BYTES {
            writer.put_ahead(std::mem::take(&mut self.batch)).await;
            self.put_ahead = true;
        }
    }

    pub(super) fn tablespace(&mut self, record: &Record<'_>) -> Result<(), IngestError> {
        let malformed = |error: MalformedRecord| IngestError::Malformed { lsn: self.start, error };
        match database::parse_tablespace(record.header.info, record.main).map_err(malformed)? {
            TablespaceChange::Create { oid, path } => _ = self.known.tablespaces.0.insert(oid, path),
            TablespaceChange::Drop { oid } => _ = self.known.tablespaces.0.remove(&oid),
        }
        let image = self.known.tablespaces.encode();
        self.put_image(Key::TABLESPACE_DIR, &image);
        Ok(())
    }

    pub(super) fn relation_map(&mut self, record: &Record<'_>) -> Result<(), IngestError> {
        let malformed = |error: MalformedRecord| IngestError::Malformed { lsn: self.start, error };
        let ((spc, db), map) = database::parse_relmap(record.main).map_err(malformed)?;
        if map.len() != self.version.relmap_size() {
            return Err(malformed(MalformedRecord("relation map")));
        }
        match self.known.databases.0.get(&(spc, db)) {
            Some(true) => {}
            Some(false) => {
                self.known.databases.0.insert((spc, db), true);
                self.put_databases();
            }
            None => self.create_database(spc, db, true),
        }
        self.put_image(Key::rel_map(spc, db), map);
        Ok(())
    }
}
