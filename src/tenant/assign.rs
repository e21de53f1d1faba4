//! Which tenants a start brings up when there is a control plane: those that it says, or in an emergency those that it last said.
//!
//! ```text
//! answer, location.json, names in remote storage -> choose (pure) -> location.json -> slots, attachments
//! ```
//!
//! Invariant CP-2: a tenant is attached at a start only in a generation that the control plane gave to this node: at this start, and
//! then above the one before; or, in an emergency, the last that it gave. It is durable in `location.json` before anything else.

use super::attach::{Attach, AttachError, LoadError};
use super::location::{Found, Location, TenantDirectory, local_tenants};
use super::registry::{Registry, Slot};
use super::state::{Tenant, TenantState};
use crate::config::{Config, TenantOverrides};
use crate::control_plane::Assigned;
use crate::io_abstraction::Disk;
use crate::remote::Attachment;
use crate::remote::manifest::StoredManifest;
use crate::types::{AttachMode, Generation, TenantId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// Where a start knows its tenants from.
#[derive(Debug, Clone)]
pub enum Assignment {
    /// The control plane has answered.
    Answered(BTreeMap<TenantId, Assigned>),
    /// It is not asked: the generations that are on the disk.
    LastKnown,
}

/// What the local disk has of a tenant.
#[derive(Debug, PartialEq, Eq)]
enum Local {
    Found(Found),
    /// `location.json` cannot be read: why.
    Damaged(String),
}

/// What a start does with a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plan {
    Attach {
        mode: AttachMode,
        generation: Generation,
        /// This node had the tenant in the same generation before.
        resume: bool,
    },
    /// The files stay, and nothing is served.
    Keep {
        warm: bool,
        /// It was attached here: another node has it now, or none.
        lost: bool,
    },
    Broken(String),
    /// Nothing is left of it in remote storage.
    Remove,
    PassOver,
}

/// What to do with a tenant that the control plane has answered about: `assigned` is what it said. `stored`: remote storage knows it.
fn choose(local: &Local, assigned: Option<Assigned>, stored: bool) -> Plan {
    use Assigned::{Attached, Secondary};
    match (local, assigned) {
        (Local::Found(Found::Ignored), _) => Plan::PassOver,
        // It was deleted, here or elsewhere, or never came to be.
        (_, None) if !stored => Plan::Remove,
        (Local::Found(Found::Nothing), None) => Plan::PassOver,
        (Local::Found(Found::Here(Location::Secondary { warm })), None | Some(Secondary)) => Plan::Keep { warm: *warm, lost: false },
        (Local::Found(Found::Nothing), Some(Secondary)) => Plan::Keep { warm: false, lost: false },
        (_, None | Some(Secondary)) => Plan::Keep { warm: false, lost: true },
        (Local::Found(Found::Here(Location::Attached { generation: Some(last), .. })), Some(Attached { generation, .. }))
            if generation <= *last =>
        {
            Plan::Broken(format!(
                "the control plane gave generation {}, and this node had generation {} from it before: if it came back from an old copy, \
                 raise the tenant's generation there, then start the node again",
                generation.0, last.0
            ))
        }
        (_, Some(Attached { mode, generation })) => Plan::Attach { mode, generation, resume: false },
    }
}

/// What to do with a tenant in an emergency.
fn choose_last_known(local: &Local) -> Plan {
    match local {
        Local::Found(Found::Nothing | Found::Ignored) => Plan::PassOver,
        Local::Found(Found::Here(Location::Secondary { warm })) => Plan::Keep { warm: *warm, lost: false },
        Local::Found(Found::Here(Location::Attached { access, generation: Some(generation) })) => {
            Plan::Attach { mode: *access, generation: *generation, resume: true }
        }
        Local::Found(Found::Here(Location::Attached { generation: None, .. })) => Plan::Broken(
            "this node never had it from a control plane, and knows no generation to go on in: start without control_plane_emergency_mode"
                .to_string(),
        ),
        Local::Damaged(reason) => Plan::Broken(format!("location.json: {reason}; start without control_plane_emergency_mode")),
    }
}

/// Looks at the disk, and brings it to what the start is going to do. May be repeated.
fn settle(
    disk: &dyn Disk,
    config: &Config,
    assignment: &Assignment,
    stored: &BTreeSet<TenantId>,
) -> Result<Vec<(TenantId, Plan)>, LoadError> {
    let directory = config.data_dir.join("tenants").display().to_string();
    let failed = |error| LoadError::Local { directory: directory.clone(), error };
    let local = local_tenants(disk, config).map_err(failed)?;
    // As for a start without a control plane: what is here may be the only copy of WAL that was acknowledged.
    if stored.is_empty() && !local.is_empty() {
        return Err(LoadError::WrongStorage { directory, local: local.len() });
    }
    let mut ids: BTreeSet<TenantId> = local.into_iter().collect();
    if let Assignment::Answered(assigned) = assignment {
        ids.extend(assigned.keys());
    }
    let mut plans = Vec::new();
    for id in ids {
        let home = TenantDirectory::of(config, id);
        let found = match home.look(disk) {
            Ok(found) => Local::Found(found),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Local::Damaged(error.to_string()),
            Err(error) => return Err(failed(error)),
        };
        let plan = match assignment {
            Assignment::Answered(assigned) => choose(&found, assigned.get(&id).copied(), stored.contains(&id)),
            Assignment::LastKnown => choose_last_known(&found),
        };
        let wanted = match &plan {
            Plan::Attach { mode, generation, .. } => Some(Location::Attached { access: *mode, generation: Some(*generation) }),
            Plan::Keep { warm, .. } => Some(Location::Secondary { warm: *warm }),
            Plan::Broken(_) | Plan::Remove | Plan::PassOver => None,
        };
        match wanted {
            Some(location) if found != Local::Found(Found::Here(location)) => home.store(disk, location).map_err(failed)?,
            None if plan == Plan::Remove => disk.remove_dir_all(&home.path).map_err(failed)?,
            _ => {}
        }
        plans.push((id, plan));
    }
    Ok(plans)
}

impl Registry {
    /// Begins to bring up the tenants of this node; gives what it began with. After an error nothing has begun, and it may be
    /// repeated.
    pub async fn load_assigned(self: &Arc<Registry>, assignment: Assignment) -> Result<Vec<Arc<Tenant>>, LoadError> {
        let stored: BTreeSet<TenantId> = self.shared.remote.list_tenants().await?.into_iter().collect();
        let shared = self.shared.clone();
        let work = move || settle(&*shared.env.disk, &shared.config, &assignment, &stored);
        let plans = self.shared.env.tasks.blocking("assign-tenants", work).await?;
        let mut loading = Vec::new();
        for (id, plan) in plans {
            match plan {
                Plan::Attach { mode, generation, resume } => {
                    let tenant = self.insert(id, TenantState::Loading);
                    let how = Attach { mode, generation: Some(generation), settings: None, patient: true, resume };
                    self.bring_up(&tenant, how, None);
                    loading.push(tenant);
                }
                Plan::Keep { warm, lost } => {
                    if lost {
                        let path = TenantDirectory::of(&self.shared.config, id).path;
                        tracing::warn!(tenant = %id, path = %path.display(),
                            "by the control plane this node does not attach the tenant any more; its files are kept until it is detached");
                    }
                    self.put(id, Slot::Secondary { warm });
                }
                Plan::Broken(reason) => {
                    tracing::error!(tenant = %id, reason, "the tenant cannot be served");
                    self.insert(id, TenantState::Broken(reason));
                }
                Plan::Remove | Plan::PassOver => {}
            }
        }
        Ok(loading)
    }

    fn insert(&self, id: TenantId, state: TenantState) -> Arc<Tenant> {
        let tenant = Tenant::new(id, state, None, &self.shared.env.tasks);
        self.put(id, Slot::Attached(tenant.clone()));
        tenant
    }

    /// Goes on in a generation whose manifest this node stored in an earlier life; false: it is not stored, and has to be claimed.
    ///
    /// The manifest is taken for ours because the control plane gave the generation to nobody else.
    pub(super) async fn resume(&self, tenant: &Tenant, attach: &Attach) -> Result<bool, AttachError> {
        let Some((newest, manifest)) = self.shared.remote.newest_manifest(tenant.id).await? else { return Ok(false) };
        if attach.generation != Some(newest) {
            return Ok(false);
        }
        let node = &self.shared.config.tenant;
        let overrides = TenantOverrides::parse(manifest.settings.clone(), node)?;
        let remote = self.shared.remote.in_generation(newest);
        let attachment = Attachment::new(tenant.id, remote, self.shared.validation.clone(), attach.mode, overrides.over(node));
        *tenant.manifest.lock().await = Some(StoredManifest::found(manifest));
        tenant.set_overrides(overrides);
        tenant.set_attachment(attachment);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: Generation = Generation(7);

    fn attached(generation: u32) -> Option<Assigned> {
        Some(Assigned::Attached { mode: AttachMode::Multi, generation: Generation(generation) })
    }

    #[test]
    fn what_a_start_does_with_a_tenant() {
        let here = |location| Local::Found(Found::Here(location));
        let had = || here(Location::Attached { access: AttachMode::Single, generation: Some(LAST) });
        let attach = |generation| Plan::Attach { mode: AttachMode::Multi, generation: Generation(generation), resume: false };
        let keep = |warm, lost| Plan::Keep { warm, lost };
        let damaged = || Local::Damaged("x".to_string());
        let (nothing, ignored) = (|| Local::Found(Found::Nothing), || Local::Found(Found::Ignored));
        let secondary = || here(Location::Secondary { warm: true });
        for (local, said, stored, wanted) in [
            (had(), attached(8), true, attach(8)),
            (here(Location::ATTACHED), attached(1), true, attach(1)),
            (nothing(), attached(1), true, attach(1)),
            (nothing(), attached(1), false, attach(1)),
            (secondary(), attached(1), true, attach(1)),
            (damaged(), attached(1), true, attach(1)),
            (ignored(), attached(8), true, Plan::PassOver),
            (had(), None, true, keep(false, true)),
            (damaged(), None, true, keep(false, true)),
            (had(), Some(Assigned::Secondary), true, keep(false, true)),
            (secondary(), None, true, keep(true, false)),
            (secondary(), Some(Assigned::Secondary), true, keep(true, false)),
            (nothing(), Some(Assigned::Secondary), true, keep(false, false)),
            (had(), None, false, Plan::Remove),
            (ignored(), None, false, Plan::PassOver),
        ] {
            assert_eq!(choose(&local, said, stored), wanted, "{local:?} {said:?} {stored}");
        }
        for generation in [6, 7] {
            let plan = choose(&had(), attached(generation), true);
            assert!(matches!(&plan, Plan::Broken(reason) if reason.contains("generation 7")), "{plan:?}");
        }
        let resumed = Plan::Attach { mode: AttachMode::Single, generation: LAST, resume: true };
        assert_eq!(choose_last_known(&had()), resumed);
        assert_eq!(choose_last_known(&secondary()), keep(true, false));
        assert_eq!(choose_last_known(&ignored()), Plan::PassOver);
        for local in [here(Location::ATTACHED), damaged()] {
            assert!(matches!(choose_last_known(&local), Plan::Broken(_)), "{local:?}");
        }
    }
}
