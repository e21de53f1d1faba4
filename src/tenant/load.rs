//! Start of a node: remote storage says what exists; the local disk only saves downloads.

use super::registry::{Registry, Tenant, TimelineHandle};
use crate::io_abstraction::disk::TEMPORARY_SUFFIX;
use crate::remote::{IndexPart, RemoteError};
use crate::timeline::{Ancestor, Timeline};
use crate::types::{TenantId, TimelineId};
use crate::wal::log::LogError;
use crate::wal::runner::WalRunner;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("clean up {directory}: {error}")]
    Local { directory: String, error: io::Error },
    #[error(
        "remote storage has no tenants, but {directory} has {local}: is this the right remote storage? If all tenants are to be forgotten, remove that directory"
    )]
    WrongStorage { directory: String, local: usize },
    #[error("timeline {timeline}: {error}")]
    Log { timeline: TimelineId, error: LogError },
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

impl Registry {
    /// Loads every tenant that remote storage has.
    pub async fn load_all(&self) -> Result<(), LoadError> {
        let tenants = self.shared.remote.list_tenants().await?;
        self.forget_strangers(&tenants)?;
        for id in tenants {
            let tenant = self.load_tenant(id).await?;
            self.insert(tenant);
        }
        Ok(())
    }

    /// Removes local directories of tenants that do not exist any more.
    fn forget_strangers(&self, tenants: &[TenantId]) -> Result<(), LoadError> {
        let directory = self.shared.config.data_dir.join("tenants");
        let known: Vec<String> = tenants.iter().map(ToString::to_string).collect();
        let local = match self.shared.env.disk.list(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            other => other.map_err(|error| LoadError::Local { directory: directory.display().to_string(), error })?.len(),
        };
        // A tenant's manifest is stored before anything of it is on the disk. More likely somebody named the wrong storage, and
        // what is here may be the only copy of WAL that was acknowledged.
        if tenants.is_empty() && local > 0 {
            return Err(LoadError::WrongStorage { directory: directory.display().to_string(), local });
        }
        remove_others(&*self.shared.env.disk, &directory, &known)
    }

    /// Damage of one timeline is that timeline's: the others are loaded. Remote storage that gives no answer ends the start.
    async fn load_tenant(&self, id: TenantId) -> Result<Arc<Tenant>, LoadError> {
        let tenant = Tenant::new(id);
        let mut indexes = BTreeMap::new();
        for timeline in self.shared.remote.list_timelines(id).await? {
            match self.shared.remote.get_index(id, timeline).await {
                Ok(index) => _ = indexes.insert(timeline, index),
                // What a creation that did not finish left behind: not a timeline.
                Err(error) if error.is_not_found() => {}
                Err(error @ RemoteError::Index { .. }) => set_broken(&tenant, timeline, Fault::Index(error)),
                Err(error) => return Err(error.into()),
            }
        }
        let directory = self.shared.config.data_dir.join("tenants").join(id.to_string()).join("timelines");
        let known: Vec<String> = indexes.keys().chain(tenant.broken().keys()).map(ToString::to_string).collect();
        remove_others(&*self.shared.env.disk, &directory, &known)?;
        let (ordered, orphans) = ancestors_first(&indexes);
        for timeline in ordered {
            match self.load_timeline(&tenant, timeline, &indexes[&timeline]).await {
                Ok(Ok(handle)) => tenant.insert(handle),
                Ok(Err(fault)) => set_broken(&tenant, timeline, fault),
                // A disk that gives errors may give none the next time.
                Err(error) => return Err(error),
            }
        }
        for (timeline, ancestor) in orphans {
            let is_broken = tenant.broken().contains_key(&ancestor);
            set_broken(&tenant, timeline, if is_broken { Fault::OnBroken(ancestor) } else { Fault::Ancestor(ancestor) });
        }
        Ok(tenant)
    }

    async fn load_timeline(
        &self,
        tenant: &Tenant,
        id: TimelineId,
        index: &IndexPart,
    ) -> Result<Result<Arc<TimelineHandle>, Fault>, LoadError> {
        let ancestor = match index.ancestor_timeline {
            None => None,
            Some(ancestor) => {
                let Ok(handle) = tenant.timeline(ancestor) else { return Ok(Err(Fault::OnBroken(ancestor))) };
                Some(Ancestor { timeline: handle.timeline.clone(), lsn: index.ancestor_lsn })
            }
        };
        let directory = Timeline::directory(&self.shared.config, tenant.id, id);
        self.clean_layers(&directory, index).map_err(|error| LoadError::Local { directory: directory.display().to_string(), error })?;
        let timeline = Timeline::open(&self.shared, (tenant.id, id), index, ancestor);
        match self.start_timeline(timeline).await {
            Ok(handle) => Ok(Ok(handle)),
            Err(error) if error.is_damage() || crate::planted!(self.shared.env, "disk-error-is-damage") => Ok(Err(Fault::Log(error))),
            Err(error) => Err(LoadError::Log { timeline: id, error }),
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

    /// Removes local files that the index does not name: temporary ones, and layers whose upload did not finish. Their WAL is
    /// still in the log and makes them again.
    fn clean_layers(&self, directory: &Path, index: &IndexPart) -> io::Result<()> {
        let disk = &*self.shared.env.disk;
        disk.create_dir_all(directory)?;
        for entry in disk.list(directory)? {
            let meta = index.layer_metadata.get(&entry.name);
            let wanted = entry.is_dir || meta.is_some_and(|m| m.file_size == entry.len);
            if !wanted || entry.name.ends_with(TEMPORARY_SUFFIX) {
                disk.unlink(&directory.join(&entry.name))?;
            }
        }
        Ok(())
    }
}

fn remove_others(disk: &dyn crate::io_abstraction::Disk, directory: &Path, known: &[String]) -> Result<(), LoadError> {
    let failed = |error| LoadError::Local { directory: directory.display().to_string(), error };
    let entries = match disk.list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for entry in entries.iter().filter(|e| e.is_dir && !known.contains(&e.name)) {
        disk.remove_dir_all(&directory.join(&entry.name)).map_err(failed)?;
    }
    Ok(())
}

fn set_broken(tenant: &Tenant, timeline: TimelineId, fault: Fault) {
    tracing::error!(tenant = %tenant.id, %timeline, error = %fault, "the timeline cannot be served");
    tenant.insert_broken(timeline, fault.to_string());
}

/// Orders timelines so that each comes after its ancestor. Those whose ancestor is not among them, or descends from them, come
/// apart, nearest first, with that ancestor.
fn ancestors_first(indexes: &BTreeMap<TimelineId, IndexPart>) -> (Vec<TimelineId>, Vec<(TimelineId, TimelineId)>) {
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
        env.disk.create_dir_all(&local).unwrap();
        let registry = Registry::new(testing::shared(&env, directory.path(), |_| {}));
        assert!(matches!(registry.load_all().await, Err(LoadError::WrongStorage { local: 1, .. })));
        assert!(env.disk.list(&local).is_ok());
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
        registry.load_all().await.unwrap();
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
        let claim = registry.claim_tenant(TENANT).unwrap();
        assert!(registry.create_tenant(TENANT).await.is_err());
        drop(claim);
        registry.create_tenant(TENANT).await.unwrap();
        let tenant = registry.tenant(TENANT).unwrap();
        assert!(registry.create_tenant(TENANT).await.is_err());
        assert!(Arc::ptr_eq(&tenant, &registry.tenant(TENANT).unwrap()));
    }
}
