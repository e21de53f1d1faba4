//! A place for one test, stock clusters in it, a `pal` in it, and what is done with them.

pub mod cluster;
pub mod compare;
pub mod oracle;
pub mod pages;
pub mod pal;
pub mod proxy;
pub mod workload;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where Debian puts the programs; `PAL_TEST_PG_BIN` names another place.
const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Whether the long forms run.
pub fn long() -> bool {
    std::env::var("PAL_TEST_LONG").is_ok_and(|value| !value.is_empty() && value != "0")
}

/// A directory for one test that servers can reach.
pub struct Place {
    root: TempDir,
    bin: PathBuf,
    /// Servers refuse to run as root.
    run_as: Option<(u32, u32)>,
}

impl Place {
    pub fn new() -> Place {
        let bin = std::env::var_os("PAL_TEST_PG_BIN").map_or(PathBuf::from(BIN), PathBuf::from);
        assert!(
            bin.join("pg_amcheck").exists(),
            "no PostgreSQL 15 with its tools in {}: install Debian's postgresql-15, or set PAL_TEST_PG_BIN to a directory with its programs",
            bin.display()
        );
        let root = tempfile::Builder::new().prefix("palimpsest-recovery-").tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let run_as = is_root.then(|| (id_of_postgres("-u"), id_of_postgres("-g")));
        Place { root, bin, run_as }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Makes a directory that belongs to the servers' user.
    pub fn own_directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap();
        self.own(&path);
        path
    }

    /// Gives a tree to the servers' user, private to it.
    pub fn own(&self, path: &Path) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
        if let Some((uid, gid)) = self.run_as {
            run(Command::new("chown").arg("-hR").arg(format!("{uid}:{gid}")).arg(path));
        }
    }

    /// One of PostgreSQL's programs, as the servers' user.
    pub fn server_program(&self, name: &str) -> Command {
        let mut command = self.client_program(name);
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/");
        command
    }

    /// One of PostgreSQL's programs, as ourselves.
    pub fn client_program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env("LC_ALL", "C").env("TZ", "UTC").current_dir(self.root.path()).stdin(Stdio::null());
        command
    }

    /// Copies a tree as it is, links included.
    pub fn copy(&self, from: &Path, to: &Path) {
        run(Command::new("cp").arg("-a").arg("--reflink=auto").arg(from).arg(to));
    }

    /// Frees the space of a directory that is not needed any more.
    pub fn discard(&self, path: &Path) {
        std::fs::remove_dir_all(path).unwrap();
    }
}

fn id_of_postgres(flag: &str) -> u32 {
    let out = Command::new("id").args([flag, "postgres"]).output().expect("id runs");
    String::from_utf8_lossy(&out.stdout).trim().parse().expect("run this test as a user other than root, or create the user postgres")
}

/// Runs a program to its end; its output, whatever its fate.
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Runs a program that must succeed; what it printed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let out = output(command);
    let messages = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {}\n{messages}\n{}", out.status, String::from_utf8_lossy(&out.stdout));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Asks until the answer is there.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < give_up, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A small generator of numbers; its seed is printed, and `PAL_TEST_SEED` sets it.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(test: &str) -> Numbers {
        let given = std::env::var("PAL_TEST_SEED").ok().map(|text| text.parse().expect("PAL_TEST_SEED is a number"));
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()) ^ 0x5DEE_CE66);
        println!("{test}: PAL_TEST_SEED={seed}");
        Numbers(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 16) ^ (self.0 >> 40)) % end.max(1)
    }
}
