//! Garbage collection: history that no setting and no branch asks for goes away, layer by layer.
//!
//! ```text
//! cutoffs (by WAL, by time) -> publish the cutoff -> choose (pure) -> index without the layers -> deletion
//! ```
//!
//! Invariants
//! - GC-1: every LSN from the cutoff on, and every branch point, reads as before.
//! - GC-2: the cutoff is published before a layer goes, and a read looks at it after it has collected: it never answers from
//!   half a history.
//! - GC-3: a branch point is pinned, or refused, in one step with the look at the cutoff.

pub mod choose;
#[cfg(test)]
mod tests;

use super::commit_time::TimeKind;
use super::{LayerSet, ReadError, Timeline, repeat};
use crate::config::TenantConfig;
use crate::remote::AttachMode;
use crate::types::timestamp::PgTimestamp;
use crate::types::{Lsn, TimelineId};
use choose::{Cutoffs, GcCounts};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

/// Collects again and again until cancelled.
pub async fn run(timeline: Arc<Timeline>, cancel: CancellationToken) {
    let period = |settings: &TenantConfig| repeat::unless_zero(settings.gc_period);
    repeat::run(timeline, cancel, "garbage collection", period, |timeline| async move { timeline.gc_now(None).await.map(|_| ()) }).await;
}

impl Timeline {
    /// Where the settings allow the cutoff now; `horizon` in the place of `gc_horizon`.
    pub async fn planned_cutoffs(&self, horizon: Option<u64>) -> Result<Cutoffs, ReadError> {
        let settings = self.settings();
        let (applied, last) = (self.gc_cutoff_lsn(), self.last_record.lsn());
        let by_wal = last.saturating_sub(horizon.unwrap_or(settings.gc_horizon)).min(self.disk_consistent_lsn());
        if settings.pitr_interval.is_zero() {
            return Ok(Cutoffs { horizon: by_wal, pitr: by_wal });
        }
        let interval = i64::try_from(settings.pitr_interval.as_micros()).unwrap_or(i64::MAX);
        let then = PgTimestamp(self.shared.env.clock.wall().postgres_micros().saturating_sub(interval));
        let by_time = match self.lsn_of_time(then).await? {
            (TimeKind::Present, lsn) => lsn,
            // Nothing was committed since.
            (TimeKind::Future, _) => by_wal,
            (TimeKind::Past | TimeKind::NoData, _) => applied,
        };
        Ok(Cutoffs { horizon: by_wal, pitr: by_time })
    }

    /// One pass; `horizon` in the place of `gc_horizon`. Waits while compaction runs.
    pub async fn gc_now(self: &Arc<Timeline>, horizon: Option<u64>) -> Result<GcCounts, ReadError> {
        if self.attachment.mode() == AttachMode::Stale || self.attachment.is_gc_held() {
            return Ok(GcCounts::default());
        }
        let cutoffs = self.planned_cutoffs(horizon).await?;
        // Layers come and go by compaction alone.
        let mut compaction = self.compacting.lock().await;
        let branch_points = self.publish_cutoff(cutoffs.effective());
        // What is applied already stays applied: the settings may ask for more history than there is.
        let applied = self.gc_cutoff_lsn();
        let cutoffs = Cutoffs { horizon: cutoffs.horizon.max(applied), pitr: cutoffs.pitr.max(applied) };
        let branch_points = if crate::planted!(self.shared.env, "gc-forgets-branches") { Vec::new() } else { branch_points };
        let chosen = choose::choose(&self.layers().historic, cutoffs, &branch_points);
        compaction.wanted = if self.settings().gc_feedback { chosen.not_updated } else { Vec::new() };
        if !chosen.remove.is_empty() {
            self.remove_layers(&chosen.remove);
        }
        Ok(chosen.counts)
    }

    /// Raises the cutoff; gives the branch points that lie in this timeline.
    fn publish_cutoff(&self, cutoff: Lsn) -> Vec<Lsn> {
        let pins = self.pins.lock();
        let before = self.gc_cutoff.fetch_max(cutoff.0, Ordering::AcqRel);
        if before < cutoff.0 {
            self.shared.env.probe.event("gc-cutoff", &|| format!("timeline={} lsn={cutoff}", self.identity.timeline));
        }
        pins.values().copied().collect()
    }

    fn remove_layers(&self, names: &[crate::layer::LayerName]) {
        let layers = self.layers();
        let gone =
            layers.historic.iter().filter(|layer| names.contains(&layer.name)).map(|l| (l.name.clone(), l.meta.generation)).collect();
        let change = || {
            self.change_layers(|now| {
                let mut historic = now.historic.clone();
                Arc::make_mut(&mut historic).replace(names, Vec::new());
                LayerSet { open: now.open.clone(), frozen: now.frozen.clone(), historic }
            });
        };
        self.shared.env.probe.mark("gc-removed");
        self.shared.env.probe.event("gc", &|| format!("timeline={} removed={}", self.identity.timeline, names.len()));
        self.schedule_upload(change, Vec::new(), gone);
    }

    /// Keeps what a branch at `lsn` reads, for as long as the timeline runs or until [`Timeline::unpin`].
    ///
    /// Errors: it may be gone already.
    pub fn pin(&self, branch: TimelineId, lsn: Lsn) -> Result<(), ReadError> {
        let mut pins = self.pins.lock();
        // What an earlier try pinned was kept since.
        if pins.get(&branch) != Some(&lsn) {
            self.check_cutoff(lsn)?;
        }
        let pinned = pins.entry(branch).or_insert(lsn);
        *pinned = (*pinned).min(lsn);
        Ok(())
    }

    /// The same for a branch that exists: its history is there, whatever the cutoff.
    pub fn pin_existing(&self, branch: TimelineId, lsn: Lsn) {
        self.pins.lock().insert(branch, lsn);
    }

    /// Whether an earlier try pinned this for this branch.
    pub fn has_pinned(&self, branch: TimelineId, lsn: Lsn) -> bool {
        self.pins.lock().get(&branch) == Some(&lsn)
    }

    pub(super) fn is_pinned(&self, lsn: Lsn) -> bool {
        self.pins.lock().values().any(|pinned| *pinned == lsn)
    }

    pub fn unpin(&self, branch: TimelineId) {
        self.pins.lock().remove(&branch);
    }
}
