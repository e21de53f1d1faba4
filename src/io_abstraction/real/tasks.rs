//! Tokio's scheduler and its thread pool for blocking work.

use crate::io_abstraction::tasks::{Abort, Spawner};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::panic::AssertUnwindSafe;

pub struct TokioSpawner;

struct Handle(tokio::task::AbortHandle);

impl Abort for Handle {
    fn abort(&self) {
        self.0.abort();
    }
}

/// A panic means that an invariant is broken: the process ends rather than run on with half a state.
fn die(name: &str) -> ! {
    tracing::error!(task = name, "task panicked; stopping the process");
    std::process::abort()
}

impl Spawner for TokioSpawner {
    fn spawn(&self, name: &str, future: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        let name = name.to_string();
        let guarded = async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                die(&name);
            }
        };
        Box::new(Handle(tokio::spawn(guarded).abort_handle()))
    }

    fn blocking(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let name = name.to_string();
        let handle = tokio::task::spawn_blocking(work);
        Box::pin(async move {
            if handle.await.is_err() {
                die(&name);
            }
        })
    }
}
