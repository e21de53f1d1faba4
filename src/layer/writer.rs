//! Writes a layer file: values in (key, LSN) order in, one durable file out. Streams; memory is one block and the index.

use super::ValueKind;
use super::format::block::{BlockEncoder, BlockKind};
use super::format::footer::Footer;
use super::format::index::{RUN_ENTRY, Run, TopEntry};
use super::name::{LayerKind, LayerName};
use crate::io_abstraction::disk::{Disk, DiskFile, FileOps as _, OpenMode, TEMPORARY_SUFFIX};
use crate::types::{Key, Lsn};
use std::io;
use std::path::{Path, PathBuf};

/// Raw size at which a data block of a delta is closed.
const DELTA_BLOCK_BYTES: usize = 32 << 10;
/// Raw size at which a data block of an image layer is closed: one page, so that a point read unpacks nothing else.
const IMAGE_BLOCK_BYTES: usize = 8 << 10;
/// Runs in one index block.
const INDEX_BLOCK_RUNS: usize = 512;
/// Output is handed to the file in pieces of this size.
const WRITE_BYTES: usize = 1 << 20;

/// One value in a raw data block: LSN u64, kind u8, length u32 (big-endian), bytes.
pub(super) const VALUE_HEADER: usize = 13;

/// What came of a finished layer.
#[derive(Debug, Clone)]
pub struct FinishedLayer {
    pub name: LayerName,
    pub file_size: u64,
    pub value_count: u64,
}

pub struct LayerWriter {
    directory: PathBuf,
    temporary: PathBuf,
    file: DiskFile,
    kind: LayerKind,
    encoder: BlockEncoder,
    out: Vec<u8>,
    written: u64,
    block: Vec<u8>,
    /// Runs whose data block is still open: `block_offset` and `block_len` are not known yet.
    open_runs: Vec<Run>,
    runs: Vec<u8>,
    last: Option<(Key, Lsn)>,
    first_key: Option<Key>,
    value_count: u64,
    value_bytes: u64,
}

impl LayerWriter {
    /// Starts a file in `directory` under a temporary name that `unique` makes its own.
    pub fn create(disk: &dyn Disk, directory: &Path, kind: LayerKind, unique: u64) -> io::Result<LayerWriter> {
        let temporary = directory.join(format!("layer-{unique:016x}{TEMPORARY_SUFFIX}"));
        let file = disk.open(&temporary, OpenMode::CreateTruncate)?;
        Ok(LayerWriter {
            directory: directory.to_path_buf(),
            temporary,
            file,
            kind,
            encoder: BlockEncoder::new(),
            out: Vec::new(),
            written: 0,
            block: Vec::new(),
            open_runs: Vec::new(),
            runs: Vec::new(),
            last: None,
            first_key: None,
            value_count: 0,
            value_bytes: 0,
        })
    }

    /// Appends a value. `depth` is how many records a reader of this version replays, older layers included.
    ///
    /// Panics: values out of order, which would make a layer that hides data.
    pub fn put(&mut self, key: Key, lsn: Lsn, kind: ValueKind, value: &[u8], depth: u32) -> io::Result<()> {
        let in_order = self.last.is_none_or(|last| last < (key, lsn));
        assert!(in_order, "layer values out of order: {key:?}@{lsn} after {:?}", self.last);
        let target = if self.kind == LayerKind::Delta { DELTA_BLOCK_BYTES } else { IMAGE_BLOCK_BYTES };
        if !self.block.is_empty() && self.block.len() + VALUE_HEADER + value.len() > target + VALUE_HEADER {
            self.close_block()?;
        }
        let same_run = self.last.is_some_and(|(last, _)| last == key);
        match self.open_runs.last_mut().filter(|_| same_run) {
            Some(run) => {
                run.lsn_last = lsn;
                run.count += 1;
                run.depth = depth;
            }
            None => {
                let position = self.block.len() as u32;
                self.open_runs.push(Run { key, lsn_first: lsn, lsn_last: lsn, block_offset: 0, block_len: 0, position, count: 1, depth });
            }
        }
        self.block.extend_from_slice(&lsn.0.to_be_bytes());
        self.block.push(kind as u8);
        self.block.extend_from_slice(&(value.len() as u32).to_be_bytes());
        self.block.extend_from_slice(value);
        self.last = Some((key, lsn));
        self.first_key.get_or_insert(key);
        self.value_count += 1;
        self.value_bytes += value.len() as u64;
        Ok(())
    }

    /// Bytes in the file so far, the open block not counted.
    pub fn size(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.value_count == 0
    }

    /// First key, and the key after the last one.
    pub fn key_range(&self) -> Option<std::ops::Range<Key>> {
        Some(self.first_key?..self.last?.0.next())
    }

    fn close_block(&mut self) -> io::Result<()> {
        let offset = self.size();
        let len = self.encoder.encode(BlockKind::Data, offset, &self.block, &mut self.out);
        self.block.clear();
        for run in &mut self.open_runs {
            (run.block_offset, run.block_len) = (offset, len);
            run.encode(&mut self.runs);
        }
        self.open_runs.clear();
        if self.out.len() >= WRITE_BYTES { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_at(self.written, &self.out)?;
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    /// Completes the file under its name, durably. On an error the temporary file is removed: the disk may be full.
    ///
    /// Panics: a layer without values, or a value outside the name's ranges.
    pub fn finish(self, disk: &dyn Disk, name: LayerName) -> io::Result<FinishedLayer> {
        let temporary = self.temporary.clone();
        // What cannot be removed now is removed at the next start.
        self.complete(disk, name).inspect_err(|_| _ = disk.unlink(&temporary))
    }

    fn complete(mut self, disk: &dyn Disk, name: LayerName) -> io::Result<FinishedLayer> {
        let keys = self.key_range().expect("a layer has values");
        assert!(name.kind == self.kind && name.keys.start <= keys.start && keys.end <= name.keys.end, "{name} does not cover its keys");
        self.close_block()?;
        let runs = std::mem::take(&mut self.runs);
        let mut top = Vec::new();
        for chunk in runs.chunks(INDEX_BLOCK_RUNS * RUN_ENTRY) {
            let first = super::format::index::run_at(chunk, 0).expect("chunks hold whole entries");
            let offset = self.size();
            let len = self.encoder.encode(BlockKind::Index, offset, chunk, &mut self.out);
            TopEntry { key: first.key, lsn_first: first.lsn_first, offset, len }.encode(&mut top);
        }
        let top_offset = self.size();
        let top_len = self.encoder.encode(BlockKind::Top, top_offset, &top, &mut self.out);
        let footer = Footer { name: name.clone(), top_offset, top_len, value_count: self.value_count, value_bytes: self.value_bytes };
        self.out.extend_from_slice(&footer.encode());
        self.write_out()?;
        self.file.sync_data()?;
        disk.rename(&self.temporary, &self.directory.join(name.to_string()))?;
        disk.sync_dir(&self.directory)?;
        Ok(FinishedLayer { name, file_size: self.written, value_count: self.value_count })
    }

    /// Gives up: removes the temporary file.
    pub fn discard(self, disk: &dyn Disk) -> io::Result<()> {
        disk.unlink(&self.temporary)
    }
}
