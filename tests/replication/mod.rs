//! The replication client against a real server.

mod authentication;
mod garbage;
mod streaming;
