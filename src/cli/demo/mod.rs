//! `pal demo`: the main job on a real PostgreSQL, start to end, without set-up.
//!
//! In: nothing but a server's programs, which are found or installed. Out: a table of steps with times, or one JSON object;
//! exit code 0 only if everything matched. Invariant: whatever ends the demo, a signal too, its servers are stopped and its
//! directory is removed (unless `--keep` asks to leave them until Ctrl-C).

mod load;
mod report;
mod stage;
mod steps;

use super::client::command_env;
use super::output::{CommandError, Outcome, print};
use super::timeline::parse_version;
use crate::io_abstraction::real;
use crate::observe;
use crate::pg::version::PgVersion;
use futures::FutureExt as _;
use report::Report;
use stage::Stage;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

const HELP: &str = "\
What happens: a server starts on a fresh cluster exported from palimpsest and streams its WAL back under load.
At one moment row counts and checksums are taken; then the load goes on and drops a table. A branch of that
moment is exported, a second stock server boots on it, and both servers are compared with what was true then and
what is true now. Nothing outside a temporary directory is touched; no port is fixed.

A server that is not there is installed by npm, once, as `pal postgres install` does.

Examples:
  pal demo
  pal demo --pg 17 --keep
  pal demo --json | tail -n 1 | jq .ok";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct DemoArgs {
    /// Major version of PostgreSQL, 14 to 18.
    #[arg(long = "pg", value_name = "MAJOR", default_value = "15", value_parser = parse_version)]
    pub pg: PgVersion,
    /// Print one JSON object as the last line instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Leave everything running until Ctrl-C, and print how to connect.
    #[arg(long)]
    pub keep: bool,
}

pub async fn run(args: &DemoArgs) -> Outcome {
    // Problems of single steps are the demo's own to tell.
    observe::start_logging(Some(real::log_filter().as_deref().unwrap_or("error")));
    let env = command_env()?;
    let mut stage = Stage::open(env.clone()).await?;
    let mut report = Report::new(env, args.json);
    let outcome = tokio::select! {
        biased;
        signal = real::termination() => Err(CommandError::interrupted(signal)),
        outcome = AssertUnwindSafe(steps::all(&mut stage, &mut report, args.pg)).catch_unwind() => {
            outcome.unwrap_or_else(|_| Err(CommandError::new("the demo met a fault in itself, told above")))
        }
    };
    let interrupted = outcome.as_ref().is_err_and(|e| e.exit == super::output::Exit::Interrupted);
    let told = report.finish(outcome.as_ref().err());
    if args.keep && !interrupted {
        eprint!("{}", stage.connections());
        eprintln!("everything runs until Ctrl-C");
        real::termination().await;
    }
    stage.close().await;
    told?;
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // The report has told it already.
        Err(error) => Ok(ExitCode::from(error.exit as u8)),
    }
}

/// Prints a line of the report.
fn say(line: &str) -> Result<(), CommandError> {
    print(&format!("{line}\n")).map(|_| ())
}
