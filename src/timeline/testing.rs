//! For unit tests: a small root timeline on real files, remote storage in memory.

use super::directory::{DbDir, RelDir, SlruDir, TablespaceDir, TwoPhaseDir, encode_size};
use super::{Shared, Timeline};
use crate::config::{Config, RedoMode};
use crate::io_abstraction::{Env, real};
use crate::layer::{BlockCache, LayerKind, LayerName, LayerWriter, ValueKind};
use crate::pg::checkpoint::{CheckPoint, FullXid};
use crate::pg::control::ControlFile;
use crate::redo::executor::RedoExecutor;
use crate::remote::index::{INDEX_VERSION, IndexPart};
use crate::remote::{AttachMode, Attachment, LayerMeta, RemoteClient, StoreAuthority, Validation};
use crate::types::key::REL_DIR_BUCKETS;
use crate::types::{Generation, Key, Lsn, SlruKind, TenantId, TimelineId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub const TENANT: TenantId = TenantId([1; 16]);
pub const TIMELINE: TimelineId = TimelineId([2; 16]);
/// End of what the root timeline begins with.
pub const START: Lsn = Lsn(0x300_0098);
pub const SYSTEM: u64 = 77;
/// The databases of the cluster: the shared one, and one.
pub const DATABASES: [(u32, u32); 2] = [(1663, 5), (1664, 0)];

pub fn memory_env() -> Env {
    real::env(Arc::new(object_store::memory::InMemory::new())).unwrap()
}

pub fn shared(env: &Env, directory: &Path, change: impl FnOnce(&mut Config)) -> Arc<Shared> {
    let mut config = Config::for_data_dir(directory);
    change(&mut config);
    let redo = RedoExecutor::new(env, RedoMode::InProcess, config.wal_redo_timeout);
    let remote = RemoteClient::new(env, Generation(1));
    let validation = Validation::new(env, remote.clone(), Arc::new(StoreAuthority(remote.clone())));
    Arc::new(Shared { env: env.clone(), config, cache: BlockCache::new(1 << 20, env.probe.clone()), redo, remote, validation })
}

/// Has waiting deletions done, as a node does that attached the tenant.
pub async fn validate(shared: &Shared) {
    shared.remote.claim(TENANT, serde_json::Map::new(), false, None).await.unwrap();
    let scope = crate::io_abstraction::Scope::new(&shared.env.tasks);
    scope.spawn("validate", |cancel| shared.validation.clone().run(cancel));
    shared.validation.flushed().await;
    shared.validation.flushed().await;
    scope.shutdown().await;
}

/// The attachment of the tenant in the generation of `shared`. Nothing of it is stored.
pub fn attachment(shared: &Shared) -> Arc<Attachment> {
    Attachment::new(TENANT, shared.remote.clone(), shared.validation.clone(), AttachMode::Single, shared.config.tenant.clone())
}

pub fn control() -> ControlFile {
    let mut file = include_bytes!("../pg/testdata/pg_control.15").to_vec();
    file.resize(8192, 0);
    ControlFile::decode(&file).unwrap()
}

/// Keys and values of a cluster without relations: pg_xact has its first page, the other areas nothing.
fn values() -> BTreeMap<Key, Vec<u8>> {
    let control = control();
    let checkpoint = CheckPoint { next_xid: FullXid(1000), next_multi: 5, next_multi_offset: 9, ..control.checkpoint_copy.clone() };
    let mut values = BTreeMap::from([
        (Key::DB_DIR, DbDir(DATABASES.map(|database| (database, true)).into()).encode()),
        (Key::TWO_PHASE_DIR, TwoPhaseDir::default().encode()),
        (Key::TABLESPACE_DIR, TablespaceDir::default().encode()),
        (Key::CONTROL_FILE, control.encode()),
        (Key::CHECKPOINT, checkpoint.encode().to_vec()),
        (Key::slru_page(SlruKind::Clog, 0), Vec::new()),
        (Key::slru_segment_size(SlruKind::Clog, 0), encode_size(1).to_vec()),
    ]);
    for (spc, db) in DATABASES {
        values.insert(Key::rel_map(spc, db), vec![0; 512]);
        values.extend((0..REL_DIR_BUCKETS).map(|bucket| (Key::rel_dir(spc, db, bucket), RelDir::default().encode())));
    }
    for kind in SlruKind::ALL {
        let segments = if kind == SlruKind::Clog { [0].into() } else { [].into() };
        values.insert(Key::slru_dir(kind), SlruDir(segments).encode());
    }
    values
}

/// The index of a root timeline whose one image layer is a local file.
pub fn root_index(shared: &Shared) -> IndexPart {
    let (disk, directory) = (&*shared.env.disk, Timeline::directory(&shared.config, TENANT, TIMELINE));
    disk.create_dir_all(&directory).unwrap();
    let mut writer = LayerWriter::create(disk, &directory, LayerKind::Image, 0).unwrap();
    for (key, value) in values() {
        writer.put(key, START, ValueKind::Image, &value, 0).unwrap();
    }
    let layer = writer.finish(disk, LayerName::image(Key::MIN..Key::MAX, START)).unwrap();
    let control = control();
    IndexPart {
        version: INDEX_VERSION,
        layer_metadata: [(layer.name.to_string(), LayerMeta { file_size: layer.file_size, generation: Generation(1) })].into(),
        disk_consistent_lsn: START,
        prev_record_lsn: None,
        ancestor_timeline: None,
        ancestor_lsn: Lsn::INVALID,
        latest_gc_cutoff_lsn: START,
        initdb_lsn: START,
        pg_version: control.version(),
        system_identifier: SYSTEM,
        wal_segment_size: 1 << 24,
        hint_bits_logged: true,
        tli: 1,
        tli_history: Vec::new(),
        deleted_at: None,
        wal_source: None,
    }
}

/// A root timeline; its tasks do not run yet.
pub fn root(env: &Env, directory: &Path) -> Arc<Timeline> {
    let shared = shared(env, directory, |_| {});
    let index = root_index(&shared);
    Timeline::open(&shared, &attachment(&shared), TIMELINE, &index, None)
}
