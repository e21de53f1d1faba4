//! Changing how a node has a tenant: attach, detach, ignore, load, and the declarative form of all of them.

use super::attach::Attach;
use super::error::{ChangeError, LookupError};
use super::location::{Found, Location, TenantDirectory};
use super::registry::{Registry, Slot, SlotGuard, UPLOAD_LIMIT};
use super::state::{Tenant, TenantState};
use crate::config::TenantOverrides;
use crate::io_abstraction::ClockExt as _;
use crate::remote::AttachMode;
use crate::types::{Generation, TenantId};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What `location_config` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Attached { mode: AttachMode, generation: Generation },
    Secondary { warm: bool },
    Detached,
}

impl Registry {
    /// Begins to attach a tenant with these settings. A tenant that remote storage does not know is empty.
    pub async fn attach(
        self: &Arc<Registry>,
        id: TenantId,
        settings: TenantOverrides,
        generation: Option<Generation>,
    ) -> Result<(), ChangeError> {
        let mut slot = self.change(id)?;
        refuse_present(id, &slot)?;
        if self.found(id).await? == Found::Ignored {
            return Err(ChangeError::DirectoryExists(id));
        }
        let how = Attach { mode: AttachMode::Single, generation, settings: Some(settings), patient: false, resume: false };
        self.begin(id, &mut slot, how, TenantState::Attaching).await
    }

    /// Begins to load a tenant that was ignored, or that a start of the node would load.
    pub async fn load_tenant(self: &Arc<Registry>, id: TenantId, generation: Option<Generation>) -> Result<(), ChangeError> {
        let mut slot = self.change(id)?;
        refuse_present(id, &slot)?;
        let home = TenantDirectory::of(&self.shared.config, id);
        if self.found(id).await? == Found::Nothing {
            return Err(ChangeError::NothingToLoad(id));
        }
        let disk = self.shared.env.disk.clone();
        let unmark = move || match home.set_ignored(&*disk, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        self.shared.env.tasks.blocking("load-tenant", unmark).await?;
        let mode = match self.found(id).await? {
            Found::Here(Location::Attached { access, .. }) => access,
            Found::Here(Location::Secondary { .. }) | Found::Ignored | Found::Nothing => AttachMode::Single,
        };
        self.begin(id, &mut slot, Attach { mode, generation, settings: None, patient: false, resume: false }, TenantState::Loading).await
    }

    /// Takes a tenant off this node, after what is in memory has been stored as far as that goes within a limit; remote storage
    /// keeps it. `ignored`: also one that is ignored.
    pub async fn detach(self: &Arc<Registry>, id: TenantId, ignored: bool) -> Result<(), ChangeError> {
        let mut slot = self.change(id)?;
        match slot.slot().cloned() {
            Some(Slot::Attached(tenant)) => {
                if deletes(&tenant).await {
                    return Err(ChangeError::AlreadyDeletingTenant(id));
                }
                self.stop(&tenant, Some(UPLOAD_LIMIT)).await;
            }
            Some(Slot::Secondary { .. }) => {}
            Some(Slot::Changing) => return Err(LookupError::Changing(id).into()),
            None if ignored && self.found(id).await? == Found::Ignored => {}
            None => return Err(LookupError::Tenant(id).into()),
        }
        self.take_away(id, &mut slot).await
    }

    /// Takes a tenant out of memory and keeps its files; starts of the node pass it over until it is loaded.
    pub async fn ignore(self: &Arc<Registry>, id: TenantId) -> Result<(), ChangeError> {
        let mut slot = self.change(id)?;
        let Some(Slot::Attached(tenant)) = slot.slot().cloned() else { return Err(LookupError::Tenant(id).into()) };
        if deletes(&tenant).await {
            return Err(ChangeError::AlreadyDeletingTenant(id));
        }
        // Marked first: whatever happens next, it is not loaded by itself.
        let (disk, home) = (self.shared.env.disk.clone(), TenantDirectory::of(&self.shared.config, id));
        self.shared.env.tasks.blocking("ignore-tenant", move || home.set_ignored(&*disk, true)).await?;
        self.stop(&tenant, Some(UPLOAD_LIMIT)).await;
        slot.set(None);
        self.shared.env.probe.event("tenant-ignored", &|| format!("tenant={id}"));
        Ok(())
    }

    /// Brings the node's part of a tenant to what is wanted, whatever it is; the same again changes nothing. Returns when a tenant
    /// that is to be attached is active.
    pub async fn set_location(
        self: &Arc<Registry>,
        id: TenantId,
        wanted: Wanted,
        settings: TenantOverrides,
        flush: Option<Duration>,
    ) -> Result<(), ChangeError> {
        let mut slot = self.change(id)?;
        let current = match slot.slot().cloned() {
            Some(Slot::Attached(tenant)) => Some(tenant),
            _ => None,
        };
        if let Some(tenant) = &current
            && deletes(tenant).await
        {
            return Err(ChangeError::AlreadyDeletingTenant(id));
        }
        match (wanted, current) {
            (Wanted::Attached { mode, generation }, Some(tenant)) if self.is_attached_in(&tenant, generation) => {
                self.change_in_place(&tenant, mode, settings, flush).await
            }
            (Wanted::Attached { mode, generation }, current) => {
                if let Some(tenant) = current {
                    if let Some(now) = tenant.attachment().map(|attachment| attachment.generation()).filter(|now| *now > generation) {
                        let reason = format!("tenant {id} is attached in generation {}, which is newer than {}", now.0, generation.0);
                        return Err(ChangeError::BadRequest(reason));
                    }
                    self.stop(&tenant, flush).await;
                }
                let how = Attach { mode, generation: Some(generation), settings: Some(settings), patient: false, resume: false };
                self.begin(id, &mut slot, how, TenantState::Attaching).await?;
                let Some(Slot::Attached(tenant)) = slot.slot().cloned() else { return Err(LookupError::Tenant(id).into()) };
                drop(slot);
                match tenant.settled().await {
                    TenantState::Broken(reason) => Err(LookupError::BrokenTenant { tenant: id, reason }.into()),
                    _ => Ok(()),
                }
            }
            (Wanted::Secondary { warm }, current) => {
                if let Some(tenant) = current {
                    self.stop(&tenant, flush).await;
                }
                self.store(id, Location::Secondary { warm }).await?;
                slot.set(Some(Slot::Secondary { warm }));
                Ok(())
            }
            (Wanted::Detached, current) => {
                if let Some(tenant) = current {
                    self.stop(&tenant, flush).await;
                }
                self.take_away(id, &mut slot).await
            }
        }
    }

    fn is_attached_in(&self, tenant: &Tenant, generation: Generation) -> bool {
        tenant.check_active().is_ok() && tenant.attachment().is_some_and(|attachment| attachment.generation() == generation)
    }

    /// Another mode or other settings of the same attachment.
    async fn change_in_place(
        &self,
        tenant: &Arc<Tenant>,
        mode: AttachMode,
        settings: TenantOverrides,
        flush: Option<Duration>,
    ) -> Result<(), ChangeError> {
        let attachment = tenant.attachment().expect("it was looked at");
        if Some(&settings) != tenant.overrides().as_ref() && mode != AttachMode::Stale {
            self.set_overrides(tenant, settings).await?;
        }
        if mode == attachment.mode() {
            return Ok(());
        }
        if let (AttachMode::Stale, Some(limit)) = (mode, flush) {
            self.flush_all(tenant, limit).await;
        }
        self.store(tenant.id, Location::Attached { access: mode, generation: Some(attachment.generation()) }).await?;
        attachment.set_mode(mode);
        Ok(())
    }

    async fn flush_all(&self, tenant: &Tenant, limit: Duration) {
        let work = async {
            for handle in tenant.timelines() {
                handle.timeline.flush_all().await;
                // An error: the timeline is on its way out, and has nothing to store any more.
                let _ = handle.timeline.uploaded().await;
            }
        };
        if self.shared.env.clock.timeout(limit, work).await.is_err() {
            tracing::warn!(tenant = %tenant.id, ?limit, "not all was flushed in the time given; going on");
        }
    }

    async fn found(&self, id: TenantId) -> Result<Found, ChangeError> {
        let (disk, home) = (self.shared.env.disk.clone(), TenantDirectory::of(&self.shared.config, id));
        Ok(self.shared.env.tasks.blocking("look-at-tenant", move || home.look(&*disk)).await?)
    }

    async fn store(&self, id: TenantId, location: Location) -> Result<(), ChangeError> {
        let (disk, home) = (self.shared.env.disk.clone(), TenantDirectory::of(&self.shared.config, id));
        Ok(self.shared.env.tasks.blocking("store-location", move || home.store(&*disk, location)).await?)
    }

    /// Puts a tenant into its slot that comes up in the background.
    async fn begin(self: &Arc<Registry>, id: TenantId, slot: &mut SlotGuard, how: Attach, state: TenantState) -> Result<(), ChangeError> {
        self.store(id, Location::Attached { access: how.mode, generation: how.generation }).await?;
        let tenant = Tenant::new(id, state, how.settings.clone(), &self.shared.env.tasks);
        slot.set(Some(Slot::Attached(tenant.clone())));
        self.bring_up(&tenant, how, None);
        Ok(())
    }

    /// Ends everything that runs for a tenant, also what brings it up.
    pub(super) async fn stop(&self, tenant: &Arc<Tenant>, flush: Option<Duration>) {
        tenant.set_state(TenantState::Stopping);
        self.quiet(tenant, flush).await;
        self.end(tenant).await;
    }

    /// Takes the directory away; what is in it is removed in the background.
    pub(super) async fn take_away(self: &Arc<Registry>, id: TenantId, slot: &mut SlotGuard) -> Result<(), ChangeError> {
        let (disk, home, unique) = (self.shared.env.disk.clone(), TenantDirectory::of(&self.shared.config, id), self.unique());
        let trash = self.shared.env.tasks.blocking("detach-tenant", move || home.take_away(&*disk, unique)).await?;
        slot.set(None);
        self.shared.env.probe.event("tenant-detached", &|| format!("tenant={id}"));
        if let Some(trash) = trash {
            let (env, disk) = (self.shared.env.clone(), self.shared.env.disk.clone());
            self.shared.env.tasks.spawn("remove-detached-tenant", async move {
                // What cannot be removed now is removed at the next start.
                let _ = env.tasks.blocking("remove-detached-tenant", move || disk.remove_dir_all(&trash)).await;
            });
        }
        Ok(())
    }
}

fn refuse_present(id: TenantId, slot: &SlotGuard) -> Result<(), ChangeError> {
    match slot.slot() {
        None => Ok(()),
        Some(Slot::Attached(tenant)) => Err(ChangeError::TenantExists(id, format!("{:?}", tenant.state()))),
        Some(Slot::Secondary { .. }) => Err(ChangeError::TenantExists(id, "Secondary".to_string())),
        Some(Slot::Changing) => Err(LookupError::Changing(id).into()),
    }
}

/// Whether the tenant's deletion has begun.
async fn deletes(tenant: &Tenant) -> bool {
    tenant.manifest.lock().await.as_ref().is_some_and(|stored| stored.content.deleting)
}
