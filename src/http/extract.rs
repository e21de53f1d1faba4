//! What handlers take from requests and hand out, each error with the status of a bad request.

use super::status::ApiError;
use crate::tenant::{Kind, Registry};
use crate::types::{TenantId, TimelineId};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

pub(super) type Shared = State<Arc<Registry>>;
pub(super) type Answer<T> = Result<Json<T>, ApiError>;

/// What stands in the path, parsed.
pub struct InPath<T>(pub T);

/// The query of a request.
pub struct InQuery<T>(pub T);

/// The body of a request, JSON.
pub struct Sent<T>(pub T);

/// A body that may be left out.
pub struct MaybeSent<T>(pub Option<T>);

impl<S: Send + Sync> FromRequestParts<S> for InPath<TenantId> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(tenant) = Path::<String>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(InPath(parse(&tenant)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for InPath<(TenantId, TimelineId)> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((tenant, timeline)) = Path::<(String, String)>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(InPath((parse(&tenant)?, parse(&timeline)?)))
    }
}

/// Percent signs that stand for no text, for one.
fn bad_path(rejection: PathRejection) -> ApiError {
    ApiError::bad_request(rejection.body_text())
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| InQuery(query)).map_err(|rejection| ApiError::bad_request(rejection.body_text()))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = Json::from_request(request, state).await;
        body.map(|Json(Object(body))| Sent(body)).map_err(|rejection| ApiError::bad_request(rejection.body_text()))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for MaybeSent<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
        if bytes.is_empty() {
            return Ok(MaybeSent(None));
        }
        let wrong = |error| ApiError::bad_request(format!("the body is not what it should be: {error}"));
        serde_json::from_slice(&bytes).map(|Object(body)| MaybeSent(Some(body))).map_err(wrong)
    }
}

/// Fields by name. Structs as serde derives them are also read from lists of their fields, which no document speaks of.
pub(super) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Object<T>, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        d.deserialize_map(Fields(PhantomData))
    }
}

pub(super) fn parse<T: FromStr>(text: &str) -> Result<T, ApiError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(ApiError::bad_request)
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
