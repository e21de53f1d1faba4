//! What the product logs in a run, and whether it may.
//!
//! - `LG-1`: nothing is logged as an error, and in a run in which nothing fails nothing as a warning either. An operator who is
//!   warned of what needs no attention soon reads nothing.
//!
//! Only texts that stand in the source enter the trace: the level, the module and the message without its fields.

use crate::disk::DEAD;
use crate::event;
use crate::trace::{HostTrace, Trace};
use parking_lot::Mutex;
use std::fmt::{self, Debug};
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines that a verdict shows.
const SHOWN: usize = 5;
/// Whose words count: the libraries below have their own ideas of what is worth a warning.
const PRODUCT: &str = "palimpsest";

/// The log of one run. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    trace: HostTrace,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    errors: Lines,
    warnings: Lines,
}

/// How many there were, and the first of them with their fields.
#[derive(Default)]
struct Lines {
    count: u64,
    first: Vec<String>,
}

impl Lines {
    fn add(&mut self, line: String) {
        self.count += 1;
        if self.first.len() < SHOWN {
            self.first.push(line);
        }
    }

    fn told(&self, what: &str) -> Option<String> {
        (self.count > 0).then(|| format!("{} {what}: {}", self.count, self.first.join("; ")))
    }
}

impl Log {
    pub fn new(trace: &Trace) -> Log {
        Log { trace: trace.host("product", 0), heard: Arc::default() }
    }

    /// Hears what is logged on this thread, which is that of the whole run, until the guard is dropped.
    pub fn listen(&self) -> DefaultGuard {
        set_default(Listener(self.clone()))
    }

    /// Errors and warnings so far.
    pub fn counts(&self) -> (u64, u64) {
        let heard = self.heard.lock();
        (heard.errors.count, heard.warnings.count)
    }

    /// What `LG-1` objects to.
    pub fn objection(&self, nothing_fails: bool) -> Option<String> {
        let heard = self.heard.lock();
        heard.errors.told("errors were logged").or_else(|| heard.warnings.told("warnings were logged").filter(|_| nothing_fails))
    }
}

struct Listener(Log);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().split("::").next() == Some(PRODUCT)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let mut words = Words::default();
        event.record(&mut words);
        if words.message.contains(DEAD) || words.fields.contains(DEAD) {
            return;
        }
        event!(self.0.trace, "log", "level={level} target={target} message=\"{}\"", words.message);
        let line = format!("{target}: {}{}", words.message, words.fields);
        let mut heard = self.0.heard.lock();
        match *level {
            Level::ERROR => heard.errors.add(line),
            _ => heard.warnings.add(line),
        }
    }

    // Spans of these levels do not exist.
    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// An event's message and its other fields.
#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        use fmt::Write as _;
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::StillClock;

    fn heard(speak: impl Fn()) -> (Log, Trace) {
        let trace = Trace::new(Arc::new(StillClock), 0..100);
        let log = Log::new(&trace);
        let listening = log.listen();
        speak();
        drop(listening);
        tracing::error!(target: "palimpsest::late", "nobody listens any more");
        (log, trace)
    }

    #[test]
    fn an_error_is_objected_to_always_and_a_warning_where_nothing_fails() {
        let (log, _) = heard(|| tracing::error!(target: "palimpsest::wal", lsn = 8, "the log ends"));
        let objection = Some("1 errors were logged: palimpsest::wal: the log ends lsn=8".to_string());
        assert_eq!((log.objection(false), log.objection(true)), (objection.clone(), objection));
        let (log, _) = heard(|| tracing::warn!(target: "palimpsest::wal", "the log grows"));
        assert_eq!((log.objection(false), log.counts()), (None, (0, 1)));
        assert!(log.objection(true).is_some_and(|text| text.contains("the log grows")));
        let (log, _) = heard(|| {
            tracing::info!(target: "palimpsest::wal", "all is well");
            tracing::error!(target: "hyper::server", "somebody else's");
        });
        assert_eq!(log.objection(true), None);
        let (log, _) = heard(|| tracing::error!(target: "palimpsest::wal", error = DEAD, "the last words of the dead"));
        assert_eq!(log.objection(true), None);
    }

    #[test]
    fn the_trace_has_what_stands_in_the_source() {
        let (_, trace) = heard(|| tracing::warn!(target: "palimpsest::wal", error = "No such file (os error 2)", "the log is gone"));
        let line = "            0 product/0 - log level=WARN target=palimpsest::wal message=\"the log is gone\"";
        assert_eq!(trace.summary().text, [line]);
    }
}
