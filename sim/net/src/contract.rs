//! The contract suite on this world's seams, with several seeds and networks; and what only a network of finite buffers shows.

use crate::driver::{SEGMENTS, isolated};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use palimpsest::io_abstraction::{Address, ClockExt as _, Env};
use sim_core::contract::machine::{self, Check, MACHINE};
use sim_core::plan::NetworkKnobs;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SEGMENT: u32 = 1000;

fn run(seed: u64, check: Check) -> Result<u64, String> {
    let knobs = NetworkKnobs { latency_ms_min: 1, latency_ms_max: 1 + seed, tick_ms: 1 + seed % 5, segment_bytes: SEGMENT };
    isolated(seed, &knobs, move |world| async move { machine::run(world, seed, check).await })
}

#[test]
fn the_contract_holds() {
    for (name, check) in machine::ALL {
        for seed in 0..20 {
            run(seed, check).unwrap_or_else(|panic| panic!("{name}, seed {seed}: {panic}"));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for (name, check) in machine::ALL {
        assert_eq!(run(1, check), run(1, check), "{name}");
    }
    let (_, net) = machine::ALL[1];
    assert_ne!(run(1, net), run(2, net));
}

/// A peer that does not read stops the writer; one that reads again, or goes, lets it go on; the end arrives after all bytes.
fn back_pressure(env: Env) -> BoxFuture<'static, ()> {
    async move {
        let limit = Duration::from_secs(5);
        let window = SEGMENTS * SEGMENT as usize;
        let mut listener = env.net.listen(&Address::tcp("0.0.0.0", 7)).await.expect("listens");
        for reads in [true, false] {
            let (net, clock) = (env.net.clone(), env.clock.clone());
            let writer = async move {
                let mut stream = net.connect(&Address::tcp(MACHINE, 7)).await.expect("connects");
                let bytes = vec![1; window * 2];
                assert!(clock.timeout(limit, stream.write_all(&bytes)).await.is_err(), "the window is full");
                let rest = clock.timeout(limit * 4, stream.write_all(&bytes[window..])).await.expect("it ends");
                if reads {
                    rest.expect("there is room again");
                } else {
                    rest.expect_err("the peer is gone");
                }
            };
            let task = env.tasks.spawn("writer", writer);
            let (mut stream, _) = env.clock.timeout(limit, listener.accept()).await.expect("in time").expect("accepts");
            env.clock.sleep(limit * 2).await;
            if reads {
                let mut all = Vec::new();
                env.clock.timeout(limit * 10, stream.read_to_end(&mut all)).await.expect("the end arrives").expect("reads");
                assert!(all.len() >= window * 2, "{}", all.len());
            }
            drop(stream);
            env.clock.timeout(limit * 10, task.join()).await.expect("the writer ends");
        }
    }
    .boxed()
}

#[test]
fn buffers_are_finite() {
    for seed in 0..5 {
        run(seed, back_pressure).unwrap_or_else(|panic| panic!("seed {seed}: {panic}"));
    }
}

/// More connections than a listener's queue holds wait for their turn.
fn storm(env: Env) -> BoxFuture<'static, ()> {
    async move {
        let mut listener = env.net.listen(&Address::tcp("0.0.0.0", 7)).await.expect("listens");
        let count = SEGMENTS * 2;
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let net = env.net.clone();
                env.tasks.spawn("client", async move { drop(net.connect(&Address::tcp(MACHINE, 7)).await.expect("connects")) })
            })
            .collect();
        env.clock.sleep(Duration::from_millis(500)).await;
        for _ in 0..count {
            env.clock.timeout(Duration::from_secs(60), listener.accept()).await.expect("in time").expect("accepts");
        }
        for task in tasks {
            task.join().await;
        }
    }
    .boxed()
}

#[test]
fn a_storm_of_connections_is_survived() {
    run(1, storm).unwrap_or_else(|panic| panic!("{panic}"));
}
