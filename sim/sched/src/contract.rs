//! The contract suite on this world's seams.

use crate::runtime::isolated;
use crate::world::MadWorld;
use palimpsest::io_abstraction::RngSource;
use sim_core::contract;
use sim_core::trace::Trace;
use sim_core::world::{Cluster, World as _};
use std::path::Path;
use std::sync::Arc;

/// Runs `check` on a simulated host, under several schedules.
fn on_a_host<F: Future<Output = ()> + Send + 'static>(check: fn(Cluster) -> F) {
    for seed in 0..20 {
        isolated(seed, move || async move {
            let world = MadWorld::new();
            let trace = Trace::new(world.clock(), 0..0);
            let cluster = Cluster::new(world, trace, RngSource::new(u128::from(seed)), None);
            cluster.add_host("node");
            let (send, receive) = tokio::sync::oneshot::channel();
            let inner = cluster.clone();
            let main = async move {
                check(inner).await;
                let _ = send.send(());
            };
            cluster.start("node", Box::pin(main));
            receive.await.expect("the check runs to its end");
        })
        .unwrap_or_else(|panic| panic!("seed {seed}: {panic}"));
    }
}

#[test]
fn clock_and_tasks() {
    on_a_host(|cluster| async move {
        let env = cluster.env("node");
        contract::tasks::run(&env.clock, &env.tasks).await;
    });
}

#[test]
fn net() {
    on_a_host(|cluster| async move {
        let env = cluster.env("node");
        let seams = contract::net::Seams { net: env.net, tasks: env.tasks, clock: env.clock };
        contract::net::run(&seams, "127.0.0.1").await;
        contract::net::run(&seams, "node").await;
    });
}

#[test]
fn disk_and_store() {
    on_a_host(|cluster| async move {
        let env = cluster.env("node");
        let dir = Path::new("/contract");
        env.disk.create_dir_all(dir).expect("creates");
        contract::disk::run(&*env.disk, dir);
        contract::store::run(&*env.store).await;
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let digest = |seed: u64| {
        let slot = Arc::new(parking_lot::Mutex::new(0));
        let filled = slot.clone();
        isolated(seed, move || async move {
            let world = MadWorld::new();
            let trace = Trace::new(world.clock(), 0..0);
            let cluster = Cluster::new(world, trace.clone(), RngSource::new(u128::from(seed)), None);
            cluster.add_host("node");
            let inner = cluster.clone();
            let (send, receive) = tokio::sync::oneshot::channel();
            let main = async move {
                let env = inner.env("node");
                let seams = contract::net::Seams { net: env.net, tasks: env.tasks, clock: env.clock };
                contract::net::run(&seams, "node").await;
                contract::store::run(&*env.store).await;
                let _ = send.send(());
            };
            cluster.start("node", Box::pin(main));
            receive.await.expect("the check runs to its end");
            *filled.lock() = trace.summary().digest;
        })
        .expect("no panic");
        *slot.lock()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}
