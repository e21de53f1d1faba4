//! How a node has tenants, and how they and their timelines come and go: every path of the life cycle against the executable.

use super::{JSON, OTHER, T, check, http};
use crate::pal::PalServer;
use crate::support::Place;
use palimpsest::io_abstraction::ClockExt as _;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "33333333333333333333333333333333";
const BRANCH: &str = "44444444444444444444444444444444";
const LEAF: &str = "55555555555555555555555555555555";
const POLLS: u32 = 600;

struct Case<'a> {
    place: &'a Place,
    server: &'a PalServer,
}

impl Case<'_> {
    async fn ask(&self, method: &str, path: &str, body: Value, status: u16, part: &str) -> Value {
        check(self.place, self.server, method, path, body, status, part).await
    }

    /// Polls until the status is what is waited for; gives the body.
    async fn poll(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        for _ in 0..POLLS {
            let (status, text) = http(self.place, &self.server.http_address(), "GET", path, JSON, b"").await;
            let body = serde_json::from_str(&text).unwrap();
            if wanted(status, &body) {
                return body;
            }
            self.place.env.clock.sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} never came to what was waited for");
    }

    async fn attached(&self) -> Value {
        self.poll(&tenant(""), |status, body| status == 200 && body["state"]["slug"] == "Active").await
    }

    async fn gone(&self, path: &str) {
        self.poll(path, |status, _| status == 404).await;
    }

    async fn timelines(&self) -> Vec<String> {
        let list = self.ask("GET", &tenant("/timeline"), Value::Null, 200, "").await;
        list.as_array().unwrap().iter().map(|t| t["timeline_id"].as_str().unwrap().to_string()).collect()
    }

    /// A root with a branch.
    async fn make_timelines(&self) {
        self.ask("POST", &tenant("/timeline"), json!({ "new_timeline_id": ROOT }), 201, ROOT).await;
        let branch = json!({ "new_timeline_id": BRANCH, "ancestor_timeline_id": ROOT });
        self.ask("POST", &tenant("/timeline"), branch, 201, BRANCH).await;
    }
}

fn tenant(rest: &str) -> String {
    format!("/v1/tenant/{T}{rest}")
}

/// Names in a directory, ascending; none if it is absent.
fn names(place: &Place, directory: PathBuf) -> Vec<String> {
    place.env.disk.list(&directory).unwrap_or_default().into_iter().map(|entry| entry.name).collect()
}

#[tokio::test]
async fn settings_of_a_tenant() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["gc_horizon = 1000"]).await;
    let case = Case { place: &place, server: &server };
    let create = json!({ "new_tenant_id": T, "pitr_interval": "1h", "compaction_threshold": "7" });
    case.ask("POST", "/v1/tenant", create, 201, T).await;
    let found = case.ask("GET", &tenant("/config"), Value::Null, 200, "").await;
    assert_eq!(found["tenant_specific_overrides"], json!({ "pitr_interval": "1h", "compaction_threshold": 7 }));
    let effective = &found["effective_config"];
    assert_eq!(
        (&effective["pitr_interval"], &effective["gc_horizon"], &effective["gc_period"]),
        (&json!("1h"), &json!(1000), &json!("1h"))
    );

    for (body, part) in [
        (json!({ "tenant_id": T, "gc_horizonn": 1 }), "did you mean \"gc_horizon\""),
        (json!({ "tenant_id": T, "gc_horizon": -1 }), "gc_horizon"),
        (json!({ "tenant_id": T, "pitr_interval": "9000 years" }), "hundred years"),
        (json!({ "tenant_id": T, "eviction_policy": { "kind": "Whim" } }), "eviction_policy"),
        (json!({ "gc_horizon": 1 }), "tenant_id is missing"),
        (json!([1]), "Bad request: "),
    ] {
        case.ask("PUT", "/v1/tenant/config", body, 400, part).await;
    }
    case.ask("PUT", "/v1/tenant/config", json!({ "tenant_id": OTHER }), 404, "was not found").await;
    case.ask("GET", &format!("/v1/tenant/{OTHER}/config"), Value::Null, 404, "was not found").await;
    let same = case.ask("GET", &tenant("/config"), Value::Null, 200, "").await;
    assert_eq!(same, found, "nothing changed");

    let all = json!({
        "checkpoint_distance": 10_000, "checkpoint_timeout": "11s", "compaction_target_size": 12_000, "compaction_period": "13s",
        "compaction_threshold": 14, "gc_horizon": 15, "gc_period": "16s", "image_creation_threshold": 17, "pitr_interval": "18s",
        "walreceiver_connect_timeout": "19s", "lagging_wal_timeout": "20s", "max_lsn_wal_lag": 21, "trace_read_requests": true,
        "eviction_policy": { "kind": "LayerAccessThreshold", "period": "22s", "threshold": "23s" }, "min_resident_size_override": 24,
        "evictions_low_residence_duration_metric_threshold": "25s", "gc_feedback": true, "heatmap_period": "26s",
    });
    let mut put = all.clone();
    put["tenant_id"] = json!(T);
    case.ask("PUT", "/v1/tenant/config", put, 200, "null").await;
    let found = case.ask("GET", &tenant("/config"), Value::Null, 200, "").await;
    assert_eq!((&found["tenant_specific_overrides"], &found["effective_config"]), (&all, &all));
    assert_eq!(server.stop(&place).await, Some(0));

    let server = PalServer::start(&place, "node", &[]).await;
    let case = Case { place: &place, server: &server };
    assert_eq!(case.ask("GET", &tenant("/config"), Value::Null, 200, "").await, found, "after a restart");
    case.ask("PUT", "/v1/tenant/config", json!({ "tenant_id": T, "gc_horizon": null }), 200, "null").await;
    assert_eq!(case.ask("GET", &tenant("/config"), Value::Null, 200, "").await["tenant_specific_overrides"], json!({}));
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn detach_attach_ignore_and_load() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let case = Case { place: &place, server: &server };
    let home = place.path("node").join("tenants").join(T);
    let none = Value::Null;
    case.ask("POST", "/v1/tenant", json!({ "new_tenant_id": T, "gc_horizon": 77 }), 201, T).await;
    case.make_timelines().await;
    let before = case.ask("GET", &tenant(&format!("/timeline/{ROOT}")), none.clone(), 200, ROOT).await;

    case.ask("POST", &format!("/v1/tenant/{OTHER}/detach"), none.clone(), 404, "was not found").await;
    case.ask("POST", &tenant("/detach?detach_ignored=perhaps"), none.clone(), 400, "Bad request: ").await;
    case.ask("POST", &tenant("/detach"), none.clone(), 200, "null").await;
    case.ask("GET", &tenant(""), none.clone(), 404, "was not found").await;
    case.ask("POST", &tenant("/detach"), none.clone(), 404, "was not found").await;
    assert!(!home.exists(), "its files are gone");

    for (body, part) in [("null", "not what it should be"), ("{\"config\":null}", "not what it should be"), ("{\"x\":1}", "unknown field")]
    {
        let (status, text) = http(&place, &server.http_address(), "POST", &tenant("/attach"), JSON, body.as_bytes()).await;
        assert!(status == 400 && text.contains(part), "{body}: {status} {text}");
    }
    case.ask("POST", &tenant("/attach"), json!({ "config": { "gc_horizonn": 1 } }), 400, "did you mean").await;
    case.ask("GET", &tenant(""), none.clone(), 404, "was not found").await;
    case.ask("POST", &tenant("/attach"), json!({ "config": { "gc_horizon": 78 } }), 202, "null").await;
    let info = case.attached().await;
    assert_eq!((&info["attachment_status"]["slug"], info["generation"].as_u64().unwrap() > 1), (&json!("attached"), true));
    case.ask("POST", &tenant("/attach"), none.clone(), 409, "already exists, state: Active").await;
    let found = case.ask("GET", &tenant("/config"), none.clone(), 200, "").await;
    assert_eq!(found["tenant_specific_overrides"], json!({ "gc_horizon": 78 }));
    assert_eq!(case.timelines().await, [ROOT, BRANCH]);
    let after = case.ask("GET", &tenant(&format!("/timeline/{ROOT}")), none.clone(), 200, ROOT).await;
    assert_eq!((&after["last_record_lsn"], &after["initdb_lsn"]), (&before["last_record_lsn"], &before["initdb_lsn"]));

    case.ask("POST", &format!("/v1/tenant/{OTHER}/ignore"), none.clone(), 404, "was not found").await;
    let files = names(&place, home.join("timelines").join(ROOT));
    case.ask("POST", &tenant("/ignore"), none.clone(), 200, "null").await;
    case.ask("GET", &tenant(""), none.clone(), 404, "was not found").await;
    assert_eq!(names(&place, home.clone()), ["___ignored_tenant", "location.json", "timelines"]);
    assert_eq!(names(&place, home.join("timelines").join(ROOT)), files);
    assert_eq!(server.stop(&place).await, Some(0));

    let server = PalServer::start(&place, "node", &[]).await;
    let case = Case { place: &place, server: &server };
    case.ask("GET", &tenant(""), none.clone(), 404, "was not found").await;
    case.ask("POST", &tenant("/attach"), none.clone(), 500, "its directory exists").await;
    case.ask("POST", &tenant("/detach"), none.clone(), 404, "was not found").await;
    case.ask("POST", &format!("/v1/tenant/{OTHER}/load"), none.clone(), 500, "nothing of tenant").await;
    case.ask("POST", &tenant("/load"), json!({ "x": 1 }), 400, "unknown field").await;
    case.ask("POST", &tenant("/load"), none.clone(), 202, "null").await;
    case.attached().await;
    assert_eq!(case.timelines().await, [ROOT, BRANCH]);
    case.ask("POST", &tenant("/load"), none.clone(), 409, "already exists").await;
    case.ask("POST", &tenant("/ignore"), none.clone(), 200, "null").await;
    case.ask("POST", &tenant("/detach?detach_ignored=true"), none.clone(), 200, "null").await;
    assert!(!home.exists());
    // What remote storage does not know is an empty tenant.
    case.ask("POST", &format!("/v1/tenant/{OTHER}/attach"), none.clone(), 202, "null").await;
    case.poll(&format!("/v1/tenant/{OTHER}"), |status, body| status == 200 && body["state"]["slug"] == "Active").await;
    case.ask("GET", &format!("/v1/tenant/{OTHER}/timeline"), none.clone(), 200, "[]").await;
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn timelines_and_tenants_are_deleted_for_good() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let case = Case { place: &place, server: &server };
    let (home, remote) = (place.path("node").join("tenants"), place.path("node").join("remote").join("tenants"));
    let (none, timeline) = (Value::Null, |id: &str| tenant(&format!("/timeline/{id}")));
    case.ask("DELETE", &tenant(""), none.clone(), 404, "was not found").await;
    case.ask("DELETE", &timeline(ROOT), none.clone(), 412, "Precondition failed: tenant").await;
    case.ask("POST", "/v1/tenant", json!({ "new_tenant_id": T }), 201, T).await;
    case.make_timelines().await;
    let leaf = json!({ "new_timeline_id": LEAF, "ancestor_timeline_id": BRANCH });
    case.ask("POST", &tenant("/timeline"), leaf.clone(), 201, LEAF).await;

    case.ask("DELETE", &timeline(OTHER), none.clone(), 404, "was not found").await;
    case.ask("DELETE", &timeline("x"), none.clone(), 400, "not a timeline id").await;
    case.ask("DELETE", &timeline(BRANCH), none.clone(), 412, LEAF).await;
    case.ask("DELETE", &timeline(LEAF), none.clone(), 202, "null").await;
    case.gone(&timeline(LEAF)).await;
    assert_eq!(case.timelines().await, [ROOT, BRANCH]);
    assert!(!remote.join(T).join("timelines").join(LEAF).join("index_part.json-00000001").exists());
    assert_eq!(names(&place, home.join(T).join("timelines")), [ROOT, BRANCH]);
    case.ask("DELETE", &timeline(LEAF), none.clone(), 404, "was not found").await;
    // The id is free again.
    case.ask("POST", &tenant("/timeline"), leaf, 201, LEAF).await;
    for id in [LEAF, BRANCH] {
        case.ask("DELETE", &timeline(id), none.clone(), 202, "null").await;
        case.gone(&timeline(id)).await;
    }
    assert_eq!(server.stop(&place).await, Some(0));

    let server = PalServer::start(&place, "node", &[]).await;
    let case = Case { place: &place, server: &server };
    assert_eq!(case.timelines().await, [ROOT]);
    case.ask("DELETE", &tenant(""), none.clone(), 202, "null").await;
    case.gone(&tenant("")).await;
    assert_eq!((names(&place, home), objects(&place, &remote)), (Vec::<String>::new(), 0));
    case.ask("DELETE", &tenant(""), none.clone(), 404, "was not found").await;
    case.ask("POST", "/v1/tenant", json!({ "new_tenant_id": T }), 201, T).await;
    assert_eq!(case.timelines().await, Vec::<String>::new());
    case.ask("DELETE", &tenant(""), none.clone(), 202, "null").await;
    case.gone(&tenant("")).await;
    assert_eq!(server.stop(&place).await, Some(0));

    // A machine that knows nothing of the tenant does not take it for one.
    let setting = format!("remote_storage.local_path = '{}'", place.path("node").join("remote").display());
    let server = PalServer::start(&place, "another", &[&setting]).await;
    let case = Case { place: &place, server: &server };
    case.gone(&tenant("")).await;
    assert_eq!(names(&place, place.path("another").join("tenants")), Vec::<String>::new());
    assert_eq!(server.stop(&place).await, Some(0));
}

/// Files below a directory.
fn objects(place: &Place, directory: &Path) -> usize {
    let entries = place.env.disk.list(directory).unwrap_or_default();
    entries.iter().map(|entry| if entry.is_dir { objects(place, &directory.join(&entry.name)) } else { 1 }).sum()
}

#[tokio::test]
async fn locations_are_declared() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let case = Case { place: &place, server: &server };
    let (none, location) = (Value::Null, tenant("/location_config"));
    case.ask("POST", "/v1/tenant", json!({ "new_tenant_id": T }), 201, T).await;
    case.make_timelines().await;
    for (body, part) in [
        (json!({ "mode": "AttachedSingle" }), "generation is missing"),
        (json!({ "mode": "Secondary", "generation": 9 }), "must be left out"),
        (json!({ "mode": "Elsewhere" }), "unknown variant"),
        (json!({ "mode": "Detached", "x": 1 }), "unknown field"),
        (json!({ "mode": "Detached", "tenant_id": OTHER }), "differs"),
        (json!({ "mode": "AttachedSingle", "generation": 9, "shard_count": 4 }), "one shard"),
        (json!({ "mode": "AttachedSingle", "generation": 9, "tenant_conf": { "y": 1 } }), "unknown key"),
        (json!({ "mode": "AttachedSingle", "generation": 0 }), "newer than 0"),
    ] {
        case.ask("PUT", &location, body, 400, part).await;
    }
    case.ask("PUT", &format!("{location}?flush_ms=soon"), json!({ "mode": "Detached" }), 400, "Bad request: ").await;
    let generation = case.attached().await["generation"].clone();
    let attached = |mode: &str, generation: Value| json!({ "mode": mode, "generation": generation, "tenant_conf": { "gc_horizon": 5 } });
    case.ask("PUT", &location, attached("AttachedSingle", generation.clone()), 200, "null").await;
    let found = case.ask("GET", &tenant("/config"), none.clone(), 200, "").await;
    assert_eq!(found["tenant_specific_overrides"], json!({ "gc_horizon": 5 }), "in place");
    case.ask("PUT", &format!("{location}?flush_ms=1000"), attached("AttachedStale", generation.clone()), 200, "null").await;
    case.ask("PUT", &location, attached("AttachedStale", generation), 200, "null").await;
    assert_eq!(case.timelines().await, [ROOT, BRANCH], "it still serves");
    let branch = json!({ "new_timeline_id": LEAF, "ancestor_timeline_id": ROOT });
    case.ask("POST", &tenant("/timeline"), branch, 503, "another node took").await;
    case.ask("PUT", &location, attached("AttachedMulti", json!(50)), 200, "null").await;
    assert_eq!(case.attached().await["generation"], json!(50));
    case.ask("PUT", &location, attached("AttachedSingle", json!(50)), 200, "null").await;
    case.ask("PUT", &location, json!({ "mode": "Secondary", "secondary_conf": { "warm": false } }), 200, "null").await;
    case.ask("GET", &tenant(""), none.clone(), 404, "was not found").await;
    case.ask("POST", "/v1/tenant", json!({ "new_tenant_id": T }), 409, "Conflict: ").await;
    assert!(place.path("node").join("tenants").join(T).join("timelines").join(ROOT).exists(), "its layers are kept");
    assert_eq!(server.stop(&place).await, Some(0));

    let server = PalServer::start(&place, "node", &[]).await;
    let case = Case { place: &place, server: &server };
    case.ask("GET", &tenant(""), none.clone(), 404, "was not found").await;
    case.ask("PUT", &location, attached("AttachedSingle", json!(51)), 200, "null").await;
    assert_eq!(case.timelines().await, [ROOT, BRANCH]);
    for _ in 0..2 {
        case.ask("PUT", &location, json!({ "mode": "Detached" }), 200, "null").await;
    }
    case.ask("GET", &tenant(""), none, 404, "was not found").await;
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn garbage_is_collected_on_demand() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["pitr_interval = '0s'"]).await;
    let case = Case { place: &place, server: &server };
    case.ask("POST", "/v1/tenant", json!({ "new_tenant_id": T }), 201, T).await;
    case.make_timelines().await;
    let gc = |id: &str| tenant(&format!("/timeline/{id}/do_gc"));
    let counts = case.ask("PUT", &gc(ROOT), json!({}), 200, "layers_total").await;
    assert!(counts["layers_total"].as_u64().unwrap() > 0 && counts["elapsed"]["secs"].is_u64(), "{counts}");
    case.ask("PUT", &gc(ROOT), json!({ "gc_horizon": 0 }), 200, "layers_removed").await;
    for (path, body, status, part) in [
        (gc(OTHER), json!({}), 404, "gc target timeline does not exist"),
        (format!("/v1/tenant/{OTHER}/timeline/{ROOT}/do_gc"), json!({}), 404, "was not found"),
        (gc(ROOT), json!({ "gc_horizon": "much" }), 400, "Bad request: "),
        (gc(ROOT), json!({ "horizon": 1 }), 400, "Bad request: "),
    ] {
        case.ask("PUT", &path, body, status, part).await;
    }
    case.ask("PUT", &tenant(&format!("/timeline/{ROOT}/compact")), Value::Null, 200, "null").await;
    assert_eq!(server.stop(&place).await, Some(0));
}
