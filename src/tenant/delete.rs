//! Deleting timelines and tenants.
//!
//! ```text
//! timeline: stop -> index with deleted_at -> 202 -> local files -> objects -> that index
//! tenant:   stop -> manifest with deleting -> 202 -> objects -> that manifest -> local files
//! ```
//!
//! Invariants
//! - DE-1: once its mark is stored, a deletion goes on after every crash, on whichever node attaches the tenant next.
//! - DE-2: the object with the mark goes last, so that nothing comes back to life.

use super::error::{ChangeError, LookupError};
use super::location::TenantDirectory;
use super::registry::{Registry, Slot};
use super::state::{Deletion, Tenant, TenantState, TimelineHandle};
use crate::remote::{Attachment, Manifest, StoredIndex, path};
use crate::timeline::Timeline;
use crate::types::timestamp::PgTimestamp;
use crate::types::{TenantId, TimelineId};
use object_store::path::Path as ObjectPath;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Tries to store the mark of a deletion before the request fails.
const MARK_TRIES: u32 = 2;
/// Objects that are named in one request.
const DELETE_TOGETHER: usize = 1000;

impl Registry {
    /// Begins the deletion of a timeline; returns once that is durable. It ends in the background.
    pub async fn delete_timeline(self: &Arc<Registry>, tenant: TenantId, id: TimelineId) -> Result<(), ChangeError> {
        let tenant = self.tenant(tenant).map_err(|error| ChangeError::TenantMissing(tenant, error))?;
        let attachment = tenant.attachment().expect("an active tenant is attached").clone();
        let cancel = tenant.scope.cancel();
        let _at_work = cancel.run_until_cancelled(tenant.creations.read()).await.ok_or(LookupError::NotActive(tenant.id))?;
        tenant.check_active()?;
        let handle = begin(&tenant, id)?;
        handle.shutdown().await;
        match self.mark_timeline(&attachment, &handle.timeline).await {
            Ok(()) => {
                self.shared.env.probe.event("timeline-deleting", &|| format!("tenant={} timeline={id}", tenant.id));
                self.go_on_deleting_timeline(&tenant, &attachment, id);
                Ok(())
            }
            Err(error) => {
                // It may be asked for again.
                tenant.timelines.lock().deleting.insert(id, Deletion { handle: Some(handle), at_work: false });
                Err(error)
            }
        }
    }

    async fn mark_timeline(&self, attachment: &Arc<Attachment>, timeline: &Timeline) -> Result<(), ChangeError> {
        check_newest(attachment).await?;
        let mut index = timeline.index();
        index.deleted_at = Some(PgTimestamp(self.shared.env.clock.wall().postgres_micros()).to_string());
        let mut stored = StoredIndex::unknown(attachment.tenant, timeline.identity.timeline);
        let mut attempt = 0;
        while let Err(error) = attachment.remote.put_index(&mut stored, &index).await {
            attempt += 1;
            if attempt >= MARK_TRIES {
                return Err(error.into());
            }
        }
        // Its successor may have looked before the mark came.
        check_newest(attachment).await
    }

    /// Deletes a timeline whose mark is stored, in the background.
    pub(super) fn go_on_deleting_timeline(self: &Arc<Registry>, tenant: &Arc<Tenant>, attachment: &Arc<Attachment>, id: TimelineId) {
        let mut timelines = tenant.timelines.lock();
        let handle = timelines.deleting.get(&id).and_then(|deletion| deletion.handle.clone());
        timelines.deleting.insert(id, Deletion { handle, at_work: true });
        drop(timelines);
        let (registry, owned, attachment) = (self.clone(), tenant.clone(), attachment.clone());
        tenant.scope.spawn("delete-timeline", |cancel| async move {
            let directory = Timeline::directory(&registry.shared.config, owned.id, id);
            let what = format!("timeline {}/{id}", owned.id);
            let prefix = path::timeline(owned.id, id);
            let mark = path::index(owned.id, id, attachment.generation());
            let removed = registry.remove_files(&what, directory, &cancel).await
                && registry.remove_objects(&what, &attachment, (&prefix, &mark), &cancel).await;
            if removed {
                let deleted = owned.timelines.lock().deleting.remove(&id);
                if let Some(ancestor) = deleted.and_then(|deletion| deletion.handle.as_ref()?.timeline.ancestor.clone()) {
                    ancestor.timeline.unpin(id);
                }
                registry.shared.env.probe.event("timeline-deleted", &|| format!("tenant={} timeline={id}", owned.id));
            }
        });
    }

    /// Begins the deletion of a tenant; returns once that is durable. It ends in the background.
    pub async fn delete_tenant(self: &Arc<Registry>, id: TenantId) -> Result<(), ChangeError> {
        let mut slot = self.change(id)?;
        let Some(Slot::Attached(tenant)) = slot.slot().cloned() else { return Err(LookupError::Tenant(id).into()) };
        if tenant.manifest.lock().await.as_ref().is_some_and(|stored| stored.content.deleting) {
            return Err(ChangeError::AlreadyDeletingTenant(id));
        }
        match tenant.state() {
            TenantState::Active | TenantState::Broken(_) => {}
            TenantState::Loading | TenantState::Attaching => return Err(ChangeError::NotDeletable { tenant: id, state: "coming up" }),
            TenantState::Stopping => return Err(ChangeError::NotDeletable { tenant: id, state: "stopping" }),
        }
        let Some(attachment) = tenant.attachment().cloned() else {
            return Err(ChangeError::NotDeletable { tenant: id, state: "broken and was never attached: detach and attach it first" });
        };
        self.stop(&tenant, None).await;
        // What runs from here on needs a scope that was not stopped.
        let successor = Tenant::new(id, TenantState::Stopping, tenant.overrides(), &self.shared.env.tasks);
        let mut stored = tenant.manifest.lock().await.take();
        let marked = self.mark_tenant(&attachment, &mut stored).await;
        *successor.manifest.lock().await = stored;
        successor.set_attachment(attachment.clone());
        if let Err(error) = marked {
            successor.set_state(TenantState::Broken(format!("its deletion did not begin: {error}")));
            slot.set(Some(Slot::Attached(successor)));
            return Err(error);
        }
        self.shared.env.probe.event("tenant-deleting", &|| format!("tenant={id}"));
        self.go_on_deleting(&successor, &attachment);
        slot.set(Some(Slot::Attached(successor)));
        Ok(())
    }

    async fn mark_tenant(
        &self,
        attachment: &Attachment,
        stored: &mut Option<crate::remote::manifest::StoredManifest>,
    ) -> Result<(), ChangeError> {
        check_newest(attachment).await?;
        let stored = stored.as_mut().expect("an attached tenant has its manifest");
        let mut attempt = 0;
        loop {
            let content = Manifest { deleting: true, ..stored.content.clone() };
            let Err(error) = attachment.remote.put_manifest(stored, content).await else { return check_newest(attachment).await };
            attempt += 1;
            if attempt >= MARK_TRIES {
                return Err(error.into());
            }
        }
    }

    /// Deletes a tenant whose mark is stored, in the background.
    pub(super) fn go_on_deleting(self: &Arc<Registry>, tenant: &Arc<Tenant>, attachment: &Arc<Attachment>) {
        tenant.set_state(TenantState::Stopping);
        let (registry, owned, attachment) = (self.clone(), tenant.clone(), attachment.clone());
        tenant.scope.spawn("delete-tenant", |cancel| async move {
            let what = format!("tenant {}", owned.id);
            let (prefix, mark) = (path::tenant(owned.id), path::manifest(owned.id, attachment.generation()));
            let home = TenantDirectory::of(&registry.shared.config, owned.id);
            let removed = registry.remove_objects(&what, &attachment, (&prefix, &mark), &cancel).await
                && registry.remove_files(&what, home.path, &cancel).await;
            if removed {
                registry.shared.validation.forget(owned.id);
                registry.shared.env.probe.event("tenant-deleted", &|| format!("tenant={}", owned.id));
                registry.vacate(owned.id).await;
            }
        });
    }

    /// Deletes every object below a prefix, and that with the mark last. False: it was cut off, or is another node's now.
    pub(super) async fn remove_objects(
        &self,
        what: &str,
        attachment: &Attachment,
        (prefix, mark): (&ObjectPath, &ObjectPath),
        cancel: &CancellationToken,
    ) -> bool {
        let mut jitter = self.shared.env.rng.stream(&format!("delete-backoff {prefix}"));
        let mut attempt = 0;
        loop {
            let error = match cancel.run_until_cancelled(self.remove_objects_once(attachment, prefix, mark)).await {
                None => return false,
                Some(Ok(())) => return true,
                Some(Err(ChangeError::Superseded(_))) => {
                    tracing::warn!(what, "another node has the tenant in a newer generation, and goes on with the deletion");
                    return false;
                }
                Some(Err(error)) => error,
            };
            attempt += 1;
            if attempt >= 3 {
                tracing::warn!(what, attempt, %error, "could not delete the objects, will try again");
            }
            if cancel.run_until_cancelled(self.shared.remote.back_off(attempt, &mut jitter)).await.is_none() {
                return false;
            }
        }
    }

    async fn remove_objects_once(&self, attachment: &Attachment, prefix: &ObjectPath, mark: &ObjectPath) -> Result<(), ChangeError> {
        let remote = &self.shared.remote;
        if crate::planted!(self.shared.env, "deletion-mark-first") {
            remote.delete(mark).await?;
        }
        let mut objects = remote.list_objects(prefix).await?;
        objects.retain(|object| object != mark);
        // What was listed before this look no newer generation wrote: the same timeline, created again elsewhere, is not meant.
        check_newest(attachment).await?;
        for some in objects.chunks(DELETE_TOGETHER) {
            remote.delete_many(some).await?;
        }
        Ok(remote.delete(mark).await?)
    }

    /// Removes a directory. False: it was cut off.
    async fn remove_files(&self, what: &str, directory: PathBuf, cancel: &CancellationToken) -> bool {
        let mut jitter = self.shared.env.rng.stream(&format!("remove-backoff {}", directory.display()));
        let mut attempt = 0;
        loop {
            let (disk, path) = (self.shared.env.disk.clone(), directory.clone());
            let removed = self.shared.env.tasks.blocking("remove-directory", move || disk.remove_dir_all(&path)).await;
            let Err(error) = removed else { return true };
            attempt += 1;
            tracing::warn!(what, attempt, %error, "could not remove {}, will try again", directory.display());
            if cancel.run_until_cancelled(self.shared.remote.back_off(attempt, &mut jitter)).await.is_none() {
                return false;
            }
        }
    }
}

/// A node that was superseded must not take away what its successor has.
pub(super) async fn check_newest(attachment: &Attachment) -> Result<(), ChangeError> {
    if attachment.is_newest().await? { Ok(()) } else { Err(ChangeError::Superseded(attachment.tenant)) }
}

/// Takes a timeline out of service for its deletion.
fn begin(tenant: &Tenant, id: TimelineId) -> Result<Arc<TimelineHandle>, ChangeError> {
    let mut timelines = tenant.timelines.lock();
    if let Some(deletion) = timelines.deleting.get_mut(&id) {
        return match deletion.handle.clone().filter(|_| !deletion.at_work) {
            None => Err(ChangeError::AlreadyDeleting(tenant.id, id)),
            Some(handle) => {
                deletion.at_work = true;
                Ok(handle)
            }
        };
    }
    if timelines.creating.contains_key(&id) {
        return Err(ChangeError::StillCreating(tenant.id, id));
    }
    if let Some(reason) = timelines.broken.get(&id) {
        return Err(LookupError::Broken { tenant: tenant.id, timeline: id, reason: reason.clone() }.into());
    }
    let handle = timelines.active.get(&id).cloned().ok_or(LookupError::Timeline(tenant.id, id))?;
    let is_child = |handle: &TimelineHandle| handle.timeline.ancestor.as_ref().is_some_and(|a| a.timeline.identity.timeline == id);
    let active = timelines.active.iter().filter(|(_, handle)| is_child(handle)).map(|(child, _)| child);
    let creating = timelines.creating.iter().filter(|(_, ancestor)| **ancestor == Some(id)).map(|(child, _)| child);
    let deleting = timelines.deleting.iter().filter(|(_, d)| d.handle.as_deref().is_some_and(is_child)).map(|(child, _)| child);
    // What cannot be read may be a child.
    let children: Vec<String> = active.chain(creating).chain(deleting).chain(timelines.broken.keys()).map(ToString::to_string).collect();
    if !children.is_empty() {
        return Err(ChangeError::HasChildren(children));
    }
    timelines.active.remove(&id);
    timelines.deleting.insert(id, Deletion { handle: Some(handle.clone()), at_work: true });
    Ok(handle)
}
