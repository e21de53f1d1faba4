//! `cargo sim`: builds the simulation worlds, runs seeds in them, and reports.
//!
//! Exit codes: 0 fine, 1 an oracle was violated (or a planted bug was not found), 2 nondeterminism, 3 the harness itself
//! could not work.

mod check;
mod mutants;
mod sweep;
mod worlds;

use clap::{Args, Parser, Subcommand};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// Runs palimpsest inside a deterministic simulator.
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
    /// Runs seeds; a failure prints what was violated and the command that repeats it.
    Run(RunArgs),
    /// Runs each seed twice in separate processes and compares the digests.
    Check(RunArgs),
    /// Builds the planted bugs and requires that each is found.
    Mutants(MutantArgs),
}

#[derive(Args, Clone)]
struct RunArgs {
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
    /// Runs this plan file instead of what the seed expands to.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Prints the plan of the first seed and runs nothing.
    #[arg(long)]
    print_plan: bool,
    /// Writes the whole trace of the first seed to this file.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Stops at the first failure.
    #[arg(long)]
    until_fail: bool,
    /// Switches a planted bug on (the build then has the feature planted-bugs).
    #[arg(long)]
    planted: Option<String>,
}

#[derive(Args)]
struct MutantArgs {
    /// Only this bug.
    #[arg(long)]
    bug: Option<String>,
    /// Seeds to try per bug at most.
    #[arg(long, default_value_t = 400)]
    budget: u64,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
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
    let cli = Cli::parse();
    let done = match cli.command {
        None => sweep::run(&cli.run),
        Some(Command::Run(args)) => sweep::run(&args),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Mutants(args)) => mutants::run(&args),
    };
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
        assert!(Cli::try_parse_from(["sim", "run", "--seeds", "5..5"]).is_err());
        assert!(Cli::try_parse_from(["sim", "run", "--seeds", "5"]).is_err());
    }
}
