//! The one writer of a timeline: puts batches into the open layer, keeps hot pages short, rolls the layer.

use super::{LayerSet, Timeline};
use crate::layer::{Batch, MemoryLayer};
use crate::limits::{FROZEN_LAYERS_MAX, REPLAY_RECORDS_MAX};
use crate::types::{Key, Lsn};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Exclusive right to put versions. Ingest owns it while it runs.
pub struct TimelineWriter {
    timeline: Arc<Timeline>,
}

impl TimelineWriter {
    pub fn new(timeline: Arc<Timeline>) -> TimelineWriter {
        TimelineWriter { timeline }
    }

    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    /// Makes a batch readable and publishes `last`, the end of its last record, whose start is `prev`.
    ///
    /// All versions must be above the last record before and at or below `last`.
    pub async fn commit(&mut self, batch: Batch, last: Lsn, prev: Lsn) {
        self.room().await;
        let timeline = self.timeline.clone();
        let _no_freeze_in_between = timeline.writing.lock().await;
        if crate::planted!(timeline.shared.env, "put-in-task") {
            let (tasks, ours, theirs) = (&timeline.shared.env.tasks, TimelineWriter::new(timeline.clone()), timeline.clone());
            let putting = tasks.spawn("put", async move { ours.put(batch).await });
            let publishing = tasks.spawn("publish", async move { theirs.last_record.advance(last, prev) });
            putting.join().await;
            publishing.join().await;
        } else {
            self.put(batch).await;
            timeline.last_record.advance(last, prev);
        }
        timeline.ahead.store(false, Ordering::Release);
        if timeline.roll_is_due() || crate::buggify!(timeline.shared.env, "roll-early") {
            timeline.freeze();
        }
    }

    /// Puts a part of what one record changes, to be published by the [`TimelineWriter::commit`] that brings the rest. Until then
    /// nothing of it can be read, and the open layer is not frozen.
    pub async fn put_ahead(&mut self, batch: Batch) {
        let timeline = self.timeline.clone();
        let _no_freeze_in_between = timeline.writing.lock().await;
        self.put(batch).await;
    }

    /// The caller holds `writing`. If this ends in the middle, what was put stays above the last record; it may be put again.
    async fn put(&self, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        self.timeline.ahead.store(true, Ordering::Release);
        let open = self.timeline.layers().open.clone();
        let hot = open.put(batch, REPLAY_RECORDS_MAX);
        self.shorten(&open, hot).await;
    }

    /// Waits while too much is frozen: memory stays bounded when the disk is slower than the WAL.
    async fn room(&self) {
        loop {
            let flushed = self.timeline.flushed.notified();
            tokio::pin!(flushed);
            flushed.as_mut().enable();
            if self.timeline.layers().frozen.len() < FROZEN_LAYERS_MAX {
                return;
            }
            flushed.await;
        }
    }

    /// Puts images of pages that collected many records since their last one. Those of one page build on each other.
    async fn shorten(&self, open: &MemoryLayer, mut hot: Vec<(Key, Lsn)>) {
        while !hot.is_empty() {
            let mut pages = BTreeSet::new();
            let (now, later): (Vec<_>, Vec<_>) = hot.into_iter().partition(|(key, _)| pages.insert(*key));
            hot = later;
            for ((key, lsn), image) in now.iter().zip(self.timeline.get_many(&now).await) {
                match image {
                    Ok(image) => open.replace_by_image(*key, *lsn, &image),
                    // Ingest never stops for a page that cannot be rebuilt: whoever reads it gets the error.
                    Err(error) => {
                        tracing::warn!(timeline = %self.timeline.identity.timeline, %error, "no image for a page with many records");
                        open.give_up(*key);
                        hot.retain(|(other, _)| other != key);
                    }
                }
            }
        }
    }
}

impl Timeline {
    /// Freezes the open layer now, if it holds anything new. Gives the LSN up to which nothing is in it.
    pub async fn freeze_now(&self) -> Lsn {
        let _no_put_in_between = self.writing.lock().await;
        self.freeze();
        Lsn(self.layers().open.lsns().start.0 - 1)
    }

    /// Whether the open layer is old or large enough to be frozen.
    fn roll_is_due(&self) -> bool {
        let open = self.layers().open.clone();
        let distance = self.last_record.lsn().distance_from(open.lsns().start);
        distance >= self.settings().checkpoint_distance || open.memory_bytes() as u64 >= self.shared.config.open_layer_bytes_max
    }

    /// Closes the open layer at the last record and starts a new one. Nothing happens if no WAL came since the last time.
    ///
    /// Must not run between a put and its publication: the caller holds `writing`.
    fn freeze(&self) {
        if self.ahead.load(Ordering::Acquire) {
            // A put that was given up left versions above the last record; their WAL is read again.
            return;
        }
        let end = Lsn(self.last_record.lsn().0 + 1);
        self.change_layers(|old| {
            if old.open.lsns().start >= end {
                return LayerSet { open: old.open.clone(), frozen: old.frozen.clone(), historic: old.historic.clone() };
            }
            old.open.freeze(end);
            let mut frozen = old.frozen.clone();
            frozen.push(old.open.clone());
            LayerSet { open: Arc::new(MemoryLayer::new(end)), frozen, historic: old.historic.clone() }
        });
        self.frozen.notify_one();
    }
}
