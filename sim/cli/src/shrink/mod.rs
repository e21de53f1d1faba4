//! `cargo sim shrink`: from a failing seed to a plan of a few faults, which is kept as a regression.
//!
//! ```text
//! plan of the seed -> candidates (smaller plans) -> backend: does the same oracle fail? -> the smallest plan -> scenarios/regressions
//! ```

mod candidates;
mod search;

use crate::backend::{self, Ask, Backend, Build};
use crate::regress::{self, Entry};
use crate::worlds::{self, Loaded};
use crate::{Failure, ShrinkArgs};
use candidates::Plan;
use search::Search;
use std::path::{Path, PathBuf};

pub fn run(args: &ShrinkArgs) -> Result<(), Failure> {
    let [loaded] = &worlds::scenarios(Some(&args.scenario))?[..] else {
        return Err(Failure::Harness("shrink needs one scenario".to_string()));
    };
    let world = worlds::worlds(&loaded.scenario, Some(&args.world))?.remove(0);
    let backends = backend::build(Build { planted: args.planted.is_some(), debug: false })?;
    let backend = backends.of(&world)?;
    let ask = Ask { scenario: loaded.path.clone(), seeds: args.seed..args.seed + 1, planted: args.planted.clone(), ..Ask::default() };
    let plan = Plan::parse(&backend.output(&Ask { print_plan: true, ..ask.clone() })?.0)?;
    let Some(violation) = backend.one(&ask)?.0.violation else {
        return Err(Failure::Harness(format!("seed {} of {} passes in {world}: there is nothing to shrink", args.seed, args.scenario)));
    };
    println!("seed {} of {} in {world} violates {}: {}", args.seed, args.scenario, violation.oracle, violation.detail);
    let scratch = Scratch::new(&args.scenario, args.seed)?;
    let search = Search { runs_max: args.runs, jobs: args.jobs };
    let fails = |candidate: &Plan, slot: usize| still_fails(backend, &ask, candidate, &violation.oracle, &scratch.plan(slot));
    let outcome = search.smallest(plan.clone(), &fails, &mut |progress| eprintln!("{progress}"))?;
    let small = &outcome.plan;
    println!(
        "{} faults, {} operations, {} ms became {} faults, {} operations, {} ms in {} runs",
        plan.faults().len(),
        plan.ops().len(),
        plan.run_ms(),
        small.faults().len(),
        small.ops().len(),
        small.run_ms(),
        outcome.runs
    );
    small.faults().iter().for_each(|fault| println!("  {fault}"));
    keep(args, loaded, small, &violation.oracle, &world)
}

/// Whether the same oracle fails.
fn still_fails(backend: &Backend, ask: &Ask, candidate: &Plan, oracle: &str, file: &Path) -> Result<bool, Failure> {
    write(file, &candidate.print())?;
    let report = backend.one(&Ask { plan: Some(file.to_path_buf()), ..ask.clone() })?.0;
    Ok(report.violation.is_some_and(|violation| violation.oracle == oracle))
}

/// Writes the plan and its entry among the regressions, or only the plan where the caller says.
fn keep(args: &ShrinkArgs, loaded: &Loaded, plan: &Plan, oracle: &str, world: &str) -> Result<(), Failure> {
    let scenario = &loaded.scenario.name;
    let path = match &args.out {
        Some(path) => path.clone(),
        None => {
            let name =
                args.planted.clone().map_or_else(|| format!("{scenario}-{world}-{}", args.seed), |bug| format!("{scenario}-{world}-{bug}"));
            let entry = Entry {
                plan: format!("{name}.plan"),
                world: world.to_string(),
                oracle: oracle.to_string(),
                planted: args.planted.clone(),
                what: args.what.clone().unwrap_or_else(|| format!("seed {} of {scenario} violated {oracle}", args.seed)),
            };
            regress::add(&entry)?
        }
    };
    write(&path, &plan.print())?;
    let planted = args.planted.as_ref().map(|bug| format!(" --planted {bug}")).unwrap_or_default();
    println!("written to {}", path.display());
    println!("repeat with: cargo sim run --world {world} --scenario {scenario} --plan {}{planted}", path.display());
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "this program drives simulations; it is not simulated")]
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, format!("{}\n", text.trim_end()))
        .map_err(|error| Failure::Harness(format!("write the plan {}: {error}", path.display())))
}

/// Plan files of candidates, one per run at a time.
struct Scratch(PathBuf);

impl Scratch {
    #[expect(clippy::disallowed_methods, reason = "this program drives simulations; it is not simulated")]
    fn new(scenario: &str, seed: u64) -> Result<Scratch, Failure> {
        let stem = Path::new(scenario).file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        let folder = worlds::output_folder().join(format!("shrink-{stem}-{seed}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| Failure::Harness(format!("create {}: {error}", folder.display())))?;
        Ok(Scratch(folder))
    }

    fn plan(&self, slot: usize) -> PathBuf {
        self.0.join(format!("{slot}.plan"))
    }
}

impl Drop for Scratch {
    #[expect(clippy::disallowed_methods, reason = "this program drives simulations; it is not simulated")]
    fn drop(&mut self) {
        // What stays behind is in the build folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
