//! Compares an export, before its first start, with a stock standby that stopped at the same LSN.
//!
//! Every relation file of either side must be on the other, of equal length, and equal page by page: LSN and prune xid exactly,
//! the rest after the masking that consistency checks of stock PostgreSQL do. Left out: free space maps, main forks of unlogged
//! relations, WAL, statistics. pg_xact, pg_multixact and pg_commit_ts are compared up to the next id.

use palimpsest::pg::checksum::page_checksum;
use palimpsest::pg::control::ControlFile;
use palimpsest::pg::mask::mask_page;
use palimpsest::types::{Fork, PAGE_SIZE};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was compared.
#[derive(Debug, Default)]
pub struct Compared {
    pub files: u64,
    pub pages: u64,
    /// Pages of which something differed before masking, checksum aside.
    pub masked: u64,
    pub xids: u64,
    pub multixacts: u64,
    pub differences: Vec<String>,
}

const SHOWN_MAX: usize = 20;
const BLOCKS_PER_FILE: u32 = 131_072;

/// Compares two stopped data directories.
pub fn compare(export: &Path, standby: &Path) -> Compared {
    let mut out = Compared::default();
    let (ours, theirs) = (files(export), files(standby));
    let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        if let Some(init) = init_of(name)
            && (ours.contains_key(&init) || theirs.contains_key(&init))
        {
            continue;
        }
        match (ours.get(name), theirs.get(name)) {
            (Some(a), Some(b)) => compare_file(name, &read(a), &read(b), &mut out),
            (Some(_), None) => out.differs(format!("{name} is in the export only")),
            (None, _) => out.differs(format!("{name} is missing in the export")),
        }
    }
    compare_state(export, standby, &mut out);
    out
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

impl Compared {
    fn differs(&mut self, what: String) {
        if self.differences.len() < SHOWN_MAX {
            self.differences.push(what);
        }
    }
}

/// Directories whose files are compared, by their path in the data directory; tablespaces are followed.
fn files(data: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for top in ["base", "global", "pg_tblspc", "pg_twophase"] {
        walk(&data.join(top), top, &mut found);
    }
    found
}

fn walk(directory: &Path, name: &str, found: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let (path, file) = (entry.path(), entry.file_name().into_string().unwrap());
        let name = format!("{name}/{file}");
        if path.is_dir() {
            walk(&path, &name, found);
        } else if !is_left_out(&file) {
            found.insert(name, path);
        }
    }
}

fn is_left_out(file: &str) -> bool {
    // Caches, the control file (compared by its fields), free space maps.
    file == "pg_control" || file.starts_with("pg_internal.init") || file.split('.').next().is_some_and(|f| f.ends_with("_fsm"))
}

/// The init fork of the relation whose main fork this file belongs to.
fn init_of(name: &str) -> Option<String> {
    let (directory, file) = name.rsplit_once('/')?;
    let number = file.split('.').next()?;
    number.bytes().all(|b| b.is_ascii_digit()).then(|| format!("{directory}/{number}_init"))
}

fn compare_file(name: &str, ours: &[u8], theirs: &[u8], out: &mut Compared) {
    out.files += 1;
    let file = name.rsplit('/').next().unwrap_or(name);
    let (stem, segment) = file.split_once('.').unwrap_or((file, "0"));
    let (number, fork) = stem.split_once('_').unwrap_or((stem, "main"));
    if !number.bytes().all(|b| b.is_ascii_digit()) || name.starts_with("pg_twophase") {
        if ours != theirs {
            out.differs(format!("{name} differs"));
        }
        return;
    }
    if ours.len() != theirs.len() {
        out.differs(format!("{name}: {} pages in the export, {} in the standby", ours.len() / PAGE_SIZE, theirs.len() / PAGE_SIZE));
        return;
    }
    let fork = match fork {
        "vm" => Fork::Vm,
        "init" => Fork::Init,
        _ => Fork::Main,
    };
    let first = segment.parse::<u32>().unwrap() * BLOCKS_PER_FILE;
    let (a, b) = (ours.as_chunks::<PAGE_SIZE>().0, theirs.as_chunks::<PAGE_SIZE>().0);
    for (block, (a, b)) in (first..).zip(a.iter().zip(b)) {
        out.pages += 1;
        if let Some(what) = compare_page(fork, block, a, b, &mut out.masked) {
            out.differs(format!("{name} block {block}: {what}"));
        }
    }
}

fn compare_page(fork: Fork, block: u32, ours: &[u8; PAGE_SIZE], theirs: &[u8; PAGE_SIZE], masked: &mut u64) -> Option<String> {
    if ours == theirs {
        return None;
    }
    let lsn = |page: &[u8; PAGE_SIZE]| {
        let half = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        format!("{:X}/{:X}", half(0), half(4))
    };
    if ours[..8] != theirs[..8] {
        return Some(format!("page LSN {} in the export, {} in the standby", lsn(ours), lsn(theirs)));
    }
    if ours[20..24] != theirs[20..24] && special_of(ours) == PAGE_SIZE {
        return Some(format!("prune xid {:02x?} in the export, {:02x?} in the standby", &ours[20..24], &theirs[20..24]));
    }
    let is_new = |page: &[u8; PAGE_SIZE]| page.iter().all(|b| *b == 0);
    if !is_new(ours) && u16::from_le_bytes([ours[8], ours[9]]) != page_checksum(ours, block) {
        return Some("the export's checksum is wrong".to_string());
    }
    if ours[10..] != theirs[10..] {
        *masked += 1;
    }
    let (mut a, mut b) = (*ours, *theirs);
    let rmgr = access_method(theirs);
    mask_page(rmgr, fork, block, &mut a);
    mask_page(rmgr, fork, block, &mut b);
    let at = a.iter().zip(&b).position(|(x, y)| x != y)?;
    let end = PAGE_SIZE.min(at + 16);
    let count = a.iter().zip(&b).filter(|(x, y)| x != y).count();
    Some(format!(
        "LSN {}, resource manager {rmgr}: {count} bytes differ, from {at} on: {:02x?} in the export, {:02x?} in the standby",
        lsn(ours),
        &a[at..end],
        &b[at..end]
    ))
}

fn special_of(page: &[u8; PAGE_SIZE]) -> usize {
    usize::from(u16::from_le_bytes([page[16], page[17]]))
}

/// The resource manager whose masks hold, by the page's special area. Source: reference wal-redo, section 3.
fn access_method(page: &[u8; PAGE_SIZE]) -> u8 {
    let last = u16::from_le_bytes([page[PAGE_SIZE - 2], page[PAGE_SIZE - 1]]);
    match (PAGE_SIZE.checked_sub(special_of(page)), last) {
        (Some(0), _) => 10,
        (Some(16), 0xFF80) => 12,
        (Some(16), 0xFF81) => 14,
        (Some(16), _) => 11,
        (Some(8), 0xFF82) => 16,
        (Some(8), 0xF091..=0xF093) => 17,
        (Some(8), _) if page[PAGE_SIZE - 8..PAGE_SIZE - 4] == 0x1717u32.to_le_bytes() => 15,
        (Some(8), _) => 13,
        // Not a page with borders: compared as it is.
        _ => 0,
    }
}

/// Next ids, and what the areas hold below them.
fn compare_state(export: &Path, standby: &Path, out: &mut Compared) {
    let control = |data: &Path| ControlFile::decode(&read(&data.join("global/pg_control"))).unwrap().checkpoint_copy;
    let (ours, theirs) = (control(export), control(standby));
    let numbers = |what: &str, a: u64, b: u64, slack: u64, out: &mut Compared| {
        if a < b || a > b + slack {
            out.differs(format!("{what}: {a} in the export, {b} in the standby"));
        }
    };
    // A step ahead is allowed: ids that were never given away.
    numbers("next xid", ours.next_xid.0, theirs.next_xid.0, 2048, out);
    numbers("next OID", ours.next_oid.into(), theirs.next_oid.into(), 8192, out);
    numbers("next multixact", ours.next_multi.into(), theirs.next_multi.into(), 0, out);
    numbers("next multixact offset", ours.next_multi_offset.into(), theirs.next_multi_offset.into(), 0, out);
    numbers("oldest xid", ours.oldest_xid.into(), theirs.oldest_xid.into(), 0, out);
    numbers("oldest multixact", ours.oldest_multi.into(), theirs.oldest_multi.into(), 0, out);
    out.xids = u64::from(theirs.next_xid.xid() - theirs.oldest_xid.max(3));
    out.multixacts = u64::from(theirs.next_multi - theirs.oldest_multi);

    let area = |name: &str| (Area::read(&export.join(name)), Area::read(&standby.join(name)));
    let xids = theirs.oldest_xid..theirs.next_xid.xid();
    let (a, b) = area("pg_xact");
    for xid in xids.clone() {
        let status = |area: &Area| area.byte(xid / 32_768, xid % 32_768 / 4).map(|byte| byte >> (xid % 4 * 2) & 3);
        if status(&a) != status(&b) {
            out.differs(format!("pg_xact: xid {xid} is {:?} in the export, {:?} in the standby", status(&a), status(&b)));
        }
    }
    let (a, b) = area("pg_commit_ts");
    if theirs.oldest_commit_ts_xid != 0 {
        compare_entries("pg_commit_ts", &a, &b, theirs.oldest_commit_ts_xid..theirs.next_xid.xid(), (819, 10), out);
    }
    let (a, b) = area("pg_multixact/offsets");
    compare_entries("pg_multixact/offsets", &a, &b, theirs.oldest_multi..theirs.next_multi, (2048, 4), out);
    let first = b.entry(theirs.oldest_multi, (2048, 4)).map_or(1, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    let (a, b) = area("pg_multixact/members");
    for offset in first..theirs.next_multi_offset {
        let (page, group, member) = (offset / 1636, offset % 1636 / 4, offset % 4);
        let value = |area: &Area| Some((area.byte(page, group * 20 + member)?, area.bytes(page, group * 20 + 4 + member * 4, 4)?.to_vec()));
        if value(&a) != value(&b) {
            out.differs(format!("pg_multixact/members: {offset} is {:?} in the export, {:?} in the standby", value(&a), value(&b)));
        }
    }
}

fn compare_entries(name: &str, ours: &Area, theirs: &Area, ids: std::ops::Range<u32>, shape: (u32, u32), out: &mut Compared) {
    for id in ids {
        let (a, b) = (ours.entry(id, shape), theirs.entry(id, shape));
        if a != b {
            out.differs(format!("{name}: {id} is {a:02x?} in the export, {b:02x?} in the standby"));
        }
    }
}

/// The segments of an SLRU area.
struct Area(BTreeMap<u32, Vec<u8>>);

impl Area {
    fn read(directory: &Path) -> Area {
        let mut segments = BTreeMap::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if let Ok(number) = u32::from_str_radix(&entry.file_name().into_string().unwrap(), 16) {
                segments.insert(number, read(&entry.path()));
            }
        }
        Area(segments)
    }

    fn bytes(&self, page: u32, at: u32, len: u32) -> Option<&[u8]> {
        let start = (page % 32) as usize * PAGE_SIZE + at as usize;
        self.0.get(&(page / 32))?.get(start..start + len as usize)
    }

    fn byte(&self, page: u32, at: u32) -> Option<u8> {
        Some(self.bytes(page, at, 1)?[0])
    }

    /// One of `per_page` entries of `len` bytes.
    fn entry(&self, id: u32, (per_page, len): (u32, u32)) -> Option<&[u8]> {
        self.bytes(id / per_page, id % per_page * len, len)
    }
}
