//! Finds scenarios, and the worlds in which to run them.

#![expect(clippy::disallowed_methods, reason = "this program drives simulations; it is not simulated")]

use crate::Failure;
use sim_core::scenario::Scenario;
use std::path::{Path, PathBuf};

/// Backends that exist, each with its package and program name.
pub const WORLDS: [(&str, &str); 2] = [("net", "sim-net"), ("sched", "sim-sched")];

/// A scenario and where it came from.
pub struct Loaded {
    pub scenario: Scenario,
    pub path: PathBuf,
    text: String,
}

impl Loaded {
    /// The families of faults that the file names.
    pub fn families(&self) -> Result<Vec<String>, Failure> {
        let table: toml::Table = toml::from_str(&self.text).map_err(harness)?;
        let faults = table.get("faults").and_then(|faults| faults.as_table());
        // The primary's absence is a part of other faults.
        let families = faults.into_iter().flatten().filter(|(name, value)| value.is_table() && *name != "primary_away");
        Ok(families.map(|(name, _)| name.clone()).collect())
    }
}

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let above = manifest.and_then(|dir| dir.ancestors().nth(2).map(Path::to_path_buf));
    above.filter(|dir| dir.join("scenarios").is_dir()).unwrap_or_else(|| PathBuf::from("."))
}

pub fn harness(error: impl std::fmt::Display) -> Failure {
    Failure::Harness(error.to_string())
}

fn load(path: PathBuf) -> Result<Loaded, Failure> {
    let text =
        std::fs::read_to_string(&path).map_err(|error| Failure::Harness(format!("read the scenario {}: {error}", path.display())))?;
    let scenario = Scenario::parse(&path, &text).map_err(harness)?;
    for world in &scenario.worlds {
        if !WORLDS.iter().any(|(name, _)| name == world) {
            return Err(Failure::Harness(format!("scenario {}: there is no world \"{world}\"", path.display())));
        }
    }
    Ok(Loaded { scenario, path, text })
}

/// The scenario with this name or path, or all.
pub fn scenarios(wanted: Option<&str>) -> Result<Vec<Loaded>, Failure> {
    let folder = root().join("scenarios");
    if let Some(wanted) = wanted {
        let path = if wanted.ends_with(".toml") { PathBuf::from(wanted) } else { folder.join(format!("{wanted}.toml")) };
        if !path.exists() {
            let names: Vec<String> = files(&folder)?.iter().filter_map(|p| Some(p.file_stem()?.to_str()?.to_string())).collect();
            return Err(Failure::Harness(format!("there is no scenario \"{wanted}\"; there are {}", names.join(", "))));
        }
        return Ok(vec![load(path)?]);
    }
    files(&folder)?.into_iter().map(load).collect()
}

/// The scenario files, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(|error| Failure::Harness(format!("list {}: {error}", folder.display())))?;
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.extension().is_some_and(|x| x == "toml")).collect();
    paths.sort();
    Ok(paths)
}

/// The worlds in which to run a scenario.
pub fn worlds(scenario: &Scenario, wanted: Option<&str>) -> Result<Vec<String>, Failure> {
    match wanted {
        None => Ok(scenario.worlds.clone()),
        Some(world) if scenario.worlds.iter().any(|w| w == world) => Ok(vec![world.to_string()]),
        Some(world) => Err(Failure::Harness(format!(
            "scenario {} does not run in world \"{world}\" (only in {})",
            scenario.name,
            scenario.worlds.join(", ")
        ))),
    }
}

/// The scenario that a plan file names.
pub fn of_plan(plan: &Path) -> Result<Loaded, Failure> {
    let text = std::fs::read_to_string(plan).map_err(|error| Failure::Harness(format!("read the plan {}: {error}", plan.display())))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| Failure::Harness(format!("plan {}: {error}", plan.display())))?;
    let name = value["scenario"].as_str();
    let name = name.ok_or_else(|| Failure::Harness(format!("plan {}: it names no \"scenario\"", plan.display())))?;
    // A plan that was made from bytes belongs to no scenario, and needs none: it says everything itself.
    let file = if name == FROM_BYTES { "smoke" } else { name };
    load(root().join("scenarios").join(format!("{file}.toml")))
}

/// What plans that were made from bytes call their scenario.
const FROM_BYTES: &str = "arbitrary";

/// Where pages and scratch files go: beside what is built.
pub fn output_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("sim")
}
