//! WAL in: from a primary's stream to the log on disk, from the log to versions in a timeline.
//!
//! ```text
//! receiver -> log (group fsync = acknowledged) -> ingest task -> ingest::* -> TimelineWriter
//! ```

pub mod ingest;
pub mod log;
pub mod receiver;
pub mod runner;
