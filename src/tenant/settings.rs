//! Changing the settings of a tenant while it runs.

use super::delete::check_newest;
use super::error::ChangeError;
use super::registry::Registry;
use super::state::Tenant;
use crate::config::TenantOverrides;
use crate::remote::Manifest;
use std::sync::Arc;

impl Registry {
    /// Gives a tenant other settings of its own, in place of all that it had; returns once they are stored.
    pub async fn set_overrides(&self, tenant: &Arc<Tenant>, overrides: TenantOverrides) -> Result<(), ChangeError> {
        let attachment = tenant.attachment().expect("an active tenant is attached");
        let mut stored = tenant.manifest.lock().await;
        let stored = stored.as_mut().expect("an active tenant has its manifest");
        let content = Manifest { settings: overrides.as_map().clone(), ..stored.content.clone() };
        check_newest(attachment).await?;
        attachment.remote.put_manifest(stored, content).await?;
        check_newest(attachment).await?;
        attachment.set_settings(overrides.over(&self.shared.config.tenant));
        tenant.set_overrides(overrides);
        self.shared.env.probe.event("tenant-settings", &|| format!("tenant={}", tenant.id));
        Ok(())
    }
}
