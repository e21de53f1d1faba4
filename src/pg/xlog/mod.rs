//! The WAL container: pages, records, and a stream decoder that joins them.

pub mod page;
pub mod record;
pub mod stats;
pub mod stream;
pub mod synthesize;
