//! The contract suite: one set of assertions for every implementation of a seam.
//!
//! Each file takes the seam as its trait and panics at the first difference from the written contract. It runs against the
//! operating system (`tests/seams`) and against the simulated seams (tests of the backends and of this crate). A simulator
//! that is kinder or stricter than Linux hides bugs; this is what ties the model to the world.

pub mod disk;
pub mod machine;
pub mod net;
pub mod store;
pub mod tasks;
