//! `cargo sim exhaustive`: one short run, again and again, each time with a crash at the next of its operations on disk and store.
//!
//! Up to the crash all these runs are the same, so that every operation of the first run is reached.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "this program drives simulations; it is not simulated")]

use crate::backend::{self, Ask, Backend, Build};
use crate::sweep::print_failure;
use crate::worlds;
use crate::{ExhaustiveArgs, Failure};
use sim_core::report::Report;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

/// How the node goes down.
const KINDS: [&str; 2] = ["power_loss", "process_crash"];
/// Time until it is started again.
const DOWN_MS: u64 = 50;

pub fn run(args: &ExhaustiveArgs) -> Result<(), Failure> {
    let backends = backend::build(Build { planted: args.planted.is_some(), debug: false })?;
    let mut failed = 0;
    for loaded in worlds::scenarios(Some(&args.scenario))? {
        for world in worlds::worlds(&loaded.scenario, args.world.as_deref())? {
            let (backend, start) = (backends.of(&world)?, Instant::now());
            let ask =
                Ask { scenario: loaded.path.clone(), seeds: args.seed..args.seed + 1, planted: args.planted.clone(), ..Ask::default() };
            let plan = backend.output(&Ask { print_plan: true, ..ask.clone() })?.0;
            let calm = calm(backend, &ask, &plan)?;
            if calm.violation.is_some() {
                print_failure(&calm, &ask);
                return Err(Failure::Violated);
            }
            let operations = calm.counts.get("operations").copied().unwrap_or(0);
            let of_world = crash_at_each(backend, &ask, &plan, operations, args.jobs)?;
            failed += of_world;
            let name = &loaded.scenario.name;
            let took = start.elapsed().as_secs_f64();
            println!(
                "{name:<20} {world:<6} {operations} operations, each before a power loss and before a crash: {of_world} failed, {took:.1} s"
            );
        }
    }
    if failed > 0 { Err(Failure::Violated) } else { Ok(()) }
}

/// The run to which all others are equal up to their crash: its own never comes, but is waited for as theirs is.
fn calm(backend: &Backend, ask: &Ask, plan: &str) -> Result<Report, Failure> {
    let folder = folder(backend)?;
    let (report, path) = one(backend, ask, plan, (u64::from(u32::MAX), KINDS[0]), &folder)?;
    let _ = std::fs::remove_file(path);
    Ok(report)
}

/// Where the plans of one world are written.
fn folder(backend: &Backend) -> Result<PathBuf, Failure> {
    let folder = worlds::output_folder().join(format!("exhaustive-{}-{}", backend.world, std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| Failure::Harness(format!("create {}: {error}", folder.display())))?;
    Ok(folder)
}

/// Runs the plan with a crash at each operation; gives how many runs failed.
fn crash_at_each(backend: &Backend, ask: &Ask, plan: &str, operations: u64, jobs: usize) -> Result<u64, Failure> {
    let folder = folder(backend)?;
    let (next, (send, results)) = (AtomicU64::new(0), mpsc::channel());
    let failed = std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (next, send, folder) = (&next, send.clone(), &folder);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (operation, kind) = (1 + number / KINDS.len() as u64, KINDS[number as usize % KINDS.len()]);
                    if operation > operations {
                        return;
                    }
                    let result = one(backend, ask, plan, (operation, kind), folder);
                    // Nobody listens when the search has ended already.
                    if send.send(result).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let mut failed = 0;
        for result in results {
            let (report, path) = result?;
            let struck = report.counts.contains_key("crash-at-operation");
            if report.violation.is_none() && struck {
                let _ = std::fs::remove_file(&path);
                continue;
            }
            failed += 1;
            print_failure(&report, &Ask { plan: Some(path.clone()), ..ask.clone() });
            if !struck {
                println!("the crash of {} never came: runs of this seed differ before it", path.display());
            }
        }
        Ok(failed)
    });
    // Only empty if nothing failed: plans of failures stay to be repeated.
    let _ = std::fs::remove_dir(&folder);
    failed
}

fn one(backend: &Backend, ask: &Ask, plan: &str, (operation, kind): (u64, &str), folder: &Path) -> Result<(Report, PathBuf), Failure> {
    let mut plan: serde_json::Value =
        serde_json::from_str(plan).map_err(|error| Failure::Harness(format!("the plan cannot be read: {error}")))?;
    let crash = serde_json::json!({ "crash_at": { "operation": operation, "kind": kind, "down_ms": DOWN_MS } });
    plan["faults"] = serde_json::json!([{ "id": 0, "at_ms": 0, "kind": crash }]);
    let path = folder.join(format!("{operation}-{kind}.plan"));
    std::fs::write(&path, plan.to_string()).map_err(|error| Failure::Harness(format!("write {}: {error}", path.display())))?;
    let report = backend.one(&Ask { plan: Some(path.clone()), ..ask.clone() })?.0;
    Ok((report, path))
}
