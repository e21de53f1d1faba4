//! Reads a whole layer in order, block by block: memory is one index block and one data block, whatever the layer's size.

use super::ValueKind;
use super::cache::BlockCache;
use super::file::{LayerError, LayerFile, parse_run};
use super::format::FormatError;
use super::format::block::BlockKind;
use super::format::index::{self, Run};
use crate::types::{Key, Lsn};
use std::ops::Range;
use std::sync::Arc;

/// One version, where a [`Scan`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version<'a> {
    pub key: Key,
    pub lsn: Lsn,
    pub kind: ValueKind,
    pub value: &'a [u8],
    /// Records that a reader of this version replays, older layers included. `None` for records that follow no version of this
    /// layer and stand under a base in their run: the layer does not say it, and nobody asks, for they are not the newest.
    pub depth: Option<u32>,
}

/// Stands at one version after the other, in (key, LSN) order.
pub struct Scan {
    file: Arc<LayerFile>,
    /// Number of the index block after the one in `runs`.
    next_index: usize,
    /// The raw index block, and the place of the run after the current one.
    runs: Vec<u8>,
    next_run: usize,
    run: Option<Run>,
    /// The raw data block of the current run.
    block: Vec<u8>,
    block_offset: Option<u64>,
    /// The versions of the current run, with their depths, and which of them is the current one.
    values: Vec<(Lsn, ValueKind, Range<usize>)>,
    depths: Vec<Option<u32>>,
    at: usize,
    last: Option<(Key, Lsn)>,
}

impl Scan {
    /// Stands at the first version.
    pub fn start(file: Arc<LayerFile>, cache: &BlockCache) -> Result<Scan, LayerError> {
        let mut scan = Scan {
            file,
            next_index: 0,
            runs: Vec::new(),
            next_run: 0,
            run: None,
            block: Vec::new(),
            block_offset: None,
            values: Vec::new(),
            depths: Vec::new(),
            at: 0,
            last: None,
        };
        scan.load_run(cache)?;
        Ok(scan)
    }

    /// `None` at the end.
    pub fn current(&self) -> Option<Version<'_>> {
        let run = self.run.as_ref()?;
        let (lsn, kind, range) = self.values.get(self.at)?;
        let depth = self.depths.get(self.at).copied().flatten();
        Some(Version { key: run.key, lsn: *lsn, kind: *kind, value: self.block.get(range.clone())?, depth })
    }

    pub fn key(&self) -> Option<Key> {
        self.run.as_ref().map(|run| run.key)
    }

    /// Goes to the next version.
    ///
    /// Errors: the file cannot be read, or does not hold what its index and its name say.
    pub fn advance(&mut self, cache: &BlockCache) -> Result<(), LayerError> {
        self.at += 1;
        if self.at >= self.values.len() { self.load_run(cache) } else { Ok(()) }
    }

    /// About how many bytes the versions of the current key take from here on. Looks into the index only.
    pub fn key_bytes(&self, cache: &BlockCache) -> Result<u64, LayerError> {
        let Some(run) = self.run else { return Ok(0) };
        let mut bytes = self.values.iter().skip(self.at).map(|(_, _, range)| range.len() as u64).sum();
        let mut last_block = run.block_offset;
        let mut count = |raw: &[u8], from: usize| {
            let runs = (from..index::run_count(raw)).map_while(|at| index::run_at(raw, at));
            for next in runs.take_while(|next| next.key == run.key) {
                if next.block_offset != last_block {
                    bytes += u64::from(next.block_len);
                    last_block = next.block_offset;
                }
            }
        };
        count(&self.runs, self.next_run);
        for at in self.next_index.. {
            let Some(top) = index::top_at(&self.file.top, at).filter(|top| top.key == run.key) else { break };
            count(&cache.with_decoder(|decoder| self.file.read_block(decoder, BlockKind::Index, top.offset, top.len))?, 0);
        }
        Ok(bytes)
    }

    /// Stands at the first version of the next run.
    fn load_run(&mut self, cache: &BlockCache) -> Result<(), LayerError> {
        self.run = None;
        self.at = 0;
        self.values.clear();
        while self.next_run >= index::run_count(&self.runs) {
            let Some(top) = index::top_at(&self.file.top, self.next_index) else { return Ok(()) };
            self.runs = cache.with_decoder(|decoder| self.file.read_block(decoder, BlockKind::Index, top.offset, top.len))?;
            (self.next_index, self.next_run) = (self.next_index + 1, 0);
        }
        let Some(run) = index::run_at(&self.runs, self.next_run) else { return Ok(()) };
        self.next_run += 1;
        if self.block_offset != Some(run.block_offset) {
            let read = |decoder: &mut _| self.file.read_block(decoder, BlockKind::Data, run.block_offset, run.block_len);
            self.block = cache.with_decoder(read)?;
            self.block_offset = Some(run.block_offset);
        }
        let values = parse_run(&self.block, run.position, run.count);
        self.values = values
            .filter(|values| self.is_sound(&run, values))
            .ok_or_else(|| self.file.damaged(FormatError::Block { offset: run.block_offset, what: "its values do not add up" }))?;
        self.depths = depths(&self.values, run.depth);
        self.last = Some((run.key, run.lsn_last));
        self.run = Some(run);
        Ok(())
    }

    /// Whether a run is what its entry says, behind the one before it, and within the layer's ranges.
    fn is_sound(&self, run: &Run, values: &[(Lsn, ValueKind, Range<usize>)]) -> bool {
        let name = self.file.name();
        let ascending = values.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let ends = values.first().zip(values.last()).is_some_and(|(first, last)| first.0 == run.lsn_first && last.0 == run.lsn_last);
        let behind = self.last.is_none_or(|last| last < (run.key, run.lsn_first));
        let within = name.keys.contains(&run.key) && name.lsns.contains(&run.lsn_first) && name.lsns.contains(&run.lsn_last);
        ascending && ends && behind && within
    }
}

/// Depths of the versions of a run, from that of its newest one down to the first base under it.
fn depths(values: &[(Lsn, ValueKind, Range<usize>)], newest: u32) -> Vec<Option<u32>> {
    let mut depth = Some(newest);
    let mut depths: Vec<Option<u32>> = Vec::with_capacity(values.len());
    for (_, kind, _) in values.iter().rev() {
        let known = match kind {
            ValueKind::Image => Some(0),
            ValueKind::InitRecord => Some(1),
            ValueKind::Record => depth,
        };
        depths.push(known);
        depth = if kind.is_base() { None } else { known.map(|depth| depth.saturating_sub(1)) };
    }
    depths.reverse();
    depths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_come_from_the_newest_version() {
        use ValueKind::{Image, InitRecord, Record};
        for (kinds, newest, want) in [
            (vec![Record, Record], 7, vec![Some(6), Some(7)]),
            (vec![Record, Image, Record], 1, vec![None, Some(0), Some(1)]),
            (vec![InitRecord, Record], 2, vec![Some(1), Some(2)]),
            (vec![Record, Record], 0, vec![Some(0), Some(0)]),
        ] {
            let values: Vec<_> = kinds.iter().map(|kind| (Lsn(0), *kind, 0..0)).collect();
            assert_eq!(depths(&values, newest), want, "{kinds:?}");
        }
    }
}
