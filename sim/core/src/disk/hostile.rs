//! A device that is not honest: it reads or writes another place than it was told, or says that it synced and did not.
//!
//! A place is missed by whole sectors, within the file, and by no more than [`DISTANCE`] of them. Nobody can survive such a
//! device; whoever keeps checksums can notice.

use super::inode::SECTOR;
use super::{SimDisk, State};
use palimpsest::io_abstraction::rng::below;
use std::collections::BTreeMap;

/// Sectors by which a place is missed at most.
const DISTANCE: u64 = 64;

impl SimDisk {
    /// How often the device was not honest, by what it did.
    pub fn dishonest(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().dishonest.clone()
    }
}

impl State {
    /// Where a read of `len` bytes goes instead; `None`: where it should.
    pub(super) fn misdirected_read(&mut self, path: &str, file_len: u64, offset: u64, len: u64) -> Option<u64> {
        self.misdirected(self.faults.misdirected_read_ppm, "misdirected-read", path, (file_len, offset, len))
    }

    /// As [`State::misdirected_read`]. The place stays within what the file has already.
    pub(super) fn misdirected_write(&mut self, path: &str, file_len: u64, offset: u64, len: u64) -> Option<u64> {
        self.misdirected(self.faults.misdirected_write_ppm, "misdirected-write", path, (file_len, offset, len))
    }

    /// A sync is answered and not done.
    pub(super) fn lies(&mut self, path: &str) -> bool {
        let lies = self.fails(self.faults.lying_sync_ppm, path);
        if lies {
            self.note("sync-lied");
        }
        lies
    }

    fn misdirected(&mut self, ppm: u32, what: &'static str, path: &str, (file_len, offset, len): (u64, u64, u64)) -> Option<u64> {
        let lowest = offset.saturating_sub(DISTANCE * SECTOR).next_multiple_of(SECTOR) + offset % SECTOR;
        let highest = file_len.checked_sub(len)?.min(offset + DISTANCE * SECTOR);
        if len == 0 || highest < lowest || !self.fails(ppm, path) {
            return None;
        }
        let elsewhere = lowest + below(&mut self.rng, (highest - lowest) / SECTOR + 1) * SECTOR;
        (elsewhere != offset).then(|| {
            self.note(what);
            elsewhere
        })
    }

    fn note(&mut self, what: &'static str) {
        *self.dishonest.entry(what).or_default() += 1;
    }
}
