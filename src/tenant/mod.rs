//! Tenants and their timelines on this node: loaded from remote storage, created, branched.

pub mod create;
pub mod error;
pub mod load;
pub mod registry;
pub mod size;
mod template;

pub use create::{CreateSpec, Origin};
pub use error::{CreateError, Kind, LookupError};
pub use registry::{Registry, Tenant, TimelineHandle};
