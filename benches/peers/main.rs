//! Compares palimpsest with its peers: each figure as a ratio, measured in one run on one machine against real PostgreSQL 15.
//!
//! ```text
//! cargo bench --bench peers                     quick form of all
//! cargo bench --bench peers -- --full           60 s of pgbench, 2 GB, 5 GB of WAL
//! cargo bench --bench peers -- decode redo      some of them;  --json for one object per line
//! ```
//!
//! Ends with status 1 if a figure misses its bound, 2 if a bench could not run.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "benches look at the real machine only")]

mod cluster;
mod decode;
mod getpage;
mod history;
mod ingest;
mod large;
mod os;
mod pages_client;
mod pal;
mod receive;
mod redo;
mod report;
mod tenants;

use clap::Parser;
use history::{History, Size};
use os::{Outcome, Scratch};
use report::Report;
use std::process::ExitCode;
use std::time::Duration;

const ALL: [&str; 11] = ["decode", "redo", "ingest", "receive", "commit", "getpage", "pages", "branch", "memory", "tenants", "branches"];
/// Those that need a pgbench history.
const ON_HISTORY: [&str; 5] = ["decode", "redo", "ingest", "getpage", "pages"];

/// Compares palimpsest with its peers on this machine.
#[derive(Debug, Parser)]
struct Args {
    /// Which benches to run: decode, redo, ingest, receive, commit, getpage, pages, branch, memory, tenants, branches; all if none is named.
    benches: Vec<String>,
    /// The sizes of the requirements instead of small ones.
    #[arg(long)]
    full: bool,
    /// Seconds of pgbench in the history (15, or 60 in the full form).
    #[arg(long)]
    seconds: Option<u32>,
    /// Scale of pgbench in the history.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// One JSON object per figure.
    #[arg(long)]
    json: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let done = match args.get(1).map(String::as_str) {
        // The redo executor starts its children as `current_exe wal-redo`.
        Some("wal-redo") => return palimpsest::cli::run(palimpsest::cli::Cli::parse()),
        Some("echo-server") => pages_client::echo_server().map(|()| true),
        Some("ingest-worker") => ingest::worker(&args[2..]).map(|()| true),
        _ => run(&Args::parse()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Outcome<bool> {
    if let Some(unknown) = args.benches.iter().find(|b| !ALL.contains(&b.as_str())) {
        return Err(format!("there is no bench \"{unknown}\": expected {}", ALL.join(", ")).into());
    }
    let wanted = |name: &str| args.benches.is_empty() || args.benches.iter().any(|b| b == name);
    let scratch = Scratch::new()?;
    let report = Report::new(args.json);
    let of = |quick, full| if args.full { full } else { quick };
    if ON_HISTORY.into_iter().any(wanted) {
        let seconds = args.seconds.unwrap_or(of(15, 60));
        let history = History::make(&scratch, Size { scale: args.scale, seconds })?;
        on_history(&scratch, &history, &report, &wanted, args.full)?;
    }
    if wanted("receive") {
        receive::throughput(&scratch, &report, of(300, 1000).into())?;
    }
    if wanted("commit") {
        receive::commit_latency(&scratch, &report, of(3, 10))?;
    }
    if wanted("branch") {
        large::branches(&scratch, &report, of(10, 130))?;
    }
    if wanted("memory") {
        large::memory(&scratch, &report, of(500, 5000).into())?;
    }
    if wanted("tenants") {
        tenants::idle(&scratch, &report, of(100, 1000) as usize)?;
    }
    if wanted("branches") {
        tenants::branches(&scratch, &report, of(100, 1000) as usize)?;
    }
    Ok(report.all_pass())
}

fn on_history(scratch: &Scratch, history: &History, report: &Report, wanted: &impl Fn(&str) -> bool, full: bool) -> Outcome<()> {
    if wanted("decode") {
        decode::bench(history, report)?;
    }
    if wanted("redo") {
        redo::bench(history, report)?;
    }
    if wanted("ingest") {
        ingest::bench(scratch, history, report)?;
    }
    if wanted("getpage") {
        getpage::throughput(scratch, history, report, Duration::from_secs(if full { 5 } else { 2 }))?;
    }
    if wanted("pages") {
        getpage::latency(scratch, history, report, if full { 3 } else { 1 })?;
    }
    Ok(())
}
