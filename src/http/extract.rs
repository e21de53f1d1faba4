//! What handlers take from requests and hand out, each error with the status of a bad request.

use super::status::ApiError;
use crate::tenant::{Kind, Registry, TimelineHandle};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
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

pub(super) fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, ApiError> {
    match body {
        Ok(Json(value)) => Ok(value),
        Err(rejection) => Err(ApiError::bad_request(rejection.body_text())),
    }
}

pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(query)| query).map_err(|rejection| ApiError::bad_request(rejection.body_text()))
}

/// A body that may be left out.
pub(super) fn optional_body<T: DeserializeOwned>(bytes: &Bytes) -> Result<Option<T>, ApiError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(bytes).map(Some).map_err(|error| ApiError::bad_request(format!("the body is not what it should be: {error}")))
}

/// Takes a value out of an object whose other members are not looked at here.
pub(super) fn take<T: DeserializeOwned>(map: &mut Map<String, Value>, key: &str) -> Result<Option<T>, ApiError> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value).map(Some).map_err(|error| ApiError::bad_request(format!("{key}: {error}"))),
    }
}

/// The same for a value that has to be there.
pub(super) fn take_needed<T: DeserializeOwned>(map: &mut Map<String, Value>, key: &str) -> Result<T, ApiError> {
    take(map, key)?.ok_or_else(|| ApiError::bad_request(format!("{key} is missing")))
}

pub(super) fn find(registry: &Registry, tenant: &str, timeline: &str) -> Result<Arc<TimelineHandle>, ApiError> {
    Ok(registry.timeline(parse(tenant)?, parse(timeline)?)?)
}

/// Runs a change to its end even if the client hangs up: it finishes, and a repeat of the request finds the result.
pub(super) async fn finish<T: Send + 'static, E: Send + 'static>(
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
