//! The control plane of several nodes, as a node asks it: which tenants it has, and whose generation is the newest.
//!
//! ```text
//! start      -> POST re-attach {node_id}            -> tenants with new generations   (client::ControlPlane::assigned)
//! validation -> POST validate {tenants, generations} -> which are the newest          (client::ControlPlane::validate)
//! ```
//!
//! Invariant CP-1: an answer counts as a whole or not at all. What is not understood is asked again and never guessed: a tenant that
//! is missing from an answer is taken off the node, and one that is called valid may delete.

mod answer;
mod client;
#[cfg(test)]
mod tests;

pub use answer::{AnswerError, Assigned};
pub use client::{ControlPlane, ControlPlaneError};
