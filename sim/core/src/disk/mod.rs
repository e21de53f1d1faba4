//! The simulated disk: the contract of `io_abstraction::Disk`, no kinder than its text.
//!
//! [`SimDisk`] is the device and outlives processes; [`SimDisk::mount`] gives one incarnation of a host its view. A crash
//! bumps the incarnation first, so that every handle of the dead process (whose destructors still run in a simulator) gets
//! errors and changes nothing. Power loss takes back what was not synced: sectors, lengths and names, each on its own. A
//! process crash keeps the page cache. A wipe is the loss of the machine.

mod hostile;
mod inode;
mod names;

pub use inode::{CrashEffect, SECTOR};

use crate::event;
use crate::fuse::Fuse;
use crate::held::{Hold, Ledger};
use crate::trace::{HostTrace, error_name};
use inode::Inode;
use names::{Ino, Names, Node, parent};
use palimpsest::io_abstraction::disk::{DiskSpace, FileOps};
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{DetRng, DirEntry, Disk, DiskFile, OpenMode, RngSource};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

/// Errors of the device. All off by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskFaults {
    /// Chance of EIO per read, in parts per million.
    pub read_error_ppm: u32,
    pub write_error_ppm: u32,
    /// Chance that a sync fails and loses the written pages.
    pub sync_error_ppm: u32,
    /// At most so many errors are injected.
    pub budget: u32,
    /// Only files whose path contains all of these texts fail.
    pub only: Vec<String>,
    /// And one of these, if there are any.
    pub one_of: Vec<String>,
    /// Chances that the device is not honest: see [`hostile`].
    pub misdirected_read_ppm: u32,
    pub misdirected_write_ppm: u32,
    pub lying_sync_ppm: u32,
}

/// Inodes with no name are dropped after so many removals.
const COLLECT_EVERY: u32 = 256;

struct State {
    names: Names,
    inodes: BTreeMap<Ino, Arc<Mutex<Inode>>>,
    next_ino: Ino,
    incarnation: u64,
    capacity: u64,
    used: u64,
    removals: u32,
    faults: DiskFaults,
    /// How often the device was not honest, by what it did.
    dishonest: BTreeMap<&'static str, u64>,
    fuse: Fuse,
    rng: DetRng,
    source: RngSource,
}

/// A device with one file system.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

/// The file system as one incarnation of a host sees it.
#[derive(Clone)]
struct Mount {
    disk: SimDisk,
    incarnation: u64,
    trace: HostTrace,
    held: Ledger,
}

struct SimFile {
    mount: Mount,
    inode: Arc<Mutex<Inode>>,
    path: String,
    writable: bool,
    _open: Hold,
}

/// How a host goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrashKind {
    /// The machine loses power: what was not synced may be gone.
    PowerLoss,
    /// Only the process dies: the kernel keeps what was written.
    ProcessCrash,
    /// The machine is lost; a new one starts with an empty disk.
    Wipe,
}

impl SimDisk {
    pub fn new(source: RngSource, capacity: u64) -> SimDisk {
        let state = State {
            names: Names::default(),
            inodes: BTreeMap::new(),
            next_ino: 1,
            incarnation: 0,
            capacity,
            used: 0,
            removals: 0,
            faults: DiskFaults::default(),
            dishonest: BTreeMap::new(),
            fuse: Fuse::default(),
            rng: source.stream("faults"),
            source,
        };
        SimDisk(Arc::new(Mutex::new(state)))
    }

    /// The disk for the present incarnation, whose open files are in `held`. All handles of earlier ones are dead.
    pub fn mount(&self, trace: HostTrace, held: Ledger) -> Arc<dyn Disk> {
        let incarnation = self.incarnation();
        Arc::new(Mount { disk: self.clone(), incarnation, trace, held })
    }

    pub fn incarnation(&self) -> u64 {
        self.0.lock().incarnation
    }

    pub fn set_faults(&self, faults: DiskFaults) {
        self.0.lock().faults = faults;
    }

    /// Begins an episode of faults. Its draws are its own: an episode that is left out changes no other.
    pub fn begin_faults(&self, episode: u32, faults: DiskFaults) {
        let mut state = self.0.lock();
        state.rng = state.source.stream(&format!("faults-{episode}"));
        state.faults = faults;
    }

    /// Burns with every change, and stops them all once it is through.
    pub fn fuse(&self) -> Fuse {
        self.0.lock().fuse.clone()
    }

    /// Bytes in files.
    pub fn used(&self) -> u64 {
        self.0.lock().used
    }

    /// Paths of all files.
    pub fn files(&self) -> Vec<String> {
        self.0.lock().names.files().map(|(path, _)| path.to_string()).collect()
    }

    /// Flips a bit of a file, on the medium and in the cache; `pick` chooses which. Gives false if the file is empty or absent.
    pub fn rot(&self, path: &str, pick: u64) -> bool {
        let state = self.0.lock();
        let Some(Node::File(ino)) = state.names.get(path) else { return false };
        let Some(mut inode) = state.inodes.get(&ino).map(|inode| inode.lock()) else { return false };
        let bit = (pick >> 3).checked_rem(inode.len()).map(|byte| (byte, pick % 8));
        bit.is_some_and(|(byte, bit)| {
            inode.flip(byte, bit as u32);
            true
        })
    }

    /// Changes the size of the device in bytes; it may shrink below what is used.
    pub fn set_capacity(&self, capacity: u64) {
        self.0.lock().capacity = capacity;
    }

    /// Ends the present incarnation.
    pub fn crash(&self, kind: CrashKind, trace: &HostTrace) {
        let mut state = self.0.lock();
        let state = &mut *state;
        state.incarnation += 1;
        let mut effect = CrashEffect::default();
        let mut names_lost = 0;
        match kind {
            CrashKind::ProcessCrash => {}
            CrashKind::Wipe => {
                state.names = Names::default();
                state.inodes.clear();
            }
            CrashKind::PowerLoss => {
                let mut rng = state.source.stream(&format!("crash-{}", state.incarnation));
                names_lost = state.names.crash(&mut rng);
                for inode in state.inodes.values() {
                    let one = inode.lock().crash(&mut rng);
                    effect.kept_sectors += one.kept_sectors;
                    effect.lost_sectors += one.lost_sectors;
                }
                let named: BTreeSet<Ino> = state.names.files().map(|(_, ino)| ino).collect();
                state.inodes.retain(|ino, _| named.contains(ino));
            }
        }
        state.recount();
        event!(
            trace,
            "disk",
            "op=crash kind={kind:?} kept_sectors={} lost_sectors={} lost_names={names_lost}",
            effect.kept_sectors,
            effect.lost_sectors
        );
    }
}

impl State {
    fn recount(&mut self) {
        self.used = self.names.files().filter_map(|(_, ino)| self.inodes.get(&ino)).map(|i| i.lock().len()).sum();
    }

    fn fails(&mut self, ppm: u32, path: &str) -> bool {
        if ppm == 0
            || self.faults.budget == 0
            || !self.faults.only.iter().all(|part| path.contains(part))
            || !(self.faults.one_of.is_empty() || self.faults.one_of.iter().any(|part| path.contains(part)))
            || below(&mut self.rng, 1_000_000) >= u64::from(ppm)
        {
            return false;
        }
        self.faults.budget -= 1;
        true
    }

    /// Accounts for a file that grows.
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        if self.used.saturating_add(bytes) > self.capacity {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        self.used += bytes;
        Ok(())
    }

    fn forget_name(&mut self, ino: Ino) {
        let len = self.inodes.get(&ino).map_or(0, |i| i.lock().len());
        self.used = self.used.saturating_sub(len);
        self.removals += 1;
        if self.removals >= COLLECT_EVERY {
            self.removals = 0;
            // A name in the journal or on the medium may come back at a crash: those files stay.
            let reachable = self.names.reachable();
            self.inodes.retain(|ino, inode| Arc::strong_count(inode) > 1 || reachable.contains(ino));
        }
    }

    fn new_inode(&mut self) -> (Ino, Arc<Mutex<Inode>>) {
        let ino = self.next_ino;
        self.next_ino += 1;
        let inode = Arc::new(Mutex::new(Inode::default()));
        self.inodes.insert(ino, inode.clone());
        (ino, inode)
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What a process is told that was killed: nobody hears what it says about that.
pub const DEAD: &str = "the process that opened this is dead";

/// The process that owns the handle was killed.
fn dead() -> io::Error {
    io::Error::other(DEAD)
}

/// Absolute path with `.` and `..` resolved, no trailing slash; the root is the empty string.
fn normalise(path: &Path) -> io::Result<String> {
    let mut out = String::with_capacity(path.as_os_str().len() + 1);
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => out.truncate(parent(&out).len()),
            Component::Normal(name) => {
                let name = name.to_str().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
                out.push('/');
                out.push_str(name);
            }
            Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(out)
}

impl Mount {
    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.disk.0.lock();
        if state.incarnation == self.incarnation && !state.fuse.blown() { Ok(state) } else { Err(dead()) }
    }

    /// As [`Mount::state`], for an operation that changes something.
    fn changing(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.state()?;
        if state.fuse.burn() { Err(dead()) } else { Ok(state) }
    }

    /// Traces the outcome of an operation.
    fn traced<T>(&self, op: &str, path: &str, result: io::Result<T>) -> io::Result<T> {
        // A dead process writes no lines: its destructors are an artefact of the simulator.
        if self.disk.incarnation() == self.incarnation {
            match &result {
                Ok(_) => event!(self.trace, "disk", "op={op} path={path}"),
                Err(e) => event!(self.trace, "disk", "op={op} path={path} error={}", error_name(e)),
            }
        }
        result
    }

    fn open_inner(&self, path: &str, mode: OpenMode) -> io::Result<Arc<Mutex<Inode>>> {
        let mut state = if matches!(mode, OpenMode::CreateNew | OpenMode::CreateTruncate) { self.changing()? } else { self.state()? };
        state.names.require_dir(parent(path))?;
        match (state.names.get(path), mode) {
            (Some(Node::Dir), _) => Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(_)), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(ino)), _) => {
                let inode = state.inodes.get(&ino).cloned().ok_or(io::ErrorKind::NotFound)?;
                if mode == OpenMode::CreateTruncate {
                    let len = inode.lock().len();
                    state.used = state.used.saturating_sub(len);
                    inode.lock().set_len(0);
                }
                Ok(inode)
            }
            (None, OpenMode::Read | OpenMode::ReadWrite) => Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::CreateNew | OpenMode::CreateTruncate) => {
                let (ino, inode) = state.new_inode();
                state.names.apply(vec![(path.to_string(), Some(Node::File(ino)))]);
                Ok(inode)
            }
        }
    }

    fn rename_inner(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.changing()?;
        let node = state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.require_dir(parent(to))?;
        if from == to {
            return Ok(());
        }
        let mut operation = vec![(from.to_string(), None), (to.to_string(), Some(node))];
        match (node, state.names.get(to)) {
            (Node::File(_), Some(Node::Dir)) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::File(_), Some(Node::File(old))) => state.forget_name(old),
            (Node::File(_), None) => {}
            (Node::Dir, Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
            (Node::Dir, there) => {
                if there.is_some() && state.names.children(to).next().is_some() {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                if to.starts_with(&format!("{from}/")) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                // Paths are whole here, so what is inside moves along in the same operation.
                for (path, inner) in state.names.subtree(from) {
                    let moved = format!("{to}{}", &path[from.len()..]);
                    operation.push((path, None));
                    operation.push((moved, Some(inner)));
                }
            }
        }
        state.names.apply(operation);
        Ok(())
    }

    fn unlink_inner(&self, path: &str) -> io::Result<()> {
        let mut state = self.changing()?;
        match state.names.get(path) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::File(ino)) => {
                state.forget_name(ino);
                state.names.apply(vec![(path.to_string(), None)]);
                Ok(())
            }
        }
    }

    fn create_dir_inner(&self, path: &str) -> io::Result<()> {
        let mut state = self.changing()?;
        let ends = path.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| at).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            let dir = &path[..end];
            match state.names.get(dir) {
                Some(Node::Dir) => {}
                Some(Node::File(_)) if end == path.len() => return Err(io::ErrorKind::AlreadyExists.into()),
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => state.names.apply(vec![(dir.to_string(), Some(Node::Dir))]),
            }
        }
        Ok(())
    }

    fn remove_dir_inner(&self, path: &str) -> io::Result<()> {
        let mut state = self.changing()?;
        match state.names.get(path) {
            None => return Ok(()),
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Dir) => {}
        }
        for (inner, node) in state.names.subtree(path) {
            if let Node::File(ino) = node {
                state.forget_name(ino);
            }
            state.names.apply(vec![(inner, None)]);
        }
        state.names.apply(vec![(path.to_string(), None)]);
        Ok(())
    }

    fn list_inner(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        let state = self.state()?;
        state.names.require_dir(path)?;
        let mut entries: Vec<DirEntry> = state
            .names
            .children(path)
            .map(|(name, node)| match node {
                Node::Dir => DirEntry { name: name.to_string(), is_dir: true, len: 0 },
                Node::File(ino) => {
                    let len = state.inodes.get(&ino).map_or(0, |i| i.lock().len());
                    DirEntry { name: name.to_string(), is_dir: false, len }
                }
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    fn sync_dir_inner(&self, path: &str) -> io::Result<()> {
        let mut state = self.changing()?;
        state.names.require_dir(path)?;
        state.names.sync_dir(path);
        Ok(())
    }
}

impl Disk for Mount {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<DiskFile> {
        let path = normalise(path)?;
        let op = match mode {
            OpenMode::Read => "open",
            OpenMode::ReadWrite => "open_rw",
            OpenMode::CreateNew => "create_new",
            OpenMode::CreateTruncate => "create",
        };
        let inode = self.traced(op, &path, self.open_inner(&path, mode))?;
        let writable = mode != OpenMode::Read;
        let open = self.held.hold(&format!("file {path}"));
        Ok(DiskFile::Simulated(Arc::new(SimFile { mount: self.clone(), inode, path, writable, _open: open })))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normalise(from)?, normalise(to)?);
        self.traced("rename", &format!("{from} to={to}"), self.rename_inner(&from, &to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let path = normalise(path)?;
        self.traced("unlink", &path, self.unlink_inner(&path))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = normalise(path)?;
        self.traced("mkdir", &path, self.create_dir_inner(&path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = normalise(path)?;
        self.traced("remove_dir", &path, self.remove_dir_inner(&path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let path = normalise(path)?;
        self.traced("list", &path, self.list_inner(&path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = normalise(path)?;
        self.traced("sync_dir", &path, self.sync_dir_inner(&path))
    }

    fn space(&self, _path: &Path) -> io::Result<DiskSpace> {
        let state = self.state()?;
        Ok(DiskSpace { total: state.capacity, available: state.capacity.saturating_sub(state.used) })
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path)
    }
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        // What the kernel says to a write on a descriptor that was opened for reading.
        if self.writable { Ok(()) } else { Err(io::Error::from_raw_os_error(9)) }
    }

    fn write_inner(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut state = self.mount.changing()?;
        self.check_writable()?;
        let ppm = state.faults.write_error_ppm;
        if state.fails(ppm, &self.path) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let end = offset.checked_add(buf.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut inode = self.inode.lock();
        if !buf.is_empty() {
            state.grow(end.saturating_sub(inode.len()))?;
        }
        match state.misdirected_write(&self.path, inode.len(), offset, buf.len() as u64) {
            None => inode.write(offset, buf),
            Some(elsewhere) => {
                event!(self.mount.trace, "fault", "op=misdirected_write path={} off={offset} to={elsewhere}", self.path);
                inode.write(elsewhere, buf);
                let len = inode.len().max(end);
                inode.set_len(len);
            }
        }
        Ok(())
    }

    fn sync_inner(&self) -> io::Result<()> {
        let mut state = self.mount.changing()?;
        let ppm = state.faults.sync_error_ppm;
        if state.fails(ppm, &self.path) {
            self.inode.lock().fail_sync();
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if state.lies(&self.path) {
            event!(self.mount.trace, "fault", "op=sync_lied path={}", self.path);
            return Ok(());
        }
        self.inode.lock().sync();
        Ok(())
    }
}

impl FileOps for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.mount.state()?;
        let ppm = state.faults.read_error_ppm;
        if state.fails(ppm, &self.path) {
            event!(self.mount.trace, "disk", "op=read path={} off={offset} error=os5", self.path);
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let inode = self.inode.lock();
        let there = inode.len().saturating_sub(offset).min(buf.len() as u64);
        let from = state.misdirected_read(&self.path, inode.len(), offset, there).unwrap_or(offset);
        if from != offset {
            event!(self.mount.trace, "fault", "op=misdirected_read path={} off={offset} from={from}", self.path);
        }
        let read = inode.read(from, &mut buf[..there as usize]);
        event!(self.mount.trace, "disk", "op=read path={} off={offset} len={read}", self.path);
        Ok(read)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.mount.traced("write", &format!("{} off={offset} len={}", self.path, buf.len()), self.write_inner(offset, buf))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let result = (|| {
            let mut state = self.mount.changing()?;
            self.check_writable()?;
            let mut inode = self.inode.lock();
            let old = inode.len();
            state.grow(len.saturating_sub(old))?;
            state.used = state.used.saturating_sub(old.saturating_sub(len));
            inode.set_len(len);
            Ok(())
        })();
        self.mount.traced("set_len", &format!("{} len={len}", self.path), result)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.mount.traced("sync", &self.path, self.sync_inner())
    }

    fn len(&self) -> io::Result<u64> {
        let _alive = self.mount.state()?;
        Ok(self.inode.lock().len())
    }
}

#[cfg(test)]
mod tests;
