//! Where PostgreSQL's programs are.
//!
//! In: the configured directories and the machine. Out: for a major version, a directory whose `postgres --version` was asked
//! and said so. Order: configuration, `/usr/lib/postgresql/*/bin`, `PATH`, our own cache of installed packages.

use super::install::{self, InstallError};
use crate::io_abstraction::{Env, OpenMode, process::Command};
use crate::pg::version::PgVersion;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where Debian and Ubuntu keep servers, one directory per major version.
const SYSTEM_DIRECTORY: &str = "/usr/lib/postgresql";

/// Programs of one server installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    pub version: PgVersion,
    /// As `postgres --version` says: `15.18`.
    pub full_version: String,
    pub bin_dir: PathBuf,
}

impl Binaries {
    pub fn postgres(&self) -> PathBuf {
        self.bin_dir.join("postgres")
    }

    pub fn initdb(&self) -> PathBuf {
        self.bin_dir.join("initdb")
    }

    /// A client program, if this installation has it: servers from npm carry only `postgres`, `initdb` and `pg_ctl`.
    pub fn tool(&self, env: &Env, name: &str) -> Option<PathBuf> {
        let path = self.bin_dir.join(name);
        is_file(env, &path).then_some(path)
    }
}

/// No usable server.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error(
        "no PostgreSQL {version} server found (looked in [postgres.versions], /usr/lib/postgresql, PATH and {cache}): \
         install the package postgresql-{version} of your system, or run `pal postgres install {version}`, which needs npm",
        cache = cache.display()
    )]
    NotFound { version: PgVersion, cache: PathBuf },
    #[error("postgres.versions: {version} = \"{dir}\": {why}", dir = dir.display())]
    Configured { version: PgVersion, dir: PathBuf, why: String },
    #[error(transparent)]
    Install(#[from] InstallError),
}

/// Finds a server of this major version.
pub async fn find(env: &Env, configured: &BTreeMap<PgVersion, PathBuf>, version: PgVersion) -> Result<Binaries, FindError> {
    if let Some(dir) = configured.get(&version) {
        return configured_binaries(env, version, dir).await;
    }
    for dir in candidates(env, version) {
        match inspect(env, &dir).await {
            Ok(found) if found.version == version => return Ok(found),
            _ => {}
        }
    }
    Err(FindError::NotFound { version, cache: install::cache_directory(env) })
}

/// Finds a server, and installs one if there is none.
pub async fn find_or_install(env: &Env, configured: &BTreeMap<PgVersion, PathBuf>, version: PgVersion) -> Result<Binaries, FindError> {
    match find(env, configured, version).await {
        Err(FindError::NotFound { .. }) => Ok(install::install(env, version).await?),
        other => other,
    }
}

/// All servers that are there, one per major version.
pub async fn find_all(env: &Env, configured: &BTreeMap<PgVersion, PathBuf>) -> Result<Vec<Binaries>, FindError> {
    let mut all = Vec::new();
    for version in PgVersion::ALL {
        match find(env, configured, version).await {
            Ok(found) => all.push(found),
            Err(FindError::NotFound { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(all)
}

async fn configured_binaries(env: &Env, version: PgVersion, dir: &Path) -> Result<Binaries, FindError> {
    let wrong = |why: String| FindError::Configured { version, dir: dir.to_path_buf(), why };
    // Both the installation and its bin directory are what people write.
    let bin_dir = if is_file(env, &dir.join("bin/postgres")) { dir.join("bin") } else { dir.to_path_buf() };
    let found = inspect(env, &bin_dir).await.map_err(wrong)?;
    if found.version != version {
        return Err(wrong(format!("the server there is {}", found.full_version)));
    }
    Ok(found)
}

fn candidates(env: &Env, version: PgVersion) -> Vec<PathBuf> {
    let mut dirs = vec![Path::new(SYSTEM_DIRECTORY).join(version.to_string()).join("bin")];
    let path = env.process.variable("PATH").unwrap_or_default();
    dirs.extend(path.split(':').filter(|d| d.starts_with('/')).map(PathBuf::from));
    dirs.push(install::installed_bin_dir(env, version));
    dirs.retain(|dir| is_file(env, &dir.join("postgres")));
    dirs
}

/// Asks the server in `bin_dir` for its version.
pub(super) async fn inspect(env: &Env, bin_dir: &Path) -> Result<Binaries, String> {
    let program = bin_dir.join("postgres");
    let command = Command { program: program.clone(), args: vec!["--version".into()], env: super::program_env(), ..Command::default() };
    let output = env.process.run(command).await.map_err(|e| format!("cannot run {}: {e}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let parsed = output.success().then(|| parse_version(&text)).flatten();
    let (version, full_version) = parsed.ok_or_else(|| {
        let error = String::from_utf8_lossy(&output.stderr);
        format!("{} --version says \"{}{}\", not a version from 14 to 18", program.display(), text.trim(), error.trim())
    })?;
    Ok(Binaries { version, full_version, bin_dir: bin_dir.to_path_buf() })
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-1)`.
fn parse_version(text: &str) -> Option<(PgVersion, String)> {
    let number = text.split("(PostgreSQL)").nth(1)?.split_whitespace().next()?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    let version = PgVersion::try_from(digits.parse::<u32>().ok()?).ok()?;
    Some((version, number.to_string()))
}

pub(super) fn is_file(env: &Env, path: &Path) -> bool {
    env.disk.open(path, OpenMode::Read).is_ok() && !super::exists_dir(env, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |text: &str, want: Option<(PgVersion, &str)>| {
            assert_eq!(parse_version(text), want.map(|(v, s)| (v, s.to_string())), "{text}");
        };
        check("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some((PgVersion::V15, "15.18")));
        check("postgres (PostgreSQL) 18.4\n", Some((PgVersion::V18, "18.4")));
        check("postgres (PostgreSQL) 18beta1\n", Some((PgVersion::V18, "18beta1")));
        check("postgres (PostgreSQL) 13.2\n", None);
        check("postgres (PostgreSQL)", None);
        check("", None);
    }
}
