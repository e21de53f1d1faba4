//! Assertions about `Clock` and `Tasks`.

use palimpsest::io_abstraction::{Clock, ClockExt as _, Mono, Scope, Tasks};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs all of them.
pub async fn run(clock: &Arc<dyn Clock>, tasks: &Tasks) {
    time_goes_forward(clock).await;
    sleeps_end_in_order(clock, tasks).await;
    timeouts(clock).await;
    joining(clock, tasks).await;
    aborting(clock, tasks).await;
    blocking(clock, tasks).await;
    abandoned_blocking_work_runs_on(clock, tasks).await;
    scopes(clock, tasks).await;
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

async fn time_goes_forward(clock: &Arc<dyn Clock>) {
    let (start, wall) = (clock.mono(), clock.wall());
    clock.sleep(ms(20)).await;
    assert!(clock.mono().since(start) >= ms(20), "a sleep never ends early");
    assert!(clock.wall().0 - wall.0 >= 19_000, "the wall clock moves along");
    assert!(wall.unix_seconds() > 1_600_000_000, "the wall clock is set");
    let late = clock.mono();
    clock.sleep_until(Mono(0)).await;
    clock.sleep_until(late).await;
    assert!(clock.mono() >= late, "an instant in the past is reached at once");
}

async fn sleeps_end_in_order(clock: &Arc<dyn Clock>, tasks: &Tasks) {
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut started = Vec::new();
    for delay in [300, 100, 200] {
        let (clock, order) = (clock.clone(), order.clone());
        started.push(tasks.spawn("sleeper", async move {
            clock.sleep(ms(delay)).await;
            order.lock().push(delay);
        }));
    }
    for task in started {
        task.join().await;
    }
    assert_eq!(*order.lock(), [100, 200, 300]);
}

async fn timeouts(clock: &Arc<dyn Clock>) {
    assert_eq!(clock.timeout(LIMIT, std::future::ready(7)).await, Ok(7));
    let elapsed = clock.timeout(ms(20), std::future::pending::<()>()).await;
    assert_eq!(elapsed.map_err(|e| e.0), Err(ms(20)));
    assert_eq!(clock.timeout(LIMIT, clock.sleep(ms(5))).await, Ok(()));
}

async fn joining(clock: &Arc<dyn Clock>, tasks: &Tasks) {
    let done = Arc::new(AtomicBool::new(false));
    let (seen, inner) = (done.clone(), clock.clone());
    let task = tasks.spawn("joined", async move {
        inner.sleep(ms(30)).await;
        seen.store(true, Ordering::SeqCst);
    });
    task.join().await;
    assert!(done.load(Ordering::SeqCst), "join waits for the end");
    let seen = done.clone();
    drop(tasks.spawn("detached", async move { seen.store(false, Ordering::SeqCst) }));
    clock.sleep(ms(50)).await;
    assert!(!done.load(Ordering::SeqCst), "a task runs on when its handle is dropped");
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

async fn aborting(clock: &Arc<dyn Clock>, tasks: &Tasks) {
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = SetOnDrop(dropped.clone());
    let task = tasks.spawn("aborted", async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    clock.sleep(ms(10)).await;
    task.abort();
    clock.timeout(LIMIT, task.join()).await.expect("an aborted task ends");
    assert!(dropped.load(Ordering::SeqCst), "its destructors run");
}

async fn blocking(clock: &Arc<dyn Clock>, tasks: &Tasks) {
    assert_eq!(tasks.blocking("compute", || 6 * 7).await, 42);
    let work = (0..5u32).map(|n| tasks.blocking("many", move || n * n));
    let all = clock.timeout(LIMIT, futures::future::join_all(work)).await.expect("in time");
    assert_eq!(all, [0, 1, 4, 9, 16]);
}

async fn abandoned_blocking_work_runs_on(clock: &Arc<dyn Clock>, tasks: &Tasks) {
    let ran = Arc::new(AtomicBool::new(false));
    let seen = ran.clone();
    {
        let mut work = Box::pin(tasks.blocking("abandoned", move || seen.store(true, Ordering::SeqCst)));
        // Started, then dropped at once.
        let _ = futures::poll!(&mut work);
    }
    for _ in 0..3000 {
        if ran.load(Ordering::SeqCst) {
            return;
        }
        clock.sleep(ms(10)).await;
    }
    panic!("blocking work runs to its end even if nobody waits for it");
}

async fn scopes(clock: &Arc<dyn Clock>, tasks: &Tasks) {
    let ended = Arc::new(AtomicU32::new(0));
    let scope = Scope::new(tasks);
    for _ in 0..3 {
        let (ended, clock) = (ended.clone(), clock.clone());
        scope.spawn("member", |cancel| async move {
            cancel.cancelled().await;
            clock.sleep(ms(10)).await;
            ended.fetch_add(1, Ordering::SeqCst);
        });
    }
    clock.timeout(LIMIT, scope.shutdown()).await.expect("a scope shuts down");
    assert_eq!(ended.load(Ordering::SeqCst), 3, "shutdown waits for every task");
}
