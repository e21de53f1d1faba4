//! The program under test: one pageserver node on a simulated machine, started and supervised as an operator would.

use crate::plan::PageserverKnobs;
use crate::world::Cluster;
use palimpsest::config::{Config, RedoMode};
use palimpsest::io_abstraction::{Address, ClockExt as _};
use palimpsest::node::Node;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where a node keeps its files on its machine.
pub const DATA_DIR: &str = "/data";
const HTTP_PORT: u16 = 9898;
const PAGES_PORT: u16 = 64000;

pub fn http_address(host: &str) -> Address {
    Address::tcp(host, HTTP_PORT)
}

pub fn pages_address(host: &str) -> Address {
    Address::tcp(host, PAGES_PORT)
}

/// Settings for a node whose limits are so small that everything happens within seconds.
pub fn config(knobs: &PageserverKnobs) -> Config {
    let mut config = Config::for_data_dir(Path::new(DATA_DIR));
    // Without authentication a node accepts loopback addresses only; simulated networks let other machines reach them.
    config.listen_http_addr = format!("127.0.0.1:{HTTP_PORT}");
    config.listen_pg_addr = format!("127.0.0.1:{PAGES_PORT}");
    config.redo = if knobs.redo_child { RedoMode::Child } else { RedoMode::InProcess };
    config.tenant.checkpoint_distance = knobs.checkpoint_distance;
    config.tenant.checkpoint_timeout = Duration::from_millis(knobs.checkpoint_timeout_ms);
    config.open_layer_bytes_max = knobs.open_layer_bytes_max;
    config.block_cache_bytes = knobs.block_cache_bytes;
    config.wait_lsn_timeout = Duration::from_millis(knobs.wait_lsn_timeout_ms);
    config.wal_redo_timeout = Duration::from_secs(2);
    config.tenant.walreceiver_connect_timeout = Duration::from_secs(3);
    config.walreceiver_idle_timeout = Duration::from_millis(knobs.idle_timeout_ms);
    config.disk_reserve_bytes = 1 << 20;
    config.wal_log_keep_bytes = knobs.wal_log_keep_bytes;
    config.tenant.compaction_target_size = knobs.compaction_target_size;
    config.tenant.compaction_period = Duration::from_millis(knobs.compaction.period_ms);
    config.tenant.compaction_threshold = knobs.compaction.threshold.max(2);
    config.tenant.image_creation_threshold = knobs.compaction.image_threshold.max(1);
    config.tenant.gc_period = Duration::from_millis(knobs.gc.period_ms);
    config.tenant.gc_horizon = knobs.gc.horizon;
    config.tenant.pitr_interval = Duration::ZERO;
    config
}

/// The process of a node, as its supervisor sees it.
#[derive(Clone, Default)]
pub struct Process {
    /// Life of the host plus one of the last process that could not start.
    exited: Arc<AtomicU64>,
    /// The same of the last process that serves.
    up: Arc<AtomicU64>,
    /// The same of the last process that stopped because it was told to.
    stopped: Arc<AtomicU64>,
    /// The same of the last process that was told to stop.
    told: Arc<AtomicU64>,
}

/// How often a process looks whether it has to stop.
const LOOK: Duration = Duration::from_millis(20);

impl Process {
    /// The process of this life could not start.
    pub fn has_exited(&self, life: u64) -> bool {
        self.exited.load(Ordering::Relaxed) == life + 1
    }

    pub fn is_up(&self, life: u64) -> bool {
        self.up.load(Ordering::Relaxed) == life + 1
    }

    /// Tells the process of this life to stop.
    pub fn stop(&self, life: u64) {
        self.told.store(life + 1, Ordering::Relaxed);
    }

    pub fn has_stopped(&self, life: u64) -> bool {
        self.stopped.load(Ordering::Relaxed) == life + 1
    }
}

/// Starts the node on its host, which is new or was crashed. A node that cannot start ends by itself, and whoever supervises
/// it has to crash it and start it again; one that was told to stop shuts down first.
pub fn start(cluster: &Cluster, host: &str, knobs: &PageserverKnobs, process: Process) {
    let env = cluster.env(host);
    let life = cluster.disk(host).incarnation();
    let config = config(knobs);
    let main = async move {
        match Node::start(env.clone(), config).await {
            Ok(node) => {
                env.probe.event("node", &|| "state=up".to_string());
                process.up.store(life + 1, Ordering::Relaxed);
                while process.told.load(Ordering::Relaxed) != life + 1 {
                    env.clock.sleep(LOOK).await;
                }
                env.probe.event("node", &|| "state=stopping".to_string());
                node.shutdown().await;
                env.probe.event("node", &|| "state=stopped".to_string());
                process.stopped.store(life + 1, Ordering::Relaxed);
            }
            Err(error) => {
                env.probe.event("node", &|| format!("state=exited error={error}"));
                process.exited.store(life + 1, Ordering::Relaxed);
            }
        }
    };
    cluster.start(host, Box::pin(main));
}
