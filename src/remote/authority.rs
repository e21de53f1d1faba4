//! Who may say that a generation is the newest: remote storage itself, or a control plane.

use super::client::{RemoteClient, RemoteError};
use crate::types::{Generation, TenantId};
use async_trait::async_trait;
use std::collections::BTreeSet;

/// Knows the newest generation of each tenant.
///
/// An answer is as new as the call: a generation that is valid in it was the newest at some time after the call began.
#[async_trait]
pub trait Authority: Send + Sync {
    /// Those of the attachments that are the newest of their tenants. An error says nothing of any.
    async fn validate(&self, attachments: &[(TenantId, Generation)]) -> Result<BTreeSet<TenantId>, RemoteError>;
}

/// Remote storage: each attachment stored its manifest there before anything else (RM-5).
pub struct StoreAuthority(pub RemoteClient);

#[async_trait]
impl Authority for StoreAuthority {
    async fn validate(&self, attachments: &[(TenantId, Generation)]) -> Result<BTreeSet<TenantId>, RemoteError> {
        let mut valid = BTreeSet::new();
        for (tenant, generation) in attachments {
            if self.0.attachments(*tenant).await?.last() == Some(generation) {
                valid.insert(*tenant);
            }
        }
        Ok(valid)
    }
}
