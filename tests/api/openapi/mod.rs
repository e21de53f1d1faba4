//! The document of the API against the server: what it lists is there, what is there it lists, and who may ask.

mod document;
mod generate;
mod property;
mod seed;

use super::{JSON, exchange};
use crate::auth::{HTTP, Keys};
use crate::pal::PalServer;
use crate::support::Place;
use document::{Document, Operation};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const T: &str = "11111111111111111111111111111111";
const ROOT: &str = "33333333333333333333333333333333";

/// The path with ids in the place of its placeholders.
fn filled(path: &str, tenant: &str, timeline: &str) -> String {
    path.replace("{tenant}", tenant).replace("{timeline}", timeline)
}

/// Methods by path, as the document has them.
fn documented(operations: &[Operation]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for operation in operations {
        all.entry(&operation.path).or_default().insert(&operation.method);
    }
    all
}

#[tokio::test]
async fn document_and_router_agree() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let document = Document::load();
    let operations = document.operations();
    for path in ["/v1/openapi.json", "/v1/openapi.json/", "/swagger.yml"] {
        let answer = exchange(&place, &server.http_address(), "GET", path, "", b"").await;
        assert_eq!((answer.status, answer.kind.as_str()), (200, "application/json"), "{path}");
        assert_eq!(answer.json(), document.root, "{path}");
    }

    let source = include_str!("../../../src/http/router.rs");
    let routed: BTreeSet<&str> = source.split("(\"").skip(1).filter(|r| r.starts_with('/')).filter_map(|r| r.split('"').next()).collect();
    let documented = documented(&operations);
    assert_eq!(routed, documented.keys().copied().collect(), "paths in the router (left) and in docs/api/openapi.json (right)");

    // The refusal of a method says which ones there are.
    for (path, methods) in &documented {
        for slash in ["", "/"] {
            let path = filled(path, T, ROOT) + slash;
            let answer = exchange(&place, &server.http_address(), "PATCH", &path, "", b"").await;
            assert!(answer.status == 405 && answer.json()["msg"].is_string(), "PATCH {path}: {answer:?}");
            let allowed: BTreeSet<&str> = answer.header("allow").unwrap().split(',').map(str::trim).collect();
            let own = allowed.into_iter().filter(|method| *method != "HEAD").collect::<BTreeSet<_>>();
            assert_eq!(own, *methods, "methods of {path} in the router (left) and in docs/api/openapi.json (right)");
        }
    }
    for path in ["/", "/v1", "/v1/nothing", "/v1/tenants", "/swagger.yaml"] {
        let answer = exchange(&place, &server.http_address(), "GET", path, "", b"").await;
        assert!(answer.status == 404 && answer.json()["msg"] == "NotFound: page not found", "{path}: {answer:?}");
    }
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn who_needs_a_token_is_as_documented() {
    let place = Place::new().await;
    let keys = Keys::generate(&place, "keys").await;
    let server = PalServer::start(&place, "node", &[HTTP, &keys.setting()]).await;
    for operation in Document::load().operations() {
        for (header, status) in [("", 401), ("authorization: Bearer x.y.z\r\n", 403)] {
            let path = filled(&operation.path, T, ROOT);
            let header = format!("{header}{JSON}");
            let answer = exchange(&place, &server.http_address(), &operation.method, &path, &header, b"").await;
            if operation.open {
                assert_eq!(answer.status, 200, "{}: {answer:?}", operation.name());
                continue;
            }
            assert_eq!(answer.status, status, "{}: {answer:?}", operation.name());
            let json: Value = answer.json();
            let schema = operation.answers[&status].json.as_ref().unwrap();
            assert!(schema.is_valid(&json), "{}: {json}", operation.name());
        }
    }
    assert_eq!(server.stop(&place).await, Some(0));
}

/// Statuses in the table of requests, each with its operation.
#[test]
fn the_table_of_requests_agrees() {
    let operations = Document::load().operations();
    let mut count = 0;
    for line in include_str!("../../../docs/api/README.md").lines().filter(|line| line.contains(" /")) {
        let Some((name, rest)) = line.strip_prefix("| `").and_then(|line| line.split_once("` | ")) else { continue };
        let Some(operation) = operations.iter().find(|operation| operation.name() == name) else { continue };
        let cell = rest.split(" | ").next().unwrap();
        for status in cell.split(|c: char| !c.is_ascii_digit()).filter(|word| word.len() == 3) {
            assert!(operation.answers.contains_key(&status.parse().unwrap()), "docs/api: {status} of {name} is not in openapi.json");
        }
        count += 1;
    }
    assert_eq!(count, operations.len());
}

#[test]
fn errors_have_one_form() {
    for operation in Document::load().operations() {
        let name = operation.name();
        let (good, bad): (Vec<_>, Vec<_>) = operation.answers.iter().partition(|(status, _)| **status < 300);
        assert_eq!(good.len(), 1, "{name}");
        let wanted = |status: u16| bad.iter().any(|(listed, _)| **listed == status);
        assert!(wanted(408) && wanted(413), "{name}: any operation may be sent a body");
        assert_eq!(wanted(401) && wanted(403), !operation.open, "{name}");
        let ids = operation.path.contains('{');
        assert!(wanted(400) || !ids && operation.query.is_empty() && operation.body.is_none(), "{name}");
        for (status, answer) in bad {
            let schema = answer.json.as_ref().unwrap_or_else(|| panic!("{name} {status}"));
            let fits = |text: &str| schema.is_valid(&serde_json::from_str(text).unwrap());
            assert!(fits(r#"{"msg":"x"}"#) && !fits(r#"{"msg":1}"#) && !fits("{}") && !fits("null"), "{name} {status}");
        }
    }
}
