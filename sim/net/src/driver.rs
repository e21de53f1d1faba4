//! One run: a fresh thread, turmoil's simulation on it, and between two of its steps whatever the harness ordered.

use crate::hosts::{Command, Shared};
use crate::tripwire;
use crate::world::{EPOCH_MICROS, TurWorld};
use parking_lot::Mutex;
use sim_core::backend::on_fresh_thread;
use sim_core::plan::NetworkKnobs;
use sim_core::world::LinkState;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};
use turmoil::{Builder, Sim};

/// Longest run in simulated time: the harness has bounds of its own.
const RUN_LIMIT: Duration = Duration::from_secs(1_000_000);
/// Segments that a stream holds, and connections that wait to be accepted.
pub const SEGMENTS: usize = 128;
/// Where the harness runs.
const HARNESS: &str = "harness";

/// Runs a future made by `main`. Errors: the message of a panic inside.
pub fn isolated<F, T>(seed: u64, knobs: &NetworkKnobs, main: impl FnOnce(Arc<TurWorld>) -> F + Send + 'static) -> Result<T, String>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let knobs = knobs.clone();
    on_fresh_thread(move || {
        tripwire::tame_hash_keys(seed);
        drive(seed, &knobs, main)
    })?
}

fn drive<F, T>(seed: u64, knobs: &NetworkKnobs, main: impl FnOnce(Arc<TurWorld>) -> F) -> Result<T, String>
where
    F: Future<Output = T> + 'static,
    T: 'static,
{
    let shared = Arc::new(Shared::default());
    let mut sim = Builder::new()
        .rng_seed(seed)
        .epoch(UNIX_EPOCH + Duration::from_micros(EPOCH_MICROS.unsigned_abs()))
        .simulation_duration(RUN_LIMIT)
        .tick_duration(Duration::from_millis(knobs.tick_ms.max(1)))
        .min_message_latency(Duration::from_millis(knobs.latency_ms_min))
        .max_message_latency(Duration::from_millis(knobs.latency_ms_max))
        .tcp_capacity(SEGMENTS)
        .enable_random_order()
        .build();
    let result: Arc<Mutex<Option<T>>> = Arc::default();
    let (slot, guard) = (result.clone(), shared.clone());
    let mut harness: Pin<Box<F>> = Box::pin(main(TurWorld::new(shared.clone(), knobs)));
    sim.client(HARNESS, async move {
        let value = std::future::poll_fn(|cx| guard.guarded(|| harness.as_mut().poll(cx))).await;
        *slot.lock() = Some(value);
        Ok(())
    });
    let mut links = Links::default();
    loop {
        shared.stepping.store(true, Ordering::Relaxed);
        let stepped = sim.step();
        shared.stepping.store(false, Ordering::Relaxed);
        shared.elapsed.store(u64::try_from(sim.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(panic) = shared.panic() {
            return Err(panic);
        }
        if stepped.map_err(|error| format!("turmoil: {error}"))? {
            let value = result.lock().take();
            return value.ok_or_else(|| "the harness ended without a result".to_string());
        }
        let commands = std::mem::take(&mut *shared.commands.lock());
        for command in commands {
            links.perform(&mut sim, &shared, command);
        }
    }
}

/// What the harness made of the links, each pair in order of its names.
#[derive(Default)]
struct Links {
    hosts: Vec<String>,
    states: BTreeMap<(String, String), LinkState>,
}

impl Links {
    fn perform(&mut self, sim: &mut Sim<'_>, shared: &Arc<Shared>, command: Command) {
        match command {
            Command::Add(host) => {
                let (inner, name) = (shared.clone(), host.clone());
                sim.host(host.as_str(), move || {
                    inner.boot(&name);
                    std::future::pending()
                });
                self.hosts.push(host);
            }
            Command::Start { host, main } => {
                shared.set_main(&host, main);
                sim.bounce(host.as_str());
            }
            Command::Kill { host, silent } => {
                if silent {
                    // Nothing of what its sockets say as they are dropped gets out.
                    self.others(&host).iter().for_each(|other| sim.partition(host.as_str(), other.as_str()));
                }
                sim.crash(host.as_str());
                if silent {
                    self.others(&host).iter().for_each(|other| self.restore(sim, &host, other));
                }
            }
            Command::Link { a, b, state } => {
                let old = self.states.insert((a.clone(), b.clone()), state).unwrap_or_default();
                change(sim, (&a, &b), old, state);
            }
        }
    }

    fn others(&self, host: &str) -> Vec<String> {
        self.hosts.iter().filter(|other| *other != host).cloned().collect()
    }

    /// After a partition that the harness did not order.
    fn restore(&self, sim: &Sim<'_>, a: &str, b: &str) {
        sim.repair(a, b);
        for (a, b) in [(a, b), (b, a)] {
            if let Some(state) = self.states.get(&(a.to_string(), b.to_string())) {
                change(sim, (a, b), LinkState::Open, *state);
            }
        }
    }
}

fn change(sim: &Sim<'_>, (a, b): (&str, &str), old: LinkState, new: LinkState) {
    match (old, new) {
        (LinkState::Held, LinkState::Open) => sim.release(a, b),
        (_, LinkState::Open) => sim.repair(a, b),
        (_, LinkState::Held) => sim.hold(a, b),
        (_, LinkState::Lost) => sim.partition(a, b),
        (_, LinkState::LostOneWay) => sim.partition_oneway(a, b),
    }
}
