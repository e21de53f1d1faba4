//! Finds scenarios, builds backends, starts their processes and reads their reports.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "this program drives simulations; it is not simulated")]

use crate::{Failure, RunArgs};
use sim_core::report::Report;
use sim_core::scenario::Scenario;
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

/// Backends that exist, each with its package and program name.
const WORLDS: [(&str, &str); 2] = [("net", "sim-net"), ("sched", "sim-sched")];

/// A scenario and where it came from.
pub struct Loaded {
    pub scenario: Scenario,
    pub path: PathBuf,
}

fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let above = manifest.and_then(|dir| dir.ancestors().nth(2).map(Path::to_path_buf));
    above.filter(|dir| dir.join("scenarios").is_dir()).unwrap_or_else(|| PathBuf::from("."))
}

fn harness(error: impl std::fmt::Display) -> Failure {
    Failure::Harness(error.to_string())
}

fn load(path: PathBuf) -> Result<Loaded, Failure> {
    let text =
        std::fs::read_to_string(&path).map_err(|error| Failure::Harness(format!("read the scenario {}: {error}", path.display())))?;
    let scenario = Scenario::parse(&path, &text).map_err(harness)?;
    for world in &scenario.worlds {
        if !WORLDS.iter().any(|(name, _)| name == world) {
            return Err(Failure::Harness(format!("scenario {}: there is no world \"{world}\"", path.display())));
        }
    }
    Ok(Loaded { scenario, path })
}

/// The scenario with this name or path, or all.
pub fn scenarios(wanted: Option<&str>) -> Result<Vec<Loaded>, Failure> {
    let folder = root().join("scenarios");
    if let Some(wanted) = wanted {
        let path = if wanted.ends_with(".toml") { PathBuf::from(wanted) } else { folder.join(format!("{wanted}.toml")) };
        return Ok(vec![load(path)?]);
    }
    let entries = std::fs::read_dir(&folder).map_err(|error| Failure::Harness(format!("list {}: {error}", folder.display())))?;
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.extension().is_some_and(|x| x == "toml")).collect();
    paths.sort();
    paths.into_iter().map(load).collect()
}

/// The worlds in which to run a scenario.
pub fn worlds(scenario: &Scenario, wanted: Option<&str>) -> Result<Vec<String>, Failure> {
    match wanted {
        None => Ok(scenario.worlds.clone()),
        Some(world) if scenario.worlds.iter().any(|w| w == world) => Ok(vec![world.to_string()]),
        Some(world) => Err(Failure::Harness(format!(
            "scenario {} does not run in world \"{world}\" (only in {})",
            scenario.name,
            scenario.worlds.join(", ")
        ))),
    }
}

/// A built backend.
#[derive(Clone)]
pub struct Backend {
    pub world: String,
    program: PathBuf,
}

/// Builds a backend. Those with planted bugs are kept apart from the others.
pub fn build(world: &str, planted: bool) -> Result<Backend, Failure> {
    let package = WORLDS.iter().find(|(name, _)| *name == world).map(|(_, package)| *package);
    let package = package.ok_or_else(|| Failure::Harness(format!("there is no world \"{world}\"")))?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(["build", "--release", "--quiet", "--package", package, "--message-format=json-render-diagnostics"]);
    if planted {
        command.args(["--features", &format!("{package}/planted-bugs")]);
    }
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| Failure::Harness(format!("run cargo: {error}")))?;
    if !output.status.success() {
        return Err(Failure::Harness(format!("cargo could not build {package}")));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let built = messages.filter(|m| m["target"]["name"] == package).find_map(|m| m["executable"].as_str().map(PathBuf::from));
    let built = built.ok_or_else(|| Failure::Harness(format!("cargo did not say where it put {package}")))?;
    // A copy: the next build, with or without planted bugs, replaces the original while it may still be running.
    let program = built.with_file_name(format!("{package}{}", if planted { "-planted" } else { "-plain" }));
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
            _ => Err(Failure::Harness(format!("{} ended with {}: {errors}", self.program.display(), output.status))),
        }
    }

    /// The report of a single run.
    pub fn one(&self, ask: &Ask) -> Result<(Report, String), Failure> {
        let (text, errors) = self.output(ask)?;
        let report = text.lines().find_map(|line| serde_json::from_str(line).ok());
        Ok((report.ok_or_else(|| Failure::Harness(format!("{} gave no report: {errors}", self.program.display())))?, errors))
    }

    /// Runs the seeds in `jobs` processes at a time, a few seeds each, and hands every report over as it comes. `each` gives
    /// false to stop.
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
                    while let Some(seeds) = take_batch(next, ask.seeds.end).filter(|_| !stop.load(Ordering::Relaxed)) {
                        if let Err(text) = self.batch(&Ask { seeds, ..ask.clone() }, &send, stop) {
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
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => outcome = Err(error),
                }
                break;
            }
            stop.store(true, Ordering::Relaxed);
            outcome
        })
    }

    /// One process.
    fn batch(&self, ask: &Ask, send: &mpsc::Sender<Line>, stop: &AtomicBool) -> Result<(), String> {
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
            if send.send(Line::Report(report)).is_err() || stop.load(Ordering::Relaxed) {
                // The sweep has ended.
                let _ = child.kill();
                let _ = child.wait();
                return Ok(());
            }
        }
        let status = child.wait().map_err(failed)?;
        let complaints = complaints.join().unwrap_or_default();
        let wanted = if ask.plan.is_some() { 1 } else { ask.seeds.end - ask.seeds.start };
        let complete = reports == wanted || (ask.until_fail && status.code() == Some(1));
        if complete && matches!(status.code(), Some(0 | 1)) {
            return Ok(());
        }
        let range = format!("{}..{}", ask.seeds.start, ask.seeds.end);
        Err(format!("{} ended with {status} after {reports} of {wanted} reports for seeds {range}: {complaints}", self.program.display()))
    }
}

/// Seeds that one process runs: few, so that processes stay small and the work is spread.
const BATCH: u64 = 10;

fn take_batch(next: &Mutex<u64>, end: u64) -> Option<Range<u64>> {
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    let from = *next;
    *next = from.saturating_add(BATCH).min(end);
    (from < end).then_some(from..*next)
}

enum Line {
    Report(Box<Report>),
    Broken(String),
}
