//! Garbage collection on real files: what may still be read reads as before, what may not is refused, and layers do go.

use super::*;
use crate::layer::ValueKind;
use crate::timeline::compact::tests::{
    CHILD, LIVE_BLOCKS, Versions, branch, collected, directory, expected, key, noise, root, shared, write,
};
use crate::timeline::testing::{self, TENANT, TIMELINE};
use crate::types::TimelineId;

/// Rounds of new pages, each with its images behind it.
async fn rounds(timeline: &Arc<Timeline>, rounds: std::ops::Range<u64>, versions: &mut Versions) {
    for round in rounds {
        let pages: Vec<_> = (0..LIVE_BLOCKS).map(|n| (key(n), ValueKind::Image, noise(round * 10 + u64::from(n), 1000))).collect();
        write(timeline, &pages, versions).await;
        timeline.compact_now().await.unwrap();
    }
}

async fn compare(timeline: &Timeline, layers: &[(&Versions, Lsn)], from: Lsn) {
    for (key, lsn, _, _) in layers.iter().flat_map(|(versions, _)| versions.iter()) {
        for lsn in [*lsn, Lsn(lsn.0 + 8)] {
            let lsn = lsn.min(timeline.last_record.lsn());
            // What a branch reads is there for its ancestor's readers too.
            if lsn >= from || timeline.is_pinned(lsn) {
                assert_eq!(collected(timeline, *key, lsn).await, expected(layers, *key, lsn), "{key:?} at {lsn}");
            } else {
                assert!(matches!(timeline.collect(*key, lsn).await, Err(ReadError::BelowCutoff { .. })), "{key:?} at {lsn}");
            }
        }
    }
}

#[tokio::test]
async fn history_goes_up_to_the_cutoff_and_branches_keep_theirs() {
    let directory_ = tempfile::tempdir().unwrap();
    let env = testing::memory_env();
    let shared = shared(&env, directory_.path(), 1);
    let timeline = root(&shared).await;
    let (mut versions, mut on_child) = (Versions::new(), Versions::new());
    write(&timeline, &directory(), &mut versions).await;
    rounds(&timeline, 0..3, &mut versions).await;
    let child = branch(&timeline);
    let point = child.ancestor_lsn();
    timeline.pin(CHILD, point).unwrap();
    // A layer that begins before the branch point is the branch's, whatever else it holds.
    rounds(&timeline, 3..12, &mut versions).await;
    write(&child, &[(key(1), ValueKind::Image, noise(999, 50))], &mut on_child).await;

    assert_eq!(timeline.gc_now(Some(1 << 40)).await.unwrap().layers_removed, 0);
    let counts = timeline.gc_now(Some(80)).await.unwrap();
    assert!(counts.layers_needed_by_branches > 0 && counts.layers_removed > 0, "{counts:?}");
    let cutoff = timeline.gc_cutoff_lsn();
    assert!(cutoff > point && cutoff <= timeline.last_record.lsn());
    compare(&timeline, &[(&versions, Lsn::MAX)], cutoff).await;
    compare(&child, &[(&on_child, Lsn::MAX), (&versions, point)], point).await;
    assert!(timeline.pin(TimelineId([9; 16]), point).is_err(), "a branch below the cutoff comes too late");

    timeline.unpin(CHILD);
    let without = timeline.gc_now(Some(80)).await.unwrap();
    assert!(without.layers_removed > 0 && without.layers_needed_by_branches == 0, "{without:?}");
    compare(&timeline, &[(&versions, Lsn::MAX)], cutoff).await;
    timeline.uploaded().await.unwrap();
    assert_eq!(shared.remote.get_index(TENANT, TIMELINE).await.unwrap(), timeline.index(), "cutoff and layers in one index");
    for timeline in [&child, &timeline] {
        timeline.shutdown().await;
    }
}

#[tokio::test]
async fn a_stale_attachment_collects_nothing() {
    let directory_ = tempfile::tempdir().unwrap();
    let timeline = root(&shared(&testing::memory_env(), directory_.path(), 1)).await;
    let mut versions = Versions::new();
    write(&timeline, &directory(), &mut versions).await;
    rounds(&timeline, 0..3, &mut versions).await;
    timeline.attachment.set_mode(AttachMode::Stale);
    assert_eq!(timeline.gc_now(Some(0)).await.unwrap(), GcCounts::default());
    timeline.attachment.set_mode(AttachMode::Single);
    timeline.attachment.hold_gc();
    assert_eq!(timeline.gc_now(Some(0)).await.unwrap(), GcCounts::default());
    timeline.shutdown().await;
}
