//! `cargo sim mutants`: the simulator is only as good as the bugs it finds. Each planted bug must be found in its world,
//! by an oracle, within the budget of seeds.

#![expect(clippy::disallowed_types, reason = "this program drives simulations; it is not simulated")]

use crate::backend::{self, Ask, Backend, Build};
use crate::worlds::{self, WORLDS};
use crate::{Failure, MutantArgs};
use sim_core::report::Violation;
use std::time::Instant;

/// A bug in the product's code, compiled in with the feature `planted-bugs` and switched on by name.
struct Bug {
    name: &'static str,
    scenario: &'static str,
    world: &'static str,
    /// What it does, for the table.
    what: &'static str,
}

const fn bug(name: &'static str, world: &'static str, scenario: &'static str, what: &'static str) -> Bug {
    Bug { name, scenario, world, what }
}

const BUGS: [Bug; 33] = [
    bug("canary", "sched", "smoke", "every page that is answered has a flipped bit"),
    bug("canary", "net", "smoke", "every page that is answered has a flipped bit"),
    bug("ack-before-fsync", "sched", "smoke", "WAL is acknowledged before it is synced"),
    bug(
        "uploads-in-tasks",
        "sched",
        "crash_during_upload",
        "each upload is scheduled by a task of its own, as if tasks began in the order of their start",
    ),
    bug("put-in-task", "sched", "smoke", "versions are put and the record is published by two tasks, as if the first were done first"),
    bug("flushed-in-task", "sched", "smoke", "a flushed layer is published by a task that is taken to be done after one turn"),
    bug("index-before-layers", "sched", "smoke", "the index is uploaded before its layers"),
    bug("apply-before-upload", "sched", "smoke", "what is only on the local disk is reported as applied"),
    bug("log-name-unsynced", "sched", "smoke", "the name of a new WAL segment is never made durable"),
    bug("layer-nowhere", "sched", "redo_child", "a flushed layer leaves memory before it is in the layer map"),
    bug("sync-error-ignored", "sched", "disk_faults", "a sync that failed counts as done"),
    bug("cached-wal-trusted", "net", "disk_faults", "WAL that is found at a start counts as durable after a sync alone"),
    bug("disk-error-is-damage", "sched", "disk_faults", "a timeline whose log cannot be read at a start for now is given up for good"),
    bug("stop-leaves-work", "sched", "slow_stops", "a node that stops does not wait for work on the disk that tasks left behind"),
    bug("upload-error-ignored", "sched", "store_outage", "an upload that failed counts as done"),
    bug("repeat-is-conflict", "sched", "create_retry", "a repeated request for a branch is refused"),
    bug("branch-at-end", "sched", "branches_under_load", "a branch begins at the end of its ancestor, not where it was asked for"),
    bug("time-lets-commit-in", "sched", "smoke", "the state before a time has the first commit after it"),
    bug("redo-child-reused", "sched", "redo_child", "a child that did not answer in time is asked again, and its late answer taken"),
    bug("checksum-ignored", "sched", "hostile_disk", "the checksum of a layer's block is not looked at"),
    bug("file-never-closed", "sched", "smoke", "the file of an uploaded layer stays open"),
    bug("no-silence-limit", "net", "wal_source", "a stream of WAL without a sign of life is waited for without end"),
    bug("no-connect-limit", "net", "wal_source", "a connection to the primary is waited for without end"),
    bug("compaction-deletes-first", "sched", "compaction", "layers that were merged are removed before an index without them is stored"),
    bug("compaction-drops-oldest", "sched", "compaction", "a merge loses the oldest version of each key that several of its layers have"),
    bug("gc-forgets-branches", "sched", "gc", "garbage collection looks at no branch points"),
    bug("gc-unseen", "sched", "gc", "a read does not look whether its history went away while it collected"),
    bug("no-sweep", "sched", "life_cycle", "objects that nobody names stay when the tenant is attached again"),
    bug("deletion-mark-first", "sched", "life_cycle", "a deletion begins with the object that says that there is one"),
    bug("deletes-unvalidated", "sched", "two_nodes", "a node that lost the tenant to another goes on to delete what it does not need"),
    bug("creation-unconfirmed", "net", "two_nodes", "a branch counts as made though another node may have the tenant by now"),
    bug("sweep-before-index", "net", "two_nodes", "objects that nobody names are deleted before there is an index of the new generation"),
    bug("short-write", "net", "smoke", "what a stream does not take at once of an answer is forgotten"),
];

pub fn run(args: &MutantArgs) -> Result<(), Failure> {
    let wanted: Vec<&Bug> = BUGS.iter().filter(|bug| args.bug.as_deref().is_none_or(|name| name == bug.name)).collect();
    if wanted.is_empty() {
        let names: Vec<_> = BUGS.iter().map(|bug| bug.name).collect();
        return Err(Failure::Harness(format!("there is no planted bug {:?}; there are {}", args.bug, names.join(", "))));
    }
    let backends = backend::build(Build { planted: true, debug: false })?;
    let mut hidden = false;
    let mut seeds = Vec::new();
    if !args.json {
        println!("{:<22} {:<6} {:<20} {:>5} {:>7} {:<8} what", "bug", "world", "scenario", "seed", "seconds", "oracle");
    }
    for bug in wanted {
        for world in WORLDS.map(|(world, _)| world).into_iter().filter(|world| args.both || *world == bug.world) {
            let found = find(bug, backends.of(world)?, args)?;
            hidden |= found.is_none() && world == bug.world;
            seeds.extend(found.filter(|_| world == bug.world));
        }
    }
    seeds.sort_unstable();
    if let Some(median) = seeds.get(seeds.len() / 2).filter(|_| !args.json) {
        println!("{} bugs found, median seed {median}", seeds.len());
    }
    if hidden { Err(Failure::Violated) } else { Ok(()) }
}

/// The first seed that finds the bug.
fn find(bug: &Bug, backend: &Backend, args: &MutantArgs) -> Result<Option<u64>, Failure> {
    let loaded = worlds::scenarios(Some(bug.scenario))?;
    let scenario = loaded.first().map(|l| l.path.clone()).unwrap_or_default();
    let ask = Ask { scenario, seeds: 0..args.budget, planted: Some(bug.name.to_string()), until_fail: true, ..Ask::default() };
    let start = Instant::now();
    let mut found: Option<(u64, Violation)> = None;
    backend.sweep(&ask, args.jobs, |report| {
        // Of the seeds that ran at the same time the first one counts.
        let earlier = found.as_ref().is_none_or(|(seed, _)| report.seed < *seed);
        if let Some(violation) = report.violation.filter(|_| earlier) {
            found = Some((report.seed, violation));
        }
        Ok(found.is_none())
    })?;
    let took = start.elapsed().as_secs_f64();
    let (world, detail) = (&backend.world, found.as_ref().map(|(_, violation)| violation.detail.as_str()));
    let oracle = found.as_ref().map_or("HIDDEN", |(_, violation)| violation.oracle.as_str());
    if args.json {
        let seed = found.as_ref().map(|(seed, _)| seed);
        let line = serde_json::json!({
            "bug": bug.name, "world": world, "named_for": bug.world, "scenario": bug.scenario, "seed": seed, "seconds": took,
            "oracle": oracle, "what": bug.what, "detail": detail,
        });
        println!("{line}");
    } else {
        let seed = found.as_ref().map_or("-".to_string(), |(seed, _)| seed.to_string());
        println!("{:<22} {world:<6} {:<20} {seed:>5} {took:>7.1} {oracle:<8} {}", bug.name, bug.scenario, bug.what);
        detail.iter().for_each(|detail| println!("    {detail}"));
    }
    Ok(found.map(|(seed, _)| seed))
}
