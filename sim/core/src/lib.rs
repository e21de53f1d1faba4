//! The simulator without a backend: simulated seams, scenarios, plans, oracles, trace.
//!
//! ```text
//! scenario file -> plan(seed) -> harness -> Cluster(World) -> node under test, simulated primary, clients
//!                                   |-> faults            -> oracles -> report        every event -> trace -> digest
//! ```

pub mod backend;
pub mod client;
pub mod clock;
pub mod contract;
pub mod disk;
pub mod harness;
pub mod log;
pub mod net;
pub mod node;
pub mod oracle;
pub mod plan;
pub mod postgres;
pub mod probe;
pub mod redo;
pub mod report;
pub mod scenario;
pub mod store;
pub mod story;
pub mod tasks;
pub mod trace;
pub mod world;

#[cfg(test)]
mod testing;
