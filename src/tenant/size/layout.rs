//! Where things stand in the picture of a tree: timelines to rows, LSNs to columns. Whole pixels, so that a picture is always the same.

use super::SyntheticSize;
use super::inputs::{PlacedSegment, TimelineInputs};
use super::model::{Method, SegmentSize};
use crate::types::{Lsn, TimelineId};
use std::collections::BTreeMap;

/// The columns between these hold the history.
pub const LEFT: u64 = 160;
pub const WIDTH: u64 = 880;

/// A timeline of the picture.
pub struct Row<'a> {
    pub timeline: &'a TimelineInputs,
    /// Its chain, with what becomes of each if that was computed.
    pub segments: Vec<(&'a PlacedSegment, Option<SegmentSize>)>,
    /// The row of the segment that its start hangs on.
    pub parent_row: Option<usize>,
    /// Ancestors above it.
    pub depth: u64,
    /// What its own segments cost.
    pub snapshot_bytes: u64,
    pub wal_bytes: u64,
}

impl Row<'_> {
    pub fn cost(&self) -> u64 {
        self.snapshot_bytes.saturating_add(self.wal_bytes)
    }
}

/// One row for each timeline, in the order of the inputs: branches stand below their ancestors.
pub fn rows(size: &SyntheticSize) -> Vec<Row<'_>> {
    let inputs = &size.inputs;
    let row_of: BTreeMap<TimelineId, usize> = inputs.timeline_inputs.iter().enumerate().map(|(n, t)| (t.timeline_id, n)).collect();
    let mut rows: Vec<Row<'_>> = Vec::with_capacity(inputs.timeline_inputs.len());
    for timeline in &inputs.timeline_inputs {
        let parent_row = timeline.ancestor_id.and_then(|ancestor| row_of.get(&ancestor).copied());
        let depth = parent_row.and_then(|row| rows.get(row)).map_or(0, |above| above.depth + 1);
        rows.push(Row { timeline, segments: Vec::new(), parent_row, depth, snapshot_bytes: 0, wal_bytes: 0 });
    }
    for (n, placed) in inputs.segments.iter().enumerate() {
        let kept = size.minimum.as_ref().map(|minimum| minimum.segments[n]);
        let row = &mut rows[row_of[&placed.timeline_id]];
        row.segments.push((placed, kept));
        let before = placed.segment.parent.map(|parent| inputs.segments[parent].lsn());
        let (sum, bytes) = match kept.map(|kept| kept.method) {
            Some(Method::SnapshotHere) => (&mut row.snapshot_bytes, placed.segment.size.unwrap_or_default()),
            Some(Method::Wal) => (&mut row.wal_bytes, before.map_or(0, |before| placed.lsn().distance_from(before))),
            Some(Method::Skipped) | None => continue,
        };
        *sum = sum.saturating_add(bytes);
    }
    rows
}

/// LSNs to columns. Half of the width goes by bytes and half by order, so that points that lie close can be told apart.
pub struct Axis {
    columns: BTreeMap<u64, u64>,
}

impl Axis {
    pub fn new(lsns: impl Iterator<Item = u64>) -> Axis {
        let mut columns: BTreeMap<u64, u64> = lsns.map(|lsn| (lsn, 0)).collect();
        let (first, last) = (columns.keys().next().copied().unwrap_or(0), columns.keys().next_back().copied().unwrap_or(0));
        let (bytes, steps) = ((last - first).max(1), (columns.len() as u64).saturating_sub(1).max(1));
        for (order, (lsn, column)) in columns.iter_mut().enumerate() {
            let by_bytes = u128::from(lsn - first) * u128::from(WIDTH) / u128::from(bytes);
            let by_order = order as u64 * WIDTH / steps;
            *column = LEFT + (by_bytes as u64).midpoint(by_order);
        }
        Axis { columns }
    }

    /// The column of a point; of an LSN that is none, that of the last point before it.
    pub fn x(&self, lsn: Lsn) -> u64 {
        self.columns.range(..=lsn.0).next_back().map_or(LEFT, |(_, column)| *column)
    }

    /// Points to write at the axis: the first, the last, and between them as many as stand `apart` from each other.
    pub fn ticks(&self, apart: u64) -> Vec<(Lsn, u64)> {
        let all: Vec<(Lsn, u64)> = self.columns.iter().map(|(lsn, column)| (Lsn(*lsn), *column)).collect();
        let Some(last) = all.last().copied() else { return Vec::new() };
        let mut ticks: Vec<(Lsn, u64)> = Vec::new();
        for tick in all {
            let is_free = ticks.last().is_none_or(|before| tick.1 >= before.1 + apart);
            if is_free && (tick.1 + apart <= last.1 || tick == last || ticks.is_empty()) {
                ticks.push(tick);
            }
        }
        ticks
    }
}
