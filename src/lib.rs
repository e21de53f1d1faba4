//! palimpsest keeps the whole history of PostgreSQL clusters and serves it back.
//!
//! The flows, one line per step:
//!
//! ```text
//! WAL     wal::receiver -> wal::log (fsync = ack) -> pg::xlog -> wal::ingest -> timeline::write -> layer::memory
//!                                               timeline::flush -> layer::delta -> remote::upload
//! GetPage page_service -> timeline::read -> layer::map -> layer::{memory,delta,image} -> redo -> page
//! HTTP    http::router -> http::pageserver -> tenant::registry
//! Seed    sim cli -> scenario -> plan(seed) -> world -> node::run per host -> actors -> oracles -> trace
//! ```

pub mod auth;
pub mod cli;
pub mod config;
pub mod control_plane;
pub mod export;
pub mod http;
pub mod io_abstraction;
pub mod layer;
pub mod limits;
pub mod node;
pub mod observe;
pub mod page_service;
pub mod pg;
pub mod postgres;
pub mod redo;
pub mod remote;
pub mod replication;
pub mod tenant;
pub mod timeline;
pub mod tls;
pub mod types;
pub mod wal;
