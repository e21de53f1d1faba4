//! Creating tenants and timelines. The id is claimed first; the index in remote storage is the moment of existence.

use super::attach::Attach;
use super::error::{CreateError, LookupError};
use super::location::{Location, TenantDirectory};
use super::registry::{Registry, Slot};
use super::state::{Claim, Tenant, TenantState, TimelineHandle};
use crate::config::TenantOverrides;
use crate::pg::version::PgVersion;
use crate::remote::index::{INDEX_VERSION, IndexPart};
use crate::remote::{AttachMode, Attachment, StoredIndex, path};
use crate::timeline::import::{self, ImportOptions};
use crate::timeline::{Ancestor, ReadError, Timeline};
use crate::types::{Generation, Lsn, TenantId, TimelineId};
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

impl Origin {
    fn ancestor(&self) -> Option<TimelineId> {
        match self {
            Origin::Branch { ancestor, .. } => Some(*ancestor),
            Origin::Template(_) | Origin::Directory(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSpec {
    pub timeline: TimelineId,
    pub origin: Origin,
}

impl Registry {
    /// Creates an empty tenant with settings of its own, in the next generation if none is given; returns once it is active.
    pub async fn create_tenant(
        self: &Arc<Registry>,
        id: TenantId,
        settings: TenantOverrides,
        generation: Option<Generation>,
    ) -> Result<(), CreateError> {
        let mut slot = self.change(id)?;
        if slot.slot().is_some() {
            return Err(CreateError::TenantExists(id));
        }
        // Its manifest may be that of a creation whose end nobody saw. What has timelines is somebody's.
        if !self.shared.remote.list_objects(&path::timelines(id)).await?.is_empty() {
            return Err(CreateError::TenantInStorage(id));
        }
        let home = TenantDirectory::of(&self.shared.config, id);
        let location = Location::Attached { access: AttachMode::Single, generation };
        let (disk, mine) = (self.shared.env.disk.clone(), home.clone());
        self.shared.env.tasks.blocking("make-tenant", move || mine.store(&*disk, location)).await?;
        let tenant = Tenant::new(id, TenantState::Attaching, Some(settings.clone()), &self.shared.env.tasks);
        let attach = Attach { mode: AttachMode::Single, generation, settings: Some(settings), patient: false, resume: false };
        slot.set(Some(Slot::Attached(tenant.clone())));
        drop(slot);
        self.bring_up(&tenant, attach, None);
        match tenant.settled().await {
            TenantState::Active => Ok(()),
            TenantState::Broken(reason) => {
                // As if nobody had asked, as far as that is known.
                self.put_away(&tenant).await;
                Err(CreateError::Attach { tenant: id, reason })
            }
            TenantState::Loading | TenantState::Attaching | TenantState::Stopping => Err(CreateError::Stopping),
        }
    }

    /// Takes a tenant that never was off the node.
    async fn put_away(self: &Arc<Registry>, tenant: &Arc<Tenant>) {
        let Ok(mut slot) = self.change(tenant.id) else { return };
        if !matches!(slot.slot(), Some(Slot::Attached(now)) if Arc::ptr_eq(now, tenant)) {
            return;
        }
        tenant.set_state(TenantState::Stopping);
        self.quiet(tenant, None).await;
        self.end(tenant).await;
        let (disk, home) = (self.shared.env.disk.clone(), TenantDirectory::of(&self.shared.config, tenant.id));
        if let Err(error) = self.shared.env.tasks.blocking("remove-tenant", move || disk.remove_dir_all(&home.path)).await {
            tracing::warn!(tenant = %tenant.id, %error, "what is left of a tenant that was not created is removed at the next start");
        }
        slot.set(None);
    }

    /// Creates a timeline, or finds that it exists with the same parameters. Returns once it is in remote storage.
    pub async fn create_timeline(&self, tenant: TenantId, spec: &CreateSpec) -> Result<Arc<TimelineHandle>, CreateError> {
        let tenant = self.tenant(tenant)?;
        let cancel = tenant.scope.cancel();
        let _at_work = cancel.run_until_cancelled(tenant.creations.read()).await.ok_or(CreateError::Stopping)?;
        tenant.check_active()?;
        let attachment = tenant.attachment().expect("an active tenant is attached");
        if attachment.mode() == AttachMode::Stale {
            return Err(CreateError::Stale(tenant.id));
        }
        let claim = match tenant.claim(spec.timeline, spec.origin.ancestor()) {
            Claim::Taken(claim) => claim,
            Claim::Creating => return Err(CreateError::AlreadyCreating(spec.timeline)),
            Claim::Exists(_) if crate::planted!(self.shared.env, "repeat-is-conflict") => {
                return Err(CreateError::TimelineExists(spec.timeline));
            }
            Claim::Exists(handle) => return same_parameters(handle, spec),
            Claim::Unusable(error) => return Err(error.into()),
        };
        let make = async {
            // Before, so that a node that lost the tenant long ago leaves nothing; and after, for then it is confirmed (RM-7).
            self.check_newest(attachment).await?;
            let timeline = self.make_timeline(&tenant, attachment, spec).await?;
            self.check_newest(attachment).await.map(|()| timeline)
        };
        let timeline = cancel.run_until_cancelled(make).await.ok_or(CreateError::Stopping)??;
        // From here on there are tasks, which a stop has to find: this is not cut off.
        let handle = self.start_timeline(timeline).await?;
        claim.finish(handle.clone());
        self.shared.env.probe.event("timeline-created", &|| format!("tenant={} timeline={}", tenant.id, spec.timeline));
        Ok(handle)
    }

    async fn check_newest(&self, attachment: &Attachment) -> Result<(), CreateError> {
        let holds = crate::planted!(self.shared.env, "creation-unconfirmed") || attachment.is_newest().await?;
        if holds { Ok(()) } else { Err(CreateError::Stale(attachment.tenant)) }
    }

    /// Makes it exist, without tasks. Cut off, it leaves what a repeated request or the next start finds.
    async fn make_timeline(&self, tenant: &Tenant, attachment: &Arc<Attachment>, spec: &CreateSpec) -> Result<Arc<Timeline>, CreateError> {
        match &spec.origin {
            Origin::Branch { ancestor, lsn, .. } => self.branch(tenant, attachment, spec.timeline, (*ancestor, *lsn)).await,
            Origin::Directory(directory) => {
                let options = ImportOptions { directory: directory.clone(), system_identifier: None };
                self.import(attachment, spec.timeline, options).await
            }
            Origin::Template(version) => {
                let directory = self.template(*version).await?;
                let options = ImportOptions { directory, system_identifier: Some(spec.timeline.system_identifier()) };
                self.import(attachment, spec.timeline, options).await
            }
        }
    }

    async fn branch(
        &self,
        tenant: &Tenant,
        attachment: &Arc<Attachment>,
        id: TimelineId,
        (ancestor, lsn): (TimelineId, Option<Lsn>),
    ) -> Result<Arc<Timeline>, CreateError> {
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
        if lsn < cutoff && !source.has_pinned(id, lsn) {
            return Err(CreateError::BelowCutoff { ancestor, lsn, cutoff });
        }
        // Whether the index gets stored is not known after an error: what the branch reads stays until the tenant is attached anew.
        source.pin(id, lsn).map_err(|_| CreateError::BelowCutoff { ancestor, lsn, cutoff: source.gc_cutoff_lsn() })?;
        source.wait_lsn(lsn).await.map_err(CreateError::Wait)?;
        let (last, prev) = source.last_record.lsn_and_prev();
        let index = IndexPart {
            version: INDEX_VERSION,
            layer_metadata: BTreeMap::new(),
            disk_consistent_lsn: lsn,
            prev_record_lsn: (last == lsn && prev.is_valid()).then_some(prev),
            ancestor_timeline: Some(ancestor),
            ancestor_lsn: lsn,
            latest_gc_cutoff_lsn: cutoff.min(lsn),
            initdb_lsn: source.identity.initdb_lsn,
            pg_version: source.identity.pg_version,
            system_identifier: id.system_identifier(),
            wal_segment_size: source.identity.wal_segment_size,
            hint_bits_logged: source.identity.hint_bits_logged,
            tli: 1,
            tli_history: Vec::new(),
            deleted_at: None,
            wal_source: None,
        };
        self.put_first_index(attachment, id, &index).await?;
        Ok(Timeline::open(&self.shared, attachment, id, &index, Some(Ancestor { timeline: source, lsn })))
    }

    /// The write that makes a timeline exist. An error leaves it unknown whether it does: the same request may be repeated.
    async fn put_first_index(&self, attachment: &Attachment, id: TimelineId, index: &IndexPart) -> Result<(), CreateError> {
        let directory = Timeline::directory(&self.shared.config, attachment.tenant, id);
        let disk = self.shared.env.disk.clone();
        let made = self.shared.env.tasks.blocking("make-timeline-directory", move || disk.create_dir_all(&directory)).await;
        made?;
        Ok(attachment.remote.put_index(&mut StoredIndex::unknown(attachment.tenant, id), index).await?)
    }

    async fn import(&self, attachment: &Arc<Attachment>, id: TimelineId, options: ImportOptions) -> Result<Arc<Timeline>, CreateError> {
        let (tenant, remote) = (attachment.tenant, &attachment.remote);
        let target = Timeline::directory(&self.shared.config, tenant, id);
        let (env, layer_bytes, into) = (self.shared.env.clone(), attachment.settings().compaction_target_size, target.clone());
        // Remains of an earlier try are in the way of nobody: the files are named by their content's range.
        let work = move || import::run(&*env.disk, &into, &options, layer_bytes);
        let imported = self.shared.env.tasks.blocking("import", work).await?;
        for layer in &imported.layers {
            remote.upload_layer(tenant, id, &layer.name, &target).await?;
        }
        let index = imported.index(attachment.generation());
        remote.put_index(&mut StoredIndex::unknown(tenant, id), &index).await?;
        Ok(Timeline::open(&self.shared, attachment, id, &index, None))
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
