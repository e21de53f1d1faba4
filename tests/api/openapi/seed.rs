//! Our document against the one that clients were written for: every operation of it, with its statuses, parameters and fields, is
//! here, or docs/api/README.md has a row that says why not; what came to be is in a row too.

use super::document::Document;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Facts of the document of Neon's pageserver, December 2023: operation, statuses, parameters, fields of the body, fields of the answer.
const SEED: &str = "\
GET /v1/status|200|||id:integer
PUT /v1/disk_usage_eviction/run|200||evict_bytes:integer|object
POST /v1/reload_auth_validation_keys|200 401 403 500|||
GET /v1/tenant|200 401 403 500 503|||[] TENANT
POST /v1/tenant|201 400 401 403 409 500 503||SETTINGS new_tenant_id:string generation:integer|string
PUT /v1/tenant/config|200 400 401 403 500 503||SETTINGS tenant_id:string|[] TENANT
GET /v1/tenant/{tenant}|200 400 401 403 500 503|||TENANT
DELETE /v1/tenant/{tenant}|400 401 403 404 409 500 503|||
POST /v1/tenant/{tenant}/attach|202 400 401 403 404 409 500 503||config:object generation:integer|
GET /v1/tenant/{tenant}/config|200 400 401 403 404 500 503|||tenant_specific_overrides:object effective_config:object
POST /v1/tenant/{tenant}/detach|200 400 401 403 404 500 503|detach_ignored:boolean||
POST /v1/tenant/{tenant}/ignore|200 400 401 403 500 503|||
POST /v1/tenant/{tenant}/load|202 400 401 403 500 503||generation:integer|
PUT /v1/tenant/{tenant}/location_config|200 401 403 409 500 503|flush_ms:integer|tenant_id:string mode:string generation:integer secondary_conf:object tenant_conf:object|
GET /v1/tenant/{tenant}/size|200 401 403 500 503|inputs_only:boolean retention_period:integer||id:string size:integer
GET /v1/tenant/{tenant}/synthetic_size|200 401 403 500 503|||id:string size:integer segment_sizes:array inputs:object
GET /v1/tenant/{tenant}/timeline|200 400 401 403 500 503|||[] TIMELINE
POST /v1/tenant/{tenant}/timeline|201 400 401 403 406 409 500 503||new_timeline_id:string ancestor_timeline_id:string ancestor_start_lsn:string pg_version:integer existing_initdb_timeline_id:string|TIMELINE
GET /v1/tenant/{tenant}/timeline/{timeline}|200 400 401 403 500 503|||TIMELINE
DELETE /v1/tenant/{tenant}/timeline/{timeline}|400 401 403 404 409 412 500 503|||
PUT /v1/tenant/{tenant}/timeline/{timeline}/do_gc|200 400 401 403 500 503|||string
GET /v1/tenant/{tenant}/timeline/{timeline}/get_lsn_by_timestamp|200 400 401 403 500 503|timestamp:string version:integer||lsn:string kind:string
GET /v1/tenant/{tenant}/timeline/{timeline}/get_timestamp_of_lsn|200 400 401 403 404 500|lsn:string||string";

const TENANT: &str = "id:string current_physical_size:integer attachment_status:object";
const SETTINGS: &str = "gc_period:string gc_horizon:integer pitr_interval:string checkpoint_distance:integer checkpoint_timeout:string \
    compaction_target_size:integer compaction_period:string compaction_threshold:string image_creation_threshold:integer \
    walreceiver_connect_timeout:string lagging_wal_timeout:string max_lsn_wal_lag:integer trace_read_requests:boolean heatmap_period:integer";
const TIMELINE: &str = "timeline_id:string tenant_id:string last_record_lsn:string disk_consistent_lsn:string remote_consistent_lsn:string \
    remote_consistent_lsn_visible:string ancestor_timeline_id:string ancestor_lsn:string prev_record_lsn:string \
    current_logical_size:integer current_physical_size:integer wal_source_connstr:string last_received_msg_lsn:string \
    last_received_msg_ts:integer state:string latest_gc_cutoff_lsn:string";

/// A type, with the fields of an object or of an array's items by their types.
#[derive(Default)]
struct Shape {
    forms: BTreeSet<String>,
    fields: BTreeMap<String, String>,
}

impl Shape {
    fn of_seed(text: &str) -> Shape {
        let text = text.replace("TENANT", TENANT).replace("SETTINGS", SETTINGS).replace("TIMELINE", TIMELINE);
        let (is_array, text) = text.strip_prefix("[] ").map_or((false, text.as_str()), |items| (true, items));
        let fields: BTreeMap<String, String> = fields(text);
        let form = match (is_array, fields.is_empty()) {
            (true, _) => "array",
            (false, false) => "object",
            (false, true) => text,
        };
        Shape { forms: BTreeSet::from([form.to_string()]), fields }
    }

    fn of(document: &Document, schema: &Value) -> Shape {
        let schema = document.resolve(schema);
        let mut shape = Shape::default();
        if let Some(parts) = ["oneOf", "allOf"].iter().find_map(|key| schema[key].as_array()) {
            for part in parts.iter().map(|part| Shape::of(document, part)) {
                shape.forms.extend(part.forms);
                shape.fields.extend(part.fields);
            }
            return shape;
        }
        // An answer that says nothing is `null`, which is no content in the other document.
        let nothing = schema["enum"] == serde_json::json!([null]);
        shape.forms.extend(if nothing { Some("") } else { schema["type"].as_str() }.map(str::to_string));
        if schema["type"] == "array" {
            shape.fields = Shape::of(document, &schema["items"]).fields;
        }
        let properties = schema["properties"].as_object().into_iter().flat_map(Map::iter);
        shape.fields.extend(properties.map(|(key, value)| (key.clone(), Shape::of(document, value).form())));
        shape
    }

    fn form(&self) -> String {
        self.forms.iter().cloned().collect::<Vec<_>>().join(" or ")
    }
}

fn fields(text: &str) -> BTreeMap<String, String> {
    text.split_whitespace().filter_map(|field| field.split_once(':')).map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

/// What one has and the other has not, and what has another type.
fn compare(seed: &BTreeMap<String, String>, own: &BTreeMap<String, String>, place: &str) -> Vec<String> {
    let missing = seed.keys().filter(|key| !own.contains_key(*key)).map(|key| format!("no {key} in the {place}"));
    let added = own.keys().filter(|key| !seed.contains_key(*key)).map(|key| format!("also {key} in the {place}"));
    let changed = seed.iter().filter_map(|(key, form)| own.get(key).filter(|own| *own != form).map(|own| (key, own)));
    missing.chain(added).chain(changed.map(|(key, own)| format!("{key} in the {place}: {own}"))).collect()
}

fn compare_shapes(seed: &Shape, own: &Shape, place: &str) -> Vec<String> {
    match seed.forms.is_disjoint(&own.forms) {
        true => vec![format!("the {place}: {}", if own.form().is_empty() { "null".to_string() } else { own.form() })],
        false => compare(&seed.fields, &own.fields, place),
    }
}

/// Differences of one line of [`SEED`].
fn differences(document: &Document, line: &str) -> (String, Vec<String>) {
    let parts: Vec<&str> = line.split('|').collect();
    let [name, statuses, parameters, body, answer] = parts[..] else { panic!("{line}") };
    let (method, path) = name.split_once(' ').unwrap();
    let own = &document.root["paths"][path][method.to_lowercase()];
    assert!(own.is_object(), "docs/api/openapi.json has no {name}");
    let (seed, now): (BTreeSet<&str>, BTreeSet<&str>) =
        (statuses.split(' ').collect(), own["responses"].as_object().unwrap().keys().map(String::as_str).collect());
    let mut found: Vec<String> = seed.difference(&now).map(|status| format!("no {status}")).collect();
    found.extend(now.difference(&seed).map(|status| format!("also {status}")));
    let query = own["parameters"].as_array().into_iter().flatten();
    let query = query.map(|p| (p["name"].as_str().unwrap().to_string(), Shape::of(document, &p["schema"]).form())).collect();
    found.extend(compare(&fields(parameters), &query, "query"));
    let content = |value: &Value| Shape::of(document, &value["content"]["application/json"]["schema"]);
    let sent = own.get("requestBody").map(content).unwrap_or_else(|| Shape::of_seed(""));
    found.extend(compare_shapes(&Shape::of_seed(body), &sent, "body"));
    let code = now.iter().find(|status| status.starts_with('2')).unwrap();
    found.extend(compare_shapes(&Shape::of_seed(answer), &content(&own["responses"][code]), "answer"));
    (name.to_string(), found)
}

/// Texts in code marks.
fn marked(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn differences_from_the_seed_are_explained() {
    let document = Document::load();
    let text = include_str!("../../../docs/api/README.md");
    let section = text.split_once("## Differences from Neon's document").expect("the section").1.split("\n#").next().unwrap();
    let rows: Vec<Vec<&str>> = section.lines().filter(|line| line.starts_with("| `")).map(|line| line.split(" | ").collect()).collect();
    // A cell without an operation stands for all that have the difference.
    let explains = |row: &[&str], name: &str, what: &str| {
        marked(row[0]).contains(&what) && (marked(row[1]).is_empty() || marked(row[1]).contains(&name))
    };
    let found: Vec<(String, Vec<String>)> = SEED.lines().map(|line| differences(&document, line)).collect();
    let mut offences = Vec::new();
    for (name, whats) in &found {
        let open = whats.iter().filter(|what| !rows.iter().any(|row| explains(row, name, what)));
        offences.extend(open.map(|what| format!("no row explains: {name}: {what}")));
    }
    for row in &rows {
        assert!(row.len() == 3 && row[2].len() > 10, "{row:?} says no reason");
        let stale = marked(row[0])
            .into_iter()
            .filter(|what| !found.iter().any(|(n, whats)| whats.iter().any(|w| w == what && explains(row, n, w))));
        offences.extend(stale.map(|what| format!("no difference any more: {what}")));
    }
    assert!(offences.is_empty(), "docs/api/README.md, differences from Neon's document:\n  {}", offences.join("\n  "));
}
