//! The composition root: (Env, Config) in, running services out. Called by the program and by the simulator alike.

use crate::auth::{GuardError, Guards};
use crate::config::{Config, ConfigError};
use crate::control_plane::ControlPlane;
use crate::http;
use crate::io_abstraction::disk::{DiskLock, create_dir_durably, read_file, write_file_durably};
use crate::io_abstraction::{Address, ClockExt as _, Env, Scope};
use crate::layer::BlockCache;
use crate::page_service;
use crate::redo::executor::RedoExecutor;
use crate::remote::{Authority, ControlPlaneAuthority, RemoteClient, RemoteError, StoreAuthority, Validation};
use crate::tenant::assign::Assignment;
use crate::tenant::attach::LoadError;
use crate::tenant::{Registry, Tenant};
use crate::timeline::Shared;
use crate::types::Generation;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::SetOnce;

/// Pause before another try to load what the control plane said.
const LOAD_RETRY: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("data directory {path}: {error}")]
    DataDir { path: PathBuf, error: io::Error },
    #[error("another process uses the data directory {path}: stop it first")]
    InUse { path: PathBuf },
    #[error("the node file {path} is damaged: {reason}; remove it to take a new generation from remote storage")]
    NodeFile { path: PathBuf, reason: String },
    #[error("generation {} is taken, and a start needs one above it: remove what has it, node.json or objects in remote storage", u32::MAX)]
    LastGeneration,
    #[error("listen on {address}: {error}")]
    Listen { address: Address, error: io::Error },
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// A running node.
pub struct Node {
    pub registry: Arc<Registry>,
    /// Two processes on one data directory would remove each other's files.
    _lock: DiskLock,
    /// The listeners.
    services: Scope,
    background: Scope,
    /// Asks the control plane which tenants there are, if there is one.
    assigning: Scope,
    /// Tenants that the start began to bring up, once they are known.
    loading: Loading,
    http_address: Address,
    pages_address: Address,
}

/// What a node remembers of itself.
#[derive(Serialize, Deserialize)]
struct NodeFile {
    generation: Generation,
    /// The node took over what remote storage had when it began; from then on its own directory says which tenants it has.
    #[serde(default)]
    settled: bool,
}

impl Node {
    /// Takes the next generation, begins to load all tenants, serves. Returns when both listeners accept.
    pub async fn start(env: Env, config: Config) -> Result<Node, StartError> {
        let (http_wanted, pages_wanted) = (config.http_address()?, config.pages_address()?);
        let guards = Guards::load(&env, &config)?;
        let lock = lock_data_dir(&env, &config)?;
        let NodeFile { generation, settled } = next_generation(&env, &config).await?;
        let remote = RemoteClient::new(&env, generation);
        let control_plane = ControlPlane::new(&env, &config)?;
        let authority = authority(&remote, &control_plane);
        let shared = Arc::new(Shared {
            cache: BlockCache::new(usize::try_from(config.block_cache_bytes).unwrap_or(usize::MAX), env.probe.clone()),
            redo: RedoExecutor::new(&env, config.redo, config.wal_redo_timeout),
            validation: Validation::new(&env, remote.clone(), authority),
            remote,
            env: env.clone(),
            config,
        });
        let registry = Registry::new(shared.clone());
        let listen = async |address: &Address| {
            let failed = |error| StartError::Listen { address: address.clone(), error };
            env.net.listen(address).await.map_err(failed)
        };
        let http = listen(&http_wanted).await?;
        let pages = listen(&pages_wanted).await?;
        let (http_address, pages_address) = (http.local_address(), pages.local_address());
        let background = Scope::new(&env.tasks);
        background.spawn("validate", |cancel| shared.validation.clone().run(cancel));
        let (assigning, loading) = (Scope::new(&env.tasks), Arc::new(SetOnce::new()));
        let begun = begin(&registry, control_plane, !settled, &assigning, &loading).await;
        let noted = begun
            .and_then(|()| if settled { Ok(()) } else { write_node_file(&env, &shared.config, &NodeFile { generation, settled: true }) });
        if let Err(error) = noted {
            assigning.shutdown().await;
            return Err(give_up(&registry, &background, error).await);
        }
        let services = Scope::new(&env.tasks);
        let router = http::router::router(registry.clone(), &guards);
        let patience = registry.shared.config.http_client_timeout;
        services.spawn("http", |cancel| http::server::run(env.clone(), http, guards.http.tls, router, patience, cancel));
        services.spawn("pages", |cancel| page_service::listener::run(env.clone(), pages, registry.clone(), guards.pages, cancel));
        env.probe.event("node-started", &|| format!("generation={}", generation.0));
        Ok(Node { registry, loading, _lock: lock, services, background, assigning, http_address, pages_address })
    }

    pub fn http_address(&self) -> &Address {
        &self.http_address
    }

    pub fn pages_address(&self) -> &Address {
        &self.pages_address
    }

    /// Completes when every tenant that the node had before is active or broken.
    pub async fn loaded(&self) {
        for tenant in self.loading.wait().await {
            tenant.settled().await;
        }
    }

    /// Stops listening, flushes memory to layers and remote storage, ends every task.
    pub async fn shutdown(self) {
        self.services.shutdown().await;
        // Nothing is brought up any more behind the registry's back.
        self.assigning.shutdown().await;
        self.registry.shutdown(true).await;
        self.background.shutdown().await;
        self.registry.shared.redo.shutdown().await;
        // A task that ended leaves the work behind that it waited for, and a disk may be slow. Whoever gets the data directory
        // next must not find segments replaced under its hands, so the lock is held until then.
        if !crate::planted!(self.registry.shared.env, "stop-leaves-work") {
            self.registry.shared.env.tasks.blocking_done().await;
        }
    }
}

/// Who is asked for the newest generation of a tenant.
fn authority(remote: &RemoteClient, control_plane: &Option<ControlPlane>) -> Arc<dyn Authority> {
    let store = StoreAuthority(remote.clone());
    match control_plane.clone() {
        None => Arc::new(store),
        Some(control_plane) => Arc::new(ControlPlaneAuthority { control_plane, store }),
    }
}

type Loading = Arc<SetOnce<Vec<Arc<Tenant>>>>;

/// Begins to bring up the tenants of this node, or to ask which they are. `adopt`: without a control plane, all that there are.
async fn begin(
    registry: &Arc<Registry>,
    control_plane: Option<ControlPlane>,
    adopt: bool,
    assigning: &Scope,
    loading: &Loading,
) -> Result<(), StartError> {
    let tenants = match control_plane {
        None => registry.load_all(adopt).await?,
        Some(_) if registry.shared.config.control_plane_emergency_mode => {
            tracing::warn!("control_plane_emergency_mode is set: tenants go on in the generations that are known from before");
            registry.load_assigned(Assignment::LastKnown).await?
        }
        Some(control_plane) => {
            registry.set_unassigned(true);
            let (owned, told) = (registry.clone(), loading.clone());
            assigning.spawn("assign", |cancel| async move {
                // Cut off: the node stops.
                cancel.run_until_cancelled(load_assigned(owned, control_plane, told)).await;
            });
            return Ok(());
        }
    };
    // It is set by nobody else.
    let _ = loading.set(tenants);
    Ok(())
}

/// Asks the control plane for the tenants of this node, and begins to bring them up.
async fn load_assigned(registry: Arc<Registry>, control_plane: ControlPlane, loading: Loading) {
    let assigned = control_plane.assigned().await;
    let tenants = loop {
        // The same answer again: a new one would use up generations.
        match registry.load_assigned(Assignment::Answered(assigned.clone())).await {
            Ok(tenants) => break tenants,
            Err(error) => {
                tracing::error!(%error, "the tenants that the control plane gave to this node cannot be loaded, will try again");
                registry.shared.env.clock.sleep(LOAD_RETRY).await;
            }
        }
    };
    registry.set_unassigned(false);
    // It is set by nobody else.
    let _ = loading.set(tenants);
}

/// Ends what a start that failed had begun.
async fn give_up(registry: &Registry, background: &Scope, error: StartError) -> StartError {
    registry.shutdown(false).await;
    background.shutdown().await;
    error
}

fn lock_data_dir(env: &Env, config: &Config) -> Result<DiskLock, StartError> {
    let path = config.data_dir.clone();
    create_dir_durably(&*env.disk, &path, &path).map_err(|error| StartError::DataDir { path: path.clone(), error })?;
    env.disk.lock(&path.join("lock")).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StartError::InUse { path },
        _ => StartError::DataDir { path, error },
    })
}

/// The generation of this start: one more than that of the last, kept durably; if the local disk knows none, one more than any
/// in remote storage, so that nothing an earlier life wrote is written over.
async fn next_generation(env: &Env, config: &Config) -> Result<NodeFile, StartError> {
    let path = config.data_dir.join("node.json");
    let last = match read_file(&*env.disk, &path) {
        Ok(bytes) => {
            let damaged = |e: serde_json::Error| StartError::NodeFile { path: path.clone(), reason: e.to_string() };
            Some(serde_json::from_slice::<NodeFile>(&bytes).map_err(damaged)?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(StartError::DataDir { path: config.data_dir.clone(), error }),
    };
    let settled = last.as_ref().is_some_and(|last| last.settled);
    let last = match last {
        Some(last) => Some(last.generation),
        None => RemoteClient::new(env, Generation(u32::MAX)).newest_generation().await?,
    };
    let generation = last.map_or(Some(Generation::FIRST), Generation::next).ok_or(StartError::LastGeneration)?;
    let next = NodeFile { generation, settled };
    write_node_file(env, config, &next)?;
    Ok(next)
}

fn write_node_file(env: &Env, config: &Config, file: &NodeFile) -> Result<(), StartError> {
    let bytes = serde_json::to_vec(file).expect("it is plain data");
    let written = write_file_durably(&*env.disk, &config.data_dir.join("node.json"), &bytes);
    written.map_err(|error| StartError::DataDir { path: config.data_dir.clone(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::testing;

    #[tokio::test]
    async fn one_data_directory_has_one_node() {
        let directory = tempfile::tempdir().unwrap();
        let env = testing::memory_env();
        let mut config = Config::for_data_dir(directory.path());
        (config.listen_http_addr, config.listen_pg_addr) = ("127.0.0.1:0".to_string(), "127.0.0.1:0".to_string());
        let node = Node::start(env.clone(), config.clone()).await.unwrap();
        assert!(matches!(Node::start(env.clone(), config.clone()).await, Err(StartError::InUse { .. })));
        node.shutdown().await;
        Node::start(env, config).await.unwrap().shutdown().await;
    }
}
