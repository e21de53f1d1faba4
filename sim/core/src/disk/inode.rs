//! A file's bytes: what programs see, and what a crash would leave.
//!
//! The live image is a sparse map of 4 KiB chunks. The durable image is stored as the difference to it: for each sector
//! that may not have reached the medium its old content. So writing costs O(bytes written), syncing O(bytes written since
//! the last sync), and neither depends on the size of the file.

use std::collections::BTreeMap;

use palimpsest::io_abstraction::DetRng;
use palimpsest::io_abstraction::rng::below;

pub const SECTOR: u64 = 512;
const CHUNK: u64 = 4096;

/// A sector as it is on the medium; `None` is all zeros.
type Old = Option<Box<[u8; SECTOR as usize]>>;

#[derive(Default)]
pub struct Inode {
    chunks: BTreeMap<u64, Box<[u8; CHUNK as usize]>>,
    len: u64,
    durable_len: u64,
    /// Sectors written since the last sync, each with the content the medium has.
    dirty: BTreeMap<u64, Old>,
    /// Sectors whose write-back failed: still readable, never written again, gone at a crash.
    lost: BTreeMap<u64, Old>,
}

/// What a power loss did to one file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrashEffect {
    pub kept_sectors: u64,
    pub lost_sectors: u64,
}

impl Inode {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let end = self.len.min(offset.saturating_add(buf.len() as u64));
        if offset >= end {
            return 0;
        }
        let total = (end - offset) as usize;
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            let within = (at % CHUNK) as usize;
            let n = (CHUNK as usize - within).min(total - done);
            match self.chunks.get(&(at / CHUNK)) {
                Some(chunk) => buf[done..done + n].copy_from_slice(&chunk[within..within + n]),
                None => buf[done..done + n].fill(0),
            }
            done += n;
        }
        total
    }

    pub fn write(&mut self, offset: u64, buf: &[u8]) {
        if buf.is_empty() {
            return;
        }
        let end = offset + buf.len() as u64;
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            self.remember(sector);
        }
        self.put(offset, buf);
        self.len = self.len.max(end);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            // Only sectors with content can change by being cut off.
            let touched: Vec<u64> = self.chunks.range(len / CHUNK..).map(|(&c, _)| c).collect();
            for chunk in touched {
                let first = (chunk * CHUNK).max(len) / SECTOR;
                for sector in first..(chunk + 1) * (CHUNK / SECTOR) {
                    self.remember(sector);
                }
                if chunk * CHUNK >= len {
                    self.chunks.remove(&chunk);
                } else if let Some(bytes) = self.chunks.get_mut(&chunk) {
                    bytes[(len - chunk * CHUNK) as usize..].fill(0);
                }
            }
        }
        self.len = len;
    }

    /// The medium changes a bit by itself.
    pub fn flip(&mut self, offset: u64, bit: u32) {
        let mut byte = [0];
        if self.read(offset, &mut byte) == 1 {
            self.put(offset, &[byte[0] ^ (1 << bit)]);
        }
    }

    /// Everything written so far is on the medium, except what an earlier failure lost.
    pub fn sync(&mut self) {
        self.dirty.clear();
        self.durable_len = self.len;
    }

    /// The write-back failed: the kernel marks the pages clean, so that no later sync writes them.
    pub fn fail_sync(&mut self) {
        for (sector, old) in std::mem::take(&mut self.dirty) {
            self.lost.entry(sector).or_insert(old);
        }
    }

    /// Power loss: each unsynced sector survives or not, on its own; so does a changed length.
    pub fn crash(&mut self, rng: &mut DetRng) -> CrashEffect {
        let mut effect = CrashEffect::default();
        let len = if self.len == self.durable_len || below(rng, 2) == 0 { self.durable_len } else { self.len };
        let mut restore = std::mem::take(&mut self.lost);
        effect.lost_sectors += restore.len() as u64;
        for (sector, old) in std::mem::take(&mut self.dirty) {
            if below(rng, 2) == 0 {
                effect.lost_sectors += 1;
                restore.insert(sector, old);
            } else {
                effect.kept_sectors += 1;
            }
        }
        for (sector, old) in restore {
            let zeros = [0; SECTOR as usize];
            self.put(sector * SECTOR, old.as_deref().unwrap_or(&zeros));
        }
        self.len = self.len.max(len);
        self.set_len(len);
        self.dirty.clear();
        self.durable_len = len;
        effect
    }

    /// Notes the content a sector has on the medium, before it changes in memory.
    fn remember(&mut self, sector: u64) {
        if self.dirty.contains_key(&sector) {
            return;
        }
        // A page that is written again is dirty again, as a whole.
        let old = self.lost.remove(&sector).unwrap_or_else(|| self.sector(sector));
        self.dirty.insert(sector, old);
    }

    fn sector(&self, sector: u64) -> Old {
        let at = sector * SECTOR;
        let chunk = self.chunks.get(&(at / CHUNK))?;
        let within = (at % CHUNK) as usize;
        let mut bytes = Box::new([0; SECTOR as usize]);
        bytes.copy_from_slice(&chunk[within..within + SECTOR as usize]);
        Some(bytes)
    }

    fn put(&mut self, offset: u64, buf: &[u8]) {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let within = (at % CHUNK) as usize;
            let n = (CHUNK as usize - within).min(buf.len() - done);
            let chunk = self.chunks.entry(at / CHUNK).or_insert_with(|| Box::new([0; CHUNK as usize]));
            chunk[within..within + n].copy_from_slice(&buf[done..done + n]);
            done += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palimpsest::io_abstraction::RngSource;

    fn rng(seed: u128) -> DetRng {
        RngSource::new(seed).stream("crash")
    }

    fn all(inode: &Inode) -> Vec<u8> {
        let mut bytes = vec![9; inode.len() as usize];
        assert_eq!(inode.read(0, &mut bytes), bytes.len());
        bytes
    }

    #[test]
    fn synced_bytes_survive_and_others_survive_sector_by_sector() {
        let mut mixed = 0;
        for seed in 0..50 {
            let mut inode = Inode::default();
            inode.write(0, &[1; 4096]);
            inode.sync();
            inode.write(0, &[2; 4096]);
            inode.crash(&mut rng(seed));
            let bytes = all(&inode);
            assert_eq!(bytes.len(), 4096);
            let kept = bytes.chunks(512).filter(|s| s.iter().all(|b| *b == 2)).count();
            let old = bytes.chunks(512).filter(|s| s.iter().all(|b| *b == 1)).count();
            assert_eq!(kept + old, 8, "a sector is old or new as a whole");
            mixed += usize::from(kept > 0 && old > 0);
        }
        assert!(mixed > 40, "torn writes must be common: {mixed}");
    }

    #[test]
    fn a_new_length_may_survive_with_zeros_behind_it() {
        let mut seen = [0; 2];
        for seed in 0..50 {
            let mut inode = Inode::default();
            inode.write(0, &[1; 100]);
            inode.sync();
            inode.write(100, &[2; 2000]);
            inode.crash(&mut rng(seed));
            let bytes = all(&inode);
            assert_eq!(bytes[..100], [1; 100]);
            match bytes.len() {
                100 => seen[0] += 1,
                2100 => seen[1] += 1,
                other => panic!("length {other}"),
            }
            assert!(bytes[100..].iter().all(|b| *b == 0 || *b == 2));
        }
        assert!(seen[0] > 5 && seen[1] > 5, "{seen:?}");
    }

    #[test]
    fn a_failed_sync_loses_the_pages_for_good() {
        let mut inode = Inode::default();
        inode.write(0, &[1; 1024]);
        inode.sync();
        inode.write(0, &[2; 1024]);
        inode.fail_sync();
        inode.sync();
        assert_eq!(all(&inode), [2; 1024]);
        inode.write(512, &[3; 512]);
        inode.sync();
        inode.crash(&mut rng(1));
        assert_eq!(all(&inode)[..512], [1; 512], "a later sync does not bring it back");
        assert_eq!(all(&inode)[512..], [3; 512], "unless it was written again");
    }

    #[test]
    fn a_flipped_bit_survives_a_crash() {
        let mut inode = Inode::default();
        inode.write(0, &[1; 1024]);
        inode.sync();
        inode.flip(600, 1);
        inode.crash(&mut rng(1));
        let different: Vec<usize> = all(&inode).iter().enumerate().filter(|(_, b)| **b != 1).map(|(at, _)| at).collect();
        assert_eq!((different, all(&inode)[600]), (vec![600], 3));
    }

    #[test]
    fn cutting_off_and_growing_again_reads_zeros() {
        let mut inode = Inode::default();
        inode.write(0, &[7; 10_000]);
        inode.sync();
        inode.set_len(3);
        inode.set_len(9000);
        let bytes = all(&inode);
        assert_eq!(bytes[..3], [7; 3]);
        assert!(bytes[3..].iter().all(|b| *b == 0));
        inode.sync();
        inode.crash(&mut rng(1));
        assert_eq!(all(&inode), bytes);
    }
}
