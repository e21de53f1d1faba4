//! What the demo runs on: a directory, a pageserver in this process, stock servers; and their end.

use super::super::client::ApiClient;
use super::super::output::CommandError;
use crate::config::Config;
use crate::io_abstraction::{ClockExt as _, Env, real};
use crate::node::Node;
use crate::postgres::scratch::scratch_directory;
use crate::postgres::{Binaries, Server, ServerSpec, StopMode, run_as_user};
use crate::types::{TenantId, TimelineId};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a part may take to end before it is left to its own.
const CLOSE_LIMIT: Duration = Duration::from_secs(20);
/// Processes of a killed server may still write for a moment.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(100);

/// The two clusters of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Primary,
    Branch,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Branch => "branch",
        }
    }
}

pub struct Stage {
    pub env: Env,
    directory: PathBuf,
    /// User of the servers when this process is root.
    pub run_as: Option<String>,
    pub tenant: TenantId,
    pub root: TimelineId,
    pub branch: TimelineId,
    node: Option<Node>,
    servers: Vec<(Role, Server)>,
}

impl Stage {
    /// Makes the directory.
    pub async fn open(env: Env) -> Result<Stage, CommandError> {
        let run_as = run_as_user(&env, None).map_err(CommandError::new)?;
        let directory = scratch_directory(&env, "demo").await.map_err(|e| CommandError::new(format!("make a temporary directory: {e}")))?;
        let mut rng = env.rng.stream("demo ids");
        let tenant = TenantId::generate(&mut rng);
        let (root, branch) = (TimelineId::generate(&mut rng), TimelineId::generate(&mut rng));
        Ok(Stage { env, directory, run_as, tenant, root, branch, node: None, servers: Vec::new() })
    }

    /// Starts a pageserver on free ports of the loopback interface.
    pub async fn start_node(&mut self, binaries: &Binaries) -> Result<(), CommandError> {
        let mut config = Config::for_data_dir(&self.directory.join("pageserver"));
        config.listen_http_addr = "127.0.0.1:0".to_string();
        config.listen_pg_addr = "127.0.0.1:0".to_string();
        config.postgres.versions.insert(binaries.version.to_string(), binaries.bin_dir.clone());
        let store = real::local_store(&config.remote_path()).map_err(CommandError::new)?;
        let env = Env { store, ..self.env.clone() };
        let node = Node::start(env, config).await.map_err(CommandError::new)?;
        node.loaded().await;
        self.node = Some(node);
        Ok(())
    }

    pub fn node(&self) -> Result<&Node, CommandError> {
        self.node.as_ref().ok_or_else(|| CommandError::new("the pageserver does not run"))
    }

    pub fn api(&self) -> Result<ApiClient, CommandError> {
        Ok(ApiClient::new(&self.env, self.node()?.http_address()))
    }

    pub fn timeline(&self, role: Role) -> TimelineId {
        match role {
            Role::Primary => self.root,
            Role::Branch => self.branch,
        }
    }

    pub fn data_dir(&self, role: Role) -> PathBuf {
        self.directory.join(role.name())
    }

    /// Starts a stock server on the role's data directory, on a unix socket of its own.
    pub async fn start_server(&mut self, role: Role, binaries: &Binaries) -> Result<(), CommandError> {
        let log = self.directory.join(format!("{}.log", role.name()));
        let mut spec = ServerSpec::new(binaries, &self.data_dir(role), &log).run_as(self.run_as.clone());
        spec.stop_limit = CLOSE_LIMIT;
        for (name, value) in [("wal_level", "replica"), ("max_wal_senders", "10"), ("shared_buffers", "64MB"), ("wal_keep_size", "1GB")] {
            spec = spec.set(name, value);
        }
        let server = Server::start(&self.env, spec).await.map_err(CommandError::new)?;
        self.servers.push((role, server));
        Ok(())
    }

    pub fn server(&self, role: Role) -> Result<&Server, CommandError> {
        let found = self.servers.iter().find(|(r, _)| *r == role);
        found.map(|(_, server)| server).ok_or_else(|| CommandError::new(format!("the {} server does not run", role.name())))
    }

    /// Stops a server as an operator would, with a checkpoint.
    pub async fn stop_server(&mut self, role: Role) -> Result<(), CommandError> {
        let at = self.servers.iter().position(|(r, _)| *r == role);
        let at = at.ok_or_else(|| CommandError::new(format!("the {} server does not run", role.name())))?;
        let (_, server) = self.servers.remove(at);
        server.stop(StopMode::Fast).await.map_err(CommandError::new)
    }

    /// How to reach what runs.
    pub fn connections(&self) -> String {
        let mut lines = String::new();
        for (role, server) in &self.servers {
            lines.push_str(&format!("{:<8} psql '{} dbname=postgres'\n", role.name(), server.conn_str()));
        }
        if let Some(node) = &self.node {
            let (http, pages) = (node.http_address(), node.pages_address());
            lines.push_str(&format!("api      pal timeline --endpoint http://{http} list --tenant {}\n", self.tenant));
            lines.push_str(&format!(
                "pages    pal export --page-service {pages} --tenant {} --timeline {} -o DIR\n",
                self.tenant, self.root
            ));
        }
        lines
    }

    /// Ends everything and removes the directory. What cannot be ended is told to standard error.
    pub async fn close(mut self) {
        let clock = self.env.clock.clone();
        if let Some(node) = self.node.take()
            && clock.timeout(CLOSE_LIMIT, node.shutdown()).await.is_err()
        {
            eprintln!("pal demo: the pageserver did not stop within {CLOSE_LIMIT:?}");
        }
        for (role, server) in self.servers.drain(..) {
            // Nobody needs the files: no checkpoint.
            if let Err(error) = server.stop(StopMode::Immediate).await {
                eprintln!("pal demo: the {} server did not stop: {error}", role.name());
            }
        }
        if let Err(error) = remove(&self.env, &self.directory).await {
            eprintln!("pal demo: remove {}: {error}", self.directory.display());
        }
    }
}

async fn remove(env: &Env, directory: &Path) -> std::io::Result<()> {
    let mut tries = 0;
    loop {
        let (disk, path) = (env.disk.clone(), directory.to_path_buf());
        match env.tasks.blocking("remove-demo", move || disk.remove_dir_all(&path)).await {
            Err(_) if tries < REMOVE_TRIES => tries += 1,
            other => return other,
        }
        env.clock.sleep(REMOVE_PAUSE).await;
    }
}
