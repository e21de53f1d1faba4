//! The machine: programs run as the servers' user, processor time and memory of processes, a directory that goes away.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whatever stops a bench, in words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome<T> = Result<T, Failure>;

/// Clock ticks per second of the kernel's process accounting; 100 on every Linux that runs PostgreSQL.
const TICKS: f64 = 100.0;

/// A directory under the temporary directory that is removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Outcome<Scratch> {
        let path = std::env::temp_dir().join(format!("pal-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Scratch(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A fresh directory of that name, open to everybody: servers run as another user.
    pub fn directory(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.0.join(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing more can be done about what does not go away.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Directory of PostgreSQL 15's programs.
pub fn postgres_programs() -> Outcome<PathBuf> {
    let candidates = [std::env::var("PG15_BIN").unwrap_or_default(), "/usr/lib/postgresql/15/bin".to_string()];
    let found = candidates.iter().map(PathBuf::from).find(|p| p.join("pg_waldump").exists());
    found.ok_or_else(|| "the benches need PostgreSQL 15 with its client programs: install it, or set PG15_BIN to its bin directory".into())
}

/// A command that runs as user `postgres` if we are root: servers refuse to run as root.
pub fn as_server_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = passwd.lines().find(|l| l.starts_with("postgres:")).and_then(|line| {
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    if let (true, Some((uid, gid))) = (is_root(), ids) {
        command.uid(uid).gid(gid);
    }
    command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/").stdin(Stdio::null());
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Runs a command to its end; gives its output.
pub fn run(command: &mut Command) -> Outcome<String> {
    let shown = format!("{:?}", command.get_program());
    let output = command.output().map_err(|e| format!("{shown}: {e}"))?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return Err(format!("{shown} failed ({}): {} {}", output.status, tail(&out), tail(&err)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(6).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// A child that is killed when dropped.
pub struct Running(pub Child);

impl Running {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to end, and waits for that.
    pub fn stop(&mut self) -> Outcome<()> {
        run(Command::new("kill").arg("-TERM").arg(self.pid().to_string()))?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies a tree with owners and modes.
pub fn copy_tree(from: &Path, to: &Path) -> Outcome<()> {
    run(Command::new("cp").arg("-a").arg("--reflink=never").arg(from).arg(to)).map(|_| ())
}

/// Fields of `/proc/PID/stat` from the third on.
fn stat_fields(pid: &str) -> io::Result<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(behind_name.split_whitespace().skip(1).map(|f| f.parse().unwrap_or(0)).collect())
}

/// User and system seconds of one process and of its ended children.
fn seconds_of(pid: &str, children_only: bool) -> f64 {
    // Without the first field (state): ppid is 0, utime 10, stime 11, cutime 12, cstime 13.
    let fields = stat_fields(pid).unwrap_or_default();
    let from = if children_only { 12 } else { 10 };
    fields.get(from..14).map_or(0.0, |ticks| ticks.iter().sum::<u64>() as f64 / TICKS)
}

/// Processes below `root`, itself first.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<(u32, u32)> = entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, *stat_fields(&pid.to_string()).ok()?.first()? as u32)))
        .collect();
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(all.iter().filter(|(_, ppid)| *ppid == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// User and system seconds of a process, its living and its ended descendants.
pub fn cpu_seconds(root: u32) -> f64 {
    tree(root).iter().map(|pid| seconds_of(&pid.to_string(), false)).sum()
}

/// User and system seconds of our own ended children.
pub fn cpu_seconds_of_ended_children() -> f64 {
    seconds_of("self", true)
}

/// Peak resident memory in bytes of a process and its living descendants, each at its own peak.
pub fn peak_memory(root: u32) -> u64 {
    tree(root).iter().map(|pid| peak_of(*pid)).sum()
}

fn peak_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Bytes that the files of a tree take on disk.
pub fn disk_bytes(path: &Path) -> Outcome<u64> {
    let text = run(Command::new("du").args(["-s", "-B1"]).arg(path))?;
    Ok(text.split_whitespace().next().unwrap_or_default().parse()?)
}

/// Resident bytes of a process now.
pub fn resident_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kilobytes = |line: &str| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok();
    status.lines().find_map(kilobytes).unwrap_or(0) << 10
}

/// Waits until `done` gives a value, looking every `pause`.
pub fn wait_for<T>(what: &str, limit: Duration, pause: Duration, mut done: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            return Err(format!("waited {limit:?} for {what}").into());
        }
        std::thread::sleep(pause);
    }
}

/// The middle of some measurements.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}
