//! Eviction by time: layers that nobody reads leave the local disk, where remote storage has them.

use super::{Timeline, repeat};
use crate::config::{EvictionPolicy, TenantConfig};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Follows the tenant's policy until cancelled.
pub async fn run(timeline: Arc<Timeline>, cancel: CancellationToken) {
    let period = |settings: &TenantConfig| match settings.eviction_policy {
        EvictionPolicy::LayerAccessThreshold { period, .. } => Some(period),
        EvictionPolicy::NoEviction => None,
    };
    repeat::run(timeline, cancel, "eviction", period, |timeline| async move { evict_idle(&timeline).await }).await;
}

/// Evicts what nobody read for as long as the policy says; a layer that cannot go stands in no other's way.
async fn evict_idle(timeline: &Arc<Timeline>) -> io::Result<()> {
    let EvictionPolicy::LayerAccessThreshold { threshold, .. } = timeline.settings().eviction_policy else { return Ok(()) };
    let now = timeline.shared.env.clock.mono();
    let mut outcome = Ok(());
    for layer in timeline.evictable().into_iter().filter(|layer| now.since(layer.last_access()) > threshold) {
        match layer.evict(timeline).await {
            Ok(true) => timeline.note_eviction(now.since(layer.arrival())),
            Ok(false) => {}
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

impl Timeline {
    /// Counts an eviction, and apart one of a layer that was here for a short time only.
    pub fn note_eviction(&self, resident: Duration) {
        let soon = resident < self.settings().evictions_low_residence_duration_metric_threshold;
        self.evictions.note(soon);
        self.shared.env.probe.mark("layer-evicted");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::EvictionPolicy;
    use crate::io_abstraction::ClockExt as _;
    use crate::layer::ValueKind;
    use crate::timeline::compact::tests::{Versions, collected, directory, expected, key, noise, root, shared, write};
    use crate::timeline::testing;
    use crate::types::Lsn;
    use std::time::Duration;

    #[tokio::test]
    async fn what_nobody_reads_leaves_the_disk_and_comes_back_when_it_is_read() {
        let directory_ = tempfile::tempdir().unwrap();
        let env = testing::memory_env();
        let timeline = root(&shared(&env, directory_.path(), 1000)).await;
        let mut versions = Versions::new();
        write(&timeline, &directory(), &mut versions).await;
        write(&timeline, &[(key(1), ValueKind::Image, noise(1, 500))], &mut versions).await;
        timeline.uploaded().await.unwrap();
        let settings = (*timeline.settings()).clone();
        let policy = EvictionPolicy::LayerAccessThreshold { period: Duration::from_millis(5), threshold: Duration::ZERO };
        timeline.attachment.set_settings(crate::config::TenantConfig { eviction_policy: policy, ..settings.clone() });
        let files = || env.disk.list(&timeline.local_directory()).unwrap().iter().filter(|file| !file.is_dir).count();
        let empty = async {
            while files() > 0 {
                env.clock.sleep(Duration::from_millis(5)).await;
            }
        };
        env.clock.timeout(Duration::from_secs(30), empty).await.expect("all layers leave the disk");
        timeline.attachment.set_settings(settings);
        let lsn = timeline.last_record.lsn();
        assert_eq!(collected(&timeline, key(1), lsn).await, expected(&[(&versions, Lsn::MAX)], key(1), lsn));
        assert!(files() > 0 && timeline.evictions.counts() >= (3, 3), "{:?}", timeline.evictions.counts());
        timeline.shutdown().await;
    }
}
