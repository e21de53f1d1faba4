//! PostgreSQL's own formats, pure: no I/O, no clock. Input is never trusted: every decoder checks bounds and returns an error.

pub mod checkpoint;
pub mod checksum;
pub mod control;
pub mod mask;
pub mod page;
pub mod rmgr;
pub mod version;
pub mod wire;
pub mod xlog;
