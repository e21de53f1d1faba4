//! Runs the suite on a machine of a world.

use super::{disk, net, store, tasks};
use crate::trace::Trace;
use crate::world::{Cluster, World};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use palimpsest::io_abstraction::{Env, RngSource};
use std::path::Path;
use std::sync::Arc;

/// One check. Panics at the first difference from the contract.
pub type Check = fn(Env) -> BoxFuture<'static, ()>;

/// Every check, for a machine called [`MACHINE`].
pub const ALL: [(&str, Check); 4] = [("clock and tasks", clock_and_tasks), ("net", streams), ("disk", files), ("store", objects)];

pub const MACHINE: &str = "node";

fn clock_and_tasks(env: Env) -> BoxFuture<'static, ()> {
    async move { tasks::run(&env.clock, &env.tasks).await }.boxed()
}

fn streams(env: Env) -> BoxFuture<'static, ()> {
    async move {
        let seams = net::Seams { net: env.net, tasks: env.tasks, clock: env.clock };
        net::run(&seams, "127.0.0.1").await;
        net::run(&seams, MACHINE).await;
    }
    .boxed()
}

fn files(env: Env) -> BoxFuture<'static, ()> {
    async move {
        let dir = Path::new("/contract");
        env.disk.create_dir_all(dir).expect("creates");
        disk::run(&*env.disk, dir);
    }
    .boxed()
}

fn objects(env: Env) -> BoxFuture<'static, ()> {
    async move { store::run(&*env.store).await }.boxed()
}

/// Runs one of them. Gives the digest of its trace.
pub async fn run(world: Arc<dyn World>, seed: u64, check: Check) -> u64 {
    let trace = Trace::new(world.clock(), 0..0);
    let cluster = Cluster::new(world, trace.clone(), RngSource::new(u128::from(seed)), None);
    cluster.add_host(MACHINE);
    let (send, receive) = tokio::sync::oneshot::channel();
    let inner = cluster.clone();
    let main = async move {
        check(inner.env(MACHINE)).await;
        let _ = send.send(());
    };
    cluster.start(MACHINE, Box::pin(main));
    receive.await.expect("the check runs to its end");
    trace.summary().digest
}
