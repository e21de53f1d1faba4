//! The upload queue of a timeline: one operation after the other, so that the order is the safety.
//!
//! Invariants
//! - RM-1: an index never names a layer whose upload has not finished.
//! - RM-2: an object is deleted only after an index that does not name it is stored, and the generation was validated after that.
//! - RM-3: `remote_consistent_lsn` is the disk-consistent LSN of an index that is stored.
//!
//! Nothing of the queue survives a crash: layers that no stored index names are dropped at the next start, and their WAL is
//! read again.

use super::attachment::Attachment;
use super::client::StoredIndex;
use super::index::IndexPart;
use crate::io_abstraction::{ClockExt as _, Env};
use crate::layer::LayerName;
use crate::types::{Generation, Lsn, TenantId, TimelineId};
use object_store::path::Path as ObjectPath;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

/// How long the simulator may keep an index back whose layers are stored.
const INDEX_LATE: Duration = Duration::from_millis(700);

enum Operation {
    UploadLayer(LayerName),
    UploadIndex(Box<IndexPart>),
    /// Both the object and the local file.
    RemoveLayer(LayerName, Generation),
    Barrier(oneshot::Sender<()>),
}

#[derive(Default)]
struct Queue {
    operations: VecDeque<Operation>,
    /// One is being worked on.
    at_work: bool,
    /// Nobody works it off any more.
    closed: bool,
}

/// Called with the disk-consistent LSN of each stored index.
pub type OnIndexStored = Box<dyn Fn(Lsn) + Send + Sync>;

pub struct UploadQueue {
    env: Env,
    attachment: Arc<Attachment>,
    tenant: TenantId,
    timeline: TimelineId,
    directory: PathBuf,
    queue: Mutex<Queue>,
    /// Objects that nobody needs any more once this generation has an index.
    replaced: Mutex<Vec<ObjectPath>>,
    filled: Notify,
    on_index_stored: OnIndexStored,
}

impl UploadQueue {
    pub fn new(
        env: &Env,
        attachment: &Arc<Attachment>,
        timeline: TimelineId,
        directory: PathBuf,
        on_index_stored: OnIndexStored,
    ) -> Arc<UploadQueue> {
        Arc::new(UploadQueue {
            env: env.clone(),
            attachment: attachment.clone(),
            tenant: attachment.tenant,
            timeline,
            directory,
            queue: Mutex::default(),
            replaced: Mutex::default(),
            filled: Notify::new(),
            on_index_stored,
        })
    }

    fn push(&self, operations: impl IntoIterator<Item = Operation>) {
        let mut queue = self.queue.lock();
        if !queue.closed {
            queue.operations.extend(operations);
            self.filled.notify_one();
        }
    }

    /// Schedules new layers, then an index that names them, then the removal of layers that it does not name any more.
    pub fn upload(self: &Arc<UploadQueue>, layers: Vec<LayerName>, index: IndexPart, gone: Vec<(LayerName, Generation)>) {
        let mut operations: Vec<Operation> = layers.into_iter().map(Operation::UploadLayer).collect();
        let removals = gone.len();
        operations.push(Operation::UploadIndex(Box::new(index)));
        operations.extend(gone.into_iter().map(|(name, generation)| Operation::RemoveLayer(name, generation)));
        if crate::planted!(self.env, "compaction-deletes-first") {
            operations.rotate_right(removals);
        }
        if crate::planted!(self.env, "index-before-layers") {
            operations.rotate_right(1);
        }
        if crate::planted!(self.env, "uploads-in-tasks") {
            for operation in operations {
                let queue = self.clone();
                self.env.tasks.spawn("schedule-upload", async move { queue.push([operation]) });
            }
            return;
        }
        self.push(operations);
    }

    /// Objects of earlier generations: deleted once the next index is stored.
    pub fn replaces(&self, objects: Vec<ObjectPath>) {
        self.replaced.lock().extend(objects);
    }

    /// Completes when everything scheduled before is done; an error when the queue shut down first.
    pub async fn drained(&self) -> Result<(), QueueClosed> {
        let (done, waiter) = oneshot::channel();
        self.push([Operation::Barrier(done)]);
        waiter.await.map_err(|_| QueueClosed)
    }

    /// Whether everything that was scheduled is done.
    pub fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        queue.operations.is_empty() && !queue.at_work
    }

    pub fn len(&self) -> usize {
        self.queue.lock().operations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows what is scheduled, in order: layers to upload and indexes.
    #[cfg(test)]
    pub(crate) fn scheduled(&self, mut visit: impl FnMut(Option<&LayerName>, Option<&IndexPart>)) {
        for operation in &self.queue.lock().operations {
            match operation {
                Operation::UploadLayer(name) => visit(Some(name), None),
                Operation::UploadIndex(index) => visit(None, Some(index)),
                Operation::RemoveLayer(..) | Operation::Barrier(_) => {}
            }
        }
    }

    /// Names of the layers whose removal is scheduled, and how many operations come before the first of them.
    #[cfg(test)]
    pub(crate) fn removals(&self) -> (usize, Vec<LayerName>) {
        let queue = self.queue.lock();
        let removed = |operation: &Operation| match operation {
            Operation::RemoveLayer(name, _) => Some(name.clone()),
            _ => None,
        };
        let before = queue.operations.iter().take_while(|operation| removed(operation).is_none()).count();
        (before, queue.operations.iter().filter_map(removed).collect())
    }

    /// Works the queue off until cancelled.
    pub async fn run(self: Arc<UploadQueue>, cancel: CancellationToken) {
        let mut jitter = self.env.rng.stream(&format!("upload-backoff {}", self.timeline));
        let mut stored = StoredIndex::unknown(self.tenant, self.timeline);
        let work = async {
            loop {
                let next = {
                    let mut queue = self.queue.lock();
                    let next = queue.operations.pop_front();
                    queue.at_work = next.is_some();
                    next
                };
                let Some(operation) = next else {
                    self.filled.notified().await;
                    continue;
                };
                if let Operation::Barrier(done) = operation {
                    // Nobody may be waiting any more.
                    let _ = done.send(());
                    continue;
                }
                self.attachment.may_write().await;
                let mut attempt = 0;
                while let Err(error) = self.perform(&operation, &mut stored).await {
                    attempt += 1;
                    if crate::planted!(self.env, "upload-error-ignored") {
                        break;
                    }
                    if attempt >= 3 {
                        tracing::warn!(tenant = %self.tenant, timeline = %self.timeline, attempt, %error, "upload failed, will retry");
                    }
                    self.attachment.remote.back_off(attempt, &mut jitter).await;
                }
            }
        };
        cancel.run_until_cancelled(work).await;
        // Barriers are dropped with the queue: their waiters learn that it is closed.
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.operations.clear();
    }

    async fn perform(&self, operation: &Operation, stored: &mut StoredIndex) -> Result<(), super::RemoteError> {
        match operation {
            Operation::UploadLayer(name) => self.attachment.remote.upload_layer(self.tenant, self.timeline, name, &self.directory).await,
            Operation::UploadIndex(index) => {
                if crate::buggify!(self.env, "index-late") {
                    self.env.clock.sleep(INDEX_LATE).await;
                }
                self.attachment.remote.put_index(stored, index).await?;
                self.env.probe.event("index", &|| format!("timeline={} lsn={}", self.timeline, index.disk_consistent_lsn));
                (self.on_index_stored)(index.disk_consistent_lsn);
                self.attachment.validation.delete(&self.attachment, std::mem::take(&mut *self.replaced.lock()));
                Ok(())
            }
            Operation::RemoveLayer(name, generation) => {
                let object = super::path::layer(self.tenant, self.timeline, name, *generation);
                if crate::planted!(self.env, "compaction-deletes-first") {
                    self.attachment.remote.delete(&object).await?;
                } else {
                    self.attachment.validation.delete(&self.attachment, [object]);
                }
                let (disk, file) = (self.env.disk.clone(), self.directory.join(name.to_string()));
                // It may never have been here; what cannot be removed now is removed at the next start.
                let _ = self.env.tasks.blocking("remove-layer", move || disk.unlink(&file)).await;
                Ok(())
            }
            Operation::Barrier(_) => Ok(()),
        }
    }
}

/// The timeline shut down before its uploads were done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the timeline shut down before its uploads were done")]
pub struct QueueClosed;
