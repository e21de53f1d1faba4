//! The `sched` world: madsim picks the next task at random, so this world finds bugs of interleaving.
//!
//! A thin front for `cargo sim`, which builds and calls it: runs seeds (or a plan) one after the other and prints one JSON
//! report per line. Exit code 0 if all passed, 1 if an oracle was violated, 3 if it could not run.

#[cfg(not(all(madsim, tokio_unstable)))]
compile_error!("build from inside the workspace: .cargo/config.toml carries the flags `--cfg madsim --cfg tokio_unstable`");

mod net;
mod run;
mod runtime;
mod world;

#[cfg(test)]
mod contract;

use clap::Parser;
use sim_core::plan::Plan;
use sim_core::scenario::Scenario;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

/// Numbers from A up to, not including, B.
#[derive(Debug, Clone)]
struct Numbers(Range<u64>);

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Numbers, String> {
        let wrong = || format!("\"{text}\" is not a range A..B");
        let (from, to) = text.split_once("..").ok_or_else(wrong)?;
        Ok(Numbers(from.parse().map_err(|_| wrong())?..to.parse().map_err(|_| wrong())?))
    }
}

/// Runs simulations in the world with the random scheduler.
#[derive(Parser)]
struct Args {
    /// Scenario file.
    #[arg(long)]
    scenario: PathBuf,
    /// Seeds A..B.
    #[arg(long, default_value = "0..1")]
    seeds: Numbers,
    /// Runs this plan instead of what the seeds expand to.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Prints the plan of the first seed and runs nothing.
    #[arg(long)]
    print_plan: bool,
    /// Switches a planted bug on.
    #[arg(long)]
    planted: Option<String>,
    /// Puts the running digests into the report.
    #[arg(long)]
    checkpoints: bool,
    /// Prints the events numbered A..B to standard error.
    #[arg(long)]
    trace: Option<Numbers>,
    /// Ends at the first seed that fails.
    #[arg(long)]
    until_fail: bool,
}

fn main() -> ExitCode {
    match go(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("sim-sched: {message}");
            ExitCode::from(3)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "scenario and plan are read before anything is simulated")]
fn read(path: &PathBuf) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))
}

/// Whether every run passed.
fn go(args: Args) -> Result<bool, String> {
    if args.planted.is_some() && !cfg!(feature = "planted-bugs") {
        return Err("--planted needs a build with the feature planted-bugs".to_string());
    }
    let scenario = Scenario::parse(&args.scenario, &read(&args.scenario)?).map_err(|error| error.to_string())?;
    let fixed = match &args.plan {
        Some(path) => Some(serde_json::from_str::<Plan>(&read(path)?).map_err(|error| format!("plan {}: {error}", path.display()))?),
        None => None,
    };
    let plans: Vec<Plan> = match fixed {
        Some(plan) => vec![plan],
        None => args.seeds.0.clone().map(|seed| Plan::expand(&scenario, seed)).collect(),
    };
    if args.print_plan {
        println!("{}", plans.first().map(|plan| serde_json::to_string_pretty(plan).unwrap_or_default()).unwrap_or_default());
        return Ok(true);
    }
    let window = args.trace.map_or(0..0, |window| window.0);
    let mut passed = true;
    for plan in plans {
        let mut done = run::run(plan, window.clone(), args.planted.as_deref().map(Arc::from));
        if !args.checkpoints {
            done.report.checkpoints.clear();
        }
        done.text.iter().for_each(|line| eprintln!("{line}"));
        println!("{}", serde_json::to_string(&done.report).map_err(|error| error.to_string())?);
        passed &= done.report.violation.is_none();
        if !passed && args.until_fail {
            break;
        }
    }
    Ok(passed)
}
