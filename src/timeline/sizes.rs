//! Sizes of relations at the end of the timeline, so that reading a page need not look its relation's size up in layers.
//!
//! An entry says: the last change of the size was at or before this LSN. It holds for every read at or above it, because
//! ingest enters each change before it publishes the record.

use crate::types::{HashMap, Lsn, RelTag};
use parking_lot::Mutex;

/// Entries kept before the cache starts anew.
const ENTRIES_MAX: usize = 1 << 18;

#[derive(Default)]
struct State {
    /// (LSN of the last change or later, blocks; `None`: no such fork)
    sizes: HashMap<RelTag, (Lsn, Option<u32>)>,
    /// Grows whenever entries are dropped.
    epoch: u64,
    /// Entries that were dropped spoke of changes up to here: a size read below it may be out of date at once.
    dropped_to: Lsn,
}

#[derive(Default)]
pub struct RelSizes(Mutex<State>);

/// What a look-up gave, and what a later [`RelSizes::learn`] needs.
pub enum Lookup {
    Known(Option<u32>),
    Unknown { epoch: u64 },
}

impl RelSizes {
    pub fn look_up(&self, rel: RelTag, lsn: Lsn) -> Lookup {
        let state = self.0.lock();
        match state.sizes.get(&rel) {
            Some((since, size)) if lsn >= *since => Lookup::Known(*size),
            _ => Lookup::Unknown { epoch: state.epoch },
        }
    }

    /// Ingest changed the size with the record that ends at `lsn`.
    pub fn change(&self, rel: RelTag, lsn: Lsn, size: Option<u32>) {
        let mut state = self.0.lock();
        if state.sizes.len() >= ENTRIES_MAX {
            state.drop_all(lsn);
        }
        state.sizes.insert(rel, (lsn, size));
    }

    /// A reader found the size at `lsn`, which was the last record when it looked up. Does nothing if ingest knows better.
    pub fn learn(&self, rel: RelTag, lsn: Lsn, size: Option<u32>, epoch: u64) {
        let mut state = self.0.lock();
        let newer = state.sizes.get(&rel).is_some_and(|(since, _)| *since > lsn);
        if state.epoch == epoch && lsn >= state.dropped_to && !newer && state.sizes.len() < ENTRIES_MAX {
            state.sizes.insert(rel, (lsn, size));
        }
    }

    /// A whole database changed at once, with the record that ends at `lsn`.
    pub fn forget_all(&self, lsn: Lsn) {
        self.0.lock().drop_all(lsn);
    }
}

impl State {
    fn drop_all(&mut self, lsn: Lsn) {
        self.sizes.clear();
        self.epoch += 1;
        self.dropped_to = self.dropped_to.max(lsn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Fork;

    const REL: RelTag = RelTag { spc: 1, db: 2, rel: 3, fork: Fork::Main };

    fn known(sizes: &RelSizes, lsn: u64) -> Option<Option<u32>> {
        match sizes.look_up(REL, Lsn(lsn)) {
            Lookup::Known(size) => Some(size),
            Lookup::Unknown { .. } => None,
        }
    }

    #[test]
    fn a_reader_never_hides_what_ingest_knows() {
        let sizes = RelSizes::default();
        sizes.learn(REL, Lsn(10), Some(1), 0);
        assert_eq!((known(&sizes, 9), known(&sizes, 10), known(&sizes, 99)), (None, Some(Some(1)), Some(Some(1))));
        sizes.change(REL, Lsn(20), Some(2));
        sizes.learn(REL, Lsn(15), Some(1), 0);
        assert_eq!((known(&sizes, 19), known(&sizes, 20)), (None, Some(Some(2))));
        sizes.forget_all(Lsn(30));
        sizes.learn(REL, Lsn(30), Some(2), 0);
        assert_eq!(known(&sizes, 30), None, "the reader looked up before the change");
        sizes.learn(REL, Lsn(20), Some(1), 1);
        assert_eq!(known(&sizes, 30), None, "what was dropped was not published when the reader looked up");
        sizes.learn(REL, Lsn(30), None, 1);
        assert_eq!(known(&sizes, 30), Some(None));
    }
}
