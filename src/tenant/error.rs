//! What can go wrong with tenants and timelines, and what kind of fault each is.

use crate::config::ConfigError;
use crate::remote::RemoteError;
use crate::remote::manifest::ClaimError;
use crate::remote::upload::QueueClosed;
use crate::timeline::ReadError;
use crate::timeline::import::ImportError;
use crate::types::{Lsn, TenantId, TimelineId};

/// Kinds of errors; `http::status` turns them into statuses, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    NotAcceptable,
    Conflict,
    PreconditionFailed,
    Unavailable,
    Internal,
}

#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("tenant {0} was not found")]
    Tenant(TenantId),
    #[error("timeline {0}/{1} was not found")]
    Timeline(TenantId, TimelineId),
    #[error("tenant {0} is not yet active, or not any more; try again")]
    NotActive(TenantId),
    #[error("tenant {0} is just being changed by another request; try again")]
    Changing(TenantId),
    #[error("tenant {tenant} is broken: {reason}; mend the cause, then detach and attach it, or start the node again")]
    BrokenTenant { tenant: TenantId, reason: String },
    #[error("timeline {0}/{1} is being deleted")]
    Deleting(TenantId, TimelineId),
    #[error("the node is stopping; try again when it serves")]
    NodeStopping,
    #[error("the control plane has not said yet which tenants this node has; try again")]
    NotAssigned,
    #[error("timeline {tenant}/{timeline} is broken: {reason}; mend the cause and start the node again")]
    Broken { tenant: TenantId, timeline: TimelineId, reason: String },
}

impl LookupError {
    pub fn kind(&self) -> Kind {
        match self {
            LookupError::Tenant(_) | LookupError::Timeline(..) => Kind::NotFound,
            LookupError::BrokenTenant { .. } => Kind::Internal,
            LookupError::NotActive(_)
            | LookupError::Changing(_)
            | LookupError::Deleting(..)
            | LookupError::NodeStopping
            | LookupError::NotAssigned
            | LookupError::Broken { .. } => Kind::Unavailable,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("tenant {0} exists already")]
    TenantExists(TenantId),
    #[error("tenant {0} has timelines in remote storage: attach it instead")]
    TenantInStorage(TenantId),
    #[error("tenant {tenant} could not be created: {reason}; try again")]
    Attach { tenant: TenantId, reason: String },
    #[error("another node took tenant {0} over; ask that one")]
    Stale(TenantId),
    #[error("timeline {0} exists with other parameters")]
    TimelineExists(TimelineId),
    #[error("timeline {0} is being created by another request; try again")]
    AlreadyCreating(TimelineId),
    #[error("the node is stopping; try again when it serves")]
    Stopping,
    #[error("ancestor timeline {0} was not found")]
    AncestorMissing(TimelineId),
    #[error("invalid branch start lsn: {lsn} is less than the latest GC cutoff {cutoff} of timeline {ancestor}")]
    BelowCutoff { ancestor: TimelineId, lsn: Lsn, cutoff: Lsn },
    #[error(
        "invalid branch start lsn: {lsn} is less than the timeline ancestor lsn {floor} of timeline {ancestor}; branch from its ancestor instead"
    )]
    BelowAncestor { ancestor: TimelineId, lsn: Lsn, floor: Lsn },
    #[error("waiting for the branch point: {0}")]
    Wait(ReadError),
    #[error("import: {0}")]
    Import(#[from] ImportError),
    #[error("make a new cluster: {0}")]
    Template(String),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("local disk: {0}")]
    Disk(#[from] std::io::Error),
    #[error("open the WAL log: {0}")]
    Log(#[from] crate::wal::log::LogError),
}

impl CreateError {
    pub fn kind(&self) -> Kind {
        match self {
            CreateError::Lookup(error) => error.kind(),
            CreateError::TenantExists(_)
            | CreateError::TenantInStorage(_)
            | CreateError::TimelineExists(_)
            | CreateError::AlreadyCreating(_) => Kind::Conflict,
            CreateError::AncestorMissing(_) => Kind::NotFound,
            CreateError::BelowCutoff { .. } | CreateError::BelowAncestor { .. } => Kind::NotAcceptable,
            CreateError::Import(ImportError::Io { .. } | ImportError::Target { .. }) => Kind::Internal,
            CreateError::Import(_) => Kind::BadRequest,
            CreateError::Stale(_)
            | CreateError::Attach { .. }
            | CreateError::Wait(_)
            | CreateError::Remote(_)
            | CreateError::Claim(_)
            | CreateError::Stopping => Kind::Unavailable,
            CreateError::Template(_) | CreateError::Disk(_) | CreateError::Log(_) => Kind::Internal,
        }
    }
}

/// What can go wrong when a tenant or a timeline is changed or taken away.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("tenant {0} is missing: {1}")]
    TenantMissing(TenantId, LookupError),
    #[error("tenant {0} already exists, state: {1}")]
    TenantExists(TenantId, String),
    #[error("tenant {0} is not on this node")]
    NotHere(TenantId),
    #[error("tenant {0} is ignored: its directory exists; load it, or detach it with detach_ignored=true")]
    DirectoryExists(TenantId),
    #[error("there is nothing of tenant {0} on the disk to load; attach it")]
    NothingToLoad(TenantId),
    #[error("tenant {tenant} cannot be deleted while it is {state}")]
    NotDeletable { tenant: TenantId, state: &'static str },
    #[error("tenant {0} is being deleted already; poll until it is gone")]
    AlreadyDeletingTenant(TenantId),
    #[error("timeline {0}/{1} is being deleted already; poll until it is gone")]
    AlreadyDeleting(TenantId, TimelineId),
    #[error("timeline {0}/{1} is still being created; try again")]
    StillCreating(TenantId, TimelineId),
    #[error("cannot delete timeline which has child timelines: {0:?}; delete them first")]
    HasChildren(Vec<String>),
    #[error("another node has tenant {0} in a newer generation; ask that one")]
    Superseded(TenantId),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("local disk: {0}")]
    Disk(#[from] std::io::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    BadRequest(String),
    #[error("flush before the change: {0}")]
    Flush(QueueClosed),
}

impl ChangeError {
    pub fn kind(&self) -> Kind {
        match self {
            ChangeError::Lookup(error) => error.kind(),
            ChangeError::NotHere(_) => Kind::NotFound,
            ChangeError::TenantExists(..)
            | ChangeError::AlreadyDeletingTenant(_)
            | ChangeError::StillCreating(..)
            | ChangeError::AlreadyDeleting(..) => Kind::Conflict,
            ChangeError::TenantMissing(_, LookupError::Tenant(_)) | ChangeError::HasChildren(_) | ChangeError::NotDeletable { .. } => {
                Kind::PreconditionFailed
            }
            ChangeError::TenantMissing(_, error) => error.kind(),
            ChangeError::Config(_) | ChangeError::BadRequest(_) => Kind::BadRequest,
            ChangeError::Superseded(_) | ChangeError::Flush(_) | ChangeError::Remote(_) => Kind::Unavailable,
            ChangeError::DirectoryExists(_) | ChangeError::NothingToLoad(_) | ChangeError::Disk(_) => Kind::Internal,
        }
    }
}
