//! Layers of level 0 become layers of level 1: the same versions, sorted by key and cut on keys. Streams; memory is two blocks per
//! input and the index of one output.
//!
//! Invariants
//! - CO-1: the outputs of a merge hold exactly the versions of its inputs, each with the depth that its input says.
//! - CO-2: outputs of a merge do not overlap: a key has one layer, or several one after the other in LSN.

use super::CompactError;
use crate::layer::scan::Version;
use crate::layer::writer::FinishedLayer;
use crate::layer::{LayerError, LayerFile, LayerKind, LayerName, LayerWriter, Scan, ValueKind};
use crate::timeline::{Layer, Timeline};
use crate::types::{Key, Lsn};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of values that are copied between two points where a stop is noticed.
const SLICE_BYTES: usize = 4 << 20;
/// What a version costs besides its value: many are empty.
const VERSION_BYTES: usize = 64;

/// Why a merge ended early.
enum Stop {
    /// This input cannot be read.
    Input(usize, LayerError),
    Disk(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Disk(error)
    }
}

/// The layer that is being written.
struct Output {
    writer: LayerWriter,
    /// It holds one key only, which alone is larger than a layer: cut by LSN, and this part begins here.
    alone: Option<Lsn>,
}

struct Merge {
    timeline: Arc<Timeline>,
    inputs: Vec<Scan>,
    /// The key at which each input stands, lowest first; inputs with the same key from old to new.
    order: BinaryHeap<Reverse<(Key, usize)>>,
    lsns: Range<Lsn>,
    layer_bytes: u64,
    output: Option<Output>,
    /// The key that is copied now, and the depth of the version before.
    key: Option<Key>,
    depth: u32,
    /// No version of it was copied yet.
    is_oldest: bool,
    finished: Vec<FinishedLayer>,
    copied: u64,
}

/// Merges `inputs`, oldest first. On an error nothing is left of it on the disk.
pub async fn run(timeline: &Arc<Timeline>, inputs: &[Arc<Layer>], layer_bytes: u64) -> Result<Vec<FinishedLayer>, CompactError> {
    let mut files = Vec::with_capacity(inputs.len());
    for input in inputs {
        files.push(input.file(timeline).await?);
    }
    // Damage may be only here: every input is fetched again once.
    let mut mended = BTreeSet::new();
    loop {
        match once(timeline, &files, layer_bytes).await {
            Err(Stop::Input(at, error)) if error.is_damage() && mended.insert(at) => {
                files[at] = inputs[at].replace(timeline, &files[at]).await?;
            }
            other => return other.map_err(CompactError::from),
        }
    }
}

impl From<Stop> for CompactError {
    fn from(stop: Stop) -> CompactError {
        match stop {
            Stop::Input(_, error) => CompactError::Layer(error),
            Stop::Disk(error) => CompactError::Disk(error),
        }
    }
}

async fn once(timeline: &Arc<Timeline>, files: &[Arc<LayerFile>], layer_bytes: u64) -> Result<Vec<FinishedLayer>, Stop> {
    let (tasks, owned, there) = (&timeline.shared.env.tasks, files.to_vec(), timeline.clone());
    let mut merge = tasks.blocking("open-merge", move || Merge::start(there, owned, layer_bytes)).await?;
    loop {
        let step = move || {
            let result = merge.step();
            (merge, result)
        };
        let (back, result) = tasks.blocking("merge-layers", step).await;
        merge = back;
        match result {
            Ok(true) => {}
            Ok(false) => {
                let (read, written): (u64, u64) = (merge.copied, merge.finished.iter().map(|layer| layer.value_count).sum());
                assert_eq!(read, written, "CO-1: a merge of timeline {} lost versions", timeline.identity.timeline);
                return Ok(merge.finished);
            }
            Err(stop) => {
                tasks.blocking("discard-layer", move || merge.discard()).await;
                return Err(stop);
            }
        }
    }
}

impl Merge {
    fn start(timeline: Arc<Timeline>, files: Vec<Arc<LayerFile>>, layer_bytes: u64) -> Result<Merge, Stop> {
        let start = files.first().map_or(Lsn::INVALID, |file| file.name().lsns.start);
        let lsns = start..files.last().map_or(start, |file| file.name().lsns.end);
        let in_order = files.windows(2).all(|pair| pair[0].name().lsns.end <= pair[1].name().lsns.start);
        assert!(files.len() > 1 && in_order, "CO-2: a merge takes layers that follow each other");
        let (mut inputs, mut order) = (Vec::with_capacity(files.len()), BinaryHeap::new());
        for (at, file) in files.into_iter().enumerate() {
            let scan = Scan::start(file, &timeline.shared.cache).map_err(|error| Stop::Input(at, error))?;
            order.extend(scan.key().map(|key| Reverse((key, at))));
            inputs.push(scan);
        }
        let (output, key, finished) = (None, None, Vec::new());
        Ok(Merge { timeline, inputs, order, lsns, layer_bytes, output, key, depth: 0, is_oldest: true, finished, copied: 0 })
    }

    /// Copies some versions; false when there are no more and all layers are finished.
    fn step(&mut self) -> Result<bool, Stop> {
        let mut bytes = 0;
        while bytes < SLICE_BYTES {
            let Some(Reverse((key, at))) = self.order.pop() else {
                self.close(None)?;
                return Ok(false);
            };
            if self.key != Some(key) {
                self.begin_key(key)?;
            }
            while bytes < SLICE_BYTES && self.inputs[at].key() == Some(key) {
                bytes += self.copy(at)?;
            }
            self.order.extend(self.inputs[at].key().map(|next| Reverse((next, at))));
        }
        Ok(true)
    }

    /// Closes the layer that has no room for all versions of the next key. A key that needs more than a layer has its own.
    fn begin_key(&mut self, key: Key) -> Result<(), Stop> {
        let mut bytes = 0;
        for (at, input) in self.inputs.iter().enumerate().filter(|(_, input)| input.key() == Some(key)) {
            bytes += input.key_bytes(&self.timeline.shared.cache).map_err(|error| Stop::Input(at, error))?;
        }
        let is_large = bytes > self.layer_bytes;
        let is_full = |output: &Output| is_large || output.alone.is_some() || output.writer.size() + bytes > self.layer_bytes;
        if self.output.as_ref().is_some_and(is_full) {
            self.close(None)?;
        }
        if self.output.is_none() {
            self.open(is_large.then_some(self.lsns.start))?;
        }
        (self.key, self.depth, self.is_oldest) = (Some(key), 0, true);
        Ok(())
    }

    /// Copies one version; gives its size.
    fn copy(&mut self, at: usize) -> Result<usize, Stop> {
        let lsn = self.inputs[at].current().map_or(Lsn::INVALID, |version| version.lsn);
        let is_long = |output: &Output| output.alone.is_some_and(|start| start < lsn) && output.writer.size() >= self.layer_bytes;
        if self.output.as_ref().is_some_and(is_long) {
            self.close(Some(lsn))?;
            self.open(Some(lsn))?;
        }
        let is_oldest = std::mem::replace(&mut self.is_oldest, false);
        let is_lost = crate::planted!(self.timeline.shared.env, "compaction-drops-oldest") && is_oldest && self.is_elsewhere(at);
        let output = self.output.as_mut().expect("a key has an output");
        let Some(Version { key, lsn, kind, value, depth }) = self.inputs[at].current() else { return Ok(0) };
        let counted = match kind {
            ValueKind::Image => 0,
            ValueKind::InitRecord => 1,
            ValueKind::Record => self.depth.saturating_add(1),
        };
        self.depth = depth.unwrap_or(counted);
        let bytes = value.len() + VERSION_BYTES;
        if !is_lost {
            output.writer.put(key, lsn, kind, value, self.depth)?;
            self.copied += 1;
        }
        self.inputs[at].advance(&self.timeline.shared.cache).map_err(|error| Stop::Input(at, error))?;
        Ok(bytes)
    }

    /// Whether another input has versions of the key too.
    fn is_elsewhere(&self, at: usize) -> bool {
        self.inputs.iter().enumerate().any(|(other, input)| other != at && input.key() == self.key)
    }

    fn open(&mut self, alone: Option<Lsn>) -> io::Result<()> {
        let (directory, number) = (self.timeline.local_directory(), self.timeline.next_file_number());
        let writer = LayerWriter::create(&*self.timeline.shared.env.disk, &directory, LayerKind::Delta, number)?;
        self.output = Some(Output { writer, alone });
        Ok(())
    }

    /// Finishes the layer; what has no bound of its own spans the LSNs of all inputs.
    fn close(&mut self, lsn_end: Option<Lsn>) -> io::Result<()> {
        let Some(Output { writer, alone }) = self.output.take() else { return Ok(()) };
        let disk = &*self.timeline.shared.env.disk;
        let Some(keys) = writer.key_range() else { return writer.discard(disk) };
        let lsns = alone.unwrap_or(self.lsns.start)..lsn_end.unwrap_or(self.lsns.end);
        self.finished.push(writer.finish(disk, LayerName::delta(keys, lsns))?);
        Ok(())
    }

    /// Makes room again. What cannot be removed now is removed at the next start.
    fn discard(self) {
        let disk = &*self.timeline.shared.env.disk;
        if let Some(output) = self.output {
            let _ = output.writer.discard(disk);
        }
        super::remove_files(&self.timeline, &self.finished);
    }
}
