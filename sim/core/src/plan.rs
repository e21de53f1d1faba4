//! A plan: everything a run does, spelled out. Made from scenario and seed, or read from a file.
//!
//! Every operation and fault has a stable id and a time of its own, and draws come from independent streams: taking an
//! entry out of a plan leaves all others as they are.

use crate::disk::CrashKind;
use crate::postgres::generator::{Weights, WorkloadKnobs};
use crate::postgres::walsender::WalsenderKnobs;
use crate::scenario::{Between, Scenario};
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{DetRng, RngSource};
use rand_core::Rng as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A run, spelled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub scenario: String,
    pub seed: u64,
    pub knobs: Knobs,
    pub ops: Vec<Op>,
    pub faults: Vec<Fault>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    pub run_ms: u64,
    pub heal_ms: u64,
    pub final_wipe: bool,
    pub audit_versions: u64,
    pub readers: u32,
    pub workload: WorkloadKnobs,
    pub walsender: WalsenderKnobs,
    pub network: NetworkKnobs,
    pub pageserver: PageserverKnobs,
}

/// The network between the machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkKnobs {
    /// Time of a message from machine to machine.
    pub latency_ms_min: u64,
    pub latency_ms_max: u64,
    /// World `net` only: step of the network's time.
    pub tick_ms: u64,
    /// World `net` only: most bytes in one segment of a stream. A stream holds a fixed number of segments.
    pub segment_bytes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageserverKnobs {
    pub checkpoint_distance: u64,
    pub checkpoint_timeout_ms: u64,
    pub open_layer_bytes_max: u64,
    pub block_cache_bytes: u64,
    pub wait_lsn_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    pub wal_log_keep_bytes: u64,
    pub compaction_target_size: u64,
    pub redo_child: bool,
    /// Chance that a redo child misbehaves at a request, in parts per million.
    pub redo_fault_ppm: u32,
}

/// Something a client or the primary does. Times count from the end of the setup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    pub id: u32,
    pub at_ms: u64,
    pub kind: OpKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OpKind {
    /// The primary writes WAL.
    Wal { steps: u32 },
    /// A reader asks. `pick` chooses among what the model knows at that time.
    Read { reader: u32, what: ReadKind, pick: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadKind {
    /// A page right at one of its versions.
    PageAtVersion,
    /// A page just before one of its versions.
    PageBeforeVersion,
    /// A page at any LSN.
    PageAnywhere,
    /// The newest version of a page.
    PageLatest,
    Size,
    Exists,
    TransactionStatus,
}

const READ_KINDS: [ReadKind; 7] = [
    ReadKind::PageAtVersion,
    ReadKind::PageBeforeVersion,
    ReadKind::PageAnywhere,
    ReadKind::PageLatest,
    ReadKind::Size,
    ReadKind::Exists,
    ReadKind::TransactionStatus,
];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub id: u32,
    pub at_ms: u64,
    pub kind: FaultKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// The pageserver goes down and comes back; with `primary_away_ms` the primary cannot be reached for so long then.
    Crash {
        kind: CrashKind,
        down_ms: u64,
        primary_away_ms: u64,
    },
    StoreErrors {
        for_ms: u64,
        before_ppm: u32,
        after_ppm: u32,
        silent_ppm: u32,
    },
    StoreOutage {
        for_ms: u64,
    },
    /// No bytes pass between pageserver and primary.
    Clog {
        for_ms: u64,
    },
    /// Every connection of the pageserver breaks.
    Reset,
}

fn draw(rng: &mut DetRng, range: Between) -> u64 {
    range.min + below(rng, range.max - range.min + 1)
}

/// Draws from a range so that each order of magnitude is as likely as the others.
fn draw_log(rng: &mut DetRng, range: Between) -> u64 {
    let (low, high) = (range.min.max(1).ilog2(), range.max.max(1).ilog2());
    let exponent = low + below(rng, u64::from(high - low) + 1) as u32;
    let (from, to) = ((1u64 << exponent).max(range.min), (1u64 << exponent).saturating_mul(2).saturating_sub(1).min(range.max));
    if range.min == 0 && below(rng, 8) == 0 { 0 } else { draw(rng, Between { min: from.min(to), max: to }) }
}

fn chance(rng: &mut DetRng, percent: u64) -> bool {
    below(rng, 100) < percent
}

/// The plan cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("plan {}: {error}", path.display())]
    Json { path: PathBuf, error: serde_json::Error },
    /// An entry that this version does not know, as in a plan that an older version wrote.
    #[error("plan {}: {list}[{index}] (id {id}): {error}", path.display())]
    Entry { path: PathBuf, list: &'static str, index: usize, id: serde_json::Value, error: serde_json::Error },
    #[error("plan {}: {list} has the id {id} twice", path.display())]
    TwiceTheId { path: PathBuf, list: &'static str, id: u32 },
}

impl Plan {
    /// Reads a plan file's text. `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Plan, PlanError> {
        let json = |error| PlanError::Json { path: path.to_path_buf(), error };
        // Entry by entry first: the error then names the entry instead of its place in the text.
        let value: serde_json::Value = serde_json::from_str(text).map_err(json)?;
        check_entries::<Op>(path, &value, "ops")?;
        check_entries::<Fault>(path, &value, "faults")?;
        let plan: Plan = serde_json::from_str(text).map_err(json)?;
        let lists = [("ops", plan.ops.iter().map(|op| op.id).collect::<Vec<_>>()), ("faults", plan.faults.iter().map(|f| f.id).collect())];
        for (list, ids) in lists {
            let mut seen = BTreeSet::new();
            if let Some(id) = ids.into_iter().find(|id| !seen.insert(*id)) {
                return Err(PlanError::TwiceTheId { path: path.to_path_buf(), list, id });
            }
        }
        Ok(plan)
    }

    /// The text of a plan file: one line per entry.
    pub fn print(&self) -> String {
        let list = |entries: Vec<String>| if entries.is_empty() { "[]".to_string() } else { format!("[\n  {}\n]", entries.join(",\n  ")) };
        format!(
            "{{\n\"scenario\": {},\n\"seed\": {},\n\"knobs\": {},\n\"faults\": {},\n\"ops\": {}\n}}",
            json(&self.scenario),
            self.seed,
            json(&self.knobs),
            list(self.faults.iter().map(json).collect()),
            list(self.ops.iter().map(json).collect()),
        )
    }

    /// Expands a seed.
    pub fn expand(scenario: &Scenario, seed: u64) -> Plan {
        let source = RngSource::new(u128::from(seed)).child(&scenario.name).child("plan");
        let knobs = knobs(scenario, &source);
        let ops = ops(scenario, &knobs, &source);
        let faults = faults(scenario, &knobs, &source);
        Plan { scenario: scenario.name.clone(), seed, knobs, ops, faults }
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("a plan is plain data")
}

fn check_entries<T: DeserializeOwned>(path: &Path, plan: &serde_json::Value, list: &'static str) -> Result<(), PlanError> {
    for (index, entry) in plan[list].as_array().into_iter().flatten().enumerate() {
        if let Err(error) = T::deserialize(entry) {
            return Err(PlanError::Entry { path: path.to_path_buf(), list, index, id: entry["id"].clone(), error });
        }
    }
    Ok(())
}

fn knobs(scenario: &Scenario, source: &RngSource) -> Knobs {
    let mut rng = source.stream("knobs");
    let r = &mut rng;
    let (w, s, p) = (&scenario.workload, &scenario.walsender, &scenario.pageserver);
    let mut weights = Weights::default();
    // Swarm: some seeds leave out some kinds of records.
    for weight in [&mut weights.delete, &mut weights.lock, &mut weights.page_image, &mut weights.drop, &mut weights.truncate] {
        if chance(r, 25) {
            *weight = 0;
        }
    }
    Knobs {
        run_ms: draw(r, scenario.run_ms),
        heal_ms: scenario.heal_ms,
        final_wipe: chance(r, scenario.final_wipe_chance),
        audit_versions: scenario.audit_versions,
        readers: draw(r, w.readers) as u32,
        workload: WorkloadKnobs {
            relations_max: draw(r, w.relations_max) as u32,
            tuple_bytes_max: draw_log(r, w.tuple_bytes_max) as u32,
            transaction_records_max: draw(r, w.transaction_records_max) as u32,
            checkpoint_steps: draw_log(r, w.checkpoint_steps) as u32,
            full_page_writes: chance(r, w.full_page_writes_chance),
            weights,
        },
        walsender: WalsenderKnobs {
            chunk_bytes_max: draw_log(r, s.chunk_bytes_max) as u32,
            stall_ppm: draw(r, s.stall_ppm) as u32,
            stall_ms_max: draw_log(r, s.stall_ms_max),
            keepalive_ms: draw(r, s.keepalive_ms),
        },
        network: NetworkKnobs {
            latency_ms_min: scenario.network.latency_ms.min,
            latency_ms_max: draw(&mut source.stream("network"), scenario.network.latency_ms),
            tick_ms: scenario.network.tick_ms,
            segment_bytes: draw_log(&mut source.stream("segments"), scenario.network.segment_bytes) as u32,
        },
        pageserver: PageserverKnobs {
            checkpoint_distance: draw_log(r, p.checkpoint_distance),
            checkpoint_timeout_ms: draw_log(r, p.checkpoint_timeout_ms),
            open_layer_bytes_max: draw_log(r, p.open_layer_bytes_max),
            block_cache_bytes: draw_log(r, p.block_cache_bytes),
            wait_lsn_timeout_ms: draw(r, p.wait_lsn_timeout_ms),
            idle_timeout_ms: draw(r, p.idle_timeout_ms),
            wal_log_keep_bytes: draw_log(r, p.wal_log_keep_bytes),
            compaction_target_size: draw_log(r, p.compaction_target_size),
            redo_child: chance(r, p.redo_child_chance),
            redo_fault_ppm: draw_log(r, p.redo_fault_ppm) as u32,
        },
    }
}

fn ops(scenario: &Scenario, knobs: &Knobs, source: &RngSource) -> Vec<Op> {
    let mut ops = Vec::new();
    let w = &scenario.workload;
    let mut rng = source.stream("wal-ops");
    let pause = draw(&mut rng, w.step_every_ms);
    let mut at = 0;
    while at < knobs.run_ms {
        ops.push(Op { id: 0, at_ms: at, kind: OpKind::Wal { steps: draw(&mut rng, w.steps_per_burst) as u32 } });
        at += 1 + below(&mut rng, 2 * pause);
    }
    for reader in 0..knobs.readers {
        let mut rng = source.stream(&format!("reader-{reader}"));
        let pause = draw(&mut rng, w.read_every_ms);
        let mut at = 0;
        while at < knobs.run_ms {
            // Pages are asked for more often than the rest.
            let what = READ_KINDS[below(&mut rng, 10) as usize % READ_KINDS.len()];
            ops.push(Op { id: 0, at_ms: at, kind: OpKind::Read { reader, what, pick: rng.next_u64() } });
            at += 1 + below(&mut rng, 2 * pause);
        }
    }
    ops.sort_by_key(|op| op.at_ms);
    for (id, op) in ops.iter_mut().enumerate() {
        op.id = id as u32;
    }
    ops
}

fn faults(scenario: &Scenario, knobs: &Knobs, source: &RngSource) -> Vec<Fault> {
    let mut rng = source.stream("faults");
    let r = &mut rng;
    let f = &scenario.faults;
    let families = [
        ("power_loss", f.power_loss.chance),
        ("process_crash", f.process_crash.chance),
        ("wipe", f.wipe.chance),
        ("store_errors", f.store_errors.chance),
        ("store_outage", f.store_outage.chance),
        ("clog", f.clog.chance),
        ("reset", f.reset.chance),
    ];
    let enabled: Vec<&str> = families.into_iter().filter(|(_, percent)| chance(r, *percent)).map(|(name, _)| name).collect();
    let away = chance(r, f.primary_away.chance);
    let mut faults = Vec::new();
    if enabled.is_empty() {
        return faults;
    }
    let pause = draw(r, f.every_ms);
    let mut at = below(r, 2 * pause);
    while at < knobs.run_ms {
        let crash = |r: &mut DetRng, kind, down: Between| {
            let away_ms = if away && chance(r, 40) { draw(r, f.primary_away.for_ms) } else { 0 };
            FaultKind::Crash { kind, down_ms: draw(r, down), primary_away_ms: away_ms }
        };
        let kind = match enabled[below(r, enabled.len() as u64) as usize] {
            "power_loss" => crash(r, CrashKind::PowerLoss, f.power_loss.down_ms),
            "process_crash" => crash(r, CrashKind::ProcessCrash, f.process_crash.down_ms),
            "wipe" => crash(r, CrashKind::Wipe, f.wipe.down_ms),
            "store_errors" => FaultKind::StoreErrors {
                for_ms: draw(r, f.store_errors.for_ms),
                before_ppm: draw(r, f.store_errors.before_ppm) as u32,
                after_ppm: draw(r, f.store_errors.after_ppm) as u32,
                silent_ppm: draw(r, f.store_errors.silent_ppm) as u32,
            },
            "store_outage" => FaultKind::StoreOutage { for_ms: draw(r, f.store_outage.for_ms) },
            "clog" => FaultKind::Clog { for_ms: draw(r, f.clog.for_ms) },
            _ => FaultKind::Reset,
        };
        faults.push(Fault { id: faults.len() as u32, at_ms: at, kind });
        at += 1 + below(r, 2 * pause);
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smoke() -> Scenario {
        Scenario::parse(Path::new("smoke.toml"), include_str!("../../../scenarios/smoke.toml")).expect("is right")
    }

    #[test]
    fn a_plan_survives_its_file() {
        let plan = Plan::expand(&smoke(), 7);
        assert_eq!(Plan::parse(Path::new("a.plan"), &plan.print()).expect("is read"), plan);
        assert_eq!(Plan::expand(&smoke(), 7), plan);
        assert_ne!(Plan::expand(&smoke(), 8), plan);
    }

    #[test]
    fn errors_name_file_and_entry() {
        let plan = Plan::expand(&smoke(), 7);
        let error = |text: String| Plan::parse(Path::new("old.plan"), &text).expect_err("is wrong").to_string();
        let unknown = error(plan.print().replacen("\"wal\"", "\"flood\"", 1));
        assert!(unknown.starts_with("plan old.plan: ops[") && unknown.contains("id ") && unknown.contains("flood"), "{unknown}");
        let missing = error(plan.print().replacen("\"run_ms\"", "\"runs_ms\"", 1));
        assert!(missing.contains("old.plan") && missing.contains("line 4") && missing.contains("runs_ms"), "{missing}");
        let mut twice = plan;
        twice.ops[1].id = twice.ops[0].id;
        assert!(error(twice.print()).contains("twice"));
    }

    #[test]
    fn seeds_cover_every_family_and_every_kind_of_read() {
        let (mut faults, mut reads) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..60 {
            let plan = Plan::expand(&smoke(), seed);
            faults.extend(plan.faults.iter().map(|f| match f.kind {
                FaultKind::Crash { kind, .. } => format!("{kind:?}"),
                FaultKind::StoreErrors { .. } => "errors".to_string(),
                FaultKind::StoreOutage { .. } => "outage".to_string(),
                FaultKind::Clog { .. } => "clog".to_string(),
                FaultKind::Reset => "reset".to_string(),
            }));
            reads.extend(plan.ops.iter().filter_map(|op| match op.kind {
                OpKind::Read { what, .. } => Some(format!("{what:?}")),
                OpKind::Wal { .. } => None,
            }));
        }
        assert_eq!((faults.len(), reads.len()), (7, READ_KINDS.len()));
    }
}
