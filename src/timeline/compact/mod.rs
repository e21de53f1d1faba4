//! Compaction: what flushes wrote one after the other is rewritten so that a read looks into few layers.
//!
//! ```text
//! choose -> merge   layers of level 0 (all keys, few LSNs) -> deltas of level 1 (few keys, many LSNs)
//!        -> images  keyspace -> whole values of a part of the keys at one LSN
//!        -> publish: layer map, uploads, index, removal of the inputs
//! ```
//!
//! Invariants
//! - CO-4: what any LSN reads never changes. Branches read through to the same layers as before, or to what took their place.
//! - CO-5: outputs take the place of inputs in one step, and no input goes away before an index without it is stored (RM-2).

pub mod choose;
pub mod images;
pub mod keyspace;
pub mod merge;
#[cfg(test)]
pub(in crate::timeline) mod tests;

use super::layer::{Layer, LayerAccessError};
use super::{LayerSet, ReadError, Timeline, repeat};
use crate::config::TenantConfig;
use crate::layer::writer::FinishedLayer;
use crate::layer::{LayerError, LayerName};
use crate::remote::LayerMeta;
use crate::types::{Key, Lsn};
use choose::Settings;
use images::Outcome;
use keyspace::{KeySpace, Part};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Image layers that are published together: each time the whole index goes up.
const PUBLISH_TOGETHER: usize = 16;
/// A part with a page that cannot be rebuilt is tried again after so many checkpoint distances: the page may be whole by then.
const HOPELESS_DISTANCES: u64 = 10;

#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error("read what an image is made of: {0}")]
    Read(#[from] ReadError),
    #[error(transparent)]
    Access(#[from] LayerAccessError),
    #[error(transparent)]
    Layer(LayerError),
    #[error("write a layer file: {0}")]
    Disk(io::Error),
}

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Layers of level 0 that were merged, and the layers that they became.
    pub merged: usize,
    pub deltas: usize,
    pub images: usize,
}

/// What one pass leaves to the next. Who holds it compacts: there is one at a time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Images are up to date for the layers up to this LSN.
    looked_at: Lsn,
    /// Pages that could not be rebuilt, and the LSN at which that was tried.
    hopeless: BTreeMap<Key, Lsn>,
    /// Keys for which garbage collection lacks images.
    pub(super) wanted: Vec<Range<Key>>,
}

/// Compacts again and again until cancelled.
pub async fn run(timeline: Arc<Timeline>, cancel: CancellationToken) {
    let period = |settings: &TenantConfig| repeat::unless_zero(settings.compaction_period);
    repeat::run(timeline, cancel, "compaction", period, |timeline| async move { timeline.compact_now().await.map(|_| ()) }).await;
}

impl Timeline {
    /// Merges layers of level 0 and makes image layers, as far as the settings call for it. Waits while another pass runs.
    ///
    /// Dropping it leaves the timeline as it is; files without a use are removed at the next start.
    pub async fn compact_now(self: &Arc<Timeline>) -> Result<Compacted, CompactError> {
        let mut progress = self.compacting.lock().await;
        let settings = Settings::of(&self.settings());
        let mut done = Compacted::default();
        while let Some(inputs) = self.next_merge(&settings) {
            let outputs = merge::run(self, &inputs, settings.layer_bytes).await?;
            self.publish(&inputs, outputs, &mut done);
        }
        self.make_images(&mut progress, &settings, &mut done).await?;
        Ok(done)
    }

    fn next_merge(&self, settings: &Settings) -> Option<Vec<Arc<Layer>>> {
        let layers = self.layers();
        let chosen = choose::merge(layers.historic.iter().map(|layer| (&layer.name, layer.meta.file_size)), settings)?;
        let layer_of = |name: &LayerName| layers.historic.iter().find(|layer| layer.name == *name).cloned();
        Some(chosen.iter().filter_map(layer_of).collect())
    }

    /// Makes images for the parts of the key space that have many deltas on their last ones.
    async fn make_images(
        self: &Arc<Timeline>,
        progress: &mut Progress,
        settings: &Settings,
        done: &mut Compacted,
    ) -> Result<(), CompactError> {
        // Both ends of a flush's change: the layers are in the map before this LSN moves.
        let lsn = self.disk_consistent_lsn();
        let whole = Key::MIN..Key::MAX;
        let wanted = std::mem::take(&mut progress.wanted);
        if wanted.is_empty() && (lsn <= progress.looked_at || !choose::needs_image(&self.layers().historic, &whole, lsn, settings)) {
            return Ok(());
        }
        let parts = KeySpace::at(self, lsn).await?.parts(settings.part_bytes);
        let mut made = Vec::new();
        for part in parts {
            let is_wanted = wanted.iter().any(|keys| keys.start < part.range.end && part.range.start < keys.end);
            if !(choose::needs_image(&self.layers().historic, &part.range, lsn, settings)
                || (is_wanted && choose::has_deltas(&self.layers().historic, &part.range, lsn)))
                || progress.gave_up(&part, lsn, settings.layer_bytes)
            {
                continue;
            }
            match images::make(self, &part, lsn).await {
                Ok(Outcome::Made(layer)) => made.push(layer),
                Ok(Outcome::Empty) => {}
                Ok(Outcome::Hopeless(key, error)) => {
                    if progress.hopeless.insert(key, lsn).is_none() {
                        tracing::warn!(timeline = %self.identity.timeline, %error, "no image layer for the part with this page");
                    }
                }
                Err(error) => {
                    self.publish(&[], made, done);
                    return Err(error);
                }
            }
            if made.len() >= PUBLISH_TOGETHER {
                self.publish(&[], std::mem::take(&mut made), done);
            }
        }
        self.publish(&[], made, done);
        progress.looked_at = lsn;
        Ok(())
    }

    /// Puts outputs in the place of inputs, and schedules the uploads, an index, and then the removal of the inputs.
    fn publish(&self, inputs: &[Arc<Layer>], outputs: Vec<FinishedLayer>, done: &mut Compacted) {
        if inputs.is_empty() && outputs.is_empty() {
            return;
        }
        let probe = &self.shared.env.probe;
        probe.mark(if inputs.is_empty() { "image-layer-made" } else { "compacted" });
        probe.event("compaction", &|| format!("timeline={} inputs={} outputs={}", self.identity.timeline, inputs.len(), outputs.len()));
        done.merged += inputs.len();
        *(if inputs.is_empty() { &mut done.images } else { &mut done.deltas }) += outputs.len();
        let old: Vec<LayerName> = inputs.iter().map(|layer| layer.name.clone()).collect();
        let gone = inputs.iter().map(|layer| (layer.name.clone(), layer.meta.generation)).collect();
        let names: Vec<LayerName> = outputs.iter().map(|layer| layer.name.clone()).collect();
        assert!(names.iter().all(|name| !old.contains(name)), "CO-5: an output has the name of an input");
        let generation = self.attachment.generation();
        let new: Vec<Arc<Layer>> = outputs
            .into_iter()
            .map(|layer| Arc::new(Layer::remote(layer.name, LayerMeta { file_size: layer.file_size, generation })))
            .collect();
        let change = || {
            self.change_layers(|now| {
                let mut historic = now.historic.clone();
                Arc::make_mut(&mut historic).replace(&old, new);
                LayerSet { open: now.open.clone(), frozen: now.frozen.clone(), historic }
            });
        };
        self.schedule_upload(change, names, gone);
    }
}

impl Progress {
    /// Whether a page of this part could not be rebuilt a short while ago.
    fn gave_up(&self, part: &Part, lsn: Lsn, distance: u64) -> bool {
        let patience = distance.saturating_mul(HOPELESS_DISTANCES);
        self.hopeless.range(part.range.clone()).any(|(_, tried)| lsn.distance_from(*tried) < patience)
    }
}

/// Removes the files of layers that will not be published. What cannot be removed now is removed at the next start.
fn remove_files(timeline: &Timeline, layers: &[FinishedLayer]) {
    let directory = timeline.local_directory();
    for layer in layers {
        let _ = timeline.shared.env.disk.unlink(&directory.join(layer.name.to_string()));
    }
}
