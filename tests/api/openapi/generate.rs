//! Requests made from the document: good ones by its schemas, bad ones with one thing wrong.

use super::document::{Body, Document, Operation, Parameter};
use crate::api::JSON;
use palimpsest::limits::HTTP_BODY_MAX;
use palimpsest::types::TenantId;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;
use serde_json::{Map, Value, json};
use std::fmt;

/// Ids that requests name.
pub struct Ids {
    pub tenants: Vec<&'static str>,
    pub timelines: Vec<&'static str>,
}

#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: String,
    pub body: Vec<u8>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
        write!(f, "{} {} {:?}, {} bytes: {body}", self.method, self.path, self.headers, self.body.len())
    }
}

pub struct Generator<'a> {
    pub document: &'a Document,
    pub ids: Ids,
}

const UNKNOWN: &str = "ffffffffffffffffffffffffffffffff";
const DURATIONS: [&str; 7] = ["0s", "10ms", "20s", "1h 30m", "7days", "36500days", "1ns"];
const LSNS: [&str; 5] = ["0/0", "0/10", "0/16ABCDE0", "FF/0", "FFFFFFFF/FFFFFFFF"];
const TIMES: [&str; 5] = [
    "2026-01-01T00:00:00Z",
    "2026-01-01T00:00:00.123456+02:00",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "1969-12-31T23:59:59-23:59",
];
/// Path segments that are no ids, as they are sent.
const NO_IDS: [&str; 14] = [
    "zz",
    "-1",
    "null",
    "..",
    "%2e%2e",
    "..%2f..",
    "%00",
    "%ff%fe",
    "%",
    "%zz",
    "1111111111111111111111111111111",
    "111111111111111111111111111111111",
    "gggggggggggggggggggggggggggggggg",
    "11111111111111111111111111111111%0a",
];

/// Values that most fields do not take.
fn wrong_values() -> Vec<Value> {
    let numbers = ["-1", "0", "1.5", "1e300", "256", "4294967296", "18446744073709551615", "18446744073709551616"];
    let mut all: Vec<Value> = numbers.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    all.extend([
        json!(null),
        json!(true),
        json!([]),
        json!({}),
        json!([[1]]),
        json!([true]),
        json!(["NoEviction"]),
        json!({ "kind": "Whim" }),
    ]);
    all.extend([json!({ "kind": "NoEviction", "x": 1 }), json!({ "kind": "LayerAccessThreshold", "period": 5, "threshold": "1s" })]);
    all.extend(["", "zz", "\0", "0/", "1/123456789", "-5", "Attachedsingle", "g1111111111111111111111111111111"].map(|text| json!(text)));
    all
}

fn escaped(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

impl Generator<'_> {
    /// A value that fits the schema. The name of the field says which texts make sense.
    fn value(&self, name: &str, schema: &Value) -> BoxedStrategy<Value> {
        let schema = self.document.resolve(schema);
        let plain = self.plain(name, schema);
        if schema["nullable"] == json!(true) { prop_oneof![4 => plain, 1 => Just(Value::Null)].boxed() } else { plain }
    }

    fn plain(&self, name: &str, schema: &Value) -> BoxedStrategy<Value> {
        if let Some(values) = schema["enum"].as_array() {
            return select(values.clone()).boxed();
        }
        if let Some(parts) = schema["oneOf"].as_array() {
            return Union::new(parts.iter().map(|part| self.value(name, part))).boxed();
        }
        if let Some(parts) = schema["allOf"].as_array() {
            return self.value(name, &parts[0]);
        }
        match schema["type"].as_str().unwrap() {
            "object" => self.object(schema),
            "boolean" => any::<bool>().prop_map(Value::from).boxed(),
            // Servers of other versions are fetched when they are asked for, if there is a way to.
            "integer" if name == "pg_version" => Just(json!(15)).boxed(),
            "integer" => {
                let (least, most) = (schema["minimum"].as_u64().unwrap(), schema["maximum"].as_u64().unwrap());
                let few = least..=most.min(least.saturating_add(20));
                prop_oneof![few, least..=most, select(vec![least, most, most / 2 + 1])].prop_map(Value::from).boxed()
            }
            "string" => self.text(name, schema).prop_map(Value::from).boxed(),
            other => panic!("{name}: requests have no {other}"),
        }
    }

    fn text(&self, name: &str, schema: &Value) -> BoxedStrategy<&'static str> {
        let pattern = schema["pattern"].as_str().unwrap_or_default();
        let choices = match name {
            _ if name.contains("timeline_id") => self.ids.timelines.clone(),
            _ if name.contains("tenant_id") => self.ids.tenants.clone(),
            "directory" => vec!["/nonexistent", "", "/proc/self/mem", "relative/../../x"],
            "connstr" => vec!["host=127.0.0.1 port=1 user=x", "host=", "", "port=x", "postgresql://[::1"],
            "timestamp" => TIMES.to_vec(),
            "compaction_threshold" => vec!["2", "7", "1", "99999999999999999999"],
            _ if pattern.contains('/') => LSNS.to_vec(),
            _ => DURATIONS.to_vec(),
        };
        select(choices).boxed()
    }

    fn object(&self, schema: &Value) -> BoxedStrategy<Value> {
        let required = required(schema);
        let mut names = Vec::new();
        let mut values = Vec::new();
        for (name, schema) in schema["properties"].as_object().unwrap() {
            values.push(perhaps(required.contains(name), 0.2, self.value(name, schema)));
            names.push(name.clone());
        }
        let object = move |values: Vec<Option<Value>>| -> Map<String, Value> {
            names.iter().cloned().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
        };
        values.prop_map(move |values| Value::Object(object(values))).boxed()
    }

    fn path(&self, operation: &Operation) -> BoxedStrategy<String> {
        let path = operation.path.clone();
        (select(self.ids.tenants.clone()), select(self.ids.timelines.clone()), select(vec!["", "/"]))
            .prop_map(move |(tenant, timeline, slash)| super::filled(&path, tenant, timeline) + slash)
            .boxed()
    }

    /// Parameters with their values, as they are sent.
    fn query(&self, operation: &Operation) -> BoxedStrategy<Vec<(String, String)>> {
        let one = |parameter: &Parameter| {
            let name = parameter.name.clone();
            let value: BoxedStrategy<Value> = self.value(&parameter.name, &parameter.schema);
            let pair = value.prop_map(move |value| (name.clone(), escaped(&text_of(&value)))).boxed();
            perhaps(parameter.required, 0.5, pair)
        };
        let all: Vec<_> = operation.query.iter().map(one).collect();
        all.prop_map(|pairs| pairs.into_iter().flatten().collect()).boxed()
    }

    fn body(&self, operation: &Operation) -> BoxedStrategy<Vec<u8>> {
        match &operation.body {
            None => Just(Vec::new()).boxed(),
            Some(body) => {
                let sent = self.value("", &body.schema).prop_map(|value| value.to_string().into_bytes()).boxed();
                if body.required { sent } else { prop_oneof![sent, Just(Vec::new())].boxed() }
            }
        }
    }

    /// A request that the document allows; ids may be unknown, and what is asked for may not be possible.
    pub fn good(&self, operation: &Operation) -> BoxedStrategy<Request> {
        let accept = select(vec!["", "accept: text/html\r\n", "accept: application/json\r\n"]);
        let method = operation.method.clone();
        (self.path(operation), self.query(operation), self.body(operation), accept)
            .prop_map(move |(path, query, body, accept)| request(&method, &path, &query, &format!("{accept}{JSON}"), body))
            .boxed()
    }

    /// A request with one thing wrong that no state of the server makes right.
    pub fn bad(&self, operation: &Operation) -> BoxedStrategy<Request> {
        let good = || (self.path(operation), self.query(operation), self.body(operation));
        let method = operation.method.clone();
        let build =
            move |path: String, query: Vec<(String, String)>, headers: &str, body: Vec<u8>| request(&method, &path, &query, headers, body);
        let large = (good(), HTTP_BODY_MAX + 1..2 * HTTP_BODY_MAX);
        let make = build.clone();
        let mut kinds = vec![(1, large.prop_map(move |((path, query, _), len)| make(path, query, JSON, vec![b' '; len])).boxed())];
        if operation.path.contains('{') {
            let make = build.clone();
            let bad = (bad_path(operation), self.query(operation), self.body(operation));
            kinds.push((6, bad.prop_map(move |(path, query, body)| make(path, query, JSON, body)).boxed()));
        }
        if !operation.query.is_empty() {
            let make = build.clone();
            let bad = (self.path(operation), self.bad_query(operation), self.body(operation));
            kinds.push((6, bad.prop_map(move |(path, query, body)| make(path, query, JSON, body)).boxed()));
        }
        if let Some(body) = &operation.body {
            let make = build.clone();
            let bad = (self.path(operation), self.query(operation), self.bad_value(body));
            kinds.push((16, bad.prop_map(move |(path, query, body)| make(path, query, JSON, body.to_string().into())).boxed()));
            let bad = (self.path(operation), self.query(operation), self.bad_bytes(body));
            kinds.push((8, bad.prop_map(move |(path, query, (headers, body))| build(path, query, headers, body)).boxed()));
        }
        Union::new_weighted(kinds).boxed()
    }

    fn bad_query(&self, operation: &Operation) -> BoxedStrategy<Vec<(String, String)>> {
        let wrong = |parameter: &Parameter| {
            let texts = match parameter.schema["type"].as_str().unwrap() {
                "boolean" => vec!["perhaps", "TRUE", "1", ""],
                "integer" => vec!["-1", "1.5", "x", "", "99999999999999999999", "0x10"],
                _ => vec!["", "yesterday", "0/", "1/123456789", "2026-01-01", "99999-01-01T00:00:00Z", "%FF"],
            };
            let name = parameter.name.clone();
            select(texts).prop_map(move |text| (name.clone(), text.to_string())).boxed()
        };
        let good = self.query(operation);
        let names: Vec<String> = operation.query.iter().map(|parameter| parameter.name.clone()).collect();
        let unknown = good.clone().prop_map(|query| [query, vec![("nothing".to_string(), "1".to_string())]].concat());
        let replaced = (good.clone(), Union::new(operation.query.iter().map(wrong))).prop_map(|(mut query, pair)| {
            query.retain(|(name, _)| *name != pair.0);
            query.push(pair);
            query
        });
        let twice = (good.clone(), select(names)).prop_map(|(query, name)| {
            let value = query.iter().find(|(known, _)| *known == name).map_or("1", |(_, value)| value.as_str());
            let pair = (name.clone(), value.to_string());
            [query.iter().filter(|(known, _)| *known != name).cloned().collect(), vec![pair.clone(), pair]].concat()
        });
        let needed: Vec<String> = operation.query.iter().filter(|p| p.required).map(|p| p.name.clone()).collect();
        let mut kinds = vec![unknown.boxed(), replaced.boxed(), twice.boxed()];
        if !needed.is_empty() {
            let without = (good, select(needed)).prop_map(|(query, gone)| query.into_iter().filter(|(name, _)| *name != gone).collect());
            kinds.push(without.boxed());
        }
        Union::new(kinds).boxed()
    }

    /// Each field of the body in turn with each wrong value, beside the fields that it needs.
    pub fn wrong_fields(&self, operation: &Operation) -> Vec<Request> {
        let Some(body) = &operation.body else { return Vec::new() };
        let path = super::filled(&operation.path, self.ids.tenants[0], self.ids.timelines[0]);
        let needed: Map<String, Value> = required(&body.schema)
            .into_iter()
            .map(|name| match name.as_str() {
                "mode" => (name, json!("Detached")),
                _ => (name, json!(self.ids.tenants[0])),
            })
            .collect();
        let mut all = Vec::new();
        for name in body.schema["properties"].as_object().unwrap().keys() {
            for wrong in wrong_values() {
                let mut value = Value::Object(needed.clone());
                value[name] = wrong;
                if !body.validator.is_valid(&value) {
                    all.push(request(&operation.method, &path, &[], JSON, value.to_string().into_bytes()));
                }
            }
        }
        all
    }

    fn bad_value(&self, body: &Body) -> BoxedStrategy<Value> {
        let good = self.value("", &body.schema);
        let names: Vec<String> = body.schema["properties"].as_object().unwrap().keys().cloned().collect();
        let needed = required(&body.schema);
        let replaced = (good.clone(), select(names), select(wrong_values())).prop_map(|(mut value, name, wrong)| {
            value[name] = wrong;
            value
        });
        let unknown = good.clone().prop_map(|mut value| {
            value["nothing_known"] = json!(1);
            value
        });
        let mut kinds = vec![(6, replaced.boxed()), (1, unknown.boxed()), (1, select(wrong_values()).boxed())];
        if !needed.is_empty() {
            let without = (good, select(needed)).prop_map(|(mut value, name)| {
                value.as_object_mut().map(|map: &mut Map<String, Value>| map.remove(&name));
                value
            });
            kinds.push((1, without.boxed()));
        }
        let validator = body.validator.clone();
        Union::new_weighted(kinds).prop_filter("it fits after all", move |value| !validator.is_valid(value)).boxed()
    }

    /// Bytes that are no JSON, or are not said to be.
    fn bad_bytes(&self, body: &Body) -> BoxedStrategy<(&'static str, Vec<u8>)> {
        let good = self.value("", &body.schema).prop_map(|value| value.to_string().into_bytes());
        let cut = (good.clone(), any::<prop::sample::Index>()).prop_map(|(body, at)| body[..1 + at.index(body.len() - 1)].to_vec());
        let trailing = good.clone().prop_map(|body| [&body[..], b"x"].concat());
        let foreign = vec![b"\xff\xfe{}".to_vec(), b"{\"\xff\":1}".to_vec(), vec![b'['; 10_000], b"{\"a\":".repeat(5_000), b"\0".to_vec()];
        let noise = vec(any::<u8>(), 1..60).prop_filter("it is JSON", |bytes| serde_json::from_slice::<Value>(bytes).is_err());
        let broken = prop_oneof![cut, trailing, select(foreign), noise].prop_map(|body| (JSON, body));
        if !body.required {
            return broken.boxed();
        }
        let kinds = select(vec!["", "content-type: text/plain\r\n", "content-type: application/jsonx\r\n", "content-type: \r\n"]);
        prop_oneof![3 => broken, 1 => (kinds, good), 1 => Just((JSON, Vec::new()))].boxed()
    }
}

/// A part that may be left out, unless it is required.
fn perhaps<T: fmt::Debug + Clone + 'static>(required: bool, chance: f64, part: BoxedStrategy<T>) -> BoxedStrategy<Option<T>> {
    if required { part.prop_map(Some).boxed() } else { prop::option::weighted(chance, part).boxed() }
}

fn required(schema: &Value) -> Vec<String> {
    schema["required"].as_array().into_iter().flatten().map(text_of).collect()
}

fn request(method: &str, path: &str, query: &[(String, String)], headers: &str, body: Vec<u8>) -> Request {
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let path = if query.is_empty() { path.to_string() } else { format!("{path}?{}", query.join("&")) };
    Request { method: method.to_string(), path, headers: headers.to_string(), body }
}

/// One of the ids is none.
fn bad_path(operation: &Operation) -> BoxedStrategy<String> {
    let path = operation.path.clone();
    let odd = ".{1,40}".prop_filter("another path, or an id", |text| text != "config" && text.parse::<TenantId>().is_err());
    let wrong = prop_oneof![select(NO_IDS.to_vec()).prop_map(str::to_string), odd.prop_map(|text| escaped(&text))];
    let both = path.contains("{timeline}");
    (wrong, any::<bool>())
        .prop_map(move |(wrong, second)| match second && both {
            true => super::filled(&path, UNKNOWN, &wrong),
            false => super::filled(&path, &wrong, UNKNOWN),
        })
        .boxed()
}
