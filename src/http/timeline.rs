//! Handlers of timelines.

use super::extract::{Answer, InPath, InQuery, Sent, Shared, finish};
use super::status::ApiError;
use crate::pg::version::PgVersion;
use crate::replication::connstr::ConnStr;
use crate::tenant::{CreateSpec, Deletion, Kind, Origin, Registry, TimelineHandle};
use crate::timeline::gc::choose::GcCounts;
use crate::types::{Lsn, TenantId, TimelineId};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

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

fn timeline_info(handle: &TimelineHandle, logical_size: Option<u64>, state: &'static str) -> TimelineInfo {
    let timeline = &handle.timeline;
    let (last, prev) = timeline.last_record.lsn_and_prev();
    let ancestor = timeline.ancestor.as_ref();

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
        remote_consistent_lsn: timeline.remote_projected_lsn(),
        remote_consistent_lsn_visible: timeline.remote_consistent_lsn(),
        initdb_lsn: timeline.identity.initdb_lsn,
        current_logical_size: logical_size,
        current_physical_size: timeline.physical_size(),
        resident_physical_size: timeline.resident_size(),
        pg_version: timeline.identity.pg_version.major(),
        system_identifier: timeline.identity.system_identifier,
        wal_source_connstr: source,
        last_received_msg_lsn: handle.wal.log.written_lsn(),
        walreceiver_status: timeline.receiver_status.lock().clone(),
        state,
    }
}

const ACTIVE: &str = "Active";
const STOPPING: &str = "Stopping";

/// A timeline that exists and does not serve: it could not be loaded, or goes on being deleted after a start of the node.
#[derive(Serialize)]
pub struct IdleTimelineInfo {
    tenant_id: TenantId,
    timeline_id: TimelineId,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub enum AnyTimelineInfo {
    Whole(Box<TimelineInfo>),
    Idle(IdleTimelineInfo),
}

impl AnyTimelineInfo {
    fn deleting(tenant_id: TenantId, timeline_id: TimelineId, deletion: &Deletion) -> AnyTimelineInfo {
        match &deletion.handle {
            Some(handle) => AnyTimelineInfo::Whole(Box::new(timeline_info(handle, None, STOPPING))),
            None => AnyTimelineInfo::Idle(IdleTimelineInfo { tenant_id, timeline_id, state: STOPPING, reason: None }),
        }
    }
}

pub async fn list(State(registry): Shared, InPath(tenant): InPath<TenantId>) -> Answer<Vec<AnyTimelineInfo>> {
    let tenant = registry.tenant(tenant)?;
    let active = tenant.timelines().into_iter().map(|t| AnyTimelineInfo::Whole(Box::new(timeline_info(&t, None, ACTIVE))));
    let broken = |(timeline_id, reason)| {
        AnyTimelineInfo::Idle(IdleTimelineInfo { tenant_id: tenant.id, timeline_id, state: "Broken", reason: Some(reason) })
    };
    let deleting = tenant.deleting().into_iter().map(|(timeline, deletion)| AnyTimelineInfo::deleting(tenant.id, timeline, &deletion));
    Ok(Json(active.chain(tenant.broken().into_iter().map(broken)).chain(deleting).collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineQuery {
    /// Computes the logical size exactly, at the last record.
    #[serde(default, rename = "include-non-incremental-logical-size")]
    exact_logical_size: bool,
}

pub async fn get(
    State(registry): Shared,
    InPath((tenant, timeline)): InPath<(TenantId, TimelineId)>,
    InQuery(query): InQuery<TimelineQuery>,
) -> Answer<AnyTimelineInfo> {
    let (owner, id) = (registry.tenant(tenant)?, timeline);
    if let Some(deletion) = owner.deleting().get(&id) {
        return Ok(Json(AnyTimelineInfo::deleting(owner.id, id, deletion)));
    }
    let handle = owner.timeline(id)?;
    let mut size = None;
    if query.exact_logical_size {
        let lsn = handle.timeline.last_record.lsn();
        size = Some(handle.timeline.logical_size(lsn).await.map_err(|e| ApiError::new(Kind::Internal, e))?);
    }
    Ok(Json(AnyTimelineInfo::Whole(Box::new(timeline_info(&handle, size, ACTIVE)))))
}

pub async fn delete(
    State(registry): Shared,
    InPath((tenant, timeline)): InPath<(TenantId, TimelineId)>,
) -> Result<(StatusCode, Json<()>), ApiError> {
    let owned = registry.clone();
    finish(&registry, "delete-timeline-request", async move { owned.delete_timeline(tenant, timeline).await }).await?;
    Ok((StatusCode::ACCEPTED, Json(())))
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

pub async fn create(
    State(registry): Shared,
    InPath(tenant): InPath<TenantId>,
    Sent(request): Sent<CreateTimeline>,
) -> Result<(StatusCode, Json<TimelineInfo>), ApiError> {
    let version = request.pg_version.map(PgVersion::try_from).transpose().map_err(ApiError::bad_request)?;
    let origin = match (request.ancestor_timeline_id, request.ancestor_start_lsn) {
        (Some(ancestor), lsn) => Origin::Branch { ancestor, lsn, pg_version: version },
        (None, None) => Origin::Template(version.unwrap_or(PgVersion::DEFAULT)),
        (None, Some(_)) => return Err(ApiError::bad_request("ancestor_start_lsn needs ancestor_timeline_id")),
    };
    make(registry, tenant, CreateSpec { timeline: request.new_timeline_id, origin }).await
}

async fn make(registry: Arc<Registry>, tenant: TenantId, spec: CreateSpec) -> Result<(StatusCode, Json<TimelineInfo>), ApiError> {
    let owned = registry.clone();
    let handle = finish(&registry, "create-timeline", async move { owned.create_timeline(tenant, &spec).await }).await?;
    Ok((StatusCode::CREATED, Json(timeline_info(&handle, None, ACTIVE))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportTimeline {
    /// A cleanly stopped data directory on the node's disk.
    directory: PathBuf,
}

pub async fn import(
    State(registry): Shared,
    InPath((tenant, timeline)): InPath<(TenantId, TimelineId)>,
    Sent(request): Sent<ImportTimeline>,
) -> Result<(StatusCode, Json<TimelineInfo>), ApiError> {
    let spec = CreateSpec { timeline, origin: Origin::Directory(request.directory) };
    make(registry, tenant, spec).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    #[serde(default)]
    gc_horizon: Option<u64>,
}

#[derive(Serialize)]
pub struct GcResult {
    #[serde(flatten)]
    counts: GcCounts,
    elapsed: Elapsed,
}

#[derive(Serialize)]
struct Elapsed {
    secs: u64,
    nanos: u32,
}

/// One pass of garbage collection, now.
pub async fn do_gc(
    State(registry): Shared,
    InPath((tenant, timeline)): InPath<(TenantId, TimelineId)>,
    Sent(request): Sent<GcRequest>,
) -> Answer<GcResult> {
    let horizon = request.gc_horizon;
    let owner = registry.tenant(tenant)?;
    let missing = |_| ApiError::new(Kind::NotFound, "gc target timeline does not exist");
    let timeline = owner.timeline(timeline).map_err(missing)?.timeline.clone();
    let clock = registry.shared.env.clock.clone();
    let start = clock.mono();
    let work = async move { timeline.gc_now(horizon).await.map_err(|error| ApiError::new(Kind::Internal, error)) };
    let counts = finish(&registry, "do-gc", work).await?;
    let took = clock.mono().since(start);
    Ok(Json(GcResult { counts, elapsed: Elapsed { secs: took.as_secs(), nanos: took.subsec_nanos() } }))
}

/// Merges and images, now.
pub async fn compact(State(registry): Shared, InPath((tenant, timeline)): InPath<(TenantId, TimelineId)>) -> Answer<()> {
    let timeline = registry.timeline(tenant, timeline)?.timeline.clone();
    let work = async move { timeline.compact_now().await.map(|_| ()).map_err(|error| ApiError::new(Kind::Internal, error)) };
    finish(&registry, "compact", work).await?;
    Ok(Json(()))
}

/// Flushes what is in memory and waits until it is in remote storage.
pub async fn checkpoint(State(registry): Shared, InPath((tenant, timeline)): InPath<(TenantId, TimelineId)>) -> Answer<TimelineInfo> {
    let handle = registry.timeline(tenant, timeline)?;
    handle.timeline.flush_all().await;
    let uploaded = handle.timeline.uploaded().await;
    uploaded.map_err(|e| ApiError::new(Kind::Unavailable, e))?;
    Ok(Json(timeline_info(&handle, None, ACTIVE)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalSource {
    connstr: String,
}

pub async fn set_wal_source(
    State(registry): Shared,
    InPath((tenant, timeline)): InPath<(TenantId, TimelineId)>,
    Sent(request): Sent<WalSource>,
) -> Answer<TimelineInfo> {
    let handle = registry.timeline(tenant, timeline)?;
    let connstr = request.connstr;
    connstr.parse::<ConnStr>().map_err(ApiError::bad_request)?;
    change_source(&registry, handle, Some(connstr)).await
}

pub async fn delete_wal_source(
    State(registry): Shared,
    InPath((tenant, timeline)): InPath<(TenantId, TimelineId)>,
) -> Answer<TimelineInfo> {
    let handle = registry.timeline(tenant, timeline)?;
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
    Ok(Json(timeline_info(&handle, None, ACTIVE)))
}
