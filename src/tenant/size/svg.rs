//! The tree of history as one HTML page that needs nothing else: a row for each timeline, LSNs to the right, what is kept in colour.

use super::inputs::{Kind, PlacedSegment, TimelineInputs};
use super::model::{Method, SegmentSize};
use super::{SyntheticSize, layout};
use crate::types::{Lsn, TimelineId};
use layout::{Axis, LEFT, Row, WIDTH};
use std::fmt::Write as _;

const STYLE: &str = include_str!("style.css");

/// Height of a row, and of what is above the first one.
const ROW: u64 = 44;
const TOP: u64 = 46;
/// Where the column of costs begins, its bars' width, and the picture's.
const COSTS: u64 = LEFT + WIDTH + 48;
const BAR: u64 = 150;
const PICTURE: u64 = COSTS + BAR + 16;
/// Width of a character of a label, and of an LSN of the axis with some air.
const CHARACTER: u64 = 7;
const TICK: u64 = 92;
/// With more rows than these the axis stands below them too.
const ROWS_OF_A_SCREEN: usize = 14;

/// Text that is safe inside HTML and its attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// `512 B`, `1.5 MiB`.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.checked_ilog2().unwrap_or(0) / 10) as usize;
    if unit == 0 {
        return format!("{bytes} B");
    }
    // Rounded to tenths; what rounds up to the next unit is said in it.
    match (u128::from(bytes) * 10 + (1 << (10 * unit - 1))) >> (10 * unit) {
        10240 => format!("1.0 {}", UNITS[unit + 1]),
        tenths => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
    }
}

/// `1234567` as `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join("\u{202f}")
}

fn counted(count: usize, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// The page of a computed size, or of its inputs alone.
pub fn page(size: &SyntheticSize) -> String {
    let rows = layout::rows(size);
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Synthetic size of {}</title>\n<style>\n{STYLE}</style></head><body>\n",
        escape(&size.tenant.to_string())
    );
    head(&mut out, size, &rows);
    if rows.is_empty() {
        out.push_str("<p>There are no timelines.</p>\n");
    } else {
        legend(&mut out, size.minimum.is_some());
        picture(&mut out, size, &rows);
    }
    out.push_str("</body></html>\n");
    out
}

fn head(out: &mut String, size: &SyntheticSize, rows: &[Row<'_>]) {
    let total = size.minimum.as_ref().map_or_else(|| "inputs only".to_string(), |minimum| human(minimum.total));
    let _ = write!(
        out,
        "<header><h1>Synthetic size: <b>{}</b></h1>\n<p>tenant <code>{}</code>, {}",
        escape(&total),
        escape(&size.tenant.to_string()),
        counted(rows.len(), "timeline")
    );
    if let Some(minimum) = &size.minimum {
        let snapshots = minimum.segments.iter().filter(|segment| segment.method == Method::SnapshotHere).count();
        let (of_snapshots, of_wal) =
            rows.iter().fold((0u64, 0u64), |(s, w), row| (s.saturating_add(row.snapshot_bytes), w.saturating_add(row.wal_bytes)));
        let _ = write!(
            out,
            ": {} bytes = {} of {} + {} of WAL",
            grouped(minimum.total),
            human(of_snapshots),
            counted(snapshots, "snapshot"),
            human(of_wal)
        );
    }
    out.push_str("</p></header>\n");
}

fn legend(out: &mut String, with_methods: bool) {
    let line = |class: &str| format!("<line class=\"{class}\" x1=\"1\" x2=\"33\" y1=\"8\" y2=\"8\"/>");
    let methods = [
        (line("Wal"), "Wal", "all changes up to the next point are kept"),
        (
            format!("{}<circle class=\"snapshot\" cx=\"28\" cy=\"8\" r=\"5\"/>", line("SnapshotHere")),
            "SnapshotHere",
            "the state at the point is kept, nothing before it",
        ),
        (line("Skipped"), "Skipped", "not kept"),
    ];
    let marks = [
        ("<rect class=\"window\" x=\"1\" y=\"1\" width=\"32\" height=\"14\"/>".to_string(), "window", "must stay readable at every LSN"),
        ("<circle class=\"point\" cx=\"17\" cy=\"8\" r=\"3.5\"/>".to_string(), "branch point", "must stay readable too"),
    ];
    out.push_str("<ul class=\"legend\">");
    for (drawing, name, meaning) in methods.iter().filter(|_| with_methods).chain(&marks) {
        let _ = write!(out, "<li><svg width=\"34\" height=\"16\" aria-hidden=\"true\">{drawing}</svg> <b>{name}</b> {meaning}</li>");
    }
    out.push_str("<li>To the right: LSNs, spaced half by bytes of WAL and half by order.</li></ul>\n");
}

fn picture(out: &mut String, size: &SyntheticSize, rows: &[Row<'_>]) {
    let axis = Axis::new(size.inputs.segments.iter().map(|placed| placed.segment.lsn));
    let bottom = TOP + rows.len() as u64 * ROW;
    let is_long = rows.len() > ROWS_OF_A_SCREEN;
    let _ = writeln!(
        out,
        "<main><svg class=\"tree\" width=\"{PICTURE}\" height=\"{}\" role=\"img\" aria-label=\"Tree of timelines\">",
        bottom + if is_long { 30 } else { 8 }
    );
    out.push_str("<text class=\"column\" x=\"10\" y=\"16\">timeline</text>");
    if size.minimum.is_some() {
        let _ = write!(out, "<text class=\"column\" x=\"{COSTS}\" y=\"16\">adds to the size</text>");
    }
    for (lsn, x) in axis.ticks(TICK) {
        let _ = write!(out, "<line class=\"grid\" x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{bottom}\"/>", TOP - 18);
        let _ = write!(out, "<text class=\"tick\" x=\"{x}\" y=\"{}\">{lsn}</text>", TOP - 24);
        if is_long {
            let _ = write!(out, "<text class=\"tick\" x=\"{x}\" y=\"{}\">{lsn}</text>", bottom + 18);
        }
    }
    out.push('\n');
    // Connections lie below everything, for they cross rows.
    for (n, row) in rows.iter().enumerate() {
        if let (Some(above), Some(first)) = (row.parent_row, row.segments.first()) {
            let (x, class) = (axis.x(first.0.lsn()), class_of(first.1));
            let _ = write!(out, "<line class=\"branch {class}\" x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{}\"/>", middle(above), middle(n));
        }
    }
    out.push('\n');
    let largest = rows.iter().map(Row::cost).max().unwrap_or_default();
    for (n, row) in rows.iter().enumerate() {
        out.push_str("<g class=\"row\">");
        let _ = write!(out, "<rect class=\"stripe\" x=\"0\" y=\"{}\" width=\"{PICTURE}\" height=\"{ROW}\"/>", middle(n) - ROW / 2);
        name(out, row, middle(n));
        history(out, &axis, row, middle(n));
        if size.minimum.is_some() {
            cost(out, row, middle(n), largest);
        }
        out.push_str("</g>\n");
    }
    out.push_str("</svg></main>\n");
}

fn middle(row: usize) -> u64 {
    TOP + row as u64 * ROW + ROW / 2
}

fn class_of(size: Option<SegmentSize>) -> &'static str {
    match size.map(|size| size.method) {
        Some(Method::SnapshotHere) => "SnapshotHere",
        Some(Method::Wal) => "Wal",
        Some(Method::Skipped) => "Skipped",
        None => "unknown",
    }
}

fn short(id: TimelineId) -> String {
    escape(&id.to_string().chars().take(8).chain(['…']).collect::<String>())
}

fn name(out: &mut String, row: &Row<'_>, y: u64) {
    let TimelineInputs { ancestor_id, ancestor_lsn, last_record, horizon_cutoff, pitr_cutoff, next_gc_cutoff, .. } = row.timeline;
    let mut tip = format!("timeline {}", row.timeline.timeline_id);
    if let Some(ancestor) = ancestor_id {
        let _ = write!(tip, "\nbranch of {ancestor} at {ancestor_lsn}");
    }
    let _ = write!(
        tip,
        "\nlast record {last_record}\nwindow from {next_gc_cutoff}: horizon {horizon_cutoff}, time {pitr_cutoff}\nreadable from {}",
        row.timeline.latest_gc_cutoff
    );
    if let Some(cutoff) = row.timeline.retention_param_cutoff {
        let _ = write!(tip, "\nretention asked for: from {cutoff}");
    }
    let id = short(row.timeline.timeline_id);
    let _ =
        write!(out, "<text class=\"name\" x=\"{}\" y=\"{}\">{id}<title>{}</title></text>", 10 + 9 * row.depth.min(6), y + 4, escape(&tip));
}

/// The line of a timeline with its points and labels.
fn history(out: &mut String, axis: &Axis, row: &Row<'_>, y: u64) {
    let (Some((start, _)), Some((end, _))) = (row.segments.first(), row.segments.last()) else { return };
    let from = axis.x(row.timeline.next_gc_cutoff.max(start.lsn()));
    let to = axis.x(end.lsn());
    if to > from {
        let width = to - from;
        let _ = write!(out, "<rect class=\"window\" x=\"{from}\" y=\"{}\" width=\"{width}\" height=\"24\"/>", y - 12);
    }
    for pair in row.segments.windows(2) {
        let (x1, x2) = (axis.x(pair[0].0.lsn()), axis.x(pair[1].0.lsn()));
        let tip = tip(&pair[1], Some(pair[0].0.lsn()));
        let class = class_of(pair[1].1);
        let _ = write!(
            out,
            "<g><title>{tip}</title><line class=\"hit\" x1=\"{x1}\" x2=\"{x2}\" y1=\"{y}\" y2=\"{y}\"/>\
             <line class=\"{class}\" x1=\"{x1}\" x2=\"{x2}\" y1=\"{y}\" y2=\"{y}\"/></g>"
        );
    }
    for (n, of) in row.segments.iter().enumerate() {
        // A timeline without history of its own is one point.
        if of.0.kind == Kind::BranchEnd && to == axis.x(start.lsn()) {
            continue;
        }
        let tip = tip(of, n.checked_sub(1).map(|before| row.segments[before].0.lsn()));
        let _ = write!(out, "<g><title>{tip}</title>{}</g>", mark(of, axis.x(of.0.lsn()), y));
    }
    labels(out, axis, row, y);
}

/// The sign of a point.
fn mark((placed, size): &(&PlacedSegment, Option<SegmentSize>), x: u64, y: u64) -> String {
    if size.is_some_and(|size| size.method == Method::SnapshotHere) {
        return format!("<circle class=\"snapshot\" cx=\"{x}\" cy=\"{y}\" r=\"7\"/>");
    }
    let bar = |class: &str, half: u64| format!("<line class=\"{class}\" x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{}\"/>", y - half, y + half);
    match placed.kind {
        Kind::BranchStart | Kind::BranchPoint => format!("<circle class=\"point\" cx=\"{x}\" cy=\"{y}\" r=\"4\"/>"),
        Kind::GcCutOff => bar("cutoff", 12),
        Kind::BranchEnd => bar("end", 7),
    }
}

fn tip((placed, size): &(&PlacedSegment, Option<SegmentSize>), before: Option<Lsn>) -> String {
    let segment = &placed.segment;
    let mut tip = format!("{:?} at {}", placed.kind, placed.lsn());
    if let Some(before) = before {
        let _ = write!(tip, "\nWAL since {before}: {}", human(placed.lsn().distance_from(before)));
    }
    let _ = write!(tip, "\nneeded: {}", segment.needed);
    if let Some(bytes) = segment.size {
        let _ = write!(tip, "\nsize: {} ({})", human(bytes), grouped(bytes));
    }
    if let Some(size) = size {
        let _ = write!(tip, "\nmethod: {}\naccum_size: {} ({})", class_of(Some(*size)), human(size.accum_size), grouped(size.accum_size));
    }
    escape(&tip)
}

/// Sizes of snapshots below the line and bytes of WAL above it, where there is room; tips have them all.
fn labels(out: &mut String, axis: &Axis, row: &Row<'_>, y: u64) {
    let mut free_from = 0;
    for (placed, size) in &row.segments {
        let (Some(bytes), true) = (placed.segment.size, size.is_some_and(|size| size.method == Method::SnapshotHere)) else { continue };
        let (text, x) = (human(bytes), axis.x(placed.lsn()));
        let half = text.len() as u64 * CHARACTER / 2;
        if x.saturating_sub(half) >= free_from {
            let _ = write!(out, "<text class=\"size\" x=\"{x}\" y=\"{}\">{text}</text>", y + 20);
            free_from = x + half;
        }
    }
    for pair in row.segments.windows(2) {
        let (before, (placed, size)) = (pair[0].0.lsn(), &pair[1]);
        let (x1, x2, text) = (axis.x(before), axis.x(placed.lsn()), human(placed.lsn().distance_from(before)));
        let is_wal = size.is_some_and(|size| size.method == Method::Wal);
        if is_wal && x2.saturating_sub(x1) > text.len() as u64 * CHARACTER + 8 {
            let _ = write!(out, "<text class=\"wal\" x=\"{}\" y=\"{}\">{text}</text>", x1.midpoint(x2), y - 6);
        }
    }
}

/// What the timeline adds to the total: a bar of its share of the largest one, snapshots first, and the number.
fn cost(out: &mut String, row: &Row<'_>, y: u64, largest: u64) {
    let share = |bytes: u64| (u128::from(bytes) * u128::from(BAR) / u128::from(largest.max(1))) as u64;
    if row.cost() == 0 {
        let _ = write!(out, "<text class=\"none\" x=\"{COSTS}\" y=\"{}\">nothing</text>", y + 4);
        return;
    }
    let (snapshots, both) = (share(row.snapshot_bytes), share(row.cost()));
    let tip = format!("snapshots: {}\nWAL: {}", human(row.snapshot_bytes), human(row.wal_bytes));
    let text = human(row.cost());
    let _ = write!(
        out,
        "<g><title>{tip}</title><text class=\"cost\" x=\"{COSTS}\" y=\"{0}\">{text}</text>\
         <rect class=\"track\" x=\"{COSTS}\" y=\"{1}\" width=\"{BAR}\" height=\"6\"/>\
         <rect class=\"snapshots\" x=\"{COSTS}\" y=\"{1}\" width=\"{snapshots}\" height=\"6\"/>\
         <rect class=\"changes\" x=\"{2}\" y=\"{1}\" width=\"{3}\" height=\"6\"/></g>",
        y - 2,
        y + 5,
        COSTS + snapshots,
        both - snapshots,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_people_read_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (27_000_000, "25.7 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
        assert_eq!(
            ["0", "999", "1000", "1234567"].map(|n| grouped(n.parse().unwrap()).replace('\u{202f}', " ")),
            ["0", "999", "1 000", "1 234 567"]
        );
        assert_eq!(escape("<a b=\"c\">'&"), "&lt;a b=&quot;c&quot;&gt;&#39;&amp;");
    }
}
