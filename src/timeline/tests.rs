//! A timeline on real files: what flushes, uploads and writers that are cut off leave behind.

use super::testing::{self, START, TENANT, TIMELINE};
use super::*;
use crate::io_abstraction::disk::{FileOps as _, OpenMode, read_file};
use crate::io_abstraction::{ClockExt as _, Probe};
use crate::layer::format::footer::{FOOTER, Footer};
use crate::layer::{Batch, ValueKind};
use crate::limits::REPLAY_RECORDS_MAX;
use crate::remote::path;
use crate::types::{Fork, Key, RelTag};
use futures::FutureExt as _;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStoreExt as _, PutPayload};
use std::sync::mpsc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

fn page(block: u32) -> Key {
    Key::rel_block(RelTag { spc: 1663, db: 5, rel: 16384, fork: Fork::Main }, block)
}

/// Versions of one key, one for each `lsns`.
fn batch(key: Key, kind: ValueKind, lsns: impl Iterator<Item = u64>) -> Batch {
    let mut batch = Batch::default();
    let bytes = batch.store(b"value");
    lsns.for_each(|lsn| batch.push(key, Lsn(lsn), kind, bytes));
    batch
}

/// Holds a flush up at the moment when it tells of itself, until the other side has looked.
struct Interrupt {
    reached: parking_lot::Mutex<mpsc::Sender<()>>,
    looked: parking_lot::Mutex<mpsc::Receiver<()>>,
}

impl Probe for Interrupt {
    fn event(&self, kind: &'static str, _: &dyn Fn() -> String) {
        if kind == "flush" {
            // Whoever listens may be waiting for this flush.
            let _ = self.reached.lock().send(());
            let _ = self.looked.lock().recv_timeout(Duration::from_millis(200));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_index_tells_of_a_flush_whose_layer_is_not_scheduled_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut env = testing::memory_env();
    let ((reached, at_flush), (look, looked)) = (mpsc::channel(), mpsc::channel());
    env.probe = Arc::new(Interrupt { reached: parking_lot::Mutex::new(reached), looked: parking_lot::Mutex::new(looked) });
    let timeline = testing::root(&env, directory.path());
    let other = timeline.clone();
    let beside = env.tasks.spawn("beside", async move {
        let tasks = other.shared.env.tasks.clone();
        let work = move || {
            at_flush.recv().unwrap();
            other.schedule_upload(|| *other.wal_source.lock() = Some("host=x".to_string()), Vec::new(), Vec::new());
            let _ = look.send(());
        };
        tasks.blocking("beside", work).await;
    });
    let cancel = tokio_util::sync::CancellationToken::new();
    let flushing = env.tasks.spawn("flush", flush::run(timeline.clone(), cancel.clone()));
    let end = START.0 + 16;
    TimelineWriter::new(timeline.clone()).commit(batch(page(0), ValueKind::Image, [end].into_iter()), Lsn(end), START).await;
    timeline.flush_all().await;
    beside.join().await;
    cancel.cancel();
    flushing.join().await;
    let mut uploaded: Vec<String> = vec![testing::root_index(&timeline.shared).layer_metadata.into_keys().next().unwrap()];
    let mut indexes = 0;
    timeline.uploads.scheduled(|layer, index| {
        uploaded.extend(layer.map(ToString::to_string));
        let Some(index) = index else { return };
        indexes += 1;
        assert!(index.layer_metadata.keys().all(|name| uploaded.contains(name)), "an index names a layer that is not uploaded yet");
        let newest = index.layers().map(|(name, _)| name.lsns.end).max().unwrap();
        assert_eq!(newest, Lsn(index.disk_consistent_lsn.0 + 1), "the layers reach as far as the index says");
    });
    assert_eq!(indexes, 2);
}

#[tokio::test]
async fn a_commit_that_is_cut_off_leaves_nothing_for_a_flush() {
    let directory = tempfile::tempdir().unwrap();
    let config = ThrottleConfig { wait_get_per_call: Duration::from_secs(3600), ..ThrottleConfig::default() };
    let store = ThrottledStore::new(object_store::memory::InMemory::new(), config);
    let env = crate::io_abstraction::real::env(Arc::new(store)).unwrap();
    let timeline = testing::root(&env, directory.path());
    // The image of the hot page cannot be made: the layer below is on its way for a long time.
    let layer = timeline.layers().historic.iter().next().unwrap().name.to_string();
    env.disk.unlink(&timeline.local_directory().join(layer)).unwrap();
    let mut writer = TimelineWriter::new(timeline.clone());
    let records = 2 * u64::from(REPLAY_RECORDS_MAX);
    let lsns = (1..=records).map(|n| START.0 + 8 * n);
    let last = Lsn(START.0 + 8 * records);
    assert!(writer.commit(batch(page(0), ValueKind::Record, lsns), last, START).now_or_never().is_none());
    assert!(timeline.flush_all().now_or_never().is_some(), "there is nothing to flush");
    let layers = timeline.layers();
    assert!(layers.frozen.is_empty() && !layers.open.is_empty());
    assert_eq!(timeline.last_record.lsn(), START);
}

#[tokio::test]
async fn a_flush_goes_on_when_an_old_layer_is_damaged_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let env = testing::memory_env();
    let timeline = testing::root(&env, directory.path());
    let layer = timeline.layers().historic.iter().next().unwrap().clone();
    let local = timeline.local_directory().join(layer.name.to_string());
    let mut bytes = read_file(&*env.disk, &local).unwrap();
    let footer = Footer::decode(bytes.last_chunk::<FOOTER>().unwrap()).unwrap();
    // The last byte of the last index block.
    bytes[footer.top_offset as usize - 1] ^= 1;
    env.disk.open(&local, OpenMode::ReadWrite).unwrap().write_at(0, &bytes).unwrap();
    env.store.put(&path::layer(TENANT, TIMELINE, &layer.name, layer.meta.generation), PutPayload::from(bytes)).await.unwrap();
    let mut writer = TimelineWriter::new(timeline.clone());
    let end = Lsn(START.0 + 8);
    writer.commit(batch(page(0), ValueKind::Record, [end.0].into_iter()), end, START).await;
    timeline.start();
    env.clock.timeout(LIMIT, timeline.flush_all()).await.expect("the flush comes to its end");
    assert_eq!(timeline.disk_consistent_lsn(), end);
    timeline.shutdown().await;
    assert!(timeline.uploaded().await.is_err(), "nobody uploads any more");
}
