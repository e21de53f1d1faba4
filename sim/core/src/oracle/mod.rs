//! Judges: models of what must be true, seeing only what clients and the primary see.

pub mod durability;
pub mod pages;
pub mod times;

use crate::event;
pub use crate::report::Violation;
use crate::trace::HostTrace;
use parking_lot::Mutex;
use std::sync::Arc;

/// Where oracles report. The first violation of a run counts.
#[derive(Clone)]
pub struct Judge {
    first: Arc<Mutex<Option<Violation>>>,
    /// Promises that are not asked for in this run.
    waived: &'static [&'static str],
    trace: HostTrace,
}

impl Judge {
    pub fn new(trace: HostTrace) -> Judge {
        Judge { first: Arc::default(), waived: &[], trace }
    }

    /// These promises may be broken: the trace tells of it, and the run goes on.
    pub fn waiving(self, waived: &'static [&'static str]) -> Judge {
        Judge { waived, ..self }
    }

    pub fn violated(&self, oracle: &'static str, detail: String) {
        if self.waived.contains(&oracle) {
            event!(self.trace, "oracle", "waived={oracle} detail={detail}");
            return;
        }
        event!(self.trace, "oracle", "violated={oracle} detail={detail}");
        self.first.lock().get_or_insert(Violation { oracle: oracle.to_string(), detail });
    }

    pub fn verdict(&self) -> Option<Violation> {
        self.first.lock().clone()
    }
}
