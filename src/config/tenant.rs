//! Settings that each tenant may have of its own; the node's settings hold the values for the others.

use super::{ConfigError, duration, nearest};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::num::NonZeroU64;
use std::time::Duration;

/// What a tenant does with layers that are not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
pub enum EvictionPolicy {
    #[default]
    NoEviction,
    /// Every `period`, layers that nobody read for `threshold` leave the local disk.
    LayerAccessThreshold {
        #[serde(with = "duration")]
        period: Duration,
        #[serde(with = "duration")]
        threshold: Duration,
    },
}

/// The settings of a tenant, each with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantConfig {
    /// Bytes of WAL after which the open layer is frozen.
    pub checkpoint_distance: u64,
    /// Time after which an open layer with something new is frozen.
    #[serde(with = "duration")]
    pub checkpoint_timeout: Duration,
    /// Size in bytes at which an image layer is cut.
    pub compaction_target_size: u64,
    /// Pause between two passes of compaction; none: there is no compaction.
    #[serde(with = "duration")]
    pub compaction_period: Duration,
    /// Flushed layers that are merged into layers of fewer keys.
    #[serde(deserialize_with = "number_or_text")]
    pub compaction_threshold: u64,
    /// Bytes of WAL behind the last record whose history is kept.
    pub gc_horizon: u64,
    /// Pause between two passes of garbage collection; none: nothing is collected.
    #[serde(with = "duration")]
    pub gc_period: Duration,
    /// Deltas over the last image of a part of the keys that call for the next one.
    pub image_creation_threshold: u64,
    /// Time whose history is kept; none: `gc_horizon` decides alone.
    #[serde(with = "duration")]
    pub pitr_interval: Duration,
    /// How long to wait for a connection to a primary.
    #[serde(with = "duration")]
    pub walreceiver_connect_timeout: Duration,
    /// How long nothing may come while the receiver is `max_lsn_wal_lag` behind its primary, before it connects again.
    #[serde(with = "duration")]
    pub lagging_wal_timeout: Duration,
    /// Bytes of WAL.
    pub max_lsn_wal_lag: NonZeroU64,
    /// Writes the requests of each page service connection to a file.
    pub trace_read_requests: bool,
    pub eviction_policy: EvictionPolicy,
    /// Bytes of layers that stay on the local disk under pressure; unset: those of the largest layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_resident_size_override: Option<u64>,
    /// Evictions of layers that were here for less than this are counted apart.
    #[serde(with = "duration")]
    pub evictions_low_residence_duration_metric_threshold: Duration,
    /// Garbage collection asks compaction for the images that it lacks.
    pub gc_feedback: bool,
    /// Pause between two uploads of the list of resident layers; none: it is not uploaded.
    #[serde(with = "duration::or_seconds")]
    pub heatmap_period: Duration,
}

/// The one setting that has no value unless it is set.
pub(super) const UNSET: &str = "min_resident_size_override";

impl Default for TenantConfig {
    fn default() -> TenantConfig {
        TenantConfig {
            checkpoint_distance: 256 << 20,
            checkpoint_timeout: Duration::from_secs(600),
            compaction_target_size: 128 << 20,
            compaction_period: Duration::from_secs(20),
            compaction_threshold: 10,
            gc_horizon: 64 << 20,
            gc_period: Duration::from_secs(3600),
            image_creation_threshold: 3,
            pitr_interval: Duration::from_secs(7 * 86_400),
            walreceiver_connect_timeout: Duration::from_secs(10),
            lagging_wal_timeout: Duration::from_secs(10),
            max_lsn_wal_lag: const { NonZeroU64::new(10 << 20).expect("is not zero") },
            trace_read_requests: false,
            eviction_policy: EvictionPolicy::NoEviction,
            min_resident_size_override: None,
            evictions_low_residence_duration_metric_threshold: Duration::from_secs(86_400),
            gc_feedback: false,
            heatmap_period: Duration::ZERO,
        }
    }
}

/// `"10"` is as good as `10`: the API's document says text, its implementations number.
fn number_or_text<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(u64),
        Text(String),
    }
    let wrong = || serde::de::Error::custom("expected a number that is not negative");
    match Form::deserialize(d).map_err(|_| wrong())? {
        Form::Number(number) => Ok(number),
        Form::Text(text) => text.parse().map_err(|_| wrong()),
    }
}

impl TenantConfig {
    /// Errors: a value that cannot be meant, with its bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let at_least = |key, value: u64, least: u64, unit| match value < least {
            true => Err(ConfigError::Least { key, value, least, unit }),
            false => Ok(()),
        };
        at_least("checkpoint_distance", self.checkpoint_distance, 8192, "bytes, one WAL page")?;
        at_least("compaction_target_size", self.compaction_target_size, 8192, "bytes, one page")?;
        at_least("compaction_threshold", self.compaction_threshold, 2, "layers")?;
        at_least("image_creation_threshold", self.image_creation_threshold, 1, "layer")?;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        at_least("checkpoint_timeout", millis(self.checkpoint_timeout), 10, "ms")?;
        at_least("walreceiver_connect_timeout", millis(self.walreceiver_connect_timeout), 10, "ms")?;
        at_least("lagging_wal_timeout", millis(self.lagging_wal_timeout), 10, "ms")?;
        if let EvictionPolicy::LayerAccessThreshold { period, .. } = self.eviction_policy {
            at_least("eviction_policy.period", millis(period), 10, "ms")?;
        }
        Ok(())
    }

    fn as_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            other => unreachable!("settings are plain data: {other:?}"),
        }
    }
}

/// The settings that a tenant has of its own: names and values in their canonical form, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TenantOverrides(Map<String, Value>);

impl TenantOverrides {
    /// Takes what a client sent. A value of `null` is a setting left out.
    ///
    /// Errors: the first name that is unknown, or value that is not one for it.
    pub fn parse(sent: Map<String, Value>, node: &TenantConfig) -> Result<TenantOverrides, ConfigError> {
        let base = node.as_map();
        let known = || base.keys().map(String::as_str).chain([UNSET]);
        let mut own = Map::new();
        for (key, value) in sent.into_iter().filter(|(_, value)| !value.is_null()) {
            if !known().any(|name| name == key) {
                let nearest = nearest(known(), &key);
                return Err(ConfigError::UnknownKey { origin: "of a tenant".into(), key, nearest });
            }
            let mut map = base.clone();
            map.insert(key.clone(), value.clone());
            let typed: TenantConfig = serde_json::from_value(Value::Object(map))
                .map_err(|error| ConfigError::Parse { origin: format!("of a tenant: {key}"), error: error.to_string() })?;
            typed.validate()?;
            let canonical = typed.as_map().remove(&key);
            refuse_more(&key, &value, canonical.as_ref())?;
            own.extend(canonical.map(|value| (key, value)));
        }
        Ok(TenantOverrides(own))
    }

    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// What holds for the tenant.
    pub fn over(&self, node: &TenantConfig) -> TenantConfig {
        let mut map = node.as_map();
        map.extend(self.0.clone());
        serde_json::from_value(Value::Object(map)).expect("each value was checked")
    }
}

/// Errors: more was sent than was understood. A tagged enum takes lists, and passes over fields beside the tag of a variant without any.
fn refuse_more(key: &str, sent: &Value, understood: Option<&Value>) -> Result<(), ConfigError> {
    let refuse = |error: String| Err(ConfigError::Parse { origin: format!("of a tenant: {key}"), error });
    match (sent, understood) {
        (Value::Array(_), _) => refuse("a list is no value for it".to_string()),
        (Value::Object(sent), Some(Value::Object(understood))) => match sent.keys().find(|name| !understood.contains_key(*name)) {
            Some(name) => refuse(format!("unknown field \"{name}\"")),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(sent: Value) -> Result<TenantOverrides, String> {
        let Value::Object(map) = sent else { panic!("an object") };
        TenantOverrides::parse(map, &TenantConfig::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn overrides_are_canonical_and_lie_over_the_node_s_settings() {
        let sent = json!({
            "gc_horizon": 1024, "compaction_threshold": "12", "heatmap_period": 20, "pitr_interval": "1h 30min",
            "eviction_policy": {"kind": "LayerAccessThreshold", "period": "20s", "threshold": "1day"},
            "min_resident_size_override": 77, "gc_period": null,
        });
        let own = parse(sent).unwrap();
        let expected = json!({
            "gc_horizon": 1024, "compaction_threshold": 12, "heatmap_period": "20s", "pitr_interval": "1h 30m",
            "eviction_policy": {"kind": "LayerAccessThreshold", "period": "20s", "threshold": "1day"},
            "min_resident_size_override": 77,
        });
        assert_eq!(serde_json::to_value(&own).unwrap(), expected);
        let effective = own.over(&TenantConfig { checkpoint_distance: 9000, ..TenantConfig::default() });
        assert_eq!((effective.gc_horizon, effective.checkpoint_distance), (1024, 9000));
        assert_eq!((effective.min_resident_size_override, effective.gc_period), (Some(77), Duration::from_secs(3600)));
        assert_eq!(parse(expected).unwrap(), own);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (sent, part) in [
            (json!({"gc_horizonn": 1}), "did you mean \"gc_horizon\""),
            (json!({"gc_horizon": -1}), "gc_horizon"),
            (json!({"gc_horizon": "x"}), "gc_horizon"),
            (json!({"gc_horizon": 1e30}), "gc_horizon"),
            (json!({"pitr_interval": 7}), "pitr_interval"),
            (json!({"pitr_interval": "400 years"}), "hundred years"),
            (json!({"pitr_interval": "soon"}), "not a duration"),
            (json!({"heatmap_period": -1}), "number of seconds"),
            (json!({"max_lsn_wal_lag": 0}), "max_lsn_wal_lag"),
            (json!({"checkpoint_distance": 1}), "at least 8192"),
            (json!({"compaction_threshold": "one"}), "compaction_threshold"),
            (json!({"eviction_policy": {"kind": "Never"}}), "eviction_policy"),
            (json!({"eviction_policy": ["NoEviction"]}), "eviction_policy: a list"),
            (json!({"eviction_policy": {"kind": "NoEviction", "period": "1s"}}), "unknown field \"period\""),
            (json!({"eviction_policy": {"kind": "LayerAccessThreshold", "period": "0s", "threshold": "1s"}}), "at least 10"),
            (json!({"gc_feedback": "yes"}), "gc_feedback"),
        ] {
            let error = parse(sent.clone()).unwrap_err();
            assert!(error.contains(part), "{sent}: {error}");
        }
    }
}
