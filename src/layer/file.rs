//! Reads a layer file: finds the versions of a key through the index, block by block.

use super::cache::BlockCache;
use super::format::FormatError;
use super::format::block::{BLOCK_HEADER, BlockDecoder, BlockKind, RAW_LEN_MAX};
use super::format::footer::{FOOTER, Footer};
use super::format::index::{self, Run, TopEntry};
use super::name::LayerName;
use super::writer::VALUE_HEADER;
use super::{Reconstruct, ValueKind};
use crate::io_abstraction::disk::{Disk, DiskFile, FileOps as _, OpenMode};
use crate::types::{Key, Lsn};
use bytes::Bytes;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Why a layer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("layer {name} is damaged: {error}")]
    Damaged { name: String, error: FormatError },
    #[error("read layer {name}: {error}")]
    Io { name: String, error: io::Error },
}

impl LayerError {
    /// A fresh copy from remote storage may mend it.
    pub fn is_damage(&self) -> bool {
        match self {
            LayerError::Damaged { .. } => true,
            LayerError::Io { error, .. } => {
                matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound) || error.raw_os_error() == Some(5)
            }
        }
    }
}

/// An open layer file.
#[derive(Debug)]
pub struct LayerFile {
    file: DiskFile,
    /// Number in the block cache.
    number: u64,
    name: LayerName,
    pub(super) top: Vec<u8>,
    pub value_count: u64,
}

impl LayerFile {
    /// Opens a file and reads its footer and top index.
    pub fn open(disk: &dyn Disk, directory: &Path, name: &LayerName, cache: &BlockCache) -> Result<LayerFile, LayerError> {
        let io_error = |error| LayerError::Io { name: name.to_string(), error };
        let damaged = |error| LayerError::Damaged { name: name.to_string(), error };
        let file = disk.open(&directory.join(name.to_string()), OpenMode::Read).map_err(io_error)?;
        let len = file.len().map_err(io_error)?;
        let footer_at = len.checked_sub(FOOTER as u64).ok_or_else(|| damaged(FormatError::Footer("the file is too short")))?;
        let mut bytes = [0; FOOTER];
        file.read_exact_at(footer_at, &mut bytes).map_err(io_error)?;
        let footer = Footer::decode(&bytes).map_err(damaged)?;
        if footer.name != *name {
            return Err(damaged(FormatError::Footer("the file is another layer than its name says")));
        }
        let mut layer =
            LayerFile { file, number: cache.file_number(), name: name.clone(), top: Vec::new(), value_count: footer.value_count };
        layer.top = cache.with_decoder(|decoder| layer.read_block(decoder, BlockKind::Top, footer.top_offset, footer.top_len))?;
        Ok(layer)
    }

    pub fn name(&self) -> &LayerName {
        &self.name
    }

    pub(super) fn damaged(&self, error: FormatError) -> LayerError {
        LayerError::Damaged { name: self.name.to_string(), error }
    }

    pub(super) fn read_block(&self, decoder: &mut BlockDecoder, kind: BlockKind, offset: u64, len: u32) -> Result<Vec<u8>, LayerError> {
        if (len as usize) < BLOCK_HEADER || len as usize > RAW_LEN_MAX {
            return Err(self.damaged(FormatError::Block { offset, what: "has an impossible length" }));
        }
        let mut bytes = decoder.lend_input(len as usize);
        let read = self.file.read_exact_at(offset, &mut bytes);
        let raw = read
            .map_err(|error| LayerError::Io { name: self.name.to_string(), error })
            .and_then(|()| decoder.decode(kind, offset, &bytes).map_err(|e| self.damaged(e)));
        decoder.give_back(bytes);
        raw
    }

    fn cached_block(&self, cache: &BlockCache, kind: BlockKind, offset: u64, len: u32) -> Result<Bytes, LayerError> {
        if let Some(block) = cache.get(self.number, offset) {
            return Ok(block);
        }
        let block: Bytes = cache.with_decoder(|decoder| self.read_block(decoder, kind, offset, len))?.into();
        cache.insert(self.number, offset, block.clone());
        Ok(block)
    }

    fn index_block(&self, cache: &BlockCache, top: TopEntry) -> Result<Bytes, LayerError> {
        self.cached_block(cache, BlockKind::Index, top.offset, top.len)
    }

    /// Visits the runs of `key` from the newest that starts at or below `lsn` to older ones, until `visit` gives false.
    fn visit_runs(
        &self,
        cache: &BlockCache,
        key: Key,
        lsn: Lsn,
        mut visit: impl FnMut(Run) -> Result<bool, LayerError>,
    ) -> Result<(), LayerError> {
        let Some(newest) = index::find_top(&self.top, key, lsn) else { return Ok(()) };
        for position in (0..=newest).rev() {
            let Some(top) = index::top_at(&self.top, position) else { return Ok(()) };
            let raw = self.index_block(cache, top)?;
            let Some(start) = index::find_run(&raw, key, lsn) else { continue };
            for at in (0..=start).rev() {
                match index::run_at(&raw, at) {
                    Some(run) if run.key == key => {
                        if !visit(run)? {
                            return Ok(());
                        }
                    }
                    _ => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Collects the versions of `key` within `lsns`, newest first, until a base.
    pub fn collect(&self, cache: &BlockCache, key: Key, lsns: &Range<Lsn>, into: &mut Reconstruct) -> Result<(), LayerError> {
        let Some(newest) = lsns.end.0.checked_sub(1) else { return Ok(()) };
        let mut touched = false;
        self.visit_runs(cache, key, Lsn(newest), |run| {
            touched = true;
            let raw = self.cached_block(cache, BlockKind::Data, run.block_offset, run.block_len)?;
            let values = parse_run(&raw, run.position, run.count)
                .ok_or_else(|| self.damaged(FormatError::Block { offset: run.block_offset, what: "its values do not add up" }))?;
            for (lsn, kind, range) in values.into_iter().rev() {
                if lsn < lsns.start || (lsn < lsns.end && into.push_shared(lsn, kind, &raw, range)) {
                    return Ok(false);
                }
            }
            Ok(run.lsn_first > lsns.start)
        })?;
        into.layers_visited += u32::from(touched);
        Ok(())
    }

    /// How many records a reader of the newest version of `key` replays; `None` if the layer has no version of it.
    pub fn depth(&self, cache: &BlockCache, key: Key) -> Result<Option<u32>, LayerError> {
        let mut depth = None;
        self.visit_runs(cache, key, Lsn::MAX, |run| {
            depth = Some(run.depth);
            Ok(false)
        })?;
        Ok(depth)
    }

    /// Every value of the layer in order, for checks of the whole file.
    pub fn scan(&self, mut visit: impl FnMut(Key, Lsn, ValueKind, &[u8])) -> Result<(), LayerError> {
        let mut decoder = BlockDecoder::new();
        for position in 0..index::top_count(&self.top) {
            let Some(top) = index::top_at(&self.top, position) else { break };
            let runs = self.read_block(&mut decoder, BlockKind::Index, top.offset, top.len)?;
            let mut last: Option<(u64, Vec<u8>)> = None;
            for run in (0..index::run_count(&runs)).filter_map(|i| index::run_at(&runs, i)) {
                if last.as_ref().is_none_or(|(offset, _)| *offset != run.block_offset) {
                    last = Some((run.block_offset, self.read_block(&mut decoder, BlockKind::Data, run.block_offset, run.block_len)?));
                }
                let Some((_, raw)) = &last else { continue };
                let values = parse_run(raw, run.position, run.count)
                    .ok_or_else(|| self.damaged(FormatError::Block { offset: run.block_offset, what: "its values do not add up" }))?;
                values.into_iter().for_each(|(lsn, kind, range)| visit(run.key, lsn, kind, &raw[range]));
            }
        }
        Ok(())
    }
}

/// Takes a run apart into values and where their bytes lie; `None` if it does not fit its block.
pub(super) fn parse_run(raw: &[u8], position: u32, count: u32) -> Option<Vec<(Lsn, ValueKind, Range<usize>)>> {
    let mut at = position as usize;
    let mut values = Vec::with_capacity((count as usize).min(raw.len() / VALUE_HEADER));
    for _ in 0..count {
        let header = raw.get(at..)?.first_chunk::<VALUE_HEADER>()?;
        let lsn = Lsn(u64::from_be_bytes(*header.first_chunk::<8>()?));
        let start = at + VALUE_HEADER;
        at = start.checked_add(u32::from_be_bytes(*header.last_chunk::<4>()?) as usize)?;
        if at > raw.len() {
            return None;
        }
        values.push((lsn, ValueKind::from_number(header[8])?, start..at));
    }
    Some(values)
}
