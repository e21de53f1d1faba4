//! Handlers of tenants: what they are, their settings, and how this node has them.

use super::extract::{Answer, InPath, InQuery, MaybeSent, Object, Sent, Shared, finish, take, take_needed};
use super::status::ApiError;
use crate::config::{TenantConfig, TenantOverrides};
use crate::remote::AttachMode;
use crate::tenant::detach::Wanted;
use crate::tenant::eviction::Evicted;
use crate::tenant::{LookupError, Registry, Tenant, TenantState};
use crate::types::{Generation, TenantId};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

#[derive(Serialize)]
pub struct TenantInfo {
    id: TenantId,
    state: Value,
    attachment_status: Value,
    current_physical_size: Option<u64>,
    /// Absent while the tenant comes up.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u32>,
}

fn tenant_info(tenant: &Tenant, with_size: bool) -> TenantInfo {
    let size = || tenant.timelines().iter().map(|t| t.timeline.physical_size()).sum();
    let (state, status) = match tenant.state() {
        TenantState::Loading => (json!({ "slug": "Loading" }), json!({ "slug": "attached" })),
        TenantState::Attaching => (json!({ "slug": "Attaching" }), json!({ "slug": "maybe" })),
        TenantState::Active => (json!({ "slug": "Active" }), json!({ "slug": "attached" })),
        TenantState::Stopping => (json!({ "slug": "Stopping" }), json!({ "slug": "maybe" })),
        TenantState::Broken(reason) => (
            json!({ "slug": "Broken", "data": { "reason": reason, "backtrace": "" } }),
            json!({ "slug": "failed", "data": { "reason": reason } }),
        ),
    };
    TenantInfo {
        id: tenant.id,
        state,
        attachment_status: status,
        current_physical_size: with_size.then(size),
        generation: tenant.attachment().map(|attachment| attachment.generation().0),
    }
}

pub async fn list(State(registry): Shared) -> Answer<Vec<TenantInfo>> {
    registry.check_assigned()?;
    Ok(Json(registry.tenants().iter().map(|t| tenant_info(t, false)).collect()))
}

pub async fn get(State(registry): Shared, InPath(id): InPath<TenantId>) -> Answer<TenantInfo> {
    Ok(Json(tenant_info(&*registry.any_tenant(id)?, true)))
}

fn settings(registry: &Registry, sent: Map<String, Value>) -> Result<TenantOverrides, ApiError> {
    TenantOverrides::parse(sent, &registry.shared.config.tenant).map_err(ApiError::bad_request)
}

type Fields = Sent<Map<String, Value>>;

/// With a control plane only that says in which generation a tenant is attached.
fn needed_generation(registry: &Registry, given: Option<Generation>) -> Result<Option<Generation>, ApiError> {
    match given {
        None if registry.shared.config.control_plane_api.is_some() => {
            Err(ApiError::bad_request("generation attribute missing: this node has a control plane, which gives one"))
        }
        given => Ok(given),
    }
}

pub async fn create(State(registry): Shared, Sent(mut request): Fields) -> Result<(StatusCode, Json<TenantId>), ApiError> {
    let id: TenantId = take_needed(&mut request, "new_tenant_id")?;
    let given = needed_generation(&registry, asked(take(&mut request, "generation")?)?)?;
    // Without a control plane it says nothing: see docs/api.
    let generation = given.filter(|_| registry.shared.config.control_plane_api.is_some());
    let settings = settings(&registry, request)?;
    let owned = registry.clone();
    finish(&registry, "create-tenant", async move { owned.create_tenant(id, settings, generation).await }).await?;
    Ok((StatusCode::CREATED, Json(id)))
}

/// Generations above leave room for what follows: every attachment and every start of a node needs one more.
const GENERATION_MAX: Generation = Generation(u32::MAX / 2);

/// A generation that a client may ask for.
fn asked(generation: Option<Generation>) -> Result<Option<Generation>, ApiError> {
    match generation {
        Some(generation) if generation > GENERATION_MAX => {
            let reason = format!("generation {} is too high: at most {}", generation.0, GENERATION_MAX.0);
            Err(ApiError::bad_request(reason))
        }
        allowed => Ok(allowed),
    }
}

#[derive(Serialize)]
pub struct Settings {
    tenant_specific_overrides: TenantOverrides,
    effective_config: TenantConfig,
}

pub async fn get_settings(State(registry): Shared, InPath(id): InPath<TenantId>) -> Answer<Settings> {
    let tenant = registry.any_tenant(id)?;
    let Some(overrides) = tenant.overrides() else {
        // It is broken, or on its way up, perhaps there by now.
        tenant.check_active()?;
        return Err(LookupError::NotActive(tenant.id).into());
    };
    let effective_config = overrides.over(&registry.shared.config.tenant);
    Ok(Json(Settings { tenant_specific_overrides: overrides, effective_config }))
}

/// Takes the place of all settings that the tenant had of its own.
pub async fn put_settings(State(registry): Shared, Sent(mut request): Fields) -> Answer<()> {
    let tenant = registry.tenant(take_needed(&mut request, "tenant_id")?)?;
    let settings = settings(&registry, request)?;
    let owned = registry.clone();
    finish(&registry, "set-tenant-settings", async move { owned.set_overrides(&tenant, settings).await }).await?;
    Ok(Json(()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    #[serde(default, deserialize_with = "present")]
    config: Option<Map<String, Value>>,
    #[serde(default)]
    generation: Option<Generation>,
}

/// `null` is not as good as nothing here: whoever sends it has lost the settings.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Map<String, Value>>, D::Error> {
    Map::deserialize(d).map(Some)
}

pub async fn attach(
    State(registry): Shared,
    InPath(id): InPath<TenantId>,
    MaybeSent(request): MaybeSent<AttachRequest>,
) -> Result<(StatusCode, Json<()>), ApiError> {
    let request = request.unwrap_or(AttachRequest { config: None, generation: None });
    let settings = settings(&registry, request.config.unwrap_or_default())?;
    let owned = registry.clone();
    let generation = needed_generation(&registry, asked(request.generation)?)?;
    finish(&registry, "attach-request", async move { owned.attach(id, settings, generation).await }).await?;
    Ok((StatusCode::ACCEPTED, Json(())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachQuery {
    #[serde(default)]
    detach_ignored: bool,
}

pub async fn detach(State(registry): Shared, InPath(id): InPath<TenantId>, InQuery(query): InQuery<DetachQuery>) -> Answer<()> {
    let ignored = query.detach_ignored;
    let owned = registry.clone();
    finish(&registry, "detach-tenant", async move { owned.detach(id, ignored).await }).await?;
    Ok(Json(()))
}

pub async fn ignore(State(registry): Shared, InPath(id): InPath<TenantId>) -> Answer<()> {
    let owned = registry.clone();
    finish(&registry, "ignore-tenant", async move { owned.ignore(id).await }).await?;
    Ok(Json(()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    #[serde(default)]
    generation: Option<Generation>,
}

pub async fn load(
    State(registry): Shared,
    InPath(id): InPath<TenantId>,
    MaybeSent(request): MaybeSent<LoadRequest>,
) -> Result<(StatusCode, Json<()>), ApiError> {
    let generation = needed_generation(&registry, asked(request.and_then(|request| request.generation))?)?;
    let owned = registry.clone();
    finish(&registry, "load-tenant", async move { owned.load_tenant(id, generation).await }).await?;
    Ok((StatusCode::ACCEPTED, Json(())))
}

pub async fn delete(State(registry): Shared, InPath(id): InPath<TenantId>) -> Result<(StatusCode, Json<()>), ApiError> {
    let owned = registry.clone();
    finish(&registry, "delete-tenant-request", async move { owned.delete_tenant(id).await }).await?;
    Ok((StatusCode::ACCEPTED, Json(())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvictionRequest {
    evict_bytes: u64,
}

pub async fn evict(State(registry): Shared, Sent(request): Sent<EvictionRequest>) -> Answer<Evicted> {
    let target = request.evict_bytes;
    let owned = registry.clone();
    Ok(Json(finish(&registry, "evict", async move { Ok::<_, LookupError>(owned.evict(target).await) }).await?))
}

#[derive(Deserialize)]
enum Mode {
    AttachedSingle,
    AttachedMulti,
    AttachedStale,
    Secondary,
    Detached,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct SecondaryConf {
    warm: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocationRequest {
    #[serde(default)]
    tenant_id: Option<TenantId>,
    mode: Mode,
    #[serde(default)]
    generation: Option<Generation>,
    #[serde(default)]
    secondary_conf: Option<Object<SecondaryConf>>,
    #[serde(default)]
    shard_number: u8,
    #[serde(default)]
    shard_count: u8,
    /// Means nothing for a tenant in one piece.
    #[serde(default, rename = "shard_stripe_size")]
    _shard_stripe_size: Option<u32>,
    #[serde(default)]
    tenant_conf: Option<Map<String, Value>>,
}

impl LocationRequest {
    fn wanted(&self, id: TenantId) -> Result<Wanted, ApiError> {
        if self.tenant_id.is_some_and(|other| other != id) {
            return Err(ApiError::bad_request("tenant_id differs from the tenant in the path"));
        }
        if self.shard_number > 0 || self.shard_count > 1 {
            return Err(ApiError::bad_request("a tenant has one shard here: shard_number 0, shard_count 0 or 1"));
        }
        let generation = asked(self.generation)?;
        let mode = match self.mode {
            Mode::AttachedSingle => AttachMode::Single,
            Mode::AttachedMulti => AttachMode::Multi,
            Mode::AttachedStale => AttachMode::Stale,
            Mode::Secondary if generation.is_some() => {
                return Err(ApiError::bad_request("generation must be left out for the mode Secondary"));
            }
            Mode::Secondary => return Ok(Wanted::Secondary { warm: self.secondary_conf.as_ref().is_some_and(|Object(conf)| conf.warm) }),
            Mode::Detached => return Ok(Wanted::Detached),
        };
        match generation {
            Some(generation) => Ok(Wanted::Attached { mode, generation }),
            None => Err(ApiError::bad_request("generation is missing: attached modes need one")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocationQuery {
    #[serde(default)]
    flush_ms: Option<u32>,
}

pub async fn put_location(
    State(registry): Shared,
    InPath(id): InPath<TenantId>,
    InQuery(query): InQuery<LocationQuery>,
    Sent(location): Sent<LocationRequest>,
) -> Answer<()> {
    let flush = query.flush_ms.map(|ms| Duration::from_millis(ms.into()));
    let wanted = location.wanted(id)?;
    let settings = settings(&registry, location.tenant_conf.unwrap_or_default())?;
    let owned: Arc<Registry> = registry.clone();
    finish(&registry, "set-location", async move { owned.set_location(id, wanted, settings, flush).await }).await?;
    Ok(Json(()))
}
