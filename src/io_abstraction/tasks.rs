//! Concurrency: named tasks, scopes that end all of theirs, and work that may block.

use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

/// Starts tasks.
///
/// A spawned task runs until it ends or is aborted; a panic inside it must not be swallowed (`real`: logged and the process
/// aborts; simulator: the run fails). `blocking` runs the closure to its end even when the returned future is dropped; it
/// completes the future after the closure returned. A node waits for all of that before it lets its data directory go.
pub trait Spawner: Send + Sync {
    fn spawn(&self, name: &str, future: BoxFuture<'static, ()>) -> Box<dyn Abort>;
    fn blocking(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// Stops a task at its next await point; its destructors run.
pub trait Abort: Send + Sync {
    fn abort(&self);
}

/// Handle of the node's [`Spawner`].
#[derive(Clone)]
pub struct Tasks {
    spawner: Arc<dyn Spawner>,
    working: Arc<Working>,
}

/// Blocking work that has not returned.
#[derive(Default)]
struct Working {
    count: Mutex<u64>,
    none: Notify,
}

/// One piece of it.
struct Work(Arc<Working>);

impl Drop for Work {
    fn drop(&mut self) {
        let mut count = self.0.count.lock();
        *count -= 1;
        if *count == 0 {
            self.0.none.notify_waiters();
        }
    }
}

/// A running task. Dropping the handle lets it run on.
pub struct Task {
    abort: Box<dyn Abort>,
    done: oneshot::Receiver<()>,
}

impl Task {
    pub fn abort(&self) {
        self.abort.abort();
    }

    /// Waits until the task has ended, in whichever way.
    pub async fn join(self) {
        // An error means that the task was dropped before its end, which is an end too.
        let _ = self.done.await;
    }
}

impl Tasks {
    pub fn new(spawner: Arc<dyn Spawner>) -> Tasks {
        Tasks { spawner, working: Arc::default() }
    }

    pub fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) -> Task {
        let (ended, done) = oneshot::channel();
        let wrapped = async move {
            future.await;
            let _ = ended.send(());
        };
        Task { abort: self.spawner.spawn(name, Box::pin(wrapped)), done }
    }

    /// Runs work that computes long or calls the disk's synchronous face.
    pub async fn blocking<T: Send + 'static>(&self, name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        *self.working.count.lock() += 1;
        let working = Work(self.working.clone());
        let whole = move || {
            *filled.lock() = Some(work());
            drop(working);
        };
        self.spawner.blocking(name, Box::new(whole)).await;
        let value = slot.lock().take();
        value.expect("blocking work completes its future only after it returned")
    }

    /// Completes when no blocking work runs. What nobody waits for any more goes on to its end, and may still change files.
    pub async fn blocking_done(&self) {
        loop {
            let none = self.working.none.notified();
            tokio::pin!(none);
            none.as_mut().enable();
            if *self.working.count.lock() == 0 {
                return;
            }
            none.await;
        }
    }
}

/// Lets other tasks run, then goes on.
///
/// Tokio's own function puts the waker aside until Tokio's scheduler is idle, which under another executor is never.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Owns tasks that must not outlive something: a timeline, a tenant, a connection listener.
pub struct Scope {
    tasks: Tasks,
    cancel: CancellationToken,
    running: Mutex<Vec<Task>>,
}

impl Scope {
    pub fn new(tasks: &Tasks) -> Scope {
        Scope { tasks: tasks.clone(), cancel: CancellationToken::new(), running: Mutex::default() }
    }

    /// Cancelled when the scope shuts down. Tasks that must end cleanly watch it.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Starts a task of this scope. It gets the token and has to end soon after it is cancelled.
    pub fn spawn<F>(&self, name: &str, start: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.tasks.spawn(name, start(self.cancel.clone()));
        let mut running = self.running.lock();
        running.retain_mut(|t| t.done.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        running.push(task);
    }

    /// Cancels the token and waits for every task to end.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        loop {
            let Some(task) = self.running.lock().pop() else { return };
            task.join().await;
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[cfg(test)]
mod tests {
    use crate::io_abstraction::real;
    use futures::FutureExt as _;
    use object_store::memory::InMemory;
    use std::sync::{Arc, mpsc};

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_waited_for_at_the_end() {
        let tasks = real::env(Arc::new(InMemory::new())).unwrap().tasks;
        let (go, wait) = mpsc::channel::<()>();
        let (tell, done) = mpsc::channel();
        let mut given_up = Box::pin(tasks.blocking("work", move || {
            wait.recv().unwrap();
            tell.send("done").unwrap();
        }));
        assert!((&mut given_up).now_or_never().is_none());
        drop(given_up);
        assert!(tasks.blocking_done().now_or_never().is_none());
        go.send(()).unwrap();
        tasks.blocking_done().await;
        assert_eq!(done.try_recv(), Ok("done"));
    }
}
