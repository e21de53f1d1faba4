//! Times to LSNs and back, as the API tells them.

use super::extract::{Answer, InPath, InQuery, Shared, parse};
use super::status::ApiError;
use crate::tenant::Kind;
use crate::timeline::ReadError;
use crate::types::timestamp::PgTimestamp;
use crate::types::{Lsn, TenantId, TimelineId};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampOfLsn {
    lsn: Lsn,
}

/// The time of the newest commit at or below an LSN.
pub async fn timestamp_of_lsn(
    State(registry): Shared,
    InPath((tenant, timeline)): InPath<(TenantId, TimelineId)>,
    InQuery(request): InQuery<TimestampOfLsn>,
) -> Answer<PgTimestamp> {
    let handle = registry.timeline(tenant, timeline)?;
    let (timeline, lsn) = (&handle.timeline, request.lsn);
    let last = timeline.last_record.lsn();
    if lsn > last {
        return Err(ApiError::bad_request(format!("LSN {lsn} is beyond the last record {last}")));
    }
    let gone = |error: ReadError| ApiError::new(Kind::NotFound, format!("no time is known for LSN {lsn}: {error}"));
    timeline.check_cutoff(lsn).map_err(gone)?;
    match timeline.newest_commit(lsn).await {
        Ok(Some(time)) => Ok(Json(time)),
        Ok(None) => Err(ApiError::new(Kind::NotFound, format!("no time is known for LSN {lsn}: there is no commit at or below it"))),
        Err(error) => Err(read_failed(error)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LsnByTimestamp {
    timestamp: String,
    #[serde(default)]
    version: Option<u8>,
}

/// The LSN to branch at for the state before a time. Version 1, the default, answers with a bare string.
pub async fn lsn_by_timestamp(
    State(registry): Shared,
    InPath((tenant, timeline)): InPath<(TenantId, TimelineId)>,
    InQuery(request): InQuery<LsnByTimestamp>,
) -> Answer<Value> {
    let handle = registry.timeline(tenant, timeline)?;
    let time: PgTimestamp = parse(&request.timestamp)?;
    let (kind, lsn) = handle.timeline.lsn_of_time(time).await.map_err(read_failed)?;
    Ok(Json(match request.version.unwrap_or(1) {
        0 | 1 if kind == crate::timeline::commit_time::TimeKind::Present => json!(lsn),
        0 | 1 => json!(kind),
        _ => json!({ "lsn": lsn, "kind": kind }),
    }))
}

fn read_failed(error: ReadError) -> ApiError {
    let kind = if matches!(error, ReadError::ShuttingDown(_)) { Kind::Unavailable } else { Kind::Internal };
    ApiError::new(kind, error)
}
