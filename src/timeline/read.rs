//! GetPage and every other read: collect versions from new to old through memory, layers and ancestors, then redo.

use super::layer::{Layer, LayerAccessError};
use super::{LayerSet, Timeline};
use crate::io_abstraction::ClockExt as _;
use crate::layer::{Below, Reconstruct};
use crate::redo::executor::RedoFailure;
use crate::types::{Key, Lsn, RelTag, TimelineId, ZERO_PAGE};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("could not find data for {key:?} at LSN {lsn} in timeline {timeline}")]
    Missing { timeline: TimelineId, key: Key, lsn: Lsn },
    #[error("relation {rel} does not exist in timeline {timeline} at LSN {lsn}")]
    NoRelation { timeline: TimelineId, rel: RelTag, lsn: Lsn },
    #[error("tried to request a page version that was garbage collected. requested at {lsn} gc cutoff {cutoff}")]
    BelowCutoff { lsn: Lsn, cutoff: Lsn },
    #[error(
        "timed out after {limit:?} waiting for WAL up to {lsn} in timeline {timeline}: last record {last}, disk consistent {disk_consistent}; WalReceiver status: {receiver}"
    )]
    WaitTimedOut { timeline: TimelineId, lsn: Lsn, last: Lsn, disk_consistent: Lsn, receiver: String, limit: Duration },
    #[error("timeline {0} is shutting down")]
    ShuttingDown(TimelineId),
    #[error("read {key:?} at LSN {lsn}: {error}")]
    Layer { key: Key, lsn: Lsn, error: LayerAccessError },
    #[error("redo {key:?} at LSN {lsn}: {error}")]
    Redo { key: Key, lsn: Lsn, error: RedoFailure },
    #[error("{key:?} at LSN {lsn} does not decode: {reason}")]
    Malformed { key: Key, lsn: Lsn, reason: &'static str },
}

/// Chains that are collected before they are rebuilt together: this bounds their memory.
pub(super) const GET_TOGETHER: usize = 32;

impl Timeline {
    /// Waits until WAL up to `lsn` is ingested, at most the configured time.
    pub async fn wait_lsn(&self, lsn: Lsn) -> Result<(), ReadError> {
        let limit = self.shared.config.wait_lsn_timeout;
        if self.last_record.lsn() >= lsn {
            return Ok(());
        }
        match self.shared.env.clock.timeout(limit, self.last_record.wait_for(lsn)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ReadError::ShuttingDown(self.identity.timeline)),
            Err(_) => Err(ReadError::WaitTimedOut {
                timeline: self.identity.timeline,
                lsn,
                last: self.last_record.lsn(),
                disk_consistent: self.disk_consistent_lsn(),
                receiver: self.receiver_status.lock().clone(),
                limit,
            }),
        }
    }

    pub fn check_cutoff(&self, lsn: Lsn) -> Result<(), ReadError> {
        let cutoff = self.gc_cutoff_lsn();
        if lsn < cutoff { Err(ReadError::BelowCutoff { lsn, cutoff }) } else { Ok(()) }
    }

    /// As [`Timeline::check_cutoff`], except that what branches read is there.
    fn check_history(&self, lsn: Lsn) -> Result<(), ReadError> {
        match self.check_cutoff(lsn) {
            Err(_) if self.is_pinned(lsn) => Ok(()),
            other => other,
        }
    }

    /// The value of `key` at `lsn`, which must be ingested already. A page of zeros comes back whole.
    pub async fn get(&self, key: Key, lsn: Lsn) -> Result<Bytes, ReadError> {
        let found = self.collect(key, lsn).await?;
        self.rebuild(key, lsn, &found).await
    }

    /// As [`Timeline::get`] for several, with few turns to redo.
    pub async fn get_many(&self, wanted: &[(Key, Lsn)]) -> Vec<Result<Bytes, ReadError>> {
        let mut values = Vec::with_capacity(wanted.len());
        for wanted in wanted.chunks(GET_TOGETHER) {
            let mut results: Vec<Option<Result<Bytes, ReadError>>> = Vec::with_capacity(wanted.len());
            let (mut chains, mut places) = (Vec::new(), Vec::new());
            for (place, (key, lsn)) in wanted.iter().enumerate() {
                let found = self.collect(*key, *lsn).await;
                results.push(match found.and_then(|found| Ok((self.without_redo(*key, *lsn, &found)?, found))) {
                    Ok((None, found)) => {
                        chains.push((*key, found));
                        places.push(place);
                        None
                    }
                    Ok((Some(value), _)) => Some(Ok(value)),
                    Err(error) => Some(Err(error)),
                });
            }
            let rebuilt = self.shared.redo.rebuild_many(&self.apply_context(), &chains).await;
            for (place, value) in places.into_iter().zip(rebuilt) {
                let (key, lsn) = wanted[place];
                results[place] = Some(value.map_err(|error| ReadError::Redo { key, lsn, error }));
            }
            values.extend(results.into_iter().flatten());
        }
        values
    }

    /// Replays what was collected.
    async fn rebuild(&self, key: Key, lsn: Lsn, found: &Reconstruct) -> Result<Bytes, ReadError> {
        if let Some(value) = self.without_redo(key, lsn, found)? {
            return Ok(value);
        }
        self.shared.redo.rebuild(&self.apply_context(), key, found).await.map_err(|error| ReadError::Redo { key, lsn, error })
    }

    /// What was collected, if no records are to be applied.
    fn without_redo(&self, key: Key, lsn: Lsn, found: &Reconstruct) -> Result<Option<Bytes>, ReadError> {
        if !found.is_complete() && !key_starts_empty(key) {
            return Err(ReadError::Missing { timeline: self.identity.timeline, key, lsn });
        }
        if found.record_count() > 0 {
            return Ok(None);
        }
        let base = found.base_bytes().unwrap_or_default();
        Ok(Some(if base.is_empty() && is_page(key) { Bytes::from_static(&ZERO_PAGE) } else { base }))
    }

    /// Collects base and records of `key` at `lsn` from this timeline and its ancestors.
    pub(super) async fn collect(&self, key: Key, lsn: Lsn) -> Result<Reconstruct, ReadError> {
        self.collect_as(key, lsn, false).await
    }

    /// The same; `pinned`: a branch reads at the point where it begins.
    async fn collect_as(&self, key: Key, lsn: Lsn, mut pinned: bool) -> Result<Reconstruct, ReadError> {
        let mut found = Reconstruct::default();
        let mut end = Lsn(lsn.0.saturating_add(1));
        let mut timeline = self;
        loop {
            let complete = timeline.collect_own(key, &mut end, lsn, &mut found).await;
            // GC-2: layers may have gone meanwhile, which is no reason to say something else about the past.
            if !pinned && !crate::planted!(self.shared.env, "gc-unseen") {
                timeline.check_history(lsn)?;
            }
            if complete? {
                return Ok(found);
            }
            let Some(ancestor) = &timeline.ancestor else { return Ok(found) };
            pinned |= lsn >= ancestor.lsn;
            end = end.min(Lsn(ancestor.lsn.0 + 1));
            timeline = &ancestor.timeline;
            // After a restart the ancestor may still be on its way to the branch point.
            timeline.wait_lsn(ancestor.lsn).await?;
        }
    }

    /// Collects from this timeline's layers; true when a base was found. Lowers `end` to where older layers begin.
    async fn collect_own(&self, key: Key, end: &mut Lsn, lsn: Lsn, found: &mut Reconstruct) -> Result<bool, ReadError> {
        let mut layers = self.layers();
        for memory in layers.memory() {
            let start = memory.lsns().start;
            if start < *end {
                memory.collect(key, &(start..*end), found);
                *end = start;
                if found.is_complete() {
                    return Ok(true);
                }
            }
        }
        let mut below = Below::new(*end);
        while let Some((layer, floor)) = layers.historic.search(key, below) {
            if let Err(error) = self.collect_layer(&layer, key, floor..below.end, lsn, found).await {
                layers = self.without(&layer).ok_or(error)?;
                continue;
            }
            below = below.after(&layer.name, floor);
            if found.is_complete() {
                return Ok(true);
            }
        }
        *end = below.end;
        Ok(false)
    }

    /// The layers of now, if `layer`, which could not be read, is not among them any more: its file may be gone, and others say
    /// what it said.
    fn without(&self, layer: &Arc<Layer>) -> Option<Arc<LayerSet>> {
        let now = self.layers();
        (!now.historic.contains(layer)).then_some(now)
    }

    /// Reads one layer; a damaged file is fetched again once.
    async fn collect_layer(&self, layer: &Layer, key: Key, lsns: Range<Lsn>, lsn: Lsn, found: &mut Reconstruct) -> Result<(), ReadError> {
        let failed = |error| ReadError::Layer { key, lsn, error };
        let cache = &self.shared.cache;
        let file = layer.file(self).await.map_err(failed)?;
        let mut part = Reconstruct::default();
        match file.collect(cache, key, &lsns, &mut part) {
            Ok(()) => {}
            Err(error) if error.is_damage() => {
                let file: Arc<_> = layer.replace(self, &file).await.map_err(failed)?;
                part = Reconstruct::default();
                file.collect(cache, key, &lsns, &mut part).map_err(|e| failed(e.into()))?;
            }
            Err(error) => return Err(failed(error.into())),
        }
        found.append(part);
        Ok(())
    }

    /// Records that a reader of the newest version of `key` below `end` replays, layers of ancestors included.
    pub(super) async fn depth_below(&self, layers: &LayerSet, key: Key, end: Lsn) -> Result<u32, ReadError> {
        let mut newer;
        let mut historic = &layers.historic;
        let mut below = Below::new(end);
        while let Some((layer, floor)) = historic.search(key, below) {
            match self.depth_in(&layer, key).await {
                Ok(Some(depth)) => return Ok(depth),
                Ok(None) => below = below.after(&layer.name, floor),
                Err(error) => {
                    newer = self.without(&layer).ok_or(ReadError::Layer { key, lsn: end, error })?;
                    historic = &newer.historic;
                }
            }
        }
        match &self.ancestor {
            // The branch point may lie inside the ancestor's chain: what is read there is counted exactly.
            Some(ancestor) => Ok(ancestor.timeline.collect_at_branch(key, ancestor.lsn).await?.record_count() as u32),
            None => Ok(0),
        }
    }

    async fn depth_in(&self, layer: &Layer, key: Key) -> Result<Option<u32>, LayerAccessError> {
        let cache = &self.shared.cache;
        let file = layer.file(self).await?;
        match file.depth(cache, key) {
            Err(error) if error.is_damage() => Ok(layer.replace(self, &file).await?.depth(cache, key)?),
            other => Ok(other?),
        }
    }

    fn collect_at_branch(&self, key: Key, lsn: Lsn) -> futures::future::BoxFuture<'_, Result<Reconstruct, ReadError>> {
        Box::pin(self.collect_as(key, lsn, true))
    }
}

fn is_page(key: Key) -> bool {
    use crate::types::key::KeyKind;
    matches!(key.kind(), Some(KeyKind::RelBlock { .. } | KeyKind::SlruBlock { .. }))
}

/// Keys whose records may come without any base: visibility maps grow without WAL, so an absent page counts as zeros.
fn key_starts_empty(key: Key) -> bool {
    use crate::types::key::KeyKind;
    matches!(key.kind(), Some(KeyKind::RelBlock { rel, .. }) if rel.fork == crate::types::Fork::Vm)
}
