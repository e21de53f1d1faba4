//! Who may ask what of the management API.
//!
//! In: a request. Out: the request, passed on, or 401 (no token) or 403 (not this token; why is in the log only). Invariant TK-2:
//! a request is a tenant's own only if its path says so; every other one, known or not, is the node's and needs a token for
//! everything.

use super::extract::Answer;
use super::status::ApiError;
use crate::auth::{Auth, Permission, TokenError};
use crate::tenant::Kind;
use crate::types::TenantId;
use axum::extract::{Extension, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, http::Method};
use std::sync::Arc;

/// Paths that anybody may ask for.
const OPEN: [&str; 6] = ["/v1/status", "/v1/openapi.json", "/swagger.yml", "/metrics", "/healthz", "/readyz"];
/// What these do reaches beyond the tenant, to any directory of the node's disk and any server that it can connect to.
const BEYOND_THE_TENANT: [(Method, &str); 2] = [(Method::PUT, "import"), (Method::PUT, "wal_source")];

/// Passes on what the request's token permits.
pub(super) async fn check(State(auth): State<Arc<Auth>>, request: Request, next: Next) -> Response {
    if OPEN.contains(&without_slash(request.uri().path())) {
        return next.run(request).await;
    }
    match permit(&auth, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            auth.count_refusal("http");
            tracing::info!(method = %request.method(), path = request.uri().path(), %refusal, "request refused");
            refusal.into_response()
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("missing authorization header")]
    Missing,
    #[error("malformed authorization header")]
    Malformed,
    #[error("the token is refused: {0}")]
    Token(TokenError),
    #[error("the token is for tenant {0} only")]
    Scope(TenantId),
}

impl Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::Missing | Refusal::Malformed => {
                let mut response = ApiError::new(Kind::Unauthorized, self).into_response();
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
            // Why is not said: who guesses learns nothing.
            Refusal::Token(_) | Refusal::Scope(_) => ApiError::new(Kind::Forbidden, "JWT authentication error").into_response(),
        }
    }
}

fn permit(auth: &Auth, request: &Request) -> Result<(), Refusal> {
    let permission = auth.verify(bearer(request.headers())?).map_err(Refusal::Token)?;
    match permission {
        Permission::Tenant(own) if !permission.covers(tenant_of(request.method(), request.uri().path())) => Err(Refusal::Scope(own)),
        _ => Ok(()),
    }
}

/// The token of `Authorization: Bearer TOKEN`. Source: RFC 6750 section 2.1.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Refusal::Missing)?;
    if values.next().is_some() {
        return Err(Refusal::Malformed);
    }
    let text = value.to_str().map_err(|_| Refusal::Malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or(Refusal::Malformed)?;
    let known = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains(' ');
    if known { Ok(token) } else { Err(Refusal::Malformed) }
}

/// The tenant whose own business the request is. The path is taken as it was sent, so that nothing is the tenant's in one reading
/// and another's in the router's.
fn tenant_of(method: &Method, path: &str) -> Option<TenantId> {
    let path = without_slash(path);
    let rest = path.strip_prefix("/v1/tenant/")?;
    let last = path.rsplit('/').next().unwrap_or_default();
    if BEYOND_THE_TENANT.iter().any(|(beyond, name)| beyond == method && *name == last) {
        return None;
    }
    rest.split('/').next()?.parse().ok()
}

fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

/// Loads the keys again.
pub async fn reload_keys(Extension(keys): Extension<Option<Arc<Auth>>>) -> Answer<()> {
    let off =
        || ApiError::bad_request("authentication is off: http_auth_type and pg_auth_type are \"Trust\", so there are no keys to load");
    let keys = keys.ok_or_else(off)?;
    keys.reload().await.map_err(|error| ApiError::new(Kind::Internal, format!("{error}; the keys stay as they were")))?;
    Ok(Json(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_business_a_path_is() {
        let id = "0123456789abcdef0123456789abcdef";
        let own: Option<TenantId> = Some(id.parse().unwrap());
        let (get, put) = (Method::GET, Method::PUT);
        for (method, path, want) in [
            (&get, format!("/v1/tenant/{id}"), own),
            (&get, format!("/v1/tenant/{id}/"), own),
            (&put, format!("/v1/tenant/{id}/timeline/{id}/checkpoint"), own),
            (&get, format!("/v1/tenant/{id}/anything/new"), own),
            (&get, format!("/v1/tenant/{id}/timeline/{id}/wal_source"), own),
            (&put, format!("/v1/tenant/{id}/timeline/{id}/wal_source"), None),
            (&put, format!("/v1/tenant/{id}/timeline/{id}/wal_source/"), None),
            (&put, format!("/v1/tenant/{id}/timeline/{id}/import"), None),
            (&get, "/v1/tenant".to_string(), None),
            (&get, "/v1/tenant/".to_string(), None),
            (&put, "/v1/tenant/config".to_string(), None),
            (&get, format!("/v1/tenant/%30{}", &id[1..]), None),
            (&get, format!("/v1/tenant/{id}%2f"), None),
            (&get, format!("/v1/tenant//{id}"), None),
            (&get, format!("//v1/tenant/{id}"), None),
            (&get, format!("/V1/tenant/{id}"), None),
            (&get, format!("/v2/tenant/{id}"), None),
            (&put, "/v1/disk_usage_eviction/run".to_string(), None),
            (&put, "/v1/reload_auth_validation_keys".to_string(), None),
            (&get, String::new(), None),
        ] {
            assert_eq!(tenant_of(method, &path), want, "{method} {path}");
        }
    }

    #[test]
    fn headers() {
        let check = |values: &[&'static [u8]], want: Result<&str, &str>| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|v| _ = headers.append(AUTHORIZATION, HeaderValue::from_bytes(v).unwrap()));
            assert_eq!(bearer(&headers).map_err(|e| e.to_string()), want.map_err(str::to_string), "{values:?}");
        };
        let (missing, malformed) = (Err("missing authorization header"), Err("malformed authorization header"));
        check(&[b"Bearer x.y.z"], Ok("x.y.z"));
        check(&[b"bearer x"], Ok("x"));
        check(&[], missing);
        for wrong in [&b"Bearer"[..], b"Bearer ", b"Bearer  x", b"Bearer x y", b"Basic eDp5", b"x", b"", b"Bearer \xff"] {
            check(&[wrong], malformed);
        }
        check(&[b"Bearer x", b"Bearer y"], malformed);
    }
}
