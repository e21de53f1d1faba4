//! What has to wait until the newest generation is known to be ours: deletions, and LSNs that are told as remotely consistent.
//!
//! Nothing of it survives a stop. Objects that nobody names are found again when the tenant is attached.

use super::attachment::Attachment;
use super::authority::{Authority, AuthorityError};
use super::client::{RemoteClient, RemoteError};
use crate::io_abstraction::{ClockExt as _, Env};
use crate::types::{AttachMode, Lsn, TenantId};
use object_store::path::Path as ObjectPath;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

/// Requests of several timelines are answered together.
const GATHER: Duration = Duration::from_millis(100);
/// Objects that are named in one deletion. S3 takes 1,000.
const DELETE_TOGETHER: usize = 1000;

/// What one attachment waits for.
struct Pending {
    attachment: Arc<Attachment>,
    objects: Vec<ObjectPath>,
    lsns: Vec<(Arc<AtomicU64>, Lsn)>,
}

impl Pending {
    fn of(attachment: &Arc<Attachment>) -> Pending {
        Pending { attachment: attachment.clone(), objects: Vec::new(), lsns: Vec::new() }
    }

    /// Whether there is something that the mode allows.
    fn is_due(&self) -> bool {
        match self.attachment.mode() {
            AttachMode::Single => !(self.objects.is_empty() && self.lsns.is_empty()),
            AttachMode::Multi => !self.lsns.is_empty(),
            AttachMode::Stale => false,
        }
    }
}

#[derive(Default)]
struct Queue {
    pending: BTreeMap<TenantId, Pending>,
    /// Told after the next round.
    waiting: Vec<oneshot::Sender<()>>,
}

/// The node's queue of what needs validation.
pub struct Validation {
    env: Env,
    authority: Arc<dyn Authority>,
    remote: RemoteClient,
    queue: Mutex<Queue>,
    filled: Notify,
}

impl Validation {
    pub fn new(env: &Env, remote: RemoteClient, authority: Arc<dyn Authority>) -> Arc<Validation> {
        Arc::new(Validation { env: env.clone(), authority, remote, queue: Mutex::default(), filled: Notify::new() })
    }

    fn with(&self, attachment: &Arc<Attachment>, add: impl FnOnce(&mut Pending)) {
        let mut queue = self.queue.lock();
        let entry = queue.pending.entry(attachment.tenant).or_insert_with(|| Pending::of(attachment));
        if entry.attachment.generation() < attachment.generation() {
            // What an earlier attachment left is found as objects without a name.
            *entry = Pending::of(attachment);
        }
        if entry.attachment.generation() == attachment.generation() {
            add(entry);
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// Deletes objects once the generation is validated. No stored index names them any more.
    pub fn delete(&self, attachment: &Arc<Attachment>, objects: impl IntoIterator<Item = ObjectPath>) {
        let mut objects = objects.into_iter().peekable();
        if objects.peek().is_some() {
            self.with(attachment, |pending| pending.objects.extend(objects));
        }
    }

    /// Raises `visible` to `lsn` once the generation is validated. An index of that LSN is stored.
    pub fn advance(&self, attachment: &Arc<Attachment>, visible: &Arc<AtomicU64>, lsn: Lsn) {
        self.with(attachment, |pending| pending.lsns.push((visible.clone(), lsn)));
    }

    /// Drops what waits for a tenant that is not attached any more.
    pub fn forget(&self, tenant: TenantId) {
        self.queue.lock().pending.remove(&tenant);
    }

    /// Objects that wait for their deletion.
    pub fn len(&self) -> usize {
        self.queue.lock().pending.values().map(|pending| pending.objects.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks again: a mode has changed.
    pub(super) fn wake(&self) {
        self.filled.notify_one();
    }

    /// Completes when all that waits now was tried once, or never if nobody works the queue off any more.
    pub async fn flushed(&self) {
        let (done, waiter) = oneshot::channel();
        self.queue.lock().waiting.push(done);
        self.filled.notify_one();
        // An error: the queue is gone, and nothing waits in it.
        let _ = waiter.await;
    }

    /// Works the queue off until cancelled.
    pub async fn run(self: Arc<Validation>, cancel: CancellationToken) {
        let mut jitter = self.env.rng.stream("validation-backoff");
        let work = async {
            let mut attempt = 0;
            loop {
                let (due, waiting) = self.take();
                if due.is_empty() && waiting.is_empty() {
                    self.filled.notified().await;
                    self.env.clock.sleep(GATHER).await;
                    continue;
                }
                match self.round(due).await {
                    Ok(()) => attempt = 0,
                    Err(error) => {
                        attempt += 1;
                        if attempt >= 3 {
                            tracing::warn!(attempt, %error, "deletions and remotely consistent LSNs wait, will retry");
                        }
                        self.remote.back_off(attempt, &mut jitter).await;
                    }
                }
                for done in waiting {
                    // Nobody may be waiting any more.
                    let _ = done.send(());
                }
            }
        };
        cancel.run_until_cancelled(work).await;
        *self.queue.lock() = Queue::default();
    }

    fn take(&self) -> (Vec<Pending>, Vec<oneshot::Sender<()>>) {
        let mut queue = self.queue.lock();
        let due: Vec<TenantId> = queue.pending.iter().filter(|(_, pending)| pending.is_due()).map(|(tenant, _)| *tenant).collect();
        let taken = due.iter().filter_map(|tenant| queue.pending.remove(tenant)).collect();
        (taken, std::mem::take(&mut queue.waiting))
    }

    /// Puts back what could not be done.
    fn put_back(&self, pending: Pending) {
        let attachment = pending.attachment.clone();
        self.with(&attachment, |now| {
            now.objects.splice(0..0, pending.objects);
            now.lsns.splice(0..0, pending.lsns);
        });
    }

    async fn round(&self, due: Vec<Pending>) -> Result<(), AuthorityError> {
        let asked: Vec<_> = due.iter().map(|pending| (pending.attachment.tenant, pending.attachment.generation())).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let valid = match self.authority.validate(&asked).await {
            Ok(valid) => valid,
            Err(error) => {
                due.into_iter().for_each(|pending| self.put_back(pending));
                return Err(error);
            }
        };
        let mut outcome = Ok(());
        for mut pending in due {
            let tenant = pending.attachment.tenant;
            if !valid.contains(&tenant) && !crate::planted!(self.env, "deletes-unvalidated") {
                let (generation, objects) = (pending.attachment.generation().0, pending.objects.len());
                self.env.probe.mark("generation-stale");
                tracing::warn!(%tenant, generation, objects, "another node has the tenant in a newer generation: nothing is deleted");
                continue;
            }
            for (visible, lsn) in std::mem::take(&mut pending.lsns) {
                visible.fetch_max(lsn.0, Ordering::AcqRel);
            }
            if pending.attachment.mode() == AttachMode::Single {
                outcome = outcome.and(self.delete_objects(&mut pending.objects).await.map_err(AuthorityError::from));
            }
            if !pending.objects.is_empty() {
                self.put_back(pending);
            }
        }
        outcome
    }

    /// Takes from `objects` what is deleted.
    async fn delete_objects(&self, objects: &mut Vec<ObjectPath>) -> Result<(), RemoteError> {
        while !objects.is_empty() {
            let some = objects.len().min(DELETE_TOGETHER);
            self.remote.delete_many(&objects[..some]).await?;
            self.env.probe.mark("objects-deleted");
            objects.drain(..some);
        }
        Ok(())
    }
}
