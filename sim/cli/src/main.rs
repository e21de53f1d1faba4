//! `cargo sim`: builds the simulation worlds, runs seeds in them, and reports.
//!
//! Exit codes: 0 fine, 1 an oracle was violated (or a planted bug was not found), 2 nondeterminism, 3 the harness itself
//! could not work.

mod backend;
mod check;
mod coverage;
mod diff;
mod exhaustive;
mod mutants;
mod page;
mod regress;
mod shrink;
mod speed;
mod sweep;
mod worlds;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// Runs palimpsest inside a deterministic simulator. Without a command: `run`.
#[derive(Parser)]
#[command(bin_name = "cargo sim", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Runs seeds; a failure prints what was violated and the command that repeats it, and leaves a chart.
    Run(RunArgs),
    /// Runs each seed twice in separate processes, compares the digests, and requires that it passes.
    Check(CheckArgs),
    /// Makes the plan of a failing seed small, and keeps it as a regression.
    Shrink(ShrinkArgs),
    /// Runs the plans of all bugs that were found once.
    Regress(RegressArgs),
    /// Shows what the seeds reach; a mark or fault that 500 seeds never reach fails.
    Coverage(CoverageArgs),
    /// Builds the planted bugs and requires that each is found.
    Mutants(MutantArgs),
    /// Crashes a short run at every operation on disk and object store in turn.
    Exhaustive(ExhaustiveArgs),
    /// Shows where two traces part.
    Diff(DiffArgs),
    /// Measures simulated time against processor time.
    Speed(RunArgs),
}

#[derive(Args, Clone)]
pub struct RunArgs {
    /// Scenario name (a file in scenarios/) or path; all of them by default.
    #[arg(long)]
    scenario: Option<String>,
    /// Seeds A..B, half-open.
    #[arg(long, conflicts_with = "seed")]
    seeds: Option<Seeds>,
    /// One seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this world.
    #[arg(long)]
    world: Option<String>,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Runs this plan file instead of what the seed expands to; its scenario is the one that it names.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Prints the plan of the first seed and runs nothing.
    #[arg(long)]
    print_plan: bool,
    /// Writes the whole trace of the first seed to this file; as a chart if its name ends in .html.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Stops at the first failure.
    #[arg(long)]
    until_fail: bool,
    /// Switches a planted bug on (the build then has the feature planted-bugs).
    #[arg(long)]
    planted: Option<String>,
    /// Shows how often each thing happened.
    #[arg(long)]
    counts: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The second run is one of a build that is not optimised.
    #[arg(long)]
    debug: bool,
}

#[derive(Args)]
pub struct ShrinkArgs {
    /// Scenario name or path.
    #[arg(long)]
    scenario: String,
    #[arg(long)]
    world: String,
    /// The seed that fails.
    #[arg(long)]
    seed: u64,
    /// Switches a planted bug on.
    #[arg(long)]
    planted: Option<String>,
    /// Runs at most.
    #[arg(long, default_value_t = 200)]
    runs: usize,
    /// Runs at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Writes the plan here, and no regression.
    #[arg(long)]
    out: Option<PathBuf>,
    /// One sentence on what the bug was, for the index of regressions.
    #[arg(long)]
    what: Option<String>,
}

#[derive(Args)]
pub struct RegressArgs {
    /// Ends with one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct CoverageArgs {
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
pub struct ExhaustiveArgs {
    /// Scenario name or path; it should be short and without faults.
    #[arg(long, default_value = "exhaustive")]
    scenario: String,
    /// Only this world.
    #[arg(long)]
    world: Option<String>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Switches a planted bug on.
    #[arg(long)]
    planted: Option<String>,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

#[derive(Args)]
pub struct DiffArgs {
    /// A trace that `cargo sim run --trace` wrote.
    first: PathBuf,
    second: PathBuf,
}

#[derive(Args)]
pub struct MutantArgs {
    /// Only this bug.
    #[arg(long)]
    bug: Option<String>,
    /// Seeds to try per bug at most.
    #[arg(long, default_value_t = 100)]
    budget: u64,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Tries each bug in both worlds, and fails only for the one that is named for it.
    #[arg(long)]
    both: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Seeds from A up to, not including, B.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(pub Range<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seeds, String> {
        let wrong = || format!("\"{text}\" is not a range of seeds: write A..B, for example 0..200");
        let (from, to) = text.split_once("..").ok_or_else(wrong)?;
        let range = from.parse().map_err(|_| wrong())?..to.parse().map_err(|_| wrong())?;
        if range.is_empty() { Err(format!("the range {text} has no seeds")) } else { Ok(Seeds(range)) }
    }
}

impl RunArgs {
    fn seeds(&self, default: Range<u64>) -> Range<u64> {
        match (&self.seeds, self.seed) {
            // A plan is one run, whatever seed it came from.
            _ if self.plan.is_some() => 0..1,
            (Some(seeds), _) => seeds.0.clone(),
            (None, Some(seed)) => seed..seed + 1,
            (None, None) => default,
        }
    }
}

/// Why the program ends otherwise than well.
pub enum Failure {
    /// An oracle was violated, or a planted bug stayed hidden. It was printed already.
    Violated,
    /// Two runs of one seed differ. It was printed already.
    Nondeterministic,
    /// The harness could not do its work.
    Harness(String),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return ending(Err(Failure::Harness(one_line(&error.to_string())))),
    };
    ending(match cli.command {
        None => sweep::run(&cli.run),
        Some(Command::Run(args)) => sweep::run(&args),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Shrink(args)) => shrink::run(&args),
        Some(Command::Regress(args)) => regress::run(&args),
        Some(Command::Coverage(args)) => coverage::run(&args),
        Some(Command::Mutants(args)) => mutants::run(&args),
        Some(Command::Exhaustive(args)) => exhaustive::run(&args),
        Some(Command::Diff(args)) => diff::run(&args),
        Some(Command::Speed(args)) => speed::run(&args),
    })
}

fn ending(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Violated) => ExitCode::from(1),
        Err(Failure::Nondeterministic) => ExitCode::from(2),
        Err(Failure::Harness(message)) => {
            eprintln!("cargo sim: {message}");
            ExitCode::from(3)
        }
    }
}

/// What is wrong with the command line, without the usage that follows it.
fn one_line(message: &str) -> String {
    let told = message.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let words: Vec<&str> = told.split_whitespace().collect();
    format!("{}; `cargo sim --help` tells what there is", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        Cli::try_parse_from(["sim", "--seeds", "0..5"]).ok().and_then(|c| c.run.seeds).expect("plain form takes seeds");
        let cli = Cli::try_parse_from(["sim", "run", "--scenario", "smoke", "--seeds", "0..200", "--world", "sched"])
            .unwrap_or_else(|e| panic!("{e}"));
        let Some(Command::Run(args)) = cli.command else { panic!("run") };
        assert_eq!((args.seeds(0..1), args.jobs), (0..200, 2));
        let seeds = Cli::try_parse_from(["sim", "--plan", "a.plan"]).map(|cli| cli.run.seeds(0..200));
        assert_eq!(seeds.ok(), Some(0..1));
        for seeds in ["5..5", "5", "a..b", "9..1"] {
            let error = Cli::try_parse_from(["sim", "run", "--seeds", seeds]).err().expect("is wrong");
            let line = one_line(&error.to_string());
            assert!(line.contains(seeds) && line.contains("--seeds") && line.lines().count() == 1, "{line}");
        }
    }
}
