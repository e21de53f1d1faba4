//! A tenant that is attached to this node: its state, its timelines, and which ids are being created.

use super::error::LookupError;
use super::size::LogicalSizes;
use crate::config::TenantOverrides;
use crate::io_abstraction::{Scope, Tasks};
use crate::remote::Attachment;
use crate::remote::manifest::StoredManifest;
use crate::timeline::Timeline;
use crate::types::{TenantId, TimelineId};
use crate::wal::runner::WalRunner;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

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

/// Where an attached tenant stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantState {
    /// A start of the node, or a load, brings it up.
    Loading,
    /// An attach brings it up.
    Attaching,
    Active,
    /// It is on its way out.
    Stopping,
    /// It could not be brought up, or not be deleted.
    Broken(String),
}

/// A timeline that is being deleted.
#[derive(Clone, Default)]
pub struct Deletion {
    /// What the timeline was when the deletion began; none when it began before a start of the node.
    pub handle: Option<Arc<TimelineHandle>>,
    /// Somebody works on it. If not, it may be asked for again.
    pub at_work: bool,
}

#[derive(Default)]
pub(super) struct Timelines {
    pub active: BTreeMap<TimelineId, Arc<TimelineHandle>>,
    /// Each with its ancestor.
    pub creating: BTreeMap<TimelineId, Option<TimelineId>>,
    /// Exist, but could not be loaded: why.
    pub broken: BTreeMap<TimelineId, String>,
    pub deleting: BTreeMap<TimelineId, Deletion>,
}

/// A tenant of this node.
pub struct Tenant {
    pub id: TenantId,
    state: Mutex<TenantState>,
    changed: Notify,
    attachment: OnceLock<Arc<Attachment>>,
    /// Held while the settings change.
    pub(super) manifest: tokio::sync::Mutex<Option<StoredManifest>>,
    /// Unknown until they are read from remote storage.
    overrides: Mutex<Option<TenantOverrides>>,
    pub(super) logical_sizes: LogicalSizes,
    pub(super) timelines: Mutex<Timelines>,
    /// Shared by creations at work; a stop takes it alone, and so waits for them.
    pub(super) creations: tokio::sync::RwLock<()>,
    /// What brings the tenant up, and its background tasks.
    pub(super) scope: Scope,
}

/// What a claim of a timeline id found.
pub enum Claim {
    /// The id is ours until the guard is dropped.
    Taken(ClaimGuard),
    Exists(Arc<TimelineHandle>),
    Creating,
    Unusable(LookupError),
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
    pub fn new(id: TenantId, state: TenantState, overrides: Option<TenantOverrides>, tasks: &Tasks) -> Arc<Tenant> {
        Arc::new(Tenant {
            id,
            state: Mutex::new(state),
            changed: Notify::new(),
            attachment: OnceLock::new(),
            manifest: tokio::sync::Mutex::default(),
            overrides: Mutex::new(overrides),
            logical_sizes: LogicalSizes::default(),
            timelines: Mutex::default(),
            creations: tokio::sync::RwLock::default(),
            scope: Scope::new(tasks),
        })
    }

    pub fn state(&self) -> TenantState {
        self.state.lock().clone()
    }

    pub(super) fn set_state(&self, state: TenantState) {
        *self.state.lock() = state;
        self.changed.notify_waiters();
    }

    /// Changes the state unless the tenant is on its way out.
    pub(super) fn set_state_unless_stopping(&self, state: TenantState) -> bool {
        let mut now = self.state.lock();
        let may = *now != TenantState::Stopping;
        if may {
            *now = state;
        }
        drop(now);
        self.changed.notify_waiters();
        may
    }

    /// Completes when the tenant is neither loading nor attaching.
    pub async fn settled(&self) -> TenantState {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registers before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            match self.state() {
                TenantState::Loading | TenantState::Attaching => changed.await,
                state => return state,
            }
        }
    }

    /// Errors: it does not serve now.
    pub fn check_active(&self) -> Result<(), LookupError> {
        match self.state() {
            TenantState::Active => Ok(()),
            TenantState::Loading | TenantState::Attaching | TenantState::Stopping => Err(LookupError::NotActive(self.id)),
            TenantState::Broken(reason) => Err(LookupError::BrokenTenant { tenant: self.id, reason }),
        }
    }

    /// What an active tenant has; one that is on its way up has none yet.
    pub fn attachment(&self) -> Option<&Arc<Attachment>> {
        self.attachment.get()
    }

    pub(super) fn set_attachment(&self, attachment: Arc<Attachment>) {
        let again = self.attachment.set(attachment).is_err();
        assert!(!again, "tenant {} is attached once in its life", self.id);
    }

    /// Settings of its own; `None` while they are not known.
    pub fn overrides(&self) -> Option<TenantOverrides> {
        self.overrides.lock().clone()
    }

    pub(super) fn set_overrides(&self, overrides: TenantOverrides) {
        *self.overrides.lock() = Some(overrides);
    }

    /// Excludes other creations of this id, and the deletion of the ancestor.
    pub fn claim(self: &Arc<Tenant>, timeline: TimelineId, ancestor: Option<TimelineId>) -> Claim {
        let mut timelines = self.timelines.lock();
        if let Some(handle) = timelines.active.get(&timeline) {
            return Claim::Exists(handle.clone());
        }
        if let Some(reason) = timelines.broken.get(&timeline) {
            return Claim::Unusable(LookupError::Broken { tenant: self.id, timeline, reason: reason.clone() });
        }
        if timelines.deleting.contains_key(&timeline) {
            return Claim::Unusable(LookupError::Deleting(self.id, timeline));
        }
        if timelines.creating.contains_key(&timeline) {
            return Claim::Creating;
        }
        timelines.creating.insert(timeline, ancestor);
        Claim::Taken(ClaimGuard { tenant: self.clone(), timeline })
    }

    pub fn timeline(&self, id: TimelineId) -> Result<Arc<TimelineHandle>, LookupError> {
        let timelines = self.timelines.lock();
        if let Some(handle) = timelines.active.get(&id) {
            return Ok(handle.clone());
        }
        if timelines.deleting.contains_key(&id) {
            return Err(LookupError::Deleting(self.id, id));
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

    pub fn deleting(&self) -> BTreeMap<TimelineId, Deletion> {
        self.timelines.lock().deleting.clone()
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
