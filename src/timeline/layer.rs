//! A historic layer: named and sized by the index, its file on the local disk or only in remote storage.

use super::Timeline;
use crate::io_abstraction::Mono;
use crate::layer::map::Named;
use crate::layer::{LayerError, LayerFile, LayerName};
use crate::remote::{LayerMeta, RemoteError};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub struct Layer {
    pub name: LayerName,
    pub meta: LayerMeta,
    file: Mutex<Option<Arc<LayerFile>>>,
    /// When it was last read, and when it came to the local disk, in nanoseconds of the node's clock.
    accessed: AtomicU64,
    arrived: AtomicU64,
    /// One download at a time; others wait for its outcome.
    fetching: tokio::sync::Mutex<()>,
}

impl Named for Layer {
    fn name(&self) -> &LayerName {
        &self.name
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LayerAccessError {
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("fetch layer {name}: {error}")]
    Fetch { name: String, error: RemoteError },
}

impl Layer {
    /// A layer that was not looked for on the local disk yet.
    pub fn remote(name: LayerName, meta: LayerMeta) -> Layer {
        let (accessed, arrived) = (AtomicU64::new(0), AtomicU64::new(0));
        Layer { name, meta, file: Mutex::new(None), accessed, arrived, fetching: tokio::sync::Mutex::new(()) }
    }

    pub fn is_resident(&self) -> bool {
        self.file.lock().is_some()
    }

    /// The open file: local if it is there with the right size, else downloaded.
    pub async fn file(&self, timeline: &Timeline) -> Result<Arc<LayerFile>, LayerAccessError> {
        let now = timeline.shared.env.clock.mono();
        self.accessed.store(now.0, Ordering::Relaxed);
        if let Some(file) = self.file.lock().clone() {
            return Ok(file);
        }
        let _one_at_a_time = self.fetching.lock().await;
        if let Some(file) = self.file.lock().clone() {
            return Ok(file);
        }
        let file = match self.open_local(timeline) {
            Ok(file) => file,
            Err(_) => self.download(timeline).await?,
        };
        self.arrived.store(now.0, Ordering::Relaxed);
        *self.file.lock() = Some(file.clone());
        Ok(file)
    }

    /// When somebody last needed it; for one that nobody needed in this life of the node, its start.
    pub fn last_access(&self) -> Mono {
        Mono(self.accessed.load(Ordering::Relaxed))
    }

    /// Since when it has been on the local disk, as far as this life of the node knows.
    pub fn arrival(&self) -> Mono {
        Mono(self.arrived.load(Ordering::Relaxed))
    }

    /// Takes the file off the local disk; remote storage has the layer. Readers that are at it go on. Gives false if there is no
    /// file, or it is just being fetched.
    pub async fn evict(&self, timeline: &Timeline) -> io::Result<bool> {
        let Ok(_alone) = self.fetching.try_lock() else { return Ok(false) };
        let path = timeline.local_directory().join(self.name.to_string());
        *self.file.lock() = None;
        let disk = timeline.shared.env.disk.clone();
        match timeline.shared.env.tasks.blocking("evict-layer", move || disk.unlink(&path)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn open_local(&self, timeline: &Timeline) -> Result<Arc<LayerFile>, LayerError> {
        let shared = &timeline.shared;
        LayerFile::open(&*shared.env.disk, &timeline.local_directory(), &self.name, &shared.cache).map(Arc::new)
    }

    async fn download(&self, timeline: &Timeline) -> Result<Arc<LayerFile>, LayerAccessError> {
        let owner = &timeline.identity;
        let directory = timeline.local_directory();
        timeline.shared.env.probe.mark("layer-download");
        let fetched = timeline.attachment.remote.download_layer(owner.tenant, owner.timeline, (&self.name, self.meta), &directory).await;
        fetched.map_err(|error| LayerAccessError::Fetch { name: self.name.to_string(), error })?;
        Ok(self.open_local(timeline)?)
    }

    /// Replaces a damaged local file by the remote copy. `bad` is the file in which the damage was found.
    pub async fn replace(&self, timeline: &Timeline, bad: &Arc<LayerFile>) -> Result<Arc<LayerFile>, LayerAccessError> {
        let _one_at_a_time = self.fetching.lock().await;
        let current = self.file.lock().clone();
        if let Some(other) = current.filter(|file| !Arc::ptr_eq(file, bad)) {
            return Ok(other);
        }
        tracing::warn!(timeline = %timeline.identity.timeline, layer = %self.name, "local layer file is damaged, fetching it again");
        timeline.shared.env.probe.mark("layer-replaced");
        let file = self.download(timeline).await?;
        *self.file.lock() = Some(file.clone());
        Ok(file)
    }
}
