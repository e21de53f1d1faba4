//! What a backend gives: hosts with a clock, tasks and a network. Everything else of a host is made here.

use crate::clock::{HostClock, WallOffset};
use crate::disk::{CrashKind, SimDisk};
use crate::event;
use crate::held::Ledger;
use crate::log::Log;
use crate::net::{Connections, TracedNet};
use crate::probe::{Planted, SimProbe};
use crate::redo::{RedoFaults, SimRedo};
use crate::store::SimStore;
use crate::tasks::Household;
use crate::trace::{HostTrace, Trace};
use async_trait::async_trait;
use futures::future::BoxFuture;
use palimpsest::io_abstraction::process::{Child, Command, Output};
use palimpsest::io_abstraction::{Clock, Env, Mono, Net, Process, RngSource, Tasks};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A backend: one deterministic scheduler with a network.
pub trait World: Send + Sync {
    /// Name on the command line and in reports.
    fn name(&self) -> &'static str;
    /// Time since the start of the run.
    fn clock(&self) -> Arc<dyn Clock>;
    /// Adds a machine. Names are the network's host names.
    fn add_host(&self, name: &str);
    /// Tasks of this machine's present life.
    fn tasks(&self, host: &str, household: &Household) -> Tasks;
    /// The network as seen from this machine.
    fn net(&self, host: &str) -> Arc<dyn Net>;
    /// Runs `main` as the first task of the machine, which is new or was killed.
    fn start(&self, host: &str, main: BoxFuture<'static, ()>);
    /// Ends every task of the machine at once and closes its sockets.
    fn kill(&self, host: &str, death: Death);
    /// Changes what happens to the bytes between two machines. Gives false if this world has no such thing.
    fn set_link(&self, a: &str, b: &str, state: LinkState) -> bool;
    /// Stops (or lets go on) every task of the machine; time goes on.
    fn freeze(&self, host: &str, frozen: bool);
    /// Peers of a machine that goes down learn of it as in reality: if not, all its connections are reset instead.
    fn tells_of_deaths(&self) -> bool;
}

/// How a machine's sockets end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The kernel closes them: peers are told, and whoever connects is refused.
    Closed,
    /// The machine is gone: nobody answers.
    Silent,
}

/// What happens to the bytes between two machines, `a` and `b`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LinkState {
    #[default]
    Open,
    /// They wait until the link is open again.
    Held,
    /// They are lost for good, also those of open streams, which are of no use any more.
    Lost,
    /// Those from `a` to `b` do not arrive.
    LostOneWay,
}

/// The machines of one run.
#[derive(Clone)]
pub struct Cluster {
    pub world: Arc<dyn World>,
    pub trace: Trace,
    pub store: SimStore,
    pub connections: Connections,
    pub source: RngSource,
    pub planted: Planted,
    pub redo_faults: RedoFaults,
    pub log: Log,
    hosts: Arc<Mutex<BTreeMap<String, Host>>>,
}

struct Host {
    disk: SimDisk,
    probe: Arc<SimProbe>,
    wall_offset: WallOffset,
    stalled_until: Arc<AtomicU64>,
    /// Tasks of the present life.
    live: Ledger,
    /// What else the present life holds.
    held: Ledger,
}

/// Size of every simulated disk in bytes.
pub const DISK_CAPACITY: u64 = 4 << 30;

impl Cluster {
    /// `source` is derived from the seed; `planted` names the bug that is switched on, if any.
    pub fn new(world: Arc<dyn World>, trace: Trace, source: RngSource, planted: Planted) -> Cluster {
        let store = SimStore::new(world.clock());
        let log = Log::new(&trace);
        Cluster {
            world,
            trace,
            store,
            connections: Connections::default(),
            source,
            planted,
            redo_faults: RedoFaults::default(),
            log,
            hosts: Arc::default(),
        }
    }

    pub fn add_host(&self, name: &str) {
        self.world.add_host(name);
        let disk = SimDisk::new(self.source.child(name).child("disk"), DISK_CAPACITY);
        let host = Host {
            disk,
            probe: Arc::default(),
            wall_offset: WallOffset::default(),
            stalled_until: Arc::default(),
            live: Ledger::default(),
            held: Ledger::default(),
        };
        let previous = self.hosts.lock().insert(name.to_string(), host);
        assert!(previous.is_none(), "host {name} was added twice");
    }

    pub fn disk(&self, host: &str) -> SimDisk {
        self.with_host(host, |h| h.disk.clone())
    }

    /// How often each mark was reached on this host, over all incarnations.
    pub fn marks(&self, host: &str) -> BTreeMap<&'static str, u64> {
        self.with_host(host, |h| h.probe.marks())
    }

    /// Names of the tasks of the host's present life that have not ended.
    pub fn live_tasks(&self, host: &str) -> Vec<String> {
        self.with_host(host, |h| h.live.names())
    }

    /// Files, listeners, connections, children and requests that the host's present life has not let go.
    pub fn held(&self, host: &str) -> Vec<String> {
        self.with_host(host, |h| h.held.names())
    }

    /// The wall clock of the host jumps.
    pub fn jump_wall_clock(&self, host: &str, by_ms: i64) {
        self.with_host(host, |h| h.wall_offset.fetch_add(by_ms * 1000, Ordering::Relaxed));
    }

    /// The host's disk answers nobody before `until`.
    pub fn stall_disk(&self, host: &str, until: Mono) {
        self.with_host(host, |h| h.stalled_until.fetch_max(until.0, Ordering::Relaxed));
    }

    pub fn unstall_disk(&self, host: &str) {
        self.with_host(host, |h| h.stalled_until.store(0, Ordering::Relaxed));
    }

    /// Unusual paths of the product on this host, from now on.
    pub fn set_buggify(&self, host: &str, ppm: u32) {
        self.with_host(host, |h| h.probe.set_buggify(ppm, &self.source.child(host)));
    }

    fn with_host<T>(&self, host: &str, f: impl FnOnce(&Host) -> T) -> T {
        let hosts = self.hosts.lock();
        match hosts.get(host) {
            Some(found) => f(found),
            None => panic!("there is no host {host}"),
        }
    }

    /// The trace of the host's present incarnation.
    pub fn host_trace(&self, host: &str) -> HostTrace {
        self.trace.host(host, self.disk(host).incarnation())
    }

    /// A fresh environment for the host's present incarnation.
    pub fn env(&self, host: &str) -> Env {
        let (disk, probe) = self.with_host(host, |h| (h.disk.clone(), h.probe.clone()));
        let (offset, stalled_until) = self.with_host(host, |h| (h.wall_offset.clone(), h.stalled_until.clone()));
        let (live, held) = self.with_host(host, |h| (h.live.clone(), h.held.clone()));
        let incarnation = disk.incarnation();
        let trace = self.trace.host(host, incarnation);
        let rng = self.source.child(host).child(&format!("incarnation-{incarnation}"));
        let clock: Arc<dyn Clock> = Arc::new(HostClock { inner: self.world.clock(), offset });
        let tasks = self.world.tasks(host, &Household { source: rng.child("tasks"), stalled_until, live });
        let net = TracedNet::new(host, self.world.net(host), self.connections.clone(), (trace.clone(), held.clone()), &rng);
        Env {
            clock: clock.clone(),
            tasks: tasks.clone(),
            net: Arc::new(net),
            disk: disk.mount(trace.clone(), held.clone()),
            store: self.store.client(&rng, trace.clone(), held.clone(), disk.fuse()),
            redo: Arc::new(SimRedo::new(tasks, clock, &rng, (trace.clone(), held), self.redo_faults.clone())),
            process: Arc::new(NoPrograms),
            probe: probe.incarnation(trace, self.planted.clone()),
            metrics: Default::default(),
            rng,
        }
    }

    /// Starts the host's program.
    pub fn start(&self, host: &str, main: BoxFuture<'static, ()>) {
        event!(self.host_trace(host), "fault", "op=start");
        self.world.start(host, main);
    }

    /// Takes a host down. The disk goes first: destructors of the dying tasks must not change it.
    pub fn crash(&self, host: &str, kind: CrashKind) {
        let trace = self.host_trace(host);
        event!(trace, "fault", "op=crash kind={kind:?}");
        self.disk(host).crash(kind, &trace);
        if let Some(host) = self.hosts.lock().get_mut(host) {
            (host.live, host.held) = Default::default();
        }
        self.world.kill(host, if kind == CrashKind::ProcessCrash { Death::Closed } else { Death::Silent });
        if !self.world.tells_of_deaths() {
            self.connections.reset(|a, b| a == host || b == host);
        }
    }
}

/// No other programs exist on simulated machines.
struct NoPrograms;

#[async_trait]
impl Process for NoPrograms {
    async fn run(&self, _command: Command) -> io::Result<Output> {
        Err(io::ErrorKind::NotFound.into())
    }

    async fn spawn(&self, _command: Command) -> io::Result<Box<dyn Child>> {
        Err(io::ErrorKind::NotFound.into())
    }

    async fn give_to(&self, _user: &str, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn is_root(&self) -> bool {
        false
    }

    fn user_exists(&self, _user: &str) -> bool {
        false
    }

    fn variable(&self, _name: &str) -> Option<String> {
        None
    }
}
