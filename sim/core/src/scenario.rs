//! Scenario files: a distribution of runs. Each seed draws one explicit [`crate::plan::Plan`] from it.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A value between two bounds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "[u64; 2]", into = "[u64; 2]")]
pub struct Between {
    pub min: u64,
    pub max: u64,
}

impl TryFrom<[u64; 2]> for Between {
    type Error = String;

    fn try_from([min, max]: [u64; 2]) -> Result<Between, String> {
        if min <= max { Ok(Between { min, max }) } else { Err(format!("the range [{min}, {max}] is empty")) }
    }
}

impl From<Between> for [u64; 2] {
    fn from(range: Between) -> [u64; 2] {
        [range.min, range.max]
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// File name without its ending.
    #[serde(skip)]
    pub name: String,
    pub summary: String,
    /// Backends that run it.
    pub worlds: Vec<String>,
    pub run_ms: Between,
    pub heal_ms: u64,
    pub final_wipe_chance: u64,
    pub audit_versions: u64,
    /// Marks that some seed of a sweep must reach.
    pub must_reach: Vec<String>,
    pub workload: Workload,
    pub walsender: Walsender,
    pub network: Network,
    pub pageserver: Pageserver,
    pub faults: Faults,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    pub readers: Between,
    pub step_every_ms: Between,
    pub steps_per_burst: Between,
    pub read_every_ms: Between,
    pub relations_max: Between,
    pub tuple_bytes_max: Between,
    pub transaction_records_max: Between,
    pub checkpoint_steps: Between,
    pub full_page_writes_chance: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walsender {
    pub chunk_bytes_max: Between,
    pub stall_ppm: Between,
    pub stall_ms_max: Between,
    pub keepalive_ms: Between,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub latency_ms: Between,
    /// Step of the network's time in the world `net`: 1 for short scenarios, 5 for long ones.
    pub tick_ms: u64,
    pub segment_bytes: Between,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pageserver {
    pub checkpoint_distance: Between,
    pub checkpoint_timeout_ms: Between,
    pub open_layer_bytes_max: Between,
    pub block_cache_bytes: Between,
    pub wait_lsn_timeout_ms: Between,
    pub idle_timeout_ms: Between,
    pub wal_log_keep_bytes: Between,
    pub compaction_target_size: Between,
    pub redo_child_chance: u64,
    pub redo_fault_ppm: Between,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// Time between two faults.
    pub every_ms: Between,
    pub power_loss: Crash,
    pub process_crash: Crash,
    pub wipe: Crash,
    pub primary_away: Episode,
    pub store_errors: StoreErrors,
    pub store_outage: Episode,
    pub clog: Episode,
    pub reset: Family,
}

/// Percentage of seeds that have this family of faults at all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    pub chance: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    pub chance: u64,
    pub down_ms: Between,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Episode {
    pub chance: u64,
    pub for_ms: Between,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreErrors {
    pub chance: u64,
    pub for_ms: Between,
    pub before_ppm: Between,
    pub after_ppm: Between,
    pub silent_ppm: Between,
}

/// The scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("read the scenario {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    /// The message names line and key.
    #[error("scenario {}: {error}", path.display())]
    Parse { path: PathBuf, error: toml::de::Error },
}

impl Scenario {
    /// Parses a scenario file's text. `path` is for messages and gives the name.
    pub fn parse(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
        let parsed: Result<Scenario, _> = toml::from_str(text);
        let mut scenario = parsed.map_err(|error| ScenarioError::Parse { path: path.to_path_buf(), error })?;
        scenario.name = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMOKE: &str = include_str!("../../../scenarios/smoke.toml");

    fn error(text: &str) -> String {
        Scenario::parse(Path::new("scenarios/x.toml"), text).expect_err("is wrong").to_string()
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let scenario = Scenario::parse(Path::new("scenarios/smoke.toml"), SMOKE).expect("is right");
        assert_eq!((scenario.name.as_str(), scenario.worlds.as_slice()), ("smoke", &["net".to_string(), "sched".to_string()][..]));
        let unknown = error(&SMOKE.replace("readers = ", "raeders = "));
        assert!(unknown.contains("scenarios/x.toml") && unknown.contains("line ") && unknown.contains("raeders"), "{unknown}");
        let empty = error(&SMOKE.replace("readers = [1, 3]", "readers = [3, 1]"));
        assert!(empty.contains("line ") && empty.contains("readers") && empty.contains("empty"), "{empty}");
        let missing = error(&SMOKE.replace("heal_ms = 300_000", ""));
        assert!(missing.contains("heal_ms"), "{missing}");
    }
}
