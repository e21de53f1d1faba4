//! What both backends share: their command line, and the way from a finished run to its report.
//!
//! A backend is a thin front for `cargo sim`, which builds and calls it: it runs seeds (or a plan) one after the other and
//! prints one JSON report per line. Exit code 0 if all passed, 1 if an oracle was violated, 3 if it could not run.

use crate::harness::{self, Ran};
use crate::oracle::Violation;
use crate::plan::Plan;
use crate::probe::Planted;
use crate::report::Report;
use crate::scenario::Scenario;
use crate::trace::{Summary, Trace};
use crate::world::{Cluster, World};
use clap::Parser;
use futures::future::LocalBoxFuture;
use palimpsest::io_abstraction::RngSource;
use parking_lot::Mutex;
use std::any::Any;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

/// A run that ended, and the text of the events that were asked for.
pub struct Done {
    pub report: Report,
    pub text: Vec<String>,
}

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

/// Runs simulations in one world.
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

/// One run: the plan, the numbers of the events whose text is kept, the planted bug that is switched on.
pub type Run = fn(Plan, Range<u64>, Planted) -> Done;

/// The `main` of a backend's program.
pub fn main(run: Run) -> ExitCode {
    match go(Args::parse(), run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(3)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "scenario and plan are read before anything is simulated")]
fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))
}

/// Whether every run passed.
fn go(args: Args, run: Run) -> Result<bool, String> {
    if args.planted.is_some() && !cfg!(feature = "planted-bugs") {
        return Err("--planted needs a build with the feature planted-bugs".to_string());
    }
    let scenario = Scenario::parse(&args.scenario, &read(&args.scenario)?).map_err(|error| error.to_string())?;
    let plans: Vec<Plan> = match &args.plan {
        Some(path) => vec![Plan::parse(path, &read(path)?).map_err(|error| error.to_string())?],
        None => args.seeds.0.clone().map(|seed| Plan::expand(&scenario, seed)).collect(),
    };
    if args.print_plan {
        println!("{}", plans.first().map(Plan::print).unwrap_or_default());
        return Ok(true);
    }
    let window = args.trace.map_or(0..0, |window| window.0);
    let mut passed = true;
    for plan in plans {
        let mut done = run(plan, window.clone(), args.planted.as_deref().map(Arc::from));
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

/// A run that waits for its world; gives what came of it and the simulated milliseconds.
pub type Body = Box<dyn FnOnce(Arc<dyn World>) -> LocalBoxFuture<'static, (Ran, u64)> + Send>;

/// Runs a plan in the world that `isolated` makes.
pub fn simulate(
    world: &str,
    plan: Plan,
    window: Range<u64>,
    planted: Planted,
    isolated: impl FnOnce(Body) -> Result<(Ran, u64), String>,
) -> Done {
    let (scenario, seed) = (plan.scenario.clone(), plan.seed);
    // The trace outlives a run that panics.
    let kept: Arc<Mutex<Option<Trace>>> = Arc::default();
    let keep = kept.clone();
    let body: Body = Box::new(move |world| {
        Box::pin(async move {
            let trace = Trace::new(world.clock(), window);
            *keep.lock() = Some(trace.clone());
            let source = RngSource::new(u128::from(seed)).child(&plan.scenario).child("run");
            let cluster = Cluster::new(world.clone(), trace, source, planted);
            let _listening = cluster.log.listen();
            let ran = harness::run(cluster, plan).await;
            (ran, world.clock().mono().0 / 1_000_000)
        })
    });
    let ran = isolated(body);
    let summary = kept.lock().take().map(|trace| trace.summary());
    finish(world, (scenario, seed), ran, summary)
}

/// Puts a report together. A panic, wherever it comes from, is a violation of the oracle `panic`; `ran` then holds its
/// message. `summary` is missing if the run did not get as far as a trace.
fn finish(world: &str, (scenario, seed): (String, u64), ran: Result<(Ran, u64), String>, summary: Option<Summary>) -> Done {
    let summary = summary.unwrap_or_default();
    let (violation, counts, simulated_ms) = match ran {
        Ok((ran, ms)) => (ran.violation, ran.counts, ms),
        Err(detail) => (Some(Violation { oracle: "panic".to_string(), detail }), Default::default(), 0),
    };
    let hex = |digest: &u64| format!("{digest:016x}");
    let recent = if violation.is_some() { summary.recent } else { Vec::new() };
    let report = Report {
        scenario,
        world: world.to_string(),
        seed,
        digest: hex(&summary.digest),
        events: summary.events,
        simulated_ms,
        violation,
        counts,
        checkpoints: summary.checkpoints.iter().map(hex).collect(),
        recent,
    };
    Done { report, text: summary.text }
}

/// Runs `body` on a fresh thread: std's hash keys and other state of a thread would carry over from run to run.
///
/// Errors: the message of a panic inside.
pub fn on_fresh_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let thread = std::thread::Builder::new().name("run".to_string()).stack_size(16 << 20).spawn(body);
    thread.expect("the system has threads").join().map_err(|panic| panic_message(&*panic))
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_string()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "panic without a message".to_string()
    }
}
