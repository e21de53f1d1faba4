//! A stock PostgreSQL 15 on a unix socket, and its programs.

use crate::os::{Outcome, Running, as_server_user, postgres_programs, run, wait_for};
use palimpsest::types::Lsn;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

pub const PORT: u16 = 5680;

/// Settings of every cluster: no TCP, WAL that stays, checkpoints only when asked for.
const SETTINGS: &str = "
listen_addresses = ''
wal_level = replica
max_wal_size = 16GB
checkpoint_timeout = 1h
max_wal_senders = 10
logging_collector = off
";

pub struct Cluster {
    pub data: PathBuf,
    pub socket: PathBuf,
    programs: PathBuf,
    running: Option<Running>,
}

impl Cluster {
    /// initdb with checksums; `settings` are appended to the configuration.
    pub fn create(data: &Path, socket: &Path, settings: &str) -> Outcome<Cluster> {
        let programs = postgres_programs()?;
        let args = ["-k", "-U", "postgres", "--locale=C.UTF-8", "-E", "UTF8", "--no-sync", "-A", "trust", "-D"];
        run(as_server_user(&programs.join("initdb")).args(args).arg(data))?;
        let cluster = Cluster::at(data, socket)?;
        cluster.configure(&format!("{SETTINGS}\nport = {PORT}\nunix_socket_directories = '{}'\n{settings}\n", socket.display()))?;
        Ok(cluster)
    }

    /// A data directory that exists.
    pub fn at(data: &Path, socket: &Path) -> Outcome<Cluster> {
        Ok(Cluster { data: data.to_path_buf(), socket: socket.to_path_buf(), programs: postgres_programs()?, running: None })
    }

    pub fn configure(&self, settings: &str) -> Outcome<()> {
        let mut file = fs::OpenOptions::new().append(true).open(self.data.join("postgresql.conf"))?;
        Ok(file.write_all(settings.as_bytes())?)
    }

    /// Starts the server as our own child, so that its processor time can be had.
    pub fn start(&mut self) -> Outcome<()> {
        self.spawn()?;
        let mut ready = self.program("pg_isready");
        wait_for("the server to accept connections", Duration::from_secs(60), Duration::from_millis(20), || {
            Ok(ready.stdout(Stdio::null()).status()?.success().then_some(()))
        })
    }

    /// Starts the server without waiting for it.
    pub fn spawn(&mut self) -> Outcome<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.socket.join(format!("server-{}.log", std::process::id())))?;
        let mut command = as_server_user(&self.programs.join("postgres"));
        command.arg("-D").arg(&self.data).stdout(log.try_clone()?).stderr(log);
        self.running = Some(Running(command.spawn()?));
        Ok(())
    }

    /// Waits until the server has ended by itself.
    pub fn wait(&mut self) -> Outcome<()> {
        if let Some(mut running) = self.running.take() {
            running.0.wait()?;
        }
        Ok(())
    }

    pub fn stop(&mut self, mode: &str) -> Outcome<()> {
        if self.running.is_some() {
            run(as_server_user(&self.programs.join("pg_ctl")).args(["stop", "-w", "-m", mode, "-D"]).arg(&self.data))?;
            self.wait()?;
        }
        Ok(())
    }

    /// A client program that connects to this server.
    pub fn program(&self, name: &str) -> Command {
        let mut command = as_server_user(&self.programs.join(name));
        command.arg("-h").arg(&self.socket).args(["-p", &PORT.to_string(), "-U", "postgres"]);
        command
    }

    pub fn sql(&self, sql: &str) -> Outcome<String> {
        let text = run(self.program("psql").args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", sql]))?;
        Ok(text.trim().to_string())
    }

    pub fn lsn(&self) -> Outcome<Lsn> {
        Ok(self.sql("select pg_current_wal_insert_lsn()")?.parse()?)
    }

    /// A session for many small questions.
    pub fn session(&self) -> Outcome<Session> {
        let mut command = self.program("psql");
        command.args(["-X", "-At", "-d", "postgres"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take().ok_or("psql has no input")?, child.stdout.take().ok_or("psql has no output")?);
        Ok(Session { _child: Running(child), input, output: BufReader::new(output) })
    }

    /// The connection string of this server for a replication client.
    pub fn connstr(&self, application_name: &str) -> String {
        format!("host={} port={PORT} user=postgres application_name={application_name}", self.socket.display())
    }

    /// pg_receivewal into `directory`, every write synced and reported, until killed or at `end`.
    pub fn receivewal(&self, directory: &Path, application_name: &str) -> Outcome<Running> {
        let mut command = as_server_user(&self.programs.join("pg_receivewal"));
        command.arg("--synchronous").arg("-D").arg(directory).arg("-d").arg(self.connstr(application_name));
        let child: Child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Running(child))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A server that is gone already is what is wanted.
        let _ = self.stop("immediate");
    }
}

/// psql with its pipes.
pub struct Session {
    _child: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Runs a query that gives exactly one line.
    pub fn line(&mut self, sql: &str) -> Outcome<String> {
        writeln!(self.input, "{sql};")?;
        self.input.flush()?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_string())
    }

    /// Waits until a receiver has acknowledged `lsn` as durable.
    pub fn wait_flushed(&mut self, application_name: &str, lsn: Lsn, limit: Duration) -> Outcome<()> {
        let sql = format!(
            "select coalesce(max(flush_lsn) >= '{lsn}', false) from pg_stat_replication where application_name = '{application_name}'"
        );
        wait_for("the receiver's acknowledgement", limit, Duration::from_millis(2), || Ok((self.line(&sql)? == "t").then_some(())))
    }
}
