//! Turns frozen in-memory layers into durable delta layers, oldest first, and schedules their upload.
//!
//! Chains that a reader would have to replay for longer than the limit get an image in the new layer, counting what older
//! layers contribute.

use super::layer::Layer;
use super::read::GET_TOGETHER;
use super::{LayerSet, ReadError, Timeline};
use crate::io_abstraction::ClockExt as _;
use crate::layer::writer::FinishedLayer;
use crate::layer::{LayerKind, LayerName, LayerWriter, MemoryLayer, SortedVersions, ValueKind};
use crate::limits::REPLAY_RECORDS_MAX;
use crate::remote::LayerMeta;
use crate::types::{Key, Lsn};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Wait after a flush that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Keys that are planned between two points where other tasks may run.
const KEYS_PER_YIELD: usize = 128;
/// Keys that are planned, then written, together.
const KEYS_PER_SLICE: usize = 8192;
/// Images in memory at a time, or little more.
const IMAGES_PER_SLICE: usize = 1024;
/// Older layers that could not be read before a flush gives up looking into them: each try may download a file.
const FAILURES_MAX: u32 = 4;

#[derive(Debug, thiserror::Error)]
enum FlushError {
    #[error("plan images: {0}")]
    Read(#[from] ReadError),
    #[error("write the layer file: {0}")]
    Disk(#[from] io::Error),
}

/// Flushes until cancelled; also freezes an open layer that waited for the configured time.
pub async fn run(timeline: Arc<Timeline>, cancel: CancellationToken) {
    let clock = timeline.shared.env.clock.clone();
    let work = async {
        let mut frozen_at = clock.mono();
        loop {
            let settings = timeline.settings();
            let wait = frozen_at.after(settings.checkpoint_timeout).since(clock.mono());
            let rolled = tokio::select! {
                biased;
                () = timeline.attachment.other_settings(&settings) => continue,
                rolled = clock.timeout(wait, timeline.frozen.notified()) => rolled.is_ok(),
            };
            frozen_at = clock.mono();
            if !rolled {
                timeline.freeze_now().await;
            }
            while let Some(oldest) = timeline.layers().frozen.first().cloned() {
                if let Err(error) = flush(&timeline, oldest).await {
                    tracing::warn!(timeline = %timeline.identity.timeline, %error, "flush failed, will retry");
                    clock.sleep(RETRY).await;
                }
            }
        }
    };
    cancel.run_until_cancelled(work).await;
}

/// What a flush adds to the versions of some keys.
struct Plan {
    /// Places of the keys.
    places: Range<usize>,
    /// For each: records replayed by a reader of its newest version that came before this layer.
    depth_before: Vec<u32>,
    /// Images that replace the record of the same LSN.
    images: BTreeMap<(Key, Lsn), Bytes>,
    /// Reads of older layers that failed.
    failures: u32,
}

/// Walks the versions of one key: gives the depth of each, and the first LSN at which it exceeds the limit.
struct Depth(u32);

impl Depth {
    fn after(&mut self, kind: ValueKind) -> u32 {
        self.0 = match kind {
            ValueKind::Image => 0,
            ValueKind::InitRecord => 1,
            ValueKind::Record => self.0 + 1,
        };
        self.0
    }
}

/// Plans for keys from `first` on, as many as one slice may hold.
async fn plan(
    timeline: &Timeline,
    layers: &LayerSet,
    frozen: &MemoryLayer,
    sorted: &SortedVersions,
    first: usize,
) -> Result<Plan, ReadError> {
    let mut plan = Plan { places: first..first, depth_before: Vec::new(), images: BTreeMap::new(), failures: 0 };
    let mut wanted = Vec::new();
    let most = if crate::buggify!(timeline.shared.env, "image-early") { 1 } else { REPLAY_RECORDS_MAX };
    for (place, key) in sorted.keys().enumerate().skip(first).take(KEYS_PER_SLICE) {
        if place % KEYS_PER_YIELD == 0 {
            crate::io_abstraction::tasks::yield_now().await;
        }
        let mut before = 0;
        if !frozen.begins_with_base(sorted, place) {
            before = plan.depth_below(timeline, layers, key, frozen.lsns().start).await?;
        }
        plan.depth_before.push(before);
        // Most chains are short: no need to look at them one by one.
        if before + sorted.count(place) > most {
            let mut depth = Depth(before);
            frozen.versions(sorted, place, |lsn, kind, _| {
                if depth.after(kind) > most {
                    wanted.push((key, lsn));
                    depth = Depth(0);
                }
            });
        }
        plan.places.end = place + 1;
        if wanted.len() >= IMAGES_PER_SLICE {
            break;
        }
    }
    plan.make_images(timeline, &wanted).await?;
    Ok(plan)
}

impl Plan {
    /// As [`Timeline::depth_below`], but 0 where an older layer cannot be read: what is new must become durable all the same,
    /// and the damage is the business of whoever reads that page.
    async fn depth_below(&mut self, timeline: &Timeline, layers: &LayerSet, key: Key, end: Lsn) -> Result<u32, ReadError> {
        if self.failures >= FAILURES_MAX {
            return Ok(0);
        }
        match timeline.depth_below(layers, key, end).await {
            Err(error @ ReadError::Layer { .. }) => {
                self.failures += 1;
                tracing::warn!(timeline = %timeline.identity.timeline, %error, "the length of a page's chain is unknown");
                Ok(0)
            }
            other => other,
        }
    }

    /// Makes the images without which a chain would be too long.
    async fn make_images(&mut self, timeline: &Timeline, wanted: &[(Key, Lsn)]) -> Result<(), ReadError> {
        let mut hopeless = BTreeSet::new();
        for wanted in wanted.chunks(GET_TOGETHER) {
            let wanted: Vec<(Key, Lsn)> = wanted.iter().copied().filter(|(key, _)| !hopeless.contains(key)).collect();
            for (version, image) in wanted.iter().zip(timeline.get_many(&wanted).await) {
                match image {
                    Ok(image) => _ = self.images.insert(*version, image),
                    // A page that cannot be rebuilt keeps its chain; its readers get the error.
                    Err(error @ (ReadError::Redo { .. } | ReadError::Missing { .. } | ReadError::Layer { .. })) => {
                        hopeless.insert(version.0);
                        tracing::warn!(timeline = %timeline.identity.timeline, %error, "no image for a page with many records");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

async fn flush(timeline: &Arc<Timeline>, frozen: Arc<MemoryLayer>) -> Result<(), FlushError> {
    let mut name = None;
    if !frozen.is_empty() {
        let finished = write(timeline, &frozen).await?;
        let meta = LayerMeta { file_size: finished.file_size, generation: timeline.attachment.generation() };
        name = Some((finished.name, meta));
    }
    if crate::planted!(timeline.shared.env, "layer-nowhere") {
        let rest = |old: &LayerSet| old.frozen.iter().skip(1).cloned().collect();
        timeline.change_layers(|old| LayerSet { open: old.open.clone(), frozen: rest(old), historic: old.historic.clone() });
        timeline.shared.env.clock.sleep(Duration::from_millis(1)).await;
    }
    if crate::planted!(timeline.shared.env, "flushed-in-task") {
        let timeline_there = timeline.clone();
        timeline.shared.env.tasks.spawn("publish-layer", async move { publish(&timeline_there, &frozen, name) });
        crate::io_abstraction::tasks::yield_now().await;
        return Ok(());
    }
    publish(timeline, &frozen, name);
    Ok(())
}

/// Writes the layer slice by slice: plans images, then writes the versions with them, so that few images are in memory.
async fn write(timeline: &Arc<Timeline>, frozen: &Arc<MemoryLayer>) -> Result<FinishedLayer, FlushError> {
    let (tasks, layers, number) = (&timeline.shared.env.tasks, timeline.layers(), timeline.next_file_number());
    let (disk, directory, sorting) = (timeline.shared.env.disk.clone(), timeline.local_directory(), frozen.clone());
    let begin = move || {
        disk.create_dir_all(&directory)?;
        let writer = LayerWriter::create(&*disk, &directory, LayerKind::Delta, number)?;
        io::Result::Ok((writer, Arc::new(sorting.sorted())))
    };
    let (mut writer, sorted) = tasks.blocking("sort-layer", begin).await?;
    let mut next = 0;
    while next < sorted.keys().len() {
        let plan = match plan(timeline, &layers, frozen, &sorted, next).await {
            Ok(plan) => plan,
            Err(error) => {
                discard(timeline, writer).await;
                return Err(error.into());
            }
        };
        next = plan.places.end;
        let (source, order) = (frozen.clone(), sorted.clone());
        let write = move || {
            let result = write_versions(&mut writer, &source, &order, &plan);
            (writer, result)
        };
        let (back, result) = tasks.blocking("write-layer", write).await;
        if let Err(error) = result {
            discard(timeline, back).await;
            return Err(error.into());
        }
        writer = back;
    }
    let (disk, range) = (timeline.shared.env.disk.clone(), frozen.lsns());
    let finish = move || writer.finish(&*disk, LayerName::delta(Key::MIN..Key::MAX, range));
    Ok(tasks.blocking("write-layer", finish).await?)
}

/// Makes room again after an error: the disk may be full. What cannot be removed now is removed at the next start.
pub(super) async fn discard(timeline: &Timeline, writer: LayerWriter) {
    let disk = timeline.shared.env.disk.clone();
    let _ = timeline.shared.env.tasks.blocking("discard-layer", move || writer.discard(&*disk)).await;
}

fn write_versions(writer: &mut LayerWriter, source: &MemoryLayer, sorted: &SortedVersions, plan: &Plan) -> io::Result<()> {
    for ((place, key), before) in sorted.keys().enumerate().skip(plan.places.start).zip(&plan.depth_before) {
        let mut depth = Depth(*before);
        let has_images = plan.images.range((key, Lsn(0))..=(key, Lsn::MAX)).next().is_some();
        let mut result = Ok(());
        source.versions(sorted, place, |lsn, kind, bytes| {
            if result.is_ok() {
                result = match has_images.then(|| plan.images.get(&(key, lsn))).flatten() {
                    Some(image) => writer.put(key, lsn, ValueKind::Image, image, depth.after(ValueKind::Image)),
                    None => writer.put(key, lsn, kind, bytes, depth.after(kind)),
                };
            }
        });
        result?;
    }
    Ok(())
}

/// Moves the flushed layer from memory to the layer map, advances `disk_consistent_lsn`, schedules uploads.
fn publish(timeline: &Arc<Timeline>, frozen: &Arc<MemoryLayer>, written: Option<(LayerName, LayerMeta)>) {
    let consistent = Lsn(frozen.lsns().end.0 - 1);
    let change = || {
        timeline.change_layers(|old| {
            let mut historic = old.historic.clone();
            if let Some((name, meta)) = &written {
                Arc::make_mut(&mut historic).insert(Arc::new(Layer::remote(name.clone(), *meta)));
            }
            let frozen = old.frozen.iter().filter(|f| !Arc::ptr_eq(f, frozen)).cloned().collect();
            LayerSet { open: old.open.clone(), frozen, historic }
        });
        let (last, prev) = timeline.last_record.lsn_and_prev();
        let prev = if last == consistent { prev } else { Lsn::INVALID };
        assert!(consistent <= last, "TL-2: disk-consistent {consistent} beyond the last record {last}");
        timeline.disk_consistent_prev.store(prev.0, Ordering::Release);
        timeline.disk_consistent.store(consistent.0, Ordering::Release);
        timeline.shared.env.probe.event("flush", &|| format!("timeline={} lsn={consistent}", timeline.identity.timeline));
    };
    timeline.schedule_upload(change, written.iter().map(|(name, _)| name.clone()).collect(), Vec::new());
    timeline.flushed.notify_waiters();
}
