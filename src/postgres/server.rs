//! A running server on a data directory.
//!
//! In: a data directory and how to run it. Out: a handle that connects, stops and kills. Invariants: the unix socket is in a
//! private directory of its own, whose path is short enough for a socket; the server ends with its handle; errors end with
//! the last lines of the server's log.

use super::binaries::Binaries;
use super::sql::SqlClient;
use super::{create_passable, hand_over, program_env};
use crate::io_abstraction::process::{Child, Command, Signal};
use crate::io_abstraction::{ClockExt as _, Env, disk};
use crate::replication::{ConnStr, Connection, Mode, ReplicationError, SslMode};
use futures::FutureExt as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where socket directories are made: a socket path has at most 107 bytes.
const SOCKET_ROOT: &str = "/tmp";
const READY_POLL: Duration = Duration::from_millis(25);
const LOG_LINES_SHOWN: usize = 12;
/// A server that was killed leaves children that need a moment to notice.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(10);
const LEFTOVER_POLL: Duration = Duration::from_millis(200);

/// How to run a server.
#[derive(Debug, Clone)]
pub struct ServerSpec {
    pub binaries: Binaries,
    pub data_dir: PathBuf,
    /// User it runs as (see [`super::run_as_user`]).
    pub run_as: Option<String>,
    /// Port on 127.0.0.1; `None`: unix socket only.
    pub port: Option<u16>,
    /// Settings that override the data directory's files, as `-c name=value`.
    pub settings: Vec<(String, String)>,
    pub log_file: PathBuf,
    /// Role and database of the handle's connections.
    pub user: String,
    pub start_limit: Duration,
    pub stop_limit: Duration,
}

impl ServerSpec {
    pub fn new(binaries: &Binaries, data_dir: &Path, log_file: &Path) -> ServerSpec {
        ServerSpec {
            binaries: binaries.clone(),
            data_dir: data_dir.to_path_buf(),
            run_as: None,
            port: None,
            settings: Vec::new(),
            log_file: log_file.to_path_buf(),
            user: "postgres".to_string(),
            start_limit: Duration::from_secs(60),
            stop_limit: Duration::from_secs(60),
        }
    }

    pub fn run_as(mut self, user: Option<String>) -> ServerSpec {
        self.run_as = user;
        self
    }

    pub fn port(mut self, port: u16) -> ServerSpec {
        self.port = Some(port);
        self
    }

    pub fn set(mut self, name: &str, value: impl ToString) -> ServerSpec {
        self.settings.push((name.to_string(), value.to_string()));
        self
    }
}

/// How to stop. Source: PostgreSQL 15 documentation, section 19.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ends sessions, writes a shutdown checkpoint.
    Fast,
    /// Ends at once, recovery at the next start.
    Immediate,
}

/// A server could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("prepare the server on {dir}: {source}", dir = dir.display())]
    Prepare { dir: PathBuf, source: io::Error },
    #[error("cannot run {program}: {source}", program = program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("the server on {dir} ended while it started (exit code {code:?}); its log ends with:\n{log}", dir = dir.display())]
    Ended { dir: PathBuf, code: Option<i32>, log: String },
    #[error("the server on {dir} was not ready within {after:?} (last answer: {last}); its log ends with:\n{log}", dir = dir.display())]
    NotReady { dir: PathBuf, after: Duration, last: String, log: String },
    #[error("the server on {dir} did not stop within {after:?}; its log ends with:\n{log}", dir = dir.display())]
    NotStopped { dir: PathBuf, after: Duration, log: String },
    #[error("signal the server on {dir}: {source}", dir = dir.display())]
    Signal { dir: PathBuf, source: io::Error },
}

/// A running server. Dropping it kills the postmaster.
pub struct Server {
    env: Env,
    spec: ServerSpec,
    child: Box<dyn Child>,
    socket_dir: PathBuf,
}

impl Server {
    /// Starts a server and waits until it accepts connections.
    pub async fn start(env: &Env, spec: ServerSpec) -> Result<Server, ServerError> {
        let give_up = env.clock.mono().after(LEFTOVER_LIMIT);
        loop {
            let mut server = Server::launch(env, spec.clone()).await?;
            match server.wait_ready().await {
                Ok(()) => return Ok(server),
                Err(e) => {
                    server.abandon().await;
                    // Processes of a killed predecessor still hold its shared memory.
                    let leftover = matches!(&e, ServerError::Ended { log, .. } if log.contains("pre-existing shared memory block"));
                    if !leftover || env.clock.mono() > give_up {
                        return Err(e);
                    }
                    env.clock.sleep(LEFTOVER_POLL).await;
                }
            }
        }
    }

    /// Starts the process without waiting for readiness.
    pub async fn launch(env: &Env, spec: ServerSpec) -> Result<Server, ServerError> {
        let prepare = |source| ServerError::Prepare { dir: spec.data_dir.clone(), source };
        hand_over(env, spec.run_as.as_deref(), &spec.data_dir).await.map_err(prepare)?;
        if let Some(parent) = spec.log_file.parent() {
            create_passable(env, parent).await.map_err(prepare)?;
        }
        let socket_dir = make_socket_dir(env, spec.run_as.as_deref()).await.map_err(prepare)?;
        let program = spec.binaries.postgres();
        let command = Command {
            program: program.clone(),
            args: arguments(&spec, &socket_dir),
            env: program_env(),
            run_as: spec.run_as.clone(),
            log_file: Some(spec.log_file.clone()),
            ..Command::default()
        };
        match env.process.spawn(command).await {
            Ok(child) => Ok(Server { env: env.clone(), spec, child, socket_dir }),
            Err(source) => {
                let _ = env.disk.remove_dir_all(&socket_dir);
                Err(ServerError::Run { program, source })
            }
        }
    }

    /// Waits until the server accepts connections.
    pub async fn wait_ready(&mut self) -> Result<(), ServerError> {
        let (clock, limit) = (self.env.clock.clone(), self.spec.start_limit);
        let give_up = clock.mono().after(limit);
        loop {
            if let Some(ended) = self.child.wait().now_or_never() {
                let log = self.log_tail();
                return Err(ServerError::Ended { dir: self.spec.data_dir.clone(), code: ended.unwrap_or(None), log });
            }
            let last = match Connection::connect(&self.env, &self.conn_str(), Mode::Sql).await {
                Ok(connection) => {
                    connection.close().await;
                    return Ok(());
                }
                // Any refusal but "starting up" (57P03) comes from a server that is up: a missing role, too many clients.
                Err(e) if e.sqlstate().is_some_and(|state| state != "57P03") => return Ok(()),
                Err(e) => e.to_string(),
            };
            if clock.mono() > give_up {
                return Err(ServerError::NotReady { dir: self.spec.data_dir.clone(), after: limit, last, log: self.log_tail() });
            }
            clock.sleep(READY_POLL).await;
        }
    }

    /// Stops the server and waits for its end.
    pub async fn stop(mut self, mode: StopMode) -> Result<(), ServerError> {
        let dir = self.spec.data_dir.clone();
        let signal = match mode {
            StopMode::Fast => Signal::Interrupt,
            StopMode::Immediate => Signal::Quit,
        };
        self.send(signal)?;
        let limit = self.spec.stop_limit;
        let ended = self.env.clock.timeout(limit, self.child.wait()).await;
        let outcome = match ended {
            Ok(_) => Ok(()),
            Err(_) => Err(ServerError::NotStopped { dir, after: limit, log: self.log_tail() }),
        };
        self.abandon().await;
        outcome
    }

    /// Kills the postmaster as a crash would (SIGKILL) and waits for its end. Its children follow soon after.
    pub async fn kill(self) -> Result<(), ServerError> {
        self.send(Signal::Kill)?;
        self.abandon().await;
        Ok(())
    }

    /// Reads the configuration files again.
    pub fn reload(&self) -> Result<(), ServerError> {
        self.send(Signal::Hangup)
    }

    /// Waits until the server ends by itself; gives its exit code.
    pub async fn wait(&mut self) -> io::Result<Option<i32>> {
        self.child.wait().await
    }

    /// Whether the postmaster runs.
    pub fn is_running(&mut self) -> bool {
        self.child.wait().now_or_never().is_none()
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub fn data_dir(&self) -> &Path {
        &self.spec.data_dir
    }

    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// How to connect through the private socket.
    pub fn conn_str(&self) -> ConnStr {
        ConnStr {
            host: self.socket_dir.display().to_string(),
            port: self.port_number(),
            user: self.spec.user.clone(),
            ssl_mode: SslMode::Disable,
            ..ConnStr::default()
        }
    }

    /// How to connect over TCP; `None` if the server does not listen there.
    pub fn tcp_conn_str(&self) -> Option<ConnStr> {
        let port = self.spec.port?;
        Some(ConnStr { host: "127.0.0.1".to_string(), port, user: self.spec.user.clone(), ..ConnStr::default() })
    }

    /// Opens a connection for SQL through the private socket.
    pub async fn sql(&self) -> Result<SqlClient, ReplicationError> {
        SqlClient::connect(&self.env, &self.conn_str()).await
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        log_tail(&self.env, &self.spec.log_file)
    }

    fn port_number(&self) -> u16 {
        self.spec.port.unwrap_or(crate::replication::connstr::DEFAULT_PORT)
    }

    fn send(&self, signal: Signal) -> Result<(), ServerError> {
        self.child.signal(signal).map_err(|source| ServerError::Signal { dir: self.spec.data_dir.clone(), source })
    }

    /// Makes sure that the process is gone.
    async fn abandon(mut self) {
        if self.is_running() {
            // It may have ended in this moment: the wait tells.
            let _ = self.child.signal(Signal::Kill);
            let _ = self.child.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A leftover directory in /tmp harms nobody; the next start makes its own.
        let _ = self.env.disk.remove_dir_all(&self.socket_dir);
    }
}

fn arguments(spec: &ServerSpec, socket_dir: &Path) -> Vec<String> {
    let mut args = vec!["-D".to_string(), spec.data_dir.display().to_string()];
    let mut set = |name: &str, value: &str| args.extend(["-c".to_string(), format!("{name}={value}")]);
    set("unix_socket_directories", &socket_dir.display().to_string());
    set("listen_addresses", if spec.port.is_some() { "127.0.0.1" } else { "" });
    set("port", &spec.port.unwrap_or(crate::replication::connstr::DEFAULT_PORT).to_string());
    // The log goes to our file, wherever the data directory's own settings would send it.
    set("logging_collector", "off");
    set("log_destination", "stderr");
    for (name, value) in &spec.settings {
        set(name, value);
    }
    args
}

async fn make_socket_dir(env: &Env, run_as: Option<&str>) -> io::Result<PathBuf> {
    let mut rng = env.rng.stream(&format!("socket directory {}", env.clock.mono().0));
    let dir = Path::new(SOCKET_ROOT).join(format!("pal-{:012x}", rand_core::Rng::next_u64(&mut rng) >> 16));
    env.disk.create_dir_all(&dir)?;
    hand_over(env, run_as, &dir).await?;
    Ok(dir)
}

fn log_tail(env: &Env, path: &Path) -> String {
    match disk::read_file(env.disk.as_ref(), path) {
        Err(e) => format!("(the log {} cannot be read: {e})", path.display()),
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default().join("\n")
        }
    }
}
