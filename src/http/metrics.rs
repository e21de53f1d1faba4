//! `/metrics`: figures of the node's registry, and gauges read off the timelines when asked.

use crate::tenant::Registry;
use prometheus::{IntGaugeVec, Opts, TextEncoder};

/// Text in Prometheus's exposition format.
pub fn render(registry: &Registry) -> prometheus::Result<String> {
    let mut families = registry.shared.env.metrics.gather();
    // A registry of its own for what is read now: timelines that are gone leave no stale line.
    let now = prometheus::Registry::new();
    let gauge = |name: &str, help: &str| -> prometheus::Result<IntGaugeVec> {
        let gauge = IntGaugeVec::new(Opts::new(name, help), &["tenant_id", "timeline_id"])?;
        now.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    };
    let last_record = gauge("palimpsest_last_record_lsn", "End of the last ingested record")?;
    let disk_consistent = gauge("palimpsest_disk_consistent_lsn", "Everything up to it is in durable local layers")?;
    let remote_consistent = gauge("palimpsest_remote_consistent_lsn", "Everything up to it is in remote storage")?;
    let wal_durable = gauge("palimpsest_wal_durable_lsn", "End of the WAL log that is synced")?;
    let memory = gauge("palimpsest_memory_layer_bytes", "Memory of open and frozen layers")?;
    let physical = gauge("palimpsest_layer_bytes", "Bytes of all layers, wherever they are")?;
    let resident = gauge("palimpsest_resident_layer_bytes", "Bytes of layer files on the local disk")?;
    let wal_bytes = gauge("palimpsest_wal_log_bytes", "Bytes of WAL in the log, from its start to its end")?;
    let wal_cap = gauge("palimpsest_wal_log_full", "1 while the log is at its cap and nothing is acknowledged")?;
    let broken = gauge("palimpsest_timeline_broken", "1 for a timeline that exists and could not be loaded")?;
    let uploads = gauge("palimpsest_upload_queue_len", "Operations that wait for their upload")?;
    let evictions = gauge("palimpsest_layer_evictions", "Layers that left the local disk since the start")?;
    let soon = gauge("palimpsest_layer_evictions_soon", "Of those, how many were here for less than the tenant's threshold")?;
    for tenant in registry.tenants() {
        for handle in tenant.timelines() {
            let timeline = &handle.timeline;
            let labels = [tenant.id.to_string(), timeline.identity.timeline.to_string()];
            let labels = [labels[0].as_str(), labels[1].as_str()];
            let set = |gauge: &IntGaugeVec, value: u64| gauge.with_label_values(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
            set(&last_record, timeline.last_record.lsn().0);
            set(&disk_consistent, timeline.disk_consistent_lsn().0);
            set(&remote_consistent, timeline.remote_consistent_lsn().0);
            set(&wal_durable, handle.wal.log.durable_lsn().0);
            set(&wal_bytes, handle.wal.log.held_bytes());
            set(&wal_cap, u64::from(handle.wal.log.is_full()));
            set(&memory, timeline.layers().memory_bytes() as u64);
            set(&physical, timeline.physical_size());
            set(&resident, timeline.resident_size());
            let (evicted, evicted_soon) = timeline.evictions.counts();
            set(&evictions, evicted);
            set(&soon, evicted_soon);
            set(&uploads, timeline.upload_queue_len() as u64);
        }
        for timeline in tenant.broken().keys() {
            broken.with_label_values(&[&tenant.id.to_string(), &timeline.to_string()]).set(1);
        }
    }
    families.extend(now.gather());
    TextEncoder::new().encode_to_string(&families)
}
