//! A timeline: one branch of a tenant's history, a versioned map from [`Key`] and LSN to values.
//!
//! Invariants
//! - TL-1: `last_record_lsn` never goes back, and every version at or below it is readable.
//! - TL-2: `disk_consistent_lsn <= last_record_lsn`, both record ends.
//! - TL-3: versions at or below `disk_consistent_lsn` are in durable local layers.
//! - TL-4: a layer that left memory is in the layer map before it is gone from the frozen list (one swap).

pub mod cluster;
pub mod commit_time;
pub mod compact;
pub mod directory;
pub mod evict;
pub mod flush;
pub mod gc;
pub mod import;
pub mod layer;
pub mod layers;
pub mod lsn_wait;
pub mod read;
mod repeat;
pub mod sizes;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod write;

pub use layer::Layer;
pub use layers::LayerSet;
pub use lsn_wait::LastRecord;
pub use read::ReadError;
pub use write::TimelineWriter;

use crate::config::{Config, TenantConfig};
use crate::io_abstraction::{Env, Scope};
use crate::layer::{BlockCache, LayerMap, LayerName, MemoryLayer};
use crate::pg::version::PgVersion;
use crate::redo::ApplyContext;
use crate::redo::executor::RedoExecutor;
use crate::remote::index::{INDEX_VERSION, IndexPart, TliSwitch};
use crate::remote::upload::UploadQueue;
use crate::remote::{Attachment, RemoteClient, Validation};
use crate::types::{Generation, Lsn, TenantId, TimelineId};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// What all timelines of a node share.
pub struct Shared {
    pub env: Env,
    pub config: Config,
    pub cache: BlockCache,
    pub redo: RedoExecutor,
    /// Remote storage; its generation is the least that an attachment of this start of the node has.
    pub remote: RemoteClient,
    pub validation: Arc<Validation>,
}

/// A branch point.
#[derive(Clone)]
pub struct Ancestor {
    pub timeline: Arc<Timeline>,
    /// Versions at or below this are the ancestor's.
    pub lsn: Lsn,
}

/// What never changes during a timeline's life.
#[derive(Debug, Clone)]
pub struct Identity {
    pub tenant: TenantId,
    pub timeline: TimelineId,
    pub pg_version: PgVersion,
    pub system_identifier: u64,
    pub wal_segment_size: u64,
    pub initdb_lsn: Lsn,
    /// The cluster has data checksums or `wal_log_hints`: marking a page all-visible moves its LSN.
    pub hint_bits_logged: bool,
}

/// Where PostgreSQL's own timeline stands: which TLI the newest WAL has, and how it came there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PgTimeline {
    pub tli: u32,
    pub history: Vec<TliSwitch>,
}

/// A running timeline.
pub struct Timeline {
    pub shared: Arc<Shared>,
    /// The tenant's, shared by all of its timelines.
    pub attachment: Arc<Attachment>,
    pub identity: Identity,
    pub ancestor: Option<Ancestor>,
    pub last_record: LastRecord,
    pub sizes: sizes::RelSizes,
    layers: RwLock<Arc<LayerSet>>,
    disk_consistent: AtomicU64,
    /// Start of the record that ends at `disk_consistent`, if known.
    disk_consistent_prev: AtomicU64,
    /// Of the last index that was stored.
    remote_projected: Arc<AtomicU64>,
    /// Of the last index that was stored and whose generation was validated after that.
    remote_consistent: Arc<AtomicU64>,
    gc_cutoff: AtomicU64,
    /// Where branches begin.
    pins: Mutex<BTreeMap<TimelineId, Lsn>>,
    pg_timeline: Mutex<PgTimeline>,
    wal_source: Mutex<Option<String>>,
    uploads: Arc<UploadQueue>,
    index_order: Mutex<()>,
    /// Held while a pass of compaction runs.
    compacting: tokio::sync::Mutex<compact::Progress>,
    /// Held from putting versions to publishing them, and while freezing.
    writing: tokio::sync::Mutex<()>,
    /// The open layer holds versions above the last record: it cannot be closed there.
    ahead: AtomicBool,
    /// Told when a layer was frozen.
    frozen: Notify,
    /// Told when a frozen layer is flushed.
    flushed: Notify,
    pub scope: Scope,
    /// What the WAL receiver does, in words; part of time-out errors.
    pub receiver_status: Mutex<String>,
    files_started: AtomicU64,
    pub evictions: Evictions,
}

/// Layers that left the local disk.
#[derive(Debug, Default)]
pub struct Evictions {
    all: AtomicU64,
    soon: AtomicU64,
}

impl Evictions {
    fn note(&self, soon: bool) {
        self.all.fetch_add(1, Ordering::Relaxed);
        self.soon.fetch_add(u64::from(soon), Ordering::Relaxed);
    }

    /// All, and those of layers that were here for a short time only.
    pub fn counts(&self) -> (u64, u64) {
        (self.all.load(Ordering::Relaxed), self.soon.load(Ordering::Relaxed))
    }
}

impl Timeline {
    /// Directory of the layer files.
    pub fn directory(config: &Config, tenant: TenantId, timeline: TimelineId) -> PathBuf {
        config.data_dir.join("tenants").join(tenant.to_string()).join("timelines").join(timeline.to_string())
    }

    pub fn local_directory(&self) -> PathBuf {
        Timeline::directory(&self.shared.config, self.identity.tenant, self.identity.timeline)
    }

    /// A timeline as its index says. Local files of listed layers are taken as they are; the rest is fetched when read.
    ///
    /// Background tasks do not run before [`Timeline::start`].
    pub fn open(
        shared: &Arc<Shared>,
        attachment: &Arc<Attachment>,
        timeline: TimelineId,
        index: &IndexPart,
        ancestor: Option<Ancestor>,
    ) -> Arc<Timeline> {
        let tenant = attachment.tenant;
        let identity = Identity {
            tenant,
            timeline,
            pg_version: index.pg_version,
            system_identifier: index.system_identifier,
            wal_segment_size: index.wal_segment_size,
            initdb_lsn: index.initdb_lsn,
            hint_bits_logged: index.hint_bits_logged,
        };
        let mut historic = LayerMap::default();
        for (name, meta) in index.layers() {
            historic.insert(Arc::new(Layer::remote(name, meta)));
        }
        let consistent = index.disk_consistent_lsn;
        let open = Arc::new(MemoryLayer::new(Lsn(consistent.0 + 1)));
        let layers = LayerSet { open, frozen: Vec::new(), historic: Arc::new(historic) };
        let remote_consistent = Arc::new(AtomicU64::new(consistent.0));
        let remote_projected = Arc::new(AtomicU64::new(consistent.0));
        let (owner, projected, visible) = (attachment.clone(), remote_projected.clone(), remote_consistent.clone());
        let on_index_stored = Box::new(move |lsn: Lsn| {
            projected.fetch_max(lsn.0, Ordering::AcqRel);
            owner.validation.advance(&owner, &visible, lsn);
        });
        let directory = Timeline::directory(&shared.config, tenant, timeline);
        let uploads = UploadQueue::new(&shared.env, attachment, timeline, directory, on_index_stored);
        Arc::new(Timeline {
            shared: shared.clone(),
            attachment: attachment.clone(),
            identity,
            ancestor,
            last_record: LastRecord::new(consistent, index.prev_record_lsn.unwrap_or(Lsn::INVALID)),
            sizes: sizes::RelSizes::default(),
            layers: RwLock::new(Arc::new(layers)),
            disk_consistent: AtomicU64::new(consistent.0),
            disk_consistent_prev: AtomicU64::new(index.prev_record_lsn.unwrap_or(Lsn::INVALID).0),
            remote_projected,
            remote_consistent,
            gc_cutoff: AtomicU64::new(index.latest_gc_cutoff_lsn.0),
            pins: Mutex::default(),
            pg_timeline: Mutex::new(PgTimeline { tli: index.tli, history: index.tli_history.clone() }),
            wal_source: Mutex::new(index.wal_source.clone()),
            uploads,
            index_order: Mutex::new(()),
            compacting: tokio::sync::Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
            ahead: AtomicBool::new(false),
            frozen: Notify::new(),
            flushed: Notify::new(),
            scope: Scope::new(&shared.env.tasks),
            receiver_status: Mutex::new("Not active".to_string()),
            files_started: AtomicU64::new(0),
            evictions: Evictions::default(),
        })
    }

    /// Starts uploading, flushing, compaction and garbage collection.
    pub fn start(self: &Arc<Timeline>) {
        let uploads = self.uploads.clone();
        self.scope.spawn("upload", |cancel| uploads.run(cancel));
        let timeline = self.clone();
        self.scope.spawn("flush", |cancel| flush::run(timeline, cancel));
        let timeline = self.clone();
        self.scope.spawn("compact", |cancel| compact::run(timeline, cancel));
        let timeline = self.clone();
        self.scope.spawn("evict", |cancel| evict::run(timeline, cancel));
        let timeline = self.clone();
        self.scope.spawn("collect-garbage", |cancel| gc::run(timeline, cancel));
    }

    pub(crate) fn apply_context(&self) -> ApplyContext {
        ApplyContext { page_lsn_on_visible: self.identity.hint_bits_logged, ..ApplyContext::new(self.identity.pg_version) }
    }

    pub fn layers(&self) -> Arc<LayerSet> {
        self.layers.read().clone()
    }

    /// Replaces the set of layers in one step.
    fn change_layers(&self, change: impl FnOnce(&LayerSet) -> LayerSet) {
        let mut current = self.layers.write();
        let changed = change(&current);
        *current = Arc::new(changed);
    }

    pub fn disk_consistent_lsn(&self) -> Lsn {
        Lsn(self.disk_consistent.load(Ordering::Acquire))
    }

    /// The tenant's settings as they are now.
    pub fn settings(&self) -> Arc<TenantConfig> {
        self.attachment.settings()
    }

    /// What remote storage has if this node still owns the tenant, which may not be known yet.
    pub fn remote_projected_lsn(&self) -> Lsn {
        Lsn(self.remote_projected.load(Ordering::Acquire))
    }

    /// Below this the WAL is not needed to restore the timeline from remote storage, whoever attaches it next.
    pub fn remote_consistent_lsn(&self) -> Lsn {
        Lsn(self.remote_consistent.load(Ordering::Acquire))
    }

    /// Reads below this are refused.
    pub fn gc_cutoff_lsn(&self) -> Lsn {
        Lsn(self.gc_cutoff.load(Ordering::Acquire))
    }

    pub fn ancestor_lsn(&self) -> Lsn {
        self.ancestor.as_ref().map_or(Lsn::INVALID, |a| a.lsn)
    }

    pub fn pg_timeline(&self) -> PgTimeline {
        self.pg_timeline.lock().clone()
    }

    pub fn wal_source(&self) -> Option<String> {
        self.wal_source.lock().clone()
    }

    /// Sets the primary to follow; kept in the index. Completes when that is stored.
    pub async fn set_wal_source(&self, source: Option<String>) -> Result<(), crate::remote::upload::QueueClosed> {
        self.schedule_upload(|| *self.wal_source.lock() = source, Vec::new(), Vec::new());
        self.uploads.drained().await
    }

    /// The WAL log followed a promotion. It becomes part of the next index.
    pub fn set_pg_timeline(&self, pg_timeline: PgTimeline) {
        *self.pg_timeline.lock() = pg_timeline;
    }

    /// The index that describes the durable local layers now.
    pub fn index(&self) -> IndexPart {
        let layers = self.layers();
        let pg_timeline = self.pg_timeline();
        let prev = Lsn(self.disk_consistent_prev.load(Ordering::Acquire));
        IndexPart {
            version: INDEX_VERSION,
            layer_metadata: layers.historic.iter().map(|l| (l.name.text(), l.meta)).collect(),
            disk_consistent_lsn: self.disk_consistent_lsn(),
            prev_record_lsn: prev.is_valid().then_some(prev),
            ancestor_timeline: self.ancestor.as_ref().map(|a| a.timeline.identity.timeline),
            ancestor_lsn: self.ancestor_lsn(),
            latest_gc_cutoff_lsn: self.gc_cutoff_lsn(),
            initdb_lsn: self.identity.initdb_lsn,
            pg_version: self.identity.pg_version,
            system_identifier: self.identity.system_identifier,
            wal_segment_size: self.identity.wal_segment_size,
            hint_bits_logged: self.identity.hint_bits_logged,
            tli: pg_timeline.tli,
            tli_history: pg_timeline.history,
            deleted_at: None,
            wal_source: self.wal_source(),
        }
    }

    /// Changes what the index says, and schedules new layers, that index, and the removal of layers that are not in it any more,
    /// in one step: no index tells of a change whose layers are not scheduled yet, and a later one never knows less.
    fn schedule_upload(&self, change: impl FnOnce(), layers: Vec<LayerName>, gone: Vec<(LayerName, Generation)>) {
        let _in_order = self.index_order.lock();
        change();
        self.uploads.upload(layers, self.index(), gone);
    }

    /// Objects of earlier generations that the next stored index makes needless.
    pub fn replaces_objects(&self, objects: Vec<object_store::path::Path>) {
        self.uploads.replaces(objects);
    }

    /// Has objects deleted that nothing names, after an index of this generation is stored.
    pub fn sweep(&self, nameless: Vec<object_store::path::Path>) {
        if !nameless.is_empty() {
            self.uploads.replaces(nameless);
            self.schedule_upload(|| (), Vec::new(), Vec::new());
        }
    }

    /// Waits for the uploads of everything that was flushed before.
    pub async fn uploaded(&self) -> Result<(), crate::remote::upload::QueueClosed> {
        // A flush that is visible already may be about to schedule its upload.
        drop(self.index_order.lock());
        self.uploads.drained().await
    }

    /// Layers of which remote storage has all that is in the layer map.
    pub fn evictable(&self) -> Vec<Arc<Layer>> {
        // A layer that is in the map already is about to be scheduled.
        let _in_order = self.index_order.lock();
        match self.uploads.is_idle() {
            true => self.layers().historic.iter().cloned().collect(),
            false => Vec::new(),
        }
    }

    pub fn upload_queue_len(&self) -> usize {
        self.uploads.len()
    }

    /// Bytes of all layers, each counted once wherever it is.
    pub fn physical_size(&self) -> u64 {
        self.layers().historic.iter().map(|l| l.meta.file_size).sum()
    }

    /// Bytes of layer files on the local disk.
    pub fn resident_size(&self) -> u64 {
        self.layers().historic.iter().filter(|l| l.is_resident()).map(|l| l.meta.file_size).sum()
    }

    fn next_file_number(&self) -> u64 {
        self.files_started.fetch_add(1, Ordering::Relaxed)
    }

    /// Freezes what is in memory and waits until all of that is in local layers.
    pub async fn flush_all(&self) {
        let end = self.freeze_now().await;
        loop {
            let flushed = self.flushed.notified();
            tokio::pin!(flushed);
            // Registers before looking, so that a flush in between is not missed.
            flushed.as_mut().enable();
            if self.disk_consistent_lsn() >= end {
                return;
            }
            flushed.await;
        }
    }

    /// Ends all tasks of the timeline. Memory is lost; its WAL is in the log.
    pub async fn shutdown(&self) {
        self.scope.shutdown().await;
        self.last_record.close();
    }
}
