//! A line on standard error that moves while work lasts. Nothing is drawn unless that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);

/// Work under way; the line goes away with it.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Work of unknown length.
    pub fn spinner(message: impl Into<String>) -> Progress {
        Progress::start(ProgressBar::no_length(), "{spinner} {msg} {elapsed}", message.into())
    }

    /// Bytes that come in, without a known end.
    pub fn stream(message: impl Into<String>) -> Progress {
        Progress::start(ProgressBar::no_length(), "{spinner} {msg} {bytes} ({bytes_per_sec}) {elapsed}", message.into())
    }

    /// Bytes of a known total.
    pub fn bytes(message: impl Into<String>, total: u64) -> Progress {
        Progress::start(ProgressBar::new(total), "{msg} [{bar:30}] {bytes}/{total_bytes} ({bytes_per_sec}, {eta} left)", message.into())
    }

    fn start(bar: ProgressBar, template: &str, message: String) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        bar.set_draw_target(ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(message);
        bar.enable_steady_tick(TICK);
        Progress(Some(bar))
    }

    pub fn add(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
