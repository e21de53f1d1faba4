//! The record of a run: one event per line, always hashed, kept as text only on demand.
//!
//! A line is `time_ns host/incarnation task kind key=value …`. Two runs are the same run exactly if their digests are
//! equal. Every [`CHECKPOINT_EVENTS`] events the running digest is stored, so that the first difference between two runs
//! is found by comparing the stored values and asking both runs for the text of one window. Nothing that differs between
//! processes may enter a line: no addresses, thread ids, hash values or machine time.

pub use crate::report::CHECKPOINT_EVENTS;
use palimpsest::io_abstraction::{Clock, Mono};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// Lines that are always at hand for a failure report.
pub const RECENT_LINES: usize = 50;

thread_local! {
    /// Name of the task that is being polled. A run uses one thread only.
    static CURRENT_TASK: RefCell<Arc<str>> = RefCell::new(Arc::from("-"));
}

/// Runs `poll` as the task `name`: events inside carry the name.
pub fn in_task<T>(name: &Arc<str>, poll: impl FnOnce() -> T) -> T {
    let before = CURRENT_TASK.with(|current| current.replace(name.clone()));
    let result = poll();
    CURRENT_TASK.with(|current| current.replace(before));
    result
}

/// The trace of one run. Cheap to clone.
#[derive(Clone)]
pub struct Trace {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

struct State {
    hasher: Xxh3,
    events: u64,
    checkpoints: Vec<u64>,
    recent: VecDeque<String>,
    window: Range<u64>,
    text: Vec<String>,
}

/// What is left of a finished run's trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub events: u64,
    /// Digest of all events.
    pub digest: u64,
    /// The running digest after every [`CHECKPOINT_EVENTS`] events.
    pub checkpoints: Vec<u64>,
    /// The last lines.
    pub recent: Vec<String>,
    /// The lines of the window that was asked for.
    pub text: Vec<String>,
}

impl Trace {
    /// Keeps the text of the events numbered in `window` (counted from 0).
    pub fn new(clock: Arc<dyn Clock>, window: Range<u64>) -> Trace {
        let state = State {
            hasher: Xxh3::new(),
            events: 0,
            checkpoints: Vec::new(),
            recent: VecDeque::with_capacity(RECENT_LINES),
            window,
            text: Vec::new(),
        };
        Trace { clock, state: Arc::new(Mutex::new(state)) }
    }

    /// The part of the trace that belongs to one incarnation of a host.
    pub fn host(&self, host: &str, incarnation: u64) -> HostTrace {
        HostTrace { trace: self.clone(), label: Arc::from(format!("{host}/{incarnation}")) }
    }

    pub fn now(&self) -> Mono {
        self.clock.mono()
    }

    fn event(&self, label: &str, kind: &str, detail: fmt::Arguments<'_>) {
        let now = self.clock.mono().0;
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut line = if state.recent.len() == RECENT_LINES { state.recent.pop_front().unwrap_or_default() } else { String::new() };
        line.clear();
        CURRENT_TASK.with(|task| {
            let _ = write!(line, "{now:>13} {label} {} {kind} {detail}", task.borrow());
        });
        state.hasher.update(line.as_bytes());
        state.hasher.update(b"\n");
        if state.window.contains(&state.events) {
            state.text.push(line.clone());
        }
        state.recent.push_back(line);
        state.events += 1;
        if state.events.is_multiple_of(CHECKPOINT_EVENTS) {
            state.checkpoints.push(state.hasher.digest());
        }
    }

    pub fn summary(&self) -> Summary {
        let state = self.state.lock();
        Summary {
            events: state.events,
            digest: state.hasher.digest(),
            checkpoints: state.checkpoints.clone(),
            recent: state.recent.iter().cloned().collect(),
            text: state.text.clone(),
        }
    }
}

/// The trace of one incarnation of a host.
#[derive(Clone)]
pub struct HostTrace {
    trace: Trace,
    label: Arc<str>,
}

impl HostTrace {
    /// Writes a line. `detail` is `key=value` pairs separated by spaces.
    pub fn event(&self, kind: &str, detail: fmt::Arguments<'_>) {
        self.trace.event(&self.label, kind, detail);
    }

    pub fn now(&self) -> Mono {
        self.trace.now()
    }
}

impl fmt::Debug for HostTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

/// Writes a line to a [`HostTrace`]: `event!(trace, "kind", "key={}", value)`.
#[macro_export]
macro_rules! event {
    ($trace:expr, $kind:expr, $($arg:tt)*) => {
        $trace.event($kind, format_args!($($arg)*))
    };
}

/// The name of an error kind, for traces: messages of the operating system have no place there.
pub fn error_name(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("os{code}"),
        None => format!("{:?}", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::StillClock;

    fn digest(lines: &[&str]) -> Summary {
        let trace = Trace::new(Arc::new(StillClock), 1..2);
        let host = trace.host("node", 0);
        for line in lines {
            event!(host, "test", "n={line}");
        }
        trace.summary()
    }

    #[test]
    fn the_digest_depends_on_every_line_and_its_order() {
        assert_eq!(digest(&["a", "b"]).digest, digest(&["a", "b"]).digest);
        assert_ne!(digest(&["a", "b"]).digest, digest(&["b", "a"]).digest);
        assert_eq!(digest(&["a", "b", "c"]).text, ["            0 node/0 - test n=b"]);
    }

    #[test]
    fn checkpoints_and_recent_lines() {
        let lines = vec!["x"; 2500];
        let summary = digest(&lines);
        assert_eq!((summary.events, summary.checkpoints.len(), summary.recent.len()), (2500, 2, RECENT_LINES));
    }
}
