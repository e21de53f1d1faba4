//! What `basebackup` of the page service gives, shaped as Neon's: everything of a cluster but its pages, which the server then reads over
//! the network. The directories and files come in the order of the reference.
//!
//! Left out because a timeline has none of it: replication slots and origins, statistics, other files of logical replication.
//! Source: reference page-service, section 8.

use super::plan::{Content, File, Plan, relation, relation_map, two_phase};
use super::start::{Segment, Start};
use super::{ExportError, settings};
use crate::io_abstraction::Env;
use crate::pg::control::{CheckPoint, ClusterState, ControlFile};
use crate::pg::version::PgVersion;
use crate::pg::xlog::synthesize::{WalIdentity, WalWriter};
use crate::timeline::Timeline;
use crate::types::lsn::segment_file_name;
use crate::types::rel::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE};
use crate::types::{Fork, Lsn, RelTag, SlruKind};
use std::sync::Arc;

const DIRECTORIES: [&str; 22] = [
    "global",
    "pg_wal/archive_status",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
    "pg_twophase",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "base",
    "base/1",
    "pg_replslot",
    "pg_tblspc",
    "pg_stat",
    "pg_stat_tmp",
    "pg_xact",
    "pg_logical",
    "pg_logical/snapshots",
    "pg_logical/mappings",
];

/// Commit timestamps are not part of it.
const SLRUS: [SlruKind; 3] = [SlruKind::Clog, SlruKind::MultiXactMembers, SlruKind::MultiXactOffsets];

/// Both names have the same content; older servers know the second.
const SIGNALS: [&str; 2] = ["neon.signal", "zenith.signal"];

/// The server begins at `lsn`, without replay: pg_control names no checkpoint record, and the WAL segment has headers only.
pub fn start(env: &Env, mut control: ControlFile, point: CheckPoint, (lsn, prev): (Lsn, Lsn)) -> Start {
    let segment_size = u64::from(control.wal_segment_size);
    let identity = WalIdentity { version: control.version(), system_id: control.system_id, tli: 1, segment_size };
    let redo = lsn.record_start(segment_size);
    control.state = ClusterState::ShutDown;
    control.checkpoint = Lsn::INVALID;
    control.checkpoint_copy = CheckPoint { redo, tli: 1, prev_tli: 1, ..point };
    let number = redo.segment_number(segment_size);
    let segment = WalWriter::new(identity, lsn, Lsn::INVALID).segment(number);
    Start {
        lsn,
        prev,
        control,
        segments: vec![(segment_file_name(1, number, segment_size), Arc::new(Segment::Made(segment)))],
        history: None,
        is_standby: false,
        wal_end: lsn,
        time: env.clock.wall().unix_seconds(),
    }
}

pub async fn plan(timeline: &Timeline, start: &Start) -> Result<Plan, ExportError> {
    let mut plan = Plan::default();
    DIRECTORIES.into_iter().for_each(|name| plan.directory(name));
    if start.control.version() >= PgVersion::V17 {
        plan.directory("pg_wal/summaries");
    }
    plan.file("pg_hba.conf", settings::HBA);
    plan.file("pg_ident.conf", Vec::new());
    plan.file("postgresql.auto.conf", Vec::new());
    for kind in SLRUS {
        for segment in timeline.slru_segments(kind, start.lsn).await?.0 {
            let pages = timeline.slru_segment_size(kind, segment, start.lsn).await?;
            let path = format!("{}/{segment:04X}", kind.directory());
            plan.files.push(File { path, content: Content::Slru { kind, segment, stored: pages, pages } });
        }
    }
    for (place, has_files) in timeline.db_dir(start.lsn).await?.0 {
        database(&mut plan, timeline, start, place, has_files).await?;
    }
    two_phase(&mut plan, timeline, start).await?;
    for name in SIGNALS {
        plan.file(name, signal(start.prev, start.lsn == timeline.ancestor_lsn()));
    }
    plan.file("global/pg_control", start.control.encode());
    let len = u64::from(start.control.wal_segment_size);
    for (name, segment) in &start.segments {
        plan.files.push(File { path: format!("pg_wal/{name}"), content: Content::Wal { segment: segment.clone(), len } });
    }
    Ok(plan)
}

/// Where the record before is; `invalid` lets the server only read.
fn signal(prev: Lsn, at_branch_point: bool) -> String {
    match (prev.is_valid(), at_branch_point) {
        (true, _) => format!("PREV LSN: {prev}"),
        (false, true) => "PREV LSN: none".to_string(),
        (false, false) => "PREV LSN: invalid".to_string(),
    }
}

/// One database in one tablespace: its map, and empty unlogged relations.
async fn database(plan: &mut Plan, timeline: &Timeline, start: &Start, (spc, db): (u32, u32), has_files: bool) -> Result<(), ExportError> {
    let relations = timeline.relations(spc, db, start.lsn).await?;
    let (directory, version_file) = match spc {
        GLOBAL_TABLESPACE => ("global".to_string(), "PG_VERSION".to_string()),
        DEFAULT_TABLESPACE => (format!("base/{db}"), format!("base/{db}/PG_VERSION")),
        // Left over from a database that was moved or dropped.
        _ if !has_files && relations.is_empty() => return Ok(()),
        _ => return Err(ExportError::Tablespace { timeline: timeline.identity.timeline, lsn: start.lsn, spc }),
    };
    if spc == DEFAULT_TABLESPACE {
        plan.files.push(File { path: directory.clone(), content: Content::Directory });
    }
    if has_files {
        let version = start.control.version();
        let newline = if version >= PgVersion::V16 { "\n" } else { "" };
        plan.file(version_file, format!("{version}{newline}"));
        plan.file(format!("{directory}/pg_filenode.map"), relation_map(timeline, start, (spc, db)).await?);
    }
    for (rel, _) in relations.into_iter().filter(|(_, fork)| *fork == Fork::Init) {
        let tag = RelTag { spc, db, rel, fork: Fork::Init };
        relation(plan, timeline, start, (tag, Fork::Main), &directory).await?;
        relation(plan, timeline, start, (tag, Fork::Init), &directory).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        assert_eq!(signal(Lsn(0x1_0000_0028), true), "PREV LSN: 1/28");
        assert_eq!(signal(Lsn::INVALID, true), "PREV LSN: none");
        assert_eq!(signal(Lsn::INVALID, false), "PREV LSN: invalid");
    }
}
