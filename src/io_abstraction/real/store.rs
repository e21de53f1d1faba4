//! A local directory as object store.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::hash::{BuildHasher as _, BuildHasherDefault};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Opens a directory as object store, every write synced before it returns.
///
/// Errors: the directory cannot be created or resolved.
pub fn local_store(directory: &Path) -> std::io::Result<Arc<dyn ObjectStore>> {
    std::fs::create_dir_all(directory)?;
    let store = LocalFileSystem::new_with_prefix(directory).map_err(std::io::Error::other)?;
    let turns = (0..TURNS).map(|_| Mutex::new(())).collect();
    Ok(Arc::new(Directory { files: Arc::new(store.with_fsync(true)), turns }))
}

/// Conditional writes of different objects rarely wait for each other.
const TURNS: usize = 64;

/// [`LocalFileSystem`], and conditional writes, which it lacks: one at a time per object, so that nobody writes between the
/// look at the tag and the write. They hold within this process, and a data directory has one.
#[derive(Debug)]
struct Directory {
    files: Arc<LocalFileSystem>,
    turns: Arc<[Mutex<()>]>,
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

impl Directory {
    async fn put_in_turn(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (files, turns, location) = (self.files.clone(), self.turns.clone(), location.clone());
        // A task of its own: a caller that gives up ends neither the write nor its turn.
        let write = tokio::spawn(async move {
            let hash = BuildHasherDefault::<rustc_hash::FxHasher>::default().hash_one(location.as_ref());
            let _turn = turns[hash as usize % TURNS].lock().await;
            put_conditionally(&files, &location, payload, options).await
        });
        write.await?
    }
}

async fn put_conditionally(
    files: &LocalFileSystem,
    location: &ObjectPath,
    payload: PutPayload,
    mut options: PutOptions,
) -> Result<PutResult> {
    if let PutMode::Update(expected) = &options.mode {
        let stored = match files.head(location).await {
            Err(Error::NotFound { .. }) => None,
            other => other?.e_tag,
        };
        if stored.is_none() || stored != expected.e_tag {
            let found = stored.map_or_else(|| "the object is absent".to_string(), |tag| format!("the object's tag is {tag}"));
            return Err(Error::Precondition { path: location.to_string(), source: found.into() });
        }
        options.mode = PutMode::Overwrite;
    }
    files.put_opts(location, payload, options).await
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match options.mode {
            PutMode::Overwrite => self.files.put_opts(location, payload, options).await,
            PutMode::Create | PutMode::Update(_) => self.put_in_turn(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(&self, location: &ObjectPath, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.files.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<ObjectPath>>) -> BoxStream<'static, Result<ObjectPath>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&ObjectPath>, offset: &ObjectPath) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }
}
