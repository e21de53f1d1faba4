//! `cargo sim run`: many seeds, a line of progress, and a full account of the first failure.

use crate::worlds::{self, Ask, Backend, Loaded};
use crate::{Failure, RunArgs};
use sim_core::report::Report;
use std::collections::BTreeMap;

/// A sweep of so many seeds must reach every mark of its scenario.
const SEEDS_FOR_MARKS: u64 = 50;

pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let seeds = args.seeds(0..200);
    for loaded in worlds::scenarios(args.scenario.as_deref())? {
        for world in worlds::worlds(&loaded.scenario, args.world.as_deref())? {
            let backend = worlds::build(&world, args.planted.is_some())?;
            let ask = Ask::new(&loaded, args, seeds.clone());
            if args.print_plan {
                println!("{}", backend.output(&Ask { print_plan: true, ..ask })?.0);
                return Ok(());
            }
            if let Some(path) = &args.trace {
                return trace(&backend, ask, path);
            }
            sweep(&loaded, &backend, ask, args)?;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "this program drives simulations; it is not simulated")]
fn trace(backend: &Backend, ask: Ask, path: &std::path::Path) -> Result<(), Failure> {
    let first = ask.seeds.start;
    let (report, text) = backend.one(&Ask { seeds: first..first + 1, trace: Some(0..u64::MAX), ..ask })?;
    std::fs::write(path, text).map_err(|error| Failure::Harness(format!("write {}: {error}", path.display())))?;
    println!("seed {first}: {} events, digest {}, written to {}", report.events, report.digest, path.display());
    match report.violation {
        None => Ok(()),
        Some(_) => {
            print_failure(&report, None);
            Err(Failure::Violated)
        }
    }
}

#[derive(Default)]
struct Totals {
    runs: u64,
    failed: u64,
    events: u64,
    simulated_ms: u64,
    counts: BTreeMap<String, u64>,
}

fn sweep(loaded: &Loaded, backend: &Backend, ask: Ask, args: &RunArgs) -> Result<(), Failure> {
    let mut totals = Totals::default();
    let seeds = ask.seeds.clone();
    backend.sweep(&ask, args.jobs, |report| {
        totals.runs += 1;
        totals.events += report.events;
        totals.simulated_ms += report.simulated_ms;
        for (what, count) in &report.counts {
            *totals.counts.entry(what.clone()).or_default() += count;
        }
        if report.violation.is_some() {
            totals.failed += 1;
            print_failure(&report, args.plan.as_deref());
        }
        Ok(report.violation.is_none() || !args.until_fail)
    })?;
    let seconds = totals.simulated_ms / 1000;
    println!(
        "{} in {}: {} runs, {} failed, {} events, {seconds} simulated seconds",
        loaded.scenario.name, backend.world, totals.runs, totals.failed, totals.events
    );
    let counts: Vec<String> = totals.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!("  {}", counts.join(", "));
    if totals.failed > 0 {
        return Err(Failure::Violated);
    }
    let wanted = if args.plan.is_some() { 1 } else { seeds.end - seeds.start };
    if totals.runs != wanted {
        return Err(Failure::Harness(format!("{} of {wanted} runs reported", totals.runs)));
    }
    let missed: Vec<&String> = loaded.scenario.must_reach.iter().filter(|mark| !totals.counts.contains_key(*mark)).collect();
    if seeds.end - seeds.start >= SEEDS_FOR_MARKS && args.plan.is_none() && !missed.is_empty() {
        println!("violated: must_reach: no seed reached {missed:?}");
        return Err(Failure::Violated);
    }
    Ok(())
}

/// Scenario, world, seed, the violated invariant, the last events and the command that repeats it, which comes last.
pub fn print_failure(report: &Report, plan: Option<&std::path::Path>) {
    let Some(violation) = &report.violation else { return };
    println!("FAILED scenario {} world {} seed {}", report.scenario, report.world, report.seed);
    println!("last {} of {} events:", report.recent.len(), report.events);
    for line in &report.recent {
        println!("  {line}");
    }
    println!("violated {}: {}", violation.oracle, violation.detail);
    println!("repeat with: {}", repeat(report, plan));
}

pub fn repeat(report: &Report, plan: Option<&std::path::Path>) -> String {
    let what = plan.map_or(format!("--seed {}", report.seed), |path| format!("--plan {}", path.display()));
    format!("cargo sim run --world {} --scenario {} {what}", report.world, report.scenario)
}
