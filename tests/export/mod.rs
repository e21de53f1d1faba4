//! Stopped data directories in, bootable base backups out, checked with a stock server.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks at real files beside the seams")]

mod boot;
mod cluster;
mod import;
mod program;
