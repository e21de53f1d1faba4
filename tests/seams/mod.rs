//! The contract suite of `sim-core` against the operating system. The simulators run the same assertions.

use palimpsest::io_abstraction::{Env, real};
use sim_core::contract;

fn run<F: Future<Output = ()>>(check: impl FnOnce(Env, std::path::PathBuf) -> F) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = real::local_store(&dir.path().join("remote")).expect("opens");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let env = real::env(store).expect("the real environment");
        check(env, dir.path().to_path_buf()).await;
    });
}

#[test]
fn disk() {
    run(|env, dir| async move {
        let dir = dir.join("disk");
        env.disk.create_dir_all(&dir).expect("creates");
        contract::disk::run(&*env.disk, &dir);
    });
}

#[test]
fn store() {
    run(|env, _| async move { contract::store::run(&*env.store).await });
}

#[test]
fn net() {
    run(|env, _| async move {
        let seams = contract::net::Seams { net: env.net, tasks: env.tasks, clock: env.clock };
        contract::net::run(&seams, "127.0.0.1").await;
    });
}

#[test]
fn clock_and_tasks() {
    run(|env, _| async move { contract::tasks::run(&env.clock, &env.tasks).await });
}
