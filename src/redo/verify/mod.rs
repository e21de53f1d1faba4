//! The redo oracles over WAL that was made with `wal_consistency_checking=all`: such records carry, next to their data, the
//! image of the page that they leave behind.
//!
//! A ("isolated"): each step starts from the image in the block's previous record, so every (record, block) is a test of its
//! own. An image is taken before its record's LSN is set: the LSN in the next image tells the page LSN after this step.
//! B ("chained"): each block is replayed on our own pages from its first record on and compared at every image; after a
//! difference the chain goes on from the image.
//!
//! In: records in order ([`Verifier::record`]). Out: a [`Report`]. Pure; memory grows with the number of blocks seen, idle
//! ones compressed. Source: reference wal-redo, section 7.

mod cache;
mod report;

pub use report::{Counts, Difference, Report, Row};

use super::apply::apply_decoded;
use super::vm::{self, BLOCKS_PER_PAGE};
use super::{ApplyContext, PageBuf, RedoError, image, rmid};
use crate::pg::mask::mask_page;
use crate::pg::page::{Page, PageBytes};
use crate::pg::version::PgVersion;
use crate::pg::xlog::record::{BlockRef, Record, RecordError};
use crate::types::{Fork, Key, Lsn, PAGE_SIZE, RelTag};
use cache::{Cache, Entry};
use report::{Op, Tally};

/// Runs both oracles.
pub struct Verifier {
    ctx: ApplyContext,
    cache: Cache,
    tally: Tally,
    work: PageBuf,
}

impl Verifier {
    pub fn new(version: PgVersion) -> Verifier {
        Verifier { ctx: ApplyContext::new(version), cache: Cache::default(), tally: Tally::default(), work: PageBuf::new() }
    }

    /// Takes the next record; `end` is its end rounded up to 8.
    ///
    /// Errors: the record does not decode.
    pub fn record(&mut self, end: Lsn, bytes: &[u8]) -> Result<(), RecordError> {
        let record = Record::decode(bytes, self.ctx.version)?;
        let op = (record.header.rmid, record.header.info & 0xF0);
        self.tally.records += 1;
        self.tally.bytes += bytes.len() as u64;
        self.tally.counts('A', op).records += 1;
        for block in &record.blocks {
            let key = Key::rel_block(block.rel, block.block);
            let mut entry = self.cache.take(key);
            self.step(&record, block, end, key, &mut entry);
            self.cache.put(key, entry);
        }
        self.implicit(&record, end);
        self.truncate(&record);
        Ok(())
    }

    pub fn report(self) -> Report {
        self.tally.report(self.ctx.version)
    }

    fn step(&mut self, record: &Record<'_>, block: &BlockRef<'_>, end: Lsn, key: Key, entry: &mut Entry) {
        let op = (record.header.rmid, record.header.info & 0xF0);
        let mut shown: PageBytes = [0; PAGE_SIZE];
        let image = match &block.image {
            Some(image) if !image.apply => match image::restore_image(image, &mut shown) {
                Ok(()) => Some(&shown),
                Err(error) => return self.tally.difference('A', end, op, key, error.to_string()),
            },
            _ => None,
        };
        self.check_lsn(block, image, entry);
        let base = entry.image.take();
        entry.moved = None;
        let base = base.map(|mut base| {
            // The truth about the LSN before this record, so that a step that leaves it alone shows.
            image.into_iter().for_each(|image| base.set_lsn(image.lsn()));
            base
        });
        let isolated = self.apply('A', record, block, end, key, base.as_deref(), image);
        if isolated {
            // Hints and heap VISIBLE move the LSN on the primary in ways that depend on its settings.
            let unknown = op == (rmid::XLOG, 0xA0) || op == (rmid::HEAP2, 0x40) && block.id == 1;
            entry.moved = (!unknown).then(|| (self.work.page().lsn().0, op));
        }
        entry.image = image.map(|image| Box::new(*image)).or_else(|| isolated.then(|| Box::new(*self.work.page())));
        let chain = entry.chain.take();
        let chained = self.apply('B', record, block, end, key, chain.as_deref(), image);
        entry.chain = match (chained, image) {
            (true, _) => Some(Box::new(*self.work.page())),
            (false, image) => image.map(|image| Box::new(*image)),
        };
    }

    /// The LSN that our redo gave the page must be the one in this image.
    fn check_lsn(&mut self, block: &BlockRef<'_>, image: Option<&PageBytes>, entry: &Entry) {
        if let (Some(image), Some((lsn, op)), false) = (image, entry.moved, block.will_init) {
            let counts = self.tally.counts('A', op);
            counts.lsn_compared += 1;
            counts.lsn_differs += u64::from(image.lsn().0 != lsn);
        }
    }

    /// One step of one oracle; true if the result, left in `work`, can be built upon.
    #[expect(clippy::too_many_arguments, reason = "one step is just that")]
    fn apply(
        &mut self,
        oracle: char,
        record: &Record<'_>,
        block: &BlockRef<'_>,
        end: Lsn,
        key: Key,
        base: Option<&PageBytes>,
        image: Option<&PageBytes>,
    ) -> bool {
        let op = (record.header.rmid, record.header.info & 0xF0);
        if oracle == 'B' {
            self.tally.counts('B', op).records += u64::from(block.id == record.blocks.first().map_or(0, |b| b.id));
        }
        if base.is_none() && !block.replaces_page() && block.rel.fork != Fork::Vm {
            self.tally.counts(oracle, op).skipped += 1;
            return false;
        }
        // Maps exist from before the first record (a copied database has its own): what VISIBLE adds can be checked anyway.
        let map = image.filter(|_| base.is_none() && block.rel.fork == Fork::Vm);
        let map = map.map(|image| vm::before_visible(record, image));
        let loaded = self.work.load(key, map.as_ref().or(base).map(|base| &base[..]));
        let applied = loaded.and_then(|()| apply_decoded(&self.ctx, key, &mut self.work, end, record));
        match applied {
            Err(RedoError::Unhandled { .. }) => {
                self.tally.counts(oracle, op).unhandled += 1;
                return false;
            }
            Err(error) => {
                self.tally.difference(oracle, end, op, key, error.to_string());
                return false;
            }
            Ok(()) => {}
        }
        let Some(image) = image else {
            let counts = self.tally.counts(oracle, op);
            match block.image.is_some() {
                true => counts.restored += 1,
                false => counts.skipped += 1,
            }
            return true;
        };
        self.tally.counts(oracle, op).compared += 1;
        match first_difference(op.0, block, self.work.page(), image) {
            None => true,
            Some(at) => {
                let (ours, theirs) = (self.work.page()[at], image[at]);
                self.tally.difference(oracle, end, op, key, format!("byte {at} is {ours:02X}, should be {theirs:02X}"));
                false
            }
        }
    }

    /// Clears visibility bits that the record clears without naming their page.
    fn implicit(&mut self, record: &Record<'_>, end: Lsn) {
        let op = (record.header.rmid, record.header.info & 0xF0);
        let blocks = match vm::cleared_blocks(record) {
            Ok(blocks) => blocks,
            Err(error) => return self.tally.difference('A', end, op, Key::MIN, error.to_string()),
        };
        for (rel, block) in blocks {
            self.change_map(record, end, op, rel, block);
        }
    }

    fn change_map(&mut self, record: &Record<'_>, end: Lsn, op: Op, rel: RelTag, block: u32) {
        let key = Key::rel_block(rel, block);
        let mut entry = self.cache.take(key);
        for (oracle, page) in [('A', &mut entry.image), ('B', &mut entry.chain)] {
            if let Some(page) = page
                && let Err(error) = vm::implicit(&self.ctx, record, rel, block, page)
            {
                self.tally.difference(oracle, end, op, key, error.to_string());
            }
        }
        self.cache.put(key, entry);
    }

    /// Storage TRUNCATE: forgets what is cut off.
    fn truncate(&mut self, record: &Record<'_>) {
        const TRUNCATE: u8 = 0x20;
        if (record.header.rmid, record.header.info & 0xF0) != (rmid::SMGR, TRUNCATE) {
            return;
        }
        let word = |i: usize| record.main.get(4 * i..).and_then(|b| b.first_chunk::<4>()).map(|b| u32::from_le_bytes(*b));
        let (Some(first), Some(spc), Some(db), Some(number)) = (word(0), word(1), word(2), word(3)) else { return };
        let heap = RelTag { spc, db, rel: number, fork: Fork::Main };
        self.cache.forget(Key::rel_block(heap, first), Key::rel_size(heap));
        let map = heap.with_fork(Fork::Vm);
        if vm::truncates(record, map) {
            let keep = first % BLOCKS_PER_PAGE != 0;
            if keep {
                self.change_map(record, Lsn::INVALID, (rmid::SMGR, TRUNCATE), map, first / BLOCKS_PER_PAGE);
            }
            self.cache.forget(Key::rel_block(map, first / BLOCKS_PER_PAGE + u32::from(keep)), Key::rel_size(map));
        }
        let free_space = heap.with_fork(Fork::Fsm);
        self.cache.forget(Key::rel_block(free_space, 0), Key::rel_size(free_space));
    }
}

/// Where two pages differ after masking.
fn first_difference(rmgr: u8, block: &BlockRef<'_>, ours: &PageBytes, theirs: &PageBytes) -> Option<usize> {
    let (mut ours, mut theirs) = (*ours, *theirs);
    mask_page(rmgr, block.rel.fork, block.block, &mut ours);
    mask_page(rmgr, block.rel.fork, block.block, &mut theirs);
    if ours == theirs {
        return None;
    }
    ours.iter().zip(&theirs).position(|(a, b)| a != b)
}
