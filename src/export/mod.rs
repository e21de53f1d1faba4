//! Base backups that a stock server starts on, of a timeline at any LSN.
//!
//! In: a timeline, an LSN and a [`Form`]. Out: directories and files, in a fixed order, into a [`Sink`].
//!
//! ```text
//! resolve the LSN -> start: pg_control and WAL of the form -> plan: names and sizes -> content: pages, checksums -> sink
//! ```
//!
//! Invariants
//! - EX-1: the same timeline, LSN and [`Form::FirstNode`] give the same bytes: nothing depends on time, chance or history after that LSN.
//! - EX-2: pg_control comes last: what was cut off does not start.
//! - EX-3: the synthesised checkpoint stands at or above the LSN of every page.
//!
//! Source: reference wal-redo, section 10; page-service, section 8.

mod base_backup;
mod content;
mod plan;
mod settings;
pub mod sink;
mod start;
mod wal;

pub use sink::{ByteOutput, DirectorySink, Sink, TarSink, WriterOutput};
pub use wal::WalSource;

use crate::io_abstraction::Env;
use crate::pg::control::ControlError;
use crate::pg::version::PgVersion;
use crate::timeline::{ReadError, Timeline};
use crate::types::{Lsn, TimelineId};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// What the exported cluster is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The first node of a timeline: its own system identifier, TLI 1, shut down at the LSN.
    FirstNode,
    /// A cluster for anybody: a new system identifier, TLI 1, shut down at the LSN.
    Fresh,
    /// A standby of the running primary: the primary's identifier and TLI, recovers from the last real checkpoint on.
    Replica,
    /// A new primary after all nodes were lost: the timeline's identifier, the next TLI, shut down at the end of the timeline.
    Reseed,
    /// For a server that reads pages over the network: no relation files, and no checkpoint record that a stock server would need.
    BaseBackup,
}

/// What to export.
#[derive(Clone)]
pub struct ExportSpec {
    /// `None`: the last record.
    pub lsn: Option<Lsn>,
    pub form: Form,
    /// Where tablespaces go, by their OID or their directory on the primary; the others become directories in pg_tblspc.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// Lines for postgresql.auto.conf, such as `primary_conninfo`.
    pub settings: Vec<(String, String)>,
    /// The WAL log. A replica needs it; a re-seeded primary takes over the bytes before its first record from it.
    pub wal: Option<Arc<dyn WalSource>>,
}

impl ExportSpec {
    pub fn new(form: Form, lsn: Option<Lsn>) -> ExportSpec {
        ExportSpec { lsn, form, tablespaces: BTreeMap::new(), settings: Vec::new(), wal: None }
    }
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The LSN of the content.
    pub lsn: Lsn,
    pub pg_version: PgVersion,
    pub system_identifier: u64,
    pub tli: u32,
    /// Start of the checkpoint record from which the server starts.
    pub checkpoint_lsn: Lsn,
    /// End of the WAL that is part of the export.
    pub wal_end_lsn: Lsn,
    pub files: u64,
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("export of timeline {timeline} at {lsn}: the stored control file is not usable: {error}")]
    Control { timeline: TimelineId, lsn: Lsn, error: ControlError },
    #[error("export of timeline {timeline} at {lsn}: {what} is damaged")]
    Stored { timeline: TimelineId, lsn: Lsn, what: String },
    #[error("a new primary starts at the end of timeline {timeline}, {last}, not at {lsn}: leave the LSN out, or export another form")]
    NotTheEnd { timeline: TimelineId, lsn: Lsn, last: Lsn },
    #[error("a replica of timeline {timeline} at {lsn} needs WAL from a checkpoint on, and there is no WAL log here")]
    NoWal { timeline: TimelineId, lsn: Lsn },
    #[error(
        "a replica of timeline {timeline} at {lsn} needs WAL from a checkpoint on, and the WAL log (from {start} on) holds none: run CHECKPOINT on the primary, then export again"
    )]
    NoCheckpoint { timeline: TimelineId, lsn: Lsn, start: Lsn },
    #[error("read the WAL log at {lsn}: {error}")]
    Wal { lsn: Lsn, error: io::Error },
    #[error("the tablespace map names \"{name}\", but at {lsn} timeline {timeline} has {known}")]
    UnknownTablespace { timeline: TimelineId, lsn: Lsn, name: String, known: String },
    #[error(
        "user tablespaces are not supported by basebackup, and timeline {timeline} has files in tablespace {spc} at {lsn}: use fullbackup"
    )]
    Tablespace { timeline: TimelineId, lsn: Lsn, spc: u32 },
    #[error("write {path}: {error}")]
    Sink { path: String, error: io::Error },
}

/// Told the bytes of content that are done, and of how many.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Exports a timeline.
///
/// Waits for the LSN like any read. Errors: an LSN below the GC cutoff; what cannot be read; the sink's. The sink is then left as it is:
/// without pg_control.
pub async fn run(
    env: &Env,
    timeline: &Timeline,
    spec: &ExportSpec,
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<Exported, ExportError> {
    let (lsn, prev) = resolve(timeline, spec).await?;
    let start = start::prepare(env, timeline, spec, (lsn, prev)).await?;
    let plan = match spec.form {
        Form::BaseBackup => base_backup::plan(timeline, &start).await?,
        _ => plan::plan(timeline, spec, &start).await?,
    };
    sink.begin(start.time).await.map_err(|error| ExportError::Sink { path: String::new(), error })?;
    for place in &plan.places {
        let (path, made) = match place {
            plan::Place::Directory(path) => (path, sink.directory(path).await),
            plan::Place::Link { path, target } => (path, sink.link(path, target).await),
        };
        made.map_err(|error| ExportError::Sink { path: path.clone(), error })?;
    }
    let total = plan.files.iter().map(plan::File::len).sum();
    let mut done = 0;
    for file in &plan.files {
        let mut advance = |bytes| {
            done += bytes;
            progress(done, total);
        };
        content::write(&content::Source { env, timeline, start: &start }, file, sink, &mut advance).await?;
    }
    sink.finish().await.map_err(|error| ExportError::Sink { path: String::new(), error })?;
    Ok(Exported {
        lsn,
        pg_version: start.control.version(),
        system_identifier: start.control.system_id,
        tli: start.control.checkpoint_copy.tli,
        checkpoint_lsn: start.control.checkpoint,
        wal_end_lsn: start.wal_end,
        files: plan.files.iter().filter(|file| !file.is_directory()).count() as u64,
        bytes: total,
    })
}

/// The LSN whose content is exported: ingested, and not below the GC cutoff; and the start of the record that ends there, if known.
async fn resolve(timeline: &Timeline, spec: &ExportSpec) -> Result<(Lsn, Lsn), ExportError> {
    let Some(lsn) = spec.lsn.map(Lsn::align8) else {
        let (last, prev) = timeline.last_record.lsn_and_prev();
        timeline.check_cutoff(last)?;
        return Ok((last, prev));
    };
    timeline.check_cutoff(lsn)?;
    timeline.wait_lsn(lsn).await?;
    let (last, prev) = timeline.last_record.lsn_and_prev();
    if spec.form == Form::Reseed && lsn != last {
        return Err(ExportError::NotTheEnd { timeline: timeline.identity.timeline, lsn, last });
    }
    Ok((lsn, if lsn == last { prev } else { Lsn::INVALID }))
}
