//! What one life of a host holds: tasks that run, files and connections that are open, requests that wait for an answer.
//!
//! Whoever takes something keeps a [`Hold`] beside it; what is left in the ledger after a stop was forgotten.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Things that are held, in the order in which they were taken.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    count: u64,
    held: BTreeMap<u64, Arc<str>>,
}

/// Held until it is dropped.
pub struct Hold(Ledger, u64);

impl Ledger {
    pub fn hold(&self, what: &str) -> Hold {
        let mut entries = self.0.lock();
        entries.count += 1;
        let number = entries.count;
        entries.held.insert(number, Arc::from(what));
        Hold(self.clone(), number)
    }

    pub fn names(&self) -> Vec<String> {
        self.0.lock().held.values().map(ToString::to_string).collect()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.0.lock().held.remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_not_held() {
        let ledger = Ledger::default();
        let (first, second) = (ledger.hold("a"), ledger.hold("b"));
        assert_eq!(ledger.names(), ["a", "b"]);
        drop(first);
        assert_eq!(ledger.names(), ["b"]);
        drop(second);
        assert!(ledger.names().is_empty());
    }
}
