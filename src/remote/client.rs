//! Objects by name, with retries. Generations: a node writes only names of its own, and reads an index of at most its own.

use super::index::{IndexError, IndexPart};
use super::path;
use super::transfer::TRANSFERS_MAX;
use crate::io_abstraction::{ClockExt as _, DetRng, Env, rng};
use crate::types::{Generation, TenantId, TimelineId};
use bytes::Bytes;
use futures::StreamExt as _;
use object_store::path::Path as ObjectPath;
use object_store::{ListResult, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload, UpdateVersion};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

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
    #[error("remote storage: {path} is not a manifest: {error}")]
    Manifest { path: String, error: serde_json::Error },
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

/// What is known of the stored index of one timeline.
///
/// Invariant RM-4: an index takes the place only of the one before it. A write whose outcome was never learnt cannot come late
/// and take a newer index back: every write names the version that it replaces.
#[derive(Debug)]
pub struct StoredIndex {
    tenant: TenantId,
    timeline: TimelineId,
    /// How the next write must find the object; `None`: to be looked up.
    mode: Option<PutMode>,
}

impl StoredIndex {
    pub fn unknown(tenant: TenantId, timeline: TimelineId) -> StoredIndex {
        StoredIndex { tenant, timeline, mode: None }
    }
}

/// Remote storage as one node sees it in one generation.
#[derive(Clone)]
pub struct RemoteClient {
    pub(super) env: Env,
    generation: Generation,
    transfers: Arc<Semaphore>,
}

impl RemoteClient {
    pub fn new(env: &Env, generation: Generation) -> RemoteClient {
        RemoteClient { env: env.clone(), generation, transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)) }
    }

    /// The same for another generation; transfers of both count together.
    pub fn in_generation(&self, generation: Generation) -> RemoteClient {
        RemoteClient { generation, ..self.clone() }
    }

    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Permission to move one layer.
    pub(super) async fn transfer(&self) -> SemaphorePermit<'_> {
        self.transfers.acquire().await.expect("the semaphore is never closed")
    }

    /// Waits before try number `attempt` (from 1), with jitter.
    pub async fn back_off(&self, attempt: u32, jitter: &mut DetRng) {
        let grown = Duration::from_millis(100) * 2u32.saturating_pow(attempt.min(6));
        let limit = grown.min(BACKOFF_MAX).as_millis() as u64;
        let wait = Duration::from_millis(limit / 2 + rng::below(jitter, limit / 2 + 1));
        self.env.clock.sleep(wait).await;
    }

    pub(super) async fn limited<T>(
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
    pub(super) async fn retry<T, F>(&self, mut read: impl FnMut() -> F) -> Result<T, RemoteError>
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

    /// Deletes objects, absent ones too; one try. After an error some may be gone.
    pub async fn delete_many(&self, paths: &[ObjectPath]) -> Result<(), RemoteError> {
        let Some(first) = paths.first() else { return Ok(()) };
        let locations = futures::stream::iter(paths.iter().cloned().map(Ok).collect::<Vec<_>>()).boxed();
        let request = async {
            let mut done = self.env.store.delete_stream(locations);
            while let Some(one) = done.next().await {
                match one {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        self.limited("delete objects from", first, request).await
    }

    async fn list_level(&self, prefix: &ObjectPath) -> Result<ListResult, RemoteError> {
        match self.retry(|| self.limited("list", prefix, self.env.store.list_with_delimiter(Some(prefix)))).await {
            Err(error) if error.is_not_found() => {
                Ok(ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() })
            }
            other => other,
        }
    }

    /// Objects directly below a prefix.
    pub(super) async fn list_beside(&self, prefix: &ObjectPath) -> Result<Vec<ObjectPath>, RemoteError> {
        Ok(self.list_level(prefix).await?.objects.into_iter().map(|meta| meta.location).collect())
    }

    /// Names of the "directories" below a prefix.
    async fn list_children(&self, prefix: &ObjectPath) -> Result<Vec<String>, RemoteError> {
        let list = self.list_level(prefix).await?;
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

    /// Stores an index in place of the one that `stored` tells of; one try.
    ///
    /// Errors: what it says of the outcome is not known; the next try looks first.
    pub async fn put_index(&self, stored: &mut StoredIndex, index: &IndexPart) -> Result<(), RemoteError> {
        let path = path::index(stored.tenant, stored.timeline, self.generation);
        let mode = match stored.mode.take() {
            Some(mode) => mode,
            None => self.mode_of(&path).await?,
        };
        stored.mode = Some(self.put_as(&path, index.encode(), mode).await?);
        Ok(())
    }

    /// How a write must find an object to take the place of what is there now.
    pub(super) async fn mode_of(&self, path: &ObjectPath) -> Result<PutMode, RemoteError> {
        match self.limited("look at", path, self.env.store.head(path)).await {
            Ok(meta) => Ok(PutMode::Update(UpdateVersion { e_tag: meta.e_tag, version: meta.version })),
            Err(error) if error.is_not_found() => Ok(PutMode::Create),
            Err(error) => Err(error),
        }
    }

    /// The index with the highest generation that is at most this node's. `NotFound`: the timeline does not exist.
    pub async fn get_index(&self, tenant: TenantId, timeline: TimelineId) -> Result<IndexPart, RemoteError> {
        let objects = self.list_objects(&path::timeline(tenant, timeline)).await?;
        self.index_among(tenant, timeline, &objects).await
    }

    /// The same; `objects` are all that the timeline has.
    pub async fn index_among(&self, tenant: TenantId, timeline: TimelineId, objects: &[ObjectPath]) -> Result<IndexPart, RemoteError> {
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
}
