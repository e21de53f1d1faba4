//! Builds the backends, starts their processes and reads their reports.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "this program drives simulations; it is not simulated")]

use crate::worlds::{self, Loaded, WORLDS, harness};
use crate::{Failure, RunArgs};
use sim_core::report::Report;
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

/// A built backend.
#[derive(Clone)]
pub struct Backend {
    pub world: String,
    program: PathBuf,
}

/// How the backends are built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Build {
    /// With the planted bugs in it, to be switched on by name.
    pub planted: bool,
    /// Not optimised, as tests are.
    pub debug: bool,
}

impl Build {
    fn suffix(self) -> String {
        format!("{}{}", if self.planted { "-planted" } else { "-plain" }, if self.debug { "-debug" } else { "" })
    }
}

/// The backends of some worlds.
pub struct Backends(Vec<Backend>);

impl Backends {
    /// The backend of a world that was asked for when they were built.
    pub fn of(&self, world: &str) -> Result<&Backend, Failure> {
        self.0.iter().find(|backend| backend.world == world).ok_or_else(|| Failure::Harness(format!("the world \"{world}\" was not built")))
    }
}

/// Builds all backends in one go, so that the library is compiled once for them. Those of different builds are kept apart.
pub fn build(build: Build) -> Result<Backends, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(worlds::root()).args(["build", "--quiet", "--message-format=json-render-diagnostics"]);
    for (_, package) in WORLDS {
        command.args(["--package", package]);
        if build.planted {
            command.args(["--features", &format!("{package}/planted-bugs")]);
        }
    }
    if !build.debug {
        command.arg("--release");
    }
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| Failure::Harness(format!("run cargo: {error}")))?;
    if !output.status.success() {
        return Err(Failure::Harness("cargo could not build the worlds; its messages are above".to_string()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    WORLDS.iter().map(|(world, package)| keep(world, package, build, &messages)).collect::<Result<_, _>>().map(Backends)
}

/// A copy: the next build, with or without planted bugs, replaces the original while it may still be running.
fn keep(world: &str, package: &str, build: Build, messages: &[serde_json::Value]) -> Result<Backend, Failure> {
    let of_package = messages.iter().filter(|m| m["target"]["name"] == package);
    let built = of_package.filter_map(|m| m["executable"].as_str().map(PathBuf::from)).next();
    let built = built.ok_or_else(|| Failure::Harness(format!("cargo did not say where it put {package}")))?;
    let program = built.with_file_name(format!("{package}{}", build.suffix()));
    let fresh = program.with_extension(std::process::id().to_string());
    std::fs::copy(&built, &fresh).and_then(|_| std::fs::rename(&fresh, &program)).map_err(harness)?;
    Ok(Backend { world: world.to_string(), program })
}

/// What to ask of a backend.
#[derive(Clone, Default)]
pub struct Ask {
    pub scenario: PathBuf,
    pub seeds: Range<u64>,
    pub plan: Option<PathBuf>,
    pub planted: Option<String>,
    pub checkpoints: bool,
    pub print_plan: bool,
    pub until_fail: bool,
    pub trace: Option<Range<u64>>,
    /// Seeds that one process runs; 0: as many as are good for the sweep.
    pub batch: u64,
}

impl Ask {
    pub fn new(loaded: &Loaded, args: &RunArgs, seeds: Range<u64>) -> Ask {
        Ask {
            scenario: loaded.path.clone(),
            seeds,
            plan: args.plan.clone(),
            planted: args.planted.clone(),
            until_fail: args.until_fail,
            ..Ask::default()
        }
    }
}

impl Backend {
    fn command(&self, ask: &Ask) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--scenario").arg(&ask.scenario).arg("--seeds").arg(format!("{}..{}", ask.seeds.start, ask.seeds.end));
        if let Some(plan) = &ask.plan {
            command.arg("--plan").arg(plan);
        }
        if let Some(bug) = &ask.planted {
            command.arg("--planted").arg(bug);
        }
        if let Some(window) = &ask.trace {
            command.arg("--trace").arg(format!("{}..{}", window.start, window.end));
        }
        for (set, flag) in [(ask.checkpoints, "--checkpoints"), (ask.print_plan, "--print-plan"), (ask.until_fail, "--until-fail")] {
            if set {
                command.arg(flag);
            }
        }
        // A panic inside a simulated node is reported as a violation; its text on standard error would come in between.
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Runs one process to its end. Gives its standard output and, if a trace was asked for, its standard error.
    pub fn output(&self, ask: &Ask) -> Result<(String, String), Failure> {
        let output = self.command(ask).output().map_err(|error| Failure::Harness(format!("run {}: {error}", self.program.display())))?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0 | 1) => Ok((String::from_utf8_lossy(&output.stdout).into_owned(), errors)),
            Some(UNUSABLE) => Err(Failure::Harness(errors.trim_end().to_string())),
            _ => Err(Failure::Harness(format!("{} ended with {}: {errors}", self.program.display(), output.status))),
        }
    }

    /// The report of a single run.
    pub fn one(&self, ask: &Ask) -> Result<(Report, String), Failure> {
        let (text, errors) = self.output(ask)?;
        let report = text.lines().find_map(|line| serde_json::from_str(line).ok());
        Ok((report.ok_or_else(|| Failure::Harness(format!("{} gave no report: {errors}", self.program.display())))?, errors))
    }

    /// Runs the seeds in `jobs` processes at a time, a few seeds each, and hands every report over as it comes. When `each` gives
    /// false no further process is started; those at work are heard to their end, for they may run earlier seeds.
    ///
    /// Errors: what `each` says, or a process that ended otherwise than with a report for each of its seeds.
    pub fn sweep(&self, ask: &Ask, jobs: usize, mut each: impl FnMut(Report) -> Result<bool, Failure>) -> Result<(), Failure> {
        let next = Mutex::new(ask.seeds.start);
        let stop = AtomicBool::new(false);
        let (send, lines) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                let (send, next, stop) = (send.clone(), &next, &stop);
                scope.spawn(move || {
                    while let Some(seeds) = take_batch(next, ask, jobs).filter(|_| !stop.load(Ordering::Relaxed)) {
                        if let Err(text) = self.batch(&Ask { seeds, ..ask.clone() }, &send) {
                            // Nobody listens when the sweep has ended already.
                            let _ = send.send(Line::Broken(text));
                            return;
                        }
                    }
                });
            }
            drop(send);
            let mut outcome = Ok(());
            for line in lines {
                let wanted = match line {
                    Line::Report(report) => each(*report),
                    Line::Broken(text) => Err(Failure::Harness(text)),
                };
                match wanted {
                    Ok(true) => {}
                    Ok(false) => stop.store(true, Ordering::Relaxed),
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
            outcome
        })
    }

    /// One process.
    fn batch(&self, ask: &Ask, send: &mpsc::Sender<Line>) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("run {}: {error}", self.program.display());
        let mut child = self.command(ask).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // The texts of panics arrive here, which reports carry too; they matter if the process ends without its reports.
        let complaints = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut reports = 0;
        for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()) {
            let line = line.map_err(failed)?;
            let report = serde_json::from_str(&line).map_err(|error| format!("a backend printed what is no report ({error}): {line}"))?;
            reports += 1;
            if send.send(Line::Report(report)).is_err() {
                // The sweep has ended.
                let _ = child.kill();
                let _ = child.wait();
                return Ok(());
            }
        }
        let status = child.wait().map_err(failed)?;
        let complaints = complaints.join().unwrap_or_default();
        let wanted = if ask.plan.is_some() { 1 } else { ask.seeds.end - ask.seeds.start };
        if status.code() == Some(UNUSABLE) {
            return Err(complaints.trim_end().to_string());
        }
        let complete = reports == wanted || (ask.until_fail && status.code() == Some(1));
        if complete && matches!(status.code(), Some(0 | 1)) {
            return Ok(());
        }
        let range = format!("{}..{}", ask.seeds.start, ask.seeds.end);
        Err(format!("{} ended with {status} after {reports} of {wanted} reports for seeds {range}: {complaints}", self.program.display()))
    }
}

/// How a backend ends that cannot use its scenario or plan; what it said names file and place.
const UNUSABLE: i32 = 3;

/// Seeds that one process runs at most: few, so that processes stay small.
const BATCH: u64 = 10;

/// The next seeds for one process, fewer towards the end, so that no process has long to run when the others have nothing left.
fn take_batch(next: &Mutex<u64>, ask: &Ask, jobs: usize) -> Option<Range<u64>> {
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    let (from, end) = (*next, ask.seeds.end);
    let share = end.saturating_sub(from) / (2 * jobs.max(1) as u64);
    let batch = if ask.batch == 0 { share.clamp(1, BATCH) } else { ask.batch };
    *next = from.saturating_add(batch).min(end);
    (from < end).then_some(from..*next)
}

enum Line {
    Report(Box<Report>),
    Broken(String),
}
