//! What a run leaves behind, as it travels from a backend to the command line: one JSON object per run.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Events between two stored digests.
pub const CHECKPOINT_EVENTS: u64 = 1024;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which oracle saw it: stable, so that shrinking can ask for the same one.
    pub oracle: String,
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub scenario: String,
    pub world: String,
    pub seed: u64,
    /// Digest of the whole trace, in hexadecimal.
    pub digest: String,
    pub events: u64,
    /// Simulated time in milliseconds.
    pub simulated_ms: u64,
    /// The first one; `None` means that the run passed.
    pub violation: Option<Violation>,
    /// How often things happened: operations by outcome, faults, marks of the product.
    pub counts: BTreeMap<String, u64>,
    /// Running digests, only when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<String>,
    /// The last events of a run that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<String>,
}
