//! The whole program against stock servers: what was acknowledged is kept, what is exported equals what a standby has, bad input
//! harms nobody.
//!
//! Real `pal` processes, real PostgreSQL 15 servers and tools, killed and damaged on purpose. `PAL_TEST_LONG=1` runs the long forms.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "these tests are the outside world: processes, files, sockets")]

mod bad_disk;
mod bad_wal;
mod durability;
mod restart;
mod standby;
mod support;
mod time;
