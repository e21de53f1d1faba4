//! The management API: HTTP/1.1 over the Net seam, JSON bodies.

pub mod auth;
mod extract;
pub mod metrics;
pub mod router;
pub mod server;
pub mod size;
pub mod status;
pub mod tenant;
pub mod time;
pub mod timeline;
