//! What the product tells the simulator: events into the trace, marks into a table, and which planted bug is on.

use crate::event;
use crate::trace::HostTrace;
use palimpsest::io_abstraction::Probe;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Name of the planted bug of this run, if any.
pub type Planted = Option<Arc<str>>;

/// The marks of a host, kept over its incarnations.
#[derive(Default)]
pub struct SimProbe {
    marks: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

struct Incarnation {
    marks: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    trace: HostTrace,
    planted: Planted,
}

impl SimProbe {
    pub fn marks(&self) -> BTreeMap<&'static str, u64> {
        self.marks.lock().clone()
    }

    pub fn incarnation(&self, trace: HostTrace, planted: Planted) -> Arc<dyn Probe> {
        Arc::new(Incarnation { marks: self.marks.clone(), trace, planted })
    }
}

impl Probe for Incarnation {
    fn event(&self, kind: &'static str, detail: &dyn Fn() -> String) {
        event!(self.trace, kind, "{}", detail());
    }

    fn mark(&self, name: &'static str) {
        let mut marks = self.marks.lock();
        let count = marks.entry(name).or_default();
        *count += 1;
        if *count == 1 {
            event!(self.trace, "mark", "name={name}");
        }
    }

    fn planted(&self, bug: &'static str) -> bool {
        self.planted.as_deref() == Some(bug)
    }
}
