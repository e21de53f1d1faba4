//! Who is here: one slot for each tenant that this node has, or that is just changing.

use super::error::LookupError;
use super::state::{Tenant, TimelineHandle};
use crate::io_abstraction::ClockExt as _;
use crate::timeline::Shared;
use crate::types::{TenantId, TimelineId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// How long a stop waits for the flush and the uploads of one timeline.
pub const UPLOAD_LIMIT: Duration = Duration::from_secs(30);
/// Tenants that are brought up at a time.
const ATTACHING_MAX: usize = 16;

/// What the node has of a tenant.
#[derive(Clone)]
pub enum Slot {
    Attached(Arc<Tenant>),
    /// Layers kept for later.
    Secondary {
        warm: bool,
    },
    /// One request changes what the node has. Others have to wait.
    Changing,
}

/// All tenants of this node.
pub struct Registry {
    pub shared: Arc<Shared>,
    slots: Mutex<BTreeMap<TenantId, Slot>>,
    /// One initdb at a time per node: it is heavy, and its result is cached.
    pub(super) template: tokio::sync::Mutex<()>,
    /// One logical size is computed at a time per node: it reads much.
    pub(super) logical_size_queries: tokio::sync::Mutex<()>,
    /// One run of eviction at a time.
    pub(super) evictions: tokio::sync::Mutex<()>,
    /// The node stops: nothing is created or attached any more.
    pub(super) stopping: CancellationToken,
    pub(super) attaching: Semaphore,
    next_trash: AtomicU64,
    /// Told when a slot is not changing any more.
    changed: Notify,
    /// Which tenants the node has is not known yet: nothing is said of any, and none changes.
    unassigned: AtomicBool,
}

/// The slot of one tenant, ours alone until it is dropped; then what was in it is in it again, if nothing was put there.
pub struct SlotGuard {
    registry: Arc<Registry>,
    id: TenantId,
    slot: Option<Slot>,
}

impl SlotGuard {
    pub fn slot(&self) -> Option<&Slot> {
        self.slot.as_ref()
    }

    /// What will be in the slot.
    pub fn set(&mut self, slot: Option<Slot>) {
        self.slot = slot;
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let mut slots = self.registry.slots.lock();
        match self.slot.take() {
            Some(slot) => slots.insert(self.id, slot),
            None => slots.remove(&self.id),
        };
        drop(slots);
        self.registry.changed.notify_waiters();
    }
}

impl Registry {
    pub fn new(shared: Arc<Shared>) -> Arc<Registry> {
        Arc::new(Registry {
            shared,
            slots: Mutex::default(),
            template: tokio::sync::Mutex::default(),
            logical_size_queries: tokio::sync::Mutex::default(),
            evictions: tokio::sync::Mutex::default(),
            stopping: CancellationToken::new(),
            attaching: Semaphore::new(ATTACHING_MAX),
            next_trash: AtomicU64::new(0),
            changed: Notify::new(),
            unassigned: AtomicBool::new(false),
        })
    }

    /// From now on, or not any more, it is not known which tenants the node has.
    pub fn set_unassigned(&self, unassigned: bool) {
        self.unassigned.store(unassigned, Ordering::Release);
    }

    /// Errors: it is not known which tenants the node has.
    pub fn check_assigned(&self) -> Result<(), LookupError> {
        if self.unassigned.load(Ordering::Acquire) { Err(LookupError::NotAssigned) } else { Ok(()) }
    }

    /// A tenant that serves.
    pub fn tenant(&self, id: TenantId) -> Result<Arc<Tenant>, LookupError> {
        let tenant = self.any_tenant(id)?;
        tenant.check_active()?;
        Ok(tenant)
    }

    /// A tenant that is attached, in whichever state.
    pub fn any_tenant(&self, id: TenantId) -> Result<Arc<Tenant>, LookupError> {
        self.check_assigned()?;
        match self.slots.lock().get(&id) {
            Some(Slot::Attached(tenant)) => Ok(tenant.clone()),
            Some(Slot::Changing) => Err(LookupError::Changing(id)),
            Some(Slot::Secondary { .. }) | None => Err(LookupError::Tenant(id)),
        }
    }

    /// Tenants that are attached, in whichever state.
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        let attached = |slot: &Slot| match slot {
            Slot::Attached(tenant) => Some(tenant.clone()),
            Slot::Secondary { .. } | Slot::Changing => None,
        };
        self.slots.lock().values().filter_map(attached).collect()
    }

    pub fn timeline(&self, tenant: TenantId, timeline: TimelineId) -> Result<Arc<TimelineHandle>, LookupError> {
        self.tenant(tenant)?.timeline(timeline)
    }

    /// Excludes other changes of what the node has of a tenant.
    pub(super) fn change(self: &Arc<Registry>, id: TenantId) -> Result<SlotGuard, LookupError> {
        if self.stopping.is_cancelled() {
            return Err(LookupError::NodeStopping);
        }
        self.check_assigned()?;
        let mut slots = self.slots.lock();
        if let Some(Slot::Changing) = slots.get(&id) {
            return Err(LookupError::Changing(id));
        }
        let slot = slots.insert(id, Slot::Changing);
        Ok(SlotGuard { registry: self.clone(), id, slot })
    }

    /// Puts in what a start of the node finds.
    pub(super) fn put(&self, id: TenantId, slot: Slot) {
        self.slots.lock().insert(id, slot);
    }

    /// Empties a slot, after the request that is just changing it.
    pub(super) async fn vacate(&self, id: TenantId) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registers before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            if self.remove_unless_changing(id) {
                return;
            }
            changed.await;
        }
    }

    /// A number that no other name in this life of the node has.
    pub(super) fn unique(&self) -> u64 {
        self.next_trash.fetch_add(1, Ordering::Relaxed)
    }

    fn remove_unless_changing(&self, id: TenantId) -> bool {
        let mut slots = self.slots.lock();
        let may = !matches!(slots.get(&id), Some(Slot::Changing));
        if may {
            slots.remove(&id);
        }
        may
    }

    /// Ends creations and attachments, flushes what is in memory if `flush`, waits for uploads, then ends every task.
    pub async fn shutdown(&self, flush: bool) {
        self.stopping.cancel();
        self.no_change().await;
        let tenants = self.tenants();
        for tenant in &tenants {
            tenant.scope.cancel().cancel();
        }
        for tenant in &tenants {
            self.quiet(tenant, flush.then_some(UPLOAD_LIMIT)).await;
        }
        for tenant in &tenants {
            self.end(tenant).await;
        }
    }

    /// Completes when no slot is changing. None begins to while the node stops.
    async fn no_change(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.slots.lock().values().any(|slot| matches!(slot, Slot::Changing)) {
                return;
            }
            changed.await;
        }
    }

    /// Ends what changes a tenant, and flushes and uploads what is in memory within a limit for each timeline, if there is one.
    pub(super) async fn quiet(&self, tenant: &Tenant, flush: Option<Duration>) {
        tenant.scope.shutdown().await;
        // What a creation has started is in the lists below from here on.
        let _no_creation = tenant.creations.write().await;
        for handle in tenant.timelines() {
            handle.wal.shutdown().await;
            let Some(limit) = flush else { continue };
            let timeline = &handle.timeline;
            let work = async {
                timeline.flush_all().await;
                timeline.uploaded().await
            };
            // A disk that is full must not keep the node from stopping.
            if self.shared.env.clock.timeout(limit, work).await.is_err() {
                // The WAL log still has it, here or on the primary: it is read again.
                tracing::warn!(timeline = %timeline.identity.timeline, "stopping before all is flushed and uploaded");
            }
        }
    }

    /// Ends every task of a tenant that is quiet.
    pub(super) async fn end(&self, tenant: &Tenant) {
        for handle in tenant.timelines() {
            handle.shutdown().await;
        }
        self.shared.validation.forget(tenant.id);
    }
}
