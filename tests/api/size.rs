//! The synthetic size as a client meets it: a fresh cluster, branches of it, JSON and the page.

use super::{JSON, T, check, http};
use crate::pal::PalServer;
use crate::support::Place;
use serde_json::{Value, json};

const UNKNOWN: &str = "22222222222222222222222222222222";
const ROOT: &str = "33333333333333333333333333333333";
const BRANCH: &str = "44444444444444444444444444444444";

/// Segments as (kind, timeline, parent), with what becomes of them.
fn outline(size: &Value) -> Vec<(String, String, Option<u64>, String)> {
    let segments = size["inputs"]["segments"].as_array().unwrap();
    let methods = size["segment_sizes"].as_array().unwrap();
    assert_eq!(segments.len(), methods.len(), "{size}");
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let one = |(placed, kept): (&Value, &Value)| {
        (text(&placed["kind"]), text(&placed["timeline_id"]), placed["segment"]["parent"].as_u64(), text(&kept["method"]))
    };
    segments.iter().zip(methods).map(one).collect()
}

#[tokio::test]
async fn the_synthetic_size_of_a_tenant() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let ask = async |path: &str, status: u16, part: &str| check(&place, &server, "GET", path, Value::Null, status, part).await;
    let base = format!("/v1/tenant/{T}/synthetic_size");
    for (path, status, part) in [
        (format!("/v1/tenant/{UNKNOWN}/synthetic_size"), 404, "was not found"),
        (format!("/v1/tenant/{UNKNOWN}/size/"), 404, "was not found"),
        ("/v1/tenant/xyz/size".to_string(), 400, "is not a tenant id"),
    ] {
        ask(&path, status, part).await;
    }

    // A tenant without timelines.
    check(&place, &server, "POST", "/v1/tenant", json!({ "new_tenant_id": T }), 201, T).await;
    let empty = ask(&base, 200, T).await;
    assert_eq!((&empty["size"], &empty["inputs"]["segments"]), (&json!(1), &json!([])));

    // A fresh cluster is one snapshot of it.
    let timelines = format!("/v1/tenant/{T}/timeline");
    let root = check(&place, &server, "POST", &timelines, json!({ "new_timeline_id": ROOT }), 201, ROOT).await;
    let fresh = ask(&base, 200, T).await;
    let of = |kind: &str, id: &str, parent, method: &str| (kind.to_string(), id.to_string(), parent, method.to_string());
    assert_eq!(outline(&fresh), [of("BranchStart", ROOT, None, "SnapshotHere"), of("BranchEnd", ROOT, Some(0), "Wal")]);
    let path = format!("{timelines}/{ROOT}?include-non-incremental-logical-size=true");
    let logical = ask(&path, 200, ROOT).await["current_logical_size"].as_u64().unwrap();
    assert_eq!(fresh["inputs"]["segments"][0]["segment"]["size"], json!(logical));
    assert!(logical > 1 << 20 && fresh["size"].as_u64().unwrap() >= logical, "{fresh}");
    let of_root = &fresh["inputs"]["timeline_inputs"][0];
    assert_eq!((&of_root["last_record"], &of_root["ancestor_id"]), (&root["last_record_lsn"], &Value::Null));
    assert!(fresh["inputs"]["segments"][0]["segment"]["lsn"].is_u64(), "{fresh}");
    for same in [format!("/v1/tenant/{T}/size"), format!("/v1/tenant/{T}/size/"), format!("{base}/")] {
        assert_eq!(ask(&same, 200, T).await, fresh, "{same}");
    }
    let shortest = ask(&format!("{base}?retention_period=0"), 200, T).await;
    assert_eq!(shortest["inputs"]["timeline_inputs"][0]["retention_param_cutoff"], root["last_record_lsn"]);
    assert_eq!(shortest["size"], json!(logical), "all that is kept is the state at the end");
    let inputs = ask(&format!("{base}?inputs_only=true"), 200, T).await;
    assert_eq!((&inputs["size"], &inputs["segment_sizes"], &inputs["inputs"]), (&Value::Null, &Value::Null, &fresh["inputs"]));
    assert!(inputs.as_object().unwrap().contains_key("segment_sizes"));

    // Branches of it that hold nothing yet add nothing, at its end and on one another.
    let second = "55555555555555555555555555555555";
    for (new, ancestor) in [(BRANCH, ROOT), (second, BRANCH)] {
        check(&place, &server, "POST", &timelines, json!({ "new_timeline_id": new, "ancestor_timeline_id": ancestor }), 201, new).await;
    }
    let branched = ask(&base, 200, T).await;
    assert_eq!(branched["size"], fresh["size"]);
    let ends = outline(&branched).into_iter().filter(|(kind, ..)| kind == "BranchEnd").map(|(_, id, ..)| id).collect::<Vec<_>>();
    assert_eq!(ends, [ROOT, BRANCH, second]);

    for query in ["inputs_only=perhaps", "retention_period=-1", "retention_period=1h", "retention=5", "inputs_only=true&x"] {
        ask(&format!("{base}?{query}"), 400, "Bad request: ").await;
    }
    check(&place, &server, "POST", &base, Value::Null, 405, "method").await;

    // The page.
    let browser = "accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";
    for path in [base.clone(), format!("/v1/tenant/{T}/size?inputs_only=true")] {
        let (status, page) = http(&place, &server.http_address(), "GET", &path, browser, b"").await;
        assert!(status == 200 && page.starts_with("<!doctype html>") && page.contains("<svg"), "{status} {page}");
        assert_eq!(page.matches("class=\"name\"").count(), 3, "{page}");
    }
    let (status, text) = http(&place, &server.http_address(), "GET", &base, &format!("accept: application/json\r\n{JSON}"), b"").await;
    assert!(status == 200 && text.starts_with('{'), "{status} {text}");
    assert_eq!(server.stop(&place).await, Some(0));
}
