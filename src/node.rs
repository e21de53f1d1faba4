//! The composition root: (Env, Config) in, running services out. Called by the program and by the simulator alike.

use crate::auth::{GuardError, Guards};
use crate::config::{Config, ConfigError};
use crate::http;
use crate::io_abstraction::disk::{DiskLock, create_dir_durably, read_file, write_file_durably};
use crate::io_abstraction::{Address, Env, Scope};
use crate::layer::BlockCache;
use crate::page_service;
use crate::redo::executor::RedoExecutor;
use crate::remote::{RemoteClient, RemoteError};
use crate::tenant::Registry;
use crate::tenant::load::LoadError;
use crate::timeline::Shared;
use crate::types::Generation;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

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
    services: Scope,
    http_address: Address,
    pages_address: Address,
}

/// What a node remembers of itself.
#[derive(Serialize, Deserialize)]
struct NodeFile {
    generation: Generation,
}

impl Node {
    /// Takes the next generation, loads all tenants, serves. Returns when both listeners accept.
    pub async fn start(env: Env, config: Config) -> Result<Node, StartError> {
        let (http_wanted, pages_wanted) = (config.http_address()?, config.pages_address()?);
        let guards = Guards::load(&env, &config)?;
        let lock = lock_data_dir(&env, &config)?;
        let generation = next_generation(&env, &config).await?;
        let shared = Arc::new(Shared {
            cache: BlockCache::new(usize::try_from(config.block_cache_bytes).unwrap_or(usize::MAX), env.probe.clone()),
            redo: RedoExecutor::new(&env, config.redo, config.wal_redo_timeout),
            remote: RemoteClient::new(&env, generation),
            env: env.clone(),
            config,
        });
        let registry = Registry::new(shared);
        registry.load_all().await?;
        let services = Scope::new(&env.tasks);
        let listen = async |address: &Address| {
            let failed = |error| StartError::Listen { address: address.clone(), error };
            env.net.listen(address).await.map_err(failed)
        };
        let http = listen(&http_wanted).await?;
        let pages = listen(&pages_wanted).await?;
        let (http_address, pages_address) = (http.local_address(), pages.local_address());
        let router = http::router::router(registry.clone(), &guards);
        services.spawn("http", |cancel| http::server::run(env.clone(), http, guards.http.tls, router, cancel));
        services.spawn("pages", |cancel| page_service::listener::run(env.clone(), pages, registry.clone(), guards.pages, cancel));
        env.probe.event("node-started", &|| format!("generation={}", generation.0));
        Ok(Node { registry, _lock: lock, services, http_address, pages_address })
    }

    pub fn http_address(&self) -> &Address {
        &self.http_address
    }

    pub fn pages_address(&self) -> &Address {
        &self.pages_address
    }

    /// Stops listening, flushes memory to layers and remote storage, ends every task.
    pub async fn shutdown(self) {
        self.services.shutdown().await;
        self.registry.shutdown(true).await;
        self.registry.shared.redo.shutdown().await;
        // A task that ended leaves the work behind that it waited for, and a disk may be slow. Whoever gets the data directory
        // next must not find segments replaced under its hands, so the lock is held until then.
        if !crate::planted!(self.registry.shared.env, "stop-leaves-work") {
            self.registry.shared.env.tasks.blocking_done().await;
        }
    }
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
async fn next_generation(env: &Env, config: &Config) -> Result<Generation, StartError> {
    let directory = config.data_dir.clone();
    let path = directory.join("node.json");
    let failed = |error| StartError::DataDir { path: directory.clone(), error };
    let last = match read_file(&*env.disk, &path) {
        Ok(bytes) => {
            let damaged = |e: serde_json::Error| StartError::NodeFile { path: path.clone(), reason: e.to_string() };
            Some(serde_json::from_slice::<NodeFile>(&bytes).map_err(damaged)?.generation)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let last = match last {
        Some(last) => Some(last),
        None => RemoteClient::new(env, Generation(u32::MAX)).newest_generation().await?,
    };
    let generation = last.map_or(Generation::FIRST, Generation::next);
    let bytes = serde_json::to_vec(&NodeFile { generation }).expect("a number is plain data");
    write_file_durably(&*env.disk, &path, &bytes).map_err(failed)?;
    Ok(generation)
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
