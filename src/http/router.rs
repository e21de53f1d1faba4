//! Paths to handlers. Both slash forms are accepted.

use super::size::synthetic_size;
use super::status::{ApiError, refusal};
use super::{auth, body, tenant, time, timeline};
use crate::auth::Guards;
use crate::tenant::{Kind, Registry, TenantState};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use std::sync::Arc;

pub fn router(registry: Arc<Registry>, guards: &Guards) -> Router {
    let with_slash = |router: Router<Arc<Registry>>, path: &str, methods: axum::routing::MethodRouter<Arc<Registry>>| {
        router.route(path, methods.clone()).route(&format!("{path}/"), methods)
    };
    let mut router = Router::new();
    for (path, methods) in [
        ("/v1/status", get(status)),
        ("/v1/reload_auth_validation_keys", post(auth::reload_keys)),
        ("/v1/disk_usage_eviction/run", put(tenant::evict)),
        ("/v1/tenant", get(tenant::list).post(tenant::create)),
        ("/v1/tenant/config", put(tenant::put_settings)),
        ("/v1/tenant/{tenant}", get(tenant::get).delete(tenant::delete)),
        ("/v1/tenant/{tenant}/config", get(tenant::get_settings)),
        ("/v1/tenant/{tenant}/location_config", put(tenant::put_location)),
        ("/v1/tenant/{tenant}/attach", post(tenant::attach)),
        ("/v1/tenant/{tenant}/detach", post(tenant::detach)),
        ("/v1/tenant/{tenant}/ignore", post(tenant::ignore)),
        ("/v1/tenant/{tenant}/load", post(tenant::load)),
        ("/v1/tenant/{tenant}/synthetic_size", get(synthetic_size)),
        ("/v1/tenant/{tenant}/size", get(synthetic_size)),
        ("/v1/tenant/{tenant}/timeline", get(timeline::list).post(timeline::create)),
        ("/v1/tenant/{tenant}/timeline/{timeline}", get(timeline::get).delete(timeline::delete)),
        ("/v1/tenant/{tenant}/timeline/{timeline}/import", put(timeline::import)),
        ("/v1/tenant/{tenant}/timeline/{timeline}/checkpoint", put(timeline::checkpoint)),
        ("/v1/tenant/{tenant}/timeline/{timeline}/compact", put(timeline::compact)),
        ("/v1/tenant/{tenant}/timeline/{timeline}/do_gc", put(timeline::do_gc)),
        ("/v1/tenant/{tenant}/timeline/{timeline}/wal_source", put(timeline::set_wal_source).delete(timeline::delete_wal_source)),
        ("/v1/tenant/{tenant}/timeline/{timeline}/get_timestamp_of_lsn", get(time::timestamp_of_lsn)),
        ("/v1/tenant/{tenant}/timeline/{timeline}/get_lsn_by_timestamp", get(time::lsn_by_timestamp)),
        ("/v1/openapi.json", get(openapi)),
        ("/swagger.yml", get(openapi)),
        ("/metrics", get(metrics)),
        ("/healthz", get(|| async { "ok" })),
        ("/readyz", get(ready)),
    ] {
        router = with_slash(router, path, methods);
    }
    let patience = body::Patience { clock: registry.shared.env.clock.clone(), limit: registry.shared.config.http_client_timeout };
    let router = router
        .fallback(|| async { ApiError::new(Kind::NotFound, "page not found") })
        .method_not_allowed_fallback(|| async { refusal(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method") })
        .layer(from_fn_with_state(patience, body::read))
        .layer(Extension(guards.keys.clone()))
        .with_state(registry);
    // Outermost, over the fallbacks too: what is not there is told only to whoever may ask.
    match &guards.http.auth {
        Some(auth) => router.layer(from_fn_with_state(auth.clone(), auth::check)),
        None => router,
    }
}

async fn status(State(registry): State<Arc<Registry>>) -> axum::Json<serde_json::Value> {
    axum::Json(serde_json::json!({ "id": registry.shared.config.id }))
}

/// Whether every tenant is known, and up or broken.
async fn ready(State(registry): State<Arc<Registry>>) -> Result<&'static str, ApiError> {
    registry.check_assigned()?;
    match registry.tenants().iter().filter(|tenant| tenant.state() == TenantState::Loading).count() {
        0 => Ok("ok"),
        count => Err(ApiError::new(Kind::Unavailable, format!("{count} tenants are still being loaded; try again"))),
    }
}

/// This API in OpenAPI 3.0. JSON is YAML too, so that the path that the seed's clients ask for has the same.
async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], include_str!("../../docs/api/openapi.json"))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    match super::metrics::render(&registry) {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => ApiError::new(Kind::Internal, error).into_response(),
    }
}
