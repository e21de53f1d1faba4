//! What a node tells about itself besides metrics: its log.

use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error; `filter` as in `RUST_LOG`. Called once, by the program.
pub fn start_logging(filter: Option<&str>) {
    let filter = filter.map_or_else(|| EnvFilter::new("info"), EnvFilter::new);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second call, as tests make, keeps the first.
    let _ = lines.try_init();
}
