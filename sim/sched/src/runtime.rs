//! One run: a fresh thread, a seeded tokio runtime around a seeded madsim runtime.
//!
//! madsim polls everything, but `tokio::select!` and `tokio::sync` draw from tokio's own generator: hence the tokio runtime
//! with a fixed seed. It is `unconstrained`, because tokio's cooperative budget is never refilled under madsim's executor.

use sim_core::backend::on_fresh_thread;

/// Runs a future made by `main`. Errors: the message of a panic inside.
pub fn isolated<F, T>(seed: u64, main: impl FnOnce() -> F + Send + 'static) -> Result<T, String>
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    on_fresh_thread(move || {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
            .build()
            .expect("a tokio runtime without drivers needs nothing from the system");
        let simulated = async move {
            madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(async move { main().await })
        };
        tokio.block_on(tokio::task::unconstrained(simulated))
    })
}
