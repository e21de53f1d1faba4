//! The `sched` world: madsim picks the next task at random, so this world finds bugs of interleaving.

#[cfg(not(all(madsim, tokio_unstable)))]
compile_error!("build from inside the workspace: .cargo/config.toml carries the flags `--cfg madsim --cfg tokio_unstable`");

mod net;
pub mod run;
mod runtime;
mod world;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod stories;
