//! What the tests against real servers share: an environment, a directory servers can reach, a cluster.

use object_store::memory::InMemory;
use palimpsest::io_abstraction::{Address, Env, real};
use palimpsest::pg::version::PgVersion;
use palimpsest::postgres::{Binaries, InitDbSpec, Server, ServerSpec, binaries, initdb, run_as_user};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// A directory for one test and the world around it.
pub struct Place {
    pub env: Env,
    pub binaries: Binaries,
    pub run_as: Option<String>,
    dir: TempDir,
}

impl Place {
    /// Finds PostgreSQL 15, or installs it.
    pub async fn new() -> Place {
        let env = real::env(Arc::new(InMemory::new())).unwrap();
        let binaries = binaries::find_or_install(&env, &BTreeMap::new(), PgVersion::V15).await.unwrap();
        let run_as = run_as_user(&env, None).unwrap();
        let dir = tempfile::Builder::new().prefix("palimpsest-test-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        Place { env, binaries, run_as, dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a cluster in the directory `name`.
    pub async fn cluster(&self, name: &str) -> PathBuf {
        let data_dir = self.path(name);
        let spec =
            InitDbSpec { binaries: &self.binaries, data_dir: &data_dir, run_as: self.run_as.as_deref(), sync: false, extra_args: &[] };
        initdb::run(&self.env, &spec).await.unwrap();
        data_dir
    }

    /// How to run a server on the directory `name`.
    pub fn spec(&self, name: &str) -> ServerSpec {
        let log = self.path(&format!("{name}.log"));
        ServerSpec::new(&self.binaries, &self.path(name), &log).run_as(self.run_as.clone()).set("fsync", "off")
    }

    pub async fn start(&self, spec: ServerSpec) -> Server {
        Server::start(&self.env, spec).await.unwrap_or_else(|e| panic!("{e}"))
    }

    /// A port that was free a moment ago.
    pub async fn free_port(&self) -> u16 {
        let listener = self.env.net.listen(&Address::tcp("127.0.0.1", 0)).await.unwrap();
        match listener.local_address() {
            Address::Tcp { port, .. } => port,
            other => panic!("{other}"),
        }
    }
}
