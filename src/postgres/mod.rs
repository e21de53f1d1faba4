//! Stock PostgreSQL programs: finding or installing them, initdb, running servers, asking them in SQL.
//!
//! In: where servers may be, and which user they run as. Out: running servers and results. What always holds: a data directory
//! belongs to the server's user with mode 0700, and a server that was started here is stopped or killed by its handle.

pub mod binaries;
pub mod initdb;
pub mod install;
pub mod scratch;
pub mod server;
pub mod sql;

pub use binaries::{Binaries, FindError};
pub use initdb::{InitDbError, InitDbSpec};
pub use install::InstallError;
pub use server::{Server, ServerError, ServerSpec, StopMode};
pub use sql::SqlClient;

use crate::io_abstraction::{Env, process::Command};
use std::io;
use std::path::{Path, PathBuf};

/// The user that servers run as when the configuration names none, and the second choice.
const RUN_AS_CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// Which user child servers run as: `None` unless the node runs as root, else `wanted`, `postgres` or `nobody`.
///
/// Errors: no such user exists here.
pub fn run_as_user(env: &Env, wanted: Option<&str>) -> io::Result<Option<String>> {
    if !env.process.is_root() {
        return Ok(None);
    }
    if let Some(user) = wanted {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("run_as = \"{user}\": there is no such user on this machine"));
        return env.process.user_exists(user).then(|| Some(user.to_string())).ok_or_else(missing);
    }
    let found = RUN_AS_CANDIDATES.into_iter().find(|user| env.process.user_exists(user));
    let missing = || {
        io::Error::new(io::ErrorKind::NotFound, "PostgreSQL refuses to run as root and neither user postgres nor nobody exists: set run_as")
    };
    found.map(|user| Some(user.to_string())).ok_or_else(missing)
}

/// Creates a directory with its missing parents so that other users can pass through the parents that were created.
pub(crate) async fn create_passable(env: &Env, path: &Path) -> io::Result<()> {
    let missing: Vec<PathBuf> = path.ancestors().take_while(|p| !exists_dir(env, p)).map(Path::to_path_buf).collect();
    env.disk.create_dir_all(path)?;
    // Without root every server runs as our own user, who passes anyway.
    if env.process.is_root() && !missing.is_empty() {
        run_tool(env, "chmod", std::iter::once("0711".to_string()).chain(missing.iter().map(|p| p.display().to_string()))).await?;
    }
    Ok(())
}

/// Makes a directory tree belong to the server's user alone, and checks that the user can get there.
pub async fn hand_over(env: &Env, run_as: Option<&str>, directory: &Path) -> io::Result<()> {
    run_tool(env, "chmod", ["0700".to_string(), directory.display().to_string()]).await?;
    let Some(user) = run_as else { return Ok(()) };
    env.process.give_to(user, directory).await?;
    check_reachable(env, user, directory).await
}

/// Checks that `user` can enter `directory`.
///
/// Errors: names the first directory on the way that is closed.
async fn check_reachable(env: &Env, user: &str, directory: &Path) -> io::Result<()> {
    let ancestors: Vec<&Path> = directory.ancestors().collect();
    for path in ancestors.into_iter().rev().filter(|p| !p.as_os_str().is_empty()) {
        let args = vec!["-x".to_string(), path.display().to_string()];
        let output =
            env.process.run(Command { program: "test".into(), args, run_as: Some(user.to_string()), ..Command::default() }).await?;
        if !output.success() {
            let closed = path.display();
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "user {user} cannot enter {closed}, which is on the way to {}: chmod o+x {closed}, or choose a directory elsewhere",
                    directory.display()
                ),
            ));
        }
    }
    Ok(())
}

pub(crate) fn exists_dir(env: &Env, path: &Path) -> bool {
    path.as_os_str().is_empty() || env.disk.list(path).is_ok()
}

/// Runs one of the machine's small programs and wants success.
pub(crate) async fn run_tool(env: &Env, program: &str, args: impl IntoIterator<Item = String>) -> io::Result<()> {
    let args: Vec<String> = args.into_iter().collect();
    let shown = args.iter().take(3).cloned().collect::<Vec<_>>().join(" ");
    let output = env.process.run(Command { program: program.into(), args, ..Command::default() }).await?;
    if output.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{program} {shown}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// The environment for PostgreSQL's programs: messages in English, times in UTC.
pub(crate) fn program_env() -> Vec<(String, String)> {
    [("LC_ALL", "C"), ("TZ", "UTC")].map(|(k, v)| (k.to_string(), v.to_string())).to_vec()
}
