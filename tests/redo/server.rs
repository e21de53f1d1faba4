//! A stock PostgreSQL 15 in a temporary directory, on a unix socket only.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where Debian puts the programs; `PAL_TEST_PG_BIN` names another place.
const BIN: &str = "/usr/lib/postgresql/15/bin";
/// Only names the socket file: nothing listens on TCP.
const PORT: &str = "5621";

/// Stops the server and removes its files when dropped.
pub struct Server {
    bin: PathBuf,
    root: tempfile::TempDir,
    /// Servers refuse to run as root.
    run_as: Option<(u32, u32)>,
    running: bool,
}

fn id(flag: &str) -> u32 {
    let out = Command::new("id").args([flag, "postgres"]).output().expect("id runs");
    String::from_utf8_lossy(&out.stdout).trim().parse().expect("run this test as a user other than root, or create the user postgres")
}

impl Server {
    /// Makes a cluster with checksums and with `config` appended to its configuration; does not start it.
    pub fn create(config: &str) -> Server {
        let bin = std::env::var_os("PAL_TEST_PG_BIN").map_or(PathBuf::from(BIN), PathBuf::from);
        assert!(
            bin.join("postgres").exists(),
            "no PostgreSQL 15 in {}: install Debian's postgresql-15, or set PAL_TEST_PG_BIN to a directory with its programs",
            bin.display()
        );
        let root = tempfile::tempdir().expect("temporary directory");
        let run_as =
            (fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).ok() == Some(0)).then(|| (id("-u"), id("-g")));
        if let Some((uid, gid)) = run_as {
            chown(root.path(), Some(uid), Some(gid)).expect("own the temporary directory");
        }
        let server = Server { bin, root, run_as, running: false };
        server.run("initdb", &["-k", "-N", "-U", "postgres", "--locale=C", "-E", "UTF8", "-A", "trust"]);
        let socket = server.root.path().display();
        server.configure(&format!("listen_addresses=''\nport={PORT}\nunix_socket_directories='{socket}'\nfsync=off\n{config}"));
        server
    }

    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Appends to the configuration.
    pub fn configure(&self, lines: &str) {
        let path = self.data().join("postgresql.conf");
        let old = fs::read_to_string(&path).expect("configuration");
        fs::write(&path, format!("{old}\n{lines}\n")).expect("configuration");
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env("PGDATA", self.data()).env("PGHOST", self.root.path()).env("PGPORT", PORT).env("PGUSER", "postgres").env("LC_ALL", "C");
        command.current_dir(self.root.path());
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs one of the programs and returns what it printed; panics with its messages if it fails.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let out = self.command(program).args(args).stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{program}: {e}"));
        let messages = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{program} {args:?}: {}\n{messages}\n{}", out.status, self.log());
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    pub fn start(&mut self) {
        let log = self.root.path().join("log");
        // The server must not inherit a pipe that `output` waits on.
        let done = self
            .command("pg_ctl")
            .args(["-w", "start", "-l"])
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(done.expect("pg_ctl").success(), "{}", self.log());
        self.running = true;
    }

    pub fn stop(&mut self) {
        self.run("pg_ctl", &["-w", "-m", "fast", "stop"]);
        self.running = false;
    }

    /// Runs an SQL script by psql; `path` must be readable by the server's user.
    pub fn script(&self, path: &Path, rows: u32) {
        let copy = self.root.path().join("script.sql");
        fs::copy(path, &copy).expect("script");
        self.run("psql", &["-q", "-X", "-o", "/dev/null", "-v", &format!("n={rows}"), "-d", "postgres", "-f", &copy.display().to_string()]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.running {
            let _ = self.command("pg_ctl").args(["-w", "-m", "immediate", "stop"]).stdout(Stdio::null()).status();
        }
    }
}
