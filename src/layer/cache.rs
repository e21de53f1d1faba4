//! Unpacked blocks of layer files, least recently used ones dropped first. Shared by all timelines of a node.

use super::format::block::BlockDecoder;
use crate::io_abstraction::Probe;
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// (number of the open file, offset of the block)
type BlockId = (u64, u64);

struct Shard {
    blocks: LruCache<BlockId, Bytes, FxBuildHasher>,
    bytes: usize,
}

/// A bounded cache. Lookups lock one of several shards.
pub struct BlockCache {
    probe: Arc<dyn Probe>,
    shards: Vec<Mutex<Shard>>,
    shard_bytes_max: usize,
    next_file: AtomicU64,
    /// Decoders that nobody uses now.
    decoders: Mutex<Vec<BlockDecoder>>,
}

const SHARDS: usize = 16;
/// What an entry costs besides its bytes.
const OVERHEAD_BYTES: usize = 96;
/// Decoders kept for the next readers; each holds some 100 KiB.
const DECODERS_MAX: usize = 16;

impl BlockCache {
    pub fn new(bytes_max: usize, probe: Arc<dyn Probe>) -> BlockCache {
        let shard = || Mutex::new(Shard { blocks: LruCache::unbounded_with_hasher(FxBuildHasher), bytes: 0 });
        BlockCache {
            probe,
            shards: (0..SHARDS).map(|_| shard()).collect(),
            shard_bytes_max: bytes_max / SHARDS,
            next_file: AtomicU64::new(1),
            decoders: Mutex::default(),
        }
    }

    /// A number for a newly opened file; never given twice.
    pub fn file_number(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, id: BlockId) -> &Mutex<Shard> {
        let mixed = (id.0 ^ id.1.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.shards[(mixed >> 60) as usize % SHARDS]
    }

    pub fn get(&self, file: u64, offset: u64) -> Option<Bytes> {
        self.shard((file, offset)).lock().blocks.get(&(file, offset)).cloned()
    }

    pub fn insert(&self, file: u64, offset: u64, block: Bytes) {
        if crate::buggify!(self, "block-not-kept") {
            return;
        }
        let id = (file, offset);
        let mut shard = self.shard(id).lock();
        shard.bytes += block.len() + OVERHEAD_BYTES;
        if let Some((_, old)) = shard.blocks.push(id, block) {
            shard.bytes -= old.len() + OVERHEAD_BYTES;
        }
        while shard.bytes > self.shard_bytes_max {
            let Some((_, old)) = shard.blocks.pop_lru() else { break };
            shard.bytes -= old.len() + OVERHEAD_BYTES;
        }
    }

    /// Lends a decoder.
    pub fn with_decoder<T>(&self, work: impl FnOnce(&mut BlockDecoder) -> T) -> T {
        let idle = self.decoders.lock().pop();
        let mut decoder = idle.unwrap_or_default();
        decoder.ignores_checksums = crate::planted!(self, "checksum-ignored");
        let result = work(&mut decoder);
        let mut decoders = self.decoders.lock();
        if decoders.len() < DECODERS_MAX {
            decoders.push(decoder);
        }
        result
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|s| s.lock().bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_bound() {
        let cache = BlockCache::new(SHARDS * 10_000, Arc::new(crate::io_abstraction::probe::NoProbe));
        for i in 0..10_000 {
            cache.insert(1, i * 8192, vec![0; 1000].into());
            cache.insert(1, i * 8192, vec![0; 1000].into());
            assert!(cache.get(1, i * 8192).is_some());
        }
        assert!(cache.bytes() <= SHARDS * 10_000);
        assert!(cache.get(1, 0).is_none());
        assert_ne!(cache.file_number(), cache.file_number());
    }
}
