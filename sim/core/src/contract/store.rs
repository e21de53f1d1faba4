//! Assertions about the object store: those of the `object_store` trait that palimpsest relies on.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, UpdateVersion};

/// Runs all of them under the prefix `contract/` of an otherwise empty store.
pub async fn run(store: &dyn ObjectStore) {
    put_and_get(store).await;
    put_if_absent(store).await;
    put_if_unchanged(store).await;
    ranges(store).await;
    listing(store).await;
    deleting(store).await;
    copying(store).await;
    multipart(store).await;
}

fn at(name: &str) -> Path {
    Path::from(format!("contract/{name}"))
}

async fn content(store: &dyn ObjectStore, name: &str) -> Bytes {
    store.get(&at(name)).await.expect("is there").bytes().await.expect("reads")
}

async fn put_and_get(store: &dyn ObjectStore) {
    store.put(&at("one"), "first".into()).await.expect("puts");
    assert_eq!(content(store, "one").await, "first");
    store.put(&at("one"), "second version".into()).await.expect("overwrites");
    assert_eq!(content(store, "one").await, "second version", "reads see the write that returned");
    let meta = store.head(&at("one")).await.expect("is there");
    assert_eq!((meta.location, meta.size), (at("one"), 14));
    store.put(&at("empty"), PutPayload::new()).await.expect("puts nothing");
    assert_eq!(content(store, "empty").await, "");
    let absent = store.get(&at("absent")).await;
    assert!(matches!(absent, Err(Error::NotFound { .. })), "{absent:?}");
    assert!(matches!(store.head(&at("absent")).await, Err(Error::NotFound { .. })));
}

async fn put_if_absent(store: &dyn ObjectStore) {
    store.put_opts(&at("once"), "mine".into(), PutMode::Create.into()).await.expect("creates");
    let again = store.put_opts(&at("once"), "yours".into(), PutMode::Create.into()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(content(store, "once").await, "mine", "the first writer wins");
}

async fn put_if_unchanged(store: &dyn ObjectStore) {
    let over = |version: &UpdateVersion| PutMode::Update(version.clone()).into();
    let first: UpdateVersion = store.put(&at("tagged"), "first".into()).await.expect("puts").into();
    let found = store.head(&at("tagged")).await.expect("is there");
    assert_eq!(found.e_tag, first.e_tag, "a write and a look give the same tag");
    let second = store.put_opts(&at("tagged"), "second".into(), over(&first)).await.expect("is unchanged");
    let second: UpdateVersion = second.into();
    let late = store.put_opts(&at("tagged"), "late".into(), over(&first)).await;
    assert!(matches!(late, Err(Error::Precondition { .. })), "{late:?}");
    assert_eq!(content(store, "tagged").await, "second");
    store.put_opts(&at("tagged"), "third".into(), over(&second)).await.expect("is unchanged");
    let absent = store.put_opts(&at("never"), "x".into(), over(&second)).await;
    assert!(matches!(absent, Err(Error::Precondition { .. })), "{absent:?}");
}

async fn ranges(store: &dyn ObjectStore) {
    store.put(&at("digits"), "0123456789".into()).await.expect("puts");
    let path = at("digits");
    assert_eq!(store.get_range(&path, 2..5).await.expect("reads"), "234");
    assert_eq!(store.get_range(&path, 8..50).await.expect("reads what is there"), "89", "a range may end past the end");
    assert!(store.get_range(&path, 10..12).await.is_err(), "but it must start inside");
    assert!(store.get_range(&path, 50..60).await.is_err());
    let suffix = GetOptions { range: Some(GetRange::Suffix(3)), ..GetOptions::default() };
    let result = store.get_opts(&path, suffix).await.expect("reads");
    assert_eq!(result.range, 7..10);
    assert_eq!(result.bytes().await.expect("reads"), "789");
    let parts = store.get_ranges(&path, &[0..1, 4..6]).await.expect("reads");
    assert_eq!(parts, ["0", "45"]);
    assert!(matches!(store.get_range(&at("absent"), 0..1).await, Err(Error::NotFound { .. })));
}

async fn listing(store: &dyn ObjectStore) {
    let names: Vec<String> = (0..20).map(|n| format!("list/dir{}/o{n:02}", n % 3)).chain(["list/top".to_string()]).collect();
    for name in &names {
        store.put(&at(name), name.clone().into()).await.expect("puts");
    }
    store.put(&at("list-other"), "x".into()).await.expect("puts");
    let found: Vec<_> = store.list(Some(&at("list"))).try_collect().await.expect("lists");
    let mut found: Vec<String> = found.into_iter().map(|m| m.location.to_string()).collect();
    found.sort();
    let mut expected: Vec<String> = names.iter().map(|n| at(n).to_string()).collect();
    expected.sort();
    assert_eq!(found, expected, "a prefix ends at a path separator");
    let level = store.list_with_delimiter(Some(&at("list"))).await.expect("lists");
    let objects: Vec<_> = level.objects.iter().map(|m| m.location.to_string()).collect();
    assert_eq!(objects, ["contract/list/top"]);
    let mut dirs: Vec<_> = level.common_prefixes.iter().map(ToString::to_string).collect();
    dirs.sort();
    assert_eq!(dirs, ["contract/list/dir0", "contract/list/dir1", "contract/list/dir2"]);
    let after: Vec<_> = store.list_with_offset(Some(&at("list")), &at("list/dir2/o17")).try_collect().await.expect("lists");
    assert_eq!(after.into_iter().map(|m| m.location.to_string()).collect::<Vec<_>>(), ["contract/list/top"]);
    let nothing: Vec<_> = store.list(Some(&at("absent"))).try_collect().await.expect("an absent prefix is empty");
    assert!(nothing.is_empty());
}

async fn deleting(store: &dyn ObjectStore) {
    store.put(&at("gone"), "x".into()).await.expect("puts");
    store.delete(&at("gone")).await.expect("deletes");
    assert!(matches!(store.get(&at("gone")).await, Err(Error::NotFound { .. })), "a delete that returned is visible");
    // A file system says NotFound here, S3 says nothing: callers must take both.
    let again = store.delete(&at("gone")).await;
    assert!(matches!(again, Ok(()) | Err(Error::NotFound { .. })), "{again:?}");
    for n in 0..5 {
        store.put(&at(&format!("batch/{n}")), "x".into()).await.expect("puts");
    }
    let paths: Vec<_> = (0..5).map(|n| Ok(at(&format!("batch/{n}")))).collect();
    let deleted: Vec<_> = store.delete_stream(futures::stream::iter(paths).boxed()).try_collect().await.expect("deletes");
    assert_eq!(deleted.len(), 5);
    let left: Vec<_> = store.list(Some(&at("batch"))).try_collect().await.expect("lists");
    assert!(left.is_empty());
}

async fn copying(store: &dyn ObjectStore) {
    store.copy(&at("one"), &at("copy")).await.expect("copies");
    assert_eq!(content(store, "copy").await, "second version");
    assert!(matches!(store.copy(&at("absent"), &at("copy")).await, Err(Error::NotFound { .. })));
    let exists = store.copy_if_not_exists(&at("digits"), &at("copy")).await;
    assert!(matches!(exists, Err(Error::AlreadyExists { .. })), "{exists:?}");
}

async fn multipart(store: &dyn ObjectStore) {
    let mut upload = store.put_multipart(&at("parts")).await.expect("starts");
    upload.put_part("abc".into()).await.expect("uploads");
    upload.put_part("def".into()).await.expect("uploads");
    assert!(matches!(store.get(&at("parts")).await, Err(Error::NotFound { .. })), "nothing is visible before the end");
    upload.complete().await.expect("completes");
    assert_eq!(content(store, "parts").await, "abcdef");
    let mut upload = store.put_multipart(&at("aborted")).await.expect("starts");
    upload.put_part("abc".into()).await.expect("uploads");
    upload.abort().await.expect("aborts");
    assert!(matches!(store.get(&at("aborted")).await, Err(Error::NotFound { .. })));
}
