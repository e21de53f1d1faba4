//! The backend: madsim's scheduler, clock and network behind `sim_core::world::World`.
//!
//! madsim picks the next runnable task at random and jumps its clock to the next event. One madsim node is one host; a
//! host's generation counts its kills, so that destructors of a killed host start nothing on its successor.

use crate::net::MadNet;
use futures::future::BoxFuture;
use madsim::net::NetSim;
use madsim::runtime::Handle;
use madsim::task::NodeId;
use madsim::time::TimeHandle;
use palimpsest::io_abstraction::tasks::Abort;
use palimpsest::io_abstraction::{Clock, Mono, Net, Tasks, Wall};
use parking_lot::Mutex;
use sim_core::tasks::{Household, Start, named, named_tasks};
use sim_core::world::{Death, LinkState, World};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// Wall time at the start of every run: 2026-01-01 00:00 UTC, in microseconds.
const EPOCH_MICROS: i64 = 1_767_225_600_000_000;

#[derive(Clone, Copy)]
struct Entry {
    id: NodeId,
    ip: IpAddr,
    generation: u64,
    next_port: u16,
}

/// First port that is given to a listener that asks for any.
const FIRST_FREE_PORT: u16 = 40_000;

/// The hosts by name.
#[derive(Default)]
pub struct Directory(Mutex<BTreeMap<String, Entry>>);

impl Directory {
    pub fn ip(&self, host: &str) -> Option<IpAddr> {
        self.0.lock().get(host).map(|e| e.ip)
    }

    /// A port that nobody on this host was given before.
    pub fn free_port(&self, host: &str) -> u16 {
        let mut hosts = self.0.lock();
        let entry = hosts.get_mut(host).expect("only known hosts listen");
        entry.next_port = entry.next_port.checked_add(1).unwrap_or(FIRST_FREE_PORT);
        entry.next_port
    }

    fn entry(&self, host: &str) -> Entry {
        match self.0.lock().get(host) {
            Some(entry) => *entry,
            None => panic!("there is no host {host}"),
        }
    }
}

pub struct MadWorld {
    handle: Handle,
    directory: Arc<Directory>,
    clock: Arc<MadClock>,
}

impl MadWorld {
    /// Must be called inside a madsim runtime.
    pub fn new() -> Arc<MadWorld> {
        let clock = Arc::new(MadClock(TimeHandle::current()));
        Arc::new(MadWorld { handle: Handle::current(), directory: Arc::default(), clock })
    }
}

impl World for MadWorld {
    fn name(&self) -> &'static str {
        "sched"
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn add_host(&self, name: &str) {
        let mut hosts = self.directory.0.lock();
        let number = u8::try_from(hosts.len() + 1).expect("a simulated network has few hosts");
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
        let node = self.handle.create_node().name(name).ip(ip).build();
        hosts.insert(name.to_string(), Entry { id: node.id(), ip, generation: 0, next_port: FIRST_FREE_PORT });
    }

    fn tasks(&self, host: &str, household: &Household) -> Tasks {
        let entry = self.directory.entry(host);
        let start = HostStart {
            handle: self.handle.clone(),
            directory: self.directory.clone(),
            host: host.to_string(),
            generation: entry.generation,
        };
        named_tasks(Arc::new(start), self.clock(), household)
    }

    fn net(&self, host: &str) -> Arc<dyn Net> {
        Arc::new(MadNet { host: host.to_string(), directory: self.directory.clone() })
    }

    fn start(&self, host: &str, main: BoxFuture<'static, ()>) {
        let id = self.directory.entry(host).id;
        self.handle.restart(id);
        let node = self.handle.get_node(id).expect("a node that was created exists");
        node.spawn(named("main", main));
    }

    fn kill(&self, host: &str, _death: Death) {
        if let Some(entry) = self.directory.0.lock().get_mut(host) {
            entry.generation += 1;
        }
        self.handle.kill(self.directory.entry(host).id);
    }

    /// A clogged link keeps its bytes and sends them later: nothing is ever lost.
    fn set_link(&self, a: &str, b: &str, state: LinkState) -> bool {
        let net = NetSim::current();
        let (a, b) = (self.directory.entry(a).id, self.directory.entry(b).id);
        let clogged = match state {
            LinkState::Open => [false, false],
            LinkState::Held => [true, true],
            LinkState::LostOneWay => [true, false],
            LinkState::Lost => return false,
        };
        for ((from, to), clogged) in [(a, b), (b, a)].into_iter().zip(clogged) {
            if clogged { net.clog_link(from, to) } else { net.unclog_link(from, to) }
        }
        true
    }

    fn freeze(&self, host: &str, frozen: bool) {
        let id = self.directory.entry(host).id;
        if frozen { self.handle.pause(id) } else { self.handle.resume(id) }
    }

    fn tells_of_deaths(&self) -> bool {
        false
    }
}

struct HostStart {
    handle: Handle,
    directory: Arc<Directory>,
    host: String,
    generation: u64,
}

/// A task, or nothing if the host was dead already.
struct MadTask(Option<madsim::task::AbortHandle>);

impl Abort for MadTask {
    fn abort(&self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}

impl Start for HostStart {
    fn start(&self, future: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        let entry = self.directory.entry(&self.host);
        if entry.generation != self.generation {
            return Box::new(MadTask(None));
        }
        let node = self.handle.get_node(entry.id).expect("a node that was created exists");
        Box::new(MadTask(Some(node.spawn(future).abort_handle())))
    }
}

struct MadClock(TimeHandle);

impl Clock for MadClock {
    fn mono(&self) -> Mono {
        Mono(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> Wall {
        Wall(EPOCH_MICROS + i64::try_from(self.0.elapsed().as_micros()).unwrap_or(i64::MAX / 2))
    }

    fn sleep_until(&self, at: Mono) -> BoxFuture<'static, ()> {
        let time = self.0.clone();
        Box::pin(async move {
            // madsim sleeps at least a millisecond; an instant that has passed needs no sleep.
            let now = u64::try_from(time.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if at.0 > now {
                time.sleep(Duration::from_nanos(at.0 - now)).await;
            }
        })
    }
}
