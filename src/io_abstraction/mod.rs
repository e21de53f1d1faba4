//! The seams: every effect on the outside world goes through one of these traits.
//!
//! [`Env`] is a cheap clone that travels as the first argument from `node::run` down. The same product code runs with the
//! real implementations of [`real`] or with simulated ones. Each seam's documentation is a contract: durability after
//! return, atomicity, ordering, what a crash may leave, which errors may be retried. The simulator implements that text, and
//! one contract suite runs against both.

pub mod clock;
pub mod disk;
pub mod net;
pub mod probe;
pub mod process;
pub mod real;
pub mod redo;
pub mod rng;
pub mod tasks;

pub use clock::{Clock, ClockExt, Elapsed, Mono, Wall};
pub use disk::{DirEntry, Disk, DiskFile, OpenMode};
pub use net::{Address, BoxStream, Listener, Net, Stream};
pub use probe::Probe;
pub use process::Process;
pub use redo::{RedoChild, RedoSpawner};
pub use rng::{DetRng, RngSource};
pub use tasks::{Scope, Spawner, Task, Tasks};

use object_store::ObjectStore;
use std::sync::Arc;

/// Everything a node may touch besides its own memory.
///
/// The object store is the `object_store` crate's trait itself. Its contract here: strongly consistent reads and lists
/// after a write; `put` is atomic (the whole object or nothing, also across a crash) and durable when it returns; an error
/// or a missing answer leaves the outcome *unknown*; every error but `NotFound`, `AlreadyExists` and `Precondition` may be
/// retried.
#[derive(Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub rng: RngSource,
    pub tasks: Tasks,
    pub net: Arc<dyn Net>,
    pub disk: Arc<dyn Disk>,
    pub store: Arc<dyn ObjectStore>,
    pub redo: Arc<dyn RedoSpawner>,
    pub process: Arc<dyn Process>,
    pub probe: Arc<dyn Probe>,
    /// Metrics of this node; one registry per node, so that two nodes can live in one process.
    pub metrics: prometheus::Registry,
}
