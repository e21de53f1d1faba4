//! One tenant's attachment to this node: generation, mode, settings. All timelines of the tenant share it.

use super::client::{RemoteClient, RemoteError};
use super::validation::Validation;
use crate::config::TenantConfig;
use crate::types::{AttachMode, Generation, TenantId};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Which tenant, in which generation; what it may do, and its settings, both of which change while it runs.
pub struct Attachment {
    pub tenant: TenantId,
    /// Remote storage in the generation of this attachment.
    pub remote: RemoteClient,
    pub validation: Arc<Validation>,
    state: RwLock<(AttachMode, Arc<TenantConfig>)>,
    changed: Notify,
    /// Somebody may read what only an index says that cannot be read.
    gc_held: AtomicBool,
}

impl Attachment {
    pub fn new(
        tenant: TenantId,
        remote: RemoteClient,
        validation: Arc<Validation>,
        mode: AttachMode,
        settings: TenantConfig,
    ) -> Arc<Attachment> {
        Arc::new(Attachment {
            tenant,
            remote,
            validation,
            state: RwLock::new((mode, Arc::new(settings))),
            changed: Notify::new(),
            gc_held: AtomicBool::new(false),
        })
    }

    pub fn generation(&self) -> Generation {
        self.remote.generation()
    }

    pub fn mode(&self) -> AttachMode {
        self.state.read().0
    }

    pub fn settings(&self) -> Arc<TenantConfig> {
        self.state.read().1.clone()
    }

    pub fn set_settings(&self, settings: TenantConfig) {
        self.state.write().1 = Arc::new(settings);
        self.changed.notify_waiters();
    }

    pub fn set_mode(&self, mode: AttachMode) {
        self.state.write().0 = mode;
        self.changed.notify_waiters();
        self.validation.wake();
    }

    /// Nothing is collected any more until the tenant is attached again.
    pub fn hold_gc(&self) {
        self.gc_held.store(true, Ordering::Relaxed);
    }

    pub fn is_gc_held(&self) -> bool {
        self.gc_held.load(Ordering::Relaxed)
    }

    /// Whether no newer generation is attached anywhere. Asked after a write, it tells that whoever attaches next finds what was
    /// written (RM-7).
    pub async fn is_newest(&self) -> Result<bool, RemoteError> {
        let mut tried_before = false;
        loop {
            match self.remote.attachments(self.tenant).await {
                Ok(generations) => return Ok(generations.last() == Some(&self.generation())),
                Err(error) if tried_before => return Err(error),
                Err(_) => tried_before = true,
            }
        }
    }

    /// Completes when the settings are others than `known`.
    pub async fn other_settings(&self, known: &Arc<TenantConfig>) {
        self.until(|| !Arc::ptr_eq(&self.settings(), known)).await;
    }

    /// Completes when the mode allows writes.
    pub async fn may_write(&self) {
        self.until(|| self.mode() != AttachMode::Stale).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registers before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            if holds() {
                return;
            }
            changed.await;
        }
    }
}
