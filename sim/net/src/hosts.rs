//! The machines, as tasks see them: which life a task belongs to, whether its machine runs, and how to start one.
//!
//! turmoil crashes a machine between two steps only, and has no way to freeze one. So every task is polled through a gate:
//! a task of an earlier life is not polled again from the moment of the kill on, and none while the machine is frozen.
//!
//! What a machine that dies drops says farewell to peers, so that the order matters. Tokio drops tasks in an order that depends on
//! numbers it gives out for the whole process; so the first that it drops takes all of its life along, oldest first.

use crate::tripwire;
use futures::future::BoxFuture;
use palimpsest::io_abstraction::tasks::Abort;
use parking_lot::Mutex;
use sim_core::backend::panic_message;
use sim_core::tasks::Start;
use sim_core::world::LinkState;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use tokio::runtime::Handle;

/// What the driver does between two steps.
pub enum Command {
    Add(String),
    Start {
        host: String,
        main: BoxFuture<'static, ()>,
    },
    /// A silent death sends no farewell to the peers.
    Kill {
        host: String,
        silent: bool,
    },
    Link {
        a: String,
        b: String,
        state: LinkState,
    },
}

/// What tasks, seams and driver share.
#[derive(Default)]
pub struct Shared {
    hosts: Mutex<BTreeMap<String, Host>>,
    pub commands: Mutex<VecDeque<Command>>,
    /// Simulated nanoseconds at the end of the last step, for whoever asks outside of one.
    pub elapsed: AtomicU64,
    /// A step is under way: the machine's own time counts.
    pub stepping: AtomicBool,
    /// The first panic of a task. Nothing is polled any more.
    panic: Mutex<Option<String>>,
    panicked: AtomicBool,
}

#[derive(Default)]
struct Gate {
    /// Counts the kills.
    life: AtomicU64,
    frozen: AtomicBool,
    parked: Mutex<Vec<Waker>>,
    /// Tasks that have not ended, by life and age.
    tasks: Mutex<BTreeMap<(u64, u64), Slot>>,
    started: AtomicU64,
}

/// What a task runs, until it ends or is dropped.
type Slot = Arc<Mutex<Option<BoxFuture<'static, ()>>>>;

#[derive(Default)]
struct Host {
    gate: Arc<Gate>,
    /// The machine's runtime, while it runs.
    runtime: Option<Handle>,
    /// Tasks that wait for it.
    waiting: Vec<BoxFuture<'static, ()>>,
    main: Option<BoxFuture<'static, ()>>,
    /// Nobody answers there: connections are refused at once.
    refuses: bool,
}

impl Shared {
    pub fn command(&self, command: Command) {
        self.commands.lock().push_back(command);
    }

    fn host<T>(&self, name: &str, f: impl FnOnce(&mut Host) -> T) -> T {
        match self.hosts.lock().get_mut(name) {
            Some(host) => f(host),
            None => panic!("there is no host {name}"),
        }
    }

    pub fn add(&self, name: &str) {
        self.hosts.lock().insert(name.to_string(), Host::default());
        self.command(Command::Add(name.to_string()));
    }

    pub fn life(&self, name: &str) -> u64 {
        self.host(name, |host| host.gate.life.load(Ordering::Relaxed))
    }

    pub fn refuses(&self, name: &str) -> bool {
        self.hosts.lock().get(name).is_some_and(|host| host.refuses)
    }

    /// Sets what the machine runs when it starts, which it is about to.
    pub fn set_main(&self, name: &str, main: BoxFuture<'static, ()>) {
        self.host(name, |host| {
            host.refuses = false;
            host.main = Some(main);
        });
    }

    /// From now on no task of this life is polled; the driver drops them after the step.
    pub fn kill(&self, name: &str, silent: bool) {
        let dropped = self.host(name, |host| {
            host.gate.life.fetch_add(1, Ordering::Relaxed);
            host.gate.frozen.store(false, Ordering::Relaxed);
            host.runtime = None;
            host.refuses = !silent;
            std::mem::take(&mut host.waiting)
        });
        drop(dropped);
        self.command(Command::Kill { host: name.to_string(), silent });
    }

    pub fn freeze(&self, name: &str, frozen: bool) {
        let gate = self.host(name, |host| host.gate.clone());
        gate.frozen.store(frozen, Ordering::Relaxed);
        if !frozen {
            let parked = std::mem::take(&mut *gate.parked.lock());
            parked.into_iter().for_each(Waker::wake);
        }
    }

    /// Called by the machine's runtime when it starts; a new machine has nothing to run yet.
    pub fn boot(&self, name: &str) {
        let runtime = Handle::current();
        let tasks = self.host(name, |host| {
            let main = host.main.take()?;
            host.runtime = Some(runtime.clone());
            Some(std::iter::once(main).chain(std::mem::take(&mut host.waiting)).collect::<Vec<_>>())
        });
        let tasks = tasks.unwrap_or_default();
        for task in tasks {
            runtime.spawn(task);
        }
    }

    /// The message of the panic that ended the run.
    pub fn panic(&self) -> Option<String> {
        self.panic.lock().clone()
    }

    /// Wraps a task of the machine's present life.
    pub fn gated(self: &Arc<Self>, name: &str, life: u64, future: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let gate = self.host(name, |host| host.gate.clone());
        let number = (life, gate.started.fetch_add(1, Ordering::Relaxed));
        let slot: Slot = Arc::new(Mutex::new(Some(future)));
        gate.tasks.lock().insert(number, slot.clone());
        Box::pin(Gated { shared: self.clone(), gate, number, slot })
    }

    /// Polls the harness, which is on no machine, with the same care.
    pub fn guarded<T>(&self, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        if self.panicked.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let watch = tripwire::watch();
        let polled = catch_unwind(AssertUnwindSafe(poll));
        drop(watch);
        polled.unwrap_or_else(|panic| {
            self.panicked.store(true, Ordering::Relaxed);
            self.panic.lock().get_or_insert(panic_message(&*panic));
            Poll::Pending
        })
    }
}

struct Gated {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    /// Life and age.
    number: (u64, u64),
    slot: Slot,
}

impl Drop for Gated {
    fn drop(&mut self) {
        let life = self.number.0;
        if self.gate.life.load(Ordering::Relaxed) == life {
            self.gate.tasks.lock().remove(&self.number);
            return;
        }
        let mut tasks = self.gate.tasks.lock();
        let of_life: Vec<(u64, u64)> = tasks.range((life, 0)..=(life, u64::MAX)).map(|(number, _)| *number).collect();
        let slots: Vec<Slot> = of_life.iter().filter_map(|number| tasks.remove(number)).collect();
        drop(tasks);
        for slot in slots {
            let future = slot.lock().take();
            drop(future);
        }
    }
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.gate.life.load(Ordering::Relaxed) != this.number.0 {
            return Poll::Pending;
        }
        if this.gate.frozen.load(Ordering::Relaxed) {
            this.gate.parked.lock().push(cx.waker().clone());
            return Poll::Pending;
        }
        let mut slot = this.slot.lock();
        let Some(future) = slot.as_mut() else { return Poll::Ready(()) };
        let polled = this.shared.guarded(|| future.as_mut().poll(cx));
        if polled.is_ready() {
            *slot = None;
        }
        polled
    }
}

/// Starts tasks of one life of a machine.
pub struct HostStart {
    pub shared: Arc<Shared>,
    pub host: String,
    pub life: u64,
}

/// A task: tokio's handle cannot be had before the machine runs, so the order to stop travels beside it.
struct Stop {
    stopped: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

struct StopTask(Arc<Stop>);

impl Abort for StopTask {
    fn abort(&self) {
        self.0.stopped.store(true, Ordering::Relaxed);
        let waker = self.0.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Stoppable {
    stop: Arc<Stop>,
    future: Option<BoxFuture<'static, ()>>,
}

impl Future for Stoppable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.stop.stopped.load(Ordering::Relaxed) {
            this.future = None;
        }
        let Some(future) = &mut this.future else { return Poll::Ready(()) };
        if future.as_mut().poll(cx).is_ready() {
            this.future = None;
            return Poll::Ready(());
        }
        *this.stop.waker.lock() = Some(cx.waker().clone());
        // It may have stopped itself.
        if this.stop.stopped.load(Ordering::Relaxed) { self.poll(cx) } else { Poll::Pending }
    }
}

impl Start for HostStart {
    fn start(&self, future: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        let stop = Arc::new(Stop { stopped: AtomicBool::new(false), waker: Mutex::default() });
        let stoppable = Box::pin(Stoppable { stop: stop.clone(), future: Some(future) });
        // A destructor of a life that is over starts nothing in the next one.
        if self.shared.life(&self.host) == self.life {
            let gated = self.shared.gated(&self.host, self.life, stoppable);
            let runtime = self.shared.host(&self.host, |host| host.runtime.clone());
            match runtime {
                Some(runtime) => drop(runtime.spawn(gated)),
                None => self.shared.host(&self.host, |host| host.waiting.push(gated)),
            }
        }
        Box::new(StopTask(stop))
    }
}
