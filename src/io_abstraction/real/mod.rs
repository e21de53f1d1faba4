//! The operating system behind the seams: the only place that touches sockets, files, clocks, entropy, threads and processes.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is where the back doors lead to")]

mod clock;
mod disk;
mod net;
mod process;
mod process_control;
mod redo;
mod secrets;
mod store;
mod tasks;

pub use disk::RealFile;
pub use process_control::{block_on, log_filter, termination};
pub use secrets::{entropy, write_private};
pub use store::local_store;

use super::{Env, RngSource, Tasks, probe::NoProbe};
use object_store::ObjectStore;
use std::sync::Arc;

/// The file system of the machine, for whoever needs nothing else.
pub fn file_system() -> Arc<dyn super::Disk> {
    Arc::new(disk::FileSystem)
}

/// The environment of production. Must be called inside a tokio runtime.
///
/// Errors: the machine gives no entropy.
pub fn env(store: Arc<dyn ObjectStore>) -> std::io::Result<Env> {
    let mut root = [0; 16];
    getrandom::fill(&mut root).map_err(std::io::Error::other)?;
    Ok(Env {
        clock: Arc::new(clock::SystemClock::start()),
        rng: RngSource::new(u128::from_le_bytes(root)),
        tasks: Tasks::new(Arc::new(tasks::TokioSpawner)),
        net: Arc::new(net::KernelNet),
        disk: Arc::new(disk::FileSystem),
        store,
        redo: Arc::new(redo::ChildSpawner),
        process: Arc::new(process::HostProcess),
        probe: Arc::new(NoProbe),
        metrics: prometheus::Registry::new(),
    })
}
