//! The management API: HTTP/1.1 over the Net seam, JSON bodies.

pub mod auth;
pub mod metrics;
pub mod pageserver;
pub mod router;
pub mod server;
pub mod status;
pub mod time;
