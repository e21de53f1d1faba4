//! What a data directory holds: a walk over names and sizes; no content is read.
//!
//! Left out: temporary relations and files, pg_internal.init, the forks of unlogged relations that do not survive a crash, and
//! everything a stopped server does not need (notifications, statistics, replication slots).

use super::ImportError;
use crate::io_abstraction::disk::{DirEntry, Disk};
use crate::pg::control::{ControlFile, RELATION_FILE_BLOCKS};
use crate::pg::version::PgVersion;
use crate::types::rel::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE};
use crate::types::{Fork, PAGE_SIZE, SlruKind};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A file and the number of its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageFile {
    pub path: PathBuf,
    pub pages: u32,
}

/// A database's directory in one tablespace.
#[derive(Debug)]
pub struct Database {
    pub directory: PathBuf,
    /// It holds pg_filenode.map (and PG_VERSION).
    pub has_map: bool,
    /// Segment files of each fork, in order; all but the last are full.
    pub relations: BTreeMap<(u32, Fork), Vec<PageFile>>,
}

/// The files of a cluster.
#[derive(Debug)]
pub struct Tree {
    /// By (tablespace, database).
    pub databases: BTreeMap<(u32, u32), Database>,
    pub slrus: BTreeMap<SlruKind, BTreeMap<u32, PageFile>>,
    /// By transaction; the full 64-bit one in 17 and later.
    pub two_phase: BTreeMap<u64, PathBuf>,
    /// Tablespaces that users created, with their directories.
    pub tablespaces: BTreeMap<u32, String>,
}

/// Name of a cluster's directory inside a tablespace: versions can share a tablespace.
pub fn tablespace_version_directory(control: &ControlFile) -> String {
    format!("PG_{}_{}", control.version().major(), control.version().catalog_version())
}

pub fn scan(disk: &dyn Disk, root: &Path, control: &ControlFile) -> Result<Tree, ImportError> {
    let mut databases = BTreeMap::new();
    databases.insert((GLOBAL_TABLESPACE, 0), database(disk, &root.join("global"))?);
    for (db, directory) in numbered_directories(disk, &root.join("base"))? {
        databases.insert((DEFAULT_TABLESPACE, db), database(disk, &directory)?);
    }
    let mut tablespaces = BTreeMap::new();
    for (spc, directory) in numbered_directories(disk, &root.join("pg_tblspc"))? {
        let target = disk.link_target(&directory).map_err(ImportError::io(&directory))?.unwrap_or_else(|| directory.clone());
        let text = target.to_str().ok_or_else(|| ImportError::file(&directory, "the tablespace's path is not UTF-8"))?;
        tablespaces.insert(spc, text.to_string());
        let inside = directory.join(tablespace_version_directory(control));
        for (db, directory) in numbered_directories(disk, &inside)? {
            databases.insert((spc, db), database(disk, &directory)?);
        }
    }
    let mut slrus = BTreeMap::new();
    for kind in SlruKind::ALL {
        slrus.insert(kind, slru(disk, &root.join(kind.directory()))?);
    }
    let two_phase = two_phase(disk, &root.join("pg_twophase"), control.version())?;
    Ok(Tree { databases, slrus, two_phase, tablespaces })
}

/// Entries of a directory; none if it is absent.
fn list(disk: &dyn Disk, directory: &Path) -> Result<Vec<DirEntry>, ImportError> {
    match disk.list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(ImportError::io(directory)),
    }
}

/// A number as PostgreSQL writes it in file names.
fn number(text: &str) -> Option<u32> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    canonical.then(|| text.parse().ok()).flatten()
}

fn numbered_directories(disk: &dyn Disk, directory: &Path) -> Result<BTreeMap<u32, PathBuf>, ImportError> {
    let entries = list(disk, directory)?;
    Ok(entries.iter().filter(|e| e.is_dir).filter_map(|e| Some((number(&e.name)?, directory.join(&e.name)))).collect())
}

/// Takes `16384_fsm.2` apart: relation, fork, segment. `None` for files that are no part of a permanent relation.
fn relation_file(name: &str) -> Option<(u32, Fork, u32)> {
    let (stem, segment) = match name.split_once('.') {
        Some((stem, segment)) => (stem, number(segment)?),
        None => (name, 0),
    };
    let (rel, fork) = match stem.split_once('_') {
        Some((rel, suffix)) => (rel, Fork::ALL.into_iter().skip(1).find(|fork| fork.suffix().strip_prefix('_') == Some(suffix))?),
        None => (stem, Fork::Main),
    };
    Some((number(rel)?, fork, segment))
}

fn pages(path: &Path, len: u64) -> Result<u32, ImportError> {
    let page = PAGE_SIZE as u64;
    if !len.is_multiple_of(page) {
        return Err(ImportError::file(path, format!("has {len} bytes, not a multiple of {page}: the file is damaged")));
    }
    u32::try_from(len / page).map_err(|_| ImportError::file(path, format!("has {len} bytes, more than any file of a cluster")))
}

fn database(disk: &dyn Disk, directory: &Path) -> Result<Database, ImportError> {
    let mut has_map = false;
    let mut files: BTreeMap<(u32, Fork), BTreeMap<u32, PageFile>> = BTreeMap::new();
    for entry in list(disk, directory)?.iter().filter(|e| !e.is_dir) {
        has_map |= entry.name == "pg_filenode.map";
        let Some((rel, fork, segment)) = relation_file(&entry.name) else { continue };
        let path = directory.join(&entry.name);
        let pages = pages(&path, entry.len)?;
        files.entry((rel, fork)).or_default().insert(segment, PageFile { path, pages });
    }
    let unlogged: Vec<u32> = files.keys().filter(|(_, fork)| *fork == Fork::Init).map(|(rel, _)| *rel).collect();
    files.retain(|(rel, fork), _| *fork == Fork::Init || unlogged.binary_search(rel).is_err());
    let mut relations = BTreeMap::new();
    for (name, segments) in files {
        // Leftovers of a dropped relation have no first segment.
        let orphan = !segments.contains_key(&0) && segments.values().all(|file| file.pages == 0);
        if !orphan {
            relations.insert(name, join_segments(segments)?);
        }
    }
    Ok(Database { directory: directory.to_path_buf(), has_map, relations })
}

/// Checks that the segments make one relation. Empty files behind the last one are what truncation leaves.
fn join_segments(segments: BTreeMap<u32, PageFile>) -> Result<Vec<PageFile>, ImportError> {
    let mut joined: Vec<PageFile> = Vec::new();
    for (segment, file) in segments {
        if file.pages == 0 && segment > 0 {
            continue;
        }
        let full = joined.last().is_none_or(|last| last.pages == RELATION_FILE_BLOCKS);
        if file.pages > RELATION_FILE_BLOCKS {
            return Err(ImportError::file(&file.path, "is larger than 1 GiB, which no file of a relation is"));
        }
        if segment as usize != joined.len() || !full {
            return Err(ImportError::file(&file.path, "the file before it is missing or not full (1 GiB): the relation is damaged"));
        }
        // One block number is no block: it marks "none".
        if segment >= u32::MAX / RELATION_FILE_BLOCKS {
            return Err(ImportError::file(&file.path, "the relation has more blocks than can be numbered"));
        }
        joined.push(file);
    }
    Ok(joined)
}

fn slru(disk: &dyn Disk, directory: &Path) -> Result<BTreeMap<u32, PageFile>, ImportError> {
    let mut segments = BTreeMap::new();
    for entry in list(disk, directory)?.iter().filter(|e| !e.is_dir) {
        let hex = (4..=6).contains(&entry.name.len()) && entry.name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        let Some(segment) = hex.then(|| u32::from_str_radix(&entry.name, 16).ok()).flatten() else { continue };
        let path = directory.join(&entry.name);
        let pages = pages(&path, entry.len)?;
        if pages > SlruKind::PAGES_PER_SEGMENT {
            return Err(ImportError::file(&path, format!("has {pages} pages, a segment has at most {}", SlruKind::PAGES_PER_SEGMENT)));
        }
        segments.insert(segment, PageFile { path, pages });
    }
    Ok(segments)
}

/// State files of prepared transactions, named by 8 hexadecimal digits (17 and later: 16).
fn two_phase(disk: &dyn Disk, directory: &Path, version: PgVersion) -> Result<BTreeMap<u64, PathBuf>, ImportError> {
    let digits = if version >= PgVersion::V17 { 16 } else { 8 };
    let mut files = BTreeMap::new();
    for entry in list(disk, directory)?.iter().filter(|e| !e.is_dir) {
        let path = directory.join(&entry.name);
        let valid = entry.name.len() == digits && entry.name.bytes().all(|b| b.is_ascii_hexdigit());
        let xid = valid.then(|| u64::from_str_radix(&entry.name, 16).ok()).flatten().filter(|&xid| xid != 0);
        let xid =
            xid.ok_or_else(|| ImportError::file(&path, format!("is not named by the {digits} hexadecimal digits of a transaction")))?;
        files.insert(xid, path);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_relation_files() {
        for (name, want) in [
            ("1259", Some((1259, Fork::Main, 0))),
            ("1259_fsm", Some((1259, Fork::Fsm, 0))),
            ("16384_vm.3", Some((16384, Fork::Vm, 3))),
            ("16384_init", Some((16384, Fork::Init, 0))),
            ("16384.12", Some((16384, Fork::Main, 12))),
            ("4294967295", Some((u32::MAX, Fork::Main, 0))),
            ("4294967296", None),
            ("t3_16390", None),
            ("16384_", None),
            ("16384_main", None),
            ("16384.0", None),
            ("16384.x", None),
            ("0", None),
            ("01259", None),
            ("", None),
            ("PG_VERSION", None),
            ("pg_internal.init", None),
            ("pg_filenode.map", None),
        ] {
            assert_eq!(relation_file(name), want, "{name}");
        }
    }

    #[test]
    fn segments_make_one_relation() {
        let check = |sizes: &[(u32, u32)], want: Option<usize>| {
            let file = |pages| PageFile { path: PathBuf::from("x"), pages };
            let joined = join_segments(sizes.iter().map(|&(n, pages)| (n, file(pages))).collect());
            assert_eq!(joined.ok().map(|files| files.len()), want, "{sizes:?}");
        };
        const FULL: u32 = RELATION_FILE_BLOCKS;
        check(&[(0, 0)], Some(1));
        check(&[(0, 7)], Some(1));
        check(&[(0, FULL), (1, 7)], Some(2));
        check(&[(0, FULL), (1, 0)], Some(1));
        check(&[(0, FULL), (1, 0), (2, 1)], None);
        check(&[(0, FULL), (1, 7), (2, 0)], Some(2));
        check(&[(0, 7), (1, 0), (2, 0)], Some(1));
        check(&[(0, 7), (1, 1)], None);
        check(&[(0, FULL), (2, 1)], None);
        check(&[(1, 1)], None);
        check(&[(0, FULL + 1)], None);
    }
}
