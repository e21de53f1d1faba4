//! A timeline seen as a PostgreSQL cluster: databases, relations, SLRUs, control data at an LSN.

use super::directory::{self, DbDir, MalformedDirectory, RelDir, SlruDir, TablespaceDir, TwoPhaseDir};
use super::sizes::Lookup;
use super::{ReadError, Timeline};
use crate::types::key::REL_DIR_BUCKETS;
use crate::types::rel::DEFAULT_TABLESPACE;
use crate::types::{Fork, Key, Lsn, PAGE_SIZE, RelTag, SlruKind, ZERO_PAGE};
use bytes::Bytes;
use std::collections::BTreeSet;

impl Timeline {
    async fn decoded<T>(&self, key: Key, lsn: Lsn, decode: impl FnOnce(&[u8]) -> Result<T, MalformedDirectory>) -> Result<T, ReadError> {
        let bytes = self.get(key, lsn).await?;
        decode(&bytes).map_err(|_| ReadError::Malformed { key, lsn, reason: "the directory entry is damaged" })
    }

    pub async fn db_dir(&self, lsn: Lsn) -> Result<DbDir, ReadError> {
        self.decoded(Key::DB_DIR, lsn, DbDir::decode).await
    }

    /// Whether the relation fork exists.
    pub async fn rel_exists(&self, rel: RelTag, lsn: Lsn) -> Result<bool, ReadError> {
        if !self.db_dir(lsn).await?.0.contains_key(&(rel.spc, rel.db)) {
            return Ok(false);
        }
        let bucket = self.decoded(Key::rel_dir_of(rel.spc, rel.db, rel.rel), lsn, RelDir::decode).await?;
        Ok(bucket.0.contains(&(rel.rel, rel.fork)))
    }

    /// Size in blocks; `None` if the fork does not exist.
    pub async fn rel_size(&self, rel: RelTag, lsn: Lsn) -> Result<Option<u32>, ReadError> {
        if !self.rel_exists(rel, lsn).await? {
            return Ok(None);
        }
        self.stored_rel_size(rel, lsn).await.map(Some)
    }

    /// Size in blocks of a relation that exists, without asking whether it does.
    pub(super) async fn stored_rel_size(&self, rel: RelTag, lsn: Lsn) -> Result<u32, ReadError> {
        self.decoded(Key::rel_size(rel), lsn, directory::decode_size).await
    }

    /// Size in blocks of a relation that is known to exist, or existed once; `None` if there never was one.
    async fn last_rel_size(&self, rel: RelTag, lsn: Lsn) -> Result<Option<u32>, ReadError> {
        let last = self.last_record.lsn();
        let epoch = match self.sizes.look_up(rel, lsn) {
            Lookup::Known(size) => return Ok(size),
            Lookup::Unknown { epoch } => epoch,
        };
        let size = match self.stored_rel_size(rel, lsn).await {
            Ok(size) => Some(size),
            Err(ReadError::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        if lsn == last {
            self.sizes.learn(rel, lsn, size, epoch);
        }
        Ok(size)
    }

    /// A block of a relation; zeros at or past its end, also where a longer relation once had data.
    pub async fn rel_block(&self, rel: RelTag, block: u32, lsn: Lsn) -> Result<Bytes, ReadError> {
        match self.last_rel_size(rel, lsn).await? {
            None => return Err(ReadError::NoRelation { timeline: self.identity.timeline, rel, lsn }),
            Some(size) if block >= size => return Ok(Bytes::from_static(&ZERO_PAGE)),
            Some(_) => {}
        }
        let page = self.get(Key::rel_block(rel, block), lsn).await?;
        if page.len() == PAGE_SIZE {
            return Ok(page);
        }
        Err(ReadError::Malformed { key: Key::rel_block(rel, block), lsn, reason: "the page does not have 8192 bytes" })
    }

    /// One bucket of a database's directory of relations.
    pub async fn rel_bucket(&self, spc: u32, db: u32, bucket: u32, lsn: Lsn) -> Result<RelDir, ReadError> {
        self.decoded(Key::rel_dir(spc, db, bucket), lsn, RelDir::decode).await
    }

    /// All relation forks of a database in a tablespace, in order.
    pub async fn relations(&self, spc: u32, db: u32, lsn: Lsn) -> Result<BTreeSet<(u32, Fork)>, ReadError> {
        let mut all = BTreeSet::new();
        for bucket in 0..REL_DIR_BUCKETS {
            all.extend(self.rel_bucket(spc, db, bucket, lsn).await?.0);
        }
        Ok(all)
    }

    /// Bytes of all relations of a database in the default tablespace, all forks.
    pub async fn db_size(&self, db: u32, lsn: Lsn) -> Result<u64, ReadError> {
        let mut blocks = 0;
        for (rel, fork) in self.relations(DEFAULT_TABLESPACE, db, lsn).await? {
            let tag = RelTag { spc: DEFAULT_TABLESPACE, db, rel, fork };
            blocks += u64::from(self.stored_rel_size(tag, lsn).await?);
        }
        Ok(blocks * PAGE_SIZE as u64)
    }

    /// Bytes of all relations of the cluster: every fork, database and tablespace.
    pub async fn logical_size(&self, lsn: Lsn) -> Result<u64, ReadError> {
        let mut blocks = 0;
        for (spc, db) in self.db_dir(lsn).await?.0.into_keys() {
            for (rel, fork) in self.relations(spc, db, lsn).await? {
                blocks += u64::from(self.stored_rel_size(RelTag { spc, db, rel, fork }, lsn).await?);
            }
        }
        Ok(blocks * PAGE_SIZE as u64)
    }

    pub async fn slru_segments(&self, kind: SlruKind, lsn: Lsn) -> Result<SlruDir, ReadError> {
        self.decoded(Key::slru_dir(kind), lsn, SlruDir::decode).await
    }

    /// Size of an existing SLRU segment in pages.
    pub async fn slru_segment_size(&self, kind: SlruKind, segment: u32, lsn: Lsn) -> Result<u32, ReadError> {
        self.decoded(Key::slru_segment_size(kind, segment), lsn, directory::decode_size).await
    }

    /// Pages of an SLRU segment, one after the other.
    pub async fn slru_segment(&self, kind: SlruKind, segment: u32, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
        let pages = self.slru_segment_size(kind, segment, lsn).await?;
        let mut out = Vec::with_capacity(pages as usize * PAGE_SIZE);
        for page in 0..pages {
            let key = Key::slru_page(kind, segment * SlruKind::PAGES_PER_SEGMENT + page);
            let bytes = self.get(key, lsn).await?;
            // Pages of pg_xact carry the time of their newest commit behind the page.
            let page = bytes.get(..PAGE_SIZE).ok_or(ReadError::Malformed { key, lsn, reason: "the page is too short" })?;
            out.extend_from_slice(page);
        }
        Ok(out)
    }

    pub async fn two_phase_dir(&self, lsn: Lsn) -> Result<TwoPhaseDir, ReadError> {
        self.decoded(Key::TWO_PHASE_DIR, lsn, TwoPhaseDir::decode).await
    }

    pub async fn tablespace_dir(&self, lsn: Lsn) -> Result<TablespaceDir, ReadError> {
        self.decoded(Key::TABLESPACE_DIR, lsn, TablespaceDir::decode).await
    }
}
