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
    #[error("tenant {tenant}: timeline {timeline} names the ancestor {ancestor}, which does not exist or descends from it")]
    Ancestor { tenant: TenantId, timeline: TimelineId, ancestor: TimelineId },
    #[error("clean up {directory}: {error}")]
    Local { directory: String, error: io::Error },
    #[error(
        "remote storage has no tenants, but {directory} has {local}: is this the right remote storage? If all tenants are to be forgotten, remove that directory"
    )]
    WrongStorage { directory: String, local: usize },
    #[error("timeline {timeline}: {error}")]
    Log { timeline: TimelineId, error: LogError },
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

    async fn load_tenant(&self, id: TenantId) -> Result<Arc<Tenant>, LoadError> {
        let mut indexes = BTreeMap::new();
        for timeline in self.shared.remote.list_timelines(id).await? {
            match self.shared.remote.get_index(id, timeline).await {
                Ok(index) => _ = indexes.insert(timeline, index),
                // What a creation that did not finish left behind: not a timeline.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let directory = self.shared.config.data_dir.join("tenants").join(id.to_string()).join("timelines");
        let known: Vec<String> = indexes.keys().map(ToString::to_string).collect();
        remove_others(&*self.shared.env.disk, &directory, &known)?;
        let tenant = Tenant::new(id);
        for timeline in ancestors_first(id, &indexes)? {
            let handle = self.load_timeline(&tenant, timeline, &indexes[&timeline]).await?;
            tenant.insert(handle);
        }
        Ok(tenant)
    }

    async fn load_timeline(&self, tenant: &Tenant, id: TimelineId, index: &IndexPart) -> Result<Arc<TimelineHandle>, LoadError> {
        let ancestor = match index.ancestor_timeline {
            None => None,
            Some(ancestor) => {
                let missing = |_| LoadError::Ancestor { tenant: tenant.id, timeline: id, ancestor };
                let timeline = tenant.timeline(ancestor).map_err(missing)?.timeline.clone();
                Some(Ancestor { timeline, lsn: index.ancestor_lsn })
            }
        };
        let directory = Timeline::directory(&self.shared.config, tenant.id, id);
        self.clean_layers(&directory, index)?;
        let timeline = Timeline::open(&self.shared, (tenant.id, id), index, ancestor);
        self.start_timeline(timeline).await.map_err(|error| LoadError::Log { timeline: id, error })
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
    fn clean_layers(&self, directory: &Path, index: &IndexPart) -> Result<(), LoadError> {
        let disk = &*self.shared.env.disk;
        let failed = |error| LoadError::Local { directory: directory.display().to_string(), error };
        disk.create_dir_all(directory).map_err(failed)?;
        for entry in disk.list(directory).map_err(failed)? {
            let meta = index.layer_metadata.get(&entry.name);
            let wanted = entry.is_dir || meta.is_some_and(|m| m.file_size == entry.len);
            if !wanted || entry.name.ends_with(TEMPORARY_SUFFIX) {
                disk.unlink(&directory.join(&entry.name)).map_err(failed)?;
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

/// Orders timelines so that each comes after its ancestor.
fn ancestors_first(tenant: TenantId, indexes: &BTreeMap<TimelineId, IndexPart>) -> Result<Vec<TimelineId>, LoadError> {
    let mut ordered: Vec<TimelineId> = Vec::new();
    let mut waiting: Vec<TimelineId> = indexes.keys().copied().collect();
    while !waiting.is_empty() {
        let ready = |id: &TimelineId| indexes[id].ancestor_timeline.is_none_or(|a| ordered.contains(&a));
        let (now, later): (Vec<_>, Vec<_>) = waiting.iter().copied().partition(ready);
        if now.is_empty() {
            let timeline = later[0];
            let ancestor = indexes[&timeline].ancestor_timeline.unwrap_or(timeline);
            return Err(LoadError::Ancestor { tenant, timeline, ancestor });
        }
        ordered.extend(now);
        waiting = later;
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::testing::{self, TENANT};

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
