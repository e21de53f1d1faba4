//! A plan: everything a run does, spelled out. Made from scenario and seed, or read from a file.
//!
//! Every operation and fault has a stable id and a time of its own, and draws come from independent streams: taking an
//! entry out of a plan leaves all others as they are.

mod bytes;
mod calm;
mod expand;
mod small;

use crate::disk::CrashKind;
use crate::postgres::generator::{Weights, WorkloadKnobs};
use crate::postgres::walsender::WalsenderKnobs;
use crate::scenario::{Between, Pageserver, Scenario};
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{DetRng, RngSource};
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
    /// The disk may lie: answers have to be right or errors, and no more is asked for.
    #[serde(default)]
    pub hostile: bool,
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
    /// Missing in plans from before there was compaction: there is none then.
    #[serde(default)]
    pub compaction: CompactionKnobs,
    /// Missing in plans from before there was garbage collection: there is none then.
    #[serde(default)]
    pub gc: GcKnobs,
    pub redo_child: bool,
    /// Chance that a site of `buggify!` is live in this run, and then that it acts, in parts per million; 0: none is.
    pub buggify_ppm: u32,
    /// Chance that a redo child misbehaves at a request, in parts per million.
    pub redo_fault_ppm: u32,
}

/// A period of 0 ms: there is no compaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactionKnobs {
    pub period_ms: u64,
    pub threshold: u64,
    pub image_threshold: u64,
}

/// A period of 0 ms: there is no garbage collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcKnobs {
    pub period_ms: u64,
    pub horizon: u64,
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
    /// A reader sends so many requests, and reads no answer before the pause is over.
    Burst { reader: u32, requests: u32, pause_ms: u64, pick: u64 },
    /// Clients connect at once, ask one thing each, and go without a word.
    Storm { clients: u32, pick: u64 },
    /// Branch number `branch` is created, of another one or of the root, at an LSN that `pick` chooses: by `parallel` requests
    /// at the same time, and by so many again after its creation.
    Branch { branch: u32, of: Option<u32>, parallel: u32, again: u32, pick: u64 },
    /// What the node has of the tenant is changed, and changed back; `pick` chooses.
    Tenant { what: TenantOp, pick: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, arbitrary::Arbitrary)]
#[serde(rename_all = "snake_case")]
pub enum TenantOp {
    /// Detached, then attached until that worked.
    Detach,
    /// Ignored, then loaded.
    Ignore,
    /// Other settings.
    Settings,
    /// A branch without branches is deleted.
    DeleteBranch,
    /// Attached on the other node, and only later detached where it was: until then that node believes that it has the tenant.
    Move,
}

const TENANT_OPS: [TenantOp; 4] = [TenantOp::Detach, TenantOp::Ignore, TenantOp::Settings, TenantOp::DeleteBranch];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, arbitrary::Arbitrary)]
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
    /// A page of a branch that was created.
    OnBranch,
}

const READ_KINDS: [ReadKind; 8] = [
    ReadKind::OnBranch,
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
    /// The pageserver is told to stop, and started again after it did.
    GracefulStop {
        down_ms: u64,
    },
    /// No task of the pageserver runs; time goes on.
    Freeze {
        for_ms: u64,
    },
    /// The pageserver's wall clock jumps.
    ClockJump {
        by_ms: i64,
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
    /// The object store refuses most requests and is slow to answer the others.
    StoreThrottle {
        for_ms: u64,
    },
    /// Conditional writes are told of conflicts.
    StoreConflicts {
        for_ms: u64,
    },
    /// The pageserver goes down right before its operation of this number on disk or store, counted from the start of the run.
    CrashAt {
        operation: u64,
        kind: CrashKind,
        down_ms: u64,
    },
    /// Something happens to the bytes between the pageserver and a peer. A world that has no such thing says so in the trace.
    Link {
        peer: Peer,
        how: LinkFault,
        for_ms: u64,
    },
    /// Nobody can connect to the pageserver.
    Refuse {
        for_ms: u64,
    },
    /// Every connection of the pageserver breaks.
    Reset,
    /// The pageserver's disk fails now and then, `budget` times at most.
    DiskErrors {
        for_ms: u64,
        read_ppm: u32,
        write_ppm: u32,
        sync_ppm: u32,
        budget: u32,
        files: Files,
    },
    /// The pageserver's disk reads and writes other places than it is told, and says that it synced when it did not.
    DiskHostile {
        for_ms: u64,
        read_ppm: u32,
        write_ppm: u32,
        sync_ppm: u32,
        budget: u32,
        files: Files,
    },
    /// The pageserver's disk shrinks to what is used and this.
    DiskFull {
        for_ms: u64,
        left_bytes: u64,
    },
    /// Work that waits for the pageserver's disk waits.
    DiskStall {
        for_ms: u64,
    },
    /// A bit flips in one of the layer files that remote storage has too.
    BitRot {
        pick: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, arbitrary::Arbitrary)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    Primary,
    Clients,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, arbitrary::Arbitrary)]
#[serde(rename_all = "snake_case")]
pub enum LinkFault {
    /// The bytes wait.
    Hold,
    /// The bytes are lost for good.
    Lost,
    /// Those to the pageserver are lost.
    LostTo,
    /// Those from the pageserver are lost.
    LostFrom,
}

/// Which files of the pageserver fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, arbitrary::Arbitrary)]
#[serde(rename_all = "snake_case")]
pub enum Files {
    All,
    WalLog,
    Layers,
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
    /// The tenant moves: there are two nodes.
    pub fn moves(&self) -> bool {
        self.ops.iter().any(|op| matches!(op.kind, OpKind::Tenant { what: TenantOp::Move, .. }))
    }

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
        let ops = expand::ops(scenario, &knobs, &source);
        let faults = expand::faults(scenario, &knobs, &source);
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
        hostile: scenario.hostile,
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
            reset_ppm: draw_log(&mut source.stream("walsender-reset"), s.reset_ppm) as u32,
            repeat_ppm: draw_log(&mut source.stream("walsender-repeat"), s.repeat_ppm) as u32,
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
            compaction: compaction(&mut source.stream("compaction"), p),
            gc: gc(&mut source.stream("gc"), p),
            redo_child: chance(r, p.redo_child_chance),
            buggify_ppm: buggify(&mut source.stream("buggify"), p.buggify_chance),
            redo_fault_ppm: draw_log(r, p.redo_fault_ppm) as u32,
        },
    }
}

fn compaction(rng: &mut DetRng, ranges: &Pageserver) -> CompactionKnobs {
    CompactionKnobs {
        period_ms: draw_log(rng, ranges.compaction_period_ms),
        threshold: draw(rng, ranges.compaction_threshold),
        image_threshold: draw(rng, ranges.image_creation_threshold),
    }
}

fn gc(rng: &mut DetRng, ranges: &Pageserver) -> GcKnobs {
    GcKnobs { period_ms: draw_log(rng, ranges.gc_period_ms), horizon: draw_log(rng, ranges.gc_horizon) }
}

fn buggify(rng: &mut DetRng, percent: u64) -> u32 {
    if chance(rng, percent) { draw_log(rng, Between { min: 1_000, max: 200_000 }) as u32 } else { 0 }
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
            let name = |f: &Fault| match &f.kind {
                FaultKind::Crash { kind, .. } => format!("{kind:?}"),
                other => format!("{other:?}").split([' ', '(']).next().unwrap_or_default().to_string(),
            };
            faults.extend(plan.faults.iter().map(name));
            reads.extend(plan.ops.iter().filter_map(|op| match op.kind {
                OpKind::Read { what, .. } => Some(format!("{what:?}")),
                _ => None,
            }));
        }
        // Smoke has no branches to read from.
        assert_eq!((faults.len(), reads.len()), (10, READ_KINDS.len() - 1), "{faults:?} {reads:?}");
    }
}
