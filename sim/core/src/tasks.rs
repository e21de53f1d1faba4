//! The spawner seam around a backend's: tasks carry their names into the trace, blocking work takes simulated time.

use crate::held::Ledger;
use crate::trace::in_task;
use futures::future::BoxFuture;
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::tasks::{Abort, Spawner};
use palimpsest::io_abstraction::{Clock, ClockExt as _, DetRng, Mono, RngSource, Tasks};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How a backend starts a task on one host.
pub trait Start: Send + Sync {
    fn start(&self, future: BoxFuture<'static, ()>) -> Box<dyn Abort>;
}

/// What the tasks of one life of a host share beside their backend.
#[derive(Clone)]
pub struct Household {
    pub source: RngSource,
    /// Work that blocks waits until then, as it does while the disk does not answer.
    pub stalled_until: Arc<AtomicU64>,
    /// Tasks that have not ended.
    pub live: Ledger,
}

struct NamedSpawner {
    start: Arc<dyn Start>,
    clock: Arc<dyn Clock>,
    household: Household,
    rng: Mutex<DetRng>,
}

/// The tasks of one host.
pub fn named_tasks(start: Arc<dyn Start>, clock: Arc<dyn Clock>, household: &Household) -> Tasks {
    let rng = Mutex::new(household.source.stream("blocking"));
    Tasks::new(Arc::new(NamedSpawner { start, clock, household: household.clone(), rng }))
}

/// Polls a future under a task name.
pub fn named(name: &str, mut future: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
    let name: Arc<str> = task_name(name);
    Box::pin(poll_fn(move |cx| in_task(&name, || future.as_mut().poll(cx))))
}

fn task_name(name: &str) -> Arc<str> {
    Arc::from(name.replace(' ', "_"))
}

impl NamedSpawner {
    fn run(&self, name: &str, future: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        let alive = self.household.live.hold(&task_name(name));
        let counted = async move {
            let _alive = alive;
            future.await;
        };
        self.start.start(named(name, Box::pin(counted)))
    }
}

impl Spawner for NamedSpawner {
    fn spawn(&self, name: &str, future: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        self.run(name, future)
    }

    /// Runs the work at once in a task of its own, between two delays: other tasks run before it, and after it before
    /// its caller goes on.
    fn blocking(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let (before, after) = {
            let mut rng = self.rng.lock();
            (below(&mut rng, 200), below(&mut rng, 800))
        };
        let (clock, stalled_until) = (self.clock.clone(), self.household.stalled_until.clone());
        let (send, receive) = tokio::sync::oneshot::channel();
        let body = async move {
            clock.sleep(Duration::from_micros(before)).await;
            clock.sleep_until(Mono(stalled_until.load(Ordering::Relaxed))).await;
            work();
            clock.sleep(Duration::from_micros(after)).await;
            // Nobody may be waiting any more, which is fine.
            let _ = send.send(());
        };
        self.run(name, Box::pin(body));
        Box::pin(async move {
            // An error means that the host was killed; then this future is not polled again either.
            if receive.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}
