//! Objects by name, with retries. Generations: a node writes only names of its own, and reads an index of at most its own.

use super::index::{IndexError, IndexPart};
use super::path;
use crate::io_abstraction::disk::{FileOps as _, OpenMode, TEMPORARY_SUFFIX};
use crate::io_abstraction::{ClockExt as _, DetRng, Env, rng};
use crate::layer::LayerName;
use crate::types::{Generation, TenantId, TimelineId};
use bytes::Bytes;
use futures::StreamExt as _;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutPayload};
use std::path::Path;
use std::time::Duration;

/// Longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// Tries of a read before its error is given to whoever asked.
const READ_TRIES: u32 = 10;
/// One request may take this long; the store may never answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("remote storage: {what} {path}: {error}")]
    Store { what: &'static str, path: String, error: object_store::Error },
    #[error("remote storage: {what} {path}: no answer within {REQUEST_LIMIT:?}")]
    TimedOut { what: &'static str, path: String },
    #[error("remote storage: {path} does not exist")]
    NotFound { path: String },
    #[error("remote storage: {path}: {error}")]
    Index { path: String, error: IndexError },
    #[error("remote storage: {path} has {actual} bytes, the index says {expected}")]
    Size { path: String, expected: u64, actual: u64 },
    #[error("local disk: {0}")]
    Disk(#[from] std::io::Error),
}

impl RemoteError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, RemoteError::NotFound { .. })
    }
}

/// Remote storage as one node sees it in one generation.
#[derive(Clone)]
pub struct RemoteClient {
    env: Env,
    generation: Generation,
}

impl RemoteClient {
    pub fn new(env: &Env, generation: Generation) -> RemoteClient {
        RemoteClient { env: env.clone(), generation }
    }

    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Waits before try number `attempt` (from 1), with jitter.
    pub async fn back_off(&self, attempt: u32, jitter: &mut DetRng) {
        let grown = Duration::from_millis(100) * 2u32.saturating_pow(attempt.min(6));
        let limit = grown.min(BACKOFF_MAX).as_millis() as u64;
        let wait = Duration::from_millis(limit / 2 + rng::below(jitter, limit / 2 + 1));
        self.env.clock.sleep(wait).await;
    }

    async fn limited<T>(
        &self,
        what: &'static str,
        path: &ObjectPath,
        request: impl Future<Output = object_store::Result<T>> + Send,
    ) -> Result<T, RemoteError> {
        match self.env.clock.timeout(REQUEST_LIMIT, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(object_store::Error::NotFound { .. })) => Err(RemoteError::NotFound { path: path.to_string() }),
            Ok(Err(error)) => Err(RemoteError::Store { what, path: path.to_string(), error }),
            Err(_) => Err(RemoteError::TimedOut { what, path: path.to_string() }),
        }
    }

    /// Runs a read until it succeeds, its object is absent, or the tries are used up.
    async fn retry<T, F>(&self, mut read: impl FnMut() -> F) -> Result<T, RemoteError>
    where
        F: Future<Output = Result<T, RemoteError>>,
    {
        let mut jitter = self.env.rng.stream("remote-read-backoff");
        let mut attempt = 0;
        loop {
            match read().await {
                Err(error) if !error.is_not_found() && attempt < READ_TRIES => {
                    attempt += 1;
                    if attempt >= 3 {
                        tracing::warn!(attempt, %error, "remote read failed, will retry");
                    }
                    self.back_off(attempt, &mut jitter).await;
                }
                other => return other,
            }
        }
    }

    pub async fn put(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), RemoteError> {
        self.limited("put", path, self.env.store.put(path, PutPayload::from_bytes(bytes))).await.map(|_| ())
    }

    pub async fn get(&self, path: &ObjectPath) -> Result<Bytes, RemoteError> {
        self.retry(|| async {
            let read = async { self.env.store.get(path).await?.bytes().await };
            self.limited("get", path, read).await
        })
        .await
    }

    pub async fn delete(&self, path: &ObjectPath) -> Result<(), RemoteError> {
        match self.limited("delete", path, self.env.store.delete(path)).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Names of the "directories" below a prefix.
    async fn list_children(&self, prefix: &ObjectPath) -> Result<Vec<String>, RemoteError> {
        let list = self.retry(|| self.limited("list", prefix, self.env.store.list_with_delimiter(Some(prefix)))).await;
        let list = match list {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            other => other?,
        };
        let mut names: Vec<String> = list.common_prefixes.iter().filter_map(|p| Some(p.filename()?.to_string())).collect();
        names.sort();
        Ok(names)
    }

    /// Every object below a prefix.
    pub async fn list_objects(&self, prefix: &ObjectPath) -> Result<Vec<ObjectPath>, RemoteError> {
        self.retry(|| async {
            let read = async {
                let mut stream = self.env.store.list(Some(prefix));
                let mut paths = Vec::new();
                while let Some(meta) = stream.next().await {
                    paths.push(meta?.location);
                }
                paths.sort();
                Ok(paths)
            };
            self.limited("list", prefix, read).await
        })
        .await
    }

    pub async fn list_tenants(&self) -> Result<Vec<TenantId>, RemoteError> {
        Ok(self.list_children(&path::tenants()).await?.iter().filter_map(|n| n.parse().ok()).collect())
    }

    pub async fn list_timelines(&self, tenant: TenantId) -> Result<Vec<TimelineId>, RemoteError> {
        Ok(self.list_children(&path::timelines(tenant)).await?.iter().filter_map(|n| n.parse().ok()).collect())
    }

    pub async fn put_index(&self, tenant: TenantId, timeline: TimelineId, index: &IndexPart) -> Result<(), RemoteError> {
        self.put(&path::index(tenant, timeline, self.generation), index.encode().into()).await
    }

    /// The index with the highest generation that is at most this node's. `NotFound`: the timeline does not exist.
    pub async fn get_index(&self, tenant: TenantId, timeline: TimelineId) -> Result<IndexPart, RemoteError> {
        let objects = self.list_objects(&path::timeline(tenant, timeline)).await?;
        let newest = objects.iter().filter_map(path::index_generation).filter(|g| *g <= self.generation).max();
        let Some(generation) = newest else {
            return Err(RemoteError::NotFound { path: path::timeline(tenant, timeline).to_string() });
        };
        let path = path::index(tenant, timeline, generation);
        let bytes = self.get(&path).await?;
        IndexPart::decode(&bytes).map_err(|error| RemoteError::Index { path: path.to_string(), error })
    }

    /// Highest generation in any index or manifest, for a node that lost its counter.
    pub async fn newest_generation(&self) -> Result<Option<Generation>, RemoteError> {
        let objects = match self.list_objects(&path::tenants()).await {
            Err(error) if error.is_not_found() => Vec::new(),
            other => other?,
        };
        Ok(objects.iter().filter_map(|p| path::index_generation(p).or_else(|| path::manifest_generation(p))).max())
    }

    /// Uploads a local layer file under this node's generation.
    pub async fn upload_layer(&self, tenant: TenantId, timeline: TimelineId, name: &LayerName, local: &Path) -> Result<(), RemoteError> {
        let (disk, file) = (self.env.disk.clone(), local.join(name.to_string()));
        let bytes = self.env.tasks.blocking("read-layer", move || crate::io_abstraction::disk::read_file(&*disk, &file)).await?;
        self.put(&path::layer(tenant, timeline, name, self.generation), bytes.into()).await
    }

    /// Brings a layer to the local disk: temporary name, sync, rename, sync of the directory.
    pub async fn download_layer(
        &self,
        tenant: TenantId,
        timeline: TimelineId,
        (name, meta): (&LayerName, super::LayerMeta),
        local: &Path,
    ) -> Result<(), RemoteError> {
        let path = path::layer(tenant, timeline, name, meta.generation);
        let bytes = self.get(&path).await?;
        if bytes.len() as u64 != meta.file_size {
            return Err(RemoteError::Size { path: path.to_string(), expected: meta.file_size, actual: bytes.len() as u64 });
        }
        let (disk, local, name) = (self.env.disk.clone(), local.to_path_buf(), name.to_string());
        let store = move || {
            disk.create_dir_all(&local)?;
            let temporary = local.join(format!("{name}.download{TEMPORARY_SUFFIX}"));
            let file = disk.open(&temporary, OpenMode::CreateTruncate)?;
            file.write_at(0, &bytes)?;
            file.sync_data()?;
            disk.rename(&temporary, &local.join(name))?;
            disk.sync_dir(&local)
        };
        Ok(self.env.tasks.blocking("store-layer", store).await?)
    }
}
