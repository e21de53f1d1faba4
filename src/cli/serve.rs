//! `pal serve`: the server.

use super::ConfigArgs;
use super::output::{CommandError, Outcome};
use crate::config::Config;
use crate::io_abstraction::disk::read_file;
use crate::io_abstraction::{ClockExt as _, Env, real};
use crate::node::Node;
use crate::observe;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub settings: ConfigArgs,
}

/// How long the line that says "ready" waits for the tenants.
const LOADING_LIMIT: Duration = Duration::from_secs(10);

/// Reads the settings.
pub fn load_config(args: &ConfigArgs) -> Result<Config, CommandError> {
    let disk = real::file_system();
    let absolute = std::path::absolute(&args.data_dir).map_err(CommandError::new)?;
    let mut file = None;
    if let Some(path) = &args.config {
        let bytes = read_file(&*disk, path).map_err(|e| CommandError::new(format!("read the configuration {}: {e}", path.display())))?;
        let text = String::from_utf8(bytes).map_err(|_| CommandError::new(format!("the configuration {} is not UTF-8", path.display())))?;
        file = Some((path.display().to_string(), text));
    }
    let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    Config::load(&absolute, file, &args.set).map_err(CommandError::new)
}

/// The environment of production for these settings.
pub fn real_env(config: &Config) -> Result<Env, CommandError> {
    let remote = config.remote_path();
    let store = real::local_store(&remote).map_err(|e| CommandError::new(format!("remote storage {}: {e}", remote.display())))?;
    real::env(store).map_err(CommandError::new)
}

pub fn run(args: ServeArgs) -> Outcome {
    real::block_on(async {
        observe::start_logging(real::log_filter().as_deref());
        let config = load_config(&args.settings)?;
        for exposed in config.exposed().map_err(CommandError::new)? {
            tracing::warn!("listen_insecurely is set: anybody who reaches the port may use it: {exposed}");
        }
        let env = real_env(&config)?;
        let node = Node::start(env, config).await.map_err(CommandError::new)?;
        // Clients that come earlier are told to come again.
        if node.registry.shared.env.clock.timeout(LOADING_LIMIT, node.loaded()).await.is_err() {
            tracing::warn!("tenants are still being loaded");
        }
        println!("ready: http {} pages {}", node.http_address(), node.pages_address());
        let signal = real::termination().await;
        tracing::info!(signal, "stopping");
        node.shutdown().await;
        Ok(ExitCode::SUCCESS)
    })
}
