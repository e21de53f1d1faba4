//! Hash maps whose iteration order is the same in every run: std's with a fixed hasher.
//!
//! Where the order can be seen by anybody, use a `BTreeMap`; these are for lookups on hot paths.

#![expect(clippy::disallowed_types, reason = "the one place that gives the std maps a fixed hasher")]

use rustc_hash::FxBuildHasher;

pub type HashMap<K, V> = std::collections::HashMap<K, V, FxBuildHasher>;
pub type HashSet<K> = std::collections::HashSet<K, FxBuildHasher>;
