//! One run: a fresh thread, a seeded tokio runtime around a seeded madsim runtime.
//!
//! madsim polls everything, but `tokio::select!` and `tokio::sync` draw from tokio's own generator: hence the tokio runtime
//! with a fixed seed. It is `unconstrained`, because tokio's cooperative budget is never refilled under madsim's executor.
//! The thread is fresh, because std's hash keys and other state of a thread would carry over from run to run.

#![allow(clippy::disallowed_methods, reason = "each run needs a thread of its own; nothing inside it can see it")]

use std::any::Any;

/// Runs a future made by `main`. Errors: the message of a panic inside.
pub fn isolated<F, T>(seed: u64, main: impl FnOnce() -> F + Send + 'static) -> Result<T, String>
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    let thread = std::thread::Builder::new().name("run".to_string()).stack_size(16 << 20).spawn(move || {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
            .build()
            .expect("a tokio runtime without drivers needs nothing from the system");
        let simulated = async move {
            madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(async move { main().await })
        };
        tokio.block_on(tokio::task::unconstrained(simulated))
    });
    match thread.expect("the system has threads").join() {
        Ok(value) => Ok(value),
        Err(panic) => Err(message(&*panic)),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_string()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "panic without a message".to_string()
    }
}
