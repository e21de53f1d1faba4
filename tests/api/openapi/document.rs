//! The served document as the tests read it: operations, and a validator for each schema.

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys of a path that are operations.
pub const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "trace", "options"];

pub struct Document {
    pub root: Value,
}

pub struct Parameter {
    pub name: String,
    pub required: bool,
    pub schema: Value,
}

pub struct Body {
    pub required: bool,
    pub schema: Value,
    pub validator: Arc<Validator>,
}

pub struct Answer {
    /// A status that this operation describes in words of its own.
    pub own: bool,
    pub json: Option<Validator>,
    pub kinds: Vec<String>,
}

pub struct Operation {
    pub method: String,
    /// With placeholders.
    pub path: String,
    /// Without a token.
    pub open: bool,
    pub query: Vec<Parameter>,
    pub body: Option<Body>,
    pub answers: BTreeMap<u16, Answer>,
}

impl Operation {
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

impl Document {
    pub fn load() -> Document {
        Document { root: serde_json::from_str(include_str!("../../../docs/api/openapi.json")).unwrap() }
    }

    /// What a reference means; anything else is itself.
    pub fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').unwrap();
                self.resolve(self.root.pointer(pointer).unwrap_or_else(|| panic!("{reference} is not in the document")))
            }
            None => value,
        }
    }

    pub fn validator(&self, schema: &Value) -> Validator {
        let whole = json!({ "components": without_nullable(&self.root["components"]), "allOf": [without_nullable(schema)] });
        let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
        options.build(&whole).unwrap_or_else(|error| panic!("{schema}: {error}"))
    }

    pub fn operations(&self) -> Vec<Operation> {
        let mut all = Vec::new();
        for (path, item) in self.root["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| METHODS.contains(&key.as_str())) {
                all.push(self.operation(method, path, operation));
            }
        }
        all
    }

    fn operation(&self, method: &str, path: &str, operation: &Value) -> Operation {
        let parameters = operation["parameters"].as_array().into_iter().flatten().map(|parameter| {
            assert_eq!(parameter["in"], "query", "{method} {path}");
            Parameter {
                name: parameter["name"].as_str().unwrap().to_string(),
                required: parameter["required"].as_bool().unwrap(),
                schema: self.resolve(&parameter["schema"]).clone(),
            }
        });
        let body = operation.get("requestBody").map(|body| {
            let schema = &body["content"]["application/json"]["schema"];
            let required = body["required"].as_bool().unwrap();
            Body { required, schema: self.resolve(schema).clone(), validator: Arc::new(self.validator(schema)) }
        });
        let answers = operation["responses"].as_object().unwrap().iter().map(|(status, answer)| {
            let content = self.resolve(answer)["content"].as_object().cloned().unwrap_or_default();
            let json = content.get("application/json").map(|content| self.validator(&content["schema"]));
            let kinds = content.keys().cloned().collect();
            (status.parse().unwrap(), Answer { own: answer.get("$ref").is_none(), json, kinds })
        });
        Operation {
            method: method.to_uppercase(),
            path: path.to_string(),
            open: operation["security"] == json!([]),
            query: parameters.collect(),
            body,
            answers: answers.collect(),
        }
    }
}

/// OpenAPI 3.0's `nullable` in the words of JSON Schema.
fn without_nullable(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let mut plain: Map<String, Value> =
                map.iter().filter(|(key, _)| *key != "nullable").map(|(key, value)| (key.clone(), without_nullable(value))).collect();
            if map.get("nullable") == Some(&json!(true)) {
                plain = Map::from_iter([("anyOf".to_string(), json!([plain, { "type": "null" }]))]);
            }
            Value::Object(plain)
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nullable).collect()),
        plain => plain.clone(),
    }
}

#[test]
fn schemas_tell_values_apart() {
    let document = Document::load();
    let check = |name: &str, value: Value, fits: bool| {
        let validator = document.validator(&json!({ "$ref": format!("#/components/schemas/{name}") }));
        assert_eq!(validator.is_valid(&value), fits, "{name}: {value}");
    };
    let id = "11111111111111111111111111111111";
    check("TenantId", json!(id), true);
    check("TenantId", json!("1"), false);
    check("Nothing", Value::Null, true);
    check("Nothing", json!({}), false);
    check("TenantSettings", json!({ "gc_horizon": null, "compaction_threshold": "7", "heatmap_period": 3 }), true);
    check("TenantSettings", json!({ "gc_horizon": -1 }), false);
    check("TenantSettings", json!({ "gc_horizon": 1.5 }), false);
    check("TenantSettings", json!({ "gc_horizonn": 1 }), false);
    check("TenantSettings", json!({ "eviction_policy": { "kind": "NoEviction" } }), true);
    check("TenantSettings", json!({ "eviction_policy": { "kind": "LayerAccessThreshold", "period": "1s" } }), false);
    check("TenantCreateRequest", json!({ "new_tenant_id": id, "gc_period": "1h" }), true);
    check("TenantCreateRequest", json!({ "gc_period": "1h" }), false);
    check("TenantLocationConfigRequest", json!({ "mode": "Detached", "tenant_conf": null, "secondary_conf": null }), true);
    check("TenantLocationConfigRequest", json!({ "mode": "Detached", "tenant_conf": { "x": 1 } }), false);
}

#[test]
fn settings_are_the_same_wherever_they_are_sent() {
    let document = Document::load();
    let of = |name: &str| document.root["components"]["schemas"][name]["properties"].as_object().unwrap().clone();
    let settings = of("TenantSettings");
    let (mut create, mut config) = (of("TenantCreateRequest"), of("TenantConfigRequest"));
    for own in ["new_tenant_id", "generation"] {
        create.remove(own).unwrap();
    }
    config.remove("tenant_id").unwrap();
    assert_eq!((&create, &config), (&settings, &settings));
    let names = |map: &Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&of("TenantSettingsShown")), names(&settings));
}
