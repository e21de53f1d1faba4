//! The management API with tokens.

use super::{HTTP, Keys, OTHER, T, log};
use crate::api::{JSON, http};
use crate::pal::{PalServer, pal};
use crate::support::Place;
use serde_json::{Value, json};

#[tokio::test]
async fn a_token_opens_what_it_is_for() {
    let place = Place::new().await;
    let (keys, foreign) = (Keys::generate(&place, "keys").await, Keys::generate(&place, "foreign").await);
    let server = PalServer::start(&place, "node", &[HTTP, &keys.setting()]).await;
    let (all, own) = (keys.token(&place, &["--ttl", "1h"]).await, keys.token(&place, &["--tenant", T]).await);
    let (expired, wrong) = (keys.until(&place, 1), foreign.token(&place, &[]).await);
    let ask = async |authorization: &str, method: &str, path: &str, body: Value| {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let header = if authorization.is_empty() { String::new() } else { format!("authorization: {authorization}\r\n") };
        http(&place, &server.http_address(), method, path, &format!("{header}{JSON}"), &body).await
    };
    let bearer = |token: &str| format!("Bearer {token}");
    for tenant in [T, OTHER] {
        assert_eq!(ask(&bearer(&all), "POST", "/v1/tenant", json!({ "new_tenant_id": tenant })).await.0, 201);
    }
    let timeline = "33333333333333333333333333333333";
    let (mine, theirs) = (format!("/v1/tenant/{T}"), format!("/v1/tenant/{OTHER}"));
    let forbidden = "Forbidden: JWT authentication error";
    for (authorization, method, path, status, part) in [
        (String::new(), "GET", "/v1/tenant", 401, "missing authorization header"),
        (String::new(), "GET", &mine, 401, "missing authorization header"),
        (String::new(), "GET", "/v1/nothing", 401, "missing authorization header"),
        (String::new(), "DELETE", "/v1/tenant", 401, "missing authorization header"),
        ("Basic eDp5".to_string(), "GET", "/v1/tenant", 401, "malformed authorization header"),
        (all.clone(), "GET", "/v1/tenant", 401, "malformed authorization header"),
        (bearer("garbage"), "GET", &mine, 403, forbidden),
        (bearer(&wrong), "GET", "/v1/tenant", 403, forbidden),
        (bearer(&expired), "GET", "/v1/tenant", 403, forbidden),
        (bearer(&all), "GET", "/v1/tenant", 200, T),
        (bearer(&all), "GET", &theirs, 200, OTHER),
        (bearer(&all), "GET", "/v1/nothing", 404, "page not found"),
        (bearer(&own), "GET", &mine, 200, T),
        (bearer(&own), "GET", &format!("{mine}/"), 200, T),
        (bearer(&own), "GET", &format!("{mine}/timeline"), 200, "[]"),
        (bearer(&own), "GET", &format!("{mine}/timeline/{timeline}"), 404, "was not found"),
        (bearer(&own), "PUT", &format!("{mine}/timeline/{timeline}/import"), 403, forbidden),
        (bearer(&own), "PUT", &format!("{mine}/timeline/{timeline}/impor%74"), 404, "page not found"),
        (bearer(&own), "PUT", &format!("{mine}/timeline/{timeline}/wal_source"), 403, forbidden),
        (bearer(&own), "GET", &theirs, 403, forbidden),
        (bearer(&own), "GET", &format!("{theirs}/timeline"), 403, forbidden),
        (bearer(&own), "GET", &format!("{mine}/../{OTHER}"), 404, "page not found"),
        (bearer(&own), "GET", "/v1/tenant", 403, forbidden),
        (bearer(&own), "POST", "/v1/tenant", 403, forbidden),
        (bearer(&own), "PUT", "/v1/tenant/config", 403, forbidden),
        (bearer(&own), "PUT", "/v1/disk_usage_eviction/run", 403, forbidden),
        (bearer(&own), "POST", "/v1/reload_auth_validation_keys", 403, forbidden),
        (bearer(&own), "GET", "/v1/nothing", 403, forbidden),
        (bearer(&all), "POST", "/v1/reload_auth_validation_keys", 200, "null"),
        (String::new(), "GET", "/v1/status", 200, "id"),
        (bearer("garbage"), "GET", "/v1/status/", 200, "id"),
        (String::new(), "GET", "/healthz", 200, "ok"),
        (String::new(), "GET", "/readyz", 200, "ok"),
        (String::new(), "GET", "/metrics", 200, "palimpsest_auth_refused_total{listener=\"http\"}"),
    ] {
        let body = if method == "POST" && path == "/v1/tenant" { json!({ "new_tenant_id": T }) } else { Value::Null };
        let (got, text) = ask(&authorization, method, path, body).await;
        assert!(got == status && text.contains(part), "{authorization} {method} {path}: {got} {text}");
    }

    // The commands show the token that they are given.
    let with = |token: &str| [("PAL_ENDPOINT", server.http.clone()), ("PAL_TOKEN", token.to_string())];
    for (token, code, part) in [(all.as_str(), 0, T), (&own, 5, "JWT authentication error"), ("", 5, "--token"), ("a\nb", 7, "the token")] {
        let variables = with(token);
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        let said = pal(&place, &["tenant", "list"], &variables).await;
        assert!(said.code == Some(code) && (said.out.contains(part) || said.err.contains(part)), "{token}: {said:?}");
    }
    let said = server.pal(&place, &["tenant", "get", T, "--token", &own, "--json"]).await;
    assert_eq!(said.json()["id"], T);

    let log = log(&place);
    for token in [&all, &own, &expired, &wrong] {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!log.contains(signature), "a token is in the log");
    }
    assert!(log.contains("it has expired") && log.contains("no key of this server"), "{log}");
    assert_eq!(server.stop(&place).await, Some(0));
}
