//! Every operation of the document against a running server: bad input is refused with a documented status and changes nothing; good
//! input, in whatever order, gets documented statuses and answers that fit their schemas.

use super::document::{Document, Operation};
use super::generate::{Generator, Ids, Request};
use super::{ROOT, T};
use crate::api::{Answer, JSON, LIMIT, exchange};
use crate::pal::PalServer;
use crate::support::Place;
use palimpsest::io_abstraction::ClockExt as _;
use palimpsest::io_abstraction::disk::{read_file, write_file_durably};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const BRANCH: &str = "44444444444444444444444444444444";
const ABSENT: &str = "99999999999999999999999999999999";
const SPARE: &str = "66666666666666666666666666666666";
const OTHER_SPARE: &str = "77777777777777777777777777777777";
const LEAF: &str = "55555555555555555555555555555555";
const IMPORTED: &str = "88888888888888888888888888888888";
/// Why a tenant is broken whose attachment a request wanted in a generation that is over: each request for it says so.
const OUTDATED: &str = "was asked for, but generation";
const BAD_CASES: u32 = 48;
const GOOD_CASES: usize = 300;

struct Node {
    place: Place,
    server: PalServer,
}

impl Node {
    async fn ask(&self, request: &Request) -> Answer {
        exchange(&self.place, &self.server.http_address(), &request.method, &request.path, &request.headers, &request.body).await
    }

    async fn get(&self, path: &str) -> Value {
        let answer = exchange(&self.place, &self.server.http_address(), "GET", path, "", b"").await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// What requests that are refused must leave alone: the tenants, and the kept one's settings and timelines.
    async fn state(&self) -> Value {
        let tenants: Vec<Value> = self.get("/v1/tenant").await.as_array().unwrap().iter().map(|tenant| tenant["id"].clone()).collect();
        let config = self.get(&format!("/v1/tenant/{T}/config")).await;
        let timelines = self.get(&format!("/v1/tenant/{T}/timeline")).await;
        // Background work may pack layers and move what is in remote storage.
        let fields =
            ["timeline_id", "ancestor_timeline_id", "ancestor_lsn", "last_record_lsn", "initdb_lsn", "wal_source_connstr", "state"];
        let steady = |timeline: &Value| fields.map(|field| timeline[field].clone());
        let timelines: Vec<_> = timelines.as_array().unwrap().iter().map(steady).collect();
        json!({ "tenants": tenants, "config": config, "timelines": timelines, "tenant": self.get(&format!("/v1/tenant/{T}")).await["state"] })
    }

    /// How an attachment came out.
    async fn settled(&self, tenant: &str) -> Value {
        let give_up = self.place.env.clock.mono().after(LIMIT);
        loop {
            let status = self.get(&format!("/v1/tenant/{tenant}")).await["attachment_status"].clone();
            if status["slug"] != "maybe" {
                return status;
            }
            assert!(self.place.env.clock.mono() < give_up, "{tenant} does not come up");
            self.place.env.clock.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks until it is not refused for the moment.
    async fn patient(&self, request: &Request) -> Answer {
        let give_up = self.place.env.clock.mono().after(LIMIT);
        loop {
            let answer = self.ask(request).await;
            if answer.status != 503 || self.place.env.clock.mono() >= give_up {
                return answer;
            }
            self.place.env.clock.sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whether the document has the answer.
fn judge(operation: &Operation, answer: &Answer) -> Result<(), String> {
    let Some(listed) = operation.answers.get(&answer.status) else {
        return Err(format!("status {} is not in the document", answer.status));
    };
    // A fault of the node is in the document for every operation, and never to be met; only some have another reason.
    if answer.status == 500 && !listed.own && !answer.body.contains(OUTDATED) {
        return Err("a fault of the node".to_string());
    }
    if !listed.kinds.contains(&answer.kind) {
        return Err(format!("the content type {:?} is not in the document", answer.kind));
    }
    let (Some(schema), true) = (&listed.json, answer.kind == "application/json") else { return Ok(()) };
    let json: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    schema.validate(&json).map_err(|error| format!("{error} at {}", error.instance_path()))
}

fn runner(cases: u32) -> TestRunner {
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 300, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// A server with a tenant, a root and a branch of it.
async fn start() -> Node {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["wait_lsn_timeout = '100ms'"]).await;
    let node = Node { place, server };
    for (path, body) in [
        ("/v1/tenant".to_string(), json!({ "new_tenant_id": T, "gc_horizon": 4096, "pitr_interval": "1h" })),
        (format!("/v1/tenant/{T}/timeline"), json!({ "new_timeline_id": ROOT })),
        (format!("/v1/tenant/{T}/timeline"), json!({ "new_timeline_id": BRANCH, "ancestor_timeline_id": ROOT })),
    ] {
        let answer = node.ask(&sent("POST", &path, body)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    node
}

fn sent(method: &str, path: &str, body: Value) -> Request {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Request { method: method.to_string(), path: path.to_string(), headers: JSON.to_string(), body }
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let document = Document::load();
    let node = runtime.block_on(start());
    let before = runtime.block_on(node.state());
    let ids = Ids { tenants: vec![T, ABSENT], timelines: vec![ROOT, BRANCH, ABSENT] };
    let generator = Generator { document: &document, ids };
    for operation in document.operations() {
        // Of what takes nothing, only the size can be wrong.
        let cases = if operation.answers.contains_key(&400) { BAD_CASES } else { 2 };
        let outcome = runner(cases).run(&generator.bad(&operation), |request| {
            let answer = runtime.block_on(node.ask(&request));
            let refused = (400..500).contains(&answer.status);
            let judged = judge(&operation, &answer).and(if refused { Ok(()) } else { Err("it is not refused".to_string()) });
            judged.map_err(|reason| TestCaseError::fail(format!("{reason}: {answer:?}")))
        });
        outcome.unwrap_or_else(|error| panic!("{}: {error}", operation.name()));
        let accepted = runtime.block_on(wrong_fields(&node, &generator, &operation));
        assert!(accepted.is_empty(), "{} are not refused:\n{}", accepted.len(), accepted.join("\n"));
        assert_eq!(runtime.block_on(node.state()), before, "after bad input to {}", operation.name());
    }
    runtime.block_on(absurd_durations(&node, &document));
    assert_eq!(runtime.block_on(node.state()), before, "after absurd durations");
    assert_eq!(runtime.block_on(node.server.stop(&node.place)), Some(0));
}

/// Of each field with each wrong value, those that are not refused as such.
async fn wrong_fields(node: &Node, generator: &Generator<'_>, operation: &Operation) -> Vec<String> {
    let mut accepted = Vec::new();
    for request in generator.wrong_fields(operation) {
        let answer = node.ask(&request).await;
        let refused = if answer.status == 400 { judge(operation, &answer) } else { Err(answer.body.clone()) };
        accepted.extend(refused.err().map(|reason| format!("{request:?}: {reason}")));
    }
    accepted
}

/// Durations that no clock has, for each setting that is one.
async fn absurd_durations(node: &Node, document: &Document) {
    let settings = node.get(&format!("/v1/tenant/{T}/config")).await["effective_config"].clone();
    let operation = document.operations().into_iter().find(|o| o.name() == "PUT /v1/tenant/config").unwrap();
    let names: Vec<&String> = settings.as_object().unwrap().iter().filter(|(_, value)| value.is_string()).map(|(name, _)| name).collect();
    assert!(names.len() > 6, "{settings}");
    for name in names {
        for text in
            ["9000 years", "18446744073709551615s", "99999999999999999999s", "1e9s", "-1s", "1", "s", "", " ", "soon", "5 min ago", "∞"]
        {
            let request = sent("PUT", "/v1/tenant/config", json!({ "tenant_id": T, name.as_str(): text }));
            let answer = node.ask(&request).await;
            assert!(answer.status == 400 && answer.body.contains(name.as_str()), "{request:?}: {answer:?}");
            judge(&operation, &answer).unwrap_or_else(|reason| panic!("{request:?}: {reason}"));
        }
    }
}

/// Each attachment takes the next generation, and after the last there is none: no request may ask for it, and remote storage that
/// has it, whoever put it there, breaks that tenant and not the node.
#[tokio::test]
async fn the_last_generation_does_not_end_the_node() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let node = Node { place, server };
    let (attach, detach) = (format!("/v1/tenant/{SPARE}/attach"), format!("/v1/tenant/{SPARE}/detach"));
    let asked = |generation: u32| json!({ "generation": generation });
    for (path, body, status) in [
        (&attach, asked(u32::MAX), 400),
        (&attach, asked(1 << 31), 400),
        (&attach, asked((1 << 31) - 1), 202),
        (&detach, Value::Null, 200),
        (&attach, Value::Null, 202),
        (&detach, Value::Null, 200),
    ] {
        let answer = node.patient(&sent("POST", path, body)).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        if status == 202 {
            // A detach would end what has not come up yet.
            assert_eq!(node.settled(SPARE).await["slug"], "attached");
        }
    }
    let (disk, stored) = (&*node.place.env.disk, node.place.path("node").join("remote").join("tenants").join(SPARE));
    let manifest = read_file(disk, &stored.join("tenant-manifest.json-80000000")).unwrap();
    write_file_durably(disk, &stored.join("tenant-manifest.json-ffffffff"), &manifest).unwrap();
    assert_eq!(node.ask(&sent("POST", &attach, Value::Null)).await.status, 202);
    let status = node.settled(SPARE).await;
    assert!(status["slug"] == "failed" && status["data"]["reason"].as_str().unwrap().contains("no generation above"), "{status}");
    assert_eq!(node.server.stop(&node.place).await, Some(0));
    // The next start is not its end either.
    let server = PalServer::start(&node.place, "node", &[]).await;
    assert_eq!(server.stop(&node.place).await, Some(0));
}

/// Requests that succeed one after the other, every operation once, but for what a fresh server cannot do.
fn tour(directory: &str) -> Vec<(&'static str, &'static str, String, Value)> {
    let tenant = |rest: &str| format!("/v1/tenant/{SPARE}{rest}");
    let root = |rest: &str| format!("/v1/tenant/{SPARE}/timeline/{ROOT}{rest}");
    let (none, tl) = (Value::Null, "/v1/tenant/{tenant}/timeline/{timeline}");
    let create = json!({ "new_tenant_id": SPARE, "eviction_policy": { "kind": "NoEviction" }, "heatmap_period": 5 });
    let attached = json!({ "mode": "AttachedSingle", "generation": 50, "secondary_conf": null, "tenant_conf": { "gc_horizon": 5 } });
    let path = |rest: &str| -> &'static str { ["/v1/tenant/{tenant}", rest].concat().leak() };
    let of = |rest: &str| -> &'static str { [tl, rest].concat().leak() };
    let mut all: Vec<(&str, &str, String, Value)> =
        ["/v1/status", "/v1/openapi.json", "/swagger.yml", "/metrics", "/healthz", "/readyz", "/v1/tenant"]
            .iter()
            .map(|path| ("GET", *path, path.to_string(), none.clone()))
            .collect();
    all.extend([
        ("POST", "/v1/tenant", "/v1/tenant".to_string(), create),
        ("PUT", "/v1/tenant/config", "/v1/tenant/config".to_string(), json!({ "tenant_id": SPARE, "gc_period": "2h" })),
        ("GET", path(""), tenant(""), none.clone()),
        ("GET", path("/config"), tenant("/config"), none.clone()),
        ("POST", path("/timeline"), tenant("/timeline"), json!({ "new_timeline_id": ROOT, "pg_version": 15 })),
        ("POST", path("/timeline"), tenant("/timeline"), json!({ "new_timeline_id": LEAF, "ancestor_timeline_id": ROOT })),
        ("PUT", of("/import"), format!("/v1/tenant/{SPARE}/timeline/{IMPORTED}/import"), json!({ "directory": directory })),
        ("GET", path("/timeline"), tenant("/timeline"), none.clone()),
        ("GET", of(""), root("?include-non-incremental-logical-size=true"), none.clone()),
        ("PUT", of("/checkpoint"), root("/checkpoint"), none.clone()),
        ("PUT", of("/compact"), root("/compact"), none.clone()),
        ("PUT", of("/do_gc"), root("/do_gc"), json!({ "gc_horizon": 1 })),
        ("PUT", of("/wal_source"), root("/wal_source"), json!({ "connstr": "host=127.0.0.1 port=1 user=x" })),
        ("DELETE", of("/wal_source"), root("/wal_source"), none.clone()),
        ("GET", of("/get_lsn_by_timestamp"), root("/get_lsn_by_timestamp?timestamp=2026-01-01T00:00:00Z"), none.clone()),
        ("GET", of("/get_lsn_by_timestamp"), root("/get_lsn_by_timestamp?timestamp=2026-01-01T00:00:00Z&version=2"), none.clone()),
        ("GET", path("/synthetic_size"), tenant("/synthetic_size"), none.clone()),
        ("GET", path("/size"), tenant("/size?inputs_only=true"), none.clone()),
        ("PUT", "/v1/disk_usage_eviction/run", "/v1/disk_usage_eviction/run".to_string(), json!({ "evict_bytes": 1 })),
        ("PUT", path("/location_config"), tenant("/location_config?flush_ms=1000"), attached),
        ("POST", path("/ignore"), tenant("/ignore"), none.clone()),
        ("POST", path("/load"), tenant("/load"), json!({ "generation": 51 })),
        ("POST", path("/detach"), tenant("/detach?detach_ignored=true"), none.clone()),
        ("POST", path("/attach"), tenant("/attach"), json!({ "config": { "compaction_threshold": "7" }, "generation": 52 })),
        ("DELETE", of(""), format!("/v1/tenant/{SPARE}/timeline/{LEAF}"), none.clone()),
        ("DELETE", path(""), tenant(""), none),
    ]);
    all
}

/// Operations that have no success here: tokens are off; a fresh cluster has no commit.
const NOT_HERE: [&str; 2] = ["POST /v1/reload_auth_validation_keys", "GET /v1/tenant/{tenant}/timeline/{timeline}/get_timestamp_of_lsn"];

#[test]
fn good_input_in_any_order_gets_what_is_documented() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let document = Document::load();
    let operations = document.operations();
    let node = runtime.block_on(start());
    let kept = |state: Value| json!([state["config"], state["timelines"], state["tenant"]]);
    let before = kept(runtime.block_on(node.state()));
    let directory = runtime.block_on(node.place.cluster("stopped")).display().to_string();
    let mut succeeded = BTreeSet::new();
    for (method, pattern, path, body) in tour(&directory) {
        let operation = operations.iter().find(|o| o.method == method && o.path == pattern).unwrap_or_else(|| panic!("{method} {pattern}"));
        let request = sent(method, &path, body);
        let answer = runtime.block_on(node.patient(&request));
        judge(operation, &answer).unwrap_or_else(|reason| panic!("{request:?}: {reason}: {answer:?}"));
        assert!(answer.status < 300, "{request:?}: {answer:?}");
        succeeded.insert(operation.name());
    }
    let missed: Vec<_> = operations.iter().map(Operation::name).filter(|name| !succeeded.contains(name)).collect();
    assert_eq!(missed, NOT_HERE, "operations that the tour leaves out");

    let ids = Ids { tenants: vec![SPARE, OTHER_SPARE], timelines: vec![ROOT, BRANCH, LEAF] };
    let generator = Generator { document: &document, ids };
    let mut runner = runner(1);
    let mut requests: Vec<_> = operations.iter().map(|operation| (operation, generator.good(operation))).collect();
    // How a tenant comes to be, as often as the many ways in which it goes.
    for name in ["POST /v1/tenant", "POST /v1/tenant/{tenant}/timeline", "POST /v1/tenant/{tenant}/attach"] {
        let operation = operations.iter().find(|o| o.name() == name).unwrap();
        requests.extend([(operation, generator.good(operation)), (operation, generator.good(operation))]);
    }
    let choice = 0..requests.len();
    for step in 0..GOOD_CASES {
        let (operation, request) = &requests[choice.new_tree(&mut runner).unwrap().current()];
        let request = request.new_tree(&mut runner).unwrap().current();
        let answer = runtime.block_on(node.ask(&request));
        judge(operation, &answer).unwrap_or_else(|reason| panic!("step {step}: {request:?}: {reason}: {answer:?}"));
    }
    assert_eq!(kept(runtime.block_on(node.state())), before, "a tenant that no request named");
    assert_eq!(runtime.block_on(node.server.stop(&node.place)), Some(0));
}
