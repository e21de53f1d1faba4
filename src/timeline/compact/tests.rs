//! Compaction on real files: nothing that can be read changes, also not on branches, after a restart, or for a reader in between.

use super::*;
use crate::io_abstraction::disk::{FileOps as _, OpenMode, read_file};
use crate::io_abstraction::{ClockExt as _, Env};
use crate::layer::{Batch, LayerKind, ValueKind};
use crate::timeline::directory::{RelDir, encode_size};
use crate::timeline::testing::{self, START, TENANT, TIMELINE};
use crate::timeline::{Ancestor, Shared, TimelineWriter, flush};
use crate::types::{Fork, Generation, PAGE_SIZE, RelTag, TimelineId};
use futures::FutureExt as _;
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;

/// In the directory of relations, with so many blocks.
const LIVE: RelTag = RelTag { spc: 1663, db: 5, rel: 16384, fork: Fork::Main };
pub(in crate::timeline) const LIVE_BLOCKS: u32 = 6;
/// In no directory, as if dropped.
const DROPPED: RelTag = RelTag { rel: 16385, ..LIVE };
pub(in crate::timeline) const CHILD: TimelineId = TimelineId([3; 16]);

pub(in crate::timeline) fn key(n: u32) -> Key {
    if n < 8 { Key::rel_block(LIVE, n) } else { Key::rel_block(DROPPED, n) }
}

/// Bytes that do not compress.
pub(in crate::timeline) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(in crate::timeline) fn shared(env: &Env, directory: &Path, images_at: u64) -> Arc<Shared> {
    shared_with(env, directory, images_at, Duration::ZERO)
}

fn shared_with(env: &Env, directory: &Path, images_at: u64, period: Duration) -> Arc<Shared> {
    testing::shared(env, directory, |config| {
        config.tenant.checkpoint_distance = 8192;
        config.tenant.compaction_target_size = 4 * PAGE_SIZE as u64;
        config.tenant.compaction_period = period;
        config.tenant.pitr_interval = Duration::ZERO;
        config.tenant.compaction_threshold = 2;
        config.tenant.image_creation_threshold = images_at;
    })
}

/// Started; its first layer is in remote storage.
pub(in crate::timeline) async fn root(shared: &Arc<Shared>) -> Arc<Timeline> {
    let index = testing::root_index(shared);
    let root = Timeline::open(shared, &testing::attachment(shared), TIMELINE, &index, None);
    let (name, _) = index.layers().next().unwrap();
    shared.remote.upload_layer(TENANT, TIMELINE, &name, &root.local_directory()).await.unwrap();
    root.start();
    root
}

pub(in crate::timeline) fn branch(of: &Arc<Timeline>) -> Arc<Timeline> {
    let lsn = of.last_record.lsn();
    let mut index = of.index();
    index.layer_metadata.clear();
    (index.ancestor_timeline, index.ancestor_lsn, index.disk_consistent_lsn) = (Some(TIMELINE), lsn, lsn);
    let child = Timeline::open(&of.shared, &of.attachment, CHILD, &index, Some(Ancestor { timeline: of.clone(), lsn }));
    child.start();
    child
}

/// Versions of one timeline: key, LSN, kind, value.
pub(in crate::timeline) type Versions = Vec<(Key, Lsn, ValueKind, Vec<u8>)>;

/// Commits versions, one record each, and flushes them into one layer.
pub(in crate::timeline) async fn write(timeline: &Arc<Timeline>, versions: &[(Key, ValueKind, Vec<u8>)], into: &mut Versions) {
    let mut writer = TimelineWriter::new(timeline.clone());
    for (key, kind, value) in versions {
        let (last, lsn) = (timeline.last_record.lsn(), Lsn(timeline.last_record.lsn().0 + 8));
        let mut batch = Batch::default();
        let bytes = batch.store(value);
        batch.push(*key, lsn, *kind, bytes);
        writer.commit(batch, lsn, last).await;
        into.push((*key, lsn, *kind, value.clone()));
    }
    timeline.flush_all().await;
}

/// The directory says that [`LIVE`] is there.
pub(in crate::timeline) fn directory() -> Vec<(Key, ValueKind, Vec<u8>)> {
    let bucket = RelDir([(LIVE.rel, LIVE.fork)].into());
    vec![
        (Key::rel_dir_of(LIVE.spc, LIVE.db, LIVE.rel), ValueKind::Image, bucket.encode()),
        (Key::rel_size(LIVE), ValueKind::Image, encode_size(LIVE_BLOCKS).to_vec()),
    ]
}

/// What a reader collects: versions from the base up.
pub(in crate::timeline) async fn collected(timeline: &Timeline, key: Key, lsn: Lsn) -> Vec<Vec<u8>> {
    let found = timeline.collect(key, lsn).await.unwrap();
    found.base().map(<[u8]>::to_vec).into_iter().chain(found.records().map(|(_, record)| record.to_vec())).collect()
}

/// The same, from the model.
pub(in crate::timeline) fn expected(layers: &[(&Versions, Lsn)], key: Key, lsn: Lsn) -> Vec<Vec<u8>> {
    let mut chain = Vec::new();
    let mut most = lsn;
    for (versions, until) in layers {
        most = most.min(*until);
        for (_, _, kind, value) in versions.iter().rev().filter(|v| v.0 == key && v.1 <= most) {
            chain.push(value.clone());
            if kind.is_base() {
                chain.reverse();
                return chain;
            }
        }
    }
    chain.reverse();
    chain
}

/// One step of a history: versions (key, kind, size), on the branch or the root, and whether to compact behind it.
type Step = (Vec<(u32, u8, usize)>, bool, bool);

/// Plays the steps, compares everything that can be read before and after, and again from remote storage alone.
async fn check(steps: Vec<Step>, branch_after: usize, images_at: u64) {
    let (directory_, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let env = testing::memory_env();
    let shared_ = shared(&env, directory_.path(), images_at);
    let only_images = images_at < 100;
    let timelines_root = root(&shared_).await;
    let (mut on_root, mut on_child): (Versions, Versions) = Default::default();
    write(&timelines_root, &directory(), &mut on_root).await;
    let mut child = None;
    for (n, (versions, on_branch, compact)) in steps.into_iter().enumerate() {
        if n == branch_after {
            child = Some(branch(&timelines_root));
        }
        let kind = |n: u8| if only_images { ValueKind::Image } else { ValueKind::from_number(n).unwrap() };
        let versions =
            versions.into_iter().zip(0u64..).map(|((k, number, len), i)| (key(k), kind(number), noise(2 * (i + 100 * n as u64), len)));
        let (timeline, into) = match (&child, on_branch) {
            (Some(child), true) => (child, &mut on_child),
            _ => (&timelines_root, &mut on_root),
        };
        write(timeline, &versions.collect::<Vec<_>>(), into).await;
        if compact {
            timeline.compact_now().await.unwrap();
        }
    }
    let child = child.unwrap_or_else(|| branch(&timelines_root));
    let point = child.ancestor_lsn();
    let compare = async |root: &Timeline, child: &Timeline| {
        for key in (0..12).map(key) {
            let versions = || on_root.iter().chain(&on_child).filter(|v| v.0 == key).map(|v| v.1);
            for lsn in versions().chain(versions().map(|l| Lsn(l.0 + 8))).chain([START, point]) {
                for (timeline, layers) in [(root, vec![(&on_root, Lsn::MAX)]), (child, vec![(&on_child, Lsn::MAX), (&on_root, point)])] {
                    let lsn = lsn.min(timeline.last_record.lsn());
                    assert_eq!(collected(timeline, key, lsn).await, expected(&layers, key, lsn), "{key:?} at {lsn}");
                }
            }
        }
    };
    compare(&timelines_root, &child).await;
    for timeline in [&timelines_root, &child] {
        while timeline.compact_now().await.unwrap() != Compacted::default() {}
    }
    compare(&timelines_root, &child).await;
    for timeline in [&timelines_root, &child] {
        timeline.uploaded().await.unwrap();
        timeline.shutdown().await;
    }
    // Another machine, with remote storage alone.
    let there = shared(&env, other.path(), images_at);
    let index = there.remote.get_index(TENANT, TIMELINE).await.unwrap();
    assert_eq!(index.layer_metadata.len(), timelines_root.layers().historic.len());
    let again = Timeline::open(&there, &testing::attachment(&there), TIMELINE, &index, None);
    let mut child_index = child.index();
    if let Ok(stored) = there.remote.get_index(TENANT, CHILD).await {
        assert_eq!(stored, child_index);
        child_index = stored;
    }
    let child_again =
        Timeline::open(&there, &again.attachment, CHILD, &child_index, Some(Ancestor { timeline: again.clone(), lsn: point }));
    compare(&again, &child_again).await;
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let versions = prop::collection::vec((0u32..12, 0u8..3, prop::sample::select(vec![10usize, 300, 3000])), 1..16);
    prop::collection::vec((versions, any::<bool>(), prop::bool::weighted(0.4)), 2..8)
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn merging_changes_nothing_that_can_be_read(steps in steps(), branch_after in 0usize..6) {
        block_on(check(steps, branch_after, 1000));
    }

    #[test]
    fn images_change_nothing_that_can_be_read(steps in steps(), branch_after in 0usize..6, images_at in 1u64..4) {
        block_on(check(steps, branch_after, images_at));
    }
}

/// A root with four layers of level 0 that have some pages of [`LIVE`].
async fn with_layers(shared: &Arc<Shared>) -> (Arc<Timeline>, Versions) {
    let (timeline, mut versions) = (root(shared).await, Versions::new());
    write(&timeline, &directory(), &mut versions).await;
    for round in 0..3 {
        let pages: Vec<_> = (0..LIVE_BLOCKS).map(|n| (key(n), ValueKind::Image, noise(round * 10 + u64::from(n), 2000))).collect();
        write(&timeline, &pages, &mut versions).await;
    }
    (timeline, versions)
}

#[tokio::test]
async fn equal_layers_give_equal_bytes_and_their_inputs_go_away() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut files = Vec::new();
    for directory in [&a, &b] {
        let env = testing::memory_env();
        let (timeline, _) = with_layers(&shared(&env, directory.path(), 1)).await;
        let before = timeline.index();
        let done = timeline.compact_now().await.unwrap();
        assert!(done.merged == 4 && done.deltas > 1 && done.images > 0, "{done:?}");
        timeline.uploaded().await.unwrap();
        let inputs: Vec<_> = before.layers().filter(|(name, _)| name.is_level0()).collect();
        for (name, meta) in &inputs {
            let object = crate::remote::path::layer(TENANT, TIMELINE, name, meta.generation);
            assert!(timeline.shared.remote.get(&object).await.is_ok(), "not before the generation is validated");
        }
        testing::validate(&timeline.shared).await;
        let index = timeline.index();
        assert_eq!(timeline.shared.remote.get_index(TENANT, TIMELINE).await.unwrap(), index);
        let local = timeline.local_directory();
        for (name, meta) in inputs {
            assert!(env.disk.open(&local.join(name.to_string()), OpenMode::Read).is_err());
            let object = crate::remote::path::layer(TENANT, TIMELINE, &name, meta.generation);
            assert!(timeline.shared.remote.get(&object).await.is_err());
        }
        let read = |name: &String| (name.clone(), read_file(&*env.disk, &local.join(name)).unwrap());
        files.push(index.layer_metadata.keys().map(read).collect::<Vec<_>>());
        timeline.shutdown().await;
    }
    assert_eq!(files[0], files[1]);
}

#[tokio::test]
async fn a_read_after_compaction_looks_into_one_layer() {
    let directory = tempfile::tempdir().unwrap();
    let (timeline, _) = with_layers(&shared(&testing::memory_env(), directory.path(), 1)).await;
    timeline.compact_now().await.unwrap();
    for n in 0..LIVE_BLOCKS {
        let found = timeline.collect(key(n), timeline.last_record.lsn()).await.unwrap();
        assert_eq!((found.layers_visited, found.record_count()), (1, 0));
    }
    timeline.shutdown().await;
}

#[tokio::test]
async fn inputs_are_removed_behind_the_index_that_lacks_them() {
    let directory = tempfile::tempdir().unwrap();
    let shared = shared(&testing::memory_env(), directory.path(), 1000);
    let timeline = Timeline::open(&shared, &testing::attachment(&shared), TIMELINE, &testing::root_index(&shared), None);
    let cancel = CancellationToken::new();
    let flushing = shared.env.tasks.spawn("flush", flush::run(timeline.clone(), cancel.clone()));
    let mut versions = Versions::new();
    write(&timeline, &super::tests::directory(), &mut versions).await;
    write(&timeline, &[(key(1), ValueKind::Image, noise(1, 10))], &mut versions).await;
    timeline.compact_now().await.unwrap();
    cancel.cancel();
    flushing.join().await;
    let (before, removed) = timeline.uploads.removals();
    assert!(removed.len() == 2 && removed.iter().all(LayerName::is_level0), "{removed:?}");
    assert_eq!(before + removed.len(), timeline.upload_queue_len(), "nothing comes behind");
    let (mut uploaded, mut last) = (Vec::new(), None);
    timeline.uploads.scheduled(|layer, index| {
        uploaded.extend(layer.map(ToString::to_string));
        last = index.cloned().or(last.take());
    });
    let last = last.unwrap();
    assert!(removed.iter().all(|name| !last.layer_metadata.contains_key(&name.to_string())));
    let made = last.layers().filter(|(name, _)| name.kind == LayerKind::Delta).map(|(name, _)| name.to_string());
    assert!(made.collect::<Vec<_>>().iter().all(|name| uploaded.contains(name)));
}

#[tokio::test]
async fn a_reader_whose_layer_went_away_reads_what_took_its_place() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let env = testing::memory_env();
    let (timeline, versions) = with_layers(&shared(&env, here.path(), 1000)).await;
    timeline.uploaded().await.unwrap();
    let elsewhere = shared(&env, there.path(), 1000);
    let late = Timeline::open(&elsewhere, &testing::attachment(&elsewhere), TIMELINE, &timeline.index(), None);
    timeline.compact_now().await.unwrap();
    timeline.uploaded().await.unwrap();
    let lsn = timeline.last_record.lsn();
    let mut read = Box::pin(late.collect(key(2), lsn));
    assert!((&mut read).now_or_never().is_none(), "it fetches a layer that does not exist any more");
    let mut depth = Box::pin(async { late.depth_below(&late.layers(), key(3), Lsn(lsn.0 + 1)).await });
    assert!((&mut depth).now_or_never().is_none());
    let now = Timeline::open(&late.shared, &late.attachment, TIMELINE, &timeline.index(), None).layers();
    late.change_layers(|old| LayerSet { open: old.open.clone(), frozen: Vec::new(), historic: now.historic.clone() });
    let found = read.await.unwrap();
    assert_eq!(vec![found.base().unwrap().to_vec()], expected(&[(&versions, Lsn::MAX)], key(2), lsn));
    assert_eq!(depth.await.unwrap(), 0);
    timeline.shutdown().await;
}

#[tokio::test]
async fn a_page_that_cannot_be_rebuilt_keeps_its_deltas_and_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (timeline, mut versions) = with_layers(&shared(&testing::memory_env(), directory.path(), 1)).await;
    write(&timeline, &[(key(1), ValueKind::Record, b"no record".to_vec())], &mut versions).await;
    write(&timeline, &[(key(2), ValueKind::Record, b"no record".to_vec())], &mut versions).await;
    let lsn = timeline.last_record.lsn();
    let done = timeline.compact_now().await.unwrap();
    assert!(done.images > 0, "{done:?}");
    let covering = timeline.layers().historic.iter().filter(|l| l.name.lsns.start == lsn && l.name.keys.contains(&key(1))).count();
    assert_eq!(covering, 0, "the part of the page has no image");
    for n in [1, 2] {
        assert_eq!(collected(&timeline, key(n), lsn).await, expected(&[(&versions, Lsn::MAX)], key(n), lsn));
    }
    assert_eq!(timeline.compact_now().await.unwrap(), Compacted::default());
    timeline.shutdown().await;
}

#[tokio::test]
async fn depths_survive_a_merge() {
    let directory = tempfile::tempdir().unwrap();
    let (timeline, mut versions) = with_layers(&shared(&testing::memory_env(), directory.path(), 1000)).await;
    for n in [3, 4, 5] {
        let records: Vec<_> = (0..n).map(|i| (key(1), ValueKind::Record, noise(n * 10 + i, 3000))).collect();
        write(&timeline, &records, &mut versions).await;
    }
    let end = Lsn(timeline.last_record.lsn().0 + 1);
    assert_eq!(timeline.depth_below(&timeline.layers(), key(1), end).await.unwrap(), 12);
    assert_eq!(timeline.compact_now().await.unwrap().merged, 7);
    assert_eq!(timeline.depth_below(&timeline.layers(), key(1), end).await.unwrap(), 12);
    let alone = timeline.layers().historic.iter().filter(|l| l.name.keys == (key(1)..key(1).next())).count();
    assert!(alone > 1, "the key is cut by LSN");
    for (key, lsn, _, _) in versions.iter().filter(|v| v.0 == key(1)) {
        assert_eq!(collected(&timeline, *key, *lsn).await, expected(&[(&versions, Lsn::MAX)], *key, *lsn), "at {lsn}");
    }
    timeline.shutdown().await;
}

#[tokio::test]
async fn an_older_generation_of_a_name_is_another_object() {
    let directory = tempfile::tempdir().unwrap();
    let env = testing::memory_env();
    let (timeline, versions) = with_layers(&shared(&env, directory.path(), 1000)).await;
    timeline.uploaded().await.unwrap();
    let before = timeline.index();
    let there = tempfile::tempdir().unwrap();
    let mut newer = Arc::into_inner(shared(&env, there.path(), 1000)).unwrap();
    newer.remote = crate::remote::RemoteClient::new(&env, Generation(2));
    let newer = Arc::new(newer);
    let next = Timeline::open(&newer, &testing::attachment(&newer), TIMELINE, &before, None);
    next.start();
    next.compact_now().await.unwrap();
    next.uploaded().await.unwrap();
    // The old node compacts the same layers, unaware of the other.
    let lsn = next.last_record.lsn();
    assert!(next.index().layer_metadata.iter().any(|(_, meta)| meta.generation == Generation(2)));
    assert_eq!(collected(&next, key(2), lsn).await, expected(&[(&versions, Lsn::MAX)], key(2), lsn));
    timeline.shutdown().await;
    next.shutdown().await;
}

#[tokio::test]
async fn passes_come_by_themselves_and_end_with_the_timeline() {
    let directory = tempfile::tempdir().unwrap();
    let env = testing::memory_env();
    let (timeline, versions) = with_layers(&shared_with(&env, directory.path(), 1, Duration::from_millis(1))).await;
    let done = async {
        while timeline.layers().historic.iter().all(|layer| layer.name.is_level0() || layer.name.lsns.start == START) {
            env.clock.sleep(Duration::from_millis(1)).await;
        }
        timeline.shutdown().await;
    };
    env.clock.timeout(Duration::from_secs(30), done).await.expect("a pass comes, and the shutdown ends it");
    let lsn = timeline.last_record.lsn();
    assert_eq!(collected(&timeline, key(2), lsn).await, expected(&[(&versions, Lsn::MAX)], key(2), lsn));
}

#[tokio::test]
async fn damage_of_an_input_is_mended_from_remote_storage_or_leaves_all_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let env = testing::memory_env();
    let (timeline, versions) = with_layers(&shared(&env, directory.path(), 1000)).await;
    timeline.uploaded().await.unwrap();
    let layer = timeline.layers().historic.iter().find(|l| l.name.is_level0()).cloned().unwrap();
    let (local, object) = (
        timeline.local_directory().join(layer.name.to_string()),
        crate::remote::path::layer(TENANT, TIMELINE, &layer.name, layer.meta.generation),
    );
    let sound = timeline.shared.remote.get(&object).await.unwrap();
    let mut bytes = sound.to_vec();
    bytes[100] ^= 1;
    env.disk.open(&local, OpenMode::ReadWrite).unwrap().write_at(0, &bytes).unwrap();
    timeline.shared.remote.put(&object, bytes.into()).await.unwrap();
    let before = timeline.index();
    assert!(matches!(timeline.compact_now().await, Err(CompactError::Layer(error)) if error.is_damage()));
    assert_eq!(timeline.index(), before);
    let files = env.disk.list(&timeline.local_directory()).unwrap();
    assert!(files.iter().all(|file| before.layer_metadata.contains_key(&file.name)), "{files:?}");
    timeline.shared.remote.put(&object, sound).await.unwrap();
    assert!(timeline.compact_now().await.unwrap().merged > 2);
    let lsn = timeline.last_record.lsn();
    assert_eq!(collected(&timeline, key(5), lsn).await, expected(&[(&versions, Lsn::MAX)], key(5), lsn));
    timeline.shutdown().await;
}
