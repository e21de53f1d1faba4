//! Writes of an index and transfers of layers, against stores that misbehave.

use super::index::tests::of_a_branch;
use super::*;
use crate::io_abstraction::disk::{FileOps as _, OpenMode};
use crate::io_abstraction::{Clock, Env, Mono, Wall, real};
use crate::layer::LayerName;
use crate::types::{Generation, Key, Lsn, TenantId, TimelineId};
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Every wait is over at once: what is not answered at once times out.
struct Impatient;

impl Clock for Impatient {
    fn mono(&self) -> Mono {
        Mono(0)
    }

    fn wall(&self) -> Wall {
        Wall(0)
    }

    fn sleep_until(&self, _at: Mono) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Keeps one write back and never answers it, until it is told to let it through.
#[derive(Debug, Default)]
struct Slow {
    inner: InMemory,
    hold: AtomicBool,
    held: Mutex<Option<(ObjectPath, PutPayload, PutOptions)>>,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slow")
    }
}

#[async_trait]
impl ObjectStore for Slow {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.hold.swap(false, Ordering::Relaxed) {
            *self.held.lock() = Some((location.clone(), payload, options));
            std::future::pending::<()>().await;
            unreachable!("nothing is pending for ever and then ready");
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &ObjectPath, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<ObjectPath>>) -> BoxStream<'static, Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

const TENANT: TenantId = TenantId([1; 16]);
const TIMELINE: TimelineId = TimelineId([2; 16]);

#[tokio::test]
async fn an_index_that_comes_late_takes_no_newer_one_back() {
    for known in [false, true] {
        let store = Arc::new(Slow::default());
        let env = Env { clock: Arc::new(Impatient), ..real::env(store.clone()).unwrap() };
        let remote = RemoteClient::new(&env, Generation(1));
        let [first, second, third] = [8, 16, 24].map(of_a_branch);
        let mut stored = StoredIndex::unknown(TENANT, TIMELINE);
        if known {
            remote.put_index(&mut stored, &first).await.unwrap();
        }
        store.hold.store(true, Ordering::Relaxed);
        assert!(matches!(remote.put_index(&mut stored, &second).await, Err(RemoteError::TimedOut { .. })));
        remote.put_index(&mut stored, &second).await.unwrap();
        remote.put_index(&mut stored, &third).await.unwrap();
        let (location, payload, options) = store.held.lock().take().expect("one write was kept back");
        assert!(store.inner.put_opts(&location, payload, options).await.is_err());
        assert_eq!(remote.get_index(TENANT, TIMELINE).await.unwrap(), third);
    }
}

#[tokio::test]
async fn a_write_that_took_effect_without_an_answer_is_followed_by_the_next() {
    let store = Arc::new(Slow::default());
    let env = Env { clock: Arc::new(Impatient), ..real::env(store.clone()).unwrap() };
    let remote = RemoteClient::new(&env, Generation(1));
    let [first, second] = [8, 16].map(of_a_branch);
    let mut stored = StoredIndex::unknown(TENANT, TIMELINE);
    store.hold.store(true, Ordering::Relaxed);
    assert!(remote.put_index(&mut stored, &first).await.is_err());
    let (location, payload, options) = store.held.lock().take().expect("one write was kept back");
    store.inner.put_opts(&location, payload, options).await.unwrap();
    remote.put_index(&mut stored, &second).await.unwrap();
    assert_eq!(remote.get_index(TENANT, TIMELINE).await.unwrap(), second);
}

#[tokio::test]
async fn layers_larger_than_a_piece_go_up_and_come_back_whole() {
    let directory = tempfile::tempdir().unwrap();
    let env = real::env(Arc::new(InMemory::new())).unwrap();
    let remote = RemoteClient::new(&env, Generation(1));
    for (n, len) in [0, 1, 8 << 20, (8 << 20) + 1, (24 << 20) + 12345].into_iter().enumerate() {
        let name = LayerName::image(Key::MIN..Key::MAX, Lsn(8 * (n as u64 + 1)));
        let content: Vec<u8> = (0..len).map(|at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let path = directory.path().join(name.to_string());
        env.disk.open(&path, OpenMode::CreateNew).unwrap().write_at(0, &content).unwrap();
        remote.upload_layer(TENANT, TIMELINE, &name, directory.path()).await.unwrap();
        let back = tempfile::tempdir().unwrap();
        let meta = LayerMeta { file_size: len as u64, generation: Generation(1) };
        remote.download_layer(TENANT, TIMELINE, (&name, meta), back.path()).await.unwrap();
        assert!(crate::io_abstraction::disk::read_file(&*env.disk, &back.path().join(name.to_string())).unwrap() == content, "{len}");
        let other = LayerMeta { file_size: len as u64 + 1, ..meta };
        assert!(matches!(remote.download_layer(TENANT, TIMELINE, (&name, other), back.path()).await, Err(RemoteError::Size { .. })));
    }
}

/// Deletions and an LSN that wait in one generation, while another is attached or not.
async fn validated(newer: bool) -> (bool, u64) {
    let env = real::env(Arc::new(InMemory::new())).unwrap();
    let tenant = TenantId([1; 16]);
    let remote = RemoteClient::new(&env, Generation(1));
    let object = path::layer(tenant, TimelineId([2; 16]), &layer(), Generation(1));
    remote.put(&object, "x".into()).await.unwrap();
    remote.claim(tenant, Default::default(), false, None).await.unwrap();
    let validation = Validation::new(&env, remote.clone(), Arc::new(StoreAuthority(remote.clone())));
    let attachment = Attachment::new(tenant, remote.clone(), validation.clone(), AttachMode::Single, Default::default());
    let visible = Arc::new(std::sync::atomic::AtomicU64::new(0));
    validation.delete(&attachment, [object.clone()]);
    validation.advance(&attachment, &visible, Lsn(64));
    if newer {
        remote.in_generation(Generation(2)).claim(tenant, Default::default(), false, None).await.unwrap();
    }
    let scope = crate::io_abstraction::Scope::new(&env.tasks);
    scope.spawn("validate", |cancel| validation.clone().run(cancel));
    validation.flushed().await;
    validation.flushed().await;
    scope.shutdown().await;
    (remote.get(&object).await.is_ok(), visible.load(Ordering::Relaxed))
}

fn layer() -> LayerName {
    LayerName::image(Key::MIN..Key::MAX, Lsn(8))
}

#[tokio::test]
async fn a_superseded_generation_deletes_nothing_and_tells_no_lsn() {
    assert_eq!(validated(false).await, (false, 64));
    assert_eq!(validated(true).await, (true, 0));
}

#[tokio::test]
async fn of_two_nodes_one_has_a_generation() {
    let env = real::env(Arc::new(InMemory::new())).unwrap();
    let (tenant, remote) = (TenantId([1; 16]), RemoteClient::new(&env, Generation(7)));
    let mut stored = remote.claim(tenant, Default::default(), false, None).await.unwrap();
    let other = real::env(env.store.clone()).unwrap();
    let second = RemoteClient::new(&other, Generation(7)).claim(tenant, Default::default(), false, None).await;
    assert!(matches!(second, Err(manifest::ClaimError::Taken { generation: Generation(7), .. })));
    let changed = Manifest { deleting: true, ..stored.content.clone() };
    remote.put_manifest(&mut stored, changed.clone()).await.unwrap();
    assert_eq!(remote.newest_manifest(tenant).await.unwrap(), Some((Generation(7), changed.clone())));
    // Whoever attaches it next removes the manifest: what writes it late does not bring it back.
    remote.delete(&path::manifest(tenant, Generation(7))).await.unwrap();
    assert!(remote.put_manifest(&mut stored, changed).await.is_err());
    assert_eq!(remote.newest_manifest(tenant).await.unwrap(), None);
}

/// Of an attachment that was cut off before it read its predecessor's manifest again, the next one takes what that says.
#[tokio::test]
async fn what_was_changed_while_a_claim_was_under_way_counts() {
    let env = real::env(Arc::new(InMemory::new())).unwrap();
    let tenant = TenantId([1; 16]);
    let remote = |generation| RemoteClient::new(&env, Generation(generation));
    let settings = |n: u64| serde_json::Map::from_iter([("gc_horizon".to_string(), n.into())]);
    let newest = || async { remote(9).newest_manifest(tenant).await.unwrap().map(|(g, m)| (g.0, m.settings, m.deleting)) };
    let mut first = remote(1).claim(tenant, settings(1), false, None).await.unwrap();
    let follows = |generation, settings| Some(manifest::Follows { generation: Generation(generation), settings });
    let mut second = remote(2).claim(tenant, settings(1), false, follows(1, true)).await.unwrap();
    let changed = Manifest { settings: settings(7), ..first.content.clone() };
    remote(1).put_manifest(&mut first, changed.clone()).await.unwrap();
    assert_eq!(newest().await, Some((2, settings(7), false)));
    // Settings that were given to an attachment stand; a deletion is one all the same.
    remote(3).claim(tenant, settings(3), false, follows(2, false)).await.unwrap();
    assert_eq!(newest().await, Some((3, settings(3), false)));
    remote(1).put_manifest(&mut first, Manifest { deleting: true, ..changed }).await.unwrap();
    assert_eq!(newest().await, Some((3, settings(3), true)));
    // A change of its own counts alone, and so does what nothing is left of before.
    let changed = Manifest { settings: settings(5), ..second.content.clone() };
    remote(2).put_manifest(&mut second, changed).await.unwrap();
    assert_eq!(newest().await, Some((3, settings(3), false)));
    remote(2).delete(&path::manifest(tenant, Generation(2))).await.unwrap();
    assert_eq!(newest().await, Some((3, settings(3), false)));
    // A damaged object that follows itself ends nothing.
    remote(4).claim(tenant, settings(4), false, follows(4, true)).await.unwrap();
    assert_eq!(newest().await, Some((4, settings(4), false)));
}
