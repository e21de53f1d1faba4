//! The management API: HTTP/1.1 over the Net seam, JSON bodies.

pub mod auth;
mod body;
mod extract;
pub mod metrics;
pub mod router;
pub mod server;
pub mod size;
mod stall;
pub mod status;
pub mod tenant;
pub mod time;
pub mod timeline;
