//! Who is here: tenants by id, timelines by id, and which ids are being created.

use super::error::LookupError;
use super::size::LogicalSizes;
use crate::io_abstraction::ClockExt as _;
use crate::timeline::{Shared, Timeline};
use crate::types::{TenantId, TimelineId};
use crate::wal::runner::WalRunner;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a stop waits for the flush and the uploads of one timeline.
const UPLOAD_LIMIT: Duration = Duration::from_secs(30);

/// A timeline that serves, with its WAL side.
pub struct TimelineHandle {
    pub timeline: Arc<Timeline>,
    pub wal: Arc<WalRunner>,
}

impl TimelineHandle {
    pub async fn shutdown(&self) {
        self.wal.shutdown().await;
        self.timeline.shutdown().await;
    }
}

#[derive(Default)]
struct Timelines {
    active: BTreeMap<TimelineId, Arc<TimelineHandle>>,
    creating: BTreeSet<TimelineId>,
    /// Exist, but could not be loaded: why.
    broken: BTreeMap<TimelineId, String>,
}

/// A tenant of this node.
pub struct Tenant {
    pub id: TenantId,
    timelines: Mutex<Timelines>,
    pub(super) logical_sizes: LogicalSizes,
}

/// What a claim of a timeline id found.
pub enum Claim {
    /// The id is ours until the guard is dropped.
    Taken(ClaimGuard),
    Exists(Arc<TimelineHandle>),
    Creating,
    Broken(LookupError),
}

/// Releases the id on every way out, the client hanging up included.
pub struct ClaimGuard {
    tenant: Arc<Tenant>,
    timeline: TimelineId,
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        self.tenant.timelines.lock().creating.remove(&self.timeline);
    }
}

impl ClaimGuard {
    /// Ends the creation: the timeline is visible from now on.
    pub fn finish(self, handle: Arc<TimelineHandle>) {
        let mut timelines = self.tenant.timelines.lock();
        let replaced = timelines.active.insert(self.timeline, handle);
        assert!(replaced.is_none(), "timeline {} was created twice", self.timeline);
    }
}

impl Tenant {
    pub fn new(id: TenantId) -> Arc<Tenant> {
        Arc::new(Tenant { id, timelines: Mutex::default(), logical_sizes: LogicalSizes::default() })
    }

    /// Excludes other creations of this id.
    pub fn claim(self: &Arc<Tenant>, timeline: TimelineId) -> Claim {
        let mut timelines = self.timelines.lock();
        if let Some(handle) = timelines.active.get(&timeline) {
            return Claim::Exists(handle.clone());
        }
        if let Some(reason) = timelines.broken.get(&timeline) {
            return Claim::Broken(LookupError::Broken { tenant: self.id, timeline, reason: reason.clone() });
        }
        if !timelines.creating.insert(timeline) {
            return Claim::Creating;
        }
        Claim::Taken(ClaimGuard { tenant: self.clone(), timeline })
    }

    pub fn timeline(&self, id: TimelineId) -> Result<Arc<TimelineHandle>, LookupError> {
        let timelines = self.timelines.lock();
        if let Some(handle) = timelines.active.get(&id) {
            return Ok(handle.clone());
        }
        Err(match timelines.broken.get(&id) {
            Some(reason) => LookupError::Broken { tenant: self.id, timeline: id, reason: reason.clone() },
            None => LookupError::Timeline(self.id, id),
        })
    }

    /// Timelines that exist and could not be loaded, with the reason.
    pub fn broken(&self) -> BTreeMap<TimelineId, String> {
        self.timelines.lock().broken.clone()
    }

    pub fn timelines(&self) -> Vec<Arc<TimelineHandle>> {
        self.timelines.lock().active.values().cloned().collect()
    }

    /// The timeline stays as it is, here and in remote storage, until the next start finds it whole.
    pub(super) fn insert_broken(&self, timeline: TimelineId, reason: String) {
        self.timelines.lock().broken.insert(timeline, reason);
    }

    pub(super) fn insert(&self, handle: Arc<TimelineHandle>) {
        self.timelines.lock().active.insert(handle.timeline.identity.timeline, handle);
    }
}

/// Releases a tenant's id on every way out.
pub struct TenantClaim<'a> {
    registry: &'a Registry,
    id: TenantId,
}

impl Drop for TenantClaim<'_> {
    fn drop(&mut self) {
        self.registry.creating_tenants.lock().remove(&self.id);
    }
}

/// All tenants of this node.
pub struct Registry {
    pub shared: Arc<Shared>,
    tenants: Mutex<BTreeMap<TenantId, Arc<Tenant>>>,
    creating_tenants: Mutex<BTreeSet<TenantId>>,
    /// One initdb at a time per node: it is heavy, and its result is cached.
    pub(super) template: tokio::sync::Mutex<()>,
    /// One logical size of the size model at a time per node: it reads many directories.
    pub(super) logical_size_queries: tokio::sync::Mutex<()>,
    /// The node stops: nothing is created any more.
    pub(super) stopping: CancellationToken,
    /// Shared by creations at work; a stop takes it alone, and so waits for them.
    pub(super) creations: tokio::sync::RwLock<()>,
}

impl Registry {
    pub fn new(shared: Arc<Shared>) -> Arc<Registry> {
        Arc::new(Registry {
            shared,
            tenants: Mutex::default(),
            creating_tenants: Mutex::default(),
            template: tokio::sync::Mutex::default(),
            logical_size_queries: tokio::sync::Mutex::default(),
            stopping: CancellationToken::new(),
            creations: tokio::sync::RwLock::default(),
        })
    }

    pub fn tenant(&self, id: TenantId) -> Result<Arc<Tenant>, LookupError> {
        self.tenants.lock().get(&id).cloned().ok_or(LookupError::Tenant(id))
    }

    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.tenants.lock().values().cloned().collect()
    }

    pub fn timeline(&self, tenant: TenantId, timeline: TimelineId) -> Result<Arc<TimelineHandle>, LookupError> {
        self.tenant(tenant)?.timeline(timeline)
    }

    /// Excludes other creations of this id until the guard is dropped; `None` if it exists or is being created.
    pub(super) fn claim_tenant(&self, id: TenantId) -> Option<TenantClaim<'_>> {
        if !self.creating_tenants.lock().insert(id) {
            return None;
        }
        let claim = TenantClaim { registry: self, id };
        // Looked up under the claim: whoever held it before has entered the tenant by now.
        self.tenant(id).is_err().then_some(claim)
    }

    pub(super) fn insert(&self, tenant: Arc<Tenant>) {
        self.tenants.lock().insert(tenant.id, tenant);
    }

    /// Ends creations, flushes what is in memory if `flush`, waits for uploads, then ends every task.
    pub async fn shutdown(&self, flush: bool) {
        self.stopping.cancel();
        // What a creation has started is in the lists below from here on.
        let _no_creation = self.creations.write().await;
        for tenant in self.tenants() {
            for handle in tenant.timelines() {
                handle.wal.shutdown().await;
                if flush {
                    let timeline = &handle.timeline;
                    let work = async {
                        timeline.flush_all().await;
                        timeline.uploaded().await
                    };
                    // A disk that is full must not keep the node from stopping.
                    if self.shared.env.clock.timeout(UPLOAD_LIMIT, work).await.is_err() {
                        // The WAL log still has it: the next start reads it again.
                        tracing::warn!(timeline = %timeline.identity.timeline, "stopping before all is flushed and uploaded");
                    }
                }
            }
        }
        for tenant in self.tenants() {
            for handle in tenant.timelines() {
                handle.shutdown().await;
            }
        }
    }
}
