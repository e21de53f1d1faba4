//! From the timelines of a tenant to the segments of the size model. Pure.
//!
//! A timeline becomes a chain: its start, the points where others branch from it and where its window of history begins, its end. The
//! start hangs on the ancestor's branch point.

use super::model::Segment;
use crate::types::{Lsn, TimelineId};
use std::collections::{BTreeMap, BTreeSet};

/// What the model takes of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineFacts {
    pub timeline_id: TimelineId,
    pub ancestor_id: Option<TimelineId>,
    /// [`Lsn::INVALID`] for a root.
    pub ancestor_lsn: Lsn,
    pub initdb_lsn: Lsn,
    pub last_record: Lsn,
    /// Reads below this are refused.
    pub latest_gc_cutoff: Lsn,
    /// Where the history begins that is kept for its amount of WAL.
    pub horizon_cutoff: Lsn,
    /// Where the history begins that is kept for its age.
    pub pitr_cutoff: Lsn,
}

/// Kinds of points, in the order in which those at one LSN stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Kind {
    BranchStart,
    BranchPoint,
    GcCutOff,
    BranchEnd,
}

/// A segment with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PlacedSegment {
    pub segment: Segment,
    pub timeline_id: TimelineId,
    /// Of the point at its end.
    pub kind: Kind,
}

impl PlacedSegment {
    pub fn lsn(&self) -> Lsn {
        Lsn(self.segment.lsn)
    }

    /// The model may take a snapshot at its point.
    pub fn takes_size(&self) -> bool {
        match self.kind {
            Kind::BranchPoint | Kind::GcCutOff => true,
            Kind::BranchStart => self.segment.needed && self.segment.parent.is_none(),
            Kind::BranchEnd => false,
        }
    }
}

/// What was taken of a timeline, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TimelineInputs {
    pub timeline_id: TimelineId,
    pub ancestor_id: Option<TimelineId>,
    pub ancestor_lsn: Lsn,
    pub last_record: Lsn,
    pub latest_gc_cutoff: Lsn,
    pub horizon_cutoff: Lsn,
    pub pitr_cutoff: Lsn,
    /// Where the timeline's window of history begins.
    pub next_gc_cutoff: Lsn,
    /// Where it would begin for the retention period that was asked for; `null` without one.
    pub retention_param_cutoff: Option<Lsn>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Inputs {
    /// Parents stand before their children. No sizes yet.
    pub segments: Vec<PlacedSegment>,
    /// Ancestors stand before their branches.
    pub timeline_inputs: Vec<TimelineInputs>,
}

/// Cuts the history of timelines into segments. A `retention` in bytes of WAL makes windows shorter, never longer.
///
/// A timeline whose ancestor is not among the others counts as a root.
pub fn build(timelines: &[TimelineFacts], retention: Option<u64>) -> Inputs {
    let by_id: BTreeMap<TimelineId, &TimelineFacts> = timelines.iter().map(|facts| (facts.timeline_id, facts)).collect();
    let mut branches: BTreeMap<TimelineId, BTreeSet<(Lsn, TimelineId)>> = BTreeMap::new();
    let mut waiting = Vec::new();
    for facts in by_id.values().rev() {
        match facts.ancestor_id.filter(|ancestor| by_id.contains_key(ancestor)) {
            Some(ancestor) => _ = branches.entry(ancestor).or_default().insert((facts.ancestor_lsn, facts.timeline_id)),
            None => waiting.push((facts.timeline_id, None)),
        }
    }
    let mut inputs = Inputs::default();
    let none = BTreeSet::new();
    // Down one branch before the next: what belongs together stays together.
    while let Some((id, parent)) = waiting.pop() {
        let (timeline, branches) = (derive(by_id[&id], retention), branches.get(&id).unwrap_or(&none));
        let points = branches.iter().map(|(lsn, _)| *lsn).collect();
        let segment_at = add_chain(&mut inputs.segments, &timeline, (branch_start(by_id[&id]), parent), points);
        waiting.extend(branches.iter().rev().map(|(lsn, branch)| (*branch, Some(segment_at[lsn]))));
        inputs.timeline_inputs.push(timeline);
    }
    assert_eq!(inputs.timeline_inputs.len(), by_id.len(), "timelines descend from themselves");
    inputs
}

fn branch_start(facts: &TimelineFacts) -> Lsn {
    facts.ancestor_lsn.max(facts.initdb_lsn)
}

fn derive(facts: &TimelineFacts, retention: Option<u64>) -> TimelineInputs {
    let retention_param_cutoff = retention.map(|bytes| facts.last_record.saturating_sub(bytes));
    let planned = facts.horizon_cutoff.min(facts.pitr_cutoff);
    TimelineInputs {
        timeline_id: facts.timeline_id,
        ancestor_id: facts.ancestor_id,
        ancestor_lsn: facts.ancestor_lsn,
        last_record: facts.last_record,
        latest_gc_cutoff: facts.latest_gc_cutoff,
        horizon_cutoff: facts.horizon_cutoff,
        pitr_cutoff: facts.pitr_cutoff,
        next_gc_cutoff: retention_param_cutoff.map_or(planned, |cutoff| planned.max(cutoff)),
        retention_param_cutoff,
    }
}

/// Adds the segments of one timeline, and tells for each LSN of `branches` the index of the one to hang on.
fn add_chain(
    segments: &mut Vec<PlacedSegment>,
    timeline: &TimelineInputs,
    (start, parent): (Lsn, Option<usize>),
    branches: BTreeSet<Lsn>,
) -> BTreeMap<Lsn, usize> {
    let cutoff = timeline.next_gc_cutoff;
    let mut add = |parent, lsn: Lsn, needed, kind| {
        let segment = Segment { parent, lsn: lsn.0, size: None, needed };
        segments.push(PlacedSegment { segment, timeline_id: timeline.timeline_id, kind });
        segments.len() - 1
    };
    let first = add(parent, start, cutoff <= start, Kind::BranchStart);
    // A branch made where this one itself begins has the same past: it hangs on the start.
    let is_at_start = |lsn: &Lsn| parent.is_some() && *lsn <= timeline.ancestor_lsn;
    let (at_start, behind): (Vec<Lsn>, Vec<Lsn>) = branches.into_iter().partition(is_at_start);
    let mut segment_at: BTreeMap<Lsn, usize> = at_start.into_iter().map(|lsn| (lsn, first)).collect();
    let mut points: BTreeSet<(Lsn, Kind)> = behind.into_iter().map(|lsn| (lsn, Kind::BranchPoint)).collect();
    if cutoff > start {
        points.insert((cutoff, Kind::GcCutOff));
    }
    let mut last = first;
    for (lsn, kind) in points {
        last = add(Some(last), lsn, lsn > cutoff, kind);
        if kind == Kind::BranchPoint {
            segment_at.insert(lsn, last);
        }
    }
    add(Some(last), timeline.last_record, true, Kind::BranchEnd);
    segment_at
}
