//! A new, empty cluster: user postgres, UTF8, C.UTF-8, data checksums.
//!
//! In: an empty or absent directory. Out: a data directory owned by the server's user, mode 0700. Local connections are
//! trusted (the socket directory is private), connections over TCP need a password, which nobody has at first.

use super::binaries::Binaries;
use super::{create_passable, hand_over, program_env};
use crate::io_abstraction::{ClockExt as _, Env, process::Command};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// What to make.
#[derive(Debug, Clone)]
pub struct InitDbSpec<'a> {
    pub binaries: &'a Binaries,
    pub data_dir: &'a Path,
    /// User the server will run as (see [`super::run_as_user`]).
    pub run_as: Option<&'a str>,
    /// Wait until the files are on disk. Not needed when they are only read to be stored elsewhere.
    pub sync: bool,
    /// Further arguments of initdb, such as `--wal-segsize=64`.
    pub extra_args: &'a [String],
}

/// initdb gave no cluster.
#[derive(Debug, thiserror::Error)]
pub enum InitDbError {
    #[error("prepare the data directory {dir}: {source}", dir = dir.display())]
    Directory { dir: PathBuf, source: io::Error },
    #[error("cannot run {program}: {source}", program = program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("initdb of {dir} did not end within {after:?}", dir = dir.display())]
    Timeout { dir: PathBuf, after: Duration },
    #[error("initdb of {dir} failed: {why}", dir = dir.display())]
    Failed { dir: PathBuf, why: String },
}

/// Runs initdb. The locale is C.UTF-8, or C where the machine has no C.UTF-8.
pub async fn run(env: &Env, spec: &InitDbSpec<'_>) -> Result<(), InitDbError> {
    let directory = |source| InitDbError::Directory { dir: spec.data_dir.to_path_buf(), source };
    create_passable(env, spec.data_dir).await.map_err(directory)?;
    if env.disk.list(spec.data_dir).map_err(directory)?.iter().any(|entry| entry.name != "lost+found") {
        return Err(directory(io::Error::new(io::ErrorKind::AlreadyExists, "the directory is not empty: choose another one")));
    }
    hand_over(env, spec.run_as, spec.data_dir).await.map_err(directory)?;
    match attempt(env, spec, "C.UTF-8").await {
        // initdb removes what it made in a directory that was there before.
        Err(InitDbError::Failed { why, .. }) if why.contains("locale") => attempt(env, spec, "C").await,
        other => other,
    }
}

async fn attempt(env: &Env, spec: &InitDbSpec<'_>, locale: &str) -> Result<(), InitDbError> {
    let program = spec.binaries.initdb();
    let mut args: Vec<String> =
        ["-U", "postgres", "-E", "UTF8", "--data-checksums", "--auth-local=trust", "--auth-host=scram-sha-256"].map(String::from).to_vec();
    args.push(format!("--locale={locale}"));
    if !spec.sync {
        args.push("--no-sync".to_string());
    }
    args.extend_from_slice(spec.extra_args);
    args.extend(["-D".to_string(), spec.data_dir.display().to_string()]);
    let command =
        Command { program: program.clone(), args, env: program_env(), run_as: spec.run_as.map(str::to_string), ..Command::default() };
    let ended = env.clock.timeout(LIMIT, env.process.run(command)).await;
    let output = ended.map_err(|_| InitDbError::Timeout { dir: spec.data_dir.to_path_buf(), after: LIMIT })?;
    let output = output.map_err(|source| InitDbError::Run { program, source })?;
    if output.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let why: Vec<&str> = stderr.lines().filter(|l| !l.trim().is_empty()).take(5).collect();
    Err(InitDbError::Failed { dir: spec.data_dir.to_path_buf(), why: why.join("; ") })
}
