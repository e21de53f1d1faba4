//! Trees as text, with what they cost; the minimum against all ways there are; JSON and page of a small tree.

use super::inputs::{self, Inputs, TimelineFacts};
use super::model::{Impossible, Method, Minimum, Segment, minimise};
use super::{LogicalSizes, SizeError, SyntheticSize, svg};
use crate::timeline::testing;
use crate::types::{Lsn, TenantId, TimelineId};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Segments as `parent lsn [=size] [!]`, one after the other; `!` is one that is needed.
fn segments(text: &str) -> Vec<Segment> {
    let segment = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        Segment {
            parent: words[0].parse().ok(),
            lsn: words[1].parse().unwrap(),
            size: words.iter().find_map(|word| word.strip_prefix('=')).map(|size| size.parse().unwrap()),
            needed: words.contains(&"!"),
        }
    };
    text.split('|').map(segment).collect()
}

fn told(minimum: &Minimum) -> String {
    let told = minimum.segments.iter().map(|size| format!("{:?} {}", size.method, size.accum_size));
    told.collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn check_minimum(tree: &str, total: u64, expected: &str) {
    let minimum = minimise(&segments(tree)).unwrap();
    assert_eq!((minimum.total, told(&minimum).as_str()), (total, expected), "{tree}");
}

#[test]
fn a_root_alone() {
    // A fresh cluster; with WAL, all of it in the window; with a window that begins later.
    check_minimum("- 100 =25 ! | 0 100 !", 25, "SnapshotHere 25, Wal 0");
    check_minimum("- 100 =25 ! | 0 160 !", 85, "SnapshotHere 85, Wal 60");
    check_minimum("- 100 | 0 150 =30 | 1 200 !", 80, "Skipped 80, SnapshotHere 80, Wal 50");
    check_minimum("- 100 =0 ! | 0 100 !", 1, "SnapshotHere 0, Wal 0");
    assert_eq!(minimise(&[]), Ok(Minimum { total: 1, segments: Vec::new() }));
}

#[test]
fn a_branch_before_inside_and_after_the_start_of_the_window() {
    // The main line ends at 200, its window begins at 150, the branch writes 20 bytes. Branch at 120: one snapshot there serves both,
    // since the WAL to 150 is smaller than a second one.
    check_minimum(
        "- 100 | 0 120 =26 | 1 150 =40 | 2 200 ! | 1 120 ! | 4 140 !",
        126,
        "Skipped 126, SnapshotHere 126, Wal 80, Wal 50, Wal 20, Wal 20",
    );
    // The WAL to 150 is larger than a snapshot: two of them.
    check_minimum(
        "- 100 | 0 120 =26 | 1 150 =28 | 2 200 ! | 1 120 ! | 4 140 !",
        124,
        "Skipped 124, SnapshotHere 124, SnapshotHere 78, Wal 50, Wal 20, Wal 20",
    );
    // At the start of the window, and inside of it: only what the branch writes is added.
    check_minimum(
        "- 100 | 0 150 =30 | 1 150 =30 | 2 200 ! | 1 150 ! | 4 170 !",
        100,
        "Skipped 100, SnapshotHere 100, Wal 50, Wal 50, Wal 20, Wal 20",
    );
    check_minimum(
        "- 100 | 0 150 =30 | 1 180 =33 ! | 2 200 ! | 2 180 ! | 4 200 !",
        100,
        "Skipped 100, SnapshotHere 100, Wal 70, Wal 20, Wal 20, Wal 20",
    );
    // A branch whose own window does not reach back to its start needs nothing of the main line.
    check_minimum(
        "- 100 | 0 120 =26 | 1 150 =30 | 2 200 ! | 1 120 | 4 190 =9 | 5 195 !",
        94,
        "Skipped 94, Skipped 94, SnapshotHere 80, Wal 50, Skipped 14, SnapshotHere 14, Wal 5",
    );
}

#[test]
fn of_equal_ways_less_is_kept() {
    // Skipping before a snapshot; a snapshot before WAL.
    check_minimum("- 0 =0 | 0 50 =10 | 1 60 !", 20, "Skipped 20, SnapshotHere 20, Wal 10");
    check_minimum("- 0 =5 ! | 0 30 =30 | 1 40 !", 45, "SnapshotHere 45, SnapshotHere 40, Wal 10");
    // Nothing is needed: nothing is kept.
    check_minimum("- 0 =5 | 0 30 =30", 1, "Skipped 0, Skipped 0");
    check_minimum("- 0 =5 ! | - 7 =6 !", 11, "SnapshotHere 5, SnapshotHere 6");
}

#[test]
fn a_tree_that_cannot_be_kept() {
    assert_eq!(minimise(&segments("- 100 ! | 0 150 =30 | 1 200 !")), Err(Impossible(0)));
    assert_eq!(minimise(&segments("- 0 =1 ! | - 100 | 1 200 !")), Err(Impossible(1)));
    assert!(SizeError::Model { tenant: TenantId([7; 16]), error: Impossible(3) }.to_string().contains("segment 3"));
}

/// What an assignment of methods costs; `None` if something would be missing.
fn cost(segments: &[Segment], methods: &[Method]) -> Option<u64> {
    let mut cost = 0;
    for (segment, method) in segments.iter().zip(methods) {
        let from_parent = segment.parent.is_some_and(|parent| methods[parent] != Method::Skipped);
        cost += match method {
            Method::Skipped if segment.needed => return None,
            Method::Skipped => 0,
            Method::SnapshotHere if segment.needed && segment.parent.is_some() => return None,
            Method::SnapshotHere => segment.size?,
            Method::Wal if !from_parent => return None,
            Method::Wal => segment.lsn - segments[segment.parent?].lsn,
        };
    }
    Some(cost)
}

fn cheapest(segments: &[Segment]) -> Option<u64> {
    const METHODS: [Method; 3] = [Method::Skipped, Method::SnapshotHere, Method::Wal];
    let assignment = |mut n: usize| {
        let mut next = || (METHODS[n % 3], n /= 3).0;
        (0..segments.len()).map(|_| next()).collect::<Vec<_>>()
    };
    (0..3usize.pow(segments.len() as u32)).filter_map(|n| cost(segments, &assignment(n))).min()
}

fn small_tree() -> impl Strategy<Value = Vec<Segment>> {
    let one = (any::<prop::sample::Index>(), 0..8u8, 0..60u64, prop::option::weighted(0.8, 0..80u64), any::<bool>());
    prop::collection::vec(one, 1..=7).prop_map(|all| {
        let mut tree: Vec<Segment> = Vec::new();
        for (parent, root, bytes, size, needed) in all {
            let parent = (!tree.is_empty() && root > 0).then(|| parent.index(tree.len()));
            let lsn = parent.map_or(0, |parent| tree[parent].lsn) + bytes;
            tree.push(Segment { parent, lsn, size, needed });
        }
        tree
    })
}

fn id(n: u64) -> TimelineId {
    TimelineId(u128::from(n).to_be_bytes())
}

/// A timeline that begins at 100, or at its branch point, with a window that begins at `cutoff`.
fn timeline(n: u64, ancestor: Option<(u64, u64)>, last: u64, cutoff: u64) -> TimelineFacts {
    TimelineFacts {
        timeline_id: id(n),
        ancestor_id: ancestor.map(|(of, _)| id(of)),
        ancestor_lsn: ancestor.map_or(Lsn::INVALID, |(_, at)| Lsn(at)),
        initdb_lsn: Lsn(100),
        last_record: Lsn(last),
        latest_gc_cutoff: Lsn(100),
        horizon_cutoff: Lsn(cutoff),
        pitr_cutoff: Lsn(cutoff + 1),
    }
}

/// A cluster that grows by half of its WAL.
fn size_at(lsn: u64) -> u64 {
    1000 + lsn / 2
}

fn sized(timelines: &[TimelineFacts], retention: Option<u64>) -> SyntheticSize {
    let mut inputs = inputs::build(timelines, retention);
    inputs.segments.iter_mut().filter(|placed| placed.takes_size()).for_each(|p| p.segment.size = Some(size_at(p.segment.lsn)));
    let segments: Vec<Segment> = inputs.segments.iter().map(|placed| placed.segment.clone()).collect();
    SyntheticSize { tenant: TenantId([0x11; 16]), inputs, minimum: Some(minimise(&segments).unwrap()) }
}

fn total(timelines: &[TimelineFacts]) -> u64 {
    sized(timelines, None).minimum.unwrap().total
}

fn forest() -> impl Strategy<Value = Vec<TimelineFacts>> {
    let one = (any::<prop::sample::Index>(), any::<bool>(), 0..100u64, 0..5000u64, 0..100u64);
    prop::collection::vec(one, 1..7).prop_map(|all| {
        let mut timelines: Vec<TimelineFacts> = Vec::new();
        for (n, (ancestor, is_root, at, written, window)) in all.into_iter().enumerate() {
            let ancestor = (n > 0 && !is_root).then(|| &timelines[ancestor.index(n)]);
            let start = ancestor.map_or(100, |ancestor| {
                let first = ancestor.ancestor_lsn.0.max(100);
                first + (ancestor.last_record.0 - first) * at / 99
            });
            let ancestor = ancestor.map(|ancestor| (u128::from_be_bytes(ancestor.timeline_id.0) as u64, start));
            timelines.push(timeline(n as u64, ancestor, start + written, start + written * window / 99));
        }
        timelines
    })
}

proptest! {
    #[test]
    fn no_way_is_cheaper(tree in small_tree()) {
        match (minimise(&tree), cheapest(&tree)) {
            (Ok(found), Some(least)) => {
                prop_assert_eq!(found.total, least.max(1));
                let methods: Vec<Method> = found.segments.iter().map(|size| size.method).collect();
                prop_assert_eq!(cost(&tree, &methods), Some(least), "{:?}", found);
            }
            (found, least) => prop_assert!(found.is_err() && least.is_none(), "{found:?} {least:?}"),
        }
    }

    #[test]
    fn a_timeline_that_is_deleted_raises_nothing(timelines in forest()) {
        let all = total(&timelines);
        let ancestors: BTreeSet<TimelineId> = timelines.iter().filter_map(|t| t.ancestor_id).collect();
        for gone in timelines.iter().filter(|t| !ancestors.contains(&t.timeline_id)) {
            let rest: Vec<_> = timelines.iter().filter(|t| t.timeline_id != gone.timeline_id).cloned().collect();
            prop_assert!(total(&rest) <= all, "without {}", gone.timeline_id);
        }
    }

    #[test]
    fn an_empty_branch_in_the_window_adds_nothing(timelines in forest(), of in any::<prop::sample::Index>(), at in 0..100u64) {
        let parent = of.get(&timelines);
        let first = parent.ancestor_lsn.max(parent.initdb_lsn).max(parent.horizon_cutoff).0;
        let lsn = first + (parent.last_record.0 - first) * at / 99;
        let mut more = timelines.clone();
        more.push(timeline(99, Some((u128::from_be_bytes(parent.timeline_id.0) as u64, lsn)), lsn, 100));
        prop_assert_eq!(total(&more), total(&timelines));
        more.last_mut().unwrap().last_record.0 += 17;
        prop_assert_eq!(total(&more), total(&timelines) + 17);
    }
}

/// `timeline kind lsn <parent`, with `!` if needed.
fn outline(inputs: &Inputs) -> String {
    let line = |placed: &super::PlacedSegment| {
        let segment = &placed.segment;
        let parent = segment.parent.map(|parent| format!(" <{parent}")).unwrap_or_default();
        let sign = if segment.needed { " !" } else { "" };
        format!("{} {:?} {}{parent}{sign}", u128::from_be_bytes(placed.timeline_id.0), placed.kind, segment.lsn)
    };
    inputs.segments.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn check_outline(timelines: &[TimelineFacts], retention: Option<u64>, expected: &[&str]) {
    assert_eq!(outline(&inputs::build(timelines, retention)), expected.join("\n"));
}

#[test]
fn timelines_become_chains() {
    check_outline(&[], None, &[""]);
    check_outline(&[timeline(1, None, 100, 100)], None, &["1 BranchStart 100 !", "1 BranchEnd 100 <0 !"]);
    check_outline(&[timeline(1, None, 200, 150)], None, &["1 BranchStart 100", "1 GcCutOff 150 <0", "1 BranchEnd 200 <1 !"]);
    // A retention that is asked for makes the window shorter, never longer.
    check_outline(&[timeline(1, None, 200, 150)], Some(20), &["1 BranchStart 100", "1 GcCutOff 180 <0", "1 BranchEnd 200 <1 !"]);
    check_outline(&[timeline(1, None, 200, 150)], Some(99), &["1 BranchStart 100", "1 GcCutOff 150 <0", "1 BranchEnd 200 <1 !"]);
    check_outline(&[timeline(1, None, 200, 100)], Some(u64::MAX), &["1 BranchStart 100 !", "1 BranchEnd 200 <0 !"]);
    // Branches before, at and behind the start of the window, two of them at one point; ids in another order than descent.
    let tree = [
        timeline(9, None, 200, 150),
        timeline(2, Some((9, 120)), 130, 100),
        timeline(3, Some((9, 150)), 160, 100),
        timeline(1, Some((9, 180)), 200, 190),
        timeline(4, Some((9, 120)), 120, 100),
        // Where its ancestor begins itself.
        timeline(5, Some((2, 120)), 125, 100),
    ];
    let expected = [
        "9 BranchStart 100",
        "9 BranchPoint 120 <0",
        "9 BranchPoint 150 <1",
        "9 GcCutOff 150 <2",
        "9 BranchPoint 180 <3 !",
        "9 BranchEnd 200 <4 !",
        "2 BranchStart 120 <1 !",
        "2 BranchEnd 130 <6 !",
        "5 BranchStart 120 <6 !",
        "5 BranchEnd 125 <8 !",
        "4 BranchStart 120 <1 !",
        "4 BranchEnd 120 <10 !",
        "3 BranchStart 150 <2 !",
        "3 BranchEnd 160 <12 !",
        "1 BranchStart 180 <4",
        "1 GcCutOff 190 <14",
        "1 BranchEnd 200 <15 !",
    ];
    check_outline(&tree, None, &expected);
    // Without its ancestor a branch is a root, and one made at its start finds a point there.
    check_outline(&tree[5..], None, &["5 BranchStart 120 !", "5 BranchEnd 125 <0 !"]);
    let orphans = [timeline(2, Some((9, 120)), 130, 125), tree[5].clone()];
    let expected = ["2 BranchStart 120", "2 BranchPoint 120 <0", "2 GcCutOff 125 <1", "2 BranchEnd 130 <2 !"];
    check_outline(&orphans, None, &[&expected[..], &["5 BranchStart 120 <1 !", "5 BranchEnd 125 <4 !"]].concat());
    assert!(total(&orphans) > 1000);
}

#[test]
fn empty_branches_cost_nothing_and_chains_have_no_bound() {
    let root = timeline(0, None, 5000, 3000);
    let alone = total(std::slice::from_ref(&root));
    assert_eq!(alone, size_at(3000) + 2000);
    let mut chain = vec![root];
    chain.extend((1..20_000).map(|n| timeline(n, Some((n - 1, 5000)), 5000, 100)));
    assert_eq!(total(&chain), alone);
    // The last one writes.
    chain.last_mut().unwrap().last_record = Lsn(5700);
    assert_eq!(total(&chain), alone + 700);
}

#[test]
fn a_branch_costs_when_its_point_leaves_the_window() {
    let branch = timeline(2, Some((1, 3000)), 3000, 100);
    let both = |cutoff| {
        let main = timeline(1, None, 9000, cutoff);
        (total(&[main.clone(), branch.clone()]), total(&[main]))
    };
    for inside in [200, 2999, 3000] {
        let (with, without) = both(inside);
        assert_eq!(with, without, "{inside}");
    }
    // First the WAL between the point and the window, then a snapshot, whichever is smaller.
    let (with, without) = both(3100);
    assert_eq!(with, without - size_at(3100) + size_at(3000) + 100);
    let (with, without) = both(8900);
    assert_eq!(with, without + size_at(3000));
}

#[test]
fn sizes_are_remembered_for_the_timeline_and_not_for_its_name() {
    let env = testing::memory_env();
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, again) = (testing::root(&env, one.path()), testing::root(&env, other.path()));
    let sizes = LogicalSizes::default();
    sizes.insert(&first, Lsn(1), 7);
    sizes.insert(&first, Lsn(2), 8);
    assert_eq!((sizes.get(&first, Lsn(1)), sizes.get(&first, Lsn(3)), sizes.get(&again, Lsn(1))), (Some(7), None, None));
    sizes.keep(&[(testing::TIMELINE, Lsn(2))].into());
    assert_eq!((sizes.get(&first, Lsn(1)), sizes.get(&first, Lsn(2))), (None, Some(8)));
    sizes.insert(&again, Lsn(1), 9);
    assert_eq!((sizes.get(&again, Lsn(1)), sizes.get(&first, Lsn(2))), (Some(9), None));
    sizes.keep(&BTreeSet::new());
    assert_eq!(sizes.0.lock().len(), 0);
}

/// A main line whose window begins at 0/C80000 with a branch from before it and one from inside of it.
fn small_tree_of_timelines() -> Vec<TimelineFacts> {
    vec![
        timeline(1, None, 0x100_0000, 0xc8_0000),
        timeline(2, Some((1, 0x40_0000)), 0x48_0000, 100),
        timeline(3, Some((1, 0xe0_0000)), 0xf0_0000, 100),
    ]
}

#[test]
fn the_json_of_a_small_tree() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../snapshots/api");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let size = sized(&small_tree_of_timelines(), Some(0x80_0000));
    settings.bind(|| insta::assert_snapshot!("synthetic_size", serde_json::to_string_pretty(&size).unwrap()));
    let inputs_only = serde_json::to_value(SyntheticSize { minimum: None, ..size.clone() }).unwrap();
    assert!(inputs_only["size"].is_null() && inputs_only["segment_sizes"].is_null());
    assert_eq!(inputs_only["inputs"], serde_json::to_value(&size).unwrap()["inputs"]);
}

#[test]
fn the_page_shows_every_timeline_and_needs_nothing_else() {
    let size = sized(&small_tree_of_timelines(), None);
    let page = svg::page(&size);
    let minimum = size.minimum.as_ref().unwrap();
    assert_eq!(page.matches("class=\"name\"").count(), 3);
    let snapshots = minimum.segments.iter().filter(|s| s.method == Method::SnapshotHere).count();
    // One more is in the legend.
    assert_eq!(page.matches("class=\"snapshot\"").count(), snapshots + 1);
    assert_eq!(page.matches("class=\"branch Wal\"").count(), 2);
    for text in [
        &TenantId([0x11; 16]).to_string(),
        "GcCutOff at 0/C80000",
        "branch of 00000000000000000000000000000001 at 0/400000",
        "needed: true",
    ] {
        assert!(page.contains(text), "{text} is not in {page}");
    }
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src=") && !page.contains("<script"));
    let inputs_only = svg::page(&SyntheticSize { minimum: None, ..size });
    assert!(inputs_only.contains("inputs only") && !inputs_only.contains("class=\"cost\""));
    assert!(svg::page(&sized(&[], None)).contains("There are no timelines."));
    // After a start the last record may still be behind branch points and cutoffs.
    let behind = [timeline(1, None, 5000, 6000), timeline(2, Some((1, 9_000_000)), 9_000_000, 100)];
    assert_eq!(svg::page(&sized(&behind, None)).matches("class=\"name\"").count(), 2);
}
