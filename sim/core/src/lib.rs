//! The simulator without a backend: simulated seams, scenarios, plans, oracles, trace.
//!
//! ```text
//! scenario file -> plan(seed) -> harness -> Cluster(World) -> node under test, simulated primary, clients
//!                                   |-> faults            -> oracles -> report        every event -> trace -> digest
//! ```

#[cfg(feature = "world")]
pub mod backend;
#[cfg(feature = "world")]
pub mod client;
#[cfg(feature = "world")]
pub mod clock;
#[cfg(feature = "world")]
pub mod contract;
#[cfg(feature = "world")]
pub mod disk;
#[cfg(feature = "world")]
pub mod fuse;
#[cfg(feature = "world")]
pub mod harness;
#[cfg(feature = "world")]
pub mod held;
#[cfg(feature = "world")]
pub mod log;
#[cfg(feature = "world")]
pub mod net;
#[cfg(feature = "world")]
pub mod node;
#[cfg(feature = "world")]
pub mod oracle;
#[cfg(feature = "world")]
pub mod plan;
#[cfg(feature = "world")]
pub mod postgres;
#[cfg(feature = "world")]
pub mod probe;
#[cfg(feature = "world")]
pub mod redo;
pub mod report;
#[cfg(feature = "world")]
pub mod samples;
pub mod scenario;
#[cfg(feature = "world")]
pub mod store;
#[cfg(feature = "world")]
pub mod story;
#[cfg(feature = "world")]
pub mod tasks;
#[cfg(feature = "world")]
pub mod trace;
#[cfg(feature = "world")]
pub mod world;

#[cfg(all(test, feature = "world"))]
mod testing;
