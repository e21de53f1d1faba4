//! Judges: models of what must be true, seeing only what clients and the primary see.

pub mod durability;
pub mod pages;

use crate::event;
pub use crate::report::Violation;
use crate::trace::HostTrace;
use parking_lot::Mutex;
use std::sync::Arc;

/// Where oracles report. The first violation of a run counts.
#[derive(Clone)]
pub struct Judge {
    first: Arc<Mutex<Option<Violation>>>,
    trace: HostTrace,
}

impl Judge {
    pub fn new(trace: HostTrace) -> Judge {
        Judge { first: Arc::default(), trace }
    }

    pub fn violated(&self, oracle: &'static str, detail: String) {
        event!(self.trace, "oracle", "violated={oracle} detail={detail}");
        self.first.lock().get_or_insert(Violation { oracle: oracle.to_string(), detail });
    }

    pub fn verdict(&self) -> Option<Violation> {
        self.first.lock().clone()
    }
}
