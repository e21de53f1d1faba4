//! Files on the local machine.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whole-file operations on the local machine.
///
/// Durability: a name that was created, renamed or removed survives a crash only after [`Disk::sync_dir`] on its parent;
/// before that each change may be lost or kept on its own. `rename` replaces the target atomically: after a crash the name
/// means the old or the new file, never a mixture. File contents: see [`FileOps`].
///
/// Errors are `io::Error`: `NotFound` and `AlreadyExists` are answers; `StorageFull` may be retried after space was freed; any
/// other is a fault of the device.
/// Every method is synchronous and may block for as long as the device takes: call long ones through `Tasks::blocking`.
pub trait Disk: Send + Sync {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<DiskFile>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Creates the directory and its parents; fine if it is there.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with everything in it; fine if it is absent. Not atomic.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Entries sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;

    /// Takes a file as a lock, which it creates if needed: nobody else on this machine has it until the value is dropped or the
    /// process ends in whichever way. `WouldBlock` if somebody has it. A disk that only one process can reach has no locks.
    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        let _ = path;
        Ok(Box::new(()))
    }

    /// Where a symbolic link points; `None` for anything else. Only data directories of servers hold links.
    fn link_target(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let _ = path;
        Ok(None)
    }

    /// Creates a symbolic link. `Unsupported` where there are none.
    fn create_link(&self, target: &Path, link: &Path) -> io::Result<()> {
        let _ = (target, link);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Holds a lock while it lives.
pub type DiskLock = Box<dyn Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, reads only.
    Read,
    /// Existing file, reads and writes.
    ReadWrite,
    /// New file; `AlreadyExists` if the name is taken.
    CreateNew,
    /// New or emptied file.
    CreateTruncate,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
    /// Length of a file in bytes, 0 for a directory.
    pub len: u64,
}

/// Size of a file system in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub total: u64,
    pub available: u64,
}

/// Operations on an open file.
///
/// After `sync_data` returned, all bytes and the length written before it survive a crash. A crash before that may keep any
/// subset of the written 512-byte sectors, in any order, and the new length with zeros behind it. After `sync_data`
/// failed, what was written since the last success may be lost although it can still be read, and a later success
/// does not bring it back: write again to a new file, or stop. Reads see every write that returned.
pub trait FileOps: Send + Sync + fmt::Debug {
    /// Reads at `offset` until `buf` is full or the file ends; gives the number of bytes read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `buf`, extending the file with zeros up to `offset` if needed.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// An open file. An enum, because page and layer reads go through it: the real variant costs no virtual call.
#[derive(Clone, Debug)]
pub enum DiskFile {
    Real(Arc<super::real::RealFile>),
    Simulated(Arc<dyn FileOps>),
}

macro_rules! delegate {
    ($self:ident, $method:ident $(, $arg:expr)*) => {
        match $self {
            DiskFile::Real(file) => file.$method($($arg),*),
            DiskFile::Simulated(file) => file.$method($($arg),*),
        }
    };
}

impl FileOps for DiskFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        delegate!(self, read_at, offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        delegate!(self, write_at, offset, buf)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        delegate!(self, set_len, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        delegate!(self, sync_data)
    }

    fn len(&self) -> io::Result<u64> {
        delegate!(self, len)
    }
}

impl DiskFile {
    /// Fills `buf` from `offset`; `UnexpectedEof` if the file is shorter.
    pub fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.read_at(offset, buf)? {
            n if n == buf.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Reads a whole file.
pub fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a file atomically and durably: temporary name, sync, rename, sync of the directory.
pub fn write_file_durably(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(TEMPORARY_SUFFIX);
    let temporary = Path::new(&temporary);
    let file = disk.open(temporary, OpenMode::CreateTruncate)?;
    file.write_at(0, bytes)?;
    file.sync_data()?;
    disk.rename(temporary, path)?;
    disk.sync_dir(parent)
}

/// Creates a directory below `root` (and `root` itself) so that it survives a crash: every name on the way is made durable,
/// also those that an earlier life created without getting that far.
pub fn create_dir_durably(disk: &dyn Disk, root: &Path, path: &Path) -> io::Result<()> {
    disk.create_dir_all(path)?;
    for directory in path.ancestors() {
        // The parent of a relative path of one name is the working directory.
        let parent = directory.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
        parent.map_or(Ok(()), |parent| disk.sync_dir(parent))?;
        if directory == root {
            break;
        }
    }
    Ok(())
}

/// Ends the name of a file that is still being written. Such files are removed at start.
pub const TEMPORARY_SUFFIX: &str = ".___temp";
