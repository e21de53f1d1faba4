//! The process itself: its runtime, its signals, its environment.

use std::future::Future;

/// Runs the program's one future on a multi-threaded runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("the machine can start threads");
    runtime.block_on(future)
}

/// Completes with the name of the signal that asks the process to end.
pub async fn termination() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be watched");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be watched");
    tokio::select! {
        biased;
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// `RUST_LOG`, if it is set.
pub fn log_filter() -> Option<String> {
    std::env::var("RUST_LOG").ok()
}
