//! Places outside the data directory that a server's user can reach, and copies of trees.

use crate::io_abstraction::disk::{Disk, FileOps as _, OpenMode, TEMPORARY_SUFFIX};
use crate::io_abstraction::{Env, rng};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

/// A new directory for passing use, in `TMPDIR` or `/tmp`, that other users may pass through.
pub async fn scratch_directory(env: &Env, name: &str) -> io::Result<PathBuf> {
    let parent = env.process.variable("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let mut numbers = env.rng.child("scratch").stream(&env.clock.mono().0.to_string());
    let path = parent.join(format!("palimpsest-{name}-{:016x}", rng::below(&mut numbers, u64::MAX)));
    env.disk.create_dir_all(&path)?;
    super::run_tool(env, "chmod", ["0711".to_string(), path.display().to_string()]).await?;
    Ok(path)
}

/// Copies a directory tree of plain files: complete and durable under its name, or absent.
pub fn copy_tree(disk: &dyn Disk, source: &Path, target: &Path) -> io::Result<()> {
    let parent = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(TEMPORARY_SUFFIX);
    let temporary = PathBuf::from(temporary);
    disk.remove_dir_all(&temporary)?;
    copy_directory(disk, source, &temporary)?;
    disk.rename(&temporary, target)?;
    disk.sync_dir(parent)
}

fn copy_directory(disk: &dyn Disk, source: &Path, target: &Path) -> io::Result<()> {
    disk.create_dir_all(target)?;
    let mut buffer = vec![0; COPY_BYTES];
    for entry in disk.list(source)? {
        let (from, to) = (source.join(&entry.name), target.join(&entry.name));
        if entry.is_dir {
            copy_directory(disk, &from, &to)?;
            continue;
        }
        let (input, output) = (disk.open(&from, OpenMode::Read)?, disk.open(&to, OpenMode::CreateNew)?);
        let mut at = 0;
        loop {
            let read = input.read_at(at, &mut buffer)?;
            if read == 0 {
                break;
            }
            output.write_at(at, &buffer[..read])?;
            at += read as u64;
        }
        output.sync_data()?;
    }
    disk.sync_dir(target)
}
