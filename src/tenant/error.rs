//! What can go wrong with tenants and timelines, and what kind of fault each is.

use crate::remote::RemoteError;
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
    Unavailable,
    Internal,
}

#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("tenant {0} was not found")]
    Tenant(TenantId),
    #[error("timeline {0}/{1} was not found")]
    Timeline(TenantId, TimelineId),
    #[error("tenant {0} is still being loaded; try again")]
    Loading(TenantId),
    #[error("timeline {tenant}/{timeline} is broken: {reason}; mend the cause and start the node again")]
    Broken { tenant: TenantId, timeline: TimelineId, reason: String },
}

impl LookupError {
    pub fn kind(&self) -> Kind {
        match self {
            LookupError::Tenant(_) | LookupError::Timeline(..) => Kind::NotFound,
            LookupError::Loading(_) | LookupError::Broken { .. } => Kind::Unavailable,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("tenant {0} exists already")]
    TenantExists(TenantId),
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
    #[error("local disk: {0}")]
    Disk(#[from] std::io::Error),
    #[error("open the WAL log: {0}")]
    Log(#[from] crate::wal::log::LogError),
}

impl CreateError {
    pub fn kind(&self) -> Kind {
        match self {
            CreateError::Lookup(error) => error.kind(),
            CreateError::TenantExists(_) | CreateError::TimelineExists(_) | CreateError::AlreadyCreating(_) => Kind::Conflict,
            CreateError::AncestorMissing(_) => Kind::NotFound,
            CreateError::BelowCutoff { .. } | CreateError::BelowAncestor { .. } => Kind::NotAcceptable,
            CreateError::Import(ImportError::Io { .. } | ImportError::Target { .. }) => Kind::Internal,
            CreateError::Import(_) => Kind::BadRequest,
            CreateError::Wait(_) | CreateError::Remote(_) | CreateError::Stopping => Kind::Unavailable,
            CreateError::Template(_) | CreateError::Disk(_) | CreateError::Log(_) => Kind::Internal,
        }
    }
}
