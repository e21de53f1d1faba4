//! Synthetic size: what a tenant's history costs at least, however it is stored. It depends on what is kept, not on layers.
//!
//! ```text
//! Tenant -> facts -> inputs::build -> logical sizes, one query at a time -> model::minimise -> JSON | svg::page
//! ```

pub mod inputs;
mod layout;
pub mod model;
pub mod svg;
#[cfg(test)]
mod tests;

pub use inputs::{Inputs, Kind as PointKind, PlacedSegment, TimelineFacts};
pub use model::{Impossible, Minimum};

use super::error::Kind;
use super::registry::Registry;
use super::state::Tenant;
use crate::timeline::{ReadError, Timeline};
use crate::types::{Lsn, TenantId, TimelineId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

#[derive(Debug, thiserror::Error)]
pub enum SizeError {
    #[error("logical size of timeline {timeline} at LSN {lsn}: {error}")]
    LogicalSize { timeline: TimelineId, lsn: Lsn, error: ReadError },
    #[error("where the history of timeline {timeline} begins: {error}")]
    Cutoffs { timeline: TimelineId, error: ReadError },
    #[error("tenant {tenant}: {error}")]
    Model { tenant: TenantId, error: Impossible },
}

impl SizeError {
    pub fn kind(&self) -> Kind {
        match self {
            // The cutoff went past the point while its size was read: the next try finds another one.
            SizeError::LogicalSize { error: ReadError::BelowCutoff { .. }, .. } => Kind::Unavailable,
            SizeError::LogicalSize { error: ReadError::ShuttingDown(_) | ReadError::WaitTimedOut { .. }, .. } => Kind::Unavailable,
            SizeError::Cutoffs { error: ReadError::BelowCutoff { .. } | ReadError::ShuttingDown(_), .. } => Kind::Unavailable,
            SizeError::Cutoffs { .. } | SizeError::LogicalSize { .. } | SizeError::Model { .. } => Kind::Internal,
        }
    }
}

/// A tenant's synthetic size with what it was computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntheticSize {
    pub tenant: TenantId,
    pub inputs: Inputs,
    /// `None` if only the inputs were asked for.
    pub minimum: Option<Minimum>,
}

impl serde::Serialize for SyntheticSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut fields = serializer.serialize_struct("SyntheticSize", 4)?;
        fields.serialize_field("id", &self.tenant)?;
        fields.serialize_field("size", &self.minimum.as_ref().map(|minimum| minimum.total))?;
        fields.serialize_field("segment_sizes", &self.minimum.as_ref().map(|minimum| &minimum.segments))?;
        fields.serialize_field("inputs", &self.inputs)?;
        fields.end()
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct SizeQuery {
    pub inputs_only: bool,
    /// Bytes of WAL; shorter than what garbage collection plans to keep.
    pub retention_period: Option<u64>,
}

/// Logical sizes that were computed before. A timeline made again under an old id begins anew.
#[derive(Default)]
pub struct LogicalSizes(Mutex<BTreeMap<TimelineId, SizesOf>>);

/// Which timeline has the id, and its sizes.
type SizesOf = (Weak<Timeline>, BTreeMap<Lsn, u64>);

impl LogicalSizes {
    fn get(&self, timeline: &Arc<Timeline>, lsn: Lsn) -> Option<u64> {
        let all = self.0.lock();
        let (of, sizes) = all.get(&timeline.identity.timeline)?;
        if of.as_ptr() == Arc::as_ptr(timeline) { sizes.get(&lsn).copied() } else { None }
    }

    fn insert(&self, timeline: &Arc<Timeline>, lsn: Lsn, size: u64) {
        let mut all = self.0.lock();
        let (of, sizes) = all.entry(timeline.identity.timeline).or_default();
        if of.as_ptr() != Arc::as_ptr(timeline) {
            (*of, *sizes) = (Arc::downgrade(timeline), BTreeMap::new());
        }
        sizes.insert(lsn, size);
    }

    /// Forgets all but these.
    fn keep(&self, used: &BTreeSet<(TimelineId, Lsn)>) {
        self.0.lock().retain(|id, (_, sizes)| {
            sizes.retain(|lsn, _| used.contains(&(*id, *lsn)));
            !sizes.is_empty()
        });
    }
}

async fn facts(timeline: &Timeline) -> Result<TimelineFacts, SizeError> {
    let failed = |error| SizeError::Cutoffs { timeline: timeline.identity.timeline, error };
    // Cutoffs before the last record, which never goes back: they are not beyond it.
    let planned = timeline.planned_cutoffs(None).await.map_err(failed)?;
    let applied = timeline.gc_cutoff_lsn();
    Ok(TimelineFacts {
        timeline_id: timeline.identity.timeline,
        ancestor_id: timeline.ancestor.as_ref().map(|ancestor| ancestor.timeline.identity.timeline),
        ancestor_lsn: timeline.ancestor_lsn(),
        initdb_lsn: timeline.identity.initdb_lsn,
        latest_gc_cutoff: applied,
        horizon_cutoff: planned.horizon.max(applied),
        pitr_cutoff: planned.pitr.max(applied),
        last_record: timeline.last_record.lsn(),
    })
}

impl Registry {
    /// Computes the synthetic size of a tenant from the timelines that serve. Reads directories of relations at every point that a
    /// snapshot may stand at and that was not asked before, which may fetch layers.
    pub async fn synthetic_size(&self, tenant: &Tenant, query: SizeQuery) -> Result<SyntheticSize, SizeError> {
        let handles = tenant.timelines();
        let timelines: BTreeMap<TimelineId, &Arc<Timeline>> =
            handles.iter().map(|handle| (handle.timeline.identity.timeline, &handle.timeline)).collect();
        let mut all = Vec::with_capacity(timelines.len());
        for timeline in timelines.values() {
            all.push(facts(timeline).await?);
        }
        let mut inputs = inputs::build(&all, query.retention_period);
        let mut used = BTreeSet::new();
        for placed in inputs.segments.iter_mut().filter(|placed| placed.takes_size()) {
            let timeline = timelines[&placed.timeline_id];
            placed.segment.size = Some(self.logical_size(tenant, timeline, placed).await?);
            used.insert((placed.timeline_id, placed.lsn()));
        }
        tenant.logical_sizes.keep(&used);
        let mut minimum = None;
        if !query.inputs_only {
            let segments: Vec<_> = inputs.segments.iter().map(|placed| placed.segment.clone()).collect();
            let found = model::minimise(&segments).map_err(|error| SizeError::Model { tenant: tenant.id, error })?;
            minimum = Some(found);
        }
        Ok(SyntheticSize { tenant: tenant.id, inputs, minimum })
    }

    /// The logical size at a point; one at a time on the node.
    async fn logical_size(&self, tenant: &Tenant, timeline: &Arc<Timeline>, placed: &PlacedSegment) -> Result<u64, SizeError> {
        let lsn = placed.lsn();
        let failed = |error| SizeError::LogicalSize { timeline: placed.timeline_id, lsn, error };
        if let Some(size) = tenant.logical_sizes.get(timeline, lsn) {
            return Ok(size);
        }
        // After a start the timeline may still be on its way to a branch point.
        timeline.wait_lsn(lsn).await.map_err(failed)?;
        let _alone = self.logical_size_queries.lock().await;
        if let Some(size) = tenant.logical_sizes.get(timeline, lsn) {
            return Ok(size);
        }
        let size = timeline.logical_size(lsn).await;
        // Branch points stay readable; what lies at other points below the cutoff is not what it was.
        if placed.kind != PointKind::BranchPoint {
            timeline.check_cutoff(lsn).map_err(failed)?;
        }
        let size = size.map_err(failed)?;
        tenant.logical_sizes.insert(timeline, lsn, size);
        Ok(size)
    }
}
