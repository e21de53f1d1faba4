//! Relations: their existence and sizes.

use super::{Ingest, IngestError, is_inert};
use crate::layer::ValueKind;
use crate::limits::EXTEND_BLOCKS_MAX;
use crate::pg::rmgr::{MalformedRecord, storage};
use crate::pg::xlog::record::Record;
use crate::timeline::directory::{RelDir, decode_size, encode_size};
use crate::types::key::REL_DIR_BUCKETS;
use crate::types::{Fork, Key, RelTag};

/// Heap blocks whose free space one FSM leaf page holds. Source: PostgreSQL 15 `storage/fsm_internals.h` (SlotsPerFSMPage).
const FSM_SLOTS_PER_PAGE: u32 = 4069;
const VM_BLOCKS_PER_PAGE: u32 = (8192 - 24) * 4;

impl Ingest {
    /// Size in blocks; `None` if the fork does not exist.
    pub(super) async fn rel_size(&mut self, rel: RelTag) -> Result<Option<u32>, IngestError> {
        if let Some((_, size)) = self.known.last_size.filter(|(last, _)| *last == rel) {
            return Ok(Some(size));
        }
        if let Some(size) = self.known.sizes.get(&rel).copied() {
            self.known.last_size = size.map(|size| (rel, size));
            return Ok(size);
        }
        // Nothing about it is pending, or it would be in the cache... unless the cache started anew: look at the batch first.
        let key = Key::rel_size(rel);
        let size = if !self.rel_listed(rel).await? {
            None
        } else if let Some(image) = self.batch.newest_image(key) {
            Some(decode_size(image)?)
        } else {
            let last = self.timeline.last_record.lsn();
            Some(decode_size(&self.timeline.get(key, last).await?)?)
        };
        self.known.set_size(rel, size);
        Ok(size)
    }

    async fn rel_listed(&mut self, rel: RelTag) -> Result<bool, IngestError> {
        Ok(self.bucket(rel).await?.is_some_and(|bucket| bucket.0.contains(&(rel.rel, rel.fork))))
    }

    /// The directory bucket of a relation; `None` if its database does not exist.
    async fn bucket(&mut self, rel: RelTag) -> Result<Option<&mut RelDir>, IngestError> {
        if !self.known.databases.0.contains_key(&(rel.spc, rel.db)) {
            return Ok(None);
        }
        let number = rel.rel % REL_DIR_BUCKETS;
        let place = (rel.spc, rel.db, number);
        if !self.known.relations.contains_key(&place) {
            let last = self.timeline.last_record.lsn();
            let bucket = self.timeline.rel_bucket(rel.spc, rel.db, number, last).await?;
            self.known.relations.insert(place, bucket);
        }
        Ok(self.known.relations.get_mut(&place))
    }

    fn put_size(&mut self, rel: RelTag, size: u32) {
        self.known.set_size(rel, Some(size));
        self.timeline.sizes.change(rel, self.lsn, Some(size));
        self.put_image(Key::rel_size(rel), &encode_size(size));
    }

    /// Makes the fork exist with no blocks, if it does not.
    pub(super) async fn create_rel(&mut self, rel: RelTag) -> Result<u32, IngestError> {
        if let Some(size) = self.rel_size(rel).await? {
            return Ok(size);
        }
        if !self.known.databases.0.contains_key(&(rel.spc, rel.db)) {
            self.create_database(rel.spc, rel.db, false);
        }
        let bucket = self.bucket(rel).await?.ok_or(IngestError::Stored)?;
        bucket.0.insert((rel.rel, rel.fork));
        let image = bucket.encode();
        self.put_image(Key::rel_dir_of(rel.spc, rel.db, rel.rel), &image);
        self.put_size(rel, 0);
        Ok(0)
    }

    /// Makes sure that `block` is inside the relation; what lies between is zeros, but for blocks to which the record
    /// itself gives a value. Gives whether the relation had to grow.
    pub(super) async fn extend_to(&mut self, rel: RelTag, block: u32, record: &Record<'_>) -> Result<bool, IngestError> {
        let size = match self.known.last_size.filter(|(last, _)| *last == rel) {
            Some((_, size)) => size,
            None => self.create_rel(rel).await?,
        };
        if block < size {
            return Ok(false);
        }
        if block - size > EXTEND_BLOCKS_MAX || block == u32::MAX {
            return Err(IngestError::Extend { lsn: self.start, rel, from: size, to: block });
        }
        for gap in size..block {
            if !record.blocks.iter().any(|other| (other.rel, other.block) == (rel, gap) && !is_inert(record, other)) {
                self.put_image(Key::rel_block(rel, gap), &[]);
            }
        }
        self.put_size(rel, block + 1);
        Ok(true)
    }

    /// Removes every fork of a relation.
    pub(super) async fn drop_relation(&mut self, rel: RelTag) -> Result<(), IngestError> {
        let Some(bucket) = self.bucket(rel).await? else { return Ok(()) };
        let before = bucket.0.len();
        bucket.0.retain(|(number, _)| *number != rel.rel);
        if bucket.0.len() == before {
            return Ok(());
        }
        let image = bucket.encode();
        self.put_directory(Key::rel_dir_of(rel.spc, rel.db, rel.rel), &image);
        for fork in Fork::ALL {
            self.known.set_size(rel.with_fork(fork), None);
            self.timeline.sizes.change(rel.with_fork(fork), self.lsn, None);
        }
        Ok(())
    }

    /// One record may drop several relations of one bucket: the last image holds all of it.
    fn put_directory(&mut self, key: Key, image: &[u8]) {
        self.batch.replace_or_push_image(key, self.lsn, image);
    }

    pub(super) async fn storage(&mut self, record: &Record<'_>) -> Result<(), IngestError> {
        let malformed = |error: MalformedRecord| IngestError::Malformed { lsn: self.start, error };
        match record.header.info & 0xF0 {
            storage::CREATE => {
                let rel = storage::parse_create(record.main).map_err(malformed)?;
                self.create_rel(rel).await.map(|_| ())
            }
            storage::TRUNCATE => {
                let truncate = storage::parse_truncate(record.main).map_err(malformed)?;
                self.truncate(record, truncate).await
            }
            _ => Ok(()),
        }
    }

    async fn truncate(&mut self, record: &Record<'_>, truncate: storage::Truncate) -> Result<(), IngestError> {
        let (rel, blocks) = (truncate.rel, truncate.blocks);
        if truncate.flags & storage::TRUNCATE_HEAP != 0 && self.rel_size(rel).await?.is_some_and(|size| size > blocks) {
            self.put_size(rel, blocks);
        }
        if truncate.flags & storage::TRUNCATE_FSM != 0 {
            self.truncate_fsm(rel.with_fork(Fork::Fsm), blocks).await?;
        }
        if truncate.flags & storage::TRUNCATE_VM != 0 {
            let map = rel.with_fork(Fork::Vm);
            let (page, partial) = (blocks / VM_BLOCKS_PER_PAGE, blocks % VM_BLOCKS_PER_PAGE != 0);
            if let Some(size) = self.rel_size(map).await? {
                if partial && page < size {
                    self.put_record(Key::rel_block(map, page), ValueKind::Record, record, &mut None);
                }
                let keep = page + u32::from(partial);
                if size > keep {
                    self.put_size(map, keep);
                }
            }
        }
        Ok(())
    }

    /// The page with the cut is emptied: the free space map only ever saves a search.
    async fn truncate_fsm(&mut self, map: RelTag, blocks: u32) -> Result<(), IngestError> {
        let Some(size) = self.rel_size(map).await? else { return Ok(()) };
        let page = fsm_leaf_page(blocks / FSM_SLOTS_PER_PAGE);
        let partial = !blocks.is_multiple_of(FSM_SLOTS_PER_PAGE);
        if partial && page < size {
            self.put_image(Key::rel_block(map, page), &[]);
        }
        let keep = page + u32::from(partial);
        if size > keep {
            self.put_size(map, keep);
        }
        Ok(())
    }
}

/// Physical page of the n-th FSM leaf: a page of each of the two upper levels comes before every 4069 of the next.
fn fsm_leaf_page(leaf: u32) -> u32 {
    leaf + leaf / FSM_SLOTS_PER_PAGE + 1 + leaf / FSM_SLOTS_PER_PAGE / FSM_SLOTS_PER_PAGE + 1
}

#[cfg(test)]
mod tests {
    #[test]
    fn fsm_pages() {
        for (leaf, page) in [(0, 2), (1, 3), (4068, 4070), (4069, 4072)] {
            assert_eq!(super::fsm_leaf_page(leaf), page);
        }
    }
}
