//! Tenants and their timelines on this node: attached, created, branched, changed, deleted.

pub mod assign;
pub mod attach;
pub mod create;
pub mod delete;
pub mod detach;
pub mod error;
pub mod eviction;
pub mod location;
pub mod registry;
pub mod settings;
pub mod size;
pub mod state;
#[cfg(test)]
mod takeover_tests;
mod template;

pub use create::{CreateSpec, Origin};
pub use error::{CreateError, Kind, LookupError};
pub use registry::{Registry, Slot};
pub use state::{Deletion, Tenant, TenantState, TimelineHandle};
