//! Import of a cleanly stopped data directory: every file becomes images at one LSN, in image layers that cover the key space.
//!
//! In: a data directory of PostgreSQL 14 to 18 on the local disk. Out: durable layer files and what the timeline's index needs.
//!
//! Invariants
//! - IM-1: the import LSN is the end of the shutdown checkpoint record, and nothing follows that record in the WAL.
//! - IM-2: the layers' key ranges join without a gap and cover the whole key space.
//! - IM-3: a page whose checksum is wrong is not imported.
//!
//! Synchronous: runs inside `Tasks::blocking`.

mod scan;
mod source;
mod values;

use crate::io_abstraction::Disk;
use crate::layer::writer::FinishedLayer;
use crate::pg::control::ControlError;
use crate::pg::version::PgVersion;
use crate::pg::xlog::stream::WalError;
use crate::remote::LayerMeta;
use crate::remote::index::{INDEX_VERSION, IndexPart, TliSwitch};
use crate::types::{Generation, Lsn};
use std::io;
use std::path::{Path, PathBuf};

/// What to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOptions {
    /// The data directory.
    pub directory: PathBuf,
    /// A new system identifier for the cluster; `None` keeps the one it has.
    pub system_identifier: Option<u64>,
}

/// What came of an import.
#[derive(Debug, Clone)]
pub struct Imported {
    /// In key order.
    pub layers: Vec<FinishedLayer>,
    /// End of the shutdown checkpoint record: the timeline's first and only LSN.
    pub lsn: Lsn,
    /// Start of that record.
    pub prev_record_lsn: Lsn,
    pub pg_version: PgVersion,
    pub system_identifier: u64,
    pub wal_segment_size: u64,
    /// Data checksums or `wal_log_hints` are on.
    pub hint_bits_logged: bool,
    pub tli: u32,
    pub tli_history: Vec<TliSwitch>,
}

impl Imported {
    /// The first index of the timeline.
    pub fn index(&self, generation: Generation) -> IndexPart {
        let meta = |layer: &FinishedLayer| (layer.name.to_string(), LayerMeta { file_size: layer.file_size, generation });
        IndexPart {
            version: INDEX_VERSION,
            layer_metadata: self.layers.iter().map(meta).collect(),
            disk_consistent_lsn: self.lsn,
            prev_record_lsn: Some(self.prev_record_lsn),
            ancestor_timeline: None,
            ancestor_lsn: Lsn::INVALID,
            latest_gc_cutoff_lsn: self.lsn,
            initdb_lsn: self.lsn,
            pg_version: self.pg_version,
            system_identifier: self.system_identifier,
            wal_segment_size: self.wal_segment_size,
            hint_bits_logged: self.hint_bits_logged,
            tli: self.tli,
            tli_history: self.tli_history.clone(),
            deleted_at: None,
            wal_source: None,
        }
    }
}

/// The directory cannot be imported; nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{directory} is not a PostgreSQL data directory: {error} (global/pg_control)", directory = directory.display())]
    NotADataDirectory { directory: PathBuf, error: io::Error },
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: {error}", path = path.display())]
    Control { path: PathBuf, error: ControlError },
    #[error("{path} exists, so a server runs on this data directory: stop the server with pg_ctl stop -m fast first", path = path.display())]
    Running { path: PathBuf },
    #[error("the cluster in {directory} was not shut down cleanly (its state is {state}): start it, then stop the server with pg_ctl stop -m fast first", directory = directory.display())]
    NotStopped { directory: PathBuf, state: &'static str },
    #[error(
        "the cluster in {directory} was shut down while it was a standby, so its files are not those of one LSN: import its primary, or promote it and stop the server with pg_ctl stop -m fast first",
        directory = directory.display()
    )]
    Standby { directory: PathBuf },
    #[error("{path} exists: this is a base backup that was never recovered; start a server on it, then stop the server with pg_ctl stop -m fast first", path = path.display())]
    Backup { path: PathBuf },
    #[error("the shutdown checkpoint at {lsn} cannot be read from {directory}: {error}", directory = directory.display())]
    Wal { directory: PathBuf, lsn: Lsn, error: WalError },
    #[error("the shutdown checkpoint at {lsn} is not in {directory}: {reason}", directory = directory.display())]
    NoCheckpoint { directory: PathBuf, lsn: Lsn, reason: &'static str },
    #[error(
        "WAL goes on at {lsn} after the shutdown checkpoint in {directory}: pg_control is older than the WAL; start the server, then stop it with pg_ctl stop -m fast",
        directory = directory.display()
    )]
    WalGoesOn { directory: PathBuf, lsn: Lsn },
    #[error("{path}: {reason}", path = path.display())]
    File { path: PathBuf, reason: String },
    #[error("{path}: the checksum of block {block} is wrong, the page is damaged: restore it before importing", path = path.display())]
    Checksum { path: PathBuf, block: u32 },
    #[error("the data directory {directory} changed during the import: stop the server with pg_ctl stop -m fast first", directory = directory.display())]
    Changed { directory: PathBuf },
    #[error("write layers to {directory}: {error}", directory = directory.display())]
    Target { directory: PathBuf, error: io::Error },
}

impl ImportError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> ImportError + '_ {
        move |error| ImportError::Io { path: path.to_path_buf(), error }
    }

    fn file(path: &Path, reason: impl Into<String>) -> ImportError {
        ImportError::File { path: path.to_path_buf(), reason: reason.into() }
    }
}

/// Imports a data directory into layer files of at most about `layer_bytes_max` bytes in `target`.
///
/// Errors: anything but a cleanly stopped, undamaged cluster; what was written is removed again.
pub fn run(disk: &dyn Disk, target: &Path, options: &ImportOptions, layer_bytes_max: u64) -> Result<Imported, ImportError> {
    let mut stopped = source::open(disk, &options.directory)?;
    let tree = scan::scan(disk, &options.directory, &stopped.control)?;
    if let Some(system_identifier) = options.system_identifier {
        stopped.adopt(system_identifier);
    }
    disk.create_dir_all(target).map_err(|error| ImportError::Target { directory: target.to_path_buf(), error })?;
    let layers = values::write(disk, target, &stopped, &tree, layer_bytes_max)?;
    if let Err(error) = source::check_unchanged(disk, &options.directory, &stopped) {
        values::remove(disk, target, &layers);
        return Err(error);
    }
    let control = &stopped.control;
    Ok(Imported {
        layers,
        lsn: stopped.lsn,
        prev_record_lsn: stopped.checkpoint,
        pg_version: control.version(),
        system_identifier: control.system_id,
        wal_segment_size: u64::from(control.wal_segment_size),
        hint_bits_logged: control.logs_hints(),
        tli: stopped.tli,
        tli_history: stopped.tli_history,
    })
}

/// The mock authentication nonce of a cluster that got a new system identifier: the same for the same identifier.
pub fn authentication_nonce(system_identifier: u64) -> [u8; 32] {
    let mut nonce = [0; 32];
    for (n, part) in nonce.chunks_exact_mut(16).enumerate() {
        let hash = xxhash_rust::xxh3::xxh3_128_with_seed(&system_identifier.to_le_bytes(), n as u64 + 1);
        part.copy_from_slice(&hash.to_le_bytes());
    }
    nonce
}
