//! The `net` world: turmoil gives each machine a tokio runtime of its own with a stepped clock, and streams with latency,
//! finite buffers and resets. This world finds bugs of networks, of back-pressure and of real tokio's timers.

#[cfg(not(all(madsim, tokio_unstable)))]
compile_error!("build from inside the workspace: .cargo/config.toml carries the flags `--cfg madsim --cfg tokio_unstable`");

mod driver;
mod hosts;
mod net;
mod run;
mod stream;
mod tripwire;
mod world;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod stories;

fn main() -> std::process::ExitCode {
    sim_core::backend::main(run::run)
}
