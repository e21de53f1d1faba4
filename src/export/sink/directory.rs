//! An export into a directory of the local disk: everything is synced when it is complete.

use super::Sink;
use crate::io_abstraction::Env;
use crate::io_abstraction::disk::{DiskFile, FileOps as _, OpenMode};
use async_trait::async_trait;
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};

pub struct DirectorySink {
    env: Env,
    root: PathBuf,
    /// What was made, each after its parent.
    directories: Vec<PathBuf>,
    /// The root and the targets of links: path, and whether it was there before, empty.
    roots: Vec<(PathBuf, bool)>,
    file: Option<(DiskFile, u64)>,
}

impl DirectorySink {
    /// Makes the directory; it may be there if it is empty.
    pub async fn create(env: &Env, root: &Path) -> io::Result<DirectorySink> {
        let existed = make_empty(env, root).await?;
        Ok(DirectorySink {
            env: env.clone(),
            root: root.to_path_buf(),
            directories: Vec::new(),
            roots: vec![(root.to_path_buf(), existed)],
            file: None,
        })
    }

    /// Removes what was written, after an error.
    pub async fn discard(self) -> io::Result<()> {
        let disk = self.env.disk.clone();
        let work = move || {
            for (directory, existed) in &self.roots {
                disk.remove_dir_all(directory)?;
                if *existed {
                    disk.create_dir_all(directory)?;
                }
            }
            Ok(())
        };
        self.env.tasks.blocking("export-discard", work).await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        self.env.tasks.blocking("export-write", work).await
    }
}

/// Makes an empty directory; true if it was there.
async fn make_empty(env: &Env, path: &Path) -> io::Result<bool> {
    let (disk, path) = (env.disk.clone(), path.to_path_buf());
    let work = move || match disk.list(&path) {
        Ok(entries) if entries.is_empty() => Ok(true),
        Ok(_) => {
            let why = format!("{} is not empty: choose another directory", path.display());
            Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create_dir_all(&path).map(|()| false),
        Err(error) => Err(error),
    };
    env.tasks.blocking("export-directory", work).await
}

#[async_trait]
impl Sink for DirectorySink {
    async fn begin(&mut self, _time: i64) -> io::Result<()> {
        Ok(())
    }

    async fn directory(&mut self, path: &str) -> io::Result<()> {
        let (disk, path) = (self.env.disk.clone(), self.root.join(path));
        self.directories.push(path.clone());
        self.blocking(move || disk.create_dir_all(&path)).await
    }

    async fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let target = PathBuf::from(target);
        if !target.is_absolute() {
            let why = format!("{} is not an absolute path, which the directory of a tablespace must be", target.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let existed = make_empty(&self.env, &target).await?;
        self.roots.push((target.clone(), existed));
        let (disk, link) = (self.env.disk.clone(), self.root.join(path));
        self.blocking(move || disk.create_link(&target, &link)).await
    }

    async fn file(&mut self, path: &str, _len: u64) -> io::Result<()> {
        let (disk, path) = (self.env.disk.clone(), self.root.join(path));
        let file = self.blocking(move || disk.open(&path, OpenMode::CreateNew)).await?;
        self.file = Some((file, 0));
        Ok(())
    }

    async fn data(&mut self, bytes: Bytes) -> io::Result<()> {
        let Some((file, at)) = self.file.clone() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let len = bytes.len() as u64;
        self.blocking(move || file.write_at(at, &bytes)).await?;
        self.file = self.file.take().map(|(file, at)| (file, at + len));
        Ok(())
    }

    async fn file_end(&mut self) -> io::Result<()> {
        let Some((file, _)) = self.file.take() else { return Ok(()) };
        self.blocking(move || file.sync_data()).await
    }

    /// Makes the names durable, from the leaves up.
    async fn finish(&mut self) -> io::Result<()> {
        let disk = self.env.disk.clone();
        let mut all: Vec<PathBuf> = self.directories.iter().rev().cloned().collect();
        all.extend(self.roots.iter().map(|(path, _)| path.clone()));
        all.extend(self.root.parent().filter(|parent| !parent.as_os_str().is_empty()).map(Path::to_path_buf));
        self.blocking(move || all.iter().try_for_each(|directory| disk.sync_dir(directory))).await
    }
}
