//! Creating tenants and timelines. The id is claimed first; the index in remote storage is the moment of existence.

use super::error::{CreateError, LookupError};
use super::registry::{Claim, Registry, Tenant, TimelineHandle};
use crate::pg::version::PgVersion;
use crate::remote::index::{INDEX_VERSION, IndexPart};
use crate::remote::{StoredIndex, path};
use crate::timeline::import::{self, ImportOptions};
use crate::timeline::{Ancestor, ReadError, Timeline};
use crate::types::{Lsn, TenantId, TimelineId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a new timeline's first data come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A fresh cluster of this version.
    Template(PgVersion),
    /// A cleanly stopped data directory on the node's disk.
    Directory(PathBuf),
    /// Another timeline of the tenant, at an LSN or at its end.
    Branch { ancestor: TimelineId, lsn: Option<Lsn>, pg_version: Option<PgVersion> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSpec {
    pub timeline: TimelineId,
    pub origin: Origin,
}

impl Registry {
    /// Creates an empty tenant.
    pub async fn create_tenant(&self, id: TenantId) -> Result<(), CreateError> {
        let _claim = self.claim_tenant(id).ok_or(CreateError::TenantExists(id))?;
        let manifest = serde_json::json!({ "version": 1, "tenant_id": id });
        let path = path::manifest(id, self.shared.generation());
        let put = self.shared.remote.put(&path, manifest.to_string().into());
        self.stopping.run_until_cancelled(put).await.ok_or(CreateError::Stopping)??;
        self.insert(Tenant::new(id));
        Ok(())
    }

    /// Creates a timeline, or finds that it exists with the same parameters. Returns once it is in remote storage.
    pub async fn create_timeline(&self, tenant: TenantId, spec: &CreateSpec) -> Result<Arc<TimelineHandle>, CreateError> {
        let tenant = self.tenant(tenant)?;
        let _at_work = self.stopping.run_until_cancelled(self.creations.read()).await.ok_or(CreateError::Stopping)?;
        let claim = match tenant.claim(spec.timeline) {
            Claim::Taken(claim) => claim,
            Claim::Creating => return Err(CreateError::AlreadyCreating(spec.timeline)),
            Claim::Exists(_) if crate::planted!(self.shared.env, "repeat-is-conflict") => {
                return Err(CreateError::TimelineExists(spec.timeline));
            }
            Claim::Exists(handle) => return same_parameters(handle, spec),
            Claim::Broken(error) => return Err(error.into()),
        };
        let make = self.make_timeline(&tenant, spec);
        let timeline = self.stopping.run_until_cancelled(make).await.ok_or(CreateError::Stopping)??;
        // From here on there are tasks, which a stop has to find: this is not cut off.
        let handle = self.start_timeline(timeline).await?;
        claim.finish(handle.clone());
        self.shared.env.probe.event("timeline-created", &|| format!("tenant={} timeline={}", tenant.id, spec.timeline));
        Ok(handle)
    }

    /// Makes it exist, without tasks. Cut off, it leaves what a repeated request or the next start finds.
    async fn make_timeline(&self, tenant: &Tenant, spec: &CreateSpec) -> Result<Arc<Timeline>, CreateError> {
        match &spec.origin {
            Origin::Branch { ancestor, lsn, .. } => self.branch(tenant, spec.timeline, *ancestor, *lsn).await,
            Origin::Directory(directory) => {
                let options = ImportOptions { directory: directory.clone(), system_identifier: None };
                self.import(tenant, spec.timeline, options).await
            }
            Origin::Template(version) => {
                let directory = self.template(*version).await?;
                let options = ImportOptions { directory, system_identifier: Some(spec.timeline.system_identifier()) };
                self.import(tenant, spec.timeline, options).await
            }
        }
    }

    async fn branch(&self, tenant: &Tenant, id: TimelineId, ancestor: TimelineId, lsn: Option<Lsn>) -> Result<Arc<Timeline>, CreateError> {
        let source = match tenant.timeline(ancestor) {
            Ok(handle) => handle.timeline.clone(),
            Err(LookupError::Timeline(..)) => return Err(CreateError::AncestorMissing(ancestor)),
            Err(other) => return Err(other.into()),
        };
        let lsn = lsn.map_or_else(|| source.last_record.lsn(), Lsn::align8);
        let lsn = if crate::planted!(self.shared.env, "branch-at-end") { source.last_record.lsn() } else { lsn };
        let cutoff = source.gc_cutoff_lsn();
        if lsn < source.ancestor_lsn() {
            return Err(CreateError::BelowAncestor { ancestor, lsn, floor: source.ancestor_lsn() });
        }
        if lsn < cutoff {
            return Err(CreateError::BelowCutoff { ancestor, lsn, cutoff });
        }
        source.wait_lsn(lsn).await.map_err(CreateError::Wait)?;
        let (last, prev) = source.last_record.lsn_and_prev();
        let index = IndexPart {
            version: INDEX_VERSION,
            layer_metadata: BTreeMap::new(),
            disk_consistent_lsn: lsn,
            prev_record_lsn: (last == lsn && prev.is_valid()).then_some(prev),
            ancestor_timeline: Some(ancestor),
            ancestor_lsn: lsn,
            latest_gc_cutoff_lsn: cutoff,
            initdb_lsn: source.identity.initdb_lsn,
            pg_version: source.identity.pg_version,
            system_identifier: id.system_identifier(),
            wal_segment_size: source.identity.wal_segment_size,
            hint_bits_logged: source.identity.hint_bits_logged,
            tli: 1,
            tli_history: Vec::new(),
            wal_source: None,
        };
        self.put_first_index(tenant, id, &index).await?;
        Ok(Timeline::open(&self.shared, (tenant.id, id), &index, Some(Ancestor { timeline: source, lsn })))
    }

    /// The write that makes a timeline exist. An error leaves it unknown whether it does: the same request may be repeated.
    async fn put_first_index(&self, tenant: &Tenant, id: TimelineId, index: &IndexPart) -> Result<(), CreateError> {
        let directory = Timeline::directory(&self.shared.config, tenant.id, id);
        let disk = self.shared.env.disk.clone();
        let made = self.shared.env.tasks.blocking("make-timeline-directory", move || disk.create_dir_all(&directory)).await;
        made?;
        Ok(self.shared.remote.put_index(&mut StoredIndex::unknown(tenant.id, id), index).await?)
    }

    async fn import(&self, tenant: &Tenant, id: TimelineId, options: ImportOptions) -> Result<Arc<Timeline>, CreateError> {
        let target = Timeline::directory(&self.shared.config, tenant.id, id);
        let (env, config) = (self.shared.env.clone(), self.shared.config.clone());
        // Remains of an earlier try are in the way of nobody: the files are named by their content's range.
        let work = move || import::run(&*env.disk, &target, &options, config.compaction_target_size);
        let imported = self.shared.env.tasks.blocking("import", work).await?;
        let target = Timeline::directory(&self.shared.config, tenant.id, id);
        let generation = self.shared.generation();
        for layer in &imported.layers {
            self.shared.remote.upload_layer(tenant.id, id, &layer.name, &target).await?;
        }
        let index = imported.index(generation);
        self.shared.remote.put_index(&mut StoredIndex::unknown(tenant.id, id), &index).await?;
        Ok(Timeline::open(&self.shared, (tenant.id, id), &index, None))
    }
}

/// 201 for a repeated request, conflict for another one.
fn same_parameters(handle: Arc<TimelineHandle>, spec: &CreateSpec) -> Result<Arc<TimelineHandle>, CreateError> {
    let timeline = &handle.timeline;
    let same = match &spec.origin {
        Origin::Template(version) => timeline.ancestor.is_none() && timeline.identity.pg_version == *version,
        Origin::Directory(_) => false,
        Origin::Branch { ancestor, lsn, pg_version } => {
            timeline.ancestor.as_ref().is_some_and(|a| a.timeline.identity.timeline == *ancestor)
                && lsn.is_none_or(|lsn| lsn.align8() == timeline.ancestor_lsn())
                && pg_version.is_none_or(|version| version == timeline.identity.pg_version)
        }
    };
    if same { Ok(handle) } else { Err(CreateError::TimelineExists(spec.timeline)) }
}

impl From<ReadError> for CreateError {
    fn from(error: ReadError) -> CreateError {
        CreateError::Wait(error)
    }
}
