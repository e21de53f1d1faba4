//! The backend: turmoil's runtimes, clock and network behind `sim_core::world::World`.

use crate::hosts::{Command, HostStart, Shared};
use crate::net::TurNet;
use futures::future::BoxFuture;
use palimpsest::io_abstraction::{Clock, Mono, Net, Tasks, Wall};
use sim_core::plan::NetworkKnobs;
use sim_core::tasks::{Household, named, named_tasks};
use sim_core::world::{Death, LinkState, World};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Wall time at the start of every run: 2026-01-01 00:00 UTC, in microseconds.
pub const EPOCH_MICROS: i64 = 1_767_225_600_000_000;

pub struct TurWorld {
    shared: Arc<Shared>,
    clock: Arc<TurClock>,
    net: Arc<crate::net::Network>,
}

impl TurWorld {
    pub fn new(shared: Arc<Shared>, knobs: &NetworkKnobs) -> Arc<TurWorld> {
        let clock = Arc::new(TurClock(shared.clone()));
        let net = Arc::new(crate::net::Network::new(shared.clone(), knobs.segment_bytes as usize));
        Arc::new(TurWorld { shared, clock, net })
    }
}

impl World for TurWorld {
    fn name(&self) -> &'static str {
        "net"
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn add_host(&self, name: &str) {
        self.shared.add(name);
    }

    fn tasks(&self, host: &str, household: &Household) -> Tasks {
        let start = HostStart { shared: self.shared.clone(), host: host.to_string(), life: self.shared.life(host) };
        named_tasks(Arc::new(start), self.clock(), household)
    }

    fn net(&self, host: &str) -> Arc<dyn Net> {
        Arc::new(TurNet { host: host.to_string(), network: self.net.clone() })
    }

    fn start(&self, host: &str, main: BoxFuture<'static, ()>) {
        let main = self.shared.gated(host, self.shared.life(host), named("main", main));
        self.shared.command(Command::Start { host: host.to_string(), main });
    }

    fn kill(&self, host: &str, death: Death) {
        self.shared.kill(host, death == Death::Silent);
    }

    fn set_link(&self, a: &str, b: &str, state: LinkState) -> bool {
        self.shared.command(Command::Link { a: a.to_string(), b: b.to_string(), state });
        true
    }

    fn freeze(&self, host: &str, frozen: bool) {
        self.shared.freeze(host, frozen);
    }

    fn tells_of_deaths(&self) -> bool {
        true
    }
}

/// Inside a step the time of the machine that is polled, else the time at which the last step ended.
struct TurClock(Arc<Shared>);

impl TurClock {
    fn nanos(&self) -> u64 {
        let machine = self.0.stepping.load(Ordering::Relaxed).then(turmoil::sim_elapsed).flatten();
        machine.map_or_else(|| self.0.elapsed.load(Ordering::Relaxed), |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Clock for TurClock {
    fn mono(&self) -> Mono {
        Mono(self.nanos())
    }

    fn wall(&self) -> Wall {
        Wall(EPOCH_MICROS + i64::try_from(self.nanos() / 1000).unwrap_or(i64::MAX / 2))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock of this world: tokio's, stepped by turmoil")]
    fn sleep_until(&self, at: Mono) -> BoxFuture<'static, ()> {
        let clock = TurClock(self.0.clone());
        Box::pin(async move {
            let now = clock.nanos();
            if at.0 > now {
                tokio::time::sleep(Duration::from_nanos(at.0 - now)).await;
            }
        })
    }
}
