//! Which directories and files an export has, with their sizes. Reads directories and relation sizes, no pages.

use super::start::{Segment, Start};
use super::{ExportError, ExportSpec, settings};
use crate::pg::control::{CheckPoint, RELATION_FILE_BLOCKS};
use crate::pg::version::PgVersion;
use crate::timeline::Timeline;
use crate::types::rel::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE};
use crate::types::{Fork, Key, PAGE_SIZE, RelTag, SlruKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Directories of every cluster; servers do not make them.
const DIRECTORIES: [&str; 22] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_xact",
];

/// Entries of one page of each SLRU. Source: PostgreSQL 15 `clog.c`, `multixact.c`, `commit_ts.c`.
const XACTS_PER_PAGE: u32 = 32_768;
const OFFSETS_PER_PAGE: u32 = 2048;
const MEMBERS_PER_PAGE: u32 = 1636;
const COMMIT_TS_PER_PAGE: u32 = 819;

/// Where a file's bytes come from.
pub enum Content {
    /// None: a directory that stands among the files.
    Directory,
    Bytes(Vec<u8>),
    /// A run of blocks of a relation fork.
    Relation {
        rel: RelTag,
        first: u32,
        blocks: u32,
    },
    /// Pages of an SLRU segment; those behind `stored` are zeros.
    Slru {
        kind: SlruKind,
        segment: u32,
        stored: u32,
        pages: u32,
    },
    Wal {
        segment: Arc<Segment>,
        len: u64,
    },
}

pub struct File {
    pub path: String,
    pub content: Content,
}

impl File {
    pub fn is_directory(&self) -> bool {
        matches!(self.content, Content::Directory)
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        let pages = |n: u32| u64::from(n) * PAGE_SIZE as u64;
        match &self.content {
            Content::Directory => 0,
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Relation { blocks, .. } => pages(*blocks),
            Content::Slru { pages: n, .. } => pages(*n),
            Content::Wal { len, .. } => *len,
        }
    }
}

/// A directory, or a link to one that is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Directory(String),
    Link { path: String, target: String },
}

/// What to write, in this order.
#[derive(Default)]
pub struct Plan {
    pub places: Vec<Place>,
    pub files: Vec<File>,
}

pub async fn plan(timeline: &Timeline, spec: &ExportSpec, start: &Start) -> Result<Plan, ExportError> {
    let version = start.control.version();
    let mut plan = Plan { places: DIRECTORIES.map(|name| Place::Directory(name.to_string())).to_vec(), files: Vec::new() };
    if version >= PgVersion::V17 {
        plan.directory("pg_wal/summaries");
    }
    let in_place = tablespaces(&mut plan, timeline, spec, start).await?;
    plan.file("PG_VERSION", format!("{version}\n"));
    plan.file("postgresql.conf", settings::postgresql_conf(start, in_place));
    plan.file("postgresql.auto.conf", settings::auto_conf(&spec.settings));
    plan.file("pg_hba.conf", settings::HBA);
    plan.file("pg_ident.conf", Vec::new());
    if start.is_standby {
        plan.file("standby.signal", Vec::new());
    }
    for kind in SlruKind::ALL {
        slru(&mut plan, timeline, start, kind).await?;
    }
    for ((spc, db), has_files) in timeline.db_dir(start.lsn).await?.0 {
        database(&mut plan, timeline, start, (spc, db), has_files).await?;
    }
    two_phase(&mut plan, timeline, start).await?;
    if let Some((tli, text)) = &start.history {
        plan.file(format!("pg_wal/{tli:08X}.history"), text.clone());
    }
    // Last (EX-2).
    let len = u64::from(start.control.wal_segment_size);
    for (name, segment) in &start.segments {
        plan.files.push(File { path: format!("pg_wal/{name}"), content: Content::Wal { segment: segment.clone(), len } });
    }
    plan.file("global/pg_control", start.control.encode());
    Ok(plan)
}

impl Plan {
    pub(super) fn directory(&mut self, path: impl Into<String>) {
        self.places.push(Place::Directory(path.into()));
    }

    pub(super) fn file(&mut self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.push(File { path: path.into(), content: Content::Bytes(bytes.into()) });
    }
}

/// Directory of a cluster inside a tablespace.
fn version_directory(spc: u32, version: PgVersion) -> String {
    format!("pg_tblspc/{spc}/PG_{}_{}", version.major(), version.catalog_version())
}

/// Makes the places of tablespaces; true if one of them is a directory in pg_tblspc.
async fn tablespaces(plan: &mut Plan, timeline: &Timeline, spec: &ExportSpec, start: &Start) -> Result<bool, ExportError> {
    let mut all = timeline.tablespace_dir(start.lsn).await?.0;
    // One that was never announced is known by what is in it.
    for (spc, _) in timeline.db_dir(start.lsn).await?.0.into_keys() {
        if spc != DEFAULT_TABLESPACE && spc != GLOBAL_TABLESPACE {
            all.entry(spc).or_default();
        }
    }
    let mut unused: BTreeSet<&String> = spec.tablespaces.keys().collect();
    let mut in_place = false;
    for (oid, path) in &all {
        let target = spec.tablespaces.get_key_value(&oid.to_string()).or_else(|| spec.tablespaces.get_key_value(path));
        let place = format!("pg_tblspc/{oid}");
        if let Some((name, target)) = target {
            unused.remove(name);
            plan.places.push(Place::Link { path: place, target: target.display().to_string() });
        } else {
            in_place = true;
            plan.directory(place);
        }
        plan.directory(version_directory(*oid, start.control.version()));
    }
    let Some(name) = unused.first() else { return Ok(in_place) };
    let known = all.iter().map(|(oid, path)| format!("{oid} ({path})")).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "no tablespaces".to_string() } else { known };
    Err(ExportError::UnknownTablespace { timeline: timeline.identity.timeline, lsn: start.lsn, name: name.to_string(), known })
}

/// One database in one tablespace: its files and relations.
async fn database(plan: &mut Plan, timeline: &Timeline, start: &Start, (spc, db): (u32, u32), has_files: bool) -> Result<(), ExportError> {
    let version = start.control.version();
    let path = match spc {
        GLOBAL_TABLESPACE => "global".to_string(),
        DEFAULT_TABLESPACE => format!("base/{db}"),
        _ => format!("{}/{db}", version_directory(spc, version)),
    };
    if spc != GLOBAL_TABLESPACE {
        plan.directory(path.clone());
    }
    if has_files {
        let map = relation_map(timeline, start, (spc, db)).await?;
        if spc != GLOBAL_TABLESPACE {
            plan.file(format!("{path}/PG_VERSION"), format!("{version}\n"));
        }
        plan.file(format!("{path}/pg_filenode.map"), map);
    }
    let relations = timeline.relations(spc, db, start.lsn).await?;
    for &(rel, fork) in &relations {
        let tag = RelTag { spc, db, rel, fork };
        let unlogged = relations.contains(&(rel, Fork::Init));
        match (unlogged, fork) {
            (false, _) => relation(plan, timeline, start, (tag, fork), &path).await?,
            // A clean start takes the main fork as it is: it must be the empty one that init holds.
            (true, Fork::Init) => {
                relation(plan, timeline, start, (tag, Fork::Main), &path).await?;
                relation(plan, timeline, start, (tag, Fork::Init), &path).await?;
            }
            (true, _) => {}
        }
    }
    Ok(())
}

/// The relation map of a database, checked for its length.
pub(super) async fn relation_map(timeline: &Timeline, start: &Start, (spc, db): (u32, u32)) -> Result<Vec<u8>, ExportError> {
    let map = timeline.get(Key::rel_map(spc, db), start.lsn).await?;
    if map.len() == start.control.version().relmap_size() {
        return Ok(map.to_vec());
    }
    let what = format!("the relation map of database {db}");
    Err(ExportError::Stored { timeline: timeline.identity.timeline, lsn: start.lsn, what })
}

/// The files of a fork, written as fork `name_as`: one per GiB, an empty one for no blocks.
pub(super) async fn relation(
    plan: &mut Plan,
    timeline: &Timeline,
    start: &Start,
    (rel, name_as): (RelTag, Fork),
    directory: &str,
) -> Result<(), ExportError> {
    let size = timeline.rel_size(rel, start.lsn).await?;
    let missing =
        || ExportError::Stored { timeline: timeline.identity.timeline, lsn: start.lsn, what: format!("the size of relation {rel}") };
    let size = size.ok_or_else(missing)?;
    let mut first = 0;
    loop {
        let blocks = (size - first).min(RELATION_FILE_BLOCKS);
        let name = format!("{directory}/{}{}", rel.rel, name_as.suffix());
        let path = if first == 0 { name } else { format!("{name}.{}", first / RELATION_FILE_BLOCKS) };
        plan.files.push(File { path, content: Content::Relation { rel, first, blocks } });
        first += blocks;
        if first >= size {
            return Ok(());
        }
    }
}

/// The page of an SLRU that the server reads when it starts: that of the next entry.
fn next_page(kind: SlruKind, point: &CheckPoint) -> u32 {
    match kind {
        SlruKind::Clog => point.next_xid.xid() / XACTS_PER_PAGE,
        SlruKind::MultiXactOffsets => point.next_multi / OFFSETS_PER_PAGE,
        SlruKind::MultiXactMembers => point.next_multi_offset / MEMBERS_PER_PAGE,
        SlruKind::CommitTs => point.next_xid.xid() / COMMIT_TS_PER_PAGE,
    }
}

async fn slru(plan: &mut Plan, timeline: &Timeline, start: &Start, kind: SlruKind) -> Result<(), ExportError> {
    let mut segments = BTreeMap::new();
    for segment in timeline.slru_segments(kind, start.lsn).await?.0 {
        let stored = timeline.slru_segment_size(kind, segment, start.lsn).await?;
        segments.insert(segment, (stored, stored));
    }
    // A server without commit timestamps keeps no pages of them.
    if kind != SlruKind::CommitTs || start.control.limits.track_commit_timestamp {
        let page = next_page(kind, &start.control.checkpoint_copy);
        let (_, pages) = segments.entry(page / SlruKind::PAGES_PER_SEGMENT).or_insert((0, 0));
        *pages = (*pages).max(page % SlruKind::PAGES_PER_SEGMENT + 1);
    }
    for (segment, (stored, pages)) in segments {
        let path = format!("{}/{segment:04X}", kind.directory());
        plan.files.push(File { path, content: Content::Slru { kind, segment, stored, pages } });
    }
    Ok(())
}

pub(super) async fn two_phase(plan: &mut Plan, timeline: &Timeline, start: &Start) -> Result<(), ExportError> {
    for xid in timeline.two_phase_dir(start.lsn).await?.0 {
        let mut state = timeline.get(Key::two_phase_file(xid), start.lsn).await?.to_vec();
        state.extend_from_slice(&crc32c::crc32c(&state).to_le_bytes());
        let long_name = start.control.version() >= PgVersion::V17;
        let path = if long_name { format!("pg_twophase/{xid:016X}") } else { format!("pg_twophase/{xid:08X}") };
        plan.file(path, state);
    }
    Ok(())
}
