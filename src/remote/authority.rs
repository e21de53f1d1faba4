//! Who may say that a generation is the newest: remote storage itself, or a control plane.

use super::client::{RemoteClient, RemoteError};
use crate::control_plane::{ControlPlane, ControlPlaneError};
use crate::types::{Generation, TenantId};
use async_trait::async_trait;
use std::collections::BTreeSet;

/// Nobody said whether a generation is the newest.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
}

/// Knows the newest generation of each tenant.
///
/// An answer is as new as the call: a generation that is valid in it was the newest at some time after the call began.
#[async_trait]
pub trait Authority: Send + Sync {
    /// Those of the attachments that are the newest of their tenants. An error says nothing of any.
    async fn validate(&self, attachments: &[(TenantId, Generation)]) -> Result<BTreeSet<TenantId>, AuthorityError>;
}

/// Remote storage: each attachment stored its manifest there before anything else (RM-5).
pub struct StoreAuthority(pub RemoteClient);

#[async_trait]
impl Authority for StoreAuthority {
    async fn validate(&self, attachments: &[(TenantId, Generation)]) -> Result<BTreeSet<TenantId>, AuthorityError> {
        let mut valid = BTreeSet::new();
        for (tenant, generation) in attachments {
            if self.0.attachments(*tenant).await?.last() == Some(generation) {
                valid.insert(*tenant);
            }
        }
        Ok(valid)
    }
}

/// A control plane, and remote storage after it: either may know of a newer generation. A control plane that came back from an old
/// copy, or a node that nobody told of it, is seen by the manifests.
pub struct ControlPlaneAuthority {
    pub control_plane: ControlPlane,
    pub store: StoreAuthority,
}

#[async_trait]
impl Authority for ControlPlaneAuthority {
    async fn validate(&self, attachments: &[(TenantId, Generation)]) -> Result<BTreeSet<TenantId>, AuthorityError> {
        let valid = self.control_plane.validate(attachments).await?;
        let left: Vec<_> = attachments.iter().copied().filter(|(tenant, _)| valid.contains(tenant)).collect();
        self.store.validate(&left).await
    }
}
