//! `cargo sim run`: many seeds, a line for each scenario and world, and a full account of what failed.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "this program drives simulations; it is not simulated")]

use crate::backend::{self, Ask, Backend, Build};
use crate::page;
use crate::worlds::{self, Loaded};
use crate::{Failure, RunArgs};
use sim_core::report::Report;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A sweep of so many seeds must reach every mark of its scenario.
const SEEDS_FOR_MARKS: u64 = 50;
/// Failures of one sweep that get a page; each takes a run of its own.
const PAGES_MAX: u64 = 3;

pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let seeds = args.seeds(0..200);
    let scenarios = match (&args.scenario, &args.plan) {
        (None, Some(plan)) => vec![worlds::of_plan(plan)?],
        (wanted, _) => worlds::scenarios(wanted.as_deref())?,
    };
    let start = Instant::now();
    let backends = backend::build(Build { planted: args.planted.is_some(), debug: false })?;
    let mut all = Totals::default();
    for loaded in &scenarios {
        for world in worlds::worlds(&loaded.scenario, args.world.as_deref())? {
            let backend = backends.of(&world)?;
            let ask = Ask::new(loaded, args, seeds.clone());
            if args.print_plan {
                println!("{}", backend.output(&Ask { print_plan: true, ..ask })?.0);
                return Ok(());
            }
            if let Some(path) = &args.trace {
                return trace(backend, ask, path);
            }
            all.add(sweep(loaded, backend, ask, args)?);
            if all.failed > 0 && args.until_fail {
                return all.verdict();
            }
        }
    }
    if !args.json {
        println!("{} runs, {} failed, {} s", all.runs, all.failed, start.elapsed().as_secs());
    }
    all.verdict()
}

fn trace(backend: &Backend, ask: Ask, path: &Path) -> Result<(), Failure> {
    let first = ask.seeds.start;
    let ask = Ask { seeds: first..first + 1, ..ask };
    let (report, text) = backend.one(&Ask { trace: Some(0..u64::MAX), ..ask.clone() })?;
    let text = if path.extension().is_some_and(|x| x == "html") {
        page::render(&report, &plan_of(backend, &ask)?, &text, &command("run", &report, &ask))
    } else {
        text
    };
    std::fs::write(path, text).map_err(|error| Failure::Harness(format!("write {}: {error}", path.display())))?;
    println!("seed {first}: {} events, digest {}, written to {}", report.events, report.digest, path.display());
    match report.violation {
        None => Ok(()),
        Some(_) => {
            print_failure(&report, &ask);
            Err(Failure::Violated)
        }
    }
}

fn plan_of(backend: &Backend, ask: &Ask) -> Result<String, Failure> {
    Ok(backend.output(&Ask { print_plan: true, ..ask.clone() })?.0)
}

/// Writes the page of a failed run; gives where it is.
fn write_page(backend: &Backend, ask: &Ask, report: &Report) -> Result<PathBuf, Failure> {
    let ask = Ask { seeds: report.seed..report.seed + 1, ..ask.clone() };
    let (_, text) = backend.one(&Ask { trace: Some(0..u64::MAX), ..ask.clone() })?;
    let folder = worlds::output_folder();
    let path = folder.join(format!("{}-{}-{}.html", report.scenario, report.world, report.seed));
    let html = page::render(report, &plan_of(backend, &ask)?, &text, &command("run", report, &ask));
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, html));
    written.map_err(|error| Failure::Harness(format!("write {}: {error}", path.display())))?;
    Ok(path)
}

#[derive(Default)]
struct Totals {
    runs: u64,
    failed: u64,
    events: u64,
    simulated_ms: u64,
    counts: BTreeMap<String, u64>,
    /// The command that repeats the first failure.
    repeat: Option<String>,
}

impl Totals {
    fn take(&mut self, report: &Report) {
        self.runs += 1;
        self.events += report.events;
        self.simulated_ms += report.simulated_ms;
        self.failed += u64::from(report.violation.is_some());
        for (what, count) in &report.counts {
            *self.counts.entry(what.clone()).or_default() += count;
        }
    }

    fn add(&mut self, other: Totals) {
        self.runs += other.runs;
        self.failed += other.failed;
        self.repeat = self.repeat.take().or(other.repeat);
    }

    /// How it ends; a failure's last line is the command that repeats it.
    fn verdict(&self) -> Result<(), Failure> {
        if let Some(command) = &self.repeat {
            println!("repeat with: {command}");
        }
        if self.failed > 0 { Err(Failure::Violated) } else { Ok(()) }
    }
}

fn sweep(loaded: &Loaded, backend: &Backend, ask: Ask, args: &RunArgs) -> Result<Totals, Failure> {
    let (name, world, start) = (&loaded.scenario.name, &backend.world, Instant::now());
    let wanted = if args.plan.is_some() { 1 } else { ask.seeds.end - ask.seeds.start };
    let progress = std::io::stderr().is_terminal();
    let mut totals = Totals::default();
    backend.sweep(&ask, args.jobs, |report| {
        totals.take(&report);
        if progress {
            eprint!("\r{name} in {world}: {} of {wanted}\x1b[K", totals.runs);
            // Progress is a courtesy: a terminal that has gone stops no sweep.
            let _ = std::io::stderr().flush();
        }
        if report.violation.is_some() {
            let page = if totals.failed <= PAGES_MAX { Some(write_page(backend, &ask, &report)?) } else { None };
            print_failure_with(&report, &ask, page.as_deref());
            totals.repeat.get_or_insert_with(|| command("run", &report, &ask));
        }
        Ok(report.violation.is_none() || !args.until_fail)
    })?;
    if progress {
        eprint!("\r\x1b[K");
    }
    let missed = missed(loaded, &totals, wanted, args);
    totals.failed += u64::from(!missed.is_empty());
    print_line(loaded, world, &totals, start, args);
    if !missed.is_empty() {
        println!("violated: must_reach: no seed of {name} in {world} reached {}", missed.join(", "));
    }
    if totals.runs != wanted && !(args.until_fail && totals.failed > 0) {
        return Err(Failure::Harness(format!("{} of {wanted} runs reported", totals.runs)));
    }
    Ok(totals)
}

/// Marks of the scenario that a sweep of some size did not reach.
fn missed(loaded: &Loaded, totals: &Totals, wanted: u64, args: &RunArgs) -> Vec<String> {
    if wanted < SEEDS_FOR_MARKS || args.plan.is_some() || totals.runs != wanted {
        return Vec::new();
    }
    loaded.scenario.must_reach.iter().filter(|mark| !totals.counts.contains_key(*mark)).cloned().collect()
}

fn print_line(loaded: &Loaded, world: &str, totals: &Totals, start: Instant, args: &RunArgs) {
    let (name, took, simulated) = (&loaded.scenario.name, start.elapsed().as_secs_f64(), totals.simulated_ms / 1000);
    if args.json {
        let line = serde_json::json!({
            "scenario": name, "world": world, "runs": totals.runs, "failed": totals.failed, "events": totals.events,
            "simulated_seconds": simulated, "seconds": took, "counts": totals.counts,
        });
        println!("{line}");
        return;
    }
    let failed = if totals.failed > 0 { format!("{} FAILED", totals.failed) } else { "all passed".to_string() };
    println!(
        "{name:<20} {world:<6} {:>5} runs  {failed:<11} {:>10} events {simulated:>7} simulated s {took:>7.1} s",
        totals.runs, totals.events
    );
    if args.counts {
        let counts: Vec<String> = totals.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
        println!("  {}", counts.join(", "));
    }
}

/// Scenario, world, seed, the violated invariant, the last events and the command that repeats it, which comes last.
pub fn print_failure(report: &Report, ask: &Ask) {
    print_failure_with(report, ask, None);
}

fn print_failure_with(report: &Report, ask: &Ask, page: Option<&Path>) {
    let Some(violation) = &report.violation else { return };
    println!("FAILED scenario {} world {} seed {}", report.scenario, report.world, report.seed);
    println!("last {} of {} events:", report.recent.len(), report.events);
    for line in &report.recent {
        println!("  {line}");
    }
    println!("violated {}: {}", violation.oracle, violation.detail);
    if let Some(page) = page {
        println!("as a chart: {}", page.display());
    }
    if ask.plan.is_none() {
        println!("make it small: {}", command("shrink", report, ask));
    }
    println!("repeat with: {}", command("run", report, ask));
}

/// A command for the run of this report.
fn command(what: &str, report: &Report, ask: &Ask) -> String {
    let run = match &ask.plan {
        Some(path) => format!("--plan {}", path.display()),
        None => format!("--scenario {} --seed {}", report.scenario, report.seed),
    };
    let planted = ask.planted.as_ref().map(|bug| format!(" --planted {bug}")).unwrap_or_default();
    format!("cargo sim {what} --world {} {run}{planted}", report.world)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_repeated_as_it_was_run() {
        let report: Report = serde_json::from_value(serde_json::json!({
            "scenario": "smoke", "world": "net", "seed": 7, "digest": "d", "events": 1, "simulated_ms": 1, "violation": null, "counts": {}
        }))
        .expect("is a report");
        assert_eq!(command("run", &report, &Ask::default()), "cargo sim run --world net --scenario smoke --seed 7");
        let ask = Ask { plan: Some("a.plan".into()), planted: Some("late".to_string()), ..Ask::default() };
        assert_eq!(command("run", &report, &ask), "cargo sim run --world net --plan a.plan --planted late");
    }
}
