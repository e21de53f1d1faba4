//! A stock PostgreSQL 15 cluster, reached through a unix socket only.

use super::{Place, run, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Only names the socket file: nothing listens on TCP.
const PORT: &str = "5700";

/// Stops the server when dropped.
pub struct Cluster<'a> {
    pub place: &'a Place,
    pub name: String,
    pub data: PathBuf,
    pub socket: PathBuf,
    running: bool,
}

impl<'a> Cluster<'a> {
    /// Makes a cluster with checksums and with `config` appended to its configuration; does not start it.
    pub fn create(place: &'a Place, name: &str, config: &str) -> Cluster<'a> {
        let data = place.own_directory(name);
        let args = ["-k", "-N", "-U", "postgres", "--locale=C.UTF-8", "-E", "UTF8", "-A", "trust", "-D"];
        run(place.server_program("initdb").args(args).arg(&data));
        Cluster::adopt(place, name, config)
    }

    /// The cluster in the directory `name`, which belongs to the servers' user from now on.
    pub fn adopt(place: &'a Place, name: &str, config: &str) -> Cluster<'a> {
        let data = place.path(name);
        place.own(&data);
        let socket = place.own_directory(&format!("{name}.s"));
        let cluster = Cluster { place, name: name.to_string(), data, socket, running: false };
        let socket = cluster.socket.display();
        cluster.configure(&format!(
            "listen_addresses=''\nport={PORT}\nunix_socket_directories='{socket}'\nfsync=off\nlogging_collector=off\nlog_destination=stderr\n{config}"
        ));
        cluster
    }

    /// Appends to the configuration; the last word about a setting holds.
    pub fn configure(&self, lines: &str) {
        let path = self.data.join("postgresql.conf");
        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{old}\n{lines}\n")).unwrap();
    }

    fn control(&self, args: &[&str]) -> bool {
        let mut command = self.place.server_program("pg_ctl");
        command.arg("-D").arg(&self.data).args(args);
        // The server must not inherit a pipe that somebody waits on.
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    fn log_path(&self) -> PathBuf {
        self.socket.join("log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn start(&mut self) {
        let log = self.log_path();
        let started = self.control(&["-w", "start", "-t", "60", "-l", &log.display().to_string()]);
        assert!(started, "{} does not start:\n{}", self.data.display(), self.log());
        self.running = true;
    }

    /// Starts without waiting or connecting.
    pub fn launch(&mut self) {
        let log = self.log_path();
        assert!(self.control(&["-W", "start", "-l", &log.display().to_string()]));
        self.running = true;
    }

    pub fn stop(&mut self, mode: &str) {
        assert!(self.control(&["-w", "-m", mode, "stop"]), "{} does not stop:\n{}", self.data.display(), self.log());
        self.running = false;
    }

    /// Waits for words in the server's log, without connecting to it.
    pub fn wait_log(&self, words: &str, limit: Duration) {
        wait_for(&format!("\"{words}\" in the log of {}", self.name), limit, || {
            let log = self.log();
            assert!(!log.contains("FATAL"), "{log}");
            log.contains(words).then_some(())
        });
    }

    /// A client program that connects here.
    pub fn client(&self, program: &str) -> Command {
        let mut command = self.place.client_program(program);
        command.env("PGHOST", &self.socket).env("PGPORT", PORT).env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }

    pub fn psql(&self, database: &str) -> Command {
        let mut command = self.client("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database]);
        command
    }

    /// Runs statements; what they printed, one row a line, columns parted by bars.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        self.sql_in("postgres", statements)
    }

    #[track_caller]
    pub fn sql_in(&self, database: &str, statements: &str) -> String {
        run(self.psql(database).args(["-c", statements])).trim_end().to_string()
    }

    /// Starts a client program in the background; it ends with its handle.
    pub fn background(&self, command: &mut Command, log: &Path) -> Background {
        let log = std::fs::File::create(log).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Background(child)
    }

    /// How the WAL receiver connects.
    pub fn connstr(&self) -> String {
        format!("host={} port={PORT} user=postgres application_name=palimpsest", self.socket.display())
    }

    /// Where WAL is now.
    pub fn wal_end(&self) -> String {
        self.sql("SELECT pg_current_wal_flush_lsn()")
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if self.running {
            self.control(&["-w", "-m", "immediate", "stop"]);
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("log of {}:\n{}", self.name, tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// A client program that runs beside the test; killed when dropped.
pub struct Background(pub Child);

impl Background {
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.is_running() {
            self.0.kill().unwrap();
        }
        let _ = self.0.wait();
    }
}
