//! Bringing a tenant up: at a start of the node, by an attach, by a load. Remote storage says what the tenant is; the local disk
//! only saves downloads.
//!
//! ```text
//! newest manifest -> claim of the next generation -> indexes -> local files -> timelines -> active
//! ```

use super::location::{Found, Location, TenantDirectory, local_tenants};
use super::registry::{Registry, Slot};
use super::state::{Tenant, TenantState, TimelineHandle};
use crate::config::{ConfigError, TenantOverrides};
use crate::io_abstraction::disk::TEMPORARY_SUFFIX;
use crate::layer::LayerName;
use crate::remote::manifest::{ClaimError, Follows};
use crate::remote::{AttachMode, Attachment, IndexPart, Manifest, RemoteError, path};
use crate::timeline::{Ancestor, Timeline};
use crate::types::{Generation, TenantId, TimelineId};
use crate::wal::log::LogError;
use crate::wal::runner::WalRunner;
use object_store::path::Path as ObjectPath;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What ends the start of a node.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("look at {directory}: {error}")]
    Local { directory: String, error: io::Error },
    #[error(
        "remote storage has no tenants, but {directory} has {local}: is this the right remote storage? If all tenants are to be forgotten, remove that directory"
    )]
    WrongStorage { directory: String, local: usize },
}

/// Why a tenant cannot be brought up.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("local disk: {0}")]
    Local(#[from] io::Error),
    #[error("its settings in remote storage: {0}")]
    Settings(#[from] ConfigError),
    #[error("generation {} was asked for, but generation {} is attached already", asked.0, newest.0)]
    Outdated { asked: Generation, newest: Generation },
    #[error("generation {} is attached already, and there is no generation above it", u32::MAX)]
    LastGeneration,
    #[error("timeline {timeline}: {error}")]
    Log { timeline: TimelineId, error: LogError },
    #[error("remote storage does not know it")]
    Unknown,
    #[error("it is being stopped")]
    Stopped,
}

impl AttachError {
    /// Whether another try of this way may go better without anybody's help.
    fn may_pass(&self, attach: &Attach) -> bool {
        match self {
            // A generation that was given stays taken.
            AttachError::Claim(ClaimError::Taken { .. }) if attach.generation.is_some() => false,
            AttachError::Remote(RemoteError::Manifest { .. }) | AttachError::Settings(_) | AttachError::Outdated { .. } => false,
            AttachError::Remote(_) | AttachError::Claim(_) | AttachError::Local(_) | AttachError::Log { .. } => true,
            AttachError::LastGeneration | AttachError::Unknown | AttachError::Stopped => false,
        }
    }
}

/// How a tenant comes up.
#[derive(Debug, Clone)]
pub struct Attach {
    pub mode: AttachMode,
    /// The generation to attach in; if nobody gave one, the next after the newest.
    pub generation: Option<Generation>,
    /// Settings that take the place of the stored ones.
    pub settings: Option<TenantOverrides>,
    /// Errors that may pass are tried again for ever; otherwise they break the tenant.
    pub patient: bool,
    /// The generation is one that this node had before, and that nobody else got.
    pub resume: bool,
}

/// Why one timeline cannot be served. The others can.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Index(RemoteError),
    #[error("it names the ancestor {0}, which does not exist or descends from it")]
    Ancestor(TimelineId),
    #[error("its ancestor {0} is broken")]
    OnBroken(TimelineId),
    #[error(transparent)]
    Log(LogError),
}

/// What remote storage has of the timelines of a tenant.
#[derive(Default)]
struct Inventory {
    indexes: BTreeMap<TimelineId, IndexPart>,
    /// Whose index cannot be used.
    damaged: BTreeMap<TimelineId, Fault>,
    objects: BTreeMap<TimelineId, Vec<ObjectPath>>,
}

impl Registry {
    /// Begins to bring up what the node had when it stopped; with `adopt`, whatever remote storage has. Gives what it began with.
    pub async fn load_all(self: &Arc<Registry>, adopt: bool) -> Result<Vec<Arc<Tenant>>, LoadError> {
        let known: BTreeSet<TenantId> = self.shared.remote.list_tenants().await?.into_iter().collect();
        let directory = self.shared.config.data_dir.join("tenants");
        let failed = |error| LoadError::Local { directory: directory.display().to_string(), error };
        let disk = &*self.shared.env.disk;
        let local = local_tenants(disk, &self.shared.config).map_err(failed)?;
        // A tenant's manifest is stored before any of its data is on the disk. More likely somebody named the wrong storage, and
        // what is here may be the only copy of WAL that was acknowledged.
        if known.is_empty() {
            let holds = |id: &&TenantId| TenantDirectory::of(&self.shared.config, **id).has_timelines(disk).unwrap_or(true);
            let local = local.iter().filter(holds).count();
            if local > 0 {
                return Err(LoadError::WrongStorage { directory: directory.display().to_string(), local });
            }
        }
        let mut loading = Vec::new();
        for id in &local {
            let home = TenantDirectory::of(&self.shared.config, *id);
            if !known.contains(id) {
                // It was deleted, here or elsewhere, or never came to be.
                disk.remove_dir_all(&home.path).map_err(failed)?;
                continue;
            }
            match home.look(disk) {
                Ok(Found::Nothing | Found::Ignored) => {}
                Ok(Found::Here(Location::Secondary { warm })) => self.put(*id, Slot::Secondary { warm }),
                Ok(Found::Here(Location::Attached { access, generation })) => loading.push(self.load(*id, access, generation)),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let tenant = Tenant::new(*id, TenantState::Broken(error.to_string()), None, &self.shared.env.tasks);
                    self.put(*id, Slot::Attached(tenant));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        for id in known.iter().filter(|id| adopt && !local.contains(id)) {
            TenantDirectory::of(&self.shared.config, *id).store(disk, Location::ATTACHED).map_err(failed)?;
            loading.push(self.load(*id, AttachMode::Single, None));
        }
        Ok(loading)
    }

    /// As a start of the node brings a tenant up.
    fn load(self: &Arc<Registry>, id: TenantId, mode: AttachMode, least: Option<Generation>) -> Arc<Tenant> {
        let tenant = Tenant::new(id, TenantState::Loading, None, &self.shared.env.tasks);
        self.put(id, Slot::Attached(tenant.clone()));
        self.bring_up(&tenant, Attach { mode, generation: None, settings: None, patient: true, resume: false }, least);
        tenant
    }

    /// Brings a tenant up in the background. It is active or broken in the end.
    pub(super) fn bring_up(self: &Arc<Registry>, tenant: &Arc<Tenant>, attach: Attach, least: Option<Generation>) {
        let (registry, owned) = (self.clone(), tenant.clone());
        tenant.scope.spawn("attach-tenant", |cancel| async move {
            let mut jitter = registry.shared.env.rng.stream(&format!("attach-backoff {}", owned.id));
            let mut attempt = 0;
            loop {
                let result = registry.attach_once(&owned, &attach, least, &cancel).await;
                let error = match result {
                    Ok(()) | Err(AttachError::Stopped) => return,
                    Err(error) => error,
                };
                if matches!(error, AttachError::Unknown) && attach.patient {
                    if let Some(generation) = attach.generation {
                        let (tenant, generation) = (owned.id, generation.0);
                        tracing::warn!(%tenant, generation, "remote storage does not know the tenant that the control plane gave to this node");
                    }
                    return registry.forget(&owned).await;
                }
                if !(attach.patient && error.may_pass(&attach)) {
                    tracing::error!(tenant = %owned.id, %error, "the tenant cannot be served");
                    owned.set_state_unless_stopping(TenantState::Broken(error.to_string()));
                    return;
                }
                attempt += 1;
                tracing::warn!(tenant = %owned.id, attempt, %error, "could not load the tenant, will try again");
                if cancel.run_until_cancelled(registry.shared.remote.back_off(attempt, &mut jitter)).await.is_none() {
                    return;
                }
            }
        });
    }

    /// Takes off the node what a start found there and remote storage does not know: it was deleted.
    async fn forget(&self, tenant: &Tenant) {
        let (disk, home) = (self.shared.env.disk.clone(), TenantDirectory::of(&self.shared.config, tenant.id));
        if let Err(error) = self.shared.env.tasks.blocking("forget-tenant", move || disk.remove_dir_all(&home.path)).await {
            tracing::warn!(tenant = %tenant.id, %error, "what is left of a deleted tenant is removed at the next start");
        }
        // Whoever waits for it to come up waits no longer.
        tenant.set_state(TenantState::Broken(AttachError::Unknown.to_string()));
        self.vacate(tenant.id).await;
    }

    /// One try. What an earlier one reached stays.
    async fn attach_once(
        self: &Arc<Registry>,
        tenant: &Arc<Tenant>,
        attach: &Attach,
        least: Option<Generation>,
        cancel: &CancellationToken,
    ) -> Result<(), AttachError> {
        let turn = cancel.run_until_cancelled(self.attaching.acquire()).await.ok_or(AttachError::Stopped)?;
        let _turn = turn.expect("the semaphore is never closed");
        if tenant.attachment().is_none() {
            cancel.run_until_cancelled(self.claim(tenant, attach, least)).await.ok_or(AttachError::Stopped)??;
        }
        let attachment = tenant.attachment().expect("it was set above").clone();
        if tenant.manifest.lock().await.as_ref().is_some_and(|stored| stored.content.deleting) {
            self.go_on_deleting(tenant, &attachment);
            return Ok(());
        }
        let inventory = cancel.run_until_cancelled(self.take_inventory(&attachment)).await.ok_or(AttachError::Stopped)??;
        self.open_timelines(tenant, &attachment, &inventory, cancel).await?;
        self.sweep(&attachment, tenant, &inventory);
        if tenant.set_state_unless_stopping(TenantState::Active) {
            self.shared.env.probe.event("tenant-active", &|| format!("tenant={} generation={}", tenant.id, attachment.generation().0));
        }
        Ok(())
    }

    /// Stores the manifest of a new generation (RM-5), with the settings of the one before unless there are others.
    async fn claim(&self, tenant: &Arc<Tenant>, attach: &Attach, least: Option<Generation>) -> Result<(), AttachError> {
        let id = tenant.id;
        if attach.resume && self.resume(tenant, attach).await? {
            return Ok(());
        }
        let before = self.shared.remote.newest_manifest(id).await?;
        // A directory as remote storage keeps the empty directories of what was deleted.
        if before.is_none() && attach.settings.is_none() && self.shared.remote.list_objects(&path::tenant(id)).await?.is_empty() {
            return Err(AttachError::Unknown);
        }
        let (newest, deleting) = before.as_ref().map_or((None, false), |(generation, manifest)| (Some(*generation), manifest.deleting));
        let generation = match (attach.generation, newest) {
            (Some(asked), Some(newest)) if asked < newest => return Err(AttachError::Outdated { asked, newest }),
            (Some(asked), _) => asked,
            (None, newest) => newest
                .map_or(Some(Generation::FIRST), Generation::next)
                .ok_or(AttachError::LastGeneration)?
                .max(self.shared.remote.generation())
                .max(least.unwrap_or(Generation::FIRST)),
        };
        let node = &self.shared.config.tenant;
        let mut overrides = match (&attach.settings, before) {
            (Some(settings), _) => settings.clone(),
            (None, Some((_, manifest))) => TenantOverrides::parse(manifest.settings, node)?,
            (None, None) => TenantOverrides::default(),
        };
        let remote = self.shared.remote.in_generation(generation);
        let keeps = attach.settings.is_none();
        let follows = newest.filter(|newest| *newest < generation).map(|generation| Follows { generation, settings: keeps });
        let mut stored = remote.claim(id, overrides.as_map().clone(), deleting, follows).await?;
        // From here on the node before confirms nothing any more; what it confirmed since the first look is read now (RM-7).
        let older: Vec<Generation> = remote.attachments(id).await?.into_iter().filter(|other| *other < generation).collect();
        let last = match remote.newest_among(id, &older).await {
            // A newer attachment than this one is removing it.
            Err(error) if error.is_not_found() => None,
            other => other?,
        };
        if let Some((_, last)) = last {
            let settings = if keeps { last.settings } else { stored.content.settings.clone() };
            if (last.deleting, &settings) != (deleting, &stored.content.settings) {
                self.shared.env.probe.mark("claim-corrected");
                overrides = TenantOverrides::parse(settings.clone(), node)?;
                let content = Manifest { settings, deleting: last.deleting, ..stored.content.clone() };
                remote.put_manifest(&mut stored, content).await?;
            }
        }
        let validation = self.shared.validation.clone();
        let attachment = Attachment::new(id, remote, validation, attach.mode, overrides.over(node));
        *tenant.manifest.lock().await = Some(stored);
        tenant.set_overrides(overrides);
        tenant.set_attachment(attachment.clone());
        attachment.validation.delete(&attachment, older.into_iter().map(|other| path::manifest(id, other)));
        Ok(())
    }

    async fn take_inventory(&self, attachment: &Attachment) -> Result<Inventory, AttachError> {
        let (id, remote) = (attachment.tenant, &attachment.remote);
        let mut found = Inventory::default();
        for timeline in remote.list_timelines(id).await? {
            let objects = remote.list_objects(&path::timeline(id, timeline)).await?;
            match remote.index_among(id, timeline, &objects).await {
                Ok(index) => _ = found.indexes.insert(timeline, index),
                // What a creation that did not finish left behind: not a timeline.
                Err(error) if error.is_not_found() => {}
                Err(error @ RemoteError::Index { .. }) => _ = found.damaged.insert(timeline, Fault::Index(error)),
                Err(error) => return Err(error.into()),
            }
            found.objects.insert(timeline, objects);
        }
        Ok(found)
    }

    /// Damage of one timeline is that timeline's: the others are loaded.
    async fn open_timelines(
        self: &Arc<Registry>,
        tenant: &Arc<Tenant>,
        attachment: &Arc<Attachment>,
        inventory: &Inventory,
        cancel: &CancellationToken,
    ) -> Result<(), AttachError> {
        for (timeline, fault) in &inventory.damaged {
            set_broken(tenant, *timeline, fault);
            // Where it branched off is not known.
            attachment.hold_gc();
        }
        let alive: BTreeMap<TimelineId, &IndexPart> =
            inventory.indexes.iter().filter(|(_, index)| index.deleted_at.is_none()).map(|(id, index)| (*id, index)).collect();
        let known: Vec<String> = alive.keys().chain(inventory.damaged.keys()).map(ToString::to_string).collect();
        let (disk, directory) = (self.shared.env.disk.clone(), TenantDirectory::of(&self.shared.config, tenant.id).timelines());
        self.shared.env.tasks.blocking("clean-tenant", move || remove_others(&*disk, &directory, &known)).await?;
        let (ordered, orphans) = ancestors_first(&alive);
        for timeline in ordered {
            if cancel.is_cancelled() {
                return Err(AttachError::Stopped);
            }
            if tenant.timeline(timeline).is_ok() {
                continue;
            }
            match self.open_timeline(tenant, attachment, timeline, alive[&timeline]).await? {
                Ok(handle) => {
                    let objects = inventory.objects.get(&timeline).into_iter().flatten();
                    let older = objects.filter(|object| path::index_generation(object).is_some_and(|g| g < attachment.generation()));
                    handle.timeline.replaces_objects(older.cloned().collect());
                    tenant.insert(handle);
                }
                Err(fault) => set_broken(tenant, timeline, &fault),
            }
        }
        for (timeline, ancestor) in orphans {
            let is_broken = tenant.broken().contains_key(&ancestor);
            set_broken(tenant, timeline, &if is_broken { Fault::OnBroken(ancestor) } else { Fault::Ancestor(ancestor) });
        }
        let deleted = inventory.indexes.iter().filter(|(_, index)| index.deleted_at.is_some());
        deleted.for_each(|(timeline, _)| self.go_on_deleting_timeline(tenant, attachment, *timeline));
        Ok(())
    }

    async fn open_timeline(
        &self,
        tenant: &Tenant,
        attachment: &Arc<Attachment>,
        id: TimelineId,
        index: &IndexPart,
    ) -> Result<Result<Arc<TimelineHandle>, Fault>, AttachError> {
        let ancestor = match index.ancestor_timeline {
            None => None,
            Some(ancestor) => {
                let Ok(handle) = tenant.timeline(ancestor) else { return Ok(Err(Fault::OnBroken(ancestor))) };
                // Also for a branch that turns out to be broken.
                handle.timeline.pin_existing(id, index.ancestor_lsn);
                Some(Ancestor { timeline: handle.timeline.clone(), lsn: index.ancestor_lsn })
            }
        };
        let directory = Timeline::directory(&self.shared.config, tenant.id, id);
        let (disk, sizes) = (self.shared.env.disk.clone(), index.layer_metadata.clone());
        let wanted = move |name: &str, len: u64| sizes.get(name).is_some_and(|meta| meta.file_size == len);
        self.shared.env.tasks.blocking("clean-timeline", move || clean_layers(&*disk, &directory, wanted)).await?;
        let timeline = Timeline::open(&self.shared, attachment, id, index, ancestor);
        match self.start_timeline(timeline).await {
            Ok(handle) => Ok(Ok(handle)),
            Err(error) if error.is_damage() || crate::planted!(self.shared.env, "disk-error-is-damage") => Ok(Err(Fault::Log(error))),
            Err(error) => Err(AttachError::Log { timeline: id, error }),
        }
    }

    /// Starts the tasks of an open timeline.
    pub(super) async fn start_timeline(&self, timeline: Arc<Timeline>) -> Result<Arc<TimelineHandle>, LogError> {
        timeline.start();
        let wal = match WalRunner::start(&self.shared.env, &timeline).await {
            Ok(wal) => wal,
            Err(error) => {
                timeline.shutdown().await;
                return Err(error);
            }
        };
        Ok(Arc::new(TimelineHandle { timeline, wal }))
    }

    /// Has objects of earlier generations deleted that nothing names: of uploads, removals and creations that a crash cut off. Those
    /// of a timeline only once it has an index of this generation: a node that was superseded may name them yet, in an index that the
    /// next attachment would begin from.
    fn sweep(&self, attachment: &Arc<Attachment>, tenant: &Tenant, inventory: &Inventory) {
        if crate::planted!(self.shared.env, "no-sweep") {
            return;
        }
        for (timeline, objects) in &inventory.objects {
            // What is not understood is left alone.
            if inventory.damaged.contains_key(timeline) || tenant.deleting().contains_key(timeline) {
                continue;
            }
            let index = inventory.indexes.get(timeline);
            let nameless = objects.iter().filter(|object| is_nameless(object, index, attachment.generation())).cloned();
            match tenant.timeline(*timeline) {
                Ok(handle) if !crate::planted!(self.shared.env, "sweep-before-index") => handle.timeline.sweep(nameless.collect()),
                Ok(_) => attachment.validation.delete(attachment, nameless),
                Err(_) if index.is_none() => attachment.validation.delete(attachment, nameless),
                Err(_) => {}
            }
        }
    }
}

/// Whether an object of a timeline was written before this generation and is named by nothing.
fn is_nameless(object: &ObjectPath, index: Option<&IndexPart>, generation: Generation) -> bool {
    let Some((name, of)) = object.filename().and_then(Generation::split_suffix) else { return false };
    let named = index.and_then(|index| index.layer_metadata.get(name)).is_some_and(|meta| meta.generation == of);
    of < generation && !named && name.parse::<LayerName>().is_ok()
}

/// Removes local files that the index does not name: temporary ones, and layers whose upload did not finish. Their WAL is still
/// in the log and makes them again.
fn clean_layers(disk: &dyn crate::io_abstraction::Disk, directory: &Path, wanted: impl Fn(&str, u64) -> bool) -> io::Result<()> {
    disk.create_dir_all(directory)?;
    for entry in disk.list(directory)? {
        let keep = entry.is_dir || wanted(&entry.name, entry.len);
        if !keep || entry.name.ends_with(TEMPORARY_SUFFIX) {
            disk.unlink(&directory.join(&entry.name))?;
        }
    }
    Ok(())
}

/// Removes directories of timelines that do not exist any more.
fn remove_others(disk: &dyn crate::io_abstraction::Disk, directory: &Path, known: &[String]) -> io::Result<()> {
    let entries = match disk.list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    entries.iter().filter(|e| e.is_dir && !known.contains(&e.name)).try_for_each(|entry| disk.remove_dir_all(&directory.join(&entry.name)))
}

fn set_broken(tenant: &Tenant, timeline: TimelineId, fault: &Fault) {
    tracing::error!(tenant = %tenant.id, %timeline, error = %fault, "the timeline cannot be served");
    tenant.insert_broken(timeline, fault.to_string());
}

/// Orders timelines so that each comes after its ancestor. Those whose ancestor is not among them, or descends from them, come
/// apart, nearest first, with that ancestor.
fn ancestors_first(indexes: &BTreeMap<TimelineId, &IndexPart>) -> (Vec<TimelineId>, Vec<(TimelineId, TimelineId)>) {
    let mut ordered: Vec<TimelineId> = Vec::new();
    let mut waiting: Vec<TimelineId> = indexes.keys().copied().collect();
    loop {
        let ready = |id: &TimelineId| indexes[id].ancestor_timeline.is_none_or(|a| ordered.contains(&a));
        let (now, later): (Vec<_>, Vec<_>) = waiting.iter().copied().partition(ready);
        if now.is_empty() {
            let mut orphans: Vec<_> = later.iter().filter_map(|id| Some((*id, indexes[id].ancestor_timeline?))).collect();
            orphans.sort_by_key(|(_, ancestor)| later.contains(ancestor));
            return (ordered, orphans);
        }
        ordered.extend(now);
        waiting = later;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::{StoredIndex, path};
    use crate::tenant::{CreateSpec, LookupError, Origin};
    use crate::timeline::testing::{self, TENANT, TIMELINE};
    use crate::types::Generation;

    #[tokio::test]
    async fn local_tenants_are_kept_when_remote_storage_has_none_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let env = testing::memory_env();
        let local = directory.path().join("tenants").join(TENANT.to_string());
        env.disk.create_dir_all(&local.join("timelines").join(TIMELINE.to_string())).unwrap();
        let registry = Registry::new(testing::shared(&env, directory.path(), |_| {}));
        assert!(matches!(registry.load_all(false).await, Err(LoadError::WrongStorage { local: 1, .. })));
        assert!(env.disk.list(&local).is_ok());
    }

    /// The directory of a tenant comes before its manifest, which a crash may prevent: the node has to start all the same.
    #[tokio::test]
    async fn a_creation_that_was_cut_off_before_its_manifest_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let env = testing::memory_env();
        let registry = Registry::new(testing::shared(&env, directory.path(), |_| {}));
        let home = TenantDirectory::of(&registry.shared.config, TENANT);
        home.store(&*env.disk, Location::ATTACHED).unwrap();
        assert!(registry.load_all(false).await.unwrap().is_empty());
        assert_eq!(home.look(&*env.disk).unwrap(), Found::Nothing);
        registry.create_tenant(TENANT, TenantOverrides::default(), None).await.unwrap();
    }

    #[tokio::test]
    async fn a_damaged_index_breaks_its_timeline_and_the_branches_only() {
        let directory = tempfile::tempdir().unwrap();
        let env = testing::memory_env();
        let shared = testing::shared(&env, directory.path(), |_| {});
        let root = testing::root_index(&shared);
        let id = |n: u8| TimelineId([n; 16]);
        let branch = |of: u8| IndexPart { ancestor_timeline: Some(id(of)), ancestor_lsn: testing::START, ..root.clone() };
        for (timeline, index) in [(TIMELINE, root.clone()), (id(7), branch(2)), (id(8), branch(9)), (id(5), branch(8)), (id(6), branch(44))]
        {
            shared.remote.put_index(&mut StoredIndex::unknown(TENANT, timeline), &index).await.unwrap();
        }
        shared.remote.put(&path::index(TENANT, id(9), Generation(1)), "{".into()).await.unwrap();
        let wal = Timeline::directory(&shared.config, TENANT, id(9)).join("wal");
        env.disk.create_dir_all(&wal).unwrap();
        let registry = Registry::new(shared);
        for tenant in registry.load_all(true).await.unwrap() {
            tenant.settled().await;
        }
        let tenant = registry.tenant(TENANT).unwrap();
        let serving: Vec<_> = tenant.timelines().iter().map(|handle| handle.timeline.identity.timeline).collect();
        assert_eq!(serving, [TIMELINE, id(7)]);
        let broken = tenant.broken();
        assert_eq!(broken.keys().copied().collect::<Vec<_>>(), [id(5), id(6), id(8), id(9)]);
        assert!(broken[&id(9)].contains("not valid JSON"), "{broken:?}");
        assert!(broken[&id(8)].contains("its ancestor") && broken[&id(5)].contains("is broken"), "{broken:?}");
        assert!(broken[&id(6)].contains("does not exist"), "{broken:?}");
        assert!(env.disk.list(&wal).is_ok(), "its WAL may be the only copy");
        assert!(matches!(tenant.timeline(id(9)), Err(LookupError::Broken { .. })));
        let again = CreateSpec { timeline: id(9), origin: Origin::Template(crate::pg::version::PgVersion::V15) };
        assert!(registry.create_timeline(TENANT, &again).await.is_err());
        registry.shutdown(false).await;
    }

    #[tokio::test]
    async fn of_two_creations_of_a_tenant_one_wins_and_its_timelines_stay() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::new(testing::shared(&testing::memory_env(), directory.path(), |_| {}));
        let none = TenantOverrides::default;
        let slot = registry.change(TENANT).unwrap();
        assert!(registry.create_tenant(TENANT, none(), None).await.is_err());
        drop(slot);
        registry.create_tenant(TENANT, none(), None).await.unwrap();
        let tenant = registry.tenant(TENANT).unwrap();
        assert!(registry.create_tenant(TENANT, none(), None).await.is_err());
        assert!(Arc::ptr_eq(&tenant, &registry.tenant(TENANT).unwrap()));
    }
}
