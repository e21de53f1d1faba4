//! The size model: what keeping a tree of history costs at least, when each part of it may be kept as a snapshot, as WAL, or not at all.
//!
//! In: segments, each the stretch of history from its parent to a point. Out: for each the way that makes the whole cheapest, and the
//! bytes of its subtree. Pure. One pass from the leaves up and one down; no recursion, so the depth of a tree has no bound.

/// The history from the parent's point to this one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Segment {
    /// Index of the segment before, which is lower than this one's; `None` for a root.
    pub parent: Option<usize>,
    /// The point at its end, as a number of bytes.
    pub lsn: u64,
    /// Bytes of a snapshot at the point, where one may be taken.
    pub size: Option<u64>,
    /// The WAL up to the point must be kept.
    pub needed: bool,
}

/// How a segment is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Method {
    /// A snapshot at its point; nothing before it.
    SnapshotHere,
    /// All its WAL.
    Wal,
    /// Nothing: what comes after begins with snapshots of its own.
    Skipped,
}

/// What becomes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct SegmentSize {
    pub method: Method,
    /// Bytes of the segment and everything after it.
    pub accum_size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minimum {
    /// Bytes of the roots with all that follows them; at least 1.
    pub total: u64,
    /// In the order of the segments.
    pub segments: Vec<SegmentSize>,
}

/// No way of keeping the tree makes this segment readable: it is a root, and neither it nor all its ends may begin with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("segment {0} of the size model can neither be kept nor left out")]
pub struct Impossible(pub usize);

/// Two answers for one segment: the state at its parent's point is there already, or nothing before the segment is kept.
#[derive(Clone, Copy)]
struct Choice {
    inc: SegmentSize,
    non: Option<SegmentSize>,
}

/// Costs of the children of a segment.
#[derive(Clone, Copy)]
struct Children {
    inc: u64,
    /// `None`: one of them needs what comes before it.
    non: Option<u64>,
}

/// Finds the cheapest way. Of equal ways, less is kept: skipping goes before a snapshot, a snapshot before WAL.
///
/// Panics: a parent that does not stand before its segment.
pub fn minimise(segments: &[Segment]) -> Result<Minimum, Impossible> {
    let choices = choices(segments);
    let mut chosen: Vec<SegmentSize> = Vec::with_capacity(segments.len());
    let mut total = 0u64;
    for (index, (segment, choice)) in segments.iter().zip(&choices).enumerate() {
        let without = match segment.parent {
            None => true,
            Some(parent) => chosen[parent].method == Method::Skipped,
        };
        let size = if without { choice.non.ok_or(Impossible(index))? } else { choice.inc };
        if segment.parent.is_none() {
            total = total.saturating_add(size.accum_size);
        }
        chosen.push(size);
    }
    Ok(Minimum { total: total.max(1), segments: chosen })
}

/// Leaves first: both answers of every segment.
fn choices(segments: &[Segment]) -> Vec<Choice> {
    let mut children = vec![Children { inc: 0, non: Some(0) }; segments.len()];
    let mut choices = Vec::with_capacity(segments.len());
    for (index, segment) in segments.iter().enumerate().rev() {
        let choice = choose(segment, segment.parent.map(|parent| segments[parent].lsn), children[index]);
        if let Some(parent) = segment.parent {
            assert!(parent < index, "segment {index} stands before its parent {parent}");
            let sum = &mut children[parent];
            sum.inc = sum.inc.saturating_add(choice.inc.accum_size);
            sum.non = sum.non.zip(choice.non).map(|(sum, non)| sum.saturating_add(non.accum_size));
        }
        choices.push(choice);
    }
    choices.reverse();
    choices
}

fn choose(segment: &Segment, parent_lsn: Option<u64>, children: Children) -> Choice {
    let as_is = |method| move |accum_size| SegmentSize { method, accum_size };
    let later = children.non.filter(|_| !segment.needed).map(as_is(Method::Skipped));
    let may_begin = !segment.needed || parent_lsn.is_none();
    let here = segment.size.filter(|_| may_begin).map(|size| size.saturating_add(children.inc)).map(as_is(Method::SnapshotHere));
    let wal_bytes = parent_lsn.map_or(0, |parent| segment.lsn.saturating_sub(parent));
    let wal = as_is(Method::Wal)(wal_bytes.saturating_add(children.inc));
    // The first of equal ones.
    let non = later.into_iter().chain(here).min_by_key(|way| way.accum_size);
    let inc = non.filter(|non| non.accum_size <= wal.accum_size).unwrap_or(wal);
    Choice { inc, non }
}
