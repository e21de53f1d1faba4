//! Scenario files: a distribution of runs. Each seed draws one explicit [`crate::plan::Plan`] from it.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A value between two bounds, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a file does not say has the value of the `Default` of its section: that of the scenario `smoke`, without any fault.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// File name without its ending.
    #[serde(skip)]
    pub name: String,
    pub summary: String,
    /// Backends that run it.
    pub worlds: Vec<String>,
    /// Simulated time with faults.
    pub run_ms: Between,
    /// Bound for catching up after they end.
    pub heal_ms: u64,
    /// Percentage of seeds that end with the loss of the machine and a full read-back from remote storage.
    pub final_wipe_chance: u64,
    /// Page versions that the final read-back compares.
    pub audit_versions: u64,
    /// What is durable and what comes back is not judged, only what is answered: for disks that lie.
    #[serde(default)]
    pub hostile: bool,
    /// Marks that some seed of a sweep must reach.
    pub must_reach: Vec<String>,
    #[serde(default)]
    pub workload: Workload,
    #[serde(default)]
    pub walsender: Walsender,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub pageserver: Pageserver,
    #[serde(default)]
    pub faults: Faults,
}

const fn range(min: u64, max: u64) -> Between {
    Between { min, max }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    pub readers: Between,
    /// Pauses of the actors.
    pub step_every_ms: Between,
    pub steps_per_burst: Between,
    pub read_every_ms: Between,
    pub relations_max: Between,
    pub tuple_bytes_max: Between,
    pub transaction_records_max: Between,
    pub checkpoint_steps: Between,
    pub full_page_writes_chance: u64,
    /// Branches that are created, each of the root or of another one, and the pause between two.
    pub branches: Between,
    pub branch_every_ms: Between,
    /// Requests for one and the same branch: in parallel, and again after its creation.
    pub branch_repeats: Between,
    /// Times that the tenant is detached, ignored, given other settings, or loses a branch.
    pub tenant_ops: Between,
    /// Times that it moves to another node. There is one only where it may move.
    pub moves: Between,
    /// Crowds of clients that connect at once, ask, and go without a word.
    pub storm_every_ms: Between,
    /// 0: there are none.
    pub storm_clients: Between,
    /// Percentage of reads that come as a burst of many requests whose answers are not read for a while.
    pub burst_chance: u64,
    pub burst_requests: Between,
    pub burst_pause_ms: Between,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            readers: range(1, 3),
            step_every_ms: range(20, 200),
            steps_per_burst: range(1, 12),
            read_every_ms: range(10, 150),
            relations_max: range(1, 6),
            tuple_bytes_max: range(20, 1_500),
            transaction_records_max: range(1, 12),
            checkpoint_steps: range(20, 400),
            full_page_writes_chance: 60,
            branches: range(0, 0),
            branch_every_ms: range(200, 2_000),
            branch_repeats: range(1, 4),
            tenant_ops: range(0, 0),
            moves: range(0, 0),
            storm_every_ms: range(1_000, 4_000),
            storm_clients: range(0, 0),
            burst_chance: 0,
            burst_requests: range(8, 200),
            burst_pause_ms: range(10, 3_000),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Walsender {
    pub chunk_bytes_max: Between,
    pub stall_ppm: Between,
    pub stall_ms_max: Between,
    pub keepalive_ms: Between,
    /// Chance before a message that the server ends the connection.
    pub reset_ppm: Between,
    /// Chance before a message that the server sends something of the stream a second time, which no real server does.
    pub repeat_ppm: Between,
}

impl Default for Walsender {
    fn default() -> Walsender {
        Walsender {
            chunk_bytes_max: range(100, 40_000),
            stall_ppm: range(0, 30_000),
            stall_ms_max: range(1, 2_000),
            keepalive_ms: range(200, 5_000),
            reset_ppm: range(0, 0),
            repeat_ppm: range(0, 0),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    pub latency_ms: Between,
    /// Step of the network's time in the world `net`: 1 for short scenarios, 5 for long ones.
    pub tick_ms: u64,
    pub segment_bytes: Between,
}

impl Default for Network {
    fn default() -> Network {
        Network { latency_ms: range(1, 20), tick_ms: 5, segment_bytes: range(400, 16_384) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pageserver {
    pub checkpoint_distance: Between,
    pub checkpoint_timeout_ms: Between,
    pub open_layer_bytes_max: Between,
    pub block_cache_bytes: Between,
    pub wait_lsn_timeout_ms: Between,
    pub idle_timeout_ms: Between,
    pub wal_log_keep_bytes: Between,
    pub compaction_target_size: Between,
    /// 0: there is no compaction.
    pub compaction_period_ms: Between,
    pub compaction_threshold: Between,
    pub image_creation_threshold: Between,
    /// 0: there is no garbage collection.
    pub gc_period_ms: Between,
    pub gc_horizon: Between,
    pub redo_child_chance: u64,
    pub redo_fault_ppm: Between,
    /// Percentage of seeds in which the product takes its unusual paths now and then.
    pub buggify_chance: u64,
}

impl Default for Pageserver {
    fn default() -> Pageserver {
        Pageserver {
            checkpoint_distance: range(16_384, 1_048_576),
            checkpoint_timeout_ms: range(300, 5_000),
            open_layer_bytes_max: range(65_536, 524_288),
            block_cache_bytes: range(65_536, 1_048_576),
            wait_lsn_timeout_ms: range(1_000, 8_000),
            idle_timeout_ms: range(2_000, 10_000),
            wal_log_keep_bytes: range(0, 262_144),
            compaction_target_size: range(65_536, 1_048_576),
            compaction_period_ms: range(0, 0),
            compaction_threshold: range(2, 6),
            image_creation_threshold: range(1, 4),
            gc_period_ms: range(0, 0),
            gc_horizon: range(2_000, 200_000),
            redo_child_chance: 50,
            redo_fault_ppm: range(0, 10_000),
            buggify_chance: 30,
        }
    }
}

/// Families of faults. Each has the percentage of seeds that have it at all: 0 if the file does not name it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Time between two faults.
    pub every_ms: Between,
    pub power_loss: Episode,
    pub process_crash: Episode,
    pub wipe: Episode,
    /// After a crash the primary stays unreachable: what was acknowledged must be readable without it.
    pub primary_away: Episode,
    /// The process is told to stop, and started again.
    pub graceful_stop: Episode,
    pub freeze: Episode,
    pub clock_jump: Episode,
    pub store_errors: StoreErrors,
    pub store_outage: Episode,
    pub store_throttle: Episode,
    pub store_conflicts: Episode,
    /// Links whose bytes wait.
    pub hold: Episode,
    /// Links whose bytes are lost.
    pub partition: Episode,
    pub one_way: Episode,
    /// Nobody can connect to the pageserver.
    pub refuse: Episode,
    pub reset: Episode,
    pub disk_errors: DiskErrors,
    pub disk_full: DiskFull,
    pub disk_stall: Episode,
    pub bit_rot: Episode,
    /// Reads and writes that go elsewhere, and syncs that lie; only with `hostile`.
    pub disk_hostile: DiskErrors,
}

/// A fault that lasts: `for_ms` is how long, or how long a process stays down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Episode {
    pub chance: u64,
    pub for_ms: Between,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreErrors {
    pub chance: u64,
    pub for_ms: Between,
    pub before_ppm: Between,
    pub after_ppm: Between,
    pub silent_ppm: Between,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskErrors {
    pub chance: u64,
    pub for_ms: Between,
    pub read_ppm: Between,
    pub write_ppm: Between,
    pub sync_ppm: Between,
    /// Errors per episode at most.
    pub budget: Between,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskFull {
    pub chance: u64,
    pub for_ms: Between,
    /// Bytes that stay free when the device shrinks.
    pub left_bytes: Between,
}

/// The scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("read the scenario {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("scenario {} line {line}{}: {message}", path.display(), key.as_ref().map(|key| format!(", key {key}")).unwrap_or_default())]
    Parse { path: PathBuf, line: usize, key: Option<String>, message: String },
}

impl Scenario {
    /// Parses a scenario file's text. `path` is for messages and gives the name.
    pub fn parse(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
        let parsed: Result<Scenario, _> = toml::from_str(text);
        let mut scenario = parsed.map_err(|error| parse_error(path, text, &error))?;
        scenario.name = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        Ok(scenario)
    }

    /// Every scenario of a folder, in the order of their names.
    #[expect(clippy::disallowed_methods, reason = "scenarios are read before anything is simulated")]
    pub fn folder(path: &Path) -> Result<Vec<Scenario>, ScenarioError> {
        let failed = |path: &Path, error| ScenarioError::Read { path: path.to_path_buf(), error };
        let entries = std::fs::read_dir(path).map_err(|error| failed(path, error))?;
        let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut paths = paths.map_err(|error| failed(path, error))?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
        paths.sort();
        let read = |path: &PathBuf| Scenario::parse(path, &std::fs::read_to_string(path).map_err(|error| failed(path, error))?);
        paths.iter().map(read).collect()
    }
}

/// One line; the parser's own text spreads over several.
fn parse_error(path: &Path, text: &str, error: &toml::de::Error) -> ScenarioError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count();
    let key = text.lines().nth(line).and_then(|line| line.split_once('=')).map(|(key, _)| key.trim().to_string());
    ScenarioError::Parse { path: path.to_path_buf(), line: line + 1, key, message: error.message().replace('\n', "; ") }
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
        let unknown = error(&SMOKE.replace("every_ms = ", "evrey_ms = "));
        assert!(unknown.contains("scenarios/x.toml") && unknown.contains("line ") && unknown.contains("evrey_ms"), "{unknown}");
        let empty = error(&SMOKE.replace("every_ms = [500, 4_000]", "every_ms = [4_000, 500]"));
        assert!(empty.contains("line ") && empty.contains("every_ms") && empty.contains("empty"), "{empty}");
        let missing = error(&SMOKE.replace("heal_ms = 300_000", ""));
        assert!(missing.contains("heal_ms"), "{missing}");
        for message in [unknown, empty, missing] {
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }
}
