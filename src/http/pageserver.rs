//! Handlers of the pageserver's part of the API.

use super::status::ApiError;
use crate::pg::version::PgVersion;
use crate::replication::connstr::ConnStr;
use crate::tenant::{CreateSpec, Kind, Origin, Registry, Tenant, TimelineHandle};
use crate::types::{Lsn, TenantId, TimelineId};
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

pub(super) type Shared = State<Arc<Registry>>;
pub(super) type Answer<T> = Result<Json<T>, ApiError>;

pub(super) fn parse<T: FromStr>(text: &str) -> Result<T, ApiError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(ApiError::bad_request)
}

fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, ApiError> {
    match body {
        Ok(Json(value)) => Ok(value),
        Err(rejection) => Err(ApiError::bad_request(rejection.body_text())),
    }
}

pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(query)| query).map_err(|rejection| ApiError::bad_request(rejection.body_text()))
}

pub async fn status(State(_): Shared) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "id": 1 }))
}

#[derive(Serialize)]
pub struct TenantInfo {
    id: TenantId,
    state: serde_json::Value,
    attachment_status: serde_json::Value,
    current_physical_size: Option<u64>,
}

fn tenant_info(tenant: &Tenant, with_size: bool) -> TenantInfo {
    let size = || tenant.timelines().iter().map(|t| t.timeline.physical_size()).sum();
    TenantInfo {
        id: tenant.id,
        state: serde_json::json!({ "slug": "Active" }),
        attachment_status: serde_json::json!({ "slug": "attached" }),
        current_physical_size: with_size.then(size),
    }
}

pub async fn list_tenants(State(registry): Shared) -> Json<Vec<TenantInfo>> {
    Json(registry.tenants().iter().map(|t| tenant_info(t, false)).collect())
}

pub async fn get_tenant(State(registry): Shared, Path(tenant): Path<String>) -> Answer<TenantInfo> {
    Ok(Json(tenant_info(&*registry.tenant(parse(&tenant)?)?, true)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    new_tenant_id: TenantId,
}

pub async fn create_tenant(
    State(registry): Shared,
    request: Result<Json<CreateTenant>, JsonRejection>,
) -> Result<(StatusCode, Json<TenantId>), ApiError> {
    let id = body(request)?.new_tenant_id;
    let owned = registry.clone();
    finish(&registry, "create-tenant", async move { owned.create_tenant(id).await }).await?;
    Ok((StatusCode::CREATED, Json(id)))
}

/// Runs a change to its end even if the client hangs up: it finishes, and a repeat of the request finds the result.
async fn finish<T: Send + 'static, E: Send + 'static>(
    registry: &Registry,
    name: &str,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, ApiError>
where
    ApiError: From<E>,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    registry.shared.env.tasks.spawn(name, async move {
        // Nobody listens when the client has gone.
        let _ = sender.send(work.await);
    });
    let done = receiver.await.map_err(|_| ApiError::new(Kind::Unavailable, "the node is shutting down"))?;
    Ok(done?)
}

#[derive(Serialize)]
pub struct TimelineInfo {
    tenant_id: TenantId,
    timeline_id: TimelineId,
    ancestor_timeline_id: Option<TimelineId>,
    ancestor_lsn: Option<Lsn>,
    last_record_lsn: Lsn,
    prev_record_lsn: Lsn,
    latest_gc_cutoff_lsn: Lsn,
    disk_consistent_lsn: Lsn,
    remote_consistent_lsn: Lsn,
    remote_consistent_lsn_visible: Lsn,
    initdb_lsn: Lsn,
    current_logical_size: Option<u64>,
    current_physical_size: u64,
    resident_physical_size: u64,
    pg_version: u32,
    system_identifier: u64,
    wal_source_connstr: Option<String>,
    last_received_msg_lsn: Lsn,
    walreceiver_status: String,
    state: &'static str,
}

fn timeline_info(handle: &TimelineHandle, logical_size: Option<u64>) -> TimelineInfo {
    let timeline = &handle.timeline;
    let (last, prev) = timeline.last_record.lsn_and_prev();
    let ancestor = timeline.ancestor.as_ref();
    let remote = timeline.remote_consistent_lsn();
    // The password stays here: the parsed form does not print it.
    let source = timeline.wal_source().and_then(|s| s.parse::<ConnStr>().ok()).map(|s| s.to_string());
    TimelineInfo {
        tenant_id: timeline.identity.tenant,
        timeline_id: timeline.identity.timeline,
        ancestor_timeline_id: ancestor.map(|a| a.timeline.identity.timeline),
        ancestor_lsn: ancestor.map(|a| a.lsn),
        last_record_lsn: last,
        prev_record_lsn: prev,
        latest_gc_cutoff_lsn: timeline.gc_cutoff_lsn(),
        disk_consistent_lsn: timeline.disk_consistent_lsn(),
        remote_consistent_lsn: remote,
        remote_consistent_lsn_visible: remote,
        initdb_lsn: timeline.identity.initdb_lsn,
        current_logical_size: logical_size,
        current_physical_size: timeline.physical_size(),
        resident_physical_size: timeline.resident_size(),
        pg_version: timeline.identity.pg_version.major(),
        system_identifier: timeline.identity.system_identifier,
        wal_source_connstr: source,
        last_received_msg_lsn: handle.wal.log.written_lsn(),
        walreceiver_status: timeline.receiver_status.lock().clone(),
        state: "Active",
    }
}

/// A timeline that exists and could not be loaded.
#[derive(Serialize)]
pub struct BrokenTimelineInfo {
    tenant_id: TenantId,
    timeline_id: TimelineId,
    state: &'static str,
    reason: String,
}

#[derive(Serialize)]
#[serde(untagged)]
pub enum AnyTimelineInfo {
    Active(Box<TimelineInfo>),
    Broken(BrokenTimelineInfo),
}

pub async fn list_timelines(State(registry): Shared, Path(tenant): Path<String>) -> Answer<Vec<AnyTimelineInfo>> {
    let tenant = registry.tenant(parse(&tenant)?)?;
    let active = tenant.timelines().into_iter().map(|t| AnyTimelineInfo::Active(Box::new(timeline_info(&t, None))));
    let broken =
        |(timeline_id, reason)| AnyTimelineInfo::Broken(BrokenTimelineInfo { tenant_id: tenant.id, timeline_id, state: "Broken", reason });
    Ok(Json(active.chain(tenant.broken().into_iter().map(broken)).collect()))
}

pub(super) fn find(registry: &Registry, tenant: &str, timeline: &str) -> Result<Arc<TimelineHandle>, ApiError> {
    Ok(registry.timeline(parse(tenant)?, parse(timeline)?)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineQuery {
    /// Computes the logical size exactly, at the last record.
    #[serde(default, rename = "include-non-incremental-logical-size")]
    exact_logical_size: bool,
}

pub async fn get_timeline(
    State(registry): Shared,
    Path((tenant, timeline)): Path<(String, String)>,
    request: Result<Query<TimelineQuery>, QueryRejection>,
) -> Answer<TimelineInfo> {
    let query = query(request)?;
    let handle = find(&registry, &tenant, &timeline)?;
    let mut size = None;
    if query.exact_logical_size {
        let lsn = handle.timeline.last_record.lsn();
        size = Some(handle.timeline.logical_size(lsn).await.map_err(|e| ApiError::new(Kind::Internal, e))?);
    }
    Ok(Json(timeline_info(&handle, size)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTimeline {
    new_timeline_id: TimelineId,
    #[serde(default)]
    ancestor_timeline_id: Option<TimelineId>,
    #[serde(default)]
    ancestor_start_lsn: Option<Lsn>,
    #[serde(default)]
    pg_version: Option<u32>,
}

pub async fn create_timeline(
    State(registry): Shared,
    Path(tenant): Path<String>,
    request: Result<Json<CreateTimeline>, JsonRejection>,
) -> Result<(StatusCode, Json<TimelineInfo>), ApiError> {
    let tenant = parse(&tenant)?;
    let request = body(request)?;
    let version = request.pg_version.map(PgVersion::try_from).transpose().map_err(ApiError::bad_request)?;
    let origin = match (request.ancestor_timeline_id, request.ancestor_start_lsn) {
        (Some(ancestor), lsn) => Origin::Branch { ancestor, lsn, pg_version: version },
        (None, None) => Origin::Template(version.unwrap_or(PgVersion::DEFAULT)),
        (None, Some(_)) => return Err(ApiError::bad_request("ancestor_start_lsn needs ancestor_timeline_id")),
    };
    create(registry, tenant, CreateSpec { timeline: request.new_timeline_id, origin }).await
}

async fn create(registry: Arc<Registry>, tenant: TenantId, spec: CreateSpec) -> Result<(StatusCode, Json<TimelineInfo>), ApiError> {
    let owned = registry.clone();
    let handle = finish(&registry, "create-timeline", async move { owned.create_timeline(tenant, &spec).await }).await?;
    Ok((StatusCode::CREATED, Json(timeline_info(&handle, None))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportTimeline {
    /// A cleanly stopped data directory on the node's disk.
    directory: PathBuf,
}

pub async fn import_timeline(
    State(registry): Shared,
    Path((tenant, timeline)): Path<(String, String)>,
    request: Result<Json<ImportTimeline>, JsonRejection>,
) -> Result<(StatusCode, Json<TimelineInfo>), ApiError> {
    let spec = CreateSpec { timeline: parse(&timeline)?, origin: Origin::Directory(body(request)?.directory) };
    create(registry, parse(&tenant)?, spec).await
}

/// Flushes what is in memory and waits until it is in remote storage.
pub async fn checkpoint(State(registry): Shared, Path((tenant, timeline)): Path<(String, String)>) -> Answer<TimelineInfo> {
    let handle = find(&registry, &tenant, &timeline)?;
    handle.timeline.flush_all().await;
    let uploaded = handle.timeline.uploaded().await;
    uploaded.map_err(|e| ApiError::new(Kind::Unavailable, e))?;
    Ok(Json(timeline_info(&handle, None)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalSource {
    connstr: String,
}

pub async fn set_wal_source(
    State(registry): Shared,
    Path((tenant, timeline)): Path<(String, String)>,
    request: Result<Json<WalSource>, JsonRejection>,
) -> Answer<TimelineInfo> {
    let handle = find(&registry, &tenant, &timeline)?;
    let connstr = body(request)?.connstr;
    connstr.parse::<ConnStr>().map_err(ApiError::bad_request)?;
    change_source(&registry, handle, Some(connstr)).await
}

pub async fn delete_wal_source(State(registry): Shared, Path((tenant, timeline)): Path<(String, String)>) -> Answer<TimelineInfo> {
    let handle = find(&registry, &tenant, &timeline)?;
    change_source(&registry, handle, None).await
}

async fn change_source(registry: &Registry, handle: Arc<TimelineHandle>, source: Option<String>) -> Answer<TimelineInfo> {
    let changed = handle.clone();
    finish(registry, "set-wal-source", async move {
        let stored = changed.timeline.set_wal_source(source).await;
        changed.wal.follow().await;
        stored.map_err(|e| ApiError::new(Kind::Unavailable, e))
    })
    .await?;
    Ok(Json(timeline_info(&handle, None)))
}
