//! A backup's tar becomes a data directory.
//!
//! In: a tar stream from a server, an empty directory. Out: its files and directories, readable for their owner only.
//!
//! Invariants
//! - UN-1: nothing is written outside the target: names are relative, without `..`, and no link is ever made.
//! - UN-2: no file is written twice.
//! - UN-3: with `sync`, all of it is durable when the function returns.
//!
//! Synchronous: runs inside `Tasks::blocking`.

use crate::io_abstraction::disk::{Disk, DiskFile, FileOps as _, OpenMode};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Bytes written at once.
const PIECE: usize = 1 << 20;

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub files: u64,
    pub bytes: u64,
}

/// The tar cannot become a data directory here.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("{dir} is not empty: choose a directory that is empty or does not exist yet", dir = dir.display())]
    NotEmpty { dir: PathBuf },
    #[error("{path}: {source}", path = path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the backup is damaged: {0}")]
    Tar(#[source] io::Error),
    #[error("the backup names \"{0}\", which is not a path below a data directory: do not trust the server it comes from")]
    Path(String),
    #[error("the backup holds \"{path}\" of tar type {kind:?}, which no data directory needs: do not trust the server it comes from")]
    Kind { path: String, kind: EntryType },
}

/// Makes sure that `dir` is there and empty; true if it was made.
pub fn prepare(disk: &dyn Disk, dir: &Path) -> Result<bool, UnpackError> {
    let failed = |source| UnpackError::Write { path: dir.to_path_buf(), source };
    match disk.list(dir) {
        Ok(entries) if entries.is_empty() => Ok(false),
        Ok(_) => Err(UnpackError::NotEmpty { dir: dir.to_path_buf() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create_dir_all(dir).map(|()| true).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// Unpacks into `dir`, which [`prepare`] saw empty. Reads the input to its end.
///
/// Errors: what was written so far stays; see [`discard`].
pub fn unpack(disk: &dyn Disk, dir: &Path, mut input: impl Read, sync: bool) -> Result<Unpacked, UnpackError> {
    let mut target = Target { disk, dir, directories: BTreeSet::from([dir.to_path_buf()]), files: Vec::new(), bytes: 0 };
    let mut archive = tar::Archive::new(&mut input);
    for entry in archive.entries().map_err(UnpackError::Tar)? {
        target.entry(entry.map_err(UnpackError::Tar)?)?;
    }
    // The archive's padding: whoever sends it is not to be cut off in the middle.
    io::copy(&mut input, &mut io::sink()).map_err(UnpackError::Tar)?;
    if sync {
        target.sync()?;
    }
    Ok(Unpacked { files: target.files.len() as u64, bytes: target.bytes })
}

/// Removes what an unfinished [`unpack`] left, and the directory itself if it was made for that.
pub fn discard(disk: &dyn Disk, dir: &Path, made: bool) -> io::Result<()> {
    if made {
        return disk.remove_dir_all(dir);
    }
    for entry in disk.list(dir)? {
        let path = dir.join(&entry.name);
        if entry.is_dir { disk.remove_dir_all(&path)? } else { disk.unlink(&path)? }
    }
    Ok(())
}

struct Target<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    directories: BTreeSet<PathBuf>,
    files: Vec<PathBuf>,
    bytes: u64,
}

impl Target<'_> {
    fn entry(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let path = entry.path().map_err(UnpackError::Tar)?.into_owned();
        let shown = path.display().to_string();
        let relative = relative(&path).ok_or_else(|| UnpackError::Path(shown.clone()))?;
        let full = self.dir.join(&relative);
        match kind {
            EntryType::Directory => self.directory(&full),
            EntryType::Regular if relative.as_os_str().is_empty() => Err(UnpackError::Path(shown)),
            EntryType::Regular => {
                if let Some(parent) = full.parent() {
                    self.directory(parent)?;
                }
                self.file(&full, &mut entry)
            }
            kind => Err(UnpackError::Kind { path: shown, kind }),
        }
    }

    fn directory(&mut self, path: &Path) -> Result<(), UnpackError> {
        if self.directories.contains(path) {
            return Ok(());
        }
        self.disk.create_dir_all(path).map_err(|source| UnpackError::Write { path: path.to_path_buf(), source })?;
        self.directories.extend(path.ancestors().take_while(|p| p.starts_with(self.dir)).map(Path::to_path_buf));
        Ok(())
    }

    fn file(&mut self, path: &Path, content: &mut impl Read) -> Result<(), UnpackError> {
        let write = |source| UnpackError::Write { path: path.to_path_buf(), source };
        let file = self.disk.open(path, OpenMode::CreateNew).map_err(write)?;
        self.files.push(path.to_path_buf());
        let mut piece = Vec::new();
        let mut at = 0;
        loop {
            piece.clear();
            content.by_ref().take(PIECE as u64).read_to_end(&mut piece).map_err(UnpackError::Tar)?;
            if piece.is_empty() {
                break;
            }
            file.write_at(at, &piece).map_err(write)?;
            at += piece.len() as u64;
        }
        self.bytes += at;
        Ok(())
    }

    /// Files first, then the names in their directories, then the target's own name.
    fn sync(&self) -> Result<(), UnpackError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| UnpackError::Write { path, source }
        };
        for path in &self.files {
            let file: DiskFile = self.disk.open(path, OpenMode::ReadWrite).map_err(failed(path))?;
            file.sync_data().map_err(failed(path))?;
        }
        for path in &self.directories {
            self.disk.sync_dir(path).map_err(failed(path))?;
        }
        match self.dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.disk.sync_dir(parent).map_err(failed(parent)),
            _ => Ok(()),
        }
    }
}

/// The path without `.` components; `None` if it leads out of the target or is not UTF-8.
fn relative(path: &Path) -> Option<PathBuf> {
    path.to_str()?;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io_abstraction::disk::read_file;
    use crate::io_abstraction::real;

    /// A tar of (name, type, content); names are written as they are.
    fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn run(dir: &Path, tar: &[u8]) -> Result<Unpacked, UnpackError> {
        let disk = real::file_system();
        prepare(&*disk, dir)?;
        unpack(&*disk, dir, tar, true)
    }

    #[test]
    fn files_and_directories_come_out() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let big = vec![7; 3 * PIECE + 5];
        let tar = archive(&[
            ("base", EntryType::Directory, b""),
            ("./base/1/2", EntryType::Regular, &big),
            ("PG_VERSION", EntryType::Regular, b"15\n"),
        ]);
        assert_eq!(run(&dir, &tar).unwrap(), Unpacked { files: 2, bytes: big.len() as u64 + 3 });
        let disk = real::file_system();
        assert_eq!(read_file(&*disk, &dir.join("base/1/2")).unwrap(), big);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir.join("PG_VERSION")), mode(&dir.join("base/1")), mode(&dir)), (0o600, 0o700, 0o700));
        let error = run(&dir, &tar).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
        discard(&*disk, &dir, false).unwrap();
        assert!(disk.list(&dir).unwrap().is_empty());
        discard(&*disk, &dir, true).unwrap();
        assert!(disk.list(&dir).is_err());
    }

    #[test]
    fn nothing_leaves_the_target() {
        for (name, kind) in [
            ("../evil", EntryType::Regular),
            ("base/../../evil", EntryType::Regular),
            ("/evil", EntryType::Regular),
            (".", EntryType::Regular),
            ("pg_tblspc/1", EntryType::Symlink),
            ("hard", EntryType::Link),
            ("device", EntryType::Block),
            ("fifo", EntryType::Fifo),
        ] {
            let root = tempfile::tempdir().unwrap();
            let error = run(&root.path().join("data"), &archive(&[(name, kind, b"")])).unwrap_err();
            assert!(matches!(error, UnpackError::Path(_) | UnpackError::Kind { .. }), "{name}: {error}");
            assert_eq!(real::file_system().list(root.path()).unwrap().len(), 1, "{name}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let good = archive(&[("PG_VERSION", EntryType::Regular, b"15\n"), ("other", EntryType::Regular, &[1; 2000])]);
        for (what, tar) in [
            ("cut inside a file", good[..2000].to_vec()),
            ("cut inside a header", good[..100].to_vec()),
            ("a byte of a header", {
                let mut bytes = good.clone();
                bytes[3] ^= 1;
                bytes
            }),
        ] {
            let root = tempfile::tempdir().unwrap();
            let error = run(&root.path().join("data"), &tar).unwrap_err();
            assert!(matches!(error, UnpackError::Tar(_)), "{what}: {error}");
        }
        let twice = archive(&[("a", EntryType::Regular, b"1"), ("a", EntryType::Regular, b"2")]);
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(run(&root.path().join("data"), &twice), Err(UnpackError::Write { .. })));
    }
}
