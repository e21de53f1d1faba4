//! The synthetic size of a tenant: JSON, or a page with a picture for who asks for HTML.

use super::extract::{InPath, InQuery, Shared};
use super::status::ApiError;
use crate::tenant::size::{SizeQuery, svg};
use crate::types::TenantId;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, VARY};
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyntheticSizeQuery {
    #[serde(default)]
    inputs_only: bool,
    /// Bytes of WAL.
    #[serde(default)]
    retention_period: Option<u64>,
}

/// Whether the client would rather have a page than JSON: of the two, what its `Accept` names first.
fn wants_html(headers: &HeaderMap) -> bool {
    let texts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = texts.flat_map(|text| text.split(',')).map(|range| range.split(';').next().unwrap_or_default().trim());
    let first = kinds.find(|kind| ["text/html", "application/json"].iter().any(|known| kind.eq_ignore_ascii_case(known)));
    first.is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
}

pub async fn synthetic_size(
    State(registry): Shared,
    InPath(tenant): InPath<TenantId>,
    InQuery(query): InQuery<SyntheticSizeQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let SyntheticSizeQuery { inputs_only, retention_period } = query;
    let tenant = registry.tenant(tenant)?;
    let size = registry.synthetic_size(&tenant, SizeQuery { inputs_only, retention_period }).await?;
    let body = if wants_html(&headers) { Html(svg::page(&size)).into_response() } else { Json(size).into_response() };
    Ok(([(VARY, ACCEPT.as_str())], body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_for_who_names_it_first() {
        for (accept, html) in [
            ("text/html", true),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("Text/HTML; charset=utf-8", true),
            ("application/json, text/html", false),
            ("image/png, text/html;q=0.5, application/json", true),
            ("*/*", false),
            ("text/plain", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            assert_eq!(wants_html(&headers), html, "{accept}");
        }
        assert!(!wants_html(&HeaderMap::new()));
    }
}
